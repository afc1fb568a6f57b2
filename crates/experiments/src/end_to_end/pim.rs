//! The PIM devices: attention from the engine, softmax, transfers, and their share of feed-forward matrices.

use super::attention::Stack;
use super::cost::{Component, Energy};
use super::gpu::{Bound, Timed};
use super::layer::Layer;
use super::platform::{Gpu, Pim, Standing};
use super::switches::{Switch, Switches};
use pimattn_attacc::Mode;
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
    pub mode: Mode,
    /// Whether the supply limits activations.
    pub power_limit: bool,
    /// What is done as published.
    pub switches: Switches,
}

/// A matrix of which the PIM devices take a part.
pub struct Shared {
    /// What the GPUs still do.
    pub gpu: Timed,
    /// Energy of the PIM devices.
    pub pim: Energy,
    /// Time of the transfers in s.
    pub link_seconds: f64,
    /// Their energy.
    pub link: Energy,
}

impl PimDevices<'_> {
    /// Energy of attention, for `heads` heads on each device; `score` is the dense product. `first`: of the first step.
    pub fn attention(&self, stack: &Stack, score: &Layer, first: bool) -> Energy {
        let has = |switch| self.switches.has(switch);
        let stacks = f64::from(self.pim.stacks);
        let fullest = (score.ops / stacks).ceil();
        let working = if has(Switch::FullStacks) { stacks } else { score.ops / fullest };
        let e = &stack.energy;
        let moves = if has(Switch::MovesPerByte) { stack.moves / 8.0 } else { stack.moves };
        let half = !first && self.mode == Mode::Buffer && has(Switch::BufferHalf);
        let (arrays, standing) = match has(Switch::RequestEnergy) {
            true => (stack.mac_requests * if half { 0.5 } else { 1.0 }, 0.0),
            false => (e.array() - stack.moves, e.standing()),
        };
        let compute = match has(Switch::ScoresOnly) {
            true => self.arithmetic(score.flops() / 2.0, 0.0),
            false => e.compute * working,
        };
        let mut energy = Energy::default();
        energy[Component::PimMemory as usize] = self.gpu.devices * (arrays + moves) * working;
        energy[Component::PimStanding as usize] = self.gpu.devices * standing * stacks;
        energy[Component::PimCompute as usize] = self.gpu.devices * compute;
        energy
    }

    /// What the devices take in so many s outside of attention, if that is counted.
    pub fn idle(&self, seconds: f64) -> Energy {
        let mut energy = Energy::default();
        if self.pim.standing == Standing::Step && !self.switches.has(Switch::RequestEnergy) {
            let stack = StackEnergy::idle(self.system, seconds * 1e9).standing();
            energy[Component::PimStanding as usize] = self.gpu.devices * f64::from(self.pim.stacks) * stack;
        }
        energy
    }

    /// Energy in pJ of multiply-accumulates and of bits into or out of buffers.
    fn arithmetic(&self, macs: f64, buffer_bits: f64) -> f64 {
        StackEnergy::arithmetic(macs, buffer_bits, &self.system.device).total()
    }

    /// Softmax: how long the buffers would take for it alone, in s, and its energy.
    pub fn softmax(&self, layer: &Layer) -> (f64, Energy) {
        let bandwidth = self.pim.bandwidth * f64::from(self.pim.stacks);
        let compute = layer.flops() / (bandwidth * (2.0 / layer.bytes).floor());
        let mut energy = Energy::default();
        energy[Component::PimMemory as usize] = self.gpu.devices * self.arithmetic(0.0, layer.traffic() * 8.0);
        energy[Component::PimCompute as usize] = self.gpu.devices * self.arithmetic(layer.flops() / 2.0, 0.0);
        (compute.max(layer.traffic() / bandwidth), energy)
    }

    /// Time in s and energy of bytes between each GPU and its device.
    pub fn transfer(&self, bytes: f64) -> (f64, Energy) {
        let mut energy = Energy::default();
        energy[Component::Communication as usize] = self.gpu.devices * bytes * 8.0 * self.gpu.energy.link;
        (bytes / (self.pim.link / 2.0), energy)
    }

    /// A feed-forward matrix of which the PIM devices take a part of the columns, so that both sides end together; none
    /// where that would take longer. Their units multiply one row of the batch at a time, and read the matrix for each.
    pub fn share(&self, layer: &Layer, alone: &Timed) -> Option<Shared> {
        let rate = self.pim.array_bandwidth(self.mode, self.power_limit);
        let kept = match (self.switches.has(Switch::PeakRates), alone.bound) {
            (false, _) => {
                let seconds = layer.n * layer.k * layer.bytes * layer.m / rate;
                seconds / (seconds + alone.seconds)
            }
            (true, Bound::Compute) => self.gpu.peak / (self.gpu.peak + 2.0 * rate / layer.bytes),
            (true, Bound::Memory) => self.gpu.bandwidth / (self.gpu.bandwidth + rate / layer.m),
        };
        let seconds = alone.seconds * kept;
        if self.switches.has(Switch::FreeCoprocessing) {
            let gpu = Timed { seconds, ..*alone };
            return Some(Shared { gpu, pim: Energy::default(), link_seconds: 0.0, link: Energy::default() });
        }
        let taken = 1.0 - kept;
        let (link_seconds, link) = self.transfer((layer.m * layer.k + taken * layer.m * layer.n) * layer.bytes);
        if seconds + link_seconds >= alone.seconds {
            return None;
        }
        let macs = self.gpu.devices * taken * layer.flops() / 2.0;
        let mut pim = Energy::default();
        pim[Component::PimMemory as usize] = macs * layer.bytes * 8.0 * self.array_pj_per_bit();
        pim[Component::PimCompute as usize] = self.arithmetic(macs, 0.0);
        let gpu = Timed { seconds, energy: alone.energy.map(|e| e * kept), ..*alone };
        Some(Shared { gpu, pim, link_seconds, link })
    }

    /// One bit from a fully used row to a GEMV unit.
    fn array_pj_per_bit(&self) -> f64 {
        let op = match self.mode {
            Mode::Bank => Op::MacAb,
            Mode::BankGroup => Op::MacSb,
            Mode::Buffer => Op::MacPb,
        };
        let device = &self.system.device;
        device.plans[op as usize].as_ref().map_or(0.0, |plan| StackEnergy::mac_pj_per_bit(plan.last, device))
    }
}
