//! Replays a trace file of any format on a system, as `pimsim run` does.
//!
//! `cargo run --example replay_a_trace -- TRACE [SYSTEM]`; without a trace, a few reads of the text format.

use pimattn::{Error, Result, replay, systems, trace};
use std::io::Read;

/// AttAcc's text form: an operation and a byte address a line.
const READS: &str = "LD 0x0\nLD 0x40\nLD 0x80\nLD 0x100000\n";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (file, name) = (arguments.next(), arguments.next());
    let system = systems::load(name.as_deref().unwrap_or("hbm3-pim"))?;
    let input: Box<dyn Read + Send> = match &file {
        Some(file) => Box::new(std::fs::File::open(file).map_err(|e| Error::io(file, e))?),
        None => Box::new(READS.as_bytes()),
    };
    // A format that does not say its device gets the system's, with its order of address bits.
    let mut source = trace::open(input, file.as_deref().unwrap_or("reads"), Some(system.addressing()))?;
    let outcome = replay(&system, source.as_mut())?;
    let counted = &outcome.collector.run.counters;
    println!("{}: {} cycles, {:.1} ns, {:.1} pJ", system.name, outcome.cycles, outcome.time_ns, outcome.energy.total());
    println!("rows: {} hits, {} misses, {} conflicts", counted.hits, counted.misses, counted.conflicts);
    Ok(())
}
