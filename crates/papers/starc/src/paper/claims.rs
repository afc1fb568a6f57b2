//! What a paper claims, set against what was found: a row of claims.csv each, with the cells that it is made of.

use super::ExperimentTables;
use super::verdict::{self, ClaimVerdict};
use crate::artifact::bars;
use crate::policies::{FULL, INFINIGEN, INFINIGEN_FILLED, QUEST, SPARQ, STARC};
use crate::reproduce::columns::{choices, layer, reductions, system};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::measures;
use pimattn_experiments::end_to_end::table as step_cost;
use pimattn_report::cells::Cells;
use serde::Deserialize;

/// A claim, as a plan has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Version of the paper.
    pub version: String,
    /// What is claimed, in words.
    pub what: String,
    /// What it is about.
    pub kind: Kind,
    /// Policies that STARC is set against.
    #[serde(default)]
    pub against: Vec<String>,
    /// Least that is claimed, in percent; none for "up to".
    #[serde(default)]
    pub least: Option<f64>,
    /// Most that is claimed, in percent.
    #[serde(default)]
    pub most: Option<f64>,
}

/// What a claim is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Less time of the attention layers.
    AttentionLatency,
    /// Less energy of the attention layers.
    AttentionEnergy,
    /// Less time of a decode step.
    EndToEndLatency,
    /// Less energy of a decode step.
    EndToEndEnergy,
    /// Time of clustering, of all.
    ClusteringOverhead,
    /// Recall of sparq at least that of starc, and this above infinigen, filled or not, and quest, at every budget.
    RecallOrder,
    /// Needs weights and a benchmark; not measured.
    Benchmark,
}

impl Kind {
    /// Scope and measure of the reductions that it is of, as tables name them; none where it is of none.
    pub(super) fn reduction(self) -> Option<[&'static str; 2]> {
        match self {
            Kind::AttentionLatency => Some(["attention", "latency"]),
            Kind::AttentionEnergy => Some(["attention", "energy"]),
            Kind::EndToEndLatency => Some(["end-to-end", "latency"]),
            Kind::EndToEndEnergy => Some(["end-to-end", "energy"]),
            Kind::ClusteringOverhead | Kind::RecallOrder | Kind::Benchmark => None,
        }
    }
}

impl Claim {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> std::result::Result<(), String> {
        match self.kind {
            Kind::RecallOrder | Kind::Benchmark => Ok(()),
            Kind::ClusteringOverhead if self.most.is_some() => Ok(()),
            Kind::ClusteringOverhead => Err("most (percent) is missing".into()),
            _ if self.most.is_none() => Err("most (percent) is missing".into()),
            _ if self.against.is_empty() => Err("against (policies) is missing".into()),
            _ => Ok(()),
        }
    }

    fn claimed(&self) -> String {
        match (self.least, self.most) {
            (Some(least), Some(most)) => format!("{least} to {most} %"),
            (None, Some(most)) if self.kind == Kind::ClusteringOverhead => format!("about {most} %"),
            (None, Some(most)) => format!("up to {most} %"),
            _ => String::new(),
        }
    }
}

/// What was found of a claim in a mode: words, verdict, cells.
type ClaimFinding = [String; 3];

/// A claim, set against what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRow {
    number: u32,
    version: String,
    what: String,
    claimed: String,
    artifact: ClaimFinding,
    masks: ClaimFinding,
    fair: ClaimVerdict,
    why: String,
}

