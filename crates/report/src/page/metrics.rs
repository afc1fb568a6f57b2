//! Accuracy metrics of `tracegen run --metrics`, added up as the page shows them.

use crate::identity::ResultIdentity;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{CsvReader, known};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// What a table of metrics says, added up over steps (and requests).
#[derive(Debug, Clone)]
pub struct MetricsTally {
    /// The file.
    pub file: String,
    /// What was selected, of which cache.
    pub identity: ResultIdentity,
    /// Decode steps.
    pub steps: BTreeSet<u64>,
    /// Layers.
    pub layers: BTreeSet<u64>,
    /// Query heads that attend to all tokens, layer by layer, and those that select.
    pub heads: BTreeMap<(u64, u64), HeadTally>,
    /// Errors of all heads that select, at every step, in rising order.
    errors: Vec<f64>,
    /// Steps of heads that select which have no error: those of zero output.
    pub without_error: u64,
}

/// A query head of a layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadTally {
    /// Whether its layer stays full.
    pub dense: bool,
    error: (f64, u64),
    recall: (f64, u64),
}

fn mean((sum, count): (f64, u64)) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

fn add(sum: &mut (f64, u64), x: Option<f64>) {
    if let Some(x) = x {
        *sum = (sum.0 + x, sum.1 + 1);
    }
}

impl HeadTally {
    /// Mean error of its output.
    pub fn error(&self) -> Option<f64> {
        mean(self.error)
    }
}

/// Columns that a table of metrics has; by them it is told from others.
pub const METRICS_COLUMNS: [&str; 10] = [
    columns::POLICY,
    columns::BUDGET,
    columns::CACHE_HASH,
    columns::SELECTION_HASH,
    columns::STEP,
    columns::LAYER,
    columns::QUERY_HEAD,
    columns::DENSE,
    columns::TOP_RECALL,
    columns::OUTPUT_REL_ERR,
];

impl MetricsTally {
    /// Reads a table, which is of one policy and budget.
    ///
    /// # Errors
    /// When a column is not there, a cell is not what it should be, there is no row, or a second policy or budget.
    pub fn read(input: impl Read, file: &str) -> Result<Self> {
        let mut table = CsvReader::open(input, file)?;
        let mut places = [0; METRICS_COLUMNS.len()];
        for (place, name) in places.iter_mut().zip(METRICS_COLUMNS) {
            *place = table.column(name)?;
        }
        let mut tally: Option<MetricsTally> = None;
        while let Some(row) = table.read()? {
            let [policy, budget, cache, selection, step, layer, head, dense, recall, error] =
                places.map(|i| row.cell(i));
            let count = |cell: &str| cell.parse::<u64>().map_err(|_| row.error(format!("\"{cell}\" is not a count")));
            let value = |cell: &str| known(cell).map_err(|e| row.error(e));
            let identity = ResultIdentity::of([policy, budget, cache, selection]);
            let identity =
                identity.ok_or_else(|| row.error("the row does not say which policy selected of which cache"))?;
            let tally = tally.get_or_insert_with(|| MetricsTally {
                file: file.into(),
                identity: identity.clone(),
                steps: BTreeSet::new(),
                layers: BTreeSet::new(),
                heads: BTreeMap::new(),
                errors: Vec::new(),
                without_error: 0,
            });
            if let Some(why) = identity.differs_from(&tally.identity) {
                return Err(row.error(format!("metrics of one selection are expected; this row has {why}")));
            }
            let (layer, dense) = (count(layer)?, count(dense)? == 1);
            tally.steps.insert(count(step)?);
            tally.layers.insert(layer);
            let (error, recall) = (value(error)?, value(recall)?);
            let entry = tally.heads.entry((layer, count(head)?)).or_default();
            entry.dense = dense;
            add(&mut entry.error, error);
            add(&mut entry.recall, recall);
            match error {
                _ if dense => {}
                Some(x) => tally.errors.push(x),
                None => tally.without_error += 1,
            }
        }
        let mut tally = tally.ok_or_else(|| Error::data(file, "a table without a row"))?;
        tally.errors.sort_by(f64::total_cmp);
        Ok(tally)
    }

    /// Mean error over the steps of the heads that select.
    pub fn error(&self) -> Option<f64> {
        mean((self.errors.iter().sum(), self.errors.len() as u64))
    }

    /// The error that this share of the steps of the heads that select does not exceed.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.errors.len() as f64).ceil().max(1.0) as usize;
        self.errors.get(rank - 1).copied()
    }

    /// Mean share of the best tokens that is selected, of the heads that select.
    pub fn recall(&self) -> Option<f64> {
        let all = self.heads.values().filter(|h| !h.dense);
        mean(all.fold((0.0, 0), |sum, h| (sum.0 + h.recall.0, sum.1 + h.recall.1)))
    }

    /// The layer and query head with the largest mean error, and that; the first of several.
    pub fn worst(&self) -> Option<((u64, u64), f64)> {
        let all = self.heads.iter().filter(|(_, h)| !h.dense).filter_map(|(place, h)| Some((*place, h.error()?)));
        all.reduce(|worst, other| if other.1 > worst.1 { other } else { worst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "policy,budget,cache_hash,selection_hash,step,layer,query_head,dense,top_recall,output_rel_err\n\
        q,8,c,p,0,0,0,1,1,0\nq,8,c,p,0,2,0,0,0.5,0.1\nq,8,c,p,1,2,0,0,0.7,0.3\nq,8,c,p,0,2,1,0,0.9,0.8\nq,8,c,p,1,2,1,0,0.9,\n";

    #[test]
    fn layers_that_stay_full_say_nothing_of_the_policy() {
        let t = MetricsTally::read(TABLE.as_bytes(), "m.csv").unwrap();
        assert!((t.error().unwrap() - 0.4).abs() < 1e-12 && (t.recall().unwrap() - 0.75).abs() < 1e-12);
        assert_eq!((t.quantile(0.5), t.quantile(0.95), t.quantile(0.0)), (Some(0.3), Some(0.8), Some(0.1)));
        assert_eq!((t.worst(), t.without_error, t.steps.len(), t.layers.len()), (Some(((2, 1), 0.8)), 1, 2, 2));
        assert!(t.heads[&(0, 0)].dense && t.heads[&(2, 0)].error().unwrap() == 0.2);
    }

    #[test]
    fn what_is_no_table_of_one_policy_is_refused() {
        let message = |text: &str| MetricsTally::read(text.as_bytes(), "m.csv").unwrap_err().to_string();
        assert!(
            message(&TABLE.replace("q,8,c,p,1,2,1", "q,16,c,p,1,2,1")).starts_with("m.csv:6: metrics of one selection")
        );
        assert_eq!(message(&TABLE.replace("q,8,c,p,1,2,0", "q,8,c,p,x,2,0")), "m.csv:4: \"x\" is not a count");
        assert_eq!(message(TABLE.lines().next().unwrap()), "m.csv: a table without a row");
        assert!(message("policy\n").contains("no column"));
    }
}
