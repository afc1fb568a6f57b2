//! The replay cache of the compat controller, all channels as one: the reference's single stream of requests ties them
//! together.
//!
//! Neighbouring channels in the same state that a chunk asks for the same stay in the same state, for the stream offers each
//! request of a run to one after the other, with nothing between, and they take it or refuse it alike. So a group of them is
//! simulated as one. Where a chunk asks only some of them, the group is split; groups that have become the same are merged.

use super::chunk::{self, CanonicalChunk, Chunk};
use super::groups::{ChannelGroup, merge, split};
use super::interval::{CachedInterval, GroupEvents, Occurrence, Recorder};
use super::table::{ChunkOutcome, Cursor, GroupedChannels, ReplayCache};
use super::{Cacheable, Milestones, NOW, canonicalise, restore};
use crate::compat::Frontend;
use crate::compat::controller::CompatController;
use crate::probe::Probe;
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, Due, Refreshes};
use pimattn_core::units::Cycle;
use pimattn_trace::{ChannelRun, PackedRecord};
use std::ops::Range;

/// The replay cache of a run of the compat controller.
pub(crate) struct CompatReplay<'d> {
    device: &'d Device,
    refreshes: Option<Refreshes>,
    /// Cycles without a completed request after which channels are taken to be in a livelock.
    patience: Cycle,
    cache: ReplayCache<CompatController<'d>>,
    canonical: CanonicalChunk,
    chunk: Vec<ChannelRun>,
    off: bool,
}

impl<'d> CompatReplay<'d> {
    /// An empty cache.
    pub fn new(device: &'d Device, refreshes: Option<Refreshes>, patience: Cycle) -> Self {
        CompatReplay {
            device,
            refreshes,
            patience,
            cache: ReplayCache::new(),
            canonical: CanonicalChunk::new(&device.geometry),
            chunk: Vec::new(),
            off: false,
        }
    }

