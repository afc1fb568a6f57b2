//! Policies against each other: reductions, choices, winners, ablation.

use super::bootstrap::{PairedCost, interval};
use super::columns::{
    AblationRow, Against, ChoiceRow, MaskRow, ReductionRow, SelectionMode, SparseLayer, SureReduction, SystemRow,
    WinnerRow, choices as choice, layer,
};
use super::masks::{CacheCost, CacheCosts};
use crate::artifact::{BarRow, bars};
use crate::policies::{FULL, INFINIGEN, QUEST, SPARQ, STARC, heeds_budget};
use pimattn_core::columns;
use pimattn_core::error::Result;
use pimattn_core::table::{Measure, Table};
use pimattn_experiments::end_to_end::cost::Cost;
use pimattn_experiments::end_to_end::table as step;
use pimattn_experiments::sweep::table::{SweepRow, SweepTable};
use pimattn_policies::select;
use std::collections::BTreeMap;

/// The axis of caches of several lengths.
const PREFILL: &str = "synthetic.prefill";
/// The axis of assumptions.
const VARIANT: &str = "variant";
/// The scope of a reduction that is of the attention layers.
const ATTENTION: &str = "attention";
/// The measure of a reduction that is of time.
const LATENCY: &str = "latency";

/// A row of a model, a context and a policy.
trait Compared {
    fn mode(&self) -> SelectionMode;
    fn place(&self) -> (&str, u32);
    fn policy(&self) -> &str;
}

impl Compared for BarRow {
    fn mode(&self) -> SelectionMode {
        SelectionMode::Artifact
    }

    fn place(&self) -> (&str, u32) {
        (&self.model, self.context)
    }

    fn policy(&self) -> &str {
        &self.policy
    }
}

impl Compared for MaskRow {
    fn mode(&self) -> SelectionMode {
        SelectionMode::Masks
    }

    fn place(&self) -> (&str, u32) {
        (&self.model, self.context)
    }

    fn policy(&self) -> &str {
        &self.policy
    }
}

impl Compared for SystemRow {
    fn mode(&self) -> SelectionMode {
        self.mode
    }

    fn place(&self) -> (&str, u32) {
        (&self.model, self.context)
    }

    fn policy(&self) -> &str {
        &self.policy
    }
}

/// What is compared in a mode: the scope, the measure.
type GainKey = (SelectionMode, &'static str, &'static str);

/// Of each row of ours in a mode, what the other policies take at the same place. What they take are the columns of
/// `part`, added up.
fn against<R: Compared + 'static, P>(
    (mode, scope, measure): GainKey,
    table: &Table<R>,
    part: fn(&R) -> &P,
    columns: &[Measure<P>],
    out: &mut Vec<ReductionRow>,
) -> Result<()> {
    let value = |row: usize| columns.iter().map(|c| table.number(row, part, c)).sum::<Result<f64>>();
    let rows = || table.rows().iter().enumerate().filter(|(_, r)| r.mode() == mode);
    for (i, ours) in rows().filter(|(_, r)| r.policy() == STARC) {
        for (j, other) in rows().filter(|(_, r)| r.place() == ours.place() && r.policy() != STARC) {
            let ((model, context), against) = (other.place(), other.policy().to_string());
            let (ours, other) = (value(i)?, value(j)?);
            let model = model.into();
            out.push(ReductionRow { mode, scope, measure, model, context, against, other, ours, sure: None });
        }
    }
    Ok(())
}

/// How sure a reduction of real-mask mode is, of what both sides take on each cache; none where either is missing, or of one cache.
fn sure(row: &ReductionRow, costs: &[CacheCosts]) -> Option<SureReduction> {
    let of = |policy: &str| {
        let fits = |c: &&CacheCosts| c.model == row.model && c.context == row.context && c.policy == policy;
        costs.iter().find(fits).map(|c| &c.caches)
    };
    let value = |cost: &CacheCost| {
        let both = if row.scope == ATTENTION { cost.attention } else { cost.end_to_end };
        both[usize::from(row.measure != LATENCY)]
    };
    let (ours, others) = (of(STARC)?, of(&row.against)?);
    let pair = |(ours, other): (&CacheCost, &CacheCost)| PairedCost {
        layer: ours.layer,
        ours: value(ours),
        other: value(other),
    };
    let pairs: Vec<PairedCost> = ours.iter().zip(others).map(pair).collect();
    let found = interval(&pairs).filter(|_| pairs.len() > 1)?;
    Some(SureReduction { low: found.low, high: found.high, caches: pairs.len() as u64 })
}

