//! One KV head at work.

use super::Generator;
use super::metrics::HeadMetrics;
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result};
use pimattn_kv::KvCache;
use pimattn_mapping::schedule::{HeadPlanner, StepDemand};
use pimattn_mapping::stage::HeadPlan;
use pimattn_mapping::workload::{Addressing, OverheadCost, Workload};
use pimattn_policies::accuracy::{self, OutputOf, RowShape};
use pimattn_policies::select::{HeadState, HeadView, Policy, StepView};
use pimattn_trace::Segment;

/// The policy's state, the plans and the measurements of one head.
pub struct HeadWork<'g> {
    generator: &'g Generator,
    layer: usize,
    request: usize,
    kv_head: usize,
    channel: u32,
    state: Box<dyn HeadState + Send + 'g>,
    scheduler: HeadPlanner,
    scores: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    scratch: accuracy::Scratch,
    /// Of the chunk: one for each step.
    measured: Vec<HeadMetrics>,
    /// Of the chunk: row-blocks that each query head touches by the metrics' account; only `ideal` uses them.
    row_blocks: Vec<Vec<usize>>,
}

impl<'g> HeadWork<'g> {
    /// The heads of a layer (an index into the cache's) and a request, their prefill taken in.
    pub fn of_layer(generator: &'g Generator, layer: usize, request: usize) -> Vec<Self> {
        let g = generator;
        let cache = &g.caches[g.requests[request]];
        let view = |kv_head| {
            let index = g.index(layer, request, kv_head);
            // A large odd factor keeps the seeds of neighbouring heads apart.
            let seed = g.workload.seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            HeadView {
                keys: cache.keys(layer, kv_head),
                prefill: cache.prefill,
                queries: cache.group_queries(layer, kv_head),
                query_start: cache.query_start,
                seed,
            }
        };
        let views: Vec<HeadView<'g>> = (0..cache.kv_heads).map(view).collect();
        let states = g.policy_of(cache.layers[layer]).prepare_layer(&views);
        (0..).zip(states).map(|(kv_head, state)| HeadWork::new(g, layer, request, kv_head, state)).collect()
    }

    fn new(
        generator: &'g Generator,
        layer: usize,
        request: usize,
        kv_head: usize,
        state: Box<dyn HeadState + Send + 'g>,
    ) -> Self {
        let g = generator;
        let (group, home) = (g.caches[g.requests[request]].group(), g.homes[g.index(layer, request, kv_head)]);
        let mut scheduler = HeadPlanner::new(g.target, &g.workload, g.costs, home, group);
        if g.workload.prefill_clustering_cost == OverheadCost::Pim {
            scheduler.owe(state.clusterings());
        }
        HeadWork {
            generator,
            layer,
            request,
            kv_head,
            channel: home.channel,
            state,
            scheduler,
            scores: vec![Vec::new(); group],
            tokens: vec![Vec::new(); group],
            scratch: accuracy::Scratch::default(),
            measured: Vec::new(),
            row_blocks: Vec::new(),
        }
    }

    /// Forgets the results of the chunk before.
    pub fn begin_chunk(&mut self) {
        self.measured.clear();
        self.row_blocks.clear();
    }

    /// Works through one step and returns its plans, one for each of the head's channels; none for `ideal`, where rows
    /// are only counted.
    pub fn step(&mut self, step: usize, measure: bool) -> Result<Vec<HeadPlan>> {
        let g = self.generator;
        let cache = self.cache();
        let position = cache.decode_positions().start + step;
        let (len, group) = (position + 1, cache.group());
        let keys = cache.keys(self.layer, self.kv_head);
        let queries: Vec<&[f32]> = (0..group)
            .map(|h| cache.queries(self.layer, self.kv_head * group + h).row(position - cache.query_start))
            .collect();
        if measure {
            accuracy::exact_scores(keys, len, &queries, &mut self.scores);
        }
        let budget = g.workload.budget;
        let scores = if measure { &self.scores[..] } else { &[] };
        self.state.grow(len);
        self.state.select(StepView { len, budget, queries: &queries, scores }, &mut self.tokens);

        let order = self.state.order();
        let shape = RowShape { row_block: g.workload.metrics.row_block, units: g.workload.metrics.units };
        if measure {
            let scale = 1.0 / (cache.dim as f32).sqrt();
            let values = cache.values(self.layer, self.kv_head);
            let (shares, rescored) = (self.state.blend(), self.state.rescored());
            self.scratch.attend_all(&self.scores, scale, values);
            let accuracies = (0..group)
                .map(|h| {
                    let share = shares.get(h).copied().unwrap_or(1.0);
                    let of = OutputOf { share, scores: rescored.get(h).map(Vec::as_slice) };
                    let mut attention = self.scratch.attention(h, &self.scores[h], values);
                    attention.measure_output(&self.tokens[h], of, budget, order, shape)
                })
                .collect();
            self.measured.push(HeadMetrics { step, accuracies });
        }
        if g.workload.mapping.addressing == Addressing::Ideal {
            let blocks = self.tokens.iter().map(|t| self.scratch.row_blocks(t, len, order, shape)).collect();
            self.row_blocks.push(blocks);
            return Ok(Vec::new());
        }
        let segment = Segment {
            step: step as u32,
            position: position as u32,
            layer: cache.layers[self.layer],
            kv_head: self.kv_head as u32,
            request: self.request as u32,
            ..Segment::default()
        };
        let wanted = StepDemand {
            tokens: &self.tokens,
            order,
            len: len as u32,
            scan: self.state.scan(),
            clusterings: self.state.clusterings(),
        };
        self.scheduler.step(&wanted, segment).map_err(|e| {
            let what = format!("layer {}, KV head {}, position {position}: {e}", segment.layer, self.kv_head);
            Error::Config { at: g.workload.name.clone(), what }
        })
    }

    /// Index of its layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Its request.
    pub fn request(&self) -> usize {
        self.request
    }

    /// Its number within the layer.
    pub fn kv_head(&self) -> usize {
        self.kv_head
    }

    /// The first of its channels.
    pub fn channel(&self) -> u32 {
        self.channel
    }

    /// Whether its layer stays full.
    pub fn is_dense(&self) -> bool {
        self.cache().layers[self.layer] < self.workload().dense_layers
    }

    /// Its cache.
    pub fn cache(&self) -> &'g KvCache {
        &self.generator.caches[self.generator.requests[self.request]]
    }

    /// The workload.
    pub fn workload(&self) -> &'g Workload {
        &self.generator.workload
    }

    /// The device.
    pub fn geometry(&self) -> &'g Geometry {
        &self.generator.target.geometry
    }

    /// Metrics of the chunk.
    pub fn measured(&self) -> &[HeadMetrics] {
        &self.measured
    }

    /// Row-blocks that each query head touches at the `i`-th step of the chunk.
    pub fn row_blocks(&self, i: usize) -> &[usize] {
        &self.row_blocks[i]
    }
}

impl Generator {
    /// Number of a KV head among those of all layers and requests.
    fn index(&self, layer: usize, request: usize, kv_head: usize) -> usize {
        (layer * self.requests.len() + request) * self.cache().kv_heads + kv_head
    }

    /// The policy of a layer of the model.
    fn policy_of(&self, layer: u32) -> &dyn Policy {
        if layer < self.workload.dense_layers { self.full.as_ref() } else { self.policy.as_ref() }
    }
}
