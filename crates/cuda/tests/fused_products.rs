//! Products of matrices with kernels fused into them: on the emulator, in every tile, they have the bits of the product that
//! our text computes alone, between kernels that the interpreter runs; planted bugs are found; and the device's
//! compiler keeps all of it in registers.

// The emulator is for this machine and system.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/products.rs"]
mod products;
#[path = "common/toolkit.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod toolkit;

use emulator::{Buffer, Build, Emulator, Job, Launch as Run, Relocation};
use numfuse_core::dtype::DType;
use numfuse_core::graph::parse::parse;
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::Role;
use numfuse_core::literal::Literal;
use numfuse_core::pipeline;
use numfuse_core::plan::{BoundProduct, BufferKind, FusedKernel, Plan, Strided, Work};
use numfuse_cuda::emit::{Fused, Source};
use numfuse_cuda::matmul::{Classified, Product, Program, Tile};
use numfuse_cuda::nvrtc::Arch;
use products::Random;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use toolkit::{Limits, toolkit};

/// Expressions of one product as graphs, `T` for the dtype, and what is fused into `left`, `right` and `out`. The last kernel
/// is what becomes of the product.
const EXPRESSIONS: [(&str, &str, [bool; 3]); 9] = [
    (
        "maximum(a @ b + row, 0)",
        "n0 = input a: T[n, k]; n1 = input b: T[k, m]; n2 = input row: T[m]; n3 = matmul n0, n1: T[n, m]; \
         n4 = add n3, n2: T[n, m]; n5 = const 0.0: T; n6 = maximum n4, n5: T[n, m]; require product [n, k] [k, m]; return n6",
        [false, false, true],
    ),
    (
        "(a - c + 1.5) @ (b + 2.5) * column + s",
        "n0 = input a: T[n, k]; n1 = input c: T[k]; n2 = subtract n0, n1: T[n, k]; n3 = const 1.5: T; \
         n4 = add n2, n3: T[n, k]; n5 = input b: T[k, m]; n6 = const 2.5: T; n7 = add n5, n6: T[k, m]; \
         n8 = matmul n4, n7: T[n, m]; n9 = input column: T[n, 1]; n10 = multiply n8, n9: T[n, m]; n11 = input s: T[n, m]; \
         n12 = add n10, n11: T[n, m]; require product [n, k] [k, m]; return n12",
        [true, true, true],
    ),
    (
        "of another dtype: T(a) @ b, and what is stored is a bool",
        "n0 = input a: i16[n, k]; n1 = cast n0: T[n, k]; n2 = input b: T[k, m]; n3 = matmul n1, n2: T[n, m]; \
         n4 = input s: T[n, m]; n5 = less n3, n4: bool[n, m]; require product [n, k] [k, m]; return n5",
        [true, false, true],
    ),
    (
        "through views: (a + 1).T[:, ::2] @ b[::2]",
        "n0 = input a: T[k, n]; n1 = const 1.5: T; n2 = add n0, n1: T[k, n]; n3 = transpose n2 [1, 0]: T[n, k]; \
         n4 = index n3 [:, ::-1]: T[n, k]; n5 = input b: T[k, m]; n6 = matmul n4, n5: T[n, m]; n7 = negative n6: T[n, m]; \
         require product [n, k] [k, m]; return n7",
        [true, false, true],
    ),
    (
        "several results: p * t.T and p + t.T",
        "n0 = input a: T[n, k]; n1 = input b: T[k, m]; n2 = matmul n0, n1: T[n, m]; n3 = input t: T[m, n]; \
         n4 = transpose n3 [1, 0]: T[n, m]; n5 = multiply n2, n4: T[n, m]; n6 = add n2, n4: T[n, m]; \
         require product [n, k] [k, m]; return n5, n6",
        [false, false, true],
    ),
    (
        "the transpose: (a @ b).T + s",
        "n0 = input a: T[n, k]; n1 = input b: T[k, m]; n2 = matmul n0, n1: T[n, m]; n3 = transpose n2 [1, 0]: T[m, n]; \
         n4 = input s: T[m, n]; n5 = add n3, n4: T[m, n]; require product [n, k] [k, m]; return n5",
        [false, false, true],
    ),
    (
        "stacks: (a - c) @ b + s, where b and c are the same for all",
        "n0 = input a: T[p, q, n, k]; n1 = input c: T[q, 1, k]; n2 = subtract n0, n1: T[p, q, n, k]; n3 = input b: T[k, m]; \
         n4 = matmul n2, n3: T[p, q, n, m]; n5 = input s: T[q, n, m]; n6 = add n4, n5: T[p, q, n, m]; \
         require product [n, k] [k, m]; return n6",
        [true, false, true],
    ),
    (
        "one kernel for both operands: d.T @ d, where d = a - c",
        "n0 = input a: T[k, m]; n1 = input c: T[m]; n2 = subtract n0, n1: T[k, m]; n3 = transpose n2 [1, 0]: T[m, k]; \
         n4 = matmul n3, n2: T[m, m]; n5 = const 0.25: T; n6 = multiply n4, n5: T[m, m]; require product [m, k] [k, m]; \
         return n6",
        [true, true, true],
    ),
    (
        "with work that few elements need: exp(a @ b)",
        "n0 = input a: T[n, k]; n1 = input b: T[k, m]; n2 = matmul n0, n1: T[n, m]; n3 = exp n2: T[n, m]; \
         require product [n, k] [k, m]; return n3",
        [false, false, true],
    ),
];

