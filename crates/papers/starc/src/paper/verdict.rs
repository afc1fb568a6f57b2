//! Whether a claim holds, in words: at the default mapping, at each policy's best, and under changed assumptions.

use super::ExperimentTables;
use super::claims::{self, Claim, Kind};
use crate::policies::{FULL, INFINIGEN, QUEST, SPARQ};
use crate::reproduce::columns::{SelectionMode, ablation, intervals, reductions};
use crate::reproduce::fair::FairMapping;
use pimattn_core::error::Result;

/// What was found of a claim over all caches of a source, and what follows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimVerdict {
    /// At the default mapping, with intervals and cells.
    pub default: String,
    /// At each policy's best.
    pub best: String,
    /// Whether it holds, in words.
    pub verdict: String,
    /// The assumption that decides it, with cells.
    pub decides: String,
}

/// A reduction, its interval, and the cell that it stands in.
struct FoundInterval {
    against: String,
    percent: f64,
    low: f64,
    high: f64,
    cell: String,
}

impl FoundInterval {
    fn words(&self) -> String {
        let FoundInterval { against, percent, low, high, cell } = self;
        format!("{against} {percent:.1} % [{cell}] ({low:.1} to {high:.1})")
    }
}

/// What was found at a mapping against each policy of a claim.
fn found(t: &ExperimentTables, claim: &Claim, mapping: FairMapping) -> Result<Vec<FoundInterval>> {
    let Some([scope, measure]) = claim.kind.reduction() else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for against in &claim.against {
        let rows = t.intervals.find(&[
            (intervals::SOURCE.name(), "synthetic"),
            (intervals::MAPPING.name(), mapping.name()),
            (intervals::SCOPE.name(), scope),
            (intervals::MEASURE.name(), measure),
            (intervals::AGAINST.name(), against),
        ])?;
        for row in rows {
            let number = |column| t.intervals.number(row, column);
            let column = intervals::REDUCTION_PERCENT.name();
            out.push(FoundInterval {
                against: against.clone(),
                percent: number(column)?,
                low: number(intervals::LOW.name())?,
                high: number(intervals::HIGH.name())?,
                cell: t.intervals.cite(row, column),
            });
        }
    }
    Ok(out)
}

/// The least that has to be found for a claim to hold: "up to" a figure is reached within a percentage point.
fn least(claim: &Claim) -> Option<f64> {
    claim.least.or_else(|| claim.most.map(|most| most - 1.0))
}

/// Policies against which a claim holds: the interval does not lie below what is claimed.
fn holds_against(found: &[FoundInterval], least: f64) -> Vec<&str> {
    found.iter().filter(|f| f.high >= least).map(|f| f.against.as_str()).collect()
}

/// Policies against which a claim holds in real-mask mode: no model and context has an interval below what is claimed; of a claim
/// "up to" a figure, one reaches it. A reduction without interval is its own. None where nothing was found.
fn holds_at_contexts<'c>(t: &ExperimentTables, claim: &'c Claim, least: f64) -> Result<Option<Vec<&'c str>>> {
    let (mut holds, mut any) = (Vec::new(), false);
    for policy in &claim.against {
        let rows = claims::reductions_against(t, claim.kind, SelectionMode::Masks.name(), policy)?;
        let high = |row: &usize| match claims::interval(&t.reductions, *row)? {
            Some([_, high]) => Ok(high),
            None => t.reductions.number(*row, reductions::REDUCTION_PERCENT.name()),
        };
        let mut highs = rows.iter().map(high).collect::<Result<Vec<f64>>>()?.into_iter();
        any |= !rows.is_empty();
        let reaches = |high: f64| high >= least;
        let held = if claim.least.is_some() { highs.all(reaches) } else { highs.any(reaches) };
        if held && !rows.is_empty() {
            holds.push(policy.as_str());
        }
    }
    Ok(any.then_some(holds))
}

/// Column of ablation.csv with the reduction of a claim against a policy.
fn ablated(kind: Kind, against: &str) -> Option<&'static str> {
    let energy = matches!(kind, Kind::AttentionEnergy | Kind::EndToEndEnergy);
    let columns = match against {
        FULL => [ablation::TIME_VS_FULL.name(), ablation::ENERGY_VS_FULL.name()],
        QUEST => [ablation::TIME_VS_QUEST.name(), ablation::ENERGY_VS_QUEST.name()],
        SPARQ => [ablation::TIME_VS_SPARQ.name(), ablation::ENERGY_VS_SPARQ.name()],
        INFINIGEN => [ablation::TIME_VS_INFINIGEN.name(), ablation::ENERGY_VS_INFINIGEN.name()],
        _ => return None,
    };
    Some(columns[usize::from(energy)])
}

