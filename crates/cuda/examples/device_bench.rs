//! How fast kernels are on a real device: what `scripts/gpu-check` runs where a GPU is, beside the same cases in other libraries.
//!
//! ```text
//! device_bench --cases benches/gpu/cases.txt --json FILE
//! ```
//!
//! A line of JSON for each number. Times of the device are between two events of the driver, the median of `--reps` after
//! some that do not count; operands of large cases have `--bytes`, far above any cache; outputs are poison before. The rate
//! of a copy on the device is measured before and after: the ceiling. `--only` names cases, `--small` those that are timed on
//! small arrays, too, of `--sizes` elements; `--parts` is any of `large,small,transfers,compile`; `--seconds` ends it.
#![allow(dead_code, reason = "a test includes this file and calls `run`")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/options.rs"]
mod options;
#[path = "common/record.rs"]
mod record;
#[path = "common/resident.rs"]
mod resident;

use cases::{Bound, Case};
use numfuse_core::dtype::DType;
use numfuse_cuda::driver::{Event, Memory, Pinned, Stream};
use numfuse_cuda::{Backend, Cache, Device, Error};
use options::Options;
use record::Record;
use resident::Resident;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The names that a command line may have.
const NAMES: &[&str] = &["cases", "only", "small", "sizes", "bytes", "reps", "parts", "seconds", "json"];
/// Calls that do not count: the first ones find cold caches and clocks that are still rising.
const WARM_UP: usize = 3;
/// Random bytes that are repeated until an operand is full; more than any cache holds.
const TILE: usize = 64 << 20;
/// Calls in a row, of which the host's time is taken.
const CALLS: usize = 200;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("device_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what a command line says.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<(), String> {
    let options = Options::read(arguments, NAMES)?;
    let file = options.get("cases").ok_or("give me --cases FILE")?;
    let cases = cases::read(Path::new(file))?;
    let only: Vec<String> = options.list("only", "")?;
    let bench = Bench::new(&options).map_err(|e| e.to_string())?;
    let parts: Vec<String> = options.list("parts", "large,small,transfers,compile")?;
    for part in parts {
        let chosen = |case: &&Case| only.is_empty() || only.contains(&case.name);
        match part.as_str() {
            "large" => {
                bench.copy("before")?;
                cases.iter().filter(chosen).try_for_each(|case| bench.large(case))?;
                bench.copy("after")?;
            }
            "small" => {
                let small: Vec<String> = options.list("small", "fma,sum,softmax")?;
                for case in cases.iter().filter(chosen).filter(|case| small.contains(&case.name)) {
                    for n in options.list("sizes", "1000,10000,100000,1000000,10000000")? {
                        bench.small(case, n)?;
                    }
                }
            }
            "transfers" => bench.transfers()?,
            "compile" => cases.iter().filter(chosen).take(3).try_for_each(|case| bench.compile(case))?,
            other => return Err(format!("--parts: `{other}` is none")),
        }
    }
    Ok(())
}

/// What all measurements share.
struct Bench {
    backend: Backend,
    json: Option<PathBuf>,
    /// Bytes of the widest operand of a large case.
    bytes: usize,
    reps: usize,
    end: Instant,
}

impl Bench {
    fn new(options: &Options) -> Result<Bench, String> {
        let device = Device::open(0).map_err(|e| e.to_string())?;
        let wanted: usize = options.parse("bytes", 1 << 30)?;
        // Six operands and what a plan keeps between its steps.
        let free = device.memory_free().map_err(|e| e.to_string())? as usize;
        let bytes = wanted.min(free / 8);
        let seconds = Duration::from_secs_f64(options.parse("seconds", 1e6)?);
        let backend = Backend::new(device, Cache::from_environment(), Default::default()).map_err(|e| e.to_string())?;
        let json = options.get("json").map(PathBuf::from);
        Ok(Bench { backend, json, bytes, reps: options.parse("reps", 15)?, end: Instant::now() + seconds })
    }

