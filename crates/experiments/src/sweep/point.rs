//! One point: the generator feeds the engine, and no trace is written.

use super::grid::Job;
use pimattn_core::cancel::Cancel;
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::table::{Column, Measure, TableLayout, Value, column, item, measure};
use pimattn_core::units::Cycle;
use pimattn_engine::Engine;
use pimattn_stats::books::{CountsByPhase, PARTS};
use pimattn_stats::tables::{DEVICE_KEY, MEASURES, RunRows, TableRow};
use pimattn_stats::{Collector, Step, Steps, replay};
use pimattn_trace::label::{CACHE_KEY, LABEL_KEYS};
use pimattn_trace::pipe::pipe;
use pimattn_tracegen::generate::{CacheSet, Generator, MetricsRow, MetricsSink, Selections};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The result of a point.
pub struct PointRow {
    means: MetricSums,
    run: TableRow<()>,
    steps: StepTimes,
    phases: PhaseSums,
}

/// Times (ns) of single decode steps.
struct StepTimes {
    median: f64,
    worst: f64,
}

impl StepTimes {
    /// Of the cycles of each step.
    fn of(mut cycles: Vec<Cycle>, ns: impl Fn(Cycle) -> f64) -> Self {
        cycles.sort_unstable();
        let at = |i: usize| cycles.get(i).map_or(f64::NAN, |c| ns(*c));
        let middle = cycles.len() / 2;
        let median = if cycles.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
        StepTimes { median, worst: at(cycles.len().wrapping_sub(1)) }
    }
}

const STEP_MEASURES: &[Measure<StepTimes>] = &[
    measure(columns::STEP_NS_MEDIAN, "ns", "time of a decode step, median", |s| Value::Float(s.median, 3)),
    measure(
        columns::STEP_NS_WORST,
        "ns",
        "time of the longest decode step, such as one in which keys are clustered",
        |s| Value::Float(s.worst, 3),
    ),
];

/// Time (ns) and energy (pJ) by phase, in the order of [`Phase::ALL`](pimattn_trace::Phase::ALL), and of waiting.
struct PhaseSums([(f64, f64); PARTS]);

/// A metric of a query head; none where it has no meaning.
type MetricFn = fn(&MetricsRow) -> Option<f64>;

/// Columns of accuracy, and the metric that each is the mean of, over steps, layers and query heads.
const MEANS: [(Column, MetricFn); 5] = [
    (
        column(
            columns::SELECTED,
            "tokens",
            "tokens selected by a query head, mean over steps, layers and query heads; layers that stay full (dense_layers) do not count",
        ),
        |r| Some(r.accuracy.selected as f64),
    ),
    (column(columns::METRIC_ROW_TOKENS, "tokens", "row_tokens of the metrics, mean likewise"), |r| {
        Some(r.accuracy.row_tokens as f64)
    }),
    (column(columns::MASS_RECALL, "1", "true softmax mass on the selected tokens, mean likewise"), |r| {
        Some(r.accuracy.mass_recall)
    }),
    (
        column(
            columns::TOP_RECALL,
            "1",
            "share of the budget's tokens of highest score that is selected, mean likewise",
        ),
        |r| Some(r.accuracy.top_recall),
    ),
    (column(columns::OUTPUT_REL_ERR, "1", "|o_selected - o| / |o|, mean likewise over those that have one"), |r| {
        r.accuracy.output_rel_err
    }),
];

/// Columns of time and energy by phase, as [`PhaseSums`] has them.
pub(super) const PHASES: [[Column; 2]; PARTS] = [
    [
        column(
            "other_ns",
            "ns",
            "time of requests of no phase, and of refreshes; the times by phase add up to time_ns",
        ),
        column(
            "other_pj",
            "pJ",
            "energy of the same; the energies by phase add up to energy_pj, but for the rounding of background",
        ),
    ],
    [column("append_ns", "ns", "time of phase append"), column("append_pj", "pJ", "energy of phase append")],
    [column("cluster_ns", "ns", "time of phase cluster"), column("cluster_pj", "pJ", "energy of phase cluster")],
    [column("remap_ns", "ns", "time of phase remap"), column("remap_pj", "pJ", "energy of phase remap")],
    [column("select_ns", "ns", "time of phase select"), column("select_pj", "pJ", "energy of phase select")],
    [
        column("attend_score_ns", "ns", "time of phase attend-score"),
        column("attend_score_pj", "pJ", "energy of phase attend-score"),
    ],
    [column("softmax_ns", "ns", "time of phase softmax"), column("softmax_pj", "pJ", "energy of phase softmax")],
    [
        column("attend_context_ns", "ns", "time of phase attend-context"),
        column("attend_context_pj", "pJ", "energy of phase attend-context"),
    ],
    [
        column("waiting_ns", "ns", "time of waiting for channels that wait for others"),
        column("waiting_pj", "pJ", "energy meanwhile"),
    ],
];

