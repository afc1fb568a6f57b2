//! KV caches: dumps, and arrays that Python keeps.

use crate::errors::{DataError, raised};
use crate::work::supervised;
use half::f16;
use numpy::{PyArray4, PyArrayDescrMethods, PyReadonlyArray4, PyUntypedArray, PyUntypedArrayMethods};
use pimattn::kv::{KvParts, Tensor, dump};
use pimattn::presets::PresetKind;
use pimattn::tracegen::generate::CacheSet;
use pimattn::{Cancel, Elements, KvCache, Result, kv};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Keys, values and queries of some layers of a sequence.
#[pyclass(name = "KvCache", module = "pimattn", frozen)]
pub struct PyKvCache {
    cached: Arc<CacheSet>,
    /// Keys, values and queries, once somebody has asked for them as arrays.
    shown: [OnceLock<Elements>; 3],
}

impl PyKvCache {
    pub fn of(cache: KvCache) -> Result<Self> {
        Ok(PyKvCache { cached: Arc::new(CacheSet::new(vec![cache], vec![0])?), shown: Default::default() })
    }

    /// Elements in memory, where they stay: those of a large dump are read when they are asked for.
    fn loaded(&self, tensor: usize) -> PyResult<&Elements> {
        let cache = self.cache();
        let elements = [&cache.k, &cache.v, &cache.q][tensor];
        if self.shown[tensor].get().is_none() {
            let loaded = raised(elements.loaded(&Cancel::new()))?;
            return Ok(self.shown[tensor].get_or_init(|| loaded));
        }
        Ok(self.shown[tensor].get().unwrap_or(elements))
    }

    pub fn cache(&self) -> &KvCache {
        &self.cached.caches()[0]
    }

    /// The cache of so many requests, which share it.
    pub fn cached(&self, requests: usize) -> Result<Arc<CacheSet>> {
        match requests {
            1 => Ok(self.cached.clone()),
            n => Ok(Arc::new(CacheSet::new(self.cached.caches().to_vec(), vec![0; n])?)),
        }
    }
}

#[pymethods]
impl PyKvCache {
    #[new]
    #[pyo3(signature = (k, v, q, prefill, layers = None, query_start = None, element_bytes = 2, provenance = "arrays"))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        q: &Bound<'_, PyAny>,
        prefill: i64,
        layers: Option<Vec<i64>>,
        query_start: Option<i64>,
        element_bytes: u32,
        provenance: &str,
    ) -> PyResult<Self> {
        let tensor = |name: &str, array: &Bound<'_, PyAny>| tensor(name, array, element_bytes);
        let parts = KvParts {
            k: tensor("k", k)?,
            v: tensor("v", v)?,
            q: tensor("q", q)?,
            layers,
            prefill,
            query_start,
            positions: None,
            rope_scaling: None,
            provenance: provenance.into(),
        };
        supervised(py, None, 0, |_, _| PyKvCache::of(KvCache::checked("KvCache", parts)?))
    }

    /// Reads a dump (.safetensors, .npz, a folder of .npy), or the cache that the package holds inside ("sample").
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let given = path.display().to_string();
        let path = raised(pimattn::presets::resolve(PresetKind::Cache, &given, Path::new("")))?;
        supervised(py, None, 0, |cancel, _| PyKvCache::of(kv::load_until(cancel, path)?))
    }

    /// Writes a dump as safetensors, which `load` and `tracegen run --kv` read. `dtype`: "f32", "f16", "bf16"; None: the narrowest that holds
    /// every element as it is. `metadata`: further texts.
    #[pyo3(signature = (path, dtype = None, metadata = None))]
    fn save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        dtype: Option<&str>,
        metadata: Option<Vec<(String, String)>>,
    ) -> PyResult<()> {
        let cache = self.cache();
        let kind = dtype.map(|name| raised(dump::DumpType::parse(name))).transpose()?;
        let metadata = metadata.unwrap_or_default();
        supervised(py, None, 0, |cancel, _| {
            let kind = kind.map_or_else(|| dump::DumpType::of(cancel, cache), Ok)?;
            dump::save(cancel, cache, &path, kind, &metadata)
        })
    }

    /// Only these layers of the model, ascending.
    fn only_layers(&self, py: Python<'_>, layers: Vec<u32>) -> PyResult<Self> {
        let cache = self.cache().clone();
        supervised(py, None, 0, |_, _| PyKvCache::of(cache.only_layers(&layers)?))
    }

    /// Keys after RoPE, float32 [layer, kv_head, token, dim]; not to be written.
    #[getter]
    fn k<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray4<f32>>> {
        let c = slf.get().cache();
        shown(slf, slf.get().loaded(0)?, [c.layers.len(), c.kv_heads, c.tokens, c.dim])
    }

    /// Values, float32 [layer, kv_head, token, dim]; not to be written.
    #[getter]
    fn v<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray4<f32>>> {
        let c = slf.get().cache();
        shown(slf, slf.get().loaded(1)?, [c.layers.len(), c.kv_heads, c.tokens, c.dim])
    }

    /// Unscaled queries after RoPE, float32 [layer, query_head, query, dim]; not to be written.
    #[getter]
    fn q<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray4<f32>>> {
        let c = slf.get().cache();
        shown(slf, slf.get().loaded(2)?, [c.layers.len(), c.query_heads, c.queries, c.dim])
    }

    /// Which layers of the model these are, ascending.
    #[getter]
    fn layers(&self) -> Vec<u32> {
        self.cache().layers.clone()
    }

    /// KV heads per layer.
    #[getter]
    fn kv_heads(&self) -> usize {
        self.cache().kv_heads
    }

    /// Query heads per layer.
    #[getter]
    fn query_heads(&self) -> usize {
        self.cache().query_heads
    }

    /// Elements of a key, value or query.
    #[getter]
    fn dim(&self) -> usize {
        self.cache().dim
    }

    /// Tokens.
    #[getter]
    fn tokens(&self) -> usize {
        self.cache().tokens
    }

    /// Tokens that were there before decoding began.
    #[getter]
    fn prefill(&self) -> usize {
        self.cache().prefill
    }

    /// Token of the first query.
    #[getter]
    fn query_start(&self) -> usize {
        self.cache().query_start
    }

    /// Decode steps: tokens behind the prefill that have a query.
    #[getter]
    fn steps(&self) -> usize {
        self.cache().decode_positions().len()
    }

    /// Bytes of an element as the model stores it.
    #[getter]
    fn element_bytes(&self) -> u32 {
        self.cache().element_bytes
    }

    /// Where the data comes from.
    #[getter]
    fn provenance(&self) -> String {
        self.cache().provenance.clone()
    }

    /// Hash of keys, values and queries, as in the tables (cache_hash).
    #[getter]
    fn hash(&self) -> String {
        self.cached.hash().into()
    }

    fn __repr__(&self) -> String {
        let c = self.cache();
        format!(
            "KvCache({}: layers {:?}, {} KV and {} query heads of {}, {} tokens of prefill, {} decode steps)",
            c.provenance,
            c.layers,
            c.kv_heads,
            c.query_heads,
            c.dim,
            c.prefill,
            c.decode_positions().len()
        )
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, c) = (slf.py(), slf.get().cache());
        let arguments = PyTuple::new(
            py,
            [
                Self::k(slf)?.into_any(),
                Self::v(slf)?.into_any(),
                Self::q(slf)?.into_any(),
                c.prefill.into_pyobject(py)?.into_any(),
                c.layers.clone().into_pyobject(py)?.into_any(),
                c.query_start.into_pyobject(py)?.into_any(),
                c.element_bytes.into_pyobject(py)?.into_any(),
                c.provenance.clone().into_pyobject(py)?.into_any(),
            ],
        )?;
        Ok((py.get_type::<Self>().into_any(), arguments))
    }
}

