//! Where the keys and values of one KV head lie.
//!
//! A vector is split by dimension over the banks of a bank group (a unit): each bank holds `columns` columns of it. A
//! token's slot (its place in the policy's order) becomes a position (gaps added by alignment), the position a unit, a
//! row and a place in that row.

use crate::addr::Geometry;
use crate::select::SlotOrder;
use crate::spec::workload::{Align, Layout, Mapping, ValueLayout};

/// Shape of the vectors on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Units of a channel.
    pub units: u32,
    /// Columns of one vector in each bank.
    pub columns: u32,
    /// Keys that share a row of a unit.
    pub keys_per_row: u32,
    /// Values that share a row of a unit.
    pub values_per_row: u32,
    /// Passes over the rows of V: stripes with rows of their own.
    pub value_stripes: u32,
    /// Elements of a buffer entry.
    pub entry: u32,
    /// Bytes of one vector.
    pub vector_bytes: u32,
}

impl Shape {
    /// The shape of vectors of `dim` elements, or why they do not fit.
    pub fn new(
        geometry: &Geometry,
        dim: usize,
        element_bytes: u32,
        entry_bytes: u32,
        values: ValueLayout,
    ) -> Result<Self, String> {
        if geometry.units() > 64 {
            return Err(format!("{} bank groups in a channel; at most 64 can be mapped", geometry.units()));
        }
        let vector_bytes =
            u32::try_from(dim).ok().and_then(|d| d.checked_mul(element_bytes)).ok_or("head dimension too large")?;
        let columns = vector_bytes.div_ceil(geometry.banks * geometry.column_bytes);
        if columns == 0 || columns > geometry.columns {
            return Err(format!(
                "a vector of {dim} x {element_bytes} B takes {columns} columns in each bank; a row has {}",
                geometry.columns
            ));
        }
        let keys_per_row = geometry.columns / columns;
        let (values_per_row, value_stripes) = match values {
            ValueLayout::Stripe => (geometry.columns, columns),
            ValueLayout::Vector => (keys_per_row, 1),
        };
        let entry = (entry_bytes / element_bytes).max(1);
        Ok(Shape { units: geometry.units(), columns, keys_per_row, values_per_row, value_stripes, entry, vector_bytes })
    }
}

/// A place in a channel: unit, row within the head's region, place within the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Unit (bank group of the channel).
    pub unit: u32,
    /// Row within the region.
    pub row: u32,
    /// Which of the row's vectors.
    pub index: u32,
}

/// Positions of the tokens of one KV head.
pub struct Positions {
    layout: Layout,
    /// A cluster begins at a multiple of this.
    align: u32,
    units: u32,
    /// Position of each slot that belongs to a cluster.
    clustered: Vec<u32>,
    clusters_seen: usize,
    tail: u32,
}

impl Positions {
    /// No tokens yet.
    pub fn new(mapping: &Mapping, shape: &Shape) -> Self {
        let row = match mapping.layout {
            Layout::RowBlock => shape.keys_per_row,
            Layout::Interleaved | Layout::ClusterStriped => shape.keys_per_row * shape.units,
        };
        let align = match (mapping.align, mapping.layout) {
            (Align::Row, _) => row,
            (Align::None, Layout::ClusterStriped) => shape.units,
            (Align::None, _) => 1,
        };
        Positions {
            layout: mapping.layout,
            align,
            units: shape.units,
            clustered: Vec::new(),
            clusters_seen: 0,
            tail: 0,
        }
    }

    /// Takes up the clusters that `order` has gained. Clusters are only ever appended.
    pub fn update(&mut self, order: &SlotOrder) {
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

    /// Place of a position when `per_row` vectors share a row of a unit.
    #[inline]
    pub fn place(&self, position: u32, per_row: u32) -> Place {
        match self.layout {
            Layout::RowBlock => {
                let block = position / per_row;
                Place { unit: block % self.units, row: block / self.units, index: position % per_row }
            }
            Layout::Interleaved | Layout::ClusterStriped => {
                let line = position / self.units;
                Place { unit: position % self.units, row: line / per_row, index: line % per_row }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::workload::Addressing;

    fn geometry() -> Geometry {
        Geometry {
            channels: 16,
            pseudo_channels: 2,
            ranks: 2,
            bank_groups: 4,
            banks: 4,
            rows: 1 << 14,
            columns: 32,
            column_bytes: 32,
        }
    }

    fn mapping(layout: Layout, align: Align) -> Mapping {
        Mapping { addressing: Addressing::BankGroup, layout, align, values: ValueLayout::Stripe, skip_columns: true }
    }

    #[test]
    fn vectors_take_the_columns_that_the_paper_says() {
        let s = |dim, bytes| Shape::new(&geometry(), dim, bytes, 32, ValueLayout::Stripe).unwrap();
        assert_eq!((s(128, 2).columns, s(128, 2).keys_per_row, s(128, 2).value_stripes), (2, 16, 2));
        assert_eq!((s(64, 2).columns, s(64, 2).keys_per_row), (1, 32));
        assert_eq!((s(80, 2).columns, s(96, 2).columns, s(160, 2).columns, s(256, 2).columns), (2, 2, 3, 4));
        assert_eq!((s(128, 1).columns, s(256, 1).columns), (1, 2));
        assert!(Shape::new(&geometry(), 1 << 20, 2, 32, ValueLayout::Stripe).is_err());
    }

    #[test]
    fn clusters_begin_where_alignment_puts_them() {
        let order = SlotOrder { slot_of: vec![], cluster_starts: vec![0, 10, 30], clustered: 64, version: 1 };
        let shape = Shape::new(&geometry(), 128, 2, 32, ValueLayout::Stripe).unwrap();
        let at = |layout, align, token| {
            let mut p = Positions::new(&mapping(layout, align), &shape);
            p.update(&order);
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
        let shape = Shape::new(&geometry(), 128, 2, 32, ValueLayout::Stripe).unwrap();
        for layout in [Layout::RowBlock, Layout::Interleaved, Layout::ClusterStriped] {
            let p = Positions::new(&mapping(layout, Align::None), &shape);
            let mut places: Vec<_> = (0..1024).map(|i| p.place(i, 16)).map(|p| (p.row, p.unit, p.index)).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 1024);
            assert_eq!(places.last(), Some(&(3, 15, 15)));
        }
        let p = Positions::new(&mapping(Layout::RowBlock, Align::None), &shape);
        assert_eq!(p.place(17, 16), Place { unit: 1, row: 0, index: 1 });
    }
}
