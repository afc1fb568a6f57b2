//! What is remembered of a channel while its log is read.

use super::Chain;
use super::bounds::Bound;
use crate::banks::{Banks, node_size};
use crate::log::{LogEntry, LogEvent};
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::tables::DeclaredConstraint;
use pimattn_core::spec::{CommandId, Device, Effect};
use pimattn_core::units::Cycle;
use std::collections::{HashMap, VecDeque};

/// A command: when it came, in cycles from 0, and what of.
#[derive(Clone, Copy)]
pub(super) struct IssuedCommand {
    pub(super) at: Cycle,
    pub(super) id: CommandId,
    pub(super) banks: Banks,
    pub(super) row: u32,
    pub(super) column: u32,
    pub(super) request: Option<u64>,
    pub(super) bus: Bus,
    pub(super) effect: Effect,
}

/// A command of the recent past.
pub(super) struct PastCommand {
    pub(super) now: IssuedCommand,
    /// It was the last one of its request.
    pub(super) last: bool,
    pub(super) chain: Chain,
}

/// A line that was read and waits for those behind it.
pub(super) struct PendingEntry {
    pub(super) entry: LogEntry,
    /// No later command of the same request is known.
    pub(super) last: bool,
}

/// A counted command of a window: when the place that it took is counted, when it came.
pub(super) struct WindowCommand {
    pub(super) at: Cycle,
    pub(super) from: Cycle,
    pub(super) id: CommandId,
    pub(super) chain: Chain,
}

/// A result: there from `at` on, of a command that came at `from`.
pub(super) struct ReadyResult {
    pub(super) at: Cycle,
    pub(super) from: Cycle,
    pub(super) id: CommandId,
    pub(super) chain: Chain,
}

/// Arrivals that are kept of a channel: more than it has requests at a time, each of which is behind one.
pub(super) const ARRIVALS: usize = 1 << 13;

/// One channel, in cycles from 0.
pub(super) struct ChannelTrack {
    pub(super) ahead: VecDeque<PendingEntry>,
    /// Lines that left `ahead`.
    pub(super) left: u64,
    /// The last line in `ahead` of each request there.
    pub(super) newest: HashMap<u64, u64>,
    pub(super) past: VecDeque<PastCommand>,
    pub(super) counted: Vec<Vec<VecDeque<WindowCommand>>>,
    /// The last mark: its first request, and the bound that it is.
    pub(super) mark: Option<(u64, Bound)>,
    /// The last sync, with the first request behind it.
    pub(super) sync: Option<(u64, Bound)>,
    /// The last one that was no barrier.
    pub(super) worked: Option<(u64, Bound)>,
    /// When requests arrive, by the trace: the first of those that do, and the cycle.
    pub(super) arrivals: VecDeque<(u64, Cycle)>,
    pub(super) result: Option<ReadyResult>,
    pub(super) refreshes: u64,
}

impl std::ops::Deref for PastCommand {
    type Target = IssuedCommand;
    fn deref(&self) -> &IssuedCommand {
        &self.now
    }
}

impl PendingEntry {
    pub(super) fn is_command(&self) -> bool {
        matches!(self.entry.what, LogEvent::Command(_))
    }
}

impl ChannelTrack {
    pub(super) fn new(device: &Device) -> Self {
        let banks = device.geometry.banks_per_channel() as usize;
        let nodes =
            |d: &DeclaredConstraint| if d.window > 1 { banks / node_size(d.level, &device.geometry) } else { 0 };
        let rings = |d: &DeclaredConstraint| (0..nodes(d)).map(|_| VecDeque::new()).collect();
        ChannelTrack {
            ahead: VecDeque::new(),
            left: 0,
            newest: HashMap::new(),
            past: VecDeque::new(),
            counted: device.declared.iter().map(rings).collect(),
            mark: None,
            sync: None,
            worked: None,
            arrivals: VecDeque::new(),
            result: None,
            refreshes: 0,
        }
    }

    /// Puts a line behind those that wait.
    pub(super) fn read(&mut self, e: &LogEntry) {
        let number = self.left + self.ahead.len() as u64;
        let request = e.request.filter(|_| matches!(e.what, LogEvent::Command(_)));
        if let Some(before) = request.and_then(|r| self.newest.insert(r, number)) {
            self.ahead[(before - self.left) as usize].last = false;
        }
        self.ahead.push_back(PendingEntry { entry: *e, last: request.is_some() });
    }

    /// Takes the first of the lines that wait.
    pub(super) fn next(&mut self) -> Option<PendingEntry> {
        let next = self.ahead.pop_front()?;
        if let Some(request) = next.entry.request.filter(|_| next.is_command())
            && self.newest.get(&request) == Some(&self.left)
        {
            self.newest.remove(&request);
        }
        self.left += 1;
        Some(next)
    }

    /// The last command of a request among the lines that wait.
    pub(super) fn newest_of(&self, request: u64) -> Option<CommandId> {
        let number = self.newest.get(&request)?;
        match self.ahead[(number - self.left) as usize].entry.what {
            LogEvent::Command(id) => Some(id),
            LogEvent::Mark(_) => None,
        }
    }
}
