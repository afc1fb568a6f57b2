//! Time by cause: assigns every cycle of a channel to one cause, and to the work that it was spent for.
//!
//! *How long a command is in progress* ([`Durations`]): a MAC, a move or an access until the next one may come; a row
//! command until the row may be used (or opened again); softmax until its result is available; a refresh until rows may
//! open.
//!
//! *Which cause gets a cycle* ([`ChannelAccount`]), the first that applies:
//!
//! 1. The host works, or the channel waits for others: nothing else counts.
//! 2. The first of {MAC, refresh, softmax, data movement, row switch} that is in progress. A row switch before a refresh of
//!    all banks counts as refresh.
//! 3. A refresh of a part of the banks, unless data is in flight; then data movement.
//! 4. Nothing is in progress: the cycle counts for the next command, as a row switch if that opens or closes a row, as
//!    refresh if it is one. Otherwise it counts for data in flight, else as a stall.
//!
//! The sweep moves a frontier forward from command to command, and credits the cycles that it passes. How many banks a row
//! switch was for is only known at the access that follows it, so row switches stay open until then ([`Time::settle`]).
//!
//! Time is kept in bank-cycles, so that a MAC of a part of the banks is split without rounding. Rounding happens once for
//! each row that is written, by [`apportion`].

use super::counters::Counters;
use pimattn_core::addr::Geometry;
use pimattn_core::columns;
use pimattn_core::spec::tables::MAX_COMMANDS;
use pimattn_core::spec::{Activity, CommandId, Device, Effect, Scope};
use pimattn_core::table::{Column, column};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandBurst, CommandEvent};
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
pub const CAUSES: usize = Cause::ALL.len();

impl Cause {
    /// All causes, in the order of the tables.
    pub const ALL: [Cause; 8] = [
        Cause::Mac,
        Cause::RowSwitch,
        Cause::ImbalanceUnits,
        Cause::ImbalanceChannels,
        Cause::Movement,
        Cause::Softmax,
        Cause::Refresh,
        Cause::Stall,
    ];

    /// The column of its time.
    pub const fn column(self) -> Column {
        let (name, meaning) = match self {
            Cause::Mac => (
                columns::TIME_MAC,
                "MAC bound: a MAC in progress, by the share of banks that multiply; with the columns down to time_stall it adds up to cycles",
            ),
            Cause::RowSwitch => (
                columns::TIME_ROW_SWITCH,
                "rows closing and opening (or waiting for their turn to) and no MAC, move, softmax or refresh in progress; before a MAC by the share of banks that it is for",
            ),
            Cause::ImbalanceUnits => (
                columns::TIME_IMBALANCE_UNITS,
                "banks that idle in the two above: units with nothing open for PIM_MAC_BG",
            ),
            Cause::ImbalanceChannels => (
                columns::TIME_IMBALANCE_CHANNELS,
                "waiting for other channels at a sync or at the end, whatever else goes on",
            ),
            Cause::Movement => (
                columns::TIME_DATA_MOVEMENT,
                "buffer moves, reads and writes in progress, or data on its way that nothing passes",
            ),
            Cause::Softmax => (columns::TIME_SOFTMAX, "softmax in progress"),
            Cause::Refresh => (
                columns::TIME_REFRESH,
                "refresh of all banks, with the closing of rows that it demands; of a part of them where nothing else is in progress or on its way",
            ),
            Cause::Stall => (
                columns::TIME_STALL,
                "nothing in progress: waiting for results, for arrivals, or for the host, whatever else goes on",
            ),
        };
        column(name, "tCK", meaning)
    }
}

/// Time by cause, in bank-cycles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    spent: [u64; CAUSES],
    /// Open row switches: it is not yet known for how many banks they are.
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

    /// Adds other time, multiplied by `times`.
    pub fn add_times(&mut self, other: &Time, times: u64) {
        self.spent.iter_mut().zip(&other.spent).for_each(|(a, b)| *a += b * times);
        self.switching += other.switching * times;
    }

    /// Takes the open row switches out, and returns them.
    pub fn take_open(&mut self) -> u64 {
        std::mem::take(&mut self.switching)
    }

    /// Adds open row switches.
    pub fn put_open(&mut self, switching: u64) {
        self.switching += switching;
    }

    /// Splits the open row switches: they were for `active` of `banks` banks, and the others were idle.
    pub fn settle(&mut self, active: u64, banks: u64) {
        let cycles = std::mem::take(&mut self.switching) / banks;
        self.spent[Cause::RowSwitch as usize] += cycles * active;
        self.spent[Cause::ImbalanceUnits as usize] += cycles * (banks - active);
    }
}

