//! Orders of the fields of an address, as controllers of plain DRAM choose them.

use super::addr::{Address, Geometry, LowBits, append, bits};
use std::fmt;

/// A field of an address above the byte within a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Field {
    Channel,
    PseudoChannel,
    Rank,
    BankGroup,
    Bank,
    Row,
    Column,
}

use Field::{Bank, BankGroup, Channel, Column, PseudoChannel, Rank, Row};

/// Names of the fields in an order, two letters each.
const NAMES: [(Field, &str); 7] = [
    (Channel, "Ch"),
    (PseudoChannel, "Pc"),
    (Rank, "Ra"),
    (BankGroup, "Bg"),
    (Bank, "Ba"),
    (Row, "Ro"),
    (Column, "Co"),
];

/// The order of an address's fields, from the top; the byte within a column is at the bottom of each.
///
/// Written as other simulators write it, `RoBaRaCoCh`: from the top, without regard to case. `Pc` and `Bg` may be left out:
/// pseudo-channels then lie right below channels, bank groups right above banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressOrder([Field; 7]);

impl Default for AddressOrder {
    /// `ChPcRaBgBaRoCo`, in which PIM operations are always addressed.
    fn default() -> Self {
        AddressOrder(NAMES.map(|(field, _)| field))
    }
}

impl fmt::Display for AddressOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |field: &Field| NAMES.iter().find(|(named, _)| named == field).map_or("", |(_, name)| name);
        self.0.iter().try_for_each(|field| f.write_str(name(field)))
    }
}

impl std::str::FromStr for AddressOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no order of Ch, Pc, Ra, Bg, Ba, Ro and Co, each once, as in RoBaRaCoCh");
        let mut fields = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, behind) = rest.split_at_checked(2).ok_or_else(wrong)?;
            let (field, _) = NAMES.iter().find(|(_, named)| named.eq_ignore_ascii_case(name)).ok_or_else(wrong)?;
            fields.push(*field);
            rest = behind;
        }
        for (field, beside, below) in [(PseudoChannel, Channel, 1), (BankGroup, Bank, 0)] {
            if let (false, Some(at)) = (fields.contains(&field), fields.iter().position(|f| *f == beside)) {
                fields.insert(at + below, field);
            }
        }
        let fields: [Field; 7] = fields.try_into().map_err(|_| wrong())?;
        let complete = NAMES.iter().all(|(field, _)| fields.contains(field));
        if complete { Ok(AddressOrder(fields)) } else { Err(wrong()) }
    }
}

impl serde::Serialize for AddressOrder {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl AddressOrder {
    /// Whether it is the default order.
    pub fn is_default(&self) -> bool {
        *self == AddressOrder::default()
    }

    /// Lowest bit and width of each field of a byte address, from the top.
    pub fn fields(&self, g: &Geometry) -> [(&'static str, u32, u32); 8] {
        let mut fields = [("offset", 0, bits(g.column_bytes)); 8];
        for (out, field) in fields.iter_mut().zip(&self.0) {
            *out = (field.name(), 0, bits(field.of(&mut Address::default(), g).1));
        }
        let mut lowest = 0;
        for (_, at, width) in fields.iter_mut().rev() {
            *at = lowest;
            lowest += *width;
        }
        fields
    }

    /// Where a byte address of this order lies, as the address of the default order; none if the device has no such place.
    pub fn to_default(&self, addr: u64, g: &Geometry) -> Option<u64> {
        if self.is_default() {
            return Some(addr);
        }
        let mut low = LowBits(addr);
        let mut a = Address { offset: low.take(g.column_bytes), ..Address::default() };
        for field in self.0.iter().rev() {
            let (place, count) = field.of(&mut a, g);
            *place = low.take(count);
        }
        let exists = low.0 == 0 && a.channel < g.channels && a.rank < g.ranks;
        exists.then(|| g.encode(&a))
    }

    /// The byte address in this order of an address of the default order.
    pub fn from_default(&self, addr: u64, g: &Geometry) -> u64 {
        if self.is_default() {
            return addr;
        }
        let mut a = g.decode(addr);
        let fields = self.0.iter().fold(0, |out, field| {
            let (value, count) = field.of(&mut a, g);
            append(out, *value, count)
        });
        append(fields, a.offset, g.column_bytes)
    }
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Channel => "channel",
            PseudoChannel => "pseudo_channel",
            Rank => "rank",
            BankGroup => "bank_group",
            Bank => "bank",
            Row => "row",
            Column => "column",
        }
    }

    /// The field of an address, and how many values it has.
    fn of<'a>(&self, a: &'a mut Address, g: &Geometry) -> (&'a mut u32, u32) {
        match self {
            Channel => (&mut a.channel, g.channels),
            PseudoChannel => (&mut a.pseudo_channel, g.pseudo_channels),
            Rank => (&mut a.rank, g.ranks),
            BankGroup => (&mut a.bank_group, g.bank_groups),
            Bank => (&mut a.bank, g.banks),
            Row => (&mut a.row, g.rows),
            Column => (&mut a.column, g.columns),
        }
    }
}

/// How addresses of plain DRAM are to be read: the device, and the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressMap {
    /// The device that has the addresses.
    pub geometry: Geometry,
    /// The order of the fields.
    pub order: AddressOrder,
}

impl From<Geometry> for AddressMap {
    fn from(geometry: Geometry) -> Self {
        AddressMap { geometry, order: AddressOrder::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Geometry = Geometry {
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
    fn orders_are_read_as_they_are_written() {
        for (text, whole) in
            [("RoBaRaCoCh", "RoBgBaRaCoChPc"), ("chrabgbaroco", "ChPcRaBgBaRoCo"), ("RoCoRaBgBaPcCh", "RoCoRaBgBaPcCh")]
        {
            assert_eq!(text.parse::<AddressOrder>().unwrap().to_string(), whole);
        }
        assert_eq!("ChRaBaRoCo".parse(), Ok(AddressOrder::default()));
        for text in ["", "RoBaRaCo", "RoBaRaCoChCh", "RoBaRaCoC", "RoBaRaCoXx", "RöBaRaCoCh"] {
            assert!(text.parse::<AddressOrder>().unwrap_err().contains("each once"), "{text}");
        }
    }

    #[test]
    fn an_address_is_the_same_place_in_every_order() {
        let order: AddressOrder = "RoBaRaCoCh".parse().unwrap();
        // One access after the other goes to the next pseudo-channel, then channel, then column.
        let at = |n: u64| DEVICE.decode(order.to_default(n * 32, &DEVICE).unwrap());
        assert_eq!((at(1).pseudo_channel, at(1).channel), (1, 0));
        assert_eq!((at(2).pseudo_channel, at(2).channel), (0, 1));
        assert_eq!((at(32).channel, at(32).column), (0, 1));
        assert_eq!(at(32 * 32).rank, 1);
        assert_eq!(AddressOrder::default().fields(&DEVICE)[4..6], [("bank", 24, 2), ("row", 10, 14)]);
        assert_eq!(order.fields(&DEVICE)[6], ("pseudo_channel", 5, 1));
        for addr in (0..DEVICE.capacity()).step_by(0x1234_5678) {
            let coded = order.from_default(addr, &DEVICE);
            assert_eq!(order.to_default(coded, &DEVICE), Some(addr));
        }
        assert_eq!(order.to_default(DEVICE.capacity(), &DEVICE), None);
    }
}
