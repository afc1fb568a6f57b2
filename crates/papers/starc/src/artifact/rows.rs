//! The tables of the experiment.

use super::{ArtifactBar, AttentionCost, BudgetRepeat, Budgets, DEVICES, STACKS};
use pimattn_attacc::Attention;
use pimattn_core::table::Value;
use pimattn_core::units::Cycle;
use pimattn_core::{columns, measures};

/// A model, a policy and a context, every step simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct BarRow {
    /// Name of the model.
    pub model: String,
    /// What the budgets are of.
    pub policy: String,
    /// Tokens of each prompt.
    pub prefill: u32,
    /// Tokens generated of each request.
    pub context: u32,
    /// Requests decoded together.
    pub batch: u32,
    /// Heads of a stack.
    pub heads: u32,
    /// Layers of the model.
    pub layers: u32,
    /// What the steps took.
    pub total: Total,
}

/// Sums of a bar: one layer, on one stack.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Total {
    steps: u64,
    tokens: u64,
    cycles: Cycle,
    ns: f64,
    energy_pj: f64,
}

/// A decode step: one layer, on one stack.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    model: String,
    policy: String,
    context: u32,
    step: u64,
    attention: Attention,
    cost: AttentionCost,
}

/// A table of budgets, and how it repeats itself.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetRow {
    /// Name of the model.
    pub model: String,
    /// What the budgets are of.
    pub policy: String,
    lines: usize,
    repeat: Option<BudgetRepeat>,
}

/// Columns of bars.csv.
pub mod bars {
    use super::*;

    measures! {
        /// A row is a model, a policy and a context.
        pub BARS of BarRow {
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            POLICY = columns::POLICY, "-", "what the budgets are of; full attends to all tokens", |r| (&r.policy).into();
            PREFILL = "prefill", "tokens", "prompt of each request", |r| r.prefill.into();
            CONTEXT = columns::CONTEXT, "tokens", "generated of each request, the first by the prefill", |r| r.context.into();
            BATCH = "batch", "1", "requests that are decoded together", |r| r.batch.into();
            HEADS = "heads", "1", "heads of a stack, all requests together", |r| r.heads.into();
            STEPS = columns::STEPS, "1", "decode steps, each of them simulated", |r| r.total.steps.into();
            MEAN_TOKENS = "mean_tokens", "tokens", "attended to by a head, in whole rows; mean over steps",
                |r| Value::Float(r.total.tokens as f64 / r.total.steps as f64, 3);
            CYCLES = columns::CYCLES, "cycles", "attention of one layer, sum over steps", |r| r.total.cycles.into();
            LAYER_MS = "layer_ms", "ms", "the same as time", |r| Value::Float(r.total.ns * 1e-6, 6);
            ATTENTION_MS = "attention_ms", "ms", "all layers, one after the other",
                |r| Value::Float(r.attention_ms(), 6);
            STEP_MS = "step_ms", "ms", "attention_ms of a decode step, mean (g_matmul of the artifact)",
                |r| Value::Float(r.attention_ms() / r.total.steps as f64, 9);
            ENERGY_MJ = "energy_mj", "mJ", "all layers on all stacks, by the system's energy model",
                |r| Value::Float(r.total.energy_pj * f64::from(r.layers) * f64::from(DEVICES * STACKS) * 1e-9, 6);
        }
    }
}

/// Columns of steps.csv.
pub mod steps {
    use super::*;

    measures! {
        /// A row is a decode step: one layer, on one stack.
        pub STEPS of StepRow {
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            POLICY = columns::POLICY, "-", "what the budgets are of; full attends to all tokens", |r| (&r.policy).into();
            CONTEXT = columns::CONTEXT, "tokens", "generated of each request, the first by the prefill", |r| r.context.into();
            STEP = columns::STEP, "1", "decode step, from 0", |r| r.step.into();
            TOKENS = "tokens", "tokens", "in the cache of each head", |r| r.attention.len.into();
            BUDGET = columns::BUDGET, "tokens", "tokens that a head may attend to, from the table",
                |r| r.attention.kv_budget.into();
            ROW_TOKENS = columns::ROW_TOKENS, "tokens", "tokens that it attends to: the budget in whole rows",
                |r| r.attention.attended(super::super::FORM).into();
            CLUSTERING = "clustering", "1", "1 where the artifact's clustering comes first",
                |r| u32::from(r.attention.clustering).into();
            CYCLES = columns::CYCLES, "cycles", "until the last result is there", |r| r.cost.cycles.into();
            TIME_NS = columns::TIME_NS, "ns", "the same as time", |r| Value::Float(r.cost.ns, 3);
            ENERGY_PJ = columns::ENERGY_PJ, "pJ", "by the system's energy model", |r| Value::Float(r.cost.energy_pj, 1);
            ACTIVATIONS = columns::ACTIVATIONS, "1", "rows opened, one per bank", |r| r.cost.activations.into();
        }
    }
}

