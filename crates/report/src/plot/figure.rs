//! Panels in a grid, under a title and one legend.

use super::axis::Ruler;
use super::bars::Bars;
use super::heat::Heat;
use super::lines::Lines;
use super::pen::Pen;
use super::spans::Spans;
use super::style::{
    Anchor, FRONTIER, HEADING, LABEL, TICK, TITLE, colour, dashes, hatches, line, marker, px, text, upward, width,
};
use pimattn_core::error::{Error, Result};
use std::collections::BTreeSet;
use svg::node::element as el;

/// A figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// Where it is from, below it.
    pub note: String,
    /// Names of the legend, in order; looks go by it, so that figures with the same list look alike. Names that panels
    /// have beside it follow.
    pub names: Vec<String>,
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// Panels side by side.
    pub columns: usize,
    /// Width and height of a panel, in pixels.
    pub panel: (f64, f64),
}

/// A part of a figure with axes of its own.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What sets it apart.
    pub title: String,
    /// What it shows.
    pub content: Content,
}

/// What a panel shows.
#[derive(Debug, Clone)]
pub enum Content {
    /// Lines.
    Lines(Lines),
    /// Bars.
    Bars(Bars),
    /// Horizontal bars about a value.
    Spans(Spans),
    /// A heat map.
    Heat(Heat),
}

/// Where the data of a panel is drawn.
pub struct Frame {
    /// From the figure's left.
    pub left: f64,
    /// Of the data.
    pub width: f64,
    top: f64,
    height: f64,
}

const GRID: &str = "#D8D8D8";
const INK: &str = "#000000";
const MARGIN: f64 = 14.0;
/// Beside and below the data: numbers and label of an axis.
const BESIDE: f64 = 66.0;
const BELOW: f64 = 44.0;
const SAMPLE: f64 = 34.0;
/// Legend of [`Lines::frontier`].
const FRONTIER_NAME: &str = "Pareto frontier";
/// Width of the line that it is.
pub const FRONTIER_WIDTH: f64 = 7.0;

impl Frame {
    /// From the left, of a place from 0 to 1.
    pub fn x(&self, place: f64) -> f64 {
        self.left + place * self.width
    }

    /// From the top, of a place from 0 to 1.
    pub fn y(&self, place: f64) -> f64 {
        self.top + (1.0 - place) * self.height
    }

    /// Where the axis to the right is.
    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// From the figure's top, of the data.
    pub fn top(&self) -> f64 {
        self.top
    }

    /// Of the data.
    pub fn height(&self) -> f64 {
        self.height
    }

    /// The same with labels so wide, instead of an axis, beside the data.
    pub fn beside(&self, labels: f64) -> Frame {
        let left = self.left - BESIDE + labels + 12.0;
        Frame { left, width: self.left + self.width - left, ..*self }
    }

    /// Box, grid, ticks and label of an axis to the right.
    pub fn across(&self, x: &Ruler) -> el::Group {
        self.framed(self.marked(el::Group::new(), x))
    }

    /// Box, grid, ticks and labels.
    pub fn axes(&self, x: Option<&Ruler>, y: &Ruler) -> el::Group {
        let (left, right) = (self.left, self.left + self.width);
        let mut out = el::Group::new();
        for tick in &y.ticks {
            let at = self.y(y.place(*tick));
            out = out.add(line((left, at), (right, at), GRID, 1.0));
            out = out.add(text(&y.text(*tick), left - 6.0, at + TICK * 0.36, TICK, Anchor::End));
        }
        let middle = self.top + self.height / 2.0;
        out = out.add(upward(&y.label, left - BESIDE + LABEL, middle, LABEL, Anchor::Middle));
        if let Some(x) = x {
            out = self.marked(out, x);
        }
        self.framed(out)
    }

    fn marked(&self, mut out: el::Group, x: &Ruler) -> el::Group {
        let bottom = self.bottom();
        for tick in &x.ticks {
            let at = self.x(x.place(*tick));
            out = out.add(line((at, self.top), (at, bottom), GRID, 1.0));
            out = out.add(text(&x.text(*tick), at, bottom + TICK + 5.0, TICK, Anchor::Middle));
        }
        out.add(text(&x.label, self.left + self.width / 2.0, bottom + BELOW - 8.0, LABEL, Anchor::Middle))
    }

    fn framed(&self, out: el::Group) -> el::Group {
        let rect = el::Rectangle::new().set("x", px(self.left)).set("y", px(self.top));
        let rect = rect.set("width", px(self.width)).set("height", px(self.height));
        out.add(rect.set("fill", "none").set("stroke", INK).set("stroke-width", 1))
    }
}