/// Whole numbers in the ratio of `parts` that add up to `total` (largest remainder). Each is rounded down; those that lost
/// the most are then rounded up, the first on a tie. All are zero if all parts are.
pub fn apportion<const N: usize>(parts: &[u64; N], total: u64) -> [u64; N] {
    let (mut out, mut by_loss) = ([0; N], std::array::from_fn::<usize, N, _>(|i| i));
    share_out(parts, total, &mut out, &mut by_loss);
    out
}

/// As [`apportion`], of any number of parts.
pub fn apportion_all(parts: &[u64], total: u64) -> Vec<u64> {
    let (mut out, mut by_loss) = (vec![0; parts.len()], (0..parts.len()).collect::<Vec<_>>());
    share_out(parts, total, &mut out, &mut by_loss);
    out
}

/// Writes the shares to `out`, which holds zeros; `by_loss` holds the indices of all parts.
fn share_out(parts: &[u64], total: u64, out: &mut [u64], by_loss: &mut [usize]) {
    let whole: u128 = parts.iter().map(|p| u128::from(*p)).sum();
    if whole == 0 {
        return;
    }
    let exact = |i: usize| u128::from(parts[i]) * u128::from(total);
    out.iter_mut().enumerate().for_each(|(i, share)| *share = (exact(i) / whole) as u64);
    by_loss.sort_by_key(|i| std::cmp::Reverse(exact(*i) % whole));
    let missing = total - out.iter().sum::<u64>();
    by_loss.iter().take(missing as usize).for_each(|i| out[*i] += 1);
}

/// For how long each command is in progress, and the banks of a channel.
pub struct Durations {
    banks: u64,
    cycles: [Cycle; MAX_COMMANDS],
    /// Cycles until the data of an access is available.
    done: [Cycle; MAX_COMMANDS],
    /// Cycles of a softmax for each entry that its address names.
    per_entry: [Cycle; MAX_COMMANDS],
    geometry: Geometry,
    effects: [Effect; MAX_COMMANDS],
    /// Whether the command is a refresh of only a part of the banks.
    partial: [bool; MAX_COMMANDS],
}

impl Durations {
    /// The durations of a device: the longest constraint from each command to the commands that it enables.
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

    /// Cycles that a command is in progress, of a softmax those of its entries left out.
    #[inline]
    pub fn cycles(&self, command: CommandId) -> Cycle {
        self.cycles[usize::from(command)]
    }

    /// Cycles that the counted MACs, reads and writes would take one after the other at their shortest distance. This is the
    /// work of the array, whatever else went on at the same time.
    pub fn work(&self, counters: &Counters) -> Cycle {
        let all = self.effects.iter().zip(&counters.issued).zip(&self.cycles);
        all.filter(|((effect, _), _)| effect.needs_row()).map(|((_, n), cycles)| n * cycles).sum()
    }
}

/// The destination of a channel's time.
pub trait Ledger {
    /// The time of a phase of a segment.
    fn time(&mut self, work: TimeOwner) -> &mut Time;
    /// [`Time::settle`] for all times of the channel.
    fn settle(&mut self, active: u64, banks: u64);
    /// The time that the channel spends waiting for others.
    fn waiting(&mut self) -> &mut Time;
    /// The cycles `from..to` have been credited to a cause of some work, in the order of time.
    #[inline]
    fn spent(&mut self, _from: Cycle, _to: Cycle, _cause: Cause, _work: TimeOwner) {}
    /// The host has these cycles, as [`Cause::Stall`]. Told ahead: what comes before `from` may be told later.
    #[inline]
    fn hosted(&mut self, _from: Cycle, _to: Cycle, _work: TimeOwner) {}
    /// The channel has waited for others in these cycles.
    #[inline]
    fn waited(&mut self, _from: Cycle, _to: Cycle) {}
}

/// The work that time is spent for: a segment of the channel, 0 for none, and a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeOwner {
    /// The segment.
    pub segment: u32,
    /// The phase.
    pub phase: Phase,
}

