//! Chrome's trace events, as JSON: what ui.perfetto.dev and Perfetto's trace processor open.
//!
//! A process is a stack (or the channels that the trace divides alike), a thread is a channel. The slices of a channel
//! are begin and end events in the order of time; channels come one after the other, so that the file does not
//! depend on the order in which the engine lets them advance. Counters follow, summed over the channels of a process.

use super::TimelineWindow;
use super::json::{Microseconds, Quoted};
use super::samples::{SAMPLE_BYTES, Sample, SampleRules, Sampler};
use super::slices::{Slices, Track};
use super::work::AccountedWork;
use crate::account::Durations;
use crate::counters::{self, Counters, Rules};
use crate::energy::Energy;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::{self, Output};
use pimattn_core::spec::System;
use pimattn_core::spool::{Spool, SpoolCursor, Spooled};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandEvent, Probe};
use pimattn_trace::{Header, Phase, Segment};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a timeline shows, and what it says of itself.
#[derive(Debug, Clone)]
pub struct ChromeOptions {
    /// The cycles that it shows.
    pub window: TimelineWindow,
    /// Cycles between two samples of the counters.
    pub interval: Cycle,
    /// Groups of neighbouring channels, a process each: the stacks of all devices.
    pub groups: u32,
    /// Name of the trace.
    pub trace: String,
}

/// What is known of one channel.
struct WatchedChannel {
    work: AccountedWork,
    slices: Slices,
    sampler: Sampler,
    over: bool,
}

/// Writes a timeline. An error is kept for [`ChromeTimeline::finish`].
pub struct ChromeTimeline<'s> {
    path: PathBuf,
    compressed: bool,
    system: &'s System,
    options: ChromeOptions,
    header: Header,
    durations: Durations,
    rules: Rules,
    channels: Vec<WatchedChannel>,
    /// Step and layer of the latest segment.
    latest: Option<(u32, u32)>,
    spool: Spool,
    text: String,
    end: Cycle,
    error: Option<Error>,
}

/// Where files beside another one go.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Ids of threads, which no process has.
fn thread(channel: u32, groups: u32) -> u32 {
    groups + 1 + channel
}

impl<'s> ChromeTimeline<'s> {
    /// A timeline at `path`, compressed if its name ends in `.gz`, of a trace with this header.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder of `path` takes no file; [`Error::Usage`] if the groups do not divide the channels.
    pub fn create(path: &Path, system: &'s System, header: &Header, options: ChromeOptions) -> Result<Self> {
        let device = &system.device;
        let n = device.geometry.channels;
        if options.groups == 0 || !n.is_multiple_of(options.groups) || options.interval == 0 {
            let what =
                format!("{n} channels are not {} groups, sampled every {} cycles", options.groups, options.interval);
            return Err(Error::Usage(what));
        }
        let track = |channel: u32| Track {
            pid: channel / (n / options.groups) + 1,
            tid: thread(channel, options.groups),
            channel,
            clock: device.clock,
        };
        let channel = |channel| WatchedChannel {
            work: AccountedWork::new(options.window),
            slices: Slices::new(track(channel)),
            sampler: Sampler::new(&device.geometry),
            over: false,
        };
        Ok(ChromeTimeline {
            path: path.into(),
            compressed: path.extension().is_some_and(|e| e == "gz"),
            system,
            header: header.clone(),
            durations: Durations::new(device),
            rules: counters::rules(device),
            channels: (0..n).map(channel).collect(),
            latest: None,
            spool: Spool::new(folder_of(path), 2 * n as usize)?,
            text: String::new(),
            end: 0,
            error: None,
            options,
        })
    }

