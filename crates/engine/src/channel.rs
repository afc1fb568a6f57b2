//! The PIM controller of one channel.
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
//! The controller sees `queue_depth` outstanding reads and as many writes (which may have depths of their own, or share a queue where
//! they take no turns). Of openings and of closings of rows, of MACs and of moves it sees more ([`System::row_depth`]), so that none
//! hides the row commands behind it. Requests count the same whether
//! they came one by one or as runs, so that both forms of a trace take the same cycles.
//!
//! When a refresh is due, array work and data in its banks stop, the banks are closed, the refresh is issued, and the rows
//! open again on demand ([`refresh`]). Moves go on: they touch no bank.
//!
//! Three choices of a controller are seams, a file each: the order of reads and writes ([`scheduler`]), the row policy
//! ([`row_policy`]), and what may go on while a refresh is due ([`refresh`]). Each file says how to add one.

mod array;
mod bank_queues;
mod burst;
mod cacheable;
mod data;
mod issue;
mod move_burst;
mod order;
mod play;
mod queues;
mod refresh;
mod row_policy;
mod scheduler;
mod standing;

use super::probe::{NO_REQUEST, Probe};
use super::segments::{Label, Segments};
use super::state::{CLOSED, ChannelState, CommandTarget};
use array::{ArrayLook, Units};
use data::DataSchedule;
use move_burst::WaitingMove;
use order::CommandOrder;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::system::Scheduler;
use pimattn_core::spec::{Class, CommandId, Device, Due, Effect, Refreshes, System};
use pimattn_core::units::Cycle;
use pimattn_trace::Record;
use queues::{Epoch, QueueKind, QueuedRun};
use refresh::RefreshPolicy;
use row_policy::{RowPolicy, RowUse};
use scheduler::DataOrder;
use standing::Standing;
use std::collections::VecDeque;

/// Refreshes without a completed request after which a channel is taken to be in a livelock.
const PATIENCE: u32 = 64;
/// Epochs in sight, at most. Only the host's work makes epochs without requests.
const EPOCHS: usize = 4096;

/// Kinds of queues ([`QueueKind`]).
const QUEUES: usize = 6;
/// Candidates at a time: rows and MACs, two kinds of moves, rows and reads and writes of data.
const OFFERS: usize = 4 + KINDS;
/// Candidates of data: reads and writes, and row commands for each.
const KINDS: usize = 4;
/// How often a request that could have a command gives way.
const PASSED: u16 = 256;

const ARRAY: usize = Class::Array as usize;
const MOVES: usize = Class::Buffer as usize;
const DATA: usize = Class::Data as usize;

/// A command that could be the next one.
#[derive(Clone, Copy)]
struct Candidate {
    at: Cycle,
    order: u64,
    class: usize,
    index: usize,
    command: CommandId,
    target: CommandTarget,
}

/// The next thing to do.
enum Choice {
    /// Issue this.
    Issue(Candidate),
    /// A request turned out to need no command, and is complete; or one moved on to its bank's queue.
    Completed,
    /// No request can proceed.
    Nothing,
}

/// How far [`PimChannel::advance`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// The channel is past the horizon, and has more to do at this cycle.
    Ahead(Cycle),
    /// The channel needs more records to decide.
    Starved,
    /// All that it was given is done.
    Done,
}

/// The seams of the controller, as its system asks for them: resolved once, and the same for the whole run.
#[derive(Clone, Copy)]
struct Policies {
    /// The order of reads and writes.
    order: &'static DataOrder,
    /// How long rows of reads and writes stay open.
    rows: &'static RowPolicy,
    /// Which commands may issue while a refresh is due.
    refresh: &'static RefreshPolicy,
}

impl Policies {
    fn of(rules: &Scheduler) -> Self {
        Policies { order: DataOrder::of(rules.order), rows: RowPolicy::of(rules), refresh: RefreshPolicy::of(rules) }
    }
}

