//! DRAMSys: the simulation, and what it names.

use super::{Figures, FolderFile, FolderTrace, SHELL, readme};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use serde_json::{Map, Value, json};

/// Beats of a burst.
const BURST: u32 = 4;

fn text(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|s| s + "\n")
        .map_err(|e| Error::Io { path: "configuration".into(), source: std::io::Error::other(e) })
}

pub(super) fn files(system: &System, f: &Figures, parts: &[FolderTrace]) -> Result<Vec<FolderFile>> {
    let g = &system.device.geometry;
    if f.bl * 2 != BURST {
        return Err(Error::Usage(format!(
            "{}: DRAMSys's HBM2 moves a column in 2 cycles, this device in {}",
            system.name, f.bl
        )));
    }
    let mut mapping = Map::new();
    for (name, lowest, width) in system.address_order.fields(g) {
        let name = match name {
            "channel" => "CHANNEL_BIT",
            "pseudo_channel" => "PSEUDOCHANNEL_BIT",
            "rank" => "STACK_BIT",
            "bank_group" => "BANKGROUP_BIT",
            "bank" => "BANK_BIT",
            "row" => "ROW_BIT",
            "column" => "COLUMN_BIT",
            _ => "BURST_BIT",
        };
        if width > 0 {
            mapping.insert(name.into(), (lowest..lowest + width).collect());
        }
    }
    let memspec = json!({ "memspec": {
        "memarchitecturespec": {
            "burstLength": BURST,
            "maxBurstLength": BURST,
            "dataRate": 2,
            // Of all stack IDs.
            "nbrOfBankGroups": g.bank_groups * g.ranks,
            "nbrOfBanks": g.bank_groups * g.banks * g.ranks,
            "nbrOfColumns": g.columns,
            "nbrOfStacks": g.ranks,
            "nbrOfPseudoChannels": g.pseudo_channels,
            "nbrOfRows": g.rows,
            "width": g.column_bytes * 8 / BURST,
            "nbrOfDevices": 1,
            "nbrOfChannels": g.channels,
        },
        "memoryId": format!("{} {}", system.device.name, system.device.preset),
        "memoryType": "HBM2",
        "memtimingspec": {
            "CCDL": f.ccdl,
            "CCDS": f.ccds,
            "CCDR": f.bl + f.rank_gap,
            "CKE": 8,
            "DQSCK": 0,
            "FAW": f.faw.unwrap_or(f.rrds),
            "PL": 0,
            "RAS": f.ras,
            "RC": f.rc,
            "RCDRD": f.rcdrd,
            "RCDWR": f.rcdwr,
            "REFI": f.refi.unwrap_or(1_000_000),
            "REFISB": f.refi.unwrap_or(1_000_000) / (g.bank_groups * g.banks),
            "RFC": f.rfc,
            "RFCSB": f.rfc,
            "RL": f.cl,
            "RP": f.rp,
            "RRDL": f.rrdl,
            "RRDS": f.rrds,
            "RREFD": f.rrdl,
            "RTP": f.rtp,
            "RTW": f.rtw,
            "WL": f.cwl,
            "WR": f.wr,
            "WTRL": f.wtrl,
            "WTRS": f.wtrs,
            "XP": 8,
            "XS": f.rfc + 8,
            "tCK": f64::from(f.tck_ps) * 1e-12,
        },
    }});
    let controller = json!({ "mcconfig": {
        "PagePolicy": "Open",
        "Scheduler": "FrFcfs",
        "SchedulerBuffer": "Shared",
        "RequestBufferSize": system.queue_depth,
        "CmdMux": "Oldest",
        "RespQueue": "Fifo",
        "RefreshPolicy": if f.refi.is_some() { "AllBank" } else { "NoRefresh" },
        "RefreshMaxPostponed": 0,
        "RefreshMaxPulledin": 0,
        "PowerDownPolicy": "NoPowerDown",
        "Arbiter": "Simple",
        "MaxActiveTransactions": 128,
        "RefreshManagement": false,
    }});
    let simulator = json!({ "simconfig": {
        "AddressOffset": 0,
        "DatabaseRecording": false,
        "Debug": false,
        "EnableWindowing": false,
        "PowerAnalysis": false,
        "SimulationName": system.name,
        "SimulationProgressBar": false,
        "StoreMode": "NoStorage",
        "WindowSize": 1000,
    }});
    let mhz = (1e6 / f64::from(f.tck_ps)).round() as u32;
    let player =
        |p: &FolderTrace| json!({ "type": "player", "clkMhz": mhz, "dataLength": g.column_bytes, "name": p.name });
    let players: Vec<Value> = parts.iter().map(player).collect();
    let simulation = json!({ "simulation": {
        "addressmapping": "addressmapping/device.json",
        "mcconfig": "mcconfig/controller.json",
        "memspec": "memspec/device.json",
        "simconfig": "simconfig/run.json",
        "simulationid": system.name,
        "tracesetup": players,
    }});
    let notes = [
        "DRAMSYS names the program".to_string(),
        "its HBM2 keeps tRRD and tFAW over all stack IDs of a pseudo-channel, and refreshes each channel at once"
            .into(),
        "set DatabaseRecording in simconfig/run.json for a database of the run".into(),
    ];
    let run = format!("{SHELL}exec \"${{DRAMSYS:-DRAMSys}}\" simulation.json\n");
    Ok(vec![
        FolderFile { name: "simulation.json", text: text(&simulation)? },
        FolderFile { name: "memspec/device.json", text: text(&memspec)? },
        FolderFile { name: "addressmapping/device.json", text: text(&json!({ "addressmapping": mapping }))? },
        FolderFile { name: "mcconfig/controller.json", text: text(&controller)? },
        FolderFile { name: "simconfig/run.json", text: text(&simulator)? },
        FolderFile { name: "run.sh", text: run },
        readme(system, parts, "DRAMSys", "DRAMSYS=path/to/DRAMSys sh run.sh", &notes),
    ])
}
