//! Random kernels on random launches: compiled code leaves the same bytes in memory as the interpreter, in vector and
//! scalar mode, on one thread and on three. A failure prints its seed, the kernel and the launch.

mod common;

use common::{Block, Case, Code, Compilers, Mode, Rng, put, random_bits, special_bits};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Level, Nest, Prim, Reducer, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout, Sizes, for_each_index};
use numfuse_core::literal::Literal;

const MODES: [Mode; 7] = [
    Mode { code: Code::Avx512, threads: 1, shared: false },
    Mode { code: Code::Avx2, threads: 1, shared: false },
    Mode { code: Code::Cranelift, threads: 1, shared: false },
    Mode { code: Code::Cranelift, threads: 3, shared: true },
    Mode { code: Code::Scalar, threads: 1, shared: false },
    Mode { code: Code::Scalar, threads: 3, shared: true },
    Mode { code: Code::Baseline, threads: 1, shared: true },
];

/// Which groups of dimensions an operand varies along.
#[derive(Clone, Copy)]
struct Extent {
    reduced: bool,
    inner: bool,
}

/// Builds a random kernel, remembering what its launch must respect.
struct Generator<'r> {
    rng: &'r mut Rng,
    b: Builder,
    dtypes: Vec<DType>,
    extents: Vec<Extent>,
    params: Vec<Literal>,
    /// Values of any row stage so far.
    rows: Vec<Value>,
    /// Values of the open loop.
    elements: Vec<Value>,
    slots: Vec<u32>,
}

