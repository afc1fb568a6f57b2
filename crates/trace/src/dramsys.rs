//! DRAMSys's `.stl`: `0: read 0x40` or `0: write 0x40` a line, in lower case, with the cycle from which on the request
//! may be issued. Read: also blanks or tabs between the parts, a length in parentheses behind the cycle, and data at the end;
//! cycles are those of the memory's clock.

use super::lower::{Exporter, Target, powers_of_two};
use super::manifest::address_bits;
use super::text::{self, Line, decimal, hexadecimal, word};
use super::{Format, Op};
use nom::bytes::complete::tag_no_case;
use nom::character::complete::{char, space1};
use nom::combinator::{opt, rest};
use nom::sequence::{delimited, preceded, terminated};
use pimattn_core::addr::Geometry;
use pimattn_core::error::suggest;
use pimattn_core::order::AddressOrder;
use serde_json::{Value, json};
use std::io::Write;

/// Registry line.
pub const FORMAT: Format = Format {
    name: Stl::FORMAT,
    summary: "trace of DRAMSys: reads and writes at byte addresses, with cycles",
    detect: |head| {
        let digits = head.iter().take_while(|b| b.is_ascii_digit()).count();
        digits > 0 && head.get(digits) == Some(&b':')
    },
    open: |input, name, device| text::Reader::open(input, name, device, |line, _| parse_line(line), None),
    create: |output, header, options| {
        powers_of_two(&header.geometry, Stl::FORMAT)?;
        Ok(Box::new(Exporter::new(Stl(header.geometry), output, header, options)))
    },
    reads: true,
    keeps_all: false,
    pim: false,
};

struct Stl(Geometry);

impl Target for Stl {
    const FORMAT: &'static str = "dramsys-stl";
    const PROGRAM: &'static str = "DRAMSys (trace player)";
    const ARRIVALS: bool = true;
    const ORDERS: bool = true;

    fn access(&mut self, out: &mut Vec<u8>, (_, addr): (u64, u64), write: bool, cycle: u64) {
        let _ = writeln!(out, "{cycle}: {} 0x{addr:x}", if write { "write" } else { "read" });
    }

    fn settings(&self, order: AddressOrder) -> (Value, Vec<String>) {
        let settings = json!({
            "tracesetup": { "dataLength": self.0.column_bytes },
            "simconfig": { "StoreMode": "NoStorage" },
            "address_bits": address_bits(&self.0, order),
        });
        let notes = [
            "the file name must end in .stl",
            "writes carry no data, so storage must be off",
            "cycles are of the memory's clock, and clkMhz must be its frequency; from cycle 0 on the player sends as fast as the \
             memory takes them",
        ];
        (settings, notes.map(String::from).to_vec())
    }
}

fn parse_line(line: &str) -> Result<Line, String> {
    // Length of the access, in bytes; then operation, and an address that is hexadecimal with or without 0x.
    let length = opt(terminated(delimited(char('('), decimal, char(')')), space1));
    let address = preceded(opt(tag_no_case("0x")), hexadecimal);
    let fields = (terminated(decimal, (opt(char(':')), space1)), length, terminated(word, space1), address, rest);
    let (cycle, _, name, addr, data) = text::whole(line, "CYCLE: read|write 0xADDRESS", fields)?;
    let data = data.trim();
    match name {
        "read" if data.is_empty() => Ok(Line::Request(Op::Ld, addr, cycle)),
        "write" => Ok(Line::Request(Op::St, addr, cycle)),
        "read" => Err(format!("\"{}\" behind a read", data.chars().take(40).collect::<String>())),
        _ => Err(format!("unknown operation \"{name}\"{}", suggest(name, ["read", "write"]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_its_examples_are_read() {
        assert_eq!(parse_line("0: read 0x40"), Ok(Line::Request(Op::Ld, 0x40, 0)));
        assert_eq!(parse_line("31:\twrite\t0x80"), Ok(Line::Request(Op::St, 0x80, 31)));
        assert_eq!(parse_line("31: write 0x80 0a0b"), Ok(Line::Request(Op::St, 0x80, 31)));
        assert_eq!(parse_line("7: (32) read 80"), Ok(Line::Request(Op::Ld, 0x80, 7)));
        assert!(parse_line("0: READ 0x40").unwrap_err().contains("did you mean \"read\""));
        assert!(parse_line("0: read 0x40 7").is_err());
        assert!(parse_line("read 0x40").is_err());
    }
}
