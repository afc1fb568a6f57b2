//! The tokens of highest q·k, most of them without their keys: 8-bit copies of the keys give every score with a bound of
//! its error, and the keys themselves decide only where the bounds leave a doubt.
//!
//! A key `k` is stored as `a K`, `a` a scale of its own and `K` integers of at most 127; a query `q` becomes `b Q`, `Q` of
//! 16 bits. Then `q·k` is within `|q| |k − a K| + |q − b Q| |a K|` of `a b K·Q` (Cauchy and Schwarz), and single
//! precision adds a few roundings of `|q| |k|`. Keys of a tile share their largest errors.

use super::topk::{TopK, index, rank};
use pimattn_kv::Rows;
use pimattn_kv::linalg::{self, LANES, SimdLevel, simd};

/// Keys of a tile; [`linalg::reaching`] has a limit for as many.
const TILE: usize = 64;
/// Queries that share the loads of a tile.
const QUERIES: usize = 4;
/// Largest integer of a key.
const LARGEST: f32 = 127.0;
/// Scales are no smaller, so that no product of two of them leaves the range of single precision.
const SMALLEST_SCALE: f32 = 1e-15;
/// Elements of keys and queries that are larger are not taken, for the same reason.
const LARGEST_ELEMENT: f32 = 1e12;

/// Doubtful keys that are asked for ahead of their use.
const AHEAD: usize = 4;

/// Two elements of the keys of a tile.
type KeyPairs = [[i8; 2]; TILE];
/// Sums of the keys of a tile with some queries.
type Sums = [[i32; TILE]; QUERIES];

/// Keys in 8 bits.
#[derive(Debug, Clone, Default)]
pub struct Shortlist {
    dim: usize,
    len: usize,
    /// `[tile, pair of elements, key of the tile]`, filled up with zeros.
    keys: Vec<KeyPairs>,
    /// Scale of each key, filled up to whole tiles.
    scales: Vec<f32>,
    /// Of each tile.
    errors: Vec<Errors>,
    /// Of each token, of up to four queries, what the integers make of its score; filled up to whole tiles.
    scores: [Vec<f32>; QUERIES],
    /// How far these may be from the scores, by tile.
    doubts: [Vec<f32>; QUERIES],
    /// Tokens that may be among the best, ascending; and the highest that they may score, as ranks.
    candidates: Vec<u32>,
    ranks: Vec<u64>,
    /// Tokens that are; and those that may be, with their exact scores.
    certain: Vec<u32>,
    doubtful: Vec<u32>,
    exact: Vec<f32>,
    topk: TopK,
}

/// The largest of a tile.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    /// `|k − a K|`, and roundings.
    key: f32,
    /// `|a K|`.
    length: f32,
}

/// A query in 16 bits.
#[derive(Debug, Clone, Default)]
struct QuantisedQuery {
    /// Pairs of elements.
    pairs: Vec<[i16; 2]>,
    scale: f32,
    /// `|q|` and `|q − b Q|`, rounded up.
    length: f32,
    error: f32,
}

/// Whether a shortlist is faster than all scores: where the processor multiplies pairs of integers at once.
pub fn supported(dim: usize) -> bool {
    linalg::level() >= SimdLevel::Avx2 && dim <= 4096
}

impl Shortlist {
    /// No keys yet, of `dim` elements; room for `capacity` keys.
    pub fn new(dim: usize, capacity: usize) -> Self {
        let tiles = capacity.div_ceil(TILE);
        Self { dim, keys: Vec::with_capacity(tiles * dim.div_ceil(2)), ..Self::default() }
    }

    /// Keys stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds keys; false if one of them is too large to be taken, which ends the shortlist's use.
    pub fn extend(&mut self, keys: Rows<'_>) -> bool {
        let pairs = self.dim.div_ceil(2);
        let tiles = (self.len + keys.len()).div_ceil(TILE);
        self.keys.resize(tiles * pairs, [[0; 2]; TILE]);
        self.scales.resize(tiles * TILE, 0.0);
        self.errors.resize(tiles, Errors::default());
        for key in keys.data.chunks_exact(self.dim) {
            let (tile, lane) = (self.len / TILE, self.len % TILE);
            let largest = linalg::largest_magnitude(key);
            if largest > LARGEST_ELEMENT {
                return false;
            }
            let scale = (largest / LARGEST).max(SMALLEST_SCALE);
            let (error, squares) = store(key, scale, lane, &mut self.keys[tile * pairs..][..pairs]);
            let root = (self.dim as f32).sqrt();
            // Division rounds quotients of at most 127 by less than 1e-5.
            let (error, length) = (scale * (1.001 * error.sqrt() + 1e-5 * root), scale * (squares as f32).sqrt());
            // Roundings: of a lane-ordered product, of the score's scaling, and of the bounds' own sums.
            let roundings = (self.dim / LANES + 24) as f32 * (0.5 * f32::EPSILON);
            let errors = &mut self.errors[tile];
            errors.key = errors.key.max(error + roundings * (length + error));
            errors.length = errors.length.max(1.001 * length);
            self.scales[self.len] = scale;
            self.len += 1;
        }
        true
    }

