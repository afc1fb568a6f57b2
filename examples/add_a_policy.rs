//! A policy that is in no registry, beside `full` and `quest`: every n-th token, and the one being decoded.
//!
//! `cargo run --example add_a_policy`. docs/add-a-policy.md says how a policy gets into the registry.

use pimattn::{
    Generator, HeadState, HeadView, Policy, Result, Rows, SlotOrder, StepView, SyntheticSpec, Workload, kv, simulate,
    systems,
};

/// Selects tokens at even steps, as many as the budget holds.
struct Strided;

impl Policy for Strided {
    fn name(&self) -> &'static str {
        "strided"
    }

    fn prepare(&self, _: HeadView<'_>) -> Box<dyn HeadState + Send> {
        // Tokens lie in memory by position.
        Box::new(StridedHead { order: SlotOrder::default() })
    }
}

struct StridedHead {
    order: SlotOrder,
}

impl HeadState for StridedHead {
    fn grow(&mut self, _: Rows<'_>) {}

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        let count = step.budget.min(step.tokens());
        for selected in out {
            selected.clear();
            // Ascending, distinct, and the last one is the token being decoded.
            selected.extend((1..=count).map(|i| (i * step.tokens() / count - 1) as u32));
        }
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }
}

fn main() -> Result<()> {
    let shape =
        SyntheticSpec { layers: 1, kv_heads: 2, query_heads: 4, prefill: 512, decode_steps: 2, ..Default::default() };
    let cache = kv::synthetic::generate(&shape)?;
    let system = systems::load("hbm3-pim")?;
    for policy in ["full", "quest", "strided"] {
        let workload = Workload::new(policy, 128);
        let generator = match policy {
            "strided" => Generator::with_policy(system.clone(), workload, cache.clone(), Box::new(Strided))?,
            _ => Generator::new(system.clone(), workload, cache.clone())?,
        };
        let outcome = simulate(&generator)?;
        let wanted = &outcome.collector.run.wanted;
        println!("{policy:8} {:7.0} ns, {} tokens selected", outcome.time_ns, wanted.selected);
    }
    Ok(())
}