impl Generator<'_> {
    fn dtype(&mut self) -> DType {
        // Mostly few dtypes, so that values meet others of their kind.
        self.dtypes[self.rng.below(self.dtypes.len())]
    }

    fn visible(&mut self) -> Option<Value> {
        let (rows, elements) = (self.rows.len(), self.elements.len());
        if rows + elements == 0 {
            return None;
        }
        if elements > 0 && (rows == 0 || !self.rng.one_in(4)) {
            return Some(self.elements[self.rng.below(elements)]);
        }
        Some(self.rows[self.rng.below(rows)])
    }

    fn keep(&mut self, v: Value, in_loop: bool) {
        if in_loop { self.elements.push(v) } else { self.rows.push(v) }
    }

    fn operand(&mut self, dtype: DType, role: Role, extent: Extent, level: Level) -> u32 {
        self.extents.push(extent);
        self.b.operand(dtype, role, level)
    }

    fn leaf(&mut self, in_loop: bool, extent: Extent) -> Value {
        let dtype = self.dtype();
        match self.rng.below(8) {
            0 => {
                let bits = special_bits(dtype);
                self.b.constant(Literal::from_bits(dtype, self.rng.pick(&bits)))
            }
            1 => {
                self.params.push(Literal::from_bits(dtype, random_bits(self.rng, dtype)));
                let v = self.b.param(dtype);
                self.rows.push(v);
                v
            }
            2 if !self.slots.is_empty() && in_loop => {
                let slot = self.rng.pick(&self.slots);
                self.b.scratch_load(slot)
            }
            _ if in_loop => {
                let n = self.operand(dtype, Role::In, Extent { inner: true, ..extent }, Level::Inner);
                self.b.load(n)
            }
            _ => {
                let n = self.operand(dtype, Role::In, Extent { inner: false, ..extent }, Level::Row);
                self.b.load(n)
            }
        }
    }

    fn as_dtype(&mut self, v: Value, dtype: DType) -> Value {
        self.b.cast(v, dtype)
    }

    /// One more value from visible ones.
    fn step(&mut self) -> Option<Value> {
        let x = self.visible()?;
        let (y, z) = (self.visible()?, self.visible()?);
        let dtype = self.b.dtype(x);
        let prim = self.rng.pick(&Prim::ALL);
        let float = |g: &Self, v: Value| if g.b.dtype(v).is_float() { g.b.dtype(v) } else { DType::F64 };
        let number = if dtype == DType::Bool { DType::I32 } else { dtype };
        let integer = if dtype.is_int() { dtype } else { DType::I32 };
        let (arg, second) = match prim {
            Prim::Neg | Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Rem | Prim::Min | Prim::Max => {
                (number, number)
            }
            Prim::Lt | Prim::Le => (number, number),
            Prim::Abs if dtype.is_float() || dtype.is_signed() => (dtype, dtype),
            Prim::Abs => (DType::I16, DType::I16),
            Prim::Fma | Prim::Sqrt | Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::RoundEven => {
                let d = float(self, x);
                (d, d)
            }
            Prim::And | Prim::Or | Prim::Xor | Prim::Not if dtype == DType::Bool => (dtype, dtype),
            Prim::And | Prim::Or | Prim::Xor | Prim::Not | Prim::Shl | Prim::Shr => (integer, integer),
            Prim::Eq | Prim::Ne => (dtype, dtype),
            Prim::Select => (DType::Bool, self.b.dtype(y)),
            Prim::Cast => {
                let to = self.dtype();
                return Some(self.as_dtype(x, to));
            }
            Prim::Bitcast => {
                let x = self.as_dtype(x, number);
                let twins: Vec<DType> =
                    DType::ALL.into_iter().filter(|d| d.size() == number.size() && *d != DType::Bool).collect();
                let to = self.rng.pick(&twins);
                return Some(self.b.bitcast(x, to));
            }
        };
        let x = self.as_dtype(x, arg);
        let y = self.as_dtype(y, second);
        let z = self.as_dtype(z, second);
        Some(match prim.arity() {
            1 => self.b.prim(prim, &[x]),
            2 => self.b.prim(prim, &[x, y]),
            _ => self.b.prim(prim, &[x, y, z]),
        })
    }

    fn fill(&mut self, in_loop: bool, extent: Extent, leaves: usize, steps: usize) {
        for _ in 0..leaves {
            let v = self.leaf(in_loop, extent);
            self.keep(v, in_loop);
        }
        for _ in 0..steps {
            if let Some(v) = self.step() {
                self.keep(v, in_loop);
            }
        }
    }

    fn store(&mut self, extent: Extent, in_loop: bool) {
        let Some(v) = self.visible_at(in_loop) else { return };
        let dtype = self.b.dtype(v);
        let level = if in_loop { Level::Inner } else { Level::Row };
        let n = self.operand(dtype, Role::Out, Extent { inner: in_loop, ..extent }, level);
        self.b.store(n, v);
    }

    fn visible_at(&mut self, in_loop: bool) -> Option<Value> {
        if in_loop {
            return self.visible();
        }
        if self.rows.is_empty() { None } else { Some(self.rows[self.rng.below(self.rows.len())]) }
    }

    fn reduce(&mut self) -> Option<u32> {
        let x = self.visible()?;
        let reducer = self.rng.pick(&Reducer::ALL);
        let dtype = self.b.dtype(x);
        let dtype = match reducer {
            Reducer::Any | Reducer::All => DType::Bool,
            Reducer::Moments if !dtype.is_float() => DType::F32,
            Reducer::Moments => dtype,
            _ if dtype == DType::Bool => DType::I64,
            _ => dtype,
        };
        let x = self.as_dtype(x, dtype);
        Some(self.b.reduce(reducer, x))
    }

    fn rows_kernel(&mut self) {
        let extent = Extent { reduced: false, inner: false };
        let (leaves, steps) = (self.rng.below(2), self.rng.below(3));
        self.fill(false, extent, leaves, steps);
        let loops = 1 + self.rng.below(3);
        for l in 0..loops {
            self.b.stage(StageKind::Loop);
            self.elements.clear();
            let (leaves, steps) = (1 + self.rng.below(3), self.rng.below(12));
            self.fill(true, extent, leaves, steps);
            let mut folds = Vec::new();
            let reductions = if self.rng.one_in(3) { 0 } else { 1 + self.rng.below(2) };
            for _ in 0..reductions {
                folds.extend(self.reduce());
            }
            if reductions == 0 || self.rng.one_in(3) {
                self.store(extent, true);
            }
            let mut written = None;
            if l + 1 < loops && self.rng.one_in(2) {
                let v = self.elements[self.rng.below(self.elements.len())];
                let slot = self.b.scratch(self.b.dtype(v));
                self.b.scratch_store(slot, v);
                written = Some(slot);
            }
            self.b.stage(StageKind::Row);
            self.elements.clear();
            for r in folds {
                let v = self.b.reduced(r);
                self.rows.push(v);
            }
            self.slots.extend(written);
            let steps = self.rng.below(4);
            self.fill(false, extent, 0, steps);
            if reductions > 0 || self.rng.one_in(6) {
                self.store(extent, false);
            }
        }
    }

    fn columns_kernel(&mut self) {
        let extent = Extent { reduced: true, inner: false };
        let mut uniform = Vec::new();
        for _ in 0..self.rng.below(2) {
            let dtype = self.dtype();
            self.params.push(Literal::from_bits(dtype, random_bits(self.rng, dtype)));
            uniform.push(self.b.param(dtype));
        }
        self.rows = uniform.clone();
        let steps = self.rng.below(2);
        self.fill(false, extent, 0, steps);
        let uniform = self.rows.clone();
        let (leaves, steps) = (self.rng.below(2), self.rng.below(3));
        self.fill(false, extent, leaves, steps);
        if self.rng.one_in(6) {
            self.store(extent, false);
        }
        self.b.stage(StageKind::Loop);
        let (leaves, steps) = (1 + self.rng.below(2), self.rng.below(8));
        self.fill(true, extent, leaves, steps);
        let mut folds = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            folds.extend(self.reduce());
        }
        if self.rng.one_in(4) {
            self.store(extent, true);
        }
        self.b.stage(StageKind::Loop);
        self.elements.clear();
        self.rows = uniform;
        let extent = Extent { reduced: false, inner: true };
        for r in folds {
            let v = self.b.reduced(r);
            self.elements.push(v);
        }
        let (leaves, steps) = (self.rng.below(2), self.rng.below(5));
        self.fill(true, extent, leaves, steps);
        self.store(extent, true);
        if self.rng.one_in(3) {
            self.store(extent, true);
        }
    }
}

