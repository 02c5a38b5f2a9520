//! The stages as text: the only file of the corpus runner that knows the interfaces of the compiler.

use super::format::{Stage, TestFile};
use super::inputs::Size;
use super::run;
use numfuse_core::graph::Graph;
use numfuse_core::kernel::Role;
use numfuse_core::pipeline;
use numfuse_core::plan::{BufferId, BufferKind, Plan};
use numfuse_lang::ast::{Ast, ExprKind, List};
use numfuse_lang::{DimSpec, InputType, SourceLimits};
use std::fmt::Write;

/// What the compiler has to say for a stage of a file; an error is a failure of the test.
pub fn show(file: &TestFile, stage: Stage) -> Result<String, String> {
    match stage {
        Stage::Parse => show_ast(file),
        Stage::Types => {
            let graph = lower(file)?;
            let mut text = String::new();
            for id in &graph.outputs {
                let _ = writeln!(text, "{}", graph.display_type(*id));
            }
            Ok(text)
        }
        Stage::Graph => lower(file).map(|graph| graph.to_string()),
        Stage::Simplify => plan(file).map(|plan| plan.graph.to_string()),
        Stage::Plan => plan(file).map(|plan| show_plan(&plan)),
        Stage::Kernel => {
            let steps: Vec<String> = plan(file)?.steps.iter().map(|s| s.work.to_string()).collect();
            Ok(steps.join("\n"))
        }
        Stage::Clif => run::clif(&plan(file)?),
        Stage::Run => {
            run::covered(&plan(file)?)?;
            run::run(file)
        }
        Stage::Error => run::report(file),
    }
}

