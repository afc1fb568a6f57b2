//! Traces: what a decode step accesses, in order.
//!
//! A trace is a stream of [`Record`]s. A [`Request`] is one operation, or a run of the same operation at evenly
//! spaced addresses; a run of n means the same as n requests of one. A [`Segment`] says whose work a channel does, for
//! the tables; it carries what the generator knows and the engine cannot (which bytes were wanted). A channel works for
//! two segments at most at the same time, one in each of its lanes, and a [`Mark`] says for which of them, and for which
//! [`Phase`] of a decode step, the requests behind it are. Neither orders anything: they are labels. An [`Arrival`] says before
//! which cycle the requests behind it are not there; without one they all are from the beginning.
//!
//! A format is one file here and one line in [`FORMATS`].

pub mod attacc;
pub mod channel_run;
pub mod dramsim3;
pub mod dramsys;
pub mod folder;
mod full_text;
pub mod header;
pub mod label;
mod lower;
pub mod manifest;
pub mod memory;
pub mod pipe;
pub mod ptrace;
pub mod ramulator_ls;
pub mod ramulator_rw;
pub mod sait;
pub mod text;

use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio;
use pimattn_core::order::AddressMap;
use std::io::{Read, Write};

pub use channel_run::{ChannelRun, PackedRecord, Packer, Unpacker};
pub use header::Header;
pub use manifest::{ExportOptions, MacReads, Manifest};
pub use memory::MemoryTrace;
pub use pimattn_core::op::Op;

/// A run of one operation: `count` requests, the i-th at byte address `addr + i * stride`, all in one row of one bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Byte address of the first.
    pub addr: u64,
    /// How many; at least 1.
    pub count: u32,
    /// Bytes between two addresses.
    pub stride: u32,
}

impl Request {
    /// A single request.
    pub fn one(op: Op, addr: u64) -> Self {
        Request { op, addr, count: 1, stride: 0 }
    }

    /// Address of the last request.
    pub fn last_addr(&self) -> u64 {
        self.addr + u64::from(self.stride) * u64::from(self.count - 1)
    }
}

/// Segments that a channel can have at the same time: a head may work in the shadow of another one.
pub const LANES: usize = 2;

/// What requests are for, within a decode step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
#[repr(u8)]
pub enum Phase {
    /// Not said.
    #[default]
    Other,
    /// The new key and value, and what a policy keeps of them, go to their rows.
    Append,
    /// K-means of keys.
    Cluster,
    /// Keys and values move to the order of their clusters.
    Remap,
    /// What the policy must read and compute to choose tokens.
    Select,
    /// Scores of the chosen keys.
    AttendScore,
    /// Softmax.
    Softmax,
    /// Probabilities times values.
    AttendContext,
}

impl Phase {
    /// All phases, in the order in which a step goes through them.
    pub const ALL: [Phase; 8] = [
        Phase::Other,
        Phase::Append,
        Phase::Cluster,
        Phase::Remap,
        Phase::Select,
        Phase::AttendScore,
        Phase::Softmax,
        Phase::AttendContext,
    ];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Other => "other",
            Phase::Append => "append",
            Phase::Cluster => "cluster",
            Phase::Remap => "remap",
            Phase::Select => "select",
            Phase::AttendScore => "attend-score",
            Phase::Softmax => "softmax",
            Phase::AttendContext => "attend-context",
        }
    }
}

/// What the requests behind it in one channel are for, up to the channel's next mark or segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Mark {
    /// The channel.
    pub channel: u32,
    /// The lane whose segment they belong to.
    pub lane: u8,
    /// The phase.
    pub phase: Phase,
}

