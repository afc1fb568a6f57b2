//! `sparq`: the tokens of highest approximate score, from the few elements in which the queries are largest.

use super::columns::Columns;
use super::topk::TopK;
use super::{Entry, HeadState, HeadView, Per, Policy, Scan, SlotOrder, StepView, parse, require, select_all};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "sparq",
    summary: "tokens of highest approximate q·k, from the elements of K where q is largest (SparQ)",
    build: |table| {
        let sparq: Sparq = parse(table)?;
        require(sparq.r > 0, "r", "must be at least 1")?;
        require(sparq.per != Per::Layer, "per", "must be \"group\" or \"head\"")?;
        Ok(Box::new(sparq))
    },
};

/// Selects the most recent `local` tokens and the others of highest approximate score (Ribar et al., ICML 2024).
///
/// The `r` elements are those of largest |q|, summed over the query heads of the group. A query head's approximate score
/// of a key is `q·k` over these elements, scaled by `1/sqrt(dim · |q of these|₁ / |q|₁)` for its softmax, whose mass on
/// the selected tokens is their share of the output; the mean of all values has the rest ([`HeadState::blend`]). The
/// authors rank by the sums of these scaled scores over the query heads of a group, which so have one set of tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sparq {
    /// Elements of each key that are read (16 here; the paper has 16 to 64); all, if a key has no more.
    pub r: usize,
    /// Most recent tokens that are always taken (16 here).
    pub local: usize,
    /// Whether the mean of all values stands for the tokens not selected (so in the paper).
    pub mean_value: bool,
    /// Whether there is a second copy of K that lies dimension by dimension (so in the paper); without it, whole keys
    /// are read.
    pub transposed: bool,
    /// For whom a set of tokens is chosen: the group (so in the authors' code and here), by the sums of its query heads'
    /// scaled scores, or each query head.
    pub per: Per,
}

impl Default for Sparq {
    fn default() -> Self {
        Self { r: 16, local: 16, mean_value: true, transposed: true, per: Per::Group }
    }
}

impl Sparq {
    /// Scale of a query's approximate scores in the softmax.
    pub(super) fn scale(&self, query: &[f32], dims: &[u32]) -> f32 {
        let all: f32 = query.iter().map(|x| x.abs()).sum();
        let read: f32 = dims.iter().map(|d| query[*d as usize].abs()).sum();
        // All scores of a query that is 0 where it is read are 0, whatever the scale.
        if read > 0.0 { (query.len() as f32 * (read / all)).sqrt().recip() } else { 1.0 }
    }
}

/// Tiles of a block of keys: a run of nearly 4 KiB for each dimension, and an odd number, so that dimensions do not meet in
/// one set of the processor's cache.
const TILES: usize = 63;

impl Policy for Sparq {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn min_budget(&self) -> usize {
        self.local.max(1)
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        let mut state = SparqHead {
            sparq: self.clone(),
            columns: Columns::new(head.keys.dim, TILES, head.keys.len()),
            dims: Vec::new(),
            magnitudes: Vec::new(),
            weights: Vec::new(),
            probabilities: Vec::new(),
            sums: Vec::new(),
            shares: Vec::new(),
            chose: false,
            topk: TopK::default(),
            order: SlotOrder::default(),
        };
        state.grow(head.keys.range(0..head.prefill));
        Box::new(state)
    }
}

struct SparqHead {
    sparq: Sparq,
    /// The keys, dimension by dimension.
    columns: Columns,
    /// Dimensions read at the last step, ascending.
    dims: Vec<u32>,
    /// `sum |q|` of each dimension.
    magnitudes: Vec<f32>,
    /// Queries at these dimensions `[query head, dimension]`.
    weights: Vec<f32>,
    /// Unnormalised, of each token.
    probabilities: Vec<f32>,
    /// Scaled scores of each token, added up over the group.
    sums: Vec<f32>,
    shares: Vec<f32>,
    /// Whether the last step had to choose.
    chose: bool,
    topk: TopK,
    order: SlotOrder,
}

