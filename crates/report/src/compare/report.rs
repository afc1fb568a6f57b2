//! A comparison for people, as CSV, and as a check.

use super::delta::ComparedCell;
use super::format::{count, digits, shown, signed};
use super::join::Pair;
use super::table::TextTable;
use pimattn_core::error::{Error, Result};
use std::io::{self, Write};

/// Columns of the long form behind the keys.
const LONG_FORM: [&str; 6] = ["file", "column", "base", "other", "ratio", "change_pct"];
/// Columns of the summary's table.
const SUMMARY: [&str; 8] = ["column", "rows", "differ", "unknown", "ratio of sums", "mean %", "min %", "max %"];
/// Examples that a message or a list gives before it only counts.
const EXAMPLES: usize = 5;

/// BASE joined with each OTHER.
#[derive(Debug)]
pub struct Comparison {
    pub(super) base: TextTable,
    pub(super) pairs: Vec<Pair>,
}

impl Comparison {
    /// Writes the compared cells as CSV in long form: the keys, then `file,column,base,other,ratio,change_pct`.
    ///
    /// The order is that of the files, BASE's rows and BASE's columns. `base` and `other` are as in the files. A text
    /// that is equal in both gets no line. A key that is a label for one OTHER and not for another has BASE's value;
    /// a key called like one of the six gets `key_` in front.
    pub fn write_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let keys = self.all_keys();
        let mut writer = csv::Writer::from_writer(out);
        let names = keys.iter().map(|&k| key_header(&self.base.header[k]));
        writer.write_record(names.chain(LONG_FORM.map(String::from)))?;
        for pair in &self.pairs {
            for cell in pair.cells(&self.base).filter(|c| c.column.numeric || !c.delta.same) {
                let (ratio, change) = (digits(cell.delta.ratio), digits(cell.delta.change_pct));
                let name = &self.base.header[cell.column.base];
                let values = [&pair.other.name, name.as_str(), cell.base, cell.other, &ratio, &change];
                writer.write_record(keys.iter().map(|&k| self.base.cell(cell.row, k)).chain(values))?;
            }
        }
        writer.flush()
    }

    /// Writes the summary for people: per OTHER the labels, what is in one file only, and a line per column.
    pub fn write_summary(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "base: {} ({})", self.base.name, count(self.base.lines.len(), "row"))?;
        for pair in &self.pairs {
            writeln!(out)?;
            self.write_heading(pair, out)?;
            self.write_one_sided(pair, out)?;
            self.write_tallies(pair, out)?;
        }
        out.flush()
    }

    /// Fails with [`Error::Check`] if a cell is more than `tolerance_pct` percent away, if a row or a column is in one
    /// file only, or if an OTHER has no cell to compare; names the first few cells.
    pub fn check(&self, tolerance_pct: f64) -> Result<()> {
        if !tolerance_pct.is_finite() || tolerance_pct < 0.0 {
            return Err(Error::Usage(format!("--tolerance: {tolerance_pct} is not a percentage of 0 or more")));
        }
        let failures: Vec<String> = self.pairs.iter().filter_map(|p| self.failure(p, tolerance_pct)).collect();
        if failures.is_empty() { Ok(()) } else { Err(Error::Check(failures.join("\n"))) }
    }

    fn failure(&self, pair: &Pair, tolerance_pct: f64) -> Option<String> {
        let (mut all, mut beyond, mut examples) = (0, 0, String::new());
        for cell in pair.cells(&self.base) {
            all += 1;
            if cell.delta.is_beyond(tolerance_pct) {
                beyond += 1;
                if beyond <= EXAMPLES {
                    examples += &format!("\n  {}", self.describe(pair, &cell));
                }
            }
        }
        if beyond > EXAMPLES {
            examples += &format!("\n  and {} more", beyond - EXAMPLES);
        }
        let mut reasons = vec![];
        if beyond > 0 {
            reasons.push(format!("{beyond} of {} beyond {tolerance_pct} %", count(all, "cell")));
        }
        reasons.extend(self.one_sided(pair));
        if all == 0 {
            reasons.push("no cell is known in both files".to_string());
        }
        let heading = || format!("{} against {}: {}", pair.other.name, self.base.name, reasons.join("; "));
        (!reasons.is_empty()).then(|| heading() + &examples)
    }

    /// `step=3 (line 5): cycles 100 -> 105 (+5 %)`
    fn describe(&self, pair: &Pair, cell: &ComparedCell) -> String {
        let change = cell.delta.change_pct.map_or(String::new(), |c| format!(" ({} %)", signed(Some(c))));
        let row = self.base.describe(cell.row, &pair.base_keys);
        let column = shown(&self.base.header[cell.column.base]);
        format!("{row}: {column} {} -> {}{change}", shown(cell.base), shown(cell.other))
    }

    /// Columns of BASE that are keys of at least one join.
    fn all_keys(&self) -> Vec<usize> {
        (0..self.base.header.len()).filter(|k| self.pairs.iter().any(|p| p.base_keys.contains(k))).collect()
    }

    fn write_heading(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        let keys: Vec<String> = pair.base_keys.iter().map(|&k| shown(&self.base.header[k])).collect();
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        let rows = count(pair.other.lines.len(), "row");
        writeln!(out, "other: {} ({rows}, {} joined{by})", pair.other.name, pair.joined.len())?;
        for label in &pair.labels {
            let [b, o] = [self.base.cell(0, label.base), pair.other.cell(0, label.other)].map(shown);
            writeln!(out, "  {}: {b} -> {o}", shown(&self.base.header[label.base]))?;
        }
        Ok(())
    }

    fn write_one_sided(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        self.one_sided(pair).iter().try_for_each(|line| writeln!(out, "  {line}"))
    }

    /// What is in one file only, one line for each kind.
    fn one_sided(&self, pair: &Pair) -> Vec<String> {
        let rows = |table: &TextTable, keys: &[usize], rows: &[u32]| {
            one_sided_line(&table.name, "row", rows.len(), rows.iter().map(|&row| table.describe(row, keys)))
        };
        let columns = |table: &TextTable, names: &[String]| {
            one_sided_line(&table.name, "column", names.len(), names.iter().map(|name| shown(name)))
        };
        let lines = [
            rows(&self.base, &pair.base_keys, &pair.base_rows),
            rows(&pair.other, &pair.other_keys, &pair.other_rows),
            columns(&self.base, &pair.base_columns),
            columns(&pair.other, &pair.other_columns),
        ];
        lines.into_iter().flatten().collect()
    }

    fn write_tallies(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = vec![SUMMARY.map(String::from).to_vec()];
        for &column in &pair.columns {
            let tally = pair.tally(&self.base, column);
            if column.numeric || tally.differ > 0 {
                lines.push(tally.line(&self.base.header[column.base], column.numeric));
            }
        }
        write_aligned(&lines, out)
    }
}

/// `2 rows only in a.csv: step=3 (line 5), step=4 (line 6)`
fn one_sided_line(file: &str, what: &str, n: usize, all: impl Iterator<Item = String>) -> Option<String> {
    let examples: Vec<String> = all.take(EXAMPLES).collect();
    let more = if n > EXAMPLES { format!(" and {} more", n - EXAMPLES) } else { String::new() };
    (n > 0).then(|| format!("{} only in {file}: {}{more}", count(n, what), examples.join(", ")))
}

/// Writes lines of equally many cells, the first to the left and the others to the right of their columns.
fn write_aligned(lines: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |c: usize| lines.iter().filter_map(|l| l.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
            match c {
                0 => write!(out, "  {cell:<width$}")?,
                _ => write!(out, "  {cell:>width$}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn key_header(name: &str) -> String {
    if LONG_FORM.contains(&name) { format!("key_{name}") } else { name.to_string() }
}
