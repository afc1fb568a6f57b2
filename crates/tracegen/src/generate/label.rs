//! What a run says of its selection, and of what its figures leave out.

use super::chosen::{Chosen, ImportedSelection};
use super::selections::{self, CacheSet};
use pimattn_core::beyond::BeyondFit;
use pimattn_core::error::Result;
use pimattn_core::spec::config::Document;
use pimattn_mapping::workload::Workload;
use pimattn_policies::select::Preparation;
use pimattn_trace::label::SelectionLabel;

/// The label of a workload's results.
pub(crate) fn of(workload: &Workload, doc: &Document, chosen: &Chosen, cached: &CacheSet) -> Result<SelectionLabel> {
    Ok(SelectionLabel {
        policy: chosen.name().into(),
        budget: workload.budget as u64,
        layers: cached.caches().first().map_or(0, |c| c.layers.len() as u32),
        cache_hash: cached.hash().into(),
        selection_hash: match chosen {
            Chosen::Policy(_) => selections::selection_hash(workload, doc)?,
            Chosen::Imported(imported) => imported.hash,
        },
        cautions: cautions(workload, chosen, cached),
    })
}

/// What a reader has to know of a run, without commas, which tables would have to quote: where it is too short for its policy, or its cache does not have what is asked of it.
fn cautions(workload: &Workload, policy: &Chosen, cached: &CacheSet) -> Vec<String> {
    let mut out = Vec::new();
    let caches = cached.caches();
    let there = caches.iter().map(|c| c.decode_positions().len()).min().unwrap_or(0);
    let steps = if workload.steps == 0 { there } else { there.min(workload.steps) };
    if workload.steps > there {
        out.push(format!("{} steps asked for: the cache has queries of {there}", workload.steps));
    }
    if let Chosen::Imported(ImportedSelection { cut: Some(cut), .. }) = policy {
        out.push(format!("the selection has {cut} decode steps: the cache has queries of {there}"));
    }
    let period = policy.period();
    if steps > 0 && !steps.is_multiple_of(period) {
        out.push(format!("{steps} decode steps: no whole periods of {} ({period} steps)", policy.name()));
    }
    let shortest = caches.iter().map(|c| c.decode_positions().start).min().unwrap_or(0);
    if policy.heeds_budget() && workload.budget >= shortest {
        out.push(format!("a budget of {} holds all {shortest} tokens of the prefill", workload.budget));
    }
    let has_queries = |c: &pimattn_kv::KvCache| c.query_start < c.prefill;
    if policy.prepares_from() == Preparation::Queries && !caches.iter().all(has_queries) {
        let name = policy.name();
        out.push(format!(
            "{name} prepares from queries of the prefill and the cache has none: it selects otherwise than published"
        ));
    }
    let beyond = cached.longest().and_then(|c| BeyondFit::said_in(&c.provenance));
    out.extend(beyond.map(|BeyondFit { tokens, fitted, rescaled }| {
        let how = if rescaled { "rescaled" } else { "not rescaled" };
        format!(
            "a synthetic cache of {tokens} tokens is longer than the {fitted} that it is fitted to (rotation {how})"
        )
    }));
    out
}
