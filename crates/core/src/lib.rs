//! The heart of numfuse: types, the op table, the graph, its simplification and fusion, the kernel IR, and the
//! interpreter that gives it meaning. No I/O, no `unsafe`, no code generation.
#![forbid(unsafe_code)]

pub mod diagnostic;
pub mod dtype;
pub mod literal;

pub mod kernel;
pub mod launch;
pub mod interp;
pub mod math;
pub mod shape;
