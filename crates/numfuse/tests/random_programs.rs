//! Random texts over random arrays: native code on one thread and on several, the interpreter, and a GPU, return the same
//! bits or the same error.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "common/cuda.rs"]
mod cuda;
#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;

use numfuse::ops::{Fix, Op, OpKind, Types};
use numfuse::{Array, Backend, DType, Element, Engine, Env};
use numfuse_core::literal::Literal;
use proptest::prelude::*;
use random_graph::{Choices, values};
use std::sync::LazyLock;

/// The engines that have to agree; the caches stay from case to case, as in life.
static ENGINES: LazyLock<Vec<(&str, Engine)>> = LazyLock::new(|| {
    let engine = |backend, threads| Engine::builder().backend(backend).threads(threads).build().expect("a back end");
    vec![
        ("the interpreter", engine(Backend::Interp, 1)),
        ("native code", engine(Backend::Jit, 1)),
        ("native code on 3 threads", engine(Backend::Jit, 3)),
    ]
});

/// A program and its inputs.
struct Program {
    text: String,
    inputs: Vec<(String, Array)>,
}

fn program(choices: &mut Choices<'_>) -> Program {
    let sizes = [choices.pick(&[3, 5, 1, 4, 9, 17, 40, 0]), choices.pick(&[4, 2, 1, 33, 70, 300])];
    let mut inputs = Vec::new();
    for i in 0..1 + choices.below(3) {
        let dtype = if choices.once_in(2) { choices.pick(&DType::ALL) } else { DType::F64 };
        let shape = match choices.below(5) {
            0 | 1 => vec![sizes[0]],
            2 => vec![sizes[1], sizes[0]],
            3 => vec![sizes[1], 1],
            _ => vec![],
        };
        let count = shape.iter().product();
        inputs.push((format!("x{i}"), array(dtype, &shape, &values(choices, dtype, count))));
    }
    // Expressions made so far, each fit to stand as an operand.
    let mut made: Vec<String> = inputs.iter().map(|(name, _)| name.clone()).collect();
    for _ in 0..12 {
        if !choices.any_left() {
            break;
        }
        let next = expression(choices, &made);
        made.push(next);
    }
    let mut text = made.last().cloned().unwrap_or_default();
    if choices.once_in(3) {
        text = format!("r = {text}\nr, {}", made[choices.below(made.len())]);
    }
    Program { text, inputs }
}

fn expression(choices: &mut Choices<'_>, made: &[String]) -> String {
    let mut operand = || {
        if choices.once_in(4) {
            return choices.pick(&["2", "1", "0.5", "3", "-1", "True", "1e300", "nan", "-0.0", "7"]).to_owned();
        }
        let back = choices.below(made.len().min(4));
        made[made.len() - 1 - back].clone()
    };
    let (x, y, z) = (operand(), operand(), operand());
    // Back ends agree on products of matrices within a bound only, which programs of them would lose.
    let ops: Vec<Op> = Op::all().filter(|op| !matches!(op.def().kind, OpKind::Product(_))).collect();
    match choices.below(8) {
        0..=4 => {
            let op = choices.pick(&ops);
            let def = op.def();
            match (def.kind, def.operator, def.params.len()) {
                (OpKind::Elementwise(_), Some(o), 1) => format!("({} {x})", o.symbol),
                (OpKind::Elementwise(_), Some(o), _) if o.fix == Fix::Chain && choices.once_in(4) => {
                    format!("({x} {0} {y} {0} {z})", o.symbol)
                }
                (OpKind::Elementwise(_), Some(o), _) => format!("({x} {} {y})", o.symbol),
                (OpKind::Elementwise(_), None, 1) => format!("{}({x})", def.name),
                (OpKind::Elementwise(_), None, 2) => format!("{}({x}, {y})", def.name),
                (OpKind::Elementwise(_), None, _) => format!("{}({x}, {y}, {z})", def.name),
                _ => reduction(choices, op, &x),
            }
        }
        5 => {
            let reductions = ops.iter().filter(|o| o.def().is_reduction());
            let reductions: Vec<Op> = reductions.copied().collect();
            let op = choices.pick(&reductions);
            reduction(choices, op, &x)
        }
        6 => {
            let item = choices.pick(&[
                "[::-1]",
                "[1:]",
                ".T",
                "[::2]",
                "[..., None]",
                "[-1]",
                "[:-1]",
                "[..., 0]",
                "[None]",
                "[2:0:-1]",
            ]);
            format!("({x}){item}")
        }
        _ => format!("{}({x})", choices.pick(&DType::ALL)),
    }
}

