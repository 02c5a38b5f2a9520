//! The meaning of a kernel: runs it one scalar at a time. Every back end must return these bits.
//!
//! [`eval`] gives a primitive its meaning; it also folds constants. [`run`] walks the loop nest as the texts of
//! [`crate::kernel`] and [`crate::kernel::reduce`] describe it. Clarity comes before speed here, always: this file is
//! what the fast ones are held against. Any NaN equals any NaN; signs and payloads of NaN results are not specified.

use crate::dtype::{DType, Kind};
use crate::kernel::expand;
use crate::kernel::reduce::{self, State};
use crate::kernel::{Body, Inst, InstData, Kernel, Nest, Prim, Reducer, StageKind};
use crate::launch::{Launch, Layout, for_each_index};
use crate::literal::Literal;
use smallvec::SmallVec;

/// The value of a primitive. The operands obey the typing rule on [`Prim`].
pub fn eval(prim: Prim, dtype: DType, args: &[Literal]) -> Literal {
    match prim {
        Prim::LargeSin | Prim::LargeCos | Prim::LargeTan => {
            return expand::body(prim, dtype).map_or(args[0], |body| eval_body(body, args)[0]);
        }
        Prim::Select => return if args[0].as_bool() { args[1] } else { args[2] },
        Prim::Cast => return args[0].cast(dtype),
        Prim::Bitcast => return Literal::from_bits(dtype, args[0].bits()),
        Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => return Literal::bool(compare(prim, args[0], args[1])),
        _ => {}
    }
    match dtype {
        DType::F32 => {
            let x = |i: usize| f32::from_bits(args[i].bits() as u32);
            Literal::f32(match prim {
                Prim::Neg => -x(0),
                Prim::Abs => x(0).abs(),
                Prim::Add => x(0) + x(1),
                Prim::Sub => x(0) - x(1),
                Prim::Mul => x(0) * x(1),
                Prim::Div => x(0) / x(1),
                Prim::Rem => x(0) % x(1),
                Prim::Fma => x(0).mul_add(x(1), x(2)),
                Prim::Sqrt => x(0).sqrt(),
                Prim::Min if x(0) < x(1) => x(0),
                Prim::Max if x(0) > x(1) => x(0),
                Prim::Min | Prim::Max => x(1),
                Prim::Floor => x(0).floor(),
                Prim::Ceil => x(0).ceil(),
                Prim::Trunc => x(0).trunc(),
                Prim::RoundEven => x(0).round_ties_even(),
                Prim::Scale => scale(f64::from(x(0)), f64::from(x(1))) as f32,
                _ => unreachable!("{} of f32", prim.name()),
            })
        }
        DType::F64 => {
            let x = |i: usize| f64::from_bits(args[i].bits());
            Literal::f64(match prim {
                Prim::Neg => -x(0),
                Prim::Abs => x(0).abs(),
                Prim::Add => x(0) + x(1),
                Prim::Sub => x(0) - x(1),
                Prim::Mul => x(0) * x(1),
                Prim::Div => x(0) / x(1),
                Prim::Rem => x(0) % x(1),
                Prim::Fma => x(0).mul_add(x(1), x(2)),
                Prim::Sqrt => x(0).sqrt(),
                Prim::Min if x(0) < x(1) => x(0),
                Prim::Max if x(0) > x(1) => x(0),
                Prim::Min | Prim::Max => x(1),
                Prim::Floor => x(0).floor(),
                Prim::Ceil => x(0).ceil(),
                Prim::Trunc => x(0).trunc(),
                Prim::RoundEven => x(0).round_ties_even(),
                Prim::Scale => scale(x(0), x(1)),
                _ => unreachable!("{} of f64", prim.name()),
            })
        }
        _ => integer(prim, dtype, args),
    }
}

/// As [`Prim::Scale`]: the first product is exact, unless the second one is zero or infinite in any case.
fn scale(x: f64, k: f64) -> f64 {
    let power = |k: f64| 2f64.powi(k as i32);
    let half = (k * 0.5).floor();
    x * power(half) * power(k - half)
}

fn compare(prim: Prim, a: Literal, b: Literal) -> bool {
    macro_rules! by {
        ($x:expr, $y:expr) => {
            match prim {
                Prim::Eq => $x == $y,
                Prim::Ne => $x != $y,
                Prim::Lt => $x < $y,
                _ => $x <= $y,
            }
        };
    }
    match a.dtype().kind() {
        Kind::Float => by!(a.as_f64(), b.as_f64()),
        Kind::Int => by!(a.as_i64(), b.as_i64()),
        Kind::Bool | Kind::Uint => by!(a.bits(), b.bits()),
    }
}

