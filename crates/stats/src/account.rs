//! Where the time of a channel goes: every cycle to one cause, and to the work that it was spent for.
//!
//! A command is in progress for a while: a MAC until the next one may come, a row command until the row may be used (or
//! opened again), a move or an access until the next one may come, softmax until its result is there, a refresh until
//! rows may open. A cycle belongs to the first of {MAC, refresh, softmax, data movement, row switch} that is in progress
//! in it, or else to a refresh of a part of the banks, unless data is on its way. Where nothing is, it belongs to what the next command ends: a row switch if that opens or closes a row, a
//! refresh if it is one (and then so does the closing before it), else to data that is on its way, else to a stall.
//! While the host works, or the channel waits for others, nothing else counts.
//!
//! Cycles are kept as bank-cycles, so that a MAC of a part of the banks is split without rounding. Rounding happens once
//! for each row that is written, by [`apportion`].

use super::counters::Counters;
use pimattn_core::addr::Geometry;
use pimattn_core::spec::tables::MAX_COMMANDS;
use pimattn_core::spec::{Activity, Device, Effect, Scope};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::CommandEvent;
use pimattn_trace::Phase;

/// What a cycle is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// Multiplying, by the banks that do.
    Mac,
    /// Closing and opening rows.
    RowSwitch,
    /// Banks that idle while others multiply, or switch rows in order to.
    ImbalanceUnits,
    /// Waiting for other channels.
    ImbalanceChannels,
    /// Buffer moves, reads and writes.
    Movement,
    /// Softmax.
    Softmax,
    /// Refresh.
    Refresh,
    /// Waiting for results, for the host, or for arrivals.
    Stall,
}

/// How many causes there are.
pub const CAUSES: usize = 8;

/// Time by cause, in bank-cycles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    spent: [u64; CAUSES],
    /// Row switches of which it is not yet known how many banks they are for.
    switching: u64,
}

impl Time {
    /// Bank-cycles of each cause.
    pub fn spent(&self) -> &[u64; CAUSES] {
        &self.spent
    }

    /// All bank-cycles.
    pub fn total(&self) -> u64 {
        self.spent.iter().sum::<u64>() + self.switching
    }

    /// Adds other time to this.
    pub fn add(&mut self, other: &Time) {
        self.add_times(other, 1);
    }

    /// Adds other time so many times.
    pub fn add_times(&mut self, other: &Time, times: u64) {
        self.spent.iter_mut().zip(&other.spent).for_each(|(a, b)| *a += b * times);
        self.switching += other.switching * times;
    }

    /// The open row switches, which are taken out.
    pub fn take_open(&mut self) -> u64 {
        std::mem::take(&mut self.switching)
    }

    /// Puts open row switches in.
    pub fn put_open(&mut self, switching: u64) {
        self.switching += switching;
    }

    /// Splits the open row switches: `active` of `banks` banks were to work.
    pub fn settle(&mut self, active: u64, banks: u64) {
        let cycles = std::mem::take(&mut self.switching) / banks;
        self.spent[Cause::RowSwitch as usize] += cycles * active;
        self.spent[Cause::ImbalanceUnits as usize] += cycles * (banks - active);
    }
}

/// Whole numbers in the ratio of `parts` that add up to `total`: each rounded down, then up in the order of what that
/// lost, the first on a tie. All zero where all parts are.
pub fn apportion<const N: usize>(parts: &[u64; N], total: u64) -> [u64; N] {
    let whole: u128 = parts.iter().map(|p| u128::from(*p)).sum();
    if whole == 0 {
        return [0; N];
    }
    let exact = parts.map(|p| u128::from(p) * u128::from(total));
    let mut out = exact.map(|e| (e / whole) as u64);
    let mut by_loss: [usize; N] = std::array::from_fn(|i| i);
    by_loss.sort_by_key(|i| std::cmp::Reverse(exact[*i] % whole));
    let missing = total - out.iter().sum::<u64>();
    by_loss.iter().take(missing as usize).for_each(|i| out[*i] += 1);
    out
}

/// The banks of a channel, and for how long each command is in progress.
pub struct Durations {
    banks: u64,
    cycles: [Cycle; MAX_COMMANDS],
    /// Until the data of an access is there.
    done: [Cycle; MAX_COMMANDS],
    /// Of a softmax, for each entry that its address names.
    per_entry: [Cycle; MAX_COMMANDS],
    geometry: Geometry,
    effects: [Effect; MAX_COMMANDS],
    /// Refreshes that leave banks to work on.
    partial: [bool; MAX_COMMANDS],
}

