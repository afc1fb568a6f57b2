//! Time and energy of layers, by part of the block and by component of the machine.

use super::layer::LayerPart;

/// Where energy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnergyComponent {
    /// DRAM of the GPUs.
    Dram,
    /// Second-level caches.
    L2,
    /// First-level caches.
    L1,
    /// Registers.
    Registers,
    /// Arithmetic of the GPUs.
    Alu,
    /// Rows, columns, wires and buffers of the PIM devices.
    PimMemory,
    /// Arithmetic of the PIM devices.
    PimCompute,
    /// Refresh and standing power of the PIM devices.
    PimStanding,
    /// Between devices.
    Communication,
}

impl EnergyComponent {
    /// Number of components.
    pub const COUNT: usize = EnergyComponent::Communication as usize + 1;
    /// Memories.
    pub const MEMORY: [EnergyComponent; 2] = [EnergyComponent::Dram, EnergyComponent::PimMemory];
    /// What computes, with the caches that feed it.
    pub const COMPUTE: [EnergyComponent; 5] = [
        EnergyComponent::L2,
        EnergyComponent::L1,
        EnergyComponent::Registers,
        EnergyComponent::Alu,
        EnergyComponent::PimCompute,
    ];
}

/// Energy by [`EnergyComponent`], in pJ.
pub type ComponentEnergy = [f64; EnergyComponent::COUNT];

/// Time and energy by [`LayerPart`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cost {
    /// Time in s, as far as it is not hidden behind another part.
    pub seconds: [f64; LayerPart::COUNT],
    /// Energy of all devices in pJ.
    pub energy: [ComponentEnergy; LayerPart::COUNT],
    /// Cycles of one stack's attention; 0 where attention is not on PIM.
    pub attention_cycles: f64,
}

impl Cost {
    /// Time of some parts, in s.
    pub fn time_of(&self, parts: &[LayerPart]) -> f64 {
        parts.iter().map(|p| self.seconds[*p as usize]).sum()
    }

    /// Time of all parts, in s.
    pub fn time(&self) -> f64 {
        self.seconds.iter().sum()
    }

    /// Energy of some components in some parts, in pJ.
    pub fn energy_of(&self, parts: &[LayerPart], components: &[EnergyComponent]) -> f64 {
        parts.iter().flat_map(|p| components.iter().map(|c| self.energy[*p as usize][*c as usize])).sum()
    }

    /// Energy of one component, in pJ.
    pub fn component(&self, component: EnergyComponent) -> f64 {
        self.energy.iter().map(|e| e[component as usize]).sum()
    }

    /// Energy of everything, in pJ.
    pub fn total_energy(&self) -> f64 {
        self.energy.iter().flatten().sum()
    }

    /// Adds time and energy to a part.
    pub fn add(&mut self, part: LayerPart, seconds: f64, energy: &ComponentEnergy) {
        self.seconds[part as usize] += seconds;
        self.energy[part as usize].iter_mut().zip(energy).for_each(|(a, b)| *a += b);
    }

    /// Adds `factor` times another cost.
    pub fn add_scaled(&mut self, other: &Cost, factor: f64) {
        self.seconds.iter_mut().zip(&other.seconds).for_each(|(a, b)| *a += factor * b);
        let ours = self.energy.iter_mut().flatten();
        ours.zip(other.energy.iter().flatten()).for_each(|(a, b)| *a += factor * b);
        self.attention_cycles += factor * other.attention_cycles;
    }
}
