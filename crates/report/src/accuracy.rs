//! What policies keep, by layer and query head, and where recall and the error of the output disagree on which policy is
//! better: the means of metrics tables over steps (and requests, and what is not asked for).

use super::identity::ResultIdentity;
use super::kind::TableKind;
use super::sheet::{MetricMeans, SelectionMetric, Style, each_of_some, layout};
use pimattn_core::columns;
use pimattn_core::error::Result;
use std::collections::BTreeMap;
use std::io::Read;

/// What a row of the table stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// A policy.
    Policy,
    /// A policy in a layer.
    Layer,
    /// A policy in a query head of a layer.
    Head,
}

/// Budget, layer, query head, as far as they are asked for.
type AccuracyKey = (u64, Option<u64>, Option<u64>);

/// Means of metrics tables.
pub struct AccuracyTable {
    by: Grouping,
    /// In the order of their first rows.
    policies: Vec<String>,
    /// What was read so far, and in which file first.
    read: Vec<(ResultIdentity, String)>,
    means: BTreeMap<(AccuracyKey, usize), MetricMeans>,
}

impl AccuracyTable {
    /// Nothing read yet.
    pub fn new(by: Grouping) -> Self {
        AccuracyTable { by, policies: Vec::new(), read: Vec::new(), means: BTreeMap::new() }
    }

    /// Adds the rows of a metrics table; those of dense layers say nothing about a policy and are left out.
    pub fn add(&mut self, input: impl Read, file: &str) -> Result<()> {
        let [selected, row_tokens, mass, top, error] = SelectionMetric::COLUMNS;
        let keys = [columns::POLICY, columns::BUDGET, columns::LAYER, columns::QUERY_HEAD, columns::DENSE];
        let [policy, budget, layer, head, dense] = keys;
        let [_, _, cache, selection] = ResultIdentity::COLUMNS;
        let names = [policy, budget, cache, selection, layer, head, dense, selected, row_tokens, mass, top, error];
        let (by, policies, means, read) = (self.by, &mut self.policies, &mut self.means, &mut self.read);
        each_of_some(
            input,
            file,
            TableKind::Metrics,
            names,
            |[name, budget, cache, selection, layer, head, dense, selected, row_tokens, mass, top, error]| {
                let identity = ResultIdentity::of([name, budget, cache, selection]);
                let identity = identity.ok_or("the row does not say which policy selected of which cache")?;
                // A table is of one selection, so that the last is the one that most rows have.
                if read.last().is_none_or(|(last, of)| *last != identity || of != file) {
                    let same =
                        |other: &ResultIdentity| (&other.policy, &other.budget) == (&identity.policy, &identity.budget);
                    let clash = read.iter().find(|(other, _)| other.cache != identity.cache || same(other));
                    if let Some((other, of)) = clash {
                        let why = identity.differs_from(other).unwrap_or_else(|| "the same selection again".into());
                        return Err(format!("does not belong with {of}: {why}"));
                    }
                    read.push((identity, file.to_string()));
                }
                let count = |cell: &str| cell.parse::<u64>().map_err(|_| format!("\"{cell}\" is not a count"));
                if count(dense)? == 1 {
                    return Ok(());
                }
                let policy = policies.iter().position(|p| *p == name).unwrap_or_else(|| {
                    policies.push(name.to_string());
                    policies.len() - 1
                });
                let layer = (by != Grouping::Policy).then(|| count(layer)).transpose()?;
                let head = (by == Grouping::Head).then(|| count(head)).transpose()?;
                let entry = means.entry(((count(budget)?, layer, head), policy)).or_default();
                entry.add([selected, row_tokens, mass, top, error])
            },
        )
    }

    /// Policies at the same place that select fewer of the best tokens than this one, and yet have a smaller error.
    fn better_with_less(&self, place: AccuracyKey, policy: usize) -> Vec<&str> {
        let of = |p: usize| self.means.get(&(place, p));
        let Some(own) = of(policy) else { return Vec::new() };
        let below = |m: &MetricMeans, of: SelectionMetric| m.of(of).zip(own.of(of)).is_some_and(|(m, own)| m < own);
        let less = |m: &MetricMeans| below(m, SelectionMetric::TopRecall) && below(m, SelectionMetric::OutputRelErr);
        let others = self.policies.iter().enumerate().filter(|(p, _)| of(*p).is_some_and(less));
        others.map(|(_, name)| name.as_str()).collect()
    }

