//! Policies at three mappings: the artifact's account, the workload's own, and the best that tuning finds for each; at equal budget, and
//! at equal output error. On all fitted layers, drawn with several seeds, and on the layers of real dumps.
//!
//! The best mapping is found on one cache (the first layer of the plan's list and the first seed, or the first layer of the first dump)
//! and runs on all of them, so that no policy is fitted to what it is measured on.

use super::ProgressFn;
use super::ReproduceOptions;
use super::bootstrap::{PairedCost, interval};
use super::columns::{IntervalRow, MappingRow};
use super::masks::StepModel;
use super::plan::{ExperimentPlan, FairPlan, FairSource};
use crate::policies::{FULL, STARC, heeds_budget};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::config::Document;
use pimattn_experiments::end_to_end::table as step_cost;
use pimattn_experiments::sweep::batch::{BatchEvent, BatchJob, JobBatch};
use pimattn_experiments::sweep::grid::Job;
use pimattn_experiments::sweep::point;
use pimattn_experiments::sweep::shared::{SharedBasis, SharedWork};
use pimattn_experiments::sweep::table::SweepRow;
use pimattn_experiments::tune::space::Capability;
use pimattn_experiments::tune::table::TunedRow;
use pimattn_experiments::tune::{Objective, TuneEvent, TunePlan, tune};
use pimattn_mapping::workload::Workload;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The override of the artifact's account.
const ARTIFACT: &str = "mapping.addressing=ideal";

/// A mapping at which policies are set against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FairMapping {
    /// The artifact's account, which has no rows.
    Artifact,
    /// The workload's own.
    Default,
    /// The best of each policy.
    Best,
    /// The best of each policy, at the budget that keeps the mean output error within the limit.
    BestAtError,
}

impl FairMapping {
    /// All, in the order of the tables.
    pub const ALL: [FairMapping; 4] =
        [FairMapping::Artifact, FairMapping::Default, FairMapping::Best, FairMapping::BestAtError];

    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            FairMapping::Artifact => "artifact",
            FairMapping::Default => "default",
            FairMapping::Best => "best",
            FairMapping::BestAtError => "best-at-error",
        }
    }
}

/// What is found of all sources.
pub struct FairTables {
    /// Rows of mappings.csv.
    pub mappings: Vec<MappingRow>,
    /// Rows of intervals.csv.
    pub intervals: Vec<IntervalRow>,
}

/// A cache that policies run on.
struct FairCache {
    /// What the bootstrap draws first.
    layer: usize,
    overrides: Vec<String>,
    kv: Option<PathBuf>,
}

/// What a policy does at a mapping.
struct FairSetting {
    budget: usize,
    overrides: Vec<String>,
    arguments: String,
}

/// Runs what is not there yet.
pub fn run(plan: &ExperimentPlan, options: &ReproduceOptions, progress: ProgressFn<'_>) -> Result<FairTables> {
    let mut tables = FairTables { mappings: Vec::new(), intervals: Vec::new() };
    for source in &plan.fair.sources {
        let kvs = if source.is_real() { options.kv.as_slice() } else { &[] };
        let caches = caches(plan, source, kvs, options)?;
        let settings = settings(plan, source, &caches, options, progress)?;
        let rows = measure(plan, source, &caches, &settings, options, progress)?;
        let end_to_end = match &source.model {
            Some(_) => end_to_end(plan, source, &caches, &settings, &rows)?,
            None => BTreeMap::new(),
        };
        for ((policy, mapping), setting) in &settings {
            let of = &rows[&(policy.clone(), *mapping)];
            tables.mappings.push(mapping_row(source, policy, *mapping, setting, &caches, of)?);
        }
        tables.intervals.extend(intervals(plan, source, &caches, &rows, &end_to_end));
    }
    Ok(tables)
}

/// By policy, in the order of the plan, and mapping.
type BySetting<T> = BTreeMap<(PolicyName, FairMapping), T>;

/// A policy, ordered by its place in the plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PolicyName {
    place: usize,
    name: String,
}

fn base(source: &FairSource, overrides: &[String]) -> Result<Document> {
    Document::load(&source.workload, &source.overrides)?.with(overrides)
}

