//! How series and parts look, by their place in the legend; and the pieces of a drawing.

use svg::node::element as el;

/// Okabe and Ito (2008), "Color universal design"; the yellow, weak on white, last.
const COLOURS: [&str; 8] = ["#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"];
/// Colours of boxes.
const FILLS: [usize; 8] = [5, 1, 2, 3, 7, 4, 6, 0];
/// Dashes of lines, in pixels. As many as colours less one, so that the pair repeats late.
const DASHES: [&str; 7] = ["none", "7 3", "2 2", "9 3 2 3", "12 4", "5 2 1 2 1 2", "1 3"];
/// Shapes of markers; every second one is hollow.
const MARKERS: usize = 10;
/// Line of hatching in a tile of [`TILE`] pixels, as path data; the first part is plain.
const HATCHES: [&str; 8] = [
    "",
    "M0,8 L8,0 M-2,2 L2,-2 M6,10 L10,6",
    "M0,0 L8,8 M-2,6 L2,10 M6,-2 L10,2",
    "M0,4 L8,4",
    "M4,0 L4,8",
    "M0,8 L8,0 M0,0 L8,8",
    "M3.5,4 a0.5,0.5 0 1,0 1,0 a0.5,0.5 0 1,0 -1,0",
    "M0,4 L8,4 M4,0 L4,8",
];
const TILE: f64 = 8.0;

/// Text sizes in pixels: title, headings, axis labels and legend, ticks.
pub const TITLE: f64 = 17.0;
pub const HEADING: f64 = 14.0;
pub const LABEL: f64 = 13.0;
pub const TICK: f64 = 12.0;

/// The band behind points that no other beats.
pub const FRONTIER: &str = "#A8A8A8";

/// Instead of the yellow, which is too light for a line.
const GREY: &str = "#7F7F7F";

/// Colour of the series at this place.
pub fn colour(i: usize) -> &'static str {
    match i % COLOURS.len() {
        7 => GREY,
        i => COLOURS[i],
    }
}

/// Dashes of the series at this place.
pub fn dashes(i: usize) -> &'static str {
    DASHES[i % DASHES.len()]
}

/// A tenth of a pixel is as exact as a drawing is.
pub fn px(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// Width that text of this size takes at most, in a usual sans-serif font.
pub fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.62
}

/// Where text lies about its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Text, its baseline at `y`.
pub fn text(content: &str, x: f64, y: f64, size: f64, anchor: Anchor) -> el::Text {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    el::Text::new(content).set("x", px(x)).set("y", px(y)).set("font-size", size).set("text-anchor", anchor)
}

/// Text that runs upwards.
pub fn upward(content: &str, x: f64, y: f64, size: f64, anchor: Anchor) -> el::Text {
    text(content, x, y, size, anchor).set("transform", format!("rotate(-90 {} {})", px(x), px(y)))
}

/// A line.
pub fn line(from: (f64, f64), to: (f64, f64), colour: &str, width: f64) -> el::Line {
    let line = el::Line::new().set("x1", px(from.0)).set("y1", px(from.1)).set("x2", px(to.0)).set("y2", px(to.1));
    line.set("stroke", colour).set("stroke-width", width)
}

/// The marker of the series at this place.
pub fn marker(i: usize, (x, y): (f64, f64)) -> el::Path {
    let r = 4.2;
    let at = |dx: f64, dy: f64| format!("{} {}", px(x + dx * r), px(y + dy * r));
    let shape = |points: &[(f64, f64)]| {
        let corners: Vec<String> = points.iter().map(|(dx, dy)| at(*dx, *dy)).collect();
        format!("M{} Z", corners.join(" L"))
    };
    let circle = || {
        let arc = format!("a{0} {0} 0 1 0", px(0.9 * r));
        format!("M{} {arc} {1} 0 {arc} -{1} 0 Z", at(-0.9, 0.0), px(1.8 * r))
    };
    let square = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)];
    let (data, filled) = match i % MARKERS {
        0 => (circle(), true),
        1 => (shape(&square), false),
        2 => (shape(&[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]), true),
        3 => (shape(&[(0.0, -1.15), (1.15, 0.0), (0.0, 1.15), (-1.15, 0.0)]), false),
        4 => (shape(&[(0.0, 1.0), (1.0, -0.8), (-1.0, -0.8)]), true),
        5 => (circle(), false),
        6 => (shape(&square), true),
        7 => (shape(&[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]), false),
        8 => (shape(&[(0.0, -1.15), (1.15, 0.0), (0.0, 1.15), (-1.15, 0.0)]), true),
        _ => (shape(&[(0.0, 1.0), (1.0, -0.8), (-1.0, -0.8)]), false),
    };
    let fill = if filled { colour(i) } else { "#FFFFFF" };
    el::Path::new().set("d", data).set("fill", fill).set("stroke", colour(i)).set("stroke-width", 1.4)
}

/// The box of the part at this place: its colour, hatched unless it is the first. Black, too heavy for boxes, comes last.
/// `id` begins the names of the hatchings.
pub fn filled(id: &str, i: usize, (x, y): (f64, f64), (w, h): (f64, f64)) -> el::Group {
    let colour = COLOURS[FILLS[i % FILLS.len()]];
    let rect = || {
        let rect = el::Rectangle::new().set("x", px(x)).set("y", px(y));
        rect.set("width", px(w)).set("height", px(h)).set("stroke", "#000000").set("stroke-width", 0.6)
    };
    let group = el::Group::new().add(rect().set("fill", colour));
    match HATCHES[i % HATCHES.len()] {
        "" => group,
        _ => group.add(rect().set("fill", format!("url(#{id}hatch{})", i % HATCHES.len()))),
    }
}

/// Definitions that [`filled`] asks for.
pub fn hatches(id: &str) -> el::Definitions {
    let hatch = |(i, data): (usize, &&str)| {
        // White shows on black, blue, green and vermilion; black on the others.
        let stroke = if [0, 2, 3, 4].contains(&FILLS[i]) { "#FFFFFF" } else { "#000000" };
        let path = el::Path::new().set("d", *data).set("stroke", stroke).set("stroke-width", 1.2).set("fill", "none");
        let pattern = el::Pattern::new().set("id", format!("{id}hatch{i}")).set("patternUnits", "userSpaceOnUse");
        pattern.set("width", TILE).set("height", TILE).add(path)
    };
    let all = HATCHES.iter().enumerate().filter(|(_, data)| !data.is_empty()).map(hatch);
    all.fold(el::Definitions::new(), |defs, pattern| defs.add(pattern))
}
