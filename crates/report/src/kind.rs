//! What a table is, told by its columns, so that one of another kind is refused by name.

use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use std::fmt;

/// A kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Runs.
    Run,
    /// Decode steps of runs.
    Steps,
    /// Phases of steps.
    Phases,
    /// Layers of steps.
    Layers,
    /// KV heads of runs.
    Heads,
    /// Channels of runs.
    Channels,
    /// Where traces come from.
    Origins,
    /// Points of a sweep.
    Sweep,
    /// What a selection keeps.
    Metrics,
}

impl TableKind {
    /// The kind of a table with these columns; none if it is no table that the programs write for reports.
    pub fn of(header: &[String]) -> Option<TableKind> {
        let has = |names: &[&str]| names.iter().all(|name| header.iter().any(|h| h == name));
        let signs: [(TableKind, &[&str]); 9] = [
            (TableKind::Sweep, &[columns::POINT, columns::KEY]),
            (TableKind::Metrics, &[columns::QUERY_HEAD, columns::MASS_RECALL]),
            (TableKind::Phases, &[columns::TRACE, columns::PHASE]),
            (TableKind::Layers, &[columns::TRACE, columns::STEP, columns::LAYER]),
            (TableKind::Steps, &[columns::TRACE, columns::STEP]),
            (TableKind::Heads, &[columns::TRACE, columns::KV_HEAD]),
            (TableKind::Channels, &[columns::TRACE, columns::CHANNEL]),
            (TableKind::Run, &[columns::TRACE, columns::CYCLES]),
            (TableKind::Origins, &[columns::TRACE, columns::SYSTEM]),
        ];
        signs.into_iter().find(|(_, names)| has(names)).map(|(kind, _)| kind)
    }

    /// Refuses a table of another kind. Columns of which only some are there are not judged here: what is missing is named when it is
    /// looked for.
    ///
    /// # Errors
    /// [`Error::Data`] that says which kind the table is, and which is wanted.
    pub fn expect(self, header: &[String], file: &str) -> Result<()> {
        if header.first().is_some_and(|first| first.starts_with("PTRACE")) {
            return Err(Error::data(file, format!("this is a trace; expected {self}")));
        }
        match TableKind::of(header) {
            Some(kind) if kind != self => Err(Error::data(file, format!("this is {kind}; expected {self}"))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableKind::Run => "a table of runs (run.csv of pimsim run)",
            TableKind::Steps => "a table of decode steps (steps.csv of pimsim run)",
            TableKind::Phases => "a table of phases (phases.csv of pimsim run)",
            TableKind::Layers => "a table of layers (layers.csv of pimsim run)",
            TableKind::Heads => "a table of KV heads (heads.csv of pimsim run)",
            TableKind::Channels => "a table of channels (channels.csv of pimsim run)",
            TableKind::Origins => "a table of traces (origins.csv of pimsim run)",
            TableKind::Sweep => "the table of a sweep (sweep.csv of pimsim sweep or try)",
            TableKind::Metrics => "accuracy metrics (tracegen run --metrics)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_another_kind_is_refused_by_name() {
        let header = |text: &str| text.split(',').map(String::from).collect::<Vec<_>>();
        let of = |text| TableKind::of(&header(text));
        assert_eq!(of("trace,system,device,step,position,cycles"), Some(TableKind::Steps));
        assert_eq!(of("point,workload,policy,key,cycles"), Some(TableKind::Sweep));
        assert_eq!(of("a,b"), None);
        assert!(TableKind::Run.expect(&header("a,b"), "x.csv").is_ok());
        let e = TableKind::Run.expect(&header("trace,step,cycles"), "s.csv").unwrap_err().to_string();
        assert_eq!(
            e,
            "s.csv: this is a table of decode steps (steps.csv of pimsim run); expected a table of runs (run.csv of pimsim run)"
        );
    }
}
