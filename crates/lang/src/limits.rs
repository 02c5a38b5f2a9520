//! How much text is looked at, how deeply it may nest, and how many mistakes are reported.

use numfuse_core::diagnostic::Diagnostic;

/// Bounds on the work that a text can cause. All of them are checked before the work is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceLimits {
    /// Bytes of text.
    pub bytes: usize,
    /// Tokens.
    pub tokens: usize,
    /// What stands inside what: brackets, prefix operators, exponents of exponents, `else` after `else`.
    pub depth: usize,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Mistakes that are reported; further ones are not looked for.
    pub errors: usize,
}

impl Default for SourceLimits {
    /// Generous: a megabyte, and a sum of 100,000 terms.
    fn default() -> SourceLimits {
        SourceLimits { bytes: 1 << 20, tokens: 1 << 18, depth: 256, nodes: 1 << 20, errors: 20 }
    }
}

impl SourceLimits {
    /// For text from strangers: 64 KiB, 10,000 tokens.
    pub fn untrusted() -> SourceLimits {
        SourceLimits { bytes: 64 << 10, tokens: 10_000, depth: 64, nodes: 10_000, errors: 20 }
    }
}

/// The mistakes found so far, up to the limit.
pub(crate) struct Report {
    pub diagnostics: Vec<Diagnostic>,
    limit: usize,
}

impl Report {
    pub fn new(limits: &SourceLimits) -> Report {
        Report { diagnostics: Vec::new(), limit: limits.errors.max(1) }
    }

    /// Adds a mistake, made only if there is room for it; false if there is no room for more.
    pub fn add(&mut self, diagnostic: impl FnOnce() -> Diagnostic) -> bool {
        if !self.is_full() {
            self.diagnostics.push(diagnostic());
        }
        !self.is_full()
    }

    pub fn is_full(&self) -> bool {
        self.diagnostics.len() >= self.limit
    }
}

/// A piece of the user's text as messages show it: short, and without characters that would disturb a terminal.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 40;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}
