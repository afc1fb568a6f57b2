//! `pimsim system`: models and platforms in, the time and energy of decode steps out.

use super::CommonArgs;
use pimattn_attacc::UnitLevel;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::spec::System;
use pimattn_core::table::{TableLayout, TypedWriter};
use pimattn_experiments::end_to_end::table::{ServiceRow, SwitchRow};
use pimattn_experiments::end_to_end::{
    Attend, Model, Platform, ReplayedStacks, Service, ServiceCost, Switch, Switches, TokenBudget, serve_until, table,
};
use pimattn_starc::artifact::Budgets;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct SystemArgs {
    /// Models to serve, each on its own
    #[arg(long, value_name = "MODEL.toml", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// GPUs, PIM devices and links
    #[arg(long, value_name = "PLATFORM.toml")]
    platform: PathBuf,
    /// Override a key of the platform file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Requests decoded together
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: u32,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 2048)]
    prefill: u32,
    /// Decode steps
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: u32,
    /// Bytes of an element: 1 or 2
    #[arg(long, value_name = "N", default_value_t = 2)]
    bytes: u32,
    /// Tokens that a head may attend to; PIM rounds them up to whole rows
    #[arg(long, value_name = "N")]
    kv_budget: Option<u32>,
    /// Row budgets: a number of tokens a line, one line for each decode step (traces/kv_budget has the STARC artifact's)
    #[arg(long, value_name = "FILE", conflicts_with = "kv_budget")]
    kv_budget_table: Option<PathBuf>,
    /// Where the GEMV units are: bank, bg, buffer
    #[arg(long, value_name = "MODE", default_value = "bank")]
    mode: String,
    /// Run attention on the GPUs
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
    output: PathBuf,
}

pub(super) fn run(args: &SystemArgs, common: &CommonArgs) -> Result<()> {
    let service = args.service()?;
    let models: Vec<Model> = args.model.iter().map(|file| Model::load(file, &[])).collect::<Result<_>>()?;
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

impl SystemArgs {
    /// Writes the rows of each model.
    fn write<R: 'static>(
        &self,
        layout: TableLayout<R>,
        models: &[Model],
        mut rows: impl FnMut(&Model) -> Result<Vec<R>>,
    ) -> Result<Output> {
        let mut out = TypedWriter::new(Output::create(&self.output)?, &self.output.display().to_string(), layout);
        for model in models {
            rows(model)?.iter().try_for_each(|row| out.row(row))?;
        }
        out.finish()
    }

    fn service(&self) -> Result<Service> {
        let budget = match &self.kv_budget_table {
            Some(file) => TokenBudget::PerStep(Budgets::read(file)?.first(self.steps as usize)?.to_vec()),
            None => self.kv_budget.map_or(TokenBudget::Full, TokenBudget::Tokens),
        };
        Ok(Service {
            batch: self.batch,
            prefill: self.prefill,
            steps: self.steps,
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
        let all = if self.switches { vec!["none", "starc"] } else { vec![self.reference.as_str()] };
        for reference in all {
            if let Some(pim) = self.platform(Switches::parse(reference)?)?.pim {
                out.insert(pim.system.clone(), pim.stack(service.power_limit)?);
            }
        }
        Ok(out)
    }

    fn platform(&self, switches: Switches) -> Result<Platform> {
        let platform = Platform::load(&self.platform, &self.set, switches)?;
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
