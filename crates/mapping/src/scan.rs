//! The cost of selecting: the reads, MACs and ranking that the published simulators leave out.
//!
//! A policy declares what it reads ([`Scan`]); this module turns it into commands.
//!
//! - The vectors of a policy's own matrices have rows of their own, in which they lie as keys do. `selection_layout` sets
//!   whether they are distributed over the units one by one, so that a dense sweep is balanced, or row by row.
//! - A second, transposed copy of K lies in tiles. A tile has as many tokens as all banks of the head have lanes, and a
//!   column for each dimension, so that one MAC multiplies one dimension of all its tokens. Assumed: the units multiply
//!   lane by lane as for outputs, and keep one set of accumulators per query head; heads beyond the sets repeat the tile.
//! - Scores go to the softmax buffer, and the host ranks them.

use super::emit::{DeviceLayout, Emitter, Matrix, Results};
use super::heads;
use super::rows::HeadRows;
use super::stage::Stage;
use crate::workload::Layout;
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_kv::selection::Scan;
use pimattn_trace::Phase;

/// The head that scans, and its place on the device.
pub struct Scanner<'a> {
    /// The device.
    pub target: &'a DeviceLayout,
    /// The head's channel.
    pub channel: u32,
    /// Units of the head, over all its channels.
    pub units: u32,
    /// Query heads.
    pub heads: u32,
    /// Rows of the head.
    pub rows: &'a HeadRows,
    /// K.
    pub keys: Matrix,
    /// Number of the policy's first own matrix.
    pub own: usize,
    /// How its vectors are distributed over the units.
    pub layout: Layout,
    /// Sets of accumulators of a unit.
    pub accumulators: u32,
}

/// Columns of a vector of `elements` elements in each bank.
fn columns(target: &DeviceLayout, elements: u32) -> u32 {
    let lanes = target.lanes() * target.geometry.banks;
    elements.div_ceil(lanes).max(1)
}

/// Whether a row of a unit holds a vector of so many elements, so that a policy can keep such vectors.
pub fn fits_row(target: &DeviceLayout, elements: u32) -> bool {
    columns(target, elements) <= target.geometry.columns
}

/// The policy's own matrices of vectors.
pub fn vectors(
    target: &DeviceLayout,
    own: usize,
    matrices: u32,
    elements: u32,
) -> impl Iterator<Item = Matrix> + use<> {
    let columns = columns(target, elements);
    let per_row = target.geometry.columns / columns;
    (own..own + matrices as usize).map(move |id| Matrix { id, per_row, columns, stripes_in_row: 1 })
}

/// Tokens of a tile of the second copy of K, and rows of a tile.
pub fn tile(target: &DeviceLayout, units: u32, dim: u32) -> (u32, u32) {
    (target.lanes() * target.geometry.banks * units, dim.div_ceil(target.geometry.columns))
}

impl DeviceLayout {
    /// Elements of one column.
    pub fn lanes(&self) -> u32 {
        self.geometry.column_bytes / self.shape.element_bytes
    }

    /// Elements of one vector.
    pub fn dim(&self) -> u32 {
        self.shape.vector_bytes / self.shape.element_bytes
    }
}

