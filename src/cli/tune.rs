//! `pimsim tune`.

use super::{CommonArgs, ReportFormat};
use crate::presets::PresetKind;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::spec::config::Document;
use pimattn_experiments::tune::search::SearchMethod;
use pimattn_experiments::tune::table::TunedRow;
use pimattn_experiments::tune::{self, ErrorLimit, Objective, TuneEvent, TunePlan};
use pimattn_mapping::workload::Workload;
use pimattn_report::sheet;
use std::path::PathBuf;

/// Budgets to choose from where the error is given.
const LADDER: [usize; 9] = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
/// Keys of the system begin so; all others are keys of the workload.
const OF_SYSTEM: &str = "system.";

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct TuneArgs {
    /// Workload, whose own mapping is the default; without it, row-blocks on the dump of --kv
    #[arg(long, value_name = "WORKLOAD", value_parser = super::named(PresetKind::Workload), visible_alias = "workload", required_unless_present = "kv")]
    config: Option<PathBuf>,
    /// KV dump to use instead of the workload's: .safetensors, .npz, or a folder of .npy
    #[arg(long, value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    kv: Option<PathBuf>,
    /// System, instead of the workload's
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System), required_unless_present = "config")]
    system: Option<PathBuf>,
    /// Policies to tune
    #[arg(long, value_name = "POLICIES", value_delimiter = ',', required = true)]
    policies: Vec<String>,
    /// Budgets, a row each; with --at-most, those to choose from. Without them that of the workload, or 64 to 16384
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    budgets: Vec<usize>,
    /// What to make least: time, energy, or their product, edp
    #[arg(long, value_name = "OBJECTIVE", default_value = "time")]
    objective: String,
    /// Choose the budget, and the sizes of the policy, that keep a loss at most this: output_rel_err, 1-mass_recall or
    /// 1-top_recall
    #[arg(long, value_name = "MEASURE=LIMIT")]
    at_most: Option<String>,
    /// What one row activation of the hardware covers: broadcast, bank-group, ideal; all that the device has unless given
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    capabilities: Vec<String>,
    /// Run every choice, however many there are
    #[arg(long)]
    exhaustive: bool,
    /// Override a key of the workload, or of the system as system.KEY; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for tune.csv and runs.csv; its finished runs are not run again
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Number of runs at the same time; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// How to print the choices
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

impl TuneArgs {
    fn plan(&self) -> Result<TunePlan> {
        let (of_system, mut of_workload): (Vec<String>, Vec<String>) =
            self.set.iter().cloned().partition(|set| set.starts_with(OF_SYSTEM));
        let of_system = of_system.iter().map(|set| set.trim_start_matches(OF_SYSTEM).to_string()).collect();
        if let Some(system) = &self.system {
            of_workload.push(format!("system={}", toml::Value::String(system.display().to_string())));
        }
        let base = match &self.config {
            Some(file) => Document::load(file, &of_workload)?,
            None => {
                let workload = Workload::new(&self.policies[0], self.budgets.first().copied().unwrap_or(LADDER[0]));
                let table = toml::Table::try_from(workload).map_err(|e| Error::Usage(e.to_string()))?;
                Document::of_table("the workload of --kv", table).with(&of_workload)?
            }
        };
        let workload = Workload::of(&base)?;
        if self.kv.is_none() && workload.kv.is_none() && workload.synthetic.is_none() {
            return Err(base.error("", "neither kv (a dump) nor [synthetic] is given"));
        }
        let objective = Objective::ALL.into_iter().find(|(_, name)| *name == self.objective).map(|(o, _)| o);
        let objective = objective.ok_or_else(|| {
            let hint = suggest(&self.objective, Objective::ALL.map(|(_, name)| name));
            Error::Usage(format!("--objective: unknown \"{}\"{hint}", self.objective))
        })?;
        let at_most = self.at_most.as_deref().map(ErrorLimit::parse).transpose()?;
        let budgets = match (self.budgets.as_slice(), &at_most) {
            ([], None) => vec![workload.budget],
            ([], Some(_)) => LADDER.to_vec(),
            (given, _) => given.to_vec(),
        };
        Ok(TunePlan {
            base,
            of_system,
            kv: self.kv.clone(),
            policies: self.policies.clone(),
            budgets,
            objective,
            at_most,
            capabilities: self.capabilities.clone(),
            method: self.exhaustive.then_some(SearchMethod::Exhaustive),
        })
    }
}

/// Runs the command.
pub fn run(args: &TuneArgs, common: &CommonArgs) -> Result<()> {
    let plan = args.plan()?;
    super::threads(args.threads)?;
    let workers = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut progress = common.progress("tuning, runs", None);
    let outcome = tune::tune(&plan, &args.output, workers, &common.cancel, &mut |event| match event {
        TuneEvent::Runs(n) => progress.at(n),
        TuneEvent::Damaged(file) => common.warn(&format!("{} is damaged: it is run again", file.display())),
        TuneEvent::OutOfReach(policy) => {
            common
                .warn(&format!("{policy}: no budget keeps the loss within {}", args.at_most.as_deref().unwrap_or("")));
        }
    });
    drop(progress);
    let outcome = outcome?;
    let [made, kept] = outcome.runs;
    common.note(&format!("{made} runs, {kept} kept; {}", args.output.join("tune.csv").display()));
    let heading = [
        "policy",
        "budget",
        "hardware",
        "us/step",
        "uJ/step",
        "output error",
        "gain",
        "changed",
        "top knob",
        "its gain",
    ];
    let rows = outcome.rows.iter().map(shown);
    let table: Vec<Vec<String>> = std::iter::once(heading.map(String::from).to_vec()).chain(rows).collect();
    super::print(&sheet::layout(&table, args.format.into()))?;
    if matches!(args.format, ReportFormat::Text) {
        for TunedRow { policy, budget, capability, arguments, .. } in &outcome.rows {
            super::print(&format!("\n{policy} {budget} {capability}:\n  {arguments}\n"))?;
        }
    }
    Ok(())
}

/// A choice as people read it; time and energy are per decode step.
fn shown(row: &TunedRow) -> Vec<String> {
    let steps = row.best.steps.max(1.0);
    let (knob, gain) = row.top.map_or((String::new(), String::new()), |(key, gain)| (key.into(), format!("{gain:.2}")));
    vec![
        row.policy.clone(),
        row.budget.to_string(),
        row.capability.into(),
        format!("{:.3}", row.best.ns / steps / 1e3),
        format!("{:.3}", row.best.pj / steps / 1e6),
        row.best.output_rel_err.map_or(String::new(), |e| format!("{e:.4}")),
        format!("{:.2}", row.gain),
        row.changed.to_string(),
        knob,
        gain,
    ]
}
