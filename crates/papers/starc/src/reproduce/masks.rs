//! Real-mask mode: windows of decode steps that were generated and replayed, put together to contexts and carried end to
//! end.
//!
//! A window is some consecutive decode steps of one sparse layer on the fullest stack, at the middle of an equal part of
//! the decode. What is not simulated is taken to be like it: the other steps of the part, the other sparse layers, the
//! other stacks. Layers that stay dense are those of policy `full` at the same place.

use super::columns::{ByPhase, MaskRow, PositionRow, SelectionMode, SparseLayer, SystemRow};
use super::plan::{ExperimentModel, ExperimentPlan};
use super::published::service;
use crate::policies::{FULL, heeds_budget};
use pimattn_attacc::{Attention, Form};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_experiments::end_to_end::Platform;
use pimattn_experiments::end_to_end::attention::{Attend, StackCost};
use pimattn_experiments::end_to_end::cost::Cost;
use pimattn_experiments::end_to_end::step::{TokenBudget, serve};
use pimattn_experiments::sweep::table::{SweepRow, SweepTable};
use pimattn_stats::books::WAITING;
use pimattn_stats::energy::Energy;
use pimattn_trace::Phase;

/// The axis of models in the grid of windows.
pub const MODELS: &str = "variant";

/// The axis of the tokens in the cache before a window.
const PREFILL: &str = "synthetic.prefill";

/// A number of a window, a decode step.
fn per_step(window: &SweepRow, x: f64) -> f64 {
    x / window.steps
}

/// Time or energy by the report's phases, which are sums of the trace's.
fn by_phase(window: &SweepRow, scale: f64, of: fn(&(f64, f64)) -> f64) -> ByPhase {
    let sum = |phases: &[usize]| phases.iter().map(|p| per_step(window, of(&window.phases[*p]))).sum::<f64>() * scale;
    let phases = |phases: &[Phase]| sum(&phases.iter().map(|p| *p as usize).collect::<Vec<_>>());
    let mut out = ByPhase {
        all: 0.0,
        append: phases(&[Phase::Append]),
        cluster: phases(&[Phase::Cluster, Phase::Remap]),
        select: phases(&[Phase::Select]),
        attend: phases(&[Phase::AttendScore, Phase::AttendContext]),
        softmax: phases(&[Phase::Softmax]),
        wait: sum(&[WAITING]),
        other: phases(&[Phase::Other]),
    };
    out.all = [out.append, out.cluster, out.select, out.attend, out.softmax, out.wait, out.other].iter().sum();
    out
}

/// What a window measured of its layer.
fn layer(window: &SweepRow) -> Result<SparseLayer> {
    Ok(SparseLayer {
        us: by_phase(window, 1e-3, |(ns, _)| *ns),
        uj: by_phase(window, 1e-6, |(_, pj)| *pj),
        selected: window.needs(columns::SELECTED, window.selected)?,
        row_tokens: window.needs(columns::METRIC_ROW_TOKENS, window.row_tokens)?,
        activations: per_step(window, window.activations),
        top_recall: window.needs(columns::TOP_RECALL, window.top_recall)?,
        mass_recall: window.needs(columns::MASS_RECALL, window.mass_recall)?,
        output_rel_err: window.needs(columns::OUTPUT_REL_ERR, window.output_rel_err)?,
        imbalance_units: window.needs(columns::IMBALANCE_UNITS, window.imbalance_units)?,
    })
}

/// The mean of layers. Shares are of the means, not means of shares.
fn mean_layer(layers: &[SparseLayer]) -> SparseLayer {
    let mean = |of: &dyn Fn(&SparseLayer) -> f64| layers.iter().map(of).sum::<f64>() / layers.len() as f64;
    let by_phase = |of: fn(&SparseLayer) -> &ByPhase| ByPhase {
        all: mean(&|l| of(l).all),
        append: mean(&|l| of(l).append),
        cluster: mean(&|l| of(l).cluster),
        select: mean(&|l| of(l).select),
        attend: mean(&|l| of(l).attend),
        softmax: mean(&|l| of(l).softmax),
        wait: mean(&|l| of(l).wait),
        other: mean(&|l| of(l).other),
    };
    SparseLayer {
        us: by_phase(|l| &l.us),
        uj: by_phase(|l| &l.uj),
        selected: mean(&|l| l.selected),
        row_tokens: mean(&|l| l.row_tokens),
        activations: mean(&|l| l.activations),
        top_recall: mean(&|l| l.top_recall),
        mass_recall: mean(&|l| l.mass_recall),
        output_rel_err: mean(&|l| l.output_rel_err),
        imbalance_units: mean(&|l| l.imbalance_units),
    }
}

