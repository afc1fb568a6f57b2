//! The tables of the report: their rows, and what is measured of each.

pub use super::fair_columns::{IntervalRow, MappingRow, intervals, mappings};
use crate::artifact::{BARS, BUDGETS, BarRow, BudgetRow};
use pimattn_core::table::{Column, Table, TableLayout, Value};
use pimattn_core::{columns, measures};
use pimattn_experiments::end_to_end::cost::Cost;
use pimattn_experiments::end_to_end::table::STEP_MEASURES;

/// Time or energy of a layer by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ByPhase {
    /// All phases.
    pub all: f64,
    /// Writing the new key and value.
    pub append: f64,
    /// Clustering and remapping.
    pub cluster: f64,
    /// Choosing tokens.
    pub select: f64,
    /// Scores and outputs.
    pub attend: f64,
    /// Softmax.
    pub softmax: f64,
    /// Waiting for other channels.
    pub wait: f64,
    /// The rest.
    pub other: f64,
}

impl ByPhase {
    fn percent(&self, part: f64) -> Value {
        decimal(100.0 * part / self.all)
    }
}

/// A sparse layer on the fullest stack, a decode step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SparseLayer {
    /// Time in us.
    pub us: ByPhase,
    /// Energy in uJ.
    pub uj: ByPhase,
    /// Tokens selected by a query head.
    pub selected: f64,
    /// Tokens in the row-blocks that it touches.
    pub row_tokens: f64,
    /// Rows opened, one per bank.
    pub activations: f64,
    /// Share of the best tokens.
    pub top_recall: f64,
    /// Softmax mass of the selected.
    pub mass_recall: f64,
    /// Relative error of the output.
    pub output_rel_err: f64,
    /// Row-blocks of the fullest unit over the mean.
    pub imbalance_units: f64,
}

/// A model, a context and a policy in real-mask mode.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskRow {
    /// The model.
    pub model: String,
    /// Tokens generated of each request.
    pub context: u32,
    /// What chooses the tokens.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: String,
    /// Windows that were simulated.
    pub windows: usize,
    /// Decode steps of each.
    pub window_steps: u64,
    /// Decode steps simulated, in percent of all.
    pub simulated_percent: f64,
    /// Layers simulated.
    pub simulated_layers: u32,
    /// Caches that the row is the mean of.
    pub caches: u64,
    /// What the layer takes.
    pub layer: SparseLayer,
}

/// A window of decode steps in real-mask mode.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionRow {
    /// The model.
    pub model: String,
    /// Decode step at the middle of the window.
    pub step: u32,
    /// What chooses the tokens.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: String,
    /// What the layer takes.
    pub layer: SparseLayer,
}

/// How tokens were chosen: the two modes of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionMode {
    /// Row budgets of the artifact.
    Artifact,
    /// Our own masks.
    Masks,
}

impl SelectionMode {
    /// Name in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            SelectionMode::Artifact => "artifact",
            SelectionMode::Masks => "masks",
        }
    }
}

/// The mean decode step of a model, a policy and a context, end to end.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemRow {
    /// The mode.
    pub mode: SelectionMode,
    /// The model.
    pub model: String,
    /// Tokens generated of each request.
    pub context: u32,
    /// What chooses the tokens.
    pub policy: String,
    /// What the step costs.
    pub cost: Cost,
}

/// What STARC takes against another policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ReductionRow {
    /// The mode.
    pub mode: SelectionMode,
    /// The attention layers, or a whole step.
    pub scope: &'static str,
    /// Time, or which energy.
    pub measure: &'static str,
    /// The model.
    pub model: String,
    /// Tokens generated of each request.
    pub context: u32,
    /// The other policy.
    pub against: String,
    /// What that takes.
    pub other: f64,
    /// What STARC takes.
    pub ours: f64,
    /// How sure that is; none where one cache, or none, was measured.
    pub sure: Option<SureReduction>,
}

/// The interval of a reduction, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SureReduction {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Caches that are drawn from.
    pub caches: u64,
}

/// A policy at a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceRow {
    /// Real or synthetic cache.
    pub source: &'static str,
    /// Tokens in it when decoding begins.
    pub prefill: String,
    /// What chooses the tokens.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: String,
    /// Time of a step in us.
    pub us: f64,
    /// Energy of a step in uJ.
    pub uj: f64,
    /// Tokens selected by a query head.
    pub selected: f64,
    /// Tokens in the row-blocks that it touches.
    pub row_tokens: f64,
    /// Share of the best tokens.
    pub top_recall: f64,
    /// Softmax mass of the selected.
    pub mass_recall: f64,
    /// Relative error of the output.
    pub output_rel_err: f64,
}

