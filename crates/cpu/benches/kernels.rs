//! Times kernels of the CPU back end: `cargo bench -p numfuse-cpu [-- FILTER] [--tier=cranelift]`. For each kernel and size it prints the
//! least and the median nanoseconds an element, on one thread and on all, and the microseconds that it takes to compile.
//! `rust` rows are hand-written loops, to compare with.

use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Reducer, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::math;
use numfuse_cpu::{AlignedBuffer, Compiler, Options, RunOptions, Tier};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

fn elementwise(dtype: DType, inputs: usize, f: impl FnOnce(&mut Builder, &[Value]) -> Value) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let operands: Vec<u32> = (0..inputs).map(|_| b.operand(dtype, Role::In, Level::Inner)).collect();
    b.stage(StageKind::Loop);
    let values: Vec<Value> = operands.iter().map(|n| b.load(*n)).collect();
    let y = f(&mut b, &values);
    let out = b.operand(b.dtype(y), Role::Out, Level::Inner);
    b.store(out, y);
    b.finish()
}

fn fold(
    dtype: DType,
    inputs: usize,
    reducer: Reducer,
    nest: Nest,
    f: impl FnOnce(&mut Builder, &[Value]) -> Value,
) -> Kernel {
    let mut b = Builder::kernel(nest);
    let operands: Vec<u32> = (0..inputs).map(|_| b.operand(dtype, Role::In, Level::Inner)).collect();
    b.stage(StageKind::Loop);
    let values: Vec<Value> = operands.iter().map(|n| b.load(*n)).collect();
    let y = f(&mut b, &values);
    let r = b.reduce(reducer, y);
    let (kind, level) = match nest {
        Nest::Rows => (StageKind::Row, Level::Row),
        Nest::Columns => (StageKind::Loop, Level::Inner),
    };
    b.stage(kind);
    let r = b.reduced(r);
    let out = b.operand(b.dtype(r), Role::Out, level);
    b.store(out, r);
    b.finish()
}

fn softmax(dtype: DType) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let x = b.operand(dtype, Role::In, Level::Inner);
    let out = b.operand(dtype, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let v = b.load(x);
    let most = b.reduce(Reducer::Max, v);
    b.stage(StageKind::Row);
    let most = b.reduced(most);
    b.stage(StageKind::Loop);
    let v = b.load(x);
    let d = b.sub(v, most);
    let e = math::exp(&mut b, &[d]);
    let slot = b.scratch(dtype);
    b.scratch_store(slot, e);
    let sum = b.reduce(Reducer::Sum, e);
    b.stage(StageKind::Row);
    let sum = b.reduced(sum);
    b.stage(StageKind::Loop);
    let e = b.scratch_load(slot);
    let y = b.div(e, sum);
    b.store(out, y);
    b.finish()
}

/// `2*a + 3*b**2`.
fn mix(b: &mut Builder, v: &[Value]) -> Value {
    let dtype = b.dtype(v[0]);
    let (two, three) = (b.float(dtype, 2.0), b.float(dtype, 3.0));
    let p = b.mul(two, v[0]);
    let q = b.mul(v[1], v[1]);
    let q = b.mul(three, q);
    b.add(p, q)
}

fn poly10(b: &mut Builder, v: &[Value]) -> Value {
    let dtype = b.dtype(v[0]);
    let mut y = b.float(dtype, 0.1);
    for i in 1..=10 {
        let c = b.float(dtype, 0.1 * f64::from(i) + 0.01);
        y = b.mul(y, v[0]);
        y = b.add(y, c);
    }
    y
}

fn gauss_sin(b: &mut Builder, v: &[Value]) -> Value {
    let dtype = b.dtype(v[0]);
    let square = b.mul(v[0], v[0]);
    let minus = b.neg(square);
    let e = math::exp(b, &[minus]);
    let s = math::sin(b, &[v[1]]);
    let p = b.mul(e, s);
    let one = b.float(dtype, 1.0);
    b.add(p, one)
}