/// An expression with sizes and memory for everything.
struct Case {
    what: String,
    plan: Plan,
    sizes: Vec<u64>,
    places: Vec<Strided>,
    memory: Vec<Vec<u8>>,
    product: usize,
    /// The one that the back end chooses, if it is none.
    tile: Option<Tile>,
}

impl Case {
    fn new(
        dtype: DType,
        (what, text, fused): (&str, &str, [bool; 3]),
        [n, k, m]: [u64; 3],
        tile: Option<Tile>,
    ) -> Case {
        let text = text.replace("T[", &format!("{}[", dtype.name())).replace(": T;", &format!(": {};", dtype.name()));
        let text = format!("graph {{\n{}\n}}", text.replace("; ", "\n"));
        let graph = parse(&text).unwrap_or_else(|e| panic!("{what}: {e}\n{text}"));
        let plan = pipeline::plan(graph, pipeline::Options::default(), &mut |_, _| {}).expect("a plan");
        let product = plan.steps.iter().position(|step| step.kernel().is_none()).expect("a product");
        let reasons: Vec<&str> = plan.steps.iter().map(|step| step.reason.as_str()).collect();
        assert_eq!(plan.fusible(product).map(|step| step.is_some()), fused, "{what}: {reasons:#?}");
        // Which symbol has which name.
        let mut dims = plan.graph.dims.clone();
        let count = dims.symbol_count();
        let numbers = dims.sizes(&(0..count as u64).collect::<Vec<_>>());
        let mut symbols = vec![0; count];
        for (name, size) in [("n", n), ("k", k), ("m", m), ("p", 2), ("q", 3)] {
            if let Some(number) = numbers.get(dims.named(name).index()) {
                symbols[*number as usize] = size;
            }
        }
        let sizes = plan.graph.dims.sizes(&symbols);
        let shape = |buffer: &numfuse_core::plan::Buffer| -> Vec<u64> {
            buffer.shape.iter().map(|d| sizes[d.index()]).collect()
        };
        let inputs: Vec<Strided> = (0..plan.graph.inputs().len())
            .map(|i| {
                let buffer = plan.buffers.iter().find(|b| b.kind == BufferKind::Input(i as u32)).expect("a buffer");
                Strided::row_major(&shape(buffer), buffer.dtype).expect("it fits")
            })
            .collect();
        let places = plan.places(&sizes, &inputs).expect("places");
        let mut random = Random(n * 10_000 + k * 100 + m);
        let memory = plan.buffers.iter().zip(&places).map(|(buffer, place)| {
            let count = place.count() as usize;
            let mut element = || match buffer.kind {
                // Sums of these are not exact in any order.
                BufferKind::Input(_) if buffer.dtype.is_float() => {
                    Literal::from_f64(buffer.dtype, random.below(1 << 20) as f64 / 1e6 - 0.5)
                }
                BufferKind::Input(_) => Literal::from_bits(buffer.dtype, random.below(200) as u64),
                _ => Literal::from_bits(buffer.dtype, 0xa5),
            };
            (0..count).flat_map(|_| element().bits().to_le_bytes()[..buffer.dtype.size()].to_vec()).collect()
        });
        let memory = memory.collect();
        Case {
            what: format!("{what}, {dtype} {n} x {k} x {m} in {tile:?}"),
            plan,
            sizes,
            places,
            memory,
            product,
            tile,
        }
    }

