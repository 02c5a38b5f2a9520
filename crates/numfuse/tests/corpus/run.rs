//! The stages that run: results and diagnostics.
//!
//! A program runs as differently as can be, and all have to return the same bits (any NaN being equal to any NaN): in the
//! interpreter, from a graph that is neither simplified nor fused, over row-major copies of the inputs; and through the
//! facade as users call it, over the inputs as they lie in memory, in the interpreter and in the native code of every code
//! generator that the host has.

use super::format::TestFile;
use super::inputs::{Data, InputLine};
use super::run_plan::{Dense, Placed, run_plan, same};
use super::stages;
use numfuse::{Array, ArrayRef, AsArrayRef, Backend, DType, Element, Engine, Env, Tier};
use numfuse_core::interp;
use numfuse_core::kernel::{Access, Level};
use numfuse_core::literal::Literal;
use numfuse_core::pipeline;
use numfuse_core::plan::Plan;
use std::fmt::Write;

/// The most elements that a section shows.
const MAX_ELEMENTS: usize = 64;

/// Cranelift's IR of every kernel of a plan, one element at a time, for the baseline of the architecture.
pub fn clif(plan: &Plan) -> Result<String, String> {
    let options = numfuse_cpu::Options { vectorize: false, host_features: false, ..Default::default() };
    let compiler = numfuse_cpu::Compiler::new(options).map_err(|e| e.to_string())?;
    let kernels = plan.steps.iter().filter_map(|step| step.kernel());
    let texts = kernels.map(|kernel| compiler.clif(kernel).map_err(|e| e.to_string()));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// An error if the wide tier leaves a kernel of a plan to Cranelift, on a host that has it; operands may be adjacent or
/// strided.
pub fn covered(plan: &Plan) -> Result<(), String> {
    for tier in [Tier::Avx512, Tier::Avx2].into_iter().filter(|tier| tier.is_on_host()) {
        let options = numfuse_cpu::Options { tier, ..Default::default() };
        let compiler = numfuse_cpu::Compiler::new(options).map_err(|e| e.to_string())?;
        for mut kernel in plan.steps.iter().filter_map(|step| step.kernel().cloned()) {
            for access in [Access::Unit, Access::Strided] {
                let inner = kernel.operands.iter_mut().filter(|operand| operand.level == Level::Inner);
                inner.for_each(|operand| operand.access = access);
                let (found, why) = compiler.tier(&kernel).map_err(|e| e.to_string())?;
                if found != tier {
                    return Err(format!("{} leaves to {}: {why:?}\n{kernel}", tier.name(), found.name()));
                }
            }
        }
    }
    Ok(())
}

/// The results, the same on every back end.
pub fn run(file: &TestFile) -> Result<String, String> {
    let want = interpret(file)?;
    let inputs = inputs(file)?;
    for (name, engine) in engines()? {
        let found = evaluate(file, &inputs, &engine).map_err(|e| format!("{name}: {}", e.report(false)))?;
        let found: Vec<(DType, Dense)> = found.iter().map(|array| (array.dtype(), dense_of(array))).collect();
        let agree = |(a, b): (&(DType, Dense), &(DType, Dense))| a.0 == b.0 && same(&a.1, &b.1);
        if want.len() != found.len() || !want.iter().zip(&found).all(agree) {
            return Err(format!("the plain interpreter returns\n{}{name}\n{}", show_all(&want)?, show_all(&found)?));
        }
    }
    show_all(&want)
}

/// What runs a file, under its name. The code generators of one host differ from those of another: the runner says which
/// there are.
pub fn engines() -> Result<Vec<(&'static str, Engine)>, String> {
    let tiers = [Tier::Avx512, Tier::Avx2, Tier::Cranelift].into_iter().filter(|tier| tier.is_on_host());
    let native = tiers.map(|tier| (tier.name(), Engine::builder().backend(Backend::Jit).tier(tier)));
    let all = native.chain([("the interpreter under the facade", Engine::builder().backend(Backend::Interp))]);
    all.map(|(name, builder)| Ok((name, builder.build().map_err(|e| e.to_string())?))).collect()
}

/// The diagnostics as people see them: the same on every back end.
pub fn report(file: &TestFile) -> Result<String, String> {
    let inputs = inputs(file)?;
    let engine = |backend| Engine::builder().backend(backend).build().map_err(|e| e.to_string());
    let report = |backend| match evaluate(file, &inputs, &engine(backend)?) {
        Err(error) => Ok(error.report(false)),
        Ok(results) => Err(format!("it runs, and returns {results:?}")),
    };
    let (native, interpreted) = (report(Backend::Jit)?, report(Backend::Interp)?);
    if native == interpreted { Ok(native) } else { Err(format!("two reports:\n{native}\n{interpreted}")) }
}

/// The results through the facade.
fn evaluate(file: &TestFile, inputs: &[Box<dyn AsArrayRef>], engine: &Engine) -> Result<Vec<Array>, numfuse::Error> {
    let mut env = Env::new();
    for (line, input) in file.inputs.iter().zip(inputs) {
        env.insert(line.name.as_str(), input.as_ref());
    }
    engine.evaluate_with(&file.program, &env, None).map(|results| results.into_iter().collect())
}

/// The inputs as they lie in memory.
fn inputs(file: &TestFile) -> Result<Vec<Box<dyn AsArrayRef>>, String> {
    file.inputs.iter().map(held).collect()
}

/// Elements of one type in memory, and how they lie there.
struct Held<T> {
    elements: Vec<T>,
    data: Data,
}

impl<T: Element> AsArrayRef for Held<T> {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        use ndarray::{ArrayViewD, Axis, IxDyn, ShapeBuilder};
        if self.data.shape.contains(&0) {
            let view = ArrayViewD::from_shape(IxDyn(&self.data.shape), &self.elements);
            return ArrayRef::from_ndarray(view.unwrap_or_else(|e| panic!("{e}")));
        }
        // `ndarray` makes views of strides that are not negative, and turns axes around afterwards.
        let strides: Vec<usize> = self.data.strides.iter().map(|s| s.unsigned_abs()).collect();
        let shape = IxDyn(&self.data.shape).strides(IxDyn(&strides));
        let mut view = ArrayViewD::from_shape(shape, &self.elements).unwrap_or_else(|e| panic!("{e}"));
        for (axis, _) in self.data.strides.iter().enumerate().filter(|(_, stride)| **stride < 0) {
            view.invert_axis(Axis(axis));
        }
        ArrayRef::from_ndarray(view)
    }
}

