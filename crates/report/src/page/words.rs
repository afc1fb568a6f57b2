//! What the page says in words: the setting, what is fastest at equal error, what to beware of, and what is not there.

use super::PageContext;
use super::choice::{Choices, PageChoice, metrics_of};
use super::read::Findings;
use super::table::{PageColumn, PageTable};
use crate::cells::Cells;
use pimattn_core::columns;
use pimattn_core::error::Result;
use std::collections::BTreeSet;

/// Errors at which policies are set against each other.
pub const AT_MOST: [f64; 2] = [0.05, 0.1];

/// Columns in which a table itself warns.
const WARNS: [&str; 3] = [columns::CAUTIONS, "warning", "warnings"];

/// The choices as a table: what a step costs, what is kept, and whether another choice is better.
pub fn table(choices: &Choices, caption: &str) -> PageTable {
    let column = PageColumn::new;
    let mut columns: Vec<PageColumn> =
        vec![column("choice", "", "policy and budget (tokens that a query head may select)")];
    columns.extend(choices.axes.iter().map(|axis| column(axis, "", "")));
    columns.extend([
        column("policy", "", ""),
        column("budget", "tokens", ""),
        column("time/step", "µs", "of the attention layers that were simulated"),
        column("speed-up", "", "time of the policy that attends to all tokens, over this time"),
        column("energy/step", "µJ", ""),
        column("output error", "", "|o_selected - o| / |o|, mean"),
        column("recall", "", "share of the budget's tokens of highest score that is selected, mean"),
        column(
            "Pareto",
            "",
            "yes: no other choice of the same setting is better in time, energy or error and in none worse",
        ),
        column("longest step", "µs", "such as one in which keys are clustered"),
        column("activations/step", "", "rows opened, one per bank"),
        column("main cause", "", "what takes most of the time"),
        column("share", "%", "its share of the time"),
        column("beaten by", "", "a choice that is better in one of the three and worse in none"),
    ]);
    let mut rows = Vec::new();
    for (_, members) in choices.groups() {
        let full = baseline(&members);
        for choice in &members {
            let number = |x: Option<f64>, decimals: usize| x.map_or(String::new(), |x| format!("{x:.decimals$}"));
            let by = members.iter().find(|other| other.cost.beats(&choice.cost));
            let pareto = match (choice.error(), by) {
                (None, _) => "",
                (_, None) => "yes",
                (_, Some(_)) => "no",
            };
            let cause = choice.main_cause();
            let mut row = vec![choice.label.clone()];
            row.extend(choice.group.iter().cloned());
            row.extend([
                choice.policy.clone(),
                choice.budget.map_or(String::new(), |b| b.to_string()),
                format!("{:.3}", choice.time() / 1e3),
                number(full.filter(|_| choice.time() > 0.0).map(|f| f.time() / choice.time()), 3),
                format!("{:.3}", choice.energy() / 1e6),
                number(choice.error(), 4),
                number(choice.recall, 4),
                pareto.into(),
                number(choice.worst_step.map(|ns| ns / 1e3), 3),
                number(choice.activations, 1),
                cause.map_or(String::new(), |(name, _)| name.into()),
                number(cause.map(|(_, share)| 100.0 * share), 1),
                by.map_or(String::new(), |b| b.label.clone()),
            ]);
            rows.push(row);
        }
    }
    PageTable { caption: caption.into(), columns, rows }.without_empty()
}

/// What speed-ups are against: the one choice of a group that takes no notice of the budget.
fn baseline<'a>(members: &[&'a PageChoice]) -> Option<&'a PageChoice> {
    let mut all = members.iter().filter(|c| c.baseline);
    // At several budgets it is the same.
    let first = all.next()?;
    all.all(|other| other.time() == first.time()).then_some(*first)
}

