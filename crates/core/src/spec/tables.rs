//! The dense tables that the engine, the account and the audit run on.

use super::device::{Bus, ConstraintSet, PowerPolicy};
use super::effect::Effect;
use super::scope::{Level, Scope};
use crate::addr::{Address, Geometry};
use crate::op::Op;
use crate::units::{ClockPeriod, Cycle};
use std::collections::BTreeMap;

/// Index of a command in [`Device::commands`].
pub type CommandId = u8;
/// Most commands that a device may have.
pub const MAX_COMMANDS: usize = 32;

/// A command, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Name in logs.
    pub name: String,
    /// Its half of the command bus.
    pub bus: Bus,
    /// The banks it acts on.
    pub scope: Scope,
    /// What it does to them.
    pub effect: Effect,
    /// Commands that a request takes, each in its share of the banks.
    pub passes: u32,
    /// Banks in its scope of each rank that it reaches.
    pub banks_per_rank: u32,
    /// Cycles until its result may be used behind a barrier, those of [`Command::per_entry`] left out.
    pub done: Cycle,
    /// Of a softmax, cycles that its unit works on each entry of scores.
    pub per_entry: Cycle,
    /// Constraint edges that start from it.
    pub edges: Vec<Edge>,
    /// Levels that have an edge ending in it.
    pub incoming: Vec<Level>,
    /// Windows (see [`Device::windows`]) that it is counted in.
    pub counted_in: Vec<u8>,
    /// Windows that hold it back.
    pub held_by: Vec<u8>,
    /// Energy of its wires for one column or buffer entry, in pJ per bit.
    pub path_pj_per_bit: f64,
    /// Of a buffer move, what it reaches.
    pub reach: Reach,
}

/// What one buffer move reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Buffer entries that it takes or fills.
    pub entries: u32,
    /// The same where it moves outputs of attention.
    pub outputs: u32,
    /// Energy of the wires for each of these entries, in pJ per bit: less than of the path where entries share wires.
    pub pj_per_bit: f64,
}

impl Command {
    /// Whether its address needs no bank, and may say instead for how many query heads it multiplies
    /// ([`Geometry::heads_of_mac`]).
    #[inline]
    pub fn says_heads(&self) -> bool {
        self.effect == Effect::MacOpen || (self.effect, self.scope) == (Effect::Mac, Scope::Channel)
    }

    /// The banks that it acts on for certain: those of a bank group, where it acts on those bank groups that are enabled.
    pub(super) fn least_reach(&self) -> Scope {
        if self.effect == Effect::MacOpen { Scope::BankGroup } else { self.scope }
    }
}

/// A constraint edge: `to` at the same node of `level` not before `latency` cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Where both meet.
    pub level: Level,
    /// The later command.
    pub to: CommandId,
    /// Cycles.
    pub latency: u32,
    /// Whether it holds at the other nodes of the same parent instead.
    pub siblings: bool,
}

/// A sliding window: not more than `count` counted commands, or banks of them, within `latency` cycles at one node
/// of `level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Where they are counted.
    pub level: Level,
    /// How many may fall into one window.
    pub count: u32,
    /// Length of the window in cycles.
    pub latency: u32,
    /// Whether a command counts as often as it has banks in a rank; else once.
    pub by_bank: bool,
}

impl Window {
    /// Places of the window that a command takes.
    #[inline]
    pub fn places(&self, command: &Command) -> u32 {
        if self.by_bank { command.banks_per_rank } else { 1 }
    }
}

/// A constraint as the device file declares it, before it becomes [`Edge`]s and [`Window`]s: what `audit` holds logs
/// against, so that a mistake in making those is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredConstraint {
    /// Its set.
    pub set: ConstraintSet,
    /// Line of the device file.
    pub line: usize,
    /// Where both commands meet.
    pub level: Level,
    /// The level below, where it holds only between different nodes of it.
    pub apart: Option<Level>,
    /// Earlier commands.
    pub from: Vec<CommandId>,
    /// Later commands.
    pub to: Vec<CommandId>,
    /// Cycles.
    pub latency: u32,
    /// The latency as written.
    pub expression: String,
    /// Counts back this many `from` commands.
    pub window: u32,
    /// Whether it belongs to some power policies only.
    pub power: bool,
    /// Whether a command counts as often as it has banks in the node; else once.
    pub by_bank: bool,
}

