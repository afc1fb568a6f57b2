//! The tables of `pimsim system`.

use super::Model;
use super::cost::{Cost, EnergyComponent};
use super::fit::FittedRun;
use super::layer::LayerPart;
use super::platform::Platform;
use super::step::{Service, ServiceCost, TokenBudget};
use super::switches::{Reference, Switch};
use pimattn_core::columns;
use pimattn_core::measures;
use pimattn_core::table::{TableLayout, Value};

const ATTENTION_PARTS: [LayerPart; 4] = [LayerPart::Score, LayerPart::Softmax, LayerPart::Context, LayerPart::Policy];
const WEIGHT_PARTS: [LayerPart; 3] = [LayerPart::Qkv, LayerPart::Projection, LayerPart::FeedForward];
const ELEMENTWISE_PARTS: [LayerPart; 2] = [LayerPart::Activation, LayerPart::Norm];

/// The mean decode step of a service, or one of its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRow {
    model: String,
    platform: String,
    attention: &'static str,
    reference: String,
    bytes: u32,
    batch: u32,
    prefill: u32,
    steps: u32,
    step: Option<u32>,
    kv_budget: Option<u32>,
    /// None where attention is by a budget.
    run: Option<RunLabel>,
    /// None where there are no PIM devices.
    options: Option<PimOptions>,
    step_cost: Cost,
    prefill_cost: Cost,
}

/// The run whose attention a row has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RunLabel {
    trace: String,
    policy: Option<String>,
    measured_layers: u32,
    dense_layers: u32,
}

/// What is chosen of PIM devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PimOptions {
    power_limit: bool,
    pipeline: bool,
    coprocess: bool,
}

/// What a switch changes: the service with no switch, with this one alone, with all of the first reference that has it,
/// and with those but this one.
#[derive(Debug, Clone, PartialEq)]
pub struct SwitchRow {
    switch: Switch,
    none: Cost,
    alone: Cost,
    all: Cost,
    without: Cost,
    prefill_none: f64,
    prefill_alone: f64,
}

/// Which service, and which of its steps.
mod service {
    use super::*;

    measures! {
        /// Which service, and which of its steps.
        pub(super) KEYS of ServiceRow {
            MODEL = "model", "-", "name of the model file's model", |r| (&r.model).into();
            PLATFORM = "platform", "-", "name of the platform file's platform", |r| (&r.platform).into();
            ATTENTION = "attention", "-",
                "where attention is: gpu; the PIM devices, with GEMV units by bank, bg, buffer; or run, on the PIM devices as a run has measured it",
                |r| r.attention.into();
            REFERENCE = "reference", "-",
                "published simulator, or its switches, that the row follows; none",
                |r| (&r.reference).into();
            BYTES = "bytes", "B", "bytes of an element", |r| r.bytes.into();
            BATCH = "batch", "1", "requests decoded together", |r| r.batch.into();
            PREFILL = "prefill", "tokens", "tokens of each prompt", |r| r.prefill.into();
            STEPS = "steps", "1", "decode steps of the service", |r| r.steps.into();
            STEP = "step", "1", "decode step, from 0; empty for the mean of all", |r| r.step.into();
            KV_BUDGET = "kv_budget", "tokens",
                "tokens that a query head may attend to; empty for all, or where steps differ",
                |r| r.kv_budget.into();
            RUN = "run", "-",
                "the trace of the run whose attention the row has: on the PIM devices as it was measured, on GPUs as its tokens are gathered; empty for a budget",
                |r| run(r, |l| (&l.trace).into());
            POLICY = columns::POLICY, "-", "selection policy of the run, where its trace says it", |r| run(r, |l| l.policy.as_ref().into());
            LAYERS_MEASURED = "layers_measured", "1",
                "layers of the model that the run has measured; others count as the mean of those behind the dense layers",
                |r| run(r, |l| l.measured_layers.into());
            DENSE_LAYERS = "dense_layers", "1",
                "first layers of the model, which stay full; where the run has measured none of them, they count as the mean layer of a run of full attention",
                |r| run(r, |l| l.dense_layers.into());
            POWER_LIMIT = "power_limit", "-", "whether the supply limits activations", |r| on(r, |o| o.power_limit);
            PIPELINE = "pipeline", "-",
                "whether heads are pipelined through projections and attention",
                |r| on(r, |o| o.pipeline);
            COPROCESS = "coprocess", "-",
                "whether PIM devices take a part of the feed-forward matrices",
                |r| on(r, |o| o.coprocess);
        }
    }
}