fn sizes(rng: &mut Rng, rank: usize, last: &[usize]) -> Sizes {
    (0..rank).map(|i| if i + 1 == rank { rng.pick(last) } else { rng.pick(&[1, 2, 3, 1, 2, 5]) }).collect()
}

/// Strides of an operand over all its dimensions, and the bytes and the origin that they need.
fn place(rng: &mut Rng, sizes: &[usize], varies: &[bool], size: usize, output: bool) -> (Vec<isize>, usize, usize) {
    let style = rng.below(6);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    if style == 1 {
        // Some other memory order than row-major.
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i + 1));
        }
    }
    let mut strides = vec![0isize; sizes.len()];
    let mut step = match style {
        2 => size * (1 + rng.below(3)),
        3 => size + rng.below(5),
        _ => size,
    } as isize;
    for d in order.into_iter().rev() {
        if !varies[d] || (!output && rng.one_in(7)) {
            continue;
        }
        let negative = style >= 4 && rng.one_in(2);
        strides[d] = if negative { -step } else { step };
        step *= sizes[d].max(1) as isize;
        if style == 2 && rng.one_in(2) {
            step += size as isize;
        }
    }
    let reach = |sign: isize| -> usize {
        strides
            .iter()
            .zip(sizes)
            .map(|(s, n)| if s * sign > 0 { s.unsigned_abs() * n.saturating_sub(1) } else { 0 })
            .sum()
    };
    let before = reach(-1) + rng.below(4);
    let len = before + reach(1) + size + rng.below(20);
    (strides, len, before)
}

