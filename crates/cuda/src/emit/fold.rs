//! Reductions in the order of [`numfuse_core::kernel::reduce`]: lanes in registers and across threads, then a tree of leaves.
//!
//! A state component `c` of reduction `r` is the array `s{r}_{c}`, one element for each lane that a thread has. Lanes
//! and leaves that have no elements hold the initial state, which merging leaves alone; only where a reducer counts is
//! an empty side skipped, since its merge divides by the count.

use super::Unit;
use super::prim::{constant, memory_type, value_type};
use super::stage::name;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::reduce::State;
use numfuse_core::kernel::{Nest, Reducer, Value, reduce};
use numfuse_core::literal::Literal;

/// The threads of a warp take part in every exchange.
pub(super) const ALL: &str = "0xffffffffu";

/// A reduction being emitted.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// Its index in the kernel.
    pub index: usize,
    pub reducer: Reducer,
    pub dtype: DType,
    pub input: Value,
    init: State<Literal>,
    /// Lanes of a leaf, if the order matters.
    lanes: Option<usize>,
}

impl Fold {
    /// The reductions of a stage; their functions are emitted.
    pub fn of(unit: &mut Unit<'_>, stage: usize) -> Vec<Fold> {
        let nest = unit.kernel.nest;
        let folds: Vec<Fold> = unit
            .kernel
            .reductions_of(stage)
            .map(|(index, r)| Fold {
                index,
                reducer: r.reducer,
                dtype: r.dtype,
                input: r.input,
                init: r.reducer.init(r.dtype),
                lanes: (!r.reducer.any_order(r.dtype)).then(|| reduce::lanes(nest, r.dtype)),
            })
            .collect();
        for fold in &folds {
            let (step, merge) = (fold.function("step"), fold.function("merge"));
            if unit.emitted.insert(step.clone()) {
                let state = fold.components() as u32;
                let counts = fold.reducer.counts();
                let body = fold.reducer.step(fold.dtype);
                unit.body_function(&step, &body, fold.dtype, state + 1 + u32::from(counts));
                let body = fold.reducer.merge(fold.dtype);
                unit.body_function(&merge, &body, fold.dtype, 2 * state + 2 * u32::from(counts));
            }
        }
        folds
    }

    /// How many components a state has.
    pub fn components(&self) -> usize {
        self.init.len()
    }

    /// How often a lane comes up in one step of so many elements: lanes that threads hold several of.
    pub fn phases(&self, elements: usize) -> usize {
        self.lanes.map_or(1, |lanes| lanes.div_ceil(elements))
    }

    fn function(&self, what: &str) -> String {
        format!("{what}_{}_{}", self.reducer.name(), self.dtype)
    }

