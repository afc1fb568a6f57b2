//! Checks a device file and turns it into the dense tables that the engine runs on.

use super::config::Document;
use super::device::{
    Bus, CommandFile, ConstraintSet, ConstraintsFile, Count, DeviceFile, PowerPolicy, TimingFile, Wire,
};
use super::expr;
use super::quantity::{Duration, Quantity};
use super::refresh::{self, RefreshRate};
use crate::addr::{Address, Geometry};
use crate::error::{Error, Result, suggest};
use crate::op::Op;
use crate::units::{ClockPeriod, Cycle};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Index of a command in [`Device::commands`].
pub type CommandId = u8;

/// Most commands that a device may have.
pub const MAX_COMMANDS: usize = 32;

/// Most bank groups of a channel that can each have a row of its own in PIM_MAC_BG.
const MAX_OWN_ROWS: u32 = 64;

/// Longest timing or latency, in cycles: sums of some of them stay far within 32 bits.
const MAX_CYCLES: Cycle = 1 << 22;
/// Longest work on one entry of a softmax, in cycles.
const MAX_PER_ENTRY: Cycle = 1 << 10;
/// Most commands that a window may count.
const MAX_WINDOW: u32 = 64;

/// A level of the device at which commands meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The whole channel.
    Channel,
    /// A pseudo-channel.
    PseudoChannel,
    /// A rank.
    Rank,
    /// A bank group.
    BankGroup,
    /// A bank.
    Bank,
}

impl Level {
    /// All levels from the top.
    pub const ALL: [Level; 5] = [Level::Channel, Level::PseudoChannel, Level::Rank, Level::BankGroup, Level::Bank];

    /// Nodes of a channel.
    pub fn nodes(self, g: &Geometry) -> u32 {
        nodes(&Level::ALL[..=self as usize], g)
    }

    /// The level above.
    fn parent(self) -> Option<Level> {
        Level::ALL[..self as usize].last().copied()
    }
}

/// The banks of a channel that a command acts on, seen from its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The addressed bank.
    Bank,
    /// All banks of the addressed bank group.
    BankGroup,
    /// The addressed bank number in every bank group.
    SameBank,
    /// The addressed bank in every pseudo-channel.
    PerBank,
    /// All banks of the addressed rank of one pseudo-channel.
    Rank,
    /// All banks.
    Channel,
}

impl Scope {
    /// Whether a command of this scope reaches all banks below its node at `level`.
    fn fills(self, level: Level) -> bool {
        match self {
            Scope::Channel => true,
            Scope::Rank => level >= Level::Rank,
            Scope::BankGroup => level >= Level::BankGroup,
            Scope::Bank | Scope::SameBank | Scope::PerBank => level == Level::Bank,
        }
    }

    /// Banks that a command of this scope reaches in each rank that it reaches.
    fn banks_per_rank(self, g: &Geometry) -> u32 {
        match self {
            Scope::Bank | Scope::PerBank => 1,
            Scope::BankGroup => g.banks,
            Scope::SameBank => g.bank_groups,
            Scope::Rank | Scope::Channel => g.bank_groups * g.banks,
        }
    }

