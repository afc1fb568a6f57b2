//! PIM operations put into simpler ones, for targets that do not have them.
//!
//! [`OpenUnits`] follows PIM_ACT_BG and PIM_PRE_BG, so that a PIM_MAC_BG is known with its rows. [`Exporter`] writes a
//! trace for plain DRAM, where a multiply-accumulate can only be the reads of the columns that it touches, and what
//! never leaves the buffers of the logic die is nothing at all.

use super::manifest::{ExportCounts, ExportOptions, KEPT, MacReads, Manifest};
use super::{Arrival, Header, LANES, Mark, Op, Record, Request, Segment, Sink};
use foldhash::HashSet;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::{Error, Result};
use pimattn_core::order::AddressOrder;
use serde_json::Value;
use std::io::Write;

/// The rows that PIM_ACT_BG opened, by channel and unit.
#[derive(Debug, Default)]
pub(crate) struct OpenUnits {
    rows: Vec<Vec<Option<u32>>>,
}

impl OpenUnits {
    /// Takes note of an operation.
    pub(crate) fn see(&mut self, op: Op, addr: u64, geometry: &Geometry) {
        let a = geometry.decode(addr);
        match op {
            Op::ActBg | Op::PreBg => {
                let channel = a.channel as usize;
                if self.rows.len() <= channel {
                    self.rows.resize(channel + 1, Vec::new());
                }
                let units = &mut self.rows[channel];
                units.resize(geometry.units() as usize, None);
                units[geometry.unit_of(&a) as usize] = (op == Op::ActBg).then_some(a.row);
            }
            // Another kind of MAC ends the units' own rounds.
            Op::MacAb | Op::MacSb | Op::MacPb => {
                if let Some(units) = self.rows.get_mut(a.channel as usize) {
                    units.fill(None);
                }
            }
            _ => {}
        }
    }

    /// The open units of a channel and their rows; at least one.
    pub(crate) fn of(&self, channel: u32) -> Result<Vec<(u32, u32)>> {
        let units = self.rows.get(channel as usize).map_or(&[][..], Vec::as_slice);
        let open: Vec<(u32, u32)> = (0..).zip(units).filter_map(|(unit, row)| row.map(|r| (unit, r))).collect();
        match open.is_empty() {
            true => Err(Error::data("trace", format!("channel {channel}: PIM_MAC_BG with no bank group open"))),
            false => Ok(open),
        }
    }
}

/// From which cycle on requests arrive, by channel.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Vec<u64>);

impl Arrivals {
    /// Requests behind it arrive so; false if they did before.
    pub(crate) fn take(&mut self, a: &Arrival) -> bool {
        let channel = a.channel as usize;
        if self.0.len() <= channel {
            self.0.resize(channel + 1, 0);
        }
        let later = a.cycle > self.0[channel];
        self.0[channel] = self.0[channel].max(a.cycle);
        later
    }

    /// When the next request of a channel arrives at the earliest.
    pub(crate) fn of(&self, channel: u32) -> u64 {
        self.0.get(channel as usize).copied().unwrap_or(0)
    }
}

/// The columns that the work at hand has read, by channel and lane: of one decode step of one KV head.
#[derive(Debug, Default)]
struct FetchedColumns(Vec<([Option<FetchedHead>; LANES], usize)>);

#[derive(Debug)]
struct FetchedHead {
    /// Step, request, layer, KV head.
    whose: [u32; 4],
    columns: HashSet<u64>,
}

impl FetchedColumns {
    fn channel(&mut self, channel: u32) -> &mut ([Option<FetchedHead>; LANES], usize) {
        let channel = channel as usize;
        if self.0.len() <= channel {
            self.0.resize_with(channel + 1, Default::default);
        }
        &mut self.0[channel]
    }

    /// Work for a segment follows. The same step of the same head in several segments is one.
    fn segment(&mut self, s: &Segment) {
        let (lanes, lane) = self.channel(s.channel);
        *lane = usize::from(s.lane);
        let whose = [s.step, s.request, s.layer, s.kv_head];
        if lanes[*lane].as_ref().is_none_or(|head| head.whose != whose) {
            lanes[*lane] = Some(FetchedHead { whose, columns: HashSet::default() });
        }
    }

    fn mark(&mut self, m: &Mark) {
        self.channel(m.channel).1 = usize::from(m.lane);
    }

    /// Whether `addr` is read for the first time.
    fn first(&mut self, channel: u32, addr: u64) -> Result<bool> {
        let (lanes, lane) = self.channel(channel);
        match &mut lanes[*lane] {
            Some(head) => Ok(head.columns.insert(addr)),
            None => Err(Error::Usage(
                "--mac-reads columns: this trace does not say of which step and KV head its work is; a ptrace does"
                    .into(),
            )),
        }
    }
}

