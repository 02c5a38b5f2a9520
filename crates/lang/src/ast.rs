//! The syntax tree: a flat arena of expressions in post-order.
//!
//! # Invariants
//!
//! * Operands precede their users, and a statement's expressions precede the next statement's, so that walks are loops
//!   over ids and dropping a tree frees three vectors. Nothing here recurses: a sum of 100,000 terms is ordinary.
//! * Every expression has one user. Brackets are not recorded: the shape of the tree is what they said.
//! * Names are numbered in order of first appearance; equal names have equal ids.
//!
//! Trees are equal if they say the same, wherever it stands; a tree prints as text that parses to an equal one.

use numfuse_core::diagnostic::Span;
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Fix, Op, UNARY};
use std::fmt;
use std::ops::Range;

/// An expression of an [`Ast`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExprId(pub(crate) u32);

impl ExprId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A name in an [`Ast`]: an input, a local name, a function, a method or a keyword.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NameId(pub(crate) u32);

impl NameId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Arguments of a call, items of an index or elements of a tuple; see [`Ast::list`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct List {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// An element of a [`List`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Argument {
    /// `axis` in `axis=0`; only calls have keywords.
    pub keyword: Option<NameId>,
    /// The expression.
    pub value: ExprId,
}

/// What an expression is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExprKind {
    /// A name.
    Name(NameId),
    /// A number or a truth value.
    Literal {
        /// The value.
        value: Literal,
        /// True if its dtype gives way to that of any array; false for integers that only `u64` holds.
        weak: bool,
    },
    /// `None`
    None,
    /// `...`
    Ellipsis,
    /// An operator before its operand.
    Prefix(Op, ExprId),
    /// An operator between its operands.
    Infix(Op, ExprId, ExprId),
    /// `b < c` in `a < b < c`: the comparison to the left (`Infix` or `Chain`), whose right operand is compared with a
    /// further one. True where both comparisons are.
    Chain(ExprId, Op, ExprId),
    /// `then if condition else otherwise`
    Conditional {
        /// The value where the condition is true.
        then: ExprId,
        /// The condition.
        condition: ExprId,
        /// The value elsewhere.
        otherwise: ExprId,
    },
    /// `a, b`
    Tuple(List),
    /// `start:stop:step`, an item of an index.
    Slice(Option<ExprId>, Option<ExprId>, Option<ExprId>),
    /// `function(arguments)`
    Call(NameId, List),
    /// `receiver.method(arguments)`
    Method(ExprId, NameId, List),
    /// `receiver.name`
    Attribute(ExprId, NameId),
    /// `base[items]`
    Index(ExprId, List),
    /// What did not parse; a diagnostic says why.
    Error,
}

/// An expression and its place.
#[derive(Clone, Copy, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// All of its text, without brackets around it.
    pub span: Span,
    /// What a message about it points at: the operator, the function's name, the brackets of an index, or all of it.
    pub anchor: Span,
}

/// A statement.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// `r` in `r = x + y`, and where it stands.
    pub target: Option<(NameId, Span)>,
    /// The value.
    pub value: ExprId,
}

/// A program: statements, the last of which gives the results.
#[derive(Clone, Debug)]
pub struct Ast {
    pub(crate) source: Box<str>,
    pub(crate) names: Vec<Span>,
    pub(crate) exprs: Vec<Expr>,
    pub(crate) lists: Vec<Argument>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) is_complete: bool,
}

impl Ast {
    /// The text that was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the text parsed without a mistake.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The statements; there is at least one.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// All expressions, operands before users.
    pub fn exprs(&self) -> impl ExactSizeIterator<Item = (ExprId, &Expr)> {
        self.exprs.iter().enumerate().map(|(i, e)| (ExprId(i as u32), e))
    }

    /// The expression of an id.
    pub fn expr(&self, id: ExprId) -> &Expr {
        &self.exprs[id.index()]
    }

    /// The elements of a list.
    pub fn list(&self, list: List) -> &[Argument] {
        &self.lists[list.start as usize..list.end as usize]
    }

