//! Kernels on a real device, held against the interpreter bit for bit: what `scripts/gpu-check` runs where a GPU is.
//!
//! ```text
//! device_check smoke                        what device, driver and compiler there are, and one kernel on it
//! device_check check KIND                   samples of a kind on the device
//! device_check prefill KIND --arch 8.0,9.0  compiles the texts of the samples into the cache; takes no device
//! ```
//!
//! Kinds: `rows` and `columns` (random kernels on random launches), `shapes` (the kernels that most evaluations consist
//! of), `graphs` (random graphs, planned and fused), `cases` (those of the benchmark), and, for `check` alone, `huge` (arrays
//! of `--bytes` each, by default more than 32 bits count). `--first` and `--count` choose
//! samples, `--seconds` ends a check that takes longer, `--elements` bounds `shapes` and `cases`, `--cases` is the file of
//! cases, `--threads` compile. `prefill` takes `bench`, too: what `device_bench` needs for operands of `--bytes`.
//! `--json FILE` gets what was found, a line for each kind. The cache is
//! `$NUMFUSE_CUDA_CACHE`. The exit status is 1 if anything differs or fails.
#![allow(dead_code, reason = "a test includes this file and calls `run`")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/host.rs"]
mod host;
#[path = "common/huge.rs"]
mod huge;
#[path = "../../cpu/tests/common/kernels.rs"]
mod kernels;
#[path = "common/options.rs"]
mod options;
#[path = "../../../tests/support/random_call.rs"]
mod random_call;
#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;
#[path = "common/record.rs"]
mod record;
#[path = "../../../tests/support/run_plan.rs"]
mod run_plan;
#[path = "../tests/common/shapes.rs"]
mod shapes;
#[path = "common/texts.rs"]
mod texts;

use kernels::{Block, Case, Rng, put, random_aligned_case, random_bits};
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::Role;
use numfuse_core::plan::{Plan, Work};
use numfuse_cuda::nvrtc::Arch;
use numfuse_cuda::{Backend, Cache, Compiler, Device, Driver, Error};
use options::Options;
use record::Record;
use run_plan::{Placed, run_plan, same};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use texts::Texts;

/// The names that a command line may have.
const NAMES: &[&str] = &["first", "count", "seconds", "elements", "cases", "threads", "json", "arch", "bytes"];
/// After so many differences there is nothing more to learn.
const MOST_FAILURES: usize = 10;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("device_check: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what a command line says.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<(), String> {
    let options = Options::read(arguments, NAMES)?;
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    match words[..] {
        ["smoke"] => smoke(&options),
        ["check", "huge"] => check_huge(&options),
        ["check", kind] => check(kind, &options),
        ["prefill", kind] => prefill(kind, &options),
        _ => Err("give me `smoke`, `check KIND` or `prefill KIND`".into()),
    }
}

/// Something to run on a device.
struct Sample {
    name: String,
    work: Sampled,
}

enum Sampled {
    /// A kernel on memory that anything may lie in.
    Kernel(Case),
    /// A plan on row-major inputs.
    Plan { plan: Plan, symbols: Vec<u64>, inputs: Vec<Placed> },
}

impl Sample {
    /// Collects the texts of its kernels.
    fn texts(&self, texts: &mut Texts) -> Result<(), Error> {
        match &self.work {
            Sampled::Kernel(case) => {
                let offsets: Vec<isize> = case.memory.iter().map(|block| block.offset as isize).collect();
                texts.add(&case.kernel, &case.launch, &offsets)
            }
            Sampled::Plan { plan, symbols, inputs } => {
                let mut result = Ok(());
                run_plan(plan, symbols, inputs, |kernel, launch, operands, _| {
                    let offsets: Vec<isize> = operands.iter().map(|operand| operand.offset as isize).collect();
                    // No text depends on what is in memory.
                    result = result.clone().and_then(|()| texts.add(kernel, launch, &offsets));
                });
                result
            }
        }
    }

