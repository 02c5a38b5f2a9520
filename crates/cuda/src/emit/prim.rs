//! Primitives, dtypes and constants as C expressions, and the functions that they call.
//!
//! A value of dtype bool is a C `bool`; in memory it is a byte. Integers are computed in unsigned words of at least 32
//! bits and cut to their width, so nothing overflows in C's sense; divisions, shifts and conversions are guarded.

use super::Class;
use super::text::Text;
use numfuse_core::dtype::{DType, Kind};
use numfuse_core::kernel::{Body, Inst, Prim, Value, expand};
use numfuse_core::literal::Literal;
use std::collections::BTreeSet;

/// The C type of a value.
pub(super) fn value_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "bool",
        _ => dtype.info().name,
    }
}

/// The C type of an element in memory.
pub(super) fn memory_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "u8",
        _ => dtype.info().name,
    }
}

/// Functions of the prelude that a text uses.
#[derive(Clone, Default, Debug)]
pub(super) struct Helpers {
    /// Division by a size.
    pub divide: bool,
    /// Vectors of elements.
    pub vectors: bool,
    /// The lesser of two numbers of elements.
    pub least: bool,
    /// Conversions from a float dtype to an integer dtype.
    saturate: BTreeSet<(DType, DType)>,
    /// Primitives that are functions of a dtype.
    functions: BTreeSet<(Prim, DType)>,
}

/// What every text begins with, and the functions that this one uses.
pub(super) fn prelude(text: &mut Text, class: &Class, uses: &Helpers) {
    text.line("typedef signed char i8; typedef short i16; typedef int i32; typedef long long i64;");
    text.line("typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;");
    text.line("typedef float f32; typedef double f64;");
    text.line(&format!("typedef {} idx;", if class.wide { "i64" } else { "i32" }));
    if uses.vectors {
        // No load or store is wider than 16 bytes, so that nothing has to be aligned to more.
        text.line(
            "template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector { T e[N]; };",
        );
    }
    if uses.least {
        text.line("static __device__ __forceinline__ i64 least(i64 x, i64 y) { return x < y ? x : y; }");
    }
    if uses.divide {
        if class.wide {
            text.line("static __device__ __forceinline__ idx divide(idx x, u64 size) { return (idx)((u64)x / size); }");
        } else {
            // Granlund & Montgomery 1994, for dividends below 2^31.
            text.open("static __device__ __forceinline__ idx divide(idx x, u64 size)");
            text.line("return (idx)((__umulhi((u32)x, (u32)size) + (u32)x) >> (u32)(size >> 32));");
            text.close();
        }
    }
    for (from, to) in &uses.saturate {
        let (f, t) = (value_type(*from), value_type(*to));
        let (least, most) = (Literal::min_of(*to), Literal::max_of(*to));
        // The bounds are powers of two (or zero), which every float dtype has.
        let low = constant(Literal::from_f64(*from, least.as_f64()));
        let high = constant(Literal::from_f64(*from, 2f64.powi(to.bits() as i32 - i32::from(to.is_signed()))));
        text.open(&format!("static __device__ __forceinline__ {t} {f}_to_{t}({f} x)"));
        text.line(&format!(
            "return x != x ? ({t})0 : x <= {low} ? {} : x >= {high} ? {} : ({t})x;",
            constant(least),
            constant(most)
        ));
        text.close();
    }
    for (prim, dtype) in &uses.functions {
        let Some(body) = expand::body(*prim, *dtype) else { continue };
        let t = value_type(*dtype);
        let parameters: Vec<String> = (0..prim.arity()).map(|n| format!("{t} x{n}")).collect();
        let function = function_name(*prim, *dtype);
        text.open(&format!("static __device__ __forceinline__ {t} {function}({})", parameters.join(", ")));
        // It calls no function that is not built in.
        let results = body_lines(text, &mut Helpers::default(), body);
        text.line(&format!("return {};", results.join(", ")));
        text.close();
    }
}

/// The instructions of a body, whose arguments are `x0`, `x1`, and so on; returns what its results are called.
pub(super) fn body_lines(text: &mut Text, uses: &mut Helpers, body: &Body) -> Vec<String> {
    let name = |v: &Value| match &body.insts[v.index()].inst {
        Inst::Const(literal) => constant(*literal),
        _ => v.to_string(),
    };
    for (i, data) in body.insts.iter().enumerate() {
        let value = match &data.inst {
            Inst::Arg(n) => format!("x{n}"),
            Inst::Prim(prim, args) => {
                let names: Vec<String> = args.iter().map(name).collect();
                let from = body.insts[operand_for_type(*prim, args).index()].dtype;
                expression(uses, *prim, data.dtype, from, &names)
            }
            _ => continue,
        };
        text.line(&format!("const {} v{i} = {value};", value_type(data.dtype)));
    }
    body.results.iter().map(name).collect()
}

