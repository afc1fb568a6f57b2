//! Streams that grow side by side and are read one after the other, in one temporary file, with memory that does not
//! depend on their length: each stream has one block in memory, and a block in the file says where the next one is.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of all blocks in memory, at most, where there are not more streams than [`MOST_STREAMS`].
const MEMORY: usize = 16 << 20;
/// Streams from which on the blocks do not get smaller.
const MOST_STREAMS: usize = MEMORY / SMALLEST;
/// Bytes of the smallest block, and of the largest.
const SMALLEST: usize = 1 << 10;
const LARGEST: usize = 1 << 16;
/// In the place of a block's successor: there is none.
const NONE: u64 = u64::MAX;
/// Bytes ahead of the data of a block: the place of the next one, and the length.
const HEAD: usize = 16;

/// A stream: its blocks in the file, and the one that is being filled.
#[derive(Clone)]
struct SpoolStream {
    first: u64,
    last: u64,
    block: Vec<u8>,
}

/// The streams. The file has no name, so that nothing is left of it however the program ends.
pub struct Spool {
    file: File,
    folder: PathBuf,
    streams: Vec<SpoolStream>,
    block: usize,
    end: u64,
}

impl Spool {
    /// So many empty streams, in a file of a folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder takes no file.
    pub fn new(folder: &Path, streams: usize) -> Result<Self> {
        let block = (MEMORY / streams.clamp(1, MOST_STREAMS)).clamp(SMALLEST, LARGEST);
        crate::fsio::needs_folder(folder, folder)?;
        let file = tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
        let stream = SpoolStream { first: NONE, last: NONE, block: Vec::new() };
        Ok(Spool { file, folder: folder.into(), streams: vec![stream; streams], block, end: 0 })
    }

    /// Appends to a stream.
    ///
    /// # Errors
    /// [`Error::Io`] if a full block cannot be written.
    #[inline]
    pub fn write(&mut self, stream: usize, mut bytes: &[u8]) -> Result<()> {
        loop {
            let block = &mut self.streams[stream].block;
            if block.capacity() == 0 {
                block.reserve_exact(self.block);
            }
            let room = self.block - block.len();
            if bytes.len() <= room {
                block.extend_from_slice(bytes);
                return Ok(());
            }
            block.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            self.put_block(stream).map_err(|e| Error::io(&self.folder, e))?;
        }
    }

    /// Writes the block of a stream to the file, and begins another.
    fn put_block(&mut self, stream: usize) -> std::io::Result<()> {
        let s = &mut self.streams[stream];
        if s.block.is_empty() {
            return Ok(());
        }
        let at = self.end;
        match s.last {
            NONE => s.first = at,
            last => {
                self.file.seek(SeekFrom::Start(last))?;
                self.file.write_all(&at.to_le_bytes())?;
            }
        }
        s.last = at;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(&NONE.to_le_bytes())?;
        self.file.write_all(&(s.block.len() as u64).to_le_bytes())?;
        self.file.write_all(&s.block)?;
        self.end = at + (HEAD + s.block.len()) as u64;
        s.block.clear();
        Ok(())
    }

    /// No more is written: what the streams hold, to be read.
    ///
    /// # Errors
    /// [`Error::Io`] if the last blocks cannot be written.
    pub fn finish(mut self) -> Result<Spooled> {
        for stream in 0..self.streams.len() {
            self.put_block(stream).map_err(|e| Error::io(&self.folder, e))?;
            self.streams[stream].block = Vec::new();
        }
        let firsts = self.streams.iter().map(|s| s.first).collect();
        Ok(Spooled { file: self.file, folder: self.folder, firsts })
    }
}

/// Streams that are complete and can be read, one after the other.
pub struct Spooled {
    file: File,
    folder: PathBuf,
    firsts: Vec<u64>,
}

/// A place in a stream.
#[derive(Debug, Clone)]
pub struct SpoolCursor {
    next: u64,
    block: Vec<u8>,
    at: usize,
}

impl Spooled {
    /// The beginning of a stream.
    pub fn cursor(&self, stream: usize) -> SpoolCursor {
        SpoolCursor { next: self.firsts[stream], block: Vec::new(), at: 0 }
    }

    /// Reads the next block into a cursor that has none left; whether there was one.
    fn advance(&mut self, cursor: &mut SpoolCursor) -> Result<bool> {
        if cursor.next == NONE {
            return Ok(false);
        }
        let mut read = || -> std::io::Result<()> {
            let mut head = [0; HEAD];
            self.file.seek(SeekFrom::Start(cursor.next))?;
            self.file.read_exact(&mut head)?;
            let (next, length) = head.split_at(8);
            cursor.next = u64::from_le_bytes(next.try_into().unwrap_or_default());
            cursor.block.resize(u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize, 0);
            cursor.at = 0;
            self.file.read_exact(&mut cursor.block)
        };
        read().map_err(|e| Error::io(&self.folder, e))?;
        Ok(true)
    }

    /// Fills a record from a stream; false, and the record unchanged, at its end.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, or the stream ends within the record.
    pub fn record(&mut self, cursor: &mut SpoolCursor, record: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < record.len() {
            if cursor.at == cursor.block.len() {
                match self.advance(cursor)? {
                    true => continue,
                    false if filled == 0 => return Ok(false),
                    false => return Err(Error::io(&self.folder, std::io::ErrorKind::UnexpectedEof.into())),
                }
            }
            let n = (record.len() - filled).min(cursor.block.len() - cursor.at);
            record[filled..filled + n].copy_from_slice(&cursor.block[cursor.at..cursor.at + n]);
            (filled, cursor.at) = (filled + n, cursor.at + n);
        }
        Ok(true)
    }

    /// Copies a whole stream to `out`, whose name is `name`.
    ///
    /// # Errors
    /// [`Error::Io`] of either.
    pub fn copy(&mut self, stream: usize, out: &mut impl Write, name: &Path) -> Result<()> {
        let mut cursor = self.cursor(stream);
        while self.advance(&mut cursor)? {
            out.write_all(&cursor.block).map_err(|e| Error::io(name, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_back_whole_whatever_the_lengths() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), 3).unwrap();
        let mut expected = vec![Vec::new(); 3];
        let mut seed = 7u64;
        for i in 0..4000u32 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // The second stream stays empty.
            let stream = (seed >> 33) as usize % 2 * 2;
            let bytes = vec![i as u8; (seed >> 40) as usize % 300];
            spool.write(stream, &bytes).unwrap();
            expected[stream].extend_from_slice(&bytes);
        }
        assert!(expected[0].len() > 3 * LARGEST, "several blocks");
        assert!(spool.streams.iter().all(|s| s.block.capacity() <= LARGEST), "memory is bounded");
        let mut spooled = spool.finish().unwrap();
        for (stream, expected) in expected.iter().enumerate() {
            let mut got = Vec::new();
            spooled.copy(stream, &mut got, Path::new("got")).unwrap();
            assert_eq!(&got, expected);
            let (mut cursor, mut byte, mut read) = (spooled.cursor(stream), [0], Vec::new());
            while spooled.record(&mut cursor, &mut byte).unwrap() {
                read.push(byte[0]);
            }
            assert_eq!(&read, expected);
        }
        let mut cursor = spooled.cursor(0);
        let mut long = vec![0; expected[0].len() + 1];
        assert!(spooled.record(&mut cursor, &mut long).is_err(), "a stream that ends in a record is damaged");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }
}