    /// The table as text.
    pub fn render(&self, style: Style) -> String {
        let places: &[&str] = match self.by {
            Grouping::Policy => &["budget", "policy"],
            Grouping::Layer => &["budget", "layer", "policy"],
            Grouping::Head => &["budget", "layer", "query head", "policy"],
        };
        let measures = SelectionMetric::COLUMNS.into_iter().chain(["less recall, less error"]);
        let heading = places.iter().copied().chain(measures).map(String::from).collect();
        let row = |((place, policy), means): (&(AccuracyKey, usize), &MetricMeans)| {
            let (budget, layer, head) = place;
            let numbers = [Some(*budget), *layer, *head].into_iter().flatten().map(|n| n.to_string());
            let names = std::iter::once(self.policies[*policy].clone());
            let against = self.better_with_less(*place, *policy).join(" ");
            numbers.chain(names).chain(means.cells()).chain([against]).collect()
        };
        layout(&std::iter::once(heading).chain(self.means.iter().map(row)).collect::<Vec<_>>(), style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "policy,budget,cache_hash,selection_hash,layer,query_head,dense,selected,metric_row_tokens,mass_recall,top_recall,output_rel_err";

    fn table(by: Grouping) -> String {
        let mut table = AccuracyTable::new(by);
        let starc = "starc,8,c0,starc,2,0,0,8,16,0.9,0.5,0.3\nstarc,8,c0,starc,2,1,0,8,32,0.7,0.7,0.1\nstarc,8,c0,starc,0,0,1,99,99,1,1,0\n";
        table.add(format!("{HEADING}\n{starc}").as_bytes(), "s.csv").unwrap();
        let quest = "quest,8,c0,quest,2,0,0,8,8,0.8,0.4,0.2\nquest,8,c0,quest,2,1,0,8,8,0.8,0.4,0.4\n";
        table.add(format!("{HEADING}\n{quest}").as_bytes(), "q.csv").unwrap();
        table.render(Style::Csv)
    }

    #[test]
    fn means_are_of_sparse_layers_and_name_who_errs_less_with_less() {
        let text = table(Grouping::Head);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "8,2,0,starc,8.0,16.0,0.9000,0.5000,0.3000,quest");
        assert_eq!(lines[2], "8,2,0,quest,8.0,8.0,0.8000,0.4000,0.2000,");
        assert_eq!(lines[3], "8,2,1,starc,8.0,32.0,0.7000,0.7000,0.1000,");
        assert_eq!(lines.len(), 5);
        let text = table(Grouping::Policy);
        assert_eq!(text.lines().nth(1), Some("8,starc,8.0,24.0,0.8000,0.6000,0.2000,"));
        assert_eq!(table(Grouping::Layer).lines().nth(2), Some("8,2,quest,8.0,8.0,0.8000,0.4000,0.3000,"));
    }

    #[test]
    fn bad_cells_are_errors_with_their_line() {
        let mut table = AccuracyTable::new(Grouping::Layer);
        let bad = format!("{HEADING}\nstarc,8,c0,starc,two,0,0,8,16,0.9,0.5,0.3\n");
        assert_eq!(table.add(bad.as_bytes(), "s.csv").unwrap_err().to_string(), "s.csv:2: \"two\" is not a count");
        let none = table.add("policy,budget\n".as_bytes(), "s.csv").unwrap_err().to_string();
        assert!(none.contains("no column \"cache_hash\""), "{none}");
        let empty = table.add(format!("{HEADING}\n").as_bytes(), "s.csv").unwrap_err().to_string();
        assert_eq!(empty, "s.csv: a table without a row");
    }

    #[test]
    fn selections_of_different_caches_or_parameters_are_not_set_side_by_side() {
        let add = |second: &str| {
            let mut table = AccuracyTable::new(Grouping::Policy);
            table.add(format!("{HEADING}\nstarc,8,c0,p0,2,0,0,8,16,0.9,0.5,0.3\n").as_bytes(), "s.csv").unwrap();
            table
                .add(format!("{HEADING}\n{second},2,0,0,8,16,0.9,0.5,0.3\n").as_bytes(), "q.csv")
                .map_err(|e| e.to_string())
        };
        assert_eq!(add("quest,8,c0,p1"), Ok(()));
        let wrong = |second| add(second).unwrap_err();
        assert_eq!(
            wrong("quest,8,c1,p1"),
            "q.csv:2: does not belong with s.csv: another cache (cache_hash): c1, not c0"
        );
        assert_eq!(
            wrong("starc,8,c0,p1"),
            "q.csv:2: does not belong with s.csv: other parameters (selection_hash): p1, not p0"
        );
        assert!(wrong("starc,8,c0,p0").ends_with("the same selection again"));
        assert!(wrong("starc,8,,").contains("does not say"));
    }

    /// A head of zero values has no relative error; means are of the heads that have one.
    #[test]
    fn empty_cells_are_left_out_of_means() {
        let mut table = AccuracyTable::new(Grouping::Policy);
        let rows = "starc,8,c0,starc,2,0,0,8,16,0.9,0.5,\nstarc,8,c0,starc,2,1,0,8,32,0.7,0.7,0.1\nquest,8,c0,quest,2,0,0,8,16,0.9,0.9,\n";
        table.add(format!("{HEADING}\n{rows}").as_bytes(), "s.csv").unwrap();
        let text = table.render(Style::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "8,starc,8.0,24.0,0.8000,0.6000,0.1000,");
        assert_eq!(lines[2], "8,quest,8.0,16.0,0.9000,0.9000,,");
    }
}
