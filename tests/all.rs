//! All tests but those with an allocator of their own, as one program: each program more is linked once more.
//!
//! Each folder is a question. `cargo test --test all parity::` runs one file, `references::` all that answer one question.

mod common;

mod hostile;
mod numbers;
mod references;
mod schedule;
mod usage;
