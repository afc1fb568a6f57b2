//! Real-mask mode: windows of decode steps that were generated and replayed, put together to contexts and carried end to
//! end.
//!
//! A window is some consecutive decode steps of one sparse layer on the fullest stack, at the middle of an equal part of
//! the decode. What is not simulated is taken to be like it: the other steps of the part, the other sparse layers, the
//! other stacks. Layers that stay dense are those of policy `full` at the same place.

use super::plan::{Entry, Plan};
use super::published::service;
use pimattn_attacc::{Attention, Form};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::table::Value;
use pimattn_experiments::end_to_end::attention::{Attend, Stack};
use pimattn_experiments::end_to_end::cost::Cost;
use pimattn_experiments::end_to_end::step::{Budget, serve};
use pimattn_experiments::end_to_end::table::measures;
use pimattn_report::cells::Cells;
use pimattn_stats::energy::Energy;

/// The axis of models in the grid of windows.
pub const MODELS: &str = "variant";

/// Columns of a sweep that phases of the report are sums of, without their unit.
const PHASES: [&[&str]; 7] = [
    &["append"],
    &["cluster", "remap"],
    &["select"],
    &["attend_score", "attend_context"],
    &["softmax"],
    &["waiting"],
    &["other"],
];

/// A window.
#[derive(Debug, Clone, Copy)]
struct Window<'s> {
    swept: &'s Cells,
    row: usize,
}

impl Window<'_> {
    fn number(&self, column: &str) -> Result<f64> {
        self.swept.number(self.row, column)
    }

    fn per_step(&self, column: &str) -> Result<f64> {
        Ok(self.number(column)? / self.number("steps")?)
    }

    /// The values of a layer's columns.
    fn layer(&self) -> Result<Vec<f64>> {
        let mut out = Vec::new();
        for (unit, scale) in [("ns", 1e-3), ("pj", 1e-6)] {
            let parts = PHASES.iter().map(|names| {
                let sum: Result<f64> = names.iter().map(|n| self.per_step(&format!("{n}_{unit}"))).sum();
                Ok(sum? * scale)
            });
            let parts = parts.collect::<Result<Vec<_>>>()?;
            out.push(parts.iter().sum());
            out.extend(parts);
        }
        out.push(100.0 * out[3] / out[0]);
        out.push(100.0 * out[2] / out[0]);
        out.extend([self.number("selected")?, self.number("metric_row_tokens")?, self.per_step("activations")?]);
        for column in ["top_recall", "mass_recall", "output_rel_err", "imbalance_units"] {
            out.push(self.number(column)?);
        }
        Ok(out)
    }
}

/// Windows of a model and a policy, in the order of the decode; each must be where the plan has it.
fn windows<'s>(plan: &Plan, swept: &'s Cells, model: &str, policy: &str) -> Result<Vec<Window<'s>>> {
    let rows = swept.find(&[(MODELS, model), ("policy", policy)])?;
    let windows: Vec<Window> = rows.into_iter().map(|row| Window { swept, row }).collect();
    let parts = plan.contexts.iter().max().map_or(0, |longest| longest / plan.window_every);
    let expected: Vec<f64> =
        (0..parts).map(|k| f64::from(plan.prefill) + f64::from(plan.window_every) * (f64::from(k) + 0.5)).collect();
    let middle = |w: &Window| Ok(w.number("synthetic.prefill")? + w.number("steps")? / 2.0);
    let found = windows.iter().map(middle).collect::<Result<Vec<_>>>()?;
    match found == expected {
        true => Ok(windows),
        false => {
            let what = format!(
                "{}: windows of {model}, {policy} are around tokens {found:?}; the plan has them at {expected:?}",
                plan.grids.masks.display()
            );
            Err(Error::Usage(what))
        }
    }
}

