//! Writes the tables of runs while they go: rows of steps and phases as soon as a step is over.

use super::origin::{self, OriginRow};
use super::tables::{ChannelKey, HeadKey, Key, LayerKey, PhaseKey, RunRows, Schema, StepKey, TableRow};
use super::{Collector, Step, Steps};
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::table::{Column, CsvWriter, TableSink, TypedRows};
use pimattn_trace::Header;
use std::io::Write;

/// The table of rows of some kind.
type RowFile<S, K> = TypedRows<S, TableRow<K>>;

/// The tables of some runs, one after the other.
pub struct RunTables<'s, S> {
    system: &'s System,
    runs: RowFile<S, ()>,
    parts: Option<PartTables<S>>,
}

/// The tables of the parts of runs.
struct PartTables<S> {
    steps: RowFile<S, StepKey>,
    phases: RowFile<S, PhaseKey>,
    layers: RowFile<S, LayerKey>,
    heads: RowFile<S, HeadKey>,
    channels: RowFile<S, ChannelKey>,
    origins: TypedRows<S, OriginRow>,
}

/// Takes the steps of one run.
pub struct StepRows<'t, 's, S> {
    tables: &'t mut RunTables<'s, S>,
    rows: RunRows<'s>,
    /// Of all the steps.
    result: Result<()>,
}

impl<'s, W: Write> RunTables<'s, CsvWriter<W>> {
    /// All tables, or `run.csv` alone, as CSV, each in what `open` gives for it.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn csv(system: &'s System, all: bool, mut open: impl FnMut(&Schema) -> Result<W>) -> Result<Self> {
        RunTables::new(system, all, |schema, columns| Ok(CsvWriter::new(open(schema)?, schema.file, columns)))
    }
}

impl<'s, S: TableSink> RunTables<'s, S> {
    /// All tables, or that of runs alone, each in what `open` gives for it.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(system: &'s System, all: bool, mut open: impl FnMut(&Schema, &[Column]) -> Result<S>) -> Result<Self> {
        fn file<S: TableSink, K: Key>(open: &mut impl FnMut(&Schema, &[Column]) -> Result<S>) -> Result<RowFile<S, K>> {
            TypedRows::open(K::layout(), |columns| open(&K::SCHEMA, columns))
        }
        let runs = file(&mut open)?;
        let parts = match all {
            true => Some(PartTables {
                steps: file(&mut open)?,
                phases: file(&mut open)?,
                layers: file(&mut open)?,
                heads: file(&mut open)?,
                channels: file(&mut open)?,
                origins: TypedRows::open(OriginRow::layout(), |columns| open(&origin::SCHEMA, columns))?,
            }),
            false => None,
        };
        Ok(RunTables { system, runs, parts })
    }

    /// Where the steps of a trace go, which has this header.
    pub fn steps(&mut self, trace: &str, header: &Header) -> StepRows<'_, 's, S> {
        StepRows { rows: RunRows::new(self.system, trace).with_header(header), tables: self, result: Ok(()) }
    }

    /// Completes the tables, in the order in which they were opened.
    pub fn finish(self) -> Result<Vec<S::Done>> {
        let mut out = vec![self.runs.finish()?];
        if let Some(parts) = self.parts {
            out.extend([
                parts.steps.finish()?,
                parts.phases.finish()?,
                parts.layers.finish()?,
                parts.heads.finish()?,
                parts.channels.finish()?,
                parts.origins.finish()?,
            ]);
        }
        Ok(out)
    }
}

impl<S: TableSink> Steps for StepRows<'_, '_, S> {
    fn step(&mut self, step: Step) {
        let Some(parts) = self.tables.parts.as_mut().filter(|_| self.result.is_ok()) else { return };
        let rows = &self.rows;
        let phases = rows.phases(&step);
        let layers = rows.layers(&step);
        let written = parts.steps.row(&rows.step(&step));
        let written = written.and_then(|()| phases.iter().try_for_each(|row| parts.phases.row(row)));
        self.result = written.and_then(|()| layers.iter().try_for_each(|row| parts.layers.row(row)));
    }
}

/// Writes the rest of a run that is over, whose trace has this header.
pub fn finish_run<S: TableSink>(header: &Header, collector: &Collector, steps: StepRows<'_, '_, S>) -> Result<()> {
    let rows = &steps.rows;
    let (run, heads, channels) = (rows.run(collector), rows.heads(collector), rows.channels(collector));
    steps.result?;
    steps.tables.runs.row(&run)?;
    let Some(parts) = &mut steps.tables.parts else { return Ok(()) };
    parts.origins.row(&rows.origin(header))?;
    heads.iter().try_for_each(|row| parts.heads.row(row))?;
    channels.iter().try_for_each(|row| parts.channels.row(row))
}
