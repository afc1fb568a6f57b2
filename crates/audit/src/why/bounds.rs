//! Until when constraints hold a command, and which of them.

use super::reasons::Reason;
use super::track::{ChannelTrack, IssuedCommand, PastCommand};
use super::{Chain, DelayAnalysis, follows_on};
use crate::banks::{Banks, node_size};
use crate::follows_last;
use crate::log::LogEntry;
use pimattn_core::addr::Address;
use pimattn_core::spec::device::{Bus, PowerPolicy};
use pimattn_core::spec::tables::DeclaredConstraint;
use pimattn_core::spec::{CommandId, Effect};
use pimattn_core::units::Cycle;

/// A bound: the command could not come before `at`, because of what came at `from`, whose chain it is.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) at: Cycle,
    pub(super) reason: Reason,
    pub(super) from: Cycle,
    pub(super) chain: Chain,
}

/// The row and column that a command is given.
pub(super) fn address(now: &IssuedCommand) -> Address {
    Address { row: now.row, column: now.column, ..Address::default() }
}

/// Places of a window that a command takes at a node, where it does not spread.
pub(super) fn places(d: &DeclaredConstraint, banks: &Banks, node: usize, size: usize) -> usize {
    if d.by_bank { banks.iter().filter(|bank| bank / size == node).count() } else { 1 }
}

