//! The nearest centroid of most keys, found with 16-bit integers and a margin that proves it.
//!
//! Elements of normalised keys `x` and centroids `c` are rounded to multiples of 1/S, S = 2¹⁵: `X = round(S x)`,
//! `C = round(S c)`. The integer `X·C − S² |c|²/2` stands for −S²/2 times the distance `|c|² − 2 x·c`; processors
//! multiply 16-bit integers two to four times as fast as floats. Rounding moves it by less than a [`margin`], so that
//! a centroid which leads all others by more has the smallest distance in single precision too, in any order of summation. The
//! keys for which none does are few; they are given back, with the centroids that come into question.

use pimattn_kv::linalg::SimdLevel;

/// Keys of a tile.
pub const TILE: usize = 64;
/// Centroids of a block: those that a pass over a tile multiplies.
const BLOCK: usize = 4;
/// Scale of the integers.
const S: f32 = 32768.0;
/// Most elements of a vector: a key's length is 1 to within 1e-5 then, however its square was summed.
const MAX_DIM: usize = 4096;
/// Highest squared length of a centroid.
const MAX_NORM: f32 = 1.000_02;
/// Of a centroid that is not there: further away than any.
const ABSENT: i32 = i32::MAX;

/// Keys and centroids as integers.
#[derive(Debug, Clone, Default)]
pub struct Integers {
    dim: usize,
    margin: i32,
    /// Keys `[tile, pair of elements, key of the tile]`, filled up with zeros. A pair is one 32-bit integer, the first
    /// element in the lower half.
    keys: Vec<[i32; TILE]>,
    /// Centroids `[block, pair of elements, centroid of the block]`.
    centroids: Vec<[i32; BLOCK]>,
    /// `S² |c|² / 2` of each, `[block, centroid of the block]`.
    halves: Vec<[i32; BLOCK]>,
    /// Tile of keys that are looked at again.
    again: Vec<[i32; TILE]>,
}

/// The two centroids that lead, for each key of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Leaders {
    best: [i32; TILE],
    second: [i32; TILE],
    label: [u32; TILE],
}

const NONE: Leaders = Leaders { best: [i32::MIN; TILE], second: [i32::MIN; TILE], label: [0; TILE] };

/// Whether integers serve at this level: where the processor multiplies pairs of them at once.
pub fn supported(level: SimdLevel, dim: usize) -> bool {
    level >= SimdLevel::Avx2 && dim <= MAX_DIM
}

/// By how much one integer must exceed another to prove that its distance is smaller: twice the largest error.
///
/// Each element of X and C is within 1/2 of S times the element, but for one of 1, which becomes S − 1: with lengths of
/// at most 1 + 1e-5, the vectors of errors are no longer than `r = √(dim/4 + 2)`, and X·C is within `2.001 S r + r²` of
/// S² x·c. S² |c|²/2 is rounded by at most 1. A sum of products in single precision is within `(dim + 1) 2⁻²⁴` of x·c
/// in any order, and the subtraction from |c|² rounds once more.
fn margin(dim: usize) -> i32 {
    let (s, dim) = (f64::from(S), dim as f64);
    let r = (dim / 4.0 + 2.0).sqrt();
    let integer = 2.001 * s * r + r * r + 1.0;
    let single = s * s / 2.0 * (2.0 * (dim + 1.0) + 4.0) * 1.03 * 0.5f64.powi(24);
    (2.0 * (integer + single)).ceil() as i32
}

/// `round(S x)` of two elements.
#[inline(always)]
fn pair(low: f32, high: f32) -> i32 {
    // Added to a number below 2²², it leaves the number rounded in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let round = |x: f32| {
        let scaled = x * S;
        let limited = if scaled > -S { scaled } else { -S };
        let limited = if limited < S - 1.0 { limited } else { S - 1.0 };
        (limited + ROUND).to_bits()
    };
    (round(high) << 16 | round(low) & 0xFFFF) as i32
}