/// The changed assumption that moves the reduction of the attention layers most, against the first policy of the claim.
fn decides(t: &ExperimentTables, claim: &Claim) -> Result<String> {
    let Some((against, column)) = claim.against.iter().find_map(|policy| Some((policy, ablated(claim.kind, policy)?)))
    else {
        return Ok(String::new());
    };
    let base = t.ablation.number(0, column)?;
    let mut most: Option<(f64, usize)> = None;
    for row in 1..t.ablation.len() {
        let moved = (t.ablation.number(row, column)? - base).abs();
        if most.is_none_or(|(m, _)| moved > m) {
            most = Some((moved, row));
        }
    }
    let Some((_, row)) = most else { return Ok(String::new()) };
    let [assumption, variant] =
        [ablation::ASSUMPTION.name(), ablation::VARIANT.name()].map(|column| t.ablation.cell(row, column));
    Ok(format!(
        "{}: {} moves the attention layers' reduction against {against} from {base:.1} [{}] to {:.1} % [{}]",
        assumption?,
        variant?,
        t.ablation.cite(0, column),
        t.ablation.number(row, column)?,
        t.ablation.cite(row, column),
    ))
}

/// The verdict on a claim; empty where it is of no reduction. `in_artifact` is whether artifact mode reaches it.
pub fn of(t: &ExperimentTables, claim: &Claim, in_artifact: bool) -> Result<ClaimVerdict> {
    let (default, best) = (found(t, claim, FairMapping::Default)?, found(t, claim, FairMapping::Best)?);
    let Some(least) = least(claim).filter(|_| !default.is_empty() && !best.is_empty()) else {
        return Ok(ClaimVerdict::default());
    };
    let words = |found: &[FoundInterval]| found.iter().map(FoundInterval::words).collect::<Vec<_>>().join("; ");
    let mut verdict = verdict(&holds_against(&default, least), &holds_against(&best, least), best.len(), in_artifact);
    if let Some(holds) = holds_at_contexts(t, claim, least)? {
        verdict.push_str(&format!("; {}", at_contexts(&holds, claim.against.len())));
    }
    Ok(ClaimVerdict { verdict, default: words(&default), best: words(&best), decides: decides(t, claim)? })
}

/// The words: against whom a claim holds at the default mapping and at the best, of so many policies.
fn verdict(default: &[&str], best: &[&str], policies: usize, in_artifact: bool) -> String {
    let only = |what: &str| format!("holds only {what}");
    match (default.len() == policies, best.len() == policies) {
        (true, true) => "holds, at the default mapping and at each policy's best".into(),
        (true, false) if best.is_empty() => only("if policies are not at their best mapping"),
        (true, false) => only(&format!("against {} once policies are at their best mapping", best.join(", "))),
        (false, true) => only("if each policy is at its best mapping"),
        (false, false) => match (default, best) {
            ([], []) if in_artifact => only("with the artifact's rows and costs (artifact mode)"),
            ([], []) => "does not hold".into(),
            (some, []) => only(&format!("against {}, and if policies are not at their best mapping", some.join(", "))),
            (_, some) => only(&format!("against {}", some.join(", "))),
        },
    }
}

/// The words of real-mask mode, of so many policies.
fn at_contexts(holds: &[&str], policies: usize) -> String {
    let what = match holds.len() {
        0 => "does not hold".into(),
        all if all == policies => "holds".into(),
        _ => format!("holds only against {}", holds.join(", ")),
    };
    format!("at the contexts of real-mask mode it {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_against_whom_and_at_which_mapping() {
        let of = |default: &[&str], best: &[&str], artifact| verdict(default, best, 2, artifact);
        assert_eq!(of(&["a", "b"], &["a", "b"], false), "holds, at the default mapping and at each policy's best");
        assert_eq!(of(&[], &["a", "b"], true), "holds only if each policy is at its best mapping");
        assert_eq!(of(&["a", "b"], &[], true), "holds only if policies are not at their best mapping");
        assert_eq!(of(&["a"], &["b"], true), "holds only against b");
        assert_eq!(of(&[], &[], true), "holds only with the artifact's rows and costs (artifact mode)");
        assert_eq!(of(&[], &[], false), "does not hold");
    }

    #[test]
    fn a_verdict_says_against_whom_it_is_at_the_contexts_of_real_mask_mode() {
        let of = |holds: &[&str]| at_contexts(holds, 2);
        assert_eq!(of(&["a"]), "at the contexts of real-mask mode it holds only against a");
        assert_eq!(of(&["a", "b"]), "at the contexts of real-mask mode it holds");
        assert_eq!(of(&[]), "at the contexts of real-mask mode it does not hold");
    }

    #[test]
    fn an_interval_that_reaches_what_is_claimed_does_not_refute_it() {
        let found = |low, high| FoundInterval { against: "a".into(), percent: 0.0, low, high, cell: String::new() };
        assert_eq!(holds_against(&[found(10.0, 19.0)], 19.0), ["a"]);
        assert!(holds_against(&[found(10.0, 18.9)], 19.0).is_empty());
    }
}
