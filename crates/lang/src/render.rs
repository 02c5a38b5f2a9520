//! Messages to text with the source and carets, drawn by ariadne.
//!
//! Only the lines that a message is about are given to ariadne, cut to a window if they are long, with invisible and
//! control characters spelled out: a text of a megabyte in one line, or one that would recolour the terminal, prints
//! as a few plain lines.

use crate::token::is_control;
use ariadne::{Config, IndexType, Label, Report, ReportKind, Source};
use numfuse_core::diagnostic::{Diagnostic, Span};
use std::fmt::Write;
use std::ops::Range;

/// Lines longer than this many bytes are cut around the labels.
const LONG_LINE: usize = 240;
/// How many bytes stay on both sides of a label of a cut line.
const MARGIN: usize = 60;

/// The messages as they are shown to people, one after the other. `name` stands for the text, as a file name would.
///
/// ```
/// let (_, diagnostics) = numfuse_lang::parse("a && b", &Default::default());
/// let text = numfuse_lang::render("a && b", "expr", &diagnostics, false);
/// assert!(text.starts_with("[E0103] Error: `&&` is no operator\n   ╭─[ expr:1:3 ]"));
/// ```
pub fn render(source: &str, name: &str, diagnostics: &[Diagnostic], color: bool) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        render_one(source, name, diagnostic, color, &mut out);
    }
    out
}

fn render_one(source: &str, name: &str, diagnostic: &Diagnostic, color: bool, out: &mut String) {
    let Some(span) = diagnostic.span else {
        // Not about a place: the same parts in plain lines.
        let Diagnostic { code, title, why, hint, .. } = diagnostic;
        let _ = writeln!(out, "[{code}] Error: {title}");
        for (word, text) in [("Note", why), ("Help", hint)] {
            if let Some(text) = text {
                let _ = writeln!(out, "   {word}: {text}");
            }
        }
        return;
    };
    let labels: Vec<(Span, &str)> = std::iter::once((span, diagnostic.label.as_str()))
        .chain(diagnostic.related.iter().map(|(span, label)| (*span, label.as_str())))
        .map(|(span, label)| (clamp(span, source), label))
        .collect();
    let excerpt = Excerpt::new(source, &labels);
    let place = |span: Span| (name, excerpt.range(span));
    let config = Config::default().with_color(color).with_index_type(IndexType::Byte);
    let mut report = Report::build(ReportKind::Error, place(labels[0].0))
        .with_config(config)
        .with_code(diagnostic.code)
        .with_message(&diagnostic.title);
    for (i, (span, label)) in labels.iter().enumerate() {
        let mark = Label::new(place(*span)).with_color(if i == 0 { ariadne::Color::Red } else { ariadne::Color::Blue });
        // Right to left, so that the lines that lead to the texts do not cross.
        let mark = mark.with_order(-(span.start as i32));
        report = report.with_label(if label.is_empty() { mark } else { mark.with_message(label) });
    }
    if let Some(why) = &diagnostic.why {
        report = report.with_note(why);
    }
    if let Some(hint) = &diagnostic.hint {
        report = report.with_help(hint);
    }
    let mut bytes = Vec::new();
    let text = Source::from(excerpt.text.as_str());
    // Writing to memory does not fail.
    let _ = report.finish().write((name, text), &mut bytes);
    for line in String::from_utf8_lossy(&bytes).lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A span within the text, on character boundaries.
fn clamp(span: Span, source: &str) -> Span {
    let floor = |at: u32| source.floor_char_boundary((at as usize).min(source.len()));
    Span::new(floor(span.start), floor(span.end.max(span.start)))
}

/// The lines of a text that a message is about, fit to print.
struct Excerpt {
    /// The lines before are empty, so that the lines have their numbers.
    text: String,
    /// Where positions of the source are in `text`, ascending: source offset, text offset.
    map: Vec<(usize, usize)>,
}

impl Excerpt {
    fn new(source: &str, labels: &[(Span, &str)]) -> Excerpt {
        let first = labels.iter().map(|(s, _)| s.start as usize).min().unwrap_or(0);
        let last = labels.iter().map(|(s, _)| s.end as usize).max().unwrap_or(0);
        let start = source[..first].rfind('\n').map_or(0, |i| i + 1);
        let end = source[last..].find('\n').map_or(source.len(), |i| last + i);
        let before = source[..start].bytes().filter(|b| *b == b'\n').count();
        let mut excerpt = Excerpt { text: "\n".repeat(before), map: Vec::new() };
        let mut at = start;
        for text in source[start..end].split('\n') {
            excerpt.push_line(text, at, labels);
            at += text.len() + 1;
        }
        excerpt.map.push((end, excerpt.text.len()));
        excerpt
    }

    /// Adds a line that starts at an offset of the source.
    fn push_line(&mut self, text: &str, start: usize, labels: &[(Span, &str)]) {
        if start > 0 && !self.map.is_empty() {
            self.text.push('\n');
        }
        self.map.push((start, self.text.len()));
        let mut windows: Vec<Range<usize>> = Vec::new();
        if text.len() <= LONG_LINE {
            windows.push(0..text.len());
        } else {
            // Around both ends of each label.
            let ends = labels.iter().flat_map(|(s, _)| [s.start as usize, s.end as usize]);
            let mut near: Vec<usize> =
                ends.filter_map(|at| at.checked_sub(start)).filter(|at| *at <= text.len()).collect();
            near.sort_unstable();
            for at in near {
                let window = text.floor_char_boundary(at.saturating_sub(MARGIN))
                    ..text.ceil_char_boundary((at + MARGIN).min(text.len()));
                match windows.last_mut() {
                    Some(last) if last.end >= window.start => last.end = window.end,
                    _ => windows.push(window),
                }
            }
        }
        let mut shown = 0;
        for window in &windows {
            if window.start > shown {
                self.push_gap(start + shown);
            }
            self.push_text(&text[window.clone()], start + window.start);
            shown = window.end;
        }
        if shown < text.len() {
            self.push_gap(start + shown);
        }
    }

    fn push_gap(&mut self, at: usize) {
        self.map.push((at, self.text.len()));
        self.text.push('…');
    }

    fn push_text(&mut self, text: &str, start: usize) {
        self.map.push((start, self.text.len()));
        for (i, c) in text.char_indices() {
            if is_control(c) || c == '\r' || c == '\x0c' {
                self.map.push((start + i, self.text.len()));
                if c != '\r' {
                    self.text.extend(c.escape_unicode());
                }
                self.map.push((start + i + c.len_utf8(), self.text.len()));
            } else {
                self.text.push(c);
            }
        }
    }

    fn offset(&self, at: usize) -> usize {
        let next = self.map.partition_point(|(from, _)| *from <= at);
        let Some((from, to)) = next.checked_sub(1).and_then(|i| self.map.get(i)).copied() else { return 0 };
        // Within a gap or an escape every position is at its start.
        let limit = self.map.get(next).map_or(self.text.len(), |(_, to)| *to);
        self.text.floor_char_boundary((to + (at - from)).min(limit))
    }

    fn range(&self, span: Span) -> Range<usize> {
        let start = self.offset(span.start as usize);
        start..self.offset(span.end as usize).max(start)
    }
}
