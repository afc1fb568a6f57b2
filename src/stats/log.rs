//! The command log: one line a command, `clock, command, channel, pseudo-channel, rank, bank group, bank, row,
//! column`. The clock counts from 1, as in Ramulator's logs.

use crate::engine::probe::{CommandEvent, Probe};
use crate::spec::Device;
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
}

impl<W: Write> Probe for LogProbe<W> {
    fn command(&mut self, e: &CommandEvent) {
        let a = &e.address;
        let line = writeln!(
            self.out,
            "{}, {}, {}, {}, {}, {}, {}, {}, {}",
            e.cycle + 1,
            self.names[usize::from(e.command)],
            a.channel,
            a.pseudo_channel,
            a.rank,
            a.bank_group,
            a.bank,
            a.row,
            a.column
        );
        if let Err(e) = line {
            self.error.get_or_insert(e);
        }
    }
}
