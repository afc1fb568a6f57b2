//! Stacked bars in groups.

use super::axis::{Axis, Ruler};
use super::figure::Frame;
use super::pen::Pen;
use super::style::{Anchor, LABEL, TICK, line, text, upward, width};
use pimattn_core::error::Result;
use svg::node::element as el;

/// Bars side by side, in groups.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// Upwards.
    pub y: Axis,
    /// The groups, from the left.
    pub groups: Vec<BarGroup>,
}

/// Bars that belong together.
#[derive(Debug, Clone, Default)]
pub struct BarGroup {
    /// What they have in common.
    pub label: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// Parts on top of each other.
#[derive(Debug, Clone, Default)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// Names in the legend and heights, from the bottom; none below 0.
    pub parts: Vec<(String, f64)>,
}

impl Bar {
    fn total(&self) -> f64 {
        self.parts.iter().map(|(_, h)| h).sum()
    }
}

/// Gap between groups, and between bars, in widths of a bar.
const GROUP_GAP: f64 = 0.8;
const BAR_GAP: f64 = 0.18;
const NUMBER: f64 = 11.0;
/// Top of the axis over the highest bar, at least.
const HEADROOM: f64 = 1.22;

impl Bars {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flat_map(|g| &g.bars).flat_map(|b| b.parts.iter().map(|(name, _)| name.as_str()))
    }

    /// Height that labels below the axis take.
    pub(super) fn footing(&self) -> f64 {
        let longest = self.groups.iter().flat_map(|g| &g.bars).map(|b| width(&b.label, TICK)).fold(0.0, f64::max);
        let labelled = self.groups.iter().any(|g| !g.label.is_empty());
        longest + if labelled { LABEL + 18.0 } else { 12.0 }
    }

    pub(super) fn draw(&self, frame: &Frame, pen: &Pen) -> Result<el::Group> {
        let bars = || self.groups.iter().flat_map(|g| &g.bars);
        // Numbers stand on the bars, so the highest does not reach the top.
        let heights = bars().flat_map(|b| b.parts.iter().map(|(_, h)| *h).chain([b.total() * HEADROOM]));
        let y = Ruler::over(&self.y, heights)?;
        let mut out = frame.axes(None, &y);
        let slots = bars().count() as f64 + GROUP_GAP * self.groups.len() as f64;
        let slot = frame.width / slots;
        let wide = slot * (1.0 - BAR_GAP);
        // Numbers stand alike on all bars.
        let fits = bars().all(|bar| width(&y.text(bar.total()), NUMBER) <= slot);
        let (floor, mut left) = (frame.bottom(), frame.left + slot * GROUP_GAP / 2.0);
        for group in &self.groups {
            let begin = left;
            for bar in &group.bars {
                let mut sum = 0.0;
                for (name, height) in bar.parts.iter().filter(|(_, h)| *h > 0.0) {
                    let (low, high) = (frame.y(y.place(sum)), frame.y(y.place(sum + height)));
                    let corner = (left + (slot - wide) / 2.0, high);
                    let drawn = pen.filled(pen.place(name), corner, (wide, low - high));
                    let total = bar.total();
                    out = out.add(pen.told(drawn, || {
                        let share = 100.0 * height / total;
                        let what = format!("{} {}", group.label, bar.label);
                        format!("{}: {name} {}, {share:.1} % of {}", what.trim(), y.said(*height), y.said(total))
                    }));
                    sum += height;
                }
                let (middle, top) = (left + slot / 2.0, frame.y(y.place(sum)) - 4.0);
                let number = y.text(sum);
                out = match fits {
                    true => out.add(text(&number, middle, top, NUMBER, Anchor::Middle)),
                    false => out.add(upward(&number, middle + NUMBER * 0.36, top, NUMBER, Anchor::Start)),
                };
                out = out.add(upward(&bar.label, middle + TICK * 0.36, floor + 7.0, TICK, Anchor::End));
                left += slot;
            }
            if !group.label.is_empty() {
                let below = floor + self.footing() - 8.0;
                out = out.add(text(&group.label, (begin + left) / 2.0, below, LABEL, Anchor::Middle));
                let rule = below - LABEL - 2.0;
                out = out.add(line((begin + 3.0, rule), (left - 3.0, rule), "#808080", 1.0));
            }
            left += slot * GROUP_GAP;
        }
        Ok(out)
    }
}
