//! The attention of one layer at one decode step, on one stack: AttAcc's schedule, replayed.
//!
//! Every step is a run of its own, from cycle 0 and closed banks, as in the references. So two steps whose schedules ask
//! for the same take the same, and [`Layers`] replays each schedule once. Nothing is sampled or interpolated.
//!
//! Where channels work in lockstep ([`Attention::is_in_lockstep`]) the replay of one of those with as many heads is that
//! of all of them: the one stream of the compat controller offers each request to every one of them before the next
//! request, channels in the same state take it or refuse it alike, and so they stay alike; the PIM controller has
//! them independent. Channels without a head get barriers and refreshes only, and are never the last to be done.
//! [`replay()`] replays all channels, and is what the short cut must equal.

mod feed;

use feed::SomeChannels;
use pimattn_attacc::{Attention, AttentionSchedule, Form};
use pimattn_core::addr::Geometry;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_stats::energy::Energy;
use pimattn_stats::tally::ChannelTally;
use pimattn_stats::{Counters, replay};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a layer's attention takes on a stack.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerAttention {
    /// Cycles until the last result is there.
    pub cycles: Cycle,
    /// Commands and requests of all channels.
    pub counters: Counters,
}

impl LayerAttention {
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
pub fn replay(system: &System, form: Form, attention: &Attention) -> Result<LayerAttention> {
    replay_until(&Cancel::new(), system, form, attention)
}

fn replay_until(cancel: &Cancel, system: &System, form: Form, attention: &Attention) -> Result<LayerAttention> {
    let schedule = AttentionSchedule::of(form, *attention, system.device.geometry)?;
    let mut tally = ChannelTally::new(&system.device);
    let cycles = feed::streamed(cancel, &schedule, |source| replay::tally(cancel, system, source, &mut tally))?;
    Ok(LayerAttention { cycles, counters: tally.total() })
}

/// What was replayed of layers that share a schedule, but for the number of their heads if they are in lockstep.
enum ReplayedLayers {
    /// All channels.
    All(Box<LayerAttention>),
    /// In lockstep: the cycles, and a channel of each of [`Attention::groups`].
    Groups(Cycle, Box<[Counters; 2]>),
}

impl ReplayedLayers {
    fn new(cancel: &Cancel, system: &System, form: Form, attention: &Attention) -> Result<Self> {
        let geometry = &system.device.geometry;
        if !attention.is_in_lockstep(form, geometry) {
            return Ok(ReplayedLayers::All(Box::new(replay_until(cancel, system, form, attention)?)));
        }
        let firsts = attention.groups(geometry).map(|g| g.channels.start);
        let schedule = AttentionSchedule::of(form, *attention, *geometry)?;
        let mut tally = ChannelTally::new(&system.device);
        let mut source = SomeChannels::of(cancel, &schedule, firsts.to_vec())?;
        let cycles = replay::tally(cancel, system, &mut source, &mut tally)?;
        let counted = |channel: u32| tally.channels.get(channel as usize).cloned().unwrap_or_default();
        Ok(ReplayedLayers::Groups(cycles, Box::new(firsts.map(counted))))
    }

    /// The layer of this attention, which may have another number of heads than what was replayed, of as many rounds.
    fn layer(&self, attention: &Attention, geometry: &Geometry) -> LayerAttention {
        match self {
            ReplayedLayers::All(layer) => LayerAttention::clone(layer),
            ReplayedLayers::Groups(cycles, counted) => {
                let mut counters = Counters::default();
                for (group, counted) in of_as_many_rounds(attention, geometry).into_iter().zip(counted.iter()) {
                    counters.add_times(counted, group);
                }
                LayerAttention { cycles: *cycles, counters }
            }
        }
    }
}

/// Channels with as many heads as there are rounds, and with one head less.
fn of_as_many_rounds(attention: &Attention, geometry: &Geometry) -> [u64; 2] {
    let [more, rest] = attention.groups(geometry).map(|g| u64::from(g.channels.end - g.channels.start));
    if more == 0 { [rest, 0] } else { [more, rest] }
}

/// The attention of layers on a system's stacks, each schedule replayed once.
pub struct Layers<'s> {
    cancel: Cancel,
    system: &'s System,
    known: BTreeMap<(Form, Attention), ReplayedLayers>,
}

impl<'s> Layers<'s> {
    /// Nothing replayed yet.
    pub fn new(system: &'s System) -> Self {
        Layers { cancel: Cancel::new(), system, known: BTreeMap::new() }
    }

    /// These layers, whose replays end with an error once `cancel` is requested.
    pub fn until(self, cancel: &Cancel) -> Self {
        Layers { cancel: cancel.clone(), ..self }
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
        form: Form,
        wanted: impl IntoIterator<Item = Attention>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let keys = wanted.into_iter().map(|a| self.key(form, a)).collect::<Result<BTreeSet<_>>>()?;
        let unknown = |k: &Attention| !self.known.contains_key(&(form, *k));
        let mut missing: Vec<Attention> = keys.into_iter().filter(unknown).collect();
        // The longest first, so that no processor is left with one of them at the end.
        missing.sort_by_key(|a| std::cmp::Reverse((a.clustering, u64::from(a.heads) * a.attended(form))));
        let (done, all) = (AtomicU64::new(0), missing.len() as u64);
        let replayed = missing.par_iter().with_max_len(1).map(|attention| {
            let replayed = ReplayedLayers::new(&self.cancel, self.system, form, attention)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            Ok(((form, *attention), replayed))
        });
        let replayed = replayed.collect::<Result<Vec<_>>>()?;
        self.known.extend(replayed);
        Ok(())
    }

    /// What a layer takes; replayed here and now if it is not known.
    ///
    /// # Errors
    /// When the attention makes no sense on the device, or the system cannot replay it.
    pub fn layer(&mut self, form: Form, attention: Attention) -> Result<LayerAttention> {
        let key = (form, self.key(form, attention)?);
        if !self.known.contains_key(&key) {
            self.known.insert(key, ReplayedLayers::new(&self.cancel, self.system, form, &key.1)?);
        }
        Ok(self.known[&key].layer(&attention, &self.system.device.geometry))
    }

    /// One attention for all that one replay stands for: in lockstep, of as many rounds, that with the fewest heads. If
    /// all channels have several heads, nobody with one less can hold them up, and it stands for itself.
    fn key(&self, form: Form, attention: Attention) -> Result<Attention> {
        let geometry = &self.system.device.geometry;
        let normal = attention.normal_form(form, geometry)?;
        let rounds = normal.rounds(geometry);
        let alone = rounds > 1 && normal.heads.is_multiple_of(geometry.channels);
        if alone || !normal.is_in_lockstep(form, geometry) {
            return Ok(normal);
        }
        Ok(Attention { heads: (rounds - 1) * geometry.channels + 1, ..normal })
    }
}
