//! Finished CSV tables in, tables for people out.

use crate::error::{Error, Result};
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
