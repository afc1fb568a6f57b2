//! `starc`: clusters of similar keys within blocks of consecutive tokens (STARC as published at ASPLOS '26).

use super::clusters::{self, ClusteredHead, Clusterer};
use super::{Entry, HeadView, parse, require, size};
use crate::cluster::{Config, Precision, Start, TOLERANCE};
use serde::{Deserialize, Serialize};

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "starc",
    summary: "clusters of similar keys, found within blocks of consecutive tokens, by q·centroid (STARC, ASPLOS '26)",
    build: |table| {
        let starc: Starc = parse(table)?;
        clusters::sizes("clusters", starc.clusters, Some(("block", starc.block)))?;
        clusters::limits(starc.max_iterations, starc.tolerance)?;
        require(starc.phase <= starc.block, "phase", format!("must be 0 to {}, the block", starc.block))?;
        let waits = starc.tail == Tail::Wait;
        require(starc.phase == 0 || !waits, "phase", "must be 0 where tail is \"wait\"")?;
        Ok(Box::new(starc))
    },
};

/// Clusters every full block of consecutive tokens, those of the prefill before decoding and later ones as soon as they
/// are there (`tail` says what becomes of a rest of the prefill); clusters never change. Selects all tokens not yet clustered, then whole clusters by descending q·centroid, the last one cut to fill the budget (STARC,
/// doi 10.1145/3779212.3790226).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Starc {
    /// Block size, in tokens (64 in the paper).
    pub block: usize,
    /// Clusters of a block (4 in the paper).
    pub clusters: usize,
    /// Most K-means iterations per block (16 in the paper).
    pub max_iterations: usize,
    /// Largest move of an element of a centroid that has stopped (1e-4 in the paper).
    pub tolerance: f32,
    /// First centroids (`first` in the artifact, `random` in the paper).
    pub start: Start,
    /// What becomes of the prefill's tokens behind its last full block (`permanent` in the artifact).
    pub tail: Tail,
    /// Decoded tokens that are clustered with the prefill (1 in the artifact, which clusters it when the first decoded token
    /// is there); blocks of decoded tokens begin behind them.
    pub phase: usize,
    /// Precision of the K-means (in the artifact the model's: f16 or bf16).
    pub precision: Precision,
}

/// What becomes of the tokens of a prefill that fill no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// They wait, and are selected, until decoded tokens fill their block.
    Wait,
    /// They are clustered with the prefill, into clusters of the same mean size, for good.
    Permanent,
}

impl Default for Starc {
    fn default() -> Self {
        Self {
            block: 64,
            clusters: 4,
            max_iterations: 16,
            tolerance: TOLERANCE,
            start: Start::First,
            tail: Tail::Wait,
            phase: 0,
            precision: Precision::F32,
        }
    }
}

impl Starc {
    /// K-means of a block.
    pub(super) fn config(&self) -> Config {
        let Self { clusters, max_iterations, tolerance, start, precision, .. } = *self;
        Config { clusters, max_iterations, tolerance, start, precision, ..Config::default() }
    }
}

impl Clusterer for Starc {
    const NAME: &'static str = ENTRY.name;

    /// The tokens that wait for their block to fill are fewer, and those that wait for the phase no more.
    fn least_budget(&self) -> usize {
        self.block + self.phase.saturating_sub(1)
    }

    fn group(&self) -> usize {
        self.block
    }

    /// Blocks of this and of twice the length, whose clusters have one, two or four rows in the mean.
    fn row_sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        let blocks = [self.block, 2 * self.block].into_iter();
        let sizes = blocks.flat_map(|block| [1, 2, 4].map(|rows| (block, block / (rows * row_keys))));
        let other =
            |(block, clusters): &(usize, usize)| *clusters > 0 && (*block, *clusters) != (self.block, self.clusters);
        sizes.filter(other).map(|(block, clusters)| size(&[("block", block), ("clusters", clusters)])).collect()
    }

    fn head(&self, head: HeadView<'_>) -> ClusteredHead {
        let mut state = ClusteredHead::new(head, self.block, self.config());
        if self.tail == Tail::Permanent {
            state.close_prompt(head.prefill + self.phase);
        }
        state.append_groups(head.keys.range(0..head.prefill));
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
            case in testing::cases(), block in 1usize..70, clusters in 1usize..6, random in any::<bool>(),
            phase in proptest::option::of(0usize..4),
            precision in prop_oneof![Just(Precision::F32), Just(Precision::F16), Just(Precision::Bf16)],
        ) {
            let start = if random { Start::Random } else { Start::First };
            let tail = if phase.is_some() { Tail::Permanent } else { Tail::Wait };
            let (clusters, phase) = (clusters.min(block), phase.unwrap_or(0).min(block));
            let starc = Starc { block, clusters, start, tail, phase, precision, ..Starc::default() };
            testing::compare(&starc, &case, &starc)?;
        }

        /// As the artifact: the prompt and the first decoded token at once, then block by block behind them.
        #[test]
        fn the_artifacts_blocks_begin_behind_the_first_decoded_token(case in testing::cases()) {
            let artifact = Starc { tail: Tail::Permanent, phase: 1, ..Starc::default() };
            testing::run(&artifact, &case, |step, _, state| {
                let decoded = step.tokens() - case.prefill - 1;
                prop_assert_eq!(state.order().clustered as usize, case.prefill + 1 + decoded / 64 * 64);
                let asked: Vec<u32> = state.clusterings().iter().map(|c| c.clusters).collect();
                match decoded {
                    0 => prop_assert_eq!(asked, [((case.prefill % 64 + 1) as u32).div_ceil(16)]),
                    _ => prop_assert_eq!(asked.len(), usize::from(decoded % 64 == 0)),
                }
                Ok(())
            })?;
        }

        #[test]
        fn slots_are_in_cluster_order(case in testing::cases()) {
            let queries = case.dumped_queries();
            let all = plain::starc(&Starc::default(), case.head(&queries));
            let mut version = 0;
            testing::run(&Starc::default(), &case, |step, _, state| {
                let order = state.order();
                let clusters = all.before(step.tokens());
                let mut slot = 0;
                for (cluster, start) in clusters.iter().zip(&order.cluster_starts) {
                    prop_assert_eq!(*start, slot);
                    for token in &cluster.0 {
                        prop_assert_eq!(order.slot(*token as u32), slot);
                        slot += 1;
                    }
                }
                prop_assert_eq!(clusters.len(), order.cluster_starts.len());
                prop_assert_eq!((order.clustered, step.tokens() / 64 * 64), (slot, slot as usize));
                version += u32::from(step.tokens() % 64 == 0);
                prop_assert_eq!(order.version, version);
                let centroids = clusters.len() as u32;
                let all = step.tokens() <= step.budget || centroids == 0;
                let scan = Scan::Vectors { matrices: 1, vectors: centroids, elements: case.dim as u32 };
                prop_assert_eq!(state.scan(), if all { Scan::Nothing } else { scan });
                Ok(())
            })?;
        }
    }
}
