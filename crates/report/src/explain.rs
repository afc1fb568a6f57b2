//! Why a run takes as long as it does: its time by cause and by phase, what was fetched for what was asked, and how far
//! it is from the bound.

mod difference;

use super::identity::ResultIdentity;
use super::kind::TableKind;
use super::sheet::{self, Style, known, layout};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use std::io::Read;

/// Columns of the time account, their names for people, and what makes them grow.
pub(crate) const CAUSES: [(&str, &str, &str); 8] = [
    (
        columns::TIME_MAC,
        "MAC bound",
        "units multiply; fewer tokens, or fewer unwanted ones in the rows, make it shorter",
    ),
    (
        columns::TIME_ROW_SWITCH,
        "row switch",
        "rows close and open; tokens that share rows, or another power policy, make it shorter",
    ),
    (
        columns::TIME_IMBALANCE_UNITS,
        "imbalance over units",
        "units wait for the one with the most rows; it depends on where blocks are put",
    ),
    (
        columns::TIME_IMBALANCE_CHANNELS,
        "imbalance over channels",
        "channels wait for the one with the most work; more heads or requests, or heads over several channels (placement.split), fill them",
    ),
    (columns::TIME_DATA_MOVEMENT, "data movement", "queries, scores and outputs pass the channel's bus and buffers"),
    (columns::TIME_SOFTMAX, "softmax", "the softmax unit works and nothing else does"),
    (columns::TIME_REFRESH, "refresh", "banks refresh; temperature (refresh_rate) and the refresh mode set it"),
    (columns::TIME_STALL, "dependency stall", "waiting for a result or for the host ([host] of the workload)"),
];

/// Phases in the order of a step; others come behind.
pub(crate) const PHASES: [&str; 7] =
    ["append", "cluster", "remap", "select", "attend-score", "softmax", "attend-context"];

const IDENTITY: [&str; 3] = [columns::TRACE, columns::SYSTEM, columns::DEVICE];

/// A number of a row, or the sum of several rows; what a table leaves empty is not known.
type Known = Option<f64>;

macro_rules! measures {
    ($($field:ident: $column:expr;)+) => {
        /// The numbers of a row, or of several added up.
        #[derive(Debug, Clone, Default)]
        struct Measures {
            /// Time by cause, as in [`CAUSES`].
            causes: [Known; CAUSES.len()],
            /// Requests by operation.
            requests: [Known; columns::REQUESTS.len()],
            $($field: Known,)+
        }

        impl Measures {
            /// The columns, in the order in which [`Measures::each`] goes through the numbers.
            fn columns() -> impl Iterator<Item = &'static str> {
                let causes = CAUSES.into_iter().map(|(column, ..)| column);
                causes.chain(columns::REQUESTS.into_iter().map(|(_, column)| column.name)).chain([$($column),+])
            }

            fn each(&mut self) -> impl Iterator<Item = &mut Known> {
                self.causes.iter_mut().chain(&mut self.requests).chain([$(&mut self.$field),+])
            }
        }
    };
}

measures! {
    steps: columns::STEPS;
    cycles: columns::CYCLES;
    time_ns: columns::TIME_NS;
    busy_cycles: columns::BUSY_CYCLES;
    energy_pj: columns::ENERGY_PJ;
    energy_activation_pj: columns::ENERGY_ACTIVATION_PJ;
    energy_column_pj: columns::ENERGY_COLUMN_PJ;
    energy_movement_pj: columns::ENERGY_MOVEMENT_PJ;
    energy_compute_pj: columns::ENERGY_COMPUTE_PJ;
    energy_refresh_pj: columns::ENERGY_REFRESH_PJ;
    energy_background_pj: columns::ENERGY_BACKGROUND_PJ;
    activations: columns::ACTIVATIONS;
    bound_cycles: columns::BOUND_CYCLES;
    selected_tokens: columns::SELECTED_TOKENS;
    distinct_tokens: columns::DISTINCT_TOKENS;
    row_tokens: columns::ROW_TOKENS;
    bytes_useful: columns::BYTES_USEFUL;
    bytes_fetched: columns::BYTES_FETCHED;
    row_blocks: columns::ROW_BLOCKS;
    mac_utilisation: columns::MAC_UTILISATION;
    imbalance_units: columns::IMBALANCE_UNITS;
    imbalance_channels: columns::IMBALANCE_CHANNELS;
}