/// What the function is called that computes a primitive.
pub(super) fn function_name(prim: Prim, dtype: DType) -> String {
    format!("{}_{}", prim.name(), value_type(dtype))
}

/// The operand whose dtype decides what a primitive does: the first that is not a condition.
pub(super) fn operand_for_type(prim: Prim, args: &[Value]) -> Value {
    if prim == Prim::Select { args[1] } else { args[0] }
}

/// A constant.
pub(super) fn constant(x: Literal) -> String {
    let dtype = x.dtype();
    match dtype.kind() {
        Kind::Bool => if x.as_bool() { "true" } else { "false" }.into(),
        Kind::Float => {
            let value = x.as_f64();
            let text = match dtype {
                DType::F32 if !value.is_finite() => return format!("__int_as_float({:#x})", x.bits()),
                DType::F32 => format!("{:?}f", value as f32),
                _ if !value.is_finite() => return format!("__longlong_as_double({:#x}ll)", x.bits()),
                _ => format!("{value:?}"),
            };
            if value.is_sign_negative() { format!("({text})") } else { text }
        }
        Kind::Int if dtype == DType::I64 => match x.as_i64() {
            i64::MIN => "(-9223372036854775807ll - 1)".into(),
            value if value < 0 => format!("({value}ll)"),
            value => format!("{value}ll"),
        },
        Kind::Int => match x.as_i64() {
            value if value == i64::from(i32::MIN) => "(-2147483647 - 1)".into(),
            value => {
                format!("({}){}", value_type(dtype), if value < 0 { format!("({value})") } else { value.to_string() })
            }
        },
        Kind::Uint if dtype == DType::U64 => format!("{}ull", x.bits()),
        Kind::Uint => format!("({}){}u", value_type(dtype), x.bits()),
    }
}

/// The bits of a word, an expression of type `i64`, as a value.
pub(super) fn from_word(dtype: DType, word: &str) -> String {
    match dtype {
        DType::Bool => format!("{word} != 0"),
        DType::F32 => format!("__int_as_float((i32){word})"),
        DType::F64 => format!("__longlong_as_double({word})"),
        _ => format!("({}){word}", value_type(dtype)),
    }
}

/// A primitive of operands, which are names or constants; `from` is the dtype of the first one that is not a condition.
pub(super) fn expression(uses: &mut Helpers, prim: Prim, dtype: DType, from: DType, args: &[String]) -> String {
    let x = &args[0];
    let y = args.get(1).map_or("", String::as_str);
    let z = args.get(2).map_or("", String::as_str);
    match prim {
        Prim::Select => return format!("{x} ? {y} : {z}"),
        Prim::Eq => return format!("{x} == {y}"),
        Prim::Ne => return format!("{x} != {y}"),
        Prim::Lt => return format!("{x} < {y}"),
        Prim::Le => return format!("{x} <= {y}"),
        Prim::Min => return format!("{x} < {y} ? {x} : {y}"),
        Prim::Max => return format!("{x} > {y} ? {x} : {y}"),
        Prim::Cast => return cast(uses, dtype, from, x),
        Prim::Bitcast => return bitcast(dtype, from, x),
        _ => {}
    }
    match dtype.kind() {
        Kind::Float if expand::body(prim, dtype).is_some() => {
            uses.functions.insert((prim, dtype));
            format!("{}({})", function_name(prim, dtype), args.join(", "))
        }
        Kind::Float => float(prim, dtype, x, y, z),
        Kind::Bool => match prim {
            Prim::Not => format!("!{x}"),
            Prim::And => format!("{x} && {y}"),
            Prim::Or => format!("{x} || {y}"),
            Prim::Xor => format!("{x} != {y}"),
            _ => unreachable!("{} of bool", prim.name()),
        },
        Kind::Int | Kind::Uint => integer(prim, dtype, x, y),
    }
}

fn float(prim: Prim, dtype: DType, x: &str, y: &str, z: &str) -> String {
    let single = dtype == DType::F32;
    let call = |name: &str| format!("{name}{}({x})", if single { "f" } else { "" });
    match prim {
        Prim::Neg => format!("-{x}"),
        Prim::Abs => call("fabs"),
        Prim::Add => format!("{x} + {y}"),
        Prim::Sub => format!("{x} - {y}"),
        Prim::Mul => format!("{x} * {y}"),
        Prim::Div => format!("{x} / {y}"),
        Prim::Rem => format!("fmod{}({x}, {y})", if single { "f" } else { "" }),
        Prim::Fma if single => format!("__fmaf_rn({x}, {y}, {z})"),
        Prim::Fma => format!("__fma_rn({x}, {y}, {z})"),
        Prim::Sqrt => call("sqrt"),
        Prim::Floor => call("floor"),
        Prim::Ceil => call("ceil"),
        Prim::Trunc => call("trunc"),
        Prim::RoundEven => call("rint"),
        _ => unreachable!("{} of {dtype}", prim.name()),
    }
}