/// What a step is for each token.
mod rate {
    use super::*;

    measures! {
        /// What a step is for each token.
        pub(super) MEASURES of ServiceRow {
            TOKENS_PER_S = "tokens_per_s", "1/s", "tokens generated in a second: the batch over step_ms",
                |r| decimal(f64::from(r.batch) / r.step_cost.time());
            TOKEN_MJ = "token_mj", "mJ", "energy of a generated token: energy_mj over the batch",
                |r| mj(r.step_cost.total_energy() / f64::from(r.batch));
        }
    }
}

measures! {
    /// What a decode step costs.
    pub STEP_MEASURES of Cost {
        STEP_MS = "step_ms", "ms", "a decode step, all layers; the sum of the following eleven", |c| ms(c.time());
        QKV_MS = "qkv_ms", "ms",
            "queries, keys and values; of what overlaps, columns have what shows",
            |c| of(c, &[LayerPart::Qkv]);
        PROJECTION_MS = "projection_ms", "ms", "output projection", |c| of(c, &[LayerPart::Projection]);
        FEED_FORWARD_MS = "feed_forward_ms", "ms",
            "matrices of the feed-forward network",
            |c| of(c, &[LayerPart::FeedForward]);
        ATTENTION_MS = "attention_ms", "ms",
            "scores and outputs; on PIM with softmax and buffer moves",
            |c| of(c, &[LayerPart::Score, LayerPart::Context]);
        SOFTMAX_MS = "softmax_ms", "ms", "softmax on the GPUs", |c| of(c, &[LayerPart::Softmax]);
        ACTIVATION_MS = "activation_ms", "ms", "activation function", |c| of(c, &[LayerPart::Activation]);
        NORM_MS = "norm_ms", "ms", "normalisation", |c| of(c, &[LayerPart::Norm]);
        ALL_REDUCE_MS = "all_reduce_ms", "ms", "partial sums between GPUs", |c| of(c, &[LayerPart::AllReduce]);
        LINK_MS = "link_ms", "ms", "between GPU and PIM device", |c| of(c, &[LayerPart::Link]);
        POLICY_MS = "policy_ms", "ms",
            "on GPUs, with a run: what its policy reads to choose tokens, ranks, and keeps in order; on PIM, attention_ms has it",
            |c| of(c, &[LayerPart::Policy]);
        ATTENTION_CYCLES = "attention_cycles", "tCK",
            "one layer's attention on the fullest stack; with a run, the mean over layers",
            |c| decimal(c.attention_cycles);
        ENERGY_MJ = "energy_mj", "mJ",
            "a decode step, all layers, all devices; the sum of the following nine",
            |c| mj(c.total_energy());
        GPU_DRAM_MJ = "gpu_dram_mj", "mJ", "DRAM of the GPUs", |c| mj(c.component(EnergyComponent::Dram));
        L2_MJ = "l2_mj", "mJ", "second-level caches", |c| mj(c.component(EnergyComponent::L2));
        L1_MJ = "l1_mj", "mJ", "first-level caches", |c| mj(c.component(EnergyComponent::L1));
        REGISTERS_MJ = "registers_mj", "mJ", "registers", |c| mj(c.component(EnergyComponent::Registers));
        GPU_ALU_MJ = "gpu_alu_mj", "mJ", "arithmetic of the GPUs", |c| mj(c.component(EnergyComponent::Alu));
        PIM_MEMORY_MJ = "pim_memory_mj", "mJ",
            "PIM devices: rows, columns, wires, buffers",
            |c| mj(c.component(EnergyComponent::PimMemory));
        PIM_COMPUTE_MJ = "pim_compute_mj", "mJ",
            "PIM devices: multiply-accumulate units and softmax",
            |c| mj(c.component(EnergyComponent::PimCompute));
        PIM_STANDING_MJ = "pim_standing_mj", "mJ",
            "PIM devices: refresh and standing power, by default for the whole step",
            |c| mj(c.component(EnergyComponent::PimStanding));
        COMMUNICATION_MJ = "communication_mj", "mJ", "between devices", |c| mj(c.component(EnergyComponent::Communication));
        FC_MEMORY_MJ = "fc_memory_mj", "mJ",
            "DRAM and PIM memory, for QKV, projection and feed-forward network",
            |c| mj(c.energy_of(&WEIGHT_PARTS, &EnergyComponent::MEMORY));
        FC_COMPUTE_MJ = "fc_compute_mj", "mJ",
            "caches, registers and arithmetic, for the same",
            |c| mj(c.energy_of(&WEIGHT_PARTS, &EnergyComponent::COMPUTE));
        ATTENTION_MEMORY_MJ = "attention_memory_mj", "mJ",
            "DRAM and PIM memory, for attention, softmax and policy",
            |c| mj(c.energy_of(&ATTENTION_PARTS, &EnergyComponent::MEMORY));
        ATTENTION_COMPUTE_MJ = "attention_compute_mj", "mJ",
            "caches, registers and arithmetic, for the same",
            |c| mj(c.energy_of(&ATTENTION_PARTS, &EnergyComponent::COMPUTE));
        ELEMENTWISE_MEMORY_MJ = "elementwise_memory_mj", "mJ",
            "DRAM, for activation and normalisation",
            |c| mj(c.energy_of(&ELEMENTWISE_PARTS, &EnergyComponent::MEMORY));
        ELEMENTWISE_COMPUTE_MJ = "elementwise_compute_mj", "mJ",
            "caches, registers and arithmetic, for the same",
            |c| mj(c.energy_of(&ELEMENTWISE_PARTS, &EnergyComponent::COMPUTE));
    }
}

