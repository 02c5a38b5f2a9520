//! Text to tokens.
//!
//! The lexer knows how things are spelled, not what they mean: operators come from the op table ([`Symbol`]), names
//! are numbered. A newline is a token outside brackets and nothing inside them. Spellings that other languages have and
//! this one has not ([`FOREIGN`]) become tokens too, so that the message can teach.
//!
//! Invariants: a bad character or number is reported here, once, and becomes [`Token::Bad`] or [`Token::BadNumber`]; time
//! and memory are linear in the text.

use crate::ast::NameId;
use crate::limits::{Report, SourceLimits};
use crate::number;
use logos::Logos;
use numfuse_core::diagnostic::{Code, Diagnostic, Span};
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Fix, Op};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What the lexer proper tells apart.
#[derive(Logos, Clone, Copy, PartialEq, Debug)]
#[logos(skip r"[ \t\r\x0c]+")]
enum Raw {
    #[regex(r"[\p{XID_Start}_][\p{XID_Continue}]*")]
    Word,
    #[regex(r"\.?[0-9]", number::scan)]
    Number(number::Number),
    #[regex(r"\*\*|//|<<|>>|<=|>=|==|!=|[-+*/%&|^~<>@]")]
    Operator,
    #[token("(")]
    LeftParen,
    #[token(")")]
    RightParen,
    #[token("[")]
    LeftBracket,
    #[token("]")]
    RightBracket,
    #[token(",")]
    Comma,
    #[token(":")]
    Colon,
    #[token(".")]
    Dot,
    #[token("...")]
    #[token("…")]
    Ellipsis,
    #[token("=")]
    Assign,
    #[token(";")]
    Semicolon,
    #[token("\n")]
    Newline,
    #[regex(r"#[^\n]*", allow_greedy = true)]
    Comment,
    #[regex(r"&&|\|\||!|:=|->|=>|<>|\{|\}")]
    Foreign,
    #[regex(r#"["']"#, string)]
    String,
}

/// A string, which has no meaning here: to its closing quote or the end of the line.
fn string(lexer: &mut logos::Lexer<'_, Raw>) {
    let quote = lexer.slice().as_bytes()[0];
    let rest = lexer.remainder().as_bytes();
    let end = rest.iter().position(|b| *b == quote || *b == b'\n').unwrap_or(rest.len());
    lexer.bump(end + usize::from(rest.get(end) == Some(&quote)));
}

/// A token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Token {
    Name(NameId),
    /// A number or truth value, and whether its dtype is weak.
    Literal(Literal, bool),
    Operator(Symbol),
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    Dot,
    Ellipsis,
    Assign,
    Semicolon,
    Newline,
    If,
    Else,
    None,
    /// An index into [`FOREIGN`].
    Foreign(u8),
    /// A number that was reported already.
    BadNumber,
    /// A character that was reported already.
    Bad,
}

/// An operator as written: what it means before an operand and what between two.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Symbol {
    pub text: &'static str,
    pub prefix: Option<(Op, u8)>,
    pub infix: Option<(Op, u8, Fix)>,
}

impl Symbol {
    /// Every operator of the op table, by its text as a number.
    fn all() -> &'static [(u32, Symbol)] {
        static ALL: LazyLock<Vec<(u32, Symbol)>> = LazyLock::new(|| {
            let mut all: Vec<(u32, Symbol)> = Vec::new();
            for op in Op::all() {
                let Some(operator) = op.def().operator else { continue };
                let found = all.iter().position(|(key, _)| *key == Symbol::key(operator.symbol));
                let index = found.unwrap_or_else(|| {
                    all.push((
                        Symbol::key(operator.symbol),
                        Symbol { text: operator.symbol, prefix: None, infix: None },
                    ));
                    all.len() - 1
                });
                let symbol = &mut all[index].1;
                match operator.fix {
                    Fix::Prefix => symbol.prefix = Some((op, operator.precedence)),
                    fix => symbol.infix = Some((op, operator.precedence, fix)),
                }
            }
            all
        });
        &ALL
    }

    /// Operators are at most four ASCII bytes long.
    fn key(text: &str) -> u32 {
        text.bytes().fold(0, |key, byte| key << 8 | u32::from(byte))
    }

    /// The operator written like this.
    fn named(text: &str) -> Option<Symbol> {
        if text.len() > 4 {
            return None;
        }
        let key = Symbol::key(text);
        Symbol::all().iter().find(|(k, _)| *k == key).map(|(_, symbol)| *symbol)
    }

    /// True for `and`, `or`, `not`.
    pub fn is_word(self) -> bool {
        self.text.starts_with(|c: char| c.is_ascii_alphabetic())
    }
}

