//! How a synthetic cache agrees with a real one in what matters to a study of sparse attention.

#[cfg(test)]
mod lengths;
pub mod measure;

use self::measure::{AgreementPlan, HeadMeasurement, PolicyMeans, measure};
use pimattn_core::beyond::BeyondFit;
use pimattn_core::cancel::Cancel;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{Measure, Value, measure as measured};
use pimattn_kv::fitted::{self, FittedModel, FittedShape};
use pimattn_kv::rope::RopeScaling;
use pimattn_kv::{Elements, KvCache};
use pimattn_policies::select;
use std::fmt::Write;

/// Columns of the table.
pub const COLUMNS: &[Measure<AgreementFigure>] = &[
    measured("layer", "-", "layer of the model, or \"all\" of those compared", |c| {
        c.layer.map_or("all".into(), Value::from)
    }),
    measured(
        "measure",
        "-",
        "row_tokens, top_recall, mass_recall, output_rel_err (as in the metrics of a run); top_mass: softmax mass of the \
         5 % of the tokens with the highest scores; cluster_size: share of starc's clusters of the prefill that have so \
         many tokens",
        |c| c.measure.into(),
    ),
    measured("policy", "-", "selection policy", |c| c.policy.into()),
    measured("at", "tokens", "budget; for cluster_size, tokens of a cluster", |c| c.at.into()),
    measured(
        columns::FITTED_TOKENS,
        "tokens",
        "of the text that the synthetic cache is fitted to, where the cache is longer than it; else empty",
        |c| c.beyond_fit.map(|b| b.fitted).into(),
    ),
    measured("real", "-", "mean over query heads and decode positions of the real cache", |c| digits(c.real)),
    measured("synthetic", "-", "the same of the synthetic cache, mean over seeds", |c| digits(c.mean())),
    measured("lowest", "-", "of the seeds", |c| c.extreme(f64::min)),
    measured("highest", "-", "of the seeds", |c| c.extreme(f64::max)),
    measured("difference", "1", "synthetic / real - 1 for row_tokens, else synthetic - real", |c| {
        digits(c.difference())
    }),
];

fn digits(x: f64) -> Value {
    Value::Float(x, 6)
}

/// One figure of both caches.
#[derive(Debug, Clone, PartialEq)]
pub struct AgreementFigure {
    /// Layer, or all.
    pub layer: Option<u32>,
    /// What it is.
    pub measure: &'static str,
    /// Of which policy.
    pub policy: Option<&'static str>,
    /// Budget, or size of a cluster.
    pub at: Option<usize>,
    /// What the synthetic caches say of themselves where they are longer than the text that they are fitted to.
    pub beyond_fit: Option<BeyondFit>,
    /// Of the real cache.
    pub real: f64,
    /// Of each synthetic cache.
    pub synthetic: Vec<f64>,
}

impl AgreementFigure {
    /// Mean over the synthetic caches.
    pub fn mean(&self) -> f64 {
        self.synthetic.iter().sum::<f64>() / self.synthetic.len() as f64
    }

    /// Of the synthetic mean from the real figure; relative for row tokens.
    pub fn difference(&self) -> f64 {
        if self.measure == columns::ROW_TOKENS { self.mean() / self.real - 1.0 } else { self.mean() - self.real }
    }

    fn extreme(&self, of: fn(f64, f64) -> f64) -> Value {
        self.synthetic.iter().copied().reduce(of).map_or(Value::Unknown, digits)
    }
}

/// The order of policies by a recall at a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyOrder {
    /// Layer, or all.
    pub layer: Option<u32>,
    /// By which recall.
    pub measure: &'static str,
    /// Budget.
    pub budget: usize,
    /// Best first, of the real cache; without those that one seed does not rank.
    pub real: Vec<&'static str>,
    /// Pairs of policies that are the other way round in the synthetic mean, the one that is better in the real cache
    /// first, with by how much it is better there and worse here.
    pub swapped: Vec<(&'static str, &'static str, f64, f64)>,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// What the synthetic caches say of themselves where they are longer than the text that they are fitted to.
    pub beyond_fit: Option<BeyondFit>,
    /// All figures: of each layer, then of all.
    pub cells: Vec<AgreementFigure>,
    /// Orders of policies: of each layer, then of all.
    pub orders: Vec<PolicyOrder>,
}

/// The cache that a model makes up in place of some layers of a real one.
pub fn stand_in(model: &FittedModel, real: &KvCache, seed: u64) -> Result<KvCache> {
    stand_in_until(&Cancel::new(), model, real, seed)
}

