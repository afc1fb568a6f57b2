//! Work that recurs, simulated once.
//!
//! Dense schedules do the same over and over: the same requests meet channels in the same state, at other rows and later.
//! So the input is cut into chunks at barriers; the state of what is simulated is brought to a normal form, in which the
//! time is counted from now and rows are numbered as they come up; and what a chunk does to a state is
//! remembered. Where the same chunk (its rows renamed alike) meets the same state, the outcome is looked up. States are
//! compared in full: that a steady state has been reached is found, never assumed, and nothing is rounded.
//!
//! - [`chunk`]: the input, and its normal form;
//! - [`shift`]: from one time and one numbering of rows to another;
//! - [`stretch`]: what probes are told of work that is looked up;
//! - here: states, transitions between them, and when to give up.
//!
//! What is simulated is a [`Kernel`]: all channels for the compat controller, whose one stream ties them together; one
//! channel for the PIM controller. Refresh is not a part of the state, or nothing would recur before it does: what was
//! simulated without one holds wherever none falls due in the meantime; what saw one holds at the same distance to it.

pub mod chunk;
pub mod shift;
pub mod stretch;

use chunk::{Chunk, Renaming};
use foldhash::fast::FixedState;
use pimattn_core::spec::{Due, Refreshes};
use pimattn_core::units::Cycle;
use shift::Names;
use std::collections::HashMap;
use stretch::Stretch;

/// The time of now, in normal form. All that can matter happened less than this before.
pub const NOW: Cycle = 1 << 40;

/// Bytes of states, and events of stretches, above which everything is forgotten.
const MAX_BYTES: usize = 48 << 20;
/// Chunks simulated before it is asked whether that pays.
const TRIAL: u64 = 1024;

/// What is simulated.
pub trait Kernel {
    /// Its state, in normal form between two chunks.
    type State: Clone;
    /// Equal for states that are the same.
    fn digest(state: &Self::State) -> u64;
    /// Whether two states are the same to all that can follow.
    fn same(a: &Self::State, b: &Self::State) -> bool;
    /// Bytes of a state, about.
    fn bytes(state: &Self::State) -> usize;
    /// Lets `state` have a chunk, and brings it to normal form; the next refresh falls due then, in the time of the normal
    /// form. None where that cannot be done, and the state is lost.
    fn run(&mut self, state: &mut Self::State, chunk: &Chunk, refresh: Option<Due>) -> Option<Outcome>;
}

/// What a chunk did to a state.
pub struct Outcome {
    /// Cycles from now to now.
    pub cycles: Cycle,
    /// Refreshes that fell due.
    pub refreshes: u64,
    /// The shortest distance to the next refresh at which the same comes about; none where a refresh had a part in it.
    pub holds_from: Option<Cycle>,
    /// The numbers of the old normal form, and of the chunk, behind those of the new one.
    pub names: Names,
    /// What the probes are told.
    pub stretch: Stretch,
}

/// A transition between states.
pub struct Transition {
    /// What came about.
    pub outcome: Outcome,
    to: usize,
}

/// Where something that is simulated is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Its state.
    state: usize,
    /// What the time of now is.
    pub now: Cycle,
    /// When the next refresh falls due, of which banks.
    pub next_refresh: Option<Due>,
    /// What is behind the numbers of its normal form.
    pub names: Names,
}

/// Transitions from a state by a chunk.
#[derive(Default)]
struct Known {
    /// Without a refresh.
    undisturbed: Option<usize>,
    /// By the refresh that disturbed it, in the time of the normal form.
    disturbed: HashMap<Due, usize, FixedState>,
}

/// States and transitions.
pub struct Memo<K: Kernel> {
    kernel: K,
    states: Vec<K::State>,
    by_digest: HashMap<u64, Vec<usize>, FixedState>,
    chunks: HashMap<Box<[u64]>, usize, FixedState>,
    known: HashMap<(usize, usize), Known, FixedState>,
    transitions: Vec<Transition>,
    stretches: u64,
    bytes: usize,
    looked_up: u64,
    simulated: u64,
}

impl<K: Kernel> Memo<K> {
    /// Nothing known yet.
    pub fn new(kernel: K) -> Self {
        Memo {
            kernel,
            states: Vec::new(),
            by_digest: HashMap::default(),
            chunks: HashMap::default(),
            known: HashMap::default(),
            transitions: Vec::new(),
            stretches: 0,
            bytes: 0,
            looked_up: 0,
            simulated: 0,
        }
    }

