//! What matters of a cache to a study of sparse attention, measured: how concentrated its attention is, what policies
//! select of it and where that lies, and how large STARC's clusters are.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_kv::{KvCache, KvView};
use pimattn_policies::accuracy::{OutputOf, RowShape, Scratch, exact_scores};
use pimattn_policies::select::{self, HeadState, HeadView, Policy, StepView};
use rayon::prelude::*;

/// What is measured.
#[derive(Debug, Clone)]
pub struct AgreementPlan {
    /// Policies of the registry, with their default parameters.
    pub policies: Vec<&'static str>,
    /// Budgets (tokens).
    pub budgets: Vec<usize>,
    /// Every so many decode positions are measured.
    pub every: usize,
    /// Seed of policies that draw.
    pub seed: u64,
}

/// Means of a policy at a budget over decode positions and query heads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PolicyMeans {
    /// Row-blocks of 16 slots touched, times 16.
    pub row_tokens: f64,
    /// Share of the budget's best tokens selected.
    pub top_recall: f64,
    /// Softmax mass on the selected.
    pub mass_recall: f64,
    /// Relative error of the output, of those that have one; NaN where none has.
    pub output_rel_err: f64,
}

/// What was measured of one KV head and its query heads.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadMeasurement {
    /// Layer of the model.
    pub layer: u32,
    /// KV head within the layer.
    pub kv_head: usize,
    /// `[policy, budget]`, in the plan's order.
    pub means: Vec<PolicyMeans>,
    /// Softmax mass of the top 5 % of the tokens.
    pub top_mass: f64,
    /// STARC's clusters of the prefill by size: `[tokens - 1]`.
    pub cluster_sizes: Vec<u64>,
}

/// Measures every head of a cache.
///
/// Errors: [`Error::Usage`] for an unknown policy or a budget that it cannot honour, [`Error::Interrupted`].
pub fn measure(
    cancel: &Cancel,
    kv: &KvCache,
    plan: &AgreementPlan,
    progress: &(dyn Fn() + Sync),
) -> Result<Vec<HeadMeasurement>> {
    let policies: Vec<Box<dyn Policy>> = plan
        .policies
        .iter()
        .map(|name| {
            let entry = select::find(name).map_err(Error::Usage)?;
            (entry.build)(&toml::Table::new()).map_err(|e| Error::Usage(format!("policy {name}: {e}")))
        })
        .collect::<Result<_>>()?;
    for policy in &policies {
        if let Some(b) = plan.budgets.iter().find(|b| **b < policy.min_budget()) {
            let what = format!("budget {b} is below the {} tokens that {} needs", policy.min_budget(), policy.name());
            return Err(Error::Usage(what));
        }
    }
    let kv = kv.clone().in_memory(cancel)?;
    let kv = kv.view()?;
    let layers: Vec<Vec<HeadMeasurement>> = (0..kv.layers.len())
        .into_par_iter()
        .map(|l| layer(cancel, kv, l, &policies, plan, progress))
        .collect::<Result<_>>()?;
    Ok(layers.into_iter().flatten().collect())
}

