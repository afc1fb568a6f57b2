//! `pimsim plot`.

use super::places::WrittenFile;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{self, Output};
use pimattn_report::chart::{Chart, Placeless};
use pimattn_report::plot::Scale;
use std::io::Write;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct PlotArgs {
    /// Table to draw; - is standard input
    #[arg(value_name = "TABLE.csv")]
    table: PathBuf,
    /// Column of the x axis; with --bars, one group of bars for each value
    #[arg(long, value_name = "COLUMN")]
    x: String,
    /// Column of the y axis, or A/B for one column over another, as time_ns/steps. May be given again: each column gets a
    /// panel, or with --bars is a part of every bar
    #[arg(long, value_name = "COLUMN", required = true)]
    y: Vec<String>,
    /// Column whose values give separate lines, or separate bars in a group; may be given again
    #[arg(long, value_name = "COLUMN")]
    by: Vec<String>,
    /// Column whose values give separate panels; may be given again
    #[arg(long, value_name = "COLUMN")]
    panel: Vec<String>,
    /// Draw only rows that have this cell; may be given again
    #[arg(long = "where", value_name = "COLUMN=CELL")]
    only: Vec<String>,
    /// Draw stacked bars instead of lines
    #[arg(long)]
    bars: bool,
    /// Use a logarithmic x axis
    #[arg(long, conflicts_with = "bars")]
    log_x: bool,
    /// Use a logarithmic y axis
    #[arg(long, conflicts_with = "bars")]
    log_y: bool,
    /// Title; by default, the y columns by the x column
    #[arg(long)]
    title: Option<String>,
    /// Number of panels side by side
    #[arg(long, value_name = "N", default_value_t = 2)]
    columns: usize,
    /// Figure to write, as SVG; - is standard output
    #[arg(short, long, value_name = "FILE.svg")]
    output: WrittenFile,
}

/// `pimsim plot`.
pub fn run(args: &PlotArgs) -> Result<()> {
    super::check_ending(&args.output, &["svg"])?;
    let only = args.only.iter().map(|text| match text.split_once('=') {
        Some((column, cell)) => Ok((column.to_string(), cell.to_string())),
        None => Err(Error::Usage(format!("--where {text}: expected COLUMN=CELL"))),
    });
    let chart = Chart {
        x: args.x.clone(),
        y: args.y.clone(),
        by: args.by.clone(),
        panels: args.panel.clone(),
        only: only.collect::<Result<_>>()?,
        bars: args.bars,
        x_scale: if args.log_x { Scale::Log } else { Scale::Linear },
        y_scale: if args.log_y { Scale::Log } else { Scale::FromZero },
        title: args.title.clone(),
        columns: args.columns,
        placeless: super::catalogue::heedless()
            .map(|policy| Placeless { x: columns::BUDGET.into(), told: (columns::POLICY.into(), policy.into()) })
            .collect(),
        catalogue: super::catalogue::catalogue(),
    };
    let svg = chart.figure(fsio::open(&args.table)?, &args.table.display().to_string())?.svg()?;
    let mut out = Output::create(&args.output)?;
    out.write_all(svg.as_bytes()).map_err(|e| Error::io(&args.output, e))?;
    out.commit()
}
