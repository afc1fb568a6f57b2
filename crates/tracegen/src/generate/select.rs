//! Selecting for all heads and steps of a run, head by head.

use super::Generator;
use super::choice::HeadChoice;
use super::chosen::Chosen;
use super::selections::{KeptRecording, SelectedHead, Selections};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::memory;
use pimattn_kv::{IN_MEMORY, KvCache};
use pimattn_policies::accuracy::Accuracy;
use pimattn_policies::select::Preparation;
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::spooled::RecordingSpool;
use pimattn_policies::selection::Selection;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of selections that are in memory, roughly; more are in a file, until they are mapped.
const SPOOLED: u64 = 512 << 20;

/// Bytes of the heads of caches in files that are selected for at the same time, at most, if these are several.
const TOGETHER: u64 = 384 << 20;

/// Bytes of a KV head that is selected for, roughly: its rows, and as much again for what a policy makes of its keys.
fn head_bytes(cache: &KvCache, chosen: &Chosen, measure: bool) -> u64 {
    let rows = cache.tokens * if measure { 3 } else { 2 };
    let from_queries = chosen.prepares_from() == Preparation::Queries;
    let queries = if from_queries { cache.queries } else { cache.decode_positions().len() };
    let scores = 2 * cache.group() * cache.tokens;
    4 * ((rows + cache.group() * queries) * cache.dim + scores) as u64
}

/// What `work` makes of `0..count`, in order, no more than so many at the same time.
///
/// # Errors
/// The first of `work`, in order, of what was begun.
fn in_order<T: Send>(count: usize, together: usize, work: impl Fn(usize) -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    let made: Vec<Vec<T>> = if together >= rayon::current_num_threads() {
        (0..count).into_par_iter().map(&work).collect::<Result<_>>()?
    } else {
        let next = AtomicUsize::new(0);
        let made = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<Result<Vec<T>>>>>());
        rayon::scope(|scope| {
            for _ in 0..together {
                scope.spawn(|_| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count {
                            break;
                        }
                        let result = work(at);
                        if result.is_err() {
                            next.store(count, Ordering::Relaxed);
                        }
                        made.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                    }
                });
            }
        });
        made.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect::<Result<_>>()?
    };
    Ok(made.into_iter().flatten().collect())
}

impl Generator {
    /// Selects for all heads and steps, and maps nothing. With `measure`, what the selections keep of the attention is kept
    /// with them. `progress` hears how many heads are done.
    ///
    /// # Errors
    /// [`Error::Usage`] where it takes more memory than there is, those of reading the cache, and [`Error::Interrupted`].
    pub fn select(&self, cancel: &Cancel, measure: bool, progress: &(dyn Fn(u64) + Sync)) -> Result<Selections> {
        self.select_within(cancel, measure, SPOOLED, progress)
    }

