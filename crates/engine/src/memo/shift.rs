//! From one time and one naming of addresses to another.

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::units::Cycle;

/// Rows from here on are none: closed, mixed, not addressed.
const NO_ROW: u32 = u32::MAX - 1;

/// What stands behind the numbers of a normal form, in the order in which they come up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    /// Rows; of buffer moves, within the half of the bank. The half itself is not renamed, for it says what they move.
    pub rows: Vec<u32>,
    /// Of buffer moves, where in a row their addresses begin. No bank looks at it, and it is different for each entry.
    /// In normal form its number is the column, and the offset what comes on top of it.
    pub entries: Vec<u32>,
}

impl Names {
    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.entries.clear();
    }

    /// Makes these the names of others.
    pub fn copy(&mut self, other: &Names) {
        self.clear();
        self.rows.extend_from_slice(&other.rows);
        self.entries.extend_from_slice(&other.entries);
    }

    /// Makes these the names of numbers which `behind` has names for.
    pub fn resolve(&mut self, numbers: &Names, behind: &Names) {
        self.clear();
        self.rows.extend(numbers.rows.iter().map(|n| behind.rows[*n as usize]));
        self.entries.extend(numbers.entries.iter().map(|n| behind.entries[*n as usize]));
    }

    /// The address behind one in normal form.
    pub fn address(&self, op: Option<Op>, at: Address, geometry: &Geometry) -> Address {
        if op == Some(Op::Sfm) {
            return at;
        }
        let row = |number: u32| self.rows.get(number as usize).copied().unwrap_or(number);
        if !op.is_some_and(is_move) {
            return Address { row: row(at.row), ..at };
        }
        let (half, number) = halved(at.row, geometry);
        let row = half + row(number);
        let low = self.entries[at.column as usize] + at.offset;
        Address { row, column: low / geometry.column_bytes, offset: low % geometry.column_bytes, ..at }
    }
}

/// Whether the place in a row means nothing to a bank. (That of a softmax is a number of entries, which has no other name.)
pub fn is_move(op: Op) -> bool {
    matches!(op, Op::WrGb | Op::MvSb | Op::MvGb)
}

/// The first row of the half of a bank that a row is in, and the row counted from there.
pub fn halved(row: u32, geometry: &Geometry) -> (u32, u32) {
    match row.checked_sub(geometry.upper_half()) {
        Some(above) => (geometry.upper_half(), above),
        None => (0, row),
    }
}

/// The number of a name.
pub fn number(names: &mut Vec<u32>, name: u32) -> u32 {
    let known = names.iter().position(|n| *n == name);
    known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    }) as u32
}

/// What becomes of names.
enum Naming<'n> {
    /// They are numbered.
    Number(&'n mut Names),
    /// They are put in the place of numbers.
    Resolve(&'n Names),
}

/// Moves a state.
pub struct Shift<'n> {
    /// The time of now.
    pub from: Cycle,
    /// What it becomes.
    pub to: Cycle,
    /// Whether something could not be moved.
    pub failed: bool,
    naming: Naming<'n>,
}

impl<'n> Shift<'n> {
    /// Into normal form. What has numbers there already is numbered anew.
    pub fn number(from: Cycle, to: Cycle, names: &'n mut Names) -> Self {
        Shift { from, to, failed: false, naming: Naming::Number(names) }
    }

    /// Out of normal form.
    pub fn resolve(from: Cycle, to: Cycle, names: &'n Names) -> Self {
        Shift { from, to, failed: false, naming: Naming::Resolve(names) }
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
            *row = match &mut self.naming {
                Naming::Number(names) => number(&mut names.rows, *row),
                Naming::Resolve(names) => names.rows[*row as usize],
            };
        }
    }

    /// The address of a request.
    pub fn address(&mut self, op: Option<Op>, at: &mut Address, geometry: &Geometry) {
        if op == Some(Op::Sfm) {
            return;
        }
        if !op.is_some_and(is_move) {
            return self.row(&mut at.row);
        }
        let (half, mut row) = halved(at.row, geometry);
        self.row(&mut row);
        // A number that is not below the half would say that it is above.
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