/// Integers and bools. Signed ones are computed in sign-extended, unsigned ones in zero-extended 64 bits, and cut to
/// the dtype's width: wrapping arithmetic does not see the difference.
fn integer(prim: Prim, dtype: DType, args: &[Literal]) -> Literal {
    let signed = dtype.is_signed();
    let width = u64::from(dtype.bits());
    let (sx, sy) = (args[0].as_i64(), args.get(1).map_or(0, |y| y.as_i64()));
    let (ux, uy) = (args[0].bits(), args.get(1).map_or(0, |y| y.bits()));
    let bits = match prim {
        Prim::Neg => sx.wrapping_neg() as u64,
        Prim::Abs => sx.wrapping_abs() as u64,
        Prim::Add => ux.wrapping_add(uy),
        Prim::Sub => ux.wrapping_sub(uy),
        Prim::Mul => ux.wrapping_mul(uy),
        Prim::Div if uy == 0 => 0,
        Prim::Div if signed => sx.wrapping_div(sy) as u64,
        Prim::Div => ux / uy,
        Prim::Rem if uy == 0 => 0,
        Prim::Rem if signed => sx.wrapping_rem(sy) as u64,
        Prim::Rem => ux % uy,
        Prim::Min if signed => sx.min(sy) as u64,
        Prim::Min => ux.min(uy),
        Prim::Max if signed => sx.max(sy) as u64,
        Prim::Max => ux.max(uy),
        Prim::And => ux & uy,
        Prim::Or => ux | uy,
        Prim::Xor => ux ^ uy,
        Prim::Not if dtype == DType::Bool => ux ^ 1,
        Prim::Not => !ux,
        Prim::Shl if uy >= width => 0,
        Prim::Shl => ux << uy,
        Prim::Shr if signed => (sx >> uy.min(63)) as u64,
        Prim::Shr if uy >= width => 0,
        Prim::Shr => ux >> uy,
        _ => unreachable!("{} of {dtype}", prim.name()),
    };
    Literal::from_bits(dtype, bits)
}

/// The results of a body for these arguments.
pub fn eval_body(body: &Body, args: &[Literal]) -> SmallVec<[Literal; 2]> {
    let mut values: Vec<Literal> = Vec::with_capacity(body.insts.len());
    for InstData { inst, dtype } in &body.insts {
        values.push(match inst {
            Inst::Const(literal) => *literal,
            Inst::Arg(n) => args[*n as usize],
            Inst::Prim(prim, operands) => {
                let operands: SmallVec<[Literal; 3]> = operands.iter().map(|v| values[v.index()]).collect();
                eval(*prim, *dtype, &operands)
            }
            _ => unreachable!("a body has no memory"),
        });
    }
    body.results.iter().map(|v| values[v.index()]).collect()
}

/// The memory of one operand: the bytes that its elements lie in, and the offset of the element with index zero.
pub struct Memory<'a> {
    /// All bytes that the layout can reach.
    pub bytes: Bytes<'a>,
    /// Where the element with all indices zero begins.
    pub offset: usize,
}

/// Readable or writable bytes.
pub enum Bytes<'a> {
    /// An input.
    In(&'a [u8]),
    /// An output.
    Out(&'a mut [u8]),
}

impl Memory<'_> {
    /// The element at a byte offset from the first one.
    fn load(&self, offset: isize, dtype: DType) -> Literal {
        let at = self.offset.wrapping_add_signed(offset);
        let bytes = match &self.bytes {
            Bytes::In(bytes) => bytes,
            Bytes::Out(bytes) => &**bytes,
        };
        let mut word = [0; 8];
        word[..dtype.size()].copy_from_slice(&bytes[at..at + dtype.size()]);
        Literal::from_bits(dtype, u64::from_le_bytes(word))
    }

    fn store(&mut self, offset: isize, value: Literal) {
        let at = self.offset.wrapping_add_signed(offset);
        let size = value.dtype().size();
        let Bytes::Out(bytes) = &mut self.bytes else { unreachable!("an input is never stored to") };
        bytes[at..at + size].copy_from_slice(&value.bits().to_le_bytes()[..size]);
    }
}

