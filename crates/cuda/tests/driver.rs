//! The driver layer on a stand-in of the driver (`emulator/driver.cpp`): what works, and what is refused. Nothing here needs a
//! GPU; each body runs in a process of its own, and the stand-in ends it if it does what a driver leaves undefined. On a
//! machine with a GPU, `NUMFUSE_TEST_GPU=1` runs those on it that every device must pass.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common {
    pub mod device;
    pub mod emulator;
    pub mod fake;
}

use common::device::*;
use common::fake::{Fake, machine_code};
use numfuse_cuda::driver::{Event, Function, Graph, Memory, MemoryStats, Module, Pinned, Stream};
use numfuse_cuda::emit::Grid;
use numfuse_cuda::{Device, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

// ---- devices ----

#[test]
fn a_device_tells_what_it_is() {
    Fake::new().with("MEMORY", 1 << 30).run(|| {
        let device = Device::open(0).unwrap();
        assert_eq!((device.index(), device.name(), device.arch()), (0, "emulated device 0", (9, 0)));
        assert_eq!((device.multiprocessors(), device.max_shared()), (2, 227 << 10));
        assert_eq!((device.memory_total(), device.memory_free().unwrap()), (1 << 30, 1 << 30));
        assert_eq!(device.driver().version(), (13, 0));
        assert_eq!(format!("{device:?}"), "Device(0: emulated device 0, sm_90)");
        assert_eq!(format!("{:?}", device.driver()), "Driver(CUDA 13.0, 1 devices)");
    });
}

#[test]
fn an_open_device_is_found_again() {
    let outcome = Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let again = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        assert!(stream == again.stream().unwrap() && stream != Stream::new(&device).unwrap());
        drop((device, again));
        // What is made from a device keeps it open.
        let memory = stream.allocate(10).unwrap();
        drop(stream);
        drop(memory);
        drop(Device::open(0).unwrap());
    });
    if outcome.is_known() {
        assert_eq!(outcome.calls("cuDevicePrimaryCtxRetain"), 2);
        assert_eq!(outcome.calls("cuDevicePrimaryCtxRelease_v2"), 2);
    }
}

/// The context that is current on this thread, as another user of the driver would ask.
fn current_context() -> usize {
    let mut context = 0;
    // SAFETY: the type is that of the function, and the library stays loaded.
    unsafe {
        let library = libloading::Library::new("libcuda.so.1").unwrap();
        let get: libloading::Symbol<'_, unsafe extern "C" fn(*mut usize) -> u32> =
            library.get(b"cuCtxGetCurrent").unwrap();
        assert_eq!(get(&mut context), 0);
    }
    context
}

#[test]
fn the_context_of_others_is_current_again_after_a_call() {
    Fake::new().with("DEVICES", 2).run(|| {
        let [first, second] = [0, 1].map(|i| Device::open(i).unwrap());
        // This thread has been left with the first.
        let before = current_context();
        assert_ne!(before, 0);
        let stream = second.stream().unwrap();
        let memory = uploaded(&stream, &numbers(5));
        assert_eq!(downloaded(&stream, &memory), numbers(5));
        assert_eq!(current_context(), before);
        drop((stream, memory, second));
        assert_eq!(current_context(), before);
        // A thread without one keeps ours.
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(current_context(), 0);
                first.synchronize().unwrap();
                assert_eq!(current_context(), before);
            });
        });
    });
}

#[test]
fn devices_do_not_mix() {
    Fake::new().with("DEVICES", 2).run(|| {
        let devices = [0, 1].map(|i| Device::open(i).unwrap());
        let [first, second] = devices.each_ref().map(|d| d.stream().unwrap());
        let [a, b] = [&first, &second].map(|s| s.allocate(16).unwrap());
        let refused = |result: Result<(), Error>| {
            let expected = Error::Internal("a stream of device 0 was given something of device 1".to_owned());
            assert_eq!(result, Err(expected));
        };
        refused(first.upload(&b, 0, &[1]));
        refused(first.download(&b, 0, &mut [0]));
        refused(first.copy(&a, 0, &b, 0..16));
        refused(first.copy(&b, 0, &a, 0..16));
        refused(first.fill(&b, 0..16, 0));
        let mut pinned = Pinned::new(&devices[1], 4).unwrap();
        refused(first.upload_pinned(&a, 0, &mut pinned, 0..4));
        refused(first.download_pinned(&a, 0..4, &mut pinned, 0));
        refused(scale(&first, &function(&devices[1], "kernel_scale"), &a, &a));
        let graph = Graph::capture(&devices[1], |capture| capture.fill(&b, 0..16, 0)).unwrap();
        // SAFETY: the memory is live.
        refused(unsafe { graph.launch(&first) });
        refused(Graph::capture(&devices[0], |capture| capture.fill(&b, 0..16, 0)).map(drop));
        // Streams may wait for those of other devices.
        first.wait_stream(&second).unwrap();
        first.synchronize().unwrap();
    });
}