measures! {
    /// Columns of claims.csv.
    pub CLAIMS of ClaimRow {
        CLAIM = "claim", "1", "number, from 1", |r| r.number.into();
        VERSION = "version", "-", "version of the paper", |r| (&r.version).into();
        WHAT = "what", "-", "what is claimed", |r| (&r.what).into();
        CLAIMED = "claimed", "-", "the figures; reductions are of STARC against the policies named",
            |r| (&r.claimed).into();
        ARTIFACT = "artifact", "-",
            "found in artifact mode: least to most over models, contexts and the policies named",
            |r| (&r.artifact[0]).into();
        ARTIFACT_VERDICT = "artifact_verdict", "-",
            "a range claimed: within, below, above, or overlapping it; up to or about a figure: reached within one percentage point (clustering: within a factor of 2), exceeded, not reached",
            |r| (&r.artifact[1]).into();
        ARTIFACT_FROM = "artifact_from", "-", "cells of the least and the most: file, line, column",
            |r| (&r.artifact[2]).into();
        MASKS = "masks", "-",
            "found in real-mask mode, likewise; in brackets, of reductions, the lowest and the highest end of their 95 % intervals",
            |r| (&r.masks[0]).into();
        MASKS_VERDICT = "masks_verdict", "-",
            "likewise, of the intervals where there are some: a range is missed where all of them lie beside it, and met where all lie in it",
            |r| (&r.masks[1]).into();
        MASKS_FROM = "masks_from", "-", "cells of the least and the most", |r| (&r.masks[2]).into();
        DEFAULT = "default", "-",
            "synthetic caches of all fitted layers and several seeds, default mapping: reduction, 95 % interval, cell, against each policy; empty where the claim is of no reduction",
            |r| (&r.fair.default).into();
        BEST = "best", "-", "likewise, each policy at its best mapping", |r| (&r.fair.best).into();
        VERDICT = "verdict", "-",
            "whether it holds: a reduction does where no interval lies below what is claimed (up to a figure: within a percentage point), on the caches of intervals.csv and then on those of real-mask mode, at its contexts; of other claims, what real-mask mode finds",
            |r| (&r.fair.verdict).into();
        DECIDES = "decides", "-", "the changed assumption of ablation.csv that moves it most, with cells",
            |r| (&r.fair.decides).into();
        WHY = "why", "-", "why they differ where they do, with the cells that say so", |r| (&r.why).into();
    }
}

/// A range of cells.
struct CellRange {
    least: f64,
    most: f64,
    from: [String; 2],
    /// From the lowest end of their intervals to the highest; where there are none, the range itself.
    sure: [f64; 2],
    /// Lower end of the interval of the most.
    most_low: f64,
}

impl CellRange {
    fn of(table: &Cells, rows: &[usize], column: &str) -> Result<Option<CellRange>> {
        let mut found: Option<(f64, usize, f64, usize)> = None;
        for row in rows {
            let x = table.number(*row, column)?;
            found = Some(match found {
                None => (x, *row, x, *row),
                Some((a, i, b, j)) => {
                    let (a, i) = if x < a { (x, *row) } else { (a, i) };
                    let (b, j) = if x > b { (x, *row) } else { (b, j) };
                    (a, i, b, j)
                }
            });
        }
        Ok(found.map(|(least, i, most, j)| {
            let from = [i, j].map(|r| table.cite(r, column));
            CellRange { least, most, from, sure: [least, most], most_low: most }
        }))
    }

    /// The reductions of these rows, with their intervals, where they have some.
    fn of_reductions(table: &Cells, rows: &[usize]) -> Result<Option<CellRange>> {
        let column = reductions::REDUCTION_PERCENT.name();
        let Some(mut range) = CellRange::of(table, rows, column)? else { return Ok(None) };
        let ends = rows.iter().map(|row| interval(table, *row)).collect::<Result<Vec<_>>>()?;
        for (row, ends) in rows.iter().zip(ends) {
            let Some([low, high]) = ends else { continue };
            range.sure = [range.sure[0].min(low), range.sure[1].max(high)];
            if table.number(*row, column)? == range.most {
                range.most_low = range.most_low.min(low);
            }
        }
        Ok(Some(range))
    }

    fn words(&self) -> String {
        let CellRange { least, most, sure: [low, high], .. } = self;
        match [low, high] == [least, most] {
            true => format!("{least:.2} to {most:.2} %"),
            false => format!("{least:.2} to {most:.2} % ({low:.2} to {high:.2})"),
        }
    }

    fn cells(&self) -> String {
        self.from.join("; ")
    }

    fn verdict(&self, claim: &Claim) -> &'static str {
        let (most, near) = match (claim.most, claim.kind) {
            (None, _) => return "",
            (Some(most), Kind::ClusteringOverhead) => (most, most),
            (Some(most), _) => (most, 1.0),
        };
        let [low, high] = self.sure;
        match claim.least {
            Some(least) if least <= low && high <= most => "within",
            Some(least) if high < least => "below",
            Some(_) if low > most => "above",
            Some(_) => "overlaps",
            None if self.most_low - near <= most && most <= high + near => "reached",
            None if self.most_low > most => "exceeded",
            None => "not reached",
        }
    }

    /// The words of a row: range, verdict, cells.
    fn said(found: Option<CellRange>, claim: &Claim) -> ClaimFinding {
        found.map_or_else(Default::default, |f| [f.words(), f.verdict(claim).into(), f.cells()])
    }
}

/// The interval of a reduction; none where it has none.
pub(super) fn interval(table: &Cells, row: usize) -> Result<Option<[f64; 2]>> {
    let [low, high] = [reductions::LOW.name(), reductions::HIGH.name()];
    match table.cell(row, low)? {
        "" => Ok(None),
        _ => Ok(Some([table.number(row, low)?, table.number(row, high)?])),
    }
}

