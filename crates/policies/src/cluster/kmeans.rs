//! K-means, fast: keys in tiles, so that one vector operation works on one dimension of many keys.
//!
//! The cost is the products `x·c` of all keys and centroids, a matrix product. Where the processor multiplies 16-bit
//! integers faster than floats, `integers` proves the nearest centroid of most keys, and only the
//! others are compared in floats. Else all are: keys are stored a second time as tiles of 16 keys `[tile, dim, 16]`,
//! and the kernel keeps the sums of a tile with 4 centroids in vector registers and adds one dimension after the other,
//! without a reduction across lanes. Nothing is allocated while iterating, and a [`KMeans`] used again allocates only
//! when the problem grows (but for K-means++ seeding).

use super::integers::{self, Integers};
use super::{Config, Means, Precision, half, starts, stopped};
use pimattn_kv::linalg::{self, simd};
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
    /// Normalised keys `[tile, dim, TILE]`, filled up with zeros; of all, or of doubtful ones only.
    tiles: Vec<f32>,
    integers: Integers,
    /// Keys whose nearest centroid the integers do not prove.
    doubtful: Vec<u32>,
    /// Which of them, and a centroid that it may belong to.
    candidates: Vec<(u32, u32)>,
    /// Cluster of each key, filled up to whole tiles.
    labels: Vec<u32>,
    centroids: Vec<f32>,
    /// Means of keys that are not normalised, and whether these are the centroids asked for.
    raw_means: Vec<f32>,
    raw: bool,
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
    /// the same bits as `plain::kmeans`.
    ///
    /// # Panics
    /// When there are fewer keys than clusters, or no clusters or iterations are asked for.
    pub fn fit(&mut self, keys: &[f32], dim: usize, config: &Config, rng: &mut ChaCha8Rng) {
        self.count = keys.len() / dim;
        self.raw = config.means == Means::Raw;
        assert!((1..=self.count).contains(&config.clusters), "{} clusters of {} keys", config.clusters, self.count);
        assert!(config.max_iterations > 0, "no iterations");
        if config.precision != Precision::F32 && !self.raw {
            (self.labels, self.centroids, self.iterations) = half::kmeans(keys, dim, config, rng);
            return;
        }
        let mut in_integers = self.load(keys, dim);
        let integers = in_integers.then_some(&mut self.integers);
        starts(&self.keys, dim, integers, config, rng, &mut self.starts);
        self.centroids.clear();
        for start in &self.starts {
            self.centroids.extend_from_slice(&self.keys[start * dim..][..dim]);
        }
        self.previous.resize(self.centroids.len(), 0.0);
        self.counts.resize(config.clusters, 0);

        for iterations in 1..=config.max_iterations {
            self.iterations = iterations;
            self.norms.clear();
            match config.means {
                Means::Unit => self.norms.extend(self.centroids.chunks_exact(dim).map(|c| linalg::dot(c, c))),
                Means::Raw => self.norms.resize(config.clusters, 1.0),
            }
            if in_integers && !self.integers.load_centroids(&self.centroids, &self.norms) {
                in_integers = false;
                self.load_tiles(dim);
            }
            let changed = match in_integers {
                true => self.assign_in_integers(dim),
                false => assign(&self.tiles, &self.centroids, &self.norms, &mut self.labels),
            };
            // The same labels have the same means: nothing would move.
            if !changed {
                return;
            }
            std::mem::swap(&mut self.centroids, &mut self.previous);
            match config.means {
                Means::Unit => means(&self.keys, &self.labels, &mut self.centroids, &mut self.counts),
                Means::Raw => {
                    self.raw_means.resize(self.centroids.len(), 0.0);
                    means(keys, &self.labels, &mut self.raw_means, &mut self.counts);
                    self.centroids.clone_from(&self.raw_means);
                    normalize_all(&mut self.centroids, dim);
                }
            }
            if stopped(&self.centroids, &self.previous, config.tolerance) {
                return;
            }
        }
    }

    /// Cluster of each key.
    pub fn labels(&self) -> &[u32] {
        &self.labels[..self.count]
    }

    /// Mean of each cluster's keys, normalised or not ([`Config::means`]), `[cluster, dim]`; 0 for an empty cluster.
    pub fn centroids(&self) -> &[f32] {
        if self.raw { &self.raw_means } else { &self.centroids }
    }

    /// Assignments of keys to centroids that the last [`KMeans::fit`] took.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Takes the keys, normalised; whether as integers.
    fn load(&mut self, keys: &[f32], dim: usize) -> bool {
        self.keys.clear();
        self.keys.extend_from_slice(keys);
        let regular = normalize_all(&mut self.keys, dim);
        self.labels.clear();
        self.labels.resize(self.count.next_multiple_of(integers::TILE), u32::MAX);
        let in_integers = regular && integers::supported(linalg::level(), dim);
        match in_integers {
            true => self.integers.load_keys(&self.keys, dim),
            false => self.load_tiles(dim),
        }
        in_integers
    }

    fn load_tiles(&mut self, dim: usize) {
        fill_tiles(&mut self.tiles, dim, self.keys.chunks_exact(dim));
    }

    /// As [`assign`], most keys in integers.
    fn assign_in_integers(&mut self, dim: usize) -> bool {
        let mut changed = false;
        self.doubtful.clear();
        let mut found = [0; integers::TILE];
        for tile in 0..self.integers.tiles() {
            let first = tile * integers::TILE;
            let mut doubtful = self.integers.nearest(tile, &mut found);
            let there = (self.count - first).min(integers::TILE);
            doubtful &= u64::MAX >> (integers::TILE - there);
            while doubtful != 0 {
                let lane = doubtful.trailing_zeros();
                doubtful &= doubtful - 1;
                self.doubtful.push(first as u32 + lane);
                found[lane as usize] = self.labels[first + lane as usize];
            }
            let labels = &mut self.labels[first..first + integers::TILE];
            changed |= *labels != found;
            labels.copy_from_slice(&found);
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        for keys in doubtful.chunks(integers::TILE) {
            changed |= self.settle(keys, dim);
        }
        self.doubtful = doubtful;
        changed
    }

    /// Gives up to 64 keys, of which the integers prove nothing, their labels; whether any label changed.
    fn settle(&mut self, keys: &[u32], dim: usize) -> bool {
        let clusters = self.norms.len();
        self.candidates.clear();
        if clusters > FEW {
            self.integers.candidates(keys, |i, centroid| self.candidates.push((i as u32, centroid)));
        } else {
            let all = |i| (0..clusters as u32).map(move |centroid| (i, centroid));
            self.candidates.extend((0..keys.len() as u32).flat_map(all));
        }
        if self.candidates.len() > (clusters * keys.len() / MANY).max(FEW * keys.len()) {
            fill_tiles(&mut self.tiles, dim, keys.iter().map(|key| &self.keys[*key as usize * dim..][..dim]));
            let mut labels = [u32::MAX; integers::TILE];
            let tiles = keys.len().next_multiple_of(TILE);
            assign(&self.tiles, &self.centroids, &self.norms, &mut labels[..tiles]);
            return self.relabel(keys, labels.into_iter());
        }
        let mut nearest = [(f32::INFINITY, 0); integers::TILE];
        for candidates in self.candidates.chunks(TOGETHER) {
            // The last chunk is filled up with its first pair, which changes nothing.
            let pairs: [_; TOGETHER] = std::array::from_fn(|i| candidates[if i < candidates.len() { i } else { 0 }]);
            let rows = pairs.map(|(i, centroid)| {
                (
                    &self.keys[keys[i as usize] as usize * dim..][..dim],
                    &self.centroids[centroid as usize * dim..][..dim],
                )
            });
            for ((i, centroid), product) in pairs.into_iter().zip(products_in_order(rows)) {
                let distance = self.norms[centroid as usize] - 2.0 * product;
                let nearest = &mut nearest[i as usize];
                if distance < nearest.0 {
                    *nearest = (distance, centroid);
                }
            }
        }
        self.relabel(keys, nearest.into_iter().map(|(_, label)| label))
    }

    /// Gives keys their labels; whether any changed.
    fn relabel(&mut self, keys: &[u32], labels: impl Iterator<Item = u32>) -> bool {
        let mut changed = false;
        for (key, label) in keys.iter().zip(labels) {
            changed |= std::mem::replace(&mut self.labels[*key as usize], label) != label;
        }
        changed
    }
}