/// A format for plain DRAM.
pub(crate) trait Target: Send {
    /// Name of the format.
    const FORMAT: &'static str;
    /// Program that reads it.
    const PROGRAM: &'static str;
    /// Whether it has barriers.
    const BARRIERS: bool = false;
    /// Whether its requests have a cycle at which they arrive.
    const ARRIVALS: bool = false;

    /// Refuses an address that means something else to the target than a place in memory.
    fn allow(&self, _addr: u64) -> Result<()> {
        Ok(())
    }
    /// Whether its addresses can be in another order of their fields than the default.
    const ORDERS: bool = false;

    /// Appends one access, which arrives at `cycle` at the earliest: its address in the default order, and in that of the
    /// export.
    fn access(&mut self, out: &mut Vec<u8>, at: (u64, u64), write: bool, cycle: u64);
    /// Appends the barriers that stand for one in `channel`, and says how many.
    fn barrier(&mut self, _out: &mut Vec<u8>, _channel: u32) -> u64 {
        0
    }
    /// Appends what ends the trace, and says how many lines that is.
    fn end(&mut self, _out: &mut Vec<u8>) -> u64 {
        0
    }
    /// Settings and notes of the manifest.
    fn settings(&self, order: AddressOrder) -> (Value, Vec<String>);
}

/// Writes a trace for plain DRAM.
pub(crate) struct Exporter<T> {
    target: T,
    geometry: Geometry,
    out: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    open: OpenUnits,
    fetched: FetchedColumns,
    arrivals: Arrivals,
    ledger: ExportCounts,
}

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 16;

impl<T: Target> Exporter<T> {
    pub(crate) fn new(target: T, out: Box<dyn Write + Send>, header: &Header, options: ExportOptions) -> Self {
        Exporter {
            target,
            geometry: header.geometry,
            out,
            buffer: Vec::with_capacity(BUFFER + 256),
            open: OpenUnits::default(),
            fetched: FetchedColumns::default(),
            arrivals: Arrivals::default(),
            ledger: ExportCounts::new(header, options, true),
        }
    }

