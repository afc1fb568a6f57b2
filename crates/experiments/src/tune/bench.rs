//! Runs choices, each once, and keeps what they cost.

use super::search::Extent;
use super::table::TunedCost;
use super::{TuneEvent, TunePlan};
use crate::sweep::batch::{BatchEvent, BatchJob, JobBatch};
use crate::sweep::grid::Job;
use crate::sweep::shared::{SharedBasis, SharedWork};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use pimattn_mapping::workload::Workload;
use pimattn_policies::select::{self, Policy};
use pimattn_tracegen::generate::{CacheSet, Generator};
use std::path::Path;
use std::sync::Arc;

/// Runs of the first steps have one step in so many of the whole run, and this many at least.
const BEGIN_SHARE: usize = 24;
const BEGIN_LEAST: usize = 4;

/// More runs than a search makes of one size.
const MANY: usize = 1 << 40;

/// What a run gave.
#[derive(Debug, Clone)]
pub enum ChoiceRun {
    /// Its key and its costs.
    Ran(String, TunedCost),
    /// Its settings do not fit the cache or the device: where, and why.
    Impossible(String, String),
}

impl ChoiceRun {
    /// What the run costs.
    pub fn cost(&self) -> Option<&TunedCost> {
        match self {
            ChoiceRun::Ran(_, cost) => Some(cost),
            ChoiceRun::Impossible(..) => None,
        }
    }

    /// Its key, or nothing.
    pub fn key(&self) -> &str {
        match self {
            ChoiceRun::Ran(key, _) => key,
            ChoiceRun::Impossible(..) => "",
        }
    }
}

/// Where choices are run.
pub struct TuneBench<'a> {
    plan: &'a TunePlan,
    tell: &'a mut dyn FnMut(TuneEvent<'_>),
    batch: JobBatch<'a>,
    cached: Arc<CacheSet>,
    shared: SharedWork,
    system: System,
    keys_per_row: usize,
    /// Decode steps of a whole run.
    steps: usize,
    /// Runs that are done or were kept.
    done: u64,
}

