//! Columns together with where their values come from.

use super::{Column, CsvWriter, TableSink, Value};
use crate::error::{Error, Result};
use std::io::Write;

/// A column of a table whose rows are of type `R`, and how its value comes of a row.
pub struct Measure<R: ?Sized> {
    /// Name, unit, meaning.
    pub column: Column,
    source: ValueSource<R>,
}

enum ValueSource<R: ?Sized> {
    /// Of the row.
    Row(fn(&R) -> Value),
    /// Of the row's list, at this place.
    Item(fn(&R, usize) -> Value, usize),
}

// By hand: deriving would ask the row to be `Copy`.
impl<R: ?Sized> Clone for ValueSource<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ?Sized> Copy for ValueSource<R> {}

impl<R: ?Sized> Clone for Measure<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ?Sized> Copy for Measure<R> {}

/// A measure of a row.
pub const fn measure<R: ?Sized>(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    value: fn(&R) -> Value,
) -> Measure<R> {
    Measure { column: Column { name, unit, meaning }, source: ValueSource::Row(value) }
}

/// A measure of the `index`-th item of a list that a row has.
pub const fn item<R: ?Sized>(column: Column, index: usize, value: fn(&R, usize) -> Value) -> Measure<R> {
    Measure { column, source: ValueSource::Item(value, index) }
}

/// Measures of a row, each a constant by its own name and all of them a list.
///
/// ```
/// use pimattn_core::{measures, table::TableLayout};
///
/// struct Row {
///     hits: u64,
/// }
///
/// measures! {
///     /// All that is told of a row.
///     pub ALL of Row {
///         HITS = "hits", "1", "requests that found their row open", |r| r.hits.into();
///     }
/// }
///
/// assert_eq!(HITS.name(), "hits");
/// assert_eq!(TableLayout::of(ALL).values(&Row { hits: 3 })[0].to_string(), "3");
/// ```
#[macro_export]
macro_rules! measures {
    ($(#[$doc:meta])* $vis:vis $list:ident of $row:ty {
        $($name:ident = $text:expr, $unit:literal, $meaning:literal, $value:expr;)+
    }) => {
        $(
            #[doc = $meaning]
            $vis const $name: $crate::table::Measure<$row> = $crate::table::measure($text, $unit, $meaning, $value);
        )+
        $(#[$doc])*
        $vis const $list: &[$crate::table::Measure<$row>] = &[$($name),+];
    };
}

impl<R: ?Sized> Measure<R> {
    /// The column's name.
    pub const fn name(&self) -> &'static str {
        self.column.name
    }

    /// The number that its cell shows in a row; none where that shows none.
    pub fn number(&self, row: &R) -> Option<f64> {
        self.value(row).number()
    }

    /// Its value in a row.
    pub fn value(&self, row: &R) -> Value {
        match self.source {
            ValueSource::Row(value) => value(row),
            ValueSource::Item(value, index) => value(row, index),
        }
    }
}

/// The columns of measures.
pub fn columns_of<R: ?Sized>(measures: &[Measure<R>]) -> Vec<Column> {
    measures.iter().map(|m| m.column).collect()
}

/// How many measures some lists have together.
pub const fn length<R: ?Sized>(lists: &[&[Measure<R>]]) -> usize {
    let (mut sum, mut i) = (0, 0);
    while i < lists.len() {
        sum += lists[i].len();
        i += 1;
    }
    sum
}

/// Lists of measures as one, in their order. `N` is their [`length`]; where it is not, the program does not compile.
pub const fn joined<R: ?Sized, const N: usize>(lists: &[&[Measure<R>]]) -> [Measure<R>; N] {
    assert!(length(lists) == N, "as many places as measures");
    let mut out = [lists[0][0]; N];
    let (mut at, mut i) = (0, 0);
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            out[at] = lists[i][j];
            at += 1;
            j += 1;
        }
        i += 1;
    }
    out
}

/// Gives a cell of a row.
type CellFn<R> = Box<dyn Fn(&R) -> Value + Send + Sync>;

/// The columns of a table of rows `R` in order: measures of the row, and of the parts that it has.
pub struct TableLayout<R> {
    columns: Vec<Column>,
    cells: Vec<CellFn<R>>,
}

impl<R: 'static> TableLayout<R> {
    /// Measures of the row itself.
    pub fn of(measures: &'static [Measure<R>]) -> Self {
        TableLayout { columns: Vec::new(), cells: Vec::new() }.with(|row| row, measures)
    }

    /// Behind those that are there, measures of a part of the row.
    pub fn with<P: ?Sized + 'static>(mut self, part: fn(&R) -> &P, measures: &'static [Measure<P>]) -> Self {
        for measure in measures {
            self.columns.push(measure.column);
            self.cells.push(Box::new(move |row| measure.value(part(row))));
        }
        self
    }

    /// Behind those that are there, the columns of a part of the row that has a layout of its own.
    pub fn within<P: 'static>(mut self, part: fn(&R) -> &P, layout: TableLayout<P>) -> Self {
        for (column, cell) in layout.columns.into_iter().zip(layout.cells) {
            self.columns.push(column);
            self.cells.push(Box::new(move |row| cell(part(row))));
        }
        self
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The cells of a row.
    pub fn values(&self, row: &R) -> Vec<Value> {
        self.cells.iter().map(|cell| cell(row)).collect()
    }
}

