//! Data requests of a channel: reads and writes, first-ready, first-come, in turns.
//!
//! Where they take turns, each kind has a queue of its own, so that writes below the mark do not keep reads out. Requests
//! come in order: one whose queue is full keeps those behind it out, of either kind.
//!
//! A read of a column that an older write is to bring waits for it, and the write goes with the reads then; or the read gets
//! its data from the queue ([`Scheduler::forward`]). Other rules of [`Scheduler`] are those in which published
//! controllers differ.

use super::{ARRAY, Candidate, DATA, KINDS, PASSED, PimChannel, QueueKind, QueuedRun};
use crate::replay_cache::rebase::Rebase;
use crate::state::RowMatch;
use pimattn_core::spec::system::{Scheduler, WriteDrain};
use pimattn_core::spec::{Effect, Scope, System};
use pimattn_core::units::Cycle;

/// Reads and writes in turns.
#[derive(Clone, PartialEq)]
pub(super) struct Turns {
    /// Writes waiting at which they go first, and at which reads do again.
    pub(super) high: u64,
    pub(super) low: u64,
    /// Whether it is the writes' turn.
    pub(super) writes: bool,
}

impl Turns {
    /// Reads first, with the marks as shares of the writes' queue.
    fn new(writes: &WriteDrain) -> Self {
        let share = |part: f64| (part * f64::from(writes.depth)).round() as u64;
        Turns { high: share(writes.high).max(1), low: share(writes.low), writes: false }
    }
}

/// The state of the schedule of reads and writes, besides their queues.
#[derive(Clone, PartialEq)]
pub struct DataSchedule {
    pub(super) rules: Scheduler,
    pub(super) turns: Option<Turns>,
    /// Banks of the channel.
    pub(super) banks: u32,
    /// The bank of the last command.
    pub(super) last_bank: u32,
    /// By bank, requests in its own queue; where banks have one. They are first in the channel's queue, in the order in
    /// which they came to their banks.
    pub(super) banked: Vec<u32>,
    /// Requests in the banks' queues.
    pub(super) in_banks: usize,
    /// Writes that are to move to their banks before reads do again.
    pub(super) draining: u64,
    /// Reads that wait for nothing but to be told the data of a write.
    pub(super) forwards: u32,
    /// The last clock in which a request moved to its bank's queue, and how many did; where so many do in a clock.
    pub(super) fed: (Cycle, u32),
    /// When the last data command came, which bus it took, and whether the bank that comes next is still to be asked; where
    /// it can lose its turn.
    pub(super) asks: Option<(Cycle, usize, bool)>,
}

impl DataSchedule {
    /// At the beginning.
    pub fn new(system: &System) -> Self {
        let rules = system.scheduler;
        let banks = system.device.geometry.banks_per_channel();
        let by_bank = |used: bool| vec![0; if used { banks as usize } else { 0 }];
        DataSchedule {
            rules,
            turns: system.writes.map(|w| Turns::new(&w)),
            banks,
            last_bank: banks - 1,
            banked: by_bank(rules.bank_depth.is_some()),
            in_banks: 0,
            draining: 0,
            forwards: 0,
            fed: (0, 0),
            asks: None,
        }
    }

    /// The rules.
    pub fn rules(&self) -> &Scheduler {
        &self.rules
    }

    /// A cycle before which nothing comes of what entered since the last command: it took the places of those that moved.
    #[inline]
    pub fn entered(&self) -> Cycle {
        if self.fed.1 > 0 { self.fed.0 + 1 } else { 0 }
    }

    /// Moves all times, for the replay cache.
    pub(crate) fn rebase(&mut self, rebase: &Rebase<'_>) {
        // How many moved matters within the same clock only.
        rebase.bound(&mut self.fed.0);
        self.fed.1 = if self.fed.0 == 0 { 0 } else { self.fed.1 };
        if let Some((at, ..)) = &mut self.asks {
            rebase.bound(at);
        }
    }

    /// Whether reads and writes have a queue each.
    pub fn in_turns(&self) -> bool {
        self.turns.is_some()
    }