    /// The text of a name.
    pub fn name(&self, name: NameId) -> &str {
        &self.source[self.names[name.index()].range()]
    }

    /// All names, by [`NameId`].
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|span| &self.source[span.range()])
    }

    /// The names that stand for a value and are not assigned before: what the text needs from outside, in order of
    /// first use. Constants (`pi`) and dtypes (`f64`) are among them, since an input may take their name; if there is no
    /// such input they mean what they always do.
    pub fn free_names(&self) -> Vec<&str> {
        self.free_name_ids().into_iter().map(|(name, _)| self.name(name)).collect()
    }

    /// [`Ast::free_names`] with the expression that uses each first.
    pub(crate) fn free_name_ids(&self) -> Vec<(NameId, ExprId)> {
        let mut known = vec![false; self.names.len()];
        let mut free = Vec::new();
        for (statement, range) in self.statements_with_exprs() {
            for index in range {
                if let ExprKind::Name(name) = self.exprs[index].kind
                    && !std::mem::replace(&mut known[name.index()], true)
                {
                    free.push((name, ExprId(index as u32)));
                }
            }
            if let Some((target, _)) = statement.target {
                known[target.index()] = true;
            }
        }
        free
    }

    /// Each statement with the indices of its expressions, the last of which is its value.
    pub(crate) fn statements_with_exprs(&self) -> impl Iterator<Item = (Statement, Range<usize>)> {
        let mut start = 0;
        self.statements.iter().map(move |statement| {
            let end = statement.value.index() + 1;
            (*statement, std::mem::replace(&mut start, end)..end)
        })
    }
}

impl PartialEq for Ast {
    fn eq(&self, other: &Ast) -> bool {
        let target = |s: &Statement| (s.target.map(|(name, _)| name), s.value);
        self.exprs.iter().map(|e| e.kind).eq(other.exprs.iter().map(|e| e.kind))
            && self.lists == other.lists
            && self.statements.iter().map(target).eq(other.statements.iter().map(target))
            && self.names().eq(other.names())
    }
}

/// What is still to be printed.
enum Piece {
    Text(&'static str),
    Name(NameId),
    Literal(Literal),
    /// An expression, in brackets if it binds less tightly than this.
    Expr(ExprId, u8),
}

/// Binds more tightly than any operator.
const ATOM: u8 = u8::MAX;

/// One statement a line, with no more brackets than it needs.
impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, statement) in self.statements.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            if let Some((target, _)) = statement.target {
                write!(f, "{} = ", self.name(target))?;
            }
            let mut pending = vec![Piece::Expr(statement.value, 0)];
            while let Some(piece) = pending.pop() {
                match piece {
                    Piece::Text(text) => f.write_str(text)?,
                    Piece::Name(name) => f.write_str(self.name(name))?,
                    Piece::Literal(value) if value.as_f64().is_infinite() => f.write_str("1e999")?,
                    Piece::Literal(value) => write!(f, "{value}")?,
                    Piece::Expr(id, tightness) => {
                        let first = pending.len();
                        let brackets = self.tightness(id) < tightness;
                        pending.extend(brackets.then_some(Piece::Text("(")));
                        self.push_pieces(id, &mut pending);
                        pending.extend(brackets.then_some(Piece::Text(")")));
                        pending[first..].reverse();
                    }
                }
            }
        }
        Ok(())
    }
}

impl Ast {
    /// The precedence of the operator at the top of an expression.
    fn tightness(&self, id: ExprId) -> u8 {
        match self.expr(id).kind {
            ExprKind::Prefix(op, _) | ExprKind::Infix(op, ..) | ExprKind::Chain(_, op, _) => {
                op.def().operator.map_or(ATOM, |o| o.precedence)
            }
            ExprKind::Conditional { .. } => 0,
            // A number takes brackets before a dot.
            ExprKind::Literal { .. } => ATOM - 1,
            _ => ATOM,
        }
    }