    /// For each query, the `k` tokens of `0..len` of highest [`linalg::dot`] with `keys`, ascending, into `out`; of equal
    /// ones, the earlier token. `keys` are those that have been added, `k` is at least 1 and less than their number. False,
    /// and nothing selected, if a query is too large to be taken.
    pub fn best(&mut self, keys: Rows<'_>, queries: &[&[f32]], k: usize, out: &mut [Vec<u32>]) -> bool {
        let fits = |query: &&[f32]| linalg::largest_magnitude(query) <= LARGEST_ELEMENT;
        if !queries.iter().all(fits) {
            return false;
        }
        for (queries, out) in queries.chunks(QUERIES).zip(out.chunks_mut(QUERIES)) {
            self.bound(queries);
            for (i, (query, out)) in queries.iter().zip(out).enumerate() {
                self.choose(i, keys, query, k, out);
            }
        }
        true
    }

    /// Bounds the scores of up to four queries.
    fn bound(&mut self, queries: &[&[f32]]) {
        let pairs = self.dim.div_ceil(2);
        // Missing queries are zero.
        let coded: [QuantisedQuery; QUERIES] = std::array::from_fn(|i| {
            queries.get(i).map_or_else(|| QuantisedQuery::zero(pairs), |query| QuantisedQuery::new(query))
        });
        let weights: Vec<[i32; QUERIES]> = (0..pairs)
            .map(|p| {
                std::array::from_fn(|q| i32::from(coded[q].pairs[p][1]) << 16 | i32::from(coded[q].pairs[p][0] as u16))
            })
            .collect();
        for scores in &mut self.scores {
            scores.resize(self.scales.len(), 0.0);
        }
        self.doubts.iter_mut().for_each(Vec::clear);
        for (tile, keys) in self.keys.chunks_exact(pairs).enumerate() {
            let tokens = tile * TILE..(tile + 1) * TILE;
            let next = self.keys.get((tile + 1) * pairs..(tile + 2) * pairs).unwrap_or_default();
            let sums = sums(keys, &weights, next);
            for (i, query) in coded.iter().enumerate().take(queries.len()) {
                scale_sums(&sums[i], &self.scales[tokens.clone()], query.scale, &mut self.scores[i][tokens.clone()]);
                let errors = self.errors[tile];
                self.doubts[i].push(query.length * errors.key + query.error * errors.length);
            }
        }
    }

    /// Selects for the `i`-th query whose scores are bounded.
    fn choose(&mut self, i: usize, keys: Rows<'_>, query: &[f32], k: usize, out: &mut Vec<u32>) {
        let (scores, doubts) = (&self.scores[i][..self.len], &self.doubts[i]);
        let doubt = |token: u32| doubts[token as usize / TILE];
        // The k tokens that seem best score at least this much, and so do the k best.
        let reached = |rank: &u64| scores[index(*rank) as usize] - doubt(index(*rank));
        let reached = self.topk.best_ranks(scores, k).iter().map(reached).fold(f32::INFINITY, f32::min);
        self.candidates.clear();
        linalg::reaching(scores, |tile| reached - doubts[tile], |token| self.candidates.push(token as u32));
        out.clear();
        if self.candidates.len() == k {
            out.extend_from_slice(&self.candidates);
            return;
        }
        // A token that scores more than all but k others may is one of the best k.
        self.ranks.clear();
        self.ranks.extend(self.candidates.iter().map(|token| rank(scores[*token as usize] + doubt(*token), *token)));
        let place = self.ranks.len() - 1 - k;
        let exceeded = index(*self.ranks.select_nth_unstable(place).1);
        let exceeded = scores[exceeded as usize] + doubt(exceeded);
        self.certain.clear();
        self.doubtful.clear();
        for token in &self.candidates {
            let certain = scores[*token as usize] - doubt(*token) > exceeded;
            if certain { &mut self.certain } else { &mut self.doubtful }.push(*token);
        }
        self.exact.clear();
        for (i, token) in self.doubtful.iter().enumerate() {
            if let Some(later) = self.doubtful.get(i + AHEAD) {
                linalg::prefetch(keys.row(*later as usize));
            }
            self.exact.push(linalg::dot(query, keys.row(*token as usize)));
        }
        self.topk.best(&self.exact, k - self.certain.len(), out);
        out.iter_mut().for_each(|place| *place = self.doubtful[*place as usize]);
        merge(&self.certain, out);
    }
}

