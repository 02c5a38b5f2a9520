//! Emitted CUDA C on the CPU: texts are compiled by g++ behind `tests/emulator/cuda.h`, and jobs run in a process of
//! their own (`tests/emulator/runner.cpp`), so that a crash is a report and no test needs `unsafe`.
//!
//! What is compiled is kept below the target folder by the hash of all that goes into it: the text, the emulator's own
//! sources, the flags and the compiler. A second run compiles nothing. Texts are compiled many at a time, in namespaces of
//! their own, since starting a compiler costs more than a kernel.
#![allow(dead_code, reason = "each test file uses a part of it")]

use numfuse_cuda::emit::{Grid, Source};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// How texts are compiled, and so what is found out about them. All of them report what CUDA leaves undefined between the
/// threads of a block, poison shared memory, and notice writes right beside a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Build {
    /// Fast.
    Plain,
    /// With AddressSanitizer and UndefinedBehaviorSanitizer: accesses outside of buffers and of shared arrays, misaligned
    /// vectors, overflow of signed integers, shifts that are too wide, conversions out of range.
    Address,
    /// With every access checked for data races, within a block and between blocks, and for reads of shared memory that
    /// nobody has written. Some fifty times slower to run: for small sizes.
    Race,
}

impl Build {
    /// Every build.
    pub const ALL: [Build; 3] = [Build::Plain, Build::Address, Build::Race];

    fn name(self) -> &'static str {
        match self {
            Build::Plain => "plain",
            Build::Address => "address",
            Build::Race => "race",
        }
    }

    /// What texts are compiled with.
    fn text_flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain => &[],
            // The calls that this inserts are answered by the emulator, not by ThreadSanitizer.
            Build::Race => &["-fsanitize=thread"],
            Build::Address => &[
                "-fsanitize=address,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
                "-fsanitize=float-cast-overflow,bool",
                "-fno-sanitize-recover=all",
                "-fsanitize-sections=shared_*",
            ],
        }
    }

    /// What the runner is linked with.
    fn runner_flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain | Build::Race => &[],
            Build::Address => &["-fsanitize=address,undefined", "-DEMULATOR_ADDRESS"],
        }
    }

    /// What the run time is compiled with: it is never instrumented.
    fn runtime_flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain | Build::Race => &[],
            Build::Address => &["-DEMULATOR_ADDRESS"],
        }
    }
}

/// Texts that can be run.
pub struct Emulator {
    /// How long a job may run, in seconds of CPU time: a kernel that takes longer does not end.
    pub limit: u64,
    runner: PathBuf,
    texts: HashMap<String, Compiled>,
}

/// Some memory of a job.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// What it holds before the first launch. A kernel that touches one byte more is caught.
    pub bytes: Vec<u8>,
    /// How far its address is from a multiple of 256.
    pub offset: usize,
}

/// A word of an argument block that becomes an address.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// Which word.
    pub word: usize,
    /// Into which buffer.
    pub buffer: usize,
    /// How many bytes from its beginning; may lie outside of it.
    pub offset: i64,
}

/// One launch of a job.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The name of a text that the emulator was built with.
    pub text: String,
    /// Its entry, blocks, threads and shared memory.
    pub grid: Grid,
    /// The argument block.
    pub words: Vec<u64>,
    /// Its words that are addresses.
    pub relocations: Vec<Relocation>,
}

/// Launches, in order, over buffers of their own.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Decides in which order blocks and threads run, and what shared memory holds at first.
    pub seed: u64,
    /// The memory.
    pub buffers: Vec<Buffer>,
    /// The launches.
    pub launches: Vec<Launch>,
}

/// What a job leaves behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobResult {
    /// The bytes of each buffer.
    pub buffers: Vec<Vec<u8>>,
}

/// A job that could not be run to its end. Those before it could, those after it were not tried.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which job.
    pub job: usize,
    /// Which of its launches.
    pub launch: usize,
    /// The text that was launched.
    pub text: String,
    /// What the emulator or a sanitizer says; lines are those of the text.
    pub report: String,
}

