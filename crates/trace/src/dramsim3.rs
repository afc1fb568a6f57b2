//! DRAMsim3's trace: `0x40 READ 0` or `0x40 WRITE 0` a line, with the cycle from which the request may be issued.
//!
//! DRAMsim3 reads until the end of the file is reached while reading, and tries once more to issue what it read last:
//! a file that ends in a line break gets its last request twice, one that does not loses it when the queue is full. So
//! the last line is an end mark without a line break, whose cycle never comes; it takes the accident and is not issued.

use super::lower::{Exporter, Target, powers_of_two};
use super::manifest::address_bits;
use super::text::{self, Line, decimal, hexadecimal, word};
use super::{Format, Op};
use nom::bytes::complete::tag_no_case;
use nom::character::complete::space1;
use nom::combinator::opt;
use nom::sequence::{preceded, terminated};
use pimattn_core::addr::Geometry;
use pimattn_core::error::suggest;
use pimattn_core::order::AddressOrder;
use serde_json::{Value, json};
use std::io::Write;

/// Registry line.
pub const FORMAT: Format = Format {
    name: Dramsim3::FORMAT,
    summary: "trace of DRAMsim3: reads and writes at byte addresses, with cycles",
    detect: |head| head.starts_with(b"0x"),
    open: |input, name, device| text::Reader::open(input, name, device, |line, _| parse_line(line), None),
    create: |output, header, options| {
        powers_of_two(&header.geometry, Dramsim3::FORMAT)?;
        let target = Dramsim3 { geometry: header.geometry, rows: Vec::new(), wrote: false, writes: false, cycles: 0 };
        Ok(Box::new(Exporter::new(target, output, header, options)))
    },
    reads: true,
    keeps_all: false,
    pim: false,
};

struct Dramsim3 {
    geometry: Geometry,
    /// The row that was last accessed, by bank over all channels.
    rows: Vec<Option<u32>>,
    wrote: bool,
    /// Whether it has any.
    writes: bool,
    cycles: u64,
}

/// Cycles that an access to the open row, a change of row, and a turn of the bus take at most on an HBM of DRAMsim3's,
/// one after the other as if nothing ever overlapped: tCCD_L is 2, tRC with a read under 80, a turn under 40.
const HIT: u64 = 4;
const MISS: u64 = 100;
const TURN: u64 = 50;
/// For the first refreshes and the last answers.
const SLACK: u64 = 20_000;

/// A burst has four beats.
const BURST: u32 = 4;

impl Dramsim3 {
    /// What `-c` must be at least. DRAMsim3 runs so many cycles and stops, served or not, without a word.
    fn bound(&self) -> u64 {
        // A quarter for refresh.
        self.cycles + self.cycles / 4 + SLACK
    }
}

impl Target for Dramsim3 {
    const FORMAT: &'static str = "dramsim3";
    const PROGRAM: &'static str = "DRAMsim3";
    const ARRIVALS: bool = true;
    const ORDERS: bool = true;

    fn access(&mut self, out: &mut Vec<u8>, (place, addr): (u64, u64), write: bool, cycle: u64) {
        let _ = writeln!(out, "0x{addr:x} {} {cycle}", if write { "WRITE" } else { "READ" });
        self.cycles = self.cycles.max(cycle);
        self.writes |= write;
        let g = &self.geometry;
        let a = g.decode(place);
        let bank = ((a.channel * g.units() + g.unit_of(&a)) * g.banks + a.bank) as usize;
        if self.rows.len() <= bank {
            self.rows.resize(bank + 1, None);
        }
        self.cycles += if self.rows[bank].replace(a.row) == Some(a.row) { HIT } else { MISS };
        self.cycles += if std::mem::replace(&mut self.wrote, write) == write { 0 } else { TURN };
    }

    fn end(&mut self, out: &mut Vec<u8>) -> u64 {
        let _ = write!(out, "0x0 READ {}", u64::MAX);
        1
    }