/// Distances of all pairs of points: `sqrt(sum((x[:,None,:] - y[None,:,:])**2, axis=-1))`.
fn distances(dtype: DType) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let [x, y] = [(); 2].map(|()| b.operand(dtype, Role::In, Level::Inner));
    let out = b.operand(dtype, Role::Out, Level::Row);
    b.stage(StageKind::Loop);
    let (x, y) = (b.load(x), b.load(y));
    let difference = b.sub(x, y);
    let square = b.mul(difference, difference);
    let sum = b.reduce(Reducer::Sum, square);
    b.stage(StageKind::Row);
    let sum = b.reduced(sum);
    let root = b.sqrt(sum);
    b.store(out, root);
    b.finish()
}

/// Two sets of `points` each, in a space of so many dimensions.
fn pairs(kernel: &mut Kernel, points: usize, dimensions: usize) -> Launch {
    let size = kernel.operands[0].dtype.size() as isize;
    let point = size * dimensions as isize;
    let layout = |outer: [isize; 2], inner: isize| Layout {
        outer: outer.into_iter().collect(),
        reduced: Default::default(),
        inner: [inner].into_iter().collect(),
    };
    let mut launch = Launch {
        outer: [points; 2].into_iter().collect(),
        reduced: Default::default(),
        inner: [dimensions].into_iter().collect(),
        layouts: vec![layout([point, 0], size), layout([0, point], size), layout([size * points as isize, size], 0)],
    };
    set_accesses(kernel, &mut launch);
    launch
}

/// The sizes of a launch: outer, reduced, inner.
type Shape = (usize, usize, usize);

fn launch(kernel: &mut Kernel, (outer, reduced, inner): Shape, transposed: bool) -> Launch {
    let layouts = kernel
        .operands
        .iter()
        .map(|operand| {
            let size = operand.dtype.size() as isize;
            let columns = kernel.nest == Nest::Columns;
            let result = columns && operand.role == Role::Out;
            let width = if operand.level == Level::Row { size } else { size * inner as isize };
            let full = if result { width } else { width * if columns { reduced as isize } else { 1 } };
            Layout {
                outer: [full].into_iter().collect(),
                reduced: if columns {
                    [if result { 0 } else { width }].into_iter().collect()
                } else {
                    Default::default()
                },
                inner: [if operand.level == Level::Row { 0 } else { size }].into_iter().collect(),
            }
        })
        .collect();
    let mut launch = Launch {
        outer: [outer].into_iter().collect(),
        reduced: if kernel.nest == Nest::Columns { [reduced].into_iter().collect() } else { Default::default() },
        inner: [inner].into_iter().collect(),
        layouts,
    };
    if transposed {
        let layout = &mut launch.layouts[1];
        std::mem::swap(&mut layout.outer, &mut layout.inner);
    }
    set_accesses(kernel, &mut launch);
    launch
}

fn set_accesses(kernel: &mut Kernel, launch: &mut Launch) {
    launch.canonicalize(kernel);
    launch.set_accesses(kernel);
}

/// The least and the median time of `f`, in nanoseconds.
fn time(mut f: impl FnMut()) -> (f64, f64) {
    f();
    let start = Instant::now();
    let mut samples = Vec::new();
    // Batches of at least ten microseconds, for half a second.
    let mut batch = 1;
    while start.elapsed() < Duration::from_millis(400) || samples.len() < 5 {
        let begin = Instant::now();
        for _ in 0..batch {
            f();
        }
        let spent = begin.elapsed();
        if spent < Duration::from_micros(10) {
            batch *= 2;
            continue;
        }
        samples.push(spent.as_nanos() as f64 / f64::from(batch));
    }
    samples.sort_by(f64::total_cmp);
    (samples[0], samples[samples.len() / 2])
}

fn input(dtype: DType, n: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(n * dtype.size()).expect("memory");
    for i in 0..n {
        let x = (i as f64 * 0.618_033_988_7).fract() * 4.0 - 2.0;
        // SAFETY: element `i` lies in the buffer.
        unsafe {
            match dtype {
                DType::F64 => buffer.as_mut_ptr().cast::<f64>().add(i).write(x),
                DType::F32 => buffer.as_mut_ptr().cast::<f32>().add(i).write(x as f32),
                DType::I64 => buffer.as_mut_ptr().cast::<i64>().add(i).write(i as i64 % 1000),
                _ => buffer.as_mut_ptr().add(i * dtype.size()).write(i as u8 % 2),
            }
        }
    }
    buffer
}

