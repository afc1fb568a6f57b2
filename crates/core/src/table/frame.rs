//! Tables in memory, column by column, for whoever wants arrays rather than text.

use super::{Column, TableSink, Value, line};
use crate::error::Result;

/// A table column by column. Its numbers are those that its CSV would show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnFrame {
    columns: Vec<FrameColumn>,
    rows: usize,
}

/// A column of a [`ColumnFrame`].
#[derive(Debug, Clone, PartialEq)]
pub struct FrameColumn {
    /// Name of the column, as in the header line of CSV.
    pub name: String,
    /// Unit; "1" for ratios, "-" for names.
    pub unit: &'static str,
    /// What the column means, for its documentation.
    pub meaning: &'static str,
    /// Its cells, as many as the table has rows.
    pub cells: FrameCells,
}

/// The cells of a column; none where one is empty.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameCells {
    /// No row has a value yet.
    Empty(usize),
    /// Whole numbers, such as cycles.
    Int(Vec<Option<u64>>),
    /// Numbers, and the decimals with which CSV shows them.
    Float(Vec<Option<f64>>, usize),
    /// Names, such as policies.
    Text(Vec<Option<String>>),
}

impl ColumnFrame {
    /// An empty table of these columns.
    pub fn new(columns: &[Column]) -> Self {
        ColumnFrame::with(columns.iter().map(FrameColumn::of).collect())
    }

    /// An empty table of these columns, whose names may be made up while the program runs.
    ///
    /// # Panics
    /// When a column has cells.
    pub fn with(columns: Vec<FrameColumn>) -> Self {
        assert!(columns.iter().all(|column| column.cells == FrameCells::Empty(0)), "a new table has no rows");
        ColumnFrame { columns, rows: 0 }
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[FrameColumn] {
        &self.columns
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&FrameColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A row, one value per column.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Vec<Value> {
        self.columns.iter().map(|column| column.cells.value(row)).collect()
    }

    /// These rows, in this order.
    ///
    /// # Panics
    /// When one of them does not exist.
    pub fn choose(&self, rows: &[usize]) -> ColumnFrame {
        let empty = |c: &FrameColumn| FrameColumn { cells: FrameCells::Empty(0), ..c.clone() };
        let mut chosen = ColumnFrame::with(self.columns.iter().map(empty).collect());
        rows.iter().for_each(|row| chosen.push(&self.row(*row)));
        chosen
    }

    /// The table as CSV, as the programs write it.
    pub fn csv(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let rows = (0..self.rows).map(|row| line(&self.row(row).iter().map(Value::to_string).collect::<Vec<_>>()));
        std::iter::once(line(&names)).chain(rows).flat_map(|line| [line, "\n".into()]).collect()
    }

    /// Adds a row, one value per column.
    pub fn push(&mut self, values: &[Value]) {
        debug_assert_eq!(values.len(), self.columns.len());
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.cells.push(value);
        }
        self.rows += 1;
    }
}

impl FrameColumn {
    /// A column without cells.
    pub fn of(column: &Column) -> Self {
        let Column { name, unit, meaning } = *column;
        FrameColumn { name: name.into(), unit, meaning, cells: FrameCells::Empty(0) }
    }

    /// A column without cells that a configuration names.
    pub fn named(name: String) -> Self {
        FrameColumn { name, unit: "-", meaning: "as the configuration says it", cells: FrameCells::Empty(0) }
    }
}

impl TableSink for ColumnFrame {
    type Done = ColumnFrame;

    fn row(&mut self, values: &[Value]) -> Result<()> {
        self.push(values);
        Ok(())
    }

