//! How many threads evaluations use: one engine for each number that was asked for, on each device.

use numfuse::{Device, Engine};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What `threads=None` means; 0 until it is asked for.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

/// More threads than this are of no use to anyone.
const MOST: usize = 256;

static ENGINES: Mutex<Vec<(usize, Device, Engine)>> = Mutex::new(Vec::new());

/// Sets how many threads evaluations use that do not say so themselves; returns what it was before.
///
/// >>> import numfuse
/// >>> before = numfuse.set_num_threads(1)
/// >>> numfuse.get_num_threads()
/// 1
/// >>> numfuse.set_num_threads(before)
/// 1
///
/// Results do not depend on the number of threads.
#[pyfunction]
#[pyo3(signature = (n, /))]
pub fn set_num_threads(n: isize) -> PyResult<usize> {
    let n = checked(n)?;
    let before = get_num_threads();
    DEFAULT.store(n, Ordering::Relaxed);
    Ok(before)
}

/// How many threads evaluations use that do not say so themselves: at first, as many as the machine has cores.
#[pyfunction]
pub fn get_num_threads() -> usize {
    match DEFAULT.load(Ordering::Relaxed) {
        0 => {
            // Asking takes longer than a small evaluation.
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST);
            let _ = DEFAULT.compare_exchange(0, cores, Ordering::Relaxed, Ordering::Relaxed);
            DEFAULT.load(Ordering::Relaxed)
        }
        n => n,
    }
}

/// The number of threads that a caller asked for.
pub fn number(threads: Option<isize>) -> PyResult<usize> {
    threads.map_or_else(|| Ok(get_num_threads()), checked)
}

fn checked(n: isize) -> PyResult<usize> {
    match usize::try_from(n) {
        Ok(n @ 1..) => Ok(n.min(MOST)),
        _ => Err(PyValueError::new_err(format!("the number of threads has to be at least 1, not {n}"))),
    }
}

/// The engine that uses so many threads of the CPU.
pub fn engine(threads: usize) -> numfuse::Result<Engine> {
    engine_on(threads, &Device::cpu())
}

/// The engine that uses so many threads, on a device.
pub fn engine_on(threads: usize, device: &Device) -> numfuse::Result<Engine> {
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, _, engine)) = engines.iter().find(|(n, on, _)| *n == threads && on == device) {
        return Ok(engine.clone());
    }
    let engine = Engine::builder().threads(threads).device(device).build()?;
    engines.push((threads, device.clone(), engine.clone()));
    Ok(engine)
}
