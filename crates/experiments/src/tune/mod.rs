//! Each policy at its best: the mapping, placement and sizes that cost least, on hardware of each capability.
//!
//! [`space`] says what is free to choose, [`search`] finds the best, `bench` runs choices and keeps what they cost, [`table`] has
//! the results. Policies and budgets are tuned one after the other; the runs of each go to as many workers as there are threads.

mod bench;
pub mod search;
pub mod space;
pub mod table;

use bench::{ChoiceRun, TuneBench};
use pimattn_core::cancel::Cancel;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio::{Output, OutputFolder};
use pimattn_core::spec::config::Document;
use pimattn_core::table::{TableLayout, TypedWriter};
use pimattn_policies::select;
use search::{Extent, FEW, FoundChoice, Search, SearchMethod};
use space::{Capability, KEYS, KnobChoice, KnobSetting, PolicyTraits, SIZES, Space};
use std::io::Write;
use std::path::{Path, PathBuf};
use table::{Settings, TuneRun, TunedCost, TunedRow};

/// What is made least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Time.
    Time,
    /// Energy.
    Energy,
    /// Their product.
    Edp,
}

impl Objective {
    /// All, with their names.
    pub const ALL: [(Objective, &'static str); 3] =
        [(Objective::Time, "time"), (Objective::Energy, "energy"), (Objective::Edp, "edp")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(objective, _)| *objective == self).map_or("", |(_, name)| name)
    }

    fn of(self, cost: &TunedCost) -> f64 {
        match self {
            Objective::Time => cost.ns,
            Objective::Energy => cost.pj,
            Objective::Edp => cost.ns * cost.pj,
        }
    }
}

/// The most that a selection may lose.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorLimit {
    measure: &'static str,
    /// Whether the measure is of what is kept, so that 1 minus it is lost.
    kept: bool,
    most: f64,
}

impl ErrorLimit {
    /// Reads `output_rel_err=0.05`, `1-mass_recall=0.1` or `1-top_recall=0.3`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name, or where the limit is no number of at least 0.
    pub fn parse(text: &str) -> Result<Self> {
        let known = [(columns::OUTPUT_REL_ERR, false), (columns::MASS_RECALL, true), (columns::TOP_RECALL, true)];
        let spelled = |(name, kept): (&str, bool)| if kept { format!("1-{name}") } else { name.into() };
        let (name, most) =
            text.split_once('=').ok_or_else(|| Error::Usage(format!("{text}: expected MEASURE=LIMIT")))?;
        let found = known.into_iter().find(|k| spelled(*k) == name);
        let (measure, kept) = found.ok_or_else(|| {
            let names: Vec<String> = known.into_iter().map(spelled).collect();
            Error::Usage(format!(
                "{text}: unknown measure \"{name}\"{}",
                suggest(name, names.iter().map(String::as_str))
            ))
        })?;
        let most: f64 = most.parse().map_err(|_| Error::Usage(format!("{text}: \"{most}\" is not a number")))?;
        match most >= 0.0 {
            true => Ok(ErrorLimit { measure, kept, most }),
            false => Err(Error::Usage(format!("{text}: the limit is a number of at least 0"))),
        }
    }

    fn lost(&self, cost: &TunedCost) -> Option<f64> {
        let value = match self.measure {
            columns::MASS_RECALL => cost.mass_recall,
            columns::TOP_RECALL => cost.top_recall,
            _ => cost.output_rel_err,
        };
        value.map(|x| if self.kept { 1.0 - x } else { x })
    }

    fn holds(&self, cost: &TunedCost) -> bool {
        self.lost(cost).is_some_and(|lost| lost <= self.most)
    }
}

