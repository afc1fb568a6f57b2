//! Memory trace of SAIT's PIMSimulator: an array of its structure `MemTraceData`, as `execute_kernel` takes it.
//! Written only.
//!
//! ```text
//! data [u8; 32] | address u64 | block i32 | thread i32 | command u8: R, W, B | padding [u8; 7]
//! ```
//!
//! Little-endian. A B is a barrier in channel `block`. Its PIM modes are entered by writes to special rows that carry
//! microcode, of which our traces know nothing, so that a multiply-accumulate becomes reads here too.

use super::Format;
use super::lower::{Exporter, Target, powers_of_two};
use super::manifest::address_bits;
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result};
use pimattn_core::order::AddressOrder;
use serde_json::{Value, json};

/// Registry line.
pub const FORMAT: Format = Format {
    name: Sait::FORMAT,
    summary: "memory trace of SAIT's PIMSimulator: binary, with barriers; written only",
    detect: |_| false,
    open: |_, name, _| Err(Error::Usage(format!("{name}: {} is written, not read", Sait::FORMAT))),
    create: |output, header, options| {
        powers_of_two(&header.geometry, Sait::FORMAT)?;
        Ok(Box::new(Exporter::new(Sait(header.geometry), output, header, options)))
    },
    reads: false,
    keeps_all: false,
    pim: false,
};

/// Bytes of one structure.
pub const RECORD: usize = 56;

/// Rows that are no memory to PIMSimulator (its src/Rank.cpp).
const MODE_ROW: u32 = 0x17ff;
const MODE_COLUMN: u32 = 0x1f;
const REGISTER_ROW: u32 = 0x3fff;

/// A burst has four beats.
const BURST: u32 = 4;

struct Sait(Geometry);

impl Sait {
    fn record(out: &mut Vec<u8>, addr: u64, channel: u32, command: u8) {
        let start = out.len();
        out.resize(start + 32, 0);
        out.extend(addr.to_le_bytes());
        out.extend(channel.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.push(command);
        out.resize(start + RECORD, 0);
    }

    /// Channel of the target: each rank of our pseudo-channels is one, for its address mapping has no bits for ranks
    /// (it is made before their number is known).
    fn channel(&self, addr: u64) -> u32 {
        let a = self.0.decode(addr);
        (a.channel * self.0.pseudo_channels + a.pseudo_channel) * self.0.ranks + a.rank
    }
}

/// PIMSimulator exchanges bits 32 and 33 of every address before it uses it; exchanged here, they come out right.
fn exchange_bits(addr: u64) -> u64 {
    let differ = (addr >> 32 ^ addr >> 33) & 1;
    addr ^ (differ << 32 | differ << 33)
}

impl Target for Sait {
    const FORMAT: &'static str = "sait-pimsim";
    const PROGRAM: &'static str = "SAIT PIMSimulator (emulator API)";
    const BARRIERS: bool = true;

    fn allow(&self, addr: u64) -> Result<()> {
        let a = self.0.decode(addr);
        // An activation for this column of four banks changes the mode, and what follows never ends; the other row is that
        // of the units' registers.
        match (a.row, a.column) {
            (MODE_ROW, MODE_COLUMN) | (REGISTER_ROW, _) => Err(Error::Check(format!(
                "{addr:#x}: row {:#x}, column {:#x} means a mode or a register to {}, and its run might never end: use \
                 another organisation, placement or target",
                a.row,
                a.column,
                Sait::PROGRAM
            ))),
            _ => Ok(()),
        }
    }

    fn access(&mut self, out: &mut Vec<u8>, (addr, _): (u64, u64), write: bool, _cycle: u64) {
        let channel = self.channel(addr);
        Sait::record(out, exchange_bits(addr), channel, if write { b'W' } else { b'R' });
    }

    fn barrier(&mut self, out: &mut Vec<u8>, channel: u32) -> u64 {
        let n = self.0.pseudo_channels * self.0.ranks;
        (channel * n..(channel + 1) * n).for_each(|c| Sait::record(out, 0, c, b'B'));
        n.into()
    }

    fn settings(&self, order: AddressOrder) -> (Value, Vec<String>) {
        let g = &self.0;
        let settings = json!({
            "structure_bytes": RECORD,
            "system": {
                "NUM_CHANS": g.channels * g.pseudo_channels * g.ranks,
                "JEDEC_DATA_BUS_BITS": g.column_bytes * 8 / BURST,
                "ADDRESS_MAPPING_SCHEME": "Scheme4",
            },
            "device": {
                "NUM_BANK_GROUPS": g.bank_groups,
                "NUM_BANKS": g.bank_groups * g.banks,
                "NUM_ROWS": g.rows,
                "NUM_COLS": g.columns * BURST,
                "BL": BURST,
            },
            "megs_of_memory": g.capacity() >> 20,
            "address_bits": address_bits(g, order),
        });
        let notes = [
            "bits 32 and 33 of the addresses are exchanged, because PIMSimulator exchanges them again",
            "writes carry zeros",
            "a rank of a pseudo-channel is a channel of PIMSimulator, whose address mapping has no bits for ranks: ranks \
             share no data bus there",
            "rows with bit 12 set keep no data there; its timing is that of any row",
        ];
        (settings, notes.map(String::from).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::exchange_bits;

    #[test]
    fn exchanging_twice_is_nothing() {
        for (addr, exchanged) in [(0, 0), (1 << 32, 2 << 32), (2 << 32, 1 << 32), (3 << 32 | 5, 3 << 32 | 5)] {
            assert_eq!(exchange_bits(addr), exchanged);
            assert_eq!(exchange_bits(exchanged), addr);
        }
    }
}
