//! The text form of AttAcc's simulator: one request a line, `PIM_MAC_AB 0x00000040`.
//!
//! The address is in bytes, hexadecimal with `0x` or decimal. Segments are not written. Blank lines and comments are
//! errors, as they are there. Operations that AttAcc's simulator does not know are put into those that it knows:
//! its device opens one row in all banks, so a PIM_MAC_BG is a PIM_MAC_AB for each different row that the units have
//! open. Reading takes all our operations.

use super::lower::{OpenUnits, write_error};
use super::manifest::{ExportCounts, ExportOptions, KEPT, Manifest, address_bits};
use super::text::{self, TextLine, TextReader, decimal, number, word};
use super::{Format, Header, Op, Record, Request, Sink};
use nom::bytes::complete::tag;
use nom::character::complete::char;
use nom::combinator::opt;
use nom::sequence::{preceded, separated_pair};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::{Result, suggest};
use pimattn_core::order::AddressOrder;
use serde_json::json;
use std::io::{BufWriter, Write};

/// Hexadecimal digits of most addresses: the generators fill up to so many.
const DIGITS: usize = 8;
/// Hexadecimal digits of the highest address.
const MAX_DIGITS: usize = 16;

const PROGRAM: &str = "AttAcc's Ramulator (PIMLoadStoreTrace)";

/// Registry line.
pub const FORMAT: Format = Format {
    name: "attacc",
    summary: "text of AttAcc's simulator, one request a line",
    detect: |head| {
        Op::names().any(|n| head.starts_with(n.as_bytes()) && matches!(head.get(n.len()), Some(b' ') | None))
    },
    open: |input, name, device| TextReader::open(input, name, device, |line, _| parse_line(line), Some(usual)),
    create: |output, header, options| Ok(Box::new(AttaccWriter::new(output, header, options))),
    reads: true,
    keeps_all: false,
    pim: true,
};

/// Writes a trace.
struct AttaccWriter {
    out: BufWriter<Box<dyn Write + Send>>,
    geometry: Geometry,
    open: OpenUnits,
    ledger: ExportCounts,
}

impl AttaccWriter {
    fn new(out: Box<dyn Write + Send>, header: &Header, options: ExportOptions) -> Self {
        AttaccWriter {
            out: BufWriter::with_capacity(1 << 16, out),
            geometry: header.geometry,
            open: OpenUnits::default(),
            ledger: ExportCounts::new(header, options, false),
        }
    }

    /// Writes a run as operations `op`, on the account of `of`.
    fn run(&mut self, of: Op, op: Op, run: Request) -> Result<()> {
        self.ledger.count(of, 0, run.count.into());
        for i in 0..u64::from(run.count) {
            writeln!(self.out, "{} 0x{:08x}", op.mnemonic(), run.addr + i * u64::from(run.stride))
                .map_err(write_error)?;
        }
        Ok(())
    }

    fn request(&mut self, r: Request) -> Result<()> {
        self.ledger.count(r.op, r.count.into(), 0);
        if !r.op.in_attacc() {
            self.ledger.allow(r.op, PROGRAM)?;
        }
        self.open.see(r.op, r.addr, &self.geometry);
        match r.op {
            Op::ActBg | Op::PreBg => Ok(()),
            Op::MacBg => {
                let at = self.geometry.decode(r.addr);
                let mut rows: Vec<u32> = self.open.of(at.channel)?.into_iter().map(|(_, row)| row).collect();
                rows.sort_unstable();
                rows.dedup();
                // The whole run at one row, then at the next: fewest row openings.
                rows.into_iter().try_for_each(|row| {
                    let addr = self.geometry.encode(&Address { row, ..at });
                    self.run(r.op, Op::MacAb, Request { addr, ..r })
                })
            }
            // However long the host works, the text can only say that what follows waits.
            Op::Host => self.run(r.op, Op::Barrier, Request { count: 1, ..r }),
            Op::Sync => (0..self.geometry.channels).try_for_each(|channel| {
                let addr = self.geometry.encode(&Address { channel, ..Address::default() });
                self.run(r.op, Op::Barrier, Request { addr, stride: 0, ..r })
            }),
            _ => self.run(r.op, r.op, r),
        }
    }
}

fn how(op: Op) -> &'static str {
    match op {
        Op::ActBg | Op::PreBg => "dropped: PIM_MAC_AB opens and closes its row itself",
        Op::MacBg => "a PIM_MAC_AB for each different row that the units have open",
        Op::Sync => "a PIM_BARRIER in every channel, none of which waits for the others",
        Op::Host => "a PIM_BARRIER: the host takes no time",
        _ => KEPT,
    }
}

impl Sink for AttaccWriter {
    fn push(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Request(r) => self.request(r),
            Record::Segment(_) => {
                self.ledger.segments += 1;
                Ok(())
            }
            Record::Mark(_) => Ok(()),
            Record::Arrival(_) => self.ledger.drop_arrival(PROGRAM),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.out.flush().map_err(write_error)
    }

