//! The engine: turns texts and expressions into kernels and runs them; remembers what it has made.
//!
//! ```text
//! text  --parse-->  tree  \
//!                          program (types) --plan--> variant (broadcasting) --bind--> call (sizes) --> run
//! Expr  --list--->  recipe /                                                   |
//!                                                                    code cache (kernel -> machine code)
//! ```
//!
//! Three caches: texts with their trees and programs, recipes with their programs, and machine code. Looking one up
//! takes no lock for longer than the look; running takes none. All of them are bounded.

mod cache;
mod device;
mod function;
mod kernel;
mod limits;
mod process;
mod program;
mod recent;
mod run;
mod streaming;

pub use cache::Backend;
pub use function::{Function, FunctionCall, KnownCall, ReadyCall};
pub use kernel::Kernel;
pub use limits::{CancelToken, Limits};
pub use run::Results;

pub(crate) use program::{Program, Source};

use crate::array::Array;
use crate::device::Device;
use crate::env::{Env, Outputs};
use crate::error::{Error, Result};
use crate::expr::{Exprs, Input, Recipe, Size};
use crate::view::ArrayRef;
use cache::CodeCache;
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_cpu::Tier;
use numfuse_lang::Ast;
use process::PerProcess;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use recent::Recent;
use smallvec::SmallVec;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Compiles and evaluates expressions. Cheap to clone; clones share caches. Any number of threads may use one at once.
///
/// ```
/// use numfuse::{Engine, Limits, vars};
/// let engine = Engine::builder().threads(1).limits(Limits::untrusted()).build()?;
/// assert_eq!(engine.evaluate("x**2 + 1", &vars! { x: 3 })?.item::<i64>()?, 10);
/// assert_eq!(engine.stats().kernels_compiled, 1);
/// engine.evaluate("x**2 + 1", &vars! { x: 4 })?;
/// assert_eq!(engine.stats().kernels_compiled, 1);
/// # Ok::<(), numfuse::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What an engine and its kernels share.
pub(crate) struct Shared {
    pub limits: Limits,
    pub threads: usize,
    /// Where expressions run.
    pub device: Device,
    /// What arrays of the host go through on their way to it.
    pub staging: streaming::Kept,
    pub code: CodeCache,
    pub counters: Counters,
    texts: PerProcess<Bounded<Box<str>, Arc<Text>>>,
    recipes: PerProcess<Bounded<Arc<Recipe>, Arc<Program>>>,
}

type Bounded<K, V> = Cache<K, V, Estimate, RandomState>;

#[derive(Default)]
pub(crate) struct Counters {
    pub plans: AtomicU64,
    texts: AtomicU64,
}

/// How many unused names of an environment a program keeps for its messages.
const MOST_UNUSED: usize = 32;

/// A text, parsed, and its programs by the types of the names in it.
struct Text {
    source: Arc<str>,
    ast: Arc<Ast>,
    names: Vec<String>,
    programs: Recent<(TypeKey, Arc<Program>)>,
}

/// For each name of a text what it is bound to: 0 for nothing, else dtype, weakness and rank.
type TypeKey = SmallVec<[u32; 8]>;

/// About how many bytes a text or a recipe holds with its graphs, plans and bound calls.
#[derive(Clone)]
struct Estimate;

impl Weighter<Box<str>, Arc<Text>> for Estimate {
    fn weight(&self, text: &Box<str>, _: &Arc<Text>) -> u64 {
        4096 + 128 * text.len() as u64
    }
}

impl Weighter<Arc<Recipe>, Arc<Program>> for Estimate {
    fn weight(&self, recipe: &Arc<Recipe>, _: &Arc<Program>) -> u64 {
        4096 + 640 * recipe.len() as u64
    }
}

/// The arrays of a program's inputs, in order.
type Inputs<'e, 'a> = SmallVec<[&'e ArrayRef<'a>; 8]>;

/// How many type combinations of one text are remembered.
const TYPES: usize = 64;

/// What an engine has done and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Texts parsed.
    pub texts_parsed: u64,
    /// Graphs simplified and fused: one for each text or expression and types, more if sizes broadcast in other ways.
    pub plans_made: u64,
    /// Kernels compiled to machine code. With a CUDA device those that all engines of it have loaded; none is held by the
    /// engine.
    pub kernels_compiled: u64,
    /// Kernels held by the code cache.
    pub kernels_cached: usize,
    /// Bytes held by the code cache, keys included.
    pub code_bytes: u64,
}

/// Options of an [`Engine`].
#[derive(Clone, Debug)]
pub struct Builder {
    threads: usize,
    backend: Backend,
    tier: Tier,
    limits: Limits,
    cache_bytes: u64,
    device: Device,
    fast: bool,
}

