//! Checks a device file and turns it into the dense tables that the engine runs on.

use super::config::Document;
use super::device::{Bus, CommandFile, ConstraintSet, ConstraintsFile, DeviceFile, PowerPolicy, Wire};
use super::expr;
use crate::addr::Geometry;
use crate::error::{Result, suggest};
use crate::op::Op;
use crate::units::{ClockPeriod, Cycle};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Index of a command in [`Device::commands`].
pub type CommandId = u8;

/// Most commands that a device may have.
pub const MAX_COMMANDS: usize = 32;

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
    /// All banks.
    Channel,
}

impl Scope {
    /// Whether a command of this scope reaches all banks below its node at `level`.
    fn fills(self, level: Level) -> bool {
        match self {
            Scope::Channel => true,
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
            Scope::Channel => g.bank_groups * g.banks,
        }
    }

    /// Banks that a command of this scope reaches in its channel.
    pub fn banks(self, g: &Geometry) -> u32 {
        match self {
            Scope::Bank => 1,
            Scope::BankGroup => g.banks,
            Scope::SameBank => g.units(),
            Scope::PerBank => g.pseudo_channels,
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
    /// Cycles until its result may be used behind a barrier.
    pub done: Cycle,
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
}

/// A sliding window: not more than `count` counted commands within `latency` cycles at one node of `level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Where they are counted.
    pub level: Level,
    /// How many may fall into one window.
    pub count: u32,
    /// Length of the window in cycles.
    pub latency: u32,
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
    /// One multiply-accumulate of one lane.
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
    /// The refresh command and the one that closes all banks before it.
    pub refresh: Option<(CommandId, CommandId)>,
    /// Cycles between refreshes.
    pub nrefi: Cycle,
    /// Every timing by name, in cycles.
    pub timings: BTreeMap<String, Cycle>,
    /// Multiply-accumulate lanes beside each bank.
    pub lanes: u32,
    /// Bytes of one buffer entry.
    pub entry_bytes: u32,
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
    /// Which constraints hold: `Completed` all, each at the highest level where it means the same; `Reference` only
    /// the reference's, each at the level where the reference declares it, for there the level has a meaning of its
    /// own.
    pub constraints: ConstraintSet,
}

impl Device {
    /// Id of a command by name.
    pub fn command(&self, name: &str) -> Option<CommandId> {
        self.commands.iter().position(|c| c.name == name).map(|i| i as CommandId)
    }

