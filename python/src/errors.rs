//! Errors of the library as exceptions, by cause, with the text of the command line.

use pimattn::Error;
use pyo3::create_exception;
use pyo3::exceptions::{
    PyException, PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

create_exception!(
    pimattn,
    ConfigError,
    PyValueError,
    "A workload, a system or a policy's parameters are wrong; the text names the key."
);
create_exception!(
    pimattn,
    DataError,
    PyValueError,
    "An input is damaged or contradicts itself; the text names its place."
);
create_exception!(pimattn, CheckError, PyException, "A check that was asked for failed.");

/// Adds the exceptions of the package.
pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("ConfigError", py.get_type::<ConfigError>())?;
    module.add("DataError", py.get_type::<DataError>())?;
    module.add("CheckError", py.get_type::<CheckError>())
}

/// The exception that an error is.
pub fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Usage(_) => PyValueError::new_err(text),
        Error::Config { .. } => ConfigError::new_err(text),
        Error::Data { .. } => DataError::new_err(text),
        Error::Check(_) => CheckError::new_err(text),
        Error::NoInput(_) => PyFileNotFoundError::new_err(text),
        // With the number of the operating system, Python chooses among the kinds of its own.
        Error::Io { path, source } => match source.raw_os_error() {
            Some(code) => PyOSError::new_err((code, source.to_string(), path)),
            None => PyOSError::new_err(text),
        },
        Error::Interrupted => PyKeyboardInterrupt::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}

/// A result of the library as one of Python's.
pub fn raised<T>(result: pimattn::Result<T>) -> PyResult<T> {
    result.map_err(exception)
}
