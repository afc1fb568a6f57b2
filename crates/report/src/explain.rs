//! Why a run takes as long as it does: its time by cause and by phase, what was fetched for what was asked, and how far
//! it is from the bound.

use super::sheet::{Rows, Style, layout, number};
use pimattn_core::error::{Error, Result};
use std::io::Read;

/// Columns of the time account, their names for people, and what makes them grow.
const CAUSES: [(&str, &str, &str); 8] = [
    ("time_mac", "MAC bound", "units multiply; fewer tokens, or fewer unwanted ones in the rows, make it shorter"),
    (
        "time_row_switch",
        "row switch",
        "rows close and open; tokens that share rows, or another power policy, make it shorter",
    ),
    (
        "time_imbalance_units",
        "imbalance over units",
        "units wait for the one with the most rows; it depends on where blocks are put",
    ),
    (
        "time_imbalance_channels",
        "imbalance over channels",
        "channels wait for the one with the most work; more heads or requests, or heads over several channels (placement.split), fill them",
    ),
    ("time_data_movement", "data movement", "queries, scores and outputs pass the channel's bus and buffers"),
    ("time_softmax", "softmax", "the softmax unit works and nothing else does"),
    ("time_refresh", "refresh", "banks refresh; temperature (refresh_rate) and the refresh mode set it"),
    ("time_stall", "dependency stall", "waiting for a result or for the host ([host] of the workload)"),
];

const REQUESTS: [&str; 12] = [
    "req_rd",
    "req_wr",
    "req_mac_ab",
    "req_mac_sb",
    "req_mac_pb",
    "req_mac_bg",
    "req_act_bg",
    "req_pre_bg",
    "req_wr_gb",
    "req_mv_sb",
    "req_mv_gb",
    "req_sfm",
];

/// Phases in the order of a step; others come behind.
const PHASES: [&str; 7] = ["append", "cluster", "remap", "select", "attend-score", "softmax", "attend-context"];

const IDENTITY: [&str; 3] = ["trace", "system", "device"];

const OTHERS: [&str; 16] = [
    "steps",
    "cycles",
    "time_ns",
    "busy_cycles",
    "energy_pj",
    "activations",
    "bound_cycles",
    "selected_tokens",
    "distinct_tokens",
    "row_tokens",
    "bytes_useful",
    "bytes_fetched",
    "row_blocks",
    "mac_utilisation",
    "imbalance_units",
    "imbalance_channels",
];

/// The numbers of a row, or of several added up; what a table leaves empty is not known.
#[derive(Debug, Clone, Default)]
struct Measures(Vec<Option<f64>>);

impl Measures {
    fn columns() -> impl Iterator<Item = &'static str> {
        CAUSES.map(|(column, ..)| column).into_iter().chain(REQUESTS).chain(OTHERS)
    }

    fn read(cells: &[String]) -> std::result::Result<Self, String> {
        let cell = |text: &String| (!text.is_empty()).then(|| number(text)).transpose();
        Ok(Measures(cells.iter().map(cell).collect::<std::result::Result<_, _>>()?))
    }

    fn get(&self, column: &str) -> Option<f64> {
        let index = Measures::columns().position(|c| c == column);
        index.and_then(|i| self.0.get(i).copied().flatten())
    }

    fn of(&self, column: &str) -> f64 {
        self.get(column).unwrap_or(0.0)
    }

    fn add(&mut self, other: &Measures) {
        for (sum, x) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.zip(*x).map(|(a, b)| a + b);
        }
    }

    fn requests(&self) -> f64 {
        REQUESTS.iter().map(|column| self.of(column)).sum()
    }
}

struct Run {
    identity: Vec<String>,
    measures: Measures,
    phases: Vec<(String, Measures)>,
    busiest: Option<(String, Measures)>,
}

/// Runs, with as much of each as its tables say.
#[derive(Default)]
pub struct Explanation {
    runs: Vec<Run>,
}

/// A table of the explanation: a name and a number of cells a row. Numbers carry their decimals.
struct Section {
    title: &'static str,
    /// Heading and unit.
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<(String, Vec<Cell>)>,
}

