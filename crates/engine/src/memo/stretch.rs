//! What channels did over a stretch of time, told once or many times.

use super::shift::Names;
use crate::probe::{CommandEvent, Completion, NO_REQUEST, Probe};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::CommandId;
use pimattn_core::units::Cycle;
use pimattn_trace::Phase;
use std::ops::Range;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// [`Probe::command`].
    Command {
        /// Which command.
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

/// Something that happened in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Cycles since the stretch began.
    pub at: u32,
    /// What.
    pub what: What,
    /// Where, in normal form; the channel as the kernel has it.
    pub address: Address,
    /// The phase that it was for.
    pub phase: Phase,
}

/// What happened in channels over a stretch of time: one list of events for channels that did the same.
#[derive(Debug, Clone, Default)]
pub struct Stretch {
    /// Different for different stretches of a run.
    pub id: u64,
    /// The channels that did the same, and what they did.
    pub parts: Vec<Part>,
}

/// What some channels did.
#[derive(Debug, Clone)]
pub struct Part {
    /// The channels, counted from the first of the [`Place`].
    pub channels: Range<u32>,
    /// What each of them did.
    pub events: Vec<Event>,
    /// When the last request that was completed in it had its result, in cycles since it began, if any was.
    pub done: Option<u32>,
    /// Cycles to its end.
    pub cycles: Cycle,
}

/// Where and when a stretch took place.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Cycle of its events at 0.
    pub begin: Cycle,
    /// Its channel 0 and how many there are.
    pub channels: Range<u32>,
    /// What is behind the numbers of addresses.
    pub names: &'a Names,
    /// What the device consists of.
    pub geometry: &'a Geometry,
}

impl Place<'_> {
    /// The channels of a part: all of them where the stretch is of a single channel.
    pub fn channels_of(&self, stretch: &Stretch, part: &Part) -> Range<u32> {
        match stretch.parts.len() {
            1 if part.channels.len() == 1 => self.channels.clone(),
            _ => self.channels.start + part.channels.start..self.channels.start + part.channels.end,
        }
    }
}

impl Stretch {
    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.events.len() * size_of::<Event>() + size_of::<Part>()).sum::<usize>() + 64
    }

    /// Tells a probe event by event: in the order of time, then of channels.
    pub fn tell<P: Probe + ?Sized>(&self, place: &Place<'_>, probe: &mut P) {
        let mut at = vec![0; self.parts.len()];
        let next = |at: &[usize]| {
            let events = self.parts.iter().zip(at).filter_map(|(p, i)| p.events.get(*i));
            events.map(|e| e.at).min()
        };
        while let Some(cycle) = next(&at) {
            for (part, at) in self.parts.iter().zip(&mut at) {
                let now = part.events[*at..].iter().take_while(|e| e.at == cycle).count();
                for channel in place.channels_of(self, part) {
                    part.events[*at..*at + now].iter().for_each(|e| e.tell(place, channel, probe));
                }
                *at += now;
            }
        }
    }
}

impl Part {
    /// Tells a probe what one of its channels did.
    pub fn tell<P: Probe + ?Sized>(&self, place: &Place<'_>, channel: u32, probe: &mut P) {
        self.events.iter().for_each(|e| e.tell(place, channel, probe));
    }
}

impl Event {
    fn tell<P: Probe + ?Sized>(&self, place: &Place<'_>, channel: u32, probe: &mut P) {
        let op = if let What::Command { completes: Some(c), .. } = self.what { Some(c.op) } else { None };
        let address = Address { channel, ..place.names.address(op, self.address, place.geometry) };
        let cycle = place.begin + Cycle::from(self.at);
        match self.what {
            What::Command { command, banks, units, completes } => probe.command(&CommandEvent {
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
            What::Barrier => probe.barrier(cycle, &address),
            What::Silent(op) => probe.silent(channel, 0, self.phase, op),
        }
    }
}

/// Writes down what a channel does from `begin` on.
pub struct Recorder {
    begin: Cycle,
    /// What it did.
    pub events: Vec<Event>,
    /// Whether all of it can be told again.
    pub complete: bool,
}

impl Recorder {
    /// Nothing yet.
    pub fn new(begin: Cycle) -> Self {
        Recorder { begin, events: Vec::new(), complete: true }
    }

    fn push(&mut self, cycle: Cycle, what: What, address: Address, phase: Phase) {
        match cycle.checked_sub(self.begin).map(u32::try_from) {
            Some(Ok(at)) => self.events.push(Event { at, what, address, phase }),
            _ => self.complete = false,
        }
    }
}

impl Probe for Recorder {
    fn command(&mut self, e: &CommandEvent) {
        self.complete &= e.segment == 0;
        let what = What::Command { command: e.command, banks: e.banks, units: e.units, completes: e.completes };
        self.push(e.cycle, what, e.address, e.phase);
    }

    fn barrier(&mut self, cycle: Cycle, address: &Address) {
        self.push(cycle, What::Barrier, *address, Phase::Other);
    }

    fn silent(&mut self, _: u32, segment: u32, phase: Phase, op: Op) {
        self.complete &= segment == 0;
        // It has no time of its own, but its place among what has.
        let at = self.events.last().map_or(0, |e| e.at);
        let (what, address) = (What::Silent(op), Address::default());
        self.events.push(Event { at, what, address, phase });
    }

    fn host(&mut self, _: u32, _: u32, _: Phase, _: Cycle, _: Cycle) {
        self.complete = false;
    }

    fn latency(&mut self, _: u32, _: u32, _: Phase, _: Op, _: Cycle) {
        self.complete = false;
    }
}
