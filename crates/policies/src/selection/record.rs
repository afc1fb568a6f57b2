//! The selection of a policy that has run.

use super::{Granularity, ScanRule, Selection, SelectionFacts, SelectionTables, Shaped};
use crate::select::recorded::{HeadRecording, RecordedScan, RecordedTokens};
use pimattn_kv::KvCache;
use pimattn_kv::selection::{Scan, SlotOrder};
use std::sync::Arc;

impl Selection {
    /// What the heads of a cache have selected, by layer and KV head, with all that pricing and measuring it takes. Of layers that
    /// stay full it has nothing: their rows are empty.
    ///
    /// # Panics
    /// When there are not as many recordings as heads, or not all are of as many steps.
    pub fn of_recordings(
        cache: &KvCache,
        dense_layers: u32,
        facts: SelectionFacts,
        heads: &[&HeadRecording],
    ) -> Selection {
        assert_eq!(heads.len(), cache.layers.len() * cache.kv_heads, "a recording for each head");
        let steps = heads.first().map_or(0, |head| head.steps());
        let group = cache.group();
        let prefill = cache.decode_positions().start;
        let none = HeadRecording::default();
        let of = |head: usize| match cache.layers[head / cache.kv_heads] < dense_layers {
            true => &none,
            false => heads[head],
        };
        let heads: Vec<&HeadRecording> = (0..heads.len()).map(of).collect();
        assert!(heads.iter().all(|head| [0, steps].contains(&head.steps())), "as many steps of each head");
        let budget = facts.budget.unwrap_or(usize::MAX);
        let mut selection = Selection::from_csr(
            facts.policy.clone(),
            prefill,
            Some([cache.layers.len(), cache.query_heads, steps]),
            Granularity::Token,
            Vec::new(),
            vec![0],
        );
        selection.layers = Some(cache.layers.clone());
        selection.facts = facts;
        selection.scan = ScanRule::Nothing;
        let (mut shares, mut scores, mut beyond) = (Vec::new(), Vec::new(), false);
        let (mut has_share, mut has_scores) = (false, false);
        for head in &heads {
            for g in 0..group {
                for step in 0..steps {
                    let Some(step) = head.steps.get(step) else {
                        selection.ptr.push(selection.indices.len() as u64);
                        shares.push(1.0);
                        continue;
                    };
                    let before = selection.indices.len();
                    match &step.tokens[g] {
                        RecordedTokens::All => selection.indices.extend(0..step.len as u32),
                        RecordedTokens::Some(tokens) => selection.indices.extend_from_slice(tokens),
                    }
                    let count = selection.indices.len() - before;
                    beyond |= count > budget;
                    selection.ptr.push(selection.indices.len() as u64);
                    has_share |= !step.shares.is_empty();
                    shares.push(step.shares.get(g).copied().unwrap_or(1.0));
                    has_scores |= !step.scores.is_empty();
                    match step.scores.get(g) {
                        Some(own) => scores.extend_from_slice(own),
                        None => scores.resize(scores.len() + count, f32::NAN),
                    }
                }
            }
        }
        selection.facts.beyond_budget |= beyond;
        let by_head = [cache.layers.len(), cache.kv_heads, steps];
        let share = has_share.then(|| Shaped { shape: vec![by_head[0], cache.query_heads, steps], data: shares });
        let mut tables = SelectionTables {
            share,
            sel_scores: has_scores.then(|| Shaped::flat(scores)),
            ..SelectionTables::default()
        };
        keep_orders(&mut tables, &heads, by_head, prefill + steps);
        keep_scans(&mut tables, &heads, by_head);
        keep_clusterings(&mut tables, &heads, steps);
        selection.tables = tables;
        selection
    }
}

