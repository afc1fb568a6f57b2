//! `clusterkv`: attention sinks, and clusters of similar keys of the prefill.

use super::clusters::{self, ClusteredHead, Clusterer};
use super::{Entry, HeadView, parse};
use crate::cluster::{Config, Means, Start, TOLERANCE};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "clusterkv",
    summary: "attention sinks, the newest tokens, and clusters of similar keys by q·centroid (ClusterKV)",
    build: |table| {
        let clusterkv: ClusterKv = parse(table)?;
        clusters::sizes("cluster_size", clusterkv.cluster_size, None)?;
        clusters::sizes("window_clusters", clusterkv.window_clusters, Some(("window", clusterkv.window)))?;
        clusters::limits(clusterkv.max_iterations, clusterkv.tolerance)?;
        Ok(Box::new(clusterkv))
    },
};

/// Clusters the prefill behind its first `sinks` tokens (Liu et al., arXiv 2412.03213), and every full window of generated
/// tokens when the next one comes. Selects the sinks, whole clusters by descending q·centroid, the last one cut to fill the
/// budget, and on top of it the generated tokens that are not clustered. A cluster has the keys that are nearest in
/// direction; its centroid is their plain mean, lengths and all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterKv {
    /// Attention sinks, in tokens (16 in the paper).
    pub sinks: usize,
    /// Mean cluster size, in tokens (80 in the paper): a prefill of `n` tokens makes `n / cluster_size` clusters, at
    /// least 1.
    pub cluster_size: usize,
    /// Most K-means iterations (20 here).
    pub max_iterations: usize,
    /// Largest move of an element of a centroid that has stopped (assumed: STARC's).
    pub tolerance: f32,
    /// First centroids (assumed: `random`).
    pub start: Start,
    /// Generated tokens that are clustered together (320 in the authors' kernels; their code for accuracy clusters none).
    pub window: usize,
    /// Clusters of a window (8 in the authors' kernels).
    pub window_clusters: usize,
    /// Whether generated tokens that are not clustered count against the budget. Should they outgrow it, only the most
    /// recent of them are taken. Otherwise (so in the authors' code) they all come on top of it.
    pub charge_generated: bool,
    /// Of what a centroid is the mean: `raw` keys (so in the authors' code) or keys of length 1 (`unit`).
    pub means: Means,
}

impl Default for ClusterKv {
    fn default() -> Self {
        Self {
            sinks: 16,
            cluster_size: 80,
            max_iterations: 20,
            tolerance: TOLERANCE,
            start: Start::Random,
            window: 320,
            window_clusters: 8,
            charge_generated: false,
            means: Means::Raw,
        }
    }
}

impl ClusterKv {
    /// K-means of a prefill, its sinks left out.
    pub(super) fn config(&self, prefill: usize) -> Config {
        let clusters = clusters::count(prefill, self.cluster_size).min(prefill.saturating_sub(self.sinks).max(1));
        Config { clusters, ..self.window_config() }
    }

    /// K-means of a window.
    pub(super) fn window_config(&self) -> Config {
        let Self { window_clusters: clusters, max_iterations, tolerance, start, means, .. } = *self;
        Config { clusters, max_iterations, tolerance, start, means, ..Config::default() }
    }
}

impl Clusterer for ClusterKv {
    const NAME: &'static str = ENTRY.name;

    /// The sinks and the token being decoded.
    fn least_budget(&self) -> usize {
        self.sinks + 1
    }

    fn group(&self) -> usize {
        self.window
    }

    fn row_sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        clusters::whole_rows("cluster_size", self.cluster_size, row_keys)
    }

    fn head(&self, head: HeadView<'_>) -> ClusteredHead {
        let config = self.config(head.prefill);
        let mut state = ClusteredHead::new(head, self.window, self.window_config());
        state.wait_behind(1);
        let sinks = self.sinks.min(head.prefill);
        state.pin(sinks, self.charge_generated);
        state.append_prefill(head.keys, head.prefill - sinks, &config);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Scan, plain, testing};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_the_plain_version(
            case in testing::cases(), sinks in 0usize..20, cluster_size in 1usize..40, charge_generated in any::<bool>(),
            window in 1usize..50, window_clusters in 1usize..9, raw in any::<bool>(),
        ) {
            let means = if raw { Means::Raw } else { Means::Unit };
            let window_clusters = window_clusters.min(window);
            let policy = ClusterKv {
                sinks, cluster_size, charge_generated, window, window_clusters, means, ..ClusterKv::default()
            };
            let queries = case.dumped_queries();
            let clusters = plain::clusterkv(&policy, case.head(&queries));
            testing::run(&policy, &case, |step, selected, state| {
                prop_assert_eq!(selected, &clusters.select(step));
                let scored = clusters.before(step.tokens()).len() as u32;
                let limit = if charge_generated { step.tokens() } else { clusters.clustered(step.tokens()) };
                let all = limit <= step.budget || scored == 0;
                let scan = Scan::Vectors { matrices: 1, vectors: scored, elements: case.dim as u32 };
                prop_assert_eq!(state.scan(), if all { Scan::Nothing } else { scan });
                Ok(())
            })?;
        }

        #[test]
        fn generated_tokens_come_on_top_where_they_are_not_charged(case in testing::cases()) {
            let policy = ClusterKv::default();
            testing::run(&policy, &case, |step, selected, _| {
                for tokens in selected {
                    prop_assert!((case.prefill..step.tokens()).all(|t| tokens.contains(&(t as u32))));
                    let from_prefill = tokens.iter().filter(|t| (**t as usize) < case.prefill).count();
                    prop_assert_eq!(from_prefill, case.prefill.min(case.budget));
                }
                Ok(())
            })?;
        }
    }
}
