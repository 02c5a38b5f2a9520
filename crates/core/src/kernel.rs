//! The kernel IR: one loop nest over straight-line code in scalar primitives. It is all that a back end sees.
//!
//! # What a kernel is
//!
//! A kernel runs over a *domain* of three groups of dimensions, any of which may be empty: **outer** dimensions
//! (independent of each other), **reduced** dimensions, and **inner** dimensions (the innermost loop, which back ends
//! vectorise). Sizes and strides are not part of the kernel; a [`crate::launch::Launch`] brings them.
//!
//! The body is SSA: a list of typed instructions cut into [`Stage`]s. Stages run in order.
//!
//! * **[`Nest::Rows`]**: for each outer index (a *row*), every stage runs: a `Row` stage once, a `Loop` stage once for
//!   each inner element. A reduction of a loop folds the elements of that loop; its results are row values that later
//!   stages use. Elementwise kernels (no reduction), row reductions, full reductions (no outer dimension, hence one
//!   row) and row kernels such as softmax all have this form. The reduced group of dimensions is empty.
//! * **[`Nest::Columns`]**: for each outer index, and for each inner element (a *column*), the reduction folds over the
//!   reduced dimensions. Stages are exactly `Row`, `Loop`, `Loop`: the first two run for each reduced index, the last
//!   runs once for each column, after the folding, with the results as column values. Operands of the last stage have
//!   no extent along the reduced dimensions.
//!
//! # Invariants (checked by [`verify`])
//!
//! * Operands of an instruction precede it. A loop value is used in its own stage only; a row value in any later one.
//! * `Load`/`Store` of a [`Level::Row`] operand stand in `Row` stages, those of a [`Level::Inner`] operand in `Loop`s.
//!   No operand is both loaded and stored, and none is stored twice. The facade promises that no output memory
//!   overlaps an input, unless both have the same layout exactly.
//! * Scratch slots are row-sized and private to the row; a slot is stored in one loop and loaded in later loops.
//! * Instructions obey the typing rules on [`Prim`].
//! * Elements of one loop are independent of each other: a back end may run them in any order, save for the order of
//!   reductions, which [`reduce`] fixes.
//!
//! A kernel that verifies compiles on every back end, or the back end returns an error; it never panics.

mod builder;
pub mod expand;
pub mod lower;
mod print;
pub mod rare;
pub mod reduce;
pub mod unroll;
mod verify;

pub use builder::Builder;
pub use reduce::Reducer;
pub use verify::verify;

use crate::dtype::DType;
use crate::literal::Literal;
use smallvec::SmallVec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// An instruction's result; the index of the instruction in [`Kernel::insts`] or [`Body::insts`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Value(pub u32);

impl Value {
    /// As an index into the instruction list.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A scalar primitive. "Same" below means that all operands and the result share one dtype.
///
/// Floats are IEEE 754 in round-to-nearest with subnormals; nothing is contracted or reassociated. NaN results have
/// unspecified sign and payload. Integers wrap in two's complement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Prim {
    /// `-x`; same; float (flips the sign bit) or integer.
    Neg,
    /// `|x|`; same; float (clears the sign bit) or signed integer (`abs(MIN) == MIN`).
    Abs,
    /// `x + y`; same; float or integer.
    Add,
    /// `x - y`; same; float or integer.
    Sub,
    /// `x * y`; same; float or integer.
    Mul,
    /// `x / y`; same; float, or integer truncating toward zero with `x / 0 == 0` and `MIN / -1 == MIN`.
    Div,
    /// The remainder of truncated division, with the sign of `x`; same; float (C's `fmod`, exact; `fmod(x, 0)` and
    /// `fmod(inf, y)` are NaN) or integer with `x % 0 == 0` and `MIN % -1 == 0`.
    Rem,
    /// `x * y + z` with one rounding; same; float.
    Fma,
    /// Correctly rounded square root; same; float.
    Sqrt,
    /// `x < y ? x : y`; same; float or integer. With floats: the second operand if either is NaN or both are zeros.
    Min,
    /// `x > y ? x : y`; same; float or integer. With floats: the second operand if either is NaN or both are zeros.
    Max,
    /// Largest integer not above `x`; same; float.
    Floor,
    /// Smallest integer not below `x`; same; float.
    Ceil,
    /// Integer part of `x`; same; float.
    Trunc,
    /// Nearest integer, ties to even; same; float.
    RoundEven,
    /// `x * 2^k` with one rounding; same; float. NaN if `x` is. Else `x` is from 1/8 to 8 in magnitude, and `k` an integer whose
    /// magnitude is at most twice the bias of the exponent; of other operands the result is unspecified.
    Scale,
    /// Sine of an angle from 2^30 on, or 2^17 on in `f32`, in magnitude; same; float. NaN for NaN and infinities. Of other operands
    /// the result is unspecified, but the same everywhere.
    LargeSin,
    /// Cosine; else as `LargeSin`.
    LargeCos,
    /// Tangent; else as `LargeSin`, but from 2^30 on in both dtypes.
    LargeTan,
    /// Bitwise and; same; integer or bool.
    And,
    /// Bitwise or; same; integer or bool.
    Or,
    /// Bitwise exclusive or; same; integer or bool.
    Xor,
    /// Bitwise not; same; integer or bool (logical not).
    Not,
    /// `x << y`; same; integer. The count is read as unsigned; a count of the width or more gives 0.
    Shl,
    /// `x >> y`; same; integer. Arithmetic for signed, logical for unsigned dtypes. The count is read as unsigned;
    /// a count of the width or more gives 0, or the sign.
    Shr,
    /// `x == y`; two of the same dtype, any; bool.
    Eq,
    /// `x != y` (true if either is NaN); two of the same dtype, any; bool.
    Ne,
    /// `x < y` (false if either is NaN); two of the same float or integer dtype; bool.
    Lt,
    /// `x <= y` (false if either is NaN); two of the same float or integer dtype; bool.
    Le,
    /// `c ? x : y`; bool, then two of the result's dtype, any.
    Select,
    /// Conversion from any dtype to any other, as [`Literal::cast`]: float to integer saturates with NaN to 0.
    Cast,
    /// The same bits as another dtype of the same size; float or integer.
    Bitcast,
}

