//! Columns of the report's tables.

use crate::artifact::BARS;
use pimattn_core::table::{Column, column};
use pimattn_experiments::end_to_end::table;

/// artifact.csv: a row is a model, a policy and a context in artifact mode, every decode step simulated.
pub fn artifact() -> Vec<Column> {
    BARS.to_vec()
}

const SYSTEM_KEYS: &[Column] = &[
    column(
        "mode",
        "-",
        "artifact: row budgets of the artifact, its simulator's switches; masks: our own masks, no switches",
    ),
    column("model", "-", "the model"),
    column("context", "tokens", "generated of each request"),
    column("policy", "-", "what chooses the tokens"),
];
/// First and last of the columns of `pimsim system` that are taken over.
const FIRST_MEASURE: &str = "step_ms";
const LAST_MEASURE: &str = "elementwise_compute_mj";

/// system.csv: a row is the mean decode step of a model, a policy and a context, end to end.
pub fn system() -> Vec<Column> {
    let at = |name| table::COLUMNS.iter().position(|c| c.name == name).unwrap_or(0);
    [SYSTEM_KEYS, &table::COLUMNS[at(FIRST_MEASURE)..=at(LAST_MEASURE)]].concat()
}

const LAYER: [Column; 25] = [
    column(
        "time_us",
        "us",
        "attention of one sparse layer on the fullest stack, a decode step; the sum of the next seven",
    ),
    column("append_us", "us", "writing the new key and value"),
    column("cluster_us", "us", "clustering, and the move into cluster order"),
    column("select_us", "us", "choosing tokens"),
    column("attend_us", "us", "multiplying keys and values"),
    column("softmax_us", "us", "softmax"),
    column("wait_us", "us", "waiting for other channels"),
    column("other_us", "us", "refresh, and what belongs to no phase"),
    column("energy_uj", "uJ", "the same stack's energy; the sum of the next seven"),
    column("append_uj", "uJ", "writing the new key and value"),
    column("cluster_uj", "uJ", "clustering, and the move into cluster order"),
    column("select_uj", "uJ", "choosing tokens"),
    column("attend_uj", "uJ", "multiplying keys and values"),
    column("softmax_uj", "uJ", "softmax"),
    column("wait_uj", "uJ", "while waiting for other channels"),
    column("other_uj", "uJ", "refresh, and what belongs to no phase"),
    column("select_percent", "%", "share of time_us that choosing takes"),
    column("cluster_percent", "%", "share of time_us that clustering and its move take"),
    column("selected", "tokens", "selected by a query head"),
    column("row_tokens", "tokens", "in blocks of 16 slots with a selected token, of a query head"),
    column("activations", "1", "rows opened, one per bank, a decode step of the stack"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected"),
    column("mass_recall", "1", "softmax mass of the selected"),
    column("output_rel_err", "1", "relative error of the output"),
    column("imbalance_units", "1", "row-blocks of the fullest unit over the mean"),
];

const MASK_KEYS: [Column; 8] = [
    column("model", "-", "the model"),
    column("context", "tokens", "generated of each request; the row is the mean over its windows"),
    column("policy", "-", "what chooses the tokens"),
    column("budget", "tokens", "that a query head may select"),
    column("windows", "1", "windows of consecutive decode steps that were simulated, at the middle of equal parts"),
    column("window_steps", "1", "decode steps of each"),
    column("simulated_percent", "%", "decode steps simulated, of all"),
    column("simulated_layers", "1", "layers simulated; the others are taken to be alike"),
];
const POSITION_KEYS: [Column; 4] = [
    column("model", "-", "the model"),
    column("step", "1", "decode step at the middle of the window"),
    column("policy", "-", "what chooses the tokens"),
    column("budget", "tokens", "that a query head may select"),
];

const fn joined<const A: usize, const N: usize>(keys: [Column; A]) -> [Column; N] {
    let mut out = [keys[0]; N];
    let mut i = 0;
    while i < N {
        out[i] = if i < A { keys[i] } else { LAYER[i - A] };
        i += 1;
    }
    out
}

/// masks.csv: a row is a model, a context and a policy in real-mask mode.
pub const MASKS: &[Column] = &joined::<8, 33>(MASK_KEYS);

/// positions.csv: a row is a window of decode steps in real-mask mode.
pub const POSITIONS: &[Column] = &joined::<4, 29>(POSITION_KEYS);

/// reductions.csv: a row is what STARC takes against another policy.
pub const REDUCTIONS: &[Column] = &[
    column("mode", "-", "artifact or masks, as in system.csv"),
    column("scope", "-", "attention: the attention layers; end-to-end: a whole decode step"),
    column("measure", "-", "latency; energy; energy-attended (artifact): with multiplications of attended tokens only"),
    column("model", "-", "the model"),
    column("context", "tokens", "generated of each request"),
    column("against", "-", "the other policy"),
    column("other", "ms or mJ", "what it takes; masks, attention: us or uJ of a stack's layer"),
    column("starc", "ms or mJ", "what starc takes, likewise"),
    column("reduction_percent", "%", "100 x (1 - starc / other)"),
];

/// choices.csv: a row is a policy at a budget.
pub const CHOICES: &[Column] = &[
    column("source", "-", "real: the KV cache of a model; synthetic"),
    column("prefill", "tokens", "in the cache when decoding begins; empty for the dump's own"),
    column("policy", "-", "what chooses the tokens"),
    column("budget", "tokens", "that a query head may select; empty for full, which takes no notice of it"),
    column("time_us", "us", "a decode step of the simulated layers"),
    column("energy_uj", "uJ", "the same"),
    column("selected", "tokens", "selected by a query head"),
    column("row_tokens", "tokens", "in blocks of 16 slots with a selected token, of a query head"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected"),
    column("mass_recall", "1", "softmax mass of the selected"),
    column("output_rel_err", "1", "relative error of the output"),
];

/// winners.csv: a row is a policy at an error, by its fastest budget that keeps it.
pub const WINNERS: &[Column] = &[
    column("source", "-", "as in choices.csv"),
    column("prefill", "tokens", "as in choices.csv"),
    column("error", "1", "output_rel_err at most"),
    column("rank", "1", "1 is the fastest policy"),
    column("policy", "-", "the policy"),
    column("budget", "tokens", "its fastest budget with at most this error"),
    column("output_rel_err", "1", "its error there"),
    column("time_us", "us", "its time there"),
    column("energy_uj", "uJ", "its energy there"),
    column("time_over_first", "1", "its time over that of rank 1"),
];

/// ablation.csv: a row is a variant, and the gains of STARC under it.
pub const ABLATION: &[Column] = &[
    column("assumption", "-", "what is changed"),
    column("variant", "-", "to what"),
    column("starc_us", "us", "starc, a decode step of a layer on the stack"),
    column("starc_uj", "uJ", "its energy"),
    column("time_vs_full", "%", "time of starc less than full"),
    column("time_vs_quest", "%", "time of starc less than quest; below 0: more"),
    column("time_vs_sparq", "%", "time of starc less than sparq"),
    column("time_vs_infinigen", "%", "time of starc less than infinigen"),
    column("energy_vs_full", "%", "energy of starc less than full"),
    column("energy_vs_quest", "%", "energy of starc less than quest; below 0: more"),
    column("energy_vs_sparq", "%", "energy of starc less than sparq"),
    column("energy_vs_infinigen", "%", "energy of starc less than infinigen"),
    column("starc_recall", "1", "top_recall of starc"),
    column("quest_recall", "1", "top_recall of quest"),
];

/// Every table, for the documentation: file, what a row is, columns.
pub fn all() -> Vec<(&'static str, &'static str, Vec<Column>)> {
    vec![
        ("artifact.csv", "a model, a policy and a context in artifact mode, every decode step simulated", artifact()),
        ("masks.csv", "a model, a context and a policy in real-mask mode", MASKS.to_vec()),
        ("positions.csv", "a window of decode steps in real-mask mode", POSITIONS.to_vec()),
        ("system.csv", "the mean decode step of a model, a policy and a context, end to end", system()),
        ("reductions.csv", "what STARC takes against another policy", REDUCTIONS.to_vec()),
        ("choices.csv", "a policy at a budget", CHOICES.to_vec()),
        ("winners.csv", "a policy at an error, by its fastest budget that keeps it", WINNERS.to_vec()),
        ("ablation.csv", "a variant, and the gains of STARC under it", ABLATION.to_vec()),
        ("claims.csv", "a claim of the paper", crate::paper::claims::COLUMNS.to_vec()),
    ]
}
