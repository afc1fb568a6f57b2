//! Energy of counted commands, by part.
//!
//! [`EnergyModel::PerCommand`] charges each activation to the banks that it opens, each buffer move for all entries that it
//! moves, and time for refresh and background. [`EnergyModel::PerByte`] is AttAcc's accounting: activations are part of the
//! energy of each bit that a MAC reads, a move is one entry, and there is neither refresh nor background.

use super::Counters;
use pimattn_core::spec::system::{EnergyModel, Refresh};
use pimattn_core::spec::{CommandId, Device, Effect, System};
use pimattn_core::units::Cycle;

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
    /// Energy of `counters`, and of standing power for `channel_cycles`, which are cycles summed over channels.
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
                    if command.effect.multiplies() {
                        out.compute += banks * f64::from(device.elements) * e.mac;
                    }
                }
                // In AttAcc's accounting a command moves one entry, whatever it reaches.
                Effect::Move => {
                    let (entries, wires) = match honest {
                        true => (banks, command.reach.pj_per_bit),
                        false => (n, command.path_pj_per_bit),
                    };
                    out.movement += entries * entry_bits * wires;
                    out.compute += entries * entry_bits * e.sram;
                }
                // A command refreshes the share of a channel's rows that its banks are of the channel's banks.
                Effect::Refresh if honest => {
                    let share = f64::from(command.scope.banks(g)) / f64::from(g.banks_per_channel());
                    out.refresh += n * share * e.refresh;
                }
                Effect::Open | Effect::Close | Effect::Refresh | Effect::Softmax | Effect::Configure => {}
            }
        }
        out.compute += counters.shared as f64 * f64::from(device.elements) * e.mac;
        if honest {
            out.background = e.background * device.clock.ns(channel_cycles);
        }
        out
    }

    /// Energy in pJ of each bit of a MAC's columns, in the array and on the wires, if rows are fully used, so that both
    /// models agree. 0 for a command that is not a MAC.
    pub fn mac_pj_per_bit(command: CommandId, device: &Device) -> f64 {
        let mut column = Counters::default();
        (column.issued[usize::from(command)], column.banks[usize::from(command)]) = (1, 1);
        let column = column.only(device, Effect::multiplies);
        Energy::of(&column, 0, device, EnergyModel::PerByte).array() / f64::from(device.geometry.column_bytes * 8)
    }

    /// Energy of `macs` multiply-accumulates and of `buffer_bits` bits into or out of buffers.
    pub fn arithmetic(macs: f64, buffer_bits: f64, device: &Device) -> Energy {
        Energy { compute: macs * device.energy.mac + buffer_bits * device.energy.sram, ..Energy::default() }
    }

    /// Energy of a system that is idle for `ns`, in all channels: standing power, and refreshes at the rate at which they
    /// fall due.
    pub fn idle(system: &System, ns: f64) -> Energy {
        if system.energy != EnergyModel::PerCommand {
            return Energy::default();
        }
        let device = &system.device;
        let channels = f64::from(device.geometry.channels);
        let refreshed = system.refresh != Refresh::None;
        let refreshes = if refreshed { ns / device.clock.ns(device.nrefi) } else { 0.0 };
        Energy {
            background: device.energy.background * ns * channels,
            refresh: device.energy.refresh * refreshes * channels,
            ..Energy::default()
        }
    }

    /// The part of the energy that the arrays and the wires take.
    pub fn array(&self) -> f64 {
        self.activation + self.column + self.movement
    }

    /// The part of the energy that passing time takes, whatever is done.
    pub fn standing(&self) -> f64 {
        self.refresh + self.background
    }

    /// Sum of all parts.
    pub fn total(&self) -> f64 {
        self.activation + self.column + self.movement + self.compute + self.refresh + self.background
    }
}