/// Keeps the orders that are not that of positions, each once for as long as a head has it.
fn keep_orders(tables: &mut SelectionTables, heads: &[&HeadRecording], shape: [usize; 3], tokens: usize) {
    let plain = SlotOrder::default();
    if heads.iter().flat_map(|head| &head.steps).all(|step| *step.order == plain) {
        return;
    }
    let mut kept: Vec<&SlotOrder> = vec![&plain];
    let mut of = Vec::new();
    for head in heads {
        let mut last: Option<&Arc<SlotOrder>> = None;
        let mut now = 0;
        for step in &head.steps {
            if !last.is_some_and(|order| Arc::ptr_eq(order, &step.order)) {
                last = Some(&step.order);
                now = if *step.order == plain { 0 } else { kept.len() as u32 };
                kept.extend((now > 0).then_some(&*step.order));
            }
            of.push(now);
        }
        if head.steps.is_empty() {
            of.resize(of.len() + shape[2], 0);
        }
    }
    let slots = kept.iter().flat_map(|order| (0..tokens as u32).map(|token| order.slot(token))).collect();
    let starts = kept.iter().flat_map(|order| order.cluster_starts.iter().copied()).collect();
    let counts = kept.iter().map(|order| order.cluster_starts.len());
    tables.orders = Some(Shaped { shape: vec![kept.len(), tokens], data: slots });
    tables.order_of = Some(Shaped { shape: shape.to_vec(), data: of });
    tables.cluster_starts = Some(Shaped::flat(starts));
    tables.cluster_ptr = Some(Shaped::flat(pointers(counts)));
    tables.clustered = Some(Shaped::flat(kept.iter().map(|order| order.clustered).collect()));
    tables.order_version = Some(Shaped::flat(kept.iter().map(|order| order.version).collect()));
}

/// Keeps the scans, if anything was scanned.
fn keep_scans(tables: &mut SelectionTables, heads: &[&HeadRecording], [layers, kv_heads, steps]: [usize; 3]) {
    let (mut scans, mut dims, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for head in heads {
        for step in 0..steps {
            let scan = head.steps.get(step).map_or(Scan::Nothing, |step| step.scan.scan());
            let mut count = 0;
            scans.extend(match scan {
                Scan::Nothing => [0; 4],
                Scan::Keys => [1, 0, 0, 0],
                Scan::Vectors { matrices, vectors, elements } => [2, matrices, vectors, elements],
                Scan::HeadVectors { matrices, vectors, elements } => [3, matrices, vectors, elements],
                Scan::Dimensions(own) => {
                    dims.extend_from_slice(own);
                    count = own.len();
                    [4, 0, 0, 0]
                }
            });
            counts.push(count);
        }
    }
    let scanned =
        heads.iter().flat_map(|head| &head.steps).any(|step| !matches!(step.scan, RecordedScan::Plain(Scan::Nothing)));
    if scanned {
        tables.scans = Some(Shaped { shape: vec![layers, kv_heads, steps, 4], data: scans });
        if !dims.is_empty() {
            tables.scan_dims = Some(Shaped::flat(dims));
            tables.scan_dims_ptr = Some(Shaped::flat(pointers(counts.into_iter())));
        }
    }
}

/// Keeps the clusterings of preparations and steps, if anything was clustered.
fn keep_clusterings(tables: &mut SelectionTables, heads: &[&HeadRecording], steps: usize) {
    let mut rows: Vec<u32> = Vec::new();
    let mut counts = Vec::new();
    for head in heads {
        let of_step = (0..steps).map(|step| head.steps.get(step).map_or(&[][..], |step| &step.clusterings));
        for clusterings in std::iter::once(&head.prepared[..]).chain(of_step) {
            counts.push(clusterings.len());
            rows.extend(clusterings.iter().flat_map(|c| [c.first, c.tokens, c.clusters, c.iterations]));
        }
    }
    if !rows.is_empty() {
        tables.clusterings = Some(Shaped { shape: vec![rows.len() / 4, 4], data: rows });
        tables.clustering_ptr = Some(Shaped::flat(pointers(counts.into_iter())));
    }
}

/// Where rows of so many entries begin, and where the last one ends.
fn pointers(counts: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut end = 0;
    std::iter::once(0)
        .chain(counts.map(|count| {
            end += count as u64;
            end
        }))
        .collect()
}
