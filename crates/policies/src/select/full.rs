//! `full`: dense attention, the baseline.

use super::{Entry, HeadState, HeadView, Policy, SlotOrder, StepView, parse, select_all};
use pimattn_kv::Rows;
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "full",
    summary: "every token; ignores the budget (dense attention)",
    build: |table| Ok(Box::new(parse::<Full>(table)?)),
};

/// Selects every token. Has no parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Full {}

impl Policy for Full {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn heeds_budget(&self) -> bool {
        false
    }

    fn prepare(&self, _: HeadView<'_>) -> Box<dyn HeadState + Send> {
        Box::new(FullHead::default())
    }
}

#[derive(Default)]
struct FullHead {
    order: SlotOrder,
}

impl HeadState for FullHead {
    fn grow(&mut self, _: Rows<'_>) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        out.iter_mut().for_each(|out| select_all(step.tokens(), out));
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }
}
