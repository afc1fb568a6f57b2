//! Device files against the public files that they cite: figures carried over by hand, under the names that they have
//! there, and what the source program makes of them.

use crate::common::system;
use pimattn_core::addr::Geometry;
use pimattn_core::spec::System;

/// Timings of a device against `NAME VALUE` pairs of its source, with our names.
fn timings(s: &System, carried: &[(&str, u32)]) {
    for (name, value) in carried {
        assert_eq!(s.device.timings.get(*name).copied(), Some(u64::from(*value)), "{}: {name}", s.name);
    }
    // What a resolved device adds itself; and refreshes of single banks, which are Ramulator's in every file.
    let made = ["nMAC", "nRFCpb", "nRREFD"];
    for name in s.device.timings.keys().filter(|n| !made.contains(&n.as_str())) {
        assert!(carried.iter().any(|(n, _)| n == name), "{}: {name} is not among the carried figures", s.name);
    }
}

/// DRAMsim3 (umd-memsys/DRAMsim3, commit 2981759): configs/HBM2_8Gb_x128.ini, as src/configuration.cc reads it.
#[test]
fn hbm2_is_dramsim3s_hbm2_8gb_x128() {
    let s = system("hbm2", &[]);
    // [dram_structure] and [system]
    let (bankgroups, banks_per_group, rows, columns, device_width, burst) =
        (4u32, 4u32, 32_768u32, 64u32, 128u32, 4u32);
    let (channel_size, channels, bus_width) = (1024u64, 8u32, 128u32);
    // InitDRAMParams doubles the columns of an HBM; CalculateSize makes a row of them and ranks of the channel's size.
    let columns = 2 * columns;
    let row_bytes = columns * device_width / 8;
    let rank_bytes = u64::from(bankgroups * banks_per_group * rows) * u64::from(row_bytes);
    let carried = Geometry {
        channels,
        pseudo_channels: 1,
        ranks: u32::try_from((channel_size << 20) / rank_bytes).unwrap(),
        bank_groups: bankgroups,
        banks: banks_per_group,
        rows,
        columns: columns / burst,
        column_bytes: bus_width / 8 * burst,
    };
    assert_eq!(s.device.geometry, carried);
    assert_eq!((carried.ranks, carried.columns, carried.row_bytes()), (1, 32, 2048));
    assert_eq!(s.device.geometry.channel_bytes(), channel_size << 20);
    timings(
        &s,
        &[
            ("nBL", burst / 2),
            ("nCL", 14),
            ("nCWL", 4),
            ("nRCDRD", 14),
            ("nRCDWR", 14),
            ("nRP", 14),
            ("nRAS", 34),
            ("nRC", 34 + 14),
            ("nRFC", 260),
            ("nREFI", 3900),
            ("nRRDS", 4),
            ("nRRDL", 6),
            ("nWTRS", 6),
            ("nWTRL", 8),
            ("nFAW", 30),
            ("nWR", 16),
            ("nCCDS", 1),
            ("nCCDL", 2),
            // Defaults of InitTimingParams: the file has tRTP_L and tRTP_S, which nothing reads, and no tRTRS.
            ("nRTP", 5),
            ("nRTRS", 2),
        ],
    );
    assert_eq!(s.device.clock.ns(1), 1.0);
    // InitPowerParams, one device a rank: V x mA x ns is pJ.
    let (vdd, idd0, idd2n, idd3n, idd4r) = (1.2, 65.0, 40.0, 55.0, 390.0);
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 0.005 * b, "{a} {b}");
    near(s.device.energy.activation, vdd * (idd0 * 48.0 - (idd3n * 34.0 + idd2n * 14.0)));
    near(s.device.energy.cell_column * 512.0, vdd * (idd4r - idd3n) * 2.0);
    near(s.device.energy.background, vdd * idd3n);
}

