//! The one error type of the facade: what went wrong, and the text that it is about.
//!
//! `Display` is one line for each diagnostic, fit for logs; [`Error::report`] draws the text with carets, fit for people.

use numfuse_core::diagnostic::{Code, Diagnostic};
use std::fmt;
use std::sync::Arc;

/// Short for a result with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, as one or more diagnostics.
///
/// ```
/// let error = numfuse::evaluate("sqtr(2)", &numfuse::vars! {}).unwrap_err();
/// assert_eq!(error.code().as_str(), "E0202");
/// assert!(error.report(false).contains("sqrt"));
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    /// At least one.
    diagnostics: Vec<Diagnostic>,
    source: Option<Arc<str>>,
    /// What `report` calls the text.
    name: String,
}

impl Error {
    /// An error without a place in a text.
    pub fn new(code: Code, title: impl Into<String>) -> Error {
        Error::from(Diagnostic::new(code, title))
    }

    /// An error about a text.
    pub fn in_text(diagnostics: Vec<Diagnostic>, source: impl Into<Arc<str>>) -> Error {
        let mut error = Error::from_all(diagnostics);
        error.0.source = Some(source.into());
        error
    }

    /// The code of the first diagnostic.
    pub fn code(&self) -> Code {
        self.0.diagnostics[0].code
    }

    /// What is wrong, in the order in which it was found; never empty.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.diagnostics
    }

    /// The text that the spans of the diagnostics refer to.
    pub fn source_text(&self) -> Option<&str> {
        self.0.source.as_deref()
    }

    /// The diagnostics drawn in the text, with carets; in colour if asked. Ends with a line feed.
    pub fn report(&self, color: bool) -> String {
        let source = self.0.source.as_deref().unwrap_or("");
        numfuse_lang::render(source, &self.0.name, &self.0.diagnostics, color)
    }

    /// Adds the text to an error that has none.
    #[must_use]
    pub(crate) fn with_text(mut self, source: Option<&Arc<str>>) -> Error {
        if self.0.source.is_none() {
            self.0.source = source.cloned();
        }
        self
    }

    fn from_all(mut diagnostics: Vec<Diagnostic>) -> Error {
        if diagnostics.is_empty() {
            diagnostics.push(Diagnostic::new(Code::Internal, "a stage failed without saying why"));
        }
        Error(Box::new(Inner { diagnostics, source: None, name: "expression".to_owned() }))
    }
}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Error {
        Error::from_all(vec![diagnostic])
    }
}

impl From<Vec<Diagnostic>> for Error {
    fn from(diagnostics: Vec<Diagnostic>) -> Error {
        Error::from_all(diagnostics)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.diagnostics.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", Escaped(&diagnostic.to_string()))?;
        }
        Ok(())
    }
}

/// As `Display`, so that `unwrap` and a `main` that returns the error show the whole message.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// What the CPU back end says, as a user's error.
pub(crate) fn cpu_error(error: numfuse_cpu::Error) -> Error {
    use numfuse_cpu::Error as Cpu;
    match error {
        Cpu::OutOfMemory { bytes } => Diagnostic::new(Code::OutOfMemory, format!("no memory for {bytes} bytes"))
            .hint("`Limits` bounds what an evaluation may take; `explain` shows its temporaries"),
        Cpu::Cancelled => Diagnostic::new(Code::Cancelled, "the evaluation was cancelled"),
        error => Diagnostic::new(Code::Internal, error.to_string()),
    }
    .into()
}

/// What the CUDA back end says, as a user's error.
#[cold]
pub(crate) fn cuda_error(error: numfuse_cuda::Error) -> Error {
    use numfuse_cuda::Error as Cuda;
    let new = |code, title: &str| Diagnostic::new(code, title);
    match error {
        Cuda::NoDriver(reason) => new(Code::Device, "there is no CUDA on this machine")
            .why(format!("the NVIDIA driver library cannot be loaded: {reason}"))
            .hint("install the NVIDIA driver, or use the CPU"),
        Cuda::DriverTooOld(reason) => new(Code::Device, "the NVIDIA driver is too old")
            .why(reason)
            .hint("`nvidia-smi` tells the version of the driver; https://www.nvidia.com/drivers has newer ones"),
        Cuda::NoDevice { index, count } => {
            let error = new(Code::Device, &format!("there is no device cuda:{index}"));
            match count {
                0 => {
                    error.why("this machine has no CUDA device").hint("is `CUDA_VISIBLE_DEVICES` set? See `nvidia-smi`")
                }
                1 => error.why("this machine has one CUDA device").hint("it is cuda:0"),
                _ => error
                    .why(format!("this machine has {count} CUDA devices"))
                    .hint(format!("they are cuda:0 to cuda:{}", count - 1)),
            }
        }
        Cuda::Forked => new(Code::Device, "CUDA does not work in a forked child of a process that uses it")
            .hint("start the child anew; in Python, the start method \"spawn\" of multiprocessing does"),
        // What it says has the way out.
        Cuda::NoCompiler(reason) => new(Code::DeviceCompiler, "there is no compiler for CUDA kernels").why(reason),
        Cuda::OutOfMemory { asked, free, total } => {
            new(Code::OutOfMemory, &format!("no memory for {asked} bytes on the device"))
                .why(format!("{free} of its {total} bytes are free"))
                .hint("let go of other arrays, or give host arrays, which are computed a part at a time")
        }
        Cuda::HostMemory { asked } => new(Code::OutOfMemory, &format!("no memory for {asked} bytes on the host"))
            .why("arrays of the host go through memory of the host on their way to the device")
            .hint("let go of other arrays, or have the arrays on the device: `to_device`"),
        Cuda::Unsupported(what) => new(Code::DeviceUnsupported, "the device cannot run this expression")
            .why(what)
            .hint("an engine without a device can"),
        Cuda::Driver { call, reason } => new(Code::DeviceFailed, &format!("the CUDA driver refuses {call}"))
            .why(reason)
            .hint("if every call fails from now on, the device is lost: start the process anew"),
        error => new(Code::Internal, &error.to_string()),
    }
    .into()
}

/// Text with control characters written as escapes: names and texts of strangers do not reach a terminal raw.
pub(crate) struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_per_diagnostic() {
        let error = Error::from(vec![
            Diagnostic::new(Code::UnknownName, "no `a\u{1b}[31m`").why("it is\nnot bound"),
            Diagnostic::new(Code::Axis, "axis 3"),
        ]);
        assert_eq!(error.to_string(), "E0201: no `a\\u{1b}[31m`; it is\\nnot bound\nE0402: axis 3");
        assert_eq!(error.code(), Code::UnknownName);
    }

    #[test]
    fn memory_that_is_not_there_is_told_by_its_size() {
        use numfuse_cuda::Error as Cuda;
        for (error, size) in [
            (Cuda::HostMemory { asked: 12_345 }, "12345 bytes on the host"),
            (Cuda::OutOfMemory { asked: 678, free: 5, total: 9 }, "678 bytes on the device"),
        ] {
            let error = cuda_error(error);
            assert!(error.code() == Code::OutOfMemory && error.to_string().contains(size), "{error}");
        }
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert!(Error::from(Vec::new()).diagnostics().len() == 1);
    }
}
