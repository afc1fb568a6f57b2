//! Real-mask mode: windows of decode steps that were generated and replayed, put together to contexts and carried end to
//! end.
//!
//! A window is some consecutive decode steps of one sparse layer on the fullest stack, at the middle of an equal part of
//! the decode. What is not simulated is taken to be like it: the other steps of the part, the other sparse layers, the
//! other stacks. Layers that stay dense are those of policy `full` at the same place. A grid may have several caches, of other layers
//! and seeds: tables are means over them, and reductions have intervals.

use super::columns::{ByPhase, MaskRow, PositionRow, SelectionMode, SparseLayer, SystemRow};
use super::plan::{ExperimentModel, ExperimentPlan};
use super::published::service;
use crate::policies::{FULL, heeds_budget};
use pimattn_attacc::{Attention, Form};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::table::Measure;
use pimattn_experiments::end_to_end::Platform;
use pimattn_experiments::end_to_end::attention::{Attend, StackCost};
use pimattn_experiments::end_to_end::cost::Cost;
use pimattn_experiments::end_to_end::step::{TokenBudget, serve};
use pimattn_experiments::end_to_end::table as step_cost;
use pimattn_experiments::sweep::table::{SweepRow, SweepTable};
use pimattn_stats::books::WAITING;
use pimattn_stats::energy::Energy;
use pimattn_trace::Phase;

/// The axis of models in the grid of windows.
pub const MODELS: &str = "variant";

/// The axis of the tokens in the cache before a window.
const PREFILL: &str = "synthetic.prefill";

/// Axes of caches, the layer first, which the bootstrap draws first. A grid may lack them.
const CACHES: [&str; 2] = ["synthetic.layer_numbers", "seed"];

/// A cache that all policies ran on.
struct MaskCache<'s> {
    /// Place of its layer among those of the grid.
    layer: usize,
    /// Those of [`CACHES`] that the grid has, with its values.
    axes: Vec<(&'static str, &'s str)>,
}

/// The caches of a grid, in its order.
fn caches(swept: &SweepTable) -> Result<Vec<MaskCache<'_>>> {
    let known: Vec<&'static str> = CACHES.into_iter().filter(|axis| swept.has_axis(axis)).collect();
    let layers = if swept.has_axis(CACHES[0]) { swept.distinct(CACHES[0])? } else { Vec::new() };
    let mut out: Vec<MaskCache<'_>> = Vec::new();
    for row in swept.rows() {
        let axes = known.iter().map(|axis| Ok((*axis, swept.axis(row, axis)?))).collect::<Result<Vec<_>>>()?;
        if !out.iter().any(|cache| cache.axes == axes) {
            let of_layer = |(axis, value): &(&str, &str)| {
                (*axis == CACHES[0]).then(|| layers.iter().position(|layer| layer == value)).flatten()
            };
            out.push(MaskCache { layer: axes.iter().find_map(of_layer).unwrap_or(0), axes });
        }
    }
    Ok(out)
}

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

/// Windows of a model and a policy on a cache, in the order of the decode; each must be where the plan has it.
fn windows<'s>(
    plan: &ExperimentPlan,
    swept: &'s SweepTable,
    cache: &MaskCache<'_>,
    model: &str,
    policy: &str,
) -> Result<Vec<&'s SweepRow>> {
    let wanted = [&[(MODELS, model), (columns::POLICY, policy)], cache.axes.as_slice()].concat();
    let windows = swept.find(&wanted)?;
    let parts = plan.contexts.iter().max().map_or(0, |longest| longest / plan.window_every);
    let expected: Vec<f64> =
        (0..parts).map(|k| f64::from(plan.prefill) + f64::from(plan.window_every) * (f64::from(k) + 0.5)).collect();
    let middle = |w: &&SweepRow| Ok(swept.number(w, PREFILL)? + w.steps / 2.0);
    let found = windows.iter().map(middle).collect::<Result<Vec<_>>>()?;
    match found == expected {
        true => Ok(windows),
        false => {
            let said: Vec<String> = wanted.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
            let what = format!(
                "{}: windows of {} are around tokens {found:?}; the plan has them at {expected:?}",
                plan.grids.masks.display(),
                said.join(" ")
            );
            Err(Error::Usage(what))
        }
    }
}

/// What real-mask mode finds.
pub struct MaskTables {
    /// Rows of masks.csv.
    pub contexts: Vec<MaskRow>,
    /// Rows of positions.csv.
    pub positions: Vec<PositionRow>,
    /// Rows of system.csv.
    pub system: Vec<SystemRow>,
    /// What the policies take on each cache.
    pub costs: Vec<CacheCosts>,
}

/// What a policy takes of a model and a context, cache by cache.
#[derive(Debug)]
pub struct CacheCosts {
    /// The model.
    pub model: String,
    /// Tokens generated of each request.
    pub context: u32,
    /// What chooses the tokens.
    pub policy: String,
    /// In the order of the grid.
    pub caches: Vec<CacheCost>,
}

/// What a policy takes on a cache, a decode step.
#[derive(Debug, Clone, Copy)]
pub struct CacheCost {
    /// What the bootstrap draws first.
    pub layer: usize,
    /// Time (us) and energy (uJ) of a sparse layer's attention.
    pub attention: [f64; 2],
    /// Time (ms) and energy (mJ) of the whole step.
    pub end_to_end: [f64; 2],
}

/// The windows of a policy on a cache, in the order of the decode.
struct CacheWindows {
    /// What the bootstrap draws first.
    layer: usize,
    /// What each measured.
    layers: Vec<SparseLayer>,
    /// A decode step at each, end to end.
    steps: Vec<Cost>,
}

