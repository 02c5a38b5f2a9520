//! The op table: every operator, function and reduction that a user can name, one row each.
//!
//! A row says what the op is called, how it is written, which dtypes it takes, what it computes (in primitives, once,
//! for every back end), how accurate it is, and how to explain it. Parser, help, typing, simplification, interpreter,
//! back ends, accuracy tests and `docs/functions.md` read the row; no other file names an elementary function.
//! To add one: a row here, and a body in [`crate::math`] if it is new maths. `docs/adding-an-op.md` walks through it.

use crate::diagnostic::{Code, Diagnostic};
use crate::dtype::{DType, Kind};
use crate::kernel::{Builder, Reducer, Value};
use crate::math;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::fmt;
use std::sync::LazyLock;

/// An op: the index of its row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Op(u16);

impl Op {
    /// The row.
    pub fn def(self) -> &'static OpDef {
        &OPS[self.0 as usize]
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.def().name
    }

    /// The op of this name or alias.
    pub fn named(name: &str) -> Option<Op> {
        static BY_NAME: LazyLock<FxHashMap<&'static str, Op>> =
            LazyLock::new(|| Op::all().flat_map(|op| op.names().map(move |n| (n, op))).collect());
        BY_NAME.get(name).copied()
    }

    /// Every op, in the order of the table.
    pub fn all() -> impl Iterator<Item = Op> {
        (0..OPS.len() as u16).map(Op)
    }

    /// The name and the aliases.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.def().name).chain(self.def().aliases.iter().copied())
    }

    /// The operator written as this symbol; `-` and `+` are both prefix and binary.
    pub fn operator(symbol: &str, prefix: bool) -> Option<Op> {
        Op::all().find(|op| op.def().operator.is_some_and(|o| o.symbol == symbol && (o.fix == Fix::Prefix) == prefix))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OpDef {
    /// The name in text.
    pub name: &'static str,
    /// Other names: NumPy's and numexpr's.
    pub aliases: &'static [&'static str],
    /// How it is written as an operator.
    pub operator: Option<Operator>,
    /// The names of its operands, as keyword arguments.
    pub params: &'static [&'static str],
    /// What it computes.
    pub kind: OpKind,
    /// Which dtypes it takes and returns.
    pub types: Types,
    /// True if `f(x, y)` is `f(y, x)` to the bit (any NaN being equal to any NaN).
    pub commutative: bool,
    /// The accuracy that tests hold it to; none if it is exact or correctly rounded.
    pub check: Option<Check>,
    /// Group in the reference manual.
    pub group: &'static str,
    /// What it is, in a sentence or two.
    pub doc: &'static str,
    /// An expression that shows it.
    pub example: &'static str,
}

/// What an op computes.
#[derive(Clone, Copy)]
pub enum OpKind {
    /// One value of each element: the body, given operands of the dtypes that [`resolve`] returned.
    Elementwise(fn(&mut Builder, &[Value]) -> Value),
    /// A fold along axes.
    Reduce(Reducer),
    /// A reduction made of others; `graph::Graph::reduce` builds it.
    Composite(Composite),
    /// A product of vectors and matrices; `graph::Graph::product` builds it.
    Product(Product),
}

/// Which arrays a product takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Product {
    /// Vectors, matrices, and stacks of matrices, which are broadcast.
    Matmul,
    /// Scalars, vectors and matrices.
    Dot,
}

/// A reduction made of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Composite {
    /// The sum over the count.
    Mean,
    /// The sum of squared deviations over the count less `ddof`.
    Var,
    /// The square root of the variance.
    Std,
}

impl fmt::Debug for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpKind::Elementwise(_) => f.write_str("Elementwise"),
            OpKind::Reduce(reducer) => write!(f, "Reduce({})", reducer.name()),
            OpKind::Composite(composite) => write!(f, "Composite({composite:?})"),
            OpKind::Product(product) => write!(f, "Product({product:?})"),
        }
    }
}

/// How an op is written between or before its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operator {
    /// The token.
    pub symbol: &'static str,
    /// How tightly it binds; Python's order, from `or` (1) to `**` (12).
    pub precedence: u8,
    /// Before one operand, or between two, grouping to the left or to the right, or chained.
    pub fix: Fix,
}

/// Where an operator stands and how it groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fix {
    /// Before its operand.
    Prefix,
    /// `a - b - c` is `(a - b) - c`.
    Left,
    /// `a ** b ** c` is `a ** (b ** c)`.
    Right,
    /// `a < b <= c` is `(a < b) and (b <= c)`.
    Chain,
}

/// The precedence of unary `-`, `+` and `~`; `**` binds more tightly on its left.
pub const UNARY: u8 = 11;

