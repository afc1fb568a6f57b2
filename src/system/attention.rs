//! Attention of one stack, from the engine: AttAcc's schedule replayed on the stack's system.

use crate::attacc::{Attention, Schedule};
use crate::engine;
use crate::error::Result;
use crate::spec::{Device, Effect, System};
use crate::stats::Collector;
use crate::stats::energy::Energy;
use crate::trace::{Header, Record, Sink, Source};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What the attention of one layer costs a stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stack {
    /// Cycles.
    pub cycles: u64,
    /// The same in s.
    pub seconds: f64,
    /// Energy by the system's model.
    pub energy: Energy,
    /// Of it, in pJ: moves to and from GEMV buffers.
    pub moves: f64,
    /// MACs by requests, in pJ: columns, wires, and for each column its share of a fully used row's activation.
    pub mac_requests: f64,
}

/// Who knows what attention costs a stack.
pub trait Attend {
    /// DRAM of a stack.
    fn device(&self) -> &Device;
    /// The cost of each of these, in their order.
    fn attend(&mut self, wanted: &[Attention]) -> Result<Vec<Stack>>;
}

/// Replays each schedule once, however often it is asked for, several at a time.
pub struct Replayed {
    system: System,
    known: BTreeMap<String, Stack>,
}

impl Replayed {
    /// On stacks of this system.
    pub fn new(system: System) -> Self {
        Replayed { system, known: BTreeMap::new() }
    }

    /// Schedules replayed so far.
    pub fn replays(&self) -> usize {
        self.known.len()
    }
}

impl Attend for Replayed {
    fn device(&self) -> &Device {
        &self.system.device
    }

    fn attend(&mut self, wanted: &[Attention]) -> Result<Vec<Stack>> {
        let geometry = self.system.device.geometry;
        let schedules: Vec<Schedule> = wanted.iter().map(|a| Schedule::new(*a, geometry)).collect::<Result<_>>()?;
        let signatures: Vec<String> = schedules.iter().map(Schedule::signature).collect();
        let new: BTreeMap<&String, &Schedule> =
            signatures.iter().zip(&schedules).filter(|(key, _)| !self.known.contains_key(*key)).collect();
        let new: Vec<_> = new.into_iter().collect();
        let costs: Vec<Stack> = new.par_iter().map(|(_, s)| replay(&self.system, s)).collect::<Result<_>>()?;
        self.known.extend(new.iter().map(|(key, _)| (*key).clone()).zip(costs));
        Ok(signatures.iter().map(|key| self.known[key]).collect())
    }
}

/// A trace in memory: written, then read in one block.
struct Memory {
    header: Header,
    records: Vec<Record>,
}

impl Sink for Memory {
    fn push(&mut self, record: Record) -> Result<()> {
        self.records.push(record);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Source for Memory {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        out.append(&mut self.records);
        Ok(!out.is_empty())
    }
}

fn replay(system: &System, schedule: &Schedule) -> Result<Stack> {
    let mut trace = Memory { header: schedule.header(), records: Vec::new() };
    schedule.run(&mut trace, &mut |_| ())?;
    let mut collector = Collector::new(&system.device);
    let cycles = engine::run(system, &mut trace, &mut collector, &mut |_| ())?;
    let device = &system.device;
    let counters = &collector.run.counters;
    let channel_cycles = cycles * u64::from(device.geometry.channels);
    let (moves, mac_requests) = by_requests(device, &counters.issued, &counters.banks);
    Ok(Stack {
        cycles,
        seconds: device.clock.ns(cycles) * 1e-9,
        energy: Energy::of(counters, channel_cycles, device, system.energy),
        moves,
        mac_requests,
    })
}

/// Energy in pJ of buffer moves and of MACs, from how often each command was issued and to how many banks.
fn by_requests(device: &Device, issued: &[u64], banks: &[u64]) -> (f64, f64) {
    let column_bits = f64::from(device.geometry.column_bytes * 8);
    let entry_bits = f64::from(device.entry_bytes * 8);
    let cell = device.energy.cell_activation + device.energy.cell_column;
    let (mut moves, mut macs) = (0.0, 0.0);
    for (command, (issued, banks)) in device.commands.iter().zip(issued.iter().zip(banks)) {
        match command.effect {
            Effect::Move => moves += *issued as f64 * entry_bits * command.path_pj_per_bit,
            Effect::Mac | Effect::MacOpen => macs += *banks as f64 * column_bits * (cell + command.path_pj_per_bit),
            _ => {}
        }
    }
    (moves, macs)
}
