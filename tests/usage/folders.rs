//! Folders for other simulators: what `tracegen convert` puts there, and compressed traces that come in.

use crate::common::{root, system};
use assert_cmd::Command;
use serde_json::Value;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

fn tracegen(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("tracegen").unwrap().args(args).assert()
}

fn config(name: &str) -> String {
    root().join(format!("configs/system/{name}.toml")).display().to_string()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn demo(dir: &Path) -> String {
    let trace = dir.join("demo.ptrace").display().to_string();
    let workload = root().join("configs/workload/demo.toml").display().to_string();
    tracegen(&["run", "--config", &workload, "--policy", "starc", "--set", "steps=1", "-o", &trace]).success();
    trace
}

fn export(trace: &str, folder: &Path, to: &str, more: &[&str]) -> assert_cmd::assert::Assert {
    let (folder, config) = (folder.display().to_string(), config("hbm3-pim"));
    tracegen(&[&["convert", trace, &folder, "--to", to, "--config", &config], more].concat())
}

#[test]
fn a_folder_has_the_trace_its_configuration_and_its_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let trace = demo(dir.path());
    for (to, ending, files) in [
        ("dramsim3", "dramsim3", &["config.ini"][..]),
        ("ramulator-ls", "ls", &["config.yaml", "run.py"]),
        ("ramulator-rw", "rw", &["config.yaml", "run.py"]),
        ("dramsys-stl", "stl", &["simulation.json", "memspec/device.json", "addressmapping/device.json"]),
        ("sait-pimsim", "bin", &["system.ini", "device.ini", "replay.cc"]),
    ] {
        let folder = dir.path().join(to);
        let done = export(&trace, &folder, to, &[]).success();
        let stderr = String::from_utf8(done.get_output().stderr.clone()).unwrap();
        assert_eq!(stderr.contains("prefer ramulator-ls"), to == "ramulator-rw", "{stderr}");
        assert!(folder.join(format!("trace.{ending}")).is_file(), "{to}");
        for file in files.iter().chain(&["run.sh", "README.md", "manifest.json"]) {
            let text = text(&folder.join(file));
            assert!(!text.contains(&dir.path().display().to_string()), "{to}/{file} has a path of this machine");
        }
        // A file target still gives the trace alone, and the same one.
        let file = dir.path().join(format!("alone.{ending}"));
        export(&trace, &file, to, &[]).success();
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(folder.join(format!("trace.{ending}"))).unwrap());
    }
}

#[test]
fn configurations_are_of_this_device() {
    let dir = tempfile::tempdir().unwrap();
    let trace = demo(dir.path());
    export(&trace, &dir.path().join("d3"), "dramsim3", &[]).success();
    let ini = text(&dir.path().join("d3/config.ini"));
    let device = system("hbm3-pim", &[]).device;
    for (key, timing) in [("CL", "nCL"), ("tRP", "nRP"), ("tRFC", "nRFC"), ("tREFI", "nREFI"), ("tWR", "nWR")] {
        assert!(ini.contains(&format!("\n{key} = {}\n", device.timings[timing])), "{key}: {ini}");
    }
    assert!(ini.contains("\nchannels = 32\n") && ini.contains("\ncolumns = 64\n"), "{ini}");

    export(&trace, &dir.path().join("stl"), "dramsys-stl", &[]).success();
    let json = |path: &str| -> Value { serde_json::from_str(&text(&dir.path().join(path))).unwrap() };
    let mapping = &json("stl/addressmapping/device.json")["addressmapping"];
    // Every bit of an address once, the rank as STACK_BIT.
    let bits: Vec<u64> = mapping
        .as_object()
        .unwrap()
        .values()
        .flat_map(|v| v.as_array().unwrap())
        .map(|b| b.as_u64().unwrap())
        .collect();
    let different: HashSet<u64> = bits.iter().copied().collect();
    assert_eq!((different.len(), bits.len()), (bits.len(), device.geometry.capacity().ilog2() as usize));
    assert_eq!(mapping["STACK_BIT"].as_array().unwrap().len(), 1);

    export(&trace, &dir.path().join("ls"), "ramulator-ls", &[]).success();
    let config = json("ls/config.yaml");
    let controllers = config["memory_system"]["controllers"].as_array().unwrap();
    assert_eq!(controllers.len(), 16);
    assert_eq!(controllers[0]["dram"]["org"]["count"], serde_json::json!([1, 2, 2, 4, 4, 16384, 256]));

    export(&trace, &dir.path().join("sait"), "sait-pimsim", &[]).success();
    let ini = text(&dir.path().join("sait/system.ini"));
    // 16 channels of 2 pseudo-channels of 2 ranks.
    assert!(ini.contains("NUM_CHANS=64\n"), "{ini}");
}

