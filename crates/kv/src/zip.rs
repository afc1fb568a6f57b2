//! The part of the ZIP format that NumPy writes: stored and deflated entries, with ZIP64 sizes.
//!
//! The directory is untrusted: every offset is checked against the file, and an entry is inflated only as far as
//! [`ZipEntry::size`], which the caller compares with what it expects first.

use super::stored::{StoredBytes, UnnamedFile};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use std::io::{BufReader, Read};
use std::sync::Arc;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct ZipEntry {
    pub(super) name: String,
    /// Bytes once inflated, as the directory says.
    pub(super) size: usize,
    pub(super) deflated: bool,
    crc: u32,
    /// Where its bytes are in the archive.
    at: u64,
    stored: u64,
}

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const END_BYTES: usize = 22;
const LOCATOR64_BYTES: usize = 20;
/// Bytes of the longest record of the directory.
const RECORD_BYTES: usize = 46 + 3 * u16::MAX as usize;

/// A dump has a handful of arrays.
const MAX_ENTRIES: u64 = 256;

/// Inflated bytes that an entry may have whatever its compressed size, and per compressed byte above that.
/// Deflate reaches 1032, floating-point values of a real cache about 1.2.
const FREE_BYTES: usize = 64 << 20;
const MAX_RATIO: usize = 64;

/// The entries of an archive.
pub(super) fn entries(file: &StoredBytes) -> Result<Vec<ZipEntry>> {
    let bad = |what: String| Error::data(file.name(), what);
    let found = directory(file)?;
    let none = "not a ZIP archive, or a truncated one: it has no central directory";
    let (count, start) = found.ok_or_else(|| bad(none.into()))?;
    if count > MAX_ENTRIES {
        return Err(bad(format!("the archive has {count} entries; at most {MAX_ENTRIES} are expected")));
    }
    let mut at = start;
    let mut out: Vec<ZipEntry> = Vec::new();
    for i in 0..count {
        let record = window(file, at, RECORD_BYTES)?;
        let (mut entry, next) =
            directory_entry(&record, at).map_err(|e| bad(format!("entry {i} of the archive: {e}")))?;
        entry.at = contents(file, entry.at, entry.stored)?
            .ok_or_else(|| bad(format!("entry {i} of the archive: its data lie outside the file")))?;
        if out.iter().any(|o| o.name == entry.name) {
            return Err(bad(format!("entry {i} of the archive repeats a name")));
        }
        out.push(entry);
        at = next;
    }
    Ok(out)
}

/// The bytes from `at` on, no more than so many, fewer at the end of the file.
fn window(file: &StoredBytes, at: u64, most: usize) -> Result<Vec<u8>> {
    let at = at.min(file.len());
    file.read(at..file.len().min(at + most as u64))
}

/// Number of entries and offset of the central directory.
fn directory(file: &StoredBytes) -> Result<Option<(u64, u64)>> {
    // The end record is followed by a comment of up to 65535 bytes.
    let first = file.len().saturating_sub((END_BYTES + usize::from(u16::MAX)) as u64);
    let tail = file.read(first..file.len())?;
    let Some(last) = tail.len().checked_sub(END_BYTES) else { return Ok(None) };
    let Some(end) = (0..=last).rev().find(|at| u32_at(&tail, *at) == Some(END)) else { return Ok(None) };
    let (Some(count), Some(start)) = (u16_at(&tail, end + 10), u32_at(&tail, end + 16)) else { return Ok(None) };
    if count != u16::MAX && start != u32::MAX {
        return Ok(Some((u64::from(count), u64::from(start))));
    }
    let Some(locator) = (first + end as u64).checked_sub(LOCATOR64_BYTES as u64) else { return Ok(None) };
    let locator = window(file, locator, LOCATOR64_BYTES)?;
    let (Some(LOCATOR64), Some(end64)) = (u32_at(&locator, 0), u64_at(&locator, 8)) else { return Ok(None) };
    let end64 = window(file, end64, 56)?;
    let (Some(END64), Some(count), Some(start)) = (u32_at(&end64, 0), u64_at(&end64, 32), u64_at(&end64, 48)) else {
        return Ok(None);
    };
    Ok(Some((count, start)))
}

