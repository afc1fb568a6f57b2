//! All that folders of results say, on one page: HTML that stands alone.
//!
//! `read` finds the tables of sweeps, runs and tuning; `choice` makes of them what can be chosen; the other rooms say
//! it: in figures of the plot room, in tables, in words. A script sorts, filters and shows values; the page reads without it.

mod choice;
mod figures;
mod metrics;
mod provenance;
mod read;
mod runs;
mod table;
mod words;

pub use metrics::{HeadTally, MetricsTally};

use crate::catalogue::Catalogue;
use crate::explain::CAUSES;
use crate::plot::Figure;
use choice::Choices;
use figures::{CostAxis, PageFigure};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use pimattn_core::error::Result;
use read::Findings;
use std::path::PathBuf;
use table::{PageColumn, PageTable};

/// What the page must know of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyFacts {
    /// Whether a budget changes what it selects; one that takes no notice is what others are set against.
    pub heeds_budget: bool,
    /// Decode steps after which its work repeats.
    pub period: usize,
}

/// What tables do not say, and the caller knows.
pub struct PageContext<'a> {
    /// Columns of all tables.
    pub catalogue: &'a Catalogue,
    /// A policy by its name and its parameters where they are not the default; none where there is no such policy.
    pub policy: &'a dyn Fn(&str, &toml::Table) -> Option<PolicyFacts>,
    /// The program that makes the page, with its version.
    pub program: &'a str,
    /// Title of the page; empty for what the folders are.
    pub title: &'a str,
}

/// A page from folders of `pimsim sweep`, `run` and `tune` (or a table of theirs), and tables of accuracy metrics beside those that
/// the folders have.
///
/// # Errors
/// When a folder has nothing to show, a file cannot be read, or a table is damaged; the error says which and where.
pub fn page(folders: &[PathBuf], metrics: &[PathBuf], context: &PageContext<'_>) -> Result<String> {
    let found = Findings::read(folders, metrics)?;
    Page::of(&found, context)?.html(context)
}

/// A section: identifier, heading, content.
struct PageSection {
    id: String,
    heading: String,
    content: Markup,
}

struct Page<'a> {
    found: &'a Findings,
    warnings: Vec<String>,
    missing: Vec<(String, String)>,
    /// What stands to choose, with what the page calls its source.
    choices: Vec<Choices>,
    sections: Vec<PageSection>,
    /// Figures so far, for their identifiers.
    figures: usize,
}

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Nothing is fetched from anywhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

impl<'a> Page<'a> {
    fn of(found: &'a Findings, context: &PageContext<'_>) -> Result<Self> {
        let mut choices = Vec::new();
        for sweep in &found.sweeps {
            choices.push(Choices::of_sweep(sweep, context)?);
        }
        if !found.runs.is_empty() {
            choices.push(Choices::of_runs(found, context)?);
        }
        for tune in &found.tunes {
            choices.push(Choices::of_tune(tune, context)?);
        }
        let warnings = words::warnings(found, &choices, context)?;
        let missing = words::missing(found, &choices)?;
        let mut page = Page { found, warnings, missing, choices, sections: Vec::new(), figures: 0 };
        for (n, choices) in page.choices.clone().iter().enumerate() {
            page.chosen(n, choices, context)?;
        }
        page.runs()?;
        page.sections.push(PageSection {
            id: "provenance".into(),
            heading: "Provenance".into(),
            content: provenance::section(found, context),
        });
        Ok(page)
    }

    /// A figure with what it says in words.
    fn figure(&mut self, figure: &Figure, caption: &str, left_out: usize) -> Result<Markup> {
        self.figures += 1;
        let id = format!("f{}", self.figures);
        let svg = figure.inline(&id, caption)?;
        Ok(html! {
            h3 { (figure.title) }
            figure {
                div.scroll { (PreEscaped(svg)) }
                figcaption {
                    (caption)
                    @if left_out > 0 { " " (left_out) " further panels are left out; their numbers are in the table." }
                }
            }
        })
    }

    fn shown(&mut self, figure: Option<PageFigure>, caption: &str) -> Result<Markup> {
        figure.map_or(Ok(html! {}), |PageFigure { figure, left_out }| self.figure(&figure, caption, left_out))
    }

