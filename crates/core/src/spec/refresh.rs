//! Which banks of a channel are refreshed when, and by which command.
//!
//! A refresh command reaches a *set* of banks: the channel, a rank, one bank of every bank group, or a bank. All banks of a
//! channel have their turn once in nREFI. The sets fall due together at its end, or in turn, evenly spread over it: the n-th
//! refresh (from 1) of k sets at n / k of nREFI, rounded down.

use super::config::Document;
use super::effect::Effect;
use super::scope::Scope;
use super::tables::{CommandId, Device};
use crate::addr::{Address, Geometry, NOT_ADDRESSED};
use crate::error::Result;
use crate::units::Cycle;
use serde::Deserialize;

/// Whether and how DRAM is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Refresh {
    /// All banks of a channel, or of a rank, by one command.
    #[serde(rename = "all-bank", alias = "AllBankHBM3")]
    AllBank,
    /// The same bank of every bank group by one command.
    #[serde(rename = "same-bank")]
    SameBank,
    /// One bank by one command.
    #[serde(rename = "per-bank")]
    PerBank,
    /// Never.
    #[serde(rename = "none", alias = "No")]
    None,
}

/// When the sets of banks of a channel are refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshOrder {
    /// All of them each nREFI: of all banks, by one command for the channel; else one command after the other.
    Together,
    /// One after the other, evenly spread over nREFI: of all banks, rank by rank.
    InTurn,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum RefreshRate {
    /// Each bank once in nREFI.
    #[default]
    #[serde(rename = "1x")]
    Normal,
    /// Twice, as a hot device asks for.
    #[serde(rename = "2x")]
    Double,
}

impl RefreshRate {
    /// How often each bank is refreshed in the device's nREFI.
    pub fn times(self) -> Cycle {
        match self {
            RefreshRate::Normal => 1,
            RefreshRate::Double => 2,
        }
    }
}

/// A refresh that falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Due {
    /// When.
    pub at: Cycle,
    /// Which set of banks, from 0.
    pub turn: u32,
}

/// The refreshes of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshes {
    /// The refresh command.
    pub command: CommandId,
    /// What closes the banks of a set before it: all of them at once, or one bank.
    pub closer: CommandId,
    /// The banks of a set.
    pub scope: Scope,
    /// Sets of banks of a channel.
    pub sets: u32,
    /// Cycles in which each set has its turn once.
    pub interval: Cycle,
    /// Whether all sets fall due at the end of an interval.
    pub together: bool,
}

impl Refreshes {
    /// Those that a system asks for, of a device; `doc` is the system's file. Nothing where none are asked for.
    pub fn of(
        device: &Device,
        refresh: Refresh,
        order: Option<RefreshOrder>,
        doc: &Document,
    ) -> Result<Option<Refreshes>> {
        let order = order.unwrap_or(match refresh {
            Refresh::AllBank | Refresh::None => RefreshOrder::Together,
            Refresh::SameBank | Refresh::PerBank => RefreshOrder::InTurn,
        });
        let g = &device.geometry;
        let together = order == RefreshOrder::Together;
        let (scope, what) = match refresh {
            Refresh::None => return Ok(None),
            Refresh::AllBank if together => (Scope::Channel, "refresh command"),
            Refresh::AllBank => (Scope::Rank, "refresh command of a rank"),
            Refresh::SameBank => (Scope::SameBank, "refresh command of the same bank of every bank group"),
            Refresh::PerBank => (Scope::Bank, "refresh command of a bank"),
        };
        let of_scope = |(id, _): &&(CommandId, CommandId)| device.commands[usize::from(*id)].scope == scope;
        let Some(&(command, closer)) = device.refreshes.iter().find(of_scope) else {
            let other = if device.refreshes.is_empty() { "; use \"none\"" } else { "" };
            let key = if scope == Scope::Rank { "refresh_order" } else { "refresh" };
            return Err(doc.error(key, format!("{} has no {what}{other}", device.name)));
        };
        let sets = g.banks_per_channel() / scope.banks(g);
        let out = Refreshes { command, closer, scope, sets, interval: device.nrefi, together };
        // One command for all banks is checked with the device.
        if sets > 1 {
            out.check(device).map_err(|what| doc.error("refresh", what))?;
        }
        Ok(Some(out))
    }

    /// Whether all sets can have their turn, and leave time for work.
    fn check(&self, device: &Device) -> Result<(), String> {
        let (g, command) = (&device.geometry, &device.commands[usize::from(self.command)]);
        let lasts = device.refresh_cycles(self.command);
        let apart = |e: &&super::tables::Edge| e.to == self.command && !e.siblings;
        // Of one set after the other, those that meet at a node take their distance there.
        let one_by_one = command.edges.iter().filter(apart).map(|e| {
            let of_node = g.banks_per_channel() / e.level.nodes(g) / self.scope.banks(g);
            Cycle::from(e.latency) * Cycle::from(of_node.max(1))
        });
        let takes = one_by_one.max().unwrap_or(0).max(Cycle::from(self.sets));
        match 2 * lasts.max(takes) > self.interval {
            true => Err(format!(
                "refreshing {} sets of banks, of {lasts} cycles each, takes more than half of an interval of {} cycles",
                self.sets, self.interval
            )),
            false => Ok(()),
        }
    }

