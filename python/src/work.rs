//! Long work beside the interpreter: it runs on a thread of its own without the interpreter's lock, Ctrl-C stops it, and whoever asks
//! for it hears how far it is.

use crate::errors::raised;
use pimattn::Cancel;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time between two looks at signals and progress.
const LOOK: Duration = Duration::from_millis(50);

/// How far a piece of work is.
#[derive(Default)]
pub struct WorkDone(AtomicU64);

impl WorkDone {
    /// So many units are done.
    pub fn at(&self, done: u64) {
        self.0.store(done, Ordering::Relaxed);
    }
}

/// Does `work`, and calls `progress` with the units that are done and `total`.
pub fn supervised<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    total: u64,
    work: impl FnOnce(&Cancel, &WorkDone) -> pimattn::Result<T> + Send,
) -> PyResult<T> {
    let (cancel, done) = (Cancel::new(), WorkDone::default());
    std::thread::scope(|scope| {
        let (finished, result) = channel();
        // For the closure below alone, which must not hold what two threads cannot share.
        let result = Mutex::new(result);
        let (on_thread, counted) = (cancel.clone(), &done);
        scope.spawn(move || {
            // Nobody listens any more only if this function has returned, which it does not before this thread is done.
            let _ = finished.send(work(&on_thread, counted));
        });
        let (mut shown, mut stopped) = (0, None);
        loop {
            let look = py.detach(|| result.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK));
            match look {
                Ok(made) => {
                    if let (Some(progress), None) = (progress, &stopped) {
                        progress.call1((total, total))?;
                    }
                    return stopped.map_or_else(|| raised(made), Err);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // The thread panicked: the scope hands its panic on when it ends.
                    return Err(pyo3::exceptions::PyRuntimeError::new_err("the work ended without a result"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if stopped.is_some() {
                continue;
            }
            let now = done.0.load(Ordering::Relaxed);
            let told = match progress {
                Some(progress) if now != shown => progress.call1((now, total)).map(drop),
                _ => Ok(()),
            };
            shown = now;
            if let Err(raised) = told.and_then(|()| py.check_signals()) {
                cancel.request();
                stopped = Some(raised);
            }
        }
    })
}
