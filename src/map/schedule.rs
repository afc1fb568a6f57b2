//! The requests of one KV head at one decode step.
//!
//! Phases in order, a barrier between: the queries go to the GEMV buffers; scores by sweeping the rows of K; softmax;
//! probabilities to the GEMV buffers; outputs by sweeping the rows of V, once per stripe. In a sweep, every open row
//! serves all query heads of the group before the next one opens, so the group opens the union of its rows once and
//! each query head multiplies only for itself. (Assumed: the units keep one set of accumulators per query head.)
//! Results are moved out while the next ones are computed: a unit fills one buffer entry while the entry before is on
//! its way (AttAcc's double buffering).

use super::layout::{Positions, Shape};
use super::sweep::{Cell, Sweep};
use crate::addr::{Address, Geometry};
use crate::op::Op;
use crate::select::SlotOrder;
use crate::spec::workload::{Addressing, Mapping};
use crate::trace::{Record, Request, Segment};

/// Where a KV head lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Channel.
    pub channel: u32,
    /// First row of K.
    pub key_row: u32,
    /// First row of V.
    pub value_row: u32,
    /// Rows for each of K and V.
    pub rows: u32,
}

/// The selections of a group at one step.
pub struct Wanted<'a> {
    /// Tokens of each query head, ascending.
    pub tokens: &'a [Vec<u32>],
    /// Their order in memory.
    pub order: &'a SlotOrder,
    /// Row-blocks that each query head touches by the metrics' account; only `ideal` uses them.
    pub row_blocks: &'a [u32],
}

/// Makes the requests of one KV head. Keeps its memory between steps.
pub struct Scheduler {
    geometry: Geometry,
    mapping: Mapping,
    shape: Shape,
    home: Home,
    positions: Positions,
    keys: Sweep,
    values: Sweep,
    seen: Vec<u64>,
}

/// What a sweep's requests look like.
struct Matrix {
    first_row: u32,
    /// Vectors in a row.
    per_row: u32,
    /// Columns of one vector that lie side by side.
    columns: u32,
    /// Distance of the columns of one vector that do not, and how many of those there are.
    stripes_in_row: u32,
}

impl Scheduler {
    /// A scheduler for a KV head that `heads` query heads share.
    pub fn new(geometry: Geometry, mapping: &Mapping, shape: Shape, home: Home, heads: usize) -> Self {
        let stripe_rows = home.rows / shape.value_stripes;
        Scheduler {
            geometry,
            mapping: mapping.clone(),
            shape,
            home,
            positions: Positions::new(mapping, &shape),
            keys: Sweep::new(shape.units, home.rows, heads, shape.keys_per_row),
            values: Sweep::new(shape.units, stripe_rows, heads, shape.values_per_row),
            seen: Vec::new(),
        }
    }

    /// Appends the requests of one step, `segment` filled in and first. Fails when the head has outgrown its rows.
    pub fn step(&mut self, wanted: &Wanted<'_>, mut segment: Segment, out: &mut Vec<Record>) -> Result<(), String> {
        self.positions.update(wanted.order);
        self.keys.clear();
        self.values.clear();
        for (head, tokens) in wanted.tokens.iter().enumerate() {
            for (sweep, rows, what) in [
                (&mut self.keys, self.home.rows, "K"),
                (&mut self.values, self.home.rows / self.shape.value_stripes, "V"),
            ] {
                sweep.add(head, tokens, wanted.order, &self.positions).map_err(|row| {
                    format!("needs row {row} of {what} in each bank, but its share of the device is {rows} rows: fewer layers or heads a channel, more channels, or less padding")
                })?;
            }
        }
        self.keys.sort();
        self.values.sort();

        let selected: usize = wanted.tokens.iter().map(Vec::len).sum();
        segment.channel = self.home.channel;
        segment.selected = selected as u32;
        segment.distinct = self.distinct(wanted.tokens);
        segment.bytes_useful = 2 * u64::from(segment.distinct) * u64::from(self.shape.vector_bytes);
        segment.slots_used = 2 * selected as u64 * u64::from(self.shape.columns);
        (segment.row_blocks, segment.fullest_unit) = match self.mapping.addressing {
            Addressing::Ideal => {
                let most = wanted.row_blocks.iter().copied().max().unwrap_or(0);
                (most, most.div_ceil(self.shape.units))
            }
            _ => (self.keys.cells().len() as u32, self.keys.fullest_unit()),
        };
        out.push(Record::Segment(segment));
        let mut emit = Emitter {
            geometry: &self.geometry,
            shape: &self.shape,
            channel: self.home.channel,
            out,
            deferred: Vec::new(),
        };
        emit.queries(wanted.tokens.len());
        let keys = Matrix {
            first_row: self.home.key_row,
            per_row: self.shape.keys_per_row,
            columns: self.shape.columns,
            stripes_in_row: 1,
        };
        self.sweep(&self.keys, &keys, wanted, Results::Scores, &mut emit);
        emit.settle();
        let lines = self.lines(wanted);
        emit.softmax(&lines);
        let value_stripes = self.shape.value_stripes;
        for stripe in 0..value_stripes {
            let values = Matrix {
                first_row: self.home.value_row + stripe * (self.home.rows / value_stripes),
                per_row: self.shape.values_per_row,
                columns: 1,
                stripes_in_row: self.shape.columns / value_stripes,
            };
            self.sweep(&self.values, &values, wanted, Results::Outputs, &mut emit);
            for _ in 0..self.shape.columns / value_stripes {
                emit.outputs(wanted.tokens.len());
            }
        }
        emit.settle();
        Ok(())
    }