impl CacheWindows {
    /// What the first windows cost.
    fn cost(&self, parts: usize) -> Result<CacheCost> {
        let (layer, step) = (mean_layer(&self.layers[..parts]), mean_cost(self.steps[..parts].iter()));
        let of = |measure: &Measure<Cost>| {
            measure.number(&step).ok_or_else(|| Error::Usage(format!("{} of a step is no number", measure.name())))
        };
        Ok(CacheCost {
            layer: self.layer,
            attention: [layer.us.all, layer.uj.all],
            end_to_end: [of(&step_cost::STEP_MS)?, of(&step_cost::ENERGY_MJ)?],
        })
    }
}

/// The windows of a policy on all caches.
struct PolicyWindows<'s> {
    policy: &'s str,
    budget: String,
    /// Decode steps of a window.
    window_steps: f64,
    caches: Vec<CacheWindows>,
}

impl<'s> PolicyWindows<'s> {
    fn of(
        plan: &ExperimentPlan,
        swept: &'s SweepTable,
        caches: &[MaskCache<'_>],
        model: &StepModel,
        entry: &ExperimentModel,
        policy: &'s str,
    ) -> Result<Self> {
        let mut out = PolicyWindows { policy, budget: String::new(), window_steps: 0.0, caches: Vec::new() };
        for cache in caches {
            let dense = windows(plan, swept, cache, &entry.name, FULL)?;
            let sparse = windows(plan, swept, cache, &entry.name, policy)?;
            let mut of_cache = CacheWindows { layer: cache.layer, layers: Vec::new(), steps: Vec::new() };
            for (k, (sparse, full)) in (0..).zip(sparse.iter().zip(&dense)) {
                let tokens = plan.prefill + plan.window_every / 2 + k * plan.window_every;
                let budget = match heeds_budget(policy)? {
                    true => Some(swept.number(sparse, columns::BUDGET)? as u32),
                    false => None,
                };
                of_cache.layers.push(layer(sparse)?);
                of_cache.steps.push(model.step(plan, entry, [full, sparse], tokens, budget)?);
                out.budget = budget_of(swept, sparse)?;
                out.window_steps = sparse.steps;
            }
            out.caches.push(of_cache);
        }
        Ok(out)
    }

    /// What the first windows measured, on all caches.
    fn layers(&self, parts: usize) -> Vec<SparseLayer> {
        self.caches.iter().flat_map(|cache| &cache.layers[..parts]).copied().collect()
    }
}

fn mean_cost<'c>(costs: impl ExactSizeIterator<Item = &'c Cost>) -> Cost {
    let (mut mean, share) = (Cost::default(), 1.0 / costs.len() as f64);
    costs.for_each(|cost| mean.add_scaled(cost, share));
    mean
}

/// Puts the windows of a grid together.
///
/// # Errors
/// When windows are not where the plan has them, or lack a number; those of [`StepModel::load`] and [`StepModel::step`].
pub fn run(plan: &ExperimentPlan, swept: &SweepTable) -> Result<MaskTables> {
    let (caches, steps) = (caches(swept)?, StepModel::load(plan)?);
    let layers = caches.iter().map(|cache| cache.layer).max().map_or(0, |last| last + 1);
    let mut out = MaskTables { contexts: Vec::new(), positions: Vec::new(), system: Vec::new(), costs: Vec::new() };
    for entry in &plan.models {
        let of = |policy| PolicyWindows::of(plan, swept, &caches, &steps, entry, policy);
        let policies = swept.distinct(columns::POLICY)?.into_iter().map(of).collect::<Result<Vec<_>>>()?;
        let model = || entry.name.clone();
        for p in &policies {
            out.positions.extend((0..).zip(positions(p)).map(|(k, layer)| PositionRow {
                model: model(),
                step: plan.window_every / 2 + k * plan.window_every,
                policy: p.policy.into(),
                budget: p.budget.clone(),
                layer,
            }));
            for context in &plan.contexts {
                let parts = (context / plan.window_every) as usize;
                let steps: Vec<&Cost> = p.caches.iter().flat_map(|cache| &cache.steps[..parts]).collect();
                let (model, policy, cost) = (model(), p.policy.into(), mean_cost(steps.into_iter()));
                out.system.push(SystemRow { mode: SelectionMode::Masks, model, context: *context, policy, cost });
            }
        }
        for context in &plan.contexts {
            let parts = (context / plan.window_every) as usize;
            for p in &policies {
                out.contexts.push(MaskRow {
                    model: model(),
                    context: *context,
                    policy: p.policy.into(),
                    budget: p.budget.clone(),
                    windows: parts,
                    window_steps: p.window_steps as u64,
                    simulated_percent: 100.0 * p.window_steps * parts as f64 / f64::from(*context),
                    simulated_layers: layers as u32,
                    caches: caches.len() as u64,
                    layer: mean_layer(&p.layers(parts)),
                });
                let caches = p.caches.iter().map(|cache| cache.cost(parts)).collect::<Result<_>>()?;
                out.costs.push(CacheCosts { model: model(), context: *context, policy: p.policy.into(), caches });
            }
        }
    }
    Ok(out)
}

/// What each window measured, the mean over caches.
fn positions(policy: &PolicyWindows<'_>) -> Vec<SparseLayer> {
    let count = policy.caches.first().map_or(0, |cache| cache.layers.len());
    let of = |k: usize| mean_layer(&policy.caches.iter().map(|cache| cache.layers[k]).collect::<Vec<_>>());
    (0..count).map(of).collect()
}

/// Budget of a point: its axis, or what the policy was given by the workload.
fn budget_of(swept: &SweepTable, row: &SweepRow) -> Result<String> {
    Ok(swept.axis(row, columns::BUDGET)?.to_string())
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