/// A policy at an error, by its fastest budget that keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct WinnerRow {
    /// Error at most.
    pub error: f64,
    /// 1 is the fastest.
    pub rank: u32,
    /// The policy at that budget.
    pub choice: ChoiceRow,
    /// Its time over that of rank 1.
    pub time_over_first: f64,
}

/// A number for each policy that STARC is set against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// All tokens.
    pub full: f64,
    /// Quest.
    pub quest: f64,
    /// SparQ.
    pub sparq: f64,
    /// InfiniGen.
    pub infinigen: f64,
}

/// The gains of STARC under an assumption.
#[derive(Debug, Clone, PartialEq)]
pub struct AblationRow {
    /// What is changed.
    pub assumption: String,
    /// To what.
    pub variant: String,
    /// Time of STARC in us.
    pub us: f64,
    /// Its energy in uJ.
    pub uj: f64,
    /// Time of STARC in ns, of which the gains are.
    pub ns: f64,
    /// Time of the others in ns.
    pub ns_of: Against,
    /// Energy of STARC in pJ.
    pub pj: f64,
    /// Energy of the others in pJ.
    pub pj_of: Against,
    /// top_recall of STARC.
    pub starc_recall: f64,
    /// top_recall of Quest.
    pub quest_recall: f64,
}

pub(super) fn decimal(x: f64) -> Value {
    Value::Float(x, 6)
}

/// The column of what STARC takes less than another policy, in percent.
pub const STARC_LESS: &str = "reduction_percent";

/// What STARC takes less than another policy.
pub(super) fn percent_less(ours: f64, other: f64) -> Value {
    Value::Float(100.0 * (1.0 - ours / other), 4)
}

/// What is measured of a layer.
pub mod layer {
    use super::*;

    measures! {
        /// What is measured of a layer.
        pub LAYER of SparseLayer {
            TIME_US = "time_us", "us",
                "attention of one sparse layer on the fullest stack, a decode step; the sum of the next seven",
                |l| decimal(l.us.all);
            APPEND_US = "append_us", "us", "writing the new key and value", |l| decimal(l.us.append);
            CLUSTER_US = "cluster_us", "us", "clustering, and the move into cluster order", |l| decimal(l.us.cluster);
            SELECT_US = "select_us", "us", "choosing tokens", |l| decimal(l.us.select);
            ATTEND_US = "attend_us", "us", "multiplying keys and values", |l| decimal(l.us.attend);
            SOFTMAX_US = "softmax_us", "us", "softmax", |l| decimal(l.us.softmax);
            WAIT_US = "wait_us", "us", "waiting for other channels", |l| decimal(l.us.wait);
            OTHER_US = "other_us", "us", "refresh, and what belongs to no phase", |l| decimal(l.us.other);
            ENERGY_UJ = "energy_uj", "uJ", "the same stack's energy; the sum of the next seven", |l| decimal(l.uj.all);
            APPEND_UJ = "append_uj", "uJ", "writing the new key and value", |l| decimal(l.uj.append);
            CLUSTER_UJ = "cluster_uj", "uJ", "clustering, and the move into cluster order", |l| decimal(l.uj.cluster);
            SELECT_UJ = "select_uj", "uJ", "choosing tokens", |l| decimal(l.uj.select);
            ATTEND_UJ = "attend_uj", "uJ", "multiplying keys and values", |l| decimal(l.uj.attend);
            SOFTMAX_UJ = "softmax_uj", "uJ", "softmax", |l| decimal(l.uj.softmax);
            WAIT_UJ = "wait_uj", "uJ", "while waiting for other channels", |l| decimal(l.uj.wait);
            OTHER_UJ = "other_uj", "uJ", "refresh, and what belongs to no phase", |l| decimal(l.uj.other);
            SELECT_PERCENT = "select_percent", "%", "share of time_us that choosing takes",
                |l| l.us.percent(l.us.select);
            CLUSTER_PERCENT = "cluster_percent", "%", "share of time_us that clustering and its move take",
                |l| l.us.percent(l.us.cluster);
            SELECTED = "selected", "tokens", "selected by a query head", |l| decimal(l.selected);
            ROW_TOKENS = columns::ROW_TOKENS, "tokens",
                "in blocks of 16 slots with a selected token, of a query head",
                |l| decimal(l.row_tokens);
            ACTIVATIONS = columns::ACTIVATIONS, "1", "rows opened, one per bank, a decode step of the stack",
                |l| decimal(l.activations);
            TOP_RECALL = columns::TOP_RECALL, "1", "share of the budget's tokens of highest score that is selected",
                |l| decimal(l.top_recall);
            MASS_RECALL = columns::MASS_RECALL, "1", "softmax mass of the selected", |l| decimal(l.mass_recall);
            OUTPUT_REL_ERR = columns::OUTPUT_REL_ERR, "1", "relative error of the output", |l| decimal(l.output_rel_err);
            IMBALANCE_UNITS = columns::IMBALANCE_UNITS, "1", "row-blocks of the fullest unit over the mean",
                |l| decimal(l.imbalance_units);
        }
    }
}