/// One channel: its banks, its queues, its clock.
#[derive(Clone)]
pub struct PimChannel<'d> {
    device: &'d Device,
    id: u32,
    state: ChannelState<'d>,
    input: VecDeque<Record>,
    input_ended: bool,
    classes: [VecDeque<QueuedRun>; 3],
    depth: u64,
    /// Requests outstanding, by [`QueueKind`], and how many may be.
    held: [u64; QUEUES],
    most: [u64; QUEUES],
    order_of: CommandOrder,
    /// Rows that wait to be opened: by data in each bank, by requests for rows in each bank group.
    rows_of_data: Vec<u32>,
    rows_of_units: Vec<u32>,
    order: u64,
    /// Requests taken in.
    requests: u64,
    /// Whether requests are counted from the beginning; not once work was looked up.
    numbered: bool,
    /// The cycle before which the requests that come now are not there, and whether the trace has any such.
    arrives: Cycle,
    timed: bool,
    /// Cycles between the arrivals of two requests.
    interval: Option<f64>,
    policies: Policies,
    schedule: DataSchedule,
    row_use: RowUse,
    epoch: u32,
    epoch_open: Cycle,
    epoch_done: Cycle,
    /// From `epoch` on; the last one is being filled.
    epochs: VecDeque<Epoch>,
    segments: Segments,
    bus_free: [Cycle; 2],
    last: [Cycle; 3],
    /// The cycle at which the softmax unit is done with the entries of the last softmax.
    softmax_free: Cycle,
    done: Cycle,
    worked: Cycle,
    refreshes: Option<Refreshes>,
    next_refresh: Option<Due>,
    units: Units,
    standing: Standing,
    /// For [`PimChannel::move_burst`], for their memory: empty between two commands.
    waiting_moves: Vec<WaitingMove>,
    issued_moves: Vec<(CommandTarget, Cycle)>,
    /// Whether each command is chosen anew among all that waits ([`PimChannel::chooses_each`]).
    plain: bool,
    /// Refreshes since the last request was completed.
    fruitless: u32,
    /// Cycle of the last command: what becomes possible now cannot issue before.
    now: Cycle,
    /// Whether it is a copy in which a command is tried ([`mod@play`]).
    plays: bool,
}

impl<'d> PimChannel<'d> {
    /// A channel at cycle 0, idle.
    pub fn new(system: &'d System, id: u32) -> Self {
        let device = &system.device;
        let depth = u64::from(system.queue_depth);
        let (reads, writes) = match system.writes {
            Some(w) => (u64::from(system.read_depth), u64::from(w.depth)),
            None => (depth, 0),
        };
        let (rows, macs, moves) = (system.row_depth(), system.mac_depth(), system.move_depth());
        PimChannel {
            device,
            id,
            state: ChannelState::new(device),
            input: VecDeque::new(),
            input_ended: false,
            classes: Default::default(),
            depth,
            held: [0; QUEUES],
            most: [reads, writes, rows.into(), rows.into(), macs.into(), moves.into()],
            order_of: CommandOrder::new(device),
            rows_of_data: vec![0; device.geometry.banks_per_channel() as usize],
            rows_of_units: vec![0; device.geometry.units() as usize],
            order: 0,
            requests: 0,
            numbered: true,
            arrives: 0,
            timed: false,
            interval: system.issue_interval,
            policies: Policies::of(&system.scheduler),
            schedule: DataSchedule::new(system),
            row_use: RowUse::new(device, &system.scheduler),
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
            standing: Standing::default(),
            waiting_moves: Vec::new(),
            issued_moves: Vec::new(),
            plain: false,
            fruitless: 0,
            now: 0,
            plays: false,
        }
    }

    /// Chooses each command anew among all that waits, as the plain engine does: no [`mod@standing`] look, no [`mod@burst`].
    pub fn chooses_each(&mut self) {
        self.plain = true;
    }