    fn finish(self) -> Result<ColumnFrame> {
        Ok(self)
    }
}

impl FrameCells {
    /// A cell as a value; none where it is empty.
    pub fn value(&self, row: usize) -> Value {
        let value = match self {
            FrameCells::Empty(_) => None,
            FrameCells::Int(cells) => cells[row].map(Value::Int),
            FrameCells::Float(cells, decimals) => cells[row].map(|x| Value::Float(x, *decimals)),
            FrameCells::Text(cells) => cells[row].clone().map(Value::Text),
        };
        value.unwrap_or(Value::Unknown)
    }

    /// Adds a value. Numbers of both kinds are a column of numbers; beside a name, all are names.
    fn push(&mut self, value: &Value) {
        let shown = || Some(value.to_string()).filter(|text| !text.is_empty());
        match (&mut *self, value) {
            (FrameCells::Int(cells), Value::Int(n)) => cells.push(Some(*n)),
            (FrameCells::Int(cells), Value::Unknown) => cells.push(None),
            (FrameCells::Float(cells, decimals), Value::Float(_, n)) => {
                cells.push(value.number());
                *decimals = (*decimals).max(*n);
            }
            (FrameCells::Float(cells, _), Value::Int(_) | Value::Unknown) => cells.push(value.number()),
            (FrameCells::Text(cells), _) => cells.push(shown()),
            (FrameCells::Empty(rows), Value::Unknown) => *rows += 1,
            _ => {
                *self = std::mem::replace(self, FrameCells::Empty(0)).widened(value);
                self.push(value);
            }
        }
    }

    /// The same cells in a kind that has room for a value, too.
    fn widened(self, value: &Value) -> FrameCells {
        match (self, value) {
            (FrameCells::Empty(rows), Value::Int(_)) => FrameCells::Int(vec![None; rows]),
            (FrameCells::Empty(rows), Value::Float(_, n)) => FrameCells::Float(vec![None; rows], *n),
            (FrameCells::Empty(rows), _) => FrameCells::Text(vec![None; rows]),
            (FrameCells::Int(cells), Value::Float(_, n)) => {
                FrameCells::Float(cells.into_iter().map(|n| n.map(|n| n as f64)).collect(), *n)
            }
            (FrameCells::Int(cells), _) => {
                FrameCells::Text(cells.into_iter().map(|n| n.map(|n| n.to_string())).collect())
            }
            (FrameCells::Float(cells, n), _) => {
                FrameCells::Text(cells.into_iter().map(|x| x.map(|x| format!("{x:.n$}"))).collect())
            }
            (FrameCells::Text(cells), _) => FrameCells::Text(cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::column;
    use super::*;

    #[test]
    fn cells_are_of_the_narrowest_kind_that_holds_them() {
        let mut frame = ColumnFrame::new(&[
            column("n", "1", ""),
            column("x", "ns", ""),
            column("name", "-", ""),
            column("e", "1", ""),
        ]);
        let rows = [
            [Value::Unknown, Value::Int(2), Value::Int(7), Value::Unknown],
            [Value::Int(3), Value::Float(1.23456, 2), Value::Text("a".into()), Value::Unknown],
            [Value::Unknown, Value::Float(f64::NAN, 2), Value::Unknown, Value::Unknown],
        ];
        rows.iter().for_each(|row| frame.push(row));
        let cells: Vec<_> = frame.columns().iter().map(|column| &column.cells).collect();
        assert_eq!(cells[0], &FrameCells::Int(vec![None, Some(3), None]));
        assert_eq!(cells[1], &FrameCells::Float(vec![Some(2.0), Some(1.23), None], 2));
        assert_eq!(cells[2], &FrameCells::Text(vec![Some("7".into()), Some("a".into()), None]));
        assert_eq!(cells[3], &FrameCells::Empty(3));
        assert_eq!(frame.csv(), "n,x,name,e\n,2.00,7,\n3,1.23,a,\n,,,\n");
        assert_eq!(frame.choose(&[1]).csv(), "n,x,name,e\n3,1.23,a,\n");
        assert_eq!((frame.rows(), frame.column("x").map(|c| c.unit)), (3, Some("ns")));
    }
}
