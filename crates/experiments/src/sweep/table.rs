//! The table of a sweep whose points are done, read back as numbers: this is where kept results come in as text.

use super::point::PHASES;
use super::store::POINT;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{number, place};
use pimattn_stats::books::PARTS;
use pimattn_stats::energy::Energy;

/// The finished points of a sweep, as the table of its folder has them.
pub struct SweepTable {
    file: String,
    heading: Vec<String>,
    rows: Vec<SweepRow>,
}

/// A point: its axes, and what was found. Numbers are those of the table, rounded as there.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepRow {
    /// File and line.
    at: String,
    axes: Vec<String>,
    /// Decode steps.
    pub steps: f64,
    /// Cycles of the run.
    pub cycles: f64,
    /// Time in ns.
    pub ns: f64,
    /// Energy in pJ.
    pub pj: f64,
    /// Its parts in pJ.
    pub energy: Energy,
    /// Rows opened, one per bank.
    pub activations: f64,
    /// Time (ns) and energy (pJ) by phase, and of waiting.
    pub phases: [(f64, f64); PARTS],
    /// Time of a step in ns: the median, and the longest; none without steps.
    pub step_ns: [Option<f64>; 2],
    /// Tokens selected by a query head, mean.
    pub selected: Option<f64>,
    /// Row tokens of the metrics, mean.
    pub row_tokens: Option<f64>,
    /// Softmax mass of the selected, mean.
    pub mass_recall: Option<f64>,
    /// Share of the best tokens, mean.
    pub top_recall: Option<f64>,
    /// Relative error of the output, mean.
    pub output_rel_err: Option<f64>,
    /// Row-blocks of the fullest unit over the mean.
    pub imbalance_units: Option<f64>,
}

impl SweepRow {
    /// Reads a result: its axes, and its cells below the names of their columns.
    pub(crate) fn read(at: String, axes: Vec<String>, names: &[String], cells: &[String]) -> Result<SweepRow> {
        let cell = |name: &str| Ok::<_, Error>(cells.get(place(names, &at, name)?).map_or("", String::as_str));
        let wrong = |name: &str, e: String| Error::data(&at, format!("{name}: {e}"));
        let of = |name: &str| number(cell(name)?).map_err(|e| wrong(name, e));
        let known = |name: &str| pimattn_core::table::known(cell(name)?).map_err(|e| wrong(name, e));
        let mut phases = [(0.0, 0.0); PARTS];
        for (sums, [ns, pj]) in phases.iter_mut().zip(PHASES) {
            *sums = (of(ns.name)?, of(pj.name)?);
        }
        Ok(SweepRow {
            steps: of(columns::STEPS)?,
            cycles: of(columns::CYCLES)?,
            ns: of(columns::TIME_NS)?,
            pj: of(columns::ENERGY_PJ)?,
            energy: Energy {
                activation: of(columns::ENERGY_ACTIVATION_PJ)?,
                column: of(columns::ENERGY_COLUMN_PJ)?,
                movement: of(columns::ENERGY_MOVEMENT_PJ)?,
                compute: of(columns::ENERGY_COMPUTE_PJ)?,
                refresh: of(columns::ENERGY_REFRESH_PJ)?,
                background: of(columns::ENERGY_BACKGROUND_PJ)?,
            },
            activations: of(columns::ACTIVATIONS)?,
            phases,
            step_ns: [known(columns::STEP_NS_MEDIAN)?, known(columns::STEP_NS_WORST)?],
            selected: known(columns::SELECTED)?,
            row_tokens: known(columns::METRIC_ROW_TOKENS)?,
            mass_recall: known(columns::MASS_RECALL)?,
            top_recall: known(columns::TOP_RECALL)?,
            output_rel_err: known(columns::OUTPUT_REL_ERR)?,
            imbalance_units: known(columns::IMBALANCE_UNITS)?,
            at,
            axes,
        })
    }

    /// A number that has to be there; `column` is for the error.
    pub fn needs(&self, column: &str, value: Option<f64>) -> Result<f64> {
        value.ok_or_else(|| Error::data(&self.at, format!("{column}: \"\" is not a number")))
    }
}

