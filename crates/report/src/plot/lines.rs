//! Points joined by lines.

use super::axis::{Axis, Ruler, Scale};
use super::figure::{FRONTIER_WIDTH, Frame};
use super::pen::Pen;
use super::style::{FRONTIER, colour, dashes, marker, px};
use pimattn_core::error::Result;
use svg::node::element as el;

/// Lines over common axes.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Names and heights of what has no place to the right: lines over the whole axis.
    pub baselines: Vec<(String, f64)>,
    /// Points that no other beats where less is better both ways, in rising x: a band behind the lines.
    pub frontier: Vec<(f64, f64)>,
}

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Its points, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end of each point's interval, a vertical line; none, or one for each.
    pub intervals: Vec<(f64, f64)>,
    /// What is said of each point in a page, besides its values; none, or one for each.
    pub notes: Vec<String>,
}

/// Most points of a line that all have markers.
const ALL_MARKED: usize = 24;
/// Markers of a longer one.
const MARKED: usize = 8;
/// Points of a panel that can all be pointed at; of more, those with markers and the highest of each line can.
const CROWD: usize = 1500;

impl Lines {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let flat = self.baselines.iter().map(|(name, _)| name.as_str());
        self.series.iter().map(|s| s.name.as_str()).chain(flat)
    }

    pub(super) fn draw(&self, frame: &Frame, pen: &Pen) -> Result<el::Group> {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let mut x = Ruler::over(&self.x, all().map(|p| p.0))?;
        // Of what is chosen, such as budgets, the values are marked; what is found has round ticks.
        if self.x.scale != Scale::FromZero {
            x.mark(all().map(|p| p.0).collect());
        }
        let ends = self.series.iter().flat_map(|s| &s.intervals).flat_map(|(low, high)| [*low, *high]);
        let y = Ruler::over(&self.y, all().map(|p| p.1).chain(self.baselines.iter().map(|b| b.1)).chain(ends))?;
        let mut out = frame.axes(Some(&x), &y);
        let crowded = all().count() > CROWD;
        let at = |p: &(f64, f64)| (frame.x(x.place(p.0)), frame.y(y.place(p.1)));
        let said = |(x, y): (f64, f64)| format!("{},{}", px(x), px(y));
        if let (Some(first), Some(last)) = (self.frontier.first(), self.frontier.last()) {
            // From the top down to the first point, and on to the right from the last: what lies above is beaten.
            let mut path = vec![said((at(first).0, frame.top())), said(at(first))];
            for pair in self.frontier.windows(2) {
                path.extend([said(at(&(pair[1].0, pair[0].1))), said(at(&pair[1]))]);
            }
            path.push(said((frame.left + frame.width, at(last).1)));
            let line = el::Polyline::new().set("points", path.join(" ")).set("fill", "none").set("stroke", FRONTIER);
            out = out.add(line.set("stroke-width", FRONTIER_WIDTH).set("stroke-linejoin", "round"));
        }
        for (name, height) in &self.baselines {
            let (i, up) = (pen.place(name), frame.y(y.place(*height)));
            let ends = [(frame.left, up), (frame.left + frame.width, up)];
            let line = el::Polyline::new().set("points", ends.map(said).join(" ")).set("fill", "none");
            let line = line.set("stroke", colour(i)).set("stroke-width", 1.8).set("stroke-dasharray", dashes(i));
            // Markers show whose line it is where others cross it.
            let drawn = ends.iter().fold(el::Group::new().add(line), |group, end| group.add(marker(i, *end)));
            out = out.add(pen.told(drawn, || {
                format!("{name}: {} {}, whatever the {}", self.y.label, y.said(*height), self.x.label)
            }));
        }
        for (n, series) in self.series.iter().enumerate() {
            let i = pen.place(&series.name);
            let path: Vec<String> = series.points.iter().map(|p| said(at(p))).collect();
            let line = el::Polyline::new().set("points", path.join(" ")).set("fill", "none");
            out = out.add(line.set("stroke", colour(i)).set("stroke-width", 1.8).set("stroke-dasharray", dashes(i)));
            for ((x, _), (low, high)) in series.points.iter().zip(&series.intervals) {
                let ends = [(*x, *low), (*x, *high)].map(|end| said(at(&end)));
                let line = el::Polyline::new().set("points", ends.join(" ")).set("fill", "none");
                out = out.add(line.set("stroke", colour(i)).set("stroke-width", 1.0));
            }
            let every = match series.points.len() {
                few if few <= ALL_MARKED => 1,
                many => many / MARKED,
            };
            // Lines that run together take turns.
            let first = n * every / self.series.len();
            let highest = series.points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
            for (k, point) in series.points.iter().enumerate() {
                let marked = k >= first && (k - first).is_multiple_of(every);
                let target = (marked || !crowded || point.1 == highest).then(|| pen.target(at(point))).flatten();
                if !marked && target.is_none() {
                    continue;
                }
                let drawn = target.map_or(el::Group::new(), |disc| el::Group::new().add(disc));
                let drawn = if marked { drawn.add(marker(i, at(point))) } else { drawn };
                out = out.add(pen.told(drawn, || {
                    let values = format!("{} {}; {} {}", self.y.label, y.said(point.1), self.x.label, x.said(point.0));
                    match series.notes.get(k) {
                        Some(note) => format!("{note}: {values}"),
                        None => format!("{}: {values}", series.name),
                    }
                }));
            }
        }
        Ok(out)
    }
}
