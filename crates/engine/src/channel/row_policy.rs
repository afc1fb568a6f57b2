//! The row policy of data: how long a row stays open, and who may close it.

use super::queues::Item;
use super::{ARRAY, Candidate, Channel, DATA, PASSED};
use crate::state::{Rows, Target};
use pimattn_core::op::Op;
use pimattn_core::spec::Scope;
use pimattn_core::spec::system::Closes;
use pimattn_core::units::Cycle;
use std::collections::VecDeque;

impl Channel<'_> {
    /// A row was opened by a command: whose it is, where idle ones close.
    pub(super) fn row_opened(&mut self, c: &Candidate) {
        if self.schedule.rules.closes_idle {
            let scope = self.device.commands[usize::from(c.command)].scope;
            let of_data = c.class == DATA && scope == Scope::Bank;
            let bank = self.bank_set(Scope::Bank, &c.target);
            self.schedule.opened = if of_data { self.schedule.opened | bank } else { 0 };
        }
    }

    /// Whether others keep the row of the bank open, whoever wants to close it.
    pub(super) fn row_waits(&self, item: &Item, index: usize) -> bool {
        match self.schedule.rules.closes {
            Closes::FirstReady => self.row_is_awaited(item),
            Closes::Oldest => self.row_is_kept(item, index),
        }
    }

    /// Whether a request waits for which the row of the bank was opened.
    pub(super) fn row_is_awaited(&self, item: &Item) -> bool {
        let awaits = |o: &Item| o.data.opened && self.state.rows(Scope::Bank, &o.target) == Rows::Ready;
        self.classes[DATA].iter().any(|o| o.target.bank() == item.target.bank() && awaits(o))
    }

    /// Whether the row of the bank stays open for younger requests that hit it.
    pub(super) fn row_is_kept(&self, item: &Item, index: usize) -> bool {
        let bank = item.target.bank();
        let few = |limit: u32| self.schedule.accesses.get(bank as usize).is_some_and(|n| *n < limit);
        let hits = |o: &Item| o.target.bank() == bank && self.state.rows(Scope::Bank, &o.target) == Rows::Ready;
        self.schedule.rules.row_hits.is_some_and(few)
            && self.classes[DATA].iter().skip(index + 1).any(|o| self.is_in_sight(o) && hits(o))
    }

    /// Whether older array work needs the bank of a data request: at all, or at another row and has been passed by often.
    pub(super) fn array_holds(&self, item: &Item, at_all: bool) -> bool {
        let bank = self.bank_set(Scope::Bank, &item.target);
        let older = self.classes[ARRAY].iter().take_while(|a| a.order < item.order);
        let holds = |a: &Item| at_all || a.passed >= PASSED && self.needs_other_row(a, &item.target);
        older.filter(|a| a.banks & bank != 0).any(holds)
    }

    /// What closes a row that was opened for a read or write and that nothing waits for, if that comes before a cycle.
    pub(super) fn idle_closing(&self, before: Cycle) -> Option<Candidate> {
        let command = self.device.plans[Op::Ld as usize]?.closer.filter(|_| self.schedule.rules.closes_idle)?;
        let any = self.classes.iter().find_map(VecDeque::front)?;
        let of_bank = |bank: Target| {
            let at = self.of_none(command, &bank).max(self.schedule.entered());
            let bit = self.bank_set(Scope::Bank, &bank);
            let needs_command = |i: &Item| !i.data.merged && !i.data.forwarded;
            let waits = |i: &Item| i.target.bank() == bank.bank() && self.arrival(i) <= at && needs_command(i);
            let idle = self.schedule.opened & bit != 0
                && !self.classes[DATA].iter().any(waits)
                && !self.classes[ARRAY].iter().any(|a| a.banks & bit != 0);
            idle.then_some(Candidate { at, order: 0, class: usize::MAX, index: 0, command, target: bank })
        };
        let first = self.state.open_in(Scope::Channel, &any.target).filter_map(of_bank).min_by_key(|c| c.at)?;
        (first.at < before && self.comes_before_refresh(&first) && !self.is_held(&first)).then_some(first)
    }
}
