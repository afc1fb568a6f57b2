//! Selections: which tokens each query head attends to at each step.

use crate::errors::{exception, raised};
use crate::work::supervised;
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray3, PyUntypedArrayMethods};
use pimattn::{Error, Granularity, ScanRule, Selection};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use std::path::PathBuf;
use std::sync::Arc;

/// Which tokens each query head of each layer attends to at each step.
#[pyclass(name = "Selection", module = "pimattn", frozen)]
pub struct PySelection {
    pub selection: Arc<Selection>,
}

#[pymethods]
impl PySelection {
    #[new]
    #[pyo3(signature = (indices, pointer, prefill, policy = "selection", granularity = "token", scan = "none", order = None, shape = None, layers = None, budget = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        indices: &Bound<'_, PyAny>,
        pointer: &Bound<'_, PyAny>,
        prefill: usize,
        policy: &str,
        granularity: &str,
        scan: &str,
        order: Option<PyReadonlyArray3<'_, u32>>,
        shape: Option<(usize, usize, usize)>,
        layers: Option<Vec<u32>>,
        budget: Option<usize>,
    ) -> PyResult<Self> {
        let usage = |what: String| exception(Error::Usage(what));
        let indices: PyReadonlyArray1<'_, u32> = whole("indices", indices, "uint32", u32::MAX.into())?.extract()?;
        let pointer: PyReadonlyArray1<'_, u64> = whole("pointer", pointer, "uint64", i64::MAX)?.extract()?;
        let granularity = Granularity::parse(granularity).map_err(|e| usage(format!("granularity: {e}")))?;
        let scan = ScanRule::parse(scan).map_err(|e| usage(format!("scan: {e}")))?;
        let all = |array: &PyReadonlyArray1<'_, u32>| array.as_array().iter().copied().collect();
        let pointer = pointer.as_array().iter().copied().collect();
        let shape = shape.map(|(layers, heads, steps)| [layers, heads, steps]);
        let mut selection =
            Selection::from_csr(policy, prefill, shape, granularity, all(&indices), pointer).with_scan(scan);
        if let Some(order) = order {
            let shape = order.shape();
            let shape = [shape[0], shape[1], shape[2]];
            selection = selection.with_order(shape, order.as_array().iter().copied().collect());
        }
        if let Some(layers) = layers {
            selection = selection.with_layers(layers);
        }
        if let Some(budget) = budget {
            selection = selection.with_budget(budget);
        }
        Ok(PySelection { selection: Arc::new(selection) })
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
        self.selection.granularity().text()
    }

    /// The budget that it was made with, where it says one.
    #[getter]
    fn budget(&self) -> Option<usize> {
        self.selection.facts().budget
    }

    /// Layers, query heads and steps, where it says them.
    #[getter]
    fn shape(&self) -> Option<(usize, usize, usize)> {
        let s = &self.selection;
        Some((s.layers()?, s.query_heads()?, s.steps()?))
    }

    /// Tokens of a query head at a step, in the order of the file; layer is an index. None where there is no such step.
    fn tokens<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        query_head: usize,
        step: usize,
    ) -> Option<Bound<'py, PyArray1<u32>>> {
        Some(PyArray1::from_vec(py, self.selection.tokens(layer, query_head, step)?))
    }

    /// Tokens or pages, list after list, in the order layer, query head, step; uint32.
    #[getter]
    fn indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, self.selection.indices())
    }

    /// Where each list begins in the indices, and the last one's end; uint64.
    #[getter]
    fn pointer<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_slice(py, self.selection.pointers())
    }

    /// Lists: layers times query heads times steps.
    fn __len__(&self) -> usize {
        self.selection.pointers().len().saturating_sub(1)
    }

    /// A list: layers, query heads and steps one after the other.
    fn __getitem__<'py>(&self, py: Python<'py>, list: isize) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let lists = self.__len__() as isize;
        let place = if list < 0 { list + lists } else { list };
        let pointers = self.selection.pointers();
        let range = (0..lists)
            .contains(&place)
            .then(|| pointers[place as usize] as usize..pointers[place as usize + 1] as usize);
        let found = range.and_then(|range| self.selection.indices().get(range));
        let missing = || pyo3::exceptions::PyIndexError::new_err(format!("list {list} of {lists}"));
        Ok(PyArray1::from_slice(py, found.ok_or_else(missing)?))
    }

    fn __eq__(&self, other: PyRef<'_, PySelection>) -> bool {
        let (ours, theirs) = (&self.selection, &other.selection);
        (ours.indices(), ours.pointers()) == (theirs.indices(), theirs.pointers())
            && (ours.granularity(), ours.prefill()) == (theirs.granularity(), theirs.prefill())
    }

    fn __repr__(&self) -> String {
        let s = &self.selection;
        format!(
            "Selection({}: {} lists from token {} on, {})",
            s.policy(),
            self.__len__(),
            s.prefill(),
            s.granularity().text()
        )
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let state = (PyBytes::new(py, &raised(self.selection.to_bytes())?),).into_pyobject(py)?;
        Ok((py.get_type::<PySelection>().getattr("_unpickle")?, state))
    }

    #[staticmethod]
    fn _unpickle(bytes: &[u8]) -> PyResult<PySelection> {
        let selection = raised(Selection::from_bytes("Selection", bytes))?;
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
