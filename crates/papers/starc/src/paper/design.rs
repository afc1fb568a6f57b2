//! Which device: the section of the report on the design space, its answer about activations, its figures.

use super::ExperimentTables;
use super::claims::cited;
use crate::policies::{FULL, LEGEND, STARC};
use crate::reproduce::design as column;
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_report::cells::Cells;
use pimattn_report::plot::{Axis, Bar, BarGroup, Bars, Content, Figure, Lines, Panel, Scale, Series};

/// Devices of which the name begins so, and goes on with nothing but a granularity, differ in what an activation opens.
const ACTIVATION: &str = "activation: ";

fn row_of(design: &Cells, power: &str, device: &str, policy: &str) -> Result<usize> {
    design.the(&[(column::POWER_POLICY.name(), power), (column::DEVICE_NAME.name(), device), (columns::POLICY, policy)])
}

/// The device that ships, and those that differ in what an activation opens alone.
fn granularities(design: &Cells) -> Result<Vec<&str>> {
    let all = design.distinct(column::DEVICE_NAME.name())?;
    let alone = |(i, d): &(usize, &str)| *i == 0 || d.strip_prefix(ACTIVATION).is_some_and(|rest| !rest.contains(';'));
    Ok(all.into_iter().enumerate().filter(alone).map(|(_, d)| d).collect())
}

/// Sparse policies, STARC first.
fn sparse(design: &Cells) -> Result<Vec<&str>> {
    let others = design.distinct(columns::POLICY)?.into_iter().filter(|p| *p != FULL && *p != STARC);
    Ok([STARC].into_iter().chain(others).collect())
}

/// Which granularity of activation is worth its cost, in sentences with cells.
pub fn answer(t: &ExperimentTables) -> Result<String> {
    let design = &t.design;
    let (devices, policies) = (granularities(design)?, sparse(design)?);
    let name = |device: &str| device.strip_prefix(ACTIVATION).unwrap_or("bank group").to_string();
    let mut out = Vec::new();
    for power in design.distinct(column::POWER_POLICY.name())? {
        // By granularity, the policies that it is fastest for.
        let mut won: Vec<(String, Vec<&str>)> = devices.iter().map(|d| (name(d), Vec::new())).collect();
        for policy in &policies {
            let mut fastest = (f64::INFINITY, 0);
            for (i, device) in devices.iter().enumerate() {
                let us = design.number(row_of(design, power, device, policy)?, column::TIME_US.name())?;
                if us < fastest.0 {
                    fastest = (us, i);
                }
            }
            won[fastest.1].1.push(policy);
        }
        let won = won.iter().filter(|(_, of)| !of.is_empty());
        let won: Vec<String> = won.map(|(name, of)| format!("{name} ({})", of.join(", "))).collect();
        let saved = devices.iter().skip(1).map(|device| {
            let row = row_of(design, power, device, STARC)?;
            let of = |column: &str| cited(design, row, column, 1, " %");
            Ok(format!("{} {} and {}", name(device), of(column::TIME_LESS.name())?, of(column::ENERGY_LESS.name())?))
        });
        let saved = saved.collect::<Result<Vec<_>>>()?.join("; ");
        let fastest = won.join("; ");
        out.push(format!(
            "- `power = \"{power}\"`: the granularity at which each sparse policy is fastest is {fastest}. Instead of a bank group, {STARC}'s time and energy saved: {saved}."
        ));
    }
    Ok(out.join("\n"))
}

/// Rows of the text's table of granularities: every sparse policy on every device that differs in this alone.
pub fn compared(t: &ExperimentTables) -> Result<Vec<usize>> {
    let design = &t.design;
    let mut out = Vec::new();
    for power in design.distinct(column::POWER_POLICY.name())? {
        for policy in sparse(design)? {
            for device in granularities(design)?.into_iter().skip(1) {
                out.push(row_of(design, power, device, policy)?);
            }
        }
    }
    Ok(out)
}

/// Rows of the text's table: the devices that are worth choosing for a policy, where activations count as they ship.
pub fn told(t: &ExperimentTables) -> Result<Vec<usize>> {
    let power = t.design.distinct(column::POWER_POLICY.name())?.first().copied().unwrap_or_default();
    t.design.find(&[(column::PARETO.name(), "1"), (column::POWER_POLICY.name(), power)])
}

/// Time and energy by granularity of activation, over the device that ships.
pub fn granularity(t: &ExperimentTables) -> Result<Figure> {
    let design = &t.design;
    let devices = granularities(design)?;
    let mut panels = Vec::new();
    for power in design.distinct(column::POWER_POLICY.name())? {
        for (column, label) in [(column::TIME_US.name(), "time"), (column::ENERGY_UJ.name(), "energy")] {
            let mut groups = Vec::new();
            for policy in design.distinct(columns::POLICY)? {
                let of = |device: &str| design.number(row_of(design, power, device, policy)?, column);
                let ships = devices.first().map_or(Ok(1.0), |device| of(device))?;
                let mut bars = Vec::new();
                for device in &devices {
                    let name = device.strip_prefix(ACTIVATION).unwrap_or("bank group (ships)");
                    let parts = vec![(format!("{label} over that of the device that ships"), of(device)? / ships)];
                    bars.push(Bar { label: name.into(), parts });
                }
                groups.push(BarGroup { label: policy.into(), bars });
            }
            let y = Axis::new("over as shipped", Scale::FromZero);
            panels
                .push(Panel { title: format!("{label}, power = {power}"), content: Content::Bars(Bars { y, groups }) });
        }
    }
    Ok(Figure {
        title: "What an activation opens: time and energy of attention by policy".into(),
        note:
            "design.csv, columns time_us and energy_uj; half: a channel of its own for each, the best that it could be"
                .into(),
        names: Vec::new(),
        panels,
        columns: 2,
        panel: (620.0, 360.0),
    })
}

/// The devices that no other beats, for each policy: a line from the fastest to the thriftiest.
pub fn frontier(t: &ExperimentTables) -> Result<Figure> {
    let design = &t.design;
    let mut panels = Vec::new();
    for power in design.distinct(column::POWER_POLICY.name())? {
        let mut series = Vec::new();
        for policy in design.distinct(columns::POLICY)? {
            let rows = design.find(&[
                (column::POWER_POLICY.name(), power),
                (columns::POLICY, policy),
                (column::PARETO.name(), "1"),
            ])?;
            let mut points = Vec::new();
            for row in rows {
                let point =
                    (design.number(row, column::TOKENS_PER_S.name())?, design.number(row, column::ENERGY_UJ.name())?);
                points.push(point);
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            series.push(Series { name: policy.into(), points, ..Series::default() });
        }
        let x = Axis::new("tokens of the batch a second, if a step were one layer's attention", Scale::Log);
        let y = Axis::new("energy of the simulated heads (uJ)", Scale::Log);
        panels.push(Panel {
            title: format!("power = {power}"),
            content: Content::Lines(Lines { x, y, series, ..Lines::default() }),
        });
    }
    Ok(Figure {
        title: "Devices that no other beats in speed and energy alike, by policy".into(),
        note: "design.csv, rows with pareto 1; the device that is fastest at the right, the one of least energy at the left".into(),
        names: LEGEND.map(String::from).to_vec(),
        panels,
        columns: 2,
        panel: (560.0, 400.0),
    })
}
