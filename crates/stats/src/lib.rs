//! Probes that count: what a run, a step, a phase, a head and a channel cost, and where their time goes.

pub mod account;
pub mod books;
mod cached;
pub mod counters;
pub mod energy;
pub mod log;
mod measures;
pub mod origin;
pub mod replay;
pub mod tables;
pub mod tally;
pub mod timeline;
pub mod write;

use account::{ChannelAccount, Durations, Time};
use books::{Books, CountsByPhase, OpenSegment};
use cached::CachedAccounts;
use counters::Rules;
use pimattn_core::op::Op;
use pimattn_core::spec::Device;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandBurst, CommandEvent, Probe};
use pimattn_engine::replay_cache::{CachedInterval, Occurrence};
use pimattn_trace::{Phase, Segment};
use std::collections::BTreeMap;

pub use counters::{Counters, RequestedWork};

/// One row of a table in the making.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Counted commands.
    pub counters: Counters,
    /// Time, summed over channels.
    pub time: Time,
    /// Wanted work.
    pub wanted: RequestedWork,
    /// Cycles from a segment's first command to its last result, summed over segments.
    pub busy: Cycle,
}

impl Account {
    fn parts(&mut self, parts: &CountsByPhase) {
        for (_, part) in parts.used() {
            self.counters.add(&part.counters);
            self.time.add(&part.time);
        }
    }
}

/// A decode step that is over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Which one, from 0.
    pub step: u32,
    /// Index of the token that was decoded.
    pub position: u32,
    /// Its share of the run's cycles.
    pub cycles: Cycle,
    /// Wanted work.
    pub wanted: RequestedWork,
    /// Cycles within segments, as in [`Account`].
    pub busy: Cycle,
    /// Counts and time by phase, summed over channels.
    pub parts: CountsByPhase,
    /// Its layers, by number.
    pub layers: BTreeMap<u32, LayerOfStep>,
}

/// A layer of a decode step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerOfStep {
    /// Its share of the step's cycles.
    pub cycles: Cycle,
    /// Wanted work.
    pub wanted: RequestedWork,
    /// Cycles within segments, as in [`Account`].
    pub busy: Cycle,
    /// Counts and time by phase, summed over channels.
    pub parts: CountsByPhase,
}

impl Step {
    /// Of its layers, whose parts are all that it has.
    fn complete(&mut self, cycles: Cycle) {
        self.cycles = cycles;
        self.layers.values().for_each(|layer| self.parts.add(&layer.parts));
        let total = |layer: &LayerOfStep| layer.parts.used().map(|(_, p)| p.time.total()).sum();
        let totals: Vec<u64> = self.layers.values().map(total).collect();
        let shares = account::apportion_all(&totals, cycles);
        self.layers.values_mut().zip(shares).for_each(|(layer, share)| layer.cycles = share);
    }
}

/// Where steps go as soon as they are over.
pub trait Steps {
    /// Takes a step.
    fn step(&mut self, step: Step);
}

/// Nobody asks for them.
impl Steps for () {
    fn step(&mut self, _: Step) {}
}

/// Whoever it is: the engine is compiled once for all of them ([`replay`]).
impl Steps for &mut dyn Steps {
    fn step(&mut self, step: Step) {
        (**self).step(step);
    }
}

/// They are kept.
impl Steps for Vec<Step> {
    fn step(&mut self, step: Step) {
        self.push(step);
    }
}

/// Counts everything that the tables need. Steps are handed on when they are over: at a sync behind which a later one
/// has begun, or once every channel works for later ones.
pub struct Collector<S = ()> {
    durations: Durations,
    rules: Rules,
    /// Length of the run in cycles.
    pub cycles: Cycle,
    /// The whole run.
    pub run: Account,
    /// By request, layer and KV head.
    pub heads: BTreeMap<(u32, u32, u32), Account>,
    /// By channel.
    pub channels: Vec<Account>,
    sweeps: Vec<ChannelAccount>,
    books: Vec<Books>,
    cached: CachedAccounts,
    /// Steps that are not over.
    steps: BTreeMap<u32, Step>,
    /// The latest step begun, and the layer begun last.
    step: Option<u32>,
    layer: u32,
    /// Bank-cycles of the steps that are over.
    spent: u128,
    over: S,
}

impl Collector {
    /// Nothing counted yet; steps are not asked for.
    pub fn new(device: &Device) -> Self {
        Collector::with_steps(device, ())
    }
}

impl<S: Steps> Collector<S> {
    /// Nothing counted yet; steps go to `over`.
    pub fn with_steps(device: &Device, over: S) -> Self {
        let channels = device.geometry.channels as usize;
        Collector {
            durations: Durations::new(device),
            rules: counters::rules(device),
            cycles: 0,
            run: Account::default(),
            heads: BTreeMap::new(),
            channels: vec![Account::default(); channels],
            sweeps: (0..channels).map(|_| ChannelAccount::default()).collect(),
            books: (0..channels).map(|_| Books::default()).collect(),
            cached: CachedAccounts::new(channels),
            steps: BTreeMap::new(),
            step: None,
            layer: 0,
            spent: 0,
            over,
        }
    }

