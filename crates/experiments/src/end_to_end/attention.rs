//! Attention of one stack, from the engine: AttAcc's schedule replayed on the stack's system.

use crate::attention::Layers;
use pimattn_attacc::{Attention, Form};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::system::EnergyModel;
use pimattn_core::spec::{Effect, System};
use pimattn_stats::energy::Energy;

/// What the attention of one layer costs a stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackCost {
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
    /// What a stack is.
    fn system(&self) -> &System;
    /// The cost of each of these in this form of the schedule, in their order.
    fn attend(&mut self, form: Form, wanted: &[Attention]) -> Result<Vec<StackCost>>;
}

/// Stacks of a system, by the engine.
pub struct ReplayedStacks<'s> {
    system: &'s System,
    layers: Layers<'s>,
}

impl<'s> ReplayedStacks<'s> {
    /// Nothing replayed yet.
    pub fn new(system: &'s System) -> Self {
        ReplayedStacks { system, layers: Layers::new(system) }
    }

    /// These stacks, whose replays end with an error once `cancel` is requested.
    pub fn until(self, cancel: &Cancel) -> Self {
        ReplayedStacks { layers: self.layers.until(cancel), ..self }
    }

    /// With what was replayed on that system before.
    pub fn knowing(system: &'s System, layers: Layers<'s>) -> Self {
        ReplayedStacks { system, layers }
    }

    /// Schedules replayed so far.
    pub fn replays(&self) -> usize {
        self.layers.replays()
    }

    fn stack(&mut self, form: Form, attention: Attention) -> Result<StackCost> {
        let layer = self.layers.layer(form, attention)?;
        let (device, model) = (&self.system.device, self.system.energy);
        let only = |effects: &[Effect], model| {
            let counters = layer.counters.only(device, |e| effects.contains(&e));
            Energy::of(&counters, 0, device, model)
        };
        let macs = only(&[Effect::Mac, Effect::MacOpen], EnergyModel::PerByte);
        Ok(StackCost {
            cycles: layer.cycles,
            seconds: layer.ns(self.system) * 1e-9,
            energy: layer.energy(self.system),
            moves: only(&[Effect::Move], model).movement,
            mac_requests: macs.array(),
        })
    }
}

impl Attend for ReplayedStacks<'_> {
    fn system(&self) -> &System {
        self.system
    }

    fn attend(&mut self, form: Form, wanted: &[Attention]) -> Result<Vec<StackCost>> {
        self.layers.learn(form, wanted.iter().copied(), &|_, _| ())?;
        wanted.iter().map(|attention| self.stack(form, *attention)).collect()
    }
}
