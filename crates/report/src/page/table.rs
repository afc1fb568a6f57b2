//! Tables of the page: plain HTML that a script may sort and filter.

use crate::catalogue::Catalogue;
use crate::cells::Cells;
use maud::{Markup, html};

/// A column of a table on the page.
#[derive(Debug, Clone, Default)]
pub struct PageColumn {
    /// Heading.
    pub name: String,
    /// Unit, below it; empty where there is none.
    pub unit: String,
    /// What it means, in the list below the table; empty where the heading says it.
    pub meaning: String,
}

/// A table on the page. Its first column names the rows.
#[derive(Debug, Clone, Default)]
pub struct PageTable {
    /// What a row is.
    pub caption: String,
    /// The columns.
    pub columns: Vec<PageColumn>,
    /// The cells, one for each column.
    pub rows: Vec<Vec<String>>,
}

/// Columns that paper has no room for.
const WIDE: usize = 24;
/// Characters of a cell that stand on one line.
const LONG: usize = 60;

impl PageColumn {
    /// A column.
    pub fn new(name: &str, unit: &str, meaning: &str) -> Self {
        let unit = if ["1", "-"].contains(&unit) { "" } else { unit };
        PageColumn { name: name.into(), unit: unit.into(), meaning: meaning.into() }
    }
}

impl PageTable {
    /// All of a finished table, as it stands in its file; columns in `without` are shown elsewhere.
    pub fn whole(cells: &Cells, caption: &str, catalogue: &Catalogue, without: &[&str]) -> Self {
        let kept: Vec<bool> = cells.header().iter().map(|h| !without.contains(&h.as_str())).collect();
        let declared = catalogue.columns(cells.header());
        let columns = cells.header().iter().zip(declared).zip(&kept).filter(|(_, kept)| **kept);
        let columns = columns.map(|((name, declared), _)| match declared {
            Some(c) => PageColumn::new(c.name, c.unit, c.meaning),
            None => PageColumn::new(name, "", ""),
        });
        let texts = |row: &[String]| row.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(c, _)| c.clone()).collect();
        PageTable {
            caption: caption.into(),
            columns: columns.collect(),
            rows: cells.rows().map(|row| texts(row.cells())).collect(),
        }
    }

    /// Without the columns in which no row says anything.
    pub fn without_empty(mut self) -> Self {
        let said: Vec<bool> =
            (0..self.columns.len()).map(|i| i == 0 || self.rows.iter().any(|row| !row[i].is_empty())).collect();
        let keep = |at: &mut usize| {
            *at += 1;
            said[*at - 1]
        };
        let mut at = 0;
        self.columns.retain(|_| keep(&mut at));
        for row in &mut self.rows {
            let mut at = 0;
            row.retain(|_| keep(&mut at));
        }
        self
    }

    /// The table, behind a line to click where it is of interest to few.
    pub fn folded(&self, summary: &str) -> Markup {
        let wide = self.columns.len() > WIDE;
        html! {
            details class=[wide.then_some("wide")] {
                summary { (summary) }
                (self.open())
            }
            @if wide { p.note.paper { "Paper has no room for the " (self.columns.len()) " columns of “" (summary) "”; the page has them." } }
        }
    }

    /// The table.
    pub fn open(&self) -> Markup {
        // Text stands left, numbers right.
        let is_text = |i: usize| {
            let number = |row: &Vec<String>| row[i].is_empty() || row[i].parse::<f64>().is_ok();
            i == 0 || !self.rows.iter().all(number)
        };
        let text: Vec<bool> = (0..self.columns.len()).map(is_text).collect();
        let class = |i: usize, cell: &str| match (text[i], cell.chars().count() > LONG) {
            (true, true) => Some("t long"),
            (true, false) => Some("t"),
            (false, _) => None,
        };
        html! {
            div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                table.data {
                    caption { (self.caption) }
                    thead { tr {
                        @for (column, text) in self.columns.iter().zip(&text) {
                            th scope="col" class=[text.then_some("t")] {
                                span.name { (column.name) }
                                @if !column.unit.is_empty() { small { (column.unit) } }
                            }
                        }
                    } }
                    tbody {
                        @for row in &self.rows { tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td class=[class(i, cell)] { (cell) } }
                            }
                        } }
                    }
                }
            }
            @if self.columns.iter().any(|c| !c.meaning.is_empty()) {
                details.meanings {
                    summary { "What the columns mean" }
                    dl.setting {
                        @for column in self.columns.iter().filter(|c| !c.meaning.is_empty()) {
                            dt { (column.name) } dd { (column.meaning) @if !column.unit.is_empty() { " (" (column.unit) ")" } }
                        }
                    }
                }
            }
        }
    }
}
