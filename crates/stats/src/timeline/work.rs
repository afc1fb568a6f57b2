//! What each cycle of a channel is for, in the order of time: the stretches that [`ChannelAccount`] credits, with the step,
//! layer and head that the tables of a run give them to.

use super::TimelineWindow;
use crate::account::{CAUSES, Cause, ChannelAccount, Durations, Ledger, Time, TimeOwner};
use crate::books::WAITING;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::CommandEvent;
use pimattn_trace::{Phase, Segment};
use std::collections::VecDeque;

/// Stretches that wait to learn their step, above which they are given to the step that is known. Only a channel that has
/// no segment for that long, and whose host works in turn with it, gets there.
const MOST_PENDING: usize = 1 << 12;

/// The step and the layer that some cycles count for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepOf {
    /// Those, or none.
    Known(Option<(u32, u32)>),
    /// It depends on what the channel, or others, do next.
    Pending,
}

/// Cycles of a channel that are for the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stretch {
    pub from: Cycle,
    pub to: Cycle,
    pub step: StepOf,
    /// The segment, with its number in the channel, if it is for one.
    pub segment: Option<(u32, Segment)>,
    /// The phase, as an index of [`CountsByPhase`](crate::books::CountsByPhase): [`WAITING`] is waiting for others.
    pub part: usize,
    /// Whether the host works on it.
    pub hosted: bool,
    /// The cycles by cause.
    pub causes: [Cycle; CAUSES],
}

impl Stretch {
    /// Whether another one that begins where this ends is for the same.
    fn goes_on_in(&self, next: &Stretch) -> bool {
        let id = |s: &Stretch| s.segment.map(|(id, _)| id);
        (self.to, self.step, id(self), self.part, self.hosted)
            == (next.from, next.step, id(next), next.part, next.hosted)
    }

    fn append(&mut self, next: &Stretch) {
        self.to = next.to;
        self.causes.iter_mut().zip(next.causes).for_each(|(sum, cycles)| *sum += cycles);
    }
}

/// A segment to which cycles may still be credited, as in the books of the tables.
struct OpenWork {
    id: u32,
    segment: Segment,
    closes: Option<Cycle>,
}

/// The work of one channel.
pub(super) struct AccountedWork {
    account: ChannelAccount,
    book: WorkBook,
}

/// Where the account's cycles go.
struct WorkBook {
    window: TimelineWindow,
    open: VecDeque<OpenWork>,
    /// Complete segments among them.
    complete: usize,
    /// Step and layer that the channel is in.
    own: Option<(u32, u32)>,
    /// Whether a segment has begun since the last sync.
    began: bool,
    /// Work of the host, told ahead.
    hosted: VecDeque<Stretch>,
    /// Stretches that have not been taken, in the order of time.
    queue: VecDeque<Stretch>,
    /// What nobody asks the account for here.
    unused: Time,
}

impl WorkBook {
    /// The work of a command; one of no segment, such as a refresh, is for the oldest open segment.
    fn owner(&self, segment: u32, phase: Phase) -> TimeOwner {
        let segment = if segment == 0 { self.open.front().map_or(0, |o| o.id) } else { segment };
        TimeOwner { segment, phase }
    }

    fn stretch(&self, from: Cycle, to: Cycle, cause: Cause, (segment, part): (u32, usize)) -> Option<Stretch> {
        let (from, to) = self.window.clip(from, to)?;
        let segment = self.open.iter().find(|o| o.id == segment).map(|o| (o.id, o.segment));
        let step = match segment {
            Some((_, s)) => StepOf::Known(Some((s.step, s.layer))),
            None if self.began => StepOf::Known(self.own),
            None => StepOf::Pending,
        };
        let mut causes = [0; CAUSES];
        causes[cause as usize] = to - from;
        Some(Stretch { from, to, step, segment, part, hosted: false, causes })
    }

    fn push(&mut self, stretch: Stretch) {
        self.push_hosted(stretch.from);
        self.append(stretch);
    }

    /// Queues the host's work that begins before a cycle.
    fn push_hosted(&mut self, before: Cycle) {
        while let Some(hosted) = self.hosted.front().copied().filter(|h| h.from < before) {
            self.hosted.pop_front();
            self.append(hosted);
        }
    }

    fn append(&mut self, stretch: Stretch) {
        match self.queue.back_mut() {
            Some(last) if last.goes_on_in(&stretch) => last.append(&stretch),
            _ => self.queue.push_back(stretch),
        }
    }

    /// Says which step and layer pending cycles are for.
    fn resolve(&mut self, step: Option<(u32, u32)>) {
        let pending = |s: &&mut Stretch| s.step == StepOf::Pending;
        self.queue.iter_mut().chain(&mut self.hosted).filter(pending).for_each(|s| s.step = StepOf::Known(step));
    }

