//! `streaming`: attention sinks and a sliding window.

use super::{Entry, HeadState, HeadView, Policy, SlotOrder, StepView, parse, require, select_all};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use pimattn_kv::rope::{RotaryPairs, inverse_frequencies};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "streaming",
    summary: "the first tokens (attention sinks) and the most recent ones (StreamingLLM)",
    build: |table| {
        let streaming: Streaming = parse(table)?;
        let theta = streaming.rope_theta;
        require(theta > 1.0 && theta.is_finite(), "rope_theta", "must be a number above 1")?;
        Ok(Box::new(streaming))
    },
};

/// Selects the first `sinks` tokens and the most recent `budget - sinks` (Xiao et al., ICLR 2024).
///
/// The authors keep keys as they are before their rotation, and give them positions within the cache at each step: the
/// sinks move up behind the window. That changes no selection, only the scores of the sinks, and so the output:
/// `positions = "cache"`, which needs to know how the keys of the cache are rotated.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streaming {
    /// Attention sinks, in tokens (4 in the paper).
    pub sinks: usize,
    /// PositionEncoding of the tokens in the output.
    pub positions: PositionEncoding,
    /// Base of the rotations of keys and queries, for `positions = "cache"` (the model's; 100,000 of the bundled sample).
    pub rope_theta: f64,
    /// Which elements they rotate together, for `positions = "cache"` (those of the bundled sample: `interleaved`).
    pub rope_pairs: RotaryPairs,
}

/// PositionEncoding of selected tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionEncoding {
    /// Those that they have in the text, as their keys are rotated.
    Text,
    /// Those that they have among the selected (so in the authors' code).
    Cache,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            sinks: 4,
            positions: PositionEncoding::Text,
            rope_theta: 100_000.0,
            rope_pairs: RotaryPairs::Interleaved,
        }
    }
}

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    /// The sinks and the token being decoded.
    fn min_budget(&self) -> usize {
        self.sinks + 1
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        Box::new(StreamingHead {
            streaming: self.clone(),
            frequencies: inverse_frequencies(head.keys.dim, self.rope_theta),
            scores: Vec::new(),
            order: SlotOrder::default(),
        })
    }
}

struct StreamingHead {
    streaming: Streaming,
    /// Radians by which a pair is rotated from one token to the next.
    frequencies: Vec<f64>,
    /// Per query head, of the selected tokens; none where the positions are the true ones.
    scores: Vec<Vec<f32>>,
    order: SlotOrder,
}

impl StreamingHead {
    /// A query as many tokens earlier.
    fn earlier(&self, query: &[f32], tokens: usize) -> Vec<f32> {
        let mut rotated = query.to_vec();
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (a, b) = self.streaming.rope_pairs.elements(i, query.len());
            let (sin, cos) = (-(tokens as f64) * frequency).sin_cos();
            let (x, y) = (f64::from(query[a]), f64::from(query[b]));
            (rotated[a], rotated[b]) = ((x * cos - y * sin) as f32, (x * sin + y * cos) as f32);
        }
        rotated
    }
}

impl HeadState for StreamingHead {
    fn grow(&mut self, _: Rows<'_>) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.scores.clear();
        let sinks = self.streaming.sinks.min(step.budget);
        for (query, out) in step.queries.iter().zip(out) {
            if step.tokens() <= step.budget {
                select_all(step.tokens(), out);
                continue;
            }
            let recent = step.tokens() - (step.budget - sinks);
            out.clear();
            out.extend((0..sinks as u32).chain(recent as u32..step.tokens() as u32));
            if self.streaming.positions == PositionEncoding::Cache {
                // The sinks are nearer by the tokens that are left out; all others are as far away as they were.
                let near = self.earlier(query, step.tokens() - step.budget);
                let query = |token: &u32| if (*token as usize) < sinks { near.as_slice() } else { query };
                let score = |token: &u32| linalg::dot(query(token), step.keys.row(*token as usize));
                self.scores.push(out.iter().map(score).collect());
            }
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn rescored(&self) -> &[Vec<f32>] {
        &self.scores
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use pimattn_kv::rope::Rotary;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn takes_both_ends(case in testing::cases(), sinks in 0usize..6, cache in any::<bool>()) {
            let positions = if cache { PositionEncoding::Cache } else { PositionEncoding::Text };
            let streaming = Streaming { sinks, positions, ..Streaming::default() };
            testing::compare(&streaming, &case, &streaming)?;
        }

        /// As the authors: keys without a rotation, rotated to their places in the cache, and the query to the last one.
        #[test]
        fn positions_in_the_cache_are_those_of_keys_rotated_anew(
            half in 1usize..5, tokens in 3usize..90, budget in 2usize..40, interleaved in any::<bool>(),
            data in proptest::collection::vec(-3f32..3.0, 10 * 91),
        ) {
            let (dim, budget) = (2 * half, budget.min(tokens - 1));
            let rope_pairs = if interleaved { RotaryPairs::Interleaved } else { RotaryPairs::Halves };
            let streaming = Streaming {
                sinks: 1, positions: PositionEncoding::Cache, rope_theta: 1000.0, rope_pairs,
            };
            let rotary = Rotary::new(dim, 1000.0, rope_pairs, tokens);
            let at = |row: usize, position: usize| {
                let mut x = data[row * dim..][..dim].to_vec();
                rotary.rotate(&mut x, position);
                x
            };
            let keys: Vec<f32> = (0..tokens).flat_map(|t| at(t, t)).collect();
            let query = at(tokens, tokens - 1);
            let case = testing::Case {
                dim, prefill: tokens - 1, steps: 1, budget, keys, queries: vec![query], early: Vec::new(),
            };
            testing::run(&streaming, &case, |_, selected, state| {
                let scores = &state.rescored()[0];
                prop_assert_eq!(scores.len(), budget);
                for (place, (token, score)) in selected[0].iter().zip(scores).enumerate() {
                    let expected = linalg::dot(&at(tokens, budget - 1), &at(*token as usize, place));
                    prop_assert!((expected - score).abs() < 1e-2, "{place}: {expected} {score}");
                }
                Ok(())
            })?;
        }
    }
}
