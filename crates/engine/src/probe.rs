//! Probes: observers that the engine tells about its work. Statistics and logs are probes; the engine knows none of them.

use super::replay_cache::{CachedInterval, Occurrence};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::CommandId;
use pimattn_core::units::Cycle;
use pimattn_trace::{Phase, Segment};

/// How a request found its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOutcome {
    /// The row was open, or none was needed.
    Hit,
    /// The bank was closed.
    Miss,
    /// Another row had to be closed first.
    Conflict,
}

/// A request that a command completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The operation.
    pub op: Op,
    /// How it found its row.
    pub row: RowOutcome,
}

/// No request is known that a command serves.
pub const NO_REQUEST: u64 = u64::MAX;

/// The reason why an epoch opens: from then on the column commands of the requests in it may issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// A barrier: the results ahead of it are there.
    Barrier,
    /// The host has done its work.
    Host,
    /// All channels have met.
    Sync,
    /// The trace says that it arrives then; its row commands do not come before, either.
    Arrival,
}

/// A command on a channel's bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandEvent {
    /// Cycle, from 0.
    pub cycle: Cycle,
    /// Which command.
    pub command: CommandId,
    /// The address; of a command that reaches several banks, the address that it was given, with
    /// [`NOT_ADDRESSED`](pimattn_core::addr::NOT_ADDRESSED) in fields that it was given without.
    pub address: Address,
    /// Banks that it acted on.
    pub banks: u32,
    /// The bank groups that it worked in, a bit each, where a command works in some of the channel; else 0.
    pub units: u64,
    /// The channel's segment that it works for, counted from 1; 0 before the first and for refresh.
    pub segment: u32,
    /// The phase of the segment that it works for.
    pub phase: Phase,
    /// The request that it completed, if any.
    pub completes: Option<Completion>,
    /// The request that it serves: its number in the channel, counted from 0, marks (barriers, the host, syncs) not
    /// counted. [`NO_REQUEST`] for refresh, from the compat controller, and where requests are no longer counted because
    /// work was looked up ([`replay_cache`](super::replay_cache)).
    pub request: u64,
}

/// Commands of one channel that follow one another at the same distance, and differ in their cycle, column and request alone: MACs of a
/// run.
#[derive(Debug, Clone, Copy)]
pub struct CommandBurst<'g> {
    /// The first of them.
    pub first: CommandEvent,
    /// How many they are, at least 1.
    pub count: u64,
    /// Cycles from one to the next.
    pub gap: Cycle,
    /// Byte address of the first, and bytes from one to the next.
    pub(crate) addr: u64,
    pub(crate) stride: u64,
    /// The geometry of the device.
    pub(crate) geometry: &'g Geometry,
}

impl CommandBurst<'_> {
    /// The cycle of the last one.
    pub fn last_cycle(&self) -> Cycle {
        self.first.cycle + (self.count - 1) * self.gap
    }

    /// Each of them, in the order of time.
    pub fn events(&self) -> impl Iterator<Item = CommandEvent> {
        (0..self.count).map(|i| {
            let request = if self.first.request == NO_REQUEST { NO_REQUEST } else { self.first.request + i };
            CommandEvent {
                cycle: self.first.cycle + i * self.gap,
                address: self.geometry.decode(self.addr + i * self.stride),
                request,
                ..self.first
            }
        })
    }
}