/// The unsigned type in which an integer dtype is computed.
fn word_type(dtype: DType) -> &'static str {
    if dtype.size() == 8 { "u64" } else { "u32" }
}

fn integer(prim: Prim, dtype: DType, x: &str, y: &str) -> String {
    let (t, word, width) = (value_type(dtype), word_type(dtype), dtype.bits());
    let signed = dtype.is_signed();
    match prim {
        Prim::Neg => format!("({t})(0 - ({word}){x})"),
        Prim::Abs => format!("{x} < 0 ? ({t})(0 - ({word}){x}) : {x}"),
        Prim::Add => format!("({t})(({word}){x} + ({word}){y})"),
        Prim::Sub => format!("({t})(({word}){x} - ({word}){y})"),
        Prim::Mul => format!("({t})(({word}){x} * ({word}){y})"),
        Prim::Div if signed => {
            format!("{y} == 0 ? ({t})0 : {y} == -1 ? ({t})(0 - ({word}){x}) : ({t})({x} / {y})")
        }
        Prim::Div => format!("{y} == 0 ? ({t})0 : ({t})({x} / {y})"),
        Prim::Rem if signed => format!("{y} == 0 || {y} == -1 ? ({t})0 : ({t})({x} % {y})"),
        Prim::Rem => format!("{y} == 0 ? ({t})0 : ({t})({x} % {y})"),
        Prim::And => format!("({t})({x} & {y})"),
        Prim::Or => format!("({t})({x} | {y})"),
        Prim::Xor => format!("({t})({x} ^ {y})"),
        Prim::Not => format!("({t})~{x}"),
        Prim::Shl => format!("({word}){y} < {width} ? ({t})(({word}){x} << ({word}){y}) : ({t})0"),
        Prim::Shr if signed => format!("({t})({x} >> (({word}){y} < {width} ? ({word}){y} : {}))", width - 1),
        Prim::Shr => format!("({word}){y} < {width} ? ({t})({x} >> ({word}){y}) : ({t})0"),
        _ => unreachable!("{} of {dtype}", prim.name()),
    }
}

fn cast(uses: &mut Helpers, dtype: DType, from: DType, x: &str) -> String {
    if dtype == from {
        return x.to_owned();
    }
    match dtype.kind() {
        Kind::Bool => format!("{x} != 0"),
        Kind::Int | Kind::Uint if from.is_float() => {
            uses.saturate.insert((from, dtype));
            format!("{}_to_{}({x})", value_type(from), value_type(dtype))
        }
        _ => format!("({}){x}", value_type(dtype)),
    }
}

fn bitcast(dtype: DType, from: DType, x: &str) -> String {
    let integer = |signed: &str| match dtype {
        DType::I32 | DType::I64 => signed.to_owned(),
        _ => format!("({}){signed}", value_type(dtype)),
    };
    match (from, dtype) {
        _ if from == dtype => x.to_owned(),
        (DType::F32, _) => integer(&format!("__float_as_int({x})")),
        (DType::F64, _) => integer(&format!("__double_as_longlong({x})")),
        (_, DType::F32) => format!("__int_as_float((i32){x})"),
        (_, DType::F64) => format!("__longlong_as_double((i64){x})"),
        _ => format!("({}){x}", value_type(dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_read_back() {
        for (x, text) in [
            (Literal::f32(0.1), "0.1f"),
            (Literal::f32(-1.0), "(-1.0f)"),
            (Literal::f64(1e300), "1e300"),
            (Literal::f64(-0.0), "(-0.0)"),
            (Literal::f32(f32::INFINITY), "__int_as_float(0x7f800000)"),
            (Literal::f64(f64::NAN), "__longlong_as_double(0x7ff8000000000000ll)"),
            (Literal::i64(i64::MIN), "(-9223372036854775807ll - 1)"),
            (Literal::from(i32::MIN), "(-2147483647 - 1)"),
            (Literal::from(-5i8), "(i8)(-5)"),
            (Literal::from(200u8), "(u8)200u"),
            (Literal::u64(u64::MAX), "18446744073709551615ull"),
        ] {
            assert_eq!(constant(x), text);
        }
    }
}
