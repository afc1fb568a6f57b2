//! Whether a selection fits a cache; and what its heads answer there, step by step.

use super::orders::{CheckedOrder, CheckedOrders, csr, shape_is};
use super::{Granularity, ScanRule, Selection, Shaped};
use crate::select::recorded::{HeadRecording, RecordedScan, RecordedStep, RecordedTokens};
use pimattn_core::error::{Error, Result};
use pimattn_kv::KvCache;
use pimattn_kv::selection::{Clustering, Scan};
use rayon::prelude::*;

/// What a selection is to fit.
#[derive(Clone, Copy)]
pub struct SelectionFit<'a> {
    /// The cache that it is a selection of.
    pub cache: &'a KvCache,
    /// The first layers of the model, which stay full: of them a selection is not read.
    pub dense_layers: u32,
    /// Tokens that each query head may select.
    pub budget: usize,
    /// Bytes of an element in memory.
    pub element_bytes: u32,
}

/// The most matrices, vectors of all matrices, and elements of a vector of a scan; and iterations of a K-means.
const MOST: [u64; 4] = [1 << 12, 1 << 28, 1 << 16, 1 << 16];

/// Where a row of a selection is.
#[derive(Clone, Copy)]
struct RowPlace {
    /// Number of the layer in the model.
    layer: u32,
    query_head: usize,
    step: usize,
    /// Tokens that are there.
    len: usize,
}

/// Tables that the heads read, checked as far as a head does not have to.
struct Checked<'a> {
    steps: usize,
    orders: CheckedOrders<'a>,
    /// Where the dimensions of each scan are.
    scan_dims: Vec<usize>,
    /// Where the clusterings of each head's preparation and steps are.
    clusterings: Vec<usize>,
    scored: bool,
}

