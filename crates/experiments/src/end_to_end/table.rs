//! The tables of `pimsim system`.

use super::Model;
use super::cost::{Component, Cost};
use super::layer::Part;
use super::platform::Platform;
use super::step::{Budget, Outcome, Service};
use super::switches::{Reference, Switch};
use pimattn_core::table::{Column, Value, column};

const ATTENTION: [Part; 3] = [Part::Score, Part::Softmax, Part::Context];
const WEIGHTS: [Part; 3] = [Part::Qkv, Part::Projection, Part::FeedForward];
const ELEMENTWISE: [Part; 2] = [Part::Activation, Part::Norm];

/// Columns of the table of services; a row is the mean decode step of a service, or one of its steps.
pub const COLUMNS: &[Column] = &[
    column("model", "-", "name of the model file's model"),
    column("platform", "-", "name of the platform file's platform"),
    column("attention", "-", "where attention is: gpu, or the PIM devices with GEMV units by bank, bg, buffer"),
    column("reference", "-", "published simulator, or its switches, that the row follows; none"),
    column("bytes", "B", "bytes of an element"),
    column("batch", "1", "requests decoded together"),
    column("prefill", "tokens", "tokens of each prompt"),
    column("steps", "1", "decode steps of the service"),
    column("step", "1", "decode step, from 0; empty for the mean of all"),
    column("kv_budget", "tokens", "tokens that a query head may attend to; empty for all, or where steps differ"),
    column("power_limit", "-", "whether the supply limits activations"),
    column("pipeline", "-", "whether heads are pipelined through projections and attention"),
    column("coprocess", "-", "whether PIM devices take a part of the feed-forward matrices"),
    column("step_ms", "ms", "a decode step, all layers; the sum of the following ten"),
    column("qkv_ms", "ms", "queries, keys and values; of what overlaps, columns have what shows"),
    column("projection_ms", "ms", "output projection"),
    column("feed_forward_ms", "ms", "matrices of the feed-forward network"),
    column("attention_ms", "ms", "scores and outputs; on PIM with softmax and buffer moves"),
    column("softmax_ms", "ms", "softmax on the GPUs"),
    column("activation_ms", "ms", "activation function"),
    column("norm_ms", "ms", "normalisation"),
    column("all_reduce_ms", "ms", "partial sums between GPUs"),
    column("link_ms", "ms", "between GPU and PIM device"),
    column("attention_cycles", "tCK", "one layer's attention on the fullest stack"),
    column("energy_mj", "mJ", "a decode step, all layers, all devices; the sum of the following nine"),
    column("gpu_dram_mj", "mJ", "DRAM of the GPUs"),
    column("l2_mj", "mJ", "second-level caches"),
    column("l1_mj", "mJ", "first-level caches"),
    column("registers_mj", "mJ", "registers"),
    column("gpu_alu_mj", "mJ", "arithmetic of the GPUs"),
    column("pim_memory_mj", "mJ", "PIM devices: rows, columns, wires, buffers"),
    column("pim_compute_mj", "mJ", "PIM devices: multiply-accumulate units and softmax"),
    column("pim_standing_mj", "mJ", "PIM devices: refresh and standing power, by default for the whole step"),
    column("communication_mj", "mJ", "between devices"),
    column("fc_memory_mj", "mJ", "DRAM and PIM memory, for QKV, projection and feed-forward network"),
    column("fc_compute_mj", "mJ", "caches, registers and arithmetic, for the same"),
    column("attention_memory_mj", "mJ", "DRAM and PIM memory, for attention and softmax"),
    column("attention_compute_mj", "mJ", "caches, registers and arithmetic, for the same"),
    column("elementwise_memory_mj", "mJ", "DRAM, for activation and normalisation"),
    column("elementwise_compute_mj", "mJ", "caches, registers and arithmetic, for the same"),
    column("prefill_ms", "ms", "the prefill, all layers; the sum of the following seven"),
    column("prefill_fc_ms", "ms", "QKV, projection and feed-forward network"),
    column("prefill_attention_ms", "ms", "scores and outputs, on the GPUs"),
    column("prefill_softmax_ms", "ms", "softmax"),
    column("prefill_activation_ms", "ms", "activation function"),
    column("prefill_norm_ms", "ms", "normalisation"),
    column("prefill_all_reduce_ms", "ms", "partial sums between GPUs"),
    column("prefill_link_ms", "ms", "keys and values to the PIM devices"),
    column("prefill_energy_mj", "mJ", "the prefill, all layers, all devices"),
];

/// Columns of the table of switches; a row is a switch.
pub const SWITCH_COLUMNS: &[Column] = &[
    column("switch", "-", "name in the platform file's [reference]"),
    column("references", "-", "published simulators that do this"),
    column("alone_step_ms", "ms", "a decode step with this switch and no other"),
    column("alone_step_percent", "%", "its change against no switch"),
    column("alone_energy_mj", "mJ", "energy of a step with this switch and no other"),
    column("alone_energy_percent", "%", "its change against no switch"),
    column("alone_prefill_percent", "%", "change of the prefill with this switch and no other"),
    column("without_step_percent", "%", "change of a step when this switch is taken from all of its reference"),
    column(
        "without_energy_percent",
        "%",
        "change of a step's energy when this switch is taken from all of its reference",
    ),
    column("meaning", "-", "what it does"),
];