/// The precedences of the table's infix operators, each with its grouping.
pub(crate) fn infix_levels() -> &'static [(u8, Fix)] {
    static LEVELS: LazyLock<Vec<(u8, Fix)>> = LazyLock::new(|| levels(|s| s.infix.map(|(_, p, fix)| (p, fix))));
    &LEVELS
}

/// The precedences of the table's prefix operators.
pub(crate) fn prefix_levels() -> &'static [u8] {
    static LEVELS: LazyLock<Vec<u8>> = LazyLock::new(|| levels(|s| s.prefix.map(|(_, p)| p)));
    &LEVELS
}

fn levels<T: PartialEq>(level: impl Fn(&Symbol) -> Option<T>) -> Vec<T> {
    let mut levels = Vec::new();
    for found in Symbol::all().iter().filter_map(|(_, symbol)| level(symbol)) {
        if !levels.contains(&found) {
            levels.push(found);
        }
    }
    levels
}

/// A spelling of another language, and what to say about it.
pub(crate) struct Foreign {
    pub text: &'static str,
    pub code: Code,
    pub what: &'static str,
    pub hint: &'static str,
    pub role: Role,
}

/// What a foreign spelling stands for, as far as the rest of the statement can still be checked.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Infix,
    Prefix,
    /// Nothing that follows makes sense.
    Lost,
}

impl Foreign {
    const fn word(text: &'static str, what: &'static str, hint: &'static str) -> Foreign {
        Foreign { text, code: Code::NotAnExpression, what, hint, role: Role::Lost }
    }

    const fn infix(text: &'static str, code: Code, what: &'static str, hint: &'static str) -> Foreign {
        Foreign { text, code, what, hint, role: Role::Infix }
    }
}

const ONLY_EXPRESSIONS: &str = "write one expression, with `name = value;` before it for parts that repeat";
const NO_LOOPS: &str = "write the operation on whole arrays: it applies to every element, and `sum`, `max`, ... fold";

