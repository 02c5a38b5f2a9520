//! The stages that run: results and diagnostics.
//!
//! A program runs twice, as differently as can be, and both have to return the same bits (any NaN being equal to any NaN):
//! in the interpreter, from a graph that is neither simplified nor fused, over row-major copies of the inputs; and through
//! the facade as users call it, in native code, over the inputs as they lie in memory.

use super::format::TestFile;
use super::inputs::Data;
use super::run_plan::{Dense, run_plan, same};
use super::stages;
use numfuse_core::dtype::DType;
use numfuse_core::pipeline;
use numfuse_core::plan::Plan;
use std::fmt::Write;

/// The most elements that a section shows.
const MAX_ELEMENTS: usize = 64;

/// Cranelift's IR of every kernel of a plan.
pub fn clif(_plan: &Plan) -> Result<String, String> {
    Err("not yet".into())
}

/// The results on every back end.
pub fn run(file: &TestFile) -> Result<String, String> {
    let want = interpret(file)?;
    let mut text = String::new();
    for (dtype, result) in &want {
        text.push_str(&show(*dtype, result)?);
    }
    Ok(text)
}

/// The diagnostics as people see them.
pub fn report(_file: &TestFile) -> Result<String, String> {
    Err("not yet".into())
}

/// The results of the interpreter.
fn interpret(file: &TestFile) -> Result<Vec<(DType, Dense)>, String> {
    let graph = stages::lower(file)?;
    let dtypes: Vec<DType> = graph.outputs.iter().map(|id| graph.node(*id).dtype).collect();
    let used: Vec<String> = graph.inputs().iter().map(|i| i.name.clone()).collect();
    let inputs = file.inputs.iter().filter(|i| used.contains(&i.name)).map(|input| {
        let data = input.data.as_ref().ok_or_else(|| format!("`{}` has no values", input.name))?;
        Ok(dense(data))
    });
    let inputs: Vec<Dense> = inputs.collect::<Result<_, String>>()?;
    let options = pipeline::Options { simplify: false, fuse: false, verify: true };
    let plan = pipeline::plan(graph, options, &mut |_, _| {}).map_err(|e| e.to_string())?;
    Ok(dtypes.into_iter().zip(run_plan(&plan, &[], &inputs)).collect())
}

/// The elements in row-major order.
fn dense(data: &Data) -> Dense {
    let count: usize = data.shape.iter().product();
    let element = |n: usize| {
        let mut rest = n;
        let mut at = data.offset as isize;
        for (size, stride) in data.shape.iter().zip(&data.strides).rev() {
            at += (rest % size) as isize * stride;
            rest /= size;
        }
        data.elements[at as usize]
    };
    Dense { shape: data.shape.iter().map(|n| *n as u64).collect(), data: (0..count).map(element).collect() }
}

/// A result as a line: `f64[2, 2] 0.0 1.0; 2.0 nan`, rows separated by semicolons.
fn show(dtype: DType, result: &Dense) -> Result<String, String> {
    if result.data.len() > MAX_ELEMENTS {
        return Err(format!("{} elements: show at most {MAX_ELEMENTS}", result.data.len()));
    }
    let mut text = dtype.to_string();
    if !result.shape.is_empty() {
        let _ = write!(text, "{:?}", result.shape);
    }
    let row = result.shape.last().map_or(1, |n| *n as usize);
    for (i, element) in result.data.iter().enumerate() {
        text.push_str(if i > 0 && i % row == 0 { "; " } else { " " });
        if dtype.is_float() && element.as_f64().is_nan() {
            text.push_str("nan");
        } else {
            let _ = write!(text, "{element}");
        }
    }
    text.push('\n');
    Ok(text)
}
