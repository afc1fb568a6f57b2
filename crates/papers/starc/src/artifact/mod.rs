//! The STARC artifact's experiment: the attention of every decode step of its models, contexts and policies.
//!
//! The artifact simulates one layer of one stack for each step and takes all layers, stacks and devices to be alike. How
//! many tokens a step attends to is all that tells policies apart: all of them, or as many rows as a table of measured
//! budgets has for the step. A bar is a model, a policy and a context. [`pimattn_experiments::attention`] replays what differs, once.

mod budget;
mod data;
mod rows;

pub use budget::{BudgetRepeat, Budgets};
pub use data::{ArtifactData, ArtifactModel, ArtifactPolicy};
pub use rows::{BarRow, BudgetRow, StepRow, bars, bars::BARS, budgets, budgets::BUDGETS, steps::STEPS};

use pimattn_attacc::{Attention, Form, UnitLevel};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_experiments::attention::Layers;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Devices beside the GPUs, and their stacks (AttAcc; STARC's platform has the same).
pub const DEVICES: u32 = 8;
/// Stacks of a device.
pub const STACKS: u32 = 5;
/// Bytes of an element.
const BYTES: u32 = 2;
/// The artifact's schedule, quirks included.
const FORM: Form = Form::Published;

/// A model, a policy and a context.
#[derive(Debug, Clone)]
pub struct ArtifactBar {
    /// The model.
    pub model: ArtifactModel,
    /// The policy.
    pub policy: ArtifactPolicy,
    /// Requests that are decoded together.
    pub batch: u32,
    /// Tokens of each prompt.
    pub prefill: u32,
    /// Tokens that are generated of each; the prefill makes the first, so that decode steps are one fewer.
    pub context: u32,
    /// Budgets of the steps; all tokens are attended to without.
    pub budgets: Option<Arc<Budgets>>,
    /// Whether the artifact's clustering comes ahead of the last step.
    pub clustering: bool,
}

impl ArtifactBar {
    /// Decode steps.
    pub fn steps(&self) -> u32 {
        self.context.saturating_sub(1)
    }

    /// A stack's share of a layer at each step.
    ///
    /// # Errors
    /// When there is no step, one has no budget, or there are more tokens than numbers.
    pub fn attentions(&self) -> Result<impl Iterator<Item = Attention> + '_> {
        let steps = self.steps();
        if steps == 0 {
            let what = format!("a context of {} has no decode step; 2 is the least", self.context);
            return Err(Error::Usage(what));
        }
        let Some(first) = self.prefill.checked_add(1).filter(|first| first.checked_add(steps).is_some()) else {
            return Err(Error::Usage(format!("{} and {} tokens are too many", self.prefill, self.context)));
        };
        let budgets = self.budgets.as_ref().map(|b| b.first(steps as usize)).transpose()?;
        let heads = self.model.heads_per_stack(self.batch);
        Ok((0..steps).map(move |step| Attention {
            mode: UnitLevel::Bank,
            heads,
            len: first + step,
            dim: self.model.dim,
            bytes: BYTES,
            kv_budget: budgets.map(|b| b[step as usize]),
            clustering: self.clustering && step + 1 == steps,
        }))
    }
}

/// What a layer's attention takes on a stack, as far as rows say it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct AttentionCost {
    cycles: Cycle,
    ns: f64,
    energy_pj: f64,
    activations: u64,
}

impl AttentionCost {
    fn new(layers: &mut Layers<'_>, system: &System, attention: Attention) -> Result<Self> {
        let layer = layers.layer(FORM, attention)?;
        let opens = system.device.commands.iter().zip(&layer.counters.banks).filter(|(c, _)| c.effect.opens());
        Ok(AttentionCost {
            cycles: layer.cycles,
            ns: layer.ns(system),
            energy_pj: layer.energy(system).total(),
            activations: opens.map(|(_, banks)| banks).sum(),
        })
    }
}

/// Takes the rows of a table.
pub type RowSink<'a, R> = &'a mut dyn FnMut(&R) -> Result<()>;

/// Bars of which every step has been simulated.
pub struct Experiment<'a> {
    cancel: Cancel,
    system: &'a System,
    bars: &'a [ArtifactBar],
    layers: Layers<'a>,
}

impl<'a> Experiment<'a> {
    /// Simulates every step of every bar on stacks of `system`. `progress` hears how many replays of how many are done.
    ///
    /// # Errors
    /// When a bar makes no sense ([`ArtifactBar::attentions`]), or when its heads do not fit a stack.
    pub fn new(
        cancel: &Cancel,
        system: &'a System,
        bars: &'a [ArtifactBar],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        let mut layers = Layers::new(system).until(cancel);
        let wanted = bars.iter().map(ArtifactBar::attentions).collect::<Result<Vec<_>>>()?;
        layers.learn(FORM, wanted.into_iter().flatten(), progress)?;
        Ok(Experiment { cancel: cancel.clone(), system, bars, layers })
    }

    /// Schedules that were replayed.
    pub fn replays(&self) -> usize {
        self.layers.replays()
    }

    /// What was replayed, for others that ask for the same.
    pub fn into_layers(self) -> Layers<'a> {
        self.layers
    }

    /// Gives `bar_row` the row of each bar, and `step_row`, if it is there, one of each step.
    pub fn rows(&mut self, bar_row: RowSink<'_, BarRow>, mut step_row: Option<RowSink<'_, StepRow>>) -> Result<()> {
        for bar in self.bars {
            self.cancel.check()?;
            let mut known: BTreeMap<Attention, AttentionCost> = BTreeMap::new();
            let mut total = rows::Total::default();
            for (step, attention) in bar.attentions()?.enumerate() {
                let key = attention.normal_form(FORM, &self.system.device.geometry)?;
                let cost = match known.get(&key) {
                    Some(cost) => *cost,
                    None => *known.entry(key).or_insert(AttentionCost::new(&mut self.layers, self.system, attention)?),
                };
                total.add(&attention, &cost);
                if let Some(emit) = &mut step_row {
                    emit(&StepRow::new(bar, step as u64, attention, cost))?;
                }
            }
            bar_row(&BarRow::new(bar, total))?;
        }
        Ok(())
    }
}
