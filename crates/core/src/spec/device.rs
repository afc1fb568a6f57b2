//! Schema of a device file (`configs/dram/*.toml`). Only the shape; [`super::resolve`] checks the sense.

use super::quantity::{Density, Duration, Energy, EnergyPerBit, Period, Power, Quantity, Rate, Size};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A DRAM or PIM device.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    /// Name, for reports.
    pub name: String,
    /// Citations by key; every `source` names one of them, or "assumed".
    pub sources: BTreeMap<String, String>,
    /// Organisations by name.
    pub organisation: BTreeMap<String, OrganisationFile>,
    /// The processing units; none in plain DRAM.
    pub pim: Option<PimFile>,
    /// Timing presets by name.
    pub timing: BTreeMap<String, TimingFile>,
    /// Refresh cycle time by density of a channel; needed by devices that have a refresh command.
    pub refresh_time: Option<RefreshTimeFile>,
    /// What power policy `charge` allows, unless the system says otherwise.
    pub power_budget: Option<PowerBudgetFile>,
    /// Commands; their order is the order in every output.
    pub command: Vec<CommandFile>,
    /// Sets of constraint edges.
    pub constraints: Vec<ConstraintsFile>,
    /// Energies.
    pub energy: EnergyFile,
}

/// One organisation, per channel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganisationFile {
    /// Citation key.
    pub source: String,
    /// Density of one channel: checked against the counts below, and selects tRFC.
    pub density: Quantity<Density>,
    /// Pseudo-channels per channel.
    pub pseudo_channels: u32,
    /// Ranks per pseudo-channel.
    pub ranks: u32,
    /// Bank groups per rank.
    pub bank_groups: u32,
    /// Banks per bank group.
    pub banks: u32,
    /// Rows per bank.
    pub rows: u32,
    /// Columns per row.
    pub columns: u32,
    /// Bytes of one column access.
    pub column: Quantity<Size>,
}

/// The processing units beside the banks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PimFile {
    /// Citation key.
    pub source: String,
    /// Multiply-accumulate lanes of a unit.
    pub lanes: u32,
    /// Bytes of the elements that a lane multiplies, unless the system says otherwise; 2 when absent.
    pub element: Option<Quantity<Size>>,
    /// Latency expression: cycles of one pass of the lanes. With the passes that a column takes it makes `nMAC`.
    pub pass: Option<String>,
    /// Bytes of one buffer entry.
    pub entry: Quantity<Size>,
    /// Sets of accumulators that a unit keeps: outputs of so many pairs of query head and column of a vector may grow at
    /// the same time.
    pub accumulators: Option<Count>,
    /// Query heads for which a unit multiplies a column that it reads once, each with lanes, a query and a buffer entry of its
    /// own; 1 when absent.
    pub heads_per_read: Option<Count>,
}

/// One timing preset.
#[derive(Debug, Clone, Deserialize)]
pub struct TimingFile {
    /// Citation key.
    pub source: String,
    /// Transfer rate of a data pin.
    pub rate: Quantity<Rate>,
    /// Clock period.
    #[serde(rename = "tCK")]
    pub tck: Quantity<Period>,
    /// Every other timing, by name.
    #[serde(flatten)]
    pub values: BTreeMap<String, Duration>,
}

/// Refresh cycle times.
#[derive(Debug, Clone, Deserialize)]
pub struct RefreshTimeFile {
    /// Citation key.
    pub source: String,
    /// Time by density ("8 Gb").
    #[serde(flatten)]
    pub by_density: BTreeMap<String, Duration>,
}

/// Bank activations that the supply of one rank allows in any window of time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerBudgetFile {
    /// Citation key.
    pub source: String,
    /// Activations of single banks.
    pub activations: u32,
    /// Length of the window.
    pub window: Duration,
}

/// Which half of the command bus carries a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// Activations, precharges, refreshes.
    Row,
    /// Column accesses and buffer moves.
    Column,
}