    /// Banks that a command of this scope reaches in its channel.
    pub fn banks(self, g: &Geometry) -> u32 {
        match self {
            Scope::Bank => 1,
            Scope::BankGroup => g.banks,
            Scope::SameBank => g.units(),
            Scope::PerBank => g.pseudo_channels,
            Scope::Rank => g.bank_groups * g.banks,
            Scope::Channel => g.banks_per_channel(),
        }
    }
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Opens the addressed row.
    Open,
    /// Closes whatever row is open.
    Close,
    /// Reads a column of the open row.
    Read,
    /// Writes a column of the open row.
    Write,
    /// Multiplies a column of the open row in every bank of its scope.
    Mac,
    /// As `Mac`, in those bank groups that have a row open, each at its own row.
    MacOpen,
    /// Refreshes; all banks of its scope must be closed.
    Refresh,
    /// Moves one buffer entry.
    Move,
    /// Starts the softmax unit.
    Softmax,
    /// Sets a mode register.
    Configure,
}

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
    pub fn says_heads(&self) -> bool {
        self.effect == Effect::MacOpen || (self.effect, self.scope) == (Effect::Mac, Scope::Channel)
    }

    /// The banks that it acts on for certain: those of a bank group, where it acts on those bank groups that are enabled.
    fn least_reach(&self) -> Scope {
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
pub struct Declared {
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
    pub declared: Vec<Declared>,
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

/// What a system file chooses of a device file.
pub struct Selection<'a> {
    /// Organisation by name.
    pub organisation: &'a str,
    /// Timing preset by name.
    pub timing: &'a str,
    /// Channels.
    pub channels: u32,
    /// Power policy.
    pub power: PowerPolicy,
    /// Bytes of an element of what is multiplied, where they are not the device's.
    pub element_bytes: Option<u32>,
    /// Query heads for which a unit multiplies a column that it reads once, where they are not the device's.
    pub heads_per_read: Option<u32>,
    /// Of power policy `charge`, what differs from the device's budget.
    pub budget: &'a Budget,
    /// Which constraints hold: `Completed` all, each at the highest level where it means the same; `Reference` only
    /// the reference's, each at the level where the reference declares it, for there the level has a meaning of its
    /// own.
    pub constraints: ConstraintSet,
    /// How often each bank is refreshed in nREFI.
    pub refresh_rate: RefreshRate,
}

/// Bank activations that power policy `charge` allows one rank, as far as the system says so.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Activations of single banks in any window.
    pub activations: Option<u32>,
    /// Length of the window.
    pub window: Option<Duration>,
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
        let opens = |e: &&Edge| self.commands[usize::from(e.to)].effect == Effect::Open;
        let edges = self.commands[usize::from(command)].edges.iter();
        edges.filter(opens).map(|e| Cycle::from(e.latency)).max().unwrap_or(0)
    }

    /// Makes the tables. `doc` is the device file, for line numbers; `chooser` the file that made the selection.
    pub fn resolve(file: &DeviceFile, doc: &Document, choice: &Selection<'_>, chooser: &Document) -> Result<Self> {
        check_sources(file, doc)?;
        check_presets(file, doc)?;
        let (geometry, density) = organisation(file, doc, choice, chooser)?;
        let preset = file.timing.get(choice.timing).ok_or_else(|| {
            let hint = suggest(choice.timing, file.timing.keys().map(String::as_str));
            chooser.error("dram.timing", format!("{} has no timing preset \"{}\"{hint}", file.name, choice.timing))
        })?;
        let clock = clock_period(preset.tck.value)
            .ok_or_else(|| doc.error(&format!("timing.{}.tCK", choice.timing), "tCK must be 1 ps to 1000 ns"))?;
        check_rate(preset, clock).map_err(|e| doc.error(&format!("timing.{}.rate", choice.timing), e))?;
        let mut timings: BTreeMap<String, Cycle> =
            preset.values.iter().map(|(k, v)| (k.clone(), v.cycles(clock))).collect();
        if let Some((name, _)) = timings.iter().find(|(_, n)| **n > MAX_CYCLES) {
            let what = format!("{name} is over {MAX_CYCLES} cycles");
            return Err(doc.error(&format!("timing.{}.{name}", choice.timing), what));
        }
        for (i, c) in file.command.iter().enumerate() {
            if file.command[..i].iter().any(|o| o.name == c.name) {
                let what = format!("command \"{}\" is defined twice", c.name);
                return Err(doc.error(&format!("command[{i}]"), what));
            }
        }
        let refreshes = refreshes(&file.command, doc)?;
        let of_channel = |(id, _): &&(CommandId, CommandId)| file.command[usize::from(*id)].scope == Scope::Channel;
        let refresh = refreshes.iter().find(of_channel).copied();
        let no_time = || doc.error("refresh_time", format!("no refresh time for a density of {density}"));
        let rfc = match &file.refresh_time {
            Some(t) => Some(t.by_density.get(&density).ok_or_else(no_time)?.cycles(clock)),
            None => None,
        };
        timings.extend(rfc.map(|cycles| ("nRFC".to_string(), cycles)));
        let mut nrefi = Cycle::from(u32::MAX);
        if refresh.is_some() {
            let rfc = rfc.ok_or_else(no_time)?;
            nrefi = *timings
                .get("nREFI")
                .filter(|n| **n > 0)
                .ok_or_else(|| doc.error(&format!("timing.{}.nREFI", choice.timing), "nREFI is missing or zero"))?
                / choice.refresh_rate.times();
            nrefi = nrefi.max(1);
            if nrefi < 2 * rfc {
                let what = format!("refreshes of {rfc} cycles take more than half of nREFI, {nrefi} cycles");
                return Err(doc.error(&format!("timing.{}.nREFI", choice.timing), what));
            }
        }

        let (elements, element_bytes) = elements(file, doc, choice, chooser, &geometry)?;
        if let Some(pim) = &file.pim {
            let passes = Cycle::from(elements.div_ceil(pim.lanes.max(1)));
            let pass = match &pim.pass {
                Some(text) => Some(expr::evaluate(text, &timings).map_err(|e| doc.error("pim.pass", e))?),
                None if passes > 1 => {
                    let what = format!("{elements} elements of a column on {} lanes: say what a pass takes", pim.lanes);
                    return Err(doc.error("pim.pass", what));
                }
                None => None,
            };
            timings.extend(pass.map(|cycles| ("nMAC".to_string(), passes * cycles)));
        }
        let mut commands = resolve_commands(file, doc, &timings, &geometry)?;
        let mut windows = Vec::new();
        let mut builder = EdgeBuilder {
            geometry: &geometry,
            timings: &timings,
            longest: MAX_CYCLES.min(nrefi - 1),
            power: choice.power,
            lift: choice.constraints == ConstraintSet::Completed,
            doc,
            declared: Vec::new(),
        };
        for (i, set) in file.constraints.iter().enumerate() {
            if choice.constraints == ConstraintSet::Reference && set.set != ConstraintSet::Reference {
                continue;
            }
            builder.add(i, set, &mut commands, &mut windows)?;
        }
        let (longest, mut declared) = (builder.longest, builder.declared);
        if choice.power == PowerPolicy::Charge {
            charge(file, doc, choice, chooser, (clock, longest), (&mut commands, &mut windows, &mut declared))?;
        }
        for id in 0..commands.len() {
            let mut incoming: Vec<Level> =
                commands.iter().flat_map(|c| &c.edges).filter(|e| usize::from(e.to) == id).map(|e| e.level).collect();
            incoming.sort();
            incoming.dedup();
            commands[id].incoming = incoming;
        }
        let plans = plans(&file.command, doc)?;
        if plans[Op::MacBg as usize].is_some() && geometry.units() > MAX_OWN_ROWS {
            let what = format!("{} bank groups; PIM_MAC_BG works in {MAX_OWN_ROWS} at most", geometry.units());
            return Err(doc.error(&format!("organisation.{}", choice.organisation), what));
        }
        let e = &file.energy;
        let per_window = match &e.refreshes_per_window {
            Some(n) if n.value == 0 => {
                return Err(doc.error("energy.refreshes_per_window", "refreshes_per_window must be at least 1"));
            }
            Some(n) => n.value,
            None if refresh.is_some() => return Err(doc.error("energy", "refreshes_per_window is missing")),
            None => 1,
        };
        let rows_per_refresh = f64::from(geometry.rows) / f64::from(per_window);
        let has = |effects: &[Effect]| file.command.iter().any(|c| effects.contains(&c.effect));
        let multiplies = has(&[Effect::Mac, Effect::MacOpen]);
        let moves = has(&[Effect::Move]);
        let (lanes, entry_bytes) = match &file.pim {
            None if multiplies || moves => return Err(doc.error("", "the device has PIM commands but no [pim]")),
            None => (0, geometry.column_bytes),
            Some(p) if !(1..=1 << 16).contains(&p.lanes) => {
                return Err(doc.error("pim.lanes", format!("lanes = {} is not in 1..={}", p.lanes, 1 << 16)));
            }
            Some(p) => (p.lanes, whole_bytes(p.entry.value).map_err(|e| doc.error("pim.entry", e))?),
        };
        let of_unit = |name: &str, given: Option<&Count>, otherwise: u32| match given {
            Some(n) if !(1..=1 << 16).contains(&n.value) => {
                Err(doc.error(&format!("pim.{name}"), format!("{name} = {} is not in 1..={}", n.value, 1 << 16)))
            }
            Some(n) => Ok(n.value),
            None => Ok(otherwise),
        };
        let pim = file.pim.as_ref();
        let accumulators = of_unit("accumulators", pim.and_then(|p| p.accumulators.as_ref()), u32::MAX)?;
        let heads_per_read = of_unit("heads_per_read", pim.and_then(|p| p.heads_per_read.as_ref()), 1)?;
        let heads_per_read = heads_of_a_read(heads_per_read, &geometry, doc, choice, chooser)?;
        let energy = EnergyTable {
            activation: e.activation.value,
            cell_activation: needed(&e.cell_activation, multiplies, "cell_activation", doc)?,
            cell_column: e.cell_column.value,
            mac: needed(&e.mac, multiplies, "mac", doc)?,
            sram: needed(&e.sram, moves, "sram", doc)?,
            refresh: rows_per_refresh * f64::from(geometry.banks_per_channel()) * e.activation.value,
            background: e.background.value * f64::from(geometry.ranks),
        };
        Ok(Device {
            name: file.name.clone(),
            preset: format!("{} {}", choice.organisation, choice.timing),
            geometry,
            clock,
            commands,
            windows,
            declared,
            power: choice.power,
            plans,
            refresh,
            refreshes,
            nrefi,
            timings,
            lanes,
            element_bytes,
            elements,
            entry_bytes,
            accumulators,
            heads_per_read,
            energy,
            assumed: assumed(file),
        })
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

/// The query heads of a column read: the system's, or those of the device. A request names them by the bank of its address.
fn heads_of_a_read(
    of_device: u32,
    geometry: &Geometry,
    doc: &Document,
    choice: &Selection<'_>,
    chooser: &Document,
) -> Result<u32> {
    let (heads, most) = (choice.heads_per_read.unwrap_or(of_device), geometry.banks_per_channel());
    if (1..=most).contains(&heads) {
        return Ok(heads);
    }
    let what = format!("heads_per_read = {heads} is not in 1..={most}, the banks of a channel");
    Err(if choice.heads_per_read.is_some() {
        chooser.error("heads_per_read", what)
    } else {
        doc.error("pim.heads_per_read", what)
    })
}

fn clock_period(ps: f64) -> Option<ClockPeriod> {
    (1.0..=1e6).contains(&ps).then_some(ClockPeriod(ps as u32))
}

fn whole_bytes(size: f64) -> Result<u32, String> {
    let fits = (1.0..=f64::from(1 << 20)).contains(&size) && size.fract() == 0.0;
    if fits { Ok(size as u32) } else { Err(format!("{size} B is not a whole number of bytes in 1..={}", 1 << 20)) }
}

fn organisation(
    file: &DeviceFile,
    doc: &Document,
    choice: &Selection<'_>,
    chooser: &Document,
) -> Result<(Geometry, String)> {
    let o = file.organisation.get(choice.organisation).ok_or_else(|| {
        let hint = suggest(choice.organisation, file.organisation.keys().map(String::as_str));
        chooser
            .error("dram.organisation", format!("{} has no organisation \"{}\"{hint}", file.name, choice.organisation))
    })?;
    let key = format!("organisation.{}", choice.organisation);
    let geometry = Geometry {
        channels: choice.channels,
        pseudo_channels: o.pseudo_channels,
        ranks: o.ranks,
        bank_groups: o.bank_groups,
        banks: o.banks,
        rows: o.rows,
        columns: o.columns,
        column_bytes: whole_bytes(o.column.value).map_err(|e| doc.error(&format!("{key}.column"), e))?,
    };
    geometry.check().map_err(|what| match what.starts_with("channels") {
        true => chooser.error("channels", what),
        false => doc.error(&key, what),
    })?;
    let gigabits = geometry.channel_bytes() as f64 * 8.0 / f64::from(1u32 << 30);
    if gigabits != o.density.value {
        let what = format!(
            "{} pseudo-channels x {} ranks x {} bank groups x {} banks x {} rows x {} columns x {} B are {gigabits} Gb, not {} Gb",
            o.pseudo_channels,
            o.ranks,
            o.bank_groups,
            o.banks,
            o.rows,
            o.columns,
            geometry.column_bytes,
            o.density.value
        );
        return Err(doc.error(&format!("{key}.density"), what));
    }
    Ok((geometry, format!("{} Gb", o.density.value)))
}

/// Elements of a column of one bank that are multiplied, and their bytes.
fn elements(
    file: &DeviceFile,
    doc: &Document,
    choice: &Selection<'_>,
    chooser: &Document,
    geometry: &Geometry,
) -> Result<(u32, u32)> {
    let Some(pim) = &file.pim else { return Ok((0, 0)) };
    let of_device = match &pim.element {
        Some(size) => whole_bytes(size.value).map_err(|e| doc.error("pim.element", e))?,
        None => 2,
    };
    let bytes = choice.element_bytes.unwrap_or(of_device);
    if bytes == 0 || !geometry.column_bytes.is_multiple_of(bytes) {
        let what = format!("a column of {} B is no whole number of elements of {bytes} B", geometry.column_bytes);
        return Err(match choice.element_bytes {
            Some(_) => chooser.error("element_bytes", what),
            None => doc.error("pim.element", what),
        });
    }
    Ok((geometry.column_bytes / bytes, bytes))
}

fn id_of(commands: &[CommandFile], name: &str) -> Option<CommandId> {
    commands.iter().position(|c| c.name == name).map(|i| i as CommandId)
}

fn require_id(commands: &[CommandFile], name: &str, doc: &Document, key: &str) -> Result<CommandId> {
    id_of(commands, name).ok_or_else(|| {
        let hint = suggest(name, commands.iter().map(|c| c.name.as_str()));
        doc.error(key, format!("unknown command \"{name}\"{hint}"))
    })
}

/// An energy that must be given if the device has commands that need it.
fn needed<D>(energy: &Option<Quantity<D>>, is_needed: bool, name: &str, doc: &Document) -> Result<f64> {
    match energy {
        Some(e) => Ok(e.value),
        None if is_needed => Err(doc.error("energy", format!("{name} is missing"))),
        None => Ok(0.0),
    }
}

/// Adds the window of power policy `charge`: every command that opens rows counts with its banks.
fn charge(
    file: &DeviceFile,
    doc: &Document,
    choice: &Selection<'_>,
    chooser: &Document,
    (clock, longest): (ClockPeriod, Cycle),
    (commands, windows, declared): (&mut [Command], &mut Vec<Window>, &mut Vec<Declared>),
) -> Result<()> {
    let given = file.power_budget.as_ref();
    let activations = choice.budget.activations.or(given.map(|b| b.activations));
    let window = choice.budget.window.as_ref().or(given.map(|b| &b.window));
    let (Some(count), Some(window)) = (activations, window) else {
        let what = format!("power = \"charge\" needs a [power_budget] here or in {}", file.name);
        return Err(chooser.error("power", what));
    };
    let error = |key: &str, from_system: bool, what: String| match from_system {
        true => chooser.error(&format!("power_budget.{key}"), what),
        false => doc.error(&format!("power_budget.{key}"), what),
    };
    if let Some(c) = commands.iter().rfind(|c| c.effect == Effect::Open && c.banks_per_rank > count) {
        let what = format!("{} opens {} banks of a rank; the budget is {count} a window", c.name, c.banks_per_rank);
        return Err(error("activations", choice.budget.activations.is_some(), what));
    }
    let latency = window.cycles(clock);
    if !(1..=4096).contains(&count) || !(1..=longest).contains(&latency) {
        let what = format!("{count} activations in {latency} tCK: not in 1..=4096 in 1..={longest}");
        return Err(error("window", choice.budget.window.is_some(), what));
    }
    let id = windows.len() as u8;
    let openers = (0..).zip(commands.iter()).filter(|(_, c)| c.effect == Effect::Open).map(|(i, _)| i);
    let openers: Vec<CommandId> = openers.collect();
    declared.push(Declared {
        set: ConstraintSet::Completed,
        line: 0,
        level: Level::Rank,
        apart: None,
        from: openers.clone(),
        to: openers,
        latency: latency as u32,
        expression: "power_budget.window".into(),
        window: count,
        power: true,
        by_bank: true,
    });
    windows.push(Window { level: Level::Rank, count, latency: latency as u32, by_bank: true });
    for c in commands.iter_mut().filter(|c| c.effect == Effect::Open) {
        c.counted_in.push(id);
        c.held_by.push(id);
    }
    Ok(())
}

fn resolve_commands(
    file: &DeviceFile,
    doc: &Document,
    timings: &BTreeMap<String, Cycle>,
    geometry: &Geometry,
) -> Result<Vec<Command>> {
    if file.command.len() > MAX_COMMANDS {
        return Err(doc.error("command", format!("{} commands; at most {MAX_COMMANDS}", file.command.len())));
    }
    let wire = |w: &Wire| match w {
        Wire::BankGroup => needed(&file.energy.bank_group, true, "bank_group", doc),
        Wire::GlobalIo => needed(&file.energy.global_io, true, "global_io", doc),
        Wire::Tsv => needed(&file.energy.tsv, true, "tsv", doc),
        Wire::Interposer => needed(&file.energy.interposer, true, "interposer", doc),
    };
    let mut out: Vec<Command> = Vec::with_capacity(file.command.len());
    for (i, c) in file.command.iter().enumerate() {
        let key = format!("command[{i}]");
        let done = match &c.done {
            Some(text) => expr::evaluate(text, timings).map_err(|e| doc.error(&format!("{key}.done"), e))?,
            None => 1,
        };
        if done > MAX_CYCLES {
            return Err(doc.error(&format!("{key}.done"), format!("{done} cycles are over {MAX_CYCLES}")));
        }
        let per_entry = match &c.done_per_entry {
            Some(text) => expr::evaluate(text, timings).map_err(|e| doc.error(&format!("{key}.done_per_entry"), e))?,
            None => 0,
        };
        if c.done_per_entry.is_some() && c.effect != Effect::Softmax || per_entry > MAX_PER_ENTRY {
            let what =
                format!("{per_entry} cycles for an entry of {}: only a softmax's, at most {MAX_PER_ENTRY}", c.name);
            return Err(doc.error(&format!("{key}.done_per_entry"), what));
        }
        let (banks, is_mac) = (c.scope.banks(geometry), c.effect == Effect::Mac);
        if c.passes == 0 || banks % c.passes != 0 || c.passes > 1 && !is_mac {
            let what = format!("{} passes over {banks} banks: only a MAC's, and a divisor of its banks", c.passes);
            return Err(doc.error(&format!("{key}.passes"), what));
        }
        let path_pj_per_bit = c.path.iter().map(wire).sum::<Result<f64>>()?;
        let reach = reach(c, geometry, &wire).map_err(|e| match e {
            Error::Config { what, .. } => doc.error(&format!("{key}.reach"), what),
            other => other,
        })?;
        out.push(Command {
            name: c.name.clone(),
            bus: c.bus,
            scope: c.scope,
            effect: c.effect,
            passes: c.passes,
            banks_per_rank: c.scope.banks_per_rank(geometry),
            done,
            per_entry,
            edges: Vec::new(),
            incoming: Vec::new(),
            counted_in: Vec::new(),
            held_by: Vec::new(),
            path_pj_per_bit,
            reach,
        });
    }
    Ok(out)
}

/// Nodes of a channel at these levels.
fn nodes(levels: &[Level], g: &Geometry) -> u32 {
    let of = |level: &Level| match level {
        Level::Channel => 1,
        Level::PseudoChannel => g.pseudo_channels,
        Level::Rank => g.ranks,
        Level::BankGroup => g.bank_groups,
        Level::Bank => g.banks,
    };
    levels.iter().map(of).product()
}

/// What a buffer move reaches. Vias belong to a pseudo-channel, global I/O to a rank of one, and a multiplexer to a bank
/// group: of a broadcast entry those are driven that lie on the way to where it goes.
fn reach(c: &CommandFile, g: &Geometry, wire: &impl Fn(&Wire) -> Result<f64>) -> Result<Reach> {
    let error = |what: String| Error::Config { at: c.name.clone(), what };
    let given = c.reach.clone().unwrap_or_default();
    if c.reach.is_some() && c.effect != Effect::Move {
        return Err(error(format!("{} moves no buffer entries: a reach is a move's", c.name)));
    }
    let outputs = given.outputs.as_ref().unwrap_or(&given.each);
    for levels in [&given.each, outputs, &given.broadcast] {
        if let Some((i, level)) = levels.iter().enumerate().find(|(i, l)| levels[..*i].contains(l)) {
            return Err(error(format!("{level:?} is given twice, as the {}. level", i + 1).to_lowercase()));
        }
    }
    if let Some(level) = outputs.iter().chain(&given.each).find(|l| given.broadcast.contains(l)) {
        let what = format!("{level:?} has an entry of its own, or one that is broadcast, not both");
        return Err(error(what.to_lowercase()));
    }
    let buffers = nodes(&given.broadcast, g);
    let driven = |w: &Wire| {
        let above: &[Level] = match w {
            Wire::BankGroup => &[Level::PseudoChannel, Level::Rank, Level::BankGroup],
            Wire::GlobalIo => &[Level::PseudoChannel, Level::Rank],
            Wire::Tsv => &[Level::PseudoChannel],
            Wire::Interposer => &[],
        };
        let on_the_way: Vec<Level> = given.broadcast.iter().filter(|l| above.contains(l)).copied().collect();
        f64::from(nodes(&on_the_way, g))
    };
    let path = c.path.iter().map(|w| Ok(wire(w)? * driven(w))).sum::<Result<f64>>()?;
    Ok(Reach {
        entries: nodes(&given.each, g) * buffers,
        outputs: nodes(outputs, g) * buffers,
        pj_per_bit: path / f64::from(buffers),
    })
}

/// The command that opens or closes rows for `of`, checked: another effect or a smaller reach would never do it.
fn row_command(
    commands: &[CommandFile],
    of: &CommandFile,
    name: &Option<String>,
    effect: Effect,
    doc: &Document,
    key: &str,
) -> Result<Option<CommandId>> {
    let Some(name) = name else { return Ok(None) };
    let id = require_id(commands, name, doc, key)?;
    let command = &commands[usize::from(id)];
    // Bank groups open and close one by one for a command that works in those that are open.
    let scope = if of.effect == Effect::MacOpen { Scope::BankGroup } else { of.scope };
    if command.effect != effect || !(command.scope == scope || command.scope == Scope::Channel) {
        let what = if effect == Effect::Open { "open" } else { "close" };
        return Err(doc.error(key, format!("{name} does not {what} every bank that {} needs", of.name)));
    }
    Ok(Some(id))
}

/// The refresh commands, each with the one that closes its banks before it.
fn refreshes(commands: &[CommandFile], doc: &Document) -> Result<Vec<(CommandId, CommandId)>> {
    let mut out = Vec::new();
    for (i, c) in commands.iter().enumerate().filter(|(_, c)| c.effect == Effect::Refresh) {
        let key = format!("command[{i}]");
        let Some(closer) = &c.closer else {
            return Err(doc.error(&key, format!("{} needs closed banks: name its closer", c.name)));
        };
        let id = require_id(commands, closer, doc, &format!("{key}.closer"))?;
        let by = &commands[usize::from(id)];
        if by.effect == Effect::Close && by.scope == Scope::Channel && c.scope != Scope::Channel {
            let what = format!("{} must reach the whole channel, as {closer} does, which closes its banks", c.name);
            return Err(doc.error(&format!("{key}.scope"), what));
        }
        if !refresh::closes((by.effect, by.scope), c.scope) {
            let what = format!("{closer} does not close every bank that {} needs", c.name);
            return Err(doc.error(&format!("{key}.closer"), what));
        }
        if matches!(c.scope, Scope::BankGroup | Scope::PerBank) {
            let what = format!("{} refreshes banks that no system can ask for", c.name);
            return Err(doc.error(&format!("{key}.scope"), what));
        }
        if let Some(other) = commands[..i].iter().find(|o| o.effect == Effect::Refresh && o.scope == c.scope) {
            let what = format!("{} refreshes the same banks as {}", c.name, other.name);
            return Err(doc.error(&format!("{key}.scope"), what));
        }
        out.push((i as CommandId, id));
    }
    Ok(out)
}

fn plans(commands: &[CommandFile], doc: &Document) -> Result<[Option<Plan>; Op::COUNT]> {
    let mut out = [None; Op::COUNT];
    for (i, c) in commands.iter().enumerate() {
        let key = format!("command[{i}]");
        let opener = row_command(commands, c, &c.opener, Effect::Open, doc, &format!("{key}.opener"))?;
        // What closes the banks of a refresh is not asked for by requests.
        let closer = if c.effect == Effect::Refresh { &None } else { &c.closer };
        let closer = row_command(commands, c, closer, Effect::Close, doc, &format!("{key}.closer"))?;
        let plan = Plan { last: i as CommandId, opener, closer };
        let Some(name) = &c.serves else { continue };
        let op = Op::parse(name).ok_or_else(|| {
            doc.error(&format!("{key}.serves"), format!("unknown operation \"{name}\"{}", suggest(name, Op::names())))
        })?;
        let needs_row = matches!(c.effect, Effect::Read | Effect::Write | Effect::Mac | Effect::MacOpen);
        if needs_row && (plan.opener.is_none() || plan.closer.is_none()) {
            return Err(doc.error(&key, format!("{} needs an open row: name its opener and closer", c.name)));
        }
        if out[op as usize].replace(plan).is_some() {
            return Err(doc.error(&format!("{key}.serves"), format!("{name} is served by two commands")));
        }
    }
    Ok(out)
}

struct EdgeBuilder<'a> {
    geometry: &'a Geometry,
    timings: &'a BTreeMap<String, Cycle>,
    /// A longer latency leaves no time between two refreshes.
    longest: Cycle,
    power: PowerPolicy,
    lift: bool,
    doc: &'a Document,
    declared: Vec<Declared>,
}

