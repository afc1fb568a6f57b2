//! docs/agreement.md.

use super::table;
use crate::references::agreement::{THEIRS, Target, at_depth, ours};
use rayon::prelude::*;

/// Cycles and activations of each stream, theirs and ours.
pub(super) fn cycles(_: &str) -> String {
    let rows = THEIRS.iter().zip(ours()).map(|(theirs, ours)| {
        let program = match theirs.target {
            Target::Ramulator => "Ramulator 2.1",
            Target::DramSim3 => "DRAMsim3",
            Target::DramSys => "DRAMSys",
            Target::PimSimulator => "PIMSimulator",
        };
        let own = if theirs.target == Target::Ramulator { ours.misses } else { ours.activations };
        vec![
            program.into(),
            theirs.stream.into(),
            format!("{:.0}", theirs.cycles),
            ours.cycles.to_string(),
            format!("{:+.2} %", (ours.cycles as f64 / theirs.cycles - 1.0) * 100.0),
            theirs.activations.map_or("-".into(), |n| n.to_string()),
            own.to_string(),
        ]
    });
    let head = ["program", "stream", "its cycles", "ours", "difference", "its activations", "ours"];
    table(&head, &[false, false, true, true, true, true, true], rows)
}

/// Cycles at a few depths of the queues.
pub(super) fn depths(_: &str) -> String {
    const DEPTHS: [u32; 6] = [8, 16, 32, 64, 96, 128];
    let rows = ["bg-starc", "bc-starc", "random-w33"].par_iter().map(|stream| {
        let cycles: Vec<String> = DEPTHS.par_iter().map(|depth| at_depth(stream, *depth).to_string()).collect();
        [vec![stream.to_string()], cycles].concat()
    });
    let depths = DEPTHS.map(|n| n.to_string());
    let head: Vec<&str> = std::iter::once("queue_depth").chain(depths.iter().map(String::as_str)).collect();
    table(&head, &[false, true, true, true, true, true, true], rows.collect::<Vec<_>>())
}
