//! `oracle`: the tokens with the highest true scores, the upper bound of token-wise selection.

use super::shortlist::{self, Shortlist};
use super::topk::TopK;
use super::{Entry, HeadState, HeadView, Policy, Scan, SlotOrder, StepView, parse, select_all};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
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

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        let keys = head.keys;
        Box::new(OracleHead {
            shortlist: shortlist::supported(keys.dim).then(|| Shortlist::new(keys.dim, keys.len())),
            scores: Vec::new(),
            chose: false,
            order: SlotOrder::default(),
            topk: TopK::default(),
        })
    }
}

struct OracleHead {
    /// Of the tokens at the last step without scores; none where it is of no use.
    shortlist: Option<Shortlist>,
    /// Per query head; empty where there is a shortlist.
    scores: Vec<Vec<f32>>,
    /// Whether the last step had to choose.
    chose: bool,
    order: SlotOrder,
    topk: TopK,
}

impl OracleHead {
    /// Selects by scores of its own.
    fn select_unscored(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        let keys = step.keys;
        if let Some(shortlist) = &mut self.shortlist {
            let newer = keys.range(shortlist.len()..step.tokens());
            if shortlist.extend(newer) && shortlist.best(keys, step.queries, step.budget, out) {
                return;
            }
            self.shortlist = None;
        }
        self.scores.resize(step.queries.len(), Vec::new());
        self.scores.iter_mut().for_each(|scores| scores.resize(step.tokens(), 0.0));
        linalg::all_dots(step.queries, keys.data, &mut self.scores);
        for (scores, out) in self.scores.iter().zip(out) {
            out.clear();
            self.topk.best(scores, step.budget, out);
        }
    }
}

impl HeadState for OracleHead {
    fn grow(&mut self, _: Rows<'_>) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        self.chose = step.tokens() > step.budget;
        if !self.chose {
            out.iter_mut().for_each(|out| select_all(step.tokens(), out));
            return;
        }
        if step.scores.is_empty() {
            return self.select_unscored(step, out);
        }
        for (scores, out) in step.scores.iter().zip(out) {
            out.clear();
            self.topk.best(&scores[..step.tokens()], step.budget, out);
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

        #[test]
        fn selects_the_same_without_being_told_the_scores(case in testing::cases(), large in any::<bool>()) {
            let mut case = case;
            if large {
                // Beyond what a shortlist takes, from some token on.
                let at = case.keys.len() / 2;
                case.keys[at] = 1e13;
            }
            let queries = case.dumped_queries();
            let mut unscored = Oracle {}.prepare(case.head(&queries));
            let mut out = vec![vec![7]; case.queries.len()];
            testing::run(&Oracle {}, &case, |step, selected, _| {
                unscored.grow(step.keys);
                unscored.select(StepView { scores: &[], ..step }, &mut out);
                prop_assert_eq!(&out, selected);
                Ok(())
            })?;
        }
    }
}
