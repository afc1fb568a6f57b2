//! Reads finished tables: the one place where CSV comes in.

use crate::error::{Error, Result, suggest};
use csv::StringRecord;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a row, at most. Workloads, which are the longest cells, have some thousand.
const ROW: usize = 16 << 20;

/// An input of which so much is read for a row, and no more: one without line ends is not read to the end of memory.
struct RowInput<R> {
    input: R,
    left: Arc<AtomicUsize>,
}

impl<R: Read> Read for RowInput<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 && !buf.is_empty() {
            let what = format!("a row of more than {} MiB; expected a CSV table", ROW >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = buf.len().min(left);
        let read = self.input.read(&mut buf[..most])?;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}

/// A CSV table with a header line, or, read as [`CsvReader::ragged`], any lines of CSV.
pub struct CsvReader<R: Read> {
    csv: csv::Reader<RowInput<R>>,
    /// What may still be read for the row.
    left: Arc<AtomicUsize>,
    file: String,
    header: Vec<String>,
    record: StringRecord,
}

/// A row that was read.
pub struct CsvRow<'r> {
    cells: &'r StringRecord,
    header: &'r [String],
    file: &'r str,
}

impl<R: Read> CsvReader<R> {
    /// Reads the header; `file` is for errors.
    pub fn open(input: R, file: &str) -> Result<Self> {
        let mut table = CsvReader::of(csv::ReaderBuilder::new(), input, file);
        table.header = table.csv.headers().map_err(|e| damaged(file, e))?.iter().map(String::from).collect();
        Ok(table)
    }

    fn of(builder: csv::ReaderBuilder, input: R, file: &str) -> Self {
        let left = Arc::new(AtomicUsize::new(ROW));
        let csv = builder.from_reader(RowInput { input, left: left.clone() });
        CsvReader { csv, left, file: file.into(), header: Vec::new(), record: StringRecord::new() }
    }

    /// Lines of any number of cells; the first is a row as the others are.
    pub fn ragged(input: R, file: &str) -> Self {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true);
        CsvReader::of(builder, input, file)
    }

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The place of a column. One that is not there is an error, which names the one that is nearest.
    pub fn column(&self, name: &str) -> Result<usize> {
        place(&self.header, &self.file, name)
    }

    /// The place of a column that a person asked for by name.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is not there, with the nearest name.
    pub fn asked(&self, name: &str) -> Result<usize> {
        self.column(name).map_err(|e| match e {
            Error::Data { file, what } => Error::Usage(format!("{file}: {what}")),
            other => other,
        })
    }

    /// The next row; none at the end.
    pub fn read(&mut self) -> Result<Option<CsvRow<'_>>> {
        self.left.store(ROW, Ordering::Relaxed);
        match self.csv.read_record(&mut self.record) {
            Ok(true) => Ok(Some(CsvRow { cells: &self.record, header: &self.header, file: &self.file })),
            Ok(false) => Ok(None),
            Err(e) => Err(damaged(&self.file, e)),
        }
    }
}

fn damaged(file: &str, e: csv::Error) -> Error {
    let what = e.to_string();
    match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::io(file, e),
        _ => Error::data(file, what),
    }
}

/// The place of a column in a header; one that is not there is an error, which names the one that is nearest.
pub fn place(header: &[String], file: &str, name: &str) -> Result<usize> {
    let what = || format!("no column \"{name}\"{}", suggest(name, header.iter().map(String::as_str)));
    header.iter().position(|h| h == name).ok_or_else(|| Error::data(file, what()))
}

impl<'r> CsvRow<'r> {
    /// A cell; empty where the row has none.
    pub fn cell(&self, column: usize) -> &'r str {
        self.cells.get(column).unwrap_or("")
    }

    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &'r str> {
        self.cells.iter()
    }

    /// Number of cells.
    pub fn width(&self) -> usize {
        self.cells.len()
    }

    /// The line in the file that the row begins in.
    pub fn line(&self) -> u64 {
        self.cells.position().map_or(0, csv::Position::line)
    }

    /// The byte of the file at which the reader began to look for the row.
    pub fn byte(&self) -> usize {
        self.cells.position().map_or(0, |p| p.byte() as usize)
    }

    /// An error of this row: file and line.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::data(format!("{}:{}", self.file, self.line()), what)
    }

    /// An error of a cell, which names its column.
    pub fn wrong(&self, column: usize, what: impl std::fmt::Display) -> Error {
        self.error(format!("{}: {what}", self.header.get(column).map_or("", String::as_str)))
    }

    /// A cell as a finite number.
    pub fn number(&self, column: usize) -> Result<f64> {
        number(self.cell(column)).map_err(|e| self.wrong(column, e))
    }

    /// A cell as a finite number; none where it is empty.
    pub fn known(&self, column: usize) -> Result<Option<f64>> {
        known(self.cell(column)).map_err(|e| self.wrong(column, e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_by_name_and_what_is_wrong_has_its_line() {
        let mut table = CsvReader::open("policy,us\nfull,10\nstarc,\nquest,x\n".as_bytes(), "t.csv").unwrap();
        let us = table.column("us").unwrap();
        assert_eq!(table.column("u").unwrap_err().to_string(), "t.csv: no column \"u\"; did you mean \"us\"?");
        let row = table.read().unwrap().unwrap();
        assert_eq!((row.cell(0), row.number(us).unwrap(), row.line()), ("full", 10.0, 2));
        let row = table.read().unwrap().unwrap();
        assert_eq!(row.known(us).unwrap(), None);
        assert_eq!(row.number(us).unwrap_err().to_string(), "t.csv:3: us: \"\" is not a number");
        let row = table.read().unwrap().unwrap();
        assert_eq!(row.known(us).unwrap_err().to_string(), "t.csv:4: us: \"x\" is not a number");
        assert!(table.read().unwrap().is_none());
    }

    #[test]
    fn rows_of_other_lengths_are_errors_unless_they_are_expected() {
        let text = "a,b\n1\n";
        assert!(CsvReader::open(text.as_bytes(), "t.csv").unwrap().read().is_err());
        let mut ragged = CsvReader::ragged(text.as_bytes(), "t.csv");
        assert_eq!(ragged.read().unwrap().unwrap().width(), 2);
        assert_eq!(ragged.read().unwrap().unwrap().width(), 1);
    }
}
