//! The lightest probe that knows energy: counts of commands and requests, channel by channel.

use super::counters::{Counters, Rules, rules};
use foldhash::fast::FixedState;
use pimattn_core::op::Op;
use pimattn_core::spec::Device;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandBurst, CommandEvent, Probe};
use pimattn_engine::replay_cache::{CachedInterval, EventKind, GroupEvents, Occurrence};
use pimattn_trace::Phase;
use std::collections::HashMap;

/// Groups of intervals that are counted apart, at most.
const MAX_GROUPS: usize = 1 << 13;

/// Counts what each channel does.
pub struct ChannelTally {
    rules: Rules,
    /// What a channel does in each group of an interval that the replay cache looked up, and how often it did, by channel. Added up
    /// at the end.
    cached: HashMap<(u64, usize), (Counters, Vec<u64>), FixedState>,
    /// The counts of each channel.
    pub channels: Vec<Counters>,
}

impl ChannelTally {
    /// Nothing counted yet.
    pub fn new(device: &Device) -> Self {
        let channels = vec![Counters::default(); device.geometry.channels as usize];
        ChannelTally { rules: rules(device), cached: HashMap::default(), channels }
    }

    /// The sum over channels.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.channels.iter().for_each(|c| total.add(c));
        total
    }
}

impl ChannelTally {
    /// Adds up what was looked up.
    fn add_cached(&mut self) {
        for (counters, times) in self.cached.drain().map(|(_, counted)| counted) {
            self.channels.iter_mut().zip(times).for_each(|(channel, times)| channel.add_times(&counters, times));
        }
    }
}

/// What a channel of a group does in an interval.
fn counted(group: &GroupEvents, rules: &Rules) -> Counters {
    let mut counters = Counters::default();
    for event in &group.events {
        match event.kind {
            EventKind::Command { command, banks, completes, .. } => {
                counters.issue(command, &event.address, (banks, event.phase), completes, rules);
            }
            EventKind::Silent(op) => counters.silent(op),
            EventKind::Barrier => {}
        }
    }
    counters
}

impl Probe for ChannelTally {
    fn command(&mut self, e: &CommandEvent) {
        self.channels[e.address.channel as usize].command(e, &self.rules);
    }

    fn burst(&mut self, burst: &CommandBurst<'_>) {
        self.channels[burst.first.address.channel as usize].burst(burst, &self.rules);
    }

    fn cached_interval(&mut self, interval: &CachedInterval, occurrence: &Occurrence<'_>) {
        if self.cached.len() >= MAX_GROUPS {
            self.add_cached();
        }
        for (i, group) in interval.groups.iter().enumerate() {
            let channels = self.channels.len();
            let rules = &self.rules;
            let (_, times) =
                self.cached.entry((interval.id, i)).or_insert_with(|| (counted(group, rules), vec![0; channels]));
            occurrence.channels_of(interval, group).for_each(|channel| times[channel as usize] += 1);
        }
    }

    fn end(&mut self, _: Cycle) {
        self.add_cached();
    }

    fn silent(&mut self, channel: u32, _: u32, _: Phase, op: Op) {
        self.channels[channel as usize].silent(op);
    }
}
