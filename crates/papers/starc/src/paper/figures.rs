//! The figures of the report.

use super::{ExperimentTables, claims};
use crate::artifact::bars;
use crate::policies::{FULL, INFINIGEN, LEGEND, QUEST, SPARQ, STARC};
use crate::reproduce::columns::{SelectionMode, ablation, choices, layer, reductions, system};
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_experiments::end_to_end::table as step;
use pimattn_report::cells::Cells;
use pimattn_report::plot::{Axis, Bar, BarGroup, Bars, Content, Figure, Lines, Panel, Scale, Series};

/// A part of a bar: its name, and the columns that it is the sum of.
type BarPart = (&'static str, &'static [&'static str]);

const TIME: &[BarPart] = &[
    ("attention", &[step::ATTENTION_MS.name(), step::SOFTMAX_MS.name()]),
    ("QKV and projection", &[step::QKV_MS.name(), step::PROJECTION_MS.name()]),
    ("feed-forward", &[step::FEED_FORWARD_MS.name()]),
    ("between devices", &[step::ALL_REDUCE_MS.name(), step::LINK_MS.name()]),
    ("activation and norm", &[step::ACTIVATION_MS.name(), step::NORM_MS.name()]),
];
const ENERGY: &[BarPart] = &[
    ("attention memory", &[step::ATTENTION_MEMORY_MJ.name()]),
    ("attention arithmetic", &[step::ATTENTION_COMPUTE_MJ.name()]),
    ("weights memory", &[step::FC_MEMORY_MJ.name()]),
    ("weights arithmetic", &[step::FC_COMPUTE_MJ.name()]),
    ("between devices", &[step::COMMUNICATION_MJ.name()]),
    ("elementwise", &[step::ELEMENTWISE_MEMORY_MJ.name(), step::ELEMENTWISE_COMPUTE_MJ.name()]),
    ("refresh and standing power", &[step::PIM_STANDING_MJ.name()]),
];
const LAYER_TIME: &[BarPart] = &[
    ("keys and values", &[layer::ATTEND_US.name()]),
    ("selection", &[layer::SELECT_US.name()]),
    ("clustering", &[layer::CLUSTER_US.name()]),
    ("softmax", &[layer::SOFTMAX_US.name()]),
    ("append", &[layer::APPEND_US.name()]),
    ("channels idle or waiting", &[layer::WAIT_US.name()]),
    ("refresh and other", &[layer::OTHER_US.name()]),
];
const LAYER_ENERGY: &[BarPart] = &[
    ("keys and values", &[layer::ATTEND_UJ.name()]),
    ("selection", &[layer::SELECT_UJ.name()]),
    ("clustering", &[layer::CLUSTER_UJ.name()]),
    ("softmax", &[layer::SOFTMAX_UJ.name()]),
    ("append", &[layer::APPEND_UJ.name()]),
    ("channels idle or waiting", &[layer::WAIT_UJ.name()]),
    ("refresh and other", &[layer::OTHER_UJ.name()]),
];

/// Bars by context and policy, each over the whole of what attends to all tokens.
struct Normalised<'t> {
    table: &'t Cells,
    mode: Option<&'t str>,
    whole: &'static str,
    parts: &'static [BarPart],
    label: &'static str,
}

impl Normalised<'_> {
    fn panel(&self, model: &str) -> Result<Panel> {
        let mut groups = Vec::new();
        for context in self.table.distinct(columns::CONTEXT)? {
            let mut wanted = vec![(columns::MODEL, model), (columns::CONTEXT, context)];
            wanted.extend(self.mode.map(|mode| (system::MODE.name(), mode)));
            let rows = self.table.find(&wanted)?;
            wanted.push((columns::POLICY, FULL));
            let full = self.table.number(self.table.the(&wanted)?, self.whole)?;
            let mut bars = Vec::new();
            for row in rows {
                let part = |(name, columns): &BarPart| {
                    let sum: Result<f64> = columns.iter().map(|c| self.table.number(row, c)).sum();
                    Ok((name.to_string(), sum? / full))
                };
                let parts = self.parts.iter().map(part).collect::<Result<_>>()?;
                bars.push(Bar { label: self.table.cell(row, columns::POLICY)?.into(), parts });
            }
            groups.push(BarGroup { label: thousands(context), bars });
        }
        let y = Axis::new("relative to full", Scale::FromZero);
        Ok(Panel { title: format!("{model}: {}", self.label), content: Content::Bars(Bars { y, groups }) })
    }
}