/// The kinds of commands that can be in progress, in the order in which they claim a cycle.
const MAC: usize = 0;
const REFRESH: usize = 1;
const SOFTMAX: usize = 2;
const MOVEMENT: usize = 3;
const ROW: usize = 4;
const PARTIAL: usize = 5;
const IN_PROGRESS: [Cause; 6] =
    [Cause::Mac, Cause::Refresh, Cause::Softmax, Cause::Movement, Cause::RowSwitch, Cause::Refresh];

#[derive(Clone, Copy, Default, PartialEq)]
struct WorkInProgress {
    until: Cycle,
    work: TimeOwner,
}

/// The properties of a command that the account needs.
#[derive(Clone, Copy, PartialEq)]
struct AccountedCommand {
    cycle: Cycle,
    command: usize,
    banks: u32,
    /// Cycles of work on top of the command's own.
    more: Cycle,
    work: TimeOwner,
}

/// The account of one channel, up to a frontier that moves forward with the commands.
#[derive(Clone, Default, PartialEq)]
pub struct ChannelAccount {
    /// The frontier: all cycles before it have been credited.
    at: Cycle,
    progress: [WorkInProgress; IN_PROGRESS.len()],
    /// Banks of the MAC in progress.
    mac_banks: u64,
    /// Data in flight.
    data: WorkInProgress,
    /// The work of the last command.
    last: TimeOwner,
    /// Begin and end of the host's work, which has been credited already.
    host: (Cycle, Cycle),
    /// Row commands and refreshes that no other command has followed yet. They wait, because a refresh may be the last
    /// command of a run, and later than its end.
    waiting: Vec<AccountedCommand>,
    /// Whether an open row switch waits for [`Ledger::settle`].
    switching: bool,
}

impl ChannelAccount {
    /// Takes a command for `work`.
    pub fn command(&mut self, e: &CommandEvent, work: TimeOwner, durations: &Durations, ledger: &mut impl Ledger) {
        let command = usize::from(e.command);
        let more = match durations.per_entry[command] {
            0 => 0,
            cycles => cycles * durations.geometry.softmax_entries(&e.address),
        };
        let event = AccountedCommand { cycle: e.cycle, command, banks: e.banks, more, work };
        if e.completes.is_none() && {
            let effect = durations.effects[event.command];
            effect.is_row_command() || effect.refreshes()
        } {
            // A command before the frontier changes no credited time, so it need not wait. Thus the refreshes of a channel
            // that waits for others do not pile up.
            if self.waiting.is_empty() && event.cycle <= self.at {
                return self.take(&event, durations, ledger);
            }
            return self.waiting.push(event);
        }
        self.catch_up(Cycle::MAX, durations, ledger);
        self.take(&event, durations, ledger);
    }

    /// Takes MACs for `work` that follow one another, each as soon as the one before it is no more in progress.
    pub fn macs(&mut self, burst: &CommandBurst<'_>, work: TimeOwner, durations: &Durations, ledger: &mut impl Ledger) {
        self.command(&burst.first, work, durations, ledger);
        if burst.count > 1 {
            // So the cycles from the first to the last are all of MACs, which come before everything else.
            let last = CommandEvent { cycle: burst.last_cycle(), ..burst.first };
            self.progress[MAC].until = self.progress[MAC].until.max(last.cycle);
            self.command(&last, work, durations, ledger);
        }
    }

    /// The host works on `work` for `cycles` from `begin` on.
    pub fn host(
        &mut self,
        begin: Cycle,
        cycles: Cycle,
        work: TimeOwner,
        durations: &Durations,
        ledger: &mut impl Ledger,
    ) {
        let begin = begin.max(self.at);
        // If no command comes between two works of the host, the time between them counts for the second.
        let (first, from) = if self.host.1 > self.at { self.host } else { (begin, begin) };
        let until = (begin + cycles).max(from);
        ledger.time(work).spent[Cause::Stall as usize] += (until - from) * durations.banks;
        ledger.hosted(from, until, work);
        self.host = (first, until);
    }

    /// The channel's work ends at `done`, and it waits for others until `met`.
    pub fn wait(&mut self, done: Cycle, met: Cycle, durations: &Durations, ledger: &mut impl Ledger) {
        self.catch_up(met, durations, ledger);
        self.advance(done.min(met), None, durations, ledger);
        self.settle(durations.banks, durations, ledger);
        ledger.waiting().spent[Cause::ImbalanceChannels as usize] += met.saturating_sub(self.at) * durations.banks;
        if met > self.at {
            ledger.waited(self.at, met);
        }
        self.at = self.at.max(met);
        // Everything in progress has ended when the channels meet, except refreshes.
        let refreshes = [REFRESH, PARTIAL].map(|slot| (slot, self.progress[slot].until));
        self.progress = Default::default();
        for (slot, until) in refreshes {
            self.progress[slot] = WorkInProgress { until, work: TimeOwner::default() };
        }
        (self.data, self.last) = (WorkInProgress::default(), TimeOwner::default());
    }