#[test]
fn a_trace_of_each_channel_holds_its_channel_alone_and_all_hold_everything() {
    let dir = tempfile::tempdir().unwrap();
    let trace = demo(dir.path());
    export(&trace, &dir.path().join("all"), "ramulator-ls", &[]).success();
    export(&trace, &dir.path().join("each"), "ramulator-ls", &["--per-channel"]).success();
    let g = system("hbm3-pim", &[]).device.geometry;
    let addr = |line: &str| u64::from_str_radix(line.rsplit("0x").next().unwrap(), 16).unwrap();
    let all = text(&dir.path().join("all/trace.ls"));
    let mut total = 0;
    for channel in 0..g.channels {
        let expected: Vec<&str> = all.lines().filter(|l| g.channel_of(addr(l)) == channel).collect();
        let path = dir.path().join(format!("each/trace.ch{channel:02}.ls"));
        match expected.is_empty() {
            true => assert!(!path.exists()),
            false => assert_eq!(text(&path).lines().collect::<Vec<_>>(), expected),
        }
        total += expected.len();
    }
    assert!(total > 0 && total == all.lines().count());
    export(&trace, &dir.path().join("rw"), "ramulator-rw", &["--per-channel"]).failure().code(2);
}

#[test]
fn columns_are_read_once_in_a_step_of_a_head() {
    let dir = tempfile::tempdir().unwrap();
    let trace = demo(dir.path());
    let lines = |mac: &str| -> Vec<String> {
        let file = dir.path().join(format!("{mac}.ls"));
        export(&trace, &file, "ramulator-ls", &["--mac-reads", mac]).success();
        text(&file).lines().filter(|l| l.starts_with("LD")).map(String::from).collect()
    };
    let (banks, columns) = (lines("banks"), lines("columns"));
    let different = |lines: &[String]| lines.iter().cloned().collect::<HashSet<_>>();
    // One step: heads share no column, so each is read once.
    assert_eq!(different(&banks), different(&columns));
    assert_eq!(different(&columns).len(), columns.len());
    assert!(banks.len() > 2 * columns.len(), "{} {}", banks.len(), columns.len());
    // AttAcc's text does not say whose work it is.
    let attacc = dir.path().join("demo.attacc");
    export(&trace, &attacc, "attacc", &[]).success();
    let to = dir.path().join("unknown.ls");
    export(&attacc.display().to_string(), &to, "ramulator-ls", &["--mac-reads", "columns"]).failure().code(2);
    assert!(!to.exists());
}

#[test]
fn rows_that_mean_something_to_pimsimulator_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let g = system("hbm3-pim", &[]).device.geometry;
    let at = |row, column| g.encode(&pimattn_core::addr::Address { row, column, ..Default::default() });
    for (row, column, code) in [(0x17ff, 31, 1), (0x3fff, 0, 1), (0x17ff, 30, 0), (0x17fe, 31, 0), (0x1000, 0, 0)] {
        let trace = dir.path().join("one.ls");
        std::fs::write(&trace, format!("LD {:#x}\n", at(row, column))).unwrap();
        let out = dir.path().join(format!("{row}-{column}"));
        export(&trace.display().to_string(), &out, "sait-pimsim", &[]).code(code);
        assert_eq!(out.join("trace.bin").exists(), code == 0);
    }
}

#[test]
fn compressed_traces_are_read_and_damaged_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = "LD 0x40\nST 0x80\n".repeat(2000);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(plain.as_bytes()).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(plain.as_bytes()).unwrap();
    let zst = zstd::encode_all(plain.as_bytes(), 1).unwrap();
    let info = |path: &PathBuf| tracegen(&["info", &path.display().to_string(), "--config", &config("hbm2")]);
    for (name, bytes) in [("gz", gz.finish().unwrap()), ("xz", xz.finish().unwrap()), ("zst", zst)] {
        let path = dir.path().join(format!("t.ls.{name}"));
        std::fs::write(&path, &bytes).unwrap();
        let out = info(&path).success();
        let out = String::from_utf8(out.get_output().stdout.clone()).unwrap();
        assert!(out.contains("4000 in"), "{name}: {out}");
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        info(&path).failure().code(65);
    }
}

