//! The state of one channel's banks, and when each command becomes legal.

mod levels;

use super::replay_cache::{mix, rebase::Rebase};
use levels::{AskedLevel, AskedNodes, CommandLevels, DelayedCommand, NodeSpan, command_levels, span, spans_of};
use pimattn_core::addr::{Address, NOT_ADDRESSED};
use pimattn_core::spec::{Command, CommandId, Device, Effect, Level, Scope};
use pimattn_core::units::Cycle;
use std::sync::Arc;

/// No row is open.
pub const CLOSED: u32 = u32::MAX;
/// Not all banks are in the same state.
const MIXED: u32 = u32::MAX - 1;

/// Rows of the banks in a command's scope, compared with the row that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowMatch {
    /// All open at the wanted row.
    Ready,
    /// All closed.
    Closed,
    /// Some open at another row, or only some open.
    Conflict,
}

/// An address with its node at every level.
#[derive(Debug, Clone, Copy)]
pub struct CommandTarget {
    /// The address.
    pub address: Address,
    path: [u32; 5],
    /// The bank groups that a command works in, a bit each, where it works in some of the channel; else no bit.
    pub units: u64,
}

/// The nodes of a bank from the pseudo-channel down, sixteen bits each: no level has more than 1024.
#[derive(Clone, Copy)]
pub struct BankPath(u64);

impl BankPath {
    /// Of pseudo-channel, rank, bank group and bank, how many two banks have in common, one within the other.
    #[inline]
    pub fn shared(self, other: BankPath) -> usize {
        ((self.0 ^ other.0).leading_zeros() / 16) as usize
    }
}

impl CommandTarget {
    /// This target, for a command that works in some bank groups of the channel.
    pub fn in_units(self, units: u64) -> Self {
        CommandTarget { units, ..self }
    }

    /// Its nodes, from the pseudo-channel down.
    #[inline]
    pub fn bank_path(&self) -> BankPath {
        BankPath(self.path[1..].iter().fold(0, |path, node| path << 16 | u64::from(*node)))
    }

    /// The bank within its channel.
    #[inline]
    pub fn bank(&self) -> u32 {
        self.path[Level::Bank as usize]
    }
}

/// The members of a set, ascending.
pub fn members(mut set: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let first = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (first < 64).then_some(first)
    })
}

/// One channel's banks and timing.
#[derive(Clone)]
pub struct ChannelState<'d> {
    device: &'d Device,
    /// By command; the same for all channels.
    levels: Arc<[CommandLevels]>,
    commands: usize,
    /// First node of each level, nodes per level, and nodes of all levels.
    base: [u32; 5],
    nodes: [u32; 5],
    total: usize,
    /// Earliest legal cycle of each command at each node, `floors` not counted. The nodes of a command lie side by side, for a
    /// command is held back at many nodes at a time, and asked for at many.
    ready: Vec<Cycle>,
    /// Earliest legal cycle of each command at all nodes of a level: what reaches all of them is written down once.
    floors: Vec<Cycle>,
    /// The latest of all nodes of a level, with its floor.
    tops: Vec<Cycle>,
    /// Per window and node of its level, when each of the last `count` places taken is free; `heads` the oldest.
    rings: Vec<Vec<Cycle>>,
    heads: Vec<Vec<u32>>,
    rows: Vec<u32>,
    open_banks: u32,
    uniform: u32,
}

impl<'d> ChannelState<'d> {
    /// All banks closed, everything legal at cycle 0.
    pub fn new(device: &'d Device) -> Self {
        let g = &device.geometry;
        let mut nodes = [1, g.pseudo_channels, g.ranks, g.bank_groups, g.banks];
        for i in 1..5 {
            nodes[i] *= nodes[i - 1];
        }
        let mut base = [0; 5];
        for i in 1..5 {
            base[i] = base[i - 1] + nodes[i - 1];
        }
        let total = (base[4] + nodes[4]) as usize;
        let commands = device.commands.len();
        let at = |l: Level| nodes[l as usize] as usize;
        ChannelState {
            device,
            levels: command_levels(device, &base, &nodes, total),
            commands,
            base,
            nodes,
            total,
            ready: vec![0; total * commands],
            floors: vec![0; nodes.len() * commands],
            tops: vec![0; nodes.len() * commands],
            rings: device.windows.iter().map(|w| vec![0; at(w.level) * w.count as usize]).collect(),
            heads: device.windows.iter().map(|w| vec![0; at(w.level)]).collect(),
            rows: vec![CLOSED; nodes[4] as usize],
            open_banks: 0,
            uniform: CLOSED,
        }
    }

