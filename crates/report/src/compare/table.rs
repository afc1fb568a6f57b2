//! A CSV table in memory, checked: what is damaged is an error with its line.

use super::MAX_INPUT_BYTES;
use super::delta::number;
use super::format::{count, shown};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::{CsvReader, CsvRow};
use std::cmp::Ordering;
use std::io::Read;
use std::path::Path;

/// A CSV table in memory.
#[derive(Debug)]
pub struct TextTable {
    pub(super) name: String,
    pub(super) header: Vec<String>,
    /// The cells' texts, row by row, without separators.
    pub(super) text: String,
    /// Where each cell ends in `text`.
    pub(super) ends: Vec<u32>,
    /// The line in the file at which each row starts.
    pub(super) lines: Vec<u32>,
}

impl TextTable {
    /// Reads the file at `path` and takes its size off `bytes_left`, at most [`MAX_INPUT_BYTES`] at the start.
    pub fn open(path: &Path, bytes_left: &mut u64) -> Result<TextTable> {
        let file = fsio::open(path)?;
        TextTable::read(&path.display().to_string(), file, bytes_left)
    }

    /// Reads a table from `input`, called `name` in messages, and takes its size off `bytes_left`.
    pub fn read(name: &str, input: impl Read, bytes_left: &mut u64) -> Result<TextTable> {
        let limit = (*bytes_left).min(MAX_INPUT_BYTES);
        let mut raw = Vec::new();
        input.take(limit + 1).read_to_end(&mut raw).map_err(|e| Error::io(name, e))?;
        let size = raw.len() as u64;
        if size > limit {
            let most = MAX_INPUT_BYTES >> 20;
            return Err(Error::data(name, format!("too large: the tables of a comparison may have {most} MiB in all")));
        }
        *bytes_left -= size;
        check_text(name, &raw)?;
        TextTable::parse(name, &raw)
    }

    fn parse(name: &str, raw: &[u8]) -> Result<TextTable> {
        let mut table =
            TextTable { name: name.into(), header: vec![], text: String::new(), ends: vec![], lines: vec![] };
        let mut reader = CsvReader::ragged(raw, name);
        let (mut last_line, mut last_byte) = (1, 0);
        while let Some(record) = reader.read()? {
            (last_line, last_byte) = start_of(&record, raw);
            match table.header.is_empty() {
                true => table.set_header(&record, last_line)?,
                false => table.push(&record, last_line)?,
            }
        }
        if table.header.is_empty() {
            return Err(table.damaged(1, "empty; expected a CSV table with a header row"));
        }
        if ends_inside_quotes(raw.get(last_byte..).unwrap_or_default()) {
            return Err(table.damaged(last_line, "not CSV: a quote in this row is never closed"));
        }
        Ok(table)
    }

    fn set_header(&mut self, record: &CsvRow<'_>, line: u64) -> Result<()> {
        let header: Vec<String> = record.cells().map(|name| name.trim().to_string()).collect();
        if header.iter().all(|name| name.is_empty() || number(name).is_some()) {
            return Err(self.damaged(line, "no header: expected the names of the columns, found only numbers"));
        }
        let twice = header.iter().enumerate().find(|(i, name)| header[..*i].contains(name));
        if let Some((_, name)) = twice {
            return Err(self.damaged(line, format!("two columns are called \"{}\"", shown(name))));
        }
        self.header = header;
        Ok(())
    }

    fn push(&mut self, record: &CsvRow<'_>, line: u64) -> Result<()> {
        let (want, have) = (self.header.len(), record.width());
        if have != want {
            return Err(self.damaged(line, format!("{} here, but {want} in the header", count(have, "cell"))));
        }
        for cell in record.cells() {
            self.text.push_str(cell.trim());
            self.ends.push(self.text.len() as u32); // fits: MAX_INPUT_BYTES is below 2^32
        }
        self.lines.push(line as u32); // fits: no more lines than bytes
        Ok(())
    }

    pub(super) fn damaged(&self, line: u64, what: impl Into<String>) -> Error {
        Error::data(format!("{}:{line}", self.name), what)
    }

    pub(super) fn rows(&self) -> u32 {
        self.lines.len() as u32
    }

    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|h| h == name)
    }

    pub(super) fn cell(&self, row: u32, column: usize) -> &str {
        let i = row as usize * self.header.len() + column;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }

    fn cells_of(&self, column: usize) -> impl Iterator<Item = &str> {
        (0..self.rows()).map(move |row| self.cell(row, column))
    }

    pub(super) fn is_numeric(&self, column: usize) -> bool {
        self.cells_of(column).all(|cell| cell.is_empty() || number(cell).is_some())
    }

    /// The value of every cell of a column, if they have only one.
    pub(super) fn constant(&self, column: usize) -> Option<&str> {
        let mut cells = self.cells_of(column);
        let first = cells.next()?;
        cells.all(|cell| cell == first).then_some(first)
    }

    pub(super) fn compare_keys(&self, row: u32, columns: &[usize], to: (&TextTable, u32, &[usize])) -> Ordering {
        let (other, other_row, other_columns) = to;
        let here = columns.iter().map(|&c| self.cell(row, c));
        here.cmp(other_columns.iter().map(|&c| other.cell(other_row, c)))
    }

    /// `step=3 layer=0 (line 12)`
    pub(super) fn describe(&self, row: u32, columns: &[usize]) -> String {
        let keys: Vec<_> =
            columns.iter().map(|&c| format!("{}={}", shown(&self.header[c]), shown(self.cell(row, c)))).collect();
        let line = self.lines[row as usize];
        if keys.is_empty() { format!("line {line}") } else { format!("{} (line {line})", keys.join(" ")) }
    }
}

/// The input must be text in UTF-8.
fn check_text(name: &str, raw: &[u8]) -> Result<()> {
    let at_line = |byte: usize| format!("{name}:{}", 1 + raw[..byte].iter().filter(|b| **b == b'\n').count());
    if let Err(e) = std::str::from_utf8(raw) {
        return Err(Error::data(at_line(e.valid_up_to()), "not UTF-8; expected a CSV table"));
    }
    match raw.iter().position(|b| *b == 0) {
        Some(byte) => Err(Error::data(at_line(byte), "not CSV: a zero byte")),
        None => Ok(()),
    }
}

/// Line and byte at which a record starts. The reader's own position is before the line ends that it skips.
fn start_of(record: &CsvRow<'_>, raw: &[u8]) -> (u64, usize) {
    let (line, byte) = (record.line(), record.byte());
    let rest = raw.get(byte..).unwrap_or_default();
    let skipped = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
    let (bytes, lines) = skipped.fold((0, 0), |(bytes, lines), b| (bytes + 1, lines + u64::from(*b == b'\n')));
    (line + lines, byte + bytes)
}

/// Whether a quoted cell is still open at the end of `raw`, which starts with a record.
fn ends_inside_quotes(raw: &[u8]) -> bool {
    let (mut inside, mut may_open) = (false, true);
    for &b in raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw) {
        if b == b'"' && (inside || may_open) {
            inside = !inside;
            may_open = true; // the second of a doubled quote opens again
        } else {
            may_open = matches!(b, b',' | b'\r' | b'\n');
        }
    }
    inside
}