/// Merges ascending `more` into ascending `into`.
fn merge(more: &[u32], into: &mut Vec<u32>) {
    let mut left = into.len();
    into.resize(left + more.len(), 0);
    let mut rest = more;
    for place in (0..into.len()).rev() {
        match rest.split_last() {
            Some((last, others)) if left == 0 || *last > into[left - 1] => (into[place], rest) = (*last, others),
            Some(_) => (into[place], left) = (into[left - 1], left - 1),
            None => break,
        }
    }
}

impl QuantisedQuery {
    fn new(query: &[f32]) -> Self {
        // With keys of at most 127, no sum leaves the range of 32 bits.
        let limit = (i32::MAX / 128 / query.len() as i32).min(i32::from(i16::MAX)) as f32;
        let scale = (linalg::largest_magnitude(query) / limit).max(SMALLEST_SCALE);
        let (mut pairs, mut error, mut squares) = (vec![[0; 2]; query.len().div_ceil(2)], 0f32, 0f32);
        for (i, x) in query.iter().enumerate() {
            let quotient = x / scale;
            let integer = quotient.round_ties_even();
            pairs[i / 2][i % 2] = integer as i16;
            error += (quotient - integer).powi(2);
            squares += integer * integer;
        }
        // Division rounds quotients of at most 2¹⁵ by less than 0.002.
        let error = scale * (1.001 * error.sqrt() + 0.002 * (query.len() as f32).sqrt());
        Self { pairs, scale, length: 1.001 * scale * squares.sqrt() + error, error }
    }

    fn zero(pairs: usize) -> Self {
        Self { pairs: vec![[0; 2]; pairs], ..Self::default() }
    }
}

simd! {
    /// Stores `round(key / scale)` in a lane of a tile; the sums of the squares of the rest and of the integers.
    fn store(key: &[f32], scale: f32, lane: usize, tile: &mut [KeyPairs]) -> (f32, u32) {
        let (mut error, mut squares) = (0f32, 0u32);
        for (twos, pairs) in key.chunks(2).zip(tile) {
            for (x, to) in twos.iter().zip(&mut pairs[lane]) {
                let quotient = x / scale;
                let integer = quotient.round_ties_even();
                *to = integer as i8;
                error += (quotient - integer) * (quotient - integer);
                squares += u32::from(to.unsigned_abs()) * u32::from(to.unsigned_abs());
            }
        }
        (error, squares)
    }
}

simd! {
    fn scale_sums(sums: &[i32; TILE], scales: &[f32], scale: f32, out: &mut [f32]) {
        for ((sum, of_key), out) in sums.iter().zip(scales).zip(out) {
            *out = *sum as f32 * (scale * of_key);
        }
    }
}

