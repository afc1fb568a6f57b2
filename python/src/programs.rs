//! The programs `tracegen` and `pimsim`, for the entry points of the wheel.

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs `tracegen` with these arguments, the first of which is its name; the exit code.
#[pyfunction]
pub fn tracegen(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| pimattn::cli::tracegen::with(args))
}

/// Runs `pimsim` likewise.
#[pyfunction]
pub fn pimsim(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| pimattn::cli::pimsim::with(args))
}