fn held(input: &InputLine) -> Result<Box<dyn AsArrayRef>, String> {
    fn typed<T: Element>(data: &Data) -> Box<dyn AsArrayRef> {
        let elements = data.elements.iter().map(|l| T::from_literal(*l)).collect();
        Box::new(Held::<T> { elements, data: data.clone() })
    }
    let data = input.data.as_ref().ok_or_else(|| format!("`{}` has no values", input.name))?;
    Ok(match input.dtype {
        DType::Bool if input.weak => Box::new(data.elements[0].as_bool()),
        DType::I64 if input.weak => Box::new(data.elements[0].as_i64()),
        DType::F64 if input.weak => Box::new(data.elements[0].as_f64()),
        _ if input.weak => return Err("a weak input is bool, i64 or f64".into()),
        DType::Bool => typed::<bool>(data),
        DType::I8 => typed::<i8>(data),
        DType::I16 => typed::<i16>(data),
        DType::I32 => typed::<i32>(data),
        DType::I64 => typed::<i64>(data),
        DType::U8 => typed::<u8>(data),
        DType::U16 => typed::<u16>(data),
        DType::U32 => typed::<u32>(data),
        DType::U64 => typed::<u64>(data),
        DType::F32 => typed::<f32>(data),
        DType::F64 => typed::<f64>(data),
    })
}

fn dense_of(array: &Array) -> Dense {
    let data: Vec<Literal> = array.view().elements().collect();
    Dense { shape: array.shape().iter().map(|n| *n as u64).collect(), data }
}

/// The results of the interpreter.
fn interpret(file: &TestFile) -> Result<Vec<(DType, Dense)>, String> {
    let graph = stages::lower(file)?;
    let dtypes: Vec<DType> = graph.outputs.iter().map(|id| graph.node(*id).dtype).collect();
    let used: Vec<String> = graph.inputs().iter().map(|i| i.name.clone()).collect();
    let inputs = file.inputs.iter().filter(|i| used.contains(&i.name)).map(|input| {
        let data = input.data.as_ref().ok_or_else(|| format!("`{}` has no values", input.name))?;
        Ok(dense(data).packed(input.dtype))
    });
    let inputs: Vec<Placed> = inputs.collect::<Result<_, String>>()?;
    let options = pipeline::Options { simplify: false, fuse: false, verify: true };
    let plan = pipeline::plan(graph, options, &mut |_, _| {}).map_err(|e| e.to_string())?;
    Ok(dtypes.into_iter().zip(run_plan(&plan, &[], &inputs, interp::run)).collect())
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

fn show_all(results: &[(DType, Dense)]) -> Result<String, String> {
    results.iter().map(|(dtype, result)| show(*dtype, result)).collect()
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
