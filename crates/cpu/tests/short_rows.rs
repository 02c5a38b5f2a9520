//! Many short rows run side by side, and inputs that they share are transposed: the results are the interpreter's, whatever
//! the length of a row, the number of rows and the order of the inputs in memory.

mod common;

use common::{Block, Case, Code, Compilers, EACH_CODE, Mode, Rng, put, random_bits};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Access, Builder, Kernel, Level, Nest, Reducer, Role, StageKind};
use numfuse_core::launch::{Launch, Layout, for_each_index};
use numfuse_cpu::{Compiler, Options, RunOptions, specialize, specialize_from};

const MODES: [Mode; 4] = [
    Mode { code: Code::Avx512, threads: 1, shared: false },
    Mode { code: Code::Avx2, threads: 1, shared: false },
    Mode { code: Code::Avx512, threads: 3, shared: true },
    Mode { code: Code::Avx2, threads: 3, shared: true },
];

/// One result for each row: some reduction of `(x - y)**2`, of a dtype.
fn reduced(dtype: DType, reducer: Reducer) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let [x, y] = [(); 2].map(|()| b.operand(dtype, Role::In, Level::Inner));
    b.stage(StageKind::Loop);
    let (x, y) = (b.load(x), b.load(y));
    let difference = b.sub(x, y);
    let square = b.mul(difference, difference);
    let folded = match reducer {
        Reducer::Any | Reducer::All => b.lt(square, x),
        _ => square,
    };
    let r = b.reduce(reducer, folded);
    b.stage(StageKind::Row);
    let r = b.reduced(r);
    let out = b.operand(b.dtype(r), Role::Out, Level::Row);
    b.store(out, r);
    b.finish()
}

/// Rows that are as long as their inputs: `x*y/sum(x*y) - max(x*y)`, by way of a scratch row, where a flag says so.
fn normalised(dtype: DType) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let [x, y] = [(); 2].map(|()| b.operand(dtype, Role::In, Level::Inner));
    let flag = b.operand(DType::Bool, Role::In, Level::Inner);
    let out = b.operand(dtype, Role::Out, Level::Inner);
    let slot = b.scratch(dtype);
    b.stage(StageKind::Loop);
    let (x, y) = (b.load(x), b.load(y));
    let product = b.mul(x, y);
    b.scratch_store(slot, product);
    let (sum, most) = (b.reduce(Reducer::Sum, product), b.reduce(Reducer::Max, product));
    b.stage(StageKind::Row);
    let (sum, most) = (b.reduced(sum), b.reduced(most));
    b.stage(StageKind::Loop);
    let (product, flag) = (b.scratch_load(slot), b.load(flag));
    let share = b.div(product, sum);
    let rest = b.sub(share, most);
    let y = b.select(flag, rest, product);
    b.store(out, y);
    b.finish()
}

/// An operand's memory and its strides over `sizes`, with the dimensions in `order` in memory, outermost first; along
/// those that are left out it is the same.
fn place(rng: &mut Rng, dtype: DType, sizes: [usize; 3], order: &[usize], backwards: bool) -> (Block, [isize; 3]) {
    let mut strides = [0isize; 3];
    let mut step = dtype.size() as isize;
    for d in order.iter().rev() {
        strides[*d] = if backwards { -step } else { step };
        step *= sizes[*d] as isize;
    }
    let offset = if backwards { step as usize - dtype.size() } else { 0 };
    let mut bytes = vec![0xa5; step as usize];
    for_each_index(&sizes, &[&strides], |at| {
        let bits = random_bits(rng, dtype);
        put(&mut bytes, offset.wrapping_add_signed(at[0]), dtype, bits);
    });
    (Block { bytes, offset }, strides)
}

fn case(rng: &mut Rng, kernel: Kernel, sizes: [usize; 3]) -> Case {
    let mut layouts = Vec::new();
    let mut memory = Vec::new();
    for operand in &kernel.operands {
        // The last two: apart along the rows, and the same for all outer indices.
        let inputs: [&[usize]; 8] = [&[0, 1, 2], &[0, 2], &[0, 2, 1], &[2, 1], &[1], &[2], &[1, 2], &[1, 2]];
        let order = match (operand.role, operand.level) {
            (Role::In, _) => rng.pick(&inputs),
            (Role::Out, Level::Inner) => &[0, 1, 2],
            (Role::Out, Level::Row) => &[0, 1],
        };
        let backwards = rng.one_in(6);
        let (block, [outer, row, inner]) = place(rng, operand.dtype, sizes, order, backwards);
        memory.push(block);
        layouts.push(Layout {
            outer: [outer, row].into_iter().collect(),
            reduced: Default::default(),
            inner: [inner].into_iter().collect(),
        });
    }
    let launch = Launch {
        outer: sizes[..2].iter().copied().collect(),
        reduced: Default::default(),
        inner: [sizes[2]].into_iter().collect(),
        layouts,
    };
    let mut case = Case { kernel, launch, memory, params: Vec::new() };
    case.prepare();
    case
}