/// Typed rows on their way to a table.
pub struct TypedRows<S, R> {
    sink: S,
    layout: TableLayout<R>,
}

/// Typed rows on their way to CSV.
pub type TypedWriter<W, R> = TypedRows<CsvWriter<W>, R>;

impl<W: Write, R: 'static> TypedWriter<W, R> {
    /// A table of this layout as CSV. `name` is for errors.
    pub fn new(out: W, name: &str, layout: TableLayout<R>) -> Self {
        TypedRows { sink: CsvWriter::new(out, name, layout.columns()), layout }
    }
}

impl<S: TableSink, R: 'static> TypedRows<S, R> {
    /// A table of this layout in the sink that `open` gives for its columns.
    ///
    /// # Errors
    /// What `open` says, such as a file that cannot be made.
    pub fn open(layout: TableLayout<R>, open: impl FnOnce(&[Column]) -> Result<S>) -> Result<Self> {
        Ok(TypedRows { sink: open(layout.columns())?, layout })
    }

    /// Hands the cells of a row to the sink.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn row(&mut self, row: &R) -> Result<()> {
        self.sink.row(&self.layout.values(row))
    }

    /// Completes the table.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(self) -> Result<S::Done> {
        self.sink.finish()
    }
}

/// A finished table of typed rows.
pub struct Table<R> {
    name: &'static str,
    layout: TableLayout<R>,
    rows: Vec<R>,
}

impl<R: 'static> Table<R> {
    /// Of these rows; `name` is the file's.
    pub fn new(name: &'static str, layout: TableLayout<R>, rows: Vec<R>) -> Self {
        Table { name, layout, rows }
    }

    /// Name of the file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The columns.
    pub fn layout(&self) -> &TableLayout<R> {
        &self.layout
    }

    /// The rows.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// The number that a row shows of a part of it. What is derived from a table is derived of what stands there, so that
    /// a reader can check it.
    ///
    /// # Errors
    /// When the cell shows no number.
    pub fn number<P: ?Sized>(&self, row: usize, part: fn(&R) -> &P, measure: &Measure<P>) -> Result<f64> {
        let value = self.rows.get(row).map_or(Value::Unknown, |row| measure.value(part(row)));
        // The header is line 1.
        let wrong = || {
            Error::data(
                format!("{}:{}", self.name, row + 2),
                format!("{}: \"{value}\" is not a number", measure.name()),
            )
        };
        value.number().ok_or_else(wrong)
    }

    /// The table as CSV.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut out = CsvWriter::new(Vec::new(), self.name, self.layout.columns());
        self.rows.iter().try_for_each(|row| out.row(&self.layout.values(row)))?;
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        name: &'static str,
        counts: [u64; 2],
        size: Size,
    }

    struct Size {
        bytes: f64,
    }

    const NAME: &[Measure<Pair>] = &[measure("name", "-", "name", |p| p.name.into())];
    const COUNTS: &[Measure<Pair>] = &[
        item(Column { name: "first", unit: "1", meaning: "first" }, 0, |p, i| p.counts[i].into()),
        item(Column { name: "second", unit: "1", meaning: "second" }, 1, |p, i| p.counts[i].into()),
    ];
    const SIZE: &[Measure<Size>] = &[measure("bytes", "B", "size", |s| Value::Float(s.bytes, 2))];
    const LISTS: &[&[Measure<Pair>]] = &[NAME, COUNTS];
    const ALL: &[Measure<Pair>] = &joined::<_, { length(LISTS) }>(LISTS);

    #[test]
    fn cells_stand_below_the_columns_that_they_are_declared_with() {
        let layout = TableLayout::of(ALL).with(|p| &p.size, SIZE);
        let mut out = TypedWriter::new(Vec::new(), "t", layout);
        out.row(&Pair { name: "a", counts: [1, 2], size: Size { bytes: 0.126 } }).unwrap();
        assert_eq!(String::from_utf8(out.finish().unwrap()).unwrap(), "name,first,second,bytes\na,1,2,0.13\n");
    }

    #[test]
    fn a_line_of_csv_has_quotes_where_they_are_needed() {
        assert_eq!(super::super::line(&["a,b", "c\"d", "e", ""]), "\"a,b\",\"c\"\"d\",e,");
    }

    #[test]
    fn a_value_gives_the_number_that_its_cell_shows() {
        assert_eq!(Value::Float(0.126, 2).number(), Some(0.13));
        assert_eq!(Value::Int(7).number(), Some(7.0));
        assert_eq!([Value::Float(f64::NAN, 2).number(), Value::Unknown.number(), Value::from("7").number()], [None; 3]);
    }
}