#[test]
fn any_thread_may_call() {
    for seed in 0..3 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let function = function(&device, "kernel_scale");
            let shared = device.stream().unwrap();
            thread::scope(|scope| {
                for i in 0..4 {
                    let (device, function, shared) = (&device, &function, &shared);
                    scope.spawn(move || {
                        let own = Stream::new(device).unwrap();
                        for n in 1..8 {
                            let stream = if (i + n) % 2 == 0 { shared } else { &own };
                            let (from, to) = (uploaded(stream, &numbers(n * 70)), stream.allocate(n * 280).unwrap());
                            scale(stream, function, &from, &to).unwrap();
                            drop(from);
                            assert_eq!(downloaded(stream, &to), scaled(&numbers(n * 70)));
                        }
                    });
                }
            });
        });
    }
}

#[test]
fn what_a_process_leaves_behind_at_its_end_does_no_harm() {
    Fake::or_real().run_leaky(|| {
        static KEPT: std::sync::OnceLock<(Memory, Pinned, Event, Function)> = std::sync::OnceLock::new();
        thread_local! {
            static LOCAL: std::cell::RefCell<Option<Memory>> = const { std::cell::RefCell::new(None) };
        }
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let pinned = Pinned::new(&device, 10).unwrap();
        let function = function(&device, "kernel_scale");
        let memory = stream.allocate(10).unwrap();
        assert!(KEPT.set((memory, pinned, Event::new(&device).unwrap(), function)).is_ok());
        LOCAL.with_borrow_mut(|local| *local = Some(stream.allocate(10).unwrap()));
    });
}

// ---- copies ----

#[test]
fn copies_arrive() {
    Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = uploaded(&stream, &numbers(1000));
        assert_eq!((memory.len(), memory.address() % 256), (4000, 0));
        assert_eq!(downloaded(&stream, &memory), numbers(1000));
        // Parts of it.
        stream.upload(&memory, 8, &bytes(&[7.0, 8.0])).unwrap();
        let mut part = [0; 16];
        stream.download(&memory, 4, &mut part).unwrap();
        assert_eq!(floats(&part), [-2.0, 7.0, 8.0, 1.0]);
        // On the device, from one stream to another.
        let other = Stream::new(&device).unwrap();
        let copy = other.allocate(12).unwrap();
        other.fill(&copy, 0..12, 0).unwrap();
        other.copy(&copy, 4, &memory, 8..16).unwrap();
        assert_eq!(downloaded(&stream, &copy), [0.0, 7.0, 8.0]);
        stream.copy(&memory, 0, &memory, 8..16).unwrap();
        stream.fill(&memory, 8..12, 0).unwrap();
        stream.download(&memory, 0, &mut part).unwrap();
        assert_eq!(floats(&part), [7.0, 8.0, 0.0, 8.0]);
        // Into memory that was not written.
        let mut fresh = Vec::with_capacity(12);
        let read = stream.download_uninit(&copy, 0, &mut fresh.spare_capacity_mut()[..12]).unwrap();
        assert_eq!(floats(read), [0.0, 7.0, 8.0]);
    });
}

#[test]
fn new_memory_holds_nothing_useful() {
    // This is about the stand-in: a kernel that does not write its results is found out.
    Fake::new().run(|| {
        let stream = Device::open(0).unwrap().stream().unwrap();
        let memory = stream.allocate(8).unwrap();
        assert!(downloaded(&stream, &memory).iter().all(|x| x.is_nan()));
    });
}

