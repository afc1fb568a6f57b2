//! A system and a workload without files: the device's text is in the program, the workload is a struct.
//!
//! `cargo run --example build_in_code`

use pimattn::{Addressing, Generator, Layout, Mapping, Result, SyntheticSpec, System, Workload, kv, simulate};

/// A device; it can come from anywhere that text comes from.
const DEVICE: &str = include_str!("../docs/device-template.toml");

fn main() -> Result<()> {
    // A system file's text; the device is the one that is handed over, whatever it says.
    let system = |timing: &str| {
        let text = format!(
            r#"
                name = "mine"
                channels = 4
                controller = "faithful"
                queue_depth = 32
                refresh = "all-bank"
                power = "per-command"
                energy = "per-command"
                [dram]
                device = "in the program"
                organisation = "TOY_1Gb"
                timing = "{timing}"
            "#
        );
        System::from_toml(&text, DEVICE)
    };
    let shape =
        SyntheticSpec { layers: 1, kv_heads: 4, query_heads: 8, prefill: 256, decode_steps: 2, ..Default::default() };
    let cache = kv::synthetic::generate(&shape)?;
    for timing in ["TOY_2Gbps", "TOY_4Gbps"] {
        for layout in [Layout::RowBlock, Layout::Interleaved] {
            let mapping = Mapping { addressing: Addressing::Broadcast, layout, ..Default::default() };
            let workload = Workload { mapping, steps: 1, ..Workload::new("streaming", 64) };
            let outcome = simulate(&Generator::new(system(timing)?, workload, cache.clone())?)?;
            println!("{timing} {layout:?}: {:.0} ns, {:.0} pJ", outcome.time_ns, outcome.energy.total());
        }
    }
    Ok(())
}
