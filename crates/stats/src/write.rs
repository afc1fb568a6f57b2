//! Writes the tables of runs while they go: rows of steps and phases as soon as a step is over.

use super::tables::{Rows, SCHEMAS, Schema};
use super::{Collector, Step, Steps};
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::table::{Value, Writer};
use std::io::Write;

/// The tables of some runs, one after the other.
pub struct Tables<'s, W: Write> {
    system: &'s System,
    files: Vec<(&'static str, Writer<W>)>,
}

/// Takes the steps of one run.
pub struct StepRows<'t, 's, W: Write> {
    tables: &'t mut Tables<'s, W>,
    rows: Rows<'s>,
    /// Of all the steps.
    result: Result<()>,
}

impl<'s, W: Write> Tables<'s, W> {
    /// The tables of [`SCHEMAS`], or the first one, `run.csv`, alone, each in what `open` gives for it.
    pub fn new(system: &'s System, all: bool, mut open: impl FnMut(&Schema) -> Result<W>) -> Result<Self> {
        let schemas = if all { SCHEMAS } else { &SCHEMAS[..1] };
        let file = |s: &'static Schema| Ok((s.file, Writer::new(open(s)?, s.file, &s.columns())));
        Ok(Tables { system, files: schemas.iter().map(file).collect::<Result<_>>()? })
    }

    /// Where the steps of a trace go.
    pub fn steps(&mut self, trace: &str) -> StepRows<'_, 's, W> {
        StepRows { rows: Rows::new(self.system, trace), tables: self, result: Ok(()) }
    }

    /// Completes the tables; hands back what they were written to.
    pub fn finish(self) -> Result<Vec<W>> {
        self.files.into_iter().map(|(_, writer)| writer.finish()).collect()
    }

    fn write(&mut self, file: &str, rows: &[Vec<Value>]) -> Result<()> {
        match self.files.iter_mut().find(|(name, _)| *name == file) {
            Some((_, writer)) => rows.iter().try_for_each(|row| writer.row(row)),
            None => Ok(()),
        }
    }
}

impl<W: Write> StepRows<'_, '_, W> {
    fn write(&mut self, step: &Step) -> Result<()> {
        self.tables.write("steps.csv", &[self.rows.step(step)])?;
        self.tables.write("phases.csv", &self.rows.phases(step))
    }
}

impl<W: Write> Steps for StepRows<'_, '_, W> {
    fn step(&mut self, step: Step) {
        if self.result.is_ok() && self.tables.files.len() > 1 {
            self.result = self.write(&step);
        }
    }
}

/// Writes the rest of a run that is over.
pub fn finish_run<W: Write>(collector: Collector<StepRows<'_, '_, W>>) -> Result<()> {
    let rows = &collector.steps_taken().rows;
    let (run, heads, channels) = (rows.run(&collector), rows.heads(&collector), rows.channels(&collector));
    let steps = collector.into_steps();
    steps.result?;
    steps.tables.write("run.csv", &[run])?;
    steps.tables.write("heads.csv", &heads)?;
    steps.tables.write("channels.csv", &channels)
}