    /// The sections of what stands to choose.
    fn chosen(&mut self, n: usize, choices: &Choices, context: &PageContext<'_>) -> Result<()> {
        let found = self.found;
        let of = |folders: &'a [read::PointFolder]| folders.iter().find(|f| f.name == choices.source);
        let (what, whole) = match (of(&found.sweeps), of(&found.tunes)) {
            (Some(sweep), _) if n < found.sweeps.len() => ("Sweep", vec![(&sweep.table, "sweep.csv")]),
            (_, Some(tune)) if n + found.tunes.len() >= self.choices.len() => {
                ("Tuning", vec![(&tune.table, "tune.csv")])
            }
            _ => ("Runs", found.runs.iter().map(|f| (&f.run, "run.csv")).collect()),
        };
        let heading = format!("{what}: {}", choices.source);
        let time = figures::against_error(choices, CostAxis::Time);
        let energy = figures::against_error(choices, CostAxis::Energy);
        let names = CAUSES.map(|(_, name, _)| name);
        let causes = figures::parts(choices, "Time per decode step by cause", &names, |c| {
            c.causes.iter().map(|(name, ns)| (name.to_string(), *ns)).collect()
        });
        let names = choice::phase_names();
        let phases = figures::parts(choices, "Time per decode step by phase", &names, |c| c.phases.clone());
        let told = |cost: &str| {
            format!(
                "Each point is a policy at a budget; a line joins the budgets of a policy. Less is better both ways: no point \
                 has both less error and less {cost} than one on the band."
            )
        };
        let (time, energy) = (self.shown(time, &told("time"))?, self.shown(energy, &told("energy"))?);
        let by_cause = "Each bar is a choice; its parts add up to the mean time of a step, over all channels.";
        let has_causes = causes.is_some();
        let causes = self.shown(causes, by_cause)?;
        let phases = self.shown(phases, "As above, by what a step does: append, cluster, select, attend and so on.")?;
        let meanings = PageTable {
            caption: format!("{}: what the causes are", choices.source),
            columns: vec![
                PageColumn::new("cause", "", ""),
                PageColumn::new("what it is, and what makes it shorter", "", ""),
            ],
            rows: CAUSES.iter().map(|(_, name, why)| vec![name.to_string(), why.to_string()]).collect(),
        };
        let verdict = words::verdict(choices);
        let content = html! {
            dl.setting {
                @for (name, value) in &choices.shared { dt { (name) } dd { (value) } }
                @for (name, values) in &choices.varied { dt { (name) } dd { (values.join(", ")) } }
            }
            @if !verdict.is_empty() { ul { @for sentence in verdict.iter().take(MOST_SENTENCES) { li { (sentence) } } } }
            @if let Some(fastest) = words::fastest(choices) { h3 { "Fastest at equal error" } (fastest.open()) }
            h3 { "All choices" }
            (words::table(choices, &format!("{}: what a decode step costs, and what it loses", choices.source)).open())
            (time) (energy) (causes)
            @if has_causes { (meanings.folded("What the causes are")) }
            (phases)
            @for (cells, file) in whole {
                @let caption = format!("All columns of {}", cells.name());
                (PageTable::whole(cells, &caption, context.catalogue, &[]).folded(&format!("All columns of {file} ({})", cells.name())))
            }
        };
        self.sections.push(PageSection { id: format!("choices{}", n + 1), heading, content });
        Ok(())
    }

    /// What only runs and metrics say.
    fn runs(&mut self) -> Result<()> {
        let all = self.choices.iter().flat_map(|c| c.all.clone()).collect::<Vec<_>>();
        let runs = runs::named(self.found, &all)?;
        if let Some((figure, table)) = runs::steps(&runs)? {
            let caption = "A line is a run. A step that stands out does work that others do not, such as clustering.";
            let figure = self.figure(&figure, caption, 0)?;
            let content = html! { (figure) (table.open()) };
            self.sections.push(PageSection { id: "steps".into(), heading: "Decode steps".into(), content });
        }
        let errors = runs::error_maps(self.found);
        let imbalance = runs::head_maps(
            &runs,
            "Imbalance over units, by layer and KV head",
            "fullest unit over the mean",
            pimattn_core::columns::IMBALANCE_UNITS,
        )?;
        let channels = runs::channel_map(&runs)?;
        let mut content = Vec::new();
        if let Some(figure) = errors {
            let caption = "Mean over decode steps. Layers that stay full are left out, and so is what errs nowhere.";
            content.push(self.figure(&figure, caption, 0)?);
        }
        if !self.found.metrics.is_empty() {
            content.push(self.accuracy().open());
        }
        if let Some(figure) = imbalance {
            let caption = "Row-blocks of the fullest unit over the mean of all units; 1 is perfect balance. Units with less idle.";
            content.push(self.figure(&figure, caption, 0)?);
        }
        if let Some(figure) = channels {
            let caption = "A channel without a head waits all the time; more heads or requests, or heads over several channels (placement.split), fill it.";
            content.push(self.figure(&figure, caption, 0)?);
        }
        if !content.is_empty() {
            let content = html! { @for part in content { (part) } };
            self.sections.push(PageSection {
                id: "heads".into(),
                heading: "Layers, heads and channels".into(),
                content,
            });
        }
        Ok(())
    }

