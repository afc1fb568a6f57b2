//! What a selection loses: attention over the selected tokens against attention over all of them.
//!
//! [`exact_scores`] gives the true scores of one step. [`Scratch::attend_all`] computes the true softmax and output of the
//! query heads that share keys and values; [`TrueAttention::measure`] then judges the selection of any number of policies against
//! them. [`KeptAttention`] is what of them a later run on the same cache needs.

mod kept;

pub use kept::KeptAttention;

use crate::select::topk::{TopK, rank};
use pimattn_kv::Rows;
use pimattn_kv::linalg::{self, LANES, simd};
use pimattn_kv::selection::SlotOrder;

/// How tokens lie in DRAM rows, as far as the metrics of one query head need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Slots whose key shares a row of a unit.
    pub row_block: usize,
    /// Units that hold different row blocks; block `b` is on unit `b % units`.
    pub units: usize,
}

impl Default for RowShape {
    /// AttAcc with dim 128 in FP16: 16 keys fill a row across the banks of a bank group; a channel's 16 bank groups
    /// (2 pseudo-channels, 2 ranks, 4 groups) are the units.
    fn default() -> Self {
        Self { row_block: 16, units: 16 }
    }
}

/// The metrics of one query head's selection at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// True softmax mass on the selected tokens, 0 to 1.
    pub mass_recall: f64,
    /// Share of the `budget` tokens with the highest scores (all tokens, if they are fewer) that are selected.
    pub top_recall: f64,
    /// `‖o_selected − o‖ / ‖o‖`, the softmax of `o_selected` being renormalised over the selected tokens (and the mean
    /// of all values added, where a policy blends it in). Of an output `o` that is 0 there is none, unless `o_selected`
    /// is 0, too: then it is 0.
    pub output_rel_err: Option<f64>,
    /// Tokens selected.
    pub selected: usize,
    /// Slots in the row blocks that hold a selected token: what is read to get the selected.
    pub row_tokens: usize,
    /// Touched row blocks of the fullest unit over their mean over all units; 0 when nothing is selected.
    pub unit_imbalance: f64,
}

/// True unscaled scores q·k of tokens `0..len` into `out`, one vector per query of the group that shares `keys`.
pub fn exact_scores(keys: Rows<'_>, len: usize, queries: &[&[f32]], out: &mut [Vec<f32>]) {
    out.iter_mut().for_each(|scores| scores.resize(len, 0.0));
    linalg::all_dots(queries, keys.range(0..len).data, out);
}

/// Memory to be used again for every query head and step.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// Per query head.
    truths: Vec<AttentionWeights>,
    /// Output of the selected tokens `[dim]`.
    selected_output: Vec<f64>,
    /// Sum of all values `[dim]`, if it is known; and a weight of 1 for each token.
    value_sum: Vec<f64>,
    summed: bool,
    ones: Vec<f32>,
    /// Partial sums `[dim]`.
    partial: Vec<f32>,
    /// Weights of selected tokens by scores that are not the true ones: by token, and in the order of the selection.
    rescored: Vec<f32>,
    own: Vec<f32>,
    /// True scores of selected tokens, in the order of the selection.
    picked: Vec<f32>,
    /// Factor of the scores in the softmax.
    scale: f32,
    /// `0..len`.
    all: Vec<u32>,
    topk: TopK,
    /// Round in which each row block was last touched.
    touched: Vec<u32>,
    round: u32,
    /// Touched row blocks of each unit.
    units: Vec<u32>,
}

/// Attention of a query head over all tokens.
#[derive(Debug, Clone, Default)]
struct AttentionWeights {
    /// `exp(scale · (score − highest score))` of each token.
    weights: Vec<f32>,
    /// Their sum.
    mass: f64,
    /// Values times weights, summed over the tokens `[dim]`.
    sums: Vec<f64>,
    /// `[dim]`.
    output: Vec<f64>,
    /// Budget, and the rank that its best tokens reach: policies are judged one after the other with the same budget.
    threshold: Option<(usize, u64)>,
}

impl AttentionWeights {
    /// The output, of the sums.
    fn divide(&mut self) {
        self.output.clear();
        self.output.extend(self.sums.iter().map(|o| o / self.mass));
    }
}

impl Scratch {
    /// Row-blocks that hold a selected token; `len` is the number of tokens there are.
    pub fn row_blocks(&mut self, selected: &[u32], len: usize, order: &SlotOrder, shape: RowShape) -> usize {
        self.touch(selected, len, order, shape).0
    }