    /// What differs on a device, if anything does.
    fn compare(&self, backend: &Backend) -> Result<Option<String>, Error> {
        match &self.work {
            Sampled::Kernel(case) => {
                let got = on_device(case, backend)?;
                let shown = || format!("{}\n{:?}\n{:?}", case.kernel, case.launch, case.params);
                Ok(case.compare(&case.interpret(), &got).err().map(|e| format!("{e}\n{}", shown())))
            }
            Sampled::Plan { plan, symbols, inputs } => {
                let want = run_plan(plan, symbols, inputs, interp::run);
                let mut result = Ok(());
                let got = run_plan(plan, symbols, inputs, |kernel, launch, operands, params| {
                    if result.is_ok() {
                        result = host::run(backend, kernel, launch, operands, params);
                    }
                });
                result?;
                let differs = (0..want.len()).find(|n| !same(&want[*n], &got[*n]));
                Ok(differs.map(|n| {
                    let works: String = plan.steps.iter().map(|step| format!("{}\n", step.work)).collect();
                    format!("output {n} of\n{}\nsizes {symbols:?}\n{works}", plan.graph)
                }))
            }
        }
    }
}

/// What a device leaves in the memory of a case.
fn on_device(case: &Case, backend: &Backend) -> Result<Vec<Block>, Error> {
    let mut after = case.memory.clone();
    let mut memory: Vec<Memory<'_>> = after
        .iter_mut()
        .zip(&case.kernel.operands)
        .map(|(block, operand)| Memory {
            offset: block.offset,
            bytes: match operand.role {
                Role::In => Bytes::In(&block.bytes),
                Role::Out => Bytes::Out(&mut block.bytes),
            },
        })
        .collect();
    host::run(backend, &case.kernel, &case.launch, &mut memory, &case.params)?;
    drop(memory);
    Ok(after)
}

/// The samples of a kind.
fn samples(kind: &str, options: &Options) -> Result<Box<dyn Iterator<Item = Sample>>, String> {
    let first: u64 = options.parse("first", 0)?;
    let seeds = |count: u64| Ok::<_, String>(first..first + options.parse("count", count)?);
    let elements: u64 = options.parse("elements", 1 << 20)?;
    Ok(match kind {
        "rows" | "columns" => {
            let columns = kind == "columns";
            Box::new(seeds(1000)?.map(move |seed| {
                let mut rng = Rng::of_seed(seed, columns);
                let bytes = rng.pick(&[1, 16]);
                let case = random_aligned_case(&mut rng, columns, bytes);
                let name = if columns { "columns" } else { "rows" };
                Sample { name: format!("{name} seed {seed}"), work: Sampled::Kernel(case) }
            }))
        }
        "graphs" => Box::new(seeds(300)?.filter_map(|seed| {
            let call = random_call::random_call(seed, 14)?;
            let plan = random_call::planned(&call.graph, true, true);
            let work = Sampled::Plan { plan, symbols: call.symbols, inputs: call.packed };
            Some(Sample { name: format!("graph {seed}"), work })
        })),
        "shapes" => Box::new(shape_samples(elements as usize).into_iter()),
        "cases" => {
            let file = options.get("cases").ok_or("the cases need --cases FILE")?;
            let mut found = Vec::new();
            for case in cases::read(Path::new(file))? {
                for n in [1, 1000, elements] {
                    let bound = case.bind(n)?;
                    if bound.plan.steps.iter().any(|step| !matches!(step.work, Work::Kernel(_))) {
                        return Err(format!("case {}: products of matrices are no kernels", case.name));
                    }
                    let inputs = random_inputs(&bound);
                    let work = Sampled::Plan { plan: bound.plan, symbols: bound.symbols, inputs };
                    found.push(Sample { name: format!("{} of {n}", case.name), work });
                }
            }
            Box::new(found.into_iter())
        }
        _ => return Err(format!("`{kind}` is no kind: rows, columns, shapes, graphs, cases")),
    })
}