impl EdgeBuilder<'_> {
    fn add(
        &mut self,
        index: usize,
        set: &ConstraintsFile,
        commands: &mut [Command],
        windows: &mut Vec<Window>,
    ) -> Result<()> {
        for (j, e) in set.edges.iter().enumerate() {
            let key = format!("constraints[{index}].edges[{j}]");
            if !e.power.is_empty() && !e.power.contains(&self.power) {
                continue;
            }
            let latency = expr::evaluate(&e.latency, self.timings).map_err(|w| self.doc.error(&key, w))?;
            if latency > self.longest {
                let what = format!("a latency of {latency} cycles is too long; at most {}", self.longest);
                return Err(self.doc.error(&key, what));
            }
            let latency = latency as u32;
            let ids = |names: &[String]| -> Result<Vec<usize>> {
                names
                    .iter()
                    .map(|n| {
                        commands.iter().position(|c| &c.name == n).ok_or_else(|| {
                            let hint = suggest(n, commands.iter().map(|c| c.name.as_str()));
                            self.doc.error(&key, format!("unknown command \"{n}\"{hint}"))
                        })
                    })
                    .collect()
            };
            let (from, to) = (ids(&e.from)?, ids(&e.to)?);
            let command_ids = |ids: &[usize]| ids.iter().map(|i| *i as CommandId).collect();
            self.declared.push(Declared {
                set: set.set,
                line: self.doc.line(&key).unwrap_or(0),
                level: e.level,
                apart: e.apart,
                from: command_ids(&from),
                to: command_ids(&to),
                latency,
                expression: e.latency.clone(),
                window: e.window,
                power: !e.power.is_empty(),
                by_bank: false,
            });
            if let Some(apart) = e.apart {
                self.add_siblings((e.level, apart), e.window, (&from, &to), latency, commands)
                    .map_err(|what| self.doc.error(&key, what))?;
                continue;
            }
            match e.window {
                0 => return Err(self.doc.error(&key, "window must be at least 1")),
                n if n > MAX_WINDOW => {
                    return Err(self.doc.error(&key, format!("window = {n} is over {MAX_WINDOW}")));
                }
                1 => self.add_edges(e.level, &from, &to, latency, commands),
                count => {
                    if windows.len() >= 8 {
                        return Err(self.doc.error(&key, "at most 8 windows are supported"));
                    }
                    let id = windows.len() as u8;
                    windows.push(Window { level: e.level, count, latency, by_bank: false });
                    from.iter().for_each(|f| commands[*f].counted_in.push(id));
                    to.iter().for_each(|t| commands[*t].held_by.push(id));
                    if self.power == PowerPolicy::Stagger {
                        self.stagger(e.level, &from, &to, count, latency, commands);
                    }
                }
            }
        }
        Ok(())
    }

    /// An edge between different nodes of the level below.
    fn add_siblings(
        &self,
        (level, apart): (Level, Level),
        window: u32,
        (from, to): (&[usize], &[usize]),
        latency: u32,
        commands: &mut [Command],
    ) -> Result<(), String> {
        if apart.parent() != Some(level) || window != 1 || !self.lift {
            return Err("apart is the level right below, of an edge of set \"completed\" without a window".into());
        }
        // A command of several nodes of the level below would be apart from itself.
        let narrow = |c: &Command| match c.scope {
            Scope::Bank => true,
            Scope::BankGroup => apart <= Level::BankGroup,
            Scope::Rank => apart <= Level::Rank,
            Scope::SameBank | Scope::PerBank | Scope::Channel => false,
        };
        if let Some(i) = from.iter().chain(to).find(|i| !narrow(&commands[**i])) {
            return Err(format!("{} may reach several nodes of {apart:?}: it cannot be told apart", commands[*i].name));
        }
        for &f in from {
            for &t in to {
                let same = |e: &&mut Edge| (e.level, usize::from(e.to), e.siblings) == (apart, t, true);
                match commands[f].edges.iter_mut().find(same) {
                    Some(e) => e.latency = e.latency.max(latency),
                    None => {
                        commands[f].edges.push(Edge { level: apart, to: t as CommandId, latency, siblings: true });
                    }
                }
            }
        }
        Ok(())
    }

    fn add_edges(&self, level: Level, from: &[usize], to: &[usize], latency: u32, commands: &mut [Command]) {
        for &f in from {
            for &t in to {
                let level = match self.lift {
                    true => lift(level, commands[f].least_reach(), commands[t].least_reach()),
                    false => level,
                };
                let latency = latency + self.spread(&commands[f], &commands[t]);
                match commands[f]
                    .edges
                    .iter_mut()
                    .find(|e| (e.level, usize::from(e.to), e.siblings) == (level, t, false))
                {
                    Some(e) => e.latency = e.latency.max(latency),
                    None => commands[f].edges.push(Edge { level, to: t as CommandId, latency, siblings: false }),
                }
            }
        }
    }

    /// Under `stagger` a wide activation opens its banks one after the other, `count` in each window: what may
    /// follow the last of them waits for that one.
    fn spread(&self, from: &Command, to: &Command) -> u32 {
        if self.power != PowerPolicy::Stagger || from.effect != Effect::Open || to.effect == Effect::Open {
            return 0;
        }
        let banks = from.scope.banks_per_rank(self.geometry);
        let t = |name: &str| self.timings.get(name).copied().unwrap_or(0) as u32;
        (banks - 1) / 4 * t("nFAW") + (banks - 1) % 4 * t("nRRDS")
    }

    /// Under `stagger` an activation of n banks of a rank uses up n places of the window.
    fn stagger(&self, level: Level, from: &[usize], to: &[usize], count: u32, latency: u32, commands: &mut [Command]) {
        for &f in from {
            let windows = commands[f].scope.banks_per_rank(self.geometry) / count;
            if windows > 0 {
                self.add_edges(level, &[f], to, windows * latency, commands);
            }
        }
    }
}

