//! An experiment of a paper, run and set against what the paper claims.
//!
//! [`plan`] says what is run. [`published`] is artifact mode: row budgets of every decode step, replayed and carried
//! through the system model with the published simulator's switches. [`masks`] is real-mask mode: our policies choose,
//! our mapping places, our engine replays windows of decode steps, and the system model without switches carries them.
//! [`gains`] puts the policies of both against each other. Everything that is written afterwards is made of these tables
//! ([`crate::paper`]).

pub mod columns;
pub mod gains;
pub mod masks;
pub mod plan;
pub mod published;

use crate::paper;
use columns::Reported;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::AtomicFile;
use pimattn_experiments::sweep::grid::{Grid, Point};
use pimattn_experiments::sweep::store::Store;
use pimattn_experiments::sweep::table::SweepTable;
use pimattn_experiments::sweep::{self, Event, Outcome};
use pimattn_report::cells::Cells;
use plan::Plan;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a run is given beside the plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for tables, figures and the text.
    pub output: PathBuf,
    /// Folder of finished points.
    pub work: PathBuf,
    /// Dump instead of the plan's, for what is said of a real cache.
    pub kv: Option<PathBuf>,
    /// Points that are run at the same time.
    pub workers: usize,
}

/// Hears what is being done: what, how much, of how much.
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

/// Runs what is not there yet, and writes the report. Files of the output folder appear one by one, each whole.
pub fn run(plan: &Plan, options: &Options, progress: Progress<'_>) -> Result<()> {
    for folder in [&options.output, &options.work] {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = options.output.join(name);
        let mut file = AtomicFile::create(&path)?;
        file.write_all(bytes).map_err(|e| Error::io(&path, e))?;
        file.commit()
    };
    let cells = |bytes: Vec<u8>, name: &str| {
        write(name, &bytes)?;
        Cells::read(bytes.as_slice(), name)
    };

    let (bars, mut end_to_end) = published::run(plan, progress)?;
    let artifact = Reported::table(bars);
    let artifact_cells = cells(artifact.csv()?, artifact.name())?;

    let swept = sweep_of(plan, &plan.grids.masks, options, None, progress)?;
    let masks = Reported::table(masks::contexts(plan, &swept)?);
    let positions = Reported::table(masks::positions(plan, &swept)?);
    let masks_cells = cells(masks.csv()?, masks.name())?;
    let positions = cells(positions.csv()?, positions.name())?;
    end_to_end.extend(masks::end_to_end(plan, &swept)?);
    let system = Reported::table(end_to_end);
    let system_cells = cells(system.csv()?, system.name())?;
    let reductions = Reported::table(gains::reductions(&artifact, &masks, &system)?);
    let reductions = cells(reductions.csv()?, reductions.name())?;

    let recall = sweep_of(plan, &plan.grids.recall, options, options.kv.as_deref(), progress)?;
    let choices = sweep_of(plan, &plan.grids.choices, options, None, progress)?;
    let choices = Reported::table(gains::choices(&[("real", &recall), ("synthetic", &choices)])?);
    let choices_cells = cells(choices.csv()?, choices.name())?;
    let winners = Reported::table(gains::winners(&choices, &plan.errors)?);
    let winners = cells(winners.csv()?, winners.name())?;

    let ablation = sweep_of(plan, &plan.grids.ablation, options, None, progress)?;
    let ablation = Reported::table(gains::ablation(&ablation)?);
    let ablation = cells(ablation.csv()?, ablation.name())?;

    let tables = paper::Tables {
        artifact: artifact_cells,
        masks: masks_cells,
        positions,
        system: system_cells,
        reductions,
        choices: choices_cells,
        winners,
        ablation,
    };
    let claims = Reported::table(paper::claims::rows(&plan.claims, &tables)?);
    let claims = cells(claims.csv()?, claims.name())?;
    for (name, svg) in paper::figures::all(&tables)? {
        write(&name, svg.as_bytes())?;
    }
    write("REPORT.md", paper::text::markdown(&plan.title, &tables, &claims)?.as_bytes())
}

/// Runs a grid, or takes its finished points.
fn sweep_of(
    plan: &Plan,
    file: &Path,
    options: &Options,
    kv: Option<&Path>,
    progress: Progress<'_>,
) -> Result<SweepTable> {
    let mut grid = Grid::load(file)?;
    grid.kv = kv.map(Path::to_path_buf);
    let mut points = grid.points();
    if file == plan.grids.masks {
        let variant = grid.axes().position(|axis| axis == masks::MODELS);
        let shown = |p: &Point| variant.and_then(|i| grid.shown(p).nth(i));
        points.retain(|p| shown(p).is_none_or(|name| plan.models.iter().any(|m| m.name == name)));
    }
    let folder = options.work.join(&grid.name);
    let mut store = Store::open(&grid, &folder, &options.work.join("points"))?;
    let what = format!("{}: {}", plan.name, grid.name);
    let all = points.len() as u64;
    let Outcome { failed, .. } = sweep::run(&grid, &points, &mut store, options.workers, &mut |event| match event {
        Event::Kept(n) | Event::Done(n) => progress(&what, n, all),
        Event::Damaged(_) => {}
    })?;
    if let Some((_, e)) = failed.into_iter().next() {
        return Err(e);
    }
    store.rows(&points)
}
