//! Finished points: a file each, there whole or not at all, and the table made of them.

use super::grid::{Grid, Point};
use super::point;
use crate::error::{Error, Result};
use crate::fsio::AtomicFile;
use crate::table::{Column, Value, column};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// First column of the table.
pub const POINT: Column = column("point", "1", "place in the grid, from 0");
/// Column between the axes and the results.
pub const KEY: Column = column(
    "key",
    "-",
    "SHA-256 of what the result depends on: program, workload and overrides, resolved system, content of the dump",
);

/// The table is written this often at most, while points come in.
const EVERY: Duration = Duration::from_secs(1);

/// Where the results of a sweep are.
pub struct Store {
    table: PathBuf,
    cache: PathBuf,
    heading: Vec<String>,
    rows: BTreeMap<usize, Vec<String>>,
    written: Option<Instant>,
}

impl Store {
    /// A table in `folder`, finished points in `cache`; both folders are made.
    pub fn open(grid: &Grid, folder: &Path, cache: &Path) -> Result<Self> {
        for dir in [folder, cache] {
            std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        }
        let results = point::columns();
        let taken = |name: &str| results.iter().chain([&POINT, &KEY]).any(|c| c.name == name);
        let axes = grid.axes().map(|axis| if taken(axis) { format!("workload.{axis}") } else { axis.into() });
        let names = results.iter().map(|c| c.name.to_string());
        let heading = [POINT.name.into()].into_iter().chain(axes).chain([KEY.name.into()]).chain(names);
        Ok(Store {
            table: folder.join("sweep.csv"),
            cache: cache.into(),
            heading: heading.collect(),
            rows: BTreeMap::new(),
            written: None,
        })
    }

    fn file(&self, key: &str) -> PathBuf {
        self.cache.join(format!("{key}.csv"))
    }

    /// Takes the result of a point from its file, if it is there.
    pub fn find(&mut self, point: &Point, key: &str) -> Result<bool> {
        let file = self.file(key);
        let Ok(text) = std::fs::read(&file) else { return Ok(false) };
        let mut csv = csv::Reader::from_reader(text.as_slice());
        let names: Vec<&str> = point::columns().iter().map(|c| c.name).collect();
        let same = csv.headers().is_ok_and(|h| h.iter().eq(names));
        let record = csv.records().next().filter(|_| same).and_then(|r| r.ok());
        let cells = record.ok_or_else(|| Error::data(&file, "not the result of a point: remove it"))?;
        self.add(point, key, cells.iter().map(String::from));
        Ok(true)
    }

    /// Keeps the result of a point.
    pub fn put(&mut self, point: &Point, key: &str, cells: Vec<Value>) -> Result<()> {
        let names = point::columns().iter().map(|c| c.name.to_string()).collect();
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        write(&self.file(key), [&names, &cells])?;
        self.add(point, key, cells.into_iter());
        match self.written.is_none_or(|t| t.elapsed() > EVERY) {
            true => self.write_table(),
            false => Ok(()),
        }
    }

    fn add(&mut self, point: &Point, key: &str, cells: impl Iterator<Item = String>) {
        let keys = [point.index.to_string()].into_iter().chain(point.shown.iter().cloned()).chain([key.to_string()]);
        self.rows.insert(point.index, keys.chain(cells).collect());
    }

    /// Writes the table of all points that are done, in the order of the grid.
    pub fn write_table(&mut self) -> Result<()> {
        write(&self.table, std::iter::once(&self.heading).chain(self.rows.values()))?;
        self.written = Some(Instant::now());
        Ok(())
    }
}

fn write<'r>(path: &Path, rows: impl IntoIterator<Item = &'r Vec<String>>) -> Result<()> {
    let mut csv = csv::Writer::from_writer(AtomicFile::create(path)?);
    rows.into_iter().try_for_each(|row| csv.write_record(row)).map_err(|e| Error::data(path, e.to_string()))?;
    let mut file = csv.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    file.flush().map_err(|e| Error::io(path, e))?;
    file.commit()
}

/// Puts the tables of shards together, in the order of the grid. A point may stand in several, with the same result.
pub fn merge(tables: &[PathBuf], output: &Path) -> Result<usize> {
    let mut heading: Option<(Vec<String>, &PathBuf)> = None;
    let mut rows: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for path in tables {
        let bad = |what: String| Error::data(path, what);
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let mut csv = csv::Reader::from_reader(text.as_slice());
        let names: Vec<String> = csv.headers().map_err(|e| bad(e.to_string()))?.iter().map(String::from).collect();
        if names.first().map(String::as_str) != Some(POINT.name) {
            return Err(bad("not the table of a sweep: its first column is not \"point\"".into()));
        }
        match &heading {
            Some((first, file)) if *first != names => {
                return Err(bad(format!("its columns are not those of {}", file.display())));
            }
            _ => heading = Some((names.clone(), path)),
        }
        // The key tells one build of the program from another, not one result from another.
        let key = names.iter().position(|n| n == KEY.name);
        let result = |row: &[String]| {
            row.iter().enumerate().filter(|(i, _)| Some(*i) != key).map(|(_, c)| c.clone()).collect::<Vec<_>>()
        };
        for record in csv.records() {
            let row: Vec<String> = record.map_err(|e| bad(e.to_string()))?.iter().map(String::from).collect();
            let index = row[0].parse().map_err(|_| bad(format!("\"{}\" is not the place of a point", row[0])))?;
            match rows.get(&index) {
                Some(other) if result(other) != result(&row) => {
                    return Err(bad(format!("point {index} has another result than in a table before")));
                }
                Some(_) => {}
                None => drop(rows.insert(index, row)),
            }
        }
    }
    let Some((heading, _)) = heading else { return Err(Error::Usage("no tables to merge".into())) };
    write(output, std::iter::once(&heading).chain(rows.values()))?;
    Ok(rows.len())
}