/// Windows of a model and a policy, in the order of the decode; each must be where the plan has it.
fn windows<'s>(plan: &ExperimentPlan, swept: &'s SweepTable, model: &str, policy: &str) -> Result<Vec<&'s SweepRow>> {
    let windows = swept.find(&[(MODELS, model), (columns::POLICY, policy)])?;
    let parts = plan.contexts.iter().max().map_or(0, |longest| longest / plan.window_every);
    let expected: Vec<f64> =
        (0..parts).map(|k| f64::from(plan.prefill) + f64::from(plan.window_every) * (f64::from(k) + 0.5)).collect();
    let middle = |w: &&SweepRow| Ok(swept.number(w, PREFILL)? + w.steps / 2.0);
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

/// Rows of masks.csv.
pub fn contexts(plan: &ExperimentPlan, swept: &SweepTable) -> Result<Vec<MaskRow>> {
    let mut out = Vec::new();
    for entry in &plan.models {
        for context in &plan.contexts {
            for policy in swept.distinct(columns::POLICY)? {
                let windows = windows(plan, swept, &entry.name, policy)?;
                let windows = &windows[..(context / plan.window_every) as usize];
                let layers = windows.iter().map(|w| layer(w)).collect::<Result<Vec<_>>>()?;
                let steps = windows[0].steps;
                out.push(MaskRow {
                    model: entry.name.clone(),
                    context: *context,
                    policy: policy.into(),
                    budget: budget(swept, windows[0])?,
                    windows: windows.len(),
                    window_steps: steps as u64,
                    simulated_percent: 100.0 * steps * layers.len() as f64 / f64::from(*context),
                    simulated_layers: 1,
                    layer: mean_layer(&layers),
                });
            }
        }
    }
    Ok(out)
}

/// Budget of a point: its axis, or what the policy was given by the workload.
fn budget(swept: &SweepTable, row: &SweepRow) -> Result<String> {
    Ok(swept.axis(row, columns::BUDGET)?.to_string())
}

/// Rows of positions.csv.
pub fn positions(plan: &ExperimentPlan, swept: &SweepTable) -> Result<Vec<PositionRow>> {
    let mut out = Vec::new();
    for entry in &plan.models {
        for policy in swept.distinct(columns::POLICY)? {
            for (k, window) in (0..).zip(windows(plan, swept, &entry.name, policy)?) {
                out.push(PositionRow {
                    model: entry.name.clone(),
                    step: plan.window_every / 2 + k * plan.window_every,
                    policy: policy.into(),
                    budget: budget(swept, window)?,
                    layer: layer(window)?,
                });
            }
        }
    }
    Ok(out)
}

/// What a window measured, as attention of a stack.
struct WindowAttention<'s> {
    system: &'s System,
    stack: StackCost,
}

impl Attend for WindowAttention<'_> {
    fn system(&self) -> &System {
        self.system
    }

    fn attend(&mut self, _: Form, wanted: &[Attention]) -> Result<Vec<StackCost>> {
        Ok(vec![self.stack; wanted.len()])
    }
}

