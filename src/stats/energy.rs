//! Energy of counted commands.

use super::Counters;
use crate::spec::system::EnergyModel;
use crate::spec::{Device, Effect};
use crate::units::Cycle;

/// Energy by part, in pJ.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Energy {
    /// Row activations with their precharges.
    pub activation: f64,
    /// Cell to column decoder.
    pub column: f64,
    /// Wires beyond the column decoder.
    pub movement: f64,
    /// Multiply-accumulate units and buffers.
    pub compute: f64,
    /// Refresh.
    pub refresh: f64,
    /// Standing power.
    pub background: f64,
}

impl Energy {
    /// Energy of what was counted, and of `channel_cycles` cycles of standing power summed over channels.
    pub fn of(counters: &Counters, channel_cycles: Cycle, device: &Device, model: EnergyModel) -> Energy {
        let (e, g) = (&device.energy, &device.geometry);
        let column_bits = f64::from(g.column_bytes * 8);
        let entry_bits = f64::from(device.entry_bytes * 8);
        let honest = model == EnergyModel::PerCommand;
        let mut out = Energy::default();
        for (id, command) in device.commands.iter().enumerate() {
            let (n, banks) = (counters.issued[id] as f64, counters.banks[id] as f64);
            match command.effect {
                Effect::Open if honest => out.activation += banks * e.activation,
                Effect::Mac | Effect::MacOpen | Effect::Read | Effect::Write => {
                    let bits = banks * column_bits;
                    out.column += bits * e.cell_column;
                    out.movement += bits * command.path_pj_per_bit;
                    if !honest {
                        out.activation += bits * e.cell_activation;
                    }
                    if matches!(command.effect, Effect::Mac | Effect::MacOpen) {
                        out.compute += banks * f64::from(device.elements) * e.mac;
                    }
                }
                Effect::Move => {
                    out.movement += n * entry_bits * command.path_pj_per_bit;
                    out.compute += n * entry_bits * e.sram;
                }
                Effect::Refresh if honest => out.refresh += n * e.refresh,
                Effect::Open | Effect::Close | Effect::Refresh | Effect::Softmax | Effect::Configure => {}
            }
        }
        if honest {
            out.background = e.background * device.clock.ns(channel_cycles);
        }
        out
    }

    /// Sum of all parts.
    pub fn total(&self) -> f64 {
        self.activation + self.column + self.movement + self.compute + self.refresh + self.background
    }
}
