//! Points that select alike: their selections are made once, and what these keep of the attention is measured once.

use super::grid::Job;
use super::point::{self, PointRow};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_tracegen::generate::{self, CacheSet, Generator, Selections};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Largest selections that are kept (bytes): a small part of a machine, and far above those of the shipped grids. Points with
/// larger ones select for themselves, step by step.
const MOST_BYTES: u64 = 512 << 20;

/// The selections of points, while points that need them are left.
#[derive(Default)]
pub struct SharedSelections {
    groups: BTreeMap<Basis, Mutex<SelectionGroup>>,
    /// Caches that all points have, where they have the same.
    cached: Option<Arc<CacheSet>>,
}

/// The points that select alike.
#[derive(Default)]
struct SelectionGroup {
    /// Points that have not run yet.
    left: usize,
    /// Their selections, once made; none where these are too large.
    made: Option<Option<Selections>>,
}

/// SHA-256 of what the selections of a point depend on.
pub type Basis = [u8; 32];

/// What the selections of a point depend on.
///
/// # Errors
/// Those of [`generate::basis`].
pub fn basis(job: &Job) -> Result<Basis> {
    Ok(Sha256::digest(generate::basis(&job.doc, job.kv.as_deref())?).into())
}

impl SharedSelections {
    /// Of points that all have these caches.
    pub fn on(cached: Arc<CacheSet>) -> Self {
        SharedSelections { groups: BTreeMap::new(), cached: Some(cached) }
    }

    /// Announces a point that will run, by its [`basis`].
    pub fn expect(&mut self, basis: Basis) {
        self.expect_many(basis, 1);
    }

    /// Announces so many points that may run.
    pub fn expect_many(&mut self, basis: Basis, points: usize) {
        let group = self.groups.entry(basis).or_default();
        group.get_mut().unwrap_or_else(PoisonError::into_inner).left += points;
    }

    fn load(&self, cancel: &Cancel, job: &Job) -> Result<Generator> {
        self.cached.as_ref().map_or_else(|| point::load(cancel, job), |cached| point::load_on(cached, job))
    }

    /// Runs a point that was announced. The first of its group makes the selections for the others, in as many steps as `whole`
    /// has, which selects alike and is no shorter; the last drops them.
    ///
    /// # Errors
    /// Those of [`point::load`] and [`point::run`].
    pub fn run(&self, cancel: &Cancel, job: &Job, whole: &Job, accuracy: bool) -> Result<PointRow> {
        let basis = basis(job)?;
        let selections = match self.groups.get(&basis) {
            Some(group) => {
                // Whoever else needs the selections waits for them; the threads that make them are those of the pool.
                let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
                group.left = group.left.saturating_sub(1);
                if group.made.is_none() && group.left > 0 {
                    let generator = self.load(cancel, whole)?;
                    let fits = generator.selection_bytes() <= MOST_BYTES;
                    group.made = Some(if fits { Some(generator.select(cancel, accuracy, &|_| {})?) } else { None });
                }
                let made = group.made.clone().flatten();
                if group.left == 0 {
                    group.made = None;
                }
                made
            }
            None => None,
        };
        let generator = match &selections {
            Some(selections) => point::load_selected(selections, job)?,
            None => self.load(cancel, job)?,
        };
        point::run(cancel, job, &generator, accuracy)
    }
}
