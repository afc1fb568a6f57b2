//! The rows and places that a group's selections touch in one matrix: a set of cells (unit, row), each with a bit mask
//! of places per query head.

use super::layout::{Place, Positions};
use crate::select::SlotOrder;

/// One row of one unit, with an index of its masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Row within the region.
    pub row: u32,
    /// Unit.
    pub unit: u32,
}

/// Touched cells of one matrix.
pub struct Sweep {
    units: u32,
    rows: u32,
    heads: usize,
    per_row: u32,
    masks: Vec<u64>,
    cells: Vec<Cell>,
}

impl Sweep {
    /// A region of `rows` rows in each of `units` units, `per_row` vectors (64 at most) in a row.
    pub fn new(units: u32, rows: u32, heads: usize, per_row: u32) -> Self {
        Sweep { units, rows, heads, per_row, masks: Vec::new(), cells: Vec::new() }
    }

    /// Forgets all selections.
    pub fn clear(&mut self) {
        let (units, heads) = (self.units as usize, self.heads);
        for c in self.cells.drain(..) {
            let at = (c.row as usize * units + c.unit as usize) * heads;
            self.masks[at..at + heads].fill(0);
        }
    }

    /// Adds the selection of a query head. On overflow, the row that the region lacks.
    pub fn add(&mut self, head: usize, tokens: &[u32], order: &SlotOrder, positions: &Positions) -> Result<(), u32> {
        for &token in tokens {
            let Place { unit, row, index } = positions.place(positions.position(order, token), self.per_row);
            if row >= self.rows {
                return Err(row);
            }
            let at = (row as usize * self.units as usize + unit as usize) * self.heads;
            if at + self.heads > self.masks.len() {
                self.masks.resize((row as usize + 1) * self.units as usize * self.heads, 0);
            }
            if self.masks[at..at + self.heads].iter().all(|m| *m == 0) {
                self.cells.push(Cell { row, unit });
            }
            self.masks[at + head] |= 1 << index;
        }
        Ok(())
    }

    /// Vectors in a row.
    pub fn per_row(&self) -> u32 {
        self.per_row
    }

    /// Puts the cells in order of row, then unit.
    pub fn sort(&mut self) {
        self.cells.sort_unstable();
    }

    /// Touched cells.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Places that a query head wants of a cell.
    #[inline]
    pub fn mask(&self, cell: Cell, head: usize) -> u64 {
        self.masks[(cell.row as usize * self.units as usize + cell.unit as usize) * self.heads + head]
    }

    /// Touched cells of the unit that has most.
    pub fn fullest_unit(&self) -> u32 {
        let mut count = vec![0u32; self.units as usize];
        self.cells.iter().for_each(|c| count[c.unit as usize] += 1);
        count.into_iter().max().unwrap_or(0)
    }
}
