//! What texts mean: the graphs that they become.

use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_core::graph::{Graph, NodeKind};
use numfuse_core::literal::Literal;
use numfuse_lang::{DimSpec, InputType, SourceLimits, lower, parse, symbols};

const INPUTS: [InputType<'static>; 6] = [
    InputType { name: "x", dtype: DType::F64, weak: false, shape: &[DimSpec::Unknown] },
    InputType { name: "y", dtype: DType::F64, weak: false, shape: &[DimSpec::Unknown] },
    InputType { name: "m", dtype: DType::F32, weak: false, shape: &[DimSpec::Symbol("n"), DimSpec::Fixed(3)] },
    InputType { name: "v", dtype: DType::I32, weak: false, shape: &[DimSpec::Fixed(3)] },
    InputType { name: "k", dtype: DType::I64, weak: true, shape: &[] },
    InputType { name: "e", dtype: DType::F64, weak: false, shape: &[] },
];

fn graph(text: &str) -> Graph {
    let limits = SourceLimits::default();
    let (ast, diagnostics) = parse(text, &limits);
    assert_eq!(diagnostics, [], "{text}");
    let (graph, diagnostics) = lower(&ast.unwrap(), &INPUTS, None, &limits);
    assert_eq!(diagnostics, [], "{text}");
    graph.unwrap()
}

/// The results' types.
fn types(text: &str) -> String {
    let graph = graph(text);
    let types: Vec<String> = graph.outputs.iter().map(|o| graph.display_type(*o).to_string()).collect();
    types.join(", ")
}

/// The single result, a constant.
fn constant(text: &str) -> (Literal, bool) {
    let graph = graph(text);
    let [output] = graph.outputs[..] else { panic!("{text}") };
    (graph.as_const(output).unwrap(), graph.node(output).weak)
}

/// Two texts that say the same.
fn same(left: &str, right: &str) {
    assert_eq!(graph(left).to_string(), graph(right).to_string(), "{left} and {right}");
}

#[test]
fn literals() {
    for (text, want) in [
        ("1_000", Literal::i64(1000)),
        ("0xFF", Literal::i64(255)),
        ("0b1011", Literal::i64(11)),
        ("0o17", Literal::i64(15)),
        ("0x_ff", Literal::i64(255)),
        ("00", Literal::i64(0)),
        ("9223372036854775807", Literal::i64(i64::MAX)),
        ("-9223372036854775808", Literal::i64(i64::MIN)),
        ("18446744073709551616", Literal::f64(18446744073709551616.0)),
        ("0x10000000000000000", Literal::f64(18446744073709551616.0)),
        // Just above the middle between two doubles: rounded once, up.
        ("0x200000000000010000000000000001", Literal::f64(f64::from_bits(0x4740_0000_0000_0001))),
        ("0x200000000000010000000000000000", Literal::f64(f64::from_bits(0x4740_0000_0000_0000))),
        ("1.", Literal::f64(1.0)),
        (".5", Literal::f64(0.5)),
        ("1e3", Literal::f64(1000.0)),
        ("1_0.2_5e-0_1", Literal::f64(1.025)),
        ("0.1", Literal::f64(0.1)),
        ("1e999", Literal::f64(f64::INFINITY)),
        ("-0.0", Literal::f64(-0.0)),
        ("+ - -3", Literal::i64(3)),
        ("True", Literal::bool(true)),
        ("False", Literal::bool(false)),
        ("pi", Literal::f64(std::f64::consts::PI)),
        ("inf", Literal::f64(f64::INFINITY)),
        ("nan", Literal::f64(f64::NAN)),
    ] {
        assert_eq!(constant(text), (want, true), "{text}");
    }
    assert_eq!(constant("9223372036854775808"), (Literal::u64(1 << 63), false));
    assert_eq!(constant("0xffffffffffffffff"), (Literal::u64(u64::MAX), false));
    assert_eq!(constant("f32(0.1)"), (Literal::f32(0.1), false));
    assert_eq!(constant("u8(300)"), (Literal::from(44u8), false));
    assert_eq!(constant("int(2.5)"), (Literal::i64(2), false));
}

