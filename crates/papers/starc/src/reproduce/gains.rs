//! Policies against each other: reductions, choices, winners, ablation.

use pimattn_core::error::{Error, Result};
use pimattn_core::table::Value;
use pimattn_report::cells::Cells;
use std::collections::BTreeMap;

/// The policy whose gains are told.
const OURS: &str = "starc";

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

fn percent_less(ours: f64, other: f64) -> Value {
    Value::Float(100.0 * (1.0 - ours / other), 4)
}

/// What is compared: mode, scope, measure, the table, its columns to add up.
type Measure<'t> = (&'static str, &'static str, &'static str, &'t Cells, &'static [&'static str]);

/// Rows of reductions.csv.
pub fn reductions(artifact: &Cells, masks: &Cells, system: &Cells) -> Result<Vec<Vec<Value>>> {
    let attention_energy = &["attention_memory_mj", "attention_compute_mj"];
    let measures: [Measure<'_>; 9] = [
        ("artifact", "attention", "latency", artifact, &["step_ms"]),
        ("artifact", "attention", "energy", system, attention_energy),
        ("artifact", "attention", "energy-attended", artifact, &["energy_mj"]),
        ("artifact", "end-to-end", "latency", system, &["step_ms"]),
        ("artifact", "end-to-end", "energy", system, &["energy_mj"]),
        ("masks", "attention", "latency", masks, &["time_us"]),
        ("masks", "attention", "energy", masks, &["energy_uj"]),
        ("masks", "end-to-end", "latency", system, &["step_ms"]),
        ("masks", "end-to-end", "energy", system, &["energy_mj"]),
    ];
    let mut out = Vec::new();
    for (mode, scope, measure, table, columns) in measures {
        let of_mode = |row: usize| table.name() != "system.csv" || table.cell(row, "mode").is_ok_and(|m| m == mode);
        let value = |row: usize| columns.iter().map(|c| table.number(row, c)).sum::<Result<f64>>();
        for ours in table.find(&[("policy", OURS)])?.into_iter().filter(|r| of_mode(*r)) {
            let (model, context) = (table.cell(ours, "model")?, table.cell(ours, "context")?);
            for other in table.find(&[("model", model), ("context", context)])?.into_iter().filter(|r| of_mode(*r)) {
                let against = table.cell(other, "policy")?;
                if against == OURS {
                    continue;
                }
                let (a, b) = (value(ours)?, value(other)?);
                let keys = [mode, scope, measure, model, context, against].map(text);
                let values = [Value::Float(b, 9), Value::Float(a, 9), percent_less(a, b)];
                out.push(keys.into_iter().chain(values).collect());
            }
        }
    }
    Ok(out)
}

/// Rows of choices.csv, of sweeps of which each is called something.
pub fn choices(sweeps: &[(&str, &Cells)]) -> Result<Vec<Vec<Value>>> {
    let mut out = Vec::new();
    for (source, swept) in sweeps {
        for row in 0..swept.len() {
            let steps = swept.number(row, "steps")?;
            let per_step = |column: &str, scale: f64| Ok::<_, Error>(swept.number(row, column)? / steps * scale);
            let policy = swept.cell(row, "policy")?;
            let mut cells = vec![
                text(source),
                // A dump has the length that it has.
                text(swept.cell(row, "synthetic.prefill").unwrap_or_default()),
                text(policy),
                text(if policy == pimattn_policies::select::full::ENTRY.name {
                    ""
                } else {
                    swept.cell(row, "budget")?
                }),
                Value::Float(per_step("time_ns", 1e-3)?, 6),
                Value::Float(per_step("energy_pj", 1e-6)?, 6),
            ];
            for column in ["selected", "metric_row_tokens", "top_recall", "mass_recall", "output_rel_err"] {
                cells.push(Value::Float(swept.number(row, column)?, 6));
            }
            out.push(cells);
        }
    }
    Ok(out)
}

/// Rows of winners.csv: for each cache and error, the policies that keep it by their fastest budget, the fastest first.
pub fn winners(choices: &Cells, errors: &[f64]) -> Result<Vec<Vec<Value>>> {
    let mut caches: Vec<(String, String)> = Vec::new();
    for row in 0..choices.len() {
        let cache = (choices.cell(row, "source")?.to_string(), choices.cell(row, "prefill")?.to_string());
        if !caches.contains(&cache) {
            caches.push(cache);
        }
    }
    let mut out = Vec::new();
    for (source, prefill) in &caches {
        let rows = choices.find(&[("source", source), ("prefill", prefill)])?;
        for error in errors {
            let mut best: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
            for row in &rows {
                let (kept, time) = (choices.number(*row, "output_rel_err")?, choices.number(*row, "time_us")?);
                let policy = choices.cell(*row, "policy")?;
                if kept <= *error && best.get(policy).is_none_or(|(t, _)| time < *t) {
                    best.insert(policy, (time, *row));
                }
            }
            let mut ranked: Vec<_> = best.into_iter().collect();
            ranked.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
            for (rank, (policy, (time, row))) in (1..).zip(&ranked) {
                out.push(vec![
                    text(source),
                    text(prefill),
                    Value::Float(*error, 3),
                    Value::Int(rank),
                    text(policy),
                    text(choices.cell(*row, "budget")?),
                    text(choices.cell(*row, "output_rel_err")?),
                    text(choices.cell(*row, "time_us")?),
                    text(choices.cell(*row, "energy_uj")?),
                    Value::Float(time / ranked[0].1.0, 4),
                ]);
            }
        }
    }
    Ok(out)
}

/// Rows of ablation.csv. A variant is called `assumption: what`.
pub fn ablation(swept: &Cells) -> Result<Vec<Vec<Value>>> {
    let others = ["full", "quest", "sparq", "infinigen"];
    let mut out = Vec::new();
    for variant in swept.distinct("variant")? {
        let (assumption, what) = variant.split_once(": ").unwrap_or((variant, ""));
        let row = |policy: &str| swept.the(&[("variant", variant), ("policy", policy)]);
        let per_step =
            |row: usize, column: &str| Ok::<_, Error>(swept.number(row, column)? / swept.number(row, "steps")?);
        let ours = row(OURS)?;
        let mut cells = vec![text(assumption), text(what)];
        for (column, scale) in [("time_ns", 1e-3), ("energy_pj", 1e-6)] {
            cells.push(Value::Float(per_step(ours, column)? * scale, 4));
        }
        for column in ["time_ns", "energy_pj"] {
            for other in others {
                cells.push(percent_less(per_step(ours, column)?, per_step(row(other)?, column)?));
            }
        }
        for policy in [OURS, "quest"] {
            cells.push(Value::Float(swept.number(row(policy)?, "top_recall")?, 4));
        }
        out.push(cells);
    }
    Ok(out)
}
