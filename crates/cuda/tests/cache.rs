//! Machine code on disk: what is found again, what is not, and what damage, limits, threads and other processes do to it.
//! No compiler takes part: the cache sees only bytes.

use numfuse_cuda::Error;
use numfuse_cuda::cache::{Cache, Request};
use numfuse_cuda::nvrtc::{Arch, Options, Version};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

const MEBIBYTE: u64 = 1 << 20;
const COMPILER: Version = Version { major: 13, minor: 0 };

fn request(text: &str) -> Request<'_> {
    Request { text, arch: Arch::new(9, 0), options: Options::default(), compiler: Some(COMPILER) }
}

/// What a compiler would make of a text: something that is different for each.
fn code(text: &str, size: usize) -> Vec<u8> {
    text.bytes().cycle().take(size).collect()
}

/// Asks the cache; true if it had to compile.
fn ask(cache: &Cache, request: &Request<'_>) -> bool {
    let compiled = Cell::new(false);
    let found = cache.get_or_compile(request, || {
        compiled.set(true);
        Ok(code(request.text, 1000))
    });
    assert_eq!(found.as_deref(), Ok(code(request.text, 1000).as_slice()));
    compiled.get()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn what_one_cache_keeps_another_finds() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), MEBIBYTE);
    assert!(ask(&cache, &request("a")));
    assert!(!ask(&cache, &request("a")));
    assert!(!ask(&Cache::at(folder.path(), MEBIBYTE), &request("a")), "as in the next process");
    let [file] = files(folder.path()).try_into().unwrap();
    let place = file.strip_prefix(folder.path()).unwrap().to_string_lossy().replace('\\', "/");
    assert!(place.starts_with("sm_90/nvrtc-13.0/") && place.ends_with(".cubin"), "{place}");
}

#[test]
fn everything_that_code_depends_on_is_in_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), MEBIBYTE);
    let one = request("a");
    let others = [
        request("b"),
        request(""),
        Request { arch: Arch::new(8, 0), ..one },
        Request { options: Options { fast: true }, ..one },
        Request { compiler: Some(Version { major: 12, minor: 9 }), ..one },
    ];
    assert!(ask(&cache, &one));
    for other in &others {
        assert!(ask(&cache, other), "{other:?}");
    }
    for known in others.iter().chain([&one]) {
        assert!(!ask(&cache, known), "{known:?}");
    }
}

#[test]
fn without_a_compiler_the_code_of_any_version_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), MEBIBYTE);
    let none = Request { compiler: None, ..request("a") };
    let missing = || Err(Error::NoCompiler("there is none".to_owned()));
    assert_eq!(cache.get_or_compile(&none, missing), missing().map(|code: Vec<u8>| Arc::from(code)));
    for (major, minor) in [(12, 9), (13, 0), (9, 1)] {
        let request = Request { compiler: Some(Version { major, minor }), ..none };
        cache.get_or_compile(&request, || Ok(vec![u8::try_from(major).unwrap()])).unwrap();
    }
    assert_eq!(cache.get_or_compile(&none, missing).as_deref(), Ok([13].as_slice()), "the newest");
    assert!(cache.get_or_compile(&Request { text: "b", ..none }, missing).is_err());
}

#[test]
fn damaged_entries_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), MEBIBYTE);
    assert!(ask(&cache, &request("a")));
    let [file] = files(folder.path()).try_into().unwrap();
    let whole = fs::read(&file).unwrap();
    let mut damaged: Vec<Vec<u8>> = vec![Vec::new(), [whole.as_slice(), b"x"].concat(), vec![0; whole.len()]];
    damaged.extend([1, 15, 16, 48, 56, 87, 88, whole.len() - 1].map(|length| whole[..length].to_vec()));
    damaged.extend([0, 15, 16, 47, 48, 55, 56, 87, 88, whole.len() - 1].map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    }));
    // The code of something else, under this name.
    assert!(ask(&cache, &request("b")));
    let other = files(folder.path()).into_iter().find(|other| *other != file).unwrap();
    damaged.push(fs::read(other).unwrap());
    for bytes in damaged {
        fs::write(&file, &bytes).unwrap();
        assert!(ask(&cache, &request("a")), "{} bytes", bytes.len());
        assert_eq!(fs::read(&file).unwrap(), whole);
        assert!(!ask(&cache, &request("a")));
    }
    // Where it cannot be compiled again, nothing stays.
    fs::write(&file, "x").unwrap();
    assert!(cache.get_or_compile(&request("a"), || Err(Error::Internal(String::new()))).is_err());
    assert!(!file.exists());
}

