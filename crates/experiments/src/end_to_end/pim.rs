//! The PIM devices: attention from the engine, softmax, transfers, and their share of feed-forward matrices.

use super::attention::StackCost;
use super::cost::{ComponentEnergy, EnergyComponent};
use super::gpu::{LayerCost, RooflineBound};
use super::layer::LayerWork;
use super::platform::{Gpu, Pim, StandingPower};
use super::switches::{Switch, Switches};
use pimattn_attacc::UnitLevel;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_stats::energy::Energy as StackEnergy;

/// The PIM devices in use.
pub struct PimDevices<'p> {
    /// Them.
    pub pim: &'p Pim,
    /// The GPUs that they are beside.
    pub gpu: &'p Gpu,
    /// A stack.
    pub system: &'p System,
    /// Where the GEMV units are.
    pub mode: UnitLevel,
    /// Whether the supply limits activations.
    pub power_limit: bool,
    /// What is done as published.
    pub switches: Switches,
}

/// A matrix of which the PIM devices take a part.
pub struct SharedMatrix {
    /// What the GPUs still do.
    pub gpu: LayerCost,
    /// Energy of the PIM devices.
    pub pim: ComponentEnergy,
    /// Time of the transfers in s.
    pub link_seconds: f64,
    /// Their energy.
    pub link: ComponentEnergy,
}

impl PimDevices<'_> {
    /// Energy of attention, for `heads` heads on each device; `score` is the dense product. `first`: of the first step.
    pub fn attention(&self, stack: &StackCost, score: &LayerWork, first: bool) -> ComponentEnergy {
        let has = |switch| self.switches.has(switch);
        let stacks = f64::from(self.pim.stacks);
        let fullest = (score.ops / stacks).ceil();
        let working = if has(Switch::FullStacks) { stacks } else { score.ops / fullest };
        let e = &stack.energy;
        let moves = if has(Switch::MovesPerByte) { stack.moves / 8.0 } else { stack.moves };
        let half = !first && self.mode == UnitLevel::Buffer && has(Switch::BufferHalf);
        let (arrays, standing) = match has(Switch::RequestEnergy) {
            true => (stack.mac_requests * if half { 0.5 } else { 1.0 }, 0.0),
            false => (e.array() - stack.moves, e.standing()),
        };
        let compute = match has(Switch::ScoresOnly) {
            true => self.arithmetic(score.flops() / 2.0, 0.0),
            false => e.compute * working,
        };
        let mut energy = ComponentEnergy::default();
        energy[EnergyComponent::PimMemory as usize] = self.gpu.devices * (arrays + moves) * working;
        energy[EnergyComponent::PimStanding as usize] = self.gpu.devices * standing * stacks;
        energy[EnergyComponent::PimCompute as usize] = self.gpu.devices * compute;
        energy
    }

    /// What the devices take in so many s outside of attention, if that is counted.
    pub fn idle(&self, seconds: f64) -> ComponentEnergy {
        let mut energy = ComponentEnergy::default();
        if self.pim.standing == StandingPower::Step && !self.switches.has(Switch::RequestEnergy) {
            let stack = StackEnergy::idle(self.system, seconds * 1e9).standing();
            energy[EnergyComponent::PimStanding as usize] = self.gpu.devices * f64::from(self.pim.stacks) * stack;
        }
        energy
    }

    /// Energy in pJ of multiply-accumulates and of bits into or out of buffers.
    fn arithmetic(&self, macs: f64, buffer_bits: f64) -> f64 {
        StackEnergy::arithmetic(macs, buffer_bits, &self.system.device).total()
    }

    /// Softmax: how long the buffers would take for it alone, in s, and its energy.
    pub fn softmax(&self, layer: &LayerWork) -> (f64, ComponentEnergy) {
        let bandwidth = self.pim.bandwidth * f64::from(self.pim.stacks);
        let compute = layer.flops() / (bandwidth * (2.0 / layer.bytes).floor());
        let mut energy = ComponentEnergy::default();
        energy[EnergyComponent::PimMemory as usize] = self.gpu.devices * self.arithmetic(0.0, layer.traffic() * 8.0);
        energy[EnergyComponent::PimCompute as usize] = self.gpu.devices * self.arithmetic(layer.flops() / 2.0, 0.0);
        (compute.max(layer.traffic() / bandwidth), energy)
    }

    /// Time in s and energy of bytes between each GPU and its device.
    pub fn transfer(&self, bytes: f64) -> (f64, ComponentEnergy) {
        let mut energy = ComponentEnergy::default();
        energy[EnergyComponent::Communication as usize] = self.gpu.devices * bytes * 8.0 * self.gpu.energy.link;
        (bytes / (self.pim.link / 2.0), energy)
    }

    /// A feed-forward matrix of which the PIM devices take a part of the columns, so that both sides end together; none
    /// where that would take longer. Their units multiply one row of the batch at a time, and read the matrix for each.
    pub fn share(&self, layer: &LayerWork, alone: &LayerCost) -> Option<SharedMatrix> {
        let rate = self.pim.array_bandwidth(self.mode, self.power_limit);
        let kept = match (self.switches.has(Switch::PeakRates), alone.bound) {
            (false, _) => {
                let seconds = layer.n * layer.k * layer.bytes * layer.m / rate;
                seconds / (seconds + alone.seconds)
            }
            (true, RooflineBound::Compute) => self.gpu.peak / (self.gpu.peak + 2.0 * rate / layer.bytes),
            (true, RooflineBound::Memory) => self.gpu.bandwidth / (self.gpu.bandwidth + rate / layer.m),
        };
        let seconds = alone.seconds * kept;
        if self.switches.has(Switch::FreeCoprocessing) {
            let gpu = LayerCost { seconds, ..*alone };
            return Some(SharedMatrix {
                gpu,
                pim: ComponentEnergy::default(),
                link_seconds: 0.0,
                link: ComponentEnergy::default(),
            });
        }
        let taken = 1.0 - kept;
        let (link_seconds, link) = self.transfer((layer.m * layer.k + taken * layer.m * layer.n) * layer.bytes);
        if seconds + link_seconds >= alone.seconds {
            return None;
        }
        let macs = self.gpu.devices * taken * layer.flops() / 2.0;
        let mut pim = ComponentEnergy::default();
        pim[EnergyComponent::PimMemory as usize] = macs * layer.bytes * 8.0 * self.array_pj_per_bit();
        pim[EnergyComponent::PimCompute as usize] = self.arithmetic(macs, 0.0);
        let gpu = LayerCost { seconds, energy: alone.energy.map(|e| e * kept), ..*alone };
        Some(SharedMatrix { gpu, pim, link_seconds, link })
    }

    /// One bit from a fully used row to a GEMV unit.
    fn array_pj_per_bit(&self) -> f64 {
        let op = match self.mode {
            UnitLevel::Bank => Op::MacAb,
            UnitLevel::BankGroup => Op::MacSb,
            UnitLevel::Buffer => Op::MacPb,
        };
        let device = &self.system.device;
        device.plans[op as usize].as_ref().map_or(0.0, |plan| StackEnergy::mac_pj_per_bit(plan.last, device))
    }
}
