//! Heat maps: a number for each place of a grid, by colour, and in words where there is room.

use super::axis::{Axis, Scale, short};
use super::figure::Frame;
use super::pen::Pen;
use super::style::{Anchor, LABEL, TICK, px, text, upward, width};
use pimattn_core::error::{Error, Result};
use svg::node::element as el;

/// A grid of numbers.
#[derive(Debug, Clone, Default)]
pub struct Heat {
    /// What the numbers are, and which they must be set against besides those here ([`Axis::holds`]). Colours go from the
    /// least of all to the most.
    pub of: Axis,
    /// What rows and columns stand for.
    pub names: [String; 2],
    /// Rows from the top: what each is, and a number for each column where there is one.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
    /// What the columns are.
    pub columns: Vec<String>,
}

/// From little to much: a scale that people with any colour vision read, and that gets darker steadily (cividis, turned round).
const COLOURS: [[f64; 3]; 5] =
    [[255.0, 234.0, 70.0], [188.0, 175.0, 111.0], [124.0, 123.0, 120.0], [68.0, 78.0, 108.0], [0.0, 34.0, 78.0]];
/// Text in a cell is not smaller than this.
const SMALLEST: f64 = 9.0;
/// Height of the colour bar.
const BAR: f64 = 10.0;

/// The colour at a place from 0 to 1, and what can be read on it.
fn colour(place: f64) -> (String, &'static str) {
    let at = place.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let (from, part) = (at.floor() as usize, at.fract());
    let (low, high) = (COLOURS[from], COLOURS[(from + 1).min(COLOURS.len() - 1)]);
    let mixed: [f64; 3] = std::array::from_fn(|i| (low[i] + (high[i] - low[i]) * part).round());
    // Luminance as the contrast rules for web pages have it; at 0.179 black and white are read equally well.
    let linear = mixed.map(|c| ((c / 255.0 + 0.055) / 1.055).powf(2.4));
    let luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    let [r, g, b] = mixed.map(|c| c as u8);
    (format!("#{r:02X}{g:02X}{b:02X}"), if luminance > 0.179 { "black" } else { "white" })
}

impl Heat {
    /// Height below the grid: numbers and name of the columns, and the colour bar with its numbers.
    pub(super) const FOOTING: f64 = 84.0;

    pub(super) fn draw(&self, frame: &Frame, pen: &Pen) -> Result<el::Group> {
        let known = || self.rows.iter().flat_map(|(_, cells)| cells.iter().flatten().copied());
        let all = || known().chain(self.of.holds.iter().copied());
        let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        if !(low.is_finite() && high.is_finite()) {
            return Err(Error::Usage(format!("no values, or one that is not finite, for \"{}\"", self.of.label)));
        }
        let labels = self.rows.iter().map(|(label, _)| width(label, TICK)).fold(0.0, f64::max);
        let left = frame.left - 30.0 + labels;
        let (wide, high_of_row) = (
            (frame.left + frame.width - left) / self.columns.len().max(1) as f64,
            frame.height() / self.rows.len().max(1) as f64,
        );
        let place = |x: f64| if high > low { (x - low) / (high - low) } else { 0.0 };
        let mut out = el::Group::new();
        let longest = known().map(|x| width(&short(x), 1.0)).fold(0.0, f64::max);
        let size = ((wide - 3.0) / longest.max(f64::MIN_POSITIVE)).min(high_of_row - 2.0).min(TICK);
        for (r, (label, cells)) in self.rows.iter().enumerate() {
            let top = frame.top() + r as f64 * high_of_row;
            let middle = top + high_of_row / 2.0;
            // Labels that would overlap are left out, evenly.
            if r % every(high_of_row, TICK + 1.0) == 0 {
                out = out.add(text(label, left - 5.0, middle + TICK * 0.36, TICK, Anchor::End));
            }
            for (c, (name, cell)) in self.columns.iter().zip(cells).enumerate() {
                let corner = (left + c as f64 * wide, top);
                let Some(x) = cell else { continue };
                let (fill, ink) = colour(place(*x));
                let rect = el::Rectangle::new().set("x", px(corner.0)).set("y", px(corner.1)).set("fill", fill);
                let rect = rect.set("width", px(wide - 0.6)).set("height", px(high_of_row - 0.6));
                let mut drawn = el::Group::new().add(rect);
                if size >= SMALLEST {
                    let number =
                        text(&short(*x), corner.0 + wide / 2.0, middle + size * 0.36, px(size), Anchor::Middle);
                    drawn = drawn.add(number.set("fill", ink));
                }
                out = out.add(pen.told(drawn, || {
                    let [row, column] = &self.names;
                    format!("{row} {label}, {column} {name}: {} {}", self.of.label, short(*x))
                }));
            }
        }
        let bottom = frame.bottom();
        let widest = self.columns.iter().map(|c| width(c, TICK)).fold(0.0, f64::max) + 4.0;
        for (c, name) in self.columns.iter().enumerate().step_by(every(wide, widest)) {
            let middle = left + (c as f64 + 0.5) * wide;
            out = out.add(text(name, middle, bottom + TICK + 3.0, TICK, Anchor::Middle));
        }
        let right = frame.left + frame.width;
        let beside = left - labels - 14.0;
        out = out.add(upward(&self.names[0], beside, frame.top() + frame.height() / 2.0, LABEL, Anchor::Middle));
        out = out.add(text(&self.names[1], (left + right) / 2.0, bottom + 32.0, LABEL, Anchor::Middle));
        Ok(out.add(self.bar((left, bottom + 46.0), right - left, (low, high))))
    }

