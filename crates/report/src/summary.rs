//! What policies cost and what they keep, side by side: one line per run, joined with its accuracy metrics.

use super::sheet::{MetricMeans, SelectionMetric, Style, each_of_some, known, layout, number, stem};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::Read;

/// One line: a run, per decode step, and the means of its metrics where they are given.
struct SummaryLine {
    name: String,
    ns: f64,
    pj: f64,
    activations: f64,
    utilisation: Option<f64>,
    imbalance: Option<f64>,
    metrics: Option<MetricMeans>,
}

/// Headings of what is said of a run, before those of its metrics.
const HEADINGS: [&str; 8] = [
    "run",
    "time/step us",
    "vs first",
    "energy/step uJ",
    "vs first",
    "activations/step",
    "MAC use",
    "channel imbalance",
];

/// Runs and their metrics.
#[derive(Default)]
pub struct Summary {
    lines: Vec<SummaryLine>,
    metrics: BTreeMap<String, MetricMeans>,
}

impl Summary {
    /// Adds the runs of a run.csv.
    pub fn add_runs(&mut self, input: impl Read, file: &str) -> Result<()> {
        let names = [
            columns::TRACE,
            columns::STEPS,
            columns::TIME_NS,
            columns::ENERGY_PJ,
            columns::ACTIVATIONS,
            columns::MAC_UTILISATION,
            columns::IMBALANCE_CHANNELS,
        ];
        each_of_some(input, file, names, |[trace, steps, ns, pj, activations, utilisation, imbalance]| {
            let steps = number(steps)?.max(1.0);
            let per_step = |cell: &str| number(cell).map(|x| x / steps);
            let (utilisation, imbalance) = (known(utilisation)?, known(imbalance)?);
            let (ns, pj, activations) = (per_step(ns)?, per_step(pj)?, per_step(activations)?);
            self.lines.push(SummaryLine {
                name: stem(trace),
                ns,
                pj,
                activations,
                utilisation,
                imbalance,
                metrics: None,
            });
            Ok(())
        })
    }

    /// Adds a metrics table; it belongs to the run whose trace has the same file name up to the first dot.
    pub fn add_metrics(&mut self, input: impl Read, file: &str) -> Result<()> {
        let entry = self.metrics.entry(stem(file)).or_default();
        each_of_some(input, file, SelectionMetric::COLUMNS, |cells| entry.add(cells))
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
                pimattn_core::error::suggest(name, runs)
            )));
        }
        let first = self.lines.first().map(|l| (l.ns, l.pj)).unwrap_or((1.0, 1.0));
        let rows: Vec<Vec<String>> = self.lines.iter().map(|l| l.cells(first)).collect();
        let with_metrics = self.lines.iter().any(|l| l.metrics.is_some());
        let columns = HEADINGS.len() + if with_metrics { SelectionMetric::ALL.len() } else { 0 };
        let heading =
            HEADINGS.into_iter().chain(SelectionMetric::ALL.map(SelectionMetric::heading)).map(String::from).collect();
        let table = std::iter::once(heading).chain(rows);
        Ok(layout(&table.map(|r| r[..columns].to_vec()).collect::<Vec<_>>(), style))
    }
}

impl SummaryLine {
    fn cells(&self, first: (f64, f64)) -> Vec<String> {
        // A run that did nothing has nothing to be set against.
        let over = |x: f64, first: f64| if first > 0.0 { format!("{:.3}", x / first) } else { String::new() };
        let mut out = vec![
            self.name.clone(),
            format!("{:.3}", self.ns / 1e3),
            over(self.ns, first.0),
            format!("{:.3}", self.pj / 1e6),
            over(self.pj, first.1),
            format!("{:.0}", self.activations),
            self.utilisation.map_or(String::new(), |u| format!("{u:.3}")),
            self.imbalance.map_or(String::new(), |i| format!("{i:.3}")),
        ];
        match &self.metrics {
            Some(m) => out.extend(m.cells()),
            None => out.extend(SelectionMetric::ALL.map(|_| String::new())),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &str = "trace,steps,time_ns,energy_pj,activations,mac_utilisation,imbalance_channels\nout/full.ptrace,2,4000,8000000,64,1,1.88\nout/starc.ptrace,2,1000,2000000,16,,\n";
    const METRICS: &str = "policy,selected,row_tokens,mass_recall,top_recall,output_rel_err\nstarc,10,16,0.5,0.25,0.1\nstarc,20,32,0.7,0.75,0.3\n";

    #[test]
    fn joins_runs_with_their_metrics() {
        let mut s = Summary::default();
        s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
        s.add_metrics(METRICS.as_bytes(), "x/starc.metrics.csv").unwrap();
        let text = s.render(Style::Csv).unwrap();
        assert_eq!(text.lines().nth(1), Some("full,2.000,1.000,4.000,1.000,32,1.000,1.880,,,,,"));
        assert_eq!(text.lines().nth(2), Some("starc,0.500,0.250,1.000,0.250,8,,,15.0,24.0,0.6000,0.5000,0.2000"));
    }

    #[test]
    fn empty_cells_are_left_out_of_means_and_empty_tables_are_errors() {
        let mut s = Summary::default();
        s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
        s.add_metrics(METRICS.replace(",0.1\n", ",\n").as_bytes(), "starc.csv").unwrap();
        let text = s.render(Style::Csv).unwrap();
        assert_eq!(text.lines().nth(2), Some("starc,0.500,0.250,1.000,0.250,8,,,15.0,24.0,0.6000,0.5000,0.3000"));
        let heading = RUNS.lines().next().unwrap();
        let e = Summary::default().add_runs(heading.as_bytes(), "run.csv").unwrap_err();
        assert!(matches!(e, Error::Data { .. }) && e.to_string() == "run.csv: a table without a row", "{e}");
        let heading = METRICS.lines().next().unwrap();
        assert!(Summary::default().add_metrics(heading.as_bytes(), "m.csv").is_err());
        // A run without time or energy.
        let mut s = Summary::default();
        s.add_runs(RUNS.replace("4000,8000000", "0,0").as_bytes(), "run.csv").unwrap();
        let text = s.render(Style::Csv).unwrap();
        assert_eq!(text.lines().nth(1), Some("full,0.000,,0.000,,32,1.000,1.880"));
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