#[test]
fn ranges_are_checked() {
    Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let [a, b] = [(); 2].map(|()| stream.allocate(10).unwrap());
        let mut pinned = Pinned::new(&device, 10).unwrap();
        let refused = |result: Result<(), Error>, expected: &str| {
            assert_eq!(result, Err(Error::Internal(expected.to_owned())));
        };
        refused(stream.upload(&a, 8, &[0; 3]), "an upload of 3 bytes at byte 8 of 10");
        refused(stream.upload(&a, usize::MAX, &[0; 3]), &format!("an upload of 3 bytes at byte {} of 10", usize::MAX));
        refused(stream.download(&a, 8, &mut [0; 3]), "a download of 3 bytes at byte 8 of 10");
        refused(stream.copy(&a, 8, &b, 0..3), "a copy of 3 bytes at byte 8 of 10");
        refused(stream.copy(&a, 0, &b, 9..12), "a copy of 3 bytes at byte 9 of 10");
        refused(stream.copy(&a, 0, &a, 2..5), "the ranges of a copy overlap");
        refused(stream.fill(&a, 5..11, 0), "a fill of 6 bytes at byte 5 of 10");
        refused(stream.upload_pinned(&a, 9, &mut pinned, 0..2), "an upload of 2 bytes at byte 9 of 10");
        refused(stream.upload_pinned(&a, 0, &mut pinned, 9..11), "an upload of 2 bytes at byte 9 of 10");
        refused(stream.download_pinned(&a, 0..11, &mut pinned, 0), "a download of 11 bytes at byte 0 of 10");
        refused(stream.download_pinned(&a, 0..2, &mut pinned, 9), "a download of 2 bytes at byte 9 of 10");
    });
}

#[test]
fn nothing_can_be_copied_too() {
    let outcome = Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = stream.allocate(0).unwrap();
        assert!(memory.is_empty() && memory.address() == 0);
        stream.upload(&memory, 0, &[]).unwrap();
        stream.download(&memory, 0, &mut []).unwrap();
        stream.copy(&memory, 0, &memory, 0..0).unwrap();
        stream.fill(&memory, 0..0, 1).unwrap();
        let mut pinned = Pinned::new(&device, 0).unwrap();
        stream.upload_pinned(&memory, 0, &mut pinned, 0..0).unwrap();
        stream.download_pinned(&memory, 0..0, &mut pinned, 0).unwrap();
        assert!(pinned.is_empty() && pinned.bytes().unwrap().is_empty() && pinned.bytes_mut().unwrap().is_empty());
    });
    assert_eq!(outcome.calls("cuMemHostAlloc") + outcome.calls("cuMemcpyHtoDAsync_v2"), 0);
}

#[test]
fn pinned_memory_waits_for_its_copies() {
    for seed in 0..5 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
            let mut pinned = Pinned::new(&device, 16).unwrap();
            assert_eq!(pinned.bytes().unwrap(), [0; 16]);
            pinned.bytes_mut().unwrap().copy_from_slice(&bytes(&[1.0, 2.0, 3.0, 4.0]));
            let memory = one.allocate(16).unwrap();
            // There and back on two streams, each copy after the one before.
            one.upload_pinned(&memory, 0, &mut pinned, 0..16).unwrap();
            two.download_pinned(&memory, 0..8, &mut pinned, 8).unwrap();
            assert_eq!(floats(pinned.bytes().unwrap()), [1.0, 2.0, 1.0, 2.0]);
            // The host writes after the copy has read.
            one.upload_pinned(&memory, 0, &mut pinned, 0..16).unwrap();
            pinned.bytes_mut().unwrap().fill(0);
            assert_eq!(downloaded(&one, &memory), [1.0, 2.0, 1.0, 2.0]);
            // Memory that is dropped under its copies stays until they are done.
            one.download_pinned(&memory, 0..16, &mut pinned, 0).unwrap();
            drop(memory);
            drop((one, two));
            assert_eq!(floats(pinned.bytes().unwrap()), [1.0, 2.0, 1.0, 2.0]);
            let stream = device.stream().unwrap();
            let memory = stream.allocate(16).unwrap();
            stream.upload_pinned(&memory, 0, &mut pinned, 0..16).unwrap();
            drop(pinned);
            assert_eq!(downloaded(&stream, &memory), [1.0, 2.0, 1.0, 2.0]);
        });
    }
}

