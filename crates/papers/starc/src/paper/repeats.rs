//! What the report says of the artifact's row budgets: how many decode steps were measured, and how often they come again.

use super::ExperimentTables;
use super::claims::cited;
use super::text::table;
use crate::artifact::budgets::{LINES, MODEL, OFFSET, PERIOD, POLICY, TIMES};
use pimattn_core::error::Result;

/// The section's text.
pub(super) fn text(t: &ExperimentTables) -> Result<String> {
    let budgets = &t.budgets;
    let cell = |row: usize| budgets.cell(row, PERIOD.name());
    let (mut repeated, mut constant, mut new) = (Vec::new(), 0, 0);
    for row in 0..budgets.len() {
        match cell(row)? {
            "" => new += 1,
            "1" => constant += 1,
            _ => repeated.push((budgets.number(row, PERIOD.name())?, row)),
        }
    }
    repeated.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out = match (repeated.first(), repeated.last()) {
        (Some((_, least)), Some((_, most))) => format!(
            "{} of the {} tables of row budgets that artifact mode replays are short decodes, tiled: they repeat themselves \
             exactly, to their ends, after {} to {} of {} lines. Whatever the context, no more steps than these were measured: \
             what artifact mode finds of longer contexts rests on the growth of the cache, not on what a policy does in them.",
            repeated.len(),
            budgets.len(),
            cited(budgets, *least, PERIOD.name(), 0, "")?,
            cited(budgets, *most, PERIOD.name(), 0, "")?,
            cited(budgets, *most, LINES.name(), 0, "")?,
        ),
        _ => format!("None of the {} tables of row budgets that artifact mode replays repeats itself.", budgets.len()),
    };
    if constant > 0 {
        out.push_str(&format!(" In {constant}, the number is the same in all lines."));
    }
    if new > 0 && !repeated.is_empty() {
        out.push_str(&format!(" In {new}, most lines are new."));
    }
    let rows: Vec<usize> = (0..budgets.len()).collect();
    let shown = [
        (MODEL.name(), "model"),
        (POLICY.name(), "policy"),
        (LINES.name(), "lines"),
        (OFFSET.name(), "ahead of the repeat"),
        (PERIOD.name(), "repeated after"),
        (TIMES.name(), "times"),
    ];
    out.push_str("\n\n");
    out.push_str(table(budgets, &rows, &shown, 2)?.trim_end());
    Ok(out)
}