    /// Computes attention over all tokens for one query head: `scores` are the unscaled q·k of tokens `0..len`, `scale`
    /// is the softmax's factor (1/√dim), `values` `[token, dim]` holds at least `len` tokens.
    pub fn attend<'a>(&'a mut self, scores: &'a [f32], scale: f32, values: Rows<'a>) -> TrueAttention<'a> {
        self.attend_each(&[scores], scale, values);
        self.attention(0, scores, values)
    }

    /// As [`Self::attend`], for query heads that share the values, which are read from memory once;
    /// [`Self::attention`] then gives each head's. All have scores of the same tokens.
    pub fn attend_all(&mut self, scores: &[Vec<f32>], scale: f32, values: Rows<'_>) {
        let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        self.attend_each(&scores, scale, values);
    }

    fn attend_each(&mut self, scores: &[&[f32]], scale: f32, values: Rows<'_>) {
        let len = scores.first().map_or(0, |scores| scores.len());
        self.begin(scores.len(), len, scale, values.dim);
        for (truth, scores) in self.truths.iter_mut().zip(scores) {
            linalg::exp_weights(scores, scale, &mut truth.weights);
            truth.mass = sum(&truth.weights);
            truth.sums.clear();
            truth.sums.resize(values.dim, 0.0);
        }
        for tokens in self.all[..len].chunks(TOGETHER) {
            for truth in &mut self.truths {
                add_weighted(values.data, tokens, &truth.weights, &mut self.partial, &mut truth.sums);
            }
        }
        self.truths.iter_mut().for_each(AttentionWeights::divide);
    }

    /// Makes room for so many query heads over `len` tokens, of which nothing is known yet.
    fn begin(&mut self, queries: usize, len: usize, scale: f32, dim: usize) {
        let known = self.all.len();
        self.all.extend(known as u32..len.max(known) as u32);
        self.summed = false;
        self.scale = scale;
        self.partial.resize(dim, 0.0);
        self.selected_output.resize(dim, 0.0);
        self.truths.resize(queries, AttentionWeights::default());
        for truth in &mut self.truths {
            truth.weights.resize(len, 0.0);
            truth.threshold = None;
        }
    }

    /// Attention of a query head, of which `scores` and `values` are those given to [`Self::attend_all`].
    ///
    /// # Panics
    /// When there is no such head.
    pub fn attention<'a>(&'a mut self, query: usize, scores: &'a [f32], values: Rows<'a>) -> TrueAttention<'a> {
        assert!(query < self.truths.len(), "no attention of query head {query}");
        let scale = self.scale;
        TrueAttention { scratch: self, query, scores, values, scale }
    }

    /// Row blocks that hold a selected token: how many, and how many on the fullest unit.
    fn touch(&mut self, selected: &[u32], len: usize, order: &SlotOrder, shape: RowShape) -> (usize, usize) {
        let blocks = len.div_ceil(shape.row_block);
        if self.touched.len() < blocks {
            self.touched.resize(blocks, self.round);
        }
        self.round = self.round.checked_add(1).unwrap_or_else(|| {
            self.touched.fill(0);
            1
        });
        self.units.clear();
        self.units.resize(shape.units, 0);
        let mut count = 0;
        for token in selected {
            let block = order.slot(*token) as usize / shape.row_block;
            if self.touched[block] != self.round {
                self.touched[block] = self.round;
                self.units[block % shape.units] += 1;
                count += 1;
            }
        }
        (count, self.units.iter().copied().max().unwrap_or(0) as usize)
    }
}

/// What makes the output of a selection, of one query head.
#[derive(Debug, Clone, Copy)]
pub struct OutputOf<'a> {
    /// The output is `share · attention(selected) + (1 − share) · mean of all values` (see
    /// [`HeadState::blend`](crate::select::HeadState::blend)).
    pub share: f32,
    /// Unscaled scores of the selected tokens, in their order, that weigh them in place of the true ones (see
    /// [`HeadState::rescored`](crate::select::HeadState::rescored)).
    pub scores: Option<&'a [f32]>,
}

impl Default for OutputOf<'_> {
    fn default() -> Self {
        Self { share: 1.0, scores: None }
    }
}

/// True attention of one query head at one step.
#[derive(Debug)]
pub struct TrueAttention<'a> {
    scratch: &'a mut Scratch,
    query: usize,
    scores: &'a [f32],
    values: Rows<'a>,
    /// Factor of the scores in the softmax.
    scale: f32,
}

