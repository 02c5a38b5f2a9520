//! What whole evaluations cost on a GPU: the host's time of a call, and arrays of the host streamed through; and products of
//! matrices, with what is fused into them. A part of `scripts/gpu-check`; `crates/cuda/examples/device_bench.rs` times the
//! kernels themselves.
//!
//! ```text
//! device_calls [--bytes N] [--reps N] [--sizes 1000,...] [--json FILE]
//! device_calls products CASES.json [--lib NAME] [--reps N] [--seconds S] [--json FILE]
//! ```
//!
//! A line of JSON for each number. Medians; streamed arrays have `--bytes` each, and their results are looked at. Those of
//! products are for `benches/gpu/products.py` to look at, which writes the file of cases: for each the files that it is
//! computed from, the file that its result goes to, and the shapes that it is timed with.
#![allow(dead_code, reason = "modules that other programs use more of, and a test that includes this one")]

#[path = "../../cuda/examples/common/options.rs"]
mod options;
#[path = "../../cuda/examples/common/record.rs"]
mod record;

use numfuse::{Array, DType, Device, Engine, Env, Error, npy, vars};
use options::Options;
use record::Record;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Calls in a row, of which the host's time is taken.
const CALLS: usize = 200;
/// Calls that do not count.
const WARM_UP: usize = 3;
/// Calls in a row of which one takes long: so that the host's part is hidden behind the device's.
const TIMED_CALLS: u32 = 4;
const TEXT: &str = "x*y + z";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("device_calls: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what a command line says.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<(), String> {
    let options = Options::read(arguments, &["bytes", "reps", "sizes", "json", "lib", "seconds"])?;
    let json = options.get("json").map(PathBuf::from);
    let (bytes, reps) = (options.parse("bytes", 1 << 30)?, options.parse("reps", 15)?);
    let device = Device::cuda(0).map_err(|e| e.to_string())?;
    let engine = Engine::builder().device(&device).build().map_err(|e| e.to_string())?;
    match options.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["products", file] => return products(&engine, Path::new(file), &options, json.as_deref()),
        _ => return Err("give me nothing, or `products CASES.json`".into()),
    }
    for n in options.list("sizes", "1000,1000000")? {
        calls(&engine, n, reps, json.as_deref())?;
    }
    stream(&engine, bytes, reps.min(5), json.as_deref())
}

/// The host's time of calls on arrays of the device: a held kernel, a text that the engine knows, and one with a new result.
fn calls(engine: &Engine, n: usize, reps: usize, json: Option<&Path>) -> Result<(), String> {
    let wrong = |e: Error| format!("calls of {n}: {e}");
    let device = engine.device();
    let there = |seed| numbers(&[n], seed).and_then(|array| array.to_device(device));
    let (x, y, z) = (there(0).map_err(wrong)?, there(1).map_err(wrong)?, there(2).map_err(wrong)?);
    let mut out = there(3).map_err(wrong)?;
    let kernel = engine.prepare(TEXT, &vars! { x, y, z }).map_err(wrong)?;
    let held = host_us(engine, reps, || kernel.run_into(&vars! { x, y, z }, &mut out)).map_err(wrong)?;
    let mut out = there(3).map_err(wrong)?;
    let into = || engine.evaluate_into(TEXT, &vars! { x, y, z }, &mut out);
    let known = host_us(engine, reps, into).map_err(wrong)?;
    let fresh = host_us(engine, reps, || engine.evaluate(TEXT, &vars! { x, y, z }).map(drop)).map_err(wrong)?;
    for (what, (host, call)) in [("held kernel", held), ("known text", known), ("known text, new result", fresh)] {
        Record::new("evaluate")
            .text("what", what)
            .count("elements", n)
            .number("host_us", host)
            .number("call_us", call)
            .write(json)?;
    }
    Ok(())
}