fn thousands(tokens: &str) -> String {
    tokens.strip_suffix("000").map_or(tokens.into(), |n| format!("{n}K"))
}

/// The policies of a table in the order of legends, and all that are always in them.
fn names(table: &Cells) -> Result<Vec<String>> {
    let others = table.distinct(columns::POLICY)?;
    let others = others.into_iter().filter(|name| !LEGEND.contains(name));
    Ok(LEGEND.into_iter().chain(others).map(String::from).collect())
}

fn stacked(title: &str, note: &str, t: &ExperimentTables, of: Normalised<'_>) -> Result<Figure> {
    let mut panels = Vec::new();
    let models = t.masks.distinct(columns::MODEL)?;
    for model in &models {
        panels.push(of.panel(model)?);
    }
    Ok(Figure {
        title: title.into(),
        note: note.into(),
        names: Vec::new(),
        panels,
        columns: models.len(),
        panel: (470.0, 370.0),
    })
}

/// Lines of a column by another, one a policy.
fn lines(table: &Cells, rows: &[usize], x: (&str, Axis), y: (&str, Axis), scale: f64) -> Result<Lines> {
    let mut series = Vec::new();
    for policy in names(table)? {
        let mut points = Vec::new();
        for row in rows {
            if table.cell(*row, columns::POLICY)? == policy {
                points.push((table.number(*row, x.0)?, table.number(*row, y.0)? * scale));
            }
        }
        points.sort_by(|a: &(f64, f64), b| a.0.total_cmp(&b.0));
        if !points.is_empty() {
            series.push(Series { name: policy, points, ..Series::default() });
        }
    }
    Ok(Lines { x: x.1, y: y.1, series, ..Lines::default() })
}

/// Every figure: file name and SVG.
pub fn all(t: &ExperimentTables) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    let mut add = |name: &str, figure: Figure| {
        out.push((format!("{name}.svg"), figure.svg()?));
        Ok::<_, pimattn_core::error::Error>(())
    };
    for (mode, said) in [("artifact", "artifact mode"), ("masks", "real-mask mode")] {
        let of = |whole, parts, label| Normalised { table: &t.system, mode: Some(mode), whole, parts, label };
        let title = |what: &str| format!("{what} of a decode step, end to end, {said}");
        let note = format!("system.csv, mode {mode}");
        let latency = stacked(&title("Time"), &note, t, of(step::STEP_MS.name(), TIME, "latency"))?;
        add(&format!("end-to-end-{mode}-latency"), latency)?;
        let energy = stacked(&title("Energy"), &note, t, of(step::ENERGY_MJ.name(), ENERGY, "energy"))?;
        add(&format!("end-to-end-{mode}-energy"), energy)?;
    }
    let layer = |whole, parts, label| Normalised { table: &t.masks, mode: None, whole, parts, label };
    let title = "of a sparse layer's attention by phase, real-mask mode";
    let latency = layer(layer::TIME_US.name(), LAYER_TIME, "latency");
    add("attention-masks-latency", stacked(&format!("Time {title}"), "masks.csv", t, latency)?)?;
    let energy = layer(layer::ENERGY_UJ.name(), LAYER_ENERGY, "energy");
    add("attention-masks-energy", stacked(&format!("Energy {title}"), "masks.csv", t, energy)?)?;
    add("attention-artifact", attention_artifact(t)?)?;
    add("recall", recall(t)?)?;
    add("row-tokens", row_tokens(t)?)?;
    add("decode-length", decode_length(t)?)?;
    add("reductions-masks", reductions_of_masks(t)?)?;
    let time = [
        (QUEST, ablation::TIME_VS_QUEST.name()),
        (SPARQ, ablation::TIME_VS_SPARQ.name()),
        (INFINIGEN, ablation::TIME_VS_INFINIGEN.name()),
        (FULL, ablation::TIME_VS_FULL.name()),
    ];
    let energy = [
        (QUEST, ablation::ENERGY_VS_QUEST.name()),
        (SPARQ, ablation::ENERGY_VS_SPARQ.name()),
        (INFINIGEN, ablation::ENERGY_VS_INFINIGEN.name()),
        (FULL, ablation::ENERGY_VS_FULL.name()),
    ];
    for (measure, columns) in [("time", time), ("energy", energy)] {
        add(&format!("ablation-{measure}"), by_variant(t, measure, columns)?)?;
    }
    add("tornado", super::tornado::figure(t)?)?;
    add("design-activation", super::design::granularity(t)?)?;
    add("design-frontier", super::design::frontier(t)?)?;
    Ok(out)
}

