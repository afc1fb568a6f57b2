//! How vectors lie in the banks: each is split by dimension over the banks of a bank group (a unit), and each bank holds
//! `columns` columns of it.

use crate::workload::{Arrangement, Mapping, ValueLayout};
use pimattn_core::addr::Geometry;

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
    /// Passes over the rows of V, one for each stripe that has rows of its own.
    pub value_stripes: u32,
    /// Elements of a buffer entry.
    pub entry: u32,
    /// Bytes of one vector.
    pub vector_bytes: u32,
    /// Bytes of one element.
    pub element_bytes: u32,
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
        Ok(Shape {
            units: geometry.units(),
            columns,
            keys_per_row,
            values_per_row,
            value_stripes,
            entry,
            vector_bytes,
            element_bytes,
        })
    }
}

impl Shape {
    /// Vectors that share a row of a unit.
    pub fn per_row(&self, side: Side) -> u32 {
        match side {
            Side::Keys => self.keys_per_row,
            Side::Values => self.values_per_row,
        }
    }
}

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The key matrix K.
    Keys,
    /// The value matrix V.
    Values,
}

impl Side {
    /// Both sides, keys first.
    pub const BOTH: [Side; 2] = [Side::Keys, Side::Values];

    /// The layout, alignment and addressing of the side's tokens.
    pub fn arrangement(self, mapping: &Mapping) -> Arrangement {
        match self {
            Side::Keys => mapping.of_keys(),
            Side::Values => mapping.of_values(),
        }
    }
}

/// A place in the channels of a head: unit, row of the matrix, place within the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Unit (bank group), counted over the channels of the head.
    pub unit: u32,
    /// Row of the matrix.
    pub row: u32,
    /// Index of the vector in the row.
    pub index: u32,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::workload::{Addressing, Align, Layout, Mapping};

    pub fn geometry() -> Geometry {
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

    pub fn mapping(layout: Layout, align: Align) -> Mapping {
        Mapping {
            addressing: Addressing::BankGroup,
            layout,
            align,
            values: ValueLayout::Stripe,
            skip_columns: true,
            element_bytes: 0,
            selection_layout: Layout::Interleaved,
            value_addressing: None,
            value_layout: None,
            value_align: None,
        }
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
}
