//! The accuracy metrics of a run.

use super::head::HeadWork;
use pimattn_core::error::Result;
use pimattn_core::table::{Column, Value, column};
use pimattn_policies::accuracy::Accuracy;

/// Columns of the metrics table; a row is a query head of a layer at a decode step.
pub const METRICS: &[Column] = &[
    column("policy", "-", "selection policy of the run"),
    column("budget", "tokens", "tokens that a query head may select"),
    column("step", "1", "decode step, from 0"),
    column("position", "tokens", "index of the token that is decoded; it attends to 0..=position"),
    column("request", "1", "request within the batch"),
    column("layer", "1", "layer of the model"),
    column("kv_head", "1", "KV head within the layer"),
    column("query_head", "1", "query head within the layer"),
    column("dense", "1", "1 where the layer stays full (dense_layers), else 0"),
    column("selected", "tokens", "tokens selected"),
    column(
        "row_tokens",
        "tokens",
        "metrics.row_block times the row-blocks of that many slots that hold a selected token",
    ),
    column(
        "unit_imbalance",
        "1",
        "touched row-blocks of the fullest unit over their mean; block b is on unit b mod metrics.units",
    ),
    column("mass_recall", "1", "true softmax mass on the selected tokens"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected"),
    column(
        "output_rel_err",
        "1",
        "|o_selected - o| / |o|, the softmax renormalised over the selected tokens; sparq blends in the mean of all values; 0 where both are 0, empty where o alone is",
    ),
];

/// Where rows of the metrics table go.
pub type RowSink<'a> = &'a mut dyn FnMut(&[Value]) -> Result<()>;

/// One head's metrics at one step, per query head.
pub struct Measured {
    /// The step.
    pub step: usize,
    /// Per query head.
    pub accuracies: Vec<Accuracy>,
}

/// Emits the rows of a head at the `i`-th step of its chunk.
pub fn rows(head: &HeadWork<'_>, i: usize, emit: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
    let m = &head.measured()[i];
    let (cache, workload) = (head.cache(), head.workload());
    let int = |n: usize| Value::Int(n as u64);
    let ratio = |x: f64| Value::Float(x, 6);
    for (h, a) in m.accuracies.iter().enumerate() {
        emit(&[
            Value::Text(workload.policy.clone()),
            int(workload.budget),
            int(m.step),
            int(cache.decode_positions().start + m.step),
            int(head.request()),
            Value::Int(u64::from(cache.layers[head.layer()])),
            int(head.kv_head()),
            int(head.kv_head() * cache.group() + h),
            int(usize::from(head.is_dense())),
            int(a.selected),
            int(a.row_tokens),
            ratio(a.unit_imbalance),
            ratio(a.mass_recall),
            ratio(a.top_recall),
            a.output_rel_err.map_or(Value::Unknown, ratio),
        ])?;
    }
    Ok(())
}