impl TrueAttention<'_> {
    /// True output `[dim]`.
    pub fn output(&self) -> &[f64] {
        &self.scratch.truths[self.query].output
    }

    /// Output `[dim]` of the selection that was judged last.
    pub fn selected_output(&self) -> &[f64] {
        &self.scratch.selected_output
    }

    /// Judges a selection of distinct tokens, which lie in memory as `order` says; `budget` is at least 1.
    ///
    /// # Panics
    /// When a selected token does not exist, or `shape` has a 0.
    pub fn measure(&mut self, selected: &[u32], budget: usize, order: &SlotOrder, shape: RowShape) -> Accuracy {
        self.measure_output(selected, OutputOf::default(), budget, order, shape)
    }

    /// As [`Self::measure`], of an output that the selected tokens alone do not make.
    pub fn measure_output(
        &mut self,
        selected: &[u32],
        of: OutputOf<'_>,
        budget: usize,
        order: &SlotOrder,
        shape: RowShape,
    ) -> Accuracy {
        let len = self.scores.len();
        let threshold = self.threshold(budget);
        let best = selected.iter().filter(|t| rank(self.scores[**t as usize], **t) >= threshold).count();
        let (blocks, fullest) = self.scratch.touch(selected, len, order, shape);

        let Scratch { truths, selected_output, value_sum, summed, ones, partial, all, rescored, own, .. } =
            &mut *self.scratch;
        let AttentionWeights { weights, mass, sums, output, .. } = &truths[self.query];
        let selected_mass: f64 = selected.iter().map(|t| f64::from(weights[*t as usize])).sum();
        let mut divisor = selected_mass;
        match of.scores {
            // All tokens, in order: summed already.
            None if selected == &all[..len] => selected_output.copy_from_slice(sums),
            None => weighted_sum(self.values.data, selected, weights, partial, selected_output),
            Some(scores) => {
                rescored.resize(rescored.len().max(len), 0.0);
                own.resize(scores.len(), 0.0);
                linalg::exp_weights(scores, self.scale, own);
                selected.iter().zip(&*own).for_each(|(token, weight)| rescored[*token as usize] = *weight);
                divisor = sum(own);
                weighted_sum(self.values.data, selected, rescored, partial, selected_output);
            }
        }
        // A selection without mass has the output 0.
        let divisor = if divisor > 0.0 { divisor } else { 1.0 };
        let share = of.share;
        selected_output.iter_mut().for_each(|s| *s /= divisor);
        if share < 1.0 {
            let share = f64::from(share);
            if !*summed {
                ones.resize(ones.len().max(len), 1.0);
                value_sum.resize(self.values.dim, 0.0);
                weighted_sum(self.values.data, &all[..len], ones, partial, value_sum);
                *summed = true;
            }
            let blend = |s: &mut f64, sum: &f64| *s = share * *s + (1.0 - share) * sum / len as f64;
            selected_output.iter_mut().zip(value_sum).for_each(|(s, sum)| blend(s, sum));
        }
        let squares = output.iter().zip(selected_output).map(|(o, s)| (o * o, (*s - o).powi(2)));
        let (norm, error) = squares.fold((0.0, 0.0), |sum, term| (sum.0 + term.0, sum.1 + term.1));
        Accuracy {
            mass_recall: selected_mass / *mass,
            top_recall: best as f64 / budget.min(len) as f64,
            output_rel_err: if error == 0.0 { Some(0.0) } else { (norm > 0.0).then(|| (error / norm).sqrt()) },
            selected: selected.len(),
            row_tokens: blocks * shape.row_block,
            unit_imbalance: if blocks == 0 { 0.0 } else { (fullest * shape.units) as f64 / blocks as f64 },
        }
    }

    /// The rank that the best tokens of a budget reach.
    fn threshold(&mut self, budget: usize) -> u64 {
        let Scratch { truths, topk, .. } = &mut *self.scratch;
        match truths[self.query].threshold {
            Some((of, threshold)) if of == budget => threshold,
            _ => {
                let threshold = topk.threshold(self.scores, budget);
                truths[self.query].threshold = Some((budget, threshold));
                threshold
            }
        }
    }
}

/// Tokens whose weighted values are summed in f32.
const TOGETHER: usize = 64;

/// `sum_t weights[t] · values[t]` over `tokens` into `out` `[dim]`. Sums 64 tokens one after the other in f32 (`partial`,
/// `[dim]`), and these sums in f64.
fn weighted_sum(values: &[f32], tokens: &[u32], weights: &[f32], partial: &mut [f32], out: &mut [f64]) {
    out.fill(0.0);
    tokens.chunks(TOGETHER).for_each(|tokens| add_weighted(values, tokens, weights, partial, out));
}

