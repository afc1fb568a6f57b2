//! Sweeps: a grid of workloads and systems, each point generated and replayed in one process.
//!
//! [`grid`] expands a grid file into points, [`point`] runs one, [`key`] says what its result depends on, [`store`]
//! keeps finished points and writes the table. Points are independent: they go to as many workers as there are threads,
//! and the table has them in the order of the grid whichever is done first.

pub mod grid;
pub mod key;
pub mod point;
pub mod store;

use crate::error::{Error, Result};
use crate::interrupt;
use grid::{Grid, Point};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use store::Store;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Points that were run.
    pub run: usize,
    /// Points of which the result was there.
    pub kept: usize,
    /// Points that failed, in order of the grid.
    pub failed: Vec<(usize, Error)>,
}

/// Runs the points of a grid that the store does not have, with so many workers; `progress` hears how many are done.
/// A point that fails does not stop the others.
pub fn run(
    grid: &Grid,
    points: &[Point],
    store: &mut Store,
    workers: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let digests = key::Digests::new()?;
    let mut open = Vec::new();
    for point in points {
        match grid.prepare(point).and_then(|job| Ok((digests.key(&job)?, job))) {
            Ok((key, job)) => match store.find(point, &key)? {
                true => outcome.kept += 1,
                false => open.push((point, key, job)),
            },
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => outcome.failed.push((point.index, e)),
        }
        interrupt::check()?;
    }
    store.write_table()?;
    progress((outcome.kept + outcome.failed.len()) as u64);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (results, finished) = sync_channel(workers.max(1));
        for _ in 0..workers.clamp(1, open.len().max(1)) {
            let (results, open, next) = (results.clone(), &open, &next);
            scope.spawn(move || {
                while interrupt::check().is_ok() {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some((_, _, job)) = open.get(i) else { break };
                    if results.send((i, point::run(job, grid.accuracy))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        for (i, result) in finished {
            let (point, key, _) = &open[i];
            match result {
                Ok(cells) => {
                    store.put(point, key, cells)?;
                    outcome.run += 1;
                }
                Err(Error::Interrupted) => {}
                Err(e) => outcome.failed.push((point.index, e)),
            }
            progress((outcome.kept + outcome.run + outcome.failed.len()) as u64);
        }
        store.write_table()
    })?;
    interrupt::check()?;
    outcome.failed.sort_by_key(|(index, _)| *index);
    Ok(outcome)
}