    /// Runs the kernels before the product, or after it.
    fn interpret(&mut self, steps: std::ops::Range<usize>) {
        for step in &self.plan.steps[steps] {
            let Work::Kernel(kernel) = &step.work else { panic!("{}: two products", self.what) };
            let bound = step.bind(&self.sizes, &self.places).expect("a launch");
            let mut outputs: Vec<Vec<u8>> = Vec::new();
            for (n, access) in step.operands.iter().enumerate() {
                let is_out = step.role(n) == Role::Out;
                let memory = &mut self.memory[access.buffer.index()];
                outputs.push(if is_out { std::mem::take(memory) } else { Vec::new() });
            }
            let mut operands = Vec::new();
            for ((n, access), output) in step.operands.iter().enumerate().zip(&mut outputs) {
                let bytes = match step.role(n) {
                    Role::Out => Bytes::Out(output),
                    Role::In => Bytes::In(&self.memory[access.buffer.index()]),
                };
                operands.push(Memory { bytes, offset: 0usize.wrapping_add_signed(bound.offsets[n]) });
            }
            interp::run(kernel, &bound.launch, &mut operands, &bound.params);
            drop(operands);
            for ((n, access), output) in step.operands.iter().enumerate().zip(outputs) {
                if step.role(n) == Role::Out {
                    self.memory[access.buffer.index()] = output;
                }
            }
        }
    }

    /// The product with what is fused into it, or alone.
    fn classified(&self, is_fused: bool) -> (BoundProduct, Classified) {
        let fused = if is_fused { self.plan.fusible(self.product) } else { [None; 3] };
        let bound = self.plan.bind_product(self.product, fused, &self.sizes, &self.places).expect("a launch");
        let kernels =
            bound.fused.clone().map(|fused| fused.map(|FusedKernel { kernel, value, .. }| Fused { kernel, value }));
        let alone = self.plan.bind_product(self.product, [None; 3], &self.sizes, &self.places).expect("a launch");
        let alone = Product::new(alone.dtype, &alone.launch).expect("a product");
        let product = alone.fuse(&bound.launch, kernels).expect("a product");
        let addresses: Vec<u64> =
            bound.operands.iter().map(|(_, offset)| 256u64.wrapping_add_signed(*offset as i64)).collect();
        let classified = match self.tile {
            Some(tile) => Classified::with_tile(&product, &addresses, tile),
            None => Classified::new(&product, &addresses),
        };
        (bound, classified.expect("a class"))
    }

