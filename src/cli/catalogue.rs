//! What the programs know of finished tables: the columns of all, and the policies that they name.

use pimattn_core::table::{Column, columns_of};
use pimattn_experiments::sweep::store;
use pimattn_experiments::tune::table as tune_table;
use pimattn_experiments::{end_to_end, sweep};
use pimattn_policies::select::{self, Policy, REGISTRY};
use pimattn_report::catalogue::{Catalogue, TableDoc};
use pimattn_report::page::PolicyFacts;

/// All tables that a program writes, with their columns.
pub fn catalogue() -> Catalogue {
    let doc = |title: String, columns: Vec<Column>| TableDoc { title, columns };
    let mut tables: Vec<TableDoc> =
        pimattn_stats::tables::documented().into_iter().map(|(file, columns)| doc(file.into(), columns)).collect();
    let point = [&[store::POINT, store::KEY][..], sweep::point::layout().columns()].concat();
    tables.push(doc("sweep.csv".into(), point));
    tables.push(doc("metrics of tracegen run".into(), pimattn_tracegen::generate::metrics_layout().columns().to_vec()));
    tables.push(doc("tune.csv".into(), tune_table::tuned().columns().to_vec()));
    tables.push(doc("runs.csv of pimsim tune".into(), tune_table::runs().columns().to_vec()));
    tables.push(doc("bars.csv of pimsim artifact".into(), columns_of(pimattn_starc::artifact::BARS)));
    tables.push(doc("steps.csv of pimsim artifact".into(), columns_of(pimattn_starc::artifact::STEPS)));
    tables.push(doc("pimsim audit --why".into(), columns_of(pimattn_audit::why::COLUMNS)));
    tables.push(doc("pimsim system".into(), end_to_end::table::services().columns().to_vec()));
    tables.push(doc("pimsim system --switches".into(), end_to_end::table::switches().columns().to_vec()));
    tables.push(doc("tracegen agree".into(), columns_of(pimattn_tracegen::agree::COLUMNS)));
    let reproduced = pimattn_starc::reproduce::columns::all().into_iter();
    tables.extend(reproduced.map(|(file, _, columns)| doc(format!("{file} of pimsim reproduce"), columns)));
    Catalogue::new(tables)
}

/// A policy with these parameters; with its own where they are not right, or not all of them are for it.
fn build(name: &str, parameters: &toml::Table) -> Option<Box<dyn Policy>> {
    let entry = select::find(name).ok()?;
    (entry.build)(parameters).or_else(|_| (entry.build)(&toml::Table::new())).ok()
}

/// What a page must know of a policy.
pub fn policy_facts(name: &str, parameters: &toml::Table) -> Option<PolicyFacts> {
    let policy = build(name, parameters)?;
    Some(PolicyFacts { heeds_budget: policy.heeds_budget(), period: policy.period() })
}

/// Policies that take no notice of the budget.
pub fn heedless() -> impl Iterator<Item = &'static str> {
    let heeds = |name: &str| build(name, &toml::Table::new()).is_none_or(|policy| policy.heeds_budget());
    REGISTRY.iter().map(|entry| entry.name).filter(move |name| !heeds(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is documented for people is what figures and pages take units from.
    #[test]
    fn every_documented_column_is_known_with_its_unit() {
        let catalogue = catalogue();
        let (mut title, mut header) = (String::new(), Vec::<String>::new());
        let mut checked = 0;
        let mut check = |title: &str, header: &mut Vec<String>| {
            let known = catalogue.columns(header);
            for (name, column) in header.drain(..).zip(known) {
                // A table of another title may declare the name with another unit.
                assert!(column.is_some(), "{title}: {name}");
                checked += 1;
            }
        };
        for line in super::super::tables_document().lines() {
            if line.starts_with('#') {
                check(&title, &mut header);
                title = line.trim_start_matches('#').trim().into();
            } else if let Some(cells) = line.strip_prefix("| ") {
                let name = cells.split(" | ").next().unwrap_or("");
                if name != "column" {
                    header.push(name.into());
                }
            }
        }
        check(&title, &mut header);
        assert!(checked > 400, "{checked}");
    }

    #[test]
    fn only_what_attends_to_all_is_a_baseline() {
        assert_eq!(heedless().collect::<Vec<_>>(), ["full"]);
        assert_eq!(policy_facts("starc", &toml::Table::new()).unwrap().period, 64);
        let own = "block = 32".parse().unwrap();
        assert_eq!(policy_facts("starc", &own).unwrap().period, 32);
        assert!(policy_facts("stark", &own).is_none());
    }
}
