//! Checks a device file and turns it into the dense tables that the engine runs on.

use super::commands::{check_names, plans, refreshes, resolve_commands};
use super::config::Document;
use super::device::{ConstraintSet, Count, DeviceFile, PowerPolicy};
use super::edges::{EdgeBuilder, charge};
use super::effect::Effect;
use super::expr;
use super::quantity::{Duration, Quantity};
use super::refresh::RefreshRate;
use super::scope::{Level, Scope};
use super::sources::{assumed, check_presets, check_rate, check_sources};
use super::tables::{CommandId, Device, EnergyTable};
use crate::addr::Geometry;
use crate::error::{Result, suggest};
use crate::op::Op;
use crate::units::{ClockPeriod, Cycle};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most bank groups of a channel that can each have a row of its own in PIM_MAC_BG.
const MAX_OWN_ROWS: u32 = 64;

/// Longest timing or latency, in cycles: sums of some of them stay far within 32 bits.
pub(super) const MAX_CYCLES: Cycle = 1 << 22;

/// What a system file chooses of a device file.
pub struct DeviceSelection<'a> {
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
    /// Makes the tables. `doc` is the device file, for line numbers; `chooser` the file that made the selection.
    pub fn resolve(
        file: &DeviceFile,
        doc: &Document,
        choice: &DeviceSelection<'_>,
        chooser: &Document,
    ) -> Result<Self> {
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
        check_names(&file.command, doc)?;
        let refreshes = refreshes(&file.command, doc)?;
        let of_channel = |(id, _): &&(CommandId, CommandId)| file.command[usize::from(*id)].scope == Scope::Channel;
        let refresh = refreshes.iter().find(of_channel).copied();
        let nrefi = refresh_interval(file, doc, choice, (clock, &density), refresh.is_some(), &mut timings)?;
        let (elements, element_bytes) = elements(file, doc, choice, chooser, &geometry)?;
        timings.extend(mac_cycles(file, doc, elements, &timings)?.map(|cycles| ("nMAC".to_string(), cycles)));
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
        let has = |of: fn(Effect) -> bool| file.command.iter().any(|c| of(c.effect));
        let (multiplies, moves) = (has(Effect::multiplies), has(|e| e == Effect::Move));
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
        let energy = energies(file, doc, &geometry, refresh.is_some(), (multiplies, moves))?;
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
}

/// Cycles in which every bank is refreshed once; the time that a refresh takes joins the timings as `nRFC`.
fn refresh_interval(
    file: &DeviceFile,
    doc: &Document,
    choice: &DeviceSelection<'_>,
    (clock, density): (ClockPeriod, &str),
    has_refresh: bool,
    timings: &mut BTreeMap<String, Cycle>,
) -> Result<Cycle> {
    let no_time = || doc.error("refresh_time", format!("no refresh time for a density of {density}"));
    let rfc = match &file.refresh_time {
        Some(t) => Some(t.by_density.get(density).ok_or_else(no_time)?.cycles(clock)),
        None => None,
    };
    timings.extend(rfc.map(|cycles| ("nRFC".to_string(), cycles)));
    if !has_refresh {
        return Ok(Cycle::from(u32::MAX));
    }
    let rfc = rfc.ok_or_else(no_time)?;
    let key = format!("timing.{}.nREFI", choice.timing);
    let given = timings.get("nREFI").filter(|n| **n > 0);
    let given = given.ok_or_else(|| doc.error(&key, "nREFI is missing or zero"))?;
    let nrefi = (given / choice.refresh_rate.times()).max(1);
    if nrefi < 2 * rfc {
        let what = format!("refreshes of {rfc} cycles take more than half of nREFI, {nrefi} cycles");
        return Err(doc.error(&key, what));
    }
    Ok(nrefi)
}

/// Cycles in which the lanes of a unit multiply one column, if the device says how long a pass takes.
fn mac_cycles(
    file: &DeviceFile,
    doc: &Document,
    elements: u32,
    timings: &BTreeMap<String, Cycle>,
) -> Result<Option<Cycle>> {
    let Some(pim) = &file.pim else { return Ok(None) };
    let passes = Cycle::from(elements.div_ceil(pim.lanes.max(1)));
    match &pim.pass {
        Some(text) => {
            let pass = expr::evaluate(text, timings).map_err(|e| doc.error("pim.pass", e))?;
            Ok(Some(passes * pass))
        }
        None if passes > 1 => {
            let what = format!("{elements} elements of a column on {} lanes: give the time of a pass", pim.lanes);
            Err(doc.error("pim.pass", what))
        }
        None => Ok(None),
    }
}

/// Energies; those that the device's commands need must be given.
fn energies(
    file: &DeviceFile,
    doc: &Document,
    geometry: &Geometry,
    has_refresh: bool,
    (multiplies, moves): (bool, bool),
) -> Result<EnergyTable> {
    let e = &file.energy;
    let per_window = match &e.refreshes_per_window {
        Some(n) if n.value == 0 => {
            return Err(doc.error("energy.refreshes_per_window", "refreshes_per_window must be at least 1"));
        }
        Some(n) => n.value,
        None if has_refresh => return Err(doc.error("energy", "refreshes_per_window is missing")),
        None => 1,
    };
    let rows_per_refresh = f64::from(geometry.rows) / f64::from(per_window);
    Ok(EnergyTable {
        activation: e.activation.value,
        cell_activation: needed(&e.cell_activation, multiplies, "cell_activation", doc)?,
        cell_column: e.cell_column.value,
        mac: needed(&e.mac, multiplies, "mac", doc)?,
        sram: needed(&e.sram, moves, "sram", doc)?,
        refresh: rows_per_refresh * f64::from(geometry.banks_per_channel()) * e.activation.value,
        background: e.background.value * f64::from(geometry.ranks),
    })
}

/// The query heads of a column read: the system's, or those of the device. A request names them by the bank of its address.
fn heads_of_a_read(
    of_device: u32,
    geometry: &Geometry,
    doc: &Document,
    choice: &DeviceSelection<'_>,
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
    choice: &DeviceSelection<'_>,
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
    choice: &DeviceSelection<'_>,
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
        let what = format!("a column of {} B is not a whole number of elements of {bytes} B", geometry.column_bytes);
        return Err(match choice.element_bytes {
            Some(_) => chooser.error("element_bytes", what),
            None => doc.error("pim.element", what),
        });
    }
    Ok((geometry.column_bytes / bytes, bytes))
}

/// An energy that must be given if the device has commands that need it.
pub(super) fn needed<D>(energy: &Option<Quantity<D>>, is_needed: bool, name: &str, doc: &Document) -> Result<f64> {
    match energy {
        Some(e) => Ok(e.value),
        None if is_needed => Err(doc.error("energy", format!("{name} is missing"))),
        None => Ok(0.0),
    }
}
