//! The slices of one channel's track, as begin and end events: steps, in them layers, in them heads, in them phases, in them
//! the host's work. Each begins and ends within the one that it is in, because what cycles are for changes for all levels
//! at once: the levels that change end, and begin anew.

use super::json::Microseconds;
use super::work::{StepOf, Stretch};
use crate::account::{CAUSES, Cause};
use crate::books::WAITING;
use pimattn_core::units::{ClockPeriod, Cycle};
use pimattn_trace::{Phase, Segment};
use std::fmt::Write;

/// A level of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SliceLevel {
    Step(u32),
    Layer(u32),
    /// The number of the segment in its channel.
    Head(u32),
    Part(usize),
    Host,
}

/// An open slice.
#[derive(Debug, Clone, Copy)]
struct OpenSlice {
    level: SliceLevel,
    cycles: Cycle,
    causes: [Cycle; CAUSES],
}

/// Process and thread of a track, and the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Track {
    pub pid: u32,
    pub tid: u32,
    pub channel: u32,
    pub clock: ClockPeriod,
}

/// The track of one channel.
pub(super) struct Slices {
    track: Track,
    open: Vec<OpenSlice>,
    /// End of the last stretch.
    at: Cycle,
    /// Segments whose selection has begun and whose attention has not; a few.
    selecting: Vec<u32>,
    /// The last segment that has attended.
    attended: u32,
}

/// Name of a phase, or of waiting for other channels, as in the tables.
fn part_name(part: usize) -> &'static str {
    match part {
        WAITING => "waiting",
        part => Phase::ALL[part].name(),
    }
}

impl Slices {
    /// No slice yet.
    pub fn new(track: Track) -> Self {
        Slices { track, open: Vec::new(), at: 0, selecting: Vec::new(), attended: 0 }
    }

    /// Goes on with a stretch; what begins and ends is appended to `out`, each event behind a comma.
    pub fn push(&mut self, s: &Stretch, out: &mut String) {
        let step = if let StepOf::Known(step) = s.step { step } else { None };
        let levels = [
            step.map(|(step, _)| SliceLevel::Step(step)),
            step.map(|(_, layer)| SliceLevel::Layer(layer)),
            s.segment.map(|(id, _)| SliceLevel::Head(id)),
            Some(SliceLevel::Part(s.part)),
            s.hosted.then_some(SliceLevel::Host),
        ];
        let levels = levels.into_iter().flatten();
        let same = self.open.iter().zip(levels.clone()).take_while(|(open, level)| open.level == *level).count();
        let same = if s.from == self.at { same } else { 0 };
        self.close_to(same, out);
        levels.skip(same).for_each(|level| self.begin(level, s, out));
        for open in &mut self.open {
            open.cycles += s.to - s.from;
            open.causes.iter_mut().zip(s.causes).for_each(|(sum, cycles)| *sum += cycles);
        }
        self.at = s.to;
    }

    /// Bytes of what is open.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.open.capacity() * size_of::<OpenSlice>() + self.selecting.capacity() * size_of::<u32>()
    }

    /// Ends the slices that are open.
    pub fn finish(&mut self, out: &mut String) {
        self.close_to(0, out);
    }

    /// Ends slices until so many are open.
    fn close_to(&mut self, depth: usize, out: &mut String) {
        while self.open.len() > depth {
            let Some(slice) = self.open.pop() else { return };
            let Track { pid, tid, clock, .. } = self.track;
            let ts = Microseconds(self.at, clock);
            let _ = write!(out, ",\n{{\"ph\":\"E\",\"ts\":{ts},\"pid\":{pid},\"tid\":{tid},\"args\":{{");
            let _ = write!(out, "\"cycles\":{}", slice.cycles);
            if let SliceLevel::Part(_) = slice.level {
                for cause in Cause::ALL {
                    let cycles = slice.causes[cause as usize];
                    if cycles > 0 {
                        let _ = write!(out, ",\"{}\":{cycles}", cause_name(cause));
                    }
                }
            }
            out.push_str("}}");
        }
    }

    fn begin(&mut self, level: SliceLevel, s: &Stretch, out: &mut String) {
        let Track { pid, tid, clock, channel } = self.track;
        let ts = Microseconds(s.from, clock);
        let mut event = |name: std::fmt::Arguments<'_>, kind: &str| {
            let _ = write!(
                out,
                ",\n{{\"ph\":\"B\",\"ts\":{ts},\"pid\":{pid},\"tid\":{tid},\"cat\":\"{kind}\",\"name\":\"{name}\",\"args\":{{"
            );
        };
        match level {
            SliceLevel::Step(step) => {
                event(format_args!("step {step}"), "step");
                let _ = write!(out, "\"step\":{step}");
            }
            SliceLevel::Layer(layer) => {
                event(format_args!("layer {layer}"), "layer");
                let _ = write!(out, "\"layer\":{layer}");
            }
            SliceLevel::Head(_) => {
                let Some((_, segment)) = &s.segment else { return };
                match (segment.request, segment.kv_heads) {
                    (_, 2..) => event(format_args!("{} KV heads", segment.kv_heads), "head"),
                    (0, _) => event(format_args!("KV head {}", segment.kv_head), "head"),
                    (request, _) => event(format_args!("request {request}, KV head {}", segment.kv_head), "head"),
                }
                head_args(segment, out);
            }
            SliceLevel::Part(part) => {
                event(format_args!("{}", part_name(part)), if part == WAITING { "wait" } else { "phase" })
            }
            SliceLevel::Host => event(format_args!("host"), "host"),
        }
        out.push_str("}}");
        self.open.push(OpenSlice { level, cycles: 0, causes: [0; CAUSES] });
        if let (SliceLevel::Part(part), Some((id, _))) = (level, s.segment) {
            self.flow(part, id, (s.from, channel), out);
        }
    }

    /// The arrow from the selection of a head to its attention, through all slices of the selection.
    fn flow(&mut self, part: usize, segment: u32, (at, channel): (Cycle, u32), out: &mut String) {
        let begun = self.selecting.iter().position(|s| *s == segment);
        let kind = match begun {
            None if part == Phase::Select as usize && segment > self.attended => {
                self.selecting.push(segment);
                "\"ph\":\"s\""
            }
            Some(_) if part == Phase::Select as usize => "\"ph\":\"t\"",
            Some(i) if part == Phase::AttendScore as usize => {
                self.selecting.remove(i);
                self.attended = self.attended.max(segment);
                "\"ph\":\"f\",\"bp\":\"e\""
            }
            None | Some(_) => return,
        };
        let Track { pid, tid, clock, .. } = self.track;
        let (ts, id) = (Microseconds(at, clock), u64::from(channel) << 32 | u64::from(segment));
        let _ = write!(
            out,
            ",\n{{{kind},\"ts\":{ts},\"pid\":{pid},\"tid\":{tid},\"cat\":\"selection\",\"name\":\"selected\",\"id\":{id}}}"
        );
    }
}

/// Name of a cause among the arguments of a slice: of its column, without what they have in common.
fn cause_name(cause: Cause) -> &'static str {
    cause.column().name.trim_start_matches("time_")
}

/// What the segment of a head says of it.
fn head_args(s: &Segment, out: &mut String) {
    let _ = write!(
        out,
        "\"request\":{},\"layer\":{},\"kv_head\":{},\"step\":{},\"position\":{},\"selected\":{},\"distinct\":{},\"row_blocks\":{},\"query_heads\":{}",
        s.request, s.layer, s.kv_head, s.step, s.position, s.selected, s.distinct, s.row_blocks, s.query_heads
    );
}