impl Builder {
    /// At most so many threads take part in an evaluation, the calling one included; 0 for as many as the machine has.
    #[must_use]
    pub fn threads(self, threads: usize) -> Builder {
        Builder { threads, ..self }
    }

    /// What runs kernels.
    #[must_use]
    pub fn backend(self, backend: Backend) -> Builder {
        Builder { backend, ..self }
    }

    /// Which code generator makes the machine code; all of them give the same bits.
    #[must_use]
    pub fn tier(self, tier: Tier) -> Builder {
        Builder { tier, ..self }
    }

    /// Where expressions run. On a CUDA device, results of its arrays are arrays of it, and arrays of the host are streamed
    /// through it; what runs kernels on the CPU, [`Builder::backend`] and [`Builder::tier`], has no say there.
    #[must_use]
    pub fn device(self, device: &Device) -> Builder {
        Builder { device: device.clone(), ..self }
    }

    /// Lets a CUDA device trade the bits of results for speed: contracted products, approximate divisions and roots, no
    /// subnormals. The CPU has nothing to trade.
    #[must_use]
    pub fn fast(self, fast: bool) -> Builder {
        Builder { fast, ..self }
    }

    /// What an evaluation may take.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Builder {
        Builder { limits, ..self }
    }

    /// How many bytes each cache may hold: that of machine code, and, by estimate, those of texts and expressions.
    #[must_use]
    pub fn cache_bytes(self, bytes: u64) -> Builder {
        Builder { cache_bytes: bytes, ..self }
    }

    /// The engine.
    ///
    /// # Errors
    /// If machine code was asked for and there is none for this host.
    pub fn build(self) -> Result<Engine> {
        // A device that an array or another engine was asked for may be one of an engine that is fast.
        let device = self.device.with_fast(self.fast)?;
        // Kernels of a device are kept with the device.
        let backend = if device.is_cpu() { self.backend } else { Backend::Interp };
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Engine {
            shared: Arc::new(Shared {
                limits: self.limits,
                threads: if self.threads == 0 { cores() } else { self.threads },
                device,
                staging: streaming::Kept::default(),
                code: CodeCache::new(backend, self.tier, self.cache_bytes)?,
                counters: Counters::default(),
                texts: caches(self.cache_bytes, Estimate)?,
                recipes: caches(self.cache_bytes, Estimate)?,
            }),
        })
    }
}

/// Empty caches of one shard, so that anything may take up all of the bound.
fn caches<K, V, W>(bytes: u64, weigh: W) -> Result<PerProcess<Cache<K, V, W, RandomState>>>
where
    K: Eq + std::hash::Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    W: Weighter<K, V> + Clone + Send + Sync + 'static,
{
    let options = OptionsBuilder::new().estimated_items_capacity(1024).weight_capacity(bytes).shards(1).build();
    let options = options.map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    Ok(PerProcess::new(move || {
        Cache::with_options(options.clone(), weigh.clone(), RandomState::new(), DefaultLifecycle::default())
    }))
}

impl Default for Engine {
    /// The engine that [`evaluate`](crate::evaluate) and [`eval`](crate::eval) use: all threads, default limits, 64 MiB of
    /// machine code.
    fn default() -> Engine {
        static DEFAULT: OnceLock<Engine> = OnceLock::new();
        DEFAULT.get_or_init(|| Engine::builder().build().expect("an automatic back end is always there")).clone()
    }
}

impl Engine {
    /// Options to build an engine with.
    pub fn builder() -> Builder {
        let (backend, tier, limits) = (Backend::Auto, Tier::Widest, Limits::default());
        Builder { threads: 0, backend, tier, limits, cache_bytes: 64 << 20, device: Device::cpu(), fast: false }
    }

