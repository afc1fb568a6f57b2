//! The tornado's plan (`configs/sweep/tornado.toml`) against what the shipped device, system, workload and code say is
//! assumed: nothing is forgotten, and what is said to ship does.

use crate::common::{load, root};
use pimattn_experiments::sweep::grid::{Grid, Job};
use std::collections::BTreeSet;
use std::path::Path;

fn plan() -> Grid {
    Grid::load(&root().join("configs/sweep/tornado.toml")).unwrap()
}

fn base(grid: &Grid) -> Job {
    grid.prepare(&grid.points()[0]).unwrap()
}

/// Keys of a configuration file whose line ends in a comment that begins with "assumed".
fn marked(file: &Path) -> Vec<String> {
    let (mut section, mut out) = (String::new(), Vec::new());
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if let Some((name, _)) = line.strip_prefix('[').and_then(|l| l.split_once(']')) {
            section = format!("{name}.");
        }
        if let Some((key, rest)) = line.split_once('=').filter(|(_, rest)| rest.contains("# assumed")) {
            assert!(!rest.starts_with('#'), "{line}");
            out.push(format!("{section}{}", key.trim()));
        }
    }
    out
}

/// Keys of a resolved workload whose value names "assumed" as its source.
fn defaults(value: &toml::Value, prefix: &str, out: &mut Vec<String>) {
    let Some(table) = value.as_table() else { return };
    if table.get("source").and_then(toml::Value::as_str) == Some("assumed") {
        out.push(prefix.trim_end_matches('.').into());
    }
    table.iter().for_each(|(key, value)| defaults(value, &format!("{prefix}{key}."), out));
}

/// What comments of the code say is assumed: the item that they stand before, or the file.
fn said(folder: &Path, out: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            said(&path, out);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        for (i, line) in lines.iter().enumerate() {
            let is_comment = line.starts_with("//");
            if !is_comment || !["(assumed", "Assumed:", "assumed:", "assumed)"].iter().any(|w| line.contains(w)) {
                continue;
            }
            let item = lines[i..].iter().find(|l| !l.starts_with("//") && !l.starts_with('#')).unwrap();
            let words = ["pub(crate) ", "pub(super) ", "pub ", "const ", "fn "];
            let item = words.iter().fold(*item, |item, word| item.strip_prefix(word).unwrap_or(item));
            let name: String = item.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            out.push((file.clone(), name));
        }
    }
}

#[test]
fn every_assumed_value_is_moved_or_held_with_a_reason() {
    let grid = plan();
    let job = base(&grid);
    let of_key = |key: String| {
        let of_device = key.strip_prefix("system.dram.set.").map(String::from);
        of_device.or_else(|| key.strip_prefix("system.").map(String::from)).unwrap_or(key)
    };
    let moved: BTreeSet<String> = grid.ranges.iter().flat_map(|r| r.keys()).map(of_key).collect();
    let held: BTreeSet<&str> = grid.held.iter().flat_map(|h| h.keys.iter().map(String::as_str)).collect();
    assert!(grid.held.iter().all(|h| h.why.len() > 10) && grid.ranges.iter().all(|r| r.why.len() > 10));
    let mut used: BTreeSet<String> = BTreeSet::new();
    let mut missing = Vec::new();
    let mut look = |names: &[&str], place: &str| match names.iter().find(|n| moved.contains(**n) || held.contains(**n))
    {
        Some(name) => drop(used.insert(name.to_string())),
        None => missing.push(format!("{place}: {}", names.join(" or "))),
    };

    // The device that is simulated; of its presets, the one that is.
    let preset = job.system.device.preset.rsplit(' ').next().unwrap();
    assert!(job.system.device.assumed.len() >= 5, "{:?}", job.system.device.assumed);
    for name in &job.system.device.assumed {
        match name.strip_prefix("timing.") {
            None => look(&[name], "device"),
            Some(rest) => match rest.strip_prefix(&format!("{preset}.")) {
                Some(timing) => look(&[&format!("timing.{timing}")], "device"),
                None => continue,
            },
        }
    }
    // The files of the workload and the system, and the demo's, which has the parameters of every policy.
    let files = ["workload/stack.toml", "workload/demo.toml", "system/hbm3-pim.toml"];
    assert!(job.doc.file().ends_with(files[0]) && job.system.name == "hbm3-pim");
    let mut lines = 0;
    for file in files {
        for key in marked(&root().join("configs").join(file)) {
            lines += 1;
            look(&[&key], file);
        }
    }
    assert!(lines >= 5);
    // What the workload has without a key.
    let mut names = Vec::new();
    defaults(&toml::Value::try_from(&job.workload).unwrap(), "", &mut names);
    assert!(names.contains(&"host.latency".to_string()), "{names:?}");
    names.iter().for_each(|name| look(&[name], "workload"));
    // What the code says.
    let mut code = Vec::new();
    for of in ["core", "trace", "kv", "policies", "mapping", "tracegen", "engine", "stats"] {
        said(&root().join("crates").join(of).join("src"), &mut code);
    }
    assert!(code.iter().any(|(_, item)| item == "mac_depth"), "{code:?}");
    for (file, item) in &code {
        let folder: String = file.split_inclusive('/').take(3).collect();
        look(&[item, file, folder.trim_end_matches('/')], file);
    }
    assert!(missing.is_empty(), "neither moved nor held in configs/sweep/tornado.toml: {missing:#?}");
    let idle: Vec<_> = held.iter().filter(|key| !used.contains(**key)).collect();
    assert!(idle.is_empty(), "held, but nothing says that it is assumed: {idle:?}");
}

