//! What later runs on the same cache need of attention over all tokens, so that it is computed once.

use super::{AttentionWeights, Scratch, exact_scores};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Attention over all tokens of the query heads that share keys and values, at one step: what a selection is judged against, but for the
/// scores and weights of the tokens, which are computed again of those that are selected. Whoever needs it first computes it.
#[derive(Debug, Default)]
pub struct KeptAttention {
    /// By query head.
    queries: OnceLock<Vec<KeptQuery>>,
    /// By budget, the rank that the best tokens of each query head reach.
    thresholds: Mutex<Vec<(usize, Vec<u64>)>>,
    /// Sum of all values `[dim]`.
    value_sum: OnceLock<Vec<f64>>,
}

/// Attention of a query head over all tokens.
#[derive(Debug)]
struct KeptQuery {
    /// Highest score.
    highest: f32,
    /// Sum of the weights.
    mass: f64,
    /// Values times weights, summed over the tokens `[dim]`.
    sums: Vec<f64>,
}

impl KeptAttention {
    /// Bytes that one takes, roughly: of so many query heads with vectors of `dim` elements.
    pub fn bytes(queries: usize, dim: usize) -> u64 {
        (size_of::<KeptAttention>() + (queries + 1) * (dim * size_of::<f64>() + size_of::<KeptQuery>())) as u64
    }

    fn thresholds(&self, budget: usize) -> Option<Vec<u64>> {
        let known = self.thresholds.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(of, _)| *of == budget).map(|(_, thresholds)| thresholds.clone())
    }
}

impl Scratch {
    /// As [`exact_scores`] and [`Self::attend_all`], of what is kept where it is: [`Self::attention`] then judges `selected`, which each query
    /// head has at this budget, and nothing else. `keys` are those of the tokens to attend to; `scores` hold those that are needed.
    #[allow(clippy::too_many_arguments)]
    pub fn attend_kept(
        &mut self,
        kept: &KeptAttention,
        keys: Rows<'_>,
        queries: &[&[f32]],
        scale: f32,
        values: Rows<'_>,
        selected: &[Vec<u32>],
        budget: usize,
        scores: &mut [Vec<f32>],
    ) {
        let (len, mut computed) = (keys.len(), false);
        let known = kept.queries.get_or_init(|| {
            computed = true;
            exact_scores(keys, len, queries, scores);
            self.attend_all(scores, scale, values);
            let of = |(truth, scores): (&AttentionWeights, &Vec<f32>)| KeptQuery {
                highest: scores.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                mass: truth.mass,
                sums: truth.sums.clone(),
            };
            self.truths.iter().zip(&*scores).map(of).collect()
        });
        if computed {
            return;
        }
        self.begin(queries.len(), len, scale, values.dim);
        let thresholds = kept.thresholds(budget);
        // The scores of most tokens are computed faster together, and a threshold is one of all.
        let all = thresholds.is_none() || selected.iter().any(|tokens| tokens.len() > len / 2);
        match all {
            true => exact_scores(keys, len, queries, scores),
            false => scores.iter_mut().for_each(|scores| scores.resize(len, 0.0)),
        }
        for (h, (truth, known)) in self.truths.iter_mut().zip(known).enumerate() {
            if all {
                linalg::exp_below(&scores[h], known.highest, scale, &mut truth.weights);
            } else {
                let (picked, own) = (&mut self.picked, &mut self.own);
                picked.clear();
                picked.extend(selected[h].iter().map(|token| linalg::dot(queries[h], keys.row(*token as usize))));
                own.resize(picked.len(), 0.0);
                linalg::exp_below(picked, known.highest, scale, own);
                for (token, (score, weight)) in selected[h].iter().zip(picked.iter().zip(&*own)) {
                    scores[h][*token as usize] = *score;
                    truth.weights[*token as usize] = *weight;
                }
            }
            truth.mass = known.mass;
            truth.sums.clone_from(&known.sums);
            truth.divide();
            truth.threshold = thresholds.as_ref().map(|thresholds| (budget, thresholds[h]));
        }
        if let Some(sum) = kept.value_sum.get() {
            self.value_sum.clone_from(sum);
            self.summed = true;
        }
    }

