//! A run of a cache under a policy.

use crate::cache::PyKvCache;
use crate::errors::raised;
use crate::selection::PySelection;
use crate::settings::RunSettings;
use crate::table::{PyTable, object};
use crate::work::supervised;
use pimattn::Generator;
use pimattn::experiments::sweep::memory::IN_MEMORY;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a run says: means, and tables by step, phase, layer, head and channel.
#[pyclass(name = "Run", module = "pimattn", frozen)]
pub struct PyRun {
    /// Means and totals by name: time (ns), energy (pJ), cycles, accuracy; None where a value has no meaning.
    #[pyo3(get)]
    summary: Py<PyDict>,
    /// The run itself, one row: `run.csv`.
    #[pyo3(get)]
    run: Py<PyTable>,
    /// A row for each decode step: `steps.csv`.
    #[pyo3(get)]
    steps: Py<PyTable>,
    /// A row for each phase of a step: `phases.csv`.
    #[pyo3(get)]
    phases: Py<PyTable>,
    /// A row for each layer of a step: `layers.csv`.
    #[pyo3(get)]
    layers: Py<PyTable>,
    /// A row for each KV head of a layer: `heads.csv`.
    #[pyo3(get)]
    heads: Py<PyTable>,
    /// A row for each channel: `channels.csv`.
    #[pyo3(get)]
    channels: Py<PyTable>,
    /// Where the run comes from: `origins.csv`.
    #[pyo3(get)]
    origins: Py<PyTable>,
    /// A row for each query head of a layer at a step, with what it keeps of its attention.
    #[pyo3(get)]
    metrics: Py<PyTable>,
    /// What a reader of the figures has to know: steps that are no whole periods, a budget beyond the cache, and the like.
    #[pyo3(get)]
    cautions: Vec<String>,
    /// Name of the policy.
    #[pyo3(get)]
    policy: String,
    /// Tokens that a query head may select.
    #[pyo3(get)]
    budget: usize,
    generator: Mutex<Generator>,
}

#[pymethods]
impl PyRun {
    /// What was selected: made again when it is asked for.
    #[getter]
    fn selection(&self, py: Python<'_>) -> PyResult<PySelection> {
        let selection = supervised(py, None, 0, |cancel, _| {
            let generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner);
            let selections = generator.select(cancel, false, &|_| ())?;
            generator.selection(&selections)
        })?;
        Ok(PySelection { selection: Arc::new(selection) })
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let summary = self.summary.bind(py);
        let number = |name: &str| -> PyResult<f64> {
            let value = summary.get_item(name)?.and_then(|value| value.extract().ok());
            Ok(value.unwrap_or(f64::NAN))
        };
        Ok(format!(
            "Run({}, budget {}: {:.0} cycles, {:.0} ns, {:.0} pJ, output error {:.4})",
            self.policy,
            self.budget,
            number("cycles")?,
            number("time_ns")?,
            number("energy_pj")?,
            number("output_rel_err")?
        ))
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let text = self.__repr__(py)?.replace('<', "&lt;");
        let cautions: String = self.cautions.iter().map(|caution| format!("<li>{caution}</li>")).collect();
        let table: String = self.run.bind(py).call_method0("_repr_html_")?.extract()?;
        Ok(format!("<p>{text}</p><ul>{cautions}</ul>{table}"))
    }
}

/// Runs a cache under a policy on a system.
#[pyfunction]
#[pyo3(signature = (kv, policy, budget, system, workload = None, progress = None))]
pub fn run(
    py: Python<'_>,
    kv: &PyKvCache,
    policy: &Bound<'_, PyAny>,
    budget: Option<usize>,
    system: &Bound<'_, PyAny>,
    workload: Option<&Bound<'_, PyAny>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyRun> {
    let settings = RunSettings::read(workload, system)?;
    let place = Some(Path::new(IN_MEMORY));
    let generator = if let Ok(selection) = policy.cast::<PySelection>() {
        let selection = selection.get().selection.clone();
        // The workload's own policy counts for nothing.
        let (workload, ..) = raised(settings.load("full", budget))?;
        let cached = raised(kv.cached(workload.batch.requests))?;
        let budget = match budget {
            Some(budget) => budget,
            None => raised(selection.budget_on(kv.cache(), workload.dense_layers))?,
        };
        let (workload, doc, system) = raised(settings.load("full", Some(budget)))?;
        supervised(py, None, 0, move |_, _| {
            Generator::load_imported(&cached, system, workload, &doc, place, &selection)
        })?
    } else {
        let name: String = policy.extract().map_err(|_| {
            PyTypeError::new_err(format!("policy: expected a name or a Selection, not {}", policy.get_type()))
        })?;
        let (workload, doc, system) = raised(settings.load(&name, budget))?;
        let cached = raised(kv.cached(workload.batch.requests))?;
        raised(Generator::load_on(&cached, system, workload, &doc, place))?
    };
    let name = generator.label().policy.clone();
    let result = supervised(py, progress, generator.steps() as u64, |cancel, done| {
        pimattn::run_until(cancel, &generator, &name, &mut |steps| done.at(steps))
    })?;
    let summary = PyDict::new(py);
    for (column, value) in result.summary.columns().iter().zip(result.summary.row(0)) {
        summary.set_item(&column.name, object(py, &value)?)?;
    }
    let table = |name: &str, frame| Py::new(py, PyTable::new(name, frame));
    let label = generator.label().clone();
    Ok(PyRun {
        summary: summary.unbind(),
        run: table("run", result.run)?,
        steps: table("steps", result.steps)?,
        phases: table("phases", result.phases)?,
        layers: table("layers", result.layers)?,
        heads: table("heads", result.heads)?,
        channels: table("channels", result.channels)?,
        origins: table("origins", result.origins)?,
        metrics: table("metrics", result.metrics)?,
        cautions: label.cautions.clone(),
        policy: label.policy.clone(),
        budget: label.budget as usize,
        generator: Mutex::new(generator),
    })
}
