//! `numfuse eval`: reads the inputs, evaluates, prints the results and writes them.

use crate::{Failure, engine, tier};
use numfuse::{AsArrayRef, Backend, Code, Device, Diagnostic, Engine, Env, Error, Tier, npy};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `numfuse eval`.
#[derive(clap::Args)]
pub struct Args {
    /// The expression; results are separated by commas
    text: String,
    /// Inputs: `name=file.npy`, or `name=1.5`, `name=true`
    #[arg(value_name = "NAME=VALUE", value_parser = binding)]
    inputs: Vec<(String, Value)>,
    /// Write the result here; once for each result
    #[arg(short, long, value_name = "FILE.npy")]
    output: Vec<PathBuf>,
    /// At most so many threads; as many as the machine has if 0
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Interpret instead of compiling: slow, the same bits
    #[arg(long)]
    interpret: bool,
    /// The code generator: widest, avx512, avx2 or cranelift, which serves where a wider one cannot; the same bits
    #[arg(long, value_parser = tier, default_value = "widest", conflicts_with = "interpret")]
    tier: Tier,
    /// Where to compute: cpu, cuda:0 for the first GPU, or auto, which takes the CPU where there is no GPU; the same bits
    #[arg(long, default_value = "cpu", conflicts_with_all = ["interpret", "tier"])]
    device: String,
    /// Print how long it took, with and without compiling
    #[arg(long)]
    time: bool,
}

/// What a name is bound to on the command line.
#[derive(Clone)]
enum Value {
    File(PathBuf),
    Bool(bool),
    Int(i64),
    Float(f64),
}

/// Reads `name=value`.
fn binding(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write name=file.npy or name=number")?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err("write name=file.npy or name=number".into());
    }
    let value = match value {
        "true" | "True" => Value::Bool(true),
        "false" | "False" => Value::Bool(false),
        _ => match (value.parse(), value.parse()) {
            (Ok(int), _) => Value::Int(int),
            (_, Ok(float)) => Value::Float(float),
            _ => Value::File(value.into()),
        },
    };
    Ok((name.to_owned(), value))
}

pub fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let mut bound: Vec<(&str, Box<dyn AsArrayRef>)> = Vec::new();
    for (name, value) in &args.inputs {
        let array: Box<dyn AsArrayRef> = match value {
            Value::File(path) => Box::new(npy::read(path)?),
            Value::Bool(value) => Box::new(*value),
            Value::Int(value) => Box::new(*value),
            Value::Float(value) => Box::new(*value),
        };
        bound.push((name, array));
    }
    let mut env = Env::new();
    for (name, array) in &bound {
        env.insert(*name, array.as_ref());
    }
    let backend = if args.interpret { Backend::Interp } else { Backend::Auto };
    let on_cpu = || engine(args.threads, backend, args.tier);
    let mut engine = match device(&args.device)? {
        device if device.is_cpu() => on_cpu()?,
        device => Engine::builder().threads(args.threads).device(&device).build()?,
    };
    let evaluate = |engine: &Engine| {
        let start = Instant::now();
        engine.evaluate_with(&args.text, &env, None).map(|results| (results, start.elapsed()))
    };
    let (results, first) = match evaluate(&engine) {
        // A GPU without a compiler is not one to use, either.
        Err(error) if args.device == "auto" && error.code() == Code::DeviceCompiler => {
            no_gpu(&error);
            engine = on_cpu()?;
            evaluate(&engine)?
        }
        found => found?,
    };
    if !args.output.is_empty() && args.output.len() != results.len() {
        let title = format!("{} results and {} output files", results.len(), args.output.len());
        let error = Diagnostic::new(Code::Arguments, title).hint("give `-o` once for each result");
        return Err(Failure::Error(error.into()));
    }
    for result in &results {
        writeln!(out, "{result:#}")?;
    }
    for (path, result) in args.output.iter().zip(&results) {
        npy::write(path, result)?;
    }
    if args.time {
        let mut best = Duration::MAX;
        let start = Instant::now();
        while best == Duration::MAX || start.elapsed() < Duration::from_millis(200) {
            best = best.min(evaluate(&engine)?.1);
        }
        writeln!(out, "first {first:.2?}, with parsing and compiling; then {best:.2?} at best")?;
    }
    Ok(())
}

/// The device of this name. If any will do and there is none, says so.
fn device(name: &str) -> Result<Device, Failure> {
    if name != "auto" {
        return Ok(name.parse()?);
    }
    Ok(Device::cuda(0).unwrap_or_else(|error| {
        no_gpu(&error);
        Device::cpu()
    }))
}

/// Says why the CPU computes where any device would have done.
fn no_gpu(error: &Error) {
    eprintln!("numfuse: computing on the CPU, since there is no GPU to use: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_read() {
        let read = |text: &str| match binding(text) {
            Ok((name, Value::Int(value))) => format!("{name} int {value}"),
            Ok((name, Value::Float(value))) => format!("{name} float {value}"),
            Ok((name, Value::Bool(value))) => format!("{name} bool {value}"),
            Ok((name, Value::File(path))) => format!("{name} file {}", path.display()),
            Err(_) => "wrong".to_owned(),
        };
        assert_eq!(read("a=3"), "a int 3");
        assert_eq!(read("a = -1.5e3"), "a float -1500");
        assert_eq!(read("a=nan"), "a float NaN");
        assert_eq!(read("a=True"), "a bool true");
        assert_eq!(read("a=x=y.npy"), "a file x=y.npy");
        assert_eq!(read("a"), "wrong");
        assert_eq!(read("=1"), "wrong");
    }
}