impl Emulator {
    /// Compiles texts, each under a name by which launches and reports call it. Panics, with what the compiler says, if
    /// one of them does not compile, and if there is no compiler.
    pub fn build(texts: &[(String, &Source)], build: Build) -> Emulator {
        let folder = cache(build);
        let runtime = runtime(build);
        let runner = runner(build, &runtime);
        let mut compiled = HashMap::new();
        let mut missing = BTreeMap::new();
        for (name, source) in texts {
            let text = Text::new(name, source, build, &runtime);
            match kept(&folder, &text) {
                Some(library) => {
                    let before = compiled.insert(name.clone(), text.compiled(library));
                    assert!(before.is_none(), "two texts have the name `{name}`");
                }
                None => {
                    missing.entry(text.key.clone()).or_insert(text);
                }
            }
        }
        if !missing.is_empty() {
            let missing: Vec<Text> = missing.into_values().collect();
            // Few texts in a batch if there are few, so that every core has one.
            let batch = missing.len().div_ceil(workers()).clamp(1, MAX_BATCH);
            let batches: Vec<&[Text]> = missing.chunks(batch).collect();
            in_parallel(&batches, |texts| compile_batch(&folder, texts, build, &runtime));
            remove_old_files(&folder);
            remove_old_files(&runs());
            for (name, source) in texts {
                let text = Text::new(name, source, build, &runtime);
                let library = kept(&folder, &text).expect("it was just compiled");
                compiled.insert(name.clone(), text.compiled(library));
            }
        }
        Emulator { limit: 60, runner, texts: compiled }
    }

