//! Tokens to a tree: the grammar, in chumsky's combinators.
//!
//! ```text
//! statement = [name "="] sequence
//! sequence  = expr {"," expr} [","]
//! expr      = operators over primary, by the precedences of the op table; `x if c else y` binds least
//! primary   = atom {"[" item {"," item} [","] "]" | "." name [arguments]}
//! atom      = literal | "None" | "..." | name [arguments] | "(" [sequence] ")"
//! arguments = "(" [argument {"," argument} [","]] ")"      argument = [name "="] expr
//! item      = expr | [expr] ":" [expr] [":" [expr]]
//! ```
//!
//! Every choice is made by the next token, so parsing is linear. Expressions go to the arena as they are recognised,
//! which is post-order; what a rewind gives up is cut off ([`Builder`]'s checkpoints). Recursion is bounded, since
//! [`crate::scan`] has bounded nesting before.
//!
//! chumsky's parsers cannot outlive the text that they read, so the parser is built anew for every text.

use crate::ast::{Argument, Expr, ExprId, ExprKind, List, NameId};
use crate::token::{Symbol, Token, infix_levels, prefix_levels};
use chumsky::error::Cheap;
use chumsky::input::{Checkpoint, Cursor, MapExtra};
use chumsky::inspector::Inspector;
use chumsky::pratt::{infix, left, prefix, right};
use chumsky::prelude::*;
use numfuse_core::diagnostic::Span;
use numfuse_core::ops::{Fix, Op};
use smallvec::SmallVec;

/// The arena that a parse fills.
pub(crate) struct Builder<'t> {
    pub exprs: Vec<Expr>,
    pub lists: Vec<Argument>,
    /// Where the tokens of the statement stand.
    pub spans: &'t [Span],
}

/// What a rewind cuts off.
impl<'t> Inspector<'t, &'t [Token]> for Builder<'t> {
    type Checkpoint = (usize, usize);

    fn on_token(&mut self, _: &Token) {}

    fn on_save<'parse>(&self, _: &Cursor<'t, 'parse, &'t [Token]>) -> Self::Checkpoint {
        (self.exprs.len(), self.lists.len())
    }

    fn on_rewind<'parse>(&mut self, to: &Checkpoint<'t, 'parse, &'t [Token], Self::Checkpoint>) {
        let (exprs, lists) = *to.inspector();
        self.exprs.truncate(exprs);
        self.lists.truncate(lists);
    }
}

impl Builder<'_> {
    /// The bytes of a range of tokens.
    fn place(&self, tokens: SimpleSpan) -> Span {
        let last = tokens.end.max(tokens.start + 1) - 1;
        match (self.spans.get(tokens.start), self.spans.get(last)) {
            (Some(first), Some(last)) => first.to(*last),
            _ => self.spans.last().copied().unwrap_or_default(),
        }
    }

    fn push(&mut self, kind: ExprKind, tokens: SimpleSpan, anchor: Option<SimpleSpan>) -> Parsed {
        let span = self.place(tokens);
        let anchor = anchor.map_or(span, |a| self.place(a));
        self.exprs.push(Expr { kind, span, anchor });
        Parsed { id: ExprId(self.exprs.len() as u32 - 1), is_comparison: false }
    }

    fn list(&mut self, items: impl IntoIterator<Item = Argument>) -> List {
        let start = self.lists.len() as u32;
        self.lists.extend(items);
        List { start, end: self.lists.len() as u32 }
    }
}

/// A recognised expression.
#[derive(Clone, Copy)]
struct Parsed {
    id: ExprId,
    /// True for a comparison that is not in brackets: a further one continues it.
    is_comparison: bool,
}

impl Parsed {
    fn argument(self) -> Argument {
        Argument { keyword: None, value: self.id }
    }
}

type Tokens<'t> = &'t [Token];
type Extra<'t> = extra::Full<Cheap, Builder<'t>, ()>;
type Context<'t, 'p> = MapExtra<'t, 'p, Tokens<'t>, Extra<'t>>;
type Arguments = SmallVec<[Argument; 4]>;

/// What follows an atom.
enum Trailer {
    Index(Arguments, SimpleSpan),
    Attribute(NameId, SimpleSpan),
    Method(NameId, SimpleSpan, Arguments),
}

/// The parser of a statement without its target; it returns the value.
pub(crate) fn sequence<'t>() -> impl Parser<'t, Tokens<'t>, ExprId, Extra<'t>> {
    let expr = recursive(expr);
    elements(expr.clone())
        .map_with(|elements, e| match elements {
            Elements::One(value) => value.id,
            Elements::Many(items) => tuple(items, e).id,
        })
        .then_ignore(end())
}

/// One expression, or a tuple.
enum Elements {
    One(Parsed),
    Many(Arguments),
}

fn elements<'t>(
    expr: impl Parser<'t, Tokens<'t>, Parsed, Extra<'t>> + Clone,
) -> impl Parser<'t, Tokens<'t>, Elements, Extra<'t>> + Clone {
    let rest =
        expr.clone().map(Parsed::argument).separated_by(just(Token::Comma)).allow_trailing().collect::<Arguments>();
    expr.then(just(Token::Comma).ignore_then(rest).or_not()).map(|(first, rest)| match rest {
        None => Elements::One(first),
        Some(mut items) => {
            items.insert(0, first.argument());
            Elements::Many(items)
        }
    })
}

fn tuple<'t>(items: Arguments, e: &mut Context<'t, '_>) -> Parsed {
    let span = e.span();
    let list = e.state().list(items);
    e.state().push(ExprKind::Tuple(list), span, None)
}

