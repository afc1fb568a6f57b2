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

/// Writes rows under a header line. The line comes with the first row, or at the end: of what fails before there is a
/// row, nothing is written.
pub struct Writer<W: Write> {
    csv: csv::Writer<W>,
    columns: Vec<&'static str>,
    begun: bool,
    name: String,
}

impl<W: Write> Writer<W> {
    /// A table of these columns. `name` is for errors.
    pub fn new(out: W, name: &str, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|c| c.name).collect();
        Writer { csv: csv::Writer::from_writer(out), columns, begun: false, name: name.into() }
    }

    fn begin(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.begun, true) {
            true => Ok(()),
            false => self.csv.write_record(&self.columns).map_err(|e| write_error(&self.name, e)),
        }
    }

    /// Writes a row, one value per column.
    pub fn row(&mut self, values: &[Value]) -> Result<()> {
        debug_assert_eq!(values.len(), self.columns.len());
        self.begin()?;
        self.csv.write_record(values.iter().map(ToString::to_string)).map_err(|e| write_error(&self.name, e))
    }

    /// Completes the table.
    pub fn finish(mut self) -> Result<W> {
        self.begin()?;
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
