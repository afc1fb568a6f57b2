//! Text traces, one request a line: what their readers have in common.

use super::lower::Arrivals;
use super::{Arrival, BLOCK, Header, Op, PackedRecord, Record, Request, Source, check};
use nom::branch::alt;
use nom::bytes::complete::{tag_no_case, take_while1};
use nom::character::complete::{digit1, hex_digit1};
use nom::combinator::{eof, map_res};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result};
use pimattn_core::order::{AddressMap, AddressOrder};
use std::io::{BufRead, BufReader, Read};

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLine {
    /// A request at an address, which arrives at this cycle at the earliest.
    Request(Op, u64, u64),
    /// The mark with which a trace says that it ends.
    End,
}

impl TextLine {
    /// A request that is there from the beginning.
    pub fn of((op, addr): (Op, u64)) -> Self {
        TextLine::Request(op, addr, 0)
    }
}

/// Reads one line.
pub type ParseLine = fn(&str, &Geometry) -> Result<TextLine, String>;
/// Reads a line as it usually is, from the beginning of more text: a request, and the bytes of the line. None of whatever
/// is not quite usual, which is left to a [`ParseLine`]. The operation is likely the one given.
pub type ParseUsual = fn(&[u8], Op) -> Option<(Op, u64, usize)>;

/// No valid line is longer.
const MAX_LINE: u64 = 256;

/// Reads a text trace. Evenly spaced requests of one kind in one row become one record.
pub struct TextReader {
    input: BufReader<Box<dyn Read + Send>>,
    name: String,
    header: Header,
    /// The order of the addresses of loads and stores, where it is not the default.
    order: Option<AddressOrder>,
    parse: ParseLine,
    usual: Option<ParseUsual>,
    /// The operation of the last line.
    last: Op,
    /// Where all addresses below exist.
    end: u64,
    line: Vec<u8>,
    number: u64,
    /// What further lines may join; none at a count of 0.
    pending: Request,
    /// When what is behind arrives at the earliest, and what has been said of it, by channel.
    arrival: u64,
    arrivals: Arrivals,
    marked: bool,
    ended: bool,
}

impl TextReader {
    /// A reader. Text does not say its device, so the geometry must be known.
    pub fn open(
        input: Box<dyn Read + Send>,
        name: &str,
        device: Option<AddressMap>,
        parse: ParseLine,
        usual: Option<ParseUsual>,
    ) -> Result<Box<dyn Source + Send>> {
        let AddressMap { geometry, order } = device.ok_or_else(|| {
            Error::Usage(format!("{name} is a text trace, which does not say its device: name one with --config"))
        })?;
        Ok(Box::new(TextReader {
            input: BufReader::with_capacity(1 << 16, input),
            name: name.into(),
            header: Header::foreign(geometry, name),
            order: (!order.is_default()).then_some(order),
            parse,
            usual,
            last: Op::Ld,
            end: if geometry.ranks.is_power_of_two() { geometry.channel_base(geometry.channels) } else { 0 },
            line: Vec::new(),
            number: 0,
            pending: Request { count: 0, ..Request::one(Op::Ld, 0) },
            arrival: 0,
            arrivals: Arrivals::default(),
            marked: false,
            ended: false,
        }))
    }

    /// The next request, if there is one. Moved by fields: a whole one that was just written piece by piece is slow to load.
    #[inline]
    fn next_request(&mut self) -> Result<Option<(Op, u64)>> {
        if let Some(usual) = self.usual
            && let Some((op, addr, bytes)) =
                usual(self.input.fill_buf().map_err(|e| Error::io(&self.name, e))?, self.last)
        {
            self.last = op;
            self.input.consume(bytes);
            self.number += 1;
            let addr = self.placed(op, addr)?;
            if addr < self.end {
                return Ok(Some((op, addr)));
            }
            return match check(&Record::Request(Request::one(op, addr)), &self.header.geometry) {
                Ok(()) => Ok(Some((op, addr))),
                Err(what) => Err(Error::data(format!("{}:{}", self.name, self.number), what)),
            };
        }
        self.unusual_request()
    }

    /// The address of a request in the default order.
    #[inline]
    fn placed(&self, op: Op, addr: u64) -> Result<u64> {
        match self.order {
            None => Ok(addr),
            Some(order) => self.placed_by(order, op, addr),
        }
    }

    #[cold]
    fn placed_by(&self, order: AddressOrder, op: Op, addr: u64) -> Result<u64> {
        let at = |what: String| Error::data(format!("{}:{}", self.name, self.number), what);
        match op {
            Op::Ld | Op::St => order.to_default(addr, &self.header.geometry).ok_or_else(|| {
                let name = op.mnemonic();
                at(format!(
                    "{name} address {addr:#x} in the order {order} is beyond the device ({})",
                    self.header.geometry
                ))
            }),
            _ if op.is_mark() => Ok(addr),
            _ => Err(at(format!(
                "{} is addressed channel first; address_order = \"{order}\" is for loads and stores",
                op.mnemonic()
            ))),
        }
    }