fn reduction(choices: &mut Choices<'_>, op: Op, x: &str) -> String {
    let options = choices.pick(&[
        "",
        ", axis=0",
        ", axis=-1",
        ", keepdims=True",
        ", axis=0, keepdims=True",
        ", axis=-1, keepdims=True",
    ]);
    let ddof = if op.def().types == Types::Average && op.def().params.contains(&"ddof") && choices.once_in(2) {
        ", ddof=1"
    } else {
        ""
    };
    format!("{op}({x}{options}{ddof})")
}

fn array(dtype: DType, shape: &[usize], values: &[Literal]) -> Array {
    fn typed<T: Element>(shape: &[usize], values: &[Literal]) -> Array {
        Array::from_vec(values.iter().map(|l| T::from_literal(*l)).collect(), shape).expect("as many as the shape has")
    }
    match dtype {
        DType::Bool => typed::<bool>(shape, values),
        DType::I8 => typed::<i8>(shape, values),
        DType::I16 => typed::<i16>(shape, values),
        DType::I32 => typed::<i32>(shape, values),
        DType::I64 => typed::<i64>(shape, values),
        DType::U8 => typed::<u8>(shape, values),
        DType::U16 => typed::<u16>(shape, values),
        DType::U32 => typed::<u32>(shape, values),
        DType::U64 => typed::<u64>(shape, values),
        DType::F32 => typed::<f32>(shape, values),
        DType::F64 => typed::<f64>(shape, values),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn back_ends_agree(list in prop::collection::vec(any::<u32>(), 0..160)) {
        let Program { text, inputs } = program(&mut Choices::new(&list));
        let mut env = Env::new();
        for (name, array) in &inputs {
            env.insert(name.as_str(), array);
        }
        let mut want = None;
        for (name, engine) in ENGINES.iter() {
            let found = engine.evaluate_with(&text, &env, None).map_err(|e| e.to_string());
            if let Err(error) = &found {
                prop_assert!(!error.starts_with("E09"), "{name}: {text}\n{inputs:?}\n{error}");
            }
            match &want {
                None => want = Some(found),
                Some(want) => prop_assert!(*want == found, "{name}: {text}\n{inputs:?}\n{found:?}\nnot\n{want:?}"),
            }
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod on_a_device {
    use super::*;
    use numfuse::Device;

    #[test]
    fn compiles_for_the_stand_in() {
        cuda::compile_for_the_stand_in();
    }

    /// The same programs in every run, since the stand-in's compiler is slow and what it has compiled is kept.
    const PROGRAMS: u64 = 150;

    #[test]
    fn a_device_agrees() {
        cuda::any_gpu().run(|| {
            let device = Device::cuda(0).unwrap();
            let gpu = Engine::builder().device(&device).build().unwrap();
            let (mut state, mut with_results) = (1u64, 0);
            for _ in 0..PROGRAMS {
                // Knuth's linear congruential generator.
                let mut next = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 32) as u32
                };
                let list: Vec<u32> = (0..120).map(|_| next()).collect();
                let Program { text, inputs } = program(&mut Choices::new(&list));
                let on_device: Vec<Array> = inputs.iter().map(|(_, array)| array.to_device(&device).unwrap()).collect();
                let bind = |engine: &Engine, arrays: &mut dyn Iterator<Item = &Array>| {
                    let names = inputs.iter().map(|(name, _)| name.as_str());
                    let mut env = Env::new();
                    for (name, array) in names.zip(arrays) {
                        env.insert(name, array);
                    }
                    engine.evaluate_with(&text, &env, None).map_err(|e| e.to_string())
                };
                let want = bind(&ENGINES[0].1, &mut inputs.iter().map(|(_, array)| array));
                with_results += u64::from(want.is_ok());
                for found in [bind(&gpu, &mut on_device.iter()), bind(&gpu, &mut inputs.iter().map(|(_, array)| array))]
                {
                    assert!(found == want, "{text}\n{inputs:?}\n{found:?}\nnot\n{want:?}");
                }
            }
            assert!(3 * with_results > PROGRAMS, "{with_results} of {PROGRAMS} programs have results");
        });
    }
}