    /// An address with its nodes.
    #[inline]
    pub fn target(&self, address: Address) -> CommandTarget {
        let g = &self.device.geometry;
        let rank = address.pseudo_channel * g.ranks + address.rank;
        let group = rank * g.bank_groups + address.bank_group;
        CommandTarget {
            address,
            path: [0, address.pseudo_channel, rank, group, group * g.banks + address.bank],
            units: 0,
        }
    }

    #[inline]
    fn span(&self, level: Level, scope: Scope, target: &CommandTarget) -> NodeSpan {
        span(&self.nodes, level, scope, target)
    }

    /// The nodes of a level that have some of the bank groups of `units`, some of them more than once.
    fn nodes_of(&self, level: Level, units: u64) -> impl Iterator<Item = u32> + use<> {
        spans_of(self.nodes[Level::BankGroup as usize], self.nodes[level as usize], units).flatten()
    }

    /// When a command may issue at the nodes of a level, `floors` not counted.
    #[inline]
    fn ready(&self, command: CommandId, level: Level) -> &[Cycle] {
        let first = usize::from(command) * self.total + self.base[level as usize] as usize;
        &self.ready[first..first + self.nodes[level as usize] as usize]
    }

    /// Whether a command leaves bank groups out.
    #[inline]
    fn is_partial(&self, command: &Command, target: &CommandTarget) -> bool {
        command.effect == Effect::MacOpen && target.units.count_ones() < self.nodes[Level::BankGroup as usize]
    }

    /// The first cycle at which `command` breaks no constraint.
    #[inline]
    pub fn earliest(&self, command: CommandId, target: &CommandTarget) -> Cycle {
        let levels = &self.levels[usize::from(command)];
        match levels.is_simple {
            true => levels.asks.iter().fold(0, |at, asked| at.max(self.earliest_at(asked, target))),
            false => self.earliest_of(command, target),
        }
    }

    /// The first cycle at which a command breaks no constraint of a level where it asks for one node, or for all.
    #[inline]
    fn earliest_at(&self, asked: &AskedLevel, target: &CommandTarget) -> Cycle {
        if asked.nodes == AskedNodes::All {
            return self.tops[asked.in_level];
        }
        let node = target.path[asked.level as usize] as usize;
        self.floors[asked.in_level].max(self.ready[asked.ready + node])
    }

    fn earliest_of(&self, command: CommandId, target: &CommandTarget) -> Cycle {
        let c = &self.device.commands[usize::from(command)];
        let mut at = 0;
        if self.is_partial(c, target) {
            for asked in &self.levels[usize::from(command)].asks {
                at = at.max(self.floors[asked.in_level]);
                let nodes = self.nodes[asked.level as usize];
                let ready = &self.ready[asked.ready..asked.ready + nodes as usize];
                if asked.level == Level::BankGroup {
                    at = members(target.units).fold(at, |at, unit| at.max(ready[unit as usize]));
                    continue;
                }
                for span in spans_of(self.nodes[Level::BankGroup as usize], nodes, target.units) {
                    at = ready[span.start as usize..span.end as usize].iter().fold(at, |at, r| at.max(*r));
                }
            }
            return at;
        }
        for asked in &self.levels[usize::from(command)].asks {
            let held = match asked.nodes {
                AskedNodes::All | AskedNodes::One => self.earliest_at(asked, target),
                AskedNodes::Some => {
                    let span = self.span(asked.level, c.scope, target);
                    let nodes = span.of(self.ready(command, asked.level));
                    nodes.fold(self.floors[asked.in_level], |at, r| at.max(*r))
                }
            };
            at = at.max(held);
        }
        for &w in &c.held_by {
            let window = &self.device.windows[usize::from(w)];
            let span = self.span(window.level, c.scope, target);
            let mut node = span.first as usize;
            for _ in 0..span.count {
                // The command fits when the oldest places, as many as it takes, have left the window.
                let last = (self.heads[usize::from(w)][node] + window.places(c) - 1) % window.count;
                at = at.max(self.rings[usize::from(w)][node * window.count as usize + last as usize]);
                node += span.step as usize;
            }
        }
        at
    }