impl Durations {
    /// Those of a device: the longest constraint from the command to what it is for.
    pub fn new(device: &Device) -> Self {
        let mut out = Durations {
            banks: u64::from(device.geometry.banks_per_channel()),
            cycles: [1; MAX_COMMANDS],
            done: [0; MAX_COMMANDS],
            per_entry: [0; MAX_COMMANDS],
            geometry: device.geometry,
            effects: [Effect::Configure; MAX_COMMANDS],
            partial: [false; MAX_COMMANDS],
        };
        for (id, command) in device.commands.iter().enumerate() {
            let longest = |to: &dyn Fn(usize) -> bool| {
                let edges = command.edges.iter().filter(|e| to(usize::from(e.to)));
                edges.map(|e| Cycle::from(e.latency)).max().unwrap_or(1)
            };
            let effect = |i: usize| device.commands[i].effect;
            out.cycles[id] = match command.effect {
                Effect::Open => longest(&|i| effect(i).needs_row()),
                Effect::Close | Effect::Refresh => longest(&|i| effect(i).opens()),
                Effect::Softmax => longest(&|i| i == id).max(command.done),
                _ => longest(&|i| i == id),
            };
            if command.effect.properties().moves_data {
                out.done[id] = command.done;
            }
            out.per_entry[id] = command.per_entry;
            out.effects[id] = command.effect;
            out.partial[id] = command.effect.refreshes() && command.scope != Scope::Channel;
        }
        out
    }

    /// Banks of a channel.
    pub fn banks(&self) -> u64 {
        self.banks
    }

    /// Cycles that the MACs, reads and writes counted would take one behind the other at their shortest distance: the work
    /// of an array, however much of it went on at the same time as other work.
    pub fn work(&self, counters: &Counters) -> Cycle {
        let all = self.effects.iter().zip(&counters.issued).zip(&self.cycles);
        all.filter(|((effect, _), _)| effect.needs_row()).map(|((_, n), cycles)| n * cycles).sum()
    }
}

/// Where a channel's time is written down.
pub trait Ledger {
    /// The time of a phase of a segment.
    fn time(&mut self, work: Work) -> &mut Time;
    /// [`Time::settle`] for all times of the channel.
    fn settle(&mut self, active: u64, banks: u64);
    /// The time that the channel waits for others.
    fn waiting(&mut self) -> &mut Time;
}

/// Whose time it is: a segment of the channel, 0 for none, and a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// The segment.
    pub segment: u32,
    /// The phase.
    pub phase: Phase,
}

/// What can be in progress, the first of them first.
const MAC: usize = 0;
const REFRESH: usize = 1;
const SOFTMAX: usize = 2;
const MOVEMENT: usize = 3;
const ROW: usize = 4;
const PARTIAL: usize = 5;
const IN_PROGRESS: [Cause; 6] =
    [Cause::Mac, Cause::Refresh, Cause::Softmax, Cause::Movement, Cause::RowSwitch, Cause::Refresh];

#[derive(Clone, Copy, Default, PartialEq)]
struct Progress {
    until: Cycle,
    work: Work,
}

/// A command, as far as the account needs it.
#[derive(Clone, Copy, PartialEq)]
struct Event {
    cycle: Cycle,
    command: usize,
    banks: u32,
    /// Cycles of work on top of the command's own.
    more: Cycle,
    work: Work,
}

/// The account of one channel, up to a frontier that commands push ahead.
#[derive(Clone, Default, PartialEq)]
pub struct Sweep {
    /// All cycles before it are written down.
    at: Cycle,
    progress: [Progress; IN_PROGRESS.len()],
    /// Banks of the MAC in progress.
    mac_banks: u64,
    /// Data on its way.
    data: Progress,
    /// Whose the last command was.
    last: Work,
    /// The host's work, which is written down already.
    host: (Cycle, Cycle),
    /// Row commands of which nothing has come yet: a refresh may be the last of a run, and later than its end.
    waiting: Vec<Event>,
    /// Whether a row switch waits for [`Ledger::settle`].
    switching: bool,
}

