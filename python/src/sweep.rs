//! Sweeps of a cache in memory.

use crate::cache::PyKvCache;
use crate::errors::raised;
use crate::settings::{RunSettings, toml_text};
use crate::table::PyTable;
use crate::work::supervised;
use pimattn::experiments::sweep::grid::{Grid, Point};
use pimattn::experiments::sweep::memory;
use pimattn::presets::{self, PresetKind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::Path;

/// The grid of policies and budgets on a system, with each of the workload's keys as an axis of one value.
fn grid(policies: &[String], budgets: &[usize], settings: &RunSettings) -> pimattn::Result<Grid> {
    let texts = |texts: &[String]| texts.iter().map(|text| toml_text(text)).collect::<Vec<_>>().join(", ");
    let mut sets = vec![
        format!("axes.workload=[{}]", toml_text(&settings.workload.display().to_string())),
        format!("axes.system=[{}]", toml_text(&settings.system.display().to_string())),
        format!("axes.policy=[{}]", texts(policies)),
        format!("axes.budget={budgets:?}"),
        "skip=[]".into(),
    ];
    let of_workload = settings.of_workload.iter().map(|(key, value)| (key.clone(), value));
    let of_system = settings.of_system.iter().map(|(key, value)| (format!("\"system.{key}\""), value));
    sets.extend(of_workload.chain(of_system).map(|(key, value)| format!("axes.{key}=[{value}]")));
    Grid::load_with(&presets::resolve(PresetKind::Grid, "try", Path::new(""))?, &sets)
}

/// Places of the points of a sweep.
#[pyfunction]
#[pyo3(signature = (policies, budgets, system, workload = None))]
pub fn sweep_points(
    policies: Vec<String>,
    budgets: Vec<usize>,
    system: &Bound<'_, PyAny>,
    workload: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<usize>> {
    let settings = RunSettings::read(workload, system)?;
    let grid = raised(grid(&policies, &budgets, &settings))?;
    Ok(grid.points().iter().map(|point| point.index).collect())
}

/// Runs policies at budgets on a cache: all points, or those at some places.
#[pyfunction]
#[pyo3(signature = (kv, policies, budgets, system, workload = None, threads = 0, places = None, progress = None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub fn sweep(
    py: Python<'_>,
    kv: &PyKvCache,
    policies: Vec<String>,
    budgets: Vec<usize>,
    system: &Bound<'_, PyAny>,
    workload: Option<&Bound<'_, PyAny>>,
    threads: usize,
    places: Option<Vec<usize>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyTable> {
    let settings = RunSettings::read(workload, system)?;
    let mut grid = raised(grid(&policies, &budgets, &settings))?;
    let mut points: Vec<Point> = grid.points();
    if let Some(places) = places {
        if let Some(strange) = places.iter().find(|place| !points.iter().any(|point| point.index == **place)) {
            return Err(PyValueError::new_err(format!("no point {strange} in a sweep of {} points", points.len())));
        }
        points.retain(|point| places.contains(&point.index));
    }
    let (workload, ..) = raised(settings.load(&policies[0], budgets.first().copied()))?;
    let cached = raised(kv.cached(workload.batch.requests))?;
    let workers = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let total = points.len() as u64;
    let frame = supervised(py, progress, total, |cancel, done| {
        memory::run(cancel, &mut grid, &cached, &points, workers, &mut |n| done.at(n))
    })?;
    Ok(PyTable::new("sweep", frame))
}
