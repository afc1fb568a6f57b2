//! The report as Markdown. A figure in a sentence stands with the cell that it is from.

use super::Tables;
use super::claims::cited;
use pimattn_core::error::Result;
use pimattn_report::cells::Cells;
use std::fmt::Write;

/// A table with some columns of some rows; the last line says where it is from.
fn table(cells: &Cells, rows: &[usize], columns: &[(&str, &str)], decimals: usize) -> Result<String> {
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
fn reductions(t: &Tables, mode: &str, scope: &str, measure: &str) -> Result<String> {
    let rows = t.reductions.find(&[("mode", mode), ("scope", scope), ("measure", measure)])?;
    let columns =
        [("model", "model"), ("context", "context"), ("against", "against"), ("reduction_percent", "less, %")];
    let mut others: Vec<&str> = Vec::new();
    let mut lines: Vec<((&str, &str), Vec<String>)> = Vec::new();
    for row in &rows {
        let cell = |column| t.reductions.cell(*row, column);
        let against = cell("against")?;
        if !others.contains(&against) {
            others.push(against);
        }
        let key = (cell("model")?, cell("context")?);
        let value = format!("{:.2}", t.reductions.number(*row, "reduction_percent")?);
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
    let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
    out.push_str(&format!(
        "\nFrom {}, rows {mode}, {scope}, {measure}: {}.\n\n",
        t.reductions.name(),
        names.join(", ")
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
pub fn markdown(title: &str, t: &Tables, claims: &Cells) -> Result<String> {
    let mut out = format!("# {title}\n\n");
    out.push_str(
        "Made by `make reproduce`; docs/reproduce.md says how. Every figure stands in a CSV file beside this one; `[file:line \
         column]` names the cell. Columns are explained in docs/tables.md.\n\n\
         Artifact mode replays the row budgets that the authors' artifact ships, every decode step, with the published \
         simulator's switches. Real-mask mode lets the policies choose on a KV cache, places the tokens in rows, and replays the \
         accesses with the costs of choosing and clustering; nothing of the published simulator's is in it.\n\n",
    );
    let masks = &t.masks;
    let row = 0;
    let _ = write!(
        out,
        "What real-mask mode simulates: {} layer of the model, on the fullest stack, in {} windows of {} consecutive decode \
         steps at the middle of equal parts of the shortest context, and as many more in the longer ones, {} of the steps. The \
         other steps, the other sparse layers and the other stacks are taken to be alike.\n\n",
        cited(masks, row, "simulated_layers", 0, "")?,
        cited(masks, row, "windows", 0, "")?,
        cited(masks, row, "window_steps", 0, "")?,
        cited(masks, row, "simulated_percent", 2, " %")?,
    );

    section(
        &mut out,
        "Claims",
        "Reductions are of STARC against the policies named, least to most over models and contexts.",
    );
    let all: Vec<usize> = (0..claims.len()).collect();
    let shown = [
        ("claim", "#"),
        ("version", "version"),
        ("what", "what"),
        ("claimed", "claimed"),
        ("artifact", "artifact mode"),
        ("artifact_verdict", ""),
        ("masks", "real-mask mode"),
        ("masks_verdict", ""),
    ];
    out.push_str(&table(claims, &all, &shown, 2)?);
    for row in &all {
        let cell = |column| claims.cell(*row, column);
        let from = |column: &str, mode: &str| match claims.cell(*row, column)? {
            "" => Ok::<_, pimattn_core::error::Error>(String::new()),
            cells => Ok(format!(" {mode}: {cells}.")),
        };
        let cells = format!("{}{}", from("artifact_from", "Artifact mode")?, from("masks_from", "Real-mask mode")?);
        let _ = write!(out, "{}. {}{cells}\n\n", cell("claim")?, cell("why")?);
    }

    section(&mut out, "Attention layers", "STARC takes less than the others by so many percent.");
    for (mode, name) in [("artifact", "Artifact mode"), ("masks", "Real-mask mode")] {
        for measure in ["latency", "energy"] {
            let _ = write!(out, "### {name}, {measure}\n\n");
            out.push_str(&reductions(t, mode, "attention", measure)?);
        }
    }
    figure(&mut out, "attention-artifact.svg", "Attention layers in artifact mode");
    figure(&mut out, "attention-masks-latency.svg", "Time of attention in real-mask mode, by phase");
    figure(&mut out, "attention-masks-energy.svg", "Energy of attention in real-mask mode, by phase");

    section(&mut out, "End to end", "STARC takes less than the others by so many percent.");
    for (mode, name) in [("artifact", "Artifact mode"), ("masks", "Real-mask mode")] {
        for measure in ["latency", "energy"] {
            let _ = write!(out, "### {name}, {measure}\n\n");
            out.push_str(&reductions(t, mode, "end-to-end", measure)?);
        }
    }
    for (mode, name) in [("artifact", "artifact mode"), ("masks", "real-mask mode")] {
        for measure in ["latency", "energy"] {
            figure(&mut out, &format!("end-to-end-{mode}-{measure}.svg"), &format!("End to end, {measure}, {name}"));
        }
    }

    section(&mut out, "Along the decode", "One window at each of these steps.");
    figure(&mut out, "decode-length.svg", "Time, energy and row tokens by decode step");

    section(&mut out, "Recall and rows by budget", "On a real KV cache, and on synthetic ones of several lengths.");
    figure(&mut out, "recall.svg", "Recall by budget");
    figure(&mut out, "row-tokens.svg", "Row tokens by budget");

    section(
        &mut out,
        "Which policy wins at equal accuracy",
        "For each cache, and each error of attention's output that is allowed, the fastest policy and the budget at which it keeps \
         it. winners.csv has the others, by rank.",
    );
    let first = t.winners.find(&[("rank", "1")])?;
    let shown = [
        ("source", "cache"),
        ("prefill", "tokens"),
        ("error", "error at most"),
        ("policy", "fastest"),
        ("budget", "budget"),
        ("output_rel_err", "its error"),
        ("time_us", "us a step"),
        ("energy_uj", "uJ a step"),
    ];
    out.push_str(&table(&t.winners, &first, &shown, 3)?);

    section(
        &mut out,
        "What the gains rest on",
        "One assumption changed at a time; percent that STARC takes less than the other policy (below 0: more).",
    );
    let all: Vec<usize> = (0..t.ablation.len()).collect();
    let shown = [
        ("assumption", "assumption"),
        ("variant", "changed to"),
        ("time_vs_full", "time, full"),
        ("time_vs_quest", "quest"),
        ("time_vs_sparq", "sparq"),
        ("time_vs_infinigen", "infinigen"),
        ("energy_vs_full", "energy, full"),
        ("energy_vs_quest", "quest"),
        ("energy_vs_sparq", "sparq"),
        ("energy_vs_infinigen", "infinigen"),
    ];
    out.push_str(&table(&t.ablation, &all, &shown, 1)?);
    for measure in ["time", "energy"] {
        let what = format!("STARC over the other policies under changed assumptions, {measure}");
        figure(&mut out, &format!("ablation-{measure}.svg"), &what);
    }
    Ok(out)
}