    fn stream(&self) -> &Stream {
        self.backend.stream()
    }

    /// True if there is no time left, which is written.
    fn is_late(&self, what: &str) -> Result<bool, String> {
        let late = Instant::now() >= self.end;
        if late {
            Record::new("skipped").text("what", what).text("why", "out of time").write(self.json.as_deref())?;
        }
        Ok(late)
    }

    /// A case of operands far above the caches.
    fn large(&self, case: &Case) -> Result<(), String> {
        let elements = (self.bytes / case.widest()) as u64;
        let wrong = |e: Error| format!("case {}: {e}", case.name);
        if self.is_late(&case.name)? {
            return Ok(());
        }
        let bound = case.bind(elements)?;
        let resident = self.resident(case, &bound).map_err(wrong)?;
        let ms = self.times(|| resident.run()).map_err(wrong)?;
        if !resident.wrote().map_err(wrong)? {
            return Err(format!("case {}: an output is as it was before", case.name));
        }
        Record::new("large")
            .text("case", &case.name)
            .text("lib", "numfuse")
            .number("bytes", bound.traffic() as f64)
            .number("elements", elements as f64)
            .count("launches", resident.launches())
            .number("ms", median(&ms))
            .number("least_ms", ms[0])
            .number("gbs", rate(bound.traffic(), median(&ms)))
            .write(self.json.as_deref())
    }

