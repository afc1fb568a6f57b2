//! Writes the tables of runs while they go: rows of steps and phases as soon as a step is over.

use super::origin::{self, OriginRow};
use super::tables::{ChannelKey, HeadKey, Key, LayerKey, PhaseKey, RunRows, Schema, StepKey, TableRow};
use super::{Collector, Step, Steps};
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::table::TypedWriter;
use pimattn_trace::Header;
use std::io::Write;

/// The table of rows of some kind.
type RowFile<W, K> = TypedWriter<W, TableRow<K>>;

/// The tables of some runs, one after the other.
pub struct RunTables<'s, W: Write> {
    system: &'s System,
    runs: RowFile<W, ()>,
    parts: Option<PartTables<W>>,
}

/// The tables of the parts of runs.
struct PartTables<W: Write> {
    steps: RowFile<W, StepKey>,
    phases: RowFile<W, PhaseKey>,
    layers: RowFile<W, LayerKey>,
    heads: RowFile<W, HeadKey>,
    channels: RowFile<W, ChannelKey>,
    origins: TypedWriter<W, OriginRow>,
}

/// Takes the steps of one run.
pub struct StepRows<'t, 's, W: Write> {
    tables: &'t mut RunTables<'s, W>,
    rows: RunRows<'s>,
    /// Of all the steps.
    result: Result<()>,
}

impl<'s, W: Write> RunTables<'s, W> {
    /// All tables, or `run.csv` alone, each in what `open` gives for it.
    pub fn new(system: &'s System, all: bool, mut open: impl FnMut(&Schema) -> Result<W>) -> Result<Self> {
        fn file<W: Write, K: Key>(open: &mut impl FnMut(&Schema) -> Result<W>) -> Result<RowFile<W, K>> {
            Ok(TypedWriter::new(open(&K::SCHEMA)?, K::SCHEMA.file, K::layout()))
        }
        let runs = file(&mut open)?;
        let parts = match all {
            true => Some(PartTables {
                steps: file(&mut open)?,
                phases: file(&mut open)?,
                layers: file(&mut open)?,
                heads: file(&mut open)?,
                channels: file(&mut open)?,
                origins: TypedWriter::new(open(&origin::SCHEMA)?, origin::SCHEMA.file, OriginRow::layout()),
            }),
            false => None,
        };
        Ok(RunTables { system, runs, parts })
    }

    /// Where the steps of a trace go, which has this header.
    pub fn steps(&mut self, trace: &str, header: &Header) -> StepRows<'_, 's, W> {
        StepRows { rows: RunRows::new(self.system, trace).with_header(header), tables: self, result: Ok(()) }
    }

    /// Completes the tables; hands back what they were written to.
    pub fn finish(self) -> Result<Vec<W>> {
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

impl<W: Write> Steps for StepRows<'_, '_, W> {
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
pub fn finish_run<W: Write>(header: &Header, collector: &Collector, steps: StepRows<'_, '_, W>) -> Result<()> {
    let rows = &steps.rows;
    let (run, heads, channels) = (rows.run(collector), rows.heads(collector), rows.channels(collector));
    steps.result?;
    steps.tables.runs.row(&run)?;
    let Some(parts) = &mut steps.tables.parts else { return Ok(()) };
    parts.origins.row(&rows.origin(header))?;
    heads.iter().try_for_each(|row| parts.heads.row(row))?;
    channels.iter().try_for_each(|row| parts.channels.row(row))
}
