//! The faithful controller of one channel.
//!
//! Requests fall into three classes, each with its own path to the banks: *array* work (MACs and the row commands of
//! bank groups), buffer *moves* (and softmax), and *data* (LD, ST). Array work is in order, but that MACs of single banks
//! may pass others in other banks; moves pass each other, but not softmax; data goes first-ready, first-come, and where
//! the system drains writes, in turns: reads first, until the writes that wait reach the high mark or no read is
//! there; then writes first, until they are down to the low mark. Between two barriers the classes run beside each
//! other. At each step the class whose next command can issue first issues it, the older request on a tie; row and
//! column commands have a bus each. Row opening and closing may pass a barrier, nothing else may.
//!
//! The controller sees `queue_depth` outstanding requests, whether they came one by one or as runs, so that both
//! forms of a trace take the same cycles.
//!
//! When a refresh is due, array work and data stop, the banks are closed, REFab is issued, and the rows open again on
//! demand. Moves go on: they touch no bank.

mod data;
mod normal;

use super::probe::{CommandEvent, Completion, Probe, RowOutcome};
use super::segments::{Label, Segments};
use super::state::{CLOSED, ChannelState, Rows, Target};
use crate::addr::{Address, NOT_ADDRESSED};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::op::Op;
use crate::spec::device::Bus;
use crate::spec::system::Refresh;
use crate::spec::{CommandId, Device, Effect, Plan, Scope, System};
use crate::trace::{Record, Request};
use crate::units::Cycle;
use data::Turns;
use std::collections::VecDeque;

/// Refreshes without a completed request after which a channel is taken to be in a livelock.
const PATIENCE: u32 = 64;
/// Epochs in sight, at most. Only the host's work makes epochs without requests.
const EPOCHS: usize = 4096;
/// Commands between two looks at whether the user wants to stop.
const INTERRUPT_STEPS: u32 = 1 << 16;

const ARRAY: usize = 0;
const MOVES: usize = 1;
const DATA: usize = 2;

#[derive(Clone)]
struct Item {
    request: Request,
    plan: Plan,
    effect: Effect,
    scope: Scope,
    target: Target,
    epoch: u32,
    label: Label,
    order: u64,
    /// Requests of the channel before its current one.
    number: u64,
    /// Commands that its current request has had of those that complete it.
    pass: u32,
    row: RowOutcome,
}

/// Items between two barriers.
#[derive(Clone, Default, PartialEq)]
struct Epoch {
    /// Whether it has had any.
    used: bool,
    /// Those not completed.
    left: u32,
    /// Cycles that the host works before it opens, and for whom.
    host: Cycle,
    label: Label,
}

/// What a class could do next.
#[derive(Clone, Copy)]
struct Candidate {
    at: Cycle,
    order: u64,
    class: usize,
    index: usize,
    command: CommandId,
    target: Target,
}

/// What to do for an item now.
enum Step {
    /// Issue this command at the item's address.
    Issue(CommandId),
    /// Issue this command elsewhere.
    IssueAt(CommandId, Target),
    /// Nothing is left to do.
    Done,
}

/// What to do next.
enum Choice {
    /// Issue this.
    Issue(Candidate),
    /// A request turned out to need no command, and is complete.
    Completed,
    /// No request can proceed.
    Nothing,
}

/// What [`Channel::advance`] achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It went past the horizon; there is more to do at this cycle.
    Ahead(Cycle),
    /// It needs more records to decide.
    Starved,
    /// All that it was given is done.
    Done,
}

