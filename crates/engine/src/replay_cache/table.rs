//! The table of the cache: states, chunks, and what each chunk has made of each state that it met.
//!
//! A state is what the cache looks up by: groups of channels in canonical form, stored once. A [`Cursor`] stands on a state and
//! knows what the canonical form leaves out, the cycle and the names of rows. [`ReplayCache::step`] takes it past a chunk.

use super::chunk::{CanonicalChunk, Chunk};
use super::groups::ChannelGroup;
use super::interval::CachedInterval;
use super::rebase::CanonicalNames;
use super::{Cacheable, NOW, mix};
use foldhash::fast::FixedState;
use pimattn_core::spec::{Due, Refreshes};
use pimattn_core::units::Cycle;
use std::collections::HashMap;

/// Bytes of states and of events above which everything is forgotten.
const MAX_BYTES: usize = 48 << 20;
/// Chunks that are simulated before the cache asks whether enough recurs.
const TRIAL: u64 = 1024;

/// What is simulated as one, between two chunks: groups of channels, each in a canonical state.
pub(crate) type GroupedChannels<C> = Vec<ChannelGroup<C>>;

/// What a chunk made of a state, besides the next state.
pub(crate) struct ChunkOutcome {
    /// Cycles from the current cycle before to that after the chunk.
    pub cycles: Cycle,
    /// Refreshes that were issued or fell due.
    pub refreshes: u64,
    /// The shortest distance to the next refresh at which the same happens; none where a refresh took part in it.
    pub holds_from: Option<Cycle>,
    /// For each number of the canonical form after the chunk, the number before it, in which the chunk's are counted in.
    pub names: CanonicalNames,
    /// What probes are told.
    pub interval: CachedInterval,
}

struct Transition {
    outcome: ChunkOutcome,
    to: usize,
}

/// A place in the table, with all that the canonical form leaves out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cursor {
    state: usize,
    /// The cycle that the canonical form has as [`NOW`].
    pub now: Cycle,
    /// When the next refresh falls due, of which banks.
    pub next_refresh: Option<Due>,
    /// The names behind the numbers of the state.
    pub names: CanonicalNames,
}

/// The transitions of one state by one chunk.
#[derive(Default)]
struct KnownTransitions {
    /// Without a refresh.
    undisturbed: Option<usize>,
    /// With refreshes, by when the first of them falls due, as the canonical form counts.
    disturbed: HashMap<Due, usize, FixedState>,
}

/// The replay cache of a controller whose channels are `C`.
pub(crate) struct ReplayCache<C> {
    states: Vec<GroupedChannels<C>>,
    by_digest: HashMap<u64, Vec<usize>, FixedState>,
    chunks: HashMap<Box<[u64]>, usize, FixedState>,
    /// By state and chunk.
    known: HashMap<(usize, usize), KnownTransitions, FixedState>,
    transitions: Vec<Transition>,
    /// Intervals made so far; what is forgotten counts, so that no two have the same id.
    intervals: u64,
    bytes: usize,
    looked_up: u64,
    simulated: u64,
}

impl<C: Cacheable> ReplayCache<C> {
    /// An empty cache.
    pub fn new() -> Self {
        ReplayCache {
            states: Vec::new(),
            by_digest: HashMap::default(),
            chunks: HashMap::default(),
            known: HashMap::default(),
            transitions: Vec::new(),
            intervals: 0,
            bytes: 0,
            looked_up: 0,
            simulated: 0,
        }
    }

    /// Whether too little recurs: after a trial, fewer than two in three chunks were looked up.
    pub fn is_in_vain(&self) -> bool {
        self.simulated > TRIAL && self.looked_up < 2 * self.simulated
    }