/// Multiplies matrices as [`crate::plan::Work::Matmul`] says: the sum of the products, in order, from zero. The one thing
/// that back ends may do in another order, and with products that are not rounded: theirs is the result that a library
/// gives, within the error of a sum of so many products.
pub fn matmul(dtype: DType, launch: &Launch, memory: &mut [Memory<'_>]) {
    let strides = |group: fn(&Layout) -> &[isize]| launch.layouts.iter().map(group).collect::<Vec<_>>();
    let (outer, inner) = (strides(|l| &l.outer), strides(|l| &l.inner));
    let reduced = strides(|l| &l.reduced);
    for_each_index(&launch.outer, &outer, |matrix| {
        for_each_index(&launch.inner, &inner, |at| {
            let mut sum = Literal::from_f64(dtype, 0.0);
            for_each_index(&launch.reduced, &reduced, |k| {
                let [x, y] = [0, 1].map(|n| memory[n].load(matrix[n] + at[n] + k[n], dtype));
                sum = eval(Prim::Add, dtype, &[sum, eval(Prim::Mul, dtype, &[x, y])]);
            });
            memory[2].store(matrix[2] + at[2], sum);
        });
    });
}

/// Runs a kernel. `memory` has one entry for each operand; `params` one literal for each parameter.
/// Panics if the memory does not cover the launch: the caller checks that first.
pub fn run(kernel: &Kernel, launch: &Launch, memory: &mut [Memory<'_>], params: &[Literal]) {
    let outer: Vec<&[isize]> = launch.layouts.iter().map(|l| l.outer.as_slice()).collect();
    for_each_index(&launch.outer, &outer, |base| {
        let mut machine = Machine {
            kernel,
            memory: &mut *memory,
            params,
            values: vec![Literal::bool(false); kernel.insts.len()],
            scratch: kernel.scratch.iter().map(|d| vec![Literal::from_bits(*d, 0); launch.inner_len()]).collect(),
            results: vec![Literal::bool(false); kernel.reductions.len()],
        };
        match kernel.nest {
            Nest::Rows => machine.row(launch, base),
            Nest::Columns => machine.columns(launch, base),
        }
    });
}

struct Machine<'k, 'm, 'a> {
    kernel: &'k Kernel,
    memory: &'m mut [Memory<'a>],
    params: &'k [Literal],
    values: Vec<Literal>,
    scratch: Vec<Vec<Literal>>,
    results: Vec<Literal>,
}

impl Machine<'_, '_, '_> {
    fn row(&mut self, launch: &Launch, base: &[isize]) {
        let inner: Vec<&[isize]> = launch.layouts.iter().map(|l| l.inner.as_slice()).collect();
        for s in 0..self.kernel.stages.len() {
            if self.kernel.stages[s].kind == StageKind::Row {
                self.stage(s, base, 0);
                continue;
            }
            let kernel = self.kernel;
            let mut folds: Vec<(usize, Fold)> =
                kernel.reductions_of(s).map(|(i, r)| (i, Fold::new(r.reducer, r.dtype, kernel.nest))).collect();
            let mut element = 0;
            let mut offsets = vec![0; base.len()];
            for_each_index(&launch.inner, &inner, |inner| {
                for ((offset, b), i) in offsets.iter_mut().zip(base).zip(inner) {
                    *offset = b + i;
                }
                self.stage(s, &offsets, element);
                element += 1;
                for (i, fold) in &mut folds {
                    fold.push(self.values[kernel.reductions[*i].input.index()]);
                }
            });
            for (i, fold) in folds {
                self.results[i] = fold.finish();
            }
        }
    }

    fn columns(&mut self, launch: &Launch, base: &[isize]) {
        let kernel = self.kernel;
        let inner: Vec<&[isize]> = launch.layouts.iter().map(|l| l.inner.as_slice()).collect();
        let reduced: Vec<&[isize]> = launch.layouts.iter().map(|l| l.reduced.as_slice()).collect();
        for_each_index(&launch.inner, &inner, |inner| {
            let column: Vec<isize> = base.iter().zip(inner).map(|(b, i)| b + i).collect();
            let mut folds: Vec<Fold> =
                kernel.reductions.iter().map(|r| Fold::new(r.reducer, r.dtype, kernel.nest)).collect();
            for_each_index(&launch.reduced, &reduced, |reduced| {
                let row: Vec<isize> = base.iter().zip(reduced).map(|(b, r)| b + r).collect();
                let element: Vec<isize> = column.iter().zip(reduced).map(|(c, r)| c + r).collect();
                self.stage(0, &row, 0);
                self.stage(1, &element, 0);
                for (fold, r) in folds.iter_mut().zip(&kernel.reductions) {
                    fold.push(self.values[r.input.index()]);
                }
            });
            if launch.reduced_len() == 0 {
                // No reduced index: the constants that the last stage uses are still needed.
                for v in kernel.stages[0].values() {
                    if !matches!(kernel.inst(v), Inst::Load(_) | Inst::Store(..)) {
                        self.inst(v.index(), base, 0);
                    }
                }
            }
            self.results = folds.into_iter().map(Fold::finish).collect();
            self.stage(2, &column, 0);
        });
    }

    fn stage(&mut self, stage: usize, offsets: &[isize], element: usize) {
        for v in self.kernel.stages[stage].values() {
            self.inst(v.index(), offsets, element);
        }
    }

    fn inst(&mut self, v: usize, offsets: &[isize], element: usize) {
        let InstData { inst, dtype } = &self.kernel.insts[v];
        self.values[v] = match inst {
            Inst::Const(literal) => *literal,
            Inst::Param(n) => self.params[*n as usize],
            Inst::Prim(prim, args) => {
                let args: SmallVec<[Literal; 3]> = args.iter().map(|a| self.values[a.index()]).collect();
                eval(*prim, *dtype, &args)
            }
            Inst::Load(n) => self.memory[*n as usize].load(offsets[*n as usize], *dtype),
            Inst::Store(n, value) => {
                let value = self.values[value.index()];
                self.memory[*n as usize].store(offsets[*n as usize], value);
                value
            }
            Inst::ScratchLoad(slot) => self.scratch[*slot as usize][element],
            Inst::ScratchStore(slot, value) => {
                self.scratch[*slot as usize][element] = self.values[value.index()];
                self.values[value.index()]
            }
            Inst::Reduced(n) => self.results[*n as usize],
            Inst::Arg(_) => unreachable!("a kernel has no arguments"),
        };
    }
}

