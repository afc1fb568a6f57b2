//! What joins two tables: labels, keys, the columns that are compared, and rows with their partners.

use super::delta::{ComparedCell, Delta, Tally};
use super::format::shown;
use super::table::TextTable;
use super::{CompareOptions, KNOWN_KEYS, REMARKS};
use crate::kind::TableKind;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};

/// Most names of columns in a message.
const SHOWN_NAMES: usize = 20;

/// A column in both tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedColumn {
    pub(super) base: usize,
    pub(super) other: usize,
    pub(super) numeric: bool,
}

/// What joins BASE to one OTHER.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) other: TextTable,
    /// Key columns in BASE, and the same in OTHER.
    pub(super) base_keys: Vec<usize>,
    pub(super) other_keys: Vec<usize>,
    /// Key columns that only tell the tables apart.
    pub(super) labels: Vec<SharedColumn>,
    pub(super) columns: Vec<SharedColumn>,
    /// Rows of BASE with their partners in OTHER.
    pub(super) joined: Vec<(u32, u32)>,
    pub(super) base_rows: Vec<u32>,
    pub(super) other_rows: Vec<u32>,
    pub(super) base_columns: Vec<String>,
    pub(super) other_columns: Vec<String>,
}

impl Pair {
    pub(super) fn new(base: &TextTable, other: TextTable, options: &CompareOptions) -> Result<Pair> {
        let mut pair = Pair {
            base_columns: only_in(base, &other, options),
            other_columns: only_in(&other, base, options),
            other,
            base_keys: vec![],
            other_keys: vec![],
            labels: vec![],
            columns: vec![],
            joined: vec![],
            base_rows: vec![],
            other_rows: vec![],
        };
        pair.sort_columns(base, options);
        pair.need_keys(base)?;
        pair.join(base)?;
        if !options.unlike {
            pair.alike(base)?;
        }
        Ok(pair)
    }

    /// Decides for each column of both tables whether it is a label, a key, compared or ignored.
    fn sort_columns(&mut self, base: &TextTable, options: &CompareOptions) {
        for (b, name) in base.header.iter().enumerate() {
            let Some(o) = self.other.column(name) else { continue };
            let shared = |numeric| SharedColumn { base: b, other: o, numeric };
            let named = options.keys.contains(name);
            let asked = options.columns.contains(name);
            let known = KNOWN_KEYS.contains(&name.as_str()) && !asked;
            if (named || known) && is_label(base.constant(b), self.other.constant(o)) {
                self.labels.push(shared(false));
            } else if named || (known && options.keys.is_empty()) {
                self.base_keys.push(b);
                self.other_keys.push(o);
            } else if asked || (options.columns.is_empty() && !REMARKS.contains(&name.as_str())) {
                self.columns.push(shared(base.is_numeric(b) && self.other.is_numeric(o)));
            }
        }
    }

    fn need_keys(&self, base: &TextTable) -> Result<()> {
        let keyed = !self.base_keys.is_empty() || !self.labels.is_empty();
        if keyed || (base.rows() <= 1 && self.other.rows() <= 1) {
            return Ok(());
        }
        let mut header: Vec<String> = base.header.iter().take(SHOWN_NAMES).map(|name| shown(name)).collect();
        if base.header.len() > SHOWN_NAMES {
            header.push("…".into());
        }
        Err(Error::Usage(format!(
            "{} and {} have no known key column in common; name the columns that identify a row with --key ({} has {})",
            base.name,
            self.other.name,
            base.name,
            header.join(", ")
        )))
    }

    fn join(&mut self, base: &TextTable) -> Result<()> {
        let base_labels: Vec<usize> = self.labels.iter().map(|l| l.base).collect();
        let other_labels: Vec<usize> = self.labels.iter().map(|l| l.other).collect();
        sorted_by_keys(base, &self.base_keys, &base_labels)?;
        let sorted = sorted_by_keys(&self.other, &self.other_keys, &other_labels)?;
        let mut has_partner = vec![false; sorted.len()];
        for row in 0..base.rows() {
            let to = (base, row, self.base_keys.as_slice());
            match sorted.binary_search_by(|&o| self.other.compare_keys(o, &self.other_keys, to)) {
                Ok(at) => {
                    self.joined.push((row, sorted[at]));
                    has_partner[sorted[at] as usize] = true;
                }
                Err(_) => self.base_rows.push(row),
            }
        }
        self.other_rows = (0..self.other.rows()).filter(|&row| !has_partner[row as usize]).collect();
        Ok(())
    }

