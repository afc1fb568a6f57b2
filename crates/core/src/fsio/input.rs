//! Inputs: files, presets or standard input, compressed or not, and never more of them than a reader is made for.

use crate::error::{Error, Result};
use crate::presets;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// What compressed files begin with: gzip, zstd, xz.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The input as it is, or decompressed if its first bytes are those of gzip, zstd or xz. A file of several compressed
/// parts is all of them; a damaged one is an error of the reads.
pub fn decompress(name: &str, input: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>> {
    let mut input: Box<dyn Read + Send> = Box::new(PatientReader(input));
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

/// An input whose reads are taken up again where a signal interrupted them: whoever looks at what a reader has buffered sees no
/// interruption.
struct PatientReader<R>(R);

impl<R: Read> Read for PatientReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// Compressed data; errors of its form say so, whatever the decoder calls them.
struct CompressedReader<R>(R);

impl<R: Read> Read for CompressedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf).map_err(|e| match e.raw_os_error() {
            Some(_) => e,
            None => std::io::Error::new(std::io::ErrorKind::InvalidData, format!("damaged compressed data: {e}")),
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
        return Ok(Box::new(PatientReader(std::io::stdin())));
    }
    if let Some(bytes) = presets::read(path)? {
        return Ok(Box::new(std::io::Cursor::new(bytes)));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, e))?;
    if meta.is_dir() {
        return Err(Error::data(path, "is a folder, not a file"));
    }
    let mut input = BufReader::with_capacity(1 << 16, PatientReader(file));
    // A pipe is read when its reader wants it.
    if meta.is_file() {
        refuse_pointer(path, input.fill_buf().map_err(|e| Error::io(path, e))?)?;
    }
    Ok(Box::new(input))
}

/// All of a file, or of what a decompressor makes of it, which may have so many bytes.
///
/// # Errors
/// [`Error::Data`] where there are more: such a file is not what it is taken for, or a device without an end. [`Error::Io`] where
/// it cannot be read.
pub fn read_all(path: &Path, input: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    match bytes.len() as u64 > most {
        true => Err(Error::data(path, format!("too large: more than {} MiB", most >> 20))),
        false => Ok(bytes),
    }
}
