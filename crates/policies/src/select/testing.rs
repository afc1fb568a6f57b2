//! Random heads to try policies on, and plain versions of what they compute.

pub use super::plain::ranking;
use super::{HeadState, HeadView, Policy, StepView, plain};
use pimattn_kv::linalg;
use pimattn_kv::{Heads, Rows};
use proptest::prelude::*;
use serde::Serialize;

/// One KV head, a group of query heads, and decode steps.
///
/// Elements are small integers: sums are exact in any order, and equal scores are common.
#[derive(Debug, Clone)]
pub struct Case {
    /// Elements of a vector.
    pub dim: usize,
    /// Tokens before decoding.
    pub prefill: usize,
    /// Decode steps; the last one attends to all keys.
    pub steps: usize,
    /// Tokens per query head.
    pub budget: usize,
    /// `[prefill + steps, dim]`.
    pub keys: Vec<f32>,
    /// One query per query head; the same at each step.
    pub queries: Vec<Vec<f32>>,
    /// Queries of the last tokens of the prefill `[query head, query, dim]`.
    pub early: Vec<f32>,
}

impl Case {
    /// Queries of the prefill, per query head.
    pub fn early_queries(&self) -> usize {
        self.early.len() / (self.dim * self.queries.len())
    }

    /// All queries as a dump has them, but those of decode steps are NaN: to prepare from them shows.
    pub fn dumped_queries(&self) -> Vec<f32> {
        let early = self.early_queries() * self.dim;
        let of_head = |h| self.early[h * early..(h + 1) * early].iter().copied();
        let future = || std::iter::repeat_n(f32::NAN, self.steps * self.dim);
        (0..self.queries.len()).flat_map(|h| of_head(h).chain(future())).collect()
    }

    /// What policies prepare from; `queries` are [`Self::dumped_queries`].
    pub fn head<'a>(&'a self, queries: &'a [f32]) -> HeadView<'a> {
        HeadView {
            keys: Rows { data: &self.keys, dim: self.dim },
            prefill: self.prefill,
            queries: Heads { data: queries, dim: self.dim, heads: self.queries.len() },
            query_start: self.prefill - self.early_queries(),
            seed: 11,
            memo: None,
        }
    }
}

/// Cases with up to 300 tokens of prefill and 200 steps.
pub fn cases() -> impl Strategy<Value = Case> {
    (1usize..9, 0usize..300, 1usize..200, 1usize..300, 1usize..4, 0usize..40).prop_flat_map(
        |(dim, prefill, steps, budget, group, early)| {
            let elements = |n| proptest::collection::vec((-4i8..=4).prop_map(f32::from), n);
            let queries = proptest::collection::vec(elements(dim), group);
            let early = elements(dim * group * early.min(prefill));
            (elements(dim * (prefill + steps)), queries, early).prop_map(move |(keys, queries, early)| Case {
                dim,
                prefill,
                steps,
                budget,
                keys,
                queries,
                early,
            })
        },
    )
}

/// Runs a policy over all steps of a case and shows each step's selection to `check`.
pub fn run(
    policy: &dyn Policy,
    case: &Case,
    mut check: impl FnMut(StepView<'_>, &[Vec<u32>], &dyn HeadState) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let keys = Rows { data: &case.keys, dim: case.dim };
    let dumped = case.dumped_queries();
    let mut state = policy.prepare(case.head(&dumped));
    let queries: Vec<&[f32]> = case.queries.iter().map(Vec::as_slice).collect();
    let mut selected = vec![vec![99]; queries.len()];
    for len in case.prefill + 1..=case.prefill + case.steps {
        let scores: Vec<Vec<f32>> =
            queries.iter().map(|q| (0..len).map(|t| linalg::dot(q, keys.row(t))).collect()).collect();
        let keys = keys.range(0..len);
        state.grow(keys);
        let step = StepView { keys, budget: case.budget, queries: &queries, layer_queries: &queries, scores: &scores };
        state.select(step, &mut selected);
        check(step, &selected, state.as_ref())?;
    }
    Ok(())
}

/// Checks a policy with these parameters against its plain version.
pub fn compare(policy: &dyn Policy, case: &Case, parameters: &impl Serialize) -> Result<(), TestCaseError> {
    let queries = case.dumped_queries();
    let table = toml::Table::try_from(parameters).expect("parameters are a table");
    let mut plain = plain::of(policy.name(), &table, case.head(&queries)).unwrap().expect("a plain version");
    run(policy, case, |step, selected, _| {
        prop_assert_eq!(selected, &plain(step));
        Ok(())
    })
}
