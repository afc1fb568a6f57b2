//! The faithful controller of one channel.
//!
//! Requests fall into three classes, each with its own path to the banks: *array* work (MACs and the row commands of
//! bank groups), buffer *moves* (and softmax), and *data* (LD, ST). MACs are in order, for they accumulate, but that those
//! of single banks may pass others in other banks; rows of bank groups open and close as soon as nothing older needs
//! them otherwise ([`mod@array`]); moves pass each other, but not softmax; data goes first-ready, first-come, and where
//! the system drains writes, in turns: reads first, until the writes that wait reach the high mark or no read is
//! there; then writes first, until they are down to the low mark ([`data`]). Between two barriers the classes run beside
//! each other; in one bank the older request decides on the row. At each step the command that can issue first is
//! issued, that of the older request on a tie; row and column commands have a bus each. Row opening and closing may
//! pass a barrier, nothing else may.
//!
//! The controller sees `queue_depth` outstanding requests each of MACs, of openings and of closings of rows, of moves, and of reads and of
//! writes (which may have depths of their own, or share a queue where they take no turns): MACs and moves do not hide the row commands behind them (within some hundred, [`MACS_HELD`]). Requests count the same whether
//! they came one by one or as runs, so that both forms of a trace take the same cycles.
//!
//! When a refresh is due, array work and data in its banks stop, the banks are closed, the refresh is issued, and the rows
//! open again on demand ([`refresh`]). Moves go on: they touch no bank.

mod array;
mod data;
mod normal;
mod order;
mod play;
mod refresh;

use super::probe::{CommandEvent, Completion, NO_REQUEST, Opener, Probe, RowOutcome};
use super::segments::{Label, Segments};
use super::state::{CLOSED, ChannelState, Target};
use array::{BankSet, Units};
use data::{Schedule, Wait};
use order::Order;
use pimattn_core::error::{Error, Result};
use pimattn_core::interrupt;
use pimattn_core::op::Op;
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::{CommandId, Device, Due, Effect, Plan, Refreshes, Scope, System};
use pimattn_core::units::Cycle;
use pimattn_trace::{Record, Request};
use std::collections::VecDeque;

/// Refreshes without a completed request after which a channel is taken to be in a livelock.
const PATIENCE: u32 = 64;
/// Epochs in sight, at most. Only the host's work makes epochs without requests.
const EPOCHS: usize = 4096;
/// Moves and MACs that are held, at most, so that rows behind them are in sight.
const MOVES_HELD: u64 = 1024;
const MACS_HELD: u64 = 128;
/// Commands between two looks at whether the user wants to stop.
const INTERRUPT_STEPS: u32 = 1 << 16;

/// Of [`Queue`].
const QUEUES: usize = 6;
/// Candidates at a time: rows and MACs, two kinds of moves, rows and reads and writes of data.
const OFFERS: usize = 4 + KINDS;
/// Of data: reads and writes, and rows for them.
const KINDS: usize = 4;
/// How often a request that could have a command gives way.
const PASSED: u16 = 256;

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
    /// Banks that it uses.
    banks: BankSet,
    /// Bank groups that a PIM_MAC_BG works in.
    units: u64,
    epoch: u32,
    label: Label,
    order: u64,
    /// Requests of the channel before its current one.
    number: u64,
    /// When it arrives at the earliest, by the trace.
    arrives: Cycle,
    /// Commands that its current request has had of those that complete it.
    pass: u32,
    row: RowOutcome,
    /// Of a read or write.
    data: Wait,
    /// Of data, whether requests before it in its bank need another row; of a row command, always.
    opens: bool,
    /// Commands for which one of it had to wait although it could issue.
    passed: u16,
}

/// The queues of a controller; it looks at the first so many requests of each. `Reads` has the writes, too, where those
/// have no queue of their own.
#[derive(Clone, Copy)]
enum Queue {
    Reads,
    Writes,
    Openings,
    Closings,
    Macs,
    Moves,
}

impl Queue {
    fn of(effect: Effect, turns: bool) -> Self {
        match effect {
            Effect::Write if turns => Queue::Writes,
            Effect::Read | Effect::Write => Queue::Reads,
            Effect::Open => Queue::Openings,
            Effect::Close => Queue::Closings,
            Effect::Mac | Effect::MacOpen => Queue::Macs,
            Effect::Move | Effect::Softmax | Effect::Configure | Effect::Refresh => Queue::Moves,
        }
    }
}

impl Item {
    /// What opens its row.
    fn opener(&self) -> Option<CommandId> {
        if self.effect == Effect::Open { Some(self.plan.last) } else { self.plan.opener }
    }

