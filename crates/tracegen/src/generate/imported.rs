//! A generator whose selections were made elsewhere.

use super::Generator;
use super::load::check_policies;
use super::selections::{CacheSet, SelectedHead, Selections};
use crate::selection::{KeptShape, Selection};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use pimattn_mapping::workload::Workload;
use pimattn_policies::select::{HeadState, HeadView, Policy};
use pimattn_trace::label::SelectionLabel;
use std::path::Path;
use std::sync::Arc;

/// A policy of which nothing but its selections is known.
struct Imported {
    name: String,
}

impl Policy for Imported {
    fn name(&self) -> &str {
        &self.name
    }

    /// Its answers are there; nobody asks it to prepare any.
    fn prepare(&self, _: HeadView<'_>) -> Box<dyn HeadState + Send> {
        unreachable!("selections that are there are replayed")
    }
}

impl Generator {
    /// As [`Generator::load_on`], with selections that were made elsewhere in place of the workload's policy. `budget` are the tokens that
    /// a query head may select; without it, those of the selection. Where the selection has fewer steps than the cache, so has the run.
    ///
    /// # Errors
    /// Those of [`Generator::load`], [`Error::Data`] with the place where the selection does not fit the cache or the budget, and
    /// [`Error::Usage`] where there are several caches.
    pub fn load_imported(
        cached: &Arc<CacheSet>,
        system: System,
        mut workload: Workload,
        doc: &Document,
        kv: Option<&Path>,
        selection: &Selection,
        budget: Option<usize>,
    ) -> Result<Self> {
        let [cache] = cached.caches() else {
            return Err(Error::Usage(format!(
                "a selection is of one cache; the workload has {}",
                cached.caches().len()
            )));
        };
        workload.policy = selection.policy().into();
        workload.budget = budget.unwrap_or_else(|| selection.budget());
        check_policies(&workload, doc)?;
        let element_bytes = workload.mapping.element_bytes(cache.element_bytes);
        let bound = selection.bind(cache, budget, workload.dense_layers, element_bytes)?;
        let there = cache.decode_positions().len();
        let policy = Box::new(Imported { name: selection.policy().into() });
        let mut generator = Generator::assemble(system, workload, doc, policy, || Ok(cached.clone()), kv)?;
        let requests = generator.requests();
        let layers = bound.recordings.chunks_exact(cache.kv_heads);
        // Requests share the cache, and so its selections.
        let heads = layers.flat_map(|layer| std::iter::repeat_n(layer, requests).flatten());
        let heads = heads.map(|recording| SelectedHead { recording: recording.clone(), accuracies: Vec::new() });
        generator.selections = Some(Selections::imported(cached, heads.collect(), bound.steps));
        let mut label = SelectionLabel::clone(&generator.label);
        label.selection_hash = selection.hash();
        if bound.steps < there {
            label.cautions.push(format!("the selection has {} steps of the {there} of the cache", bound.steps));
        }
        generator.set_label(label);
        Ok(generator)
    }

    /// What is selected at each step, to be kept as a file; the run that follows takes it from there.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are several caches, and [`Error::Interrupted`].
    pub fn keep_selection(&mut self, cancel: &Cancel, progress: &(dyn Fn(u64) + Sync)) -> Result<Selection> {
        if self.caches().caches().len() > 1 {
            return Err(Error::Usage(format!("a selection is of one cache; the workload has {}", self.requests())));
        }
        if self.selections.is_none() {
            self.selections = Some(self.select(cancel, false, progress)?);
        }
        let this = &*self;
        let cache = this.cache();
        let shape = KeptShape {
            policy: this.policy.name(),
            budget: this.workload.budget,
            prefill: cache.decode_positions().start,
            kv_heads: cache.kv_heads,
            group: cache.group(),
            steps: this.steps(),
        };
        let first = (0..cache.layers.len()).flat_map(|l| (0..cache.kv_heads).map(move |h| this.index(l, 0, h)));
        let heads = this.selections.iter().flat_map(|s| first.clone().map(|index| &s.head(index).recording));
        Ok(Selection::kept(&shape, heads))
    }
}
