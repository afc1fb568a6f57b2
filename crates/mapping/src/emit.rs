//! What a channel can be asked for, one level above single requests.

use super::heads;
use super::layout::Shape;
use super::rows::Rows;
use super::stage::Stage;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_trace::{Phase, Request};
use std::ops::Range;

/// A device, and how a head's vectors lie on it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
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
    /// How often such columns come in a row, `per_row` columns apart.
    pub stripes_in_row: u32,
}

/// Where the results of MACs go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// One per place: moved out whenever a buffer entry is full.
    Scores,
    /// Accumulated over the sweep.
    Outputs,
}

/// Builds a stage of one channel.
pub struct Emitter<'a> {
    /// The device.
    pub target: &'a Target,
    channel: u32,
    stage: Stage,
    /// Moves of results that are ready behind the next barrier, and closings: they go beside what follows it.
    deferred: Vec<Request>,
    /// Scores that wait in the buffer entry of the units that have worked most, and the units that have any.
    filled: u32,
    waiting: u64,
    /// Of the query heads that are multiplied for at a time, those that have scores there.
    lanes: u64,
}

impl<'a> Emitter<'a> {
    /// An empty stage of `phase` in `channel`.
    pub fn new(target: &'a Target, channel: u32, phase: Phase) -> Self {
        Emitter { target, channel, stage: Stage::new(phase), deferred: Vec::new(), filled: 0, waiting: 0, lanes: 0 }
    }

    /// The stage: everything is complete, results included.
    pub fn finish(mut self) -> Stage {
        self.settle();
        self.stage
    }

    /// Behind this, everything before is complete, results included.
    pub fn settle(&mut self) {
        if self.filled > 0 {
            self.scores();
        }
        self.barrier();
        self.barrier();
    }

    /// A run of requests.
    pub fn push(&mut self, op: Op, address: Address, count: u32, stride: u32) {
        let addr = self.target.geometry.encode(&Address { channel: self.channel, ..address });
        self.stage.push(Request { op, addr, count, stride });
    }

    /// Ends an epoch. What the MACs before it have ready moves beside what follows.
    pub fn barrier(&mut self) {
        self.stage.barrier();
        self.deferred.drain(..).for_each(|r| self.stage.push(r));
    }

    /// The host works so many cycles on what it has got.
    pub fn host(&mut self, cycles: u32) {
        self.settle();
        if cycles > 0 {
            self.push(Op::Host, Address::default(), cycles, 0);
            self.barrier();
        }
    }

    /// Entries of the buffers at an address, by number. Their numbers count on from the offset into the column and
    /// the row, as AttAcc's do, which mean nothing to a buffer; a run ends where a row does.
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

    /// A vector of `entries` buffer entries a bank is broadcast over pseudo-channels, ranks and bank groups.
    pub fn vector(&mut self, entries: u32) {
        for bank in 0..self.target.geometry.banks {
            self.entries(Op::WrGb, Address { bank, ..Default::default() }, 0..entries);
        }
    }

    /// Opens the row of a unit.
    pub fn open(&mut self, unit: u32, row: u32) {
        let address = self.target.geometry.unit_address(self.channel, unit);
        self.push(Op::ActBg, Address { row, ..address }, 1, 0);
    }

    /// Takes a unit out of the work.
    pub fn close(&mut self, unit: u32) {
        let address = self.target.geometry.unit_address(self.channel, unit);
        self.push(Op::PreBg, address, 1, 0);
    }

    /// Takes a unit out of the work behind the next barrier.
    pub fn close_behind(&mut self, unit: u32) {
        let addr = self.target.geometry.encode(&self.target.geometry.unit_address(self.channel, unit));
        self.deferred.push(Request::one(Op::PreBg, addr));
    }

    /// Multiplies places of a row (a physical one), all stripes, in `units`: those of each mask for a query head, of as many
    /// heads as a unit multiplies for at a time.
    pub fn macs(&mut self, op: Op, row: u32, masks: &[u64], m: &Matrix, results: Results, units: u64) {
        (0..m.stripes_in_row).for_each(|stripe| self.stripe(op, row, (masks, u64::MAX), m, stripe, results, units));
    }

    /// Multiplies one stripe of the places of `masks` that are in a set, too. A column that several heads want is read once.
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
            // A run goes on as long as the same heads want it.
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
    pub fn dense(&mut self, rows: &Rows, m: &Matrix, places: u32, heads: u32) {
        for row in 0..places.div_ceil(m.per_row) {
            let n = (places - row * m.per_row).min(m.per_row);
            for lot in heads::lots(heads as usize, self.target.heads_per_read as usize) {
                let masks = vec![u64::MAX >> (64 - n); lot.len()];
                self.macs(Op::MacAb, rows.at(m.id, row), &masks, m, Results::Scores, u64::MAX);
            }
        }
    }

    /// The buffer entries of each unit that has scores, of each query head that has any, go to the softmax buffer, both pseudo-channels at a time, behind
    /// a barrier, and beside the MACs that fill the next entry.
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

    /// An entry of every bank, both pseudo-channels and all bank groups at a time, of the ranks that have any of `units`,
    /// for each query head, behind a barrier. Their addresses are in the upper half of the rows, as those of AttAcc's are:
    /// where a text loses the phase, it still says what they move.
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

    /// An entry of every bank, both pseudo-channels at a time, for each query head, behind a barrier.
    pub fn lanes(&mut self, heads: usize) {
        let g = self.target.geometry;
        for _ in 0..heads {
            for (rank, bank_group) in (0..g.ranks).flat_map(|r| (0..g.bank_groups).map(move |b| (r, b))) {
                (0..g.banks).for_each(|bank| self.defer(Address { rank, bank_group, bank, ..Default::default() }));
            }
        }
        self.barrier();
    }

    /// A move of one entry of results, behind the next barrier.
    pub fn defer(&mut self, address: Address) {
        let addr = self.target.geometry.encode(&Address { channel: self.channel, ..address });
        self.deferred.push(Request::one(Op::MvSb, addr));
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::geometry;
    use super::super::stage::{self, Plan};
    use super::*;
    use crate::workload::ValueLayout;
    use pimattn_trace::{Record, Segment, check};

    /// As the probabilities of over 262,144 tokens on one channel are.
    #[test]
    fn more_entries_than_a_row_has_bytes_are_several_runs() {
        let g = geometry();
        let target =
            Target { geometry: g, shape: Shape::new(&g, 128, 2, 32, ValueLayout::Stripe).unwrap(), heads_per_read: 1 };
        let mut emit = Emitter::new(&target, 3, Phase::AttendContext);
        emit.entries(Op::MvGb, Address { rank: 1, bank_group: 2, ..Address::default() }, 0..2500);
        let segment = Segment { channel: 3, ..Segment::default() };
        let plan = Plan { segment, probabilities: vec![emit.finish()], ..Plan::default() };
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
