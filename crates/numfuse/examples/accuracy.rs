//! Measures how far the elementary functions are from the exact values, through the engine, as a user's program calls
//! them. Prints a table; `--write` puts it into `docs/accuracy.md`.
//!
//! ```text
//! cargo run --release --example accuracy -- [--full] [--write] [--f32 | --f64] [function...]
//! ```
//!
//! One-argument functions are measured at every `f32` with `--full`, at one in 4099 without; everything else at a million
//! points, or 20,000, half of which are chosen to be hard. The references are those of the tests of the core.

#[path = "../../core/tests/reference/mod.rs"]
mod reference;

use numfuse::ops::{Check, Op};
use numfuse::{Element, Engine, Env};
use reference::{Function, Points, Wide, function};
use std::f64::consts::FRAC_PI_2;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How many points a thread takes at a time.
const CHUNK: u64 = 1 << 18;
/// Where the table is kept.
const DOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/accuracy.md");

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    const FLAGS: [&str; 5] = ["--full", "--sample", "--write", "--f32", "--f64"];
    if let Some(unknown) = flags.iter().find(|f| !FLAGS.contains(&f.as_str())) {
        return Err(format!("unknown option {unknown}; there are {}", FLAGS.join(", ")).into());
    }
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let mut rows = Vec::new();
    for op in Op::all().filter(|op| op.def().check.is_some()) {
        if !names.is_empty() && !names.iter().any(|n| n == op.name()) {
            continue;
        }
        let check = op.def().check.ok_or("only ops with a bound are measured")?;
        let reference = function(op.name()).ok_or_else(|| format!("{op} has no reference"))?;
        for plan in plans(op, has("--full")) {
            if has(if plan.single { "--f64" } else { "--f32" }) {
                continue;
            }
            let start = Instant::now();
            let row = measure(op, check, reference, &plan)?;
            eprintln!("{row} {:.1} s", start.elapsed().as_secs_f64());
            rows.push(row);
        }
    }
    let table = table(&rows, has("--write"))?;
    if has("--write") {
        std::fs::write(DOC, table)?
    } else {
        print!("{table}")
    }
    let over = rows.iter().filter(|row| row.worst.error > row.bound).count();
    if over > 0 { Err(format!("{over} functions exceed their bounds").into()) } else { Ok(()) }
}

/// What to measure a function at.
struct Plan {
    single: bool,
    binary: bool,
    /// How many points.
    count: u64,
    /// For one-argument `f32` functions: the n-th point is the float with the bits `n * stride`.
    stride: Option<u64>,
}

fn plans(op: Op, full: bool) -> [Plan; 2] {
    let binary = op.def().params.len() == 2;
    let points = if full { 1_000_000 } else { 20_000 };
    let stride = if full { 1 } else { 4099 };
    let single = if binary {
        Plan { single: true, binary, count: points, stride: None }
    } else {
        Plan { single: true, binary, count: (1 << 32) / stride, stride: Some(stride) }
    };
    [single, Plan { single: false, binary, count: points, stride: None }]
}

/// The largest error found, and where.
#[derive(Clone, Copy, Default)]
struct Worst {
    error: f64,
    args: [f64; 2],
    /// How many results were not the nearest.
    inexact: u64,
}

impl Worst {
    fn add(&mut self, error: Option<f64>, args: [f64; 2]) {
        // Up to 1/2 a result is the nearest, or one of two.
        let Some(error) = error.filter(|e| *e > 0.5) else { return };
        self.inexact += 1;
        if error > self.error {
            (self.error, self.args) = (error, args);
        }
    }

    fn merge(&mut self, other: Worst) {
        self.inexact += other.inexact;
        if other.error > self.error {
            (self.error, self.args) = (other.error, other.args);
        }
    }
}

/// A line of the table.
struct Row {
    name: &'static str,
    single: bool,
    binary: bool,
    points: u64,
    worst: Worst,
    bound: f64,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Worst { error, args: [x, y], inexact } = self.worst;
        let dtype = if self.single { "f32" } else { "f64" };
        // The error is measured only where a result is not the nearest; elsewhere it is at most 1/2.
        let error = error.max(0.5);
        let shown = |x: f64| if self.single { format!("{:e}", x as f32) } else { format!("{x:e}") };
        let place = match (inexact, self.binary) {
            (0, _) => "-".to_string(),
            (_, true) => format!("{}, {}", shown(x), shown(y)),
            (_, false) => shown(x),
        };
        let nearest = 100.0 * (1.0 - inexact as f64 / self.points as f64);
        let (name, points, bound) = (self.name, self.points, self.bound);
        write!(f, "| {name} | {dtype} | {points} | {nearest:.2}% | {error:.4} | {place} | {bound} |")
    }
}

fn measure(op: Op, check: Check, reference: &'static Function, plan: &Plan) -> Result<Row, Failure> {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Ok(Worst::default()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let found = work(op, check, reference, plan, &next);
                let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                match (&mut *total, found) {
                    (Ok(total), Ok(found)) => total.merge(found),
                    (total @ Ok(_), Err(e)) => *total = Err(e),
                    (Err(_), _) => {}
                }
            });
        }
    });
    let worst = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())?;
    let (single, binary, points) = (plan.single, plan.binary, plan.count);
    Ok(Row { name: op.name(), single, binary, points, worst, bound: check.ulp })
}

