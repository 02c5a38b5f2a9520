//! `docs/language.md` holds what it says: its array examples have the types that their comments name, its other examples
//! parse, and its table of operators is the op table's.

use numfuse_core::dtype::DType;
use numfuse_core::ops::{Fix, Op};
use numfuse_lang::{DimSpec, InputType, SourceLimits, lower, parse};

const PAGE: &str = include_str!("../../../docs/language.md");

/// The bodies of the fenced blocks with this tag.
fn blocks(tag: &str) -> Vec<&'static str> {
    let fence = format!("```{tag}\n");
    PAGE.match_indices(&fence).map(|(at, _)| PAGE[at + fence.len()..].split("\n```").next().unwrap()).collect()
}

/// The results' types, for the inputs that the page names.
fn types(text: &str) -> String {
    let input = |name, dtype, shape| InputType { name, dtype, weak: false, shape };
    let n = &[DimSpec::Symbol("n")][..];
    let inputs = [
        input("x", DType::F64, n),
        input("y", DType::F64, n),
        input("m", DType::F64, &[DimSpec::Symbol("n"), DimSpec::Fixed(3)]),
        input("i", DType::I32, n),
        input("b", DType::Bool, n),
    ];
    let limits = SourceLimits::default();
    let (ast, diagnostics) = parse(text, &limits);
    assert_eq!(diagnostics, [], "{text}");
    let (graph, diagnostics) = lower(&ast.unwrap(), &inputs, None, &limits);
    assert_eq!(diagnostics, [], "{text}");
    let graph = graph.unwrap();
    let types: Vec<String> = graph.outputs.iter().map(|o| graph.display_type(*o).to_string()).collect();
    types.join(", ")
}

#[test]
fn array_examples_have_their_types() {
    let lines: Vec<&str> = blocks("python").iter().flat_map(|block| block.lines()).collect();
    assert!(lines.len() > 30);
    for line in lines {
        let (text, want) = line.rsplit_once("# ").unwrap();
        assert_eq!(types(text), want, "{line}");
    }
}

#[test]
fn other_examples_parse() {
    for line in blocks("numfuse").iter().flat_map(|block| block.lines()) {
        types(line);
    }
    types(blocks("text")[0]);
}

#[test]
fn the_table_of_operators_is_the_op_tables() {
    let rows: Vec<&str> =
        PAGE.lines().skip_while(|l| !l.contains("| `**` |")).take_while(|l| l.starts_with('|')).collect();
    let mut last = u8::MAX;
    let mut known = 0;
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let symbols: Vec<String> = cells[0].split('`').skip(1).step_by(2).map(|s| s.replace('\\', "")).collect();
        if symbols[0].contains(" if ") {
            continue;
        }
        for symbol in &symbols {
            let prefix = symbol.ends_with('x') || symbol == "not";
            let symbol = if prefix { symbol.trim_end_matches('x') } else { symbol };
            let op = Op::operator(symbol, prefix).unwrap_or_else(|| panic!("{symbol}"));
            let operator = op.def().operator.unwrap();
            let grouping = match operator.fix {
                Fix::Prefix => "|",
                Fix::Left => "left |",
                Fix::Right => "right |",
                Fix::Chain => "chained |",
            };
            assert!(cells[2].ends_with(grouping), "{row}");
            assert!(operator.precedence < last, "{row}");
            known += 1;
        }
        last =
            Op::operator(symbols[0].trim_end_matches('x'), cells[2] == "|").unwrap().def().operator.unwrap().precedence;
    }
    assert_eq!(known, Op::all().filter(|op| op.def().operator.is_some()).count());
}