/// Keys of masks.csv.
pub mod masks {
    use super::*;

    measures! {
        /// Keys of masks.csv.
        pub KEYS of MaskRow {
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            CONTEXT = columns::CONTEXT, "tokens", "generated of each request; the row is the mean over its windows and caches",
                |r| r.context.into();
            POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
            BUDGET = columns::BUDGET, "tokens", "that a query head may select", |r| (&r.budget).into();
            WINDOWS = "windows", "1",
                "windows of consecutive decode steps that were simulated, at the middle of equal parts",
                |r| r.windows.into();
            WINDOW_STEPS = "window_steps", "1", "decode steps of each", |r| r.window_steps.into();
            SIMULATED_PERCENT = "simulated_percent", "%", "decode steps simulated, of all",
                |r| Value::Float(r.simulated_percent, 3);
            SIMULATED_LAYERS = "simulated_layers", "1", "layers simulated; the others are taken to be alike",
                |r| r.simulated_layers.into();
            CACHES = "caches", "1", "synthetic caches that the row is the mean of: one of each layer, or one of each seed of it",
                |r| r.caches.into();
        }
    }
}

/// Keys of positions.csv.
pub mod positions {
    use super::*;

    measures! {
        /// Keys of positions.csv.
        pub KEYS of PositionRow {
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            STEP = columns::STEP, "1", "decode step at the middle of the window", |r| r.step.into();
            POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
            BUDGET = columns::BUDGET, "tokens", "that a query head may select", |r| (&r.budget).into();
        }
    }
}

/// Keys of system.csv; what a step costs stands behind them, as in the table of `pimsim system`.
pub mod system {
    use super::*;

    measures! {
        /// Keys of system.csv.
        pub KEYS of SystemRow {
            MODE = "mode", "-",
                "artifact: row budgets of the artifact, its simulator's switches; masks: our own masks, no switches",
                |r| r.mode.name().into();
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            CONTEXT = columns::CONTEXT, "tokens", "generated of each request", |r| r.context.into();
            POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
        }
    }
}

/// Columns of reductions.csv.
pub mod reductions {
    use super::*;

    fn end(percent: Option<f64>) -> Value {
        percent.map_or(Value::Unknown, |x| Value::Float(x, 4))
    }

    measures! {
        /// A row is what STARC takes against another policy.
        pub REDUCTIONS of ReductionRow {
            MODE = "mode", "-", "artifact or masks, as in system.csv", |r| r.mode.name().into();
            SCOPE = "scope", "-", "attention: the attention layers; end-to-end: a whole decode step",
                |r| r.scope.into();
            MEASURE = "measure", "-",
                "latency; energy; energy-attended (artifact): with multiplications of attended tokens only",
                |r| r.measure.into();
            MODEL = columns::MODEL, "-", "the model", |r| (&r.model).into();
            CONTEXT = columns::CONTEXT, "tokens", "generated of each request", |r| r.context.into();
            AGAINST = "against", "-", "the other policy", |r| (&r.against).into();
            OTHER = "other", "ms or mJ", "what it takes; masks, attention: us or uJ of a stack's layer",
                |r| Value::Float(r.other, 9);
            STARC = "starc", "ms or mJ", "what starc takes, likewise", |r| Value::Float(r.ours, 9);
            REDUCTION_PERCENT = STARC_LESS, "%", "100 x (1 - starc / other)",
                |r| percent_less(r.ours, r.other);
            LOW = "low_percent", "%",
                "lower end of its 95 % interval (bootstrap over layers, and seeds within); empty in artifact mode, and of one cache",
                |r| end(r.sure.map(|s| s.low));
            HIGH = "high_percent", "%", "upper end", |r| end(r.sure.map(|s| s.high));
            CACHES = "caches", "1", "caches that are drawn from; empty where there is no interval",
                |r| r.sure.map_or(Value::Unknown, |s| s.caches.into());
        }
    }
}

