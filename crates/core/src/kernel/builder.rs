//! Builds straight-line code: function bodies, reducer bodies and whole kernels, with value numbering, constant
//! folding, and hoisting.
//!
//! An instruction without side effects goes to the earliest stage in which all its operands are known: one that
//! depends only on row values moves out of the loop by itself. Constants fold through [`crate::interp::eval`], the
//! one meaning of a primitive. Equal instructions become one value. Unused ones are dropped by `finish`.

use super::{
    Access, Args, Body, Inst, InstData, Kernel, Level, Nest, Operand, Prim, Reducer, Reduction, Role, Stage, StageKind,
    Value,
};
use crate::dtype::DType;
use crate::intern::Index;
use crate::interp;
use crate::literal::Literal;
use smallvec::SmallVec;

/// Room for the instructions of a small kernel.
const ROOM: usize = 512;

/// A body or kernel under construction. `Value`s it hands out are valid until `finish`.
pub struct Builder {
    nest: Nest,
    operands: Vec<Operand>,
    params: Vec<DType>,
    scratch: Vec<DType>,
    insts: Vec<InstData>,
    /// The stage of each instruction.
    places: Vec<u32>,
    stages: Vec<StageKind>,
    reductions: Vec<Reduction>,
    /// The instructions by what they do and where.
    numbering: Index,
}

impl Builder {
    /// A builder of a [`Body`].
    pub fn body() -> Builder {
        Builder::kernel(Nest::Rows)
    }

    /// A builder of a kernel; its first stage is a `Row` stage.
    pub fn kernel(nest: Nest) -> Builder {
        Builder {
            nest,
            operands: Vec::new(),
            params: Vec::new(),
            scratch: Vec::new(),
            insts: Vec::with_capacity(ROOM),
            places: Vec::with_capacity(ROOM),
            stages: vec![StageKind::Row],
            reductions: Vec::new(),
            numbering: Index::default(),
        }
    }

    // Stages, operands, parameters and reductions of a kernel.

    /// Opens the next stage; returns its index.
    pub fn stage(&mut self, kind: StageKind) -> u32 {
        self.stages.push(kind);
        self.stages.len() as u32 - 1
    }

    /// The index of the stage that is open now.
    pub fn current_stage(&self) -> u32 {
        self.stages.len() as u32 - 1
    }

    /// Adds a memory operand; returns its index.
    pub fn operand(&mut self, dtype: DType, role: Role, level: Level) -> u32 {
        self.operands.push(Operand { dtype, role, level, access: Access::Unit });
        self.operands.len() as u32 - 1
    }

    /// Adds a scalar parameter.
    pub fn param(&mut self, dtype: DType) -> Value {
        self.params.push(dtype);
        self.push(Inst::Param(self.params.len() as u32 - 1), dtype, 0)
    }

    /// Adds a row-sized scratch slot; returns its index.
    pub fn scratch(&mut self, dtype: DType) -> u32 {
        self.scratch.push(dtype);
        self.scratch.len() as u32 - 1
    }

    /// Loads a memory operand: in the first stage if it is row-level, in the open stage otherwise.
    pub fn load(&mut self, operand: u32) -> Value {
        let Operand { dtype, level, .. } = self.operands[operand as usize];
        let stage = if level == Level::Row { 0 } else { self.current_stage() };
        self.push(Inst::Load(operand), dtype, stage)
    }

    /// Stores to a memory operand in the open stage.
    pub fn store(&mut self, operand: u32, value: Value) {
        let stage = self.current_stage();
        self.push(Inst::Store(operand, value), self.dtype(value), stage);
    }

    /// Loads a scratch slot in the open stage.
    pub fn scratch_load(&mut self, slot: u32) -> Value {
        self.push(Inst::ScratchLoad(slot), self.scratch[slot as usize], self.current_stage())
    }

    /// Stores to a scratch slot in the open stage.
    pub fn scratch_store(&mut self, slot: u32, value: Value) {
        let stage = self.current_stage();
        self.push(Inst::ScratchStore(slot, value), self.dtype(value), stage);
    }