fn decimal(x: f64) -> Value {
    Value::Float(x, 9)
}

fn text(s: impl Into<String>) -> Value {
    Value::Text(s.into())
}

/// The mean row of a service, or a row for each of its steps.
pub fn rows(platform: &Platform, model: &Model, service: &Service, outcome: &Outcome, each: bool) -> Vec<Vec<Value>> {
    let row = |step: Option<u32>, cost: &Cost| {
        let mut out = keys(platform, model, service, step);
        out.extend(measures(cost).map(decimal));
        out.extend(prefill_measures(&outcome.prefill).map(decimal));
        out
    };
    match each {
        false => vec![row(None, &outcome.mean())],
        true => (0..).zip(&outcome.steps).map(|(i, cost)| row(Some(i), cost)).collect(),
    }
}

fn keys(platform: &Platform, model: &Model, service: &Service, step: Option<u32>) -> Vec<Value> {
    let budget = match (&service.budget, step) {
        (Budget::PerStep(_), None) => None,
        (budget, step) => budget.at(step.unwrap_or(0)),
    };
    let count = |n: u32| Value::Int(n.into());
    let maybe = |n: Option<u32>| n.map_or(Value::Unknown, count);
    let on_pim = |on: bool| if platform.pim.is_some() { text(on.to_string()) } else { Value::Unknown };
    vec![
        text(&model.name),
        text(&platform.name),
        text(if platform.pim.is_some() { service.mode.name() } else { "gpu" }),
        text(platform.switches.describe()),
        count(service.bytes),
        count(service.batch),
        count(service.prefill),
        count(service.steps),
        maybe(step),
        maybe(budget),
        on_pim(service.power_limit),
        on_pim(service.pipeline),
        on_pim(service.coprocess),
    ]
}

/// Values from `step_ms` to `elementwise_compute_mj`.
pub fn measures(c: &Cost) -> impl Iterator<Item = f64> + use<> {
    let ms = |parts: &[Part]| c.time_of(parts) * 1e3;
    let by = |parts: &[Part], components: &[Component]| c.energy_of(parts, components) * 1e-9;
    let of = |component: Component| c.component(component) * 1e-9;
    let (memory, compute) = (&Component::MEMORY, &Component::COMPUTE);
    [
        c.time() * 1e3,
        ms(&[Part::Qkv]),
        ms(&[Part::Projection]),
        ms(&[Part::FeedForward]),
        ms(&[Part::Score, Part::Context]),
        ms(&[Part::Softmax]),
        ms(&[Part::Activation]),
        ms(&[Part::Norm]),
        ms(&[Part::AllReduce]),
        ms(&[Part::Link]),
        c.attention_cycles,
        c.total_energy() * 1e-9,
        of(Component::Dram),
        of(Component::L2),
        of(Component::L1),
        of(Component::Registers),
        of(Component::Alu),
        of(Component::PimMemory),
        of(Component::PimCompute),
        of(Component::PimStanding),
        of(Component::Communication),
        by(&WEIGHTS, memory),
        by(&WEIGHTS, compute),
        by(&ATTENTION, memory),
        by(&ATTENTION, compute),
        by(&ELEMENTWISE, memory),
        by(&ELEMENTWISE, compute),
    ]
    .into_iter()
}

fn prefill_measures(c: &Cost) -> impl Iterator<Item = f64> + use<> {
    let ms = |parts: &[Part]| c.time_of(parts) * 1e3;
    [
        c.time() * 1e3,
        ms(&WEIGHTS),
        ms(&[Part::Score, Part::Context]),
        ms(&[Part::Softmax]),
        ms(&[Part::Activation]),
        ms(&[Part::Norm]),
        ms(&[Part::AllReduce]),
        ms(&[Part::Link]),
        c.total_energy() * 1e-9,
    ]
    .into_iter()
}

/// A row of the table of switches: the service with no switch, with this one, with all of the first reference that has
/// it, and with those but this one.
pub fn switch_row(switch: Switch, none: &Outcome, alone: &Outcome, all: &Outcome, without: &Outcome) -> Vec<Value> {
    let prefill = [&alone.prefill, &none.prefill].map(Cost::time);
    let [none, alone, all, without] = [none, alone, all, without].map(Outcome::mean);
    let percent = |a: f64, b: f64| Value::Float((a / b - 1.0) * 100.0, 4);
    let names: Vec<_> = switch.references().iter().map(|r: &Reference| r.name()).collect();
    vec![
        text(switch.name()),
        text(names.join("+")),
        decimal(alone.time() * 1e3),
        percent(alone.time(), none.time()),
        decimal(alone.total_energy() * 1e-9),
        percent(alone.total_energy(), none.total_energy()),
        percent(prefill[0], prefill[1]),
        percent(without.time(), all.time()),
        percent(without.total_energy(), all.total_energy()),
        text(switch.meaning()),
    ]
}
