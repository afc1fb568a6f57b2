//! SAIT's PIMSimulator: both ini files, and a loader, for its programs read no trace.

use super::{Figures, FolderFile, FolderTrace, SHELL, readme};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;

/// Beats of a burst.
const BURST: u32 = 4;

/// Reads the structures of a trace, replays them as `execute_kernel` does, and ends with exit code 1 if that does not end.
const LOADER: &str = r#"#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include "MultiChannelMemorySystem.h"

struct SaitRecord {
    unsigned char data[32];
    uint64_t address;
    int block, thread;
    char command;
    char rest[7];
};

// replay TRACE MEGS_OF_MEMORY MOST_CYCLES
int main(int argc, char** argv) {
    if (argc != 4) return 2;
    auto memory = std::make_shared<DRAMSim::MultiChannelMemorySystem>("device.ini", "system.ini", ".", "replay", atoi(argv[2]));
    FILE* file = fopen(argv[1], "rb");
    if (!file) return 66;
    SaitRecord r;
    DRAMSim::BurstType burst;
    unsigned long reads = 0, writes = 0, barriers = 0, cycles = 0, most = strtoul(argv[3], nullptr, 10);
    while (fread(&r, sizeof r, 1, file) == 1) {
        if (r.command == 'B') {
            memory->addBarrier(r.block);
            barriers++;
            continue;
        }
        uint64_t differ = (r.address >> 32 ^ r.address >> 33) & 1;
        memory->addTransaction(r.command == 'W', r.address ^ (differ << 32 | differ << 33), "replay", &burst);
        (r.command == 'W' ? writes : reads)++;
    }
    fclose(file);
    while (memory->hasPendingTransactions() && cycles < most) {
        cycles++;
        memory->update();
    }
    bool ended = !memory->hasPendingTransactions();
    printf("%lu reads, %lu writes, %lu barriers, %lu cycles%s\n", reads, writes, barriers, cycles, ended ? "" : ", not ended");
    return ended ? 0 : 1;
}
"#;

