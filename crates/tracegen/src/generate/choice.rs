//! What one KV head selects, step by step, and what that keeps of the attention.

use super::Generator;
use super::chosen::Chosen;
use super::metrics::HeadPlace;
use super::selections::{KeptRecording, SelectedHead};
use pimattn_core::error::Result;
use pimattn_kv::{CachedRows, GroupQueries, KvCache, LayerQueries, Rows};
use pimattn_mapping::schedule::StepDemand;
use pimattn_policies::accuracy::{self, Accuracy, KeptAttention, OutputOf, RowShape};
use pimattn_policies::select::recorded::{HeadRecording, ReplayedHead};
use pimattn_policies::select::spooled::SpooledHead;
use pimattn_policies::select::{HeadState, HeadView, Preparation, StepView, head_seed};
use rayon::prelude::*;
use std::ops::Range;

/// Who answers for a KV head.
enum Answers<'g> {
    /// The policy.
    Policy(Box<dyn HeadState + Send>),
    /// What was answered before.
    Replayed(ReplayedHead<'g>),
    /// What was answered before, in a file.
    Spooled(SpooledHead<'g>),
}

impl Answers<'_> {
    fn state(&self) -> &dyn HeadState {
        match self {
            Answers::Policy(state) => state.as_ref(),
            Answers::Replayed(head) => head,
            Answers::Spooled(head) => head.state(),
        }
    }
}

/// What selecting and measuring read of a cache.
struct HeadData<'g> {
    keys: CachedRows<'g>,
    /// Where it is measured.
    values: Option<CachedRows<'g>>,
    queries: LayerQueries<'g>,
}

/// The policy's state of a KV head, and its last answers.
pub struct HeadChoice<'g> {
    cache: &'g KvCache,
    /// Index of its layer into the cache's.
    layer: usize,
    kv_head: usize,
    budget: usize,
    shape: RowShape,
    answers: Answers<'g>,
    /// What the answers need; a replay needs nothing, unless it is to be measured.
    data: Option<HeadData<'g>>,
    /// By step, what was measured when the answers were given before.
    kept: Option<&'g [Vec<Accuracy>]>,
    /// By step, what is kept of attention over all tokens, where it is.
    attention: Option<&'g [KeptAttention]>,
    scores: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    scratch: accuracy::Scratch,
    /// Tokens of the last step.
    len: usize,
}

impl<'g> HeadChoice<'g> {
    /// A head that answers as it did when `selected` was made of it.
    pub fn replayed(generator: &'g Generator, at: HeadPlace, selected: &'g SelectedHead) -> Self {
        let answers = match &selected.recording {
            KeptRecording::InMemory(recording) => Answers::Replayed(recording.replay()),
            KeptRecording::Spooled(recording) => Answers::Spooled(recording.replay()),
        };
        HeadChoice { kept: Some(&selected.accuracies), ..HeadChoice::new(generator, at, answers, None) }
    }

