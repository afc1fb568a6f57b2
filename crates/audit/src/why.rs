//! What held each command until it came.
//!
//! First there is what no other order of the commands would change: constraints and data to earlier commands in its banks,
//! the mark that its request is behind, its arrival, the refresh. From there on, the first cycle is looked for in which it
//! would have fitted between the other commands, as they came: the bus free, all constraints kept from them to it and
//! from it to them. Where that is the cycle in which it came, what ends there held it. Where it would have
//! fitted sooner, a rule of the controller alone held it from then on.
//!
//! Cycles are told along the critical chain: a command takes over the cycles by reason of the one that it was held by, and
//! adds its own. A mark takes over those of the command whose result it waited for. So the chain of a channel's last
//! result has all of the channel's cycles, each under one reason.
//!
//! What completes a request is the last command of it, for which a log is read some commands ahead.

mod bounds;
mod reasons;
mod track;

pub use reasons::{COLUMNS, DataDependency, HeldCommand, Reason, ReasonRow, Reasons, Sum};

use bounds::{Bound, address};
use track::{ARRIVALS, ChannelTrack, IssuedCommand, PastCommand, PendingEntry, ReadyResult, WindowCommand};

use super::banks::{Banks, node_size};
use super::log::{self, LogEntry, LogEvent, LogMark};
use super::report::Report;
use super::{Auditor, last_opening, opening, pairs};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::device::{Bus, PowerPolicy};
use pimattn_core::spec::system::Controller;
use pimattn_core::spec::{Class, CommandId, Due, Effect, Refreshes, Scope, System};
use pimattn_core::units::Cycle;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// Audits one log of the PIM controller as [`audit`](super::audit) does, and says what held its commands; `each`
/// hears of every command, in order within a channel.
pub fn why(path: &Path, system: &System, max: usize, each: &mut dyn FnMut(&HeldCommand)) -> Result<(Report, Reasons)> {
    why_until(&Cancel::new(), path, system, max, each)
}

/// [`why`], unless `cancel` is requested.
///
/// # Errors
/// Those of [`why`], and [`Error::Interrupted`].
pub fn why_until(
    cancel: &Cancel,
    path: &Path,
    system: &System,
    max: usize,
    each: &mut dyn FnMut(&HeldCommand),
) -> Result<(Report, Reasons)> {
    let mut auditor = Auditor::new(system, max);
    let mut why = DelayAnalysis::new(system)?;
    log::read(cancel, path, &system.device, |entry| {
        auditor.entry(&entry)?;
        why.entry(&entry, each)
    })?;
    Ok((auditor.finish(), why.finish(each)))
}

/// Cycles by reason, by the number that a reason has.
type Chain = Rc<Vec<Cycle>>;

/// The reasons met so far: chains hold cycles by their number.
#[derive(Default)]
struct ReasonNumbers {
    numbers: BTreeMap<Reason, usize>,
    reasons: Vec<Reason>,
    commands: Vec<u64>,
}

impl ReasonNumbers {
    fn number(&mut self, reason: Reason) -> usize {
        *self.numbers.entry(reason).or_insert_with(|| {
            self.reasons.push(reason);
            self.commands.push(0);
            self.reasons.len() - 1
        })
    }

    /// A chain that goes on.
    fn add(&mut self, chain: &Chain, parts: &[(Reason, Cycle)]) -> Chain {
        let mut out = Vec::clone(chain);
        for (reason, cycles) in parts.iter().filter(|(_, cycles)| *cycles > 0) {
            let at = self.number(*reason);
            out.resize(out.len().max(at + 1), 0);
            out[at] += cycles;
        }
        Rc::new(out)
    }
}

/// Says what held the commands of a log, line by line. Its memory is bounded by the device and the queue.
pub struct DelayAnalysis<'s> {
    system: &'s System,
    pairs: Vec<Vec<usize>>,
    /// The longest bound from one command to another.
    longest: Vec<Cycle>,
    spread: Vec<u32>,
    horizon: Cycle,
    /// Requests that the controller looks at, of the kind of which it sees most.
    depth: u64,
    /// Lines of a channel that are read ahead.
    look: usize,
    channels: Vec<Option<Box<ChannelTrack>>>,
    names: ReasonNumbers,
    start: Chain,
}

