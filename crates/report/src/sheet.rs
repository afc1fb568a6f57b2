//! Finished CSV tables in, tables for people out.

use pimattn_core::error::{Error, Result};
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

/// The rows of a CSV table, with the columns that are asked for.
pub struct Rows<R: Read> {
    csv: csv::Reader<R>,
    file: String,
    columns: Vec<usize>,
}

impl<R: Read> Rows<R> {
    /// Reads the header; a column that is not there is an error. `file` is for errors.
    pub fn open(input: R, file: &str, names: &[&str]) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(input);
        let header = csv.headers().map_err(|e| Error::data(file, e.to_string()))?.clone();
        let find = |name: &&str| {
            header.iter().position(|h| h == *name).ok_or_else(|| Error::data(file, format!("no column \"{name}\"")))
        };
        let columns = names.iter().map(find).collect::<Result<_>>()?;
        Ok(Rows { csv, file: file.into(), columns })
    }

    /// As [`Rows::each`]; a table without a row is an error: what failed, or was cut off, is no result.
    pub fn each_of_some(self, mut take: impl FnMut(&[String]) -> std::result::Result<(), String>) -> Result<()> {
        let (mut rows, file) = (0u64, self.file.clone());
        self.each(|cells| {
            rows += 1;
            take(cells)
        })?;
        if rows == 0 { Err(Error::data(file, "a table without a row")) } else { Ok(()) }
    }

    /// Gives the cells of each row; what `take` finds wrong becomes an error with file and line.
    pub fn each(mut self, mut take: impl FnMut(&[String]) -> std::result::Result<(), String>) -> Result<()> {
        let mut cells = Vec::new();
        for record in self.csv.records() {
            let record = record.map_err(|e| Error::data(&self.file, e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            cells.clear();
            cells.extend(self.columns.iter().map(|c| record.get(*c).unwrap_or("").to_string()));
            take(&cells).map_err(|e| Error::data(format!("{}:{line}", self.file), e))?;
        }
        Ok(())
    }
}

/// A finite number.
pub fn number(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err(format!("\"{text}\" is not a number")),
    }
}

/// A finite number, or none where the cell is empty: not known, or without meaning.
pub fn known(text: &str) -> std::result::Result<Option<f64>, String> {
    if text.is_empty() { Ok(None) } else { number(text).map(Some) }
}

/// Means of several columns, each over the rows that have a number in it.
#[derive(Debug, Clone)]
pub struct ColumnMeans<const N: usize> {
    rows: [u64; N],
    sums: [f64; N],
}

impl<const N: usize> Default for ColumnMeans<N> {
    fn default() -> Self {
        ColumnMeans { rows: [0; N], sums: [0.0; N] }
    }
}

impl<const N: usize> ColumnMeans<N> {
    /// Adds the cells of a row.
    pub fn add(&mut self, cells: &[String]) -> std::result::Result<(), String> {
        for (i, cell) in cells.iter().enumerate().take(N) {
            if let Some(x) = known(cell)? {
                self.rows[i] += 1;
                self.sums[i] += x;
            }
        }
        Ok(())
    }

    /// The mean of a column; none where no row has a number in it.
    pub fn of(&self, column: usize) -> Option<f64> {
        (self.rows[column] > 0).then(|| self.sums[column] / self.rows[column] as f64)
    }

    /// The mean of a column as a cell.
    pub fn cell(&self, column: usize, decimals: usize) -> String {
        self.of(column).map_or(String::new(), |x| format!("{x:.decimals$}"))
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
        let line = match style {
            Style::Text => padded.collect::<Vec<_>>().join("  "),
            Style::Markdown => format!("| {} |", padded.collect::<Vec<_>>().join(" | ")),
            Style::Csv => row.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(","),
        };
        out.push_str(line.trim_end());
        out.push('\n');
        if n == 0 && style == Style::Markdown {
            out.push_str("|-");
            out.push_str(&"|-:".repeat(row.len() - 1));
            out.push_str("|\n");
        }
    }
    out
}

fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.into(),
    }
}
