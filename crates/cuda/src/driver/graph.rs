//! Launches that are repeated as one: a replay costs the host about as much as a single launch.

use super::call;
use super::device::Device;
use super::memory::Memory;
use super::module::Function;
use super::stream::Stream;
use crate::Error;
use crate::emit::Grid;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Work that was captured, to be done as often as wanted.
pub struct Graph {
    device: Device,
    /// The driver does not order calls that use one of these.
    raw: Mutex<CUgraphExec>,
    /// Keeps their modules.
    functions: Vec<Function>,
}

// SAFETY: handles of the driver may be used by any thread.
unsafe impl Send for Graph {}
// SAFETY: the handle is behind a lock.
unsafe impl Sync for Graph {}

/// What the work of a graph is given to.
pub struct Capture {
    stream: Stream,
    functions: Vec<Function>,
}

impl Graph {
    /// Captures what a closure gives to the [`Capture`], in that order. None of it is done.
    ///
    /// # Errors
    ///
    /// That of the closure, if it has one.
    pub fn capture(device: &Device, work: impl FnOnce(&mut Capture) -> Result<(), Error>) -> Result<Graph, Error> {
        // A stream of its own: what other threads do with theirs must not get into the graph.
        let stream = Stream::new(device)?;
        let _current = device.enter()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live and nobody else has it.
        unsafe { call!(device, cuStreamBeginCapture_v2(stream.raw(), mode)) }?;
        let mut capture = Capturing { capture: Capture { stream, functions: Vec::new() }, ended: false };
        work(&mut capture.capture)?;
        let graph = capture.end()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the graph is live and goes away with its only handle; the result goes to a place of its type.
        let made = unsafe {
            let made = call!(device, cuGraphInstantiateWithFlags(&mut raw, graph, 0));
            let _ = call!(device, cuGraphDestroy(graph));
            made
        };
        made?;
        let functions = std::mem::take(&mut capture.capture.functions);
        Ok(Graph { device: device.clone(), raw: Mutex::new(raw), functions })
    }

    /// How many launches it has.
    pub fn launches(&self) -> usize {
        self.functions.len()
    }

    /// Does the work once more, when a stream gets there.
    ///
    /// # Safety
    ///
    /// What [`Stream::launch`] asks for holds for every launch that was captured, and the memory of every copy and fill
    /// that was captured is live; memory of another stream was put in order by [`Memory::used_on`].
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), Error> {
        stream.device().check_same(&self.device)?;
        let _current = self.device.enter()?;
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the graph is live and this is the only call that uses it; the rest is what the caller promises.
        unsafe { call!(self.device, cuGraphLaunch(*raw, stream.raw())) }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} launches on {:?})", self.functions.len(), self.device)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let Some(_current) = self.device.enter_to_free() else { return };
        let raw = *self.raw.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nobody else has the handle; the driver frees what is behind it when the work is done.
        let _ = unsafe { call!(self.device, cuGraphExecDestroy(raw)) };
    }
}

impl Capture {
    /// As [`Stream::launch`], in each replay.
    pub fn launch(&mut self, function: &Function, grid: &Grid, words: &[u64]) -> Result<(), Error> {
        // SAFETY: nothing runs before `Graph::launch`, whose caller makes the promise.
        unsafe { self.stream.launch(function, grid, words) }?;
        self.functions.push(function.clone());
        Ok(())
    }

    /// As [`Stream::copy`], in each replay.
    pub fn copy(&mut self, to: &Memory, at: usize, from: &Memory, range: Range<usize>) -> Result<(), Error> {
        self.stream.device().check_same(to.device())?;
        self.stream.device().check_same(from.device())?;
        self.stream.record_copy(to, at, from, range)
    }

    /// As [`Stream::fill`], in each replay.
    pub fn fill(&mut self, memory: &Memory, range: Range<usize>, byte: u8) -> Result<(), Error> {
        self.stream.device().check_same(memory.device())?;
        self.stream.record_fill(memory, range, byte)
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capture({} launches so far)", self.functions.len())
    }
}

/// A capture that ends, whatever happens in it.
struct Capturing {
    capture: Capture,
    ended: bool,
}

impl Capturing {
    fn end(&mut self) -> Result<CUgraph, Error> {
        self.ended = true;
        let stream = &self.capture.stream;
        let _current = stream.enter()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is live and captures; the result goes to a place of its type.
        unsafe { call!(stream.device(), cuStreamEndCapture(stream.raw(), &mut graph)) }?;
        Ok(graph)
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Ok(graph) = self.end() else { return };
        let device = self.capture.stream.device();
        let Some(_current) = device.enter_to_free() else { return };
        // SAFETY: nobody else has the graph.
        let _ = unsafe { call!(device, cuGraphDestroy(graph)) };
    }
}