/// One channel: its banks, its queues, its clock.
#[derive(Clone)]
pub struct Channel<'d> {
    device: &'d Device,
    id: u32,
    state: ChannelState<'d>,
    input: VecDeque<Record>,
    input_ended: bool,
    classes: [VecDeque<Item>; 3],
    depth: u64,
    held: u64,
    order: u64,
    /// Requests taken in.
    requests: u64,
    /// Cycles between the arrivals of two requests.
    interval: Option<f64>,
    turns: Option<Turns>,
    epoch: u32,
    epoch_open: Cycle,
    epoch_done: Cycle,
    /// From `epoch` on; the last one is being filled.
    epochs: VecDeque<Epoch>,
    segments: Segments,
    bus_free: [Cycle; 2],
    last: [Cycle; 3],
    /// When the softmax unit has the entries of the last softmax behind it.
    softmax_free: Cycle,
    done: Cycle,
    worked: Cycle,
    next_refresh: Option<Cycle>,
    /// Row that each bank group should have open for MAC_BG.
    wanted: Vec<u32>,
    units_wanted: u32,
    recheck_wanted: bool,
    /// Refreshes since the last request was completed.
    fruitless: u32,
    /// Cycle of the last command: what becomes possible now cannot issue before.
    now: Cycle,
}

impl<'d> Channel<'d> {
    /// A channel at cycle 0, idle.
    pub fn new(system: &'d System, id: u32) -> Self {
        let device = &system.device;
        let refresh = system.refresh == Refresh::AllBank && device.refresh.is_some();
        Channel {
            device,
            id,
            state: ChannelState::new(device),
            input: VecDeque::new(),
            input_ended: false,
            classes: Default::default(),
            depth: u64::from(system.queue_depth),
            held: 0,
            order: 0,
            requests: 0,
            interval: system.issue_interval,
            turns: system.writes.map(|w| Turns::new(&w, system.queue_depth)),
            epoch: 0,
            epoch_open: 0,
            epoch_done: 0,
            epochs: VecDeque::from([Epoch::default()]),
            segments: Segments::new(id),
            bus_free: [0; 2],
            last: [0; 3],
            softmax_free: 0,
            done: 0,
            worked: 0,
            next_refresh: refresh.then_some(device.nrefi),
            wanted: vec![CLOSED; device.geometry.units() as usize],
            units_wanted: 0,
            recheck_wanted: false,
            fruitless: 0,
            now: 0,
        }
    }

    /// Hands over a record. Returns how many wait.
    pub fn give(&mut self, record: Record) -> usize {
        self.input.push_back(record);
        self.input.len()
    }

    /// No record follows before [`Channel::resume`].
    pub fn close_input(&mut self) {
        self.input_ended = true;
    }

    /// When the last result of its own work was there.
    pub fn worked_until(&self) -> Cycle {
        self.worked
    }

    /// When the work done so far is complete, waits included.
    pub fn done_at(&self) -> Cycle {
        self.done
    }

    /// Lets the time pass to `at`, with the refreshes that fall due, and takes input again.
    pub fn resume<P: Probe>(&mut self, at: Cycle, probe: &mut P) {
        while let Some(due) = self.next_refresh.filter(|due| *due < at) {
            if let Some(c) = self.refresh_candidate(due) {
                self.issue_refresh(&c, probe);
            }
        }
        self.epoch_open = self.epoch_open.max(at);
        self.last.iter_mut().for_each(|t| *t = (*t).max(at));
        self.done = self.done.max(at);
        self.fruitless = 0;
        self.input_ended = false;
    }

    /// Ends all segments with the work done so far.
    pub fn end_segments<P: Probe>(&mut self, probe: &mut P) {
        self.segments.end(probe);
    }

    /// Works until it passes `horizon`, needs input, or has no work left.
    pub fn advance<P: Probe>(&mut self, horizon: Cycle, probe: &mut P) -> Result<Progress> {
        let mut steps = 0u32;
        loop {
            self.take_in(probe)?;
            if self.has_room() && !self.input_ended {
                return Ok(Progress::Starved);
            }
            match self.choose(probe)? {
                Choice::Issue(best) => {
                    self.issue(&best, probe);
                    steps += 1;
                    if steps.is_multiple_of(INTERRUPT_STEPS) {
                        interrupt::check()?;
                    }
                    if self.fruitless > PATIENCE {
                        return Err(self.livelock());
                    }
                    if best.at > horizon {
                        return Ok(Progress::Ahead(best.at));
                    }
                }
                Choice::Completed => {}
                Choice::Nothing if self.classes.iter().all(VecDeque::is_empty) => return Ok(Progress::Done),
                Choice::Nothing => return Err(self.livelock()),
            }
        }
    }

