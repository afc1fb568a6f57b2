//! What policies cost and what they keep, side by side: one line per run, joined with its accuracy metrics.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::Read;

/// How the table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Aligned columns.
    Text,
    /// A Markdown table.
    Markdown,
    /// CSV.
    Csv,
}

/// One line: a run, per decode step, and the means of its metrics where they are given.
struct Line {
    name: String,
    ns: f64,
    pj: f64,
    activations: f64,
    utilisation: Option<f64>,
    metrics: Option<Metrics>,
}

/// Means over all rows of a metrics table.
#[derive(Default, Clone)]
struct Metrics {
    rows: u64,
    sums: [f64; METRIC_COLUMNS.len()],
}

const METRIC_COLUMNS: [&str; 5] = ["selected", "row_tokens", "mass_recall", "top_recall", "output_rel_err"];

const HEADINGS: [&str; 12] = [
    "run",
    "time/step us",
    "vs first",
    "energy/step uJ",
    "vs first",
    "activations/step",
    "MAC use",
    "selected",
    "row tokens",
    "mass recall",
    "top-B recall",
    "output error",
];

/// Runs and their metrics.
#[derive(Default)]
pub struct Summary {
    lines: Vec<Line>,
    metrics: BTreeMap<String, Metrics>,
}

/// File name up to its first dot: what a trace and its metrics have in common.
fn stem(path: &str) -> String {
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).to_string()
}

struct Rows<R: Read> {
    csv: csv::Reader<R>,
    file: String,
    columns: Vec<usize>,
}

impl<R: Read> Rows<R> {
    fn open(input: R, file: &str, names: &[&str]) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(input);
        let header = csv.headers().map_err(|e| Error::data(file, e.to_string()))?.clone();
        let find = |name: &&str| {
            header.iter().position(|h| h == *name).ok_or_else(|| Error::data(file, format!("no column \"{name}\"")))
        };
        let columns = names.iter().map(find).collect::<Result<_>>()?;
        Ok(Rows { csv, file: file.into(), columns })
    }

    fn each(mut self, mut take: impl FnMut(&[String]) -> std::result::Result<(), String>) -> Result<()> {
        let mut cells = Vec::new();
        for record in self.csv.records() {
            let record = record.map_err(|e| Error::data(&self.file, e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            cells.clear();
            cells.extend(self.columns.iter().map(|c| record.get(*c).unwrap_or("").to_string()));
            take(&cells).map_err(|e| Error::data(format!("{}:{line}", self.file), e))?;
        }
        Ok(())
    }
}

fn number(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err(format!("\"{text}\" is not a number")),
    }
}

impl Summary {
    /// Adds the runs of a run.csv.
    pub fn add_runs(&mut self, input: impl Read, file: &str) -> Result<()> {
        let names = ["trace", "steps", "time_ns", "energy_pj", "activations", "mac_utilisation"];
        Rows::open(input, file, &names)?.each(|cells| {
            let steps = number(&cells[1])?.max(1.0);
            let per_step = |i: usize| number(&cells[i]).map(|x| x / steps);
            let utilisation = (!cells[5].is_empty()).then(|| number(&cells[5])).transpose()?;
            let (ns, pj, activations) = (per_step(2)?, per_step(3)?, per_step(4)?);
            self.lines.push(Line { name: stem(&cells[0]), ns, pj, activations, utilisation, metrics: None });
            Ok(())
        })
    }

    /// Adds a metrics table; it belongs to the run whose trace has the same file name up to the first dot.
    pub fn add_metrics(&mut self, input: impl Read, file: &str) -> Result<()> {
        let entry = self.metrics.entry(stem(file)).or_default();
        Rows::open(input, file, &METRIC_COLUMNS)?.each(|cells| {
            entry.rows += 1;
            cells.iter().zip(&mut entry.sums).try_for_each(|(c, sum)| {
                *sum += number(c)?;
                Ok(())
            })
        })
    }

