//! K-means, fast: keys in tiles, so that one vector operation works on one dimension of many keys.
//!
//! The cost is the products `x·c` of all keys and centroids, a matrix product. Keys are stored a second time as tiles
//! of 16 keys `[tile, dim, 16]`: the kernel keeps the sums of a tile with 4 centroids in vector registers and adds one
//! dimension after the other, without a reduction across lanes. Nothing is allocated while iterating, and a [`KMeans`]
//! used again allocates only when the problem grows (but for K-means++ seeding).

use super::{Config, starts, stopped};
use crate::linalg::{self, simd};
use rand_chacha::ChaCha8Rng;

/// Keys per tile.
const TILE: usize = 16;
/// Centroids per pass over a tile.
const BLOCK: usize = 4;

/// K-means and its memory, to be used again and again.
#[derive(Debug, Clone, Default)]
pub struct KMeans {
    /// Normalised keys `[key, dim]`.
    keys: Vec<f32>,
    /// Normalised keys `[tile, dim, TILE]`, filled up with zeros.
    tiles: Vec<f32>,
    /// Cluster of each key, filled up to whole tiles.
    labels: Vec<u32>,
    centroids: Vec<f32>,
    previous: Vec<f32>,
    /// `|c|²` of each centroid.
    norms: Vec<f32>,
    /// Keys in each cluster.
    counts: Vec<u32>,
    starts: Vec<usize>,
    count: usize,
    iterations: usize,
}

impl KMeans {
    /// Clusters `keys` `[key, dim]`, which need not be normalised. Draws from `rng` as [`Config::start`] asks. Gives
    /// the same bits as [`plain::kmeans`](super::plain::kmeans).
    ///
    /// # Panics
    /// When there are fewer keys than clusters, or no clusters or iterations are asked for.
    pub fn fit(&mut self, keys: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng) {
        self.count = keys.len() / dim;
        assert!((1..=self.count).contains(&config.clusters), "{} clusters of {} keys", config.clusters, self.count);
        assert!(config.max_iterations > 0, "no iterations");
        self.load(keys, dim);
        starts(&self.keys, dim, config, rng, &mut self.starts);
        self.centroids.clear();
        for start in &self.starts {
            self.centroids.extend_from_slice(&self.keys[start * dim..][..dim]);
        }
        self.previous.resize(self.centroids.len(), 0.0);
        self.counts.resize(config.clusters, 0);

        for iterations in 1..=config.max_iterations {
            self.iterations = iterations;
            self.norms.clear();
            self.norms.extend(self.centroids.chunks_exact(dim).map(|c| linalg::dot(c, c)));
            // The same labels have the same means: nothing would move.
            if !assign(&self.tiles, &self.centroids, &self.norms, &mut self.labels) {
                return;
            }
            std::mem::swap(&mut self.centroids, &mut self.previous);
            means(&self.keys, &self.labels, &mut self.centroids, &mut self.counts);
            if stopped(&self.centroids, &self.previous, config.tolerance) {
                return;
            }
        }
    }

    /// Cluster of each key.
    pub fn labels(&self) -> &[u32] {
        &self.labels[..self.count]
    }

    /// Mean of each cluster's normalised keys `[cluster, dim]`; 0 for an empty cluster.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Assignments of keys to centroids that the last [`KMeans::fit`] took.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    fn load(&mut self, keys: &[f32], dim: usize) {
        self.keys.clear();
        self.keys.extend_from_slice(keys);
        self.keys.chunks_exact_mut(dim).for_each(linalg::normalize);
        let tiles = self.count.div_ceil(TILE);
        self.tiles.clear();
        self.tiles.resize(tiles * dim * TILE, 0.0);
        for (tile, keys) in self.tiles.chunks_exact_mut(dim * TILE).zip(self.keys.chunks(dim * TILE)) {
            for (lane, key) in keys.chunks_exact(dim).enumerate() {
                for (column, x) in tile.chunks_exact_mut(TILE).zip(key) {
                    column[lane] = *x;
                }
            }
        }
        self.labels.clear();
        self.labels.resize(tiles * TILE, u32::MAX);
    }
}

