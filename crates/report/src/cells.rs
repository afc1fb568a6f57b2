//! A finished table in memory, whose cells can be named by file, line and column.

use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::table::{Column, Value};
use std::io::Read;

/// A table.
#[derive(Debug, Clone)]
pub struct Cells {
    name: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Columns and the cells that are looked for.
pub type Wanted<'a> = [(&'a str, &'a str)];

impl Cells {
    /// Reads CSV; `name` is the file's.
    pub fn read(input: impl Read, name: &str) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(input);
        let bad = |e: csv::Error| Error::data(name, e.to_string());
        let header = csv.headers().map_err(bad)?.iter().map(String::from).collect();
        let row = |record: csv::StringRecord| record.iter().map(String::from).collect();
        let rows = csv.records().map(|r| r.map(row)).collect::<Result<_, _>>().map_err(bad)?;
        Ok(Cells { name: name.into(), header, rows })
    }

    /// A table of these rows.
    pub fn of(name: &str, columns: &[Column], rows: &[Vec<Value>]) -> Self {
        Cells {
            name: name.into(),
            header: columns.iter().map(|c| c.name.into()).collect(),
            rows: rows.iter().map(|r| r.iter().map(ToString::to_string).collect()).collect(),
        }
    }

    /// The table as CSV.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let bad = |e: csv::Error| Error::data(&self.name, e.to_string());
        csv.write_record(&self.header).map_err(bad)?;
        self.rows.iter().try_for_each(|row| csv.write_record(row)).map_err(bad)?;
        csv.into_inner().map_err(|e| Error::data(&self.name, e.to_string()))
    }

    /// Name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn column(&self, name: &str) -> Result<usize> {
        let hint = || suggest(name, self.header.iter().map(String::as_str));
        let found = self.header.iter().position(|h| h == name);
        found.ok_or_else(|| Error::data(&self.name, format!("no column \"{name}\"{}", hint())))
    }

    /// A cell.
    pub fn cell(&self, row: usize, column: &str) -> Result<&str> {
        let i = self.column(column)?;
        Ok(self.rows.get(row).map_or("", |r| r[i].as_str()))
    }

    /// A cell as a number.
    pub fn number(&self, row: usize, column: &str) -> Result<f64> {
        super::sheet::number(self.cell(row, column)?)
            .map_err(|e| Error::data(format!("{}:{}", self.name, row + 2), format!("{column}: {e}")))
    }

    /// Rows with these cells.
    pub fn find(&self, wanted: &Wanted<'_>) -> Result<Vec<usize>> {
        let columns = wanted.iter().map(|(c, v)| Ok((self.column(c)?, *v))).collect::<Result<Vec<_>>>()?;
        let fits = |row: &&Vec<String>| columns.iter().all(|(i, v)| row[*i] == *v);
        Ok(self.rows.iter().enumerate().filter(|(_, row)| fits(row)).map(|(i, _)| i).collect())
    }

    /// The one row with these cells.
    pub fn the(&self, wanted: &Wanted<'_>) -> Result<usize> {
        match self.find(wanted)?.as_slice() {
            [row] => Ok(*row),
            found => {
                let said: Vec<String> = wanted.iter().map(|(c, v)| format!("{c}={v}")).collect();
                Err(Error::data(&self.name, format!("{} rows with {}, one is expected", found.len(), said.join(" "))))
            }
        }
    }

    /// Different cells of a column, in the order in which they come.
    pub fn distinct(&self, column: &str) -> Result<Vec<&str>> {
        let i = self.column(column)?;
        let mut out: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !out.contains(&row[i].as_str()) {
                out.push(&row[i]);
            }
        }
        Ok(out)
    }

    /// Where a cell is: file, line, column.
    pub fn cite(&self, row: usize, column: &str) -> String {
        format!("{}:{} {column}", self.name, row + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "policy,context,us\nfull,16000,10\nstarc,16000,2\nstarc,32000,x\n";

    #[test]
    fn cells_are_found_and_named() {
        let t = Cells::read(TABLE.as_bytes(), "t.csv").unwrap();
        let row = t.the(&[("policy", "starc"), ("context", "16000")]).unwrap();
        assert_eq!((t.number(row, "us").unwrap(), t.cite(row, "us")), (2.0, "t.csv:3 us".to_string()));
        assert_eq!(t.distinct("policy").unwrap(), ["full", "starc"]);
        assert_eq!(t.csv().unwrap(), TABLE.as_bytes());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let t = Cells::read(TABLE.as_bytes(), "t.csv").unwrap();
        let text = |e: Error| e.to_string();
        assert_eq!(text(t.number(2, "us").unwrap_err()), "t.csv:4: us: \"x\" is not a number");
        assert!(text(t.the(&[("policy", "starc")]).unwrap_err()).contains("2 rows with policy=starc"));
        assert!(text(t.cell(0, "polcy").unwrap_err()).contains("did you mean \"policy\""));
    }
}
