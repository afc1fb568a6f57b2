//! Random heads to try policies on, and plain versions of what they compute.

use super::{HeadState, HeadView, Policy, StepView};
use crate::kv::Rows;
use crate::linalg;
use proptest::prelude::*;

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
}

/// Cases with up to 300 tokens of prefill and 200 steps.
pub fn cases() -> impl Strategy<Value = Case> {
    (1usize..9, 0usize..300, 1usize..200, 1usize..300, 1usize..4).prop_flat_map(
        |(dim, prefill, steps, budget, group)| {
            let vector = || proptest::collection::vec((-4i8..=4).prop_map(f32::from), dim);
            let keys = proptest::collection::vec((-4i8..=4).prop_map(f32::from), dim * (prefill + steps));
            (keys, proptest::collection::vec(vector(), group)).prop_map(move |(keys, queries)| Case {
                dim,
                prefill,
                steps,
                budget,
                keys,
                queries,
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
    let mut state = policy.prepare(HeadView { keys, prefill: case.prefill, seed: 11 });
    let queries: Vec<&[f32]> = case.queries.iter().map(Vec::as_slice).collect();
    let mut selected = vec![vec![99]; queries.len()];
    for len in case.prefill + 1..=case.prefill + case.steps {
        let scores: Vec<Vec<f32>> =
            queries.iter().map(|q| (0..len).map(|t| linalg::dot(q, keys.row(t))).collect()).collect();
        state.grow(len);
        let step = StepView { len, budget: case.budget, queries: &queries, scores: &scores };
        state.select(step, &mut selected);
        check(step, &selected, state.as_ref())?;
    }
    Ok(())
}

/// Checks a policy against a plain version, which answers for one query head of one step.
pub fn compare(
    policy: &dyn Policy,
    case: &Case,
    plain: impl Fn(&Case, usize, &[f32]) -> Vec<u32>,
) -> Result<(), TestCaseError> {
    run(policy, case, |step, selected, _| {
        for (query, tokens) in step.queries.iter().zip(selected) {
            if step.len > step.budget {
                prop_assert_eq!(tokens, &plain(case, step.len, query));
            }
        }
        Ok(())
    })
}

/// Indices by descending score, ties by ascending index.
pub fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    indices.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).unwrap());
    indices
}