/// Ramulator 2.1 (CMU-SAFARI/ramulator2, commit c5b1c3a): python/ramulator/dram/hbm3.py, presets HBM3_16Gb_8hi and
/// HBM3_6400Mbps. Its column counts are in beats of a burst of eight.
#[test]
fn hbm3_is_ramulators() {
    for (name, density, sid, row) in [
        ("HBM3_4Gb", 4096, 1, 1 << 14),
        ("HBM3_8Gb_8hi", 8192, 2, 1 << 13),
        ("HBM3_16Gb_8hi", 16_384, 2, 1 << 14),
        ("HBM3_32Gb_8hi", 32_768, 2, 1 << 15),
    ] {
        let s = system("hbm3", &[&format!("dram.organisation={name}")]);
        let column = (1u32 << 5) << 3;
        let carried = Geometry {
            channels: 16,
            pseudo_channels: 2,
            ranks: sid,
            bank_groups: 4,
            banks: 4,
            rows: row,
            columns: column / 8,
            column_bytes: 32,
        };
        assert_eq!(s.device.geometry, carried, "{name}");
        // The density of a channel in Mb, of which resolve_secondary_timings looks the refresh time up.
        let channel = density / sid;
        assert_eq!(s.device.geometry.channel_bytes(), u64::from(channel) << 17, "{name}");
        let rfc_ns = match channel {
            0..=4096 => 260.0,
            4097..=8192 => 350.0,
            8193..=16_384 => 450.0,
            _ => 550.0,
        };
        assert_eq!(s.device.timings["nRFC"], (rfc_ns / 0.625f64).ceil() as u64, "{name}");
    }
    let s = system("hbm3", &[]);
    for (name, value) in [
        ("nBL", 2),
        ("nCL", 20),
        ("nRCDRD", 31),
        ("nRCDWR", 15),
        ("nRP", 26),
        ("nRAS", 45),
        ("nRC", 72),
        ("nWR", 33),
        ("nRTP", 9),
        ("nCWL", 10),
        ("nCCDS", 2),
        ("nCCDL", 4),
        ("nRRDS", 4),
        ("nRRDL", 5),
        ("nFAW", 24),
        ("nWTRS", 7),
        ("nWTRL", 10),
        ("nRTW", 20),
        ("nREFI", 6240),
        ("nPPD", 2),
    ] {
        assert_eq!(s.device.timings[name], value, "{name}");
    }
    assert_eq!(s.device.clock.ns(1), 0.625);
}

/// Samsung's PIMSimulator (SAITPublic/PIMSimulator, commit b464dde): ini/HBM2_samsung_2M_16B_x64.ini, and the delays that
/// src/Configuration.h makes of it.
#[test]
fn hbm2_pim_samsung_is_pimsimulators() {
    let s = system("hbm2-pim-samsung", &[]);
    let g = &s.device.geometry;
    // NUM_BANK_GROUPS, NUM_BANKS, NUM_ROWS, NUM_COLS, BL, DEVICE_WIDTH
    let (groups, banks, rows, cols, burst, width) = (4, 16, 16_384, 128, 4, 64);
    assert_eq!((g.bank_groups, g.bank_groups * g.banks, g.rows), (groups, banks, rows));
    assert_eq!((g.columns, g.column_bytes), (cols / burst, width / 8 * burst));
    timings(
        &s,
        &[
            ("nBL", burst / 2),
            ("nCL", 20),
            ("nCWL", 8),
            ("nCCDS", 2),
            ("nCCDL", 4),
            ("nRCDRD", 14),
            ("nRCDWR", 10),
            ("nRAS", 33),
            ("nRRDS", 4),
            ("nRRDL", 6),
            ("nRC", 47),
            ("nRP", 14),
            ("nRTPS", 4),
            ("nRTPL", 5),
            ("nWR", 16),
            ("nWTRS", 4),
            ("nWTRL", 9),
            ("nFAW", 16),
            ("nRTRS", 1),
            ("nREFI", 3900),
            ("nRFC", 350),
        ],
    );
    assert_eq!(s.device.clock.ns(1), 1.0);
    // READ_TO_PRE_DELAY, READ_TO_WRITE_DELAY, WRITE_TO_PRE_DELAY
    let carried = [("RD", "PRE", 2 + 5 - 4), ("RD", "WR", 20 + 2 + 1 - 8), ("WR", "PRE", 8 + 2 + 16)];
    for (from, to, cycles) in carried {
        assert_eq!(latency(&s, from, to), cycles, "{from} {to}");
    }
}

/// AiM simulator (arkhadem/aim_simulator, commit 0f28a07): src/dram/impl/GDDR6.cpp, GDDR6_AiM_org and GDDR6_AiM_timing.
#[test]
fn gddr6_aim_is_the_aim_simulators() {
    let s = system("gddr6-aim", &[]);
    let g = &s.device.geometry;
    // Bg, Ba, Ro; 1,024 columns of 16 pins, 16 beats an access.
    assert_eq!((g.bank_groups, g.banks, g.rows, g.columns * 16), (4, 4, 1 << 14, 1 << 10));
    assert_eq!(g.column_bytes, 16 * 16 / 8);
    // Density of 32 channels, in Mb.
    assert_eq!(g.channel_bytes() * 32, (128 << 10) << 17);
    timings(
        &s,
        &[
            ("nBL", 2),
            ("nCL", 50),
            ("nRCDRD", 36),
            ("nRCDRDMAC", 56),
            ("nRCDWR", 28),
            ("nRP", 32),
            ("nRAS", 54),
            ("nRC", 89),
            ("nWR", 33),
            ("nRTP", 12),
            ("nCWL", 6),
            ("nCCDS", 2),
            ("nCCDL", 2),
            ("nRRDS", 11),
            ("nRRDL", 11),
            ("nWTRS", 9),
            ("nWTRL", 11),
            ("nFAW", 42),
            ("nRFC", 210),
            ("nREFI", 3333),
            ("nCLREG", 0),
            ("nCWLGB", 1),
            ("nWPRE", 1),
        ],
    );
    assert_eq!(s.device.clock.ns(1), 0.5);
}