    /// Runs a sampler.
    #[inline]
    fn sample(
        &mut self,
        channel: usize,
        take: impl FnOnce(&mut Sampler, &SampleRules<'_>, &mut dyn FnMut(u64, &Sample)),
    ) {
        let rules = SampleRules {
            system: self.system,
            durations: &self.durations,
            counters: &self.rules,
            window: self.options.window,
            interval: self.options.interval,
        };
        let stream = self.channels.len() + channel;
        let (spool, error) = (&mut self.spool, &mut self.error);
        take(&mut self.channels[channel].sampler, &rules, &mut |index, sample| {
            if let Err(e) = spool.write(stream, &sample.bytes(index)) {
                error.get_or_insert(e);
            }
        });
    }

    /// Writes the slices of which it is known what they are.
    fn drain(&mut self, channel: usize) {
        let WatchedChannel { work, slices, over, .. } = &mut self.channels[channel];
        self.text.clear();
        while let Some(stretch) = work.next(self.latest) {
            slices.push(&stretch, &mut self.text);
        }
        *over |= work.is_over();
        self.spool_text(channel);
    }

    fn spool_text(&mut self, channel: usize) {
        if !self.text.is_empty() {
            let written = self.spool.write(channel, self.text.as_bytes());
            if let Err(e) = written {
                self.error.get_or_insert(e);
            }
        }
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`] of anything that was written.
    pub fn finish(mut self) -> Result<()> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        let out = Output::create(&self.path)?;
        let path = self.path.clone();
        let flushed = |e| Error::io(&path, e);
        match self.compressed {
            false => self.write(out)?.commit(),
            true => self.write(fsio::gzip(out))?.finish().map_err(flushed)?.commit(),
        }
    }

    fn write<W: Write>(self, mut out: W) -> Result<W> {
        let (path, end) = (self.path.clone(), self.end.min(self.options.window.end()));
        let io = |e| Error::io(&path, e);
        out.write_all(self.head().as_bytes()).map_err(io)?;
        let channels = self.channels.len();
        let (system, options) = (self.system, self.options);
        let mut spooled = self.spool.finish()?;
        for channel in 0..channels {
            spooled.copy(channel, &mut out, &path)?;
        }
        let per_group = channels / options.groups as usize;
        for group in 0..options.groups {
            let first = channels + group as usize * per_group;
            let mut counters = CounterTrack {
                pid: group + 1,
                system,
                options: &options,
                end,
                channels: per_group,
                said: [const { None }; 4],
            };
            counters.write(&mut spooled, first, &mut out, &path)?;
        }
        out.write_all(b"\n]}\n").map_err(io)?;
        Ok(out)
    }

    /// What the timeline says of itself, and the names of processes and threads.
    fn head(&self) -> String {
        use std::fmt::Write;
        let (device, header, options) = (&self.system.device, &self.header, &self.options);
        let g = &device.geometry;
        let mut out = String::from("{\"displayTimeUnit\":\"ns\",\"otherData\":{");
        let said = [
            ("generator", concat!("pimsim ", env!("CARGO_PKG_VERSION")).to_string()),
            ("trace", options.trace.clone()),
            ("trace_generator", header.generator.clone()),
            ("trace_source", header.provenance.clone()),
            ("trace_seed", header.seed.to_string()),
            ("trace_mapping_crc32", format!("{:08x}", header.spec_hash)),
            ("system", self.system.name.clone()),
            ("device", format!("{} {}", device.name, device.preset)),
            ("geometry", g.to_string()),
            ("clock_ps", device.clock.0.to_string()),
            ("time_unit", "ts is in microseconds, exact to the picosecond; args.cycles in cycles of the clock".into()),
            ("window_cycles", options.window.to_string()),
            ("run_cycles", self.end.to_string()),
            ("sample_cycles", options.interval.to_string()),
        ];
        for (i, (key, value)) in said.iter().enumerate() {
            let _ = write!(out, "{}\n\"{key}\":{}", if i > 0 { "," } else { "" }, Quoted(value));
        }
        out.push_str("},\n\"traceEvents\":[");
        let per_group = g.channels / options.groups;
        let mut comma = "";
        let mut meta = |pid: u32, tid: Option<u32>, what: &str, value: String| {
            let tid = tid.map_or(String::new(), |tid| format!(",\"tid\":{tid}"));
            let _ =
                write!(out, "{comma}\n{{\"ph\":\"M\",\"pid\":{pid}{tid},\"name\":\"{what}\",\"args\":{{{value}}}}}");
            comma = ",";
        };
        for group in 0..options.groups {
            let pid = group + 1;
            let (first, last) = (group * per_group, (group + 1) * per_group - 1);
            let name = format!("stack {group}: {}, channels {first} to {last}", device.name);
            meta(pid, None, "process_name", format!("\"name\":{}", Quoted(&name)));
            meta(pid, None, "process_sort_index", format!("\"sort_index\":{group}"));
            for channel in first..=last {
                let tid = Some(thread(channel, options.groups));
                meta(pid, tid, "thread_name", format!("\"name\":\"channel {channel}\""));
                meta(pid, tid, "thread_sort_index", format!("\"sort_index\":{channel}"));
            }
        }
        out
    }
}

impl Probe for ChromeTimeline<'_> {
    fn command(&mut self, e: &CommandEvent) {
        let channel = e.address.channel as usize;
        if self.channels[channel].over {
            return;
        }
        self.sample(channel, |sampler, rules, mut out| sampler.command(e, rules, &mut out));
        self.channels[channel].work.command(e, &self.durations);
        self.drain(channel);
    }

    fn host(&mut self, channel: u32, segment: u32, phase: Phase, begin: Cycle, cycles: Cycle) {
        let work = &mut self.channels[channel as usize].work;
        work.host((segment, phase), begin, cycles, &self.durations);
        self.drain(channel as usize);
    }

    fn segment_begin(&mut self, id: u32, segment: &Segment) {
        let step = self.latest.map_or(segment.step, |(step, _)| step.max(segment.step));
        self.channels[segment.channel as usize].work.segment_begin(id, segment);
        self.latest = Some((step, segment.layer));
        self.drain(segment.channel as usize);
    }

    fn segment_end(&mut self, channel: u32, id: u32, _: Cycle) {
        self.channels[channel as usize].work.segment_end(id, &self.durations);
    }

    fn channel_waits(&mut self, channel: u32, done: Cycle, met: Cycle) {
        self.channels[channel as usize].work.wait(done, met, &self.durations);
        self.drain(channel as usize);
    }

    fn sync(&mut self, _: Cycle) {
        for channel in 0..self.channels.len() {
            self.channels[channel].work.sync(self.latest);
            self.drain(channel);
        }
    }

    fn end(&mut self, cycle: Cycle) {
        self.end = cycle;
        for channel in 0..self.channels.len() {
            self.sample(channel, |sampler, rules, mut out| sampler.end(cycle, rules, &mut out));
            self.channels[channel].work.end(self.latest);
            self.drain(channel);
            self.text.clear();
            self.channels[channel].slices.finish(&mut self.text);
            self.spool_text(channel);
        }
    }
}

/// The counters of one process.
struct CounterTrack<'o> {
    pid: u32,
    system: &'o System,
    options: &'o ChromeOptions,
    /// Where the run, or the window, ends.
    end: Cycle,
    channels: usize,
    /// What each counter said last.
    said: [Option<String>; 4],
}

impl CounterTrack<'_> {
    /// Writes the counters of the channels whose streams begin at `first`.
    fn write(&mut self, spooled: &mut Spooled, first: usize, out: &mut impl Write, path: &Path) -> Result<()> {
        let (begin, interval) = (self.options.window.first(), self.options.interval);
        if self.end <= begin {
            return Ok(());
        }
        // A refresh may come after the last result of the run: it counts for the last interval.
        let last = (self.end - begin - 1) / interval;
        let mut channels: Vec<(SpoolCursor, Option<(u64, Sample)>)> =
            (first..first + self.channels).map(|stream| (spooled.cursor(stream), None)).collect();
        let mut read = |cursor: &mut SpoolCursor| -> Result<Option<(u64, Sample)>> {
            let mut bytes = [0; SAMPLE_BYTES];
            Ok(spooled.record(cursor, &mut bytes)?.then(|| Sample::parse(&bytes)).map(|(i, s)| (i.min(last), s)))
        };
        for (cursor, next) in &mut channels {
            *next = read(cursor)?;
        }
        let mut at = 0;
        while at <= last {
            let mut sum = Sample::default();
            for (cursor, next) in &mut channels {
                while let Some((_, sample)) = next.filter(|(i, _)| *i == at) {
                    sum.add(&sample);
                    *next = read(cursor)?;
                }
            }
            self.say(at, &sum, out).map_err(|e| Error::io(path, e))?;
            // Of some empty intervals in a row, the first and the last one say all; the last is shorter than the others.
            let soonest = channels.iter().filter_map(|(_, next)| next.map(|(i, _)| i)).min();
            let next = soonest.unwrap_or(last).min(last);
            at = if sum == Sample::default() && next > at { next } else { at + 1 };
        }
        Ok(())
    }

    /// Writes what has changed in an interval.
    fn say(&mut self, index: u64, s: &Sample, out: &mut impl Write) -> std::io::Result<()> {
        let (device, pid) = (&self.system.device, self.pid);
        let begin = self.options.window.first() + index * self.options.interval;
        let cycles = self.options.interval.min(self.end - begin);
        let (n, ns) = (cycles as f64, device.clock.ns(cycles));
        let standing = Energy::of(&Counters::default(), cycles * self.channels as u64, device, self.system.energy);
        let e = &s.energy;
        let power = [
            ("activation", e.activation),
            ("column", e.column),
            ("movement", e.movement),
            ("compute", e.compute),
            ("refresh", e.refresh),
            ("background", standing.background),
        ];
        let power: Vec<String> = power.iter().map(|(part, pj)| format!("\"{part}\":{:.3}", pj / ns)).collect();
        let bytes = [("multiplied", s.multiplied), ("read and written", s.accessed), ("buffers", s.buffered)];
        let bytes: Vec<String> = bytes.iter().map(|(part, bytes)| format!("\"{part}\":{bytes}")).collect();
        let counters = [
            ("open units", format!("\"units\":{:.3}", s.open as f64 / n)),
            ("MACs in flight", format!("\"banks\":{:.3}", s.multiplying as f64 / n)),
            ("power in mW", power.join(",")),
            ("bytes moved", bytes.join(",")),
        ];
        for ((name, args), said) in counters.into_iter().zip(&mut self.said) {
            if said.as_ref() != Some(&args) {
                let ts = Microseconds(begin, device.clock);
                write!(out, ",\n{{\"ph\":\"C\",\"ts\":{ts},\"pid\":{pid},\"name\":\"{name}\",\"args\":{{{args}}}}}")?;
                *said = Some(args);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::addr::Address;
    use pimattn_core::op::Op;
    use pimattn_engine::probe::{Completion, NO_REQUEST, RowOutcome};

    fn system() -> System {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        System::load(&configs.join("system/hbm3-pim.toml"), &["channels=2".into()]).unwrap()
    }

    /// Bytes that the timeline holds for the run so far, its blocks aside, whose size is fixed.
    fn held(timeline: &ChromeTimeline<'_>) -> usize {
        timeline.text.capacity() + timeline.channels.iter().map(|c| c.work.held() + c.slices.held()).sum::<usize>()
    }

    /// Two channels that work in turn, segment after segment, and meet now and then; the most that was held.
    fn play(system: &System, path: &Path, segments: u32) -> usize {
        let header = Header::foreign(system.device.geometry, "test");
        let options = ChromeOptions { window: TimelineWindow::ALL, interval: 50, groups: 1, trace: "test".into() };
        let mut timeline = ChromeTimeline::create(path, system, &header, options).unwrap();
        let command = system.device.command("MACAB").unwrap();
        let (mut most, mut cycle) = (0, 0);
        for id in 1..=segments {
            for channel in 0..2 {
                let segment = Segment { channel, step: id / 4, layer: id % 4, kv_head: 1, ..Segment::default() };
                timeline.segment_begin(id, &segment);
                for phase in [Phase::Select, Phase::AttendScore, Phase::Softmax, Phase::AttendContext] {
                    for i in 0..8 {
                        let event = CommandEvent {
                            cycle: cycle + 10 * (phase as u64 * 8 + i),
                            command,
                            address: Address { channel, ..Address::default() },
                            banks: 64,
                            units: 0,
                            segment: id,
                            phase,
                            completes: Some(Completion { op: Op::MacAb, row: RowOutcome::Hit }),
                            request: NO_REQUEST,
                        };
                        timeline.command(&event);
                        most = most.max(held(&timeline));
                    }
                }
                timeline.segment_end(channel, id, cycle + 640);
            }
            cycle += 700;
            if id % 3 == 0 {
                (0..2).for_each(|channel| timeline.channel_waits(channel, cycle - 60, cycle));
                timeline.sync(cycle);
            }
        }
        (0..2).for_each(|channel| timeline.channel_waits(channel, cycle, cycle));
        timeline.end(cycle);
        timeline.finish().unwrap();
        most
    }

    #[test]
    fn a_timeline_holds_no_more_of_a_longer_run() {
        let folder = tempfile::tempdir().unwrap();
        let (system, path) = (system(), folder.path().join("t.json"));
        let short = play(&system, &path, 60);
        let once = std::fs::metadata(&path).unwrap().len();
        let long = play(&system, &path, 600);
        let ten_times = std::fs::metadata(&path).unwrap().len();
        assert!(ten_times > 9 * once, "{once} and {ten_times} bytes written");
        assert_eq!(short, long, "bytes held for {once} and {ten_times} bytes written");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
