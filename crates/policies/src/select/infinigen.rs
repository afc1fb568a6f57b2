//! `infinigen`: the tokens whose speculated score comes near the highest, from a few columns of rotated keys.

use super::columns::Columns;
use super::topk::TopK;
use super::{
    Entry, HeadState, HeadView, Per, Policy, PolicyError, Preparation, Scan, SlotOrder, StepView, parse, require,
    select_all,
};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "infinigen",
    summary: "tokens of speculated q·k near the highest, from few columns of SVD-rotated keys (InfiniGen)",
    build: |table| Ok(Box::new(build(ENTRY.name, table)?)),
};

/// The same with `fill`, under a name of its own, so that tables and claims have both beside each other.
pub const FILLED: Entry = Entry {
    name: "infinigen-filled",
    summary: "as infinigen, but as many tokens as the budget holds",
    build: |table| {
        let mut table = table.clone();
        table.entry("fill").or_insert(true.into());
        Ok(Box::new(build(FILLED.name, &table)?))
    },
};

fn build(name: &'static str, table: &toml::Table) -> Result<Named, PolicyError> {
    let infinigen: Infinigen = parse(table)?;
    let share = infinigen.columns;
    require(share > 0.0 && share <= 1.0, "columns", "must be above 0 and at most 1, a share of the columns")?;
    require(infinigen.alpha >= 0.0 && infinigen.alpha.is_finite(), "alpha", "must be a number of at least 0")?;
    require(infinigen.rotation != Per::Layer, "rotation", "must be \"head\" or \"group\"")?;
    require(infinigen.mean != Per::Head, "mean", "must be \"layer\" or \"group\"")?;
    Ok(Named { name, infinigen })
}

/// Selects `n` tokens per query head by speculated scores (Lee et al., OSDI 2024), `n` being the mean over the heads of
/// the number of tokens whose score is above the head's highest minus `alpha`, but no more than the budget. So it selects
/// no more than `alpha` lets it, whatever the budget, and has no more of the budget's best tokens than n / budget; with
/// `fill` it selects as many as the budget holds.
///
/// The paper works on weights and inputs that a KV cache does not hold. What stands for them:
/// - the rotation that skews queries and keys: the right singular vectors of a query head's prefill queries, in place of
///   those of calibration text; of its prefill keys, where the source has no queries of the prefill;
/// - the columns kept: those of largest `sum |q|` over the same queries (or keys);
/// - the speculated query: the true query of the step, in place of the one that the previous layer's input gives;
/// - the heads of the mean: those of the layer that the cache holds, of one request; the authors' are those of all
///   requests of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Infinigen {
    /// Share of the columns kept, rounded down, at least one column (0.2 in the authors' scripts).
    pub columns: f64,
    /// How far below the highest score, after scaling by 1/√dim, a token still counts (4 in the paper for OPT, 5 for
    /// Llama-2, whose positions are rotations, too).
    pub alpha: f32,
    /// Whether each query head has a rotation of its own, and so a copy of the kept columns of K (so the authors, whose
    /// models have a KV head for each query head), or the group has one.
    pub rotation: Per,
    /// The heads of the mean: those of the layer (so the authors) or of the group.
    pub mean: Per,
    /// Whether to select as many tokens as the budget holds, whatever `alpha`.
    pub fill: bool,
}

impl Default for Infinigen {
    fn default() -> Self {
        Self { columns: 0.2, alpha: 5.0, rotation: Per::Head, mean: Per::Layer, fill: false }
    }
}

impl Infinigen {
    /// Columns kept of vectors of `dim` elements.
    pub(super) fn kept(&self, dim: usize) -> usize {
        ((dim as f64 * self.columns) as usize).max(1)
    }

    /// The columns kept `[column, dim]` of each rotation: one, or one for each query head.
    fn rotations(&self, head: HeadView<'_>) -> Vec<Vec<f32>> {
        let each = self.rotation == Per::Head;
        let queries = |h| head.prefill_queries(h);
        let ranked = || match each {
            true => (0..head.queries.heads).map(|h| rotation(head, vec![queries(h)])).collect(),
            false => vec![rotation(head, (0..head.queries.heads).map(queries).collect())],
        };
        let elements = self.kept(head.keys.dim) * head.keys.dim;
        let kept = |ranked: &[Vec<f32>]| ranked.iter().map(|columns| columns[..elements].to_vec()).collect();
        match head.memo {
            Some(memo) => kept(memo.rotations[usize::from(each)].get_or_init(ranked)),
            None => kept(&ranked()),
        }
    }
}

/// All columns `[column, dim]` of a rotation of these queries, those first that keep most of them.
fn rotation<'a>(head: HeadView<'a>, mut sources: Vec<Rows<'a>>) -> Vec<f32> {
    let dim = head.keys.dim;
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
    ranking.iter().flat_map(|column| &vectors[column * dim..][..dim]).copied().collect()
}

