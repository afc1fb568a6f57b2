//! Work that recurs, with all channels as one: the one stream ties them together.
//!
//! Neighbouring channels in the same state that a chunk asks for the same stay in the same state: the stream offers each
//! request of a volley to one after the other, with nothing between, and they take it or refuse it alike. So they are
//! simulated once, as a [`ChannelGroup`]. Where a chunk asks only some of them, the group is split; groups that have become the
//! same again are one.

use super::Frontend;
use super::controller::CompatController;
use crate::memo::chunk::{self, Chunk, Renaming};
use crate::memo::shift::{Names, Shift};
use crate::memo::stretch::{Part, Place, Recorder, Stretch};
use crate::memo::{Kernel, Lane, Memo, NOW, Outcome, mix};
use crate::probe::Probe;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, Due, Refreshes};
use pimattn_core::units::Cycle;
use pimattn_trace::{Item, Volley};
use std::ops::Range;

/// Channels in the same state.
#[derive(Clone)]
struct ChannelGroup<'d> {
    channels: Range<u32>,
    /// The first of them, by the name of channel 0.
    controller: CompatController<'d>,
}

/// What is simulated in one: all channels, ahead of a cycle's requests.
struct Together<'d> {
    device: &'d Device,
    patience: Cycle,
}

/// How far a chunk was sent.
struct Sent {
    volley: usize,
    round: u32,
    group: usize,
    /// The groups that the volley is for.
    groups: Range<usize>,
}

impl<'d> Together<'d> {
    /// Lets groups be such that every volley is for all channels of a group or for none.
    fn split(&self, groups: &mut Vec<ChannelGroup<'d>>, chunk: &Chunk) {
        for volley in chunk {
            let channels = volley.channels_on(&self.device.geometry);
            for at in [channels.start, channels.end] {
                if let Some(i) = groups.iter().position(|g| g.channels.start < at && at < g.channels.end) {
                    let mut behind = groups[i].clone();
                    (groups[i].channels.end, behind.channels.start) = (at, at);
                    groups.insert(i + 1, behind);
                }
            }
        }
    }

    /// The groups that a volley is for.
    fn groups_of(&self, groups: &[ChannelGroup<'d>], volley: &Volley) -> Range<usize> {
        let channels = volley.channels_on(&self.device.geometry);
        let before = |at: u32| groups.partition_point(|g| g.channels.start < at);
        before(channels.start)..before(channels.end)
    }

    /// Sends until a request is refused. Whether all are sent; nothing where the controller knows no such request.
    fn send(
        &self,
        groups: &mut [ChannelGroup<'d>],
        chunk: &Chunk,
        sent: &mut Sent,
        now: Cycle,
        told: &mut [Recorder],
    ) -> Option<bool> {
        while let Some(volley) = chunk.get(sent.volley) {
            // Every group goes by the name of channel 0.
            let request = volley.to_channel(&self.device.geometry, 0);
            while sent.round < request.count {
                let addr = request.addr + u64::from(sent.round) * u64::from(request.stride);
                while sent.group < sent.groups.end {
                    let (group, told) = (&mut groups[sent.group], &mut told[sent.group]);
                    if !group.controller.offer(request.op, addr, now, told).ok()? {
                        return Some(false);
                    }
                    sent.group += 1;
                }
                sent.round += 1;
                sent.group = sent.groups.start;
            }
            sent.volley += 1;
            sent.begin(self, groups, chunk);
        }
        Some(true)
    }
}

impl Sent {
    fn begin(&mut self, together: &Together<'_>, groups: &[ChannelGroup<'_>], chunk: &Chunk) {
        self.groups = chunk.get(self.volley).map_or(0..0, |v| together.groups_of(groups, v));
        (self.round, self.group) = (0, self.groups.start);
    }
}

impl<'d> Kernel for Together<'d> {
    type State = Vec<ChannelGroup<'d>>;

    fn digest(state: &Self::State) -> u64 {
        let mut digest = state.len() as u64;
        for group in state {
            mix(&mut digest, group.channels.end.into());
            group.controller.digest(&mut digest);
        }
        digest
    }

    fn same(a: &Self::State, b: &Self::State) -> bool {
        let alike = |(a, b): (&ChannelGroup<'_>, &ChannelGroup<'_>)| {
            a.channels == b.channels && a.controller.same(&b.controller)
        };
        a.len() == b.len() && a.iter().zip(b).all(alike)
    }

    fn bytes(state: &Self::State) -> usize {
        state.iter().map(|g| g.controller.bytes()).sum()
    }

