//! A pass over the tokens before the parser: it splits statements, holds nesting to the limit, and finds the mistakes
//! that people make.
//!
//! A formula alternates between operands and operators. So one look at two neighbouring tokens, and at the bracket that
//! they stand in, tells most mistakes from another and can say what was meant; the parser could only say what it
//! expected. After a mistake the pass goes on as if it had been put right, so every statement reports all of its own.
//! A statement without mistakes here goes to the parser ([`crate::grammar`]), which has the last word.
//!
//! Nesting is counted exactly as the parser will recurse: brackets, prefix operators, right operands of `**`,
//! conditions and `else` branches. Time and memory are linear in the tokens.

use crate::limits::{Report, SourceLimits, shown};
use crate::token::{FOREIGN, Role, Symbol, Token, Tokens};
use numfuse_core::diagnostic::{Code, Diagnostic, Span};
use numfuse_core::dtype::DType;
use numfuse_core::ops::{Fix, Op};
use std::ops::Range;

/// A statement as a range of tokens, without the separator.
pub(crate) struct Chunk {
    /// The name and `=` of an assignment are not in it.
    pub tokens: Range<usize>,
    /// The token of the assigned name.
    pub target: Option<usize>,
    /// True if a mistake in it has been reported.
    pub bad: bool,
}

/// What an operand or operator stands in.
#[derive(Clone, Copy, PartialEq)]
enum Nest {
    /// `(` for grouping.
    Group(usize),
    /// `(` after a function's name.
    Call(usize),
    /// `[` after a value.
    Index(usize),
    /// `[` for a list, which does not exist.
    List(usize),
    /// `if` without its `else` yet.
    If(usize),
    /// The right operand of a prefix operator, of `**`, or of `else`, with its precedence.
    Operand(u8),
}

impl Nest {
    /// The token that opened it, for brackets.
    fn bracket(self) -> Option<usize> {
        match self {
            Nest::Group(at) | Nest::Call(at) | Nest::Index(at) | Nest::List(at) => Some(at),
            Nest::If(_) | Nest::Operand(_) => None,
        }
    }
}

/// Splits the tokens into statements and reports mistakes; none if the limits do not allow to go on.
pub(crate) fn scan(source: &str, tokens: &Tokens, limits: &SourceLimits, report: &mut Report) -> Option<Vec<Chunk>> {
    let mut scan = Scan {
        source,
        tokens: &tokens.tokens,
        spans: &tokens.spans,
        depth: limits.depth,
        report,
        nests: Vec::new(),
        start: 0,
        bad: false,
        operand: true,
    };
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < tokens.tokens.len() {
        at = scan.statement(at, &mut chunks)? + 1;
    }
    Some(chunks)
}

struct Scan<'a> {
    source: &'a str,
    tokens: &'a [Token],
    spans: &'a [Span],
    depth: usize,
    report: &'a mut Report,
    nests: Vec<Nest>,
    /// The first token of the statement.
    start: usize,
    /// True if the statement has a mistake.
    bad: bool,
    /// True where an operand has to come, false where an operator may.
    operand: bool,
}