/// The stack of a window. The system model counts stacks by query heads; where these share keys and values, a device has
/// fewer full stacks, so that what stacks spend on heads is scaled.
fn stack(plan: &ExperimentPlan, entry: &ExperimentModel, window: &SweepRow, devices: u32, stacks: u32) -> StackCost {
    let full_stacks = |heads: u32| {
        let on_device = f64::from((heads / devices).max(1) * plan.batch);
        on_device / (on_device / f64::from(stacks)).ceil()
    };
    let scale = full_stacks(entry.model.kv_heads) / full_stacks(entry.model.heads);
    let pj = |x: f64| per_step(window, x);
    let energy = Energy {
        activation: pj(window.energy.activation) * scale,
        column: pj(window.energy.column) * scale,
        movement: pj(window.energy.movement) * scale,
        compute: pj(window.energy.compute) * scale,
        refresh: pj(window.energy.refresh),
        background: pj(window.energy.background),
    };
    let cycles = per_step(window, window.cycles).round() as u64;
    StackCost { cycles, seconds: per_step(window, window.ns) * 1e-9, energy, moves: 0.0, mac_requests: 0.0 }
}

/// The system that decode steps are carried through, from the attention of a stack to the whole step.
pub struct StepModel {
    platform: Platform,
    system: System,
    devices: u32,
    stacks: u32,
}

impl StepModel {
    /// The plan's platform, without switches.
    ///
    /// # Errors
    /// Those of [`ExperimentPlan::platform`].
    pub fn load(plan: &ExperimentPlan) -> Result<Self> {
        let (platform, system) = plan.platform(false)?;
        let devices = platform.gpu.devices as u32;
        let stacks = platform.pim.as_ref().map_or(1, |pim| pim.stacks);
        Ok(StepModel { platform, system, devices, stacks })
    }

    /// A decode step of a model whose layers that stay full are like the first window, and whose other layers are like the second, with
    /// so many tokens in the cache; the budget is none where the policy takes no notice of it.
    ///
    /// # Errors
    /// Those of [`serve`].
    pub fn step(
        &self,
        plan: &ExperimentPlan,
        entry: &ExperimentModel,
        [full, sparse]: [&SweepRow; 2],
        tokens: u32,
        budget: Option<u32>,
    ) -> Result<Cost> {
        let layer = |window: &SweepRow, budget: TokenBudget| {
            let stack = stack(plan, entry, window, self.devices, self.stacks);
            let mut measured = WindowAttention { system: &self.system, stack };
            let service = service(plan, tokens - 1, 1, budget);
            Ok::<_, Error>(serve(&self.platform, &entry.model, &service, Some(&mut measured))?.mean())
        };
        let budget = budget.map_or(TokenBudget::Full, TokenBudget::Tokens);
        let dense = f64::from(plan.dense_layers.min(entry.model.layers)) / f64::from(entry.model.layers);
        let mut step = Cost::default();
        step.add_scaled(&layer(full, TokenBudget::Full)?, dense);
        step.add_scaled(&layer(sparse, budget)?, 1.0 - dense);
        Ok(step)
    }
}

/// Rows of system.csv.
pub fn end_to_end(plan: &ExperimentPlan, swept: &SweepTable) -> Result<Vec<SystemRow>> {
    let model = StepModel::load(plan)?;
    let mut out = Vec::new();
    for entry in &plan.models {
        let dense = windows(plan, swept, &entry.name, FULL)?;
        for policy in swept.distinct(columns::POLICY)? {
            let sparse = windows(plan, swept, &entry.name, policy)?;
            let mut steps = Vec::new();
            for (k, (sparse, full)) in (0..).zip(sparse.iter().zip(&dense)) {
                let tokens = plan.prefill + plan.window_every / 2 + k * plan.window_every;
                let budget = match heeds_budget(policy)? {
                    true => Some(swept.number(sparse, columns::BUDGET)? as u32),
                    false => None,
                };
                steps.push(model.step(plan, entry, [full, sparse], tokens, budget)?);
            }
            for context in &plan.contexts {
                let parts = &steps[..(context / plan.window_every) as usize];
                let mut mean = Cost::default();
                parts.iter().for_each(|step| mean.add_scaled(step, 1.0 / parts.len() as f64));
                let (model, policy) = (entry.name.clone(), policy.to_string());
                out.push(SystemRow { mode: SelectionMode::Masks, model, context: *context, policy, cost: mean });
            }
        }
    }
    Ok(out)
}