    /// As [`Generator::select`]; selections that take more than so many bytes, roughly, are in a file without a name.
    ///
    /// # Errors
    /// Those of [`Generator::select`], and [`Error::Io`] where the folder of temporary files does not take them.
    pub fn select_within(
        &self,
        cancel: &Cancel,
        measure: bool,
        in_memory: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Selections> {
        let (layers, requests) = (self.cache().layers.len(), self.requests());
        let places = (0..layers).flat_map(|l| (0..requests).map(move |r| (l, r)));
        // A layer at a time where its heads decide together, else a head.
        let units: Vec<(usize, usize, Range<usize>)> = places
            .flat_map(|(layer, request)| {
                let heads = self.cached.of(request).kv_heads;
                let size = if self.decides_together(layer, request) { heads } else { 1 };
                (0..heads).step_by(size).map(move |head| (layer, request, head..head + size))
            })
            .collect();
        self.check_memory(measure)?;
        let spool = (self.selection_bytes() > in_memory).then(RecordingSpool::new).transpose()?;
        let done = AtomicU64::new(0);
        let of_head = |mut choice: HeadChoice<'_>| {
            let mut recording = HeadRecording::of(choice.state());
            let mut accuracies = Vec::new();
            for step in 0..self.steps() {
                cancel.check()?;
                accuracies.extend(choice.step(step, measure)?);
                choice.record(&mut recording);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            let recording = match &spool {
                None => KeptRecording::InMemory(recording),
                Some(spool) => KeptRecording::Spooled(spool.put(&recording)?),
            };
            Ok(SelectedHead { recording, accuracies })
        };
        let of_unit = |at: usize| {
            let (layer, request, heads) = units[at].clone();
            cancel.check()?;
            let heads = HeadChoice::of_heads(self, layer, request, heads, measure)?;
            heads.into_par_iter().map(of_head).collect::<Result<Vec<_>>>()
        };
        let heads = in_order(units.len(), self.units_together(measure), of_unit)?;
        Ok(Selections {
            cached: self.cached.clone(),
            heads: Arc::new(heads),
            basis: self.basis.clone(),
            steps: self.steps(),
            measured: measure,
        })
    }

    /// What its heads have selected, as a selection that [`Selection::save`] writes and [`Generator::load_imported`] takes.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are several requests: a selection is of one.
    pub fn selection(&self, selections: &Selections) -> Result<Selection> {
        if self.requests() != 1 {
            let what = format!("a selection file is of one request; the batch has {}", self.requests());
            return Err(Error::Usage(what));
        }
        let facts = self.chosen.facts(self.workload.budget);
        let heads: Vec<Cow<'_, HeadRecording>> =
            selections.heads.iter().map(|head| head.recording.load()).collect::<Result<_>>()?;
        let heads: Vec<&HeadRecording> = heads.iter().map(Cow::as_ref).collect();
        Ok(Selection::of_recordings(self.cache(), self.workload.dense_layers, facts, &heads))
    }

    /// Has the run take selections that it has made ([`Generator::select`]), in place of making them again.
    ///
    /// # Errors
    /// [`Error::Usage`] where another run has made them.
    pub fn reuse(&mut self, selections: Selections) -> Result<()> {
        let same = Arc::ptr_eq(&self.cached, &selections.cached)
            && self.basis == selections.basis
            && self.steps() <= selections.steps;
        if !same {
            return Err(Error::Usage("these selections are of another run".into()));
        }
        self.selections = Some(selections);
        Ok(())
    }

    /// Whether the KV heads of a layer decide together.
    fn decides_together(&self, layer: usize, request: usize) -> bool {
        match &self.chosen {
            Chosen::Policy(policy) => {
                !self.is_dense(self.cached.of(request).layers[layer]) && policy.decides_together()
            }
            Chosen::Imported(_) => false,
        }
    }

    /// Heads, or layers whose heads decide together, that are selected for at the same time: as many as there are threads, but of caches
    /// in files no more than [`TOGETHER`] bytes.
    fn units_together(&self, measure: bool) -> usize {
        if self.cached.is_in_memory() {
            return usize::MAX;
        }
        let most = self.cached.caches().iter().map(|cache| head_bytes(cache, &self.chosen, measure)).max();
        (TOGETHER / (self.heads_of_unit() * most.unwrap_or(1)).max(1)).max(1) as usize
    }

    /// An error where what is selected, and what it takes meanwhile, is more than there is memory.
    fn check_memory(&self, measure: bool) -> Result<()> {
        let cache = self.cache();
        let heads = (cache.layers.len() * self.requests() * cache.kv_heads) as u64;
        let queries = heads * cache.group() as u64 * self.steps() as u64;
        let measured = if measure { queries * size_of::<Accuracy>() as u64 } else { 0 };
        let meanwhile = match self.cached.is_in_memory() {
            true => 0,
            false => {
                let together = (rayon::current_num_threads() as u64).min(self.units_together(measure) as u64);
                let most = self.cached.caches().iter().map(|cache| head_bytes(cache, &self.chosen, measure)).max();
                together.min(heads) * self.heads_of_unit() * most.unwrap_or(0)
            }
        };
        // Of what is spooled, a step of each head is in memory, and all steps of a head while it is made.
        let (all, steps) = (self.selection_bytes(), self.steps().max(1) as u64);
        let kept =
            if all > SPOOLED { all / steps + all / heads.max(1) * rayon::current_num_threads() as u64 } else { all };
        let bytes = kept + measured + meanwhile;
        if bytes <= IN_MEMORY {
            return Ok(());
        }
        let what = format!("what {} selects for {heads} KV heads in {} steps", self.chosen.name(), self.steps());
        memory::check(&format!("{what} (fewer steps or layers take less)"), bytes)
    }

    /// KV heads that are selected for together.
    fn heads_of_unit(&self) -> u64 {
        match &self.chosen {
            Chosen::Policy(policy) if policy.decides_together() => self.cache().kv_heads as u64,
            _ => 1,
        }
    }

    /// Bytes that [`Generator::select`] would keep, at most and roughly: tokens, and an order of tokens for each period of the
    /// policy.
    pub fn selection_bytes(&self) -> u64 {
        let cache = self.cache();
        let heads = (cache.layers.len() * self.requests() * cache.kv_heads) as u64;
        let (steps, len) = (self.steps() as u64, cache.tokens as u64);
        // A selection of all tokens is kept as such.
        let tokens = if self.chosen.heeds_budget() { len.min(self.workload.budget as u64) } else { 0 };
        let orders = if self.chosen.clusters() { steps.div_ceil(self.chosen.period() as u64) + 1 } else { 1 };
        heads * 4 * (steps * cache.group() as u64 * tokens + orders * len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_units_are_at_work_and_their_results_are_in_order() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        let expected: Vec<usize> = (0..60).flat_map(|i| [i, 10 * i]).collect();
        for together in [1, 2, 6, usize::MAX] {
            let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let work = |i: usize| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_micros(200));
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(vec![i, 10 * i])
            };
            assert_eq!(pool.install(|| in_order(60, together, work)).unwrap(), expected);
            assert!(most.into_inner() <= together);
            let begun = AtomicUsize::new(0);
            let fails = |i: usize| match begun.fetch_add(1, Ordering::SeqCst) {
                7 => Err(Error::Usage(format!("{i}"))),
                _ => Ok(vec![i]),
            };
            assert!(matches!(pool.install(|| in_order(60, together, fails)), Err(Error::Usage(_))));
            assert!(together > 5 || begun.into_inner() <= 7 + together, "the rest is left");
        }
        assert!(in_order(0, 1, |i| Ok(vec![i])).unwrap().is_empty());
    }
}