/// One reduction in the order that [`reduce`] fixes.
struct Fold {
    reducer: Reducer,
    dtype: DType,
    leaf: usize,
    step: Body,
    merge: Body,
    /// The lanes of the open leaf, with their counts, and how many elements it has.
    lanes: Vec<(State<Literal>, i64)>,
    in_leaf: usize,
    /// The states of the closed leaves, with their counts.
    leaves: Vec<(State<Literal>, i64)>,
}

impl Fold {
    fn new(reducer: Reducer, dtype: DType, nest: Nest) -> Fold {
        let lanes = vec![(reducer.init(dtype), 0); reduce::lanes(nest, dtype)];
        let (step, merge) = (reducer.step(dtype), reducer.merge(dtype));
        Fold { reducer, dtype, leaf: reduce::leaf(nest), step, merge, lanes, in_leaf: 0, leaves: Vec::new() }
    }

    fn push(&mut self, x: Literal) {
        let width = self.lanes.len();
        let lane = &mut self.lanes[self.in_leaf % width];
        lane.1 += 1;
        let mut args = lane.0.clone();
        args.push(x);
        if self.reducer.counts() {
            args.push(Literal::from_i64(self.dtype, lane.1));
        }
        lane.0 = eval_body(&self.step, &args);
        self.in_leaf += 1;
        if self.in_leaf == self.leaf {
            self.close_leaf();
        }
    }

    fn close_leaf(&mut self) {
        let mut used = self.in_leaf.min(self.lanes.len());
        let mut half = self.lanes.len() / 2;
        while half > 0 {
            for l in 0..half {
                if l + half < used {
                    self.lanes[l] = self.merged(&self.lanes[l], &self.lanes[l + half]);
                }
            }
            used = used.min(half);
            half /= 2;
        }
        self.leaves.push(self.lanes[0].clone());
        self.lanes.fill((self.reducer.init(self.dtype), 0));
        self.in_leaf = 0;
    }

    fn merged(&self, left: &(State<Literal>, i64), right: &(State<Literal>, i64)) -> (State<Literal>, i64) {
        let mut args: SmallVec<[Literal; 6]> = left.0.iter().chain(&right.0).copied().collect();
        if self.reducer.counts() {
            args.push(Literal::from_i64(self.dtype, left.1));
            args.push(Literal::from_i64(self.dtype, right.1));
        }
        (eval_body(&self.merge, &args), left.1 + right.1)
    }

    fn finish(mut self) -> Literal {
        if self.in_leaf > 0 {
            self.close_leaf();
        }
        let mut states = std::mem::take(&mut self.leaves);
        while states.len() > 1 {
            states = states
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => self.merged(left, right),
                    _ => pair[0].clone(),
                })
                .collect();
        }
        match states.first() {
            Some((state, _)) => state[self.reducer.result()],
            // The caller refuses empty reductions without a value before it runs them.
            None => self.reducer.empty(self.dtype).unwrap_or(Literal::from_bits(self.dtype, 0)),
        }
    }
}
