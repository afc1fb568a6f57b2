//! Finished CSV tables in, tables for people out.

use super::kind::TableKind;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{CsvReader, line};
pub use pimattn_core::table::{known, number};
use std::io::Read;

/// How the table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Aligned columns.
    Text,
    /// A Markdown table.
    Markdown,
    /// CSV.
    Csv,
}

/// File name up to its first dot: what a trace and its metrics have in common.
pub fn stem(path: &str) -> String {
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).to_string()
}

/// Gives the named cells of each row of a table, and counts the rows. What `take` finds wrong becomes an error with file
/// and line.
///
/// # Errors
/// When a column is not there. No other is proposed: a table of another kind has none of them.
pub fn each(
    input: impl Read,
    file: &str,
    kind: TableKind,
    names: &[&str],
    mut take: impl FnMut(&[&str]) -> std::result::Result<(), String>,
) -> Result<u64> {
    let mut table = CsvReader::open(input, file)?;
    kind.expect(table.header(), file)?;
    let find = |name: &&str| {
        let place = table.header().iter().position(|h| h == *name);
        place.ok_or_else(|| Error::data(file, format!("no column \"{name}\"")))
    };
    let places: Vec<usize> = names.iter().map(find).collect::<Result<_>>()?;
    let mut rows = 0;
    while let Some(row) = table.read()? {
        rows += 1;
        let cells: Vec<&str> = places.iter().map(|i| row.cell(*i)).collect();
        take(&cells).map_err(|e| row.error(e))?;
    }
    Ok(rows)
}

/// As [`each`]; a table without a row is an error: what failed, or was cut off, is no result.
pub fn each_of_some<const N: usize>(
    input: impl Read,
    file: &str,
    kind: TableKind,
    names: [&str; N],
    mut take: impl FnMut([&str; N]) -> std::result::Result<(), String>,
) -> Result<()> {
    match each(input, file, kind, &names, |cells| take(std::array::from_fn(|i| cells[i])))? {
        0 => Err(Error::data(file, "a table without a row")),
        _ => Ok(()),
    }
}

/// What metrics tables say of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionMetric {
    /// Tokens selected.
    Selected,
    /// Tokens in the row-blocks that hold one.
    RowTokens,
    /// Softmax mass on the selected.
    MassRecall,
    /// Share of the best tokens that is selected.
    TopRecall,
    /// Relative error of the output.
    OutputRelErr,
}

impl SelectionMetric {
    /// All of them, in the order of reports.
    pub const ALL: [SelectionMetric; 5] = [
        SelectionMetric::Selected,
        SelectionMetric::RowTokens,
        SelectionMetric::MassRecall,
        SelectionMetric::TopRecall,
        SelectionMetric::OutputRelErr,
    ];
    /// The columns that they are in.
    pub const COLUMNS: [&str; 5] = [
        SelectionMetric::Selected.column(),
        SelectionMetric::RowTokens.column(),
        SelectionMetric::MassRecall.column(),
        SelectionMetric::TopRecall.column(),
        SelectionMetric::OutputRelErr.column(),
    ];

    /// The column that it is in.
    pub const fn column(self) -> &'static str {
        match self {
            SelectionMetric::Selected => columns::SELECTED,
            SelectionMetric::RowTokens => columns::METRIC_ROW_TOKENS,
            SelectionMetric::MassRecall => columns::MASS_RECALL,
            SelectionMetric::TopRecall => columns::TOP_RECALL,
            SelectionMetric::OutputRelErr => columns::OUTPUT_REL_ERR,
        }
    }

    const fn decimals(self) -> usize {
        match self {
            SelectionMetric::Selected | SelectionMetric::RowTokens => 1,
            SelectionMetric::MassRecall | SelectionMetric::TopRecall | SelectionMetric::OutputRelErr => 4,
        }
    }
}

/// Means of metrics, each over the rows that have a number in it.
#[derive(Debug, Clone, Default)]
pub struct MetricMeans {
    rows: [u64; SelectionMetric::ALL.len()],
    sums: [f64; SelectionMetric::ALL.len()],
}

