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
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::AtomicFile;
use pimattn_experiments::sweep::grid::{Grid, Point};
use pimattn_experiments::sweep::store::Store;
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
    let keep = |table: Cells| {
        write(table.name(), &table.csv()?)?;
        Ok::<Cells, Error>(table)
    };

    let (bars, mut end_to_end) = published::run(plan, progress)?;
    let artifact = keep(Cells::of("artifact.csv", &columns::artifact(), &bars))?;

    let swept = sweep_of(plan, &plan.grids.masks, options, None, progress)?;
    let (layers, positions) = (masks::contexts(plan, &swept)?, masks::positions(plan, &swept)?);
    let masks = keep(Cells::of("masks.csv", columns::MASKS, &layers))?;
    let positions = keep(Cells::of("positions.csv", columns::POSITIONS, &positions))?;
    end_to_end.extend(masks::end_to_end(plan, &swept)?);
    let system = keep(Cells::of("system.csv", &columns::system(), &end_to_end))?;
    let reductions = gains::reductions(&artifact, &masks, &system)?;
    let reductions = keep(Cells::of("reductions.csv", columns::REDUCTIONS, &reductions))?;

    let recall = sweep_of(plan, &plan.grids.recall, options, options.kv.as_deref(), progress)?;
    let choices = sweep_of(plan, &plan.grids.choices, options, None, progress)?;
    let choices = gains::choices(&[("real", &recall), ("synthetic", &choices)])?;
    let choices = keep(Cells::of("choices.csv", columns::CHOICES, &choices))?;
    let winners = gains::winners(&choices, &plan.errors)?;
    let winners = keep(Cells::of("winners.csv", columns::WINNERS, &winners))?;

    let ablation = sweep_of(plan, &plan.grids.ablation, options, None, progress)?;
    let ablation = gains::ablation(&ablation)?;
    let ablation = keep(Cells::of("ablation.csv", columns::ABLATION, &ablation))?;

    let tables = paper::Tables { artifact, masks, positions, system, reductions, choices, winners, ablation };
    let claims = keep(paper::claims::table(&plan.claims, &tables)?)?;
    for (name, svg) in paper::figures::all(&tables)? {
        write(&name, svg.as_bytes())?;
    }
    write("REPORT.md", paper::text::markdown(&plan.title, &tables, &claims)?.as_bytes())
}

/// Runs a grid, or takes its finished points; the table.
fn sweep_of(plan: &Plan, file: &Path, options: &Options, kv: Option<&Path>, progress: Progress<'_>) -> Result<Cells> {
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
    let table = folder.join("sweep.csv");
    Cells::read(pimattn_core::fsio::open(&table)?, &table.display().to_string())
}