    /// Makes the tables. `doc` is the device file, for line numbers; `chooser` the file that made the selection.
    pub fn resolve(file: &DeviceFile, doc: &Document, choice: &Selection<'_>, chooser: &Document) -> Result<Self> {
        check_sources(file, doc)?;
        let (geometry, density) = organisation(file, doc, choice, chooser)?;
        let preset = file.timing.get(choice.timing).ok_or_else(|| {
            let hint = suggest(choice.timing, file.timing.keys().map(String::as_str));
            chooser.error("dram.timing", format!("{} has no timing preset \"{}\"{hint}", file.name, choice.timing))
        })?;
        let clock = clock_period(preset.tck.value)
            .ok_or_else(|| doc.error(&format!("timing.{}.tCK", choice.timing), "tCK must be 1 ps to 1000 ns"))?;
        let mut timings: BTreeMap<String, Cycle> =
            preset.values.iter().map(|(k, v)| (k.clone(), v.cycles(clock))).collect();
        let rfc = file
            .refresh_time
            .by_density
            .get(&density)
            .ok_or_else(|| doc.error("refresh_time", format!("no refresh time for a density of {density}")))?;
        timings.insert("nRFC".into(), rfc.cycles(clock));
        let nrefi = *timings
            .get("nREFI")
            .filter(|n| **n > 0)
            .ok_or_else(|| doc.error(&format!("timing.{}", choice.timing), "nREFI is missing or zero"))?;

        let mut commands = resolve_commands(file, doc, &timings)?;
        let mut windows = Vec::new();
        let lift = choice.constraints == ConstraintSet::Completed;
        let (power, declared) = (choice.power, Vec::new());
        let mut builder = EdgeBuilder { geometry: &geometry, timings: &timings, power, lift, doc, declared };
        for (i, set) in file.constraints.iter().enumerate() {
            if choice.constraints == ConstraintSet::Reference && set.set != ConstraintSet::Reference {
                continue;
            }
            builder.add(i, set, &mut commands, &mut windows)?;
        }
        let declared = builder.declared;
        for id in 0..commands.len() {
            let mut incoming: Vec<Level> =
                commands.iter().flat_map(|c| &c.edges).filter(|e| usize::from(e.to) == id).map(|e| e.level).collect();
            incoming.sort();
            incoming.dedup();
            commands[id].incoming = incoming;
        }
        let plans = plans(&file.command, doc)?;
        let refresh = file.command.iter().position(|c| c.effect == Effect::Refresh).and_then(|i| {
            let closer = file.command[i].closer.as_deref()?;
            Some((i as CommandId, id_of(&file.command, closer)?))
        });
        let e = &file.energy;
        let rows_per_refresh = f64::from(geometry.rows) / f64::from(e.refreshes_per_window.value.max(1));
        let energy = EnergyTable {
            activation: e.activation.value,
            cell_activation: e.cell_activation.value,
            cell_column: e.cell_column.value,
            mac: e.mac.value,
            sram: e.sram.value,
            refresh: rows_per_refresh * f64::from(geometry.banks_per_channel()) * e.activation.value,
            background: e.background.value,
        };
        Ok(Device {
            name: file.name.clone(),
            preset: format!("{} {}", choice.organisation, choice.timing),
            geometry,
            clock,
            commands,
            windows,
            declared,
            power,
            plans,
            refresh,
            nrefi,
            timings,
            lanes: file.pim.lanes,
            entry_bytes: file.pim.entry.value as u32,
            energy,
            assumed: assumed(file),
        })
    }

