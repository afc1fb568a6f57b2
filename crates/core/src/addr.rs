//! Physical addresses: byte address <-> (channel, pseudo-channel, rank, bank group, bank, row, column).
//!
//! From the top: channel | pseudo-channel | rank | bank group | bank | row | column | offset, as AttAcc's address
//! map "HBM3-PIM" has it. Every field takes as many bits as its count needs, so three ranks take two bits and the
//! addresses of a fourth do not exist.

use super::order::AddressOrder;
use serde::{Deserialize, Serialize};

/// What a device consists of ([`Geometry::check`] says what is possible).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Geometry {
    /// Channels of the simulated system.
    pub channels: u32,
    /// Pseudo-channels per channel.
    pub pseudo_channels: u32,
    /// Ranks (stack IDs) per pseudo-channel.
    pub ranks: u32,
    /// Bank groups per rank.
    pub bank_groups: u32,
    /// Banks per bank group.
    pub banks: u32,
    /// Rows per bank.
    pub rows: u32,
    /// Columns per row.
    pub columns: u32,
    /// Bytes of one column access.
    pub column_bytes: u32,
}

/// A field of an address that a command is given without.
pub const NOT_ADDRESSED: u32 = u32::MAX;

/// A decoded address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// Channel.
    pub channel: u32,
    /// Pseudo-channel within the channel.
    pub pseudo_channel: u32,
    /// Rank within the pseudo-channel.
    pub rank: u32,
    /// Bank group within the rank.
    pub bank_group: u32,
    /// Bank within the bank group.
    pub bank: u32,
    /// Row within the bank.
    pub row: u32,
    /// Column within the row.
    pub column: u32,
    /// Byte within the column; for buffer commands the buffer entry.
    pub offset: u32,
}

/// What is left of a byte address whose lowest fields were taken.
pub(crate) struct LowBits(pub(crate) u64);

impl LowBits {
    /// The lowest field, one of so many values.
    #[inline]
    pub(crate) fn take(&mut self, count: u32) -> u32 {
        let field = (self.0 & ((1 << bits(count)) - 1)) as u32;
        self.0 >>= bits(count);
        field
    }
}

/// A byte address with a field, one of so many values, put below it.
#[inline]
pub(crate) fn append(above: u64, field: u32, count: u32) -> u64 {
    above << bits(count) | u64::from(field)
}

#[inline]
pub(crate) fn bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} channels x {} pseudo-channels x {} ranks x {} bank groups x {} banks, {} rows of {} columns of {} B",
            self.channels,
            self.pseudo_channels,
            self.ranks,
            self.bank_groups,
            self.banks,
            self.rows,
            self.columns,
            self.column_bytes
        )
    }
}

impl Geometry {
    /// What is impossible about this geometry, if anything.
    pub fn check(&self) -> Result<(), String> {
        let fields = [
            ("channels", self.channels, 1 << 12),
            ("pseudo_channels", self.pseudo_channels, 1 << 4),
            ("ranks", self.ranks, 1 << 4),
            ("bank_groups", self.bank_groups, 1 << 5),
            ("banks", self.banks, 1 << 5),
            ("rows", self.rows, 1 << 24),
            ("columns", self.columns, 1 << 6),
            ("column_bytes", self.column_bytes, 1 << 10),
        ];
        for (name, n, most) in fields {
            let any_count = matches!(name, "channels" | "ranks");
            if n == 0 || n > most || !(any_count || n.is_power_of_two()) {
                let kind = if any_count { "in 1" } else { "a power of two" };
                return Err(format!("{name} = {n} is not {kind}..={most}"));
            }
        }
        match self.banks_per_channel() {
            0..=1024 => Ok(()),
            n => Err(format!("{n} banks in a channel; at most 1024 are supported")),
        }
    }

    /// Banks of one channel.
    #[inline]
    pub fn banks_per_channel(&self) -> u32 {
        self.units() * self.banks
    }

    /// Bank groups of one channel: the units that hold different tokens.
    #[inline]
    pub fn units(&self) -> u32 {
        self.pseudo_channels * self.ranks * self.bank_groups
    }

    /// The first row of the upper half of a bank, where AttAcc's generators have values; keys are in the lower half.
    #[inline]
    pub fn upper_half(&self) -> u32 {
        (self.rows / 2).max(1)
    }

    /// Bytes of one row of one bank.
    #[inline]
    pub fn row_bytes(&self) -> u32 {
        self.columns * self.column_bytes
    }

    /// Bytes of one channel.
    #[inline]
    pub fn channel_bytes(&self) -> u64 {
        u64::from(self.banks_per_channel()) * u64::from(self.rows) * u64::from(self.row_bytes())
    }

