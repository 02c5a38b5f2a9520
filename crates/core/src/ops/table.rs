// The rows, included by `ops.rs`: operators first, then functions by group, then reductions.

macro_rules! table {
    ($($name:ident = $row:expr;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "only counts the rows")]
        enum Row { $($name,)* }
        impl Op {
            $(#[doc = concat!("The row `", stringify!($name), "`.")]
            pub const $name: Op = Op(Row::$name as u16);)*
        }
        /// The table.
        pub static OPS: &[OpDef] = &[$($row,)*];
    };
}

fn is_bool(b: &Builder, args: &[Value]) -> bool {
    b.dtype(args[0]) == DType::Bool
}

/// Compares bools as the numbers 0 and 1.
fn ordered(b: &mut Builder, args: &[Value]) -> (Value, Value) {
    if is_bool(b, args) { (b.cast(args[0], DType::U8), b.cast(args[1], DType::U8)) } else { (args[0], args[1]) }
}

table! {
    // Operators.
    ADD = OpDef::binary("add", Types::Any, |b, x| if is_bool(b, x) { b.or(x[0], x[1]) } else { b.add(x[0], x[1]) })
        .operator("+", 9, Fix::Left).commutative().group("Arithmetic")
        .doc("Sum. Integers wrap; of bools, `or`.", "x + y");
    SUB = OpDef::binary("subtract", Types::Number, |b, x| b.sub(x[0], x[1]))
        .aliases(&["sub"]).operator("-", 9, Fix::Left).group("Arithmetic")
        .doc("Difference. Integers wrap.", "x - y");
    MUL = OpDef::binary("multiply", Types::Any, |b, x| if is_bool(b, x) { b.and(x[0], x[1]) } else { b.mul(x[0], x[1]) })
        .aliases(&["mul"]).operator("*", 10, Fix::Left).commutative().group("Arithmetic")
        .doc("Product. Integers wrap; of bools, `and`.", "x * y");
    DIV = OpDef::binary("divide", Types::Divide, |b, x| b.div(x[0], x[1]))
        .aliases(&["true_divide", "div", "truediv"]).operator("/", 10, Fix::Left).group("Arithmetic")
        .doc("Quotient of real numbers; integers are divided in `f64`.", "x / y");
    FLOOR_DIVIDE = OpDef::binary("floor_divide", Types::Integral, math::floor_divide)
        .aliases(&["floordiv"]).operator("//", 10, Fix::Left).group("Arithmetic")
        .doc("Quotient rounded down. Integers: `x // 0` is 0 and the least value `// -1` wraps.", "x // y");
    REMAINDER = OpDef::binary("remainder", Types::Integral, math::remainder)
        .aliases(&["mod"]).operator("%", 10, Fix::Left).group("Arithmetic")
        .doc("Remainder of `//`, with the sign of the divisor. Integers: `x % 0` is 0.", "x % y");
    POW = OpDef::binary("pow", Types::Integral, math::pow)
        .aliases(&["power"]).operator("**", 12, Fix::Right).check(-50.0, 50.0, 1.0).group("Arithmetic")
        .doc("`x` to the power `y`. Small constant integer powers are compensated products. Integers wrap and refuse \
              negative powers.", "x ** 2.5");
    NEGATIVE = OpDef::unary("negative", Types::Number, |b, x| b.neg(x[0]))
        .aliases(&["neg"]).operator("-", UNARY, Fix::Prefix).group("Arithmetic")
        .doc("Sign reversed. The least integer stays itself.", "-x");
    POSITIVE = OpDef::unary("positive", Types::Number, |_, x| x[0])
        .operator("+", UNARY, Fix::Prefix).group("Arithmetic").doc("The value itself.", "+x");
    INVERT = OpDef::unary("invert", Types::Bits, |b, x| b.not(x[0]))
        .aliases(&["bitwise_not"]).operator("~", UNARY, Fix::Prefix).group("Bits")
        .doc("Every bit reversed; of bools, `not`.", "~x");
    BITWISE_AND = OpDef::binary("bitwise_and", Types::Bits, |b, x| b.and(x[0], x[1]))
        .operator("&", 7, Fix::Left).commutative().group("Bits").doc("Bits set in both.", "x & y");
    BITWISE_OR = OpDef::binary("bitwise_or", Types::Bits, |b, x| b.or(x[0], x[1]))
        .operator("|", 5, Fix::Left).commutative().group("Bits").doc("Bits set in either.", "x | y");
    BITWISE_XOR = OpDef::binary("bitwise_xor", Types::Bits, |b, x| b.xor(x[0], x[1]))
        .operator("^", 6, Fix::Left).commutative().group("Bits").doc("Bits set in one only.", "x ^ y");
    LEFT_SHIFT = OpDef::binary("left_shift", Types::Shift, |b, x| b.shl(x[0], x[1]))
        .operator("<<", 8, Fix::Left).group("Bits")
        .doc("Bits moved up. A count that is negative or not below the width gives 0.", "x << 3");
    RIGHT_SHIFT = OpDef::binary("right_shift", Types::Shift, |b, x| b.shr(x[0], x[1]))
        .operator(">>", 8, Fix::Left).group("Bits")
        .doc("Bits moved down, with the sign. A count that is negative or not below the width gives 0 or -1.", "x >> 3");
    LESS = OpDef::binary("less", Types::Compare, |b, x| { let (p, q) = ordered(b, x); b.lt(p, q) })
        .operator("<", 4, Fix::Chain).group("Comparison").doc("True where `x` is below `y`.", "x < y");
    LESS_EQUAL = OpDef::binary("less_equal", Types::Compare, |b, x| { let (p, q) = ordered(b, x); b.le(p, q) })
        .operator("<=", 4, Fix::Chain).group("Comparison").doc("True where `x` is not above `y`.", "x <= y");
    GREATER = OpDef::binary("greater", Types::Compare, |b, x| { let (p, q) = ordered(b, x); b.lt(q, p) })
        .operator(">", 4, Fix::Chain).group("Comparison").doc("True where `x` is above `y`.", "x > y");
    GREATER_EQUAL = OpDef::binary("greater_equal", Types::Compare, |b, x| { let (p, q) = ordered(b, x); b.le(q, p) })
        .operator(">=", 4, Fix::Chain).group("Comparison").doc("True where `x` is not below `y`.", "x >= y");
    EQUAL = OpDef::binary("equal", Types::Compare, |b, x| b.eq(x[0], x[1]))
        .operator("==", 4, Fix::Chain).commutative().group("Comparison").doc("True where both are equal.", "x == y");
    NOT_EQUAL = OpDef::binary("not_equal", Types::Compare, |b, x| b.ne(x[0], x[1]))
        .operator("!=", 4, Fix::Chain).commutative().group("Comparison").doc("True where they differ.", "x != y");
    LOGICAL_AND = OpDef::binary("logical_and", Types::Logical, |b, x| b.and(x[0], x[1]))
        .operator("and", 2, Fix::Left).commutative().group("Logic")
        .doc("True where both are true. Elementwise: both sides are always computed.", "x > 0 and x < 1");
    LOGICAL_OR = OpDef::binary("logical_or", Types::Logical, |b, x| b.or(x[0], x[1]))
        .operator("or", 1, Fix::Left).commutative().group("Logic")
        .doc("True where either is true. Elementwise.", "x < 0 or x > 1");
    LOGICAL_NOT = OpDef::unary("logical_not", Types::Logical, |b, x| b.not(x[0]))
        .operator("not", 3, Fix::Prefix).group("Logic").doc("True where `x` is false.", "not x > 0");
    LOGICAL_XOR = OpDef::binary("logical_xor", Types::Logical, |b, x| b.xor(x[0], x[1]))
        .commutative().group("Logic").doc("True where just one is true.", "logical_xor(x > 0, y > 0)");

    // Choice.
    WHERE = OpDef::new("where", &["condition", "x", "y"], Types::Select, OpKind::Elementwise(|b, x| b.select(x[0], x[1], x[2])))
        .aliases(&["select"]).group("Choice").doc("`x` where the condition is true, `y` elsewhere; also `x if c else y`.", "where(x > y, x, y)");
    MINIMUM = OpDef::binary("minimum", Types::Any, |b, x| if is_bool(b, x) { b.and(x[0], x[1]) } else { math::minimum(b, x) })
        .commutative().group("Choice").doc("The lesser; NaN if either is NaN.", "minimum(x, y)");
    MAXIMUM = OpDef::binary("maximum", Types::Any, |b, x| if is_bool(b, x) { b.or(x[0], x[1]) } else { math::maximum(b, x) })
        .commutative().group("Choice").doc("The greater; NaN if either is NaN.", "maximum(x, y)");
    FMIN = OpDef::binary("fmin", Types::Any, |b, x| if is_bool(b, x) { b.and(x[0], x[1]) } else { math::fmin(b, x) })
        .commutative().group("Choice").doc("The lesser; the other one if either is NaN.", "fmin(x, y)");
    FMAX = OpDef::binary("fmax", Types::Any, |b, x| if is_bool(b, x) { b.or(x[0], x[1]) } else { math::fmax(b, x) })
        .commutative().group("Choice").doc("The greater; the other one if either is NaN.", "fmax(x, y)");
    CLIP = OpDef::new("clip", &["x", "low", "high"], Types::Number, OpKind::Elementwise(math::clip))
        .group("Choice").doc("`x` held between two bounds.", "clip(x, 0, 1)");

    // Parts of numbers and rounding.
    ABS = OpDef::unary("abs", Types::Any, |b, x| if is_bool(b, x) { x[0] } else { math::abs(b, x) })
        .aliases(&["absolute", "fabs"]).group("Parts").doc("Absolute value. The least integer stays itself.", "abs(x)");
    SIGN = OpDef::unary("sign", Types::Number, math::sign).group("Parts").doc("-1, 0 or 1; NaN for NaN.", "sign(x)");
    COPYSIGN = OpDef::binary("copysign", Types::Float, math::copysign).group("Parts").doc("`x` with the sign of `y`.", "copysign(x, y)");
    SIGNBIT = OpDef::unary("signbit", Types::Test, math::signbit).group("Parts").doc("True where the sign bit is set, also for -0.0.", "signbit(x)");
    NEXTAFTER = OpDef::binary("nextafter", Types::Float, math::nextafter).group("Parts")
        .doc("The next number after `x` towards `y`.", "nextafter(x, inf)");
    FLOOR = OpDef::unary("floor", Types::Any, |b, x| if b.dtype(x[0]).is_float() { b.floor(x[0]) } else { x[0] })
        .group("Parts").doc("Rounded down. Integers stay.", "floor(x)");
    CEIL = OpDef::unary("ceil", Types::Any, |b, x| if b.dtype(x[0]).is_float() { b.ceil(x[0]) } else { x[0] })
        .group("Parts").doc("Rounded up. Integers stay.", "ceil(x)");
    TRUNC = OpDef::unary("trunc", Types::Any, |b, x| if b.dtype(x[0]).is_float() { b.trunc(x[0]) } else { x[0] })
        .aliases(&["fix"]).group("Parts").doc("Rounded toward zero. Integers stay.", "trunc(x)");
    ROUND = OpDef::unary("round", Types::Any, |b, x| if b.dtype(x[0]).is_float() { b.round_even(x[0]) } else { x[0] })
        .aliases(&["rint", "around"]).group("Parts").doc("Rounded to the nearest integer, ties to even. Integers stay.", "round(x)");
    FMOD = OpDef::binary("fmod", Types::Integral, |b, x| b.rem(x[0], x[1]))
        .group("Parts").doc("Remainder with the sign of `x`, exact, as C's.", "fmod(x, y)");
    ISNAN = OpDef::unary("isnan", Types::Test, math::isnan).group("Parts").doc("True where `x` is NaN.", "isnan(x)");
    ISINF = OpDef::unary("isinf", Types::Test, math::isinf).group("Parts").doc("True where `x` is infinite.", "isinf(x)");
    ISFINITE = OpDef::unary("isfinite", Types::Test, math::isfinite).group("Parts").doc("True where `x` is neither infinite nor NaN.", "isfinite(x)");

    // Powers and roots.
    SQRT = OpDef::unary("sqrt", Types::Float, |b, x| b.sqrt(x[0])).group("Powers").doc("Square root, correctly rounded.", "sqrt(x)");
    CBRT = OpDef::unary("cbrt", Types::Float, math::cbrt).check(-1e6, 1e6, 1.0).group("Powers").doc("Cube root.", "cbrt(x)");
    SQUARE = OpDef::unary("square", Types::Any, |b, x| if is_bool(b, x) { x[0] } else { b.mul(x[0], x[0]) })
        .group("Powers").doc("`x * x`.", "square(x)");
    RECIPROCAL = OpDef::unary("reciprocal", Types::Divide, |b, x| { let one = b.float(b.dtype(x[0]), 1.0); b.div(one, x[0]) })
        .group("Powers").doc("`1 / x`.", "reciprocal(x)");
    HYPOT = OpDef::binary("hypot", Types::Float, math::hypot).commutative().check(-1e6, 1e6, 1.0)
        .group("Powers").doc("`sqrt(x*x + y*y)` without overflow.", "hypot(x, y)");
    FMA = OpDef::new("fma", &["x", "y", "z"], Types::Float, OpKind::Elementwise(|b, x| b.fma(x[0], x[1], x[2])))
        .group("Powers").doc("`x * y + z`, rounded once.", "fma(x, y, z)");

    // Exponentials and logarithms.
    EXP = OpDef::unary("exp", Types::Float, math::exp).check(-100.0, 100.0, 1.0).group("Exponentials").doc("`e` to the power `x`.", "exp(x)");
    EXP2 = OpDef::unary("exp2", Types::Float, math::exp2).check(-150.0, 130.0, 1.0).group("Exponentials").doc("2 to the power `x`.", "exp2(x)");
    EXPM1 = OpDef::unary("expm1", Types::Float, math::expm1).check(-40.0, 90.0, 1.0).group("Exponentials")
        .doc("`exp(x) - 1`, accurate for small `x`.", "expm1(1e-9)");
    LOG = OpDef::unary("log", Types::Float, math::log).aliases(&["ln"]).check(1e-6, 1e6, 1.0).group("Exponentials").doc("Natural logarithm.", "log(x)");
    LOG2 = OpDef::unary("log2", Types::Float, math::log2).check(1e-6, 1e6, 1.0).group("Exponentials").doc("Logarithm to base 2.", "log2(x)");
    LOG10 = OpDef::unary("log10", Types::Float, math::log10).check(1e-6, 1e6, 1.0).group("Exponentials").doc("Logarithm to base 10.", "log10(x)");
    LOG1P = OpDef::unary("log1p", Types::Float, math::log1p).check(-0.999, 1e6, 1.0).group("Exponentials")
        .doc("Natural logarithm of `1 + x`, accurate for small `x`.", "log1p(1e-9)");

    // Trigonometry.
    SIN = OpDef::unary("sin", Types::Float, math::sin).check(-1e3, 1e3, 1.0).group("Trigonometry").doc("Sine of an angle in radians.", "sin(x)");
    COS = OpDef::unary("cos", Types::Float, math::cos).check(-1e3, 1e3, 1.0).group("Trigonometry").doc("Cosine of an angle in radians.", "cos(x)");
    TAN = OpDef::unary("tan", Types::Float, math::tan).check(-1e3, 1e3, 1.0).group("Trigonometry").doc("Tangent of an angle in radians.", "tan(x)");
    ARCSIN = OpDef::unary("arcsin", Types::Float, math::arcsin).aliases(&["asin"]).check(-1.0, 1.0, 1.0).group("Trigonometry").doc("Inverse sine, in radians.", "arcsin(x)");
    ARCCOS = OpDef::unary("arccos", Types::Float, math::arccos).aliases(&["acos"]).check(-1.0, 1.0, 1.0).group("Trigonometry").doc("Inverse cosine, in radians.", "arccos(x)");
    ARCTAN = OpDef::unary("arctan", Types::Float, math::arctan).aliases(&["atan"]).check(-100.0, 100.0, 1.0).group("Trigonometry").doc("Inverse tangent, in radians.", "arctan(x)");
    ARCTAN2 = OpDef::binary("arctan2", Types::Float, math::arctan2).params(&["y", "x"]).aliases(&["atan2"]).check(-100.0, 100.0, 1.0).group("Trigonometry")
        .doc("The angle of the point (y, x), in radians; the first operand is the ordinate.", "arctan2(y, x)");
    DEG2RAD = OpDef::unary("deg2rad", Types::Float, math::deg2rad).aliases(&["radians"]).group("Trigonometry").doc("Degrees to radians.", "deg2rad(x)");
    RAD2DEG = OpDef::unary("rad2deg", Types::Float, math::rad2deg).aliases(&["degrees"]).group("Trigonometry").doc("Radians to degrees.", "rad2deg(x)");

    // Hyperbolic functions.
    SINH = OpDef::unary("sinh", Types::Float, math::sinh).check(-90.0, 90.0, 1.0).group("Hyperbolic").doc("Hyperbolic sine.", "sinh(x)");
    COSH = OpDef::unary("cosh", Types::Float, math::cosh).check(-90.0, 90.0, 1.0).group("Hyperbolic").doc("Hyperbolic cosine.", "cosh(x)");
    TANH = OpDef::unary("tanh", Types::Float, math::tanh).check(-20.0, 20.0, 1.0).group("Hyperbolic").doc("Hyperbolic tangent.", "tanh(x)");
    ARCSINH = OpDef::unary("arcsinh", Types::Float, math::arcsinh).aliases(&["asinh"]).check(-1e3, 1e3, 1.0).group("Hyperbolic").doc("Inverse hyperbolic sine.", "arcsinh(x)");
    ARCCOSH = OpDef::unary("arccosh", Types::Float, math::arccosh).aliases(&["acosh"]).check(1.0, 1e3, 1.0).group("Hyperbolic").doc("Inverse hyperbolic cosine.", "arccosh(x)");
    ARCTANH = OpDef::unary("arctanh", Types::Float, math::arctanh).aliases(&["atanh"]).check(-1.0, 1.0, 1.0).group("Hyperbolic").doc("Inverse hyperbolic tangent.", "arctanh(x)");

    // Special functions and activations.
    ERF = OpDef::unary("erf", Types::Float, math::erf).check(-6.0, 6.0, 1.0).group("Special").doc("Error function.", "erf(x)");
    ERFC = OpDef::unary("erfc", Types::Float, math::erfc).check(-6.0, 28.0, 1.0).group("Special").doc("`1 - erf(x)`, accurate for large `x`.", "erfc(x)");
    SIGMOID = OpDef::unary("sigmoid", Types::Float, math::sigmoid).aliases(&["expit"]).check(-40.0, 40.0, 1.0).group("Special").doc("`1 / (1 + exp(-x))`.", "sigmoid(x)");
    SOFTPLUS = OpDef::unary("softplus", Types::Float, math::softplus).check(-40.0, 40.0, 1.0).group("Special").doc("`log(1 + exp(x))` without overflow.", "softplus(x)");
    RELU = OpDef::unary("relu", Types::Number, math::relu).group("Special").doc("`x` where it is positive, 0 elsewhere; NaN for NaN.", "relu(x)");
    GELU = OpDef::unary("gelu", Types::Float, math::gelu).check(-6.0, 6.0, 1.0).group("Special").doc("`x` times the normal distribution function of `x`.", "gelu(x)");

    // Matrices.
    MATMUL = OpDef::product("matmul", Product::Matmul).operator("@", 10, Fix::Left)
        .doc("Matrix product, of vectors, matrices and stacks of matrices. Integers wrap; of bools, whether any pair is true.", "x @ y.T");
    DOT = OpDef::product("dot", Product::Dot)
        .doc("Matrix product of vectors and matrices; of scalars, their product with the other operand.", "dot(x, y.T)");

    // Reductions.
    SUM = OpDef::reduction("sum", Types::Accumulate, Reducer::Sum)
        .doc("Sum along axes; integers and bools in 64 bits. Of no elements 0.", "sum(x, axis=0)");
    PROD = OpDef::reduction("prod", Types::Accumulate, Reducer::Prod)
        .doc("Product along axes; integers and bools in 64 bits. Of no elements 1.", "prod(x, axis=-1)");
    MIN = OpDef::reduction("min", Types::Fold, Reducer::Min).aliases(&["amin"])
        .doc("The least along axes; NaN if any is NaN. Of no elements an error.", "min(x, axis=(0, 1))");
    MAX = OpDef::reduction("max", Types::Fold, Reducer::Max).aliases(&["amax"])
        .doc("The greatest along axes; NaN if any is NaN. Of no elements an error.", "max(x, keepdims=True)");
    ANY = OpDef::reduction("any", Types::FoldBool, Reducer::Any).doc("True where any is true. Of no elements false.", "any(x > 0)");
    ALL = OpDef::reduction("all", Types::FoldBool, Reducer::All).doc("True where all are true. Of no elements true.", "all(x > 0, axis=0)");
    MEAN = OpDef::new("mean", &["x", "axis", "keepdims"], Types::Average, OpKind::Composite(Composite::Mean)).aliases(&["average"])
        .group("Reductions").doc("Sum over count along axes; integers in `f64`.", "mean(x, axis=0)");
    VAR = OpDef::new("var", &["x", "axis", "keepdims", "ddof"], Types::Average, OpKind::Composite(Composite::Var))
        .group("Reductions").doc("Mean squared deviation from the mean, in one stable pass; divided by the count less `ddof`.", "var(x, axis=0, ddof=1)");
    STD = OpDef::new("std", &["x", "axis", "keepdims", "ddof"], Types::Average, OpKind::Composite(Composite::Std))
        .group("Reductions").doc("Square root of the variance.", "std(x, axis=0)");
}
