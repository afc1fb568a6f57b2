//! Decoding as a model does it, layer by layer and token by token, with a policy's selection in place of full attention.
//!
//! [`LiveDecode`] holds the cache that grows while the model decodes. Of each new token it takes the key, the value and the queries
//! of a layer, lets the policy select, and gives back the attention over what was selected. What was decoded in this way is a
//! [`KvCache`], whose run with the same workload selects the same tokens.

#[cfg(test)]
mod tests;

use crate::generate::{self, CacheSet, Chosen, MetricsRow};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::config::Document;
use pimattn_kv::{KvCache, KvParts, Rows, Tensor};
use pimattn_mapping::workload::Workload;
use pimattn_policies::accuracy::{self, Accuracy, OutputOf, RowShape};
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::{self, HeadState, HeadView, Policy, StepView};
use pimattn_policies::selection::Selection;
use rayon::prelude::*;
use std::sync::Arc;

/// The heads of a model's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveShape {
    /// Which layers of the model are decoded, ascending.
    pub layers: Vec<u32>,
    /// KV heads per layer.
    pub kv_heads: usize,
    /// Query heads per layer; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Elements of a key, value or query vector.
    pub dim: usize,
    /// Bytes of one element as the model stores it.
    pub element_bytes: u32,
}

/// A sequence that a model decodes while a policy selects what it attends to.
pub struct LiveDecode {
    shape: LiveShape,
    workload: Workload,
    doc: Document,
    policy: Box<dyn Policy>,
    full: Box<dyn Policy>,
    layers: Vec<LiveLayer>,
}

/// A layer, once it has its prefill.
#[derive(Default)]
struct LiveLayer {
    prefill: usize,
    /// Queries of the prefill that were given.
    early: usize,
    heads: Vec<LiveHead>,
}

/// A KV head and the query heads that share it.
struct LiveHead {
    /// `[token, dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// By query head of the group, `[query, dim]`.
    queries: Vec<Vec<f32>>,
    state: Box<dyn HeadState + Send>,
    recording: HeadRecording,
    /// By step and query head of the group.
    accuracies: Vec<Vec<Accuracy>>,
    scores: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    scratch: accuracy::Scratch,
}

impl LiveDecode {
    /// A sequence without a prefill yet. Of the workload, the policy with its parameters, the budget, the layers that stay full and
    /// the seed count.
    ///
    /// # Errors
    /// [`Error::Config`] where the policy is unknown or refuses its parameters or the budget, [`Error::Usage`] where the shape is
    /// impossible.
    pub fn new(workload: Workload, doc: Document, shape: LiveShape) -> Result<Self> {
        let LiveShape { layers, kv_heads, query_heads, dim, .. } = &shape;
        let usage = |what: String| Err(Error::Usage(what));
        if layers.is_empty() || layers.windows(2).any(|pair| pair[0] >= pair[1]) {
            return usage(format!("layers {layers:?}: expected ascending numbers, one at least"));
        }
        if *kv_heads == 0 || *query_heads == 0 || query_heads % kv_heads != 0 {
            return usage(format!("{query_heads} query heads: expected a multiple of the KV heads, {kv_heads}"));
        }
        if *dim == 0 {
            return usage("vectors of no elements".into());
        }
        let policy = generate::policy(&workload, &doc)?;
        generate::check_budget(&workload, &doc, policy.as_ref())?;
        let full = (select::full::ENTRY.build)(&toml::Table::new()).expect("full has no parameters");
        let states = layers.iter().map(|_| LiveLayer::default()).collect();
        Ok(LiveDecode { workload, doc, policy, full, layers: states, shape })
    }