    /// The first.
    pub fn first(&self) -> Due {
        Due { at: self.offset(0), turn: 0 }
    }

    /// From the beginning of an interval on.
    fn offset(&self, turn: u32) -> Cycle {
        if self.together { self.interval } else { (Cycle::from(turn) + 1) * self.interval / Cycle::from(self.sets) }
    }

    /// The one that comes so many behind another.
    pub fn after(&self, due: Due, times: u64) -> Due {
        let turn = u64::from(due.turn) + times;
        let (intervals, turn) = (turn / u64::from(self.sets), (turn % u64::from(self.sets)) as u32);
        Due { at: due.at - self.offset(due.turn) + intervals * self.interval + self.offset(turn), turn }
    }

    /// How many there are from one up to another.
    pub fn between(&self, from: Due, to: Due) -> u64 {
        let intervals = (to.at + self.offset(from.turn) - from.at - self.offset(to.turn)) / self.interval;
        intervals * u64::from(self.sets) + u64::from(to.turn) - u64::from(from.turn)
    }

    /// The address, in a channel, of a set. Consecutive sets lie in different pseudo-channels, ranks and bank groups, in
    /// this order, as far as they are one each.
    pub fn address(&self, channel: u32, turn: u32, g: &Geometry) -> Address {
        let counts = match self.scope {
            Scope::Bank => [g.pseudo_channels, g.ranks, g.bank_groups, g.banks],
            Scope::PerBank => [1, g.ranks, g.bank_groups, g.banks],
            Scope::BankGroup => [g.pseudo_channels, g.ranks, g.bank_groups, 1],
            Scope::SameBank => [1, 1, 1, g.banks],
            Scope::Rank => [g.pseudo_channels, g.ranks, 1, 1],
            Scope::Channel => [1; 4],
        };
        let mut left = turn;
        let [pseudo_channel, rank, bank_group, bank] = counts.map(|count| {
            let own = left % count;
            left /= count;
            own
        });
        let (row, column) = (NOT_ADDRESSED, NOT_ADDRESSED);
        Address { channel, pseudo_channel, rank, bank_group, bank, row, column, offset: 0 }
    }
}

/// Whether a command closes what a refresh of some banks needs closed: all of them, or one at a time.
pub(super) fn closes(closer: (Effect, Scope), refresh: Scope) -> bool {
    closer.0.closes() && (closer.1 == refresh || closer.1 == Scope::Bank && refresh != Scope::Channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refreshes(sets: u32, together: bool) -> Refreshes {
        Refreshes { command: 0, closer: 0, scope: Scope::Bank, sets, interval: 5070, together }
    }

    #[test]
    fn sets_fall_due_evenly_or_together() {
        let r = refreshes(64, false);
        let mut due = r.first();
        for n in 1..1000u64 {
            assert_eq!(due, Due { at: n * 5070 / 64, turn: ((n - 1) % 64) as u32 });
            assert_eq!(r.after(r.first(), n - 1), due);
            assert_eq!(r.between(r.first(), due), n - 1);
            // From another beginning of time.
            let moved = |due: Due| Due { at: due.at + (1 << 40) - 333, ..due };
            assert_eq!(r.after(moved(due), 70), moved(r.after(due, 70)));
            assert_eq!(r.between(moved(due), moved(r.after(due, 70))), 70);
            due = r.after(due, 1);
        }
        let r = refreshes(4, true);
        let dues: Vec<Due> = (0..6).map(|n| r.after(r.first(), n)).collect();
        assert_eq!(dues.iter().map(|d| d.at).collect::<Vec<_>>(), [5070, 5070, 5070, 5070, 10140, 10140]);
        assert_eq!(dues.iter().map(|d| d.turn).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(r.between(dues[2], dues[5]), 3);
    }

    #[test]
    fn every_bank_has_its_turn() {
        let g = Geometry {
            channels: 1,
            pseudo_channels: 2,
            ranks: 3,
            bank_groups: 4,
            banks: 4,
            rows: 8,
            columns: 4,
            column_bytes: 32,
        };
        let r = refreshes(96, false);
        let of = |turn| r.address(0, turn, &g);
        let mut all: Vec<[u32; 4]> =
            (0..96).map(of).map(|a| [a.pseudo_channel, a.rank, a.bank_group, a.bank]).collect();
        assert_eq!(all[..3], [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 96);
    }
}
