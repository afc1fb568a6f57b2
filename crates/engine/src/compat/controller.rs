//! The reference's controller of one channel.

use super::nodes::Nodes;
use super::queue::{CompatQueue, HitBanks, QueueEntry};
use crate::probe::{CommandEvent, Completion, NO_REQUEST, Probe, RowOutcome};
use crate::segments::{Label, Segments};
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::{Device, Effect, Plan};
use pimattn_core::units::Cycle;
use std::collections::VecDeque;

/// Requests whose row was opened for them; not for PIM requests, which wait where they are.
const ACTIVE: usize = 0;
/// Refreshes.
const REFRESH: usize = 1;
/// PIM requests and barriers.
const PIM: usize = 2;
/// LD.
const READ: usize = 3;
/// ST.
const WRITE: usize = 4;

/// A place in a queue.
#[derive(Clone, Copy)]
struct Pick {
    queue: usize,
    index: usize,
}

/// The result of one search for a command.
struct CommandSearch {
    /// The request whose command is to be issued.
    pick: Option<Pick>,
    /// The half of the bus of the last command looked at.
    bus: Option<Bus>,
}

/// Which commands a search accepts.
#[derive(Clone, Copy)]
enum WantedCommand {
    /// The first of a cycle: anything.
    Any,
    /// The second: of the half of the bus that the first one does not take.
    Beside(Bus),
}

impl WantedCommand {
    fn accepts(self, bus: Option<Bus>) -> bool {
        match self {
            WantedCommand::Any => true,
            WantedCommand::Beside(first) => bus.is_some_and(|bus| bus != first),
        }
    }
}

/// The controller of one channel and what it controls.
#[derive(Clone)]
pub struct CompatController<'d> {
    pub(super) device: &'d Device,
    pub(super) id: u32,
    pub(super) nodes: Nodes<'d>,
    pub(super) queues: [CompatQueue; 5],
    hit_banks: HitBanks,
    /// Requests that a queue holds at most.
    capacity: usize,
    pub(super) write_mode: bool,
    /// Whether the last search that went past the refreshes ended with a PIM request.
    pub(super) pim_found: bool,
    /// The cycles at which the data of reads will be there, in order.
    pub(super) data: VecDeque<Cycle>,
    pub(super) next_refresh: Option<Cycle>,
    /// The next cycle in which anything can change, if nothing arrives and no refresh falls due.
    pub(super) wake: Cycle,
    /// The cycle in which the last request completed.
    pub(super) done: Cycle,
    /// The segments that its requests are for.
    pub segments: Segments,
}

impl<'d> CompatController<'d> {
    /// An idle channel.
    pub fn new(device: &'d Device, id: u32, queue_depth: u32, refresh: bool) -> Self {
        // The reference compares before it adds, so that its queues hold one more than their size.
        let capacity = queue_depth as usize + 1;
        let nodes = Nodes::new(device);
        CompatController {
            device,
            id,
            hit_banks: HitBanks::new(nodes.banks()),
            nodes,
            queues: std::array::from_fn(|q| CompatQueue::new(q != ACTIVE, capacity)),
            capacity,
            write_mode: false,
            pim_found: false,
            data: VecDeque::with_capacity(64),
            next_refresh: refresh.then_some(device.nrefi),
            // A look at the empty queues turns an idle channel to writing.
            wake: 1,
            done: 0,
            segments: Segments::new(id),
        }
    }

    /// The next cycle in which it can do anything.
    pub fn wake(&self) -> Cycle {
        self.wake.min(self.next_refresh.unwrap_or(Cycle::MAX))
    }

    /// The cycle in which its last request completed.
    pub fn done_at(&self) -> Cycle {
        self.done
    }

    /// Whether anything is left to do, refreshes included.
    pub fn is_pending(&self) -> bool {
        self.has_requests() || !self.queues[REFRESH].is_empty()
    }

    /// Whether requests wait, refreshes not counted.
    pub fn has_requests(&self) -> bool {
        !self.data.is_empty() || [ACTIVE, PIM, READ, WRITE].iter().any(|q| !self.queues[*q].is_empty())
    }

    /// Takes a request in ahead of cycle `now`, unless its queue is full.
    pub fn offer<P: Probe>(&mut self, op: Op, addr: u64, now: Cycle, probe: &mut P) -> Result<bool> {
        let queue = match op {
            Op::Ld => READ,
            Op::St => WRITE,
            _ => PIM,
        };
        let forwarded = op == Op::Ld && self.queues[WRITE].iter().any(|w| w.addr == addr);
        if !forwarded && self.queues[queue].len() >= self.capacity {
            return Ok(false);
        }
        self.wake = self.wake.min(now);
        if forwarded {
            self.data.push_back(now);
            let Label { segment, phase } = self.segments.label();
            probe.silent(self.id, segment, phase, op);
            return Ok(true);
        }
        let entry = self.entry(op, addr, now - 1)?;
        if !entry.is_barrier() {
            self.segments.owe();
        }
        self.queues[queue].push(entry, &self.nodes);
        Ok(true)
    }

