//! Lines of C, indented by their blocks.

use std::fmt::Write;

/// Text under construction.
#[derive(Clone, Default, Debug)]
pub(super) struct Text {
    lines: String,
    depth: usize,
}

impl Text {
    /// A line.
    pub fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.lines.push('\n');
            return;
        }
        let _ = writeln!(self.lines, "{:indent$}{line}", "", indent = 4 * self.depth);
    }

    /// A line that opens a block, behind its head if it has one.
    pub fn open(&mut self, head: &str) {
        self.line(format!("{head} {{").trim_start());
        self.depth += 1;
    }

    /// Closes a block and opens another: `} else {`.
    pub fn reopen(&mut self, head: &str) {
        self.depth -= 1;
        self.open(&format!("}} {head}"));
    }

    /// Closes the innermost block.
    pub fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    /// Closes the innermost block, with this after the brace.
    pub fn close_with(&mut self, end: &str) {
        self.depth -= 1;
        self.line(&format!("}}{end}"));
    }

    /// All of another text, of depth zero, at the end.
    pub fn append(&mut self, other: Text) {
        self.lines.push_str(&other.lines);
    }

    /// The text.
    pub fn finish(self) -> String {
        debug_assert_eq!(self.depth, 0, "{}", self.lines);
        self.lines
    }
}
