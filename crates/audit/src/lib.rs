//! Holds a command log against the device: an independent check of what an engine did.
//!
//! It is written from what a constraint *means*, not from how the engine keeps it: the banks of a command are a set,
//! two commands meet at a node if it has banks of both, and every command is held against those that came before it
//! within the longest latency. It shares the device's tables with the engine, as the file declares them, and nothing
//! else.
//!
//! - [`log`]: the lines;
//! - [`banks`]: sets of banks;
//! - [`why`]: what held each command until it came;
//! - [`report`]: violations, and the reference's defects that they are known by;
//! - here: the rules.

pub mod banks;
pub mod log;
pub mod report;
pub mod why;

use banks::{Banks, node_size};
use log::{LogEntry, LogEvent};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::device::{Bus, ConstraintSet, PowerPolicy};
use pimattn_core::spec::tables::DeclaredConstraint;
use pimattn_core::spec::{Command, CommandId, Device, Effect, Level, Refreshes, Scope, System};
use pimattn_core::units::Cycle;
use report::{Defect, Report, Rule, Violation};
use std::collections::VecDeque;
use std::path::Path;

/// Refreshes of every bank that may be postponed (JEDEC).
const POSTPONED: u64 = 8;
/// The row of an activation that does not say it.
const SOME_ROW: u32 = pimattn_core::addr::NOT_ADDRESSED;

/// Audits one log; of its violations the first `max` are kept, all are counted.
pub fn audit(path: &Path, system: &System, max: usize) -> Result<Report> {
    audit_until(&Cancel::new(), path, system, max)
}

/// [`audit`], unless `cancel` is requested.
///
/// # Errors
/// Those of [`audit`], and [`Error::Interrupted`](pimattn_core::error::Error::Interrupted).
pub fn audit_until(cancel: &Cancel, path: &Path, system: &System, max: usize) -> Result<Report> {
    let mut auditor = Auditor::new(system, max);
    log::read(cancel, path, &system.device, |entry| auditor.entry(&entry))?;
    Ok(auditor.finish())
}

/// A command of the recent past.
struct RecentCommand {
    clock: Cycle,
    command: CommandId,
    banks: Banks,
}

/// An open bank.
#[derive(Clone, Copy)]
struct OpenRow {
    row: u32,
    by: CommandId,
    /// It was opened while open.
    twice: bool,
}

#[derive(Clone, Copy, Default)]
struct Bank {
    open: Option<OpenRow>,
    closed_by: Option<CommandId>,
}

struct Channel {
    clock: Cycle,
    /// Commands that a constraint may still hold against.
    past: VecDeque<RecentCommand>,
    /// Per declared window and node, the last counted commands.
    counted: Vec<Vec<VecDeque<(Cycle, CommandId)>>>,
    banks: Vec<Bank>,
    /// When each half of the bus was last used.
    bus: [Cycle; 2],
    refreshes: u64,
    /// Banks that have had their turn, of those that have it one after the other.
    refreshed: Banks,
    /// When the results of the PIM commands so far are there.
    results: Cycle,
    /// When the data of reads and writes are.
    data: Cycle,
    /// The newest request that had a column command.
    newest: Option<u64>,
    /// The first request behind the last mark.
    epoch: u64,
    /// When the softmax unit has the entries of the last softmax behind it.
    softmax_free: Cycle,
}

/// Checks a log entry by entry. Its memory is bounded by the device, whatever the log says.
pub struct Auditor<'s> {
    system: &'s System,
    /// Declared constraints from one command to another, windows apart: `pairs[from * commands + to]`.
    pairs: Vec<Vec<usize>>,
    /// Per command, cycles until the last of its banks opens.
    spread: Vec<u32>,
    /// Longest latency.
    horizon: Cycle,
    channels: Vec<Option<Box<Channel>>>,
    max: usize,
    report: Report,
}

