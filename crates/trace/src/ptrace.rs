//! The binary format `ptrace`.
//!
//! ```text
//! magic "PTRACE\x1a\n" | version u32 | header length u32 | header (bincode) | CRC-32 of the header
//! block*: kind u8 = 1 | records u32 | raw length u32 | packed length u32 | CRC-32 of packed | packed (zstd of bincode)
//! end:    kind u8 = 0 | records u64 | requests u64 | CRC-32 over all block CRCs
//! ```
//!
//! Requests are put together to runs over channels (see [`super::channel_run`]).
//! Integers are little-endian. A reader holds one block at a time, checks every length before it allocates, and
//! takes a file without its end for damaged.

use super::channel_run::{ChannelRun, PackedRecord, Packer, Unpacker};
use super::header::UnlabelledHeader;
use super::{Arrival, BLOCK, Format, Header, Mark, Record, Request, Segment, Sink, Source, check, check_channel_run};
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result};
use std::io::{Read, Write};

/// Registry line.
pub const FORMAT: Format = Format {
    name: "ptrace",
    summary: "binary, compressed, checksummed; keeps everything",
    detect: |head| head.starts_with(MAGIC),
    open: |input, name, _| Ok(Box::new(PtraceReader::open(input, name)?)),
    create: |output, header, _| Ok(Box::new(PtraceWriter::create(output, header)?)),
    reads: true,
    keeps_all: true,
    pim: true,
};

const MAGIC: &[u8; 8] = b"PTRACE\x1a\n";
/// Version that this code writes, and the only one that it reads.
pub const VERSION: u32 = 7;
/// The version whose header says less of the selection, and which is read too.
const UNLABELLED: u32 = 6;
/// Well within the codec's limit, so that what is written can be read.
const MAX_HEADER: u32 = 1 << 18;
/// A record is at most this long in bincode (a segment of nineteen numbers).
const MAX_RECORD_BYTES: usize = 128;
const MAX_BLOCK_BYTES: usize = BLOCK * MAX_RECORD_BYTES;
const LEVEL: i32 = 3;

/// A record as it is written. The order of the variants is part of the format.
#[derive(Debug, Clone, Copy, bincode::Encode, bincode::Decode)]
enum Packed {
    Request(Request),
    Segment(Segment),
    Mark(Mark),
    Run(ChannelRun),
    Arrival(Arrival),
}

impl From<PackedRecord> for Packed {
    fn from(item: PackedRecord) -> Self {
        match item {
            PackedRecord::Run(ChannelRun { request, channels: 1 }) => Packed::Request(request),
            PackedRecord::Run(v) => Packed::Run(v),
            PackedRecord::Segment(s) => Packed::Segment(s),
            PackedRecord::Mark(m) => Packed::Mark(m),
            PackedRecord::Arrival(a) => Packed::Arrival(a),
        }
    }
}

fn codec() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_BLOCK_BYTES>,
> {
    bincode::config::standard().with_limit::<MAX_BLOCK_BYTES>()
}

/// Writes a trace.
pub struct PtraceWriter {
    out: Box<dyn Write + Send>,
    geometry: Geometry,
    runs: Packer,
    block: Vec<Packed>,
    raw: Vec<u8>,
    packer: zstd::bulk::Compressor<'static>,
    records: u64,
    requests: u64,
    sum: crc32fast::Hasher,
}

impl PtraceWriter {
    /// Writes the header.
    pub fn create(mut out: Box<dyn Write + Send>, header: &Header) -> Result<Self> {
        let bytes = bincode::encode_to_vec(header, codec()).map_err(|e| encode_error(&e))?;
        if bytes.len() > MAX_HEADER as usize {
            return Err(Error::Usage(format!("the trace header is {} bytes, over {MAX_HEADER}", bytes.len())));
        }
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        head.extend(&bytes);
        head.extend(crc32fast::hash(&bytes).to_le_bytes());
        out.write_all(&head).map_err(write_error)?;
        let packer = zstd::bulk::Compressor::new(LEVEL).map_err(write_error)?;
        Ok(PtraceWriter {
            out,
            geometry: header.geometry,
            runs: Packer::default(),
            block: Vec::with_capacity(BLOCK),
            raw: Vec::new(),
            packer,
            records: 0,
            requests: 0,
            sum: crc32fast::Hasher::new(),
        })
    }