    /// What the colours mean.
    fn bar(&self, (left, top): (f64, f64), wide: f64, (low, high): (f64, f64)) -> el::Group {
        const STEPS: usize = 24;
        let step = wide / STEPS as f64;
        let mut out = el::Group::new();
        for i in 0..STEPS {
            let rect = el::Rectangle::new().set("x", px(left + i as f64 * step)).set("y", px(top));
            let rect = rect.set("width", px(step + 0.4)).set("height", BAR);
            out = out.add(rect.set("fill", colour(i as f64 / (STEPS - 1) as f64).0));
        }
        let below = top + BAR + TICK + 1.0;
        out.add(text(&short(low), left, below, TICK, Anchor::Start))
            .add(text(&self.of.label, left + wide / 2.0, below, TICK, Anchor::Middle))
            .add(text(&short(high), left + wide, below, TICK, Anchor::End))
    }
}

impl Heat {
    /// A grid whose numbers are set against these too.
    pub fn of(label: impl Into<String>, holds: impl IntoIterator<Item = f64>) -> Self {
        Heat { of: Axis::new(label, Scale::Linear).holding(holds), ..Heat::default() }
    }
}

/// One of how many labels there is room for.
fn every(room: f64, need: f64) -> usize {
    (need / room.max(0.1)).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::super::{Content, Figure, Panel};
    use super::*;

    fn figure(heat: Heat) -> Figure {
        let panels = vec![Panel { title: "p".into(), content: Content::Heat(heat) }];
        Figure { title: "t".into(), note: String::new(), names: vec![], panels, columns: 1, panel: (300.0, 260.0) }
    }

    fn heat(cells: &[Option<f64>]) -> Heat {
        let columns = (0..cells.len()).map(|c| c.to_string()).collect();
        let rows = vec![("9".to_string(), cells.to_vec())];
        Heat { names: ["layer", "head"].map(String::from), rows, columns, ..Heat::of("error", [0.0, 1.0]) }
    }

    #[test]
    fn colours_get_darker_steadily_and_numbers_can_be_read_on_them() {
        let light = |place| {
            let (fill, _) = colour(place);
            let part = |at: usize| f64::from(u8::from_str_radix(&fill[at..at + 2], 16).unwrap());
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        let all: Vec<f64> = (0..=100).map(|i| light(f64::from(i) / 100.0)).collect();
        assert!(all.windows(2).all(|pair| pair[1] < pair[0]), "{all:?}");
        assert_eq!((colour(0.0).1, colour(1.0).1), ("black", "white"));
    }

    #[test]
    fn a_cell_says_its_place_and_one_without_a_number_is_left_blank() {
        let svg = figure(heat(&[Some(0.25), None, Some(1.0)])).inline("f", "what").unwrap();
        assert!(svg.contains("layer 9, head 0: error 0.25") && svg.contains("layer 9, head 2: error 1"), "{svg}");
        assert_eq!(svg.matches("class=\"pt\"").count(), 2);
        assert!(figure(Heat { rows: vec![], ..Heat::of("error", []) }).svg().is_err());
    }
}
