//! K-means in half precision, operation by operation as tensor programs do it: the result of each (a norm, a product of
//! two vectors, a square, a sum, a difference, a quotient) is rounded to the precision before the next one.
//!
//! Products of vectors and sums are added up in single precision ([`linalg::dot`]'s order; of a centroid, key by key) and
//! rounded once. The distance is `|x|² + |c|² − 2 x·c`, in this order. So PyTorch 2.1 has it on a processor; a GPU rounds the
//! sum of a centroid behind each key, in an order that it does not say, so that two runs of the same program may differ there.

use super::{Config, Precision, RTOL, starts};
use pimattn_kv::linalg;
use rand_chacha::ChaCha8Rng;

/// Labels, centroids, iterations.
pub type Found = (Vec<u32>, Vec<f32>, usize);

/// Clusters `keys` `[key, dim]`, which need not be normalised.
pub fn kmeans(keys: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng) -> Found {
    let round = |x| config.precision.round(x);
    let mut keys: Vec<f32> = keys.iter().map(|x| round(*x)).collect();
    for key in keys.chunks_exact_mut(dim) {
        let norm = round(linalg::dot(key, key).sqrt());
        if norm > 0.0 {
            key.iter_mut().for_each(|x| *x = round(*x / norm));
        }
    }
    let (mut chosen, mut centroids) = (Vec::new(), Vec::new());
    starts(&keys, dim, None, config, rng, &mut chosen);
    chosen.iter().for_each(|key| centroids.extend_from_slice(&keys[key * dim..][..dim]));

    let squares = |vectors: &[f32]| -> Vec<f32> {
        let square = |vector: &[f32]| {
            let squared: Vec<f32> = vector.iter().map(|x| round(x * x)).collect();
            round(linalg::dot(&squared, &vec![1.0; dim]))
        };
        vectors.chunks_exact(dim).map(square).collect()
    };
    let norms = squares(&keys);
    let mut labels = vec![0; norms.len()];
    let (mut products, mut counts) = (vec![0f32; config.clusters], vec![0u32; config.clusters]);
    let mut new = vec![0f32; centroids.len()];
    for iteration in 1..=config.max_iterations {
        let of_centroids = squares(&centroids);
        for ((key, norm), label) in keys.chunks_exact(dim).zip(&norms).zip(&mut labels) {
            linalg::dots(key, &centroids, &mut products);
            let mut nearest = f32::INFINITY;
            for (at, (product, square)) in (0..).zip(products.iter().zip(&of_centroids)) {
                let distance = round(round(norm + square) - 2.0 * round(*product));
                if distance < nearest {
                    (nearest, *label) = (distance, at);
                }
            }
        }
        new.fill(0.0);
        counts.fill(0);
        for (key, label) in keys.chunks_exact(dim).zip(&labels) {
            counts[*label as usize] += 1;
            let sum = &mut new[*label as usize * dim..][..dim];
            sum.iter_mut().zip(key).for_each(|(sum, x)| *sum += x);
        }
        for (mean, count) in new.chunks_exact_mut(dim).zip(&counts) {
            mean.iter_mut().for_each(|x| *x = round(round(*x) / round((*count).max(1) as f32)));
        }
        std::mem::swap(&mut centroids, &mut new);
        if iteration == config.max_iterations || stopped(&centroids, &new, config.tolerance, config.precision) {
            return (labels, centroids, iteration);
        }
    }
    (labels, centroids, config.max_iterations)
}

/// As that of single precision, each result rounded, relative to the new centroids.
fn stopped(new: &[f32], old: &[f32], tolerance: f32, precision: Precision) -> bool {
    let round = |x| precision.round(x);
    let near =
        |(new, old): (&f32, &f32)| new == old || round(old - new).abs() <= round(tolerance + round(RTOL * new.abs()));
    new.iter().zip(old).all(near)
}

#[cfg(test)]
mod tests {
    use super::super::{Start, TOLERANCE};
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    /// Two keys that single precision tells apart are one direction in half precision: the tie goes to the lower label.
    #[test]
    fn ties_that_rounding_makes_go_to_the_lower_label() {
        let keys = [1.0, 1e-5, 1.0, 0.0, 1.0, 1e-5, 1.0, 0.0];
        let config = Config { clusters: 2, start: Start::First, tolerance: TOLERANCE, ..Config::default() };
        let found = |precision| kmeans(&keys, 2, &Config { precision, ..config }, &mut ChaCha8Rng::seed_from_u64(0)).0;
        assert_eq!(found(Precision::Bf16), [0; 4]);
        assert_eq!(found(Precision::F16), [0; 4]);
    }

    /// 257 and 299 are no numbers of bf16, whose next ones are 256 and 300; each of a sum's keys counts.
    #[test]
    fn a_sum_is_rounded_once() {
        for (keys, sum, count) in [(257, 256.0, 256.0), (299, 300.0, 300.0)] {
            let config = Config { clusters: 1, max_iterations: 1, precision: Precision::Bf16, ..Config::default() };
            let ones = vec![1.0; keys];
            let (_, centroids, _) = kmeans(&ones, 1, &config, &mut ChaCha8Rng::seed_from_u64(0));
            assert_eq!(centroids, [Precision::Bf16.round(sum / count)], "{keys}");
        }
        // Ones and a half: added up one by one, 256 would swallow them.
        let mut keys = vec![[1.0, 0.0]; 256];
        keys.extend([[1.0, 1.0]; 4]);
        let config = Config { clusters: 1, max_iterations: 1, precision: Precision::Bf16, ..Config::default() };
        let (_, centroids, _) = kmeans(keys.as_flattened(), 2, &config, &mut ChaCha8Rng::seed_from_u64(0));
        let part = Precision::Bf16.round(1.0 / Precision::Bf16.round(2f32.sqrt()));
        let sum = Precision::Bf16.round(256.0 + 4.0 * part);
        assert_eq!(centroids[0], Precision::Bf16.round(sum / Precision::Bf16.round(260.0)));
    }
}
