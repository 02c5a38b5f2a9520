//! The kernels that most evaluations consist of, as machine code: vectors on the way, few registers, and nothing in memory
//! that belongs in registers.

#[path = "common/shapes.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod shapes;
#[path = "common/toolkit.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod toolkit;

use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Value};
use numfuse_cuda::emit::{Class, Program, Source};
use numfuse_cuda::nvrtc::{Arch, Options};
use shapes::{Shape, shapes};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use toolkit::{Entry, Limits, toolkit};

/// Four blocks of 256 threads fit a multiprocessor, whatever the kernel.
const LIMITS: Limits = Limits { registers: 64, spills: 0, stack: 0, shared: 8 << 10 };
/// Eight of them, whose loads cover the latency of the memory: for kernels that wait for nothing else.
const LIGHT: u32 = 40;

/// The shapes whose texts are kept in `golden`: one of each schedule.
const GOLDEN: [&str; 8] = [
    "map of f32",
    "sin of f32",
    "sum with a transposed one",
    "sum of f32",
    "maxima of short rows",
    "variances of rows",
    "sums of f32 columns",
    "softmax of rows",
];

/// The texts are what `golden` has; `BLESS=1` writes what they are now.
#[test]
fn texts_are_golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut kept: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    // Those are held by `fused_products.rs`.
    kept.retain(|name| !name.starts_with("product-"));
    let bless = std::env::var_os("BLESS").is_some();
    for shape in shapes() {
        if !GOLDEN.contains(&shape.name) {
            continue;
        }
        let (name, program) = program(shape);
        let text = format!("// {name}\n{}", program.source().text);
        let name = format!("{}.cu", name.replace(' ', "-"));
        if bless {
            fs::write(folder.join(&name), &text).unwrap();
        }
        let golden = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(golden == text, "{name} is not what is emitted; BLESS=1 writes it, read the difference");
        kept.remove(&name);
    }
    assert!(kept.is_empty(), "nobody emits {kept:?}");
}

fn program(shape: Shape) -> (String, Program) {
    let addresses = vec![256; shape.kernel.operands.len()];
    let class = Class::new(&shape.kernel, &shape.launch, &addresses).unwrap();
    (shape.name.to_owned(), Program::new(&shape.kernel, &class).unwrap())
}

#[test]
fn common_kernels_keep_many_bytes_on_the_way() {
    let Some(toolkit) = toolkit() else { return };
    let programs: Vec<(String, Program)> = shapes().into_iter().map(program).collect();
    let sources: Vec<(String, &Source)> = programs.iter().map(|(name, p)| (name.clone(), p.source())).collect();
    for arch in [Arch::new(8, 0), Arch::new(9, 0)] {
        let entries = toolkit.check(&sources, arch, LIMITS).unwrap_or_else(|e| panic!("{arch}: {e}"));
        for entry in &entries {
            check(entry, arch);
        }
    }
}

/// Both slots of softmax are one row of shared memory: what is stored takes the place of what was loaded last.
#[test]
fn softmax_has_one_row_of_scratch() {
    let shape = shapes().into_iter().find(|shape| shape.name == "softmax of rows").unwrap();
    let class = Class::new(&shape.kernel, &shape.launch, &[256; 2]).unwrap();
    let grid = Program::new(&shape.kernel, &class).unwrap().dispatch(&shape.launch).unwrap().grids[0];
    assert_eq!((grid.threads[0], grid.shared), (64, 4 * 1024 * 4));
}

/// Sums of so many arrays need more registers than there are for two elements a thread, and few for one.
#[test]
fn code_that_spills_is_made_for_fewer_elements() {
    let Some(toolkit) = toolkit() else { return };
    for (inputs, spills) in [(32, false), (64, true), (96, true)] {
        let sum = |b: &mut Builder, v: &[Value]| v[1..].iter().fold(v[0], |sum, x| b.add(sum, *x));
        let Shape { kernel, launch, .. } =
            shapes::shape("a sum of arrays", shapes::map(DType::F64, inputs, sum), [1, 0, 1 << 27]);
        let class = Class::new(&kernel, &launch, &vec![256; inputs + 1]).unwrap();
        for arch in [Arch::new(8, 0), Arch::new(9, 0)] {
            let mut tried = Vec::new();
            let (program, stack) = Program::fitted(&kernel, &class, |program| {
                let usage = toolkit.compiler.compile(&program.source().text, arch, Options::default())?.usage();
                let stack = usage.iter().map(|entry| entry.stack).max().unwrap_or(0);
                tried.push(format!("{:?}: {usage:?}", program.class().schedule));
                Ok((stack, stack))
            })
            .unwrap();
            println!("{inputs} arrays, {arch}: {}", tried.join(", "));
            assert_eq!(
                (stack, tried.len(), *program.class() != class),
                (0, 1 + usize::from(spills), spills),
                "{tried:?}"
            );
        }
    }
}

fn check(entry: &Entry, arch: Arch) {
    let what = format!("{} ({}), {arch}: {:?}", entry.text, entry.usage.entry, entry.usage);
    let joins = entry.usage.entry.contains("join");
    let computes = entry.text.starts_with("sin") || entry.text.contains("transposed");
    if !joins && !computes && entry.text != "map of i8" {
        assert!(entry.count("LDG.E.128") >= 1, "{what}: no load of 16 bytes");
    }
    let light = ["map of f", "sum of", "sums"].iter().any(|kind| entry.text.starts_with(kind));
    if light {
        assert!(entry.usage.registers <= LIGHT, "{what}: more than {LIGHT} registers");
    }
    if entry.text.starts_with("map") {
        let store = if entry.text == "map of i8" { "STG" } else { "STG.E.128" };
        assert!(entry.count(store) >= 1, "{what}: no {store}");
    }
    // Strict: nothing is contracted that the kernel does not contract.
    if entry.text == "map of f32" {
        assert_eq!(entry.count("FFMA"), 0, "{what}: a product and a sum became one instruction");
    }
}