    /// Folds `input` in the open loop; returns the index for [`Builder::reduced`], which a later stage calls.
    pub fn reduce(&mut self, reducer: Reducer, input: Value) -> u32 {
        let reduction = Reduction { reducer, input, dtype: self.dtype(input), stage: self.current_stage() };
        if let Some(known) = self.reductions.iter().position(|r| *r == reduction) {
            return known as u32;
        }
        self.reductions.push(reduction);
        self.reductions.len() as u32 - 1
    }

    /// The result of a reduction: a value of the stage after the loop that folds it.
    pub fn reduced(&mut self, reduction: u32) -> Value {
        let Reduction { dtype, stage, .. } = self.reductions[reduction as usize];
        debug_assert!(self.current_stage() > stage, "the loop is still open");
        self.push(Inst::Reduced(reduction), dtype, stage + 1)
    }

    /// The kernel: dead instructions dropped, values renumbered in the order of the stages.
    pub fn finish(self) -> Kernel {
        let stores = self.insts.iter().zip(0..).filter(|(data, _)| is_store(&data.inst)).map(|(_, i)| Value(i));
        let live = self.live(stores.chain(self.reductions.iter().map(|r| r.input)));
        // How many live instructions each stage has tells where it starts.
        let mut stages: Vec<Stage> = self.stages.iter().map(|kind| Stage { kind: *kind, start: 0, end: 0 }).collect();
        for (place, live) in self.places.iter().zip(&live) {
            stages[*place as usize].end += u32::from(*live);
        }
        let mut count = 0;
        for stage in &mut stages {
            let size = std::mem::replace(&mut stage.end, count);
            stage.start = count;
            count += size;
        }
        // Each stage grows to its end as its instructions come; they are in order within it.
        let mut renamed = vec![Value(0); self.insts.len()];
        let mut insts = vec![InstData { inst: Inst::Param(0), dtype: DType::Bool }; count as usize];
        for (i, ((data, place), live)) in self.insts.iter().zip(&self.places).zip(&live).enumerate() {
            if *live {
                let end = &mut stages[*place as usize].end;
                renamed[i] = Value(*end);
                insts[*end as usize] = InstData { inst: data.inst.map(|v| renamed[v.index()]), dtype: data.dtype };
                *end += 1;
            }
        }
        let reductions =
            self.reductions.iter().map(|r| Reduction { input: renamed[r.input.index()], ..r.clone() }).collect();
        Kernel {
            nest: self.nest,
            operands: self.operands,
            params: self.params,
            scratch: self.scratch,
            insts,
            stages,
            reductions,
        }
    }

    /// Which instructions these values need.
    fn live(&self, roots: impl Iterator<Item = Value>) -> Vec<bool> {
        let mut live = vec![false; self.insts.len()];
        for v in roots {
            live[v.index()] = true;
        }
        for (i, data) in self.insts.iter().enumerate().rev() {
            if live[i] {
                for v in data.inst.operands() {
                    live[v.index()] = true;
                }
            }
        }
        live
    }

    // Bodies.

    /// The n-th argument of a body.
    pub fn arg(&mut self, n: u32, dtype: DType) -> Value {
        self.push(Inst::Arg(n), dtype, 0)
    }

    /// The body that returns `results`.
    pub fn finish_body(self, results: &[Value]) -> Body {
        let live = self.live(results.iter().copied());
        let mut renamed = vec![Value(u32::MAX); self.insts.len()];
        let mut insts = Vec::new();
        for (i, data) in self.insts.iter().enumerate().filter(|(i, _)| live[*i]) {
            renamed[i] = Value(insts.len() as u32);
            insts.push(InstData { inst: data.inst.map(|v| renamed[v.index()]), dtype: data.dtype });
        }
        Body { insts, results: results.iter().map(|v| renamed[v.index()]).collect() }
    }

    /// Appends the instructions of a body with its arguments replaced; returns its results.
    pub fn inline(&mut self, body: &Body, args: &[Value]) -> SmallVec<[Value; 2]> {
        let mut values: Vec<Value> = Vec::with_capacity(body.insts.len());
        for data in &body.insts {
            let v = match &data.inst {
                Inst::Arg(n) => args[*n as usize],
                Inst::Const(literal) => self.constant(*literal),
                Inst::Prim(prim, operands) => self.push_prim(*prim, operands.map(|v| values[v.index()]), data.dtype),
                _ => unreachable!("a body has no memory"),
            };
            values.push(v);
        }
        body.results.iter().map(|v| values[v.index()]).collect()
    }