    /// Shifts the account in time, so that cycle `from` becomes `to`, and drops what has ended. None if something lies too
    /// far back for that.
    pub fn shifted(mut self, from: Cycle, to: Cycle) -> Option<ChannelAccount> {
        let at = self.at;
        let moved = |cycle: Cycle| (cycle + to).checked_sub(from);
        for p in self.progress.iter_mut().chain([&mut self.data]) {
            *p =
                if p.until <= at { WorkInProgress::default() } else { WorkInProgress { until: moved(p.until)?, ..*p } };
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

    /// A hash that is equal for equal accounts.
    pub fn digest(&self) -> u64 {
        let ends = self.progress.iter().chain([&self.data]).map(|p| p.until);
        ends.chain(self.waiting.iter().map(|e| e.cycle))
            .fold(self.at, |d, at| (d.rotate_left(7) ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Whether none of the account is for a segment.
    pub fn is_loose(&self) -> bool {
        let works = self.progress.iter().chain([&self.data]).map(|p| p.work).chain([self.last]);
        works.chain(self.waiting.iter().map(|e| e.work)).all(|w| w.segment == 0)
    }

    /// The cycle up to which all time has been credited.
    pub fn frontier(&self) -> Cycle {
        self.at
    }

    /// The cycle until which time may still be credited to a segment that is complete.
    pub fn owes_until(&self, segment: u32, durations: &Durations) -> Cycle {
        let ends = self.progress.iter().chain([&self.data]).filter(|p| p.work.segment == segment).map(|p| p.until);
        let waiting = self.waiting.iter().filter(|e| e.work.segment == segment);
        ends.chain(waiting.map(|e| e.cycle + durations.cycles[e.command])).max().unwrap_or(0)
    }

    /// Takes the waiting row commands up to cycle `end`.
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
    fn take(&mut self, event: &AccountedCommand, durations: &Durations, ledger: &mut impl Ledger) {
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
        *progress = WorkInProgress { until: until.max(progress.until), work: event.work };
        if effect.multiplies() {
            let all = effect == Effect::Mac;
            self.mac_banks = if all { durations.banks } else { u64::from(event.banks).min(durations.banks) };
            self.settle(self.mac_banks, durations, ledger);
        } else if effect.properties().moves_data {
            let until = event.cycle + durations.done[event.command];
            self.data = WorkInProgress { until: until.max(self.data.until), work: event.work };
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

    /// Credits the time up to `to`; `next` is the command that comes then.
    #[inline]
    fn advance(
        &mut self,
        to: Cycle,
        next: Option<(Effect, bool, TimeOwner)>,
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
                // Data in flight does not wait for the banks that are refreshed.
                Some(PARTIAL) if self.data.until > self.at => {
                    let end = self.data.until.min(self.progress[PARTIAL].until);
                    (Cause::Movement, end, self.data.work)
                }
                Some(slot) => (IN_PROGRESS[slot], self.progress[slot].until, self.progress[slot].work),
                None => self.idle(next),
            };
            until = until.min(end);
            self.credit(cause, until - self.at, work, durations.banks, ledger);
            ledger.spent(self.at, until, cause, work);
            self.at = until;
        }
    }

    /// The cause and the work of the cycles in which nothing is in progress, and the end of these cycles.
    fn idle(&self, next: Option<(Effect, bool, TimeOwner)>) -> (Cause, Cycle, TimeOwner) {
        match next {
            Some((effect, _, work)) if effect.is_row_command() => (Cause::RowSwitch, Cycle::MAX, work),
            Some((effect, _, work)) if effect.refreshes() => (Cause::Refresh, Cycle::MAX, work),
            _ if self.data.until > self.at => (Cause::Movement, self.data.until, self.data.work),
            Some((_, _, work)) => (Cause::Stall, Cycle::MAX, work),
            None => (Cause::Stall, Cycle::MAX, self.last),
        }
    }

    #[inline]
    fn credit(&mut self, cause: Cause, cycles: Cycle, work: TimeOwner, banks: u64, ledger: &mut impl Ledger) {
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
