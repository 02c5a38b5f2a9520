//! What the tests of the facade share.
#![allow(dead_code, reason = "each test uses a part of it")]

use numfuse::Array;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The names that examples in the manuals may use.
pub fn doc_env() -> Vec<(&'static str, Array)> {
    let floats = |values: &[f64], shape: &[usize]| Array::from_vec(values.to_vec(), shape).expect("a shape that fits");
    let ints = |values: &[i64]| Array::from_vec(values.to_vec(), &[values.len()]).expect("a shape that fits");
    let row: Vec<f64> = (1..=12).map(f64::from).collect();
    vec![
        ("a", floats(&[1.0, 2.0, 3.0, 4.0], &[4])),
        ("b", floats(&[10.0, 20.0, 30.0, 40.0], &[4])),
        ("x", floats(&[0.5, 1.0, 1.5, 2.0], &[4])),
        ("y", floats(&[2.0, 1.0, 0.5, 0.25], &[4])),
        ("m", floats(&row, &[3, 4])),
        ("i", ints(&[1, 2, 3, 4])),
        ("j", ints(&[4, 3, 2, 1])),
        ("c", Array::from_vec(vec![true, false, true, false], &[4]).expect("a shape that fits")),
    ]
}

/// Results as the manuals write them: `3.5`, `True`, `[1, 2]`, several separated by commas.
pub fn show_results(results: &[Array]) -> String {
    results.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn show(array: &Array) -> String {
    let elements: Vec<String> = array
        .view()
        .elements()
        .map(|l| if array.dtype().is_float() && l.as_f64().is_nan() { "nan".to_owned() } else { l.to_string() })
        .collect();
    let mut level = elements;
    // Innermost dimensions first: each round puts brackets around the rows of one.
    for size in array.shape().iter().rev() {
        level = level.chunks((*size).max(1)).map(|row| format!("[{}]", row.join(", "))).collect();
        if *size == 0 {
            level = vec!["[]".to_owned()];
        }
    }
    level.concat()
}