#[test]
fn rows_of_every_length() {
    let compilers = Compilers::new();
    let count = if cfg!(debug_assertions) { 300 } else { 3000 };
    for seed in 0..count {
        let rng = &mut Rng::of_seed(seed, false);
        let dtype = rng.pick(&[DType::F64, DType::F32, DType::F32, DType::I16, DType::I64]);
        let reducers = [Reducer::Sum, Reducer::Sum, Reducer::Prod, Reducer::Min, Reducer::Max, Reducer::Any];
        let reducer = if dtype.is_float() && rng.one_in(5) { Reducer::Moments } else { rng.pick(&reducers) };
        let kernel = if rng.one_in(3) { normalised(dtype) } else { reduced(dtype, reducer) };
        let outer = rng.pick(&[1, 2, 4, 5, 9]);
        let rows = rng.pick(&[1, 3, 4, 7, 8, 9, 15, 16, 17, 30, 33, 100]);
        let short = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 24, 25, 31, 32, 33, 50, 63, 64, 65];
        let long = [95, 96, 97, 100, 127, 128, 129, 191, 192, 193, 255, 256, 257];
        let inner = if rng.one_in(4) { rng.pick(&long) } else { rng.pick(&short) };
        let case = case(rng, kernel, [outer, rows, inner]);
        case.check(&compilers, &MODES, &format!("seed {seed}"));
    }
}

/// What is compiled for them has no loops and no reductions: `Case::check` runs that, too.
#[test]
fn rows_of_few_elements_are_elements() {
    let compilers = Compilers::new();
    let reducers = [Reducer::Sum, Reducer::Prod, Reducer::Min, Reducer::Max, Reducer::Any, Reducer::Moments];
    for (seed, (elements, reducer)) in (1..=20).flat_map(|n| reducers.map(|reducer| (n, reducer))).enumerate() {
        let rng = &mut Rng::of_seed(seed as u64, false);
        let dtype = rng.pick(&[DType::F64, DType::F32]);
        let kernel = if rng.one_in(4) { normalised(dtype) } else { reduced(dtype, reducer) };
        let sizes = [rng.pick(&[1, 3, 9]), rng.pick(&[8, 67, 200]), elements];
        let case = case(rng, kernel, sizes);
        let specialized = specialize_from(1, &case.kernel, &case.launch);
        assert!(
            specialized.is_some_and(|s| s.unrolled.is_some() && s.kernel.is_elementwise()),
            "{elements}, {reducer:?}"
        );
        case.check(&compilers, &EACH_CODE, &format!("{elements}, {reducer:?}"));
        case.check(&compilers, &MODES, &format!("{elements}, {reducer:?}"));
    }
    // More than a reduction has lanes.
    let reducers = [Reducer::Sum, Reducer::Max, Reducer::Moments];
    for (elements, reducer) in [31, 32, 33, 50, 63, 64, 65].into_iter().flat_map(|n| reducers.map(|r| (n, r))) {
        for dtype in [DType::F64, DType::F32] {
            let rng = &mut Rng::of_seed(elements as u64, true);
            let case = case_of_pairs(rng, reduced(dtype, reducer), [11, 67, elements]);
            let specialized = specialize_from(1, &case.kernel, &case.launch);
            let is_few = elements <= 64 && reducer == Reducer::Sum;
            assert!(specialized.is_some_and(|s| s.unrolled.is_some()) || !is_few, "{elements}, {reducer:?}");
            case.check(&compilers, &MODES, &format!("{dtype}, {elements}, {reducer:?}"));
        }
    }
}

