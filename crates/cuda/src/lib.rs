//! The CUDA back end: a [`numfuse_core::kernel::Kernel`] becomes CUDA C, which NVRTC compiles for the device at hand.
//! The results have the bits of [`numfuse_core::interp::run`].
//!
//! Three roles, each of which tests can swap: [`emit`] (kernel to text, pure), the compiler (text to machine code of a device,
//! kept on disk), and the driver (memory, streams, launches). The workspace builds with no CUDA installed: libraries
//! are loaded when they are first needed, and one that is missing is an error, never a panic.
//!
//! In reading order: [`emit`] (kernel to CUDA C, and what a launch of it is), [`nvrtc`] (compiling), [`cache`] (machine code on
//! disk), [`driver`] (the device), [`Backend`] (kernels on it).
#![deny(unsafe_code)]

pub mod cache;
mod cublas;
#[allow(unsafe_code, reason = "the driver is a C library")]
pub mod driver;
pub mod emit;
mod error;
#[allow(unsafe_code, reason = "kernels are launched on memory that the caller vouches for")]
mod launch;
pub mod matmul;
pub mod nvrtc;
mod search;

pub use cache::Cache;
pub use driver::{Device, Driver};
pub use error::Error;
pub use launch::{Backend, Prepared, PreparedMatmul, Shared};
pub use nvrtc::{Arch, Compiler};
