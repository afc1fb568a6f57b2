//! Bytes of dumps that stay where they lie, and are read piece by piece: no file is mapped, so that only what is in use takes memory,
//! and a file that is cut while it is read is an error.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::presets;
use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that are handed over at a time where all of a range is wanted.
const PIECE: u64 = 1 << 18;

/// Bytes of a dump.
#[derive(Debug)]
pub struct StoredBytes {
    name: PathBuf,
    len: u64,
    place: BytesPlace,
}

#[derive(Debug)]
enum BytesPlace {
    /// A file, which must stay as it was when it was opened.
    File { file: File, modified: Option<SystemTime> },
    /// A file without a name, which nobody else can change.
    Unnamed(File),
    /// What the program holds inside.
    Inside(Cow<'static, [u8]>),
}

impl StoredBytes {
    /// Opens a file, or a preset.
    ///
    /// # Errors
    /// [`Error::NoInput`] and [`Error::Io`] when it cannot be read, [`Error::Data`] when it is no regular file, or a pointer of Git
    /// LFS.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(bytes) = presets::read(path)? {
            return Ok(StoredBytes { name: path.into(), len: bytes.len() as u64, place: BytesPlace::Inside(bytes) });
        }
        let io = |e| Error::io(path, e);
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            // Opening a pipe would wait for its writer.
            return Err(Error::data(path, "not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let modified = meta.modified().ok();
        let bytes = StoredBytes { name: path.into(), len: meta.len(), place: BytesPlace::File { file, modified } };
        fsio::refuse_pointer(path, &bytes.read(0..bytes.len.min(64))?)?;
        Ok(bytes)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file's name.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// [`Error::Data`] where there are not so many, or the file is not as it was when it was opened; [`Error::Io`].
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let end = at.checked_add(out.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            let what = format!("{} bytes from byte {at} on lie outside the file, which has {}", out.len(), self.len);
            return Err(Error::data(&self.name, what));
        };
        match &self.place {
            BytesPlace::Inside(bytes) => {
                out.copy_from_slice(&bytes[at as usize..end as usize]);
                Ok(())
            }
            BytesPlace::Unnamed(file) => read_exact_at(file, out, at).map_err(|e| Error::io(&self.name, e)),
            BytesPlace::File { file, modified } => {
                let read = read_exact_at(file, out, at);
                let meta = file.metadata().map_err(|e| Error::io(&self.name, e))?;
                self.is_unchanged(&meta, *modified)?;
                read.map_err(|e| Error::io(&self.name, e))
            }
        }
    }

    fn is_unchanged(&self, meta: &Metadata, modified: Option<SystemTime>) -> Result<()> {
        if meta.len() != self.len {
            let what = format!("the file changed while it was read: it had {} bytes, now {}", self.len, meta.len());
            return Err(Error::data(&self.name, what));
        }
        match meta.modified().ok() == modified {
            true => Ok(()),
            false => Err(Error::data(&self.name, "the file changed while it was read: it was written to")),
        }
    }

    /// Some of the bytes, all at once.
    ///
    /// # Errors
    /// Those of [`Self::read_at`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        // Nothing is allocated for bytes that are not there.
        let there = range.end.min(self.len).saturating_sub(range.start.min(self.len));
        let mut out = vec![0; there as usize];
        if there < range.end.saturating_sub(range.start) {
            let what = format!("bytes {} to {} lie outside the file, which has {}", range.start, range.end, self.len);
            return Err(Error::data(&self.name, what));
        }
        self.read_at(range.start, &mut out)?;
        Ok(out)
    }

    /// Hands over the bytes of a range piece by piece, in order.
    ///
    /// # Errors
    /// Those of [`Self::read_at`] and of `take`, and [`Error::Interrupted`].
    pub fn pieces(&self, cancel: &Cancel, range: Range<u64>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; range.end.saturating_sub(range.start).min(PIECE) as usize];
        let mut at = range.start;
        while at < range.end {
            cancel.check()?;
            let piece = &mut piece[..(range.end - at).min(PIECE) as usize];
            self.read_at(at, piece)?;
            take(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// A file without a name that is being written, in the system's folder for temporary files; nothing is left of it however the program
/// ends.
#[derive(Debug)]
pub struct UnnamedFile {
    /// What stands in errors of reading.
    name: PathBuf,
    file: File,
    len: u64,
}

impl UnnamedFile {
    /// An empty one; `name` says of what.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder takes no file.
    pub fn new(name: &Path) -> Result<Self> {
        let file = tempfile::tempfile().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        Ok(UnnamedFile { name: name.into(), file, len: 0 })
    }

    /// Makes it so long; what is not written is zero.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_len(&mut self, len: u64) -> Result<()> {
        self.len = len;
        self.file.set_len(len).map_err(|e| Error::io(std::env::temp_dir(), e))
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes behind its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes to a place, from any thread.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, bytes, at).map_err(|e| Error::io(std::env::temp_dir(), e))
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut out = vec![0; range.end.saturating_sub(range.start) as usize];
        read_exact_at(&self.file, &mut out, range.start).map_err(|e| Error::io(std::env::temp_dir(), e))?;
        Ok(out)
    }

    /// No more is written.
    pub fn finish(self) -> StoredBytes {
        StoredBytes { name: self.name, len: self.len, place: BytesPlace::Unnamed(self.file) }
    }
}

/// The bytes of a file, or of a preset, all at once.
///
/// # Errors
/// Those of [`StoredBytes::open`] and [`StoredBytes::read_at`].
pub fn read_file(path: &Path) -> Result<Cow<'static, [u8]>> {
    let bytes = StoredBytes::open(path)?;
    match bytes.place {
        BytesPlace::Inside(inside) => Ok(inside),
        _ => Ok(Cow::Owned(bytes.read(0..bytes.len)?)),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => (out, at) = (&mut out[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            n => (bytes, at) = (&bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_is_cut_or_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        std::fs::write(&path, [7; 1000]).unwrap();
        let bytes = StoredBytes::open(&path).unwrap();
        assert_eq!(bytes.read(990..1000).unwrap(), [7; 10]);
        for range in [990..1001, 5..u64::MAX] {
            let e = bytes.read(range).unwrap_err();
            assert!(matches!(e, Error::Data { .. }) && e.to_string().contains("lie outside the file"), "{e}");
        }
        assert!(bytes.read_at(u64::MAX, &mut [0; 2]).is_err());
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        let e = bytes.read(0..10).unwrap_err();
        assert!(e.to_string().ends_with("dump: the file changed while it was read: it had 1000 bytes, now 100"), "{e}");
        assert!(matches!(bytes.read(500..600), Err(Error::Data { .. })));

        let bytes = StoredBytes::open(&path).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(&[1]).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(bytes.read(0..10).unwrap_err().to_string().ends_with("it was written to"));
    }

    #[test]
    fn pieces_are_all_of_a_range_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        let all: Vec<u8> = (0..2 * PIECE as usize + 77).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(&path, &all).unwrap();
        let (bytes, mut found) = (StoredBytes::open(&path).unwrap(), Vec::new());
        let take = |piece: &[u8]| {
            found.extend_from_slice(piece);
            Ok(())
        };
        bytes.pieces(&Cancel::new(), 5..bytes.len() - 2, take).unwrap();
        assert_eq!(found, all[5..all.len() - 2]);
    }
}