// ---- memory ----

#[test]
fn memory_is_counted_and_kept_for_reuse() {
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let stats = || device.memory_stats().unwrap();
        assert_eq!(stats(), MemoryStats::default());
        let a = stream.allocate(1000).unwrap();
        let b = stream.allocate(500).unwrap();
        assert_eq!(stats(), MemoryStats { used: 1500, peak: 1500, reserved: 1500 });
        drop(a);
        stream.synchronize().unwrap();
        assert_eq!(stats(), MemoryStats { used: 500, peak: 1500, reserved: 1500 });
        device.trim().unwrap();
        assert_eq!(stats(), MemoryStats { used: 500, peak: 1500, reserved: 500 });
        drop(b);
        device.trim().unwrap();
        assert_eq!(stats(), MemoryStats { used: 0, peak: 1500, reserved: 0 });
    });
}

#[test]
fn memory_that_runs_out_is_taken_from_what_is_kept() {
    let outcome = Fake::new().with("MEMORY", 1000).run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let small: Vec<Memory> = (0..10).map(|_| stream.allocate(100).unwrap()).collect();
        drop(small);
        // What is kept is in pieces, and its work is not even done.
        let large = stream.allocate(900).unwrap();
        assert_eq!(device.memory_stats().unwrap().reserved, 900);
        let expected = Error::OutOfMemory { asked: 101, free: 100, total: 1000 };
        assert_eq!(stream.allocate(101).unwrap_err(), expected);
        let error = stream.allocate(usize::MAX >> 1).unwrap_err();
        assert!(error.to_string().starts_with("out of memory on the device: 9223372036854775807 bytes"), "{error}");
        // Nothing is lost by that.
        stream.fill(&large, 0..900, 1).unwrap();
        stream.allocate(100).unwrap();
    });
    if outcome.is_known() {
        assert_eq!(outcome.calls("cuMemPoolTrimTo"), 3);
    }
}

#[test]
fn devices_without_pools_work() {
    for pools in [0, 2] {
        for seed in 0..3 {
            Fake::new().with("POOLS", pools).with("MEMORY", 4096).with("SEED", seed).run(|| {
                let device = Device::open(0).unwrap();
                let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
                let function = function(&device, "kernel_scale");
                let (from, to) = (uploaded(&one, &numbers(300)), one.allocate(1200).unwrap());
                scale(&one, &function, &from, &to).unwrap();
                to.used_on(&two).unwrap();
                scale(&two, &function, &to, &to).unwrap();
                // Freed only when the work on both streams is done.
                drop(from);
                assert_eq!(downloaded(&two, &to), scaled(&scaled(&numbers(300))));
                assert_eq!(device.memory_stats().unwrap(), MemoryStats { used: 1200, peak: 2400, reserved: 1200 });
                let expected = Error::OutOfMemory { asked: 4000, free: 2896, total: 4096 };
                assert_eq!(one.allocate(4000).unwrap_err(), expected);
                device.trim().unwrap();
            });
        }
    }
}

#[test]
fn memory_is_freed_after_all_work_that_uses_it() {
    for seed in 0..10 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let function = function(&device, "kernel_scale");
            let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
            let to = two.allocate(400).unwrap();
            // Allocated and filled on one stream, used on another, dropped on another thread before any of it is done.
            let from = one.allocate(400).unwrap();
            one.fill(&from, 0..400, 0).unwrap();
            from.used_on(&two).unwrap();
            scale(&two, &function, &from, &to).unwrap();
            thread::spawn(move || drop(from)).join().unwrap();
            let reused = one.allocate(400).unwrap();
            one.fill(&reused, 0..400, 1).unwrap();
            assert_eq!(downloaded(&two, &to), [1.0; 100]);
            drop((one, two, function));
        });
    }
}

