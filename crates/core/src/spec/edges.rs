//! Constraints of a device file, made edges and windows.

use super::config::Document;
use super::device::{ConstraintSet, ConstraintsFile, DeviceFile, PowerPolicy};
use super::expr;
use super::resolve::DeviceSelection;
use super::scope::{Level, Scope};
use super::tables::{Command, CommandId, DeclaredConstraint, Edge, Window};
use crate::addr::Geometry;
use crate::error::{Result, suggest};
use crate::units::{ClockPeriod, Cycle};
use std::collections::BTreeMap;

/// Most commands that a window may count.
const MAX_WINDOW: u32 = 64;

/// Adds the constraints of a device file to its commands, set by set.
pub(super) struct EdgeBuilder<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) timings: &'a BTreeMap<String, Cycle>,
    /// A longer latency leaves no time between two refreshes.
    pub(super) longest: Cycle,
    pub(super) power: PowerPolicy,
    pub(super) lift: bool,
    pub(super) doc: &'a Document,
    pub(super) declared: Vec<DeclaredConstraint>,
}

impl EdgeBuilder<'_> {
    /// Adds a set of constraints, the `index`-th of the file.
    pub(super) fn add(
        &mut self,
        index: usize,
        set: &ConstraintsFile,
        commands: &mut [Command],
        windows: &mut Vec<Window>,
    ) -> Result<()> {
        for (j, e) in set.edges.iter().enumerate() {
            let key = format!("constraints[{index}].edges[{j}]");
            if !e.power.is_empty() && !e.power.contains(&self.power) {
                continue;
            }
            let latency = expr::evaluate(&e.latency, self.timings).map_err(|w| self.doc.error(&key, w))?;
            if latency > self.longest {
                let what = format!("a latency of {latency} cycles is too long; at most {}", self.longest);
                return Err(self.doc.error(&key, what));
            }
            let latency = latency as u32;
            let ids = |names: &[String]| -> Result<Vec<usize>> {
                names
                    .iter()
                    .map(|n| {
                        commands.iter().position(|c| &c.name == n).ok_or_else(|| {
                            let hint = suggest(n, commands.iter().map(|c| c.name.as_str()));
                            self.doc.error(&key, format!("unknown command \"{n}\"{hint}"))
                        })
                    })
                    .collect()
            };
            let (from, to) = (ids(&e.from)?, ids(&e.to)?);
            let command_ids = |ids: &[usize]| ids.iter().map(|i| *i as CommandId).collect();
            self.declared.push(DeclaredConstraint {
                set: set.set,
                line: self.doc.line(&key).unwrap_or(0),
                level: e.level,
                apart: e.apart,
                from: command_ids(&from),
                to: command_ids(&to),
                latency,
                expression: e.latency.clone(),
                window: e.window,
                power: !e.power.is_empty(),
                by_bank: false,
            });
            if let Some(apart) = e.apart {
                self.add_siblings((e.level, apart), e.window, (&from, &to), latency, commands)
                    .map_err(|what| self.doc.error(&key, what))?;
                continue;
            }
            match e.window {
                0 => return Err(self.doc.error(&key, "window must be at least 1")),
                n if n > MAX_WINDOW => {
                    return Err(self.doc.error(&key, format!("window = {n} is over {MAX_WINDOW}")));
                }
                1 => self.add_edges(e.level, &from, &to, latency, commands),
                count => {
                    if windows.len() >= 8 {
                        return Err(self.doc.error(&key, "at most 8 windows are supported"));
                    }
                    let id = windows.len() as u8;
                    windows.push(Window { level: e.level, count, latency, by_bank: false });
                    from.iter().for_each(|f| commands[*f].counted_in.push(id));
                    to.iter().for_each(|t| commands[*t].held_by.push(id));
                    if self.power == PowerPolicy::Stagger {
                        self.stagger(e.level, &from, &to, count, latency, commands);
                    }
                }
            }
        }
        Ok(())
    }

    /// An edge between different nodes of the level below.
    fn add_siblings(
        &self,
        (level, apart): (Level, Level),
        window: u32,
        (from, to): (&[usize], &[usize]),
        latency: u32,
        commands: &mut [Command],
    ) -> Result<(), String> {
        if apart.parent() != Some(level) || window != 1 || !self.lift {
            return Err(
                "apart must be the level right below, and the edge must be of set \"completed\" and have no window"
                    .into(),
            );
        }
        // A command of several nodes of the level below would be apart from itself.
        let narrow = |c: &Command| match c.scope {
            Scope::Bank => true,
            Scope::BankGroup => apart <= Level::BankGroup,
            Scope::Rank => apart <= Level::Rank,
            Scope::SameBank | Scope::PerBank | Scope::Channel => false,
        };
        if let Some(i) = from.iter().chain(to).find(|i| !narrow(&commands[**i])) {
            return Err(format!("{} may reach several nodes of {apart:?}, so apart cannot bind it", commands[*i].name));
        }
        for &f in from {
            for &t in to {
                let same = |e: &&mut Edge| (e.level, usize::from(e.to), e.siblings) == (apart, t, true);
                match commands[f].edges.iter_mut().find(same) {
                    Some(e) => e.latency = e.latency.max(latency),
                    None => {
                        commands[f].edges.push(Edge { level: apart, to: t as CommandId, latency, siblings: true });
                    }
                }
            }
        }
        Ok(())
    }

    fn add_edges(&self, level: Level, from: &[usize], to: &[usize], latency: u32, commands: &mut [Command]) {
        for &f in from {
            for &t in to {
                let latency = latency + self.spread(level, &commands[f], &commands[t]);
                let level = match self.lift {
                    true => lift(level, commands[f].least_reach(), commands[t].least_reach()),
                    false => level,
                };
                match commands[f]
                    .edges
                    .iter_mut()
                    .find(|e| (e.level, usize::from(e.to), e.siblings) == (level, t, false))
                {
                    Some(e) => e.latency = e.latency.max(latency),
                    None => commands[f].edges.push(Edge { level, to: t as CommandId, latency, siblings: false }),
                }
            }
        }
    }

    /// Under `stagger` a wide activation opens the banks of a rank one after the other, `count` in each window: what
    /// may follow the last of them waits for that one. An edge above the rank between commands that need not share a
    /// bank is one of the row bus, which carries the activation once.
    fn spread(&self, level: Level, from: &Command, to: &Command) -> u32 {
        if self.power != PowerPolicy::Stagger || !from.effect.opens() || to.effect.opens() {
            return 0;
        }
        let in_rank = level >= Level::Rank;
        if !(in_rank || from.least_reach().fills(level) || to.least_reach().fills(level)) {
            return 0;
        }
        let banks = from.scope.banks_per_rank(self.geometry);
        let t = |name: &str| self.timings.get(name).copied().unwrap_or(0) as u32;
        (banks - 1) / 4 * t("nFAW") + (banks - 1) % 4 * t("nRRDS")
    }

    /// Under `stagger` an activation of n banks of a rank uses up n places of the window.
    fn stagger(&self, level: Level, from: &[usize], to: &[usize], count: u32, latency: u32, commands: &mut [Command]) {
        for &f in from {
            let windows = commands[f].scope.banks_per_rank(self.geometry) / count;
            if windows > 0 {
                self.add_edges(level, &[f], to, windows * latency, commands);
            }
        }
    }
}

