//! A selection of what policies answered.

use super::{Granularity, Selection, SelectionDetails, SelectionScan};
use pimattn_kv::selection::SlotOrder;
use pimattn_policies::select::recorded::{HeadRecording, RecordedTokens};
use std::sync::Arc;

/// Whose answers are kept.
pub(crate) struct KeptShape<'k> {
    /// Name of the policy.
    pub policy: &'k str,
    /// Tokens that a query head may select.
    pub budget: usize,
    /// Tokens before the first step.
    pub prefill: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Query heads of a KV head.
    pub group: usize,
    /// Decode steps.
    pub steps: usize,
}

impl Selection {
    /// What heads answered, by layer and KV head.
    pub(crate) fn kept<'r>(shape: &KeptShape<'_>, heads: impl Iterator<Item = &'r HeadRecording>) -> Self {
        let heads: Vec<&HeadRecording> = heads.collect();
        let (steps, group) = (shape.steps, shape.group);
        let mut selection = Selection {
            origin: "selection".into(),
            policy: shape.policy.into(),
            budget: Some(shape.budget),
            prefill: shape.prefill,
            granularity: Granularity::Token,
            indices: Vec::new(),
            pointer: vec![0],
            order: None,
            scan: SelectionScan::Nothing,
            details: None,
        };
        let mut details = SelectionDetails { kv_heads: shape.kv_heads, ..SelectionDetails::default() };
        let steps_of = || heads.iter().flat_map(|head| &head.steps[..steps]);
        let blends = steps_of().any(|step| !step.shares.is_empty());
        let rescores = steps_of().any(|step| !step.rescored.is_empty());
        let mut last: Option<&Arc<SlotOrder>> = None;
        for head in &heads {
            details.clusterings.push(head.prepared.clone());
            for g in 0..group {
                for step in &head.steps[..steps] {
                    let before = selection.indices.len();
                    match &step.tokens[g] {
                        RecordedTokens::All => selection.indices.extend(0..step.len as u32),
                        RecordedTokens::Some(tokens) => selection.indices.extend_from_slice(tokens),
                    }
                    selection.pointer.push(selection.indices.len() as u64);
                    if blends {
                        details.shares.push(step.shares.get(g).copied().unwrap_or(1.0));
                    }
                    if rescores {
                        let count = selection.indices.len() - before;
                        match step.rescored.get(g) {
                            Some(scores) => details.scores.extend_from_slice(scores),
                            None => details.scores.extend(std::iter::repeat_n(f32::NAN, count)),
                        }
                    }
                }
            }
            for step in &head.steps[..steps] {
                if !last.is_some_and(|last| Arc::ptr_eq(last, &step.order)) {
                    details.orders.push((*step.order).clone());
                    last = Some(&step.order);
                }
                details.order_of.push(details.orders.len() as u32 - 1);
                details.scans.push(step.scan.clone());
                details.clusterings.push(step.clusterings.clone());
            }
        }
        selection.details = Some(details);
        selection
    }
}
