//! The tables of `tune`: what was chosen, and every run that it was chosen from.

use super::space::KEYS;
use crate::sweep::table::SweepRow;
use pimattn_core::columns;
use pimattn_core::table::{Measure, TableLayout, Value, column, item, measure};

/// What a run of a choice cost and kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TunedCost {
    /// Decode steps.
    pub steps: f64,
    /// Time of the run (ns).
    pub ns: f64,
    /// Energy of the run (pJ).
    pub pj: f64,
    /// Tokens selected by a query head, mean.
    pub selected: Option<f64>,
    /// Softmax mass of the selected, mean.
    pub mass_recall: Option<f64>,
    /// Share of the best tokens, mean.
    pub top_recall: Option<f64>,
    /// Relative error of the output, mean.
    pub output_rel_err: Option<f64>,
}

impl From<&SweepRow> for TunedCost {
    fn from(row: &SweepRow) -> Self {
        TunedCost {
            steps: row.steps,
            ns: row.ns,
            pj: row.pj,
            selected: row.selected,
            mass_recall: row.mass_recall,
            top_recall: row.top_recall,
            output_rel_err: row.output_rel_err,
        }
    }
}

/// Settings of the knobs, in the order of [`KEYS`]; none where there is no such knob.
pub type Settings = [Option<String>; KEYS.len()];

/// A row of tune.csv.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedRow {
    /// Selection policy.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: usize,
    /// Name of the capability.
    pub capability: &'static str,
    /// Name of the objective.
    pub objective: &'static str,
    /// The settings that were chosen.
    pub settings: Settings,
    /// What the choice costs and keeps.
    pub best: TunedCost,
    /// What the default costs and keeps.
    pub default: TunedCost,
    /// Objective of the default over that of the choice.
    pub gain: f64,
    /// Knobs that are not at their default.
    pub changed: usize,
    /// The knob that alone, back at its default, costs most; and the objective then, over that of the choice.
    pub top: Option<(&'static str, f64)>,
    /// How the choice was found.
    pub method: &'static str,
    /// Choices of the space.
    pub choices: u64,
    /// Whole runs, and runs of the first steps.
    pub runs: [u64; 2],
    /// The choice as arguments of `tracegen run`.
    pub arguments: String,
    /// The choice as overrides of the workload.
    pub overrides: Vec<String>,
}

/// A row of runs.csv.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneRun {
    /// Selection policy.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: usize,
    /// Name of the capability.
    pub capability: &'static str,
    /// The settings.
    pub settings: Settings,
    /// What they cost and keep; none where they are impossible.
    pub cost: Option<TunedCost>,
    /// SHA-256 of what the run depends on; empty where it is impossible.
    pub key: String,
}

fn text(setting: Option<&String>) -> Value {
    setting.map_or(Value::Unknown, |text| Value::Text(text.clone()))
}

fn ratio(x: Option<f64>) -> Value {
    x.map_or(Value::Unknown, |x| Value::Float(x, 6))
}

/// Meanings of the knobs' columns, in the order of [`KEYS`].
const MEANINGS: [&str; KEYS.len()] = [
    "parameters of the policy that are not those of the workload; empty where they are",
    "units of the row-blocks",
    "channels that a head's tokens spread over",
    "channels of the heads; empty where all requests have one length",
    "addressing of keys",
    "unit, row and column of a key",
    "where clusters begin, keys",
    "addressing of values",
    "unit, row and column of a value",
    "where clusters begin, values",
    "how a value vector lies in its unit",
    "whether columns that no unit wants are left out",
    "units of the vectors that a policy selects by",
    "heads in pairs: transfers and softmax of one beside the MACs of the other",
];

macro_rules! settings {
    ($row:ty) => {{
        const fn of(i: usize) -> Measure<$row> {
            item(column(KEYS[i], "-", MEANINGS[i]), i, |row: &$row, i| text(row.settings[i].as_ref()))
        }
        let mut out = [of(0); KEYS.len()];
        let mut i = 1;
        while i < out.len() {
            out[i] = of(i);
            i += 1;
        }
        out
    }};
}

const TUNED_SETTINGS: [Measure<TunedRow>; KEYS.len()] = settings!(TunedRow);
const RUN_SETTINGS: [Measure<TuneRun>; KEYS.len()] = settings!(TuneRun);

const WHO: &[Measure<TunedRow>] = &[
    measure(columns::POLICY, "-", "selection policy", |r| (&r.policy).into()),
    measure(columns::BUDGET, "tokens", "tokens that a query head may select", |r| r.budget.into()),
    measure("capability", "-", "what one row activation of the hardware covers", |r| r.capability.into()),
    measure("objective", "-", "what was made least: time, energy, or their product (edp)", |r| r.objective.into()),
];