fn random_case(rng: &mut Rng, columns: bool) -> Case {
    let palette: Vec<DType> = match rng.below(4) {
        0 => vec![DType::F64, DType::F64, DType::F64, DType::Bool],
        1 => vec![DType::F32, DType::F32, DType::I32],
        2 => vec![rng.pick(&DType::ALL), rng.pick(&DType::ALL)],
        _ => DType::ALL.to_vec(),
    };
    let nest = if columns { Nest::Columns } else { Nest::Rows };
    let mut g = Generator {
        rng,
        b: Builder::kernel(nest),
        dtypes: palette,
        extents: vec![],
        params: vec![],
        rows: vec![],
        elements: vec![],
        slots: vec![],
    };
    if columns {
        g.columns_kernel();
    } else {
        g.rows_kernel();
    }
    let Generator { rng, b, extents, params, .. } = g;
    let kernel = b.finish();
    let outer_rank = rng.below(3);
    let outer =
        if rng.one_in(30) { sizes(rng, outer_rank, &[0]) } else { sizes(rng, outer_rank, &[1, 2, 3, 4, 9, 21, 35]) };
    let inner_rank = if rng.one_in(4) { 2 + rng.below(2) } else { rng.below(2) + usize::from(!rng.one_in(5)) };
    let big = [1023, 1024, 1025, 2048, 2049, 3000, 4097];
    let small = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 130, 257];
    let (inner, reduced) = if columns {
        let inner = sizes(rng, inner_rank.min(2), &small);
        let rank = 1 + rng.below(2);
        let few = inner.iter().product::<usize>() < 40;
        let long: &[usize] = if few { &[127, 128, 129, 255, 256, 300, 700, 1100] } else { &[1, 2, 3, 5, 130] };
        let last = if rng.one_in(2) { &[0, 1, 2, 5, 17] } else { long };
        let reduced = sizes(rng, rank, last);
        (inner, reduced)
    } else {
        let last = if rng.one_in(4) && inner_rank < 3 { &big[..] } else { &small[..] };
        let inner = sizes(rng, inner_rank, last);
        (inner, Sizes::new())
    };
    let all: Vec<usize> = outer.iter().chain(&reduced).chain(&inner).copied().collect();
    let mut layouts = Vec::new();
    let mut memory = Vec::new();
    for (operand, extent) in kernel.operands.iter().zip(&extents) {
        let varies: Vec<bool> = outer
            .iter()
            .map(|_| true)
            .chain(reduced.iter().map(|_| extent.reduced))
            .chain(inner.iter().map(|_| extent.inner))
            .collect();
        let size = operand.dtype.size();
        let output = operand.role == Role::Out;
        let (strides, len, offset) = place(rng, &all, &varies, size, output);
        let mut bytes = vec![0xa5; len];
        if !output {
            for_each_index(&all, &[&strides], |at| {
                let bits = random_bits(rng, operand.dtype);
                put(&mut bytes, offset.wrapping_add_signed(at[0]), operand.dtype, bits);
            });
        }
        memory.push(Block { bytes, offset });
        let (o, rest) = strides.split_at(outer.len());
        let (r, i) = rest.split_at(reduced.len());
        layouts.push(Layout {
            outer: o.iter().copied().collect(),
            reduced: r.iter().copied().collect(),
            inner: i.iter().copied().collect(),
        });
    }
    let mut case = Case { kernel, launch: Launch { outer, reduced, inner, layouts }, memory, params };
    case.prepare();
    case
}

/// Runs the cases of `count` seeds, or of `SEEDS=first..end` from the environment.
fn run(columns: bool, count: u64) {
    let range = std::env::var("SEEDS").ok().and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    let compilers = Compilers::new();
    for seed in range.unwrap_or(0..count) {
        let mut rng = Rng(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ u64::from(columns));
        let case = random_case(&mut rng, columns);
        let modes = &MODES[..if seed % 4 == 0 { MODES.len() } else { 2 }];
        case.check(&compilers, modes, &format!("seed {seed}"));
    }
}

#[test]
fn random_row_kernels() {
    run(false, 400);
}

#[test]
fn random_column_kernels() {
    run(true, 250);
}
