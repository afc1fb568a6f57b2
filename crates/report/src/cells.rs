//! A finished table in memory, whose cells can be named by file, line and column.

use pimattn_core::error::{Error, Result};
use pimattn_core::table::{CsvReader, Table, number, place};
use std::io::Read;

/// A table.
#[derive(Debug, Clone)]
pub struct Cells {
    name: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A row of a table.
#[derive(Clone, Copy)]
pub struct CellRow<'a> {
    table: &'a Cells,
    cells: &'a [String],
    index: usize,
}

impl<'a> CellRow<'a> {
    /// All cells.
    pub fn cells(&self) -> &'a [String] {
        self.cells
    }

    /// A cell.
    pub fn text(&self, column: &str) -> Result<&'a str> {
        Ok(self.cells[self.table.column(column)?].as_str())
    }

    /// A cell; none where it is empty, or the table has no such column.
    pub fn said(&self, column: &str) -> Option<&'a str> {
        let place = self.table.header.iter().position(|h| h == column)?;
        Some(self.cells[place].as_str()).filter(|cell| !cell.is_empty())
    }

    /// A cell as a number; none where it is empty, or the table has no such column.
    ///
    /// # Errors
    /// When the cell is no number: file and line.
    pub fn known(&self, column: &str) -> Result<Option<f64>> {
        self.said(column).map(|_| self.table.number(self.index, column)).transpose()
    }

    /// A cell as a number.
    ///
    /// # Errors
    /// When the column is not there, or the cell is no number: file and line.
    pub fn number(&self, column: &str) -> Result<f64> {
        self.table.number(self.index, column)
    }
}

/// Columns and the cells that are looked for.
pub type CellQuery<'a> = [(&'a str, &'a str)];

impl Cells {
    /// Reads CSV; `name` is the file's.
    pub fn read(input: impl Read, name: &str) -> Result<Self> {
        let (mut table, mut rows) = (CsvReader::open(input, name)?, Vec::new());
        while let Some(row) = table.read()? {
            rows.push(row.cells().map(String::from).collect());
        }
        Ok(Cells { name: name.into(), header: table.header().to_vec(), rows })
    }

    /// What the cells of a table of typed rows show.
    pub fn of<R: 'static>(table: &Table<R>) -> Self {
        let cells = |row| table.layout().values(row).iter().map(ToString::to_string).collect();
        Cells {
            name: table.name().into(),
            header: table.layout().columns().iter().map(|c| c.name.into()).collect(),
            rows: table.rows().iter().map(cells).collect(),
        }
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

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Whether there is a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.header.iter().any(|h| h == column)
    }

    /// The rows, from the first.
    pub fn rows(&self) -> impl Iterator<Item = CellRow<'_>> {
        self.rows.iter().enumerate().map(|(index, cells)| CellRow { table: self, cells, index })
    }

    fn column(&self, name: &str) -> Result<usize> {
        place(&self.header, &self.name, name)
    }

    /// A cell.
    pub fn cell(&self, row: usize, column: &str) -> Result<&str> {
        let i = self.column(column)?;
        Ok(self.rows.get(row).map_or("", |r| r[i].as_str()))
    }

    /// A cell as a number.
    pub fn number(&self, row: usize, column: &str) -> Result<f64> {
        number(self.cell(row, column)?)
            .map_err(|e| Error::data(format!("{}:{}", self.name, row + 2), format!("{column}: {e}")))
    }

    /// Rows with these cells.
    pub fn find(&self, wanted: &CellQuery<'_>) -> Result<Vec<usize>> {
        let columns = wanted.iter().map(|(c, v)| Ok((self.column(c)?, *v))).collect::<Result<Vec<_>>>()?;
        let fits = |row: &&Vec<String>| columns.iter().all(|(i, v)| row[*i] == *v);
        Ok(self.rows.iter().enumerate().filter(|(_, row)| fits(row)).map(|(i, _)| i).collect())
    }

    /// The one row with these cells.
    pub fn the(&self, wanted: &CellQuery<'_>) -> Result<usize> {
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
    }

    #[test]
    fn rows_give_what_they_have() {
        let t = Cells::read(TABLE.replace("starc,16000,2", "starc,16000,").as_bytes(), "t.csv").unwrap();
        let known: Vec<_> = t.rows().map(|r| r.known("us").ok()).collect();
        assert_eq!(known, [Some(Some(10.0)), Some(None), None]);
        assert!(t.rows().all(|r| r.known("joules").unwrap().is_none() && r.number("joules").is_err()));
        assert_eq!(t.rows().nth(1).unwrap().text("policy").unwrap(), "starc");
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
