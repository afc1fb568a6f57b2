//! What assumed values do to the headlines: the sentence of the report's first paragraph, its section, its figure.

use super::ExperimentTables;
use super::claims::cited;
use crate::policies::STARC;
use crate::reproduce::tornado as column;
use pimattn_core::error::Result;
use pimattn_report::cells::Cells;
use pimattn_report::plot::{Axis, Content, Figure, Panel, Scale, Span, Spans};

/// Assumptions of a headline that a panel shows: beyond them, bars are too short to be seen.
const SHOWN: usize = 8;
/// Assumptions of a headline that the text's table shows.
const TOLD: usize = 2;

/// The headlines of the table: measure, other policy, and the rows, the assumption that moves it most first.
fn headlines(tornado: &Cells) -> Result<Vec<(String, String, Vec<usize>)>> {
    let mut out = Vec::new();
    for measure in tornado.distinct(column::MEASURE.name())? {
        for against in tornado.distinct(column::AGAINST.name())? {
            let rows = tornado.find(&[(column::MEASURE.name(), measure), (column::AGAINST.name(), against)])?;
            if !rows.is_empty() {
                out.push((measure.into(), against.into(), rows));
            }
        }
    }
    Ok(out)
}

/// Which headlines change sign, by what, with the cells that say so.
pub fn sign_changes(t: &ExperimentTables) -> Result<String> {
    let tornado = &t.tornado;
    let all = headlines(tornado)?;
    let mut said = Vec::new();
    for (measure, against, rows) in &all {
        let mut ways = Vec::new();
        for row in rows {
            if tornado.cell(*row, column::CHANGES_SIGN.name())? != "1" {
                continue;
            }
            let base = tornado.number(*row, column::LESS.name())?;
            for (less, value) in
                [(column::LESS_LOW.name(), column::LOW.name()), (column::LESS_HIGH.name(), column::HIGH.name())]
            {
                if tornado.number(*row, less)? * base <= 0.0 {
                    ways.push(format!(
                        "{} with \"{}\" at {} instead of {}",
                        cited(tornado, *row, less, 1, " %")?,
                        tornado.cell(*row, column::ASSUMPTION.name())?,
                        tornado.cell(*row, value)?,
                        tornado.cell(*row, column::VALUE.name())?,
                    ));
                }
            }
        }
        if let (Some(first), false) = (rows.first(), ways.is_empty()) {
            let ships = cited(tornado, *first, column::LESS.name(), 1, " %")?;
            said.push(format!(
                "{STARC}'s reduction of {measure} against {against} is {ships} as shipped, {}",
                ways.join(", ")
            ));
        }
    }
    let kept = all.len() - said.len();
    Ok(match said.len() {
        0 => format!(
            "None of the {} headlines on attention changes its sign within the range of an assumed value.",
            all.len()
        ),
        n => format!(
            "Of {} headlines on attention, {n} change{} sign within the range of an assumed value: {}. The other {kept} keep \
             theirs, each value moved alone.",
            all.len(),
            if n == 1 { "s its" } else { " their" },
            said.join("; "),
        ),
    })
}

/// Rows of the text's table.
pub fn told(t: &ExperimentTables) -> Result<Vec<usize>> {
    Ok(headlines(&t.tornado)?.into_iter().flat_map(|(_, _, rows)| rows.into_iter().take(TOLD)).collect())
}

/// A panel for each headline: the assumptions that move it most, the widest on top.
pub fn figure(t: &ExperimentTables) -> Result<Figure> {
    let tornado = &t.tornado;
    let mut panels = Vec::new();
    let ends = ["low end", "high end"].map(String::from);
    for (measure, against, rows) in headlines(tornado)? {
        let mut spans = Vec::new();
        for row in rows.iter().take(SHOWN) {
            let cell = |column: &str| tornado.cell(*row, column);
            let label = format!(
                "{} ({}; {})",
                cell(column::ASSUMPTION.name())?,
                cell(column::LOW.name())?,
                cell(column::HIGH.name())?
            );
            let ends =
                [tornado.number(*row, column::LESS_LOW.name())?, tornado.number(*row, column::LESS_HIGH.name())?];
            spans.push(Span { label, ends });
        }
        let base = rows.first().map_or(Ok(0.0), |row| tornado.number(*row, column::LESS.name()))?;
        let x = Axis::new("% that starc takes less", Scale::Linear);
        let title = format!("{measure}, against {against}");
        panels.push(Panel { title, content: Content::Spans(Spans { x, base, ends: ends.clone(), spans }) });
    }
    Ok(Figure {
        title: "What assumed values do to the headlines: each moved alone to the ends of its range".into(),
        note: format!(
            "tornado.csv, columns reduction_percent, reduction_low, reduction_high; the {SHOWN} that move each headline most"
        ),
        names: Vec::new(),
        panels,
        columns: 2,
        panel: (860.0, 290.0),
    })
}
