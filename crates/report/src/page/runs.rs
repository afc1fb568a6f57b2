//! What only runs say: decode steps over time, layers and heads, channels.

use super::choice::{PageChoice, chosen};
use super::read::{Findings, is_of};
use super::table::{PageColumn, PageTable};
use crate::cells::{CellRow, Cells};
use crate::plot::{Axis, Content, Figure, Heat, Lines, Panel, Scale, Series};
use crate::sheet::stem;
use pimattn_core::columns;
use pimattn_core::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Width of the page.
const PAGE: f64 = 1060.0;
/// Size of a cell of a heat map, where there are few columns and where there are many.
const CELL: (f64, f64) = (42.0, 24.0);
const NARROW: f64 = 17.0;
/// Columns whose cells have room for a number.
const FEW: usize = 16;
/// What a heat map takes beside its cells, and above and below.
const BESIDE: f64 = 104.0;
const ABOUT: f64 = 130.0;

/// A run: what it is called on the page, and its rows.
pub struct NamedRun<'a> {
    /// Its name, that of its [`PageChoice`] where its trace says policy and budget.
    pub label: String,
    /// Folder and row of its run.csv.
    pub folder: &'a super::read::RunFolder,
    /// Its row.
    pub row: CellRow<'a>,
}

/// All runs, in the order of the folders.
pub fn named<'a>(found: &'a Findings, choices: &[PageChoice]) -> Result<Vec<NamedRun<'a>>> {
    let mut runs = Vec::new();
    for folder in &found.runs {
        for row in folder.run.rows() {
            let trace = stem(row.text(columns::TRACE)?);
            let (policy, budget) = chosen(folder, &row);
            let plain = [policy.unwrap_or_else(|| trace.clone()), budget.unwrap_or_default()].join(" ");
            let is_named = |label: &str| choices.iter().any(|c| c.label == label);
            let base = plain.trim().to_string();
            let bare = base.split(' ').next().unwrap_or(&base).to_string();
            let tries = [
                base.clone(),
                bare.clone(),
                format!("{base} ({trace})"),
                format!("{bare} ({trace})"),
                format!("{base} ({}, {trace})", folder.name),
                format!("{bare} ({}, {trace})", folder.name),
            ];
            let label = tries.into_iter().find(|label| is_named(label)).unwrap_or(base);
            runs.push(NamedRun { label, folder, row });
        }
    }
    Ok(runs)
}