const FOUND: &[Measure<TunedRow>] = &[
    measure(columns::STEPS, "1", "decode steps of the run", |r| Value::Float(r.best.steps, 0)),
    measure(columns::TIME_NS, "ns", "time of the run", |r| Value::Float(r.best.ns, 3)),
    measure(columns::ENERGY_PJ, "pJ", "energy of the run", |r| Value::Float(r.best.pj, 1)),
    measure(
        columns::SELECTED,
        "tokens",
        "tokens selected by a query head, mean over steps, layers and query heads",
        |r| ratio(r.best.selected),
    ),
    measure(columns::MASS_RECALL, "1", "true softmax mass on the selected tokens, mean likewise", |r| {
        ratio(r.best.mass_recall)
    }),
    measure(
        columns::TOP_RECALL,
        "1",
        "share of the budget's tokens of highest score that is selected, mean likewise",
        |r| ratio(r.best.top_recall),
    ),
    measure(columns::OUTPUT_REL_ERR, "1", "|o_selected - o| / |o|, mean likewise", |r| ratio(r.best.output_rel_err)),
    measure(
        "default_time_ns",
        "ns",
        "time of the run at the default: the workload's own settings, or the nearest that the hardware allows",
        |r| Value::Float(r.default.ns, 3),
    ),
    measure("default_energy_pj", "pJ", "energy of the run at the default", |r| Value::Float(r.default.pj, 1)),
    measure("default_output_rel_err", "1", "output error at the default", |r| ratio(r.default.output_rel_err)),
    measure("gain", "1", "objective at the default over that of the choice", |r| Value::Float(r.gain, 4)),
    measure("changed", "1", "knobs that are not at their default", |r| r.changed.into()),
    measure(
        "top_knob",
        "-",
        "the knob that costs most when it alone goes back to its default; empty where none is changed",
        |r| r.top.map_or(Value::Unknown, |(key, _)| key.into()),
    ),
    measure(
        "top_knob_gain",
        "1",
        "objective then, over that of the choice; empty where the mixture is impossible",
        |r| r.top.map_or(Value::Unknown, |(_, gain)| Value::Float(gain, 4)),
    ),
    measure("method", "-", "exhaustive: every choice was run; descent: coordinate descent with restarts", |r| {
        r.method.into()
    }),
    measure("choices", "1", "choices that there are", |r| r.choices.into()),
    measure("whole_runs", "1", "choices that were run whole", |r| r.runs[0].into()),
    measure("begin_runs", "1", "choices of which the first steps were run", |r| r.runs[1].into()),
    measure("arguments", "-", "the choice, for tracegen run", |r| (&r.arguments).into()),
];

const RAN: &[Measure<TuneRun>] = &[
    measure(columns::POLICY, "-", "selection policy", |r| (&r.policy).into()),
    measure(columns::BUDGET, "tokens", "tokens that a query head may select", |r| r.budget.into()),
    measure("capability", "-", "what one row activation of the hardware covers", |r| r.capability.into()),
];

fn of_cost(row: &TuneRun, value: fn(&TunedCost) -> Value) -> Value {
    row.cost.as_ref().map_or(Value::Unknown, value)
}

const COST: &[Measure<TuneRun>] = &[
    measure(columns::STEPS, "1", "decode steps of the run; empty where the settings are impossible", |r| {
        of_cost(r, |c| Value::Float(c.steps, 0))
    }),
    measure(columns::TIME_NS, "ns", "time of the run", |r| of_cost(r, |c| Value::Float(c.ns, 3))),
    measure(columns::ENERGY_PJ, "pJ", "energy of the run", |r| of_cost(r, |c| Value::Float(c.pj, 1))),
    measure(columns::OUTPUT_REL_ERR, "1", "|o_selected - o| / |o|, mean over steps, layers and query heads", |r| {
        of_cost(r, |c| ratio(c.output_rel_err))
    }),
    measure(columns::KEY, "-", "SHA-256 of what the run depends on", |r| (&r.key).into()),
];

/// Columns of tune.csv.
pub fn tuned() -> TableLayout<TunedRow> {
    TableLayout::of(WHO).with(|r: &TunedRow| r, &TUNED_SETTINGS).with(|r: &TunedRow| r, FOUND)
}

/// Columns of runs.csv.
pub fn runs() -> TableLayout<TuneRun> {
    TableLayout::of(RAN).with(|r: &TuneRun| r, &RUN_SETTINGS).with(|r: &TuneRun| r, COST)
}