/// Inputs that are the same for all rows, and whose elements are apart: made adjacent, tile by tile.
#[test]
fn rows_share_inputs_whose_elements_are_apart() {
    let compilers = Compilers::new();
    for (seed, (dtype, elements)) in
        [64, 511, 1500, 9001].into_iter().flat_map(|n| [(DType::F64, n), (DType::I16, n)]).enumerate()
    {
        let rng = &mut Rng::of_seed(seed as u64, true);
        let mut b = Builder::kernel(Nest::Rows);
        let [x, y, z] = [(); 3].map(|()| b.operand(dtype, Role::In, Level::Inner));
        let out = b.operand(dtype, Role::Out, Level::Inner);
        b.stage(StageKind::Loop);
        let [x, y, z] = [x, y, z].map(|n| b.load(n));
        let (product, difference) = (b.mul(x, y), b.sub(x, z));
        let result = b.add(product, difference);
        b.store(out, result);
        // A column of an array, twice; the other one is there backwards.
        let sizes = [if seed % 3 == 0 { 9 } else { 21 }, elements, 11];
        let orders: [(&[usize], bool); 4] = [(&[0, 1], false), (&[1, 2], false), (&[1, 2], true), (&[0, 1], false)];
        let placed: Vec<_> =
            orders.iter().map(|(order, backwards)| place(rng, dtype, sizes, order, *backwards)).collect();
        let layout = |[outer, inner, _]: [isize; 3]| Layout {
            outer: [outer].into_iter().collect(),
            reduced: Default::default(),
            inner: [inner].into_iter().collect(),
        };
        let launch = Launch {
            outer: [sizes[0]].into_iter().collect(),
            reduced: Default::default(),
            inner: [elements].into_iter().collect(),
            layouts: placed.iter().map(|(_, strides)| layout(*strides)).collect(),
        };
        let memory = placed.into_iter().map(|(block, _)| block).collect();
        let mut case = Case { kernel: b.finish(), launch, memory, params: Vec::new() };
        case.prepare();
        let specialized = specialize(&case.kernel, &case.launch).expect("a kernel for adjacent elements");
        assert!(specialized.kernel.operands.iter().all(|operand| operand.access != Access::Strided));
        case.check(&compilers, &MODES, &format!("{dtype}, {elements}"));
    }
}

#[test]
fn many_rows_fill_several_tiles() {
    let compilers = Compilers::new();
    let dimensions = [3, 32, 50, 128].map(|n| (DType::F64, n));
    let narrow = [(DType::F32, 50), (DType::F32, 64), (DType::F32, 200), (DType::I16, 7)];
    for (dtype, dimensions) in dimensions.into_iter().chain(narrow) {
        let rng = &mut Rng::of_seed(dimensions as u64, true);
        let case = case_of_pairs(rng, reduced(dtype, Reducer::Sum), [11, 1501, dimensions]);
        case.check(&compilers, &MODES, &format!("{dtype}, {dimensions}"));
    }
}

/// `x` is the same for all rows, `y` for all outer indices.
fn case_of_pairs(rng: &mut Rng, kernel: Kernel, sizes: [usize; 3]) -> Case {
    let dtype = kernel.operands[0].dtype;
    let orders: [&[usize]; 3] = [&[0, 2], &[1, 2], &[0, 1]];
    let placed: Vec<_> = orders.iter().map(|order| place(rng, dtype, sizes, order, false)).collect();
    let layout = |[outer, row, inner]: [isize; 3]| Layout {
        outer: [outer, row].into_iter().collect(),
        reduced: Default::default(),
        inner: [inner].into_iter().collect(),
    };
    let launch = Launch {
        outer: sizes[..2].iter().copied().collect(),
        reduced: Default::default(),
        inner: [sizes[2]].into_iter().collect(),
        layouts: placed.iter().map(|(_, strides)| layout(*strides)).collect(),
    };
    let memory = placed.into_iter().map(|(block, _)| block).collect();
    let mut case = Case { kernel, launch, memory, params: Vec::new() };
    case.prepare();
    case
}

/// Rows are then not run twice, which would read what they have written.
#[test]
fn rows_may_be_written_where_they_were() {
    let mut b = Builder::kernel(Nest::Rows);
    let x = b.operand(DType::F64, Role::In, Level::Inner);
    let out = b.operand(DType::F64, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let element = b.load(x);
    let sum = b.reduce(Reducer::Sum, element);
    b.stage(StageKind::Row);
    let sum = b.reduced(sum);
    b.stage(StageKind::Loop);
    let element = b.load(x);
    let y = b.add(element, sum);
    b.store(out, y);
    let mut kernel = b.finish();
    kernel.operands.iter_mut().for_each(|o| o.access = Access::Unit);
    let compiled = Compiler::new(Options::default()).unwrap().compile(&kernel).unwrap();
    for rows in [7, 8, 9, 21, 30] {
        let width = 3;
        let mut array: Vec<f64> = (0..rows * width).map(|i| i as f64).collect();
        let layout = Layout {
            outer: [8 * width as isize].into_iter().collect(),
            reduced: Default::default(),
            inner: [8].into_iter().collect(),
        };
        let launch = Launch {
            outer: [rows].into_iter().collect(),
            reduced: Default::default(),
            inner: [width].into_iter().collect(),
            layouts: vec![layout.clone(), layout],
        };
        let want: Vec<f64> =
            array.chunks(width).flat_map(|row| row.iter().map(|x| x + row.iter().sum::<f64>())).collect();
        let pointer: *mut u8 = array.as_mut_ptr().cast();
        // SAFETY: the array covers the launch, and both operands have the same layout and pointer.
        unsafe { compiled.run(&launch, &[pointer, pointer], &[], &RunOptions::default()) }.unwrap();
        assert_eq!(array, want, "{rows} rows");
    }
}
