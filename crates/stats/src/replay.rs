//! Replays watched by the probes of this crate. The engine is compiled for each probe: here, once, and not where it is
//! asked for.

use super::log::LogProbe;
use super::tally::ChannelTally;
use super::timeline::chrome::ChromeTimeline;
use super::timeline::ram2bin::Ram2bin;
use super::{Collector, Steps};
use pimattn_core::addr::Address;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::fsio::Output;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandEvent, Opener, Probe};
use pimattn_engine::{Engine, run_until};
use pimattn_trace::{Phase, Segment, Source};

/// Replays a trace into the tables of a run. Returns the cycle at which it ended; `progress` hears of the requests done.
///
/// # Errors
/// As [`run_until`].
pub fn collect(
    cancel: &Cancel,
    engine: Engine,
    system: &System,
    source: &mut dyn Source,
    collector: &mut Collector<&mut dyn Steps>,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    run_until(cancel, engine, system, source, collector, progress)
}

/// As [`collect`], and shows every event to the watchers.
///
/// # Errors
/// As [`run_until`].
pub fn collect_and_watch(
    cancel: &Cancel,
    engine: Engine,
    system: &System,
    source: &mut dyn Source,
    probes: &mut (Collector<&mut dyn Steps>, Watchers<'_>),
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    run_until(cancel, engine, system, source, probes, progress)
}

/// Probes that write what they hear to files: any of them, so that the engine is compiled for all of them at once.
#[derive(Default)]
pub struct Watchers<'s> {
    /// A log of commands.
    pub log: Option<LogProbe<Output>>,
    /// Timelines of phases and counters.
    pub chrome: Vec<ChromeTimeline<'s>>,
    /// Timelines of commands.
    pub ram2bin: Vec<Ram2bin<'s>>,
}

impl Watchers<'_> {
    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.log.is_none() && self.chrome.is_empty() && self.ram2bin.is_empty()
    }
}

/// Tells all watchers.
macro_rules! tell {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        impl Probe for Watchers<'_> {
            $(fn $name(&mut self, $($arg: $type),*) {
                if let Some(log) = &mut self.log {
                    log.$name($($arg),*);
                }
                self.chrome.iter_mut().for_each(|chrome| chrome.$name($($arg),*));
                self.ram2bin.iter_mut().for_each(|ram2bin| ram2bin.$name($($arg),*));
            })*
        }
    };
}

tell! {
    command(event: &CommandEvent);
    barrier(cycle: Cycle, address: &Address);
    epoch(channel: u32, cycle: Cycle, opener: Opener, first: u64);
    silent(channel: u32, segment: u32, phase: Phase, op: Op);
    host(channel: u32, segment: u32, phase: Phase, begin: Cycle, cycles: Cycle);
    latency(channel: u32, segment: u32, phase: Phase, op: Op, cycles: Cycle);
    segment_begin(id: u32, segment: &Segment);
    segment_end(channel: u32, id: u32, cycle: Cycle);
    channel_waits(channel: u32, done: Cycle, met: Cycle);
    sync(cycle: Cycle);
    channel_end(channel: u32, done: Cycle);
    end(cycle: Cycle);
}

/// Replays a trace into counters alone.
///
/// # Errors
/// As [`run_until`].
pub fn tally(cancel: &Cancel, system: &System, source: &mut dyn Source, tally: &mut ChannelTally) -> Result<Cycle> {
    run_until(cancel, Engine::default(), system, source, tally, &mut |_| {})
}
