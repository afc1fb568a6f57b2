//! Work that recurs, channel by channel. Neighbouring channels that are in the same state at the same time are one
//! [`Convoy`], until they are asked for different things.

use crate::Reader;
use crate::channel::{Channel, Progress};
use crate::memo::chunk::{self, Chunk, Renaming};
use crate::memo::shift::{Names, Shift};
use crate::memo::stretch::{Part, Place, Recorder, Stretch};
use crate::memo::{Kernel, Lane, Memo, NOW, Outcome};
use crate::probe::Probe;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, Due, Refreshes, System};
use pimattn_core::units::Cycle;
use pimattn_trace::{Item, Record, Volley};
use std::ops::Range;

/// A channel, by the name of channel 0.
struct Alone<'d> {
    system: &'d System,
}

impl<'d> Kernel for Alone<'d> {
    type State = Channel<'d>;

    fn digest(state: &Channel<'d>) -> u64 {
        state.digest()
    }

    fn same(a: &Channel<'d>, b: &Channel<'d>) -> bool {
        a.same(b)
    }

    fn bytes(state: &Channel<'d>) -> usize {
        state.bytes()
    }

    fn run(&mut self, channel: &mut Channel<'d>, chunk: &Chunk, refresh: Option<Due>) -> Option<Outcome> {
        channel.set_refresh(refresh);
        channel.set_done(0, 0);
        for volley in chunk {
            channel.give(Record::Request(volley.request));
        }
        let mut told = Recorder::new(NOW);
        // The plain engine says what is wrong.
        let progress = channel.advance(Cycle::MAX, &mut told).ok()?;
        if progress != Progress::Starved || !told.complete {
            return None;
        }
        let cycles = channel.now() - NOW;
        let next = channel.next_refresh().zip(refresh).zip(self.system.refreshes.as_ref());
        let refreshes = next.map_or(0, |((next, before), all)| all.between(before, next));
        let done = match channel.done_at() {
            0 => None,
            at => Some(u32::try_from(at.saturating_sub(NOW)).ok()?),
        };
        let names = normal_form(channel)?;
        let undisturbed = refresh.is_none_or(|due| NOW + cycles < due.at);
        Some(Outcome {
            cycles,
            refreshes,
            holds_from: undisturbed.then_some(cycles + 1),
            names,
            stretch: Stretch { id: 0, parts: vec![Part { channels: 0..1, events: told.events, done, cycles }] },
        })
    }
}

/// Counts time from now, and numbers the names; none where that cannot be.
fn normal_form(channel: &mut Channel<'_>) -> Option<Names> {
    let mut names = Names::default();
    let mut shift = Shift::number(channel.now(), NOW, &mut names);
    channel.shift(&mut shift);
    channel.set_refresh(None);
    channel.set_done(0, 0);
    (!shift.failed).then_some(names)
}

/// Channels in the same state at the same time.
#[derive(Clone)]
struct Convoy {
    channels: Range<u32>,
    lane: Lane,
    /// As of [`Channel::worked_until`] and [`Channel::done_at`].
    worked: Cycle,
    done: Cycle,
}

/// Replays what recurs.
pub struct Recurring<'d> {
    device: &'d Device,
    refreshes: Option<Refreshes>,
    memo: Memo<Alone<'d>>,
    renaming: Renaming,
    chunk: Vec<Volley>,
    /// The same by the name of channel 0, with whom it is for.
    asked: Vec<(Range<u32>, Volley)>,
    off: bool,
}

impl<'d> Recurring<'d> {
    /// Nothing known yet.
    pub fn new(system: &'d System) -> Self {
        let device = &system.device;
        Recurring {
            device,
            refreshes: system.refreshes,
            memo: Memo::new(Alone { system }),
            renaming: Renaming::new(&device.geometry),
            chunk: Vec::new(),
            asked: Vec::new(),
            // Rows that close behind what is looked up are no part of it.
            off: Channel::new(system, 0).closes_alone(),
        }
    }

