//! Why one run is faster than another: the difference of their times and energies, by cause, phase and part.

use super::{CAUSES, ExplainedRun, Explanation, Known, Measures, or_0};
use crate::identity;
use crate::sheet::{Style, layout};
use pimattn_core::error::{Error, Result};

/// Decimals of times (us) and energies (uJ).
const DECIMALS: i32 = 3;

/// Something that two runs spend, per step.
struct Spent {
    name: String,
    a: f64,
    b: f64,
}

impl Explanation {
    /// Runs that were read.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The two runs side by side, per step: what each spends by cause, phase and part, and the difference, largest first. The
    /// differences of a table add up to that of the whole.
    ///
    /// # Errors
    /// [`Error::Usage`] unless two runs were read, and where they are not `unlike` by consent but of different caches or steps.
    pub fn difference(&self, unlike: bool, style: Style) -> Result<String> {
        let [a, b] = &self.runs[..] else {
            return Err(Error::Usage(format!("two runs are set against each other; there are {}", self.runs.len())));
        };
        let of = |run: &'_ ExplainedRun| (run.selection.clone(), or_0(run.measures.steps));
        let ((own, steps), (other, others)) = (of(a), of(b));
        if let (false, Some(why)) = (unlike, identity::unlike((own.as_ref(), steps), (other.as_ref(), others))) {
            let what =
                format!("{why}: their difference is not one of policies or mappings; --unlike shows it all the same");
            return Err(Error::Usage(what));
        }
        let sections = [
            ("Time (us), by cause, mean over channels", by_cause(a, b), time(a, b)),
            ("Time (us), by phase", by_phase(a, b), time(a, b)),
            ("Energy (uJ), by part", by_part(a, b), energy(a, b)),
        ];
        if style == Style::Csv {
            let mut rows = vec![["section", "item", "a", "b", "difference", "percent"].map(String::from).to_vec()];
            for (title, parts, whole) in sections.into_iter().filter(|(_, parts, _)| !parts.is_empty()) {
                let of = |row: Vec<String>| std::iter::once(title.to_string()).chain(row).collect();
                rows.extend(table(parts, whole).into_iter().skip(1).map(of));
            }
            return Ok(layout(&rows, style));
        }
        let mut out = headline(a, b);
        for (title, parts, whole) in sections {
            if parts.is_empty() {
                continue;
            }
            out.push_str(&match style {
                Style::Markdown => format!("\n## {title}\n\n"),
                _ => format!("\n{title}\n"),
            });
            out.push_str(&layout(&table(parts, whole), style));
        }
        out.push_str(match style {
            Style::Markdown => "\n## Fetched, per step\n\n",
            _ => "\nFetched, per step\n",
        });
        out.push_str(&layout(&fetched(a, b), style));
        Ok(out)
    }
}

impl ExplainedRun {
    fn per_step(&self, number: Known) -> f64 {
        or_0(number) / self.steps()
    }

    /// What cycles of this run are in us.
    fn us(&self, cycles: Known) -> f64 {
        let m = &self.measures;
        or_0(cycles) / or_0(m.cycles).max(1.0) * self.per_step(m.time_ns) / 1e3
    }

    fn title(&self) -> String {
        let [trace, system, _] = &self.identity[..] else { return String::new() };
        let of = self.selection.as_ref().map_or(String::new(), |s| format!(", {} with budget {}", s.policy, s.budget));
        format!("{trace} on {system}{of}")
    }
}

fn headline(a: &ExplainedRun, b: &ExplainedRun) -> String {
    let [ta, tb] = [a, b].map(|run| run.per_step(run.measures.time_ns) / 1e3);
    let [ea, eb] = [a, b].map(|run| run.per_step(run.measures.energy_pj) / 1e6);
    let line =
        |name, run: &ExplainedRun, t: f64, e: f64| format!("{name}: {}: {t:.3} us and {e:.3} uJ a step\n", run.title());
    let faster = match tb <= ta {
        true => format!("B is {:.3} times as fast as A", ta / tb),
        false => format!("A is {:.3} times as fast as B", tb / ta),
    };
    line("A", a, ta, ea)
        + &line("B", b, tb, eb)
        + &format!("{faster}; B takes {:+.3} us and {:+.3} uJ a step.\n", tb - ta, eb - ea)
}

fn time(a: &ExplainedRun, b: &ExplainedRun) -> Spent {
    let [a, b] = [a, b].map(|run| run.per_step(run.measures.time_ns) / 1e3);
    Spent { name: "all".into(), a, b }
}

fn energy(a: &ExplainedRun, b: &ExplainedRun) -> Spent {
    let [a, b] = [a, b].map(|run| run.per_step(run.measures.energy_pj) / 1e6);
    Spent { name: "all".into(), a, b }
}

fn by_cause(a: &ExplainedRun, b: &ExplainedRun) -> Vec<Spent> {
    let of = |i: usize| {
        let [a, b] = [a, b].map(|run| run.us(run.measures.causes[i]));
        Spent { name: CAUSES[i].1.into(), a, b }
    };
    (0..CAUSES.len()).map(of).collect()
}

