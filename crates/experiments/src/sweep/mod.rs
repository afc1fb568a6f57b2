//! Sweeps: a grid of workloads and systems, each point generated and replayed in one process.
//!
//! [`grid`] expands a grid file into points ([`range`]: assumed values, one moved at a time), [`point`] runs one, [`key`] says what
//! its result depends on, [`shared`] what points have in common, [`cache`] keeps finished points, [`store`] writes the table, [`batch`]
//! runs jobs that no grid file says, [`memory`] a grid on a cache in memory, [`table`] reads results back as numbers, [`merge`] puts the
//! tables of shards together. Points are independent:
//! they go to as many workers (`workers`) as there are threads. The table gains a row as each is done, and has them in the order
//! of the grid once all are. What is held of a point while others run is its place and its key.

pub mod batch;
pub mod cache;
pub mod grid;
pub mod key;
pub mod memory;
pub mod merge;
pub mod point;
pub mod range;
pub mod shared;
pub mod store;
pub mod table;
mod workers;

use cache::StoredResult;
use grid::{Grid, Point};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rayon::prelude::*;
use shared::{SharedBasis, SharedWork};
use std::collections::BTreeMap;
use store::Store;
use workers::side_by_side;

/// Points of which the keys are made between two looks at whether the user wants to stop.
const BATCH: usize = 256;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct SweepOutcome {
    /// Points that were run.
    pub run: usize,
    /// Points of which the result was there.
    pub kept: usize,
    /// Points that failed, in order of the grid.
    pub failed: Vec<(usize, Error)>,
}

/// What a sweep tells while it goes on.
pub enum SweepEvent<'a> {
    /// So many points need nothing more, most of them because their result was there.
    Kept(u64),
    /// So many points are done.
    Done(u64),
    /// A kept result was damaged: its point is run again.
    Damaged(&'a std::path::Path),
}

/// Runs the points of a grid that the store does not have, with so many workers. A point that fails does not stop the
/// others; `cancel` stops all, and what is finished is kept.
///
/// # Errors
/// What the store says, and [`Error::Interrupted`].
pub fn run(
    grid: &Grid,
    points: &[Point],
    store: &mut Store<'_>,
    workers: usize,
    cancel: &Cancel,
    tell: &mut dyn FnMut(SweepEvent<'_>),
) -> Result<SweepOutcome> {
    let mut outcome = SweepOutcome::default();
    let digests = key::Digests::new(cancel)?;
    let key = |point: &Point| {
        let job = grid.prepare(point)?;
        Ok((digests.key(&job, grid.accuracy)?, job))
    };
    let mut open = Vec::new();
    for batch in points.chunks(BATCH) {
        cancel.check()?;
        let found: Vec<Result<(String, StoredResult)>> = batch
            .par_iter()
            .map(|point| {
                let (key, _) = key(point)?;
                let found = store.points().find(&key)?;
                Ok((key, found))
            })
            .collect();
        for (point, found) in batch.iter().zip(found) {
            match found {
                Ok((key, StoredResult::Whole)) => {
                    store.keep(point, key);
                    outcome.kept += 1;
                }
                Ok((key, StoredResult::Damaged)) => {
                    tell(SweepEvent::Damaged(&store.points().file(&key)));
                    open.push(point);
                }
                Ok((_, StoredResult::Nothing)) => open.push(point),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(e) => outcome.failed.push((point.index, e)),
            }
        }
    }
    let mut shared = SharedWork::default();
    let open = in_groups(grid, open, &mut shared, cancel)?;
    store.begin(points)?;
    tell(SweepEvent::Kept((outcome.kept + outcome.failed.len()) as u64));
    let places: Vec<usize> = (0..open.len()).collect();
    let run = |place: usize| {
        let (key, job) = key(open[place])?;
        Ok((key, shared.run(cancel, &job, &job, grid.accuracy)?))
    };
    let worked = side_by_side(cancel, workers, &places, run, |place, result: Result<_>| {
        match result {
            Ok((key, result)) => {
                store.put(open[place], key, &result)?;
                outcome.run += 1;
            }
            Err(Error::Interrupted) => {}
            Err(e) => outcome.failed.push((open[place].index, e)),
        }
        tell(SweepEvent::Done((outcome.kept + outcome.run + outcome.failed.len()) as u64));
        Ok(())
    });
    worked?;
    store.finish(points)?;
    cancel.check()?;
    outcome.failed.sort_by_key(|(index, _)| *index);
    Ok(outcome)
}

/// The points, those of the same caches side by side, and among them those that select alike, so that few caches and selections are
/// held at a time.
fn in_groups<'p>(
    grid: &Grid,
    open: Vec<&'p Point>,
    shared: &mut SharedWork,
    cancel: &Cancel,
) -> Result<Vec<&'p Point>> {
    let (mut caches, mut order) = (BTreeMap::new(), BTreeMap::new());
    let mut placed = Vec::with_capacity(open.len());
    for batch in open.chunks(BATCH) {
        cancel.check()?;
        let bases: Vec<Result<SharedBasis>> = batch.par_iter().map(|p| SharedBasis::of(&grid.prepare(p)?)).collect();
        for (point, basis) in batch.iter().zip(bases) {
            let basis = basis?;
            let next = [caches.len(), order.len()];
            let places = [*caches.entry(basis.caches()).or_insert(next[0]), *order.entry(basis).or_insert(next[1])];
            placed.push((places, *point));
            shared.expect(basis);
        }
    }
    placed.sort_by_key(|(places, point)| (*places, point.index));
    Ok(placed.into_iter().map(|(_, point)| point).collect())
}
