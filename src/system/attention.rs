//! Attention of one stack, from the engine: AttAcc's schedule replayed on the stack's system.

use crate::attacc::Attention;
use crate::decode::Layers;
use crate::error::Result;
use crate::spec::{Device, Effect, System};
use crate::stats::Counters;
use crate::stats::energy::Energy;

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

/// Stacks of a system, by the engine.
pub struct Replayed<'s> {
    system: &'s System,
    layers: Layers<'s>,
}

impl<'s> Replayed<'s> {
    /// Nothing replayed yet.
    pub fn new(system: &'s System) -> Self {
        Replayed { system, layers: Layers::new(system) }
    }

    /// With what was replayed on that system before.
    pub fn knowing(system: &'s System, layers: Layers<'s>) -> Self {
        Replayed { system, layers }
    }

    /// Schedules replayed so far.
    pub fn replays(&self) -> usize {
        self.layers.replays()
    }

    fn stack(&mut self, attention: Attention) -> Result<Stack> {
        let layer = self.layers.layer(attention)?;
        let (moves, mac_requests) = by_requests(&self.system.device, &layer.counters);
        Ok(Stack {
            cycles: layer.cycles,
            seconds: layer.ns(self.system) * 1e-9,
            energy: layer.energy(self.system),
            moves,
            mac_requests,
        })
    }
}

impl Attend for Replayed<'_> {
    fn device(&self) -> &Device {
        &self.system.device
    }

    fn attend(&mut self, wanted: &[Attention]) -> Result<Vec<Stack>> {
        self.layers.learn(wanted.iter().copied(), &|_, _| ())?;
        wanted.iter().map(|attention| self.stack(*attention)).collect()
    }
}

/// Energy in pJ of buffer moves and of MACs, from how often each command was issued and to how many banks.
fn by_requests(device: &Device, counters: &Counters) -> (f64, f64) {
    let column_bits = f64::from(device.geometry.column_bytes * 8);
    let entry_bits = f64::from(device.entry_bytes * 8);
    let cell = device.energy.cell_activation + device.energy.cell_column;
    let (mut moves, mut macs) = (0.0, 0.0);
    for (command, (issued, banks)) in device.commands.iter().zip(counters.issued.iter().zip(&counters.banks)) {
        match command.effect {
            Effect::Move => moves += *issued as f64 * entry_bits * command.path_pj_per_bit,
            Effect::Mac | Effect::MacOpen => macs += *banks as f64 * column_bits * (cell + command.path_pj_per_bit),
            _ => {}
        }
    }
    (moves, macs)
}