const MEAN_MEASURES: [Measure<MetricSums>; MEANS.len()] = {
    const fn of(i: usize) -> Measure<MetricSums> {
        item(MEANS[i].0, i, |means: &MetricSums, i| means.cell(i))
    }
    let mut out = [of(0); MEANS.len()];
    let mut i = 1;
    while i < out.len() {
        out[i] = of(i);
        i += 1;
    }
    out
};

const PHASE_MEASURES: [Measure<PhaseSums>; 2 * PARTS] = {
    const fn of(part: usize) -> [Measure<PhaseSums>; 2] {
        let [ns, pj] = PHASES[part];
        [
            item(ns, part, |sums: &PhaseSums, part| Value::Float(sums.0[part].0, 3)),
            item(pj, part, |sums: &PhaseSums, part| Value::Float(sums.0[part].1, 1)),
        ]
    }
    let mut out = [of(0)[0]; 2 * PARTS];
    let mut part = 0;
    while part < PARTS {
        [out[2 * part], out[2 * part + 1]] = of(part);
        part += 1;
    }
    out
};

/// The columns of a point's result.
pub fn layout() -> TableLayout<PointRow> {
    TableLayout::of(&[])
        .with(|r: &PointRow| &r.means, &MEAN_MEASURES)
        .with(|r| &r.means.errors, ERROR_MEASURES)
        .with(|r| &*r.run.run, &[DEVICE_KEY])
        .with(|r| &r.run.run.selection, &[CACHE_KEY])
        .with(|r| &r.run.run.selection, LABEL_KEYS)
        .with(|r| &r.run.measured, MEASURES)
        .with(|r| &r.steps, STEP_MEASURES)
        .with(|r| &r.phases, &PHASE_MEASURES)
}

/// Phases of all steps together, and the cycles of each.
#[derive(Default)]
struct AllSteps {
    parts: CountsByPhase,
    cycles: Vec<Cycle>,
}

impl AllSteps {
    fn add(&mut self, step: &Step) {
        self.parts.add(&step.parts);
        self.cycles.push(step.cycles);
    }
}

impl Steps for AllSteps {
    fn step(&mut self, step: Step) {
        self.add(&step);
    }
}

/// Loads what a point generates.
///
/// # Errors
/// Those of [`Generator::load_for`].
pub fn load(cancel: &Cancel, job: &Job) -> Result<Generator> {
    Generator::load_for(cancel, job.system.clone(), job.workload.clone(), &job.doc, job.kv.as_deref())
}

/// As [`load`], of caches that are there.
///
/// # Errors
/// Those of [`Generator::load_on`].
pub fn load_on(cached: &Arc<CacheSet>, job: &Job) -> Result<Generator> {
    Generator::load_on(cached, job.system.clone(), job.workload.clone(), &job.doc, job.kv.as_deref())
}

/// As [`load`], with selections that a point made which differs from this one in mapping, costs and system alone.
///
/// # Errors
/// Those of [`Generator::load_selected`].
pub fn load_selected(selections: &Selections, job: &Job) -> Result<Generator> {
    Generator::load_selected(selections, job.system.clone(), job.workload.clone(), &job.doc, job.kv.as_deref())
}

/// Runs a point that is loaded. Accuracy stays empty where it is not asked for.
///
/// # Errors
/// Those of [`Generator::run_until`] and of a replay.
pub fn run(cancel: &Cancel, job: &Job, generator: &Generator, accuracy: bool) -> Result<PointRow> {
    let mut means = MetricSums::default();
    let mut row = |row: &MetricsRow| {
        means.add(row);
        Ok(())
    };
    let metrics: Option<MetricsFn<'_>> = if accuracy { Some(&mut row) } else { None };
    let mut steps = AllSteps::default();
    let collector = replay(cancel, &job.system, generator, &mut steps, metrics, &mut |_| ())?;
    Ok(PointRow::of(&job.system, generator, &collector, steps, means))
}