    fn settings(&self, order: AddressOrder) -> (Value, Vec<String>) {
        let g = &self.geometry;
        let width = g.column_bytes * 8 / BURST;
        let settings = json!({
            "arguments": format!("-c {}", self.bound()),
            "dram_structure": {
                "protocol": "HBM",
                "bankgroups": g.bank_groups,
                "banks_per_group": g.banks,
                "rows": g.rows,
                // DRAMsim3 has two physical columns in an HBM column, and BURST physical columns in an access.
                "columns": g.columns * BURST / 2,
                "device_width": width,
                "BL": BURST,
                "hbm_dual_cmd": g.ranks == 1,
            },
            "system": {
                "channel_size": (g.channel_bytes() / u64::from(g.pseudo_channels)) >> 20,
                "channels": g.channels * g.pseudo_channels,
                "bus_width": width,
                "address_mapping": address_mapping(order),
                "unified_queue": self.writes,
            },
            "address_bits": address_bits(g, order),
        });
        let mut notes = vec![
            "the last line is an end mark, which is never issued; keep it the last, without a line break",
            "DRAMsim3 runs exactly -c cycles, served or not: the number of cycles that it prints is no result",
            "a pseudo-channel is a channel of DRAMsim3",
        ];
        if g.ranks > 1 {
            notes.push(
                "leave hbm_dual_cmd off: with it two column commands of a cycle, a write and a read of another rank, leave \
                 their queues and one is issued, so that reads are never answered; off, row and column commands share a bus",
            );
        }
        if self.writes {
            notes.push(
                "leave unified_queue on: with a queue of writes, one whose column a waiting read reads may be chosen again \
                 and again, and no read goes on",
            );
        }
        (settings, notes.into_iter().map(String::from).collect())
    }
}

/// DRAMsim3's name of an order: its channels are pseudo-channels, which have no name of their own.
pub(crate) fn address_mapping(order: AddressOrder) -> String {
    order.to_string().to_lowercase().replace("pc", "")
}

fn parse_line(line: &str) -> Result<Line, String> {
    let address = terminated(preceded(opt(tag_no_case("0x")), hexadecimal), space1);
    // Ramulator 1's DRAM traces are the same without cycles.
    let fields = (address, word, opt(preceded(space1, decimal)));
    let (addr, name, cycle) = text::whole(line, "0xADDRESS READ|WRITE CYCLE", fields)?;
    let op = match name {
        "R" | "W" if cycle.is_some() => return Err(format!("{name} has no cycle behind it")),
        "R" => Op::Ld,
        "W" => Op::St,
        _ if cycle.is_none() => return Err(format!("no cycle behind \"{name}\"")),
        "READ" | "read" | "P_MEM_RD" | "P_FETCH" => Op::Ld,
        "WRITE" | "write" | "P_MEM_WR" | "BOFF" => Op::St,
        // DRAMsim3 would read.
        _ => return Err(format!("unknown operation \"{name}\"{}", suggest(name, ["READ", "WRITE"]))),
    };
    Ok(match cycle {
        Some(u64::MAX) => Line::End,
        cycle => Line::Request(op, addr, cycle.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_mark_is_no_request() {
        assert_eq!(parse_line("0x40 READ 0"), Ok(Line::Request(Op::Ld, 0x40, 0)));
        assert_eq!(parse_line("40 write\t7"), Ok(Line::Request(Op::St, 0x40, 7)));
        assert_eq!(parse_line("0x0 READ 18446744073709551615"), Ok(Line::End));
        assert_eq!(parse_line("0x40 R"), Ok(Line::Request(Op::Ld, 0x40, 0)));
        assert_eq!(parse_line("0x40 W"), Ok(Line::Request(Op::St, 0x40, 0)));
        assert!(parse_line("0x40 READ").is_err());
        assert!(parse_line("0x40 R 7").is_err());
        assert!(parse_line("0x40 RAED 0").unwrap_err().contains("did you mean \"READ\""));
    }
}