/// Sets a flag when it is dropped.
struct Owner(Arc<AtomicBool>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn memory_of_others_is_kept_while_work_goes_on() {
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let theirs = uploaded(&stream, &numbers(100));
        let dropped = Arc::new(AtomicBool::new(false));
        let import = |stream: &Stream| {
            // SAFETY: the memory outlives what is made of it here.
            unsafe { Memory::import(stream, theirs.address(), theirs.len(), Box::new(Owner(dropped.clone()))) }
        };
        let is_dropped = || dropped.swap(false, Ordering::Relaxed);
        let function = function(&device, "kernel_scale");
        let to = stream.allocate(400).unwrap();
        // With nothing to wait for, the owner goes at once.
        stream.synchronize().unwrap();
        drop(import(&stream));
        assert!(is_dropped());
        // With work to be done, when somebody waits.
        let from = import(&stream);
        assert_eq!((from.address(), from.len()), (theirs.address(), 400));
        scale(&stream, &function, &from, &to).unwrap();
        drop(from);
        assert!(!is_dropped());
        stream.synchronize().unwrap();
        assert!(is_dropped());
        assert_eq!(downloaded(&stream, &to), scaled(&numbers(100)));
        // The same on another stream.
        let other = Stream::new(&device).unwrap();
        let from = import(&stream);
        from.used_on(&other).unwrap();
        to.used_on(&other).unwrap();
        scale(&other, &function, &from, &to).unwrap();
        drop(from);
        assert!(!is_dropped());
        device.synchronize().unwrap();
        assert!(is_dropped());
        // The last of all waits for it.
        let from = import(&stream);
        scale(&stream, &function, &from, &to).unwrap();
        drop(from);
        assert!(!is_dropped());
        drop((other, function, to, theirs, stream));
        drop(device);
        assert!(is_dropped());
    });
}

#[test]
fn streams_of_others_are_waited_for() {
    for seed in 0..5 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let function = function(&device, "kernel_scale");
            let ours = device.stream().unwrap();
            let (stream_dropped, memory_dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            // The default stream of the context.
            let owner = Box::new(Owner(stream_dropped.clone()));
            // SAFETY: it is there for as long as the context.
            let theirs = unsafe { Stream::import(&device, 1, owner) }.unwrap();
            let allocated = theirs.allocate(400).unwrap();
            theirs.fill(&allocated, 0..400, 0).unwrap();
            let owner = Box::new(Owner(memory_dropped.clone()));
            // SAFETY: the memory outlives this.
            let from = unsafe { Memory::import(&theirs, allocated.address(), 400, owner) };
            let to = ours.allocate(400).unwrap();
            from.used_on(&ours).unwrap();
            scale(&ours, &function, &from, &to).unwrap();
            drop(from);
            // The owner may give the memory back at once: in the order of its stream, which waits for ours.
            assert!(memory_dropped.load(Ordering::Relaxed));
            drop(allocated);
            theirs.synchronize().unwrap();
            drop(theirs);
            assert!(stream_dropped.load(Ordering::Relaxed));
            assert_eq!(downloaded(&ours, &to), [1.0; 100]);
        });
    }
}

// ---- launches ----

#[test]
fn kernels_run_in_order() {
    for seed in 0..3 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let stream = device.stream().unwrap();
            let function = function(&device, "kernel_scale");
            assert!(function.registers() > 0);
            assert_eq!((function.local_bytes(), function.max_threads()), (0, 256));
            for n in [1, 255, 256, 257, 5000] {
                let (from, to) = (uploaded(&stream, &numbers(n)), stream.allocate(n * 4).unwrap());
                scale(&stream, &function, &from, &to).unwrap();
                scale(&stream, &function, &to, &to).unwrap();
                assert_eq!(downloaded(&stream, &to), scaled(&scaled(&numbers(n))));
            }
        });
    }
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let function = function(&device, "kernel_reverse");
        let launch = |grid: Grid, words: &[u64]| {
            // SAFETY: none of these is launched.
            unsafe { stream.launch(&function, &grid, words) }.unwrap_err().to_string()
        };
        let error = launch(grid(1, 0), &[0, 0]);
        assert!(error.ends_with("a function of 3 words was given 2"), "{error}");
        let error = launch(grid(1, 1 << 20), &[0, 0, 0]);
        let expected = "no CUDA code: a block would need 1048576 bytes of shared memory, and \
                        Device(0: emulated device 0, sm_90) has 232448";
        assert_eq!(error, expected);
        let too_many = Grid { threads: [257, 1, 1], ..grid(1, 0) };
        let expected = "CUDA error in cuLaunchKernel: invalid argument (CUDA_ERROR_INVALID_VALUE)";
        assert_eq!(launch(too_many, &[0, 0, 0]), expected);
        // No harm is done.
        stream.synchronize().unwrap();
    });
}

