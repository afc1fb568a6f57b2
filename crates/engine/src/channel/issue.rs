//! A command is issued: the banks move on, the request may be complete, probes are told.

use super::queues::QueueKind;
use super::{ARRAY, CLOSED, Candidate, DATA, PimChannel};
use crate::probe::{CommandEvent, Completion, NO_REQUEST, Probe, RowOutcome};
use crate::segments::Label;
use pimattn_core::spec::{Effect, Scope};
use pimattn_core::units::Cycle;

impl PimChannel<'_> {
    pub(super) fn report<P: Probe>(
        &self,
        c: &Candidate,
        banks: u32,
        label: Label,
        completes: Option<Completion>,
        request: u64,
        probe: &mut P,
    ) {
        probe.command(&self.event(c, banks, label, completes, request));
    }

    /// What probes are told of a command.
    #[inline]
    pub(super) fn event(
        &self,
        c: &Candidate,
        banks: u32,
        label: Label,
        completes: Option<Completion>,
        request: u64,
    ) -> CommandEvent {
        CommandEvent {
            cycle: c.at,
            command: c.command,
            address: c.target.address,
            banks,
            units: c.target.units,
            segment: label.segment,
            phase: label.phase,
            completes,
            request: if self.numbered { request } else { NO_REQUEST },
        }
    }

    /// A command of a request takes its bus, and holds others back.
    #[inline]
    pub(super) fn has_issued(&mut self, c: &Candidate) {
        self.takes_bus(c);
        self.state.issue(c.command, &c.target, c.at);
    }

    /// A command of a request takes its bus.
    #[inline]
    pub(super) fn takes_bus(&mut self, c: &Candidate) {
        let bus = self.bus(self.device.commands[usize::from(c.command)].bus);
        self.bus_free[bus] = c.at + 1;
        self.last[c.class] = c.at;
        self.now = self.now.max(c.at);
    }

    pub(super) fn issue<P: Probe>(&mut self, c: &Candidate, probe: &mut P) {
        if c.class == usize::MAX {
            return self.issue_refresh(c, probe);
        }
        let command = &self.device.commands[usize::from(c.command)];
        self.has_issued(c);
        if c.class == DATA {
            self.data_issued(c);
        }
        if command.effect.opens() {
            self.row_opened(c);
        }
        let item = &mut self.classes[c.class][c.index];
        let (label, number) = (item.label, item.number);
        let completes = c.command == item.plan.last;
        let passes = command.passes;
        let (working, ends_rounds) =
            (item.units.count_ones(), item.effect == Effect::Mac && item.scope == Scope::Channel);
        if !completes {
            item.row = match (command.effect, item.row) {
                (Effect::Close, _) | (_, RowOutcome::Conflict) => RowOutcome::Conflict,
                _ => RowOutcome::Miss,
            };
            if c.class == DATA && command.effect.opens() {
                self.data_opened(c.index);
            }
            self.rows_changed(command.scope, &c.target);
            let banks = command.scope.banks(&self.device.geometry);
            return self.report(c, banks, label, None, number, probe);
        }
        let banks = match command.effect {
            Effect::MacOpen => working * self.device.geometry.banks,
            _ => command.scope.banks(&self.device.geometry) / passes,
        };
        if item.pass + 1 < passes {
            item.pass += 1;
            return self.report(c, banks, label, None, number, probe);
        }
        // An ACT_BG is a request to open: it found its row closed, or another one open.
        if command.effect.opens() && item.row == RowOutcome::Hit {
            item.row = RowOutcome::Miss;
        }
        let completion = Completion { op: item.request.op, row: item.row };
        if ends_rounds {
            self.end_rounds();
        }
        self.report(c, banks, label, Some(completion), number, probe);
        if command.effect == Effect::Softmax {
            self.softmax_free = c.at + self.device.work(c.command, &c.target.address);
        }
        let done = c.at + self.device.done(c.command, &c.target.address);
        self.count_passed(c.class, c.index);
        let read = c.class == DATA && command.effect == Effect::Read;
        let addr = self.classes[c.class][c.index].request.addr;
        self.complete(c.class, c.index, done, Some(completion), probe);
        while let Some(index) = self.merged(addr).filter(|_| read) {
            self.complete(DATA, index, done, None, probe);
        }
    }

    /// One request of an item is done.
    pub(super) fn complete<P: Probe>(
        &mut self,
        class: usize,
        index: usize,
        done: Cycle,
        by: Option<Completion>,
        probe: &mut P,
    ) {
        let item = &mut self.classes[class][index];
        if by.is_none() {
            probe.silent(self.id, item.label.segment, item.label.phase, item.request.op);
        }
        if self.is_timed() {
            let item = &self.classes[class][index];
            let Label { segment, phase } = item.label;
            probe.latency(self.id, segment, phase, item.request.op, done.saturating_sub(self.arrival(item)));
        }
        let item = &self.classes[class][index];
        if item.effect.is_row_command() {
            let target = item.target;
            let row = if item.effect.opens() { target.address.row } else { CLOSED };
            self.want(&target, row);
        }
        let item = &mut self.classes[class][index];
        if class == DATA {
            self.standing.valid = false;
            self.data_leaves(index);
        } else {
            self.held[QueueKind::of(item.effect, false) as usize] -= 1;
        }
        self.count_out(class, index);
        let item = &mut self.classes[class][index];
        self.fruitless = 0;
        item.request.count -= 1;
        item.number += 1;
        item.pass = 0;
        item.passed = 0;
        item.not_before = 0;
        item.row = RowOutcome::Hit;
        let of_epoch = !item.is_rows_only();
        if of_epoch {
            self.epoch_done = self.epoch_done.max(done);
        }
        self.done = self.done.max(done);
        self.worked = self.worked.max(done);
        if item.request.count > 0 {
            item.request.addr += u64::from(item.request.stride);
            let target = self.state.target(self.device.geometry.decode(item.request.addr));
            item.target = target;
            if class == ARRAY && item.effect == Effect::Mac && item.scope != Scope::Channel {
                let banks = self.bank_set(self.classes[class][index].scope, &target);
                self.classes[class][index].banks = banks;
                self.standing.valid = false;
            }
        } else {
            let segment = item.label.segment;
            if of_epoch {
                self.epochs[0].left -= 1;
            }
            let bank = item.target.bank();
            let item = self.classes[class].remove(index);
            if let Some(item) = item.filter(|_| class == ARRAY) {
                self.standing_leaves(index, &item);
            }
            if class == DATA {
                self.count_oldest(bank);
            }
            self.segments.paid(segment, done, probe);
        }
    }
}
