//! docs/system.md.

use super::{pimsim, prose, table, whole};
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

/// A row of `pimsim system` for LLaMA-7B on the platform of the page.
fn served(more: &[&str]) -> BTreeMap<String, String> {
    let args = ["system", "--model", "configs/model/llama-7b.toml", "--platform", "configs/platform/h100-attacc.toml"];
    pimsim(&[&args[..], &["--prefill", "2048"], more].concat()).remove(0)
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap()
}

/// Multiplications of a request, and the channel that works longest, by batch.
pub(super) fn ghosts(_: &str) -> String {
    let batches = ["16", "20", "21", "32"];
    let rows = |set: &[&str]| batches.map(|batch| served(&[&["--batch", batch], set].concat()));
    let [honest, published] = [rows(&[]), rows(&["--set", "reference.published_schedule=true"])];
    let line =
        |name: &str, rows: &[BTreeMap<String, String>; 4], cell: &dyn Fn(&BTreeMap<String, String>) -> String| {
            [name.to_string()].into_iter().chain(rows.iter().map(cell)).collect::<Vec<_>>()
        };
    let each = |row: &BTreeMap<String, String>| format!("{:.4}", number(row, "pim_compute_mj") / number(row, "batch"));
    let cycles = |row: &BTreeMap<String, String>| whole(number(row, "attention_cycles") as u64);
    let with = "with `published_schedule`";
    let lines = [
        line("`pim_compute_mj` / batch", &honest, &each),
        line(with, &published, &each),
        line("attention_cycles", &honest, &cycles),
        line(with, &published, &cycles),
    ];
    let head = [&["batch (`--prefill 2048`, no options)"][..], &batches].concat();
    table(&head, &[false, true, true, true, true], lines)
}

/// What a ghost head changes of a step, with and without `--coprocess`.
pub(super) fn ghost_head(_: &str) -> String {
    let change = |options: &[&str]| {
        let of = |set: &[&str]| served(&[&["--batch", "21"], options, set].concat());
        let (honest, published) = (of(&[]), of(&["--set", "reference.published_schedule=true"]));
        ["step_ms", "energy_mj"].map(|c| 100.0 * (number(&published, c) / number(&honest, c) - 1.0))
    };
    let ([step, energy], [_, alone]) = (change(&["--pipeline", "--coprocess"]), change(&["--pipeline"]));
    prose(&format!(
        "`published_schedule` changes nothing in that service, whose stacks have 13 heads on 16 channels. At batch 21, 17 heads, \
         one channel has two, and the others repeat the product of their only one: {step:+.3} % of the step and {energy:+.2} % \
         of its energy ({alone:+.2} % without `--coprocess`). Multiplications and softmax of a request take:"
    ))
}

/// Standing power for the whole step, and while attention lasts.
pub(super) fn standing(_: &str) -> String {
    let mut rows = Vec::new();
    for (name, options) in [("`--pipeline --coprocess`", &["--pipeline", "--coprocess"][..]), ("no options", &[])] {
        let [whole, attention] =
            [&[][..], &["--set", "pim.standing=attention"]].map(|set| served(&[options, set].concat()));
        let row = |name: String, column: &str| {
            [name]
                .into_iter()
                .chain([&whole, &attention].map(|r| format!("{:.1}", number(r, column))))
                .collect::<Vec<_>>()
        };
        rows.push(row(format!("{name}, {:.3} ms: pim_standing_mj", number(&whole, "step_ms")), "pim_standing_mj"));
        rows.push(row("energy_mj".into(), "energy_mj"));
    }
    table(&["", "whole step", "attention"], &[false, true, true], rows)
}
