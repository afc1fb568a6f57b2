//! Between a state and its canonical form: times are moved, and rows are renamed.
//!
//! A [`Rebase`] is handed through all parts of a state. Its methods say what a value means to what follows, and so what the
//! canonical form makes of it: a time that matters exactly, a bound, a row.

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::units::Cycle;

/// Row numbers from here on are no rows, but marks: closed, mixed, not addressed.
const NO_ROW: u32 = u32::MAX - 1;

/// The names behind the numbers of a canonical form: the n-th name is that of number n.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CanonicalNames {
    /// Rows. A buffer move's is counted from the beginning of its half of the bank: the half says what it moves, and is not
    /// renamed.
    pub rows: Vec<u32>,
    /// Where in a row the addresses of buffer moves begin: no bank looks at it, and it differs for each entry. The canonical
    /// form has its number as the column, and the distance from it as the offset.
    pub entries: Vec<u32>,
}

impl CanonicalNames {
    /// Removes all names.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.entries.clear();
    }

    /// Makes these the same as others.
    pub(crate) fn copy(&mut self, other: &CanonicalNames) {
        self.clear();
        self.rows.extend_from_slice(&other.rows);
        self.entries.extend_from_slice(&other.entries);
    }

    /// Makes these the names that `before` has for `numbers`.
    pub(crate) fn resolve(&mut self, numbers: &CanonicalNames, before: &CanonicalNames) {
        self.clear();
        self.rows.extend(numbers.rows.iter().map(|n| before.rows[*n as usize]));
        self.entries.extend(numbers.entries.iter().map(|n| before.entries[*n as usize]));
    }

    /// The address that a request for `op` has, of its canonical form.
    pub(crate) fn address(&self, op: Option<Op>, at: Address, geometry: &Geometry) -> Address {
        if op == Some(Op::Sfm) {
            return at;
        }
        let row = |number: u32| self.rows.get(number as usize).copied().unwrap_or(number);
        if !op.is_some_and(is_move) {
            return Address { row: row(at.row), ..at };
        }
        let (half, number) = split_half(at.row, geometry);
        let row = half + row(number);
        let low = self.entries[at.column as usize] + at.offset;
        Address { row, column: low / geometry.column_bytes, offset: low % geometry.column_bytes, ..at }
    }
}

/// Whether the column of an operation means nothing to a bank. (That of a softmax is a number of entries, and stays.)
pub(crate) fn is_move(op: Op) -> bool {
    matches!(op, Op::WrGb | Op::MvSb | Op::MvGb)
}

/// The first row of the half of a bank that a row is in, and the row counted from there.
pub(crate) fn split_half(row: u32, geometry: &Geometry) -> (u32, u32) {
    match row.checked_sub(geometry.upper_half()) {
        Some(above) => (geometry.upper_half(), above),
        None => (0, row),
    }
}

/// The number of a name, which is added if it is new.
pub(crate) fn number(names: &mut Vec<u32>, name: u32) -> u32 {
    let known = names.iter().position(|n| *n == name);
    known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    }) as u32
}

/// Which way rows are renamed.
enum Naming<'n> {
    /// Names become numbers.
    Number(&'n mut CanonicalNames),
    /// Numbers become names.
    Resolve(&'n CanonicalNames),
}

/// Moves a state from one cycle to another, and renames its rows.
pub(crate) struct Rebase<'n> {
    /// The current cycle before.
    pub from: Cycle,
    /// The current cycle afterwards.
    pub to: Cycle,
    /// Whether something could not be moved or renamed: the result is of no use then.
    pub failed: bool,
    naming: Naming<'n>,
}

impl<'n> Rebase<'n> {
    /// Into canonical form. What is in canonical form already is numbered anew.
    pub(crate) fn number(from: Cycle, to: Cycle, names: &'n mut CanonicalNames) -> Self {
        Rebase { from, to, failed: false, naming: Naming::Number(names) }
    }

    /// Out of canonical form.
    pub(crate) fn resolve(from: Cycle, to: Cycle, names: &'n CanonicalNames) -> Self {
        Rebase { from, to, failed: false, naming: Naming::Resolve(names) }
    }

    /// A time that matters exactly.
    #[inline]
    pub(crate) fn exact(&mut self, at: &mut Cycle) {
        match (*at + self.to).checked_sub(self.from) {
            Some(moved) => *at = moved,
            None => self.failed = true,
        }
    }

    /// A cycle before which something may not happen. One that is over holds nothing, whichever it was: it becomes 0.
    #[inline]
    pub(crate) fn bound(&self, at: &mut Cycle) {
        *at = if *at < self.from { 0 } else { *at - self.from + self.to };
    }

    /// A bound that holds nothing in the current cycle either.
    #[inline]
    pub(crate) fn past(&self, at: &mut Cycle) {
        *at = if *at <= self.from { 0 } else { *at - self.from + self.to };
    }

    /// A row, unless it is a mark.
    #[inline]
    pub(crate) fn row(&mut self, row: &mut u32) {
        if *row < NO_ROW {
            *row = match &mut self.naming {
                Naming::Number(names) => number(&mut names.rows, *row),
                Naming::Resolve(names) => names.rows[*row as usize],
            };
        }
    }

    /// The address of a request.
    pub(crate) fn address(&mut self, op: Option<Op>, at: &mut Address, geometry: &Geometry) {
        if op == Some(Op::Sfm) {
            return;
        }
        if !op.is_some_and(is_move) {
            return self.row(&mut at.row);
        }
        let (half, mut row) = split_half(at.row, geometry);
        self.row(&mut row);
        // A number as large as the half would name the other half.
        self.failed |= half == 0 && row >= geometry.upper_half() || half + row >= geometry.rows;
        at.row = half + row;
        match &mut self.naming {
            Naming::Number(names) => {
                at.column = number(&mut names.entries, at.column);
                self.failed |= at.column >= geometry.columns;
            }
            Naming::Resolve(names) => {
                let low = names.entries[at.column as usize] + at.offset;
                (at.column, at.offset) = (low / geometry.column_bytes, low % geometry.column_bytes);
            }
        }
    }
}
