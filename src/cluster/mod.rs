//! Cosine K-means of keys: which keys point in similar directions.
//!
//! The definition (STARC, ASPLOS '26): keys are L2-normalised; a key belongs to the centroid at the smallest squared
//! Euclidean distance, on ties to the one with the lower label; a centroid is the plain mean of its keys, not
//! renormalised, and 0 when it has none; Lloyd's iteration ends when no centroid moves by more than the tolerance, or at
//! `max_iterations`.
//!
//! [`plain`] says this in the obvious way and is the test's oracle; [`kmeans`] is the fast one. Both give the same
//! bits, because both compute the same expression in the same order. They rank centroids `c` of a key `x` by
//! `|c|² − 2 x·c` (the squared distance without `|x|²`, which all centroids share), where
//! - `x·c` adds its products one after the other, dimension 0 first;
//! - `|c|²` is [`linalg::dot`], lane-ordered;
//! - means add keys one after the other, the first key first, and divide by their count.

pub mod kmeans;
pub mod plain;

use crate::linalg;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

/// STARC's [`Config::tolerance`].
pub const TOLERANCE: f32 = 1e-4;
/// A centroid has stopped when `|new − old| <= tolerance + RTOL · |old|` in every element, as
/// `numpy.allclose(new, old, rtol=1e-5, atol=tolerance)` has it.
pub const RTOL: f32 = 1e-5;

/// Which keys are the first centroids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The first K keys (STARC's artifact).
    First,
    /// K different keys at random (STARC, ASPLOS '26).
    Random,
    /// K-means++: each next key with a probability proportional to its squared distance to the nearest one already
    /// chosen (Arthur and Vassilvitskii, SODA 2007; used by STARC, arXiv 2505.05772v1).
    #[serde(rename = "k-means++")]
    PlusPlus,
}

/// What K-means is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Number of clusters, at least 1 and at most the number of keys.
    pub clusters: usize,
    /// Most assignments of keys to centroids, at least 1.
    pub max_iterations: usize,
    /// How far an element of a centroid may move for it to have stopped, at least 0.
    pub tolerance: f32,
    /// The first centroids.
    pub start: Start,
}

/// STARC's block.
impl Default for Config {
    fn default() -> Self {
        Config { clusters: 4, max_iterations: 16, tolerance: TOLERANCE, start: Start::First }
    }
}

/// Whether no centroid has moved (see [`RTOL`]).
fn stopped(new: &[f32], old: &[f32], tolerance: f32) -> bool {
    new.iter().zip(old).all(|(new, old)| (new - old).abs() <= tolerance + RTOL * old.abs())
}

/// The keys that become the first centroids, as indices into the normalised `keys` `[key, dim]`.
fn starts(keys: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng, out: &mut Vec<usize>) {
    let count = keys.len() / dim;
    out.clear();
    match config.start {
        Start::First => out.extend(0..config.clusters),
        Start::Random => {
            out.extend(0..count);
            for i in 0..config.clusters {
                out.swap(i, i + (uniform(rng) * (count - i) as f64) as usize);
            }
            out.truncate(config.clusters);
        }
        Start::PlusPlus => plus_plus(keys, dim, config.clusters, rng, out),
    }
}

/// K-means++ seeding. When all remaining distances are 0, the last key is chosen (again).
fn plus_plus(keys: &[f32], dim: usize, clusters: usize, rng: &mut ChaCha8Rng, out: &mut Vec<usize>) {
    let count = keys.len() / dim;
    let norms: Vec<f32> = keys.chunks_exact(dim).map(|key| linalg::dot(key, key)).collect();
    let mut nearest = vec![f32::INFINITY; count];
    let mut products = vec![0f32; count];
    let mut chosen = (uniform(rng) * count as f64) as usize;
    out.push(chosen);
    while out.len() < clusters {
        linalg::dots(&keys[chosen * dim..][..dim], keys, &mut products);
        let mut total = 0f64;
        for ((near, product), norm) in nearest.iter_mut().zip(&products).zip(&norms) {
            *near = near.min((norm + norms[chosen] - 2.0 * product).max(0.0));
            total += f64::from(*near);
        }
        let mut left = uniform(rng) * total;
        let drawn = nearest.iter().position(|near| {
            left -= f64::from(*near);
            left < 0.0
        });
        chosen = drawn.unwrap_or(count - 1);
        out.push(chosen);
    }
}

/// Uniform in `[0, 1)` with 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn centroids_stop_within_the_tolerance() {
        let stopped = |new, old| stopped(new, old, TOLERANCE);
        assert!(stopped(&[1.0, 0.5 + 0.9e-4], &[1.0, 0.5]));
        assert!(!stopped(&[1.0, 0.5 + 1.1e-4], &[1.0, 0.5]));
        assert!(!stopped(&[1.0, 0.5 - 1.1e-4], &[1.0, 0.5]));
        assert!(stopped(&[10.0 - 1.95e-4], &[10.0]));
        assert!(!stopped(&[10.0 - 2.1e-4], &[10.0]));
    }

    #[test]
    fn random_starts_are_different_keys() {
        let (keys, mut chosen) = ([1.0; 64], Vec::new());
        let config = Config { clusters: 64, max_iterations: 1, start: Start::Random, ..Config::default() };
        starts(&keys, 1, &config, &mut ChaCha8Rng::seed_from_u64(3), &mut chosen);
        assert!(!chosen.is_sorted());
        chosen.sort_unstable();
        assert!(chosen.into_iter().eq(0..64));
    }

    #[test]
    fn plus_plus_finds_every_direction_before_it_repeats_one() {
        let mut keys = [1.0, 0.0].repeat(61);
        keys.extend([0.0, 1.0, 0.0, -1.0, -1.0, 0.0]);
        for seed in 0..20 {
            let mut chosen = Vec::new();
            let config = Config { clusters: 5, max_iterations: 1, start: Start::PlusPlus, ..Config::default() };
            starts(&keys, 2, &config, &mut ChaCha8Rng::seed_from_u64(seed), &mut chosen);
            let mut directions: Vec<usize> = chosen[..4].iter().map(|key| (*key).max(60)).collect();
            directions.sort_unstable();
            assert_eq!(directions, [60, 61, 62, 63]);
            assert!(chosen[4] < 64);
        }
    }
}
