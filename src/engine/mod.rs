//! The discrete-event engine: when every command of a trace issues.
//!
//! Channels are independent between two syncs. Each is a component with its own clock; a priority queue holds the
//! cycle at which each can do something next, and the earliest goes on until it is a quantum ahead of the others,
//! needs records, or is done. Records are read only as channels need them, so memory does not grow with the trace.
//!
//! Order is total: a channel's commands in time, ties by the older request; channels by (cycle, id). Cycles count
//! from 0; a run's length is the cycle at which its last result is there.
//!
//! `compat` is another engine, with the reference's clock and order, for systems that ask for it.

mod channel;
mod compat;
pub mod probe;
mod segments;
pub mod state;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::op::Op;
use crate::spec::System;
use crate::spec::system::Controller;
use crate::trace::{Record, Source};
use crate::units::Cycle;
use channel::{Channel, Progress};
use priority_queue::PriorityQueue;
use probe::Probe;
use std::cmp::Reverse;

/// Records of one channel that wait at most; a channel that has this many runs before more are read.
const WAITING: usize = 4096;
/// Cycles that one channel may run ahead of the next.
const QUANTUM: Cycle = 4096;

/// What stopped the reading of records.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Stop {
    /// A channel has enough.
    Full,
    /// All channels must meet.
    Sync,
    /// No record is left.
    End,
}

struct Reader<'s> {
    source: &'s mut dyn Source,
    block: Vec<Record>,
    at: usize,
    requests: u64,
}

impl<'s> Reader<'s> {
    fn new(source: &'s mut dyn Source) -> Self {
        Reader { source, block: Vec::new(), at: 0, requests: 0 }
    }

    fn next(&mut self) -> Result<Option<Record>> {
        if self.at == self.block.len() {
            interrupt::check()?;
            self.at = 0;
            if !self.source.next_block(&mut self.block)? {
                self.block.clear();
                return Ok(None);
            }
        }
        self.at += 1;
        Ok(Some(self.block[self.at - 1]))
    }
}

/// Replays a trace on a system and returns its length in cycles. `progress` hears how many requests were read.
pub fn run<P: Probe>(
    system: &System,
    source: &mut dyn Source,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    match system.controller {
        Controller::Faithful => run_faithful(system, source, probe, progress),
        Controller::Compat => compat::run(system, source, probe, progress),
    }
}

/// An error unless a trace is for the device of `system`.
fn needs_same_geometry(system: &System, source: &dyn Source) -> Result<()> {
    let (ours, theirs) = (system.device.geometry, source.header().geometry);
    if ours == theirs {
        return Ok(());
    }
    let what = format!("the trace is for another device: {theirs:?}; {} is {ours:?}", system.name);
    Err(Error::data(&source.header().provenance, what))
}

fn run_faithful<P: Probe>(
    system: &System,
    source: &mut dyn Source,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    needs_same_geometry(system, source)?;
    let device = &system.device;
    let mut channels: Vec<Channel<'_>> = (0..device.geometry.channels).map(|id| Channel::new(system, id)).collect();
    let mut wakeups: PriorityQueue<u32, Reverse<(Cycle, u32)>> = PriorityQueue::with_capacity(channels.len());
    let mut reader = Reader::new(source);
    loop {
        let stop = feed(&mut reader, &mut channels)?;
        progress(reader.requests);
        if stop != Stop::Full {
            channels.iter_mut().for_each(Channel::close_input);
        }
        for (id, channel) in (0..).zip(&channels) {
            wakeups.push(id, Reverse((channel.done_at(), id)));
        }
        while let Some((id, _)) = wakeups.pop() {
            let horizon = wakeups.peek().map_or(Cycle::MAX, |(_, Reverse((next, _)))| next + QUANTUM);
            if let Progress::Ahead(at) = channels[id as usize].advance(horizon, probe)? {
                wakeups.push(id, Reverse((at, id)));
            }
        }
        if stop == Stop::Full {
            continue;
        }
        let met = channels.iter().map(Channel::done_at).max().unwrap_or(0);
        for (id, channel) in (0..).zip(&mut channels) {
            channel.end_segments(probe);
            probe.channel_waits(id, channel.worked_until(), met);
            if stop == Stop::End {
                probe.channel_end(id, channel.worked_until());
            }
            channel.resume(met, probe);
        }
        if stop == Stop::End {
            probe.end(met);
            return Ok(met);
        }
        probe.sync(met);
    }
}

fn feed(reader: &mut Reader<'_>, channels: &mut [Channel<'_>]) -> Result<Stop> {
    while let Some(record) = reader.next()? {
        let channel = match &record {
            Record::Request(r) if r.op == Op::Sync => return Ok(Stop::Sync),
            Record::Request(r) => {
                reader.requests += u64::from(r.count);
                reader.source.header().geometry.channel_of(r.addr)
            }
            Record::Segment(s) => s.channel,
            Record::Mark(m) => m.channel,
        };
        if channels[channel as usize].give(record) >= WAITING {
            return Ok(Stop::Full);
        }
    }
    Ok(Stop::End)
}
