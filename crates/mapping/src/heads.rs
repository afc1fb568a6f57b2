//! Divides the query heads of a group into lots that the accumulators of a unit can serve.
//!
//! A unit needs a set of accumulators for each output that it is adding up. That is one per query head, or, if the columns
//! of a value share a row, one per query head and column ([`together`]). Query heads beyond the available sets take another
//! sweep over the same rows ([`lots`]).

use std::ops::Range;

/// Number of query heads that `sets` sets of accumulators serve in one sweep, if each head needs `sets_each` sets. None if
/// they do not suffice for a single head.
pub fn together(sets_each: u32, sets: u32) -> Option<usize> {
    let heads = sets.checked_div(sets_each).unwrap_or(sets);
    (heads > 0).then_some(heads as usize)
}

/// The query heads of each sweep: `together` at a time, the rest in the last.
pub fn lots(heads: usize, together: usize) -> impl Iterator<Item = Range<usize>> {
    let together = together.max(1);
    (0..heads).step_by(together).map(move |first| first..heads.min(first.saturating_add(together)))
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
}
