//! One point: the generator feeds the engine, and no trace is written.

use super::grid::Job;
use pimattn_core::error::Result;
use pimattn_core::table::{Column, Value, column};
use pimattn_engine as engine;
use pimattn_stats::books::{PARTS, Parts};
use pimattn_stats::tables::{MEASURES, RUN_KEYS, Rows};
use pimattn_stats::{Collector, Step, Steps};
use pimattn_trace::pipe::pipe;
use pimattn_tracegen::generate::{Generator, METRICS};

/// Columns of accuracy: means of the metrics over steps, layers and query heads.
const ACCURACY: [Column; 5] = [
    column("selected", "tokens", "tokens selected by a query head, mean over steps, layers and query heads"),
    column("metric_row_tokens", "tokens", "row_tokens of the metrics, mean likewise"),
    column("mass_recall", "1", "true softmax mass on the selected tokens, mean likewise"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected, mean likewise"),
    column("output_rel_err", "1", "|o_selected - o| / |o|, mean likewise over those that have one"),
];
/// Columns of the metrics that they are means of.
const MEANS_OF: [&str; 5] = ["selected", "row_tokens", "mass_recall", "top_recall", "output_rel_err"];

/// The device's name among the keys of a run.
const DEVICE: usize = 2;

/// Time and energy by phase, in the order of [`Phase::ALL`](pimattn_trace::Phase::ALL), and of waiting.
const PHASES: [Column; 2 * PARTS] = [
    column("other_ns", "ns", "time of requests of no phase, and of refreshes; the times by phase add up to time_ns"),
    column(
        "other_pj",
        "pJ",
        "energy of the same; the energies by phase add up to energy_pj, but for the rounding of background",
    ),
    column("append_ns", "ns", "time of phase append"),
    column("append_pj", "pJ", "energy of phase append"),
    column("cluster_ns", "ns", "time of phase cluster"),
    column("cluster_pj", "pJ", "energy of phase cluster"),
    column("remap_ns", "ns", "time of phase remap"),
    column("remap_pj", "pJ", "energy of phase remap"),
    column("select_ns", "ns", "time of phase select"),
    column("select_pj", "pJ", "energy of phase select"),
    column("attend_score_ns", "ns", "time of phase attend-score"),
    column("attend_score_pj", "pJ", "energy of phase attend-score"),
    column("softmax_ns", "ns", "time of phase softmax"),
    column("softmax_pj", "pJ", "energy of phase softmax"),
    column("attend_context_ns", "ns", "time of phase attend-context"),
    column("attend_context_pj", "pJ", "energy of phase attend-context"),
    column("waiting_ns", "ns", "time of waiting for channels that wait for others"),
    column("waiting_pj", "pJ", "energy meanwhile"),
];

/// Columns of a point's result.
pub fn columns() -> Vec<Column> {
    ACCURACY.iter().chain([&RUN_KEYS[DEVICE]]).chain(MEASURES).chain(&PHASES).copied().collect()
}

/// Phases of all steps together.
#[derive(Default)]
struct AllSteps(Parts);

impl Steps for AllSteps {
    fn step(&mut self, step: Step) {
        self.0.add(&step.parts);
    }
}

/// Runs a point; the cells of [`columns`]. Accuracy stays empty where it is not asked for.
pub fn run(job: &Job, accuracy: bool) -> Result<Vec<Value>> {
    let generator = Generator::load_for(job.system.clone(), job.workload.clone(), &job.doc, job.kv.as_deref())?;
    let mut means = Means::default();
    let (mut sink, mut source) = pipe(generator.header().clone());
    let mut collector = Collector::with_steps(&job.system.device, AllSteps::default());
    let (made, replayed) = std::thread::scope(|scope| {
        let (generator, means) = (&generator, &mut means);
        let maker = scope.spawn(move || {
            let mut row = |cells: &[Value]| {
                means.add(cells);
                Ok(())
            };
            let metrics: Option<pimattn_tracegen::generate::RowSink<'_>> = if accuracy { Some(&mut row) } else { None };
            generator.run(&mut sink, metrics, &mut |_| {})
        });
        let replayed = engine::run(&job.system, &mut source, &mut collector, &mut |_| {});
        let cut = source.was_cut();
        // A generator that is still at work finds the trace closed.
        drop(source);
        let made = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (if cut { made } else { Ok(()) }, replayed)
    });
    made?;
    replayed?;
    let rows = Rows::new(&job.system, "");
    let (run, cycles) = (rows.run(&collector), collector.cycles);
    let phases = rows.phase_sums(&collector.into_steps().0, cycles);
    let phases = phases.iter().flat_map(|(ns, pj)| [Value::Float(*ns, 3), Value::Float(*pj, 1)]);
    Ok(means.cells().into_iter().chain(run.into_iter().skip(DEVICE)).chain(phases).collect())
}

#[derive(Default)]
struct Means {
    /// Rows with a value, and their sum, for each column.
    rows: [u64; MEANS_OF.len()],
    sums: [f64; MEANS_OF.len()],
}

impl Means {
    fn add(&mut self, cells: &[Value]) {
        for ((rows, sum), name) in self.rows.iter_mut().zip(&mut self.sums).zip(MEANS_OF) {
            let cell = METRICS.iter().position(|c| c.name == name).and_then(|i| cells.get(i));
            let value = match cell {
                Some(Value::Int(n)) => *n as f64,
                Some(Value::Float(x, _)) => *x,
                _ => continue,
            };
            *rows += 1;
            *sum += value;
        }
    }

    fn cells(&self) -> Vec<Value> {
        self.sums.iter().zip(self.rows).map(|(sum, rows)| Value::ratio(*sum, rows as f64)).collect()
    }
}
