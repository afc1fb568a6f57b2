//! The command line: flags, progress, messages, exit codes. The only room that prints.

mod artifact;
mod catalogue;
pub mod exit;
mod fit;
mod generate;
mod import_selection;
mod interrupt;
mod latency_model;
pub mod manual;
pub mod pimsim;
mod places;
mod plot;
mod presets;
pub mod report;
mod reproduce;
mod run_output;
mod say;
mod sweep;
mod system;
mod table_output;
mod timeline;
pub mod tracegen;
mod try_;
mod tune;

use crate::presets::{self as held, PresetKind};
use clap::{ArgMatches, Args, ColorChoice, Parser};
use exit::{EXIT_OK, EXIT_SOFTWARE, EXIT_USAGE, ExitStatus};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::table::{columns_of, markdown};
use pimattn_experiments::sweep::store;
use pimattn_experiments::tune::table as tune_table;
use pimattn_report::sheet::Style;
use say::say;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use std::time::{Duration, Instant};

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more on standard error
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Requested by Ctrl-C; all long work looks at it.
    #[arg(skip)]
    cancel: Cancel,
}

impl CommonArgs {
    /// Prints a remark on stderr, with -v only.
    pub fn detail(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            say(&text());
        }
    }

    /// Prints a warning on stderr that only -q silences.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            say(&format!("warning: {text}"));
        }
    }

    /// A note on stderr of what was done; only -q silences it.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Progress of `total` units of work, shown on a terminal once a second has passed, in a log once a minute.
    pub fn progress(&self, what: &str, total: Option<u64>) -> Progress {
        let now = Instant::now();
        Progress { bar: None, what: what.into(), total, began: now, before: 0, said: now, quiet: self.quiet }
    }
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum ReportFormat {
    /// Aligned columns
    Text,
    /// Markdown tables
    Markdown,
    /// CSV
    Csv,
}

impl From<ReportFormat> for Style {
    fn from(format: ReportFormat) -> Self {
        match format {
            ReportFormat::Text => Style::Text,
            ReportFormat::Markdown => Style::Markdown,
            ReportFormat::Csv => Style::Csv,
        }
    }
}

/// Progress of one piece of work: a bar on a terminal, a line a minute in a log.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    total: Option<u64>,
    began: Instant,
    /// Units that were done before `began`; they say nothing about the speed of this run.
    before: u64,
    /// When the last line of a log was written.
    said: Instant,
    quiet: bool,
}

/// Time between two lines of a log.
const LOG_EVERY: Duration = Duration::from_secs(60);

impl Progress {
    /// Sets the total, where it is not known from the beginning.
    pub fn of(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Reports `done` units of an earlier run; the time left is estimated from the rest.
    pub fn from(&mut self, done: u64) {
        (self.before, self.began, self.said) = (done, Instant::now(), Instant::now());
    }

    /// Reports that `done` units are finished.
    pub fn at(&mut self, done: u64) {
        if self.quiet {
            return;
        }
        if !std::io::stderr().is_terminal() {
            return self.log(done);
        }
        if self.bar.is_none() && self.began.elapsed() > Duration::from_secs(1) {
            let target = ProgressDrawTarget::stderr_with_hz(5);
            let (bar, style) = match self.total {
                Some(n) => (ProgressBar::new(n), "{msg} {wide_bar} {pos} of {len} {percent}% {left} left"),
                None => (ProgressBar::no_length(), "{msg} {human_pos} in {elapsed} {spinner}"),
            };
            bar.set_draw_target(target);
            let (before, began) = (self.before, self.began);
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.with_key("left", move |s: &ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = w.write_str(&left(before, s.pos(), s.len().unwrap_or(0), began.elapsed()));
                }));
            }
            bar.set_message(self.what.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn log(&mut self, done: u64) {
        let Some(total) = self.total.filter(|_| self.said.elapsed() > LOG_EVERY) else { return };
        self.said = Instant::now();
        let left = left(self.before, done, total, self.began.elapsed());
        say(&format!("{}: {done} of {total}, {left} left", self.what));
    }
}

/// The time left, if the rest goes as fast as the units from `before` to `done`, which took `time`.
fn left(before: u64, done: u64, total: u64, time: Duration) -> String {
    let (new, rest) = (done.saturating_sub(before), total.saturating_sub(done));
    match new {
        0 => "?".into(),
        n => format!("{:#}", HumanDuration(time.mul_f64(rest as f64 / n as f64))),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Parses the command line, runs `body`, and turns its result into an exit code.
pub fn run<P: Parser + AsMut<CommonArgs>>(args: Vec<OsString>, body: impl FnOnce(P) -> Result<()>) -> u8 {
    held::install();
    let cancel = Cancel::new();
    interrupt::listen(&cancel);
    let (mut args, matches) = match parse::<P>(args) {
        Ok(parsed) => parsed,
        Err(e) => {
            let printed = e.print();
            return match (e.use_stderr(), printed) {
                (true, _) => EXIT_USAGE,
                (false, Ok(())) => EXIT_OK,
                (false, Err(e)) => failed(&Error::io("-", e)),
            };
        }
    };
    args.as_mut().cancel = cancel;
    if let Err(e) = places::check(&P::command(), &matches) {
        return failed(&e);
    }
    match catch_unwind(AssertUnwindSafe(|| body(args))) {
        Ok(Ok(())) => EXIT_OK,
        Ok(Err(e)) => failed(&e),
        Err(_) => {
            say(
                "error: this is a fault of the program, not of what it was given: please report it, with the message above",
            );
            EXIT_SOFTWARE
        }
    }
}

fn parse<P: Parser>(args: Vec<OsString>) -> std::result::Result<(P, ArgMatches), clap::Error> {
    let matches = P::command().try_get_matches_from(args)?;
    let parsed = P::from_arg_matches(&matches).map_err(|e| e.format(&mut P::command()))?;
    Ok((parsed, matches))
}

/// Says what went wrong; the exit code.
fn failed(e: &Error) -> u8 {
    match e {
        // The reader of the output closed the pipe, which is not an error.
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => EXIT_OK,
        e => {
            say(&format!("error: {e}"));
            e.exit_code()
        }
    }
}

/// When to colour help and errors.
pub fn color_help() -> ColorChoice {
    if std::env::var_os("NO_COLOR").is_some() { ColorChoice::Never } else { ColorChoice::Auto }
}

/// Reads an option that takes a preset of a kind, by its name, or a file. A file that is missing is found missing when it is
/// read.
fn named(kind: PresetKind) -> impl Fn(&str) -> Result<PathBuf> + Clone {
    move |given| match held::resolve(kind, given, Path::new("")) {
        Err(Error::NoInput(path)) => match held::meant(kind, &path) {
            Some(name) => {
                let what = format!("no such file; the program has this {} inside, by the name {name}", kind.name());
                Err(Error::Usage(what))
            }
            None => Ok(path),
        },
        other => other,
    }
}

/// The table itself, or that of a folder of results.
fn table_in(path: &Path, file: &str) -> PathBuf {
    if path.is_dir() { path.join(file) } else { path.to_path_buf() }
}

/// Most threads that are started for each processor: more of them only wait for each other.
const THREADS_A_PROCESSOR: usize = 16;

/// Sets the number of threads for parallel work; 0 is one per processor.
fn threads(threads: usize) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = (THREADS_A_PROCESSOR * processors).max(64);
    if threads > most {
        let what = format!("--threads {threads}: at most {most} are of use here, with {processors} processors");
        return Err(Error::Usage(what));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|e| Error::Usage(format!("--threads {threads}: {e}")))
}

/// Text of `--help` on exit codes.
pub const EXIT_CODES: &str = "Exit codes: 0 done; 1 ran, but a check failed; 2 usage; 65 damaged input data; \
66 input missing; 70 fault of the program; 74 I/O error; 78 wrong configuration; 130 interrupted.";

/// Refuses a file whose ending promises another format than the one that is written.
fn check_ending(path: &Path, written: &[&str]) -> Result<()> {
    match path.extension() {
        Some(ending) if !written.iter().any(|w| ending.eq_ignore_ascii_case(w)) => {
            let all = written.iter().map(|w| format!(".{w}")).collect::<Vec<_>>().join(" or ");
            Err(Error::Usage(format!("-o {}: {all} is written, not .{}", path.display(), ending.display())))
        }
        _ => Ok(()),
    }
}

/// Writes text to standard output.
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("-", e))
}