/// Columns of choices.csv.
pub mod choices {
    use super::*;

    measures! {
        /// A row is a policy at a budget.
        pub CHOICES of ChoiceRow {
            SOURCE = "source", "-", "real: the KV cache of a model; synthetic", |r| r.source.into();
            PREFILL = "prefill", "tokens", "in the cache when decoding begins; empty for the dump's own",
                |r| (&r.prefill).into();
            POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
            BUDGET = columns::BUDGET, "tokens",
                "that a query head may select; empty for full, which takes no notice of it",
                |r| (&r.budget).into();
            TIME_US = "time_us", "us", "a decode step of the simulated layers", |r| decimal(r.us);
            ENERGY_UJ = "energy_uj", "uJ", "the same", |r| decimal(r.uj);
            SELECTED = "selected", "tokens", "selected by a query head", |r| decimal(r.selected);
            ROW_TOKENS = columns::ROW_TOKENS, "tokens",
                "in blocks of 16 slots with a selected token, of a query head",
                |r| decimal(r.row_tokens);
            TOP_RECALL = columns::TOP_RECALL, "1", "share of the budget's tokens of highest score that is selected",
                |r| decimal(r.top_recall);
            MASS_RECALL = columns::MASS_RECALL, "1", "softmax mass of the selected", |r| decimal(r.mass_recall);
            OUTPUT_REL_ERR = columns::OUTPUT_REL_ERR, "1", "relative error of the output", |r| decimal(r.output_rel_err);
        }
    }
}

/// Columns of winners.csv.
pub mod winners {
    use super::*;

    measures! {
        /// A row is a policy at an error, by its fastest budget that keeps it.
        pub WINNERS of WinnerRow {
            SOURCE = "source", "-", "as in choices.csv", |r| r.choice.source.into();
            PREFILL = "prefill", "tokens", "as in choices.csv", |r| (&r.choice.prefill).into();
            ERROR = "error", "1", "output_rel_err at most", |r| Value::Float(r.error, 3);
            RANK = "rank", "1", "1 is the fastest policy; starc-v1 is not ranked, for what it keeps depends on the seed", |r| r.rank.into();
            POLICY = columns::POLICY, "-", "the policy", |r| (&r.choice.policy).into();
            BUDGET = columns::BUDGET, "tokens", "its fastest budget with at most this error", |r| (&r.choice.budget).into();
            OUTPUT_REL_ERR = columns::OUTPUT_REL_ERR, "1", "its error there", |r| decimal(r.choice.output_rel_err);
            TIME_US = "time_us", "us", "its time there", |r| decimal(r.choice.us);
            ENERGY_UJ = "energy_uj", "uJ", "its energy there", |r| decimal(r.choice.uj);
            TIME_OVER_FIRST = "time_over_first", "1", "its time over that of rank 1",
                |r| Value::Float(r.time_over_first, 4);
        }
    }
}

/// Columns of ablation.csv.
pub mod ablation {
    use super::*;