impl SparqHead {
    fn choose_dims(&mut self, queries: &[&[f32]]) {
        self.magnitudes.clear();
        self.magnitudes.resize(queries.first().map_or(0, |query| query.len()), 0.0);
        for query in queries {
            self.magnitudes.iter_mut().zip(*query).for_each(|(sum, x)| *sum += x.abs());
        }
        self.dims.clear();
        self.topk.best(&self.magnitudes, self.sparq.r, &mut self.dims);
        self.weights.clear();
        self.weights.extend(queries.iter().flat_map(|q| self.dims.iter().map(|d| q[*d as usize])));
    }
}

impl HeadState for SparqHead {
    fn grow(&mut self, keys: Rows<'_>) {
        self.columns.extend(keys.range(self.columns.len()..keys.len()));
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.shares.clear();
        self.chose = step.tokens() > step.budget;
        if !self.chose {
            out.iter_mut().for_each(|out| select_all(step.tokens(), out));
            return;
        }
        self.choose_dims(step.queries);
        let local = self.sparq.local.min(step.budget);
        let recent = step.tokens() - local;
        let scales: Vec<f32> = step.queries.iter().map(|query| self.sparq.scale(query, &self.dims)).collect();
        let products: Vec<&[f32]> = self.columns.products(&self.dims, &self.weights).collect();
        if self.sparq.per == Per::Group {
            self.sums.clear();
            self.sums.resize(recent, 0.0);
            for (scores, scale) in products.iter().zip(&scales) {
                self.sums.iter_mut().zip(*scores).for_each(|(sum, score)| *sum += score * scale);
            }
        }
        for (i, (scores, scale)) in products.into_iter().zip(scales).enumerate() {
            match self.sparq.per {
                Per::Group if i > 0 => {
                    let (first, others) = out.split_at_mut(i);
                    others[0].clone_from(&first[0]);
                }
                per => {
                    let ranked = if per == Per::Group { &self.sums } else { &scores[..recent] };
                    out[i].clear();
                    self.topk.best(ranked, step.budget - local, &mut out[i]);
                    out[i].extend(recent as u32..step.tokens() as u32);
                }
            }
            if self.sparq.mean_value {
                self.probabilities.resize(step.tokens(), 0.0);
                let mass = linalg::exp_weights(scores, scale, &mut self.probabilities);
                let selected: f32 = out[i].iter().map(|t| self.probabilities[*t as usize]).sum();
                self.shares.push((selected / mass).min(1.0));
            }
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn scan(&self) -> Scan<'_> {
        match (self.chose, self.sparq.transposed) {
            (false, _) => Scan::Nothing,
            (true, true) => Scan::Dimensions(&self.dims),
            (true, false) => Scan::Keys,
        }
    }

    fn blend(&self) -> &[f32] {
        &self.shares
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
        fn agrees_with_the_plain_version(
            case in testing::cases(), r in 1usize..10, local in 0usize..20, mean_value in any::<bool>(),
            transposed in any::<bool>(), group in any::<bool>(),
        ) {
            let per = if group { Per::Group } else { Per::Head };
            let sparq = Sparq { r, local, mean_value, transposed, per };
            let keys = Rows { data: &case.keys, dim: case.dim };
            testing::run(&sparq, &case, |step, selected, state| {
                if step.tokens() <= step.budget {
                    prop_assert!(state.blend().is_empty());
                    return Ok(());
                }
                let plain = plain::sparq(&sparq, keys, step);
                prop_assert_eq!(selected, &plain.tokens);
                let scan = if transposed { Scan::Dimensions(&plain.dims) } else { Scan::Keys };
                prop_assert_eq!(state.scan(), scan);
                prop_assert_eq!(state.blend().len(), if mean_value { plain.shares.len() } else { 0 });
                for (got, expected) in state.blend().iter().zip(&plain.shares) {
                    prop_assert!((f64::from(*got) - expected).abs() < 1e-5, "{got} {expected}");
                }
                Ok(())
            })?;
        }
    }
}
