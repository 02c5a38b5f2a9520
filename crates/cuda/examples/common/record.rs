//! What a program found, as JSON: one object a line, for `benches/gpu` to read.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// A line to be.
pub struct Record(String);

impl Record {
    /// A line that says what it is about.
    pub fn new(kind: &str) -> Record {
        Record(String::from("{")).text("kind", kind)
    }

    /// With a text.
    pub fn text(mut self, key: &str, value: &str) -> Record {
        self.key(key);
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                '\n' => self.0.push_str("\\n"),
                c if (c as u32) < 0x20 => self.0.push(' '),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }

    /// With a number; JSON has none that is infinite.
    pub fn number(mut self, key: &str, value: f64) -> Record {
        self.key(key);
        let written = if value.is_finite() { write!(self.0, "{value}") } else { write!(self.0, "null") };
        debug_assert!(written.is_ok(), "a String takes everything");
        self
    }

    /// With a count.
    pub fn count(self, key: &str, value: usize) -> Record {
        // Counts of a benchmark are far below 2^53.
        self.number(key, value as f64)
    }

    /// Prints the line, and appends it to a file if there is one.
    pub fn write(mut self, file: Option<&Path>) -> Result<(), String> {
        self.0.push('}');
        println!("{}", self.0);
        let Some(file) = file else { return Ok(()) };
        self.0.push('\n');
        let open = OpenOptions::new().create(true).append(true).open(file);
        open.and_then(|mut f| f.write_all(self.0.as_bytes())).map_err(|e| format!("{}: {e}", file.display()))
    }

    fn key(&mut self, key: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }
}
