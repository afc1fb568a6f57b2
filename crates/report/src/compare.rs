//! Comparison of result tables: the library behind `pimsim compare`.
//!
//! A table is CSV with a header row, ours or foreign. BASE is compared with each OTHER on its own.
//!
//! # How rows are joined
//!
//! 1. The *key columns* are those that the caller names, else every column of both tables in [`KNOWN_KEYS`] that the
//!    caller does not ask to compare. Keys are equal when their text is, without surrounding blanks (`1` is not `1.0`).
//! 2. A key column (named or known) that has one value throughout BASE and one other value throughout OTHER is a
//!    *label*: it says what is compared with what, such as `policy: quest -> starc`. It is reported and takes no part
//!    in the join. So two runs of different policies join by step, and two tables of one row each always join.
//! 3. Two rows of one table with equal keys are an error. Rows without a partner are listed.
//! 4. Rows that are joined and say that they are of different caches, and runs of different numbers of steps, are an
//!    error: their difference is not one of policies or mappings. [`CompareOptions::unlike`] allows it.
//!
//! # How cells are compared
//!
//! * A column is numeric when each of its cells in both tables is a number or empty; any other is text.
//! * An empty cell is unknown: it is skipped and counted as such.
//! * Hashes and cautions ([`REMARKS`]) are compared only where they are asked for.
//! * Numbers give the ratio other/base and the change in percent of |base|: positive is more, whatever the signs.
//!   Integers are subtracted exactly. If both are zero, the ratio is 1 and the change 0; if only the base is, or a
//!   result is not finite, both are empty and the cell is beyond every tolerance.
//! * Texts are equal or they differ; if they differ, the cell is beyond every tolerance. So it is for `nan` and `inf`,
//!   which equal only themselves.
//!
//! # Memory
//!
//! All tables are held at once, as text plus four bytes per cell and per row. Together the files may have at most
//! [`MAX_INPUT_BYTES`]. The memory is about twice their size for usual tables and eight times for the worst (cells of
//! one character or none). Nothing is stored per compared cell.

mod delta;
mod format;
mod join;
mod report;
mod table;
#[cfg(test)]
mod tests;

pub use report::Comparison;
pub use table::TextTable;

use join::Pair;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result, suggest};
use std::path::{Path, PathBuf};

/// Columns that identify a row, unless the caller names others.
pub const KNOWN_KEYS: [&str; 19] = [
    columns::TRACE,
    columns::POLICY,
    columns::BUDGET,
    columns::SYSTEM,
    columns::STEP,
    columns::POSITION,
    columns::REQUEST,
    columns::LAYER,
    columns::KV_HEAD,
    columns::QUERY_HEAD,
    columns::CHANNEL,
    columns::PHASE,
    columns::MODEL,
    columns::CONTEXT,
    "timing",
    "refresh",
    columns::DEVICE,
    "preset",
    "energy_model",
];

/// Columns that say whose a row is, and are no result.
pub const REMARKS: [&str; 4] = [columns::CACHE_HASH, columns::SELECTION_HASH, columns::CONFIG_HASH, columns::CAUTIONS];

/// Most bytes that the files of one comparison may have together.
pub const MAX_INPUT_BYTES: u64 = 512 << 20;

/// What to join by and what to compare.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    /// Key columns; empty: those of [`KNOWN_KEYS`] that the tables have.
    pub keys: Vec<String>,
    /// Columns to compare; empty: all that are not keys. If given, columns in one file only do not matter.
    pub columns: Vec<String>,
    /// Whether rows of different caches and runs of different steps may be compared.
    pub unlike: bool,
}

/// Compares the table in the file `base` with those in the files `others`.
pub fn compare_files(base: &Path, others: &[PathBuf], options: &CompareOptions) -> Result<Comparison> {
    let mut left = MAX_INPUT_BYTES;
    let base = TextTable::open(base, &mut left)?;
    let others = others.iter().map(|path| TextTable::open(path, &mut left)).collect::<Result<_>>()?;
    compare(base, others, options)
}

/// Compares the table `base` with each of `others`.
pub fn compare(base: TextTable, others: Vec<TextTable>, options: &CompareOptions) -> Result<Comparison> {
    if others.is_empty() {
        return Err(Error::Usage("compare needs a base table and at least one other".into()));
    }
    for table in std::iter::once(&base).chain(&others) {
        check_names(table, "--key", &options.keys)?;
        check_names(table, "--column", &options.columns)?;
    }
    if let Some(both) = options.keys.iter().find(|k| options.columns.contains(k)) {
        return Err(Error::Usage(format!("\"{both}\" is both --key and --column")));
    }
    let pairs = others.into_iter().map(|other| Pair::new(&base, other, options)).collect::<Result<_>>()?;
    Ok(Comparison { base, pairs })
}

fn check_names(table: &TextTable, option: &str, names: &[String]) -> Result<()> {
    match names.iter().find(|name| table.column(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let hint = suggest(name, table.header.iter().map(String::as_str));
            Err(Error::Usage(format!("{option}: {} has no column \"{name}\"{hint}", table.name)))
        }
    }
}