/// Keys as tiles `[tile, dim, TILE]`, filled up with zeros.
fn fill_tiles<'a>(tiles: &mut Vec<f32>, dim: usize, keys: impl ExactSizeIterator<Item = &'a [f32]>) {
    tiles.clear();
    tiles.resize(keys.len().div_ceil(TILE) * dim * TILE, 0.0);
    for (i, key) in keys.enumerate() {
        let tile = &mut tiles[i / TILE * dim * TILE..][..dim * TILE];
        tile.chunks_exact_mut(TILE).zip(key).for_each(|(column, x)| column[i % TILE] = *x);
    }
}

/// So few centroids are all compared, without asking which come into question.
const FEW: usize = 8;
/// Where more than a share of one in so many centroids come into question, tiles are faster than pairs.
const MANY: usize = 16;
/// Products that are added up beside each other.
const TOGETHER: usize = 8;

/// `x·c` of pairs of vectors of the same length, one element after the other.
fn products_in_order(rows: [(&[f32], &[f32]); TOGETHER]) -> [f32; TOGETHER] {
    let dim = rows[0].0.len();
    let rows = rows.map(|(x, c)| (&x[..dim], &c[..dim]));
    let mut products = [0f32; TOGETHER];
    for d in 0..dim {
        for (product, (x, c)) in products.iter_mut().zip(&rows) {
            *product += x[d] * c[d];
        }
    }
    products
}

