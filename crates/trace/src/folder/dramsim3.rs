//! DRAMsim3: an ini file.

use super::{Figures, FolderFile, FolderTrace, SHELL, readme};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;

/// Beats of a burst.
const BURST: u32 = 4;

/// Cycles to begin with, beside one a request.
const LEAST: u64 = 20_000;

/// Runs a trace for more and more cycles, until its statistics have all requests.
const REPLAY: &str = r#"# replay TRACE READS WRITES FROM_CYCLES TO_CYCLES
replay() {
    out="out/${1%.dramsim3}"
    mkdir -p "$out"
    cycles=$4
    while :; do
        "${DRAMSIM3:-dramsim3main}" config.ini -t "$1" -c "$cycles" -o "$out"
        awk -v RS=, -F: -v r="$2" -v w="$3" '/"num_reads_done"/ { r -= $NF } /"num_writes_done"/ { w -= $NF }
            END { exit r != 0 || w != 0 }' "$out/dramsim3.json" && break
        [ "$cycles" -lt "$5" ] || { echo "$1: requests without an answer after $cycles cycles" >&2; exit 1; }
        cycles=$((cycles * 4))
        [ "$cycles" -le "$5" ] || cycles=$5
    done
    echo "$1: $2 reads and $3 writes answered"
}
"#;

/// Its cycles are `int`.
const NEVER: u32 = i32::MAX as u32;

pub(super) fn files(system: &System, f: &Figures, parts: &[FolderTrace]) -> Result<Vec<FolderFile>> {
    let g = &system.device.geometry;
    if f.bl * 2 != BURST {
        return Err(Error::Usage(format!(
            "{}: DRAMsim3's HBM moves a column in 2 cycles, this device in {}",
            system.name, f.bl
        )));
    }
    let width = g.column_bytes * 8 / BURST;
    let one = parts.iter().all(|p| p.channel.is_some());
    // A trace of one channel has its number in the address bits above, which one channel ignores; its pseudo-channels are
    // channels of DRAMsim3.
    let channels = if one { g.pseudo_channels } else { g.channels * g.pseudo_channels };
    // The gap between ranks is also in the distance of a read and a write.
    let turn = (f.rtw + f.cwl).saturating_sub(f.cl + f.bl);
    let rtrs = if g.ranks > 1 { f.rank_gap } else { turn };
    // As the manifests say, of all traces alike.
    let writes = parts.iter().any(|p| p.manifest.writes > 0);
    let ini = [
        "[dram_structure]".into(),
        "protocol = HBM".into(),
        format!("bankgroups = {}", g.bank_groups),
        format!("banks_per_group = {}", g.banks),
        format!("rows = {}", g.rows),
        // Doubled by the program.
        format!("columns = {}", g.columns * BURST / 2),
        format!("device_width = {width}"),
        format!("BL = {BURST}"),
        format!("hbm_dual_cmd = {}", g.ranks == 1),
        "num_dies = 4".into(),
        String::new(),
        "[timing]".into(),
        format!("tCK = {}", f64::from(f.tck_ps) / 1000.0),
        format!("CL = {}", f.cl),
        format!("CWL = {}", f.cwl),
        format!("tRCDRD = {}", f.rcdrd),
        format!("tRCDWR = {}", f.rcdwr),
        format!("tRP = {}", f.rp),
        // It makes tRC of tRAS and tRP.
        format!("tRAS = {}", f.ras.max(f.rc.saturating_sub(f.rp))),
        format!("tRFC = {}", f.rfc),
        format!("tREFI = {}", f.refi.unwrap_or(NEVER)),
        format!("tRRD_S = {}", f.rrds),
        format!("tRRD_L = {}", f.rrdl),
        format!("tWTR_S = {}", f.wtrs),
        format!("tWTR_L = {}", f.wtrl),
        format!("tFAW = {}", f.faw.unwrap_or(0)),
        format!("tWR = {}", f.wr),
        format!("tCCD_S = {}", f.ccds),
        format!("tCCD_L = {}", f.ccdl),
        format!("tRTP = {}", f.rtp),
        format!("tRTRS = {rtrs}"),
        String::new(),
        "[system]".into(),
        format!("channel_size = {}", (g.channel_bytes() / u64::from(g.pseudo_channels)) >> 20),
        format!("channels = {channels}"),
        format!("bus_width = {width}"),
        format!("address_mapping = {}", crate::dramsim3::address_mapping(system.address_order)),
        "queue_structure = PER_BANK".into(),
        "refresh_policy = RANK_LEVEL_SIMULTANEOUS".into(),
        "row_buf_policy = OPEN_PAGE".into(),
        "cmd_queue_size = 8".into(),
        format!("trans_queue_size = {}", system.queue_depth),
        format!("unified_queue = {}", writes),
        String::new(),
        "[other]".into(),
        "epoch_period = 1000000000".into(),
        "output_level = 0".into(),
    ];
    // The manifest's bound is for an HBM of its own; a slower device takes as many times as long.
    let row = f.rcdwr.max(f.rcdrd) + f.cl.max(f.cwl) + f.bl + f.wr.max(f.rtp) + f.rp;
    let times = u64::from(row.max(f.rc).div_ceil(100).max(1));
    let mut run = format!("{SHELL}{REPLAY}");
    for FolderTrace { name, manifest, .. } in parts {
        let bound = manifest.settings["arguments"].as_str().and_then(|a| a.strip_prefix("-c ")?.parse::<u64>().ok());
        let Some(bound) = bound else {
            return Err(Error::Usage("dramsim3: the manifest says no number of cycles".into()));
        };
        let least = manifest.requests + LEAST;
        let most = (bound * times).max(least);
        run += &format!("replay {name} {} {} {least} {most}\n", manifest.reads, manifest.writes);
    }
    let mut notes = vec![
        "DRAMSIM3 names the program; statistics are in out/; exit code 1 if requests were not answered".to_string(),
        "it runs a number of cycles, answered or not, which run.sh raises until all is answered: the last is no result"
            .into(),
        "energies that it prints are of its default currents, and say nothing of this device".into(),
    ];
    if g.ranks > 1 && rtrs != turn {
        notes.push(format!(
            "its tRTRS is both the gap between ranks ({rtrs} cycles here) and part of the distance from a read to a write, \
             which is {} cycles instead of {}",
            f.cl + f.bl + rtrs - f.cwl.min(f.cl + f.bl + rtrs),
            f.rtw
        ));
    }
    if f.rc != f.ras + f.rp {
        notes.push("its tRC is the sum of tRAS and tRP: tRAS is raised or tRC longer by what is between them".into());
    }
    Ok(vec![
        FolderFile { name: "config.ini", text: ini.join("\n") + "\n" },
        FolderFile { name: "run.sh", text: run },
        readme(system, parts, "DRAMsim3", "DRAMSIM3=path/to/dramsim3main sh run.sh", &notes),
    ])
}
