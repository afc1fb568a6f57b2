//! Maps a token to its place in K or in V.
//!
//! Two steps: the token's slot (its place in the policy's order) becomes a position, which differs from it by the gaps that
//! alignment adds; the position becomes a unit, a row and a place in that row. Units are counted over all channels of the
//! head. Slots that belong to a cluster have a table of positions. The slots after them, the tail, follow without gaps.

use super::layout::{Place, Shape, Side};
use crate::workload::{Align, Arrangement, Layout, Mapping, UnitPlacement};
use pimattn_kv::selection::SlotOrder;

/// Positions of the tokens of one KV head in K or in V.
pub struct Positions {
    layout: Layout,
    /// Every cluster begins at a multiple of this position.
    align: u32,
    units: u32,
    per_row: u32,
    /// Position of each slot that belongs to a cluster.
    clustered: Vec<u32>,
    clusters_seen: usize,
    tail: u32,
    chosen: Option<AssignedBlocks>,
    /// Position of each token at the last update, and (`version`) the version of the order then.
    known: Vec<u32>,
    version: u32,
    /// Position at which the last token was first written.
    appended: u32,
    /// The position after all positions that have ever been used.
    most: u32,
}

/// The units chosen for row-blocks, where placement is load-aware.
struct AssignedBlocks {
    /// Unit and row of each block.
    blocks: Vec<(u32, u32)>,
    /// Rows of each unit.
    rows: Vec<u32>,
}

/// A token whose position has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedToken {
    /// The token.
    pub token: u32,
    /// Its position before.
    pub from: u32,
}

impl Positions {
    /// No tokens yet; the head has `units` units, over all its channels.
    pub fn new(side: Side, mapping: &Mapping, placement: UnitPlacement, shape: &Shape, units: u32) -> Self {
        let Arrangement { layout, align, .. } = side.arrangement(mapping);
        let per_row = shape.per_row(side);
        let row = match layout {
            Layout::RowBlock => per_row,
            Layout::Interleaved | Layout::ClusterStriped => per_row * units,
        };
        let align = match (align, layout) {
            (Align::Row, _) => row,
            (Align::None, Layout::ClusterStriped) => units,
            (Align::None, _) => 1,
        };
        Positions {
            layout,
            align,
            units,
            per_row,
            clustered: Vec::new(),
            clusters_seen: 0,
            tail: 0,
            chosen: (placement == UnitPlacement::LoadAware)
                .then(|| AssignedBlocks { blocks: Vec::new(), rows: vec![0; units as usize] }),
            known: Vec::new(),
            version: 0,
            appended: 0,
            most: 0,
        }
    }

    /// Follows `order` to `len` tokens. Clusters are only ever appended to an order.
    ///
    /// New row-blocks go to the units with the least `load` (ties: fewest rows, then the first). `moved` receives the tokens
    /// whose position has changed. This includes new tokens that went into clusters at once: they were first written after
    /// the others.
    pub fn update(&mut self, order: &SlotOrder, len: u32, load: &[u64], moved: &mut Vec<MovedToken>) {
        let known = self.known.len() as u32;
        let end_before = self.end(known);
        for i in self.clusters_seen..order.cluster_starts.len() {
            let begin = order.cluster_starts[i];
            let end = order.cluster_starts.get(i + 1).copied().unwrap_or(order.clustered);
            let first = self.tail.next_multiple_of(self.align);
            self.clustered.extend(first..first + (end - begin));
            self.tail = first + (end - begin);
        }
        if self.clusters_seen < order.cluster_starts.len() {
            self.tail = self.tail.next_multiple_of(self.align);
        }
        self.clusters_seen = order.cluster_starts.len();
        moved.clear();
        if known > 0 && order.version != self.version {
            self.known.extend((0..len - known).map(|i| end_before + i));
            self.appended = end_before + (len - known).saturating_sub(1);
            for token in 0..len {
                let (from, to) = (self.known[token as usize], self.position(order, token));
                if from != to {
                    moved.push(MovedToken { token, from });
                    self.known[token as usize] = to;
                }
            }
        } else {
            for token in known..len {
                let at = self.position(order, token);
                self.known.push(at);
                self.appended = at;
            }
        }
        self.version = order.version;
        self.most = self.most.max(self.end(len)).max(self.appended + 1);
        if let Some(chosen) = &mut self.chosen {
            chosen.grow(self.most, self.per_row, load);
        }
    }

    /// Position at which the last token was first written.
    pub fn appended(&self) -> u32 {
        self.appended
    }

    /// The position after the last of `len` tokens.
    pub fn end(&self, len: u32) -> u32 {
        self.tail + (len - self.clustered.len() as u32)
    }

    /// Number of rows that the fullest unit has needed so far.
    pub fn rows(&self) -> u32 {
        match &self.chosen {
            Some(chosen) => chosen.rows.iter().copied().max().unwrap_or(0),
            None => self.most.div_ceil(self.per_row * self.units),
        }
    }