impl MetricMeans {
    /// Adds the cells of a row, below [`SelectionMetric::COLUMNS`].
    pub fn add(&mut self, cells: [&str; SelectionMetric::ALL.len()]) -> std::result::Result<(), String> {
        for ((cell, rows), sum) in cells.iter().zip(&mut self.rows).zip(&mut self.sums) {
            if let Some(x) = known(cell)? {
                *rows += 1;
                *sum += x;
            }
        }
        Ok(())
    }

    /// The mean of a metric; none where no row has a number in it.
    pub fn of(&self, metric: SelectionMetric) -> Option<f64> {
        let (rows, sum) = (self.rows[metric as usize], self.sums[metric as usize]);
        (rows > 0).then(|| sum / rows as f64)
    }

    /// All means, as cells of a report.
    pub fn cells(&self) -> [String; SelectionMetric::ALL.len()] {
        SelectionMetric::ALL.map(|m| self.of(m).map_or(String::new(), |x| format!("{x:.*}", m.decimals())))
    }
}

/// Rows as lines of text; the first row is the heading, the first column stands left.
pub fn layout(rows: &[Vec<String>], style: Style) -> String {
    let mut out = String::new();
    let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for (n, row) in rows.iter().enumerate() {
        let padded = row.iter().zip(&widths).enumerate().map(|(i, (cell, w))| match i {
            0 => format!("{cell:<w$}"),
            _ => format!("{cell:>w$}"),
        });
        let text = match style {
            Style::Text => padded.collect::<Vec<_>>().join("  "),
            Style::Markdown => format!("| {} |", padded.collect::<Vec<_>>().join(" | ")),
            Style::Csv => line(row),
        };
        out.push_str(text.trim_end());
        out.push('\n');
        if n == 0 && style == Style::Markdown {
            out.push_str("|-");
            out.push_str(&"|-:".repeat(row.len() - 1));
            out.push_str("|\n");
        }
    }
    out
}

/// A CSV table for people, in lines of at most `width` unless a cell is wider: aligned if it fits, else turned, a line for each column
/// and as many rows side by side as fit. Columns without a value are left out.
///
/// # Errors
/// [`Error::Data`] for what is no table.
pub fn for_people(input: impl Read, width: usize) -> Result<String> {
    let mut table = CsvReader::open(input, "-")?;
    let mut columns: Vec<Vec<String>> = table.header().iter().map(|name| vec![name.clone()]).collect();
    while let Some(row) = table.read()? {
        columns.iter_mut().enumerate().for_each(|(i, column)| column.push(row.cell(i).to_string()));
    }
    columns.retain(|column| column[1..].iter().any(|cell| !cell.is_empty()));
    let rows = columns.first().map_or(0, Vec::len);
    if rows < 2 {
        return Ok(String::new());
    }
    let turned = |range: std::ops::Range<usize>| -> Vec<Vec<String>> {
        let line = |column: &Vec<String>| std::iter::once(&column[0]).chain(&column[range.clone()]).cloned().collect();
        columns.iter().map(line).collect()
    };
    let fits = |text: &str| text.lines().all(|line| line.len() <= width);
    let aligned: Vec<Vec<String>> =
        (0..rows).map(|i| columns.iter().map(|column| column[i].clone()).collect()).collect();
    let aligned = layout(&aligned, Style::Text);
    if fits(&aligned) {
        return Ok(aligned);
    }
    let (mut out, mut at) = (Vec::new(), 1);
    while at < rows {
        let mut end = at + 1;
        while end < rows && fits(&layout(&turned(at..end + 1), Style::Text)) {
            end += 1;
        }
        out.push(layout(&turned(at..end), Style::Text));
        at = end;
    }
    Ok(out.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_table_is_turned_and_a_narrow_one_aligned() {
        let csv = "name,us,note\na,1,\nbb,22,\n";
        let of = |width| for_people(csv.as_bytes(), width).unwrap();
        assert_eq!(of(20), "name  us\na      1\nbb    22\n");
        assert_eq!(of(7), "name  a\nus    1\n\nname  bb\nus    22\n");
        assert_eq!(for_people("a,b\n".as_bytes(), 9).unwrap(), "");
    }
}
