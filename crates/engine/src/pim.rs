//! The PIM controller: channels that meet at syncs, each at its own pace between them.

use super::channel::{Advance, PimChannel};
use super::probe::{Opener, Probe};
use super::replay_cache::pim::PimReplay;
use super::{RecordReader, Stop};
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_trace::Record;
use priority_queue::PriorityQueue;
use std::cmp::Reverse;

/// Records of one channel that wait at most; a channel that has this many runs before more are read.
const WAITING: usize = 4096;
/// Records of all channels that are read before the channels run again: what they take, not how many stacks there are,
/// is the memory of a run.
const READ: usize = 1 << 18;
/// Cycles that one channel may run ahead of the next.
const QUANTUM: Cycle = 4096;
/// Cycles that the last channel at work runs on between two looks at the cancel token.
const BREATH: Cycle = 1 << 16;

/// Replays a trace.
pub fn run<P: Probe>(
    system: &System,
    mut reader: RecordReader<'_>,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    let device = &system.device;
    let mut channels: Vec<PimChannel<'_>> =
        (0..device.geometry.channels).map(|id| PimChannel::new(system, id)).collect();
    if !reader.packed {
        channels.iter_mut().for_each(PimChannel::chooses_each);
    }
    let mut wakeups: PriorityQueue<u32, Reverse<(Cycle, u32)>> = PriorityQueue::with_capacity(channels.len());
    let mut replay = PimReplay::new(system);
    let mut fresh = true;
    loop {
        if std::mem::take(&mut fresh) && reader.takes_runs() {
            replay.run(&mut reader, &mut channels, probe, progress)?;
            if replay.is_off() {
                reader.stop_packing();
            }
        }
        let stop = feed(&mut reader, &mut channels)?;
        progress(reader.requests);
        if stop != Stop::Full {
            channels.iter_mut().for_each(PimChannel::close_input);
        }
        for (id, channel) in (0..).zip(&channels) {
            wakeups.push(id, Reverse((channel.done_at(), id)));
        }
        while let Some((id, Reverse((at, _)))) = wakeups.pop() {
            reader.cancel.check()?;
            let horizon = wakeups.peek().map_or(at.saturating_add(BREATH), |(_, Reverse((next, _)))| next + QUANTUM);
            if let Advance::Ahead(at) = channels[id as usize].advance(horizon, probe)? {
                wakeups.push(id, Reverse((at, id)));
            }
        }
        if stop == Stop::Full {
            continue;
        }
        let met = channels.iter().map(PimChannel::done_at).max().unwrap_or(0);
        for (id, channel) in (0..).zip(&mut channels) {
            channel.end_segments(probe);
            probe.channel_waits(id, channel.worked_until(), met);
            if stop == Stop::End {
                probe.channel_end(id, channel.worked_until());
            }
            if let Some(first) = channel.requests().filter(|_| stop == Stop::Sync) {
                // A refresh that a channel without work had may be later than the meeting.
                probe.epoch(id, met.max(channel.now()), Opener::Sync, first);
            }
            channel.resume(met, probe);
        }
        if stop == Stop::End {
            probe.end(met);
            return Ok(met);
        }
        probe.sync(met);
        fresh = true;
    }
}

fn feed(reader: &mut RecordReader<'_>, channels: &mut [PimChannel<'_>]) -> Result<Stop> {
    for _ in 0..READ {
        let Some(record) = reader.next()? else { return Ok(Stop::End) };
        let channel = match &record {
            Record::Request(r) if r.op == Op::Sync => return Ok(Stop::Sync),
            Record::Request(r) => {
                reader.requests += u64::from(r.count);
                reader.geometry.channel_of(r.addr)
            }
            Record::Segment(s) => s.channel,
            Record::Mark(m) => m.channel,
            Record::Arrival(a) => a.channel,
        };
        if channels[channel as usize].give(record) >= WAITING {
            return Ok(Stop::Full);
        }
    }
    Ok(Stop::Full)
}