impl Prim {
    /// Every primitive.
    pub const ALL: [Prim; 32] = [
        Prim::Neg,
        Prim::Abs,
        Prim::Add,
        Prim::Sub,
        Prim::Mul,
        Prim::Div,
        Prim::Rem,
        Prim::Fma,
        Prim::Sqrt,
        Prim::Min,
        Prim::Max,
        Prim::Floor,
        Prim::Ceil,
        Prim::Trunc,
        Prim::RoundEven,
        Prim::Scale,
        Prim::LargeSin,
        Prim::LargeCos,
        Prim::LargeTan,
        Prim::And,
        Prim::Or,
        Prim::Xor,
        Prim::Not,
        Prim::Shl,
        Prim::Shr,
        Prim::Eq,
        Prim::Ne,
        Prim::Lt,
        Prim::Le,
        Prim::Select,
        Prim::Cast,
        Prim::Bitcast,
    ];

    /// How many operands it takes.
    pub const fn arity(self) -> usize {
        match self {
            Prim::Neg
            | Prim::Abs
            | Prim::Sqrt
            | Prim::Floor
            | Prim::Ceil
            | Prim::Trunc
            | Prim::RoundEven
            | Prim::LargeSin
            | Prim::LargeCos
            | Prim::LargeTan
            | Prim::Not
            | Prim::Cast
            | Prim::Bitcast => 1,
            Prim::Fma | Prim::Select => 3,
            _ => 2,
        }
    }

    /// The name in printed kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Prim::Neg => "neg",
            Prim::Abs => "abs",
            Prim::Add => "add",
            Prim::Sub => "sub",
            Prim::Mul => "mul",
            Prim::Div => "div",
            Prim::Rem => "rem",
            Prim::Fma => "fma",
            Prim::Sqrt => "sqrt",
            Prim::Min => "min",
            Prim::Max => "max",
            Prim::Floor => "floor",
            Prim::Ceil => "ceil",
            Prim::Trunc => "trunc",
            Prim::RoundEven => "round_even",
            Prim::Scale => "scale",
            Prim::LargeSin => "large_sin",
            Prim::LargeCos => "large_cos",
            Prim::LargeTan => "large_tan",
            Prim::And => "and",
            Prim::Or => "or",
            Prim::Xor => "xor",
            Prim::Not => "not",
            Prim::Shl => "shl",
            Prim::Shr => "shr",
            Prim::Eq => "eq",
            Prim::Ne => "ne",
            Prim::Lt => "lt",
            Prim::Le => "le",
            Prim::Select => "select",
            Prim::Cast => "cast",
            Prim::Bitcast => "bitcast",
        }
    }
}

/// The operands of a primitive: one to three. A slice in place, so that instructions are plain data.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Args {
    /// Those past the length are 0, so that equal operands are equal bits.
    values: [Value; 3],
    len: u8,
}

impl Args {
    /// These operands, one to three.
    #[inline]
    pub fn from_slice(slice: &[Value]) -> Args {
        const NONE: Value = Value(0);
        match *slice {
            [x] => Args { values: [x, NONE, NONE], len: 1 },
            [x, y] => Args { values: [x, y, NONE], len: 2 },
            [x, y, z] => Args { values: [x, y, z], len: 3 },
            _ => unreachable!("a primitive of {} operands", slice.len()),
        }
    }