    /// A job whose buffers are those of the plan, and then the workspace.
    fn job(&self, is_fused: bool, text: &str, seed: u64) -> Job {
        let (bound, classified) = self.classified(is_fused);
        let dispatch = classified.dispatch().expect("a grid");
        let mut buffers: Vec<Buffer> =
            self.memory.iter().map(|bytes| Buffer { bytes: bytes.clone(), offset: 0 }).collect();
        buffers.push(Buffer { bytes: vec![0xa5; dispatch.workspace as usize], offset: 0 });
        let params: Vec<u64> =
            bound.fused.iter().flatten().flat_map(|fused| fused.params.iter().map(|p| p.bits())).collect();
        // Which operand a word is follows from where it puts that operand's address.
        let marks: Vec<u64> = (0..=bound.operands.len() as u64).map(|n| u64::MAX - n).collect();
        let (workspace, addresses) = marks.split_last().expect("marks");
        let words = classified.words(addresses, &params, *workspace);
        let at = |mark: &u64| words.iter().position(|word| word == mark).expect("the word of an address");
        let mut relocations: Vec<Relocation> = bound
            .operands
            .iter()
            .zip(addresses)
            .map(|((buffer, offset), mark)| Relocation {
                word: at(mark),
                buffer: buffer.index(),
                offset: *offset as i64,
            })
            .collect();
        relocations.push(Relocation { word: at(workspace), buffer: self.memory.len(), offset: 0 });
        let launches = dispatch.grids.iter().map(|grid| Run {
            text: text.to_owned(),
            grid: *grid,
            words: words.to_vec(),
            relocations: relocations.clone(),
        });
        Job { seed, buffers, launches: launches.collect() }
    }

    fn source(&self, is_fused: bool) -> Source {
        let (_, classified) = self.classified(is_fused);
        Program::new(classified.class(), &classified.fused()).source().clone()
    }

    /// The outputs of the plan.
    fn outputs<'m>(&self, memory: &'m [Vec<u8>]) -> Vec<&'m Vec<u8>> {
        self.plan.outputs.iter().map(|buffer| &memory[buffer.index()]).collect()
    }
}

/// Texts by name; equal ones have one.
fn named(texts: impl Iterator<Item = Source>) -> (Vec<String>, Vec<(String, Source)>) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut all = Vec::new();
    let names = texts.map(|source| {
        let next = format!("text {}", known.len());
        let name = known.entry(source.text.clone()).or_insert_with(|| next.clone()).clone();
        if name == next {
            all.push((name.clone(), source));
        }
        name
    });
    (names.collect(), all)
}

/// Runs the product of each case, fused or alone; the bytes of all buffers.
fn run(cases: &[Case], is_fused: bool, build: Build) -> Vec<Vec<Vec<u8>>> {
    let (names, texts) = named(cases.iter().map(|case| case.source(is_fused)));
    let texts: Vec<(String, &Source)> = texts.iter().map(|(name, source)| (name.clone(), source)).collect();
    let emulator = Emulator::build(&texts, build);
    let jobs: Vec<Job> =
        cases.iter().zip(&names).enumerate().map(|(i, (case, name))| case.job(is_fused, name, i as u64)).collect();
    match emulator.run(&jobs) {
        Ok(results) => results
            .into_iter()
            .map(|mut result| {
                result.buffers.pop();
                result.buffers
            })
            .collect(),
        Err(failure) => panic!("{}, {}\n{}", cases[failure.job].what, failure.text, failure.report),
    }
}

/// What the cases' expressions are where nothing is fused into the product.
fn expected(cases: &mut [Case]) -> Vec<Vec<Vec<u8>>> {
    let before: Vec<Vec<Vec<u8>>> = cases.iter().map(|case| case.memory.clone()).collect();
    for case in cases.iter_mut() {
        case.interpret(0..case.product);
    }
    let products = run(cases, false, Build::Plain);
    let mut all = Vec::new();
    for ((case, memory), before) in cases.iter_mut().zip(products).zip(before) {
        case.memory = memory;
        case.interpret(case.product + 1..case.plan.steps.len());
        all.push(std::mem::replace(&mut case.memory, before));
    }
    all
}