#[test]
fn shared_memory_grows_as_it_is_asked_for() {
    let outcome = Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let function = function(&device, "kernel_reverse");
        for n in [10, 12_000, 25_000, 13_000, 50_000] {
            let (from, to) = (uploaded(&stream, &numbers(n)), stream.allocate(n * 4).unwrap());
            let shared = u32::try_from(n * 4).unwrap();
            let words = [from.address(), to.address(), n as u64];
            // SAFETY: both have `n` numbers.
            unsafe { stream.launch(&function, &grid(1, shared), &words) }.unwrap();
            let mut expected = numbers(n);
            expected.reverse();
            assert_eq!(downloaded(&stream, &to), expected);
        }
    });
    if outcome.is_known() {
        assert_eq!(outcome.calls("cuFuncSetAttribute"), 2);
    }
}

#[test]
fn machine_code_that_is_none_is_refused() {
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        let code = machine_code(&text());
        let refused = |code: &[u8]| {
            let expected = Error::Internal(format!("{} bytes are not machine code of a device", code.len()));
            assert_eq!(Module::load(&device, code).map(drop), Err(expected));
        };
        refused(b"");
        refused(b"\x7fELF\x02\x01");
        refused(b".version 8.0\n.target sm_90\n");
        (0..code.len()).step_by(501).chain([code.len() - 1]).for_each(|n| refused(&code[..n]));
        // Sizes that no file has.
        for at in [0x20, 0x28] {
            let mut wrong = code.clone();
            wrong[at..at + 8].fill(0xff);
            refused(&wrong);
        }
        // For another machine, the driver says so.
        let mut wrong = code.clone();
        wrong[0x12] = 0xf3;
        assert!(matches!(Module::load(&device, &wrong), Err(Error::Driver { call: "cuModuleLoadData", .. })));
        let module = Module::load(&device, &code).unwrap();
        assert!(matches!(module.function("kernel_none"), Err(Error::Driver { call: "cuModuleGetFunction", .. })));
        assert!(matches!(module.function("kernel\0"), Err(Error::Internal(_))));
    });
}

#[test]
fn a_module_stays_while_its_kernels_run() {
    Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let (from, to) = (uploaded(&stream, &numbers(9)), stream.allocate(36).unwrap());
        scale(&stream, &function(&device, "kernel_scale"), &from, &to).unwrap();
        assert_eq!(downloaded(&stream, &to), scaled(&numbers(9)));
    });
}

// ---- events ----

fn elapsed_time(device: &Device) {
    let stream = device.stream().unwrap();
    let [before, after] = [(); 2].map(|()| Event::new(device).unwrap());
    // Nowhere yet.
    assert!(before.is_done().unwrap());
    assert!(matches!(before.elapsed_ms(&after), Err(Error::Driver { call: "cuEventElapsedTime", .. })));
    let memory = stream.allocate(1 << 20).unwrap();
    before.record(&stream).unwrap();
    stream.fill(&memory, 0..1 << 20, 3).unwrap();
    after.record(&stream).unwrap();
    assert!(before.elapsed_ms(&after).unwrap() > 0.0);
    assert!(after.is_done().unwrap() && stream.is_idle().unwrap());
}

#[test]
fn events_have_times() {
    Fake::or_real().run(|| elapsed_time(&Device::open(0).unwrap()));
}

#[test]
fn what_newer_drivers_have_is_not_needed() {
    Fake::new()
        .with("VERSION", 11_040)
        .without("cuEventElapsedTime_v2")
        .run(|| elapsed_time(&Device::open(0).unwrap()));
    Fake::new().with("VERSION", 12_000).without("cuFuncGetParamInfo").run(|| {
        let device = Device::open(0).unwrap();
        assert_eq!(device.driver().version(), (12, 0));
        let stream = device.stream().unwrap();
        let (from, to) = (uploaded(&stream, &numbers(10)), stream.allocate(40).unwrap());
        scale(&stream, &function(&device, "kernel_scale"), &from, &to).unwrap();
        assert_eq!(downloaded(&stream, &to), scaled(&numbers(10)));
    });
}

