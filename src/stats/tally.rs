//! The lightest probe that knows energy: commands and requests, channel by channel.

use super::counters::{Counters, needs_row};
use crate::engine::probe::{CommandEvent, Probe};
use crate::op::Op;
use crate::spec::Device;
use crate::spec::resolve::MAX_COMMANDS;
use crate::trace::Phase;

/// Counts what each channel does.
pub struct Tally {
    needs_row: [bool; MAX_COMMANDS],
    /// By channel.
    pub channels: Vec<Counters>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(device: &Device) -> Self {
        let channels = vec![Counters::default(); device.geometry.channels as usize];
        Tally { needs_row: needs_row(device), channels }
    }

    /// The sum over channels.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.channels.iter().for_each(|c| total.add(c));
        total
    }
}

impl Probe for Tally {
    fn command(&mut self, e: &CommandEvent) {
        self.channels[e.address.channel as usize].command(e, self.needs_row[usize::from(e.command)]);
    }

    fn silent(&mut self, channel: u32, _: u32, _: Phase, op: Op) {
        self.channels[channel as usize].silent(op);
    }
}