/// What other languages have and this one has not. The last row is for strings.
pub(crate) static FOREIGN: &[Foreign] = &[
    Foreign::word("lambda", "functions cannot be defined here", ONLY_EXPRESSIONS),
    Foreign::word("def", "functions cannot be defined here", ONLY_EXPRESSIONS),
    Foreign::word("return", "there are no functions to return from", "the value of the last expression is the result"),
    Foreign::word("yield", "there are no generators here", ONLY_EXPRESSIONS),
    Foreign::word("import", "nothing can be imported", "functions such as `sqrt` are there without import"),
    Foreign::word("from", "nothing can be imported", "functions such as `sqrt` are there without import"),
    Foreign::word("class", "there are no classes here", ONLY_EXPRESSIONS),
    Foreign::word("for", "there are no loops or comprehensions here", NO_LOOPS),
    Foreign::word("while", "there are no loops here", NO_LOOPS),
    Foreign::word("break", "there are no loops here", NO_LOOPS),
    Foreign::word("continue", "there are no loops here", NO_LOOPS),
    Foreign::word("elif", "there is no `if` statement", "choose values with `x if condition else y`"),
    Foreign::word("in", "`in` does not work on arrays", "compare with each value: `(x == 1) | (x == 2)`"),
    Foreign::word("is", "`is` does not work on arrays", "compare with `==`, or use `isnan(x)`"),
    Foreign::word("await", "nothing here can wait", ONLY_EXPRESSIONS),
    Foreign::word("async", "nothing here can wait", ONLY_EXPRESSIONS),
    Foreign::word("assert", "assertions are not expressions", "compute `all(condition)` and check it outside"),
    Foreign::word("del", "names cannot be deleted", ONLY_EXPRESSIONS),
    Foreign::word("global", "all names are local to the text", ONLY_EXPRESSIONS),
    Foreign::word("nonlocal", "all names are local to the text", ONLY_EXPRESSIONS),
    Foreign::word("pass", "there are no empty statements", ONLY_EXPRESSIONS),
    Foreign::word("raise", "there are no exceptions here", ONLY_EXPRESSIONS),
    Foreign::word("try", "there are no exceptions here", ONLY_EXPRESSIONS),
    Foreign::word("except", "there are no exceptions here", ONLY_EXPRESSIONS),
    Foreign::word("finally", "there are no exceptions here", ONLY_EXPRESSIONS),
    Foreign::word("with", "there are no contexts here", ONLY_EXPRESSIONS),
    Foreign::word("{", "there are no sets or dictionaries here", "group with round brackets: `(x + y) * z`"),
    Foreign::word("}", "there are no sets or dictionaries here", "group with round brackets: `(x + y) * z`"),
    Foreign::word("->", "there are no annotations here", "to shift bits write `>>`, to compare `>`"),
    Foreign::word("=>", "`=>` is no operator", "to compare write `>=`"),
    Foreign::word(
        ":=",
        "`:=` does not work inside expressions",
        "assign in a statement before: `r = x + y; r / max(r)`",
    ),
    Foreign::infix("&&", Code::Syntax, "`&&` is no operator", "write `and`, which works element by element"),
    Foreign::infix("||", Code::Syntax, "`||` is no operator", "write `or`, which works element by element"),
    Foreign::infix("<>", Code::Syntax, "`<>` is no operator", "write `!=`"),
    Foreign {
        text: "!",
        code: Code::Syntax,
        what: "`!` is no operator",
        hint: "write `not x` for the opposite, `x != y` for inequality",
        role: Role::Prefix,
    },
    Foreign::word("\"", "there are no strings here", "names stand without quotes: `x + 1`"),
];

/// The row of [`FOREIGN`] for strings.
const STRING: u8 = FOREIGN.len() as u8 - 1;

/// The tokens of a text.
pub(crate) struct Tokens {
    pub tokens: Vec<Token>,
    /// Where each token stands.
    pub spans: Vec<Span>,
    /// Where each name stands first.
    pub names: Vec<Span>,
}

/// Splits a text into tokens; none if there are more than the limits allow.
pub(crate) fn lex(source: &str, limits: &SourceLimits, report: &mut Report) -> Option<Tokens> {
    refuse_controls(source, report);
    let start = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut names: BTreeMap<&str, NameId> = BTreeMap::new();
    let guess = (source.len() / 2).min(limits.tokens) + 1;
    let mut out = Tokens { tokens: Vec::with_capacity(guess), spans: Vec::with_capacity(guess), names: Vec::new() };
    let mut depth = 0usize;
    let mut lexer = Raw::lexer(&source[start..]);
    while let Some(raw) = lexer.next() {
        let range = lexer.span();
        let span = Span::new(range.start + start, range.end + start);
        let text = lexer.slice();
        let token = match raw {
            Ok(Raw::Comment) => continue,
            Ok(Raw::Newline) if depth > 0 => continue,
            Ok(Raw::Newline) => Token::Newline,
            Ok(Raw::Word) => word(text, span, &mut names, &mut out.names),
            Ok(Raw::Number(Ok((literal, weak)))) => Token::Literal(literal, weak),
            Ok(Raw::Number(Err(fault))) => {
                report.add(|| fault.explain(text, span));
                Token::BadNumber
            }
            Ok(Raw::Operator) => Symbol::named(text).map_or(Token::Bad, Token::Operator),
            Ok(Raw::LeftParen) => {
                depth += 1;
                Token::LeftParen
            }
            Ok(Raw::LeftBracket) => {
                depth += 1;
                Token::LeftBracket
            }
            Ok(Raw::RightParen) => {
                depth = depth.saturating_sub(1);
                Token::RightParen
            }
            Ok(Raw::RightBracket) => {
                depth = depth.saturating_sub(1);
                Token::RightBracket
            }
            Ok(Raw::Comma) => Token::Comma,
            Ok(Raw::Colon) => Token::Colon,
            Ok(Raw::Dot) => Token::Dot,
            Ok(Raw::Ellipsis) => Token::Ellipsis,
            Ok(Raw::Assign) => Token::Assign,
            Ok(Raw::Semicolon) => Token::Semicolon,
            Ok(Raw::Foreign) => foreign(text).map_or(Token::Bad, Token::Foreign),
            Ok(Raw::String) => Token::Foreign(STRING),
            Err(()) => {
                // Control characters have been reported already.
                for (at, c) in text.char_indices().filter(|(_, c)| !is_control(*c)) {
                    let start = span.start as usize + at;
                    report.add(|| bad_character(c, Span::new(start, start + c.len_utf8())));
                }
                Token::Bad
            }
        };
        if out.tokens.len() == limits.tokens {
            report.add(|| {
                Diagnostic::new(Code::SourceLimit, format!("more than {} tokens", limits.tokens))
                    .at(span, "the limit is reached here")
                    .hint("split the text, or raise `SourceLimits::tokens`")
            });
            return None;
        }
        out.tokens.push(token);
        out.spans.push(span);
    }
    Some(out)
}

