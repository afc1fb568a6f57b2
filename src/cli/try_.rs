//! `pimsim try`: which policy, which budget, how much faster, at what loss, and why.

use super::CommonArgs;
use super::sweep::{Swept, sweep_points};
use super::table_output::wrapped;
use crate::presets::{self, PresetKind};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_experiments::sweep::grid::Grid;
use pimattn_kv as kv;
use pimattn_policies::select::{self, Policy};
use pimattn_report::answer::Answer;
use pimattn_report::sheet::Style;
use std::path::{Path, PathBuf};

/// The axis of where heads lie.
const SPLIT: &str = "placement.split";
/// The built-in sample.
const SAMPLE: &str = "smollm2-135m-rustbook-cut";
/// Shares of the prefill that are tried as budgets.
const BUDGET_SHARES: [usize; 3] = [16, 8, 4];

/// Arguments of `try`.
#[derive(Debug, clap::Args)]
pub struct TryArgs {
    /// KV dump: .safetensors, .npz, or a folder of .npy; without it, the built-in sample of a real cache
    #[arg(value_name = "DUMP", value_parser = super::named(PresetKind::Cache))]
    dump: Option<PathBuf>,
    /// Folder for report.html, sweep.csv and the finished points, which are not run again
    #[arg(short, long, value_name = "DIR", default_value = "pimattn-try")]
    output: PathBuf,
    /// Policies, instead of those of the preset grid/try; full is always among them
    #[arg(long, value_name = "POLICIES", value_delimiter = ',')]
    policies: Vec<String>,
    /// Budgets (tokens), instead of a 16th, an 8th and a quarter of the prefill, as powers of two
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    budgets: Vec<usize>,
    /// System to replay on
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System), default_value = "hbm3-pim")]
    system: PathBuf,
    /// Decode steps; without it, all whole periods of the policies that the dump has
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Points that run at the same time, and threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// What is tried, from what the dump holds.
struct Trial {
    kv: PathBuf,
    policies: Vec<String>,
    budgets: Vec<usize>,
    steps: usize,
    /// Values of [`SPLIT`]: heads on a channel each, and spread over as many as there are for each.
    splits: Vec<u32>,
    /// Bytes of an element that the system multiplies, where the dump has others.
    element_bytes: Option<u32>,
    /// Whether the device opens rows in all banks alone, so that the mapping must be broadcast.
    broadcast: bool,
    about: String,
}

/// Runs the command.
pub fn run(args: &TryArgs, common: &CommonArgs) -> Result<()> {
    super::threads(args.threads)?;
    let trial = Trial::of(args, common)?;
    let mut grid = Grid::load_with(&presets::resolve(PresetKind::Grid, "try", Path::new(""))?, &trial.overrides(args))?;
    grid.kv = Some(trial.kv.clone());
    let points = grid.points();
    common.note(&format!("{}; {} points", trial.about, points.len()));
    let place = Swept { output: &args.output, cache: None, threads: args.threads };
    sweep_points(&grid, &points, &place, common)?;
    let table = args.output.join("sweep.csv");
    let reference = select::full::ENTRY.name;
    let answer = Answer::read(fsio::open(&table)?, &table.display().to_string(), SPLIT, reference)?;
    let page = args.output.join("report.html");
    let title = format!("Which policy for {}", trial.name(args));
    super::report::write(&super::report::html(std::slice::from_ref(&args.output), &[], &title)?, &page)?;
    super::print(&trial.text(&answer, args))
}

impl Trial {
    fn of(args: &TryArgs, common: &CommonArgs) -> Result<Self> {
        let kv = match &args.dump {
            Some(dump) => dump.clone(),
            None => presets::resolve(PresetKind::Cache, SAMPLE, Path::new(""))?,
        };
        let system = System::load(&args.system, &[])?;
        let cache = kv::load_until(&common.cancel, &kv)?;
        let policies = policies(args)?;
        let there = cache.decode_positions().len();
        let steps = match args.steps {
            Some(steps) => steps,
            None => whole_periods(&policies, there)?,
        };
        let prefill = cache.prefill;
        let budgets = match args.budgets.as_slice() {
            [] => {
                let mut budgets: Vec<usize> =
                    BUDGET_SHARES.iter().map(|share| (prefill / share).max(1).next_power_of_two()).collect();
                budgets.dedup();
                budgets
            }
            budgets => budgets.to_vec(),
        };
        let channels = system.device.geometry.channels;
        // Layers follow each other on the same channels; the heads of one layer share the device.
        let spread = (channels / (cache.kv_heads as u32).max(1)).max(1);
        let spread = 1 << spread.ilog2();
        let splits = if spread > 1 { vec![1, spread] } else { vec![1] };
        let about = format!(
            "{}: {} layers of {} KV heads and {} query heads of {}, {prefill} tokens of prefill, {steps} of {there} decode steps; on {} ({})",
            kv.display(),
            cache.layers.len(),
            cache.kv_heads,
            cache.query_heads,
            cache.dim,
            system.name,
            system.device.preset,
        );
        let multiplied = system.device.element_bytes;
        let element_bytes = (cache.element_bytes != multiplied).then_some(multiplied);
        let broadcast = system.device.plans[Op::ActBg as usize].is_none();
        Ok(Trial { kv, policies, budgets, steps, splits, element_bytes, broadcast, about })
    }

