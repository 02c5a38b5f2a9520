//! What numfuse says about bad input: a code, a title, where, why, and a way out.
//!
//! Every stage that looks at user input returns these; only `lang::render` draws them. Texts are pinned by the
//! corpus (`tests/corpus/error`), one file per code at least, so a new code needs a row in [`Code`] and a test.

use std::fmt;
use std::ops::Range;

/// A range of bytes in the source text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes `start..end`.
    pub const fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// As a range of `usize`.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal,)*) => {
        /// What kind of mistake it is; the number never changes its meaning.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Code {
            $($(#[doc = $doc])* $name,)*
        }
        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name,)*];
            /// The number as printed, such as `E0101`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }
        }
    };
}

codes! {
    /// A character that starts no token.
    BadCharacter = "E0101",
    /// A number that is written wrongly.
    BadNumber = "E0102",
    /// Tokens in an order that the grammar does not know.
    Syntax = "E0103",
    /// A bracket that is never closed or never opened.
    Bracket = "E0104",
    /// The text is longer or deeper than the limits allow.
    SourceLimit = "E0105",
    /// Host-language syntax that an array expression does not have (lambda, import, attribute access ...).
    NotAnExpression = "E0106",
    /// A name that is neither bound nor known.
    UnknownName = "E0201",
    /// A function or method that is not in the table.
    UnknownFunction = "E0202",
    /// Too few, too many or wrongly named arguments.
    Arguments = "E0203",
    /// An argument that has to be a constant (an axis, an index) and is not.
    NotConstant = "E0204",
    /// Assigning to a reserved or already bound name.
    Assignment = "E0205",
    /// An operand whose dtype the operation does not take.
    DTypeMismatch = "E0301",
    /// A literal that does not fit the dtype it meets.
    LiteralRange = "E0302",
    /// Integers to a negative integer power.
    NegativeIntPower = "E0303",
    /// Shapes that do not broadcast.
    Broadcast = "E0401",
    /// An axis that the operand does not have, or named twice.
    Axis = "E0402",
    /// An index that is out of range, or too many indices.
    Index = "E0403",
    /// `min` or `max` of no elements.
    EmptyReduction = "E0404",
    /// More than the supported number of dimensions.
    Rank = "E0405",
    /// A size that overflows, or a result larger than the limits allow.
    TooLarge = "E0406",
    /// Shapes that have no matrix product.
    MatrixProduct = "E0407",
    /// An input that was not given.
    MissingInput = "E0501",
    /// An input whose dtype or rank is not the declared one.
    InputMismatch = "E0502",
    /// An output array of the wrong shape or dtype, or one that overlaps itself.
    Output = "E0503",
    /// A file that is not a readable array.
    File = "E0504",
    /// Memory that the system did not give.
    OutOfMemory = "E0505",
    /// The graph or kernel is larger than the limits allow.
    GraphLimit = "E0506",
    /// The call was cancelled or ran past its deadline.
    Cancelled = "E0507",
    /// A device that is not there or cannot be used: no driver, one that is too old, no such device, a forked child.
    Device = "E0601",
    /// No compiler for a device.
    DeviceCompiler = "E0602",
    /// Arrays on another device than the one that is to use them.
    DeviceMismatch = "E0603",
    /// What a device cannot run.
    DeviceUnsupported = "E0604",
    /// A call that the driver of a device refuses, as it does all of them once the device is lost.
    DeviceFailed = "E0605",
    /// A broken invariant in numfuse itself: always a bug.
    Internal = "E0901",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message to the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The kind of mistake.
    pub code: Code,
    /// One line: what is wrong.
    pub title: String,
    /// Where in the source text, if it came from text.
    pub span: Option<Span>,
    /// What stands at the span, in a few words.
    pub label: String,
    /// Further places with their labels.
    pub related: Vec<(Span, String)>,
    /// Why it is a mistake.
    pub why: Option<String>,
    /// A way out.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A message with only a code and a title.
    pub fn new(code: Code, title: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            title: title.into(),
            span: None,
            label: String::new(),
            related: Vec::new(),
            why: None,
            hint: None,
        }
    }

    /// Sets the place, with what to say there.
    #[must_use]
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Diagnostic {
        self.span = Some(span);
        self.label = label.into();
        self
    }

    /// Sets the place if none is set yet.
    #[must_use]
    pub fn or_at(mut self, span: Span) -> Diagnostic {
        self.span.get_or_insert(span);
        self
    }

    /// Adds a further place.
    #[must_use]
    pub fn and_at(mut self, span: Span, label: impl Into<String>) -> Diagnostic {
        self.related.push((span, label.into()));
        self
    }

    /// Sets the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Diagnostic {
        self.why = Some(why.into());
        self
    }

    /// Sets the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.title)?;
        if let Some(why) = &self.why {
            write!(f, "; {why}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// The candidate nearest to `name` by edit distance, if it is near enough to be what was meant.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.chars().take(64).collect();
    let limit = (name.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (edit_distance(&name, c), c))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, c)| (*d, c.len()))
        .map(|(_, c)| c)
}

/// Edit distance in which a swap of two neighbours counts as one (optimal string alignment).
fn edit_distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(!a[i - 1].eq_ignore_ascii_case(&b[j - 1]));
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near() {
        assert_eq!(suggest("arctan_2", ["arctan", "arctan2", "sin"]), Some("arctan2"));
        assert_eq!(suggest("sqtr", ["sqrt", "square"]), Some("sqrt"));
        assert_eq!(suggest("banana", ["sqrt", "square"]), None);
    }

    #[test]
    fn codes_are_unique() {
        let mut seen: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), Code::ALL.len());
    }
}