#[test]
fn what_is_not_done_is_not_said_to_be() {
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let event = Event::new(&device).unwrap();
        let memory = stream.allocate(8).unwrap();
        stream.fill(&memory, 0..8, 3).unwrap();
        event.record(&stream).unwrap();
        // On the stand-in, somebody has to wait or ask.
        assert!(!event.is_done().unwrap() && !stream.is_idle().unwrap());
        event.synchronize().unwrap();
        assert!(event.is_done().unwrap() && stream.is_idle().unwrap());
    });
}

#[test]
fn streams_wait_for_each_other() {
    for seed in 0..10 {
        Fake::or_real().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let function = function(&device, "kernel_scale");
            let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
            let (from, to) = (uploaded(&one, &numbers(50)), one.allocate(200).unwrap());
            let event = Event::new(&device).unwrap();
            to.used_on(&two).unwrap();
            scale(&one, &function, &from, &to).unwrap();
            event.record(&one).unwrap();
            // What comes after the event is not waited for.
            two.wait(&event).unwrap();
            drop(event);
            scale(&two, &function, &to, &to).unwrap();
            one.wait_stream(&two).unwrap();
            scale(&one, &function, &to, &to).unwrap();
            // Asking often enough gets there, too.
            while !one.is_idle().unwrap() {}
            assert_eq!(downloaded(&one, &to), scaled(&scaled(&scaled(&numbers(50)))));
        });
    }
}

// ---- graphs ----

#[test]
fn graphs_repeat_what_was_captured() {
    let outcome = Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let (from, to) = (uploaded(&stream, &numbers(20)), stream.allocate(80).unwrap());
        let graph = {
            let function = function(&device, "kernel_scale");
            Graph::capture(&device, |capture| {
                capture.copy(&to, 0, &from, 0..80)?;
                for _ in 0..2 {
                    capture.launch(&function, &grid(20, 0), &[to.address(), to.address(), 20])?;
                }
                capture.fill(&to, 0..4, 0)
            })
            .unwrap()
        };
        assert_eq!(graph.launches(), 2);
        // Nothing was done so far.
        stream.fill(&to, 0..80, 0xff).unwrap();
        assert!(downloaded(&stream, &to)[0].is_nan());
        for _ in 0..3 {
            // SAFETY: the memory is live, and has 20 numbers.
            unsafe { graph.launch(&stream) }.unwrap();
        }
        let mut expected = scaled(&scaled(&numbers(20)));
        expected[0] = 0.0;
        assert_eq!(downloaded(&stream, &to), expected);
        // A graph that is dropped under a replay is still done.
        stream.upload(&from, 0, &bytes(&[1.0; 20])).unwrap();
        // SAFETY: as above.
        unsafe { graph.launch(&stream) }.unwrap();
        drop(graph);
        assert_eq!(downloaded(&stream, &to)[1..], [7.0; 19]);
    });
    if outcome.is_known() {
        assert_eq!((outcome.calls("cuLaunchKernel"), outcome.calls("cuGraphLaunch")), (2, 4));
    }
}

#[test]
fn a_capture_that_fails_leaves_nothing() {
    Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = stream.allocate(8).unwrap();
        let error = Error::Unsupported("for a reason".to_owned());
        let result = Graph::capture(&device, |capture| {
            capture.fill(&memory, 0..8, 0)?;
            Err(error.clone())
        });
        assert_eq!(result.map(drop), Err(error));
        let unwound = std::panic::catch_unwind(|| Graph::capture(&device, |_| panic!("as wanted")));
        assert!(unwound.is_err());
        // Other streams work during a capture, and do not get into it.
        let graph = Graph::capture(&device, |capture| {
            let other = uploaded(&stream, &numbers(4));
            assert_eq!(downloaded(&stream, &other), numbers(4));
            capture.fill(&memory, 0..8, 0)
        })
        .unwrap();
        // SAFETY: the memory is live.
        unsafe { graph.launch(&stream) }.unwrap();
        assert_eq!(downloaded(&stream, &memory), [0.0; 2]);
    });
}
