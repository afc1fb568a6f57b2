//! The input of the cache: chunks of runs, and their canonical form.

use super::rebase::{CanonicalNames, is_move, number, split_half};
use crate::RecordReader;
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_trace::{ChannelRun, PackedRecord, Request};

/// Runs of a chunk, at most.
const MAX_RUNS: usize = 96;
/// Requests of a chunk, counted for one channel, at most.
const MAX_REQUESTS: u32 = 2048;

/// Runs over channels that are given to a state one after the other.
pub(crate) type Chunk = [ChannelRun];

/// Fills `chunk` with the next runs, up to a barrier. False where something else follows that is to be looked at request by
/// request (the end, a sync, a label, an operation that is not `simple`); what comes before it is in `chunk`.
///
/// # Errors
/// Those of reading the trace.
pub(crate) fn fill(
    reader: &mut RecordReader<'_>,
    chunk: &mut Vec<ChannelRun>,
    simple: impl Fn(Op) -> bool,
) -> Result<bool> {
    // One long run is many chunks, and nothing is read between them.
    reader.cancel.check()?;
    let mut requests = 0;
    while let Some(record) = reader.next_packed()? {
        let PackedRecord::Run(mut run) = record else {
            reader.put_back(record);
            return Ok(false);
        };
        let request = run.request;
        if !simple(request.op) {
            reader.put_back(record);
            return Ok(false);
        }
        let most = match is_move(request.op) {
            // The canonical form has the distance from the first request in the offset of an address.
            true => {
                (reader.geometry.column_bytes - 1).checked_div(request.stride).map_or(MAX_REQUESTS, |rounds| rounds + 1)
            }
            false => MAX_REQUESTS,
        };
        if request.count > most {
            let skipped = u64::from(most) * u64::from(request.stride);
            let rest = Request { addr: request.addr + skipped, count: request.count - most, ..request };
            reader.put_back(PackedRecord::Run(ChannelRun { request: rest, ..run }));
            run.request.count = most;
        }
        requests += run.request.count;
        chunk.push(run);
        if request.op == Op::Barrier || chunk.len() == MAX_RUNS || requests >= MAX_REQUESTS {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A chunk in canonical form, with a key that is equal for chunks which do the same to the same state. Kept from chunk to
/// chunk, for its memory.
pub(crate) struct CanonicalChunk {
    row: BitField,
    /// Column and offset, as one.
    entry: BitField,
    column_shift: u32,
    geometry: Geometry,
    runs: Vec<ChannelRun>,
    key: Vec<u64>,
    names: CanonicalNames,
    overflown: bool,
}

/// Bits of a byte address.
#[derive(Clone, Copy)]
struct BitField {
    shift: u32,
    mask: u64,
}

impl BitField {
    fn of(self, addr: u64) -> u32 {
        (addr >> self.shift & self.mask) as u32
    }

    fn set(self, addr: &mut u64, value: u64) {
        *addr = *addr & !(self.mask << self.shift) | value << self.shift;
    }
}

impl CanonicalChunk {
    /// An empty chunk, for a device.
    pub fn new(geometry: &Geometry) -> Self {
        let [.., (_, row, width), (_, column, columns), _] = geometry.fields();
        CanonicalChunk {
            row: BitField { shift: row, mask: (1 << width) - 1 },
            entry: BitField { shift: 0, mask: (1 << (column + columns)) - 1 },
            column_shift: column,
            geometry: *geometry,
            runs: Vec::new(),
            key: Vec::new(),
            names: CanonicalNames::default(),
            overflown: false,
        }
    }

    /// Takes up a chunk that meets a state whose numbers have these names. Rows of the chunk that the state knows get the state's
    /// numbers, others the next free ones, in the order in which they come up.
    pub fn begin(&mut self, runs: impl Iterator<Item = ChannelRun>, names: &CanonicalNames) {
        self.names.copy(names);
        self.runs.clear();
        self.key.clear();
        self.overflown = false;
        for mut run in runs {
            let request = &mut run.request;
            let row = self.row.of(request.addr);
            if is_move(request.op) {
                let (half, row) = split_half(row, &self.geometry);
                let row = number(&mut self.names.rows, row);
                let entry = number(&mut self.names.entries, self.entry.of(request.addr));
                self.row.set(&mut request.addr, (half + row).into());
                self.entry.set(&mut request.addr, u64::from(entry) << self.column_shift);
                let beyond = half == 0 && row >= self.geometry.upper_half() || half + row >= self.geometry.rows;
                self.overflown |= beyond || entry >= self.geometry.columns;
            } else if request.op != Op::Sfm {
                self.row.set(&mut request.addr, number(&mut self.names.rows, row).into());
            }
            self.key.push(u64::from(request.count) << 32 | u64::from(run.channels) << 8 | request.op as u64);
            self.key.push(request.addr);
            self.key.push(request.stride.into());
            self.runs.push(run);
        }
    }

    /// The runs in canonical form; none where there are more names than an address can number.
    pub fn runs(&self) -> Option<&Chunk> {
        (!self.overflown).then_some(&self.runs)
    }

    /// Whether the chunk has no runs.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The key of the chunk.
    pub fn key(&self) -> &[u64] {
        &self.key
    }

    /// The names behind the numbers of the state and of the chunk.
    pub fn names(&self) -> &CanonicalNames {
        &self.names
    }
}