/// A point that is run alone, with all that is known of it.
pub struct PointDetails {
    /// Its row in the table of a sweep.
    pub row: PointRow,
    /// What was counted.
    pub collector: Collector,
}

/// What hears of a point while it runs.
pub struct PointWatch<'w> {
    /// Hears what each query head keeps of its attention at each step.
    pub metrics: MetricsFn<'w>,
    /// Hears of each decode step that is over.
    pub steps: &'w mut dyn Steps,
    /// Hears how many steps are generated.
    pub progress: &'w mut (dyn FnMut(u64) + Send),
}

/// As [`run`], with accuracy, and shows what happens to `watch`.
///
/// # Errors
/// Those of [`run`] and of `watch`.
pub fn run_watched(
    cancel: &Cancel,
    system: &System,
    generator: &Generator,
    watch: PointWatch<'_>,
) -> Result<PointDetails> {
    let mut means = MetricSums::default();
    let PointWatch { metrics, steps, progress } = watch;
    let mut row = |row: &MetricsRow| {
        means.add(row);
        metrics(row)
    };
    let mut steps = WatchedSteps { all: AllSteps::default(), watch: steps };
    let collector = replay(cancel, system, generator, &mut steps, Some(&mut row), progress)?;
    let row = PointRow::of(system, generator, &collector, steps.all, means);
    Ok(PointDetails { row, collector })
}

/// Takes metrics rows on the generator's thread.
type MetricsFn<'a> = &'a mut (dyn FnMut(&MetricsRow) -> Result<()> + Send);

/// Steps that somebody else hears of, too.
struct WatchedSteps<'w> {
    all: AllSteps,
    watch: &'w mut dyn Steps,
}

impl Steps for WatchedSteps<'_> {
    fn step(&mut self, step: Step) {
        self.all.add(&step);
        self.watch.step(step);
    }
}