    // What is known of a value.

    /// The dtype of a value.
    #[inline]
    pub fn dtype(&self, v: Value) -> DType {
        self.insts[v.index()].dtype
    }

    /// The stage in which a value is computed.
    pub fn place(&self, v: Value) -> u32 {
        self.places[v.index()]
    }

    /// True if a value belongs to a loop, and is of use in that loop only.
    pub fn is_loop_value(&self, v: Value) -> bool {
        self.stages[self.place(v) as usize] == StageKind::Loop
    }

    /// The constant that a value is, if it is one.
    #[inline]
    pub fn as_const(&self, v: Value) -> Option<Literal> {
        match self.insts[v.index()].inst {
            Inst::Const(literal) => Some(literal),
            _ => None,
        }
    }

    // Constants.

    /// A constant.
    pub fn constant(&mut self, literal: Literal) -> Value {
        self.push(Inst::Const(literal), literal.dtype(), 0)
    }

    /// The real number `x` rounded to the float dtype.
    pub fn float(&mut self, dtype: DType, x: f64) -> Value {
        self.constant(Literal::from_f64(dtype, x))
    }

    /// The integer `x` wrapped to the dtype.
    pub fn int(&mut self, dtype: DType, x: i64) -> Value {
        self.constant(Literal::from_i64(dtype, x))
    }

    /// The bits `x` as a value of the dtype.
    pub fn bits(&mut self, dtype: DType, x: u64) -> Value {
        self.constant(Literal::from_bits(dtype, x))
    }

    // Primitives. Each panics in debug builds if the operands break the typing rule on `Prim`.

    /// A primitive whose result dtype follows from its operands (not `Cast`, `Bitcast`).
    pub fn prim(&mut self, prim: Prim, args: &[Value]) -> Value {
        let dtype = match prim {
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => DType::Bool,
            Prim::Select => self.dtype(args[1]),
            _ => self.dtype(args[0]),
        };
        self.push_prim(prim, Args::from_slice(args), dtype)
    }

