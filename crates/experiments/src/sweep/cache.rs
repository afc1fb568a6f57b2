//! Finished points: a file each, by key, there whole or not at all. Several experiments may share a folder of them.
//!
//! A file has a line of names and one of cells, the last of which is a checksum of the key and all before it: what has changed
//! since is run again and not believed.

use super::point::{self, PointRow};
use super::store::TableFile;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::{CsvReader, TableLayout};
use std::path::{Path, PathBuf};

/// Name of the last cell.
const CHECKSUM: &str = "checksum";

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
}

impl PointCache {
    /// The points in `folder`, which is made.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        fsio::clear_unfinished(folder)?;
        let layout = point::layout();
        let names = layout.columns().iter().map(|c| c.name.to_string()).collect();
        Ok(PointCache { folder: folder.into(), layout, names })
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
            Ok(text) if self.whole(key, &text).is_some() => Ok(StoredResult::Whole),
            Ok(_) => Ok(StoredResult::Damaged),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(StoredResult::Nothing),
            Err(e) => Err(Error::io(&file, e)),
        }
    }

    /// The cells of a result, if its file is whole: the line of names, one of cells, and an end to it.
    fn whole(&self, key: &str, text: &[u8]) -> Option<Vec<String>> {
        let mut table = CsvReader::open(text.strip_suffix(b"\n")?, "").ok()?;
        let names = self.names.iter().map(String::as_str).chain([CHECKSUM]);
        if !table.header().iter().map(String::as_str).eq(names) {
            return None;
        }
        let mut cells: Vec<String> = table.read().ok()??.cells().map(String::from).collect();
        let checksum = cells.pop()?;
        let unchanged = checksum == self.checksum(key, &cells) && matches!(table.read(), Ok(None));
        unchanged.then_some(cells)
    }

    /// CRC-32 of a key, the names and the cells, in hexadecimal.
    fn checksum(&self, key: &str, cells: &[String]) -> String {
        let mut hash = crc32fast::Hasher::new();
        for text in [key].into_iter().chain(self.names.iter().chain(cells).map(String::as_str)) {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        format!("{:08x}", hash.finalize())
    }

    /// Keeps a result, and returns its cells.
    ///
    /// # Errors
    /// [`Error::Io`] where its file cannot be written.
    pub fn put(&self, key: &str, result: &PointRow) -> Result<Vec<String>> {
        let cells: Vec<String> = self.layout.values(result).iter().map(ToString::to_string).collect();
        let mut out = TableFile::create(&self.file(key))?;
        out.row(self.names.iter().map(String::as_str).chain([CHECKSUM]))?;
        out.row(cells.iter().map(String::as_str).chain([self.checksum(key, &cells).as_str()]))?;
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
        self.whole(key, &text).ok_or_else(|| Error::data(&file, "was damaged while it was in use"))
    }
}