impl Integers {
    /// Takes `keys` `[key, dim]`, each of a length of at most 1 (but for rounding).
    pub fn load_keys(&mut self, keys: &[f32], dim: usize) {
        self.dim = dim;
        self.margin = margin(dim);
        let pairs = dim.div_ceil(2);
        let tiles = (keys.len() / dim).div_ceil(TILE);
        self.keys.resize(tiles * pairs, [0; TILE]);
        if !(keys.len() / dim).is_multiple_of(TILE) {
            self.keys[(tiles - 1) * pairs..].fill([0; TILE]);
        }
        pack_tiles(keys, dim, &mut self.keys);
        self.again.resize(pairs, [0; TILE]);
    }

    /// Takes `centroids` `[centroid, dim]` and their squared lengths; whether they are in range.
    pub fn load_centroids(&mut self, centroids: &[f32], norms: &[f32]) -> bool {
        if !norms.iter().all(|n| *n <= MAX_NORM) {
            return false;
        }
        let pairs = self.dim.div_ceil(2);
        let blocks = norms.len().div_ceil(BLOCK);
        self.centroids.resize(blocks * pairs, [0; BLOCK]);
        self.halves.resize(blocks, [ABSENT; BLOCK]);
        if !norms.len().is_multiple_of(BLOCK) {
            self.centroids[(blocks - 1) * pairs..].fill([0; BLOCK]);
            self.halves[blocks - 1] = [ABSENT; BLOCK];
        }
        for (half, norm) in self.halves.as_flattened_mut().iter_mut().zip(norms) {
            *half = (norm * (S * S / 2.0)) as i32;
        }
        pack_blocks(centroids, self.dim, &mut self.centroids);
        true
    }

    /// Tiles of keys.
    pub fn tiles(&self) -> usize {
        self.keys.len() / self.dim.div_ceil(2)
    }

    /// The nearest centroid of each key of a tile into `labels`; the keys of which that is not proved, by bits.
    pub fn nearest(&self, tile: usize, labels: &mut [u32; TILE]) -> u64 {
        let pairs = self.dim.div_ceil(2);
        let leaders = leaders(&self.keys[tile * pairs..][..pairs], &self.centroids, &self.halves);
        *labels = leaders.label;
        let mut doubtful = 0;
        for i in 0..TILE {
            doubtful |= u64::from(leaders.second[i] >= leaders.best[i] - self.margin) << i;
        }
        doubtful
    }

    /// Of up to 64 keys, calls `candidate(i, centroid)` for the `i`-th one of them and each centroid that may be its
    /// nearest: centroids ascending.
    pub fn candidates(&mut self, keys: &[u32], mut candidate: impl FnMut(usize, u32)) {
        let pairs = self.dim.div_ceil(2);
        for (i, key) in keys.iter().enumerate() {
            let (tile, lane) = (*key as usize / TILE, *key as usize % TILE);
            let from = &self.keys[tile * pairs..][..pairs];
            from.iter().zip(&mut self.again).for_each(|(from, to)| to[i] = from[lane]);
        }
        let leaders = leaders(&self.again, &self.centroids, &self.halves);
        let limit = leaders.best.map(|best| best - self.margin);
        let blocks = self.centroids.chunks_exact(pairs).zip(&self.halves);
        for ((block, halves), first) in blocks.zip((0u32..).step_by(BLOCK)) {
            let reached = reaching(&self.again, block, halves, &limit);
            for (mut bits, centroid) in reached.into_iter().zip(first..) {
                while bits != 0 {
                    let i = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    if i < keys.len() {
                        candidate(i, centroid);
                    }
                }
            }
        }
    }

