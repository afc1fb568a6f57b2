//! The compatibility controller: AttAcc's patched Ramulator 2.0, cycle for cycle and command for command.
//!
//! It keeps the reference's flaws, for it is there to show that other results differ for their reasons only. Where
//! the reference reads memory that it has freed (the kind of a cycle's first command), the repaired meaning holds: the
//! kind of the command issued, or of the last one looked at when none was.
//!
//! - [`nodes`]: banks, rows and timing of a channel, with the reference's reading of levels;
//! - [`queue`]: the queues of a channel and the choice among requests;
//! - [`controller`]: the cycle of a channel;
//! - [`cacheable`]: what the replay cache needs of it;
//! - here: the one in-order stream that feeds all channels, and the clock.
//!
//! Segments and marks are labels that change no cycle: the reference has none. Nor has it PIM_SYNC, a run for each layer
//! and step taking its place: the stream holds until every queue is empty, which is when a run ends, and goes on in the
//! next cycle. Rows stay open and refreshes keep their phase, which a new run would not see. Other operations that the
//! reference does not know are errors; PIM_HOST would stall one channel, and the one stream then all of them. Its clock
//! counts from 1, and a run is as long as the number of its last cycle. Cycles in which no channel can do anything are
//! passed over.

mod cacheable;
pub(crate) mod controller;
mod nodes;
mod queue;

use super::probe::Probe;
use super::replay_cache::compat::CompatReplay;
use super::{RecordReader, Stop};
use controller::CompatController;
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_core::spec::system::Refresh;
use pimattn_core::units::Cycle;
use pimattn_trace::{ChannelRun, PackedRecord, Record, Request};

/// Refresh intervals without a completed request after which the channels are taken to be in a livelock. Refreshes
/// fall at ever other points of the commands that go round in circles, and may break the circle after dozens of
/// intervals; the reference itself fails after so many, when its queue of refreshes is full and does not move.
const PATIENCE: Cycle = 784;
/// Such intervals without refreshes, where nothing from outside can break a circle.
const PATIENCE_ALONE: Cycle = 16;

/// Cycles looked at between two looks at the cancel token.
const BREATH: u32 = 1 << 14;

/// The stream of requests, runs taken apart.
pub(crate) struct Frontend<'s> {
    pub(crate) reader: RecordReader<'s>,
    /// The rest of the current run.
    run: Option<Request>,
    /// Requests sent.
    pub(crate) sent: u64,
    /// Whether the channels have just met.
    met: bool,
}

