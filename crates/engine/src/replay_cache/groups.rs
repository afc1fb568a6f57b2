//! Groups of channels: neighbours in the same state that are asked for the same stay in the same state, and are simulated as
//! one.

use std::ops::Range;

/// Neighbouring channels that have something in common.
#[derive(Debug, Clone)]
pub(crate) struct ChannelGroup<T> {
    /// The channels.
    pub channels: Range<u32>,
    /// What they have in common.
    pub common: T,
}

/// Splits groups such that each of some ranges of channels has all channels of a group or none of them.
pub(super) fn split<T: Clone>(groups: &mut Vec<ChannelGroup<T>>, ranges: impl IntoIterator<Item = Range<u32>>) {
    for at in ranges.into_iter().flat_map(|range| [range.start, range.end]) {
        if let Some(i) = groups.iter().position(|g| g.channels.start < at && at < g.channels.end) {
            let mut upper = groups[i].clone();
            (groups[i].channels.end, upper.channels.start) = (at, at);
            groups.insert(i + 1, upper);
        }
    }
}

/// Merges neighbouring groups that have the same in common.
pub(super) fn merge<T>(groups: &mut Vec<ChannelGroup<T>>, same: impl Fn(&T, &T) -> bool) {
    groups.dedup_by(|next, group| {
        let same = same(&group.common, &next.common);
        if same {
            group.channels.end = next.channels.end;
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_were_split_are_merged_again() {
        let mut groups =
            vec![ChannelGroup { channels: 0..8, common: 'a' }, ChannelGroup { channels: 8..16, common: 'b' }];
        split(&mut groups, [4..8, 0..16, 6..9]);
        let ranges = |groups: &[ChannelGroup<char>]| groups.iter().map(|g| g.channels.clone()).collect::<Vec<_>>();
        assert_eq!(ranges(&groups), [0..4, 4..6, 6..8, 8..9, 9..16]);
        merge(&mut groups, |a, b| a == b);
        assert_eq!(ranges(&groups), [0..8, 8..16]);
    }
}