impl Sweep {
    /// A command for `work`.
    pub fn command(&mut self, e: &CommandEvent, work: Work, durations: &Durations, ledger: &mut impl Ledger) {
        let command = usize::from(e.command);
        let more = match durations.per_entry[command] {
            0 => 0,
            cycles => cycles * durations.geometry.softmax_entries(&e.address),
        };
        let event = Event { cycle: e.cycle, command, banks: e.banks, more, work };
        if e.completes.is_none() && {
            let effect = durations.effects[event.command];
            effect.is_row_command() || effect.refreshes()
        } {
            // Time that is written down already cannot be another's: the refreshes of a channel that waits do not gather.
            if self.waiting.is_empty() && event.cycle <= self.at {
                return self.take(&event, durations, ledger);
            }
            return self.waiting.push(event);
        }
        self.catch_up(Cycle::MAX, durations, ledger);
        self.take(&event, durations, ledger);
    }

    /// The host works for `work` from `begin` on.
    pub fn host(&mut self, begin: Cycle, cycles: Cycle, work: Work, durations: &Durations, ledger: &mut impl Ledger) {
        let begin = begin.max(self.at);
        // Between two works of the host without a command the time is the second one's.
        let (first, from) = if self.host.1 > self.at { self.host } else { (begin, begin) };
        let until = (begin + cycles).max(from);
        ledger.time(work).spent[Cause::Stall as usize] += (until - from) * durations.banks;
        self.host = (first, until);
    }

    /// The channel's work ends at `done`, and it waits for others until `met`.
    pub fn wait(&mut self, done: Cycle, met: Cycle, durations: &Durations, ledger: &mut impl Ledger) {
        self.catch_up(met, durations, ledger);
        self.advance(done.min(met), None, durations, ledger);
        self.settle(durations.banks, durations, ledger);
        ledger.waiting().spent[Cause::ImbalanceChannels as usize] += met.saturating_sub(self.at) * durations.banks;
        self.at = self.at.max(met);
        // All that was under way has met with the channels; but a refresh takes its time.
        let refreshes = [REFRESH, PARTIAL].map(|slot| (slot, self.progress[slot].until));
        self.progress = Default::default();
        for (slot, until) in refreshes {
            self.progress[slot] = Progress { until, work: Work::default() };
        }
        (self.data, self.last) = (Progress::default(), Work::default());
    }

    /// Moves it to another time, `from` becoming `to`. None where something lies too far back. What is over is forgotten.
    pub fn shifted(mut self, from: Cycle, to: Cycle) -> Option<Sweep> {
        let at = self.at;
        let moved = |cycle: Cycle| (cycle + to).checked_sub(from);
        for p in self.progress.iter_mut().chain([&mut self.data]) {
            *p = if p.until <= at { Progress::default() } else { Progress { until: moved(p.until)?, ..*p } };
        }
        if self.progress[MAC].until == 0 {
            self.mac_banks = 0;
        }
        self.host = if self.host.1 <= at { (0, 0) } else { (moved(self.host.0)?, moved(self.host.1)?) };
        for event in &mut self.waiting {
            event.cycle = moved(event.cycle)?;
        }
        self.at = moved(at)?;
        Some(self)
    }