    fn ty(&self) -> &'static str {
        value_type(self.dtype)
    }

    /// The result of no elements. Empty minima are refused before anything runs.
    fn empty(&self) -> String {
        constant(self.reducer.empty(self.dtype).unwrap_or(Literal::from_bits(self.dtype, 0)))
    }

    /// Declares the states of a thread's lanes.
    pub fn declare_states(&self, unit: &mut Unit<'_>, lanes: usize) {
        for (c, init) in self.init.iter().enumerate() {
            let values = vec![constant(*init); lanes].join(", ");
            unit.text.line(&format!("{} s{}_{c}[{lanes}] = {{{values}}};", self.ty(), self.index));
        }
    }

    /// Folds the value of this reduction's element into a lane; `count` is how many elements the lane then has.
    pub fn step(&self, unit: &mut Unit<'_>, lane: &str, count: &str) {
        let mut args: Vec<String> = (0..self.components()).map(|c| format!("s{}_{c}[{lane}]", self.index)).collect();
        args.push(name(unit.kernel, self.input));
        if self.reducer.counts() {
            args.push(format!("({}){count}", self.ty()));
        }
        unit.text.line(&format!("{}({});", self.function("step"), args.join(", ")));
    }

    /// Merges a state into another: `left` and `right` name components, `counts` the elements of each side, as integers.
    pub fn merge(
        &self,
        unit: &mut Unit<'_>,
        left: impl Fn(usize) -> String,
        right: impl Fn(usize) -> String,
        counts: [&str; 2],
    ) {
        let components = self.components();
        let mut args: Vec<String> = (0..components).map(left).chain((0..components).map(right)).collect();
        let mut condition = String::new();
        if self.reducer.counts() {
            args.extend(counts.iter().map(|count| format!("({})({count})", self.ty())));
            condition = format!("if ({} > 0) ", counts[1]);
        }
        unit.text.line(&format!("{condition}{}({});", self.function("merge"), args.join(", ")));
    }

    /// Merges the lanes of a leaf of `elements`, an expression, that `threads` threads hold `vector` neighbours each of,
    /// in some phases. The state of the leaf is then lane 0 of the first of them.
    pub fn merge_lanes(&self, unit: &mut Unit<'_>, threads: usize, vector: usize, phases: usize, elements: &str) {
        let r = self.index;
        let counts = self.reducer.counts();
        let lanes = threads * vector * phases;
        if counts {
            unit.text.line(&format!("idx c{r}[{}];", vector * phases));
            unit.text.line("#pragma unroll");
            unit.text.open(&format!("for (int q = 0; q < {}; q++)", vector * phases));
            unit.text
                .line(&format!("const idx lane = q / {vector} * {} + t * {vector} + q % {vector};", threads * vector));
            unit.text
                .line(&format!("c{r}[q] = {elements} > lane ? ({elements} - lane + {}) / {lanes} : 0;", lanes - 1));
            unit.text.close();
        }
        // Within a thread, `distance` lanes apart, for the first `distance` ones.
        let within = |unit: &mut Unit<'_>, distance: usize| {
            for k in 0..distance {
                let (left, right) = (k, k + distance);
                self.merge(
                    unit,
                    |c| format!("s{r}_{c}[{left}]"),
                    |c| format!("s{r}_{c}[{right}]"),
                    [&format!("c{r}[{left}]"), &format!("c{r}[{right}]")],
                );
                if counts {
                    unit.text.line(&format!("c{r}[{left}] += c{r}[{right}];"));
                }
            }
        };
        let mut phase = phases / 2;
        while phase > 0 {
            within(unit, phase * vector);
            phase /= 2;
        }
        if threads > 1 {
            unit.text.line("#pragma unroll");
            unit.text.open(&format!("for (int d = {}; d > 0; d /= 2)", threads / 2));
            unit.text.line("#pragma unroll");
            unit.text.open(&format!("for (int k = 0; k < {vector}; k++)"));
            for c in 0..self.components() {
                let other = self.exchange("down", &format!("s{r}_{c}[k]"), &format!("d, {threads}"));
                unit.text.line(&format!("{} b{c} = {other};", self.ty()));
            }
            if counts {
                unit.text.line(&format!("const idx cb = (idx)__shfl_down_sync({ALL}, c{r}[k], d, {threads});"));
            }
            self.merge(unit, |c| format!("s{r}_{c}[k]"), |c| format!("b{c}"), [&format!("c{r}[k]"), "cb"]);
            if counts {
                unit.text.line(&format!("c{r}[k] += cb;"));
            }
            unit.text.close();
            unit.text.close();
        }
        let mut distance = vector / 2;
        while distance > 0 {
            within(unit, distance);
            distance /= 2;
        }
    }

    /// A value of another thread.
    fn exchange(&self, how: &str, value: &str, arguments: &str) -> String {
        let how = if how.is_empty() { "__shfl_sync".into() } else { format!("__shfl_{how}_sync") };
        if self.dtype.size() < 4 {
            format!("({}){how}({ALL}, (i32){value}, {arguments})", self.ty())
        } else {
            format!("{how}({ALL}, {value}, {arguments})")
        }
    }

    /// Declares `r{r}`, the result, before the loop.
    pub fn declare_result(&self, unit: &mut Unit<'_>) {
        let init = constant(self.init[self.reducer.result()]);
        unit.text.line(&format!("{} r{} = {init};", self.ty(), self.index));
    }

    /// Sets the result from lane 0 of the first of the threads that share a row, which get it as well.
    pub fn share_result(&self, unit: &mut Unit<'_>, threads: usize) {
        let r = self.index;
        if threads > 1 {
            let shared = self.exchange("", &format!("r{r}"), &format!("0, {threads}"));
            unit.text.line(&format!("r{r} = {shared};"));
        }
        unit.text.line(&format!("if (n == 0) r{r} = {};", self.empty()));
    }

    /// The state that a thread has in lane 0, as the result.
    pub fn lane_result(&self) -> String {
        format!("s{}_{}[0]", self.index, self.reducer.result())
    }

    /// A component in memory: `base` is the address of `count` states of 8 bytes for each component of each reduction.
    pub fn place(&self, base: &str, component: usize, count: &str, at: &str) -> String {
        format!("*({}*)({base} + ({component} * {count} + {at}) * 8)", memory_type(self.dtype))
    }

    /// Emits one level of the tree over states in memory: every `radix` neighbours, `d` states apart, become the first of them.
    /// The first component of this reduction is `first`.
    fn level(&self, unit: &mut Unit<'_>, memory: &Tree<'_>, first: usize) {
        let Tree { base, count, start, unit: elements, threads, radix } = memory;
        unit.text.open(&format!(
            "for (i64 at = (i64)threadIdx.x * {radix} * d; at + d < {count}; at += (i64){threads} * {radix} * d)"
        ));
        for c in 0..self.components() {
            unit.text.line(&format!("{} a{c}[{radix}];", self.ty()));
        }
        unit.text.line("#pragma unroll");
        unit.text.open(&format!("for (int k = 0; k < {radix}; k++)"));
        unit.text.line(&format!("if (at + k * d >= {count}) break;"));
        for c in 0..self.components() {
            let place = self.place(base, first + c, count, "(at + k * d)");
            unit.text.line(&format!("a{c}[k] = {place};"));
        }
        unit.text.close();
        unit.text.line("#pragma unroll");
        unit.text.open(&format!("for (int s = 1; s < {radix}; s *= 2)"));
        unit.text.line("#pragma unroll");
        unit.text.open(&format!("for (int k = 0; k + s < {radix}; k += 2 * s)"));
        unit.text.line(&format!("if (at + (k + s) * d >= {count}) break;"));
        if self.reducer.counts() {
            let end = |index: &str| format!("least({start} + (at + {index} * d) * {elements}, n)");
            unit.text.line(&format!("const i64 before = {}, middle = {};", end("k"), end("(k + s)")));
            unit.text.line(&format!("const i64 after = {};", end("(k + 2 * s)")));
            unit.uses.least = true;
        }
        self.merge(unit, |c| format!("a{c}[k]"), |c| format!("a{c}[k + s]"), ["(middle - before)", "(after - middle)"]);
        unit.text.close();
        unit.text.close();
        for c in 0..self.components() {
            let place = self.place(base, first + c, count, "at");
            unit.text.line(&format!("{place} = a{c}[0];"));
        }
        unit.text.close();
    }

    /// The result of a column, from the state: that of no elements if there are none.
    pub fn column_result(&self, state: &str) -> String {
        format!("reduced == 0 ? {} : {state}", self.empty())
    }
}