impl Content {
    fn names(&self) -> Vec<&str> {
        match self {
            Content::Lines(lines) => lines.names().collect(),
            Content::Bars(bars) => bars.names().collect(),
            Content::Spans(spans) => spans.names().collect(),
            Content::Heat(_) => Vec::new(),
        }
    }

    fn footing(&self) -> f64 {
        match self {
            Content::Lines(_) | Content::Spans(_) => BELOW,
            Content::Bars(bars) => bars.footing(),
            Content::Heat(_) => Heat::FOOTING,
        }
    }
}

impl Figure {
    /// The figure as SVG, a document of its own.
    ///
    /// # Errors
    /// When there are no panels, or a value has no place on its axis; the panel is named.
    pub fn svg(&self) -> Result<String> {
        self.draw(None)
    }

    /// The figure as an element of a page: what it shows is said in its title and `description`, and each point, part and
    /// cell is a group of class "pt" whose title says its values. `id` is unlike those of the page's other figures; it is
    /// part of an attribute, so it must be plain.
    ///
    /// # Errors
    /// As [`Self::svg`].
    pub fn inline(&self, id: &str, description: &str) -> Result<String> {
        self.draw(Some((id, description)))
    }

    fn draw(&self, page: Option<(&str, &str)>) -> Result<String> {
        if self.panels.is_empty() {
            return Err(Error::Usage(format!("the figure \"{}\" has no panels", self.title)));
        }
        let pen = Pen::new(self.legend_names(), page.map(|(id, _)| id));
        let columns = self.columns.clamp(1, self.panels.len());
        let (wide, high) = self.panel;
        // A page has the title as a heading.
        let (title, title_height) = if page.is_some() { ("", 0.0) } else { (self.title.as_str(), TITLE + 12.0) };
        let lines = [(title, TITLE), (&self.note, TICK)].map(|(line, size)| width(line, size) + 2.0 * MARGIN);
        let total = lines.into_iter().fold(2.0 * MARGIN + columns as f64 * wide, f64::max);
        let mut out = el::Group::new();
        if !title.is_empty() {
            out = out.add(text(title, MARGIN, MARGIN + TITLE, TITLE, Anchor::Start).set("font-weight", "bold"));
        }
        let (legend, legend_height) = self.legend(&pen, MARGIN + title_height, total);
        out = out.add(legend);
        let top = MARGIN + title_height + legend_height;
        let headings: Vec<Vec<String>> =
            self.panels.iter().map(|panel| wrapped(&panel.title, HEADING, wide - BESIDE)).collect();
        let heading_lines = headings.iter().map(Vec::len).max().unwrap_or(0) as f64;
        for (i, panel) in self.panels.iter().enumerate() {
            let corner = (MARGIN + (i % columns) as f64 * wide, top + (i / columns) as f64 * high);
            let above =
                if heading_lines == 0.0 { 16.0 } else { HEADING + 22.0 + (heading_lines - 1.0) * (HEADING + 3.0) };
            let frame = Frame {
                left: corner.0 + BESIDE,
                width: wide - BESIDE - 22.0,
                top: corner.1 + above,
                height: high - above - panel.content.footing() - 4.0,
            };
            let drawn = match &panel.content {
                Content::Lines(lines) => lines.draw(&frame, &pen),
                Content::Bars(bars) => bars.draw(&frame, &pen),
                Content::Spans(spans) => spans.draw(&frame, &pen),
                Content::Heat(heat) => heat.draw(&frame, &pen),
            };
            let drawn = drawn.map_err(|e| Error::Usage(format!("panel \"{}\": {e}", panel.title)))?;
            out = out.add(drawn);
            for (n, line) in headings[i].iter().enumerate() {
                let baseline = corner.1 + HEADING + 8.0 + n as f64 * (HEADING + 3.0);
                let heading = text(line, corner.0 + BESIDE, baseline, HEADING, Anchor::Start);
                out = out.add(heading.set("font-weight", "bold"));
            }
        }
        let mut bottom = top + self.panels.len().div_ceil(columns) as f64 * high;
        if !self.note.is_empty() {
            bottom += TICK + 2.0;
            out = out.add(text(&self.note, MARGIN, bottom, TICK, Anchor::Start).set("fill", "#404040"));
        }
        let size = (px(total), px(bottom + MARGIN));
        let paper = el::Rectangle::new().set("width", size.0).set("height", size.1).set("fill", "#FFFFFF");
        let document = svg::Document::new().set("width", size.0).set("height", size.1);
        let document = document.set("viewBox", format!("0 0 {} {}", size.0, size.1));
        let document = document.set("font-family", "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif");
        let document = match page {
            None => document.add(el::Title::new(&self.title)),
            Some((id, description)) => {
                let named = document.set("role", "group").set("aria-labelledby", format!("{id}-t {id}-d"));
                let title = el::Title::new(&self.title).set("id", format!("{id}-t"));
                named
                    .add(title)
                    .add(el::Description::new().set("id", format!("{id}-d")).add(svg::node::Text::new(description)))
            }
        };
        Ok(format!("{}\n", document.add(hatches(pen.id())).add(paper).add(out)))
    }