/// Time of each decode step, a line for each run; none where no folder has steps.csv.
pub fn steps(runs: &[NamedRun<'_>]) -> Result<Option<(Figure, PageTable)>> {
    let mut lines = Lines {
        x: Axis::new("decode step", Scale::Linear),
        y: Axis::new("time of the step", Scale::FromZero).with_unit("ns"),
        ..Lines::default()
    };
    let columns = [
        PageColumn::new("run", "", ""),
        PageColumn::new("steps", "", ""),
        PageColumn::new("mean", "µs", ""),
        PageColumn::new("median", "µs", ""),
        PageColumn::new("longest", "µs", ""),
        PageColumn::new(
            "longest / mean",
            "",
            "how far the longest step stands out, such as one in which keys are clustered",
        ),
        PageColumn::new("longest is step", "", ""),
    ];
    let caption = "Decode steps of each run".into();
    let mut table = PageTable { caption, columns: columns.into(), rows: Vec::new() };
    for run in runs {
        let Some(steps) = &run.folder.details.steps else { continue };
        let mut points = Vec::new();
        for step in steps.rows().filter(|step| is_of(step, &run.row)) {
            points.push((step.number(columns::STEP)?, step.number(columns::TIME_NS)?));
        }
        let mut times: Vec<f64> = points.iter().map(|p| p.1).collect();
        times.sort_by(f64::total_cmp);
        let Some(longest) = times.last().copied() else { continue };
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let median = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0;
        let at = points.iter().find(|p| p.1 == longest).map_or(0.0, |p| p.0);
        let us = |ns: f64| format!("{:.3}", ns / 1e3);
        let over = if mean > 0.0 { format!("{:.2}", longest / mean) } else { String::new() };
        let counts = [times.len().to_string(), us(mean), us(median), us(longest), over, at.to_string()];
        table.rows.push(std::iter::once(run.label.clone()).chain(counts).collect());
        let notes = points.iter().map(|p| format!("{}, step {}", run.label, p.0)).collect();
        lines.series.push(Series { name: run.label.clone(), points, notes, ..Series::default() });
    }
    if lines.series.is_empty() {
        return Ok(None);
    }
    let panels = vec![Panel { title: String::new(), content: Content::Lines(lines) }];
    let title = "Time of each decode step".into();
    let figure = Figure { title, note: String::new(), names: Vec::new(), panels, columns: 1, panel: (PAGE, 400.0) };
    Ok(Some((figure, table)))
}

/// Numbers by layer and head (or another pair), with what panel they are of.
type CellGrid = (String, BTreeMap<(u64, u64), f64>);

/// Heat maps with one scale, so that they can be compared; none where there are no numbers.
fn heat_maps(title: &str, label: &str, names: [&str; 2], grids: Vec<CellGrid>) -> Option<Figure> {
    let grids: Vec<CellGrid> = grids.into_iter().filter(|(_, cells)| !cells.is_empty()).collect();
    let all = || grids.iter().flat_map(|(_, cells)| cells.values().copied());
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let (mut most_rows, mut most_columns) = (0, 0);
    let mut panels = Vec::new();
    for (title, cells) in &grids {
        let rows: BTreeSet<u64> = cells.keys().map(|(row, _)| *row).collect();
        let columns: BTreeSet<u64> = cells.keys().map(|(_, column)| *column).collect();
        (most_rows, most_columns) = (most_rows.max(rows.len()), most_columns.max(columns.len()));
        let row = |r: &u64| (r.to_string(), columns.iter().map(|c| cells.get(&(*r, *c)).copied()).collect());
        let heat = Heat {
            names: names.map(String::from),
            rows: rows.iter().map(row).collect(),
            columns: columns.iter().map(ToString::to_string).collect(),
            ..Heat::of(label, [low, high])
        };
        panels.push(Panel { title: title.clone(), content: Content::Heat(heat) });
    }
    let cell = if most_columns <= FEW { CELL.0 } else { NARROW };
    let wide = (BESIDE + cell * most_columns as f64).clamp(300.0, PAGE);
    let columns = ((PAGE / wide) as usize).max(1);
    let panel = (wide, ABOUT + CELL.1 * most_rows as f64);
    let figure = Figure { title: title.into(), note: String::new(), names: Vec::new(), panels, columns, panel };
    (!figure.panels.is_empty()).then_some(figure)
}

/// Output error by layer and query head, of all metrics.
pub fn error_maps(found: &Findings) -> Option<Figure> {
    let of = |m: &super::metrics::MetricsTally| {
        let sparse = m.heads.iter().filter(|(_, h)| !h.dense);
        let cells = sparse.filter_map(|(place, h)| Some((*place, h.error()?))).collect();
        (format!("{} {}", m.identity.policy, m.identity.budget), cells)
    };
    // What errs nowhere, as attention to all tokens, has nothing to show.
    let errs = |(_, cells): &CellGrid| cells.values().any(|x| *x > 0.0);
    let grids = found.metrics.iter().map(of).filter(errs).collect();
    heat_maps("Output error by layer and query head", "output error", ["layer", "query head"], grids)
}

/// A column of a table of heads, by layer and KV head, of all runs; requests of a batch are averaged.
pub fn head_maps(runs: &[NamedRun<'_>], title: &str, label: &str, column: &str) -> Result<Option<Figure>> {
    let mut grids = Vec::new();
    for run in runs {
        let Some(heads) = &run.folder.details.heads else { continue };
        grids.push((run.label.clone(), averaged(heads, &run.row, [columns::LAYER, columns::KV_HEAD], column)?));
    }
    Ok(heat_maps(title, label, ["layer", "KV head"], grids))
}

/// Means of a column over the rows of a run that share two numbers.
fn averaged(table: &Cells, run: &CellRow<'_>, keys: [&str; 2], column: &str) -> Result<BTreeMap<(u64, u64), f64>> {
    let mut sums: BTreeMap<(u64, u64), (f64, f64)> = BTreeMap::new();
    for row in table.rows().filter(|row| is_of(row, run)) {
        let Some(x) = row.known(column)? else { continue };
        let entry = sums.entry((row.number(keys[0])? as u64, row.number(keys[1])? as u64)).or_default();
        *entry = (entry.0 + x, entry.1 + 1.0);
    }
    Ok(sums.into_iter().map(|(place, (sum, count))| (place, sum / count)).collect())
}

/// Share of the run in which each channel waits for others, in percent; a row a run.
pub fn channel_map(runs: &[NamedRun<'_>]) -> Result<Option<Figure>> {
    let mut rows = Vec::new();
    let mut channels = BTreeSet::new();
    for run in runs {
        let Some(table) = &run.folder.details.channels else { continue };
        let mut cells = BTreeMap::new();
        for row in table.rows().filter(|row| is_of(row, &run.row)) {
            let channel = row.number(columns::CHANNEL)? as u64;
            let (wait, cycles) = (row.known(columns::TIME_IMBALANCE_CHANNELS)?, row.number(columns::CYCLES)?);
            channels.insert(channel);
            if let Some(wait) = wait.filter(|_| cycles > 0.0) {
                cells.insert(channel, 100.0 * wait / cycles);
            }
        }
        rows.push((run.label.clone(), cells));
    }
    if channels.is_empty() {
        return Ok(None);
    }
    let longest = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0) as f64;
    let high = ABOUT + CELL.1 * rows.len() as f64;
    let wide = (BESIDE + 7.5 * longest + 36.0 * channels.len() as f64).clamp(300.0, PAGE);
    let row = |(label, cells): (String, BTreeMap<u64, f64>)| {
        (label, channels.iter().map(|c| cells.get(c).copied()).collect::<Vec<_>>())
    };
    let heat = Heat {
        names: ["run", "channel"].map(String::from),
        rows: rows.into_iter().map(row).collect(),
        columns: channels.iter().map(ToString::to_string).collect(),
        ..Heat::of("waiting for other channels (% of the run)", [0.0, 100.0])
    };
    let panels = vec![Panel { title: String::new(), content: Content::Heat(heat) }];
    let title = "How long each channel waits for others".into();
    Ok(Some(Figure { title, note: String::new(), names: Vec::new(), panels, columns: 1, panel: (wide, high) }))
}
