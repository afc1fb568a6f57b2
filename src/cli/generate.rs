//! `tracegen run`: KV cache to trace.

use super::CommonArgs;
use super::fit::layers;
use super::places::WrittenFile;
use super::tracegen::{Destination, Export};
use crate::presets::PresetKind;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::table::TypedWriter;
use pimattn_mapping::workload::Workload;
use pimattn_policies::selection::Selection;
use pimattn_trace as trace;
use pimattn_tracegen::generate::{CacheSet, Generator, MetricsRow, metrics_layout};
use std::path::PathBuf;
use std::sync::Mutex;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// Workload
    #[arg(long, value_name = "WORKLOAD", value_parser = super::named(PresetKind::Workload))]
    config: PathBuf,
    /// KV dump to use instead of the workload's: .safetensors, .npz, or a folder of .npy
    #[arg(long, value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    kv: Option<PathBuf>,
    /// Layers of the dump to run (0,4-7), ascending, instead of all (as --set layers=[...]); nothing is read of the others
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// Selection policy (as --set policy=P)
    #[arg(long, value_name = "POLICY", conflicts_with = "selection")]
    policy: Option<String>,
    /// Selection file in place of the policy: what each query head selects at each step
    #[arg(long, value_name = "SELECTION")]
    selection: Option<PathBuf>,
    /// Tokens that a query head may select (as --set budget=B). With --selection, without this: the budget that the file
    /// says, or the most tokens that it selects
    #[arg(long, value_name = "TOKENS")]
    budget: Option<usize>,
    /// Override a key of the workload file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Trace to write; - is standard output
    #[arg(short, long, value_name = "TRACE")]
    output: WrittenFile,
    /// Also write accuracy metrics, a row per step, layer and query head
    #[arg(long, value_name = "CSV")]
    metrics: Option<WrittenFile>,
    /// Also write what the run selects, as a selection file
    #[arg(long, value_name = "SELECTION")]
    save_selection: Option<WrittenFile>,
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
    args.set.extend(layers_key(args.layers.as_deref())?);
    let format = trace::format(&args.to)?;
    super::threads(args.threads)?;
    let mut generator = generator(&mut args, common)?;
    let selection = match args.save_selection.is_some() || generator.selects_first() {
        true => select(&mut generator, &args, common)?,
        false => None,
    };
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
    trace.commit(common)?;
    match (selection, &args.save_selection) {
        (Some(selection), Some(path)) => selection.save(path),
        _ => Ok(()),
    }
}

/// The key of a workload that `--layers` sets, where it is given.
pub(super) fn layers_key(given: Option<&str>) -> Result<Option<String>> {
    Ok(given.map(|text| layers("--layers", Some(text))).transpose()?.map(|layers| format!("layers={layers:?}")))
}

/// The generator of a policy, or of a selection file.
fn generator(args: &mut GenerateArgs, common: &CommonArgs) -> Result<Generator> {
    let Some(path) = &args.selection else {
        let (workload, doc) = Workload::load(&args.config, &args.set)?;
        let system = workload.load_system(&doc, &[])?;
        return Generator::load_for(&common.cancel, system, workload, &doc, args.kv.as_deref());
    };
    let sets = |key: &str| args.set.iter().any(|set| set.split_once('=').is_some_and(|(k, _)| k.trim() == key));
    if sets("policy") {
        return Err(Error::Usage("--selection takes the place of the policy: --set policy=... has no effect".into()));
    }
    let has_budget = sets("budget");
    let selection = Selection::load(path)?;
    args.set.push(format!("policy={}", toml::Value::from(selection.policy())));
    let (mut workload, mut doc) = Workload::load(&args.config, &args.set)?;
    let cached = CacheSet::load(&common.cancel, &workload, &doc, args.kv.as_deref())?;
    if !has_budget {
        let budget = selection.budget_on(&cached.caches()[0], workload.dense_layers)?;
        args.set.push(format!("budget={budget}"));
        (workload, doc) = Workload::load(&args.config, &args.set)?;
    }
    let system = workload.load_system(&doc, &[])?;
    Generator::load_imported(&cached, system, workload, &doc, args.kv.as_deref(), &selection)
}

/// What the run selects, made ahead of it, as a selection where it is to be saved; the run takes it then.
fn select(generator: &mut Generator, args: &GenerateArgs, common: &CommonArgs) -> Result<Option<Selection>> {
    let heads = generator.cache().layers.len() * generator.cache().kv_heads * generator.requests();
    let progress = Mutex::new(common.progress("selecting", Some(heads as u64)));
    let at = |n| progress.lock().unwrap_or_else(|e| e.into_inner()).at(n);
    let selections = generator.select(&common.cancel, args.metrics.is_some(), &at)?;
    let selection = args.save_selection.as_ref().map(|_| generator.selection(&selections)).transpose()?;
    generator.reuse(selections)?;
    Ok(selection)
}
