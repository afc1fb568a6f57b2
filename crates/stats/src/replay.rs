//! Replays watched by the probes of this crate. The engine is compiled for each probe: here, once, and not where it is
//! asked for.

use super::log::LogProbe;
use super::tally::ChannelTally;
use super::{Collector, Steps};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::fsio::Output;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_engine::{Engine, run_until};
use pimattn_trace::Source;

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

/// As [`collect`], and logs every command.
///
/// # Errors
/// As [`run_until`].
pub fn collect_and_log(
    cancel: &Cancel,
    engine: Engine,
    system: &System,
    source: &mut dyn Source,
    probes: &mut (Collector<&mut dyn Steps>, LogProbe<Output>),
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    run_until(cancel, engine, system, source, probes, progress)
}

/// Replays a trace into counters alone.
///
/// # Errors
/// As [`run_until`].
pub fn tally(cancel: &Cancel, system: &System, source: &mut dyn Source, tally: &mut ChannelTally) -> Result<Cycle> {
    run_until(cancel, Engine::default(), system, source, tally, &mut |_| {})
}
