//! Random kernels on random launches: what the emitted text leaves in memory, run on the CPU, is what the interpreter leaves.
//! A failure prints its seed, the kernel, the launch and where the text is.

// The emulator is for this machine and system.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "../../cpu/tests/common/kernels.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod kernels;
#[path = "common/shapes.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod shapes;

use emulator::{Buffer, Build, Emulator, Job, Launch, Relocation};
use kernels::{Block, Case, Rng, put, random_aligned_case, random_bits};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Level, Nest, Reducer, Role};
use numfuse_core::launch::Layout;
use numfuse_cuda::emit::{Class, Field, Program, Schedule, Source};
use std::collections::BTreeMap;

/// A case with its program.
struct Emitted {
    what: String,
    case: Case,
    program: Program,
}

impl Emitted {
    /// A case in the class of its launch, as `change` leaves that.
    fn new(what: String, case: Case, change: impl FnOnce(&mut Class)) -> Emitted {
        let mut class =
            Class::new(&case.kernel, &case.launch, &addresses(&case)).unwrap_or_else(|e| panic!("{what}: {e}"));
        change(&mut class);
        let program = Program::new(&case.kernel, &class).unwrap_or_else(|e| panic!("{what}: {e}"));
        Emitted { what, case, program }
    }

    /// The job that runs it.
    fn job(&self, seed: u64) -> Job {
        let Case { launch, memory, params, .. } = &self.case;
        let dispatch = self.program.dispatch(launch).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let mut buffers: Vec<Buffer> =
            memory.iter().map(|block| Buffer { bytes: block.bytes.clone(), offset: 0 }).collect();
        buffers.push(Buffer { bytes: vec![0xa5; dispatch.workspace as usize], offset: 0 });
        let params: Vec<u64> = params.iter().map(|p| p.bits()).collect();
        let words = self.program.words(launch, &addresses(&self.case), &params, 0);
        let relocations: Vec<Relocation> = self
            .program
            .fields()
            .iter()
            .enumerate()
            .filter_map(|(word, field)| {
                let (buffer, offset) = match field {
                    Field::Operand(n) => (*n as usize, memory[*n as usize].offset as i64),
                    Field::Workspace => (memory.len(), 0),
                    _ => return None,
                };
                Some(Relocation { word, buffer, offset })
            })
            .collect();
        let launches = dispatch.grids.iter().map(|grid| Launch {
            text: self.what.clone(),
            grid: *grid,
            words: words.to_vec(),
            relocations: relocations.clone(),
        });
        Job { seed, buffers, launches: launches.collect() }
    }

    /// Panics unless a job has left what the interpreter leaves.
    fn compare(&self, left: &[Vec<u8>]) {
        let got: Vec<Block> = self
            .case
            .memory
            .iter()
            .zip(left)
            .map(|(block, bytes)| Block { bytes: bytes.clone(), offset: block.offset })
            .collect();
        if let Err(difference) = self.case.compare(&self.case.interpret(), &got) {
            panic!("{difference}\n{self}");
        }
    }
}

impl std::fmt::Display for Emitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { kernel, launch, params, .. } = &self.case;
        let class = self.program.class();
        writeln!(f, "{}\n{kernel}\n{launch:?}\n{params:?}\n{class:?}", self.what)?;
        let file = std::env::temp_dir().join(format!("numfuse-{}.cu", self.what.replace(' ', "-")));
        match std::fs::write(&file, &self.program.source().text) {
            Ok(()) => write!(f, "the text is in {}", file.display()),
            Err(_) => f.write_str(&self.program.source().text),
        }
    }
}

/// Where the first elements lie: buffers begin at multiples of 256.
fn addresses(case: &Case) -> Vec<u64> {
    case.memory.iter().map(|block| 256 + block.offset as u64).collect()
}

