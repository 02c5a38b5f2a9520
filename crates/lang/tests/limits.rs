//! Hostile texts: each gets an answer or a message in bounded time, memory and stack.

use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_lang::{DimSpec, InputType, SourceLimits, lower, parse, render, tokens};
use std::time::{Duration, Instant};

/// Parses, lowers with the inputs `a` and `b`, and renders, on a small stack; the codes of all messages.
fn answer(text: String) -> Vec<Code> {
    let start = Instant::now();
    let run = move || {
        let limits = SourceLimits::default();
        let (ast, mut diagnostics) = parse(&text, &limits);
        if let Some(ast) = ast {
            let input = |name| InputType { name, dtype: DType::F64, weak: false, shape: &[DimSpec::Unknown] };
            let (graph, more) = lower(&ast, &[input("a"), input("b")], None, &limits);
            assert_eq!(graph.is_none(), !more.is_empty() || !diagnostics.is_empty());
            diagnostics.extend(more);
        }
        assert!(diagnostics.len() <= 2 * limits.errors);
        let shown = render(&text, "text", &diagnostics, false);
        assert!(shown.len() <= 4096 * diagnostics.len(), "{} bytes", shown.len());
        assert!(tokens(&text).count() <= text.len());
        diagnostics.iter().map(|d| d.code).collect()
    };
    let codes = std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
    // Far above what it takes, so that a busy machine does not fail the test, and far below what is quadratic.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    codes
}

#[test]
fn long_sums_work() {
    assert_eq!(answer(vec!["a"; 100_000].join(" + ")), []);
    assert_eq!(answer(vec!["a"; 100_000].join("<")), []);
    assert_eq!(answer(format!("a{}", ".T".repeat(100_000))), []);
    assert_eq!(answer(format!("a{}", "[::-1]".repeat(1000))), []);
    assert_eq!(answer("r = a + b; ".repeat(20_000) + "r"), []);
    // Every term has a condition of its own on the size of `a`.
    let terms: Vec<String> = (0..40_000).map(|i| format!("a[{i}:]")).collect();
    assert_eq!(answer(terms.join("+")), []);
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "(".repeat(100_000),
        "(".repeat(100_000) + "a" + &")".repeat(100_000),
        "a[".repeat(1000) + "0" + &"]".repeat(1000),
        "abs(".repeat(1000) + "a" + &")".repeat(1000),
        "-".repeat(10_000) + "a",
        "not ".repeat(10_000) + "a",
        "a ** -".repeat(10_000) + "a",
        vec!["a"; 10_000].join("**"),
        "a if b else ".repeat(10_000) + "a",
        "a if ".repeat(10_000) + "a",
        "(-a**".repeat(200) + "a",
    ] {
        assert_eq!(answer(text.clone()), [Code::SourceLimit], "{}", &text[..20]);
    }
}

#[test]
fn nesting_up_to_the_limit_works() {
    let depth = SourceLimits::default().depth;
    assert_eq!(answer("(".repeat(depth) + "a" + &")".repeat(depth)), []);
    assert_eq!(answer("-".repeat(depth) + "a"), []);
    assert_eq!(answer(vec!["a"; depth + 1].join("**")), []);
    assert_eq!(answer("a if b else ".repeat(depth) + "a"), []);
    assert_eq!(answer("abs(".repeat(depth) + "a" + &")".repeat(depth)), []);
    // What does not stand inside another does not count.
    assert_eq!(answer(vec!["-(a)**b"; 2000].join("+")), []);
}

#[test]
fn large_texts_are_refused() {
    assert_eq!(answer(" ".repeat((1 << 20) + 1)), [Code::SourceLimit]);
    assert_eq!(answer("a+".repeat(1 << 18)), [Code::SourceLimit]);
    assert_eq!(answer("a".repeat(1 << 20)), [Code::UnknownName]);
    assert_eq!(answer("1".repeat(1 << 20)), []);
    assert_eq!(answer("0x".to_owned() + &"f".repeat(1 << 19)), []);
    assert_eq!(answer("é".repeat(1 << 19)), [Code::UnknownName]);
    assert_eq!(answer("\"".to_owned() + &"x".repeat(1 << 19)), [Code::NotAnExpression]);
    assert_eq!(answer("#".to_owned() + &"x".repeat(1 << 19)), [Code::Syntax]);
}

#[test]
fn mistakes_are_counted_out() {
    let most = SourceLimits::default().errors;
    for text in ["$".repeat(1 << 20), "\0".repeat(1 << 20), "a b;".repeat(10_000), "u.x;".repeat(10_000)] {
        let codes = answer(text);
        assert!(codes.len() >= most, "{}", codes.len());
    }
}

#[test]
fn graphs_are_bounded() {
    let limits = SourceLimits { nodes: 100, ..SourceLimits::default() };
    let text: Vec<String> = (0..1000).map(|i| format!("a*{i}")).collect();
    let (ast, _) = parse(&text.join("+"), &limits);
    let a = InputType { name: "a", dtype: DType::F64, weak: false, shape: &[] };
    let (graph, diagnostics) = lower(&ast.unwrap(), &[a], None, &limits);
    assert!(graph.is_none());
    assert_eq!(diagnostics.iter().map(|d| d.code).collect::<Vec<_>>(), [Code::GraphLimit]);
}

#[test]
fn doubling_is_linear() {
    let mut text = String::from("r = a;");
    for _ in 0..64 {
        text += "r = r + r;";
    }
    assert_eq!(answer(text + "r"), []);
}

#[test]
fn noise() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    };
    let bytes: Vec<u8> = (0..1 << 18).map(|_| random() as u8).collect();
    assert!(!answer(String::from_utf8_lossy(&bytes).into_owned()).is_empty());
    let ascii: String = (0..1 << 20).map(|_| char::from(b' ' + (random() % 95) as u8)).collect();
    assert!(!answer(ascii).is_empty());
    let words = ["a", "(", ")", "[", "]", "+", "-", "**", "if", "else", ",", ":", "sum", "2.5", ".", "T", "=", "not"];
    let soup: Vec<&str> = (0..200_000).map(|_| words[random() % words.len()]).collect();
    assert!(!answer(soup.join(" ")).is_empty());
}