/// How a trace operation becomes commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The command that completes it.
    pub last: CommandId,
    /// Opens a row for it.
    pub opener: Option<CommandId>,
    /// Closes another row before that.
    pub closer: Option<CommandId>,
}

/// Energies in pJ (and pJ per bit), resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct EnergyTable {
    /// One activation of one bank.
    pub activation: f64,
    /// Per bit of a column, the activation's share in the per-byte model.
    pub cell_activation: f64,
    /// Per bit of a column.
    pub cell_column: f64,
    /// One multiply-accumulate, whatever the width of its elements.
    pub mac: f64,
    /// Per bit into or out of a buffer.
    pub sram: f64,
    /// One REFab of one channel.
    pub refresh: f64,
    /// Standing power of one channel, in mW = pJ per ns.
    pub background: f64,
}

/// A device with one organisation and one timing preset chosen, ready for the engine.
#[derive(Debug, Clone)]
pub struct Device {
    /// Name of the device.
    pub name: String,
    /// Organisation and timing preset, for reports.
    pub preset: String,
    /// What it consists of.
    pub geometry: Geometry,
    /// Clock period.
    pub clock: ClockPeriod,
    /// Commands by id.
    pub commands: Vec<Command>,
    /// Sliding windows.
    pub windows: Vec<Window>,
    /// The constraints that hold, as declared.
    pub declared: Vec<DeclaredConstraint>,
    /// How activations share the supply.
    pub power: PowerPolicy,
    /// How each trace operation becomes commands; indexed by `Op as usize`.
    pub plans: [Option<Plan>; Op::COUNT],
    /// The refresh command of the whole channel and the one that closes all banks before it.
    pub refresh: Option<(CommandId, CommandId)>,
    /// All refresh commands, each with the one that closes its banks before it: all at once, or one.
    pub refreshes: Vec<(CommandId, CommandId)>,
    /// Cycles in which every bank is refreshed once, at the rate that the system asks for.
    pub nrefi: Cycle,
    /// Every timing by name, in cycles.
    pub timings: BTreeMap<String, Cycle>,
    /// Multiply-accumulate lanes of a unit; 0 in plain DRAM.
    pub lanes: u32,
    /// Bytes of an element of what is multiplied.
    pub element_bytes: u32,
    /// Elements of one column of one bank, each of them a multiplication; 0 in plain DRAM.
    pub elements: u32,
    /// Bytes of one buffer entry.
    pub entry_bytes: u32,
    /// Sets of accumulators of a unit; without a number in the device file, as many as are asked for.
    pub accumulators: u32,
    /// Query heads for which a unit multiplies a column that it reads once.
    pub heads_per_read: u32,
    /// Energies.
    pub energy: EnergyTable,
    /// Names of what is assumed rather than taken from a source.
    pub assumed: Vec<String>,
}

impl Device {
    /// Id of a command by name.
    pub fn command(&self, name: &str) -> Option<CommandId> {
        self.commands.iter().position(|c| c.name == name).map(|i| i as CommandId)
    }

    /// Cycles that a command keeps its unit at work on the entries that its address names: of a softmax.
    #[inline]
    pub fn work(&self, command: CommandId, at: &Address) -> Cycle {
        match self.commands[usize::from(command)].per_entry {
            0 => 0,
            cycles => cycles * self.geometry.softmax_entries(at),
        }
    }

    /// Cycles until the result of a command at an address may be used behind a barrier.
    #[inline]
    pub fn done(&self, command: CommandId, at: &Address) -> Cycle {
        self.commands[usize::from(command)].done + self.work(command, at)
    }

    /// Cycles that a refresh keeps its banks: until rows may open again.
    pub fn refresh_cycles(&self, command: CommandId) -> Cycle {
        let opens = |e: &&Edge| self.commands[usize::from(e.to)].effect.opens();
        let edges = self.commands[usize::from(command)].edges.iter();
        edges.filter(opens).map(|e| Cycle::from(e.latency)).max().unwrap_or(0)
    }

    /// Bytes that the processing units of a channel can read per cycle at most, over all its banks.
    pub fn peak_bytes_per_cycle(&self) -> Option<f64> {
        let mac = self.plans[Op::MacAb as usize]?.last;
        let command = &self.commands[usize::from(mac)];
        let gap = command.edges.iter().filter(|e| e.to == mac).map(|e| e.latency).max()?;
        let bytes = self.geometry.banks_per_channel() / command.passes * self.geometry.column_bytes;
        Some(f64::from(bytes) / f64::from(gap))
    }
}