fn job(source: &FairSource, cache: &FairCache, overrides: &[String]) -> Result<Job> {
    let doc = base(source, &[cache.overrides.as_slice(), overrides].concat())?;
    Job::of(Workload::of(&doc)?, doc, &[], cache.kv.clone())
}

/// The caches of a source: a layer and a seed each, or a layer of a dump.
fn caches(
    plan: &ExperimentPlan,
    source: &FairSource,
    kvs: &[PathBuf],
    options: &ReproduceOptions,
) -> Result<Vec<FairCache>> {
    let FairPlan { layers, seeds, .. } = &plan.fair;
    if !source.is_real() {
        let of = |(place, layer): (usize, &u32)| {
            seeds
                .iter()
                .map(move |seed| FairCache {
                    layer: place,
                    overrides: vec![format!("synthetic.layer_numbers=[{layer}]"), format!("seed={seed}")],
                    kv: None,
                })
                .collect::<Vec<_>>()
        };
        return Ok(layers.iter().enumerate().flat_map(of).collect());
    }
    let dumps: Vec<Option<PathBuf>> = match kvs {
        [] => vec![None],
        kvs => kvs.iter().cloned().map(Some).collect(),
    };
    let mut out = Vec::new();
    for kv in dumps {
        let whole = FairCache { layer: 0, overrides: vec![format!("policy={FULL}")], kv: kv.clone() };
        let generator = point::load(&options.cancel, &job(source, &whole, &[])?)?;
        for layer in &generator.cache().layers {
            let overrides = vec![format!("layers=[{layer}]"), "dense_layers=0".into()];
            out.push(FairCache { layer: out.len(), overrides, kv: kv.clone() });
        }
    }
    Ok(out)
}

/// What each policy does at each mapping; the best is found on one cache, in the first steps of the plan.
fn settings(
    plan: &ExperimentPlan,
    source: &FairSource,
    caches: &[FairCache],
    options: &ReproduceOptions,
    progress: ProgressFn<'_>,
) -> Result<BySetting<FairSetting>> {
    let fair = &plan.fair;
    let what = format!("{}: tuning on {} caches", plan.name, source.name());
    let cache = &caches[0];
    let tuned = {
        let plan = TunePlan {
            base: base(source, &[cache.overrides.as_slice(), &[format!("steps={}", fair.tune_steps)]].concat())?,
            of_system: Vec::new(),
            kv: cache.kv.clone(),
            policies: fair.policies.clone(),
            budgets: vec![source.budget],
            objective: Objective::Time,
            at_most: None,
            capabilities: vec![Capability::BankGroup.name().into()],
            method: None,
        };
        let folder = options.work.join(format!("tune-{}", source.name()));
        let mut tell = |event: TuneEvent<'_>| {
            if let TuneEvent::Runs(n) = event {
                progress(&what, n, n);
            }
        };
        tune(&plan, &folder, options.workers, &options.cancel, &mut tell)?.rows
    };
    let mut out = BTreeMap::new();
    let mut shared = SharedWork::default();
    for (place, name) in fair.policies.iter().enumerate() {
        let key = |mapping| (PolicyName { place, name: name.clone() }, mapping);
        let own = vec![format!("policy={name}"), format!("budget={}", source.budget)];
        let mut ideal = own.clone();
        ideal.push(ARTIFACT.into());
        let setting = |overrides| FairSetting { budget: source.budget, overrides, arguments: String::new() };
        out.insert(key(FairMapping::Artifact), setting(ideal));
        out.insert(key(FairMapping::Default), setting(own));
        let Some(best) = tuned.iter().find(|row| row.policy == *name) else { continue };
        let TunedRow { budget, overrides, arguments, .. } = best.clone();
        if let Some(enough) = budget_at_error(plan, source, caches, name, &mut shared, options, progress)? {
            let (budget, mut overrides) = (enough, overrides.clone());
            overrides.push(format!("budget={budget}"));
            let arguments = format!("{arguments} --set budget={budget}");
            out.insert(key(FairMapping::BestAtError), FairSetting { budget, overrides, arguments });
        }
        out.insert(key(FairMapping::Best), FairSetting { budget, overrides, arguments });
    }
    Ok(out)
}

/// More than will ever be run.
const MANY: usize = 1 << 40;

