//! `pimsim latency-model`: attention's latency against context, for a simulator of serving.

use super::CommonArgs;
use super::places::WrittenFile;
use crate::presets::PresetKind;
use crate::simulate::simulate_until;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::spec::System;
use pimattn_core::spec::model::Model;
use pimattn_experiments::latency::{AttentionShape, LatencyModel, LatencyPoint, LatencySource, pim_config};
use pimattn_kv::synthetic::{self, SyntheticSpec};
use pimattn_mapping::workload::Workload;
use pimattn_tracegen::generate::Generator;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `pimsim latency-model`.
#[derive(Debug, clap::Args)]
pub(super) struct LatencyArgs {
    /// Model whose layer attends
    #[arg(long, value_name = "MODEL", value_parser = super::named(PresetKind::Model))]
    model: PathBuf,
    /// System of which one channel attends
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: PathBuf,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Selection policy (see tracegen list)
    #[arg(long, value_name = "NAME", default_value = "full")]
    policy: String,
    /// Tokens that a query head may select
    #[arg(long, value_name = "N", default_value_t = 1024)]
    budget: usize,
    /// Lengths of the prompts that the line is fitted to
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1024,2048,4096,8192")]
    contexts: Vec<usize>,
    /// Decode steps at each length; a whole period of the policy, for one that clusters now and then
    #[arg(long, value_name = "N", default_value_t = 64)]
    steps: usize,
    /// Seed of the synthetic cache
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Configuration to write, whose name is the device's for LLMServingSim; - is standard output
    #[arg(short, long, value_name = "NAME.ini", default_value = "-")]
    output: WrittenFile,
}

/// `pimsim latency-model`.
pub(super) fn run(args: &LatencyArgs, common: &CommonArgs) -> Result<()> {
    let model = Model::load(&args.model, &[])?;
    if args.steps == 0 || args.contexts.contains(&0) {
        return Err(Error::Usage("--steps and --contexts must be at least 1".into()));
    }
    // The formula has the latency on one channel, and divides it among those that share the heads.
    let system = System::load(&args.config, &[&args.set[..], &["channels=1".into()]].concat())?;
    let mut out = Output::create(&args.output)?;
    let mut contexts = args.contexts.clone();
    contexts.sort_unstable();
    contexts.dedup();
    let mut progress = common.progress("attention by context", Some(contexts.len() as u64));
    let mut points = Vec::with_capacity(contexts.len());
    for (done, prefill) in contexts.iter().enumerate() {
        progress.at(done as u64);
        points.push(attend(&model, &system, args, *prefill, common)?);
    }
    drop(progress);
    let shape = AttentionShape { heads: model.heads, kv_heads: model.kv_heads, head_dim: model.head_dim };
    let fitted = LatencyModel::fit(shape, points)?;
    let stem = args.output.file_name().map_or_else(|| "pim".into(), |name| name.to_string_lossy().into_owned());
    let stem = if stem == "-" { args.policy.clone() } else { stem };
    let name = |path: &Path| path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let about = vec![
        format!("Attention of a layer of {} on one channel of {} ({}),", model.name, system.name, system.device.preset),
        format!("policy {}, budget {}: pimsim latency-model {}", args.policy, args.budget, env!("CARGO_PKG_VERSION")),
        format!(
            "--model {} --config {} --steps {} --seed {}",
            name(&args.model),
            name(&args.config),
            args.steps,
            args.seed
        ),
        "The cache is synthetic; what is assumed of it is in docs/synthetic.md, of the device in its file:".into(),
        system.device.assumed.join(", "),
    ];
    // LLMServingSim takes the name up to the first dot.
    let stem = stem.split('.').next().unwrap_or_default().to_string();
    let text = pim_config(&fitted, &system, &LatencySource { stem, about });
    out.write_all(text.as_bytes()).map_err(|e| Error::io(&args.output, e))?;
    out.commit()?;
    let [slope, intercept] = fitted.base();
    let worst = 100.0 * fitted.worst_error();
    common.note(&format!("{slope:.4} ns a token and {intercept:.1} ns; the line is off by {worst:.2} % at most"));
    if fitted.intercept < 0.0 || fitted.slope < 0.0 {
        common.warn("the line has a negative slope or intercept: no line suits these contexts");
    }
    Ok(())
}

/// The attention of a layer, from a prompt of `prefill` tokens on.
fn attend(
    model: &Model,
    system: &System,
    args: &LatencyArgs,
    prefill: usize,
    common: &CommonArgs,
) -> Result<LatencyPoint> {
    let spec = SyntheticSpec {
        layers: 1,
        kv_heads: model.kv_heads as usize,
        query_heads: model.heads as usize,
        dim: model.head_dim as usize,
        prefill,
        decode_steps: args.steps,
        element_bytes: system.device.element_bytes,
        seed: args.seed,
        ..SyntheticSpec::default()
    };
    let workload = Workload { seed: args.seed, ..Workload::new(&args.policy, args.budget) };
    let generator = Generator::new(system.clone(), workload, synthetic::generate(&spec)?)?;
    let outcome = simulate_until(&common.cancel, &generator)?;
    let steps = args.steps as f64;
    Ok(LatencyPoint {
        context: prefill as f64 + (steps + 1.0) / 2.0,
        ns: outcome.time_ns / steps,
        mw: outcome.energy.total() / outcome.time_ns,
    })
}
