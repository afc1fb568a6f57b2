//! Every constraint edge of every device, one at a time: with that edge alone in force, the later command is illegal one
//! cycle before the latency and legal at it wherever the two meet, and free wherever they do not. Where they meet is
//! worked out here from the banks that each command reaches, not from the engine's tables.

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::spec::tables::DeclaredConstraint;
use pimattn_core::spec::{Command, Effect, Level, Scope, System};
use pimattn_engine::state::ChannelState;
use std::path::{Path, PathBuf};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn address(bank: u32, g: &Geometry) -> Address {
    Address { bank: bank % g.banks, ..g.unit_address(0, bank / g.banks) }
}

/// Banks of the channel that a command of this scope, given bank `at`, reaches.
fn reached(scope: Scope, at: u32, g: &Geometry) -> Vec<u32> {
    let all = 0..g.banks_per_channel();
    let per_pseudo_channel = g.banks_per_channel() / g.pseudo_channels;
    let same = |b: &u32| match scope {
        Scope::Bank => *b == at,
        Scope::BankGroup => b / g.banks == at / g.banks,
        Scope::SameBank => b % g.banks == at % g.banks,
        Scope::PerBank => b % per_pseudo_channel == at % per_pseudo_channel,
        Scope::Rank => b / (g.bank_groups * g.banks) == at / (g.bank_groups * g.banks),
        Scope::Channel => true,
    };
    all.filter(same).collect()
}

fn banks_below(level: Level, g: &Geometry) -> u32 {
    match level {
        Level::Channel => g.banks_per_channel(),
        Level::PseudoChannel => g.ranks * g.bank_groups * g.banks,
        Level::Rank => g.bank_groups * g.banks,
        Level::BankGroup => g.banks,
        Level::Bank => 1,
    }
}

fn meet(a: &[u32], b: &[u32], level: Level, g: &Geometry) -> bool {
    let size = banks_below(level, g);
    a.iter().any(|x| b.iter().any(|y| x / size == y / size))
}

/// The device file with one edge left, and its line number; for each edge.
fn each_edge(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_edge = |l: &str| l.trim_start().starts_with("{ level = ");
    let keep = |only: usize| {
        let kept = lines.iter().enumerate().filter(|(i, l)| *i == only || !is_edge(l)).map(|(_, l)| *l);
        kept.collect::<Vec<_>>().join("\n")
    };
    (0..lines.len()).filter(|i| is_edge(lines[*i])).map(|i| (i + 1, keep(i))).collect()
}

/// Checks one declared edge, alone in its device; how many pairs of places met.
fn probe(system: &System, edge: &DeclaredConstraint) -> Result<usize, String> {
    let device = &system.device;
    let g = &device.geometry;
    let last = g.banks_per_channel() - 1;
    let mut met = 0;
    for (&from, &to) in edge.from.iter().flat_map(|f| edge.to.iter().map(move |t| (f, t))) {
        let (first, second) = (&device.commands[usize::from(from)], &device.commands[usize::from(to)]);
        let mut pair_met = 0;
        let in_units = |c: &Command| c.effect == Effect::MacOpen;
        // What works in some bank groups, in one and in all of them.
        for (a, one) in [0, last / 2, last].into_iter().flat_map(|a| [(a, true), (a, false)]) {
            if !one && !in_units(first) && !in_units(second) {
                continue;
            }
            let scope = |c: &Command| if in_units(c) && one { Scope::BankGroup } else { c.scope };
            let units = |c: &Command, bank: u32| match in_units(c) {
                true if one => 1 << (bank / g.banks),
                true => u64::MAX >> (64 - g.units()),
                false => 0,
            };
            let mut state = ChannelState::new(device);
            let target = state.target(address(a, g)).in_units(units(first, a));
            // The n-th last of the earlier command is at cycle 10.
            (0..u64::from(edge.window)).for_each(|i| state.issue(from, &target, 10 + i));
            for b in 0..=last {
                let earliest = state.earliest(to, &state.target(address(b, g)).in_units(units(second, b)));
                let (at_first, at_second) = (reached(scope(first), a, g), reached(scope(second), b, g));
                let meets_at = |level| meet(&at_first, &at_second, level, g);
                let meets = meets_at(edge.level) && !edge.apart.is_some_and(meets_at);
                let legal = if meets { 10 + u64::from(edge.latency) } else { 0 };
                if earliest != legal {
                    let at = edge.level;
                    return Err(format!(
                        "{} at bank {a}, {} at bank {b}, {at:?}: legal from {earliest}, not {legal}",
                        first.name, second.name
                    ));
                }
                pair_met += usize::from(meets);
            }
        }
        if pair_met == 0 || edge.latency == 0 {
            return Err(format!("{} -> {} is exercised nowhere", first.name, second.name));
        }
        met += pair_met;
    }
    Ok(met)
}

#[test]
fn every_edge_of_every_device_binds_at_its_cycle_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (mut edges, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(configs().join("system")).unwrap() {
        let path = entry.unwrap().path();
        let config = std::fs::read_to_string(&path).unwrap();
        if config.contains("controller = \"compat\"") {
            continue;
        }
        let device = config.lines().find_map(|l| l.strip_prefix("device = \"../")?.strip_suffix('"')).unwrap();
        let text = std::fs::read_to_string(configs().join(device)).unwrap();
        let declared_in_file = System::load(&path, &["power=per-command".into()]).unwrap().device.declared.len();
        let each = each_edge(&text);
        for (line, alone) in &each {
            let file = folder.path().join("one-edge.toml");
            std::fs::write(&file, alone).unwrap();
            let set = ["power=per-command".to_string(), format!("dram.device={}", file.display())];
            let system = System::load(&path, &set).unwrap();
            assert_eq!(system.device.declared.len(), 1, "{device}:{line}: an edge stands on a line of its own");
            edges += 1;
            if let Err(what) = probe(&system, &system.device.declared[0]) {
                wrong.push(format!("{device}:{line}: {what}"));
            }
        }
        assert_eq!(each.len(), declared_in_file, "{device}: every edge is probed");
    }
    assert!(wrong.is_empty(), "{} of {edges} edges:\n{}", wrong.len(), wrong.join("\n"));
    assert!(edges > 100, "{edges}");
}