/// States in memory that a tree merges into the first of them.
pub(super) struct Tree<'a> {
    /// The address of the first one, an expression.
    pub base: &'a str,
    /// How many there are.
    pub count: &'a str,
    /// State `i` is of the elements from `start + i * unit`, of `n`.
    pub start: &'a str,
    pub unit: usize,
    /// Threads of the block.
    pub threads: usize,
    /// How many neighbours a thread merges at once, a power of two: more where memory is far away.
    pub radix: usize,
}

/// Emits the trees of some reductions; the block waits before and after.
pub(super) fn trees(unit: &mut Unit<'_>, folds: &[Fold], memory: &Tree<'_>) {
    unit.text.line("__syncthreads();");
    unit.text.open(&format!("for (i64 d = 1; d < {}; d *= {})", memory.count, memory.radix));
    let mut first = 0;
    for fold in folds {
        fold.level(unit, memory, first);
        first += fold.components();
    }
    unit.text.line("__syncthreads();");
    unit.text.close();
}

/// Lanes of a thread that hold a reduction's states for rows, by the elements of a step.
pub(super) fn phases(folds: &[Fold], elements: usize, short: bool) -> Vec<usize> {
    debug_assert_eq!(reduce::leaf(Nest::Rows) % elements, 0);
    folds.iter().map(|fold| if short { 1 } else { fold.phases(elements) }).collect()
}
