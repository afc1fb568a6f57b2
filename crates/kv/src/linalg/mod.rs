//! Dot products, softmax weights and eigenvectors, in documented orders of summation.
//!
//! Every kernel here and in the rooms above sums in an order that its documentation fixes, and never contracts a
//! multiplication and an addition into one rounding (FMA). Results are therefore the same bits on every processor
//! and for every vector width, and rankings built on them are reproducible.

mod level;
mod reaching;
mod softmax;
mod symmetric;

pub use level::prefetch;
pub use level::{LEVELS, SimdLevel, detect, level, limit};
pub use reaching::reaching;
pub use softmax::highest;
pub use softmax::{exp_below, exp_weights};
pub use symmetric::{add_gram, eigenvectors};

/// Partial sums of a lane-ordered sum: element `i` goes to lane `i % LANES`.
pub const LANES: usize = 16;

/// Defines a function whose body is compiled once for each [`SimdLevel`], and chosen at run time. All compilations execute the
/// same additions and multiplications in the same order: Rust does not let the compiler reorder floating-point
/// arithmetic, nor contract it (AVX-512 includes FMA).
///
/// Helpers that the body calls must be `#[inline(always)]` to be part of every compilation.
#[doc(hidden)]
#[macro_export]
macro_rules! __simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                // SAFETY: both are safe functions but for the processor's features, which the level says are there.
                match $crate::linalg::level() {
                    $crate::linalg::SimdLevel::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::linalg::SimdLevel::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::linalg::SimdLevel::Baseline => (),
                }
            }
            portable($($arg),*)
        }
    };
}
pub use __simd as simd;

/// Folds the lanes by halves: `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `query · row` for `R` rows at once, which share the loads of the query.
#[inline(always)]
fn dot_rows<const R: usize>(query: &[f32], rows: [&[f32]; R]) -> [f32; R] {
    let (query_chunks, query_tail) = query.as_chunks::<LANES>();
    let n = query_chunks.len();
    let chunks = rows.map(|row| &row.as_chunks::<LANES>().0[..n]);
    let mut lanes = [[0f32; LANES]; R];
    for i in 0..n {
        for r in 0..R {
            for l in 0..LANES {
                lanes[r][l] += query_chunks[i][l] * chunks[r][i][l];
            }
        }
    }
    for r in 0..R {
        for (l, (x, y)) in query_tail.iter().zip(&rows[r][n * LANES..]).enumerate() {
            lanes[r][l] += x * y;
        }
    }
    lanes.map(fold)
}

simd! {
    /// `a · b`, lane-ordered: element `i` is added to lane `i % 16`, then the lanes are folded by halves.
    ///
    /// # Panics
    /// When `b` is shorter than `a` by a whole chunk of lanes; both are meant to have the same length.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        dot_rows(a, [b])[0]
    }
}

simd! {
    /// `query · row` of every row of `rows` `[row, dim]` into `out` `[row]`; the same bits as [`dot`].
    ///
    /// # Panics
    /// When `rows` is not `out.len()` rows of the query's length.
    pub fn dots(query: &[f32], rows: &[f32], out: &mut [f32]) {
        let dim = query.len();
        assert_eq!(rows.len(), dim * out.len(), "rows and results differ in number");
        let mut rows = rows.chunks_exact(4 * dim);
        let mut quads = out.chunks_exact_mut(4);
        for (quad, row) in (&mut quads).zip(&mut rows) {
            let (a, b) = row.split_at(2 * dim);
            let ((a, b), (c, d)) = (a.split_at(dim), b.split_at(dim));
            quad.copy_from_slice(&dot_rows(query, [a, b, c, d]));
        }
        for (score, row) in quads.into_remainder().iter_mut().zip(rows.remainder().chunks_exact(dim)) {
            *score = dot_rows(query, [row])[0];
        }
    }
}

/// Elements of the rows that all queries of [`all_dots`] use before the next ones: 16 KiB.
const CHUNK: usize = 4096;

