//! The rows and places that the selections of a group touch in one matrix: a set of cells (unit, row), each with a bit
//! mask of wanted places for every query head.

use super::layout::Place;
use super::positions::Positions;
use pimattn_kv::selection::SlotOrder;

/// One row of one unit, with an index of its masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TouchedRow {
    /// Row of the matrix.
    pub row: u32,
    /// Unit, counted over the channels of the head.
    pub unit: u32,
}

/// Touched cells of one matrix.
pub struct TouchedRows {
    units: u32,
    heads: usize,
    per_row: u32,
    masks: Vec<u64>,
    cells: Vec<TouchedRow>,
}

impl TouchedRows {
    /// A matrix in `units` units, `per_row` vectors (64 at most) in a row, for `heads` query heads.
    pub fn new(units: u32, heads: usize, per_row: u32) -> Self {
        TouchedRows { units, heads, per_row, masks: Vec::new(), cells: Vec::new() }
    }

    /// Forgets all selections.
    pub fn clear(&mut self) {
        let (units, heads) = (self.units as usize, self.heads);
        for c in self.cells.drain(..) {
            let at = (c.row as usize * units + c.unit as usize) * heads;
            self.masks[at..at + heads].fill(0);
        }
    }

    /// Adds the selection of a query head.
    pub fn add(&mut self, head: usize, tokens: &[u32], order: &SlotOrder, positions: &Positions) {
        for &token in tokens {
            let Place { unit, row, index } = positions.place(positions.position(order, token));
            let at = (row as usize * self.units as usize + unit as usize) * self.heads;
            if at + self.heads > self.masks.len() {
                self.masks.resize((row as usize + 1) * self.units as usize * self.heads, 0);
            }
            if self.masks[at..at + self.heads].iter().all(|m| *m == 0) {
                self.cells.push(TouchedRow { row, unit });
            }
            self.masks[at + head] |= 1 << index;
        }
    }

    /// The sweep of some of the query heads; the others want nothing in it.
    pub fn of(&self, heads: std::ops::Range<usize>) -> TouchedRows {
        let mut masks = self.masks.clone();
        let others = |i: usize| !heads.contains(&(i % self.heads));
        masks.iter_mut().enumerate().filter(|(i, _)| others(*i)).for_each(|(_, mask)| *mask = 0);
        let mut out = TouchedRows { masks, cells: Vec::new(), ..*self };
        out.cells = self.cells.iter().copied().filter(|c| out.distinct(*c) > 0).collect();
        out
    }

    /// Number of query heads that want anything.
    pub fn wanting(&self) -> usize {
        (0..self.heads).filter(|h| self.cells.iter().any(|c| self.mask(*c, *h) != 0)).count()
    }

    /// Vectors in a row.
    pub fn per_row(&self) -> u32 {
        self.per_row
    }

    /// Sorts the cells by row, then by unit.
    pub fn sort(&mut self) {
        self.cells.sort_unstable();
    }

    /// Touched cells.
    pub fn cells(&self) -> &[TouchedRow] {
        &self.cells
    }

    /// Places that a query head wants of a cell.
    #[inline]
    pub fn mask(&self, cell: TouchedRow, head: usize) -> u64 {
        self.masks[(cell.row as usize * self.units as usize + cell.unit as usize) * self.heads + head]
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Number of tokens of a cell that any query head wants.
    pub fn distinct(&self, cell: TouchedRow) -> u32 {
        (0..self.heads).fold(0, |all, h| all | self.mask(cell, h)).count_ones()
    }

    /// Tokens of a cell, summed over the query heads that want them.
    pub fn wanted(&self, cell: TouchedRow) -> u32 {
        (0..self.heads).map(|h| self.mask(cell, h).count_ones()).sum()
    }
}