/// One command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandFile {
    /// Name in logs.
    pub name: String,
    /// Its half of the command bus.
    pub bus: Bus,
    /// The banks it acts on.
    pub scope: super::Scope,
    /// What it does to them.
    pub effect: super::Effect,
    /// The trace operation that it completes.
    pub serves: Option<String>,
    /// The command that opens a row for it.
    pub opener: Option<String>,
    /// The command that closes another row before that.
    pub closer: Option<String>,
    /// Of a MAC: commands that a request takes, where so many banks share a unit, which serves them in turn.
    #[serde(default = "one")]
    pub passes: u32,
    /// The wires that its data crosses, for energy.
    #[serde(default)]
    pub path: Vec<Wire>,
    /// Of a buffer move: how many entries one command moves, and to how many places; one of each when absent.
    pub reach: Option<ReachFile>,
    /// Latency expression: cycles until what follows a barrier may use its result; 1 when absent.
    pub done: Option<String>,
    /// Of a softmax: latency expression: cycles that its unit works on each entry of scores, one after the other, on top
    /// of `done`; 0 when absent.
    pub done_per_entry: Option<String>,
}

/// How far one buffer move reaches, for energy. Levels name nodes of the channel: `["pseudo-channel"]` is one in each
/// pseudo-channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReachFile {
    /// An entry of its own moves in each of these; all of them cross the whole path.
    #[serde(default)]
    pub each: Vec<super::Level>,
    /// The same where it moves outputs (phase attend-context); as `each` when absent.
    pub outputs: Option<Vec<super::Level>>,
    /// One entry goes to a buffer in each of these, over wires that it crosses once as far as they are shared.
    #[serde(default)]
    pub broadcast: Vec<super::Level>,
}

/// A stretch of the data path with an energy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// Column decoder to bank-group multiplexer.
    BankGroup,
    /// Bank-group multiplexer to global I/O.
    GlobalIo,
    /// Through-silicon vias.
    Tsv,
    /// Silicon interposer.
    Interposer,
}

/// A set of constraint edges with one source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstraintsFile {
    /// Which controllers use it.
    pub set: ConstraintSet,
    /// Citation key.
    pub source: String,
    /// The edges.
    pub edges: Vec<EdgeFile>,
}

/// Which controllers use a set of edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConstraintSet {
    /// All.
    Reference,
    /// All but the one that reproduces the reference.
    Completed,
}

/// How activations share the supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerPolicy {
    /// Each activating command counts once per rank against tRRD and tFAW.
    PerCommand,
    /// Each activated bank counts: wide activations spread over several tFAW windows.
    Stagger,
    /// Not more banks of a rank in any window than its budget allows; a wide activation opens its banks at once.
    Charge,
    /// Only single-bank ACTs are bound (AttAcc).
    Ignore,
}

/// One constraint: `to` not before `latency` after (the `window`-th last) `from`, at the same `level` node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeFile {
    /// Where both must meet.
    pub level: super::Level,
    /// The level below, where the edge holds only between commands of different nodes of it (in JEDEC's tables: tCCDR
    /// between stack IDs).
    pub apart: Option<super::Level>,
    /// Earlier commands.
    pub from: Vec<String>,
    /// Later commands.
    pub to: Vec<String>,
    /// Latency expression.
    pub latency: String,
    /// Counts back this many `from` commands.
    #[serde(default = "one")]
    pub window: u32,
    /// Power policies that it belongs to; all when empty.
    #[serde(default)]
    pub power: Vec<PowerPolicy>,
}

fn one() -> u32 {
    1
}

/// A plain number that names its source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// The number.
    pub value: u32,
    /// Citation key.
    pub source: String,
}

/// Energies of one channel's events. What no command of the device needs may be left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyFile {
    /// Citation key.
    pub source: String,
    /// One row activation (with its precharge) of one bank.
    pub activation: Quantity<Energy>,
    /// The activation's share of a column access in the per-byte model.
    pub cell_activation: Option<Quantity<EnergyPerBit>>,
    /// Cell to column decoder.
    pub cell_column: Quantity<EnergyPerBit>,
    /// Column decoder to bank-group multiplexer.
    pub bank_group: Option<Quantity<EnergyPerBit>>,
    /// Bank-group multiplexer to global I/O.
    pub global_io: Option<Quantity<EnergyPerBit>>,
    /// Through-silicon vias.
    pub tsv: Option<Quantity<EnergyPerBit>>,
    /// Silicon interposer, or whatever else the pins drive.
    pub interposer: Option<Quantity<EnergyPerBit>>,
    /// One multiply-accumulate of one lane.
    pub mac: Option<Quantity<Energy>>,
    /// One bit into or out of a buffer.
    pub sram: Option<Quantity<EnergyPerBit>>,
    /// REFab commands that refresh every row once.
    pub refreshes_per_window: Option<Count>,
    /// Standing power of one rank of a channel, all its pseudo-channels together.
    pub background: Quantity<Power>,
}
