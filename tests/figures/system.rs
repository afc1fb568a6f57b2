//! docs/system.md.

use super::{pimsim, prose, table};
use std::collections::BTreeMap;

/// What `pimsim system --switches` says of the service that the page names.
fn switches_of(model: &str) -> Vec<BTreeMap<String, String>> {
    let model = format!("configs/model/{model}.toml");
    let service = ["--batch", "16", "--prefill", "2048", "--pipeline", "--coprocess", "--switches"];
    let args = ["system", "--model", &model, "--platform", "configs/platform/h100-attacc.toml"];
    pimsim(&[&args[..], &service].concat())
}

/// A change in percent: 0 for what is exactly that, two decimals, or as many as show that it is not 0.
fn percent(cell: &str) -> String {
    let x: f64 = cell.parse().unwrap();
    match x.abs() {
        0.0 => "0".into(),
        a if a >= 0.005 => format!("{x:+.2}"),
        _ => format!("{x:+.4}"),
    }
}

/// Every switch: the formula, which is kept as the page has it, and what it changes alone.
pub(super) fn switches(current: &str) -> String {
    let cells = |line: &str| line.split(" | ").map(|c| c.trim_matches(['|', ' ']).to_string()).collect::<Vec<_>>();
    let formulas: BTreeMap<String, String> =
        current.lines().map(cells).filter(|row| row.len() > 1).map(|row| (row[0].clone(), row[1].clone())).collect();
    let rows = switches_of("llama-7b").into_iter().map(|row| {
        let only = if row["references"] == "starc" { " (starc)" } else { "" };
        let name = format!("`{}`{only}", row["switch"]);
        let formula = formulas.get(&name).unwrap_or_else(|| panic!("docs/system.md: say the formula of {name}"));
        let changes = ["alone_step_percent", "alone_energy_percent", "alone_prefill_percent"];
        [name.clone(), formula.clone()].into_iter().chain(changes.map(|c| percent(&row[c]))).collect()
    });
    let head = ["switch", "reference's formula", "step", "energy", "prefill"];
    table(&head, &[false; 5], rows)
}

/// What the published models do to a model with grouped queries.
pub(super) fn grouped(_: &str) -> String {
    let rows = switches_of("mistral-7b");
    let row = rows.iter().find(|r| r["switch"] == "published_models").unwrap();
    let change = |column: &str| format!("{:+.1} %", row[column].parse::<f64>().unwrap());
    prose(&format!(
        "Grouped-query models change more with `published_models`: for Mistral-7B, at the same service, a step by {} and its \
         energy by {}, as the published simulators take two matrices for its three.",
        change("alone_step_percent"),
        change("alone_energy_percent")
    ))
}