    /// Bytes that the processing units of a channel can read per cycle at most, over all its banks.
    pub fn peak_bytes_per_cycle(&self) -> Option<f64> {
        let mac = self.plans[Op::MacAb as usize]?.last;
        let command = &self.commands[usize::from(mac)];
        let gap = command.edges.iter().filter(|e| e.to == mac).map(|e| e.latency).max()?;
        let bytes = self.geometry.banks_per_channel() * self.geometry.column_bytes;
        Some(f64::from(bytes) / f64::from(gap))
    }
}

fn clock_period(ps: f64) -> Option<ClockPeriod> {
    (1.0..=1e6).contains(&ps).then_some(ClockPeriod(ps as u32))
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
        column_bytes: o.column.value as u32,
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

fn id_of(commands: &[CommandFile], name: &str) -> Option<CommandId> {
    commands.iter().position(|c| c.name == name).map(|i| i as CommandId)
}

fn require_id(commands: &[CommandFile], name: &str, doc: &Document, key: &str) -> Result<CommandId> {
    id_of(commands, name).ok_or_else(|| {
        let hint = suggest(name, commands.iter().map(|c| c.name.as_str()));
        doc.error(key, format!("unknown command \"{name}\"{hint}"))
    })
}

fn resolve_commands(file: &DeviceFile, doc: &Document, timings: &BTreeMap<String, Cycle>) -> Result<Vec<Command>> {
    if file.command.len() > MAX_COMMANDS {
        return Err(doc.error("command", format!("{} commands; at most {MAX_COMMANDS}", file.command.len())));
    }
    let wire = |w: &Wire| match w {
        Wire::BankGroup => file.energy.bank_group.value,
        Wire::GlobalIo => file.energy.global_io.value,
        Wire::Tsv => file.energy.tsv.value,
        Wire::Interposer => file.energy.interposer.value,
    };
    let mut out: Vec<Command> = Vec::with_capacity(file.command.len());
    for (i, c) in file.command.iter().enumerate() {
        let key = format!("command[{i}]");
        if out.iter().any(|o| o.name == c.name) {
            return Err(doc.error(&key, format!("command \"{}\" is defined twice", c.name)));
        }
        let done = match &c.done {
            Some(text) => expr::evaluate(text, timings).map_err(|e| doc.error(&format!("{key}.done"), e))?,
            None => 1,
        };
        out.push(Command {
            name: c.name.clone(),
            bus: c.bus,
            scope: c.scope,
            effect: c.effect,
            done,
            edges: Vec::new(),
            incoming: Vec::new(),
            counted_in: Vec::new(),
            held_by: Vec::new(),
            path_pj_per_bit: c.path.iter().map(wire).sum(),
        });
    }
    Ok(out)
}

fn plans(commands: &[CommandFile], doc: &Document) -> Result<[Option<Plan>; Op::COUNT]> {
    let mut out = [None; Op::COUNT];
    for (i, c) in commands.iter().enumerate() {
        let key = format!("command[{i}]");
        let id = |name: &Option<String>, field: &str| match name {
            Some(n) => require_id(commands, n, doc, &format!("{key}.{field}")).map(Some),
            None => Ok(None),
        };
        let plan = Plan { last: i as CommandId, opener: id(&c.opener, "opener")?, closer: id(&c.closer, "closer")? };
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
            let latency = u32::try_from(latency).map_err(|_| self.doc.error(&key, "latency is too large"))?;
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
                from: command_ids(&from),
                to: command_ids(&to),
                latency,
                expression: e.latency.clone(),
                window: e.window,
                power: !e.power.is_empty(),
            });
            match e.window {
                0 => return Err(self.doc.error(&key, "window must be at least 1")),
                1 => self.add_edges(e.level, &from, &to, latency, commands),
                count => {
                    if windows.len() >= 8 {
                        return Err(self.doc.error(&key, "at most 8 windows are supported"));
                    }
                    let id = windows.len() as u8;
                    windows.push(Window { level: e.level, count, latency });
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

    fn add_edges(&self, level: Level, from: &[usize], to: &[usize], latency: u32, commands: &mut [Command]) {
        for &f in from {
            for &t in to {
                let level = match self.lift {
                    true => lift(level, commands[f].scope, commands[t].scope),
                    false => level,
                };
                let latency = latency + self.spread(&commands[f], &commands[t]);
                match commands[f].edges.iter_mut().find(|e| e.level == level && usize::from(e.to) == t) {
                    Some(e) => e.latency = e.latency.max(latency),
                    None => commands[f].edges.push(Edge { level, to: t as CommandId, latency }),
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
    out.push(("pim".into(), &file.pim.source));
    for (k, t) in &file.timing {
        out.push((format!("timing.{k}"), &t.source));
        out.extend(t.values.iter().filter_map(|(n, v)| Some((format!("timing.{k}.{n}"), v.source.as_deref()?))));
    }
    out.push(("refresh_time".into(), &file.refresh_time.source));
    for (i, c) in file.constraints.iter().enumerate() {
        out.push((format!("constraints[{i}].source"), &c.source));
    }
    let e = &file.energy;
    out.push(("energy".into(), &e.source));
    out.push(("energy.refreshes_per_window".into(), &e.refreshes_per_window.source));
    let named = [
        ("activation", &e.activation.source),
        ("cell_activation", &e.cell_activation.source),
        ("cell_column", &e.cell_column.source),
        ("bank_group", &e.bank_group.source),
        ("global_io", &e.global_io.source),
        ("tsv", &e.tsv.source),
        ("interposer", &e.interposer.source),
        ("mac", &e.mac.source),
        ("sram", &e.sram.source),
        ("background", &e.background.source),
    ];
    out.extend(named.into_iter().filter_map(|(n, s)| Some((format!("energy.{n}"), s.as_deref()?))));
    out
}

fn check_sources(file: &DeviceFile, doc: &Document) -> Result<()> {
    for (key, source) in sources_of(file) {
        if source != "assumed" && !file.sources.contains_key(source) {
            let hint = suggest(source, file.sources.keys().map(String::as_str).chain(["assumed"]));
            return Err(doc.error(&key, format!("unknown source \"{source}\"{hint}")));
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
