//! What results are written with.

use super::unfinished::UnfinishedFile;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file that appears under its name only when [`AtomicFile::commit`] is called; dropped before that, it is gone. Once it
/// has appeared, it also outlasts a power cut.
///
/// A file of that name keeps its permissions; through a symbolic link, the file at its end is replaced and not the link. A device or
/// a pipe that already bears the name (`/dev/null`, a FIFO) is written to as it is: put in its place, a file would destroy it.
pub struct AtomicFile {
    file: BufWriter<OutputTarget>,
    path: PathBuf,
}

enum OutputTarget {
    Part(UnfinishedFile),
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
    ///
    /// # Errors
    /// [`Error::Usage`] where another file is being written to that place, [`Error::Io`] where the folder takes no file.
    pub fn create(path: &Path) -> Result<Self> {
        let stream = path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir());
        let file = if stream {
            OutputTarget::Stream(File::options().write(true).open(path).map_err(|e| Error::io(path, e))?)
        } else {
            OutputTarget::Part(UnfinishedFile::create(path)?)
        };
        Ok(AtomicFile { file: BufWriter::with_capacity(1 << 16, file), path: path.into() })
    }

    /// Puts the file in its place, replacing what was there.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written, or put there.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        match self.file.into_inner().map_err(|e| Error::io(&path, e.into_error()))? {
            OutputTarget::Part(file) => file.put_in_place().map_err(|e| Error::io(&path, e)),
            OutputTarget::Stream(_) => Ok(()),
        }
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

/// A writer that compresses with gzip what goes to `out`; its bytes depend on the data alone.
/// [`finish`](flate2::write::GzEncoder::finish) hands `out` back.
pub fn gzip<W: Write>(out: W) -> flate2::write::GzEncoder<W> {
    flate2::write::GzEncoder::new(out, flate2::Compression::default())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(path: &Path, text: &str) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(text.as_bytes()).map_err(|e| Error::io(path, e))?;
        file.commit()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    /// Through a link, so that a mistake costs the link and not the machine's device.
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("sink");
        symlink("/dev/null", &link).unwrap();
        write(&link, "gone").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_is_as_readable_as_any_and_a_replaced_one_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let [made, usual] = ["made", "usual"].map(|name| folder.path().join(name));
        std::fs::write(&usual, "").unwrap();
        write(&made, "1").unwrap();
        assert_eq!(mode(&made), mode(&usual));
        std::fs::set_permissions(&made, PermissionsExt::from_mode(0o640)).unwrap();
        write(&made, "2").unwrap();
        assert_eq!((mode(&made), std::fs::read_to_string(&made).unwrap().as_str()), (0o640, "2"));
    }

    #[test]
    fn a_link_stays_and_the_file_at_its_end_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("far")).unwrap();
        symlink("far/file", at("near")).unwrap();
        symlink("near", at("nearer")).unwrap();
        for text in ["made", "replaced"] {
            write(&at("nearer"), text).unwrap();
            assert_eq!(std::fs::read_to_string(at("far/file")).unwrap(), text);
        }
        assert!(at("near").symlink_metadata().unwrap().is_symlink());
        symlink("loop", at("loop")).unwrap();
        assert!(matches!(write(&at("loop"), ""), Err(Error::Io { .. })));
        assert!(at("loop").symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn two_files_cannot_be_on_their_way_to_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        let first = AtomicFile::create(&place).unwrap();
        assert!(matches!(AtomicFile::create(&folder.path().join("./place")), Err(Error::Usage(_))));
        first.commit().unwrap();
        write(&place, "second").unwrap();
    }
}
