//! The figures of the report.

use super::Tables;
use pimattn_core::error::Result;
use pimattn_report::cells::Cells;
use pimattn_report::plot::{Axis, Bar, Bars, Content, Figure, Group, Lines, Panel, Scale, Series};

/// Policies in the order of legends: each looks alike in all figures.
const POLICIES: [&str; 10] =
    ["full", "quest", "sparq", "starc", "infinigen", "streaming", "clusterkv", "h2o", "starc-v1", "oracle"];

/// A part of a bar: its name, and the columns that it is the sum of.
type Part = (&'static str, &'static [&'static str]);

const TIME: &[Part] = &[
    ("attention", &["attention_ms", "softmax_ms"]),
    ("QKV and projection", &["qkv_ms", "projection_ms"]),
    ("feed-forward", &["feed_forward_ms"]),
    ("between devices", &["all_reduce_ms", "link_ms"]),
    ("activation and norm", &["activation_ms", "norm_ms"]),
];
const ENERGY: &[Part] = &[
    ("attention memory", &["attention_memory_mj"]),
    ("attention arithmetic", &["attention_compute_mj"]),
    ("weights memory", &["fc_memory_mj"]),
    ("weights arithmetic", &["fc_compute_mj"]),
    ("between devices", &["communication_mj"]),
    ("elementwise", &["elementwise_memory_mj", "elementwise_compute_mj"]),
    ("refresh and standing power", &["pim_standing_mj"]),
];
const LAYER_TIME: &[Part] = &[
    ("keys and values", &["attend_us"]),
    ("selection", &["select_us"]),
    ("clustering", &["cluster_us"]),
    ("softmax", &["softmax_us"]),
    ("append", &["append_us"]),
    ("channels idle or waiting", &["wait_us"]),
    ("refresh and other", &["other_us"]),
];
const LAYER_ENERGY: &[Part] = &[
    ("keys and values", &["attend_uj"]),
    ("selection", &["select_uj"]),
    ("clustering", &["cluster_uj"]),
    ("softmax", &["softmax_uj"]),
    ("append", &["append_uj"]),
    ("channels idle or waiting", &["wait_uj"]),
    ("refresh and other", &["other_uj"]),
];

/// Bars by context and policy, each over the whole of policy `full`.
struct Normalised<'t> {
    table: &'t Cells,
    mode: Option<&'t str>,
    whole: &'static str,
    parts: &'static [Part],
    label: &'static str,
}

impl Normalised<'_> {
    fn panel(&self, model: &str) -> Result<Panel> {
        let mut groups = Vec::new();
        for context in self.table.distinct("context")? {
            let mut wanted = vec![("model", model), ("context", context)];
            wanted.extend(self.mode.map(|mode| ("mode", mode)));
            let rows = self.table.find(&wanted)?;
            wanted.push(("policy", "full"));
            let full = self.table.number(self.table.the(&wanted)?, self.whole)?;
            let mut bars = Vec::new();
            for row in rows {
                let part = |(name, columns): &Part| {
                    let sum: Result<f64> = columns.iter().map(|c| self.table.number(row, c)).sum();
                    Ok((name.to_string(), sum? / full))
                };
                let parts = self.parts.iter().map(part).collect::<Result<_>>()?;
                bars.push(Bar { label: self.table.cell(row, "policy")?.into(), parts });
            }
            groups.push(Group { label: thousands(context), bars });
        }
        let y = Axis::new("relative to full", Scale::FromZero);
        Ok(Panel { title: format!("{model}: {}", self.label), content: Content::Bars(Bars { y, groups }) })
    }
}

fn thousands(tokens: &str) -> String {
    tokens.strip_suffix("000").map_or(tokens.into(), |n| format!("{n}K"))
}

fn names() -> Vec<String> {
    POLICIES.map(String::from).to_vec()
}

fn stacked(title: &str, note: &str, t: &Tables, of: Normalised<'_>) -> Result<Figure> {
    let mut panels = Vec::new();
    let models = t.masks.distinct("model")?;
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
    for policy in POLICIES {
        let mut points = Vec::new();
        for row in rows {
            if table.cell(*row, "policy")? == policy {
                points.push((table.number(*row, x.0)?, table.number(*row, y.0)? * scale));
            }
        }
        points.sort_by(|a: &(f64, f64), b| a.0.total_cmp(&b.0));
        if !points.is_empty() {
            series.push(Series { name: policy.into(), points });
        }
    }
    Ok(Lines { x: x.1, y: y.1, series })
}

