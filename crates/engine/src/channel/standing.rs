//! What a look along the queue of array work found, as long as it stands.
//!
//! A look ([`PimChannel::array_candidates`]) depends on what is in the queue and on which rows are open. Most commands change
//! neither: a MAC of a run leaves the run where it is, a buffer move touches no bank. After such a command the same MAC is
//! the next one, and no row command can issue sooner than the soonest of those that the look considered, for what a
//! command issues holds others back and hastens none. So the look is left out where a candidate comes before all row
//! commands by more than it could hold any of them back ([`PimChannel::is_clear_of_rows`]); where it does not, the queue is looked
//! through again.
//!
//! Whatever changes the queue or a row ends it ([`PimChannel::rows_changed`]). Two changes are followed instead, because they are as
//! frequent as MACs: a request is added behind others that keep its banks, and a run of MACs is followed by another one in
//! the same banks.
//!
//! The plain engine does without ([`PimChannel::chooses_each`]). A look stands only while no read or write that waits can have a command
//! ([`PimChannel::standing_data`]), and where no row closes by itself.

use super::array::BankSet;
use super::{ARRAY, Candidate, DATA, KINDS, OFFERS, PimChannel, QueuedRun};
use crate::state::members;
use pimattn_core::spec::{Effect, Scope};
use pimattn_core::units::Cycle;

/// What a look found.
#[derive(Clone, Copy, Default)]
pub(super) struct Standing {
    /// Whether the queue and the rows are still as the look found them.
    pub(super) valid: bool,
    /// The MAC that comes next, once its epoch is open.
    pub(super) column: Option<usize>,
    /// The cycle before which no row command can issue.
    pub(super) rows_from: Cycle,
    /// The cycle before which no buffer move can, as of the last choice.
    pub(super) moves_from: Cycle,
    /// Banks that the queue keeps, bank groups that its requests of bank groups work in, and whether it has a MAC.
    pub(super) used: BankSet,
    pub(super) units: u64,
    pub(super) macs: bool,
}

impl PimChannel<'_> {
    /// Whether what the last look found may be used.
    #[inline]
    pub(super) fn look_stands(&self) -> bool {
        self.standing.valid && !self.plain && self.policies.rows.closes_alone.is_none()
    }

    /// Whether a look stands beside the reads and writes that wait, of which these commands were offered: if none has one, nor will
    /// before rows or the queue change. They are of later epochs then, and array work before them keeps their banks. Nor does the
    /// next MAC pass one by.
    pub(super) fn standing_data(&mut self, offers: &[Option<Candidate>; KINDS]) {
        let rules = self.schedule.rules();
        let plain_rules = rules.bank_depth.is_none() && !rules.loses_turn && !self.policies.order.weighs;
        let whole = self.refreshes.is_none_or(|all| all.scope == Scope::Channel);
        let of_later = |d: &QueuedRun| d.epoch > self.epoch;
        let behind = |d: &QueuedRun| self.standing.column.is_none_or(|i| self.classes[ARRAY][i].order < d.order);
        let waits = self.classes[DATA].front().is_none_or(|d| of_later(d) && behind(d));
        self.standing.valid &= plain_rules && whole && waits && offers.iter().all(Option::is_none);
    }

    /// The candidate that a look would offer as the next column command.
    #[inline]
    pub(super) fn standing_column(&mut self) -> Option<Candidate> {
        let index = self.standing.column?;
        let item = &self.classes[ARRAY][index];
        if item.epoch != self.epoch {
            return None;
        }
        let c = self.candidate(ARRAY, index, item.plan.last, item.target.in_units(item.units));
        self.classes[ARRAY][index].not_before = c.at;
        (!self.is_held(&c)).then_some(c)
    }

    /// The next command, where a look stands and distances between commands settle it: the first that can issue holds no other one
    /// back, and neither a row command nor a refresh comes before it. None where it takes a closer look.
    pub(super) fn settled(&mut self) -> Option<Candidate> {
        let mut offers = [None; OFFERS];
        self.move_candidates(&mut offers);
        offers[1] = match (self.standing.column, offers[2]) {
            // The MAC comes later than the move could hold it back.
            (Some(index), Some(first)) if offers[3].is_none() => {
                let mac = &self.classes[ARRAY][index];
                match mac.not_before > first.at + self.order_of.most(first.command, mac.plan.last) {
                    true => None,
                    false => self.standing_column(),
                }
            }
            _ => self.standing_column(),
        };
        offers[1] = offers[1].filter(|c| self.comes_before_refresh(c));
        let others = || offers[1..4].iter().flatten();
        let first = *others().min_by_key(|c| (c.at, c.order))?;
        let held_back = |other: &Candidate| {
            other.order != first.order && first.at + self.order_of.most(first.command, other.command) > other.at
        };
        let refreshes = self.next_refresh.is_some_and(|due| first.at >= due.at);
        if others().any(held_back) || refreshes || !self.is_clear_of_rows(&first) || self.looks_ahead() {
            return None;
        }
        self.standing.moves_from = offers[2..4].iter().flatten().map(|c| c.at).min().unwrap_or(Cycle::MAX);
        Some(first)
    }

    /// Whether no row command of array work comes before the last command of a request, nor would be held back by it.
    #[inline]
    pub(super) fn is_clear_of_rows(&self, c: &Candidate) -> bool {
        c.at < self.standing.rows_from && c.at + self.order_of.holds_rows(c.command) <= self.standing.rows_from
    }

    /// Follows a request that is added to the queue of array work.
    pub(super) fn standing_takes(&mut self, item: &QueuedRun) {
        let Standing { valid, used, units, macs, .. } = self.standing;
        // A look ends where all banks are kept.
        if !valid || used == BankSet::MAX {
            return;
        }
        let joins = match item.effect {
            Effect::MacOpen if macs && item.units & !units == 0 => return,
            Effect::MacOpen => {
                let waiting = item.units & !self.units.ready();
                let kept = |unit| used & self.bank_set(Scope::BankGroup, &self.unit_target(unit, 0)) != 0;
                (waiting != 0 || macs) && members(waiting & !units).all(kept)
            }
            _ => used & item.banks != 0,
        };
        let macs = macs || item.effect.multiplies();
        self.standing =
            Standing { valid: joins, used: used | item.banks, units: units | item.units, macs, ..self.standing };
    }

    /// Follows the removal of a request from the queue of array work: another run of the same MACs takes its place, or a look is
    /// due.
    pub(super) fn standing_leaves(&mut self, index: usize, item: &QueuedRun) {
        let same = |next: &QueuedRun| match item.effect {
            Effect::MacOpen => (next.units, next.banks) == (item.units, item.banks),
            Effect::Mac => {
                let rows = next.target.address.row == item.target.address.row;
                item.banks == BankSet::MAX && next.scope == item.scope && item.scope == Scope::Channel && rows
            }
            _ => false,
        };
        // Behind reads and writes it would keep banks from them no more.
        let before_data = |next: &QueuedRun| self.classes[DATA].front().is_none_or(|d| next.order < d.order);
        let next = self.classes[ARRAY].get(index).filter(|next| next.effect == item.effect);
        self.standing.valid &= self.standing.column == Some(index) && next.is_some_and(|n| same(n) && before_data(n));
    }
}