/// A number with its decimals, where it is known.
type Cell = Option<(f64, usize)>;

/// Reads a further table of the runs.
pub type AddDetail = fn(&mut Explanation, Box<dyn Read + Send>, &str) -> Result<()>;

impl Explanation {
    /// Tables that may stand beside a run.csv, and what reads them.
    pub const DETAILS: [(&str, AddDetail); 2] =
        [("phases.csv", Explanation::add_phases), ("channels.csv", Explanation::add_channels)];

    /// Adds the runs of a run.csv.
    pub fn add_runs(&mut self, input: impl Read, file: &str) -> Result<()> {
        let before = self.runs.len();
        each(input, file, &[], |identity, _, measures| {
            self.runs.push(Run { identity, measures, phases: Vec::new(), busiest: None });
        })?;
        if self.runs.len() == before { Err(Error::data(file, "a table without a row")) } else { Ok(()) }
    }

    fn add_phases(&mut self, input: Box<dyn Read + Send>, file: &str) -> Result<()> {
        each(input, file, &["phase"], |identity, keys, measures| {
            let Some(run) = self.runs.iter_mut().rfind(|r| r.identity == identity) else { return };
            match run.phases.iter_mut().find(|(name, _)| *name == keys[0]) {
                Some((_, sum)) => sum.add(&measures),
                None => run.phases.push((keys[0].clone(), measures)),
            }
        })
    }

    fn add_channels(&mut self, input: Box<dyn Read + Send>, file: &str) -> Result<()> {
        each(input, file, &["channel"], |identity, keys, measures| {
            let Some(run) = self.runs.iter_mut().rfind(|r| r.identity == identity) else { return };
            let busy = measures.of("busy_cycles");
            if run.busiest.as_ref().is_none_or(|(_, most)| busy > most.of("busy_cycles")) {
                run.busiest = Some((keys[0].clone(), measures));
            }
        })
    }

    /// All of it as text. CSV is one line a number: trace, system, section, item, quantity, unit, value.
    pub fn render(&self, style: Style) -> Result<String> {
        if style == Style::Csv {
            let heading =
                ["trace", "system", "section", "item", "quantity", "unit", "value"].map(String::from).to_vec();
            let lines = std::iter::once(heading).chain(self.runs.iter().flat_map(Run::long_form));
            return Ok(layout(&lines.collect::<Vec<_>>(), style));
        }
        Ok(self.runs.iter().map(|run| run.document(style)).collect::<Vec<_>>().join("\n"))
    }
}

