//! The design space: what each policy takes on devices that differ in a key or two, and which of them are worth choosing.

use super::columns::percent_less;
use pimattn_core::error::Result;
use pimattn_core::table::Value;
use pimattn_core::{columns, measures};
use pimattn_experiments::sweep::table::{SweepRow, SweepTable};

/// The axis of devices. The first is the one that ships.
const DEVICE: &str = "variant";
/// The axis of supplies: what limits activations, which nobody chooses.
const POWER: &str = "system.power";

/// A policy on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DesignRow {
    /// What the device has of its own.
    pub device: String,
    /// What limits activations.
    pub power: String,
    /// What chooses the tokens.
    pub policy: String,
    /// Requests decoded together.
    pub batch: u32,
    /// Time of a decode step of a layer in ns, and on the device that ships.
    pub ns: (f64, f64),
    /// Energy of the simulated heads in pJ, and on the device that ships.
    pub pj: (f64, f64),
    /// Whether no other device is nowhere worse and somewhere better.
    pub pareto: bool,
}

measures! {
    /// Columns of design.csv.
    pub DESIGN of DesignRow {
        DEVICE_NAME = "device", "-", "what differs from the device that ships", |r| (&r.device).into();
        POWER_POLICY = "power", "-", "activations against the supply, as a system file has it (docs/power.md)",
            |r| (&r.power).into();
        POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
        TIME_US = "time_us", "us", "attention of one layer, a decode step", |r| Value::Float(r.ns.0 * 1e-3, 6);
        ENERGY_UJ = "energy_uj", "uJ", "the same, of the heads that are simulated", |r| Value::Float(r.pj.0 * 1e-6, 6);
        TOKENS_PER_S = "attention_tokens_per_s", "1/s",
            "tokens of the batch a second if a decode step were the attention of one layer: batch / time_us; divide by the layers of a model",
            |r| Value::Float(f64::from(r.batch) * 1e9 / r.ns.0, 1);
        TIME_LESS = "time_less_percent", "%", "time less than on the device that ships; below 0: more",
            |r| percent_less(r.ns.0, r.ns.1);
        ENERGY_LESS = "energy_less_percent", "%", "energy less than on the device that ships; below 0: more",
            |r| percent_less(r.pj.0, r.pj.1);
        PARETO = "pareto", "1",
            "1: no other device of the same power and policy is as fast with less energy, or faster with no more; else 0",
            |r| u32::from(r.pareto).into();
    }
}

/// Rows of design.csv, in the order of the grid.
///
/// # Errors
/// When the grid has no axis of devices, supplies or policies, or the first device lacks a policy.
pub fn rows(batch: u32, swept: &SweepTable) -> Result<Vec<DesignRow>> {
    let ships = swept.distinct(DEVICE)?.first().copied().unwrap_or_default();
    let cost = |row: &SweepRow| (row.ns / row.steps, row.pj / row.steps);
    let mut out = Vec::new();
    for row in swept.rows() {
        let axis = |name| swept.axis(row, name);
        let (device, power, policy) = (axis(DEVICE)?, axis(POWER)?, axis(columns::POLICY)?);
        let of = |device| swept.find(&[(POWER, power), (columns::POLICY, policy), (DEVICE, device)]);
        let (ns, pj) = cost(row);
        let shipped = cost(swept.the(&[(POWER, power), (columns::POLICY, policy), (DEVICE, ships)])?);
        let mut others = Vec::new();
        for other in swept.distinct(DEVICE)?.into_iter().filter(|d| *d != device) {
            others.extend(of(other)?.into_iter().map(cost));
        }
        let beats = |(a, b): &(f64, f64)| *a <= ns && *b <= pj && (*a < ns || *b < pj);
        out.push(DesignRow {
            device: device.into(),
            power: power.into(),
            policy: policy.into(),
            batch,
            ns: (ns, shipped.0),
            pj: (pj, shipped.1),
            pareto: !others.iter().any(beats),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_its_own_value() {
        let row = DesignRow {
            device: "d".into(),
            power: "p".into(),
            policy: "quest".into(),
            batch: 16,
            ns: (2000.0, 4000.0),
            pj: (3e6, 2e6),
            pareto: true,
        };
        let cells: Vec<_> = DESIGN.iter().map(|m| format!("{}={}", m.name(), m.value(&row))).collect();
        assert_eq!(
            cells.join(" "),
            "device=d power=p policy=quest time_us=2.000000 energy_uj=3.000000 attention_tokens_per_s=8000000.0 \
             time_less_percent=50.0000 energy_less_percent=-50.0000 pareto=1"
        );
    }
}