/// Arrays of the host through the device: three up, one down.
fn stream(engine: &Engine, bytes: usize, reps: usize, json: Option<&Path>) -> Result<(), String> {
    let n = bytes / size_of::<f32>();
    let wrong = |e: Error| format!("arrays of the host: {e}");
    let make = |seed| numbers(&[n], seed).map_err(wrong);
    let (x, y, z) = (make(0)?, make(1)?, make(2)?);
    let mut out = Array::zeros(DType::F32, &[n]).map_err(wrong)?;
    let mut seconds = Vec::new();
    for turn in 0..=reps.max(1) {
        let start = Instant::now();
        engine.evaluate_into(TEXT, &vars! { x, y, z }, &mut out).map_err(wrong)?;
        // The first one pins memory.
        if turn > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let slice = |array: &Array| array.to_vec::<f32>().map_err(wrong);
    let (x, y, z, out) = (slice(&x)?, slice(&y)?, slice(&z)?, slice(&out)?);
    if let Some(i) = (0..n).find(|i| out[*i].to_bits() != (x[*i] * y[*i] + z[*i]).to_bits()) {
        return Err(format!("arrays of the host: element {i} is {}", out[i]));
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Record::new("stream")
        .number("bytes", bytes as f64)
        .number("ms", median * 1e3)
        .number("up_gbs", 3.0 * bytes as f64 / median / 1e9)
        .write(json)
}

/// Evaluations of one product each, in files for somebody to compare, and timed.
fn products(engine: &Engine, file: &Path, options: &Options, json: Option<&Path>) -> Result<(), String> {
    let reps = options.parse("reps", 15)?;
    let end = Instant::now() + Duration::from_secs_f64(options.parse("seconds", 1e6)?);
    let lib = options.get("lib").unwrap_or("numfuse");
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let cases: Vec<Value> = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    for case in &cases {
        let name = field(case, "name")?;
        let about = |kind| Record::new(kind).text("case", name).text("lib", lib);
        if Instant::now() >= end {
            about("left out").text("why", "out of time").write(json)?;
            continue;
        }
        match product(engine, case, reps) {
            Ok((median, least)) => {
                about("large").number("ms", median).number("least_ms", least).write(json)?;
            }
            Err(why) => about("left out").text("why", &why).write(json)?,
        }
    }
    Ok(())
}

/// Writes the result of a case to its file; milliseconds of a call with arrays of the shapes that it is timed with, the median
/// and the least.
fn product(engine: &Engine, case: &Value, reps: usize) -> Result<(f64, f64), String> {
    let said = |e: Error| e.to_string();
    let (text, device) = (field(case, "text")?, engine.device());
    let mut compared = Vec::new();
    for (name, file) in entries(case, "compared")? {
        let file = file.as_str().ok_or("a file that is no text")?;
        compared.push((name, npy::read(file).and_then(|array| array.to_device(device)).map_err(said)?));
    }
    let result = engine.evaluate(text, &env(&compared)).and_then(|array| array.to_host()).map_err(said)?;
    npy::write(field(case, "result")?, &result).map_err(said)?;
    let mut timed = Vec::new();
    for (seed, (name, shape)) in entries(case, "timed")?.into_iter().enumerate() {
        let (dtype, shape): (String, Vec<usize>) = serde_json::from_value(shape.clone()).map_err(|e| e.to_string())?;
        let seed = seed as u32;
        let array = match dtype.as_str() {
            "f32" => numbers(&shape, seed),
            "f64" => {
                let count = shape.iter().product();
                Array::from_vec((0..count).map(|i| f64::from(number(i, seed))).collect(), &shape)
            }
            _ => return Err(format!("products of {dtype} are not timed")),
        };
        timed.push((name, array.and_then(|array| array.to_device(device)).map_err(said)?));
    }
    let env = env(&timed);
    let mut out = engine.evaluate(text, &env).map_err(said)?;
    let kernel = engine.prepare(text, &env).map_err(said)?;
    let mut ms = Vec::new();
    let mut measure = || -> Result<(), Error> {
        (0..WARM_UP).try_for_each(|_| kernel.run_into(&env, &mut out))?;
        device.synchronize()?;
        for _ in 0..reps.max(1) {
            let start = Instant::now();
            (0..TIMED_CALLS).try_for_each(|_| kernel.run_into(&env, &mut out))?;
            device.synchronize()?;
            ms.push(start.elapsed().as_secs_f64() * 1e3 / f64::from(TIMED_CALLS));
        }
        Ok(())
    };
    measure().map_err(said)?;
    ms.sort_by(f64::total_cmp);
    Ok((ms[ms.len() / 2], ms[0]))
}

fn env<'a>(arrays: &'a [(&'a str, Array)]) -> Env<'a> {
    arrays.iter().fold(Env::new(), |env, (name, array)| env.with(*name, array))
}

/// A text of a case.
fn field<'a>(case: &'a Value, name: &str) -> Result<&'a str, String> {
    case[name].as_str().ok_or_else(|| format!("a case without `{name}`"))
}

/// What a case has for each of its inputs.
fn entries<'a>(case: &'a Value, name: &str) -> Result<Vec<(&'a str, &'a Value)>, String> {
    let entries = case[name].as_object().ok_or_else(|| format!("a case without `{name}`"))?;
    Ok(entries.iter().map(|(name, value)| (name.as_str(), value)).collect())
}

/// Microseconds a call: until all are submitted, and until all are done.
fn host_us(engine: &Engine, reps: usize, mut call: impl FnMut() -> Result<(), Error>) -> Result<(f64, f64), Error> {
    (0..WARM_UP).try_for_each(|_| call())?;
    engine.device().synchronize()?;
    let (mut host, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..reps.max(1) {
        let start = Instant::now();
        (0..CALLS).try_for_each(|_| call())?;
        host.push(start.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
        engine.device().synchronize()?;
        whole.push(start.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
    }
    host.sort_by(f64::total_cmp);
    whole.sort_by(f64::total_cmp);
    Ok((host[host.len() / 2], whole[whole.len() / 2]))
}

/// Numbers from -1 to 1.
fn numbers(shape: &[usize], seed: u32) -> Result<Array, Error> {
    Array::from_vec((0..shape.iter().product()).map(|i| number(i, seed)).collect(), shape)
}

fn number(i: usize, seed: u32) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0
}
