//! A folder of results, which one run at a time writes to.

use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A folder that is written to by nobody else until this is dropped, so that the results of two runs never lie side by side.
pub struct OutputFolder {
    path: PathBuf,
    _lock: Option<File>,
}

impl OutputFolder {
    /// The folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] where somebody else writes to it, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
        // A folder that cannot be opened so, or a file system without locks, has to trust its users.
        let lock = File::open(path).ok();
        if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
            let source =
                std::io::Error::other("another run is writing to this folder; give each run a folder of its own");
            return Err(Error::Io { path: path.into(), source });
        }
        super::clear_unfinished(path)?;
        Ok(OutputFolder { path: path.into(), _lock: lock })
    }

    /// The path of one of its files.
    pub fn join(&self, file: impl AsRef<Path>) -> PathBuf {
        self.path.join(file)
    }
}
