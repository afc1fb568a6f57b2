//! The text form of AttAcc's simulator: one request a line, `PIM_MAC_AB 0x00000040`.
//!
//! The address is in bytes, hexadecimal with `0x` or decimal. Operations that AttAcc's simulator does not know are
//! written with mnemonics of the same shape. Segments are not written. Blank lines and comments are errors, as they
//! are there.

use super::{BLOCK, Format, Header, Op, Record, Request, Sink, Source, check};
use crate::addr::Geometry;
use crate::error::{Error, Result, suggest};
use nom::branch::alt;
use nom::bytes::complete::{tag_no_case, take_while1};
use nom::character::complete::{char, digit1, hex_digit1};
use nom::combinator::{eof, map_res};
use nom::sequence::{preceded, separated_pair, terminated};
use nom::{IResult, Parser};
use std::io::{BufRead, BufReader, Read, Write};

/// Registry line.
pub const FORMAT: Format = Format {
    name: "attacc",
    summary: "text of AttAcc's simulator, one request a line; drops segments",
    detect: |head| {
        Op::names().any(|n| head.starts_with(n.as_bytes()) && matches!(head.get(n.len()), Some(b' ') | None))
    },
    open: |input, name, geometry| {
        let geometry = geometry.ok_or_else(|| {
            Error::Usage(format!("{name} is a text trace, which does not say its device: name one with --config"))
        })?;
        Ok(Box::new(Reader::new(input, name, *geometry)))
    },
    create: |output, _| Ok(Box::new(Writer { out: output })),
};

/// No valid line is longer.
const MAX_LINE: u64 = 256;

/// Writes a trace.
pub struct Writer {
    out: Box<dyn Write + Send>,
}

impl Sink for Writer {
    fn push(&mut self, record: Record) -> Result<()> {
        let Record::Request(r) = record else { return Ok(()) };
        for i in 0..u64::from(r.count) {
            writeln!(self.out, "{} 0x{:08x}", r.op.mnemonic(), r.addr + i * u64::from(r.stride))
                .map_err(|e| Error::Io { path: "trace output".into(), source: e })?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::Io { path: "trace output".into(), source: e })
    }
}

/// Reads a trace.
pub struct Reader {
    input: BufReader<Box<dyn Read + Send>>,
    name: String,
    header: Header,
    line: Vec<u8>,
    number: u64,
    pending: Option<Request>,
    ended: bool,
}

impl Reader {
    fn new(input: Box<dyn Read + Send>, name: &str, geometry: Geometry) -> Self {
        Reader {
            input: BufReader::with_capacity(1 << 16, input),
            name: name.into(),
            header: Header::foreign(geometry, name),
            line: Vec::new(),
            number: 0,
            pending: None,
            ended: false,
        }
    }

    fn next_line(&mut self) -> Result<Option<Request>> {
        self.line.clear();
        let read = self
            .input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)
            .map_err(|e| Error::io(&self.name, e))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let at = |what: String| Error::data(format!("{}:{}", self.name, self.number), what);
        if read as u64 == MAX_LINE && self.line.last() != Some(&b'\n') {
            return Err(at(format!("a line of over {MAX_LINE} bytes")));
        }
        let text = std::str::from_utf8(&self.line).map_err(|_| at("not text".into()))?;
        let text = text.trim_end_matches(['\n', '\r']);
        let (op, addr) = parse_line(text).map_err(at)?;
        let request = Request::one(op, addr);
        check(&Record::Request(request), &self.header.geometry).map_err(at)?;
        Ok(Some(request))
    }
}

impl Source for Reader {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        while !self.ended && out.len() < BLOCK {
            match self.next_line()? {
                Some(next) => {
                    let joined = self.pending.as_mut().is_some_and(|run| extend(run, &next, &self.header.geometry));
                    if !joined {
                        out.extend(self.pending.replace(next).map(Record::Request));
                    }
                }
                None => {
                    self.ended = true;
                    out.extend(self.pending.take().map(Record::Request));
                }
            }
        }
        Ok(!out.is_empty())
    }
}

/// Makes `next` part of `run` if it is the same operation, evenly spaced, with nothing missing in between.
fn extend(run: &mut Request, next: &Request, geometry: &Geometry) -> bool {
    let Some(step) = next.addr.checked_sub(run.last_addr()).and_then(|s| u32::try_from(s).ok()) else { return false };
    let fits = run.op == next.op
        && !run.op.is_mark()
        && run.count < u32::MAX
        && (run.count == 1 || step == run.stride)
        && geometry.unbroken(run.addr, next.addr);
    if fits {
        run.stride = step;
        run.count += 1;
    }
    fits
}

fn parse_line(text: &str) -> Result<(Op, u64), String> {
    let address = alt((
        map_res(preceded(tag_no_case("0x"), hex_digit1), |h: &str| u64::from_str_radix(h, 16)),
        map_res(digit1, |d: &str| d.parse::<u64>()),
    ));
    let word = take_while1(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let parsed: IResult<&str, (&str, u64)> = terminated(separated_pair(word, char(' '), address), eof).parse(text);
    let Ok((_, (name, addr))) = parsed else {
        let shown: String = text.chars().take(40).collect();
        return Err(format!("\"{shown}\" is not \"OPERATION 0xADDRESS\""));
    };
    match Op::parse(name) {
        Some(op) => Ok((op, addr)),
        None => Err(format!("unknown operation \"{name}\"{}", suggest(name, Op::names()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parse_or_say_why_not() {
        assert_eq!(parse_line("PIM_MAC_AB 0x00000040"), Ok((Op::MacAb, 0x40)));
        assert_eq!(parse_line("LD 64"), Ok((Op::Ld, 64)));
        assert!(parse_line("PIM_MAC_AX 0x0").unwrap_err().contains("did you mean \"PIM_MAC_AB\""));
        for bad in
            ["", "LD", "LD ", "LD 0x", "LD  0x0", "LD 0x0 ", "LD 0x0 1", "# LD 0x0", "LD 0x10000000000000000", "LD -1"]
        {
            assert!(parse_line(bad).is_err(), "{bad:?}");
        }
    }
}