    /// Keeps what was found while selections were judged after [`Self::attend_kept`].
    pub fn keep(&self, kept: &KeptAttention) {
        let found: Option<Vec<(usize, u64)>> = self.truths.iter().map(|truth| truth.threshold).collect();
        if let Some((budget, _)) = found.as_ref().and_then(|found| found.first()).copied() {
            let mut known = kept.thresholds.lock().unwrap_or_else(PoisonError::into_inner);
            if !known.iter().any(|(of, _)| *of == budget) {
                known.push((budget, found.into_iter().flatten().map(|(_, threshold)| threshold).collect()));
            }
        }
        if self.summed {
            // Whoever came first found the same.
            let _ = kept.value_sum.set(self.value_sum.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Accuracy, OutputOf, RowShape};
    use super::*;
    use pimattn_kv::selection::SlotOrder;

    const DIM: usize = 5;
    const LEN: usize = 203;

    fn noise(seed: u32, n: usize) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 22) as f32 - 2.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Whoever comes first, and however much is known: what a selection keeps has the same bits as if nothing were kept.
    #[test]
    fn what_is_kept_changes_no_bit() {
        let (keys, values) = (noise(1, LEN * DIM), noise(2, (LEN + 9) * DIM));
        let (keys, values) = (Rows { data: &keys, dim: DIM }, Rows { data: &values, dim: DIM });
        let queries = [noise(3, DIM), noise(4, DIM)];
        let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        let every = |n: u32| (0..LEN as u32).filter(|t| t % n == 0).rev().collect::<Vec<_>>();
        let all = (0..LEN as u32).collect::<Vec<_>>();
        let own = noise(5, LEN);
        let judge = |scratch: &mut Scratch, scores: &[Vec<f32>], selected: &[Vec<u32>], budget: usize, share: f32| {
            let of = |h: usize| {
                let rescored = (share < 0.5).then(|| &own[..selected[h].len()]);
                let mut attention = scratch.attention(h, &scores[h], values);
                let of = OutputOf { share, scores: rescored };
                let found =
                    attention.measure_output(&selected[h], of, budget, &SlotOrder::default(), RowShape::default());
                (found, attention.output().to_vec(), attention.selected_output().to_vec())
            };
            (0..2).map(of).collect::<Vec<(Accuracy, Vec<f64>, Vec<f64>)>>()
        };
        let kept = KeptAttention::default();
        // Few and known, of another budget, most, all, with the mean of all values, and with scores of one's own.
        let runs = [
            ([every(7), every(9)], 20, 1.0),
            ([every(11), every(13)], 20, 1.0),
            ([every(11), every(7)], 31, 1.0),
            ([every(5), every(1)], 20, 1.0),
            ([all.clone(), all], 31, 1.0),
            ([every(7), every(9)], 20, 0.75),
            ([every(8), every(9)], 31, 0.75),
            ([every(8), every(6)], 20, 0.25),
        ];
        // Memory of a longer step before, as a head has it.
        let mut reused = (Scratch::default(), vec![vec![7.0; LEN + 40]; 2]);
        reused.0.attend_all(&[vec![1.0; LEN + 5], vec![2.0; LEN + 5]], 0.1, values);
        for (selected, budget, share) in runs {
            let (mut scratch, mut scores) = (Scratch::default(), vec![Vec::new(); 2]);
            exact_scores(keys, LEN, &queries, &mut scores);
            scratch.attend_all(&scores, 0.5, values);
            let plain = judge(&mut scratch, &scores, &selected, budget, share);
            let (scratch, scores) = &mut reused;
            scratch.attend_kept(&kept, keys, &queries, 0.5, values, &selected, budget, scores);
            let found = judge(scratch, scores, &selected, budget, share);
            scratch.keep(&kept);
            assert_eq!(found, plain, "budget {budget}, share {share}");
        }
        assert_eq!(kept.thresholds(20).map(|t| t.len()), Some(2));
    }
}
