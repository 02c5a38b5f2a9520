//! A child that is forked while other threads of its parent are in the middle of something: they hold locks and promise
//! code that the child never gets. It evaluates all the same.

#![cfg(unix)]

use numfuse::{Engine, Limits, vars};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TEXTS: [&str; 3] = ["exp(a) * sin(a) + b", "sum(log(a * a + 1))", "sqrt(a) - b / 3"];

fn evaluate_all(engine: &Engine) -> bool {
    let (a, b) = (vec![2.0; 100], [0.5]);
    TEXTS.iter().all(|text| engine.evaluate(text, &vars! { a, b }).is_ok())
}

#[test]
fn a_child_waits_for_no_thread_of_its_parent() {
    let mut limits = Limits::default();
    limits.time = Some(Duration::from_secs(1000));
    let engine = Engine::builder().limits(limits).build().unwrap();
    assert!(evaluate_all(&engine));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // What is compiled right now is what the child asks for.
                    engine.clear();
                    assert!(evaluate_all(&engine));
                }
            });
        }
        let failed = (0..30).find_map(|_| fork(|| evaluate_all(&engine) && evaluate_all(&Engine::default())).err());
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, None);
    });
}

/// Runs something in a child; an error if that fails or hangs.
fn fork(run: impl FnOnce() -> bool) -> Result<(), String> {
    // SAFETY: the child calls nothing but the engine, and leaves without running destructors of the harness.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let good = run();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let (mut status, end) = (0, Instant::now() + Duration::from_secs(60));
    loop {
        // SAFETY: waits for our own child.
        if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
            return if status == 0 { Ok(()) } else { Err(format!("status {status}")) };
        }
        if Instant::now() > end {
            // SAFETY: ends our own child, and waits for it.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &mut status, 0);
            }
            return Err("it hangs".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
