//! What can be chosen: a policy at a budget, with what it costs and loses, from whichever table says it.

use super::PageContext;
use super::metrics::MetricsTally;
use super::read::{Findings, PointFolder, RunFolder, is_of};
use crate::cells::{CellRow, Cells};
use crate::explain::{CAUSES, PHASES};
use crate::frontier::{CHOICES, PointCost};
use crate::identity::ResultIdentity;
use crate::sheet::stem;
use pimattn_core::columns;
use pimattn_core::error::Result;
use std::cmp::Ordering;

/// A policy at a budget, and what a decode step costs there.
#[derive(Debug, Clone)]
pub struct PageChoice {
    /// What it is called: policy and budget, and what else tells it apart.
    pub label: String,
    /// The policy; its line in figures.
    pub policy: String,
    /// Tokens that a query head may select; none where the policy takes no notice of it, or the table does not say it.
    pub budget: Option<f64>,
    /// Whether the policy takes no notice of the budget: what others are set against.
    pub baseline: bool,
    /// Values of what it shares with those that it is set against, below [`Choices::axes`].
    pub group: Vec<String>,
    /// Decode steps.
    pub steps: f64,
    /// A step's time (ns) and energy (pJ), and the error; NaN where that is not known.
    pub cost: PointCost,
    /// Rows opened in a step.
    pub activations: Option<f64>,
    /// Share of the best tokens that is selected.
    pub recall: Option<f64>,
    /// The longest step, ns.
    pub worst_step: Option<f64>,
    /// Time of a step by cause, ns, below the names of [`CAUSES`]; empty where the table does not say it.
    pub causes: Vec<(&'static str, f64)>,
    /// Time of a step by phase, ns.
    pub phases: Vec<(String, f64)>,
}

/// What stands to choose.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Where they are from.
    pub source: String,
    /// What groups differ in; choices are set against others of their group.
    pub axes: Vec<String>,
    /// The choices: group by group, policies as they come, budgets rising.
    pub all: Vec<PageChoice>,
    /// Columns that all share, and their values.
    pub shared: Vec<(String, String)>,
    /// Columns in which they differ, and the values in order.
    pub varied: Vec<(String, Vec<String>)>,
}

impl PageChoice {
    /// Whether the error is known.
    pub fn error(&self) -> Option<f64> {
        Some(self.cost.0[2]).filter(|e| !e.is_nan())
    }

    /// A step's time, ns.
    pub fn time(&self) -> f64 {
        self.cost.0[0]
    }

    /// A step's energy, pJ.
    pub fn energy(&self) -> f64 {
        self.cost.0[1]
    }

    /// The cause that takes most of the time, and its share of it.
    pub fn main_cause(&self) -> Option<(&'static str, f64)> {
        let whole: f64 = self.causes.iter().map(|(_, ns)| ns).sum();
        let most = self.causes.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (whole > 0.0).then(|| (most.0, most.1 / whole))
    }

    /// From a row of any table that has steps, time and energy of a run.
    fn of_row(row: &CellRow<'_>, policy: &str, budget: Option<&str>, context: &PageContext<'_>) -> Result<Self> {
        let steps = row.known(columns::STEPS)?.unwrap_or(0.0).max(1.0);
        let per_step = |column: &str| Ok(row.known(column)?.map(|x| x / steps));
        let baseline = (context.policy)(policy, &toml::Table::new()).is_some_and(|facts| !facts.heeds_budget);
        let (time, cycles) = (row.number(columns::TIME_NS)?, row.known(columns::CYCLES)?.unwrap_or(0.0));
        let mut causes = Vec::new();
        for (column, name, _) in CAUSES {
            let Some(part) = row.known(column)? else { continue };
            if cycles > 0.0 {
                causes.push((name, part / cycles * time / steps));
            }
        }
        let mut phases = Vec::new();
        for phase in phase_names() {
            phases.extend(per_step(&format!("{}_ns", phase.replace('-', "_")))?.map(|ns| (phase.to_string(), ns)));
        }
        let budget = budget.filter(|_| !baseline);
        Ok(PageChoice {
            label: [policy, budget.unwrap_or("")].join(" ").trim().to_string(),
            policy: policy.into(),
            budget: budget.and_then(|b| b.parse().ok()),
            baseline,
            group: Vec::new(),
            steps,
            cost: PointCost([
                time / steps,
                row.number(columns::ENERGY_PJ)? / steps,
                row.known(columns::OUTPUT_REL_ERR)?.unwrap_or(f64::NAN),
            ]),
            activations: per_step(columns::ACTIVATIONS)?,
            recall: row.known(columns::TOP_RECALL)?,
            worst_step: row.known(columns::STEP_NS_WORST)?,
            causes,
            phases,
        })
    }
}

/// Phases that are not of a step's own work.
const OTHER: &str = "other";
const WAITING: &str = "waiting";