/// Rows of reductions.csv; `costs` are those of real-mask mode by cache.
pub fn reductions(
    artifact: &Table<BarRow>,
    masks: &Table<MaskRow>,
    system: &Table<SystemRow>,
    costs: &[CacheCosts],
) -> Result<Vec<ReductionRow>> {
    use SelectionMode::{Artifact, Masks};
    let bar: fn(&BarRow) -> &BarRow = |r| r;
    let of_layer: fn(&MaskRow) -> &SparseLayer = |r| &r.layer;
    let cost: fn(&SystemRow) -> &Cost = |r| &r.cost;
    let attention_energy = [step::ATTENTION_MEMORY_MJ, step::ATTENTION_COMPUTE_MJ];
    let mut out = Vec::new();
    against((Artifact, ATTENTION, LATENCY), artifact, bar, &[bars::STEP_MS], &mut out)?;
    against((Artifact, ATTENTION, "energy"), system, cost, &attention_energy, &mut out)?;
    against((Artifact, ATTENTION, "energy-attended"), artifact, bar, &[bars::ENERGY_MJ], &mut out)?;
    against((Artifact, "end-to-end", LATENCY), system, cost, &[step::STEP_MS], &mut out)?;
    against((Artifact, "end-to-end", "energy"), system, cost, &[step::ENERGY_MJ], &mut out)?;
    against((Masks, ATTENTION, LATENCY), masks, of_layer, &[layer::TIME_US], &mut out)?;
    against((Masks, ATTENTION, "energy"), masks, of_layer, &[layer::ENERGY_UJ], &mut out)?;
    against((Masks, "end-to-end", LATENCY), system, cost, &[step::STEP_MS], &mut out)?;
    against((Masks, "end-to-end", "energy"), system, cost, &[step::ENERGY_MJ], &mut out)?;
    for row in out.iter_mut().filter(|row| row.mode == Masks) {
        row.sure = sure(row, costs);
    }
    Ok(out)
}

/// What a sweep of policies and budgets was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    /// A dump, which has the length that it has.
    Real,
    /// Synthetic caches of several lengths.
    Synthetic,
}

impl Caches {
    fn name(self) -> &'static str {
        match self {
            Caches::Real => "real",
            Caches::Synthetic => "synthetic",
        }
    }
}

/// Rows of choices.csv.
///
/// # Errors
/// When a sweep lacks a column, or one of synthetic caches the axis of their lengths.
pub fn choices(sweeps: &[(Caches, &SweepTable)]) -> Result<Vec<ChoiceRow>> {
    let mut out = Vec::new();
    for (caches, swept) in sweeps {
        for row in swept.rows() {
            let policy = swept.axis(row, columns::POLICY)?;
            let budget = if heeds_budget(policy)? { swept.axis(row, columns::BUDGET)? } else { "" };
            out.push(ChoiceRow {
                source: caches.name(),
                prefill: match caches {
                    Caches::Real => String::new(),
                    Caches::Synthetic => swept.axis(row, PREFILL)?.into(),
                },
                policy: policy.into(),
                budget: budget.into(),
                us: row.ns / row.steps * 1e-3,
                uj: row.pj / row.steps * 1e-6,
                selected: row.needs(columns::SELECTED, row.selected)?,
                row_tokens: row.needs(columns::METRIC_ROW_TOKENS, row.row_tokens)?,
                top_recall: row.needs(columns::TOP_RECALL, row.top_recall)?,
                mass_recall: row.needs(columns::MASS_RECALL, row.mass_recall)?,
                output_rel_err: row.needs(columns::OUTPUT_REL_ERR, row.output_rel_err)?,
            });
        }
    }
    Ok(out)
}