    /// Takes the prefill of a layer, which the model has attended to in full: keys and values `[kv_head, token, dim]`, and the
    /// queries `[query_head, query, dim]` of its last tokens, as many as there are.
    ///
    /// # Errors
    /// [`Error::Usage`] where the layer is not among those of the shape or has its prefill, or an array is of another shape.
    pub fn prefill(&mut self, layer: u32, keys: &[f32], values: &[f32], queries: &[f32]) -> Result<()> {
        let at = self.index(layer)?;
        let LiveShape { kv_heads, query_heads, dim, .. } = self.shape;
        let group = query_heads / kv_heads;
        if !self.layers[at].heads.is_empty() {
            return Err(Error::Usage(format!("layer {layer} has its prefill already")));
        }
        let per_head = |name: &str, data: &[f32], heads: usize| match data.len() % (heads * dim) {
            0 => Ok(data.len() / (heads * dim)),
            _ => {
                Err(Error::Usage(format!("{name} of layer {layer}: {} elements do not fill {heads} heads", data.len())))
            }
        };
        let tokens = per_head("keys", keys, kv_heads)?;
        let early = per_head("queries", queries, query_heads)?;
        if tokens == 0 || per_head("values", values, kv_heads)? != tokens || early > tokens {
            let what = "expected keys and values of as many tokens, one at least, and no more queries";
            return Err(Error::Usage(format!("prefill of layer {layer}: {what}")));
        }
        finite(layer, [keys, values, queries])?;
        let rows = |data: &[f32], head: usize, rows: usize| data[head * rows * dim..(head + 1) * rows * dim].to_vec();
        let group_queries = |head: usize| &queries[head * group * early * dim..(head + 1) * group * early * dim];
        let view = |head: usize| HeadView {
            keys: Rows { data: &keys[head * tokens * dim..(head + 1) * tokens * dim], dim },
            prefill: tokens,
            queries: pimattn_kv::Heads { data: group_queries(head), dim, heads: group },
            query_start: tokens - early,
            seed: select::head_seed(self.workload.seed, at * kv_heads + head),
            memo: None,
        };
        let views: Vec<HeadView<'_>> = (0..kv_heads).map(view).collect();
        let policy = if layer < self.workload.dense_layers { &self.full } else { &self.policy };
        let head = |(head, state): (usize, Box<dyn HeadState + Send>)| LiveHead {
            keys: rows(keys, head, tokens),
            values: rows(values, head, tokens),
            queries: (0..group).map(|g| rows(queries, head * group + g, early)).collect(),
            recording: HeadRecording::of(state.as_ref()),
            state,
            accuracies: Vec::new(),
            scores: vec![Vec::new(); group],
            tokens: vec![Vec::new(); group],
            scratch: accuracy::Scratch::default(),
        };
        let heads = policy.prepare_layer(&views).into_iter().enumerate().map(head).collect();
        self.layers[at] = LiveLayer { prefill: tokens, early, heads };
        Ok(())
    }

    /// Takes a new token's key and value `[kv_head, dim]` and queries `[query_head, dim]` of a layer, and writes the attention over
    /// what the policy selects `[query_head, dim]`, with scores scaled by 1/√dim.
    ///
    /// # Errors
    /// [`Error::Usage`] where the layer has no prefill, or an array is of another shape.
    pub fn step(&mut self, layer: u32, key: &[f32], value: &[f32], queries: &[f32], out: &mut [f32]) -> Result<()> {
        let at = self.index(layer)?;
        let LiveShape { kv_heads, query_heads, dim, .. } = self.shape;
        let group = query_heads / kv_heads;
        let state = &mut self.layers[at];
        if state.heads.is_empty() {
            return Err(Error::Usage(format!("layer {layer} has no prefill yet")));
        }
        let lengths =
            [(key.len(), kv_heads), (value.len(), kv_heads), (queries.len(), query_heads), (out.len(), query_heads)];
        if lengths.iter().any(|(length, heads)| *length != heads * dim) {
            let what = format!(
                "expected a key and a value of {kv_heads} heads and queries of {query_heads}, of {dim} elements"
            );
            return Err(Error::Usage(format!("step of layer {layer}: {what}")));
        }
        finite(layer, [key, value, queries])?;
        let layer_queries: Vec<&[f32]> = queries.chunks_exact(dim).collect();
        let new = key.chunks_exact(dim).zip(value.chunks_exact(dim));
        for ((head, (key, value)), queries) in state.heads.iter_mut().zip(new).zip(layer_queries.chunks_exact(group)) {
            head.keys.extend_from_slice(key);
            head.values.extend_from_slice(value);
            head.queries.iter_mut().zip(queries).for_each(|(all, query)| all.extend_from_slice(query));
        }
        // Heads that decide together have all grown before one selects.
        state.heads.par_iter_mut().for_each(|head| head.state.grow(Rows { data: &head.keys, dim }));
        let metrics = &self.workload.metrics;
        let shape = RowShape { row_block: metrics.row_block, units: metrics.units };
        let budget = self.workload.budget;
        let outputs = out.par_chunks_exact_mut(group * dim).enumerate();
        state.heads.par_iter_mut().zip(outputs).for_each(|(head, (at, out))| {
            head.step(&layer_queries[at * group..][..group], &layer_queries, budget, shape, out);
        });
        Ok(())
    }

    /// Decode steps that all layers have.
    pub fn steps(&self) -> usize {
        let steps = |layer: &LiveLayer| layer.heads.first().map_or(0, |head| head.accuracies.len());
        self.layers.iter().map(steps).min().unwrap_or(0)
    }