    /// Takes the channels past the chunks that come next, as far as what comes are chunks: from ahead of the requests of
    /// cycle `now` to ahead of those of the cycle that it returns.
    pub fn run<P: Probe>(
        &mut self,
        frontend: &mut Frontend<'_>,
        channels: &mut [CompatController<'d>],
        now: Cycle,
        probe: &mut P,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Cycle> {
        let simple = |op: Op| op.in_attacc() && !matches!(op, Op::Ld | Op::St);
        let mut at: Option<(Cursor, Vec<Cycle>)> = None;
        while !self.off && chunk::fill(&mut frontend.reader, &mut self.chunk, simple)? {
            if at.is_none() {
                let done = || channels.iter().map(CompatController::done_at).collect();
                at = self.enter(channels, now).map(|cursor| (cursor, done()));
            }
            let Some((cursor, done)) = &mut at else {
                self.off = true;
                break;
            };
            self.canonical.begin(self.chunk.iter().copied(), &cursor.names);
            let (device, patience) = (self.device, self.patience);
            let simulate =
                |groups: &mut _, chunk: &Chunk, due: Option<Due>| simulate(device, patience, groups, chunk, due);
            let Some((outcome, began)) = self.cache.step(cursor, &self.canonical, self.refreshes.as_ref(), simulate)
            else {
                self.off = true;
                break;
            };
            let occurrence = Occurrence {
                begin: began - 1,
                channels: 0..channels.len() as u32,
                names: self.canonical.names(),
                geometry: &self.device.geometry,
            };
            probe.cached_interval(&outcome.interval, &occurrence);
            for group in &outcome.interval.groups {
                if let Some(at) = group.done {
                    let own = group.channels.start as usize..group.channels.end as usize;
                    done[own].fill(occurrence.begin + Cycle::from(at));
                }
            }
            frontend.sent += self.chunk.drain(..).map(|run| run.requests()).sum::<u64>();
            progress(frontend.sent);
            self.off = self.cache.is_in_vain();
            if self.cache.is_full() {
                self.cache.forget(std::iter::once(cursor));
            }
        }
        frontend.reader.back.extend(self.chunk.drain(..).rev().map(PackedRecord::Run));
        let Some((cursor, done)) = at else { return Ok(now) };
        self.leave(&cursor, &done, channels);
        Ok(cursor.now)
    }

    /// The place of all channels in the table; none where one is at work, or works for a segment.
    fn enter(&mut self, channels: &[CompatController<'d>], now: Cycle) -> Option<Cursor> {
        let next_refresh = channels.first()?.milestones().next_refresh;
        if !channels.iter().all(|c| c.is_blank() && c.milestones().next_refresh == next_refresh) {
            return None;
        }
        let group = |(id, channel): (u32, &CompatController<'d>)| {
            let mut controller = channel.clone();
            controller.renumber(0);
            ChannelGroup { channels: id..id + 1, common: controller }
        };
        let mut groups: Vec<_> = (0..).zip(channels).map(group).collect();
        let names = canonicalise(groups.iter_mut().map(|group| &mut group.common), now)?;
        merge(&mut groups, CompatController::equals);
        Some(self.cache.enter(groups, now, next_refresh, names))
    }

    /// Puts the channels into the states that they have in the table.
    fn leave(&self, cursor: &Cursor, done: &[Cycle], channels: &mut [CompatController<'d>]) {
        for ChannelGroup { channels: own, common } in self.cache.state_of(cursor) {
            for id in own.clone() {
                let done = done[id as usize];
                restore(&mut channels[id as usize], id, common, cursor, (done, done));
            }
        }
    }
}

/// Gives channels in canonical form a chunk, and lets cycles pass until the last request is sent. None where that ends in an
/// error, which the controller is to report, or the channels have no canonical form afterwards.
fn simulate(
    device: &Device,
    patience: Cycle,
    groups: &mut GroupedChannels<CompatController<'_>>,
    chunk: &Chunk,
    refresh: Option<Due>,
) -> Option<ChunkOutcome> {
    split(groups, chunk.iter().map(|run| run.channels_on(&device.geometry)));
    let before = Milestones { next_refresh: refresh, ..Milestones::default() };
    groups.iter_mut().for_each(|group| group.common.set_milestones(before));
    let mut recorders: Vec<Recorder> = groups.iter().map(|_| Recorder::new(NOW - 1)).collect();
    let mut position = SendPosition::at_run(0, groups, chunk, &device.geometry);
    let mut now = NOW;
    while !position.send(groups, chunk, &device.geometry, now, &mut recorders)? {
        let (mut wake, mut done) = (Cycle::MAX, NOW);
        for (group, recorder) in groups.iter_mut().zip(&mut recorders) {
            let controller = &mut group.common;
            if controller.wake() <= now {
                controller.tick(now, recorder);
            }
            wake = wake.min(controller.wake());
            done = done.max(controller.done_at());
        }
        if wake == Cycle::MAX || now - done > patience {
            return None;
        }
        now = wake.max(now + 1);
    }
    let next = groups.first().and_then(|group| group.common.milestones().next_refresh);
    let refreshes = next.zip(refresh).map_or(0, |(next, before)| (next.at - before.at) / device.nrefi);
    let cycles = now - NOW;
    if !recorders.iter().all(|recorder| recorder.complete) {
        return None;
    }
    let mut events = Vec::new();
    for (group, recorder) in groups.iter().zip(recorders) {
        let done = group.common.done_at();
        // The reference counts cycles from 1, what probes are told from 0.
        let done = (done > 0).then(|| (done + 1 - NOW) as u32);
        events.push(GroupEvents { channels: group.channels.clone(), events: recorder.events, done, cycles });
    }
    let names = canonicalise(groups.iter_mut().map(|group| &mut group.common), now)?;
    merge(groups, CompatController::equals);
    let holds_from = (refreshes == 0).then_some(cycles);
    Some(ChunkOutcome { cycles, refreshes, holds_from, names, interval: CachedInterval { id: 0, groups: events } })
}

/// How far the stream has sent a chunk: run by run, round by round, group by group.
struct SendPosition {
    run: usize,
    round: u32,
    group: usize,
    /// The groups that have the run.
    groups: Range<usize>,
}

impl SendPosition {
    /// At the first request of a run.
    fn at_run<C>(run: usize, groups: &[ChannelGroup<C>], chunk: &Chunk, geometry: &Geometry) -> Self {
        let groups = chunk.get(run).map_or(0..0, |run| {
            let channels = run.channels_on(geometry);
            let first_from = |at: u32| groups.partition_point(|g| g.channels.start < at);
            first_from(channels.start)..first_from(channels.end)
        });
        SendPosition { run, round: 0, group: groups.start, groups }
    }

    /// Sends requests until one is refused. Whether all are sent; none where the controller knows no such request.
    fn send(
        &mut self,
        groups: &mut [ChannelGroup<CompatController<'_>>],
        chunk: &Chunk,
        geometry: &Geometry,
        now: Cycle,
        recorders: &mut [Recorder],
    ) -> Option<bool> {
        while let Some(run) = chunk.get(self.run) {
            // Every group is simulated as channel 0.
            let request = run.to_channel(geometry, 0);
            while self.round < request.count {
                let addr = request.addr + u64::from(self.round) * u64::from(request.stride);
                while self.group < self.groups.end {
                    let (group, recorder) = (&mut groups[self.group], &mut recorders[self.group]);
                    if !group.common.offer(request.op, addr, now, recorder).ok()? {
                        return Some(false);
                    }
                    self.group += 1;
                }
                self.round += 1;
                self.group = self.groups.start;
            }
            *self = SendPosition::at_run(self.run + 1, groups, chunk, geometry);
        }
        Some(true)
    }
}
