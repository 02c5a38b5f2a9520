//! `numfuse`: evaluates array expressions over `.npy` files, and shows what becomes of them.
//!
//! ```text
//! numfuse eval "2*a + 3*b**2" a=a.npy b=1.5 -o out.npy
//! numfuse explain "sum(a*b)" "a:f32[n]" "b:f32[n]"
//! numfuse functions exp
//! ```
//!
//! No logic of the compiler is here. Results go to standard output, mistakes, drawn in the text, to standard error. The
//! exit code is 0, 1 if the expression or its data are wrong, 2 if the command line is.
#![forbid(unsafe_code)]

mod eval;
mod functions;

use clap::{Parser, Subcommand};
use numfuse::explain::Stage;
use numfuse::{Backend, Engine, Tier};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Array expressions, fused and compiled to native code.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Evaluate an expression over arrays and numbers
    #[command(after_help = "Example:\n  numfuse eval \"2*a + 3*b**2\" a=a.npy b=1.5 -o out.npy")]
    Eval(eval::Args),
    /// Show what becomes of an expression: tree, graph, plan, kernels, machine code
    #[command(after_help = "Example:\n  numfuse explain \"sum(a*b)\" \"a:f32[n]\" \"b:f32[n]\" --stage plan")]
    Explain {
        /// The expression
        text: String,
        /// Inputs: `name:dtype[sizes]`, where a size is a number, a name, or `_`; scalars are `name:dtype`
        #[arg(value_name = "NAME:TYPE")]
        inputs: Vec<String>,
        /// Show this stage alone: parse, graph, simplified, plan, kernel, clif, asm, or cuda, which is shown only so
        #[arg(long, value_parser = stage)]
        stage: Option<Stage>,
        /// The code generator: widest, avx512, avx2 or cranelift, which serves where a wider one cannot
        #[arg(long, value_parser = tier, default_value = "widest")]
        tier: Tier,
    },
    /// List the functions and operators, or tell about one
    Functions {
        /// A function or operator, such as `arctan2` or `**`
        name: Option<String>,
    },
}

/// Why a command ends early.
enum Failure {
    /// The expression or its data are wrong.
    Error(numfuse::Error),
    /// Standard output is closed or full.
    Output(io::Error),
}

impl From<numfuse::Error> for Failure {
    fn from(error: numfuse::Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    match run(cli.command, &mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            eprintln!("numfuse: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Error(error)) => {
            let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            eprint!("{}", error.report(color));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        Command::Eval(args) => eval::run(&args, out),
        Command::Explain { text, inputs, stage, tier } => {
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let explanation = engine(0, Backend::Auto, tier)?.explain_types(&text, &inputs)?;
            match stage {
                Some(stage) => writeln!(out, "{}", explanation.stage(stage).trim_end())?,
                None => write!(out, "{explanation}")?,
            }
            Ok(())
        }
        Command::Functions { name: None } => functions::list(out),
        Command::Functions { name: Some(name) } => functions::show(&name, out),
    }
}

fn engine(threads: usize, backend: Backend, tier: Tier) -> Result<Engine, Failure> {
    Ok(Engine::builder().threads(threads).backend(backend).tier(tier).build()?)
}

fn tier(name: &str) -> Result<Tier, String> {
    Tier::named(name).ok_or_else(|| {
        let names: Vec<&str> = Tier::ALL.iter().map(|tier| tier.name()).collect();
        format!("the code generators are {}", names.join(", "))
    })
}

fn stage(name: &str) -> Result<Stage, String> {
    Stage::named(name).ok_or_else(|| {
        let names: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        format!("the stages are {}", names.join(", "))
    })
}
