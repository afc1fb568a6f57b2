//! The tornado: what each assumed value does to each headline when it is moved to the ends of its range, all others
//! staying as they ship.
//!
//! A headline is the reduction of the attention layer's time or energy by STARC against another policy, which the
//! paper's claims are about. The ranges are those of the grid ([`pimattn_experiments::sweep::range`]).

use super::columns::{STARC_LESS, percent_less};
use crate::policies::STARC;
use pimattn_core::error::Result;
use pimattn_core::table::Value;
use pimattn_core::{columns, measures};
use pimattn_experiments::sweep::grid::Grid;
use pimattn_experiments::sweep::range::{BASE, RangePoint, ValueRange};
use pimattn_experiments::sweep::table::{SweepRow, SweepTable};

/// The axis of variants, which the ranges make.
const VARIANT: &str = "variant";

/// What a decode step of a point takes, in ns or pJ.
type StepCost = fn(&SweepRow) -> f64;

/// A number as it ships, and at both ends of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// As it ships.
    pub base: f64,
    /// At the low end.
    pub low: f64,
    /// At the high end.
    pub high: f64,
}

/// A headline, and what an assumed value does to it.
#[derive(Debug, Clone, PartialEq)]
pub struct TornadoRow {
    /// Time or energy.
    pub measure: &'static str,
    /// The other policy.
    pub against: String,
    /// Place among the assumptions, from 1: by how far the headline moves.
    pub rank: u32,
    /// What is moved.
    pub assumption: String,
    /// Its keys.
    pub keys: String,
    /// Its values as it ships, at the low and at the high end.
    pub values: [String; 3],
    /// Why the range is this.
    pub why: String,
    /// What STARC takes, ns or pJ a decode step.
    pub ours: Moved,
    /// What the other takes.
    pub other: Moved,
}

impl TornadoRow {
    /// The headline in percent.
    fn less(&self) -> Moved {
        let of = |ours: f64, other: f64| 100.0 * (1.0 - ours / other);
        Moved {
            base: of(self.ours.base, self.other.base),
            low: of(self.ours.low, self.other.low),
            high: of(self.ours.high, self.other.high),
        }
    }

    /// Percentage points between the least and the most of the headline.
    fn span(&self) -> f64 {
        let Moved { base, low, high } = self.less();
        base.max(low).max(high) - base.min(low).min(high)
    }

    /// Whether STARC wins at one place of the range and loses at another.
    fn changes_sign(&self) -> bool {
        let Moved { base, low, high } = self.less();
        let signs = [base, low, high];
        signs.iter().any(|x| *x > 0.0) && signs.iter().any(|x| *x < 0.0)
    }
}

fn percentage(row: &TornadoRow, of: fn(&Moved) -> f64) -> Value {
    percent_less(of(&row.ours), of(&row.other))
}

measures! {
    /// Columns of tornado.csv.
    pub TORNADO of TornadoRow {
        MEASURE = "measure", "-", "time or energy of the attention of a layer, a decode step", |r| r.measure.into();
        AGAINST = "against", "-", "the other policy", |r| (&r.against).into();
        RANK = "rank", "1", "place of the assumption by span_points, among those of the same measure and policy",
            |r| r.rank.into();
        ASSUMPTION = "assumption", "-", "what is moved, all else staying as it ships", |r| (&r.assumption).into();
        KEYS = "keys", "-", "its keys, of the workload or (system.) of the system", |r| (&r.keys).into();
        VALUE = "value", "-", "as it ships, with its unit", |r| (&r.values[0]).into();
        LOW = "low", "-", "at the low end", |r| (&r.values[1]).into();
        HIGH = "high", "-", "at the high end", |r| (&r.values[2]).into();
        OURS = "starc", "ns or pJ", "what starc takes as it ships, a decode step", |r| Value::Float(r.ours.base, 3);
        OURS_LOW = "starc_low", "ns or pJ", "at the low end", |r| Value::Float(r.ours.low, 3);
        OURS_HIGH = "starc_high", "ns or pJ", "at the high end", |r| Value::Float(r.ours.high, 3);
        OTHER = "other", "ns or pJ", "what the other takes as it ships", |r| Value::Float(r.other.base, 3);
        OTHER_LOW = "other_low", "ns or pJ", "at the low end", |r| Value::Float(r.other.low, 3);
        OTHER_HIGH = "other_high", "ns or pJ", "at the high end", |r| Value::Float(r.other.high, 3);
        LESS = STARC_LESS, "%", "100 x (1 - starc / other): the headline; below 0 starc takes more",
            |r| percentage(r, |m| m.base);
        LESS_LOW = "reduction_low", "%", "the headline at the low end", |r| percentage(r, |m| m.low);
        LESS_HIGH = "reduction_high", "%", "the headline at the high end", |r| percentage(r, |m| m.high);
        SPAN = "span_points", "percentage points", "between the least and the most of the three",
            |r| Value::Float(r.span(), 4);
        CHANGES_SIGN = "changes_sign", "1", "1: starc wins at one place of the range and loses at another; else 0",
            |r| u32::from(r.changes_sign()).into();
        WHY = "why", "-", "why the range is this", |r| (&r.why).into();
    }
}