/// Whose work follows in one lane of one channel, up to the lane's next segment or the next sync. Requests behind it
/// belong to it, to no phase, until a [`Mark`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Segment {
    /// The channel.
    pub channel: u32,
    /// The lane, below [`LANES`].
    pub lane: u8,
    /// Decode step, from 0.
    pub step: u32,
    /// Token index that is decoded.
    pub position: u32,
    /// Layer of the model.
    pub layer: u32,
    /// KV head within the layer.
    pub kv_head: u32,
    /// Request within the batch.
    pub request: u32,
    /// Tokens selected, summed over the query heads of the group.
    pub selected: u32,
    /// Distinct tokens selected by the group.
    pub distinct: u32,
    /// Row-blocks of K that the group touches: one row of one unit each.
    pub row_blocks: u32,
    /// Row-blocks of K in the unit that has most.
    pub fullest_unit: u32,
    /// Tokens that lie in the row-blocks of K, wanted or not.
    pub row_tokens: u32,
    /// Unit-columns multiplied for a selected token, K and V, summed over the query heads.
    pub slots_used: u64,
    /// Bytes of K and V of the distinct tokens.
    pub bytes_useful: u64,
    /// KV heads that the segment stands for: one, or in a schedule of AttAcc's all those of the channel. Where a head has
    /// several channels, its segment in the first of them has this and the numbers below, the others have 0.
    pub kv_heads: u32,
    /// Query heads that attend.
    pub query_heads: u32,
    /// Stretches without a gap of the distinct tokens, in the order in which the policy has them in memory: the pieces in
    /// which their keys, or their values, can be gathered.
    pub extents: u32,
    /// Bytes that the policy reads to choose, each once for all query heads.
    pub bytes_scanned: u64,
    /// Bytes read and written to keep the cache as the policy has it: the new key and value, what the policy keeps to
    /// choose by, keys that are clustered (once), keys and values that move.
    pub bytes_upkeep: u64,
}

/// The requests behind it in one channel arrive at `cycle` at the earliest, counted from the beginning of the run. A lower
/// one than before changes nothing: requests arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Arrival {
    /// The channel.
    pub channel: u32,
    /// The cycle of the memory's clock.
    pub cycle: u64,
}

/// The last cycle at which a request may arrive: what comes behind it still has a number.
pub const LAST_ARRIVAL: u64 = 1 << 59;

/// One item of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Record {
    /// Work, or an ordering mark.
    Request(Request),
    /// Whose work follows.
    Segment(Segment),
    /// What it is for.
    Mark(Mark),
    /// From which cycle on the requests behind it arrive.
    Arrival(Arrival),
}

/// A stream of records.
pub trait Source {
    /// What the trace says of itself.
    fn header(&self) -> &Header;
    /// Replaces `out` by the next records; false (and nothing in `out`) at the end, however often it is asked.
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool>;
    /// Replaces `out` by the next records with requests packed into runs over channels, as far as the source has them so.
    /// A source is read by one of the two calls, not by both in turn.
    fn next_packed(&mut self, out: &mut Vec<PackedRecord>) -> Result<bool> {
        out.clear();
        let mut records = Vec::new();
        let more = self.next_block(&mut records)?;
        out.extend(records.into_iter().map(PackedRecord::from));
        Ok(more)
    }
}

/// Where records go.
pub trait Sink {
    /// Appends one record.
    fn push(&mut self, record: Record) -> Result<()>;
    /// Completes the trace. A trace that is not finished is not valid.
    fn finish(&mut self) -> Result<()>;
    /// What was lost, once finished; none when the format keeps everything.
    fn manifest(&self) -> Option<Manifest> {
        None
    }
}

/// Records in one block of a trace, at most.
pub const BLOCK: usize = 4096;

/// Checks that a record means something on this geometry.
pub fn check(record: &Record, geometry: &Geometry) -> Result<(), String> {
    match record {
        Record::Request(r) => {
            if r.count == 0 {
                return Err("a run of no requests".into());
            }
            let span = u64::from(r.stride) * u64::from(r.count - 1);
            let last = r.addr.checked_add(span).ok_or("address overflow")?;
            let ends = if last == r.addr { &[last][..] } else { &[r.addr, last] };
            for &addr in ends {
                if r.op != Op::Sync && !geometry.contains(addr) {
                    return Err(format!(
                        "{} address {addr:#x} is beyond the device ({} channels of {} MiB)",
                        r.op.mnemonic(),
                        geometry.channels,
                        geometry.channel_bytes() >> 20
                    ));
                }
            }
            if !geometry.same_row(r.addr, last) {
                return Err(format!("a run of {} leaves its row", r.op.mnemonic()));
            }
            Ok(())
        }
        Record::Segment(Segment { channel, lane, .. }) | Record::Mark(Mark { channel, lane, .. }) => {
            if *channel >= geometry.channels {
                return Err(format!("channel {channel} does not exist ({} channels)", geometry.channels));
            }
            if usize::from(*lane) >= LANES {
                return Err(format!("lane {lane} does not exist (a channel has {LANES})"));
            }
            Ok(())
        }
        Record::Arrival(Arrival { channel, .. }) if *channel >= geometry.channels => {
            Err(format!("channel {channel} does not exist ({} channels)", geometry.channels))
        }
        Record::Arrival(Arrival { cycle, .. }) if *cycle > LAST_ARRIVAL => {
            Err(format!("cycle {cycle} is beyond the last at which a request may arrive, {LAST_ARRIVAL}"))
        }
        Record::Arrival(_) => Ok(()),
    }
}

