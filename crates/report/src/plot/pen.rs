//! What drawing a panel needs besides its data: the places of names in the legend, and whether a page holds the figure.

use super::style;
use std::collections::BTreeMap;
use svg::node::element as el;

/// Names of the legend, and where the figure is.
pub struct Pen {
    names: Vec<String>,
    places: BTreeMap<String, usize>,
    /// Begins the figure's identifiers in a page; empty in a document of its own.
    id: String,
    on_page: bool,
}

impl Pen {
    /// Of a figure with these names, in a page where it has an identifier there.
    pub fn new(names: Vec<String>, id: Option<&str>) -> Self {
        let places = names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        Pen { names, places, id: id.map_or(String::new(), |id| format!("{id}-")), on_page: id.is_some() }
    }

    /// Names of the legend.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What identifiers begin with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Place of a name; all are known.
    pub fn place(&self, name: &str) -> usize {
        self.places.get(name).copied().unwrap_or(0)
    }

    /// The box of the part at this place.
    pub fn filled(&self, i: usize, corner: (f64, f64), size: (f64, f64)) -> el::Group {
        style::filled(&self.id, i, corner, size)
    }

    /// What is drawn of a value. In a page it can be pointed at, and its title says the value; `said` is asked for there only.
    pub fn told(&self, drawn: el::Group, said: impl FnOnce() -> String) -> el::Group {
        match self.on_page {
            false => drawn,
            true => drawn.set("class", "pt").add(el::Title::new(said())),
        }
    }

    /// A disc that nobody sees, for a pointer to find a small mark by.
    pub fn target(&self, (x, y): (f64, f64)) -> Option<el::Circle> {
        let disc = || el::Circle::new().set("cx", style::px(x)).set("cy", style::px(y)).set("r", 8);
        self.on_page.then(|| disc().set("fill", "transparent"))
    }
}