    fn livelock(&self) -> Error {
        let oldest = self.classes.iter().filter_map(VecDeque::front).min_by_key(|i| i.order);
        let where_ = oldest.map_or(String::new(), |i| {
            let a = &i.target.address;
            let op = i.request.op.mnemonic();
            format!(
                ": {op} at pseudo-channel {}, rank {}, bank group {}, bank {}, row {}",
                a.pseudo_channel, a.rank, a.bank_group, a.bank, a.row
            )
        });
        Error::data("trace", format!("channel {}: livelock, no outstanding request can proceed{where_}", self.id))
    }

    fn has_room(&self) -> bool {
        self.held < self.depth && self.epochs.len() < EPOCHS
    }

    /// Sorts waiting records into the classes until `depth` requests are outstanding.
    fn take_in<P: Probe>(&mut self, probe: &mut P) -> Result<()> {
        while self.next_epoch(probe) {}
        while self.has_room() {
            match self.input.pop_front() {
                None => return Ok(()),
                Some(Record::Segment(s)) => self.segments.take(&s, probe),
                Some(Record::Mark(m)) => self.segments.mark(&m),
                Some(Record::Request(r)) if r.op == Op::Barrier || r.op == Op::Host => {
                    let host = if r.op == Op::Host { Cycle::from(r.count) } else { 0 };
                    if host > 0 || self.epochs.back().is_none_or(|e| e.used) {
                        self.epochs.push_back(Epoch { host, label: self.segments.label(), ..Epoch::default() });
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

    fn accept(&mut self, request: Request) -> Result<()> {
        let plan = self.device.plans[request.op as usize].ok_or_else(|| {
            Error::data("trace", format!("{} has no command for {}", self.device.name, request.op.mnemonic()))
        })?;
        let last = &self.device.commands[usize::from(plan.last)];
        let (effect, scope) = (last.effect, last.scope);
        let class = match effect {
            Effect::Mac | Effect::MacOpen | Effect::Open | Effect::Close => ARRAY,
            Effect::Read | Effect::Write => DATA,
            Effect::Move | Effect::Softmax | Effect::Configure | Effect::Refresh => MOVES,
        };
        self.held += u64::from(request.count);
        self.order += 1;
        let epoch = self.epoch + self.epochs.len() as u32 - 1;
        if let Some(e) = self.epochs.back_mut() {
            e.used = true;
            e.left += 1;
        }
        self.segments.owe();
        self.classes[class].push_back(Item {
            target: self.state.target(self.device.geometry.decode(request.addr)),
            request,
            plan,
            effect,
            scope,
            epoch,
            label: self.segments.label(),
            order: self.order,
            number: self.requests,
            pass: 0,
            row: RowOutcome::Hit,
        });
        self.requests += u64::from(request.count);
        Ok(())
    }

    /// Opens the next epoch if this one is complete and its end is known.
    fn next_epoch<P: Probe>(&mut self, probe: &mut P) -> bool {
        if self.epochs.len() < 2 || self.epochs[0].left > 0 {
            return false;
        }
        self.epochs.pop_front();
        self.epoch += 1;
        self.epoch_open = self.epoch_open.max(self.epoch_done);
        let Epoch { host, label, .. } = self.epochs[0];
        if host > 0 {
            probe.host(self.id, label.segment, label.phase, self.epoch_open, host);
            self.epoch_open += host;
            self.done = self.done.max(self.epoch_open);
            self.worked = self.worked.max(self.epoch_open);
            self.segments.paid(label.segment, self.epoch_open, probe);
        }
        true
    }

    /// What an item needs next.
    #[inline]
    fn step(&self, item: &Item) -> Result<Step> {
        let row_command = |c: Option<CommandId>| c.map_or(Step::Done, Step::Issue);
        Ok(match item.effect {
            Effect::Read | Effect::Write | Effect::Mac => match self.state.rows(item.scope, &item.target) {
                Rows::Ready => Step::Issue(item.plan.last),
                Rows::Closed => row_command(item.plan.opener),
                Rows::Conflict => row_command(item.plan.closer),
            },
            Effect::Open => match self.state.rows(item.scope, &item.target) {
                Rows::Ready => Step::Done,
                Rows::Closed => Step::Issue(item.plan.last),
                Rows::Conflict => row_command(item.plan.closer),
            },
            Effect::Close if self.state.any_open(item.scope, &item.target) => Step::Issue(item.plan.last),
            Effect::Close => Step::Done,
            Effect::MacOpen => {
                if self.units_wanted == 0 {
                    let what = format!("channel {}: {} with no bank group open", self.id, item.request.op.mnemonic());
                    return Err(Error::data("trace", what));
                }
                match self.lost_unit() {
                    Some((target, rows)) => {
                        let command = if rows == Rows::Closed { item.plan.opener } else { item.plan.closer };
                        command.map_or(Step::Done, |c| Step::IssueAt(c, target))
                    }
                    None => Step::Issue(item.plan.last),
                }
            }
            Effect::Move | Effect::Softmax | Effect::Configure | Effect::Refresh => Step::Issue(item.plan.last),
        })
    }

    /// A bank group that has lost the row that MAC_BG wants there (to a refresh, say).
    fn lost_unit(&self) -> Option<(Target, Rows)> {
        if !self.recheck_wanted {
            return None;
        }
        self.wanted.iter().enumerate().filter(|(_, row)| **row != CLOSED).find_map(|(unit, row)| {
            let mut address = self.device.geometry.unit_address(self.id, unit as u32);
            address.row = *row;
            let target = self.state.target(address);
            match self.state.rows(Scope::BankGroup, &target) {
                Rows::Ready => None,
                rows => Some((target, rows)),
            }
        })
    }

    /// The command to issue next. Items that need no command are completed on the way.
    fn choose<P: Probe>(&mut self, probe: &mut P) -> Result<Choice> {
        let mut best: Option<Candidate> = None;
        let mut keep = |c: Option<Candidate>| {
            if let Some(c) = c
                && best.is_none_or(|b| (c.at, c.order) < (b.at, b.order))
            {
                best = Some(c);
            }
        };
        let array = match self.array_step()? {
            Some(Step::Done) => {
                let now = self.last[ARRAY].max(self.arrival(&self.classes[ARRAY][0]));
                self.complete(ARRAY, 0, now, None, probe);
                return Ok(Choice::Completed);
            }
            Some(Step::Issue(command)) => Some(self.candidate(ARRAY, 0, command, self.classes[ARRAY][0].target)),
            Some(Step::IssueAt(command, target)) => Some(self.candidate(ARRAY, 0, command, target)),
            None => None,
        };
        let data_waits = self.classes[DATA].front().filter(|d| d.epoch == self.epoch);
        if let Some(c) = array {
            let item = &self.classes[ARRAY][0];
            let older_data = match data_waits {
                Some(d) => d.order < item.order && self.state.rows(d.scope, &d.target) != Rows::Ready,
                None => false,
            };
            let ahead_of_data = item.epoch != self.epoch && data_waits.is_some();
            let completes = c.command == item.plan.last && matches!(item.effect, Effect::Mac | Effect::MacOpen);
            if !(older_data || ahead_of_data || completes && item.epoch != self.epoch) {
                keep(self.before_refresh(c));
            }
        }
        if let Some(oldest) = array.filter(|_| data_waits.is_none()) {
            keep(self.array_ahead(&oldest)?.and_then(|c| self.before_refresh(c)));
        }
        keep(self.move_candidate());
        if data_waits.is_some() {
            let array_needs_row = array.and_then(|c| {
                let item = &self.classes[ARRAY][0];
                (item.epoch == self.epoch && c.command != item.plan.last).then_some(item.order)
            });
            keep(self.data_candidate(array_needs_row)?.and_then(|c| self.before_refresh(c)));
        }
        let due = self.next_refresh.filter(|_| self.classes.iter().any(|c| !c.is_empty()));
        // No refresh comes before it is due.
        if let Some(due) = due.filter(|due| best.is_none_or(|b| b.at >= *due))
            && let Some(refresh) = self.refresh_candidate(due)
            && best.is_none_or(|b| (refresh.at, refresh.order) < (b.at, b.order))
        {
            best = Some(refresh);
        }
        Ok(best.map_or(Choice::Nothing, Choice::Issue))
    }

    /// The first command that array work behind the oldest could issue, in banks that nothing older uses: MACs of
    /// single banks go on in one bank while others open their rows.
    fn array_ahead(&self, oldest: &Candidate) -> Result<Option<Candidate>> {
        let Some(first) = self.classes[ARRAY].front().filter(|i| i.effect == Effect::Mac && i.scope != Scope::Channel)
        else {
            return Ok(None);
        };
        // Where nothing but the channel and its bus holds the oldest MAC back, no other MAC comes before it.
        let bus = self.bus_free[Bus::Column as usize];
        let oldest_mac_wins = oldest.command == first.plan.last
            && oldest.at <= self.state.earliest_in_channel(oldest.command).max(bus).max(self.last[ARRAY]);
        let mut used = 0u64;
        let mut best: Option<Candidate> = None;
        let mut seen = 0;
        for (index, item) in self.classes[ARRAY].iter().enumerate() {
            if (item.effect, item.scope) != (first.effect, first.scope) || seen >= self.depth {
                break;
            }
            seen += u64::from(item.request.count);
            // More than 64 places share bits: they wait for each other.
            let bit = 1 << (self.narrow_place(item) % 64);
            if used & bit == 0
                && index > 0
                && let Step::Issue(command) = self.step(item)?
                && (command != item.plan.last || item.epoch == self.epoch && !oldest_mac_wins)
            {
                let c = self.candidate(ARRAY, index, command, item.target);
                if best.is_none_or(|b| c.at < b.at) {
                    best = Some(c);
                }
            }
            used |= bit;
        }
        Ok(best)
    }

    /// Which banks a MAC of less than the channel uses: equal for equal banks, different for disjoint ones.
    fn narrow_place(&self, item: &Item) -> u32 {
        let (g, a) = (&self.device.geometry, &item.target.address);
        let group = if item.scope == Scope::SameBank { 0 } else { a.rank * g.bank_groups + a.bank_group };
        group * g.banks + a.bank
    }

    fn array_step(&self) -> Result<Option<Step>> {
        self.classes[ARRAY].front().map(|item| self.step(item)).transpose()
    }

    fn candidate(&self, class: usize, index: usize, command: CommandId, target: Target) -> Candidate {
        let item = &self.classes[class][index];
        let bus = self.device.commands[usize::from(command)].bus as usize;
        let mut at = self.state.earliest(command, &target).max(self.bus_free[bus]).max(self.last[class]);
        at = at.max(self.arrival(item)).max(self.now);
        if item.effect == Effect::Softmax {
            at = at.max(self.softmax_free);
        }
        // Only row commands may come before their epoch.
        if self.device.commands[usize::from(command)].bus == Bus::Column {
            at = at.max(self.epoch_open);
        }
        Candidate { at, order: item.order, class, index, command, target }
    }

    /// When the current request of an item arrives.
    #[inline]
    fn arrival(&self, item: &Item) -> Cycle {
        self.interval.map_or(0, |cycles| arrival(item.number, cycles))
    }

    fn before_refresh(&self, c: Candidate) -> Option<Candidate> {
        self.next_refresh.is_none_or(|due| c.at < due).then_some(c)
    }

    /// The first ready among the moves of this epoch; softmax and mode settings neither pass others nor are passed.
    fn move_candidate(&self) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        // Where no command of this kind can come before the best, none of its items needs a closer look.
        let mut hopeless: Option<CommandId> = None;
        for (index, item) in self.classes[MOVES].iter().enumerate() {
            let free = item.effect == Effect::Move;
            if item.epoch != self.epoch || !free && index > 0 {
                break;
            }
            let command = item.plan.last;
            if let Some(best) = best.filter(|_| free && hopeless != Some(command)) {
                hopeless = (self.soonest(command, MOVES) >= best.at).then_some(command);
            }
            if free && hopeless == Some(command) {
                continue;
            }
            let c = self.candidate(MOVES, index, command, item.target);
            if best.is_none_or(|b| c.at < b.at) {
                best = Some(c);
            }
            if !free {
                break;
            }
        }
        best
    }

    /// A cycle before which a class cannot issue a command anywhere.
    fn soonest(&self, command: CommandId, class: usize) -> Cycle {
        let bus = self.bus_free[self.device.commands[usize::from(command)].bus as usize];
        self.state.earliest_anywhere(command).max(bus).max(self.last[class]).max(self.now)
    }

    fn refresh_candidate(&self, due: Cycle) -> Option<Candidate> {
        let (refresh, close) = self.device.refresh?;
        let command = if self.state.open_banks() > 0 { close } else { refresh };
        let (row, column) = (NOT_ADDRESSED, NOT_ADDRESSED);
        let target = self.state.target(Address { channel: self.id, row, column, ..Address::default() });
        let at = self.state.earliest(command, &target).max(self.bus_free[Bus::Row as usize]).max(due).max(self.now);
        Some(Candidate { at, order: 0, class: usize::MAX, index: 0, command, target })
    }

    fn issue_refresh<P: Probe>(&mut self, c: &Candidate, probe: &mut P) {
        self.bus_free[Bus::Row as usize] = c.at + 1;
        self.state.issue(c.command, &c.target, c.at);
        self.now = self.now.max(c.at);
        if self.device.commands[usize::from(c.command)].effect == Effect::Refresh {
            self.next_refresh = self.next_refresh.map(|due| due + self.device.nrefi);
            // Waiting for requests that are still to arrive, or for work that is not over, is no livelock.
            let at_work = c.at < self.epoch_open.max(self.softmax_free);
            let waits = self.classes.iter().filter_map(VecDeque::front).any(|i| !at_work && self.arrival(i) <= c.at);
            self.fruitless += u32::from(waits);
        }
        self.recheck_wanted = true;
        let banks = self.device.geometry.banks_per_channel();
        self.report(c, banks, Label::default(), None, probe);
    }

    fn report<P: Probe>(&self, c: &Candidate, banks: u32, label: Label, completes: Option<Completion>, probe: &mut P) {
        probe.command(&CommandEvent {
            cycle: c.at,
            command: c.command,
            address: c.target.address,
            banks,
            segment: label.segment,
            phase: label.phase,
            completes,
        });
    }

    fn issue<P: Probe>(&mut self, c: &Candidate, probe: &mut P) {
        if c.class == usize::MAX {
            return self.issue_refresh(c, probe);
        }
        let command = &self.device.commands[usize::from(c.command)];
        self.bus_free[command.bus as usize] = c.at + 1;
        self.last[c.class] = c.at;
        self.state.issue(c.command, &c.target, c.at);
        self.now = self.now.max(c.at);
        let item = &mut self.classes[c.class][c.index];
        let label = item.label;
        let completes = c.command == item.plan.last;
        let passes = command.passes;
        // MACs at one row end the bank groups' own rounds: those that go on must be asked for their rows again.
        if item.effect == Effect::Mac && self.units_wanted > 0 {
            self.wanted.fill(CLOSED);
            self.units_wanted = 0;
        }
        if !completes {
            item.row = match (command.effect, item.row) {
                (Effect::Close, _) | (_, RowOutcome::Conflict) => RowOutcome::Conflict,
                _ => RowOutcome::Miss,
            };
            self.recheck_wanted = true;
            let banks = command.scope.banks(&self.device.geometry);
            return self.report(c, banks, label, None, probe);
        }
        let banks = match command.effect {
            Effect::MacOpen => {
                self.recheck_wanted = false;
                self.units_wanted * self.device.geometry.banks
            }
            _ => command.scope.banks(&self.device.geometry) / passes,
        };
        if item.pass + 1 < passes {
            item.pass += 1;
            return self.report(c, banks, label, None, probe);
        }
        // An ACT_BG is a request to open: it found its row closed, or another one open.
        if matches!(command.effect, Effect::Open) && item.row == RowOutcome::Hit {
            item.row = RowOutcome::Miss;
        }
        let completion = Completion { op: item.request.op, row: item.row };
        self.report(c, banks, label, Some(completion), probe);
        if command.effect == Effect::Softmax {
            self.softmax_free = c.at + self.device.work(c.command, &c.target.address);
        }
        let done = c.at + self.device.done(c.command, &c.target.address);
        self.complete(c.class, c.index, done, Some(completion), probe);
    }

    /// One request of an item is done.
    fn complete<P: Probe>(&mut self, class: usize, index: usize, done: Cycle, by: Option<Completion>, probe: &mut P) {
        let item = &mut self.classes[class][index];
        if by.is_none() {
            probe.silent(self.id, item.label.segment, item.label.phase, item.request.op);
        }
        if let Some(cycles) = self.interval {
            let arrived = arrival(item.number, cycles);
            let Label { segment, phase } = item.label;
            probe.latency(self.id, segment, phase, item.request.op, done.saturating_sub(arrived));
        }
        if matches!(item.effect, Effect::Open | Effect::Close) {
            let g = &self.device.geometry;
            let a = &item.target.address;
            let unit = (a.pseudo_channel * g.ranks + a.rank) * g.bank_groups + a.bank_group;
            let row = if item.effect == Effect::Open { a.row } else { CLOSED };
            let old = std::mem::replace(&mut self.wanted[unit as usize], row);
            self.units_wanted += u32::from(row != CLOSED);
            self.units_wanted -= u32::from(old != CLOSED);
        }
        self.held -= 1;
        self.fruitless = 0;
        item.request.count -= 1;
        item.number += 1;
        item.pass = 0;
        item.row = RowOutcome::Hit;
        // A row opened ahead of its epoch does not make the epoch before last longer.
        if item.epoch == self.epoch {
            self.epoch_done = self.epoch_done.max(done);
        }
        self.done = self.done.max(done);
        self.worked = self.worked.max(done);
        if item.request.count > 0 {
            item.request.addr += u64::from(item.request.stride);
            item.target = self.state.target(self.device.geometry.decode(item.request.addr));
        } else {
            let (slot, segment) = ((item.epoch - self.epoch) as usize, item.label.segment);
            self.epochs[slot].left -= 1;
            self.classes[class].remove(index);
            self.segments.paid(segment, done, probe);
        }
    }
}

/// When a request arrives. Not inlined: where requests do not arrive, the compiler would work it out all the same, of a number
/// that is none, and such numbers are slow.
#[inline(never)]
fn arrival(number: u64, interval: f64) -> Cycle {
    (number as f64 * interval) as Cycle
}