/// [`stand_in`], unless `cancel` is requested.
///
/// Errors: as there, and [`Error::Interrupted`].
pub fn stand_in_until(cancel: &Cancel, model: &FittedModel, real: &KvCache, seed: u64) -> Result<KvCache> {
    let fits = |what: &str, of_model: usize, of_real: usize| match of_model == of_real {
        true => Ok(()),
        false => Err(Error::Usage(format!("the fitted model has {what} {of_model}, the dump {of_real}"))),
    };
    fits("dim", model.dim, real.dim)?;
    let steps = real.decode_positions().len();
    let shape = FittedShape {
        layers: real.layers.clone(),
        model_layers: model.model_layers,
        kv_heads: real.kv_heads,
        query_heads: real.query_heads,
        dim: real.dim,
        prefill: real.prefill,
        decode_steps: steps,
        prefill_queries: real.prefill.saturating_sub(real.query_start),
        element_bytes: real.element_bytes,
        rope_scaling: RopeScaling::default(),
        seed,
    };
    fitted::generate_until(cancel, model, &shape)
}

/// Some layers of a cache, by their numbers, in the cache's order.
///
/// Errors: [`Error::Usage`] when it has not all of them.
pub fn layers_of(kv: &KvCache, numbers: &[u32]) -> Result<KvCache> {
    if let Some(missing) = numbers.iter().find(|l| !kv.layers.contains(l)) {
        return Err(Error::Usage(format!("the dump has no layer {missing}; it has {:?}", kv.layers)));
    }
    let chosen: Vec<usize> = (0..kv.layers.len()).filter(|l| numbers.contains(&kv.layers[*l])).collect();
    let cut = |data: &Elements| {
        let n = data.len() / kv.layers.len();
        data.pick(chosen.iter().map(|l| l * n..(l + 1) * n))
    };
    Ok(KvCache {
        layers: chosen.iter().map(|l| kv.layers[*l]).collect(),
        k: cut(&kv.k),
        v: cut(&kv.v),
        q: cut(&kv.q),
        provenance: kv.provenance.clone(),
        ..*kv
    })
}

/// What there was of a cache before decoding began: its prefill, and the queries of that.
///
/// Errors: [`Error::Usage`] when it has no such queries.
pub fn before_decode(kv: &KvCache) -> Result<KvCache> {
    let queries = kv.prefill.saturating_sub(kv.query_start).min(kv.queries);
    if queries == 0 {
        return Err(Error::Usage("the dump has no queries of its prefill".into()));
    }
    let cut = |data: &Elements, rows: usize, keep: usize| {
        let heads = (0..data.len()).step_by(rows * kv.dim);
        data.pick(heads.map(|head| head..head + keep * kv.dim))
    };
    Ok(KvCache {
        layers: kv.layers.clone(),
        tokens: kv.prefill,
        queries,
        k: cut(&kv.k, kv.tokens, kv.prefill),
        v: cut(&kv.v, kv.tokens, kv.prefill),
        q: cut(&kv.q, kv.queries, queries),
        provenance: format!("{}, before decoding", kv.provenance),
        ..*kv
    })
}