fn decimals(values: impl IntoIterator<Item = f64>) -> impl Iterator<Item = Value> {
    values.into_iter().map(|x| Value::Float(x, 6))
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

/// Rows of masks.csv.
pub fn contexts(plan: &Plan, swept: &Cells) -> Result<Vec<Vec<Value>>> {
    let mut out = Vec::new();
    for entry in &plan.models {
        for context in &plan.contexts {
            for policy in swept.distinct("policy")? {
                let windows = windows(plan, swept, &entry.name, policy)?;
                let windows = &windows[..(context / plan.window_every) as usize];
                let layers = windows.iter().map(Window::layer).collect::<Result<Vec<_>>>()?;
                let n = layers.len() as f64;
                let mut mean: Vec<f64> =
                    (0..layers[0].len()).map(|i| layers.iter().map(|l| l[i]).sum::<f64>() / n).collect();
                // Shares are of the means, not means of shares.
                (mean[16], mean[17]) = (100.0 * mean[3] / mean[0], 100.0 * mean[2] / mean[0]);
                let steps = windows[0].number("steps")?;
                let keys = [
                    text(&entry.name),
                    Value::Int((*context).into()),
                    text(policy),
                    text(budget(swept, windows[0].row)?.as_str()),
                    Value::Int(windows.len() as u64),
                    Value::Int(steps as u64),
                    Value::Float(100.0 * steps * n / f64::from(*context), 3),
                    Value::Int(1),
                ];
                out.push(keys.into_iter().chain(decimals(mean)).collect());
            }
        }
    }
    Ok(out)
}

/// Budget of a point: its axis, or what the policy was given by the workload.
fn budget(swept: &Cells, row: usize) -> Result<String> {
    Ok(swept.cell(row, "budget")?.to_string())
}

/// Rows of positions.csv.
pub fn positions(plan: &Plan, swept: &Cells) -> Result<Vec<Vec<Value>>> {
    let mut out = Vec::new();
    for entry in &plan.models {
        for policy in swept.distinct("policy")? {
            for (k, window) in (0..).zip(windows(plan, swept, &entry.name, policy)?) {
                let step = plan.window_every / 2 + k * plan.window_every;
                let keys =
                    [text(&entry.name), Value::Int(step.into()), text(policy), text(&budget(swept, window.row)?)];
                out.push(keys.into_iter().chain(decimals(window.layer()?)).collect());
            }
        }
    }
    Ok(out)
}

/// What a window measured, as attention of a stack.
struct Measured<'s> {
    system: &'s System,
    stack: Stack,
}

impl Attend for Measured<'_> {
    fn system(&self) -> &System {
        self.system
    }

    fn attend(&mut self, _: Form, wanted: &[Attention]) -> Result<Vec<Stack>> {
        Ok(vec![self.stack; wanted.len()])
    }
}

/// The stack of a window. The system model counts stacks by query heads; where these share keys and values, a device has
/// fewer full stacks, so that what stacks spend on heads is scaled.
fn stack(plan: &Plan, entry: &Entry, window: &Window<'_>, devices: u32, stacks: u32) -> Result<Stack> {
    let full_stacks = |heads: u32| {
        let on_device = f64::from((heads / devices).max(1) * plan.batch);
        on_device / (on_device / f64::from(stacks)).ceil()
    };
    let scale = full_stacks(entry.model.kv_heads) / full_stacks(entry.model.heads);
    let pj = |column: &str| window.per_step(column);
    let energy = Energy {
        activation: pj("energy_activation_pj")? * scale,
        column: pj("energy_column_pj")? * scale,
        movement: pj("energy_movement_pj")? * scale,
        compute: pj("energy_compute_pj")? * scale,
        refresh: pj("energy_refresh_pj")?,
        background: pj("energy_background_pj")?,
    };
    let cycles = window.per_step("cycles")?.round() as u64;
    Ok(Stack { cycles, seconds: window.per_step("time_ns")? * 1e-9, energy, moves: 0.0, mac_requests: 0.0 })
}

/// Rows of system.csv.
pub fn end_to_end(plan: &Plan, swept: &Cells) -> Result<Vec<Vec<Value>>> {
    let (platform, system): (_, System) = plan.platform(false)?;
    let devices = platform.gpu.devices as u32;
    let stacks = platform.pim.as_ref().map_or(1, |pim| pim.stacks);
    let mut out = Vec::new();
    for entry in &plan.models {
        let full = windows(plan, swept, &entry.name, "full")?;
        for policy in swept.distinct("policy")? {
            let sparse = windows(plan, swept, &entry.name, policy)?;
            let mut steps = Vec::new();
            for (k, (sparse, full)) in (0..).zip(sparse.iter().zip(&full)) {
                let tokens = plan.prefill + plan.window_every / 2 + k * plan.window_every;
                let layer = |window: &Window<'_>, budget: Budget| {
                    let stack = stack(plan, entry, window, devices, stacks)?;
                    let mut measured = Measured { system: &system, stack };
                    let service = service(plan, tokens - 1, 1, budget);
                    Ok(serve(&platform, &entry.model, &service, Some(&mut measured))?.mean())
                };
                let budget = match policy {
                    "full" => Budget::Full,
                    _ => Budget::Tokens(sparse.number("budget")? as u32),
                };
                let dense = f64::from(plan.dense_layers.min(entry.model.layers)) / f64::from(entry.model.layers);
                let mut step = Cost::default();
                step.add_scaled(&layer(full, Budget::Full)?, dense);
                step.add_scaled(&layer(sparse, budget)?, 1.0 - dense);
                steps.push(step);
            }
            for context in &plan.contexts {
                let parts = &steps[..(context / plan.window_every) as usize];
                let mut mean = Cost::default();
                parts.iter().for_each(|step| mean.add_scaled(step, 1.0 / parts.len() as f64));
                let keys = ["masks", &entry.name, &context.to_string(), policy].map(text);
                out.push(keys.into_iter().chain(measures(&mean).map(|x| Value::Float(x, 9))).collect());
            }
        }
    }
    Ok(out)
}
