//! How far two cells are apart, and what the cells of a column come to.

use super::format::{digits, shown, signed};
use super::join::SharedColumn;

/// Percentage points forgiven for rounding where the tolerance is not zero: 1 to 1.1 is 10 %.
const ROUNDING_PCT: f64 = 1e-12;

/// One compared cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct ComparedCell<'a> {
    pub(super) row: u32,
    pub(super) column: SharedColumn,
    pub(super) base: &'a str,
    pub(super) other: &'a str,
    pub(super) delta: Delta,
}

/// How far two cells are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Delta {
    pub(super) same: bool,
    pub(super) ratio: Option<f64>,
    pub(super) change_pct: Option<f64>,
}

impl Delta {
    pub(super) fn of_texts(base: &str, other: &str) -> Delta {
        Delta { same: base == other, ratio: None, change_pct: None }
    }

    pub(super) fn of_numbers(base: &str, other: &str) -> Delta {
        let (Some(b), Some(o)) = (number(base), number(other)) else { return Delta::of_texts(base, other) };
        if !b.is_finite() || !o.is_finite() {
            return Delta { same: b == o || (b.is_nan() && o.is_nan()), ratio: None, change_pct: None };
        }
        let difference = exact_difference(base, other).unwrap_or(o - b);
        let change_pct = match (b == 0.0, o == 0.0) {
            (true, true) => Some(0.0),
            _ => finite(difference / b.abs() * 100.0),
        };
        Delta { same: difference == 0.0, ratio: ratio(b, o), change_pct }
    }

    pub(super) fn is_beyond(&self, tolerance_pct: f64) -> bool {
        let allowed = if tolerance_pct > 0.0 { tolerance_pct + ROUNDING_PCT } else { 0.0 };
        self.change_pct.map_or(!self.same, |change| change.abs() > allowed)
    }
}

pub(super) fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn ratio(base: f64, other: f64) -> Option<f64> {
    if base == 0.0 && other == 0.0 { Some(1.0) } else { finite(other / base) }
}

/// The difference of two integers, also of those that a float cannot hold.
fn exact_difference(base: &str, other: &str) -> Option<f64> {
    let (b, o) = (base.parse::<i128>().ok()?, other.parse::<i128>().ok()?);
    o.checked_sub(b).map(|d| d as f64)
}

/// What the summary says of a column.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rows: usize,
    pub(super) differ: usize,
    pub(super) unknown: usize,
    pub(super) base_sum: f64,
    pub(super) other_sum: f64,
    pub(super) changes: usize,
    pub(super) change_sum: f64,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

impl Tally {
    pub(super) fn add(&mut self, cell: Option<ComparedCell>) {
        let Some(cell) = cell else {
            self.unknown += 1;
            return;
        };
        self.rows += 1;
        self.differ += usize::from(!cell.delta.same);
        if cell.column.numeric {
            let finite_pair = number(cell.base).and_then(finite).zip(number(cell.other).and_then(finite));
            let (b, o) = finite_pair.unwrap_or_default();
            self.base_sum += b;
            self.other_sum += o;
        }
        if let Some(change) = cell.delta.change_pct {
            self.changes += 1;
            self.change_sum += change;
            self.min = Some(self.min.map_or(change, |m| m.min(change)));
            self.max = Some(self.max.map_or(change, |m| m.max(change)));
        }
    }

    pub(super) fn line(&self, name: &str, numeric: bool) -> Vec<String> {
        let ratio = if numeric && self.rows > 0 { ratio(self.base_sum, self.other_sum) } else { None };
        let mean = finite(self.change_sum / self.changes as f64);
        let dash = |text: String| if text.is_empty() { "-".to_string() } else { text };
        let name = if numeric { shown(name) } else { format!("{} (text)", shown(name)) };
        let mut line = vec![name, self.rows.to_string(), self.differ.to_string(), self.unknown.to_string()];
        line.push(dash(digits(ratio)));
        line.extend([mean, self.min, self.max].map(|change| dash(signed(change))));
        line
    }
}
