//! What points have in common: caches are made, and attention over all tokens is computed, once for those that decode the same ones;
//! selections are made, and what these keep of the attention is measured, once for those that select alike.

use super::grid::Job;
use super::point::{self, PointRow};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_tracegen::generate::{self, CacheSet, Generator, Selections};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Largest selections that are kept (bytes): a small part of a machine, and far above those of the shipped grids. Points with
/// larger ones select for themselves, step by step. Attention over all tokens is kept up to the same size.
const MOST_BYTES: u64 = 512 << 20;

/// SHA-256 of what something that points have in common depends on.
type Basis = [u8; 32];

/// What a point shares with others, by what it depends on: its caches, and its selections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedBasis {
    caches: Basis,
    selections: Basis,
}

impl SharedBasis {
    /// Of a point.
    ///
    /// # Errors
    /// Those of [`generate::basis`].
    pub fn of(job: &Job) -> Result<Self> {
        let kv = job.kv.as_deref();
        let hash = |text: String| Sha256::digest(text).into();
        Ok(SharedBasis {
            caches: hash(generate::cache_basis(&job.doc, kv)?),
            selections: hash(generate::basis(&job.doc, kv)?),
        })
    }
}

impl SharedBasis {
    /// What the caches depend on.
    pub fn caches(&self) -> [u8; 32] {
        self.caches
    }
}

/// Caches and selections, while points that need them are left.
#[derive(Default)]
pub struct SharedWork {
    caches: BTreeMap<Basis, Mutex<SharedItem<Arc<CacheSet>>>>,
    /// None where they are too large.
    selections: BTreeMap<Basis, Mutex<SharedItem<Option<Selections>>>>,
}

/// Something that points need, once made.
struct SharedItem<T> {
    /// Points that have not taken it yet.
    left: usize,
    made: Option<T>,
}

impl<T> Default for SharedItem<T> {
    fn default() -> Self {
        SharedItem { left: 0, made: None }
    }
}

impl<T: Clone> SharedItem<T> {
    /// The item for one of the points that need it. The first makes it, unless it is the only one; the last drops it. Whoever else
    /// needs it waits meanwhile; the threads that make it are those of the pool.
    fn take(item: &Mutex<Self>, make: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let mut item = item.lock().unwrap_or_else(PoisonError::into_inner);
        item.left = item.left.saturating_sub(1);
        if item.made.is_none() && item.left > 0 {
            item.made = Some(make()?);
        }
        let made = item.made.clone();
        if item.left == 0 {
            item.made = None;
        }
        Ok(made)
    }
}

impl SharedWork {
    /// Announces a point that will run.
    pub fn expect(&mut self, basis: SharedBasis) {
        self.expect_many(basis, 1);
    }

    /// Announces so many points that may run.
    pub fn expect_many(&mut self, basis: SharedBasis, points: usize) {
        let caches = self.caches.entry(basis.caches).or_default();
        caches.get_mut().unwrap_or_else(PoisonError::into_inner).left += points;
        let selections = self.selections.entry(basis.selections).or_default();
        selections.get_mut().unwrap_or_else(PoisonError::into_inner).left += points;
    }

    /// Hands over caches that are there already, for the points of a basis.
    pub fn provide(&mut self, basis: SharedBasis, cached: Arc<CacheSet>) {
        cached.keep_attention(MOST_BYTES);
        let caches = self.caches.entry(basis.caches).or_default();
        caches.get_mut().unwrap_or_else(PoisonError::into_inner).made = Some(cached);
    }

    /// Forgets selections, but not caches.
    pub fn forget_selections(&mut self) {
        self.selections.clear();
    }

    /// Runs a point that was announced. The first of those that select alike makes the selections for the others, in as many steps as
    /// `whole` has, which selects alike and is no shorter.
    ///
    /// # Errors
    /// Those of [`point::load`] and [`point::run`].
    pub fn run(&self, cancel: &Cancel, job: &Job, whole: &Job, accuracy: bool) -> Result<PointRow> {
        let basis = SharedBasis::of(job)?;
        let cached = match self.caches.get(&basis.caches) {
            Some(item) => SharedItem::take(item, || {
                let cached = point::load(cancel, job)?.caches().clone();
                cached.keep_attention(MOST_BYTES);
                Ok(cached)
            })?,
            None => None,
        };
        let load = |job: &Job| -> Result<Generator> {
            cached.as_ref().map_or_else(|| point::load(cancel, job), |cached| point::load_on(cached, job))
        };
        let select = || {
            let generator = load(whole)?;
            let fits = generator.selection_bytes() <= MOST_BYTES;
            fits.then(|| generator.select(cancel, accuracy, &|_| {})).transpose()
        };
        let selections = match self.selections.get(&basis.selections) {
            Some(item) => SharedItem::take(item, select)?.flatten(),
            None => None,
        };
        let generator = match &selections {
            Some(selections) => point::load_selected(selections, job)?,
            None => load(job)?,
        };
        point::run(cancel, job, &generator, accuracy)
    }
}