    /// The first cycle at which `command` breaks no constraint that holds for the channel as a whole.
    pub fn earliest_in_channel(&self, command: CommandId) -> Cycle {
        self.tops[usize::from(command)]
    }

    /// A cycle before which `command` breaks a constraint of the channel, or of every pseudo-channel, wherever it goes.
    pub fn earliest_anywhere(&self, command: CommandId) -> Cycle {
        let level = Level::PseudoChannel;
        let soonest = self.ready(command, level).iter().min().copied().unwrap_or(0);
        let floor = self.floors[level as usize * self.commands + usize::from(command)];
        self.earliest_in_channel(command).max(soonest).max(floor)
    }

    /// Whether two commands have a bank in common.
    pub fn meet(&self, a: CommandId, at: &CommandTarget, b: CommandId, bt: &CommandTarget) -> bool {
        let scope = |c: CommandId| self.device.commands[usize::from(c)].scope;
        let (x, y) = (self.span(Level::Bank, scope(a), at), self.span(Level::Bank, scope(b), bt));
        if x.count <= y.count { x.within(&y) } else { y.within(&x) }
    }

    /// How long after a command `a` a command `b` must wait, about: by their constraints where they share a node, and by
    /// the windows that hold `b`, which could issue at `free` without `a`.
    pub fn apart(&self, a: (CommandId, &CommandTarget, Cycle), b: (CommandId, &CommandTarget)) -> Cycle {
        let (from, to) = (&self.device.commands[usize::from(a.0)], &self.device.commands[usize::from(b.0)]);
        let partial = [(from, a.1), (to, b.1)].map(|(c, t)| self.is_partial(c, t));
        let shared = |level: Level| {
            match partial {
                _ if level == Level::Channel => return true,
                [true, true] => return a.1.units & b.1.units != 0,
                [true, false] => {
                    let span = self.span(level, to.scope, b.1);
                    return self.nodes_of(level, a.1.units).any(|n| span.contains(n));
                }
                [false, true] => {
                    let span = self.span(level, from.scope, a.1);
                    return self.nodes_of(level, b.1.units).any(|n| span.contains(n));
                }
                _ => {}
            }
            let (x, y) = (self.span(level, from.scope, a.1), self.span(level, to.scope, b.1));
            if x.count <= y.count { x.within(&y) } else { y.within(&x) }
        };
        let mut least = Cycle::from(from.bus == to.bus);
        for edge in from.edges.iter().filter(|e| e.to == b.0) {
            let holds = match edge.siblings {
                true => a.1.path[edge.level as usize - 1] == b.1.path[edge.level as usize - 1] && !shared(edge.level),
                false => shared(edge.level),
            };
            if holds {
                least = least.max(Cycle::from(edge.latency));
            }
        }
        for &w in from.counted_in.iter().filter(|w| to.held_by.contains(w)) {
            let window = &self.device.windows[usize::from(w)];
            if !shared(window.level) {
                continue;
            }
            let node = self
                .span(
                    window.level,
                    if from.scope == Scope::Channel { to.scope } else { from.scope },
                    if from.scope == Scope::Channel { b.1 } else { a.1 },
                )
                .first as usize;
            let place = window.places(from) + window.places(to) - 1;
            let until = if place >= window.count {
                a.2 + Cycle::from(window.latency)
            } else {
                let place = (self.heads[usize::from(w)][node] + place) % window.count;
                self.rings[usize::from(w)][node * window.count as usize + place as usize]
            };
            least = least.max(until.saturating_sub(a.2));
        }
        least
    }

