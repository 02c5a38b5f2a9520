//! The tree to a graph: names to nodes, operators and calls to ops.
//!
//! One loop over the expressions in post-order. Literals, `None`, tuples, slices and dtypes stay what they are until an
//! operation takes them, so that an axis or an index leaves no node behind. A sign before a literal is part of it:
//! `x ** -1` has a constant exponent.
//!
//! Symbols are made in this order: for each used input, as ordered by the caller, for each of its dimensions that is
//! unknown or has a symbol not met before, one symbol. [`symbols`] computes their values in the same order.

use crate::arguments::Given;
use crate::ast::{Argument, Ast, Expr, ExprId, ExprKind, List, NameId};
use crate::limits::{Report, SourceLimits, shown};
use numfuse_core::diagnostic::{Code, Diagnostic, Span, suggest};
use numfuse_core::dtype::DType;
use numfuse_core::graph::{Graph, IndexItem, NodeId};
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Fix, Op};
use numfuse_core::shape::{DimId, Slice};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What is known of a dimension of an input.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DimSpec<'a> {
    /// Its size.
    Fixed(u64),
    /// That it has the same size as all others of this name.
    Symbol(&'a str),
    /// Nothing.
    Unknown,
}

/// The type of an input.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InputType<'a> {
    /// Its name in the text.
    pub name: &'a str,
    /// The element type.
    pub dtype: DType,
    /// True if the dtype gives way to that of any array, as a literal's does. Only for scalars of bool, i64 and f64.
    pub weak: bool,
    /// The dimensions, outermost first.
    pub shape: &'a [DimSpec<'a>],
}

/// What an expression is worth while the graph is built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Node(NodeId),
    /// A literal that is not in the graph yet, and whether it is weak.
    Literal(Literal, bool),
    None,
    Ellipsis,
    Tuple(List),
    /// A slice, by its expression.
    Slice(ExprId),
    DType(DType),
    /// A mistake was reported.
    Error,
}

/// A mistake was reported.
pub(crate) struct Reported;

/// Builds the graph of a tree for inputs of these types. Its inputs are those that the text uses, in the order given.
/// With `symbol_hints` (see [`symbols`]) it is built for a call with these sizes.
///
/// There is no graph if there is a mistake, here or in the parse.
pub fn lower(
    ast: &Ast,
    inputs: &[InputType<'_>],
    symbol_hints: Option<Vec<u64>>,
    limits: &SourceLimits,
) -> (Option<Graph>, Vec<Diagnostic>) {
    let mut lower = Lower {
        ast,
        graph: Graph::new(symbol_hints),
        values: Vec::with_capacity(ast.exprs.len()),
        bound: vec![None; ast.names.len()],
        inputs,
        is_input: vec![false; ast.names.len()],
        report: Report::new(limits),
        nodes: limits.nodes,
    };
    lower.declare();
    lower.statements();
    let Lower { graph, report, .. } = lower;
    let complete = ast.is_complete && report.diagnostics.is_empty();
    (complete.then_some(graph), report.diagnostics)
}

/// The sizes of the symbols, in the order in which [`lower`] makes them, for a call with arrays of these shapes.
/// `inputs` are the used inputs with their shapes, in the order that [`lower`] was given.
pub fn symbols<'a>(inputs: impl IntoIterator<Item = (InputType<'a>, &'a [u64])>) -> Result<Vec<u64>, Box<Diagnostic>> {
    let mut values = Vec::new();
    let mut named: Vec<(&str, u64, &str)> = Vec::new();
    let refuse = |title: String, why: String| Err(Box::new(Diagnostic::new(Code::InputMismatch, title).why(why)));
    for (input, shape) in inputs {
        let name = shown(input.name);
        if shape.len() != input.shape.len() {
            return refuse(
                format!("`{name}` has {} dimensions", shape.len()),
                format!("it was declared with {}", input.shape.len()),
            );
        }
        for (axis, (spec, size)) in input.shape.iter().zip(shape).enumerate() {
            match spec {
                DimSpec::Unknown => values.push(*size),
                DimSpec::Fixed(declared) if declared != size => {
                    return refuse(
                        format!("dimension {axis} of `{name}` has size {size}"),
                        format!("it was declared with {declared}"),
                    );
                }
                DimSpec::Fixed(_) => {}
                DimSpec::Symbol(symbol) => match named.iter().find(|(s, ..)| s == symbol) {
                    None => {
                        named.push((symbol, *size, input.name));
                        values.push(*size);
                    }
                    Some((_, known, _)) if known == size => {}
                    Some((_, known, other)) => {
                        return refuse(
                            format!("dimension {axis} of `{name}` has size {size}"),
                            format!("`{}` is {known} in `{}`", shown(symbol), shown(other)),
                        );
                    }
                },
            }
        }
    }
    Ok(values)
}