    fn entry(&self, op: Op, addr: u64, arrived: Cycle) -> Result<QueueEntry> {
        let place = self.nodes.place(self.device.geometry.decode(addr));
        match (op, self.device.plans[op as usize]) {
            (Op::Barrier, _) => Ok(QueueEntry::barrier(addr, place, arrived)),
            (_, Some(plan)) if op.in_attacc() => {
                let mut entry = QueueEntry::new(Some(op), addr, place, plan, arrived);
                entry.label = self.segments.label();
                Ok(entry)
            }
            (Op::Host, _) => {
                let what = "the compat controller does not know PIM_HOST: its reference has no host, and its one stream \
                            would stall all channels for one; leave the host's work out (selection_cost and \
                            clustering_cost \"free\"), or replay with controller = \"pim\"";
                Err(Error::data("trace", what))
            }
            _ => {
                let what = format!("the compat controller does not know {}, as its reference does not", op.mnemonic());
                Err(Error::data("trace", what))
            }
        }
    }

    /// One cycle.
    pub fn tick<P: Probe>(&mut self, now: Cycle, probe: &mut P) {
        let mut changed = self.deliver(now);
        self.refresh_due(now);
        let first = self.search(WantedCommand::Any, now, &mut changed);
        if let Some(pick) = first.pick {
            self.issue(pick, now, probe);
        }
        let second = match first.bus {
            Some(bus) => self.search(WantedCommand::Beside(bus), now, &mut changed).pick,
            None => self.search_in_vain(&mut changed),
        };
        if let Some(pick) = second {
            self.issue(pick, now, probe);
        }
        changed |= first.pick.is_some() || second.is_some();
        self.wake = if changed { now + 1 } else { self.next_event(now) };
    }

    /// Completes a read whose data is there: one a cycle, in order.
    fn deliver(&mut self, now: Cycle) -> bool {
        let there = self.data.front().is_some_and(|at| *at <= now);
        if there {
            self.data.pop_front();
            self.done = now;
        }
        there
    }

    /// Queues a refresh of each pseudo-channel when it is time, though each one is channel wide.
    fn refresh_due(&mut self, now: Cycle) {
        let (Some(due), Some((refresh, closer))) = (self.next_refresh, self.device.refresh) else { return };
        if now < due {
            return;
        }
        self.next_refresh = Some(due + self.device.nrefi);
        let plan = Plan { last: refresh, opener: None, closer: Some(closer) };
        for pseudo_channel in 0..self.device.geometry.pseudo_channels {
            let place = self.nodes.pseudo_channel(self.id, pseudo_channel);
            self.queues[REFRESH].push(QueueEntry::new(None, 0, place, plan, now), &self.nodes);
        }
    }

    /// Looks for a command: first for requests whose row is open, then for refreshes, PIM requests, reads or writes.
    fn search(&mut self, wanted: WantedCommand, now: Cycle, changed: &mut bool) -> CommandSearch {
        let active = self.best(ACTIVE, now);
        if let Some(pick) = active.filter(|p| self.may_issue(*p, wanted, now)) {
            return self.guarded(pick);
        }
        if !self.queues[REFRESH].is_empty() {
            let pick = Pick { queue: REFRESH, index: 0 };
            self.queues[REFRESH].get_mut(0).update(&self.nodes);
            let bus = self.bus(pick);
            if wanted.accepts(bus) {
                if !self.is_ready(pick, now) {
                    return CommandSearch { pick: None, bus };
                }
                self.pim_found = false;
                return self.guarded(pick);
            }
        }
        self.pim_found = false;
        *changed |= self.queues[PIM].drop_barrier();
        if let Some(pick) = self.best(PIM, now).filter(|p| self.may_issue(*p, wanted, now)) {
            self.pim_found = true;
            return self.guarded(pick);
        }
        self.set_write_mode();
        match self.best(if self.write_mode { WRITE } else { READ }, now) {
            Some(pick) if self.may_issue(pick, wanted, now) => self.guarded(pick),
            other => CommandSearch { pick: None, bus: other.and_then(|p| self.bus(p)) },
        }
    }

    /// The side effects of the second search of a cycle, where it finds nothing because the first one named no half of the
    /// bus.
    fn search_in_vain(&mut self, changed: &mut bool) -> Option<Pick> {
        self.pim_found = false;
        *changed |= self.queues[PIM].drop_barrier();
        self.set_write_mode();
        None
    }

    fn best(&mut self, queue: usize, now: Cycle) -> Option<Pick> {
        let index = self.queues[queue].best(&self.nodes, now, &mut self.hit_banks)?;
        Some(Pick { queue, index })
    }