/// Rows of tornado.csv: headline by headline, the assumption that moves it most first.
///
/// # Errors
/// When a range of the grid says for its base what does not ship, or a point is missing.
pub fn rows(grid: &Grid, swept: &SweepTable) -> Result<Vec<TornadoRow>> {
    grid.check_bases()?;
    let measures: [(&'static str, StepCost); 2] = [("time", |r| r.ns / r.steps), ("energy", |r| r.pj / r.steps)];
    let mut out = Vec::new();
    for (measure, of) in measures {
        for against in swept.distinct(columns::POLICY)?.into_iter().filter(|p| *p != STARC) {
            let number =
                |variant: &str, policy: &str| swept.the(&[(VARIANT, variant), (columns::POLICY, policy)]).map(of);
            let moved = |range: &ValueRange, policy: &str| {
                Ok::<_, pimattn_core::error::Error>(Moved {
                    base: number(BASE, policy)?,
                    low: number(&range.variant(RangePoint::Low), policy)?,
                    high: number(&range.variant(RangePoint::High), policy)?,
                })
            };
            let mut of_headline = Vec::new();
            for range in &grid.ranges {
                of_headline.push(TornadoRow {
                    measure,
                    against: against.into(),
                    rank: 0,
                    assumption: range.name.clone(),
                    keys: range.keys().join(" "),
                    values: [RangePoint::Base, RangePoint::Low, RangePoint::High].map(|at| range.shown(at)),
                    why: range.why.clone(),
                    ours: moved(range, STARC)?,
                    other: moved(range, against)?,
                });
            }
            // Stable: of equal spans, the order of the plan.
            of_headline.sort_by(|a, b| b.span().total_cmp(&a.span()));
            (1..).zip(&mut of_headline).for_each(|(rank, row)| row.rank = rank);
            out.extend(of_headline);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: [f64; 3], other: [f64; 3]) -> TornadoRow {
        let moved = |[base, low, high]: [f64; 3]| Moved { base, low, high };
        TornadoRow {
            measure: "time",
            against: "quest".into(),
            rank: 1,
            assumption: "a".into(),
            keys: "k".into(),
            values: ["2 ns", "1 ns", "4 ns"].map(String::from),
            why: "w".into(),
            ours: moved(ours),
            other: moved(other),
        }
    }

    #[test]
    fn every_column_has_its_own_value() {
        let row = row([1.0, 2.0, 3.0], [4.0, 5.0, 2.0]);
        let cells: Vec<_> = TORNADO.iter().map(|m| format!("{}={}", m.name(), m.value(&row))).collect();
        assert_eq!(
            cells.join(" "),
            "measure=time against=quest rank=1 assumption=a keys=k value=2 ns low=1 ns high=4 ns starc=1.000 starc_low=2.000 \
             starc_high=3.000 other=4.000 other_low=5.000 other_high=2.000 reduction_percent=75.0000 reduction_low=60.0000 \
             reduction_high=-50.0000 span_points=125.0000 changes_sign=1 why=w"
        );
    }

    #[test]
    fn a_headline_changes_sign_where_both_win_and_a_draw_is_none() {
        assert!(!row([1.0, 1.0, 2.0], [2.0, 2.0, 2.0]).changes_sign());
        assert!(!row([3.0, 4.0, 2.0], [2.0, 2.0, 2.0]).changes_sign());
        assert!(row([3.0, 4.0, 1.0], [2.0, 2.0, 2.0]).changes_sign());
    }
}