/// Checks that a run over channels means something on this geometry.
pub fn check_channel_run(run: &ChannelRun, geometry: &Geometry) -> Result<(), String> {
    let request = run.request;
    if matches!(request.op, Op::Sync | Op::Host) && run.channels != 1 {
        return Err(format!("{} is not for several channels", request.op.mnemonic()));
    }
    check(&Record::Request(request), geometry)?;
    let first = geometry.channel_of(request.addr);
    match run.channels {
        0 => Err("a run to no channel".into()),
        n if u64::from(first) + u64::from(n) > u64::from(geometry.channels) && request.op != Op::Sync => Err(format!(
            "channels {first} to {} do not exist ({} channels)",
            u64::from(first) + u64::from(n) - 1,
            geometry.channels
        )),
        _ => Ok(()),
    }
}

/// Opens a reader.
pub type OpenFn = fn(Box<dyn Read + Send>, name: &str, device: Option<AddressMap>) -> Result<Box<dyn Source + Send>>;
/// Opens a writer.
pub type CreateFn = fn(Box<dyn Write + Send>, header: &Header, options: ExportOptions) -> Result<Box<dyn Sink + Send>>;

/// A trace format.
pub struct Format {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// Whether a file beginning with these bytes (up to 64) is of this format.
    pub detect: fn(&[u8]) -> bool,
    /// Opens a reader; formats that do not say their device need it.
    pub open: OpenFn,
    /// Opens a writer.
    pub create: CreateFn,
    /// Whether it can be read; else it is written only.
    pub reads: bool,
    /// Whether nothing of a trace is lost in it; what loses writes a manifest.
    pub keeps_all: bool,
    /// Whether it has PIM operations; one that has not always loses, and never goes without its manifest.
    pub pim: bool,
}

/// All formats.
pub const FORMATS: &[Format] = &[
    ptrace::FORMAT,
    attacc::FORMAT,
    full_text::FORMAT,
    ramulator_ls::FORMAT,
    ramulator_rw::FORMAT,
    dramsim3::FORMAT,
    dramsys::FORMAT,
    sait::FORMAT,
];

/// The format of this name.
pub fn format(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|f| f.name == name).ok_or_else(|| {
        Error::Usage(format!("unknown trace format \"{name}\"{}", suggest(name, FORMATS.iter().map(|f| f.name))))
    })
}

/// The format of this name, to be read.
pub fn readable(name: &str) -> Result<&'static Format> {
    let format = format(name)?;
    if format.reads {
        return Ok(format);
    }
    let names: Vec<_> = FORMATS.iter().filter(|f| f.reads).map(|f| f.name).collect();
    Err(Error::Usage(format!("{name} is written, not read; formats that can be read: {}", names.join(", "))))
}

/// Opens a trace of whatever format, compressed with gzip, zstd or xz or not; `name` is for errors.
pub fn open(input: Box<dyn Read + Send>, name: &str, device: Option<AddressMap>) -> Result<Box<dyn Source + Send>> {
    let mut input = fsio::decompress(name, input)?;
    let mut head = Vec::with_capacity(64);
    input.by_ref().take(64).read_to_end(&mut head).map_err(|e| Error::io(name, e))?;
    fsio::refuse_pointer(name, &head)?;
    let format = FORMATS.iter().find(|f| (f.detect)(&head)).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().filter(|f| f.reads).map(|f| f.name).collect();
        Error::data(name, format!("not a trace of a known format ({})", names.join(", ")))
    })?;
    (format.open)(Box::new(std::io::Cursor::new(head).chain(input)), name, device)
}