measures! {
    /// What the prefill costs.
    pub PREFILL_MEASURES of Cost {
        PREFILL_MS = "prefill_ms", "ms", "the prefill, all layers; the sum of the following seven", |c| ms(c.time());
        PREFILL_FC_MS = "prefill_fc_ms", "ms", "QKV, projection and feed-forward network", |c| of(c, &WEIGHT_PARTS);
        PREFILL_ATTENTION_MS = "prefill_attention_ms", "ms",
            "scores and outputs, on the GPUs",
            |c| of(c, &[LayerPart::Score, LayerPart::Context]);
        PREFILL_SOFTMAX_MS = "prefill_softmax_ms", "ms", "softmax", |c| of(c, &[LayerPart::Softmax]);
        PREFILL_ACTIVATION_MS = "prefill_activation_ms", "ms", "activation function", |c| of(c, &[LayerPart::Activation]);
        PREFILL_NORM_MS = "prefill_norm_ms", "ms", "normalisation", |c| of(c, &[LayerPart::Norm]);
        PREFILL_ALL_REDUCE_MS = "prefill_all_reduce_ms", "ms",
            "partial sums between GPUs",
            |c| of(c, &[LayerPart::AllReduce]);
        PREFILL_LINK_MS = "prefill_link_ms", "ms", "keys and values to the PIM devices", |c| of(c, &[LayerPart::Link]);
        PREFILL_ENERGY_MJ = "prefill_energy_mj", "mJ", "the prefill, all layers, all devices", |c| mj(c.total_energy());
    }
}