    /// Refuses rows that are joined and of different caches, and runs of different numbers of steps.
    fn alike(&self, base: &TextTable) -> Result<()> {
        let is_run = |table: &TextTable| TableKind::of(&table.header) == Some(TableKind::Run);
        let mut checked = vec![(columns::CACHE_HASH, "of different caches")];
        if is_run(base) && is_run(&self.other) {
            checked.push((columns::STEPS, "of different numbers of steps"));
        }
        for (name, what) in checked {
            let (Some(b), Some(o)) = (base.column(name), self.other.column(name)) else { continue };
            let cells = |(row, other): &(u32, u32)| (base.cell(*row, b), self.other.cell(*other, o));
            let differ = |(b, o): &(&str, &str)| !b.is_empty() && !o.is_empty() && b != o;
            if let Some((b, o)) = self.joined.iter().map(cells).find(differ) {
                let (base, other) = (&base.name, &self.other.name);
                return Err(Error::Usage(format!(
                    "{base} and {other} are {what} ({name} {b} and {o}); --unlike compares them all the same"
                )));
            }
        }
        Ok(())
    }

    /// The compared cell of a joined row; none where one of the two is unknown.
    fn cell<'a>(
        &'a self,
        base: &'a TextTable,
        (row, other_row): (u32, u32),
        column: SharedColumn,
    ) -> Option<ComparedCell<'a>> {
        let (b, o) = (base.cell(row, column.base), self.other.cell(other_row, column.other));
        if b.is_empty() || o.is_empty() {
            return None;
        }
        let delta = if column.numeric { Delta::of_numbers(b, o) } else { Delta::of_texts(b, o) };
        Some(ComparedCell { row, column, base: b, other: o, delta })
    }

    pub(super) fn cells<'a>(&'a self, base: &'a TextTable) -> impl Iterator<Item = ComparedCell<'a>> {
        self.joined.iter().flat_map(move |&rows| self.columns.iter().filter_map(move |&c| self.cell(base, rows, c)))
    }

    pub(super) fn tally(&self, base: &TextTable, column: SharedColumn) -> Tally {
        let mut tally = Tally::default();
        self.joined.iter().for_each(|&rows| tally.add(self.cell(base, rows, column)));
        tally
    }
}

/// Columns of `table` that `than` lacks, unless the caller named the columns of interest.
fn only_in(table: &TextTable, than: &TextTable, options: &CompareOptions) -> Vec<String> {
    let lacks = |name: &&String| options.columns.is_empty() && than.column(name).is_none();
    table.header.iter().filter(lacks).cloned().collect()
}

fn is_label(base: Option<&str>, other: Option<&str>) -> bool {
    matches!((base, other), (Some(b), Some(o)) if b != o)
}

/// The rows of a table in the order of their keys, which must differ. The labels are for the message.
fn sorted_by_keys(table: &TextTable, keys: &[usize], labels: &[usize]) -> Result<Vec<u32>> {
    let order = |a: &u32, b: &u32| table.compare_keys(*a, keys, (table, *b, keys));
    let mut rows: Vec<u32> = (0..table.rows()).collect();
    rows.sort_by(order);
    let twice = rows.windows(2).filter(|w| order(&w[0], &w[1]).is_eq()).min_by_key(|w| w[1]);
    let Some(&[first, second]) = twice else { return Ok(rows) };
    let (line, columns) = (table.lines[first as usize], [keys, labels].concat());
    let what = format!("same key as line {line}: {}; add a column with --key", table.describe(second, &columns));
    Err(table.damaged(table.lines[second as usize].into(), what))
}
