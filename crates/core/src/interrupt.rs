//! Ctrl-C as a flag that long loops look at, so that temporary files are removed on the way out.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ask running work to stop at its next [`check`].
pub fn request() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// `Err(Interrupted)` once the user has pressed Ctrl-C.
#[inline]
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
