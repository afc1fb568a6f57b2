//! Runs of jobs that no grid file says: each once, side by side, their results kept by key.

use super::cache::{PointCache, StoredResult};
use super::grid::Job;
use super::key::Digests;
use super::shared::SharedWork;
use super::table::SweepRow;
use super::workers::side_by_side;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use std::path::Path;

/// A job, and the one whose selections it takes: one that selects alike and is no shorter, itself perhaps.
pub struct BatchJob {
    /// What is run.
    pub job: Job,
    /// Whose selections it takes; itself where there is none.
    pub whole: Option<Job>,
}

/// What a batch tells while it goes on.
pub enum BatchEvent<'a> {
    /// A job is done, or its result was kept.
    Done,
    /// A kept result was damaged: it is run again.
    Damaged(&'a Path),
}

/// Where jobs are run. Accuracy is measured beside cost.
pub struct JobBatch<'a> {
    cancel: &'a Cancel,
    workers: usize,
    digests: Digests,
    points: PointCache,
    made: u64,
    kept: u64,
}

/// The key and the numbers of a job, or why it is impossible.
pub type JobResult = std::result::Result<(String, SweepRow), Error>;

impl<'a> JobBatch<'a> {
    /// Results are kept in `points`; so many jobs run at the same time.
    ///
    /// # Errors
    /// Those of [`PointCache::open`] and [`Digests::new`].
    pub fn open(points: &Path, workers: usize, cancel: &'a Cancel) -> Result<Self> {
        Ok(JobBatch {
            cancel,
            workers: workers.max(1),
            digests: Digests::new(cancel)?,
            points: PointCache::open(points)?,
            made: 0,
            kept: 0,
        })
    }

    /// Jobs that were run, and jobs whose results were kept.
    pub fn runs(&self) -> [u64; 2] {
        [self.made, self.kept]
    }

    /// Runs the jobs that are not kept, and returns the numbers of all, in order, as their files have them, so that it does not matter
    /// when they were found. A job that does not fit its cache or its device is impossible ([`Error::Config`]).
    ///
    /// # Errors
    /// What is no fault of one job, [`Error::Interrupted`] among them.
    pub fn run(
        &mut self,
        shared: &SharedWork,
        jobs: &[BatchJob],
        tell: &mut dyn FnMut(BatchEvent<'_>),
    ) -> Result<Vec<JobResult>> {
        let mut keys = Vec::with_capacity(jobs.len());
        let mut open = Vec::new();
        for (place, BatchJob { job, .. }) in jobs.iter().enumerate() {
            self.cancel.check()?;
            let key = self.digests.key(job, true)?;
            match self.points.find(&key)? {
                StoredResult::Whole => {
                    self.kept += 1;
                    tell(BatchEvent::Done);
                }
                StoredResult::Damaged => {
                    tell(BatchEvent::Damaged(&self.points.file(&key)));
                    open.push(place);
                }
                StoredResult::Nothing => open.push(place),
            }
            keys.push(key);
        }
        let mut impossible: Vec<Option<Error>> = jobs.iter().map(|_| None).collect();
        let run = |place: usize| {
            let BatchJob { job, whole } = &jobs[place];
            shared.run(self.cancel, job, whole.as_ref().unwrap_or(job), true)
        };
        let (points, made) = (&self.points, &mut self.made);
        side_by_side(self.cancel, self.workers, &open, run, |place, result| {
            match result {
                Ok(row) => {
                    points.put(&keys[place], &row)?;
                    *made += 1;
                    tell(BatchEvent::Done);
                }
                Err(e @ Error::Config { .. }) => impossible[place] = Some(e),
                Err(e) => return Err(e),
            }
            Ok(())
        })?;
        self.cancel.check()?;
        let numbers = |key: String| {
            let at = self.points.file(&key).display().to_string();
            let row = SweepRow::read(at, Vec::new(), self.points.names(), &self.points.cells(&key)?)?;
            Ok((key, row))
        };
        let results = keys.into_iter().zip(impossible);
        results.map(|(key, impossible)| impossible.map_or_else(|| numbers(key).map(Ok), |e| Ok(Err(e)))).collect()
    }
}