#[test]
fn names() {
    // An input hides a constant; an assignment too.
    assert_eq!(types("e"), "f64");
    assert!(matches!(graph("e").node(graph("e").outputs[0]).kind, NodeKind::Input(0)));
    assert_eq!(constant("pi = 3; pi"), (Literal::i64(3), true));
    assert_eq!(constant("a = 1; b = a; a = 2; b"), (Literal::i64(1), true));
    assert_eq!(constant("_größe = 1; _größe"), (Literal::i64(1), true));
    assert_eq!(constant("__pd_eval_local_x = 1; __pd_eval_local_x"), (Literal::i64(1), true));
    // Functions have names of their own.
    let sum = InputType { name: "sum", dtype: DType::F64, weak: false, shape: &[DimSpec::Fixed(2)] };
    let (ast, _) = parse("sum(sum)", &SourceLimits::default());
    let (graph, diagnostics) = lower(&ast.unwrap(), &[sum], None, &SourceLimits::default());
    assert_eq!(diagnostics, []);
    assert_eq!(graph.unwrap().inputs().len(), 1);
}

#[test]
fn inputs_are_those_used_in_the_order_given() {
    let names: Vec<String> = graph("y + k * x").inputs().iter().map(|i| i.name.clone()).collect();
    assert_eq!(names, ["x", "y", "k"]);
    let (ast, _) = parse("r = b + a; a = pi; r + a + f64(c)", &SourceLimits::default());
    assert_eq!(ast.unwrap().free_names(), ["b", "a", "pi", "c"]);
}

#[test]
fn dtypes() {
    assert_eq!(types("m + 1"), "f32[n, 3]");
    assert_eq!(types("m * 2.5"), "f32[n, 3]");
    assert_eq!(types("m + v"), "f64[n, 3]");
    assert_eq!(types("v + k"), "i32[3]");
    assert_eq!(types("v / 2"), "f64[3]");
    assert_eq!(types("v > 0"), "bool[3]");
    assert_eq!(types("1 + 2"), "i64 weak");
    assert_eq!(types("v.astype(f32)"), "f32[3]");
    assert_eq!(types("v.astype(float32)"), "f32[3]");
    assert_eq!(types("float32(v), float(v), bool(v), u8(v)"), "f32[3], f64[3], bool[3], u8[3]");
}

#[test]
fn operators() {
    same("1 < x <= 3", "(1 < x) and (x <= 3)");
    same("0 < v < 3 < 4", "((0 < v) and (v < 3)) and (3 < 4)");
    same("x if y > 0 else 1", "where(y > 0, x, 1)");
    same("not x", "logical_not(x)");
    same("x % 2 // 3", "floor_divide(remainder(x, 2), 3)");
    same("-x ** 2", "negative(pow(x, 2))");
    same("v << 1 & 3 | 4 ^ 5", "bitwise_or(bitwise_and(left_shift(v, 1), 3), bitwise_xor(4, 5))");
    same("(\n  x\n  + y  # two\n)", "x + y");
    same("\u{feff}x;;\n;", "x");
    same("r = x + y\nr * r", "(x + y) * (x + y)");
    // An assignment at the end has a value too.
    same("r = x + y", "x + y");
}

#[test]
fn calls() {
    same("x.sqrt()", "sqrt(x)");
    same("x.clip(0, high=1)", "clip(x, 0, 1)");
    same("arctan2(x=x, y=y)", "arctan2(y, x)");
    same("sum(m, 0)", "m.sum(axis=0)");
    same("sum(m, (0, 1))", "sum(m, axis=None)");
    same("ax = (0, -1); m.max(axis=ax)", "m.max()");
    same("amax(m, keepdims=True)", "max(m, None, True)");
    same("m.var(ddof=1, axis=-1)", "var(m, 1, False, 1)");
    assert_eq!(types("sum(m), sum(m, axis=0), sum(m, axis=1, keepdims=True)"), "f32, f32[3], f32[n, 1]");
    assert_eq!(types("sum(m, axis=())"), "f32[n, 3]");
    assert_eq!(types("mean(v), any(m, 0), all(v > 0)"), "f64, bool[3], bool");
}

