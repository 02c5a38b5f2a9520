//! NVIDIA's compiler and disassembler for tests, from their Python wheels: neither a GPU nor a CUDA toolkit is needed.
//!
//! The wheels (95 MB) are fetched once per target folder, by `python3 -m pip`. Where they cannot be had, tests say SKIPPED
//! on the error stream, which the test harness does not capture; with `NUMFUSE_REQUIRE_NVRTC=1` they fail.
//!
//! [`Toolkit::check`] is for gates: it compiles any number of emitted texts and tells what each entry needs and what its
//! instructions are.

use numfuse_cuda::Error;
use numfuse_cuda::emit::Source;
use numfuse_cuda::nvrtc::{Arch, Compiler, Options, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// What is fetched. Code of this compiler runs on drivers for CUDA 13.0 and newer.
const PACKAGES: &[&str] = &["nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-nvdisasm==13.5.37"];
/// Where the wheels have their libraries and programs.
const FOLDERS: &[&str] = &["nvidia/cu13/lib", "nvidia/cu13/bin", "nvidia/cu13/bin/x86_64"];
/// How many texts are compiled as one: most of the time for a small text is the compiler's start.
const BATCH: usize = 50;
/// How many bytes of text are compiled as one.
const BATCH_BYTES: usize = 256 << 10;

/// A compiler and a disassembler.
pub struct Toolkit {
    /// The compiler.
    pub compiler: Compiler,
    nvdisasm: PathBuf,
}

/// What an entry may need at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that go through memory for want of registers.
    pub spills: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of shared memory whose size the text tells.
    pub shared: u32,
}

/// One entry of one text.
#[derive(Debug)]
pub struct Entry {
    /// The name that the text was given with.
    pub text: String,
    /// What it needs, with its own name in it.
    pub usage: Usage,
    /// Its instructions, one a line.
    pub sass: String,
}

/// The toolkit, or `None` if it cannot be had, which is said loudly.
pub fn toolkit() -> Option<&'static Toolkit> {
    static TOOLKIT: OnceLock<Result<Toolkit, String>> = OnceLock::new();
    match TOOLKIT.get_or_init(open) {
        Ok(toolkit) => Some(toolkit),
        Err(reason) => {
            let required = std::env::var_os("NUMFUSE_REQUIRE_NVRTC").is_some_and(|value| value == "1");
            assert!(!required, "NUMFUSE_REQUIRE_NVRTC=1, but there is no NVRTC: {reason}");
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a test");
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: there is no NVRTC: {reason}");
            None
        }
    }
}