/// Every figure: file name and SVG.
pub fn all(t: &Tables) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    let mut add = |name: &str, figure: Figure| {
        out.push((format!("{name}.svg"), figure.svg()?));
        Ok::<_, pimattn_core::error::Error>(())
    };
    for (mode, said) in [("artifact", "artifact mode"), ("masks", "real-mask mode")] {
        let of = |whole, parts, label| Normalised { table: &t.system, mode: Some(mode), whole, parts, label };
        let title = |what: &str| format!("{what} of a decode step, end to end, {said}");
        let note = format!("system.csv, mode {mode}");
        let latency = stacked(&title("Time"), &note, t, of("step_ms", TIME, "latency"))?;
        add(&format!("end-to-end-{mode}-latency"), latency)?;
        let energy = stacked(&title("Energy"), &note, t, of("energy_mj", ENERGY, "energy"))?;
        add(&format!("end-to-end-{mode}-energy"), energy)?;
    }
    let layer = |whole, parts, label| Normalised { table: &t.masks, mode: None, whole, parts, label };
    let title = "of a sparse layer's attention by phase, real-mask mode";
    let latency = layer("time_us", LAYER_TIME, "latency");
    add("attention-masks-latency", stacked(&format!("Time {title}"), "masks.csv", t, latency)?)?;
    let energy = layer("energy_uj", LAYER_ENERGY, "energy");
    add("attention-masks-energy", stacked(&format!("Energy {title}"), "masks.csv", t, energy)?)?;
    add("attention-artifact", attention_artifact(t)?)?;
    add("recall", recall(t)?)?;
    add("row-tokens", row_tokens(t)?)?;
    add("decode-length", decode_length(t)?)?;
    for measure in ["time", "energy"] {
        add(&format!("ablation-{measure}"), ablation(t, measure)?)?;
    }
    Ok(out)
}

fn attention_artifact(t: &Tables) -> Result<Figure> {
    let mut panels = Vec::new();
    for (column, label) in [("step_ms", "latency"), ("energy_mj", "energy")] {
        for model in t.artifact.distinct("model")? {
            let mut groups = Vec::new();
            for context in t.artifact.distinct("context")? {
                let rows = t.artifact.find(&[("model", model), ("context", context)])?;
                let wanted = [("model", model), ("context", context), ("policy", "full")];
                let full = t.artifact.number(t.artifact.the(&wanted)?, column)?;
                let mut bars = Vec::new();
                for row in rows {
                    let parts = vec![("attention".to_string(), t.artifact.number(row, column)? / full)];
                    bars.push(Bar { label: t.artifact.cell(row, "policy")?.into(), parts });
                }
                groups.push(Group { label: thousands(context), bars });
            }
            let y = Axis::new("relative to full", Scale::FromZero);
            let content = Content::Bars(Bars { y, groups });
            panels.push(Panel { title: format!("{model}: {label}"), content });
        }
    }
    let columns = t.artifact.distinct("model")?.len();
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
fn by_cache(t: &Tables, y: (&str, Axis)) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in t.choices.distinct("source")? {
        for prefill in t.choices.distinct("prefill")? {
            let mut rows = t.choices.find(&[("source", source), ("prefill", prefill)])?;
            // A policy that takes no notice of the budget has none.
            rows.retain(|row| !t.choices.cell(*row, "budget").is_ok_and(str::is_empty));
            if rows.is_empty() {
                continue;
            }
            let x = ("budget", Axis::new("budget (tokens)", Scale::Log));
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

fn recall(t: &Tables) -> Result<Figure> {
    Ok(Figure {
        title: "Recall of the budget's best tokens".into(),
        note: "choices.csv, column top_recall".into(),
        names: names(),
        panels: by_cache(t, ("top_recall", Axis::new("top recall", Scale::FromZero)))?,
        columns: 3,
        panel: (430.0, 320.0),
    })
}

fn row_tokens(t: &Tables) -> Result<Figure> {
    Ok(Figure {
        title: "Tokens in the rows that a selection touches".into(),
        note: "choices.csv, column row_tokens: 16 for each block of 16 slots with a selected token".into(),
        names: names(),
        panels: by_cache(t, ("row_tokens", Axis::new("row tokens", Scale::Log)))?,
        columns: 3,
        panel: (430.0, 320.0),
    })
}

fn decode_length(t: &Tables) -> Result<Figure> {
    let mut panels = Vec::new();
    for (column, label) in [("time_us", "time (us)"), ("energy_uj", "energy (uJ)"), ("row_tokens", "row tokens")] {
        for model in t.positions.distinct("model")? {
            let rows = t.positions.find(&[("model", model)])?;
            let x = ("step", Axis::new("decode step", Scale::Linear));
            let content = lines(&t.positions, &rows, x, (column, Axis::new(label, Scale::Log)), 1.0)?;
            panels.push(Panel { title: model.into(), content: Content::Lines(content) });
        }
    }
    Ok(Figure {
        title: "Attention of a sparse layer along the decode, real-mask mode".into(),
        note: "positions.csv, columns time_us, energy_uj, row_tokens".into(),
        names: names(),
        panels,
        columns: t.positions.distinct("model")?.len(),
        panel: (430.0, 320.0),
    })
}

/// What STARC takes over what the others take, by variant.
fn ablation(t: &Tables, measure: &str) -> Result<Figure> {
    let mut panels = Vec::new();
    for against in ["quest", "sparq", "infinigen", "full"] {
        let column = format!("{measure}_vs_{against}");
        let mut bars = Vec::new();
        for row in 0..t.ablation.len() {
            let less = t.ablation.number(row, &column)?;
            let (assumption, what) = (t.ablation.cell(row, "assumption")?, t.ablation.cell(row, "variant")?);
            let label = format!("{assumption} {what}");
            let parts = vec![("starc over the other policy".to_string(), 1.0 - less / 100.0)];
            bars.push(Bar { label: label.trim().into(), parts });
        }
        let groups = vec![Group { label: String::new(), bars }];
        let y = Axis::new(format!("starc / {against}"), Scale::FromZero);
        let content = Content::Bars(Bars { y, groups });
        panels.push(Panel { title: format!("{measure}, starc over {against}"), content });
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
