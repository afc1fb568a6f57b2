//! Tables with documented columns: typed rows inside the process, CSV at its border.
//!
//! A [`Measure`] is declared once: name, unit, meaning, and how its value comes of a row. A [`TableLayout`] is the measures of
//! a table in order; it makes the header, the documentation and the cells of each row, so that they cannot come apart.

mod frame;
mod measure;
mod reader;

pub use frame::{ColumnFrame, FrameCells, FrameColumn};
pub use measure::{Measure, Table, TableLayout, TypedRows, TypedWriter, columns_of, item, joined, length, measure};
pub use reader::{CsvReader, CsvRow, known, number, place};

use crate::error::{Error, Result};
use std::io::Write;

/// A column of a table: its name, its unit, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name in the header line.
    pub name: &'static str,
    /// Unit; "1" for ratios, "-" for names.
    pub unit: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// A column; short, for lists of them.
pub const fn column(name: &'static str, unit: &'static str, meaning: &'static str) -> Column {
    Column { name, unit, meaning }
}

/// Columns as a Markdown table.
pub fn markdown(columns: &[Column]) -> String {
    let mut out = String::from("\n| column | unit | meaning |\n|-|-|-|\n");
    for c in columns {
        out.push_str(&format!("| {} | {} | {} |\n", c.name, c.unit, c.meaning.replace('|', "\\|")));
    }
    out
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(u64),
    /// A number, with this many decimals; one that is not finite has no meaning, and its cell is empty.
    Float(f64, usize),
    /// A name.
    Text(String),
    /// Not known, or without meaning here.
    Unknown,
}

impl Value {
    /// `a / b` with six decimals; unknown when b is 0.
    pub fn ratio(a: f64, b: f64) -> Value {
        if b == 0.0 { Value::Unknown } else { Value::Float(a / b, 6) }
    }

    /// The number that the cell shows, rounded as it is there; none where it shows none.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x, _) if x.is_finite() => self.to_string().parse().ok(),
            _ => None,
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Int(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Value {
        Value::Int(n.into())
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::Int(n as u64)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Unknown, T::into)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(n) => write!(f, "{n}"),
            Value::Float(x, _) if !x.is_finite() => Ok(()),
            Value::Float(x, decimals) => write!(f, "{x:.decimals$}"),
            Value::Text(t) => f.write_str(t),
            Value::Unknown => Ok(()),
        }
    }
}

/// Where the rows of a table go.
pub trait TableSink {
    /// What the finished table is.
    type Done;
    /// Takes a row, one value per column.
    ///
    /// # Errors
    /// When it cannot be written.
    fn row(&mut self, values: &[Value]) -> Result<()>;
    /// Ends the table: what it was written to, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(self) -> Result<Self::Done>;
}

/// Writes rows under a header line. The line comes with the first row, or at the end: of what fails before there is a
/// row, nothing is written.
pub struct CsvWriter<W: Write> {
    csv: csv::Writer<W>,
    columns: Vec<&'static str>,
    begun: bool,
    name: String,
}

impl<W: Write> CsvWriter<W> {
    /// A table of these columns. `name` is for errors.
    pub fn new(out: W, name: &str, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|c| c.name).collect();
        CsvWriter { csv: csv::Writer::from_writer(out), columns, begun: false, name: name.into() }
    }

    fn begin(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.begun, true) {
            true => Ok(()),
            false => self.csv.write_record(&self.columns).map_err(|e| write_error(&self.name, e)),
        }
    }
}

impl<W: Write> TableSink for CsvWriter<W> {
    type Done = W;

    fn row(&mut self, values: &[Value]) -> Result<()> {
        debug_assert_eq!(values.len(), self.columns.len());
        self.begin()?;
        self.csv.write_record(values.iter().map(ToString::to_string)).map_err(|e| write_error(&self.name, e))
    }

    fn finish(mut self) -> Result<W> {
        self.begin()?;
        let name = self.name;
        self.csv.into_inner().map_err(|e| Error::Io { path: name.into(), source: e.into_error() })
    }
}

/// Cells as a line of CSV, without its end.
pub fn line<C: AsRef<str>>(cells: &[C]) -> String {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(cells.iter().map(|c| c.as_ref().as_bytes())).expect("one record has no other to differ from");
    let bytes = csv.into_inner().expect("memory takes all that is written");
    let mut line = String::from_utf8(bytes).expect("cells are text");
    line.pop();
    line
}

fn write_error(name: &str, e: csv::Error) -> Error {
    let source = match e.into_kind() {
        csv::ErrorKind::Io(e) => e,
        other => std::io::Error::other(format!("{other:?}")),
    };
    Error::Io { path: name.into(), source }
}