fn check(cases: &mut [Case], build: Build) {
    let expected = expected(cases);
    for ((case, found), want) in cases.iter().zip(run(cases, true, build)).zip(expected) {
        assert!(case.outputs(&found) == case.outputs(&want), "{}: other bits than unfused", case.what);
        for (buffer, (found, before)) in case.plan.buffers.iter().zip(found.iter().zip(&case.memory)) {
            let is_output = matches!(buffer.kind, BufferKind::Output(_));
            assert!(is_output || found == before, "{}: {:?} is written to", case.what, buffer.kind);
        }
    }
}

/// Sizes around those of a tile: whole vectors and tiles, parts of them, several stretches.
fn cases(dtype: DType, tile: Tile, expressions: &[usize]) -> Vec<Case> {
    let is_single = dtype == DType::F32;
    let [r, c, d] = match tile {
        Tile::Large => [128, 128, 16],
        Tile::Medium => [64, 64, 16],
        Tile::Small => [32, 32, if is_single { 32 } else { 16 }],
        Tile::Thin => [128, 8, if is_single { 32 } else { 16 }],
        Tile::Tiny => [8, 8, 64],
    };
    let sizes = [[r, 2 * d, c], [r + 1, d + 3, c - 1], [3, 9 * d + 5, 2], [r, 17 * d, 4], [2, 0, 3], [1, 1, 1]];
    let all = expressions.iter().flat_map(|n| sizes.map(|sizes| Case::new(dtype, EXPRESSIONS[*n], sizes, Some(tile))));
    all.collect()
}

