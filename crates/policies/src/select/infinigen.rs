//! `infinigen`: the tokens whose speculated score comes near the highest, from a few columns of rotated keys.

use super::columns::Columns;
use super::topk::TopK;
use super::{Entry, HeadState, HeadView, Policy, Preparation, Scan, SlotOrder, StepView, parse, require, select_all};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "infinigen",
    summary: "tokens of speculated q·k near the highest, from few columns of SVD-rotated keys (InfiniGen)",
    build: |table| {
        let infinigen: Infinigen = parse(table)?;
        let share = infinigen.columns;
        require(share > 0.0 && share <= 1.0, "columns", "must be above 0 and at most 1, a share of the columns")?;
        require(infinigen.alpha >= 0.0 && infinigen.alpha.is_finite(), "alpha", "must be a number of at least 0")?;
        Ok(Box::new(infinigen))
    },
};

/// Selects `n` tokens per query head by speculated scores (Lee et al., OSDI 2024), `n` being the mean over the heads of
/// the number of tokens whose score is above the head's highest minus `alpha`, but no more than the budget.
///
/// The paper works on weights and inputs that a KV cache does not hold. What stands for them:
/// - the rotation that skews queries and keys: the right singular vectors of the group's prefill queries, in place of
///   those of the projection weights per head (a KV head has one rotated copy of K, so its query heads share it); of its
///   prefill keys, where the source has no queries of the prefill;
/// - the columns kept: those of largest `sum |q|` over the same queries (or keys);
/// - the speculated query: the true query of the step, in place of the one that the previous layer's input gives;
/// - the heads of the mean: those of the group, in place of those of the layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Infinigen {
    /// Share of the columns kept, rounded down, at least one column (0.2 here).
    pub columns: f64,
    /// How far below the highest score, after scaling by 1/√dim, a token still counts (4 in the paper, 5 for Llama-2).
    pub alpha: f32,
}

impl Default for Infinigen {
    fn default() -> Self {
        Self { columns: 0.2, alpha: 4.0 }
    }
}

impl Infinigen {
    /// Columns kept of vectors of `dim` elements.
    pub(super) fn kept(&self, dim: usize) -> usize {
        ((dim as f64 * self.columns) as usize).max(1)
    }

    /// The columns kept of the rotation `[column, dim]`.
    fn rotation(&self, head: HeadView<'_>) -> Vec<f32> {
        let dim = head.keys.dim;
        let mut sources: Vec<Rows<'_>> = (0..head.queries.heads).map(|h| head.prefill_queries(h)).collect();
        if sources.iter().all(Rows::is_empty) {
            sources = vec![head.keys.range(0..head.prefill)];
        }
        let mut gram = vec![0.0; dim * dim];
        sources.iter().for_each(|rows| linalg::add_gram(rows.data, dim, &mut gram));
        let (_, vectors) = linalg::eigenvectors(gram, dim);
        let vectors: Vec<f32> = vectors.into_iter().map(|x| x as f32).collect();

        let (mut sums, mut products) = (vec![0f64; dim], vec![0f32; dim]);
        for row in sources.iter().flat_map(|rows| rows.data.chunks_exact(dim)) {
            linalg::dots(row, &vectors, &mut products);
            sums.iter_mut().zip(&products).for_each(|(sum, x)| *sum += f64::from(x.abs()));
        }
        let mut ranking: Vec<usize> = (0..dim).collect();
        ranking.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
        ranking[..self.kept(dim)].iter().flat_map(|column| &vectors[column * dim..][..dim]).copied().collect()
    }
}

impl Policy for Infinigen {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn prepares_from(&self) -> Preparation {
        Preparation::Queries
    }

    fn prepare<'a>(&self, head: HeadView<'a>) -> Box<dyn HeadState + Send + 'a> {
        let kept = self.kept(head.keys.dim);
        let mut state = InfinigenHead {
            alpha: self.alpha,
            keys: head.keys,
            rotation: self.rotation(head),
            columns: Columns::new(kept, 1, head.keys.len()),
            all: (0..kept as u32).collect(),
            rotated: vec![0.0; kept],
            weights: Vec::new(),
            scan: Scan::Nothing,
            topk: TopK::default(),
            order: SlotOrder::default(),
        };
        state.grow(head.prefill);
        Box::new(state)
    }
}

struct InfinigenHead<'a> {
    alpha: f32,
    keys: Rows<'a>,
    /// `[column, dim]`.
    rotation: Vec<f32>,
    /// The rotated keys.
    columns: Columns,
    /// Indices of all columns kept.
    all: Vec<u32>,
    /// One rotated vector.
    rotated: Vec<f32>,
    /// Rotated, scaled queries `[query head, column]`.
    weights: Vec<f32>,
    scan: Scan<'static>,
    topk: TopK,
    order: SlotOrder,
}

impl HeadState for InfinigenHead<'_> {
    fn grow(&mut self, len: usize) {
        for token in self.columns.len()..len {
            linalg::dots(self.keys.row(token), &self.rotation, &mut self.rotated);
            self.columns.extend(Rows { data: &self.rotated, dim: self.rotated.len() });
        }
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.scan = Scan::Nothing;
        if step.len <= step.budget {
            out.iter_mut().for_each(|out| select_all(step.len, out));
            return;
        }
        self.scan = Scan::vectors(1, step.len, self.all.len());
        let scale = (self.keys.dim as f32).sqrt().recip();
        self.weights.clear();
        for query in step.queries {
            linalg::dots(query, &self.rotation, &mut self.rotated);
            self.weights.extend(self.rotated.iter().map(|x| x * scale));
        }
        let scores: Vec<&[f32]> = self.columns.products(&self.all, &self.weights).collect();
        let near: usize = scores.iter().map(|scores| count_near_highest(scores, self.alpha)).sum();
        let n = (near / scores.len()).min(step.budget);
        for (scores, out) in scores.into_iter().zip(out) {
            out.clear();
            self.topk.best(scores, n, out);
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn scan(&self) -> Scan<'_> {
        self.scan
    }
}

linalg::simd! {
    /// Scores above the highest minus `alpha`; the highest always counts.
    fn count_near_highest(scores: &[f32], alpha: f32) -> usize {
        let highest = linalg::highest(scores);
        let limit = highest - alpha;
        let mut count = 0u32;
        for score in scores {
            count += u32::from(*score > limit || *score == highest);
        }
        count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::{plain, testing};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn agrees_with_the_plain_version(case in testing::cases(), columns in 0.05f64..1.0, alpha in 0f32..6.0) {
            let infinigen = Infinigen { columns, alpha };
            let queries = case.dumped_queries();
            let kept = infinigen.kept(case.dim) as u32;
            let mut steps = 0;
            testing::run(&infinigen, &case, |step, selected, state| {
                // The plain version finds the rotation again at each step.
                if step.len > step.budget && steps % 16 == 0 {
                    prop_assert_eq!(selected, &plain::infinigen(&infinigen, case.head(&queries), step));
                    let scan = Scan::Vectors { matrices: 1, vectors: step.len as u32, elements: kept };
                    prop_assert_eq!(state.scan(), scan);
                }
                steps += 1;
                Ok(())
            })?;
        }
    }

    #[test]
    fn keeps_a_share_of_the_columns_rounded_down() {
        let kept = |dim| Infinigen::default().kept(dim);
        assert_eq!((kept(128), kept(64), kept(4)), (25, 12, 1));
    }
}