    /// Issues `command` at cycle `at`.
    #[inline]
    pub fn issue(&mut self, command: CommandId, target: &CommandTarget, at: Cycle) {
        let device = self.device;
        let c = &device.commands[usize::from(command)];
        let partial = self.is_partial(c, target);
        let ChannelState { levels, nodes, ready, floors, tops, .. } = self;
        for held in &levels[usize::from(command)].holds {
            let level = held.level as usize;
            DelayedCommand::hold(&held.tops, tops, 0, at);
            if held.siblings {
                let (own, siblings) = (target.path[level], nodes[level] / nodes[level - 1]);
                let first = own - own % siblings;
                let others = (first..first + siblings).filter(|node| *node != own);
                others.for_each(|node| DelayedCommand::hold(&held.commands, ready, node, at));
                continue;
            }
            if partial && held.level != Level::Channel {
                for span in spans_of(nodes[Level::BankGroup as usize], nodes[level], target.units) {
                    for to in &held.commands {
                        let (first, until) = (to.place as usize, at + Cycle::from(to.latency));
                        let nodes = ready[first + span.start as usize..first + span.end as usize].iter_mut();
                        nodes.for_each(|r| *r = (*r).max(until));
                    }
                }
                continue;
            }
            let span = span(nodes, held.level, c.scope, target);
            if span.count == nodes[level] {
                DelayedCommand::hold(&held.floors, floors, 0, at);
            } else {
                span.nodes().for_each(|node| DelayedCommand::hold(&held.commands, ready, node, at));
            }
        }
        for &w in &c.counted_in {
            let window = &device.windows[usize::from(w)];
            let span = self.span(window.level, c.scope, target);
            let mut node = span.first as usize;
            for _ in 0..span.count {
                let head = &mut self.heads[usize::from(w)][node];
                for _ in 0..window.places(c) {
                    self.rings[usize::from(w)][node * window.count as usize + *head as usize] =
                        at + Cycle::from(window.latency);
                    *head = (*head + 1) % window.count;
                }
                node += span.step as usize;
            }
        }
        match c.effect {
            Effect::Open => self.set_rows(c.scope, target, target.address.row),
            Effect::Close => self.set_rows(c.scope, target, CLOSED),
            _ => {}
        }
    }

    /// Issues buffer moves of a kind, each at its target and cycle, in the order of time; their command reaches one bank, and no window
    /// counts it. Of those at one node the last holds back the most.
    pub fn issue_moves(&mut self, command: CommandId, moves: &[(CommandTarget, Cycle)]) {
        let ChannelState { levels, nodes, ready, floors, tops, .. } = self;
        let Some((_, last)) = moves.last() else { return };
        for held in &levels[usize::from(command)].holds {
            let level = held.level as usize;
            DelayedCommand::hold(&held.tops, tops, 0, *last);
            if nodes[level] == 1 {
                DelayedCommand::hold(&held.floors, floors, 0, *last);
                continue;
            }
            // Nodes from the 128th on are not told apart, and looked at each time.
            let mut done = 0u128;
            for (target, at) in moves.iter().rev() {
                let own = target.path[level];
                let bit = 1u128.checked_shl(own).unwrap_or(0);
                if done & bit != 0 {
                    continue;
                }
                done |= bit;
                if !held.siblings {
                    DelayedCommand::hold(&held.commands, ready, own, *at);
                    continue;
                }
                let siblings = nodes[level] / nodes[level - 1];
                let first = own - own % siblings;
                let others = (first..first + siblings).filter(|node| *node != own);
                others.for_each(|node| DelayedCommand::hold(&held.commands, ready, node, *at));
            }
        }
    }

    fn set_rows(&mut self, scope: Scope, target: &CommandTarget, row: u32) {
        let span = self.span(Level::Bank, scope, target);
        let mut bank = span.first as usize;
        for _ in 0..span.count {
            let old = std::mem::replace(&mut self.rows[bank], row);
            self.open_banks += u32::from(row != CLOSED);
            self.open_banks -= u32::from(old != CLOSED);
            bank += span.step as usize;
        }
        self.uniform = match (scope, self.open_banks) {
            (Scope::Channel, _) => row,
            (_, 0) => CLOSED,
            _ => MIXED,
        };
    }

    /// The rows in `scope` against the row of `target`.
    #[inline]
    pub fn rows(&self, scope: Scope, target: &CommandTarget) -> RowMatch {
        let wanted = target.address.row;
        if scope == Scope::Channel && self.uniform != MIXED {
            return match self.uniform {
                CLOSED => RowMatch::Closed,
                row if row == wanted => RowMatch::Ready,
                _ => RowMatch::Conflict,
            };
        }
        let span = self.span(Level::Bank, scope, target);
        let (mut ready, mut closed) = (0, 0);
        let mut bank = span.first as usize;
        for _ in 0..span.count {
            ready += u32::from(self.rows[bank] == wanted);
            closed += u32::from(self.rows[bank] == CLOSED);
            bank += span.step as usize;
        }
        match span.count {
            n if n == ready => RowMatch::Ready,
            n if n == closed => RowMatch::Closed,
            _ => RowMatch::Conflict,
        }
    }

