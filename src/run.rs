//! A run with all its tables, in memory.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::table::ColumnFrame;
use pimattn_experiments::sweep::point::{self, PointWatch};
use pimattn_stats::write::{RunTables, finish_run};
use pimattn_tracegen::generate::{Generator, MetricsRow, metrics_layout};

/// What a run says: the tables that `pimsim run` and `tracegen run --metrics` write, and their means.
pub struct RunResult {
    /// One row: that of the point in a sweep.
    pub summary: ColumnFrame,
    /// The run itself, one row.
    pub run: ColumnFrame,
    /// A row for each decode step.
    pub steps: ColumnFrame,
    /// A row for each phase of a step.
    pub phases: ColumnFrame,
    /// A row for each layer of a step.
    pub layers: ColumnFrame,
    /// A row for each KV head of a layer.
    pub heads: ColumnFrame,
    /// A row for each channel.
    pub channels: ColumnFrame,
    /// Where the run comes from, one row.
    pub origins: ColumnFrame,
    /// A row for each query head of a layer at a step: what it keeps of its attention.
    pub metrics: ColumnFrame,
}

/// Generates a trace and replays it, side by side, on the system that its addresses are for, and keeps all that is known of it.
/// `name` stands in the tables for the trace; `progress` hears how many steps are generated. Not for use within rayon's own
/// threads, as [`simulate`](fn@crate::simulate).
///
/// # Errors
/// Those of [`simulate_until`](crate::simulate_until).
pub fn run_until(
    cancel: &Cancel,
    generator: &Generator,
    name: &str,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<RunResult> {
    let system = generator.system();
    let header = generator.header();
    let layout = metrics_layout();
    let mut metrics = ColumnFrame::new(layout.columns());
    let mut keep = |row: &MetricsRow| {
        metrics.push(&layout.values(row));
        Ok(())
    };
    let mut tables = RunTables::new(system, true, |_, columns| Ok(ColumnFrame::new(columns)))?;
    let mut steps = tables.steps(name, header);
    let watch = PointWatch { metrics: &mut keep, steps: &mut steps, progress };
    let details = point::run_watched(cancel, system, generator, watch)?;
    finish_run(header, &details.collector, steps)?;
    let layout = point::layout();
    let mut summary = ColumnFrame::new(layout.columns());
    summary.push(&layout.values(&details.row));
    let mut tables = tables.finish()?.into_iter();
    // In the order in which they were opened.
    let mut next = || tables.next().unwrap_or_default();
    Ok(RunResult {
        summary,
        run: next(),
        steps: next(),
        phases: next(),
        layers: next(),
        heads: next(),
        channels: next(),
        origins: next(),
        metrics,
    })
}
