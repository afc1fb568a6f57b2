//! A selection against the cache that it is of.

use super::{Granularity, Selection, SelectionDetails, SelectionScan};
use pimattn_core::error::Result;
use pimattn_kv::KvCache;
use pimattn_kv::selection::{Scan, SlotOrder};
use pimattn_policies::select::recorded::{HeadRecording, RecordedScan, RecordedStep, RecordedTokens};
use std::sync::Arc;

/// A selection that fits a cache.
pub(crate) struct BoundSelection {
    /// By layer and KV head.
    pub recordings: Vec<HeadRecording>,
    /// Decode steps.
    pub steps: usize,
}

impl Selection {
    /// Checks the selection against a cache, and against a budget where one is asked for; `full` are layers of the model, from the first,
    /// that attend to all tokens whatever is selected, of elements of so many bytes.
    ///
    /// # Errors
    /// [`Error::Data`](pimattn_core::error::Error::Data) with layer, query head and step of what does not fit.
    pub(crate) fn bind(
        &self,
        cache: &KvCache,
        budget: Option<usize>,
        full: u32,
        element_bytes: u32,
    ) -> Result<BoundSelection> {
        let steps = self.steps(cache)?;
        // What was kept of a run keeps to its budget in the way of its policy, which may take generated tokens on top of it.
        let budget = budget.filter(|budget| self.details.is_none() || self.budget != Some(*budget));
        let details = self.details.as_ref();
        if let Some(details) = details {
            self.check_details(details, cache, steps)?;
        }
        let orders = self.orders(cache)?;
        let mut recordings = Vec::with_capacity(cache.layers.len() * cache.kv_heads);
        for layer in 0..cache.layers.len() {
            for kv_head in 0..cache.kv_heads {
                let head = BoundHead { selection: self, cache, steps, layer, kv_head };
                let order = orders.get(layer * cache.kv_heads + kv_head);
                let is_full = cache.layers[layer] < full;
                recordings.push(match is_full {
                    true => head.full(),
                    false => head.recording(budget, order, element_bytes)?,
                });
            }
        }
        Ok(BoundSelection { recordings, steps })
    }

    /// The steps that it has, for the heads of a cache.
    fn steps(&self, cache: &KvCache) -> Result<usize> {
        let heads = cache.layers.len() * cache.query_heads;
        let there = cache.decode_positions().len();
        if self.prefill != cache.prefill {
            return Err(
                self.error(format!("a prefill of {} tokens; the cache has one of {}", self.prefill, cache.prefill))
            );
        }
        let steps = self.lists() / heads;
        if !self.lists().is_multiple_of(heads) || steps > there {
            return Err(self.error(format!(
                "{} lists; the cache has {} layers of {} query heads and {there} steps, which is {} lists at most",
                self.lists(),
                cache.layers.len(),
                cache.query_heads,
                heads * there
            )));
        }
        Ok(steps)
    }

    /// The order of each layer and KV head that `order` says; none where it is absent.
    fn orders(&self, cache: &KvCache) -> Result<Vec<Arc<SlotOrder>>> {
        let Some((shape, slots)) = &self.order else { return Ok(Vec::new()) };
        let wanted = [cache.layers.len(), cache.kv_heads, cache.tokens];
        if *shape != wanted {
            return Err(self.error(format!("order has shape {shape:?}; expected {wanted:?}")));
        }
        let of = |(head, slots): (usize, &[u32])| {
            let (layer, kv_head) = (cache.layers[head / cache.kv_heads], head % cache.kv_heads);
            let mut seen = vec![false; slots.len()];
            for (token, slot) in slots.iter().enumerate() {
                match seen.get_mut(*slot as usize) {
                    Some(taken) if !*taken => *taken = true,
                    taken => {
                        let what = if taken.is_some() { "stands twice" } else { "is beyond the tokens" };
                        return Err(self.error(format!(
                            "order: layer {layer}, KV head {kv_head}: slot {slot}, of token {token}, {what}"
                        )));
                    }
                }
            }
            Ok(Arc::new(SlotOrder { slot_of: slots.to_vec(), ..SlotOrder::default() }))
        };
        slots.chunks_exact(cache.tokens).enumerate().map(of).collect()
    }