    fn at(&self, pick: Pick) -> &QueueEntry {
        self.queues[pick.queue].get(pick.index)
    }

    fn bus(&self, pick: Pick) -> Option<Bus> {
        self.at(pick).bus(&self.nodes)
    }

    fn is_ready(&self, pick: Pick, now: Cycle) -> bool {
        self.at(pick).ready_at(&self.nodes) <= now
    }

    fn may_issue(&self, pick: Pick, wanted: WantedCommand, now: Cycle) -> bool {
        wanted.accepts(self.bus(pick)) && self.is_ready(pick, now)
    }

    /// The request that was found, unless its command closes the row that an active request, be it itself, waits for.
    fn guarded(&self, pick: Pick) -> CommandSearch {
        let found = self.at(pick);
        let harmful = found.closes(&self.nodes) && self.queues[ACTIVE].iter().any(|a| a.place.same_bank(&found.place));
        CommandSearch { pick: (!harmful).then_some(pick), bus: self.bus(pick) }
    }

    /// Writes when over 80 % of their places are taken or there is nothing to read, until under 20 % are and there is.
    fn set_write_mode(&mut self) {
        let (writes, reads) = (self.queues[WRITE].len(), self.queues[READ].len());
        let size = self.capacity - 1;
        self.write_mode = match self.write_mode {
            false => writes * 10 > size * 8 || reads == 0,
            true => !(writes * 10 < size * 2 && reads > 0),
        };
    }

    fn issue<P: Probe>(&mut self, pick: Pick, now: Cycle, probe: &mut P) {
        let entry = self.queues[pick.queue].get(pick.index);
        if entry.is_barrier() {
            probe.barrier(now - 1, &entry.place.address);
            self.queues[pick.queue].remove(pick.index);
            self.done = now;
            return;
        }
        let (command, place, completes, label) = (entry.next(), entry.place, entry.completes(), entry.label);
        let completion = entry.op.filter(|_| completes).map(|op| Completion { op, row: entry.row });
        self.nodes.issue(command, &place, now);
        probe.command(&CommandEvent {
            cycle: now - 1,
            command,
            address: place.address,
            banks: self.nodes.reach(command),
            units: 0,
            segment: label.segment,
            phase: label.phase,
            completes: completion,
            request: NO_REQUEST,
        });
        if !completes {
            return self.row_moved(pick);
        }
        self.queues[pick.queue].remove(pick.index);
        let last = &self.device.commands[usize::from(command)];
        let reads = last.effect == Effect::Read;
        let there = if reads { now + last.done } else { now };
        if reads {
            self.data.push_back(there);
        }
        if completion.is_some() {
            self.done = now;
            self.segments.paid(label.segment, there, probe);
        }
    }

    /// After a row command for a request: one whose row opens becomes active.
    fn row_moved(&mut self, pick: Pick) {
        let entry = self.queues[pick.queue].get_mut(pick.index);
        let opens = self.nodes.opens(entry.next());
        entry.row = match (opens, entry.row) {
            (true, RowOutcome::Hit) => RowOutcome::Miss,
            (true, before) => before,
            (false, _) => RowOutcome::Conflict,
        };
        if opens && !self.pim_found {
            let moved = self.queues[pick.queue].remove(pick.index);
            moved.into_iter().for_each(|entry| self.queues[ACTIVE].push(entry, &self.nodes));
        }
    }

    /// The next cycle that can differ from this one, in which nothing happened, unless something arrives: what is
    /// picked depends only on the queues, on the open rows and on which commands are legal.
    fn next_event(&mut self, now: Cycle) -> Cycle {
        let data = self.data.front().map_or(Cycle::MAX, |at| (*at).max(now + 1));
        let nodes = &self.nodes;
        let legal = self.queues.iter_mut().map(|q| q.next_ready(nodes, now)).min();
        data.min(legal.unwrap_or(Cycle::MAX))
    }

    /// Describes the oldest request of the first queue that has one, and the command that it waits for.
    pub fn stuck_at(&self) -> String {
        let oldest = [ACTIVE, PIM, READ, WRITE].iter().find_map(|q| self.queues[*q].iter().next());
        let Some(entry) = oldest else { return format!("channel {}: a read waits for its data", self.id) };
        let a = &entry.place.address;
        let wanted = match entry.is_barrier() {
            true => "its turn",
            false => self.device.commands[usize::from(entry.next())].name.as_str(),
        };
        format!(
            "channel {}, pseudo-channel {}, rank {}, bank group {}, bank {}, row {}: {} waits for {wanted}",
            a.channel,
            a.pseudo_channel,
            a.rank,
            a.bank_group,
            a.bank,
            a.row,
            entry.op.map_or("refresh", Op::mnemonic)
        )
    }
}
