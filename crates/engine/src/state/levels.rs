//! Levels of a channel's tree, from the channel down to its banks: which nodes commands reach, and the constraints of each
//! command laid out as the tables of [`ChannelState`](super::ChannelState) are.

use super::CommandTarget;
use pimattn_core::addr::Address;
use pimattn_core::spec::{Command, Device, Effect, Level, Scope};
use pimattn_core::units::Cycle;
use std::ops::Range;
use std::sync::Arc;

/// The nodes of a level of `nodes` that have some of the bank groups of `units`, of which there are `groups`: stretches without
/// a gap, each of as many bank groups as follow one another.
#[inline]
pub(super) fn spans_of(groups: u32, nodes: u32, mut units: u64) -> impl Iterator<Item = Range<u32>> {
    std::iter::from_fn(move || {
        let first = units.trailing_zeros();
        if first == 64 {
            return None;
        }
        let end = first + (units >> first).trailing_ones();
        units = if end == 64 { 0 } else { units >> end << end };
        Some(match nodes.checked_div(groups) {
            Some(below) if below > 0 => first * below..end * below,
            _ => first / (groups / nodes)..(end - 1) / (groups / nodes) + 1,
        })
    })
}

/// Nodes `first, first + step, ...`, `count` of them.
#[derive(Clone, Copy)]
pub(super) struct NodeSpan {
    pub(super) first: u32,
    pub(super) step: u32,
    pub(super) count: u32,
}

impl NodeSpan {
    /// Its nodes among those of a level.
    #[inline]
    pub(super) fn of<'n, T>(&self, nodes: &'n [T]) -> impl Iterator<Item = &'n T> + use<'n, T> {
        nodes[self.first as usize..].iter().step_by(self.step as usize).take(self.count as usize)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> + use<> {
        let (first, step) = (self.first, self.step);
        (0..self.count).map(move |i| first + i * step)
    }

    pub(super) fn contains(&self, node: u32) -> bool {
        node >= self.first
            && (node - self.first).is_multiple_of(self.step)
            && (node - self.first) / self.step < self.count
    }

    /// Whether some of its nodes are among another's.
    pub(super) fn within(&self, other: &NodeSpan) -> bool {
        (0..self.count).any(|i| other.contains(self.first + i * self.step))
    }
}

/// The commands that a command holds back at one level: at its own nodes, or at their siblings.
pub(super) struct HeldLevel {
    pub(super) level: Level,
    pub(super) siblings: bool,
    /// Their places in `ready`, at the first node of the level.
    pub(super) commands: Vec<DelayedCommand>,
    /// The same in `floors`; and in `tops`, of those that ask for all nodes of the level at once.
    pub(super) floors: Vec<DelayedCommand>,
    pub(super) tops: Vec<DelayedCommand>,
}

/// A command that another one holds back, by its place in a table.
pub(super) struct DelayedCommand {
    pub(super) place: u32,
    pub(super) latency: u32,
}

impl DelayedCommand {
    /// Holds commands back, at the `node`-th place from theirs, after a command at a cycle.
    #[inline]
    pub(super) fn hold(commands: &[DelayedCommand], table: &mut [Cycle], node: u32, at: Cycle) {
        for to in commands {
            let not_before = &mut table[(to.place + node) as usize];
            *not_before = (*not_before).max(at + Cycle::from(to.latency));
        }
    }
}

/// A level at which a command may be held back, with its places in the tables.
pub(super) struct AskedLevel {
    pub(super) level: Level,
    pub(super) ready: usize,
    pub(super) in_level: usize,
    pub(super) nodes: AskedNodes,
}

/// The nodes of a level that a command asks for.
#[derive(PartialEq)]
pub(super) enum AskedNodes {
    All,
    /// That of its target.
    One,
    Some,
}

/// The constraints of one command, laid out as the tables of a channel are.
pub(super) struct CommandLevels {
    pub(super) holds: Vec<HeldLevel>,
    pub(super) asks: Vec<AskedLevel>,
    /// Whether nothing but these levels holds it back, at one node or at all.
    pub(super) is_simple: bool,
}

