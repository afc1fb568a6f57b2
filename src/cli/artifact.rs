//! `pimsim artifact`: the STARC artifact's experiment.

use super::CommonArgs;
use super::table_output::TableOutput;
use crate::presets::PresetKind;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::OutputFolder;
use pimattn_core::spec::System;
use pimattn_core::table::{TableLayout, TypedWriter};
use pimattn_starc::artifact::{
    ArtifactBar, ArtifactData, ArtifactModel, ArtifactPolicy, BARS, Budgets, Experiment, STEPS,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Debug, clap::Args)]
pub struct Artifact {
    /// System of one stack; attacc-compat.toml is the reference's
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: PathBuf,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the artifact's budget tables, kv_budget_<Llama|GPT|Mistral>_<Quest|SparQ|STARC>.txt or .txt.zst, such
    /// as the preset kv_budget
    #[arg(long, value_name = "DIR", value_parser = super::named(PresetKind::Budgets))]
    tables: Option<PathBuf>,
    /// Budgets of one model and one policy: a number of tokens a line, one for each decode step
    #[arg(long, value_name = "FILE", conflicts_with = "tables", requires_all = ["model", "policy"])]
    kv_budget_table: Option<PathBuf>,
    /// LLAMA-7B, GPT-13B or Mistral-7B; may be given again; default: all
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// full, quest, sparq or starc; may be given again; default: all
    #[arg(long, value_name = "POLICY")]
    policy: Vec<String>,
    /// Tokens generated for each request; may be given again
    #[arg(long, value_name = "TOKENS", default_values_t = [16000, 24000, 32000])]
    context: Vec<u32>,
    /// Tokens in the prompt of each request
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    prefill: u32,
    /// Requests that are decoded together
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: u32,
    /// Which policies are charged for the artifact's clustering. own: those that cluster; all: every one with a table
    /// (the artifact as published); none: no policy
    #[arg(long, value_enum, default_value_t = ClusteringChoice::Own)]
    clustering: ClusteringChoice,
    /// Folder for bars.csv and steps.csv; without it bars.csv goes to standard output
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Worker threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ClusteringChoice {
    Own,
    All,
    None,
}

/// Runs the command.
pub fn run(args: &Artifact, common: &CommonArgs) -> Result<()> {
    let system = System::load(&args.config, &args.set)?;
    let bars = bars(args)?;
    super::threads(args.threads)?;
    let mut experiment = simulate(&system, &bars, common)?;
    common.detail(|| {
        let steps: u64 = bars.iter().map(|b| u64::from(b.steps())).sum();
        format!("{} bars, {steps} steps, {} different ones, each replayed once", bars.len(), experiment.replays())
    });
    let Some(folder) = &args.output else {
        let mut bars = writer(Path::new("-"), TableLayout::of(BARS))?;
        experiment.rows(&mut |row| bars.row(row), None)?;
        return bars.finish()?.commit();
    };
    let folder = OutputFolder::create(folder)?;
    let mut bars = writer(&folder.join("bars.csv"), TableLayout::of(BARS))?;
    let mut steps = writer(&folder.join("steps.csv"), TableLayout::of(STEPS))?;
    experiment.rows(&mut |row| bars.row(row), Some(&mut |row| steps.row(row)))?;
    steps.finish()?.commit()?;
    bars.finish()?.commit()
}

fn simulate<'a>(system: &'a System, bars: &'a [ArtifactBar], common: &CommonArgs) -> Result<Experiment<'a>> {
    let progress = Mutex::new(common.progress("simulating", None));
    Experiment::new(&common.cancel, system, bars, &|done, all| {
        let mut progress = progress.lock().unwrap_or_else(|e| e.into_inner());
        progress.of(all);
        progress.at(done);
    })
}

fn writer<R: 'static>(path: &Path, layout: TableLayout<R>) -> Result<TypedWriter<TableOutput, R>> {
    Ok(TypedWriter::new(TableOutput::create(path)?, &path.display().to_string(), layout))
}

/// The bars asked for, by model, context and policy.
fn bars(args: &Artifact) -> Result<Vec<ArtifactBar>> {
    let published = ArtifactData::load()?;
    let models = all_or(&args.model, &published.models, |name| published.model(name))?;
    let policies = all_or(&args.policy, &published.policies, |name| published.policy(name))?;
    if args.kv_budget_table.is_some()
        && (models.len() > 1 || policies.len() > 1 || policies.iter().any(|p| p.table.is_none()))
    {
        let what = "--kv-budget-table has the budgets of one --model and one --policy, other than full";
        return Err(Error::Usage(what.into()));
    }
    let mut bars = Vec::new();
    for model in models {
        let mut budgets = Vec::new();
        for policy in &policies {
            let path = table(args, model, policy)?;
            budgets.push(path.map(|p| Budgets::read(&p).map(Arc::new)).transpose()?);
        }
        for context in &args.context {
            for (policy, budgets) in policies.iter().zip(&budgets) {
                let clustering = match args.clustering {
                    ClusteringChoice::Own => policy.clusters,
                    ClusteringChoice::All => policy.table.is_some(),
                    ClusteringChoice::None => false,
                };
                let (batch, prefill) = (args.batch, args.prefill);
                let (model, context, budgets) = (model.clone(), *context, budgets.clone());
                let policy = ArtifactPolicy::clone(policy);
                bars.push(ArtifactBar { model, policy, batch, prefill, context, budgets, clustering });
            }
        }
    }
    Ok(bars)
}

/// Those named, or all.
fn all_or<'a, T>(names: &[String], all: &'a [T], find: impl Fn(&str) -> Result<&'a T>) -> Result<Vec<&'a T>> {
    if names.is_empty() { Ok(all.iter().collect()) } else { names.iter().map(|n| find(n)).collect() }
}

/// Where the budgets of a model and a policy are.
fn table(args: &Artifact, model: &ArtifactModel, policy: &ArtifactPolicy) -> Result<Option<PathBuf>> {
    let Some(name) = policy.table_name(model) else { return Ok(None) };
    let at = |dir: &Path| policy.table_in(dir, model);
    match args.kv_budget_table.clone().or(args.tables.as_deref().and_then(at)) {
        Some(path) => Ok(Some(path)),
        None => Err(Error::Usage(format!(
            "{} needs its budgets: name the folder of {name} with --tables, or the file with --kv-budget-table",
            policy.name
        ))),
    }
}
