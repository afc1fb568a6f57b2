//! Builds the requests of one channel from operations such as "multiply these places" or "move the outputs out".
//!
//! Results lag behind the MACs that produce them: a move of results is deferred to the epoch after the next barrier, where
//! it overlaps with the MACs of that epoch (AttAcc's double buffering).

use super::heads;
use super::layout::Shape;
use super::rows::HeadRows;
use super::stage::Stage;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_trace::{Phase, Request};
use std::ops::Range;

/// A device, and how a head's vectors lie on it.
#[derive(Debug, Clone, Copy)]
pub struct DeviceLayout {
    /// Geometry of the device.
    pub geometry: Geometry,
    /// Shape of keys and values.
    pub shape: Shape,
    /// Query heads for which a unit multiplies a column that it reads once.
    pub heads_per_read: u32,
}

/// How the vectors of a matrix lie in the rows of a unit.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// Its number among the matrices of the head.
    pub id: usize,
    /// Vectors in a row.
    pub per_row: u32,
    /// Columns of one vector that lie side by side.
    pub columns: u32,
    /// Number of such groups of columns in a row, `per_row` columns apart.
    pub stripes_in_row: u32,
}

/// Where the results of MACs go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// One result per place, moved out whenever a buffer entry is full.
    Scores,
    /// Results accumulate over the sweep.
    Outputs,
}

/// Builds a stage of one channel.
pub struct Emitter<'a> {
    /// The device.
    pub target: &'a DeviceLayout,
    channel: u32,
    stage: Stage,
    /// Moves of results, and precharges, that must wait for the next barrier; they overlap with the epoch after it.
    deferred: Vec<Request>,
    /// Scores in the buffer entry of the units that have the most, and (`waiting`) the units that have any.
    filled: u32,
    waiting: u64,
    /// The query heads of the current lot that have scores there, as a bit set.
    lanes: u64,
}

impl<'a> Emitter<'a> {
    /// An empty stage of `phase` in `channel`.
    pub fn new(target: &'a DeviceLayout, channel: u32, phase: Phase) -> Self {
        Emitter { target, channel, stage: Stage::new(phase), deferred: Vec::new(), filled: 0, waiting: 0, lanes: 0 }
    }

    /// Returns the stage, at whose end everything is complete, results included.
    pub fn finish(mut self) -> Stage {
        self.settle();
        self.stage
    }

    /// Ends the epoch and moves all results: what follows finds everything before complete.
    pub fn settle(&mut self) {
        if self.filled > 0 {
            self.scores();
        }
        self.barrier();
        self.barrier();
    }

    /// Adds a run of requests.
    pub fn push(&mut self, op: Op, address: Address, count: u32, stride: u32) {
        let addr = self.target.geometry.encode(&Address { channel: self.channel, ..address });
        self.stage.push(Request { op, addr, count, stride });
    }

    /// Ends an epoch. Deferred results of its MACs move in the next epoch.
    pub fn barrier(&mut self) {
        self.stage.barrier();
        self.deferred.drain(..).for_each(|r| self.stage.push(r));
    }

    /// Lets the host work for `cycles` on the results so far.
    pub fn host(&mut self, cycles: u32) {
        self.settle();
        if cycles > 0 {
            self.push(Op::Host, Address::default(), cycles, 0);
            self.barrier();
        }
    }

    /// Moves of the buffer entries `numbers` at an address. As in AttAcc's traces, the number of an entry is added to the
    /// offset and carries into the column and the row, which mean nothing to a buffer. A run ends where a row does.
    pub fn entries(&mut self, op: Op, address: Address, mut numbers: Range<u32>) {
        let g = self.target.geometry;
        let most = g.row_bytes();
        while !numbers.is_empty() {
            let (row, in_row) = (numbers.start / most, numbers.start % most);
            let count = (most - in_row).min(numbers.end - numbers.start);
            let (column, offset) = (in_row / g.column_bytes, in_row % g.column_bytes);
            self.push(op, Address { row, column, offset, ..address }, count, 1);
            numbers.start += count;
        }
    }

