//! Reads the printed form of a graph back (see [`super::print`] for what it looks like), for tests and for graphs kept
//! as text. What is read is verified, so a graph that this returns is as good as one that was built.
//!
//! Invariants: printing what was read gives the text again; reading what was printed gives the same nodes, inputs,
//! outputs, guards and constraints. The dimensions are numbered anew, in the order of the text.

use super::{Graph, Guard, IndexItem, Input, Node, NodeId, NodeKind, verify::verify};
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::dtype::{DType, Kind};
use crate::kernel::Reducer;
use crate::literal::Literal;
use crate::ops::{Op, OpKind};
use crate::shape::{ConstraintKind, DimId, Shape, Slice};
use smallvec::SmallVec;
use std::str::FromStr;

type Result<T> = std::result::Result<T, Diagnostic>;

/// The graph of a text.
pub fn parse(text: &str) -> Result<Graph> {
    let mut reader = Reader { text, at: 0, graph: Graph::new(None) };
    reader.graph()?;
    let graph = reader.graph;
    match verify(&graph) {
        Ok(()) => Ok(graph),
        Err(why) => Err(Diagnostic::new(Code::Syntax, "the text is no valid graph").why(why)),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    graph: Graph,
}

impl<'a> Reader<'a> {
    fn graph(&mut self) -> Result<()> {
        self.expect("graph")?;
        self.expect("{")?;
        while self.peek_word().starts_with('n') && self.peek_word() != "nonempty" {
            self.node()?;
        }
        while self.eat("require") {
            let kind = self.constraint()?;
            self.graph.dims.require(kind, None);
        }
        while self.eat("guard") {
            let node = self.id()?;
            let start = self.at;
            let name = self.word()?;
            let code = Code::ALL.iter().find(|c| c.as_str() == name);
            let code = *code.ok_or_else(|| self.error(start, "an error code"))?;
            self.graph.guards.push(Guard { node, error: Diagnostic::new(code, "the guard of a graph failed") });
        }
        self.expect("return")?;
        if !self.eat("}") {
            self.graph.outputs = self.list::<_, 4>(Self::id)?.into_vec();
            self.expect("}")?;
        }
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.error(self.at, "the end of the text")) }
    }

    fn node(&mut self) -> Result<()> {
        let start = self.at;
        let name = self.id_name()?;
        self.expect("=")?;
        let kind_at = self.at;
        let word = self.word()?;
        // A literal's reading depends on the dtype, which comes after it.
        let mut literal = None;
        let mut input = None;
        let kind = match word {
            "input" => {
                input = Some(self.name()?);
                NodeKind::Input(self.graph.inputs.len() as u32)
            }
            "const" => {
                self.skip_space();
                let from = self.at;
                let end = self.text[from..].find(':').unwrap_or(0);
                self.at += end;
                literal = Some((from, &self.text[from..self.at]));
                NodeKind::Const(Literal::bool(false))
            }
            "size" => NodeKind::Size(self.bracketed(Self::dim)?),
            "cast" => NodeKind::Cast(self.id()?),
            "matmul" => {
                let left = self.id()?;
                self.expect(",")?;
                NodeKind::Matmul([left, self.id()?])
            }
            "transpose" => NodeKind::Transpose(self.id()?, self.bracketed(Self::number)?),
            "index" => NodeKind::Index(self.id()?, self.bracketed::<_, 4>(Self::index_item)?.into_vec().into()),
            _ => match (Op::named(word), Reducer::ALL.iter().find(|r| r.name() == word)) {
                (_, Some(reducer)) => {
                    let x = self.id()?;
                    self.expect("axes")?;
                    self.expect("=")?;
                    NodeKind::Reduce(*reducer, x, self.bracketed(Self::number)?)
                }
                (Some(op), None) if matches!(op.def().kind, OpKind::Elementwise(_)) => {
                    NodeKind::Apply(op, self.list(Self::id)?)
                }
                _ => return Err(self.error(kind_at, "what the node computes")),
            },
        };
        self.expect(":")?;
        let dtype_at = self.at;
        let dtype = DType::from_name(self.word()?).ok_or_else(|| self.error(dtype_at, "a dtype"))?;
        let shape: Shape = if self.peek() == Some('[') { self.bracketed(Self::dim)? } else { Shape::new() };
        let weak = self.eat("weak");
        let kind = match literal {
            Some((at, text)) => NodeKind::Const(
                read_literal(dtype, text.trim()).ok_or_else(|| self.error(at, "a literal of the dtype"))?,
            ),
            None => kind,
        };
        let known = self.graph.len() as u32;
        if name != known {
            return Err(self.error(start, &format!("`n{known}`")));
        }
        let node = self.graph.intern(Node { kind, dtype, weak, shape });
        if node.0 != known {
            return Err(self.error(kind_at, &format!("another computation than that of {node}")));
        }
        if let Some(name) = input {
            self.graph.inputs.push(Input { name, node });
        }
        Ok(())
    }

    fn constraint(&mut self) -> Result<ConstraintKind> {
        if self.eat("nonempty") {
            let dims = self.bracketed(Self::dim)?;
            self.expect("for")?;
            let at = self.at;
            let op = Op::named(self.word()?).ok_or_else(|| self.error(at, "a reduction"))?;
            return Ok(ConstraintKind::NonEmpty(dims, op.name()));
        }
        if self.eat("product") {
            let left = self.bracketed(Self::dim)?;
            return Ok(ConstraintKind::Product(left, self.bracketed(Self::dim)?));
        }
        let start = self.at;
        if self.peek().is_some_and(|c| c == '-' || c.is_ascii_digit()) {
            let index = self.number()?;
            if self.eat("in") {
                return Ok(ConstraintKind::InRange(self.dim()?, index));
            }
            self.at = start;
        }
        let left = self.dim()?;
        self.expect("==")?;
        let right = self.dim()?;
        Ok(if self.graph.dims.known(right) == Some(1) {
            ConstraintKind::One(left)
        } else {
            ConstraintKind::Equal(left, right)
        })
    }

    /// `n`, `3`, `n[1:-1]`, `n[1:][::2]`.
    fn dim(&mut self) -> Result<DimId> {
        let at = self.at;
        let mut dim = if self.peek().is_some_and(|c| c.is_ascii_digit()) {
            let size: i64 = self.number()?;
            self.graph.dims.fixed(size as u64)
        } else {
            // An unknown size without a name is printed as `?0`.
            let mark = if self.eat("?") { "?" } else { "" };
            let name = self.word()?;
            if name.is_empty() {
                return Err(self.error(at, "a size"));
            }
            self.graph.dims.named(&format!("{mark}{name}"))
        };
        while self.eat("[") {
            let at = self.at;
            let IndexItem::Slice(slice) = self.index_item()? else { return Err(self.error(at, "a slice")) };
            self.expect("]")?;
            dim = self.graph.dims.sliced(dim, slice);
        }
        Ok(dim)
    }

    fn index_item(&mut self) -> Result<IndexItem> {
        if self.eat("None") {
            return Ok(IndexItem::NewAxis);
        }
        let start = self.optional_number()?;
        if !self.eat(":") {
            return start.map(IndexItem::At).ok_or_else(|| self.error(self.at, "an index"));
        }
        let stop = self.optional_number()?;
        let at = self.at;
        let step = if self.eat(":") { self.optional_number()?.unwrap_or(1) } else { 1 };
        if step == 0 { Err(self.error(at, "a step")) } else { Ok(IndexItem::Slice(Slice { start, stop, step })) }
    }

    fn optional_number(&mut self) -> Result<Option<i64>> {
        if self.peek().is_some_and(|c| c == '-' || c.is_ascii_digit()) { self.number().map(Some) } else { Ok(None) }
    }

    fn number<T: FromStr>(&mut self) -> Result<T> {
        self.skip_space();
        let start = self.at;
        let rest = &self.text[start..];
        let end = rest.char_indices().find(|(i, c)| !(c.is_ascii_digit() || *i == 0 && *c == '-'));
        self.at += end.map_or(rest.len(), |(i, _)| i);
        self.text[start..self.at].parse().map_err(|_| self.error(start, "a number that fits"))
    }

    /// The id of a node that stands above.
    fn id(&mut self) -> Result<NodeId> {
        let start = self.at;
        let id = self.id_name()?;
        if (id as usize) < self.graph.len() {
            Ok(NodeId(id))
        } else {
            Err(self.error(start, "a node that stands above"))
        }
    }

    fn id_name(&mut self) -> Result<u32> {
        let start = self.at;
        let number = self.word()?.strip_prefix('n').and_then(|n| n.parse().ok());
        number.ok_or_else(|| self.error(start, "a node such as `n0`"))
    }

    /// A name: an identifier, or a string in Rust's notation.
    fn name(&mut self) -> Result<String> {
        if self.peek() != Some('"') {
            return self.word().map(str::to_owned);
        }
        let start = self.at;
        let mut name = String::new();
        let mut chars = self.text[start + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + 1 + i + 1;
                    return Ok(name);
                }
                '\\' => {
                    let c = match chars.next().map(|(_, c)| c) {
                        Some('n') => Some('\n'),
                        Some('r') => Some('\r'),
                        Some('t') => Some('\t'),
                        Some('0') => Some('\0'),
                        Some('u') => {
                            let hex: String = chars
                                .by_ref()
                                .map(|(_, c)| c)
                                .take_while(|c| *c != '}')
                                .filter(|c| *c != '{')
                                .collect();
                            u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
                        }
                        other => other,
                    };
                    name.push(c.ok_or_else(|| self.error(start, "an escape"))?);
                }
                c => name.push(c),
            }
        }
        Err(self.error(start, "a closing quote"))
    }

    fn bracketed<T, const N: usize>(&mut self, item: fn(&mut Self) -> Result<T>) -> Result<SmallVec<[T; N]>> {
        self.expect("[")?;
        if self.eat("]") {
            return Ok(SmallVec::new());
        }
        let items = self.list(item)?;
        self.expect("]")?;
        Ok(items)
    }

    fn list<T, const N: usize>(&mut self, item: fn(&mut Self) -> Result<T>) -> Result<SmallVec<[T; N]>> {
        let mut items = SmallVec::new();
        loop {
            items.push(item(self)?);
            if !self.eat(",") {
                return Ok(items);
            }
        }
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { Err(self.error(self.at, &format!("`{token}`"))) }
    }

    /// Skips a token if it comes next; a word has to end where the token does.
    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let is_word = token.starts_with(|c: char| c.is_alphabetic());
        let found = if is_word { self.peek_word() == token } else { self.text[self.at..].starts_with(token) };
        if found {
            self.at += token.len();
        }
        found
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.text[self.at..].chars().next()
    }

    fn word(&mut self) -> Result<&'a str> {
        let word = self.peek_word();
        if word.is_empty() {
            return Err(self.error(self.at, "a word"));
        }
        self.at += word.len();
        Ok(word)
    }

    fn peek_word(&mut self) -> &'a str {
        self.skip_space();
        let text: &'a str = self.text;
        let rest = &text[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        &rest[..end]
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn error(&self, at: usize, expected: &str) -> Diagnostic {
        let rest = self.text[at..].trim_start();
        let start = self.text.len() - rest.len();
        let found = rest.split_whitespace().next().unwrap_or("");
        let shown = if found.is_empty() { "the end" } else { found };
        Diagnostic::new(Code::Syntax, format!("expected {expected}, found `{shown}`"))
            .at(Span::new(start, start + found.len()), "here")
    }
}