impl Selection {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::Data { file: self.source.clone(), what: what.into() }
    }

    fn wrong(&self, place: &RowPlace, what: impl std::fmt::Display) -> Error {
        let RowPlace { layer, query_head, step, len } = place;
        self.error(format!("layer {layer}, query head {query_head}, step {step} (position {}): {what}", len - 1))
    }

    /// Decode steps of the selection on a cache.
    ///
    /// # Errors
    /// [`Error::Data`] where it is of another shape, of more steps, or of another prefill than the cache.
    pub fn steps_on(&self, cache: &KvCache) -> Result<usize> {
        let (layers, heads) = (cache.layers.len(), cache.query_heads);
        let rows = self.ptr.len().saturating_sub(1);
        if rows == 0 || !rows.is_multiple_of(layers * heads) {
            return Err(self.error(format!(
                "sel_ptr has {} entries; {layers} layers of {heads} query heads, as the cache has, need a multiple of {} for the \
                 steps, and one more",
                self.ptr.len(),
                layers * heads
            )));
        }
        let steps = rows / (layers * heads);
        if let Some(shape) = self.shape.filter(|shape| *shape != [layers, heads, steps]) {
            return Err(self.error(format!(
                "it says that it has {} layers, {} query heads and {} steps; with sel_ptr and the cache they are {layers}, {heads} \
                 and {steps}",
                shape[0], shape[1], shape[2]
            )));
        }
        if let Some(own) = self.layers.as_ref().filter(|own| **own != cache.layers) {
            return Err(self.error(format!("it is of layers {own:?}; the cache has {:?}", cache.layers)));
        }
        let positions = cache.decode_positions();
        if self.prefill != positions.start {
            let what = "its first step decodes the token behind a prefill of";
            return Err(self.error(format!("{what} {}; that of the cache is token {}", self.prefill, positions.start)));
        }
        match steps <= positions.len() {
            true => Ok(steps),
            false => Err(self.error(format!("it has {steps} steps; the cache has queries of {}", positions.len()))),
        }
    }

    /// The budget of a run that is asked for none: that which the selection was made with, or where it does not say it, the most tokens
    /// that a query head selects.
    ///
    /// # Errors
    /// Those of [`Selection::steps_on`].
    pub fn budget_on(&self, cache: &KvCache, dense_layers: u32) -> Result<usize> {
        self.facts.budget.map_or_else(|| self.most_tokens(cache, dense_layers), Ok)
    }

    /// The most tokens that a query head selects at a step, of the layers that do not stay full; at least 1.
    ///
    /// # Errors
    /// Those of [`Selection::steps_on`].
    pub(super) fn most_tokens(&self, cache: &KvCache, dense_layers: u32) -> Result<usize> {
        let steps = self.steps_on(cache)?;
        let piece = self.granularity.tokens();
        let of = |(row, range): (usize, std::ops::Range<usize>)| {
            let len = self.prefill + row % steps + 1;
            let tokens = |index: &u32| len.saturating_sub(*index as usize * piece).min(piece);
            self.indices[range].iter().map(tokens).sum()
        };
        let sparse = |row: &usize| cache.layers[row / steps / cache.query_heads] >= dense_layers;
        let rows = (0..self.ptr.len() - 1).filter(sparse).filter_map(|row| Some((row, self.row(row)?)));
        Ok(rows.map(of).max().unwrap_or(1).max(1))
    }

    /// What each KV head answers, by layer and KV head, for [`HeadRecording::replay`]. Heads of layers that stay full answer nothing.
    ///
    /// # Errors
    /// [`Error::Data`], with layer, query head and step, where the selection does not fit, or contradicts itself: pointers that do
    /// not ascend, tokens that are not there yet, or twice, more tokens than the budget, none at all, an order that is no
    /// permutation, and the like.
    pub fn recordings(&self, fit: &SelectionFit<'_>) -> Result<Vec<HeadRecording>> {
        let cache = fit.cache;
        let steps = self.steps_on(cache)?;
        self.check_pointers(cache, steps)?;
        let shape = [cache.layers.len(), cache.kv_heads, steps];
        let checked = self.checked(cache, shape).map_err(|what| self.error(what))?;
        let heads: Vec<Result<HeadRecording>> = (0..cache.layers.len() * cache.kv_heads)
            .into_par_iter()
            .map(|head| match cache.layers[head / cache.kv_heads] < fit.dense_layers {
                true => Ok(HeadRecording::default()),
                false => self.head(head, fit, &checked),
            })
            .collect();
        // The first error is always the same one.
        heads.into_iter().collect()
    }

    fn check_pointers(&self, cache: &KvCache, steps: usize) -> Result<()> {
        let place = |row: usize| {
            let (head, step) = (row / steps, row % steps);
            let layer = cache.layers[head / cache.query_heads];
            RowPlace { layer, query_head: head % cache.query_heads, step, len: self.prefill + step + 1 }
        };
        if self.ptr[0] != 0 {
            return Err(self.wrong(&place(0), format!("sel_ptr begins with {}; expected 0", self.ptr[0])));
        }
        if let Some(row) = self.ptr.windows(2).position(|pair| pair[0] > pair[1]) {
            let what = format!("sel_ptr descends from {} to {}", self.ptr[row], self.ptr[row + 1]);
            return Err(self.wrong(&place(row), what));
        }
        match self.ptr.last() {
            Some(end) if *end != self.indices.len() as u64 => {
                Err(self.error(format!("sel_ptr ends at {end}; sel_indices has {} entries", self.indices.len())))
            }
            _ => Ok(()),
        }
    }

    fn checked<'a>(&'a self, cache: &KvCache, shape: [usize; 3]) -> Result<Checked<'a>, String> {
        let [layers, kv_heads, steps] = shape;
        let t = &self.tables;
        let heads = layers * kv_heads;
        if let Some(scans) = &t.scans {
            shape_is("scans", scans, &[layers, kv_heads, steps, 4])?;
        }
        let scan_dims = match (&t.scans, &t.scan_dims, &t.scan_dims_ptr) {
            (Some(_), Some(dims), Some(ptr)) => csr("scan_dims_ptr", ptr, heads * steps, dims.data.len())?,
            (_, None, None) => Vec::new(),
            _ => return Err("dimensions need all of \"scans\", \"scan_dims\" and \"scan_dims_ptr\"".into()),
        };
        let clusterings = match (&t.clusterings, &t.clustering_ptr) {
            (Some(rows), Some(ptr)) => {
                let count = rows.shape.first().copied().unwrap_or(0);
                shape_is("clusterings", rows, &[count, 4])?;
                csr("clustering_ptr", ptr, heads * (steps + 1), count)?
            }
            (None, None) => Vec::new(),
            _ => return Err("clusterings need both \"clusterings\" and \"clustering_ptr\"".into()),
        };
        if let Some(share) = &t.share {
            shape_is("share", share, &[layers, cache.query_heads, steps])?;
        }
        if let Some(scores) = &t.sel_scores {
            shape_is("sel_scores", scores, &[self.indices.len()])?;
            if self.granularity != Granularity::Token {
                return Err("\"sel_scores\" are of tokens; this selection is of pages".into());
            }
        }
        let orders = CheckedOrders::of(self, shape)?;
        Ok(Checked { steps, orders, scan_dims, clusterings, scored: t.sel_scores.is_some() })
    }

    /// What a KV head answers, by its number among those of all layers.
    fn head(&self, head: usize, fit: &SelectionFit<'_>, checked: &Checked<'_>) -> Result<HeadRecording> {
        let SelectionFit { cache, .. } = fit;
        let (group, steps) = (cache.group(), checked.steps);
        let (layer, kv_head) = (head / cache.kv_heads, head % cache.kv_heads);
        let place = |g: usize, step: usize| RowPlace {
            layer: cache.layers[layer],
            query_head: kv_head * group + g,
            step,
            len: self.prefill + step + 1,
        };
        let prepared = self.clusterings(head, 0, self.prefill, checked);
        let prepared = prepared.map_err(|what| self.wrong(&place(0, 0), format!("the preparation: {what}")))?;
        let mut recorded = Vec::with_capacity(steps);
        let mut before: Option<&CheckedOrder> = None;
        for step in 0..steps {
            let first = place(0, step);
            let (mut tokens, mut scores, mut shares) = (Vec::new(), Vec::new(), Vec::new());
            for g in 0..group {
                let at = place(g, step);
                let row = (layer * cache.query_heads + at.query_head) * steps + step;
                let (selected, weighed) = self.selected(row, &at, fit).map_err(|what| self.wrong(&at, what))?;
                tokens.push(RecordedTokens::of(&selected, at.len));
                scores.extend(weighed);
                if let Some(share) = &self.tables.share {
                    let share = share.data[row];
                    if !(0.0..=1.0).contains(&share) {
                        return Err(self.wrong(&at, format!("the share {share} is not from 0 to 1")));
                    }
                    shares.push(share);
                }
            }
            if checked.scored && ![0, group].contains(&scores.len()) {
                return Err(
                    self.wrong(&first, "some query heads of the KV head have scores of their own, and some have none")
                );
            }
            let order = checked.orders.at(head, step, steps);
            order.check(before, first.len).map_err(|what| self.wrong(&first, what))?;
            before = Some(order);
            let all = tokens.iter().all(|tokens| matches!(tokens, RecordedTokens::All));
            let scan = self.scan(head, step, all, fit, checked).map_err(|what| self.wrong(&first, what))?;
            let clusterings = self.clusterings(head, step + 1, first.len, checked);
            recorded.push(RecordedStep {
                len: first.len,
                tokens,
                order: order.order.clone(),
                scan,
                clusterings: clusterings.map_err(|what| self.wrong(&first, what))?,
                shares: shares.into(),
                scores: scores.into(),
            });
        }
        Ok(HeadRecording { prepared, steps: recorded })
    }

    /// Tokens of a row, ascending, and their scores where these are not the true ones.
    #[allow(clippy::type_complexity)]
    fn selected(
        &self,
        row: usize,
        at: &RowPlace,
        fit: &SelectionFit<'_>,
    ) -> Result<(Vec<u32>, Option<Vec<f32>>), String> {
        let range = self.row(row).ok_or("its pointers go beyond sel_indices")?;
        let raw = &self.indices[range.clone()];
        let piece = self.granularity.tokens();
        let last = (at.len - 1) / piece;
        let (word, of) = match self.granularity {
            Granularity::Token => ("token", String::new()),
            Granularity::Page(tokens) => ("page", format!(", of {tokens} tokens each")),
        };
        if raw.is_empty() {
            return Err("it selects nothing; a query head attends to one token at least".into());
        }
        if let Some(index) = raw.iter().find(|index| **index as usize > last) {
            return Err(format!("{word} {index} is not there; 0 to {last} are{of}"));
        }
        let mut places: Vec<usize> = (0..raw.len()).collect();
        if !raw.is_sorted() {
            places.sort_by_key(|i| raw[*i]);
        }
        if let Some(pair) = places.windows(2).find(|pair| raw[pair[0]] == raw[pair[1]]) {
            return Err(format!("{word} {} is selected twice", raw[pair[0]]));
        }
        let tokens: Vec<u32> = match piece {
            1 => places.iter().map(|i| raw[*i]).collect(),
            _ => {
                let of_page = |page: usize| page * piece..((page + 1) * piece).min(at.len);
                places.iter().flat_map(|i| of_page(raw[*i] as usize)).map(|token| token as u32).collect()
            }
        };
        if tokens.len() > fit.budget && !self.facts.beyond_budget {
            return Err(format!("{} tokens are selected; the budget is {}", tokens.len(), fit.budget));
        }
        let Some(scores) = &self.tables.sel_scores else { return Ok((tokens, None)) };
        let scores: Vec<f32> = places.iter().map(|i| scores.data[range.start + i]).collect();
        if scores.iter().all(|score| score.is_nan()) {
            return Ok((tokens, None));
        }
        match scores.iter().find(|score| !score.is_finite()) {
            Some(score) => Err(format!("a score is {score}; expected numbers, or NaN for all tokens of the step")),
            None => Ok((tokens, Some(scores))),
        }
    }

    /// What a head reads to select at a step; `all`: it attends to all tokens.
    fn scan(
        &self,
        head: usize,
        step: usize,
        all: bool,
        fit: &SelectionFit<'_>,
        checked: &Checked<'_>,
    ) -> Result<RecordedScan, String> {
        let (dim, len) = (fit.cache.dim, self.prefill + step + 1);
        let vectors = |matrices: u32, vectors: u32, elements: u32| {
            let [most_matrices, most_vectors, most_elements, _] = MOST;
            let (m, v, e) = (u64::from(matrices), u64::from(vectors), u64::from(elements));
            if m == 0 || m > most_matrices || v == 0 || m * v > most_vectors || e == 0 || e > most_elements {
                return Err(format!(
                    "a scan of {m} matrices of {v} vectors of {e} elements is not from 1 to {most_matrices}, {most_vectors} in all, \
                     and {most_elements}"
                ));
            }
            Ok(())
        };
        let Some(Shaped { data, .. }) = &self.tables.scans else {
            let scan = match self.scan {
                _ if all => Scan::Nothing,
                ScanRule::Nothing => Scan::Nothing,
                ScanRule::BytesPerToken(bytes) => {
                    // A cast from a number that is too large gives the largest, which is refused.
                    let elements = (bytes / f64::from(fit.element_bytes)).ceil() as u32;
                    vectors(1, len as u32, elements)?;
                    Scan::Vectors { matrices: 1, vectors: len as u32, elements }
                }
                ScanRule::Vectors { matrices, vectors: count, elements } => {
                    vectors(matrices, count, elements)?;
                    Scan::Vectors { matrices, vectors: count, elements }
                }
            };
            return Ok(RecordedScan::of(scan));
        };
        let at = head * checked.steps + step;
        let dims = match (&self.tables.scan_dims, checked.scan_dims.get(at..at + 2)) {
            (Some(dims), Some(&[first, end])) => &dims.data[first..end],
            _ => &[],
        };
        let [kind, matrices, count, elements] = [0, 1, 2, 3].map(|i| data[4 * at + i]);
        let scan = match kind {
            0 => Scan::Nothing,
            1 => Scan::Keys,
            2 => {
                vectors(matrices, count, elements)?;
                Scan::Vectors { matrices, vectors: count, elements }
            }
            3 => {
                vectors(matrices, count, elements)?;
                if matrices as usize != fit.cache.group() {
                    let group = fit.cache.group();
                    return Err(format!(
                        "a scan of {matrices} matrices, one for each query head, of a group of {group}"
                    ));
                }
                Scan::HeadVectors { matrices, vectors: count, elements }
            }
            4 => match dims.iter().find(|d| **d as usize >= dim) {
                Some(wrong) => return Err(format!("dimension {wrong} is scanned; keys have {dim}")),
                None => Scan::Dimensions(dims),
            },
            other => return Err(format!("the kind of its scan is {other}; expected 0 to 4")),
        };
        if kind != 4 && !dims.is_empty() {
            return Err(format!("dimensions are scanned, but the kind of the scan is {kind}, not 4"));
        }
        Ok(RecordedScan::of(scan))
    }

    /// What was clustered for a head by its preparation (0) or before a step (from 1), of a cache of `len` tokens.
    fn clusterings(
        &self,
        head: usize,
        step: usize,
        len: usize,
        checked: &Checked<'_>,
    ) -> Result<Vec<Clustering>, String> {
        let at = head * (checked.steps + 1) + step;
        let (Some(rows), Some(&[first, end])) = (&self.tables.clusterings, checked.clusterings.get(at..at + 2)) else {
            return Ok(Vec::new());
        };
        let of = |row: &[u32]| {
            let [first, tokens, clusters, iterations] = [0, 1, 2, 3].map(|i| row[i]);
            let fits = u64::from(first) + u64::from(tokens) <= len as u64;
            let counts = (1..=tokens).contains(&clusters) && (1..=MOST[3]).contains(&u64::from(iterations));
            match fits && counts {
                true => Ok(Clustering { first, tokens, clusters, iterations }),
                false => Err(format!(
                    "a clustering of {tokens} tokens from token {first} into {clusters} clusters in {iterations} iterations, where \
                     {len} tokens are there: expected 1 to {tokens} clusters and 1 to {} iterations",
                    MOST[3]
                )),
            }
        };
        rows.data[4 * first..4 * end].chunks_exact(4).map(of).collect()
    }
}