/// Columns of budgets.csv.
pub mod budgets {
    use super::*;

    measures! {
        /// A row is a table of budgets.
        pub BUDGETS of BudgetRow {
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            POLICY = columns::POLICY, "-", "what the budgets are of", |r| (&r.policy).into();
            LINES = "lines", "1", "budgets in the table, one for each decode step", |r| r.lines.into();
            OFFSET = "offset", "1", "lines ahead of those that repeat; empty where none do",
                |r| r.repeat.map(|b| b.offset).into();
            PERIOD = "period", "1",
                "lines after which the others repeat exactly, to the end of the table; 1: the same number in all; empty where \
                 more than half are new",
                |r| r.repeat.map(|b| b.period).into();
            TIMES = "times", "1", "how often they are there", |r| match r.repeat {
                Some(b) => Value::Float((r.lines - b.offset) as f64 / b.period as f64, 2),
                None => Value::Unknown,
            };
        }
    }
}

impl BudgetRow {
    /// Of the table of a model and a policy.
    pub fn new(model: &str, policy: &str, budgets: &Budgets) -> Self {
        BudgetRow { model: model.into(), policy: policy.into(), lines: budgets.lines(), repeat: budgets.repeat() }
    }
}

impl Total {
    /// Adds a step.
    pub(super) fn add(&mut self, attention: &Attention, cost: &AttentionCost) {
        self.steps += 1;
        self.tokens += attention.attended(super::FORM);
        self.cycles += cost.cycles;
        self.ns += cost.ns;
        self.energy_pj += cost.energy_pj;
    }
}

impl BarRow {
    pub(super) fn new(bar: &ArtifactBar, total: Total) -> Self {
        BarRow {
            model: bar.model.name.clone(),
            policy: bar.policy.name.clone(),
            prefill: bar.prefill,
            context: bar.context,
            batch: bar.batch,
            heads: bar.model.heads_per_stack(bar.batch),
            layers: bar.model.layers,
            total,
        }
    }

    fn attention_ms(&self) -> f64 {
        self.total.ns * f64::from(self.layers) * 1e-6
    }
}

impl StepRow {
    pub(super) fn new(bar: &ArtifactBar, step: u64, attention: Attention, cost: AttentionCost) -> Self {
        let (model, policy) = (bar.model.name.clone(), bar.policy.name.clone());
        StepRow { model, policy, context: bar.context, step, attention, cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_does_not_repeat_has_no_period() {
        let repeat = Some(BudgetRepeat { offset: 2, period: 4 });
        let row = BudgetRow { model: "m".into(), policy: "p".into(), lines: 12, repeat };
        let cells = |row: &BudgetRow| {
            budgets::BUDGETS.iter().map(|m| format!("{}={}", m.name(), m.value(row))).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(cells(&row), "model=m policy=p lines=12 offset=2 period=4 times=2.50");
        assert_eq!(cells(&BudgetRow { repeat: None, ..row }), "model=m policy=p lines=12 offset= period= times=");
    }

    #[test]
    fn every_column_of_a_bar_has_its_own_value() {
        let total = Total { steps: 4, tokens: 10, cycles: 5, ns: 6e6, energy_pj: 7e6 };
        let (model, policy) = ("m".to_string(), "p".to_string());
        let row = BarRow { model, policy, prefill: 1, context: 2, batch: 3, heads: 8, layers: 9, total };
        let cells: Vec<_> = bars::BARS.iter().map(|m| format!("{}={}", m.name(), m.value(&row))).collect();
        assert_eq!(
            cells.join(" "),
            "model=m policy=p prefill=1 context=2 batch=3 heads=8 steps=4 mean_tokens=2.500 cycles=5 \
             layer_ms=6.000000 attention_ms=54.000000 step_ms=13.500000000 energy_mj=2.520000"
        );
    }
}