impl<'s> DelayAnalysis<'s> {
    /// Nothing read yet; an error where the system has a controller whose logs do not number requests.
    pub fn new(system: &'s System) -> Result<Self> {
        if system.controller != Controller::Pim {
            let what = "what held a command is known of the PIM controller only: its logs number the requests";
            return Err(Error::Usage(format!("{}: {what}", system.name)));
        }
        let device = &system.device;
        let pairs = pairs(device);
        let spread: Vec<u32> = device.commands.iter().map(|c| last_opening(device, c.effect, c.scope)).collect();
        let n = device.commands.len();
        let reach = |(i, edges): (usize, &Vec<usize>)| {
            let edge = edges.iter().map(|e| device.declared[*e].latency).max();
            edge.map_or(0, |latency| Cycle::from(latency + spread[i / n]))
        };
        let longest: Vec<Cycle> = pairs.iter().enumerate().map(reach).collect();
        let windows = device.declared.iter().map(|d| Cycle::from(d.latency)).max().unwrap_or(0);
        let horizon = longest.iter().copied().max().unwrap_or(0).max(windows);
        let channels = (0..device.geometry.channels).map(|_| None).collect();
        let depth = system.queue_depth.max(system.read_depth + system.writes.map_or(0, |w| w.depth));
        let look = 4 * depth as usize + 64;
        let start = Chain::default();
        Ok(DelayAnalysis {
            system,
            pairs,
            longest,
            spread,
            horizon,
            depth: u64::from(depth),
            look,
            channels,
            names: ReasonNumbers::default(),
            start,
        })
    }

    /// Takes one line; an error says why it cannot be judged.
    pub fn entry(&mut self, e: &LogEntry, each: &mut dyn FnMut(&HeldCommand)) -> Result<(), String> {
        let device = &self.system.device;
        if let LogEvent::Command(id) = e.what {
            let c = &device.commands[usize::from(id)];
            let rules = &self.system.scheduler;
            let one_by_one = rules.closes_idle || rules.works_until_refresh;
            let closes = one_by_one && c.effect == Effect::Close && c.scope == Scope::Bank;
            let refreshes = self.system.refreshes.is_some_and(|all| id == all.command || id == all.closer);
            if e.request.is_none() && !refreshes && !closes {
                let ours = "what held a command is known of logs of pimsim run --log only";
                return Err(format!("{} without a request: {ours}", c.name));
            }
        }
        let mut track = self.channels[e.channel as usize].take().unwrap_or_else(|| Box::new(ChannelTrack::new(device)));
        track.read(e);
        while track.ahead.len() > self.look {
            self.judge_next(&mut track, each);
        }
        self.channels[e.channel as usize] = Some(track);
        Ok(())
    }

    /// Ends the log: commands and cycles by reason, over all channels.
    pub fn finish(mut self, each: &mut dyn FnMut(&HeldCommand)) -> Reasons {
        let mut total: Vec<Cycle> = Vec::new();
        for channel in 0..self.channels.len() {
            let Some(mut track) = self.channels[channel].take() else { continue };
            while !track.ahead.is_empty() {
                self.judge_next(&mut track, each);
            }
            // A barrier with nothing behind it takes nothing.
            let mark = track.mark.take().filter(|(_, bound)| bound.reason != Reason::Mark(LogMark::Barrier));
            track.mark = mark.or(track.worked.take());
            let end = self.latest_end(&track, Cycle::MAX);
            total.resize(total.len().max(end.chain.len()), 0);
            end.chain.iter().zip(&mut total).for_each(|(cycles, sum)| *sum += cycles);
        }
        total.resize(self.names.reasons.len(), 0);
        let sums = self.names.commands.iter().zip(&total);
        let rows = self.names.reasons.iter().zip(sums);
        let sum = |(reason, (commands, cycles)): (&Reason, (&u64, &Cycle))| {
            (*reason, Sum { commands: *commands, cycles: *cycles })
        };
        Reasons(rows.map(sum).filter(|(_, sum)| *sum != Sum::default()).collect())
    }

    /// The last result or mark of a channel, not after `until`.
    fn latest_end(&mut self, track: &ChannelTrack, until: Cycle) -> Bound {
        let mark = track.mark.as_ref().map(|(_, bound)| bound.clone());
        let marked = mark.as_ref().map_or(0, |m| m.at);
        match track.result.as_ref().filter(|r| r.at.min(until) >= marked) {
            Some(r) => {
                let (at, reason) = (r.at.min(until), Reason::Results(r.id));
                let chain = self.names.add(&r.chain, &[(reason, at - r.from)]);
                Bound { at, reason, from: at, chain }
            }
            None => mark.unwrap_or(Bound { at: 0, reason: Reason::Start, from: 0, chain: self.start.clone() }),
        }
    }

