//! From one time and one numbering of rows to another.

use crate::addr::{Address, Geometry};
use crate::units::Cycle;

/// Rows from here on are none: closed, mixed, not addressed.
const NO_ROW: u32 = u32::MAX - 1;

/// Moves a state.
pub struct Shift<'r> {
    /// The time of now.
    pub from: Cycle,
    /// What it becomes.
    pub to: Cycle,
    /// What a row becomes.
    pub rename: &'r mut dyn FnMut(u32) -> u32,
    /// Whether something lay too far back.
    pub failed: bool,
}

impl<'r> Shift<'r> {
    /// From now as `from` to now as `to`.
    pub fn new(from: Cycle, to: Cycle, rename: &'r mut dyn FnMut(u32) -> u32) -> Self {
        Shift { from, to, rename, failed: false }
    }

    /// A time that matters exactly.
    #[inline]
    pub fn exact(&mut self, at: &mut Cycle) {
        match (*at + self.to).checked_sub(self.from) {
            Some(moved) => *at = moved,
            None => self.failed = true,
        }
    }

    /// A time before which something may not happen: that it was before now is all that matters then.
    #[inline]
    pub fn bound(&self, at: &mut Cycle) {
        *at = if *at < self.from { 0 } else { *at - self.from + self.to };
    }

    /// The same where it does not matter either whether it is now.
    #[inline]
    pub fn past(&self, at: &mut Cycle) {
        *at = if *at <= self.from { 0 } else { *at - self.from + self.to };
    }

    /// A row, if it is one.
    #[inline]
    pub fn row(&mut self, row: &mut u32) {
        if *row < NO_ROW {
            *row = (self.rename)(*row);
        }
    }

    /// The row of a byte address.
    pub fn addr(&mut self, addr: &mut u64, geometry: &Geometry) {
        let mut at: Address = geometry.decode(*addr);
        self.row(&mut at.row);
        *addr = geometry.encode(&at);
    }
}

/// Numbers for rows, in the order in which they come up.
pub fn number(rows: &mut Vec<u32>, row: u32) -> u32 {
    let known = rows.iter().position(|r| *r == row);
    known.unwrap_or_else(|| {
        rows.push(row);
        rows.len() - 1
    }) as u32
}