/// The inputs of a file as the compiler takes them.
pub fn with_inputs<T>(file: &TestFile, then: impl FnOnce(&[InputType<'_>]) -> T) -> T {
    let shapes: Vec<Vec<DimSpec<'_>>> = file
        .inputs
        .iter()
        .map(|input| {
            let spec = |size: &_| match size {
                Size::Fixed(n) => DimSpec::Fixed(*n),
                Size::Symbol(_) => DimSpec::Unknown,
            };
            let mut specs: Vec<DimSpec<'_>> = input.shape.iter().map(spec).collect();
            for (spec, size) in specs.iter_mut().zip(&input.shape) {
                if let Size::Symbol(name) = size {
                    *spec = DimSpec::Symbol(name);
                }
            }
            specs
        })
        .collect();
    let inputs: Vec<InputType<'_>> = file
        .inputs
        .iter()
        .zip(&shapes)
        .map(|(input, shape)| InputType { name: &input.name, dtype: input.dtype, weak: input.weak, shape })
        .collect();
    then(&inputs)
}

fn parse(file: &TestFile) -> Result<Ast, String> {
    let (ast, diagnostics) = numfuse_lang::parse(&file.program, &SourceLimits::default());
    match ast {
        Some(ast) if diagnostics.is_empty() => Ok(ast),
        _ => Err(numfuse_lang::render(&file.program, "program", &diagnostics, false)),
    }
}

/// The graph of the program for the declared shapes.
pub fn lower(file: &TestFile) -> Result<Graph, String> {
    let ast = parse(file)?;
    let (graph, diagnostics) =
        with_inputs(file, |inputs| numfuse_lang::lower(&ast, inputs, None, &SourceLimits::default()));
    let graph = graph.ok_or_else(|| numfuse_lang::render(&file.program, "program", &diagnostics, false))?;
    numfuse_core::graph::verify::verify(&graph)?;
    Ok(graph)
}

fn plan(file: &TestFile) -> Result<Plan, String> {
    let options = pipeline::Options { verify: true, ..pipeline::Options::default() };
    pipeline::plan(lower(file)?, options, &mut |_, _| {}).map_err(|e| e.to_string())
}

/// One line for each temporary and each kernel: its loops, what it reads and writes, and why it is one of its own.
fn show_plan(plan: &Plan) -> String {
    let name = |id: BufferId| match plan.buffers[id.index()].kind {
        BufferKind::Input(n) => plan.graph.inputs()[n as usize].name.clone(),
        BufferKind::Output(n) => format!("out{n}"),
        BufferKind::Guard(n) => format!("guard{n}"),
        BufferKind::Temp => format!("temp{}", id.0),
    };
    let dims = &plan.graph.dims;
    let mut text = String::new();
    for (i, buffer) in plan.buffers.iter().enumerate().filter(|(_, b)| b.kind == BufferKind::Temp) {
        let _ = writeln!(text, "{}: {}{}", name(BufferId(i as u32)), buffer.dtype, dims.display(&buffer.shape));
    }
    for (k, step) in plan.steps.iter().enumerate() {
        let operands = |role: Role| {
            let mut names: Vec<String> = step.accesses(role).map(|access| name(access.buffer)).collect();
            names.dedup();
            names.join(", ")
        };
        let axes = |axes: &[u8]| axes.iter().map(|a| step.domain[*a as usize]).collect::<Vec<_>>();
        let mut loops = Vec::new();
        for (what, group) in [("outer", &step.outer), ("reduced", &step.reduced), ("inner", &step.inner)] {
            if !group.is_empty() {
                loops.push(format!("{what} {}", dims.display(&axes(group))));
            }
        }
        let _ = writeln!(text, "k{k}: {} -> {}", operands(Role::In), operands(Role::Out));
        let loops = if loops.is_empty() { "one element".to_owned() } else { loops.join(", ") };
        let _ = writeln!(text, "    loops: {loops}\n    why: {}", step.reason);
    }
    text
}

/// The tree with every operator before its operands, in brackets. The tree's own text has to parse to an equal tree.
fn show_ast(file: &TestFile) -> Result<String, String> {
    let ast = parse(file)?;
    let printed = ast.to_string();
    let (again, diagnostics) = numfuse_lang::parse(&printed, &SourceLimits::default());
    if again.as_ref() != Some(&ast) || !diagnostics.is_empty() {
        return Err(format!("the tree prints as `{printed}`, which does not parse to it"));
    }
    // Operands precede their users, so that each text is made of finished ones.
    let mut texts: Vec<String> = Vec::new();
    for (_, expr) in ast.exprs() {
        let text = match expr.kind {
            ExprKind::Name(name) => ast.name(name).to_owned(),
            ExprKind::Literal { value, .. } => value.to_string(),
            ExprKind::None => "None".to_owned(),
            ExprKind::Ellipsis => "...".to_owned(),
            ExprKind::Error => "error".to_owned(),
            ExprKind::Prefix(op, x) => format!("({} {})", symbol(op), texts[x.index()]),
            ExprKind::Infix(op, x, y) => format!("({} {} {})", symbol(op), texts[x.index()], texts[y.index()]),
            ExprKind::Chain(x, op, y) => format!("(chain {} {} {})", texts[x.index()], symbol(op), texts[y.index()]),
            ExprKind::Conditional { then, condition, otherwise } => {
                let [c, x, y] = [condition, then, otherwise].map(|e| texts[e.index()].as_str());
                format!("(if {c} {x} {y})")
            }
            ExprKind::Tuple(list) => format!("(tuple{})", arguments(&ast, list, &texts)),
            ExprKind::Slice(start, stop, step) => {
                let part = |e: Option<numfuse_lang::ast::ExprId>| e.map_or("_", |e| texts[e.index()].as_str());
                format!("(slice {} {} {})", part(start), part(stop), part(step))
            }
            ExprKind::Call(name, list) => format!("(call {}{})", ast.name(name), arguments(&ast, list, &texts)),
            ExprKind::Method(x, name, list) => {
                format!("(method {} {}{})", texts[x.index()], ast.name(name), arguments(&ast, list, &texts))
            }
            ExprKind::Attribute(x, name) => format!("(attribute {} {})", texts[x.index()], ast.name(name)),
            ExprKind::Index(x, list) => format!("(index {}{})", texts[x.index()], arguments(&ast, list, &texts)),
        };
        texts.push(text);
    }
    let mut shown = String::new();
    for statement in ast.statements() {
        if let Some((target, _)) = statement.target {
            let _ = write!(shown, "{} = ", ast.name(target));
        }
        let _ = writeln!(shown, "{}", texts[statement.value.index()]);
    }
    Ok(shown)
}

fn symbol(op: numfuse_core::ops::Op) -> &'static str {
    op.def().operator.map_or(op.name(), |o| o.symbol)
}

fn arguments(ast: &Ast, list: List, texts: &[String]) -> String {
    let mut shown = String::new();
    for argument in ast.list(list) {
        shown.push(' ');
        if let Some(keyword) = argument.keyword {
            let _ = write!(shown, "{}=", ast.name(keyword));
        }
        shown.push_str(&texts[argument.value.index()]);
    }
    shown
}
