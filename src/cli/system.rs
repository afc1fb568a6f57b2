//! `pimsim system`: models and platforms in, the time and energy of decode steps out.

use super::CommonArgs;
use super::places::WrittenFile;
use super::table_output::TableOutput;
use crate::presets::PresetKind;
use pimattn_attacc::UnitLevel;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::table::{TableLayout, TypedWriter};
use pimattn_experiments::end_to_end::table::{ServiceRow, SwitchRow};
use pimattn_experiments::end_to_end::{
    Attend, MeasuredRun, Model, Platform, Reference, ReplayedStacks, RunShape, Service, ServiceCost, Switch, Switches,
    TokenBudget, same_cache, serve_measured, serve_until, table,
};
use pimattn_starc::artifact::Budgets;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct SystemArgs {
    /// Models to serve, each on its own
    #[arg(long, value_name = "MODEL", value_parser = super::named(PresetKind::Model), required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// GPUs, PIM devices and links
    #[arg(long, value_name = "PLATFORM", value_parser = super::named(PresetKind::Platform))]
    platform: PathBuf,
    /// Override a key of the platform file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Requests decoded together (default 16, or as many as the runs have)
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Tokens of each prompt (default 2048, or as many as the runs have)
    #[arg(long, value_name = "N")]
    prefill: Option<u32>,
    /// Decode steps (default 1, or as many as the runs have)
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Bytes of an element: 1 or 2
    #[arg(long, value_name = "N", default_value_t = 2)]
    bytes: u32,
    /// Tokens that a head may attend to; PIM rounds them up to whole rows
    #[arg(long, value_name = "N")]
    kv_budget: Option<u32>,
    /// Row budgets: a number of tokens a line, one line for each decode step (traces/kv_budget has the STARC artifact's)
    #[arg(long, value_name = "FILE", conflicts_with = "kv_budget")]
    kv_budget_table: Option<PathBuf>,
    /// Folders that pimsim run -o wrote: take attention as their traces measured it, in place of a budget. Writes the GPUs
    /// alone with full attention, then each run on the PIM devices and on the GPUs, which gather the tokens that it selected
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with_all = ["kv_budget", "kv_budget_table", "mode", "reference", "switches"])]
    run: Vec<PathBuf>,
    /// First layers of the model that stay full, instead of as many as the workloads of the runs say
    #[arg(long, value_name = "N", requires = "run")]
    dense_layers: Option<u32>,
    /// Where the GEMV units are: bank, bg, buffer
    #[arg(long, value_name = "MODE", default_value = "bank")]
    mode: String,
    /// Run attention on the GPUs only
    #[arg(long, conflicts_with_all = ["mode", "no_power_limit", "pipeline", "coprocess"])]
    gpu_only: bool,
    /// Do not let the power supply limit activations
    #[arg(long)]
    no_power_limit: bool,
    /// Pipeline heads through projections and attention
    #[arg(long)]
    pipeline: bool,
    /// Let the PIM devices compute a part of the feed-forward matrices
    #[arg(long)]
    coprocess: bool,
    /// Calculate as a published simulator does: attacc, starc, none
    #[arg(long, value_name = "NAME", default_value = "none")]
    reference: String,
    /// Write a row for each step instead of one for their mean
    #[arg(long)]
    each_step: bool,
    /// Write what each switch of the published simulators changes, instead of the steps
    #[arg(long, conflicts_with_all = ["each_step", "reference"])]
    switches: bool,
    /// Table to write; - is standard output
    #[arg(short, long, value_name = "CSV", default_value = "-")]
    output: WrittenFile,
}

pub(super) fn run(args: &SystemArgs, common: &CommonArgs) -> Result<()> {
    let models: Vec<Model> = args.model.iter().map(|file| Model::load(file, &[])).collect::<Result<_>>()?;
    if !args.run.is_empty() {
        return run_measured(args, &models, common);
    }
    let service = args.service(&args.shape(None))?;
    let systems = args.systems(&service)?;
    let stacks = systems
        .iter()
        .map(|(path, system)| (path.as_path(), ReplayedStacks::new(system).until(&common.cancel)))
        .collect();
    let mut bench = Bench { cancel: &common.cancel, args, service: &service, stacks };
    if let (true, [_, _, ..]) = (args.switches, models.as_slice()) {
        return Err(Error::Usage("--switches takes one model".into()));
    }
    let out = match args.switches {
        true => args.write(table::switches(), &models, |model| bench.switch_rows(model)),
        false => args.write(table::services(), &models, |model| bench.rows(model)),
    };
    let out = out?;
    let replays: usize = bench.stacks.values().map(ReplayedStacks::replays).sum();
    common.detail(|| format!("{replays} schedules replayed"));
    out.commit()
}