    /// Position of a token.
    #[inline]
    pub fn position(&self, order: &SlotOrder, token: u32) -> u32 {
        let slot = order.slot(token);
        match self.clustered.get(slot as usize) {
            Some(position) => *position,
            None => self.tail + (slot - self.clustered.len() as u32),
        }
    }

    /// Tokens that lie in a row of a unit.
    pub fn tokens_in(&self, unit: u32, row: u32) -> u32 {
        let end = self.end(self.known.len() as u32);
        // The number of tokens below a position: the positions of clusters ascend with their slots, and the tail after them
        // has no gaps.
        let below = |position: u32| match position.checked_sub(self.tail) {
            None => self.clustered.partition_point(|p| *p < position) as u32,
            Some(_) => self.clustered.len() as u32 + (position.min(end) - self.tail),
        };
        let block = match (self.layout, &self.chosen) {
            (Layout::RowBlock, None) => row * self.units + unit,
            (Layout::RowBlock, Some(chosen)) => match chosen.blocks.iter().position(|b| *b == (unit, row)) {
                Some(block) => block as u32,
                None => return 0,
            },
            (Layout::Interleaved | Layout::ClusterStriped, _) => {
                let lines = row * self.per_row..(row + 1) * self.per_row;
                return lines.map(|l| l * self.units + unit).map(|p| below(p + 1) - below(p)).sum();
            }
        };
        below((block + 1) * self.per_row) - below(block * self.per_row)
    }

    /// Place of a position.
    #[inline]
    pub fn place(&self, position: u32) -> Place {
        let per_row = self.per_row;
        match self.layout {
            Layout::RowBlock => {
                let (block, index) = (position / per_row, position % per_row);
                let (unit, row) = match &self.chosen {
                    None => (block % self.units, block / self.units),
                    Some(chosen) => chosen.blocks[block as usize],
                };
                Place { unit, row, index }
            }
            Layout::Interleaved | Layout::ClusterStriped => {
                let line = position / self.units;
                Place { unit: position % self.units, row: line / per_row, index: line % per_row }
            }
        }
    }
}

impl AssignedBlocks {
    fn grow(&mut self, end: u32, per_row: u32, load: &[u64]) {
        let AssignedBlocks { blocks, rows } = self;
        while (blocks.len() as u32) < end.div_ceil(per_row) {
            let least = (0..rows.len()).min_by_key(|u| (load.get(*u).copied().unwrap_or(0), rows[*u], *u));
            let unit = least.unwrap_or(0);
            blocks.push((unit as u32, rows[unit]));
            rows[unit] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::{geometry, mapping};
    use super::*;
    use crate::workload::ValueLayout;

    fn shape() -> Shape {
        Shape::new(&geometry(), 128, 2, 32, ValueLayout::Stripe).unwrap()
    }

    fn positions(layout: Layout, align: Align, placement: UnitPlacement) -> Positions {
        Positions::new(Side::Keys, &mapping(layout, align), placement, &shape(), 16)
    }

    #[test]
    fn clusters_begin_where_alignment_puts_them() {
        let order = SlotOrder { slot_of: vec![], cluster_starts: vec![0, 10, 30], clustered: 64, version: 1 };
        let at = |layout, align, token| {
            let mut p = positions(layout, align, UnitPlacement::RoundRobin);
            p.update(&order, 100, &[], &mut Vec::new());
            p.position(&order, token)
        };
        assert_eq!(at(Layout::RowBlock, Align::None, 30), 30);
        assert_eq!(at(Layout::RowBlock, Align::Row, 10), 16);
        assert_eq!(at(Layout::RowBlock, Align::Row, 30), 48);
        assert_eq!(at(Layout::RowBlock, Align::Row, 64), 96, "the tail begins at a row, too");
        assert_eq!(at(Layout::ClusterStriped, Align::None, 30), 48);
        assert_eq!(at(Layout::Interleaved, Align::Row, 10), 256);
    }

    #[test]
    fn places_differ_for_different_positions_and_fill_rows() {
        for (layout, placement) in [
            (Layout::RowBlock, UnitPlacement::RoundRobin),
            (Layout::RowBlock, UnitPlacement::LoadAware),
            (Layout::Interleaved, UnitPlacement::RoundRobin),
            (Layout::ClusterStriped, UnitPlacement::RoundRobin),
        ] {
            for (side, rows, per_row) in [(Side::Keys, 4, 16), (Side::Values, 2, 32)] {
                let mut p = Positions::new(side, &mapping(layout, Align::None), placement, &shape(), 16);
                p.update(&SlotOrder::default(), 1024, &[], &mut Vec::new());
                let mut places: Vec<_> = (0..1024).map(|i| p.place(i)).map(|p| (p.row, p.unit, p.index)).collect();
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), 1024);
                assert_eq!(places.last(), Some(&(rows - 1, 15, per_row - 1)));
                assert_eq!(p.rows(), rows);
            }
        }
        let p = positions(Layout::RowBlock, Align::None, UnitPlacement::RoundRobin);
        assert_eq!(p.place(17), Place { unit: 1, row: 0, index: 1 });
    }