/// The smallest budget of the plan whose mean output error over all layers, of their first caches and in the first steps of the plan, is
/// within the plan's; none where no budget keeps it. Of a policy that takes no notice of budgets, the source's.
fn budget_at_error(
    plan: &ExperimentPlan,
    source: &FairSource,
    caches: &[FairCache],
    policy: &str,
    shared: &mut SharedWork,
    options: &ReproduceOptions,
    progress: ProgressFn<'_>,
) -> Result<Option<usize>> {
    if !heeds_budget(policy)? {
        return Ok(Some(source.budget));
    }
    let what = format!("{}: budgets at equal error on {} caches", plan.name, source.name());
    let mut batch = JobBatch::open(&options.work.join("points"), options.workers, &options.cancel)?;
    let first = |(i, cache): &(usize, &FairCache)| caches[..*i].iter().all(|other| other.layer != cache.layer);
    let firsts: Vec<&FairCache> = caches.iter().enumerate().filter(first).map(|(_, cache)| cache).collect();
    for budget in &plan.fair.budgets {
        // The artifact's account is the quickest, and what is selected does not depend on it.
        let overrides = [
            format!("policy={policy}"),
            format!("budget={budget}"),
            format!("steps={}", plan.fair.tune_steps),
            ARTIFACT.into(),
        ];
        let job = |cache: &&FairCache| Ok(BatchJob { job: job(source, cache, &overrides)?, whole: None });
        let jobs = firsts.iter().map(job).collect::<Result<Vec<_>>>()?;
        for BatchJob { job, .. } in &jobs {
            // The caches stay for the other budgets and policies.
            shared.expect_many(SharedBasis::of(job)?, MANY);
        }
        let results = batch.run(shared, &jobs, &mut |_| progress(&what, 1, 1))?;
        shared.forget_selections();
        // A budget below what the policy needs keeps nothing.
        let Ok(rows) = results.into_iter().collect::<std::result::Result<Vec<_>, _>>() else { continue };
        let error = |(_, row): &(String, SweepRow)| row.needs(columns::OUTPUT_REL_ERR, row.output_rel_err);
        let errors = rows.iter().map(error).collect::<Result<Vec<f64>>>()?;
        if errors.iter().sum::<f64>() <= plan.fair.error * errors.len() as f64 {
            return Ok(Some(*budget));
        }
    }
    Ok(None)
}

/// What every setting costs on every cache.
fn measure(
    plan: &ExperimentPlan,
    source: &FairSource,
    caches: &[FairCache],
    settings: &BySetting<FairSetting>,
    options: &ReproduceOptions,
    progress: ProgressFn<'_>,
) -> Result<BySetting<Vec<SweepRow>>> {
    let what = format!("{}: mappings on {} caches", plan.name, source.name());
    let (mut done, all) = (0, (caches.len() * settings.len()) as u64);
    let mut batch = JobBatch::open(&options.work.join("points"), options.workers, &options.cancel)?;
    let mut rows: BySetting<Vec<SweepRow>> = BTreeMap::new();
    // Cache by cache, so that one is held at a time, also where results of some of its jobs were kept.
    for cache in caches {
        let (mut shared, mut jobs) = (SharedWork::default(), Vec::new());
        for setting in settings.values() {
            let job = job(source, cache, &setting.overrides)?;
            shared.expect(SharedBasis::of(&job)?);
            jobs.push(BatchJob { job, whole: None });
        }
        let found = batch.run(&shared, &jobs, &mut |event| {
            if let BatchEvent::Done = event {
                done += 1;
                progress(&what, done, all);
            }
        })?;
        for (key, result) in settings.keys().zip(found) {
            rows.entry(key.clone()).or_default().push(result?.1);
        }
    }
    Ok(rows)
}

