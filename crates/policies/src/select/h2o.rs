//! `h2o`: recent tokens and heavy hitters; what is evicted is gone.

use super::topk::TopK;
use super::{Entry, HeadState, HeadView, Policy, Preparation, SlotOrder, StepView, parse, require};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "h2o",
    summary: "recent tokens and those of largest summed probability; evicts for good (H2O)",
    build: |table| {
        let h2o: H2o = parse(table)?;
        require((0.0..1.0).contains(&h2o.heavy), "heavy", "must be at least 0 and below 1, a share of the budget")?;
        Ok(Box::new(h2o))
    },
};

/// Keeps, per query head, the most recent tokens and, of the others, those with the largest sums of attention
/// probabilities so far, as many as the budget in all (Zhang et al., NeurIPS 2023). All others are evicted for good: no
/// later step selects them, not even if the budget were larger. Evicted tokens leave their places in memory empty.
///
/// The sums begin with the prefill: every prefill query that the source holds adds its (dense, causal) probabilities. A
/// dump may hold only the late ones; the sums then know only what these attended to. The budget comes with a step, so
/// that the eviction at the end of the prefill happens in the first one; what is kept is the same. A step evicts
/// before it attends, by the sums of the steps before, so that it attends to no more than the budget, its own token
/// included; then it adds the probabilities over what it kept. Every [`HeadState::select`] is a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct H2o {
    /// Share of the budget for heavy hitters, rounded down to tokens (0.5 in the paper); recent tokens have the rest.
    pub heavy: f64,
}

impl Default for H2o {
    fn default() -> Self {
        Self { heavy: 0.5 }
    }
}

impl H2o {
    /// Heavy hitters within a budget.
    pub(super) fn heavy_hitters(&self, budget: usize) -> usize {
        (budget as f64 * self.heavy) as usize
    }
}

impl Policy for H2o {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn remembers(&self) -> bool {
        true
    }

    fn prepares_from(&self) -> Preparation {
        Preparation::Queries
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        let sums = || -> Vec<Vec<f32>> {
            let of = |h| H2oCache::prefilled(&head, h, None).sums;
            (0..head.queries.heads).map(of).collect()
        };
        let known = head.memo.map(|memo| memo.prefill_sums.get_or_init(sums));
        let prefilled = |h: usize| H2oCache::prefilled(&head, h, known.map(|sums| &sums[h][..]));
        Box::new(H2oHead {
            h2o: self.clone(),
            caches: (0..head.queries.heads).map(prefilled).collect(),
            seen: head.prefill,
            len: head.prefill,
            order: SlotOrder::default(),
        })
    }
}

struct H2oHead {
    h2o: H2o,
    /// One per query head.
    caches: Vec<H2oCache>,
    /// Tokens that have come into the caches.
    seen: usize,
    /// Tokens that there are.
    len: usize,
    order: SlotOrder,
}

impl HeadState for H2oHead {
    fn grow(&mut self, keys: Rows<'_>) {
        self.len = keys.len();
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        let heavy = self.h2o.heavy_hitters(step.budget);
        for ((cache, query), out) in self.caches.iter_mut().zip(step.queries).zip(out) {
            cache.append(self.seen as u32..self.len as u32);
            cache.evict(heavy, step.budget - heavy);
            cache.attend(query, step.keys);
            out.clone_from(&cache.tokens);
        }
        self.seen = self.len;
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }
}

/// Queries of the prefill that attend at a time.
const BLOCK: usize = 16;

/// What one query head still has.
#[derive(Default)]
struct H2oCache {
    /// Ascending.
    tokens: Vec<u32>,
    /// Summed probabilities of each.
    sums: Vec<f32>,
    scores: Vec<f32>,
    probabilities: Vec<f32>,
    kept: Vec<u32>,
    topk: TopK,
}

impl H2oCache {
    /// Of a query head after the prefill, whose sums may be known.
    fn prefilled(head: &HeadView<'_>, query_head: usize, sums: Option<&[f32]>) -> Self {
        let mut cache = H2oCache::default();
        cache.append(0..head.prefill as u32);
        match sums {
            Some(sums) => cache.sums.copy_from_slice(sums),
            None => cache.attend_prefill(head.prefill_queries(query_head), head.keys, head.query_start),
        }
        cache
    }

    fn append(&mut self, tokens: std::ops::Range<u32>) {
        self.tokens.extend(tokens);
        self.sums.resize(self.tokens.len(), 0.0);
    }

