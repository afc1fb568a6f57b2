//! Counters over time: what one channel did in each interval of some length, and the sum over channels.

use super::TimelineWindow;
use crate::Counters;
use crate::account::Durations;
use crate::counters::Rules;
use crate::energy::Energy;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::spec::{Effect, Scope, System};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::CommandEvent;
use std::collections::VecDeque;

/// What happened in an interval, of one channel or of some.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    /// Open units, summed over cycles.
    pub open: u64,
    /// Banks that multiply, summed over cycles.
    pub multiplying: u64,
    /// Energy of commands.
    pub energy: Energy,
    /// Bytes that units multiplied, in banks.
    pub multiplied: u64,
    /// Bytes read and written by the host.
    pub accessed: u64,
    /// Bytes into and out of buffers.
    pub buffered: u64,
}

/// Bytes of a sample in a spool, its interval ahead of it.
pub(super) const SAMPLE_BYTES: usize = 8 * 11;

impl Sample {
    /// Adds what happened in another channel, or later in the same.
    pub fn add(&mut self, o: &Sample) {
        self.open += o.open;
        self.multiplying += o.multiplying;
        self.energy.activation += o.energy.activation;
        self.energy.column += o.energy.column;
        self.energy.movement += o.energy.movement;
        self.energy.compute += o.energy.compute;
        self.energy.refresh += o.energy.refresh;
        self.multiplied += o.multiplied;
        self.accessed += o.accessed;
        self.buffered += o.buffered;
    }

    /// The sample of interval `index`, for a spool.
    pub fn bytes(&self, index: u64) -> [u8; SAMPLE_BYTES] {
        let e = &self.energy;
        let energy = [e.activation, e.column, e.movement, e.compute, e.refresh].map(f64::to_bits);
        let counts = [self.open, self.multiplying, self.multiplied, self.accessed, self.buffered];
        let mut out = [0; SAMPLE_BYTES];
        let fields = [index].into_iter().chain(energy).chain(counts);
        out.chunks_exact_mut(8).zip(fields).for_each(|(to, field)| to.copy_from_slice(&field.to_le_bytes()));
        out
    }

    /// Interval and sample, from a spool.
    pub fn parse(bytes: &[u8; SAMPLE_BYTES]) -> (u64, Sample) {
        let field = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| bytes[8 * i + b]));
        let pj = |i: usize| f64::from_bits(field(i));
        let energy = Energy {
            activation: pj(1),
            column: pj(2),
            movement: pj(3),
            compute: pj(4),
            refresh: pj(5),
            background: 0.0,
        };
        let (open, multiplying, multiplied) = (field(6), field(7), field(8));
        (field(0), Sample { open, multiplying, energy, multiplied, accessed: field(9), buffered: field(10) })
    }
}

/// The rules that all channels share.
pub(super) struct SampleRules<'s> {
    pub system: &'s System,
    pub durations: &'s Durations,
    pub counters: &'s Rules,
    pub window: TimelineWindow,
    /// Cycles of an interval.
    pub interval: Cycle,
}

/// Counts for one channel.
pub(super) struct Sampler {
    /// Rows that are open, by bank.
    open: Vec<bool>,
    /// Banks with an open row, by unit; and the units that have one.
    open_in: Vec<u32>,
    open_units: u32,
    /// Up to which cycle open units are counted.
    at: Cycle,
    /// The interval that is counted, from 0 at the window's first cycle.
    index: u64,
    counters: Counters,
    counted: bool,
    now: Sample,
    /// Bank-cycles of MACs that go on in the intervals from `index` on.
    multiplying: VecDeque<u64>,
}

impl Sampler {
    /// All rows are closed.
    pub fn new(g: &Geometry) -> Self {
        Sampler {
            open: vec![false; g.banks_per_channel() as usize],
            open_in: vec![0; g.units() as usize],
            open_units: 0,
            at: 0,
            index: 0,
            counters: Counters::default(),
            counted: false,
            now: Sample::default(),
            multiplying: VecDeque::new(),
        }
    }

    /// Takes a command; `out` gets the samples of the intervals that are over.
    pub fn command(&mut self, e: &CommandEvent, rules: &SampleRules<'_>, out: &mut impl FnMut(u64, &Sample)) {
        self.advance(e.cycle, rules, out);
        let device = &rules.system.device;
        let command = &device.commands[usize::from(e.command)];
        if command.effect.is_row_command() {
            self.switch(command.effect.opens(), command.scope, e, &device.geometry);
        }
        if !rules.window.contains(e.cycle) {
            return;
        }
        self.counters.command(e, rules.counters);
        self.counted = true;
        if command.effect.multiplies() {
            self.multiply(e, rules);
        }
    }

