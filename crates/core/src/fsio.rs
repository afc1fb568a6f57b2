//! Files that are there whole or not at all, and `-` for the standard streams.

use crate::error::{Error, Result};
use crate::presets;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that appears under its name only when [`AtomicFile::commit`] is called; dropped before that, it is gone.
///
/// A device or a pipe that already bears the name (`/dev/null`, a FIFO) is written to as it is: put in its place, a
/// file would destroy it.
pub struct AtomicFile {
    file: BufWriter<OutputTarget>,
    path: PathBuf,
}

/// Names of unfinished files begin so.
const PART: &str = ".part-";

enum OutputTarget {
    Part(NamedTempFile),
    Stream(File),
}

impl Write for OutputTarget {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            OutputTarget::Part(part) => part.write(buf),
            OutputTarget::Stream(stream) => stream.write(buf),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            OutputTarget::Part(part) => part.flush(),
            OutputTarget::Stream(stream) => stream.flush(),
        }
    }
}

/// An error if the folder that a file is to be written in does not exist.
pub(crate) fn needs_folder(folder: &Path, file: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let what = format!("the folder {} does not exist", folder.display());
    Err(Error::Io { path: file.into(), source: std::io::Error::other(what) })
}

impl AtomicFile {
    /// Begins a file beside its final place.
    pub fn create(path: &Path) -> Result<Self> {
        let stream = path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir());
        let file = if stream {
            OutputTarget::Stream(File::options().write(true).open(path).map_err(|e| Error::io(path, e))?)
        } else {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            needs_folder(folder, path)?;
            OutputTarget::Part(
                tempfile::Builder::new().prefix(PART).tempfile_in(folder).map_err(|e| Error::io(path, e))?,
            )
        };
        Ok(AtomicFile { file: BufWriter::with_capacity(1 << 16, file), path: path.into() })
    }

    /// Removes the unfinished files that killed programs left in a folder; of running ones there must be none.
    pub fn clear(folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
            let entry = entry.map_err(|e| Error::io(folder, e))?;
            if entry.file_name().as_encoded_bytes().starts_with(PART.as_bytes()) {
                std::fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
            }
        }
        Ok(())
    }

    /// Puts the file in its place, replacing what was there.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        let OutputTarget::Part(file) = self.file.into_inner().map_err(|e| Error::io(&path, e.into_error()))? else {
            return Ok(());
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary files are private; a result is as readable as any new file under the usual umask.
            let _ = file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
        }
        file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.file.write(buf)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Where a result goes.
pub enum Output {
    /// Standard output.
    Stdout(BufWriter<std::io::Stdout>),
    /// A file, once committed.
    File(AtomicFile),
}

impl Output {
    /// `-` is standard output.
    pub fn create(path: &Path) -> Result<Self> {
        match path.as_os_str() == "-" {
            true => Ok(Output::Stdout(BufWriter::new(std::io::stdout()))),
            false => Ok(Output::File(AtomicFile::create(path)?)),
        }
    }

    /// Completes the output.
    pub fn commit(self) -> Result<()> {
        match self {
            Output::Stdout(mut out) => out.flush().map_err(|e| Error::io("-", e)),
            Output::File(file) => file.commit(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Output::Stdout(o) => o.write(buf),
            Output::File(f) => f.write(buf),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Output::Stdout(o) => o.flush(),
            Output::File(f) => f.flush(),
        }
    }
}

/// What compressed files begin with: gzip, zstd, xz.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The input as it is, or decompressed if its first bytes are those of gzip, zstd or xz. A file of several compressed
/// parts is all of them; a damaged one is an error of the reads.
pub fn decompress(name: &str, mut input: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>> {
    let mut head = Vec::with_capacity(XZ.len());
    input.by_ref().take(XZ.len() as u64).read_to_end(&mut head).map_err(|e| Error::io(name, e))?;
    let kind = [GZIP, ZSTD, XZ].into_iter().find(|magic| head.starts_with(magic));
    let input: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(head).chain(input));
    Ok(match kind {
        Some(GZIP) => Box::new(CompressedReader(flate2::read::MultiGzDecoder::new(input))),
        Some(ZSTD) => Box::new(CompressedReader(zstd::Decoder::new(input).map_err(|e| Error::io(name, e))?)),
        Some(_) => Box::new(CompressedReader(lzma_rust2::XzReader::new(input, true))),
        None => input,
    })
}

/// A writer that compresses with gzip what goes to `out`; its bytes depend on the data alone.
/// [`finish`](flate2::write::GzEncoder::finish) hands `out` back.
pub fn gzip<W: Write>(out: W) -> flate2::write::GzEncoder<W> {
    flate2::write::GzEncoder::new(out, flate2::Compression::default())
}

/// Compressed data; errors of its form say so, whatever the decoder calls them.
struct CompressedReader<R>(R);

impl<R: Read> Read for CompressedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf).map_err(|e| match (e.kind(), e.raw_os_error()) {
            (std::io::ErrorKind::Interrupted, _) | (_, Some(_)) => e,
            _ => std::io::Error::new(std::io::ErrorKind::InvalidData, format!("damaged compressed data: {e}")),
        })
    }
}

/// First line of what Git leaves in the place of a file that Git LFS keeps.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// An error if a file that begins so is a pointer of Git LFS; `name` is the file's.
pub fn refuse_pointer(name: impl AsRef<Path>, head: &[u8]) -> Result<()> {
    match head.starts_with(LFS_POINTER) {
        true => {
            Err(Error::data(name, "a Git LFS pointer stands in the file's place: \"git lfs pull\" fetches the file"))
        }
        false => Ok(()),
    }
}

/// Opens an input, a file or a preset; `-` is standard input. A pointer of Git LFS is an error.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    if let Some(bytes) = presets::read(path)? {
        return Ok(Box::new(std::io::Cursor::new(bytes)));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, e))?;
    if meta.is_dir() {
        return Err(Error::data(path, "is a folder, not a file"));
    }
    let mut input = BufReader::with_capacity(1 << 16, file);
    // A pipe is read when its reader wants it.
    if meta.is_file() {
        refuse_pointer(path, input.fill_buf().map_err(|e| Error::io(path, e))?)?;
    }
    Ok(Box::new(input))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Through a link, so that a mistake costs the link and not the machine's device.
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("sink");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write_all(b"gone").unwrap();
        file.commit().unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
