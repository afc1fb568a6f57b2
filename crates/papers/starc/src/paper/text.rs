//! The report as Markdown. A figure in a sentence stands with the cell that it is from.

use super::claims::{self, Claim, Kind, cited};
use super::{ExperimentTables, design, repeats, tornado};
use crate::artifact::bars;
use crate::policies::{INFINIGEN, QUEST, SPARQ};
use crate::reproduce::columns::{SelectionMode, ablation, intervals, mappings, masks, reductions, winners};
use crate::reproduce::{design as device, tornado as column};
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_report::cells::Cells;
use std::fmt::Write;

/// A table with some columns of some rows; the last line says where it is from.
pub(super) fn table(cells: &Cells, rows: &[usize], columns: &[(&str, &str)], decimals: usize) -> Result<String> {
    let mut out = format!(
        "| {} |\n|{}\n",
        columns.iter().map(|c| c.1).collect::<Vec<_>>().join(" | "),
        "-|".repeat(columns.len())
    );
    for row in rows {
        let cell = |(column, _): &(&str, &str)| {
            let text = cells.cell(*row, column)?;
            Ok(match text.parse::<f64>() {
                Ok(x) if text.contains('.') => format!("{x:.decimals$}"),
                _ => text.replace('|', "\\|"),
            })
        };
        let line: Vec<String> = columns.iter().map(cell).collect::<Result<_>>()?;
        out.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
    out.push_str(&format!("\nFrom {}: {}.\n\n", cells.name(), names.join(", ")));
    Ok(out)
}

/// Starc against the others, a row for each model and context.
fn reduced(t: &ExperimentTables, mode: &str, scope: &str, measure: &str) -> Result<String> {
    let rows = t.reductions.find(&[
        (reductions::MODE.name(), mode),
        (reductions::SCOPE.name(), scope),
        (reductions::MEASURE.name(), measure),
    ])?;
    let mut columns =
        vec![columns::MODEL, columns::CONTEXT, reductions::AGAINST.name(), reductions::REDUCTION_PERCENT.name()];
    if mode == SelectionMode::Masks.name() {
        columns.extend([reductions::LOW.name(), reductions::HIGH.name()]);
    }
    let mut others: Vec<&str> = Vec::new();
    let mut lines: Vec<((&str, &str), Vec<String>)> = Vec::new();
    for row in &rows {
        let cell = |column| t.reductions.cell(*row, column);
        let against = cell(reductions::AGAINST.name())?;
        if !others.contains(&against) {
            others.push(against);
        }
        let key = (cell(columns::MODEL)?, cell(columns::CONTEXT)?);
        let percent = t.reductions.number(*row, reductions::REDUCTION_PERCENT.name())?;
        let value = match claims::interval(&t.reductions, *row)? {
            Some([low, high]) => format!("{percent:.2} ({low:.2} to {high:.2})"),
            None => format!("{percent:.2}"),
        };
        match lines.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) => values.push(value),
            None => lines.push((key, vec![value])),
        }
    }
    let heads: String = others.iter().map(|o| format!(" than {o} |")).collect();
    let mut out = format!("| model | context |{heads}\n|-|-|{}\n", "-|".repeat(others.len()));
    for ((model, context), values) in lines {
        out.push_str(&format!("| {model} | {context} | {} |\n", values.join(" | ")));
    }
    out.push_str(&format!(
        "\nFrom {}, rows {mode}, {scope}, {measure}: {}.\n\n",
        t.reductions.name(),
        columns.join(", ")
    ));
    Ok(out)
}

fn section(out: &mut String, title: &str, text: &str) {
    let _ = write!(out, "## {title}\n\n{text}\n\n");
}

fn figure(out: &mut String, file: &str, what: &str) {
    let _ = write!(out, "![{what}]({file})\n\n");
}