    /// Lowers the squared distance of each key, `nearest`, to those to the centroids that are nearer, which `distance(key,
    /// centroid)` tells in single precision; it is not asked where that cannot be lower. `norms` are the keys' `|x|²`.
    pub fn nearer(&self, norms: &[f32], nearest: &mut [f32], distance: impl Fn(usize, usize) -> f32) {
        let pairs = self.dim.div_ceil(2);
        for (tile, first) in self.keys.chunks_exact(pairs).zip((0..).step_by(TILE)) {
            let there = (norms.len() - first).min(TILE);
            let mut limit = [i32::MAX; TILE];
            for ((limit, norm), nearest) in limit.iter_mut().zip(&norms[first..]).zip(&nearest[first..]) {
                // A margin is twice the largest error: there is room for the roundings of this and of the distance.
                *limit = ((norm - nearest) * (S * S / 2.0)) as i32;
                *limit = limit.saturating_sub(self.margin);
            }
            let blocks = self.centroids.chunks_exact(pairs).zip(&self.halves);
            for ((block, halves), centroid) in blocks.zip((0..).step_by(BLOCK)) {
                for (mut bits, centroid) in reaching(tile, block, halves, &limit).into_iter().zip(centroid..) {
                    bits &= u64::MAX >> (TILE - there);
                    while bits != 0 && halves[centroid % BLOCK] != ABSENT {
                        let key = first + bits.trailing_zeros() as usize;
                        bits &= bits - 1;
                        nearest[key] = nearest[key].min(distance(key, centroid));
                    }
                }
            }
        }
    }
}

pimattn_kv::linalg::simd! {
    fn pack_tiles(keys: &[f32], dim: usize, tiles: &mut [[i32; TILE]]) {
        let pairs = dim.div_ceil(2);
        for (keys, tile) in keys.chunks(TILE * dim).zip(tiles.chunks_exact_mut(pairs)) {
            for (lane, key) in keys.chunks_exact(dim).enumerate() {
                let (twos, odd) = key.as_chunks::<2>();
                for (x, to) in twos.iter().zip(&mut *tile) {
                    to[lane] = pair(x[0], x[1]);
                }
                if let [x] = odd {
                    tile[pairs - 1][lane] = pair(*x, 0.0);
                }
            }
        }
    }
}

pimattn_kv::linalg::simd! {
    fn pack_blocks(centroids: &[f32], dim: usize, blocks: &mut [[i32; BLOCK]]) {
        let pairs = dim.div_ceil(2);
        for (centroids, block) in centroids.chunks(BLOCK * dim).zip(blocks.chunks_exact_mut(pairs)) {
            for (lane, centroid) in centroids.chunks_exact(dim).enumerate() {
                let (twos, odd) = centroid.as_chunks::<2>();
                for (x, to) in twos.iter().zip(&mut *block) {
                    to[lane] = pair(x[0], x[1]);
                }
                if let [x] = odd {
                    block[pairs - 1][lane] = pair(*x, 0.0);
                }
            }
        }
    }
}

/// The leading centroids of each key of a tile; of equal ones, the first, but then the second is as good.
fn leaders(tile: &[[i32; TILE]], centroids: &[[i32; BLOCK]], halves: &[[i32; BLOCK]]) -> Leaders {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both are safe functions but for the processor's features, which the level says are there.
    match pimattn_kv::linalg::level() {
        SimdLevel::Avx512 => return unsafe { x86::leaders_avx512(tile, centroids, halves) },
        SimdLevel::Avx2 => return unsafe { x86::leaders_avx2(tile, centroids, halves) },
        SimdLevel::Baseline => (),
    }
    let mut leaders = NONE;
    for (block, (centroids, halves)) in centroids.chunks_exact(tile.len()).zip(halves).enumerate() {
        for (c, values) in values(tile, centroids, halves).iter().enumerate() {
            for (i, value) in values.iter().enumerate() {
                leaders.second[i] = leaders.second[i].max((*value).min(leaders.best[i]));
                if *value > leaders.best[i] {
                    (leaders.best[i], leaders.label[i]) = (*value, (block * BLOCK + c) as u32);
                }
            }
        }
    }
    leaders
}