    /// Whether it is time for [`ReplayCache::forget`].
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES
    }

    /// Forgets everything but the states of `cursors`.
    pub fn forget<'c>(&mut self, cursors: impl Iterator<Item = &'c mut Cursor>) {
        let states = std::mem::take(&mut self.states);
        self.by_digest.clear();
        self.chunks.clear();
        self.known.clear();
        self.transitions.clear();
        self.bytes = 0;
        for cursor in cursors {
            cursor.state = self.index_of(states[cursor.state].clone());
        }
    }

    /// A cursor on a state in canonical form.
    pub fn enter(
        &mut self,
        state: GroupedChannels<C>,
        now: Cycle,
        next_refresh: Option<Due>,
        names: CanonicalNames,
    ) -> Cursor {
        Cursor { state: self.index_of(state), now, next_refresh, names }
    }

    /// The state of a cursor, in canonical form.
    pub fn state_of(&self, cursor: &Cursor) -> &GroupedChannels<C> {
        &self.states[cursor.state]
    }

    /// Takes a cursor past a chunk. Returns what happened, and from which cycle on.
    ///
    /// Where it is not known what happens, `simulate` gives the state the chunk and brings it to canonical form; the next
    /// refresh is due as the canonical form counts. None where the chunk has no canonical form or `simulate` gives none: then the
    /// cursor is where it was.
    pub fn step(
        &mut self,
        cursor: &mut Cursor,
        input: &CanonicalChunk,
        refreshes: Option<&Refreshes>,
        simulate: impl FnOnce(&mut GroupedChannels<C>, &Chunk, Option<Due>) -> Option<ChunkOutcome>,
    ) -> Option<(&ChunkOutcome, Cycle)> {
        let runs = input.runs()?;
        let chunk = match self.chunks.get(input.key()) {
            Some(chunk) => *chunk,
            None => {
                let index = self.chunks.len();
                self.bytes += 8 * input.key().len() + 64;
                self.chunks.insert(input.key().into(), index);
                index
            }
        };
        let refresh = cursor.next_refresh.map(|due| Due { at: (due.at + NOW).saturating_sub(cursor.now), ..due });
        let transition = match self.recall(cursor.state, chunk, refresh) {
            Some(transition) => {
                self.looked_up += 1;
                transition
            }
            None => {
                self.simulated += 1;
                let mut state = self.states[cursor.state].clone();
                let outcome = simulate(&mut state, runs, refresh)?;
                self.learn((cursor.state, chunk), refresh, outcome, state)
            }
        };
        let Transition { outcome, to } = &self.transitions[transition];
        let began = cursor.now;
        cursor.state = *to;
        cursor.now += outcome.cycles;
        cursor.next_refresh = cursor.next_refresh.zip(refreshes).map(|(due, all)| all.after(due, outcome.refreshes));
        cursor.names.resolve(&outcome.names, input.names());
        Some((outcome, began))
    }

    /// The transition of a state by a chunk, if it is known: one without a refresh where none falls due before its end, or
    /// one with a refresh that fell due at the same distance.
    fn recall(&self, state: usize, chunk: usize, refresh: Option<Due>) -> Option<usize> {
        let known = self.known.get(&(state, chunk))?;
        let distance = refresh.map_or(Cycle::MAX, |due| due.at.saturating_sub(NOW));
        let holds = |t: &usize| self.transitions[*t].outcome.holds_from.is_some_and(|from| distance >= from);
        known.undisturbed.filter(holds).or_else(|| known.disturbed.get(&refresh?).copied())
    }

    /// Remembers a transition of a state by a chunk.
    fn learn(
        &mut self,
        from: (usize, usize),
        refresh: Option<Due>,
        mut outcome: ChunkOutcome,
        state: GroupedChannels<C>,
    ) -> usize {
        self.intervals += 1;
        outcome.interval.id = self.intervals;
        self.bytes += outcome.interval.bytes();
        let undisturbed = outcome.holds_from.is_some();
        let to = self.index_of(state);
        let transition = self.transitions.len();
        self.transitions.push(Transition { outcome, to });
        let known = self.known.entry(from).or_default();
        match refresh.filter(|_| !undisturbed) {
            Some(due) => drop(known.disturbed.insert(due, transition)),
            None => known.undisturbed = Some(transition),
        }
        transition
    }

    /// The index of a state, which is stored if it is new.
    fn index_of(&mut self, state: GroupedChannels<C>) -> usize {
        let mut digest = state.len() as u64;
        for group in &state {
            mix(&mut digest, group.channels.end.into());
            group.common.digest(&mut digest);
        }
        let alike = self.by_digest.entry(digest).or_default();
        if let Some(found) = alike.iter().find(|s| equals(&self.states[**s], &state)) {
            return *found;
        }
        let index = self.states.len();
        alike.push(index);
        self.bytes += state.iter().map(|group| group.common.bytes()).sum::<usize>();
        self.states.push(state);
        index
    }
}

fn equals<C: Cacheable>(a: &GroupedChannels<C>, b: &GroupedChannels<C>) -> bool {
    let same = |(a, b): (&ChannelGroup<C>, &ChannelGroup<C>)| a.channels == b.channels && a.common.equals(&b.common);
    a.len() == b.len() && a.iter().zip(b).all(same)
}