#[test]
fn traces_of_other_simulators_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("a.stl", "0: read 0x40\n3: write 0x80\n"), ("a.trace", "0x40 R\n0x80 W\n")] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let out = tracegen(&["info", &path.display().to_string(), "--config", &config("hbm2")]).success();
        let out = String::from_utf8(out.get_output().stdout.clone()).unwrap();
        assert!(out.contains("1 LD") && out.contains("1 ST"), "{name}: {out}");
    }
}

#[test]
fn every_system_prints_its_constraints_for_ramulator() {
    for name in ["hbm2", "hbm3", "hbm3-pim", "hbm2-pim-samsung", "gddr6-aim"] {
        let out = tracegen(&["export-device", "--to", "ramulator21", "--config", &config(name)]).success();
        let out = String::from_utf8(out.get_output().stdout.clone()).unwrap();
        assert!(
            out.contains("TimingConstraint(level=\"Bank\", preceding=[\"ACT\"], following=[\"PREpb\"]"),
            "{name}: {out}"
        );
        // What the target has is in its own list, what it lacks apart.
        let (plain, _) = out.split_once("pim_constraints").unwrap();
        assert!(plain.contains("following=[\"REFpb\"]") && !plain.contains("REFrk"), "{out}");
        if name == "hbm3" {
            assert!(
                out.contains("\"nRFCpb\": 320,") && out.contains("\"nRREFD\": 8,") && out.contains("\"nPPD\": 2,"),
                "{out}"
            );
        }
        assert_eq!(
            out.contains("MACAB") || out.contains("MAC16"),
            name.contains("pim") || name.contains("aim"),
            "{name}"
        );
    }
}

#[test]
fn dramsim3_is_set_so_that_it_answers_all_and_run_until_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let ini = |name: &str, system: &str, lines: &str| {
        let trace = dir.path().join(format!("{name}.ls"));
        std::fs::write(&trace, lines).unwrap();
        let (trace, folder) = (trace.display().to_string(), dir.path().join(name).display().to_string());
        tracegen(&["convert", &trace, &folder, "--to", "dramsim3", "--config", &config(system)]).success();
        text(&dir.path().join(name).join("config.ini"))
    };
    // With two ranks it loses reads that a write meets; with writes in a queue of their own it may serve reads no more.
    for (name, system, lines, dual, unified) in [
        ("loads", "hbm2", "LD 0x40\n", true, false),
        ("mixed", "hbm2", "LD 0x40\nST 0x80\n", true, true),
        ("ranks", "hbm3", "LD 0x40\n", false, false),
    ] {
        let ini = ini(name, system, lines);
        assert!(ini.contains(&format!("\nhbm_dual_cmd = {dual}\n")), "{name}: {ini}");
        assert!(ini.contains(&format!("\nunified_queue = {unified}\n")), "{name}: {ini}");
    }

    // A program that answers from so many cycles on.
    let runs = dir.path().join("runs");
    let run = |from: u64| {
        let script = format!(
            "#!/bin/sh\nd=$([ $5 -ge {from} ] && echo 1 || echo 0)\necho run >> {0}\n\
             printf '{{\"0\":{{\"x\":1,\"num_reads_done\":%s,\"y\":2}},\"1\":{{\"num_writes_done\":1,\"num_reads_done\":0}}}}' $d > $7/dramsim3.json\n",
            runs.display()
        );
        let program = dir.path().join("program");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(&runs, "").unwrap();
        let run = dir.path().join("mixed/run.sh");
        let done = std::process::Command::new("sh").arg(run).env("DRAMSIM3", &program).output().unwrap();
        (done.status.code(), text(&runs).lines().count())
    };
    assert_eq!(run(1), (Some(0), 1));
    assert_eq!(run(20_003), (Some(0), 2));
    assert_eq!(run(10_000_000).0, Some(1));
}
