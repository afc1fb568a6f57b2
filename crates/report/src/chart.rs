//! Figures of finished tables: columns become axes, and rows that share a cell a line or a group of bars.

use crate::catalogue::{Catalogue, without_unit};
use crate::plot::{Axis, Bar, BarGroup, Bars, Content, Figure, Lines, Panel, Scale, Series, quantity};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{Column, CsvReader, number};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// What a chart shows of a table.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Column to the right, or of groups of bars.
    pub x: String,
    /// Columns upwards: a panel each, or the parts of a bar. `A/B` is a column over another, as `time_ns/steps`.
    pub y: Vec<String>,
    /// Columns whose cells tell lines, or the bars of a group, apart.
    pub by: Vec<String>,
    /// Columns whose cells tell panels apart.
    pub panels: Vec<String>,
    /// Columns and the cell that rows must have to be shown.
    pub only: Vec<(String, String)>,
    /// Stacked bars, not lines.
    pub bars: bool,
    /// Scale to the right.
    pub x_scale: Scale,
    /// Scale upwards.
    pub y_scale: Scale,
    /// Title; without one, what is set against what.
    pub title: Option<String>,
    /// Panels side by side.
    pub columns: usize,
    /// Rows that have no place to the right. They become lines over the whole axis, or a group of bars ahead of the others;
    /// so do rows whose cell of `x` is empty.
    pub placeless: Vec<Placeless>,
    /// Units of columns.
    pub catalogue: Catalogue,
}

/// Rows that a column says nothing of.
#[derive(Debug, Clone)]
pub struct Placeless {
    /// The column that says nothing of them, such as the budget.
    pub x: String,
    /// The column and the cell that tell them, such as the policy and one that takes all tokens.
    pub told: (String, String),
}

/// Cells of a row, as far as the chart shows them.
struct ChartRow {
    line: u64,
    x: String,
    /// Whether `x` says nothing of it.
    placeless: bool,
    /// None where the cell is empty.
    y: Vec<Option<f64>>,
    by: Vec<String>,
    panel: Vec<String>,
}

/// A column upwards, or one over another.
struct Upward {
    column: usize,
    over: Option<usize>,
    label: String,
    unit: String,
}

/// The group of bars that have no place on the axis.
const ANY: &str = "any";

