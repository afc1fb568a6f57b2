//! `recent`: the newest tokens, and a few older ones at even steps.

use super::{Entry, HeadState, HeadView, Policy, SlotOrder, StepView, parse, require, select_all};
use pimattn_kv::Rows;
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "recent",
    summary: "the newest tokens, and older ones at even steps",
    build: |table| {
        let recent: Recent = parse(table)?;
        require(recent.older > 0, "older", "must be at least 1")?;
        Ok(Box::new(recent))
    },
};

/// Selects `older` tokens at even steps from the beginning, and the newest ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recent {
    /// Older tokens (assumed).
    pub older: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { older: 8 }
    }
}

impl Policy for Recent {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    /// The older tokens and the one being decoded.
    fn min_budget(&self) -> usize {
        self.older + 1
    }

    fn prepare(&self, _: HeadView<'_>) -> Box<dyn HeadState + Send> {
        Box::new(Head { older: self.older, order: SlotOrder::default() })
    }
}

struct Head {
    older: usize,
    order: SlotOrder,
}

impl HeadState for Head {
    fn grow(&mut self, _: Rows<'_>) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        for out in out {
            if step.tokens() <= step.budget {
                select_all(step.tokens(), out);
                continue;
            }
            let older = self.older.min(step.budget);
            let newest = step.tokens() - (step.budget - older);
            out.clear();
            out.extend((0..older).map(|i| (i * newest / older) as u32).chain(newest as u32..step.tokens() as u32));
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }
}
