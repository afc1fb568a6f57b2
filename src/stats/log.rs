//! The command log: one line a command, `clock, command, channel, pseudo-channel, rank, bank group, bank, row,
//! column`. The clock counts from 1 and a field that is not addressed is -1, as in Ramulator's logs. A command that works
//! in some bank groups of its channel has them behind that, as a hexadecimal set.

use crate::addr::{Address, NOT_ADDRESSED};
use crate::engine::probe::{CommandEvent, Probe};
use crate::spec::Device;
use crate::units::Cycle;
use std::io::Write;

/// Writes every command to a stream. An error is kept for [`LogProbe::finish`].
pub struct LogProbe<W: Write> {
    out: W,
    names: Vec<String>,
    error: Option<std::io::Error>,
}

impl<W: Write> LogProbe<W> {
    /// Commands go to `out`.
    pub fn new(out: W, device: &Device) -> Self {
        LogProbe { out, names: device.commands.iter().map(|c| c.name.clone()).collect(), error: None }
    }

    /// The stream, if every line was written.
    pub fn finish(self) -> std::io::Result<W> {
        match self.error {
            Some(e) => Err(e),
            None => Ok(self.out),
        }
    }

    fn line(&mut self, cycle: Cycle, command: Option<usize>, a: &Address, units: u64) -> std::io::Result<()> {
        let name = command.map_or("BARRIER", |id| &self.names[id]);
        write!(self.out, "{}, {name}, {}", cycle + 1, a.channel)?;
        for field in [a.pseudo_channel, a.rank, a.bank_group, a.bank, a.row, a.column] {
            match field {
                NOT_ADDRESSED => self.out.write_all(b", -1")?,
                given => write!(self.out, ", {given}")?,
            }
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
        let written = self.line(e.cycle, Some(usize::from(e.command)), &e.address, e.units);
        self.keep(written);
    }

    fn barrier(&mut self, cycle: Cycle, address: &Address) {
        let written = self.line(cycle, None, address, 0);
        self.keep(written);
    }
}