    fn distinct(&mut self, heads: &[Vec<u32>]) -> u32 {
        let words = heads.iter().filter_map(|t| t.last()).max().map_or(0, |t| *t as usize / 64 + 1);
        self.seen.clear();
        self.seen.resize(words, 0);
        heads.iter().flatten().for_each(|t| self.seen[*t as usize / 64] |= 1 << (t % 64));
        self.seen.iter().map(|w| w.count_ones()).sum()
    }

    /// Probabilities that each unit needs at most, per query head: one for each place of V that it multiplies.
    fn lines(&self, wanted: &Wanted<'_>) -> Vec<u32> {
        let mut lines = vec![0; wanted.tokens.len()];
        match self.mapping.addressing {
            Addressing::Ideal => lines.copy_from_slice(wanted.row_blocks),
            _ => self.rounds(&self.values, |round| {
                for (head, n) in lines.iter_mut().enumerate() {
                    *n += self.places(&self.values, round, head).count_ones();
                }
            }),
        }
        lines
    }

    /// Calls `each` with the cells that are open at the same time.
    fn rounds(&self, sweep: &Sweep, mut each: impl FnMut(&[Cell])) {
        let cells = sweep.cells();
        if self.mapping.addressing == Addressing::Broadcast {
            return cells.chunk_by(|a, b| a.row == b.row).for_each(each);
        }
        let mut by_unit: Vec<Vec<Cell>> = vec![Vec::new(); self.shape.units as usize];
        cells.iter().for_each(|c| by_unit[c.unit as usize].push(*c));
        let rounds = by_unit.iter().map(Vec::len).max().unwrap_or(0);
        let mut round = Vec::with_capacity(by_unit.len());
        for r in 0..rounds {
            round.clear();
            round.extend(by_unit.iter().filter_map(|cells| cells.get(r)));
            each(&round);
        }
    }

    /// Places that all units multiply for a query head in a round: those that any unit wants.
    fn places(&self, sweep: &Sweep, round: &[Cell], head: usize) -> u64 {
        let any = round.iter().fold(0, |all, c| all | sweep.mask(*c, head));
        match self.mapping.skip_columns || any == 0 {
            true => any,
            false => u64::MAX >> (64 - sweep.per_row()),
        }
    }

    fn sweep(&self, sweep: &Sweep, matrix: &Matrix, wanted: &Wanted<'_>, results: Results, emit: &mut Emitter<'_>) {
        let heads = wanted.tokens.len();
        if self.mapping.addressing == Addressing::Ideal {
            return self.ideal(matrix, wanted.row_blocks, results, emit);
        }
        let mut enabled = vec![false; self.shape.units as usize];
        let mut filled = 0;
        self.rounds(sweep, |round| {
            let same_row = round.iter().all(|c| c.row == round[0].row);
            let together = self.mapping.addressing == Addressing::Broadcast
                || round.len() == self.shape.units as usize && same_row;
            let op = if together { Op::MacAb } else { Op::MacBg };
            let row = if together { matrix.first_row + round[0].row } else { 0 };
            if together {
                enabled.fill(false);
            } else {
                emit.open(round, matrix.first_row, &mut enabled);
            }
            let units = round.iter().fold(0, |all: u64, c| all | 1 << c.unit);
            for head in 0..heads {
                let places = self.places(sweep, round, head);
                filled = emit.macs(op, row, places, matrix, results, if together { u64::MAX } else { units }, filled);
            }
        });
        emit.scores_left(results, filled);
    }

    /// Dense attention over as many row-blocks as each query head touched, from the first row on.
    fn ideal(&self, matrix: &Matrix, blocks: &[u32], results: Results, emit: &mut Emitter<'_>) {
        let most = blocks.iter().copied().max().unwrap_or(0);
        let mut filled = 0;
        for row in 0..most.div_ceil(matrix.per_row) {
            for n in blocks {
                let places = n.saturating_sub(row * matrix.per_row).min(matrix.per_row);
                let mask = if places == 0 { 0 } else { u64::MAX >> (64 - places) };
                filled = emit.macs(Op::MacAb, matrix.first_row + row, mask, matrix, results, u64::MAX, filled);
            }
        }
        emit.scores_left(results, filled);
    }
}

/// Where the results of a sweep go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Results {
    /// One per place: moved out whenever a buffer entry is full.
    Scores,
    /// Accumulated over the sweep.
    Outputs,
}

