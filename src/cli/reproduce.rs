//! `pimsim reproduce`.

use super::CommonArgs;
use crate::presets::PresetKind;
use pimattn_core::error::Result;
use pimattn_starc::reproduce::plan::ExperimentPlan;
use pimattn_starc::reproduce::{self, ReproduceOptions};
use std::path::PathBuf;
use std::sync::Mutex;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct ReproduceArgs {
    /// Experiment, with the claims of the paper
    #[arg(value_name = "PLAN", value_parser = super::named(PresetKind::Plan))]
    plan: PathBuf,
    /// Override a key of the plan; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run only this model; may be given again
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Folder for tables, figures and REPORT.md
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Folder of finished points; these are not run again
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// KV dump for the parts on real caches, instead of the bundled sample; may be given again
    #[arg(long, value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    kv: Vec<PathBuf>,
    /// Worker threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// Runs the command.
pub fn run(args: &ReproduceArgs, common: &CommonArgs) -> Result<()> {
    let mut plan = ExperimentPlan::load(&args.plan, &args.set)?;
    plan.only(&args.model)?;
    super::threads(args.threads)?;
    let workers = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let options = ReproduceOptions {
        output: args.output.clone(),
        work: args.work.clone(),
        kv: args.kv.clone(),
        workers,
        cancel: common.cancel.clone(),
    };
    let shown = Mutex::new((String::new(), None));
    reproduce::run(&plan, &options, &|what, done, all| {
        let mut shown = shown.lock().unwrap_or_else(|e| e.into_inner());
        if shown.0 != what {
            common.detail(|| what.to_string());
            *shown = (what.into(), Some(common.progress(what, Some(all))));
        }
        if let Some(progress) = &mut shown.1 {
            progress.at(done);
        }
    })?;
    common.note(&format!("{}: {}", plan.name, args.output.join("REPORT.md").display()));
    Ok(())
}
