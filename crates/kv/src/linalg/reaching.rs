//! Which of many numbers reach a limit, as bits.

/// Numbers of a mask.
const BITS: usize = 64;

/// Calls `found(i)` for each `scores[i]` of at least `limit(i / 64)`, ascending.
#[inline]
pub fn reaching(scores: &[f32], limit: impl Fn(usize) -> f32, mut found: impl FnMut(usize)) {
    let (chunks, tail) = scores.as_chunks::<BITS>();
    for (c, chunk) in chunks.iter().enumerate() {
        let mut bits = mask(chunk, limit(c));
        while bits != 0 {
            found(c * BITS + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    if !tail.is_empty() {
        let limit = limit(chunks.len());
        let reached = tail.iter().enumerate().filter(|(_, score)| **score >= limit);
        reached.for_each(|(i, _)| found(chunks.len() * BITS + i));
    }
}

/// A bit for each score of at least `limit`.
#[inline]
fn mask(scores: &[f32; BITS], limit: f32) -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both are safe functions but for the processor's features, which the level says are there.
    match super::level() {
        super::SimdLevel::Avx512 => return unsafe { x86::mask_avx512(scores, limit) },
        super::SimdLevel::Avx2 => return unsafe { x86::mask_avx2(scores, limit) },
        super::SimdLevel::Baseline => (),
    }
    scores.iter().enumerate().fold(0, |bits, (i, score)| bits | u64::from(*score >= limit) << i)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::BITS;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn mask_avx512(scores: &[f32; BITS], limit: f32) -> u64 {
        const WIDE: usize = 16;
        let limit = _mm512_set1_ps(limit);
        let chunks = scores.as_chunks::<WIDE>().0.iter().enumerate();
        chunks.fold(0, |bits, (i, chunk)| {
            // SAFETY: a chunk is as long as a vector.
            let chunk = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
            bits | u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(chunk, limit)) << (i * WIDE)
        })
    }

    #[target_feature(enable = "avx2")]
    pub fn mask_avx2(scores: &[f32; BITS], limit: f32) -> u64 {
        const WIDE: usize = 8;
        let limit = _mm256_set1_ps(limit);
        let chunks = scores.as_chunks::<WIDE>().0.iter().enumerate();
        chunks.fold(0, |bits, (i, chunk)| {
            // SAFETY: a chunk is as long as a vector.
            let chunk = unsafe { _mm256_loadu_ps(chunk.as_ptr()) };
            bits | u64::from(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(chunk, limit)) as u8) << (i * WIDE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LEVELS, limit};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_those_that_reach_the_limit_of_their_chunk(
            scores in proptest::collection::vec(prop_oneof![-2f32..2.0, Just(f32::NAN), Just(0.5)], 0..300),
        ) {
            let limit_of = |chunk: usize| [0.5, -1.0, f32::INFINITY][chunk % 3];
            let expected: Vec<usize> = (0..scores.len()).filter(|i| scores[*i] >= limit_of(i / BITS)).collect();
            for level in LEVELS {
                limit(level);
                let mut found = Vec::new();
                reaching(&scores, limit_of, |i| found.push(i));
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}