impl Frontend<'_> {
    /// Sends requests until one is refused, all channels must meet, or the stream ends.
    fn send<P: Probe>(&mut self, channels: &mut [CompatController<'_>], now: Cycle, probe: &mut P) -> Result<Stop> {
        loop {
            let Some(run) = self.current(channels, probe)? else { return Ok(Stop::End) };
            if run.op == Op::Sync {
                return Ok(Stop::Sync);
            }
            let channel = self.reader.geometry.channel_of(run.addr);
            if !channels[channel as usize].offer(run.op, run.addr, now, probe)? {
                return Ok(Stop::Full);
            }
            self.sent += 1;
            self.pass(run);
        }
    }

    /// Whether the replay cache may take over: at the beginning, and behind a sync.
    fn may_be_cached(&mut self) -> bool {
        if !std::mem::take(&mut self.met) || !self.reader.takes_runs() {
            return false;
        }
        let run = self.run.take();
        self.reader.back.extend(run.map(|request| PackedRecord::Run(ChannelRun { request, channels: 1 })));
        true
    }

    /// Goes on to the request behind the first of a run.
    fn pass(&mut self, run: Request) {
        let rest = Request { addr: run.addr + u64::from(run.stride), count: run.count - 1, ..run };
        self.run = (rest.count > 0).then_some(rest);
    }

    /// Goes past the syncs at which all channels are idle ahead of cycle `now`, and sends what is behind them.
    fn send_past_syncs<P: Probe>(
        &mut self,
        channels: &mut [CompatController<'_>],
        now: Cycle,
        probe: &mut P,
    ) -> Result<SendOutcome> {
        let mut met = false;
        loop {
            let stop = self.send(channels, now, probe)?;
            let idle = stop != Stop::Full && !channels.iter().any(CompatController::is_pending);
            let Some(sync) = self.run.filter(|_| idle && stop == Stop::Sync) else {
                return Ok(SendOutcome { stop, over: met && idle });
            };
            (met, self.met) = (true, true);
            meet(channels, now - 1, probe);
            probe.sync(now - 1);
            self.pass(sync);
        }
    }

    /// The run to send of; labels ahead of it go to their channels.
    fn current<P: Probe>(&mut self, channels: &mut [CompatController<'_>], probe: &mut P) -> Result<Option<Request>> {
        while self.run.is_none() {
            match self.reader.next()? {
                None => return Ok(None),
                Some(Record::Request(request)) => self.run = Some(request),
                Some(Record::Segment(s)) => channels[s.channel as usize].segments.take(&s, probe),
                Some(Record::Mark(m)) => channels[m.channel as usize].segments.mark(&m),
                Some(Record::Arrival(_)) => {
                    let what = "it has arrival cycles, which the compat controller does not know";
                    return Err(Error::data("trace", what));
                }
            }
        }
        Ok(self.run)
    }
}

/// How far the stream got in a cycle.
struct SendOutcome {
    /// Why no more was sent.
    stop: Stop,
    /// Whether a sync was the end of it, so that the cycle before was the last.
    over: bool,
}

/// The channels have done all that they were given.
fn meet<P: Probe>(channels: &mut [CompatController<'_>], at: Cycle, probe: &mut P) {
    for (id, channel) in (0..).zip(channels) {
        channel.segments.end(probe);
        probe.channel_waits(id, channel.done_at(), at);
    }
}

/// Replays a trace as the reference does and returns its length in cycles.
pub fn run<P: Probe>(
    system: &System,
    reader: RecordReader<'_>,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    let device = &system.device;
    let refresh = system.refresh == Refresh::AllBank && device.refresh.is_some();
    let channels = 0..device.geometry.channels;
    let mut channels: Vec<_> =
        channels.map(|id| CompatController::new(device, id, system.queue_depth, refresh)).collect();
    let mut frontend = Frontend { reader, run: None, sent: 0, met: true };
    let patience = device.nrefi * if refresh { PATIENCE } else { PATIENCE_ALONE };
    let mut replay = CompatReplay::new(device, system.refreshes, patience);
    let (mut now, mut rounds) = (1, 0u32);
    loop {
        if frontend.may_be_cached() {
            now = replay.run(&mut frontend, &mut channels, now, probe, progress)?;
        }
        let SendOutcome { stop, over } = frontend.send_past_syncs(&mut channels, now, probe)?;
        if over {
            now -= 1;
            break;
        }
        let (mut wake, mut done) = (Cycle::MAX, 0);
        for channel in &mut channels {
            if channel.wake() <= now {
                channel.tick(now, probe);
            }
            wake = wake.min(channel.wake());
            done = done.max(channel.done_at());
        }
        if stop != Stop::Full && !channels.iter().any(CompatController::is_pending) {
            if stop == Stop::End {
                break;
            }
            wake = now + 1;
        }
        if wake == Cycle::MAX || now - done > patience {
            return Err(livelock(&channels, now, done));
        }
        now = wake.max(now + 1);
        rounds = rounds.wrapping_add(1);
        if rounds % BREATH == 0 {
            frontend.reader.cancel.check()?;
            progress(frontend.sent);
        }
    }
    progress(frontend.sent);
    meet(&mut channels, now, probe);
    (0..).zip(&channels).for_each(|(id, channel)| probe.channel_end(id, channel.done_at()));
    probe.end(now);
    Ok(now)
}

/// The error where nothing completes any more; it names the channel that has waited longest.
fn livelock(channels: &[CompatController<'_>], now: Cycle, done: Cycle) -> Error {
    let longest = channels.iter().filter(|c| c.has_requests()).min_by_key(|c| c.done_at());
    let at = longest.map_or("no request waits".into(), CompatController::stuck_at);
    let what = format!("livelock, as in the reference: {at}; nothing has completed since cycle {done} (now {now})");
    Error::data("trace", what)
}