/// Runs cases on the emulator and compares.
fn check(cases: &[Emitted], build: Build) {
    let mut texts: BTreeMap<&str, &Source> = BTreeMap::new();
    for case in cases {
        texts.insert(&case.what, case.program.source());
    }
    let texts: Vec<(String, &Source)> = texts.into_iter().map(|(what, source)| (what.to_owned(), source)).collect();
    let emulator = Emulator::build(&texts, build);
    let jobs: Vec<Job> = cases.iter().enumerate().map(|(i, case)| case.job(i as u64)).collect();
    match emulator.run(&jobs) {
        Ok(results) => cases.iter().zip(results).for_each(|(case, result)| case.compare(&result.buffers)),
        Err(failure) => panic!("{}\n{}", failure.report, cases[failure.job]),
    }
}

/// The random cases of some seeds, or of `SEEDS=first..end` from the environment.
fn random(columns: bool, count: u64) -> impl Iterator<Item = (String, Case, Rng)> {
    let range = std::env::var("SEEDS").ok().and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    let name = if columns { "columns" } else { "rows" };
    range.unwrap_or(0..count).map(move |seed| {
        let mut rng = Rng::of_seed(seed, columns);
        let bytes = rng.pick(&[1, 16]);
        (format!("{name} seed {seed}"), random_aligned_case(&mut rng, columns, bytes), rng)
    })
}

#[test]
fn random_row_kernels() {
    let cases: Vec<Emitted> = random(false, 300).map(|(what, case, _)| Emitted::new(what, case, |_| {})).collect();
    check(&cases, Build::Plain);
}

#[test]
fn random_column_kernels() {
    let cases: Vec<Emitted> = random(true, 200).map(|(what, case, _)| Emitted::new(what, case, |_| {})).collect();
    check(&cases, Build::Plain);
}

/// Every class that serves a launch gives the same bits, also those that only larger launches have.
#[test]
fn random_classes() {
    let mut cases = Vec::new();
    for columns in [false, true] {
        for (what, case, mut rng) in random(columns, 150) {
            let n = case.launch.inner_len();
            let change = |class: &mut Class| {
                class.wide = rng.one_in(2);
                class.ahead = rng.one_in(2);
                class.schedule = match class.schedule {
                    Schedule::Map { vector, .. } => {
                        let flat = !case.launch.outer.is_empty() && rng.one_in(2);
                        let vector = if flat {
                            (1..=vector).rev().find(|v| n.is_multiple_of((*v).into())).unwrap_or(1)
                        } else {
                            vector
                        };
                        Schedule::Map { vector, unroll: if flat { 1 } else { rng.pick(&[1, 2, 4]) }, flat }
                    }
                    // Rows of one leaf have no second group; a staged row may have any number.
                    Schedule::Rows { threads, groups, aligned } if groups > 1 && rng.one_in(2) => {
                        Schedule::Rows { threads, groups: rng.pick(&[2, 4, 8]), aligned }
                    }
                    Schedule::Rows { aligned, .. } | Schedule::Staged { aligned, .. } if n > 0 => {
                        Schedule::Staged { aligned, leaves: rng.pick(&[16, 32]) }
                    }
                    Schedule::Columns { vector, .. } => {
                        let (across, down) = rng.pick(&[(1, 1), (1, 8), (32, 1), (32, 2), (4, 4), (16, 16)]);
                        Schedule::Columns { across, down, vector: rng.pick(&[1, vector]) }
                    }
                    schedule => schedule,
                };
            };
            let class = Emitted::new(what, case.clone(), change);
            cases.push(class);
        }
    }
    check(&cases, Build::Plain);
}