    /// The default engine, borrowed.
    pub(crate) fn shared_default() -> &'static Engine {
        static DEFAULT: OnceLock<Engine> = OnceLock::new();
        DEFAULT.get_or_init(Engine::default)
    }

    /// Evaluates a text with one result. A text that was evaluated before, with inputs of the same dtypes and ranks, is
    /// neither parsed nor compiled again.
    ///
    /// # Errors
    /// If the text is wrong, with the place in it; if an input is missing or its type or shape does not fit.
    pub fn evaluate(&self, text: &str, env: &Env<'_>) -> Result<Array> {
        self.evaluate_with(text, env, None).and_then(|results| one(results, text))
    }

    /// Evaluates a text with any number of results, such as `a + b, a - b`, until the token is cancelled.
    ///
    /// # Errors
    /// As [`Engine::evaluate`], and if it was cancelled.
    pub fn evaluate_with(&self, text: &str, env: &Env<'_>, token: Option<&CancelToken>) -> Result<Results> {
        let (program, inputs) = self.program(text, env)?;
        run::run(&self.shared, &program, &inputs, token)
    }

    /// Evaluates a text into arrays of the caller; see [`Kernel::run_into`].
    ///
    /// # Errors
    /// As [`Engine::evaluate`] and [`Kernel::run_into`].
    pub fn evaluate_into<'o>(&self, text: &str, env: &Env<'_>, outputs: impl Outputs<'o>) -> Result<()> {
        let (program, inputs) = self.program(text, env)?;
        run::run_into(&self.shared, &program, None, &inputs, &mut outputs.into_arrays(), None)
    }

    /// Computes expressions of lazy arrays: only these, and what they share once.
    ///
    /// # Errors
    /// If operands have dtypes or shapes that do not go together, or there is an input without data.
    pub fn eval<'a, E: Exprs<'a>>(&self, exprs: E) -> Result<E::Arrays> {
        let (program, data) = self.expr_program(&exprs.into_exprs())?;
        if let Some(input) = program.inputs.get(..program.inputs.len() - data.len()).and_then(<[Input]>::first) {
            return Err(Diagnostic::new(Code::MissingInput, format!("input `{}` has no data", input.name))
                .hint("`Engine::compile` makes a kernel that takes inputs by name")
                .into());
        }
        let inputs: Inputs<'_, '_> = data.iter().collect();
        Ok(E::collect(run::run(&self.shared, &program, &inputs, None)?))
    }

    /// Compiles expressions of named inputs to a kernel.
    ///
    /// # Errors
    /// If operands have dtypes or shapes that do not go together, or there is a lazy array: kernels hold no data.
    pub fn compile<'a, E: Exprs<'a>>(&self, exprs: E) -> Result<Kernel<E::Arrays>> {
        let (program, data) = self.expr_program(&exprs.into_exprs())?;
        if !data.is_empty() {
            return Err(Diagnostic::new(Code::Arguments, "a kernel of lazy arrays")
                .why("a kernel holds no data")
                .hint("use `Expr::input` in place of `lazy`, or `eval` in place of `compile`")
                .into());
        }
        program.prepare(&self.shared)?;
        Ok(Kernel { shared: self.shared.clone(), program, collect: E::collect })
    }

    /// Compiles a text with one result to a kernel for inputs of the types that `env` has; sizes may differ.
    ///
    /// ```
    /// use numfuse::{Engine, vars};
    /// let kernel = Engine::default().prepare("2*a + b", &vars! { a: [1.0], b: 1 })?;
    /// assert_eq!(kernel.run(&vars! { a: [1.0, 2.0], b: 3 })?.as_slice::<f64>()?, [5.0, 7.0]);
    /// # Ok::<(), numfuse::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Engine::evaluate`].
    pub fn prepare(&self, text: &str, env: &Env<'_>) -> Result<Kernel> {
        let (program, _) = self.program(text, env)?;
        let outputs = program.prepare(&self.shared)?.plan.outputs.len();
        if outputs != 1 {
            return Err(several(outputs, text));
        }
        let collect = |mut results: Results| results.remove(0);
        Ok(Kernel { shared: self.shared.clone(), program, collect })
    }

    /// Where expressions run.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// What this engine has done and holds.
    pub fn stats(&self) -> Stats {
        let Shared { code, counters, device, .. } = &*self.shared;
        let (kernels_cached, code_bytes) = code.held();
        let kernels_compiled = || code.compiled.load(Ordering::Relaxed);
        Stats {
            texts_parsed: counters.texts.load(Ordering::Relaxed),
            plans_made: counters.plans.load(Ordering::Relaxed),
            kernels_compiled: device.backend().map_or_else(kernels_compiled, numfuse_cuda::Backend::kernels_loaded),
            kernels_cached,
            code_bytes,
        }
    }

    /// Forgets everything that was prepared; kernels that are held stay good.
    pub fn clear(&self) {
        self.shared.texts.get().clear();
        self.shared.recipes.get().clear();
        self.shared.code.clear();
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A program of a text for inputs of these types; not remembered.
    pub(crate) fn program_of_types(&self, text: &str, mut types: Vec<Input>) -> Result<Program> {
        let text = self.shared.parse(text)?;
        // In the order in which the text uses them, as `lower` wants them.
        let order = |input: &Input| text.names.iter().position(|n| *n == input.name);
        let unused = types.extract_if(.., |input| order(input).is_none()).collect();
        types.sort_by_key(order);
        Ok(Program::new(Source::Text(text.ast.clone()), Some(text.source.clone()), types).with_unused(unused))
    }

    /// The program of a text for the types of an environment, and the arrays of its inputs.
    fn program<'e, 'a>(&self, text: &str, env: &'e Env<'a>) -> Result<(Arc<Program>, Inputs<'e, 'a>)> {
        let text = self.shared.text(text)?;
        let mut inputs = SmallVec::new();
        let mut bound: SmallVec<[Option<&ArrayRef<'a>>; 4]> = SmallVec::new();
        for (i, name) in text.names.iter().enumerate() {
            let array = env.get_near(i, name);
            inputs.extend(array);
            bound.push(array);
        }
        let is_unused = |name: &&str| !text.names.iter().any(|used| used == name);
        let unused = || {
            let unused = env.names().filter(is_unused).take(MOST_UNUSED);
            unused.filter_map(|name| Some(type_of(name, env.get(name)?))).collect()
        };
        Ok((text.program(&bound, unused), inputs))
    }

    /// The program of expressions, and the arrays of its last inputs.
    fn expr_program<'a>(&self, exprs: &[crate::expr::Expr<'a>]) -> Result<(Arc<Program>, Vec<ArrayRef<'a>>)> {
        let (recipe, data) = Recipe::of(exprs, self.shared.limits.nodes)?;
        self.shared.check_inputs(recipe.inputs.len())?;
        let recipe = Arc::new(recipe);
        if let Some(program) = self.shared.recipes.get().get(&recipe) {
            return Ok((program, data));
        }
        let inputs = recipe.inputs.clone();
        let program = Arc::new(Program::new(Source::Recipe(recipe.clone()), None, inputs));
        self.shared.recipes.get().insert(recipe, program.clone());
        Ok((program, data))
    }
}

