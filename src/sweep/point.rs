//! One point: the generator feeds the engine, and no trace is written.

use super::grid::Job;
use crate::engine;
use crate::error::Result;
use crate::generate::{Generator, METRICS};
use crate::stats::Collector;
use crate::stats::tables::{MEASURES, RUN_KEYS, Rows};
use crate::table::{Column, Value, column};
use crate::trace::pipe::pipe;

/// Columns of accuracy: means of the metrics over steps, layers and query heads.
const ACCURACY: [Column; 5] = [
    column("selected", "tokens", "tokens selected by a query head, mean over steps, layers and query heads"),
    column("metric_row_tokens", "tokens", "row_tokens of the metrics, mean likewise"),
    column("mass_recall", "1", "true softmax mass on the selected tokens, mean likewise"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected, mean likewise"),
    column("output_rel_err", "1", "|o_selected - o| / |o|, mean likewise"),
];
/// Columns of the metrics that they are means of.
const MEANS_OF: [&str; 5] = ["selected", "row_tokens", "mass_recall", "top_recall", "output_rel_err"];

/// The device's name among the keys of a run.
const DEVICE: usize = 2;

/// Columns of a point's result.
pub fn columns() -> Vec<Column> {
    ACCURACY.iter().chain([&RUN_KEYS[DEVICE]]).chain(MEASURES).copied().collect()
}

/// Runs a point; the cells of [`columns`]. Accuracy stays empty where it is not asked for.
pub fn run(job: &Job, accuracy: bool) -> Result<Vec<Value>> {
    let generator = Generator::load_for(job.system.clone(), job.workload.clone(), &job.doc, job.kv.as_deref())?;
    let mut means = Means::default();
    let (mut sink, mut source) = pipe(generator.header().clone());
    let mut collector = Collector::new(&job.system.device);
    let (made, replayed) = std::thread::scope(|scope| {
        let (generator, means) = (&generator, &mut means);
        let maker = scope.spawn(move || {
            let mut row = |cells: &[Value]| {
                means.add(cells);
                Ok(())
            };
            let metrics: Option<crate::generate::RowSink<'_>> = if accuracy { Some(&mut row) } else { None };
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
    let run = Rows::new(&job.system, "").run(&collector);
    Ok(means.cells().into_iter().chain(run.into_iter().skip(DEVICE)).collect())
}

#[derive(Default)]
struct Means {
    rows: u64,
    sums: [f64; MEANS_OF.len()],
}

impl Means {
    fn add(&mut self, cells: &[Value]) {
        self.rows += 1;
        for (sum, name) in self.sums.iter_mut().zip(MEANS_OF) {
            let cell = METRICS.iter().position(|c| c.name == name).and_then(|i| cells.get(i));
            *sum += match cell {
                Some(Value::Int(n)) => *n as f64,
                Some(Value::Float(x, _)) => *x,
                _ => 0.0,
            };
        }
    }

    fn cells(&self) -> Vec<Value> {
        self.sums.iter().map(|sum| Value::ratio(*sum, self.rows as f64)).collect()
    }
}
