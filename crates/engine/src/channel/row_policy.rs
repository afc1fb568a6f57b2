//! The row policy of reads and writes: a seam of the controller. It says how long a row stays open, and who may close it.
//!
//! A request that needs another row in its bank has the open one closed, once the policy lets it: [`RowPolicy::keeps`].
//! [`RowPolicy::closes_alone`] closes a row that no request asks to be closed. Refreshes ([`super::refresh`]) and array work
//! ([`super::array`]) close what they must, whatever the policy.
//!
//! To add a policy (closed page, a timeout): a file beside this one with its [`RowPolicy`], its keys in [`Scheduler`], and
//! its line in [`RowPolicy::of`]. What a policy has to remember of rows belongs to [`RowUse`]; where that has times, it is
//! to be moved by `rebase` of the channel (`Cacheable`) with all other times.

use super::array::BankSet;
use super::queues::QueuedRun;
use super::{Candidate, DATA, PimChannel};
use crate::state::{CommandTarget, RowMatch};
use pimattn_core::op::Op;
use pimattn_core::spec::system::{Closes, Scheduler};
use pimattn_core::spec::{Device, Scope};
use pimattn_core::units::Cycle;
use std::collections::VecDeque;

/// A row policy. Constants, resolved once for a channel; no command pays for what a policy does not use.
pub(super) struct RowPolicy {
    /// Whether only the oldest request of a bank may have a row closed.
    pub(super) oldest_closes: bool,
    /// Whether the open row of a request's bank stays open for others, though the request (with its place in the queue)
    /// needs another row.
    keeps: fn(&PimChannel<'_>, &QueuedRun, usize) -> bool,
    /// The command that closes a row for no request, if it comes before a cycle; none where only requests and refreshes
    /// close rows.
    pub(super) closes_alone: Option<fn(&PimChannel<'_>, Cycle) -> Option<Candidate>>,
}

/// Open page: a row stays open until the oldest request of its bank needs another one, and longer where a share of hits
/// is guaranteed.
const OPEN: RowPolicy = RowPolicy { oldest_closes: true, keeps: hits_remain, closes_alone: None };

/// A row stays open until any request of its bank needs another one, but for the request that it was opened for.
const FIRST_READY: RowPolicy = RowPolicy { oldest_closes: false, keeps: is_awaited, closes_alone: None };

/// As [`OPEN`], but that idle rows are closed.
const OPEN_UNTIL_IDLE: RowPolicy = RowPolicy { closes_alone: Some(idle_row), ..OPEN };

/// As [`FIRST_READY`], but that idle rows are closed.
const FIRST_READY_UNTIL_IDLE: RowPolicy = RowPolicy { closes_alone: Some(idle_row), ..FIRST_READY };

impl RowPolicy {
    /// The policy that a system asks for.
    pub(super) fn of(rules: &Scheduler) -> &'static RowPolicy {
        match (rules.closes, rules.closes_idle) {
            (Closes::Oldest, false) => &OPEN,
            (Closes::Oldest, true) => &OPEN_UNTIL_IDLE,
            (Closes::FirstReady, false) => &FIRST_READY,
            (Closes::FirstReady, true) => &FIRST_READY_UNTIL_IDLE,
        }
    }
}

/// The memory of row policies, as far as the system's has a use for it.
#[derive(Clone, PartialEq)]
pub(super) struct RowUse {
    /// By bank, accesses since its row was opened; where a share of hits is guaranteed.
    accesses: Vec<u32>,
    /// Banks whose rows were opened for reads and writes, whether they are still open or not; where idle ones close.
    opened: BankSet,
}

impl RowUse {
    /// No row was opened yet.
    pub(super) fn new(device: &Device, rules: &Scheduler) -> Self {
        let banks = if rules.row_hits.is_some() { device.geometry.banks_per_channel() } else { 0 };
        RowUse { accesses: vec![0; banks as usize], opened: 0 }
    }

    /// A row was opened for a read or write of a bank.
    pub(super) fn opens(&mut self, bank: usize) {
        if let Some(n) = self.accesses.get_mut(bank) {
            *n = 0;
        }
    }

    /// A read or write of a bank is done.
    pub(super) fn accessed(&mut self, bank: usize) {
        if let Some(n) = self.accesses.get_mut(bank) {
            *n = n.saturating_add(1);
        }
    }
}

impl PimChannel<'_> {
    /// Whether the policy keeps the open row of a request's bank from being closed for it.
    #[inline]
    pub(super) fn keeps_row(&self, item: &QueuedRun, index: usize) -> bool {
        (self.policies.rows.keeps)(self, item, index)
    }

    /// Takes down whose row a command opened, where the policy closes rows by itself.
    pub(super) fn row_opened(&mut self, c: &Candidate) {
        if self.policies.rows.closes_alone.is_some() {
            let scope = self.device.commands[usize::from(c.command)].scope;
            let of_data = c.class == DATA && scope == Scope::Bank;
            let bank = self.bank_set(Scope::Bank, &c.target);
            self.row_use.opened = if of_data { self.row_use.opened | bank } else { 0 };
        }
    }
}

/// Whether a request waits for which the row of the bank was opened.
fn is_awaited(channel: &PimChannel<'_>, item: &QueuedRun, _: usize) -> bool {
    let awaits = |o: &QueuedRun| o.data.opened && channel.state.rows(Scope::Bank, &o.target) == RowMatch::Ready;
    channel.classes[DATA].iter().any(|o| o.target.bank() == item.target.bank() && awaits(o))
}

/// Whether the row of the bank has had less than its share of hits, and younger requests would still hit it.
fn hits_remain(channel: &PimChannel<'_>, item: &QueuedRun, index: usize) -> bool {
    let bank = item.target.bank();
    let few = |limit: u32| channel.row_use.accesses.get(bank as usize).is_some_and(|n| *n < limit);
    let hits = |o: &QueuedRun| o.target.bank() == bank && channel.state.rows(Scope::Bank, &o.target) == RowMatch::Ready;
    channel.schedule.rules().row_hits.is_some_and(few)
        && channel.classes[DATA].iter().skip(index + 1).any(|o| channel.is_in_sight(o) && hits(o))
}

/// The command that closes a row which was opened for a read or write and which no request waits for.
fn idle_row(channel: &PimChannel<'_>, before: Cycle) -> Option<Candidate> {
    let command = channel.device.plans[Op::Ld as usize]?.closer?;
    let any = channel.classes.iter().find_map(VecDeque::front)?;
    let of_bank = |bank: CommandTarget| {
        let at = channel.of_none(command, &bank).max(channel.schedule.entered());
        let bit = channel.bank_set(Scope::Bank, &bank);
        let needs_command = |i: &QueuedRun| !i.data.merged && !i.data.forwarded;
        let waits = |i: &QueuedRun| i.target.bank() == bank.bank() && channel.arrival(i) <= at && needs_command(i);
        let idle = channel.row_use.opened & bit != 0
            && !channel.classes[DATA].iter().any(waits)
            && !channel.classes[super::ARRAY].iter().any(|a| a.banks & bit != 0);
        idle.then_some(Candidate { at, order: 0, class: usize::MAX, index: 0, command, target: bank })
    };
    let first = channel.state.open_in(Scope::Channel, &any.target).filter_map(of_bank).min_by_key(|c| c.at)?;
    let comes = first.at < before && channel.comes_before_refresh(&first) && !channel.is_held(&first);
    comes.then_some(first)
}