/// Operands in other orders than the results: squares through shared memory, also at their edges.
#[test]
fn transposed_operands() {
    let mut cases = Vec::new();
    for (i, sizes) in [[1, 32, 32], [3, 33, 65], [2, 64, 40], [1, 100, 31], [5, 1000, 37]].into_iter().enumerate() {
        for (dtype, padding) in [(DType::F32, 0), (DType::F64, 1), (DType::I8, 3)] {
            // out = x + y * x where y is transposed, and the rows of x are shared.
            let kernel = shapes::map(dtype, 2, |b, v| {
                let product = b.mul(v[1], v[0]);
                b.add(v[0], product)
            });
            let size = dtype.size();
            let [outer, rows, n] = sizes;
            let line = (rows + padding) * size;
            let strides = [[0, n * size, size], [n * line, size, line], [rows * n * size, n * size, size]];
            let layouts = strides.map(|[a, b, c]| Layout {
                outer: [a as isize, b as isize].into_iter().collect(),
                reduced: Default::default(),
                inner: [c as isize].into_iter().collect(),
            });
            let launch = numfuse_core::launch::Launch {
                outer: [outer, rows].into_iter().collect(),
                reduced: Default::default(),
                inner: [n].into_iter().collect(),
                layouts: layouts.into_iter().collect(),
            };
            let mut rng = Rng(i as u64);
            let memory = [rows * n * size, outer * n * line, outer * rows * n * size].map(|bytes| {
                let mut bytes = vec![0; bytes];
                for element in bytes.chunks_mut(size) {
                    put(element, 0, dtype, random_bits(&mut rng, dtype));
                }
                Block { bytes, offset: 0 }
            });
            let mut case = Case { memory: memory.to_vec(), kernel, launch, params: vec![] };
            case.prepare();
            let case = Emitted::new(format!("{dtype} {sizes:?}"), case, |_| {});
            let is_transposed = matches!(case.program.class().schedule, Schedule::Transposed { .. });
            assert_eq!(is_transposed, rows >= 32 && n >= 32, "{case}");
            cases.push(case);
        }
    }
    for build in Build::ALL {
        check(&cases, build);
    }
}

/// Rows that several blocks share, and columns: the tree that joins them has several levels.
#[test]
fn long_rows_and_columns() {
    let mut cases = Vec::new();
    let (rows, columns) = (Nest::Rows, Nest::Columns);
    for (i, (nest, sizes)) in [
        (rows, [1, 0, 300_037]),
        (rows, [2, 0, 65 * 1024]),
        (rows, [3, 0, 16 * 1024 * 9 - 1]),
        (columns, [1, 9000, 5]),
        (columns, [2, 1025, 130]),
    ]
    .into_iter()
    .enumerate()
    {
        for (dtype, reducer) in [
            (DType::F32, Reducer::Sum),
            (DType::F64, Reducer::Sum),
            (DType::F32, Reducer::Moments),
            (DType::I8, Reducer::Min),
        ] {
            let shape = shapes::shape("long", shapes::fold(nest, dtype, reducer), sizes);
            let mut rng = Rng(i as u64);
            let memory = shape.kernel.operands.iter().enumerate().map(|(n, operand)| {
                let count: usize = if n == 0 { sizes.iter().map(|s| (*s).max(1)).product() } else { 4096 };
                let mut bytes = vec![0xa5; count * dtype.size()];
                for element in bytes.chunks_mut(dtype.size()).filter(|_| operand.role == Role::In) {
                    put(element, 0, dtype, random_bits(&mut rng, dtype));
                }
                Block { bytes, offset: 0 }
            });
            let case = Case { memory: memory.collect(), kernel: shape.kernel, launch: shape.launch, params: vec![] };
            cases.push(Emitted::new(format!("{} of {dtype}, {sizes:?}", reducer.name()), case, |_| {}));
        }
    }
    check(&cases, Build::Plain);
}

/// No element outside of an array is touched, nothing is undefined in C's sense.
#[test]
fn random_kernels_under_the_address_sanitizer() {
    for columns in [false, true] {
        let cases: Vec<Emitted> = random(columns, 60).map(|(what, case, _)| Emitted::new(what, case, |_| {})).collect();
        check(&cases, Build::Address);
    }
}

/// No two threads use the same bytes without a barrier between them.
#[test]
fn random_kernels_under_the_race_detector() {
    for columns in [false, true] {
        // Inner dimensions of columns may have become outer ones: a row's value is then stored several times, the same bits.
        let stores_rows =
            |case: &Case| case.kernel.operands.iter().any(|o| o.role == Role::Out && o.level == Level::Row);
        let cases = random(columns, 60).filter(|(_, case, _)| !columns || !stores_rows(case));
        let cases: Vec<Emitted> = cases.map(|(what, case, _)| Emitted::new(what, case, |_| {})).collect();
        check(&cases, Build::Race);
    }
}
