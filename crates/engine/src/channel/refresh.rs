//! Refreshes of a channel, and the refresh policy: a seam of the controller.
//!
//! Which banks are due when, all of a channel, some, or one by one, is data ([`Refreshes`]). From when the refresh of a set
//! of banks falls due, no array work and no data request has a command for them, but what closes them for the refresh: as
//! soon as constraints allow, whatever waits for them. Other banks work on; what needs banks of several sets waits for all
//! of them. Sets are refreshed in their order; the banks of those behind close meanwhile, if they are due too. A
//! [`RefreshPolicy`] says what may go on in spite of a refresh that is due.
//!
//! To add a policy: a file beside this one with its [`RefreshPolicy`], its key in [`Scheduler`], and its line in
//! [`RefreshPolicy::of`]. Another pattern of banks and times is a value of [`Refresh`](pimattn_core::spec::system::Refresh).

use super::{Candidate, DATA, NO_REQUEST, PimChannel};
use crate::channel::Label;
use crate::probe::Probe;
use crate::state::CommandTarget;
use pimattn_core::op::Op;
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::system::Scheduler;
use pimattn_core::spec::{CommandId, Due, Refreshes, Scope};
use pimattn_core::units::Cycle;
use std::collections::VecDeque;

/// Refreshes of every bank that may be put off (JEDEC).
const MAX_POSTPONED: u64 = 8;

/// A refresh policy. Constants, resolved once for a channel; no command pays for what a policy does not use.
pub(super) struct RefreshPolicy {
    /// Whether a command may issue in banks whose refresh is due by then; none where no command may.
    works_on: Option<fn(&PimChannel<'_>, &Candidate) -> bool>,
    /// Whether each bank is closed for a refresh as soon as it can be; else all of a set at once, where a command does.
    closes_singly: bool,
}

/// A refresh is issued as soon as its banks can be closed.
const PROMPT: RefreshPolicy = RefreshPolicy { works_on: None, closes_singly: false };

/// A refresh is put off while reads and writes go on, as long as the device permits.
const POSTPONED: RefreshPolicy = RefreshPolicy { works_on: Some(may_be_put_off), closes_singly: true };

impl RefreshPolicy {
    /// The policy that a system asks for.
    pub(super) fn of(rules: &Scheduler) -> &'static RefreshPolicy {
        match rules.works_until_refresh {
            false => &PROMPT,
            true => &POSTPONED,
        }
    }
}

/// Whether a command is for a read or write (or closes an idle row), and the refresh that it holds up can be put off
/// beyond it.
fn may_be_put_off(channel: &PimChannel<'_>, c: &Candidate) -> bool {
    let works = c.class == DATA || c.class == usize::MAX;
    let last = |all: Refreshes| channel.next_refresh.map(|due| all.after(due, MAX_POSTPONED * u64::from(all.sets) - 1));
    works && channel.refreshes.and_then(last).is_some_and(|last| c.at < last.at)
}