    /// Broadcasts a vector of `entries` buffer entries a bank to all pseudo-channels, ranks and bank groups.
    pub fn vector(&mut self, entries: u32) {
        for bank in 0..self.target.geometry.banks {
            self.entries(Op::WrGb, Address { bank, ..Default::default() }, 0..entries);
        }
    }

    /// Activates a row of a unit, and enables the unit for the MACs that follow.
    pub fn open(&mut self, unit: u32, row: u32) {
        let address = self.target.geometry.unit_address(self.channel, unit);
        self.push(Op::ActBg, Address { row, ..address }, 1, 0);
    }

    /// Precharges a unit, which takes it out of the MACs that follow.
    pub fn close(&mut self, unit: u32) {
        let address = self.target.geometry.unit_address(self.channel, unit);
        self.push(Op::PreBg, address, 1, 0);
    }

    /// Precharges a unit after the next barrier.
    pub fn close_behind(&mut self, unit: u32) {
        let addr = self.target.geometry.encode(&self.target.geometry.unit_address(self.channel, unit));
        self.deferred.push(Request::one(Op::PreBg, addr));
    }

    /// Multiplies places of a physical row in `units`, all stripes. Each of `masks` has the places that one query head of a
    /// lot wants.
    pub fn macs(&mut self, op: Op, row: u32, masks: &[u64], m: &Matrix, results: Results, units: u64) {
        (0..m.stripes_in_row).for_each(|stripe| self.stripe(op, row, (masks, u64::MAX), m, stripe, results, units));
    }

    /// Multiplies one stripe of the places of `masks` that are also in the set `within`. A column that several query heads
    /// want is read once: the places are cut into runs for which the same heads multiply.
    #[expect(clippy::too_many_arguments, reason = "what is multiplied, where, and where it goes")]
    pub fn stripe(
        &mut self,
        op: Op,
        row: u32,
        (masks, within): (&[u64], u64),
        m: &Matrix,
        stripe: u32,
        results: Results,
        units: u64,
    ) {
        debug_assert!(masks.len() <= self.target.heads_per_read as usize);
        let g = self.target.geometry;
        let mut rest = within & masks.iter().fold(0, |all, mask| all | mask);
        while rest != 0 {
            let first = rest.trailing_zeros();
            let wants = |mask: &u64| mask >> first & 1 == 1;
            // A run continues as long as the same query heads want it, and as the buffer entry has room for its scores.
            let same = masks.iter().fold(rest, |same, mask| same & if wants(mask) { *mask } else { !mask });
            let lanes = (0..).zip(masks).fold(0, |all, (i, mask)| all | u64::from(wants(mask)) << i);
            let mut run = (same >> first).trailing_ones();
            if results == Results::Scores {
                run = run.min(self.target.shape.entry - self.filled);
            }
            let column = stripe * m.per_row + first * m.columns;
            let at = g.mac_for(lanes.count_ones(), Address { row, column, ..Default::default() });
            self.push(op, at, run * m.columns, g.column_bytes);
            rest &= !(u64::MAX >> (64 - run) << first);
            if results == Results::Scores {
                self.filled += run;
                self.waiting |= units;
                self.lanes |= lanes;
                if self.filled == self.target.shape.entry {
                    self.scores();
                }
            }
        }
    }

    /// Multiplies the first `places` places of every unit, row after row, for each query head: a dense sweep.
    pub fn dense(&mut self, rows: &HeadRows, m: &Matrix, places: u32, heads: u32) {
        for row in 0..places.div_ceil(m.per_row) {
            let n = (places - row * m.per_row).min(m.per_row);
            for lot in heads::lots(heads as usize, self.target.heads_per_read as usize) {
                let masks = vec![u64::MAX >> (64 - n); lot.len()];
                self.macs(Op::MacAb, rows.at(m.id, row), &masks, m, Results::Scores, u64::MAX);
            }
        }
    }