/// The documentation of every table, of both programs, as Markdown.
pub fn tables_document() -> String {
    let mut out = pimattn_stats::tables::markdown();
    out.push_str("\n# Tables of pimsim artifact\n\n## bars.csv\n\nA row is a model, a policy and a context.\n");
    out.push_str(&markdown(&columns_of(pimattn_starc::artifact::BARS)));
    out.push_str("\n## steps.csv\n\nA row is a decode step: one layer, on one stack.\n");
    out.push_str(&markdown(&columns_of(pimattn_starc::artifact::STEPS)));
    out.push_str("\n# Table of pimsim audit --why\n\nA row is what held commands, or took cycles.\n");
    out.push_str(&markdown(&columns_of(pimattn_audit::why::COLUMNS)));
    out.push_str("\n# Table of pimsim system\n\nA row is the mean decode step of a service, or one of its steps.\n");
    out.push_str(&markdown(pimattn_experiments::end_to_end::table::services().columns()));
    out.push_str("\n# Table of pimsim system --switches\n\nA row is a switch.\n");
    out.push_str(&markdown(pimattn_experiments::end_to_end::table::switches().columns()));
    out.push_str("\n# Tables of pimsim reproduce\n");
    for (file, row, columns) in pimattn_starc::reproduce::columns::all() {
        out.push_str(&format!("\n## {file}\n\nA row is {row}.\n"));
        out.push_str(&markdown(&columns));
    }
    out.push_str("\n# Metrics of tracegen run\n\nA row is a query head of a layer at a decode step.\n");
    out.push_str(&markdown(pimattn_tracegen::generate::metrics_layout().columns()));
    out.push_str("\n# Table of tracegen agree\n\nA row is a figure of a layer, or of all that are compared.\n");
    out.push_str(&markdown(&columns_of(pimattn_tracegen::agree::COLUMNS)));
    out.push_str("\n# Table of pimsim sweep\n\nA row is a point of the grid, in its order: its place, its axes, its key, its result.\n");
    out.push_str(&markdown(
        &[&[store::POINT, store::KEY][..], pimattn_experiments::sweep::point::layout().columns()].concat(),
    ));
    for (file, row, columns) in [
        ("tune.csv", "a policy, a budget and a capability of the hardware", tune_table::tuned().columns().to_vec()),
        ("runs.csv", "a choice that was run, whole or its first steps", tune_table::runs().columns().to_vec()),
    ] {
        out.push_str(&format!("\n# {file} of pimsim tune\n\nA row is {row}.\n{}", markdown(&columns)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        common: CommonArgs,
    }

    impl AsMut<CommonArgs> for Flags {
        fn as_mut(&mut self) -> &mut CommonArgs {
            &mut self.common
        }
    }

    #[test]
    fn a_fault_of_the_program_has_an_exit_code_of_its_own() {
        assert_eq!(run::<Flags>(vec!["t".into()], |_| panic!("this panic is part of a test")), EXIT_SOFTWARE);
    }
}
