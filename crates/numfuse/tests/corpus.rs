//! Runs `tests/corpus`: every behaviour is a text file that shows a program and what each named stage makes of it.
//! `docs/testing.md` says how to add a file. `BLESS=1` writes the sections; `CORPUS=run/sum` runs the files whose path
//! contains that text.

mod corpus {
    pub mod format;
    pub mod inputs;
    pub mod run;
    #[path = "../../../../tests/support/run_plan.rs"]
    pub mod run_plan;
    pub mod stages;
}

use corpus::format::{self, Stage};
use corpus::{run, stages};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// All files of a folder and of the folders in it, in order.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.map(|e| e.expect("an entry of a folder").path()) {
            if entry.is_dir() { folders.push(entry) } else { found.push(entry) }
        }
    }
    found.sort();
    found
}

/// Calling conventions and pointers differ elsewhere: Cranelift's IR is looked at on these hosts only.
const CLIF_HOST: bool = cfg!(all(target_arch = "x86_64", target_os = "linux"));

/// What is wrong with a file, if anything is; with `bless`, its sections are written first.
fn check(path: &Path, folder: &str, bless: bool) -> Result<usize, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let file = format::read(&text)?;
    if !file.stages.iter().any(|s| s.folder() == folder) {
        return Err(format!("a file in `{folder}` has to show that stage"));
    }
    let mut sections = Vec::new();
    for stage in &file.stages {
        if *stage == Stage::Clif && !CLIF_HOST {
            sections.extend(file.sections.iter().find(|s| s.0 == Stage::Clif).cloned());
            continue;
        }
        let shown = stages::show(&file, *stage).map_err(|e| format!("{}: {e}", stage.name()))?;
        sections.push((*stage, shown.trim_end().to_owned() + "\n"));
    }
    let fresh = file.with_sections(&sections);
    if bless {
        format::read(&fresh)?;
        if fresh != text {
            fs::write(path, fresh).map_err(|e| e.to_string())?;
        }
        return Ok(file.stages.len());
    }
    if let Some(missing) = file.missing() {
        return Err(missing);
    }
    for ((stage, want), (_, found)) in file.sections.iter().zip(&sections) {
        if want != found {
            return Err(format!("{} is\n{found}instead of\n{want}", stage.name()));
        }
    }
    if fresh == text { Ok(file.stages.len()) } else { Err("the file is not in the form that blessing gives it".into()) }
}

#[test]
fn corpus_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1");
    let filter = std::env::var("CORPUS").unwrap_or_default();
    let engines: Vec<&str> = run::engines().expect("the interpreter at least").into_iter().map(|e| e.0).collect();
    let (mut passed, mut sections, mut failures) = (0, 0, String::new());
    for path in files(&root) {
        let name = path.strip_prefix(&root).expect("a file of the corpus").to_string_lossy().into_owned();
        if !name.contains(&filter) {
            continue;
        }
        let folder = name.split('/').next().unwrap_or_default();
        let result = match name.strip_suffix(".test") {
            Some(_) => check(&path, folder, bless),
            None => Err("not a `.test` file".into()),
        };
        match result {
            Ok(count) => {
                passed += 1;
                sections += count;
            }
            Err(why) => {
                let _ = writeln!(failures, "\n==== {name}: {why}");
            }
        }
    }
    println!(
        "{passed} files pass, {sections} sections; each `run` by {} engines: {}",
        engines.len(),
        engines.join(", ")
    );
    assert!(failures.is_empty(), "{failures}\n(BLESS=1 writes the sections anew)");
    assert!(passed > 0, "no file matches `{filter}`");
}

#[test]
fn stages_have_names() {
    for (stage, name, _) in Stage::ALL {
        assert_eq!(Stage::named(name), Some(stage));
        assert_eq!(stage.name(), name);
    }
}