/// The report.
pub fn markdown(title: &str, plan: &[Claim], t: &ExperimentTables, claimed: &Cells) -> Result<String> {
    let mut out = format!("# {title}\n\n{}\n\n", tornado::sign_changes(t)?);
    out.push_str(
        "Made by `make reproduce`; docs/reproduce.md says how. Every figure stands in a CSV file beside this one; `[file:line \
         column]` names the cell. Columns are explained in docs/tables.md.\n\n\
         Artifact mode replays the row budgets that the authors' artifact ships, every decode step, with the published \
         simulator's switches. Real-mask mode lets the policies choose on a KV cache, places the tokens in rows, and replays the \
         accesses with the costs of choosing and clustering; nothing of the published simulator's is in it.\n\n",
    );
    let row = 0;
    let _ = write!(
        out,
        "What real-mask mode simulates: the attention of a layer on the fullest stack, on {} synthetic caches of {} fitted layers, in {} \
         windows of {} consecutive decode steps at the middle of equal parts of the shortest context, and as many more in the longer ones, \
         {} of the steps. The other steps, the other sparse layers and the other stacks are taken to be alike.\n\n\
         Intervals have 95 % of the bootstrap's draws of layers and, within layers, of caches; policies are set against each other on the \
         same caches. Heads are not drawn: a layer takes as long as its slowest channel.\n\n",
        cited(&t.masks, row, masks::CACHES.name(), 0, "")?,
        cited(&t.masks, row, masks::SIMULATED_LAYERS.name(), 0, "")?,
        cited(&t.masks, row, masks::WINDOWS.name(), 0, "")?,
        cited(&t.masks, row, masks::WINDOW_STEPS.name(), 0, "")?,
        cited(&t.masks, row, masks::SIMULATED_PERCENT.name(), 2, " %")?,
    );

    section(
        &mut out,
        "Claims",
        "Reductions are of STARC against the policies named. Artifact mode and real-mask mode: least to most over models and contexts, in \
         brackets from the lowest to the highest end of the intervals. Default and best mapping: over all fitted layers and several seeds, \
         at one length, with the interval. A verdict names both, real-mask mode last.",
    );
    let all: Vec<usize> = (0..claimed.len()).collect();
    let shown = [
        (claims::CLAIM.name(), "#"),
        (claims::VERSION.name(), "version"),
        (claims::WHAT.name(), "what"),
        (claims::CLAIMED.name(), "claimed"),
        (claims::ARTIFACT.name(), "artifact mode"),
        (claims::ARTIFACT_VERDICT.name(), ""),
        (claims::MASKS.name(), "real-mask mode"),
        (claims::MASKS_VERDICT.name(), ""),
        (claims::VERDICT.name(), "verdict"),
    ];
    out.push_str(&table(claimed, &all, &shown, 2)?);
    for row in &all {
        let cell = |column| claimed.cell(*row, column);
        let from = |column: &str, mode: &str| match claimed.cell(*row, column)? {
            "" => Ok::<_, pimattn_core::error::Error>(String::new()),
            cells => Ok(format!(" {mode}: {cells}.")),
        };
        let cells = format!(
            "{}{}{}{}{}",
            from(claims::DEFAULT.name(), "Default mapping")?,
            from(claims::BEST.name(), "Best mapping")?,
            from(claims::DECIDES.name(), "What decides most")?,
            from(claims::ARTIFACT_FROM.name(), "Artifact mode")?,
            from(claims::MASKS_FROM.name(), "Real-mask mode")?
        );
        let verdict = match cell(claims::VERDICT.name())? {
            "" => String::new(),
            words => format!(" **{words}.**"),
        };
        let _ = write!(out, "{}.{verdict}{cells}\n\n", cell(claims::CLAIM.name())?);
    }
    // Claims of a kind differ for the same reason, which is said once.
    let mut said: Vec<Kind> = Vec::new();
    for (row, claim) in plan.iter().enumerate().filter(|(row, _)| *row < claimed.len()) {
        if said.contains(&claim.kind) {
            continue;
        }
        said.push(claim.kind);
        let alike = plan.iter().zip(1..).filter(|(other, _)| other.kind == claim.kind);
        let numbers: Vec<String> = alike.map(|(_, number): (_, u32)| number.to_string()).collect();
        let which = if numbers.len() == 1 { "claim" } else { "claims" };
        let why = claimed.cell(row, claims::WHY.name())?;
        let _ = write!(out, "Why modes differ in {which} {}. {why}\n\n", numbers.join(", "));
    }

    section(&mut out, "Row budgets of artifact mode", &repeats::text(t)?);
    let less = "STARC takes less than the others by so many percent; in brackets the interval of the caches.";
    section(&mut out, "Attention layers", less);
    for (mode, name) in [("artifact", "Artifact mode"), ("masks", "Real-mask mode")] {
        for measure in ["latency", "energy"] {
            let _ = write!(out, "### {name}, {measure}\n\n");
            out.push_str(&reduced(t, mode, "attention", measure)?);
        }
    }
    figure(&mut out, "attention-artifact.svg", "Attention layers in artifact mode");
    figure(&mut out, "attention-masks-latency.svg", "Time of attention in real-mask mode, by phase");
    figure(&mut out, "attention-masks-energy.svg", "Energy of attention in real-mask mode, by phase");

    section(&mut out, "End to end", less);
    for (mode, name) in [("artifact", "Artifact mode"), ("masks", "Real-mask mode")] {
        for measure in ["latency", "energy"] {
            let _ = write!(out, "### {name}, {measure}\n\n");
            out.push_str(&reduced(t, mode, "end-to-end", measure)?);
        }
    }
    for (mode, name) in [("artifact", "artifact mode"), ("masks", "real-mask mode")] {
        for measure in ["latency", "energy"] {
            figure(&mut out, &format!("end-to-end-{mode}-{measure}.svg"), &format!("End to end, {measure}, {name}"));
        }
    }

    figure(&mut out, "reductions-masks.svg", "What STARC takes less in real-mask mode, with intervals");

    section(&mut out, "Along the decode", "One window at each of these steps, the mean over caches.");
    figure(&mut out, "decode-length.svg", "Time, energy and row tokens by decode step");

    section(&mut out, "Recall and rows by budget", "On a real KV cache, and on synthetic ones of several lengths.");
    figure(&mut out, "recall.svg", "Recall by budget");
    figure(&mut out, "row-tokens.svg", "Row tokens by budget");

    best_mappings(&mut out, t)?;

    section(
        &mut out,
        "Which policy wins at equal accuracy",
        "For each cache, and each error of attention's output that is allowed, the fastest policy and the budget at which it keeps \
         it. winners.csv has the others, by rank; starc-v1 has none, for what it keeps depends on the seed.",
    );
    let first = t.winners.find(&[(winners::RANK.name(), "1")])?;
    let shown = [
        (winners::SOURCE.name(), "cache"),
        (winners::PREFILL.name(), "tokens"),
        (winners::ERROR.name(), "error at most"),
        (winners::POLICY.name(), "fastest"),
        (winners::BUDGET.name(), "budget"),
        (winners::OUTPUT_REL_ERR.name(), "its error"),
        (winners::TIME_US.name(), "us a step"),
        (winners::ENERGY_UJ.name(), "uJ a step"),
    ];
    out.push_str(&table(&t.winners, &first, &shown, 3)?);

    section(
        &mut out,
        "What the gains rest on",
        "One assumption changed at a time; percent that STARC takes less than the other policy (below 0: more).",
    );
    let all: Vec<usize> = (0..t.ablation.len()).collect();
    let shown = [
        (ablation::ASSUMPTION.name(), "assumption"),
        (ablation::VARIANT.name(), "changed to"),
        (ablation::TIME_VS_FULL.name(), "time, full"),
        (ablation::TIME_VS_QUEST.name(), QUEST),
        (ablation::TIME_VS_SPARQ.name(), SPARQ),
        (ablation::TIME_VS_INFINIGEN.name(), INFINIGEN),
        (ablation::ENERGY_VS_FULL.name(), "energy, full"),
        (ablation::ENERGY_VS_QUEST.name(), QUEST),
        (ablation::ENERGY_VS_SPARQ.name(), SPARQ),
        (ablation::ENERGY_VS_INFINIGEN.name(), INFINIGEN),
    ];
    out.push_str(&table(&t.ablation, &all, &shown, 1)?);
    for measure in ["time", "energy"] {
        let what = format!("STARC over the other policies under changed assumptions, {measure}");
        figure(&mut out, &format!("ablation-{measure}.svg"), &what);
    }

    section(
        &mut out,
        "What assumed values decide",
        "Every assumed value that a headline on attention can depend on, moved alone to both ends of a range, and values whose \
         source is of another device (configs/sweep/tornado.toml has the ranges, why they are these, and what is not moved): \
         percent that STARC takes less than the other policy, for the two that move each headline most. tornado.csv has all. \
         Simulated is a part of the stack, at one context.",
    );
    let shown = [
        (column::MEASURE.name(), ""),
        (column::AGAINST.name(), "than"),
        (column::LESS.name(), "as shipped"),
        (column::ASSUMPTION.name(), "moved"),
        (column::VALUE.name(), "from"),
        (column::LOW.name(), "to"),
        (column::LESS_LOW.name(), "%"),
        (column::HIGH.name(), "to"),
        (column::LESS_HIGH.name(), "%"),
    ];
    out.push_str(&table(&t.tornado, &tornado::told(t)?, &shown, 1)?);
    figure(&mut out, "tornado.svg", "What assumed values do to each headline");

    section(
        &mut out,
        "Which device",
        "Devices that differ in a key or two from the one that ships (configs/sweep/design.toml has them, and what each leaves out). \
         Speed is that of attention: tokens of the batch a second if a decode step were the attention of one layer. There are no \
         columns at equal area, for no source gives the area of units, buffers and row decoders; mean power is energy_uj / time_us.\n\n\
         Which granularity of activation is worth its cost for sparse attention? Percent of the shipped device's time and energy \
         that are saved; below 0, more is taken.",
    );
    let _ = write!(out, "{}\n\n", design::answer(t)?);
    let shown = [
        (device::POWER_POLICY.name(), "power"),
        (columns::POLICY, "policy"),
        (device::DEVICE_NAME.name(), "instead of a bank group"),
        (device::TIME_LESS.name(), "time saved, %"),
        (device::ENERGY_LESS.name(), "energy saved, %"),
    ];
    out.push_str(&table(&t.design, &design::compared(t)?, &shown, 1)?);
    figure(&mut out, "design-activation.svg", "Time and energy by what an activation opens");
    out.push_str("Devices that no other beats in time and energy alike, policy by policy:\n\n");
    let shown = [
        (columns::POLICY, "policy"),
        (device::DEVICE_NAME.name(), "device"),
        (device::TIME_US.name(), "us a step"),
        (device::ENERGY_UJ.name(), "uJ a step"),
        (device::TOKENS_PER_S.name(), "tokens/s of a layer's attention"),
    ];
    let mut frontier = design::told(t)?;
    frontier.sort_by_cached_key(|row| t.design.cell(*row, columns::POLICY).map(String::from).unwrap_or_default());
    out.push_str(&table(&t.design, &frontier, &shown, 2)?);
    figure(&mut out, "design-frontier.svg", "Devices that no other beats");
    Ok(out)
}