    /// `-x`
    pub fn neg(&mut self, x: Value) -> Value {
        self.prim(Prim::Neg, &[x])
    }
    /// `|x|`
    pub fn abs(&mut self, x: Value) -> Value {
        self.prim(Prim::Abs, &[x])
    }
    /// `x + y`
    pub fn add(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Add, &[x, y])
    }
    /// `x - y`
    pub fn sub(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Sub, &[x, y])
    }
    /// `x * y`
    pub fn mul(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Mul, &[x, y])
    }
    /// `x / y`
    pub fn div(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Div, &[x, y])
    }
    /// Remainder of truncated division.
    pub fn rem(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Rem, &[x, y])
    }
    /// `x * y + z`, rounded once.
    pub fn fma(&mut self, x: Value, y: Value, z: Value) -> Value {
        self.prim(Prim::Fma, &[x, y, z])
    }
    /// `z - x * y`, rounded once.
    pub fn fnma(&mut self, x: Value, y: Value, z: Value) -> Value {
        let minus_x = self.neg(x);
        self.fma(minus_x, y, z)
    }
    /// `x * y - z`, rounded once.
    pub fn fms(&mut self, x: Value, y: Value, z: Value) -> Value {
        let minus_z = self.neg(z);
        self.fma(x, y, minus_z)
    }
    /// Square root.
    pub fn sqrt(&mut self, x: Value) -> Value {
        self.prim(Prim::Sqrt, &[x])
    }
    /// `x < y ? x : y`
    pub fn min(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Min, &[x, y])
    }
    /// `x > y ? x : y`
    pub fn max(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Max, &[x, y])
    }
    /// Rounded down.
    pub fn floor(&mut self, x: Value) -> Value {
        self.prim(Prim::Floor, &[x])
    }
    /// Rounded up.
    pub fn ceil(&mut self, x: Value) -> Value {
        self.prim(Prim::Ceil, &[x])
    }
    /// Rounded toward zero.
    pub fn trunc(&mut self, x: Value) -> Value {
        self.prim(Prim::Trunc, &[x])
    }
    /// Rounded to nearest, ties to even.
    pub fn round_even(&mut self, x: Value) -> Value {
        self.prim(Prim::RoundEven, &[x])
    }
    /// `x * 2^k`, as [`Prim::Scale`].
    pub fn scale(&mut self, x: Value, k: Value) -> Value {
        self.prim(Prim::Scale, &[x, k])
    }
    /// Bitwise and.
    pub fn and(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::And, &[x, y])
    }
    /// Bitwise or.
    pub fn or(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Or, &[x, y])
    }
    /// Bitwise exclusive or.
    pub fn xor(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Xor, &[x, y])
    }
    /// Bitwise or logical not.
    pub fn not(&mut self, x: Value) -> Value {
        self.prim(Prim::Not, &[x])
    }
    /// `x << y`
    pub fn shl(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Shl, &[x, y])
    }
    /// `x >> y`
    pub fn shr(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Shr, &[x, y])
    }
    /// `x == y`
    pub fn eq(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Eq, &[x, y])
    }
    /// `x != y`
    pub fn ne(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Ne, &[x, y])
    }
    /// `x < y`
    pub fn lt(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Lt, &[x, y])
    }
    /// `x <= y`
    pub fn le(&mut self, x: Value, y: Value) -> Value {
        self.prim(Prim::Le, &[x, y])
    }
    /// `c ? x : y`
    pub fn select(&mut self, c: Value, x: Value, y: Value) -> Value {
        self.prim(Prim::Select, &[c, x, y])
    }
    /// `x` converted to `dtype`; `x` itself if it has that dtype.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Value {
        if self.dtype(x) == dtype {
            return x;
        }
        self.push_prim(Prim::Cast, Args::from_slice(&[x]), dtype)
    }
    /// The bits of `x` as `dtype`; `x` itself if it has that dtype.
    pub fn bitcast(&mut self, x: Value, dtype: DType) -> Value {
        if self.dtype(x) == dtype {
            return x;
        }
        self.push_prim(Prim::Bitcast, Args::from_slice(&[x]), dtype)
    }

    pub(super) fn push_prim(&mut self, prim: Prim, args: Args, dtype: DType) -> Value {
        #[cfg(debug_assertions)]
        {
            let dtypes: SmallVec<[DType; 3]> = args.iter().map(|v| self.dtype(*v)).collect();
            if let Err(reason) = super::verify::check_prim(prim, &dtypes, dtype) {
                panic!("{} {dtypes:?} -> {dtype}: {reason}", prim.name());
            }
        }
        if args.iter().all(|v| self.as_const(*v).is_some()) {
            let literals: SmallVec<[Literal; 3]> = args.iter().filter_map(|v| self.as_const(*v)).collect();
            return self.constant(interp::eval(prim, dtype, &literals));
        }
        let stage = args.iter().map(|v| self.place(*v)).max().unwrap_or(0);
        self.push(Inst::Prim(prim, args), dtype, stage)
    }

    /// The value of an instruction in a stage; appended if there is none yet. Inlined, so that a caller's form of
    /// instruction is known and stays in registers.
    #[inline(always)]
    fn push(&mut self, inst: Inst, dtype: DType, stage: u32) -> Value {
        let data = InstData { inst, dtype };
        let new = self.insts.len() as u32;
        let (insts, places) = (&self.insts, &self.places);
        let same = |id: u32| insts[id as usize] == data && places[id as usize] == stage;
        let id = self.numbering.id_of(hash(&data, stage), new, same);
        if id == new {
            self.insts.push(data);
            self.places.push(stage);
        }
        Value(id)
    }
}

