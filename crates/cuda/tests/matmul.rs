//! Products of matrices on a device. The emitted text runs on the CPU and leaves exact sums of integers wherever it is
//! exact, and numbers within the promised bound elsewhere, for sizes around those of its tiles and steps, for any strides
//! and alignments, and touches nothing else; the device's compiler keeps it in registers and loads 16 bytes at once.

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
use numfuse_core::launch::{Launch, Layout};
use numfuse_cuda::emit::Source;
use numfuse_cuda::matmul::{Class, Classified, Product, Program, Tile};
use numfuse_cuda::nvrtc::Arch;
use products::{Case, Lie, ROWS, Random, get, integers, is_exact, put};
use std::collections::BTreeSet;
use toolkit::{Limits, toolkit};

/// A case as the text takes it.
trait Emitted {
    fn addresses(&self) -> [u64; 3];
    fn classified(&self, tile: Option<Tile>) -> Classified;
    fn job(&self, classified: &Classified, seed: u64) -> Job;
}

impl Emitted for Case {
    fn addresses(&self) -> [u64; 3] {
        [0, 1, 2].map(|n| 256 + self.memory[n].1 as u64)
    }

    fn classified(&self, tile: Option<Tile>) -> Classified {
        let product = Product::new(self.dtype, &self.launch).expect("a product");
        let classified = match tile {
            Some(tile) => Classified::with_tile(&product, &self.addresses(), tile),
            None => Classified::new(&product, &self.addresses()),
        };
        classified.unwrap_or_else(|error| panic!("{}: {error}", self.what))
    }

    fn job(&self, classified: &Classified, seed: u64) -> Job {
        let dispatch = classified.dispatch().unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let mut buffers: Vec<Buffer> =
            self.memory.iter().map(|(bytes, _)| Buffer { bytes: bytes.clone(), offset: 0 }).collect();
        buffers.push(Buffer { bytes: vec![0xa5; dispatch.workspace as usize], offset: 0 });
        // Which operand a word is follows from where it puts that operand's address.
        const MARKS: [u64; 4] = [u64::MAX - 3, u64::MAX - 2, u64::MAX - 1, u64::MAX];
        let words = classified.words(&MARKS[..3], &[], MARKS[3]);
        let relocations: Vec<Relocation> = (0..4)
            .map(|buffer| {
                let word = words.iter().position(|word| *word == MARKS[buffer]).expect("the word of an address");
                let offset = self.memory.get(buffer).map_or(0, |(_, first)| *first as i64);
                Relocation { word, buffer, offset }
            })
            .collect();
        let launches = dispatch.grids.iter().map(|grid| Run {
            text: name(classified.class()),
            grid: *grid,
            words: words.to_vec(),
            relocations: relocations.clone(),
        });
        Job { seed, buffers, launches: launches.collect() }
    }
}

fn program(class: &Class) -> Program {
    Program::new(class, &[None, None, None])
}

fn name(class: &Class) -> String {
    format!("{class:?}")
}

/// The text of each class, once.
fn programs<'a>(classes: impl Iterator<Item = &'a Class>) -> Vec<Program> {
    let mut seen = BTreeSet::new();
    classes.filter(|class| seen.insert(name(class))).map(program).collect()
}

/// Runs cases in tiles, and hands the bytes of each result to `compare`.
fn run(cases: &[(Case, Option<Tile>)], build: Build, compare: impl Fn(&Case, &[u8])) {
    let classified: Vec<Classified> = cases.iter().map(|(case, tile)| case.classified(*tile)).collect();
    let programs = programs(classified.iter().map(Classified::class));
    let texts: Vec<(String, &Source)> = programs.iter().map(|p| (name(p.class()), p.source())).collect();
    let emulator = Emulator::build(&texts, build);
    let jobs: Vec<Job> =
        cases.iter().zip(&classified).enumerate().map(|(i, ((case, _), c))| case.job(c, i as u64)).collect();
    match emulator.run(&jobs) {
        Ok(results) => {
            for ((case, _), result) in cases.iter().zip(results) {
                for n in 0..2 {
                    assert!(result.buffers[n] == case.memory[n].0, "{}: an input is written to", case.what);
                }
                compare(case, &result.buffers[2]);
            }
        }
        Err(failure) => panic!("{}, {}\n{}", cases[failure.job].0.what, failure.text, failure.report),
    }
}

/// Rows, columns, and the depth of a step.
fn sides(tile: Tile, dtype: DType) -> [usize; 3] {
    let is_single = dtype == DType::F32;
    match tile {
        Tile::Large => [128, 128, 16],
        Tile::Medium => [64, 64, 16],
        Tile::Small => [32, 32, if is_single { 32 } else { 16 }],
        Tile::Thin => [128, 8, if is_single { 32 } else { 16 }],
        Tile::Tiny => [8, 8, 64],
    }
}

