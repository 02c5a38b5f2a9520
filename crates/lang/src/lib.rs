//! The expression language: text to a graph, and mistakes to messages.
//!
//! ```text
//! text -> token (logos) -> scan (limits, mistakes) -> grammar (chumsky) -> ast -> lower -> core::graph
//! ```
//!
//! [`parse`] needs only the text; [`lower`] needs the types of the inputs too. Both go on after a mistake and return all
//! that they found. `docs/language.md` describes the language.
//!
//! # Invariants
//!
//! * For any text: no panic, no recursion that the text could deepen past [`SourceLimits::depth`], time and memory
//!   linear in the text (besides what the graph takes to build).
//! * Nothing is evaluated here, and no name reaches anything but the inputs and the op table.
//! * What an operator or function is called, takes and binds like is in the op table alone.
#![forbid(unsafe_code)]

mod arguments;
pub mod ast;
mod grammar;
mod limits;
mod lower;
mod number;
mod render;
mod scan;
mod token;

pub use ast::Ast;
pub use limits::SourceLimits;
pub use lower::{DimSpec, InputType, is_constant, lower, symbols};
pub use render::render;
pub use token::{TokenClass, tokens};

use ast::{Expr, ExprId, ExprKind, Statement};
use chumsky::Parser;
use grammar::Builder;
use limits::Report;
use numfuse_core::diagnostic::{Code, Diagnostic, Span};
use token::{Token, Tokens};

/// Parses a text. Statements with mistakes are [`ExprKind::Error`] in the tree, so that [`lower`] can look for mistakes
/// in the others; there is no tree if a limit is exceeded or the text is empty.
///
/// ```
/// let (ast, diagnostics) = numfuse_lang::parse("2*a + 3*b**2", &Default::default());
/// assert!(diagnostics.is_empty());
/// assert_eq!(ast.unwrap().free_names(), ["a", "b"]);
/// ```
pub fn parse(source: &str, limits: &SourceLimits) -> (Option<Ast>, Vec<Diagnostic>) {
    let mut report = Report::new(limits);
    let mut ast = parse_into(source, limits, &mut report);
    let mut diagnostics = report.diagnostics;
    if let Some(ast) = &mut ast {
        ast.is_complete = diagnostics.is_empty();
    }
    // The lexer has seen all of the text before the scan began; people read from the top.
    diagnostics.sort_by_key(|d| d.span.map(|s| s.start));
    (ast, diagnostics)
}

fn parse_into(source: &str, limits: &SourceLimits, report: &mut Report) -> Option<Ast> {
    // Spans are 32 bits wide.
    let most = limits.bytes.min(u32::MAX as usize);
    if source.len() > most {
        report.add(|| {
            Diagnostic::new(Code::SourceLimit, format!("{} bytes of text", source.len()))
                .why(format!("at most {most} are allowed"))
                .hint("split the text, or raise `SourceLimits::bytes`")
        });
        return None;
    }
    let tokens = token::lex(source, limits, report)?;
    let chunks = scan::scan(source, &tokens, limits, report)?;
    if chunks.is_empty() {
        report.add(|| {
            Diagnostic::new(Code::Syntax, "the text is empty").hint("write an expression, such as `2*a + 3*b**2`")
        });
        return None;
    }

    let parser = grammar::sequence();
    let mut builder = Builder { exprs: Vec::with_capacity(tokens.tokens.len()), lists: Vec::new(), spans: &[] };
    let mut statements = Vec::with_capacity(chunks.len());
    for (i, chunk) in chunks.iter().enumerate() {
        let range = chunk.tokens.clone();
        builder.spans = &tokens.spans[range.clone()];
        let mut value = None;
        let before = (builder.exprs.len(), builder.lists.len());
        if !chunk.bad {
            match parser.parse_with_state(&tokens.tokens[range.clone()], &mut builder).into_result() {
                Ok(id) => value = Some(id),
                Err(errors) => {
                    builder.exprs.truncate(before.0);
                    builder.lists.truncate(before.1);
                    let at = errors.first().map_or(range.end, |e| range.start + e.span().start);
                    report.add(|| unexpected(source, &tokens, at, range.end));
                }
            }
        }
        let span = tokens.spans[range.start.min(range.end - 1)].to(tokens.spans[range.end - 1]);
        let value = value.unwrap_or_else(|| {
            builder.exprs.push(Expr { kind: ExprKind::Error, span, anchor: span });
            ExprId(builder.exprs.len() as u32 - 1)
        });
        let target = chunk.target.and_then(|at| match tokens.tokens[at] {
            Token::Name(name) => Some((name, tokens.spans[at])),
            _ => None,
        });
        if target.is_none() && i + 1 < chunks.len() && !chunk.bad {
            let next = &chunks[i + 1];
            let first = tokens.tokens.get(next.tokens.start).filter(|_| next.target.is_none());
            report.add(|| discarded(source, span, matches!(first, Some(Token::Operator(_) | Token::Dot))));
        }
        statements.push(Statement { target, value });
    }
    let Builder { exprs, lists, .. } = builder;
    Some(Ast { source: source.into(), names: tokens.names, exprs, lists, statements, is_complete: false })
}

/// What [`scan`] let pass and the grammar does not know.
fn unexpected(source: &str, tokens: &Tokens, at: usize, end: usize) -> Diagnostic {
    let title = |what: &str| Diagnostic::new(Code::Syntax, what.to_owned());
    if at >= end {
        return title("the expression is not complete").at(tokens.spans[end - 1], "more is expected after this");
    }
    let text = limits::shown(&source[tokens.spans[at].range()]);
    let error = title(&format!("`{text}` is not expected here")).at(tokens.spans[at], "not expected");
    match tokens.tokens[at] {
        Token::Assign => error.hint("to compare write `==`"),
        Token::Colon => error.hint("a slice is `start:stop:step`"),
        _ => error,
    }
}

/// The value of a statement before the last is lost unless it has a name. `goes_on` if the next one looks like the rest.
fn discarded(source: &str, span: Span, goes_on: bool) -> Diagnostic {
    let error = Diagnostic::new(Code::Syntax, "the value of this statement is not used")
        .at(span, "computed and dropped")
        .why("only the last statement gives results");
    if goes_on {
        return error.hint("to go on in the next line, put the whole expression in round brackets");
    }
    let text = limits::shown(source[span.range()].trim_end());
    error.hint(format!("name it, as in `r = {text}`, or return several results: `a + b, a - b`"))
}
