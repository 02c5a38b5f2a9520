//! The stages that run: results and diagnostics.

use super::format::TestFile;
use numfuse_core::plan::Plan;

/// Cranelift's IR of every kernel of a plan.
pub fn clif(_plan: &Plan) -> Result<String, String> {
    Err("not yet".into())
}

/// The results on every back end.
pub fn run(_file: &TestFile) -> Result<String, String> {
    Err("not yet".into())
}

/// The diagnostics as people see them.
pub fn report(_file: &TestFile) -> Result<String, String> {
    Err("not yet".into())
}
