//! Figures of finished tables: columns become axes, and rows that share a cell a line or a group of bars.

use crate::plot::{Axis, Bar, BarGroup, Bars, Content, Figure, Lines, Panel, Scale, Series};
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{CsvReader, number};
use std::io::Read;

/// What a chart shows of a table.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Column to the right, or of groups of bars.
    pub x: String,
    /// Columns upwards: a panel each, or the parts of a bar.
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
}

/// Cells of a row, as far as the chart shows them.
struct ChartRow {
    line: u64,
    x: String,
    /// None where the cell is empty.
    y: Vec<Option<f64>>,
    by: String,
    panel: String,
}

/// Values in the order in which they come first.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::new();
    for x in all {
        if !out.contains(&x) {
            out.push(x);
        }
    }
    out
}

impl Chart {
    /// Reads a table; `file` is for errors.
    ///
    /// # Errors
    /// When a column is not there, a cell that is drawn is not a number, or rows cannot be told apart.
    pub fn figure(&self, input: impl Read, file: &str) -> Result<Figure> {
        let rows = self.rows(input, file)?;
        if rows.is_empty() {
            return Err(Error::data(file, "no row to show"));
        }
        let mut panels = Vec::new();
        for panel in distinct(rows.iter().map(|r| r.panel.as_str())) {
            let rows: Vec<&ChartRow> = rows.iter().filter(|r| r.panel == panel).collect();
            // An empty cell is a gap; where all are, there is nothing to draw.
            if let Some((_, y)) = self.y.iter().enumerate().find(|(i, _)| rows.iter().all(|r| r.y[*i].is_none())) {
                let place = if panel.is_empty() { String::new() } else { format!(" of {panel}") };
                return Err(Error::data(file, format!("no row{place} has a number in {y}")));
            }
            match self.bars {
                true => panels.push(Panel { title: panel.into(), content: Content::Bars(self.bars_of(&rows, file)?) }),
                false => {
                    for (i, y) in self.y.iter().enumerate() {
                        let title = match self.y.len() {
                            1 => panel.to_string(),
                            _ => format!("{panel} {y}").trim().to_string(),
                        };
                        panels.push(Panel { title, content: Content::Lines(self.lines_of(&rows, i, file)?) });
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

    fn rows(&self, input: impl Read, file: &str) -> Result<Vec<ChartRow>> {
        let mut table = CsvReader::open(input, file)?;
        let find = |name: &String| table.column(name);
        let all = |names: &[String]| names.iter().map(find).collect::<Result<Vec<_>>>();
        let (x, y, by, panel) = (find(&self.x)?, all(&self.y)?, all(&self.by)?, all(&self.panels)?);
        let only = self.only.iter().map(|(name, cell)| Ok((find(name)?, cell))).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::new();
        while let Some(row) = table.read()? {
            if only.iter().any(|(i, want)| row.cell(*i) != *want) {
                continue;
            }
            let joined = |of: &[usize]| of.iter().map(|i| row.cell(*i)).collect::<Vec<_>>().join(" ");
            let y = y.iter().map(|i| row.known(*i)).collect::<Result<Vec<_>>>()?;
            rows.push(ChartRow { line: row.line(), x: row.cell(x).into(), y, by: joined(&by), panel: joined(&panel) });
        }
        Ok(rows)
    }

    /// Rows of the same place would make a line go back on itself, and a bar stand for another.
    fn twice(&self, a: &ChartRow, b: &ChartRow, file: &str) -> Error {
        let what =
            format!("same {} as line {}: tell them apart with --by or --panel, or choose with --where", self.x, a.line);
        Error::data(format!("{file}:{}", b.line), what)
    }

    fn lines_of(&self, rows: &[&ChartRow], y: usize, file: &str) -> Result<Lines> {
        let mut series = Vec::new();
        for name in distinct(rows.iter().map(|r| r.by.as_str())) {
            let mut points = Vec::new();
            for row in rows.iter().filter(|r| r.by == name) {
                let wrong = |e| Error::data(format!("{file}:{}", row.line), format!("{}: {e}", self.x));
                points.push((number(&row.x).map_err(wrong)?, row));
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if let Some(pair) = points.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(self.twice(pair[0].1, pair[1].1, file));
            }
            let name = if name.is_empty() { self.y[y].clone() } else { name.into() };
            let points: Vec<_> = points.iter().filter_map(|(x, row)| Some((*x, row.y[y]?))).collect();
            if !points.is_empty() {
                series.push(Series { name, points });
            }
        }
        let y = Axis::new(self.y[y].clone(), self.y_scale);
        Ok(Lines { x: Axis::new(self.x.clone(), self.x_scale), y, series })
    }

    fn bars_of(&self, rows: &[&ChartRow], file: &str) -> Result<Bars> {
        let mut groups = Vec::new();
        for label in distinct(rows.iter().map(|r| r.x.as_str())) {
            let rows: Vec<&&ChartRow> = rows.iter().filter(|r| r.x == label).collect();
            for (i, row) in rows.iter().enumerate() {
                if let Some(other) = rows[..i].iter().find(|other| other.by == row.by) {
                    return Err(self.twice(other, row, file));
                }
            }
            let parts =
                |row: &ChartRow| self.y.iter().cloned().zip(&row.y).filter_map(|(y, x)| Some((y, (*x)?))).collect();
            let bars = rows.iter().map(|row| Bar { label: row.by.clone(), parts: parts(row) }).collect();
            groups.push(BarGroup { label: label.into(), bars });
        }
        let y = if self.y.len() == 1 { self.y[0].clone() } else { String::from("sum of the parts") };
        Ok(Bars { y: Axis::new(y, Scale::FromZero), groups })
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
        assert_eq!(bars.groups[1].bars[1].parts, [("a_ms".to_string(), 1.0)]);
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
        assert!(message(&c).starts_with("t.csv:3: same budget as line 2"));
        c.only = vec![("policy".into(), "none".into())];
        assert!(message(&c).contains("no row"));
    }
}
