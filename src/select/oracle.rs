//! `oracle`: the tokens with the highest true scores, the upper bound of token-wise selection.

use super::topk::TopK;
use super::{Entry, HeadState, HeadView, Policy, Scan, SlotOrder, StepView, parse};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "oracle",
    summary: "the tokens of highest true q·k; upper bound of token-wise selection",
    build: |table| Ok(Box::new(parse::<Oracle>(table)?)),
};

/// Selects the `budget` tokens of highest q·k; of equal scores, the earlier token. Has no parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oracle {}

impl Policy for Oracle {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn needs_scores(&self) -> bool {
        true
    }

    fn prepare<'a>(&self, _: HeadView<'a>) -> Box<dyn HeadState + Send + 'a> {
        Box::new(Head::default())
    }
}

#[derive(Default)]
struct Head {
    /// Whether the last step had to choose.
    chose: bool,
    order: SlotOrder,
    topk: TopK,
}

impl HeadState for Head {
    fn grow(&mut self, _: usize) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.chose = step.len > step.budget;
        for (scores, out) in step.scores.iter().zip(out) {
            let scores = &scores[..step.len];
            out.clear();
            self.topk.best(scores, step.budget, out);
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn scan(&self) -> Scan<'_> {
        if self.chose { Scan::Keys } else { Scan::Nothing }
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
        fn agrees_with_sorting_all_scores(case in testing::cases()) {
            testing::compare(&Oracle {}, &case, &Oracle {})?;
        }
    }
}
