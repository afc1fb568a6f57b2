//! Which policy to choose, with which budget, and what it costs: the points of a sweep over policies, budgets and one more
//! axis (where heads lie), as a table that fits a terminal, and in three sentences.

use super::explain::CAUSES;
use super::kind::TableKind;
use super::sheet::{Style, layout};
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::CsvReader;
use std::io::Read;

/// Errors (1) of the output at which the fastest policy is named.
pub const ERRORS: [f64; 2] = [0.05, 0.1];

/// Names of [`CAUSES`] that fit a narrow column.
const SHORT_CAUSES: [&str; CAUSES.len()] = ["MAC", "rows", "units", "waits", "data", "softmax", "refresh", "stall"];

/// Index into [`CAUSES`] of waits for other channels: with few heads they are most of the time, whatever the policy.
const WAITS: usize = {
    let mut i = 0;
    while !is(CAUSES[i].0, columns::TIME_IMBALANCE_CHANNELS) {
        i += 1;
    }
    i
};

/// Whether two names are the same.
const fn is(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// A point, per decode step.
#[derive(Debug, Clone)]
struct AnswerPoint {
    place: String,
    policy: String,
    budget: String,
    us: f64,
    uj: f64,
    activations: f64,
    recall: Option<f64>,
    /// Of the output: mean, median, 95th percentile, worst query head.
    errors: [Option<f64>; 4],
    /// Index into [`CAUSES`] of that which takes most time, waits for other channels aside, and its share of the time.
    cause: (usize, f64),
    /// Share of the time in which channels wait for the one with the most work.
    waits: f64,
}

impl AnswerPoint {
    fn error(&self) -> Option<f64> {
        self.errors[0]
    }

    /// Whether it is nowhere worse in time, energy and error, and somewhere better.
    fn beats(&self, other: &AnswerPoint) -> bool {
        let (Some(own), Some(others)) = (self.error(), other.error()) else { return false };
        let pairs = [(self.us, other.us), (self.uj, other.uj), (own, others)];
        pairs.iter().all(|(a, b)| a <= b) && pairs.iter().any(|(a, b)| a < b)
    }
}

/// The points of a sweep, and the policy that all are set against.
pub struct Answer {
    reference: String,
    /// Values of the axis of places, in their order.
    places: Vec<String>,
    points: Vec<AnswerPoint>,
    cautions: Vec<String>,
}

impl Answer {
    /// Reads a sweep's table, whose axis `place` says where heads lie.
    ///
    /// # Errors
    /// [`Error::Data`] for a table of another kind, one without points, and a place without a point of the reference.
    pub fn read(input: impl Read, file: &str, place: &str, reference: &str) -> Result<Self> {
        let mut table = CsvReader::open(input, file)?;
        TableKind::Sweep.expect(table.header(), file)?;
        let find = |name: &str| table.column(name);
        let errors = [
            columns::OUTPUT_REL_ERR,
            columns::OUTPUT_REL_ERR_MEDIAN,
            columns::OUTPUT_REL_ERR_P95,
            columns::OUTPUT_REL_ERR_WORST_HEAD,
        ];
        let texts = [find(place)?, find(columns::POLICY)?, find(columns::BUDGET)?, find(columns::CAUTIONS)?];
        let numbers = [columns::STEPS, columns::CYCLES, columns::TIME_NS, columns::ENERGY_PJ, columns::ACTIVATIONS];
        let numbers = numbers.map(find).into_iter().collect::<Result<Vec<_>>>()?;
        let recall = find(columns::MASS_RECALL)?;
        let errors = errors.map(find).into_iter().collect::<Result<Vec<_>>>()?;
        let causes = CAUSES.iter().map(|(column, ..)| find(column)).collect::<Result<Vec<_>>>()?;
        let mut answer =
            Answer { reference: reference.into(), places: Vec::new(), points: Vec::new(), cautions: Vec::new() };
        while let Some(row) = table.read()? {
            let [place, policy, budget, cautions] = texts.map(|i| row.cell(i).to_string());
            let mut values = [0.0; 5];
            for (value, i) in values.iter_mut().zip(&numbers) {
                *value = row.number(*i)?;
            }
            let [steps, cycles, ns, pj, activations] = values;
            let steps = steps.max(1.0);
            let times = causes.iter().map(|i| row.number(*i)).collect::<Result<Vec<_>>>()?;
            let share = |i: usize| times[i] / cycles.max(1.0);
            let own = (0..CAUSES.len()).filter(|i| *i != WAITS);
            let cause = own.map(|i| (i, share(i))).max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, 0.0));
            let mut point = AnswerPoint {
                place: place.clone(),
                policy: policy.clone(),
                budget,
                us: ns / steps / 1e3,
                uj: pj / steps / 1e6,
                activations: activations / steps,
                recall: row.known(recall)?,
                errors: [None; 4],
                cause,
                waits: share(WAITS),
            };
            for (error, i) in point.errors.iter_mut().zip(&errors) {
                *error = row.known(*i)?;
            }
            if !answer.places.contains(&place) {
                answer.places.push(place);
            }
            for caution in cautions.split("; ").filter(|c| !c.is_empty()) {
                if !answer.cautions.iter().any(|said| said == caution) {
                    answer.cautions.push(caution.to_string());
                }
            }
            answer.points.push(point);
        }
        match answer.places.iter().find(|place| answer.reference_at(place).is_none()) {
            _ if answer.points.is_empty() => Err(Error::data(file, "a table without a row")),
            Some(place) => Err(Error::data(file, format!("no point of {reference} at {place}"))),
            None => Ok(answer),
        }
    }

    fn reference_at(&self, place: &str) -> Option<&AnswerPoint> {
        self.points.iter().find(|p| p.policy == self.reference && p.place == place)
    }

    /// How many times as fast as the reference of the same place a point is.
    fn gain(&self, point: &AnswerPoint) -> f64 {
        self.reference_at(&point.place).map_or(f64::NAN, |full| full.us / point.us)
    }

    /// Whether no point of the same place beats it.
    fn is_on_frontier(&self, point: &AnswerPoint) -> bool {
        point.error().is_some() && !self.points.iter().any(|other| other.place == point.place && other.beats(point))
    }

    /// Places, as the axis has them.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    /// What the points say of themselves that has to be known.
    pub fn cautions(&self) -> &[String] {
        &self.cautions
    }

    /// The points of a place, in the order of the sweep; `*` marks those that no other beats in time, energy and error.
    pub fn table(&self, place: &str, style: Style) -> String {
        let gain = format!("x {}", self.reference);
        let heading =
            ["  policy", "budget", "us", &gain, "uJ", "ACT", "kept", "mean", "med", "p95", "worst", "most in"];
        let row = |p: &AnswerPoint| {
            let [mean, median, p95, worst] = p.errors;
            let decimal = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.3}"));
            let mark = if self.is_on_frontier(p) { "* " } else { "  " };
            vec![
                format!("{mark}{}", p.policy),
                if p.policy == self.reference { "-".into() } else { p.budget.clone() },
                significant(p.us),
                format!("{:.2}", self.gain(p)),
                significant(p.uj),
                format!("{:.0}", p.activations),
                decimal(p.recall),
                decimal(mean),
                decimal(median),
                decimal(p95),
                decimal(worst),
                SHORT_CAUSES[p.cause.0].to_string(),
            ]
        };
        let heading = heading.map(String::from).to_vec();
        let rows = self.points.iter().filter(|p| p.place == place).map(row);
        layout(&std::iter::once(heading).chain(rows).collect::<Vec<_>>(), style)
    }

    /// The fastest point whose mean error is at most this.
    fn fastest_at(&self, error: f64) -> Option<&AnswerPoint> {
        let fits = self.points.iter().filter(|p| p.error().is_some_and(|e| e <= error));
        fits.min_by(|a, b| a.us.total_cmp(&b.us))
    }

    /// Which is fastest at an error of 5 and of 10 %, what limits it, and what to try next. `place` says in words what a value of the
    /// axis of places means; `next` gives a command that looks further into a policy at an error.
    pub fn sentences(&self, place: impl Fn(&str) -> String, next: impl Fn(&str, f64) -> String) -> [String; 3] {
        let percent = |e: f64| format!("{:.0} %", 100.0 * e);
        let named = |p: &AnswerPoint| match p.policy == self.reference {
            true => format!("{} ({})", p.policy, place(&p.place)),
            false => format!("{} with a budget of {} ({})", p.policy, p.budget, place(&p.place)),
        };
        let fastest: Vec<String> = ERRORS
            .iter()
            .map(|e| match self.fastest_at(*e) {
                Some(p) => {
                    let gain = match p.policy == self.reference {
                        true => String::new(),
                        false => format!(", {:.2} times as fast as {} there", self.gain(p), self.reference),
                    };
                    format!("at most {}: {}, {} us a step{gain}", percent(*e), named(p), significant(p.us))
                }
                None => format!("at most {}: none of these", percent(*e)),
            })
            .collect();
        let first = format!("Fastest at a mean output error of {}.", fastest.join("; "));
        let best = ERRORS.iter().rev().find_map(|e| Some((*e, self.fastest_at(*e)?)));
        let Some((error, p)) = best else {
            let budgets = "larger budgets (--budgets), since all that were tried lose too much.";
            return [first, "What limits it is not worth saying yet.".into(), format!("Try next: {budgets}")];
        };
        let (_, cause, why) = CAUSES[p.cause.0];
        let limit = format!(
            "What limits {}: channels wait for the one with the most work {:.0} % of the time (more heads or requests, or heads \
             over more channels, fill them); then {cause}, {:.0} % ({why}).",
            named(p),
            100.0 * p.waits,
            100.0 * p.cause.1
        );
        let is_reference = p.policy == self.reference;
        let third = match is_reference {
            true => format!(
                "Try next: larger budgets, since nothing sparse is faster than {} at that error.",
                self.reference
            ),
            false => format!("Try next its best mapping: {}", next(&p.policy, error)),
        };
        [first, limit, third]
    }
}

