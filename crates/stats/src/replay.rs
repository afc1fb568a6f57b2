//! Replays watched by the probes of this crate. The engine is compiled for each probe: here, once, and not where it is
//! asked for.

use super::tally::Tally;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_engine::{Engine, run_with};
use pimattn_trace::Source;

/// Replays a trace into counters alone.
///
/// # Errors
/// As [`run_with`].
pub fn tally(system: &System, source: &mut dyn Source, tally: &mut Tally) -> Result<Cycle> {
    run_with(Engine::default(), system, source, tally, &mut |_| {})
}