impl DelayAnalysis<'_> {
    /// The latest of the bounds that no other order of commands moves: what it follows in its banks and data, its mark, its
    /// arrival, its refresh. Of equal ones a constraint comes first, then data.
    pub(super) fn hard(&self, track: &ChannelTrack, c: &IssuedCommand, e: &LogEntry) -> Bound {
        let mut edge: Option<(Cycle, Reason, &PastCommand)> = None;
        let mut data: Option<(Cycle, Reason, &PastCommand)> = None;
        let later = |best: &Option<(Cycle, Reason, &PastCommand)>, at| best.is_none_or(|(best, ..)| at > best);
        for p in track.past.iter().rev() {
            let known = self.longest[self.pair(p.id, c.id)];
            // The softmax unit is through with one before it begins the next.
            let busy = if c.effect == Effect::Softmax { self.system.device.work(p.id, &address(p)) } else { 0 };
            let follows = p.at + busy.max(Cycle::from(p.bus == c.bus));
            if !later(&edge, p.at + known) && !later(&data, follows) {
                continue;
            }
            let Some(reason) = follows_on(p, c) else { continue };
            if let Some((i, latency)) = self.latency((p.id, &p.banks), (c.id, &c.banks))
                && later(&edge, p.at + latency)
            {
                edge = Some((p.at + latency, Reason::Edge(i, p.id, c.id), p));
            }
            if later(&data, follows) {
                data = Some((follows, reason, p));
            }
        }
        let own =
            |(at, reason, p): (Cycle, Reason, &PastCommand)| Bound { at, reason, from: p.at, chain: p.chain.clone() };
        let mut best = Bound { at: 0, reason: Reason::Start, from: 0, chain: self.start.clone() };
        let marked = [self.of_mark(track, e, c.id), self.of_arrival(track, e), self.of_refresh(track, c, e)];
        for bound in [edge.map(own), data.map(own)].into_iter().chain(marked).flatten() {
            if bound.at > best.at || best.reason == Reason::Start {
                best = bound;
            }
        }
        best
    }

    /// A constraint that holds a command until it came, whichever other command it is from.
    pub(super) fn edge_until(&self, track: &ChannelTrack, c: &IssuedCommand) -> Option<Bound> {
        let near = track.past.iter().rev().filter(|p| p.at + self.longest[self.pair(p.id, c.id)] >= c.at);
        near.filter_map(|p| {
            let (i, latency) = self.latency((p.id, &p.banks), (c.id, &c.banks))?;
            let (at, reason) = (p.at + latency, Reason::Edge(i, p.id, c.id));
            (at >= c.at).then(|| Bound { at, reason, from: p.at, chain: p.chain.clone() })
        })
        .next()
    }

    /// The first cycle from `bound` on in which a command fits between the others as they came, and what it ends. None of
    /// them has to move: constraints hold from them to it and from it to them, and the bus is free.
    pub(super) fn first_place(&self, track: &ChannelTrack, c: &IssuedCommand, bound: Bound) -> Bound {
        let mut best = bound;
        loop {
            let before = best.at;
            for p in track.past.iter().filter(|p| p.at + self.horizon >= before) {
                if best.at >= c.at {
                    return best;
                }
                let (pair, back) = (self.pair(p.id, c.id), self.pair(c.id, p.id));
                let same_bus = Cycle::from(p.bus == c.bus);
                let may_hold = best.at < p.at + self.longest[pair].max(same_bus);
                if !may_hold || best.at + self.longest[back].max(same_bus) <= p.at || follows_on(p, c).is_some() {
                    continue;
                }
                let ahead = self.latency((p.id, &p.banks), (c.id, &c.banks));
                let behind = self.latency((c.id, &c.banks), (p.id, &p.banks)).map_or(0, |(_, latency)| latency);
                let until = p.at + ahead.map_or(0, |(_, latency)| latency).max(same_bus);
                if best.at < until && best.at + behind.max(same_bus) > p.at {
                    let bus = if c.bus == Bus::Row { Reason::RowBus } else { Reason::ColumnBus };
                    let reason = match ahead {
                        Some((i, latency)) if p.at + latency == until => Reason::Edge(i, p.id, c.id),
                        _ => bus,
                    };
                    best = Bound { at: until, reason, from: p.at, chain: p.chain.clone() };
                }
            }
            self.windows(track, c, &mut best);
            if best.at == before || best.at >= c.at {
                return best;
            }
        }
    }

    /// Moves a bound to where a command fits into the windows that count it.
    pub(super) fn windows(&self, track: &ChannelTrack, c: &IssuedCommand, best: &mut Bound) {
        let device = &self.system.device;
        for (i, d) in device.declared.iter().enumerate().filter(|(_, d)| d.window > 1 && d.to.contains(&c.id)) {
            let size = node_size(d.level, &device.geometry);
            let (n, latency) = (d.window as usize, Cycle::from(d.latency));
            for node in c.banks.nodes(size).iter() {
                let counted = &track.counted[i][node];
                let own = self.taken(d, &c.banks, node, size);
                let needed = places(d, &c.banks, node, size);
                while best.at < c.at {
                    let split = counted.partition_point(|p| p.at <= best.at);
                    // The one that has to have left the window before the last place is free.
                    let oldest = (split + needed).checked_sub(n + 1).and_then(|at| counted.get(at));
                    let held = oldest.filter(|p| p.at + latency > best.at);
                    // With it among them, those behind must still be far enough from those ahead of it.
                    let later = counted.iter().skip(split).enumerate().find(|(behind, p)| {
                        let first = (split + behind + own).checked_sub(n);
                        first.is_some_and(|f| {
                            counted.get(f).filter(|_| f < split).map_or(best.at, |o| o.at) + latency > p.at
                        }) && p.at < best.at + latency
                    });
                    let (at, p) = match (held, later) {
                        (Some(p), _) => (p.at + latency, p),
                        (None, Some((_, p))) => (p.at.max(best.at + 1), p),
                        (None, None) => break,
                    };
                    *best = Bound { at, reason: Reason::Edge(i, p.id, c.id), from: p.from, chain: p.chain.clone() };
                }
            }
        }
    }

    pub(super) fn pair(&self, from: CommandId, to: CommandId) -> usize {
        usize::from(from) * self.system.device.commands.len() + usize::from(to)
    }

    /// The longest constraint, windows apart, from one command to another, where they meet.
    pub(super) fn latency(&self, from: (CommandId, &Banks), to: (CommandId, &Banks)) -> Option<(usize, Cycle)> {
        let device = &self.system.device;
        let mut best: Option<(usize, Cycle)> = None;
        for &i in &self.pairs[self.pair(from.0, to.0)] {
            let d = &device.declared[i];
            let follows = follows_last(device, d, (from.1, to.0, to.1));
            let latency = Cycle::from(d.latency + if follows { self.spread[usize::from(from.0)] } else { 0 });
            let size = node_size(d.level, &device.geometry);
            let apart = d.apart.map(|level| node_size(level, &device.geometry));
            let together = apart.is_some_and(|size| from.1.nodes(size) == to.1.nodes(size));
            if best.is_none_or(|(_, most)| latency > most) && from.1.nodes(size).meets(&to.1.nodes(size)) && !together {
                best = Some((i, latency));
            }
        }
        best
    }

    /// Places of a window that a command takes at a node in all.
    pub(super) fn taken(&self, d: &DeclaredConstraint, banks: &Banks, node: usize, size: usize) -> usize {
        match self.system.device.power {
            PowerPolicy::Stagger => banks.iter().filter(|bank| bank / size == node).count(),
            PowerPolicy::PerCommand | PowerPolicy::Ignore | PowerPolicy::Charge => places(d, banks, node, size),
        }
    }
}
