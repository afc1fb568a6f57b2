//! An experiment of a paper, run and set against what the paper claims.
//!
//! [`plan`] says what is run. [`published`] is artifact mode: row budgets of every decode step, replayed and carried
//! through the system model with the published simulator's switches. [`masks`] is real-mask mode: our policies choose,
//! our mapping places, our engine replays windows of decode steps, and the system model without switches carries them.
//! [`gains`] puts the policies of both against each other; [`fair`] does so with each at
//! its best mapping, on all fitted layers, several seeds and real dumps, with intervals. Everything that is written afterwards is made of these tables
//! ([`crate::paper`]).

pub mod bootstrap;
pub mod columns;
pub mod design;
pub mod fair;
mod fair_columns;
pub mod gains;
pub mod masks;
pub mod plan;
pub mod published;
pub mod tornado;

use crate::paper;
use columns::Reported;
use gains::Caches;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{AtomicFile, OutputFolder};
use pimattn_core::table::Table;
use pimattn_experiments::sweep::grid::{Grid, Point};
use pimattn_experiments::sweep::store::Store;
use pimattn_experiments::sweep::table::SweepTable;
use pimattn_experiments::sweep::{self, SweepEvent, SweepOutcome};
use pimattn_report::cells::Cells;
use plan::ExperimentPlan;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a run is given beside the plan.
#[derive(Debug, Clone)]
pub struct ReproduceOptions {
    /// Folder for tables, figures and the text.
    pub output: PathBuf,
    /// Folder of finished points.
    pub work: PathBuf,
    /// Dumps instead of the plan's, for what is said of real caches.
    pub kv: Vec<PathBuf>,
    /// Points that are run at the same time.
    pub workers: usize,
    /// What stops it; what is finished by then is kept.
    pub cancel: Cancel,
}

/// Hears what is being done: what, how much, of how much.
pub type ProgressFn<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

/// Runs what is not there yet, and writes the report. Files of the output folder appear one by one, each whole.
pub fn run(plan: &ExperimentPlan, options: &ReproduceOptions, progress: ProgressFn<'_>) -> Result<()> {
    let output = OutputFolder::create(&options.output)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = output.join(name);
        let mut file = AtomicFile::create(&path)?;
        file.write_all(bytes).map_err(|e| Error::io(&path, e))?;
        file.commit()
    };
    fn keep<R: Reported>(rows: Vec<R>, write: impl Fn(&str, &[u8]) -> Result<()>) -> Result<Table<R>> {
        let table = R::table(rows);
        write(table.name(), &table.csv()?)?;
        Ok(table)
    }

    let (bars, mut end_to_end) = published::run(&options.cancel, plan, progress)?;
    let artifact = keep(bars, write)?;
    let budgets = keep(published::budgets(plan)?, write)?;

    let swept = sweep_of(plan, &plan.grids.masks, options, None, progress)?;
    let found = masks::run(plan, &swept)?;
    let (masks, positions) = (keep(found.contexts, write)?, keep(found.positions, write)?);
    end_to_end.extend(found.system);
    let system = keep(end_to_end, write)?;
    let reductions = keep(gains::reductions(&artifact, &masks, &system, &found.costs)?, write)?;

    let recall = sweep_of(plan, &plan.grids.recall, options, options.kv.first().map(PathBuf::as_path), progress)?;
    let choices = sweep_of(plan, &plan.grids.choices, options, None, progress)?;
    let choices = keep(gains::choices(&[(Caches::Real, &recall), (Caches::Synthetic, &choices)])?, write)?;
    let winners = keep(gains::winners(&choices, &plan.errors)?, write)?;

    let fair = fair::run(plan, options, progress)?;
    let (mappings, intervals) = (keep(fair.mappings, write)?, keep(fair.intervals, write)?);

    let ablation = sweep_of(plan, &plan.grids.ablation, options, None, progress)?;
    let ablation = keep(gains::ablation(&ablation)?, write)?;
    let moved = sweep_of(plan, &plan.grids.tornado, options, None, progress)?;
    let tornado = keep(tornado::rows(&Grid::load(&plan.grids.tornado)?, &moved)?, write)?;
    let devices = sweep_of(plan, &plan.grids.design, options, None, progress)?;
    let design = keep(design::rows(plan.batch, &devices)?, write)?;

    let tables = paper::ExperimentTables {
        artifact: Cells::of(&artifact),
        budgets: Cells::of(&budgets),
        masks: Cells::of(&masks),
        positions: Cells::of(&positions),
        system: Cells::of(&system),
        reductions: Cells::of(&reductions),
        choices: Cells::of(&choices),
        winners: Cells::of(&winners),
        mappings: Cells::of(&mappings),
        intervals: Cells::of(&intervals),
        ablation: Cells::of(&ablation),
        tornado: Cells::of(&tornado),
        design: Cells::of(&design),
    };
    let claims = Cells::of(&keep(paper::claims::rows(&plan.claims, &tables)?, write)?);
    for (name, svg) in paper::figures::all(&tables)? {
        write(&name, svg.as_bytes())?;
    }
    write("REPORT.md", paper::text::markdown(&plan.title, &plan.claims, &tables, &claims)?.as_bytes())
}

/// Runs a grid, or takes its finished points.
fn sweep_of(
    plan: &ExperimentPlan,
    file: &Path,
    options: &ReproduceOptions,
    kv: Option<&Path>,
    progress: ProgressFn<'_>,
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
    let mut tell = |event: SweepEvent<'_>| match event {
        SweepEvent::Kept(n) | SweepEvent::Done(n) => progress(&what, n, all),
        SweepEvent::Damaged(_) => {}
    };
    let SweepOutcome { failed, .. } =
        sweep::run(&grid, &points, &mut store, options.workers, &options.cancel, &mut tell)?;
    if let Some((_, e)) = failed.into_iter().next() {
        return Err(e);
    }
    store.rows(&points)
}
