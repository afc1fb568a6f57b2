//! What is worth choosing among the points of a sweep: those that no other point beats in time, energy and error alike;
//! and the cheapest of each policy where accuracy is held equal.

use super::kind::TableKind;
use super::sheet::{Style, layout};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::CsvReader;
use std::collections::BTreeMap;
use std::io::Read;

/// What is chosen, unless the caller says otherwise: points that differ in nothing else are set against each other.
pub const CHOICES: [&str; 2] = [columns::POLICY, columns::BUDGET];

/// What a point costs: time (ns) and energy (pJ) per step, and its error; NaN where it has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PointCost(pub(crate) [f64; 3]);

impl PointCost {
    /// Whether it has an error.
    pub(crate) fn is_known(&self) -> bool {
        !self.0[2].is_nan()
    }

    /// Whether it is nowhere worse and somewhere better. A point without an error beats none, and none beats it.
    pub(crate) fn beats(&self, other: &PointCost) -> bool {
        let pairs = || self.0.iter().zip(&other.0);
        pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
    }
}

struct FrontierPoint {
    /// Place of what it shares with those that it is set against.
    group: usize,
    choice: Vec<String>,
    cost: PointCost,
    /// What it keeps, where that is asked for.
    kept: f64,
}

/// The points of a sweep, as far as they are known in time, energy and error.
pub struct Frontier {
    group: Vec<String>,
    choice: Vec<String>,
    error: String,
    entries: Vec<FrontierPoint>,
    /// What the points of a group share, and which they are; groups as they come first, points as they come.
    groups: Vec<(Vec<String>, Vec<usize>)>,
}

impl Frontier {
    /// Reads a sweep's table. `error` is the column that says what is lost, or `1-COLUMN` for one that says what is kept.
    /// Where no point has it (accuracy was not measured), that is an error. `kept` is a column of what is kept, for
    /// [`Self::disagreements`].
    pub fn read(input: impl Read, file: &str, error: &str, kept: Option<&str>, choices: &[String]) -> Result<Self> {
        let mut table = CsvReader::open(input, file)?;
        TableKind::Sweep.expect(table.header(), file)?;
        let (header, find) = (table.header(), |name: &str| table.column(name));
        // A sweep's table begins with the point, and has its key behind the axes.
        let axes = find(columns::POINT)? + 1..find(columns::KEY)?;
        let choice: Vec<usize> = match choices {
            [] => axes.clone().filter(|i| CHOICES.contains(&header[*i].as_str())).collect(),
            names => names.iter().map(|n| table.asked(n)).collect::<Result<_>>()?,
        };
        if let Some(i) = choice.iter().find(|i| !axes.contains(i)) {
            return Err(Error::Usage(format!("--choice {}: not an axis of the sweep", header[*i])));
        }
        let group: Vec<usize> = axes.filter(|i| !choice.contains(i)).collect();
        let turned = error.strip_prefix("1-");
        let steps = find(columns::STEPS)?;
        let (ns, pj, lost) =
            (find(columns::TIME_NS)?, find(columns::ENERGY_PJ)?, table.asked(turned.unwrap_or(error))?);
        let kept = kept.map(|name| table.asked(name)).transpose()?;
        let cache = find(columns::CACHE_HASH)?;
        let mut caches: Vec<String> = Vec::new();
        let name = |i: &usize| header[*i].clone();
        let mut frontier = Frontier {
            group: group.iter().map(name).collect(),
            choice: choice.iter().map(name).collect(),
            error: error.into(),
            entries: Vec::new(),
            groups: Vec::new(),
        };
        let mut known: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        while let Some(row) = table.read()? {
            let steps = row.number(steps)?.max(1.0);
            let or_none = |i: usize| row.known(i).map(|x| x.unwrap_or(f64::NAN));
            let error = or_none(lost)?;
            let error = if turned.is_some() { 1.0 - error } else { error };
            let kept = kept.map_or(Ok(0.0), or_none)?;
            let cost = PointCost([row.number(ns)? / steps, row.number(pj)? / steps, error]);
            let texts = |of: &[usize]| of.iter().map(|i| row.cell(*i).to_string()).collect();
            let shared: Vec<String> = texts(&group);
            let group = *known.entry(shared).or_insert_with_key(|shared| {
                frontier.groups.push((shared.clone(), Vec::new()));
                frontier.groups.len() - 1
            });
            if let Some(other) = caches.get(group).filter(|other| *other != row.cell(cache)) {
                let what = format!(
                    "points that are set against each other are of different caches ({other}, {})",
                    row.cell(cache)
                );
                return Err(row.error(what));
            }
            if caches.len() == group {
                caches.push(row.cell(cache).to_string());
            }
            frontier.groups[group].1.push(frontier.entries.len());
            frontier.entries.push(FrontierPoint { group, choice: texts(&choice), cost, kept });
        }
        if frontier.entries.is_empty() {
            return Err(Error::data(file, "a table without a row"));
        }
        if !frontier.entries.iter().any(|e| e.cost.is_known()) {
            let column = turned.unwrap_or(&frontier.error);
            return Err(Error::data(file, format!("no point has {column}: was accuracy measured?")));
        }
        Ok(frontier)
    }

