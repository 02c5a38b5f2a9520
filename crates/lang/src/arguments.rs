//! Arguments of calls: which parameter each is for, and the constants among them.

use crate::ast::{Argument, Expr, ExprId};
use crate::limits::shown;
use crate::lower::{Lower, Reported, TRANSPOSE, Value};
use numfuse_core::diagnostic::{Code, Diagnostic, Span, suggest};
use numfuse_core::dtype::DType;
use numfuse_core::graph::{NodeId, ReduceOptions};
use numfuse_core::ops::Op;
use smallvec::SmallVec;

/// What a call was given: the value before the dot of a method comes first.
pub(crate) struct Given<'a> {
    receiver: Option<ExprId>,
    arguments: &'a [Argument],
}

impl<'a> Given<'a> {
    pub fn new(receiver: Option<ExprId>, arguments: &'a [Argument]) -> Given<'a> {
        Given { receiver, arguments }
    }
}

impl Lower<'_> {
    /// The arguments in the order of the parameters, of which the first `required` have to be there.
    pub fn bind<const N: usize>(
        &mut self,
        name: &str,
        params: &[&str; N],
        required: usize,
        given: &Given<'_>,
        at: Span,
    ) -> Result<[Option<ExprId>; N], Reported> {
        let bound = self.bind_all(name, params, required, given, at)?;
        Ok(std::array::from_fn(|i| bound.get(i).copied().flatten()))
    }

    fn bind_all(
        &mut self,
        name: &str,
        params: &[&str],
        required: usize,
        given: &Given<'_>,
        at: Span,
    ) -> Result<SmallVec<[Option<ExprId>; 4]>, Reported> {
        let hint = || format!("write `{}`", signature(name, params, required, given.receiver.is_some()));
        let wrong = |title: String| Diagnostic::new(Code::Arguments, title).hint(hint());
        let mut bound: SmallVec<[Option<ExprId>; 4]> = SmallVec::from_elem(None, params.len());
        let mut next = 0;
        if let Some(receiver) = given.receiver {
            bound[0] = Some(receiver);
            next = 1;
        }
        let mut keywords = false;
        for argument in given.arguments {
            let span = self.span(argument.value);
            let index = match argument.keyword {
                None if keywords => {
                    let title = format!("`{name}` is given a value after a named argument");
                    return self.refuse(wrong(title).at(span, "which argument is this?"));
                }
                None if next == params.len() => {
                    let takes = params.len() - usize::from(given.receiver.is_some());
                    let plural = if takes == 1 { "" } else { "s" };
                    let title = format!("`{name}` takes {takes} argument{plural}, not {}", given.arguments.len());
                    return self.refuse(wrong(title).at(span, "one too many"));
                }
                None => {
                    next += 1;
                    next - 1
                }
                Some(id) => {
                    keywords = true;
                    let keyword = self.ast.name(id);
                    match params.iter().position(|p| *p == keyword) {
                        Some(index) => index,
                        None => {
                            let error = wrong(format!("`{name}` has no argument `{}`", shown(keyword)));
                            let error = error.at(span, "its value");
                            let near = suggest(keyword, params.iter().copied()).filter(|_| keyword.len() > 1);
                            return self.refuse(match near {
                                _ if self.is_value(id) => error.hint(format!(
                                    "to compare write `{} == ...`; the call is `{}`",
                                    shown(keyword),
                                    signature(name, params, required, given.receiver.is_some())
                                )),
                                Some(near) => error.hint(format!("did you mean `{near}`? {}", hint())),
                                None => error,
                            });
                        }
                    }
                }
            };
            if let Some(first) = bound[index].replace(argument.value) {
                let error = wrong(format!("`{name}` is given `{}` twice", params[index]));
                return self.refuse(error.at(span, "the second value").and_at(self.span(first), "the first value"));
            }
        }
        if let Some(missing) = bound[..required].iter().position(Option::is_none) {
            let error = wrong(format!("`{name}` is missing its argument `{}`", params[missing]));
            return self.refuse(error.at(at, format!("`{}` is not given", params[missing])));
        }
        Ok(bound)
    }

