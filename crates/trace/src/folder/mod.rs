//! Exports that run as they are: a folder with the trace, the target's complete configuration for exactly this device,
//! the command line and the manifest.
//!
//! Figures of the device are taken from the constraints that hold between ACT, PRE, RD, WR and REFab, so that they are the
//! engine's own whatever the device file calls them. What a target has no figure for is said in its README.

mod dramsim3;
mod dramsys;
mod ramulator;
mod sait;

use super::Manifest;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::Level;
use pimattn_core::spec::System;

pub use ramulator::constraints as ramulator_constraints;

/// A trace of a folder.
pub struct FolderTrace {
    /// Name of its file.
    pub name: String,
    /// The channel that it is for; none if it is for all.
    pub channel: Option<u32>,
    /// What it holds.
    pub manifest: Manifest,
}

/// A file of a folder.
#[derive(Debug)]
pub struct FolderFile {
    /// Path in the folder.
    pub name: &'static str,
    /// What it holds.
    pub text: String,
}

/// How the name of a trace of this format ends; none if the format has no folder.
pub fn extension(format: &str) -> Option<&'static str> {
    match format {
        "dramsim3" => Some("dramsim3"),
        "ramulator-ls" => Some("ls"),
        "ramulator-rw" => Some("rw"),
        "dramsys-stl" => Some("stl"),
        "sait-pimsim" => Some("bin"),
        _ => None,
    }
}

/// Everything of a folder but its traces and manifests.
///
/// Fails if `system` is not of the traces' device, or the target cannot have it.
pub fn files(format: &str, system: &System, parts: &[FolderTrace]) -> Result<Vec<FolderFile>> {
    let Some(first) = parts.first() else {
        return Err(Error::Usage(format!("{format}: no trace to write a configuration for")));
    };
    if first.manifest.geometry != system.device.geometry {
        return Err(Error::Usage(format!(
            "the trace is for {}, and --config names {}: {}",
            first.manifest.geometry, system.name, system.device.geometry
        )));
    }
    let figures = Figures::of(system)?;
    match format {
        "dramsim3" => dramsim3::files(system, &figures, parts),
        "ramulator-ls" | "ramulator-rw" => ramulator::files(system, &figures, parts),
        "dramsys-stl" => dramsys::files(system, &figures, parts),
        "sait-pimsim" => sait::files(system, &figures, parts),
        _ => Err(Error::Usage(format!("{format} is written to a file, not to a folder"))),
    }
}

/// What plain DRAM keeps, in cycles. Names as in JEDEC's standards.
pub(crate) struct Figures {
    bl: u32,
    cl: u32,
    cwl: u32,
    rcdrd: u32,
    rcdwr: u32,
    rp: u32,
    ras: u32,
    rc: u32,
    rrds: u32,
    rrdl: u32,
    ccds: u32,
    ccdl: u32,
    wtrs: u32,
    wtrl: u32,
    /// None where four activations may be as near as they like.
    faw: Option<u32>,
    wr: u32,
    rtp: u32,
    /// From a read to a write.
    rtw: u32,
    /// What a change of rank adds between two reads.
    rank_gap: u32,
    rfc: u32,
    /// Between refreshes; none without refresh.
    refi: Option<u32>,
    tck_ps: u32,
}

/// The longest distance of two commands that meet at `deepest` or above.
fn distance(system: &System, from: &str, to: &str, deepest: Level, window: u32) -> Option<u32> {
    let id = |name: &str| system.device.commands.iter().position(|c| c.name == name);
    let (from, to) = (id(from)?, id(to)?);
    let holds = |d: &&pimattn_core::spec::tables::DeclaredConstraint| {
        d.window == window
            && d.apart.is_none()
            && d.level <= deepest
            && d.from.iter().any(|c| usize::from(*c) == from)
            && d.to.iter().any(|c| usize::from(*c) == to)
    };
    system.device.declared.iter().filter(holds).map(|d| d.latency).max()
}