/// The policy under one of its names.
struct Named {
    name: &'static str,
    infinigen: Infinigen,
}

impl Policy for Named {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepares_from(&self) -> Preparation {
        Preparation::Queries
    }

    fn decides_together(&self) -> bool {
        self.infinigen.mean == Per::Layer
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        self.infinigen.prepare(&[head]).remove(0)
    }

    fn prepare_layer(&self, heads: &[HeadView<'_>]) -> Vec<Box<dyn HeadState + Send>> {
        match self.decides_together() {
            true => self.infinigen.prepare(heads),
            false => heads.par_iter().map(|head| self.prepare(*head)).collect(),
        }
    }
}

impl Infinigen {
    /// States of KV heads that take their mean together.
    fn prepare(&self, heads: &[HeadView<'_>]) -> Vec<Box<dyn HeadState + Send>> {
        let rotated = heads.par_iter().map(|head| RwLock::new(Rotated::new(self, *head))).collect();
        let near = heads.iter().map(|_| Mutex::default()).collect();
        let together = Arc::new(Together { infinigen: self.clone(), heads: rotated, near });
        let state = |at| InfinigenHead {
            together: Arc::clone(&together),
            at,
            scratch: SpeculationScratch::default(),
            scan: Scan::Nothing,
            topk: TopK::default(),
            order: SlotOrder::default(),
        };
        (0..heads.len()).map(|at| Box::new(state(at)) as Box<dyn HeadState + Send>).collect()
    }
}

/// The KV heads whose mean decides, and how many of their tokens are near the highest score at each step.
///
/// A count depends on nothing but its head and its step, so that it does not matter which head asks first.
struct Together {
    infinigen: Infinigen,
    heads: Vec<RwLock<Rotated>>,
    /// By KV head, of all its query heads, by the tokens that there are: once somebody has asked.
    near: Vec<Mutex<BTreeMap<usize, Arc<OnceLock<usize>>>>>,
}

impl Together {
    /// A head, which nobody changes while it is read.
    fn head(&self, at: usize) -> RwLockReadGuard<'_, Rotated> {
        self.heads[at].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mean, over the query heads, of the tokens near the highest score; `own` is the count of head `at`.
    ///
    /// # Panics
    /// When the step does not say the queries of all heads, or another head does not have the keys of the step yet.
    fn mean(&self, at: usize, own: usize, step: StepView<'_>, scratch: &mut SpeculationScratch) -> usize {
        let (tokens, group, heads) = (step.tokens(), step.queries.len(), self.heads.len());
        assert!(heads == 1 || step.layer_queries.len() == heads * group, "the mean needs the queries of the layer");
        let mut sum = own;
        // Each begins behind itself, so that heads that ask at the same time do not wait for each other.
        for other in (1..heads).map(|i| (at + i) % heads) {
            sum += *self.near(other, tokens).get_or_init(|| {
                self.head(other).score(tokens, &step.layer_queries[other * group..][..group], scratch);
                self.near_highest(scratch, tokens)
            });
        }
        sum / (heads * group)
    }

    /// Where the count of a head at a step is kept.
    fn near(&self, at: usize, tokens: usize) -> Arc<OnceLock<usize>> {
        let mut near = self.near[at].lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(near.entry(tokens).or_default())
    }

    /// Scores near the highest, of all query heads.
    fn near_highest(&self, scratch: &SpeculationScratch, tokens: usize) -> usize {
        scratch.scores(tokens).map(|scores| count_near_highest(scores, self.infinigen.alpha)).sum()
    }
}

/// A KV head, and its keys as the rotations leave them.
struct Rotated {
    /// Columns kept of each rotation `[column, dim]`: one for all query heads, or one for each.
    rotations: Vec<Vec<f32>>,
    /// The keys of all tokens that are known, by rotation. Each step looks at those that are there.
    columns: Vec<Columns>,
    /// Indices of all columns kept.
    all: Vec<u32>,
}

/// Memory to be used again at each step.
#[derive(Default)]
struct SpeculationScratch {
    /// A rotated query.
    rotated: Vec<f32>,
    /// Rotated, scaled queries `[query head, column]`.
    weights: Vec<f32>,
    /// Scores by rotation.
    products: Vec<Vec<f32>>,
    /// Of each query head: the rotation, and its place among those that share it.
    places: Vec<(usize, usize)>,
}

impl SpeculationScratch {
    /// Speculated scores of each query head.
    fn scores(&self, len: usize) -> impl Iterator<Item = &[f32]> {
        self.places.iter().map(move |(rotation, place)| {
            let products = &self.products[*rotation];
            let padded = products.len() / self.places.iter().filter(|(r, _)| r == rotation).count();
            &products[place * padded..][..len]
        })
    }
}

impl Rotated {
    fn new(infinigen: &Infinigen, view: HeadView<'_>) -> Self {
        let kept = infinigen.kept(view.keys.dim);
        let rotations = infinigen.rotations(view);
        let columns = rotations.iter().map(|_| Columns::new(kept, 1, view.keys.len())).collect();
        let mut rotated = Rotated { rotations, columns, all: (0..kept as u32).collect() };
        rotated.extend(view.keys);
        rotated
    }