    /// The operands, with zeros after them.
    #[inline]
    pub(crate) fn padded(self) -> [Value; 3] {
        self.values
    }

    /// Each operand replaced.
    #[inline]
    pub(crate) fn map(mut self, mut to: impl FnMut(Value) -> Value) -> Args {
        for value in &mut self.values[..self.len as usize] {
            *value = to(*value);
        }
        self
    }
}

impl Deref for Args {
    type Target = [Value];

    #[inline]
    fn deref(&self) -> &[Value] {
        &self.values[..self.len as usize]
    }
}

impl<'a> IntoIterator for &'a Args {
    type Item = &'a Value;
    type IntoIter = std::slice::Iter<'a, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Inst {
    /// A constant of the function bodies; part of the kernel's identity.
    Const(Literal),
    /// The n-th scalar parameter of the launch; not part of the kernel's identity.
    Param(u32),
    /// The n-th argument of a [`Body`]; never in a kernel.
    Arg(u32),
    /// A primitive.
    Prim(Prim, Args),
    /// The element of the n-th memory operand at the current index.
    Load(u32),
    /// Writes a value of the operand's dtype to the n-th memory operand. Has no result.
    Store(u32, Value),
    /// The element of the n-th scratch slot at the current inner index.
    ScratchLoad(u32),
    /// Writes to the n-th scratch slot. Has no result.
    ScratchStore(u32, Value),
    /// The result of the n-th reduction.
    Reduced(u32),
}

impl Inst {
    /// The values that it uses.
    #[inline]
    pub fn operands(&self) -> &[Value] {
        match self {
            Inst::Prim(_, args) => args,
            Inst::Store(_, v) | Inst::ScratchStore(_, v) => std::slice::from_ref(v),
            Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) => &[],
            Inst::Load(_) | Inst::ScratchLoad(_) | Inst::Reduced(_) => &[],
        }
    }

    /// The same instruction on other values.
    #[inline]
    pub(crate) fn map(self, mut to: impl FnMut(Value) -> Value) -> Inst {
        match self {
            Inst::Prim(prim, args) => Inst::Prim(prim, args.map(to)),
            Inst::Store(operand, v) => Inst::Store(operand, to(v)),
            Inst::ScratchStore(slot, v) => Inst::ScratchStore(slot, to(v)),
            Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) => self,
            Inst::Load(_) | Inst::ScratchLoad(_) | Inst::Reduced(_) => self,
        }
    }
}

/// An instruction and the dtype of its result (of the stored value for stores).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstData {
    /// What it does.
    pub inst: Inst,
    /// The dtype of the result.
    pub dtype: DType,
}

impl InstData {
    /// Two words to hash: equal for equal instructions. Bits 16 to 31 of the first are 0.
    #[inline(always)]
    pub(crate) fn words(&self) -> [u64; 2] {
        let (form, low, high) = match self.inst {
            Inst::Const(literal) => (0, literal.bits(), 0),
            Inst::Param(n) => (1, u64::from(n), 0),
            Inst::Arg(n) => (2, u64::from(n), 0),
            Inst::Load(n) => (3, u64::from(n), 0),
            Inst::Store(n, v) => (4, u64::from(n), v.0),
            Inst::ScratchLoad(n) => (5, u64::from(n), 0),
            Inst::ScratchStore(n, v) => (6, u64::from(n), v.0),
            Inst::Reduced(n) => (7, u64::from(n), 0),
            Inst::Prim(prim, args) => {
                let [x, y, z] = args.padded();
                (8 + prim as u64, u64::from(x.0) | u64::from(y.0) << 32, z.0)
            }
        };
        [form | (self.dtype as u64) << 8 | u64::from(high) << 32, low]
    }
}

/// In few and long pieces, since long kernels are keys.
impl Hash for InstData {
    fn hash<H: Hasher>(&self, state: &mut H) {
        InstData::hash_slice(std::slice::from_ref(self), state);
    }

    fn hash_slice<H: Hasher>(data: &[InstData], state: &mut H) {
        for part in data.chunks(32) {
            let mut bytes = [0; 512];
            for (inst, bytes) in part.iter().zip(bytes.chunks_exact_mut(16)) {
                let [form, operands] = inst.words();
                bytes[..8].copy_from_slice(&form.to_le_bytes());
                bytes[8..].copy_from_slice(&operands.to_le_bytes());
            }
            state.write(&bytes[..16 * part.len()]);
        }
    }
}