impl<'s> Auditor<'s> {
    /// Nothing read yet.
    pub fn new(system: &'s System, max: usize) -> Self {
        let device = &system.device;
        let pairs = pairs(device);
        let spread: Vec<u32> = device.commands.iter().map(|c| last_opening(device, c.effect, c.scope)).collect();
        let longest = device.declared.iter().map(|d| d.latency).max().unwrap_or(0);
        let horizon = Cycle::from(longest) + Cycle::from(spread.iter().copied().max().unwrap_or(0));
        let channels = (0..device.geometry.channels).map(|_| None).collect();
        let report = Report { tightest: vec![None; device.declared.len()], ..Report::default() };
        Auditor { system, pairs, spread, horizon, channels, max, report }
    }

    /// What was found.
    pub fn finish(self) -> Report {
        self.report
    }

    /// Checks one entry; an error says why it cannot be part of a log.
    pub fn entry(&mut self, e: &LogEntry) -> Result<(), String> {
        let system = self.system;
        let slot = &mut self.channels[e.channel as usize];
        let mut channel = slot.take().unwrap_or_else(|| Box::new(new_channel(&system.device)));
        let result = self.check(&mut channel, e);
        self.channels[e.channel as usize] = Some(channel);
        result
    }

    fn check(&mut self, channel: &mut Channel, e: &LogEntry) -> Result<(), String> {
        if e.clock < channel.clock {
            return Err(format!("cycle {} of channel {} comes after cycle {}", e.clock, e.channel, channel.clock));
        }
        channel.clock = e.clock;
        let LogEvent::Command(id) = e.what else {
            self.mark(channel, e);
            return Ok(());
        };
        let device = &self.system.device;
        let c = &device.commands[usize::from(id)];
        let banks = banks_of(e, c, &device.geometry)?;
        self.report.commands += 1;
        let bus = &mut channel.bus[c.bus as usize];
        if std::mem::replace(bus, e.clock) == e.clock {
            self.broken(e, Rule::Bus, -1, None);
        }
        self.refreshes(channel, e, id, &banks);
        self.edges(channel, e, id, &banks);
        self.windows(channel, e, id, &banks);
        self.rows(channel, e, id, &banks);
        if c.effect.multiplies() || c.effect.is_buffer_work() {
            let at = Address { row: e.fields[4], column: e.fields[5], ..Address::default() };
            if c.effect == Effect::Softmax && e.clock < channel.softmax_free {
                self.broken(e, Rule::Softmax, slack(e.clock, channel.softmax_free), None);
            }
            channel.softmax_free = channel.softmax_free.max(e.clock + device.work(id, &at));
            channel.results = channel.results.max(e.clock + device.done(id, &at));
        }
        if c.effect.is_data() {
            channel.data = channel.data.max(e.clock.saturating_add(c.done));
        }
        if let Some(request) = e.request.filter(|_| c.bus == Bus::Column) {
            channel.newest = channel.newest.max(Some(request));
            if request < channel.epoch {
                self.broken(e, Rule::Epoch, 0, None);
            }
        }
        Ok(())
    }

    /// What is ahead of a mark has its results by then, and what is behind it begins then. The reference's barriers, which
    /// name no request, wait for no data of reads and writes.
    fn mark(&mut self, channel: &mut Channel, e: &LogEntry) {
        let there = if e.request.is_some() { channel.results.max(channel.data) } else { channel.results };
        // Those that are there need not be through when others arrive.
        let arrives = e.what == LogEvent::Mark(log::LogMark::Arrival);
        if there > e.clock && !arrives {
            self.broken(e, Rule::Barrier, slack(e.clock, there), None);
        }
        if let Some(first) = e.request {
            channel.epoch = if arrives { channel.epoch } else { first };
            if channel.newest.is_some_and(|newest| newest >= first) {
                self.broken(e, Rule::Epoch, 0, None);
            }
        }
    }

    fn broken(&mut self, e: &LogEntry, rule: Rule, slack: i64, defect: Option<Defect>) {
        let (line, clock, channel, what) = (e.line, e.clock, e.channel, e.what);
        self.report.add(Violation { line, clock, channel, what, rule, slack, defect }, self.max);
    }