    /// Banks of the channel in `scope`.
    pub fn banks(&self, scope: Scope, target: &CommandTarget) -> impl Iterator<Item = usize> + use<> {
        let span = self.span(Level::Bank, scope, target);
        (0..span.count).map(move |i| (span.first + i * span.step) as usize)
    }

    /// Whether a command at a target, which works in some bank groups where it names some, reaches a bank in `scope` of
    /// another.
    pub fn meets(&self, command: CommandId, target: &CommandTarget, scope: Scope, other: &CommandTarget) -> bool {
        let own = &self.device.commands[usize::from(command)];
        let set = self.span(Level::Bank, scope, other);
        let within = |bank: u32| {
            bank.checked_sub(set.first).is_some_and(|ahead| ahead % set.step == 0 && ahead / set.step < set.count)
        };
        if own.effect == Effect::MacOpen {
            return self.nodes_of(Level::Bank, target.units).any(within);
        }
        let span = self.span(Level::Bank, own.scope, target);
        (0..span.count).any(|i| within(span.first + i * span.step))
    }

    /// Whether any bank in `scope` has a row open.
    pub fn any_open(&self, scope: Scope, target: &CommandTarget) -> bool {
        self.banks(scope, target).any(|bank| self.rows[bank] != CLOSED)
    }

    /// The banks in `scope` that have a row open.
    pub fn open_in(&self, scope: Scope, target: &CommandTarget) -> impl Iterator<Item = CommandTarget> + use<'_, 'd> {
        let g = &self.device.geometry;
        let channel = target.address.channel;
        self.banks(scope, target).filter(|bank| self.rows[*bank] != CLOSED).map(move |bank| {
            let (unit, bank) = (bank as u32 / g.banks, bank as u32 % g.banks);
            let (row, column) = (NOT_ADDRESSED, NOT_ADDRESSED);
            self.target(Address { bank, row, column, ..g.unit_address(channel, unit) })
        })
    }

    /// Moves all times and renames all rows, for the replay cache.
    pub(crate) fn rebase(&mut self, rebase: &mut Rebase<'_>) {
        // Which of them a time was written down in makes no difference, and shall make none.
        self.tops.fill(0);
        for (level, (base, nodes)) in self.base.iter().zip(self.nodes).enumerate() {
            let in_level = level * self.commands..(level + 1) * self.commands;
            let (floors, tops) = (&self.floors[in_level.clone()], &mut self.tops[in_level]);
            let own = *base as usize..(*base + nodes) as usize;
            for ((nodes, floor), top) in self.ready.chunks_exact_mut(self.total).zip(floors).zip(tops) {
                for at in &mut nodes[own.clone()] {
                    *at = (*at).max(*floor);
                    rebase.bound(at);
                    *top = (*top).max(*at);
                }
            }
        }
        self.floors.fill(0);
        let windows = self.device.windows.iter().zip(&mut self.rings).zip(&mut self.heads);
        for ((window, rings), heads) in windows {
            for (ring, head) in rings.chunks_mut(window.count as usize).zip(heads) {
                ring.rotate_left(*head as usize);
                *head = 0;
                ring.iter_mut().for_each(|at| rebase.bound(at));
            }
        }
        self.rows.iter_mut().chain([&mut self.uniform]).for_each(|row| rebase.row(row));
    }

    /// Mixes the state into a digest: equal states give equal digests.
    pub fn digest(&self, digest: &mut u64) {
        self.ready.iter().filter(|at| **at > 0).for_each(|at| mix(digest, *at));
        self.rows.iter().for_each(|row| mix(digest, u64::from(*row)));
    }

    /// Whether two states in canonical form are the same to all that can follow.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.ready == other.ready
            && self.rings == other.rings
            && self.rows == other.rows
            && self.uniform == other.uniform
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.ready.len() * size_of::<Cycle>() + self.rings.iter().map(Vec::len).sum::<usize>() * size_of::<Cycle>()
    }

    /// Banks with an open row.
    pub fn open_banks(&self) -> u32 {
        self.open_banks
    }
}
