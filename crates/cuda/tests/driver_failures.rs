//! The driver layer when something is missing or fails, on a stand-in of the driver (`emulator/driver.cpp`): there is an
//! error that says what, never a panic, and nothing is left behind. And what the stand-in itself finds.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common {
    pub mod device;
    pub mod emulator;
    pub mod fake;
}

use common::device::*;
use common::fake::{Fake, machine_code};
use numfuse_cuda::driver::{Event, Graph, Memory, Module, Pinned, Stream};
use numfuse_cuda::{Device, Driver, Error};
use std::thread;

// ---- no driver, or not this one ----

#[test]
fn without_a_driver_there_is_an_error() {
    Fake::absent().run(|| {
        for _ in 0..2 {
            let error = Device::open(0).unwrap_err();
            assert!(matches!(error, Error::NoDriver(_)), "{error}");
            assert!(error.to_string().contains("libcuda.so.1"), "{error}");
            assert_eq!(Driver::load().unwrap_err(), error);
        }
    });
}

#[test]
fn a_driver_without_devices_has_none() {
    Fake::new().with("DEVICES", 0).run(|| {
        assert_eq!(Driver::load().unwrap().device_count(), 0);
        assert_eq!(Device::open(0).unwrap_err(), Error::NoDevice { index: 0, count: 0 });
    });
    Fake::new().with("DEVICES", 2).run(|| {
        assert_eq!(Driver::load().unwrap().device_count(), 2);
        assert_eq!(Device::open(2).unwrap_err(), Error::NoDevice { index: 2, count: 2 });
        assert_eq!(Device::open(usize::MAX).unwrap_err(), Error::NoDevice { index: usize::MAX, count: 2 });
    });
}

#[test]
fn old_drivers_are_refused() {
    Fake::new().with("VERSION", 11_020).run(|| {
        let expected = "the NVIDIA driver is too old: it is for CUDA 11.2, and at least 11.4 is needed";
        assert_eq!(Device::open(0).unwrap_err().to_string(), expected);
    });
    Fake::new().without("cuMemAllocFromPoolAsync").run(|| {
        let expected = Error::DriverTooOld("it has no function cuMemAllocFromPoolAsync".to_owned());
        assert_eq!(Device::open(0).unwrap_err(), expected);
    });
    // An old version is the better reason.
    Fake::new().with("VERSION", 11_000).without("cuMemAllocFromPoolAsync").run(|| {
        assert!(Device::open(0).unwrap_err().to_string().contains("CUDA 11.0"));
    });
}

#[test]
fn a_driver_that_cannot_start_says_why() {
    Fake::new().with("INIT", 999).run(|| {
        let expected = "CUDA error in cuInit: unknown error (CUDA_ERROR_UNKNOWN)";
        assert_eq!(Device::open(0).unwrap_err().to_string(), expected);
    });
    Fake::new().with("INIT", 34).run(|| {
        assert!(matches!(Device::open(0), Err(Error::NoDriver(reason)) if reason.contains("stub")));
    });
}

#[test]
fn errors_that_have_no_name_are_numbers() {
    Fake::new().with("FAIL", "cuStreamCreate:1:12345").run(|| {
        let error = Device::open(0).unwrap().stream().unwrap_err();
        let reason = "error 12345, which the driver has no name for".to_owned();
        assert_eq!(error, Error::Driver { call: "cuStreamCreate", reason });
    });
}

// ---- what goes wrong ----