fn expr<'t>(
    expr: Recursive<chumsky::recursive::Direct<'t, 't, Tokens<'t>, Parsed, Extra<'t>>>,
) -> impl Parser<'t, Tokens<'t>, Parsed, Extra<'t>> + Clone {
    let name = select! { Token::Name(name) = e => (name, e.span()) };
    let keyword = select! { Token::Name(name) => name }.then_ignore(just(Token::Assign));
    let arguments = keyword
        .or_not()
        .then(expr.clone())
        .map(|(keyword, value)| Argument { keyword, value: value.id })
        .separated_by(just(Token::Comma))
        .allow_trailing()
        .collect::<Arguments>()
        .delimited_by(just(Token::LeftParen), just(Token::RightParen));

    let constant = select! {
        Token::Literal(value, weak) => ExprKind::Literal { value, weak },
        Token::None => ExprKind::None,
        Token::Ellipsis => ExprKind::Ellipsis,
    }
    .map_with(|kind, e: &mut Context<'t, '_>| {
        let span = e.span();
        e.state().push(kind, span, None)
    });
    let named = name.then(arguments.clone().or_not()).map_with(|((name, at), arguments), e| {
        let span = e.span();
        match arguments {
            None => e.state().push(ExprKind::Name(name), span, None),
            Some(arguments) => {
                let list = e.state().list(arguments);
                e.state().push(ExprKind::Call(name, list), span, Some(at))
            }
        }
    });
    let group = elements(expr.clone()).or_not().delimited_by(just(Token::LeftParen), just(Token::RightParen)).map_with(
        |elements, e| match elements {
            Some(Elements::One(value)) => Parsed { is_comparison: false, ..value },
            Some(Elements::Many(items)) => tuple(items, e),
            None => tuple(Arguments::new(), e),
        },
    );

    let bound = expr.clone().map(|bound| bound.id);
    // What follows the first bound of a slice.
    let bounds = just(Token::Colon)
        .ignore_then(bound.clone().or_not())
        .then(just(Token::Colon).ignore_then(bound.clone().or_not()).or_not());
    let item = choice((bound.map(Some).then(bounds.clone().or_not()), bounds.map(|bounds| (None, Some(bounds)))))
        .map_with(|(start, bounds), e| {
            let value = match (start, bounds) {
                (start, Some((stop, step))) => {
                    let span = e.span();
                    e.state().push(ExprKind::Slice(start, stop, step.flatten()), span, None).id
                }
                (Some(value), None) => value,
                // No alternative of `item` gives this.
                (None, None) => return None,
            };
            Some(Argument { keyword: None, value })
        });
    let index = item
        .separated_by(just(Token::Comma))
        .at_least(1)
        .allow_trailing()
        .collect::<SmallVec<[Option<Argument>; 4]>>()
        .delimited_by(just(Token::LeftBracket), just(Token::RightBracket))
        .map_with(|items, e: &mut Context<'t, '_>| Trailer::Index(items.into_iter().flatten().collect(), e.span()));
    let member =
        just(Token::Dot).ignore_then(name).then(arguments.or_not()).map(|((name, at), arguments)| match arguments {
            None => Trailer::Attribute(name, at),
            Some(arguments) => Trailer::Method(name, at, arguments),
        });

    let primary = choice((named, constant, group)).foldl_with(
        choice((index, member)).repeated(),
        |x, trailer, e: &mut Context<'t, '_>| {
            let span = e.span();
            let builder = e.state();
            match trailer {
                Trailer::Index(items, at) => {
                    let list = builder.list(items);
                    builder.push(ExprKind::Index(x.id, list), span, Some(at))
                }
                Trailer::Attribute(name, at) => builder.push(ExprKind::Attribute(x.id, name), span, Some(at)),
                Trailer::Method(name, at, arguments) => {
                    let list = builder.list(arguments);
                    builder.push(ExprKind::Method(x.id, name, list), span, Some(at))
                }
            }
        },
    );

    let before: Vec<_> = prefix_levels()
        .iter()
        .map(|level| {
            let level = *level;
            let operator = select! {
                Token::Operator(Symbol { prefix: Some((op, p)), .. }) = e if p == level => (op, e.span())
            };
            prefix(u16::from(level), operator, |(op, at): (Op, SimpleSpan), x: Parsed, e: &mut Context<'t, '_>| {
                let span = e.span();
                e.state().push(ExprKind::Prefix(op, x.id), span, Some(at))
            })
        })
        .collect();
    let between: Vec<_> = infix_levels()
        .iter()
        .map(|(level, fix)| {
            let (level, fix) = (*level, *fix);
            let operator = select! {
                Token::Operator(Symbol { infix: Some((op, p, _)), .. }) = e if p == level => (op, e.span())
            };
            let grouping = if fix == Fix::Right { right(u16::from(level)) } else { left(u16::from(level)) };
            infix(
                grouping,
                operator,
                move |x: Parsed, (op, at): (Op, SimpleSpan), y: Parsed, e: &mut Context<'t, '_>| {
                    let span = e.span();
                    let kind = match (fix, x.is_comparison) {
                        (Fix::Chain, true) => ExprKind::Chain(x.id, op, y.id),
                        _ => ExprKind::Infix(op, x.id, y.id),
                    };
                    let parsed = e.state().push(kind, span, Some(at));
                    Parsed { is_comparison: fix == Fix::Chain, ..parsed }
                },
            )
        })
        .collect();
    let condition = select! { Token::If = e => e.span() }.then(expr).then_ignore(just(Token::Else));
    let choose = infix(
        right(0),
        condition,
        |then: Parsed, (at, condition): (SimpleSpan, Parsed), otherwise: Parsed, e: &mut Context<'t, '_>| {
            let span = e.span();
            let kind = ExprKind::Conditional { then: then.id, condition: condition.id, otherwise: otherwise.id };
            e.state().push(kind, span, Some(at))
        },
    );
    primary.pratt((before, between, choose))
}