fn word<'a>(text: &'a str, span: Span, known: &mut BTreeMap<&'a str, NameId>, names: &mut Vec<Span>) -> Token {
    match text {
        "if" => return Token::If,
        "else" => return Token::Else,
        "None" => return Token::None,
        "True" => return Token::Literal(Literal::bool(true), true),
        "False" => return Token::Literal(Literal::bool(false), true),
        _ => {}
    }
    if let Some(symbol) = Symbol::named(text) {
        return Token::Operator(symbol);
    }
    if let Some(foreign) = foreign(text) {
        return Token::Foreign(foreign);
    }
    let name = known.entry(text).or_insert_with(|| {
        names.push(span);
        NameId(names.len() as u32 - 1)
    });
    Token::Name(*name)
}

/// The row of [`FOREIGN`] for a spelling.
fn foreign(text: &str) -> Option<u8> {
    // The longest row is `continue`; names in formulas are mostly shorter than the shortest word.
    if text.len() > 8 {
        return None;
    }
    FOREIGN.iter().position(|f| f.text == text).map(|i| i as u8)
}

/// True for a character that prints as nothing or changes how others print: the text would not be what it looks like.
pub(crate) fn is_control(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' | '\x0c' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control(),
    }
}

/// Reports control characters anywhere, also in comments, except for a byte order mark at the start.
fn refuse_controls(source: &str, report: &mut Report) {
    // Plain text, which nearly all is, takes one pass over the bytes.
    if source.bytes().all(|b| (b' '..0x7f).contains(&b) || matches!(b, b'\t' | b'\n' | b'\r' | 0x0c)) {
        return;
    }
    for (start, c) in source.char_indices() {
        if is_control(c) && !(start == 0 && c == '\u{feff}') {
            let more = report.add(|| {
                let what = match c {
                    '\0' => "a NUL character",
                    '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
                        "a character that reorders text"
                    }
                    c if c.is_control() => "a control character",
                    _ => "an invisible character",
                };
                Diagnostic::new(Code::BadCharacter, format!("{what}, {}", c.escape_unicode()))
                    .at(Span::new(start, start + c.len_utf8()), "here")
                    .why("the text would not be what it looks like")
                    .hint("delete it")
            });
            if !more {
                return;
            }
        }
    }
}