impl Body {
    /// Two bodies that do the same one after the other: what follows from the arguments from the `first` on alone, which are its
    /// arguments; and what takes its results in their place.
    pub fn split(&self, first: u32) -> (Body, Body) {
        let (mut early, mut late) = (Builder::body(), Builder::body());
        let mut handed_over: Vec<Value> = Vec::new();
        // Each value in both of them. Constants are in both.
        let mut values: Vec<(Option<Value>, Option<Value>)> = Vec::with_capacity(self.insts.len());
        for InstData { inst, dtype } in &self.insts {
            let value = match inst {
                Inst::Arg(n) if *n < first => (None, Some(late.arg(*n, *dtype))),
                Inst::Arg(n) => (Some(early.arg(*n - first, *dtype)), None),
                Inst::Const(literal) => (Some(early.constant(*literal)), Some(late.constant(*literal))),
                Inst::Prim(prim, args) if args.iter().all(|v| values[v.index()].0.is_some()) => {
                    let args = args.map(|v| values[v.index()].0.unwrap_or(v));
                    (Some(early.push_prim(*prim, args, *dtype)), None)
                }
                Inst::Prim(prim, args) => {
                    let args = args.map(|v| {
                        hand_over(v, self.insts[v.index()].dtype, first, &mut values, &mut handed_over, &mut late)
                    });
                    (None, Some(late.push_prim(*prim, args, *dtype)))
                }
                _ => unreachable!("a body has no memory"),
            };
            values.push(value);
        }
        let results: Vec<Value> = self
            .results
            .iter()
            .map(|v| hand_over(*v, self.insts[v.index()].dtype, first, &mut values, &mut handed_over, &mut late))
            .collect();
        (early.finish_body(&handed_over), late.finish_body(&results))
    }
}

/// A value of the later body; it becomes an argument if the earlier one has it.
fn hand_over(
    v: Value,
    dtype: DType,
    first: u32,
    values: &mut [(Option<Value>, Option<Value>)],
    handed_over: &mut Vec<Value>,
    late: &mut Builder,
) -> Value {
    let (early, known) = values[v.index()];
    match (early, known) {
        (_, Some(known)) => known,
        (Some(early), None) => {
            let arg = late.arg(first + handed_over.len() as u32, dtype);
            handed_over.push(early);
            values[v.index()].1 = Some(arg);
            arg
        }
        (None, None) => unreachable!("a value is in one of the two"),
    }
}

fn is_store(inst: &Inst) -> bool {
    matches!(inst, Inst::Store(..) | Inst::ScratchStore(..))
}

/// The hash of an instruction in a stage.
#[inline(always)]
fn hash(data: &InstData, stage: u32) -> u64 {
    let [form, operands] = data.words();
    crate::intern::hash(&(form ^ u64::from(stage) << 16, operands))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_body_do_the_same_as_the_body() {
        let dtype = DType::F64;
        for reducer in [Reducer::Sum, Reducer::Moments, Reducer::Center] {
            let merge = reducer.merge(dtype);
            let states = 2 * reducer.init(dtype).len();
            let (of_counts, of_states) = merge.split(states as u32);
            let counts = if reducer.counts() { 2 } else { 0 };
            let args: Vec<Literal> = (0..states + counts).map(|n| Literal::from_f64(dtype, 1.7 + n as f64)).collect();
            let handed_over = interp::eval_body(&of_counts, &args[states..]);
            let parts = [&args[..states], &handed_over].concat();
            assert_eq!(interp::eval_body(&of_states, &parts), interp::eval_body(&merge, &args));
            // No division is left for what comes later.
            let divides = |data: &InstData| matches!(data.inst, Inst::Prim(Prim::Div, _));
            assert!(!of_states.insts.iter().any(divides));
        }
    }

    /// A result of the earlier body may be one of the whole, and an argument of it too.
    #[test]
    fn results_are_handed_over_once() {
        let mut b = Builder::body();
        let (x, y) = (b.arg(0, DType::F64), b.arg(1, DType::F64));
        let (double, sum) = (b.add(y, y), b.add(x, y));
        let whole = b.finish_body(&[double, sum]);
        let (early, late) = whole.split(1);
        assert_eq!((early.results.len(), late.results.len()), (2, 2));
        let literals = [2.0, 3.0].map(|x| Literal::from_f64(DType::F64, x));
        let handed_over = interp::eval_body(&early, &literals[1..]);
        let parts = [&literals[..1], &handed_over].concat();
        assert_eq!(interp::eval_body(&late, &parts), interp::eval_body(&whole, &literals));
    }
}
