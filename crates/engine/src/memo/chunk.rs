//! What is simulated in one go, and its normal form.

use super::shift::{Names, halved, is_move, number};
use crate::Reader;
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_trace::{Item, Request, Volley};

/// Volleys of a chunk, at most.
const VOLLEYS: usize = 96;
/// Requests of a chunk to one channel, at most.
const REQUESTS: u32 = 2048;

/// Volleys that are given to a state one after the other.
pub type Chunk = [Volley];

/// Fills `chunk` with the next volleys, up to a barrier. False, and what there is, where something else follows that has
/// to be looked at request by request: the end, a sync, a label, an operation that is not `simple`.
pub(crate) fn fill(reader: &mut Reader<'_>, chunk: &mut Vec<Volley>, simple: impl Fn(Op) -> bool) -> Result<bool> {
    // One long run is many chunks, and nothing is read between them.
    reader.cancel.check()?;
    let mut requests = 0;
    while let Some(item) = reader.next_item()? {
        let Item::Volley(mut volley) = item else {
            reader.put_back(item);
            return Ok(false);
        };
        let request = volley.request;
        if !simple(request.op) {
            reader.put_back(item);
            return Ok(false);
        }
        let most = match is_move(request.op) {
            // Such that the offsets from the first one fit into an address.
            true => (reader.geometry.column_bytes - 1).checked_div(request.stride).map_or(REQUESTS, |n| n + 1),
            false => REQUESTS,
        };
        if request.count > most {
            let skipped = u64::from(most) * u64::from(request.stride);
            let rest = Request { addr: request.addr + skipped, count: request.count - most, ..request };
            reader.put_back(Item::Volley(Volley { request: rest, ..volley }));
            volley.request.count = most;
        }
        requests += volley.request.count;
        chunk.push(volley);
        if request.op == Op::Barrier || chunk.len() == VOLLEYS || requests >= REQUESTS {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A chunk in normal form, and its key: equal for chunks that do the same.
pub struct Renaming {
    row: Field,
    /// Column and offset, as one.
    entry: Field,
    column_shift: u32,
    geometry: Geometry,
    chunk: Vec<Volley>,
    key: Vec<u64>,
    names: Names,
    overflown: bool,
}

/// Bits of a byte address.
#[derive(Clone, Copy)]
struct Field {
    shift: u32,
    mask: u64,
}

impl Field {
    fn of(self, addr: u64) -> u32 {
        (addr >> self.shift & self.mask) as u32
    }

    fn set(self, addr: &mut u64, value: u64) {
        *addr = *addr & !(self.mask << self.shift) | value << self.shift;
    }
}

impl Renaming {
    /// For a device.
    pub fn new(geometry: &Geometry) -> Self {
        let [.., (_, row, width), (_, column, columns), _] = geometry.fields();
        Renaming {
            row: Field { shift: row, mask: (1 << width) - 1 },
            entry: Field { shift: 0, mask: (1 << (column + columns)) - 1 },
            column_shift: column,
            geometry: *geometry,
            chunk: Vec::new(),
            key: Vec::new(),
            names: Names::default(),
            overflown: false,
        }
    }

    /// Takes up a chunk that meets a state with these names.
    pub fn begin(&mut self, volleys: impl Iterator<Item = Volley>, names: &Names) {
        self.names.copy(names);
        self.chunk.clear();
        self.key.clear();
        self.overflown = false;
        for mut volley in volleys {
            let request = &mut volley.request;
            let row = self.row.of(request.addr);
            if is_move(request.op) {
                let (half, row) = halved(row, &self.geometry);
                let row = number(&mut self.names.rows, row);
                let entry = number(&mut self.names.entries, self.entry.of(request.addr));
                self.row.set(&mut request.addr, (half + row).into());
                self.entry.set(&mut request.addr, u64::from(entry) << self.column_shift);
                let beyond = half == 0 && row >= self.geometry.upper_half() || half + row >= self.geometry.rows;
                self.overflown |= beyond || entry >= self.geometry.columns;
            } else if request.op != Op::Sfm {
                self.row.set(&mut request.addr, number(&mut self.names.rows, row).into());
            }
            self.key.push(u64::from(request.count) << 32 | u64::from(volley.channels) << 8 | request.op as u64);
            self.key.push(request.addr);
            self.key.push(request.stride.into());
            self.chunk.push(volley);
        }
    }

    /// The chunk; none where there are more names than an address can number.
    pub fn chunk(&self) -> Option<&Chunk> {
        (!self.overflown).then_some(&self.chunk)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.chunk.is_empty()
    }

    /// Its key.
    pub fn key(&self) -> &[u64] {
        &self.key
    }

    /// The names of the state and of the chunk.
    pub fn names(&self) -> &Names {
        &self.names
    }
}