/// The fastest choice of each policy at equal error; none where no error is known.
pub fn fastest(choices: &Choices) -> Option<PageTable> {
    let mut columns = vec![PageColumn::new("policy", "", "")];
    columns.extend(choices.axes.iter().map(|axis| PageColumn::new(axis, "", "")));
    for most in AT_MOST {
        let percent = 100.0 * most;
        columns.push(PageColumn::new(&format!("time/step at error <= {percent} %"), "µs", ""));
        columns.push(PageColumn::new("at budget", "tokens", ""));
        columns.push(PageColumn::new("speed-up", "", ""));
    }
    let mut rows = Vec::new();
    for (_, members) in choices.groups() {
        let full = baseline(&members);
        let mut policies: Vec<&str> = Vec::new();
        for choice in &members {
            if !policies.contains(&choice.policy.as_str()) {
                policies.push(&choice.policy);
            }
        }
        for policy in policies {
            let own = || members.iter().filter(|c| c.policy == policy);
            let mut row = vec![policy.to_string()];
            row.extend(own().next().iter().flat_map(|c| c.group.iter().cloned()));
            for most in AT_MOST {
                let enough = own().filter(|c| c.error().is_some_and(|e| e <= most));
                let best = enough.reduce(|best, other| if other.time() < best.time() { other } else { best });
                row.push(best.map_or(String::new(), |c| format!("{:.3}", c.time() / 1e3)));
                row.push(best.and_then(|c| c.budget).map_or(String::new(), |b| b.to_string()));
                let faster = best.zip(full).filter(|(c, _)| c.time() > 0.0).map(|(c, full)| full.time() / c.time());
                row.push(faster.map_or(String::new(), |x| format!("{x:.3}")));
            }
            rows.push(row);
        }
    }
    let caption = format!(
        "{}: the fastest budget of each policy at equal output error; empty where none errs so little",
        choices.source
    );
    choices.has_errors().then_some(PageTable { caption, columns, rows })
}

/// The fastest of all at an error, in a sentence.
pub fn verdict(choices: &Choices) -> Vec<String> {
    let mut out = Vec::new();
    for (name, members) in choices.groups() {
        for most in AT_MOST {
            let enough = members.iter().filter(|c| c.error().is_some_and(|e| e <= most));
            let Some(best) = enough.reduce(|best, other| if other.time() < best.time() { other } else { best }) else {
                continue;
            };
            let place = if name.is_empty() { "Fastest".into() } else { format!("{name}: fastest") };
            let faster = baseline(&members).filter(|full| best.time() > 0.0 && full.label != best.label);
            let faster = faster.map_or(String::new(), |full| {
                format!(", {:.2} times as fast as {}", full.time() / best.time(), full.label)
            });
            let cause = best.main_cause().map_or(String::new(), |(cause, share)| {
                format!("; most of its time is {cause} ({:.0} %)", 100.0 * share)
            });
            out.push(format!(
                "{place} at an output error of at most {} %: {}, {:.3} µs a step{faster}{cause}.",
                100.0 * most,
                best.label,
                best.time() / 1e3
            ));
        }
    }
    out
}

/// Steps fewer than the period of a policy, or no multiple of it.
fn period(label: &str, policy: &str, steps: f64, settings: &toml::Table, context: &PageContext<'_>) -> Option<String> {
    let period = (context.policy)(policy, settings)?.period as f64;
    if period <= 1.0 || steps % period == 0.0 {
        return None;
    }
    let how = if steps < period { "fewer than" } else { "no multiple of" };
    Some(format!(
        "{label}: {steps} decode steps, {how} the {period} after which the policy's work repeats, such as clustering: its time, \
         energy and activations per step are not those of a long decode."
    ))
}

