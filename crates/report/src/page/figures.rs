//! Figures of what stands to choose: error against cost, and time by cause and phase.

use super::choice::{Choices, PageChoice};
use crate::plot::{Axis, Bar, BarGroup, Bars, Content, Figure, Lines, Panel, Scale, Series};

/// Most panels of a figure; a sweep of many settings has the others in its table.
const MOST_PANELS: usize = 12;
/// Bars that stand side by side.
const BARS: usize = 30;
/// Width of the page, and of a panel of points.
const PAGE: f64 = 1060.0;
const POINTS: (f64, f64) = (515.0, 400.0);
/// Width of a bar with its gap, and of what stands beside the bars of a panel.
const BAR: (f64, f64) = (30.0, 110.0);
/// Gap between the bars of two policies, in bars.
const GAP: f64 = 0.8;
/// Room over the highest bar of a setting, for its number.
const HEADROOM: f64 = 1.25;

/// A figure, and how many groups it has no room for.
pub struct PageFigure {
    /// The figure.
    pub figure: Figure,
    /// Groups that are left out.
    pub left_out: usize,
}

/// What is set against the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostAxis {
    /// Time of a step.
    Time,
    /// Energy of a step.
    Energy,
}

impl CostAxis {
    fn of(self, choice: &PageChoice) -> f64 {
        match self {
            CostAxis::Time => choice.time(),
            CostAxis::Energy => choice.energy(),
        }
    }

    fn axis(self) -> Axis {
        match self {
            CostAxis::Time => Axis::new("time per step", Scale::FromZero).with_unit("ns"),
            CostAxis::Energy => Axis::new("energy per step", Scale::FromZero).with_unit("pJ"),
        }
    }
}

/// Policies in the order in which they come, which their looks go by in all figures.
fn policies(choices: &Choices) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for choice in &choices.all {
        if !names.contains(&choice.policy) {
            names.push(choice.policy.clone());
        }
    }
    names
}

/// Points that no other beats in error and cost, in rising error.
fn frontier(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if out.last().is_none_or(|last| point.1 < last.1) {
            out.push(point);
        }
    }
    out
}

/// Output error against a cost, a panel for each group; none where no error is known.
pub fn against_error(choices: &Choices, cost: CostAxis) -> Option<PageFigure> {
    let names = policies(choices);
    let mut panels = Vec::new();
    for (title, members) in choices.groups() {
        let known: Vec<(&PageChoice, (f64, f64))> =
            members.iter().filter_map(|c| Some((*c, (c.error()?, cost.of(c))))).collect();
        let mut series = Vec::new();
        for name in &names {
            let own = || known.iter().filter(|(c, _)| c.policy == *name);
            if own().next().is_some() {
                series.push(Series {
                    name: name.clone(),
                    points: own().map(|(_, point)| *point).collect(),
                    notes: own().map(|(c, _)| c.label.clone()).collect(),
                    ..Series::default()
                });
            }
        }
        if !series.is_empty() {
            let all: Vec<(f64, f64)> = known.iter().map(|(_, point)| *point).collect();
            let x = Axis::new("output error", Scale::FromZero);
            let lines = Lines { x, y: cost.axis(), series, baselines: Vec::new(), frontier: frontier(&all) };
            panels.push(Panel { title, content: Content::Lines(lines) });
        }
    }
    let left_out = panels.len().saturating_sub(MOST_PANELS);
    panels.truncate(MOST_PANELS);
    let title = match cost {
        CostAxis::Time => "Output error against time per decode step",
        CostAxis::Energy => "Output error against energy per decode step",
    };
    let (columns, panel) = if panels.len() == 1 { (1, (760.0, 430.0)) } else { (2, POINTS) };
    let figure = Figure { title: title.into(), note: String::new(), names, panels, columns, panel };
    (!figure.panels.is_empty()).then_some(PageFigure { figure, left_out })
}

/// Parts of the time of a step, stacked, a bar for each choice; none where the tables do not say them. `names` are those of
/// the parts that look alike on all pages, in order.
pub fn parts(
    choices: &Choices,
    title: &str,
    names: &[&str],
    of: impl Fn(&PageChoice) -> Vec<(String, f64)>,
) -> Option<PageFigure> {
    let mut panels: Vec<(String, Bars)> = Vec::new();
    for (title, members) in choices.groups() {
        let all = members.iter().map(|choice| (&choice.policy, Bar { label: choice.label.clone(), parts: of(choice) }));
        let bars: Vec<(&String, Bar)> = all.filter(|(_, bar)| !bar.parts.is_empty()).collect();
        // Panels of a setting have one scale, so that their bars can be compared.
        let heights = bars.iter().map(|(_, bar)| bar.parts.iter().map(|(_, h)| h).sum::<f64>());
        let highest = heights.fold(0.0, f64::max) * HEADROOM;
        let y = Axis::new("time per step", Scale::FromZero).with_unit("ns").holding([highest]);
        let each = bars.len().div_ceil(bars.len().div_ceil(BARS).max(1)).max(1);
        for chunk in bars.chunks(each) {
            // Bars of a policy stand together.
            let group = |bars: &[(&String, Bar)]| BarGroup {
                label: String::new(),
                bars: bars.iter().map(|(_, bar)| bar.clone()).collect(),
            };
            let groups = chunk.chunk_by(|a, b| a.0 == b.0).map(group).collect();
            panels.push((title.clone(), Bars { y: y.clone(), groups }));
        }
    }
    let left_out = panels.len().saturating_sub(MOST_PANELS);
    panels.truncate(MOST_PANELS);
    let slots = |bars: &Bars| bars.groups.iter().map(|g| g.bars.len() as f64 + GAP).sum::<f64>();
    let most = panels.iter().map(|(_, bars)| slots(bars)).fold(0.0, f64::max);
    let labels = panels.iter().flat_map(|(_, bars)| &bars.groups).flat_map(|g| &g.bars);
    let longest = labels.map(|b| b.label.chars().count()).max().unwrap_or(0) as f64;
    let wide = (BAR.1 + BAR.0 * most).clamp(520.0, PAGE);
    let figure = Figure {
        title: title.into(),
        note: String::new(),
        names: names.iter().map(|name| name.to_string()).collect(),
        panels: panels.into_iter().map(|(title, bars)| Panel { title, content: Content::Bars(bars) }).collect(),
        columns: ((PAGE / wide) as usize).max(1),
        panel: (wide, 320.0 + 7.5 * longest),
    };
    (!figure.panels.is_empty()).then_some(PageFigure { figure, left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontier_falls_from_point_to_point() {
        let points = [(0.2, 3.0), (0.0, 9.0), (0.1, 5.0), (0.1, 6.0), (0.15, 5.0), (0.3, 4.0)];
        assert_eq!(frontier(&points), [(0.0, 9.0), (0.1, 5.0), (0.2, 3.0)]);
        assert!(frontier(&[]).is_empty());
    }
}