    fn manifest(&self) -> Option<Manifest> {
        let settings = json!({
            "frontend": "PIMLoadStoreTrace",
            "dram": "HBM3-PIM",
            "address_mapper": "HBM3-PIM",
            "channels": self.geometry.channels,
            "address_bits": address_bits(&self.geometry, AddressOrder::default()),
        });
        Some(self.ledger.manifest(FORMAT.name, PROGRAM, how, settings, Vec::new()))
    }
}

/// A line as the generators write it, `OPERATION 0xADDRESS` and the end of the line: most lines of most traces.
fn usual(text: &[u8], likely: Op) -> Option<(Op, u64, usize)> {
    let follows = |op: Op| text.strip_prefix(op.mnemonic().as_bytes())?.strip_prefix(b" 0x").map(|digits| (op, digits));
    let (op, digits) = follows(likely).or_else(|| Op::ALL.iter().find_map(|op| follows(*op)))?;
    let (addr, length) = address(digits)?;
    Some((op, addr, text.len() - digits.len() + length + 1))
}

/// Lowercase hexadecimal digits up to the end of a line, and how many they are.
fn address(text: &[u8]) -> Option<(u64, usize)> {
    if let Some([digits @ .., b'\n']) = text.get(..DIGITS + 1) {
        let (addr, wrong) = digits.iter().fold((0, 0), |(addr, wrong), byte| {
            let digit = VALUES[usize::from(*byte)];
            (addr << 4 | u64::from(digit), wrong | digit)
        });
        if wrong < 16 {
            return Some((addr, DIGITS));
        }
    }
    let mut addr = 0;
    for (i, byte) in text.iter().enumerate().take(MAX_DIGITS + 1) {
        match VALUES[usize::from(*byte)] {
            digit @ 0..16 if i < MAX_DIGITS => addr = addr << 4 | u64::from(digit),
            _ => return (*byte == b'\n' && i > 0).then_some((addr, i)),
        }
    }
    None
}

/// Values of hexadecimal digits; above 15 for what is none.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut i = 0;
    while i < 16 {
        values[b"0123456789abcdef"[i] as usize] = i as u8;
        i += 1;
    }
    values
};

fn parse_line(line: &str) -> Result<TextLine, String> {
    // Our own text has the cycle of arrival, where there is one.
    let fields = (separated_pair(word, char(' '), number), opt(preceded(tag(" @"), decimal)));
    let ((name, addr), cycle) = text::whole(line, "OPERATION 0xADDRESS", fields)?;
    let op = Op::parse(name);
    op.map(|op| TextLine::Request(op, addr, cycle.unwrap_or(0)))
        .ok_or_else(|| format!("unknown operation \"{name}\"{}", suggest(name, Op::names())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parse_or_say_why_not() {
        assert_eq!(parse_line("PIM_MAC_AB 0x00000040"), Ok(TextLine::Request(Op::MacAb, 0x40, 0)));
        assert_eq!(parse_line("LD 64"), Ok(TextLine::Request(Op::Ld, 64, 0)));
        assert_eq!(parse_line("LD 64 @7"), Ok(TextLine::Request(Op::Ld, 64, 7)));
        assert_eq!(parse_line("LD 0xFFFFFFFFFFFFFFFF"), Ok(TextLine::Request(Op::Ld, u64::MAX, 0)));
    }

    #[test]
    fn usual_lines_are_read_as_all_lines_are() {
        assert_eq!(usual(b"PIM_MAC_AB 0x00000040\nLD 0x0\n", Op::MacAb), Some((Op::MacAb, 0x40, 22)));
        assert_eq!(usual(b"ST 0xffffffffffffffff\n", Op::MacAb), Some((Op::St, u64::MAX, 22)));
        assert_eq!(usual(b"LD 0x4\nLD 0x00000000\n", Op::Ld), Some((Op::Ld, 4, 7)));
        for line in [
            "LD 64\n",
            "LD 0x0x4\n",
            "LD 0x\n",
            "LD 0x4",
            "LD 0x00000000000000001\n",
            "LD 0x4\r\n",
            "LE 0x4\n",
            "LD 0x0000000g\n",
            "LD 0x0000004A\n",
            "\n",
            "",
        ] {
            assert_eq!(usual(line.as_bytes(), Op::Ld), None, "{line:?}");
        }
    }

    #[test]
    fn other_lines_do_not_parse() {
        assert!(parse_line("PIM_MAC_AX 0x0").unwrap_err().contains("did you mean \"PIM_MAC_AB\""));
        for bad in [
            "",
            "LD",
            "LD ",
            "LD 0x",
            "LD  0x0",
            "LD 0x0 ",
            "LD 0x0 1",
            "LD 0x0 @",
            "# LD 0x0",
            "LD 0x10000000000000000",
            "LD -1",
        ] {
            assert!(parse_line(bad).is_err(), "{bad:?}");
        }
    }
}