    /// Every bank has its turn once in nREFI, and none a second one before all others. A log is over when it is over: what
    /// is due at its end is not asked for.
    fn refreshes(&mut self, channel: &mut Channel, e: &LogEntry, id: CommandId, banks: &Banks) {
        let system = self.system;
        let (due, postponed) =
            system.refreshes.map_or((0, 0), |all| (due(&all, e.clock), POSTPONED * u64::from(all.sets)));
        if system.device.commands[usize::from(id)].effect.refreshes() {
            let asked_for = system.refreshes.is_some_and(|all| all.command == id);
            channel.refreshes += 1;
            if channel.refreshes > due || !asked_for {
                // One too many is reported once.
                channel.refreshes -= 1;
                let of_channel = system.device.commands[usize::from(id)].scope == Scope::Channel;
                self.broken(e, Rule::RefreshTooMany, 0, of_channel.then_some(Defect::DoubleRefresh));
            } else if channel.refreshed.meets(banks) {
                self.broken(e, Rule::RefreshTurn, 0, None);
            } else {
                channel.refreshed = channel.refreshed.union(banks);
                if channel.refreshed.iter().count() as u32 == system.device.geometry.banks_per_channel() {
                    channel.refreshed = Banks::default();
                }
            }
        }
        if due > channel.refreshes + postponed {
            channel.refreshes = due - postponed;
            self.broken(e, Rule::RefreshMissing, 0, None);
        }
    }

    /// Against every command within the horizon that meets this one. Of one constraint the worst is reported.
    fn edges(&mut self, channel: &mut Channel, e: &LogEntry, id: CommandId, banks: &Banks) {
        let device = &self.system.device;
        let n = device.commands.len();
        let mut worst: Vec<(usize, i64, CommandId)> = Vec::new();
        while channel.past.front().is_some_and(|p| e.clock - p.clock > self.horizon) {
            channel.past.pop_front();
        }
        for p in channel.past.iter().rev() {
            for &i in &self.pairs[usize::from(p.command) * n + usize::from(id)] {
                let d = &device.declared[i];
                self.report.checks += 1;
                let follows = follows_last(device, d, (&p.banks, id, banks));
                let spread = if follows { self.spread[usize::from(p.command)] } else { 0 };
                let slack = slack(e.clock, p.clock + Cycle::from(d.latency + spread));
                let tightest = &mut self.report.tightest[i];
                let tighter = tightest.is_none_or(|(least, ..)| slack < least);
                if slack >= 0 && !tighter {
                    continue;
                }
                let size = node_size(d.level, &device.geometry);
                if !p.banks.nodes(size).meets(&banks.nodes(size)) {
                    continue;
                }
                let below = d.apart.map(|level| node_size(level, &device.geometry));
                if below.is_some_and(|size| p.banks.nodes(size) == banks.nodes(size)) {
                    continue;
                }
                if tighter {
                    *tightest = Some((slack, p.command, id));
                }
                match worst.iter_mut().find(|(edge, ..)| *edge == i) {
                    _ if slack >= 0 => {}
                    Some(w) if w.1 <= slack => {}
                    Some(w) => *w = (i, slack, p.command),
                    None => worst.push((i, slack, p.command)),
                }
            }
        }
        for (i, slack, from) in worst {
            let defect = defect_of(device, &device.declared[i], from, id);
            self.broken(e, Rule::Edge(i, from, id), slack, defect);
        }
        // More commands than two a cycle are violations already; that many are not remembered.
        if channel.past.len() as Cycle > 4 * (self.horizon + 1) {
            channel.past.pop_front();
        }
        channel.past.push_back(RecentCommand { clock: e.clock, command: id, banks: *banks });
    }