/// Phases in the order of a step, and those behind.
pub fn phase_names() -> Vec<&'static str> {
    PHASES.into_iter().chain([OTHER, WAITING]).collect()
}

impl Choices {
    /// Points of a sweep: its axes stand between the point and its key.
    pub fn of_sweep(folder: &PointFolder, context: &PageContext<'_>) -> Result<Self> {
        let header = folder.table.header();
        let place = |name: &str| header.iter().position(|h| h == name);
        let (from, to) = (place(columns::POINT).map_or(0, |i| i + 1), place(columns::KEY).unwrap_or(0));
        let axes = header.get(from..to).unwrap_or(&[]).to_vec();
        Self::of_points(folder, &axes, &[columns::DEVICE], context)
    }

    /// Policies at their best.
    pub fn of_tune(folder: &PointFolder, context: &PageContext<'_>) -> Result<Self> {
        let axes = [columns::POLICY, columns::BUDGET, columns::CAPABILITY, columns::OBJECTIVE].map(String::from);
        Self::of_points(folder, &axes, &[], context)
    }

    fn of_points(folder: &PointFolder, axes: &[String], more: &[&str], context: &PageContext<'_>) -> Result<Self> {
        let table = &folder.table;
        let (mut shared, mut varied) = (Vec::new(), Vec::new());
        for axis in axes.iter().map(String::as_str).chain(more.iter().copied()).filter(|a| table.has(a)) {
            match table.distinct(axis)?.as_slice() {
                [one] => shared.push((axis.to_string(), one.to_string())),
                many => {
                    let mut many: Vec<String> = many.iter().map(|v| v.to_string()).collect();
                    many.sort_by(|a, b| by_number(a, b));
                    varied.push((axis.to_string(), many));
                }
            }
        }
        // What only follows from the axes, as the device, tells no groups apart.
        let groups = |axis: &&String| varied.iter().any(|(name, _)| name == *axis) && !CHOICES.contains(&axis.as_str());
        let axes: Vec<String> = axes.iter().filter(groups).cloned().collect();
        let mut all = Vec::new();
        for row in table.rows() {
            let policy = row.said(columns::POLICY).unwrap_or(POINTS);
            let mut choice = PageChoice::of_row(&row, policy, row.said(columns::BUDGET), context)?;
            choice.group = axes.iter().map(|axis| row.said(axis).unwrap_or("").to_string()).collect();
            all.push(choice);
        }
        Ok(Choices { source: folder.name.clone(), axes, all, shared, varied }.in_order())
    }

    /// Runs of all folders, with the metrics that are of each.
    pub fn of_runs(found: &Findings, context: &PageContext<'_>) -> Result<Self> {
        let mut all = Vec::new();
        for folder in &found.runs {
            for row in folder.run.rows() {
                let (policy, budget) = chosen(folder, &row);
                let trace = stem(row.text(columns::TRACE)?);
                let known = policy.is_some();
                let policy = policy.unwrap_or_else(|| trace.clone());
                let mut choice = PageChoice::of_row(&row, &policy, budget.as_deref(), context)?;
                if let Some(metrics) = metrics_of(found, &row)? {
                    choice.cost.0[2] = metrics.error().unwrap_or(f64::NAN);
                    choice.recall = metrics.recall();
                }
                choice.group = [columns::SYSTEM, columns::DEVICE].map(|c| row.said(c).unwrap_or("").to_string()).into();
                if let Some(phases) = &folder.details.phases {
                    choice.phases = phases_of(phases, &row, choice.steps)?;
                }
                if let Some(steps) = &folder.details.steps {
                    let own = steps.rows().filter(|step| is_of(step, &row));
                    let times = own.map(|step| step.number(columns::TIME_NS)).collect::<Result<Vec<_>>>()?;
                    choice.worst_step = times.into_iter().reduce(f64::max);
                }
                all.push((choice, known, trace, folder.name.clone()));
            }
        }
        // What is called alike is told apart by its trace, then by its folder.
        let labels: Vec<String> = all.iter().map(|(c, ..)| c.label.clone()).collect();
        let alike = |label: &String| labels.iter().filter(|l| *l == label).count() > 1;
        let mut choices: Vec<PageChoice> = Vec::new();
        let several = found.runs.len() > 1;
        for (mut choice, known, trace, folder) in all {
            if alike(&choice.label) {
                let place = if several { format!("{folder}, {trace}") } else { trace };
                choice.label = format!("{} ({place})", choice.label);
                choice.policy = if known { choice.policy } else { choice.label.clone() };
            }
            choices.push(choice);
        }
        let mut varied = Vec::new();
        let mut shared = Vec::new();
        for (place, axis) in [columns::SYSTEM, columns::DEVICE].into_iter().enumerate() {
            let mut values: Vec<String> = Vec::new();
            for choice in &choices {
                if !values.contains(&choice.group[place]) {
                    values.push(choice.group[place].clone());
                }
            }
            match values.as_slice() {
                [one] => shared.push((axis.to_string(), one.clone())),
                _ => varied.push((axis.to_string(), values)),
            }
        }
        let kept: Vec<bool> =
            [columns::SYSTEM, columns::DEVICE].iter().map(|a| varied.iter().any(|(name, _)| name == a)).collect();
        for choice in &mut choices {
            let mut kept = kept.iter();
            choice.group.retain(|_| kept.next().copied().unwrap_or(false));
        }
        let axes = varied.iter().map(|(axis, _)| axis.clone()).collect();
        let source = found.runs.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
        Ok(Choices { source, axes, all: choices, shared, varied }.in_order())
    }