/// Services with the attention of runs.
fn run_measured(args: &SystemArgs, models: &[Model], common: &CommonArgs) -> Result<()> {
    let [model] = models else { return Err(Error::Usage("--run takes one model, that of the runs".into())) };
    let platform = args.full_platform(Switches::default())?;
    let stack = platform.pim.as_ref().map(|pim| pim.stack(!args.no_power_limit)).transpose()?;
    let mut runs = Vec::new();
    for dir in &args.run {
        runs.extend(MeasuredRun::load(dir)?);
    }
    same_cache(&runs)?;
    let shapes: Vec<RunShape> =
        runs.iter().map(|run| run.shape(model, &platform, stack.as_ref())).collect::<Result<_>>()?;
    let service = args.service(&args.shape(Some(shapes[0])))?;
    let gpus = platform.clone().gpus_only();
    let serve = |platform: &Platform, stack: Option<&System>, run: &MeasuredRun| {
        let fitted = run.fit(model, &service, platform, stack, args.dense_layers, &runs)?;
        let cost = serve_measured(&common.cancel, platform, model, &service, stack, &fitted)?;
        Ok::<_, Error>(table::measured_rows(platform, model, &service, &cost, args.each_step, &fitted))
    };
    let rows = |model: &Model| {
        let full = serve_until(&common.cancel, &gpus, model, &service, None)?;
        let mut rows = table::rows(&gpus, model, &service, &full, args.each_step);
        for run in &runs {
            if let (false, Some(stack)) = (args.gpu_only, &stack) {
                rows.extend(serve(&platform, Some(stack), run)?);
            }
            rows.extend(serve(&gpus, None, run)?);
        }
        Ok(rows)
    };
    args.write(table::services(), std::slice::from_ref(model), rows)?.commit()
}

impl SystemArgs {
    /// The service's batch, prefill and steps: as the arguments say, else as the runs have them.
    fn shape(&self, runs: Option<RunShape>) -> (u32, u32, u32) {
        let batch = self.batch.or(runs.and_then(|r| r.batch)).unwrap_or(16);
        let prefill = self.prefill.or(runs.map(|r| r.prefill)).unwrap_or(2048);
        (batch, prefill, self.steps.or(runs.map(|r| r.steps)).unwrap_or(1))
    }

    /// Writes the rows of each model.
    fn write<R: 'static>(
        &self,
        layout: TableLayout<R>,
        models: &[Model],
        mut rows: impl FnMut(&Model) -> Result<Vec<R>>,
    ) -> Result<TableOutput> {
        let mut out = TypedWriter::new(TableOutput::create(&self.output)?, &self.output.display().to_string(), layout);
        for model in models {
            rows(model)?.iter().try_for_each(|row| out.row(row))?;
        }
        out.finish()
    }

    fn service(&self, (batch, prefill, steps): &(u32, u32, u32)) -> Result<Service> {
        let budget = match &self.kv_budget_table {
            Some(file) => TokenBudget::PerStep(Budgets::read(file)?.first(*steps as usize)?.to_vec()),
            None => self.kv_budget.map_or(TokenBudget::Full, TokenBudget::Tokens),
        };
        Ok(Service {
            batch: *batch,
            prefill: *prefill,
            steps: *steps,
            bytes: self.bytes,
            budget,
            mode: UnitLevel::parse(&self.mode)?,
            power_limit: !self.no_power_limit,
            pipeline: self.pipeline,
            coprocess: self.coprocess,
        })
    }

    /// The systems that stacks are replayed on, whatever the switches.
    fn systems(&self, service: &Service) -> Result<BTreeMap<PathBuf, System>> {
        let mut out = BTreeMap::new();
        let all = match self.switches {
            true => std::iter::once(Switches::default()).chain(Reference::ALL.map(Switches::of)).collect(),
            false => vec![Switches::parse(&self.reference)?],
        };
        for switches in all {
            if let Some(pim) = self.platform(switches)?.pim {
                out.insert(pim.system.clone(), pim.stack(service.power_limit)?);
            }
        }
        Ok(out)
    }

    /// With its PIM devices, whatever is served on them.
    fn full_platform(&self, switches: Switches) -> Result<Platform> {
        Platform::load(&self.platform, &self.set, switches)
    }

    fn platform(&self, switches: Switches) -> Result<Platform> {
        let platform = self.full_platform(switches)?;
        Ok(if self.gpu_only { platform.gpus_only() } else { platform })
    }
}

/// Serves models, and keeps what stacks have replayed.
struct Bench<'a> {
    cancel: &'a Cancel,
    args: &'a SystemArgs,
    service: &'a Service,
    stacks: BTreeMap<&'a Path, ReplayedStacks<'a>>,
}

impl Bench<'_> {
    fn serve(&mut self, platform: &Platform, model: &Model) -> Result<ServiceCost> {
        let stacks = platform.pim.as_ref().and_then(|pim| self.stacks.get_mut(pim.system.as_path()));
        let stacks = stacks.map(|s| s as &mut dyn Attend);
        serve_until(self.cancel, platform, model, self.service, stacks)
    }

    fn rows(&mut self, model: &Model) -> Result<Vec<ServiceRow>> {
        let platform = self.args.platform(Switches::parse(&self.args.reference)?)?;
        let outcome = self.serve(&platform, model)?;
        Ok(table::rows(&platform, model, self.service, &outcome, self.args.each_step))
    }

    fn with(&mut self, model: &Model, switches: Switches) -> Result<ServiceCost> {
        let platform = self.args.platform(switches)?;
        self.serve(&platform, model)
    }

    fn switch_rows(&mut self, model: &Model) -> Result<Vec<SwitchRow>> {
        let none = self.with(model, Switches::default())?;
        let row = |switch: &Switch| {
            let (mut alone, mut without) = (Switches::default(), Switches::of(switch.references()[0]));
            let all = self.with(model, without)?;
            alone.set(*switch, true);
            without.set(*switch, false);
            Ok(SwitchRow::new(*switch, &none, &self.with(model, alone)?, &all, &self.with(model, without)?))
        };
        Switch::ALL.iter().map(row).collect()
    }
}