    /// What metrics say of each policy: means hide single heads, so the spread stands beside them.
    fn accuracy(&self) -> PageTable {
        let column = PageColumn::new;
        let columns = vec![
            column("metrics", "", ""),
            column("policy", "", ""),
            column("budget", "tokens", ""),
            column("steps", "", ""),
            column(
                "mean error",
                "",
                "of the output, over steps, layers and query heads; layers that stay full are left out",
            ),
            column("median error", "", "likewise"),
            column("95 % below", "", "95 % of the outputs err no more"),
            column("largest error", "", "of a query head at a step"),
            column("worst head", "", "layer and query head with the largest mean error"),
            column("its error", "", "mean over steps"),
            column("mean recall", "", "share of the budget's tokens of highest score that is selected"),
        ];
        let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.4}"));
        let row = |m: &MetricsTally| {
            let worst = m.worst();
            vec![
                m.file.clone(),
                m.identity.policy.clone(),
                m.identity.budget.clone(),
                m.steps.len().to_string(),
                number(m.error()),
                number(m.quantile(0.5)),
                number(m.quantile(0.95)),
                number(m.quantile(1.0)),
                worst.map_or(String::new(), |((layer, head), _)| format!("layer {layer}, head {head}")),
                number(worst.map(|(_, error)| error)),
                number(m.recall()),
            ]
        };
        let rows = self.found.metrics.iter().map(row).collect();
        PageTable { caption: "Output error of each table of metrics".into(), columns, rows }
    }

    fn html(&self, context: &PageContext<'_>) -> Result<String> {
        let counts: Vec<String> =
            self.choices.iter().map(|c| format!("{} ({} choices)", c.source, c.all.len())).collect();
        let title = match context.title {
            "" => format!(
                "Sparse attention on PIM: {}",
                self.choices.iter().map(|c| c.source.as_str()).collect::<Vec<_>>().join(", ")
            ),
            title => title.to_string(),
        };
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="color-scheme" content="light dark";
                    link rel="icon" href="data:,";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "To the results" }
                    header {
                        h1 { (title) }
                        p { "Which policy, at which budget: how much time and energy does a decode step's attention take, what "
                            "does it lose, and why? Here are " (counts.join("; ")) "." }
                        nav aria-label="Sections" { ul {
                            @for section in &self.sections { li { a href={ "#" (section.id) } { (section.heading) } } }
                            @if !self.missing.is_empty() { li { a href="#missing" { "What is not here" } } }
                        } }
                    }
                    main #main {
                        @if !self.warnings.is_empty() {
                            section.warnings aria-labelledby="warnings" {
                                h2 #warnings { "Beware" }
                                ul { @for warning in &self.warnings { li { (warning) } } }
                            }
                        }
                        @for section in &self.sections {
                            section aria-labelledby=(section.id) {
                                h2 id=(section.id) { (section.heading) }
                                (section.content)
                            }
                        }
                        @if !self.missing.is_empty() {
                            section aria-labelledby="missing" {
                                h2 #missing { "What is not here, and how to get it" }
                                dl.setting { @for (what, how) in &self.missing { dt { (what) } dd { code { (how) } } } }
                            }
                        }
                    }
                    footer { p { "Time and energy are of the attention layers that were simulated, by " (context.program) "." } }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        Ok(markup.into_string())
    }
}

/// Sentences of a verdict, where there are many groups.
const MOST_SENTENCES: usize = 12;