pub(super) fn files(system: &System, f: &Figures, parts: &[FolderTrace]) -> Result<Vec<FolderFile>> {
    let g = &system.device.geometry;
    if f.bl * 2 != BURST {
        return Err(Error::Usage(format!(
            "{}: PIMSimulator moves a column in 2 cycles, this device in {}",
            system.name, f.bl
        )));
    }
    if parts.len() > 1 || parts[0].channel.is_some() {
        return Err(Error::Usage("--per-channel: PIMSimulator has a queue for each channel already".into()));
    }
    let megs = g.capacity() >> 20;
    let width = g.column_bytes * 8 / BURST;
    let lines = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| format!("{k}={v}\n")).collect::<String>();
    let n = |v: u32| v.to_string();
    let s = |v: &str| v.to_string();
    let mut controller = vec![
        ("NUM_CHANS", n(g.channels * g.pseudo_channels * g.ranks)),
        ("JEDEC_DATA_BUS_BITS", n(width)),
        ("TRANS_QUEUE_DEPTH", n(system.queue_depth)),
        ("CMD_QUEUE_DEPTH", n(system.queue_depth)),
        ("EPOCH_LENGTH", s("1000000000")),
        ("ROW_BUFFER_POLICY", s("open_page")),
        ("ADDRESS_MAPPING_SCHEME", s("Scheme4")),
        ("SCHEDULING_POLICY", s("rank_then_bank_round_robin")),
        ("QUEUING_STRUCTURE", s("per_rank")),
        ("PIM_PRECISION", s("FP16")),
        ("SIM_TRACE_FILE", s("replay.out")),
        ("USE_LOW_POWER", s("true")),
        ("TOTAL_ROW_ACCESSES", s("65535")),
    ];
    let off = [
        "DEBUG_TRANS_Q",
        "DEBUG_CMD_Q",
        "DEBUG_ADDR_MAP",
        "DEBUG_BUS",
        "DEBUG_BANKSTATE",
        "DEBUG_BANKS",
        "DEBUG_POWER",
        "DEBUG_TRANS_TRACE",
        "DEBUG_PIM_TIME",
        "DEBUG_CMD_TRACE",
        "DEBUG_PIM_BLOCK",
        "SHOW_SIM_OUTPUT",
        "LOG_OUTPUT",
        "VIS_FILE_OUTPUT",
        "VERIFICATION_OUTPUT",
        "PRINT_CHAN_STAT",
        "PRINT_MEM_TRACE",
    ];
    controller.extend(off.map(|k| (k, s("false"))));
    // It makes the distance from a read to a precharge of tRTP, tCCD and the burst, and that of a write to a read of tWTR.
    let rtp = (f.rtp + f.ccdl).saturating_sub(f.bl);
    let mut device = vec![
        ("NUM_BANK_GROUPS", n(g.bank_groups)),
        ("NUM_BANKS", n(g.bank_groups * g.banks)),
        ("NUM_COLS", n(g.columns * BURST)),
        ("NUM_ROWS", n(g.rows)),
        ("NUM_PIM_BLOCKS", n((g.bank_groups * g.banks / 2).max(1))),
        ("DEVICE_WIDTH", n(width)),
        ("BL", n(BURST)),
        ("RL", n(f.cl)),
        ("WL", n(f.cwl)),
        ("tCCDS", n(f.ccds)),
        ("tCCDL", n(f.ccdl)),
        ("tCCDR", n(f.bl + f.rank_gap)),
        ("tRCDRD", n(f.rcdrd)),
        ("tRCDWR", n(f.rcdwr)),
        ("tRAS", n(f.ras)),
        ("tRRDS", n(f.rrds)),
        ("tRRDL", n(f.rrdl)),
        ("tRC", n(f.rc)),
        ("tRP", n(f.rp)),
        ("tRTPS", n((f.rtp + f.ccds).saturating_sub(f.bl))),
        ("tRTPL", n(rtp)),
        ("tWR", n(f.wr)),
        ("tWTRS", n(f.wtrs)),
        ("tWTRL", n(f.wtrl)),
        ("XAW", s("4")),
        ("tXAW", n(f.faw.unwrap_or(f.rrds))),
        ("tRTRS", n((f.rtw + f.cwl).saturating_sub(f.cl + f.bl))),
        ("tREFI", n(f.refi.unwrap_or(1_000_000_000))),
        ("tREFISB", n(f.refi.unwrap_or(1_000_000_000) / (g.bank_groups * g.banks))),
        ("tRFC", n(f.rfc)),
        ("tRFCSB", n(f.rfc)),
        ("tXP", s("8")),
        ("tCKE", s("8")),
        ("tCMD", s("1")),
        ("AL", s("0")),
        ("tCK", (f64::from(f.tck_ps) / 1000.0).to_string()),
    ];
    let zero = [
        "IDD0", "IDD0C", "IDD0Q", "IDD1", "IDD2P", "IDD2Q", "IDD2N", "IDD3Pf", "IDD3Ps", "IDD3N", "IDD3NC", "IDD3NQ",
        "IDD4W", "IDD4WC", "IDD4WQ", "IDD4R", "IDD4RC", "IDD4RQ", "IDD5", "IDD6", "IDD6L", "IDD7",
    ];
    device.extend(zero.map(|k| (k, s("0"))));
    device.extend([
        ("Vdd", s("1")),
        ("Vddc", s("1")),
        ("Vddq", s("1")),
        ("Vpp", s("1")),
        ("Ealu", s("0")),
        ("Ereg", s("0")),
    ]);
    let requests = parts[0].manifest.lines;
    let most = (requests + 1000) * u64::from(f.rc + f.cl + f.cwl + f.wr + f.rp);
    let run = format!(
        "{SHELL}# PIMSIM: its folder, built with scons\n: \"${{PIMSIM:?set PIMSIM to the folder of PIMSimulator}}\"\n\
         ${{CXX:-c++}} -O2 -std=c++17 -w -I\"$PIMSIM/src\" -I\"$PIMSIM/lib\" replay.cc \"$PIMSIM\"/obj/*.o -o replay\n\
         ./replay {} {megs} {most}\n",
        parts[0].name
    );
    let notes = [
        format!("megs_of_memory is {megs}: one rank in each of {} channels", g.channels * g.pseudo_channels * g.ranks),
        "currents are zero: it knows no energies of this device".into(),
    ];
    Ok(vec![
        FolderFile { name: "system.ini", text: lines(&controller) },
        FolderFile { name: "device.ini", text: lines(&device) },
        FolderFile { name: "replay.cc", text: LOADER.into() },
        FolderFile { name: "run.sh", text: run },
        readme(system, parts, "PIMSimulator", "PIMSIM=path/to/PIMSimulator sh run.sh", &notes),
    ])
}