    /// The table as text. Fails when metrics were given that belong to no run.
    pub fn render(mut self, style: Style) -> Result<String> {
        for line in &mut self.lines {
            line.metrics = self.metrics.get(&line.name).cloned();
        }
        let orphan = self.metrics.keys().find(|name| self.lines.iter().all(|l| &l.name != *name));
        if let Some(name) = orphan {
            let runs = self.lines.iter().map(|l| l.name.as_str());
            return Err(Error::Usage(format!(
                "metrics \"{name}\" belong to no run{}",
                crate::error::suggest(name, runs)
            )));
        }
        let first = self.lines.first().map(|l| (l.ns, l.pj)).unwrap_or((1.0, 1.0));
        let rows: Vec<Vec<String>> = self.lines.iter().map(|l| l.cells(first)).collect();
        let with_metrics = self.lines.iter().any(|l| l.metrics.is_some());
        let columns = if with_metrics { HEADINGS.len() } else { HEADINGS.len() - METRIC_COLUMNS.len() };
        let table = std::iter::once(HEADINGS.map(String::from).to_vec()).chain(rows);
        Ok(layout(&table.map(|r| r[..columns].to_vec()).collect::<Vec<_>>(), style))
    }
}

impl Line {
    fn cells(&self, first: (f64, f64)) -> Vec<String> {
        let mut out = vec![
            self.name.clone(),
            format!("{:.3}", self.ns / 1e3),
            format!("{:.3}", self.ns / first.0),
            format!("{:.3}", self.pj / 1e6),
            format!("{:.3}", self.pj / first.1),
            format!("{:.0}", self.activations),
            self.utilisation.map_or(String::new(), |u| format!("{u:.3}")),
        ];
        match &self.metrics {
            Some(m) if m.rows > 0 => {
                let decimals = [1, 1, 4, 4, 4];
                let mean = |(sum, d): (&f64, usize)| format!("{:.d$}", sum / m.rows as f64);
                out.extend(m.sums.iter().zip(decimals).map(mean));
            }
            _ => out.extend(METRIC_COLUMNS.map(|_| String::new())),
        }
        out
    }
}

fn layout(rows: &[Vec<String>], style: Style) -> String {
    let mut out = String::new();
    let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for (n, row) in rows.iter().enumerate() {
        let padded = row.iter().zip(&widths).enumerate().map(|(i, (cell, w))| match i {
            0 => format!("{cell:<w$}"),
            _ => format!("{cell:>w$}"),
        });
        let line = match style {
            Style::Text => padded.collect::<Vec<_>>().join("  "),
            Style::Markdown => format!("| {} |", padded.collect::<Vec<_>>().join(" | ")),
            Style::Csv => row.join(","),
        };
        out.push_str(line.trim_end());
        out.push('\n');
        if n == 0 && style == Style::Markdown {
            out.push_str("|-");
            out.push_str(&"|-:".repeat(row.len() - 1));
            out.push_str("|\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &str = "trace,steps,time_ns,energy_pj,activations,mac_utilisation\nout/full.ptrace,2,4000,8000000,64,1\nout/starc.ptrace,2,1000,2000000,16,\n";
    const METRICS: &str = "policy,selected,row_tokens,mass_recall,top_recall,output_rel_err\nstarc,10,16,0.5,0.25,0.1\nstarc,20,32,0.7,0.75,0.3\n";

    #[test]
    fn joins_runs_with_their_metrics() {
        let mut s = Summary::default();
        s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
        s.add_metrics(METRICS.as_bytes(), "x/starc.metrics.csv").unwrap();
        let text = s.render(Style::Csv).unwrap();
        assert_eq!(text.lines().nth(1), Some("full,2.000,1.000,4.000,1.000,32,1.000,,,,,"));
        assert_eq!(text.lines().nth(2), Some("starc,0.500,0.250,1.000,0.250,8,,15.0,24.0,0.6000,0.5000,0.2000"));
    }

    #[test]
    fn metrics_without_a_run_and_bad_cells_are_errors() {
        let mut s = Summary::default();
        s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
        s.add_metrics(METRICS.as_bytes(), "stark.csv").unwrap();
        assert!(s.render(Style::Text).unwrap_err().to_string().contains("did you mean \"starc\""));
        let mut s = Summary::default();
        let e = s.add_runs(RUNS.replace("4000", "fast").as_bytes(), "run.csv").unwrap_err();
        assert_eq!(e.to_string(), "run.csv:2: \"fast\" is not a number");
        assert!(s.add_runs("a,b\n1,2\n".as_bytes(), "r").unwrap_err().to_string().contains("no column \"trace\""));
    }
}