/// What a reader has to know before the numbers are used.
pub fn warnings(found: &Findings, choices: &[Choices], context: &PageContext<'_>) -> Result<Vec<String>> {
    let mut out: Vec<String> = Vec::new();
    let mut say = |text: String| {
        if !out.contains(&text) {
            out.push(text);
        }
    };
    let none = toml::Table::new();
    for folder in &found.sweeps {
        declared(&folder.table).into_iter().for_each(&mut say);
    }
    // What tuning says of itself has no column for it.
    for folder in &found.tunes {
        for row in folder.table.rows() {
            let Some(policy) = row.said(columns::POLICY) else { continue };
            let steps = row.number(columns::STEPS)?;
            // Parameters of policies that are axes of the sweep.
            let prefix = format!("policies.{policy}.");
            let mut settings = none.clone();
            for column in folder.table.header().iter().filter(|h| h.starts_with(&prefix)) {
                let value = row.said(column).and_then(|v| v.parse::<toml::Value>().ok());
                settings.extend(value.map(|v| (column[prefix.len()..].to_string(), v)));
            }
            period(&format!("{}, {policy}", folder.name), policy, steps, &settings, context)
                .into_iter()
                .for_each(&mut say);
        }
        declared(&folder.table).into_iter().for_each(&mut say);
    }
    let (mut steps, mut sources, mut generators) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut used = BTreeSet::new();
    for folder in &found.runs {
        declared(&folder.run).into_iter().for_each(&mut say);
        for row in folder.run.rows() {
            steps.insert(row.text(columns::STEPS)?);
            let provenance = Findings::origin(folder, &row).and_then(|o| o.said(columns::PROVENANCE));
            sources.extend(provenance);
            generators.extend(Findings::origin(folder, &row).and_then(|o| o.said(columns::GENERATOR)));
            used.extend(metrics_of(found, &row)?.map(|m| m.file.as_str()));
        }
    }
    if steps.len() > 1 {
        let all = steps.iter().copied().collect::<Vec<_>>().join(", ");
        say(format!(
            "The runs have different numbers of decode steps ({all}): their means per step are of different stretches of text."
        ));
    }
    if sources.len() > 1 {
        let all = sources.iter().copied().collect::<Vec<_>>().join(" | ");
        say(format!("The runs are of different sources, and cannot be set against each other: {all}"));
    }
    if generators.len() > 1 {
        let all = generators.iter().copied().collect::<Vec<_>>().join(", ");
        say(format!("The traces are by different versions of the generator: {all}"));
    }
    for metrics in found.metrics.iter().filter(|_| !found.runs.is_empty()) {
        if !used.contains(metrics.file.as_str()) {
            say(format!(
                "{}: metrics of {} {} over {} steps belong to no run here, or to a run that others belong to as well; they are \
                 in the heat maps only.",
                metrics.file,
                metrics.identity.policy,
                metrics.identity.budget,
                metrics.steps.len()
            ));
        }
        if metrics.without_error > 0 {
            say(format!(
                "{}: {} outputs are 0 and have no relative error; means are over the others.",
                metrics.file, metrics.without_error
            ));
        }
    }
    for choices in choices {
        let without = choices.all.iter().filter(|c| c.error().is_none()).count();
        if choices.has_errors() && without > 0 {
            say(format!(
                "{}: {without} of {} have no output error, and are not in the figures against it.",
                choices.source,
                choices.all.len()
            ));
        }
    }
    Ok(out)
}

/// What a table warns of itself.
fn declared(table: &Cells) -> Vec<String> {
    let said = |column: &'static str| table.rows().filter_map(move |row| row.said(column));
    let cautions = WARNS.into_iter().flat_map(said).flat_map(|text| text.split("; "));
    cautions.map(|text| format!("{}: {text}", table.name())).collect()
}

/// What the page has not, and the command that gives it.
pub fn missing(found: &Findings, choices: &[Choices]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    let mut say = |what: String, how: &str| out.push((what, how.to_string()));
    for choices in choices.iter().filter(|c| !c.has_errors() && found.sweeps.iter().any(|s| s.name == c.source)) {
        let what =
            format!("{}: output error, recall and the Pareto frontier (accuracy was not measured)", choices.source);
        say(what, "accuracy = true in the sweep's grid");
    }
    if found.runs.is_empty() {
        say(
            "Decode steps over time, imbalance by layer, head and channel".into(),
            "pimsim run TRACE --config SYSTEM.toml -o DIR",
        );
    }
    if found.metrics.is_empty() {
        let how =
            "tracegen run --config WORKLOAD.toml -o TRACE --metrics M.csv, then pimsim report DIR --metrics M.csv";
        say("Output error by layer and query head".into(), how);
    }
    for folder in &found.runs {
        let details = &folder.details;
        let tables = [
            ("steps.csv: decode steps over time", details.steps.is_some()),
            ("phases.csv: time by phase", details.phases.is_some()),
            ("heads.csv: imbalance by layer and head", details.heads.is_some()),
            ("channels.csv: waiting by channel", details.channels.is_some()),
            ("origins.csv: policy, budget, source and configuration of each run", details.origins.is_some()),
        ];
        for (what, _) in tables.into_iter().filter(|(_, there)| !there) {
            say(
                format!("{}: {what}", folder.name),
                "pimsim run TRACE --config SYSTEM.toml -o DIR writes it beside run.csv",
            );
        }
        for row in folder.run.rows() {
            if !found.metrics.is_empty() && metrics_of(found, &row)?.is_none() {
                let what = format!("{}: output error of {}", folder.name, row.text(columns::TRACE)?);
                say(
                    what,
                    "tracegen run --metrics M.csv with the trace's policy, budget and steps, given with --metrics",
                );
            }
        }
    }
    if found.sweeps.is_empty() {
        say("Policies at several budgets, and the fastest at equal error".into(), "pimsim sweep GRID.toml -o DIR");
    }
    if found.tunes.is_empty() {
        let how = "pimsim tune --config WORKLOAD.toml --policies A,B --budgets N -o DIR";
        say("Each policy at its best mapping and placement".into(), how);
    }
    Ok(out)
}
