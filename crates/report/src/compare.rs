//! Comparison of result tables: the library behind `pimsim compare`.
//!
//! A table is CSV with a header row, ours or foreign. BASE is compared with each OTHER on its own.
//!
//! # How rows are joined
//!
//! 1. The *key columns* are those that the caller names, else every column of both tables in [`KNOWN_KEYS`] that the
//!    caller does not ask to compare. Keys are equal when their text is, without surrounding blanks (`1` is not `1.0`).
//! 2. A key column (named or known) that has one value throughout BASE and one other value throughout OTHER is a
//!    *label*: it says what is compared with what, such as `policy: quest -> starc`. It is reported and takes no part
//!    in the join. So two runs of different policies join by step, and two tables of one row each always join.
//! 3. Two rows of one table with equal keys are an error. Rows without a partner are listed.
//!
//! # How cells are compared
//!
//! * A column is numeric when each of its cells in both tables is a number or empty; any other is text.
//! * An empty cell is unknown: it is skipped and counted as such.
//! * Numbers give the ratio other/base and the change in percent of |base|: positive is more, whatever the signs.
//!   Integers are subtracted exactly. If both are zero, the ratio is 1 and the change 0; if only the base is, or a
//!   result is not finite, both are empty and the cell is beyond every tolerance.
//! * Texts are equal or they differ; if they differ, the cell is beyond every tolerance. So it is for `nan` and `inf`,
//!   which equal only themselves.
//!
//! # Memory
//!
//! All tables are held at once, as text plus four bytes per cell and per row. Together the files may have at most
//! [`MAX_INPUT_BYTES`]. The memory is about twice their size for usual tables and eight times for the worst (cells of
//! one character or none). Nothing is stored per compared cell.

use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio;
use std::cmp::Ordering;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Columns that identify a row, unless the caller names others.
pub const KNOWN_KEYS: [&str; 19] = [
    "trace",
    "policy",
    "budget",
    "system",
    "step",
    "position",
    "request",
    "layer",
    "kv_head",
    "query_head",
    "channel",
    "phase",
    "model",
    "context",
    "timing",
    "refresh",
    "device",
    "preset",
    "energy_model",
];

/// Most bytes that the files of one comparison may have together.
pub const MAX_INPUT_BYTES: u64 = 512 << 20;

/// Columns of the long form behind the keys.
const LONG_FORM: [&str; 6] = ["file", "column", "base", "other", "ratio", "change_pct"];
/// Columns of the summary's table.
const SUMMARY: [&str; 8] = ["column", "rows", "differ", "unknown", "ratio of sums", "mean %", "min %", "max %"];
/// Examples that a message or a list gives before it only counts.
const EXAMPLES: usize = 5;
/// Longest text of a cell in a message, in characters.
const SHOWN_CHARS: usize = 60;
/// Most names of columns in a message.
const SHOWN_NAMES: usize = 20;
/// Percentage points forgiven for rounding where the tolerance is not zero: 1 to 1.1 is 10 %.
const ROUNDING_PCT: f64 = 1e-12;

/// What to join by and what to compare.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Key columns; empty: those of [`KNOWN_KEYS`] that the tables have.
    pub keys: Vec<String>,
    /// Columns to compare; empty: all that are not keys. If given, columns in one file only do not matter.
    pub columns: Vec<String>,
}

/// Compares the table in the file `base` with those in the files `others`.
pub fn compare_files(base: &Path, others: &[PathBuf], options: &Options) -> Result<Comparison> {
    let mut left = MAX_INPUT_BYTES;
    let base = Table::open(base, &mut left)?;
    let others = others.iter().map(|path| Table::open(path, &mut left)).collect::<Result<_>>()?;
    compare(base, others, options)
}

/// Compares the table `base` with each of `others`.
pub fn compare(base: Table, others: Vec<Table>, options: &Options) -> Result<Comparison> {
    if others.is_empty() {
        return Err(Error::Usage("compare needs a base table and at least one other".into()));
    }
    for table in std::iter::once(&base).chain(&others) {
        check_names(table, "--key", &options.keys)?;
        check_names(table, "--column", &options.columns)?;
    }
    if let Some(both) = options.keys.iter().find(|k| options.columns.contains(k)) {
        return Err(Error::Usage(format!("\"{both}\" is both --key and --column")));
    }
    let pairs = others.into_iter().map(|other| Pair::new(&base, other, options)).collect::<Result<_>>()?;
    Ok(Comparison { base, pairs })
}

fn check_names(table: &Table, option: &str, names: &[String]) -> Result<()> {
    match names.iter().find(|name| table.column(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let hint = suggest(name, table.header.iter().map(String::as_str));
            Err(Error::Usage(format!("{option}: {} has no column \"{name}\"{hint}", table.name)))
        }
    }
}

/// A CSV table in memory.
#[derive(Debug)]
pub struct Table {
    name: String,
    header: Vec<String>,
    /// The cells' texts, row by row, without separators.
    text: String,
    /// Where each cell ends in `text`.
    ends: Vec<u32>,
    /// The line in the file at which each row starts.
    lines: Vec<u32>,
}