/// Time (ms) and energy (mJ) of a decode step of the model, as if all its sparse layers were like each cache.
fn end_to_end(
    plan: &ExperimentPlan,
    source: &FairSource,
    caches: &[FairCache],
    settings: &BySetting<FairSetting>,
    rows: &BySetting<Vec<SweepRow>>,
) -> Result<BySetting<Vec<[f64; 2]>>> {
    let Some(model) = &source.model else { return Ok(BTreeMap::new()) };
    let steps = StepModel::load(plan)?;
    let mut out = BTreeMap::new();
    for (key @ (policy, mapping), of) in rows {
        let full = |m: FairMapping| rows.iter().find(|((p, at), _)| p.name == FULL && *at == m).map(|(_, rows)| rows);
        // Layers that stay full have the mapping of the others; without a budget for an error, that of the budget.
        let dense = full(*mapping).or_else(|| full(FairMapping::Best));
        let dense = dense.ok_or_else(|| Error::Usage(format!("the plan's policies lack {FULL}")))?;
        let mut costs = Vec::new();
        for (row, dense) in of.iter().zip(dense).take(caches.len()) {
            let budget = heeds_budget(&policy.name)?.then_some(settings[key].budget as u32);
            let cost = steps.step(plan, model, [dense, row], source.tokens, budget)?;
            let of = |measure: &pimattn_core::table::Measure<_>| measure.number(&cost).unwrap_or(f64::NAN);
            costs.push([of(&step_cost::STEP_MS), of(&step_cost::ENERGY_MJ)]);
        }
        out.insert(key.clone(), costs);
    }
    Ok(out)
}

fn mapping_row(
    source: &FairSource,
    policy: &PolicyName,
    mapping: FairMapping,
    setting: &FairSetting,
    caches: &[FairCache],
    rows: &[SweepRow],
) -> Result<MappingRow> {
    let n = rows.len() as f64;
    let mean = |of: &dyn Fn(&SweepRow) -> f64| rows.iter().map(of).sum::<f64>() / n;
    let known = |of: fn(&SweepRow) -> Option<f64>| {
        let found: Vec<f64> = rows.iter().filter_map(of).collect();
        (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
    };
    let worst = rows.iter().filter_map(|r| r.step_ns[1]).fold(f64::NAN, f64::max);
    Ok(MappingRow {
        source: source.name(),
        policy: policy.name.clone(),
        mapping: mapping.name(),
        budget: if heeds_budget(&policy.name)? { setting.budget.to_string() } else { String::new() },
        caches: caches.len() as u64,
        us: mean(&|r| r.ns / r.steps) * 1e-3,
        uj: mean(&|r| r.pj / r.steps) * 1e-6,
        median_us: known(|r| r.step_ns[0]).unwrap_or(f64::NAN) * 1e-3,
        worst_us: worst * 1e-3,
        selected: known(|r| r.selected),
        row_tokens: known(|r| r.row_tokens),
        output_rel_err: known(|r| r.output_rel_err),
        arguments: setting.arguments.clone(),
    })
}

/// What ours takes less than the others, at each mapping.
fn intervals(
    plan: &ExperimentPlan,
    source: &FairSource,
    caches: &[FairCache],
    rows: &BySetting<Vec<SweepRow>>,
    end_to_end: &BySetting<Vec<[f64; 2]>>,
) -> Vec<IntervalRow> {
    let attention: BySetting<Vec<[f64; 2]>> = rows
        .iter()
        .map(|(key, rows)| (key.clone(), rows.iter().map(|r| [r.ns / r.steps, r.pj / r.steps]).collect()))
        .collect();
    let mut out = Vec::new();
    for mapping in FairMapping::ALL {
        for (scope, costs) in [("attention", &attention), ("end-to-end", end_to_end)] {
            let of = |name: &str| costs.iter().find(|((p, m), _)| p.name == name && *m == mapping).map(|(_, c)| c);
            for against in plan.fair.policies.iter().filter(|p| *p != STARC) {
                let (Some(ours), Some(other)) = (of(STARC), of(against)) else { continue };
                for (i, measure) in ["latency", "energy"].into_iter().enumerate() {
                    let pairs: Vec<PairedCost> = caches
                        .iter()
                        .zip(ours.iter().zip(other))
                        .map(|(cache, (ours, other))| PairedCost { layer: cache.layer, ours: ours[i], other: other[i] })
                        .collect();
                    let Some(found) = interval(&pairs) else { continue };
                    let (against, source) = (against.clone(), source.name());
                    let (mapping, caches) = (mapping.name(), pairs.len() as u64);
                    out.push(IntervalRow { source, mapping, scope, measure, against, found, caches });
                }
            }
        }
    }
    out
}
