//! Finished points: a file each, by key, there whole or not at all. Several experiments may share a folder of them.

use super::point::{self, PointRow};
use super::store::TableFile;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::AtomicFile;
use pimattn_core::table::{CsvReader, TableLayout};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Whether a point's result is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredResult {
    /// It is.
    Whole,
    /// Its file is there, but is not what was written.
    Damaged,
    /// It is not.
    Nothing,
}

/// A folder of finished points.
pub struct PointCache {
    folder: PathBuf,
    /// The cells of a result.
    layout: TableLayout<PointRow>,
    names: Vec<String>,
    _lock: File,
}

impl PointCache {
    /// The points in `folder`, which is made.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let layout = point::layout();
        let names = layout.columns().iter().map(|c| c.name.to_string()).collect();
        Ok(PointCache { folder: folder.into(), layout, names, _lock: shared(folder)? })
    }

    /// Names of the cells of a result.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The file of a key's result.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.csv"))
    }

    /// Whether the result of this key is there.
    ///
    /// # Errors
    /// [`Error::Io`] where its file cannot be read.
    pub fn find(&self, key: &str) -> Result<StoredResult> {
        let file = self.file(key);
        match std::fs::read(&file) {
            Ok(text) if self.whole(&text).is_some() => Ok(StoredResult::Whole),
            Ok(_) => Ok(StoredResult::Damaged),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(StoredResult::Nothing),
            Err(e) => Err(Error::io(&file, e)),
        }
    }

    /// The cells of a result, if its file is whole: the line of names, one of cells, and an end to it.
    fn whole(&self, text: &[u8]) -> Option<Vec<String>> {
        let mut table = CsvReader::open(text.strip_suffix(b"\n")?, "").ok()?;
        if !table.header().iter().eq(self.names.iter().map(String::as_str)) {
            return None;
        }
        let cells = table.read().ok()??.cells().map(String::from).collect();
        matches!(table.read(), Ok(None)).then_some(cells)
    }

    /// Keeps a result, and returns its cells.
    ///
    /// # Errors
    /// [`Error::Io`] where its file cannot be written.
    pub fn put(&self, key: &str, result: &PointRow) -> Result<Vec<String>> {
        let cells: Vec<String> = self.layout.values(result).iter().map(ToString::to_string).collect();
        let mut out = TableFile::create(&self.file(key))?;
        out.row(self.names.iter().map(String::as_str))?;
        out.row(cells.iter().map(String::as_str))?;
        out.commit()?;
        Ok(cells)
    }

    /// The cells of a result that is there.
    ///
    /// # Errors
    /// [`Error::Data`] where its file is not whole any more.
    pub fn cells(&self, key: &str) -> Result<Vec<String>> {
        let file = self.file(key);
        let text = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        self.whole(&text).ok_or_else(|| Error::data(&file, "was damaged while it was in use"))
    }
}

/// The folder, if nobody else works in it.
///
/// # Errors
/// [`Error::Io`] where somebody does, or the folder cannot be made.
pub fn alone(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let file = File::open(folder).map_err(|e| Error::io(folder, e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let source = std::io::Error::other("another sweep is at work here; give each shard a folder of its own");
            Err(Error::Io { path: folder.into(), source })
        }
        // A file system without locks has to trust its users.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// The folder together with others; what killed ones left half-written is removed if nobody else is there.
fn shared(folder: &Path) -> Result<File> {
    let file = File::open(folder).map_err(|e| Error::io(folder, e))?;
    if file.try_lock().is_ok() {
        AtomicFile::clear(folder)?;
        let _ = file.unlock();
    }
    let _ = file.lock_shared();
    Ok(file)
}