    /// The bank-cycles of a MAC, each to its interval.
    fn multiply(&mut self, e: &CommandEvent, rules: &SampleRules<'_>) {
        let end = (e.cycle + rules.durations.cycles(e.command)).min(rules.window.end());
        let (mut at, mut interval) = (e.cycle, 0);
        while at < end {
            let boundary =
                rules.window.first().saturating_add((self.index + interval + 1).saturating_mul(rules.interval));
            let to = end.min(boundary);
            if self.multiplying.len() <= interval as usize {
                self.multiplying.push_back(0);
            }
            self.multiplying[interval as usize] += (to - at) * u64::from(e.banks);
            (at, interval) = (to, interval + 1);
        }
    }

    /// The banks of a scope open or close.
    fn switch(&mut self, opens: bool, scope: Scope, e: &CommandEvent, g: &Geometry) {
        let a = &e.address;
        let (per_rank, per_pc) = (g.bank_groups * g.banks, g.ranks * g.bank_groups * g.banks);
        let unit = |a: &Address| (a.pseudo_channel * g.ranks + a.rank) * g.bank_groups + a.bank_group;
        for bank in 0..self.open.len() as u32 {
            let reached = match scope {
                Scope::Channel => true,
                Scope::Rank => bank / per_rank == a.pseudo_channel * g.ranks + a.rank,
                Scope::BankGroup => bank / g.banks == unit(a),
                Scope::SameBank => bank % g.banks == a.bank,
                Scope::PerBank => bank % per_pc == (a.rank * g.bank_groups + a.bank_group) * g.banks + a.bank,
                Scope::Bank => bank == unit(a) * g.banks + a.bank,
            };
            let is_open = &mut self.open[bank as usize];
            if reached && *is_open != opens {
                *is_open = opens;
                let in_unit = &mut self.open_in[(bank / g.banks) as usize];
                match opens {
                    true => (*in_unit, self.open_units) = (*in_unit + 1, self.open_units + u32::from(*in_unit == 0)),
                    false => (*in_unit, self.open_units) = (*in_unit - 1, self.open_units - u32::from(*in_unit == 1)),
                }
            }
        }
    }

    /// Goes on to a cycle.
    pub fn advance(&mut self, to: Cycle, rules: &SampleRules<'_>, out: &mut impl FnMut(u64, &Sample)) {
        let (first, interval) = (rules.window.first(), rules.interval);
        let to = to.min(rules.window.end());
        self.at = self.at.max(first);
        while self.at < to {
            let boundary = first.saturating_add((self.index + 1).saturating_mul(interval));
            let until = to.min(boundary);
            self.now.open += u64::from(self.open_units) * (until - self.at);
            self.at = until;
            if until == boundary {
                self.over(rules, out);
                // Nothing is to be said of the intervals in which nothing is open.
                if self.open_units == 0 && self.multiplying.is_empty() {
                    self.index = self.index.max((to - first) / interval);
                    self.at = to;
                }
            }
        }
    }

    /// The interval is over.
    fn over(&mut self, rules: &SampleRules<'_>, out: &mut impl FnMut(u64, &Sample)) {
        let (device, model) = (&rules.system.device, rules.system.energy);
        self.now.multiplying = self.multiplying.pop_front().unwrap_or(0);
        if self.counted {
            let sum = |which: fn(Effect) -> bool, bytes: u32| {
                let ids = device.commands.iter().enumerate().filter(|(_, c)| which(c.effect));
                ids.map(|(id, _)| self.counters.banks[id]).sum::<u64>() * u64::from(bytes)
            };
            self.now.energy = Energy::of(&self.counters, 0, device, model);
            self.now.multiplied = sum(Effect::multiplies, device.geometry.column_bytes);
            self.now.accessed = sum(Effect::is_data, device.geometry.column_bytes);
            self.now.buffered = sum(|e| e == Effect::Move, device.entry_bytes);
            (self.counters, self.counted) = (Counters::default(), false);
        }
        if self.now != Sample::default() {
            out(self.index, &self.now);
        }
        self.now = Sample::default();
        self.index += 1;
    }

    /// The run, or the window, ended at a cycle: its last interval is over.
    pub fn end(&mut self, end: Cycle, rules: &SampleRules<'_>, out: &mut impl FnMut(u64, &Sample)) {
        self.advance(end, rules, out);
        while self.counted || self.now != Sample::default() || !self.multiplying.is_empty() {
            self.over(rules, out);
        }
    }
}