    /// Columns in which groups differ; what all points share is not worth a column.
    fn told(&self) -> Vec<usize> {
        let differs = |i: &usize| self.groups.iter().any(|(shared, _)| shared[*i] != self.groups[0].0[*i]);
        (0..self.group.len()).filter(differs).collect()
    }

    /// Places of the points that no other beats, among those of the table; points without an error are not among them.
    pub fn unbeaten(&self) -> Vec<usize> {
        let unbeaten = |(_, entry): &(usize, &FrontierPoint)| entry.cost.is_known() && self.beaten_by(entry).is_none();
        self.entries.iter().enumerate().filter(unbeaten).map(|(place, _)| place).collect()
    }

    fn beaten_by(&self, entry: &FrontierPoint) -> Option<&FrontierPoint> {
        let mut others = self.groups[entry.group].1.iter().map(|i| &self.entries[*i]);
        others.find(|e| e.cost.beats(&entry.cost))
    }

    /// All points, by group and rising error, with whether they are on the frontier and one that beats them if not.
    pub fn points(&self, style: Style) -> String {
        let told = self.told();
        let mut order: Vec<&FrontierPoint> = self.entries.iter().collect();
        // Stable: equal points stay in the order of the sweep.
        order.sort_by(|a, b| a.cost.0[2].total_cmp(&b.cost.0[2]));
        order.sort_by_key(|e| e.group);
        let heading = told.iter().map(|i| self.group[*i].clone()).chain(self.choice.iter().cloned());
        let measures = ["time/step us", "energy/step uJ", &self.error, "frontier", "beaten by"].map(String::from);
        let row = |e: &&FrontierPoint| {
            let by = self.beaten_by(e);
            let [ns, pj, error] = e.cost.0;
            let cells = [
                format!("{:.3}", ns / 1e3),
                format!("{:.3}", pj / 1e6),
                if e.cost.is_known() { format!("{error:.4}") } else { String::new() },
                match by {
                    _ if !e.cost.is_known() => String::new(),
                    None => "yes".into(),
                    Some(_) => "no".into(),
                },
                by.map_or(String::new(), |b| b.choice.join(" ")),
            ];
            let shared = &self.groups[e.group].0;
            told.iter().map(|i| shared[*i].clone()).chain(e.choice.iter().cloned()).chain(cells).collect()
        };
        layout(
            &std::iter::once(heading.chain(measures).collect()).chain(order.iter().map(row)).collect::<Vec<_>>(),
            style,
        )
    }

    /// Where the error and what is kept (`name`) disagree: pairs of points, alike but for the first choice (the policy), of
    /// which one keeps more and yet has the larger error. In the order of the sweep.
    pub fn disagreements(&self, name: &str, style: Style) -> String {
        let told = self.told();
        let first = self.choice.first().map_or("", String::as_str);
        let heading = told.iter().map(|i| self.group[*i].clone()).chain(self.choice.iter().skip(1).cloned());
        let error = &self.error;
        let measures = [
            format!("{first} that keeps more"),
            name.into(),
            error.clone(),
            format!("{first} that errs less"),
            name.into(),
            error.clone(),
        ];
        let rest = |e: &FrontierPoint| e.choice.iter().skip(1).cloned().collect::<Vec<_>>();
        let rows = self.entries.iter().flat_map(|more| {
            let (told, rest) = (&told, &rest);
            let alike = self.entries.iter().filter(move |less| less.group == more.group && rest(less) == rest(more));
            let against = alike.filter(|less| more.kept > less.kept && more.cost.0[2] > less.cost.0[2]);
            against.map(move |less| {
                let cells = |e: &FrontierPoint| {
                    let first = e.choice.first().cloned().unwrap_or_default();
                    [first, format!("{:.4}", e.kept), format!("{:.4}", e.cost.0[2])]
                };
                let shared = told.iter().map(|i| self.groups[more.group].0[*i].clone()).chain(rest(more));
                shared.chain(cells(more)).chain(cells(less)).collect()
            })
        });
        layout(&std::iter::once(heading.chain(measures).collect()).chain(rows).collect::<Vec<_>>(), style)
    }

