//! `pimsim`: traces in, tables out.

use super::places::WrittenFile;
use super::run_output::RunOutput;
use super::{CommonArgs, EXIT_CODES, ReportFormat, manual};
use crate::presets::PresetKind;
use clap::{CommandFactory, Parser, Subcommand};
use pimattn_audit as audit;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{self, Output};
use pimattn_core::spec::System;
use pimattn_core::spec::system::Controller;
use pimattn_core::table::TableSink;
use pimattn_engine as engine;
use pimattn_report::accuracy::{AccuracyTable, Grouping};
use pimattn_report::compare;
use pimattn_report::explain::Explanation;
use pimattn_report::sheet::Style;
use pimattn_report::summary::Summary;
use pimattn_stats::log::LogProbe;
use pimattn_stats::replay::Watchers;
use pimattn_stats::write::{RunTables, finish_run};
use pimattn_stats::{Collector, Steps, replay};
use pimattn_trace as trace;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "pimsim", version = env!("PIMATTN_VERSION"), about = "Replay traces on HBM-PIM: cycles, energy, utilisation", after_help = EXIT_CODES, color = super::color_help())]
struct PimsimCli {
    #[command(subcommand)]
    command: PimsimCommand,
    #[command(flatten)]
    common: CommonArgs,
}

impl AsMut<CommonArgs> for PimsimCli {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

#[derive(Debug, Subcommand)]
enum PimsimCommand {
    /// Say which policy and budget to choose for a KV dump, how much faster it is, at what loss, and why
    Try(super::try_::TryArgs),
    /// Replay traces on a system
    Run(ReplayArgs),
    /// Check command logs against the device's constraints
    Audit(Audit),
    /// Compare result tables: ratios to the first and changes from it
    Compare(Compare),
    /// Show runs and their accuracy metrics side by side, per decode step
    Summary(SummaryArgs),
    /// Show what policies keep by layer and query head, and where recall and output error disagree
    Accuracy(AccuracyArgs),
    /// Explain where the time of each run goes, and how much was fetched for what was wanted
    Explain(Explain),
    /// Run a grid of workloads and systems, without intermediate traces; resumes where it was stopped
    Sweep(super::sweep::SweepArgs),
    /// Find the mapping, placement and sizes at which each policy costs least, for each capability of the hardware
    Tune(super::tune::TuneArgs),
    /// Show the points of a sweep that no other beats in time, energy and error
    Frontier(super::sweep::FrontierArgs),
    /// Merge the tables of a sweep's shards
    Merge(super::sweep::Merge),
    /// Simulate every decode step of the STARC artifact's experiment
    Artifact(super::artifact::Artifact),
    /// Time and energy of a decode step end to end: GPUs, PIM devices, links
    System(super::system::SystemArgs),
    /// Fit a line to attention's latency against context, for LLMServingSim
    LatencyModel(super::latency_model::LatencyArgs),
    /// Run an experiment of a paper, and compare its results with the claims
    Reproduce(super::reproduce::ReproduceArgs),
    /// List, print or export the configurations and the sample cache that the programs hold inside
    Presets(super::presets::PresetsArgs),
    /// Put all that folders of results say on one page: tables, figures, provenance
    Report(super::report::ReportArgs),
    /// Draw columns of any table as SVG
    Plot(super::plot::PlotArgs),
    /// Print the documentation of every table column, as Markdown
    Schema,
    /// Print a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Write man pages, one for each command
    Man(manual::ManArgs),
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// Traces in any readable format (see tracegen list); - is standard input
    #[arg(required = true, value_name = "TRACE")]
    traces: Vec<PathBuf>,
    /// System to replay on
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: PathBuf,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for run.csv, steps.csv, phases.csv, layers.csv, heads.csv, channels.csv, origins.csv; without it run.csv goes
    /// to standard output
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace the tables of another run in DIR
    #[arg(long, requires = "output")]
    replace: bool,
    /// Also write every command to this file (one trace only); - is standard output. The PIM controller's commands are
    /// logged with the requests that they serve; for this every command is simulated, as with --engine plain
    #[arg(long, value_name = "FILE")]
    log: Option<WrittenFile>,
    #[command(flatten)]
    timelines: super::timeline::TimelineArgs,
    /// fast: recurring work is simulated once; plain: every command is simulated. Both give the same results
    #[arg(long, value_enum, default_value_t = EngineChoice::Fast)]
    engine: EngineChoice,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EngineChoice {
    Fast,
    Plain,
}

impl From<EngineChoice> for engine::Engine {
    fn from(engine: EngineChoice) -> Self {
        match engine {
            EngineChoice::Fast => engine::Engine::Fast,
            EngineChoice::Plain => engine::Engine::Plain,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Audit {
    /// Command logs, ours or Ramulator's, plain or zstd; - is standard input
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// System whose constraints the logs must obey
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: PathBuf,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print at most N violations of each log (default 20), and with --why at most N commands; all are counted
    #[arg(long, value_name = "N")]
    max: Option<usize>,
    /// Print how close each constraint came, as -v does
    #[arg(long)]
    slack: bool,
    /// Explain what held the commands, and where the cycles went; with -v, for each command. Takes logs that
    /// pimsim run --log wrote with the PIM controller
    #[arg(long)]
    why: bool,
    /// How to print the reasons of --why; csv prints nothing else, and sums over the logs
    #[arg(long, value_enum, default_value_t = TextOrCsv::Text, requires = "why")]
    format: TextOrCsv,
}

/// How the reasons of `--why` are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TextOrCsv {
    /// Aligned columns
    Text,
    /// CSV: reason, kind, commands, cycles
    Csv,
}

#[derive(Debug, clap::Args)]
struct Compare {
    /// Table to compare with, or a folder that `run -o` wrote, for its run.csv
    base: PathBuf,
    /// Tables to compare, or folders
    #[arg(required = true, value_name = "OTHER")]
    others: Vec<PathBuf>,
    /// Fail (exit 1) when any value differs by more than this many percent
    #[arg(long, value_name = "PCT")]
    tolerance: Option<f64>,
    /// Join rows on this column instead of the known key columns; may be given again
    #[arg(long, value_name = "COLUMN")]
    key: Vec<String>,
    /// Compare only this column; may be given again
    #[arg(long, value_name = "COLUMN")]
    column: Vec<String>,
    /// Compare rows of different caches, and runs of different steps
    #[arg(long)]
    unlike: bool,
    /// Write every compared value to this CSV; - is standard output, in place of the summary
    #[arg(short, long, value_name = "CSV")]
    output: Option<WrittenFile>,
}

#[derive(Debug, clap::Args)]
struct SummaryArgs {
    /// Folders that `run -o` wrote, or their run.csv
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Accuracy metrics; each belongs to the runs of the same selection (cache, policy, budget, parameters)
    #[arg(long, value_name = "M.csv", num_args = 1..)]
    metrics: Vec<PathBuf>,
    /// Set runs of different caches or steps side by side
    #[arg(long)]
    unlike: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

/// Rows of `accuracy`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AccuracyRows {
    /// A policy
    Policy,
    /// A policy in a layer
    Layer,
    /// A policy in a query head
    Head,
}

#[derive(Debug, clap::Args)]
struct AccuracyArgs {
    /// Metrics that `tracegen run --metrics` wrote, for one or more policies and budgets
    #[arg(required = true, value_name = "M.csv")]
    metrics: Vec<PathBuf>,
    /// What a row stands for
    #[arg(long, value_enum, default_value_t = AccuracyRows::Layer)]
    by: AccuracyRows,
    /// How to print it
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// Folders that `run -o` wrote, or their run.csv. Two runs are set side by side, and their difference is explained
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Explain each run for itself, also where there are two
    #[arg(long)]
    each: bool,
    /// Set runs of different caches or steps side by side
    #[arg(long, conflicts_with = "each")]
    unlike: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

/// The table of a folder of runs that says most.
const RUN_TABLE: &str = "run.csv";
/// Violations of a log that are printed.
const MAX_VIOLATIONS: usize = 20;
/// Bytes of lines that are printed together.
const PAGE: usize = 1 << 16;

/// Entry point of the binary.
pub fn main() -> ExitCode {
    ExitCode::from(with(std::env::args_os().collect()))
}

/// Runs the program with these arguments, the first of which is its name; the exit code.
pub fn with(args: Vec<OsString>) -> u8 {
    super::run(args, |cli: PimsimCli| match cli.command {
        PimsimCommand::Try(args) => super::try_::run(&args, &cli.common),
        PimsimCommand::Run(args) => run(&args, &cli.common),
        PimsimCommand::Audit(args) => audit(&args, &cli.common),
        PimsimCommand::Compare(args) => compare(&args),
        PimsimCommand::Summary(args) => summary(&args),
        PimsimCommand::Accuracy(args) => accuracy(&args),
        PimsimCommand::Explain(args) => explain(&args),
        PimsimCommand::Sweep(args) => super::sweep::sweep(&args, &cli.common),
        PimsimCommand::Tune(args) => super::tune::run(&args, &cli.common),
        PimsimCommand::Frontier(args) => super::sweep::frontier(&args),
        PimsimCommand::Merge(args) => super::sweep::merged(&args, &cli.common),
        PimsimCommand::Artifact(args) => super::artifact::run(&args, &cli.common),
        PimsimCommand::System(args) => super::system::run(&args, &cli.common),
        PimsimCommand::LatencyModel(args) => super::latency_model::run(&args, &cli.common),
        PimsimCommand::Reproduce(args) => super::reproduce::run(&args, &cli.common),
        PimsimCommand::Presets(args) => super::presets::run(&args, &cli.common),
        PimsimCommand::Report(args) => super::report::run(&args, &cli.common),
        PimsimCommand::Plot(args) => super::plot::run(&args),
        PimsimCommand::Schema => super::print(&super::tables_document()),
        PimsimCommand::Completions(args) => manual::completions(&args, PimsimCli::command()),
        PimsimCommand::Man(args) => manual::man(&args, PimsimCli::command()),
    })
}

fn run(args: &ReplayArgs, common: &CommonArgs) -> Result<()> {
    if args.log.is_some() && args.traces.len() > 1 {
        return Err(Error::Usage("--log takes one trace".into()));
    }
    args.timelines.check(args.traces.len())?;
    if args.output.is_none() && args.log.as_deref() == Some(Path::new("-")) {
        return Err(Error::Usage(
            "the log and the table cannot both go to standard output: name a folder with -o".into(),
        ));
    }
    let system = System::load(&args.config, &args.set)?;
    common.detail(|| format!("{}: assumed, not sourced: {}", system.device.name, system.device.assumed.join(", ")));
    let Some(dir) = &args.output else { return replay_to_stdout(args, &system, common) };
    let folder = RunOutput::open(dir, &args.traces, &system, args.replace)?;
    let mut tables = RunTables::csv(&system, true, |schema| Output::create(&folder.join(schema.file)))?;
    for path in &args.traces {
        replay(path, &system, args, &mut tables, common)?;
    }
    folder.commit(tables.finish()?)
}

/// Replays with run.csv on standard output, once all traces are replayed; a person at a terminal sees a summary of it instead.
fn replay_to_stdout(args: &ReplayArgs, system: &System, common: &CommonArgs) -> Result<()> {
    let mut tables = RunTables::csv(system, false, |_| Ok(Vec::new()))?;
    args.traces.iter().try_for_each(|path| replay(path, system, args, &mut tables, common))?;
    let table = tables.finish()?.concat();
    if !std::io::stdout().is_terminal() {
        return super::print(&String::from_utf8_lossy(&table));
    }
    let mut summary = Summary::default();
    summary.add_runs(table.as_slice(), RUN_TABLE)?;
    super::print(&summary.render(true, Style::Text)?)?;
    common.note("-o DIR keeps the tables; in a pipe this is run.csv");
    Ok(())
}

fn replay<S: TableSink>(
    path: &Path,
    system: &System,
    args: &ReplayArgs,
    tables: &mut RunTables<'_, S>,
    common: &CommonArgs,
) -> Result<()> {
    let name = path.display().to_string();
    let mut source = trace::open(fsio::open(path)?, &name, Some(system.addressing()))?;
    let mut progress = common.progress(&format!("replaying {name}"), None);
    let header = source.header().clone();
    header.selection.iter().flat_map(|of| &of.cautions).for_each(|caution| common.warn(&format!("{name}: {caution}")));
    let mut steps = tables.steps(&name, &header);
    let collector = Collector::with_steps(&system.device, &mut steps as &mut dyn Steps);
    // The engine does not number the requests of work that it looks up.
    let numbered = (args.log.is_some() || args.timelines.needs_requests()) && system.controller == Controller::Pim;
    let engine = if numbered { engine::Engine::Plain } else { args.engine.into() };
    let named = |e| match e {
        Error::Data { file, what } if file == "trace" => Error::data(&name, what),
        other => other,
    };
    let (source, mut progress) = (source.as_mut(), |n| progress.at(n));
    let cancel = &common.cancel;
    let mut watchers = Watchers::default();
    if let Some(log) = &args.log {
        watchers.log = Some(LogProbe::new(Output::create(log)?, &system.device));
    }
    args.timelines.watch(&mut watchers, system, &header, &name)?;
    let collector = if watchers.is_empty() {
        let mut collector = collector;
        replay::collect(cancel, engine, system, source, &mut collector, &mut progress).map_err(named)?;
        collector
    } else {
        let mut probes = (collector, watchers);
        replay::collect_and_watch(cancel, engine, system, source, &mut probes, &mut progress).map_err(named)?;
        let (collector, watchers) = probes;
        super::timeline::finish(watchers, args.log.as_deref())?;
        collector
    };
    let collector = collector.into_counts();
    finish_run(&header, &collector, steps)
}

fn audit(args: &Audit, common: &CommonArgs) -> Result<()> {
    let system = System::load(&args.config, &args.set)?;
    let device = &system.device;
    let (mut broken, mut logs) = (0, 0);
    let mut all = audit::why::Reasons::default();
    let csv = args.format == TextOrCsv::Csv;
    for path in &args.logs {
        let name = path.display().to_string();
        let max = args.max.unwrap_or(MAX_VIOLATIONS);
        let report = match args.why {
            false => audit::audit_until(&common.cancel, path, &system, max)?,
            true => {
                let (report, reasons) = why(path, &system, args, max, common)?;
                all.add(&reasons);
                if !csv {
                    super::print(&reasons.render(device, &name))?;
                }
                report
            }
        };
        if !csv {
            super::print(&report.render(device, &name, args.slack || common.verbose && !args.why))?;
        }
        broken += report.broken;
        logs += u32::from(report.broken > 0);
    }
    if csv {
        super::print(&all.csv(device)?)?;
    }
    match broken {
        0 => Ok(()),
        n => Err(Error::Check(format!("{n} violations in {logs} of {} logs", args.logs.len()))),
    }
}

/// Audits a log, finds what held its commands, and prints the commands that were asked for.
fn why(
    path: &Path,
    system: &System,
    args: &Audit,
    max: usize,
    common: &CommonArgs,
) -> Result<(audit::report::Report, audit::why::Reasons)> {
    let mut wanted = match (args.format, args.max) {
        (TextOrCsv::Csv, _) => 0,
        (TextOrCsv::Text, Some(n)) => n,
        (TextOrCsv::Text, None) if common.verbose => usize::MAX,
        (TextOrCsv::Text, None) => 0,
    };
    let mut text = String::new();
    let mut printed = Ok(());
    let result = audit::why::why_until(&common.cancel, path, system, max, &mut |held| {
        if wanted > 0 && printed.is_ok() {
            wanted -= 1;
            text.push_str(&held.line(&system.device));
            if text.len() > PAGE {
                printed = super::print(&text);
                text.clear();
            }
        }
    })?;
    printed?;
    super::print(&text)?;
    Ok(result)
}

fn compare(args: &Compare) -> Result<()> {
    let options = compare::CompareOptions { keys: args.key.clone(), columns: args.column.clone(), unlike: args.unlike };
    let others: Vec<PathBuf> = args.others.iter().map(|path| super::table_in(path, RUN_TABLE)).collect();
    let comparison = compare::compare_files(&super::table_in(&args.base, RUN_TABLE), &others, &options)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.output {
        let mut out = Output::create(path)?;
        comparison.write_csv(&mut out).map_err(|e| Error::io(path, e))?;
        out.commit()?;
    }
    if !to_stdout {
        let mut text = Vec::new();
        comparison.write_summary(&mut text).map_err(|e| Error::io("-", e))?;
        super::print(&String::from_utf8_lossy(&text))?;
    }
    args.tolerance.map_or(Ok(()), |percent| comparison.check(percent))
}

fn summary(args: &SummaryArgs) -> Result<()> {
    let mut summary = Summary::default();
    for path in &args.runs {
        let path = super::table_in(path, RUN_TABLE);
        summary.add_runs(fsio::open(&path)?, &path.display().to_string())?;
    }
    for path in &args.metrics {
        summary.add_metrics(fsio::open(path)?, &path.display().to_string())?;
    }
    super::print(&summary.render(args.unlike, args.format.into())?)
}

fn accuracy(args: &AccuracyArgs) -> Result<()> {
    let by = match args.by {
        AccuracyRows::Policy => Grouping::Policy,
        AccuracyRows::Layer => Grouping::Layer,
        AccuracyRows::Head => Grouping::Head,
    };
    let mut table = AccuracyTable::new(by);
    for path in &args.metrics {
        table.add(fsio::open(path)?, &path.display().to_string())?;
    }
    super::print(&table.render(args.format.into()))
}

fn explain(args: &Explain) -> Result<()> {
    let mut explanation = Explanation::default();
    for path in &args.runs {
        let folder = path.is_dir().then_some(path.as_path());
        let run = super::table_in(path, RUN_TABLE);
        explanation.add_runs(fsio::open(&run)?, &run.display().to_string())?;
        for (file, add) in Explanation::DETAILS {
            let Some(detail) = folder.map(|dir| dir.join(file)).filter(|file| file.exists()) else { continue };
            add(&mut explanation, fsio::open(&detail)?, &detail.display().to_string())?;
        }
    }
    super::print(&match explanation.runs() == 2 && !args.each {
        true => explanation.difference(args.unlike, args.format.into())?,
        false => explanation.render(args.format.into())?,
    })
}
