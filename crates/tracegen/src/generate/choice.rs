//! What one KV head selects, step by step, and what that keeps of the attention.

use super::Generator;
use super::chosen::Chosen;
use super::selections::SelectedHead;
use pimattn_kv::{KvCache, Rows};
use pimattn_mapping::schedule::StepDemand;
use pimattn_policies::accuracy::{self, Accuracy, KeptAttention, OutputOf, RowShape};
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::{HeadState, HeadView, StepView, head_seed};

/// The policy's state of a KV head, and its last answers.
pub struct HeadChoice<'g> {
    cache: &'g KvCache,
    /// Index of its layer into the cache's.
    layer: usize,
    kv_head: usize,
    budget: usize,
    shape: RowShape,
    state: Box<dyn HeadState + Send + 'g>,
    /// Where the answers were given before.
    kept: Option<&'g SelectedHead>,
    /// By step, what is kept of attention over all tokens, where it is.
    attention: Option<&'g [KeptAttention]>,
    scores: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    scratch: accuracy::Scratch,
    /// Tokens of the last step.
    len: usize,
}

impl<'g> HeadChoice<'g> {
    /// The heads of a layer (an index into the cache's) and a request, their prefill taken in.
    pub fn of_layer(generator: &'g Generator, layer: usize, request: usize) -> Vec<Self> {
        let g = generator;
        let cache = g.cached.of(request);
        let new = |kv_head: usize, state, kept| HeadChoice {
            cache,
            layer,
            kv_head,
            budget: g.workload.budget,
            shape: RowShape { row_block: g.workload.metrics.row_block, units: g.workload.metrics.units },
            state,
            kept,
            attention: g.cached.kept_attention(request, layer, kv_head),
            scores: vec![Vec::new(); cache.group()],
            tokens: vec![Vec::new(); cache.group()],
            scratch: accuracy::Scratch::default(),
            len: 0,
        };
        if let Some(selections) = &g.selections {
            let of = |kv_head| selections.head(g.index(layer, request, kv_head));
            return (0..cache.kv_heads).map(|h| new(h, of(h).recording.replay(), Some(of(h)))).collect();
        }
        let dense = g.is_dense(cache.layers[layer]);
        let policy = match &g.chosen {
            _ if dense => &g.full,
            Chosen::Policy(policy) => policy,
            Chosen::Imported(imported) => {
                let heads = imported.heads[layer * cache.kv_heads..][..cache.kv_heads].iter();
                return (0..).zip(heads).map(|(h, recording)| new(h, recording.replay(), None)).collect();
            }
        };
        let view = |kv_head| HeadView {
            keys: cache.keys(layer, kv_head),
            prefill: cache.prefill,
            queries: cache.group_queries(layer, kv_head),
            query_start: cache.query_start,
            seed: head_seed(g.workload.seed, g.index(layer, request, kv_head)),
            memo: g.cached.memo(request, layer, kv_head),
        };
        let views: Vec<HeadView<'g>> = (0..cache.kv_heads).map(view).collect();
        let states = policy.prepare_layer(&views);
        (0..).zip(states).map(|(kv_head, state)| new(kv_head, state, None)).collect()
    }

    /// Selects at a step; with `measure`, what each query head keeps of the attention.
    pub fn step(&mut self, step: usize, measure: bool) -> Option<Vec<Accuracy>> {
        let (cache, group) = (self.cache, self.cache.group());
        let position = self.position(step);
        self.len = position + 1;
        let keys = cache.keys(self.layer, self.kv_head).range(0..self.len);
        let layer_queries = cache.queries_at(self.layer, position);
        let queries = &layer_queries[self.kv_head * group..][..group];
        let kept = self.kept.map(|head| head.accuracies.get(step));
        let measured = measure && kept.is_none();
        let scored = measured && self.attention.is_none();
        if scored {
            accuracy::exact_scores(keys, self.len, queries, &mut self.scores);
        }
        let scores = if scored { &self.scores[..] } else { &[] };
        self.state.grow(keys);
        let view = StepView { keys, budget: self.budget, queries, layer_queries: &layer_queries, scores };
        self.state.select(view, &mut self.tokens);
        match kept {
            Some(accuracies) => accuracies.filter(|_| measure).cloned(),
            None => measured.then(|| self.measure(step, keys, queries)),
        }
    }

    /// What each query head keeps of the attention at the last step, whose scores are there unless they are kept.
    fn measure(&mut self, step: usize, keys: Rows<'_>, queries: &[&[f32]]) -> Vec<Accuracy> {
        let scale = 1.0 / (self.cache.dim as f32).sqrt();
        let values = self.cache.values(self.layer, self.kv_head);
        let (order, shares, rescored) = (self.state.order(), self.state.blend(), self.state.rescored());
        let attention = self.attention.map(|steps| &steps[step]);
        match attention {
            None => self.scratch.attend_all(&self.scores, scale, values),
            Some(kept) => {
                let (tokens, budget) = (&self.tokens, self.budget);
                self.scratch.attend_kept(kept, keys, queries, scale, values, tokens, budget, &mut self.scores);
            }
        }
        let accuracies = (0..self.tokens.len())
            .map(|h| {
                let share = shares.get(h).copied().unwrap_or(1.0);
                let of = OutputOf { share, scores: rescored.get(h).map(Vec::as_slice) };
                let mut attention = self.scratch.attention(h, &self.scores[h], values);
                attention.measure_output(&self.tokens[h], of, self.budget, order, self.shape)
            })
            .collect();
        if let Some(kept) = attention {
            self.scratch.keep(kept);
        }
        accuracies
    }

    /// Row-blocks that each query head touches at the last step, by the metrics' account.
    pub fn row_blocks(&mut self) -> Vec<usize> {
        let (order, scratch) = (self.state.order(), &mut self.scratch);
        self.tokens.iter().map(|t| scratch.row_blocks(t, self.len, order, self.shape)).collect()
    }

    /// What the last step asks of the memory.
    pub fn demand(&self) -> StepDemand<'_> {
        StepDemand {
            tokens: &self.tokens,
            order: self.state.order(),
            len: self.len as u32,
            scan: self.state.scan(),
            clusterings: self.state.clusterings(),
        }
    }

    /// What the policy knows now.
    pub fn state(&self) -> &dyn HeadState {
        self.state.as_ref()
    }

    /// Keeps the answers of the last step.
    pub fn record(&self, into: &mut HeadRecording) {
        into.push(self.state(), &self.tokens, self.len);
    }

    /// Token that a step decodes.
    pub fn position(&self, step: usize) -> usize {
        self.cache.decode_positions().start + step
    }

    /// Index of its layer into the cache's.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Its number within the layer.
    pub fn kv_head(&self) -> usize {
        self.kv_head
    }

    /// Its cache.
    pub fn cache(&self) -> &'g KvCache {
        self.cache
    }
}