    /// The parts of an expression, in order.
    fn push_pieces(&self, id: ExprId, pieces: &mut Vec<Piece>) {
        let symbol = |op: Op| op.def().operator.map_or((ATOM, Fix::Left, ""), |o| (o.precedence, o.fix, o.symbol));
        match self.expr(id).kind {
            ExprKind::Name(name) => pieces.push(Piece::Name(name)),
            ExprKind::Literal { value, .. } => pieces.push(Piece::Literal(value)),
            ExprKind::None => pieces.push(Piece::Text("None")),
            ExprKind::Ellipsis => pieces.push(Piece::Text("...")),
            ExprKind::Error => pieces.push(Piece::Text("<error>")),
            ExprKind::Prefix(op, x) => {
                let (precedence, _, text) = symbol(op);
                pieces.push(Piece::Text(text));
                if text.starts_with(char::is_alphabetic) {
                    pieces.push(Piece::Text(" "));
                }
                pieces.push(Piece::Expr(x, precedence));
            }
            ExprKind::Infix(op, x, y) => {
                let (precedence, fix, text) = symbol(op);
                // A prefix operator may stand to the right of `**`, where it cannot be mistaken.
                let (left, right) = match fix {
                    Fix::Right => (precedence + 1, UNARY.min(precedence)),
                    Fix::Chain => (precedence + 1, precedence + 1),
                    Fix::Left | Fix::Prefix => (precedence, precedence + 1),
                };
                pieces.extend([Piece::Expr(x, left), Piece::Text(" "), Piece::Text(text), Piece::Text(" ")]);
                pieces.push(Piece::Expr(y, right));
            }
            ExprKind::Chain(x, op, y) => {
                let (precedence, _, text) = symbol(op);
                pieces.extend([Piece::Expr(x, precedence), Piece::Text(" "), Piece::Text(text), Piece::Text(" ")]);
                pieces.push(Piece::Expr(y, precedence + 1));
            }
            ExprKind::Conditional { then, condition, otherwise } => {
                pieces.extend([Piece::Expr(then, 1), Piece::Text(" if "), Piece::Expr(condition, 1)]);
                pieces.extend([Piece::Text(" else "), Piece::Expr(otherwise, 0)]);
            }
            ExprKind::Tuple(list) => {
                pieces.push(Piece::Text("("));
                self.push_list(list, pieces);
                pieces.push(Piece::Text(if list.end - list.start == 1 { ",)" } else { ")" }));
            }
            ExprKind::Slice(start, stop, step) => {
                pieces.extend(start.map(|e| Piece::Expr(e, 0)));
                pieces.push(Piece::Text(":"));
                pieces.extend(stop.map(|e| Piece::Expr(e, 0)));
                if let Some(step) = step {
                    pieces.extend([Piece::Text(":"), Piece::Expr(step, 0)]);
                }
            }
            ExprKind::Call(name, list) => {
                pieces.extend([Piece::Name(name), Piece::Text("(")]);
                self.push_list(list, pieces);
                pieces.push(Piece::Text(")"));
            }
            ExprKind::Method(receiver, name, list) => {
                pieces.extend([Piece::Expr(receiver, ATOM), Piece::Text("."), Piece::Name(name), Piece::Text("(")]);
                self.push_list(list, pieces);
                pieces.push(Piece::Text(")"));
            }
            ExprKind::Attribute(receiver, name) => {
                pieces.extend([Piece::Expr(receiver, ATOM), Piece::Text("."), Piece::Name(name)]);
            }
            ExprKind::Index(base, list) => {
                pieces.extend([Piece::Expr(base, ATOM), Piece::Text("[")]);
                self.push_list(list, pieces);
                pieces.push(Piece::Text("]"));
            }
        }
    }

    /// The elements of a list, with commas between them.
    fn push_list(&self, list: List, pieces: &mut Vec<Piece>) {
        for (i, argument) in self.list(list).iter().enumerate() {
            if i > 0 {
                pieces.push(Piece::Text(", "));
            }
            if let Some(keyword) = argument.keyword {
                pieces.extend([Piece::Name(keyword), Piece::Text("=")]);
            }
            pieces.push(Piece::Expr(argument.value, 0));
        }
    }
}