/// Rows by the cells that tell them apart, ordered cell by cell: numbers by their value where all cells of the place are numbers,
/// others as they come first.
fn grouped<'r>(
    rows: impl Iterator<Item = &'r ChartRow>,
    cells: impl Fn(&'r ChartRow) -> &'r [String],
) -> Vec<(&'r [String], Vec<&'r ChartRow>)> {
    let mut places: BTreeMap<&[String], usize> = BTreeMap::new();
    let mut groups: Vec<(&[String], Vec<&ChartRow>)> = Vec::new();
    for row in rows {
        let place = *places.entry(cells(row)).or_insert_with(|| {
            groups.push((cells(row), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(row);
    }
    let width = groups.first().map_or(0, |(cells, _)| cells.len());
    let ranks = |at: usize| -> Vec<f64> {
        let numbers: Option<Vec<f64>> = groups.iter().map(|(cells, _)| number(&cells[at]).ok()).collect();
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rank = |(i, (cells, _)): (usize, &(&'r [String], _))| *first.entry(&cells[at]).or_insert(i) as f64;
        numbers.unwrap_or_else(|| groups.iter().enumerate().map(&mut rank).collect())
    };
    let ranks: Vec<Vec<f64>> = (0..width).map(ranks).collect();
    let mut order: Vec<usize> = (0..groups.len()).collect();
    let by = |a: &usize, b: &usize| {
        ranks.iter().map(|r| r[*a].total_cmp(&r[*b])).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    };
    order.sort_by(by);
    order.into_iter().map(|i| (groups[i].0, std::mem::take(&mut groups[i].1))).collect()
}

impl Chart {
    /// Reads a table; `file` is for errors.
    ///
    /// # Errors
    /// When a column is not there, a cell that is drawn is not a number, rows cannot be told apart, or parts of a bar have
    /// different units.
    pub fn figure(&self, input: impl Read, file: &str) -> Result<Figure> {
        let mut table = CsvReader::open(input, file)?;
        let declared = self.catalogue.columns(table.header());
        let upward = self.y.iter().map(|y| upward(y, &table, &declared)).collect::<Result<Vec<_>>>()?;
        let x_axis = match declared[table.asked(&self.x)?] {
            Some(column) => Axis::new(without_unit(column.name, column.unit), self.x_scale).with_unit(column.unit),
            None => Axis::new(self.x.clone(), self.x_scale),
        };
        let rows = self.rows(&mut table, &upward)?;
        if rows.is_empty() {
            return Err(Error::data(file, "no row to show"));
        }
        let mut panels = Vec::new();
        for (panel, rows) in grouped(rows.iter(), |r| r.panel.as_slice()) {
            let panel = panel.join(" ");
            // An empty cell is a gap; where all are, there is nothing to draw.
            if let Some((_, y)) = self.y.iter().enumerate().find(|(i, _)| rows.iter().all(|r| r.y[*i].is_none())) {
                let place = if panel.is_empty() { String::new() } else { format!(" of {panel}") };
                return Err(Error::data(file, format!("no row{place} has a number in {y}")));
            }
            match self.bars {
                true => {
                    let bars = self.bars_of(&rows, &upward, file)?;
                    panels.push(Panel { title: panel, content: Content::Bars(bars) });
                }
                false => {
                    for (i, y) in self.y.iter().enumerate() {
                        let title = match self.y.len() {
                            1 => panel.clone(),
                            _ => format!("{panel} {y}").trim().to_string(),
                        };
                        let axes = (x_axis.clone(), upward[i].axis(self.y_scale));
                        let lines = self.lines_of(&rows, i, axes, file)?;
                        panels.push(Panel { title, content: Content::Lines(lines) });
                    }
                }
            }
        }
        let against = || format!("{} by {}", self.y.join(", "), self.x);
        let panel = match self.bars {
            true => (150.0 + 26.0 * rows.len() as f64 / panels.len() as f64, 380.0),
            false => (440.0, 330.0),
        };
        Ok(Figure {
            title: self.title.clone().unwrap_or_else(against),
            note: String::new(),
            names: Vec::new(),
            panels,
            columns: self.columns.max(1),
            panel,
        })
    }

    fn rows<R: Read>(&self, table: &mut CsvReader<R>, upward: &[Upward]) -> Result<Vec<ChartRow>> {
        let find = |name: &String| table.asked(name);
        let all = |names: &[String]| names.iter().map(find).collect::<Result<Vec<_>>>();
        let (x, by, panel) = (find(&self.x)?, all(&self.by)?, all(&self.panels)?);
        let only = self.only.iter().map(|(name, cell)| Ok((find(name)?, cell))).collect::<Result<Vec<_>>>()?;
        // Other tables have no such column, and none of these rows.
        let here = self.placeless.iter().filter(|p| p.x == self.x);
        let told = |p: &Placeless| Some((table.header().iter().position(|h| *h == p.told.0)?, p.told.1.clone()));
        let placeless: Vec<(usize, String)> = here.filter_map(told).collect();
        let mut rows = Vec::new();
        while let Some(row) = table.read()? {
            if only.iter().any(|(i, want)| row.cell(*i) != *want) {
                continue;
            }
            let texts = |of: &[usize]| of.iter().map(|i| row.cell(*i).to_string()).collect::<Vec<_>>();
            let value = |y: &Upward| {
                let (Some(x), Some(over)) = (row.known(y.column)?, y.over.map_or(Ok(Some(1.0)), |i| row.known(i))?)
                else {
                    return Ok(None);
                };
                match over == 0.0 {
                    true => Err(row.wrong(y.over.unwrap_or(y.column), "0 is nothing to divide by")),
                    false => Ok(Some(x / over)),
                }
            };
            rows.push(ChartRow {
                line: row.line(),
                x: row.cell(x).into(),
                placeless: row.cell(x).is_empty() || placeless.iter().any(|(i, cell)| row.cell(*i) == cell),
                y: upward.iter().map(value).collect::<Result<Vec<_>>>()?,
                by: texts(&by),
                panel: texts(&panel),
            });
        }
        self.place(&mut rows);
        Ok(rows)
    }

    /// Rows that say different things at different places have a place after all, unless it is empty; and where no other row
    /// has one, there is no axis to go over.
    fn place(&self, rows: &mut [ChartRow]) {
        let (mut differ, mut placed) = (vec![false; rows.len()], vec![false; rows.len()]);
        let at = |row: &ChartRow| (row.panel.clone(), row.by.clone());
        let places: Vec<_> = rows.iter().map(at).collect();
        let mut said: BTreeMap<_, (&[Option<f64>], bool)> = BTreeMap::new();
        let mut with_place: BTreeSet<&[String]> = BTreeSet::new();
        for (row, place) in rows.iter().zip(&places) {
            if row.placeless {
                let (first, differs) = said.entry(place).or_insert((&row.y, false));
                *differs |= *first != row.y;
            } else {
                with_place.insert(&row.panel);
            }
        }
        for (i, place) in places.iter().enumerate() {
            differ[i] = said.get(place).is_some_and(|(_, differs)| *differs);
            placed[i] = with_place.contains(place.0.as_slice());
        }
        for ((row, differ), placed) in rows.iter_mut().zip(differ).zip(placed) {
            row.placeless &= row.x.is_empty() || !differ && placed;
        }
    }

    /// Rows of the same place would make a line go back on itself, and a bar stand for another.
    fn twice(&self, a: &ChartRow, b: &ChartRow, file: &str) -> Error {
        let what =
            format!("same {} as line {}: tell them apart with --by or --panel, or choose with --where", self.x, a.line);
        Error::data(format!("{file}:{}", b.line), what)
    }

    fn lines_of(&self, rows: &[&ChartRow], y: usize, (x_axis, y_axis): (Axis, Axis), file: &str) -> Result<Lines> {
        let mut lines = Lines { x: x_axis, y: y_axis, ..Lines::default() };
        for (by, rows) in grouped(rows.iter().copied(), |r| r.by.as_slice()) {
            let (mut points, mut flat) = (Vec::new(), None);
            for row in rows {
                if row.placeless {
                    match flat {
                        Some(first) if row.x.is_empty() && row.y[y].is_some() => {
                            return Err(self.twice(first, row, file));
                        }
                        _ => flat = flat.or(Some(row)),
                    }
                    continue;
                }
                let wrong = |e| Error::data(format!("{file}:{}", row.line), format!("{}: {e}", self.x));
                points.push((number(&row.x).map_err(wrong)?, row));
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if let Some(pair) = points.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(self.twice(pair[0].1, pair[1].1, file));
            }
            let name = if by.is_empty() { self.y[y].clone() } else { by.join(" ") };
            lines.baselines.extend(flat.and_then(|row| Some((name.clone(), row.y[y]?))));
            let points: Vec<_> = points.iter().filter_map(|(x, row)| Some((*x, row.y[y]?))).collect();
            if !points.is_empty() {
                lines.series.push(Series { name, points, ..Series::default() });
            }
        }
        Ok(lines)
    }

    fn bars_of(&self, rows: &[&ChartRow], upward: &[Upward], file: &str) -> Result<Bars> {
        let placeless: Vec<&ChartRow> = rows.iter().copied().filter(|r| r.placeless).collect();
        let placed = rows.iter().copied().filter(|r| !r.placeless);
        let mut places = grouped(placed, |r| std::slice::from_ref(&r.x));
        // Those of any place stand ahead of the others.
        if !placeless.is_empty() {
            places.insert(0, (&[], placeless));
        }
        let every = grouped(rows.iter().copied(), |r| r.by.as_slice());
        let order: BTreeMap<&[String], usize> = every.iter().enumerate().map(|(i, (by, _))| (*by, i)).collect();
        let mut groups = Vec::new();
        for (place, here) in places {
            let mut group = BarGroup { label: place.first().map_or(ANY.into(), String::clone), bars: Vec::new() };
            let mut bars = grouped(here.into_iter(), |r| r.by.as_slice());
            bars.sort_by_key(|(by, _)| order[by]);
            for (by, same) in bars {
                let row = same[0];
                // Those without a place say the same.
                if let Some(other) = same[1..].iter().find(|other| !other.placeless || other.x.is_empty()) {
                    return Err(self.twice(row, other, file));
                }
                let parts = self.y.iter().cloned().zip(&row.y).filter_map(|(y, x)| Some((y, (*x)?))).collect();
                group.bars.push(Bar { label: by.join(" "), parts });
            }
            groups.push(group);
        }
        Ok(Bars { y: stacked(upward)?, groups })
    }
}

impl Upward {
    fn axis(&self, scale: Scale) -> Axis {
        Axis::new(self.label.clone(), scale).with_unit(self.unit.clone())
    }
}

/// The axis of one column, or of the sum of several, which have one unit.
fn stacked(parts: &[Upward]) -> Result<Axis> {
    if let [one] = parts {
        return Ok(one.axis(Scale::FromZero));
    }
    let unit = parts.first().map_or("", |p| p.unit.as_str());
    if let Some(other) = parts.iter().find(|p| p.unit != unit) {
        let units = [unit, &other.unit].map(|u| if u.is_empty() { "no declared unit" } else { u });
        let what = format!("--bars: parts in {} and in {} cannot be added ({})", units[0], units[1], other.label);
        return Err(Error::Usage(what));
    }
    let over =
        parts.first().and_then(|p| p.label.split_once(PER)).map_or(String::new(), |(_, of)| format!("{PER}{of}"));
    Ok(match unit {
        "" | "1" | "-" => Axis::new("sum of the parts", Scale::FromZero),
        unit => {
            let (of, _) = unit.split_once('/').unwrap_or((unit, ""));
            Axis::new(format!("{}{over}, sum of the parts", quantity(of)), Scale::FromZero).with_unit(unit)
        }
    })
}

const PER: &str = " per ";

/// A column of the table, or `A/B`, one over another.
fn upward<R: Read>(name: &str, table: &CsvReader<R>, declared: &[Option<Column>]) -> Result<Upward> {
    let of = |i: usize, name: &str| match declared[i] {
        Some(c) => (without_unit(name, c.unit), c.unit),
        None => (name.to_string(), ""),
    };
    match name.split_once('/') {
        Some((part, whole)) if !table.header().iter().any(|h| h == name) => {
            let (column, over) = (table.asked(part)?, table.asked(whole)?);
            let ((label, unit), (of_label, of_unit)) = (of(column, part), of(over, whole));
            let each = if whole == columns::STEPS { "step".into() } else { of_label };
            let unit = match of_unit {
                "" | "1" | "-" => unit.to_string(),
                other => format!("{unit}/{other}"),
            };
            Ok(Upward { column, over: Some(over), label: format!("{label}{PER}{each}"), unit })
        }
        _ => {
            let column = table.asked(name)?;
            let (label, unit) = of(column, name);
            Ok(Upward { column, over: None, label, unit: unit.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "policy,budget,recall,a_ms,b_ms\n\
        quest,256,0.5,1,2\nstarc,256,0.6,1,1\nquest,128,0.4,1,2\nstarc,128,0.5,1,x\n";

    fn chart(y: &[&str]) -> Chart {
        let names = |of: &[&str]| of.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        Chart { x: "budget".into(), y: names(y), by: names(&["policy"]), ..Chart::default() }
    }

    fn message(chart: &Chart) -> String {
        chart.figure(TABLE.as_bytes(), "t.csv").unwrap_err().to_string()
    }

    #[test]
    fn rows_become_lines_in_rising_order() {
        let figure = chart(&["recall"]).figure(TABLE.as_bytes(), "t.csv").unwrap();
        let Content::Lines(lines) = &figure.panels[0].content else { panic!("lines") };
        assert_eq!(lines.series[0].name, "quest");
        assert_eq!(lines.series[0].points, [(128.0, 0.4), (256.0, 0.5)]);
        assert_eq!(lines.series[1].points, [(128.0, 0.5), (256.0, 0.6)]);
    }

    #[test]
    fn rows_become_bars_of_parts_in_groups() {
        let mut c = chart(&["a_ms", "b_ms"]);
        (c.bars, c.only) = (true, vec![("budget".into(), "256".into())]);
        let figure = c.figure(TABLE.as_bytes(), "t.csv").unwrap();
        let Content::Bars(bars) = &figure.panels[0].content else { panic!("bars") };
        assert_eq!(bars.groups[0].bars[1].parts, [("a_ms".to_string(), 1.0), ("b_ms".to_string(), 1.0)]);
    }

    #[test]
    fn groups_and_bars_are_in_the_order_of_their_numbers() {
        let table = "policy,size,budget,ms\nq,16,1024,1\nq,4,1024,2\nq,16,256,3\nq,4,256,4\n";
        let mut c = chart(&["ms"]);
        (c.bars, c.by) = (true, vec!["policy".into(), "size".into()]);
        let figure = c.figure(table.as_bytes(), "t.csv").unwrap();
        let Content::Bars(bars) = &figure.panels[0].content else { panic!("bars") };
        assert_eq!(bars.groups.iter().map(|g| g.label.as_str()).collect::<Vec<_>>(), ["256", "1024"]);
        assert_eq!(bars.groups[0].bars.iter().map(|b| b.label.as_str()).collect::<Vec<_>>(), ["q 4", "q 16"]);
    }

    #[test]
    fn what_has_no_budget_is_a_line_over_the_whole_axis_or_a_group_ahead() {
        let full = |recall| format!("{}full,512,{recall},9,9\n", TABLE.replace(",x", ",1"));
        let told = ("policy".to_string(), "full".to_string());
        let mut c = chart(&["recall"]);
        c.placeless = vec![Placeless { x: "budget".into(), told }];
        let draw = |c: &Chart, table: &str| c.figure(table.as_bytes(), "t.csv").unwrap();
        let figure = draw(&c, &full("1"));
        let Content::Lines(lines) = &figure.panels[0].content else { panic!("lines") };
        assert_eq!((lines.series.len(), &lines.baselines), (2, &vec![("full".to_string(), 1.0)]));
        // An empty cell says the same without being told; two of them cannot be told apart.
        let empty = full("1").replace("full,512", "full,");
        let Content::Lines(lines) = &draw(&chart(&["recall"]), &empty).panels[0].content else { panic!("lines") };
        assert_eq!(lines.baselines, [("full".to_string(), 1.0)]);
        let e = chart(&["recall"]).figure(format!("{empty}full,,2,9,9\n").as_bytes(), "t.csv").unwrap_err();
        assert!(e.to_string().starts_with("t.csv:7: same budget as line 6"), "{e}");
        // Values that differ from place to place have one.
        let Content::Lines(lines) = &draw(&c, &format!("{}full,128,0.9,9,9\n", full("1"))).panels[0].content else {
            panic!("lines")
        };
        assert_eq!((lines.series.len(), lines.baselines.len()), (3, 0));
        // Alone it has nothing to be a line over.
        c.only = vec![("policy".into(), "full".into())];
        let Content::Lines(lines) = &draw(&c, &full("1")).panels[0].content else { panic!("lines") };
        assert_eq!(lines.series[0].points, [(512.0, 1.0)]);
        (c.only, c.bars) = (vec![], true);
        let Content::Bars(bars) = &draw(&c, &full("1")).panels[0].content else { panic!("bars") };
        assert_eq!(bars.groups.iter().map(|g| g.label.as_str()).collect::<Vec<_>>(), ["any", "128", "256"]);
    }

    #[test]
    fn axes_are_named_after_what_is_declared_and_columns_can_be_taken_over_others() {
        use crate::catalogue::TableDoc;
        use pimattn_core::table::column;
        let columns = vec![
            column("time_ns", "ns", "time"),
            column("a_ns", "ns", "part"),
            column("budget", "tokens", "size"),
            column("steps", "1", "steps"),
            column("a_pj", "pJ", "part"),
        ];
        let table = "policy,budget,steps,time_ns,a_ns,a_pj\nq,1,4,8000,2,1\nq,2,2,8000,2,1\n";
        let mut c = chart(&["time_ns/steps"]);
        c.catalogue = Catalogue::new(vec![TableDoc { title: "t".into(), columns }]);
        let figure = c.figure(table.as_bytes(), "t.csv").unwrap();
        let Content::Lines(lines) = &figure.panels[0].content else { panic!("lines") };
        assert_eq!((lines.y.label.as_str(), lines.y.unit.as_str()), ("time per step", "ns"));
        assert_eq!((lines.x.label.as_str(), lines.x.unit.as_str()), ("budget", "tokens"));
        assert_eq!(lines.series[0].points, [(1.0, 2000.0), (2.0, 4000.0)]);
        assert!(figure.svg().unwrap().contains("time per step (µs)"));
        (c.bars, c.y) = (true, vec!["time_ns/steps".into(), "a_ns/steps".into()]);
        let figure = c.figure(table.as_bytes(), "t.csv").unwrap();
        let Content::Bars(bars) = &figure.panels[0].content else { panic!("bars") };
        assert_eq!((bars.y.label.as_str(), bars.y.unit.as_str()), ("time per step, sum of the parts", "ns"));
        c.y.push("a_pj/steps".into());
        let e = c.figure(table.as_bytes(), "t.csv").unwrap_err().to_string();
        assert!(e.contains("parts in ns and in pJ cannot be added"), "{e}");
        c.y = vec!["time_ns/step".into()];
        assert!(c.figure(table.as_bytes(), "t.csv").unwrap_err().to_string().contains("did you mean \"steps\""));
        c.y = vec!["time_ns/steps".into()];
        let none = table.replace(",4,", ",0,");
        let e = c.figure(none.as_bytes(), "t.csv").unwrap_err().to_string();
        assert_eq!(e, "t.csv:2: steps: 0 is nothing to divide by");
    }

    #[test]
    fn an_empty_cell_is_a_gap() {
        let some = TABLE.replace("starc,256,0.6", "starc,256,").replace(",1,x", ",1,");
        let draw = |c: &Chart, table: &str| c.figure(table.as_bytes(), "t.csv");
        let figure = draw(&chart(&["recall"]), &some).unwrap();
        let Content::Lines(lines) = &figure.panels[0].content else { panic!("lines") };
        assert_eq!(lines.series[1].points, [(128.0, 0.5)]);
        let mut bars = chart(&["a_ms", "b_ms"]);
        bars.bars = true;
        let figure = draw(&bars, &some).unwrap();
        let Content::Bars(bars) = &figure.panels[0].content else { panic!("bars") };
        assert_eq!(bars.groups[0].bars[1].parts, [("a_ms".to_string(), 1.0)]);
        let none = ["0.5", "0.6", "0.4"].iter().fold(TABLE.to_string(), |t, x| t.replace(x, ""));
        let e = draw(&chart(&["recall"]), &none).unwrap_err().to_string();
        assert_eq!(e, "t.csv: no row has a number in recall");
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        assert!(message(&chart(&["recal"])).contains("did you mean \"recall\""));
        assert_eq!(message(&chart(&["b_ms"])), "t.csv:5: b_ms: \"x\" is not a number");
        let mut c = chart(&["recall"]);
        c.by.clear();
        assert!(message(&c).starts_with("t.csv:5: same budget as line 4"), "{}", message(&c));
        c.bars = true;
        assert!(message(&c).starts_with("t.csv:5: same budget as line 4"));
        c.only = vec![("policy".into(), "none".into())];
        assert!(message(&c).contains("no row"));
    }
}
