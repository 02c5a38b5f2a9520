//! The kernels that most evaluations consist of, with launches of contiguous operands.

use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Reducer, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::math;

/// A kernel and its launch.
pub struct Shape {
    pub name: &'static str,
    pub kernel: Kernel,
    pub launch: Launch,
}

/// An elementwise kernel, a fold of rows and one of columns, softmax, of sizes that large arrays have.
pub fn shapes() -> Vec<Shape> {
    let (single, double) = (DType::F32, DType::F64);
    let squares = |b: &mut Builder, v: &[Value]| {
        let square = b.mul(v[1], v[1]);
        b.add(v[0], square)
    };
    let exp = |b: &mut Builder, v: &[Value]| math::exp(b, v);
    let sin = |b: &mut Builder, v: &[Value]| math::sin(b, v);
    let (rows, columns) = (Nest::Rows, Nest::Columns);
    vec![
        shape("map of f32", map(single, 2, squares), [1, 0, 1 << 28]),
        shape("map of f64", map(double, 2, squares), [1, 0, 1 << 27]),
        shape("map of i8", map(DType::I8, 2, squares), [1, 0, 1 << 28]),
        shape("exp of f32", map(single, 1, exp), [1, 0, 1 << 28]),
        shape("exp of f64", map(double, 1, exp), [1, 0, 1 << 27]),
        shape("sin of f32", map(single, 1, sin), [1, 0, 1 << 28]),
        shape("sin of f64", map(double, 1, sin), [1, 0, 1 << 27]),
        shape("sum of f32", fold(rows, single, Reducer::Sum), [1, 0, 1 << 28]),
        shape("sum of f64", fold(rows, double, Reducer::Sum), [1, 0, 1 << 27]),
        shape("sums of long rows", fold(rows, single, Reducer::Sum), [1 << 16, 0, 4096]),
        shape("sums of rows", fold(rows, single, Reducer::Sum), [1 << 20, 0, 256]),
        shape("maxima of short rows", fold(rows, single, Reducer::Max), [1 << 22, 0, 8]),
        shape("variances of rows", fold(rows, single, Reducer::Moments), [1 << 16, 0, 4096]),
        shape("sums of f32 columns", fold(columns, single, Reducer::Sum), [1, 1 << 14, 1 << 14]),
        shape("sums of f64 columns", fold(columns, double, Reducer::Sum), [1, 1 << 13, 1 << 14]),
        transposed("sum with a transposed one", map(single, 2, squares), 1 << 14),
        shape("softmax of rows", softmax(single), [1 << 18, 0, 1024]),
        shape("softmax of long rows", softmax(single), [1 << 16, 0, 4096]),
    ]
}

/// A kernel of square matrices, whose second operand is transposed.
fn transposed(name: &'static str, kernel: Kernel, size: usize) -> Shape {
    let mut shape = shape(name, kernel, [size, 0, size]);
    let bytes = shape.kernel.operands[0].dtype.size() as isize;
    let layout = |across: bool| {
        let (row, element) = if across { (bytes, bytes * size as isize) } else { (bytes * size as isize, bytes) };
        Layout {
            outer: [row].into_iter().collect(),
            reduced: Default::default(),
            inner: [element].into_iter().collect(),
        }
    };
    shape.launch.outer = [size].into_iter().collect();
    shape.launch.inner = [size].into_iter().collect();
    shape.launch.layouts = (0..shape.kernel.operands.len()).map(|n| layout(n == 1)).collect();
    shape.launch.set_accesses(&mut shape.kernel);
    shape
}

/// A kernel on contiguous operands of these sizes: outer, reduced (0 for rows), inner.
pub fn shape(name: &'static str, mut kernel: Kernel, sizes: [usize; 3]) -> Shape {
    let launch = contiguous(&mut kernel, sizes);
    Shape { name, kernel, launch }
}

/// An elementwise kernel.
pub fn map(dtype: DType, inputs: usize, body: impl FnOnce(&mut Builder, &[Value]) -> Value) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let operands: Vec<u32> = (0..inputs).map(|_| b.operand(dtype, Role::In, Level::Inner)).collect();
    let out = b.operand(dtype, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let values: Vec<Value> = operands.into_iter().map(|n| b.load(n)).collect();
    let result = body(&mut b, &values);
    b.store(out, result);
    b.finish()
}

/// A fold of rows or of columns.
pub fn fold(nest: Nest, dtype: DType, reducer: Reducer) -> Kernel {
    let mut b = Builder::kernel(nest);
    let x = b.operand(dtype, Role::In, Level::Inner);
    let level = if nest == Nest::Rows { Level::Row } else { Level::Inner };
    let out = b.operand(dtype, Role::Out, level);
    b.stage(StageKind::Loop);
    let v = b.load(x);
    let r = b.reduce(reducer, v);
    b.stage(if nest == Nest::Rows { StageKind::Row } else { StageKind::Loop });
    let result = b.reduced(r);
    b.store(out, result);
    b.finish()
}

/// Softmax, each value loaded once.
pub fn softmax(dtype: DType) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let (x, out) = (b.operand(dtype, Role::In, Level::Inner), b.operand(dtype, Role::Out, Level::Inner));
    b.stage(StageKind::Loop);
    let v = b.load(x);
    let slot = b.scratch(dtype);
    b.scratch_store(slot, v);
    let most = b.reduce(Reducer::Max, v);
    b.stage(StageKind::Row);
    let most = b.reduced(most);
    b.stage(StageKind::Loop);
    let v = b.scratch_load(slot);
    let d = b.sub(v, most);
    let e = math::exp(&mut b, &[d]);
    let second = b.scratch(dtype);
    b.scratch_store(second, e);
    let sum = b.reduce(Reducer::Sum, e);
    b.stage(StageKind::Row);
    let sum = b.reduced(sum);
    b.stage(StageKind::Loop);
    let e = b.scratch_load(second);
    let q = b.div(e, sum);
    b.store(out, q);
    b.finish()
}

/// A launch of contiguous operands.
fn contiguous(kernel: &mut Kernel, sizes: [usize; 3]) -> Launch {
    let [outer, reduced, inner] = sizes;
    let layouts = kernel.operands.iter().map(|o| {
        let size = o.dtype.size();
        let last = matches!((kernel.nest, o.role), (Nest::Columns, Role::Out));
        let reduced_stride = if last { 0 } else { inner * size };
        let rows = if last { inner * size } else { inner * size * reduced.max(1) };
        let row_level = o.level == Level::Row;
        Layout {
            outer: [if row_level { size } else { rows } as isize].into_iter().collect(),
            reduced: if reduced > 0 { [reduced_stride as isize].into_iter().collect() } else { Default::default() },
            inner: [if row_level { 0 } else { size } as isize].into_iter().collect(),
        }
    });
    let mut launch = Launch {
        outer: [outer].into_iter().collect(),
        reduced: if reduced > 0 { [reduced].into_iter().collect() } else { Default::default() },
        inner: [inner].into_iter().collect(),
        layouts: layouts.collect(),
    };
    launch.canonicalize(kernel);
    launch.set_accesses(kernel);
    launch
}
