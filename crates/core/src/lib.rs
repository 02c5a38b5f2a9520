//! The heart of numfuse: types, the op table, the graph, its simplification and fusion, the kernel IR, and the
//! interpreter that gives it meaning. No I/O, no `unsafe`, no code generation.
//!
//! ```text
//! text or operators
//!       │  lang, facade
//!       ▼
//!     graph ──simplify──▶ graph ──fuse──▶ plan: kernels on buffers ──bind──▶ launches: sizes and strides
//!                                           │
//!                                           ├─▶ interp (here): the meaning
//!                                           └─▶ cpu, cuda: native code, the same bits
//! ```
//!
//! Invariants that hold everywhere: operands precede users; equal things are one thing; walks are loops, never
//! recursion; user input returns a [`diagnostic::Diagnostic`], never a panic; a failed verifier is a bug and says so.
#![forbid(unsafe_code)]

// In reading order.
pub mod pipeline;

pub mod diagnostic;
pub mod dtype;
pub mod literal;
pub mod shape;

pub mod graph;
mod intern;
pub mod ops;
pub mod simplify;

pub mod fuse;
pub mod plan;

pub mod interp;
pub mod kernel;
pub mod launch;
pub mod math;
