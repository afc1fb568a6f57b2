//! Look-ahead: each candidate for the next command is played to the end, and the best is taken.
//!
//! Pairs ([`super::order`]) do not see that three writes and two reads are done soonest in two turns. Where reads and
//! writes are weighed, some wait, no more than [`FEW`] requests wait in all, and no queue is full, the controller tries each command that it
//! could issue: it plays all that is left, each time by the rules for pairs, and takes that after which the last result is
//! there soonest; of those alike, that with the least sum of times. A fuller queue is not worked to its end, for more comes
//! meanwhile: there, first-ready is quicker, and reads and writes are not weighed.
//!
//! More can be tried than first-ready offers ([`PimChannel::data_candidates`]): each bank's row, and each column of an open
//! one. A row that array work is to have open in all its banks may be opened for a read or write alone.

use super::{ARRAY, Candidate, Choice, DATA, OFFERS, PASSED, PimChannel, QueueKind, QueuedRun};
use crate::state::RowMatch;
use pimattn_core::error::Result;
use pimattn_core::spec::{Effect, Scope};
use pimattn_core::units::Cycle;

/// Requests of which the next command is tried.
const FEW: u64 = 16;
/// Commands that are tried.
const TRIED: usize = 16;
/// Commands of a play: a request has four at most, but for rows that are closed again before they were of use.
const STEPS: u64 = 16 * FEW;

/// The candidates of one decision that are each played to the end.
struct Tries {
    all: [Option<Candidate>; TRIED],
    count: usize,
}

impl Tries {
    fn add(&mut self, c: Candidate) {
        let same = |o: &Candidate| (o.command, o.class, o.order) == (c.command, c.class, c.order);
        if self.count < TRIED && !self.all.iter().flatten().any(same) {
            self.all[self.count] = Some(c);
            self.count += 1;
        }
    }
}

impl PimChannel<'_> {
    /// The offer to take, or another command, and the offers that give way to it, a bit each; by pairs, these are `of_pairs`.
    #[cold]
    pub(super) fn play(
        &mut self,
        offers: &[Option<Candidate>; OFFERS],
        of_pairs: (Option<Candidate>, u8),
    ) -> Result<(Option<Candidate>, u8)> {
        let Some(first) = of_pairs.0 else { return Ok(of_pairs) };
        let mut tries = Tries { all: [None; TRIED], count: 0 };
        tries.add(first);
        offers.iter().flatten().for_each(|c| tries.add(*c));
        self.try_data(&mut tries);
        let [Some(first), others @ ..] = tries.all else { return Ok(of_pairs) };
        if tries.count < 2 {
            return Ok(of_pairs);
        }
        let now = self.without_input();
        let Some(mut least) = now.clone().outcome(&first, Cycle::MAX)? else { return Ok(of_pairs) };
        let mut best = of_pairs;
        for c in others.iter().flatten() {
            let before = |o: &Candidate| (o.at, o.order) < (c.at, c.order);
            let tired = |o: &Candidate| self.classes[o.class][o.index].passed >= PASSED;
            if offers.iter().flatten().any(|o| before(o) && tired(o)) {
                continue;
            }
            if let Some(value) = now.clone().outcome(c, least.0)?.filter(|v| *v < least) {
                let held = offers.iter().map(|o| u8::from(o.as_ref().is_some_and(before)));
                (least, best) = (value, (Some(*c), held.enumerate().map(|(place, held)| held << place).sum()));
            }
        }
        Ok(best)
    }

    /// Whether no more requests wait than can be played, and none that is yet to come is kept out.
    pub(super) fn few_wait(&self) -> bool {
        let others = [QueueKind::Openings, QueueKind::Closings, QueueKind::Macs, QueueKind::Moves]
            .map(|q| self.held[q as usize]);
        self.classes[DATA].len() as u64 + others.iter().sum::<u64>() <= FEW && self.has_room()
    }

    /// Whether it tries commands before it takes one. Requests that are still to arrive are not known.
    pub(super) fn looks_ahead(&self) -> bool {
        !self.plays && self.weighs() && !self.is_timed() && !self.classes[DATA].is_empty()
    }

    /// Commands for reads and writes: those that rows and older ones allow.
    fn try_data(&self, tries: &mut Tries) {
        let queue = &self.classes[DATA];
        for (index, item) in queue.iter().enumerate().filter(|(_, item)| self.is_in_sight(item)) {
            let rows = self.state.rows(Scope::Bank, &item.target);
            let command = match rows {
                RowMatch::Ready => Some(item.plan.last),
                RowMatch::Closed => item.plan.opener,
                RowMatch::Conflict => item.plan.closer,
            };
            let Some(command) = command else { continue };
            let needs_row = command != item.plan.last;
            let mut older = queue.iter().take(index).filter(|o| o.target.bank() == item.target.bank());
            let waits = match needs_row {
                true => older.next().is_some(),
                false => item.epoch != self.epoch || older.any(|o| o.request.addr == item.request.addr),
            };
            let keeps_row = || rows == RowMatch::Conflict && self.keeps_row(item, index);
            if waits || keeps_row() || self.array_keeps(item, needs_row, rows) {
                continue;
            }
            let c = self.candidate(DATA, index, command, item.target);
            if !self.is_held(&c) && self.comes_before_refresh(&c) {
                tries.add(c);
            }
        }
    }

    /// Whether older array work keeps the bank of a read or write from a command; not from one that opens the row of both.
    fn array_keeps(&self, item: &QueuedRun, needs_row: bool, rows: RowMatch) -> bool {
        let bank = self.bank_set(Scope::Bank, &item.target);
        let older = self.classes[ARRAY].iter().take_while(|a| a.order < item.order);
        let keeps = |a: &QueuedRun| match needs_row {
            true => rows != RowMatch::Closed || a.effect != Effect::Mac || self.needs_other_row(a, &item.target),
            false => a.passed >= PASSED && self.needs_other_row(a, &item.target),
        };
        older.filter(|a| a.banks & bank != 0).any(keeps)
    }

    /// A copy that has nothing to come.
    fn without_input(&mut self) -> Self {
        let input = std::mem::take(&mut self.input);
        let copy = PimChannel { plays: true, input_ended: true, ..self.clone() };
        self.input = input;
        copy
    }

    /// Plays a command, and then all that waits: when the last result is there, and the sum of the times at which requests
    /// have their last commands. None if that is later than `most`, or does not end.
    fn outcome(mut self, first: &Candidate, most: Cycle) -> Result<Option<(Cycle, Cycle)>> {
        let mut next = *first;
        let mut sum = 0;
        for _ in 0..STEPS {
            let item = self.classes.get(next.class).map(|queue| &queue[next.index]);
            sum += if item.is_some_and(|i| i.plan.last == next.command) { next.at } else { 0 };
            self.issue(&next, &mut ());
            if self.worked > most {
                return Ok(None);
            }
            loop {
                while self.next_epoch(&mut ()) {}
                match self.choose(&mut ())? {
                    Choice::Completed => {}
                    Choice::Issue(c) => break next = c,
                    Choice::Nothing => return Ok(Some((self.worked, sum))),
                }
            }
        }
        Ok(None)
    }
}