#[test]
fn a_lost_device_stays_lost_until_it_is_closed() {
    Fake::new().with("FAULT", "1:719").run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let function = function(&device, "kernel_scale");
        let (from, to) = (uploaded(&stream, &numbers(4)), stream.allocate(16).unwrap());
        let mut pinned = Pinned::new(&device, 16).unwrap();
        let event = Event::new(&device).unwrap();
        let graph = Graph::capture(&device, |capture| capture.fill(&to, 0..4, 0)).unwrap();
        stream.download_pinned(&from, 0..16, &mut pinned, 0).unwrap();
        scale(&stream, &function, &from, &to).unwrap();
        let lost = stream.synchronize().unwrap_err();
        let expected = "CUDA error in cuStreamSynchronize: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)";
        assert_eq!(lost.to_string(), expected);
        let all = [
            stream.synchronize(),
            stream.is_idle().map(drop),
            stream.allocate(4).map(drop),
            stream.upload(&to, 0, &[1]),
            stream.download(&to, 0, &mut [1]),
            stream.upload_pinned(&to, 0, &mut pinned, 0..4),
            stream.download_pinned(&to, 0..4, &mut pinned, 0),
            stream.copy(&to, 0, &from, 0..16),
            stream.fill(&to, 0..16, 0),
            stream.wait(&event),
            scale(&stream, &function, &from, &to),
            // SAFETY: it is not done.
            unsafe { graph.launch(&stream) },
            pinned.bytes().map(drop),
            event.record(&stream),
            event.synchronize(),
            event.is_done().map(drop),
            device.synchronize(),
            device.trim(),
            device.memory_free().map(drop),
            device.memory_stats().map(drop),
            device.stream().map(drop),
            Stream::new(&device).map(drop),
            Event::new(&device).map(drop),
            Pinned::new(&device, 4).map(drop),
            Module::load(&device, &machine_code(&text())).map(drop),
            Graph::capture(&device, |_| Ok(())).map(drop),
            Device::open(0).map(drop),
        ];
        for (i, result) in all.into_iter().enumerate() {
            assert_eq!(result, Err(lost.clone()), "call {i}");
        }
        drop((graph, event, pinned, from, to, function, stream, device));
        // The driver makes a new context for whoever opens it next.
        let stream = Device::open(0).unwrap().stream().unwrap();
        assert_eq!(downloaded(&stream, &uploaded(&stream, &numbers(4))), numbers(4));
    });
}

#[test]
fn a_kernel_outside_of_its_memory_loses_the_device() {
    let lost = |offset: u64, free: bool| {
        Fake::new().run(move || {
            let device = Device::open(0).unwrap();
            let stream = device.stream().unwrap();
            let function = function(&device, "kernel_scale");
            let (from, to) = (uploaded(&stream, &numbers(64)), stream.allocate(256).unwrap());
            let words = [from.address(), to.address() + offset, 64];
            let to = (!free).then_some(to);
            // SAFETY: this is not what was promised, and the stand-in notices.
            unsafe { stream.launch(&function, &grid(64, 0), &words) }.unwrap();
            let error = stream.synchronize().unwrap_err();
            assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
            drop(to);
        });
    };
    lost(4, false);
    lost(1 << 20, false);
    lost(0, true);
}

/// The driver's functions that are called, as the table in the source names them.
fn entry_points() -> Vec<&'static str> {
    let table = include_str!("../src/driver/api.rs").split_once("\nentry_points! {").unwrap().1;
    let table = table.split_once("\n}").unwrap().0;
    let names = table.lines().filter_map(|line| line.trim().strip_prefix("cu")?.split_once('(').map(|_| line.trim()));
    let names = names.map(|line| line.split_once('(').unwrap().0);
    names.chain(["cuEventElapsedTime_v2", "cuFuncGetParamInfo", "cuDriverGetVersion"]).collect()
}

#[test]
fn every_call_may_fail() {
    // Those that free something leave it behind when they fail; the last leaves a stream that captures.
    let freeing =
        |name: &str| ["Destroy", "Free", "Release", "Unload", "EndCapture"].iter().any(|part| name.contains(part));
    // Those that can be done without, and those that nothing comes after that could tell.
    let silent = |name: &str| freeing(name) || ["cuFuncGetParamInfo", "cuDriverGetVersion"].contains(&name);
    // Devices with pools use pools.
    let fake = |name: &str| {
        let plain = ["cuMemAlloc_v2", "cuMemFree_v2"].contains(&name);
        Fake::new().with("POOLS", if plain { 0 } else { 1 })
    };
    let told = |name: &str, result: Result<(), Error>, silent: bool| match result {
        Ok(()) => assert!(silent, "the failure of {name} goes unnoticed"),
        Err(Error::Driver { call, .. }) => assert!(name.starts_with(call), "{call} told of {name}"),
        Err(error) => panic!("{name}: {error}"),
    };
    let names = entry_points();
    assert!(names.len() > 50 && names.contains(&"cuLaunchKernel"), "{names:?}");
    for name in names {
        for turn in [1, 2] {
            let fake = fake(name).with("FAIL", format!("{name}:{turn}:999"));
            // There may be no second call.
            let body = || told(name, everything(), turn > 1 || silent(name));
            let outcome = if freeing(name) { fake.run_leaky(body) } else { fake.run(body) };
            assert!(!outcome.is_known() || outcome.calls(name) > 0, "{name} is not called");
        }
        // The device is lost in the call; whatever comes after tells the same.
        fake(name).with("FAIL", format!("{name}:1:700")).run_leaky(|| {
            let result = everything();
            assert!(result.is_ok() || matches!(result, Err(Error::Driver { .. })), "{name}: {result:?}");
        });
    }
}

