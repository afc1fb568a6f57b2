//! K-means said plainly: the oracle of the fast one.

use super::{Config, Means, Precision, RTOL, starts, stopped};
use pimattn_kv::linalg;
use rand_chacha::ChaCha8Rng;

/// What K-means found.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeansResult {
    /// Cluster of each key.
    pub labels: Vec<u32>,
    /// Mean of each cluster's keys, normalised or not, `[cluster, dim]`; 0 for an empty cluster.
    pub centroids: Vec<f32>,
    /// Assignments of keys to centroids that it took.
    pub iterations: usize,
}

/// Clusters `keys` `[key, dim]`, which need not be normalised. Draws from `rng` as [`Config::start`] asks.
pub fn kmeans(raw: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng) -> KMeansResult {
    let precision = if config.means == Means::Raw { Precision::F32 } else { config.precision };
    let mut keys: Vec<f32> = raw.iter().map(|x| precision.round(*x)).collect();
    keys.chunks_exact_mut(dim).for_each(|key| normalize(key, precision));
    let mut chosen = Vec::new();
    starts(&keys, dim, None, config, rng, &mut chosen);
    let mut centroids: Vec<f32> = chosen.iter().flat_map(|key| &keys[key * dim..][..dim]).copied().collect();

    for iterations in 1.. {
        let labels: Vec<u32> = keys.chunks_exact(dim).map(|key| nearest(key, &centroids, config)).collect();
        let averaged = if config.means == Means::Raw { raw } else { &keys };
        let means = means(averaged, dim, &labels, config.clusters, precision);
        let mut new = means.clone();
        if config.means == Means::Raw {
            new.chunks_exact_mut(dim).for_each(linalg::normalize);
        }
        let old = std::mem::replace(&mut centroids, new);
        let still = match precision {
            Precision::F32 => stopped(&centroids, &old, config.tolerance),
            _ => close_in_half(&centroids, &old, config.tolerance, precision),
        };
        if iterations == config.max_iterations || still {
            return KMeansResult { labels, centroids: means, iterations };
        }
    }
    unreachable!("the iterations are limited")
}

fn normalize(key: &mut [f32], precision: Precision) {
    match precision {
        Precision::F32 => linalg::normalize(key),
        _ => {
            let norm = precision.round(linalg::dot(key, key).sqrt());
            key.iter_mut().filter(|_| norm > 0.0).for_each(|x| *x = precision.round(*x / norm));
        }
    }
}

fn close_in_half(new: &[f32], old: &[f32], tolerance: f32, precision: Precision) -> bool {
    let round = |x| precision.round(x);
    new.iter().zip(old).all(|(n, o)| n == o || round(o - n).abs() <= round(tolerance + round(RTOL * n.abs())))
}

fn nearest(key: &[f32], centroids: &[f32], config: &Config) -> u32 {
    let mut best = (f32::INFINITY, 0);
    for (label, centroid) in centroids.chunks_exact(key.len()).enumerate() {
        let distance = match (config.means, config.precision) {
            (Means::Unit, Precision::F16 | Precision::Bf16) => rounded_distance(key, centroid, config.precision),
            (means, _) => {
                let product = key.iter().zip(centroid).fold(0f32, |sum, (x, c)| sum + x * c);
                let square = if means == Means::Raw { 1.0 } else { linalg::dot(centroid, centroid) };
                square - 2.0 * product
            }
        };
        if distance < best.0 {
            best = (distance, label as u32);
        }
    }
    best.1
}

/// `|x|² + |c|² − 2 x·c`, each result rounded.
fn rounded_distance(key: &[f32], centroid: &[f32], precision: Precision) -> f32 {
    let round = |x| precision.round(x);
    let square = |x: &[f32]| {
        let squares: Vec<f32> = x.iter().map(|x| round(x * x)).collect();
        round(linalg::dot(&squares, &vec![1.0; x.len()]))
    };
    round(round(square(key) + square(centroid)) - 2.0 * round(linalg::dot(key, centroid)))
}

fn means(keys: &[f32], dim: usize, labels: &[u32], clusters: usize, precision: Precision) -> Vec<f32> {
    let round = |x| precision.round(x);
    let mut means = vec![0f32; clusters * dim];
    for (label, mean) in means.chunks_exact_mut(dim).enumerate() {
        let members = || keys.chunks_exact(dim).zip(labels).filter(|(_, of)| **of == label as u32);
        let count = members().count();
        for (key, _) in members() {
            mean.iter_mut().zip(key).for_each(|(m, x)| *m += x);
        }
        mean.iter_mut().for_each(|m| *m = round(round(*m) / round(count.max(1) as f32)));
    }
    means
}
