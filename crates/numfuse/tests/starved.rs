//! What happens when the system refuses something: executable memory, threads, memory. Each test runs in a process of its
//! own, in which certain system calls fail.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use numfuse::{Array, Backend, Code, Engine, Limits, vars};
use std::process::Command;
use std::time::Duration;

/// Runs a test of this file again as a process of its own, unless this is that process already. Returns what the child
/// wrote to standard error, or none in the child.
fn in_child(test: &str) -> Option<String> {
    const CHILD: &str = "NUMFUSE_STARVED";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args([test, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
    Some(text(&output.stderr))
}

/// A system call that this thread, and the threads that it spawns, cannot make any more.
enum Refused {
    /// Whatever its arguments are.
    Always(libc::c_long),
    /// With this bit in its third argument: the protection of a mapping.
    WithThird(libc::c_long, u32),
}

/// From now on these system calls of this thread fail with `errno`.
fn refuse(calls: &[Refused], errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let (has_bits, end) = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    let deny = libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA);
    // The number of the call is the first word of what a filter sees; arguments of two words each begin at the fifth.
    let (number, third) = (0, 16 + 2 * 8);
    let mut filter = vec![statement(load, number)];
    for call in calls {
        match call {
            Refused::Always(call) => {
                filter.extend([jump(equal, *call as u32, 0, 1), statement(end, deny)]);
            }
            Refused::WithThird(call, bits) => {
                filter.extend([
                    jump(equal, *call as u32, 0, 4),
                    statement(load, third),
                    jump(has_bits, *bits, 0, 1),
                    statement(end, deny),
                    statement(load, number),
                ]);
            }
        }
    }
    filter.push(statement(end, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter lives until the calls return; the system copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let installed = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
    }
}

fn refuse_executable_memory() {
    let execute = libc::PROT_EXEC as u32;
    refuse(
        &[
            Refused::Always(libc::SYS_memfd_create),
            Refused::WithThird(libc::SYS_mmap, execute),
            Refused::WithThird(libc::SYS_mprotect, execute),
        ],
        libc::EACCES,
    );
}

fn refuse_threads() {
    refuse(&[Refused::Always(libc::SYS_clone), Refused::Always(libc::SYS_clone3)], libc::EAGAIN);
}

/// Texts that use all kinds of kernels, on arrays of this many elements.
fn results(engine: &Engine, n: usize) -> Vec<Array> {
    let a: Vec<f64> = (0..n).map(|i| (i as f64 * 0.37).sin()).collect();
    let m = Array::from_vec(a.clone(), &[n / 10, 10]).unwrap();
    let env = vars! { a, m };
    [
        "2*a + 3*a**2",
        "sum(exp(a))",
        "(m - mean(m, axis=0)) / std(m, axis=0)",
        "exp(m) / sum(exp(m), axis=1, keepdims=True)",
    ]
    .iter()
    .map(|text| engine.evaluate(text, &env).unwrap_or_else(|e| panic!("{text}: {e}")))
    .collect()
}

#[test]
fn without_executable_memory_expressions_are_interpreted() {
    if let Some(warnings) = in_child("without_executable_memory_expressions_are_interpreted") {
        assert_eq!(warnings.matches("expressions are interpreted").count(), 1, "one warning: {warnings}");
        return;
    }
    refuse_executable_memory();
    let engine = Engine::builder().build().unwrap();
    let want = results(&Engine::builder().backend(Backend::Interp).build().unwrap(), 500);
    for _ in 0..2 {
        assert_eq!(results(&engine, 500), want);
    }
    assert_eq!(engine.stats().kernels_compiled, 0);
    // Who asked for machine code is told.
    let strict = Engine::builder().backend(Backend::Jit).build().unwrap();
    let error = strict.evaluate("a + 1", &vars! { a: [1.0] }).unwrap_err();
    assert!(error.to_string().contains("executable memory"), "{error}");
}

#[test]
fn without_threads_the_caller_does_the_work() {
    if in_child("without_threads_the_caller_does_the_work").is_some() {
        return;
    }
    refuse_threads();
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "threads are refused");
    let want = results(&Engine::builder().threads(1).build().unwrap(), 300_000);
    let engine = Engine::builder().threads(4).build().unwrap();
    for _ in 0..2 {
        assert_eq!(results(&engine, 300_000), want);
    }
    // A deadline needs a thread to be watched; without one it is looked at between kernels.
    let mut limits = Limits::default();
    limits.time = Some(Duration::from_secs(1000));
    let patient = Engine::builder().limits(limits).build().unwrap();
    assert_eq!(results(&patient, 300_000), want);
    limits.time = Some(Duration::ZERO);
    let hasty = Engine::builder().limits(limits).build().unwrap();
    assert_eq!(hasty.evaluate("a + 1", &vars! { a: [1.0] }).unwrap_err().code(), Code::Cancelled);
}

#[test]
fn without_memory_there_is_an_error_and_later_a_result() {
    if in_child("without_memory_there_is_an_error_and_later_a_result").is_some() {
        return;
    }
    let a = vec![1.0f64; 1 << 20];
    let engine = Engine::builder().threads(1).build().unwrap();
    let text = "a[:, None] * a[:64]";
    engine.evaluate("a[:, None] * a[:1]", &vars! { a }).unwrap();
    // All the address space that there is now, and 64 MiB: the result takes 512.
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split_whitespace().next().unwrap().parse().unwrap();
    let limit = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit is read only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    };
    limit(pages * 4096 + (64 << 20));
    for _ in 0..3 {
        assert_eq!(engine.evaluate(text, &vars! { a }).unwrap_err().code(), Code::OutOfMemory);
    }
    limit(libc::RLIM_INFINITY);
    let result = engine.evaluate(text, &vars! { a }).unwrap();
    assert!(result.as_slice::<f64>().unwrap().iter().all(|x| *x == 1.0));
}
