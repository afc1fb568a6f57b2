//! The reference's request queues and how it picks from them.

use super::nodes::{NodePath, Nodes};
use crate::probe::RowOutcome;
use crate::replay_cache::{mix, rebase::Rebase};
use crate::segments::Label;
use pimattn_core::addr::Geometry;
use pimattn_core::op::Op;
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::{CommandId, Plan};
use pimattn_core::units::Cycle;
use std::collections::VecDeque;

/// Stands for a barrier where a command is expected; no device has as many commands.
const BARRIER: CommandId = CommandId::MAX;

/// A waiting request.
#[derive(Clone)]
pub struct QueueEntry {
    /// The operation; none for a refresh.
    pub op: Option<Op>,
    /// Its byte address.
    pub addr: u64,
    /// The address taken apart.
    pub place: NodePath,
    /// How it found its row so far.
    pub row: RowOutcome,
    /// The segment and phase that it is for.
    pub label: Label,
    plan: Plan,
    arrived: Cycle,
    next: CommandId,
    hits: bool,
    /// State of the rows for which `next` and `hits` hold.
    version: u32,
    /// Entries right behind it that are as it is but for their arrival and column, and so never picked before it.
    alike: u32,
}

/// Equal but for `alike`, which says where it stands.
impl PartialEq for QueueEntry {
    fn eq(&self, other: &Self) -> bool {
        let QueueEntry { op, addr, place, row, label, plan, arrived, next, hits, version, alike: _ } = self;
        (*op, *addr, *place, *row, *label) == (other.op, other.addr, other.place, other.row, other.label)
            && (*plan, *arrived, *next, *hits, *version)
                == (other.plan, other.arrived, other.next, other.hits, other.version)
    }
}

impl QueueEntry {
    /// A request that arrived in cycle `arrived`.
    pub fn new(op: Option<Op>, addr: u64, place: NodePath, plan: Plan, arrived: Cycle) -> Self {
        let (row, label) = (RowOutcome::Hit, Label::default());
        QueueEntry { op, addr, place, row, label, plan, arrived, next: plan.last, hits: false, version: 0, alike: 0 }
    }

    /// A barrier that arrived in cycle `arrived`.
    pub fn barrier(addr: u64, place: NodePath, arrived: Cycle) -> Self {
        let plan = Plan { last: BARRIER, opener: None, closer: None };
        QueueEntry::new(Some(Op::Barrier), addr, place, plan, arrived)
    }

    /// Whether it is a barrier.
    #[inline]
    pub fn is_barrier(&self) -> bool {
        self.plan.last == BARRIER
    }

    /// The command that it was last seen to need.
    #[inline]
    pub fn next(&self) -> CommandId {
        self.next
    }

    /// Whether that command completes it.
    #[inline]
    pub fn completes(&self) -> bool {
        self.next == self.plan.last
    }

    /// The half of the bus that its next command takes.
    #[inline]
    pub fn bus(&self, nodes: &Nodes<'_>) -> Option<Bus> {
        if self.is_barrier() { None } else { nodes.bus(self.next) }
    }

    /// Whether its next command closes rows.
    pub fn closes(&self, nodes: &Nodes<'_>) -> bool {
        !self.is_barrier() && nodes.closes(self.next)
    }

    /// Looks up which command it needs, unless no row has moved since the last time.
    #[inline]
    pub fn update(&mut self, nodes: &Nodes<'_>) {
        if self.version != nodes.version() && !self.is_barrier() {
            self.version = nodes.version();
            self.next = nodes.next(&self.plan, &self.place);
            self.hits = self.completes() && nodes.accesses(self.next);
        }
    }

    /// The first cycle at which the command last looked up is legal.
    #[inline]
    pub fn ready_at(&self, nodes: &Nodes<'_>) -> Cycle {
        if self.is_barrier() { 0 } else { nodes.ready_at(self.next, &self.place) }
    }

    /// Whether both need the same command, legal at the same time, whatever rows are open.
    fn is_alike(&self, other: &QueueEntry, nodes: &Nodes<'_>) -> bool {
        !self.is_barrier()
            && self.op == other.op
            && nodes.alike(&self.place, &other.place)
            && self.place.address.row == other.place.address.row
    }

    /// Whether it may be picked from behind a barrier.
    #[inline]
    fn passes_barriers(&self, nodes: &Nodes<'_>) -> bool {
        !self.is_barrier() && (nodes.opens(self.next) || nodes.closes(self.next))
    }
}

/// A memory of one entry for when a command is legal: the next command asked for is often the same at the same place.
struct Seen {
    next: CommandId,
    place: NodePath,
    ready_at: Cycle,
}

impl Seen {
    #[inline]
    fn ready_at(&mut self, e: &QueueEntry, nodes: &Nodes<'_>) -> Cycle {
        if e.next != self.next || !nodes.alike(&e.place, &self.place) {
            *self = Seen { next: e.next, place: e.place, ready_at: e.ready_at(nodes) };
        }
        self.ready_at
    }
}

/// Banks for which a queue holds a row hit, filled when first asked for.
#[derive(Clone)]
pub struct HitBanks {
    marks: Vec<u32>,
    mark: u32,
    filled: bool,
}

impl HitBanks {
    /// For so many banks.
    pub fn new(banks: usize) -> Self {
        HitBanks { marks: vec![0; banks], mark: 0, filled: false }
    }

    fn contains(&mut self, entries: &mut VecDeque<QueueEntry>, nodes: &Nodes<'_>, place: &NodePath) -> bool {
        if !self.filled {
            self.filled = true;
            self.mark = self.mark.wrapping_add(1);
            let mut i = 0;
            while let Some(e) = entries.get_mut(i) {
                e.update(nodes);
                if e.hits {
                    self.marks[nodes.bank(&e.place)] = self.mark;
                }
                i += 1 + e.alike as usize;
            }
        }
        self.marks[nodes.bank(place)] == self.mark
    }
}

