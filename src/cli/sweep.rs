//! `pimsim sweep`, `pimsim merge` and `pimsim frontier`.

use super::fit::layers;
use super::places::WrittenFile;
use super::{CommonArgs, ReportFormat};
use crate::presets::PresetKind;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_experiments::sweep::grid::{Grid, Point};
use pimattn_experiments::sweep::merge::Merged;
use pimattn_experiments::sweep::store::Store;
use pimattn_experiments::sweep::{self, SweepEvent, SweepOutcome};
use pimattn_report::frontier;
use std::path::{Path, PathBuf};

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// Grid of workloads, systems and their keys
    #[arg(value_name = "GRID", value_parser = super::named(PresetKind::Grid))]
    grid: PathBuf,
    /// Folder for sweep.csv; its finished points are not run again
    #[arg(short, long, value_name = "DIR", required_unless_present = "list")]
    output: Option<PathBuf>,
    /// Folder of finished points, instead of DIR/points; several sweeps may share one
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// KV dump that all points read, instead of what the grid says
    #[arg(long, value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    kv: Option<PathBuf>,
    /// Layers of the dumps to run (0,4-7), ascending, instead of what the grid says
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// Run only part I of N, from 1/N to N/N; pimsim merge merges their tables
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Number of points that run at the same time, and of threads that generate traces; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// List the points and run nothing
    #[arg(long)]
    list: bool,
}

/// Arguments of `merge`.
#[derive(Debug, clap::Args)]
pub struct Merge {
    /// sweep.csv of each shard
    #[arg(required = true, value_name = "SWEEP.csv")]
    tables: Vec<PathBuf>,
    /// Table to write
    #[arg(short, long, value_name = "CSV")]
    output: WrittenFile,
    /// Fail (exit 1) unless every point of this grid is present
    #[arg(long, value_name = "GRID", value_parser = super::named(PresetKind::Grid))]
    grid: Option<PathBuf>,
}

/// Arguments of `frontier`.
#[derive(Debug, clap::Args)]
pub struct FrontierArgs {
    /// sweep.csv of a sweep that measured accuracy, or its folder
    #[arg(value_name = "SWEEP.csv")]
    table: PathBuf,
    /// Column of the loss, or 1-COLUMN for a column of what is kept (1-top_recall)
    #[arg(long, value_name = "COLUMN", default_value = columns::OUTPUT_REL_ERR)]
    error: String,
    /// Axis to choose along, instead of policy and budget; may be given again
    #[arg(long, value_name = "AXIS")]
    choice: Vec<String>,
    /// Print the fastest point of each policy with at most this error instead; may be given again
    #[arg(long, value_name = "ERROR")]
    at_most: Vec<f64>,
    /// Show where the error and this column of what is kept disagree: one of two policies keeps more and errs more
    #[arg(long, value_name = "COLUMN", conflicts_with = "at_most")]
    against: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

/// The `i` and `n` of `i/n`.
fn shard(text: &str) -> Result<(usize, usize)> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if 1 <= i && i <= n => Ok((i, n)),
        _ => Err(Error::Usage(format!("--shard {text}: expected I/N with 1 <= I <= N, such as 2/8"))),
    }
}

/// `pimsim sweep`.
pub fn sweep(args: &SweepArgs, common: &CommonArgs) -> Result<()> {
    let mut grid = Grid::load(&args.grid)?;
    grid.kv = args.kv.clone();
    grid.layers = args.layers.as_deref().map(|text| layers("--layers", Some(text))).transpose()?;
    let (i, n) = args.shard.as_deref().map_or(Ok((1, 1)), shard)?;
    let mut points = grid.points();
    // Neighbouring points cost about the same, so dealing them out in turn balances the shards.
    let mut place = 0..;
    points.retain(|_| place.next().is_some_and(|at: usize| at % n == i - 1));
    if args.list {
        return super::print(&points.iter().map(|p| format!("{}\n", p.name(&grid))).collect::<String>());
    }
    let Some(output) = &args.output else { return Err(Error::Usage("no folder: -o DIR".into())) };
    super::threads(args.threads)?;
    sweep_points(&grid, &points, &Swept { output, cache: args.cache.as_deref(), threads: args.threads }, common)
}

/// Where a sweep goes, and with how many threads.
pub(super) struct Swept<'a> {
    /// Folder of the table.
    pub output: &'a Path,
    /// Folder of finished points, if not below that.
    pub cache: Option<&'a Path>,
    /// Points that run at the same time; 0 is one per processor.
    pub threads: usize,
}

/// Runs points of a grid, and says how it goes.
pub(super) fn sweep_points(grid: &Grid, points: &[Point], to: &Swept<'_>, common: &CommonArgs) -> Result<()> {
    let cache = to.cache.map_or_else(|| to.output.join("points"), Path::to_path_buf);
    let mut store = Store::open(grid, to.output, &cache)?;
    let had_table = to.output.join("sweep.csv").exists();
    let workers = match to.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut progress = common.progress(&format!("sweeping {}", grid.name), Some(points.len() as u64));
    let outcome = sweep::run(grid, points, &mut store, workers, &common.cancel, &mut |event| match event {
        SweepEvent::Kept(n) => progress.from(n),
        SweepEvent::Done(n) => progress.at(n),
        SweepEvent::Damaged(file) => common.warn(&format!("{} is damaged: its point is run again", file.display())),
    });
    drop(progress);
    let SweepOutcome { run, kept, failed } = outcome?;
    if had_table && kept == 0 {
        let place = cache.display();
        common.warn(&format!(
            "the sweep.csv that was there had none of these points, and is replaced; its points are kept in {place}"
        ));
    }
    common.note(&format!("{}: {run} points run, {kept} kept, {} failed", grid.name, failed.len()));
    let mut failed = failed.into_iter().map(|(index, e)| {
        let name = points.iter().find(|p| p.index == index).map_or(String::new(), |p| p.name(grid));
        (name, e)
    });
    let Some((name, first)) = failed.next() else { return Ok(()) };
    common.warn(&format!("point {name} failed"));
    failed.for_each(|(name, e)| common.warn(&format!("point {name} failed: {e}")));
    Err(first)
}

/// `pimsim merge`.
pub fn merged(args: &Merge, common: &CommonArgs) -> Result<()> {
    let grid = args.grid.as_deref().map(Grid::load).transpose()?;
    let merged = Merged::read(&args.tables)?;
    grid.map_or(Ok(()), |grid| merged.check(&grid))?;
    merged.write(&args.output)?;
    common.note(&format!("{} points", merged.points()));
    Ok(())
}

/// `pimsim frontier`.
pub fn frontier(args: &FrontierArgs) -> Result<()> {
    let path = super::table_in(&args.table, "sweep.csv");
    let table = fsio::open(&path)?;
    let (file, against) = (path.display().to_string(), args.against.as_deref());
    let frontier = frontier::Frontier::read(table, &file, &args.error, against, &args.choice)?;
    super::print(&match (against, args.at_most.as_slice()) {
        (Some(kept), _) => frontier.disagreements(kept, args.format.into()),
        (None, []) => frontier.points(args.format.into()),
        (None, limits) => frontier.at_equal_error(limits, args.format.into()),
    })
}