    measures! {
        /// A row is a variant, and the gains of STARC under it.
        pub ABLATION of AblationRow {
            ASSUMPTION = "assumption", "-", "what is changed", |r| (&r.assumption).into();
            VARIANT = "variant", "-", "to what", |r| (&r.variant).into();
            STARC_US = "starc_us", "us", "starc, a decode step of a layer on the stack", |r| Value::Float(r.us, 4);
            STARC_UJ = "starc_uj", "uJ", "its energy", |r| Value::Float(r.uj, 4);
            TIME_VS_FULL = "time_vs_full", "%", "time of starc less than full", |r| percent_less(r.ns, r.ns_of.full);
            TIME_VS_QUEST = "time_vs_quest", "%", "time of starc less than quest; below 0: more",
                |r| percent_less(r.ns, r.ns_of.quest);
            TIME_VS_SPARQ = "time_vs_sparq", "%", "time of starc less than sparq",
                |r| percent_less(r.ns, r.ns_of.sparq);
            TIME_VS_INFINIGEN = "time_vs_infinigen", "%", "time of starc less than infinigen",
                |r| percent_less(r.ns, r.ns_of.infinigen);
            ENERGY_VS_FULL = "energy_vs_full", "%", "energy of starc less than full",
                |r| percent_less(r.pj, r.pj_of.full);
            ENERGY_VS_QUEST = "energy_vs_quest", "%", "energy of starc less than quest; below 0: more",
                |r| percent_less(r.pj, r.pj_of.quest);
            ENERGY_VS_SPARQ = "energy_vs_sparq", "%", "energy of starc less than sparq",
                |r| percent_less(r.pj, r.pj_of.sparq);
            ENERGY_VS_INFINIGEN = "energy_vs_infinigen", "%", "energy of starc less than infinigen",
                |r| percent_less(r.pj, r.pj_of.infinigen);
            STARC_RECALL = "starc_recall", "1", "top_recall of starc", |r| Value::Float(r.starc_recall, 4);
            QUEST_RECALL = "quest_recall", "1", "top_recall of quest", |r| Value::Float(r.quest_recall, 4);
        }
    }
}

/// A table of the report: its file, what a row is, its columns.
pub trait Reported: Sized + 'static {
    /// File name.
    const FILE: &'static str;
    /// What a row is.
    const ROW: &'static str;

    /// The columns.
    fn layout() -> TableLayout<Self>;

    /// The table of these rows.
    fn table(rows: Vec<Self>) -> Table<Self> {
        Table::new(Self::FILE, Self::layout(), rows)
    }
}

macro_rules! reported {
    ($($row:ty: $file:literal, $what:literal, $layout:expr;)+) => {
        $(impl Reported for $row {
            const FILE: &'static str = $file;
            const ROW: &'static str = $what;

            fn layout() -> TableLayout<Self> {
                $layout
            }
        })+

        /// Every table, for the documentation: file, what a row is, columns.
        pub fn all() -> Vec<(&'static str, &'static str, Vec<Column>)> {
            vec![$((<$row>::FILE, <$row>::ROW, <$row>::layout().columns().to_vec())),+]
        }
    };
}

