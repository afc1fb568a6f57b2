//! `pimsim report`, and what other commands make a page of their results with.

use super::places::WrittenFile;
use super::{CommonArgs, catalogue};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_report::page::{self, PageContext};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Folders that pimsim sweep, run -o, or tune wrote, or a table of theirs
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Accuracy metrics of tracegen run that lie elsewhere; each says which policy, budget and steps it is of
    #[arg(long, value_name = "M.csv", num_args = 1..)]
    metrics: Vec<PathBuf>,
    /// Title of the page; by default, the folders
    #[arg(long)]
    title: Option<String>,
    /// Page to write, as HTML that stands alone; - is standard output
    #[arg(short, long, value_name = "FILE.html")]
    output: WrittenFile,
}

/// `pimsim report`.
pub fn run(args: &ReportArgs, common: &CommonArgs) -> Result<()> {
    super::check_ending(&args.output, &["html", "htm"])?;
    let html = html(&args.folders, &args.metrics, args.title.as_deref().unwrap_or(""))?;
    write(&html, &args.output)?;
    if args.output.as_os_str() != "-" {
        common.note(&format!("{}: {} kB", args.output.display(), html.len().div_ceil(1000)));
    }
    Ok(())
}

/// The page of these folders, with metrics that lie elsewhere; an empty title becomes the folders' names.
///
/// # Errors
/// When a folder has nothing to show, a file cannot be read, or a table is damaged.
pub fn html(folders: &[PathBuf], metrics: &[PathBuf], title: &str) -> Result<String> {
    let catalogue = catalogue::catalogue();
    let program = concat!("pimsim ", env!("PIMATTN_VERSION"));
    let context = PageContext { catalogue: &catalogue, policy: &catalogue::policy_facts, program, title };
    page::page(folders, metrics, &context)
}

/// Writes a page; the file appears whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(html: &str, path: &Path) -> Result<()> {
    let mut out = Output::create(path)?;
    out.write_all(html.as_bytes()).map_err(|e| Error::io(path, e))?;
    out.commit()
}
