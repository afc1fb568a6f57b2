//! `tracegen run`: KV cache to trace.

use super::CommonArgs;
use super::tracegen::{Destination, Export};
use crate::presets::PresetKind;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::table::TypedWriter;
use pimattn_mapping::workload::Workload;
use pimattn_trace as trace;
use pimattn_tracegen::generate::{Generator, MetricsRow, metrics_layout};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// Workload
    #[arg(long, value_name = "WORKLOAD", value_parser = super::named(PresetKind::Workload))]
    config: PathBuf,
    /// KV dump to use instead of the workload's: .safetensors, .npz, or a folder of .npy
    #[arg(long, value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    kv: Option<PathBuf>,
    /// Selection policy (as --set policy=P)
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Tokens that a query head may select (as --set budget=B)
    #[arg(long, value_name = "TOKENS")]
    budget: Option<usize>,
    /// Override a key of the workload file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Trace to write; - is standard output
    #[arg(short, long, value_name = "TRACE")]
    output: PathBuf,
    /// Also write accuracy metrics, a row per step, layer and query head
    #[arg(long, value_name = "CSV")]
    metrics: Option<PathBuf>,
    /// Trace format
    #[arg(long, value_name = "FORMAT", default_value = "ptrace")]
    to: String,
    /// Worker threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    export: Export,
}

/// Runs `tracegen run`.
pub fn run(mut args: GenerateArgs, common: &CommonArgs) -> Result<()> {
    args.set.extend(args.policy.iter().map(|p| format!("policy={p}")));
    args.set.extend(args.budget.iter().map(|b| format!("budget={b}")));
    let format = trace::format(&args.to)?;
    if args.metrics.as_ref().is_some_and(|m| *m == args.output) {
        return Err(Error::Usage("the trace and the metrics cannot go to the same place".into()));
    }
    super::threads(args.threads)?;
    let (workload, doc) = Workload::load(&args.config, &args.set)?;
    let system = workload.load_system(&doc, &[])?;
    let generator = Generator::load_for(&common.cancel, system, workload, &doc, args.kv.as_deref())?;
    let c = generator.cache();
    common.detail(|| {
        format!(
            "{}: layers {:?}, {} query and {} KV heads of {}, prefill {}, {} decode steps",
            c.provenance,
            c.layers,
            c.query_heads,
            c.kv_heads,
            c.dim,
            c.prefill,
            generator.steps()
        )
    });
    generator.label().cautions.iter().for_each(|caution| common.warn(caution));
    let mut trace = Destination::create(format, &args.output, generator.header(), &args.export, None, &common.cancel)?;
    let mut progress = common.progress("generating", Some(generator.steps() as u64));
    match &args.metrics {
        None => generator.run_until(&common.cancel, trace.sink.as_mut(), None, &mut |n| progress.at(n))?,
        Some(path) => {
            let layout = metrics_layout();
            let mut writer = TypedWriter::new(Output::create(path)?, &path.display().to_string(), layout);
            let mut row = |row: &MetricsRow| writer.row(row);
            generator.run_until(&common.cancel, trace.sink.as_mut(), Some(&mut row), &mut |n| progress.at(n))?;
            writer.finish()?.commit()?;
        }
    }
    drop(progress);
    trace.commit(common)
}
