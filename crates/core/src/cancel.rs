//! A token by which long work is told to stop, so that it removes its temporary files on the way out.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, shared by whoever may make it and the work that looks for it. A clone is the same token; another
/// token stops other work. A token that nobody keeps is never requested: `&Cancel::new()` is for work that runs to its end.
///
/// ```
/// use pimattn_core::cancel::Cancel;
///
/// let (cancel, other) = (Cancel::new(), Cancel::new());
/// let held_by_the_work = cancel.clone();
/// cancel.request();
/// assert!(held_by_the_work.check().is_err());
/// assert!(other.check().is_ok());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token of its own, not requested.
    pub fn new() -> Self {
        Cancel::default()
    }

    /// Asks the work that has this token to stop at its next [`Cancel::check`]. It cannot be taken back.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether work was asked to stop.
    #[inline]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets long loops stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once [`Cancel::request`] was called on this token or a clone of it.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.is_requested() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