/// Bits of the keys whose value with each centroid of a block reaches a limit.
fn reaching(tile: &[[i32; TILE]], block: &[[i32; BLOCK]], halves: &[i32; BLOCK], limit: &[i32; TILE]) -> [u64; BLOCK] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both are safe functions but for the processor's features, which the level says are there.
    match pimattn_kv::linalg::level() {
        SimdLevel::Avx512 => return unsafe { x86::reaching_avx512(tile, block, halves, limit) },
        SimdLevel::Avx2 => return unsafe { x86::reaching_avx2(tile, block, halves, limit) },
        SimdLevel::Baseline => (),
    }
    values(tile, block, halves).map(|values| {
        let reached = values.iter().zip(limit).enumerate();
        reached.fold(0, |bits, (i, (value, limit))| bits | u64::from(value >= limit) << i)
    })
}

/// `X·C − S² |c|²/2` of the keys of a tile and the centroids of a block.
fn values(tile: &[[i32; TILE]], block: &[[i32; BLOCK]], halves: &[i32; BLOCK]) -> [[i32; TILE]; BLOCK] {
    let split = |pair: i32| (i32::from(pair as i16), pair >> 16);
    let mut values = halves.map(|half| [-half; TILE]);
    for (keys, centroids) in tile.iter().zip(block) {
        for (values, centroid) in values.iter_mut().zip(centroids) {
            let (c0, c1) = split(*centroid);
            for (value, key) in values.iter_mut().zip(keys) {
                let (x0, x1) = split(*key);
                *value += x0 * c0 + x1 * c1;
            }
        }
    }
    values
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Leaders, NONE, TILE};
    use std::arch::x86_64::*;

    /// Integers of an AVX-512 vector, and of an AVX2 one.
    const WIDE: usize = 16;
    const NARROW: usize = 8;
    /// AVX2 vectors whose products with a block of centroids stay in registers.
    const PART: usize = 2;

    /// Values of a whole tile with a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn values_avx512(
        tile: &[[i32; TILE]],
        block: &[[i32; BLOCK]],
        halves: &[i32; BLOCK],
    ) -> [[__m512i; TILE / WIDE]; BLOCK] {
        let mut values = halves.map(|half| [_mm512_set1_epi32(-half); TILE / WIDE]);
        for (keys, centroids) in tile.iter().zip(block) {
            // SAFETY: a row of a tile is as long as its vectors.
            let keys: [__m512i; TILE / WIDE] =
                std::array::from_fn(|v| unsafe { _mm512_loadu_si512(keys.as_ptr().add(v * WIDE).cast()) });
            for c in 0..BLOCK {
                let centroid = _mm512_set1_epi32(centroids[c]);
                for v in 0..TILE / WIDE {
                    values[c][v] = _mm512_dpwssd_epi32(values[c][v], keys[v], centroid);
                }
            }
        }
        values
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn leaders_avx512(tile: &[[i32; TILE]], centroids: &[[i32; BLOCK]], halves: &[[i32; BLOCK]]) -> Leaders {
        const V: usize = TILE / WIDE;
        let mut best = [_mm512_set1_epi32(i32::MIN); V];
        let mut second = best;
        let mut label = [_mm512_setzero_si512(); V];
        for (b, (block, halves)) in centroids.chunks_exact(tile.len()).zip(halves).enumerate() {
            let values = values_avx512(tile, block, halves);
            for (c, values) in values.into_iter().enumerate() {
                let this = _mm512_set1_epi32((b * BLOCK + c) as i32);
                for (v, value) in values.into_iter().enumerate() {
                    let leads = _mm512_cmpgt_epi32_mask(value, best[v]);
                    second[v] = _mm512_max_epi32(second[v], _mm512_min_epi32(value, best[v]));
                    best[v] = _mm512_max_epi32(best[v], value);
                    label[v] = _mm512_mask_mov_epi32(label[v], leads, this);
                }
            }
        }
        let mut leaders = NONE;
        for v in 0..V {
            // SAFETY: each array is as long as its vectors.
            unsafe {
                _mm512_storeu_si512(leaders.best.as_mut_ptr().add(v * WIDE).cast(), best[v]);
                _mm512_storeu_si512(leaders.second.as_mut_ptr().add(v * WIDE).cast(), second[v]);
                _mm512_storeu_si512(leaders.label.as_mut_ptr().add(v * WIDE).cast(), label[v]);
            }
        }
        leaders
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn reaching_avx512(
        tile: &[[i32; TILE]],
        block: &[[i32; BLOCK]],
        halves: &[i32; BLOCK],
        limit: &[i32; TILE],
    ) -> [u64; BLOCK] {
        values_avx512(tile, block, halves).map(|values| {
            let mut bits = 0;
            for (v, value) in values.into_iter().enumerate() {
                // SAFETY: the limits are as many as the keys of a tile.
                let limit = unsafe { _mm512_loadu_si512(limit.as_ptr().add(v * WIDE).cast()) };
                bits |= u64::from(_mm512_cmpge_epi32_mask(value, limit)) << (v * WIDE);
            }
            bits
        })
    }

    /// Values of [`PART`] vectors of keys of a tile, from vector `first` on, with a block.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn values_avx2(
        tile: &[[i32; TILE]],
        first: usize,
        block: &[[i32; BLOCK]],
        halves: &[i32; BLOCK],
    ) -> [[__m256i; PART]; BLOCK] {
        assert!(first + PART <= TILE / NARROW);
        let mut values = halves.map(|half| [_mm256_set1_epi32(-half); PART]);
        for (keys, centroids) in tile.iter().zip(block) {
            // SAFETY: the vectors are within a row of the tile, as asserted.
            let keys: [__m256i; PART] =
                std::array::from_fn(|v| unsafe { _mm256_loadu_si256(keys.as_ptr().add((first + v) * NARROW).cast()) });
            for c in 0..BLOCK {
                let centroid = _mm256_set1_epi32(centroids[c]);
                for v in 0..PART {
                    values[c][v] = _mm256_add_epi32(values[c][v], _mm256_madd_epi16(keys[v], centroid));
                }
            }
        }
        values
    }

    #[target_feature(enable = "avx2")]
    pub fn leaders_avx2(tile: &[[i32; TILE]], centroids: &[[i32; BLOCK]], halves: &[[i32; BLOCK]]) -> Leaders {
        let mut leaders = NONE;
        for first in (0..TILE / NARROW).step_by(PART) {
            let mut best = [_mm256_set1_epi32(i32::MIN); PART];
            let mut second = best;
            let mut label = [_mm256_setzero_si256(); PART];
            for (b, (block, halves)) in centroids.chunks_exact(tile.len()).zip(halves).enumerate() {
                let values = values_avx2(tile, first, block, halves);
                for (c, values) in values.into_iter().enumerate() {
                    let this = _mm256_set1_epi32((b * BLOCK + c) as i32);
                    for (v, value) in values.into_iter().enumerate() {
                        let leads = _mm256_cmpgt_epi32(value, best[v]);
                        second[v] = _mm256_max_epi32(second[v], _mm256_min_epi32(value, best[v]));
                        best[v] = _mm256_max_epi32(best[v], value);
                        label[v] = _mm256_blendv_epi8(label[v], this, leads);
                    }
                }
            }
            for v in 0..PART {
                let at = (first + v) * NARROW;
                // SAFETY: each array is as long as its vectors.
                unsafe {
                    _mm256_storeu_si256(leaders.best.as_mut_ptr().add(at).cast(), best[v]);
                    _mm256_storeu_si256(leaders.second.as_mut_ptr().add(at).cast(), second[v]);
                    _mm256_storeu_si256(leaders.label.as_mut_ptr().add(at).cast(), label[v]);
                }
            }
        }
        leaders
    }

    #[target_feature(enable = "avx2")]
    pub fn reaching_avx2(
        tile: &[[i32; TILE]],
        block: &[[i32; BLOCK]],
        halves: &[i32; BLOCK],
        limit: &[i32; TILE],
    ) -> [u64; BLOCK] {
        let mut reached = [0; BLOCK];
        for first in (0..TILE / NARROW).step_by(PART) {
            let values = values_avx2(tile, first, block, halves);
            for v in 0..PART {
                let at = (first + v) * NARROW;
                // SAFETY: the limits are as many as the keys of a tile.
                let limit = unsafe { _mm256_loadu_si256(limit.as_ptr().add(at).cast()) };
                for (bits, values) in reached.iter_mut().zip(&values) {
                    let below = _mm256_cmpgt_epi32(limit, values[v]);
                    let below = _mm256_movemask_ps(_mm256_castsi256_ps(below)) as u8;
                    *bits |= u64::from(!below) << at;
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_kv::linalg::{self, LEVELS};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_proved_holds_and_what_comes_into_question_is_named(
            dim in 1usize..150,
            keys in 1usize..140,
            clusters in 1usize..20,
            one in any::<bool>(),
            data in proptest::collection::vec(-1f32..1.0, 150 * 160),
        ) {
            let mut data = data;
            for (i, row) in data.chunks_exact_mut(dim).enumerate() {
                if one && i % 3 == 0 {
                    row.fill(0.0);
                    row[i % dim] = if i % 2 == 0 { 1.0 } else { -1.0 };
                }
                linalg::normalize(row);
            }
            let (centroids, keys) = data[..dim * (clusters + keys)].split_at(dim * clusters);
            let norms: Vec<f32> = centroids.chunks_exact(dim).map(|c| linalg::dot(c, c)).collect();
            let count = keys.len() / dim;
            let key = |i: usize| &keys[i * dim..][..dim];
            let distance = |i: usize, c: usize| {
                let product = key(i).iter().zip(&centroids[c * dim..]).fold(0f32, |sum, (x, c)| sum + x * c);
                norms[c] - 2.0 * product
            };
            for level in LEVELS {
                linalg::limit(level);
                let mut integers = Integers::default();
                integers.load_keys(keys, dim);
                prop_assert!(integers.load_centroids(centroids, &norms));
                let mut labels = [0; TILE];
                for tile in 0..integers.tiles() {
                    let doubtful = integers.nearest(tile, &mut labels);
                    for i in (0..TILE.min(count - tile * TILE)).filter(|i| doubtful >> i & 1 == 0) {
                        let label = labels[i] as usize;
                        let nearest = distance(tile * TILE + i, label);
                        prop_assert!((0..clusters).all(|c| c == label || distance(tile * TILE + i, c) > nearest));
                    }
                }
                let asked: Vec<u32> = (0..count as u32).step_by(3).take(TILE).collect();
                let mut named = vec![Vec::new(); asked.len()];
                integers.candidates(&asked, |i, centroid| named[i].push(centroid as usize));
                for (key, named) in asked.iter().zip(named) {
                    let nearest = (0..clusters).map(|c| distance(*key as usize, c)).fold(f32::INFINITY, f32::min);
                    let nearest: Vec<usize> = (0..clusters).filter(|c| distance(*key as usize, *c) == nearest).collect();
                    prop_assert!(named.is_sorted() && nearest.iter().all(|c| named.contains(c)));
                }
                let squares: Vec<f32> = (0..count).map(|i| linalg::dot(key(i), key(i))).collect();
                let square = |i: usize, c: usize| squares[i] + distance(i, c);
                let mut lowered: Vec<f32> = (0..count).map(|i| square(i, i % clusters)).collect();
                integers.nearer(&squares, &mut lowered, square);
                for (i, lowered) in lowered.iter().enumerate() {
                    let expected = (0..clusters).map(|c| square(i, c)).fold(f32::INFINITY, f32::min);
                    prop_assert_eq!(*lowered, expected);
                }
            }
        }
    }

    #[test]
    fn the_margin_is_small() {
        // Of squared distances between directions, which are 0 to 4.
        let share = |dim| f64::from(margin(dim)) * 2.0 / f64::from(S * S);
        assert!(share(128) < 0.0015 && share(MAX_DIM) < 0.009, "{} {}", share(128), share(MAX_DIM));
    }
}
