//! `pimsim run --timeline`: which pictures of a run are written, and of which part.

use super::places::WrittenFile;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_stats::replay::Watchers;
use pimattn_stats::timeline::TimelineWindow;
use pimattn_stats::timeline::chrome::{ChromeOptions, ChromeTimeline};
use pimattn_stats::timeline::ram2bin::{self, Ram2bin};
use pimattn_trace::Header;
use std::path::Path;

/// Cycles of the command clock between two samples of the counters, if nothing else is said.
const SAMPLE_CYCLES: Cycle = 1000;

/// Arguments on timelines.
#[derive(Debug, clap::Args)]
pub struct TimelineArgs {
    /// Also write a timeline (one trace only; may be given again). F.json or F.json.gz: steps, layers, heads and phases of
    /// each channel, and counters, for Perfetto. F.ram2bin: every command, a file F.chN.ram2bin a channel, for Ramulator 2.1's
    /// viewer; for this every command is simulated, as with --engine plain
    #[arg(long, value_name = "FILE")]
    timeline: Vec<WrittenFile>,
    /// Cycles that timelines show, from 0, the end left out: 20000..40000, or 20000.. to the end of the run
    #[arg(long, value_name = "FIRST..END", default_value_t = TimelineWindow::ALL, hide_default_value = true, requires = "timeline")]
    window: TimelineWindow,
    /// Cycles between two samples of a timeline's counters
    #[arg(long, value_name = "CYCLES", default_value_t = SAMPLE_CYCLES, requires = "timeline", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Cycle,
}

/// A kind of timeline, by the ending of its file's name.
#[derive(PartialEq, Eq, Clone, Copy)]
enum TimelineKind {
    Chrome,
    Ram2bin,
}

impl TimelineKind {
    fn of(path: &Path) -> Result<TimelineKind> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match () {
            () if name.ends_with(".json") || name.ends_with(".json.gz") => Ok(TimelineKind::Chrome),
            () if name.ends_with(&format!(".{}", ram2bin::ENDING)) => Ok(TimelineKind::Ram2bin),
            () => Err(Error::Usage(format!(
                "--timeline {}: the ending says what to write; expected .json, .json.gz (for Perfetto) or .{} (for Ramulator's viewer)",
                path.display(),
                ram2bin::ENDING
            ))),
        }
    }
}

impl TimelineArgs {
    /// Refuses file names that say no kind of timeline, and more than one trace.
    pub fn check(&self, traces: usize) -> Result<()> {
        if traces > 1 && !self.timeline.is_empty() {
            return Err(Error::Usage("--timeline takes one trace".into()));
        }
        self.timeline.iter().try_for_each(|path| TimelineKind::of(path).map(drop))
    }

    /// Whether commands are asked for, with the requests that they serve.
    pub fn needs_requests(&self) -> bool {
        self.timeline.iter().any(|path| TimelineKind::of(path).is_ok_and(|kind| kind == TimelineKind::Ram2bin))
    }

    /// Adds what was asked for to the watchers of a trace.
    pub fn watch<'s>(
        &self,
        watchers: &mut Watchers<'s>,
        system: &'s System,
        header: &Header,
        trace: &str,
    ) -> Result<()> {
        for path in &self.timeline {
            match TimelineKind::of(path)? {
                TimelineKind::Ram2bin => {
                    watchers.ram2bin.push(Ram2bin::create(path, &system.device, self.window)?);
                }
                TimelineKind::Chrome => {
                    let groups = stacks(header, system.device.geometry.channels);
                    let options =
                        ChromeOptions { window: self.window, interval: self.sample, groups, trace: trace.into() };
                    watchers.chrome.push(ChromeTimeline::create(path, system, header, options)?);
                }
            }
        }
        Ok(())
    }
}

/// Stacks of all devices, as the workload of a trace divides the channels; one where a trace does not say it.
fn stacks(header: &Header, channels: u32) -> u32 {
    let workload = header.config.parse::<toml::Table>().unwrap_or_default();
    let count = |key: &str| {
        let placement = workload.get("placement").and_then(|p| p.get(key));
        placement.and_then(toml::Value::as_integer).and_then(|n| u32::try_from(n).ok())
    };
    let stacks = count("devices").unwrap_or(1).saturating_mul(count("stacks").unwrap_or(1));
    if stacks > 0 && channels.is_multiple_of(stacks) { stacks } else { 1 }
}

/// Completes the files of the watchers; `log` is the log's.
pub fn finish(watchers: Watchers<'_>, log: Option<&Path>) -> Result<()> {
    let Watchers { log: log_probe, chrome, ram2bin } = watchers;
    if let (Some(probe), Some(log)) = (log_probe, log) {
        probe.finish().map_err(|e| Error::io(log, e))?.commit()?;
    }
    chrome.into_iter().try_for_each(ChromeTimeline::finish)?;
    ram2bin.into_iter().try_for_each(Ram2bin::finish)
}