/// The code generator asked for by `--tier=NAME`, else the best one.
fn tier() -> Tier {
    let asked = std::env::args().find_map(|a| a.strip_prefix("--tier=").map(str::to_owned));
    let all = [Tier::Widest, Tier::Avx512, Tier::Avx2, Tier::Cranelift];
    all.into_iter().find(|tier| Some(tier.name()) == asked.as_deref()).unwrap_or_default()
}

fn measure(name: &str, kernel: Kernel, shapes: &[Shape]) {
    measure_with(name, kernel, shapes, |kernel, shape| launch(kernel, shape, false));
}

/// The same with the second operand transposed; the shapes are squares.
fn measure_transposed(name: &str, kernel: Kernel, shapes: &[Shape]) {
    measure_with(name, kernel, shapes, |kernel, shape| launch(kernel, shape, true));
}

fn measure_with(name: &str, mut kernel: Kernel, shapes: &[Shape], launch: impl Fn(&mut Kernel, Shape) -> Launch) {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    if filter.is_some_and(|f| !name.contains(&f)) {
        return;
    }
    let options = Options { verifier: false, tier: tier(), ..Options::default() };
    let compiler = Compiler::new(options).expect("this host has a code generator");
    for shape in shapes {
        let launch = launch(&mut kernel, *shape);
        let compile = time(|| drop(compiler.compile(&kernel).expect("the kernel compiles")));
        let compiled = compiler.compile(&kernel).expect("the kernel compiles");
        let elements = shape.0 * shape.1 * shape.2;
        let buffers: Vec<AlignedBuffer> = kernel.operands.iter().map(|o| input(o.dtype, elements)).collect();
        let pointers: Vec<*mut u8> = buffers.iter().map(|b| b.as_ptr().cast_mut()).collect();
        let cancel = AtomicBool::new(false);
        print!(
            "{name:24} {:>9} {:>9.0} us {:>6} B",
            format!("{}x{}x{}", shape.0, shape.1, shape.2),
            compile.0 / 1e3,
            compiled.code_bytes()
        );
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for threads in [1, cores] {
            let run = RunOptions { threads, cancel: &cancel };
            let (least, median) = time(|| {
                // SAFETY: each buffer has room for all elements of the domain.
                unsafe { compiled.run(&launch, &pointers, &[], &run) }.expect("the kernel runs");
            });
            let n = elements as f64;
            print!("   {:>8.3} {:>8.3}", least / n, median / n);
        }
        println!();
    }
}

fn rust(name: &str, n: usize, mut f: impl FnMut()) {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    if filter.is_some_and(|f| !name.contains(&f)) {
        return;
    }
    let (least, median) = time(&mut f);
    println!("{:24} {n:>9} {:>21}   {:>8.3} {:>8.3}", format!("{name} rust"), "", least / n as f64, median / n as f64);
}