/// Sizes around those of a tile, in every way to lie.
fn boundary_cases(dtype: DType, tile: Tile) -> Vec<(Case, Option<Tile>)> {
    let [r, c, d] = sides(tile, dtype);
    let both = Lie::Columns { left: true, right: true };
    let one = Lie::Columns { left: false, right: true };
    let other = Lie::Columns { left: true, right: false };
    let mut cases = Vec::new();
    let mut add = |outer: &[usize], sizes, lie| {
        cases.push((Case::new(dtype, outer, sizes, lie, integers()), Some(tile)));
    };
    // Whole vectors, whole and broken tiles; more than two steps.
    for lie in [ROWS, both, one, other, Lie::Rows { out: false }] {
        add(&[], [r, d, c], lie);
        add(&[], [r + 4, 2 * d + 4, c + 4], lie);
    }
    // Several stretches, of which the last is shorter.
    add(&[], [r, 20 * d + 4, c], ROWS);
    add(&[2], [4, 17 * d, 4], both);
    // No vectors.
    for (i, sizes) in
        [[r - 1, d + 1, c + 1], [r + 1, d - 1, c - 1], [1, 1, 1], [3, 9 * d - 1, 2]].into_iter().enumerate()
    {
        for lie in [ROWS, Lie::Odd, Lie::Any(i as u64)] {
            add(&[], sizes, lie);
        }
    }
    // No products.
    add(&[], [r + 1, 0, 3], ROWS);
    // Stacks: of each operand, of some, of several dimensions; merged with the rows where they can be.
    for (i, (outer, sizes)) in
        [(&[3][..], [5, 3, 2]), (&[2, 3], [4, 4, 4]), (&[4], [1, 7, c]), (&[2, 2], [r, 3, 1])].into_iter().enumerate()
    {
        for lie in [ROWS, Lie::Any(10 + i as u64), Lie::Any(20 + i as u64)] {
            add(outer, sizes, lie);
        }
    }
    cases
}

fn dtypes_and_tiles() -> impl Iterator<Item = (DType, Tile)> {
    let all = [DType::F32, DType::F64].into_iter().flat_map(|dtype| Tile::ALL.map(|tile| (dtype, tile)));
    all.filter(|all| *all != (DType::F64, Tile::Large))
}

#[test]
fn integers_are_exact_around_every_tile() {
    let cases: Vec<_> = dtypes_and_tiles().flat_map(|(dtype, tile)| boundary_cases(dtype, tile)).collect();
    run(&cases, Build::Plain, is_exact);
}

/// Registers that a thread of a tile may have: so many that two blocks of 256 threads stay on a multiprocessor.
const REGISTERS: u32 = 128;

#[test]
fn machine_code_is_tight() {
    let Some(toolkit) = toolkit() else { return };
    let mut classes = Vec::new();
    for (dtype, tile) in dtypes_and_tiles() {
        let [r, c, d] = sides(tile, dtype);
        let both = Lie::Columns { left: true, right: true };
        let sizes = [(ROWS, [r, d, c]), (both, [r, d, c]), (Lie::Odd, [r, d, c]), (ROWS, [r, 20 * d, c])];
        classes.extend(
            sizes.map(|(lie, sizes)| *Case::new(dtype, &[], sizes, lie, || 0.0).classified(Some(tile)).class()),
        );
    }
    let programs = programs(classes.iter());
    let sources: Vec<(String, &Source)> = programs.iter().map(|p| (name(p.class()), p.source())).collect();
    for arch in [Arch::new(8, 0), Arch::new(9, 0)] {
        let limits = Limits { registers: REGISTERS, spills: 0, stack: 0, shared: 48 << 10 };
        let entries = toolkit.check(&sources, arch, limits).unwrap_or_else(|errors| panic!("{errors}"));
        for entry in entries.iter().filter(|entry| entry.usage.entry == "kernel_matmul") {
            let class = programs.iter().map(Program::class).find(|class| name(class) == entry.text).expect("a class");
            let [loads, wide_loads, wide_stores] = ["LDG", "LDG.E.128", "STG.E.128"].map(|i| entry.count(i));
            let [single, double] = ["FFMA", "DFMA"].map(|instruction| entry.count(instruction));
            let text = &entry.text;
            // An operand is loaded in two places: before the loop and in it.
            match (class.left.wide, class.right.wide) {
                (true, true) => assert_eq!(loads, wide_loads, "{arch}, {text}: not all loads are of 16 bytes"),
                _ => assert!(loads > wide_loads, "{arch}, {text}: 16 bytes that are not aligned"),
            }
            let group = sides(class.tile, class.dtype)[1] / 8 * class.dtype.size();
            assert_eq!(wide_stores > 0, class.wide && group >= 32, "{arch}, {text}: {wide_stores} stores of 16 bytes");
            let (fused, other) = if class.dtype == DType::F32 { (single, double) } else { (double, single) };
            assert!(fused >= 16 && other == 0, "{arch}, {text}: {fused} and {other} multiplications and additions");
        }
        let registers = entries.iter().map(|entry| entry.usage.registers).max().unwrap_or(0);
        println!("{arch}: {} entries, {registers} registers at most, nothing spills", entries.len());
    }
}

