//! The attention of one layer at one decode step, on one stack: AttAcc's schedule, replayed.
//!
//! Every step is a run of its own, from cycle 0 and closed banks, as in the references. So two steps whose schedules ask
//! for the same take the same, and [`Layers`] replays each schedule once. Nothing is sampled or interpolated.
//!
//! Where the channels work in lockstep ([`Attention::is_in_lockstep`]) the replay of one of them is that of all: the one
//! stream of the compat controller offers each request to every channel with a head before the next request, channels
//! in the same state take it or refuse it alike, and so they stay alike; the faithful controller has them independent.
//! Channels without a head get barriers and refreshes only, and are never the last to be done. [`replay`] replays all
//! channels, and is what the short cut must equal.

mod feed;

use crate::attacc::{Attention, Schedule};
use crate::engine;
use crate::error::Result;
use crate::spec::System;
use crate::stats::Counters;
use crate::stats::energy::Energy;
use crate::stats::tally::Tally;
use crate::units::Cycle;
use feed::OneChannel;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a layer's attention takes on a stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Cycles until the last result is there.
    pub cycles: Cycle,
    /// Commands and requests of all channels.
    pub counters: Counters,
}

impl Layer {
    /// Energy of the stack, by the system's model.
    pub fn energy(&self, system: &System) -> Energy {
        let channel_cycles = self.cycles * u64::from(system.device.geometry.channels);
        Energy::of(&self.counters, channel_cycles, &system.device, system.energy)
    }

    /// Time in ns.
    pub fn ns(&self, system: &System) -> f64 {
        system.device.clock.ns(self.cycles)
    }
}

/// Replays a layer's attention on all channels.
///
/// # Errors
/// When the attention makes no sense on the device, or the system cannot replay it.
pub fn replay(system: &System, attention: &Attention) -> Result<Layer> {
    let schedule = Schedule::new(*attention, system.device.geometry)?;
    let mut tally = Tally::new(&system.device);
    let cycles = feed::streamed(&schedule, |source| engine::run(system, source, &mut tally, &mut |_| {}))?;
    Ok(Layer { cycles, counters: tally.total() })
}

/// What was replayed of layers that share a schedule, but for the number of their heads if they are in lockstep.
struct Replayed {
    cycles: Cycle,
    /// All channels; or, in lockstep, one that has a head.
    busy: Counters,
    /// In lockstep, a channel without a head.
    idle: Option<Counters>,
}

impl Replayed {
    fn new(system: &System, attention: &Attention) -> Result<Self> {
        if !attention.is_in_lockstep(&system.device.geometry) {
            let Layer { cycles, counters } = replay(system, attention)?;
            return Ok(Replayed { cycles, busy: counters, idle: None });
        }
        let schedule = Schedule::new(*attention, system.device.geometry)?;
        let mut tally = Tally::new(&system.device);
        let cycles = engine::run(system, &mut OneChannel::of(&schedule)?, &mut tally, &mut |_| {})?;
        let mut channels = tally.channels.into_iter();
        let mut next = || channels.next().unwrap_or_default();
        Ok(Replayed { cycles, busy: next(), idle: Some(next()) })
    }

    fn layer(&self, heads: u32, channels: u32) -> Layer {
        let Some(idle) = &self.idle else {
            return Layer { cycles: self.cycles, counters: self.busy.clone() };
        };
        let mut counters = Counters::default();
        counters.add_times(&self.busy, heads.into());
        counters.add_times(idle, (channels - heads).into());
        Layer { cycles: self.cycles, counters }
    }
}

/// The attention of layers on a system's stacks, each schedule replayed once.
pub struct Layers<'s> {
    system: &'s System,
    known: BTreeMap<Attention, Replayed>,
}

impl<'s> Layers<'s> {
    /// Nothing replayed yet.
    pub fn new(system: &'s System) -> Self {
        Layers { system, known: BTreeMap::new() }
    }

    /// Schedules replayed so far.
    pub fn replays(&self) -> usize {
        self.known.len()
    }

    /// Replays, several at a time, what is not known of these. `progress` hears how many replays of how many are done.
    ///
    /// # Errors
    /// As [`Layers::layer`].
    pub fn learn(
        &mut self,
        wanted: impl IntoIterator<Item = Attention>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let keys = wanted.into_iter().map(|a| self.key(a)).collect::<Result<BTreeSet<_>>>()?;
        let mut missing: Vec<Attention> = keys.into_iter().filter(|k| !self.known.contains_key(k)).collect();
        // The longest first, so that no processor is left with one of them at the end.
        missing.sort_by_key(|a| std::cmp::Reverse((a.clustering, u64::from(a.heads) * a.attended())));
        let (done, all) = (AtomicU64::new(0), missing.len() as u64);
        let replayed = missing.par_iter().with_max_len(1).map(|attention| {
            let replayed = Replayed::new(self.system, attention)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            Ok((*attention, replayed))
        });
        let replayed = replayed.collect::<Result<Vec<_>>>()?;
        self.known.extend(replayed);
        Ok(())
    }

    /// What a layer takes; replayed here and now if it is not known.
    ///
    /// # Errors
    /// When the attention makes no sense on the device, or the system cannot replay it.
    pub fn layer(&mut self, attention: Attention) -> Result<Layer> {
        let key = self.key(attention)?;
        if !self.known.contains_key(&key) {
            self.known.insert(key, Replayed::new(self.system, &key)?);
        }
        Ok(self.known[&key].layer(attention.heads, self.system.device.geometry.channels))
    }

    /// One attention for all that one replay stands for.
    fn key(&self, attention: Attention) -> Result<Attention> {
        let geometry = &self.system.device.geometry;
        let normal = attention.normal_form(geometry)?;
        Ok(if normal.is_in_lockstep(geometry) { Attention { heads: 1, ..normal } } else { normal })
    }
}