#[test]
fn a_wait_that_fails_leaves_no_copy_at_work() {
    Fake::new().with("FAIL", "cuStreamSynchronize:2:999").run(|| {
        let stream = Device::open(0).unwrap().stream().unwrap();
        let memory = stream.allocate(8).unwrap();
        stream.upload(&memory, 0, &[1; 8]).unwrap();
        let mut bytes = [0; 8];
        assert!(matches!(stream.download(&memory, 0, &mut bytes), Err(Error::Driver { .. })));
        // It has come to its end all the same, so that nothing writes here from now on.
        assert_eq!(std::mem::replace(&mut bytes, [3; 8]), [1; 8]);
        stream.upload(&memory, 0, &[2; 8]).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(bytes, [3; 8]);
    });
    // Of pinned memory, the same when its event fails: first to be recorded, then to be waited for.
    for call in ["cuEventRecord", "cuEventSynchronize"] {
        Fake::new().with("FAIL", format!("{call}:1:999")).run(|| {
            let device = Device::open(0).unwrap();
            let stream = device.stream().unwrap();
            let memory = stream.allocate(8).unwrap();
            let mut pinned = Pinned::new(&device, 8).unwrap();
            let _ = stream.download_pinned(&memory, 0..8, &mut pinned, 0);
            drop(pinned);
            stream.upload(&memory, 0, &[2; 8]).unwrap();
        });
    }
}

#[test]
fn memory_that_cannot_be_pinned_is_ordinary() {
    for status in [2, 304, 800, 801] {
        let outcome = Fake::new().with("FAIL", format!("cuMemHostAlloc:1:{status}")).run(|| {
            let device = Device::open(0).unwrap();
            let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
            let mut ordinary = Pinned::new(&device, 16).unwrap();
            assert!(!ordinary.is_pinned());
            assert_eq!(ordinary.bytes().unwrap(), [0; 16]);
            ordinary.bytes_mut().unwrap().fill(1);
            let memory = one.allocate(16).unwrap();
            // There and back on two streams, in order; the host reads and writes when a copy is done.
            one.upload_pinned(&memory, 0, &mut ordinary, 0..16).unwrap();
            ordinary.bytes_mut().unwrap().fill(2);
            two.download_pinned(&memory, 0..8, &mut ordinary, 8).unwrap();
            assert_eq!(ordinary.bytes().unwrap(), [[2; 8], [1; 8]].concat());
            // It stays until its copies are done.
            two.download_pinned(&memory, 0..16, &mut ordinary, 0).unwrap();
            drop(ordinary);
            let pinned = Pinned::new(&device, 16).unwrap();
            assert!(pinned.is_pinned() && Pinned::new(&device, 0).unwrap().is_pinned());
        });
        assert!(!outcome.is_known() || outcome.calls("cuMemHostAlloc") == 2);
    }
    // Of what no host has, neither is to be had.
    Fake::new().run(|| {
        let device = Device::open(0).unwrap();
        for asked in [1 << 62, usize::MAX - 5000] {
            let error = Pinned::new(&device, asked).unwrap_err();
            assert_eq!(error, Error::HostMemory { asked: asked as u64 });
        }
    });
}

/// Something of everything.
fn everything() -> Result<(), Error> {
    let device = Device::open(0)?;
    device.memory_free()?;
    device.memory_stats()?;
    let stream = device.stream()?;
    let function = Module::load(&device, &machine_code(&text()))?.function("kernel_reverse")?;
    let other = Stream::new(&device)?;
    let events = [Event::new(&device)?, Event::new(&device)?];
    let mut pinned = Pinned::new(&device, 400)?;
    events[0].record(&stream)?;
    let (from, to) = (stream.allocate(400)?, stream.allocate(400)?);
    stream.upload(&from, 0, &[1; 400])?;
    stream.upload_pinned(&from, 0, &mut pinned, 0..100)?;
    stream.fill(&to, 0..100, 1)?;
    stream.copy(&to, 200, &from, 0..100)?;
    let words = [from.address(), to.address(), 100];
    // SAFETY: both have 100 numbers.
    unsafe { stream.launch(&function, &grid(1, 60_000), &words) }?;
    let graph = Graph::capture(&device, |capture| capture.launch(&function, &grid(1, 400), &words))?;
    // SAFETY: as above.
    unsafe { graph.launch(&stream) }?;
    other.download_pinned(&to, 0..400, &mut pinned, 0)?;
    stream.wait(&events[0])?;
    stream.is_idle()?;
    events[0].is_done()?;
    events[1].record(&stream)?;
    events[0].elapsed_ms(&events[1])?;
    pinned.bytes()?;
    stream.download(&to, 0, &mut [0; 400])?;
    device.trim()?;
    thread::scope(|scope| scope.spawn(|| device.synchronize()).join().expect("no panic"))
}