    /// Some KV heads of a layer (an index into the cache's) and a request, their prefill taken in; all of the layer where they decide
    /// together. With `measure`, what they keep of the attention can be measured.
    ///
    /// # Errors
    /// Those of reading the cache.
    pub fn of_heads(
        generator: &'g Generator,
        layer: usize,
        request: usize,
        heads: Range<usize>,
        measure: bool,
    ) -> Result<Vec<Self>> {
        let g = generator;
        let cache = g.cached.of(request);
        let place = |kv_head| HeadPlace { layer, request, kv_head };
        let data = |kv_head| -> Result<HeadData<'g>> {
            Ok(HeadData {
                keys: cache.read_keys(layer, kv_head)?,
                values: if measure { Some(cache.read_values(layer, kv_head)?) } else { None },
                queries: cache.read_layer_queries(layer, g.steps())?,
            })
        };
        let policy = match &g.chosen {
            _ if g.is_dense(cache.layers[layer]) => &g.full,
            Chosen::Policy(policy) => policy,
            Chosen::Imported(imported) => {
                let replayed = |kv_head: usize| {
                    let answers = Answers::Replayed(imported.heads[layer * cache.kv_heads + kv_head].replay());
                    let data = if measure { Some(data(kv_head)?) } else { None };
                    Ok(HeadChoice::new(g, place(kv_head), answers, data))
                };
                return heads.map(replayed).collect();
            }
        };
        let read: Vec<HeadData<'g>> = heads.clone().into_par_iter().map(data).collect::<Result<_>>()?;
        let from_queries = policy.prepares_from() == Preparation::Queries;
        let queries = heads.clone().into_par_iter().map(|h| cache.read_group_queries(layer, h, from_queries));
        let queries: Vec<GroupQueries<'g>> = queries.collect::<Result<_>>()?;
        let view = |(i, kv_head): (usize, usize)| HeadView {
            keys: read[i].keys.rows(),
            prefill: cache.prefill,
            queries: queries[i].heads(),
            query_start: queries[i].start,
            seed: head_seed(g.workload.seed, g.index(layer, request, kv_head)),
            memo: g.cached.memo(request, layer, kv_head),
        };
        let views: Vec<HeadView<'_>> = heads.clone().enumerate().map(view).collect();
        let states = policy.prepare_layer(&views);
        let heads = heads.zip(states).zip(read);
        Ok(heads.map(|((h, state), data)| HeadChoice::new(g, place(h), Answers::Policy(state), Some(data))).collect())
    }

    fn new(generator: &'g Generator, at: HeadPlace, answers: Answers<'g>, data: Option<HeadData<'g>>) -> Self {
        let g = generator;
        let cache = g.cached.of(at.request);
        HeadChoice {
            cache,
            layer: at.layer,
            kv_head: at.kv_head,
            budget: g.workload.budget,
            shape: RowShape { row_block: g.workload.metrics.row_block, units: g.workload.metrics.units },
            answers,
            data,
            kept: None,
            attention: g.cached.kept_attention(at.request, at.layer, at.kv_head),
            scores: vec![Vec::new(); cache.group()],
            tokens: vec![Vec::new(); cache.group()],
            scratch: accuracy::Scratch::default(),
            len: 0,
        }
    }

    /// Selects at a step; with `measure`, what each query head keeps of the attention.
    ///
    /// # Errors
    /// Those of reading what was selected before.
    pub fn step(&mut self, step: usize, measure: bool) -> Result<Option<Vec<Accuracy>>> {
        self.len = self.position(step) + 1;
        let kept = self.kept.map(|accuracies| accuracies.get(step));
        let data = self.data.take();
        let measured = match &data {
            Some(data) => self.select(data, step, measure && kept.is_none())?,
            None => {
                self.replay()?;
                None
            }
        };
        self.data = data;
        Ok(match kept {
            Some(accuracies) => accuracies.filter(|_| measure).cloned(),
            None => measured,
        })
    }

    /// Answers as before, where it was.
    fn replay(&mut self) -> Result<()> {
        match &mut self.answers {
            Answers::Policy(_) => Ok(()),
            Answers::Replayed(head) => {
                head.next(self.len, &mut self.tokens);
                Ok(())
            }
            Answers::Spooled(head) => head.next(self.len, &mut self.tokens),
        }
    }

    /// Selects at a step, of what is there to be read.
    fn select(&mut self, data: &HeadData<'_>, step: usize, measure: bool) -> Result<Option<Vec<Accuracy>>> {
        let group = self.cache.group();
        let keys = data.keys.rows().range(0..self.len);
        let layer_queries = data.queries.at(step);
        let queries = &layer_queries[self.kv_head * group..][..group];
        let scored = measure && self.attention.is_none();
        if scored {
            accuracy::exact_scores(keys, self.len, queries, &mut self.scores);
        }
        match &mut self.answers {
            Answers::Policy(state) => {
                let scores = if scored { &self.scores[..] } else { &[] };
                state.grow(keys);
                let view = StepView { keys, budget: self.budget, queries, layer_queries: &layer_queries, scores };
                state.select(view, &mut self.tokens);
            }
            Answers::Replayed(_) | Answers::Spooled(_) => self.replay()?,
        }
        let values = data.values.as_ref().filter(|_| measure);
        Ok(values.map(|values| self.measure(step, keys, queries, values.rows())))
    }

    /// What each query head keeps of the attention at the last step, whose scores are there unless they are kept.
    fn measure(&mut self, step: usize, keys: Rows<'_>, queries: &[&[f32]], values: Rows<'_>) -> Vec<Accuracy> {
        let scale = 1.0 / (self.cache.dim as f32).sqrt();
        let state = self.answers.state();
        let (order, shares, rescored) = (state.order(), state.blend(), state.rescored());
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
        let (order, scratch) = (self.answers.state().order(), &mut self.scratch);
        self.tokens.iter().map(|t| scratch.row_blocks(t, self.len, order, self.shape)).collect()
    }

    /// What the last step asks of the memory.
    pub fn demand(&self) -> StepDemand<'_> {
        let state = self.state();
        StepDemand {
            tokens: &self.tokens,
            order: state.order(),
            len: self.len as u32,
            scan: state.scan(),
            clusterings: state.clusterings(),
        }
    }

    /// What the policy knows now.
    pub fn state(&self) -> &dyn HeadState {
        self.answers.state()
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