impl Text {
    /// The program for what each name is bound to; `unused` is what else was given.
    fn program(&self, bound: &[Option<&ArrayRef<'_>>], unused: impl FnOnce() -> Vec<Input>) -> Arc<Program> {
        let key = |array: &Option<&ArrayRef<'_>>| {
            array.map_or(0, |array| type_key(array.dtype(), array.is_weak(), array.shape().len()))
        };
        let key: TypeKey = bound.iter().map(key).collect();
        if let Some((_, program)) = self.programs.get().iter().find(|(types, _)| *types == key) {
            return program.clone();
        }
        let types = self.names.iter().zip(bound).filter_map(|(name, array)| Some(type_of(name, (*array)?))).collect();
        let program = Program::new(Source::Text(self.ast.clone()), Some(self.source.clone()), types);
        let program = Arc::new(program.with_unused(unused()));
        self.programs.add((key, program.clone()), TYPES);
        program
    }
}

/// The part of a [`TypeKey`] for an array.
#[inline]
fn type_key(dtype: numfuse_core::dtype::DType, is_weak: bool, rank: usize) -> u32 {
    1 + (u32::from(is_weak) | (dtype as u32) << 1 | (rank as u32) << 8)
}

/// An array as an input of any sizes.
fn type_of(name: &str, array: &ArrayRef<'_>) -> Input {
    Input {
        name: name.to_owned(),
        dtype: array.dtype(),
        weak: array.is_weak(),
        shape: array.shape().iter().map(|_| Size::Unknown).collect(),
    }
}

impl Shared {
    /// A text, parsed now or before.
    fn text(&self, text: &str) -> Result<Arc<Text>> {
        if let Some(found) = self.texts.get().get(text) {
            return Ok(found);
        }
        let parsed = Arc::new(self.parse(text)?);
        self.texts.get().insert(text.into(), parsed.clone());
        Ok(parsed)
    }

    fn parse(&self, text: &str) -> Result<Text> {
        self.counters.texts.fetch_add(1, Ordering::Relaxed);
        let (ast, diagnostics) = numfuse_lang::parse(text, &self.limits.source());
        let source: Arc<str> = text.into();
        let Some(ast) = ast.filter(|_| diagnostics.is_empty()) else {
            return Err(Error::in_text(diagnostics, source));
        };
        let names: Vec<String> = ast.free_names().into_iter().map(str::to_owned).collect();
        self.check_inputs(names.len())?;
        Ok(Text { source, ast: Arc::new(ast), names, programs: Recent::new() })
    }

    fn check_inputs(&self, inputs: usize) -> Result<()> {
        let most = self.limits.inputs;
        if inputs <= most {
            return Ok(());
        }
        let error = Diagnostic::new(Code::GraphLimit, format!("an expression of {inputs} inputs"));
        Err(error.why(format!("the limit is {most}")).into())
    }
}

fn one(mut results: Results, text: &str) -> Result<Array> {
    match results.len() {
        1 => Ok(results.remove(0)),
        n => Err(several(n, text)),
    }
}

fn several(n: usize, text: &str) -> Error {
    let error = Diagnostic::new(Code::Arguments, format!("the text has {n} results"));
    Error::in_text(vec![error.hint("`Engine::evaluate_with` returns them all")], text)
}