/// Each build on a part of the cases: those of one step, of several, of several stretches, and at the edges.
#[test]
fn sanitizers_find_nothing() {
    let cases: Vec<_> = [(DType::F32, Tile::Small), (DType::F64, Tile::Tiny), (DType::F32, Tile::Thin)]
        .into_iter()
        .flat_map(|(dtype, tile)| boundary_cases(dtype, tile))
        .collect();
    run(&cases, Build::Address, is_exact);
}

#[test]
fn threads_do_not_race() {
    let [r, c, d] = sides(Tile::Tiny, DType::F64);
    let case = |sizes, lie| (Case::new(DType::F64, &[], sizes, lie, integers()), Some(Tile::Tiny));
    let mut cases = vec![
        case([r, 3 * d, c], ROWS),
        case([r + 1, d + 1, c - 1], ROWS),
        case([2, 17 * d, 3], Lie::Odd),
        case([r, 2 * d, c], Lie::Columns { left: true, right: true }),
    ];
    let [r, c, d] = sides(Tile::Small, DType::F32);
    cases.push((Case::new(DType::F32, &[], [r + 1, 2 * d + 1, c + 1], ROWS, integers()), Some(Tile::Small)));
    run(&cases, Build::Race, is_exact);
}

/// A change of a few characters to the text, and the build that has to find it: by a report, or by a wrong result.
const PLANTED: [(&str, &str, &str, Build); 8] = [
    ("a barrier less in the loop", "right_tile[half]);\n        __syncthreads();", "right_tile[half]);", Build::Race),
    ("a barrier less between the stretches", "= sum;\n    __syncthreads();", "= sum;", Build::Race),
    (
        "the half that is being read is written",
        "left.store(a.parameters, left_tile[half]);",
        "left.store(a.parameters, left_tile[half ^ 1]);",
        Build::Plain,
    ),
    ("rows past the last are loaded", "? line < side && x < depth", "? x < depth", Build::Address),
    ("the depth past a stretch counts", ": line < depth && x < side", ": x < side", Build::Plain),
    (
        "columns past the last are stored",
        "|| first_of_row + column >= right.side) continue;",
        ") continue;",
        Build::Plain,
    ),
    ("the first stretch is that of all", "begin = stretch * a.stretch", "begin = 0", Build::Plain),
    (
        "vectors that are not aligned",
        "struct Left {\n    static constexpr int OPERANDS = 1, WIDTH = 1;",
        "struct Left {\n    static constexpr int OPERANDS = 1, WIDTH = 2;",
        Build::Address,
    ),
];

#[test]
fn planted_bugs_are_found() {
    let [r, c, d] = sides(Tile::Tiny, DType::F64);
    // An odd place in memory, three stretches, the last of them with a part of a step, and edges.
    let case = Case::new(DType::F64, &[], [r + 3, 20 * d + 2, c - 1], Lie::Odd, integers());
    let classified = case.classified(Some(Tile::Tiny));
    assert!(classified.class().split);
    for build in Build::ALL {
        run(&[(case.clone(), Some(Tile::Tiny))], build, is_exact);
    }
    let right = program(classified.class()).source().clone();
    for (what, from, to, build) in PLANTED {
        assert!(right.text.contains(from), "{what}: the text has changed, and this test has to");
        let wrong = Source { text: right.text.replace(from, to), ..right.clone() };
        let emulator = Emulator::build(&[(name(classified.class()), &wrong)], build);
        // Which threads come first is random.
        let is_found = (0..4).any(|seed| match emulator.run(&[case.job(&classified, seed)]) {
            Ok(results) => results[0].buffers[2] != case.expected().0,
            Err(_) => true,
        });
        assert!(is_found, "{what}: not found by the build {build:?}");
    }
}