impl Toolkit {
    /// The instructions of each entry and of each function that is not inlined.
    pub fn disassemble(&self, cubin: &[u8]) -> BTreeMap<String, String> {
        let mut file = tempfile::NamedTempFile::new().expect("temporary files can be made");
        file.write_all(cubin).expect("temporary files can be written");
        let mut command = Command::new(&self.nvdisasm);
        let output = run(command.arg("--print-code").arg("--no-dataflow").arg(file.path()));
        let output = output.unwrap_or_else(|reason| panic!("{reason}"));
        let mut sections = BTreeMap::<String, String>::new();
        let mut section = None;
        for line in output.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix(".text.").and_then(|name| name.strip_suffix(':')) {
                section = Some(sections.entry(name.to_owned()).or_default());
            } else if line.starts_with("//-") {
                section = None;
            } else if let Some((_, instruction)) = line.split_once("*/")
                && let Some(text) = &mut section
            {
                text.push_str(instruction.split(';').next().unwrap_or_default().trim());
                text.push('\n');
            }
        }
        sections
    }

    /// Compiles the texts for one architecture on all cores. The entries come in the order of the texts; they may have the
    /// same names in different texts. If texts do not compile, the error tells all that do not.
    pub fn compile(&self, sources: &[(String, &Source)], arch: Arch, options: Options) -> Result<Vec<Entry>, String> {
        let batches = batches(sources);
        let next = AtomicUsize::new(0);
        let results = Mutex::new(BTreeMap::new());
        let work = || {
            while let index = next.fetch_add(1, Relaxed)
                && let Some(batch) = batches.get(index)
            {
                let result = self.batch(batch, arch, options);
                results.lock().expect("nothing panics here").insert(index, result);
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(batches.len());
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        let mut entries = Vec::new();
        let mut errors = Vec::new();
        for result in results.into_inner().expect("nothing panics here").into_values() {
            match result {
                Ok(found) => entries.extend(found),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(entries) } else { Err(errors.join("\n")) }
    }

    /// Compiles the texts with the back end's default options; entries that exceed a limit are errors, too.
    pub fn check(&self, sources: &[(String, &Source)], arch: Arch, limits: Limits) -> Result<Vec<Entry>, String> {
        let mut entries = self.compile(sources, arch, Options::default())?;
        // What else is in a program moves the compiler's choices, such as what it inlines. The verdict is on a text alone.
        let suspects: BTreeSet<String> =
            entries.iter().filter(|entry| limits.exceeded(entry)).map(|entry| entry.text.clone()).collect();
        let mut errors = Vec::new();
        for source in sources.iter().filter(|(name, _)| suspects.contains(name)) {
            for alone in self.batch(std::slice::from_ref(source), arch, Options::default())? {
                if limits.exceeded(&alone) {
                    let (text, usage) = (&alone.text, &alone.usage);
                    errors.push(format!("{text}, {arch}: {usage:?} exceeds {limits:?}"));
                }
                let same = |entry: &&mut Entry| entry.text == alone.text && entry.usage.entry == alone.usage.entry;
                if let Some(entry) = entries.iter_mut().find(same) {
                    *entry = alone;
                }
            }
        }
        if errors.is_empty() { Ok(entries) } else { Err(errors.join("\n")) }
    }

    /// Compiles texts as one.
    fn batch(&self, sources: &[(String, &Source)], arch: Arch, options: Options) -> Result<Vec<Entry>, String> {
        let compiled = match self.compiler.compile(&together(sources), arch, options) {
            Ok(compiled) => compiled,
            Err(error) => return Err(self.wrong(sources, arch, options, &error)),
        };
        let usages: BTreeMap<_, _> = compiled.usage().into_iter().map(|usage| (usage.entry.clone(), usage)).collect();
        let mut code = self.disassemble(&compiled.cubin);
        let mut entries = Vec::new();
        for (index, (name, source)) in sources.iter().enumerate() {
            for entry in &source.entries {
                let unique = unique(entry, index);
                let found = usages.get(&unique).zip(code.remove(&unique));
                let (usage, sass) = found.ok_or_else(|| format!("{name}, {arch}: there is no entry {entry}"))?;
                let usage = Usage { entry: entry.clone(), ..usage.clone() };
                entries.push(Entry { text: name.clone(), usage, sass });
            }
        }
        Ok(entries)
    }

    /// Which of the texts that do not compile together do not compile alone, and why.
    fn wrong(&self, sources: &[(String, &Source)], arch: Arch, options: Options, error: &Error) -> String {
        let mut errors = Vec::new();
        let mut suspects = vec![sources];
        while let Some(suspects_here) = suspects.pop() {
            if let Err(error) = self.compiler.compile(&together(suspects_here), arch, options) {
                match suspects_here {
                    [(name, _)] => errors.push(format!("{name}, {arch}: {error}")),
                    several => {
                        // Of use is the text that is wrong, not what it was compiled together with.
                        if let Error::Compile { file, .. } = error {
                            let _ = fs::remove_file(file);
                        }
                        let (first, second) = several.split_at(several.len() / 2);
                        suspects.extend([second, first]);
                    }
                }
            }
        }
        if errors.is_empty() { format!("{arch}, only together: {error}") } else { errors.join("\n") }
    }
}

/// Texts to compile as one: so many that the compiler's start does not count, so few that all cores have work.
fn batches<'a, 'b>(sources: &'a [(String, &'b Source)]) -> Vec<&'a [(String, &'b Source)]> {
    let mut batches = Vec::new();
    let mut rest = sources;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(_, source): &&(String, &Source)| {
            bytes += source.text.len();
            bytes <= BATCH_BYTES
        };
        let count = rest.iter().take(BATCH).take_while(fits).count().max(1);
        let (batch, others) = rest.split_at(count);
        batches.push(batch);
        rest = others;
    }
    batches
}

