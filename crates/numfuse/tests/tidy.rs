//! The rules of the house that a compiler does not check: who may depend on whom, that the map of the code is true, that
//! every error code and every primitive is tested, where `unsafe` may stand, and how long a file may be.

mod common;

use common::root;
use numfuse::Code;
use numfuse_core::kernel::Prim;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which crate may depend on which, by package name without `numfuse-`: one direction, and no other edge.
const EDGES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("lang", &["core"]),
    ("cpu", &["core"]),
    ("cuda", &["core"]),
    ("numfuse", &["core", "lang", "cpu", "cuda"]),
    ("cli", &["numfuse"]),
    ("python", &["numfuse"]),
];

/// What only the tests of a crate need: those of the Python package run on the stand-ins for a GPU.
const TEST_EDGES: &[(&str, &str)] = &[("python", "cuda")];

/// The modules that may hold `unsafe`, with the modules inside of them; tests and benchmarks may call what these offer.
const UNSAFE: &[&str] = &[
    "crates/cpu/src/jit",
    "crates/cpu/src/launch",
    "crates/cuda/src/cublas",
    "crates/cuda/src/driver",
    "crates/cuda/src/launch",
    "crates/cuda/src/nvrtc",
    "crates/numfuse/src/view",
    "crates/python/src/raw",
];

/// Files longer than this say why in their header.
const MAX_LINES: usize = 800;

#[test]
fn crates_depend_in_one_direction() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let short = |name: &str| name.strip_prefix("numfuse-").unwrap_or(name).to_owned();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let array = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for package in array(&metadata["packages"]) {
        let name = short(&text(&package["name"]));
        let is_edge = |d: &serde_json::Value| {
            let for_tests = d["kind"] == "dev" && TEST_EDGES.contains(&(&name, &short(&text(&d["name"]))));
            d["path"].is_string() && !for_tests
        };
        let dependencies = array(&package["dependencies"]);
        let edges: BTreeSet<String> =
            dependencies.iter().filter(|d| is_edge(d)).map(|d| short(&text(&d["name"]))).collect();
        found.insert(name, edges);
    }
    let allowed: BTreeMap<String, BTreeSet<String>> =
        EDGES.iter().map(|(name, to)| ((*name).to_owned(), to.iter().map(|t| (*t).to_owned()).collect())).collect();
    assert_eq!(found, allowed);
}

#[test]
fn the_map_of_the_code_is_true() {
    let map = read("docs/architecture.md");
    let mut listed = BTreeMap::<String, BTreeSet<String>>::new();
    let mut section = String::new();
    for line in map.lines() {
        if let Some(at) = line.find("crates/").filter(|_| line.starts_with('#')) {
            let name = line[at + "crates/".len()..].split(|c: char| !c.is_alphanumeric() && c != '-');
            section = name.into_iter().next().unwrap_or_default().to_owned();
            listed.entry(section.clone()).or_default();
        } else if line.starts_with('#') {
            section.clear();
        }
        if !section.is_empty() {
            let files = line.split('`').skip(1).step_by(2).flat_map(expand).filter(|f| f.ends_with(".rs"));
            listed.entry(section.clone()).or_default().extend(files);
        }
    }
    for (name, _) in EDGES {
        let folder = root().join("crates").join(name).join("src");
        let exist: BTreeSet<String> = rust_files(&folder).iter().map(|f| relative(f, &folder)).collect();
        let told = listed.remove(*name).unwrap_or_default();
        let missing: Vec<_> = exist.difference(&told).collect();
        let gone: Vec<_> = told.difference(&exist).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "docs/architecture.md, section `crates/{name}`: does not name {missing:?}; names {gone:?}, which do not exist"
        );
    }
    assert!(listed.is_empty(), "docs/architecture.md has sections of crates that do not exist: {listed:?}");
}

