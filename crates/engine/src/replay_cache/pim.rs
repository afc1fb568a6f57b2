//! The replay cache of the PIM controller, channel by channel: each has its own pace, so each has its own place in the table.
//! Neighbouring channels that are at the same place are looked up as one group, until they are asked for different things.

use super::chunk::{self, CanonicalChunk, Chunk};
use super::groups::{ChannelGroup, merge, split};
use super::interval::{CachedInterval, GroupEvents, Occurrence, Recorder};
use super::table::{ChunkOutcome, Cursor, GroupedChannels, ReplayCache};
use super::{Cacheable, Milestones, NOW, canonicalise, restore};
use crate::RecordReader;
use crate::channel::{Advance, PimChannel};
use crate::probe::Probe;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::{Due, System};
use pimattn_core::units::Cycle;
use pimattn_trace::{ChannelRun, PackedRecord, Record};
use std::ops::Range;

/// Where the channels of a group are.
#[derive(Debug, Clone, PartialEq)]
struct GroupPlace {
    cursor: Cursor,
    /// As of [`Milestones`].
    worked: Cycle,
    done: Cycle,
}

/// The replay cache of a run of the PIM controller.
pub(crate) struct PimReplay<'d> {
    system: &'d System,
    cache: ReplayCache<PimChannel<'d>>,
    canonical: CanonicalChunk,
    chunk: Vec<ChannelRun>,
    /// The runs of the chunk as channel 0 would have them, with the channels that have them.
    runs: Vec<(Range<u32>, ChannelRun)>,
    off: bool,
}

impl<'d> PimReplay<'d> {
    /// An empty cache.
    pub fn new(system: &'d System) -> Self {
        PimReplay {
            system,
            cache: ReplayCache::new(),
            canonical: CanonicalChunk::new(&system.device.geometry),
            chunk: Vec::new(),
            runs: Vec::new(),
            // A row that closes by itself may do so after the end of a chunk, which the cache knows nothing of.
            off: PimChannel::new(system, 0).closes_alone(),
        }
    }

