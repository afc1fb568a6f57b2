//! Attention to the selected tokens: scores by sweeping the rows of K, softmax, outputs by sweeping the rows of V.
//!
//! In a sweep, every open row serves all query heads of the group before the next one opens, so the group opens the
//! union of its rows once and each query head multiplies only for itself. (Assumed: the units keep one set of
//! accumulators per query head.) Results are moved out while the next ones are computed: a unit fills one buffer entry
//! while the entry before is on its way (AttAcc's double buffering).

use super::emit::{Emitter, Matrix, Results, Target};
use super::rows::Rows;
use super::stage::Stage;
use super::sweep::{Cell, Sweep};
use crate::addr::Address;
use crate::op::Op;
use crate::spec::workload::Addressing;
use crate::trace::Phase;

/// The touched cells of one matrix in one channel of the head.
pub struct Part<'a> {
    /// All cells and their masks.
    pub sweep: &'a Sweep,
    /// Those of this channel.
    pub cells: &'a [Cell],
    /// How much one row activation covers.
    pub addressing: Addressing,
    /// Whether columns that no unit wants are left out.
    pub skip_columns: bool,
    /// Units of a channel.
    pub units: u32,
}

impl Part<'_> {
    /// Calls `each` with the cells that are open at the same time.
    fn rounds(&self, mut each: impl FnMut(&[Cell])) {
        if self.addressing == Addressing::Broadcast {
            return self.cells.chunk_by(|a, b| a.row == b.row).for_each(each);
        }
        let mut by_unit: Vec<Vec<Cell>> = vec![Vec::new(); self.units as usize];
        self.cells.iter().for_each(|c| by_unit[(c.unit % self.units) as usize].push(*c));
        let rounds = by_unit.iter().map(Vec::len).max().unwrap_or(0);
        let mut round = Vec::with_capacity(by_unit.len());
        for r in 0..rounds {
            round.clear();
            round.extend(by_unit.iter().filter_map(|cells| cells.get(r)));
            each(&round);
        }
    }

    /// Places that all units multiply for a query head in a round: those that any unit wants.
    fn places(&self, round: &[Cell], head: usize) -> u64 {
        let any = round.iter().fold(0, |all, c| all | self.sweep.mask(*c, head));
        match self.skip_columns || any == 0 {
            true => any,
            false => u64::MAX >> (64 - self.sweep.per_row()),
        }
    }

    /// Rows in the unit that has most.
    pub fn fullest_unit(&self) -> u32 {
        let mut count = vec![0u32; self.units as usize];
        self.cells.iter().for_each(|c| count[(c.unit % self.units) as usize] += 1);
        count.into_iter().max().unwrap_or(0)
    }

    /// Probabilities that each unit needs at most, per query head: one for each place that it multiplies.
    fn lines(&self) -> Vec<u32> {
        let mut lines = vec![0; self.sweep.heads()];
        self.rounds(|round| {
            for (head, n) in lines.iter_mut().enumerate() {
                *n += self.places(round, head).count_ones();
            }
        });
        lines
    }

    fn multiply(&self, rows: &Rows, matrix: &Matrix, results: Results, emit: &mut Emitter<'_>) {
        let mut enabled = vec![false; self.units as usize];
        self.rounds(|round| {
            let same_row = round.iter().all(|c| c.row == round[0].row);
            let together = self.addressing == Addressing::Broadcast || round.len() == self.units as usize && same_row;
            let (op, row) = match together {
                true => (Op::MacAb, rows.at(matrix.id, round[0].row)),
                false => (Op::MacBg, 0),
            };
            if together {
                enabled.fill(false);
            } else {
                self.open(round, rows, matrix, &mut enabled, emit);
            }
            let units = round.iter().fold(0, |all: u64, c| all | 1 << (c.unit % self.units));
            let units = if together { u64::MAX } else { units };
            for head in 0..self.sweep.heads() {
                emit.macs(op, row, self.places(round, head), matrix, results, units);
            }
        });
        // A unit that stayed open would take part in the next sweep's MACs.
        (0..).zip(enabled).filter(|(_, on)| *on).for_each(|(unit, _)| emit.close(unit));
    }

    /// Opens the rows of a round, and takes units without one out of the work.
    fn open(&self, round: &[Cell], rows: &Rows, matrix: &Matrix, enabled: &mut [bool], emit: &mut Emitter<'_>) {
        for (unit, on) in (0..).zip(enabled) {
            let cell = round.iter().find(|c| c.unit % self.units == unit);
            match cell {
                Some(c) => emit.open(unit, rows.at(matrix.id, c.row)),
                None if *on => emit.close(unit),
                None => {}
            }
            *on = cell.is_some();
        }
    }
}

/// The scores of the selected keys.
pub fn scores(part: &Part<'_>, rows: &Rows, matrix: &Matrix, target: &Target, channel: u32) -> Stage {
    let mut emit = Emitter::new(target, channel, Phase::AttendScore);
    part.multiply(rows, matrix, Results::Scores, &mut emit);
    emit.finish()
}

/// Softmax of each query head, then its probabilities to the GEMV buffers: to each unit those of its places in `values`.
pub fn probabilities(values: &Part<'_>, target: &Target, channel: u32) -> Vec<Stage> {
    let (g, lines) = (&target.geometry, values.lines());
    let mut softmax = Emitter::new(target, channel, Phase::Softmax);
    lines.iter().for_each(|_| softmax.push(Op::Sfm, Address::default(), 1, 0));
    let mut moves = Emitter::new(target, channel, Phase::AttendContext);
    for entries in lines.iter().map(|n| n.div_ceil(target.shape.entry)).filter(|n| *n > 0) {
        for (rank, bank_group) in (0..g.ranks).flat_map(|r| (0..g.bank_groups).map(move |b| (r, b))) {
            moves.entries(Op::MvGb, Address { rank, bank_group, ..Default::default() }, entries);
        }
    }
    vec![softmax.finish(), moves.finish()]
}

/// The outputs, stripe after stripe of V.
pub fn context(part: &Part<'_>, rows: &Rows, stripes: &[Matrix], target: &Target, channel: u32) -> Stage {
    let mut emit = Emitter::new(target, channel, Phase::AttendContext);
    for matrix in stripes {
        part.multiply(rows, matrix, Results::Outputs, &mut emit);
        (0..matrix.stripes_in_row).for_each(|_| emit.outputs(part.sweep.heads()));
    }
    emit.finish()
}