    /// A case of few elements: the host's time of a call, and the time of a call with the device's part.
    fn small(&self, case: &Case, elements: u64) -> Result<(), String> {
        let wrong = |e: Error| format!("case {}: {e}", case.name);
        if self.is_late(&format!("{} of {elements}", case.name))? {
            return Ok(());
        }
        let bound = case.bind(elements)?;
        let resident = self.resident(case, &bound).map_err(wrong)?;
        let ms = self.times(|| resident.run()).map_err(wrong)?;
        let (mut host, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..self.reps {
            let start = Instant::now();
            (0..CALLS).try_for_each(|_| resident.run()).map_err(wrong)?;
            host.push(start.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
            self.stream().synchronize().map_err(wrong)?;
            whole.push(start.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
        }
        host.sort_by(f64::total_cmp);
        whole.sort_by(f64::total_cmp);
        Record::new("small")
            .text("case", &case.name)
            .text("lib", "numfuse")
            .number("elements", elements as f64)
            .count("launches", resident.launches())
            .number("host_us", median(&host))
            .number("call_us", median(&whole))
            .number("device_us", median(&ms) * 1e3)
            .write(self.json.as_deref())
    }

    /// The ceiling: a copy on the device.
    fn copy(&self, when: &str) -> Result<(), String> {
        let measure = || {
            let stream = self.stream();
            let (from, to) = (stream.allocate(self.bytes)?, stream.allocate(self.bytes)?);
            self.fill(&from, DType::F32, 0)?;
            self.times(|| stream.copy(&to, 0, &from, 0..self.bytes))
        };
        let ms = measure().map_err(|e| format!("a copy: {e}"))?;
        Record::new("ceiling")
            .text("when", when)
            .number("bytes", 2.0 * self.bytes as f64)
            .number("ms", median(&ms))
            .number("gbs", rate(2 * self.bytes, median(&ms)))
            .write(self.json.as_deref())
    }

    /// Copies between the host and the device, pinned and not.
    fn transfers(&self) -> Result<(), String> {
        let bytes = self.bytes.min(256 << 20);
        let measure = || {
            let stream = self.stream();
            let there = stream.allocate(bytes)?;
            let mut pinned = Pinned::new(self.backend.device(), bytes)?;
            let mut pageable = vec![1u8; bytes];
            Ok::<_, Error>([
                ("up, pinned", self.times(|| stream.upload_pinned(&there, 0, &mut pinned, 0..bytes))?),
                ("down, pinned", self.times(|| stream.download_pinned(&there, 0..bytes, &mut pinned, 0))?),
                ("up, pageable", self.times(|| stream.upload(&there, 0, &pageable))?),
                ("down, pageable", self.times(|| stream.download(&there, 0, &mut pageable))?),
            ])
        };
        for (what, ms) in measure().map_err(|e| format!("transfers: {e}"))? {
            Record::new("transfer")
                .text("what", what)
                .number("bytes", bytes as f64)
                .number("ms", median(&ms))
                .number("gbs", rate(bytes, median(&ms)))
                .write(self.json.as_deref())?;
        }
        Ok(())
    }

    /// From a kernel to its loaded functions: with nothing on disk, and with everything.
    fn compile(&self, case: &Case) -> Result<(), String> {
        let bound = case.bind(1 << 20)?;
        let folder = std::env::temp_dir().join(format!("numfuse-gpu-check-{}", std::process::id()));
        let load = |cache: Cache| {
            let backend = Backend::new(self.backend.device().clone(), cache, Default::default())?;
            let start = Instant::now();
            for step in &bound.steps {
                let addresses = vec![1 << 20; step.buffers.len()];
                backend.prepare(&step.kernel, &step.launch, &addresses)?;
            }
            Ok::<f64, Error>(start.elapsed().as_secs_f64() * 1e3)
        };
        let at_folder = || Cache::at(&folder, 1 << 30);
        let measured = || Ok::<_, Error>((load(at_folder())?, load(at_folder())?, load(at_folder())?));
        let result = measured().map_err(|e| format!("case {}: {e}", case.name));
        // It was made for this.
        let _ = std::fs::remove_dir_all(&folder);
        let (cold, first, second) = result?;
        Record::new("compile")
            .text("case", &case.name)
            .count("kernels", bound.steps.len())
            .number("cold_ms", cold)
            .number("disk_ms", first.min(second))
            .write(self.json.as_deref())
    }

    /// A case in memory, its inputs random.
    fn resident(&self, case: &Case, bound: &Bound) -> Result<Resident<'_>, Error> {
        let dtypes = case.dtypes();
        Resident::new(&self.backend, bound, |n, memory| self.fill(memory, dtypes[n], n as u64))
    }

    /// Fills memory with random numbers, floats from -1 to 1: one tile of them, again and again.
    fn fill(&self, memory: &Memory, dtype: DType, seed: u64) -> Result<(), Error> {
        let mut state = seed;
        let mut next = || {
            // Knuth's multiplier; the high bits are good enough for operands.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        let len = memory.len().min(TILE);
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            match dtype {
                DType::F32 => bytes.extend((next() as f32).to_le_bytes()),
                DType::F64 => bytes.extend(next().to_le_bytes()),
                _ => bytes.push((next() * 100.0) as i8 as u8),
            }
        }
        let stream = self.stream();
        stream.upload(memory, 0, &bytes[..len])?;
        let mut have = len;
        while have < memory.len() {
            let more = have.min(memory.len() - have);
            // Of one piece of memory a part to another part of it: the ranges do not meet.
            stream.copy(memory, have, memory, 0..more)?;
            have += more;
        }
        stream.synchronize()
    }

    /// The device's milliseconds for some work, sorted.
    fn times(&self, mut work: impl FnMut() -> Result<(), Error>) -> Result<Vec<f64>, Error> {
        let device = self.backend.device();
        (0..WARM_UP).try_for_each(|_| work())?;
        self.stream().synchronize()?;
        let mut times = Vec::new();
        for _ in 0..self.reps.max(1) {
            let (start, end) = (Event::new(device)?, Event::new(device)?);
            start.record(self.stream())?;
            work()?;
            end.record(self.stream())?;
            times.push(f64::from(start.elapsed_ms(&end)?));
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}

/// The one in the middle of sorted numbers.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Gigabytes a second.
fn rate(bytes: usize, ms: f64) -> f64 {
    bytes as f64 / ms / 1e6
}