/// `query · row` of several queries and every row of `rows` `[row, dim]` into the beginning of `out` `[query][row]`; the
/// same bits as [`dot`]. Rows are read from memory once for all queries.
///
/// # Panics
/// When there are fewer vectors of results than queries, or fewer results than rows.
pub fn all_dots(queries: &[&[f32]], rows: &[f32], out: &mut [Vec<f32>]) {
    let Some(dim) = queries.first().map(|query| query.len()) else { return };
    in_turns(queries.len(), rows, dim, |query, rows, chunk| dots(queries[query], chunk, &mut out[query][rows]));
}

/// Calls `work(query, rows, chunk)` for each query and each chunk of `rows` `[row, dim]` that stays in the processor's first
/// cache, all queries in turn; asks for the next chunk meanwhile.
pub fn in_turns(queries: usize, rows: &[f32], dim: usize, mut work: impl FnMut(usize, std::ops::Range<usize>, &[f32])) {
    // A multiple of the rows that `dots` takes at a time.
    let count = (CHUNK / dim).next_multiple_of(4);
    for (i, chunk) in rows.chunks(count * dim).enumerate() {
        let next = &rows[(i * count * dim + chunk.len())..];
        let mut parts = next[..next.len().min(count * dim)].chunks((count * dim).div_ceil(queries));
        for query in 0..queries {
            parts.next().into_iter().for_each(prefetch);
            work(query, i * count..i * count + chunk.len() / dim, chunk);
        }
    }
}

simd! {
    /// Scales a vector to length 1. A zero vector stays zero.
    pub fn normalize(row: &mut [f32]) {
        normalize_row(row);
    }
}

simd! {
    /// The largest magnitude of an element; 0 of none.
    pub fn largest_magnitude(row: &[f32]) -> f32 {
        let (chunks, tail) = row.as_chunks::<LANES>();
        let mut largest = [0f32; LANES];
        let larger = |a: f32, b: f32| if b.abs() > a { b.abs() } else { a };
        for chunk in chunks {
            for l in 0..LANES {
                largest[l] = larger(largest[l], chunk[l]);
            }
        }
        largest.iter().chain(tail).fold(0.0, |a, b| larger(a, *b))
    }
}

/// As [`normalize`], and the length that the vector had. Part of `simd` functions.
#[inline(always)]
pub fn normalize_row(row: &mut [f32]) -> f32 {
    let norm = dot_rows(row, [row])[0].sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|x| *x /= norm);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The documented order, said plainly.
    fn dot_in_lanes(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = vec![0f32; LANES];
        for i in 0..a.len() {
            lanes[i % LANES] += a[i] * b[i];
        }
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            lanes.iter_mut().zip(upper).for_each(|(x, y)| *x += y);
        }
        lanes[0]
    }

    proptest! {
        #[test]
        fn kernels_sum_in_the_documented_order(
            dim in 1usize..150, rows in 0usize..11, data in proptest::collection::vec(-4f32..4.0, 150 * 12),
        ) {
            let (query, rows_data) = (&data[..dim], &data[dim..dim * (rows + 1)]);
            let mut out = vec![0.0; rows];
            dots(query, rows_data, &mut out);
            let mut twice = vec![vec![7.0; rows + 1]; 2];
            all_dots(&[&data[dim..2 * dim], query], rows_data, &mut twice);
            prop_assert_eq!(&twice[1][..rows], &out);
            for (row, got) in rows_data.chunks_exact(dim).zip(&out) {
                let expected = dot_in_lanes(query, row);
                prop_assert_eq!(expected.to_bits(), got.to_bits());
                prop_assert_eq!(expected.to_bits(), dot(query, row).to_bits());
                let exact: f64 = query.iter().zip(row).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                prop_assert!((exact - f64::from(*got)).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn normalized_vectors_have_length_one_and_zero_stays_zero() {
        let mut row = [3.0, 4.0];
        normalize(&mut row);
        assert_eq!(row, [0.6, 0.8]);
        let mut zero = [0.0; 5];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 5]);
    }
}