impl Figures {
    fn of(system: &System) -> Result<Self> {
        let device = &system.device;
        let lacks = |what: &str| Error::Usage(format!("{}: no {what}, which every target needs", device.name));
        let named =
            |name: &str| device.timings.get(name).and_then(|v| u32::try_from(*v).ok()).ok_or_else(|| lacks(name));
        let gap = |from: &str, to: &str, deepest: Level| {
            distance(system, from, to, deepest, 1).ok_or_else(|| lacks(&format!("distance from {from} to {to}")))
        };
        let (bl, cl, cwl) = (named("nBL")?, named("nCL")?, named("nCWL")?);
        let after_data = |cycles: u32| cycles.saturating_sub(cwl + bl);
        let refresh = system.refresh != pimattn_core::spec::system::Refresh::None && device.refresh.is_some();
        let rank_gap = device.declared.iter().filter(|d| d.apart == Some(Level::Rank) && d.window == 1);
        let read = device.commands.iter().position(|c| c.name == "RD");
        let reads = |ids: &[u8]| ids.iter().any(|c| Some(usize::from(*c)) == read);
        let rank_gap = rank_gap.filter(|d| reads(&d.from) && reads(&d.to)).map(|d| d.latency.saturating_sub(bl)).max();
        Ok(Figures {
            bl,
            cl,
            cwl,
            rcdrd: gap("ACT", "RD", Level::Bank)?,
            rcdwr: gap("ACT", "WR", Level::Bank)?,
            rp: gap("PRE", "ACT", Level::Bank)?,
            ras: gap("ACT", "PRE", Level::Bank)?,
            rc: gap("ACT", "ACT", Level::Bank)?,
            rrds: distance(system, "ACT", "ACT", Level::Rank, 1).unwrap_or(1),
            rrdl: distance(system, "ACT", "ACT", Level::BankGroup, 1).unwrap_or(1),
            ccds: gap("RD", "RD", Level::Rank)?,
            ccdl: gap("RD", "RD", Level::BankGroup)?,
            wtrs: after_data(gap("WR", "RD", Level::Rank)?),
            wtrl: after_data(gap("WR", "RD", Level::BankGroup)?),
            faw: distance(system, "ACT", "ACT", Level::Bank, 4),
            wr: after_data(gap("WR", "PRE", Level::Bank)?),
            rtp: gap("RD", "PRE", Level::Bank)?,
            rtw: gap("RD", "WR", Level::Bank)?,
            rank_gap: rank_gap.unwrap_or(0),
            rfc: if refresh { named("nRFC")? } else { 1 },
            refi: if refresh { Some(u32::try_from(device.nrefi).map_err(|_| lacks("nREFI"))?) } else { None },
            tck_ps: device.clock.0,
        })
    }
}

/// A README: what the folder holds, how to run it, and what to know.
fn readme(system: &System, parts: &[FolderTrace], program: &str, run: &str, notes: &[String]) -> FolderFile {
    let m = &parts[0].manifest;
    let sum = |of: fn(&Manifest) -> u64| parts.iter().map(|p| of(&p.manifest)).sum::<u64>();
    let mut text = format!(
        "# {program}: {} ({})\n\n{} reads and {} writes in {} trace(s), for {}.\n\n```sh\n{run}\n```\n\n",
        system.name,
        system.device.preset,
        sum(|m| m.reads),
        sum(|m| m.writes),
        parts.len(),
        m.geometry,
    );
    for note in notes.iter().chain(&m.notes) {
        text += &format!("- {note}\n");
    }
    if parts.len() > 1 {
        text += "- a trace is that of one channel, in the order of that channel; channels do not wait for each other\n";
    }
    FolderFile { name: "README.md", text }
}

const SHELL: &str = "#!/bin/sh\nset -e\ncd \"$(dirname \"$0\")\"\n";
