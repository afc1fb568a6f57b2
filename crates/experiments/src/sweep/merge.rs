//! Puts the tables of shards together.

use super::grid::{Grid, Point};
use super::store::{KEY, POINT, TableFile};
use csv::ByteRecord;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a table, at most.
const MOST_BYTES: u64 = 512 << 20;

/// The points of several tables.
#[derive(Default)]
pub struct Merged {
    heading: ByteRecord,
    rows: BTreeMap<usize, ByteRecord>,
}

impl Merged {
    /// Reads tables. A point may stand in several, with the same result.
    ///
    /// # Errors
    /// When a table is not that of a sweep, is cut off, has other columns than the first, or another result.
    pub fn read(tables: &[PathBuf]) -> Result<Self> {
        let mut merged = Merged::default();
        let first = tables.first().ok_or_else(|| Error::Usage("no tables to merge".into()))?;
        tables.iter().try_for_each(|path| merged.add(path, first))?;
        Ok(merged)
    }

    fn add(&mut self, path: &Path, first: &Path) -> Result<()> {
        let bad = |what: String| Error::data(path, what);
        let input = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let text = fsio::read_all(path, input, MOST_BYTES)?;
        fsio::refuse_pointer(path, &text)?;
        let mut csv = csv::Reader::from_reader(text.as_slice());
        let names = csv.byte_headers().map_err(|e| bad(e.to_string()))?.clone();
        if names.get(0) != Some(POINT.name.as_bytes()) {
            return Err(bad("not the table of a sweep: its first column is not \"point\"".into()));
        }
        if !text.ends_with(b"\n") {
            return Err(bad("its last row is cut off: the sweep was stopped; run it again, it goes on there".into()));
        }
        if self.heading.is_empty() {
            self.heading = names.clone();
        } else if self.heading != names {
            return Err(bad(format!("its columns are not those of {}", first.display())));
        }
        // The key tells one build of the program from another, not one result from another.
        let key = names.iter().position(|n| n == KEY.name.as_bytes());
        let result = |row: &ByteRecord| {
            row.iter().enumerate().filter(|(i, _)| Some(*i) != key).map(|(_, c)| c.to_vec()).collect::<Vec<_>>()
        };
        for record in csv.byte_records() {
            let row = record.map_err(|e| bad(e.to_string()))?;
            let place = String::from_utf8_lossy(&row[0]);
            let index = place.parse().map_err(|_| bad(format!("\"{place}\" is not the place of a point")))?;
            match self.rows.get(&index) {
                Some(other) if result(other) != result(&row) => {
                    return Err(bad(format!("point {index} has another result than in a table before")));
                }
                Some(_) => {}
                None => drop(self.rows.insert(index, row)),
            }
        }
        Ok(())
    }

    /// Points that are there.
    pub fn points(&self) -> usize {
        self.rows.len()
    }

    /// An error unless all points of the grid are there, as the grid has them, and no others.
    pub fn check(&self, grid: &Grid) -> Result<()> {
        let points = grid.points();
        let missing: Vec<_> = points.iter().filter(|p| !self.rows.contains_key(&p.index)).collect();
        let same = |row: &ByteRecord, p: &Point| row.iter().skip(1).zip(grid.shown(p)).all(|(a, b)| a == b.as_bytes());
        let other = |p: &&Point| self.rows.get(&p.index).is_some_and(|row| !same(row, p));
        if let Some(p) = points.iter().find(other) {
            return Err(Error::Check(format!("a table has another point {}: it is of another grid", p.name(grid))));
        }
        let strange = self.rows.len() + missing.len() - points.len();
        match (missing.first(), strange) {
            (None, 0) => Ok(()),
            (Some(first), _) => Err(Error::Check(format!(
                "{} of {} points are missing, the first is point {}",
                missing.len(),
                points.len(),
                first.name(grid)
            ))),
            (None, n) => Err(Error::Check(format!("{n} points are not in the grid"))),
        }
    }

    /// Writes the table, in the order of the grid.
    pub fn write(&self, output: &Path) -> Result<()> {
        let mut out = TableFile::create(output)?;
        out.row(&self.heading)?;
        self.rows.values().try_for_each(|row| out.row(row))?;
        out.commit()
    }
}