    /// Runs jobs, all in one process.
    pub fn run(&self, jobs: &[Job]) -> Result<Vec<JobResult>, Failure> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = runs().join(format!("{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("a folder for a run");
        let [input, output] = ["jobs", "results"].map(|name| folder.join(name));
        fs::write(&input, self.encode(jobs)).expect("a file of jobs");
        let process = Command::new(&self.runner).arg(&input).arg(&output).output().expect("the runner starts");
        let results = fs::read(&output).unwrap_or_default();
        // Only what this has made, and it does not matter if that fails.
        let _ = fs::remove_dir_all(&folder);
        if process.status.success() { Ok(decode(jobs, &results)) } else { Err(self.failure(jobs, &process)) }
    }

    /// The file of jobs; `runner.cpp` says what it looks like.
    fn encode(&self, jobs: &[Job]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let number = |bytes: &mut Vec<u8>, n: u64| bytes.extend(n.to_ne_bytes());
        let string = |bytes: &mut Vec<u8>, s: &str| {
            bytes.extend((s.len() as u64).to_ne_bytes());
            bytes.extend(s.as_bytes());
        };
        number(&mut bytes, self.limit);
        number(&mut bytes, jobs.len() as u64);
        for job in jobs {
            number(&mut bytes, job.seed);
            number(&mut bytes, job.buffers.len() as u64);
            for buffer in &job.buffers {
                number(&mut bytes, buffer.offset as u64);
                number(&mut bytes, buffer.bytes.len() as u64);
                bytes.extend(&buffer.bytes);
            }
            number(&mut bytes, job.launches.len() as u64);
            for launch in &job.launches {
                let text = self.texts.get(&launch.text);
                let text = text.unwrap_or_else(|| panic!("the emulator was built without the text `{}`", launch.text));
                string(&mut bytes, &text.library.to_string_lossy());
                string(&mut bytes, &text.symbols[launch.grid.entry]);
                for n in launch.grid.blocks.into_iter().chain(launch.grid.threads).chain([launch.grid.shared]) {
                    number(&mut bytes, u64::from(n));
                }
                number(&mut bytes, launch.words.len() as u64);
                launch.words.iter().for_each(|word| number(&mut bytes, *word));
                number(&mut bytes, launch.relocations.len() as u64);
                for relocation in &launch.relocations {
                    number(&mut bytes, relocation.word as u64);
                    number(&mut bytes, relocation.buffer as u64);
                    number(&mut bytes, relocation.offset.cast_unsigned());
                }
            }
        }
        bytes
    }

    fn failure(&self, jobs: &[Job], process: &Output) -> Failure {
        let progress = String::from_utf8_lossy(&process.stdout);
        let mut report = String::from_utf8_lossy(&process.stderr).into_owned();
        // AddressSanitizer ends with a map of memory around the address, and its legend.
        report.truncate(report.find("Shadow bytes around").unwrap_or(report.len()));
        for (name, text) in &self.texts {
            report = report.replace(&format!("text_{}", text.key), name);
        }
        let last = progress.lines().last().unwrap_or_default();
        let mut numbers = last.split(' ').map(|n| n.parse().unwrap_or_default());
        let [job, launch] = [(); 2].map(|()| numbers.next().unwrap_or_default());
        match process.status.signal() {
            Some(SIGVTALRM) => report += &format!("the job did not end within {} s of CPU time", self.limit),
            Some(signal) => report += &format!("the job was ended by signal {signal}"),
            None => {}
        }
        // A bug of the emulator or of its caller, rather than of a kernel.
        assert!(process.status.code() != Some(2), "the emulator cannot run job {job}: {report}");
        let text = jobs.get(job).and_then(|job: &Job| job.launches.get(launch));
        Failure { job, launch, text: text.map(|l| l.text.clone()).unwrap_or_default(), report }
    }
}

/// A library of one text, whose entries are the symbols `emulator_entry_` + name: for a stand-in of the driver, which has
/// to be linked with the same [`runtime`]. Panics as [`Emulator::build`] does.
pub fn library(source: &Source) -> PathBuf {
    let build = Build::Plain;
    let runtime = runtime(build);
    let text = Text { alone: true, ..Text::new("the text", source, build, &runtime) };
    let folder = cache(build);
    let path = folder.join(format!("text-{}.so", text.key));
    if !touch(&path) {
        compile_texts(&path, &[text], build, &runtime);
    }
    path
}

/// The shared library that runs entries; `emulator.h` says how to use it.
pub fn runtime(build: Build) -> PathBuf {
    static PATHS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let path = PATHS[build as usize].get_or_init(|| {
        let sources = [RUNTIME, RACE].map(|(name, _)| sources().join(name));
        let flags = [HOST_FLAGS, build.runtime_flags(), &["-fPIC", "-shared"]].concat();
        let parts = [&RUNTIME, &RACE, &INTERFACE, &RACE_INTERFACE].map(|(_, text)| *text);
        let key = key([&parts[..], &flags, &[compiler_version()]].concat());
        let path = cache(build).join(format!("libemulator-{key}.so"));
        if !touch(&path) {
            make(&path, |out| {
                expect_success(gcc().args(&flags).args(&sources).arg("-o").arg(out).arg("-ldl"), |report| report)
            });
        }
        path
    });
    path.clone()
}

/// The version that g++ tells, which is part of what names a file. Panics if there is no g++.
pub fn compiler_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let output = gcc().arg("--version").output().unwrap_or_else(|error| {
            panic!(
                "these tests run CUDA kernels on the CPU, and need g++ 11 or newer for that, with its sanitizers; it cannot \
                 be started: {error}. On Debian and Ubuntu: apt install g++. On Fedora: dnf install gcc-c++ libasan libubsan"
            )
        });
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

const RUNTIME: (&str, &str) = ("runtime.cpp", include_str!("../emulator/runtime.cpp"));
const RACE: (&str, &str) = ("race.cpp", include_str!("../emulator/race.cpp"));
const RACE_INTERFACE: (&str, &str) = ("race.h", include_str!("../emulator/race.h"));
const INTERFACE: (&str, &str) = ("emulator.h", include_str!("../emulator/emulator.h"));
const RUNNER: (&str, &str) = ("runner.cpp", include_str!("../emulator/runner.cpp"));
const CUDA: (&str, &str) = ("cuda.h", include_str!("../emulator/cuda.h"));

/// For the emulator's own sources. Its loops over shared memory must not become calls of `memset`, which
/// AddressSanitizer checks.
const HOST_FLAGS: &[&str] = &["-std=c++17", "-O2", "-Wall", "-Wextra", "-fno-tree-loop-distribute-patterns"];

/// For texts: the arithmetic of NVRTC's strict options.
const TEXT_FLAGS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-g1",
    "-w",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
];

/// How many texts are compiled by one process at most.
const MAX_BATCH: usize = 16;
const SIGVTALRM: i32 = 26;
/// What no test has used for so long goes.
const KEEP: Duration = Duration::from_secs(3 * 24 * 3600);

/// Where a text's entries are.
struct Compiled {
    key: String,
    library: PathBuf,
    symbols: Vec<String>,
}

/// A text on its way to the compiler.
struct Text<'a> {
    name: &'a str,
    source: &'a Source,
    /// The hash of all that decides about the machine code.
    key: String,
    /// In a library of its own, so that the symbols need no key.
    alone: bool,
}