    fn run(&mut self, groups: &mut Self::State, chunk: &Chunk, refresh: Option<Due>) -> Option<Outcome> {
        let refresh = refresh.map(|due| due.at);
        self.split(groups, chunk);
        groups.iter_mut().for_each(|g| g.controller.set(refresh, 0));
        let mut told: Vec<Recorder> = groups.iter().map(|_| Recorder::new(NOW - 1)).collect();
        let mut sent = Sent { volley: 0, round: 0, group: 0, groups: 0..0 };
        sent.begin(self, groups, chunk);
        let mut now = NOW;
        while !self.send(groups, chunk, &mut sent, now, &mut told)? {
            let (mut wake, mut done) = (Cycle::MAX, NOW);
            for (group, told) in groups.iter_mut().zip(&mut told) {
                let controller = &mut group.controller;
                if controller.wake() <= now {
                    controller.tick(now, told);
                }
                wake = wake.min(controller.wake());
                done = done.max(controller.done_at());
            }
            // The plain engine says what is wrong.
            if wake == Cycle::MAX || now - done > self.patience {
                return None;
            }
            now = wake.max(now + 1);
        }
        let next = groups.first().and_then(|g| g.controller.next_refresh());
        let refreshes = next.zip(refresh).map_or(0, |(next, before)| (next - before) / self.device.nrefi);
        let cycles = now - NOW;
        if !told.iter().all(|t| t.complete) {
            return None;
        }
        let mut parts = Vec::new();
        for (group, told) in groups.iter().zip(told) {
            let done = group.controller.done_at();
            let done = (done > 0).then(|| (done + 1 - NOW) as u32);
            parts.push(Part { channels: group.channels.clone(), events: told.events, done, cycles });
        }
        let names = normal_form(groups, now)?;
        merge(groups);
        let holds_from = (refreshes == 0).then_some(cycles);
        Some(Outcome { cycles, refreshes, holds_from, names, stretch: Stretch { id: 0, parts } })
    }
}

/// Counts time from now, and numbers the names; none where that cannot be.
fn normal_form(groups: &mut [ChannelGroup<'_>], now: Cycle) -> Option<Names> {
    let mut names = Names::default();
    let mut shift = Shift::number(now, NOW, &mut names);
    for group in groups {
        group.controller.set(None, 0);
        group.controller.shift(&mut shift);
    }
    (!shift.failed).then_some(names)
}

/// Makes neighbours that are the same one group.
fn merge(groups: &mut Vec<ChannelGroup<'_>>) {
    groups.dedup_by(|next, group| {
        let same = group.controller.same(&next.controller);
        if same {
            group.channels.end = next.channels.end;
        }
        same
    });
}

/// Replays what recurs.
pub struct Recurring<'d> {
    device: &'d Device,
    refreshes: Option<Refreshes>,
    memo: Memo<Together<'d>>,
    renaming: Renaming,
    chunk: Vec<Volley>,
    off: bool,
}

impl<'d> Recurring<'d> {
    /// Nothing known yet.
    pub fn new(device: &'d Device, refreshes: Option<Refreshes>, patience: Cycle) -> Self {
        Recurring {
            device,
            refreshes,
            memo: Memo::new(Together { device, patience }),
            renaming: Renaming::new(&device.geometry),
            chunk: Vec::new(),
            off: false,
        }
    }

    /// Goes on, ahead of the requests of cycle `now`, as long as chunk follows chunk. Returns the cycle that it has come
    /// to, again ahead of its requests.
    pub fn run<P: Probe>(
        &mut self,
        frontend: &mut Frontend<'_>,
        channels: &mut [CompatController<'d>],
        now: Cycle,
        probe: &mut P,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Cycle> {
        let simple = |op: Op| op.in_attacc() && !matches!(op, Op::Ld | Op::St);
        let mut at: Option<(Lane, Vec<Cycle>)> = None;
        while !self.off && chunk::fill(&mut frontend.reader, &mut self.chunk, simple)? {
            if at.is_none() {
                at = self
                    .enter(channels, now)
                    .map(|lane| (lane, channels.iter().map(CompatController::done_at).collect()));
            }
            let Some((lane, done)) = &mut at else {
                self.off = true;
                break;
            };
            self.renaming.begin(self.chunk.iter().copied(), &lane.names);
            let Some((outcome, began, names)) = self.memo.step(lane, &self.renaming, self.refreshes.as_ref()) else {
                self.off = true;
                break;
            };
            let place =
                Place { begin: began - 1, channels: 0..channels.len() as u32, names, geometry: &self.device.geometry };
            probe.stretch(&outcome.stretch, &place);
            for part in &outcome.stretch.parts {
                if let Some(at) = part.done {
                    done[part.channels.start as usize..part.channels.end as usize].fill(place.begin + Cycle::from(at));
                }
            }
            frontend.sent += self.chunk.drain(..).map(|v| v.requests()).sum::<u64>();
            progress(frontend.sent);
            self.off = self.memo.is_in_vain();
            if self.memo.is_full() {
                self.memo.forget(std::iter::once(lane));
            }
        }
        let rest = self.chunk.drain(..).rev().map(Item::Volley);
        frontend.reader.back.extend(rest);
        let Some((lane, done)) = at else { return Ok(now) };
        self.leave(&lane, &done, channels);
        Ok(lane.now)
    }

    /// Channels in normal form; none where they are still at work, or for somebody.
    fn enter(&mut self, channels: &[CompatController<'d>], now: Cycle) -> Option<Lane> {
        let next_refresh = channels.first()?.next_refresh();
        if !channels.iter().all(|c| c.is_blank() && c.next_refresh() == next_refresh) {
            return None;
        }
        let group = |(id, channel): (u32, &CompatController<'d>)| {
            let mut controller = channel.clone();
            controller.renumber(0);
            ChannelGroup { channels: id..id + 1, controller }
        };
        let mut groups: Vec<_> = (0..).zip(channels).map(group).collect();
        let names = normal_form(&mut groups, now)?;
        merge(&mut groups);
        let next_refresh = next_refresh.map(|at| Due { at, turn: 0 });
        Some(self.memo.enter(groups, now, next_refresh, names))
    }

    /// Brings the channels to where the lane is.
    fn leave(&self, lane: &Lane, done: &[Cycle], channels: &mut [CompatController<'d>]) {
        let mut shift = Shift::resolve(NOW, lane.now, &lane.names);
        for group in self.memo.state_of(lane) {
            for id in group.channels.clone() {
                let channel = &mut channels[id as usize];
                *channel = group.controller.clone();
                channel.shift(&mut shift);
                channel.renumber(id);
                channel.set(lane.next_refresh.map(|due| due.at), done[id as usize]);
            }
        }
    }
}