    /// The axes of the grid.
    fn overrides(&self, args: &TryArgs) -> Vec<String> {
        let texts = self.policies.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ");
        let last = self.budgets.len() - 1;
        let mut out = vec![
            format!("axes.policy=[{texts}]"),
            format!("axes.budget={:?}", self.budgets),
            format!("axes.{SPLIT}={:?}", self.splits),
            format!("axes.steps=[{}]", self.steps),
            format!("axes.system=[{:?}]", args.system.display().to_string()),
            // The reference takes no notice of the budget, so that it runs once.
            match &self.budgets[..last] {
                [] => "skip=[]".into(),
                rest => format!("skip=[{{policy = \"{}\", budget = {rest:?}}}]", select::full::ENTRY.name),
            },
        ];
        out.extend(self.element_bytes.map(|bytes| format!("axes.mapping.element_bytes=[{bytes}]")));
        out.extend(self.broadcast.then(|| "axes.mapping.addressing=[\"broadcast\"]".to_string()));
        out
    }

    /// What the dump is called on the command line.
    fn name(&self, args: &TryArgs) -> String {
        args.dump.as_ref().map_or(SAMPLE.to_string(), |dump| dump.display().to_string())
    }

    fn text(&self, answer: &Answer, args: &TryArgs) -> String {
        let place = |split: &str| match split {
            "1" => "each head on a channel of its own".to_string(),
            n => format!("each head spread over {n} channels"),
        };
        let mut out = String::new();
        for split in answer.places() {
            out.push_str(&format!("{} ({SPLIT} = {split})\n", capital(&place(split))));
            out.push_str(&answer.table(split, Style::Text));
            out.push('\n');
        }
        out.push_str(&wrapped(
            "us, uJ, activations (ACT): per decode step, attention of these layers. kept: share of the softmax mass. mean, med, p95: \
             error of the attention's output over query heads and steps; worst: mean of the worst query head. most in: what takes \
             most time besides waiting for other channels. *: no other point of the table is better in time, energy and mean error \
             alike.",
        ));
        out.push('\n');
        let kv = self.name(args);
        let next = |policy: &str, error: f64| {
            let budgets = self.budgets.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            format!(
                "\npimsim tune --config demo --kv {kv} --policies {policy} --budgets {budgets} --at-most output_rel_err={error} -o tune"
            )
        };
        for sentence in answer.sentences(place, next) {
            // A command stands on a line of its own, to be copied.
            match sentence.split_once('\n') {
                Some((text, command)) => out.push_str(&format!("{}  {command}\n", wrapped(text.trim_end()))),
                None => out.push_str(&wrapped(&sentence)),
            }
        }
        for caution in answer.cautions() {
            out.push_str(&wrapped(&format!("Caution: {caution}.")));
        }
        let elements = match self.element_bytes {
            Some(bytes) => format!("elements of {bytes} bytes, which the system multiplies, in place of the dump's; "),
            None => String::new(),
        };
        let addressing = match self.broadcast {
            true => "broadcast addressing, since the device opens a row in all banks alone; ",
            false => "",
        };
        out.push('\n');
        out.push_str(&wrapped(&format!(
            "Assumed: the mapping of the preset workload/demo, one request, the first two layers of the model dense; {elements}{addressing}host \
             latencies and what the system marks \"assumed\". Left out: the prefill, all but attention, and accuracy beyond the \
             attention's output."
        )));
        let [page, table] = ["report.html", "sweep.csv"].map(|file| args.output.join(file).display().to_string());
        out.push_str(&wrapped(&format!("The page to look at or mail: {page}. The table behind it: {table}.")));
        out
    }
}

/// Those asked for, or those of the preset; the reference among them, first.
fn policies(args: &TryArgs) -> Result<Vec<String>> {
    let full = select::full::ENTRY.name;
    let mut policies = match args.policies.as_slice() {
        [] => Grid::load(&presets::resolve(PresetKind::Grid, "try", Path::new(""))?)?.values("policy"),
        named => named.to_vec(),
    };
    for name in &policies {
        select::find(name).map_err(|what| Error::Usage(format!("--policies: {what}")))?;
    }
    policies.retain(|name| name != full);
    policies.insert(0, full.into());
    Ok(policies)
}

/// As many steps as there are whole periods of all policies, but for those whose periods are longer than that.
fn whole_periods(policies: &[String], there: usize) -> Result<usize> {
    let period_of = |name: &String| {
        let entry = select::find(name).map_err(Error::Usage)?;
        let policy: Box<dyn Policy> =
            (entry.build)(&toml::Table::new()).map_err(|e| Error::Usage(format!("{name}: {e}")))?;
        Ok(policy.period())
    };
    let mut periods = policies.iter().map(period_of).collect::<Result<Vec<usize>>>()?;
    periods.sort_unstable();
    let common = |a: usize, b: usize| a / gcd(a, b) * b;
    let period = periods.into_iter().fold(1, |all, own| if common(all, own) <= there { common(all, own) } else { all });
    Ok(there / period * period)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