impl Scanner<'_> {
    /// Whether the scan multiplies by the queries themselves. If so, attention finds them in the GEMV buffers.
    pub fn loads_queries(&self, scan: Scan<'_>) -> bool {
        match scan {
            Scan::Nothing | Scan::Dimensions(_) | Scan::HeadVectors { .. } => false,
            Scan::Keys => true,
            Scan::Vectors { matrices, elements, .. } => matrices == 1 && elements == self.target.dim(),
        }
    }

    /// Writes the vectors that the scan multiplies by to the GEMV buffers.
    pub fn multipliers(&self, scan: Scan<'_>) -> Stage {
        let mut emit = Emitter::new(self.target, self.channel, Phase::Select);
        let (vectors, entries) = match scan {
            Scan::Nothing => (0, 0),
            Scan::Keys => (self.heads, self.target.shape.columns),
            Scan::Vectors { matrices, elements, .. } => (matrices * self.heads, columns(self.target, elements)),
            Scan::HeadVectors { matrices, elements, .. } => (matrices, columns(self.target, elements)),
            Scan::Dimensions(dims) => (self.heads, (dims.len() as u32).div_ceil(self.target.lanes())),
        };
        (0..vectors).for_each(|_| emit.vector(entries));
        emit.finish()
    }

    /// Computes the scores, and lets the host rank them. The `len` tokens end at position `end`; the host takes
    /// `host(scores)` cycles.
    pub fn scan(&self, scan: Scan<'_>, len: u32, end: u32, host: impl Fn(u64) -> u32) -> Stage {
        let mut emit = Emitter::new(self.target, self.channel, Phase::Select);
        let scores = match scan {
            Scan::Nothing => return emit.finish(),
            Scan::Keys => {
                emit.dense(self.rows, &self.keys, end.div_ceil(self.units), self.heads);
                len
            }
            Scan::Vectors { matrices, vectors: count, elements } => {
                for matrix in vectors(self.target, self.own, matrices, elements) {
                    emit.dense(self.rows, &matrix, self.places(&matrix, count), self.heads);
                    emit.settle();
                }
                matrices * count
            }
            Scan::HeadVectors { matrices, vectors: count, elements } => {
                for matrix in vectors(self.target, self.own, matrices, elements) {
                    emit.dense(self.rows, &matrix, self.places(&matrix, count), 1);
                    emit.settle();
                }
                count
            }
            Scan::Dimensions(dims) => {
                self.dimensions(dims, len, &mut emit);
                len
            }
        };
        emit.host(host(u64::from(scores) * u64::from(self.heads)));
        emit.finish()
    }

    /// Number of the `count` vectors that lie in the channel's first unit; no other unit of the channel has more.
    fn places(&self, m: &Matrix, count: u32) -> u32 {
        let per_channel = self.target.geometry.units();
        let unit = self.channel % (self.units / per_channel) * per_channel;
        match self.layout {
            Layout::RowBlock => {
                let (rows, rest) = (count / (m.per_row * self.units), count % (m.per_row * self.units));
                rows * m.per_row + rest.saturating_sub(unit * m.per_row).min(m.per_row)
            }
            Layout::Interleaved | Layout::ClusterStriped => count / self.units + u32::from(unit < count % self.units),
        }
    }

    /// Unit of a vector, and its place among those of the unit.
    fn place(&self, m: &Matrix, vector: u32) -> (u32, u32) {
        match self.layout {
            Layout::RowBlock => {
                let block = vector / m.per_row;
                (block % self.units, block / self.units * m.per_row + vector % m.per_row)
            }
            Layout::Interleaved | Layout::ClusterStriped => (vector % self.units, vector / self.units),
        }
    }

    fn dimensions(&self, dims: &[u32], len: u32, emit: &mut Emitter<'_>) {
        let g = &self.target.geometry;
        let (tokens, tile_rows) = tile(self.target, self.units, self.target.dim());
        // The scores of a tile accumulate over its dimensions, in one set of accumulators for each query head.
        let together = heads::together(1, self.accumulators).unwrap_or(1);
        for t in 0..len.div_ceil(tokens) {
            for lot in heads::lots(self.heads as usize, together) {
                for dim in dims {
                    let row = self.rows.at(self.own, t * tile_rows + dim / g.columns);
                    let place = Matrix { id: self.own, per_row: g.columns, columns: 1, stripes_in_row: 1 };
                    for heads in heads::lots(lot.len(), self.target.heads_per_read as usize) {
                        let masks = vec![1 << (dim % g.columns); heads.len()];
                        emit.macs(Op::MacAb, row, &masks, &place, Results::Outputs, u64::MAX);
                    }
                }
                emit.lanes(lot.len());
            }
        }
    }

    /// Writes what the tokens `from..len` add to the policy's own matrices: the vectors beyond the first `written`, which is
    /// then updated, or the groups of lanes of the second copy of K that are now full.
    pub fn append(&self, scan: Scan<'_>, from: u32, len: u32, written: &mut u32) -> Stage {
        let mut emit = Emitter::new(self.target, self.channel, Phase::Append);
        let g = &self.target.geometry;
        match scan {
            Scan::Vectors { matrices, vectors: count, elements }
            | Scan::HeadVectors { matrices, vectors: count, elements } => {
                for matrix in vectors(self.target, self.own, matrices, elements) {
                    for vector in *written..count {
                        self.store(&matrix, vector, &mut emit);
                    }
                }
                *written = count;
            }
            Scan::Dimensions(_) => {
                let (tokens, tile_rows) = tile(self.target, self.units, self.target.dim());
                let lanes = self.target.lanes();
                for group in from / lanes..len / lanes {
                    let (t, bank) = (group * lanes / tokens, group % (tokens / lanes));
                    if !self.is_here(bank / g.banks) {
                        continue;
                    }
                    let at = g.unit_address(0, bank / g.banks % g.units());
                    for first in (0..self.target.dim()).step_by(g.columns as usize) {
                        let row = self.rows.at(self.own, t * tile_rows + first / g.columns);
                        let count = (self.target.dim() - first).min(g.columns);
                        emit.push(Op::St, Address { row, bank: bank % g.banks, ..at }, count, g.column_bytes);
                    }
                }
            }
            Scan::Nothing | Scan::Keys => {}
        }
        emit.finish()
    }

    /// Whether a unit of the head is in this channel.
    fn is_here(&self, unit: u32) -> bool {
        let per_channel = self.target.geometry.units();
        let channels = self.units / per_channel;
        unit / per_channel == self.channel % channels
    }

    fn store(&self, m: &Matrix, vector: u32, emit: &mut Emitter<'_>) {
        let g = &self.target.geometry;
        let (unit, line) = self.place(m, vector);
        if !self.is_here(unit) {
            return;
        }
        let at = g.unit_address(0, unit % g.units());
        let (row, column) = (self.rows.at(m.id, line / m.per_row), line % m.per_row * m.columns);
        for bank in 0..g.banks {
            emit.push(Op::St, Address { row, column, bank, ..at }, m.columns, g.column_bytes);
        }
    }
}