    fn check_details(&self, details: &SelectionDetails, cache: &KvCache, steps: usize) -> Result<()> {
        let heads = cache.layers.len() * cache.kv_heads;
        let sizes = [
            ("scans", details.scans.len(), heads * steps),
            ("order_of", details.order_of.len(), heads * steps),
            ("clustering_ptr", details.clusterings.len(), heads * (steps + 1)),
        ];
        if details.kv_heads != cache.kv_heads {
            return Err(self.error(format!("{} KV heads; the cache has {}", details.kv_heads, cache.kv_heads)));
        }
        let dims = details.scans.iter().filter_map(|scan| match scan {
            RecordedScan::Dimensions(dims) => dims.iter().max(),
            RecordedScan::Plain(_) => None,
        });
        if let Some(dim) = dims.max().filter(|dim| **dim as usize >= cache.dim) {
            return Err(self.error(format!("scan_dims has dimension {dim}; keys have {}", cache.dim)));
        }
        match sizes.iter().find(|(_, there, wanted)| there != wanted) {
            Some((name, there, wanted)) => {
                Err(self.error(format!("{name} is for {there} steps of KV heads; expected {wanted}")))
            }
            None => Ok(()),
        }
    }
}

/// A KV head whose lists are looked at.
struct BoundHead<'s> {
    selection: &'s Selection,
    cache: &'s KvCache,
    steps: usize,
    /// Index into the cache's layers.
    layer: usize,
    kv_head: usize,
}

