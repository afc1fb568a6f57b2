//! Workloads, systems and policies as Python names them.

use crate::errors::raised;
use pimattn::presets::{self, PresetKind};
use pimattn::{Document, Error, System, Workload};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use std::path::{Path, PathBuf};

/// A workload unless one is named: the mapping of the README's demo.
const WORKLOAD: &str = "demo";

/// What a run is made of, besides its cache and its policy.
pub struct RunSettings {
    /// File of the workload.
    pub workload: PathBuf,
    /// Keys of the workload, and their values as TOML has them.
    pub of_workload: Vec<(String, String)>,
    /// File of the system.
    pub system: PathBuf,
    /// Keys of the system likewise.
    pub of_system: Vec<(String, String)>,
}

impl RunSettings {
    /// `workload`: a name, a path, or a dict of keys of the demo's workload, its name among them as `base`. `system`: a name, a path, or
    /// a dict likewise.
    pub fn read(workload: Option<&Bound<'_, PyAny>>, system: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (workload, of_workload) = named(PresetKind::Workload, workload, WORKLOAD)?;
        let (system, of_system) = named(PresetKind::System, Some(system), "hbm3-pim")?;
        if let Some((key, _)) = of_workload.iter().find(|(key, _)| key == "kv" || key == "synthetic") {
            return Err(PyValueError::new_err(format!(
                "workload: \"{key}\" says where keys come from, and a cache is given"
            )));
        }
        Ok(RunSettings { workload, of_workload, system, of_system })
    }

    /// The workload of a policy with a budget, its file and the system.
    pub fn load(&self, policy: &str, budget: Option<usize>) -> pimattn::Result<(Workload, Document, System)> {
        let text = |text: &str| toml_text(text);
        let mut sets =
            vec![format!("system={}", text(&self.system.display().to_string())), format!("policy={}", text(policy))];
        sets.extend(budget.map(|budget| format!("budget={budget}")));
        sets.extend(self.of_workload.iter().map(|(key, value)| format!("{key}={value}")));
        let (workload, doc) = Workload::load(&self.workload, &sets)?;
        let of_system: Vec<String> = self.of_system.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let system = workload.load_system(&doc, &of_system)?;
        Ok((workload, doc, system))
    }
}

fn named(
    kind: PresetKind,
    given: Option<&Bound<'_, PyAny>>,
    default: &str,
) -> PyResult<(PathBuf, Vec<(String, String)>)> {
    let Some(given) = given else { return Ok((raised(resolve(kind, default))?, Vec::new())) };
    if let Ok(keys) = given.cast::<PyDict>() {
        let mut flat = Vec::new();
        flatten(keys, "", &mut flat)?;
        let base = flat.iter().position(|(key, _)| key == "base").map(|at| flat.remove(at).1);
        let base = base.map_or(default.to_string(), |quoted| quoted.trim_matches('"').to_string());
        return Ok((raised(resolve(kind, &base))?, flat));
    }
    let path: PathBuf = given.extract().map_err(|_| {
        PyTypeError::new_err(format!("{}: expected a name, a path or a dict, not {}", kind.name(), given.get_type()))
    })?;
    Ok((raised(resolve(kind, &path.display().to_string()))?, Vec::new()))
}

fn resolve(kind: PresetKind, given: &str) -> pimattn::Result<PathBuf> {
    presets::resolve(kind, given, Path::new("")).map_err(|e| match e {
        Error::NoInput(path) if presets::meant(kind, &path).is_some() => {
            let name = presets::meant(kind, &path).unwrap_or_default();
            Error::Usage(format!("{given}: no such file; there is a {} by the name {name}", kind.name()))
        }
        other => other,
    })
}

/// Keys with dots, and values as TOML has them.
fn flatten(keys: &Bound<'_, PyDict>, prefix: &str, out: &mut Vec<(String, String)>) -> PyResult<()> {
    for (key, value) in keys {
        let key: String = key.extract()?;
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value.cast::<PyDict>() {
            Ok(inner) => flatten(inner, &key, out)?,
            Err(_) => out.push((key.clone(), toml_of(&key, &value)?)),
        }
    }
    Ok(())
}

/// A value as TOML has it.
pub fn toml_of(key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyInt>() {
        return Ok(value.str()?.to_string().to_lowercase());
    }
    if value.is_instance_of::<PyFloat>() {
        let x: f64 = value.extract()?;
        return Ok(format!("{x:?}"));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(toml_text(text.to_str()?));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| toml_of(key, &item?)).collect::<PyResult<Vec<_>>>()?;
        return Ok(format!("[{}]", items.join(", ")));
    }
    // Paths, and whole numbers of NumPy.
    if let Ok(n) = value.extract::<i64>() {
        return Ok(n.to_string());
    }
    if let Ok(x) = value.extract::<f64>() {
        return Ok(format!("{x:?}"));
    }
    if let Ok(path) = value.extract::<PathBuf>() {
        return Ok(toml_text(&path.display().to_string()));
    }
    Err(PyTypeError::new_err(format!("{key}: expected a number, a text, a list or a dict, not {}", value.get_type())))
}

/// A text in quotes, as TOML has it.
pub fn toml_text(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' => "\\\"".to_string(),
        '\\' => "\\\\".to_string(),
        c if c.is_control() => format!("\\u{:04X}", c as u32),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Names of the selection policies, with what each selects.
#[pyfunction]
pub fn policies(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let out = PyDict::new(py);
    for entry in pimattn::policies::select::REGISTRY {
        out.set_item(entry.name, entry.summary)?;
    }
    Ok(out)
}

/// Names of the configurations and caches that the package holds inside, by kind.
#[pyfunction]
pub fn preset_names(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let out = PyDict::new(py);
    for kind in PresetKind::ALL {
        out.set_item(kind.name(), pimattn::presets::names(kind))?;
    }
    Ok(out)
}