simd! {
    /// Adds up to 64 tokens of [`weighted_sum`].
    fn add_weighted(values: &[f32], tokens: &[u32], weights: &[f32], partial: &mut [f32], out: &mut [f64]) {
        let dim = out.len();
        let row = |t: u32| (weights[t as usize], &values[t as usize * dim..][..dim]);
        partial.fill(0.0);
        let (quads, rest) = tokens.as_chunks::<4>();
        for quad in quads {
            let [(wa, a), (wb, b), (wc, c), (wd, d)] = quad.map(row);
            for (i, sum) in partial.iter_mut().enumerate() {
                *sum = *sum + wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
            }
        }
        for token in rest {
            let (w, value) = row(*token);
            partial.iter_mut().zip(value).for_each(|(sum, x)| *sum += w * x);
        }
        out.iter_mut().zip(&*partial).for_each(|(sum, x)| *sum += f64::from(*x));
    }
}

simd! {
    /// The sum in f64: element `i` is added to lane `i % 16`, then the lanes one after the other.
    fn sum(weights: &[f32]) -> f64 {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut lanes = [0f64; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                lanes[l] += f64::from(chunk[l]);
            }
        }
        lanes.iter_mut().zip(tail).for_each(|(lane, w)| *lane += f64::from(*w));
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All metrics, from their definitions.
    #[allow(clippy::too_many_arguments)]
    fn plain(
        scores: &[f32],
        scale: f64,
        values: Rows<'_>,
        selected: &[u32],
        share: f64,
        budget: usize,
        order: &SlotOrder,
        shape: RowShape,
    ) -> Accuracy {
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f64> = scores.iter().map(|s| (f64::from(s - highest) * scale).exp()).collect();
        let attention = |tokens: &[u32]| -> (f64, Vec<f64>) {
            let mass: f64 = tokens.iter().map(|t| weights[*t as usize]).sum();
            let weighted = |d: usize, t: u32| weights[t as usize] / mass * f64::from(values.row(t as usize)[d]);
            (mass, (0..values.dim).map(|d| tokens.iter().map(|t| weighted(d, *t)).sum()).collect())
        };
        let mut best: Vec<u32> = (0..scores.len() as u32).collect();
        let (mass, output) = attention(&best);
        let (selected_mass, mut selected_output) = attention(selected);
        for (d, o) in selected_output.iter_mut().enumerate() {
            let mean = (0..scores.len()).map(|t| f64::from(values.row(t)[d])).sum::<f64>() / scores.len() as f64;
            *o = share * *o + (1.0 - share) * mean;
        }
        best.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        best.truncate(budget);
        let hits = best.iter().filter(|t| selected.contains(t)).count();
        let mut blocks: Vec<usize> = selected.iter().map(|t| order.slot(*t) as usize / shape.row_block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let on_unit = |unit| blocks.iter().filter(|b| **b % shape.units == unit).count();
        let fullest = (0..shape.units).map(on_unit).max().unwrap();
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        Accuracy {
            mass_recall: selected_mass / mass,
            top_recall: hits as f64 / best.len() as f64,
            output_rel_err: Some(
                norm(&mut output.iter().zip(&selected_output).map(|(a, b)| a - b)) / norm(&mut output.iter().copied()),
            ),
            selected: selected.len(),
            row_tokens: blocks.len() * shape.row_block,
            unit_imbalance: fullest as f64 / (blocks.len() as f64 / shape.units as f64),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definitions(
            dim in 1usize..20,
            scores in proptest::collection::vec(-9f32..9.0, 1..200),
            picks in proptest::collection::vec(any::<bool>(), 200),
            permutation in Just((0..200u32).collect::<Vec<_>>()).prop_shuffle(),
            values in proptest::collection::vec(0.5f32..2.0, 200 * 20),
            budget in 1usize..220,
            share in 0f32..1.0,
            row_block in 1usize..20,
            units in 1usize..20,
        ) {
            let len = scores.len();
            let mut selected: Vec<u32> = (0..len as u32).filter(|t| picks[*t as usize]).collect();
            if selected.is_empty() {
                selected.push(0);
            }
            let slot_of: Vec<u32> = permutation.into_iter().filter(|slot| (*slot as usize) < len).collect();
            let clustered = SlotOrder { slot_of, ..SlotOrder::default() };
            let values = Rows { data: &values[..dim * 200], dim };
            let shape = RowShape { row_block, units };
            let mut scratch = Scratch::default();
            scratch.attend_all(&[scores.iter().map(|s| -s).collect(), scores.clone()], 0.25, values);
            let mut attention = scratch.attention(1, &scores, values);
            let cases = [(budget, &clustered, 1.0), (budget, &SlotOrder::default(), share), (1, &clustered, 1.0)];
            for (budget, order, share) in cases {
                let got = match share {
                    1.0 => attention.measure(&selected, budget, order, shape),
                    _ => {
                        let of = OutputOf { share, ..OutputOf::default() };
                        attention.measure_output(&selected, of, budget, order, shape)
                    }
                };
                let expected = plain(&scores, 0.25, values, &selected, share.into(), budget, order, shape);
                prop_assert!((got.mass_recall - expected.mass_recall).abs() < 1e-5);
                let (error, expected_error) = (got.output_rel_err.unwrap(), expected.output_rel_err.unwrap());
                prop_assert!((error - expected_error).abs() < 1e-4);
                // Weighed by scores of its own: here, the true ones, all of them higher.
                let own: Vec<f32> = selected.iter().map(|t| scores[*t as usize] + 1.0).collect();
                let of = OutputOf { share, scores: Some(&own) };
                let rescored = attention.measure_output(&selected, of, budget, order, shape);
                prop_assert!((rescored.output_rel_err.unwrap() - expected_error).abs() < 1e-4);
                prop_assert_eq!(rescored.mass_recall, got.mass_recall);
                prop_assert_eq!(got.top_recall, expected.top_recall);
                prop_assert_eq!((got.selected, got.row_tokens), (expected.selected, expected.row_tokens));
                prop_assert!((got.unit_imbalance - expected.unit_imbalance).abs() < 1e-12);
            }
        }

        #[test]
        fn exact_scores_are_dot_products(len in 1usize..140, keys in proptest::collection::vec(-2f32..2.0, 150 * 5)) {
            let keys = Rows { data: &keys, dim: 5 };
            let queries = [keys.row(145), keys.row(146), keys.row(147)];
            let mut scores = vec![vec![7.0; 142]; 3];
            exact_scores(keys, len, &queries, &mut scores);
            for (query, scores) in queries.iter().zip(&scores) {
                prop_assert!(scores.iter().copied().eq((0..len).map(|t| linalg::dot(query, keys.row(t)))));
            }
        }
    }

    #[test]
    fn selecting_everything_loses_nothing_and_nothing_loses_everything() {
        let data: Vec<f32> = (0..40).map(|i| (i as f32).sin()).collect();
        let (scores, values) = (&data[..10], Rows { data: &data, dim: 4 });
        let all: Vec<u32> = (0..10).collect();
        let mut scratch = Scratch::default();
        let mut attention = scratch.attend(scores, 0.5, values);
        let order = SlotOrder::default();
        let full = attention.measure(&all, 64, &order, RowShape::default());
        let expected = Accuracy {
            mass_recall: 1.0,
            top_recall: 1.0,
            output_rel_err: Some(0.0),
            selected: 10,
            row_tokens: 16,
            unit_imbalance: 16.0,
        };
        assert_eq!(full, expected);
        let none = attention.measure(&[], 4, &order, RowShape::default());
        let expected = Accuracy {
            mass_recall: 0.0,
            top_recall: 0.0,
            output_rel_err: Some(1.0),
            selected: 0,
            row_tokens: 0,
            unit_imbalance: 0.0,
        };
        assert_eq!(none, expected);
    }

    /// Values of 0 have the output 0, whatever is selected; a blend with a mean that is not 0 has no relative error.
    #[test]
    fn an_output_of_zero_has_a_relative_error_of_zero_or_none() {
        let (scores, order) = ([1.0, 2.0, 0.5], SlotOrder::default());
        let zero = [0.0; 6];
        let mut scratch = Scratch::default();
        let mut attention = scratch.attend(&scores, 0.5, Rows { data: &zero, dim: 2 });
        assert_eq!(attention.measure(&[1], 2, &order, RowShape::default()).output_rel_err, Some(0.0));
        assert_eq!(attention.measure(&[], 2, &order, RowShape::default()).output_rel_err, Some(0.0));
        // Equal weights of 1 and -1 cancel; one of them alone does not.
        let (equal, opposite) = ([1.0, 1.0], [1.0, -1.0]);
        let mut attention = scratch.attend(&equal, 0.5, Rows { data: &opposite, dim: 1 });
        assert_eq!(attention.measure(&[0], 1, &order, RowShape::default()).output_rel_err, None);
        assert_eq!(attention.measure(&[0, 1], 2, &order, RowShape::default()).output_rel_err, Some(0.0));
    }
}