/// A queue of requests.
#[derive(Clone)]
pub struct CompatQueue {
    entries: VecDeque<QueueEntry>,
    /// Whether entries stand in the order of their arrival.
    in_order: bool,
    /// The index at which the last entries that are alike begin.
    last: usize,
}

impl PartialEq for CompatQueue {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl CompatQueue {
    /// An empty queue. One that is filled from other queues is not `in_order`.
    pub fn new(in_order: bool, capacity: usize) -> Self {
        CompatQueue { entries: VecDeque::with_capacity(capacity), in_order, last: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All that wait, in the order in which they came to this queue.
    pub fn iter(&self) -> impl Iterator<Item = &QueueEntry> {
        self.entries.iter()
    }

    /// The entry at `index`.
    pub fn get(&self, index: usize) -> &QueueEntry {
        &self.entries[index]
    }

    /// The entry at `index`.
    pub fn get_mut(&mut self, index: usize) -> &mut QueueEntry {
        &mut self.entries[index]
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: QueueEntry, nodes: &Nodes<'_>) {
        match self.entries.get_mut(self.last) {
            Some(first) if self.in_order && first.is_alike(&entry, nodes) => first.alike += 1,
            _ => self.last = self.entries.len(),
        }
        self.entries.push_back(entry);
    }

    /// Takes out the entry at `index`, which is the first of those that are alike.
    pub fn remove(&mut self, index: usize) -> Option<QueueEntry> {
        debug_assert!(self.is_first(index));
        let mut removed = self.entries.remove(index)?;
        let others = std::mem::take(&mut removed.alike);
        if others > 0 {
            self.entries[index].alike = others - 1;
        }
        if self.last > index {
            self.last -= 1;
        }
        Some(removed)
    }

    /// Whether an entry is the first of those that are alike.
    fn is_first(&self, index: usize) -> bool {
        let mut first = 0;
        while first < index {
            first += 1 + self.entries[first].alike as usize;
        }
        first == index
    }

    /// Removes a barrier at the head. Whatever follows is the candidate then, even another barrier.
    pub fn drop_barrier(&mut self) -> bool {
        let at_head = self.entries.front().is_some_and(QueueEntry::is_barrier);
        if at_head {
            self.remove(0);
        }
        at_head
    }

    /// Moves all times and renames all rows, for the replay cache; `nodes` are as they were before.
    pub(crate) fn rebase(&mut self, nodes: &Nodes<'_>, rebase: &mut Rebase<'_>) {
        for e in &mut self.entries {
            e.update(nodes);
            e.version = 1;
            rebase.exact(&mut e.arrived);
            rebase.address(e.op, &mut e.place.address, nodes.geometry());
            if e.op.is_some() {
                e.addr = nodes.geometry().encode(&e.place.address);
            }
        }
    }

    /// Makes all entries those of another channel.
    pub fn renumber(&mut self, channel: u32, geometry: &Geometry) {
        for e in &mut self.entries {
            e.place.address.channel = channel;
            if e.op.is_some() {
                e.addr = geometry.encode(&e.place.address);
            }
        }
    }

    /// Mixes the queue into a digest: equal queues give equal digests.
    pub fn digest(&self, digest: &mut u64) {
        mix(digest, self.entries.len() as u64);
        self.entries.iter().for_each(|e| mix(digest, e.addr ^ e.arrived << 20 ^ u64::from(e.next)));
    }

    /// The entry to serve, its command looked up: a ready one before an unready one, unless it would open or close a
    /// row (or moves buffers) in a bank that still has a row hit waiting; else the older one. Behind a barrier that is
    /// not at the head only row opening and closing competes.
    pub fn best(&mut self, nodes: &Nodes<'_>, now: Cycle, hit_banks: &mut HitBanks) -> Option<usize> {
        hit_banks.filled = false;
        let head = self.entries.front_mut()?;
        head.update(nodes);
        let mut seen = Seen { next: head.next, place: head.place, ready_at: head.ready_at(nodes) };
        let (mut best, mut best_ready) = (0, seen.ready_at <= now);
        let mut behind_barrier = false;
        let mut next = 1 + head.alike as usize;
        while !(best_ready && self.in_order)
            && let Some(e) = self.entries.get_mut(next)
        {
            let i = next;
            next += 1 + e.alike as usize;
            e.update(nodes);
            behind_barrier |= e.is_barrier();
            if behind_barrier && !e.passes_barriers(nodes) {
                continue;
            }
            let ready = seen.ready_at(e, nodes) <= now;
            let better = match (best_ready, ready) {
                (false, true) if e.hits => true,
                (false, true) => {
                    let place = e.place;
                    !hit_banks.contains(&mut self.entries, nodes, &place)
                }
                (true, false) => false,
                _ => {
                    let arrived = e.arrived;
                    arrived < self.entries[best].arrived
                }
            };
            if better {
                (best, best_ready) = (i, ready);
            }
        }
        Some(best)
    }

    /// The next cycle after `now` at which the command of an entry becomes legal.
    pub fn next_ready(&mut self, nodes: &Nodes<'_>, now: Cycle) -> Cycle {
        let (mut soonest, mut i) = (Cycle::MAX, 0);
        while let Some(e) = self.entries.get_mut(i) {
            i += 1 + e.alike as usize;
            e.update(nodes);
            let at = e.ready_at(nodes);
            if at > now {
                soonest = soonest.min(at);
            }
        }
        soonest
    }
}
