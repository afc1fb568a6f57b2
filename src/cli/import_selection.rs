//! `tracegen import-selection`: selections that other programs have logged.

use super::CommonArgs;
use super::places::WrittenFile;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_policies::selection::ScanRule;
use pimattn_policies::selection::import::masks::MaskOptions;
use pimattn_policies::selection::import::pages::PageLogOptions;
use pimattn_policies::selection::import::{FORMS, Imported, MASKS, PAGES, masks, pages};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Log to read: a file, or a folder with a file for each layer
    input: PathBuf,
    /// Form of the log: page-log or masks (tracegen list says what they are)
    #[arg(long, value_name = "FORM")]
    from: String,
    /// Selection file to write; - is standard output
    #[arg(short, long, value_name = "SELECTION")]
    output: WrittenFile,
    /// Name of the policy that made it, for reports
    #[arg(long, value_name = "NAME")]
    policy: String,
    /// What selecting reads: none, bytes_per_token:X, or matrices, vectors and elements as in 2x128x64
    #[arg(long, value_name = "SCAN", default_value = "none")]
    scan: String,
    /// Tokens before the first step; of masks, instead of as many as make the last step see all tokens
    #[arg(long, value_name = "TOKENS")]
    prefill: Option<usize>,
    /// Tokens of a page (page-log)
    #[arg(long, value_name = "TOKENS")]
    page: Option<u32>,
    /// Decode steps for which a head keeps its pages, at most (page-log) [default: 4, as LServe]
    #[arg(long, value_name = "STEPS")]
    every: Option<usize>,
    /// Query heads for which a head of the log stands (page-log) [default: 1]
    #[arg(long, value_name = "N")]
    group: Option<usize>,
    /// Request of the batch, where the log has several (page-log)
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Layers of a log without a header (page-log)
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
}

/// Runs `tracegen import-selection`.
pub fn run(args: &ImportArgs, common: &CommonArgs) -> Result<()> {
    let scan = ScanRule::parse(&args.scan).map_err(|e| Error::Usage(format!("--scan: {e}")))?;
    let Imported { selection, notes } = match args.from.as_str() {
        name if name == PAGES.name => page_log(args)?,
        name if name == MASKS.name => of_masks(args)?,
        other => {
            let hint = suggest(other, FORMS.iter().map(|form| form.name));
            return Err(Error::Usage(format!("--from: unknown form \"{other}\"{hint}")));
        }
    };
    let selection = selection.with_scan(scan);
    notes.iter().for_each(|note| common.warn(note));
    if let (Some(layers), Some(heads), Some(steps)) = (selection.layers(), selection.query_heads(), selection.steps()) {
        let prefill = selection.prefill();
        common.note(&format!(
            "{layers} layers of {heads} query heads, {steps} steps behind a prefill of {prefill} tokens"
        ));
    }
    selection.save(&args.output)
}

fn page_log(args: &ImportArgs) -> Result<Imported> {
    let unsaid = match (args.layers, args.prefill) {
        (None, None) => None,
        (Some(layers), Some(prefill)) => Some((layers, prefill)),
        _ => return Err(Error::Usage("--layers and --prefill are of a log without a header, and go together".into())),
    };
    let options = PageLogOptions {
        policy: args.policy.clone(),
        page: args.page.ok_or_else(|| Error::Usage("--from page-log needs --page, the tokens of a page".into()))?,
        every: args.every.unwrap_or(4),
        group: args.group.unwrap_or(1),
        batch: args.batch,
        unsaid,
    };
    pages::import(&args.input, &options)
}

fn of_masks(args: &ImportArgs) -> Result<Imported> {
    let ImportArgs { page, every, group, batch, layers, .. } = args;
    let of_pages = [
        ("--page", page.is_some()),
        ("--every", every.is_some()),
        ("--group", group.is_some()),
        ("--batch", batch.is_some()),
        ("--layers", layers.is_some()),
    ];
    if let Some((option, _)) = of_pages.iter().find(|(_, given)| *given) {
        return Err(Error::Usage(format!("{option} is of page logs; masks say it themselves")));
    }
    masks::import(&args.input, &MaskOptions { policy: args.policy.clone(), prefill: args.prefill })
}
