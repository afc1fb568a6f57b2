//! A table of results: columns as arrays.

use crate::arrow;
use crate::errors::raised;
use numpy::PyArray1;
use pimattn::core::error::suggest;
use pimattn::core::fsio::AtomicFile;
use pimattn::core::table::{Column, ColumnFrame, FrameCells, FrameColumn, Value};
use pimattn::report::frontier::Frontier;
use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList, PyTuple};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows that a notebook shows.
const SHOWN: usize = 20;

/// A table of results, column by column.
#[pyclass(name = "Table", module = "pimattn", frozen)]
pub struct PyTable {
    /// Its name, as that of the file without its ending.
    name: String,
    frame: Arc<ColumnFrame>,
}

impl PyTable {
    pub fn new(name: &str, frame: ColumnFrame) -> Self {
        PyTable { name: name.into(), frame: Arc::new(frame) }
    }

    fn column(&self, name: &str) -> PyResult<&FrameColumn> {
        let known = || self.frame.columns().iter().map(|column| column.name.as_str());
        let missing = || PyKeyError::new_err(format!("no column \"{name}\"{}", suggest(name, known())));
        self.frame.column(name).ok_or_else(missing)
    }
}

#[pymethods]
impl PyTable {
    /// Names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.frame.columns().iter().map(|column| column.name.clone()).collect()
    }

    /// Units of the columns by name: "1" for ratios and counts, "-" for names.
    #[getter]
    fn units<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        self.frame.columns().iter().try_for_each(|column| out.set_item(&column.name, column.unit))?;
        Ok(out)
    }

    /// What the columns mean, by name.
    #[getter]
    fn meanings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        self.frame.columns().iter().try_for_each(|column| out.set_item(&column.name, column.meaning))?;
        Ok(out)
    }

    /// Rows and columns.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.frame.rows(), self.frame.columns().len())
    }

    fn __len__(&self) -> usize {
        self.frame.rows()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.frame.column(name).is_some()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyList::new(py, self.columns())?.try_iter()?.into_any())
    }

    /// A column as an array: int64, float64 (NaN where a cell is empty), or objects (None likewise).
    fn __getitem__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        Ok(match &self.column(name)?.cells {
            FrameCells::Empty(rows) => PyArray1::from_vec(py, vec![f64::NAN; *rows]).into_any(),
            FrameCells::Int(cells) => match cells.iter().map(|n| n.map(|n| n as i64)).collect::<Option<Vec<_>>>() {
                Some(whole) => PyArray1::from_vec(py, whole).into_any(),
                None => PyArray1::from_iter(py, cells.iter().map(|n| n.map_or(f64::NAN, |n| n as f64))).into_any(),
            },
            FrameCells::Float(cells, _) => {
                PyArray1::from_iter(py, cells.iter().map(|x| x.unwrap_or(f64::NAN))).into_any()
            }
            FrameCells::Text(cells) => {
                let objects = cells.iter().map(|text| Ok(text.into_pyobject(py)?.into_any().unbind()));
                PyArray1::from_vec(py, objects.collect::<PyResult<Vec<Py<PyAny>>>>()?).into_any()
            }
        })
    }

    /// A row as a dict; None where a cell is empty.
    fn row<'py>(&self, py: Python<'py>, row: isize) -> PyResult<Bound<'py, PyDict>> {
        let rows = self.frame.rows() as isize;
        let place = if row < 0 { row + rows } else { row };
        if !(0..rows).contains(&place) {
            return Err(pyo3::exceptions::PyIndexError::new_err(format!("row {row} of {rows}")));
        }
        let out = PyDict::new(py);
        for (column, value) in self.frame.columns().iter().zip(self.frame.row(place as usize)) {
            out.set_item(&column.name, object(py, &value)?)?;
        }
        Ok(out)
    }

    /// The columns as a dict of arrays.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for column in self.frame.columns() {
            out.set_item(&column.name, self.__getitem__(py, &column.name)?)?;
        }
        Ok(out)
    }

    /// A pandas DataFrame. Needs pandas.
    fn to_pandas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("pandas")?.call_method1("DataFrame", (self.to_dict(py)?,))
    }

    /// A polars DataFrame. Needs polars.
    fn to_polars<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("polars")?.call_method1("DataFrame", (slf,))
    }

    /// The table as a stream, by the Arrow PyCapsule interface: `pyarrow.table(t)`, `polars.DataFrame(t)`.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A producer that cannot cast gives its own schema, as the interface allows.
        let _ = requested_schema;
        let stream = arrow::stream(&self.frame).map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    /// Writes the table as CSV, as the programs write it.
    fn to_csv(&self, path: PathBuf) -> PyResult<()> {
        let write = || {
            let mut out = AtomicFile::create(&path)?;
            out.write_all(self.frame.csv().as_bytes()).map_err(|e| pimattn::Error::io(&path, e))?;
            out.commit()
        };
        raised(write())
    }

    /// The points that no other point beats in time, energy and error alike; of a table of `sweep`. Columns whose values differ besides
    /// policy and budget split it into groups.
    #[pyo3(signature = (error = "output_rel_err"))]
    fn frontier(&self, error: &str) -> PyResult<PyTable> {
        let csv = self.frame.csv();
        let frontier = raised(Frontier::read(csv.as_bytes(), &self.name, error, None, &[]))?;
        Ok(PyTable::new(&self.name, self.frame.choose(&frontier.unbeaten())))
    }

    /// The rows of several tables of the same columns, sorted by their first column.
    #[staticmethod]
    fn merged(tables: Vec<PyRef<'_, PyTable>>) -> PyResult<PyTable> {
        let first = tables.first().ok_or_else(|| PyValueError::new_err("no tables"))?;
        let names = |table: &PyTable| table.columns();
        if tables.iter().any(|table| names(table) != names(first)) {
            return Err(PyValueError::new_err("the tables have different columns"));
        }
        let mut rows: Vec<Vec<Value>> =
            tables.iter().flat_map(|t| (0..t.frame.rows()).map(|row| t.frame.row(row))).collect();
        rows.sort_by(|a, b| a[0].number().unwrap_or(0.0).total_cmp(&b[0].number().unwrap_or(0.0)));
        let mut all = first.frame.choose(&[]);
        rows.iter().for_each(|row| all.push(row));
        Ok(PyTable::new(&first.name, all))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let columns = self.frame.columns().iter().map(|column| {
            let (kind, decimals, cells) = match &column.cells {
                FrameCells::Empty(rows) => ("empty", 0, PyList::new(py, vec![None::<u64>; *rows])?),
                FrameCells::Int(cells) => ("int", 0, PyList::new(py, cells)?),
                FrameCells::Float(cells, decimals) => ("float", *decimals, PyList::new(py, cells)?),
                FrameCells::Text(cells) => ("text", 0, PyList::new(py, cells)?),
            };
            Ok((column.name.clone(), column.unit, column.meaning, kind, decimals, cells))
        });
        let columns = columns.collect::<PyResult<Vec<_>>>()?;
        let state = (self.name.clone(), columns).into_pyobject(py)?;
        Ok((py.get_type::<PyTable>().getattr("_unpickle")?, state))
    }

    #[staticmethod]
    fn _unpickle(name: &str, columns: Vec<PickledColumn<'_>>) -> PyResult<PyTable> {
        let mut empty = Vec::new();
        let mut cells: Vec<Vec<Value>> = Vec::new();
        for (name, unit, meaning, kind, decimals, of_column) in columns {
            // Units and meanings are those of the program, few and the same again and again.
            let known = Column { name: "", unit: interned(unit), meaning: interned(meaning) };
            empty.push(FrameColumn { name, ..FrameColumn::of(&known) });
            let known = |value: Option<Value>| value.unwrap_or(Value::Unknown);
            cells.push(match kind.as_str() {
                "int" => {
                    of_column.extract::<Vec<Option<u64>>>()?.into_iter().map(|n| known(n.map(Value::Int))).collect()
                }
                "float" => {
                    let float = |x: Option<f64>| known(x.map(|x| Value::Float(x, decimals)));
                    of_column.extract::<Vec<Option<f64>>>()?.into_iter().map(float).collect()
                }
                "text" => {
                    of_column.extract::<Vec<Option<String>>>()?.into_iter().map(|t| known(t.map(Value::Text))).collect()
                }
                _ => vec![Value::Unknown; of_column.len()?],
            });
        }
        let mut frame = ColumnFrame::with(empty);
        for row in 0..cells.first().map_or(0, Vec::len) {
            frame.push(&cells.iter().map(|cells| cells[row].clone()).collect::<Vec<_>>());
        }
        Ok(PyTable::new(name, frame))
    }

    fn __repr__(&self) -> String {
        let columns = self.columns();
        format!("Table {}: {} rows, {} columns ({})", self.name, self.frame.rows(), columns.len(), columns.join(", "))
    }

    fn _repr_html_(&self) -> String {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let mut out = String::from("<table><thead><tr>");
        for column in self.frame.columns() {
            let about = format!("{} [{}]", column.meaning, column.unit);
            out.push_str(&format!("<th title=\"{}\">{}</th>", escaped(&about), escaped(&column.name)));
        }
        out.push_str("</tr></thead><tbody>");
        for row in 0..self.frame.rows().min(SHOWN) {
            let cells = self.frame.row(row);
            let cells: String = cells.iter().map(|v| format!("<td>{}</td>", escaped(&v.to_string()))).collect();
            out.push_str(&format!("<tr>{cells}</tr>"));
        }
        out.push_str("</tbody></table>");
        if self.frame.rows() > SHOWN {
            out.push_str(&format!("<p>{SHOWN} of {} rows</p>", self.frame.rows()));
        }
        out
    }
}

/// A column between two processes: name, unit, meaning, kind of its cells, decimals, cells.
type PickledColumn<'py> = (String, String, String, String, usize, Bound<'py, PyAny>);

/// A text that lives as long as the program; the same text once.
fn interned(text: String) -> &'static str {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match known.get(text.as_str()) {
        Some(text) => text,
        None => {
            let text: &'static str = Box::leak(text.into_boxed_str());
            known.insert(text);
            text
        }
    }
}

/// A value as Python has it.
pub fn object(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(match value {
        Value::Int(n) => n.into_pyobject(py)?.into_any().unbind(),
        Value::Float(..) => value.number().into_pyobject(py)?.into_any().unbind(),
        Value::Text(text) => text.into_pyobject(py)?.into_any().unbind(),
        Value::Unknown => py.None(),
    })
}
