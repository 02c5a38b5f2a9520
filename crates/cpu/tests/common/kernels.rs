//! Kernels for tests: random ones with launches and memory for them, and every form of every primitive. Needs
//! `numfuse_core` alone, so that the unit tests of the code generators include it too.

use numfuse_core::dtype::DType;
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Prim, Reducer, Role, StageKind, Value, verify};
use numfuse_core::launch::{Launch, Layout, Sizes, for_each_index};
use numfuse_core::literal::Literal;

/// A small generator of random numbers (splitmix64), so that a seed means the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    /// The numbers of a random kernel.
    pub fn of_seed(seed: u64, columns: bool) -> Rng {
        Rng(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ u64::from(columns))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Bits of interesting values of a dtype.
pub fn special_bits(dtype: DType) -> Vec<u64> {
    match dtype {
        DType::Bool => vec![0, 1],
        DType::F64 => [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            0.49999999999999994,
            4503599627370497.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            5e-324,
            -5e-324,
            f64::MAX,
            f64::MIN,
            1e300,
            -1e-300,
            127.0,
            128.0,
            -128.9,
            -129.0,
            255.5,
            256.0,
            32767.9,
            32768.0,
            65535.0,
            65536.0,
            2147483647.0,
            2147483647.5,
            2147483648.0,
            -2147483648.9,
            -2147483649.0,
            4294967295.0,
            4294967295.9,
            4294967296.0,
            9223372036854775807.0,
            -9223372036854775808.0,
            18446744073709551615.0,
            18446744073709549568.0,
            3.0,
            0.1,
        ]
        .map(f64::to_bits)
        .to_vec(),
        DType::F32 => [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            0.49999997,
            8388609.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
            f32::MAX,
            f32::MIN,
            127.5,
            128.0,
            -128.9,
            -129.0,
            255.5,
            256.0,
            32767.9,
            32768.0,
            65535.5,
            65536.0,
            2147483500.0,
            2147483648.0,
            -2147483648.0,
            -2147483904.0,
            4294967040.0,
            4294967296.0,
            9223371500000000000.0,
            9223372036854775807.0,
            -9223372036854775808.0,
            18446743000000000000.0,
            18446744073709551615.0,
            3.0,
            0.1,
        ]
        .map(|x: f32| u64::from(x.to_bits()))
        .to_vec(),
        _ => {
            let bits = dtype.bits();
            let mask = u64::MAX >> (64 - bits);
            let top = 1u64 << (bits - 1);
            let mut values = vec![0, 1, 2, 3, 7, mask, mask - 1, top, top - 1, top + 1, u64::from(bits)];
            values.extend([u64::from(bits) - 1, u64::from(bits) + 1, 100, 0x5555_5555_5555_5555]);
            values.extend([(1 << 24) + 1, (1 << 53) + 1, (1 << 60) + (1 << 36) + 1, u64::MAX - 1023, (1 << 40) + 1]);
            values.iter().map(|v| v & mask).collect()
        }
    }
}

/// The bits of a random value.
pub fn random_bits(rng: &mut Rng, dtype: DType) -> u64 {
    if dtype == DType::Bool {
        // Memory may hold any byte for true.
        return rng.pick(&[0, 1, 0, 1, 0, 1, 2, 255]);
    }
    if rng.one_in(6) {
        let special = special_bits(dtype);
        return rng.pick(&special);
    }
    match dtype {
        DType::F64 => ((rng.next() as i64 >> 40) as f64 / 1024.0).to_bits(),
        DType::F32 => u64::from(((rng.next() as i64 >> 50) as f32 / 64.0).to_bits()),
        _ if rng.one_in(2) => rng.next(),
        _ => rng.below(20) as u64,
    }
}

/// One operand's memory.
#[derive(Clone)]
pub struct Block {
    pub bytes: Vec<u8>,
    /// The element with all indices zero.
    pub offset: usize,
}

/// Everything needed to run a kernel.
#[derive(Clone)]
pub struct Case {
    pub kernel: Kernel,
    pub launch: Launch,
    pub memory: Vec<Block>,
    pub params: Vec<Literal>,
}

impl Case {
    /// Canonicalises the launch and sets the kernel's accesses.
    pub fn prepare(&mut self) {
        verify(&self.kernel).unwrap_or_else(|e| panic!("{e}\n{}", self.kernel));
        self.launch.canonicalize(&self.kernel);
        self.launch.set_accesses(&mut self.kernel);
    }

    /// What the interpreter leaves in memory.
    pub fn interpret(&self) -> Vec<Block> {
        let mut after = self.memory.clone();
        let mut memory: Vec<Memory<'_>> = after
            .iter_mut()
            .zip(&self.kernel.operands)
            .map(|(block, operand)| Memory {
                offset: block.offset,
                bytes: match operand.role {
                    Role::In => Bytes::In(&block.bytes),
                    Role::Out => Bytes::Out(&mut block.bytes),
                },
            })
            .collect();
        interp::run(&self.kernel, &self.launch, &mut memory, &self.params);
        drop(memory);
        after
    }

    /// Compares the back end's memory with the interpreter's.
    pub fn compare(&self, want: &[Block], got: &[Block]) -> Result<(), String> {
        let (mut want, mut got) = (want.to_vec(), got.to_vec());
        for (n, operand) in self.kernel.operands.iter().enumerate() {
            if operand.role == Role::Out {
                let size = operand.dtype.size();
                let layout = &self.launch.layouts[n];
                let sizes: Vec<usize> =
                    self.launch.outer.iter().chain(&self.launch.reduced).chain(&self.launch.inner).copied().collect();
                let strides: Vec<isize> =
                    layout.outer.iter().chain(&layout.reduced).chain(&layout.inner).copied().collect();
                let mut index = 0;
                let mut wrong = None;
                let mut place = |offsets: &[isize]| {
                    let at = self.memory[n].offset.wrapping_add_signed(offsets[0]);
                    let read = |block: &Block| {
                        let mut word = [0; 8];
                        word[..size].copy_from_slice(&block.bytes[at..at + size]);
                        Literal::from_bits(operand.dtype, u64::from_le_bytes(word))
                    };
                    let (a, b) = (read(&want[n]), read(&got[n]));
                    let both_nan = operand.dtype.is_float() && a.as_f64().is_nan() && b.as_f64().is_nan();
                    if a != b && !both_nan && wrong.is_none() {
                        wrong = Some(format!("operand {n}, element {index}: interpreter {a:?}, compiled {b:?}"));
                    }
                    if both_nan {
                        got[n].bytes[at..at + size].fill(0);
                        want[n].bytes[at..at + size].fill(0);
                    }
                    index += 1;
                };
                for_each_index(&sizes, &[&strides], &mut place);
                if let Some(wrong) = wrong {
                    return Err(wrong);
                }
            }
            if let Some(at) = (0..want[n].bytes.len()).find(|at| want[n].bytes[*at] != got[n].bytes[*at]) {
                return Err(format!("operand {n}: byte {at} differs, outside of every element"));
            }
        }
        Ok(())
    }
}

/// Writes a value at a byte position.
pub fn put(bytes: &mut [u8], at: usize, dtype: DType, bits: u64) {
    bytes[at..at + dtype.size()].copy_from_slice(&bits.to_le_bytes()[..dtype.size()]);
}

/// The dtypes of the operands and the result for each form of a primitive.
pub fn forms(prim: Prim) -> Vec<(Vec<DType>, DType)> {
    let all = DType::ALL;
    let floats = [DType::F32, DType::F64];
    let same = |dtypes: &[DType]| dtypes.iter().map(|d| (vec![*d; prim.arity()], *d)).collect::<Vec<_>>();
    let numbers: Vec<DType> = all.into_iter().filter(|d| *d != DType::Bool).collect();
    let integers: Vec<DType> = all.into_iter().filter(|d| d.is_int()).collect();
    match prim {
        Prim::Neg | Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Rem | Prim::Min | Prim::Max => same(&numbers),
        Prim::Abs => same(&numbers.into_iter().filter(|d| d.is_float() || d.is_signed()).collect::<Vec<_>>()),
        Prim::Fma | Prim::Sqrt | Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::RoundEven => same(&floats),
        Prim::Scale | Prim::LargeSin | Prim::LargeCos | Prim::LargeTan => same(&floats),
        Prim::And | Prim::Or | Prim::Xor | Prim::Not => {
            same(&all.into_iter().filter(|d| !d.is_float()).collect::<Vec<_>>())
        }
        Prim::Shl | Prim::Shr => same(&integers),
        Prim::Eq | Prim::Ne => all.iter().map(|d| (vec![*d; 2], DType::Bool)).collect(),
        Prim::Lt | Prim::Le => numbers.iter().map(|d| (vec![*d; 2], DType::Bool)).collect(),
        Prim::Select => all.iter().map(|d| (vec![DType::Bool, *d, *d], *d)).collect(),
        Prim::Cast => all.iter().flat_map(|a| all.iter().filter(move |b| a != *b).map(|b| (vec![*a], *b))).collect(),
        Prim::Bitcast => numbers
            .iter()
            .flat_map(|a| numbers.iter().filter(move |b| a != *b && a.size() == b.size()).map(|b| (vec![*a], *b)))
            .collect(),
    }
}

/// The primitive applied to operands.
pub fn apply(b: &mut Builder, prim: Prim, args: &[Value], result: DType) -> Value {
    match prim {
        Prim::Cast => b.cast(args[0], result),
        Prim::Bitcast => b.bitcast(args[0], result),
        Prim::Scale => {
            // Of any numbers two that it is defined for: one between 1 and 2, an integer in the range.
            let (word, mantissa, most) = match result {
                DType::F64 => (DType::U64, 0x000f_ffff_ffff_ffff, 2046.0),
                _ => (DType::U32, 0x007f_ffff, 254.0),
            };
            let (one, mantissa) = (b.float(result, 1.0), b.bits(word, mantissa));
            let [bits, ones] = [args[0], one].map(|x| b.bitcast(x, word));
            let bits = b.and(bits, mantissa);
            let bits = b.or(bits, ones);
            let x = b.bitcast(bits, result);
            let (least, most) = (b.float(result, -most), b.float(result, most));
            let k = b.max(args[1], least);
            let k = b.min(k, most);
            let k = b.round_even(k);
            b.scale(x, k)
        }
        _ => b.prim(prim, args),
    }
}

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
        let prim = match self.rng.pick(&Prim::ALL) {
            // They are long.
            Prim::LargeSin | Prim::LargeCos | Prim::LargeTan if !self.rng.one_in(6) => Prim::Fma,
            prim => prim,
        };
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
            Prim::Fma
            | Prim::Sqrt
            | Prim::Floor
            | Prim::Ceil
            | Prim::Trunc
            | Prim::RoundEven
            | Prim::Scale
            | Prim::LargeSin
            | Prim::LargeCos
            | Prim::LargeTan => {
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
        Some(apply(&mut self.b, prim, &[x, y, z][..prim.arity()], second))
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
            Reducer::Moments | Reducer::Center if !dtype.is_float() => DType::F32,
            Reducer::Moments | Reducer::Center => dtype,
            _ if dtype == DType::Bool => DType::I64,
            _ => dtype,
        };
        let x = self.as_dtype(x, dtype);
        Some(self.b.reduce(reducer, x))
    }

    fn rows_kernel(&mut self) {
        let extent = Extent { reduced: false, inner: false };
        // Some only load elements of rows, and compute elements from them.
        let plain = self.rng.one_in(5);
        let (leaves, steps) = if plain { (1 + self.rng.below(4), 0) } else { (self.rng.below(2), self.rng.below(3)) };
        self.fill(false, extent, leaves, steps);
        let loops = if plain { 1 } else { 1 + self.rng.below(3) };
        for l in 0..loops {
            self.b.stage(StageKind::Loop);
            self.elements.clear();
            let (leaves, steps) = (1 + self.rng.below(3), self.rng.below(12));
            self.fill(true, extent, leaves, steps);
            let mut folds = Vec::new();
            let reductions = if plain || self.rng.one_in(3) { 0 } else { 1 + self.rng.below(2) };
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
            if plain {
                continue;
            }
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

/// Strides of an operand over all its dimensions, and the bytes and the origin that they need. `unit` is what strides and
/// the origin are multiples of.
fn place(
    rng: &mut Rng,
    sizes: &[usize],
    varies: &[bool],
    (size, unit): (usize, usize),
    output: bool,
) -> (Vec<isize>, usize, usize) {
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
        3 => (size + rng.below(5)).next_multiple_of(unit),
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
    let before = reach(-1) + rng.below(4) * unit;
    let len = before + reach(1) + size + rng.below(20);
    (strides, len, before)
}

/// A random kernel with a launch and memory for it, in which elements lie at any byte.
pub fn random_case(rng: &mut Rng, columns: bool) -> Case {
    case_of(rng, columns, |_| 1)
}

/// A random kernel with a launch and memory for it, in which elements lie at multiples of their size, and the first one at
/// a multiple of `bytes`.
pub fn random_aligned_case(rng: &mut Rng, columns: bool, bytes: usize) -> Case {
    case_of(rng, columns, |size| size.max(bytes))
}

fn case_of(rng: &mut Rng, columns: bool, unit: impl Fn(usize) -> usize) -> Case {
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
        let (strides, len, offset) = place(rng, &all, &varies, (size, unit(size)), output);
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
