//! Levels of a device, and the banks that a command acts on.

use crate::addr::Geometry;
use serde::Deserialize;

/// A level of the device at which commands meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The whole channel.
    Channel,
    /// A pseudo-channel.
    PseudoChannel,
    /// A rank.
    Rank,
    /// A bank group.
    BankGroup,
    /// A bank.
    Bank,
}

impl Level {
    /// All levels from the top.
    pub const ALL: [Level; 5] = [Level::Channel, Level::PseudoChannel, Level::Rank, Level::BankGroup, Level::Bank];

    /// Nodes of a channel.
    pub fn nodes(self, g: &Geometry) -> u32 {
        nodes(&Level::ALL[..=self as usize], g)
    }

    /// The level above.
    pub(super) fn parent(self) -> Option<Level> {
        Level::ALL[..self as usize].last().copied()
    }
}

/// The banks of a channel that a command acts on, seen from its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The addressed bank.
    Bank,
    /// All banks of the addressed bank group.
    BankGroup,
    /// The addressed bank number in every bank group.
    SameBank,
    /// The addressed bank in every pseudo-channel.
    PerBank,
    /// All banks of the addressed rank of one pseudo-channel.
    Rank,
    /// All banks.
    Channel,
}

impl Scope {
    /// Whether a command of this scope reaches all banks below its node at `level`.
    pub(super) fn fills(self, level: Level) -> bool {
        match self {
            Scope::Channel => true,
            Scope::Rank => level >= Level::Rank,
            Scope::BankGroup => level >= Level::BankGroup,
            Scope::Bank | Scope::SameBank | Scope::PerBank => level == Level::Bank,
        }
    }

    /// Banks that a command of this scope reaches in each rank that it reaches.
    pub(super) fn banks_per_rank(self, g: &Geometry) -> u32 {
        match self {
            Scope::Bank | Scope::PerBank => 1,
            Scope::BankGroup => g.banks,
            Scope::SameBank => g.bank_groups,
            Scope::Rank | Scope::Channel => g.bank_groups * g.banks,
        }
    }

    /// Banks that a command of this scope reaches in its channel.
    pub fn banks(self, g: &Geometry) -> u32 {
        match self {
            Scope::Bank => 1,
            Scope::BankGroup => g.banks,
            Scope::SameBank => g.units(),
            Scope::PerBank => g.pseudo_channels,
            Scope::Rank => g.bank_groups * g.banks,
            Scope::Channel => g.banks_per_channel(),
        }
    }
}

/// Nodes of a channel at these levels.
pub(super) fn nodes(levels: &[Level], g: &Geometry) -> u32 {
    let of = |level: &Level| match level {
        Level::Channel => 1,
        Level::PseudoChannel => g.pseudo_channels,
        Level::Rank => g.ranks,
        Level::BankGroup => g.bank_groups,
        Level::Bank => g.banks,
    };
    levels.iter().map(of).product()
}
