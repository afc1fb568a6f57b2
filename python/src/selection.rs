//! Selections: which tokens each query head attends to at each step.

use crate::errors::{exception, raised};
use crate::work::supervised;
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray3, PyUntypedArrayMethods};
use pimattn::{CsrSelection, Error, Granularity, Selection};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which tokens each query head of each layer attends to at each step.
#[pyclass(name = "Selection", module = "pimattn", frozen)]
pub struct PySelection {
    pub selection: Arc<Selection>,
}

#[pymethods]
impl PySelection {
    #[new]
    #[pyo3(signature = (indices, pointer, prefill, policy = "selection", granularity = "token", scan = "none", order = None))]
    fn new(
        indices: &Bound<'_, PyAny>,
        pointer: &Bound<'_, PyAny>,
        prefill: usize,
        policy: &str,
        granularity: &str,
        scan: &str,
        order: Option<PyReadonlyArray3<'_, u32>>,
    ) -> PyResult<Self> {
        let usage = |what: String| exception(Error::Usage(what));
        let indices: PyReadonlyArray1<'_, u32> = whole("indices", indices, "uint32", u32::MAX.into())?.extract()?;
        let pointer: PyReadonlyArray1<'_, u64> = whole("pointer", pointer, "uint64", i64::MAX)?.extract()?;
        let order = order.map(|order| {
            let shape = order.shape();
            ([shape[0], shape[1], shape[2]], order.as_array().iter().copied().collect())
        });
        let csr = CsrSelection {
            policy: policy.into(),
            prefill,
            granularity: granularity.parse::<Granularity>().map_err(usage)?,
            indices: indices.as_array().iter().copied().collect(),
            pointer: pointer.as_array().iter().copied().collect(),
            order,
            scan: scan.parse().map_err(usage)?,
        };
        Ok(PySelection { selection: Arc::new(raised(Selection::from_csr("Selection", csr))?) })
    }

    /// Reads a selection (docs/selections.md).
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let selection = supervised(py, None, 0, |_, _| Selection::load(path))?;
        Ok(PySelection { selection: Arc::new(selection) })
    }

    /// Writes the selection, which `tracegen run --selection` takes.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        supervised(py, None, 0, |_, _| self.selection.save(path))
    }

    /// Name of the policy that selected.
    #[getter]
    fn policy(&self) -> String {
        self.selection.policy().into()
    }

    /// Tokens before the first step.
    #[getter]
    fn prefill(&self) -> usize {
        self.selection.prefill()
    }

    /// "token", or "page:N" where an index stands for N tokens.
    #[getter]
    fn granularity(&self) -> String {
        self.selection.granularity().to_string()
    }

    /// The budget that it was made with, or the most tokens that a list has.
    #[getter]
    fn budget(&self) -> usize {
        self.selection.budget()
    }

    /// Tokens or pages, list after list, in the order layer, query head, step; uint32.
    #[getter]
    fn indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, self.selection.indices())
    }

    /// Where each list begins in the indices, and the last one's end; uint64.
    #[getter]
    fn pointer<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_slice(py, self.selection.pointer())
    }

    fn __len__(&self) -> usize {
        self.selection.lists()
    }

    /// A list: layers, query heads and steps one after the other.
    fn __getitem__<'py>(&self, py: Python<'py>, list: isize) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let lists = self.selection.lists() as isize;
        let place = if list < 0 { list + lists } else { list };
        if !(0..lists).contains(&place) {
            return Err(pyo3::exceptions::PyIndexError::new_err(format!("list {list} of {lists}")));
        }
        Ok(PyArray1::from_slice(py, self.selection.list(place as usize)))
    }

    fn __eq__(&self, other: PyRef<'_, PySelection>) -> bool {
        let (ours, theirs) = (&self.selection, &other.selection);
        (ours.indices(), ours.pointer()) == (theirs.indices(), theirs.pointer())
            && (ours.granularity(), ours.prefill()) == (theirs.granularity(), theirs.prefill())
    }

    fn __repr__(&self) -> String {
        let s = &self.selection;
        format!("Selection({}: {} lists from token {} on, {})", s.policy(), s.lists(), s.prefill(), s.granularity())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let state = (PyBytes::new(py, &self.selection.to_bytes()),).into_pyobject(py)?;
        Ok((py.get_type::<PySelection>().getattr("_unpickle")?, state))
    }

    #[staticmethod]
    fn _unpickle(bytes: &[u8]) -> PyResult<PySelection> {
        let selection = raised(Selection::from_bytes(Path::new("Selection"), bytes))?;
        Ok(PySelection { selection: Arc::new(selection) })
    }
}

/// Whole numbers of any width as an array of a type that holds `most`.
fn whole<'py>(name: &str, array: &Bound<'py, PyAny>, dtype: &str, most: i64) -> PyResult<Bound<'py, PyAny>> {
    let array = array.py().import("numpy")?.call_method1("asarray", (array,))?;
    let found = array.getattr("dtype")?;
    let wrong = |what: String| exception(Error::Usage(format!("{name}: {what}")));
    let kind: String = found.getattr("kind")?.extract()?;
    if !["i", "u"].contains(&kind.as_str()) {
        return Err(wrong(format!("expected whole numbers, not {found}")));
    }
    if array.len()? > 0 {
        let [least, largest]: [Option<i64>; 2] =
            [array.call_method0("min")?.extract().ok(), array.call_method0("max")?.extract().ok()];
        if least.is_none_or(|n| n < 0) || largest.is_none_or(|n| n > most) {
            return Err(wrong(format!("a number below 0, or beyond {dtype}")));
        }
    }
    array.call_method1("astype", (dtype,))
}