    /// Whether too little recurs for this to be worth its while.
    pub fn is_in_vain(&self) -> bool {
        self.simulated > TRIAL && self.looked_up < 2 * self.simulated
    }

    /// Whether it is time to forget, by [`Memo::forget`].
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES
    }

    /// Forgets everything but where `lanes` are.
    pub fn forget<'l>(&mut self, lanes: impl Iterator<Item = &'l mut Lane>) {
        let states = std::mem::take(&mut self.states);
        self.by_digest.clear();
        self.chunks.clear();
        self.known.clear();
        self.transitions.clear();
        self.bytes = 0;
        for lane in lanes {
            lane.state = self.state(states[lane.state].clone());
        }
    }

    /// A lane in a state that is in normal form.
    pub fn enter(&mut self, state: K::State, now: Cycle, next_refresh: Option<Due>, names: Names) -> Lane {
        Lane { state: self.state(state), now, next_refresh, names }
    }

    /// The state of a lane, in normal form.
    pub fn state_of(&self, lane: &Lane) -> &K::State {
        &self.states[lane.state]
    }

    /// Takes a lane past a chunk. Returns what came about and when it began, with the names; none where the
    /// kernel could not, and the lane is where it was.
    pub fn step<'a>(
        &'a mut self,
        lane: &mut Lane,
        renaming: &'a Renaming,
        refreshes: Option<&Refreshes>,
    ) -> Option<(&'a Outcome, Cycle, &'a Names)> {
        let input = renaming.chunk()?;
        let chunk = match self.chunks.get(renaming.key()) {
            Some(chunk) => *chunk,
            None => {
                let id = self.chunks.len();
                self.bytes += 8 * renaming.key().len() + 64;
                self.chunks.insert(renaming.key().into(), id);
                id
            }
        };
        let next = lane.next_refresh.map(|due| Due { at: (due.at + NOW).saturating_sub(lane.now), ..due });
        let transition = match self.recall(lane.state, chunk, next) {
            Some(found) => {
                self.looked_up += 1;
                found
            }
            None => self.simulate(lane.state, chunk, input, next)?,
        };
        let Transition { outcome, to } = &self.transitions[transition];
        let began = lane.now;
        lane.state = *to;
        lane.now += outcome.cycles;
        lane.next_refresh = lane.next_refresh.zip(refreshes).map(|(due, all)| all.after(due, outcome.refreshes));
        lane.names.resolve(&outcome.names, renaming.names());
        Some((outcome, began, renaming.names()))
    }

    fn recall(&self, state: usize, chunk: usize, refresh: Option<Due>) -> Option<usize> {
        let known = self.known.get(&(state, chunk))?;
        let distance = refresh.map_or(Cycle::MAX, |due| due.at.saturating_sub(NOW));
        let holds = |t: &usize| self.transitions[*t].outcome.holds_from.is_some_and(|from| distance >= from);
        known.undisturbed.filter(holds).or_else(|| known.disturbed.get(&refresh?).copied())
    }

    fn simulate(&mut self, from: usize, chunk: usize, input: &Chunk, refresh: Option<Due>) -> Option<usize> {
        self.simulated += 1;
        let mut state = self.states[from].clone();
        let mut outcome = self.kernel.run(&mut state, input, refresh)?;
        self.stretches += 1;
        outcome.stretch.id = self.stretches;
        self.bytes += outcome.stretch.bytes();
        let undisturbed = outcome.holds_from.is_some();
        let to = self.state(state);
        let id = self.transitions.len();
        self.transitions.push(Transition { outcome, to });
        let known = self.known.entry((from, chunk)).or_default();
        match refresh.filter(|_| !undisturbed) {
            Some(due) => drop(known.disturbed.insert(due, id)),
            None => known.undisturbed = Some(id),
        }
        Some(id)
    }

    /// The number of a state.
    fn state(&mut self, state: K::State) -> usize {
        let same = self.by_digest.entry(K::digest(&state)).or_default();
        if let Some(found) = same.iter().find(|s| K::same(&self.states[**s], &state)) {
            return *found;
        }
        let id = self.states.len();
        same.push(id);
        self.bytes += K::bytes(&state);
        self.states.push(state);
        id
    }
}

/// Puts a word into a digest.
#[inline]
pub fn mix(digest: &mut u64, word: u64) {
    *digest = (digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
}