    fn access(&mut self, op: Op, addr: u64) -> Result<()> {
        self.target.allow(addr)?;
        let cycle = self.arrivals.of(self.geometry.channel_of(addr));
        let coded = self.ledger.options.order.from_default(addr, &self.geometry);
        self.target.access(&mut self.buffer, (addr, coded), op == Op::St, cycle);
        self.ledger.count(op, 0, 1);
        if self.buffer.len() < BUFFER { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(write_error)?;
        self.buffer.clear();
        Ok(())
    }

    /// The banks that a multiply-accumulate works in, as addresses of its column there, in ascending order.
    fn banks(&self, op: Op, addr: u64) -> Result<Vec<u64>> {
        let g = &self.geometry;
        let a = g.decode(addr);
        let mac_reads = self.ledger.options.mac_reads;
        let in_unit = if matches!(mac_reads, MacReads::Banks | MacReads::Columns) { g.banks } else { 1 };
        let at = |unit: u32, row: u32, bank: u32| {
            g.encode(&Address { row, bank, column: a.column, offset: a.offset, ..g.unit_address(a.channel, unit) })
        };
        let mut banks: Vec<u64> = match op {
            Op::MacBg => {
                let open = self.open.of(a.channel)?;
                open.into_iter().flat_map(|(unit, row)| (0..in_unit).map(move |bank| at(unit, row, bank))).collect()
            }
            Op::MacSb => (0..g.units()).map(|unit| at(unit, a.row, a.bank)).collect(),
            Op::MacPb => {
                (0..g.pseudo_channels).map(|pseudo_channel| g.encode(&Address { pseudo_channel, ..a })).collect()
            }
            _ => (0..g.units()).flat_map(|unit| (0..in_unit).map(move |bank| at(unit, a.row, bank))).collect(),
        };
        if mac_reads == MacReads::One {
            banks.truncate(1);
        }
        Ok(banks)
    }

    fn request(&mut self, r: &Request) -> Result<()> {
        self.ledger.count(r.op, u64::from(r.count), 0);
        if !matches!(r.op, Op::Ld | Op::St) {
            self.ledger.allow(r.op, T::PROGRAM)?;
        }
        self.open.see(r.op, r.addr, &self.geometry);
        // A run stays in its row: only the column moves, in all banks alike.
        let steps = (0..u64::from(r.count)).map(|i| i * u64::from(r.stride));
        match r.op {
            Op::Ld | Op::St => steps.into_iter().try_for_each(|step| self.access(r.op, r.addr + step)),
            Op::MacAb | Op::MacSb | Op::MacPb | Op::MacBg => {
                let banks = self.banks(r.op, r.addr)?;
                let once = self.ledger.options.mac_reads == MacReads::Columns;
                let channel = self.geometry.channel_of(r.addr);
                for step in steps {
                    for bank in &banks {
                        if !once || self.fetched.first(channel, bank + step)? {
                            self.access(r.op, bank + step)?;
                        }
                    }
                }
                Ok(())
            }
            Op::Barrier | Op::Sync | Op::Host => {
                let steps = steps.take(if r.op == Op::Host { 1 } else { usize::MAX });
                let channels = match r.op {
                    Op::Sync => 0..self.geometry.channels,
                    _ => self.geometry.channel_of(r.addr)..self.geometry.channel_of(r.addr) + 1,
                };
                for _ in steps {
                    for channel in channels.clone() {
                        let lines = self.target.barrier(&mut self.buffer, channel);
                        self.ledger.count(r.op, 0, lines);
                    }
                    if self.buffer.len() >= BUFFER {
                        self.write()?;
                    }
                }
                Ok(())
            }
            Op::ActBg | Op::PreBg | Op::WrGb | Op::MvSb | Op::MvGb | Op::Sfm | Op::SetModel | Op::SetHead => Ok(()),
        }
    }

    fn how(&self, op: Op) -> &'static str {
        match op {
            Op::Ld | Op::St => KEPT,
            Op::MacAb | Op::MacSb | Op::MacPb | Op::MacBg => match (self.ledger.options.mac_reads, op) {
                (MacReads::One, _) => "one read of its column, in the first bank that it works in",
                (MacReads::Columns, _) => "a read of its column in each bank, once in a decode step of a KV head",
                (MacReads::Units, Op::MacAb | Op::MacBg) => "a read of its column in one bank of each unit of its work",
                _ => "a read of its column in each bank that it works in",
            },
            Op::ActBg | Op::PreBg => "dropped: the reads open and close rows themselves",
            Op::Barrier if T::BARRIERS => "a barrier in each channel of the target that a pseudo-channel became",
            Op::Sync if T::BARRIERS => "a barrier in every channel, none of which waits for the others",
            Op::Host if T::BARRIERS => "a barrier as for PIM_BARRIER: the host takes no time",
            Op::Barrier | Op::Sync | Op::Host => "dropped: the target orders nothing",
            Op::WrGb | Op::MvSb | Op::MvGb => "dropped: it fills or empties a buffer and touches no row",
            Op::Sfm | Op::SetModel | Op::SetHead => "dropped: it accesses no memory",
        }
    }
}

pub(crate) fn write_error(e: std::io::Error) -> Error {
    Error::io("trace output", e)
}

impl<T: Target> Sink for Exporter<T> {
    fn push(&mut self, record: Record) -> Result<()> {
        let order = self.ledger.options.order;
        if !T::ORDERS && !order.is_default() {
            let what = format!("{} is written in the order {}, not {order}", T::FORMAT, AddressOrder::default());
            return Err(Error::Usage(what));
        }
        match record {
            Record::Request(r) => self.request(&r),
            Record::Segment(s) => {
                self.ledger.segments += 1;
                self.fetched.segment(&s);
                Ok(())
            }
            Record::Mark(m) => {
                self.fetched.mark(&m);
                Ok(())
            }
            Record::Arrival(a) if T::ARRIVALS => {
                self.arrivals.take(&a);
                Ok(())
            }
            Record::Arrival(_) => self.ledger.drop_arrival(T::PROGRAM),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.ledger.written(|op| !op.is_mark()) == 0 {
            // Ramulator 2 and DRAMSys do not survive an empty trace.
            return Err(Error::Check(format!("nothing to write: no operation of this trace is one of {}", T::PROGRAM)));
        }
        self.ledger.marks = self.target.end(&mut self.buffer);
        self.write()?;
        self.out.flush().map_err(write_error)
    }

    fn manifest(&self) -> Option<Manifest> {
        let (settings, notes) = self.target.settings(self.ledger.options.order);
        Some(self.ledger.manifest(T::FORMAT, T::PROGRAM, |op| self.how(op), settings, notes))
    }
}

/// Whether a target that cuts addresses at bits can have this device.
pub(crate) fn powers_of_two(geometry: &Geometry, format: &str) -> Result<()> {
    match [("channels", geometry.channels), ("ranks", geometry.ranks)].iter().find(|(_, n)| !n.is_power_of_two()) {
        Some((name, n)) => Err(Error::Usage(format!("{format} needs a power of two of {name}; the trace has {n}"))),
        None => Ok(()),
    }
}