    fn judge_next(&mut self, track: &mut ChannelTrack, each: &mut dyn FnMut(&HeldCommand)) {
        let Some(PendingEntry { entry: e, last }) = track.next() else { return };
        let at = e.clock - 1;
        let id = match e.what {
            LogEvent::Command(id) => id,
            LogEvent::Mark(LogMark::Arrival) => {
                track.arrivals.push_back((e.request.unwrap_or(0), at));
                if track.arrivals.len() > ARRIVALS {
                    track.arrivals.pop_front();
                }
                return;
            }
            LogEvent::Mark(mark) => {
                let end = self.latest_end(track, at);
                let reason = Reason::Mark(mark);
                let chain = self.names.add(&end.chain, &[(reason, at - end.at)]);
                let marked = (e.request.unwrap_or(0), Bound { at, reason, from: at, chain });
                if mark != LogMark::Barrier {
                    track.worked = Some(marked.clone());
                }
                if mark == LogMark::Sync {
                    track.sync = Some(marked.clone());
                }
                track.mark = Some(marked);
                return;
            }
        };
        let device = &self.system.device;
        let c = &device.commands[usize::from(id)];
        // The audit of the same line has found its banks.
        let banks = super::banks_of(&e, c, &device.geometry).unwrap_or_default();
        while track.past.len() > 1 && track.past.front().is_some_and(|p| at - p.at > 2 * self.horizon) {
            track.past.pop_front();
        }
        let [.., row, column] = e.fields;
        let now = IssuedCommand { at, id, banks, row, column, request: e.request, bus: c.bus, effect: c.effect };
        let (chain, reason, since) = self.judge(track, &now, &e);
        let number = self.names.number(reason);
        self.names.commands[number] += 1;
        each(&HeldCommand { clock: e.clock, channel: e.channel, command: id, reason, since: since + 1 });
        self.issued(track, now, last, chain);
    }

    /// What held a command: the chain to it, the reason, and since when.
    fn judge(&mut self, track: &ChannelTrack, c: &IssuedCommand, e: &LogEntry) -> (Chain, Reason, Cycle) {
        let hard = self.hard(track, c, e);
        if hard.at >= c.at {
            let edge = if matches!(hard.reason, Reason::Edge(..)) { None } else { self.edge_until(track, c) };
            let bound = edge.unwrap_or(hard);
            return (self.names.add(&bound.chain, &[(bound.reason, c.at - bound.from)]), bound.reason, bound.from);
        }
        // Of what came longer ago, the place of others is not known any more.
        let reach = c.at.saturating_sub(self.horizon);
        let oldest = track.past.iter().find(|p| p.at >= reach).filter(|p| p.at > hard.at);
        let from = match oldest {
            Some(p) if hard.at < reach => {
                Bound { at: p.at, reason: Reason::Unexplained, from: p.at, chain: p.chain.clone() }
            }
            _ => hard,
        };
        let could = self.first_place(track, c, from);
        if could.at >= c.at {
            return (self.names.add(&could.chain, &[(could.reason, c.at - could.from)]), could.reason, could.from);
        }
        let until_seen = match self.seen(track, e, c.id).filter(|seen| *seen > could.at) {
            Some(seen) => self.first_place(track, c, Bound { at: seen, ..could.clone() }).at.min(c.at),
            None => could.at,
        };
        let rule = match until_seen == c.at {
            true => Reason::QueueDepth,
            false if self.closes_idle(track, c, e) => Reason::IdleRow,
            false => self.rule(track, e, c.id, until_seen),
        };
        let parts = [
            (could.reason, could.at - could.from),
            (Reason::QueueDepth, until_seen - could.at),
            (rule, c.at - until_seen),
        ];
        (self.names.add(&could.chain, &parts), rule, could.at)
    }

    /// The mark ahead of a request. Row commands may pass barriers and the host, nothing passes a sync.
    fn of_mark(&self, track: &ChannelTrack, e: &LogEntry, id: CommandId) -> Option<Bound> {
        let column = self.system.device.commands[usize::from(id)].bus == Bus::Column;
        let (first, bound) = if column { track.mark.as_ref()? } else { track.sync.as_ref()? };
        e.request.is_some_and(|own| own >= *first).then(|| bound.clone())
    }

    fn of_arrival(&self, track: &ChannelTrack, e: &LogEntry) -> Option<Bound> {
        let request = e.request?;
        let of_system = self.system.issue_interval.map(|cycles| (request as f64 * cycles) as Cycle);
        let of_trace = track.arrivals.iter().rev().find(|(first, _)| *first <= request).map(|(_, at)| *at);
        let at = of_system.max(of_trace)?;
        Some(Bound { at, reason: Reason::Arrival, from: 0, chain: self.start.clone() })
    }

