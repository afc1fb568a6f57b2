//! The requests that wait in a channel, sorted into queues and epochs as they are taken in.

use super::array::BankSet;
use super::data::Wait;
use super::{ARRAY, DATA, EPOCHS, PimChannel};
use crate::probe::{Opener, Probe, RowOutcome};
use crate::segments::Label;
use crate::state::CommandTarget;
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::{CommandId, Effect, Plan, Scope};
use pimattn_core::units::Cycle;
use pimattn_trace::{Record, Request};

/// A request that waits, or a run of them that is served one after the other: the fields are those of its current request.
#[derive(Clone)]
pub(super) struct QueuedRun {
    pub(super) request: Request,
    pub(super) plan: Plan,
    pub(super) effect: Effect,
    pub(super) scope: Scope,
    pub(super) target: CommandTarget,
    /// Banks that it uses.
    pub(super) banks: BankSet,
    /// Bank groups that a PIM_MAC_BG works in.
    pub(super) units: u64,
    pub(super) epoch: u32,
    pub(super) label: Label,
    pub(super) order: u64,
    /// Requests of the channel before its current one.
    pub(super) number: u64,
    /// The cycle before which it is not there, by the trace.
    pub(super) arrives: Cycle,
    /// Commands that its current request has had of those that complete it.
    pub(super) pass: u32,
    pub(super) row: RowOutcome,
    /// How far a read or write has come.
    pub(super) data: Wait,
    /// Whether it opens a row after others: a read or write, if requests before it in its bank need another row; a row command
    /// always.
    pub(super) opens: bool,
    /// Commands for which one of it had to wait although it could issue.
    pub(super) passed: u16,
    /// Of a MAC, a cycle before which its current request does not have its command: that of the last look.
    pub(super) not_before: Cycle,
}

/// The queues of a controller; it looks at the first so many requests of each. `Reads` has the writes, too, where those
/// have no queue of their own.
#[derive(Clone, Copy)]
pub(super) enum QueueKind {
    Reads,
    Writes,
    Openings,
    Closings,
    Macs,
    Moves,
}

impl QueueKind {
    pub(super) fn of(effect: Effect, turns: bool) -> Self {
        match effect {
            Effect::Write if turns => QueueKind::Writes,
            Effect::Read | Effect::Write => QueueKind::Reads,
            Effect::Open => QueueKind::Openings,
            Effect::Close => QueueKind::Closings,
            Effect::Mac | Effect::MacOpen => QueueKind::Macs,
            Effect::Move | Effect::Softmax | Effect::Configure | Effect::Refresh => QueueKind::Moves,
        }
    }
}

impl QueuedRun {
    /// The command that opens its row.
    pub(super) fn opener(&self) -> Option<CommandId> {
        if self.effect.opens() { Some(self.plan.last) } else { self.plan.opener }
    }

    /// Whether it opens or closes a row, and nothing else: it may do so on either side of a barrier, for banks put it in
    /// order with what it is for.
    pub(super) fn is_rows_only(&self) -> bool {
        self.effect.is_row_command()
    }
}

/// Items between two barriers.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Epoch {
    /// Whether it has had any.
    pub(super) used: bool,
    /// Items that are not completed.
    pub(super) left: u32,
    /// Cycles that the host works before it opens, and for whom.
    pub(super) host: Cycle,
    pub(super) label: Label,
    /// Requests of the channel before it.
    pub(super) first: u64,
}

/// The cycle at which a request arrives. Not inlined: the compiler would take the multiplication out of the branch, and where
/// there is no interval it would multiply a NaN, which is slow.
#[inline(never)]
pub(super) fn arrival(number: u64, interval: f64) -> Cycle {
    (number as f64 * interval) as Cycle
}

