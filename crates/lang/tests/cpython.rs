//! The grammar against CPython's: the same trees for the same texts, and errors for what CPython refuses.
//! `cpython.py` made `cpython.txt`.

use numfuse_lang::ast::{ExprId, ExprKind, List};
use numfuse_lang::{Ast, SourceLimits, parse};

/// The value of the last statement with every operation in brackets.
fn bracketed(ast: &Ast) -> String {
    let mut texts: Vec<String> = Vec::new();
    for (_, expr) in ast.exprs() {
        let text = |id: ExprId| texts[id.index()].clone();
        let optional = |id: Option<ExprId>| id.map_or(String::new(), text);
        let list = |list: List| ast.list(list).iter().map(|a| text(a.value)).collect::<Vec<_>>();
        let symbol = |op: numfuse_core::ops::Op| op.def().operator.unwrap().symbol;
        let shown = match expr.kind {
            ExprKind::Name(name) => ast.name(name).to_owned(),
            ExprKind::Literal { value, .. } => value.to_string(),
            ExprKind::None => "None".to_owned(),
            ExprKind::Ellipsis => "...".to_owned(),
            ExprKind::Prefix(op, x) => {
                let space = if symbol(op) == "not" { " " } else { "" };
                format!("({}{space}{})", symbol(op), text(x))
            }
            ExprKind::Infix(op, x, y) => format!("({} {} {})", text(x), symbol(op), text(y)),
            ExprKind::Chain(x, op, y) => format!("{} {} {})", text(x).strip_suffix(')').unwrap(), symbol(op), text(y)),
            ExprKind::Conditional { then, condition, otherwise } => {
                format!("({} if {} else {})", text(then), text(condition), text(otherwise))
            }
            ExprKind::Tuple(items) => {
                format!("({})", list(items).iter().map(|x| format!("{x}, ")).collect::<String>())
            }
            ExprKind::Slice(start, stop, step) => {
                let step = step.map_or(String::new(), |s| format!(":{}", text(s)));
                format!("{}:{}{step}", optional(start), optional(stop))
            }
            ExprKind::Call(name, items) => format!("{}({})", ast.name(name), list(items).join(", ")),
            ExprKind::Method(x, name, items) => format!("{}.{}({})", text(x), ast.name(name), list(items).join(", ")),
            ExprKind::Attribute(x, name) => format!("{}.{}", text(x), ast.name(name)),
            ExprKind::Index(x, items) => format!("{}[{}]", text(x), list(items).join(", ")),
            ExprKind::Error => "<error>".to_owned(),
        };
        texts.push(shown);
    }
    texts.pop().unwrap()
}

#[test]
fn trees_are_cpythons() {
    let mut failures = Vec::new();
    for line in include_str!("cpython.txt").lines() {
        let (text, want) = line.split_once(" => ").unwrap();
        let (ast, diagnostics) = parse(text, &SourceLimits::default());
        let got = match ast {
            Some(ast) if diagnostics.is_empty() => bracketed(&ast),
            _ => "error".to_owned(),
        };
        if got != want {
            failures.push(format!("{text}\n  want {want}\n  got  {got}"));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn what_cpython_does_not_have() {
    // A condition may be a choice itself without brackets.
    for (text, want) in [
        ("a if b if c else d else e", "(a if (b if c else d) else e)"),
        ("sum(x, axis=(0, -1))", "sum(x, (0, (-1), ))"),
        ("x[(0, 1)]", "x[(0, 1, )]"),
        ("…", "..."),
    ] {
        let (ast, diagnostics) = parse(text, &SourceLimits::default());
        assert_eq!(diagnostics, []);
        assert_eq!(bracketed(&ast.unwrap()), want);
    }
}