/// A number with the cell that it is from.
pub fn cited(table: &Cells, row: usize, column: &str, decimals: usize, unit: &str) -> Result<String> {
    Ok(format!("{:.decimals$}{unit} [{}]", table.number(row, column)?, table.cite(row, column)))
}

/// Rows of reductions.csv that a claim is of, in a mode, against a policy; none where it is of no reduction.
pub(super) fn reductions_against(t: &ExperimentTables, kind: Kind, mode: &str, policy: &str) -> Result<Vec<usize>> {
    let Some([scope, measure]) = kind.reduction() else { return Ok(Vec::new()) };
    t.reductions.find(&[
        (reductions::MODE.name(), mode),
        (reductions::SCOPE.name(), scope),
        (reductions::MEASURE.name(), measure),
        (reductions::AGAINST.name(), policy),
    ])
}

/// The reductions of a claim in a mode.
fn reductions(t: &ExperimentTables, claim: &Claim, mode: &str) -> Result<Option<CellRange>> {
    let mut rows = Vec::new();
    for policy in &claim.against {
        rows.extend(reductions_against(t, claim.kind, mode, policy)?);
    }
    CellRange::of_reductions(&t.reductions, &rows)
}

/// Rows of claims.csv.
pub fn rows(claims: &[Claim], t: &ExperimentTables) -> Result<Vec<ClaimRow>> {
    let mut rows = Vec::new();
    for (i, claim) in (1..).zip(claims) {
        let none = || [String::from("not measured"), String::new(), String::new()];
        let [artifact, masks] = match claim.kind {
            Kind::Benchmark => [none(), none()],
            Kind::RecallOrder => [["no masks in this mode".into(), String::new(), String::new()], recall_order(t)?],
            Kind::ClusteringOverhead => {
                let rows = t.masks.find(&[(columns::POLICY, STARC)])?;
                let masks = CellRange::said(CellRange::of(&t.masks, &rows, layer::CLUSTER_PERCENT.name())?, claim);
                [[clustering_in_artifact_mode().into(), String::new(), String::new()], masks]
            }
            _ => [
                CellRange::said(reductions(t, claim, "artifact")?, claim),
                CellRange::said(reductions(t, claim, "masks")?, claim),
            ],
        };
        let in_artifact = matches!(artifact[1].as_str(), "within" | "above" | "overlaps" | "reached" | "exceeded");
        let mut fair = verdict::of(t, claim, in_artifact)?;
        if fair.verdict.is_empty() {
            // Of what is no reduction, real-mask mode decides.
            fair.verdict = if masks[1].is_empty() { "not measured".into() } else { masks[1].clone() };
        }
        rows.push(ClaimRow {
            fair,
            number: i,
            version: claim.version.clone(),
            what: claim.what.clone(),
            claimed: claim.claimed(),
            artifact,
            masks,
            why: why(claim, t)?,
        });
    }
    Ok(rows)
}

fn clustering_in_artifact_mode() -> &'static str {
    "ahead of the last decode step only, with most of its work missing (docs/parity.md)"
}

/// Of every cache and budget: words, verdict, cells.
fn recall_order(t: &ExperimentTables) -> Result<[String; 3]> {
    let (mut held, mut all, mut broken) = (0, 0, Vec::new());
    for row in t.choices.find(&[(columns::POLICY, STARC)])? {
        let key = [choices::SOURCE.name(), choices::PREFILL.name(), columns::BUDGET].map(|c| t.choices.cell(row, c));
        let [source, prefill, budget] = key;
        let (source, prefill, budget) = (source?, prefill?, budget?);
        let of = |policy| {
            let wanted = [
                (choices::SOURCE.name(), source),
                (choices::PREFILL.name(), prefill),
                (columns::BUDGET, budget),
                (columns::POLICY, policy),
            ];
            let row = t.choices.the(&wanted)?;
            Ok::<_, Error>((t.choices.number(row, columns::TOP_RECALL)?, row))
        };
        let (sparq, starc, quest) = (of(SPARQ)?, of(STARC)?, of(QUEST)?);
        // InfiniGen takes as few tokens as its alpha lets it, or as many as the budget holds: nothing else decides so much.
        let (infinigen, filled) = (of(INFINIGEN)?, of(INFINIGEN_FILLED)?);
        let ways = [
            (sparq.0 >= starc.0, sparq.1),
            (starc.0 > infinigen.0, infinigen.1),
            (starc.0 > filled.0, filled.1),
            (starc.0 > quest.0, quest.1),
        ];
        for (holds, other) in ways {
            all += 1;
            match holds {
                true => held += 1,
                false => broken.push(format!(
                    "{} against {}",
                    t.choices.cite(row, columns::TOP_RECALL),
                    t.choices.cite(other, columns::TOP_RECALL)
                )),
            }
        }
    }
    let words = format!("{held} of {all} comparisons hold");
    let cells = match broken.is_empty() {
        true => format!("{}, column {}, all rows", t.choices.name(), columns::TOP_RECALL),
        false => format!("not: {}", broken.join("; ")),
    };
    let verdict = if held == all { "holds" } else { "holds in part" };
    Ok([words, verdict.into(), cells])
}

