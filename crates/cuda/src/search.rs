//! Where NVIDIA's libraries may be. Only names: whether there is something, and whether it can be used, is for the loader
//! to say.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A library that is looked for.
pub(crate) struct Sought {
    /// The variable of the environment that may name its file or folder.
    pub variable: &'static str,
    /// What it is called, newest first. A name tells the major version; any minor one of it will do.
    pub names: &'static [&'static str],
    /// Where pip puts it inside of `site-packages`.
    pub packages: &'static [&'static str],
}

/// The libraries to try, in this order. `variable` is the environment.
pub(crate) fn candidates(sought: &Sought, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // Who names one wants that one: silently taking another would hide a mistake.
    if let Some(path) = variable(sought.variable) {
        return at(sought, &path);
    }
    let mut found: Vec<PathBuf> = sought.names.iter().map(PathBuf::from).collect();
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)) {
        let of_conda = environment.join("lib");
        let mut sites = vec![environment.join("Lib").join("site-packages")];
        sites.extend(newest_first(&of_conda, "python").into_iter().map(|folder| folder.join("site-packages")));
        let packages = sites.iter().flat_map(|site| sought.packages.iter().map(|package| site.join(package)));
        found.extend(packages.chain([of_conda]).flat_map(|folder| present(sought, &folder)));
    }
    let mut toolkits: Vec<PathBuf> = ["CUDA_PATH", "CUDA_HOME"].iter().filter_map(|name| variable(name)).collect();
    toolkits.extend(newest_first(Path::new("/usr/local"), "cuda"));
    for toolkit in toolkits {
        let folders = ["lib64", "lib", "bin", "bin/x64"].map(|folder| toolkit.join(folder));
        found.extend(folders.iter().flat_map(|folder| present(sought, folder)));
    }
    found
}

/// The library of a path that somebody named: the file itself, or what is in the folder.
pub(crate) fn at(sought: &Sought, path: &Path) -> Vec<PathBuf> {
    let inside = present(sought, path);
    if inside.is_empty() { vec![path.to_owned()] } else { inside }
}

/// The libraries in a folder, newest first.
fn present(sought: &Sought, folder: &Path) -> Vec<PathBuf> {
    sought.names.iter().map(|name| folder.join(name)).filter(|file| file.exists()).collect()
}

/// The folders inside of this one whose names begin like this, the highest version first: `python3.13` before `python3.9`,
/// and what has no version, which somebody chose, before all.
fn newest_first(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix)?.trim_start_matches('-');
            let numbers = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect();
            Some((numbers, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["liblibrary.so.13", "liblibrary.so.12"];
    const SOUGHT: Sought =
        Sought { variable: "NUMFUSE_LIBRARY", names: NAMES, packages: &["nvidia/cu13/lib", "nvidia/library/lib"] };

    /// What is found where these variables are set, without what is the same everywhere.
    fn found(variables: &[(&str, &Path)]) -> Vec<PathBuf> {
        let variable = |name: &str| {
            let named = variables.iter().find(|(variable, _)| *variable == name);
            named.map(|(_, value)| value.as_os_str().to_owned())
        };
        let everywhere = candidates(&SOUGHT, &|_| None);
        candidates(&SOUGHT, &variable).into_iter().filter(|path| !everywhere.contains(path)).collect()
    }

    fn put(root: &Path, folder: &str, name: &str) -> PathBuf {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
        folder.join(name)
    }

    #[test]
    fn the_loader_is_asked_first_and_the_newest_version_wins() {
        let first: Vec<PathBuf> = candidates(&SOUGHT, &|_| None).into_iter().take(NAMES.len()).collect();
        assert_eq!(first, NAMES.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn a_library_that_is_named_is_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (put(root.path(), "a", NAMES[1]), put(root.path(), "a", NAMES[0]));
        let named =
            |path: &Path| candidates(&SOUGHT, &|name| (name == "NUMFUSE_LIBRARY").then(|| path.as_os_str().to_owned()));
        assert_eq!(named(&root.path().join("a")), [new, old.clone()], "a folder");
        assert_eq!(named(&old), std::slice::from_ref(&old), "a file");
        assert_eq!(named(Path::new("gone")), [PathBuf::from("gone")], "for the loader to say what is wrong with it");
        assert_eq!(named(Path::new("")), candidates(&SOUGHT, &|_| None), "an empty variable is none");
    }

    #[test]
    fn environments_of_python_come_before_toolkits() {
        let root = tempfile::tempdir().unwrap();
        let old = put(root.path(), "venv/lib/python3.9/site-packages/nvidia/library/lib", NAMES[1]);
        let new = put(root.path(), "venv/lib/python3.13/site-packages/nvidia/cu13/lib", NAMES[0]);
        let conda = put(root.path(), "conda/lib", NAMES[0]);
        let toolkit = put(root.path(), "cuda/lib64", NAMES[0]);
        let path = |name: &str| root.path().join(name);
        let (venv, conda_prefix, cuda) = (path("venv"), path("conda"), path("cuda"));
        let all = found(&[("CUDA_HOME", &cuda), ("CONDA_PREFIX", &conda_prefix), ("VIRTUAL_ENV", &venv)]);
        assert_eq!(all, [new, old, conda, toolkit]);
        assert_eq!(found(&[("VIRTUAL_ENV", &path("nothing"))]), [] as [PathBuf; 0]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let root = tempfile::tempdir().unwrap();
        for name in ["cuda-9.2", "cuda-12.9", "cuda", "cuda-13", "cuda-13.0", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let names: Vec<String> = newest_first(root.path(), "cuda")
            .iter()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["cuda", "cuda-13.0", "cuda-13", "cuda-12.9", "cuda-9.2"]);
    }
}
