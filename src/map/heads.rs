//! The query heads of a group against what a unit has: sets of accumulators, and multiplications for one column read.
//!
//! A unit keeps a set of accumulators for each output that grows, which is one for each query head, and where a value's
//! columns share a row, one for each of them ([`together`]). Heads beyond the sets take another sweep over the same rows
//! ([`lots`]). Where a unit multiplies a column that it has read by the vectors of several heads, those that want the
//! same place share the read ([`reads`]).

use std::ops::Range;

/// Query heads that a unit's `sets` of accumulators serve in one sweep, where each needs `sets_each` of them; none where
/// they do not serve a single one.
pub fn together(sets_each: u32, sets: u32) -> Option<usize> {
    let heads = sets.checked_div(sets_each).unwrap_or(sets);
    (heads > 0).then_some(heads as usize)
}

/// The heads of each sweep, `together` at a time.
pub fn lots(heads: usize, together: usize) -> impl Iterator<Item = Range<usize>> {
    let together = together.max(1);
    (0..heads).step_by(together).map(move |first| first..heads.min(first.saturating_add(together)))
}

/// Reads of a row that serve the same number of query heads at each of their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Places of the row.
    pub places: u64,
    /// Query heads that multiply what is read.
    pub heads: u32,
}

/// The reads of a row for heads that want the places of `masks`, where up to `heads_per_read` share one: a place that w
/// heads want is read ceil(w / heads_per_read) times. Where none share, they are the masks as they come.
pub fn reads(masks: &[u64], heads_per_read: u32) -> Vec<Read> {
    if heads_per_read <= 1 {
        return masks.iter().map(|places| Read { places: *places, heads: 1 }).collect();
    }
    // Places that at least n + 1 heads want.
    let mut wanted_by: Vec<u64> = Vec::new();
    for mask in masks {
        let mut rest = *mask;
        for level in &mut wanted_by {
            (*level, rest) = (*level | rest, *level & rest);
        }
        if rest != 0 {
            wanted_by.push(rest);
        }
    }
    let share = heads_per_read as usize;
    let mut out = Vec::new();
    for round in wanted_by.chunks(share) {
        // The places of a level are among those of the level before: what stops there is read for so many heads.
        for (i, places) in round.iter().enumerate() {
            let places = places & !round.get(i + 1).copied().unwrap_or(0);
            if places != 0 {
                out.push(Read { places, heads: i as u32 + 1 });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_beyond_the_sets_take_another_sweep() {
        let of = |heads, each, sets| {
            let lots = together(each, sets).map(|n| lots(heads, n));
            lots.map(|l| l.map(|r| (r.start, r.end)).collect::<Vec<_>>())
        };
        assert_eq!(of(8, 1, 32), Some(vec![(0, 8)]), "all at once where there are enough");
        assert_eq!(of(8, 4, 32), Some(vec![(0, 8)]));
        assert_eq!(of(8, 4, 31), Some(vec![(0, 7), (7, 8)]));
        assert_eq!(of(5, 2, 4), Some(vec![(0, 2), (2, 4), (4, 5)]));
        assert_eq!(of(3, 4, 2), None, "not even one");
        assert_eq!(of(0, 1, 1), Some(vec![]));
        assert_eq!(of(7, 1, u32::MAX), Some(vec![(0, 7)]));
    }

    #[test]
    fn heads_that_want_a_place_share_its_reads() {
        let masks = [0b0111, 0b0110, 0b0100, 0b1100, 0];
        // Places 0 to 3 are wanted by 1, 2, 4 and 1 heads.
        assert_eq!(reads(&masks, 1), masks.map(|places| Read { places, heads: 1 }));
        let at = |read: &[Read], heads| read.iter().filter(|r| r.heads == heads).map(|r| r.places).collect::<Vec<_>>();
        let two = reads(&masks, 2);
        assert_eq!((at(&two, 1), at(&two, 2)), (vec![0b1001], vec![0b0110, 0b0100]));
        let three = reads(&masks, 3);
        assert_eq!((at(&three, 1), at(&three, 2), at(&three, 3)), (vec![0b1001, 0b0100], vec![0b0010], vec![0b0100]));
        assert_eq!(reads(&[], 4), []);
    }

    /// Whatever the masks, every place is read ceil(w / k) times, and multiplied w times.
    #[test]
    fn reads_are_few_and_multiplications_are_all() {
        let mut state = 1u64;
        for heads in 1..=9 {
            for k in 2..=5 {
                let masks: Vec<u64> = (0..heads)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        state >> 20 & state << 7
                    })
                    .collect();
                let read = reads(&masks, k);
                for place in 0..64 {
                    let wanted = masks.iter().filter(|m| *m >> place & 1 == 1).count() as u32;
                    let here: Vec<u32> = read.iter().filter(|r| r.places >> place & 1 == 1).map(|r| r.heads).collect();
                    assert_eq!(here.len() as u32, wanted.div_ceil(k), "{heads} {k} {place}");
                    assert_eq!(here.iter().sum::<u32>(), wanted);
                    assert!(here.iter().all(|n| *n <= k));
                }
            }
        }
    }
}
