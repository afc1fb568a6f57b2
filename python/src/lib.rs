//! The Python module `pimattn._native`: the front door of the simulator, with arrays for vectors and exceptions for errors. What a
//! Python user sees of it is documented in `python/pimattn`.

mod arrow;
mod cache;
mod errors;
mod live;
mod programs;
mod run;
mod selection;
mod settings;
mod sweep;
mod table;
mod work;

use pyo3::prelude::*;
use std::path::PathBuf;

/// Native part of pimattn.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    pimattn::presets::install();
    let file: Option<PathBuf> = module.filename().ok().and_then(|name| name.extract().ok());
    file.into_iter().for_each(pimattn::experiments::sweep::key::program_is);
    errors::add(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<cache::PyKvCache>()?;
    module.add_class::<table::PyTable>()?;
    module.add_class::<run::PyRun>()?;
    module.add_class::<live::PyDecodeSession>()?;
    module.add_class::<selection::PySelection>()?;
    module.add_function(wrap_pyfunction!(run::run, module)?)?;
    module.add_function(wrap_pyfunction!(sweep::sweep, module)?)?;
    module.add_function(wrap_pyfunction!(sweep::sweep_points, module)?)?;
    module.add_function(wrap_pyfunction!(settings::policies, module)?)?;
    module.add_function(wrap_pyfunction!(settings::preset_names, module)?)?;
    module.add_function(wrap_pyfunction!(programs::tracegen, module)?)?;
    module.add_function(wrap_pyfunction!(programs::pimsim, module)?)?;
    Ok(())
}