impl PimChannel<'_> {
    /// The refreshes, from the next one on, that are due at a cycle; of each set one at most.
    fn due_until(&self, until: Cycle) -> impl Iterator<Item = (Due, Refreshes)> {
        let (next, all) = (self.next_refresh, self.refreshes);
        let of = move |n: u64| next.zip(all).map(|(due, all)| (all.after(due, n), all));
        let sets = all.map_or(0, |all| u64::from(all.sets));
        (0..sets).map_while(of).take_while(move |(due, _)| due.at <= until)
    }

    fn is_due(&self, at: Cycle) -> bool {
        self.next_refresh.is_some_and(|due| due.at <= at)
    }

    /// Whether no refresh of all banks is due by the cycle at which a command of a request could issue, or none that holds
    /// it.
    pub(super) fn comes_before_refresh(&self, c: &Candidate) -> bool {
        let of_all = self.refreshes.is_some_and(|all| all.scope == Scope::Channel);
        !of_all || !self.is_due(c.at) || self.works_on(c)
    }

    /// Whether a command comes though a refresh of its banks is due.
    fn works_on(&self, c: &Candidate) -> bool {
        self.policies.refresh.works_on.is_some_and(|works_on| works_on(self, c))
    }

    /// Whether a command of a request, at the cycle at which it could issue, is held by a refresh of some banks that is due by
    /// then.
    #[inline]
    pub(super) fn is_held(&self, c: &Candidate) -> bool {
        self.is_due(c.at)
            && self.refreshes.is_some_and(|all| all.scope != Scope::Channel)
            && self.meets_refresh(c)
            && !self.works_on(c)
    }

    fn meets_refresh(&self, c: &Candidate) -> bool {
        let meets = |(due, all): (Due, Refreshes)| {
            self.state.meets(c.command, &c.target, all.scope, &self.set_of(&all, due.turn))
        };
        self.due_until(c.at).any(meets)
    }

    fn set_of(&self, all: &Refreshes, turn: u32) -> CommandTarget {
        self.state.target(all.address(self.id, turn, &self.device.geometry))
    }

    /// The first command that refreshes could issue: the next refresh, or a closing of its banks, or of the banks of a later one
    /// that is due by then.
    pub(super) fn refresh_candidate(&self) -> Option<Candidate> {
        let next = self.next_refresh?;
        let mut best: Option<Candidate> = None;
        for (due, all) in self.due_until(Cycle::MAX) {
            if best.is_some_and(|b| b.at < due.at) {
                break;
            }
            let set = self.set_of(&all, due.turn);
            let mut consider = |command, target| {
                let c = self.of_refresh(command, target, due.at);
                if best.is_none_or(|b| c.at < b.at) {
                    best = Some(c);
                }
            };
            let open = match all.scope {
                Scope::Channel => self.state.open_banks() > 0,
                scope => self.state.any_open(scope, &set),
            };
            let one = self.device.plans[Op::Ld as usize].and_then(|plan| plan.closer);
            let closes = one.filter(|_| self.policies.refresh.closes_singly).unwrap_or(all.closer);
            let closer = self.device.commands[usize::from(closes)].scope;
            match open {
                false if due == next => consider(all.command, set),
                false => {}
                true if closer == all.scope => consider(closes, set),
                true => self.state.open_in(all.scope, &set).for_each(|bank| consider(closes, bank)),
            }
        }
        best
    }

    /// Issues the refreshes that fall due before a cycle, until which the channel has nothing to do.
    pub(super) fn refresh_until<P: Probe>(&mut self, at: Cycle, probe: &mut P) {
        while self.next_refresh.is_some_and(|due| due.at < at) {
            let Some(c) = self.refresh_candidate() else { break };
            self.issue_refresh(&c, probe);
        }
    }

    fn of_refresh(&self, command: CommandId, target: CommandTarget, due: Cycle) -> Candidate {
        let at = self.of_none(command, &target).max(due);
        Candidate { at, order: 0, class: usize::MAX, index: 0, command, target }
    }

    /// The first cycle at which a row command that belongs to no request could issue.
    pub(super) fn of_none(&self, command: CommandId, target: &CommandTarget) -> Cycle {
        self.state.earliest(command, target).max(self.bus_free[Bus::Row as usize]).max(self.now)
    }

    /// A command of a refresh, or one that closes an idle row.
    pub(super) fn issue_refresh<P: Probe>(&mut self, c: &Candidate, probe: &mut P) {
        let command = &self.device.commands[usize::from(c.command)];
        self.bus_free[Bus::Row as usize] = c.at + 1;
        self.state.issue(c.command, &c.target, c.at);
        self.now = self.now.max(c.at);
        if command.effect.refreshes() {
            self.next_refresh = self.next_refresh.zip(self.refreshes).map(|(due, all)| all.after(due, 1));
            // Waiting for requests that are still to arrive, or for work that is not over, is no livelock.
            let at_work = c.at < self.epoch_open.max(self.softmax_free);
            let waits = self.classes.iter().filter_map(VecDeque::front).any(|i| !at_work && self.arrival(i) <= c.at);
            self.fruitless += u32::from(waits);
        }
        self.rows_changed(command.scope, &c.target);
        let banks = command.scope.banks(&self.device.geometry);
        self.report(c, banks, Label::default(), None, NO_REQUEST, probe);
    }
}