    fn unusual_request(&mut self) -> Result<Option<(Op, u64)>> {
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
        if self.marked {
            return Err(at("a line behind the end mark".into()));
        }
        if read as u64 == MAX_LINE && self.line.last() != Some(&b'\n') {
            return Err(at(format!("a line of over {MAX_LINE} bytes")));
        }
        let text = std::str::from_utf8(&self.line).map_err(|_| at("not text".into()))?;
        let text = text.trim_end_matches(['\n', '\r']);
        match (self.parse)(text, &self.header.geometry).map_err(at)? {
            TextLine::Request(op, addr, cycle) => {
                let addr = self.placed(op, addr)?;
                check(&Record::Request(Request::one(op, addr)), &self.header.geometry).map_err(at)?;
                check(&Record::Arrival(Arrival { channel: 0, cycle }), &self.header.geometry).map_err(at)?;
                self.arrival = self.arrival.max(cycle);
                Ok(Some((op, addr)))
            }
            TextLine::End => {
                self.marked = true;
                self.next_request()
            }
        }
    }

    fn block<T: From<Record>>(&mut self, out: &mut Vec<T>) -> Result<bool> {
        out.clear();
        // A request and an arrival at a time.
        while !self.ended && out.len() + 1 < BLOCK {
            let next = self.next_request()?;
            let arrival = next.filter(|(op, _)| self.arrival > 0 && !op.is_mark()).and_then(|(_, addr)| {
                let arrival = Arrival { channel: self.header.geometry.channel_of(addr), cycle: self.arrival };
                self.arrivals.take(&arrival).then_some(arrival)
            });
            if let Some((op, addr)) = next
                && arrival.is_none()
                && self.pending.count > 0
                && extend(&mut self.pending, op, addr, &self.header.geometry)
            {
                continue;
            }
            if self.pending.count > 0 {
                out.push(Record::Request(self.pending).into());
            }
            out.extend(arrival.map(|a| Record::Arrival(a).into()));
            match next {
                Some((op, addr)) => self.pending = Request::one(op, addr),
                None => (self.ended, self.pending.count) = (true, 0),
            }
        }
        Ok(!out.is_empty())
    }
}

impl Source for TextReader {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        self.block(out)
    }

    fn next_packed(&mut self, out: &mut Vec<PackedRecord>) -> Result<bool> {
        self.block(out)
    }
}

/// Makes a request part of `run` if it is the same operation, evenly spaced, in the same row.
pub fn extend(run: &mut Request, op: Op, addr: u64, geometry: &Geometry) -> bool {
    let Some(step) = addr.checked_sub(run.last_addr()).and_then(|s| u32::try_from(s).ok()) else { return false };
    let fits = run.op == op
        && !run.op.is_mark()
        && run.count < u32::MAX
        && (run.count == 1 || step == run.stride)
        && geometry.same_row(run.addr, addr);
    if fits {
        run.stride = step;
        run.count += 1;
    }
    fits
}

/// A number: hexadecimal with `0x`, or decimal. No sign, at most 64 bits.
pub fn number(input: &str) -> IResult<&str, u64> {
    alt((preceded(tag_no_case("0x"), hexadecimal), decimal)).parse(input)
}

/// Hexadecimal digits.
pub fn hexadecimal(input: &str) -> IResult<&str, u64> {
    map_res(hex_digit1, |digits: &str| u64::from_str_radix(digits, 16)).parse(input)
}

/// Decimal digits.
pub fn decimal(input: &str) -> IResult<&str, u64> {
    map_res(digit1, str::parse).parse(input)
}

/// The name of an operation.
pub fn word(input: &str) -> IResult<&str, &str> {
    take_while1(|c: char| c.is_ascii_alphanumeric() || c == '_').parse(input)
}

/// All of `line` as `parser` reads it, or that it is not of the `form`.
pub fn whole<'a, T>(
    line: &'a str,
    form: &str,
    parser: impl Parser<&'a str, Output = T, Error = nom::error::Error<&'a str>>,
) -> Result<T, String> {
    match terminated(parser, eof).parse(line) {
        Ok((_, read)) => Ok(read),
        Err(_) if line.is_empty() => Err(format!("a blank line where \"{form}\" should be")),
        Err(_) => Err(format!("\"{}\" is not \"{form}\"", line.chars().take(40).collect::<String>())),
    }
}