/// Phases of both; nothing where a run has none.
fn by_phase(a: &ExplainedRun, b: &ExplainedRun) -> Vec<Spent> {
    if a.phases.is_empty() || b.phases.is_empty() {
        return Vec::new();
    }
    let mut names: Vec<&str> = a.phases.iter().map(|(name, _)| name.as_str()).collect();
    names.extend(b.phases.iter().map(|(name, _)| name.as_str()).filter(|name| a.phases.iter().all(|(n, _)| n != name)));
    let of = |name: &str| {
        let cycles = |run: &ExplainedRun| run.phases.iter().find(|(n, _)| n == name).and_then(|(_, m)| m.cycles);
        let [a, b] = [a, b].map(|run| run.us(cycles(run)));
        Spent { name: name.into(), a, b }
    };
    names.into_iter().map(of).collect()
}

/// A part of the energy.
type PartOf = fn(&Measures) -> Known;

fn by_part(a: &ExplainedRun, b: &ExplainedRun) -> Vec<Spent> {
    let parts: [(&str, PartOf); 6] = [
        ("activation", |m| m.energy_activation_pj),
        ("column", |m| m.energy_column_pj),
        ("movement", |m| m.energy_movement_pj),
        ("compute", |m| m.energy_compute_pj),
        ("refresh", |m| m.energy_refresh_pj),
        ("background", |m| m.energy_background_pj),
    ];
    let of = |(name, part): (&str, PartOf)| {
        let [a, b] = [a, b].map(|run| run.per_step(part(&run.measures)) / 1e6);
        Spent { name: name.into(), a, b }
    };
    parts.into_iter().map(of).collect()
}

/// Parts that are named, at most; more are put together, so that the whole fits a screen.
const NAMED: usize = 6;

/// The parts with their differences, largest first, and the whole. What both spend nothing on is left out.
fn table(mut parts: Vec<Spent>, whole: Spent) -> Vec<Vec<String>> {
    parts.retain(|part| part.a != 0.0 || part.b != 0.0);
    parts.sort_by(|x, y| (y.b - y.a).abs().total_cmp(&(x.b - x.a).abs()));
    if parts.len() > NAMED {
        let rest = parts.split_off(NAMED - 1);
        let sum = |of: fn(&Spent) -> f64| rest.iter().map(of).sum();
        parts.push(Spent { name: format!("{} others", rest.len()), a: sum(|p| p.a), b: sum(|p| p.b) });
    }
    let total = whole.b - whole.a;
    let differences = add_up(&parts.iter().map(|part| part.b - part.a).collect::<Vec<_>>(), total);
    let heading = ["", "A", "B", "B - A", "of the difference %"].map(String::from).to_vec();
    let row = |part: &Spent, difference: f64| {
        let share = if total == 0.0 { String::new() } else { format!("{:.1}", 100.0 * difference / total) };
        vec![part.name.clone(), format!("{:.3}", part.a), format!("{:.3}", part.b), format!("{difference:+.3}"), share]
    };
    let rows = parts.iter().zip(&differences).map(|(part, d)| row(part, *d));
    std::iter::once(heading).chain(rows).chain([row(&whole, total)]).collect()
}

/// The numbers rounded so that they add up to their rounded sum: the largest takes what rounding leaves over.
fn add_up(numbers: &[f64], sum: f64) -> Vec<f64> {
    let grid = |x: f64| (x * 10f64.powi(DECIMALS)).round();
    let mut rounded: Vec<f64> = numbers.iter().map(|x| grid(*x)).collect();
    let left = grid(sum) - rounded.iter().sum::<f64>();
    if let Some(first) = rounded.first_mut() {
        *first += left;
    }
    rounded.into_iter().map(|x| x / 10f64.powi(DECIMALS)).collect()
}

fn fetched(a: &ExplainedRun, b: &ExplainedRun) -> Vec<Vec<String>> {
    let counts: [(&str, PartOf); 4] = [
        ("tokens asked for, once per KV head", |m| m.distinct_tokens),
        ("tokens in the rows touched", |m| m.row_tokens),
        ("bytes fetched", |m| m.bytes_fetched),
        ("activations", |m| m.activations),
    ];
    let heading = ["", "A", "B", "B / A"].map(String::from).to_vec();
    let row = |(name, count): (&str, PartOf)| {
        let [x, y] = [a, b].map(|run| count(&run.measures).map(|n| n / run.steps()));
        let cell = |n: Known| n.map_or(String::new(), |n| format!("{n:.1}"));
        let ratio = x.zip(y).filter(|(x, _)| *x > 0.0).map_or(String::new(), |(x, y)| format!("{:.3}", y / x));
        vec![name.into(), cell(x), cell(y), ratio]
    };
    std::iter::once(heading).chain(counts.into_iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_differences_add_up() {
        let numbers = [2.0004, -0.5004, 0.0004, 0.0004];
        let rounded = add_up(&numbers, numbers.iter().sum());
        assert_eq!(rounded, [2.001, -0.5, 0.0, 0.0]);
        assert!(add_up(&[], 0.0).is_empty());
    }
}