/// Constants that a text can name unless an input or an assignment takes the name.
const CONSTANTS: [(&str, f64); 4] =
    [("pi", std::f64::consts::PI), ("e", std::f64::consts::E), ("inf", f64::INFINITY), ("nan", f64::NAN)];

/// True for the name of a constant, such as `pi`, which has a meaning without being bound.
pub fn is_constant(name: &str) -> bool {
    CONSTANTS.iter().any(|(constant, _)| *constant == name)
}

/// The dtype that a function of this name casts to.
pub(crate) fn dtype_named(name: &str) -> Option<DType> {
    match name {
        "int" => Some(DType::I64),
        "float" => Some(DType::F64),
        _ => DType::from_name(name),
    }
}

/// Methods and functions that are not ops.
pub(crate) const TRANSPOSE: &str = "transpose";
pub(crate) const ASTYPE: &str = "astype";

pub(crate) struct Lower<'a> {
    pub ast: &'a Ast,
    pub graph: Graph,
    /// The expressions' values, by [`ExprId`].
    values: Vec<Value>,
    /// The names' values, by [`NameId`].
    bound: Vec<Option<Value>>,
    inputs: &'a [InputType<'a>],
    is_input: Vec<bool>,
    pub report: Report,
    nodes: usize,
}

impl Lower<'_> {
    /// Makes the inputs that the text uses.
    fn declare(&mut self) {
        let (ast, inputs) = (self.ast, self.inputs);
        let names: BTreeMap<&str, usize> = ast.names().zip(0..).collect();
        let mut first_use = vec![None; ast.names.len()];
        for (name, id) in ast.free_name_ids() {
            first_use[name.index()] = Some(id);
        }
        for input in inputs {
            let Some(name) = names.get(input.name).copied() else { continue };
            self.is_input[name] = true;
            let Some(id) = first_use[name] else { continue };
            if self.bound[name].is_some() {
                continue;
            }
            let dims = &mut self.graph.dims;
            let shape: SmallVec<[DimId; 4]> = input
                .shape
                .iter()
                .map(|dim| match dim {
                    DimSpec::Fixed(size) => dims.fixed(*size),
                    DimSpec::Symbol(name) => dims.named(name),
                    DimSpec::Unknown => dims.fresh(),
                })
                .collect();
            let weak = input.weak && shape.is_empty();
            self.bound[name] = Some(match self.graph.input(input.name, input.dtype, weak, &shape) {
                Ok(node) => Value::Node(node),
                Err(error) => {
                    self.report.add(|| error.at(ast.expr(id).span, "this input"));
                    Value::Error
                }
            });
        }
    }

    fn statements(&mut self) {
        let ast = self.ast;
        let last = ast.statements.len() - 1;
        for (i, (statement, range)) in ast.statements_with_exprs().enumerate() {
            for index in range {
                let expr = &ast.exprs[index];
                self.graph.site = Some(expr.anchor);
                let value = self.expr(ExprId(index as u32), expr).unwrap_or(Value::Error);
                self.values.push(value);
                if self.report.is_full() {
                    return;
                }
                if self.graph.len() > self.nodes {
                    let most = self.nodes;
                    self.report.add(|| {
                        Diagnostic::new(Code::GraphLimit, format!("more than {most} operations"))
                            .at(expr.anchor, "the limit is reached here")
                            .hint("compute it in parts, or raise `SourceLimits::nodes`")
                    });
                    return;
                }
            }
            if let Some((target, span)) = statement.target {
                self.assign(target, span, statement.value);
            }
            if i == last {
                let _ = self.results(statement.value);
            }
        }
    }

    fn assign(&mut self, target: NameId, span: Span, value: ExprId) {
        let name = self.ast.name(target);
        let refuse = |title: String, why: &str| {
            Diagnostic::new(Code::Assignment, title)
                .at(span, "assigned here")
                .why(why.to_owned())
                .hint(format!("choose another name, such as `{}_`", shown(name)))
        };
        let value = self.values[value.index()];
        if matches!(value, Value::Error) {
            // One mistake at a time.
        } else if self.is_input[target.index()] {
            self.report.add(|| refuse(format!("`{}` is an input", shown(name)), "inputs are not changed"));
        } else if is_function(name) {
            self.report
                .add(|| refuse(format!("`{name}` is a function"), "a value of that name would be mistaken for it"));
        }
        self.bound[target.index()] = Some(value);
    }

    /// Makes the last statement's value the graph's outputs.
    fn results(&mut self, id: ExprId) -> Result<(), Reported> {
        let outputs: Vec<NodeId> = match self.values[id.index()] {
            Value::Tuple(list) => {
                let items = self.ast.list(list);
                if items.is_empty() {
                    let span = self.ast.expr(id).span;
                    return self.refuse(Diagnostic::new(Code::Syntax, "there is no result").at(span, "an empty tuple"));
                }
                items.iter().map(|item| self.operand(item.value)).collect::<Result<_, _>>()?
            }
            _ => vec![self.operand(id)?],
        };
        self.graph.outputs = outputs;
        Ok(())
    }

    pub fn value(&self, id: ExprId) -> Value {
        self.values[id.index()]
    }

    /// True for the name of an input, of an assigned value or of a constant.
    pub fn is_value(&self, name: NameId) -> bool {
        let text = self.ast.name(name);
        is_constant(text) || self.is_input[name.index()] || self.bound[name.index()].is_some()
    }

    pub fn span(&self, id: ExprId) -> Span {
        self.ast.expr(id).span
    }

    /// Reports a mistake.
    pub fn refuse<T>(&mut self, diagnostic: Diagnostic) -> Result<T, Reported> {
        self.report.add(|| diagnostic);
        Err(Reported)
    }

    /// The result of a graph method, with the place and the types of the operands added to its error.
    pub fn checked(
        &mut self,
        result: Result<NodeId, Diagnostic>,
        at: Span,
        operands: &[ExprId],
    ) -> Result<Value, Reported> {
        match result {
            Ok(node) => Ok(Value::Node(node)),
            Err(mut error) => {
                if error.span.is_none() {
                    error = error.at(at, "here");
                } else if error.label.is_empty() {
                    error.label = "here".to_owned();
                }
                if !matches!(error.code, Code::Internal | Code::GraphLimit) {
                    for id in operands {
                        let what = match self.value(*id) {
                            Value::Node(node) => self.graph.display_type(node).to_string(),
                            Value::Literal(literal, true) => format!("{literal}"),
                            Value::Literal(literal, false) => format!("{}", literal.dtype()),
                            _ => continue,
                        };
                        error = error.and_at(self.span(*id), what);
                    }
                }
                self.refuse(error)
            }
        }
    }

    /// The node of an expression that has to be a value.
    pub fn operand(&mut self, id: ExprId) -> Result<NodeId, Reported> {
        let what = match self.value(id) {
            Value::Node(node) => return Ok(node),
            Value::Literal(literal, weak) => return Ok(self.graph.constant(literal, weak)),
            Value::Error => return Err(Reported),
            Value::None => "`None` is no number".to_owned(),
            Value::Ellipsis => "`...` is no number".to_owned(),
            Value::Slice(_) => "a slice is no number".to_owned(),
            Value::Tuple(_) => "a tuple is no array".to_owned(),
            Value::DType(dtype) => format!("`{dtype}` is a dtype"),
        };
        let error = Diagnostic::new(Code::Syntax, what).at(self.span(id), "a value is needed here");
        let error = match self.value(id) {
            Value::DType(dtype) => error.hint(format!("to convert, call it: `{dtype}(x)`")),
            Value::Tuple(_) => error.hint("results are separated by commas at the end of the text only"),
            _ => error.hint("it may stand in an index, as in `x[..., None]`, or as an axis"),
        };
        self.refuse(error)
    }

    fn expr(&mut self, id: ExprId, expr: &Expr) -> Result<Value, Reported> {
        match expr.kind {
            ExprKind::Name(name) => self.name(name, expr.span),
            ExprKind::Literal { value, weak } => Ok(Value::Literal(value, weak)),
            ExprKind::None => Ok(Value::None),
            ExprKind::Ellipsis => Ok(Value::Ellipsis),
            ExprKind::Tuple(list) => Ok(Value::Tuple(list)),
            ExprKind::Slice(..) => Ok(Value::Slice(id)),
            ExprKind::Error => Err(Reported),
            ExprKind::Prefix(op, x) => {
                if let Some(literal) = self.signed(op, x) {
                    return Ok(literal);
                }
                self.apply(op, &[x], expr)
            }
            ExprKind::Infix(op, x, y) => self.apply(op, &[x, y], expr),
            ExprKind::Chain(left, op, y) => {
                let middle = match self.ast.expr(left).kind {
                    ExprKind::Infix(_, _, middle) | ExprKind::Chain(_, _, middle) => middle,
                    _ => left,
                };
                let Value::Node(comparison) = self.apply(op, &[middle, y], expr)? else { return Err(Reported) };
                let left = self.operand(left)?;
                let both = self.graph.apply(Op::LOGICAL_AND, &[left, comparison]);
                self.checked(both, expr.anchor, &[])
            }
            ExprKind::Conditional { then, condition, otherwise } => {
                self.apply(Op::WHERE, &[condition, then, otherwise], expr)
            }
            ExprKind::Call(name, list) => self.call(name, list, expr),
            ExprKind::Method(receiver, name, list) => self.method(receiver, name, list, expr),
            ExprKind::Attribute(receiver, _) => {
                // The only attribute that parses is `T`.
                let x = self.operand(receiver)?;
                let transposed = self.graph.transpose(x, None);
                self.checked(transposed, expr.anchor, &[receiver])
            }
            ExprKind::Index(base, list) => self.index(base, list, expr),
        }
    }

    fn name(&mut self, name: NameId, span: Span) -> Result<Value, Reported> {
        if let Some(value) = self.bound[name.index()] {
            return Ok(value);
        }
        let text = self.ast.name(name);
        if let Some((_, value)) = CONSTANTS.iter().find(|(n, _)| *n == text) {
            return Ok(Value::Literal(Literal::f64(*value), true));
        }
        if let Some(dtype) = dtype_named(text) {
            return Ok(Value::DType(dtype));
        }
        let error = Diagnostic::new(Code::UnknownName, format!("`{}` is not known", shown(text)));
        let error = if is_function(text) {
            error.at(span, "a function").hint(format!("call it: `{text}(x)`"))
        } else {
            let inputs = self.inputs.iter().map(|i| i.name);
            let assigned = self.ast.names().zip(&self.bound).filter(|(_, b)| b.is_some()).map(|(n, _)| n);
            let known: Vec<&str> = inputs.chain(assigned).chain(CONSTANTS.map(|(n, _)| n)).collect();
            let error = foreign_letter(error, text).at(span, "no input and no assignment before has this name");
            error.hint(meant(text, &known))
        };
        // Once is enough for each name.
        self.bound[name.index()] = Some(Value::Error);
        self.refuse(error)
    }

    /// A literal with a sign before it.
    fn signed(&self, op: Op, x: ExprId) -> Option<Value> {
        let Value::Literal(literal, weak) = self.value(x) else { return None };
        match (op, literal.dtype()) {
            (Op::POSITIVE, DType::I64 | DType::U64 | DType::F64) => Some(Value::Literal(literal, weak)),
            (Op::NEGATIVE, DType::I64) => Some(Value::Literal(Literal::i64(literal.as_i64().wrapping_neg()), weak)),
            (Op::NEGATIVE, DType::F64) => Some(Value::Literal(Literal::f64(-literal.as_f64()), weak)),
            // The least `i64` is written as the negative of a number that is none.
            (Op::NEGATIVE, DType::U64) if literal.bits() == 1 << 63 => {
                Some(Value::Literal(Literal::i64(i64::MIN), true))
            }
            _ => None,
        }
    }

    /// An elementwise op.
    pub fn apply(&mut self, op: Op, operands: &[ExprId], expr: &Expr) -> Result<Value, Reported> {
        let mut nodes: SmallVec<[NodeId; 3]> = SmallVec::new();
        let mut missing = false;
        for id in operands {
            match self.operand(*id) {
                Ok(node) => nodes.push(node),
                Err(Reported) => missing = true,
            }
        }
        if missing {
            return Err(Reported);
        }
        let result = self.graph.apply(op, &nodes).map_err(|error| {
            let written = op.def().operator.filter(|o| o.fix != Fix::Prefix).map(|o| o.symbol);
            if error.code == Code::DTypeMismatch && op == Op::BITWISE_XOR && written.is_some() {
                return error.hint("`^` is the exclusive or of bits; a power is written `**`");
            }
            error
        });
        self.checked(result, expr.anchor, operands)
    }

    fn call(&mut self, name: NameId, list: List, expr: &Expr) -> Result<Value, Reported> {
        let text = self.ast.name(name);
        let given = Given::new(None, self.ast.list(list));
        if let Some(op) = Op::named(text) {
            return self.call_op(op, text, given, expr);
        }
        if let Some(dtype) = dtype_named(text) {
            let [x] = self.bind(text, &["x"], 1, &given, expr.anchor)?;
            return self.cast(x, dtype);
        }
        if text == TRANSPOSE {
            return self.transpose(given, expr);
        }
        self.unknown_function(name, expr.anchor)
    }

    fn method(&mut self, receiver: ExprId, name: NameId, list: List, expr: &Expr) -> Result<Value, Reported> {
        let text = self.ast.name(name);
        let given = Given::new(Some(receiver), self.ast.list(list));
        if let Some(op) = Op::named(text) {
            return self.call_op(op, text, given, expr);
        }
        match text {
            TRANSPOSE => self.transpose(given, expr),
            ASTYPE => {
                let [x, dtype] = self.bind(ASTYPE, &["x", "dtype"], 2, &given, expr.anchor)?;
                match dtype.map(|id| (id, self.value(id))) {
                    Some((_, Value::DType(dtype))) => self.cast(x, dtype),
                    Some((_, Value::Error)) | None => Err(Reported),
                    Some((id, _)) => {
                        let error =
                            Diagnostic::new(Code::Arguments, "`astype` takes a dtype").at(self.span(id), "not a dtype");
                        self.refuse(error.hint("write `x.astype(f32)`"))
                    }
                }
            }
            "T" => {
                let error = Diagnostic::new(Code::UnknownFunction, "`T` is no method").at(expr.anchor, "called here");
                self.refuse(error.hint("write `x.T`, or `x.transpose(1, 0)`"))
            }
            _ => self.unknown_function(name, expr.anchor),
        }
    }

    fn unknown_function(&mut self, name: NameId, span: Span) -> Result<Value, Reported> {
        let text = self.ast.name(name);
        let quoted = shown(text);
        if self.is_value(name) {
            let error = Diagnostic::new(Code::UnknownFunction, format!("`{quoted}` is a value, not a function"))
                .at(span, "called here")
                .hint(format!("for a product write `{quoted} * (...)`, for an element `{quoted}[...]`"));
            return self.refuse(error);
        }
        let error =
            Diagnostic::new(Code::UnknownFunction, format!("there is no function `{quoted}`")).at(span, "unknown");
        let error = match text {
            "real" | "imag" | "conj" | "complex" | "angle" => error.why("complex numbers are not supported yet"),
            "contains" => error.why("strings are not supported"),
            "eval" | "exec" | "open" | "getattr" => error.why("nothing of the host can be reached"),
            _ => foreign_letter(error, text),
        };
        let functions = Op::all().flat_map(Op::names).chain([TRANSPOSE]).chain(DType::ALL.map(DType::name));
        let error = match suggest(text, functions) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`docs/functions.md` lists all functions"),
        };
        self.refuse(error)
    }

    fn cast(&mut self, x: Option<ExprId>, dtype: DType) -> Result<Value, Reported> {
        let Some(x) = x else { return Err(Reported) };
        let x = self.operand(x)?;
        Ok(Value::Node(self.graph.cast(x, dtype)))
    }

    fn index(&mut self, base: ExprId, list: List, expr: &Expr) -> Result<Value, Reported> {
        let base_node = self.operand(base)?;
        let rank = self.graph.rank(base_node);
        let given = self.ast.list(list);
        // `x[(0, 1)]` is `x[0, 1]`.
        let given: &[Argument] = match (given, given.first().map(|a| self.value(a.value))) {
            ([_], Some(Value::Tuple(list))) => self.ast.list(list),
            _ => given,
        };
        let takes_dimension = |v: Value| !matches!(v, Value::None | Value::Ellipsis);
        let used = given.iter().filter(|a| takes_dimension(self.value(a.value))).count();
        let mut items: SmallVec<[IndexItem; 4]> = SmallVec::new();
        let mut has_ellipsis = false;
        for argument in given {
            let id = argument.value;
            match self.value(id) {
                Value::None => items.push(IndexItem::NewAxis),
                Value::Ellipsis if has_ellipsis => {
                    let error = Diagnostic::new(Code::Index, "more than one `...` in an index");
                    return self
                        .refuse(error.at(self.span(id), "the second one").why("only one can stand for the rest"));
                }
                Value::Ellipsis => {
                    has_ellipsis = true;
                    items.extend((used..rank).map(|_| IndexItem::Slice(Slice::ALL)));
                }
                Value::Slice(slice) => {
                    let slice = self.slice(slice)?;
                    items.push(IndexItem::Slice(slice));
                }
                _ => {
                    let at = self.integer(id, "an index")?;
                    items.push(IndexItem::At(at));
                }
            }
        }
        let result = self.graph.index(base_node, &items);
        self.checked(result, expr.anchor, &[base])
    }

    fn slice(&mut self, id: ExprId) -> Result<Slice, Reported> {
        let ExprKind::Slice(start, stop, step) = self.ast.expr(id).kind else { return Err(Reported) };
        let mut bound = |id: Option<ExprId>| match id {
            None => Ok(None),
            Some(id) if matches!(self.value(id), Value::None) => Ok(None),
            Some(id) => self.integer(id, "a bound of a slice").map(Some),
        };
        let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?);
        if step == Some(0) {
            let error = Diagnostic::new(Code::Index, "a slice with step 0").at(self.span(id), "never moves on");
            return self.refuse(error.hint("write `x[::2]` for every other element, `x[::-1]` to reverse"));
        }
        Ok(Slice { start, stop, step: step.unwrap_or(1) })
    }

    /// A constant integer of the text.
    pub fn integer(&mut self, id: ExprId, what: &str) -> Result<i64, Reported> {
        let span = self.span(id);
        let error = |title: String, label: &str| Diagnostic::new(Code::NotConstant, title).at(span, label);
        let error = match self.value(id) {
            Value::Error => return Err(Reported),
            Value::Literal(literal, _) if literal.dtype().is_int() => match literal.as_exact_i64() {
                Some(value) => return Ok(value),
                None => error(format!("{what} of {literal}"), "too large"),
            },
            Value::Literal(literal, _) => {
                error(format!("{what} has to be an integer, not {literal}"), "not an integer")
            }
            Value::Node(_) => {
                let error = error(format!("{what} has to be a constant"), "computed");
                match what {
                    "an index" => error
                        .why("shapes are known before anything is computed; an index that is an array is not supported yet")
                        .hint("choose by condition with `where(condition, x, y)`"),
                    _ => error.why("shapes are known before anything is computed"),
                }
            }
            _ => error(format!("{what} has to be an integer"), "not an integer"),
        };
        self.refuse(error)
    }
}

/// What an unknown name may have meant.
fn meant(name: &str, known: &[&str]) -> String {
    // `xy` for `x*y`: all letters are names.
    let letters: Vec<String> = name.chars().take(5).map(String::from).collect();
    if (2..=4).contains(&letters.len()) && letters.iter().all(|letter| known.contains(&letter.as_str())) {
        return format!("for a product write `{}`", letters.join(" * "));
    }
    // A single letter is near to every other one.
    match suggest(name, known.iter().copied()).filter(|_| letters.len() > 1) {
        Some(near) => format!("did you mean `{}`?", shown(near)),
        None => "give it as an input".to_owned(),
    }
}

/// Says so if a name has a letter that may look like another.
fn foreign_letter(error: Diagnostic, name: &str) -> Diagnostic {
    match name.chars().find(|c| !c.is_ascii()) {
        Some(c) => error.why(format!("it contains the letter `{}`, U+{:04X}", c.escape_debug(), c as u32)),
        None => error,
    }
}

/// True for a name that can be called.
fn is_function(name: &str) -> bool {
    Op::named(name).is_some() || dtype_named(name).is_some() || name == TRANSPOSE
}
