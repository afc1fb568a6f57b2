//! What probes are told of an interval that the cache looked up: recorded once, told as often as it occurs.
//!
//! A probe that can do better than hear every event again overrides
//! [`Probe::cached_interval`]: an interval has an id, and the same id means the same events
//! at other rows, cycles and channels.

use super::rebase::CanonicalNames;
use crate::probe::{CommandEvent, Completion, NO_REQUEST, Probe};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::CommandId;
use pimattn_core::units::Cycle;
use pimattn_trace::Phase;
use std::ops::Range;

/// Which call of a probe an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// [`Probe::command`].
    Command {
        /// The command.
        command: CommandId,
        /// Banks that it acted on.
        banks: u32,
        /// The bank groups that it worked in, as in [`CommandEvent::units`].
        units: u64,
        /// The request that it completed, if any.
        completes: Option<Completion>,
    },
    /// [`Probe::barrier`].
    Barrier,
    /// [`Probe::silent`].
    Silent(Op),
}

/// An event of a channel, as the cache keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedEvent {
    /// Cycles since the interval began.
    pub at: u32,
    /// Which call of a probe it is.
    pub kind: EventKind,
    /// Its address in canonical form, whose channel means nothing.
    pub address: Address,
    /// The phase that it was for.
    pub phase: Phase,
}

/// What some channels did between two states of the cache.
#[derive(Debug, Clone, Default)]
pub struct CachedInterval {
    /// Different for different intervals of a run.
    pub id: u64,
    /// What each group of channels did.
    pub groups: Vec<GroupEvents>,
}

/// What each channel of a group did in an interval.
#[derive(Debug, Clone)]
pub struct GroupEvents {
    /// The channels, counted from the first of the [`Occurrence`].
    pub(crate) channels: Range<u32>,
    /// The events of each of them, in the order of time.
    pub events: Vec<CachedEvent>,
    /// When the last request that was completed had its result, in cycles since the interval began, if any was.
    pub(crate) done: Option<u32>,
    /// Length of the interval in cycles.
    pub cycles: Cycle,
}

/// Where and when an interval occurs.
#[derive(Debug, Clone)]
pub struct Occurrence<'a> {
    /// The cycle of its events at 0.
    pub begin: Cycle,
    /// The channels that it is for.
    pub(crate) channels: Range<u32>,
    /// The names behind the numbers in its addresses.
    pub(crate) names: &'a CanonicalNames,
    /// The geometry of the device.
    pub(crate) geometry: &'a Geometry,
}

impl Occurrence<'_> {
    /// The channels of a group. An interval of a single channel occurs in all channels of the occurrence.
    pub fn channels_of(&self, interval: &CachedInterval, group: &GroupEvents) -> Range<u32> {
        match interval.groups.len() {
            1 if group.channels.len() == 1 => self.channels.clone(),
            _ => self.channels.start + group.channels.start..self.channels.start + group.channels.end,
        }
    }
}

impl CachedInterval {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.groups.iter().map(|g| g.events.len() * size_of::<CachedEvent>() + size_of::<GroupEvents>()).sum::<usize>()
            + 64
    }

    /// Tells a probe all events, in the order of time, then of channels.
    pub fn tell<P: Probe + ?Sized>(&self, occurrence: &Occurrence<'_>, probe: &mut P) {
        let mut next_of = vec![0; self.groups.len()];
        let soonest = |next_of: &[usize]| {
            let events = self.groups.iter().zip(next_of).filter_map(|(group, next)| group.events.get(*next));
            events.map(|e| e.at).min()
        };
        while let Some(cycle) = soonest(&next_of) {
            for (group, next) in self.groups.iter().zip(&mut next_of) {
                let now = group.events[*next..].iter().take_while(|e| e.at == cycle).count();
                for channel in occurrence.channels_of(self, group) {
                    group.events[*next..*next + now].iter().for_each(|e| e.tell(occurrence, channel, probe));
                }
                *next += now;
            }
        }
    }
}

impl GroupEvents {
    /// Tells a probe the events of one channel.
    pub fn tell<P: Probe + ?Sized>(&self, occurrence: &Occurrence<'_>, channel: u32, probe: &mut P) {
        self.events.iter().for_each(|e| e.tell(occurrence, channel, probe));
    }
}

impl CachedEvent {
    fn tell<P: Probe + ?Sized>(&self, occurrence: &Occurrence<'_>, channel: u32, probe: &mut P) {
        let op = if let EventKind::Command { completes: Some(c), .. } = self.kind { Some(c.op) } else { None };
        let address = Address { channel, ..occurrence.names.address(op, self.address, occurrence.geometry) };
        let cycle = occurrence.begin + Cycle::from(self.at);
        match self.kind {
            EventKind::Command { command, banks, units, completes } => probe.command(&CommandEvent {
                cycle,
                command,
                address,
                banks,
                units,
                segment: 0,
                phase: self.phase,
                completes,
                request: NO_REQUEST,
            }),
            EventKind::Barrier => probe.barrier(cycle, &address),
            EventKind::Silent(op) => probe.silent(channel, 0, self.phase, op),
        }
    }
}

/// Records what a channel does from a cycle on.
pub(crate) struct Recorder {
    begin: Cycle,
    /// The events so far.
    pub events: Vec<CachedEvent>,
    /// Whether the events are all that happened. Work of a segment, for one, cannot be told again.
    pub complete: bool,
}

impl Recorder {
    /// No event yet; cycles count from `begin`.
    pub fn new(begin: Cycle) -> Self {
        Recorder { begin, events: Vec::new(), complete: true }
    }

    fn push(&mut self, cycle: Cycle, kind: EventKind, address: Address, phase: Phase) {
        match cycle.checked_sub(self.begin).map(u32::try_from) {
            Some(Ok(at)) => self.events.push(CachedEvent { at, kind, address, phase }),
            _ => self.complete = false,
        }
    }
}

impl Probe for Recorder {
    fn command(&mut self, e: &CommandEvent) {
        self.complete &= e.segment == 0;
        let kind = EventKind::Command { command: e.command, banks: e.banks, units: e.units, completes: e.completes };
        self.push(e.cycle, kind, e.address, e.phase);
    }

    fn barrier(&mut self, cycle: Cycle, address: &Address) {
        self.push(cycle, EventKind::Barrier, *address, Phase::Other);
    }

    fn silent(&mut self, _: u32, segment: u32, phase: Phase, op: Op) {
        self.complete &= segment == 0;
        // It has no cycle of its own, but its place among the events that have one.
        let at = self.events.last().map_or(0, |e| e.at);
        let (kind, address) = (EventKind::Silent(op), Address::default());
        self.events.push(CachedEvent { at, kind, address, phase });
    }

    fn host(&mut self, _: u32, _: u32, _: Phase, _: Cycle, _: Cycle) {
        self.complete = false;
    }

    fn latency(&mut self, _: u32, _: u32, _: Phase, _: Op, _: Cycle) {
        self.complete = false;
    }
}