/// An observer of the engine. Within one channel, calls come in order of time, but for [`Probe::epoch`].
pub trait Probe {
    /// A command was issued.
    fn command(&mut self, _event: &CommandEvent) {}
    /// Commands were issued one after the other. It means what [`Probe::command`] means for each of them, which is what happens
    /// unless the probe can do better.
    fn burst(&mut self, burst: &CommandBurst<'_>) {
        burst.events().for_each(|e| self.command(&e));
    }
    /// A barrier took a cycle of its channel's bus, as in the reference; other controllers let barriers cost nothing.
    fn barrier(&mut self, _cycle: Cycle, _address: &Address) {}
    /// Channels did once more what the [replay cache](super::replay_cache) knows. It means what [`CachedInterval::tell`] tells, which
    /// is what happens unless the probe can do better.
    fn cached_interval(&mut self, interval: &CachedInterval, occurrence: &Occurrence<'_>) {
        interval.tell(occurrence, self);
    }
    /// From `cycle` on, a channel's requests from number `first` on may issue column commands; row commands may have come
    /// before. Only from channels that number their requests. It may be told ahead of commands that come before `cycle`.
    fn epoch(&mut self, _channel: u32, _cycle: Cycle, _opener: Opener, _first: u64) {}
    /// A request needed no command (its row was open, or closed, already, or a waiting write had its data).
    fn silent(&mut self, _channel: u32, _segment: u32, _phase: Phase, _op: Op) {}
    /// The host worked so many cycles, from `begin` on, while the channel waited.
    fn host(&mut self, _channel: u32, _segment: u32, _phase: Phase, _begin: Cycle, _cycles: Cycle) {}
    /// A request got its result so many cycles after it arrived; only where the system times arrivals.
    fn latency(&mut self, _channel: u32, _segment: u32, _phase: Phase, _op: Op, _cycles: Cycle) {}
    /// A channel took up a segment, its `id`-th; commands for it follow.
    fn segment_begin(&mut self, _id: u32, _segment: &Segment) {}
    /// A channel has completed a segment: its last result was there at `cycle`.
    fn segment_end(&mut self, _channel: u32, _id: u32, _cycle: Cycle) {}
    /// A channel, whose own work was done at `done`, waits for the others until `met`.
    fn channel_waits(&mut self, _channel: u32, _done: Cycle, _met: Cycle) {}
    /// All channels met.
    fn sync(&mut self, _cycle: Cycle) {}
    /// The run is over; a channel's own work was done at `done`.
    fn channel_end(&mut self, _channel: u32, _done: Cycle) {}
    /// The run is over, at `cycle`.
    fn end(&mut self, _cycle: Cycle) {}
}

/// The probe that hears nothing.
impl Probe for () {
    fn burst(&mut self, _: &CommandBurst<'_>) {}
    fn cached_interval(&mut self, _: &CachedInterval, _: &Occurrence<'_>) {}
}

/// Two observers.
impl<A: Probe, B: Probe> Probe for (A, B) {
    fn command(&mut self, e: &CommandEvent) {
        self.0.command(e);
        self.1.command(e);
    }
    fn burst(&mut self, burst: &CommandBurst<'_>) {
        self.0.burst(burst);
        self.1.burst(burst);
    }
    fn barrier(&mut self, cycle: Cycle, address: &Address) {
        self.0.barrier(cycle, address);
        self.1.barrier(cycle, address);
    }
    fn cached_interval(&mut self, interval: &CachedInterval, occurrence: &Occurrence<'_>) {
        self.0.cached_interval(interval, occurrence);
        self.1.cached_interval(interval, occurrence);
    }
    fn epoch(&mut self, channel: u32, cycle: Cycle, opener: Opener, first: u64) {
        self.0.epoch(channel, cycle, opener, first);
        self.1.epoch(channel, cycle, opener, first);
    }
    fn silent(&mut self, channel: u32, segment: u32, phase: Phase, op: Op) {
        self.0.silent(channel, segment, phase, op);
        self.1.silent(channel, segment, phase, op);
    }
    fn host(&mut self, channel: u32, segment: u32, phase: Phase, begin: Cycle, cycles: Cycle) {
        self.0.host(channel, segment, phase, begin, cycles);
        self.1.host(channel, segment, phase, begin, cycles);
    }
    fn latency(&mut self, channel: u32, segment: u32, phase: Phase, op: Op, cycles: Cycle) {
        self.0.latency(channel, segment, phase, op, cycles);
        self.1.latency(channel, segment, phase, op, cycles);
    }
    fn segment_begin(&mut self, id: u32, segment: &Segment) {
        self.0.segment_begin(id, segment);
        self.1.segment_begin(id, segment);
    }
    fn segment_end(&mut self, channel: u32, id: u32, cycle: Cycle) {
        self.0.segment_end(channel, id, cycle);
        self.1.segment_end(channel, id, cycle);
    }
    fn channel_waits(&mut self, channel: u32, done: Cycle, met: Cycle) {
        self.0.channel_waits(channel, done, met);
        self.1.channel_waits(channel, done, met);
    }
    fn sync(&mut self, cycle: Cycle) {
        self.0.sync(cycle);
        self.1.sync(cycle);
    }
    fn channel_end(&mut self, channel: u32, done: Cycle) {
        self.0.channel_end(channel, done);
        self.1.channel_end(channel, done);
    }
    fn end(&mut self, cycle: Cycle) {
        self.0.end(cycle);
        self.1.end(cycle);
    }
}