/// Generates and replays side by side.
fn replay(
    cancel: &Cancel,
    system: &System,
    generator: &Generator,
    steps: &mut dyn Steps,
    metrics: Option<MetricsFn<'_>>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Collector> {
    let (mut sink, mut source) = pipe(generator.header().clone());
    let mut collector = Collector::with_steps(&system.device, steps);
    let (made, replayed) = std::thread::scope(|scope| {
        let maker = scope.spawn(move || {
            let metrics = metrics.map(|metrics| metrics as MetricsSink<'_>);
            generator.run_until(cancel, &mut sink, metrics, progress)
        });
        let engine = Engine::default();
        let replayed = replay::collect(cancel, engine, system, &mut source, &mut collector, &mut |_| {});
        let cut = source.was_cut();
        // A generator that is still at work finds the trace closed.
        drop(source);
        let made = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (if cut { made } else { Ok(()) }, replayed)
    });
    made?;
    replayed?;
    Ok(collector.into_counts())
}

impl PointRow {
    fn of(system: &System, generator: &Generator, collector: &Collector, steps: AllSteps, means: MetricSums) -> Self {
        let rows = RunRows::new(system, "").with_header(generator.header());
        let run = rows.run(collector);
        let phases = PhaseSums(rows.phase_sums(&steps.parts, collector.cycles));
        let steps = StepTimes::of(steps.cycles, |cycles| system.device.clock.ns(cycles));
        PointRow { means, run, steps, phases }
    }
}

/// Rows with a value, and their sum, for each of [`MEANS`].
#[derive(Default)]
struct MetricSums {
    rows: [u64; MEANS.len()],
    sums: [f64; MEANS.len()],
    errors: ErrorSpread,
}

/// How the error of the output is spread over steps and query heads.
#[derive(Default)]
struct ErrorSpread {
    all: Vec<f32>,
    /// Steps and sum of a request's query head in a layer.
    heads: BTreeMap<(usize, u32, usize), (u64, f64)>,
}

impl ErrorSpread {
    fn add(&mut self, row: &MetricsRow) {
        let Some(error) = row.accuracy.output_rel_err else { return };
        self.all.push(error as f32);
        let (steps, sum) = self.heads.entry((row.request, row.layer, row.query_head)).or_default();
        (*steps, *sum) = (*steps + 1, *sum + error);
    }

    /// The smallest error that so large a share of all does not exceed.
    fn quantile(&self, share: f64) -> Value {
        let mut sorted = self.all.clone();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        match rank.checked_sub(1) {
            Some(place) if place < sorted.len() => {
                let (_, error, _) = sorted.select_nth_unstable_by(place, f32::total_cmp);
                Value::Float(f64::from(*error), 6)
            }
            _ => Value::Unknown,
        }
    }

    fn worst_head(&self) -> Value {
        let means = self.heads.values().map(|(steps, sum)| sum / *steps as f64);
        means.max_by(f64::total_cmp).map_or(Value::Unknown, |mean| Value::Float(mean, 6))
    }
}

const ERROR_MEASURES: &[Measure<ErrorSpread>] = &[
    measure(
        columns::OUTPUT_REL_ERR_MEDIAN,
        "1",
        "output_rel_err that half of the query heads and steps do not exceed",
        |e| e.quantile(0.5),
    ),
    measure(
        columns::OUTPUT_REL_ERR_P95,
        "1",
        "output_rel_err that 95 of 100 query heads and steps do not exceed",
        |e| e.quantile(0.95),
    ),
    measure(
        columns::OUTPUT_REL_ERR_WORST_HEAD,
        "1",
        "output_rel_err of the query head in which it is largest, mean over steps",
        |e| e.worst_head(),
    ),
];

impl MetricSums {
    fn add(&mut self, row: &MetricsRow) {
        // A layer that stays full says nothing of a policy.
        if row.dense {
            return;
        }
        self.errors.add(row);
        for ((rows, sum), (_, metric)) in self.rows.iter_mut().zip(&mut self.sums).zip(MEANS) {
            if let Some(x) = metric(row) {
                *rows += 1;
                *sum += x;
            }
        }
    }

    fn cell(&self, i: usize) -> Value {
        Value::ratio(self.sums[i], self.rows[i] as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_trace::Phase;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both() {
        let of = |cycles: &[Cycle]| {
            let times = StepTimes::of(cycles.to_vec(), |c| c as f64);
            (times.median, times.worst)
        };
        assert_eq!((of(&[9, 1, 5]), of(&[4, 9, 1, 2])), ((5.0, 9.0), (3.0, 9.0)));
        assert!(of(&[]).0.is_nan() && of(&[]).1.is_nan());
    }

    #[test]
    fn errors_are_ranked_and_heads_averaged() {
        let mut spread = ErrorSpread::default();
        assert_eq!([spread.quantile(0.5), spread.worst_head()].map(|v| v.to_string()), ["", ""]);
        let steps = (1..=20).map(|i| (0, 0.01 * f64::from(i))).chain([(1, 0.05), (1, 0.35)]);
        for (head, error) in steps {
            spread.all.push(error as f32);
            let (steps, sum) = spread.heads.entry((0, 9, head)).or_default();
            (*steps, *sum) = (*steps + 1, *sum + error);
        }
        // Sorted: 0.01, .., 0.05, 0.05, .., 0.20, 0.35: the 11th of 22 is 0.10, the 21st 0.20.
        let found = [spread.quantile(0.5), spread.quantile(0.95), spread.worst_head()].map(|v| v.to_string());
        assert_eq!(found, ["0.100000", "0.200000", "0.200000"]);
    }

    #[test]
    fn columns_of_phases_are_in_the_order_of_the_phases() {
        let names = Phase::ALL.iter().map(|p| p.name().replace('-', "_")).chain([String::from("waiting")]);
        for (name, [ns, pj]) in names.zip(PHASES) {
            assert_eq!([ns.name, pj.name], [format!("{name}_ns"), format!("{name}_pj")]);
        }
        let sums = PhaseSums(std::array::from_fn(|i| (i as f64, 100.0 + i as f64)));
        let cells: Vec<_> = PHASE_MEASURES.iter().map(|m| format!("{}={}", m.column.name, m.value(&sums))).collect();
        assert_eq!(cells[2..4], ["append_ns=1.000", "append_pj=101.0"]);
        assert_eq!(cells[16..], ["waiting_ns=8.000", "waiting_pj=108.0"]);
    }
}