#[test]
fn errors_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path(), MEBIBYTE);
    let error = Error::Internal("once".to_owned());
    assert_eq!(cache.get_or_compile(&request("a"), || Err(error.clone())), Err(error));
    let panics = || cache.get_or_compile(&request("a"), || panic!("the compiler"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert!(ask(&cache, &request("a")));
}

#[test]
fn what_was_not_used_for_long_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let bound = 20_000;
    let cache = Cache::at(folder.path(), bound);
    // Things of somebody else, in a folder that was named by mistake, are none of the cache's business.
    let foreign = ["notes.txt", "sm_90/notes.cubin", "sm_90/nvrtc-13.0/notes.cubin", "other/nvrtc-13.0/a.cubin"];
    for name in foreign {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; 30_000]).unwrap();
    }
    // What killed processes leave is cleared away, but not what is being written now.
    let part = |name: char, age| {
        let file = format!("sm_90/nvrtc-13.0/{}.cubin.1-2-3.part", name.to_string().repeat(64));
        let path = folder.path().join(file);
        fs::write(&path, "half").unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(time)).unwrap();
        path
    };
    let (abandoned, written) = (part('a', 7200), part('b', 60));
    let entries = || {
        let all = files(folder.path()).into_iter().filter(|path| !path.ends_with("notes.cubin"));
        all.filter(|path| path.extension().is_some_and(|e| e == "cubin") && !path.ends_with("a.cubin"))
    };
    let texts: Vec<String> = (0..100).map(|i| format!("text {i}")).collect();
    for text in &texts {
        assert!(ask(&cache, &request(text)));
        // Time passes; the first one is used all the while.
        for path in entries() {
            let file = fs::File::options().write(true).open(&path).unwrap();
            let time = file.metadata().and_then(|metadata| metadata.modified()).unwrap();
            file.set_modified(time - Duration::from_secs(10)).unwrap();
        }
        assert!(!ask(&cache, &request(&texts[0])), "what is used stays");
        let total: u64 = entries().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(total <= bound + bound / 16, "{total}");
    }
    assert!(entries().count() >= 10, "no more goes than has to");
    for text in texts.iter().rev().take(5) {
        assert!(!ask(&cache, &request(text)), "{text} is young");
    }
    assert!(ask(&cache, &request(&texts[1])), "old and not used");
    assert!(foreign.iter().all(|name| folder.path().join(name).exists()));
    assert!(!abandoned.exists() && written.exists());
    // What alone is larger than all may be, is not kept.
    for _ in 0..2 {
        let large = cache.get_or_compile(&request("large"), || Ok(code("large", 20_000)));
        assert_eq!(large.map(|code| code.len()), Ok(20_000));
    }
    assert!(!ask(&cache, &request(&texts[0])));
}

#[test]
fn a_folder_that_is_of_no_use_is_no_error() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    for cache in [Cache::at(&file, MEBIBYTE), Cache::at(file.join("inside"), MEBIBYTE), Cache::nowhere()] {
        assert!(ask(&cache, &request("a")));
        assert!(ask(&cache, &request("a")), "nothing is kept");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");
    assert_eq!(files(scratch.path()), [file]);
}

#[test]
fn threads_that_want_one_thing_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    // Without a folder, too: then there is no file that could answer.
    for cache in [Cache::at(folder.path(), MEBIBYTE), Cache::nowhere()] {
        let (compiled, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let result = cache.get_or_compile(&request("a"), || {
                        compiled.fetch_add(1, SeqCst);
                        // Until all others are on their way.
                        while waiting.load(SeqCst) < 7 {
                            std::thread::yield_now();
                        }
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(code("a", 1000))
                    });
                    assert_eq!(result.as_deref(), Ok(code("a", 1000).as_slice()));
                });
                waiting.fetch_add(1, SeqCst);
            }
        });
        assert!(compiled.load(SeqCst) >= 1);
        if cache.folder().is_some() {
            assert_eq!(compiled.load(SeqCst), 1);
        }
    }
}

#[test]
fn threads_that_want_different_things_do_not_wait() {
    let cache = Cache::nowhere();
    let started = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for text in ["a", "b"] {
            let (cache, started) = (&cache, &started);
            scope.spawn(move || {
                cache.get_or_compile(&request(text), || {
                    // Ends only if both are compiling at once.
                    started.fetch_add(1, SeqCst);
                    while started.load(SeqCst) < 2 {
                        std::thread::yield_now();
                    }
                    Ok(code(text, 10))
                })
            });
        }
    });
}

/// In the processes that [`processes_share_a_folder`] starts.
#[test]
fn child_that_shares() {
    let Some(folder) = std::env::var_os("NUMFUSE_TEST_CACHE") else { return };
    // A bound that is reached all the time.
    let cache = Cache::at(folder, 30_000);
    for round in 0..40 {
        for text in 0..20 {
            ask(&cache, &request(&format!("text {}", (text + round) % 30)));
        }
    }
    println!("shared");
}

#[test]
fn processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().expect("a test is a program");
    let start = || {
        let mut child = Command::new(&program);
        child.args(["--exact", "child_that_shares", "--nocapture"]).env("NUMFUSE_TEST_CACHE", folder.path());
        child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        child.spawn().expect("it runs again")
    };
    // Each checks every result; a file that is half there, or another's, would show.
    for child in [start(), start(), start()] {
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("shared"), "{text}");
    }
    let left = files(folder.path());
    assert!(!left.is_empty() && left.iter().all(|path| path.extension().is_some_and(|e| e == "cubin")), "{left:?}");
}