/// Elements that the token `len - 1` adds to the policy's own matrices, of which the first `written` vectors are there: as
/// [`Scanner::append`] writes them.
pub fn appended(target: &DeviceLayout, scan: Scan<'_>, len: u32, written: u32) -> u64 {
    match scan {
        Scan::Nothing | Scan::Keys => 0,
        Scan::Vectors { matrices, vectors, elements } | Scan::HeadVectors { matrices, vectors, elements } => {
            u64::from(matrices) * u64::from(vectors.saturating_sub(written)) * u64::from(elements)
        }
        Scan::Dimensions(_) => {
            let lanes = target.lanes();
            u64::from(len / lanes - (len - 1) / lanes) * u64::from(lanes) * u64::from(target.dim())
        }
    }
}

/// Rows that the policy's own matrices need, by matrix.
pub fn rows(target: &DeviceLayout, units: u32, scan: Scan<'_>, len: u32) -> Vec<u32> {
    match scan {
        Scan::Nothing | Scan::Keys => Vec::new(),
        Scan::Vectors { matrices, vectors: count, elements }
        | Scan::HeadVectors { matrices, vectors: count, elements } => {
            vectors(target, 0, matrices, elements).map(|m| count.div_ceil(units).div_ceil(m.per_row)).collect()
        }
        Scan::Dimensions(_) => {
            let (tokens, tile_rows) = tile(target, units, target.dim());
            vec![len.div_ceil(tokens) * tile_rows]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Shape, tests::geometry};
    use super::super::stage::{self, HeadPlan};
    use super::*;
    use crate::workload::ValueLayout;
    use pimattn_trace::{Record, Segment};

    #[test]
    fn places_of_a_channel_are_those_of_its_fullest_unit() {
        let geometry = geometry();
        let target = DeviceLayout {
            geometry,
            shape: Shape::new(&geometry, 128, 2, 32, ValueLayout::Stripe).unwrap(),
            heads_per_read: 1,
        };
        let rows = HeadRows::new(0, 1);
        let accumulators = 1;
        let matrix = vectors(&target, 1, 1, 128).next().unwrap();
        for layout in [Layout::Interleaved, Layout::RowBlock] {
            for count in [0, 1, 16, 17, 40, 300, 512, 513, 1000] {
                for channel in 6..8 {
                    let keys = Matrix { id: 0, ..matrix };
                    let (target, rows) = (&target, &rows);
                    let s = Scanner { target, channel, units: 32, heads: 1, rows, keys, own: 1, layout, accumulators };
                    let mut by_unit = [0; 32];
                    (0..count).for_each(|v| {
                        let (unit, place) = s.place(&matrix, v);
                        assert_eq!(place, by_unit[unit as usize], "places of a unit follow each other");
                        by_unit[unit as usize] += 1;
                    });
                    let of_channel = if s.is_here(0) { &by_unit[..16] } else { &by_unit[16..] };
                    assert_eq!(Some(&s.places(&matrix, count)), of_channel.iter().max(), "{layout:?} {count}");
                }
            }
        }
    }

    /// Requests of a scan of dimensions by so many query heads, on units with so many sets of accumulators.
    fn scanned(dims: &[u32], heads: u32, accumulators: u32) -> Vec<(Op, Address)> {
        let all = requests(Scan::Dimensions(dims), heads, accumulators);
        all.into_iter().filter(|r| r.0 != Op::WrGb).collect()
    }

    fn requests(scan: Scan<'_>, heads: u32, accumulators: u32) -> Vec<(Op, Address)> {
        let geometry = geometry();
        let target = DeviceLayout {
            geometry,
            shape: Shape::new(&geometry, 128, 2, 32, ValueLayout::Stripe).unwrap(),
            heads_per_read: 1,
        };
        let mut rows = HeadRows::new(0, 100);
        let (tokens, _) = tile(&target, 16, 128);
        for (i, count) in super::rows(&target, 16, scan, tokens + 1).into_iter().enumerate() {
            rows.reserve(1 + i, count).unwrap();
        }
        let keys = Matrix { id: 0, per_row: 16, columns: 2, stripes_in_row: 1 };
        let layout = Layout::Interleaved;
        let (target, rows) = (&target, &rows);
        let s = Scanner { target, channel: 0, units: 16, heads, rows, keys, own: 1, layout, accumulators };
        let stage = s.scan(scan, tokens + 1, tokens + 1, |_| 0);
        let segment = Segment::default();
        let plan = HeadPlan { segment, queries: vec![s.multipliers(scan)], scan: stage, ..HeadPlan::default() };
        let mut out = Vec::new();
        stage::write(&[plan], &geometry, false, &mut out);
        let requests = out.iter().filter_map(|r| if let Record::Request(r) = r { Some(r) } else { None });
        requests
            .filter(|r| matches!(r.op, Op::MacAb | Op::MvSb | Op::WrGb))
            .flat_map(|r| (0..u64::from(r.count)).map(|i| (r.op, geometry.decode(r.addr + i * u64::from(r.stride)))))
            .collect()
    }

    /// A matrix of a query head is multiplied by that head's vector alone: as many columns are read as of one matrix by
    /// all heads, but of rows of its own.
    #[test]
    fn a_matrix_of_a_head_is_read_by_that_head_alone() {
        let of = |scan, heads| requests(scan, heads, 1);
        let (matrices, vectors, elements) = (3, 600, 25);
        let shared = of(Scan::Vectors { matrices: 1, vectors, elements }, 3);
        let own = of(Scan::HeadVectors { matrices, vectors, elements }, 3);
        let count = |requests: &[(Op, Address)], op| requests.iter().filter(|r| r.0 == op).count();
        for op in [Op::MacAb, Op::WrGb] {
            assert_eq!(count(&own, op), count(&shared, op), "{op:?}");
        }
        let rows = |requests: &[(Op, Address)]| {
            let macs = requests.iter().filter(|r| r.0 == Op::MacAb);
            macs.map(|r| (r.1.row, r.1.column)).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(rows(&own).len(), 3 * rows(&shared).len());
        let one = |heads| of(Scan::HeadVectors { matrices: 1, vectors, elements }, heads);
        assert_eq!(one(1), of(Scan::Vectors { matrices: 1, vectors, elements }, 1));
    }

    /// Between two moves of its results, a unit never has more scores that grow than it has sets; and every query head
    /// multiplies each dimension of each tile once.
    #[test]
    fn a_scan_of_dimensions_keeps_to_the_accumulators() {
        let dims = [3, 40, 77, 127];
        let whole = scanned(&dims, 7, u32::MAX);
        assert_eq!(whole, scanned(&dims, 7, 7), "enough is enough");
        for sets in 1..7u32 {
            let split = scanned(&dims, 7, sets);
            let of = |requests: &[(Op, Address)], op| {
                let mut of: Vec<_> = requests.iter().filter(|r| r.0 == op).map(|r| (r.1.row, r.1.column)).collect();
                of.sort_unstable();
                of
            };
            assert_eq!(of(&split, Op::MacAb), of(&whole, Op::MacAb), "{sets} sets");
            assert_eq!(of(&split, Op::MvSb).len(), of(&whole, Op::MvSb).len(), "{sets} sets");
            let sweeps = split.split(|r| r.0 == Op::MvSb).filter(|macs| !macs.is_empty());
            let mut heads = Vec::new();
            for macs in sweeps {
                let first = macs.iter().filter(|m| **m == macs[0]).count();
                assert!(dims.iter().all(|d| macs.iter().filter(|(_, a)| a.column == d % 32).count() >= first));
                assert_eq!(macs.len(), dims.len() * first, "{sets} sets: all dimensions for as many heads");
                heads.push(first as u32);
            }
            assert!(heads.iter().all(|n| *n <= sets), "{sets} sets: {heads:?}");
            assert_eq!(heads.iter().sum::<u32>(), 2 * 7, "two tiles");
        }
    }
}