    fn write_off(&mut self, frontier: Cycle, all: bool) {
        if self.complete > 0 {
            self.open.retain(|o| o.closes.is_none_or(|c| !all && c > frontier));
            self.complete = self.open.iter().filter(|o| o.closes.is_some()).count();
        }
    }

    /// The step goes on to the latest of all channels.
    fn catch_up(&mut self, latest: Option<(u32, u32)>) {
        if let (Some((step, _)), Some((latest, layer))) = (self.own, latest) {
            self.own = Some((step.max(latest), layer));
        }
    }
}

impl Ledger for WorkBook {
    fn time(&mut self, _: TimeOwner) -> &mut Time {
        &mut self.unused
    }

    fn settle(&mut self, _: u64, _: u64) {}

    fn waiting(&mut self) -> &mut Time {
        &mut self.unused
    }

    fn spent(&mut self, from: Cycle, to: Cycle, cause: Cause, work: TimeOwner) {
        if let Some(stretch) = self.stretch(from, to, cause, (work.segment, work.phase as usize)) {
            self.push(stretch);
        }
    }

    fn hosted(&mut self, from: Cycle, to: Cycle, work: TimeOwner) {
        if let Some(stretch) = self.stretch(from, to, Cause::Stall, (work.segment, work.phase as usize)) {
            self.hosted.push_back(Stretch { hosted: true, ..stretch });
        }
    }

    fn waited(&mut self, from: Cycle, to: Cycle) {
        if let Some(stretch) = self.stretch(from, to, Cause::ImbalanceChannels, (0, WAITING)) {
            self.push(stretch);
        }
    }
}

impl AccountedWork {
    /// Nothing done yet.
    pub fn new(window: TimelineWindow) -> Self {
        let book = WorkBook {
            window,
            open: VecDeque::new(),
            complete: 0,
            own: None,
            began: false,
            hosted: VecDeque::new(),
            queue: VecDeque::new(),
            unused: Time::default(),
        };
        AccountedWork { account: ChannelAccount::default(), book }
    }

    /// Whether nothing more can come into the window.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.account.frontier() >= self.book.window.end() && self.book.queue.is_empty() && self.book.hosted.is_empty()
    }

    /// The channel issued a command.
    pub fn command(&mut self, e: &CommandEvent, durations: &Durations) {
        let work = self.book.owner(e.segment, e.phase);
        self.account.command(e, work, durations, &mut self.book);
        self.book.write_off(self.account.frontier(), false);
    }

    /// The host works.
    pub fn host(&mut self, (segment, phase): (u32, Phase), begin: Cycle, cycles: Cycle, durations: &Durations) {
        let work = self.book.owner(segment, phase);
        self.account.host(begin, cycles, work, durations, &mut self.book);
    }

    /// The channel took up a segment.
    pub fn segment_begin(&mut self, id: u32, segment: &Segment) {
        let book = &mut self.book;
        let new = Some((segment.step, segment.layer));
        book.resolve(book.own.or(new));
        (book.own, book.began) = (new, true);
        book.open.push_back(OpenWork { id, segment: *segment, closes: None });
    }

    /// A segment is complete.
    pub fn segment_end(&mut self, id: u32, durations: &Durations) {
        let closes = self.account.owes_until(id, durations);
        if let Some(open) = self.book.open.iter_mut().find(|o| o.id == id) {
            open.closes = Some(closes);
            self.book.complete += 1;
        }
        self.book.write_off(self.account.frontier(), false);
    }

    /// The channel waits for others.
    pub fn wait(&mut self, done: Cycle, met: Cycle, durations: &Durations) {
        self.account.wait(done, met, durations, &mut self.book);
        self.book.push_hosted(met);
        self.book.write_off(self.account.frontier(), true);
    }

    /// All channels met; the latest step of all and its layer are `latest`.
    pub fn sync(&mut self, latest: Option<(u32, u32)>) {
        let book = &mut self.book;
        if !book.began {
            book.catch_up(latest);
        }
        book.resolve(book.own.or(latest));
        book.began = false;
        book.catch_up(latest);
    }

    /// The run is over.
    pub fn end(&mut self, latest: Option<(u32, u32)>) {
        self.book.push_hosted(Cycle::MAX);
        self.book.resolve(self.book.own.or(latest));
    }

    /// Bytes of what waits.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let WorkBook { open, hosted, queue, .. } = &self.book;
        open.capacity() * size_of::<OpenWork>() + (hosted.capacity() + queue.capacity()) * size_of::<Stretch>()
    }

    /// The next stretch of which it is known what it is for.
    #[inline]
    pub fn next(&mut self, latest: Option<(u32, u32)>) -> Option<Stretch> {
        if self.book.queue.len() > MOST_PENDING {
            self.book.resolve(self.book.own.or(latest));
        }
        match self.book.queue.front()?.step {
            StepOf::Pending => None,
            StepOf::Known(_) => self.book.queue.pop_front(),
        }
    }
}