    fn in_order(mut self) -> Self {
        let first = |get: &dyn Fn(&PageChoice) -> String| {
            let mut seen: Vec<String> = Vec::new();
            let mut place = Vec::new();
            for choice in &self.all {
                let value = get(choice);
                place.push(seen.iter().position(|s| *s == value).unwrap_or_else(|| {
                    seen.push(value);
                    seen.len() - 1
                }));
            }
            place
        };
        let (groups, policies) = (first(&|c| c.group.join("\n")), first(&|c| c.policy.clone()));
        let mut keyed: Vec<_> = self.all.drain(..).zip(groups.into_iter().zip(policies)).collect();
        // Stable: what is alike stays as the table has it.
        keyed.sort_by(|(a, ka), (b, kb)| {
            let budget = |c: &PageChoice| c.budget.unwrap_or(0.0);
            ka.cmp(kb).then(budget(a).total_cmp(&budget(b)))
        });
        self.all = keyed.into_iter().map(|(choice, _)| choice).collect();
        self
    }

    /// Groups, each with its name; one without a name where all are in it.
    pub fn groups(&self) -> Vec<(String, Vec<&PageChoice>)> {
        let mut groups: Vec<(&[String], Vec<&PageChoice>)> = Vec::new();
        for choice in &self.all {
            match groups.last_mut() {
                Some((group, members)) if *group == choice.group => members.push(choice),
                _ => groups.push((&choice.group, vec![choice])),
            }
        }
        let said = |(axis, value): (&String, &String)| format!("{axis} = {value}");
        let name = |group: &[String]| self.axes.iter().zip(group).map(said).collect::<Vec<_>>().join(", ");
        groups.into_iter().map(|(group, members)| (name(group), members)).collect()
    }

    /// Whether any error is known.
    pub fn has_errors(&self) -> bool {
        self.all.iter().any(|c| c.error().is_some())
    }
}

/// What points are called whose table has no policy.
const POINTS: &str = "points";

/// Policy and budget of a run, as its trace says them.
pub fn chosen(folder: &RunFolder, run: &CellRow<'_>) -> (Option<String>, Option<String>) {
    let Some(workload) = workload(folder, run) else { return (None, None) };
    let policy = workload.get(columns::POLICY).and_then(|p| p.as_str()).map(String::from);
    (policy, workload.get(columns::BUDGET).map(ToString::to_string))
}

/// The workload of a run, where its trace has one that is TOML.
pub fn workload(folder: &RunFolder, run: &CellRow<'_>) -> Option<toml::Table> {
    Findings::origin(folder, run)?.said(columns::WORKLOAD)?.parse().ok()
}

/// The metrics of a run: of the same selection, over as many steps. None where none is, or several are.
pub fn metrics_of<'a>(found: &'a Findings, run: &CellRow<'_>) -> Result<Option<&'a MetricsTally>> {
    let own = ResultIdentity::of(ResultIdentity::COLUMNS.map(|column| run.said(column).unwrap_or("")));
    let steps = run.known(columns::STEPS)?.unwrap_or(0.0);
    let fits = |m: &&MetricsTally| Some(&m.identity) == own.as_ref() && m.steps.len() as f64 == steps;
    let mut all = found.metrics.iter().filter(fits);
    Ok(all.next().filter(|_| all.next().is_none()))
}

/// Time of a step by phase, ns, of a run's rows in phases.csv.
fn phases_of(phases: &Cells, run: &CellRow<'_>, steps: f64) -> Result<Vec<(String, f64)>> {
    let mut sums: Vec<(String, f64)> = Vec::new();
    for row in phases.rows().filter(|row| is_of(row, run)) {
        let (name, ns) = (row.text(columns::PHASE)?, row.number(columns::TIME_NS)? / steps);
        match sums.iter_mut().find(|(phase, _)| phase == name) {
            Some((_, sum)) => *sum += ns,
            None => sums.push((name.into(), ns)),
        }
    }
    let place = |name: &str| PHASES.iter().position(|p| *p == name).unwrap_or(PHASES.len());
    sums.sort_by_key(|(name, _)| place(name));
    Ok(sums)
}

/// Numbers by their value, other texts as they stand.
pub fn by_number(a: &str, b: &str) -> Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => Ordering::Equal,
    }
}