impl BoundHead<'_> {
    fn len(&self, step: usize) -> usize {
        self.cache.decode_positions().start + step + 1
    }

    /// What a head that attends to all tokens would have answered.
    fn full(&self) -> HeadRecording {
        let order = Arc::new(SlotOrder::default());
        let step = |step| RecordedStep {
            len: self.len(step),
            tokens: vec![RecordedTokens::All; self.cache.group()],
            order: order.clone(),
            scan: RecordedScan::of(Scan::Nothing),
            clusterings: Vec::new(),
            shares: Vec::new(),
            rescored: Vec::new(),
        };
        HeadRecording { prepared: Vec::new(), steps: (0..self.steps).map(step).collect() }
    }

    fn recording(
        &self,
        budget: Option<usize>,
        order: Option<&Arc<SlotOrder>>,
        element_bytes: u32,
    ) -> Result<HeadRecording> {
        let selection = self.selection;
        let details = selection.details.as_ref();
        let head = self.layer * self.cache.kv_heads + self.kv_head;
        let orders: Vec<Arc<SlotOrder>> = details.map_or_else(Vec::new, |d| {
            let of_head = &d.order_of[head * self.steps..(head + 1) * self.steps];
            // Steps in a row that agree share the order.
            let mut shared: Vec<Arc<SlotOrder>> = Vec::new();
            for (step, order) in of_head.iter().enumerate() {
                match shared.last() {
                    Some(last) if of_head[step - 1] == *order => shared.push(last.clone()),
                    _ => shared.push(Arc::new(d.orders[*order as usize].clone())),
                }
            }
            shared
        });
        let position_order = Arc::new(SlotOrder::default());
        let mut steps = Vec::with_capacity(self.steps);
        let orders: Vec<Arc<SlotOrder>> = match details {
            Some(_) => orders,
            None => vec![order.unwrap_or(&position_order).clone(); self.steps],
        };
        for (step, order) in orders.into_iter().enumerate() {
            let len = self.len(step);
            let (mut tokens, mut shares, mut rescored) = (Vec::new(), Vec::new(), Vec::new());
            for query_head in self.query_heads() {
                let list = self.list(query_head, step);
                let chosen = self.tokens(query_head, step, budget)?;
                tokens.push(RecordedTokens::of(&chosen, len));
                let Some(details) = details else { continue };
                shares.extend(details.shares.get(list).copied());
                let scores = || {
                    let range = selection.pointer[list] as usize..selection.pointer[list + 1] as usize;
                    details.scores.get(range).filter(|s| s.first().is_some_and(|x| !x.is_nan())).map(<[f32]>::to_vec)
                };
                rescored.extend(scores());
            }
            if rescored.len() < self.cache.group() {
                rescored.clear();
            }
            let all = tokens.iter().all(|tokens| matches!(tokens, RecordedTokens::All));
            let (scan, clusterings) = match details {
                Some(details) => {
                    let at = head * self.steps + step;
                    let clusterings = details.clusterings[head * (self.steps + 1) + 1 + step].clone();
                    (details.scans[at].clone(), clusterings)
                }
                None => (self.scan(all, len, element_bytes), Vec::new()),
            };
            steps.push(RecordedStep { len, tokens, order, scan, clusterings, shares, rescored });
        }
        let prepared = details.map_or_else(Vec::new, |d| d.clusterings[head * (self.steps + 1)].clone());
        Ok(HeadRecording { prepared, steps })
    }

    fn query_heads(&self) -> std::ops::Range<usize> {
        self.kv_head * self.cache.group()..(self.kv_head + 1) * self.cache.group()
    }

    fn list(&self, query_head: usize, step: usize) -> usize {
        (self.layer * self.cache.query_heads + query_head) * self.steps + step
    }

    /// The tokens of a list, ascending.
    fn tokens(&self, query_head: usize, step: usize, budget: Option<usize>) -> Result<Vec<u32>> {
        let (selection, len) = (self.selection, self.len(step));
        let layer = self.cache.layers[self.layer];
        let wrong =
            |what: String| selection.error(format!("layer {layer}, query head {query_head}, step {step}: {what}"));
        let list = selection.list(self.list(query_head, step));
        if list.is_empty() {
            return Err(wrong("no token is selected".into()));
        }
        let mut sorted = list.to_vec();
        // Scores stand beside indices that are in order.
        if !sorted.is_sorted() {
            sorted.sort_unstable();
        }
        let page = selection.granularity.tokens();
        let name = if page == 1 { "token" } else { "page" };
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(format!("{name} {} stands twice", pair[0])));
        }
        let last = *sorted.last().expect("there is a token");
        if last as usize * page >= len {
            let what = if page == 1 { String::new() } else { format!(" of {page} tokens") };
            return Err(wrong(format!("{name} {last}{what} lies in the future: there are {len} tokens")));
        }
        let expanded = match selection.granularity {
            Granularity::Token => sorted,
            Granularity::Page(_) => {
                let of_page = |p: u32| p as usize * page..len.min((p as usize + 1) * page);
                sorted.into_iter().flat_map(of_page).map(|token| token as u32).collect()
            }
        };
        match budget {
            Some(budget) if expanded.len() > budget => {
                Err(wrong(format!("{} tokens are selected; the budget is {budget}", expanded.len())))
            }
            _ => Ok(expanded),
        }
    }

    /// What the metadata say is read at a step.
    fn scan(&self, all: bool, len: usize, element_bytes: u32) -> RecordedScan {
        RecordedScan::of(match self.selection.scan {
            _ if all => Scan::Nothing,
            SelectionScan::Nothing => Scan::Nothing,
            SelectionScan::BytesPerToken(bytes) => {
                Scan::vectors(1, len, (bytes / f64::from(element_bytes)).ceil().max(1.0) as usize)
            }
            SelectionScan::Vectors { matrices, vectors, elements } => Scan::Vectors { matrices, vectors, elements },
        })
    }
}
