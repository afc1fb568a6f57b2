//! Selections that were made before: what a policy answered at each step of a KV head, kept, and given again.
//!
//! What a policy selects depends on the cache, the budget and its parameters, not on where tokens lie or what a device can do.
//! Whoever sets many mappings of the same selections side by side makes them once.

use super::{Clustering, HeadState, Scan, SlotOrder, StepView, select_all};
use pimattn_kv::Rows;
use std::borrow::Cow;
use std::sync::Arc;

/// The selections of one KV head, step by step.
#[derive(Debug, Clone, Default)]
pub struct HeadRecording {
    /// What the preparation clustered.
    pub(crate) prepared: Vec<Clustering>,
    pub(crate) steps: Vec<RecordedStep>,
}

/// What a head answered at a step.
#[derive(Debug, Clone)]
pub(crate) struct RecordedStep {
    /// Tokens there were.
    pub len: usize,
    /// Tokens of each query head.
    pub tokens: Vec<RecordedTokens>,
    /// Steps that agree in it share the order.
    pub order: Arc<SlotOrder>,
    /// What selecting read.
    pub scan: RecordedScan,
    /// What was clustered before the step.
    pub clusterings: Vec<Clustering>,
    /// As [`HeadState::blend`] says it.
    pub shares: Box<[f32]>,
    /// As [`HeadState::rescored`] says it.
    pub scores: Box<[Vec<f32>]>,
}

/// Tokens of a query head, ascending.
#[derive(Debug, Clone)]
pub(crate) enum RecordedTokens {
    /// All that there were.
    All,
    /// These.
    Some(Box<[u32]>),
}

impl RecordedTokens {
    /// A selection, ascending and without a token twice, of `len` tokens.
    pub fn of(tokens: &[u32], len: usize) -> Self {
        // Tokens are ascending and different, so a selection as long as the cache is the cache.
        match tokens.len() == len {
            true => RecordedTokens::All,
            false => RecordedTokens::Some(tokens.into()),
        }
    }
}

/// A [`Scan`] that owns its dimensions.
#[derive(Debug, Clone)]
pub(crate) enum RecordedScan {
    /// One without dimensions.
    Plain(Scan<'static>),
    /// [`Scan::Dimensions`].
    Dimensions(Box<[u32]>),
}

impl RecordedScan {
    /// Owns what `scan` borrows.
    pub fn of(scan: Scan<'_>) -> Self {
        RecordedScan::Plain(match scan {
            Scan::Dimensions(dimensions) => return RecordedScan::Dimensions(dimensions.into()),
            Scan::Nothing => Scan::Nothing,
            Scan::Keys => Scan::Keys,
            Scan::Vectors { matrices, vectors, elements } => Scan::Vectors { matrices, vectors, elements },
            Scan::HeadVectors { matrices, vectors, elements } => Scan::HeadVectors { matrices, vectors, elements },
        })
    }

    /// As it was.
    pub fn scan(&self) -> Scan<'_> {
        match self {
            RecordedScan::Plain(scan) => *scan,
            RecordedScan::Dimensions(dimensions) => Scan::Dimensions(dimensions),
        }
    }
}

impl HeadRecording {
    /// Begins with what the preparation of `state` clustered.
    pub fn of(state: &dyn HeadState) -> Self {
        HeadRecording { prepared: state.clusterings().to_vec(), steps: Vec::new() }
    }

    /// Keeps what `state` answered at its last step: `tokens` of `len`.
    pub fn push(&mut self, state: &dyn HeadState, tokens: &[Vec<u32>], len: usize) {
        let order = state.order();
        let order = match self.steps.last() {
            Some(last) if *last.order == *order => last.order.clone(),
            _ => Arc::new(order.clone()),
        };
        self.steps.push(RecordedStep {
            len,
            tokens: tokens.iter().map(|tokens| RecordedTokens::of(tokens, len)).collect(),
            order,
            scan: RecordedScan::of(state.scan()),
            clusterings: state.clusterings().to_vec(),
            shares: state.blend().into(),
            scores: state.rescored().into(),
        });
    }

    /// Steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Elements of the longest vector, of the policy's own, that selecting reads at a step.
    pub fn widest_scan(&self) -> u32 {
        let width = |step: &RecordedStep| match step.scan.scan() {
            Scan::Vectors { elements, .. } | Scan::HeadVectors { elements, .. } => elements,
            Scan::Nothing | Scan::Keys | Scan::Dimensions(_) => 0,
        };
        self.steps.iter().map(width).max().unwrap_or(0)
    }

    /// The head as it was before the first step: it gives the same answers again, step by step.
    pub fn replay(&self) -> ReplayedHead<'_> {
        ReplayedHead { recording: Cow::Borrowed(self), step: None, fresh: SlotOrder::default() }
    }
}

/// A head that answers from its recording.
pub struct ReplayedHead<'r> {
    recording: Cow<'r, HeadRecording>,
    /// The step of the last [`HeadState::grow`].
    step: Option<usize>,
    /// The order before the first step, which nobody asks for.
    fresh: SlotOrder,
}

impl ReplayedHead<'static> {
    /// Of a recording of its own.
    pub(super) fn owned(recording: HeadRecording) -> Self {
        ReplayedHead { recording: Cow::Owned(recording), step: None, fresh: SlotOrder::default() }
    }
}

impl ReplayedHead<'_> {
    /// Takes the next step, which sees so many tokens, and gives the tokens of each query head. It needs no keys.
    ///
    /// # Panics
    /// When the recording has no such step.
    pub fn next(&mut self, len: usize, out: &mut [Vec<u32>]) {
        self.advance(len);
        self.selected(len, out);
    }

    fn advance(&mut self, len: usize) {
        let next = self.step.map_or(0, |step| step + 1);
        assert_eq!(self.recording.steps.get(next).map(|step| step.len), Some(len), "a replay goes step by step");
        self.step = Some(next);
    }

    fn selected(&self, len: usize, out: &mut [Vec<u32>]) {
        let tokens = self.now().map_or(&[][..], |now| &now.tokens);
        for (out, tokens) in out.iter_mut().zip(tokens) {
            match tokens {
                RecordedTokens::All => select_all(len, out),
                RecordedTokens::Some(tokens) => {
                    out.clear();
                    out.extend_from_slice(tokens);
                }
            }
        }
    }

    fn now(&self) -> Option<&RecordedStep> {
        self.recording.steps.get(self.step?)
    }
}

impl HeadState for ReplayedHead<'_> {
    fn grow(&mut self, keys: Rows<'_>) {
        self.advance(keys.len());
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.selected(step.tokens(), out);
    }

    fn order(&self) -> &SlotOrder {
        self.now().map_or(&self.fresh, |now| &now.order)
    }

    fn scan(&self) -> Scan<'_> {
        self.now().map_or(Scan::Nothing, |now| now.scan.scan())
    }

    fn clusterings(&self) -> &[Clustering] {
        self.now().map_or(&self.recording.prepared, |now| &now.clusterings)
    }

    fn blend(&self) -> &[f32] {
        self.now().map_or(&[], |now| &now.shares)
    }

    fn rescored(&self) -> &[Vec<f32>] {
        self.now().map_or(&[], |now| &now.scores)
    }
}
