//! Files that are there whole or not at all, and `-` for the standard streams.
//!
//! `output` is what results are written with, `unfinished` keeps what is not a result yet out of everybody's way, and `folder`
//! gives a folder of results to one run at a time; `input` is where files come in.

mod folder;
mod input;
mod output;
mod unfinished;

pub use folder::OutputFolder;
pub use input::{decompress, open, read_all, refuse_pointer};
pub use output::{AtomicFile, Output, gzip};
pub use unfinished::{abandon, clear_unfinished};

pub(crate) use output::needs_folder;