/// Rows of winners.csv: for each cache and error, the policies that keep it by their fastest budget, the fastest first; but
/// those of which the seed decides what they keep, for a sweep has one seed.
pub fn winners(choices: &Table<ChoiceRow>, errors: &[f64]) -> Result<Vec<WinnerRow>> {
    let mut caches: Vec<(&str, &str)> = Vec::new();
    for row in choices.rows() {
        let cache = (row.source, row.prefill.as_str());
        if !caches.contains(&cache) {
            caches.push(cache);
        }
    }
    let shown = |row: usize, measure: &Measure<ChoiceRow>| choices.number(row, |r| r, measure);
    let mut out = Vec::new();
    for (source, prefill) in caches {
        let of_cache = |(_, r): &(usize, &ChoiceRow)| (r.source, r.prefill.as_str()) == (source, prefill);
        let rows: Vec<(usize, &ChoiceRow)> = choices.rows().iter().enumerate().filter(of_cache).collect();
        for error in errors {
            let mut best: BTreeMap<&str, (f64, &ChoiceRow)> = BTreeMap::new();
            for (i, row) in rows.iter().filter(|(_, row)| select::one_seed_ranks(&row.policy)) {
                let (kept, time) = (shown(*i, &choice::OUTPUT_REL_ERR)?, shown(*i, &choice::TIME_US)?);
                if kept <= *error && best.get(row.policy.as_str()).is_none_or(|(t, _)| time < *t) {
                    best.insert(&row.policy, (time, row));
                }
            }
            let mut ranked: Vec<_> = best.into_values().collect();
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
            out.extend((1..).zip(&ranked).map(|(rank, (time, row))| WinnerRow {
                error: *error,
                rank,
                choice: (*row).clone(),
                time_over_first: time / ranked[0].0,
            }));
        }
    }
    Ok(out)
}

/// Rows of ablation.csv. A variant is called `assumption: what`.
pub fn ablation(swept: &SweepTable) -> Result<Vec<AblationRow>> {
    let mut out = Vec::new();
    for variant in swept.distinct(VARIANT)? {
        let (assumption, what) = variant.split_once(": ").unwrap_or((variant, ""));
        let row = |policy: &str| swept.the(&[(VARIANT, variant), (columns::POLICY, policy)]);
        let recall = |row: &SweepRow| row.needs(columns::TOP_RECALL, row.top_recall);
        let ours = row(STARC)?;
        let [full, quest, sparq, infinigen] = [row(FULL)?, row(QUEST)?, row(SPARQ)?, row(INFINIGEN)?];
        let per_step = |of: fn(&SweepRow) -> f64| Against {
            full: of(full) / full.steps,
            quest: of(quest) / quest.steps,
            sparq: of(sparq) / sparq.steps,
            infinigen: of(infinigen) / infinigen.steps,
        };
        out.push(AblationRow {
            assumption: assumption.into(),
            variant: what.into(),
            us: ours.ns / ours.steps * 1e-3,
            uj: ours.pj / ours.steps * 1e-6,
            ns: ours.ns / ours.steps,
            ns_of: per_step(|r| r.ns),
            pj: ours.pj / ours.steps,
            pj_of: per_step(|r| r.pj),
            starc_recall: recall(ours)?,
            quest_recall: recall(quest)?,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Caches that agree leave no doubt, so that an interval shows which numbers it is of.
    #[test]
    fn an_interval_is_of_both_sides_on_the_same_caches() {
        let cost = |x: f64, attention: [f64; 2], end_to_end: [f64; 2]| CacheCost {
            layer: x as usize,
            attention: attention.map(|c| x * c),
            end_to_end: end_to_end.map(|c| x * c),
        };
        let of = |policy: &str, context, attention, end_to_end| CacheCosts {
            model: "m".into(),
            context,
            policy: policy.into(),
            caches: [1.0, 7.0].map(|x| cost(x, attention, end_to_end)).to_vec(),
        };
        let mut costs = vec![
            of(STARC, 64, [1.0, 2.0], [3.0, 1.0]),
            of(QUEST, 32, [9.0, 9.0], [9.0, 9.0]),
            of(QUEST, 64, [4.0, 4.0], [4.0, 10.0]),
        ];
        let row = |scope, measure, against: &str| ReductionRow {
            mode: SelectionMode::Masks,
            scope,
            measure,
            model: "m".into(),
            context: 64,
            against: against.into(),
            other: 0.0,
            ours: 0.0,
            sure: None,
        };
        let wanted = [
            (ATTENTION, LATENCY, 75.0),
            (ATTENTION, "energy", 50.0),
            ("end-to-end", LATENCY, 25.0),
            ("end-to-end", "energy", 90.0),
        ];
        for (scope, measure, percent) in wanted {
            let found = sure(&row(scope, measure, QUEST), &costs).unwrap();
            assert!((found.low - percent).abs() < 1e-9 && (found.high - percent).abs() < 1e-9, "{scope}, {measure}");
            assert_eq!(found.caches, 2);
        }
        assert_eq!(sure(&row(ATTENTION, LATENCY, SPARQ), &costs), None);
        costs.iter_mut().for_each(|c| c.caches.truncate(1));
        assert_eq!(sure(&row(ATTENTION, LATENCY, QUEST), &costs), None);
    }
}
