//! docs/policies-agreement.md: what the parameters of policies change, on the bundled sample.

use super::{Trace, table, whole};
use crate::common::root;
use pimattn_mapping::workload::Workload;
use pimattn_tracegen::generate::{Generator, MetricsRow};
use rayon::prelude::*;

/// Budgets shown.
const BUDGETS: [u32; 2] = [128, 512];
/// Seeds of a policy that draws.
const SEEDS: u32 = 5;

/// Means over all steps, layers and query heads: tokens selected, row tokens, recall of the best, mass, error.
fn means(set: &[String]) -> [f64; 5] {
    let (workload, doc) = Workload::load(&root().join("configs/workload/demo.toml"), set).unwrap();
    let generator = Generator::load(workload, &doc, None).unwrap();
    let mut sink = Trace { header: generator.header().clone(), records: Vec::new() };
    let (mut sums, mut count) = ([0.0; 5], 0u32);
    let mut add = |row: &MetricsRow| {
        let a = row.accuracy;
        let values =
            [a.selected as f64, a.row_tokens as f64, a.top_recall, a.mass_recall, a.output_rel_err.unwrap_or(0.0)];
        sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
        count += 1;
        Ok(())
    };
    generator.run(&mut sink, Some(&mut add), &mut |_| {}).unwrap();
    sums.map(|sum| sum / f64::from(count))
}

fn cells([selected, rows, recall, mass, error]: [f64; 5]) -> [String; 5] {
    [
        whole(selected.round() as u64),
        whole(rows.round() as u64),
        format!("{recall:.3}"),
        format!("{mass:.3}"),
        format!("{error:.3}"),
    ]
}

/// A policy with some of its parameters changed.
struct Variant {
    policy: &'static str,
    /// `KEY=VALUE` of its table.
    changes: &'static [&'static str],
}

const fn variant(policy: &'static str, changes: &'static [&'static str]) -> Variant {
    Variant { policy, changes }
}

const VARIANTS: &[Variant] = &[
    variant("starc", &[]),
    variant("starc", &["tail=permanent", "phase=1"]),
    variant("starc", &["precision=f16"]),
    variant("starc", &["precision=bf16"]),
    variant("starc", &["tail=permanent", "phase=1", "precision=bf16"]),
    variant("sparq", &[]),
    variant("sparq", &["per=head"]),
    variant("infinigen", &[]),
    variant("infinigen", &["alpha=4.0"]),
    variant("infinigen", &["mean=group"]),
    variant("infinigen", &["rotation=group"]),
    variant("infinigen-filled", &[]),
    variant("clusterkv", &[]),
    variant("clusterkv", &["charge_generated=true"]),
    variant("clusterkv", &["means=unit"]),
    variant("quest", &[]),
    variant("streaming", &[]),
    variant("streaming", &["positions=cache"]),
    variant("h2o", &[]),
];

/// What each parameter changes.
pub(super) fn parameters(_: &str) -> String {
    let points: Vec<(&Variant, u32)> = VARIANTS.iter().flat_map(|v| BUDGETS.map(|b| (v, b))).collect();
    let row = |(v, budget): &(&Variant, u32)| {
        let changes = v.changes.iter().map(|change| format!("policies.{}.{change}", v.policy));
        let set = [format!("policy={}", v.policy), format!("budget={budget}")];
        let all: Vec<String> = set.into_iter().chain(changes).collect();
        let changed: Vec<String> = v.changes.iter().map(|change| format!("`{change}`")).collect();
        let head = [v.policy.to_string(), changed.join(", "), budget.to_string()];
        head.into_iter().chain(cells(means(&all))).collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = points.par_iter().map(row).collect();
    let heads = ["policy", "changed to", "budget", "selected", "row tokens", "recall of the best", "mass", "error"];
    table(&heads, &[false, false, true, true, true, true, true, true], rows)
}

/// Policies that draw, over seeds: the mean, and the least and the most.
pub(super) fn seeds(_: &str) -> String {
    let points: Vec<(&str, u32)> = ["starc-v1", "clusterkv"].iter().flat_map(|p| BUDGETS.map(|b| (*p, b))).collect();
    let row = |(policy, budget): &(&str, u32)| {
        let of_seed =
            |seed: u32| means(&[format!("policy={policy}"), format!("budget={budget}"), format!("seed={seed}")]);
        let runs: Vec<[f64; 5]> = (1..=SEEDS).into_par_iter().map(of_seed).collect();
        let shown = |i: usize, decimals: usize| {
            let values = || runs.iter().map(|run| run[i]);
            let mean = values().sum::<f64>() / runs.len() as f64;
            let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
            format!("{mean:.decimals$} ({least:.decimals$} to {most:.decimals$})")
        };
        vec![policy.to_string(), budget.to_string(), shown(1, 0), shown(2, 3), shown(3, 3), shown(4, 3)]
    };
    let rows: Vec<Vec<String>> = points.par_iter().map(row).collect();
    let heads = ["policy", "budget", "row tokens", "recall of the best", "mass", "error"];
    table(&heads, &[false, true, true, true, true, true], rows)
}
