//! Ramulator 2's ReadWriteTrace: `R 0,1,0,3,2,100,5` or `W ...` a line, the address as numbers of the levels channel,
//! pseudo-channel, rank (SID), bank group, bank, row, column. One blank, no blank line, no comment.

use super::lower::{Exporter, Target};
use super::text::{self, Line, decimal, word};
use super::{Format, Op};
use nom::character::complete::char;
use nom::multi::separated_list1;
use nom::sequence::separated_pair;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::suggest;
use pimattn_core::order::AddressOrder;
use serde_json::{Value, json};
use std::io::Write;

/// Registry line.
pub const FORMAT: Format = Format {
    name: ReadWrite::FORMAT,
    summary: "ReadWriteTrace of Ramulator 2: reads and writes at address vectors",
    detect: |head| matches!(head, [b'R' | b'W', b' ', b'0'..=b'9', ..]),
    open: |input, name, device| {
        text::Reader::open(
            input,
            name,
            device.map(|d| d.geometry.into()),
            |line, g| parse_line(line, g).map(Line::of),
            None,
        )
    },
    create: |output, header, options| Ok(Box::new(Exporter::new(ReadWrite(header.geometry), output, header, options))),
    reads: true,
    keeps_all: false,
    pim: false,
};

struct ReadWrite(Geometry);

const LEVELS: [&str; 7] = ["Channel", "PseudoChannel", "Sid", "BankGroup", "Bank", "Row", "Column"];

impl Target for ReadWrite {
    const FORMAT: &'static str = "ramulator-rw";
    const PROGRAM: &'static str = "Ramulator 2 (ReadWriteTrace)";

    fn access(&mut self, out: &mut Vec<u8>, (addr, _): (u64, u64), write: bool, _cycle: u64) {
        let a = self.0.decode(addr);
        let _ = writeln!(
            out,
            "{} {},{},{},{},{},{},{}",
            if write { 'W' } else { 'R' },
            a.channel,
            a.pseudo_channel,
            a.rank,
            a.bank_group,
            a.bank,
            a.row,
            a.column
        );
    }

    fn settings(&self, _order: AddressOrder) -> (Value, Vec<String>) {
        let g = &self.0;
        let sizes = [g.channels, g.pseudo_channels, g.ranks, g.bank_groups, g.banks, g.rows, g.columns];
        let settings = json!({
            "frontend": "ReadWriteTrace",
            "channel_mapper": "PassThroughChannelMapper",
            "address_mapper": "PassThroughAddrMapper",
            "levels": LEVELS,
            "level_sizes": sizes,
        });
        let notes = [
            "with writes the counts of Ramulator 2.1 are wrong in this form: a waiting write has no address there, so that \
             later reads of its channel are answered without DRAM; use ramulator-ls",
            "a column is one access; a device that counts columns in beats has more of them in a row",
            "Ramulator 2.1 stops when the last request is accepted, not when it is served",
        ];
        (settings, notes.map(String::from).to_vec())
    }
}

fn parse_line(line: &str, g: &Geometry) -> Result<(Op, u64), String> {
    let form = "R|W CHANNEL,PSEUDO-CHANNEL,RANK,BANK GROUP,BANK,ROW,COLUMN";
    let (name, vector) = text::whole(line, form, separated_pair(word, char(' '), separated_list1(char(','), decimal)))?;
    let op = match name {
        "R" => Op::Ld,
        "W" => Op::St,
        _ => return Err(format!("unknown operation \"{name}\"{}", suggest(name, ["R", "W"]))),
    };
    let sizes = [g.channels, g.pseudo_channels, g.ranks, g.bank_groups, g.banks, g.rows, g.columns];
    if vector.len() != sizes.len() {
        return Err(format!("{} levels where there should be {}: {}", vector.len(), sizes.len(), LEVELS.join(",")));
    }
    if let Some(((n, size), level)) =
        vector.iter().zip(sizes).zip(LEVELS).find(|((n, size), _)| **n >= u64::from(*size))
    {
        return Err(format!("{level} {n} does not exist (there are {size})"));
    }
    let [channel, pseudo_channel, rank, bank_group, bank, row, column] = std::array::from_fn(|i| vector[i] as u32);
    Ok((op, g.encode(&Address { channel, pseudo_channel, rank, bank_group, bank, row, column, offset: 0 })))
}