/// Measures chunks until there are none left.
fn work(op: Op, check: Check, reference: &Function, plan: &Plan, next: &AtomicU64) -> Result<Worst, Failure> {
    let engine = Engine::builder().threads(1).build()?;
    let mut wide = Wide::new();
    let mut worst = Worst::default();
    let step = if plan.stride.is_some() { CHUNK } else { 1000 };
    loop {
        let start = next.fetch_add(step, Ordering::Relaxed);
        if start >= plan.count {
            return Ok(worst);
        }
        let end = (start + step).min(plan.count);
        if plan.single {
            let points: Vec<[f32; 2]> = (start..end)
                .map(|n| match plan.stride {
                    Some(stride) => [f32::from_bits((n * stride) as u32), 0.0],
                    None => point(op, check, true, n).map(|x| x as f32),
                })
                .collect();
            for ([x, y], got) in points.iter().zip(evaluate(&engine, op, plan.binary, &points)?) {
                worst.add(reference.error_f32(&[*x, *y], got), [f64::from(*x), f64::from(*y)]);
            }
        } else {
            let points: Vec<[f64; 2]> = (start..end).map(|n| point(op, check, false, n)).collect();
            for (args, got) in points.iter().zip(evaluate(&engine, op, plan.binary, &points)?) {
                worst.add(reference.error_f64(&mut wide, args, got), *args);
            }
        }
    }
}

fn evaluate<T: Element>(engine: &Engine, op: Op, binary: bool, points: &[[T; 2]]) -> Result<Vec<T>, Failure> {
    let (x, y): (Vec<T>, Vec<T>) = points.iter().map(|p| (p[0], p[1])).unzip();
    let (text, env) = if binary {
        (format!("{op}(x, y)"), Env::new().with("x", &x).with("y", &y))
    } else {
        (format!("{op}(x)"), Env::new().with("x", &x))
    };
    Ok(engine.evaluate(&text, &env)?.to_vec::<T>()?)
}

/// The n-th point: any bits, in the range of the check, near 0 and 1, or where the function is hard.
fn point(op: Op, check: Check, single: bool, n: u64) -> [f64; 2] {
    let mut random = Points::new(n.wrapping_mul(0xd134_2543_de82_ef95));
    let (low, high) = check.range;
    // The limits of exponents and arguments.
    let (exponents, largest) = if single { (149.0, 88.8) } else { (1074.0, 709.8) };
    let spread = 2.0_f64.powf(random.within(-60.0, 0.0)) * if random.bits() & 1 == 0 { 1.0 } else { -1.0 };
    let x = match n % 8 {
        0 | 1 => random.any(single),
        2 | 3 => random.within(low, high),
        4 => spread,
        5 => 1.0 + spread,
        6 => random.within(-1.2 * largest, 1.2 * largest),
        _ => match op.name() {
            "sin" | "cos" | "tan" => {
                let turns = 2.0_f64.powf(random.within(0.0, if single { 100.0 } else { 1000.0 })).round();
                let near = turns * FRAC_PI_2;
                f64::from_bits(near.to_bits().wrapping_add(random.bits() % 5).wrapping_sub(2))
            }
            "exp2" => random.within(-1.01 * exponents, 1.01 * exponents),
            _ => random.within(-3.0, 3.0),
        },
    };
    let y = match (op.name(), n % 5) {
        // y log2 x over the range of exponents, or an integer power.
        ("pow", 0..=2) => random.within(-1.0, 1.0) * exponents / x.abs().log2(),
        ("pow", 3) => random.within(-70.0, 70.0).round(),
        (_, 0) => random.any(single),
        (_, 1) => x * 2.0_f64.powf(random.within(-4.0, 4.0)),
        _ => random.within(low, high),
    };
    [x, if op.def().params.len() == 2 { y } else { 0.0 }]
}

/// The document; with `keep`, rows of the present one that were not measured now stay.
fn table(rows: &[Row], keep: bool) -> Result<String, Failure> {
    let old = if keep { std::fs::read_to_string(DOC).unwrap_or_default() } else { String::new() };
    let mut text = String::from(
        "# Accuracy\n\n\
         The largest error found of each elementary function, in units in the last place (ULPs) of the exact value, and the\n\
         bound that the tests hold it to. *Nearest* is the share of results that are the correctly rounded ones, whose\n\
         error is at most 0.5. One-argument functions in `f32` are measured at all 4,294,967,296 arguments. Results at\n\
         zeros, infinities, NaN and outside the domain are compared as bits, and are among the points.\n\n\
         The references are CORE-MATH and, where a result is not the correctly rounded one, 192-bit arithmetic\n\
         (astro-float). Written by `cargo run --release --example accuracy -- --full --write`; do not edit.\n\n\
         | function | dtype | points | nearest | largest error | at | bound |\n|---|---|---|---|---|---|---|\n",
    );
    for op in Op::all().filter(|op| op.def().check.is_some()) {
        for (dtype, single) in [("f32", true), ("f64", false)] {
            let head = format!("| {op} | {dtype} |");
            if let Some(row) = rows.iter().find(|row| row.name == op.name() && row.single == single) {
                writeln!(text, "{row}")?;
            } else if let Some(line) = old.lines().find(|line| line.starts_with(&head)) {
                writeln!(text, "{line}")?;
            }
        }
    }
    Ok(text)
}