/// The nodes of a level that a command reaches, of so many nodes by level.
#[inline]
pub(super) fn span(nodes: &[u32; 5], level: Level, scope: Scope, target: &CommandTarget) -> NodeSpan {
    let l = level as usize;
    let own = target.path[l];
    let banks = nodes[Level::Bank as usize] / nodes[Level::BankGroup as usize];
    match scope {
        Scope::Bank => NodeSpan { first: own, step: 1, count: 1 },
        Scope::BankGroup if level < Level::Bank => NodeSpan { first: own, step: 1, count: 1 },
        Scope::BankGroup => NodeSpan { first: target.path[3] * banks, step: 1, count: banks },
        Scope::SameBank if level == Level::Bank => {
            NodeSpan { first: target.address.bank, step: banks, count: nodes[3] }
        }
        Scope::Rank if level <= Level::Rank => NodeSpan { first: own, step: 1, count: 1 },
        Scope::Rank => {
            let count = nodes[l] / nodes[Level::Rank as usize];
            NodeSpan { first: target.path[Level::Rank as usize] * count, step: 1, count }
        }
        Scope::SameBank | Scope::Channel => NodeSpan { first: 0, step: 1, count: nodes[l] },
        Scope::PerBank if level == Level::Channel => NodeSpan { first: 0, step: 1, count: 1 },
        Scope::PerBank => {
            let step = nodes[l] / nodes[1];
            NodeSpan { first: own % step, step, count: nodes[1] }
        }
    }
}

/// The constraints of all commands, for tables of so many nodes by level, the first of each at its base.
pub(super) fn command_levels(device: &Device, base: &[u32; 5], nodes: &[u32; 5], total: usize) -> Arc<[CommandLevels]> {
    let commands = device.commands.len();
    let anywhere = CommandTarget { address: Address::default(), path: [0; 5], units: 0 };
    let count = |level: Level, id: usize| span(nodes, level, device.commands[id].scope, &anywhere).count;
    let asks_for_all = |level: Level, id: usize| count(level, id) == nodes[level as usize];
    let places = |level: Level, id: usize| (id * total + base[level as usize] as usize, level as usize * commands + id);
    let levels = |(id, command): (usize, &Command)| {
        let mut holds: Vec<HeldLevel> = Vec::new();
        for edge in &command.edges {
            let (level, to) = (edge.level, usize::from(edge.to));
            let (ready, in_level) = places(level, to);
            // What holds for the channel as a whole is asked for by itself, too.
            let asks_for_all = level == Level::Channel || asks_for_all(level, to);
            // Without siblings nothing is held.
            if edge.siblings && nodes[level as usize] == nodes[level as usize - 1] {
                continue;
            }
            let same = holds.iter().position(|h| (h.level, h.siblings) == (level, edge.siblings));
            let index = same.unwrap_or_else(|| {
                let (commands, floors, tops) = (Vec::new(), Vec::new(), Vec::new());
                holds.push(HeldLevel { level, siblings: edge.siblings, commands, floors, tops });
                holds.len() - 1
            });
            let held = |place: usize| DelayedCommand { place: place as u32, latency: edge.latency };
            holds[index].commands.push(held(ready));
            holds[index].floors.push(held(in_level));
            holds[index].tops.extend(asks_for_all.then(|| held(in_level)));
        }
        let asked = |level: &Level| {
            let (ready, in_level) = places(*level, id);
            let own = match command.scope {
                Scope::Bank => true,
                Scope::BankGroup => *level < Level::Bank,
                Scope::Rank => *level <= Level::Rank,
                _ => false,
            };
            let nodes = match asks_for_all(*level, id) {
                true => AskedNodes::All,
                false if own => AskedNodes::One,
                false => AskedNodes::Some,
            };
            AskedLevel { level: *level, ready, in_level, nodes }
        };
        let asks: Vec<AskedLevel> = command.incoming.iter().map(asked).collect();
        let whole = asks.iter().all(|asked| asked.nodes != AskedNodes::Some);
        let is_simple = whole && command.held_by.is_empty() && command.effect != Effect::MacOpen;
        CommandLevels { holds, asks, is_simple }
    };
    device.commands.iter().enumerate().map(levels).collect()
}
