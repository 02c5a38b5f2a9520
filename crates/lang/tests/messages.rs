//! Every message of the language, to the letter: `messages.txt` holds texts and what is printed for them.
//!
//! A case is the text after `>>> ` (further lines after `... `, `\u{..}` for what cannot be seen), then the messages.
//! `BLESS=1 cargo test -p numfuse-lang --test messages` rewrites the messages.

use numfuse_core::diagnostic::Code;
use numfuse_core::dtype::DType;
use numfuse_lang::{DimSpec, InputType, SourceLimits, lower, parse, render};
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/messages.txt");

/// What is printed for a text, with inputs x, y: f64[?], m: f32[n, 3], v: i32[4], b: bool[4], a: f64[].
fn messages(text: &str) -> String {
    let limits = SourceLimits { depth: 8, tokens: 100, nodes: 30, errors: 4, bytes: 500 };
    let (ast, mut diagnostics) = parse(text, &limits);
    if let Some(ast) = ast {
        let input = |name, dtype, shape| InputType { name, dtype, weak: false, shape };
        let inputs = [
            input("x", DType::F64, &[DimSpec::Unknown][..]),
            input("y", DType::F64, &[DimSpec::Unknown]),
            input("m", DType::F32, &[DimSpec::Symbol("n"), DimSpec::Fixed(3)]),
            input("v", DType::I32, &[DimSpec::Fixed(4)]),
            input("b", DType::Bool, &[DimSpec::Fixed(4)]),
            input("a", DType::F64, &[]),
            input("deep", DType::F64, &[DimSpec::Fixed(1); 33]),
        ];
        diagnostics.extend(lower(&ast, &inputs, None, &limits).1);
    }
    render(text, "text", &diagnostics, false)
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\u{") {
        let (code, after) = after.split_once('}').unwrap();
        out.push_str(before);
        out.push(u32::from_str_radix(code, 16).ok().and_then(char::from_u32).unwrap());
        rest = after;
    }
    out + rest
}

#[test]
fn messages_are_as_recorded() {
    let recorded = std::fs::read_to_string(PATH).unwrap();
    let mut fresh = String::new();
    let mut lines = recorded.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(first) = line.strip_prefix(">>> ").or(line.strip_prefix(">>>")) {
            writeln!(fresh, "{line}").unwrap();
            let mut text = first.to_owned();
            while let Some(more) = lines.next_if(|l| l.starts_with("...")) {
                writeln!(fresh, "{more}").unwrap();
                text += "\n";
                text += more[3..].strip_prefix(' ').unwrap_or("");
            }
            let shown = messages(&unescape(&text));
            assert!(!shown.is_empty(), "no message for {text:?}");
            writeln!(fresh, "{shown}").unwrap();
            while lines.next_if(|l| !l.starts_with(">>>") && !l.starts_with("## ")).is_some() {}
        } else {
            writeln!(fresh, "{line}").unwrap();
        }
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(PATH, fresh).unwrap();
    } else if let Some((got, want)) = fresh.lines().zip(recorded.lines()).find(|(got, want)| got != want) {
        panic!("messages.txt differs (BLESS=1 rewrites it):\n  recorded {want}\n  got      {got}");
    } else {
        assert_eq!(fresh.lines().count(), recorded.lines().count());
    }
}

#[test]
fn every_code_of_the_language_is_recorded() {
    let recorded = std::fs::read_to_string(PATH).unwrap();
    for code in Code::ALL {
        // What sizes and values of a call decide, and what the facade, devices and the command line report.
        let elsewhere = matches!(code, Code::EmptyReduction | Code::TooLarge | Code::Internal)
            || (["E05", "E06"].contains(&&code.as_str()[..3]) && *code != Code::GraphLimit);
        assert!(elsewhere || recorded.contains(&format!("[{code}]")), "{code}");
    }
}

#[test]
fn colors_do_not_change_the_text() {
    let text = "x + (2y - )";
    let (_, diagnostics) = parse(text, &SourceLimits::default());
    let colored = render(text, "text", &diagnostics, true);
    assert!(colored.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after.split_once('m').unwrap().1;
    }
    plain += rest;
    let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed.join("\n") + "\n", render(text, "text", &diagnostics, false));
}
