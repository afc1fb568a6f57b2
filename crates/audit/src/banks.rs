//! The banks that a command acts on, as a set.

use pimattn_core::addr::{Geometry, NOT_ADDRESSED};
use pimattn_core::spec::{Level, Scope};

/// Words of a set: a channel has at most 1024 banks.
const WORDS: usize = 16;

/// A set of banks of one channel. Bank numbers count through the address from the pseudo-channel down, so that the
/// banks of a node of any level are consecutive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Banks([u64; WORDS]);

impl Banks {
    /// The banks in `scope` of an address (pseudo-channel, rank, bank group, bank), or which field it lacks.
    pub fn of(scope: Scope, fields: &[u32], g: &Geometry) -> Result<Self, &'static str> {
        let names = ["pseudo-channel", "rank", "bank group", "bank"];
        let needed: &[usize] = match scope {
            Scope::Bank => &[0, 1, 2, 3],
            Scope::BankGroup => &[0, 1, 2],
            Scope::SameBank => &[3],
            Scope::PerBank => &[1, 2, 3],
            Scope::Rank => &[0, 1],
            Scope::Channel => &[],
        };
        if let Some(lacks) = needed.iter().find(|i| fields[**i] == NOT_ADDRESSED) {
            return Err(names[*lacks]);
        }
        let mut out = Banks::default();
        let mut number = 0;
        for pseudo_channel in 0..g.pseudo_channels {
            for rank in 0..g.ranks {
                for bank_group in 0..g.bank_groups {
                    for bank in 0..g.banks {
                        let at = [pseudo_channel, rank, bank_group, bank];
                        if needed.iter().all(|i| at[*i] == fields[*i]) {
                            out.0[number / 64] |= 1 << (number % 64);
                        }
                        number += 1;
                    }
                }
            }
        }
        Ok(out)
    }

    /// The banks of bank groups, counted over the channel.
    pub fn of_units(units: u64, g: &Geometry) -> Self {
        let mut out = Banks::default();
        for number in (0..g.banks_per_channel()).filter(|n| units >> (n / g.banks) & 1 == 1) {
            out.0[number as usize / 64] |= 1 << (number % 64);
        }
        out
    }

    /// The banks by number.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let of_word =
            |(i, word): (usize, u64)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit);
        self.0.into_iter().enumerate().filter(|(_, word)| *word != 0).flat_map(of_word)
    }

    /// The nodes of a level that contain a bank of the set, where a node has so many banks.
    pub fn nodes(&self, size: usize) -> Banks {
        if size == 1 {
            return *self;
        }
        let mut out = Banks::default();
        self.iter().map(|bank| bank / size).for_each(|node| out.0[node / 64] |= 1 << (node % 64));
        out
    }

    /// What is in either.
    pub fn union(&self, other: &Banks) -> Banks {
        Banks(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Whether the sets share a member.
    pub fn meets(&self, other: &Banks) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
}

/// Banks of one node of a level.
pub fn node_size(level: Level, g: &Geometry) -> usize {
    let below = match level {
        Level::Channel => [g.pseudo_channels, g.ranks, g.bank_groups, g.banks],
        Level::PseudoChannel => [1, g.ranks, g.bank_groups, g.banks],
        Level::Rank => [1, 1, g.bank_groups, g.banks],
        Level::BankGroup => [1, 1, 1, g.banks],
        Level::Bank => [1; 4],
    };
    below.iter().product::<u32>() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: Geometry = Geometry {
        channels: 1,
        pseudo_channels: 2,
        ranks: 2,
        bank_groups: 4,
        banks: 4,
        rows: 8,
        columns: 4,
        column_bytes: 32,
    };

    #[test]
    fn scopes_reach_what_they_say() {
        let banks = |scope| Banks::of(scope, &[1, 0, 2, 3], &G).unwrap().iter().collect::<Vec<_>>();
        assert_eq!(banks(Scope::Bank), [32 + 8 + 3]);
        assert_eq!(banks(Scope::BankGroup), [40, 41, 42, 43]);
        assert_eq!(banks(Scope::PerBank), [11, 43]);
        assert_eq!(banks(Scope::SameBank), (0..16).map(|i| i * 4 + 3).collect::<Vec<_>>());
        assert_eq!(banks(Scope::Channel).len(), 64);
        assert_eq!(Banks::of(Scope::BankGroup, &[1, 0, NOT_ADDRESSED, 3], &G), Err("bank group"));
    }

    #[test]
    fn commands_meet_where_a_node_has_banks_of_both() {
        let bank = |fields: [u32; 4]| Banks::of(Scope::Bank, &fields, &G).unwrap();
        let (a, b) = (bank([0, 1, 2, 3]), bank([0, 1, 2, 0]));
        let meet = |level| a.nodes(node_size(level, &G)).meets(&b.nodes(node_size(level, &G)));
        assert!(!meet(Level::Bank) && meet(Level::BankGroup) && meet(Level::Rank) && meet(Level::Channel));
    }
}