fn main() {
    println!(
        "{:24} {:>9} {:>12} {:>8}   {:^17}   {:^17}",
        "kernel", "shape", "compile", "code", "1 thread ns/elt", "all threads"
    );
    let flat = [10, 1000, 10_000, 100_000, 1_000_000, 10_000_000].map(|n| (1, 1, n));
    for dtype in [DType::F64, DType::F32] {
        measure(&format!("mix {dtype}"), elementwise(dtype, 2, mix), &flat);
        let few = [3, 7, 15, 40].map(|n| (1, 1, n));
        measure(&format!("few mix {dtype}"), elementwise(dtype, 2, mix), &few);
        let rows = [(1000, 1, 40)];
        measure(&format!("few moments {dtype}"), fold(dtype, 1, Reducer::Moments, Nest::Rows, |_, v| v[0]), &few);
        measure(&format!("few sum {dtype}"), fold(dtype, 1, Reducer::Sum, Nest::Rows, |_, v| v[0]), &few);
        measure(&format!("rows of 40 {dtype}"), fold(dtype, 1, Reducer::Sum, Nest::Rows, |_, v| v[0]), &rows);
        measure(&format!("poly10 {dtype}"), elementwise(dtype, 1, poly10), &flat[1..]);
        measure(&format!("tan {dtype}"), elementwise(dtype, 1, math::tan), &flat[1..4]);
        measure(&format!("exp {dtype}"), elementwise(dtype, 1, math::exp), &flat[1..5]);
        measure(&format!("gauss_sin {dtype}"), elementwise(dtype, 2, gauss_sin), &flat[1..5]);
        let identity = |_: &mut Builder, v: &[Value]| v[0];
        let product = |b: &mut Builder, v: &[Value]| b.mul(v[0], v[1]);
        measure(&format!("sum {dtype}"), fold(dtype, 1, Reducer::Sum, Nest::Rows, identity), &flat[1..]);
        measure(&format!("dot {dtype}"), fold(dtype, 2, Reducer::Sum, Nest::Rows, product), &flat[1..]);
        measure(&format!("max {dtype}"), fold(dtype, 1, Reducer::Max, Nest::Rows, identity), &flat[1..5]);
        measure(&format!("moments {dtype}"), fold(dtype, 1, Reducer::Moments, Nest::Rows, identity), &flat[1..5]);
        let rows = [(100_000, 1, 8), (10_000, 1, 50), (10_000, 1, 100), (1000, 1, 1000), (10, 1, 100_000)];
        measure(&format!("row sum {dtype}"), fold(dtype, 1, Reducer::Sum, Nest::Rows, identity), &rows);
        measure(&format!("softmax {dtype}"), softmax(dtype), &rows);
        let columns = [(1, 100_000, 8), (1, 10_000, 100), (1, 1000, 1000), (1, 100, 10_000), (1000, 10, 100)];
        measure(&format!("column sum {dtype}"), fold(dtype, 1, Reducer::Sum, Nest::Columns, identity), &columns);
        measure(
            &format!("column moments {dtype}"),
            fold(dtype, 1, Reducer::Moments, Nest::Columns, identity),
            &columns,
        );
        let less = |b: &mut Builder, v: &[Value]| b.lt(v[0], v[1]);
        measure(&format!("less {dtype}"), elementwise(dtype, 2, less), &flat[1..5]);
        for dimensions in [3, 10, 32, 50, 64, 100] {
            let name = format!("distances {dimensions} {dtype}");
            let launch = |kernel: &mut Kernel, (points, ..): Shape| pairs(kernel, points, dimensions);
            measure_with(&name, distances(dtype), &[(100, 1, 100), (1000, 1, 1000)], launch);
        }
    }
    let squares = [(100, 1, 100), (1000, 1, 1000), (4000, 1, 4000)];
    let sum = |b: &mut Builder, v: &[Value]| b.add(v[0], v[1]);
    measure_transposed("x + y.T f64", elementwise(DType::F64, 2, sum), &squares);
    let divide = |b: &mut Builder, v: &[Value]| b.div(v[0], v[1]);
    measure("divide i64", elementwise(DType::I64, 2, divide), &flat[1..4]);
    for n in [1000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let buffers = [(); 3].map(|()| input(DType::F64, n));
        // SAFETY: the buffers are distinct and hold `n` elements each.
        let [a, b] = [0, 1].map(|i| unsafe { std::slice::from_raw_parts(buffers[i].as_ptr().cast::<f64>(), n) });
        // SAFETY: as above; nobody else uses the third one.
        let out = unsafe { std::slice::from_raw_parts_mut(buffers[2].as_ptr().cast_mut().cast::<f64>(), n) };
        rust("mix f64", n, || {
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o = 2.0 * a + 3.0 * (b * b);
            }
            std::hint::black_box(&mut *out);
        });
        rust("sum f64", n, || {
            let mut lanes = [0.0; 32];
            for chunk in a.chunks_exact(32) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += x;
                }
            }
            std::hint::black_box(lanes);
        });
    }
}
