//! Selection policies: which cached tokens a query head attends to.
//!
//! A policy is one file and one line in the registry. It is built from its own table of the workload file, then
//! makes a [`HeadState`] for each (layer, KV head), which sees the cache grow and answers each decode step.

use crate::kv::Rows;

/// What a policy may know about one KV head before decoding begins.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a> {
    /// All keys `[token, dim]`; the policy must look only at tokens that [`HeadState::grow`] has announced.
    pub keys: Rows<'a>,
    /// Tokens present before the first decode step.
    pub prefill: usize,
    /// Seed for this head, derived from the run's seed, the layer and the head.
    pub seed: u64,
}

/// One decode step of one KV head, for the query heads that share it.
#[derive(Debug, Clone, Copy)]
pub struct StepView<'a> {
    /// Tokens to attend to: `0..len`, the last one being the token being decoded.
    pub len: usize,
    /// Tokens each query head may select.
    pub budget: usize,
    /// Unscaled queries, one per query head of the group.
    pub queries: &'a [&'a [f32]],
    /// True unscaled scores q·k of tokens `0..len`, one slice per query head. Empty unless
    /// [`Policy::needs_scores`] or accuracy metrics ask for them.
    pub scores: &'a [Vec<f32>],
}

/// A configured policy.
pub trait Policy: Send + Sync {
    /// Name in the registry.
    fn name(&self) -> &'static str;
    /// Whether [`StepView::scores`] must be filled.
    fn needs_scores(&self) -> bool {
        false
    }
    /// The smallest budget (tokens) with which the policy can honour its definition.
    fn min_budget(&self) -> usize {
        1
    }
    /// Work on the prefill of one KV head (clustering happens here).
    fn prepare<'a>(&self, head: HeadView<'a>) -> Box<dyn HeadState + Send + 'a>;
}

/// A policy's memory of one KV head.
pub trait HeadState {
    /// Tokens `0..len` exist now. Called with growing `len` before each step.
    fn grow(&mut self, len: usize);
    /// For each query head of the step, the tokens selected, ascending, into `out` (one vector per query head,
    /// cleared first).
    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]);
    /// The order in which tokens lie in memory.
    fn order(&self) -> &SlotOrder;
}

/// The order in which tokens `0..len` lie in memory: a permutation, and its cluster boundaries.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotOrder {
    /// Slot of each token; empty means position order (slot = token).
    pub slot_of: Vec<u32>,
    /// First slot of every cluster, ascending; empty where the policy does not cluster. Slots behind the last
    /// cluster's end (`clustered`) are in position order.
    pub cluster_starts: Vec<u32>,
    /// Tokens (= slots) that belong to clusters.
    pub clustered: u32,
    /// Grows by one whenever an existing token changes its slot, so that users know when to look again.
    pub version: u32,
}

impl SlotOrder {
    /// Slot of a token.
    #[inline]
    pub fn slot(&self, token: u32) -> u32 {
        self.slot_of.get(token as usize).copied().unwrap_or(token)
    }
}