/// Policies at the artifact's mapping, at the default and at their best.
fn best_mappings(out: &mut String, t: &ExperimentTables) -> Result<()> {
    section(
        out,
        "Each policy at its best mapping",
        "The artifact's account has no rows; the default is that of configs/workload; the best is what tuning finds for each policy on one \
         cache, measured on all of them; best-at-error is the same at the smallest budget that keeps the plan's mean output error over \
         all layers. The longest step is one that clusters, where the policy clusters.",
    );
    let all: Vec<usize> = (0..t.mappings.len()).collect();
    let shown = [
        (mappings::SOURCE.name(), "caches"),
        (mappings::CACHES.name(), "number"),
        (columns::POLICY, "policy"),
        (mappings::MAPPING.name(), "mapping"),
        (columns::BUDGET, "budget"),
        (mappings::TIME_US.name(), "us a step"),
        (mappings::MEDIAN_US.name(), "median"),
        (mappings::WORST_US.name(), "longest"),
        (mappings::ENERGY_UJ.name(), "uJ a step"),
        (columns::OUTPUT_REL_ERR, "output error"),
    ];
    out.push_str(&table(&t.mappings, &all, &shown, 3)?);
    let _ = write!(
        out,
        "STARC takes less than the others by so many percent, with the interval of 95 % of the bootstrap's draws:\n\n"
    );
    let rows: Vec<usize> = (0..t.intervals.len()).collect();
    let shown = [
        (intervals::SOURCE.name(), "caches"),
        (intervals::MAPPING.name(), "mapping"),
        (intervals::SCOPE.name(), "of"),
        (intervals::MEASURE.name(), "what"),
        (intervals::AGAINST.name(), "than"),
        (intervals::REDUCTION_PERCENT.name(), "%"),
        (intervals::LOW.name(), "from"),
        (intervals::HIGH.name(), "to"),
        (intervals::CACHES.name(), "number"),
    ];
    out.push_str(&table(&t.intervals, &rows, &shown, 1)?);
    rows_beside_the_authors(out, t)
}

/// Row tokens of our selections beside those of the authors' tables.
fn rows_beside_the_authors(out: &mut String, t: &ExperimentTables) -> Result<()> {
    let mut said = Vec::new();
    for row in t.mappings.find(&[(mappings::SOURCE.name(), "synthetic"), (mappings::MAPPING.name(), "default")])? {
        let policy = t.mappings.cell(row, columns::POLICY)?;
        let Some(bar) = t.artifact.find(&[(columns::POLICY, policy)])?.first().copied() else { continue };
        if t.mappings.cell(row, columns::BUDGET)?.is_empty() {
            continue;
        }
        said.push(format!(
            "{policy} {} of {} selected here, {} there",
            cited(&t.mappings, row, columns::ROW_TOKENS, 0, "")?,
            cited(&t.mappings, row, mappings::SELECTED.name(), 0, "")?,
            cited(&t.artifact, bar, bars::MEAN_TOKENS.name(), 0, "")?,
        ));
    }
    if !said.is_empty() {
        let _ = write!(
            out,
            "Tokens in the rows that a query head touches, beside those of the authors' tables: {}.\n\n",
            said.join("; ")
        );
    }
    Ok(())
}