    /// Bytes of all channels.
    pub fn capacity(&self) -> u64 {
        self.channel_bytes() * u64::from(self.channels)
    }

    #[inline]
    fn channel_shift(&self) -> u32 {
        [self.pseudo_channels, self.ranks, self.bank_groups, self.banks, self.rows, self.columns, self.column_bytes]
            .into_iter()
            .map(bits)
            .sum()
    }

    /// Lowest bit and width of each field of a byte address, from the top.
    pub fn fields(&self) -> [(&'static str, u32, u32); 8] {
        AddressOrder::default().fields(self)
    }

    /// The unit (bank group counted over the channel) of an address.
    #[inline]
    pub fn unit_of(&self, a: &Address) -> u32 {
        (a.pseudo_channel * self.ranks + a.rank) * self.bank_groups + a.bank_group
    }

    /// The channel of a byte address.
    #[inline]
    pub fn channel_of(&self, addr: u64) -> u32 {
        (addr >> self.channel_shift()) as u32
    }

    /// First address of a channel.
    #[inline]
    pub fn channel_base(&self, channel: u32) -> u64 {
        u64::from(channel) << self.channel_shift()
    }

    /// Whether two addresses lie in one row of one bank.
    #[inline]
    pub fn same_row(&self, a: u64, b: u64) -> bool {
        (a ^ b) >> (bits(self.columns) + bits(self.column_bytes)) == 0
    }

    /// Whether the device has this address.
    #[inline]
    pub fn contains(&self, addr: u64) -> bool {
        let rank = ((addr >> (self.channel_shift() - bits(self.pseudo_channels) - bits(self.ranks)))
            & ((1 << bits(self.ranks)) - 1)) as u32;
        addr >> self.channel_shift() < u64::from(self.channels) && rank < self.ranks
    }

    /// A byte address taken apart.
    #[inline]
    pub fn decode(&self, addr: u64) -> Address {
        let mut low = LowBits(addr);
        let mut take = |count: u32| low.take(count);
        let offset = take(self.column_bytes);
        let column = take(self.columns);
        let row = take(self.rows);
        let bank = take(self.banks);
        let bank_group = take(self.bank_groups);
        let rank = take(self.ranks);
        let pseudo_channel = take(self.pseudo_channels);
        let channel = take(self.channels);
        Address { channel, pseudo_channel, rank, bank_group, bank, row, column, offset }
    }

    /// An address put together.
    #[inline]
    pub fn encode(&self, a: &Address) -> u64 {
        let mut out = u64::from(a.channel);
        for (field, count) in [
            (a.pseudo_channel, self.pseudo_channels),
            (a.rank, self.ranks),
            (a.bank_group, self.bank_groups),
            (a.bank, self.banks),
            (a.row, self.rows),
            (a.column, self.columns),
            (a.offset, self.column_bytes),
        ] {
            debug_assert!(field < count);
            out = append(out, field, count);
        }
        out
    }

    /// The entries of scores that the address of a softmax names: its row and column, read as one number.
    #[inline]
    pub fn softmax_entries(&self, a: &Address) -> u64 {
        match [a.row, a.column].contains(&NOT_ADDRESSED) {
            true => 0,
            false => u64::from(a.row) * u64::from(self.columns) + u64::from(a.column),
        }
    }

    /// Where the softmax of so many entries of scores is asked for, in channel 0: one address, or several whose entries
    /// add up where one cannot name so many.
    pub fn softmax_addresses(&self, entries: u64) -> impl Iterator<Item = Address> + use<> {
        let (columns, most) = (u64::from(self.columns), u64::from(self.rows) * u64::from(self.columns) - 1);
        let parts = entries.div_ceil(most.max(1)).max(1);
        (0..parts).map(move |i| {
            let n = entries.saturating_sub(i * most).min(most);
            Address { row: (n / columns) as u32, column: (n % columns) as u32, ..Address::default() }
        })
    }

    /// The number of a bank within its channel, and so what a command that works in all banks, and needs none named, may
    /// say by the bank of its address.
    #[inline]
    pub fn bank_number(&self, a: &Address) -> u32 {
        ((a.pseudo_channel * self.ranks + a.rank) * self.bank_groups + a.bank_group) * self.banks + a.bank
    }

    /// An address with the bank of a number.
    #[inline]
    pub fn with_bank_number(&self, number: u32, a: Address) -> Address {
        let at = self.unit_address(a.channel, number / self.banks);
        Address { bank: number % self.banks, row: a.row, column: a.column, offset: a.offset, ..at }
    }

    /// The query heads for which a MAC of all banks, or of bank groups, multiplies the column that it reads: one more than
    /// the number of its bank. Only where units multiply for several heads at a time; else its bank means nothing.
    #[inline]
    pub fn heads_of_mac(&self, a: &Address) -> u32 {
        let is_named = ![a.pseudo_channel, a.rank, a.bank_group, a.bank].contains(&NOT_ADDRESSED);
        if is_named { self.bank_number(a) + 1 } else { 1 }
    }

    /// Where a MAC for so many query heads is asked for: at most as many as a channel has banks.
    #[inline]
    pub fn mac_for(&self, heads: u32, a: Address) -> Address {
        self.with_bank_number(heads - 1, a)
    }

    /// The address of the first bank of unit `unit` (bank group counted over the channel).
    #[inline]
    pub fn unit_address(&self, channel: u32, unit: u32) -> Address {
        let bank_group = unit % self.bank_groups;
        let rank = unit / self.bank_groups % self.ranks;
        let pseudo_channel = unit / (self.bank_groups * self.ranks);
        Address { channel, pseudo_channel, rank, bank_group, ..Address::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's device: 16 channels of HBM3 "8Gb 2R".
    pub const PAPER: Geometry = Geometry {
        channels: 16,
        pseudo_channels: 2,
        ranks: 2,
        bank_groups: 4,
        banks: 4,
        rows: 1 << 14,
        columns: 32,
        column_bytes: 32,
    };

    #[test]
    fn fields_lie_where_the_reference_puts_them() {
        // AttAcc's generators: bank += 2^24, bank group += 2^26, rank += 2^28, pCH += 2^29, channel += 2^30.
        assert_eq!(PAPER.decode(0x4000_0000).channel, 1);
        assert_eq!(PAPER.decode(0x2000_0000).pseudo_channel, 1);
        assert_eq!(PAPER.decode(0x1000_0000).rank, 1);
        assert_eq!(PAPER.decode(0x0400_0000).bank_group, 1);
        assert_eq!(PAPER.decode(0x0100_0000).bank, 1);
        assert_eq!(PAPER.decode(0x0080_0000).row, 8192);
        assert_eq!(PAPER.decode(0x40).column, 2);
        assert_eq!(PAPER.fields()[0], ("channel", 30, 4));
        assert_eq!(PAPER.fields()[5], ("row", 10, 14));
        assert_eq!(PAPER.capacity(), 16 << 30);
        assert_eq!(PAPER.check(), Ok(()));
    }

    #[test]
    fn encode_undoes_decode() {
        for addr in (0..PAPER.capacity()).step_by(0x1234_5679) {
            assert_eq!(PAPER.encode(&PAPER.decode(addr)), addr);
            assert_eq!(PAPER.channel_of(addr), PAPER.decode(addr).channel);
        }
        for unit in 0..PAPER.units() {
            let a = PAPER.unit_address(3, unit);
            assert_eq!((a.pseudo_channel * 2 + a.rank) * 4 + a.bank_group, unit);
            assert_eq!(PAPER.unit_of(&a), unit);
        }
    }

    #[test]
    fn the_address_of_a_softmax_names_its_entries() {
        assert_eq!(PAPER.softmax_entries(&PAPER.decode(7 << 30)), 0, "as in AttAcc's traces");
        let most = (1 << 19) - 1;
        for (entries, addresses) in
            [(0, 1), (1, 1), (31, 1), (32, 1), (4097, 1), (most, 1), (most + 1, 2), (3 * most, 3)]
        {
            let named: Vec<Address> = PAPER.softmax_addresses(entries).collect();
            assert_eq!(named.len(), addresses, "{entries}");
            assert_eq!(named.iter().map(|a| PAPER.softmax_entries(a)).sum::<u64>(), entries);
            assert!(named.iter().all(|a| PAPER.decode(PAPER.encode(a)) == *a && a.offset == 0));
        }
        assert_eq!(PAPER.softmax_entries(&Address { row: NOT_ADDRESSED, ..Address::default() }), 0);
    }

    #[test]
    fn impossible_geometries_are_named() {
        assert!(Geometry { banks: 3, ..PAPER }.check().unwrap_err().contains("banks = 3"));
        let three_ranks = Geometry { ranks: 3, ..PAPER };
        assert_eq!(three_ranks.check(), Ok(()));
        assert!(three_ranks.contains(2 << 28) && !three_ranks.contains(3 << 28) && !three_ranks.contains(16 << 31));
        assert!(PAPER.same_row(0, 1023) && !PAPER.same_row(1023, 1024));
        assert!(Geometry { columns: 0, ..PAPER }.check().is_err());
    }
}