#[test]
fn indices() {
    assert_eq!(types("m[0], m[-1, 2], m[:, 0], m[..., 0]"), "f32[3], f32, f32[n], f32[n]");
    assert_eq!(types("m[:, None], m[None, ..., None]"), "f32[n, 1, 3], f32[1, n, 3, 1]");
    assert_eq!(types("m[1:-1, ::2], m[::-1], m[1:None]"), "f32[n[1:-1], 2], f32[n, 3], f32[n[1:], 3]");
    assert_eq!(types("m[(0, 1)], m[...]"), "f32, f32[n, 3]");
    assert_eq!(types("i = -1; v[i], v[i:]"), "i32, i32[1]");
    assert_eq!(types("m.T, m.T.T, m.transpose(), transpose(m, (1, 0))"), "f32[3, n], f32[n, 3], f32[3, n], f32[3, n]");
    same("m.transpose(1, 0)", "m.T");
    same("m.transpose((-1, 0))", "m.T");
    same("m.transpose(None)", "m.T");
    same("m.transpose(axes=(1, 0))", "m.T");
}

#[test]
fn several_results() {
    assert_eq!(types("x + 1, m, 2"), "f64[?0], f32[n, 3], i64 weak");
    assert_eq!(types("(x,)"), "f64[?0]");
    assert_eq!(types("r = x, m\nr"), "f64[?0], f32[n, 3]");
}

#[test]
fn constraints_and_guards_have_places() {
    let graph = graph("x + y * v[0] ** k");
    let text = "x + y * v[0] ** k";
    let places: Vec<&str> = graph.dims.constraints().iter().map(|c| &text[c.span.unwrap().range()]).collect();
    assert_eq!(places, ["+"]);
    let places: Vec<&str> = graph.guards.iter().map(|g| &text[g.error.span.unwrap().range()]).collect();
    // The number `k` has to fit the integers that it meets, and must not be negative.
    assert_eq!(places, ["**", "**"]);
    let codes: Vec<Code> = graph.guards.iter().map(|g| g.error.code).collect();
    assert_eq!(codes, [Code::LiteralRange, Code::NegativeIntPower]);
}

#[test]
fn sizes_of_symbols() {
    let [x, _, m, v, k, _] = INPUTS;
    let m2 = InputType { name: "m2", ..m };
    assert_eq!(symbols([(x, &[7][..]), (m, &[5, 3]), (v, &[3]), (k, &[]), (m2, &[5, 3])]), Ok(vec![7, 5]));
    let error = |inputs: Vec<(InputType<'static>, &'static [u64])>| {
        let error = symbols(inputs).unwrap_err();
        assert_eq!(error.code, Code::InputMismatch);
        error.to_string()
    };
    assert_eq!(error(vec![(m, &[5, 3]), (m2, &[6, 3])]), "E0502: dimension 0 of `m2` has size 6; `n` is 5 in `m`");
    assert_eq!(error(vec![(v, &[4])]), "E0502: dimension 0 of `v` has size 4; it was declared with 3");
    assert_eq!(error(vec![(x, &[2, 2])]), "E0502: `x` has 2 dimensions; it was declared with 1");
}

#[test]
fn hints_decide_broadcasts() {
    let (ast, _) = parse("x + y", &SourceLimits::default());
    let ast = ast.unwrap();
    let shape = |sizes: [u64; 2]| {
        let hints = symbols([(INPUTS[0], &sizes[..1]), (INPUTS[1], &sizes[1..])]).unwrap();
        let (graph, diagnostics) = lower(&ast, &INPUTS, Some(hints), &SourceLimits::default());
        let text = graph.map(|g| g.display_type(g.outputs[0]).to_string());
        (text, diagnostics.first().map(|d| d.code))
    };
    assert_eq!(shape([7, 1]), (Some("f64[?0]".to_owned()), None));
    assert_eq!(shape([1, 7]), (Some("f64[?1]".to_owned()), None));
    assert_eq!(shape([6, 7]), (None, Some(Code::Broadcast)));
}

#[test]
fn mistakes_of_both_stages_are_found() {
    let limits = SourceLimits::default();
    let (ast, diagnostics) = parse("a = 1 +\nb = qq\nc = x ** ; sqr(x) + a", &limits);
    assert_eq!(diagnostics.len(), 2);
    let (graph, more) = lower(&ast.unwrap(), &INPUTS, None, &limits);
    assert!(graph.is_none());
    assert_eq!(more.iter().map(|d| d.code).collect::<Vec<_>>(), [Code::UnknownName, Code::UnknownFunction]);
}