/// One text of several: each in a namespace, its entries renamed, since those have the names of C.
fn together(sources: &[(String, &Source)]) -> String {
    let mut text = String::new();
    for (index, (_, source)) in sources.iter().enumerate() {
        let rename_entry = |body: String, entry: &String| rename(&body, entry, &unique(entry, index));
        let body = source.entries.iter().fold(source.text.clone(), rename_entry);
        text += &format!("namespace text_{index} {{\n{body}\n}}\n");
    }
    text
}

impl Limits {
    fn exceeded(&self, entry: &Entry) -> bool {
        let Usage { registers, spills, stack, shared, .. } = entry.usage;
        registers > self.registers || spills > self.spills || stack > self.stack || shared > self.shared
    }
}

impl Entry {
    /// How many instructions begin like this, predicates aside.
    pub fn count(&self, instruction: &str) -> usize {
        count(&self.sass, instruction)
    }
}

/// How many lines of a disassembly are instructions that begin like this, predicates aside.
pub fn count(sass: &str, instruction: &str) -> usize {
    let without_predicate = |line: &str| {
        line.strip_prefix('@').and_then(|line| line.split_once(' ')).map_or(line, |(_, rest)| rest).trim().to_owned()
    };
    sass.lines().filter(|line| without_predicate(line).starts_with(instruction)).count()
}

fn unique(entry: &str, index: usize) -> String {
    format!("{entry}_of_{index}")
}

/// Replaces a whole word.
fn rename(text: &str, from: &str, to: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut result = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        result.push_str(before);
        result.push_str(if whole { to } else { from });
        rest = after;
    }
    result + rest
}

/// The toolkit in the target folder, which is fetched if it is not there.
fn open() -> Result<Toolkit, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("the target folder is the root")?;
    let home = target.join("cuda-toolkit");
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let folder = home.join(PACKAGES.join("+").replace("==", "-"));
    // Test binaries may run at the same time. The lock goes when the process ends, however it ends.
    let lock = File::create(home.join("lock")).map_err(|error| format!("{}: {error}", home.display()))?;
    lock.lock().map_err(|error| format!("{}: {error}", home.display()))?;
    if !folder.exists() {
        fetch(&home, &folder)?;
    }
    drop(lock);
    let libraries = FOLDERS.iter().map(|name| folder.join(name));
    let compiler = libraries.filter(|folder| folder.exists()).find_map(|folder| Compiler::load_from(&folder).ok());
    let compiler = compiler.ok_or_else(|| format!("no library in {} can be loaded", folder.display()))?;
    let nvdisasm = folder.join("nvidia/cu13/bin").join(format!("nvdisasm{}", std::env::consts::EXE_SUFFIX));
    Ok(Toolkit { compiler, nvdisasm })
}

/// Installs the wheels into `folder`: all of it is there, or nothing.
fn fetch(home: &Path, folder: &Path) -> Result<(), String> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let has_pip = run(Command::new(&python).args(["-m", "pip", "--version"])).is_ok();
    let python = if has_pip {
        PathBuf::from(python)
    } else {
        let venv = home.join("venv");
        run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv))?;
        venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" })
    };
    let part = home.join("part");
    let _ = fs::remove_dir_all(&part);
    let options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--retries", "2", "--timeout", "30"];
    run(Command::new(&python).args(["-m", "pip", "install"]).args(options).arg("--target").arg(&part).args(PACKAGES))?;
    fs::rename(&part, folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// What a command prints, if it succeeds.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{}", output.status, errors.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
