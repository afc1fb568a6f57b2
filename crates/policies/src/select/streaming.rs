//! `streaming`: attention sinks and a sliding window.

use super::{Entry, HeadState, HeadView, Policy, SlotOrder, StepView, parse, select_all};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "streaming",
    summary: "the first tokens (attention sinks) and the most recent ones (StreamingLLM)",
    build: |table| Ok(Box::new(parse::<Streaming>(table)?)),
};

/// Selects the first `sinks` tokens and the most recent `budget - sinks` (Xiao et al., ICLR 2024).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streaming {
    /// Attention sinks, in tokens (4 in the paper).
    pub sinks: usize,
}

impl Default for Streaming {
    fn default() -> Self {
        Self { sinks: 4 }
    }
}

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    /// The sinks and the token being decoded.
    fn min_budget(&self) -> usize {
        self.sinks + 1
    }

    fn prepare<'a>(&self, _: HeadView<'a>) -> Box<dyn HeadState + Send + 'a> {
        Box::new(StreamingHead { sinks: self.sinks, order: SlotOrder::default() })
    }
}

struct StreamingHead {
    sinks: usize,
    order: SlotOrder,
}

impl HeadState for StreamingHead {
    fn grow(&mut self, _: usize) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        for out in out {
            if step.len <= step.budget {
                select_all(step.len, out);
                continue;
            }
            let sinks = self.sinks.min(step.budget);
            let recent = step.len - (step.budget - sinks);
            out.clear();
            out.extend((0..sinks as u32).chain(recent as u32..step.len as u32));
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn takes_both_ends(case in testing::cases(), sinks in 0usize..6) {
            let streaming = Streaming { sinks };
            testing::compare(&streaming, &case, &streaming)?;
        }
    }
}