/// Which dtypes an op takes, and which it returns. `T` is what the operands promote to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Types {
    /// `T... -> T`, any dtype.
    Any,
    /// `T... -> T`, not bool.
    Number,
    /// `T... -> T`, where bool is computed as `i8`, as in NumPy.
    Integral,
    /// `T... -> T` in [`DType::to_float`].
    Float,
    /// `T, T -> T` for floats, `f64` for integers and bools.
    Divide,
    /// `T... -> T`, integers and bools.
    Bits,
    /// `T... -> T`, integers; bools as `i8`.
    Shift,
    /// `T, T -> bool`.
    Compare,
    /// `bool... -> bool`, any dtype being true unless it is zero.
    Logical,
    /// `T -> bool` in [`DType::to_float`].
    Test,
    /// `bool, T, T -> T`.
    Select,
    /// A reduction `T -> T`.
    Fold,
    /// A reduction `T -> T` in [`DType::accumulator`].
    Accumulate,
    /// A reduction `bool -> bool`.
    FoldBool,
    /// A reduction `T -> T` for floats, `f64` for integers and bools.
    Average,
}

/// How accurate an op is, and where tests look.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Check {
    /// The range of the operands in which points are chosen most densely.
    pub range: (f64, f64),
    /// The largest error in units in the last place, for `f32` and `f64`.
    pub ulp: f64,
}

/// What is known of an operand's type: a literal's dtype is weak, it gives way to any array's of its kind or a higher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArgType {
    /// The dtype; for a weak one `bool`, `i64` or `f64`.
    pub dtype: DType,
    /// True for literals and what is computed from literals alone.
    pub weak: bool,
}

/// What [`resolve`] returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// What each operand is cast to.
    pub args: SmallVec<[DType; 3]>,
    /// The result's dtype.
    pub result: ArgType,
}

/// What operands promote to: NumPy 2's rule (NEP 50).
pub fn promote(args: impl IntoIterator<Item = ArgType>) -> ArgType {
    let mut strong: Option<DType> = None;
    let mut weak: Option<DType> = None;
    for arg in args {
        let side = if arg.weak { &mut weak } else { &mut strong };
        *side = Some(side.map_or(arg.dtype, |d| d.promote(arg.dtype)));
    }
    match (strong, weak) {
        (Some(dtype), None) => ArgType { dtype, weak: false },
        (None, Some(dtype)) => ArgType { dtype, weak: true },
        (None, None) => ArgType { dtype: DType::F64, weak: true },
        (Some(strong), Some(weak)) => {
            let rank = |d: DType| match d.kind() {
                Kind::Bool => 0,
                Kind::Int | Kind::Uint => 1,
                Kind::Float => 2,
            };
            let dtype = if rank(weak) <= rank(strong) { strong } else { weak };
            ArgType { dtype, weak: false }
        }
    }
}

/// The dtypes that an op computes in and returns, for operands of these types.
pub fn resolve(op: Op, args: &[ArgType]) -> Result<Signature, Diagnostic> {
    let def = op.def();
    let signature = |operand: DType, result: DType, weak: bool| {
        let args = SmallVec::from_elem(operand, args.len());
        Ok(Signature { args, result: ArgType { dtype: result, weak } })
    };
    let ArgType { dtype, weak } = promote(args.iter().copied());
    let refuse = |why: String| {
        let shown = def.operator.map_or(def.name, |o| o.symbol);
        Err(Diagnostic::new(Code::DTypeMismatch, format!("`{shown}` does not take {dtype}")).why(why))
    };
    let wide = if dtype.is_float() { dtype } else { DType::F64 };
    let as_int = if dtype == DType::Bool { DType::I8 } else { dtype };
    match def.types {
        Types::Any | Types::Fold => signature(dtype, dtype, weak),
        Types::Number if dtype == DType::Bool => refuse("it is not defined for truth values".into())
            .map_err(|e: Diagnostic| e.hint("use `~x` or `not x` to negate, `x ^ y` for the difference")),
        Types::Number => signature(dtype, dtype, weak),
        Types::Integral if weak && dtype == DType::Bool => signature(DType::I64, DType::I64, weak),
        Types::Integral => signature(as_int, as_int, weak),
        Types::Float if weak => signature(DType::F64, DType::F64, weak),
        Types::Float => signature(dtype.to_float(), dtype.to_float(), weak),
        Types::Divide => signature(wide, wide, weak),
        Types::Bits | Types::Shift if dtype.is_float() => {
            refuse("it works on the bits of integers and bools".into()).map_err(|e: Diagnostic| {
                e.hint(if def.types == Types::Bits {
                    "for truth values use `and`, `or`, `not`; comparisons bind less tightly than `&` and `|`, so bracket them"
                } else {
                    "multiply or divide by a power of two instead"
                })
            })
        }
        Types::Bits => signature(dtype, dtype, weak),
        Types::Shift if weak && dtype == DType::Bool => signature(DType::I64, DType::I64, weak),
        Types::Shift => signature(as_int, as_int, weak),
        Types::Compare => signature(dtype, DType::Bool, weak),
        Types::Logical => signature(DType::Bool, DType::Bool, weak),
        Types::Test => signature(if weak { DType::F64 } else { dtype.to_float() }, DType::Bool, weak),
        Types::Select => {
            let ArgType { dtype, weak } = promote(args[1..].iter().copied());
            let args = SmallVec::from_slice(&[DType::Bool, dtype, dtype]);
            Ok(Signature { args, result: ArgType { dtype, weak } })
        }
        Types::Accumulate => signature(dtype.accumulator(), dtype.accumulator(), weak),
        Types::FoldBool => signature(DType::Bool, DType::Bool, weak),
        Types::Average => signature(wide, wide, weak),
    }
}