impl<'a> TuneBench<'a> {
    /// Loads the caches that all runs have.
    pub fn open(
        plan: &'a TunePlan,
        points: &Path,
        workers: usize,
        cancel: &'a Cancel,
        tell: &'a mut dyn FnMut(TuneEvent<'_>),
    ) -> Result<Self> {
        // Any policy serves to load the caches; the one that selects all tokens needs nothing of them.
        let first = job(plan, &[format!("policy={}", select::full::ENTRY.name)])?;
        let kv = first.kv.clone();
        let generator = Generator::load_for(cancel, first.system.clone(), first.workload, &first.doc, kv.as_deref())?;
        Ok(TuneBench {
            plan,
            tell,
            batch: JobBatch::open(points, workers, cancel)?,
            shared: SharedWork::default(),
            cached: generator.caches().clone(),
            system: first.system,
            keys_per_row: generator.keys_per_row(),
            steps: generator.steps(),
            done: 0,
        })
    }

    /// The system, without overrides of a choice.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Keys that a row of a unit holds.
    pub fn keys_per_row(&self) -> usize {
        self.keys_per_row
    }

    /// Channels that a head may spread over: those of a stack of a device.
    pub fn channels(&self) -> u32 {
        self.system.device.geometry.channels
    }

    /// Runs made, and runs that were kept.
    pub fn runs(&self) -> [u64; 2] {
        self.batch.runs()
    }

    /// Says that no budget keeps a policy within the limit.
    pub fn out_of_reach(&mut self, policy: &str) {
        (self.tell)(TuneEvent::OutOfReach(policy));
    }

    /// The workload with overrides.
    pub fn workload(&self, overrides: &[String]) -> Result<Workload> {
        Workload::of(&self.plan.base.with(overrides)?)
    }

    /// The policy of the workload with overrides.
    pub fn policy(&self, overrides: &[String]) -> Result<Box<dyn Policy>> {
        let doc = self.plan.base.with(overrides)?;
        let workload = Workload::of(&doc)?;
        let entry = select::find(&workload.policy).map_err(|e| doc.error("policy", e))?;
        let table = workload.policies.get(&workload.policy).cloned().unwrap_or_default();
        (entry.build)(&table).map_err(|e| doc.serde_error(&format!("policies.{}.{}", entry.name, e.key), &e.message))
    }

    /// Announces runs that select as the workload with these overrides.
    pub fn expect(&mut self, whole: &[String]) -> Result<()> {
        let basis = SharedBasis::of(&job(self.plan, whole)?)?;
        self.shared.expect_many(basis, MANY);
        self.shared.provide(basis, self.cached.clone());
        Ok(())
    }

    /// Forgets all selections.
    pub fn forget(&mut self) {
        self.shared.forget_selections();
    }

    /// The overrides that change the workload, as arguments of a command.
    pub fn arguments(&self, overrides: &[String]) -> Result<String> {
        // One override alone may contradict the rest, so nothing is checked here.
        let text = |doc: &Document| {
            let mut workload: Workload = doc.decode()?;
            let values = workload.mapping.of_values();
            workload.mapping.value_addressing = Some(values.addressing);
            workload.mapping.value_layout = Some(values.layout);
            workload.mapping.value_align = Some(values.align);
            toml::to_string(&workload).map_err(|e| doc.error("", e.to_string()))
        };
        let own = text(&self.plan.base)?;
        let mut out = Vec::new();
        for o in overrides {
            if text(&self.plan.base.with(std::slice::from_ref(o))?)? != own {
                out.push(format!("--set {o}"));
            }
        }
        Ok(out.join(" "))
    }

    /// Runs each choice (as overrides) that is not kept; beside it, the overrides of the whole run that selects alike.
    pub fn run(&mut self, choices: &[(Vec<String>, Vec<String>)], extent: Extent) -> Result<Vec<ChoiceRun>> {
        let steps = match extent {
            Extent::Whole => self.steps,
            Extent::Begin => self.steps.min((self.steps / BEGIN_SHARE).max(BEGIN_LEAST)),
        };
        let of_steps =
            |overrides: &[String], steps: usize| job(self.plan, &[overrides, &[format!("steps={steps}")]].concat());
        let mut out: Vec<Option<ChoiceRun>> = choices.iter().map(|_| None).collect();
        let (mut places, mut jobs) = (Vec::new(), Vec::new());
        for (place, (overrides, whole)) in choices.iter().enumerate() {
            match of_steps(overrides, steps) {
                Ok(job) => {
                    places.push(place);
                    jobs.push(BatchJob { job, whole: Some(of_steps(whole, self.steps)?) });
                }
                Err(Error::Config { at, what }) => out[place] = Some(ChoiceRun::Impossible(at, what)),
                Err(e) => return Err(e),
            }
        }
        let (tell, done) = (&mut *self.tell, &mut self.done);
        let results = self.batch.run(&self.shared, &jobs, &mut |event| match event {
            BatchEvent::Done => {
                *done += 1;
                tell(TuneEvent::Runs(*done));
            }
            BatchEvent::Damaged(file) => tell(TuneEvent::Damaged(file)),
        })?;
        for (place, result) in places.into_iter().zip(results) {
            out[place] = Some(match result {
                Ok((key, row)) => ChoiceRun::Ran(key, TunedCost::from(&row)),
                Err(Error::Config { at, what }) => ChoiceRun::Impossible(at, what),
                Err(e) => return Err(e),
            });
        }
        Ok(out.into_iter().flatten().collect())
    }
}

/// A run of the plan's workload with overrides.
fn job(plan: &TunePlan, overrides: &[String]) -> Result<Job> {
    let doc = plan.base.with(overrides)?;
    let workload = Workload::of(&doc)?;
    Job::of(workload, doc, &plan.of_system, plan.kv.clone())
}
