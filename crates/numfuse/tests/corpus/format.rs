//! The format of a corpus file: strict to read, and written back byte for byte except for its sections.
//!
//! ```text
//! # What it shows, in a sentence or two.
//! test types run
//! in x: i8[3] = [-128, 0, 127]
//! -x
//! --- types
//! i8[3]
//! --- run
//! i8[3] -128 0 -127
//! ```
//!
//! In this order: comment lines, `test` lines that name stages, `in` lines, the program (all lines up to the first
//! section), and one section for each stage, in the order of the `test` lines. Anything else is an error.

use super::inputs::InputLine;
use std::fmt::Write;

/// What a corpus file can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The syntax tree.
    Parse,
    /// The dtype and the shape of each result.
    Types,
    /// The graph as it was built.
    Graph,
    /// The graph after simplification.
    Simplify,
    /// The plan: which kernels run on which buffers.
    Plan,
    /// The kernels.
    Kernel,
    /// Cranelift's IR of each kernel.
    Clif,
    /// The results, on every back end.
    Run,
    /// The diagnostics as people see them.
    Error,
}

impl Stage {
    /// Every stage with its name in `test` lines and sections, and its folder in `tests/corpus`.
    pub const ALL: [(Stage, &'static str, &'static str); 9] = [
        (Stage::Parse, "parse", "parse"),
        (Stage::Types, "types", "types"),
        (Stage::Graph, "graph", "graph"),
        (Stage::Simplify, "simplify", "simplify"),
        (Stage::Plan, "plan", "fuse"),
        (Stage::Kernel, "kernel", "kernel"),
        (Stage::Clif, "clif", "kernel"),
        (Stage::Run, "run", "run"),
        (Stage::Error, "error", "error"),
    ];

    /// The stage of this name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.iter().find(|s| s.1 == name).map(|s| s.0)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        Stage::ALL.iter().find(|s| s.0 == self).map_or("", |s| s.1)
    }

    /// The folder of the files that are about this stage.
    pub fn folder(self) -> &'static str {
        Stage::ALL.iter().find(|s| s.0 == self).map_or("", |s| s.2)
    }
}

/// A corpus file.
#[derive(Debug)]
pub struct TestFile {
    /// All lines before the first section, as they stand.
    pub header: String,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// The inputs, in order.
    pub inputs: Vec<InputLine>,
    /// The program.
    pub program: String,
    /// What is expected of each stage; none where the file has no section yet.
    pub sections: Vec<(Stage, String)>,
}

/// The most lines that a file may have: one behaviour fits a screen.
pub const MAX_LINES: usize = 80;

/// Reads a file. Sections may be missing: [`TestFile::missing`] tells.
pub fn read(text: &str) -> Result<TestFile, String> {
    if text.lines().count() > MAX_LINES {
        return Err(format!("more than {MAX_LINES} lines: show less, or split it"));
    }
    let (header, sections) = match text.find("\n--- ") {
        Some(at) => (&text[..=at], &text[at + 1..]),
        None => (text, ""),
    };
    let mut lines = header.lines().peekable();
    if !lines.peek().is_some_and(|l| l.starts_with("# ")) {
        return Err("the first line has to be a comment that says what the file shows".into());
    }
    while lines.next_if(|l| l.starts_with('#')).is_some() {}
    let mut stages = Vec::new();
    while let Some(line) = lines.next_if(|l| l.starts_with("test ")) {
        for name in line["test ".len()..].split(' ') {
            let stage = Stage::named(name).ok_or_else(|| format!("unknown stage `{name}`"))?;
            if stages.contains(&stage) {
                return Err(format!("stage `{name}` is named twice"));
            }
            stages.push(stage);
        }
    }
    if stages.is_empty() {
        return Err("no `test` line after the comment".into());
    }
    let mut inputs = Vec::new();
    while let Some(line) = lines.next_if(|l| l.starts_with("in ")) {
        inputs.push(InputLine::read(&line["in ".len()..]).map_err(|e| format!("`{line}`: {e}"))?);
    }
    let program: Vec<&str> = lines.collect();
    if let Some(line) = program.iter().find(|l| l.starts_with("test ") || l.starts_with("in ")) {
        return Err(format!("`{line}` has to stand before the program"));
    }
    let program = program.join("\n");
    if program.trim().is_empty() && !stages.contains(&Stage::Error) {
        return Err("no program".into());
    }
    Ok(TestFile {
        header: header.trim_end().to_owned() + "\n",
        stages,
        inputs,
        program,
        sections: read_sections(sections)?,
    })
}

fn read_sections(text: &str) -> Result<Vec<(Stage, String)>, String> {
    let mut sections: Vec<(Stage, String)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("--- ") {
            Some(name) => {
                let stage = Stage::named(name).ok_or_else(|| format!("unknown section `{name}`"))?;
                sections.push((stage, String::new()));
            }
            None => {
                let Some((_, body)) = sections.last_mut() else { return Err(format!("`{line}` is in no section")) };
                body.push_str(line);
                body.push('\n');
            }
        }
    }
    Ok(sections)
}

impl TestFile {
    /// Why the sections are not those that the stages ask for, if they are not.
    pub fn missing(&self) -> Option<String> {
        let found: Vec<Stage> = self.sections.iter().map(|s| s.0).collect();
        (found != self.stages).then(|| {
            let names = |stages: &[Stage]| stages.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ");
            format!("the sections are [{}], the stages [{}]", names(&found), names(&self.stages))
        })
    }

    /// The file with these sections.
    pub fn with_sections(&self, sections: &[(Stage, String)]) -> String {
        let mut text = self.header.clone();
        for (stage, body) in sections {
            let _ = writeln!(text, "--- {}\n{}", stage.name(), body.trim_end());
        }
        text
    }
}

#[test]
fn strict_headers() {
    const GOOD: &str =
        "# Negation wraps.\ntest types run\nin x: i8[1] = [-128]\n-x\n--- types\ni8[1]\n--- run\ni8[1] -128\n";
    let file = read(GOOD).expect("a good file");
    assert_eq!(file.missing(), None);
    assert_eq!(file.with_sections(&file.sections), GOOD);
    assert_eq!(file.program, "-x");
    for (from, to, want) in [
        ("# Negation wraps.\n", "", "has to be a comment"),
        ("test types run\n", "", "no `test` line"),
        ("types run", "types ran", "unknown stage `ran`"),
        ("types run", "types types", "named twice"),
        ("in x", "input x", ""),
        ("i8[1] = ", "i9[1] = ", "unknown dtype"),
        ("-x", "-x\nin y: i8 = 1", "before the program"),
        ("\n-x", "", "no program"),
        ("--- run", "--- ran", "unknown section"),
        ("[-128]", "[-128, 0]", "2 values for 1"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD);
        match read(&text) {
            Err(error) => assert!(!want.is_empty() && error.contains(want), "{error}"),
            // A line that is no directive belongs to the program, which does not parse.
            Ok(file) => assert!(want.is_empty() && file.program.starts_with("input"), "{text}"),
        }
    }
    let cut = read(&GOOD.replace("--- types\ni8[1]\n", "")).expect("a section may be missing when it is read");
    assert!(cut.missing().is_some_and(|m| m == "the sections are [run], the stages [types, run]"));
}
