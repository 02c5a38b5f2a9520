//! The extension module `numfuse._numfuse`: NumPy arrays in, fused kernels, NumPy arrays out.
//!
//! ```text
//! evaluate, Function.__call__      names to objects          call.rs, function.rs
//!     │                            objects to borrowed arrays input.rs
//!     ▼
//! numfuse::Function::bind          types and sizes of results
//!     │                            results made by NumPy      raw.rs
//!     ▼
//! numfuse::FunctionCall::run_into  without the GIL if it takes long  run.rs
//!
//! Arrays on a GPU                  of ours                   array.rs, device.rs
//!                                  of other libraries        interface.rs, raw/dlpack.rs, raw/foreign.rs
//! ```
//!
//! What Python sees is listed in `python/numfuse/__init__.py`; its documentation stands with each function here.
//!
//! Invariants: nothing is copied on the way in or out; a Python error never leaves an array half made; no lock is held
//! while Python code runs.
#![deny(unsafe_code)]

mod array;
mod call;
mod device;
mod error;
mod explain;
mod function;
mod input;
mod interface;
#[allow(unsafe_code, reason = "NumPy's arrays become pointers here, and only here")]
mod raw;
mod run;
mod threads;

use pyo3::prelude::*;

#[pymodule]
mod _numfuse {
    #[pymodule_export]
    use super::array::DeviceArray;
    #[pymodule_export]
    use super::call::evaluate;
    #[pymodule_export]
    use super::device::{Device, devices, to_device};
    #[pymodule_export]
    use super::explain::explain;
    #[pymodule_export]
    use super::function::compile;
    #[pymodule_export]
    use super::threads::{get_num_threads, set_num_threads};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("Function", super::raw::callable::class(module.py())?)?;
        super::raw::load_numpy(module.py())
    }
}