    fn flush_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.raw.clear();
        for r in &self.block {
            bincode::encode_into_std_write(r, &mut self.raw, codec()).map_err(|e| encode_error(&e))?;
        }
        self.records += self.block.len() as u64;
        let packed = self.packer.compress(&self.raw).map_err(write_error)?;
        let crc = crc32fast::hash(&packed);
        self.sum.update(&crc.to_le_bytes());
        let mut head = [0u8; 17];
        head[0] = 1;
        for (i, n) in [self.block.len(), self.raw.len(), packed.len(), crc as usize].into_iter().enumerate() {
            head[1 + 4 * i..5 + 4 * i].copy_from_slice(&(n as u32).to_le_bytes());
        }
        self.out.write_all(&head).and_then(|()| self.out.write_all(&packed)).map_err(write_error)?;
        self.block.clear();
        Ok(())
    }
}

fn write_error(e: std::io::Error) -> Error {
    Error::io("trace output", e)
}

fn encode_error(e: &bincode::error::EncodeError) -> Error {
    Error::Io { path: "trace output".into(), source: std::io::Error::other(e.to_string()) }
}

impl Sink for PtraceWriter {
    fn push(&mut self, record: Record) -> Result<()> {
        if let Record::Request(r) = &record {
            self.requests += u64::from(r.count);
        }
        let (runs, block) = (&mut self.runs, &mut self.block);
        runs.push(record, &self.geometry, |item| block.push(item.into()));
        // A record may end a run and the round that it had begun.
        if self.block.len() + 3 > BLOCK { self.flush_block() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        let block = &mut self.block;
        self.runs.flush(&self.geometry, |item| block.push(item.into()));
        self.flush_block()?;
        let mut end = vec![0u8];
        end.extend(self.records.to_le_bytes());
        end.extend(self.requests.to_le_bytes());
        end.extend(self.sum.clone().finalize().to_le_bytes());
        self.out.write_all(&end).and_then(|()| self.out.flush()).map_err(write_error)
    }
}

/// Reads a trace, one block at a time.
pub struct PtraceReader {
    input: Box<dyn Read + Send>,
    name: String,
    header: Header,
    packed: Vec<u8>,
    raw: Vec<u8>,
    unpacker: zstd::bulk::Decompressor<'static>,
    blocks: u64,
    records: u64,
    requests: u64,
    sum: crc32fast::Hasher,
    ended: bool,
    /// For [`Source::next_block`]: items that are still to be taken apart.
    items: Vec<PackedRecord>,
    at: usize,
    apart: Unpacker,
}

impl PtraceReader {
    /// Reads and checks the header.
    pub fn open(mut input: Box<dyn Read + Send>, name: &str) -> Result<Self> {
        let bad = |what: String| Error::data(name, what);
        let mut fixed = [0u8; 16];
        read_exact(&mut input, &mut fixed, name, "header")?;
        if &fixed[..8] != MAGIC {
            return Err(bad("not a ptrace file (wrong magic)".into()));
        }
        let (version, length) = (u32_at(&fixed, 8), u32_at(&fixed, 12));
        if ![VERSION, UNLABELLED].contains(&version) {
            let advice =
                if version > VERSION { "use a newer version of this program" } else { "write the trace again" };
            return Err(bad(format!("ptrace version {version}; this program reads version {VERSION}: {advice}")));
        }
        if length > MAX_HEADER {
            return Err(bad(format!("header length {length} is over {MAX_HEADER}")));
        }
        let mut bytes = vec![0u8; length as usize];
        read_exact(&mut input, &mut bytes, name, "header")?;
        let mut crc = [0u8; 4];
        read_exact(&mut input, &mut crc, name, "header checksum")?;
        if u32::from_le_bytes(crc) != crc32fast::hash(&bytes) {
            return Err(bad("header checksum does not match".into()));
        }
        let decoded = match version {
            UNLABELLED => bincode::decode_from_slice::<UnlabelledHeader, _>(&bytes, codec())
                .map(|(header, used)| (Header::from(header), used)),
            _ => bincode::decode_from_slice(&bytes, codec()),
        };
        let (header, used) = decoded.map_err(|e| bad(format!("damaged header: {e}")))?;
        if used != bytes.len() {
            return Err(bad("damaged header: bytes left over".into()));
        }
        header.geometry.check().map_err(|e| bad(format!("impossible geometry: {e}")))?;
        let unpacker = zstd::bulk::Decompressor::new().map_err(|e| Error::io(name, e))?;
        Ok(PtraceReader {
            input,
            name: name.into(),
            header,
            packed: Vec::new(),
            raw: Vec::new(),
            unpacker,
            blocks: 0,
            records: 0,
            requests: 0,
            sum: crc32fast::Hasher::new(),
            ended: false,
            items: Vec::new(),
            at: 0,
            apart: Unpacker::default(),
        })
    }