/// An entry, whose `at` is that of its header, and where the record behind it begins.
fn directory_entry(record: &[u8], at: u64) -> Result<(ZipEntry, u64), String> {
    let outside = || "its directory record lies outside the file".to_string();
    if record.is_empty() {
        return Err(outside());
    }
    if u32_at(record, 0) != Some(DIRECTORY_ENTRY) {
        return Err("its directory record is damaged".into());
    }
    let field16 = |at| u16_at(record, at).ok_or_else(outside);
    let field32 = |at| u32_at(record, at).ok_or_else(outside);
    let (flags, method, crc) = (field16(8)?, field16(10)?, field32(16)?);
    let (name_len, extra_len, comment_len) = (field16(28)? as usize, field16(30)? as usize, field16(32)? as usize);
    let name = record.get(46..46 + name_len).ok_or_else(outside)?;
    let extra = record.get(46 + name_len..46 + name_len + extra_len).ok_or_else(outside)?;

    let mut wide = zip64_fields(extra);
    let mut wide_or = |narrow: u32| match narrow {
        u32::MAX => wide.next().ok_or("its ZIP64 record is damaged"),
        n => Ok(u64::from(n)),
    };
    // the ZIP64 record holds only the fields that do not fit, in this order
    let size = wide_or(field32(24)?)?;
    let stored = wide_or(field32(20)?)?;
    let header_at = wide_or(field32(42)?)?;

    if flags & 1 != 0 {
        return Err("it is encrypted".into());
    }
    let deflated = match method {
        0 => false,
        8 => true,
        m => return Err(format!("it uses compression method {m}; expected stored (0) or deflated (8)")),
    };
    if !deflated && size != stored {
        return Err(format!("it is stored in {stored} bytes but claims {size}"));
    }
    let size = usize::try_from(size).map_err(|_| format!("it claims {size} bytes"))?;
    if size > FREE_BYTES && (size / MAX_RATIO) as u64 > stored {
        return Err(format!("it claims to inflate {stored} bytes to {size}, more than {MAX_RATIO} times"));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let next = at + (46 + name_len + extra_len + comment_len) as u64;
    Ok((ZipEntry { name, size, deflated, crc, at: header_at, stored }, next))
}

/// The 64-bit numbers of the ZIP64 record (id 1) among the extra fields.
fn zip64_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut found: &[u8] = &[];
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(body) = extra.get(4..4 + usize::from(len)) else { break };
        if id == 1 {
            found = body;
            break;
        }
        extra = &extra[4 + usize::from(len)..];
    }
    found.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
}

/// Where the data begin of an entry whose header is at `header_at`; none where they are not all in the file.
fn contents(file: &StoredBytes, header_at: u64, stored: u64) -> Result<Option<u64>> {
    let header = window(file, header_at, 30)?;
    let (Some(LOCAL_HEADER), Some(name), Some(extra)) = (u32_at(&header, 0), u16_at(&header, 26), u16_at(&header, 28))
    else {
        return Ok(None);
    };
    let at = header_at + 30 + u64::from(name) + u64::from(extra);
    Ok(at.checked_add(stored).is_some_and(|end| end <= file.len()).then_some(at))
}

/// What is wrong with an entry, where it is the archive's fault.
#[derive(Debug)]
pub(super) enum EntryFault {
    /// What is wrong.
    Damaged(String),
    /// It cannot be read.
    Failed(Error),
}

impl From<Error> for EntryFault {
    fn from(error: Error) -> Self {
        EntryFault::Failed(error)
    }
}

impl ZipEntry {
    /// At most the first `limit` bytes of the inflated entry.
    pub(super) fn head(&self, file: &StoredBytes, limit: usize) -> Result<Vec<u8>, EntryFault> {
        if !self.deflated {
            return Ok(file.read(self.at..self.at + (limit as u64).min(self.stored))?);
        }
        let mut out = Vec::new();
        self.inflated(file).take(limit.min(self.size) as u64).read_to_end(&mut out).map_err(does_not_inflate)?;
        Ok(out)
    }

    /// The entry, its checksum verified, where a part of it can be read: where it is in the archive, or inflated in a file without a
    /// name; and at which byte it begins.
    pub(super) fn open(&self, cancel: &Cancel, file: &Arc<StoredBytes>) -> Result<(Arc<StoredBytes>, u64), EntryFault> {
        let mut crc = crc32fast::Hasher::new();
        let opened = if self.deflated {
            let mut out = UnnamedFile::new(file.name())?;
            // One byte more than claimed tells a wrong claim from a right one.
            let mut rest = self.inflated(file).take((self.size as u64).saturating_add(1));
            let mut piece = vec![0; 1 << 16];
            loop {
                cancel.check()?;
                match rest.read(&mut piece).map_err(does_not_inflate)? {
                    0 => break,
                    n => {
                        crc.update(&piece[..n]);
                        out.append(&piece[..n])?;
                    }
                }
            }
            if out.len() != self.size as u64 {
                let what = format!("it does not inflate to the {} bytes that it claims", self.size);
                return Err(EntryFault::Damaged(what));
            }
            (Arc::new(out.finish()), 0)
        } else {
            file.pieces(cancel, self.at..self.at + self.stored, |piece| {
                crc.update(piece);
                Ok(())
            })?;
            (file.clone(), self.at)
        };
        match crc.finalize() == self.crc {
            true => Ok(opened),
            false => Err(EntryFault::Damaged("its checksum is wrong".into())),
        }
    }

    fn inflated<'f>(&self, file: &'f StoredBytes) -> impl Read + 'f {
        let part = FilePart { file, at: self.at, end: self.at + self.stored };
        flate2::bufread::DeflateDecoder::new(BufReader::with_capacity(1 << 16, part))
    }
}

fn does_not_inflate(e: std::io::Error) -> EntryFault {
    match e.downcast::<Error>() {
        Ok(own) => EntryFault::Failed(own),
        Err(e) => EntryFault::Damaged(format!("it does not inflate: {e}")),
    }
}

/// A part of a file as a stream.
struct FilePart<'f> {
    file: &'f StoredBytes,
    at: u64,
    end: u64,
}

impl Read for FilePart<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.end - self.at).min(out.len() as u64);
        self.file.read_at(self.at, &mut out[..n as usize]).map_err(std::io::Error::other)?;
        self.at += n;
        Ok(n as usize)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