    /// Goes on as long as chunk follows chunk.
    pub fn run<P: Probe>(
        &mut self,
        reader: &mut Reader<'_>,
        channels: &mut [Channel<'d>],
        probe: &mut P,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let simple = |op: Op| !matches!(op, Op::Ld | Op::St | Op::Host | Op::Sync);
        let mut convoys: Option<Vec<Convoy>> = None;
        while !self.off && chunk::fill(reader, &mut self.chunk, simple)? {
            if convoys.is_none() {
                convoys = self.enter(channels);
            }
            let Some(convoys) = &mut convoys else {
                self.off = true;
                break;
            };
            reader.requests += self.chunk.iter().map(Volley::requests).sum::<u64>();
            progress(reader.requests);
            let geometry = &self.device.geometry;
            let asked = |v: &Volley| {
                let own = Volley { request: v.to_channel(geometry, 0), channels: 1 };
                (v.channels_on(geometry), own)
            };
            self.asked.clear();
            self.asked.extend(self.chunk.iter().map(asked));
            self.split(convoys);
            let done = convoys.iter_mut().position(|c| !self.step(c, probe)).unwrap_or(convoys.len());
            if done < convoys.len() {
                self.off = true;
                let behind = convoys[done].channels.start;
                self.leave(convoys, channels);
                // Those before have had the chunk.
                for volley in self.chunk.drain(..) {
                    for channel in volley.channels_on(geometry).filter(|c| *c >= behind) {
                        channels[channel as usize].give(Record::Request(volley.to_channel(geometry, channel)));
                    }
                }
                return Ok(());
            }
            self.chunk.clear();
            convoys.dedup_by(|next, convoy| {
                let same = (&convoy.lane, convoy.worked, convoy.done) == (&next.lane, next.worked, next.done);
                if same {
                    convoy.channels.end = next.channels.end;
                }
                same
            });
            self.off = self.memo.is_in_vain();
            if self.memo.is_full() {
                self.memo.forget(convoys.iter_mut().map(|c| &mut c.lane));
            }
        }
        reader.back.extend(self.chunk.drain(..).rev().map(Item::Volley));
        if let Some(convoys) = convoys {
            self.leave(&convoys, channels);
        }
        Ok(())
    }

    /// Lets a convoy have the chunk. Whether it could.
    fn step<P: Probe>(&mut self, convoy: &mut Convoy, probe: &mut P) -> bool {
        let (geometry, first) = (&self.device.geometry, convoy.channels.start);
        let own = self.asked.iter().filter(|(channels, _)| channels.contains(&first)).map(|(_, own)| *own);
        self.renaming.begin(own, &convoy.lane.names);
        if self.renaming.is_empty() {
            return true;
        }
        let Some((outcome, begin, names)) = self.memo.step(&mut convoy.lane, &self.renaming, self.refreshes.as_ref())
        else {
            return false;
        };
        probe.stretch(&outcome.stretch, &Place { begin, channels: convoy.channels.clone(), names, geometry });
        if let Some(at) = outcome.stretch.parts[0].done {
            convoy.worked = convoy.worked.max(begin + Cycle::from(at));
            convoy.done = convoy.done.max(convoy.worked);
        }
        true
    }

    /// Lets convoys be such that every volley is for all channels of a convoy or for none.
    fn split(&self, convoys: &mut Vec<Convoy>) {
        let all = self.device.geometry.channels;
        for (channels, _) in &self.asked {
            for at in [channels.start, channels.end].into_iter().filter(|at| *at > 0 && *at < all) {
                if let Some(i) = convoys.iter().position(|c| c.channels.start < at && at < c.channels.end) {
                    let mut behind = convoys[i].clone();
                    (convoys[i].channels.end, behind.channels.start) = (at, at);
                    convoys.insert(i + 1, behind);
                }
            }
        }
    }

    /// The channels in normal form; none where they are still at work, or for somebody.
    fn enter(&mut self, channels: &[Channel<'d>]) -> Option<Vec<Convoy>> {
        let convoy = |(id, channel): (u32, &Channel<'d>)| {
            let (now, next_refresh) = (channel.now(), channel.next_refresh());
            let (worked, done) = (channel.worked_until(), channel.done_at());
            let mut state = channel.is_blank().then(|| channel.clone())?;
            state.renumber(0);
            let names = normal_form(&mut state)?;
            Some(Convoy { channels: id..id + 1, lane: self.memo.enter(state, now, next_refresh, names), worked, done })
        };
        (0..).zip(channels).map(convoy).collect()
    }

    /// Brings the channels to where the convoys are.
    fn leave(&self, convoys: &[Convoy], channels: &mut [Channel<'d>]) {
        for Convoy { channels: own, lane, worked, done } in convoys {
            let mut shift = Shift::resolve(NOW, lane.now, &lane.names);
            for id in own.clone() {
                let channel = &mut channels[id as usize];
                *channel = self.memo.state_of(lane).clone();
                channel.shift(&mut shift);
                channel.renumber(id);
                channel.set_refresh(lane.next_refresh);
                channel.set_done(*worked, *done);
            }
        }
    }
}
