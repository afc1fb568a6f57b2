//! Horizontal bars to both sides of a line: how far a number moves when something else does.

use super::axis::{Axis, Ruler};
use super::figure::Frame;
use super::pen::Pen;
use super::style::{Anchor, TICK, line, text, width};
use pimattn_core::error::Result;
use svg::node::element as el;

/// Bars below each other, about a common value.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    /// To the right.
    pub x: Axis,
    /// The value that the bars begin at.
    pub base: f64,
    /// Names in the legend of the two ends of a bar.
    pub ends: [String; 2],
    /// The bars, from the top.
    pub spans: Vec<Span>,
}

/// A bar.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// What it is.
    pub label: String,
    /// The values at its two ends, in the order of the legend.
    pub ends: [f64; 2],
}

/// Share of a line that a bar takes.
const THICK: f64 = 0.66;
const NUMBER: f64 = 10.0;

impl Spans {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().map(String::as_str)
    }

    pub(super) fn draw(&self, frame: &Frame, pen: &Pen) -> Result<el::Group> {
        let labels = self.spans.iter().map(|s| width(&s.label, TICK)).fold(0.0, f64::max);
        let frame = frame.beside(labels);
        let all = || self.spans.iter().flat_map(|s| s.ends).chain([self.base]);
        // Numbers stand beside the bars.
        let (low, high) = all().fold((self.base, self.base), |(low, high), x| (low.min(x), high.max(x)));
        let room = (high - low).max(f64::MIN_POSITIVE) * 0.16;
        let x = Ruler::over(&self.x, all().chain([low - room, high + room]))?;
        let mut out = frame.across(&x);
        let at = |value: f64| frame.x(x.place(value));
        let high = frame.height() / self.spans.len().max(1) as f64;
        for (i, span) in self.spans.iter().enumerate() {
            let top = frame.top() + i as f64 * high;
            let middle = top + high / 2.0;
            out = out.add(text(&span.label, frame.left - 6.0, middle + TICK * 0.36, TICK, Anchor::End));
            // Of two ends on the same side the longer bar lies behind.
            let mut ends = [0, 1];
            ends.sort_by(|a, b| {
                let far = |end: &usize| (span.ends[*end] - self.base).abs();
                far(b).total_cmp(&far(a))
            });
            for end in ends {
                let (from, to) = (at(self.base).min(at(span.ends[end])), at(self.base).max(at(span.ends[end])));
                if to > from {
                    let corner = (from, middle - high * THICK / 2.0);
                    out = out.add(pen.filled(pen.place(&self.ends[end]), corner, (to - from, high * THICK)));
                }
            }
            let [a, b] = span.ends;
            for (value, anchor, aside) in [(a.min(b), Anchor::End, -4.0), (a.max(b), Anchor::Start, 4.0)] {
                if value != self.base && (value < self.base) == matches!(anchor, Anchor::End) {
                    out = out.add(text(&x.text(value), at(value) + aside, middle + NUMBER * 0.36, NUMBER, anchor));
                }
            }
        }
        let line_at = |value: f64, colour, wide| {
            let x = at(value);
            line((x, frame.top()), (x, frame.bottom()), colour, wide)
        };
        if all().any(|x| x < 0.0) && all().any(|x| x > 0.0) {
            out = out.add(line_at(0.0, "#D55E00", 1.6).set("stroke-dasharray", "5 3"));
        }
        Ok(out.add(line_at(self.base, "#000000", 1.4)))
    }
}
