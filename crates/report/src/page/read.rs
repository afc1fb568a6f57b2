//! What the folders have: their tables, told by name and header.

use super::metrics::{METRICS_COLUMNS, MetricsTally};
use crate::cells::Cells;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::CsvReader;
use std::path::{Path, PathBuf};

/// Tables of `pimsim run -o` beside its run.csv, which a page can do without.
#[derive(Debug, Clone, Default)]
pub struct RunDetails {
    /// A row a decode step.
    pub steps: Option<Cells>,
    /// A row a phase of a step.
    pub phases: Option<Cells>,
    /// A row a KV head of a layer.
    pub heads: Option<Cells>,
    /// A row a channel.
    pub channels: Option<Cells>,
    /// A row a trace: where it is from.
    pub origins: Option<Cells>,
}

/// A folder of runs.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// Its name.
    pub name: String,
    /// run.csv.
    pub run: Cells,
    /// What stands beside it.
    pub details: RunDetails,
}

/// A table whose rows are points: of a sweep, or of tuning.
#[derive(Debug, Clone)]
pub struct PointFolder {
    /// Name of the folder.
    pub name: String,
    /// The table.
    pub table: Cells,
}

/// All that was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Sweeps.
    pub sweeps: Vec<PointFolder>,
    /// Runs.
    pub runs: Vec<RunFolder>,
    /// Results of tuning.
    pub tunes: Vec<PointFolder>,
    /// Accuracy metrics.
    pub metrics: Vec<MetricsTally>,
    /// Tables that were read: file, rows and columns.
    pub files: Vec<(String, usize, usize)>,
}

const SWEEP: &str = "sweep.csv";
const RUN: &str = "run.csv";
const TUNE: &str = "tune.csv";

impl Findings {
    /// Reads folders, or one of their tables in place of a folder; and metrics from wherever they are.
    ///
    /// # Errors
    /// When a folder has no table that the page can show, a file cannot be read, or a table is damaged.
    pub fn read(folders: &[PathBuf], metrics: &[PathBuf]) -> Result<Self> {
        let mut found = Findings::default();
        for path in folders {
            let folder = match path.is_file() {
                true => path.parent().map_or(PathBuf::from("."), Path::to_path_buf),
                false => path.clone(),
            };
            found.folder(&folder, &called(&folder, folders))?;
        }
        for path in metrics {
            // One that lies in a folder was found there.
            if !found.metrics.iter().any(|m| m.file == name(path)) {
                found.add_metrics(path)?;
            }
        }
        Ok(found)
    }

    fn folder(&mut self, folder: &Path, named: &str) -> Result<()> {
        if !folder.exists() {
            return Err(Error::NoInput(folder.into()));
        }
        let before = self.sweeps.len() + self.runs.len() + self.tunes.len() + self.metrics.len();
        if let Some(table) = self.table(folder, SWEEP)? {
            self.sweeps.push(PointFolder { name: named.into(), table });
        }
        if let Some(table) = self.table(folder, TUNE)? {
            self.tunes.push(PointFolder { name: named.into(), table });
        }
        if let Some(run) = self.table(folder, RUN)? {
            let details = RunDetails {
                steps: self.table(folder, "steps.csv")?,
                phases: self.table(folder, "phases.csv")?,
                heads: self.table(folder, "heads.csv")?,
                channels: self.table(folder, "channels.csv")?,
                origins: self.table(folder, "origins.csv")?,
            };
            self.runs.push(RunFolder { name: named.into(), run, details });
        }
        for path in tables(folder)? {
            let mut table = CsvReader::open(fsio::open(&path)?, &name(&path))?;
            let has = |column: &&str| table.header().iter().any(|h| h == *column);
            let whole = METRICS_COLUMNS.iter().all(has);
            // A table of metrics without a row is what an interrupted command leaves.
            if whole && table.read()?.is_some() && !self.metrics.iter().any(|m| m.file == name(&path)) {
                self.add_metrics(&path)?;
            }
        }
        match self.sweeps.len() + self.runs.len() + self.tunes.len() + self.metrics.len() > before {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "{}: no {SWEEP} of pimsim sweep, no {RUN} of pimsim run -o, no {TUNE} of pimsim tune, and no metrics of \
                 tracegen run",
                folder.display()
            ))),
        }
    }

    fn add_metrics(&mut self, path: &Path) -> Result<()> {
        let tally = MetricsTally::read(fsio::open(path)?, &name(path))?;
        let rows = tally.heads.len() * tally.steps.len();
        self.files.push((name(path), rows, METRICS_COLUMNS.len()));
        self.metrics.push(tally);
        Ok(())
    }

    /// A table of a folder, where it is there; one without a row is no result.
    fn table(&mut self, folder: &Path, file: &str) -> Result<Option<Cells>> {
        let path = folder.join(file);
        if !path.exists() {
            return Ok(None);
        }
        let cells = Cells::read(fsio::open(&path)?, &name(&path))?;
        if cells.is_empty() {
            return Err(Error::data(name(&path), "a table without a row"));
        }
        self.files.push((name(&path), cells.len(), cells.header().len()));
        Ok(Some(cells))
    }

    /// Origins of the run in this row of a run.csv, where they are known.
    pub fn origin<'a>(folder: &'a RunFolder, run: &crate::cells::CellRow<'_>) -> Option<crate::cells::CellRow<'a>> {
        let same = |row: &crate::cells::CellRow<'_>| is_of(row, run);
        folder.details.origins.as_ref()?.rows().find(same)
    }
}

/// Whether a row of a further table is of the run in this row.
pub fn is_of(row: &crate::cells::CellRow<'_>, run: &crate::cells::CellRow<'_>) -> bool {
    let identity = [columns::TRACE, columns::SYSTEM, columns::DEVICE];
    identity.iter().all(|column| row.said(column) == run.said(column))
}

/// What a folder is called: its own name, unless another has it too.
fn called(folder: &Path, all: &[PathBuf]) -> String {
    let own = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    match own(folder) {
        Some(last) if all.iter().filter(|other| own(other).as_ref() == Some(&last)).count() < 2 => last,
        _ => name(folder),
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// CSV files of a folder, by name.
fn tables(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == "csv") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