/// What a switch changes.
mod switch {
    use super::*;

    measures! {
        /// What a switch changes.
        pub(super) MEASURES of SwitchRow {
            SWITCH = "switch", "-", "name in the platform file's [reference]", |r| r.switch.name().into();
            REFERENCES = "references", "-", "published simulators that do this", |r| Value::Text(r.references());
            ALONE_STEP_MS = "alone_step_ms", "ms", "a decode step with this switch and no other", |r| ms(r.alone.time());
            ALONE_STEP_PERCENT = "alone_step_percent", "%",
                "its change against no switch",
                |r| percent(r.alone.time(), r.none.time());
            ALONE_ENERGY_MJ = "alone_energy_mj", "mJ",
                "energy of a step with this switch and no other",
                |r| mj(r.alone.total_energy());
            ALONE_ENERGY_PERCENT = "alone_energy_percent", "%",
                "its change against no switch",
                |r| percent(r.alone.total_energy(), r.none.total_energy());
            ALONE_PREFILL_PERCENT = "alone_prefill_percent", "%",
                "change of the prefill with this switch and no other",
                |r| percent(r.prefill_alone, r.prefill_none);
            WITHOUT_STEP_PERCENT = "without_step_percent", "%",
                "change of a step when this switch is taken from all of its reference",
                |r| percent(r.without.time(), r.all.time());
            WITHOUT_ENERGY_PERCENT = "without_energy_percent", "%",
                "change of a step's energy when this switch is taken from all of its reference",
                |r| percent(r.without.total_energy(), r.all.total_energy());
            MEANING = "meaning", "-", "what it does", |r| r.switch.meaning().into();
        }
    }
}

fn decimal(x: f64) -> Value {
    Value::Float(x, 9)
}

fn ms(seconds: f64) -> Value {
    decimal(seconds * 1e3)
}

fn mj(pj: f64) -> Value {
    decimal(pj * 1e-9)
}

fn of(cost: &Cost, parts: &[LayerPart]) -> Value {
    ms(cost.time_of(parts))
}

fn percent(a: f64, b: f64) -> Value {
    Value::Float((a / b - 1.0) * 100.0, 4)
}

fn run(row: &ServiceRow, which: fn(&RunLabel) -> Value) -> Value {
    row.run.as_ref().map_or(Value::Unknown, which)
}

fn on(row: &ServiceRow, which: fn(&PimOptions) -> bool) -> Value {
    row.options.as_ref().map_or(Value::Unknown, |options| Value::Text(which(options).to_string()))
}

/// Columns of the table of services; a row is the mean decode step of a service, or one of its steps.
pub fn services() -> TableLayout<ServiceRow> {
    let keys = TableLayout::of(service::KEYS).with(|r| r, rate::MEASURES);
    keys.with(|r| &r.step_cost, STEP_MEASURES).with(|r| &r.prefill_cost, PREFILL_MEASURES)
}

/// Columns of the table of switches; a row is a switch.
pub fn switches() -> TableLayout<SwitchRow> {
    TableLayout::of(switch::MEASURES)
}

/// The mean row of a service with the attention of a run, or a row for each of its steps.
pub fn measured_rows(
    platform: &Platform,
    model: &Model,
    service: &Service,
    outcome: &ServiceCost,
    each: bool,
    run: &FittedRun,
) -> Vec<ServiceRow> {
    let mut rows = rows(platform, model, service, outcome, each);
    for row in &mut rows {
        if platform.pim.is_some() {
            row.attention = "run";
        }
        row.kv_budget = run.budget;
        row.run = Some(RunLabel {
            trace: run.trace.clone(),
            policy: run.policy.clone(),
            measured_layers: run.measured_layers,
            dense_layers: run.dense_layers,
        });
    }
    rows
}