    /// When the refresh that a command is for falls due. Until then the last command before it was at work.
    fn of_refresh(&self, track: &ChannelTrack, c: &IssuedCommand, e: &LogEntry) -> Option<Bound> {
        let all = self.system.refreshes.filter(|_| e.request.is_none() && !self.closes_idle(track, c, e))?;
        // Banks that are due later may close ahead of their turn.
        let own = |due: &Due| {
            let a = all.address(e.channel, due.turn, &self.system.device.geometry);
            let set =
                Banks::of(all.scope, &[a.pseudo_channel, a.rank, a.bank_group, a.bank], &self.system.device.geometry);
            set.is_ok_and(|set| set.meets(&c.banks))
        };
        let next = all.after(all.first(), track.refreshes);
        let mut turns = (0..u64::from(all.sets)).map(|n| all.after(next, n));
        let at = if all.sets == 1 { next.at } else { turns.find(own)?.at };
        let reason = Reason::Refresh;
        let marked = track.mark.as_ref().map(|(_, bound)| bound).filter(|b| b.at <= at);
        let from = track.past.iter().rev().find(|p| p.at <= at).filter(|p| marked.is_none_or(|m| m.at <= p.at));
        Some(match (from, marked) {
            (Some(p), _) => Bound { at, reason, from: p.at, chain: p.chain.clone() },
            (None, Some(m)) => Bound { at, reason, from: m.at, chain: m.chain.clone() },
            (None, None) => Bound { at, reason, from: 0, chain: self.start.clone() },
        })
    }

    /// Whether a command closes a row for nobody: no refresh is due.
    fn closes_idle(&self, track: &ChannelTrack, c: &IssuedCommand, e: &LogEntry) -> bool {
        let due = |all: Refreshes| all.after(all.first(), track.refreshes).at <= c.at;
        let idle = self.system.scheduler.closes_idle && c.effect == Effect::Close && e.request.is_none();
        idle && !self.system.refreshes.is_some_and(due)
    }

    /// When the controller came to see a request: fewer than the depth of its queue were ahead of it, not complete; and
    /// where reads and writes have a queue each, no older one of the other kind waited for a place.
    fn seen(&self, track: &ChannelTrack, e: &LogEntry, id: CommandId) -> Option<Cycle> {
        let own = e.request?;
        let effect = |id: CommandId| self.system.device.commands[usize::from(id)].effect;
        // After which of the last completions among older requests so many of a kind were left, if not always.
        let left = |most: u32, is_of_kind: &dyn Fn(Effect) -> bool| {
            let counts =
                |request: Option<u64>, id: CommandId| request.is_some_and(|r| r < own) && is_of_kind(effect(id));
            let open = track.ahead.iter().filter(|a| match a.entry.what {
                LogEvent::Command(id) => a.last && counts(a.entry.request, id),
                LogEvent::Mark(_) => false,
            });
            let back = (most as usize).checked_sub(open.count())?;
            track.past.iter().rev().filter(|p| p.last && counts(p.request, p.id)).nth(back).map(|p| p.at)
        };
        let (reads, queue) = (self.system.read_depth, self.system.queue_depth);
        let [read, write] = [Effect::Read, Effect::Write].map(|kind| move |e: Effect| e == kind);
        let newest = effect(track.newest_of(own).unwrap_or(id));
        if let Some(writes) = self.system.writes.map(|w| w.depth) {
            match newest {
                Effect::Read => return left(reads - 1, &read).max(left(writes, &write)),
                Effect::Write => return left(writes - 1, &write).max(left(reads, &read)),
                _ => {}
            }
        }
        // Records are taken in by turns: a full queue of any kind holds back what is behind it.
        let rows = self.system.row_depth() - 1;
        let moves = |e: Effect| e.class() == Class::Buffer;
        let most_moves = if moves(newest) { queue } else { self.system.move_depth() };
        let of_queues = [
            left(rows, &|e| e == Effect::Open),
            left(rows, &|e| e == Effect::Close),
            left(self.system.mac_depth() - 1, &|e| e.multiplies()),
            left(most_moves - 1, &moves),
            left(queue - 1, &|e| e.is_data()),
        ];
        of_queues.into_iter().max().flatten()
    }