/// Straight-line code without memory: function bodies in tests, the step and merge of a [`Reducer`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Body {
    /// The instructions: `Const`, `Arg` and `Prim` only.
    pub insts: Vec<InstData>,
    /// The values that it returns.
    pub results: SmallVec<[Value; 2]>,
}

/// What the kernel's loops are; see the module text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Nest {
    /// Stages run for each outer index; loops and reductions run along the inner dimensions.
    Rows,
    /// Reductions run along the reduced dimensions, separately for each inner index.
    Columns,
}

/// Whether a kernel reads or writes a memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Only loaded.
    In,
    /// Only stored.
    Out,
}

/// Along which dimensions an operand varies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// Not along the inner dimensions: one element per row.
    Row,
    /// Along the inner dimensions as well (possibly with stride zero).
    Inner,
}

/// How an inner-level operand steps along the inner loop; part of the kernel's identity, set when a launch is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// By the size of an element: vector loads and stores, at any alignment.
    Unit,
    /// Not at all: the same element each time. Inputs only.
    Broadcast,
    /// By a stride known only at run time, possibly negative.
    Strided,
}

/// A memory operand.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Operand {
    /// The element type in memory.
    pub dtype: DType,
    /// Read or written.
    pub role: Role,
    /// Per row or per element.
    pub level: Level,
    /// Along the inner loop; `Unit` for `Level::Row`, where it means nothing.
    pub access: Access,
}

/// Whether a stage runs once a row or once an element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StageKind {
    /// Once for each row.
    Row,
    /// Once for each inner element.
    Loop,
}

/// A run of instructions at one depth of the nest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Stage {
    /// Row or loop.
    pub kind: StageKind,
    /// First instruction.
    pub start: u32,
    /// One past the last instruction.
    pub end: u32,
}

impl Stage {
    /// The values of its instructions.
    #[inline]
    pub fn values(&self) -> impl DoubleEndedIterator<Item = Value> + ExactSizeIterator + use<> {
        (self.start..self.end).map(Value)
    }
}

/// A reduction carried by a loop.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reduction {
    /// How elements are folded.
    pub reducer: Reducer,
    /// The value folded, of the reduction's dtype; a loop value of `stage`.
    pub input: Value,
    /// The dtype of the input and of the result.
    pub dtype: DType,
    /// The stage whose loop folds it.
    pub stage: u32,
}

/// A kernel. `PartialEq` and `Hash` are its identity in the code cache.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Kernel {
    /// What the loops are.
    pub nest: Nest,
    /// Memory operands, in the order of the launch's layouts.
    pub operands: Vec<Operand>,
    /// Dtypes of the scalar parameters.
    pub params: Vec<DType>,
    /// Dtypes of the row-sized scratch slots.
    pub scratch: Vec<DType>,
    /// All instructions, stage after stage.
    pub insts: Vec<InstData>,
    /// The cut of `insts` into stages, in order, without gaps.
    pub stages: Vec<Stage>,
    /// The reductions, in order of their stages.
    pub reductions: Vec<Reduction>,
}

impl Kernel {
    /// The instruction that defines `v`.
    #[inline]
    pub fn inst(&self, v: Value) -> &Inst {
        &self.insts[v.index()].inst
    }

    /// The dtype of `v`.
    #[inline]
    pub fn dtype(&self, v: Value) -> DType {
        self.insts[v.index()].dtype
    }

    /// The reductions that the loop of stage `stage` carries, with their indices.
    #[inline]
    pub fn reductions_of(&self, stage: usize) -> impl Iterator<Item = (usize, &Reduction)> {
        self.reductions.iter().enumerate().filter(move |(_, r)| r.stage as usize == stage)
    }

    /// How many primitives run for each inner element, over all loops.
    pub fn ops_per_element(&self) -> usize {
        self.stages
            .iter()
            .filter(|s| s.kind == StageKind::Loop)
            .flat_map(Stage::values)
            .filter(|v| matches!(self.inst(*v), Inst::Prim(..)))
            .count()
    }

    /// True if it does nothing but compute elements, each for itself: no row does more than its elements do.
    pub fn is_elementwise(&self) -> bool {
        self.reductions.is_empty()
            && self.scratch.is_empty()
            && self.operands.iter().all(|o| o.role == Role::In || o.level == Level::Inner)
    }

    /// True if its inner elements are independent of each other, so that inner dimensions may as well be outer ones: columns
    /// always are.
    pub fn has_independent_elements(&self) -> bool {
        self.nest == Nest::Columns || self.is_elementwise()
    }

    /// How many loops run over the inner dimensions.
    pub fn loops(&self) -> usize {
        self.stages.iter().filter(|s| s.kind == StageKind::Loop).count()
    }
}