    /// Whether nothing is looked up any more.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Takes the channels past the chunks that come next, as far as what comes are chunks.
    pub fn run<P: Probe>(
        &mut self,
        reader: &mut RecordReader<'_>,
        channels: &mut [PimChannel<'d>],
        probe: &mut P,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let geometry = &self.system.device.geometry;
        let simple = |op: Op| !matches!(op, Op::Ld | Op::St | Op::Host | Op::Sync);
        let mut groups: Option<Vec<ChannelGroup<GroupPlace>>> = None;
        // A channel that has had a segment is not blank again.
        self.off |= channels.iter().any(PimChannel::has_had_segments);
        while !self.off && chunk::fill(reader, &mut self.chunk, simple)? {
            if groups.is_none() {
                groups = self.enter(channels);
            }
            let Some(groups) = &mut groups else {
                self.off = true;
                break;
            };
            reader.requests += self.chunk.iter().map(ChannelRun::requests).sum::<u64>();
            progress(reader.requests);
            let to_first = |run: &ChannelRun| {
                let own = ChannelRun { request: run.to_channel(geometry, 0), channels: 1 };
                (run.channels_on(geometry), own)
            };
            self.runs.clear();
            self.runs.extend(self.chunk.iter().map(to_first));
            split(groups, self.runs.iter().map(|(channels, _)| channels.clone()));
            let past = groups.iter_mut().position(|group| !self.step(group, probe)).unwrap_or(groups.len());
            if past < groups.len() {
                self.off = true;
                let rest = groups[past].channels.start;
                self.leave(groups, channels);
                // The groups before it are past the chunk; the other channels are to have it from the controller.
                for run in self.chunk.drain(..) {
                    for channel in run.channels_on(geometry).filter(|c| *c >= rest) {
                        channels[channel as usize].give(Record::Request(run.to_channel(geometry, channel)));
                    }
                }
                return Ok(());
            }
            self.chunk.clear();
            merge(groups, |a, b| a == b);
            self.off = self.cache.is_in_vain();
            if self.cache.is_full() {
                self.cache.forget(groups.iter_mut().map(|group| &mut group.common.cursor));
            }
        }
        reader.back.extend(self.chunk.drain(..).rev().map(PackedRecord::Run));
        if let Some(groups) = groups {
            self.leave(&groups, channels);
        }
        Ok(())
    }

    /// Takes a group past the chunk. False if that cannot be, and then the group is where it was.
    fn step<P: Probe>(&mut self, group: &mut ChannelGroup<GroupPlace>, probe: &mut P) -> bool {
        let (first, place) = (group.channels.start, &mut group.common);
        let own = self.runs.iter().filter(|(channels, _)| channels.contains(&first)).map(|(_, own)| *own);
        self.canonical.begin(own, &place.cursor.names);
        if self.canonical.is_empty() {
            return true;
        }
        let system = self.system;
        let simulate =
            |state: &mut GroupedChannels<_>, chunk: &Chunk, due| simulate(system, &mut state[0].common, chunk, due);
        let refreshes = system.refreshes.as_ref();
        let Some((outcome, begin)) = self.cache.step(&mut place.cursor, &self.canonical, refreshes, simulate) else {
            return false;
        };
        let (names, geometry) = (self.canonical.names(), &system.device.geometry);
        let occurrence = Occurrence { begin, channels: group.channels.clone(), names, geometry };
        probe.cached_interval(&outcome.interval, &occurrence);
        if let Some(at) = outcome.interval.groups[0].done {
            place.worked = place.worked.max(begin + Cycle::from(at));
            place.done = place.done.max(place.worked);
        }
        true
    }

    /// The channels, each a group, at their places in the table; none where one is at work, or works for a segment.
    fn enter(&mut self, channels: &[PimChannel<'d>]) -> Option<Vec<ChannelGroup<GroupPlace>>> {
        let group = |(id, channel): (u32, &PimChannel<'d>)| {
            let Milestones { next_refresh, worked, done } = channel.milestones();
            let mut state = channel.is_blank().then(|| channel.clone())?;
            state.renumber(0);
            let names = canonicalise([&mut state], channel.now())?;
            let state = vec![ChannelGroup { channels: 0..1, common: state }];
            let cursor = self.cache.enter(state, channel.now(), next_refresh, names);
            Some(ChannelGroup { channels: id..id + 1, common: GroupPlace { cursor, worked, done } })
        };
        (0..).zip(channels).map(group).collect()
    }

    /// Puts the channels into the states that they have in the table.
    fn leave(&self, groups: &[ChannelGroup<GroupPlace>], channels: &mut [PimChannel<'d>]) {
        for ChannelGroup { channels: own, common: GroupPlace { cursor, worked, done } } in groups {
            let cached = &self.cache.state_of(cursor)[0].common;
            own.clone().for_each(|id| restore(&mut channels[id as usize], id, cached, cursor, (*worked, *done)));
        }
    }
}

/// Gives a channel in canonical form a chunk, and lets it work until it needs the next one. None where it ends in an error,
/// which the controller is to report, or has no canonical form afterwards.
fn simulate(
    system: &System,
    channel: &mut PimChannel<'_>,
    chunk: &Chunk,
    refresh: Option<Due>,
) -> Option<ChunkOutcome> {
    channel.set_milestones(Milestones { next_refresh: refresh, ..Milestones::default() });
    for run in chunk {
        channel.give(Record::Request(run.request));
    }
    let mut recorder = Recorder::new(NOW);
    let advance = channel.advance(Cycle::MAX, &mut recorder).ok()?;
    if advance != Advance::Starved || !recorder.complete {
        return None;
    }
    let cycles = channel.now() - NOW;
    let after = channel.milestones();
    let next = after.next_refresh.zip(refresh).zip(system.refreshes.as_ref());
    let refreshes = next.map_or(0, |((next, before), all)| all.between(before, next));
    let done = match after.done {
        0 => None,
        at => Some(u32::try_from(at.saturating_sub(NOW)).ok()?),
    };
    let names = canonicalise([channel], NOW + cycles)?;
    // A refresh that falls due in the cycle of the last command may come before it.
    let undisturbed = refresh.is_none_or(|due| NOW + cycles < due.at);
    Some(ChunkOutcome {
        cycles,
        refreshes,
        holds_from: undisturbed.then_some(cycles + 1),
        names,
        interval: CachedInterval {
            id: 0,
            groups: vec![GroupEvents { channels: 0..1, events: recorder.events, done, cycles }],
        },
    })
}