    #[test]
    fn a_new_block_goes_where_the_load_is_least_and_stays() {
        let (mut p, mut load) = (positions(Layout::RowBlock, Align::None, UnitPlacement::LoadAware), vec![5; 16]);
        p.update(&SlotOrder::default(), 256, &load, &mut Vec::new());
        load[7] = 1;
        p.update(&SlotOrder::default(), 257, &load, &mut Vec::new());
        assert_eq!(p.place(256), Place { unit: 7, row: 1, index: 0 });
        load[7] = 9;
        p.update(&SlotOrder::default(), 258, &load, &mut Vec::new());
        assert_eq!(p.place(257), Place { unit: 7, row: 1, index: 1 });
    }

    #[test]
    fn tokens_that_change_their_position_are_named() {
        let mut p = positions(Layout::RowBlock, Align::None, UnitPlacement::RoundRobin);
        let mut moved = vec![MovedToken { token: 9, from: 9 }];
        p.update(&SlotOrder::default(), 4, &[], &mut moved);
        assert_eq!(moved, []);
        let order = SlotOrder { slot_of: vec![0, 2, 1, 3], cluster_starts: vec![0, 2], clustered: 4, version: 1 };
        p.update(&order, 5, &[], &mut moved);
        assert_eq!(moved, [MovedToken { token: 1, from: 1 }, MovedToken { token: 2, from: 2 }]);
        assert_eq!(p.appended(), 4);
        p.update(&order, 6, &[], &mut moved);
        assert_eq!(moved, []);
        // The seventh token comes, and is put before the fifth and the sixth.
        let order = SlotOrder { slot_of: vec![0, 2, 1, 3, 5, 6, 4], clustered: 7, version: 2, ..order };
        p.update(&SlotOrder { cluster_starts: vec![0, 2, 4], ..order }, 7, &[], &mut moved);
        assert_eq!(p.appended(), 6);
        let names = [(4, 4), (5, 5), (6, 6)].map(|(token, from)| MovedToken { token, from });
        assert_eq!(moved, names);
    }

    /// The sum over all rows of all units is the tokens, and each row has those whose places lie in it.
    #[test]
    fn rows_have_the_tokens_that_lie_in_them() {
        let clustered = 512;
        let cluster_starts = (0..8).flat_map(|b| [64 * b, 64 * b + 10, 64 * b + 31]).collect();
        let order = SlotOrder { slot_of: vec![], cluster_starts, clustered, version: 1 };
        for layout in [Layout::RowBlock, Layout::Interleaved, Layout::ClusterStriped] {
            for align in [Align::None, Align::Row] {
                for placement in [UnitPlacement::RoundRobin, UnitPlacement::LoadAware] {
                    let mut p = positions(layout, align, placement);
                    p.update(&order, 600, &[3, 1, 4], &mut Vec::new());
                    let mut count = std::collections::BTreeMap::new();
                    for token in 0..600 {
                        let Place { unit, row, .. } = p.place(p.position(&order, token));
                        *count.entry((unit, row)).or_insert(0) += 1;
                    }
                    for (unit, row) in (0..16).flat_map(|u| (0..p.rows() + 2).map(move |r| (u, r))) {
                        let expected = count.get(&(unit, row)).copied().unwrap_or(0);
                        assert_eq!(p.tokens_in(unit, row), expected, "{layout:?} {align:?} {placement:?} {unit} {row}");
                    }
                }
            }
        }
    }

    /// By hand: clusters of 10 tokens begin at 0, 64, 128 ...; rows hold 16 keys. Without alignment their rows are full;
    /// with it a row has the cluster's 10 alone. The 513th token is alone in the row behind.
    #[test]
    fn a_row_is_not_full_where_alignment_left_gaps() {
        let cluster_starts = (0..8).flat_map(|b| [64 * b, 64 * b + 10]).collect();
        let order = SlotOrder { slot_of: vec![], cluster_starts, clustered: 512, version: 1 };
        for (align, tokens) in [(Align::None, 129), (Align::Row, 81)] {
            let mut p = positions(Layout::RowBlock, align, UnitPlacement::RoundRobin);
            p.update(&order, 513, &[], &mut Vec::new());
            let first = (0..8).map(|b| 64 * b).chain([512]);
            let places = first.map(|token| p.place(p.position(&order, token)));
            assert_eq!(places.map(|at| p.tokens_in(at.unit, at.row)).sum::<u32>(), tokens, "{align:?}");
        }
    }
}
