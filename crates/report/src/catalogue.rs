//! What columns mean: declarations of tables, looked up by the header of a finished one.
//!
//! Tables are declared where they are made; this crate reads them finished, and a caller who knows the declarations hands them in.

use pimattn_core::table::Column;

/// A declared table.
#[derive(Debug, Clone)]
pub struct TableDoc {
    /// Where it is described: its heading in the list of tables.
    pub title: String,
    /// Its columns; a table may have others beside them, such as the axes of a sweep.
    pub columns: Vec<Column>,
}

/// Declared tables.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tables: Vec<TableDoc>,
}

impl Catalogue {
    /// Of these tables.
    pub fn new(tables: Vec<TableDoc>) -> Self {
        Catalogue { tables }
    }

    /// The declared table that a header is of: the one that has most of its columns, the first of several. None where no table
    /// has any.
    pub fn table(&self, header: &[String]) -> Option<&TableDoc> {
        let shared = |t: &TableDoc| t.columns.iter().filter(|c| header.iter().any(|h| h == c.name)).count();
        let most = self.tables.iter().map(shared).max().filter(|n| *n > 0)?;
        self.tables.iter().find(|t| shared(t) == most)
    }

    /// Declarations of a header's columns, where they are declared. What its table does not declare, as the axes of a sweep, is
    /// what the others agree on.
    pub fn columns(&self, header: &[String]) -> Vec<Option<Column>> {
        let table = self.table(header);
        let own = |name: &String| table?.columns.iter().find(|c| c.name == name.as_str()).copied();
        let agreed = |name: &String| {
            let mut all = self.tables.iter().flat_map(|t| &t.columns).filter(|c| c.name == name.as_str());
            let first = all.next()?;
            all.all(|other| other.unit == first.unit).then_some(*first)
        };
        header.iter().map(|name| own(name).or_else(|| agreed(name))).collect()
    }
}

/// A column's name without its unit, for an axis that says the unit itself: "time" of `time_ns`, "step_median" of
/// `step_ns_median`. A name that is only the unit stays.
pub fn without_unit(name: &str, unit: &str) -> String {
    let unit = unit.to_lowercase();
    let rest: Vec<&str> = name.split('_').filter(|part| *part != unit).collect();
    if rest.is_empty() { name.into() } else { rest.join("_") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::table::column;

    #[test]
    fn a_header_finds_the_table_that_has_most_of_its_columns() {
        let doc = |title: &str, columns| TableDoc { title: title.into(), columns };
        let catalogue = Catalogue::new(vec![
            doc("a", vec![column("steps", "1", "steps"), column("cycles", "cycles", "of a")]),
            doc(
                "b",
                vec![column("steps", "1", "steps"), column("cycles", "tCK", "of b"), column("time_ns", "ns", "time")],
            ),
        ]);
        let header = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let units =
            |names| catalogue.columns(&header(names)).into_iter().map(|c| c.map(|c| c.unit)).collect::<Vec<_>>();
        assert_eq!(units(&["x", "cycles", "time_ns"]), [None, Some("tCK"), Some("ns")]);
        assert_eq!(units(&["cycles", "steps"]), [Some("cycles"), Some("1")]);
        assert_eq!(units(&["x"]), [None]);
        // Of a column that the table does not declare, the others must agree.
        assert_eq!(units(&["time_ns", "cycles"]), [Some("ns"), Some("tCK")]);
        let more = doc("c", vec![column("a", "J", ""), column("b", "J", ""), column("budget", "tokens", "")]);
        let other = doc("d", vec![column("cycles", "s", "")]);
        let catalogue = Catalogue::new([catalogue.tables, vec![more, other]].concat());
        let units: Vec<_> = catalogue
            .columns(&header(&["a", "b", "budget", "steps", "cycles"]))
            .iter()
            .map(|c| c.map(|c| c.unit))
            .collect();
        assert_eq!(units, [Some("J"), Some("J"), Some("tokens"), Some("1"), None]);
    }

    #[test]
    fn names_lose_their_unit() {
        let cases = [("time_ns", "ns", "time"), ("step_ns_median", "ns", "step_median"), ("energy_pj", "pJ", "energy")];
        assert!(cases.iter().all(|(name, unit, want)| without_unit(name, unit) == *want));
        assert_eq!(without_unit("ns", "ns"), "ns");
    }
}
