//! Schema of a plan (`configs/report/*.toml`): the experiment, and what the paper claims of it.

use crate::artifact::{self, ArtifactData};
use crate::paper::claims::Claim;
use crate::policies::{FULL, STARC};
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use pimattn_core::spec::model::Model;
use pimattn_experiments::end_to_end::platform::Platform;
use pimattn_experiments::end_to_end::switches::{Reference, Switches};
use pimattn_policies::select;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    name: String,
    title: String,
    batch: u32,
    prefill: u32,
    contexts: Vec<u32>,
    window_every: u32,
    dense_layers: u32,
    tables: String,
    artifact_system: String,
    platform: String,
    errors: Vec<f64>,
    fair: FairFile,
    grids: GridFiles,
    model: Vec<ModelEntry>,
    claim: Vec<Claim>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFiles {
    masks: String,
    choices: String,
    recall: String,
    ablation: String,
    tornado: String,
    design: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    name: String,
    artifact: String,
    file: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FairFile {
    policies: Vec<String>,
    error: f64,
    budgets: Vec<usize>,
    tune_steps: usize,
    layers: Vec<u32>,
    seeds: Vec<u64>,
    synthetic: FairSourceFile,
    real: FairSourceFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FairSourceFile {
    workload: String,
    budget: usize,
    #[serde(default)]
    steps: Option<usize>,
    #[serde(default)]
    prefill: Option<u32>,
    #[serde(default)]
    model: Option<String>,
}

/// Policies at several mappings, on several caches.
#[derive(Debug, Clone)]
pub struct FairPlan {
    /// Policies that are set against each other.
    pub policies: Vec<String>,
    /// Output error at which they are set against each other.
    pub error: f64,
    /// Budgets from which the smallest that keeps it is taken.
    pub budgets: Vec<usize>,
    /// Decode steps in which mappings are tuned.
    pub tune_steps: usize,
    /// Fitted layers of the synthetic caches.
    pub layers: Vec<u32>,
    /// Seeds of each.
    pub seeds: Vec<u64>,
    /// What the caches are of.
    pub sources: Vec<FairSource>,
}

/// A source of caches.
#[derive(Debug, Clone)]
pub struct FairSource {
    /// Workload file.
    pub workload: PathBuf,
    /// Overrides of it.
    pub overrides: Vec<String>,
    /// Tokens that a query head may select.
    pub budget: usize,
    /// Tokens of a synthetic cache when decoding begins.
    pub tokens: u32,
    /// The model whose stack the workload is, of synthetic caches.
    pub model: Option<ExperimentModel>,
}

impl FairSource {
    /// Whether its caches are of real dumps.
    pub fn is_real(&self) -> bool {
        self.model.is_none()
    }

    /// Its name in the tables.
    pub fn name(&self) -> &'static str {
        if self.is_real() { "real" } else { "synthetic" }
    }
}

/// Grids of sweeps.
#[derive(Debug, Clone)]
pub struct Grids {
    /// Windows of decode steps of every model and policy.
    pub masks: PathBuf,
    /// Budgets and contexts.
    pub choices: PathBuf,
    /// Budgets on a real cache.
    pub recall: PathBuf,
    /// One assumption changed at a time.
    pub ablation: PathBuf,
    /// Assumed values, each moved over a range.
    pub tornado: PathBuf,
    /// Devices.
    pub design: PathBuf,
}

/// A model of the experiment.
#[derive(Debug, Clone)]
pub struct ExperimentModel {
    /// Name in the tables, and of its variant in the grid of windows.
    pub name: String,
    /// As the artifact has it.
    pub artifact: artifact::ArtifactModel,
    /// Its shape.
    pub model: Model,
}

/// An experiment.
#[derive(Debug)]
pub struct ExperimentPlan {
    /// Short name.
    pub name: String,
    /// Title of the report.
    pub title: String,
    /// Requests decoded together.
    pub batch: u32,
    /// Tokens of each prompt.
    pub prefill: u32,
    /// Tokens generated of each request.
    pub contexts: Vec<u32>,
    /// A window of the grid stands for so many decode steps.
    pub window_every: u32,
    /// Layers that stay full in real-mask mode.
    pub dense_layers: u32,
    /// Folder of the artifact's row budgets.
    pub tables: PathBuf,
    /// System of a stack in artifact mode.
    pub artifact_system: PathBuf,
    /// Platform file.
    pub platform: PathBuf,
    /// Errors at which policies are set against each other.
    pub errors: Vec<f64>,
    /// Policies at several mappings.
    pub fair: FairPlan,
    /// Grids.
    pub grids: Grids,
    /// Models.
    pub models: Vec<ExperimentModel>,
    /// Policies of artifact mode.
    pub policies: Vec<artifact::ArtifactPolicy>,
    /// What the paper claims.
    pub claims: Vec<Claim>,
}

impl ExperimentPlan {
    /// Loads a plan with overrides.
    pub fn load(file: &Path, overrides: &[String]) -> Result<ExperimentPlan> {
        let doc = Document::load(file, overrides)?;
        doc.expect(PresetKind::Plan)?;
        let f: PlanFile = doc.decode()?;
        let path = |kind: PresetKind, key: &str, path: &str| doc.resolve_path(kind, key, path);
        let positive = [("batch", f.batch), ("prefill", f.prefill), ("window_every", f.window_every)];
        if let Some((key, _)) = positive.iter().find(|(_, n)| *n == 0) {
            return Err(doc.error(key, format!("{key} is 0")));
        }
        if f.contexts.is_empty() || f.contexts.iter().any(|c| *c < 2 || c % f.window_every != 0) {
            let what = format!("expected whole multiples of window_every = {}", f.window_every);
            return Err(doc.error("contexts", what));
        }
        for (i, claim) in f.claim.iter().enumerate() {
            claim.check().map_err(|what| doc.error(&format!("claim[{i}]"), what))?;
            for (j, policy) in claim.against.iter().enumerate() {
                select::find(policy).map_err(|what| doc.error(&format!("claim[{i}].against[{j}]"), what))?;
            }
        }
        let published = ArtifactData::load()?;
        let entry = |(i, m): (usize, &ModelEntry)| {
            let known = published.model(&m.artifact);
            let known = known.map_err(|e| doc.error(&format!("model[{i}].artifact"), e.to_string()))?;
            let artifact = known.clone();
            let file = path(PresetKind::Model, &format!("model[{i}].file"), &m.file)?;
            Ok(ExperimentModel { name: m.name.clone(), artifact, model: Model::load(&file, &[])? })
        };
        let models = f.model.iter().enumerate().map(entry).collect::<Result<Vec<_>>>()?;
        if models.is_empty() {
            return Err(doc.error("", "no [[model]]"));
        }
        let fair = fair(&doc, f.fair, &models)?;
        Ok(ExperimentPlan {
            fair,
            grids: Grids {
                masks: path(PresetKind::Grid, "grids.masks", &f.grids.masks)?,
                choices: path(PresetKind::Grid, "grids.choices", &f.grids.choices)?,
                recall: path(PresetKind::Grid, "grids.recall", &f.grids.recall)?,
                ablation: path(PresetKind::Grid, "grids.ablation", &f.grids.ablation)?,
                tornado: path(PresetKind::Grid, "grids.tornado", &f.grids.tornado)?,
                design: path(PresetKind::Grid, "grids.design", &f.grids.design)?,
            },
            tables: path(PresetKind::Budgets, "tables", &f.tables)?,
            artifact_system: path(PresetKind::System, "artifact_system", &f.artifact_system)?,
            platform: path(PresetKind::Platform, "platform", &f.platform)?,
            name: f.name,
            title: f.title,
            batch: f.batch,
            prefill: f.prefill,
            contexts: f.contexts,
            window_every: f.window_every,
            dense_layers: f.dense_layers,
            errors: f.errors,
            models,
            policies: published.policies,
            claims: f.claim,
        })
    }

    /// Leaves only the models of these names, if there are any.
    ///
    /// # Errors
    /// When one is not of the plan.
    pub fn only(&mut self, names: &[String]) -> Result<()> {
        if let Some(name) = names.iter().find(|name| !self.models.iter().any(|m| m.name == **name)) {
            let hint = suggest(name, self.models.iter().map(|m| m.name.as_str()));
            return Err(Error::Usage(format!("the plan has no model \"{name}\"{hint}")));
        }
        self.models.retain(|m| names.is_empty() || names.contains(&m.name));
        Ok(())
    }

    /// The platform, as the artifact's simulator has it or as it is, and a stack of it.
    pub fn platform(&self, published: bool) -> Result<(Platform, System)> {
        let switches = if published { Switches::of(Reference::Starc) } else { Switches::default() };
        let platform = Platform::load(&self.platform, &[], switches)?;
        match platform.pim.as_ref().map(|pim| pim.stack(true)) {
            Some(stack) => Ok((platform, stack?)),
            None => {
                let at = self.platform.display().to_string();
                Err(Error::Config { at, what: "the experiment needs a platform with PIM devices ([pim])".into() })
            }
        }
    }
}

/// The part of a plan on mappings.
fn fair(doc: &Document, file: FairFile, models: &[ExperimentModel]) -> Result<FairPlan> {
    for (i, policy) in file.policies.iter().enumerate() {
        select::find(policy).map_err(|what| doc.error(&format!("fair.policies[{i}]"), what))?;
    }
    for needed in [FULL, STARC] {
        if !file.policies.iter().any(|policy| policy == needed) {
            return Err(
                doc.error("fair.policies", format!("\"{needed}\" is missing, which the others are set against"))
            );
        }
    }
    let lists = [("budgets", file.budgets.len()), ("layers", file.layers.len()), ("seeds", file.seeds.len())];
    if let Some((key, _)) = lists.iter().find(|(_, n)| *n == 0) {
        return Err(doc.error(&format!("fair.{key}"), "an empty list"));
    }
    if file.tune_steps == 0 {
        return Err(doc.error("fair.tune_steps", "tune_steps is 0"));
    }
    let source = |key: &str, source: FairSourceFile| {
        let at = |name: &str| format!("fair.{key}.{name}");
        let missing = |name: &str| doc.error(&format!("fair.{key}"), format!("{name} is missing"));
        let (mut overrides, mut tokens, mut model) = (Vec::new(), 0, None);
        if key == "synthetic" {
            tokens = source.prefill.ok_or_else(|| missing("prefill"))?;
            overrides.push(format!("synthetic.prefill={tokens}"));
            let name = source.model.as_ref().ok_or_else(|| missing("model"))?;
            let found = models.iter().find(|m| m.name == *name);
            let known = || suggest(name, models.iter().map(|m| m.name.as_str()));
            model = Some(found.ok_or_else(|| doc.error(&at("model"), format!("no [[model]] \"{name}\"{}", known())))?);
        } else if source.prefill.is_some() || source.model.is_some() {
            return Err(doc.error(&format!("fair.{key}"), "a dump has its own length, and is of no [[model]]"));
        }
        overrides.extend(source.steps.map(|steps| format!("steps={steps}")));
        Ok(FairSource {
            workload: doc.resolve_path(PresetKind::Workload, &at("workload"), &source.workload)?,
            overrides,
            budget: source.budget,
            tokens,
            model: model.cloned(),
        })
    };
    let sources = vec![source("real", file.real)?, source("synthetic", file.synthetic)?];
    Ok(FairPlan {
        sources,
        policies: file.policies,
        error: file.error,
        budgets: file.budgets,
        tune_steps: file.tune_steps,
        layers: file.layers,
        seeds: file.seeds,
    })
}
