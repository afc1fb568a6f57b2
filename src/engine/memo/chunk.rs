//! What is simulated in one go, and its normal form.

use super::shift;
use crate::addr::Geometry;
use crate::engine::Reader;
use crate::error::Result;
use crate::op::Op;
use crate::trace::{Item, Request, Volley};

/// Volleys of a chunk, at most.
const VOLLEYS: usize = 96;
/// Requests of a chunk to one channel, at most.
const REQUESTS: u32 = 2048;

/// Volleys that are given to a state one after the other.
pub type Chunk = [Volley];

/// Fills `chunk` with the next volleys, up to a barrier. False, and what there is, where something else follows that has
/// to be looked at request by request: the end, a sync, a label, an operation that is not `simple`.
pub(in crate::engine) fn fill(
    reader: &mut Reader<'_>,
    chunk: &mut Vec<Volley>,
    simple: impl Fn(Op) -> bool,
) -> Result<bool> {
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
        if request.count > REQUESTS {
            let skipped = u64::from(REQUESTS) * u64::from(request.stride);
            let rest = Request { addr: request.addr + skipped, count: request.count - REQUESTS, ..request };
            reader.put_back(Item::Volley(Volley { request: rest, ..volley }));
            volley.request.count = REQUESTS;
        }
        requests += volley.request.count;
        chunk.push(volley);
        if request.op == Op::Barrier || chunk.len() == VOLLEYS || requests >= REQUESTS {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A chunk with its rows renamed, and its key: equal for chunks that do the same.
pub struct Renaming {
    row_shift: u32,
    row_mask: u64,
    chunk: Vec<Volley>,
    key: Vec<u64>,
    rows: Vec<u32>,
}

impl Renaming {
    /// For a device.
    pub fn new(geometry: &Geometry) -> Self {
        let (_, shift, width) = geometry.fields()[5];
        Renaming { row_shift: shift, row_mask: (1 << width) - 1, chunk: Vec::new(), key: Vec::new(), rows: Vec::new() }
    }

    /// Takes up a chunk that meets a state whose rows are numbered so.
    pub fn begin(&mut self, volleys: impl Iterator<Item = Volley>, numbered: &[u32]) {
        self.rows.clear();
        self.rows.extend_from_slice(numbered);
        self.chunk.clear();
        self.key.clear();
        for mut volley in volleys {
            let request = &mut volley.request;
            let row = (request.addr >> self.row_shift & self.row_mask) as u32;
            let number = u64::from(shift::number(&mut self.rows, row));
            request.addr = request.addr & !(self.row_mask << self.row_shift) | number << self.row_shift;
            self.key.push(u64::from(request.count) << 32 | u64::from(volley.channels) << 8 | request.op as u64);
            self.key.push(request.addr);
            self.key.push(request.stride.into());
            self.chunk.push(volley);
        }
    }

    /// The chunk, renamed.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Its key.
    pub fn key(&self) -> &[u64] {
        &self.key
    }

    /// The row of each number, of the state's rows and those of the chunk.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }
}
