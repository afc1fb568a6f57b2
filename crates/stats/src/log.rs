//! The command log: one line a command, `clock, command, channel, pseudo-channel, rank, bank group, bank, row,
//! column, request`. The clock counts from 1 and a field that is not addressed is -1, as in Ramulator's logs. A command
//! that works in some bank groups of its channel has them behind that, as a hexadecimal set.
//!
//! The request is the number, in its channel and from 0, of the one that the command serves. Where requests have numbers,
//! lines of the same form say what held them: BARRIER, HOST and SYNC, from the clock on at which requests from the last
//! number on may issue column commands. Logs without numbers (of the compat controller) leave the last field out.

use pimattn_core::addr::{Address, NOT_ADDRESSED};
use pimattn_core::spec::Device;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandEvent, NO_REQUEST, Opener, Probe};
use std::collections::VecDeque;
use std::io::Write;

/// A mark that is to be written ahead of the first command that does not come before it.
struct PendingMark {
    cycle: Cycle,
    opener: Opener,
    first: u64,
}

/// Writes every command to a stream. An error is kept for [`LogProbe::finish`].
pub struct LogProbe<W: Write> {
    out: W,
    names: Vec<String>,
    /// Marks of each channel that are still to be written.
    marks: Vec<VecDeque<PendingMark>>,
    /// Whether requests have had numbers.
    numbered: bool,
    error: Option<std::io::Error>,
}

impl<W: Write> LogProbe<W> {
    /// Commands go to `out`.
    pub fn new(out: W, device: &Device) -> Self {
        let names = device.commands.iter().map(|c| c.name.clone()).collect();
        let marks = (0..device.geometry.channels).map(|_| VecDeque::new()).collect();
        LogProbe { out, names, marks, numbered: false, error: None }
    }

    /// The stream, if every line was written.
    pub fn finish(mut self) -> std::io::Result<W> {
        for channel in 0..self.marks.len() as u32 {
            self.marks_until(channel, Cycle::MAX);
        }
        match self.error {
            Some(e) => Err(e),
            None => Ok(self.out),
        }
    }

    /// Writes the marks of a channel up to a cycle.
    fn marks_until(&mut self, channel: u32, cycle: Cycle) {
        while self.marks[channel as usize].front().is_some_and(|m| m.cycle <= cycle) {
            let Some(mark) = self.marks[channel as usize].pop_front() else { return };
            let name = match mark.opener {
                Opener::Barrier => "BARRIER",
                Opener::Host => "HOST",
                Opener::Sync => "SYNC",
                Opener::Arrival => "ARRIVAL",
            };
            let (clock, first) = (mark.cycle + 1, mark.first);
            let written = writeln!(self.out, "{clock}, {name}, {channel}, -1, -1, -1, -1, -1, -1, {first}");
            self.keep(written);
        }
    }

    fn line(
        &mut self,
        cycle: Cycle,
        command: Option<usize>,
        a: &Address,
        request: u64,
        units: u64,
    ) -> std::io::Result<()> {
        let name = command.map_or("BARRIER", |id| &self.names[id]);
        write!(self.out, "{}, {name}, {}", cycle + 1, a.channel)?;
        for field in [a.pseudo_channel, a.rank, a.bank_group, a.bank, a.row, a.column] {
            match field {
                NOT_ADDRESSED => self.out.write_all(b", -1")?,
                given => write!(self.out, ", {given}")?,
            }
        }
        match request {
            NO_REQUEST if self.numbered => self.out.write_all(b", -1")?,
            NO_REQUEST => {}
            number => write!(self.out, ", {number}")?,
        }
        if units != 0 {
            write!(self.out, ", {units:#x}")?;
        }
        self.out.write_all(b"\n")
    }

    fn keep(&mut self, result: std::io::Result<()>) {
        if let Err(e) = result {
            self.error.get_or_insert(e);
        }
    }
}

impl<W: Write> Probe for LogProbe<W> {
    fn command(&mut self, e: &CommandEvent) {
        self.numbered |= e.request != NO_REQUEST;
        self.marks_until(e.address.channel, e.cycle);
        let written = self.line(e.cycle, Some(usize::from(e.command)), &e.address, e.request, e.units);
        self.keep(written);
    }

    fn barrier(&mut self, cycle: Cycle, address: &Address) {
        let written = self.line(cycle, None, address, NO_REQUEST, 0);
        self.keep(written);
    }

    fn epoch(&mut self, channel: u32, cycle: Cycle, opener: Opener, first: u64) {
        self.numbered = true;
        // Arrivals are told ahead.
        let marks = &mut self.marks[channel as usize];
        let place = marks.partition_point(|m| m.cycle <= cycle);
        marks.insert(place, PendingMark { cycle, opener, first });
    }
}
