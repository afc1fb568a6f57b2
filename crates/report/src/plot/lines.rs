//! Points joined by lines.

use super::axis::{Axis, Ruler};
use super::figure::{Frame, Names};
use super::style::{colour, dashes, marker, px};
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
}

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Its points, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Most points of a line that all have markers.
const ALL_MARKED: usize = 24;
/// Markers of a longer one.
const MARKED: usize = 8;

impl Lines {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.series.iter().map(|s| s.name.as_str())
    }

    pub(super) fn draw(&self, frame: &Frame, names: &Names) -> Result<el::Group> {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let mut x = Ruler::over(&self.x, all().map(|p| p.0))?;
        x.mark(all().map(|p| p.0).collect());
        let y = Ruler::over(&self.y, all().map(|p| p.1))?;
        let mut out = frame.axes(Some((&x, &self.x.label)), (&y, &self.y.label));
        for (n, series) in self.series.iter().enumerate() {
            let i = names.place(&series.name);
            let at = |p: &(f64, f64)| (frame.x(x.place(p.0)), frame.y(y.place(p.1)));
            let path: Vec<String> = series.points.iter().map(at).map(|(x, y)| format!("{},{}", px(x), px(y))).collect();
            let line = el::Polyline::new().set("points", path.join(" ")).set("fill", "none");
            out = out.add(line.set("stroke", colour(i)).set("stroke-width", 1.8).set("stroke-dasharray", dashes(i)));
            let every = match series.points.len() {
                few if few <= ALL_MARKED => 1,
                many => many / MARKED,
            };
            // Lines that run together take turns.
            let first = n * every / self.series.len();
            for point in series.points.iter().skip(first).step_by(every) {
                out = out.add(marker(i, at(point)));
            }
        }
        Ok(out)
    }
}