    /// What was decoded, up to the last step that all layers have; `provenance` says of what.
    ///
    /// # Errors
    /// [`Error::Usage`] before the first step, and where layers have prefills of different lengths.
    pub fn cache(&self, provenance: &str) -> Result<KvCache> {
        let steps = self.steps();
        let first = &self.layers[0];
        if steps == 0 {
            return Err(Error::Usage("no token has been decoded yet".into()));
        }
        if self.layers.iter().any(|layer| (layer.prefill, layer.early) != (first.prefill, first.early)) {
            return Err(Error::Usage("the layers have prefills of different lengths".into()));
        }
        let LiveShape { layers, kv_heads, query_heads, dim, element_bytes } = &self.shape;
        let (tokens, queries) = (first.prefill + steps, first.early + steps);
        let heads = || self.layers.iter().flat_map(|layer| &layer.heads);
        let tensor = |name: &str, heads: usize, rows: usize, data: Vec<f32>| Tensor {
            name: name.into(),
            shape: vec![layers.len(), heads, rows, *dim],
            data: data.into(),
            element_bytes: *element_bytes,
        };
        let q = heads().flat_map(|head| &head.queries).flat_map(|q| &q[..queries * dim]).copied().collect();
        KvCache::checked(
            "decoded",
            KvParts {
                k: tensor("k", *kv_heads, tokens, heads().flat_map(|h| &h.keys[..tokens * dim]).copied().collect()),
                v: tensor("v", *kv_heads, tokens, heads().flat_map(|h| &h.values[..tokens * dim]).copied().collect()),
                q: tensor("q", *query_heads, queries, q),
                layers: Some(layers.iter().map(|layer| i64::from(*layer)).collect()),
                prefill: first.prefill as i64,
                query_start: Some((first.prefill - first.early) as i64),
                positions: None,
                rope_scaling: None,
                provenance: provenance.into(),
            },
        )
    }

    /// What each query head kept of its attention at each step, up to the last that all layers have; `cached` holds what
    /// [`LiveDecode::cache`] gives.
    ///
    /// # Errors
    /// Where the workload cannot be written as text.
    pub fn metrics(&self, cached: &CacheSet) -> Result<Vec<MetricsRow>> {
        let label = Arc::new(generate::label(&self.workload, &self.doc, &self.chosen()?, cached)?);
        let group = self.shape.query_heads / self.shape.kv_heads;
        let mut rows = Vec::new();
        for step in 0..self.steps() {
            for (layer, number) in self.layers.iter().zip(&self.shape.layers) {
                for (kv_head, head) in layer.heads.iter().enumerate() {
                    rows.extend(head.accuracies[step].iter().enumerate().map(|(g, accuracy)| MetricsRow {
                        label: Arc::clone(&label),
                        step,
                        position: layer.prefill + step,
                        request: 0,
                        layer: *number,
                        kv_head,
                        query_head: kv_head * group + g,
                        dense: *number < self.workload.dense_layers,
                        accuracy: *accuracy,
                    }));
                }
            }
        }
        Ok(rows)
    }

    /// What each KV head of each layer selected.
    ///
    /// # Errors
    /// [`Error::Usage`] before the first step, and within one, where some layers have it and others do not.
    pub fn selection(&self) -> Result<Selection> {
        let cache = self.cache("decoded")?;
        let heads: Vec<&HeadRecording> =
            self.layers.iter().flat_map(|layer| &layer.heads).map(|head| &head.recording).collect();
        if heads.iter().any(|head| head.steps() != self.steps()) {
            return Err(Error::Usage("the model was stopped within a step: some layers have it, others do not".into()));
        }
        let facts = self.chosen()?.facts(self.workload.budget);
        Ok(Selection::of_recordings(&cache, self.workload.dense_layers, facts, &heads))
    }

    /// The policy, as a generator has it.
    fn chosen(&self) -> Result<Chosen> {
        Ok(Chosen::Policy(generate::policy(&self.workload, &self.doc)?))
    }

    /// The workload whose policy selects.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    fn index(&self, layer: u32) -> Result<usize> {
        let layers = &self.shape.layers;
        let found = layers.iter().position(|number| *number == layer);
        found.ok_or_else(|| Error::Usage(format!("no layer {layer} is decoded; there are {layers:?}")))
    }
}

fn finite(layer: u32, arrays: [&[f32]; 3]) -> Result<()> {
    match arrays.iter().all(|array| array.iter().all(|x| x.is_finite())) {
        true => Ok(()),
        false => Err(Error::Usage(format!("layer {layer}: keys, values and queries must be finite"))),
    }
}

impl LiveHead {
    /// Selects at a step, whose key and value are there, and attends.
    fn step(&mut self, queries: &[&[f32]], layer_queries: &[&[f32]], budget: usize, shape: RowShape, out: &mut [f32]) {
        let dim = queries[0].len();
        let keys = Rows { data: &self.keys, dim };
        let values = Rows { data: &self.values, dim };
        accuracy::exact_scores(keys, keys.len(), queries, &mut self.scores);
        let view = StepView { keys, budget, queries, layer_queries, scores: &self.scores };
        self.state.select(view, &mut self.tokens);
        self.scratch.attend_all(&self.scores, (dim as f32).sqrt().recip(), values);
        let (order, shares, rescored) = (self.state.order(), self.state.blend(), self.state.rescored());
        let mut measured = Vec::new();
        for (g, out) in out.chunks_exact_mut(dim).enumerate() {
            let share = shares.get(g).copied().unwrap_or(1.0);
            let of = OutputOf { share, scores: rescored.get(g).map(Vec::as_slice) };
            let mut attention = self.scratch.attention(g, &self.scores[g], values);
            measured.push(attention.measure_output(&self.tokens[g], of, budget, order, shape));
            out.iter_mut().zip(attention.selected_output()).for_each(|(out, x)| *out = *x as f32);
        }
        self.accuracies.push(measured);
        self.recording.push(self.state.as_ref(), &self.tokens, keys.len());
    }
}
