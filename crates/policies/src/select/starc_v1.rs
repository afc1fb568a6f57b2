//! `starc-v1`: clusters of similar keys of the whole prefill (STARC's first version).

use super::clusters::{self, ClusteredHead, Clusterer};
use super::{Entry, HeadView, parse};
use crate::cluster::{Config, Start, TOLERANCE};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "starc-v1",
    summary: "clusters of similar keys, found within the whole prefill, by q·centroid (STARC, arXiv 2505.05772v1)",
    build: |table| {
        let starc: StarcV1 = parse(table)?;
        clusters::sizes("cluster_size", starc.cluster_size, Some(("buffer", starc.buffer)))?;
        clusters::limits(starc.max_iterations, starc.tolerance)?;
        Ok(Box::new(starc))
    },
};

/// Clusters the prefill as a whole, then decoded tokens whenever the buffer is full; otherwise as
/// [`Starc`](super::starc::Starc).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StarcV1 {
    /// Mean cluster size, in tokens (32 in the paper): `n` tokens make `n / cluster_size` clusters, at least 1.
    pub cluster_size: usize,
    /// Decoded tokens that are clustered together (128 in the paper).
    pub buffer: usize,
    /// Most K-means iterations (15 in the paper).
    pub max_iterations: usize,
    /// Largest move of an element of a centroid that has stopped (assumed: as in the later paper).
    pub tolerance: f32,
    /// First centroids (`k-means++` in the paper).
    pub start: Start,
}

impl Default for StarcV1 {
    fn default() -> Self {
        Self { cluster_size: 32, buffer: 128, max_iterations: 15, tolerance: TOLERANCE, start: Start::PlusPlus }
    }
}

impl StarcV1 {
    pub(super) fn config(&self, tokens: usize) -> Config {
        let Self { cluster_size, max_iterations, tolerance, start, .. } = *self;
        let clusters = clusters::count(tokens, cluster_size);
        Config { clusters, max_iterations, tolerance, start, ..Config::default() }
    }
}

impl Clusterer for StarcV1 {
    const NAME: &'static str = ENTRY.name;

    /// The tokens in the buffer are fewer.
    fn least_budget(&self) -> usize {
        self.buffer
    }

    /// Its first centroids are drawn, and with them whether a query takes the cluster of the attention sinks.
    fn is_drawn(&self) -> bool {
        self.start != Start::First
    }

    fn group(&self) -> usize {
        self.buffer
    }

    fn row_sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        let tables = clusters::whole_rows("cluster_size", self.cluster_size, row_keys);
        let fits =
            |table: &toml::Table| table.values().all(|n| n.as_integer().is_some_and(|n| n <= self.buffer as i64));
        tables.into_iter().filter(fits).collect()
    }

    fn head(&self, head: HeadView<'_>) -> ClusteredHead {
        let mut state = ClusteredHead::new(head, self.buffer, self.config(self.buffer));
        state.append_prefill(head.keys, head.prefill, &self.config(head.prefill));
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_the_plain_version(case in testing::cases(), cluster_size in 1usize..40, buffer in 40usize..130) {
            let starc = StarcV1 { cluster_size, buffer, ..StarcV1::default() };
            testing::compare(&starc, &case, &starc)?;
        }
    }
}