/// The longest context of the first model, where sentences take their examples.
fn example(t: &ExperimentTables) -> Result<(&str, &str)> {
    let row = t.masks.len().checked_sub(1).ok_or_else(|| Error::data(t.masks.name(), "no rows"))?;
    let context = t.masks.cell(row, columns::CONTEXT)?;
    Ok((t.masks.cell(0, columns::MODEL)?, context))
}

/// A sentence on why claim and findings differ, of the cells that it names.
fn why(claim: &Claim, t: &ExperimentTables) -> Result<String> {
    let (model, context) = example(t)?;
    let mask =
        |policy: &str| t.masks.the(&[(columns::MODEL, model), (columns::CONTEXT, context), (columns::POLICY, policy)]);
    let of_masks = |policy: &str, column: &str, decimals: usize, unit: &str| {
        cited(&t.masks, mask(policy)?, column, decimals, unit)
    };
    let bar = |policy: &str, column: &str, decimals: usize, unit: &str| {
        let row = t.artifact.the(&[(columns::MODEL, model), (columns::CONTEXT, context), (columns::POLICY, policy)])?;
        cited(&t.artifact, row, column, decimals, unit)
    };
    let step = |mode: &str, policy: &str, column: &str| {
        let row = t.system.the(&[
            (system::MODE.name(), mode),
            (columns::MODEL, model),
            (columns::CONTEXT, context),
            (columns::POLICY, policy),
        ])?;
        cited(&t.system, row, column, 4, "")
    };
    let against = claim.against.first().map_or(FULL, String::as_str);
    Ok(match claim.kind {
        Kind::AttentionLatency => format!(
            "{model}, {context} tokens: in artifact mode a head attends to {} row-rounded tokens with starc, {} with {against}, and \
             nothing else takes time; in real-mask mode choosing is {} of starc's step and {} of {against}'s, {} with starc \
             ({} in {against}) row-rounded tokens are touched, and the fullest unit has {} times the rows of the mean.",
            bar(STARC, bars::MEAN_TOKENS.name(), 1, "")?,
            bar(against, bars::MEAN_TOKENS.name(), 1, "")?,
            of_masks(STARC, layer::SELECT_PERCENT.name(), 1, " %")?,
            of_masks(against, layer::SELECT_PERCENT.name(), 1, " %")?,
            of_masks(STARC, columns::ROW_TOKENS, 1, "")?,
            of_masks(against, columns::ROW_TOKENS, 1, "")?,
            of_masks(STARC, columns::IMBALANCE_UNITS, 2, "")?,
        ),
        Kind::AttentionEnergy => format!(
            "{model}, {context} tokens: artifact mode spreads the energy of an activation over a fully used row and counts the \
             multiplications of the whole cache for every policy ({} mJ compute of starc, {} mJ of {against}); in real-mask \
             mode each activation is paid, {} a step with starc and {} with {against}, and choosing costs {} uJ of starc's {} uJ.",
            step("artifact", STARC, step_cost::ATTENTION_COMPUTE_MJ.name())?,
            step("artifact", against, step_cost::ATTENTION_COMPUTE_MJ.name())?,
            of_masks(STARC, columns::ACTIVATIONS, 0, "")?,
            of_masks(against, columns::ACTIVATIONS, 0, "")?,
            of_masks(STARC, layer::SELECT_UJ.name(), 2, "")?,
            of_masks(STARC, layer::ENERGY_UJ.name(), 2, "")?,
        ),
        Kind::EndToEndLatency => format!(
            "{model}, {context} tokens, {against}: attention is {} of {} ms a step in artifact mode and {} of {} ms in real-mask \
             mode, which bounds what any policy can save; real-mask mode keeps the first layers dense and has none of the \
             published simulator's unexplained factors (docs/system.md), so that the rest of a step takes longer.",
            step("artifact", against, step_cost::ATTENTION_MS.name())?,
            step("artifact", against, step_cost::STEP_MS.name())?,
            step("masks", against, step_cost::ATTENTION_MS.name())?,
            step("masks", against, step_cost::STEP_MS.name())?,
        ),
        Kind::EndToEndEnergy => format!(
            "{model}, {context} tokens, {against}: attention's memory and arithmetic are {} and {} of {} mJ a step in artifact mode, \
             {} and {} of {} mJ in real-mask mode; weights take the rest, whatever the policy.",
            step("artifact", against, step_cost::ATTENTION_MEMORY_MJ.name())?,
            step("artifact", against, step_cost::ATTENTION_COMPUTE_MJ.name())?,
            step("artifact", against, step_cost::ENERGY_MJ.name())?,
            step("masks", against, step_cost::ATTENTION_MEMORY_MJ.name())?,
            step("masks", against, step_cost::ATTENTION_COMPUTE_MJ.name())?,
            step("masks", against, step_cost::ENERGY_MJ.name())?,
        ),
        Kind::ClusteringOverhead => format!(
            "{model}, {context} tokens: clustering 64 new keys with all its commands, the host's part and the move takes {} us a \
             decode step of {} us; the artifact's trace has a part of it, once, ahead of the last step.",
            of_masks(STARC, layer::CLUSTER_US.name(), 4, "")?,
            of_masks(STARC, layer::TIME_US.name(), 3, "")?,
        ),
        Kind::RecallOrder => {
            let budget = t.masks.cell(mask(STARC)?, columns::BUDGET)?;
            format!(
                "{model}, {context} tokens, budget {budget}: {} of the best tokens with sparq, {} with starc, {} with quest. InfiniGen \
                 selects {} tokens by its threshold, which bounds its recall, and has {}; {} tokens and {} where it fills the budget. \
                 It is without the weights that it speculates with (docs/model.md).",
                of_masks(SPARQ, columns::TOP_RECALL, 4, "")?,
                of_masks(STARC, columns::TOP_RECALL, 4, "")?,
                of_masks(QUEST, columns::TOP_RECALL, 4, "")?,
                of_masks(INFINIGEN, columns::SELECTED, 1, "")?,
                of_masks(INFINIGEN, columns::TOP_RECALL, 4, "")?,
                of_masks(INFINIGEN_FILLED, columns::SELECTED, 1, "")?,
                of_masks(INFINIGEN_FILLED, columns::TOP_RECALL, 4, "")?,
            )
        }
        Kind::Benchmark => format!(
            "A benchmark's score needs the model's weights; what stands for it here is the error of attention's output, {} \
             with starc, {} with sparq, {} with quest ({model}, {context} tokens).",
            of_masks(STARC, columns::OUTPUT_REL_ERR, 4, "")?,
            of_masks(SPARQ, columns::OUTPUT_REL_ERR, 4, "")?,
            of_masks(QUEST, columns::OUTPUT_REL_ERR, 4, "")?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_decide_what_a_range_is() {
        let claim = |least: Option<f64>, most: f64| Claim {
            version: "v1".into(),
            what: String::new(),
            kind: Kind::AttentionLatency,
            against: vec![FULL.into()],
            least,
            most: Some(most),
        };
        let range = |sure| CellRange { least: 20.0, most: 30.0, from: Default::default(), sure, most_low: 28.0 };
        let of = |sure, least, most| range(sure).verdict(&claim(least, most));
        // The cells alone lie in 19 to 31, below 40, and above 10.
        assert_eq!(of([19.5, 30.5], Some(19.0), 31.0), "within");
        assert_eq!(of([18.0, 30.5], Some(19.0), 31.0), "overlaps");
        assert_eq!(of([18.0, 39.0], Some(40.0), 50.0), "below");
        assert_eq!(of([18.0, 40.0], Some(40.0), 50.0), "overlaps");
        assert_eq!(of([18.0, 39.0], Some(5.0), 17.0), "above");
        // The interval of the most is 28 to the highest end.
        assert_eq!(of([18.0, 34.0], None, 35.0), "reached");
        assert_eq!(of([18.0, 33.0], None, 35.0), "not reached");
        assert_eq!(of([18.0, 33.0], None, 27.0), "reached");
        assert_eq!(of([18.0, 33.0], None, 26.5), "exceeded");
        assert_eq!(range([18.0, 33.0]).words(), "20.00 to 30.00 % (18.00 to 33.00)");
        assert_eq!(range([20.0, 30.0]).words(), "20.00 to 30.00 %");
    }
}
