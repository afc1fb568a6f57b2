//! Tables with documented columns, as CSV.

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
    /// A number, with this many decimals.
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
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(n) => write!(f, "{n}"),
            Value::Float(x, decimals) => write!(f, "{x:.decimals$}"),
            Value::Text(t) => f.write_str(t),
            Value::Unknown => Ok(()),
        }
    }
}

/// Writes rows under a header line.
pub struct Writer<W: Write> {
    csv: csv::Writer<W>,
    columns: usize,
    name: String,
}

impl<W: Write> Writer<W> {
    /// Writes the header line. `name` is for errors.
    pub fn new(out: W, name: &str, columns: &[Column]) -> Result<Self> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(columns.iter().map(|c| c.name)).map_err(|e| write_error(name, e))?;
        Ok(Writer { csv, columns: columns.len(), name: name.into() })
    }

    /// Writes a row, one value per column.
    pub fn row(&mut self, values: &[Value]) -> Result<()> {
        debug_assert_eq!(values.len(), self.columns);
        self.csv.write_record(values.iter().map(ToString::to_string)).map_err(|e| write_error(&self.name, e))
    }

    /// Completes the table.
    pub fn finish(self) -> Result<W> {
        let name = self.name;
        self.csv.into_inner().map_err(|e| Error::Io { path: name.into(), source: e.into_error() })
    }
}

fn write_error(name: &str, e: csv::Error) -> Error {
    let source = match e.into_kind() {
        csv::ErrorKind::Io(e) => e,
        other => std::io::Error::other(format!("{other:?}")),
    };
    Error::Io { path: name.into(), source }
}