fn bad_character(c: char, span: Span) -> Diagnostic {
    let instead = match c {
        '×' | '·' | '⋅' | '∗' => Some("`*`"),
        '÷' | '∕' | '⁄' => Some("`/`"),
        '−' | '–' | '—' => Some("`-`"),
        '≤' => Some("`<=`"),
        '≥' => Some("`>=`"),
        '≠' => Some("`!=`"),
        '∧' => Some("`and` or `&`"),
        '∨' => Some("`or` or `|`"),
        '¬' => Some("`not` or `~`"),
        '√' => Some("`sqrt(x)`"),
        '∑' => Some("`sum(x)`"),
        '∞' => Some("`inf`"),
        '²' => Some("`**2`"),
        '³' => Some("`**3`"),
        '?' => Some("`x if condition else y`"),
        '“' | '”' | '‘' | '’' | '`' => Some("names without quotes"),
        '（' | '）' | '，' | '；' | '：' | '＝' => Some("its ASCII form"),
        _ => None,
    };
    let title = match c {
        '`' => "a backquote means nothing here".to_owned(),
        '\\' => "a backslash means nothing here".to_owned(),
        c => format!("`{}` means nothing here", c.escape_debug()),
    };
    let diagnostic = Diagnostic::new(Code::BadCharacter, title).at(span, "unknown character");
    match (c, instead) {
        ('\\', _) => diagnostic.hint("to go on in the next line, put the expression in round brackets"),
        ('$', _) => diagnostic.hint("names stand without a sign: `x + 1`"),
        (_, Some(instead)) => diagnostic.hint(format!("write {instead}")),
        _ => diagnostic,
    }
}

/// What a piece of text is, for colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenClass {
    /// A name of a value.
    Name,
    /// A name in the op table, or of a dtype.
    Function,
    /// A number.
    Number,
    /// `True`, `False`, `None`, `if`, `else`, `and`, `or`, `not`.
    Keyword,
    /// `+`, `<=`, `=` ...
    Operator,
    /// A round or square bracket.
    Bracket,
    /// `,`, `;`, `:`, `.`
    Punctuation,
    /// From `#` to the end of the line.
    Comment,
    /// What the language does not have.
    Error,
}

/// The pieces of a text with their classes, in order, without what is between them. Never fails, for any text.
pub fn tokens(source: &str) -> impl Iterator<Item = (Span, TokenClass)> {
    Raw::lexer(source).spanned().filter_map(move |(raw, range)| {
        let text = &source[range.clone()];
        let class = match raw {
            Ok(Raw::Newline) => return None,
            Ok(Raw::Word) => match text {
                "if" | "else" | "None" | "True" | "False" => TokenClass::Keyword,
                _ if Symbol::named(text).is_some() => TokenClass::Keyword,
                _ if foreign(text).is_some() => TokenClass::Error,
                _ if Op::named(text).is_some() || crate::lower::dtype_named(text).is_some() => TokenClass::Function,
                _ => TokenClass::Name,
            },
            Ok(Raw::Number(Ok(_))) => TokenClass::Number,
            Ok(Raw::Operator | Raw::Assign) => TokenClass::Operator,
            Ok(Raw::LeftParen | Raw::RightParen | Raw::LeftBracket | Raw::RightBracket) => TokenClass::Bracket,
            Ok(Raw::Comma | Raw::Colon | Raw::Dot | Raw::Semicolon | Raw::Ellipsis) => TokenClass::Punctuation,
            Ok(Raw::Comment) => TokenClass::Comment,
            Ok(Raw::Number(Err(_)) | Raw::Foreign | Raw::String) | Err(()) => TokenClass::Error,
        };
        Some((Span::new(range.start, range.end), class))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_of_the_table_is_one_token() {
        for op in Op::all() {
            let Some(operator) = op.def().operator else { continue };
            assert!(operator.symbol.len() <= 4, "{}", operator.symbol);
            let mut report = Report::new(&SourceLimits::default());
            let Some(lexed) = lex(operator.symbol, &SourceLimits::default(), &mut report) else { panic!() };
            let [Token::Operator(symbol)] = lexed.tokens[..] else { panic!("{}", operator.symbol) };
            assert_eq!(symbol.text, operator.symbol);
            let known = [symbol.prefix.map(|(op, _)| op), symbol.infix.map(|(op, ..)| op)];
            assert!(known.contains(&Some(op)), "{op}");
        }
    }
}