    /// Moves the buffer entries of each unit and query head that have scores to the softmax buffer, both pseudo-channels at
    /// a time. The moves come after a barrier and overlap with the MACs that fill the next entry.
    pub fn scores(&mut self) {
        self.filled = 0;
        let units = std::mem::take(&mut self.waiting);
        let heads = std::mem::take(&mut self.lanes).count_ones();
        let g = &self.target.geometry;
        let half = g.ranks * g.bank_groups;
        let both = (0..g.pseudo_channels).fold(0, |all, p| all | units >> (p * half));
        for _ in 0..heads {
            for bank_group in 0..g.bank_groups {
                for rank in 0..g.ranks {
                    if both >> (rank * g.bank_groups + bank_group) & 1 == 1 {
                        self.defer(Address { rank, bank_group, ..Default::default() });
                    }
                }
            }
        }
        self.barrier();
    }

    /// Moves outputs after a barrier: for each query head an entry of every bank, both pseudo-channels and all bank groups
    /// at a time, of the ranks that have any of `units`. The addresses are in the upper half of the rows, as AttAcc's are:
    /// a text trace has no phases, and the address still shows that these are outputs.
    pub fn outputs(&mut self, heads: usize, units: u64) {
        let g = self.target.geometry;
        let of_rank = |rank: u32| {
            let groups = (0..g.pseudo_channels).map(|p| units >> ((p * g.ranks + rank) * g.bank_groups));
            groups.fold(0, |all, groups| all | groups) & (u64::MAX >> (64 - g.bank_groups)) != 0
        };
        for _ in 0..heads {
            for bank in 0..g.banks {
                for rank in (0..g.ranks).filter(|rank| of_rank(*rank)) {
                    self.defer(Address { rank, bank, row: g.upper_half(), ..Default::default() });
                }
            }
        }
        self.barrier();
    }

    /// Moves an entry of every bank for each query head, both pseudo-channels at a time, after a barrier.
    pub fn lanes(&mut self, heads: usize) {
        let g = self.target.geometry;
        for _ in 0..heads {
            for (rank, bank_group) in (0..g.ranks).flat_map(|r| (0..g.bank_groups).map(move |b| (r, b))) {
                (0..g.banks).for_each(|bank| self.defer(Address { rank, bank_group, bank, ..Default::default() }));
            }
        }
        self.barrier();
    }

    /// Moves one entry of results after the next barrier.
    pub fn defer(&mut self, address: Address) {
        let addr = self.target.geometry.encode(&Address { channel: self.channel, ..address });
        self.deferred.push(Request::one(Op::MvSb, addr));
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::geometry;
    use super::super::stage::{self, HeadPlan};
    use super::*;
    use crate::workload::ValueLayout;
    use pimattn_trace::{Record, Segment, check};

    /// As the probabilities of over 262,144 tokens on one channel are.
    #[test]
    fn more_entries_than_a_row_has_bytes_are_several_runs() {
        let g = geometry();
        let target = DeviceLayout {
            geometry: g,
            shape: Shape::new(&g, 128, 2, 32, ValueLayout::Stripe).unwrap(),
            heads_per_read: 1,
        };
        let mut emit = Emitter::new(&target, 3, Phase::AttendContext);
        emit.entries(Op::MvGb, Address { rank: 1, bank_group: 2, ..Address::default() }, 0..2500);
        let segment = Segment { channel: 3, ..Segment::default() };
        let plan = HeadPlan { segment, probabilities: vec![emit.finish()], ..HeadPlan::default() };
        let mut out = Vec::new();
        stage::write(&[plan], &g, false, &mut out);
        let mut counts = Vec::new();
        for record in &out {
            assert_eq!(check(record, &g), Ok(()));
            if let Record::Request(r) = record
                && r.op == Op::MvGb
            {
                let at = g.decode(r.addr);
                assert_eq!((at.channel, at.rank, at.bank_group, at.bank), (3, 1, 2, 0));
                counts.push(r.count);
            }
        }
        assert_eq!(counts, [1024, 1024, 452]);
    }
}
