//! The replay cache: work that recurs is simulated once, and looked up from then on.
//!
//! *What recurs.* Dense schedules ask channels for the same over and over: the same requests meet channels in the same
//! state, later and at other rows. So the input is cut into chunks at barriers (`chunk`), the state of channels between two
//! chunks is brought to a canonical form (`rebase`), and the cache remembers what a chunk makes of a state: the next
//! state, the cycles between the two, and an `CachedInterval` of what probes are to be told (`interval`). When the same
//! chunk meets the same state again, all three are looked up (`table`).
//!
//! *Why that is exact.* What a controller does next depends on nothing but its state and its input, and
//!
//! - constraints are distances between cycles: in a state whose times are all moved by the same number of cycles, the same
//!   commands issue, moved as well. The canonical form counts from `NOW`. A bound that is over ("not before cycle 90", at
//!   cycle 100) holds nothing any more, whatever its value, and becomes 0;
//! - rows are compared with each other and nothing else is done with them: if rows are renamed one to one in state and
//!   input, the same commands issue at the renamed rows. The canonical form numbers rows in the order in which they come up;
//!   the names behind the numbers stay with the `Cursor`. What is not only compared is not renamed: the half
//!   of a bank that a buffer move names, the entries of a softmax;
//! - channels do not differ but in their number, so a group of them in the same state is simulated as channel 0 (`groups`).
//!
//! A refresh would make all states different, each at its own distance to the next one. So refreshes are no part of the
//! state: what was simulated without one holds whenever none falls due before the end of the chunk; what was simulated
//! with one holds at exactly the same distance to it.
//!
//! *What is compared.* Everything that can matter to what follows, in full (`Cacheable::equals`): earliest cycles of all
//! commands, activation windows, open rows, queued requests with all their flags, epochs, bus and turn state. A digest finds the
//! candidates and decides nothing. That a steady state is reached is found, never assumed, and nothing is rounded.
//!
//! *When it falls back* to the controller itself, whose channels are put into the state that they would have:
//!
//! - at labels (segments, marks), arrivals, syncs, the host's work, loads and stores. It begins again behind a sync, if channels
//!   are idle and their work is nobody's (`Cacheable::is_blank`). Traces of `tracegen run` have labels throughout, so it never
//!   begins there;
//! - for the rest of the run: where a simulation ends in an error, which the controller is to report; where a chunk or a state
//!   has no canonical form, because it has more rows than an address can number; where the row policy closes rows by itself;
//!   and where too little recurs (`ReplayCache::is_in_vain`).
//!
//! The cache forgets everything when it holds some 50 MB; what it knows changes no result.
//!
//! *How it is tested.* `--engine plain` goes without it. `tests/schedule/fast_path.rs` holds one against the other on random traces that
//! repeat themselves and are disturbed: every command of every channel, every table, every error.
//!
//! The controllers give `Cacheable`. Their drivers are here: `pim` has each channel on its own, `compat` all of them as
//! one, for the reference's single stream of requests ties them together.

pub(crate) mod chunk;
pub(crate) mod compat;
mod groups;
pub mod interval;
pub(crate) mod pim;
pub(crate) mod rebase;
pub(crate) mod table;

pub use interval::{CachedEvent, CachedInterval, EventKind, GroupEvents, Occurrence};

use pimattn_core::spec::Due;
use pimattn_core::units::Cycle;
use rebase::{CanonicalNames, Rebase};
use table::Cursor;

/// The current cycle, in canonical form. All cycles that can matter lie less than this before it.
pub const NOW: Cycle = 1 << 40;

/// What the cache needs of a controller: the state of one channel.
pub(crate) trait Cacheable: Clone {
    /// Whether the channel has nothing to do, and what it is given next belongs to no segment and waits for no arrival.
    fn is_blank(&self) -> bool;
    /// What the channel's state has that is neither compared nor moved in time.
    fn milestones(&self) -> Milestones;
    /// Sets what is neither compared nor moved in time.
    fn set_milestones(&mut self, milestones: Milestones);
    /// Moves all times and renames all rows of the state, but for its milestones.
    fn rebase(&mut self, rebase: &mut Rebase<'_>);
    /// Makes it the state of another channel.
    fn renumber(&mut self, channel: u32);
    /// Mixes the state into a digest: equal states give equal digests.
    fn digest(&self, digest: &mut u64);
    /// Whether two states in canonical form are the same to all that can follow.
    fn equals(&self, other: &Self) -> bool;
    /// About how many bytes the state takes.
    fn bytes(&self) -> usize;
}

/// Cycles of a channel that nothing depends on but its next refresh, and what is reported of it in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Milestones {
    /// When the next refresh falls due, of which banks.
    pub next_refresh: Option<Due>,
    /// When the last result of the channel's own work was there.
    pub worked: Cycle,
    /// When all of its work was complete, waits included.
    pub done: Cycle,
}

/// Brings the state of channels at cycle `now` to canonical form, with their rows numbered in common. None where that
/// cannot be; the states are of no use then.
fn canonicalise<'c, C: Cacheable + 'c>(
    channels: impl IntoIterator<Item = &'c mut C>,
    now: Cycle,
) -> Option<CanonicalNames> {
    let mut names = CanonicalNames::default();
    let mut rebase = Rebase::number(now, NOW, &mut names);
    for channel in channels {
        channel.set_milestones(Milestones::default());
        channel.rebase(&mut rebase);
    }
    (!rebase.failed).then_some(names)
}

/// Puts channel `id` into the state that the cache has for it at a cursor, `cached` in canonical form.
fn restore<C: Cacheable>(channel: &mut C, id: u32, cached: &C, cursor: &Cursor, (worked, done): (Cycle, Cycle)) {
    *channel = cached.clone();
    channel.rebase(&mut Rebase::resolve(NOW, cursor.now, &cursor.names));
    channel.renumber(id);
    channel.set_milestones(Milestones { next_refresh: cursor.next_refresh, worked, done });
}

/// Mixes a word into a digest.
#[inline]
pub(crate) fn mix(digest: &mut u64, word: u64) {
    *digest = (digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
}