simd! {
    /// Gives every key of the tiles the label of its nearest centroid; whether any label changed.
    fn assign(tiles: &[f32], centroids: &[f32], norms: &[f32], labels: &mut [u32]) -> bool {
        let dim = centroids.len() / norms.len();
        let mut changed = false;
        for (tile, labels) in tiles.chunks_exact(dim * TILE).zip(labels.as_chunks_mut::<TILE>().0) {
            let tile = tile.as_chunks::<TILE>().0;
            let mut nearest = Nearest { distance: [f32::INFINITY; TILE], label: [0; TILE] };
            let mut first = 0;
            while first + BLOCK <= norms.len() {
                nearest.compare::<BLOCK>(tile, centroids, norms, first);
                first += BLOCK;
            }
            while first < norms.len() {
                nearest.compare::<1>(tile, centroids, norms, first);
                first += 1;
            }
            changed |= *labels != nearest.label;
            *labels = nearest.label;
        }
        changed
    }
}

/// The nearest centroid so far of each key of a tile. Distances lack the key's own `|x|²`.
struct Nearest {
    distance: [f32; TILE],
    label: [u32; TILE],
}

impl Nearest {
    #[inline(always)]
    fn compare<const C: usize>(&mut self, tile: &[[f32; TILE]], centroids: &[f32], norms: &[f32], first: usize) {
        let dim = tile.len();
        let rows: [&[f32]; C] = std::array::from_fn(|c| &centroids[(first + c) * dim..][..dim]);
        let mut products = [[0f32; TILE]; C];
        for d in 0..dim {
            for c in 0..C {
                for lane in 0..TILE {
                    products[c][lane] += tile[d][lane] * rows[c][d];
                }
            }
        }
        for c in 0..C {
            let label = (first + c) as u32;
            for (lane, product) in products[c].iter().enumerate() {
                let distance = norms[first + c] - 2.0 * product;
                let nearer = distance < self.distance[lane];
                self.distance[lane] = if nearer { distance } else { self.distance[lane] };
                self.label[lane] = if nearer { label } else { self.label[lane] };
            }
        }
    }
}

simd! {
    /// The mean of each label's keys.
    fn means(keys: &[f32], labels: &[u32], means: &mut [f32], counts: &mut [u32]) {
        let dim = means.len() / counts.len();
        means.fill(0.0);
        counts.fill(0);
        for (key, label) in keys.chunks_exact(dim).zip(labels) {
            counts[*label as usize] += 1;
            let mean = &mut means[*label as usize * dim..][..dim];
            for (m, x) in mean.iter_mut().zip(key) {
                *m += x;
            }
        }
        for (mean, count) in means.chunks_exact_mut(dim).zip(counts) {
            let count = (*count).max(1) as f32;
            for m in mean {
                *m /= count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Start, plain};
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    fn check(keys: &[f32], dim: usize, config: &Config, fast: &mut KMeans) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let expected = plain::kmeans(keys, dim, config, &mut rng.clone());
        fast.fit(keys, dim, config, &mut rng);
        assert_eq!(fast.labels(), expected.labels);
        assert_eq!(fast.iterations(), expected.iterations);
        let bits = |centroids: &[f32]| centroids.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(fast.centroids()), bits(&expected.centroids));
    }

    proptest! {
        #[test]
        fn gives_the_same_bits_as_the_plain_one(
            dim in 1usize..40,
            count in 1usize..90,
            clusters in 1usize..12,
            max_iterations in 1usize..17,
            start in prop_oneof![Just(Start::First), Just(Start::Random), Just(Start::PlusPlus)],
            coarse in any::<bool>(),
            tolerance in prop_oneof![Just(0f32), Just(crate::cluster::TOLERANCE), Just(0.2)],
            data in proptest::collection::vec(-3f32..3.0, 40 * 90),
        ) {
            // Rounded keys make duplicates, ties, zero keys and empty clusters.
            let data: Vec<f32> = if coarse { data.iter().map(|x| (x / 2.0).round()).collect() } else { data };
            let config = Config { clusters: clusters.min(count), max_iterations, tolerance, start };
            let mut fast = KMeans::default();
            check(&data[..dim * count], dim, &config, &mut fast);
            // Used again with another shape, nothing of the last problem is left.
            let half = count.div_ceil(2);
            let config = Config { clusters: clusters.min(half), ..config };
            check(&data[..dim * half], dim, &config, &mut fast);
        }
    }

    #[test]
    fn separates_two_directions_and_leaves_a_third_cluster_empty() {
        let keys = [1.0, 0.0, 0.0, 2.0, 0.0, 1.0, 3.0, 0.0, 5.0, 0.0];
        let config = Config { clusters: 3, ..Config::default() };
        let mut kmeans = KMeans::default();
        kmeans.fit(&keys, 2, &config, &mut ChaCha8Rng::seed_from_u64(0));
        assert_eq!(kmeans.labels(), [0, 1, 1, 0, 0]);
        assert_eq!(kmeans.centroids(), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}