impl Agreement {
    /// Measures a real cache and synthetic ones of the same layers.
    pub fn new(
        real: &KvCache,
        synthetic: impl IntoIterator<Item = Result<KvCache>>,
        plan: &AgreementPlan,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Self> {
        Agreement::new_until(&Cancel::new(), real, synthetic, plan, progress)
    }

    /// [`Agreement::new`], unless `cancel` is requested.
    ///
    /// Errors: as there, and [`Error::Interrupted`].
    pub fn new_until(
        cancel: &Cancel,
        real: &KvCache,
        synthetic: impl IntoIterator<Item = Result<KvCache>>,
        plan: &AgreementPlan,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Self> {
        let real_heads = measure(cancel, real, plan, progress)?;
        let (mut synthetic_heads, mut beyond_fit) = (Vec::new(), None);
        for kv in synthetic {
            let kv = kv?;
            beyond_fit = BeyondFit::said_in(&kv.provenance).or(beyond_fit);
            if kv.layers != real.layers {
                let what = format!("layers {:?} cannot be compared with layers {:?}", kv.layers, real.layers);
                return Err(Error::Usage(what));
            }
            synthetic_heads.push(measure(cancel, &kv, plan, progress)?);
        }
        let mut agreement = Agreement { beyond_fit, cells: Vec::new(), orders: Vec::new() };
        for layer in real.layers.iter().map(|l| Some(*l)).chain([None]) {
            let real = LayerMeans::new(&real_heads, layer);
            let synthetic: Vec<LayerMeans> = synthetic_heads.iter().map(|h| LayerMeans::new(h, layer)).collect();
            agreement.scope(layer, &real, &synthetic, plan);
        }
        Ok(agreement)
    }

    fn scope(&mut self, layer: Option<u32>, real: &LayerMeans, synthetic: &[LayerMeans], plan: &AgreementPlan) {
        let beyond_fit = self.beyond_fit;
        let mut cell = |measure, policy, at, of: &dyn Fn(&LayerMeans) -> f64| {
            let synthetic = synthetic.iter().map(of).collect();
            self.cells.push(AgreementFigure { layer, measure, policy, at, beyond_fit, real: of(real), synthetic });
        };
        let n = plan.budgets.len();
        for (name, of) in MEASURES {
            for (p, policy) in plan.policies.iter().enumerate() {
                for (b, budget) in plan.budgets.iter().enumerate() {
                    cell(name, Some(*policy), Some(*budget), &|s| of(&s.means[p * n + b]));
                }
            }
        }
        cell("top_mass", None, None, &|s| s.top_mass);
        for size in 0..real.cluster_shares.len() {
            cell("cluster_size", Some(select::starc::ENTRY.name), Some(size + 1), &|s| s.cluster_shares[size]);
        }
        for (measure, of) in MEASURES.iter().filter(|(name, _)| name.ends_with("_recall")) {
            for (b, budget) in plan.budgets.iter().enumerate() {
                let of_real = |p: usize| of(&real.means[p * n + b]);
                let of_synthetic =
                    |p: usize| synthetic.iter().map(|s| of(&s.means[p * n + b])).sum::<f64>() / synthetic.len() as f64;
                let mut ranked: Vec<usize> =
                    (0..plan.policies.len()).filter(|p| select::one_seed_ranks(plan.policies[*p])).collect();
                ranked.sort_by(|x, y| of_real(*y).total_cmp(&of_real(*x)));
                let pairs = ranked.iter().enumerate().flat_map(|(i, x)| ranked[i + 1..].iter().map(move |y| (*x, *y)));
                let gaps = pairs.map(|(x, y)| (x, y, of_real(x) - of_real(y), of_synthetic(y) - of_synthetic(x)));
                let swapped = gaps.filter(|(_, _, real, synthetic)| *real > 0.0 && *synthetic > 0.0);
                self.orders.push(PolicyOrder {
                    layer,
                    measure,
                    budget: *budget,
                    real: ranked.iter().map(|p| plan.policies[*p]).collect(),
                    swapped: swapped.map(|(x, y, r, s)| (plan.policies[x], plan.policies[y], r, s)).collect(),
                });
            }
        }
    }

    /// Cells of row tokens that differ by more than a share.
    pub fn beyond(&self, tolerance: f64) -> Vec<&AgreementFigure> {
        let beyond = |c: &&AgreementFigure| c.measure == columns::ROW_TOKENS && c.difference().abs() > tolerance;
        self.cells.iter().filter(beyond).collect()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let layers: Vec<Option<u32>> = self.orders.iter().map(|o| o.layer).fold(Vec::new(), |mut all, l| {
            if all.last() != Some(&l) {
                all.push(l);
            }
            all
        });
        if let Some(beyond) = self.beyond_fit {
            let _ = writeln!(out, "the synthetic caches have {beyond}");
        }
        for layer in layers {
            self.layer_text(layer, &mut out);
        }
        out
    }

    fn layer_text(&self, layer: Option<u32>, out: &mut String) {
        let name = layer.map_or("all layers".into(), |l| format!("layer {l}"));
        let of = |measure: &'static str| self.cells.iter().filter(move |c| c.layer == layer && c.measure == measure);
        let mass = of("top_mass").next();
        let (real, synthetic) = mass.map_or((f64::NAN, f64::NAN), |c| (c.real, c.mean()));
        let sizes: Vec<&AgreementFigure> = of("cluster_size").collect();
        let moments = |value: &dyn Fn(&AgreementFigure) -> f64| {
            let at = |c: &AgreementFigure| c.at.unwrap_or(0) as f64;
            let mean: f64 = sizes.iter().map(|c| at(c) * value(c)).sum();
            let square: f64 = sizes.iter().map(|c| at(c).powi(2) * value(c)).sum();
            (mean, (square - mean * mean).max(0.0).sqrt())
        };
        let (m, s) = (moments(&|c| c.real), moments(&AgreementFigure::mean));
        let apart = sizes.iter().map(|c| c.difference().abs()).sum::<f64>() / 2.0;
        let _ = writeln!(
            out,
            "{name}\n  mass of the top 5 %: real {real:.3}, synthetic {synthetic:.3}\n  tokens of a starc cluster: real \
             {:.1} +- {:.1}, synthetic {:.1} +- {:.1}; {:.1} % of the clusters would have to change size",
            m.0,
            m.1,
            s.0,
            s.1,
            100.0 * apart
        );
        for measure in [columns::ROW_TOKENS, columns::TOP_RECALL, columns::MASS_RECALL] {
            let unit = if measure == columns::ROW_TOKENS { "difference in %" } else { "real/synthetic in %" };
            let _ = write!(out, "  {measure}, {unit}\n    {:16}", "");
            let mut policies: Vec<&str> = of(measure).filter_map(|c| c.policy).collect();
            policies.dedup();
            let width = 9;
            for cell in of(measure).filter(|c| c.policy == policies.first().copied()) {
                let _ = write!(out, " {:>width$}", cell.at.unwrap_or(0));
            }
            out.push('\n');
            for policy in policies {
                let _ = write!(out, "    {policy:16}");
                for cell in of(measure).filter(|c| c.policy == Some(policy)) {
                    let text = match measure {
                        columns::ROW_TOKENS => format!("{:+.1}", 100.0 * cell.difference()),
                        _ => format!("{:.1}/{:.1}", 100.0 * cell.real, 100.0 * cell.mean()),
                    };
                    let _ = write!(out, " {text:>width$}");
                }
                out.push('\n');
            }
        }
        for order in self.orders.iter().filter(|o| o.layer == layer) {
            let _ = write!(out, "  {} at {}: {}", order.measure, order.budget, order.real.join(" > "));
            if order.swapped.is_empty() {
                out.push_str("; the same order\n");
                continue;
            }
            let swap = |(x, y, r, s): &(&str, &str, f64, f64)| {
                format!("{x} and {y} (apart {:.1} points real, {:.1} the other way)", 100.0 * r, 100.0 * s)
            };
            let swaps: Vec<String> = order.swapped.iter().map(swap).collect();
            let _ = writeln!(out, "; swapped: {}", swaps.join(", "));
        }
    }
}

type Getter = fn(&PolicyMeans) -> f64;

const MEASURES: [(&str, Getter); 4] = [
    (columns::ROW_TOKENS, |m| m.row_tokens),
    (columns::TOP_RECALL, |m| m.top_recall),
    (columns::MASS_RECALL, |m| m.mass_recall),
    (columns::OUTPUT_REL_ERR, |m| m.output_rel_err),
];

/// Means over the heads of a layer, or of all.
struct LayerMeans {
    means: Vec<PolicyMeans>,
    top_mass: f64,
    cluster_shares: Vec<f64>,
}

impl LayerMeans {
    fn new(heads: &[HeadMeasurement], layer: Option<u32>) -> Self {
        let heads: Vec<&HeadMeasurement> = heads.iter().filter(|h| layer.is_none_or(|l| l == h.layer)).collect();
        let n = heads.len() as f64;
        let mut means = vec![PolicyMeans::default(); heads[0].means.len()];
        let mut errors = vec![0.0; means.len()];
        let mut sizes = vec![0u64; heads[0].cluster_sizes.len()];
        for head in &heads {
            for ((sum, errors), m) in means.iter_mut().zip(&mut errors).zip(&head.means) {
                sum.row_tokens += m.row_tokens / n;
                sum.top_recall += m.top_recall / n;
                sum.mass_recall += m.mass_recall / n;
                if !m.output_rel_err.is_nan() {
                    sum.output_rel_err += m.output_rel_err;
                    *errors += 1.0;
                }
            }
            sizes.iter_mut().zip(&head.cluster_sizes).for_each(|(sum, c)| *sum += c);
        }
        means.iter_mut().zip(errors).for_each(|(sum, errors)| sum.output_rel_err /= errors);
        let clusters = sizes.iter().sum::<u64>().max(1) as f64;
        LayerMeans {
            means,
            top_mass: heads.iter().map(|h| h.top_mass / n).sum(),
            cluster_shares: sizes.iter().map(|c| *c as f64 / clusters).collect(),
        }
    }
}