#[test]
fn every_error_code_is_tested() {
    let corpus: String = files(&root().join("tests/corpus/error"), "test").iter().map(|f| read_path(f)).collect();
    let tests: String = test_files().iter().map(|f| read_path(f)).collect();
    let untested: Vec<String> = Code::ALL
        .iter()
        // A bug cannot be asked for; what a program alone cannot cause is tested in Rust.
        .filter(|code| **code != Code::Internal)
        .filter(|code| !corpus.contains(&format!("[{code}]")) && !tests.contains(&format!("Code::{code:?}")))
        .map(|code| format!("{code} {code:?}"))
        .collect();
    assert!(untested.is_empty(), "no test shows these: {untested:?}");
}

#[test]
fn every_primitive_is_tested() {
    let corpus: String = files(&root().join("tests/corpus/kernel"), "test").iter().map(|f| read_path(f)).collect();
    let tests: String = rust_files(&root().join("crates/cpu/tests")).iter().map(|f| read_path(f)).collect();
    let all = tests.contains("Prim::ALL");
    let in_corpus = |prim: &Prim| corpus.contains(&format!(" = {} ", prim.name()));
    let untested: Vec<_> =
        Prim::ALL.iter().filter(|p| !all && !tests.contains(&format!("Prim::{p:?}")) && !in_corpus(p)).collect();
    assert!(untested.is_empty(), "no test of the CPU back end names these: {untested:?}");
}

#[test]
fn unsafe_code_is_where_it_may_be_and_says_why() {
    for file in rust_files(&root().join("crates")) {
        let name = relative(&file, &root());
        let text = read_path(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !words.into_iter().any(|word| word == "unsafe") || code.contains('"') {
                continue;
            }
            let place = format!("{name}:{}", i + 1);
            let module = |m: &&str| name.strip_prefix(m).is_some_and(|rest| rest.starts_with(['.', '/']));
            let may = UNSAFE.iter().any(module) || !name.contains("/src/");
            assert!(may, "{place}: unsafe code belongs in {UNSAFE:?}");
            // The reason stands in the comment right above the statement.
            let above = lines[i.saturating_sub(12)..=i].join("\n");
            let documented =
                above.contains("// SAFETY:") || above.contains("# Safety") || code.contains("unsafe extern");
            assert!(documented, "{place}: no `// SAFETY:` above");
        }
    }
}

#[test]
fn files_are_short_and_open_with_what_they_are_for() {
    for file in rust_files(&root()) {
        let name = relative(&file, &root());
        let text = read_path(&file);
        let header: String = text.lines().take(15).collect::<Vec<_>>().join("\n");
        let opens = text.starts_with("//") || text.starts_with("#![doc = include_str!");
        assert!(opens, "{name} does not say in its first line what it is for");
        let long = text.lines().count() > MAX_LINES;
        assert!(
            !long || header.contains("This file is long because"),
            "{name} has more than {MAX_LINES} lines and does not say why"
        );
    }
}

/// `graph/{verify,print}.rs` as two names.
fn expand(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (inside, after))) => inside.split(',').map(|i| format!("{before}{}{after}", i.trim())).collect(),
        None => vec![name.to_owned()],
    }
}

/// The integration tests of every crate, and the unit tests in its sources.
fn test_files() -> Vec<PathBuf> {
    let is_test = |f: &PathBuf| f.iter().any(|part| part == "tests") || read_path(f).contains("#[cfg(test)]");
    // A code named here proves nothing.
    rust_files(&root().join("crates")).into_iter().filter(is_test).filter(|f| !f.ends_with("tidy.rs")).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder, "rs")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                // Hidden folders, build output, and what is not part of the project.
                let name = name.to_string_lossy();
                if !name.starts_with('.') && !name.starts_with("target") && name != "shared" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(file: &Path, to: &Path) -> String {
    file.strip_prefix(to).unwrap_or(file).to_string_lossy().replace('\\', "/")
}

fn read(name: &str) -> String {
    read_path(&root().join(name))
}

fn read_path(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