    fn legend_names(&self) -> Vec<String> {
        let all = self.names.iter().map(String::as_str).chain(self.panels.iter().flat_map(|p| p.content.names()));
        let mut seen = BTreeSet::new();
        all.filter(|name| seen.insert(*name)).map(String::from).collect()
    }

    /// Samples and names of what the panels have, row by row; its height.
    fn legend(&self, pen: &Pen, top: f64, total: f64) -> (el::Group, f64) {
        let drawn: BTreeSet<&str> = self.panels.iter().flat_map(|p| p.content.names()).collect();
        let lines = self.panels.iter().any(|p| matches!(p.content, Content::Lines(_)));
        let (mut out, mut x, mut row) = (el::Group::new(), MARGIN, 0.0);
        let mut place = |name: &str| {
            let need = SAMPLE + 8.0 + width(name, LABEL) + 14.0;
            if x > MARGIN && x + need > total {
                (x, row) = (MARGIN, row + 1.0);
            }
            let at = (x, top + row * 20.0 + 10.0);
            x += need;
            at
        };
        for (i, name) in pen.names().iter().enumerate().filter(|(_, n)| drawn.contains(n.as_str())) {
            let (x, middle) = place(name);
            out = match lines {
                true => {
                    let sample = line((x, middle), (x + SAMPLE, middle), colour(i), 1.8);
                    out.add(sample.set("stroke-dasharray", dashes(i))).add(marker(i, (x + SAMPLE / 2.0, middle)))
                }
                false => out.add(pen.filled(i, (x + 10.0, middle - 7.0), (SAMPLE - 10.0, 14.0))),
            };
            out = out.add(text(name, x + SAMPLE + 6.0, middle + LABEL * 0.36, LABEL, Anchor::Start));
        }
        let fronted = |p: &Panel| matches!(&p.content, Content::Lines(lines) if !lines.frontier.is_empty());
        if self.panels.iter().any(fronted) {
            let (x, middle) = place(FRONTIER_NAME);
            let sample = line((x, middle), (x + SAMPLE, middle), FRONTIER, FRONTIER_WIDTH);
            let name = text(FRONTIER_NAME, x + SAMPLE + 6.0, middle + LABEL * 0.36, LABEL, Anchor::Start);
            out = out.add(sample).add(name);
        } else if drawn.is_empty() {
            return (out, 0.0);
        }
        (out, (row + 1.0) * 20.0 + 4.0)
    }
}

