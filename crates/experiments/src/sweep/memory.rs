//! A sweep of a cache that is in memory: no file is read or written.

use super::grid::{Grid, Job, Point};
use super::key::Digests;
use super::point::{self, PointRow};
use super::shared::{SharedBasis, SharedWork};
use super::store::{KEY, POINT, heading};
use super::workers::side_by_side;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{ColumnFrame, FrameColumn, Value};
use pimattn_tracegen::generate::CacheSet;
use std::sync::Arc;

/// What the header of a trace calls the dump of a cache that is in memory.
pub const IN_MEMORY: &str = "(in memory)";

/// Runs points of a grid on a cache that takes the place of whatever the grid reads, with so many workers. The table is that of a sweep
/// (`sweep.csv`), in the order of `points`. `progress` hears how many points are done.
///
/// # Errors
/// Of the first point that is found to fail, and [`Error::Interrupted`].
pub fn run(
    cancel: &Cancel,
    grid: &mut Grid,
    cached: &Arc<CacheSet>,
    points: &[Point],
    workers: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<ColumnFrame> {
    grid.kv = Some(IN_MEMORY.into());
    let grid = &*grid;
    let digests = Digests::new(cancel)?;
    let mut shared = SharedWork::default();
    let mut jobs: Vec<(Job, SharedBasis)> = Vec::with_capacity(points.len());
    for point in points {
        cancel.check()?;
        let job = grid.prepare(point)?;
        let basis = SharedBasis::of(&job)?;
        shared.expect(basis);
        shared.provide(basis, cached.clone());
        jobs.push((job, basis));
    }
    // Points that select alike follow each other, so that their selections are not kept for longer than they are needed.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|place| jobs[*place].1);
    let rows = work(cancel, grid, &shared, &jobs, &order, workers, progress)?;

    let layout = point::layout();
    let results: Vec<&str> = layout.columns().iter().map(|column| column.name).collect();
    let names = heading(grid, results.iter().copied());
    let mut columns: Vec<FrameColumn> = names.into_iter().map(FrameColumn::named).collect();
    for (column, known) in columns.iter_mut().rev().zip(layout.columns().iter().rev()) {
        *column = FrameColumn::of(known);
    }
    columns[0] = FrameColumn::of(&POINT);
    let key = columns.len() - results.len() - 1;
    columns[key] = FrameColumn::of(&KEY);
    let mut frame = ColumnFrame::with(columns);
    for ((point, (job, _)), row) in points.iter().zip(&jobs).zip(rows) {
        let key = digests.memory_key(job, grid.accuracy, cached.hash());
        let place = [Value::from(point.index)].into_iter();
        let cells = place.chain(grid.cells(point)).chain([Value::from(key)]).chain(layout.values(&row));
        frame.push(&cells.collect::<Vec<_>>());
    }
    Ok(frame)
}

/// The results of all jobs, which are taken up in `order`.
fn work(
    cancel: &Cancel,
    grid: &Grid,
    shared: &SharedWork,
    jobs: &[(Job, SharedBasis)],
    order: &[usize],
    workers: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<PointRow>> {
    let mut rows: Vec<Option<PointRow>> = jobs.iter().map(|_| None).collect();
    let run = |place: usize| {
        let (job, _) = &jobs[place];
        shared.run(cancel, job, job, grid.accuracy)
    };
    let mut done = 0;
    side_by_side(cancel, workers, order, run, |place, row| {
        rows[place] = Some(row?);
        done += 1;
        progress(done);
        Ok(())
    })?;
    let whole: Option<Vec<PointRow>> = rows.into_iter().collect();
    whole.ok_or(Error::Interrupted)
}