impl OpDef {
    /// True if it folds along axes that the user names.
    pub fn is_reduction(&self) -> bool {
        matches!(self.kind, OpKind::Reduce(_) | OpKind::Composite(_))
    }

    const fn new(name: &'static str, params: &'static [&'static str], types: Types, kind: OpKind) -> OpDef {
        OpDef {
            name,
            aliases: &[],
            operator: None,
            params,
            kind,
            types,
            commutative: false,
            check: None,
            group: "",
            doc: "",
            example: "",
        }
    }

    const fn unary(name: &'static str, types: Types, body: fn(&mut Builder, &[Value]) -> Value) -> OpDef {
        OpDef::new(name, &["x"], types, OpKind::Elementwise(body))
    }

    const fn binary(name: &'static str, types: Types, body: fn(&mut Builder, &[Value]) -> Value) -> OpDef {
        OpDef::new(name, &["x", "y"], types, OpKind::Elementwise(body))
    }

    const fn product(name: &'static str, product: Product) -> OpDef {
        OpDef::new(name, &["x", "y"], Types::Any, OpKind::Product(product)).group("Matrices")
    }

    const fn reduction(name: &'static str, types: Types, reducer: Reducer) -> OpDef {
        OpDef::new(name, &["x", "axis", "keepdims"], types, OpKind::Reduce(reducer)).group("Reductions")
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> OpDef {
        OpDef { aliases, ..self }
    }

    const fn params(self, params: &'static [&'static str]) -> OpDef {
        OpDef { params, ..self }
    }

    const fn operator(self, symbol: &'static str, precedence: u8, fix: Fix) -> OpDef {
        OpDef { operator: Some(Operator { symbol, precedence, fix }), ..self }
    }

    const fn commutative(self) -> OpDef {
        OpDef { commutative: true, ..self }
    }

    const fn check(self, low: f64, high: f64, ulp: f64) -> OpDef {
        OpDef { check: Some(Check { range: (low, high), ulp }), ..self }
    }

    const fn group(self, group: &'static str) -> OpDef {
        OpDef { group, ..self }
    }

    const fn doc(self, doc: &'static str, example: &'static str) -> OpDef {
        OpDef { doc, example, ..self }
    }
}

include!("ops/table.rs");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::literal::Literal;

    #[test]
    fn commutative_ops_are_to_the_bit() {
        let special = [0.0, -0.0, 1.0, -2.5, 3e300, -3e300, 5e-324, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        for op in Op::all().filter(|op| op.def().commutative) {
            let OpKind::Elementwise(body) = op.def().kind else { panic!("{op}") };
            for dtype in DType::ALL {
                let arg = ArgType { dtype, weak: false };
                let Ok(signature) = resolve(op, &[arg, arg]) else { continue };
                for (x, y) in special.iter().flat_map(|x| special.map(|y| (*x, y))) {
                    let value = |x: f64, y: f64| {
                        let mut b = Builder::body();
                        let args = [x, y].map(|v| b.constant(Literal::from_f64(dtype, v).cast(signature.args[0])));
                        let result = body(&mut b, &args);
                        b.as_const(result).expect("constants fold")
                    };
                    let (one, other) = (value(x, y), value(y, x));
                    let nan = |l: Literal| l.dtype().is_float() && l.as_f64().is_nan();
                    assert!(one == other || (nan(one) && nan(other)), "{op}({x}, {y}) of {dtype}: {one:?}, {other:?}");
                }
            }
        }
    }
}
