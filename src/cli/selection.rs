//! `tracegen import-selection`.

use super::CommonArgs;
use pimattn_core::error::Result;
use pimattn_tracegen::selection::import::{self, ImportOptions};
use pimattn_tracegen::selection::{Selection, SelectionScan};
use std::path::PathBuf;

/// Make a selection file, for run --selection, of what another program logs
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Log: a file, or a folder with one for each layer
    log: PathBuf,
    /// What the log is
    #[arg(long, value_enum, value_name = "FORMAT")]
    from: LogFormat,
    /// Selection to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Name of the policy, for tables
    #[arg(long, value_name = "NAME", default_value = "imported")]
    policy: String,
    /// Tokens of a page, of a log of pages
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    page: usize,
    /// Tokens before the first step, unless it is the first that the log has
    #[arg(long, value_name = "TOKENS")]
    prefill: Option<usize>,
    /// What selecting reads: none, bytes_per_token:BYTES, or MATRICESxVECTORSxELEMENTS
    #[arg(long, value_name = "SCAN", default_value = "none")]
    scan: String,
}

/// What a log is.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// Pages that an engine based on LServe logs as CSV
    Lserve,
    /// Boolean masks [query_head, query, token] as .npy, as the evaluation code of Quest and STARC makes them
    Masks,
}

/// `tracegen import-selection`.
pub fn import(args: &ImportArgs, common: &CommonArgs) -> Result<()> {
    let scan: SelectionScan = args.scan.parse().map_err(pimattn_core::error::Error::Usage)?;
    let options = ImportOptions { policy: args.policy.clone(), prefill: args.prefill, page: args.page.max(1), scan };
    let selection: Selection = match args.from {
        LogFormat::Lserve => import::lserve(&args.log, &options)?,
        LogFormat::Masks => import::masks(&args.log, &options)?,
    };
    selection.save(&args.output)?;
    common.note(&format!(
        "{}: {} lists from token {} on, {} tokens at most",
        args.output.display(),
        selection.lists(),
        selection.prefill(),
        selection.budget()
    ));
    Ok(())
}