/// A text in lines that are no wider than this; a word that is wider has a line of its own.
fn wrapped(content: &str, size: f64, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in content.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(word, size) + size <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Bar, BarGroup, Scale, Series, Span};
    use super::*;

    fn figure(content: Content) -> Figure {
        let panels = vec![Panel { title: "a & b".into(), content }];
        Figure { title: "t".into(), note: String::new(), names: vec![], panels, columns: 2, panel: (300.0, 240.0) }
    }

    fn lines(points: &[(f64, f64)]) -> Content {
        let series =
            ["one", "two"].map(|name| Series { name: name.into(), points: points.to_vec(), ..Series::default() });
        let series = series.to_vec();
        Content::Lines(Lines {
            x: Axis::new("x", Scale::Log),
            y: Axis::new("y", Scale::FromZero),
            series,
            ..Lines::default()
        })
    }

    #[test]
    fn the_same_figure_is_the_same_bytes_and_names_are_escaped() {
        let f = figure(lines(&[(1.0, 2.0), (100.0, 3.0)]));
        let svg = f.svg().unwrap();
        assert_eq!(svg, f.svg().unwrap());
        assert!(svg.contains("a &amp; b") && svg.starts_with("<svg "));
        // A line and a sample of the legend for each series.
        assert_eq!(svg.matches("stroke-dasharray").count(), 4);
    }

    #[test]
    fn in_a_page_marks_say_their_values_and_identifiers_are_its_own() {
        let svg = figure(lines(&[(1.0, 2.0), (100.0, 3.0)])).inline("f7", "what <it> says").unwrap();
        assert_eq!(svg.matches("class=\"pt\"").count(), 4);
        assert!(svg.contains("one: y 2; x 1") && svg.contains("what &lt;it&gt; says"), "{svg}");
        assert!(svg.contains("id=\"f7-hatch1\"") && !svg.contains("id=\"hatch1\""));
        assert!(!figure(lines(&[(1.0, 2.0)])).svg().unwrap().contains("class=\"pt\""));
    }

    /// A vertical line each, in the colour of its series, and room for it on the axis.
    #[test]
    fn an_interval_is_drawn_through_its_point() {
        let of = |intervals: &[(f64, f64)]| {
            let Content::Lines(mut lines) = lines(&[(1.0, 2.0), (100.0, 3.0)]) else { panic!("lines") };
            lines.series[1].intervals = intervals.to_vec();
            figure(Content::Lines(lines)).svg().unwrap()
        };
        let (without, with) = (of(&[]), of(&[(1.0, 5.0), (2.5, 40.0)]));
        let drawn = |svg: &str| svg.matches("<polyline").count();
        assert_eq!(drawn(&with), drawn(&without) + 2, "{with}");
        assert!(with.contains(">\n40\n</text>") && !without.contains(">\n40\n</text>"), "{with}");
    }

    #[test]
    fn a_heading_is_no_wider_than_its_panel() {
        let lines = wrapped("placement: 2 channels a head, alignment: clusters begin at a row", HEADING, 234.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| width(line, HEADING) <= 234.0), "{lines:?}");
        assert_eq!(lines.join(" "), "placement: 2 channels a head, alignment: clusters begin at a row");
        assert!(wrapped("", HEADING, 234.0).is_empty());
    }

    #[test]
    fn looks_go_by_the_given_order_of_names() {
        let mut f = figure(lines(&[(1.0, 2.0)]));
        assert!(!f.svg().unwrap().contains(colour(2)));
        f.names = vec!["two".into(), "absent".into()];
        let svg = f.svg().unwrap();
        assert!(svg.contains(colour(2)) && !svg.contains("absent"));
    }

    #[test]
    fn parts_lie_on_top_of_each_other() {
        let parts = vec![("p".to_string(), 1.0), ("none".to_string(), 0.0), ("q".to_string(), 2.0)];
        let groups = vec![BarGroup { label: "g".into(), bars: vec![Bar { label: "b".into(), parts }] }];
        let svg = figure(Content::Bars(Bars { y: Axis::new("y", Scale::FromZero), groups })).svg().unwrap();
        // The bar's total, and hatching for the third name.
        assert!(svg.contains(">\n3\n</text>") && svg.contains("url(#hatch2)"));
    }

    #[test]
    fn a_span_begins_at_the_base_and_names_its_ends() {
        let spans = vec![
            Span { label: "a".into(), ends: [1.0, 5.0] },
            Span { label: "b".into(), ends: [3.0, 4.0] },
            Span { label: "c".into(), ends: [3.0, 3.0] },
        ];
        let ends = ["low", "high"].map(String::from);
        let content =
            |spans| Content::Spans(Spans { x: Axis::new("x", Scale::Linear), base: 3.0, ends: ends.clone(), spans });
        let svg = figure(content(spans)).svg().unwrap();
        // A low end and two high ones, with the sample of each; a high end is hatched, so it has two boxes. An end that is
        // the base has none.
        assert_eq!(svg.matches("stroke-width=\"0.6\"").count(), (1 + 1) + 2 * (2 + 1));
        assert!(["1", "5", "4"].iter().all(|n| svg.contains(&format!(">\n{n}\n</text>"))), "{svg}");
        // Zero is marked only where values lie on both sides of it.
        assert!(!svg.contains("5 3"));
        let both = vec![Span { label: "d".into(), ends: [-1.0, 3.0] }];
        assert!(figure(content(both)).svg().unwrap().contains("5 3"));
    }

    #[test]
    fn an_impossible_value_names_its_panel() {
        let e = figure(lines(&[(0.0, 1.0)])).svg().unwrap_err().to_string();
        assert!(e.contains("a & b") && e.contains("\"x\""), "{e}");
        let mut none = figure(lines(&[]));
        none.panels.clear();
        assert!(none.svg().is_err());
    }
}
