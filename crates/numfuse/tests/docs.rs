//! What is written holds: `docs/functions.md` is made from the op table (`BLESS=1` writes it), and every example in the op
//! table and in the manuals evaluates, to the result that stands beside it.

mod common;

use common::{doc_env, root, show_results};
use numfuse::ops::{Op, OpDef, Types};
use numfuse::{Array, Engine, Env};
use std::fmt::Write;
use std::fs;

/// The manuals whose `numfuse` blocks are examples.
const MANUALS: &[&str] = &["docs/language.md", "docs/semantics.md", "docs/tutorial.md", "README.md"];

#[test]
fn functions_page_is_fresh() {
    let path = root().join("docs/functions.md");
    let fresh = functions_page();
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, &fresh).expect("docs/functions.md can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == fresh, "docs/functions.md is stale: BLESS=1 cargo test -p numfuse --test docs");
}

#[test]
fn every_op_has_an_example_that_evaluates() {
    for op in Op::all() {
        let OpDef { name, doc, example, group, types, .. } = *op.def();
        assert!(!doc.is_empty() && !example.is_empty() && !group.is_empty(), "`{name}` is not documented");
        let shown = op.def().operator.map_or(name, |o| o.symbol);
        assert!(example.contains(shown), "the example of `{name}` does not use it: {example}");
        let bits = matches!(types, Types::Bits | Types::Shift);
        let (x, y) = if bits { (ints(), ints()) } else { (floats(), floats()) };
        let env = Env::new().with("x", &x).with("y", &y).with("z", &x);
        Engine::default().evaluate_with(example, &env, None).unwrap_or_else(|e| panic!("`{name}`: {e}"));
    }
}

fn floats() -> Array {
    Array::from_vec(vec![0.5, 1.0, 1.5, 2.0, 2.5, 3.0], &[2, 3]).expect("six elements")
}

fn ints() -> Array {
    Array::from_vec(vec![1i64, 2, 3, 4, 5, 6], &[2, 3]).expect("six elements")
}

/// The lines of the fenced blocks of a language, with their numbers.
fn fenced<'a>(text: &'a str, language: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(i, line)| {
        if let Some(fence) = line.strip_prefix("```") {
            inside = !inside && fence.trim() == language;
            return None;
        }
        inside.then_some((i + 1, line))
    })
}

/// Each line of a `numfuse` block is a program, with the assignments above it; after ` # ` stands its result, or the code
/// of its error.
#[test]
fn examples_of_the_manuals_hold() {
    let env_data = doc_env();
    let mut env = Env::new();
    for (name, array) in &env_data {
        env.insert(*name, array);
    }
    let (mut examples, mut failures) = (0, String::new());
    for manual in MANUALS {
        let Ok(text) = fs::read_to_string(root().join(manual)) else { continue };
        let mut assignments = String::new();
        for (number, line) in fenced(&text, "numfuse") {
            let (code, want) = line.split_once(" # ").map_or((line, None), |(code, want)| (code, Some(want.trim())));
            let code = code.trim();
            if code.is_empty() || code.starts_with('#') {
                continue;
            }
            let is_assignment = code.split_once(" = ").is_some_and(|(name, _)| name.chars().all(char::is_alphanumeric));
            if is_assignment && !code.contains(';') {
                let _ = writeln!(assignments, "{code}");
                continue;
            }
            examples += 1;
            let program = format!("{}{code}", std::mem::take(&mut assignments));
            let found = match Engine::default().evaluate_with(&program, &env, None) {
                Ok(results) => show_results(&results),
                Err(error) => format!("{}: {error}", error.code()),
            };
            let holds = match want {
                Some(want) if want.starts_with('E') && want.len() == 5 => found.starts_with(want),
                Some(want) => found == want,
                None => !found.starts_with('E'),
            };
            if !holds {
                let want = want.unwrap_or("a result");
                let _ = writeln!(failures, "{manual}:{number}: `{code}` is {found}, not {want}");
            }
        }
    }
    assert!(failures.is_empty() && examples > 20, "{examples} examples\n{failures}");
}

/// The reference of all operators and functions.
fn functions_page() -> String {
    let mut page = String::from(
        "# Operators and functions\n\n\
         Made from the op table (`crates/core/src/ops/table.rs`) by `BLESS=1 cargo test -p numfuse --test docs`; do not edit.\n\n\
         Every function is also a method of its first operand: `x.sum(axis=0)`, `x.clip(0, 1)`. *Error* is the largest error in\n\
         units in the last place, for `f32` and `f64`; nothing stands there for what is exact or correctly rounded.\n\
         [language.md](language.md) has the grammar, [semantics.md](semantics.md) says what numbers mean.\n",
    );
    let mut groups: Vec<&str> = Vec::new();
    for op in Op::all() {
        if !groups.contains(&op.def().group) {
            groups.push(op.def().group);
        }
    }
    for group in groups {
        let _ = write!(page, "\n## {group}\n\n| call | written | takes | gives | error | what it is | example |\n");
        page.push_str("|---|---|---|---|---|---|---|\n");
        for op in Op::all().filter(|op| op.def().group == group) {
            let def = op.def();
            let mut written: Vec<String> = def.operator.iter().map(|o| code(o.symbol)).collect();
            written.extend(def.aliases.iter().map(|a| code(a)));
            let (takes, gives) = types(def.types);
            let error = def.check.map_or(String::new(), |c| c.ulp.to_string());
            let call = code(&format!("{}({})", def.name, params(def)));
            let _ = writeln!(
                page,
                "| {call} | {} | {takes} | {gives} | {error} | {} | {} |",
                written.join(" "),
                def.doc.replace('|', "\\|"),
                code(def.example)
            );
        }
    }
    page
}

/// The parameters as a call names them; those of reductions after the first have defaults.
fn params(def: &OpDef) -> String {
    let default = |name: &str| match name {
        "axis" => "axis=None",
        "keepdims" => "keepdims=False",
        "ddof" => "ddof=0",
        _ => "",
    };
    let reduces = def.is_reduction();
    let shown = def.params.iter().map(|p| if reduces && !default(p).is_empty() { default(p) } else { p });
    shown.collect::<Vec<_>>().join(", ")
}

/// Code in a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Which dtypes go in and come out, in a few words.
fn types(types: Types) -> (&'static str, &'static str) {
    match types {
        Types::Any => ("any", "the same"),
        Types::Number => ("numbers", "the same"),
        Types::Integral => ("any; bools as `i8`", "the same"),
        Types::Float => ("any", "a float"),
        Types::Divide => ("any", "a float; `f64` for integers"),
        Types::Bits => ("integers, bools", "the same"),
        Types::Shift => ("integers; bools as `i8`", "the same"),
        Types::Compare => ("any", "`bool`"),
        Types::Logical => ("any, as truth values", "`bool`"),
        Types::Test => ("any", "`bool`"),
        Types::Select => ("a condition; any", "what the two promote to"),
        Types::Fold => ("any", "the same"),
        Types::Accumulate => ("any", "the same; integers and bools in 64 bits"),
        Types::FoldBool => ("any, as truth values", "`bool`"),
        Types::Average => ("any", "a float; `f64` for integers"),
    }
}