impl Measures {
    fn read(cells: &[&str]) -> std::result::Result<Self, String> {
        let mut out = Measures::default();
        for (number, cell) in out.each().zip(cells) {
            *number = known(cell)?;
        }
        Ok(out)
    }

    fn add(&mut self, other: &Measures) {
        for (sum, x) in self.each().zip(other.clone().each()) {
            *sum = sum.zip(*x).map(|(a, b)| a + b);
        }
    }

    fn requests(&self) -> f64 {
        self.requests.iter().map(|n| or_0(*n)).sum()
    }
}

/// What is not known counts as nothing where numbers are set against each other.
fn or_0(number: Known) -> f64 {
    number.unwrap_or(0.0)
}

struct ExplainedRun {
    identity: Vec<String>,
    /// Whose it is; none where the trace does not say.
    selection: Option<ResultIdentity>,
    measures: Measures,
    phases: Vec<(String, Measures)>,
    busiest: Option<(String, Measures)>,
}

/// Runs, with as much of each as its tables say.
#[derive(Default)]
pub struct Explanation {
    runs: Vec<ExplainedRun>,
}

/// A table of the explanation: a name and a number of cells a row. Numbers carry their decimals.
struct Section {
    title: &'static str,
    /// Heading and unit.
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<(String, Vec<DecimalCell>)>,
}

/// A number with its decimals, where it is known.
type DecimalCell = Option<(f64, usize)>;

/// Reads a further table of the runs.
pub type AddDetail = fn(&mut Explanation, Box<dyn Read + Send>, &str) -> Result<()>;

impl Explanation {
    /// Tables that may stand beside a run.csv, and what reads them.
    pub const DETAILS: [(&str, AddDetail); 2] =
        [("phases.csv", Explanation::add_phases), ("channels.csv", Explanation::add_channels)];

    /// Adds the runs of a run.csv.
    pub fn add_runs(&mut self, input: impl Read, file: &str) -> Result<()> {
        let rows = each(input, file, TableKind::Run, &ResultIdentity::COLUMNS, |identity, keys, measures| {
            let selection = ResultIdentity::of(std::array::from_fn(|i| keys[i]));
            self.runs.push(ExplainedRun { identity, selection, measures, phases: Vec::new(), busiest: None });
        })?;
        if rows == 0 { Err(Error::data(file, "a table without a row")) } else { Ok(()) }
    }

    fn add_phases(&mut self, input: Box<dyn Read + Send>, file: &str) -> Result<()> {
        each(input, file, TableKind::Phases, &[columns::PHASE], |identity, keys, measures| {
            let Some(run) = self.runs.iter_mut().rfind(|r| r.identity == identity) else { return };
            match run.phases.iter_mut().find(|(name, _)| *name == keys[0]) {
                Some((_, sum)) => sum.add(&measures),
                None => run.phases.push((keys[0].to_string(), measures)),
            }
        })?;
        Ok(())
    }

    fn add_channels(&mut self, input: Box<dyn Read + Send>, file: &str) -> Result<()> {
        each(input, file, TableKind::Channels, &[columns::CHANNEL], |identity, keys, measures| {
            let Some(run) = self.runs.iter_mut().rfind(|r| r.identity == identity) else { return };
            let busy = |m: &Measures| or_0(m.busy_cycles);
            if run.busiest.as_ref().is_none_or(|(_, most)| busy(&measures) > busy(most)) {
                run.busiest = Some((keys[0].to_string(), measures));
            }
        })?;
        Ok(())
    }

    /// All of it as text. CSV is one line a number: trace, system, section, item, quantity, unit, value.
    pub fn render(&self, style: Style) -> Result<String> {
        if style == Style::Csv {
            let heading = [columns::TRACE, columns::SYSTEM, "section", "item", "quantity", "unit", "value"]
                .map(String::from)
                .to_vec();
            let lines = std::iter::once(heading).chain(self.runs.iter().flat_map(ExplainedRun::long_form));
            return Ok(layout(&lines.collect::<Vec<_>>(), style));
        }
        Ok(self.runs.iter().map(|run| run.document(style)).collect::<Vec<_>>().join("\n"))
    }
}