struct Emitter<'a> {
    geometry: &'a Geometry,
    shape: &'a Shape,
    channel: u32,
    out: &'a mut Vec<Record>,
    /// Moves of results that are ready behind the next barrier.
    deferred: Vec<Request>,
}

impl Emitter<'_> {
    fn push(&mut self, op: Op, address: Address, count: u32, stride: u32) {
        let addr = self.geometry.encode(&Address { channel: self.channel, ..address });
        self.out.push(Record::Request(Request { op, addr, count, stride }));
    }

    fn barrier(&mut self) {
        self.push(Op::Barrier, Address::default(), 1, 0);
        self.out.extend(self.deferred.drain(..).map(Record::Request));
    }

    /// Everything before is complete, results included.
    fn settle(&mut self) {
        if !self.deferred.is_empty() {
            self.barrier();
        }
        self.barrier();
    }

    /// A query is broadcast over pseudo-channels, ranks and bank groups, a part for each bank.
    fn queries(&mut self, heads: usize) {
        for _ in 0..heads {
            for bank in 0..self.geometry.banks {
                self.push(Op::WrGb, Address { bank, ..Default::default() }, self.shape.columns, 1);
            }
        }
        self.barrier();
    }

    /// Opens the rows of a round, and takes units without one out of the work.
    fn open(&mut self, round: &[Cell], first_row: u32, enabled: &mut [bool]) {
        for (unit, on) in (0..).zip(enabled) {
            let cell = round.iter().find(|c| c.unit == unit);
            let mut address = self.geometry.unit_address(self.channel, unit);
            match cell {
                Some(c) => {
                    address.row = first_row + c.row;
                    self.push(Op::ActBg, address, 1, 0);
                }
                None if *on => self.push(Op::PreBg, address, 1, 0),
                None => {}
            }
            *on = cell.is_some();
        }
    }

    /// Multiplies the places of `mask`; returns how many scores wait in each unit's entry.
    #[allow(clippy::too_many_arguments)]
    fn macs(&mut self, op: Op, row: u32, mask: u64, m: &Matrix, results: Results, units: u64, mut filled: u32) -> u32 {
        let column_bytes = self.geometry.column_bytes;
        for stripe in 0..m.stripes_in_row {
            let mut rest = mask;
            while rest != 0 {
                let first = rest.trailing_zeros();
                let mut run = (rest >> first).trailing_ones();
                if results == Results::Scores {
                    run = run.min(self.shape.entry - filled);
                }
                let column = stripe * m.per_row + first * m.columns;
                self.push(op, Address { row, column, ..Default::default() }, run * m.columns, column_bytes);
                rest &= !(u64::MAX >> (64 - run) << first);
                if results == Results::Scores {
                    filled += run;
                    if filled == self.shape.entry {
                        self.scores(units);
                        filled = 0;
                    }
                }
            }
        }
        filled
    }

    fn scores_left(&mut self, results: Results, filled: u32) {
        if results == Results::Scores && filled > 0 {
            self.scores(u64::MAX);
        }
    }

    /// A full entry of each of `units` goes to the softmax buffer, both pseudo-channels at a time, behind a barrier.
    fn scores(&mut self, units: u64) {
        self.barrier();
        let half = self.shape.units / self.geometry.pseudo_channels;
        let both = (0..self.geometry.pseudo_channels).fold(0, |all, p| all | units >> (p * half));
        for bank_group in 0..self.geometry.bank_groups {
            for rank in 0..self.geometry.ranks {
                if both >> (rank * self.geometry.bank_groups + bank_group) & 1 == 1 {
                    self.defer(Address { rank, bank_group, ..Default::default() });
                }
            }
        }
    }

    /// The outputs of one stripe, both pseudo-channels and all bank groups at a time.
    fn outputs(&mut self, heads: usize) {
        self.barrier();
        for _ in 0..heads {
            for bank in 0..self.geometry.banks {
                for rank in 0..self.geometry.ranks {
                    self.defer(Address { rank, bank, ..Default::default() });
                }
            }
        }
    }

    fn defer(&mut self, address: Address) {
        let addr = self.geometry.encode(&Address { channel: self.channel, ..address });
        self.deferred.push(Request::one(Op::MvSb, addr));
    }

    /// Softmax of each query head, then its probabilities to the GEMV buffers, `lines` for each unit.
    fn softmax(&mut self, lines: &[u32]) {
        for _ in lines {
            self.push(Op::Sfm, Address::default(), 1, 0);
        }
        self.barrier();
        for n in lines {
            for rank in 0..self.geometry.ranks {
                for bank_group in 0..self.geometry.bank_groups {
                    let entries = n.div_ceil(self.shape.entry);
                    if entries > 0 {
                        self.push(Op::MvGb, Address { rank, bank_group, ..Default::default() }, entries, 1);
                    }
                }
            }
        }
        self.barrier();
    }
}