    /// Against the n-th last counted command of each node.
    fn windows(&mut self, channel: &mut Channel, e: &LogEntry, id: CommandId, banks: &Banks) {
        let device = &self.system.device;
        for (i, d) in device.declared.iter().enumerate().filter(|(_, d)| d.window > 1) {
            let size = node_size(d.level, &device.geometry);
            let n = d.window as usize;
            let mut worst: Option<(i64, CommandId)> = None;
            for node in banks.nodes(size).iter() {
                let counted = &mut channel.counted[i][node];
                let in_node = || banks.iter().filter(|bank| bank / size == node).count();
                // A command that takes several places needs as many of the last n to have left the window.
                let wanted = if d.by_bank { in_node() } else { 1 };
                let oldest_in_the_way = (counted.len() + wanted).checked_sub(n + 1);
                if d.to.contains(&id)
                    && let Some((clock, from)) = oldest_in_the_way.and_then(|at| counted.get(at))
                {
                    self.report.checks += 1;
                    let slack = slack(e.clock, clock + Cycle::from(d.latency));
                    if worst.is_none_or(|(least, _)| slack < least) {
                        worst = Some((slack, *from));
                    }
                }
                if d.from.contains(&id) {
                    let places = match device.power {
                        PowerPolicy::Stagger => in_node(),
                        PowerPolicy::PerCommand | PowerPolicy::Ignore | PowerPolicy::Charge => wanted,
                    };
                    for place in 0..places {
                        let after =
                            if device.power == PowerPolicy::Stagger { opening(device, place as u32) } else { 0 };
                        counted.push_back((e.clock + after, id));
                        if counted.len() > n {
                            counted.pop_front();
                        }
                    }
                }
            }
            if let Some((slack, from)) = worst {
                let tightest = &mut self.report.tightest[i];
                if tightest.is_none_or(|(least, ..)| slack < least) {
                    *tightest = Some((slack, from, id));
                }
                if slack < 0 {
                    self.broken(e, Rule::Edge(i, from, id), slack, defect_of(device, d, from, id));
                }
            }
        }
    }

    /// The states of the banks.
    fn rows(&mut self, channel: &mut Channel, e: &LogEntry, id: CommandId, banks: &Banks) {
        let device = &self.system.device;
        let row = e.fields[4];
        let mut found: Option<(Rule, Option<Defect>)> = None;
        let (mut any_open, mut all_open) = (false, true);
        for number in banks.iter() {
            let bank = &mut channel.banks[number];
            any_open |= bank.open.is_some();
            all_open &= bank.open.is_some();
            let wrong = match (device.commands[usize::from(id)].effect, bank.open) {
                (Effect::Open, open) => {
                    bank.open = Some(OpenRow { row, by: id, twice: open.is_some() });
                    open.map(|o| (Rule::Open, (o.by != id).then_some(Defect::TwoRows)))
                }
                (Effect::Close, _) => {
                    *bank = Bank { open: None, closed_by: Some(id) };
                    None
                }
                (Effect::Refresh, open) => open.map(|_| (Rule::RefreshOpen, None)),
                (Effect::Read | Effect::Write | Effect::Mac, None) => {
                    let closer = bank.closed_by.map(|c| device.commands[usize::from(c)].scope);
                    let by_group = closer == Some(Scope::SameBank);
                    Some((Rule::Closed, by_group.then_some(Defect::SameBankPrecharge)))
                }
                (Effect::Read | Effect::Write | Effect::Mac, Some(o)) => {
                    let known = row != SOME_ROW && o.row != SOME_ROW;
                    (known && o.row != row).then_some((Rule::WrongRow, o.twice.then_some(Defect::TwoRows)))
                }
                (Effect::MacOpen | Effect::Move | Effect::Softmax | Effect::Configure, _) => None,
            };
            // A command breaks a rule once, in however many banks.
            found = found.or(wrong);
        }
        if device.commands[usize::from(id)].effect == Effect::MacOpen {
            let fault =
                if !any_open { Some(Rule::NoneOpen) } else { Some(Rule::Closed).filter(|_| !all_open && e.units != 0) };
            found = fault.map(|rule| (rule, None));
        }
        if let Some((rule, defect)) = found {
            self.broken(e, rule, 0, defect);
        }
    }
}

/// The banks of a command: those of its bank groups, where the log names them, else those of its scope.
fn banks_of(e: &LogEntry, c: &Command, g: &Geometry) -> Result<Banks, String> {
    match c.effect {
        Effect::MacOpen if e.units != 0 => Ok(Banks::of_units(e.units, g)),
        _ => Banks::of(c.scope, &e.fields[..4], g).map_err(|lacks| format!("{} without a {lacks}", c.name)),
    }
}