/// An array that Python keeps: `elements` lie in its memory for as long as it lives.
struct KeptArray {
    _array: Py<PyUntypedArray>,
    elements: *const f32,
    len: usize,
}

// SAFETY: the pointer is to the array's elements, which are read alone, and the array is referred to and dropped under the interpreter's
// lock, as `Py` does.
unsafe impl Send for KeptArray {}
// SAFETY: likewise; nothing is changed through a shared reference.
unsafe impl Sync for KeptArray {}

impl AsRef<[f32]> for KeptArray {
    fn as_ref(&self) -> &[f32] {
        // SAFETY: the array is contiguous (`tensor` looks), has `len` elements, and cannot be freed or resized while it is referred to.
        // Whoever writes to it while it is a cache breaks the promise that the documentation of `KvCache` asks for.
        unsafe { std::slice::from_raw_parts(self.elements, self.len) }
    }
}

/// An array as a tensor: float32 in C order without a copy, other orders and float16 with one.
fn tensor(name: &str, array: &Bound<'_, PyAny>, element_bytes: u32) -> PyResult<Tensor> {
    let py = array.py();
    let Ok(untyped) = array.cast::<PyUntypedArray>() else {
        let what = format!("{name}: expected a NumPy array of float32 or float16, not {}", array.get_type());
        return Err(PyTypeError::new_err(what));
    };
    let shape = untyped.shape().to_vec();
    if shape.len() != 4 {
        let what = format!("{name}: {} axes; expected 4, [layer, head, token, dim]", shape.len());
        return Err(DataError::new_err(what));
    }
    if untyped.dtype().is_equiv_to(&numpy::dtype::<f32>(py)) {
        // A copy only where the elements do not lie one after the other, each at a multiple of its size.
        let array = py.import("numpy")?.call_method1("require", (array, py.None(), ["C", "A"]))?;
        let array = array.cast_into::<PyUntypedArray>()?;
        let typed: PyReadonlyArray4<'_, f32> = array.as_any().extract()?;
        let slice = typed.as_slice().map_err(|e| PyValueError::new_err(format!("{name}: {e}")))?;
        let kept = KeptArray { elements: slice.as_ptr(), len: slice.len(), _array: array.clone().unbind() };
        return Ok(Tensor { name: name.into(), shape, data: Elements::kept_by(kept), element_bytes });
    }
    if let Ok(typed) = array.extract::<PyReadonlyArray4<'_, f16>>() {
        let data: Vec<f32> = typed.as_array().iter().map(|x| x.to_f32()).collect();
        return Ok(Tensor { name: name.into(), shape, data: data.into(), element_bytes });
    }
    let what = format!("{name}: dtype {}; expected float32 or float16", untyped.dtype());
    Err(PyTypeError::new_err(what))
}

/// Elements of a cache as an array that keeps the cache.
fn shown<'py>(
    owner: &Bound<'py, PyKvCache>,
    elements: &Elements,
    shape: [usize; 4],
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let elements = elements.in_memory().unwrap_or_default();
    let view =
        numpy::ndarray::ArrayView4::from_shape(shape, elements).map_err(|e| PyValueError::new_err(e.to_string()))?;
    // SAFETY: the elements live as long as the cache, which the array refers to, and the array is made read-only before anybody sees it.
    let array = unsafe { PyArray4::borrow_from_array(&view, owner.clone().into_any()) };
    let flags = PyDict::new(owner.py());
    flags.set_item("write", false)?;
    array.call_method("setflags", (), Some(&flags))?;
    Ok(array)
}
