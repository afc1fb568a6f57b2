//! Artifact mode: the artifact's row budgets, every decode step of them, to attention and end to end.

use super::ProgressFn;
use super::columns::{SelectionMode as Of, SystemRow};
use super::plan::{ExperimentModel, ExperimentPlan};
use crate::artifact::{ArtifactBar, ArtifactPolicy, BarRow, BudgetRow, Budgets, Experiment};
use pimattn_attacc::UnitLevel;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_experiments::end_to_end::attention::ReplayedStacks;
use pimattn_experiments::end_to_end::step::{Service, TokenBudget, serve_until};
use std::sync::Arc;

/// Bytes of an element.
const BYTES: u32 = 2;

fn bars(plan: &ExperimentPlan) -> Result<Vec<ArtifactBar>> {
    let mut bars = Vec::new();
    for entry in &plan.models {
        let model = &entry.artifact;
        for context in &plan.contexts {
            for policy in &plan.policies {
                let budgets = policy.table_in(&plan.tables, model);
                let budgets = budgets.map(|path| Budgets::read(&path).map(Arc::new)).transpose()?;
                let (batch, prefill, context) = (plan.batch, plan.prefill, *context);
                let (model, policy, clustering) = (model.clone(), policy.clone(), policy.clusters);
                bars.push(ArtifactBar { model, policy, batch, prefill, context, budgets, clustering });
            }
        }
    }
    Ok(bars)
}

/// Rows of budgets.csv: how the table of each model and policy that has one repeats itself.
pub fn budgets(plan: &ExperimentPlan) -> Result<Vec<BudgetRow>> {
    let of = |(entry, policy): (&ExperimentModel, &ArtifactPolicy)| {
        let path = policy.table_in(&plan.tables, &entry.artifact)?;
        Some(Budgets::read(&path).map(|budgets| BudgetRow::new(&entry.name, &policy.name, &budgets)))
    };
    plan.models
        .iter()
        .flat_map(|entry| plan.policies.iter().map(move |policy| (entry, policy)))
        .filter_map(of)
        .collect()
}

/// Rows of the bars, and of the mean decode step end to end.
pub fn run(cancel: &Cancel, plan: &ExperimentPlan, progress: ProgressFn<'_>) -> Result<(Vec<BarRow>, Vec<SystemRow>)> {
    let system = System::load(&plan.artifact_system, &[])?;
    let bars = bars(plan)?;
    let what = format!("{}: artifact mode", plan.name);
    let mut experiment = Experiment::new(cancel, &system, &bars, &|done, all| progress(&what, done, all))?;
    let per_model = plan.contexts.len() * plan.policies.len();
    let entry = |bar: usize| &plan.models[bar / per_model];
    let mut rows: Vec<BarRow> = Vec::new();
    experiment.rows(
        &mut |row| {
            // The artifact has names of its own; the plan's stand in all tables.
            rows.push(BarRow { model: entry(rows.len()).name.clone(), ..row.clone() });
            Ok(())
        },
        None,
    )?;
    let (platform, _) = plan.platform(true)?;
    let mut stacks = ReplayedStacks::knowing(&system, experiment.into_layers());
    let what = format!("{}: artifact mode, end to end", plan.name);
    let mut system_rows = Vec::new();
    for (i, bar) in bars.iter().enumerate() {
        let steps = bar.steps();
        let budget = match &bar.budgets {
            Some(budgets) => TokenBudget::PerStep(budgets.first(steps as usize)?.to_vec()),
            None => TokenBudget::Full,
        };
        let service = service(plan, bar.prefill, steps, budget);
        let entry = entry(i);
        let outcome = serve_until(cancel, &platform, &entry.model, &service, Some(&mut stacks))?;
        system_rows.push(SystemRow {
            mode: Of::Artifact,
            model: entry.name.clone(),
            context: bar.context,
            policy: bar.policy.name.clone(),
            cost: outcome.mean(),
        });
        progress(&what, i as u64 + 1, bars.len() as u64);
    }
    Ok((rows, system_rows))
}

/// Steps behind so many tokens, with the optimisations of the paper's evaluation.
pub fn service(plan: &ExperimentPlan, prefill: u32, steps: u32, budget: TokenBudget) -> Service {
    Service {
        batch: plan.batch,
        prefill,
        steps,
        bytes: BYTES,
        budget,
        mode: UnitLevel::Bank,
        power_limit: true,
        pipeline: true,
        coprocess: true,
    }
}
