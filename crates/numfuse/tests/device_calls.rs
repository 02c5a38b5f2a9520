//! What `scripts/gpu-check` runs of the facade where a GPU is, on the stand-ins of the driver and of NVRTC: every part comes to
//! its end and says what it found. What it measures here is worth nothing.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "common/cuda.rs"]
mod cuda;
#[path = "../examples/device_calls.rs"]
mod device_calls;

use cuda::gpu;
use numfuse::{Array, npy, vars};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[test]
fn compiles_for_the_stand_in() {
    cuda::compile_for_the_stand_in();
}

/// Runs the program; what it wrote.
fn records(words: &[&str], file: &Path) -> Vec<Value> {
    let file = file.display().to_string();
    let words = words.iter().copied().chain(["--json", &file]).map(str::to_owned);
    device_calls::run(words).unwrap();
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn calls_and_arrays_of_the_host_are_timed() {
    gpu().run(|| {
        let folder = tempfile::tempdir().unwrap();
        let words = ["--bytes", "400000", "--reps", "1", "--sizes", "1000"];
        let found = records(&words, &folder.path().join("records"));
        let kinds: Vec<&str> = found.iter().map(|record| record["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["evaluate", "evaluate", "evaluate", "stream"]);
    });
}

#[test]
fn products_leave_their_results_and_are_timed() {
    gpu().run(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = "maximum((a - c) @ b + 1, 0)";
        let array = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            Array::from_vec((0..count).map(|i| (i % 7) as f64 - 3.0).collect(), shape).unwrap()
        };
        let (a, b, c) = (array(&[5, 4]), array(&[4, 3]), array(&[4]));
        for (name, array) in [("a", &a), ("b", &b), ("c", &c)] {
            npy::write(path(name), array).unwrap();
        }
        let case = |name: &str, text: &str, dtype: &str| {
            json!({
                "name": name, "text": text, "result": path(&format!("{name}-result")),
                "compared": {"a": path("a"), "b": path("b"), "c": path("c")},
                "timed": {"a": [dtype, [6, 8]], "b": [dtype, [8, 5]], "c": [dtype, [8]]},
            })
        };
        let cases =
            json!([case("one", text, "f32"), case("other", text, "f64"), case("wrong", "a @ a + b + c", "f32")]);
        fs::write(path("cases"), cases.to_string()).unwrap();
        let words = ["products", &path("cases"), "--lib", "ours", "--reps", "2"];
        let found = records(&words, &folder.path().join("records"));
        let about = |n: usize| ["kind", "case", "lib"].map(|key| found[n][key].as_str().unwrap());
        assert_eq!(
            (0..3).map(about).collect::<Vec<_>>(),
            [["large", "one", "ours"], ["large", "other", "ours"], ["left out", "wrong", "ours"]]
        );
        assert!(found[..2].iter().all(|record| record["ms"].as_f64().unwrap() > 0.0), "{found:?}");
        // Of such integers the sums are exact in any order.
        let want = numfuse::evaluate(text, &vars! { a, b, c }).unwrap();
        for name in ["one-result", "other-result"] {
            assert_eq!(npy::read(path(name)).unwrap(), want, "{name}");
        }
        // No time is left.
        let late = [&words[..], &["--seconds", "0"]].concat();
        let found = records(&late, &folder.path().join("late"));
        assert!(found.len() == 3 && found.iter().all(|record| record["why"] == "out of time"), "{found:?}");
    });
}
