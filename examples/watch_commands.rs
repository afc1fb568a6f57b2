//! A probe of one's own: how far the activations of a bank lie apart, beside the counts of the tables.
//!
//! `cargo run --example watch_commands`

use pimattn::{
    Collector, CommandEvent, Cycle, Device, Effect, Generator, MemoryTrace, Probe, Result, SyntheticSpec, Workload,
    engine, kv, systems,
};

/// The shortest time between two commands of a channel that open rows.
struct Activations<'d> {
    device: &'d Device,
    /// By channel, when the last one was.
    last: Vec<Option<Cycle>>,
    count: u64,
    shortest: Option<Cycle>,
}

impl Probe for Activations<'_> {
    fn command(&mut self, event: &CommandEvent) {
        if self.device.commands[event.command as usize].effect != Effect::Open {
            return;
        }
        self.count += 1;
        let before = self.last[event.address.channel as usize].replace(event.cycle);
        let gap = before.map(|before| event.cycle - before);
        self.shortest = self.shortest.into_iter().chain(gap).min();
    }
}

fn main() -> Result<()> {
    let shape =
        SyntheticSpec { layers: 1, kv_heads: 2, query_heads: 4, prefill: 512, decode_steps: 2, ..Default::default() };
    let cache = kv::synthetic::generate(&shape)?;
    let generator = Generator::new(systems::load("hbm3-pim")?, Workload::new("quest", 128), cache)?;
    let mut trace = MemoryTrace::new(generator.header().clone());
    generator.run(&mut trace, None, &mut |_| ())?;

    // Two probes at once: a pair of probes is a probe.
    let device = &generator.system().device;
    let mine = Activations { device, last: vec![None; device.geometry.channels as usize], count: 0, shortest: None };
    let mut probes = (mine, Collector::new(device));
    let cycles = engine::run(generator.system(), &mut trace.source()?, &mut probes, &mut |_| ())?;

    let (mine, tables) = probes;
    println!("{cycles} cycles, {} requests hit an open row", tables.run.counters.hits);
    match mine.shortest {
        Some(shortest) => println!("{} activate commands, at least {shortest} cycles apart in a channel", mine.count),
        None => println!("{} activate commands", mine.count),
    }
    Ok(())
}
