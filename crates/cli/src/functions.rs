//! `numfuse functions`: the op table as help.

use crate::Failure;
use numfuse::ops::{Fix, Op, Types};
use numfuse::{Code, Diagnostic};
use std::io::Write;

/// All of them, by group, one line each.
pub fn list(out: &mut impl Write) -> Result<(), Failure> {
    let mut groups: Vec<&str> = Vec::new();
    for op in Op::all() {
        if !groups.contains(&op.def().group) {
            groups.push(op.def().group);
        }
    }
    for (i, group) in groups.iter().enumerate() {
        writeln!(out, "{}{group}", if i == 0 { "" } else { "\n" })?;
        for op in Op::all().filter(|op| op.def().group == *group) {
            writeln!(out, "  {:<28}{}", call(op), op.def().doc)?;
        }
    }
    Ok(writeln!(out, "\n`numfuse functions NAME` tells more about one.")?)
}

/// One of them, by name, alias or operator.
pub fn show(name: &str, out: &mut impl Write) -> Result<(), Failure> {
    let operators = Op::operator(name, false).into_iter().chain(Op::operator(name, true));
    let found: Vec<Op> = Op::named(name).into_iter().chain(operators).collect();
    if found.is_empty() {
        let names = Op::all().flat_map(Op::names);
        let mut error =
            Diagnostic::new(Code::UnknownFunction, format!("there is no function `{}`", name.escape_debug()));
        if let Some(near) = numfuse::suggest(name, names) {
            error = error.hint(format!("did you mean `{near}`?"));
        }
        return Err(Failure::Error(error.into()));
    }
    for (i, op) in found.into_iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let def = op.def();
        writeln!(out, "{}\n\n  {}\n", call(op), def.doc)?;
        if let Some(operator) = def.operator {
            let form = match operator.fix {
                Fix::Prefix => format!("{} x", operator.symbol),
                Fix::Left | Fix::Right | Fix::Chain => format!("x {} y", operator.symbol),
            };
            writeln!(out, "  operator   {form}")?;
        }
        if !def.aliases.is_empty() {
            writeln!(out, "  also       {}", def.aliases.join(", "))?;
        }
        writeln!(out, "  dtypes     {}", dtypes(def.types))?;
        if let Some(check) = def.check {
            writeln!(out, "  accuracy   within {} units in the last place", check.ulp)?;
        }
        writeln!(out, "  example    {}", def.example)?;
    }
    Ok(())
}

/// The call, with the operator for those that have one.
fn call(op: Op) -> String {
    let def = op.def();
    let optional = |name: &&str| def.is_reduction() && *name != "x";
    let params: Vec<String> =
        def.params.iter().map(|p| if optional(p) { format!("{p}=") } else { (*p).to_owned() }).collect();
    match def.operator {
        // `and` is no function name.
        Some(operator) => format!("{}  ({})", operator.symbol, def.name),
        None => format!("{}({})", def.name, params.join(", ")),
    }
}

fn dtypes(types: Types) -> &'static str {
    match types {
        Types::Any => "any, and the result as the operands",
        Types::Number => "any but bool, and the result as the operands",
        Types::Integral => "any, bool as i8, and the result as the operands",
        Types::Float => "floats; 8- and 16-bit integers and bool as f32, wider integers as f64",
        Types::Divide => "floats; integers and bool as f64",
        Types::Bits => "integers and bool, and the result as the operands",
        Types::Shift => "integers, bool as i8, and the result as the operands",
        Types::Compare => "any two that promote to one, and the result bool",
        Types::Logical => "any, true unless zero, and the result bool",
        Types::Test => "floats, integers as floats, and the result bool",
        Types::Select => "a bool, then any two that promote to one",
        Types::Fold => "any, and the result as the operand",
        Types::Accumulate => "any; integers and bool are summed in 64 bits",
        Types::FoldBool => "any, true unless zero, and the result bool",
        Types::Average => "floats; integers and bool as f64",
    }
}
