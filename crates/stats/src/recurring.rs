//! Books of work that recurs: what a stretch adds to them, worked out once for each state of an account that it meets.
//!
//! While a channel does nothing but stretches, its account is a state in normal form (see [`pimattn_engine::memo`]), and how
//! often each stretch has met which state is all that is written down. It is put into the books when anything else
//! happens.

use super::account::{Durations, Sweep, Work};
use super::books::{Books, PARTS, Part};
use super::counters::Rules;
use foldhash::fast::FixedState;
use pimattn_core::units::Cycle;
use pimattn_engine::memo::NOW;
use pimattn_engine::memo::stretch::{self, Place, Stretch, What};
use pimattn_engine::probe::{CommandEvent, NO_REQUEST};
use std::collections::HashMap;

/// Entries, or states, above which everything is put into the books and forgotten.
const MAX_ENTRIES: usize = 1 << 13;

/// An account between two stretches.
#[derive(Clone, PartialEq)]
struct State {
    sweep: Sweep,
    /// Row switches of each part of which it is not known how many banks they are for.
    open: [u64; PARTS],
}

/// Where a channel is.
#[derive(Clone, Copy, PartialEq)]
struct At {
    state: usize,
    now: Cycle,
}

/// What a stretch does to a state.
struct Entry {
    to: usize,
    /// What it adds to the books, part by part.
    adds: Vec<(usize, Part)>,
    /// How often, by channel.
    times: Vec<u64>,
}

/// The accounts of channels that do nothing but stretches.
#[derive(Default)]
pub struct Recurring {
    channels: Vec<Option<At>>,
    /// How many of them are.
    active: usize,
    states: Vec<State>,
    by_digest: HashMap<u64, Vec<usize>, FixedState>,
    known: HashMap<(u64, u32, usize), usize, FixedState>,
    entries: Vec<Entry>,
}

impl Recurring {
    /// For so many channels.
    pub fn new(channels: usize) -> Self {
        Recurring { channels: vec![None; channels], ..Recurring::default() }
    }

    /// Whether any channel is in its hands.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active > 0
    }

    /// Whether it is time to [`Recurring::settle`] all channels, and to forget.
    pub fn is_full(&self) -> bool {
        self.entries.len().max(self.states.len()) >= MAX_ENTRIES
    }

    /// Forgets all that is known; all channels must be settled.
    pub fn forget(&mut self) {
        self.states.clear();
        self.by_digest.clear();
        self.known.clear();
        self.entries.clear();
    }

    /// Writes down a part of a stretch for one channel. False where it cannot, and then nothing has changed.
    pub fn take(
        &mut self,
        (stretch, part): (&Stretch, usize),
        place: &Place<'_>,
        channel: usize,
        (sweep, books): (&mut Sweep, &mut Books),
        rules: (&Durations, &Rules),
    ) -> bool {
        let at = match self.channels[channel] {
            Some(at) if at.now == place.begin => at,
            Some(_) => return false,
            None => match self.enter(place.begin, sweep, books) {
                Some(at) => {
                    self.active += 1;
                    at
                }
                None => return false,
            },
        };
        let key = (stretch.id, part as u32, at.state);
        let events = &stretch.parts[part];
        let entry = match self.known.get(&key) {
            Some(entry) => *entry,
            None => match self.work_out(events, at.state, rules) {
                Some((adds, state)) => {
                    let to = self.state(state);
                    self.entries.push(Entry { to, adds, times: vec![0; self.channels.len()] });
                    self.known.insert(key, self.entries.len() - 1);
                    self.entries.len() - 1
                }
                None => {
                    // As if it had not been entered: what is known of it is in its state.
                    self.channels[channel] = Some(at);
                    return false;
                }
            },
        };
        let entry = &mut self.entries[entry];
        entry.times[channel] += 1;
        self.channels[channel] = Some(At { state: entry.to, now: place.begin + events.cycles });
        true
    }

    /// Puts what a channel has done into its books.
    pub fn settle(&mut self, channel: usize, sweep: &mut Sweep, books: &mut Books) {
        let Some(at) = self.channels[channel].take() else { return };
        self.active -= 1;
        for entry in &mut self.entries {
            let times = std::mem::take(&mut entry.times[channel]);
            if times > 0 {
                entry.adds.iter().for_each(|(part, add)| books.loose.at(*part).add_times(add, times));
            }
        }
        let state = &self.states[at.state];
        for (part, open) in state.open.iter().enumerate().filter(|(_, open)| **open > 0) {
            books.loose.at(part).time.put_open(*open);
        }
        let moved = state.sweep.clone().shifted(NOW, at.now);
        *sweep = moved.unwrap_or_else(|| unreachable!("a state can be moved to any time at which it was met"));
    }

    fn enter(&mut self, now: Cycle, sweep: &Sweep, books: &mut Books) -> Option<At> {
        if now < books.met || !books.open.is_empty() || !sweep.is_loose() {
            return None;
        }
        let sweep = sweep.clone().shifted(now, NOW)?;
        let open = open_switches(books);
        Some(At { state: self.state(State { sweep, open }), now })
    }

    fn work_out(
        &self,
        part: &stretch::Part,
        state: usize,
        (durations, rules): (&Durations, &Rules),
    ) -> Option<(Vec<(usize, Part)>, State)> {
        let State { mut sweep, open } = self.states[state].clone();
        let mut books = Books::default();
        for (part, open) in open.into_iter().enumerate().filter(|(_, open)| *open > 0) {
            books.loose.at(part).time.put_open(open);
        }
        for event in &part.events {
            let work = Work { segment: 0, phase: event.phase };
            match event.what {
                What::Command { command, banks, units, completes } => {
                    let cycle = NOW + Cycle::from(event.at);
                    let (address, phase) = (event.address, event.phase);
                    let (segment, request) = (0, NO_REQUEST);
                    let e = CommandEvent { cycle, command, address, banks, units, segment, phase, completes, request };
                    sweep.command(&e, work, durations, &mut books);
                    books.counters(work, cycle).command(&e, rules);
                }
                What::Barrier => {}
                What::Silent(op) => books.part(work).counters.silent(op),
            }
        }
        let sweep = sweep.shifted(NOW + part.cycles, NOW)?;
        let open = open_switches(&mut books);
        Some((books.loose.used().map(|(i, part)| (i, part.clone())).collect(), State { sweep, open }))
    }

    fn state(&mut self, state: State) -> usize {
        let same = self.by_digest.entry(state.sweep.digest()).or_default();
        if let Some(found) = same.iter().find(|s| self.states[**s] == state) {
            return *found;
        }
        same.push(self.states.len());
        self.states.push(state);
        self.states.len() - 1
    }
}

fn open_switches(books: &mut Books) -> [u64; PARTS] {
    let mut open = [0; PARTS];
    let used: Vec<usize> = books.loose.used().map(|(part, _)| part).collect();
    used.into_iter().for_each(|part| open[part] = books.loose.at(part).time.take_open());
    open
}
