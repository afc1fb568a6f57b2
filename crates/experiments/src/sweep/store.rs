//! The table of a sweep, made of its finished points.
//!
//! The table of a sweep that runs has the rows that were there when it began, in the order of the grid, and behind them
//! one for each point as it is done. When all are done it is replaced by one in the order of the grid. The files of the
//! points alone say what is done: a table that was cut off is made again.

use super::cache::PointCache;
use super::grid::{Grid, Point};
use super::point::PointRow;
use super::table::SweepTable;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{AtomicFile, OutputFolder};
use pimattn_core::table::{Column, column};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// First column of the table.
pub const POINT: Column = column(columns::POINT, "1", "place in the grid, from 0");
/// Column between the axes and the results.
pub const KEY: Column = column(
    columns::KEY,
    "-",
    "SHA-256 of what the result depends on: program, workload and overrides, resolved system, content of the files read",
);

/// Where the results of a sweep are.
pub struct Store<'g> {
    grid: &'g Grid,
    table: PathBuf,
    cache: PointCache,
    heading: Vec<String>,
    /// Key of each point that is done, by its place.
    done: BTreeMap<usize, String>,
    /// The table, while it grows.
    growing: Option<File>,
    _folder: OutputFolder,
}

/// The names of the columns: place, axes, key, results.
pub(super) fn heading<'r>(grid: &Grid, results: impl Iterator<Item = &'r str> + Clone) -> Vec<String> {
    let taken = |name: &str| results.clone().chain([POINT.name, KEY.name]).any(|c| c == name);
    let axes = grid.axes().map(|axis| if taken(axis) { format!("workload.{axis}") } else { axis.into() });
    let names = [KEY.name].into_iter().chain(results.clone()).map(String::from);
    [POINT.name.into()].into_iter().chain(axes).chain(names).collect()
}

impl<'g> Store<'g> {
    /// A table in `folder`, finished points in `cache`; both folders are made.
    ///
    /// # Errors
    /// When another sweep is at work in `folder`, or a folder cannot be made.
    pub fn open(grid: &'g Grid, folder: &Path, cache: &Path) -> Result<Self> {
        let folder = OutputFolder::create(folder)?;
        let cache = PointCache::open(cache)?;
        let heading = heading(grid, cache.names().iter().map(String::as_str));
        Ok(Store {
            grid,
            table: folder.join("sweep.csv"),
            heading,
            cache,
            done: BTreeMap::new(),
            growing: None,
            _folder: folder,
        })
    }

    /// The finished points.
    pub fn points(&self) -> &PointCache {
        &self.cache
    }

    /// Takes note that the result of a point is there.
    pub fn keep(&mut self, point: &Point, key: String) {
        self.done.insert(point.index, key);
    }

    /// Writes the table of the points that are there, to which [`Store::put`] adds.
    pub fn begin(&mut self, points: &[Point]) -> Result<()> {
        self.write_table(points)?;
        let file = File::options().append(true).open(&self.table).map_err(|e| Error::io(&self.table, e))?;
        self.growing = Some(file);
        Ok(())
    }

    /// Keeps the result of a point: in its file first, then in the table.
    pub fn put(&mut self, point: &Point, key: String, result: &PointRow) -> Result<()> {
        let cells = self.cache.put(&key, result)?;
        if let Some(table) = &mut self.growing {
            let mut line = csv::Writer::from_writer(Vec::new());
            let row = self.grid.row(point, &key, cells.iter().map(String::as_str));
            line.write_record(row.iter()).map_err(|e| Error::data(&self.table, e.to_string()))?;
            let line = line.into_inner().map_err(|e| Error::io(&self.table, e.into_error()))?;
            // The whole row at once, so that readers see no half of it.
            table.write_all(&line).map_err(|e| Error::io(&self.table, e))?;
        }
        self.done.insert(point.index, key);
        Ok(())
    }

    /// Replaces the table by one in the order of the grid.
    pub fn finish(&mut self, points: &[Point]) -> Result<()> {
        self.growing = None;
        self.write_table(points)
    }

    /// The rows of the table, as numbers.
    pub fn rows(&self, points: &[Point]) -> Result<SweepTable> {
        let mut table = SweepTable::new(self.table.display().to_string(), &self.heading);
        for point in points {
            let Some(key) = self.done.get(&point.index) else { continue };
            table.push(self.grid.shown(point).collect(), self.cache.names(), &self.cache.cells(key)?)?;
        }
        Ok(table)
    }

    fn write_table(&self, points: &[Point]) -> Result<()> {
        let mut out = TableFile::create(&self.table)?;
        out.row(self.heading.iter().map(String::as_str))?;
        for point in points {
            let Some(key) = self.done.get(&point.index) else { continue };
            let cells = self.cache.cells(key)?;
            out.row(self.grid.row(point, key, cells.iter().map(String::as_str)))?;
        }
        out.commit()
    }
}

impl Grid {
    /// A row of the table.
    fn row<'a>(&self, point: &Point, key: &str, cells: impl Iterator<Item = &'a str>) -> Vec<String> {
        let place = [point.index.to_string()].into_iter();
        place.chain(self.shown(point)).chain([key.to_string()]).chain(cells.map(String::from)).collect()
    }
}

/// A CSV file that is there whole or not at all.
pub(super) struct TableFile {
    csv: csv::Writer<AtomicFile>,
    path: PathBuf,
}

impl TableFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(TableFile { csv: csv::Writer::from_writer(AtomicFile::create(path)?), path: path.into() })
    }

    pub(super) fn row<C: AsRef<[u8]>>(&mut self, cells: impl IntoIterator<Item = C>) -> Result<()> {
        self.csv.write_record(cells).map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::io(&self.path, e),
            other => Error::data(&self.path, format!("{other:?}")),
        })
    }

    pub(super) fn commit(self) -> Result<()> {
        let mut file = self.csv.into_inner().map_err(|e| Error::io(&self.path, e.into_error()))?;
        file.flush().map_err(|e| Error::io(&self.path, e))?;
        file.commit()
    }
}