reported! {
    BarRow: "artifact.csv", "a model, a policy and a context in artifact mode, every decode step simulated",
        TableLayout::of(BARS);
    BudgetRow: "budgets.csv", "the row budgets of a model and a policy in artifact mode, and how they repeat themselves",
        TableLayout::of(BUDGETS);
    MaskRow: "masks.csv", "a model, a context and a policy in real-mask mode",
        TableLayout::of(masks::KEYS).with(|r| &r.layer, layer::LAYER);
    PositionRow: "positions.csv", "a window of decode steps in real-mask mode, the mean over caches",
        TableLayout::of(positions::KEYS).with(|r| &r.layer, layer::LAYER);
    SystemRow: "system.csv", "the mean decode step of a model, a policy and a context, end to end",
        TableLayout::of(system::KEYS).with(|r| &r.cost, STEP_MEASURES);
    ReductionRow: "reductions.csv", "what STARC takes against another policy", TableLayout::of(reductions::REDUCTIONS);
    ChoiceRow: "choices.csv", "a policy at a budget", TableLayout::of(choices::CHOICES);
    WinnerRow: "winners.csv", "a policy at an error, by its fastest budget that keeps it",
        TableLayout::of(winners::WINNERS);
    MappingRow: "mappings.csv", "a policy at a mapping, over the caches of a source", TableLayout::of(mappings::MAPPINGS);
    IntervalRow: "intervals.csv", "what STARC takes less than another policy, with its interval",
        TableLayout::of(intervals::INTERVALS);
    AblationRow: "ablation.csv", "a variant, and the gains of STARC under it", TableLayout::of(ablation::ABLATION);
    super::tornado::TornadoRow: "tornado.csv", "a headline, and what moving an assumed value does to it",
        TableLayout::of(super::tornado::TORNADO);
    super::design::DesignRow: "design.csv", "a policy on a device", TableLayout::of(super::design::DESIGN);
    crate::paper::claims::ClaimRow: "claims.csv", "a claim of the paper",
        TableLayout::of(crate::paper::claims::CLAIMS);
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::table::Measure;

    fn cells<R>(measures: &[Measure<R>], row: &R) -> String {
        measures.iter().map(|m| format!("{}={}", m.name(), m.value(row))).collect::<Vec<_>>().join(" ")
    }

    fn by_phase(first: f64) -> ByPhase {
        let [all, append, cluster, select, attend, softmax, wait, other] = std::array::from_fn(|i| first + i as f64);
        ByPhase { all, append, cluster, select, attend, softmax, wait, other }
    }

    #[test]
    fn every_measure_of_a_layer_has_its_own_value() {
        let layer = SparseLayer {
            us: by_phase(10.0),
            uj: by_phase(20.0),
            selected: 1.0,
            row_tokens: 2.0,
            activations: 3.0,
            top_recall: 4.0,
            mass_recall: 5.0,
            output_rel_err: 6.0,
            imbalance_units: 7.0,
        };
        let want = "time_us=10 append_us=11 cluster_us=12 select_us=13 attend_us=14 softmax_us=15 wait_us=16 other_us=17 \
            energy_uj=20 append_uj=21 cluster_uj=22 select_uj=23 attend_uj=24 softmax_uj=25 wait_uj=26 other_uj=27 \
            select_percent=130 cluster_percent=120 selected=1 row_tokens=2 activations=3 top_recall=4 mass_recall=5 \
            output_rel_err=6 imbalance_units=7";
        assert_eq!(cells(layer::LAYER, &layer).replace(".000000", ""), want);
    }

    #[test]
    fn every_column_of_choices_and_winners_has_its_own_value() {
        let choice = ChoiceRow {
            source: "real",
            prefill: "8".into(),
            policy: "quest".into(),
            budget: "9".into(),
            us: 1.0,
            uj: 2.0,
            selected: 3.0,
            row_tokens: 4.0,
            top_recall: 5.0,
            mass_recall: 6.0,
            output_rel_err: 7.0,
        };
        let want = "source=real prefill=8 policy=quest budget=9 time_us=1 energy_uj=2 selected=3 row_tokens=4 top_recall=5 \
            mass_recall=6 output_rel_err=7";
        assert_eq!(cells(choices::CHOICES, &choice).replace(".000000", ""), want);
        let winner = WinnerRow { error: 0.5, rank: 2, choice, time_over_first: 1.5 };
        let want = "source=real prefill=8 error=0.500 rank=2 policy=quest budget=9 output_rel_err=7.000000 \
            time_us=1.000000 energy_uj=2.000000 time_over_first=1.5000";
        assert_eq!(cells(winners::WINNERS, &winner), want);
    }

    #[test]
    fn reductions_and_gains_are_of_ours_over_the_others() {
        let (model, against) = ("m".to_string(), "quest".to_string());
        let (scope, measure) = ("attention", "latency");
        let mode = SelectionMode::Masks;
        let sure = Some(SureReduction { low: 60.0, high: 80.0, caches: 5 });
        let row = ReductionRow { mode, scope, measure, model, context: 64, against, other: 4.0, ours: 1.0, sure };
        let want = "mode=masks scope=attention measure=latency model=m context=64 against=quest other=4.000000000 \
            starc=1.000000000 reduction_percent=75.0000 low_percent=60.0000 high_percent=80.0000 caches=5";
        assert_eq!(cells(reductions::REDUCTIONS, &row), want);
        let found = cells(reductions::REDUCTIONS, &ReductionRow { sure: None, ..row });
        assert!(found.ends_with(" reduction_percent=75.0000 low_percent= high_percent= caches="), "{found}");
        let row = AblationRow {
            assumption: "a".into(),
            variant: "v".into(),
            us: 1.0,
            uj: 2.0,
            ns: 1.0,
            ns_of: Against { full: 2.0, quest: 4.0, sparq: 5.0, infinigen: 10.0 },
            pj: 1.0,
            pj_of: Against { full: 0.5, quest: 20.0, sparq: 25.0, infinigen: 50.0 },
            starc_recall: 0.7,
            quest_recall: 0.6,
        };
        let want = "assumption=a variant=v starc_us=1.0000 starc_uj=2.0000 time_vs_full=50.0000 time_vs_quest=75.0000 \
            time_vs_sparq=80.0000 time_vs_infinigen=90.0000 energy_vs_full=-100.0000 energy_vs_quest=95.0000 \
            energy_vs_sparq=96.0000 energy_vs_infinigen=98.0000 starc_recall=0.7000 quest_recall=0.6000";
        assert_eq!(cells(ablation::ABLATION, &row), want);
    }
}
