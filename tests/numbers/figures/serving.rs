//! docs/serving.md.

use super::{prose, table};
use crate::common::system;
use pimattn::{Generator, MemoryTrace, SyntheticSpec, Workload, kv, replay};
use pimattn_experiments::latency::{BASE, LatencyModel, LatencyPoint, idle_mw};

const POLICIES: [&str; 4] = ["full", "streaming", "quest", "starc"];
const CONTEXTS: [usize; 3] = [2048, 4096, 8192];
const BUDGET: usize = 512;
const STEPS: usize = 64;

/// Lines of policies, for the formula's own shape.
pub(super) fn lines(_: &str) -> String {
    let one = system("hbm3-pim", &["channels=1"]);
    let attend = |policy: &str, prefill: usize| {
        let spec = SyntheticSpec { layers: 1, prefill, decode_steps: STEPS, seed: 1, ..SyntheticSpec::default() };
        let cache = kv::synthetic::generate(&spec).unwrap();
        let generator = Generator::new(one.clone(), Workload::new(policy, BUDGET), cache).unwrap();
        // Kept, and replayed when it is whole: figures are worked out side by side, and a replay that waits for its generator
        // would hold a thread that the generator needs.
        let mut trace = MemoryTrace::new(generator.header().clone());
        generator.run(&mut trace, None, &mut |_| ()).unwrap();
        let outcome = replay(&one, &mut trace.source().unwrap()).unwrap();
        LatencyPoint {
            context: prefill as f64 + (STEPS as f64 + 1.0) / 2.0,
            ns: outcome.time_ns / STEPS as f64,
            mw: outcome.energy.total() / outcome.time_ns,
        }
    };
    let runs: Vec<(usize, usize)> = (0..POLICIES.len()).flat_map(|p| CONTEXTS.map(|c| (p, c))).collect();
    let points: Vec<LatencyPoint> = runs.iter().map(|(p, context)| attend(POLICIES[*p], *context)).collect();
    let models: Vec<LatencyModel> =
        points.chunks(CONTEXTS.len()).map(|points| LatencyModel::fit(BASE, points.to_vec()).unwrap()).collect();
    let head = ["policy", "slope, ns a token", "intercept, us", "largest error", "peak, mW", "us at 8192 + 32.5"];
    let rows = POLICIES.iter().zip(&models).map(|(policy, model)| {
        let [slope, intercept] = model.base();
        vec![
            policy.to_string(),
            format!("{slope:.3}"),
            format!("{:.2}", intercept / 1000.0),
            format!("{:.2} %", 100.0 * model.worst_error()),
            format!("{:.0}", model.peak_mw()),
            format!("{:.1}", model.points[CONTEXTS.len() - 1].ns / 1000.0),
        ]
    });
    let text = format!(
        "A layer of LLaMA-3.1-8B in one channel of HBM3-PIM at 5.2 Gbps, contexts of {} tokens, budget {BUDGET}, {STEPS} steps. \
         The idle channel takes {:.0} mW.",
        CONTEXTS.map(|c| c.to_string()).join(", "),
        idle_mw(&one)
    );
    format!("{}\n{}", prose(&text), table(&head, &[false, true, true, true, true, true], rows))
}