    /// Keeps the most recent tokens, and of the others those of largest sum; of equal ones, the earlier token.
    fn evict(&mut self, heavy: usize, recent: usize) {
        let count = self.tokens.len();
        if count <= heavy + recent {
            return;
        }
        self.kept.clear();
        self.topk.best(&self.sums[..count - recent], heavy, &mut self.kept);
        self.kept.extend((count - recent) as u32..count as u32);
        for (to, from) in self.kept.iter().enumerate() {
            self.tokens[to] = self.tokens[*from as usize];
            self.sums[to] = self.sums[*from as usize];
        }
        self.tokens.truncate(self.kept.len());
        self.sums.truncate(self.kept.len());
    }

    /// Adds the probabilities of a query over the tokens that are still there.
    fn attend(&mut self, query: &[f32], keys: Rows<'_>) {
        let there = self.tokens.partition_point(|t| (*t as usize) < keys.len());
        self.scores.resize(there, 0.0);
        self.probabilities.resize(there, 0.0);
        if there == keys.len() {
            linalg::dots(query, keys.data, &mut self.scores);
        } else {
            let scores = self.tokens[..there].iter().map(|t| linalg::dot(query, keys.row(*t as usize)));
            self.scores.iter_mut().zip(scores).for_each(|(to, score)| *to = score);
        }
        self.add(there, query.len());
    }

    /// As [`Self::attend`] of each query, the first of which is that of token `first`, while all tokens are there. Keys are
    /// read from memory once for a block of queries.
    fn attend_prefill(&mut self, queries: Rows<'_>, keys: Rows<'_>, first: usize) {
        let mut scores = vec![Vec::new(); BLOCK];
        for block in (0..queries.len()).step_by(BLOCK) {
            let rows: Vec<&[f32]> = (block..queries.len().min(block + BLOCK)).map(|i| queries.row(i)).collect();
            let most = first + block + rows.len();
            scores.iter_mut().for_each(|scores| scores.resize(most, 0.0));
            linalg::all_dots(&rows, keys.range(0..most).data, &mut scores);
            for (len, scores) in (first + block + 1..).zip(&scores[..rows.len()]) {
                self.scores.clear();
                self.scores.extend_from_slice(&scores[..len]);
                self.probabilities.resize(len, 0.0);
                self.add(len, queries.dim);
            }
        }
        self.scores = Vec::new();
    }

    /// Adds the probabilities of the scores of the first `count` tokens.
    fn add(&mut self, count: usize, dim: usize) {
        let (scores, probabilities) = (&self.scores[..count], &mut self.probabilities[..count]);
        let mass = linalg::exp_weights(scores, (dim as f32).sqrt().recip(), probabilities);
        self.sums.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += *p / mass);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Scan, plain, testing};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_the_plain_version(case in testing::cases(), heavy in 0f64..1.0) {
            let h2o = H2o { heavy };
            let queries = case.dumped_queries();
            let mut plain = plain::PlainH2o::new(&h2o, case.head(&queries));
            testing::run(&h2o, &case, |step, selected, state| {
                prop_assert_eq!(selected, &plain.step(step));
                prop_assert_eq!(state.scan(), Scan::Nothing);
                Ok(())
            })?;
        }

        #[test]
        fn what_is_evicted_never_comes_back(case in testing::cases()) {
            let mut before: Vec<Vec<u32>> = vec![(0..case.prefill as u32).collect(); case.queries.len()];
            testing::run(&H2o::default(), &case, |step, selected, _| {
                for (before, now) in before.iter().zip(selected) {
                    prop_assert_eq!(now.len(), step.tokens().min(step.budget));
                    prop_assert!(now.iter().all(|t| before.contains(t) || *t as usize == step.tokens() - 1));
                    prop_assert_eq!(*now.last().unwrap() as usize, step.tokens() - 1);
                }
                before = selected.to_vec();
                Ok(())
            })?;
        }
    }

    #[test]
    fn a_larger_budget_brings_nothing_back() {
        let keys: Vec<f32> = (0..20).map(|i| (i % 7) as f32).collect();
        let case = testing::Case {
            dim: 1,
            prefill: 16,
            steps: 4,
            budget: 8,
            keys,
            queries: vec![vec![1.0]],
            early: Vec::new(),
        };
        let dumped = case.dumped_queries();
        let mut state = H2o::default().prepare(case.head(&dumped));
        let mut out = vec![Vec::new()];
        for (len, budget, expected) in [(17, 8, 8), (18, 4, 4), (19, 100, 5), (20, 100, 6)] {
            let keys = Rows { data: &case.keys[..len], dim: 1 };
            state.grow(keys);
            state.select(StepView { keys, budget, queries: &[&[1.0]], layer_queries: &[], scores: &[] }, &mut out);
            assert_eq!(out[0].len(), expected);
        }
    }
}