const ALL: [usize; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn fused_products_have_the_bits_of_unfused_ones() {
    let mut all = Vec::new();
    for (dtype, tile) in [(DType::F32, Tile::Tiny), (DType::F32, Tile::Small), (DType::F64, Tile::Medium)] {
        all.extend(cases(dtype, tile, &ALL));
    }
    all.extend(cases(DType::F32, Tile::Large, &[1]));
    all.extend(cases(DType::F64, Tile::Thin, &[1, 6]));
    // A stack that is one matrix only where nothing is fused: in as many stretches all the same.
    for dtype in [DType::F32, DType::F64] {
        all.push(Case::new(dtype, EXPRESSIONS[6], [3, 5000, 4], None));
        all.push(Case::new(dtype, EXPRESSIONS[6], [20, 700, 12], None));
    }
    check(&mut all, Build::Plain);
    println!("{} products have the bits of unfused ones", all.len());
}

#[test]
fn sanitizers_find_nothing() {
    let mut all = cases(DType::F32, Tile::Small, &[1, 4, 6]);
    all.extend(cases(DType::F64, Tile::Tiny, &[2, 3, 7, 8]));
    check(&mut all, Build::Address);
}

#[test]
fn threads_do_not_race() {
    let mut all = cases(DType::F64, Tile::Tiny, &[1, 6]);
    all.push(Case::new(DType::F32, EXPRESSIONS[1], [33, 35, 31], Some(Tile::Small)));
    check(&mut all, Build::Race);
}

/// A change of a few characters to the text, and the build that has to find it: by a report, or by a wrong result.
const PLANTED: [(&str, &str, &str, Build); 9] = [
    (
        "a barrier less before sums go through shared memory",
        "i++) {\n        __syncthreads();\n",
        "i++) {\n",
        Build::Race,
    ),
    (
        "a barrier less behind them",
        "= sums[n][j];\n        }\n        __syncthreads();",
        "= sums[n][j];\n        }\n",
        Build::Race,
    ),
    (
        "what lies outside is computed from zero",
        "counts = Input::PLAIN || is_inside(line)",
        "counts = true",
        Build::Plain,
    ),
    (
        "columns past the last are stored",
        "ROWS_GROUP < left.side && column < right.side",
        "ROWS_GROUP < left.side",
        Build::Address,
    ),
    ("rows past the last are stored", "row + u * LINES * ROWS_GROUP < left.side", "row < left.side", Build::Address),
    ("rows of another turn", "THREADS_DOWN>(line, i)", "THREADS_DOWN>(line, 0)", Build::Plain),
    ("sums of another row of the thread", "sums[n - 1][j] = sums[n][j];", "sums[n - 1][j] += 0;", Build::Plain),
    (
        "an operand of the block's first row",
        "? out.moved(a.out, row, column)",
        "? out.moved(a.out, 0, column)",
        Build::Plain,
    ),
    (
        "the second element of a turn too high up",
        "moved(a.out, LINES * ROWS_GROUP, 0)",
        "moved(a.out, LINES, 0)",
        Build::Plain,
    ),
];

#[test]
fn planted_bugs_are_found() {
    // Steps with a part of the depth, edges, one stretch, and operands of every kind.
    let mut case = [Case::new(DType::F32, EXPRESSIONS[1], [35, 37, 33], Some(Tile::Small))];
    let expected = expected(&mut case);
    for build in Build::ALL {
        let found = run(&case, true, build);
        assert!(case[0].outputs(&found[0]) == case[0].outputs(&expected[0]), "{build:?}");
    }
    let right = case[0].source(true);
    for (what, from, to, build) in PLANTED {
        assert!(right.text.contains(from), "{what}: the text has changed, and this test has to");
        let wrong = Source { text: right.text.replace(from, to), ..right.clone() };
        let emulator = Emulator::build(&[("wrong".to_owned(), &wrong)], build);
        // Which threads come first is random.
        let is_found = (0..4).any(|seed| match emulator.run(&[case[0].job(true, "wrong", seed)]) {
            Ok(results) => case[0].outputs(&results[0].buffers) != case[0].outputs(&expected[0]),
            Err(_) => true,
        });
        assert!(is_found, "{what}: not found by the build {build:?}");
    }
}

/// What stands above the text that all products share; `BLESS=1` writes what it is now.
#[test]
fn texts_are_golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, expression) in [("product-with-three-kernels.cu", 1), ("product-of-casts-to-bools.cu", 2)] {
        let text = Case::new(DType::F32, EXPRESSIONS[expression], [300, 40, 260], Some(Tile::Small)).source(true).text;
        let (head, _) = text.split_once("// A product of matrices, tile by tile").expect("the shared text");
        let text = format!("// {}\n{}\n", EXPRESSIONS[expression].0, head.trim_end());
        if std::env::var_os("BLESS").is_some() {
            fs::write(folder.join(name), &text).expect("a file");
        }
        let golden = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(golden == text, "{name} is not what is emitted; BLESS=1 writes it, read the difference");
    }
}

#[test]
fn machine_code_does_not_spill() {
    let Some(toolkit) = toolkit() else { return };
    let mut all = Vec::new();
    for tile in Tile::ALL {
        for dtype in [DType::F32, DType::F64] {
            for n in [1, 2, 6, 8] {
                all.push(Case::new(dtype, EXPRESSIONS[n], [300, 40, 260], Some(tile)).source(true));
            }
            all.push(Case::new(dtype, EXPRESSIONS[1], [3, 9000, 4], Some(tile)).source(true));
        }
    }
    let (_, texts) = named(all.into_iter());
    let sources: Vec<(String, &Source)> = texts.iter().map(|(name, source)| (name.clone(), source)).collect();
    for arch in [Arch::new(8, 0), Arch::new(9, 0)] {
        let limits = Limits { registers: 128, spills: 0, stack: 0, shared: 48 << 10 };
        let entries = toolkit.check(&sources, arch, limits).unwrap_or_else(|errors| panic!("{errors}"));
        let registers = entries.iter().map(|entry| entry.usage.registers).max().unwrap_or(0);
        println!("{arch}: {} entries, {registers} registers at most, nothing spills", entries.len());
    }
}
