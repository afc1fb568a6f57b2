//! Probes that count: what a run, a step, a head and a channel cost.

pub mod energy;
pub mod log;
pub mod tables;

use crate::engine::probe::{CommandEvent, Probe, RowOutcome};
use crate::op::Op;
use crate::spec::resolve::MAX_COMMANDS;
use crate::spec::{Device, Effect};
use crate::trace::{Phase, Segment};
use crate::units::Cycle;
use std::collections::{BTreeMap, VecDeque};

/// Counted commands and requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// Commands issued, by id.
    pub issued: [u64; MAX_COMMANDS],
    /// Banks that they acted on, summed.
    pub banks: [u64; MAX_COMMANDS],
    /// Requests completed, by operation.
    pub requests: [u64; Op::COUNT],
    /// Requests that needed a row and found it open.
    pub hits: u64,
    /// Requests that found their bank closed.
    pub misses: u64,
    /// Requests that found another row open.
    pub conflicts: u64,
    /// Reads of which the latency is known.
    pub timed_reads: u64,
    /// Their latencies, summed.
    pub read_latency: Cycle,
    /// The longest of them.
    pub longest_read: Cycle,
}

impl Default for Counters {
    fn default() -> Self {
        let none = [0; MAX_COMMANDS];
        Counters {
            issued: none,
            banks: none,
            requests: [0; Op::COUNT],
            hits: 0,
            misses: 0,
            conflicts: 0,
            timed_reads: 0,
            read_latency: 0,
            longest_read: 0,
        }
    }
}

impl Counters {
    fn command(&mut self, e: &CommandEvent, needs_row: bool) {
        let id = usize::from(e.command);
        self.issued[id] += 1;
        self.banks[id] += u64::from(e.banks);
        if let Some(c) = e.completes {
            self.requests[c.op as usize] += 1;
            if needs_row {
                match c.row {
                    RowOutcome::Hit => self.hits += 1,
                    RowOutcome::Miss => self.misses += 1,
                    RowOutcome::Conflict => self.conflicts += 1,
                }
            }
        }
    }

    /// Adds another count to this one.
    pub fn add(&mut self, o: &Counters) {
        let sum = |a: &mut [u64], b: &[u64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        sum(&mut self.issued, &o.issued);
        sum(&mut self.banks, &o.banks);
        sum(&mut self.requests, &o.requests);
        self.hits += o.hits;
        self.misses += o.misses;
        self.conflicts += o.conflicts;
        self.timed_reads += o.timed_reads;
        self.read_latency += o.read_latency;
        self.longest_read = self.longest_read.max(o.longest_read);
    }
}

/// What segments say of the work wanted, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Segments.
    pub segments: u64,
    /// Decode steps that they belong to.
    pub steps: u64,
    /// The last one's step, plus one.
    next_step: u32,
    /// Tokens selected, over query heads.
    pub selected: u64,
    /// Distinct tokens of each group.
    pub distinct: u64,
    /// Row-blocks of K touched.
    pub row_blocks: u64,
    /// Row-blocks in the fullest unit.
    pub fullest_unit: u64,
    /// Unit-columns multiplied for a selected token.
    pub slots_used: u64,
    /// Bytes of distinct tokens.
    pub bytes_useful: u64,
}

impl Wanted {
    fn segment(&mut self, s: &Segment) {
        self.segments += 1;
        if s.step >= self.next_step {
            self.steps += 1;
            self.next_step = s.step + 1;
        }
        self.selected += u64::from(s.selected);
        self.distinct += u64::from(s.distinct);
        self.row_blocks += u64::from(s.row_blocks);
        self.fullest_unit += u64::from(s.fullest_unit);
        self.slots_used += s.slots_used;
        self.bytes_useful += s.bytes_useful;
    }
}

/// One row of a table in the making.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Counted commands.
    pub counters: Counters,
    /// Wanted work.
    pub wanted: Wanted,
    /// First cycle.
    pub begin: Option<Cycle>,
    /// Last cycle.
    pub end: Cycle,
    /// Cycles within segments.
    pub busy: Cycle,
}

impl Account {
    fn span(&mut self, begin: Cycle, end: Cycle) {
        self.begin = Some(self.begin.map_or(begin, |b| b.min(begin)));
        self.end = self.end.max(end);
        self.busy += end - begin;
    }
}

struct Open {
    id: u32,
    segment: Segment,
    begin: Option<Cycle>,
    counters: Counters,
    begun: bool,
}

/// Counts everything that the tables need.
pub struct Collector {
    needs_row: [bool; MAX_COMMANDS],
    /// The whole run.
    pub run: Account,
    /// By decode step: its token position and its account.
    pub steps: BTreeMap<u32, (u32, Account)>,
    /// By request, layer and KV head.
    pub heads: BTreeMap<(u32, u32, u32), Account>,
    /// By channel.
    pub channels: Vec<Account>,
    open: Vec<VecDeque<Open>>,
    step: u32,
}

