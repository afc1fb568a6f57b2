//! Cosine K-means of keys: which keys point in similar directions.
//!
//! The definition (STARC, ASPLOS '26): keys are L2-normalised; a key belongs to the centroid at the smallest squared
//! Euclidean distance, on ties to the one with the lower label; a centroid is the plain mean of its keys, not
//! renormalised, and 0 when it has none; Lloyd's iteration ends when no centroid moves by more than the tolerance, or at
//! `max_iterations`.
//!
//! `plain` says this in the obvious way and is the test's oracle; [`kmeans`] is the fast one. Both give the same bits,
//! because both rank centroids `c` of a key `x` by the same expression in the same order, or by what proves its ranking
//! (`integers`). It is `|c|² − 2 x·c` (the squared distance without `|x|²`, which all centroids share), where
//! - `x·c` adds its products one after the other, dimension 0 first;
//! - `|c|²` is [`linalg::dot`], lane-ordered;
//! - means add keys one after the other, the first key first, and divide by their count.
//!
//! Two variants: [`Means::Raw`], by cosine alone, as ClusterKV has it; and [`Precision`], as the artifact of STARC runs in
//! a model's half precision.

mod half;
mod integers;
pub mod kmeans;
#[cfg(any(test, feature = "oracles"))]
pub mod plain;

use integers::Integers;
use pimattn_kv::linalg;
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

/// Of what a centroid is the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Of normalised keys (STARC).
    Unit,
    /// Of the keys as they are (ClusterKV). Keys are compared with the centroid's direction, so that its length plays no
    /// part: `|c|²` of the distance is 1.
    Raw,
}

/// In what numbers K-means computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Single precision.
    F32,
    /// Half precision (IEEE 754 binary16): every result is rounded to it.
    F16,
    /// The upper half of single precision: every result is rounded to it.
    Bf16,
}

impl Precision {
    /// The nearest number of this precision.
    fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::F16 => ::half::f16::from_f32(x).to_f32(),
            Precision::Bf16 => ::half::bf16::from_f32(x).to_f32(),
        }
    }
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
    /// Of what a centroid is the mean.
    pub means: Means,
    /// In what numbers it computes; [`Means::Raw`] is computed in single precision.
    pub precision: Precision,
}

/// STARC's block.
impl Default for Config {
    fn default() -> Self {
        Config {
            clusters: 4,
            max_iterations: 16,
            tolerance: TOLERANCE,
            start: Start::First,
            means: Means::Unit,
            precision: Precision::F32,
        }
    }
}

/// Whether no centroid has moved (see [`RTOL`]).
fn stopped(new: &[f32], old: &[f32], tolerance: f32) -> bool {
    new.iter().zip(old).all(|(new, old)| (new - old).abs() <= tolerance + RTOL * old.abs())
}

/// The keys that become the first centroids, as indices into the normalised `keys` `[key, dim]`; `integers`, if given,
/// holds the same keys, and changes nothing but the time that it takes.
fn starts(
    keys: &[f32],
    dim: usize,
    integers: Option<&mut Integers>,
    config: &Config,
    rng: &mut ChaCha8Rng,
    out: &mut Vec<usize>,
) {
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
        Start::PlusPlus => plus_plus(Distances::new(keys, dim, integers), config.clusters, 0, rng, out),
    }
}

/// Of how many centroids that the known distances take into account one may be newer.
const NEWER: usize = 8;
/// Draws in a row that may be rejected.
const REJECTED: usize = 16;

/// K-means++ seeding, by rejection: a key is drawn by the distances to the centroids of a while ago, which are upper
/// bounds, and accepted with the probability that is its distance now over that bound. That leaves the distribution as
/// it is, and lets many new centroids be compared with the keys in one pass: as many as [`NEWER`] says, or `newer_allowed`.
/// When all distances are 0, the last key is chosen (again).
fn plus_plus(
    mut known: Distances<'_>,
    clusters: usize,
    newer_allowed: usize,
    rng: &mut ChaCha8Rng,
    out: &mut Vec<usize>,
) {
    let (keys, dim) = (known.keys, known.dim);
    let mut newer = Vec::new();
    out.push((uniform(rng) * known.nearest.len() as f64) as usize);
    newer.extend_from_slice(&keys[out[0] * dim..][..dim]);
    let mut rejected = 0;
    while out.len() < clusters {
        let pending = newer.len() / dim;
        let known_well = pending <= newer_allowed.max((out.len() - pending) / NEWER);
        if out.len() == pending || !known_well || rejected == REJECTED {
            known.update(&newer);
            newer.clear();
            rejected = 0;
        }
        let key = known.draw(uniform(rng));
        if !newer.is_empty() && uniform(rng) * f64::from(known.nearest[key]) >= f64::from(known.now(key, &newer)) {
            rejected += 1;
            continue;
        }
        rejected = 0;
        out.push(key);
        newer.extend_from_slice(&keys[key * dim..][..dim]);
    }
}

/// Squared distances of normalised keys to the nearest of some centroids.
struct Distances<'a> {
    keys: &'a [f32],
    dim: usize,
    integers: Option<&'a mut Integers>,
    /// `|x|²` of each key.
    norms: Vec<f32>,
    /// Squared distance of each key.
    nearest: Vec<f32>,
    /// Sums of these up to each key, it included.
    sums: Vec<f64>,
    /// Products of a key with centroids, and the centroids' squared lengths.
    scratch: Vec<f32>,
}

