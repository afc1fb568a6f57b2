//! `quest`: pages of consecutive tokens, ranked by an upper bound of their scores.

use super::topk::{TopK, rank};
use super::{Entry, HeadState, HeadView, Policy, Scan, SlotOrder, StepView, parse, require, select_all, size};
use pimattn_kv::Rows;
use pimattn_kv::linalg::{self, LANES, simd};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "quest",
    summary: "whole pages of consecutive tokens, by the largest score that their key ranges allow (Quest)",
    build: |table| {
        let quest: Quest = parse(table)?;
        require(quest.page > 0, "page", "must be at least 1")?;
        require(quest.min_pages > 0, "min_pages", "must be at least 1")?;
        Ok(Box::new(quest))
    },
};

/// Selects the `max(min_pages, budget / page)` best pages (Tang et al., ICML 2024). A page's score is
/// `sum_d max(q_d min_d, q_d max_d)` with the minima and maxima of its keys; of equal scores, the earlier page. The last
/// page, which has the token being decoded, is always taken, full or not, and counts as one page (so in the authors'
/// kernels; their code for accuracy ranks it as any other).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quest {
    /// Page size, in tokens (16 in the paper).
    pub page: usize,
    /// Fewest pages taken, whatever the budget (3 in the authors' code).
    pub min_pages: usize,
}

impl Default for Quest {
    fn default() -> Self {
        Self { page: 16, min_pages: 3 }
    }
}

impl Policy for Quest {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn min_budget(&self) -> usize {
        self.page * self.min_pages
    }

    /// Pages of one, two and four rows.
    fn sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        let pages = [1, 2, 4].map(|rows| rows * row_keys).into_iter().filter(|page| *page != self.page);
        pages.map(|page| size(&[("page", page)])).collect()
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        let mut state = QuestHead {
            quest: self.clone(),
            ranges: Vec::with_capacity(head.keys.len() / self.page * 2 * head.keys.dim),
            scores: Vec::new(),
            topk: TopK::default(),
            scan: Scan::Nothing,
            order: SlotOrder::default(),
        };
        state.grow(head.keys.range(0..head.prefill));
        Box::new(state)
    }
}

struct QuestHead {
    quest: Quest,
    /// Minima and maxima of every full page `[page, 2, dim]`.
    ranges: Vec<f32>,
    /// Of the full pages, per query head.
    scores: Vec<Vec<f32>>,
    topk: TopK,
    scan: Scan<'static>,
    order: SlotOrder,
}

impl HeadState for QuestHead {
    fn grow(&mut self, keys: Rows<'_>) {
        let (page, dim) = (self.quest.page, keys.dim);
        for done in self.ranges.len() / (2 * dim)..keys.len() / page {
            let at = self.ranges.len();
            let first = keys.row(done * page);
            self.ranges.extend_from_slice(first);
            self.ranges.extend_from_slice(first);
            let (min, max) = self.ranges[at..].split_at_mut(dim);
            for token in done * page + 1..(done + 1) * page {
                for ((min, max), x) in min.iter_mut().zip(&mut *max).zip(keys.row(token)) {
                    *min = min.min(*x);
                    *max = max.max(*x);
                }
            }
        }
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        let page = self.quest.page;
        let ranked = step.tokens().saturating_sub(1) / page;
        let last = ranked * page..step.tokens();
        let slots = (step.budget / page).max(self.quest.min_pages) - 1;
        if step.tokens() <= step.budget {
            self.scan = Scan::Nothing;
            out.iter_mut().for_each(|out| select_all(step.tokens(), out));
            return;
        }
        // With q+ and q- the positive and the negative part of q, a page's score is q+·max + q-·min.
        self.scan = Scan::vectors(2, ranked, step.keys.dim);
        self.scores.resize(step.queries.len(), Vec::new());
        self.scores.iter_mut().for_each(|scores| scores.resize(ranked, 0.0));
        let range = 2 * step.keys.dim;
        linalg::in_turns(step.queries.len(), &self.ranges[..ranked * range], range, |query, pages, ranges| {
            upper_bounds(step.queries[query], ranges, &mut self.scores[query][pages]);
        });
        for (scores, out) in self.scores.iter().zip(out) {
            let threshold = self.topk.threshold(scores, slots);
            out.clear();
            for (score, p) in scores.iter().zip(0..) {
                if rank(*score, p) >= threshold {
                    let first = p * page as u32;
                    out.extend(first..first + page as u32);
                }
            }
            out.extend(last.start as u32..last.end as u32);
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn scan(&self) -> Scan<'_> {
        self.scan
    }
}

simd! {
    /// `sum_d max(q_d min_d, q_d max_d)` of each page of `ranges` `[page, 2, dim]`, lane-ordered as [`linalg::dot`].
    fn upper_bounds(query: &[f32], ranges: &[f32], out: &mut [f32]) {
        let dim = query.len();
        let (chunks, tail) = query.as_chunks::<LANES>();
        for (range, out) in ranges.chunks_exact(2 * dim).zip(out) {
            let (min, max) = range.split_at(dim);
            let (min_chunks, min_tail) = min.as_chunks::<LANES>();
            let (max_chunks, max_tail) = max.as_chunks::<LANES>();
            let mut lanes = [0f32; LANES];
            for ((q, min), max) in chunks.iter().zip(min_chunks).zip(max_chunks) {
                for l in 0..LANES {
                    lanes[l] += larger(q[l] * min[l], q[l] * max[l]);
                }
            }
            for (l, ((q, min), max)) in tail.iter().zip(min_tail).zip(max_tail).enumerate() {
                lanes[l] += larger(q * min, q * max);
            }
            *out = linalg::fold(lanes);
        }
    }
}

/// Unlike [`f32::max`], one instruction: which of two NaN or zeros it gives does not matter here.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_vectors_of_every_full_page() {
        let case = testing::Case {
            dim: 2,
            prefill: 83,
            steps: 1,
            budget: 48,
            keys: vec![1.0; 2 * 84],
            queries: vec![vec![1.0, -1.0]; 3],
            early: Vec::new(),
        };
        testing::run(&Quest::default(), &case, |_, _, state| {
            prop_assert_eq!(state.scan(), Scan::Vectors { matrices: 2, vectors: 5, elements: 2 });
            Ok(())
        })
        .unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn agrees_with_the_plain_version(case in testing::cases(), page in 1usize..20, min_pages in 1usize..4) {
            let quest = Quest { page, min_pages };
            testing::compare(&quest, &case, &quest)?;
        }

        #[test]
        fn bounds_of_long_vectors_agree(
            dim in 1usize..80, data in proptest::collection::vec((-9i8..9).prop_map(f32::from), 80 * 3),
        ) {
            let (query, rest) = data.split_at(dim);
            let mut bound = [0.0];
            upper_bounds(query, &rest[..2 * dim], &mut bound);
            let expected: f32 = (0..dim).map(|d| (query[d] * rest[d]).max(query[d] * rest[dim + d])).sum();
            prop_assert_eq!(bound[0], expected);
        }
    }
}
