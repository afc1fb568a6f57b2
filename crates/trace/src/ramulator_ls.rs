//! Ramulator 2's LoadStoreTrace: `LD 0x40` or `ST 0x40` a line, one blank, no blank line, no comment.

use super::lower::{Exporter, Target, powers_of_two};
use super::manifest::address_bits;
use super::text::{self, Line, number, word};
use super::{Format, Op};
use nom::character::complete::char;
use nom::sequence::separated_pair;
use pimattn_core::addr::Geometry;
use pimattn_core::error::suggest;
use pimattn_core::order::AddressOrder;
use serde_json::{Value, json};
use std::io::Write;

/// Registry line.
pub const FORMAT: Format = Format {
    name: LoadStore::FORMAT,
    summary: "LoadStoreTrace of Ramulator 2: reads and writes at byte addresses",
    // Its lines are lines of AttAcc's text too, which is read the same way; --from insists on this one.
    detect: |_| false,
    open: |input, name, device| text::Reader::open(input, name, device, |line, _| parse_line(line).map(Line::of), None),
    create: |output, header, options| {
        powers_of_two(&header.geometry, LoadStore::FORMAT)?;
        Ok(Box::new(Exporter::new(LoadStore(header.geometry), output, header, options)))
    },
    reads: true,
    keeps_all: false,
    pim: false,
};

struct LoadStore(Geometry);

impl Target for LoadStore {
    const FORMAT: &'static str = "ramulator-ls";
    const PROGRAM: &'static str = "Ramulator 2 (LoadStoreTrace)";

    fn access(&mut self, out: &mut Vec<u8>, (_, addr): (u64, u64), write: bool, _cycle: u64) {
        let _ = writeln!(out, "{} 0x{addr:x}", if write { "ST" } else { "LD" });
    }

    fn settings(&self, order: AddressOrder) -> (Value, Vec<String>) {
        let g = &self.0;
        let channel = g.fields()[0].1;
        let settings = json!({
            "frontend": "LoadStoreTrace",
            "channel_mapper": "CacheLineInterleave",
            // Our channel is the top of the address; Ramulator counts from above the bytes of one access.
            "interleave_bits": channel - g.column_bytes.trailing_zeros(),
            "address_mapper": "ChRaBaRoCo",
            "channels": g.channels,
            "address_bits": address_bits(g, order),
        });
        (settings, vec!["Ramulator 2.1 stops when the last request is accepted, not when it is served".into()])
    }
}

fn parse_line(line: &str) -> Result<(Op, u64), String> {
    let (name, addr) = text::whole(line, "LD|ST 0xADDRESS", separated_pair(word, char(' '), number))?;
    match name {
        "LD" => Ok((Op::Ld, addr)),
        "ST" => Ok((Op::St, addr)),
        _ => Err(format!("unknown operation \"{name}\"{}", suggest(name, ["LD", "ST"]))),
    }
}