fn layer(
    cancel: &Cancel,
    kv: KvView<'_>,
    layer: usize,
    policies: &[Box<dyn Policy>],
    plan: &AgreementPlan,
    progress: &(dyn Fn() + Sync),
) -> Result<Vec<HeadMeasurement>> {
    let view = |kv_head| HeadView {
        keys: kv.keys(layer, kv_head),
        prefill: kv.prefill,
        queries: kv.group_queries(layer, kv_head),
        query_start: kv.query_start,
        seed: plan.seed ^ ((layer * kv.kv_heads + kv_head) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        memo: None,
    };
    let views: Vec<HeadView<'_>> = (0..kv.kv_heads).map(view).collect();
    let mut heads: Vec<Vec<States>> = views.iter().map(|_| Vec::new()).collect();
    for policy in policies {
        let remembers = policy.remembers();
        heads.iter_mut().for_each(|states| states.push(States { states: Vec::new(), remembers }));
        for _ in 0..if remembers { plan.budgets.len() } else { 1 } {
            for (states, state) in heads.iter_mut().zip(policy.prepare_layer(&views)) {
                states.last_mut().expect("pushed above").states.push(state);
            }
        }
    }
    let measured = heads.into_par_iter().enumerate().map(|(kv_head, states)| {
        let measured = head(cancel, kv, layer, kv_head, views[kv_head], states, plan);
        progress();
        measured
    });
    measured.collect()
}

/// A policy's states of a head: one for all budgets, or one each where what it selected before matters.
struct States {
    states: Vec<Box<dyn HeadState + Send>>,
    remembers: bool,
}

/// What a policy selected at a step, by query head, and its blend.
#[derive(Clone)]
struct StepSelection {
    tokens: Vec<Vec<u32>>,
    shares: Vec<f32>,
    rescored: Vec<Vec<f32>>,
}

fn head(
    cancel: &Cancel,
    kv: KvView<'_>,
    layer: usize,
    kv_head: usize,
    view: HeadView<'_>,
    mut states: Vec<States>,
    plan: &AgreementPlan,
) -> Result<HeadMeasurement> {
    let (group, scale) = (kv.group(), (kv.dim as f32).sqrt().recip());
    let mut means = vec![PolicyMeans::default(); states.len() * plan.budgets.len()];
    let mut errors = vec![0usize; means.len()];
    let mut scores = vec![Vec::new(); group];
    let mut tokens = vec![Vec::new(); group];
    let mut selections =
        vec![StepSelection { tokens: vec![Vec::new(); group], shares: Vec::new(), rescored: Vec::new() }; means.len()];
    let mut scratch = Scratch::default();
    let (mut weights, mut top_mass, mut count) = (Vec::new(), 0.0, 0usize);
    for (step, position) in kv.decode_positions().enumerate() {
        cancel.check()?;
        let len = position + 1;
        let keys = view.keys.range(0..len);
        let layer_queries = kv.queries_at(layer, position);
        let queries = &layer_queries[kv_head * group..][..group];
        let measured = step % plan.every == 0;
        if measured {
            exact_scores(keys, len, queries, &mut scores);
        }
        for (p, s) in states.iter_mut().enumerate() {
            if !measured && !s.remembers {
                continue;
            }
            let needed = if measured { &scores[..] } else { &[] };
            for (b, budget) in plan.budgets.iter().copied().enumerate() {
                let state = if s.remembers { &mut s.states[b] } else { &mut s.states[0] };
                if s.remembers || b == 0 {
                    state.grow(keys);
                }
                let step = StepView { keys, budget, queries, layer_queries: &layer_queries, scores: needed };
                state.select(step, &mut tokens);
                if measured {
                    let StepSelection { tokens: selected, shares, rescored } =
                        &mut selections[p * plan.budgets.len() + b];
                    std::mem::swap(&mut tokens, selected);
                    shares.clear();
                    shares.extend_from_slice(state.blend());
                    rescored.clear();
                    rescored.extend_from_slice(state.rescored());
                }
            }
        }
        if !measured {
            continue;
        }
        for (g, scores) in scores.iter().enumerate() {
            let mut attention = scratch.attend(scores, scale, kv.values(layer, kv_head));
            // Budget by budget: the threshold of the best is found once for each.
            for (b, budget) in plan.budgets.iter().copied().enumerate() {
                for (p, s) in states.iter().enumerate() {
                    let state = if s.remembers { &s.states[b] } else { &s.states[0] };
                    let at = p * plan.budgets.len() + b;
                    let share = selections[at].shares.get(g).copied().unwrap_or(1.0);
                    let a = attention.measure_output(
                        &selections[at].tokens[g],
                        OutputOf { share, scores: selections[at].rescored.get(g).map(Vec::as_slice) },
                        budget,
                        state.order(),
                        RowShape::default(),
                    );
                    means[at].row_tokens += a.row_tokens as f64;
                    means[at].top_recall += a.top_recall;
                    means[at].mass_recall += a.mass_recall;
                    means[at].output_rel_err += a.output_rel_err.unwrap_or(0.0);
                    errors[at] += usize::from(a.output_rel_err.is_some());
                }
            }
            weights.clear();
            weights.resize(len, 0.0);
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().zip(scores).for_each(|(w, s)| *w = ((s - highest) * scale).exp());
            let all: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            weights.sort_unstable_by(|a, b| b.total_cmp(a));
            top_mass += weights[..(len / 20).max(1)].iter().map(|w| f64::from(*w)).sum::<f64>() / all;
            count += 1;
        }
    }
    let n = count.max(1) as f64;
    for (m, errors) in means.iter_mut().zip(errors) {
        let PolicyMeans { row_tokens, top_recall, mass_recall, output_rel_err } = m;
        [row_tokens, top_recall, mass_recall].into_iter().for_each(|x| *x /= n);
        *output_rel_err /= errors as f64;
    }
    Ok(HeadMeasurement {
        layer: kv.layers[layer],
        kv_head,
        means,
        top_mass: top_mass / n,
        cluster_sizes: cluster_sizes(view),
    })
}

/// Sizes of STARC's clusters of the prefill, with its default parameters.
fn cluster_sizes(view: HeadView<'_>) -> Vec<u64> {
    let starc = select::starc::Starc::default();
    let mut sizes = vec![0; starc.block];
    let state = starc.prepare(view);
    let order = state.order();
    let ends = order.cluster_starts.iter().skip(1).chain([&order.clustered]);
    for (start, end) in order.cluster_starts.iter().zip(ends) {
        sizes[(end - start) as usize - 1] += 1;
    }
    sizes
}