    /// The same counts, of a run that is over; lets go of where the steps went.
    pub fn into_counts(self) -> Collector {
        Collector {
            durations: self.durations,
            rules: self.rules,
            cycles: self.cycles,
            run: self.run,
            heads: self.heads,
            channels: self.channels,
            sweeps: self.sweeps,
            books: self.books,
            cached: self.cached,
            steps: self.steps,
            step: self.step,
            layer: self.layer,
            spent: self.spent,
            over: (),
        }
    }

    /// Where the steps went.
    pub fn into_steps(self) -> S {
        self.over
    }

    /// Puts what the replay cache looked up for a channel into its books.
    #[inline]
    fn settle(&mut self, channel: usize) {
        if self.cached.is_active() {
            self.cached.settle(channel, &mut self.sweeps[channel], &mut self.books[channel]);
        }
    }

    fn settle_all(&mut self) {
        (0..self.channels.len()).for_each(|channel| self.settle(channel));
    }

    /// Writes off the channel's complete segments of which the account is closed, or all complete ones.
    fn write_off(&mut self, channel: usize, all: bool) {
        let at = self.sweeps[channel].frontier();
        let closed = |o: &OpenSegment| o.closes.is_some_and(|c| all || c <= at);
        while let Some(i) = self.books[channel].open.iter().position(closed) {
            let Some(mut open) = self.books[channel].open.remove(i) else { return };
            self.books[channel].complete -= 1;
            open.parts.close(self.durations.banks());
            let s = &open.segment;
            let step = self.steps.entry(s.step).or_default();
            (step.step, step.position) = (s.step, s.position);
            step.layers.entry(s.layer).or_default().parts.add(&open.parts);
            self.heads.entry((s.request, s.layer, s.kv_head)).or_default().parts(&open.parts);
            self.channels[channel].parts(&open.parts);
        }
    }

    /// What a channel did for no segment counts for the layer of the step that it is in; where it is in none, for that of
    /// the others.
    fn write_loose(&mut self, channel: usize) {
        let books = &mut self.books[channel];
        let mut loose = std::mem::take(&mut books.loose);
        loose.close(self.durations.banks());
        self.channels[channel].parts(&loose);
        let own = books.step.map(|step| (step, books.layer));
        if let Some((step, layer)) = own.or(self.step.map(|step| (step, self.layer))) {
            let entry = self.steps.entry(step).or_default();
            entry.step = step;
            entry.layers.entry(layer).or_default().parts.add(&loose);
        }
    }

    fn write_all_loose(&mut self) {
        (0..self.channels.len()).for_each(|channel| self.write_loose(channel));
    }

    /// Hands on the steps before `end`.
    fn hand_on(&mut self, end: Option<u32>) {
        while let Some(first) = self.steps.first_entry().filter(|s| end.is_none_or(|end| *s.key() < end)) {
            let mut step = first.remove();
            // Rounded so that the steps' cycles add up to the run's.
            let share = self.durations.banks() as u128 * self.channels.len() as u128;
            let before = self.spent / share;
            let parts = step.layers.values().flat_map(|layer| layer.parts.used());
            self.spent += parts.map(|(_, p)| u128::from(p.time.total())).sum::<u128>();
            step.complete((self.spent / share - before) as Cycle);
            self.over.step(step);
        }
    }
}

impl<S: Steps> Probe for Collector<S> {
    fn command(&mut self, e: &CommandEvent) {
        let channel = e.address.channel as usize;
        self.settle(channel);
        let (sweep, books) = (&mut self.sweeps[channel], &mut self.books[channel]);
        let work = books.work(e.segment, e.phase);
        sweep.command(e, work, &self.durations, books);
        books.counters(work, e.cycle).command(e, &self.rules);
        if books.complete > 0 {
            self.write_off(channel, false);
        }
    }

    fn burst(&mut self, burst: &CommandBurst<'_>) {
        let (e, channel) = (&burst.first, burst.first.address.channel as usize);
        self.settle(channel);
        let (sweep, books) = (&mut self.sweeps[channel], &mut self.books[channel]);
        // Work of no segment counts for another one as soon as a segment is written off, and by where the last sync was.
        if e.segment == 0 || burst.gap != self.durations.cycles(e.command) {
            return burst.events().for_each(|e| self.command(&e));
        }
        let work = books.work(e.segment, e.phase);
        sweep.macs(burst, work, &self.durations, books);
        books.counters(work, e.cycle).burst(burst, &self.rules);
        if books.complete > 0 {
            self.write_off(channel, false);
        }
    }

