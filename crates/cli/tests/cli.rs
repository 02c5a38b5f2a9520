//! The binary as a user runs it: output, exit codes, mistakes.

use std::path::PathBuf;
use std::process::{Command, Output};

fn numfuse(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_numfuse"));
    command.args(args).env("NO_COLOR", "").output().expect("the binary runs")
}

fn stdout(args: &[&str]) -> String {
    let output = numfuse(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn stderr(args: &[&str], code: i32) -> String {
    let output = numfuse(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&folder).expect("a folder for tests");
    folder.join(name)
}

#[test]
fn evaluates_files_and_numbers() {
    let (a, out) = (scratch("a.npy"), scratch("out.npy"));
    numfuse::npy::write(&a, &[1.0, 2.0, 3.0]).unwrap();
    let a = format!("a={}", a.display());
    let text = stdout(&["eval", "2*a + 3*b**2", &a, "b=10", "-o", out.to_str().unwrap()]);
    assert_eq!(text, "f64[3] [302.0, 304.0, 306.0]\n");
    assert_eq!(numfuse::npy::read(&out).unwrap().as_slice::<f64>().unwrap(), [302.0, 304.0, 306.0]);
    assert_eq!(stdout(&["eval", "sum(a), max(a) > b", &a, "b=2.5"]), "f64[] 6.0\nbool[] true\n");
    assert_eq!(
        stdout(&["eval", "a[:, None] * a", &a]),
        "f64[3, 3]\n[[1.0, 2.0, 3.0],\n [2.0, 4.0, 6.0],\n [3.0, 6.0, 9.0]]\n"
    );
    assert!(stdout(&["eval", "a + 1", &a, "--threads", "1", "--interpret", "--time"]).contains("at best"));
    for tier in ["widest", "avx512", "avx2", "cranelift"] {
        assert_eq!(stdout(&["eval", "sum(a)", &a, "--tier", tier]), "f64[] 6.0\n");
    }
}

#[test]
fn computes_on_the_cpu_where_there_is_no_gpu() {
    let run = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numfuse"));
        command.args(["eval", "1 + a", "a=2", "--device", device]).env("NO_COLOR", "1");
        // Whatever this machine has, a driver shows none of it.
        let output = command.env("CUDA_VISIBLE_DEVICES", "").output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(run("cpu"), (Some(0), "i64[] 3\n".to_owned(), String::new()));
    let (code, out, error) = run("auto");
    assert_eq!((code, out.as_str()), (Some(0), "i64[] 3\n"), "{error}");
    assert!(error.starts_with("numfuse: computing on the CPU, since there is no GPU to use: E0601: "), "{error}");
    for name in ["cuda", "cuda:0", "cuda:7", "gpu"] {
        let (code, out, error) = run(name);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{name}: {error}");
        assert!(error.contains("[E0601]"), "{name}: {error}");
    }
}

#[test]
fn shows_cuda_code_without_a_gpu() {
    let text = stdout(&["explain", "sum(a*b)", "a:f32[n]", "b:f32[n]", "--stage", "cuda"]);
    assert!(text.starts_with("// k0\n") && text.contains("extern \"C\" __global__"), "{text}");
    assert!(!stdout(&["explain", "a + 1", "a:f32[n]"]).contains("__global__"), "only if it is asked for");
}

#[test]
fn explains_stages() {
    let all = stdout(&["explain", "sum(a*b)", "a:f32[n]", "b:f32[n]"]);
    for stage in ["parse", "graph", "simplified", "plan", "kernel", "clif", "asm"] {
        assert!(all.contains(&format!("=== {stage} ===\n")), "{stage}\n{all}");
    }
    let plan = stdout(&["explain", "sum(a*b)", "a:f32[n]", "b:f32[n]", "--stage", "plan"]);
    assert!(plan.starts_with("k0: a, b -> out\n") && plan.contains("temporaries: none"), "{plan}");
    let asm = |text, input, tier| stdout(&["explain", text, input, "--stage", "asm", "--tier", tier]);
    assert!(asm("a + 1", "a:f64[n]", "cranelift").starts_with("k0: cranelift\n"));
    let titles = ["k0: avx512\n", "k0: avx2\n", "k0: cranelift, nothing wider: "];
    for tier in ["widest", "avx512", "avx2"] {
        let asm = asm("a + 1", "a:f64[n]", tier);
        assert!(titles.iter().any(|title| asm.starts_with(title)), "{asm}");
    }
}

#[test]
fn tells_about_functions() {
    let all = stdout(&["functions"]);
    for name in ["arctan2(y, x)", "sum(x, axis=, keepdims=)", "Trigonometry"] {
        assert!(all.contains(name), "{name}\n{all}");
    }
    assert!(stdout(&["functions", "atan2"]).contains("example    arctan2(y, x)"));
    assert!(stdout(&["functions", "**"]).contains("operator   x ** y"));
    assert!(stdout(&["functions", "-"]).contains("negative"));
    assert!(stderr(&["functions", "sqtr"], 1).contains("did you mean `sqrt`?"));
}

#[test]
fn mistakes_are_drawn_and_set_the_exit_code() {
    let error = stderr(&["eval", "1 + sqtr(2)"], 1);
    assert!(error.contains("E0202") && error.contains("1 + sqtr(2)") && error.contains("sqrt"), "{error}");
    assert!(!error.contains('\u{1b}'), "colour without a terminal: {error:?}");
    assert!(stderr(&["eval", "a"], 1).contains("E0201"));
    assert!(stderr(&["eval", "a", "a=/no/such.npy"], 1).contains("/no/such.npy"));
    assert!(stderr(&["eval", "1", "-o", "a.npy", "-o", "b.npy"], 1).contains("2 output files"));
    assert!(stderr(&["explain", "a", "a:f31"], 1).contains("did you mean `f32`?"));
    let hostile = stderr(&["eval", "a\u{1b}[31m + 1", "a=1"], 1);
    assert!(!hostile.contains('\u{1b}'), "{hostile:?}");
    stderr(&["eval"], 2);
    stderr(&["eval", "1", "a"], 2);
    stderr(&["explain", "1", "--stage", "nonsense"], 2);
    assert!(stderr(&["explain", "1", "--tier", "avx3"], 2).contains("widest, avx512, avx2, cranelift"));
    stderr(&["nonsense"], 2);
}
