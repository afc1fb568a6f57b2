//! The tables of the experiment.

use super::{Bar, Cost, DEVICES, STACKS};
use pimattn_attacc::Attention;
use pimattn_core::table::{Column, Value, column};
use pimattn_core::units::Cycle;

/// Columns of bars.csv; a row is a model, a policy and a context.
pub const BARS: &[Column] = &[
    column("model", "-", "the model"),
    column("policy", "-", "what the budgets are of; full attends to all tokens"),
    column("prefill", "tokens", "prompt of each request"),
    column("context", "tokens", "generated of each request, the first by the prefill"),
    column("batch", "1", "requests that are decoded together"),
    column("heads", "1", "heads of a stack, all requests together"),
    column("steps", "1", "decode steps, each of them simulated"),
    column("mean_tokens", "tokens", "attended to by a head, in whole rows; mean over steps"),
    column("cycles", "cycles", "attention of one layer, sum over steps"),
    column("layer_ms", "ms", "the same as time"),
    column("attention_ms", "ms", "all layers, one after the other"),
    column("step_ms", "ms", "attention_ms of a decode step, mean (g_matmul of the artifact)"),
    column("energy_mj", "mJ", "all layers on all stacks, by the system's energy model"),
];

/// Columns of steps.csv; a row is a decode step: one layer, on one stack.
pub const STEPS: &[Column] = &[
    column("model", "-", "the model"),
    column("policy", "-", "what the budgets are of; full attends to all tokens"),
    column("context", "tokens", "generated of each request, the first by the prefill"),
    column("step", "1", "decode step, from 0"),
    column("tokens", "tokens", "in the cache of each head"),
    column("budget", "tokens", "tokens that a head may attend to, from the table"),
    column("row_tokens", "tokens", "tokens that it attends to: the budget in whole rows"),
    column("clustering", "1", "1 where the artifact's clustering comes first"),
    column("cycles", "cycles", "until the last result is there"),
    column("time_ns", "ns", "the same as time"),
    column("energy_pj", "pJ", "by the system's energy model"),
    column("activations", "1", "rows opened, one per bank"),
];

/// Sums of a bar.
#[derive(Debug, Default)]
pub struct Total {
    steps: u64,
    tokens: u64,
    cycles: Cycle,
    ns: f64,
    energy_pj: f64,
}

impl Total {
    /// Adds a step.
    pub fn add(&mut self, attention: &Attention, cost: &Cost) {
        self.steps += 1;
        self.tokens += attention.attended(super::FORM);
        self.cycles += cost.cycles;
        self.ns += cost.ns;
        self.energy_pj += cost.energy_pj;
    }
}

/// A row of [`BARS`].
pub fn bar(bar: &Bar, total: &Total) -> Vec<Value> {
    let (layers, steps) = (f64::from(bar.model.layers), total.steps as f64);
    let attention_ms = total.ns * layers * 1e-6;
    vec![
        Value::Text(bar.model.name.into()),
        Value::Text(bar.policy.name.into()),
        Value::Int(bar.prefill.into()),
        Value::Int(bar.context.into()),
        Value::Int(bar.batch.into()),
        Value::Int(bar.model.heads_per_stack(bar.batch).into()),
        Value::Int(total.steps),
        Value::Float(total.tokens as f64 / steps, 3),
        Value::Int(total.cycles),
        Value::Float(total.ns * 1e-6, 6),
        Value::Float(attention_ms, 6),
        Value::Float(attention_ms / steps, 9),
        Value::Float(total.energy_pj * layers * f64::from(DEVICES * STACKS) * 1e-9, 6),
    ]
}

/// A row of [`STEPS`].
pub fn step(bar: &Bar, step: u64, attention: &Attention, cost: &Cost) -> Vec<Value> {
    vec![
        Value::Text(bar.model.name.into()),
        Value::Text(bar.policy.name.into()),
        Value::Int(bar.context.into()),
        Value::Int(step),
        Value::Int(attention.len.into()),
        attention.kv_budget.map_or(Value::Unknown, |b| Value::Int(b.into())),
        Value::Int(attention.attended(super::FORM)),
        Value::Int(attention.clustering.into()),
        Value::Int(cost.cycles),
        Value::Float(cost.ns, 3),
        Value::Float(cost.energy_pj, 1),
        Value::Int(cost.activations),
    ]
}
