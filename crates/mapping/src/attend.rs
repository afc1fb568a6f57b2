//! Attention to the selected tokens: scores by sweeping the rows of K, softmax, outputs by sweeping the rows of V.
//!
//! - *Rows.* In a sweep, every open row serves all query heads of the group before the next one opens, so the group opens
//!   the union of its rows once.
//! - *Lots.* The query heads of a lot, as many as the units have lanes for, share the reads of a column; each multiplies only
//!   what it wants. Then the next lot reads its columns.
//! - *Leaving.* In a round of own rows, a unit closes behind the last place that it wants, so that it can open its next row
//!   while the others multiply.
//! - *Accumulators.* For outputs, a unit needs sets of accumulators for each query head; heads beyond the sets take another
//!   sweep.
//! - *Results* move out while the next ones are computed: a unit fills one buffer entry while the entry before is on its
//!   way (AttAcc's double buffering). Entries that no unit needs are not moved.

use super::emit::{DeviceLayout, Emitter, Matrix, Results};
use super::rounds::{Opening, Round, RoundWork, Rounds};
use super::rows::HeadRows;
use super::stage::Stage;
use super::sweep::{TouchedRow, TouchedRows};
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_trace::Phase;

/// The touched cells of one matrix in one channel of the head.
pub struct MatrixPart<'a> {
    /// All cells and their masks.
    pub sweep: &'a TouchedRows,
    /// Those of this channel.
    pub cells: &'a [TouchedRow],
    /// The rounds in which they are opened.
    pub rounds: &'a Rounds,
    /// What is multiplied in each round.
    pub work: RoundWork,
    /// Units of a channel.
    pub units: u32,
}

/// A unit that wants nothing more of its round after `place` of lot `lot`, and closes there.
struct FinishedUnit {
    lot: usize,
    place: u32,
    unit: u32,
}

impl MatrixPart<'_> {
    /// Number of rows in the unit that has most.
    pub fn fullest_unit(&self) -> u32 {
        let mut count = vec![0u32; self.units as usize];
        self.cells.iter().for_each(|c| count[self.unit(c) as usize] += 1);
        count.into_iter().max().unwrap_or(0)
    }

    fn unit(&self, cell: &TouchedRow) -> u32 {
        cell.unit % self.units
    }

    /// The units that have any cell, as a bit set.
    fn busy(&self) -> u64 {
        self.cells.iter().fold(0, |all, c| all | 1 << self.unit(c))
    }

    /// The units that leave a round before its end, in the order in which they do. Units that want the last place of all
    /// stay: closing them early would gain nothing.
    fn leavers(&self, round: Round<'_>) -> Vec<FinishedUnit> {
        if round.opening == Opening::All {
            return Vec::new();
        }
        let last = |c: &TouchedRow| {
            let (lot, place) = self.work.last(self.sweep, *c)?;
            Some(FinishedUnit { lot, place, unit: self.unit(c) })
        };
        let mut leavers: Vec<FinishedUnit> = round.cells.iter().filter_map(last).collect();
        leavers.sort_by_key(|l| (l.lot, l.place, l.unit));
        let end = leavers.last().map(|l| (l.lot, l.place));
        leavers.retain(|l| Some((l.lot, l.place)) != end);
        leavers
    }

    /// Number of probabilities that each unit needs, by query head and unit: one for each place that it multiplies.
    fn lines(&self) -> Vec<Vec<u32>> {
        let mut lines = vec![vec![0; self.units as usize]; self.sweep.heads()];
        let busy = self.busy();
        for round in self.rounds.iter() {
            let leavers = self.leavers(round);
            for (head, lines) in lines.iter_mut().enumerate() {
                let places = self.work.places(self.sweep, round.cells, head);
                let lot = head / self.work.heads_per_read;
                let take = |unit: u32| match leavers.iter().find(|l| l.unit == unit) {
                    Some(l) if l.lot < lot => 0,
                    Some(l) if l.lot == lot => places & u64::MAX >> (63 - l.place),
                    _ => places,
                };
                match round.opening {
                    // An all-bank MAC also works in units that want nothing of this row. They multiply it by zero, unless
                    // they have no row of V at all.
                    Opening::All => (0..self.units).filter(|u| busy >> u & 1 == 1).for_each(|u| {
                        lines[u as usize] += places.count_ones();
                    }),
                    Opening::Own => round.cells.iter().map(|c| self.unit(c)).for_each(|u| {
                        lines[u as usize] += take(u).count_ones();
                    }),
                }
            }
        }
        lines
    }

    /// Writes the rounds of a sweep: activations, MACs and early precharges. `enabled` is the set of units that take part in
    /// the MACs of own rows, before the call and after it.
    ///
    /// Only the last stripe of a row is cut at the places where units leave: a unit needs its row until the last of its
    /// stripes has been multiplied.
    fn multiply(&self, rows: &HeadRows, matrix: &Matrix, results: Results, enabled: &mut u64, emit: &mut Emitter<'_>) {
        let mut masks = Vec::with_capacity(self.work.heads_per_read.min(self.sweep.heads()));
        for round in self.rounds.iter() {
            let mut units = round.cells.iter().fold(0, |all: u64, c| all | 1 << self.unit(c));
            let (op, row) = match round.opening {
                Opening::All => (Op::MacAb, rows.at(matrix.id, round.cells[0].row)),
                Opening::Own => (Op::MacBg, 0),
            };
            match round.opening {
                // Opening a row in all banks closes the rows that units have open of their own.
                Opening::All => *enabled = 0,
                Opening::Own => {
                    (0..self.units).filter(|u| *enabled & !units & 1 << u != 0).for_each(|u| emit.close(u));
                    round.cells.iter().for_each(|c| emit.open(self.unit(c), rows.at(matrix.id, c.row)));
                    *enabled = units;
                }
            }
            let leavers = self.leavers(round);
            for (number, lot) in self.work.lots(self.sweep).enumerate() {
                masks.clear();
                masks.extend(lot.map(|head| self.work.places(self.sweep, round.cells, head)));
                let mut places = u64::MAX;
                (0..matrix.stripes_in_row - 1)
                    .for_each(|s| emit.stripe(op, row, (&masks, places), matrix, s, results, units));
                for l in leavers.iter().filter(|l| l.lot == number) {
                    let upto = places & u64::MAX >> (63 - l.place);
                    emit.stripe(op, row, (&masks, upto), matrix, matrix.stripes_in_row - 1, results, units);
                    emit.close(l.unit);
                    places &= !upto;
                    units &= !(1 << l.unit);
                    *enabled &= !(1 << l.unit);
                }
                emit.stripe(op, row, (&masks, places), matrix, matrix.stripes_in_row - 1, results, units);
            }
        }
    }

    /// Closes the units that are still open, which would otherwise take part in the MACs of the next sweep. They close while
    /// the results move.
    fn disable(&self, enabled: u64, emit: &mut Emitter<'_>) {
        (0..self.units).filter(|u| enabled >> u & 1 == 1).for_each(|unit| emit.close_behind(unit));
    }
}

