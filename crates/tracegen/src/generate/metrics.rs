//! The accuracy metrics of a run.

use super::Generator;
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_core::table::{Measure, TableLayout, Value, measure};
use pimattn_policies::accuracy::Accuracy;
use pimattn_trace::label::{CACHE_KEY, CHOICE_KEYS, LABEL_KEYS, SelectionLabel};
use std::sync::Arc;

/// A row of the metrics table: a query head of a layer at a decode step.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsRow {
    /// What was selected, of which cache.
    pub label: Arc<SelectionLabel>,
    /// Decode step, from 0.
    pub step: usize,
    /// Index of the token that is decoded.
    pub position: usize,
    /// Request within the batch.
    pub request: usize,
    /// Layer of the model.
    pub layer: u32,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Query head within the layer.
    pub query_head: usize,
    /// Whether the layer stays full.
    pub dense: bool,
    /// What the selection keeps.
    pub accuracy: Accuracy,
}

/// The metrics table.
pub fn layout() -> TableLayout<MetricsRow> {
    TableLayout::of(&[])
        .with(|r: &MetricsRow| &*r.label, CHOICE_KEYS)
        .with(|r| r, METRICS)
        .with(|r| &*r.label, &[CACHE_KEY])
        .with(|r| &*r.label, LABEL_KEYS)
}

const METRICS: &[Measure<MetricsRow>] = &[
    measure(columns::STEP, "1", "decode step, from 0", |r| r.step.into()),
    measure(columns::POSITION, "tokens", "index of the token that is decoded; it attends to 0..=position", |r| {
        r.position.into()
    }),
    measure(columns::REQUEST, "1", "request within the batch", |r| r.request.into()),
    measure(columns::LAYER, "1", "layer of the model", |r| r.layer.into()),
    measure(columns::KV_HEAD, "1", "KV head within the layer", |r| r.kv_head.into()),
    measure(columns::QUERY_HEAD, "1", "query head within the layer", |r| r.query_head.into()),
    measure(columns::DENSE, "1", "1 where the layer stays full (dense_layers), else 0", |r| u32::from(r.dense).into()),
    measure(columns::SELECTED, "tokens", "tokens selected", |r| r.accuracy.selected.into()),
    measure(
        columns::METRIC_ROW_TOKENS,
        "tokens",
        "metrics.row_block times the row-blocks of that many slots that hold a selected token",
        |r| r.accuracy.row_tokens.into(),
    ),
    measure(
        "unit_imbalance",
        "1",
        "touched row-blocks of the fullest unit over their mean; block b is on unit b mod metrics.units",
        |r| ratio(r.accuracy.unit_imbalance),
    ),
    measure(columns::MASS_RECALL, "1", "true softmax mass on the selected tokens", |r| ratio(r.accuracy.mass_recall)),
    measure(columns::TOP_RECALL, "1", "share of the budget's tokens of highest score that is selected", |r| {
        ratio(r.accuracy.top_recall)
    }),
    measure(
        columns::OUTPUT_REL_ERR,
        "1",
        "|o_selected - o| / |o|, the softmax renormalised over the selected tokens; sparq blends in the mean of all values; 0 where both are 0, empty where o alone is",
        |r| r.accuracy.output_rel_err.map_or(Value::Unknown, ratio),
    ),
];

fn ratio(x: f64) -> Value {
    Value::Float(x, 6)
}

/// Where rows of the metrics table go.
pub type MetricsSink<'a> = &'a mut dyn FnMut(&MetricsRow) -> Result<()>;

/// One head's metrics at one step, per query head.
pub struct HeadMetrics {
    /// The step.
    pub step: usize,
    /// Per query head.
    pub accuracies: Vec<Accuracy>,
}

/// A KV head among those of a run.
#[derive(Debug, Clone, Copy)]
pub struct HeadPlace {
    /// Index of its layer into the cache's.
    pub layer: usize,
    /// Its request.
    pub request: usize,
    /// Its number within the layer.
    pub kv_head: usize,
}

/// Emits the rows of a head at a step.
pub fn rows(
    generator: &Generator,
    head: HeadPlace,
    step: usize,
    accuracies: &[Accuracy],
    emit: MetricsSink<'_>,
) -> Result<()> {
    let cache = generator.cached.of(head.request);
    let layer = cache.layers[head.layer];
    for (h, accuracy) in accuracies.iter().enumerate() {
        emit(&MetricsRow {
            label: Arc::clone(&generator.label),
            step,
            position: cache.decode_positions().start + step,
            request: head.request,
            layer,
            kv_head: head.kv_head,
            query_head: head.kv_head * cache.group() + h,
            dense: generator.is_dense(layer),
            accuracy: *accuracy,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_its_own_value() {
        let accuracy = Accuracy {
            mass_recall: 0.12,
            top_recall: 0.13,
            output_rel_err: Some(0.14),
            selected: 9,
            row_tokens: 10,
            unit_imbalance: 1.1,
        };
        let mut row = MetricsRow {
            label: Arc::new(SelectionLabel {
                policy: "starc".into(),
                budget: 1,
                layers: 12,
                cache_hash: "c0".into(),
                selection_hash: 13,
                cautions: vec!["short".into(), "few".into()],
            }),
            step: 2,
            position: 3,
            request: 4,
            layer: 5,
            kv_head: 6,
            query_head: 7,
            dense: true,
            accuracy,
        };
        let cells = |row: &MetricsRow| {
            let layout = layout();
            let cells = layout.columns().iter().zip(layout.values(row)).map(|(c, v)| format!("{}={v}", c.name));
            cells.collect::<Vec<_>>().join(" ")
        };
        let want = "policy=starc budget=1 step=2 position=3 request=4 layer=5 kv_head=6 query_head=7 dense=1 selected=9 \
            metric_row_tokens=10 unit_imbalance=1.100000 mass_recall=0.120000 top_recall=0.130000 output_rel_err=0.140000 \
            cache_hash=c0 layers=12 selection_hash=0000000d cautions=short; few";
        assert_eq!(cells(&row), want);
        (row.dense, row.accuracy.output_rel_err) = (false, None);
        assert!(cells(&row).contains("dense=0") && cells(&row).contains(" output_rel_err= "));
    }
}