/// The usual kernels on sizes that are just above and below what one thread, one block and one launch take.
fn shape_samples(elements: usize) -> Vec<Sample> {
    let mut found = Vec::new();
    for (n, large) in shapes::shapes().into_iter().enumerate() {
        let launch = &large.launch;
        let (rows, reduced, inner) = (launch.rows(), launch.reduced_len(), launch.inner_len());
        let sizes = if launch.reduced.is_empty() {
            let long = if rows == 1 { elements + 3 } else { inner };
            let rows = (elements / long).clamp(1, rows);
            vec![[1, 0, 1], [rows.min(3), 0, 255], [rows.min(70), 0, 1025], [rows, 0, long]]
        } else {
            let side = elements.isqrt();
            vec![[1, 3, 1], [1, 1025.min(reduced), 37], [1, side.min(reduced), side.min(inner)], [1, 129, 1024]]
        };
        for (turn, sizes) in sizes.into_iter().enumerate() {
            let mut rng = Rng((n * 10 + turn) as u64);
            let shape = shapes::shape(large.name, large.kernel.clone(), sizes);
            let memory = shape.kernel.operands.iter().map(|operand| {
                let size = operand.dtype.size();
                let count: usize = sizes.iter().map(|n| (*n).max(1)).product();
                let mut bytes = vec![0xa5; count * size];
                for element in bytes.chunks_mut(size).filter(|_| operand.role == Role::In) {
                    put(element, 0, operand.dtype, random_bits(&mut rng, operand.dtype));
                }
                Block { bytes, offset: 0 }
            });
            let memory = memory.collect();
            let case = Case { memory, kernel: shape.kernel, launch: shape.launch, params: vec![] };
            found.push(Sample { name: format!("{} {sizes:?}", shape.name), work: Sampled::Kernel(case) });
        }
    }
    found
}

/// Row-major inputs of a case.
fn random_inputs(bound: &cases::Bound) -> Vec<Placed> {
    let mut rng = Rng(bound.symbols.iter().sum());
    let graph = &bound.plan.graph;
    let inputs = graph.inputs().iter().zip(&bound.inputs).map(|(input, place)| {
        let dtype = graph.node(input.node).dtype;
        let mut bytes = vec![0; place.count() as usize * dtype.size()];
        for element in bytes.chunks_mut(dtype.size()) {
            put(element, 0, dtype, random_bits(&mut rng, dtype));
        }
        Placed { bytes, offset: 0, place: place.clone() }
    });
    inputs.collect()
}

/// What there is, and whether one kernel runs on it.
fn smoke(options: &Options) -> Result<(), String> {
    let driver = Driver::load().map_err(|e| e.to_string())?;
    let device = Device::open(0).map_err(|e| e.to_string())?;
    let (major, minor) = device.arch();
    let (of_driver, after) = driver.version();
    let compiler = Compiler::load().map_or_else(|e| e.to_string(), |c| c.version().to_string());
    let cache = Cache::from_environment();
    let folder = cache.folder().map_or_else(|| "none".into(), |folder| folder.display().to_string());
    let backend = Backend::new(device.clone(), cache, Default::default()).map_err(|e| e.to_string())?;
    let shape = shapes::shapes().swap_remove(0);
    let shape = shapes::shape(shape.name, shape.kernel, [1, 0, 100_003]);
    let bytes = [1.5f32, -2.0, 1e-40, 0.1].map(f32::to_ne_bytes).concat().repeat(25_001);
    let block = Block { bytes: bytes[..4 * 100_003].to_vec(), offset: 0 };
    let case = Case { kernel: shape.kernel, launch: shape.launch, memory: vec![block; 3], params: vec![] };
    let sample = Sample { name: "smoke".into(), work: Sampled::Kernel(case) };
    let difference = sample.compare(&backend).map_err(|e| e.to_string())?;
    Record::new("smoke")
        .text("device", device.name())
        .text("arch", &Arch { major, minor }.to_string())
        .text("driver", &format!("{of_driver}.{after}"))
        .text("nvrtc", &compiler)
        .text("cache", &folder)
        .count("multiprocessors", device.multiprocessors() as usize)
        .number("memory", device.memory_total() as f64)
        .number("free", device.memory_free().map_err(|e| e.to_string())? as f64)
        .text("result", if difference.is_none() { "equal" } else { "different" })
        .write(options.get("json").map(Path::new))?;
    difference.map_or(Ok(()), Err)
}