/// A number with three significant digits, or whole if larger.
fn significant(x: f64) -> String {
    match x.abs() {
        x_abs if x_abs >= 100.0 => format!("{x:.0}"),
        x_abs if x_abs >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Place, policy, budget, us, uJ, error, and the column of the cause that takes all time.
    type Made = (&'static str, &'static str, &'static str, f64, f64, f64, &'static str);

    fn answer(points: &[Made], cautions: &str) -> Result<Answer> {
        let names: Vec<&str> = [
            "placement.split",
            "policy",
            "budget",
            "cautions",
            "steps",
            "cycles",
            "time_ns",
            "energy_pj",
            "activations",
            "mass_recall",
            "output_rel_err",
            "output_rel_err_median",
            "output_rel_err_p95",
            "output_rel_err_worst_head",
        ]
        .into_iter()
        .chain(CAUSES.iter().map(|(column, ..)| *column))
        .collect();
        let row = |(place, policy, budget, us, uj, error, cause): &Made| {
            let numbers = [2.0, 100.0, us * 2e3, uj * 2e6, 64.0, 0.9, *error, error / 2.0, error * 2.0, error * 3.0];
            let causes = CAUSES.iter().map(|(column, ..)| if column == cause { 75.0 } else { 1.0 });
            let numbers: Vec<String> = numbers.into_iter().chain(causes).map(|x| x.to_string()).collect();
            format!("{place},{policy},{budget},{cautions},{}", numbers.join(","))
        };
        let rows: Vec<String> = std::iter::once(names.join(",")).chain(points.iter().map(row)).collect();
        Answer::read(rows.join("\n").as_bytes(), "sweep.csv", "placement.split", "full")
    }

    const POINTS: [Made; 6] = [
        ("1", "full", "512", 12.0, 20.0, 0.0, "time_mac"),
        ("1", "quest", "128", 4.0, 8.0, 0.2, "time_row_switch"),
        ("1", "quest", "256", 6.0, 9.0, 0.08, "time_row_switch"),
        ("1", "starc", "256", 7.0, 9.0, 0.09, "time_stall"),
        ("8", "full", "512", 3.0, 21.0, 0.0, "time_mac"),
        ("8", "starc", "256", 2.5, 9.5, 0.09, "time_imbalance_channels"),
    ];

    #[test]
    fn the_fastest_at_an_error_is_named_with_what_limits_it() {
        let answer = answer(&POINTS, "").unwrap();
        let [first, limit, next] =
            answer.sentences(|place| format!("over {place} channels"), |policy, e| format!("tune {policy} {e}"));
        assert_eq!(
            first,
            "Fastest at a mean output error of at most 5 %: full (over 8 channels), 3.00 us a step; at most 10 %: starc with a \
             budget of 256 (over 8 channels), 2.50 us a step, 1.20 times as fast as full there."
        );
        assert!(
            limit.starts_with("What limits starc with a budget of 256 (over 8 channels): channels wait"),
            "{limit}"
        );
        assert!(limit.contains(" 75 % of the time") && limit.contains("then dependency stall, 1 % ("), "{limit}");
        assert_eq!(next, "Try next its best mapping: tune starc 0.1");
    }

    #[test]
    fn the_table_marks_the_frontier_of_its_place_and_fits() {
        let answer = answer(&POINTS, "").unwrap();
        let text = answer.table("1", Style::Text);
        let marked: Vec<bool> = text.lines().skip(1).map(|line| line.starts_with('*')).collect();
        assert_eq!(marked, [true, true, true, false], "{text}");
        assert!(text.lines().nth(3).unwrap().contains("  2.00  "), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with("0.200  0.100  0.400  0.600     rows"), "{text}");
        let long: Made = ("1", "infinigen-filled", "131072", 98765.0, 98765.0, 0.5, "time_data_movement");
        let wide = super::Answer { points: answer.points.clone(), ..self::answer(&[POINTS[0], long], "").unwrap() };
        let text =
            [wide.table("1", Style::Text), self::answer(&[POINTS[0], long], "").unwrap().table("1", Style::Text)];
        assert!(text.iter().flat_map(|t| t.lines()).all(|line| line.len() <= 100), "{text:?}");
    }

    #[test]
    fn cautions_are_said_once_and_a_place_needs_its_reference() {
        let made = answer(&POINTS, "\"short; few\"").unwrap();
        assert_eq!(made.cautions(), ["short", "few"]);
        assert!(answer(&POINTS[..5], "").is_ok());
        let e = answer(&[POINTS[0], POINTS[5]], "").err().unwrap().to_string();
        assert_eq!(e, "sweep.csv: no point of full at 8");
        assert!(answer(&[], "").err().unwrap().to_string().contains("without a row"));
    }

    #[test]
    fn where_all_lose_too_much_larger_budgets_are_proposed() {
        let points = [("1", "full", "512", 12.0, 20.0, 0.3, "time_mac")];
        let [first, _, next] = answer(&points, "").unwrap().sentences(|place| place.into(), |_, _| String::new());
        assert!(first.contains("at most 5 %: none of these"), "{first}");
        assert!(next.contains("larger budgets"), "{next}");
    }
}
