//! The n-th larger allocation of an evaluation fails, for every n: there is an error or the right result, and the next
//! evaluation is as good as ever. An allocator of this process fails where it is told to.
//!
//! Only allocations of 4 KiB and more fail: data, that is results, temporaries, copies, scratch rows, partial results and
//! packed operands. Smaller ones are bookkeeping, for which Rust ends a process that has no memory left; so does compiling,
//! which is why every expression has been compiled before. Machine code is meant: the interpreter's rows are bookkeeping.

use numfuse::{Array, ArrayMut, ArrayRef, Code, DType, Engine, Result, vars};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Bytes from which an allocation may fail.
const LARGE: usize = 4 << 10;

/// Larger allocations until the one that fails; negative for none.
static LEFT: AtomicI64 = AtomicI64::new(-1);
static FAILED: AtomicBool = AtomicBool::new(false);

struct Failing;

impl Failing {
    fn fails(size: usize) -> bool {
        if size < LARGE || LEFT.load(Ordering::Relaxed) < 0 {
            return false;
        }
        let fails = LEFT.fetch_sub(1, Ordering::Relaxed) == 0;
        FAILED.fetch_or(fails, Ordering::Relaxed);
        fails
    }
}

// SAFETY: what does not fail is the system allocator's.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if Failing::fails(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if Failing::fails(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        if Failing::fails(size) { std::ptr::null_mut() } else { unsafe { System.realloc(pointer, layout, size) } }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs something with its n-th larger allocation failing, for n from 0 until none is left to fail; returns how many
/// failed. What it runs on is made anew each time, and a little larger: what was freed before would be used again.
fn fail_each<T, R>(
    name: &str,
    make: impl Fn(usize) -> T,
    run: impl Fn(&mut T) -> Result<R>,
    check: impl Fn(usize, &T, R),
) -> usize {
    for n in 0..200 {
        let mut input = make(n);
        FAILED.store(false, Ordering::Relaxed);
        LEFT.store(n as i64, Ordering::Relaxed);
        let result = run(&mut input);
        LEFT.store(-1, Ordering::Relaxed);
        let failed = FAILED.load(Ordering::Relaxed);
        match result {
            Ok(result) => check(n, &input, result),
            Err(error) => assert!(failed && error.code() == Code::OutOfMemory, "{name}, allocation {n}: {error}"),
        }
        if !failed {
            return n;
        }
    }
    panic!("{name}: allocations without end");
}

fn values(n: usize) -> Vec<f64> {
    (0..n).map(|i| (i as f64 * 0.37).sin()).collect()
}

#[test]
fn every_allocation_of_data_may_fail() {
    kernels();
    copies_of_inputs();
    arrays();
}

fn kernels() {
    // Each is larger than all before.
    let made = Cell::new(0);
    let matrix = || {
        made.set(made.get() + 1);
        let (rows, columns) = (200 + 2 * made.get(), 600 + 6 * made.get());
        Array::from_vec(values(rows * columns), &[rows, columns]).unwrap()
    };
    let small = Array::from_vec(values(200), &[10, 20]).unwrap();
    let reference = Engine::builder().threads(1).build().unwrap();
    for threads in [1, 3] {
        let engine = Engine::builder().threads(threads).build().unwrap();
        // Texts, and how many allocations they have at least.
        for (text, least) in [
            ("2*m + 1", 1),
            ("exp(m) / sum(exp(m), axis=1, keepdims=True)", 2),
            ("(m - mean(m, axis=0)) / std(m, axis=0)", 3),
            ("sum(m, axis=0)", 1),
            ("sum(exp(m)) + m[:, ::-1]", 1),
            ("sum(m.T * m[0, 0], axis=0) + sum(m, axis=1)", 1),
            ("sum(m[::2, ::3])", 1),
        ] {
            let kernel = engine.prepare(text, &vars! { m: small }).unwrap();
            let right = reference.prepare(text, &vars! { m: small }).unwrap();
            for kernel in [&kernel, &right] {
                kernel.run(&vars! { m: small }).unwrap();
            }
            let run = |m: &mut Array| kernel.run(&vars! { m });
            let check = |n, m: &Array, result| {
                assert_eq!(right.run(&vars! { m }).unwrap(), result, "{text}, allocation {n}");
            };
            let failures = fail_each(text, |_| matrix(), run, check);
            // On the second engine some of what the first one freed is used again.
            assert!(failures >= least || threads > 1, "{text}: {failures} allocations");
        }
    }
}

/// Inputs that the result overlaps are copied.
fn copies_of_inputs() {
    let engine = Engine::builder().threads(1).build().unwrap();
    let kernel = engine.prepare("a[1:] - a[:-1]", &vars! { a: values(100) }).unwrap();
    let shift = |a: &mut Vec<f64>| {
        let (first, len) = (a.as_mut_ptr().cast::<u8>(), a.len());
        // SAFETY: both lie inside of the vector; that they overlap is what is tested.
        let (a, mut out) = unsafe {
            let input = ArrayRef::from_raw(first, DType::F64, &[len], &[8])?;
            (input, ArrayMut::from_raw(first, DType::F64, &[len - 1], &[8])?)
        };
        kernel.run_into(&vars! { a }, &mut out)
    };
    shift(&mut values(1000)).unwrap();
    let check = |n: usize, a: &Vec<f64>, ()| {
        let before = values(2000 + 10 * n);
        let want = before.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(want.eq(a[..a.len() - 1].iter().copied()), "allocation {n}");
    };
    assert!(fail_each("a copy of an input", |n| values(2000 + 10 * n), shift, check) > 0);
}

/// Arrays that are made and copied without an expression.
fn arrays() {
    let source = Array::from_vec(values(5000), &[50, 100]).unwrap();
    let copy = |_: &mut ()| Array::copy_of(&source.view().transposed());
    let is_copy = |_, _: &(), copy: Array| assert_eq!(copy.view().elements().nth(1), source.view().get(&[1, 0]));
    assert!(fail_each("a copy", |_| (), copy, is_copy) > 0);
    let is_zero = |_, _: &usize, zeros: Array| assert!(zeros.as_slice::<f32>().unwrap().iter().all(|x| *x == 0.0));
    assert!(fail_each("zeros", |n| 12_000 + 20 * n, |n| Array::zeros(DType::F32, &[*n]), is_zero) > 0);
    let is_vector = |_, _: &(), vector: Vec<f64>| assert_eq!(vector, values(5000));
    assert!(fail_each("a vector", |_| (), |()| source.to_vec::<f64>(), is_vector) > 0);
}