/// Holds the samples of a kind on the device against the interpreter.
fn check(kind: &str, options: &Options) -> Result<(), String> {
    let json = options.get("json").map(PathBuf::from);
    let limit = Duration::from_secs_f64(options.parse("seconds", 1e6)?);
    let device = Device::open(0).map_err(|e| e.to_string())?;
    let (major, minor) = device.arch();
    let cache = Cache::from_environment();
    let start = Instant::now();
    let mut texts = Texts::default();
    if cache.folder().is_some() {
        for sample in samples(kind, options)? {
            sample.texts(&mut texts).map_err(|e| format!("{}: {e}", sample.name))?;
        }
        // Whatever is wrong with it shows below, with the sample that needs it.
        let _ = texts.compile(&cache, Arch { major, minor }, threads(options)?);
    }
    let compiled = start.elapsed();
    let backend = Backend::new(device, cache, Default::default()).map_err(|e| e.to_string())?;
    let (mut done, mut failures, mut broken, mut in_time) = (0, Vec::new(), None, true);
    for sample in samples(kind, options)? {
        in_time = start.elapsed() < limit;
        if !in_time || failures.len() >= MOST_FAILURES {
            break;
        }
        done += 1;
        match sample.compare(&backend) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                eprintln!("DIFFERENT: {}: {difference}", sample.name);
                failures.push(sample.name);
            }
            Err(error) => {
                eprintln!("FAILED: {}: {error}", sample.name);
                // What fails once on a device fails from then on.
                let lost = matches!(error, Error::Driver { .. });
                failures.push(sample.name);
                if lost {
                    broken = Some(error);
                    break;
                }
            }
        }
    }
    Record::new("check")
        .text("samples", kind)
        .count("done", done)
        .count("failed", failures.len())
        .text("failures", &failures.join(", "))
        .text("broken", &broken.map_or(String::new(), |e| e.to_string()))
        .text("ended", if in_time { "all" } else { "out of time" })
        .count("texts", texts.len())
        .number("kernels", backend.kernels_loaded() as f64)
        .number("compile_s", compiled.as_secs_f64())
        .number("seconds", start.elapsed().as_secs_f64())
        .write(json.as_deref())?;
    if failures.is_empty() { Ok(()) } else { Err(format!("{} of {done} {kind} failed", failures.len())) }
}

/// Arrays of more bytes than 32 bits count, as far as the device has the memory.
fn check_huge(options: &Options) -> Result<(), String> {
    let start = Instant::now();
    let device = Device::open(0).map_err(|e| e.to_string())?;
    let free = usize::try_from(device.memory_free().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    // Three operands, and room to spare.
    let bytes = options.parse("bytes", 5 << 30)?.min(free / 4);
    let backend = Backend::new(device, Cache::from_environment(), Default::default()).map_err(|e| e.to_string())?;
    let found = huge::differences(&backend, bytes).map_err(|e| e.to_string())?;
    Record::new("check")
        .text("samples", "huge")
        .number("bytes", bytes as f64)
        .count("done", 2)
        .count("failed", found.len())
        .text("failures", &found.join(", "))
        .text("ended", "all")
        .number("kernels", backend.kernels_loaded() as f64)
        .number("seconds", start.elapsed().as_secs_f64())
        .write(options.get("json").map(Path::new))?;
    if found.is_empty() { Ok(()) } else { Err(found.join(", ")) }
}

/// Compiles the texts of samples into the cache.
fn prefill(kind: &str, options: &Options) -> Result<(), String> {
    let cache = Cache::from_environment();
    let folder = cache.folder().ok_or("there is no cache to fill: set NUMFUSE_CUDA_CACHE")?.display().to_string();
    let mut texts = Texts::default();
    if kind == "bench" {
        bench_texts(options, &mut texts)?;
    } else {
        for sample in samples(kind, options)? {
            sample.texts(&mut texts).map_err(|e| format!("{}: {e}", sample.name))?;
        }
    }
    for arch in options.list::<String>("arch", "9.0")? {
        let numbers = arch.split_once('.').and_then(|(a, b)| Some(Arch::new(a.parse().ok()?, b.parse().ok()?)));
        let arch = numbers.ok_or_else(|| format!("--arch {arch}: give me 9.0 or the like"))?;
        let start = Instant::now();
        texts.compile(&cache, arch, threads(options)?).map_err(|e| e.to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{folder}: {} texts of {kind} for {arch} in {seconds:.1} s", texts.len());
    }
    Ok(())
}

/// The texts of `device_bench`, for these sizes of its operands in bytes.
fn bench_texts(options: &Options, texts: &mut Texts) -> Result<(), String> {
    let file = options.get("cases").ok_or("the cases need --cases FILE")?;
    for case in cases::read(Path::new(file))? {
        for bytes in options.list::<u64>("bytes", "1073741824")? {
            for step in case.bind(bytes / case.widest() as u64)?.steps {
                let added = texts.add(&step.kernel, &step.launch, &step.offsets);
                added.map_err(|e| format!("case {}: {e}", case.name))?;
            }
        }
    }
    Ok(())
}

/// How many threads compile.
fn threads(options: &Options) -> Result<usize, String> {
    options.parse("threads", std::thread::available_parallelism().map_or(1, usize::from))
}