impl Scan<'_> {
    /// Checks the statement that starts at a token; returns the token that ends it. None if it nests too deeply.
    fn statement(&mut self, start: usize, chunks: &mut Vec<Chunk>) -> Option<usize> {
        self.nests.clear();
        (self.start, self.bad, self.operand) = (start, false, true);
        let mut target = None;
        let mut at = start;
        // Set where a word of another language makes the rest unreadable.
        let mut lost = false;
        while at < self.tokens.len() {
            let token = self.tokens[at];
            match token {
                Token::Newline => break,
                Token::Semicolon if self.innermost().is_none() => break,
                Token::LeftParen | Token::LeftBracket if lost => self.nests.push(Nest::Group(at)),
                Token::RightParen | Token::RightBracket if lost => {
                    while self.nests.pop().is_some_and(|nest| nest.bracket().is_none()) {}
                }
                _ if lost => {}
                // It may have been anything.
                Token::Bad => {
                    self.bad = true;
                    lost = true;
                }
                Token::BadNumber => {
                    self.bad = true;
                    self.value(at);
                }
                Token::Name(_) if at > start && self.tokens[at - 1] == Token::Dot => self.attribute(at),
                Token::Name(_) | Token::Literal(..) | Token::None | Token::Ellipsis => self.value(at),
                Token::Operator(symbol) => self.operator(at, symbol),
                Token::LeftParen | Token::LeftBracket => self.open(at),
                Token::RightParen | Token::RightBracket => self.close(at),
                Token::Comma => self.comma(at),
                Token::Colon => self.colon(at),
                Token::Dot => self.dot(at),
                Token::Semicolon => {
                    self.mistake(at, "`;` inside brackets", "a statement ends here", |d| {
                        d.hint("close the bracket before it")
                    });
                    self.operand = true;
                }
                Token::Assign if at == start + 1 && matches!(self.tokens[start], Token::Name(_)) => {
                    target = Some(start);
                    self.operand = true;
                }
                Token::Assign => self.assign(at),
                Token::If if at == start => {
                    self.statement_if(at);
                    lost = true;
                }
                Token::If => self.condition(at),
                Token::Else => self.otherwise(at),
                Token::Foreign(row) => lost = !self.foreign(at, row),
            }
            if self.nests.len() > self.depth {
                self.report.add(|| {
                    Diagnostic::new(Code::SourceLimit, format!("nested more than {} deep", self.depth))
                        .at(self.spans[at], "the limit is reached here")
                        .why("brackets, prefix operators, `**` and `else` count when one stands inside another")
                        .hint("name a part in a statement before: `r = x + y; r / max(r)`")
                });
                return None;
            }
            at += 1;
        }
        if !lost && at > start {
            self.end(at);
        }
        if at > start {
            let first = if target.is_some() { start + 2 } else { start };
            chunks.push(Chunk { tokens: first..at, target, bad: self.bad });
        }
        Some(at)
    }

    /// Reports a mistake at a token.
    fn mistake(
        &mut self,
        at: usize,
        title: impl Into<String>,
        label: &str,
        more: impl FnOnce(Diagnostic) -> Diagnostic,
    ) {
        self.bad = true;
        let span = self.spans[at];
        self.report.add(|| more(Diagnostic::new(Code::Syntax, title.into()).at(span, label)));
    }

    fn text(&self, at: usize) -> String {
        shown(&self.source[self.spans[at].range()])
    }

    /// The token before, within the statement.
    fn before(&self, at: usize) -> Option<Token> {
        (at > self.start).then(|| self.tokens[at - 1])
    }

    fn innermost(&self) -> Option<Nest> {
        self.nests.iter().rev().copied().find(|n| n.bracket().is_some())
    }

    /// Ends operands that an infix operator of this precedence cannot be part of.
    fn unwind(&mut self, precedence: u8) {
        while let Some(Nest::Operand(p)) = self.nests.last()
            && *p > precedence
        {
            self.nests.pop();
        }
    }

    /// Ends operands and conditions up to the innermost bracket.
    fn unwind_to_bracket(&mut self) {
        while let Some(nest) = self.nests.last().copied()
            && nest.bracket().is_none()
        {
            if let Nest::If(at) = nest {
                self.mistake(at, "`if` without `else`", "this condition", |d| {
                    d.why("every element has a value, also where the condition is false")
                        .hint("write `x if condition else y`")
                });
            }
            self.nests.pop();
        }
    }

    /// A name, number, `None` or `...`.
    fn value(&mut self, at: usize) {
        if !self.operand {
            self.juxtaposed(at);
        }
        self.operand = false;
    }

    /// Two operands with nothing between them.
    fn juxtaposed(&mut self, at: usize) {
        let (left, right) = (self.text(at - 1), self.text(at));
        let is_function = match self.before(at) {
            Some(Token::Name(_)) if at < 2 || at - 1 == self.start || self.tokens[at - 2] != Token::Dot => {
                let name = &self.source[self.spans[at - 1].range()];
                Op::named(name).is_some() || DType::from_name(name).is_some()
            }
            _ => false,
        };
        let is_value = !matches!(self.before(at), Some(Token::RightParen | Token::RightBracket));
        if is_function {
            self.mistake(at, format!("`{left}` is called without brackets"), "its argument", |d| {
                d.hint(format!("write `{left}({right})`"))
            });
        } else {
            self.mistake(at, format!("an operator is missing before `{right}`"), "a second value", |d| {
                d.why("two values stand side by side").hint(if is_value {
                    format!("for a product write `{left} * {right}`")
                } else {
                    "for a product write `*`".to_owned()
                })
            });
        }
    }

    fn operator(&mut self, at: usize, symbol: Symbol) {
        let text = symbol.text;
        if self.operand {
            let Some((_, precedence)) = symbol.prefix else { return self.missing_left(at, symbol) };
            // `a + not b`: the operand of a tight operator cannot start with a loose one.
            let loose = symbol.is_word()
                && match self.before(at) {
                    Some(Token::Operator(Symbol { infix: Some((_, tighter, _)), .. })) if tighter > precedence => true,
                    Some(Token::Operator(Symbol { prefix: Some((_, tighter)), .. })) => tighter > precedence,
                    _ => false,
                };
            if loose {
                let outer = self.text(at - 1);
                self.mistake(at, format!("`{text}` binds less tightly than `{outer}` before it"), "here", |d| {
                    d.hint(format!("put it in brackets: `{outer} ({text} ...)`"))
                });
            }
            self.nests.push(Nest::Operand(precedence));
        } else if let Some((_, precedence, fix)) = symbol.infix {
            self.unwind(precedence);
            if fix == Fix::Right {
                self.nests.push(Nest::Operand(precedence));
            }
            self.operand = true;
        } else {
            // `a not in b` is reported at `in`.
            let is_in =
                matches!(self.tokens.get(at + 1), Some(Token::Foreign(row)) if FOREIGN[*row as usize].text == "in");
            if !is_in {
                let hint =
                    if symbol.is_word() { "for inequality write `x != y`" } else { "it takes one operand: `~x`" };
                self.mistake(at, format!("`{text}` does not stand between two values"), "here", |d| d.hint(hint));
            }
            self.operand = true;
        }
    }

    /// An infix operator where an operand has to come.
    fn missing_left(&mut self, at: usize, symbol: Symbol) {
        let text = symbol.text;
        match self.before(at) {
            Some(Token::Operator(before)) => {
                let adjacent = self.spans[at - 1].end == self.spans[at].start;
                let both = format!("{}{text}", before.text);
                let title = format!("a value is missing between `{}` and `{text}`", before.text);
                self.mistake(at, title, "expected a value before this", |d| match both.as_str() {
                    "**" if !adjacent => d.hint("a power is written `**`, without a space"),
                    "//" if !adjacent => d.hint("a floored quotient is written `//`, without a space"),
                    "<<" | ">>" if !adjacent => d.hint(format!("a shift is written `{both}`, without a space")),
                    _ => d,
                });
            }
            _ => {
                self.mistake(at, format!("a value is missing before `{text}`"), "this needs a value on its left", |d| d)
            }
        }
        self.operand = true;
    }

    fn open(&mut self, at: usize) {
        let is_paren = self.tokens[at] == Token::LeftParen;
        let nest = match (is_paren, self.operand) {
            (true, true) => Nest::Group(at),
            (false, false) => Nest::Index(at),
            (true, false) => {
                if !matches!(self.before(at), Some(Token::Name(_) | Token::BadNumber)) {
                    let left = self.text(at - 1);
                    self.mistake(at, "only a function can be called", "this opens a call", |d| {
                        d.why(format!("`{left}` before it ends a value")).hint("for a product write `*`")
                    });
                }
                Nest::Call(at)
            }
            (false, true) => {
                self.bad = true;
                let span = self.spans[at];
                self.report.add(|| {
                    Diagnostic::new(Code::NotAnExpression, "there are no lists here")
                        .at(span, "a list starts here")
                        .why("arrays come from outside, by name")
                        .hint("give the array as an input; for grouping write `(x + y) * z`")
                });
                Nest::List(at)
            }
        };
        self.nests.push(nest);
        self.operand = true;
    }

    fn close(&mut self, at: usize) {
        let is_paren = self.tokens[at] == Token::RightParen;
        self.unwind_to_bracket();
        let Some(nest) = self.nests.last().copied() else {
            self.bad = true;
            let (text, span) = (self.text(at), self.spans[at]);
            self.report.add(|| {
                Diagnostic::new(Code::Bracket, format!("`{text}` closes nothing"))
                    .at(span, "no bracket is open here")
                    .hint("delete it, or open a bracket before")
            });
            self.operand = false;
            return;
        };
        let opener = nest.bracket().unwrap_or(at);
        if is_paren != (self.tokens[opener] == Token::LeftParen) {
            self.bad = true;
            let (open, close) = (self.text(opener), self.text(at));
            let (span, opened) = (self.spans[at], self.spans[opener]);
            self.report.add(|| {
                Diagnostic::new(Code::Bracket, format!("`{close}` does not close `{open}`"))
                    .at(span, "closed here")
                    .and_at(opened, "opened here")
                    .hint("brackets close in reverse order")
            });
            // If it closes one further out, those within were forgotten.
            let closes = |nest: &Nest| {
                nest.bracket().is_some_and(|opener| is_paren == (self.tokens[opener] == Token::LeftParen))
            };
            if let Some(index) = self.nests.iter().rposition(closes) {
                self.nests.truncate(index + 1);
            }
        } else if self.operand {
            let may_end = matches!(
                (self.before(at), nest),
                (Some(Token::LeftParen), Nest::Group(_) | Nest::Call(_))
                    | (Some(Token::Comma), _)
                    | (Some(Token::Colon), Nest::Index(_))
                    | (_, Nest::List(_))
            );
            if !may_end {
                self.missing_value(at);
            }
        }
        self.nests.pop();
        self.operand = false;
    }

    /// An operand has to come but `at` ends what it would stand in.
    fn missing_value(&mut self, at: usize) {
        let Some(before) = self.before(at) else { return };
        match before {
            Token::LeftBracket => self.mistake(at - 1, "an index without items", "empty", |d| {
                d.hint("to take all of a dimension write `x[:]`, of all dimensions `x[...]`")
            }),
            // What stood before was reported already.
            Token::Foreign(_) => {}
            Token::Colon if !matches!(self.innermost(), Some(Nest::Index(_))) => {}
            _ => {
                let text = self.text(at - 1);
                let goes_on = matches!(self.tokens.get(at), Some(Token::Newline))
                    && self.tokens[at..].iter().any(|t| *t != Token::Newline);
                self.mistake(
                    at - 1,
                    format!("a value is missing after `{text}`"),
                    "this needs a value on its right",
                    |d| {
                        if goes_on {
                            d.hint("to go on in the next line, put the expression in round brackets")
                        } else {
                            d
                        }
                    },
                );
            }
        }
    }

    fn comma(&mut self, at: usize) {
        self.unwind_to_bracket();
        if self.operand && !(self.before(at) == Some(Token::Colon) && matches!(self.innermost(), Some(Nest::Index(_))))
        {
            match self.before(at) {
                None | Some(Token::LeftParen | Token::LeftBracket | Token::Comma) => {
                    self.mistake(at, "a value is missing before `,`", "nothing to separate here", |d| d);
                }
                _ => self.missing_value(at),
            }
        }
        self.operand = true;
    }

    fn colon(&mut self, at: usize) {
        self.unwind_to_bracket();
        match self.innermost() {
            Some(Nest::Index(_)) => {
                if self.operand && !matches!(self.before(at), Some(Token::LeftBracket | Token::Comma | Token::Colon)) {
                    self.missing_value(at);
                }
            }
            _ => self.mistake(at, "`:` outside of an index", "here", |d| {
                d.hint("a slice stands in square brackets, as in `x[1:-1]`; a condition is `x if c else y`")
            }),
        }
        self.operand = true;
    }

    fn dot(&mut self, at: usize) {
        let follows = matches!(self.tokens.get(at + 1), Some(Token::Name(_)));
        if self.operand {
            self.mistake(at, "a value is missing before `.`", "here", |d| {
                d.hint("a number starts with a digit: `0.5`")
            });
        } else if !follows {
            self.mistake(at, "a name is missing after `.`", "here", |d| d.hint("call a method: `x.sum()`"));
        }
        self.operand = false;
    }

    /// The name after a dot.
    fn attribute(&mut self, at: usize) {
        self.operand = false;
        let name = &self.source[self.spans[at].range()];
        // Without a value before the dot there is another mistake.
        let has_receiver = at >= self.start + 2
            && !matches!(
                self.tokens[at - 2],
                Token::Dot | Token::Operator(_) | Token::LeftParen | Token::LeftBracket | Token::Comma
            );
        if !has_receiver || self.tokens.get(at + 1) == Some(&Token::LeftParen) || name == "T" {
            return;
        }
        self.bad = true;
        let span = self.spans[at];
        let is_method = Op::named(name).is_some() || matches!(name, "astype" | "transpose");
        self.report.add(|| {
            let name = shown(name);
            let error = Diagnostic::new(Code::NotAnExpression, format!("arrays have no attribute `{name}`"));
            match name.as_str() {
                _ if is_method => error.at(span, "a method").hint(format!("call it: `.{name}()`")),
                "shape" | "size" | "ndim" | "dtype" => error
                    .at(span, "not known here")
                    .why("an expression says what to compute for any shape")
                    .hint("give the number as an input of its own"),
                "real" | "imag" => error.at(span, "unknown").why("complex numbers are not supported yet"),
                _ => error.at(span, "unknown").why(
                    "a dot is for methods, as in `x.sum(axis=0)`, and for `x.T`; nothing of the host can be reached",
                ),
            }
        });
    }

    /// `=` that assigns to nothing and names no argument.
    fn assign(&mut self, at: usize) {
        let in_call = matches!(self.innermost(), Some(Nest::Call(_)));
        let names_argument = in_call
            && matches!(self.before(at), Some(Token::Name(_)))
            && at >= 2
            && matches!(self.tokens[at - 2], Token::LeftParen | Token::Comma)
            && self.innermost().and_then(Nest::bracket).is_some_and(|open| open <= at - 2);
        if !names_argument {
            let adjacent = at > self.start && self.spans[at - 1].end == self.spans[at].start;
            let outside = self.innermost().is_none();
            match self.before(at) {
                Some(Token::Operator(op)) if adjacent && self.operand && at >= self.start + 2 => {
                    let (name, text) = (self.text(at - 2), op.text);
                    let title = if op.text.ends_with('=') {
                        format!("`{text}=` is no operator")
                    } else {
                        format!("`{text}=` cannot change a value")
                    };
                    self.mistake(at, title, "here", |d| match text {
                        "==" | "!=" | "<=" | ">=" => d.hint(format!("write `{text}`")),
                        _ => d.hint(format!("assign to a new name: `y = {name} {text} ...`")),
                    });
                }
                None => self.mistake(at, "a name is missing before `=`", "nothing to assign to", |d| {
                    d.hint("write `r = x + y`")
                }),
                Some(Token::RightBracket) if outside => {
                    self.mistake(at, "an array cannot be changed", "this assigns to elements", |d| {
                        d.hint("choose values with `where(condition, new, old)`")
                    });
                }
                Some(Token::Name(_))
                    if outside && self.tokens[self.start + 1..at] == [Token::Assign, self.tokens[at - 1]] =>
                {
                    let (first, second) = (self.text(self.start), self.text(at - 1));
                    self.mistake(at, "only one name can be assigned at a time", "here", |d| {
                        d.hint(format!("write `{second} = ...; {first} = {second}`"))
                    });
                }
                _ if outside && self.tokens[self.start..at].contains(&Token::Comma) => {
                    self.mistake(at, "only one name can be assigned at a time", "here", |d| {
                        d.hint("write `a = x; b = y`")
                    });
                }
                _ => self.mistake(at, "`=` inside an expression", "this would assign", |d| {
                    d.hint("to compare write `==`; to assign, start the statement with `name =`")
                }),
            }
        }
        self.operand = true;
    }

    fn statement_if(&mut self, at: usize) {
        self.bad = true;
        let span = self.spans[at];
        self.report.add(|| {
            Diagnostic::new(Code::NotAnExpression, "there is no `if` statement")
                .at(span, "a statement cannot start like this")
                .hint("choose values with `x if condition else y`")
        });
    }

    fn condition(&mut self, at: usize) {
        if self.operand {
            self.missing_value(at);
        }
        self.unwind(0);
        self.nests.push(Nest::If(at));
        self.operand = true;
    }

    fn otherwise(&mut self, at: usize) {
        if self.operand {
            self.missing_value(at);
        }
        while let Some(Nest::Operand(_)) = self.nests.last() {
            self.nests.pop();
        }
        if let Some(Nest::If(_)) = self.nests.last() {
            self.nests.pop();
        } else {
            self.mistake(at, "`else` without `if`", "here", |d| d.hint("write `x if condition else y`"));
        }
        self.nests.push(Nest::Operand(0));
        self.operand = true;
    }

    /// A spelling of another language; true if the rest of the statement can be read.
    fn foreign(&mut self, at: usize, row: u8) -> bool {
        self.bad = true;
        let foreign = &FOREIGN[row as usize];
        let span = self.spans[at];
        let is_formatted = foreign.text == "\""
            && at > self.start
            && matches!(self.tokens[at - 1], Token::Name(_))
            && self.spans[at - 1].end == span.start;
        self.report.add(|| {
            let what = if is_formatted { "there are no f-strings or other strings here" } else { foreign.what };
            Diagnostic::new(foreign.code, what).at(span, "not part of the language").hint(foreign.hint)
        });
        if foreign.role == Role::Infix {
            self.unwind(0);
            self.operand = true;
        }
        foreign.role != Role::Lost
    }

    /// The end of the statement, before token `at`.
    fn end(&mut self, at: usize) {
        // Only the outermost unclosed bracket matters: what it holds is all of the rest.
        if let Some(opener) = self.nests.iter().find_map(|n| n.bracket()) {
            self.bad = true;
            let (text, span) = (self.text(opener), self.spans[opener]);
            self.report.add(|| {
                Diagnostic::new(Code::Bracket, format!("`{text}` is never closed"))
                    .at(span, "opened here")
                    .why("inside brackets, newlines do not end a statement")
                    .hint(if text == "(" { "add `)`" } else { "add `]`" })
            });
            return;
        }
        if self.operand && self.before(at) != Some(Token::Comma) {
            self.missing_value(at);
        } else {
            self.unwind_to_bracket();
        }
    }
}