impl<'a> Text<'a> {
    fn new(name: &'a str, source: &'a Source, build: Build, runtime: &Path) -> Text<'a> {
        let mut parts = vec![CUDA.1, INTERFACE.1, compiler_version(), &source.text];
        parts.extend(source.entries.iter().map(String::as_str));
        let (runtime, flags) = (runtime.to_string_lossy(), text_flags(build));
        parts.push(&runtime);
        parts.extend(&flags);
        Text { name, source, key: key(parts), alone: false }
    }

    fn symbol(&self, entry: &str) -> String {
        if self.alone { format!("emulator_entry_{entry}") } else { format!("emulator_entry_{entry}_{}", self.key) }
    }

    fn compiled(&self, library: PathBuf) -> Compiled {
        let symbols = self.source.entries.iter().map(|entry| self.symbol(entry)).collect();
        Compiled { key: self.key.clone(), library, symbols }
    }

    /// The text in a namespace of its own. `extern "C"` functions ignore namespaces, so macros rename them.
    fn unit(&self) -> String {
        let (key, entries) = (&self.key, &self.source.entries);
        let renamed = |entry: &str| format!("{entry}_{key}");
        let mut unit = format!("#undef __shared__\n#define __shared__ EMULATOR_SHARED(\"shared_{key}\")\n");
        unit.extend(entries.iter().map(|entry| format!("#define {entry} {}\n", renamed(entry))));
        unit += &format!("namespace {{ namespace text_{key} {{\n#line 1 \"text_{key}\"\n");
        unit += &self.source.text.lines().map(|line| dynamic_shared(self.name, line) + "\n").collect::<String>();
        unit += &format!("#line 1 \"entries of text_{key}\"\n}} }}\n");
        unit.extend(entries.iter().map(|entry| format!("#undef {entry}\n")));
        let export = |entry: &String| {
            let bounds = launch_bounds(&self.source.text, entry);
            format!("EMULATOR_ENTRY({}, text_{key}::{}, {bounds}, shared_{key})\n", self.symbol(entry), renamed(entry))
        };
        unit.extend(entries.iter().map(export));
        unit
    }
}

/// A line of a text with what `cuda.h` asks to be rewritten.
fn dynamic_shared(text: &str, line: &str) -> String {
    let Some((before, declaration)) = line.split_once("extern __shared__ ") else { return line.to_owned() };
    let parts = declaration.split_once("[];").and_then(|(left, rest)| Some((left.rsplit_once(' ')?, rest)));
    let Some(((element, name), rest)) = parts else {
        panic!("`{text}` has dynamic shared memory that is not of the form `extern __shared__ T name[];`: {line}");
    };
    format!("{before}EMULATOR_DYNAMIC_SHARED({element}, {name});{rest}")
}

/// The threads that a block of this entry may have.
fn launch_bounds(text: &str, entry: &str) -> u32 {
    let before = text.split_once(&format!(" {entry}(")).map_or("", |(before, _)| before);
    let bounds = before.rsplit_once("__launch_bounds__(").and_then(|(_, rest)| rest.strip_suffix(')'));
    // The second number, if there is one, is of blocks.
    bounds.and_then(|bounds| bounds.split(',').next()?.trim().parse().ok()).unwrap_or(1024)
}

fn text_flags(build: Build) -> Vec<&'static str> {
    let mut flags = [TEXT_FLAGS, build.text_flags()].concat();
    // Otherwise `fma` is a call, which has the same result.
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        flags.push("-mfma");
    }
    flags
}

/// The library that holds a text, if it was compiled before.
fn kept(folder: &Path, text: &Text) -> Option<PathBuf> {
    let index = folder.join(&text.key);
    let library = folder.join(fs::read_to_string(&index).ok()?);
    (touch(&index) && touch(&library)).then_some(library)
}

/// Compiles texts into one library, and notes for each of them where it is.
fn compile_batch(folder: &Path, texts: &[Text], build: Build, runtime: &Path) {
    let name = format!("texts-{}.so", key(texts.iter().map(|text| text.key.as_str()).collect()));
    compile_texts(&folder.join(&name), texts, build, runtime);
    for text in texts {
        make(&folder.join(&text.key), |out| fs::write(out, &name).expect("an index file"));
    }
}

