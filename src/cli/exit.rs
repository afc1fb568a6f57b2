//! Exit codes: which one each cause of an [`enum@Error`] becomes is the command line's promise, not the library's.

use pimattn_core::error::Error;

/// Everything went well.
pub const EXIT_OK: u8 = 0;
/// The run itself worked, but a check failed (a comparison found a difference beyond its tolerance).
pub const EXIT_CHECK_FAILED: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// An input file is damaged or not what it claims to be.
pub const EXIT_DATA: u8 = 65;
/// An input file does not exist.
pub const EXIT_NO_INPUT: u8 = 66;
/// The program has a fault.
pub const EXIT_SOFTWARE: u8 = 70;
/// Reading or writing failed.
pub const EXIT_IO: u8 = 74;
/// A configuration is wrong.
pub const EXIT_CONFIG: u8 = 78;
/// The run was interrupted (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// What ends a process with a code of its own.
pub trait ExitStatus {
    /// The exit code.
    fn exit_code(&self) -> u8;
}

impl ExitStatus for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Check(_) => EXIT_CHECK_FAILED,
            Error::Usage(_) => EXIT_USAGE,
            Error::Data { .. } => EXIT_DATA,
            Error::NoInput(_) => EXIT_NO_INPUT,
            Error::Io { .. } => EXIT_IO,
            Error::Config { .. } => EXIT_CONFIG,
            Error::Interrupted => EXIT_INTERRUPTED,
            _ => EXIT_SOFTWARE,
        }
    }
}