#[test]
fn what_a_range_says_that_ships_does() {
    plan().check_bases().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("configs/sweep/tornado.toml")).unwrap();
    let workload = format!("{:?}", root().join("configs/workload/stack.toml").display().to_string());
    let text = text.replace("\"../workload/stack.toml\"", &workload);
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let file = folder.path().join("t.toml");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        Grid::load(&file).and_then(|grid| grid.check_bases()).unwrap_err().to_string()
    };
    let e = refused("base = { host.latency = \"100 ns\" }", "base = { host.latency = \"90 ns\" }");
    assert!(e.contains("host.latency = 90 ns is not what ships"), "{e}");
    let e = refused("accumulators = 32 }", "accumulators = 31 }");
    assert!(e.contains("accumulators = 31 is not what ships"), "{e}");
    let e = refused("low = { host.latency = ", "low = { host.select_latency = ");
    assert!(e.contains("expected the keys of base: host.latency"), "{e}");
    // A key that is none.
    let e = refused("base = { system.dram.set.pim.accumulators", "base = { system.dram.set.pim.acumulators");
    assert!(e.contains("expected the keys of base"), "{e}");
}

#[test]
fn a_system_gives_keys_of_its_device_other_values() {
    let file = root().join("configs/system/hbm3-pim.toml");
    let with = |set: &str| load(&file, &[set]);
    let device = |set: &str| with(set).unwrap().device;
    let ships = device("queue_depth=32");
    assert_eq!((ships.lanes, device("dram.set.pim.lanes=8").lanes), (16, 8));
    // A number that names its source keeps it.
    let changed = device("dram.set.pim.accumulators=4");
    assert_eq!((changed.accumulators, &changed.assumed), (4, &ships.assumed));
    assert_eq!(device("dram.set.timing.nCCDAB=5 tCK").timings["nCCDAB"], 5, "of the preset that is chosen");
    let sfm = |d: &pimattn_core::spec::Device| d.commands.iter().find(|c| c.name == "SFM").unwrap().per_entry;
    assert_eq!((sfm(&ships), sfm(&device("dram.set.command.SFM.done_per_entry=4"))), (1, 4));
    let refused = |set: &str, says: &str| {
        let e = with(set).unwrap_err().to_string();
        assert!(e.contains(&format!("--set {set}")) && e.contains(says), "{e}");
    };
    refused("dram.set.pim.lanse=8", "did you mean \"lanes\"");
    refused("dram.set.command.MACABB.passes=2", "did you mean \"MACAB\"");
    refused("dram.set.timing.nCCDA=5 tCK", "did you mean");
    // Twice the columns are twice the density, unless there are half the rows.
    assert!(with("dram.set.organisation.columns=64").unwrap_err().to_string().contains("are 16 Gb, not 8 Gb"));
    assert!(load(&file, &["dram.set.organisation.columns=64", "dram.set.organisation.rows=8192"]).is_ok());
    refused("dram.set.energy=3", "energy is a table");
}
