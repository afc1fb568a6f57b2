//! Decoding under a policy, for models that run in Python.

use crate::cache::PyKvCache;
use crate::errors::{exception, raised};
use crate::selection::PySelection;
use crate::settings::RunSettings;
use crate::table::PyTable;
use crate::work::supervised;
use numpy::{PyArray2, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pimattn::core::table::ColumnFrame;
use pimattn::tracegen::generate::{CacheSet, metrics_layout};
use pimattn::tracegen::live::{LiveDecode, LiveShape};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::sync::{Arc, Mutex, PoisonError};

/// A sequence that a model decodes while a policy selects what it attends to.
#[pyclass(name = "DecodeSession", module = "pimattn._native", frozen)]
pub struct PyDecodeSession {
    live: Mutex<LiveDecode>,
    shape: LiveShape,
}

#[pymethods]
impl PyDecodeSession {
    #[new]
    #[pyo3(signature = (policy, budget, parameters = None, *, layers, query_heads, kv_heads, dim, seed = 1, dense_layers = 0, element_bytes = 2))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        policy: &str,
        budget: usize,
        parameters: Option<Bound<'_, PyDict>>,
        layers: Vec<u32>,
        query_heads: usize,
        kv_heads: usize,
        dim: usize,
        seed: u64,
        dense_layers: u32,
        element_bytes: u32,
    ) -> PyResult<Self> {
        let keys = PyDict::new(py);
        keys.set_item("seed", seed)?;
        keys.set_item("dense_layers", dense_layers)?;
        if let Some(parameters) = parameters {
            let policies = PyDict::new(py);
            policies.set_item(policy, parameters)?;
            keys.set_item("policies", policies)?;
        }
        let settings = RunSettings::read(Some(keys.as_any()), PyString::new(py, "hbm3-pim").as_any())?;
        let (workload, doc, _) = raised(settings.load(policy, Some(budget)))?;
        let shape = LiveShape { layers, kv_heads, query_heads, dim, element_bytes };
        let live = raised(LiveDecode::new(workload, doc, shape.clone()))?;
        Ok(PyDecodeSession { live: Mutex::new(live), shape })
    }

    /// Takes the prefill of a layer: k, v float32 [kv_head, token, dim], q float32 [query_head, query, dim], the queries of its last
    /// tokens.
    fn prefill(
        &self,
        py: Python<'_>,
        layer: u32,
        k: PyReadonlyArray3<'_, f32>,
        v: PyReadonlyArray3<'_, f32>,
        q: PyReadonlyArray3<'_, f32>,
    ) -> PyResult<()> {
        let LiveShape { kv_heads, query_heads, dim, .. } = self.shape;
        for (name, array, heads) in [("k", &k, kv_heads), ("v", &v, kv_heads), ("q", &q, query_heads)] {
            let shape = array.shape();
            if shape[0] != heads || shape[2] != dim {
                return Err(PyValueError::new_err(format!("{name}: shape {shape:?}; expected [{heads}, n, {dim}]")));
            }
        }
        let [k, v, q] = [&k, &v, &q].map(|array| array.as_array().iter().copied().collect::<Vec<f32>>());
        supervised(py, None, 0, |_, _| self.lock().prefill(layer, &k, &v, &q))
    }

    /// Takes a new token of a layer: k, v float32 [kv_head, dim], q float32 [query_head, dim]; the attention over what is selected,
    /// float32 [query_head, dim].
    fn step<'py>(
        &self,
        py: Python<'py>,
        layer: u32,
        k: PyReadonlyArray2<'py, f32>,
        v: PyReadonlyArray2<'py, f32>,
        q: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let [k, v, q] = [&k, &v, &q].map(|array| array.as_array().iter().copied().collect::<Vec<f32>>());
        let LiveShape { query_heads, dim, .. } = self.shape;
        let mut out = vec![0.0; query_heads * dim];
        py.detach(|| self.lock().step(layer, &k, &v, &q, &mut out)).map_err(exception)?;
        let out = numpy::ndarray::Array2::from_shape_vec((query_heads, dim), out);
        Ok(PyArray2::from_owned_array(py, out.map_err(|e| PyValueError::new_err(e.to_string()))?))
    }

    /// Decode steps that all layers have.
    #[getter]
    fn steps(&self) -> usize {
        self.lock().steps()
    }

    /// What was decoded, as a cache.
    #[pyo3(signature = (provenance = "decoded"))]
    fn cache(&self, py: Python<'_>, provenance: &str) -> PyResult<PyKvCache> {
        supervised(py, None, 0, |_, _| PyKvCache::of(self.lock().cache(provenance)?))
    }

    /// What was selected, up to the last step that all layers have.
    fn selection(&self, py: Python<'_>) -> PyResult<PySelection> {
        let selection = supervised(py, None, 0, |_, _| self.lock().selection())?;
        Ok(PySelection { selection: Arc::new(selection) })
    }

    /// What each query head of each layer kept of its attention at each step.
    fn stats(&self, py: Python<'_>) -> PyResult<PyTable> {
        let frame = supervised(py, None, 0, |_, _| {
            let live = self.lock();
            let cached = CacheSet::new(vec![live.cache("decoded")?], vec![0])?;
            let layout = metrics_layout();
            let mut frame = ColumnFrame::new(layout.columns());
            live.metrics(&cached)?.iter().for_each(|row| frame.push(&layout.values(row)));
            Ok(frame)
        })?;
        Ok(PyTable::new("metrics", frame))
    }
}

impl PyDecodeSession {
    fn lock(&self) -> std::sync::MutexGuard<'_, LiveDecode> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