    /// Equal for equal accounts.
    pub fn digest(&self) -> u64 {
        let ends = self.progress.iter().chain([&self.data]).map(|p| p.until);
        ends.chain(self.waiting.iter().map(|e| e.cycle))
            .fold(self.at, |d, at| (d.rotate_left(7) ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Whether all of it is for no segment.
    pub fn is_loose(&self) -> bool {
        let works = self.progress.iter().chain([&self.data]).map(|p| p.work).chain([self.last]);
        works.chain(self.waiting.iter().map(|e| e.work)).all(|w| w.segment == 0)
    }

    /// How far the account is.
    pub fn frontier(&self) -> Cycle {
        self.at
    }

    /// Up to when time may still be written down for a segment that is complete.
    pub fn owes_until(&self, segment: u32, durations: &Durations) -> Cycle {
        let ends = self.progress.iter().chain([&self.data]).filter(|p| p.work.segment == segment).map(|p| p.until);
        let waiting = self.waiting.iter().filter(|e| e.work.segment == segment);
        ends.chain(waiting.map(|e| e.cycle + durations.cycles[e.command])).max().unwrap_or(0)
    }

    /// Takes the row commands that wait, up to `end`.
    fn catch_up(&mut self, end: Cycle, durations: &Durations, ledger: &mut impl Ledger) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let ready = waiting.iter().take_while(|e| e.cycle <= end).count();
        waiting[..ready].iter().for_each(|e| self.take(e, durations, ledger));
        self.waiting = waiting;
        self.waiting.drain(..ready);
    }

    #[inline]
    fn take(&mut self, event: &Event, durations: &Durations, ledger: &mut impl Ledger) {
        let effect = durations.effects[event.command];
        let partial = durations.partial[event.command];
        self.advance(event.cycle, Some((effect, partial, event.work)), durations, ledger);
        let slot = match effect.properties().activity {
            Activity::Mac => MAC,
            Activity::Refresh if partial => PARTIAL,
            Activity::Refresh => REFRESH,
            Activity::Softmax => SOFTMAX,
            Activity::Movement => MOVEMENT,
            Activity::RowSwitch => ROW,
        };
        let until = event.cycle + durations.cycles[event.command] + event.more;
        self.last = event.work;
        let progress = &mut self.progress[slot];
        *progress = Progress { until: until.max(progress.until), work: event.work };
        if effect.multiplies() {
            let all = effect == Effect::Mac;
            self.mac_banks = if all { durations.banks } else { u64::from(event.banks).min(durations.banks) };
            self.settle(self.mac_banks, durations, ledger);
        } else if effect.properties().moves_data {
            let until = event.cycle + durations.done[event.command];
            self.data = Progress { until: until.max(self.data.until), work: event.work };
            if effect.is_data() {
                self.settle(durations.banks, durations, ledger);
            }
        }
    }

    #[inline]
    fn settle(&mut self, active: u64, durations: &Durations, ledger: &mut impl Ledger) {
        if std::mem::take(&mut self.switching) {
            ledger.settle(active, durations.banks);
        }
    }

    /// Writes the time up to `to` down; `next` is the command that comes then.
    #[inline]
    fn advance(
        &mut self,
        to: Cycle,
        next: Option<(Effect, bool, Work)>,
        durations: &Durations,
        ledger: &mut impl Ledger,
    ) {
        while self.at < to {
            let mut until = to;
            if self.host.1 > self.at {
                if self.host.0 <= self.at {
                    self.at = self.host.1.min(to);
                    continue;
                }
                until = until.min(self.host.0);
            }
            let (cause, end, work) = match self.progress.iter().position(|p| p.until > self.at) {
                Some(ROW) if next.is_some_and(|(effect, partial, _)| effect.refreshes() && !partial) => {
                    (Cause::Refresh, self.progress[ROW].until, self.progress[ROW].work)
                }
                // Data on its way does not wait for the banks that are refreshed.
                Some(PARTIAL) if self.data.until > self.at => {
                    let end = self.data.until.min(self.progress[PARTIAL].until);
                    (Cause::Movement, end, self.data.work)
                }
                Some(slot) => (IN_PROGRESS[slot], self.progress[slot].until, self.progress[slot].work),
                None => self.idle(next),
            };
            until = until.min(end);
            self.credit(cause, until - self.at, work, durations.banks, ledger);
            self.at = until;
        }
    }

    /// Whose time it is that nothing is in progress, and until when.
    fn idle(&self, next: Option<(Effect, bool, Work)>) -> (Cause, Cycle, Work) {
        match next {
            Some((effect, _, work)) if effect.is_row_command() => (Cause::RowSwitch, Cycle::MAX, work),
            Some((effect, _, work)) if effect.refreshes() => (Cause::Refresh, Cycle::MAX, work),
            _ if self.data.until > self.at => (Cause::Movement, self.data.until, self.data.work),
            Some((_, _, work)) => (Cause::Stall, Cycle::MAX, work),
            None => (Cause::Stall, Cycle::MAX, self.last),
        }
    }

    #[inline]
    fn credit(&mut self, cause: Cause, cycles: Cycle, work: Work, banks: u64, ledger: &mut impl Ledger) {
        let time = ledger.time(work);
        match cause {
            Cause::Mac => {
                time.spent[Cause::Mac as usize] += cycles * self.mac_banks;
                time.spent[Cause::ImbalanceUnits as usize] += cycles * (banks - self.mac_banks);
            }
            Cause::RowSwitch => {
                time.switching += cycles * banks;
                self.switching = true;
            }
            other => time.spent[other as usize] += cycles * banks,
        }
    }
}