    /// A call of a function or method of the op table.
    pub fn call_op(&mut self, op: Op, name: &str, given: Given<'_>, expr: &Expr) -> Result<Value, Reported> {
        let params = op.def().params;
        if !op.def().is_reduction() {
            let bound = self.bind_all(name, params, params.len(), &given, expr.anchor)?;
            let operands: SmallVec<[ExprId; 4]> = bound.into_iter().flatten().collect();
            return self.apply(op, &operands, expr);
        }
        let bound = self.bind_all(name, params, 1, &given, expr.anchor)?;
        let mut options = ReduceOptions::default();
        for (param, id) in params.iter().zip(&bound).skip(1) {
            let Some(id) = *id else { continue };
            match *param {
                "axis" => options.axes = self.axes(Some(op), name, id)?,
                "keepdims" => options.keepdims = self.flag(id, "`keepdims`")?,
                _ => options.ddof = self.integer(id, "`ddof`")?,
            }
        }
        let Some(operand) = bound[0] else { return Err(Reported) };
        let x = self.operand(operand)?;
        let result = self.graph.reduce(op, x, &options);
        let axis = params.iter().position(|p| *p == "axis").and_then(|i| bound[i]);
        let at = self.axis_place(&result, axis, expr);
        self.checked(result, at, &[operand])
    }

    /// Where a message about a reduction or transposition points: at the axes if they are what is wrong.
    fn axis_place(&self, result: &Result<NodeId, Diagnostic>, axes: Option<ExprId>, expr: &Expr) -> Span {
        match (result, axes) {
            (Err(error), Some(id)) if error.code == Code::Axis => self.span(id),
            _ => expr.anchor,
        }
    }

    /// `None`, an axis or a tuple of axes.
    fn axes(&mut self, op: Option<Op>, name: &str, id: ExprId) -> Result<Option<SmallVec<[i64; 4]>>, Reported> {
        match self.value(id) {
            Value::None => Ok(None),
            Value::Tuple(list) => self
                .ast
                .list(list)
                .iter()
                .map(|item| self.integer(item.value, "an axis"))
                .collect::<Result<_, _>>()
                .map(Some),
            Value::Node(_) if matches!(op, Some(Op::MIN | Op::MAX)) => {
                let pairwise = if op == Some(Op::MIN) { Op::MINIMUM } else { Op::MAXIMUM };
                let error =
                    Diagnostic::new(Code::NotConstant, "an axis has to be a constant").at(self.span(id), "computed");
                self.refuse(
                    error
                        .why(format!("`{name}(x, axis)` is a reduction along an axis"))
                        .hint(format!("to compare two arrays element by element write `{pairwise}(x, y)`")),
                )
            }
            _ => Ok(Some(SmallVec::from_elem(self.integer(id, "an axis")?, 1))),
        }
    }

    fn flag(&mut self, id: ExprId, what: &str) -> Result<bool, Reported> {
        match self.value(id) {
            Value::Literal(literal, _) if literal.dtype() == DType::Bool => Ok(literal.as_bool()),
            Value::Error => Err(Reported),
            _ => {
                let error = Diagnostic::new(Code::NotConstant, format!("{what} has to be `True` or `False`"));
                self.refuse(error.at(self.span(id), "neither"))
            }
        }
    }

    /// `x.transpose()`, `x.transpose(1, 0)`, `transpose(x, (1, 0))`.
    pub fn transpose(&mut self, given: Given<'_>, expr: &Expr) -> Result<Value, Reported> {
        // A method takes the axes one by one too.
        let spread = given
            .receiver
            .filter(|_| given.arguments.len() != 1 && given.arguments.iter().all(|a| a.keyword.is_none()));
        let (operand, axes, place) = if let Some(receiver) = spread {
            let axes: SmallVec<[i64; 4]> =
                given.arguments.iter().map(|a| self.integer(a.value, "an axis")).collect::<Result<_, _>>()?;
            (receiver, (!axes.is_empty()).then_some(axes), None)
        } else {
            let [x, axes] = self.bind(TRANSPOSE, &["x", "axes"], 1, &given, expr.anchor)?;
            let Some(x) = x else { return Err(Reported) };
            let place = axes;
            let axes = match axes {
                None => None,
                Some(id) => self.axes(None, TRANSPOSE, id)?,
            };
            (x, axes, place)
        };
        let x = self.operand(operand)?;
        let result = self.graph.transpose(x, axes.as_deref());
        let at = self.axis_place(&result, place, expr);
        self.checked(result, at, &[operand])
    }
}

/// `sum(x, axis=..., keepdims=...)`, or `x.sum(axis=..., keepdims=...)`.
fn signature(name: &str, params: &[&str], required: usize, is_method: bool) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (i, param) in params.iter().enumerate().skip(usize::from(is_method)) {
        parts.push(if i < required { (*param).to_owned() } else { format!("{param}=...") });
    }
    let receiver = if is_method { "x." } else { "" };
    format!("{receiver}{name}({})", parts.join(", "))
}
