//! K-means said plainly: the oracle of the fast one.

use super::{Config, starts, stopped};
use pimattn_kv::linalg;
use rand_chacha::ChaCha8Rng;

/// What K-means found.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// Cluster of each key.
    pub labels: Vec<u32>,
    /// Mean of each cluster's normalised keys `[cluster, dim]`; 0 for an empty cluster.
    pub centroids: Vec<f32>,
    /// Assignments of keys to centroids that it took.
    pub iterations: usize,
}

/// Clusters `keys` `[key, dim]`, which need not be normalised. Draws from `rng` as [`Config::start`] asks.
pub fn kmeans(keys: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng) -> Clustering {
    let mut keys = keys.to_vec();
    keys.chunks_exact_mut(dim).for_each(linalg::normalize);
    let mut chosen = Vec::new();
    starts(&keys, dim, None, config, rng, &mut chosen);
    let mut centroids: Vec<f32> = chosen.iter().flat_map(|key| &keys[key * dim..][..dim]).copied().collect();

    for iterations in 1.. {
        let labels: Vec<u32> = keys.chunks_exact(dim).map(|key| nearest(key, &centroids)).collect();
        let new = means(&keys, dim, &labels, config.clusters);
        let old = std::mem::replace(&mut centroids, new);
        if iterations == config.max_iterations || stopped(&centroids, &old, config.tolerance) {
            return Clustering { labels, centroids, iterations };
        }
    }
    unreachable!("the iterations are limited")
}

fn nearest(key: &[f32], centroids: &[f32]) -> u32 {
    let mut best = (f32::INFINITY, 0);
    for (label, centroid) in centroids.chunks_exact(key.len()).enumerate() {
        let product = key.iter().zip(centroid).fold(0f32, |sum, (x, c)| sum + x * c);
        let distance = linalg::dot(centroid, centroid) - 2.0 * product;
        if distance < best.0 {
            best = (distance, label as u32);
        }
    }
    best.1
}

fn means(keys: &[f32], dim: usize, labels: &[u32], clusters: usize) -> Vec<f32> {
    let mut means = vec![0f32; clusters * dim];
    for (label, mean) in means.chunks_exact_mut(dim).enumerate() {
        let members = || keys.chunks_exact(dim).zip(labels).filter(|(_, of)| **of == label as u32);
        let count = members().count();
        for (key, _) in members() {
            mean.iter_mut().zip(key).for_each(|(m, x)| *m += x);
        }
        mean.iter_mut().for_each(|m| *m /= count.max(1) as f32);
    }
    means
}