/// The highest level at which an edge means the same: where one of the two commands reaches every bank of the node
/// above, meeting in that node and meeting in its parts are one. Higher edges are fewer nodes to look at.
fn lift(level: Level, from: Scope, to: Scope) -> Level {
    let mut level = level;
    while let Some(parent) = level.parent() {
        if !(from.fills(parent) || to.fills(parent)) {
            break;
        }
        level = parent;
    }
    level
}

fn sources_of(file: &DeviceFile) -> Vec<(String, &str)> {
    let mut out: Vec<(String, &str)> = Vec::new();
    for (k, o) in &file.organisation {
        out.push((format!("organisation.{k}"), &o.source));
        out.extend(o.density.source.as_deref().map(|s| (format!("organisation.{k}.density"), s)));
        out.extend(o.column.source.as_deref().map(|s| (format!("organisation.{k}.column"), s)));
    }
    out.extend(file.pim.as_ref().map(|p| ("pim".into(), p.source.as_str())));
    let of_units =
        file.pim.iter().flat_map(|p| [("accumulators", &p.accumulators), ("heads_per_read", &p.heads_per_read)]);
    out.extend(of_units.filter_map(|(name, n)| Some((format!("pim.{name}"), n.as_ref()?.source.as_str()))));
    for (k, t) in &file.timing {
        out.push((format!("timing.{k}"), &t.source));
        out.extend(t.values.iter().filter_map(|(n, v)| Some((format!("timing.{k}.{n}"), v.source.as_deref()?))));
    }
    out.extend(file.refresh_time.as_ref().map(|t| ("refresh_time".into(), t.source.as_str())));
    out.extend(file.power_budget.as_ref().map(|b| ("power_budget".into(), b.source.as_str())));
    for (i, c) in file.constraints.iter().enumerate() {
        out.push((format!("constraints[{i}].source"), &c.source));
    }
    let e = &file.energy;
    out.push(("energy".into(), &e.source));
    out.extend(e.refreshes_per_window.as_ref().map(|n| ("energy.refreshes_per_window".into(), n.source.as_str())));
    fn source<D>(energy: &Option<Quantity<D>>) -> Option<&str> {
        energy.as_ref()?.source.as_deref()
    }
    let named = [
        ("activation", e.activation.source.as_deref()),
        ("cell_activation", source(&e.cell_activation)),
        ("cell_column", e.cell_column.source.as_deref()),
        ("bank_group", source(&e.bank_group)),
        ("global_io", source(&e.global_io)),
        ("tsv", source(&e.tsv)),
        ("interposer", source(&e.interposer)),
        ("mac", source(&e.mac)),
        ("sram", source(&e.sram)),
        ("background", e.background.source.as_deref()),
    ];
    out.extend(named.into_iter().filter_map(|(n, s)| Some((format!("energy.{n}"), s?))));
    out
}