fn each(
    input: impl Read,
    file: &str,
    kind: TableKind,
    keys: &[&'static str],
    mut take: impl FnMut(Vec<String>, &[&str], Measures),
) -> Result<u64> {
    let columns: Vec<&str> = IDENTITY.into_iter().chain(keys.iter().copied()).chain(Measures::columns()).collect();
    sheet::each(input, file, kind, &columns, |cells| {
        let (identity, rest) = cells.split_at(IDENTITY.len());
        let (keys, numbers) = rest.split_at(keys.len());
        take(identity.iter().map(|cell| cell.to_string()).collect(), keys, Measures::read(numbers)?);
        Ok(())
    })
}

fn share(part: f64, whole: f64) -> DecimalCell {
    (whole > 0.0).then(|| (100.0 * part / whole, 1))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> DecimalCell {
    a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| (a / b, 3))
}

impl ExplainedRun {
    fn steps(&self) -> f64 {
        or_0(self.measures.steps).max(1.0)
    }

    fn sections(&self) -> Vec<Section> {
        let known = self.measures.selected_tokens.is_some();
        let mut sections = vec![self.time()];
        sections.extend((!self.phases.is_empty()).then(|| self.by_phase()));
        sections.extend(known.then(|| self.tokens()));
        let works = self.measures.imbalance_channels.is_some();
        sections.extend((known || works).then(|| self.balance()));
        sections
    }

    fn time(&self) -> Section {
        let m = &self.measures;
        let (cycles, ns, steps) = (or_0(m.cycles), or_0(m.time_ns), self.steps());
        let mut columns = vec![("per step", "tCK"), ("per step", "us"), ("share", "%")];
        columns.extend(self.busiest.is_some().then_some(("busiest channel", "%")));
        let row = |of: &dyn Fn(&Measures) -> Known| {
            let part = or_0(of(m));
            let mut cells = vec![
                Some((part / steps, 1)),
                Some((part / cycles.max(1.0) * ns / steps / 1e3, 3)),
                share(part, cycles),
            ];
            cells.extend(self.busiest.as_ref().map(|(_, b)| share(or_0(of(b)), or_0(b.cycles))));
            cells
        };
        let causes = CAUSES.iter().enumerate();
        let mut rows: Vec<_> = causes.map(|(i, (_, name, _))| (name.to_string(), row(&|m| m.causes[i]))).collect();
        rows.push(("all".into(), row(&|m| m.cycles)));
        Section { title: "Time by cause (mean over channels)", columns, rows }
    }

    fn by_phase(&self) -> Section {
        let (steps, m) = (self.steps(), &self.measures);
        let row = |(name, p): &(String, Measures)| {
            let per_step = |number: Known, scale: f64, decimals| Some((or_0(number) / scale / steps, decimals));
            let share = |part: Known, whole: Known| share(or_0(part), or_0(whole));
            let cells = vec![
                per_step(p.time_ns, 1e3, 3),
                share(p.cycles, m.cycles),
                per_step(p.energy_pj, 1e6, 3),
                share(p.energy_pj, m.energy_pj),
                Some((p.requests() / steps, 1)),
                per_step(p.activations, 1.0, 1),
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
        let row = |name: &str, number: Known, base: Known| {
            let per_step = number.map(|x| (x / steps, 1));
            (name.to_string(), vec![per_step, ratio(number, base)])
        };
        Section {
            title: "Asked and fetched",
            columns: vec![("per step", "1"), ("over its base", "1")],
            rows: vec![
                row("tokens asked for (all query heads)", m.selected_tokens, m.distinct_tokens),
                row("tokens asked for (once per KV head)", m.distinct_tokens, m.distinct_tokens),
                row("tokens in the rows touched, over tokens asked for once", m.row_tokens, m.distinct_tokens),
                row("bytes of the tokens asked for", m.bytes_useful, m.bytes_useful),
                row("bytes fetched, over those", m.bytes_fetched, m.bytes_useful),
                row("activations, over row-blocks of K touched", m.activations, m.row_blocks),
            ],
        }
    }

    fn balance(&self) -> Section {
        let (steps, m) = (self.steps(), &self.measures);
        let bound = m.bound_cycles;
        let plain = |number: Known| number.map(|x| (x, 3));
        let rows = vec![
            (
                "cycles per step at perfect balance, MACs of the selection alone".into(),
                vec![bound.map(|x| (x / steps, 1))],
            ),
            ("cycles over that bound".into(), vec![ratio(m.cycles, bound)]),
            ("share of multiplied unit-columns that hold a token asked for".into(), vec![plain(m.mac_utilisation)]),
            ("fullest unit over the mean of all units".into(), vec![plain(m.imbalance_units)]),
            ("work of the fullest channel over the mean of all channels".into(), vec![plain(m.imbalance_channels)]),
        ];
        Section { title: "Bound and balance", columns: vec![("value", "1")], rows }
    }

    /// What the tables say, in a few sentences.
    fn verdict(&self) -> String {
        let m = &self.measures;
        let steps = self.steps();
        let mut out = format!(
            "{:.0} steps; {:.3} us and {:.3} uJ a step.\n",
            or_0(m.steps),
            or_0(m.time_ns) / steps / 1e3,
            or_0(m.energy_pj) / steps / 1e6
        );
        let mut name = |place: &str, m: &Measures| {
            let causes = CAUSES.iter().zip(m.causes.map(or_0));
            let largest = causes.max_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some(((_, cause, why), time)) = largest.filter(|_| or_0(m.cycles) > 0.0) {
                let percent = 100.0 * time / or_0(m.cycles);
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
            .max_by(|a, b| or_0(a.1.cycles).total_cmp(&or_0(b.1.cycles)))
        {
            let at_work: f64 = self.phases.iter().filter(|(n, _)| n != "waiting").map(|(_, p)| or_0(p.cycles)).sum();
            if at_work > 0.0 {
                out.push_str(&format!(
                    "Longest phase: {phase}, {:.1} % of what is not waiting for other channels.\n",
                    100.0 * or_0(p.cycles) / at_work
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
        let cell = |c: &DecimalCell| c.map_or(String::new(), |(x, decimals)| format!("{x:.decimals$}"));
        let row =
            |(name, cells): &(String, Vec<_>)| std::iter::once(name.clone()).chain(cells.iter().map(cell)).collect();
        std::iter::once(first).chain(self.rows.iter().map(row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with the named cells set and all others 0.
    fn table(key: &'static str, rows: &[&[(&str, &str)]]) -> String {
        let keys = ResultIdentity::COLUMNS.into_iter().chain([key]);
        let columns: Vec<&str> = IDENTITY.into_iter().chain(keys).chain(Measures::columns()).collect();
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
    fn the_difference_of_two_runs_is_attributed_without_remainder() {
        let run = |trace, cause, time, cache| {
            [&RUN[2..5], &[("trace", trace), ("policy", "p"), ("cache_hash", cache), (cause, time), ("energy_pj", "4")]]
                .concat()
        };
        let read = |steps: &'static str, cache: &'static str| {
            let mut e = Explanation::default();
            let a = [run("a", "time_stall", "75", "c0"), vec![("steps", "2")]].concat();
            let b: Vec<_> = run("b", "time_row_switch", "15", cache)
                .into_iter()
                .map(|(k, v)| {
                    if k == "cycles" {
                        (k, "40")
                    } else if k == "time_ns" {
                        (k, "80")
                    } else {
                        (k, v)
                    }
                })
                .chain([("steps", steps)])
                .collect();
            e.add_runs(table("x", &[&a, &b]).as_bytes(), "run.csv").unwrap();
            e
        };
        let text = read("2", "c0").difference(false, Style::Text).unwrap();
        // 200 and 80 ns in 2 steps: 0.100 and 0.040 us; 75 of 100 cycles stall, 15 of 40 switch rows, 25 multiply in both.
        assert!(text.contains("B is 2.500 times as fast as A; B takes -0.060 us"), "{text}");
        let cells = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(cells("dependency stall"), ["0.075", "0.000", "-0.075", "125.0"]);
        assert_eq!(cells("row switch"), ["0.000", "0.015", "+0.015", "-25.0"]);
        assert_eq!(cells("MAC bound"), ["0.025", "0.025", "+0.000", "-0.0"]);
        assert!(text.lines().count() <= 40, "{text}");
        let refused = |e: Explanation| e.difference(false, Style::Text).unwrap_err().to_string();
        assert!(refused(read("2", "c1")).contains("different caches (cache_hash c0 and c1)"));
        assert!(refused(read("3", "c0")).contains("2 and 3 steps"));
        assert!(read("3", "c1").difference(true, Style::Text).is_ok());
        assert!(refused(explain(false)).contains("there are 1"));
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
