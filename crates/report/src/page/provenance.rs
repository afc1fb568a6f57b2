//! Where the numbers come from.

use super::PageContext;
use super::read::Findings;
use super::table::{PageColumn, PageTable};
use crate::cells::CellRow;
use maud::{Markup, html};
use pimattn_core::columns;

/// What origins say of a run, as the list has it.
const SAID: [(&str, &str); 8] = [
    (columns::GENERATOR, "generator"),
    (columns::PROVENANCE, "source"),
    (columns::SEED, "seed"),
    (columns::SPEC_HASH, "geometry and mapping (CRC-32)"),
    (columns::ELEMENT_BYTES, "bytes of an element"),
    (columns::SYSTEM, "system"),
    (columns::DEVICE, "device"),
    (columns::CHANNELS, "channels"),
];

/// Origins that are folded: the long texts.
const LONG: [(&str, &str); 2] = [(columns::WORKLOAD, "workload"), (columns::SETTINGS, "system")];

/// The section's content.
pub fn section(found: &Findings, context: &PageContext<'_>) -> Markup {
    let origins: Vec<CellRow<'_>> =
        found.runs.iter().filter_map(|f| f.details.origins.as_ref()).flat_map(|t| t.rows()).collect();
    let column = |name: &str| PageColumn::new(name, "", "");
    let files = PageTable {
        caption: "Tables that this page was made from".into(),
        columns: vec![column("file"), column("rows"), column("columns")],
        rows: found
            .files
            .iter()
            .map(|(file, rows, columns)| vec![file.clone(), rows.to_string(), columns.to_string()])
            .collect(),
    };
    let runs = PageTable {
        caption: "Where each run comes from".into(),
        columns: std::iter::once("trace").chain(SAID.map(|(_, name)| name)).map(column).collect(),
        rows: origins
            .iter()
            .map(|row| {
                let cells = std::iter::once(columns::TRACE).chain(SAID.map(|(column, _)| column));
                cells.map(|column| row.said(column).unwrap_or("").to_string()).collect()
            })
            .collect(),
    };
    let mut assumed: Vec<(&str, &str)> =
        origins.iter().filter_map(|row| Some((row.said(columns::DEVICE)?, row.said(columns::ASSUMED)?))).collect();
    assumed.dedup();
    html! {
        p { "The page is by " (context.program) ", from the tables below. Costs are simulated, not measured." }
        (files.open())
        @if !origins.is_empty() {
            (runs.without_empty().open())
            @for (device, keys) in assumed {
                p { "Values of " (device) " that are assumed, not sourced: " (keys) "." }
            }
            @for row in &origins {
                details {
                    summary { "Configuration of " (row.said(columns::TRACE).unwrap_or("a run")) }
                    @for (column, name) in LONG {
                        @if let Some(text) = row.said(column) {
                            p { "The " (name) ", with overrides:" }
                            pre tabindex="0" { (text) }
                        }
                    }
                }
            }
        }
        @if !found.sweeps.is_empty() {
            p { "The key of a point, in the table of all columns, is the SHA-256 of what its result depends on: program, workload "
                "and overrides, system, and the content of the files read." }
        }
    }
}