simd! {
    /// Normalises every key; whether all are of length 0 or 1 now, but for rounding. (The square of the length of a key
    /// of very small or large elements is itself too small or large to be known well.)
    fn normalize_all(keys: &mut [f32], dim: usize) -> bool {
        let mut regular = true;
        for key in keys.chunks_exact_mut(dim) {
            let norm = linalg::normalize_row(key);
            regular &= norm == 0.0 || (norm > 1e-15 && norm < 1e15);
        }
        regular
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
        let rng = ChaCha8Rng::seed_from_u64(7);
        let expected = plain::kmeans(keys, dim, config, &mut rng.clone());
        // Other tests may ask for other levels meanwhile, which changes nothing.
        for level in linalg::LEVELS {
            linalg::limit(level);
            fast.fit(keys, dim, config, &mut rng.clone());
            assert_eq!(fast.labels(), expected.labels, "{level:?}");
            assert_eq!(fast.iterations(), expected.iterations);
            let bits = |centroids: &[f32]| centroids.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(fast.centroids()), bits(&expected.centroids), "{level:?}");
        }
    }

    proptest! {
        #[test]
        fn gives_the_same_bits_as_the_plain_one(
            dim in 1usize..40,
            count in 1usize..90,
            clusters in 1usize..40,
            max_iterations in 1usize..17,
            start in prop_oneof![Just(Start::First), Just(Start::Random), Just(Start::PlusPlus)],
            shape in 0..5,
            tolerance in prop_oneof![Just(0f32), Just(crate::cluster::TOLERANCE), Just(0.2)],
            means in prop_oneof![Just(Means::Unit), Just(Means::Raw)],
            precision in prop_oneof![6 => Just(Precision::F32), 1 => Just(Precision::F16), 1 => Just(Precision::Bf16)],
            data in proptest::collection::vec(-3f32..3.0, 40 * 90),
        ) {
            let element = |(i, x): (usize, &f32)| match shape {
                // Duplicates, ties, zero keys and empty clusters.
                0 => (x / 2.0).round(),
                // Nearly the same direction: integers prove nothing.
                1 => 1.0 + x * 1e-4,
                // So small that their squares are not known.
                2 => x * 1e-22,
                // One element is all that counts.
                3 if !i.is_multiple_of(dim) => x * 1e-3,
                _ => *x,
            };
            let data: Vec<f32> = data.iter().enumerate().map(element).collect();
            let clusters = clusters.min(count);
            let config = Config { clusters, max_iterations, tolerance, start, means, precision };
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