/// A literal as it is printed; `nan(0x...)` gives the bits of a NaN.
fn read_literal(dtype: DType, text: &str) -> Option<Literal> {
    let literal = match dtype.kind() {
        Kind::Bool => Literal::bool(match text {
            "True" => true,
            "False" => false,
            _ => return None,
        }),
        Kind::Uint => Literal::u64(text.parse().ok()?),
        Kind::Int => Literal::i64(text.parse().ok()?),
        Kind::Float => match text.strip_prefix("nan(0x").and_then(|t| t.strip_suffix(')')) {
            Some(bits) => Literal::from_bits(dtype, u64::from_str_radix(bits, 16).ok()?),
            None if dtype == DType::F32 => Literal::f32(text.parse().ok()?),
            None => Literal::f64(text.parse().ok()?),
        },
    };
    let read = literal.cast(dtype);
    (dtype.is_float() || read.to_string() == text).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "graph {
  n0 = input a: f64[n, m]
  n1 = const 2: i64 weak
  n2 = cast n1: f64 weak
  n3 = multiply n2, n0: f64[n, m]
  n4 = sum n3 axes=[0, 1]: f64
  n5 = index n0 [1:-1, None, 3]: f64[n[1:-1], 1]
  n6 = transpose n0 [1, 0]: f64[m, n]
  n7 = add n0, n6: f64[n, m]
  n8 = const nan(0x7ff8000000000001): f64
  n9 = input \"two words\": bool
  n10 = size [n, m]: i64 weak
  n11 = index n5 [::2, :]: f64[n[1:-1][::2], 1]
  n12 = input b: f64[k, 2]
  n13 = matmul n0, n12: f64[n, 2]
  require product [n, m] [k, 2]
  require 3 in m
  require n == m
  require nonempty [n, m] for min
  guard n9 E0303
  return n4, n7
}";

    #[test]
    fn text_round_trips() {
        let graph = parse(TEXT).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(graph.to_string(), TEXT);
        assert_eq!(graph.inputs()[1].name, "two words");
    }

    #[test]
    fn mistakes_are_told() {
        for (from, to, want) in [
            ("multiply n2, n0", "multiply n1, n0", "an operand is i64"),
            ("multiply n2, n0", "multiply n2, n9", "a node that stands above"),
            ("multiply n2, n0", "multply n2, n0", "what the node computes"),
            ("matmul n0, n12: f64[n, 2]", "matmul n0, n12: f64[m, 2]", "the wrong dimensions"),
            ("matmul n0, n12: f64[n, 2]", "matmul n12, n0: f64[k, m]", "sums along"),
            ("require product [n, m] [k, 2]", "", "sums along"),
            ("[1:-1, None, 3]", "[1:-1, 3]", "more dimensions than items"),
            ("[1:-1, None, 3]", "[1:-1, None]", "1 items for 2 dimensions"),
            ("axes=[0, 1]: f64", "axes=[1, 0]: f64", "axes [1, 0]"),
            ("axes=[0, 1]: f64", "axes=[0]: f64", "the wrong dimensions are left"),
            ("transpose n0 [1, 0]", "transpose n0 [1, 1]", "no permutation"),
            ("  require n == m\n", "", "is wanted"),
            ("guard n9", "guard n4", "no bool scalar"),
            ("return n4, n7", "return n4, n70", "a node that stands above"),
            ("n1 = const 2: i64 weak", "n1 = const 2: i32 weak", "a weak i32"),
            ("n1 = const 2: i64", "n1 = const 2.5: i64", "a literal of the dtype"),
            ("n2 = cast n1: f64 weak", "n2 = cast n1: i64 weak", "changes nothing"),
            ("n8 = const nan(0x7ff8000000000001): f64", "n8 = multiply n2, n0: f64[n, m]", "another computation"),
            ("input \"two words\"", "input a", "two inputs are called `a`"),
            ("n9 = ", "n10 = ", "expected `n9`"),
            ("m]\n  n1", "n]\n  n1", "the wrong dimensions"),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT, "{from}");
            let error = parse(&text).map(|g| g.to_string()).expect_err(to).to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
        for cut in (0..TEXT.len()).filter(|i| TEXT.is_char_boundary(*i)) {
            assert!(parse(&TEXT[..cut]).is_err(), "{cut}");
        }
    }
}
