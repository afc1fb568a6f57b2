//! The folder of `pimsim run -o`, which holds one run: the same traces on the same system.

use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{self, Output, OutputFolder};
use pimattn_core::spec::System;
use pimattn_core::table::CsvReader;
use pimattn_stats::{origin, tables};
use std::path::{Path, PathBuf};

/// The folder of a run that is to be made.
pub struct RunOutput {
    folder: OutputFolder,
    /// Tables of another run that are in it.
    replaced: Vec<PathBuf>,
}

impl RunOutput {
    /// Makes the folder of a run, or takes that of the same run. With `replace`, the tables of another run may be in it.
    ///
    /// # Errors
    /// [`Error::Usage`] where another run's are, [`Error::Io`] where another run is writing to it, or it cannot be made.
    pub fn open(path: &Path, traces: &[PathBuf], system: &System, replace: bool) -> Result<Self> {
        let folder = OutputFolder::create(path)?;
        let mut replaced: Vec<PathBuf> = tables::documented().iter().map(|(file, _)| folder.join(file)).collect();
        replaced.retain(|table| table.exists());
        if is_of(&folder, traces, system) {
            replaced.clear();
        } else if !replaced.is_empty() && !replace {
            let what = format!(
                "{}: the tables of another run are in this folder; name another one, or replace them with --replace",
                path.display()
            );
            return Err(Error::Usage(what));
        }
        Ok(RunOutput { folder, replaced })
    }

    /// The path of one of its tables.
    pub fn join(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Puts the tables of the run in their places, that of origins first: stopped in between, the folder has tables of no other
    /// run, and the same command can finish it.
    ///
    /// # Errors
    /// [`Error::Io`] where that is not possible.
    pub fn commit(self, tables: Vec<Output>) -> Result<()> {
        self.replaced.iter().try_for_each(|table| std::fs::remove_file(table).map_err(|e| Error::io(table, e)))?;
        tables.into_iter().rev().try_for_each(Output::commit)
    }
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