fn attention_artifact(t: &ExperimentTables) -> Result<Figure> {
    let mut panels = Vec::new();
    for (column, label) in [(bars::STEP_MS.name(), "latency"), (bars::ENERGY_MJ.name(), "energy")] {
        for model in t.artifact.distinct(columns::MODEL)? {
            let mut groups = Vec::new();
            for context in t.artifact.distinct(columns::CONTEXT)? {
                let rows = t.artifact.find(&[(columns::MODEL, model), (columns::CONTEXT, context)])?;
                let wanted = [(columns::MODEL, model), (columns::CONTEXT, context), (columns::POLICY, FULL)];
                let full = t.artifact.number(t.artifact.the(&wanted)?, column)?;
                let mut bars = Vec::new();
                for row in rows {
                    let parts = vec![("attention".to_string(), t.artifact.number(row, column)? / full)];
                    bars.push(Bar { label: t.artifact.cell(row, columns::POLICY)?.into(), parts });
                }
                groups.push(BarGroup { label: thousands(context), bars });
            }
            let y = Axis::new("relative to full", Scale::FromZero);
            let content = Content::Bars(Bars { y, groups });
            panels.push(Panel { title: format!("{model}: {label}"), content });
        }
    }
    let columns = t.artifact.distinct(columns::MODEL)?.len();
    Ok(Figure {
        title: "Attention layers, artifact mode, every decode step".into(),
        note: "artifact.csv, columns step_ms and energy_mj".into(),
        names: Vec::new(),
        panels,
        columns,
        panel: (420.0, 320.0),
    })
}

/// A panel for each cache of choices.csv.
fn by_cache(t: &ExperimentTables, y: (&str, Axis)) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in t.choices.distinct(choices::SOURCE.name())? {
        for prefill in t.choices.distinct(choices::PREFILL.name())? {
            let mut rows = t.choices.find(&[(choices::SOURCE.name(), source), (choices::PREFILL.name(), prefill)])?;
            // A policy that takes no notice of the budget has none.
            rows.retain(|row| !t.choices.cell(*row, columns::BUDGET).is_ok_and(str::is_empty));
            if rows.is_empty() {
                continue;
            }
            let x = (columns::BUDGET, Axis::new("budget (tokens)", Scale::Log));
            let shown = lines(&t.choices, &rows, x, y.clone(), 1.0)?;
            let title = match prefill {
                "" => format!("{source} cache"),
                n => format!("{source} cache, {n} tokens"),
            };
            panels.push(Panel { title, content: Content::Lines(shown) });
        }
    }
    Ok(panels)
}

fn recall(t: &ExperimentTables) -> Result<Figure> {
    Ok(Figure {
        title: "Recall of the budget's best tokens".into(),
        note: "choices.csv, column top_recall".into(),
        names: names(&t.choices)?,
        panels: by_cache(t, (columns::TOP_RECALL, Axis::new("top recall", Scale::FromZero)))?,
        columns: 3,
        panel: (430.0, 320.0),
    })
}

fn row_tokens(t: &ExperimentTables) -> Result<Figure> {
    Ok(Figure {
        title: "Tokens in the rows that a selection touches".into(),
        note: "choices.csv, column row_tokens: 16 for each block of 16 slots with a selected token".into(),
        names: names(&t.choices)?,
        panels: by_cache(t, (columns::ROW_TOKENS, Axis::new("row tokens", Scale::Log)))?,
        columns: 3,
        panel: (430.0, 320.0),
    })
}