impl PimChannel<'_> {
    /// Whether the next record can be taken in, or any that may come. Reads and writes wait for their own queue only, all
    /// else for every queue.
    pub(super) fn has_room(&self) -> bool {
        let room = |q: QueueKind| self.held[q as usize] < self.most[q as usize];
        let data = match (self.input.front(), self.schedule.in_turns()) {
            (_, false) => room(QueueKind::Reads),
            (None, true) => room(QueueKind::Reads) || room(QueueKind::Writes),
            (Some(Record::Request(Request { op: Op::Ld, .. })), _) => room(QueueKind::Reads),
            (Some(Record::Request(Request { op: Op::St, .. })), _) => room(QueueKind::Writes),
            _ => room(QueueKind::Reads) && room(QueueKind::Writes),
        };
        data && [QueueKind::Openings, QueueKind::Closings, QueueKind::Macs, QueueKind::Moves].into_iter().all(room)
            && self.epochs.len() < EPOCHS
    }

    /// Sorts waiting records into the classes until a queue is full.
    pub(super) fn take_in<P: Probe>(&mut self, probe: &mut P) -> Result<()> {
        while self.next_epoch(probe) {}
        while self.has_room() {
            match self.input.pop_front() {
                None => return Ok(()),
                Some(Record::Segment(s)) => self.segments.take(&s, probe),
                Some(Record::Mark(m)) => self.segments.mark(&m),
                Some(Record::Arrival(a)) => {
                    self.timed = true;
                    // An arrival that is over holds nothing back.
                    if self.numbered && a.cycle > self.arrives.max(self.now) {
                        probe.epoch(self.id, a.cycle, Opener::Arrival, self.requests);
                    }
                    self.arrives = self.arrives.max(a.cycle);
                }
                Some(Record::Request(r)) if r.op == Op::Barrier || r.op == Op::Host => {
                    let host = if r.op == Op::Host { Cycle::from(r.count) } else { 0 };
                    if host > 0 || self.epochs.back().is_none_or(|e| e.used) {
                        let (label, first) = (self.segments.label(), self.requests);
                        self.epochs.push_back(Epoch { host, label, first, ..Epoch::default() });
                        if host > 0 {
                            self.segments.owe();
                        }
                    }
                }
                Some(Record::Request(r)) => {
                    // Data requests pass each other, those of one run too: each stands alone.
                    let run = r.count > 1 && matches!(r.op, Op::Ld | Op::St);
                    if run {
                        let rest = Request { addr: r.addr + u64::from(r.stride), count: r.count - 1, ..r };
                        self.input.push_front(Record::Request(rest));
                    }
                    self.accept(if run { Request::one(r.op, r.addr) } else { r })?;
                }
            }
            while self.next_epoch(probe) {}
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, request: Request) -> Result<()> {
        let plan = self.device.plans[request.op as usize].ok_or_else(|| {
            Error::data("trace", format!("{} has no command for {}", self.device.name, request.op.mnemonic()))
        })?;
        let last = &self.device.commands[usize::from(plan.last)];
        let (effect, scope) = (last.effect, last.scope);
        let class = effect.class() as usize;
        let target = self.state.target(self.device.geometry.decode(request.addr));
        let (units, banks) = match class {
            ARRAY => self.enlist(effect, scope, &target)?,
            _ => (0, 0),
        };
        if class != DATA {
            self.held[QueueKind::of(effect, false) as usize] += u64::from(request.count);
        }
        self.order += 1;
        let epoch = self.epoch + self.epochs.len() as u32 - 1;
        self.segments.owe();
        let before = |i: &&QueuedRun| i.target.bank() == target.bank();
        let opens = match class {
            DATA => {
                self.classes[DATA].iter().rev().find(before).is_some_and(|i| i.target.address.row != target.address.row)
            }
            _ => effect == Effect::Open,
        };
        let item = QueuedRun {
            opens,
            target,
            banks,
            units,
            request,
            plan,
            effect,
            scope,
            epoch,
            label: self.segments.label(),
            order: self.order,
            number: self.requests,
            arrives: self.arrives,
            pass: 0,
            passed: 0,
            not_before: 0,
            row: RowOutcome::Hit,
            data: Wait::default(),
        };
        if let Some(e) = self.epochs.back_mut() {
            e.used = true;
            e.left += u32::from(!item.is_rows_only());
        }
        self.count_in(&item);
        if class == ARRAY {
            self.standing_takes(&item);
        }
        self.classes[class].push_back(item);
        if class == DATA {
            self.standing.valid = false;
            self.data_enters();
        }
        self.requests += u64::from(request.count);
        Ok(())
    }

    /// Opens the next epoch if this one is complete and its end is known.
    pub(super) fn next_epoch<P: Probe>(&mut self, probe: &mut P) -> bool {
        if self.epochs.len() < 2 || self.epochs[0].left > 0 {
            return false;
        }
        self.epochs.pop_front();
        self.epoch += 1;
        // Reads and writes of this epoch have their turn.
        self.standing.valid &= self.classes[DATA].front().is_none_or(|d| d.epoch > self.epoch);
        self.epoch_open = self.epoch_open.max(self.epoch_done);
        let Epoch { host, label, first, .. } = self.epochs[0];
        if host > 0 {
            probe.host(self.id, label.segment, label.phase, self.epoch_open, host);
            self.epoch_open += host;
            self.done = self.done.max(self.epoch_open);
            self.worked = self.worked.max(self.epoch_open);
            self.segments.paid(label.segment, self.epoch_open, probe);
        }
        if self.numbered {
            let opener = if host > 0 { Opener::Host } else { Opener::Barrier };
            // A request that needs no command may complete an epoch behind a refresh that came since.
            probe.epoch(self.id, self.epoch_open.max(self.now), opener, first);
        }
        true
    }

    /// Whether requests arrive at times: one that waits in a queue may not be there yet.
    pub(super) fn is_timed(&self) -> bool {
        self.interval.is_some() || self.timed
    }

    /// The cycle before which the current request of an item is not there.
    #[inline]
    pub(super) fn arrival(&self, item: &QueuedRun) -> Cycle {
        self.interval.map_or(item.arrives, |cycles| arrival(item.number, cycles).max(item.arrives))
    }
}