#[test]
fn a_forked_child_is_told() {
    Fake::or_real().run(|| {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = uploaded(&stream, &numbers(4));
        let pinned = Pinned::new(&device, 16).unwrap();
        // SAFETY: the child calls nothing but what is tested and `_exit`; no other thread of this process holds a lock.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = [
                Device::open(0).map(drop),
                Driver::load().map(drop),
                device.stream().map(drop),
                device.synchronize(),
                stream.allocate(4).map(drop),
                stream.upload(&memory, 0, &[1]),
                stream.synchronize(),
                pinned.bytes().map(drop),
                Graph::capture(&device, |_| Ok(())).map(drop),
            ];
            let right = told.iter().all(|result| *result == Err(Error::Forked));
            // Nothing that the parent has is freed.
            drop((memory, pinned, stream, device));
            // SAFETY: ends the process without running what the parent runs at its end.
            unsafe { libc::_exit(if right { 0 } else { 1 }) }
        }
        let mut status = 0;
        // SAFETY: waits for that child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(downloaded(&stream, &memory), numbers(4));
    });
    // One that was forked before the driver was loaded is a process as any other.
    Fake::or_real().run(|| {
        // SAFETY: as above.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let stream = Device::open(0).unwrap().stream().unwrap();
            let right = downloaded(&stream, &uploaded(&stream, &numbers(4))) == numbers(4);
            // SAFETY: as above.
            unsafe { libc::_exit(if right { 0 } else { 1 }) }
        }
        let mut status = 0;
        // SAFETY: waits for that child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        drop(Device::open(0).unwrap());
    });
}

// ---- the stand-in notices ----

#[test]
fn the_host_cannot_touch_a_device() {
    Fake::new().expect_violation("the host accesses memory of a device", || {
        let stream = Device::open(0).unwrap().stream().unwrap();
        let memory = uploaded(&stream, &numbers(4));
        // SAFETY: it is not, and the stand-in ends the process.
        println!("{}", unsafe { std::ptr::read_volatile(memory.address() as *const u8) });
    });
}

#[test]
fn the_host_cannot_touch_pinned_memory_under_a_copy() {
    Fake::new().expect_violation("the host accesses pinned memory that a copy is at work on", || {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = uploaded(&stream, &numbers(4));
        let mut pinned = Pinned::new(&device, 16).unwrap();
        let bytes = pinned.bytes().unwrap().as_ptr();
        stream.download_pinned(&memory, 0..16, &mut pinned, 0).unwrap();
        // SAFETY: it is not, and the stand-in ends the process.
        println!("{}", unsafe { bytes.read_volatile() });
    });
}

#[test]
fn streams_without_order_have_none() {
    // The result of two streams that nobody has ordered depends on the seed.
    let mut known = 0;
    let mut first = 0;
    for seed in 0..12 {
        let outcome = Fake::new().with("SEED", seed).run(|| {
            let device = Device::open(0).unwrap();
            let [one, two] = [(); 2].map(|()| Stream::new(&device).unwrap());
            let memory = one.allocate(4).unwrap();
            memory.used_on(&two).unwrap();
            one.fill(&memory, 0..4, 1).unwrap();
            // SAFETY: no rule is broken but that of order.
            let same = unsafe { Memory::import(&two, memory.address(), 4, Box::new(())) };
            two.fill(&same, 0..4, 2).unwrap();
            drop(same);
            device.synchronize().unwrap();
            let mut bytes = [0; 4];
            one.download(&memory, 0, &mut bytes).unwrap();
            println!("the last was stream {}", bytes[0]);
        });
        known += usize::from(outcome.is_known());
        first += usize::from(outcome.text().contains("the last was stream 1"));
    }
    assert!(known == 0 || 0 < first && first < known, "{first} of {known}");
}