    /// For each first choice (the policy), its cheapest point in time with an error of at most each of `limits`.
    pub fn at_equal_error(&self, limits: &[f64], style: Style) -> String {
        let told = self.told();
        let mut best: BTreeMap<(usize, usize), Vec<Option<&FrontierPoint>>> = BTreeMap::new();
        // The first point of each group and first choice.
        let mut firsts = BTreeMap::new();
        for (at, e) in self.entries.iter().enumerate() {
            let first = *firsts.entry((e.group, e.choice.first())).or_insert(at);
            let cells = best.entry((e.group, first)).or_insert_with(|| vec![None; limits.len()]);
            for (cell, limit) in cells.iter_mut().zip(limits) {
                if e.cost.0[2] <= *limit && cell.is_none_or(|b| e.cost.0[0] < b.cost.0[0]) {
                    *cell = Some(e);
                }
            }
        }
        let heading = told.iter().map(|i| self.group[*i].clone()).chain(self.choice.first().cloned());
        let heading = heading.chain(limits.iter().map(|l| format!("us at {} <= {l}", self.error)));
        let row = |((_, at), cells): (&(usize, usize), &Vec<Option<&FrontierPoint>>)| {
            let e = &self.entries[*at];
            let text = |c: &Option<&FrontierPoint>| {
                c.map_or("-".into(), |c| match c.choice.get(1..) {
                    Some(rest) if !rest.is_empty() => format!("{:.3} ({})", c.cost.0[0] / 1e3, rest.join(" ")),
                    _ => format!("{:.3}", c.cost.0[0] / 1e3),
                })
            };
            let shared = &self.groups[e.group].0;
            let names = told.iter().map(|i| shared[*i].clone()).chain(e.choice.first().cloned());
            names.chain(cells.iter().map(text)).collect()
        };
        layout(&std::iter::once(heading.collect()).chain(best.iter().map(row)).collect::<Vec<_>>(), style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWEEP: &str = "point,model,policy,budget,key,cache_hash,output_rel_err,steps,time_ns,energy_pj\n\
        0,a,full,512,x,c,0,2,8000,8000000\n\
        1,a,quest,128,x,c,0.3,2,2000,4000000\n\
        2,a,quest,256,x,c,0.1,2,4000,5000000\n\
        3,a,starc,128,x,c,0.2,2,2000,3000000\n\
        4,b,quest,128,x,c,0.3,2,2000,4000000\n";

    fn frontier(choices: &[&str]) -> Result<Frontier> {
        let choices: Vec<String> = choices.iter().map(|c| c.to_string()).collect();
        Frontier::read(SWEEP.as_bytes(), "s.csv", "output_rel_err", None, &choices)
    }

    #[test]
    fn a_point_is_beaten_within_its_group_only() {
        let text = frontier(&[]).unwrap().points(Style::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "model,policy,budget,time/step us,energy/step uJ,output_rel_err,frontier,beaten by");
        assert_eq!(lines[1], "a,full,512,4.000,4.000,0.0000,yes,");
        assert_eq!(lines[4], "a,quest,128,1.000,2.000,0.3000,no,starc 128");
        assert_eq!(lines[5], "b,quest,128,1.000,2.000,0.3000,yes,");
    }

    #[test]
    fn at_equal_error_the_cheapest_budget_of_each_policy_counts() {
        let text = frontier(&[]).unwrap().at_equal_error(&[0.05, 0.2], Style::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "a,full,4.000 (512),4.000 (512)");
        assert_eq!(lines[2], "a,quest,-,2.000 (256)");
        assert_eq!(lines[3], "a,starc,-,1.000 (128)");
    }

    #[test]
    fn points_of_different_caches_are_not_set_against_each_other() {
        let mixed = SWEEP.replace("a,starc,128,x,c", "a,starc,128,x,d");
        let e = Frontier::read(mixed.as_bytes(), "s.csv", "output_rel_err", None, &[]).err().unwrap().to_string();
        assert!(e.starts_with("s.csv:5: ") && e.contains("different caches (c, d)"), "{e}");
        let apart = SWEEP.replace("b,quest,128,x,c", "b,quest,128,x,d");
        assert!(Frontier::read(apart.as_bytes(), "s.csv", "output_rel_err", None, &[]).is_ok());
    }

    #[test]
    fn a_column_of_what_is_kept_is_turned_round() {
        let kept = SWEEP.replace("output_rel_err", "top_recall");
        let f = Frontier::read(kept.as_bytes(), "s.csv", "1-top_recall", None, &[]).unwrap();
        let text = f.points(Style::Csv);
        assert!(text.lines().nth(1).unwrap().starts_with("a,quest,128,1.000,2.000,0.7000,"), "{text}");
    }

    #[test]
    fn who_keeps_more_and_errs_more_is_named() {
        let sweep = "point,model,policy,budget,key,cache_hash,top_recall,output_rel_err,steps,time_ns,energy_pj\n\
            0,a,quest,128,x,c,0.3,0.2,1,1,1\n\
            1,a,starc,128,x,c,0.5,0.3,1,1,1\n\
            2,a,starc,256,x,c,0.6,0.1,1,1,1\n\
            3,b,starc,128,x,c,0.5,0.1,1,1,1\n\
            4,b,quest,128,x,c,0.3,0.1,1,1,1\n";
        let f = Frontier::read(sweep.as_bytes(), "s.csv", "output_rel_err", Some("top_recall"), &[]).unwrap();
        let text = f.disagreements("top_recall", Style::Csv);
        let lines: Vec<_> = text.lines().collect();
        let measures = "top_recall,output_rel_err";
        assert_eq!(
            lines[0],
            format!("model,budget,policy that keeps more,{measures},policy that errs less,{measures}")
        );
        assert_eq!(lines[1..], ["a,128,starc,0.5000,0.3000,quest,0.3000,0.2000"]);
        let e = Frontier::read(sweep.as_bytes(), "s.csv", "output_rel_err", Some("recall"), &[]).err().unwrap();
        assert!(e.to_string().contains("no column \"recall\""), "{e}");
    }

    #[test]
    fn unknown_choices_and_missing_errors_are_refused() {
        assert!(frontier(&["polcy"]).err().unwrap().to_string().contains("did you mean \"policy\""));
        assert!(frontier(&["steps"]).err().unwrap().to_string().contains("not an axis"));
        let read = |table: &str| Frontier::read(table.as_bytes(), "s.csv", "output_rel_err", None, &[]);
        let message = |table: &str| read(table).err().unwrap().to_string();
        let empty = ["c,0,", "c,0.3,", "c,0.1,", "c,0.2,"].iter().fold(SWEEP.to_string(), |t, c| t.replace(c, "c,,"));
        assert_eq!(message(&empty), "s.csv: no point has output_rel_err: was accuracy measured?");
        assert_eq!(message(SWEEP.lines().next().unwrap()), "s.csv: a table without a row");
        assert_eq!(message(&SWEEP.replace("c,0.3,", "c,no,")), "s.csv:3: output_rel_err: \"no\" is not a number");
    }

    /// As points of a cache whose values are 0.
    #[test]
    fn a_point_without_an_error_is_listed_and_neither_beats_nor_is_beaten() {
        let some = SWEEP.replace("c,0.3,", "c,,");
        let f = Frontier::read(some.as_bytes(), "s.csv", "output_rel_err", None, &[]).unwrap();
        let text = f.points(Style::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[4], "a,quest,128,1.000,2.000,,,");
        assert_eq!(lines[3], "a,starc,128,1.000,1.500,0.2000,yes,");
        assert_eq!(f.at_equal_error(&[9.0], Style::Csv).lines().nth(4), Some("b,quest,-"));
    }
}