    /// Whether row and column commands share a bus.
    pub fn one_bus(&self) -> bool {
        self.rules.one_bus
    }
}

/// How far a read or write has come, and what it waits for besides a command.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Wait {
    /// A row was opened for it.
    pub(super) opened: bool,
    /// The request is in its bank's queue.
    pub(super) banked: bool,
    /// A younger read waits for it.
    pub(super) wanted: bool,
    /// The read gets its data from an older write that waits.
    pub(super) forwarded: bool,
    /// The read gets its data from an older read that waits.
    pub(super) merged: bool,
}

impl Wait {
    /// Whether it takes a place in its queue.
    pub(super) fn is_held(self, rules: &Scheduler) -> bool {
        !(self.banked || self.merged || self.opened && rules.opened_leave)
    }
}

impl PimChannel<'_> {
    /// A read or write enters its queue: the last of them.
    pub(super) fn data_enters(&mut self) {
        let Some((item, older)) = self.classes[DATA].make_contiguous().split_last_mut() else { return };
        let rules = &self.schedule.rules;
        let read = item.effect == Effect::Read;
        if read && self.schedule.turns.is_some() {
            let brings = |o: &&mut QueuedRun| o.effect == Effect::Write && o.request.addr == item.request.addr;
            // A write of an earlier epoch is over when this epoch opens.
            if let Some(write) = older.iter_mut().rev().find(brings).filter(|w| w.epoch == item.epoch) {
                item.data.forwarded = rules.forward;
                self.schedule.forwards += u32::from(rules.forward);
                write.data.wanted |= !rules.forward;
            }
        }
        let asked =
            |o: &QueuedRun| o.effect == Effect::Read && o.request.addr == item.request.addr && o.epoch == item.epoch;
        item.data.merged = rules.merge && read && !item.data.forwarded && older.iter().any(asked);
        let held = item.data.is_held(rules);
        self.held[QueueKind::of(item.effect, self.schedule.turns.is_some()) as usize] += u64::from(held);
        self.feed_banks();
    }

    /// A row was opened for a read or write.
    pub(super) fn data_opened(&mut self, index: usize) {
        let item = &mut self.classes[DATA][index];
        let (before, effect, bank) = (item.data, item.effect, item.target.bank() as usize);
        item.data.opened = true;
        let left = before.is_held(&self.schedule.rules) && !item.data.is_held(&self.schedule.rules);
        self.held[QueueKind::of(effect, self.schedule.in_turns()) as usize] -= u64::from(left);
        self.row_use.opens(bank);
    }

    /// A read or write leaves its queue.
    pub(super) fn data_leaves(&mut self, index: usize) {
        let item = &self.classes[DATA][index];
        let (data, effect, bank) = (item.data, item.effect, item.target.bank());
        let queue = QueueKind::of(effect, self.schedule.in_turns()) as usize;
        self.row_use.accessed(bank as usize);
        self.schedule.forwards -= u32::from(data.forwarded);
        self.held[queue] -= u64::from(data.is_held(&self.schedule.rules));
        if data.banked {
            self.schedule.banked[bank as usize] -= 1;
            self.schedule.in_banks -= 1;
        }
    }

    /// A command for a read or write was issued.
    pub(super) fn data_issued(&mut self, c: &Candidate) {
        self.schedule.last_bank = self.classes[DATA][c.index].target.bank();
        if self.schedule.rules.loses_turn {
            let bus = self.bus(self.device.commands[usize::from(c.command)].bus);
            let first = self.schedule.asks.is_none_or(|(last, ..)| last != c.at);
            self.schedule.asks = Some((c.at, bus, first));
        }
    }

    /// A read that gets what another one brought, now that it has it.
    pub(super) fn merged(&self, addr: u64) -> Option<usize> {
        let gets = |i: &QueuedRun| i.data.merged && i.request.addr == addr && i.epoch == self.epoch;
        if self.schedule.rules.merge { self.classes[DATA].iter().position(gets) } else { None }
    }

    /// A read of this epoch that gets its data from a waiting write, and when.
    pub(super) fn forwarded(&self) -> Option<(usize, Cycle)> {
        if self.schedule.forwards == 0 {
            return None;
        }
        let of_now = |i: &QueuedRun| i.data.forwarded && i.epoch == self.epoch;
        let index = self.classes[DATA].iter().position(of_now)?;
        let at = self.now.max(self.schedule.entered()).max(self.epoch_open);
        Some((index, at.max(self.arrival(&self.classes[DATA][index])) + 1))
    }

    /// The next data command: of those whose turn it is, if reads and writes take turns and one of them can proceed.
    pub(super) fn data_candidates(&mut self) -> [Option<Candidate>; KINDS] {
        self.lose_turn();
        if self.schedule.rules.bank_depth.is_some() {
            self.feed_banks();
            return self.first_ready(None);
        }
        let Some(turn) = self.turn() else { return self.first_ready(None) };
        let other = if turn == Effect::Read { Effect::Write } else { Effect::Read };
        let of_turn = self.first_ready(Some(turn));
        if of_turn.iter().any(Option::is_some) { of_turn } else { self.first_ready(Some(other)) }
    }

    /// Whether reads or writes have their turn, by the requests that wait now; none where they take no turns.
    fn turn(&mut self) -> Option<Effect> {
        let turns = self.schedule.turns.as_ref()?;
        let queue = &self.classes[DATA];
        let now = queue.front().map_or(0, |first| self.arrival(first)).max(self.last[DATA]);
        let (mut reads, mut writes) = (0, 0);
        for item in queue.iter().take_while(|i| i.epoch == self.epoch && self.arrival(i) <= now) {
            if !(item.data.opened && self.schedule.rules.opened_leave) {
                *(if item.effect == Effect::Read { &mut reads } else { &mut writes }) += 1;
            }
        }
        let writes_first = match turns.writes {
            true => writes > 0 && (reads == 0 || writes > turns.low),
            false => writes > 0 && (reads == 0 || writes >= turns.high),
        };
        if let Some(turns) = &mut self.schedule.turns {
            turns.writes = writes_first;
        }
        Some(if writes_first { Effect::Write } else { Effect::Read })
    }

    /// First-ready, first-come among the data requests in sight, or those of one kind and what goes with them; where the
    /// controller weighs reads and writes against each other ([`PimChannel::weighs`]), the first of each kind and need. A row
    /// command only for the oldest request of its kind and bank (see [`super::row_policy`]), and ahead of its epoch only for the oldest
    /// of all; nothing past an older request to the same column.
    pub(super) fn first_ready(&self, kind: Option<Effect>) -> [Option<Candidate>; KINDS] {
        let queue = &self.classes[DATA];
        let rules = &self.schedule.rules;
        let of_kind =
            |i: &QueuedRun| kind.is_none_or(|k| i.effect == k) || i.data.wanted || rules.opened_leave && i.data.opened;
        // Where the oldest goes first of those that can issue in the same cycle, a younger one has to be sooner to be better.
        let by_age = self.policies.order.rank.is_none() && !rules.opened_leave && !rules.one_bus;
        let weighs = self.weighs();
        let mut all: [Option<(Candidate, (u32, u32))>; KINDS] = [None; KINDS];
        // The commands for which nothing before the best is to be had.
        let mut hopeless = [0u64; 2];
        // Banks of older requests of this kind, and of any; more than 128 share bits.
        let (mut banks, mut banks_of_all) = (0u128, 0u128);
        // Banks, of the first 128, where an older request could read, or write, as soon.
        let mut tried = [0u128; 2];
        for (index, item) in queue.iter().enumerate() {
            let bit = 1 << (item.target.bank() % 128);
            let any_in_bank = banks_of_all & bit != 0;
            banks_of_all |= bit;
            if !of_kind(item) || !self.is_in_sight(item) {
                continue;
            }
            let older = || queue.iter().take(index).filter(|o| o.target.bank() == item.target.bank());
            let same_bank = banks & bit != 0;
            banks |= bit;
            let rows = self.state.rows(Scope::Bank, &item.target);
            let needs = match rows {
                RowMatch::Ready => Some(item.plan.last),
                RowMatch::Closed => item.plan.opener,
                RowMatch::Conflict => item.plan.closer,
            };
            let Some(command) = needs else { continue };
            let needs_row = command != item.plan.last;
            let ahead = item.epoch != self.epoch;
            if ahead && (!needs_row || any_in_bank) {
                continue;
            }
            let row_is_anothers = || {
                let closes = rows == RowMatch::Conflict;
                let oldest_only = !closes || self.policies.rows.oldest_closes;
                oldest_only && same_bank && older().any(of_kind) || closes && self.keeps_row(item, index)
            };
            let tried = &mut tried[usize::from(item.effect == Effect::Write)];
            let as_soon = !needs_row && *tried & bit != 0 && item.target.bank() < 128;
            let slot = if weighs { usize::from(item.effect == Effect::Write) + 2 * usize::from(needs_row) } else { 0 };
            let mut best = all[slot];
            let rows_behind = |item: &QueuedRun| self.rows_behind(item, &item.target);
            let deeper = weighs && best.is_some_and(|(b, _)| rows_behind(item) > rows_behind(&queue[b.index]));
            let hopeless = &mut hopeless[usize::from(weighs && item.effect == Effect::Write)];
            if *hopeless & 1 << command != 0 && best.is_some() && !deeper || as_soon || needs_row && row_is_anothers() {
                continue;
            }
            if self.array_holds(item, needs_row) {
                continue;
            }
            let wide = if needs_row { self.wider(item, self.bank_set(Scope::Bank, &item.target)) } else { None };
            let (command, target) = match wide {
                None => (command, item.target),
                Some(mac) => match self.state.rows(mac.scope, &mac.target) {
                    RowMatch::Closed => (mac.opener().unwrap_or(command), mac.target),
                    _ => (mac.plan.closer.unwrap_or(command), mac.target),
                },
            };
            let c = self.candidate(DATA, index, command, target);
            if self.is_held(&c) {
                continue;
            }
            let place = if by_age { (0, 0) } else { self.place(item, rows) };
            let better = best.is_none_or(|(b, p)| match weighs && rows_behind(item) != rows_behind(&queue[b.index]) {
                true => self.goes_before(&c, &b),
                false => (c.at, place) < (b.at, p),
            });
            if better && older().any(|o| o.request.addr == item.request.addr) {
                continue;
            }
            *tried |= if needs_row { 0 } else { bit };
            if better {
                best = Some((c, place));
                all[slot] = best;
            }
            let soonest = || self.soonest(command, DATA);
            if best.is_some_and(|(b, _)| if by_age { soonest() >= b.at } else { soonest() > b.at }) {
                *hopeless |= 1 << command;
            }
        }
        all.map(|best| best.map(|(c, _)| c))
    }

    /// Whether older array work needs the bank of a data request: at all, or at another row and has been passed by often.
    pub(super) fn array_holds(&self, item: &QueuedRun, at_all: bool) -> bool {
        let bank = self.bank_set(Scope::Bank, &item.target);
        let older = self.classes[ARRAY].iter().take_while(|a| a.order < item.order);
        let holds = |a: &QueuedRun| at_all || a.passed >= PASSED && self.needs_other_row(a, &item.target);
        older.filter(|a| a.banks & bank != 0).any(holds)
    }

    /// Whether reads and writes are weighed against each other, as all other commands are ([`super::order`]).
    pub(super) fn weighs(&self) -> bool {
        self.policies.order.weighs && self.few_wait()
    }

    /// Whether the controller looks at a request: not at those that wait for another one, or for a place in their bank's
    /// queue.
    pub(super) fn is_in_sight(&self, item: &QueuedRun) -> bool {
        let waits = item.data.merged || item.data.forwarded;
        !waits && (self.schedule.rules.bank_depth.is_none() || item.data.banked)
    }
}