    fn cached_interval(&mut self, interval: &CachedInterval, occurrence: &Occurrence<'_>) {
        for (i, group) in interval.groups.iter().enumerate() {
            for channel in occurrence.channels_of(interval, group) {
                let index = channel as usize;
                let account = (&mut self.sweeps[index], &mut self.books[index]);
                let rules = (&self.durations, &self.rules);
                if !self.cached.take((interval, i), occurrence, index, account, rules) {
                    group.tell(occurrence, channel, self);
                }
            }
        }
        if self.cached.is_full() {
            self.settle_all();
            self.cached.forget();
        }
    }

    fn silent(&mut self, channel: u32, segment: u32, phase: Phase, op: Op) {
        self.settle(channel as usize);
        let books = &mut self.books[channel as usize];
        let work = books.work(segment, phase);
        books.part(work).counters.silent(op);
    }

    fn host(&mut self, channel: u32, segment: u32, phase: Phase, begin: Cycle, cycles: Cycle) {
        self.settle(channel as usize);
        let (sweep, books) = (&mut self.sweeps[channel as usize], &mut self.books[channel as usize]);
        let work = books.work(segment, phase);
        sweep.host(begin, cycles, work, &self.durations, books);
    }

    fn latency(&mut self, channel: u32, segment: u32, phase: Phase, op: Op, cycles: Cycle) {
        if op == Op::Ld {
            self.settle(channel as usize);
            let books = &mut self.books[channel as usize];
            let work = books.work(segment, phase);
            books.part(work).counters.latency(cycles);
        }
    }

    fn segment_begin(&mut self, id: u32, segment: &Segment) {
        let channel = segment.channel as usize;
        self.settle(channel);
        // Channels take up their segments in whatever order, so that only the channel's own step and layer may matter.
        let own = (self.books[channel].step, self.books[channel].layer);
        if own.0.is_some() && own != (Some(segment.step), segment.layer) {
            self.write_loose(channel);
        }
        (self.step, self.layer) = (self.step.max(Some(segment.step)), segment.layer);
        let books = &mut self.books[channel];
        books.open.push_back(OpenSegment {
            id,
            segment: *segment,
            begin: None,
            closes: None,
            parts: CountsByPhase::default(),
        });
        (books.layer, books.began) = (segment.layer, true);
        if books.step.replace(segment.step) != Some(segment.step) {
            let first = self.books.iter().filter_map(Books::first_step).min();
            self.hand_on(first);
        }
    }

    fn segment_end(&mut self, channel: u32, id: u32, cycle: Cycle) {
        let index = channel as usize;
        self.settle(index);
        let (sweep, books) = (&self.sweeps[index], &mut self.books[index]);
        let Some(open) = books.find(id) else { return };
        open.closes = Some(sweep.owes_until(id, &self.durations));
        let (s, busy) = (open.segment, cycle.saturating_sub(open.begin.unwrap_or(cycle)));
        books.complete += 1;
        let step = self.steps.entry(s.step).or_default();
        (step.step, step.position) = (s.step, s.position);
        step.wanted.segment(&s);
        step.busy += busy;
        let layer = step.layers.entry(s.layer).or_default();
        layer.wanted.segment(&s);
        layer.busy += busy;
        let head = self.heads.entry((s.request, s.layer, s.kv_head)).or_default();
        for account in [&mut self.run, head, &mut self.channels[index]] {
            account.wanted.segment(&s);
            account.busy += busy;
        }
        self.write_off(index, false);
    }

    fn channel_waits(&mut self, channel: u32, done: Cycle, met: Cycle) {
        let index = channel as usize;
        self.settle(index);
        let books = &mut self.books[index];
        self.sweeps[index].wait(done, met, &self.durations, books);
        books.met = met;
        self.write_off(index, true);
    }

    fn sync(&mut self, _: Cycle) {
        // A channel that began nothing has waited for what the others did. One that has never had a step holds none up.
        let (latest, layer) = (self.step, self.layer);
        let catch_up = |b: &mut Books| (b.step, b.layer) = (b.step.max(latest), layer);
        let in_a_step = |b: &&mut Books| b.step.is_some();
        self.books.iter_mut().filter(in_a_step).filter(|b| !b.began).for_each(catch_up);
        self.write_all_loose();
        self.books.iter_mut().for_each(|b| b.began = false);
        self.books.iter_mut().filter(in_a_step).for_each(catch_up);
        self.hand_on(self.step);
    }

    fn channel_end(&mut self, channel: u32, done: Cycle) {
        let account = &mut self.channels[channel as usize];
        if account.wanted.segments == 0 {
            account.busy = done;
            self.run.busy += done;
        }
    }

    fn end(&mut self, cycle: Cycle) {
        self.write_all_loose();
        self.hand_on(None);
        self.cycles = cycle;
        for c in &self.channels {
            self.run.counters.add(&c.counters);
            self.run.time.add(&c.time);
        }
    }
}