/// The mean row of a service, or a row for each of its steps.
pub fn rows(
    platform: &Platform,
    model: &Model,
    service: &Service,
    outcome: &ServiceCost,
    each: bool,
) -> Vec<ServiceRow> {
    let row = |step: Option<u32>, cost: &Cost| ServiceRow {
        model: model.name.clone(),
        platform: platform.name.clone(),
        attention: if platform.pim.is_some() { service.mode.name() } else { "gpu" },
        reference: platform.switches.describe(),
        bytes: service.bytes,
        batch: service.batch,
        prefill: service.prefill,
        steps: service.steps,
        step,
        kv_budget: match (&service.budget, step) {
            (TokenBudget::PerStep(_), None) => None,
            (budget, step) => budget.at(step.unwrap_or(0)),
        },
        run: None,
        options: platform.pim.as_ref().map(|_| PimOptions {
            power_limit: service.power_limit,
            pipeline: service.pipeline,
            coprocess: service.coprocess,
        }),
        step_cost: cost.clone(),
        prefill_cost: outcome.prefill.clone(),
    };
    match each {
        false => vec![row(None, &outcome.mean())],
        true => (0..).zip(&outcome.steps).map(|(i, cost)| row(Some(i), cost)).collect(),
    }
}

impl SwitchRow {
    /// Of the service with no switch, with this one alone, with all of the first reference that has it, and with those
    /// but this one.
    pub fn new(
        switch: Switch,
        none: &ServiceCost,
        alone: &ServiceCost,
        all: &ServiceCost,
        without: &ServiceCost,
    ) -> Self {
        SwitchRow {
            switch,
            prefill_none: none.prefill.time(),
            prefill_alone: alone.prefill.time(),
            none: none.mean(),
            alone: alone.mean(),
            all: all.mean(),
            without: without.mean(),
        }
    }

    fn references(&self) -> String {
        let names: Vec<_> = self.switch.references().iter().map(|r: &Reference| r.name()).collect();
        names.join("+")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::table::Measure;

    /// Part p, from 1, takes p ms; its component c, from 1, takes 100 p + c mJ.
    fn cost() -> Cost {
        let mut cost = Cost { attention_cycles: 77.0, ..Cost::default() };
        for (p, (seconds, energy)) in cost.seconds.iter_mut().zip(&mut cost.energy).enumerate() {
            *seconds = (p as f64 + 1.0) * 1e-3;
            energy.iter_mut().enumerate().for_each(|(c, e)| *e = ((p + 1) * 100 + c + 1) as f64 * 1e9);
        }
        cost
    }

    fn cells(measures: &[Measure<Cost>]) -> String {
        let cost = cost();
        let cell = |m: &Measure<Cost>| format!("{}={}", m.name(), m.number(&cost).unwrap());
        measures.iter().map(cell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_measure_is_of_its_own_parts_and_components() {
        let want = "step_ms=66 qkv_ms=1 projection_ms=5 feed_forward_ms=6 attention_ms=6 softmax_ms=3 \
            activation_ms=7 norm_ms=8 all_reduce_ms=9 link_ms=10 policy_ms=11 attention_cycles=77 energy_mj=59895 \
            gpu_dram_mj=6611 l2_mj=6622 l1_mj=6633 registers_mj=6644 gpu_alu_mj=6655 pim_memory_mj=6666 \
            pim_compute_mj=6677 pim_standing_mj=6688 communication_mj=6699 fc_memory_mj=2421 \
            fc_compute_mj=6063 attention_memory_mj=4028 attention_compute_mj=10084 \
            elementwise_memory_mj=3014 elementwise_compute_mj=7542";
        assert_eq!(cells(STEP_MEASURES), want);
        let want = "prefill_ms=66 prefill_fc_ms=12 prefill_attention_ms=6 prefill_softmax_ms=3 \
            prefill_activation_ms=7 prefill_norm_ms=8 prefill_all_reduce_ms=9 prefill_link_ms=10 \
            prefill_energy_mj=59895";
        assert_eq!(cells(PREFILL_MEASURES), want);
    }
}