fn new_channel(device: &Device) -> Channel {
    let banks = device.geometry.banks_per_channel() as usize;
    let nodes = |d: &DeclaredConstraint| if d.window > 1 { banks / node_size(d.level, &device.geometry) } else { 0 };
    Channel {
        clock: 0,
        past: VecDeque::new(),
        counted: device.declared.iter().map(|d| vec![VecDeque::new(); nodes(d)]).collect(),
        banks: vec![Bank::default(); banks],
        bus: [0; 2],
        refreshes: 0,
        refreshed: Banks::default(),
        results: 0,
        data: 0,
        newest: None,
        epoch: 0,
        softmax_free: 0,
    }
}

/// Declared constraints from one command to another, windows apart: `pairs[from * commands + to]`.
fn pairs(device: &Device) -> Vec<Vec<usize>> {
    let n = device.commands.len();
    let mut pairs = vec![Vec::new(); n * n];
    for (i, d) in device.declared.iter().enumerate().filter(|(_, d)| d.window == 1) {
        for from in &d.from {
            for to in &d.to {
                pairs[usize::from(*from) * n + usize::from(*to)].push(i);
            }
        }
    }
    pairs
}

/// Refreshes that are due by a clock.
fn due(all: &Refreshes, clock: Cycle) -> u64 {
    let sets = u64::from(all.sets);
    if all.together {
        clock / all.interval * sets
    } else {
        (u128::from(clock) * u128::from(sets) / u128::from(all.interval)) as u64
    }
}

fn slack(at: Cycle, allowed: Cycle) -> i64 {
    at as i64 - allowed as i64
}

/// Under `stagger`, cycles between an activation and the opening of its bank number `place` in a rank: four in a
/// window, one after the other.
fn opening(device: &Device, place: u32) -> Cycle {
    let t = |name: &str| device.timings.get(name).copied().unwrap_or(0);
    Cycle::from(place / 4) * t("nFAW") + Cycle::from(place % 4) * t("nRRDS")
}

/// Cycles until the last bank of an activation opens.
fn last_opening(device: &Device, effect: Effect, scope: Scope) -> u32 {
    let g = &device.geometry;
    let rank = node_size(Level::Rank, g);
    match (device.power, effect, Banks::of(scope, &[0; 4], g)) {
        (PowerPolicy::Stagger, Effect::Open, Ok(banks)) => {
            let of_a_rank = banks.iter().filter(|bank| bank / rank == 0).count() as u32;
            opening(device, of_a_rank.saturating_sub(1)) as u32
        }
        _ => 0,
    }
}

/// Whether a command waits for the last bank that a staggered activation opens, by this constraint: in the rank that
/// opens, or where it uses a bank of it. Above the rank it is the row bus that holds others, and that carries one command.
fn follows_last(device: &Device, d: &DeclaredConstraint, (opened, id, banks): (&Banks, CommandId, &Banks)) -> bool {
    !device.commands[usize::from(id)].effect.opens() && (d.level >= Level::Rank || opened.meets(banks))
}

/// The reference's defect that breaks a constraint so.
fn defect_of(device: &Device, d: &DeclaredConstraint, from: CommandId, to: CommandId) -> Option<Defect> {
    let (a, b) = (&device.commands[usize::from(from)], &device.commands[usize::from(to)]);
    let wide = a.scope != Scope::Bank || b.scope != Scope::Bank;
    // The reference has it, in this form or in one of the same strength.
    let same = |other: &DeclaredConstraint| {
        other.set == ConstraintSet::Reference
            && other.window == d.window
            && other.latency >= d.latency
            && other.from.contains(&from)
            && other.to.contains(&to)
    };
    if a.effect.refreshes() && b.effect.refreshes() && a.scope == Scope::Channel {
        return Some(Defect::DoubleRefresh);
    }
    if d.power {
        return wide.then_some(Defect::WideActivationPower);
    }
    let moves = [a, b].iter().any(|c| c.effect == Effect::Move);
    if !wide && d.set == ConstraintSet::Completed && (moves || d.apart.is_some()) {
        return Some(Defect::DataPath);
    }
    let Some(known) = device.declared.iter().find(|other| same(other)) else {
        return Some(Defect::CrossForm);
    };
    match b.effect {
        Effect::Softmax => Some(Defect::FreeSoftmax),
        // At the channel, no path leaves anything out.
        _ => (wide && known.level != Level::Channel).then_some(Defect::PathOnly),
    }
}