/// The highest level at which an edge means the same: where one of the two commands reaches every bank of the node
/// above, meeting in that node and meeting in its parts are one. Higher edges are fewer nodes to look at.
fn lift(level: Level, from: Scope, to: Scope) -> Level {
    let mut level = level;
    while let Some(parent) = level.parent() {
        if !(from.fills(parent) || to.fills(parent)) {
            break;
        }
        level = parent;
    }
    level
}

/// Adds the window of power policy `charge`: every command that opens rows counts with its banks.
pub(super) fn charge(
    file: &DeviceFile,
    doc: &Document,
    choice: &DeviceSelection<'_>,
    chooser: &Document,
    (clock, longest): (ClockPeriod, Cycle),
    (commands, windows, declared): (&mut [Command], &mut Vec<Window>, &mut Vec<DeclaredConstraint>),
) -> Result<()> {
    let given = file.power_budget.as_ref();
    let activations = choice.budget.activations.or(given.map(|b| b.activations));
    let window = choice.budget.window.as_ref().or(given.map(|b| &b.window));
    let (Some(count), Some(window)) = (activations, window) else {
        let what = format!("power = \"charge\" needs a [power_budget] here or in {}", file.name);
        return Err(chooser.error("power", what));
    };
    let error = |key: &str, from_system: bool, what: String| match from_system {
        true => chooser.error(&format!("power_budget.{key}"), what),
        false => doc.error(&format!("power_budget.{key}"), what),
    };
    if let Some(c) = commands.iter().rfind(|c| c.effect.opens() && c.banks_per_rank > count) {
        let what = format!("{} opens {} banks of a rank; the budget is {count} a window", c.name, c.banks_per_rank);
        return Err(error("activations", choice.budget.activations.is_some(), what));
    }
    let latency = window.cycles(clock);
    if !(1..=4096).contains(&count) || !(1..=longest).contains(&latency) {
        let what = format!("{count} activations in {latency} tCK: expected 1..=4096 in 1..={longest} tCK");
        return Err(error("window", choice.budget.window.is_some(), what));
    }
    let id = windows.len() as u8;
    let openers = (0..).zip(commands.iter()).filter(|(_, c)| c.effect.opens()).map(|(i, _)| i);
    let openers: Vec<CommandId> = openers.collect();
    declared.push(DeclaredConstraint {
        set: ConstraintSet::Completed,
        line: 0,
        level: Level::Rank,
        apart: None,
        from: openers.clone(),
        to: openers,
        latency: latency as u32,
        expression: "power_budget.window".into(),
        window: count,
        power: true,
        by_bank: true,
    });
    windows.push(Window { level: Level::Rank, count, latency: latency as u32, by_bank: true });
    for c in commands.iter_mut().filter(|c| c.effect.opens()) {
        c.counted_in.push(id);
        c.held_by.push(id);
    }
    Ok(())
}
