//! The lightest probe that knows energy: commands and requests, channel by channel.

use super::counters::{Counters, Rules, rules};
use foldhash::fast::FixedState;
use pimattn_core::op::Op;
use pimattn_core::spec::Device;
use pimattn_core::units::Cycle;
use pimattn_engine::memo::stretch::{Part, Place, Stretch, What};
use pimattn_engine::probe::{CommandEvent, Probe};
use pimattn_trace::Phase;
use std::collections::HashMap;

/// Parts of stretches that are kept apart, at most.
const MAX_STRETCHES: usize = 1 << 13;

/// Counts what each channel does.
pub struct Tally {
    rules: Rules,
    /// What each part of a stretch counts, and how often it was, by channel; counted at the end.
    stretches: HashMap<(u64, usize), (Counters, Vec<u64>), FixedState>,
    /// By channel.
    pub channels: Vec<Counters>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(device: &Device) -> Self {
        let channels = vec![Counters::default(); device.geometry.channels as usize];
        Tally { rules: rules(device), stretches: HashMap::default(), channels }
    }

    /// The sum over channels.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.channels.iter().for_each(|c| total.add(c));
        total
    }
}

impl Tally {
    fn count_stretches(&mut self) {
        for (counters, times) in self.stretches.drain().map(|(_, counted)| counted) {
            self.channels.iter_mut().zip(times).for_each(|(channel, times)| channel.add_times(&counters, times));
        }
    }
}

fn counted(part: &Part, rules: &Rules) -> Counters {
    let mut counters = Counters::default();
    for event in &part.events {
        match event.what {
            What::Command { command, banks, completes, .. } => {
                counters.issue(command, &event.address, (banks, event.phase), completes, rules);
            }
            What::Silent(op) => counters.silent(op),
            What::Barrier => {}
        }
    }
    counters
}

impl Probe for Tally {
    fn command(&mut self, e: &CommandEvent) {
        self.channels[e.address.channel as usize].command(e, &self.rules);
    }

    fn stretch(&mut self, stretch: &Stretch, place: &Place<'_>) {
        if self.stretches.len() >= MAX_STRETCHES {
            self.count_stretches();
        }
        for (i, part) in stretch.parts.iter().enumerate() {
            let channels = self.channels.len();
            let rules = &self.rules;
            let (_, times) =
                self.stretches.entry((stretch.id, i)).or_insert_with(|| (counted(part, rules), vec![0; channels]));
            place.channels_of(stretch, part).for_each(|channel| times[channel as usize] += 1);
        }
    }

    fn end(&mut self, _: Cycle) {
        self.count_stretches();
    }

    fn silent(&mut self, channel: u32, _: u32, _: Phase, op: Op) {
        self.channels[channel as usize].silent(op);
    }
}