/// What is tuned.
#[derive(Debug, Clone)]
pub struct TunePlan {
    /// The workload, whose own mapping is the default.
    pub base: Document,
    /// Overrides of its system.
    pub of_system: Vec<String>,
    /// A dump instead of its source.
    pub kv: Option<PathBuf>,
    /// Policies.
    pub policies: Vec<String>,
    /// Budgets; with `at_most`, those to choose from.
    pub budgets: Vec<usize>,
    /// What is made least.
    pub objective: Objective,
    /// The most that may be lost; without it, no more than at the policy's own sizes.
    pub at_most: Option<ErrorLimit>,
    /// Capabilities by name; empty: all that the device has.
    pub capabilities: Vec<String>,
    /// How to search; none: exhaustively where there are few choices.
    pub method: Option<SearchMethod>,
}

/// What tuning tells while it goes on.
pub enum TuneEvent<'a> {
    /// So many runs are done or were kept.
    Runs(u64),
    /// A kept result was damaged: it is run again.
    Damaged(&'a Path),
    /// No budget keeps a policy within the limit.
    OutOfReach(&'a str),
}

/// What was found.
pub struct TuneOutcome {
    /// The rows of tune.csv.
    pub rows: Vec<TunedRow>,
    /// Runs made, and runs whose results were kept.
    pub runs: [u64; 2],
}

/// Tunes, and writes tune.csv and runs.csv to `folder`. What is finished of a run that was stopped is kept there.
///
/// # Errors
/// [`Error::Config`] where the workload at its default is impossible, [`Error::Usage`] for an unknown capability,
/// [`Error::Interrupted`], and what the file system says.
pub fn tune(
    plan: &TunePlan,
    folder: &Path,
    workers: usize,
    cancel: &Cancel,
    tell: &mut dyn FnMut(TuneEvent<'_>),
) -> Result<TuneOutcome> {
    let folder = OutputFolder::create(folder)?;
    let mut bench = TuneBench::open(plan, &folder.join("points"), workers, cancel, tell)?;
    let device = &bench.system().device;
    let capabilities: Vec<Capability> = match plan.capabilities.as_slice() {
        [] => Capability::ALL.into_iter().filter(|c| c.is_of(device)).collect(),
        named => named.iter().map(|text| space::capability(text, device)).collect::<Result<_>>()?,
    };
    for name in &plan.policies {
        select::find(name).map_err(Error::Usage)?;
    }
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for policy in &plan.policies {
        for budgets in plan.budget_sets() {
            let Some(mut tuned) = Tuned::of(plan, &mut bench, policy, budgets)? else { continue };
            for capability in &capabilities {
                let (row, measured) = tuned.at(&mut bench, *capability)?;
                rows.extend(row);
                runs.extend(measured);
            }
            write(&folder.join("tune.csv"), table::tuned(), &rows)?;
            write(&folder.join("runs.csv"), table::runs(), &runs)?;
            if tuned.takes_all {
                break;
            }
        }
    }
    Ok(TuneOutcome { rows, runs: bench.runs() })
}

fn write<R: 'static>(file: &Path, layout: TableLayout<R>, rows: &[R]) -> Result<()> {
    let mut out = TypedWriter::new(Output::create(file)?, &file.display().to_string(), layout);
    rows.iter().try_for_each(|row| out.row(row))?;
    let mut out = out.finish()?;
    out.flush().map_err(|e| Error::io(file, e))?;
    out.commit()
}

impl TunePlan {
    /// The budgets that a row of the table is chosen from: each alone, or all of them where the error is what is given.
    fn budget_sets(&self) -> Vec<&[usize]> {
        match &self.at_most {
            None => self.budgets.chunks(1).collect(),
            Some(_) => vec![&self.budgets],
        }
    }
}

/// A policy that is tuned, with the budgets and sizes that keep what has to be kept.
struct Tuned<'p> {
    plan: &'p TunePlan,
    policy: &'p str,
    traits: PolicyTraits,
    /// Whether it selects all tokens, whatever the budget.
    takes_all: bool,
    /// The workload's own first.
    sizes: Vec<KnobSetting>,
    /// Budget of each.
    budgets: Vec<usize>,
    /// The best choice of the capability before, by key and setting.
    last: Vec<(&'static str, KnobSetting)>,
}

impl<'p> Tuned<'p> {
    /// Measures what budgets and sizes keep; none where none keeps enough.
    fn of(plan: &'p TunePlan, bench: &mut TuneBench<'_>, policy: &'p str, budgets: &[usize]) -> Result<Option<Self>> {
        let setting = |budget: usize, text: String, sizes: Vec<String>| {
            let own = [format!("policy={policy}"), format!("budget={budget}")];
            KnobSetting { text, overrides: own.into_iter().chain(sizes).collect() }
        };
        bench.forget();
        let built = bench.policy(&setting(budgets[0], String::new(), Vec::new()).overrides)?;
        let own_sizes = built.sizes(bench.keys_per_row());
        let others = own_sizes.iter().map(|table| {
            let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let overrides = pairs.iter().map(|pair| format!("policies.{policy}.{pair}")).collect();
            (pairs.join(" "), overrides)
        });
        let all: Vec<(String, Vec<String>)> = [(String::new(), Vec::new())].into_iter().chain(others).collect();
        let (mut sizes, mut chosen, mut own_error) = (Vec::new(), Vec::new(), None);
        let mut budgets = budgets.to_vec();
        budgets.sort_unstable();
        budgets.dedup();
        for (text, overrides) in &all {
            for budget in &budgets {
                let setting = setting(*budget, text.clone(), overrides.clone());
                bench.expect(&setting.overrides)?;
                let measured = bench.run(&[(setting.overrides.clone(), setting.overrides.clone())], Extent::Whole)?;
                let cost = match measured.into_iter().next() {
                    Some(ChoiceRun::Ran(_, cost)) => cost,
                    Some(ChoiceRun::Impossible(at, what)) if text.is_empty() && plan.at_most.is_none() => {
                        return Err(Error::Config { at, what });
                    }
                    // A budget that is too small for a size.
                    _ => continue,
                };
                let is_own = text.is_empty();
                let keeps = match &plan.at_most {
                    Some(limit) => limit.holds(&cost),
                    None if is_own => true,
                    None => matches!((cost.output_rel_err, own_error), (Some(e), Some(own)) if e <= own),
                };
                if is_own && own_error.is_none() {
                    own_error = cost.output_rel_err;
                }
                if keeps {
                    sizes.push(setting);
                    chosen.push(*budget);
                    // A larger budget keeps more, and costs more.
                    break;
                }
            }
        }
        if sizes.is_empty() {
            bench.out_of_reach(policy);
            return Ok(None);
        }
        Ok(Some(Tuned {
            plan,
            policy,
            traits: PolicyTraits { clusters: built.clusters() },
            takes_all: !built.heeds_budget(),
            sizes,
            budgets: chosen,
            last: Vec::new(),
        }))
    }

    /// The best choice on hardware of a capability, and all that was run for it; no row where the hardware makes all impossible.
    fn at(&mut self, bench: &mut TuneBench<'_>, capability: Capability) -> Result<(Option<TunedRow>, Vec<TuneRun>)> {
        let workload = bench.workload(&self.sizes[0].overrides)?;
        let space = Space::new(&workload, self.traits, capability, bench.channels(), self.sizes.clone());
        let default = space.default_choice();
        let method = match self.plan.method {
            Some(method) => method,
            None if space.size() <= FEW => SearchMethod::Exhaustive,
            None => SearchMethod::Descent,
        };
        let mut log: Vec<(Extent, KnobChoice, ChoiceRun)> = Vec::new();
        let objective = self.plan.objective;
        let mut measure = |choices: &[KnobChoice], extent: Extent| -> Result<Vec<ChoiceRun>> {
            let jobs: Vec<(Vec<String>, Vec<String>)> = choices
                .iter()
                .map(|choice| {
                    (space.overrides(choice), space.knobs[0].settings[usize::from(choice[0])].overrides.clone())
                })
                .collect();
            let measured = bench.run(&jobs, extent)?;
            log.extend(choices.iter().zip(&measured).map(|(choice, m)| (extent, choice.clone(), m.clone())));
            Ok(measured)
        };
        let Some(ChoiceRun::Ran(_, at_default)) = measure(std::slice::from_ref(&default), Extent::Whole)?.pop() else {
            let runs = self.runs(&space, capability, log);
            return Ok((None, runs));
        };
        let starts: Vec<KnobChoice> = if self.last.is_empty() { Vec::new() } else { vec![nearest(&space, &self.last)] };
        let found = {
            let mut evaluate = |choices: &[KnobChoice], extent: Extent| {
                Ok(measure(choices, extent)?.iter().map(|m| Some(objective.of(m.cost()?))).collect())
            };
            Search::new(&space, &mut evaluate).run(method, &starts)?
        };
        let FoundChoice { best, runs } = found;
        let best = best.unwrap_or_else(|| default.clone());
        let mut cost_of = |choice: &KnobChoice| -> Result<Option<TunedCost>> {
            Ok(measure(std::slice::from_ref(choice), Extent::Whole)?.first().and_then(|m| m.cost().copied()))
        };
        let cost = cost_of(&best)?.unwrap_or(at_default);
        let changed = space.changed(&best);
        let mut top: Option<(&'static str, f64)> = None;
        for knob in &changed {
            let back = cost_of(&Space::with(&best, &[(*knob, 0)]))?;
            let gain = back.map_or(f64::NAN, |back| objective.of(&back) / objective.of(&cost));
            if gain.is_finite() && top.is_none_or(|(_, most)| gain > most) {
                top = Some((space.knobs[*knob].key, gain));
            }
        }
        if capability != Capability::Ideal {
            let chosen = space.knobs.iter().zip(&best);
            self.last = chosen.map(|(knob, c)| (knob.key, knob.settings[usize::from(*c)].clone())).collect();
        }
        let row = TunedRow {
            policy: self.policy.into(),
            budget: self.budgets[usize::from(best[0])],
            capability: capability.name(),
            objective: objective.name(),
            settings: settings(&space, &best),
            best: cost,
            default: at_default,
            gain: objective.of(&at_default) / objective.of(&cost),
            changed: changed.len(),
            top,
            method: match method {
                SearchMethod::Exhaustive => "exhaustive",
                SearchMethod::Descent => "descent",
            },
            choices: space.size(),
            runs,
            arguments: bench.arguments(&space.overrides(&best))?,
            overrides: space.overrides(&best),
        };
        let runs = self.runs(&space, capability, log);
        Ok((Some(row), runs))
    }

    /// The runs of a search as rows, each once, whole ones first.
    fn runs(
        &self,
        space: &Space,
        capability: Capability,
        mut log: Vec<(Extent, KnobChoice, ChoiceRun)>,
    ) -> Vec<TuneRun> {
        log.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
        log.dedup_by(|a, b| (a.0, &a.1) == (b.0, &b.1));
        let row = |(_, choice, measured): (Extent, KnobChoice, ChoiceRun)| TuneRun {
            policy: self.policy.into(),
            budget: self.budgets[usize::from(choice[0])],
            capability: capability.name(),
            settings: settings(space, &choice),
            cost: measured.cost().copied(),
            key: measured.key().into(),
        };
        log.into_iter().map(row).collect()
    }
}

/// Settings of a choice, by key.
fn settings(space: &Space, choice: &KnobChoice) -> Settings {
    KEYS.map(|key| space.setting(choice, key).filter(|s| key != SIZES || !s.text.is_empty()).map(|s| s.text.clone()))
}

/// A choice with these settings, where the space has them.
fn nearest(space: &Space, wanted: &[(&'static str, KnobSetting)]) -> KnobChoice {
    let of = |knob: &space::Knob| {
        let setting = wanted.iter().find(|(key, _)| *key == knob.key).map(|(_, setting)| setting);
        setting.and_then(|s| knob.settings.iter().position(|k| k == s)).unwrap_or(0) as u8
    };
    space.knobs.iter().map(of).collect()
}