/// AttAcc (scale-snu/attacc_simulator, commit c600051): pim_ramulator_src/HBM3-PIM.cpp. Density in Gb, ranks, rows.
#[test]
fn hbm3_pim_is_attaccs() {
    for (density, ranks, row_bits) in [
        (2, 1, 13),
        (4, 1, 14),
        (8, 1, 15),
        (4, 2, 13),
        (8, 2, 14),
        (16, 2, 15),
        (6, 3, 13),
        (12, 3, 14),
        (24, 3, 15),
        (8, 4, 13),
        (16, 4, 14),
        (32, 4, 15),
    ] {
        let s = system("hbm3-pim", &[&format!("dram.organisation=HBM3_{density}Gb_{ranks}R")]);
        let g = &s.device.geometry;
        assert_eq!((g.pseudo_channels, g.ranks, g.bank_groups, g.banks), (2, ranks, 4, 4));
        assert_eq!((g.rows, g.columns, g.column_bytes), (1 << row_bits, 1 << 5, 32));
        // Rows of these counts hold a quarter of the density that the name says a channel has: the source is taken at its
        // counts.
        assert_eq!(g.channel_bytes() >> 27, density, "{density}Gb_{ranks}R");
    }
    const NAMES: [&str; 23] = [
        "nBL", "nCL", "nRCDRD", "nRCDWR", "nRP", "nRAS", "nRC", "nWR", "nRTPS", "nRTPL", "nCWL", "nCCDS", "nCCDL",
        "nCCDAB", "nCCDSB", "nRRDS", "nRRDL", "nWTRS", "nWTRL", "nRTW", "nFAW", "nRFCSB", "nREFI",
    ];
    let preset = |rate: &str, ab: u32, sb: u32, rest: [u32; 21], refresh: [u32; 3]| {
        let s = system("hbm3-pim", &[&format!("dram.timing=HBM3_{rate}")]);
        let mut values = rest.to_vec();
        values.splice(13..13, [ab, sb]);
        values[21] = refresh[0];
        values[22] = refresh[1];
        for (name, value) in NAMES.iter().zip(values) {
            assert_eq!(s.device.timings[*name], u64::from(value), "{rate}: {name}");
        }
        assert_eq!(s.device.timings["nRREFD"], u64::from(refresh[2]), "{rate}: nRREFD");
    };
    type Preset = (&'static str, [u32; 4], [u32; 21], [u32; 3]);
    let all: [Preset; 5] = [
        ("4.8", [6, 6, 4, 4], row([2, 17, 17, 17, 17, 41, 58, 20, 5, 8, 5, 2, 4, 2, 4, 8, 10, 3, 36]), [240, 4680, 10]),
        ("5.2", [6, 6, 4, 4], row([2, 19, 19, 19, 19, 45, 63, 21, 6, 8, 6, 2, 4, 2, 4, 8, 11, 3, 39]), [260, 5070, 11]),
        ("5.6", [6, 7, 4, 4], row([2, 20, 20, 20, 20, 48, 68, 23, 6, 9, 6, 2, 4, 2, 4, 9, 12, 3, 42]), [280, 5460, 12]),
        ("6.0", [6, 7, 4, 4], row([2, 21, 21, 21, 21, 51, 72, 24, 6, 9, 6, 2, 4, 2, 4, 9, 12, 3, 45]), [300, 5850, 12]),
        (
            "6.4",
            [7, 8, 4, 4],
            row([2, 23, 23, 23, 23, 55, 77, 26, 7, 10, 7, 2, 4, 2, 4, 10, 13, 3, 48]),
            [320, 6240, 13],
        ),
    ];
    for (rate, [ab, sb, npc_ab, npc_sb], rest, refresh) in all {
        preset(&format!("{rate}Gbps"), ab, sb, rest, refresh);
        preset(&format!("{rate}Gbps_NPC"), npc_ab, npc_sb, rest, refresh);
    }
}

/// Places for the two values that follow.
fn row(values: [u32; 19]) -> [u32; 21] {
    std::array::from_fn(|i| values.get(i).copied().unwrap_or(0))
}

/// The longest declared distance of two commands of a bank.
fn latency(s: &System, from: &str, to: &str) -> u32 {
    let id = |name: &str| s.device.commands.iter().position(|c| c.name == name).unwrap();
    let (from, to) = (id(from), id(to));
    let edges = s.device.declared.iter().filter(|d| {
        d.from.iter().any(|c| usize::from(*c) == from) && d.to.iter().any(|c| usize::from(*c) == to) && d.window == 1
    });
    edges.map(|d| d.latency).max().unwrap()
}
