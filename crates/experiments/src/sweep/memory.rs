//! A sweep of a cache that is in memory: no file is read or written.

use super::grid::{Grid, Job, Point};
use super::key::Digests;
use super::point::{self, PointRow};
use super::shared::{SharedBasis, SharedWork};
use super::store::{KEY, POINT, heading};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{ColumnFrame, FrameColumn, Value};
use pimattn_tracegen::generate::CacheSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// What the header of a trace calls the dump of a cache that is in memory.
pub const IN_MEMORY: &str = "(in memory)";

/// Runs points of a grid on a cache that takes the place of whatever the grid reads, with so many workers. The table is that of a sweep
/// (`sweep.csv`), in the order of `points`. `progress` hears how many points are done.
///
/// # Errors
/// Of the first point, in their order, that fails.
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
    let mut rows: Vec<Option<Result<PointRow>>> = jobs.iter().map(|_| None).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (results, finished) = sync_channel(workers.max(1));
        for _ in 0..workers.clamp(1, jobs.len().max(1)) {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                while let Some(place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (job, _) = &jobs[*place];
                    let result = shared.run(cancel, job, job, grid.accuracy);
                    if results.send((*place, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        for (done, (place, result)) in (1..).zip(finished) {
            if result.is_err() {
                // Nobody takes up another.
                next.store(order.len(), Ordering::Relaxed);
            }
            rows[place] = Some(result);
            progress(done);
        }
    });
    cancel.check()?;
    let failed = rows.iter_mut().find_map(|row| row.take_if(|row| row.is_err()));
    if let Some(Err(e)) = failed {
        return Err(e);
    }
    let whole: Option<Vec<PointRow>> = rows.into_iter().map(|row| row.and_then(Result::ok)).collect();
    whole.ok_or(Error::Interrupted)
}
