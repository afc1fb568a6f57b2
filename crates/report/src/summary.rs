//! What policies cost and what they keep, side by side: one line per run, joined with its accuracy metrics.

use super::identity::{self, ResultIdentity};
use super::kind::TableKind;
use super::sheet::{MetricMeans, SelectionMetric, Style, each_of_some, known, layout, number, stem};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use std::collections::BTreeSet;
use std::io::Read;

/// One line: a run, per decode step, and the means of its metrics where they are given.
struct SummaryLine {
    name: String,
    ns: f64,
    pj: f64,
    activations: f64,
    utilisation: Option<f64>,
    imbalance: Option<f64>,
    steps: f64,
    identity: Option<ResultIdentity>,
    metrics: Option<MetricMeans>,
}

/// The metrics of one selection.
struct SelectionMetrics {
    identity: ResultIdentity,
    file: String,
    means: MetricMeans,
    /// Steps that have a row.
    steps: BTreeSet<String>,
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
    metrics: Vec<SelectionMetrics>,
}

impl Summary {
    /// Adds the runs of a run.csv.
    pub fn add_runs(&mut self, input: impl Read, file: &str) -> Result<()> {
        let [policy, budget, cache, selection] = ResultIdentity::COLUMNS;
        let names = [
            columns::TRACE,
            policy,
            budget,
            cache,
            selection,
            columns::STEPS,
            columns::TIME_NS,
            columns::ENERGY_PJ,
            columns::ACTIVATIONS,
            columns::MAC_UTILISATION,
            columns::IMBALANCE_CHANNELS,
        ];
        each_of_some(input, file, TableKind::Run, names, |cells| {
            let [trace, policy, budget, cache, selection, steps, ns, pj, activations, utilisation, imbalance] = cells;
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
                steps,
                identity: ResultIdentity::of([policy, budget, cache, selection]),
                metrics: None,
            });
            Ok(())
        })
    }

    /// Adds a metrics table; it belongs to the runs of the same selection. Layers that stay full do not count.
    pub fn add_metrics(&mut self, input: impl Read, file: &str) -> Result<()> {
        let [policy, budget, cache, selection] = ResultIdentity::COLUMNS;
        let [selected, row_tokens, mass, top, error] = SelectionMetric::COLUMNS;
        let names =
            [policy, budget, cache, selection, columns::STEP, columns::DENSE, selected, row_tokens, mass, top, error];
        let mut found: Option<SelectionMetrics> = None;
        each_of_some(
            input,
            file,
            TableKind::Metrics,
            names,
            |[policy, budget, cache, selection, step, dense, metrics @ ..]| {
                let identity = ResultIdentity::of([policy, budget, cache, selection]);
                let identity = identity.ok_or("the row does not say which policy selected of which cache")?;
                let (means, steps) = (MetricMeans::default(), BTreeSet::new());
                let new = SelectionMetrics { identity: identity.clone(), file: file.into(), means, steps };
                let found = found.get_or_insert(new);
                if let Some(why) = identity.differs_from(&found.identity) {
                    return Err(format!("not of the selection of the rows above: {why}"));
                }
                if !found.steps.contains(step) {
                    found.steps.insert(step.to_string());
                }
                if dense == "1" { Ok(()) } else { found.means.add(metrics) }
            },
        )?;
        let Some(found) = found else { return Ok(()) };
        if let Some(other) = self.metrics.iter().find(|other| other.identity == found.identity) {
            return Err(Error::data(file, format!("the same selection as {}: {}", other.file, found.identity)));
        }
        self.metrics.push(found);
        Ok(())
    }

    /// Gives each run its metrics.
    ///
    /// # Errors
    /// [`Error::Usage`] for metrics that belong to no run, and where they are of other steps than the run.
    fn join(&mut self) -> Result<()> {
        for metrics in &self.metrics {
            let file = &metrics.file;
            let mut own =
                self.lines.iter_mut().filter(|line| line.identity.as_ref() == Some(&metrics.identity)).peekable();
            if own.peek().is_none() {
                drop(own);
                return Err(Error::Usage(self.nobody_has(metrics)));
            }
            for line in own {
                if line.steps != metrics.steps.len() as f64 {
                    let (run, steps, n) = (&line.name, line.steps, metrics.steps.len());
                    return Err(Error::Usage(format!("{file}: metrics of {n} steps; run {run} has {steps}")));
                }
                line.metrics = Some(metrics.means.clone());
            }
        }
        Ok(())
    }

    /// The run that metrics without one come nearest to, and what it differs in.
    fn nobody_has(&self, metrics: &SelectionMetrics) -> String {
        let (file, own) = (&metrics.file, &metrics.identity);
        let known = || self.lines.iter().filter_map(|line| Some((line, line.identity.as_ref()?)));
        let alike = |of: &ResultIdentity| {
            [of.policy == own.policy, of.budget == own.budget, of.cache == own.cache]
                .into_iter()
                .filter(|same| *same)
                .count()
        };
        match known().max_by_key(|(_, of)| alike(of)) {
            Some((line, of)) => {
                let why = own.differs_from(of).unwrap_or_default();
                format!("{file} belongs to no run: the nearest, {}, is of {why}", line.name)
            }
            None => format!("{file}: the runs do not say what they selected; write their traces again"),
        }
    }

    /// The table as text.
    ///
    /// # Errors
    /// [`Error::Usage`] where metrics belong to no run, and where runs are not `unlike` by consent but of different caches or steps.
    pub fn render(mut self, unlike: bool, style: Style) -> Result<String> {
        self.join()?;
        let of = |line: &'_ SummaryLine| (line.identity.clone(), line.steps);
        for pair in self.lines.windows(2).filter(|_| !unlike) {
            let [(a, a_steps), (b, b_steps)] = [of(&pair[0]), of(&pair[1])];
            if let Some(why) = identity::unlike((a.as_ref(), a_steps), (b.as_ref(), b_steps)) {
                let [a, b] = [&pair[0].name, &pair[1].name];
                return Err(Error::Usage(format!("{a} and {b}: {why}; --unlike sets them side by side all the same")));
            }
        }
        let first = self.lines.first().map(|l| (l.ns, l.pj)).unwrap_or((1.0, 1.0));
        let rows: Vec<Vec<String>> = self.lines.iter().map(|l| l.cells(first)).collect();
        let with_metrics = self.lines.iter().any(|l| l.metrics.is_some());
        let columns = HEADINGS.len() + if with_metrics { SelectionMetric::ALL.len() } else { 0 };
        let heading = HEADINGS.into_iter().chain(SelectionMetric::COLUMNS).map(String::from).collect();
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

    const RUNS: &str = "trace,policy,budget,cache_hash,selection_hash,steps,time_ns,energy_pj,activations,mac_utilisation,imbalance_channels\n\
        out/full.ptrace,full,8,c0,p0,2,4000,8000000,64,1,1.88\nout/starc.ptrace,starc,8,c0,p1,2,1000,2000000,16,,\n";
    const METRICS: &str = "policy,budget,cache_hash,selection_hash,step,dense,selected,metric_row_tokens,mass_recall,top_recall,output_rel_err\n\
        starc,8,c0,p1,0,0,10,16,0.5,0.25,0.1\nstarc,8,c0,p1,1,0,20,32,0.7,0.75,0.3\nstarc,8,c0,p1,1,1,99,99,1,1,0\n";

    fn summary(metrics: &str) -> Result<String> {
        let mut s = Summary::default();
        s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
        s.add_metrics(metrics.as_bytes(), "x/any.csv")?;
        s.render(false, Style::Csv)
    }

    #[test]
    fn joins_runs_with_their_metrics() {
        let text = summary(METRICS).unwrap();
        assert_eq!(text.lines().nth(1), Some("full,2.000,1.000,4.000,1.000,32,1.000,1.880,,,,,"));
        assert_eq!(text.lines().nth(2), Some("starc,0.500,0.250,1.000,0.250,8,,,15.0,24.0,0.6000,0.5000,0.2000"));
    }

    #[test]
    fn empty_cells_are_left_out_of_means_and_empty_tables_are_errors() {
        let text = summary(&METRICS.replace(",0.1\n", ",\n")).unwrap();
        assert_eq!(text.lines().nth(2), Some("starc,0.500,0.250,1.000,0.250,8,,,15.0,24.0,0.6000,0.5000,0.3000"));
        let heading = RUNS.lines().next().unwrap();
        let e = Summary::default().add_runs(heading.as_bytes(), "run.csv").unwrap_err();
        assert!(matches!(e, Error::Data { .. }) && e.to_string() == "run.csv: a table without a row", "{e}");
        let heading = METRICS.lines().next().unwrap();
        assert!(Summary::default().add_metrics(heading.as_bytes(), "m.csv").is_err());
        // A run without time or energy.
        let mut s = Summary::default();
        s.add_runs(RUNS.replace("4000,8000000", "0,0").as_bytes(), "run.csv").unwrap();
        let text = s.render(false, Style::Csv).unwrap();
        assert_eq!(text.lines().nth(1), Some("full,0.000,,0.000,,32,1.000,1.880"));
    }

    #[test]
    fn what_does_not_belong_together_is_not_joined() {
        let wrong = |from: &str, to: &str| summary(&METRICS.replace(from, to)).unwrap_err().to_string();
        assert_eq!(
            wrong("c0", "c1"),
            "x/any.csv belongs to no run: the nearest, starc, is of another cache (cache_hash): c1, not c0"
        );
        assert!(wrong("starc,8,", "starc,9,").ends_with("starc, is of another budget: 9, not 8"));
        assert!(wrong("p1", "p2").ends_with("other parameters (selection_hash): p2, not p1"));
        assert_eq!(
            wrong("starc,8,c0,p1,1,0,20", "starc,8,c0,p1,2,0,20"),
            "x/any.csv: metrics of 3 steps; run starc has 2"
        );
        assert!(wrong("p1,1,1", "p3,1,1").contains("not of the selection of the rows above"));
        let beside = |unlike| {
            let mut s = Summary::default();
            s.add_runs(RUNS.as_bytes(), "run.csv").unwrap();
            s.add_runs(RUNS.replace("c0", "c1").as_bytes(), "other.csv").unwrap();
            s.render(unlike, Style::Text)
        };
        assert!(beside(false).unwrap_err().to_string().starts_with("starc and full: the runs are of different caches"));
        assert!(beside(true).is_ok());
        let mut s = Summary::default();
        s.add_metrics(METRICS.as_bytes(), "a.csv").unwrap();
        let e = s.add_metrics(METRICS.as_bytes(), "b.csv").unwrap_err().to_string();
        assert!(e.starts_with("b.csv: the same selection as a.csv"), "{e}");
        let mut s = Summary::default();
        let e = s.add_runs(RUNS.replace("4000", "fast").as_bytes(), "run.csv").unwrap_err();
        assert_eq!(e.to_string(), "run.csv:2: \"fast\" is not a number");
        assert!(s.add_runs("a,b\n1,2\n".as_bytes(), "r").unwrap_err().to_string().contains("no column \"trace\""));
    }
}
