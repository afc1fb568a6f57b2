//! The folder of `pimsim run -o`, which holds one run: the same traces on the same system.

use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{self, OutputFolder};
use pimattn_core::spec::System;
use pimattn_core::table::CsvReader;
use pimattn_stats::{origin, tables};
use std::path::{Path, PathBuf};

/// Makes the folder of a run, or takes that of the same run. With `replace`, the tables of another run may be in it.
///
/// # Errors
/// [`Error::Usage`] where another run's are, [`Error::Io`] where another run is writing to it, or it cannot be made.
pub fn open(path: &Path, traces: &[PathBuf], system: &System, replace: bool) -> Result<OutputFolder> {
    let folder = OutputFolder::create(path)?;
    let there = tables::documented().iter().any(|(file, _)| folder.join(file).exists());
    if there && !replace && !is_of(&folder, traces, system) {
        let what = format!(
            "{}: the tables of another run are in this folder; name another one, or replace them with --replace",
            path.display()
        );
        return Err(Error::Usage(what));
    }
    Ok(folder)
}

/// Whether the tables in a folder are of these traces on this system, as its table of origins says.
fn is_of(folder: &OutputFolder, traces: &[PathBuf], system: &System) -> bool {
    let path = folder.join(origin::SCHEMA.file);
    let read = || -> Result<bool> {
        let mut table = CsvReader::open(fsio::open(&path)?, &path.display().to_string())?;
        let [trace, settings] = [table.column(columns::TRACE)?, table.column(origin::SETTINGS.name())?];
        let mut names = traces.iter().map(|path| path.display().to_string());
        while let Some(row) = table.read()? {
            if names.next().as_deref() != Some(row.cell(trace)) || row.cell(settings) != system.settings {
                return Ok(false);
            }
        }
        Ok(names.next().is_none())
    };
    read().unwrap_or(false)
}
