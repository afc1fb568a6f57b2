//! Commands of a device file, resolved: what each reaches, what it costs, and which of them a request takes.

use super::config::Document;
use super::device::{CommandFile, DeviceFile, Wire};
use super::effect::Effect;
use super::expr;
use super::refresh;
use super::resolve::{MAX_CYCLES, needed};
use super::scope::{Level, Scope, nodes};
use super::tables::{Command, CommandId, MAX_COMMANDS, Plan, Reach};
use crate::addr::Geometry;
use crate::error::{Error, Result, suggest};
use crate::op::Op;
use crate::units::Cycle;
use std::collections::BTreeMap;

/// Longest work on one entry of a softmax, in cycles.
const MAX_PER_ENTRY: Cycle = 1 << 10;

/// An error if two commands have the same name.
pub(super) fn check_names(commands: &[CommandFile], doc: &Document) -> Result<()> {
    for (i, c) in commands.iter().enumerate() {
        if commands[..i].iter().any(|o| o.name == c.name) {
            return Err(doc.error(&format!("command[{i}]"), format!("command \"{}\" is defined twice", c.name)));
        }
    }
    Ok(())
}

/// The commands, as yet without constraints.
pub(super) fn resolve_commands(
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
            let what = format!(
                "{per_entry} cycles for an entry of {}: only a softmax has this, and at most {MAX_PER_ENTRY}",
                c.name
            );
            return Err(doc.error(&format!("{key}.done_per_entry"), what));
        }
        let (banks, is_mac) = (c.scope.banks(geometry), c.effect == Effect::Mac);
        if c.passes == 0 || banks % c.passes != 0 || c.passes > 1 && !is_mac {
            let what = format!(
                "{} passes over {banks} banks: only a MAC has passes, and their number must divide its banks",
                c.passes
            );
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

/// What a buffer move reaches. Vias belong to a pseudo-channel, global I/O to a rank of one, and a multiplexer to a bank
/// group: of a broadcast entry those are driven that lie on the way to where it goes.
fn reach(c: &CommandFile, g: &Geometry, wire: &impl Fn(&Wire) -> Result<f64>) -> Result<Reach> {
    let error = |what: String| Error::Config { at: c.name.clone(), what };
    let given = c.reach.clone().unwrap_or_default();
    if c.reach.is_some() && c.effect != Effect::Move {
        return Err(error(format!("{} moves no buffer entries, so it cannot have a reach", c.name)));
    }
    let outputs = given.outputs.as_ref().unwrap_or(&given.each);
    for levels in [&given.each, outputs, &given.broadcast] {
        if let Some((i, level)) = levels.iter().enumerate().find(|(i, l)| levels[..*i].contains(l)) {
            return Err(error(format!("{level:?} is given twice, as the {}. level", i + 1).to_lowercase()));
        }
    }
    if let Some(level) = outputs.iter().chain(&given.each).find(|l| given.broadcast.contains(l)) {
        let what = format!("{level:?} cannot have both an entry of its own and a broadcast one");
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

/// How requests become commands.
pub(super) fn plans(commands: &[CommandFile], doc: &Document) -> Result<[Option<Plan>; Op::COUNT]> {
    let mut out = [None; Op::COUNT];
    for (i, c) in commands.iter().enumerate() {
        let key = format!("command[{i}]");
        let opener = row_command(commands, c, &c.opener, Effect::Open, doc, &format!("{key}.opener"))?;
        // What closes the banks of a refresh is not asked for by requests.
        let closer = if c.effect.refreshes() { &None } else { &c.closer };
        let closer = row_command(commands, c, closer, Effect::Close, doc, &format!("{key}.closer"))?;
        let plan = Plan { last: i as CommandId, opener, closer };
        let Some(name) = &c.serves else { continue };
        let op = Op::parse(name).ok_or_else(|| {
            doc.error(&format!("{key}.serves"), format!("unknown operation \"{name}\"{}", suggest(name, Op::names())))
        })?;
        if c.effect.needs_row() && (plan.opener.is_none() || plan.closer.is_none()) {
            return Err(doc.error(&key, format!("{} needs an open row: name its opener and closer", c.name)));
        }
        if out[op as usize].replace(plan).is_some() {
            return Err(doc.error(&format!("{key}.serves"), format!("{name} is served by two commands")));
        }
    }
    Ok(out)
}

/// The refresh commands, each with the one that closes its banks before it.
pub(super) fn refreshes(commands: &[CommandFile], doc: &Document) -> Result<Vec<(CommandId, CommandId)>> {
    let mut out = Vec::new();
    for (i, c) in commands.iter().enumerate().filter(|(_, c)| c.effect.refreshes()) {
        let key = format!("command[{i}]");
        let Some(closer) = &c.closer else {
            return Err(doc.error(&key, format!("{} needs closed banks: name its closer", c.name)));
        };
        let id = require_id(commands, closer, doc, &format!("{key}.closer"))?;
        let by = &commands[usize::from(id)];
        if by.effect.closes() && by.scope == Scope::Channel && c.scope != Scope::Channel {
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
        if let Some(other) = commands[..i].iter().find(|o| o.effect.refreshes() && o.scope == c.scope) {
            let what = format!("{} refreshes the same banks as {}", c.name, other.name);
            return Err(doc.error(&format!("{key}.scope"), what));
        }
        out.push((i as CommandId, id));
    }
    Ok(out)
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

fn require_id(commands: &[CommandFile], name: &str, doc: &Document, key: &str) -> Result<CommandId> {
    id_of(commands, name).ok_or_else(|| {
        let hint = suggest(name, commands.iter().map(|c| c.name.as_str()));
        doc.error(key, format!("unknown command \"{name}\"{hint}"))
    })
}

fn id_of(commands: &[CommandFile], name: &str) -> Option<CommandId> {
    commands.iter().position(|c| c.name == name).map(|i| i as CommandId)
}