fn each(
    input: impl Read,
    file: &str,
    keys: &[&'static str],
    mut take: impl FnMut(Vec<String>, &[String], Measures),
) -> Result<()> {
    let columns: Vec<&str> = IDENTITY.into_iter().chain(keys.iter().copied()).chain(Measures::columns()).collect();
    Rows::open(input, file, &columns)?.each(|cells| {
        let (identity, rest) = cells.split_at(IDENTITY.len());
        let (keys, numbers) = rest.split_at(keys.len());
        take(identity.to_vec(), keys, Measures::read(numbers)?);
        Ok(())
    })
}

fn share(part: f64, whole: f64) -> Cell {
    (whole > 0.0).then(|| (100.0 * part / whole, 1))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Cell {
    a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| (a / b, 3))
}

impl Run {
    fn steps(&self) -> f64 {
        self.measures.of("steps").max(1.0)
    }

    fn sections(&self) -> Vec<Section> {
        let known = self.measures.get("selected_tokens").is_some();
        let mut sections = vec![self.time()];
        sections.extend((!self.phases.is_empty()).then(|| self.by_phase()));
        sections.extend(known.then(|| self.tokens()));
        let works = self.measures.get("imbalance_channels").is_some();
        sections.extend((known || works).then(|| self.balance()));
        sections
    }

    fn time(&self) -> Section {
        let m = &self.measures;
        let (cycles, ns, steps) = (m.of("cycles"), m.of("time_ns"), self.steps());
        let mut columns = vec![("per step", "tCK"), ("per step", "us"), ("share", "%")];
        columns.extend(self.busiest.is_some().then_some(("busiest channel", "%")));
        let row = |column: &str| {
            let part = m.of(column);
            let mut cells = vec![
                Some((part / steps, 1)),
                Some((part / cycles.max(1.0) * ns / steps / 1e3, 3)),
                share(part, cycles),
            ];
            cells.extend(self.busiest.as_ref().map(|(_, b)| share(b.of(column), b.of("cycles"))));
            cells
        };
        let mut rows: Vec<_> = CAUSES.iter().map(|(column, name, _)| (name.to_string(), row(column))).collect();
        rows.push(("all".into(), row("cycles")));
        Section { title: "Time by cause (mean over channels)", columns, rows }
    }

    fn by_phase(&self) -> Section {
        let (steps, m) = (self.steps(), &self.measures);
        let row = |(name, p): &(String, Measures)| {
            let per_step = |column, scale: f64, decimals| Some((p.of(column) / scale / steps, decimals));
            let cells = vec![
                per_step("time_ns", 1e3, 3),
                share(p.of("cycles"), m.of("cycles")),
                per_step("energy_pj", 1e6, 3),
                share(p.of("energy_pj"), m.of("energy_pj")),
                Some((p.requests() / steps, 1)),
                per_step("activations", 1.0, 1),
            ];
            (name.clone(), cells)
        };
        let columns = vec![
            ("time per step", "us"),
            ("share", "%"),
            ("energy per step", "uJ"),
            ("share", "%"),
            ("requests per step", "1"),
            ("activations per step", "1"),
        ];
        let mut phases: Vec<_> = self.phases.iter().collect();
        phases.sort_by_key(|(name, _)| PHASES.iter().position(|p| p == name).unwrap_or(PHASES.len()));
        Section { title: "Phases", columns, rows: phases.into_iter().map(row).collect() }
    }

    /// Asked, touched, moved, opened.
    fn tokens(&self) -> Section {
        let (steps, m) = (self.steps(), &self.measures);
        let row = |name: &str, column: &str, base: &str| {
            let per_step = m.get(column).map(|x| (x / steps, 1));
            (name.to_string(), vec![per_step, ratio(m.get(column), m.get(base))])
        };
        Section {
            title: "Asked and fetched",
            columns: vec![("per step", "1"), ("over its base", "1")],
            rows: vec![
                row("tokens asked for (all query heads)", "selected_tokens", "distinct_tokens"),
                row("tokens asked for (once per KV head)", "distinct_tokens", "distinct_tokens"),
                row("tokens in the rows touched, over tokens asked for once", "row_tokens", "distinct_tokens"),
                row("bytes of the tokens asked for", "bytes_useful", "bytes_useful"),
                row("bytes fetched, over those", "bytes_fetched", "bytes_useful"),
                row("activations, over row-blocks of K touched", "activations", "row_blocks"),
            ],
        }
    }

    fn balance(&self) -> Section {
        let (steps, m) = (self.steps(), &self.measures);
        let bound = m.get("bound_cycles");
        let plain = |column| m.get(column).map(|x| (x, 3));
        let rows = vec![
            (
                "cycles per step at perfect balance, MACs of the selection alone".into(),
                vec![bound.map(|x| (x / steps, 1))],
            ),
            ("cycles over that bound".into(), vec![ratio(m.get("cycles"), bound)]),
            ("share of multiplied unit-columns that hold a token asked for".into(), vec![plain("mac_utilisation")]),
            ("fullest unit over the mean of all units".into(), vec![plain("imbalance_units")]),
            ("work of the fullest channel over the mean of all channels".into(), vec![plain("imbalance_channels")]),
        ];
        Section { title: "Bound and balance", columns: vec![("value", "1")], rows }
    }

    /// What the tables say, in a few sentences.
    fn verdict(&self) -> String {
        let m = &self.measures;
        let steps = self.steps();
        let mut out = format!(
            "{:.0} steps; {:.3} us and {:.3} uJ a step.\n",
            m.of("steps"),
            m.of("time_ns") / steps / 1e3,
            m.of("energy_pj") / steps / 1e6
        );
        let mut name = |place: &str, m: &Measures| {
            let largest = CAUSES.iter().max_by(|a, b| m.of(a.0).total_cmp(&m.of(b.0)));
            if let Some((column, cause, why)) = largest.filter(|_| m.of("cycles") > 0.0) {
                let percent = 100.0 * m.of(column) / m.of("cycles");
                out.push_str(&format!("{place}: {cause}, {percent:.1} % ({why}).\n"));
            }
        };
        name("Most time over all channels", m);
        if let Some((channel, busiest)) = &self.busiest {
            name(&format!("Most time on the busiest channel, {channel}"), busiest);
        }
        if let Some((phase, p)) = self
            .phases
            .iter()
            .filter(|(n, _)| n != "waiting")
            .max_by(|a, b| a.1.of("cycles").total_cmp(&b.1.of("cycles")))
        {
            let at_work: f64 = self.phases.iter().filter(|(n, _)| n != "waiting").map(|(_, p)| p.of("cycles")).sum();
            if at_work > 0.0 {
                out.push_str(&format!(
                    "Longest phase: {phase}, {:.1} % of what is not waiting for other channels.\n",
                    100.0 * p.of("cycles") / at_work
                ));
            }
        }
        out
    }

    fn document(&self, style: Style) -> String {
        let [trace, system, device] = &self.identity[..] else { return String::new() };
        let mut out = match style {
            Style::Markdown => format!("# {trace}\n\nOn {system} ({device}). "),
            _ => format!("{trace} on {system} ({device})\n"),
        };
        out.push_str(self.verdict().trim_end());
        out.push('\n');
        for section in self.sections() {
            out.push_str(&match style {
                Style::Markdown => format!("\n## {}\n\n", section.title),
                _ => format!("\n{}\n", section.title),
            });
            out.push_str(&layout(&section.table(), style));
        }
        out
    }

    fn long_form(&self) -> Vec<Vec<String>> {
        let line = |section: &Section, item: &str, (heading, unit): (&str, &str), (value, decimals): (f64, usize)| {
            let [trace, system, _] = &self.identity[..] else { return Vec::new() };
            let value = format!("{value:.decimals$}");
            [trace, system, section.title, item, heading, unit, &value].map(String::from).to_vec()
        };
        let lines = |section: &Section| {
            let cells = section.rows.iter().flat_map(|(item, cells)| {
                let known = section.columns.iter().zip(cells).filter_map(|(column, cell)| Some((*column, (*cell)?)));
                known.map(|(column, cell)| line(section, item, column, cell)).collect::<Vec<_>>()
            });
            cells.collect::<Vec<_>>()
        };
        self.sections().iter().flat_map(lines).collect()
    }
}

impl Section {
    fn table(&self) -> Vec<Vec<String>> {
        let heading = |(name, unit): &(&str, &str)| match *unit {
            "1" => name.to_string(),
            unit => format!("{name} {unit}"),
        };
        let first = std::iter::once(String::new()).chain(self.columns.iter().map(heading)).collect();
        let cell = |c: &Cell| c.map_or(String::new(), |(x, decimals)| format!("{x:.decimals$}"));
        let row =
            |(name, cells): &(String, Vec<_>)| std::iter::once(name.clone()).chain(cells.iter().map(cell)).collect();
        std::iter::once(first).chain(self.rows.iter().map(row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with the named cells set and all others 0.
    fn table(keys: &'static str, rows: &[&[(&str, &str)]]) -> String {
        let columns: Vec<&str> = IDENTITY.into_iter().chain([keys]).chain(Measures::columns()).collect();
        let mut out = columns.join(",");
        for row in rows {
            let cell = |c: &&str| row.iter().find(|(name, _)| name == c).map_or("0", |(_, value)| value);
            out.push('\n');
            out.push_str(&columns.iter().map(cell).collect::<Vec<_>>().join(","));
        }
        out
    }

    const RUN: &[(&str, &str)] = &[
        ("trace", "a.ptrace"),
        ("steps", "2"),
        ("cycles", "100"),
        ("time_ns", "200"),
        ("time_mac", "25"),
        ("time_imbalance_channels", "75"),
        ("bound_cycles", "20"),
        ("distinct_tokens", "8"),
        ("row_tokens", "12"),
        ("energy_pj", "4"),
        ("imbalance_channels", "1.88"),
    ];

    fn explain(details: bool) -> Explanation {
        let mut e = Explanation::default();
        e.add_runs(table("x", &[RUN]).as_bytes(), "run.csv").unwrap();
        if details {
            let trace = ("trace", "a.ptrace");
            let phase = |name, cycles| vec![trace, ("phase", name), ("cycles", cycles), ("energy_pj", "2")];
            let phases = [phase("select", "10"), phase("append", "20"), phase("select", "15"), phase("waiting", "55")];
            let phases = table("phase", &phases.iter().map(|p| &p[..]).collect::<Vec<_>>());
            e.add_phases(Box::new(std::io::Cursor::new(phases)), "phases.csv").unwrap();
            let channel =
                |id, busy, mac| [trace, ("channel", id), ("busy_cycles", busy), ("cycles", "100"), ("time_mac", mac)];
            let channels = table("channel", &[&channel("0", "5", "5"), &channel("1", "50", "50")]);
            e.add_channels(Box::new(std::io::Cursor::new(channels)), "channels.csv").unwrap();
        }
        e
    }

    fn value(e: &Explanation, item: &str, quantity: &str, unit: &str) -> Option<String> {
        let csv = e.render(Style::Csv).unwrap();
        let line = csv.lines().find(|l| l.contains(&format!(",{item},{quantity},{unit},")))?;
        line.rsplit(',').next().map(String::from)
    }

    #[test]
    fn numbers_are_per_step_and_shares_of_their_whole() {
        let e = explain(true);
        let of = |item, quantity, unit| value(&e, item, quantity, unit);
        assert_eq!(of("MAC bound", "per step", "tCK").as_deref(), Some("12.5"));
        assert_eq!(of("MAC bound", "per step", "us").as_deref(), Some("0.025"));
        assert_eq!(of("MAC bound", "share", "%").as_deref(), Some("25.0"));
        assert_eq!(of("MAC bound", "busiest channel", "%").as_deref(), Some("50.0"));
        assert_eq!(of("select", "share", "%").as_deref(), Some("25.0"), "10 and 15 of 100 cycles");
        assert_eq!(of("cycles over that bound", "value", "1").as_deref(), Some("5.000"));
        assert_eq!(
            of("work of the fullest channel over the mean of all channels", "value", "1").as_deref(),
            Some("1.880")
        );
        assert_eq!(of("tokens in the rows touched", "over its base", "1"), None, "named with its base");
        let text = e.render(Style::Text).unwrap();
        assert!(text.contains("Most time over all channels: imbalance over channels, 75.0 %"), "{text}");
        assert!(text.contains("Most time on the busiest channel, 1: MAC bound, 50.0 %"), "{text}");
        assert!(text.contains("Longest phase: select, 55.6 %"), "{text}");
        assert!(text.find("\nappend").unwrap() < text.find("\nselect").unwrap(), "in the order of a step");
    }

    #[test]
    fn a_run_alone_is_explained_without_its_details() {
        let text = explain(false).render(Style::Markdown).unwrap();
        assert!(text.contains("## Time by cause") && !text.contains("Phases") && !text.contains("busiest"), "{text}");
    }

    #[test]
    fn a_table_of_another_kind_is_refused() {
        let e = Explanation::default().add_runs("trace,cycles\na,1\n".as_bytes(), "x.csv").unwrap_err();
        assert_eq!(e.to_string(), "x.csv: no column \"system\"");
        let e = Explanation::default().add_runs(table("x", &[]).as_bytes(), "x.csv").unwrap_err();
        assert_eq!(e.to_string(), "x.csv: a table without a row");
        let bad = table("x", &[RUN]).replace(",200,", ",fast,");
        let e = Explanation::default().add_runs(bad.as_bytes(), "run.csv").unwrap_err();
        assert_eq!(e.to_string(), "run.csv:2: \"fast\" is not a number");
    }
}