    /// Tokens that are known.
    fn known(&self) -> usize {
        self.columns.first().map_or(0, Columns::len)
    }

    /// Rotates the keys, of all tokens, that are not known yet.
    fn extend(&mut self, keys: Rows<'_>) {
        let newer = keys.range(self.known()..keys.len());
        let mut rotated = vec![0.0; self.all.len()];
        for (rotation, columns) in self.rotations.iter().zip(&mut self.columns) {
            for key in newer.data.chunks_exact(newer.dim) {
                linalg::dots(key, rotation, &mut rotated);
                columns.extend(Rows { data: &rotated, dim: rotated.len() });
            }
        }
    }

    /// Speculated scores of tokens `0..len` for each query head, into `scratch`.
    fn score(&self, len: usize, queries: &[&[f32]], scratch: &mut SpeculationScratch) {
        assert!(len <= self.known(), "a head that others ask grows before they select");
        let scale = (queries[0].len() as f32).sqrt().recip();
        let each = queries.len() / self.rotations.len();
        scratch.places.clear();
        scratch.places.extend((0..queries.len()).map(|h| (h / each, h % each)));
        scratch.products.resize(self.rotations.len(), Vec::new());
        scratch.rotated.resize(self.all.len(), 0.0);
        for (i, queries) in queries.chunks_exact(each).enumerate() {
            scratch.weights.clear();
            for query in queries {
                linalg::dots(query, &self.rotations[i], &mut scratch.rotated);
                scratch.weights.extend(scratch.rotated.iter().map(|x| x * scale));
            }
            let products = &mut scratch.products[i];
            self.columns[i].products_into(len, &self.all, &scratch.weights, products).for_each(drop);
        }
    }
}

struct InfinigenHead {
    together: Arc<Together>,
    /// Which of the heads it is.
    at: usize,
    scratch: SpeculationScratch,
    scan: Scan<'static>,
    topk: TopK,
    order: SlotOrder,
}

impl HeadState for InfinigenHead {
    fn grow(&mut self, keys: Rows<'_>) {
        if self.together.head(self.at).known() < keys.len() {
            let mut head = self.together.heads[self.at].write().unwrap_or_else(PoisonError::into_inner);
            head.extend(keys);
        }
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.scan = Scan::Nothing;
        if step.tokens() <= step.budget {
            out.iter_mut().for_each(|out| select_all(step.tokens(), out));
            return;
        }
        let together = &*self.together;
        let head = together.head(self.at);
        let (matrices, vectors, elements) = (head.rotations.len(), step.tokens(), head.all.len());
        self.scan = match together.infinigen.rotation {
            Per::Head => {
                Scan::HeadVectors { matrices: matrices as u32, vectors: vectors as u32, elements: elements as u32 }
            }
            _ => Scan::vectors(1, vectors, elements),
        };
        head.score(step.tokens(), step.queries, &mut self.scratch);
        let mut n = step.budget;
        if !together.infinigen.fill {
            let own = together.near_highest(&self.scratch, step.tokens());
            let own = *together.near(self.at, step.tokens()).get_or_init(|| own);
            // No lock is held while others are asked.
            drop(head);
            let mut scratch = SpeculationScratch::default();
            n = n.min(together.mean(self.at, own, step, &mut scratch));
        }
        for (scores, out) in self.scratch.scores(step.tokens()).zip(out) {
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
    use super::super::{HeadMemo, plain, testing};
    use super::*;
    use proptest::prelude::*;

    fn policy(infinigen: Infinigen) -> Named {
        Named { name: ENTRY.name, infinigen }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn agrees_with_the_plain_version(
            case in testing::cases(), columns in 0.05f64..1.0, alpha in 0f32..6.0, head in any::<bool>(),
            fill in any::<bool>(),
        ) {
            let rotation = if head { Per::Head } else { Per::Group };
            let infinigen = Infinigen { columns, alpha, rotation, fill, ..Infinigen::default() };
            let queries = case.dumped_queries();
            let (vectors, kept) = (case.keys.len() / case.dim, infinigen.kept(case.dim) as u32);
            let mut steps = 0;
            testing::run(&policy(infinigen.clone()), &case, |step, selected, state| {
                // The plain version finds the rotation again at each step.
                if step.tokens() > step.budget && steps % 16 == 0 {
                    prop_assert_eq!(selected, &plain::infinigen(&infinigen, &[(case.head(&queries), step)])[0]);
                    let (vectors, matrices) = (step.tokens() as u32, case.queries.len() as u32);
                    let scan = match head {
                        true => Scan::HeadVectors { matrices, vectors, elements: kept },
                        false => Scan::Vectors { matrices: 1, vectors, elements: kept },
                    };
                    prop_assert_eq!(state.scan(), scan);
                }
                steps += 1;
                Ok(())
            })?;
            prop_assert!(vectors >= steps);
        }

        /// Rotations that another run found, which kept other columns or turned for other query heads.
        #[test]
        fn what_is_kept_of_a_head_gives_the_same_rotations(case in testing::cases(), columns in 0.05f64..1.0) {
            let (queries, memo) = (case.dumped_queries(), HeadMemo::default());
            let head = case.head(&queries);
            for columns in [columns, 1.0 - columns / 2.0] {
                for rotation in [Per::Head, Per::Group, Per::Head] {
                    let infinigen = Infinigen { columns, rotation, ..Infinigen::default() };
                    let kept = infinigen.rotations(HeadView { memo: Some(&memo), ..head });
                    prop_assert_eq!(kept, infinigen.rotations(head));
                }
            }
        }

        /// Of several KV heads, in any order of their steps, and by the name that fills.
        #[test]
        fn heads_of_a_layer_take_their_mean_together(
            cases in proptest::collection::vec(testing::cases(), 1..4), alpha in 0f32..6.0, backwards in any::<bool>(),
        ) {
            // The heads of a layer have the shape of the first, and the elements of all, in turns.
            let first = &cases[0];
            let elements = |of: fn(&testing::Case) -> Vec<f32>, count: usize, skip: usize| -> Vec<f32> {
                let all: Vec<f32> = cases.iter().cycle().skip(skip).take(cases.len()).flat_map(of).chain([1.0]).collect();
                all.into_iter().cycle().take(count).collect()
            };
            let (dim, group, decoded) = (first.dim, first.queries.len(), first.steps);
            let keys: Vec<Vec<f32>> =
                (0..cases.len()).map(|i| elements(|c| c.keys.clone(), first.keys.len(), i)).collect();
            let early = first.early_queries();
            let queries: Vec<Vec<f32>> = (0..cases.len())
                .map(|i| elements(|c| [c.queries.concat(), c.keys.clone()].concat(), (early + decoded) * group * dim, i))
                .collect();
            let views: Vec<HeadView<'_>> = keys
                .iter()
                .zip(&queries)
                .map(|(keys, queries)| HeadView {
                    keys: Rows { data: keys, dim },
                    prefill: first.prefill,
                    queries: pimattn_kv::Heads { data: queries, dim, heads: group },
                    query_start: first.prefill - early,
                    seed: 1,
                    memo: None,
                })
                .collect();
            let infinigen = Infinigen { alpha, ..Infinigen::default() };
            let mut states = policy(infinigen.clone()).prepare_layer(&views);
            let mut filled = (FILLED.build)(&toml::Table::new()).unwrap().prepare_layer(&views);
            for len in (first.prefill + 1..=first.prefill + decoded).step_by(16) {
                let of = |view: &HeadView<'_>| -> Vec<Vec<f32>> {
                    (0..group).map(|h| view.queries.head(h).row(len - 1 - view.query_start).to_vec()).collect()
                };
                let queries: Vec<Vec<f32>> = views.iter().flat_map(of).collect();
                let slices: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
                let steps: Vec<StepView<'_>> = views
                    .iter()
                    .zip(slices.chunks_exact(group))
                    .map(|(view, queries)| StepView {
                        keys: view.keys.range(0..len),
                        budget: first.budget,
                        queries,
                        layer_queries: &slices,
                        scores: &[],
                    })
                    .collect();
                let layer: Vec<_> = views.iter().copied().zip(steps.iter().copied()).collect();
                let expected = plain::infinigen(&infinigen, &layer);
                let mut order: Vec<usize> = (0..views.len()).collect();
                if backwards {
                    order.reverse();
                }
                for at in order {
                    let mut selected = vec![Vec::new(); group];
                    states[at].grow(steps[at].keys);
                    states[at].select(steps[at], &mut selected);
                    if len > first.budget {
                        prop_assert_eq!(&selected, &expected[at], "head {}, {} tokens", at, len);
                    }
                    filled[at].select(steps[at], &mut selected);
                    prop_assert!(selected.iter().all(|tokens| tokens.len() == len.min(first.budget)));
                }
            }
        }
    }

    #[test]
    fn keeps_a_share_of_the_columns_rounded_down() {
        let kept = |dim| Infinigen::default().kept(dim);
        assert_eq!((kept(128), kept(64), kept(4)), (25, 12, 1));
    }
}