    /// Hands over a record. Returns how many wait.
    pub fn give(&mut self, record: Record) -> usize {
        self.input.push_back(record);
        self.input.len()
    }

    /// No record follows before [`PimChannel::resume`].
    pub fn close_input(&mut self) {
        self.input_ended = true;
    }

    /// The cycle at which the last result of its own work was there.
    pub fn worked_until(&self) -> Cycle {
        self.worked
    }

    /// The cycle at which the work done so far is complete, waits included.
    pub fn done_at(&self) -> Cycle {
        self.done
    }

    /// Lets the time pass to `at`, with the refreshes that fall due, and takes input again.
    pub fn resume<P: Probe>(&mut self, at: Cycle, probe: &mut P) {
        self.refresh_until(at, probe);
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

    /// Whether its work was for a segment, or for a phase.
    pub fn has_had_segments(&self) -> bool {
        !self.segments.is_unused()
    }

    /// Ends all segments with the work done so far.
    pub fn end_segments<P: Probe>(&mut self, probe: &mut P) {
        self.segments.end(probe);
    }

    /// Works until it passes `horizon`, needs input, or has no work left.
    pub fn advance<P: Probe>(&mut self, horizon: Cycle, probe: &mut P) -> Result<Advance> {
        loop {
            self.take_in(probe)?;
            if self.has_room() && !self.input_ended {
                return Ok(Advance::Starved);
            }
            match self.choose(probe)? {
                Choice::Issue(best) => {
                    let runs_on = best.class == ARRAY && self.classes[ARRAY][best.index].request.count > 1;
                    self.issue(&best, probe);
                    if self.fruitless > PATIENCE.saturating_mul(self.refreshes.map_or(1, |r| r.sets)) {
                        return Err(self.livelock());
                    }
                    if best.at > horizon {
                        return Ok(Advance::Ahead(best.at));
                    }
                    let mut last = None;
                    if matches!(best.class, ARRAY | MOVES) {
                        last = self.move_burst(horizon, probe);
                    }
                    if runs_on && last.is_none() {
                        last = self.burst(&best, horizon, probe);
                    }
                    if let Some(at) = last.filter(|at| *at > horizon) {
                        return Ok(Advance::Ahead(at));
                    }
                }
                Choice::Completed => {}
                Choice::Nothing if self.classes.iter().all(VecDeque::is_empty) => return Ok(Advance::Done),
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

    /// The command to issue next: the best of what array work, moves, data, a refresh and the row policy offer. Requests that
    /// need no command are completed on the way, one a call.
    fn choose<P: Probe>(&mut self, probe: &mut P) -> Result<Choice> {
        let stands = self.look_stands();
        if stands
            && self.schedule.rules().bank_feed.is_none()
            && let Some(next) = self.settled()
        {
            return Ok(Choice::Issue(next));
        }
        let mut offers: [Option<Candidate>; OFFERS] = [None; OFFERS];
        let mut picked = None;
        if stands {
            offers[1] = self.standing_column().filter(|c| self.comes_before_refresh(c));
            self.move_candidates(&mut offers);
            let (first, held) = self.pick(&offers);
            picked =
                first.filter(|place| offers[*place].is_some_and(|c| self.is_clear_of_rows(&c))).map(|_| (first, held));
        }
        // The first that can issue, or one that it gives way to; `held` are those that do.
        let (first, held) = match picked {
            Some(picked) => picked,
            None => {
                match self.array_candidates(&mut offers)? {
                    ArrayLook::NeedsNoCommand(index) => {
                        // A refresh may have closed what it asks to be closed.
                        let now = self.now.max(self.last[ARRAY]).max(self.arrival(&self.classes[ARRAY][index]));
                        self.complete(ARRAY, index, now, None, probe);
                        return Ok(Choice::Completed);
                    }
                    ArrayLook::Offers(standing) => self.standing = standing,
                }
                if let Some((index, done)) = self.forwarded() {
                    self.complete(DATA, index, done, None, probe);
                    return Ok(Choice::Completed);
                }
                if !stands {
                    self.move_candidates(&mut offers);
                }
                if !self.classes[DATA].is_empty() {
                    let of_data = self.data_candidates();
                    self.standing_data(&of_data);
                    offers[4..].copy_from_slice(&of_data);
                }
                let (of_banks, of_data) = offers.split_at_mut(4);
                // A refresh of all banks that is due by then holds all but moves, which touch no bank.
                for slot in of_banks[..2].iter_mut().chain(of_data) {
                    if slot.as_ref().is_some_and(|c| !self.comes_before_refresh(c)) {
                        *slot = None;
                    }
                }
                self.pick(&offers)
            }
        };
        self.standing.moves_from = offers[2..4].iter().flatten().map(|c| c.at).min().unwrap_or(Cycle::MAX);
        let of_pairs = (first.and_then(|place| offers[place]), held);
        let (mut best, held) = if self.looks_ahead() { self.play(&offers, of_pairs)? } else { of_pairs };
        let due = self.next_refresh.filter(|_| self.classes.iter().any(|c| !c.is_empty()));
        // The refresh itself competes as soon as it is due, and goes first on a tie: its order is below all others.
        if due.is_some_and(|due| best.is_none_or(|b| b.at >= due.at))
            && let Some(refresh) = self.refresh_candidate()
            && best.is_none_or(|b| (refresh.at, refresh.order) < (b.at, b.order))
        {
            best = Some(refresh);
        }
        if let Some(closes_alone) = self.policies.rows.closes_alone {
            best = closes_alone(self, best.map_or(Cycle::MAX, |b| b.at)).or(best);
        }
        // A request that moves to its bank's queue before that may have an earlier command.
        if self.feeds_before(best.map_or(Cycle::MAX, |b| b.at)) {
            return Ok(Choice::Completed);
        }
        // Those that give way count it, and do not for ever.
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

    fn candidate(&self, class: usize, index: usize, command: CommandId, target: CommandTarget) -> Candidate {
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

    /// The first ready among the moves of this epoch, and the first of another kind; softmax and mode settings neither
    /// pass others nor are passed.
    fn move_candidates(&self, offers: &mut [Option<Candidate>; OFFERS]) {
        let mut soonest: [Option<(Cycle, usize, CommandId)>; 2] = [None; 2];
        let mut seen = 0;
        // The cycle before which no command of a kind comes, whatever its place.
        let mut before: Option<(CommandId, Cycle)> = None;
        let timed = self.is_timed();
        for (index, item) in self.classes[MOVES].iter().enumerate() {
            let free = item.effect == Effect::Move;
            if item.epoch != self.epoch || !free && index > 0 || seen >= self.depth {
                break;
            }
            seen += u64::from(item.request.count);
            let command = item.plan.last;
            let kind = usize::from(soonest[0].is_some_and(|(_, _, first)| first != command));
            let arrives = if timed { self.arrival(item) } else { 0 };
            let of_kind = match before {
                Some((same, at)) if same == command => at,
                _ => self.first_move(command),
            };
            before = Some((command, of_kind));
            let at = of_kind.max(arrives).max(self.state.earliest(command, &item.target));
            if soonest[kind].is_none_or(|(best, ..)| at < best) {
                soonest[kind] = Some((at, index, command));
            }
            if !free {
                break;
            }
        }
        for (offer, (_, index, command)) in offers[2..4].iter_mut().zip(soonest).filter_map(|(o, s)| Some((o, s?))) {
            *offer = Some(self.candidate(MOVES, index, command, self.classes[MOVES][index].target));
        }
    }

    /// A cycle before which a class cannot issue a command anywhere.
    fn soonest(&self, command: CommandId, class: usize) -> Cycle {
        let bus = self.bus_free[self.bus(self.device.commands[usize::from(command)].bus)];
        self.state.earliest_anywhere(command).max(bus).max(self.last[class]).max(self.now)
    }
}