fn compile_texts(library: &Path, texts: &[Text], build: Build, runtime: &Path) {
    let named = |report: String| {
        texts.iter().fold(report, |report, text| report.replace(&format!("text_{}", text.key), text.name))
    };
    make(library, |out| {
        let [unit, object] = ["cpp", "o"].map(|extension| out.with_extension(extension));
        let text = texts.iter().map(Text::unit).collect::<String>();
        fs::write(&unit, format!("#include \"{}\"\n{text}", CUDA.0)).expect("a file for a text");
        let mut compile = gcc();
        compile.args(text_flags(build)).arg("-I").arg(sources()).arg("-c").arg(&unit).arg("-o").arg(&object);
        expect_success(&mut compile, named);
        // Linked apart: with `-fsanitize=thread` the compiler would add the library whose place the emulator takes.
        let mut link = gcc();
        link.args(["-shared", "-Wl,-z,defs"]).arg(&object).arg(runtime).arg("-lm").arg("-o").arg(out);
        if build == Build::Address {
            link.arg("-fsanitize=address,undefined");
            // The sanitizers' libraries come with the runner.
            link.arg("-Wl,-z,undefs");
        }
        expect_success(&mut link, named);
        expect_no_hidden_shared(out, texts);
        for file in [unit, object] {
            fs::remove_file(file).expect("a file of our own");
        }
    });
}

/// GCC forgets the section of a static array in a template, so that the emulator would not know it as shared memory.
fn expect_no_hidden_shared(library: &Path, texts: &[Text]) {
    let output = Command::new("nm").arg("--demangle").arg(library).output().expect("nm, which comes with g++, starts");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let of = texts.iter().find(|text| line.contains(&format!("text_{}::", text.key)));
        if let Some(text) = of.filter(|_| line.contains(" b ")) {
            panic!(
                "`{}` has writable memory that the emulator does not know as shared, such as a `__shared__` array in a \
                 template: {line}",
                text.name
            );
        }
    }
}

fn runner(build: Build, runtime: &Path) -> PathBuf {
    static PATHS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let path = PATHS[build as usize].get_or_init(|| {
        let flags = [HOST_FLAGS, build.runner_flags()].concat();
        let runtime_name = runtime.to_string_lossy();
        let key = key([&[RUNNER.1, INTERFACE.1, &runtime_name, compiler_version()][..], &flags].concat());
        let path = cache(build).join(format!("runner-{key}"));
        if !touch(&path) {
            make(&path, |out| {
                let mut command = gcc();
                command.args(&flags).arg(sources().join(RUNNER.0)).arg(runtime).arg("-o").arg(out).arg("-ldl");
                expect_success(&mut command, |report| report);
            });
        }
        path
    });
    path.clone()
}

fn decode(jobs: &[Job], mut results: &[u8]) -> Vec<JobResult> {
    let mut take = |count: usize| {
        let (bytes, rest) = results.split_at(count);
        results = rest;
        bytes.to_vec()
    };
    jobs.iter().map(|job| JobResult { buffers: job.buffers.iter().map(|b| take(b.bytes.len())).collect() }).collect()
}

fn gcc() -> Command {
    let mut command = Command::new("g++");
    // Messages that tests can read.
    command.env("LC_ALL", "C");
    command
}

fn expect_success(command: &mut Command, named: impl Fn(String) -> String) {
    let output = command.output().expect("g++ starts");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "g++ refuses a text:\n{}", named(report));
}

/// Where the emulator's sources are.
fn sources() -> PathBuf {
    // The tests of other crates use this file, too.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda/tests/emulator")
}

/// Where everything that is made here lies.
fn root() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    target.join("cuda-emulator")
}

/// Where the files of jobs lie while they run.
fn runs() -> PathBuf {
    let folder = root().join("run");
    fs::create_dir_all(&folder).expect("a folder for runs");
    folder
}

fn cache(build: Build) -> PathBuf {
    let folder = root().join(build.name());
    fs::create_dir_all(&folder).expect("a folder for compiled kernels");
    folder
}

fn key(parts: Vec<&str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a file under a name that nobody else uses, and then gives it its name: whoever sees the file, in this process or
/// another one, sees all of it.
fn make(path: &Path, write: impl FnOnce(&Path)) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = path.parent().expect("a file in a folder");
    let temporary = folder.join(format!("making-{}-{number}", std::process::id()));
    write(&temporary);
    fs::rename(&temporary, path).expect("a file that was just made");
}

/// Whether the file is there; if so, it is kept for a while.
fn touch(path: &Path) -> bool {
    fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now())).is_ok()
}

/// What no test has used for long, and what a test that was killed has left behind.
fn remove_old_files(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the folder of compiled kernels").flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > KEEP) {
            // Another process may be faster.
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers().min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