impl<'a> Distances<'a> {
    /// No centroids yet.
    fn new(keys: &'a [f32], dim: usize, integers: Option<&'a mut Integers>) -> Self {
        let count = keys.len() / dim;
        let norms = keys.chunks_exact(dim).map(|key| linalg::dot(key, key)).collect();
        let (nearest, sums) = (vec![f32::INFINITY; count], vec![0.0; count]);
        Self { keys, dim, integers, norms, nearest, sums, scratch: Vec::new() }
    }

    /// Adds `centroids` `[centroid, dim]`.
    fn update(&mut self, centroids: &[f32]) {
        let (keys, dim) = (self.keys, self.dim);
        let (products, squares) = halves(&mut self.scratch, centroids.len() / dim);
        squares.iter_mut().zip(centroids.chunks_exact(dim)).for_each(|(square, c)| *square = linalg::dot(c, c));
        if let Some(integers) = self.integers.as_deref_mut()
            && integers.load_centroids(centroids, squares)
        {
            integers.nearer(&self.norms, &mut self.nearest, |key, centroid| {
                let product = linalg::dot(&keys[key * dim..][..dim], &centroids[centroid * dim..][..dim]);
                distance(self.norms[key], squares[centroid], product)
            });
        } else {
            approach(keys, centroids, &self.norms, &mut self.nearest, products, squares);
        }
        let mut sum = 0.0;
        for (to, distance) in self.sums.iter_mut().zip(&self.nearest) {
            sum += f64::from(*distance);
            *to = sum;
        }
    }

    /// The key whose part of all distances, in their order, begins last at or below a share of their sum.
    fn draw(&self, share: f64) -> usize {
        let at = share * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1)
    }

    /// Distance of a key when `centroids` `[centroid, dim]` are added.
    fn now(&mut self, key: usize, centroids: &[f32]) -> f32 {
        let dim = self.dim;
        let (products, squares) = halves(&mut self.scratch, centroids.len() / dim);
        squares.iter_mut().zip(centroids.chunks_exact(dim)).for_each(|(square, c)| *square = linalg::dot(c, c));
        let mut nearest = [self.nearest[key]];
        let vector = &self.keys[key * dim..][..dim];
        approach(vector, centroids, &self.norms[key..=key], &mut nearest, products, squares);
        nearest[0]
    }
}

/// Two slices of `count` elements.
fn halves(scratch: &mut Vec<f32>, count: usize) -> (&mut [f32], &mut [f32]) {
    scratch.resize(2 * count, 0.0);
    scratch.split_at_mut(count)
}

/// `|x − c|²`.
#[inline(always)]
fn distance(norm: f32, square: f32, product: f32) -> f32 {
    let distance = norm + square - 2.0 * product;
    if distance > 0.0 { distance } else { 0.0 }
}

linalg::simd! {
    /// Lowers the distances of keys to those to some centroids, given with their `squares`, where these are nearer.
    /// `products` is scratch, an element for each centroid.
    fn approach(
        keys: &[f32], centroids: &[f32], norms: &[f32], nearest: &mut [f32], products: &mut [f32], squares: &[f32],
    ) {
        let dim = keys.len() / norms.len();
        for ((key, norm), nearest) in keys.chunks_exact(dim).zip(norms).zip(nearest) {
            linalg::dots(key, centroids, products);
            for (product, square) in products.iter().zip(squares) {
                let distance = distance(*norm, *square, *product);
                *nearest = if distance < *nearest { distance } else { *nearest };
            }
        }
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
        starts(&keys, 1, None, &config, &mut ChaCha8Rng::seed_from_u64(3), &mut chosen);
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
            starts(&keys, 2, None, &config, &mut ChaCha8Rng::seed_from_u64(seed), &mut chosen);
            let mut directions: Vec<usize> = chosen[..4].iter().map(|key| (*key).max(60)).collect();
            directions.sort_unstable();
            assert_eq!(directions, [60, 61, 62, 63]);
            assert!(chosen[4] < 64);
        }
    }

    /// Keys at squared distances 1, 2 and 4 from the first. The third centroid is drawn without looking at the second,
    /// and may be rejected.
    #[test]
    fn plus_plus_draws_by_squared_distance() {
        let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let keys = [at(0.0), at(60.0), at(90.0), at(180.0)].concat();
        let squares = |from: usize| -> Vec<f64> {
            let row = |i: usize| &keys[i * 2..i * 2 + 2];
            let square = |i| row(i).iter().zip(row(from)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            (0..4).map(square).collect()
        };
        // Of the third centroid, over all orders of the first two.
        let mut expected = [0f64; 4];
        for first in 0..4 {
            let one = squares(first);
            for second in (0..4).filter(|i| *i != first) {
                let chance = 0.25 * one[second] / one.iter().sum::<f64>();
                let two: Vec<f64> = squares(second).iter().zip(&one).map(|(a, b)| a.min(*b)).collect();
                (0..4).for_each(|i| expected[i] += chance * two[i] / two.iter().sum::<f64>());
            }
        }
        let (draws, mut rng, mut chosen) = (20_000, ChaCha8Rng::seed_from_u64(5), Vec::new());
        let mut drawn = [0f64; 4];
        for _ in 0..draws {
            chosen.clear();
            plus_plus(Distances::new(&keys, 2, None), 3, 1, &mut rng, &mut chosen);
            drawn[chosen[2]] += 1.0 / f64::from(draws);
        }
        // Four standard deviations of a share of a half are 0.014.
        assert!(drawn.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.015), "{drawn:?} {expected:?}");
    }
}