impl Table {
    /// Reads the file at `path` and takes its size off `bytes_left`, at most [`MAX_INPUT_BYTES`] at the start.
    pub fn open(path: &Path, bytes_left: &mut u64) -> Result<Table> {
        let file = fsio::open(path)?;
        Table::read(&path.display().to_string(), file, bytes_left)
    }

    /// Reads a table from `input`, called `name` in messages, and takes its size off `bytes_left`.
    pub fn read(name: &str, input: impl Read, bytes_left: &mut u64) -> Result<Table> {
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
        Table::parse(name, &raw)
    }

    fn parse(name: &str, raw: &[u8]) -> Result<Table> {
        let mut table = Table { name: name.into(), header: vec![], text: String::new(), ends: vec![], lines: vec![] };
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(raw);
        let mut record = csv::StringRecord::new();
        let (mut last_line, mut last_byte) = (1, 0);
        while reader.read_record(&mut record).map_err(|e| Error::data(name, format!("not CSV: {e}")))? {
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

    fn set_header(&mut self, record: &csv::StringRecord, line: u64) -> Result<()> {
        let header: Vec<String> = record.iter().map(|name| name.trim().to_string()).collect();
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

    fn push(&mut self, record: &csv::StringRecord, line: u64) -> Result<()> {
        let (want, have) = (self.header.len(), record.len());
        if have != want {
            return Err(self.damaged(line, format!("{} here, but {want} in the header", count(have, "cell"))));
        }
        for cell in record {
            self.text.push_str(cell.trim());
            self.ends.push(self.text.len() as u32); // fits: MAX_INPUT_BYTES is below 2^32
        }
        self.lines.push(line as u32); // fits: no more lines than bytes
        Ok(())
    }

    fn damaged(&self, line: u64, what: impl Into<String>) -> Error {
        Error::data(format!("{}:{line}", self.name), what)
    }

    fn rows(&self) -> u32 {
        self.lines.len() as u32
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|h| h == name)
    }

    fn cell(&self, row: u32, column: usize) -> &str {
        let i = row as usize * self.header.len() + column;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }

    fn cells_of(&self, column: usize) -> impl Iterator<Item = &str> {
        (0..self.rows()).map(move |row| self.cell(row, column))
    }

    fn is_numeric(&self, column: usize) -> bool {
        self.cells_of(column).all(|cell| cell.is_empty() || number(cell).is_some())
    }

    /// The value of every cell of a column, if they have only one.
    fn constant(&self, column: usize) -> Option<&str> {
        let mut cells = self.cells_of(column);
        let first = cells.next()?;
        cells.all(|cell| cell == first).then_some(first)
    }

    fn compare_keys(&self, row: u32, columns: &[usize], to: (&Table, u32, &[usize])) -> Ordering {
        let (other, other_row, other_columns) = to;
        let here = columns.iter().map(|&c| self.cell(row, c));
        here.cmp(other_columns.iter().map(|&c| other.cell(other_row, c)))
    }

    /// `step=3 layer=0 (line 12)`
    fn describe(&self, row: u32, columns: &[usize]) -> String {
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
fn start_of(record: &csv::StringRecord, raw: &[u8]) -> (u64, usize) {
    let (line, byte) = record.position().map_or((1, 0), |p| (p.line(), p.byte() as usize));
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

/// A column in both tables.
#[derive(Debug, Clone, Copy)]
struct Shared {
    base: usize,
    other: usize,
    numeric: bool,
}

/// What joins BASE to one OTHER.
#[derive(Debug)]
struct Pair {
    other: Table,
    /// Key columns in BASE, and the same in OTHER.
    base_keys: Vec<usize>,
    other_keys: Vec<usize>,
    /// Key columns that only tell the tables apart.
    labels: Vec<Shared>,
    columns: Vec<Shared>,
    /// Rows of BASE with their partners in OTHER.
    joined: Vec<(u32, u32)>,
    base_rows: Vec<u32>,
    other_rows: Vec<u32>,
    base_columns: Vec<String>,
    other_columns: Vec<String>,
}

impl Pair {
    fn new(base: &Table, other: Table, options: &Options) -> Result<Pair> {
        let mut pair = Pair {
            base_columns: only_in(base, &other, options),
            other_columns: only_in(&other, base, options),
            other,
            base_keys: vec![],
            other_keys: vec![],
            labels: vec![],
            columns: vec![],
            joined: vec![],
            base_rows: vec![],
            other_rows: vec![],
        };
        pair.sort_columns(base, options);
        pair.need_keys(base)?;
        pair.join(base)?;
        Ok(pair)
    }

    /// Decides for each column of both tables whether it is a label, a key, compared or ignored.
    fn sort_columns(&mut self, base: &Table, options: &Options) {
        for (b, name) in base.header.iter().enumerate() {
            let Some(o) = self.other.column(name) else { continue };
            let shared = |numeric| Shared { base: b, other: o, numeric };
            let named = options.keys.contains(name);
            let asked = options.columns.contains(name);
            let known = KNOWN_KEYS.contains(&name.as_str()) && !asked;
            if (named || known) && is_label(base.constant(b), self.other.constant(o)) {
                self.labels.push(shared(false));
            } else if named || (known && options.keys.is_empty()) {
                self.base_keys.push(b);
                self.other_keys.push(o);
            } else if asked || options.columns.is_empty() {
                self.columns.push(shared(base.is_numeric(b) && self.other.is_numeric(o)));
            }
        }
    }

    fn need_keys(&self, base: &Table) -> Result<()> {
        let keyed = !self.base_keys.is_empty() || !self.labels.is_empty();
        if keyed || (base.rows() <= 1 && self.other.rows() <= 1) {
            return Ok(());
        }
        let mut header: Vec<String> = base.header.iter().take(SHOWN_NAMES).map(|name| shown(name)).collect();
        if base.header.len() > SHOWN_NAMES {
            header.push("…".into());
        }
        Err(Error::Usage(format!(
            "{} and {} have no known key column in common; name the columns that identify a row with --key ({} has {})",
            base.name,
            self.other.name,
            base.name,
            header.join(", ")
        )))
    }

    fn join(&mut self, base: &Table) -> Result<()> {
        let base_labels: Vec<usize> = self.labels.iter().map(|l| l.base).collect();
        let other_labels: Vec<usize> = self.labels.iter().map(|l| l.other).collect();
        sorted_by_keys(base, &self.base_keys, &base_labels)?;
        let sorted = sorted_by_keys(&self.other, &self.other_keys, &other_labels)?;
        let mut has_partner = vec![false; sorted.len()];
        for row in 0..base.rows() {
            let to = (base, row, self.base_keys.as_slice());
            match sorted.binary_search_by(|&o| self.other.compare_keys(o, &self.other_keys, to)) {
                Ok(at) => {
                    self.joined.push((row, sorted[at]));
                    has_partner[sorted[at] as usize] = true;
                }
                Err(_) => self.base_rows.push(row),
            }
        }
        self.other_rows = (0..self.other.rows()).filter(|&row| !has_partner[row as usize]).collect();
        Ok(())
    }

    /// The compared cell of a joined row; none where one of the two is unknown.
    fn cell<'a>(&'a self, base: &'a Table, (row, other_row): (u32, u32), column: Shared) -> Option<Cell<'a>> {
        let (b, o) = (base.cell(row, column.base), self.other.cell(other_row, column.other));
        if b.is_empty() || o.is_empty() {
            return None;
        }
        let delta = if column.numeric { Delta::of_numbers(b, o) } else { Delta::of_texts(b, o) };
        Some(Cell { row, column, base: b, other: o, delta })
    }

    fn cells<'a>(&'a self, base: &'a Table) -> impl Iterator<Item = Cell<'a>> {
        self.joined.iter().flat_map(move |&rows| self.columns.iter().filter_map(move |&c| self.cell(base, rows, c)))
    }

    fn tally(&self, base: &Table, column: Shared) -> Tally {
        let mut tally = Tally::default();
        self.joined.iter().for_each(|&rows| tally.add(self.cell(base, rows, column)));
        tally
    }
}

/// Columns of `table` that `than` lacks, unless the caller named the columns of interest.
fn only_in(table: &Table, than: &Table, options: &Options) -> Vec<String> {
    let lacks = |name: &&String| options.columns.is_empty() && than.column(name).is_none();
    table.header.iter().filter(lacks).cloned().collect()
}

fn is_label(base: Option<&str>, other: Option<&str>) -> bool {
    matches!((base, other), (Some(b), Some(o)) if b != o)
}

/// The rows of a table in the order of their keys, which must differ. The labels are for the message.
fn sorted_by_keys(table: &Table, keys: &[usize], labels: &[usize]) -> Result<Vec<u32>> {
    let order = |a: &u32, b: &u32| table.compare_keys(*a, keys, (table, *b, keys));
    let mut rows: Vec<u32> = (0..table.rows()).collect();
    rows.sort_by(order);
    let twice = rows.windows(2).filter(|w| order(&w[0], &w[1]).is_eq()).min_by_key(|w| w[1]);
    let Some(&[first, second]) = twice else { return Ok(rows) };
    let (line, columns) = (table.lines[first as usize], [keys, labels].concat());
    let what = format!("same key as line {line}: {}; add a column with --key", table.describe(second, &columns));
    Err(table.damaged(table.lines[second as usize].into(), what))
}

/// One compared cell.
#[derive(Debug, Clone, Copy)]
struct Cell<'a> {
    row: u32,
    column: Shared,
    base: &'a str,
    other: &'a str,
    delta: Delta,
}

/// How far two cells are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Delta {
    same: bool,
    ratio: Option<f64>,
    change_pct: Option<f64>,
}

impl Delta {
    fn of_texts(base: &str, other: &str) -> Delta {
        Delta { same: base == other, ratio: None, change_pct: None }
    }

    fn of_numbers(base: &str, other: &str) -> Delta {
        let (Some(b), Some(o)) = (number(base), number(other)) else { return Delta::of_texts(base, other) };
        if !b.is_finite() || !o.is_finite() {
            return Delta { same: b == o || (b.is_nan() && o.is_nan()), ratio: None, change_pct: None };
        }
        let difference = exact_difference(base, other).unwrap_or(o - b);
        let change_pct = match (b == 0.0, o == 0.0) {
            (true, true) => Some(0.0),
            _ => finite(difference / b.abs() * 100.0),
        };
        Delta { same: difference == 0.0, ratio: ratio(b, o), change_pct }
    }

    fn is_beyond(&self, tolerance_pct: f64) -> bool {
        let allowed = if tolerance_pct > 0.0 { tolerance_pct + ROUNDING_PCT } else { 0.0 };
        self.change_pct.map_or(!self.same, |change| change.abs() > allowed)
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn ratio(base: f64, other: f64) -> Option<f64> {
    if base == 0.0 && other == 0.0 { Some(1.0) } else { finite(other / base) }
}

/// The difference of two integers, also of those that a float cannot hold.
fn exact_difference(base: &str, other: &str) -> Option<f64> {
    let (b, o) = (base.parse::<i128>().ok()?, other.parse::<i128>().ok()?);
    o.checked_sub(b).map(|d| d as f64)
}

/// What the summary says of a column.
#[derive(Debug, Default)]
struct Tally {
    rows: usize,
    differ: usize,
    unknown: usize,
    base_sum: f64,
    other_sum: f64,
    changes: usize,
    change_sum: f64,
    min: Option<f64>,
    max: Option<f64>,
}

impl Tally {
    fn add(&mut self, cell: Option<Cell>) {
        let Some(cell) = cell else {
            self.unknown += 1;
            return;
        };
        self.rows += 1;
        self.differ += usize::from(!cell.delta.same);
        if cell.column.numeric {
            let finite_pair = number(cell.base).and_then(finite).zip(number(cell.other).and_then(finite));
            let (b, o) = finite_pair.unwrap_or_default();
            self.base_sum += b;
            self.other_sum += o;
        }
        if let Some(change) = cell.delta.change_pct {
            self.changes += 1;
            self.change_sum += change;
            self.min = Some(self.min.map_or(change, |m| m.min(change)));
            self.max = Some(self.max.map_or(change, |m| m.max(change)));
        }
    }

    fn line(&self, name: &str, numeric: bool) -> Vec<String> {
        let ratio = if numeric && self.rows > 0 { ratio(self.base_sum, self.other_sum) } else { None };
        let mean = finite(self.change_sum / self.changes as f64);
        let dash = |text: String| if text.is_empty() { "-".to_string() } else { text };
        let name = if numeric { shown(name) } else { format!("{} (text)", shown(name)) };
        let mut line = vec![name, self.rows.to_string(), self.differ.to_string(), self.unknown.to_string()];
        line.push(dash(digits(ratio)));
        line.extend([mean, self.min, self.max].map(|change| dash(signed(change))));
        line
    }
}

/// BASE joined with each OTHER.
#[derive(Debug)]
pub struct Comparison {
    base: Table,
    pairs: Vec<Pair>,
}

impl Comparison {
    /// Writes the compared cells as CSV in long form: the keys, then `file,column,base,other,ratio,change_pct`.
    ///
    /// The order is that of the files, BASE's rows and BASE's columns. `base` and `other` are as in the files. A text
    /// that is equal in both gets no line. A key that is a label for one OTHER and not for another has BASE's value;
    /// a key called like one of the six gets `key_` in front.
    pub fn write_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let keys = self.all_keys();
        let mut writer = csv::Writer::from_writer(out);
        let names = keys.iter().map(|&k| key_header(&self.base.header[k]));
        writer.write_record(names.chain(LONG_FORM.map(String::from)))?;
        for pair in &self.pairs {
            for cell in pair.cells(&self.base).filter(|c| c.column.numeric || !c.delta.same) {
                let (ratio, change) = (digits(cell.delta.ratio), digits(cell.delta.change_pct));
                let name = &self.base.header[cell.column.base];
                let values = [&pair.other.name, name.as_str(), cell.base, cell.other, &ratio, &change];
                writer.write_record(keys.iter().map(|&k| self.base.cell(cell.row, k)).chain(values))?;
            }
        }
        writer.flush()
    }

    /// Writes the summary for people: per OTHER the labels, what is in one file only, and a line per column.
    pub fn write_summary(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "base: {} ({})", self.base.name, count(self.base.lines.len(), "row"))?;
        for pair in &self.pairs {
            writeln!(out)?;
            self.write_heading(pair, out)?;
            self.write_one_sided(pair, out)?;
            self.write_tallies(pair, out)?;
        }
        out.flush()
    }

    /// Fails with [`Error::Check`] if a cell is more than `tolerance_pct` percent away, if a row or a column is in one
    /// file only, or if an OTHER has no cell to compare; names the first few cells.
    pub fn check(&self, tolerance_pct: f64) -> Result<()> {
        if !tolerance_pct.is_finite() || tolerance_pct < 0.0 {
            return Err(Error::Usage(format!("--tolerance: {tolerance_pct} is not a percentage of 0 or more")));
        }
        let failures: Vec<String> = self.pairs.iter().filter_map(|p| self.failure(p, tolerance_pct)).collect();
        if failures.is_empty() { Ok(()) } else { Err(Error::Check(failures.join("\n"))) }
    }

    fn failure(&self, pair: &Pair, tolerance_pct: f64) -> Option<String> {
        let (mut all, mut beyond, mut examples) = (0, 0, String::new());
        for cell in pair.cells(&self.base) {
            all += 1;
            if cell.delta.is_beyond(tolerance_pct) {
                beyond += 1;
                if beyond <= EXAMPLES {
                    examples += &format!("\n  {}", self.describe(pair, &cell));
                }
            }
        }
        if beyond > EXAMPLES {
            examples += &format!("\n  and {} more", beyond - EXAMPLES);
        }
        let mut reasons = vec![];
        if beyond > 0 {
            reasons.push(format!("{beyond} of {} beyond {tolerance_pct} %", count(all, "cell")));
        }
        reasons.extend(self.one_sided(pair));
        if all == 0 {
            reasons.push("no cell is known in both files".to_string());
        }
        let heading = || format!("{} against {}: {}", pair.other.name, self.base.name, reasons.join("; "));
        (!reasons.is_empty()).then(|| heading() + &examples)
    }

    /// `step=3 (line 5): cycles 100 -> 105 (+5 %)`
    fn describe(&self, pair: &Pair, cell: &Cell) -> String {
        let change = cell.delta.change_pct.map_or(String::new(), |c| format!(" ({} %)", signed(Some(c))));
        let row = self.base.describe(cell.row, &pair.base_keys);
        let column = shown(&self.base.header[cell.column.base]);
        format!("{row}: {column} {} -> {}{change}", shown(cell.base), shown(cell.other))
    }

    /// Columns of BASE that are keys of at least one join.
    fn all_keys(&self) -> Vec<usize> {
        (0..self.base.header.len()).filter(|k| self.pairs.iter().any(|p| p.base_keys.contains(k))).collect()
    }

    fn write_heading(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        let keys: Vec<String> = pair.base_keys.iter().map(|&k| shown(&self.base.header[k])).collect();
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        let rows = count(pair.other.lines.len(), "row");
        writeln!(out, "other: {} ({rows}, {} joined{by})", pair.other.name, pair.joined.len())?;
        for label in &pair.labels {
            let [b, o] = [self.base.cell(0, label.base), pair.other.cell(0, label.other)].map(shown);
            writeln!(out, "  {}: {b} -> {o}", shown(&self.base.header[label.base]))?;
        }
        Ok(())
    }

    fn write_one_sided(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        self.one_sided(pair).iter().try_for_each(|line| writeln!(out, "  {line}"))
    }

    /// What is in one file only, one line for each kind.
    fn one_sided(&self, pair: &Pair) -> Vec<String> {
        let rows = |table: &Table, keys: &[usize], rows: &[u32]| {
            one_sided_line(&table.name, "row", rows.len(), rows.iter().map(|&row| table.describe(row, keys)))
        };
        let columns = |table: &Table, names: &[String]| {
            one_sided_line(&table.name, "column", names.len(), names.iter().map(|name| shown(name)))
        };
        let lines = [
            rows(&self.base, &pair.base_keys, &pair.base_rows),
            rows(&pair.other, &pair.other_keys, &pair.other_rows),
            columns(&self.base, &pair.base_columns),
            columns(&pair.other, &pair.other_columns),
        ];
        lines.into_iter().flatten().collect()
    }

    fn write_tallies(&self, pair: &Pair, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = vec![SUMMARY.map(String::from).to_vec()];
        for &column in &pair.columns {
            let tally = pair.tally(&self.base, column);
            if column.numeric || tally.differ > 0 {
                lines.push(tally.line(&self.base.header[column.base], column.numeric));
            }
        }
        write_aligned(&lines, out)
    }
}

/// `2 rows only in a.csv: step=3 (line 5), step=4 (line 6)`
fn one_sided_line(file: &str, what: &str, n: usize, all: impl Iterator<Item = String>) -> Option<String> {
    let examples: Vec<String> = all.take(EXAMPLES).collect();
    let more = if n > EXAMPLES { format!(" and {} more", n - EXAMPLES) } else { String::new() };
    (n > 0).then(|| format!("{} only in {file}: {}{more}", count(n, what), examples.join(", ")))
}

/// Writes lines of equally many cells, the first to the left and the others to the right of their columns.
fn write_aligned(lines: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |c: usize| lines.iter().filter_map(|l| l.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
            match c {
                0 => write!(out, "  {cell:<width$}")?,
                _ => write!(out, "  {cell:>width$}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn key_header(name: &str) -> String {
    if LONG_FORM.contains(&name) { format!("key_{name}") } else { name.to_string() }
}

/// `1 row`, `2 rows`
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A text of a file as a message can show it: short and without control characters.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == SHOWN_CHARS => return out + "…",
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Six significant digits without trailing zeros; empty if there is no number.
fn digits(x: Option<f64>) -> String {
    let Some(x) = x else { return String::new() };
    let scientific = format!("{x:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        _ if x == 0.0 => "0".to_string(),
        Ok(e) if (-5..=9).contains(&e) => without_zeros(&format!("{x:.*}", (5 - e).max(0) as usize)).to_string(),
        _ => format!("{}e{exponent}", without_zeros(mantissa)),
    }
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Like [`digits`], with a plus sign if positive.
fn signed(x: Option<f64>) -> String {
    let sign = if x.is_some_and(|x| x > 0.0) { "+" } else { "" };
    format!("{sign}{}", digits(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &[u8]) -> Result<Table> {
        let mut bytes_left = MAX_INPUT_BYTES;
        Table::read(name, text, &mut bytes_left)
    }

    fn run_with(base: &str, others: &[&str], keys: &[&str], columns: &[&str]) -> Result<Comparison> {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        let options = Options { keys: owned(keys), columns: owned(columns) };
        let tables = others.iter().enumerate().map(|(i, text)| read(&format!("o{i}.csv"), text.as_bytes()));
        compare(read("b.csv", base.as_bytes())?, tables.collect::<Result<_>>()?, &options)
    }

    fn run(base: &str, other: &str) -> Comparison {
        run_with(base, &[other], &[], &[]).unwrap()
    }

    fn long_form(comparison: &Comparison) -> String {
        let mut out = vec![];
        comparison.write_csv(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn summary(comparison: &Comparison) -> String {
        let mut out = vec![];
        comparison.write_summary(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Result<T>, code: u8) -> String {
        let error = result.unwrap_err();
        let kind = match &error {
            Error::Check(_) => 1,
            Error::Usage(_) => 2,
            Error::Data { .. } => 65,
            Error::NoInput(_) => 66,
            other => panic!("{other}"),
        };
        assert_eq!(kind, code, "{error}");
        error.to_string()
    }

    #[test]
    fn joins_by_known_keys_in_the_order_of_the_base() {
        let c =
            run("step,layer,cycles,energy\n1,0,100,2\n0,0,50,4\n", "energy,layer,step,cycles\n4,0,0,75\n1,0,1,110\n");
        let want = "step,layer,file,column,base,other,ratio,change_pct\n\
                    1,0,o0.csv,cycles,100,110,1.1,10\n1,0,o0.csv,energy,2,1,0.5,-50\n\
                    0,0,o0.csv,cycles,50,75,1.5,50\n0,0,o0.csv,energy,4,4,1,0\n";
        assert_eq!(long_form(&c), want);
    }

    #[test]
    fn a_constant_key_that_differs_is_a_label() {
        let c = run("policy,step,x\nquest,0,1\nquest,1,1\n", "policy,step,x\nstarc,0,2\nstarc,1,3\n");
        assert!(long_form(&c).starts_with("step,file,"));
        assert!(summary(&c).contains("other: o0.csv (2 rows, 2 joined by step)\n  policy: quest -> starc\n"));
        message(c.check(99.0), 1);
        c.check(200.0).unwrap();
    }

    #[test]
    fn a_key_that_varies_in_one_table_joins() {
        let c = run("policy,step,x\nquest,0,1\n", "policy,step,x\nquest,0,1\nstarc,0,2\n");
        assert_eq!(long_form(&c).lines().count(), 2);
        assert!(message(c.check(0.0), 1).contains("1 row only in o0.csv: policy=starc step=0 (line 3)"));
    }

    #[test]
    fn single_rows_join_whatever_their_keys() {
        let c = run("trace,step,x\na,0,1\n", "trace,step,x\nb,7,1\n");
        assert_eq!(long_form(&c), "file,column,base,other,ratio,change_pct\no0.csv,x,1,1,1,0\n");
        run("x\n1\n", "x\n1\n").check(0.0).unwrap();
    }

    #[test]
    fn named_keys_replace_the_known_ones_and_labels_stay_labels() {
        let (base, other) = ("trace,id,step,x\na,p,0,1\na,q,0,2\n", "trace,id,step,x\nb,q,0,2\nb,p,0,1\n");
        let c = run_with(base, &[other], &["id"], &[]).unwrap();
        c.check(0.0).unwrap();
        assert!(long_form(&c).starts_with("id,file,"));
        assert!(long_form(&c).contains("p,o0.csv,step,0,0,1,0\n"));
        assert!(summary(&c).contains("trace: a -> b"));
    }

    #[test]
    fn named_columns_are_the_only_ones() {
        let (base, other) = ("step,x,y,z\n0,1,1,1\n1,1,1,1\n", "step,x,y\n0,1,5\n1,1,5\n");
        let c = run_with(base, &[other], &[], &["x"]).unwrap();
        c.check(0.0).unwrap();
        assert!(!long_form(&c).contains(",y,"));
        let c = run_with("step,layer\n0,1\n1,1\n", &["step,layer\n0,2\n1,2\n"], &[], &["layer"]).unwrap();
        assert!(long_form(&c).contains("0,o0.csv,layer,1,2,2,100\n"));
    }

    #[test]
    fn unknown_or_contradictory_names_are_usage_errors() {
        let (base, other) = ("step,cycles\n0,1\n", "step,cycles\n0,1\n");
        let run = |keys: &[&str], columns: &[&str]| message(run_with(base, &[other], keys, columns), 2);
        assert_eq!(run(&["stp"], &[]), "--key: b.csv has no column \"stp\"; did you mean \"step\"?");
        assert!(run(&[], &["cycle"]).starts_with("--column: b.csv has no column \"cycle\""));
        assert!(run(&["step"], &["step"]).contains("both --key and --column"));
        message(run_with(base, &[], &[], &[]), 2);
        let only_base = run_with("step,cycles,z\n0,1,1\n", &[other], &[], &["z"]);
        assert!(message(only_base, 2).contains("o0.csv has no column \"z\""));
    }

    #[test]
    fn equal_keys_in_one_file_are_an_error_with_both_lines() {
        let (good, twice) = ("step,x\n0,1\n1,1\n", "step,x\n0,1\n1,1\n0,2\n0,3\n");
        let want = "same key as line 2: step=0 (line 4)";
        assert!(message(run_with(good, &[twice], &[], &[]), 65).starts_with(&format!("o0.csv:4: {want}")));
        assert!(message(run_with(twice, &[good], &[], &[]), 65).starts_with(&format!("b.csv:4: {want}")));
    }

    #[test]
    fn tables_of_many_rows_need_a_key() {
        let error = run_with("id,x\n0,1\n1,1\n", &["id,x\n0,1\n1,1\n"], &[], &[]);
        assert!(message(error, 2).contains("with --key (b.csv has id, x)"));
    }

    #[test]
    fn unknown_cells_are_skipped_and_counted() {
        let c = run("step,x\n0,\n1,4\n2,5\n", "step,x\n0,3\n1,\n2,5\n");
        c.check(0.0).unwrap();
        assert_eq!(long_form(&c).lines().count(), 2);
        let text = summary(&c);
        let x: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(x, ["x", "1", "0", "2", "1", "0", "0", "0"]);
    }

    #[test]
    fn a_check_of_nothing_fails() {
        assert!(message(run("step,x\n0,\n", "step,x\n0,1\n").check(5.0), 1).contains("no cell is known in both"));
        message(run("step,x\n", "step,x\n").check(5.0), 1);
    }

    #[test]
    fn a_zero_base_has_a_ratio_only_to_zero() {
        let c = run("step,x\n0,0\n1,0.0\n", "step,x\n0,0\n1,3\n");
        assert!(long_form(&c).ends_with("0,o0.csv,x,0,0,1,0\n1,o0.csv,x,0.0,3,,\n"));
        assert!(message(c.check(1e300), 1).contains("1 of 2 cells beyond"));
    }

    #[test]
    fn odd_numbers() {
        let delta = |b, o| Delta::of_numbers(b, o);
        assert_eq!(delta("-2", "-1"), Delta { same: false, ratio: Some(0.5), change_pct: Some(50.0) });
        assert!(delta("nan", "NaN").same && delta("inf", "inf").same && !delta("1", "nan").same);
        assert!(delta("1", "inf").is_beyond(1e300) && !delta("nan", "nan").is_beyond(0.0));
        assert!(delta("5e-324", "1e300").is_beyond(1e300));
        assert!(delta("9007199254740992", "9007199254740993").is_beyond(0.0));
        assert!(!delta("1.0", "1.00").is_beyond(0.0));
    }

    #[test]
    fn the_tolerance_is_inclusive() {
        assert!(!Delta::of_numbers("1.0", "1.1").is_beyond(10.0));
        assert!(!Delta::of_numbers("100", "99").is_beyond(1.0));
        assert!(Delta::of_numbers("100", "98.9").is_beyond(1.0));
    }

    #[test]
    fn texts_that_differ_are_beyond_every_tolerance() {
        let c = run("step,kind,unit\n0,a,s\n1,7,s\n", "step,kind,unit\n0,a,s\n1,8,s\n");
        assert_eq!(long_form(&c).lines().skip(1).collect::<Vec<_>>(), ["1,o0.csv,kind,7,8,,"]);
        assert!(message(c.check(1e9), 1).contains("step=1 (line 3): kind 7 -> 8"));
        assert!(summary(&c).contains("kind (text)") && !summary(&c).contains("unit"));
    }

    #[test]
    fn rows_and_columns_in_one_file_fail_the_check() {
        let c = run("step,x,y\n0,1,1\n1,1,1\n2,1,1\n", "step,x,z\n0,1,1\n2,1,1\n5,1,1\n");
        let text = message(c.check(0.0), 1);
        for want in ["b.csv: step=1 (line 3)", "o0.csv: step=5 (line 4)", "only in b.csv: y", "only in o0.csv: z"] {
            assert!(text.contains(want) && summary(&c).contains(want), "{want}");
        }
    }

    #[test]
    fn the_check_names_the_first_cells_and_counts_all() {
        let table = |x: u32| (0..8).fold("step,x\n".to_string(), |text, step| text + &format!("{step},{x}\n"));
        let text = message(run(&table(100), &table(105)).check(1.5), 1);
        assert!(text.starts_with("o0.csv against b.csv: 8 of 8 cells beyond 1.5 %\n"));
        assert!(text.contains("\n  step=0 (line 2): x 100 -> 105 (+5 %)\n") && text.ends_with("\n  and 3 more"));
    }

    #[test]
    fn the_tolerance_is_a_percentage() {
        let c = run("step,x\n0,1\n", "step,x\n0,1\n");
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            message(c.check(bad), 2);
        }
    }

    #[test]
    fn several_others_share_one_long_form() {
        let base = "policy,step,x\nq,0,1\nq,1,1\n";
        let others = ["policy,step,x\ns,0,2\ns,1,2\n", "policy,step,x\nq,1,3\n"];
        let text = long_form(&run_with(base, &others, &[], &[]).unwrap());
        assert!(text.starts_with("policy,step,file,"));
        assert!(text.ends_with("q,1,o0.csv,x,1,2,2,100\nq,1,o1.csv,x,1,3,3,200\n"));
    }

    #[test]
    fn a_key_may_be_called_like_a_column_of_the_long_form() {
        let c = run_with("file,x\na,1\nb,1\n", &["file,x\na,1\nb,1\n"], &["file"], &[]).unwrap();
        assert!(long_form(&c).starts_with("key_file,file,column,"));
    }

    #[test]
    fn the_summary_is_aligned() {
        let c = run("step,cycles\n0,100\n1,300\n", "step,cycles\n0,150\n1,150\n");
        let want = "base: b.csv (2 rows)\n\nother: o0.csv (2 rows, 2 joined by step)\n  \
            column  rows  differ  unknown  ratio of sums  mean %  min %  max %\n  \
            cycles     2       2        0           0.75       0    -50    +50\n";
        assert_eq!(summary(&c), want);
    }

    #[test]
    fn damaged_files_are_named_with_the_line() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "b.csv:1: empty"),
            (b"\n\n", "b.csv:1: empty"),
            (b"1,2\n3,4\n", "b.csv:1: no header"),
            (b"a,b,a\n", "b.csv:1: two columns are called \"a\""),
            (b"a,b\n1,2\n3\n", "b.csv:3: 1 cell here, but 2 in the header"),
            (b"a,b\r\n1,2\r\n\r\n3,4,5\r\n", "b.csv:4: 3 cells here"),
            (b"a,b\n1,\xff\n", "b.csv:2: not UTF-8"),
            (b"a,b\n1,\0\n", "b.csv:2: not CSV: a zero byte"),
            (b"a,b\n1,2\n1,\"2\n3,4\n", "b.csv:3: not CSV: a quote"),
        ];
        for (text, want) in cases {
            let error = message(read("b.csv", text), 65);
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn accepts_quotes_blanks_and_a_byte_order_mark() {
        let table = read("b.csv", b"\xef\xbb\xbf\"a\", b\n\"x \"\"y\"\",\n z\",1 \n5\",\"\"").unwrap();
        assert_eq!(table.header, ["a", "b"]);
        assert_eq!([table.cell(0, 0), table.cell(0, 1), table.cell(1, 0)], ["x \"y\",\n z", "1", "5\""]);
        assert_eq!(table.lines, [2, 4]);
    }

    #[test]
    fn missing_and_too_large_files() {
        let path = tempfile::tempdir().unwrap().path().join("none.csv");
        message(compare_files(&path, &[], &Options::default()), 66);
        assert!(message(Table::read("b.csv", &b"a,b\n"[..], &mut 3), 65).contains("too large"));
        let mut left = 10;
        Table::read("b.csv", &b"a,b\n"[..], &mut left).unwrap();
        assert_eq!(left, 6);
    }

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (1.0, "1"),
            (-0.0, "0"),
            (2.0 / 3.0, "0.666667"),
            (123456.7, "123457"),
            (-12.5, "-12.5"),
            (100.0, "100"),
            (1.5e12, "1.5e12"),
            (1e-9, "1e-9"),
        ];
        for (x, want) in cases {
            assert_eq!(digits(Some(x)), want);
        }
        assert_eq!([signed(Some(2.0)), signed(Some(-2.0)), digits(None)], ["+2", "-2", ""]);
    }

    #[test]
    fn control_characters_and_long_texts_are_tamed() {
        assert_eq!(shown("a\x1b[2J"), "a\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), SHOWN_CHARS + 1);
    }
}