impl Collector {
    /// Nothing counted yet.
    pub fn new(device: &Device) -> Self {
        let mut needs_row = [false; MAX_COMMANDS];
        for (n, c) in needs_row.iter_mut().zip(&device.commands) {
            *n = matches!(c.effect, Effect::Read | Effect::Write | Effect::Mac | Effect::Open);
        }
        let channels = device.geometry.channels as usize;
        Collector {
            needs_row,
            run: Account::default(),
            steps: BTreeMap::new(),
            heads: BTreeMap::new(),
            channels: vec![Account::default(); channels],
            open: (0..channels).map(|_| VecDeque::new()).collect(),
            step: 0,
        }
    }

    /// The account of a channel's segment; commands may come for the one behind the current one (rows opened early),
    /// and refreshes (id 0) count for the current one.
    fn account(&mut self, channel: usize, id: u32) -> Option<&mut Counters> {
        let open = &mut self.open[channel];
        if id == 0 {
            return open.front_mut().map(|o| &mut o.counters);
        }
        while open.back().is_none_or(|o| o.id < id) {
            let next = open.back().map_or(id, |o| o.id + 1);
            open.push_back(Open {
                id: next,
                segment: Segment::default(),
                begin: None,
                counters: Counters::default(),
                begun: false,
            });
        }
        open.iter_mut().find(|o| o.id == id).map(|o| &mut o.counters)
    }
}

impl Probe for Collector {
    fn command(&mut self, e: &CommandEvent) {
        let channel = e.address.channel as usize;
        let needs_row = self.needs_row[usize::from(e.command)];
        self.channels[channel].counters.command(e, needs_row);
        if let Some(o) = self.open[channel].iter_mut().find(|o| o.id == e.segment) {
            o.begin.get_or_insert(e.cycle);
        }
        match self.account(channel, e.segment) {
            Some(c) => c.command(e, needs_row),
            // Refreshes of channels without work belong to the step that the others are in.
            None => self.steps.entry(self.step).or_default().1.counters.command(e, needs_row),
        }
    }

    fn silent(&mut self, channel: u32, segment: u32, _phase: Phase, op: Op) {
        let hit = u64::from(op == Op::ActBg);
        let count = |c: &mut Counters| {
            c.requests[op as usize] += 1;
            c.hits += hit;
        };
        count(&mut self.channels[channel as usize].counters);
        match self.account(channel as usize, segment) {
            Some(c) => count(c),
            None => count(&mut self.steps.entry(self.step).or_default().1.counters),
        }
    }

    fn latency(&mut self, channel: u32, segment: u32, op: Op, cycles: Cycle) {
        if op != Op::Ld {
            return;
        }
        let count = |c: &mut Counters| {
            c.timed_reads += 1;
            c.read_latency += cycles;
            c.longest_read = c.longest_read.max(cycles);
        };
        count(&mut self.channels[channel as usize].counters);
        match self.account(channel as usize, segment) {
            Some(c) => count(c),
            None => count(&mut self.steps.entry(self.step).or_default().1.counters),
        }
    }

    fn segment_begin(&mut self, id: u32, segment: &Segment) {
        let channel = segment.channel as usize;
        self.account(channel, id);
        self.step = self.step.max(segment.step);
        if let Some(o) = self.open[channel].iter_mut().find(|o| o.id == id) {
            (o.segment, o.begun) = (*segment, true);
        }
        // What came before the channel's first segment has none to count for.
        while self.open[channel].front().is_some_and(|o| o.id < id && !o.begun) {
            if let Some(o) = self.open[channel].pop_front() {
                self.steps.entry(self.step).or_default().1.counters.add(&o.counters);
            }
        }
    }

    fn segment_end(&mut self, channel: u32, id: u32, cycle: Cycle) {
        let index = channel as usize;
        let Some(at) = self.open[index].iter().position(|o| o.id == id) else { return };
        let Some(o) = self.open[index].remove(at) else { return };
        let s = &o.segment;
        let (position, step) = self.steps.entry(s.step).or_default();
        *position = s.position;
        let head = self.heads.entry((s.request, s.layer, s.kv_head)).or_default();
        for account in [step, head] {
            account.counters.add(&o.counters);
            account.wanted.segment(s);
            account.span(o.begin.unwrap_or(cycle), cycle);
        }
        self.run.wanted.segment(s);
        let channel = &mut self.channels[index];
        channel.wanted.segment(s);
        channel.span(o.begin.unwrap_or(cycle), cycle);
    }

    fn channel_end(&mut self, channel: u32, done: Cycle) {
        let account = &mut self.channels[channel as usize];
        if account.wanted.segments == 0 {
            account.span(0, done);
        }
    }

    fn end(&mut self, cycle: Cycle) {
        self.run.begin = Some(0);
        self.run.end = cycle;
        for c in &self.channels {
            self.run.counters.add(&c.counters);
            self.run.busy += c.busy;
        }
    }
}