    /// Whether it opens or closes a row, and nothing else: it may do so on either side of a barrier, for banks put it in
    /// order with what it is for.
    fn is_rows_only(&self) -> bool {
        matches!(self.effect, Effect::Open | Effect::Close)
    }
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
    /// Requests of the channel before it.
    first: u64,
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

/// What to do next.
enum Choice {
    /// Issue this.
    Issue(Candidate),
    /// A request turned out to need no command, and is complete; or one moved on to its bank's queue.
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
    /// Requests outstanding, by [`Queue`], and how many may be.
    held: [u64; QUEUES],
    most: [u64; QUEUES],
    order_of: Order,
    /// Rows that wait to be opened: by data in each bank, by requests for rows in each bank group.
    rows_of_data: Vec<u32>,
    rows_of_units: Vec<u32>,
    order: u64,
    /// Requests taken in.
    requests: u64,
    /// Whether requests are counted from the beginning; not once work was looked up.
    numbered: bool,
    /// When what it is given arrives at the earliest; whether the trace says so.
    arrives: Cycle,
    timed: bool,
    /// Cycles between the arrivals of two requests.
    interval: Option<f64>,
    schedule: Schedule,
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
    refreshes: Option<Refreshes>,
    next_refresh: Option<Due>,
    units: Units,
    /// Refreshes since the last request was completed.
    fruitless: u32,
    /// Cycle of the last command: what becomes possible now cannot issue before.
    now: Cycle,
    /// Whether it is a copy in which a command is tried ([`mod@play`]).
    plays: bool,
}

impl<'d> Channel<'d> {
    /// A channel at cycle 0, idle.
    pub fn new(system: &'d System, id: u32) -> Self {
        let device = &system.device;
        let depth = u64::from(system.queue_depth);
        let (reads, writes) = match system.writes {
            Some(w) => (u64::from(system.read_depth), u64::from(w.depth)),
            None => (depth, 0),
        };
        Channel {
            device,
            id,
            state: ChannelState::new(device),
            input: VecDeque::new(),
            input_ended: false,
            classes: Default::default(),
            depth,
            held: [0; QUEUES],
            most: [reads, writes, depth, depth, depth.max(MACS_HELD), depth.max(MOVES_HELD)],
            order_of: Order::new(device),
            rows_of_data: vec![0; device.geometry.banks_per_channel() as usize],
            rows_of_units: vec![0; device.geometry.units() as usize],
            order: 0,
            requests: 0,
            numbered: true,
            arrives: 0,
            timed: false,
            interval: system.issue_interval,
            schedule: Schedule::new(system),
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
            refreshes: system.refreshes,
            next_refresh: system.refreshes.map(|r| r.first()),
            units: Units::new(device.geometry.units()),
            fruitless: 0,
            now: 0,
            plays: false,
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
        while self.next_refresh.is_some_and(|due| due.at < at) {
            let Some(c) = self.refresh_candidate() else { break };
            self.issue_refresh(&c, probe);
        }
        self.epoch_open = self.epoch_open.max(at);
        self.last.iter_mut().for_each(|t| *t = (*t).max(at));
        self.done = self.done.max(at);
        self.fruitless = 0;
        self.input_ended = false;
    }

    /// Requests taken in, where they were counted from the beginning.
    pub fn requests(&self) -> Option<u64> {
        self.numbered.then_some(self.requests)
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
                    if self.fruitless > PATIENCE.saturating_mul(self.refreshes.map_or(1, |r| r.sets)) {
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
        let why = match self.refreshes {
            Some(r) if r.sets > 1 && self.fruitless > PATIENCE => {
                "; refreshes in turn may leave no time in which all its banks are there: refresh_order = \"together\""
            }
            _ => "",
        };
        Error::data("trace", format!("channel {}: livelock, no outstanding request can proceed{where_}{why}", self.id))
    }

    /// Whether the next record can be taken in, or any that may come. Reads and writes wait for their own queue only, all
    /// else for every queue.
    fn has_room(&self) -> bool {
        let room = |q: Queue| self.held[q as usize] < self.most[q as usize];
        let data = match (self.input.front(), self.schedule.in_turns()) {
            (_, false) => room(Queue::Reads),
            (None, true) => room(Queue::Reads) || room(Queue::Writes),
            (Some(Record::Request(Request { op: Op::Ld, .. })), _) => room(Queue::Reads),
            (Some(Record::Request(Request { op: Op::St, .. })), _) => room(Queue::Writes),
            _ => room(Queue::Reads) && room(Queue::Writes),
        };
        data && [Queue::Openings, Queue::Closings, Queue::Macs, Queue::Moves].into_iter().all(room)
            && self.epochs.len() < EPOCHS
    }

    /// Sorts waiting records into the classes until a queue is full.
    fn take_in<P: Probe>(&mut self, probe: &mut P) -> Result<()> {
        while self.next_epoch(probe) {}
        while self.has_room() {
            match self.input.pop_front() {
                None => return Ok(()),
                Some(Record::Segment(s)) => self.segments.take(&s, probe),
                Some(Record::Mark(m)) => self.segments.mark(&m),
                Some(Record::Arrival(a)) => {
                    self.timed = true;
                    // What came before now holds nothing.
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
        let target = self.state.target(self.device.geometry.decode(request.addr));
        let (most, heads) = (self.device.heads_per_read, self.device.geometry.heads_of_mac(&target.address));
        if most > 1 && heads > most && last.says_heads() {
            let what = format!("{} for {heads} query heads; a column is multiplied for {most}", request.op.mnemonic());
            return Err(Error::data("trace", what));
        }
        let (units, banks) = match class {
            ARRAY => self.enlist(effect, scope, &target)?,
            _ => (0, 0),
        };
        if class != DATA {
            self.held[Queue::of(effect, false) as usize] += u64::from(request.count);
        }
        self.order += 1;
        let epoch = self.epoch + self.epochs.len() as u32 - 1;
        self.segments.owe();
        let before = |i: &&Item| i.target.bank() == target.bank();
        let opens = match class {
            DATA => {
                self.classes[DATA].iter().rev().find(before).is_some_and(|i| i.target.address.row != target.address.row)
            }
            _ => effect == Effect::Open,
        };
        let item = Item {
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
            row: RowOutcome::Hit,
            data: Wait::default(),
        };
        if let Some(e) = self.epochs.back_mut() {
            e.used = true;
            e.left += u32::from(!item.is_rows_only());
        }
        self.count_in(&item);
        self.classes[class].push_back(item);
        if class == DATA {
            self.data_enters();
        }
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

    /// The command to issue next. Items that need no command are completed on the way.
    fn choose<P: Probe>(&mut self, probe: &mut P) -> Result<Choice> {
        let mut offers: [Option<Candidate>; OFFERS] = [None; OFFERS];
        if let Some(index) = self.array_candidates(&mut offers)? {
            // A refresh may have closed what it asks to be closed.
            let now = self.now.max(self.last[ARRAY]).max(self.arrival(&self.classes[ARRAY][index]));
            self.complete(ARRAY, index, now, None, probe);
            return Ok(Choice::Completed);
        }
        if let Some((index, done)) = self.forwarded() {
            self.complete(DATA, index, done, None, probe);
            return Ok(Choice::Completed);
        }
        self.move_candidates(&mut offers);
        if !self.classes[DATA].is_empty() {
            offers[4..].copy_from_slice(&self.data_candidates());
        }
        let (of_banks, of_data) = offers.split_at_mut(4);
        // Moves touch no bank.
        for slot in of_banks[..2].iter_mut().chain(of_data) {
            if slot.as_ref().is_some_and(|c| !self.comes_before_refresh(c)) {
                *slot = None;
            }
        }
        let (first, held) = self.pick(&offers);
        let of_pairs = (first.and_then(|place| offers[place]), held);
        let (mut best, held) = if self.looks_ahead() { self.play(&offers, of_pairs)? } else { of_pairs };
        let due = self.next_refresh.filter(|_| self.classes.iter().any(|c| !c.is_empty()));
        // No refresh comes before it is due.
        if due.is_some_and(|due| best.is_none_or(|b| b.at >= due.at))
            && let Some(refresh) = self.refresh_candidate()
            && best.is_none_or(|b| (refresh.at, refresh.order) < (b.at, b.order))
        {
            best = Some(refresh);
        }
        best = self.idle_closing(best.map_or(Cycle::MAX, |b| b.at)).or(best);
        if self.feeds_before(best.map_or(Cycle::MAX, |b| b.at)) {
            return Ok(Choice::Completed);
        }
        for (place, c) in offers.iter().enumerate() {
            if let (true, Some(c)) = (held >> place & 1 == 1, c) {
                let item = &mut self.classes[c.class][c.index];
                item.passed = item.passed.saturating_add(1);
            }
        }
        Ok(best.map_or(Choice::Nothing, Choice::Issue))
    }

    /// Whether requests of different widths wait for rows.
    fn is_mixed(&self) -> bool {
        let first = self.classes[ARRAY].front();
        let narrow = !self.classes[DATA].is_empty();
        first.is_some_and(|f| narrow || self.classes[ARRAY].iter().any(|i| i.scope != f.scope))
    }

    fn candidate(&self, class: usize, index: usize, command: CommandId, target: Target) -> Candidate {
        let item = &self.classes[class][index];
        let bus = self.bus(self.device.commands[usize::from(command)].bus);
        let mut at = self.state.earliest(command, &target).max(self.bus_free[bus]).max(self.last[class]);
        at = at.max(self.arrival(item)).max(self.now).max(self.schedule.entered());
        if item.effect == Effect::Softmax {
            at = at.max(self.softmax_free);
        }
        // Only row commands may come before their epoch.
        if self.device.commands[usize::from(command)].bus == Bus::Column {
            at = at.max(self.epoch_open);
        }
        Candidate { at, order: item.order, class, index, command, target }
    }

    /// Which of the command buses a command takes.
    #[inline]
    fn bus(&self, of: Bus) -> usize {
        if self.schedule.one_bus() { Bus::Row as usize } else { of as usize }
    }

    /// Whether requests arrive at times: one that waits in a queue may not be there yet.
    fn is_timed(&self) -> bool {
        self.interval.is_some() || self.timed
    }

    /// When the current request of an item arrives.
    #[inline]
    fn arrival(&self, item: &Item) -> Cycle {
        self.interval.map_or(item.arrives, |cycles| arrival(item.number, cycles).max(item.arrives))
    }

    /// The first ready among the moves of this epoch, and the first of another kind; softmax and mode settings neither
    /// pass others nor are passed.
    fn move_candidates(&self, offers: &mut [Option<Candidate>; OFFERS]) {
        let best = &mut offers[2..4];
        // Where no command of this kind can come before the best, none of its items needs a closer look.
        let mut hopeless = 0u64;
        let mut seen = 0;
        for (index, item) in self.classes[MOVES].iter().enumerate() {
            let free = item.effect == Effect::Move;
            if item.epoch != self.epoch || !free && index > 0 || seen >= self.depth {
                break;
            }
            seen += u64::from(item.request.count);
            let command = item.plan.last;
            if hopeless & 1 << command != 0 {
                continue;
            }
            let c = self.candidate(MOVES, index, command, item.target);
            let kind = usize::from(best[0].as_ref().is_some_and(|b| b.command != command));
            if best[kind].as_ref().is_none_or(|b| c.at < b.at) {
                best[kind] = Some(c);
            }
            if !free {
                break;
            }
            if best[kind].as_ref().is_some_and(|b| self.soonest(command, MOVES) >= b.at) {
                hopeless |= 1 << command;
            }
        }
    }

    /// A cycle before which a class cannot issue a command anywhere.
    fn soonest(&self, command: CommandId, class: usize) -> Cycle {
        let bus = self.bus_free[self.bus(self.device.commands[usize::from(command)].bus)];
        self.state.earliest_anywhere(command).max(bus).max(self.last[class]).max(self.now)
    }

    fn report<P: Probe>(
        &self,
        c: &Candidate,
        banks: u32,
        label: Label,
        completes: Option<Completion>,
        request: u64,
        probe: &mut P,
    ) {
        probe.command(&CommandEvent {
            cycle: c.at,
            command: c.command,
            address: c.target.address,
            banks,
            units: c.target.units,
            segment: label.segment,
            phase: label.phase,
            completes,
            request: if self.numbered { request } else { NO_REQUEST },
        });
    }

    fn issue<P: Probe>(&mut self, c: &Candidate, probe: &mut P) {
        if c.class == usize::MAX {
            return self.issue_refresh(c, probe);
        }
        let command = &self.device.commands[usize::from(c.command)];
        let bus = self.bus(command.bus);
        self.bus_free[bus] = c.at + 1;
        self.last[c.class] = c.at;
        self.state.issue(c.command, &c.target, c.at);
        self.now = self.now.max(c.at);
        if c.class == DATA {
            self.data_issued(c);
        }
        if command.effect == Effect::Open {
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
            if c.class == DATA && command.effect == Effect::Open {
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
        if matches!(command.effect, Effect::Open) && item.row == RowOutcome::Hit {
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
    fn complete<P: Probe>(&mut self, class: usize, index: usize, done: Cycle, by: Option<Completion>, probe: &mut P) {
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
        if matches!(item.effect, Effect::Open | Effect::Close) {
            let target = item.target;
            let row = if item.effect == Effect::Open { target.address.row } else { CLOSED };
            self.want(&target, row);
        }
        let item = &mut self.classes[class][index];
        if class == DATA {
            self.data_leaves(index);
        } else {
            self.held[Queue::of(item.effect, false) as usize] -= 1;
        }
        self.count_out(class, index);
        let item = &mut self.classes[class][index];
        self.fruitless = 0;
        item.request.count -= 1;
        item.number += 1;
        item.pass = 0;
        item.passed = 0;
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
            }
        } else {
            let segment = item.label.segment;
            if of_epoch {
                self.epochs[0].left -= 1;
            }
            let bank = item.target.bank();
            self.classes[class].remove(index);
            if class == DATA {
                self.count_oldest(bank);
            }
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