fn check_sources(file: &DeviceFile, doc: &Document) -> Result<()> {
    for (key, source) in sources_of(file) {
        if source != "assumed" && !file.sources.contains_key(source) {
            let hint = suggest(source, file.sources.keys().map(String::as_str).chain(["assumed"]));
            return Err(doc.error(&format!("{key}.source"), format!("unknown source \"{source}\"{hint}")));
        }
    }
    Ok(())
}

/// A clock cycle has a power of two of transfers; tCK is rounded to whole ps.
fn check_rate(preset: &TimingFile, clock: ClockPeriod) -> Result<(), String> {
    let transfers_per_ps = preset.rate.value * 1e-6;
    let fits = |n: i32| (f64::from(1 << n) / transfers_per_ps - f64::from(clock.0)).abs() < 1.0;
    match (0..=5).any(fits) {
        true => Ok(()),
        false => Err(format!(
            "{} MT/s are {:.2} transfers in a tCK of {} ps; expected 1, 2, 4, 8, 16 or 32",
            preset.rate.value,
            transfers_per_ps * f64::from(clock.0),
            clock.0
        )),
    }
}

/// Presets of one device name the same timings: one that only some have is missing in the others, or misspelt.
fn check_presets(file: &DeviceFile, doc: &Document) -> Result<()> {
    for (a, b) in file.timing.iter().zip(file.timing.iter().skip(1)) {
        for ((name, this), (other_name, other)) in [(a, b), (b, a)] {
            if let Some(odd) = this.values.keys().find(|k| !other.values.contains_key(*k)) {
                let hint = suggest(odd, other.values.keys().map(String::as_str));
                let what = format!("\"{odd}\" is a timing of preset \"{name}\" but not of \"{other_name}\"{hint}");
                return Err(doc.error(&format!("timing.{name}.{odd}"), what));
            }
        }
    }
    Ok(())
}

fn assumed(file: &DeviceFile) -> Vec<String> {
    sources_of(file)
        .into_iter()
        .filter(|(_, s)| *s == "assumed")
        .map(|(key, _)| {
            match key.strip_prefix("constraints[").and_then(|k| k.split(']').next()?.parse::<usize>().ok()) {
                Some(i) => format!("constraints {:?}", file.constraints[i].set).to_lowercase(),
                None => key,
            }
        })
        .collect()
}