    fn item(&self, packed: Packed) -> Result<PackedRecord, String> {
        let geometry = &self.header.geometry;
        let record = match packed {
            Packed::Request(r) => Record::Request(r),
            Packed::Segment(s) => Record::Segment(s),
            Packed::Mark(m) => Record::Mark(m),
            Packed::Arrival(a) => Record::Arrival(a),
            Packed::Run(v) => return check_channel_run(&v, geometry).map(|()| PackedRecord::Run(v)),
        };
        check(&record, geometry).map(|()| record.into())
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::data(&self.name, format!("block {}: {what}", self.blocks))
    }

    fn end(&mut self) -> Result<()> {
        let mut end = [0u8; 20];
        read_exact(&mut self.input, &mut end, &self.name, "end mark")?;
        let (records, requests) = (u64_at(&end, 0), u64_at(&end, 8));
        if (records, requests, u32_at(&end, 16)) != (self.records, self.requests, self.sum.clone().finalize()) {
            return Err(Error::data(
                &self.name,
                format!(
                    "the end mark says {records} records and {requests} requests, found {} and {}, or a block was exchanged",
                    self.records, self.requests
                ),
            ));
        }
        let mut one = [0u8; 1];
        if self.input.read(&mut one).map_err(|e| Error::io(&self.name, e))? != 0 {
            return Err(Error::data(&self.name, "bytes behind the end mark"));
        }
        self.ended = true;
        Ok(())
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

fn read_exact(input: &mut dyn Read, out: &mut [u8], name: &str, what: &str) -> Result<()> {
    input.read_exact(out).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::data(name, format!("cut off in the {what}")),
        _ => Error::io(name, e),
    })
}

impl Source for PtraceReader {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        while out.len() < BLOCK {
            if let Some(record) = self.apart.next(&self.header.geometry) {
                out.push(record);
            } else if let Some(item) = self.items.get(self.at) {
                self.at += 1;
                out.extend(self.apart.begin(*item));
            } else {
                self.at = 0;
                let mut items = std::mem::take(&mut self.items);
                let more = self.next_packed(&mut items)?;
                self.items = items;
                if !more {
                    break;
                }
            }
        }
        Ok(!out.is_empty())
    }

    fn next_packed(&mut self, out: &mut Vec<PackedRecord>) -> Result<bool> {
        out.clear();
        if self.ended {
            return Ok(false);
        }
        let mut kind = [0u8; 1];
        read_exact(&mut self.input, &mut kind, &self.name, "stream: the end mark is missing")?;
        match kind[0] {
            0 => self.end().map(|()| false),
            1 => {
                let mut head = [0u8; 16];
                read_exact(&mut self.input, &mut head, &self.name, "block head")?;
                let (count, raw) = (u32_at(&head, 0) as usize, u32_at(&head, 4) as usize);
                let (packed, crc) = (u32_at(&head, 8) as usize, u32_at(&head, 12));
                if count == 0
                    || count > BLOCK
                    || raw > MAX_BLOCK_BYTES
                    || packed > zstd::zstd_safe::compress_bound(MAX_BLOCK_BYTES)
                {
                    return Err(self.bad(format!("impossible sizes: {count} records, {raw} bytes, {packed} packed")));
                }
                self.packed.resize(packed, 0);
                read_exact(&mut self.input, &mut self.packed, &self.name, "block")?;
                if crc32fast::hash(&self.packed) != crc {
                    return Err(self.bad("checksum does not match"));
                }
                self.sum.update(&crc.to_le_bytes());
                self.raw.resize(raw, 0);
                let got = self.unpacker.decompress_to_buffer(&self.packed, &mut self.raw).map_err(|e| self.bad(e))?;
                if got != raw {
                    return Err(self.bad(format!("{got} bytes where {raw} were announced")));
                }
                let mut at = 0;
                for i in 0..count {
                    let (packed, used): (Packed, usize) = bincode::decode_from_slice(&self.raw[at..], codec())
                        .map_err(|e| self.bad(format!("record {i}: {e}")))?;
                    at += used;
                    let item = self.item(packed).map_err(|e| self.bad(format!("record {i}: {e}")))?;
                    if let PackedRecord::Run(v) = &item {
                        self.requests = self.requests.saturating_add(v.requests());
                    }
                    out.push(item);
                }
                if at != raw {
                    return Err(self.bad("bytes left over"));
                }
                self.records += count as u64;
                self.blocks += 1;
                Ok(true)
            }
            k => Err(self.bad(format!("unknown block kind {k}"))),
        }
    }
}