/// In the tiles that the back end chooses: sizes and strides at random, numbers of which no sum is exact.
#[test]
fn random_products_are_within_the_bound() {
    let mut cases = Vec::new();
    for seed in 0..60 {
        let mut random = Random(seed);
        let dtype = [DType::F32, DType::F64][random.below(2)];
        let outer: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        let mut size = |most: usize| {
            let most = [4, 20, most][random.below(3)];
            1 + random.below(most)
        };
        let (sizes, lie) = ([size(80), size(300), size(80)], [ROWS, Lie::Any(seed)][seed as usize % 2]);
        let mut values = Random(seed + 1000);
        cases.push((Case::new(dtype, &outer, sizes, lie, || values.below(1 << 20) as f64 / 1000.0 - 500.0), None));
    }
    run(&cases, Build::Plain, |case, found| {
        let (want, elements) = case.expected();
        let epsilon = if case.dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let terms = case.launch.reduced[0] as f64;
        let mut rest = want.clone();
        for (at, sum, size) in elements {
            let element = get(found, case.dtype, at, 0);
            // The sums that this is held against are rounded, too.
            let near = (element - sum).abs() <= (terms + 1.0) * epsilon * size;
            assert!(near, "{}: {element} instead of {sum}, of terms that add up to {size}", case.what);
            put(&mut rest, case.dtype, at, 0, element);
        }
        assert!(rest == found, "{}: bytes of no element are written to", case.what);
    });
}

/// What is expected of sizes that matter: few tiles have stretches, thin results thin tiles, and the grid is the shape's.
#[test]
fn tiles_suit_the_sizes() {
    let tile = |dtype: DType, outer: &[usize], [m, k, n]: [usize; 3]| {
        let size = dtype.size() as isize;
        let strides = [[k, 1], [n, 1], [n, 1]].map(|s| s.map(|s| s as isize * size));
        let layout = |which: usize, matrix: [usize; 2]| Layout {
            outer: outer.iter().map(|_| (matrix[0] * matrix[1]) as isize * size).collect(),
            reduced: [[strides[0][1], strides[1][0], 0][which]].into_iter().collect(),
            inner: [[strides[0][0], 0], [0, strides[1][1]], strides[2]][which].into_iter().collect(),
        };
        let launch = Launch {
            outer: outer.into(),
            reduced: [k].into_iter().collect(),
            inner: [m, n].into_iter().collect(),
            layouts: vec![layout(0, [m, k]), layout(1, [k, n]), layout(2, [m, n])],
        };
        let product = Product::new(dtype, &launch).expect("a product");
        let classified = Classified::new(&product, &[256; 3]).expect("a class");
        let blocks = classified.dispatch().expect("a grid").grids[0].blocks;
        (classified.class().tile, classified.class().split, blocks.iter().product::<u32>())
    };
    let single = |sizes| tile(DType::F32, &[], sizes);
    assert_eq!(single([4096, 4096, 4096]), (Tile::Large, false, 1024));
    assert_eq!(single([1024, 1024, 1024]), (Tile::Large, true, 256));
    assert_eq!(single([512, 512, 512]), (Tile::Medium, true, 256));
    assert_eq!(single([100, 100, 100]), (Tile::Small, false, 16));
    assert_eq!(single([64, 1_000_000, 64]), (Tile::Medium, true, 256));
    assert_eq!(single([1_000_000, 64, 1]), (Tile::Thin, false, 7813));
    assert_eq!(single([1, 4096, 4096]), (Tile::Thin, true, 512));
    assert_eq!(single([1, 10_000_000, 1]), (Tile::Tiny, true, 511));
    assert_eq!(tile(DType::F32, &[100_000], [4, 4, 4]), (Tile::Tiny, false, 2 * 65_535), "a grid has no more along y");
    assert_eq!(tile(DType::F64, &[], [4096, 4096, 4096]), (Tile::Medium, false, 4096));
    assert_eq!(tile(DType::F64, &[16], [128, 128, 128]), (Tile::Small, false, 256));
}

#[test]
fn what_is_no_product_is_refused() {
    let case = Case::new(DType::F64, &[2], [3, 4, 5], ROWS, || 1.0);
    assert!(Product::new(DType::I64, &case.launch).is_err());
    let mut launch = case.launch.clone();
    launch.layouts.pop();
    assert!(Product::new(DType::F64, &launch).is_err());
    let product = Product::new(DType::F64, &case.launch).expect("a product");
    let error = Classified::new(&product, &[256, 260, 256]).map(|_| ()).expect_err("it is not aligned");
    assert_eq!(error.to_string(), "no CUDA code: f64 elements that are not aligned");
    // Nothing is read where there are no products, and nothing is done where there are no elements.
    let none = Case::new(DType::F64, &[0], [3, 4, 5], ROWS, || 1.0);
    assert!(none.classified(None).dispatch().expect("a grid").grids.is_empty());
}