/// Entries of probabilities that a bank group gets before it is the next one's turn. The number is small, so that a
/// controller that sees some tens of moves sees several bank groups.
const TURN: u32 = 4;

/// The scores of the selected keys.
pub fn scores(part: &MatrixPart<'_>, rows: &HeadRows, matrix: &Matrix, target: &DeviceLayout, channel: u32) -> Stage {
    let mut emit = Emitter::new(target, channel, Phase::AttendScore);
    let mut enabled = 0;
    part.multiply(rows, matrix, Results::Scores, &mut enabled, &mut emit);
    part.disable(enabled, &mut emit);
    emit.finish()
}

/// Softmax of each query head, then its probabilities to the GEMV buffers, both pseudo-channels at a time. Each unit gets
/// the probabilities of its places in V. Each of `parts` holds some of the query heads.
pub fn probabilities(parts: &[MatrixPart<'_>], target: &DeviceLayout, channel: u32) -> Vec<Stage> {
    let g = &target.geometry;
    let mut lines = parts[0].lines();
    for more in parts[1..].iter().map(MatrixPart::lines) {
        let units = lines.iter_mut().flatten().zip(more.into_iter().flatten());
        units.for_each(|(all, own)| *all += own);
    }
    let mut softmax = Emitter::new(target, channel, Phase::Softmax);
    for head in 0..lines.len() {
        let wanted =
            |p: &MatrixPart<'_>| p.cells.iter().map(|c| u64::from(p.sweep.mask(*c, head).count_ones())).sum::<u64>();
        let scores: u64 = parts.iter().map(wanted).sum();
        for at in g.softmax_addresses(scores.div_ceil(u64::from(target.shape.entry))) {
            softmax.push(Op::Sfm, at, 1, 0);
        }
    }
    let mut moves = Emitter::new(target, channel, Phase::AttendContext);
    let half = g.ranks * g.bank_groups;
    for lines in &lines {
        let most = |pair: u32| (0..g.pseudo_channels).map(|p| lines[(p * half + pair) as usize]).max().unwrap_or(0);
        let entries: Vec<u32> = (0..half).map(|pair| most(pair).div_ceil(target.shape.entry)).collect();
        // The bank groups take turns, because two moves of one bank group are further apart than two of different ones.
        let all = entries.iter().copied().max().unwrap_or(0);
        for first in (0..all).step_by(TURN as usize) {
            for (pair, entries) in (0..).zip(&entries) {
                let at = Address { rank: pair / g.bank_groups, bank_group: pair % g.bank_groups, ..Default::default() };
                moves.entries(Op::MvGb, at, first..(*entries).min(first + TURN));
            }
        }
    }
    vec![softmax.finish(), moves.finish()]
}

/// The outputs, stripe after stripe of V. The `parts` follow one another, because the units have accumulators only for the
/// query heads of one part at a time.
pub fn context(
    parts: &[MatrixPart<'_>],
    rows: &HeadRows,
    stripes: &[Matrix],
    target: &DeviceLayout,
    channel: u32,
) -> Stage {
    let mut emit = Emitter::new(target, channel, Phase::AttendContext);
    parts.iter().for_each(|part| outputs(part, rows, stripes, &mut emit));
    emit.finish()
}

fn outputs(part: &MatrixPart<'_>, rows: &HeadRows, stripes: &[Matrix], emit: &mut Emitter<'_>) {
    let mut enabled = 0;
    for (i, matrix) in stripes.iter().enumerate() {
        part.multiply(rows, matrix, Results::Outputs, &mut enabled, emit);
        if i + 1 == stripes.len() {
            part.disable(enabled, emit);
        }
        (0..matrix.stripes_in_row).for_each(|_| emit.outputs(part.sweep.wanting(), part.busy()));
    }
}
