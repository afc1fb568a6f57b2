//! The part of the ZIP format that NumPy writes: stored and deflated entries, with ZIP64 sizes.
//!
//! The directory is untrusted: every offset is checked against the file, and an entry is inflated only as far as
//! [`ZipEntry::size`], which the caller compares with what it expects first.

use std::borrow::Cow;
use std::io::Read;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct ZipEntry<'a> {
    pub(super) name: String,
    /// Bytes once inflated, as the directory says.
    pub(super) size: usize,
    crc: u32,
    deflated: bool,
    stored: &'a [u8],
}

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const END_BYTES: usize = 22;
const LOCATOR64_BYTES: usize = 20;

/// A dump has a handful of arrays.
const MAX_ENTRIES: u64 = 256;

/// Inflated bytes that an entry may have whatever its compressed size, and per compressed byte above that.
/// Deflate reaches 1032, floating-point values of a real cache about 1.2.
const FREE_BYTES: usize = 64 << 20;
const MAX_RATIO: usize = 64;

/// The entries of an archive.
pub(super) fn entries(file: &[u8]) -> Result<Vec<ZipEntry<'_>>, String> {
    let (count, start) = directory(file).ok_or("not a ZIP archive, or a truncated one: it has no central directory")?;
    if count > MAX_ENTRIES {
        return Err(format!("the archive has {count} entries; at most {MAX_ENTRIES} are expected"));
    }
    let mut at = start;
    let mut out: Vec<ZipEntry> = Vec::new();
    for i in 0..count {
        let (entry, next) = directory_entry(file, at).map_err(|e| format!("entry {i} of the archive: {e}"))?;
        if out.iter().any(|o| o.name == entry.name) {
            return Err(format!("entry {i} of the archive repeats a name"));
        }
        out.push(entry);
        at = next;
    }
    Ok(out)
}

/// Number of entries and offset of the central directory.
fn directory(file: &[u8]) -> Option<(u64, u64)> {
    // the end record is followed by a comment of up to 65535 bytes
    let last = file.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last).rev().find(|at| u32_at(file, *at) == Some(END))?;
    let count = u64::from(u16_at(file, end + 10)?);
    let start = u64::from(u32_at(file, end + 16)?);
    if count != u64::from(u16::MAX) && start != u64::from(u32::MAX) {
        return Some((count, start));
    }
    let locator = end.checked_sub(LOCATOR64_BYTES)?;
    if u32_at(file, locator)? != LOCATOR64 {
        return None;
    }
    let end64 = usize::try_from(u64_at(file, locator + 8)?).ok()?;
    if u32_at(file, end64)? != END64 {
        return None;
    }
    Some((u64_at(file, end64.checked_add(32)?)?, u64_at(file, end64.checked_add(48)?)?))
}

fn directory_entry(file: &[u8], at: u64) -> Result<(ZipEntry<'_>, u64), String> {
    let outside = || "its directory record lies outside the file".to_string();
    let record = usize::try_from(at).ok().and_then(|a| file.get(a..)).ok_or_else(outside)?;
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
    let stored_len = wide_or(field32(20)?)?;
    let header_at = wide_or(field32(42)?)?;

    if flags & 1 != 0 {
        return Err("it is encrypted".into());
    }
    let deflated = match method {
        0 => false,
        8 => true,
        m => return Err(format!("it uses compression method {m}; expected stored (0) or deflated (8)")),
    };
    let stored = contents(file, header_at, stored_len).ok_or("its data lie outside the file")?;
    let size = usize::try_from(size).map_err(|_| format!("it claims {size} bytes"))?;
    if !deflated && size != stored.len() {
        return Err(format!("it is stored in {} bytes but claims {size}", stored.len()));
    }
    if size > FREE_BYTES && size / MAX_RATIO > stored.len() {
        return Err(format!("it claims to inflate {} bytes to {size}, more than {MAX_RATIO} times", stored.len()));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let next = at + (46 + name_len + extra_len + comment_len) as u64;
    Ok((ZipEntry { name, size, crc, deflated, stored }, next))
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

fn contents(file: &[u8], header_at: u64, len: u64) -> Option<&[u8]> {
    let at = usize::try_from(header_at).ok()?;
    let header = file.get(at..)?;
    if u32_at(header, 0)? != LOCAL_HEADER {
        return None;
    }
    let start = 30 + usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?);
    header.get(start..)?.get(..usize::try_from(len).ok()?)
}

impl<'a> ZipEntry<'a> {
    /// At most the first `limit` bytes of the inflated entry.
    pub(super) fn head(&self, limit: usize) -> Result<Cow<'a, [u8]>, String> {
        if self.deflated {
            self.inflate(limit.min(self.size)).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(&self.stored[..limit.min(self.stored.len())]))
        }
    }

    /// The whole entry, with its checksum verified.
    pub(super) fn read(&self) -> Result<Cow<'a, [u8]>, String> {
        let bytes = if self.deflated {
            // one byte more than claimed tells a wrong claim from a right one
            let bytes = self.inflate(self.size.saturating_add(1))?;
            if bytes.len() != self.size {
                return Err(format!("it does not inflate to the {} bytes that it claims", self.size));
            }
            Cow::Owned(bytes)
        } else {
            Cow::Borrowed(self.stored)
        };
        if crc32fast::hash(&bytes) != self.crc {
            return Err("its checksum is wrong".into());
        }
        Ok(bytes)
    }

    fn inflate(&self, limit: usize) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(self.stored)
            .take(limit as u64)
            .read_to_end(&mut out)
            .map_err(|e| format!("it does not inflate: {e}"))?;
        Ok(out)
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