/// Products of the keys of a tile with queries, `weights` `[pair, query]`: pairs of 16-bit integers. `next` is the tile that
/// will be read after this one.
fn sums(tile: &[KeyPairs], weights: &[[i32; QUERIES]], next: &[KeyPairs]) -> Sums {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both are safe functions but for the processor's features, which the level says are there.
    match linalg::level() {
        SimdLevel::Avx512 => return unsafe { x86::sums_avx512(tile, weights, next) },
        SimdLevel::Avx2 => return unsafe { x86::sums_avx2(tile, weights, next) },
        SimdLevel::Baseline => (),
    }
    let mut sums = [[0; TILE]; QUERIES];
    for (keys, weights) in tile.iter().zip(weights) {
        for (sums, weight) in sums.iter_mut().zip(weights) {
            let (low, high) = (i32::from(*weight as i16), weight >> 16);
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum += low * i32::from(key[0]) + high * i32::from(key[1]);
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{KeyPairs, QUERIES, Sums, TILE};
    use pimattn_kv::linalg::prefetch;
    use std::arch::x86_64::*;

    /// Keys of an AVX-512 vector of sums, and of an AVX2 one.
    const WIDE: usize = 16;
    const NARROW: usize = 8;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn sums_avx512(tile: &[KeyPairs], weights: &[[i32; QUERIES]], next: &[KeyPairs]) -> Sums {
        const V: usize = TILE / WIDE;
        let mut sums = [[_mm512_setzero_si512(); V]; QUERIES];
        for (i, (keys, weights)) in tile.iter().zip(weights).enumerate() {
            next.get(i).into_iter().for_each(|next| prefetch(next));
            // SAFETY: the pairs of a tile are as many as its vectors hold.
            let keys: [__m512i; V] = std::array::from_fn(|v| unsafe {
                _mm512_cvtepi8_epi16(_mm256_loadu_si256(keys.as_ptr().add(v * WIDE).cast()))
            });
            for (sums, weight) in sums.iter_mut().zip(weights) {
                let weight = _mm512_set1_epi32(*weight);
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    *sum = _mm512_dpwssd_epi32(*sum, keys, weight);
                }
            }
        }
        let mut out = [[0; TILE]; QUERIES];
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.as_chunks_mut::<WIDE>().0.iter_mut().zip(sums) {
                // SAFETY: a chunk is as long as a vector.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
            }
        }
        out
    }

    #[target_feature(enable = "avx2")]
    pub fn sums_avx2(tile: &[KeyPairs], weights: &[[i32; QUERIES]], next: &[KeyPairs]) -> Sums {
        /// Vectors of keys whose sums stay in registers.
        const PART: usize = 2;
        let mut out = [[0; TILE]; QUERIES];
        for first in (0..TILE).step_by(PART * NARROW) {
            let mut sums = [[_mm256_setzero_si256(); PART]; QUERIES];
            for (i, (keys, weights)) in tile.iter().zip(weights).enumerate() {
                if first == 0 {
                    next.get(i).into_iter().for_each(|next| prefetch(next));
                }
                let keys = &keys[first..first + PART * NARROW];
                // SAFETY: the pairs of a part are as many as its vectors hold.
                let keys: [__m256i; PART] = std::array::from_fn(|v| unsafe {
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(keys.as_ptr().add(v * NARROW).cast()))
                });
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    let weight = _mm256_set1_epi32(*weight);
                    for (sum, keys) in sums.iter_mut().zip(keys) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(keys, weight));
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                for (out, sum) in out[first..].as_chunks_mut::<NARROW>().0.iter_mut().zip(sums) {
                    // SAFETY: a chunk is as long as a vector.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain::ranking;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_the_tokens_that_sorting_all_scores_finds(
            dim in 1usize..80,
            count in 2usize..300,
            k in 1usize..300,
            shape in 0..4,
            queries in 1usize..7,
            data in proptest::collection::vec(-2f32..2.0, 80 * 307),
        ) {
            let element = |(i, x): (usize, &f32)| match shape {
                // Many equal scores.
                0 => x.round(),
                // Nearly equal keys: the bounds leave all in doubt.
                1 => 1.0 + x * 1e-3,
                // Of very different lengths.
                2 => x * [1e-20, 1.0, 100.0, 1e-3][i / dim % 4],
                _ => *x,
            };
            let data: Vec<f32> = data.iter().enumerate().map(element).collect();
            let (keys, rest) = data.split_at(dim * count);
            let keys = Rows { data: keys, dim };
            let queries: Vec<&[f32]> = rest.chunks_exact(dim).take(queries).collect();
            let k = k.min(count - 1);
            for level in linalg::LEVELS {
                linalg::limit(level);
                let mut shortlist = Shortlist::new(dim, count);
                prop_assert!(shortlist.extend(keys.range(0..count / 3)) && shortlist.extend(keys.range(count / 3..count)));
                let mut out = vec![vec![9; 3]; queries.len()];
                prop_assert!(shortlist.best(keys, &queries, k, &mut out));
                for (query, out) in queries.iter().zip(out) {
                    let scores: Vec<f32> = (0..count).map(|t| linalg::dot(query, keys.row(t))).collect();
                    let mut best: Vec<u32> = ranking(&scores).into_iter().take(k).map(|t| t as u32).collect();
                    best.sort_unstable();
                    prop_assert_eq!(out, best, "{:?}", level);
                }
            }
        }
    }

    #[test]
    fn vectors_out_of_range_are_refused() {
        let mut shortlist = Shortlist::new(1, 3);
        let keys = [1.0, 2.0, 1e13];
        assert!(shortlist.extend(Rows { data: &keys[..2], dim: 1 }));
        assert!(!shortlist.best(Rows { data: &keys[..2], dim: 1 }, &[&[1e13]], 1, &mut [Vec::new()]));
        assert!(!shortlist.extend(Rows { data: &keys[2..], dim: 1 }));
    }
}