    /// The rule that held a command from `since` on, though its request was seen.
    fn rule(&self, track: &ChannelTrack, e: &LogEntry, id: CommandId, since: Cycle) -> Reason {
        let effect = |id: CommandId| self.system.device.commands[usize::from(id)].effect;
        let final_one = e.request.and_then(|own| track.newest_of(own)).unwrap_or(id);
        let own = effect(final_one);
        if !Effect::is_data(own) {
            return Reason::Unexplained;
        }
        if self.system.scheduler.bank_feed.is_some() && !track.past.iter().any(|p| p.request == e.request) {
            return Reason::BankFeed;
        }
        let near = |request: Option<u64>| request.zip(e.request).is_some_and(|(a, b)| a.abs_diff(b) < self.depth);
        let before = track.past.iter().rev().take_while(|p| p.at >= since).map(|p| (p.request, effect(p.id)));
        let behind = track.ahead.iter().filter_map(|a| match a.entry.what {
            LogEvent::Command(id) => Some((a.entry.request, effect(id))),
            LogEvent::Mark(_) => None,
        });
        let mut beside =
            before.chain(behind).filter(|(request, effect)| Effect::is_data(*effect) && near(*request)).peekable();
        if self.system.writes.is_some() && beside.clone().any(|(_, other)| other != own) {
            return Reason::WriteTurns;
        }
        if beside.peek().is_some() { Reason::FirstReady } else { Reason::Unexplained }
    }

    /// Notes what a command does.
    fn issued(&self, track: &mut ChannelTrack, now: IssuedCommand, last: bool, chain: Chain) {
        let device = &self.system.device;
        let IssuedCommand { at, id, banks, row, column, request, bus, effect } = now;
        let c = &device.commands[usize::from(id)];
        let keep = 2 * self.horizon;
        track.refreshes += u64::from(c.effect.refreshes());
        for (i, d) in device.declared.iter().enumerate().filter(|(_, d)| d.window > 1 && d.from.contains(&id)) {
            let size = node_size(d.level, &device.geometry);
            for node in banks.nodes(size).iter() {
                let stagger = device.power == PowerPolicy::Stagger;
                let taken = self.taken(d, &banks, node, size);
                let counted = &mut track.counted[i][node];
                while counted.len() > d.window as usize && counted.front().is_some_and(|p| p.at + keep < at) {
                    counted.pop_front();
                }
                for place in 0..taken {
                    let after = if stagger { opening(device, place as u32) } else { 0 };
                    counted.push_back(WindowCommand { at: at + after, from: at, id, chain: chain.clone() });
                }
            }
        }
        let done = at + self.system.device.done(id, &address(&now));
        if request.is_some() && last && track.result.as_ref().is_none_or(|r| done > r.at) {
            track.result = Some(ReadyResult { at: done, from: at, id, chain: chain.clone() });
        }
        // More commands than two a cycle are violations already; that many are not remembered.
        if track.past.len() as Cycle > 8 * (self.horizon + 1) {
            track.past.pop_front();
        }
        track.past.push_back(PastCommand {
            now: IssuedCommand { at, id, banks, row, column, request, bus, effect },
            last,
            chain,
        });
    }
}

/// Why a command follows on an earlier one, if no other order of the two would do.
fn follows_on(p: &IssuedCommand, c: &IssuedCommand) -> Option<Reason> {
    let (Some(first), Some(second)) = (p.request, c.request) else {
        // A refresh closes its banks, in its turn; moves touch none.
        let in_turn = p.effect.refreshes() && c.effect.refreshes();
        let touches = !p.effect.is_buffer_work() && !c.effect.is_buffer_work() && p.banks.meets(&c.banks);
        return (in_turn || touches).then_some(Reason::Refresh);
    };
    let older = first < second;
    let order = match (p.effect, c.effect) {
        _ if first == second => DataDependency::Row,
        (a, b) if a.multiplies() && b.multiplies() => return older.then_some(Reason::Data(DataDependency::Macs)),
        (a, b) if a.is_buffer_work() && b.is_buffer_work() => {
            let passes = a == Effect::Move && b == Effect::Move;
            return (older && !passes).then_some(Reason::Data(DataDependency::Softmax));
        }
        (a, b) if a.is_buffer_work() || b.is_buffer_work() => return None,
        (a, b) if a.is_data() && b.is_data() => {
            let same = (p.row, p.column) == (c.row, c.column) && p.banks.meets(&c.banks);
            return (older && same).then_some(Reason::Data(DataDependency::Column));
        }
        // A MAC of the open bank groups uses those that older requests had opened, and no others.
        (Effect::MacOpen, Effect::Open) if older => return None,
        (Effect::Open | Effect::Close, Effect::MacOpen) if !older => return None,
        (a, b) if a.is_row_command() || b.is_row_command() => DataDependency::Row,
        _ => return None,
    };
    p.banks.meets(&c.banks).then_some(Reason::Data(order))
}