fn decode_length(t: &ExperimentTables) -> Result<Figure> {
    let mut panels = Vec::new();
    for (column, label) in [
        (layer::TIME_US.name(), "time (us)"),
        (layer::ENERGY_UJ.name(), "energy (uJ)"),
        (columns::ROW_TOKENS, "row tokens"),
    ] {
        for model in t.positions.distinct(columns::MODEL)? {
            let rows = t.positions.find(&[(columns::MODEL, model)])?;
            let x = (columns::STEP, Axis::new("decode step", Scale::Linear));
            let content = lines(&t.positions, &rows, x, (column, Axis::new(label, Scale::Log)), 1.0)?;
            panels.push(Panel { title: model.into(), content: Content::Lines(content) });
        }
    }
    Ok(Figure {
        title: "Attention of a sparse layer along the decode, real-mask mode".into(),
        note: "positions.csv, columns time_us, energy_uj, row_tokens".into(),
        names: names(&t.positions)?,
        panels,
        columns: t.positions.distinct(columns::MODEL)?.len(),
        panel: (430.0, 320.0),
    })
}

/// What STARC takes less than the others in real-mask mode, by context, with the intervals.
fn reductions_of_masks(t: &ExperimentTables) -> Result<Figure> {
    let (table, mut panels) = (&t.reductions, Vec::new());
    let models = t.masks.distinct(columns::MODEL)?;
    for (scope, measure) in
        [("attention", "latency"), ("attention", "energy"), ("end-to-end", "latency"), ("end-to-end", "energy")]
    {
        for model in &models {
            let mut series: Vec<Series> = Vec::new();
            for row in table.find(&[
                (reductions::MODE.name(), SelectionMode::Masks.name()),
                (reductions::SCOPE.name(), scope),
                (reductions::MEASURE.name(), measure),
                (columns::MODEL, model),
            ])? {
                let (context, less) =
                    (table.number(row, columns::CONTEXT)?, table.number(row, reductions::REDUCTION_PERCENT.name())?);
                let name = table.cell(row, reductions::AGAINST.name())?;
                let place = series.iter().position(|s| s.name == name).unwrap_or(series.len());
                if place == series.len() {
                    series.push(Series { name: name.into(), ..Series::default() });
                }
                series[place].points.push((context, less));
                series[place].intervals.extend(claims::interval(table, row)?.map(|[low, high]| (low, high)));
            }
            let (x, y) = (Axis::new("context (tokens)", Scale::Linear), Axis::new("less (%)", Scale::Linear));
            let content = Content::Lines(Lines { x, y, series, ..Lines::default() });
            panels.push(Panel { title: format!("{model}: {scope}, {measure}"), content });
        }
    }
    Ok(Figure {
        title: format!("What {STARC} takes less than the others, real-mask mode; bars: 95 % intervals over caches"),
        note: "reductions.csv, mode masks, columns reduction_percent, low_percent, high_percent".into(),
        names: names(&t.masks)?,
        panels,
        columns: models.len(),
        panel: (430.0, 320.0),
    })
}

/// What STARC takes over what the others take, by variant.
fn by_variant(t: &ExperimentTables, measure: &str, columns: [(&str, &str); 4]) -> Result<Figure> {
    let mut panels = Vec::new();
    for (against, column) in columns {
        let mut bars = Vec::new();
        for row in 0..t.ablation.len() {
            let less = t.ablation.number(row, column)?;
            let (assumption, what) =
                (t.ablation.cell(row, ablation::ASSUMPTION.name())?, t.ablation.cell(row, ablation::VARIANT.name())?);
            let label = format!("{assumption} {what}");
            let parts = vec![(format!("{STARC} over the other policy"), 1.0 - less / 100.0)];
            bars.push(Bar { label: label.trim().into(), parts });
        }
        let groups = vec![BarGroup { label: String::new(), bars }];
        let y = Axis::new(format!("{STARC} / {against}"), Scale::FromZero);
        let content = Content::Bars(Bars { y, groups });
        panels.push(Panel { title: format!("{measure}, {STARC} over {against}"), content });
    }
    Ok(Figure {
        title: format!("What the gains of STARC in {measure} rest on: one assumption changed at a time"),
        note: "ablation.csv; 1 - column / 100. Below 1 STARC takes less".into(),
        names: Vec::new(),
        panels,
        columns: 2,
        panel: (760.0, 470.0),
    })
}
