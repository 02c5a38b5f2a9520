//! Properties of any text.

use numfuse_core::dtype::DType;
use numfuse_lang::{DimSpec, InputType, SourceLimits, lower, parse, render, tokens};
use proptest::prelude::*;

/// Runs everything on a text; what it says is right or wrong, but it never fails to say something.
fn survives(text: &str) -> Result<(), TestCaseError> {
    let limits = SourceLimits::default();
    let (ast, diagnostics) = parse(text, &limits);
    prop_assert!(ast.is_some() || !diagnostics.is_empty());
    for diagnostic in &diagnostics {
        let span = diagnostic.span.unwrap_or_default();
        prop_assert!(text.get(span.range()).is_some(), "{span:?}");
    }
    let shown = render(text, "text", &diagnostics, false);
    let harmless = shown.chars().all(|c| c == '\n' || !c.is_control());
    prop_assert!(harmless, "{shown:?}");
    for (span, _) in tokens(text) {
        prop_assert!(text.get(span.range()).is_some());
    }
    let Some(ast) = ast else { return Ok(()) };
    if diagnostics.is_empty() {
        let printed = ast.to_string();
        let (again, more) = parse(&printed, &limits);
        prop_assert_eq!(more, [], "{}", printed);
        prop_assert_eq!(again.as_ref(), Some(&ast), "{}", printed);
        prop_assert_eq!(again.unwrap().to_string(), printed);
    }
    let n = [DimSpec::Symbol("n")];
    let nm = [DimSpec::Symbol("n"), DimSpec::Unknown];
    let inputs = [
        InputType { name: "a", dtype: DType::F64, weak: false, shape: &n },
        InputType { name: "b", dtype: DType::I32, weak: false, shape: &nm },
        InputType { name: "c", dtype: DType::Bool, weak: false, shape: &[DimSpec::Fixed(3)] },
        InputType { name: "d", dtype: DType::I64, weak: true, shape: &[] },
    ];
    let (graph, more) = lower(&ast, &inputs, None, &limits);
    prop_assert_eq!(graph.is_none(), !more.is_empty() || !diagnostics.is_empty());
    for diagnostic in &more {
        prop_assert!(diagnostic.span.is_some(), "{diagnostic}");
    }
    render(text, "text", &more, true);
    Ok(())
}

/// A token, right ones more often than wrong ones.
fn token() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "d", "1", "2.5", "0", "True", "None", "...", "pi", "f32", "-1"]),
        4 => prop::sample::select(vec!["+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "&", "^", "<<", "and", "or"]),
        2 => prop::sample::select(vec!["not", "~", "if", "else", ".T", ":", ",", "=", ";", "\n", ".", " # x\n"]),
        4 => prop::sample::select(vec!["(", ")", "[", "]", "sum(", "min(", "where(", ".sum(axis=", "[1:", "[None", "f64("]),
        1 => prop::sample::select(vec!["lambda", "\"s\"", "&&", "2x", "0b2", "$", "\0", "\u{202e}", "é", "x.y", "!"]),
    ]
}

/// A text that parses.
fn expression() -> impl Strategy<Value = String> {
    let leaf =
        prop::sample::select(vec!["a", "b", "c", "d", "1", "2.5", "1e-7", "0xff", "True", "pi", "9223372036854775808"]);
    leaf.prop_map(str::to_owned).prop_recursive(8, 60, 4, |inner| {
        let infix = prop::sample::select(vec![
            "+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^", "<", "<=", ">", ">=", "==", "!=", "and",
            "or",
        ]);
        prop_oneof![
            (inner.clone(), infix, inner.clone()).prop_map(|(x, op, y)| format!("({x}) {op} ({y})")),
            (prop::sample::select(vec!["-", "+", "~", "not "]), inner.clone()).prop_map(|(op, x)| format!("{op}({x})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(x, c, y)| format!("({x}) if ({c}) else ({y})")),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|xs| format!("where({})", xs.join(", "))),
            (inner.clone(), -3i32..3).prop_map(|(x, axis)| format!("({x}).sum(axis={axis}, keepdims=True)")),
            inner.clone().prop_map(|x| format!("sum({x}, axis=(0, -1)).T")),
            (
                inner.clone(),
                prop::sample::select(vec!["1:", ":-1", "::2", "None", "...", "0", "1:2:3, ..., None", "(0, 1)"])
            )
                .prop_map(|(x, items)| format!("({x})[{items}]")),
            (inner.clone(), inner).prop_map(|(x, y)| format!("a < ({x}) <= ({y}) != 3")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn any_ascii(text in "[ -~\n]{0,60}") {
        survives(&text)?;
    }

    #[test]
    fn token_soup(tokens in prop::collection::vec((token(), prop::sample::select(vec!["", " "])), 0..30)) {
        let text: String = tokens.iter().flat_map(|(token, space)| [*token, *space]).collect();
        survives(&text)?;
    }

    #[test]
    fn expressions(first in expression(), second in expression()) {
        let text = format!("r = {first}\n{second}, r");
        let (_, diagnostics) = parse(&text, &SourceLimits::default());
        prop_assert_eq!(diagnostics, []);
        survives(&text)?;
    }
}

#[test]
fn printing_adds_no_brackets() {
    for text in [
        "a ** -b",
        "-a ** 2",
        "(-a) ** 2",
        "a ** b ** c",
        "(a ** b) ** c",
        "a - b - c",
        "a - (b - c)",
        "a < b <= c",
        "(a < b) < c",
        "a < (b < c)",
        "not a and b or c",
        "not (a and b)",
        "a * -b",
        "(a if b else c) + d",
        "a if b else c if d else a",
        "a.sum(axis=(0, -1), keepdims=True).T[1:-1, ::2, ..., None]",
        "(2).sqrt()",
        "(a + b)[0]",
        "r = a + b\n(r, (a,), ())",
    ] {
        let (ast, diagnostics) = parse(text, &SourceLimits::default());
        assert_eq!(diagnostics, []);
        assert_eq!(ast.unwrap().to_string(), text);
    }
}

#[test]
fn token_classes() {
    use numfuse_lang::TokenClass::{Bracket, Comment, Error, Function, Keyword, Name, Number, Operator, Punctuation};
    let text = "r = sum(x, 1.5) if not f32 else [y.T]; && 2z 's' # done";
    let got: Vec<(&str, _)> = tokens(text).map(|(span, class)| (&text[span.range()], class)).collect();
    let want = [
        ("r", Name),
        ("=", Operator),
        ("sum", Function),
        ("(", Bracket),
        ("x", Name),
        (",", Punctuation),
        ("1.5", Number),
        (")", Bracket),
        ("if", Keyword),
        ("not", Keyword),
        ("f32", Function),
        ("else", Keyword),
        ("[", Bracket),
        ("y", Name),
        (".", Punctuation),
        ("T", Name),
        ("]", Bracket),
        (";", Punctuation),
        ("&&", Error),
        ("2z", Error),
        ("'s'", Error),
        ("# done", Comment),
    ];
    assert_eq!(got, want);
}