impl SweepTable {
    /// A table in `file` with this heading, without rows yet.
    pub(super) fn new(file: String, heading: &[String]) -> Self {
        SweepTable { file, heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds the row of a point: its axes, and its cells below the names of their columns.
    pub(super) fn push(&mut self, axes: Vec<String>, names: &[String], cells: &[String]) -> Result<()> {
        // The header is line 1.
        let at = format!("{}:{}", self.file, self.rows.len() + 2);
        self.rows.push(SweepRow::read(at, axes, names, cells)?);
        Ok(())
    }

    /// The points, in the order of the grid.
    pub fn rows(&self) -> &[SweepRow] {
        &self.rows
    }

    fn place(&self, axis: &str) -> Result<usize> {
        let behind_point = |at: usize| at - usize::from(self.heading.first().is_some_and(|c| c == POINT.name));
        place(&self.heading, &self.file, axis).map(behind_point)
    }

    /// Whether the grid has an axis.
    pub fn has_axis(&self, axis: &str) -> bool {
        self.heading.iter().any(|name| name == axis)
    }

    /// The value of a row's axis.
    pub fn axis<'r>(&self, row: &'r SweepRow, axis: &str) -> Result<&'r str> {
        Ok(row.axes.get(self.place(axis)?).map_or("", String::as_str))
    }

    /// The value of a row's axis as a number.
    pub fn number(&self, row: &SweepRow, axis: &str) -> Result<f64> {
        number(self.axis(row, axis)?).map_err(|e| Error::data(&row.at, format!("{axis}: {e}")))
    }

    /// Different values of an axis, in the order in which they come.
    pub fn distinct(&self, axis: &str) -> Result<Vec<&str>> {
        let mut out: Vec<&str> = Vec::new();
        self.place(axis)?;
        for row in &self.rows {
            let value = self.axis(row, axis)?;
            if !out.contains(&value) {
                out.push(value);
            }
        }
        Ok(out)
    }

    /// Rows whose axes have these values.
    pub fn find(&self, wanted: &[(&str, &str)]) -> Result<Vec<&SweepRow>> {
        let wanted = wanted.iter().map(|(axis, value)| Ok((self.place(axis)?, *value))).collect::<Result<Vec<_>>>()?;
        let fits = |row: &&SweepRow| wanted.iter().all(|(i, value)| row.axes.get(*i).is_some_and(|a| a == value));
        Ok(self.rows.iter().filter(fits).collect())
    }

    /// The one row whose axes have these values.
    pub fn the(&self, wanted: &[(&str, &str)]) -> Result<&SweepRow> {
        match self.find(wanted)?.as_slice() {
            [row] => Ok(row),
            found => {
                let said: Vec<String> = wanted.iter().map(|(c, v)| format!("{c}={v}")).collect();
                Err(Error::data(&self.file, format!("{} rows with {}, one is expected", found.len(), said.join(" "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::point;
    use super::*;

    /// A table of two points, whose cells are 1, 2, 3... in the order of the columns; the second has no error.
    fn table() -> SweepTable {
        let names: Vec<String> = point::layout().columns().iter().map(|c| c.name.to_string()).collect();
        let heading: Vec<String> =
            ["point", "policy", "budget", "key"].into_iter().map(String::from).chain(names.iter().cloned()).collect();
        let mut cells: Vec<String> = (1..=names.len()).map(|n| n.to_string()).collect();
        let mut table = SweepTable::new("s.csv".into(), &heading);
        table.push(vec!["starc".into(), "64".into()], &names, &cells).unwrap();
        cells[place(&names, "", columns::OUTPUT_REL_ERR).unwrap()].clear();
        table.push(vec!["quest".into(), "64".into()], &names, &cells).unwrap();
        table
    }

    #[test]
    fn numbers_are_those_below_their_names() {
        let table = table();
        let row = table.the(&[("policy", "starc")]).unwrap();
        let at = |name: &str| point::layout().columns().iter().position(|c| c.name == name).unwrap() as f64 + 1.0;
        assert_eq!((row.steps, row.ns, row.pj), (at("steps"), at("time_ns"), at("energy_pj")));
        assert_eq!((row.cycles, row.activations), (at("cycles"), at("activations")));
        assert_eq!(row.energy.background, at("energy_background_pj"));
        assert_eq!((row.top_recall, row.row_tokens), (Some(at("top_recall")), Some(at("metric_row_tokens"))));
        assert_eq!(row.phases[4], (at("select_ns"), at("select_pj")));
        assert_eq!(row.phases[PARTS - 1], (at("waiting_ns"), at("waiting_pj")));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let table = table();
        let row = table.the(&[("policy", "quest")]).unwrap();
        let e = row.needs("output_rel_err", row.output_rel_err).unwrap_err();
        assert_eq!(e.to_string(), "s.csv:3: output_rel_err: \"\" is not a number");
        assert_eq!(table.distinct("policy").unwrap(), ["starc", "quest"]);
        let message = |wanted: &[(&str, &str)]| table.the(wanted).unwrap_err().to_string();
        assert_eq!(message(&[("budget", "64")]), "s.csv: 2 rows with budget=64, one is expected");
        assert_eq!(message(&[("polcy", "starc")]), "s.csv: no column \"polcy\"; did you mean \"policy\"?");
    }
}
