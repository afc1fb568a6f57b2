//! Policies, addressing, layouts and shapes whose requests are held against what was selected.

use super::*;

fn overrides(list: &[(&str, &str)]) -> Vec<String> {
    list.iter().map(|(k, v)| format!("{k}={v}")).collect()
}

/// What is left out where only the attention to the selection matters.
const ATTENTION_ALONE: [(&str, &str); 3] =
    [("selection_cost", "free"), ("append_cost", "free"), ("clustering_cost", "free")];

const LAYOUTS: [&str; 3] = ["interleaved", "row-block", "cluster-striped"];

/// Every policy of the registry on the real sample, under every addressing and layout.
#[test]
fn every_policy_covers_what_it_selects() {
    select::REGISTRY.par_iter().for_each(|entry| {
        let mut known = None;
        let combinations = ["bank-group", "broadcast"].into_iter().flat_map(|a| LAYOUTS.map(|l| (a, l)));
        for (turn, (addressing, layout)) in combinations.chain([("ideal", "row-block")]).enumerate() {
            let set = [
                ("steps", "2"),
                ("policy", entry.name),
                // How good the clusters are does not matter here.
                ("policies.starc-v1.max_iterations", "2"),
                ("policies.clusterkv.max_iterations", "2"),
                ("mapping.addressing", addressing),
                ("mapping.layout", layout),
                ("mapping.align", ["none", "row"][turn % 2]),
                ("mapping.skip_columns", ["true", "false"][turn / 2 % 2]),
            ];
            check(&config("workload/demo.toml"), &overrides(&[&ATTENTION_ALONE[..], &set].concat()), &mut known);
        }
    });
}

/// A workload file with a synthetic source, and the device's channels.
fn synthetic(dir: &Path, source: &str, channels: u32) -> PathBuf {
    let text = std::fs::read_to_string(config("workload/demo.toml")).unwrap();
    let text = text.replace("kv = ", "# kv = ").replace("../system/hbm3-pim.toml", "system.toml");
    std::fs::write(dir.join("w.toml"), format!("{text}\n[synthetic]\n{source}\n")).unwrap();
    let system = std::fs::read_to_string(config("system/hbm3-pim.toml")).unwrap();
    let device = config("dram/hbm3-pim.toml").display().to_string();
    let system = system.replace("../dram/hbm3-pim.toml", &device);
    let system = system.replace("channels = 16", &format!("channels = {channels}"));
    for bytes in [1, 2, 4] {
        let text = format!("element_bytes = {bytes}\n{system}");
        std::fs::write(dir.join(format!("system-{bytes}.toml")), text).unwrap();
    }
    std::fs::write(dir.join("system.toml"), system).unwrap();
    dir.join("w.toml")
}

/// Clusters of a few tokens, of blocks that fill up while decoding.
const SMALL_CLUSTERS: [(&str, &str); 4] = [
    ("policies.starc.block", "8"),
    ("policies.starc.clusters", "2"),
    ("policies.starc-v1.buffer", "8"),
    ("policies.starc-v1.cluster_size", "4"),
];

/// Every arrangement of K with every one of V.
#[test]
fn keys_and_values_can_lie_in_different_ways() {
    let dir = tempfile::tempdir().unwrap();
    let source = "layers = 1\nkv_heads = 1\nquery_heads = 3\ndim = 128\nprefill = 300\ndecode_steps = 2";
    let file = synthetic(dir.path(), source, 2);
    let arrangements: Vec<[&str; 3]> = ["bank-group", "broadcast"]
        .into_iter()
        .flat_map(|a| LAYOUTS.into_iter().flat_map(move |l| ["none", "row"].map(|align| [a, l, align])))
        .collect();
    arrangements.par_iter().enumerate().for_each(|(i, [addressing, layout, align])| {
        let mut known = None;
        for (j, [value_addressing, value_layout, value_align]) in arrangements.iter().enumerate() {
            let blocks = *layout == "row-block" && *value_layout == "row-block";
            let set = [
                ("policy", "starc"),
                ("budget", "64"),
                ("dense_layers", "0"),
                ("mapping.addressing", addressing),
                ("mapping.layout", layout),
                ("mapping.align", align),
                ("mapping.value_addressing", value_addressing),
                ("mapping.value_layout", value_layout),
                ("mapping.value_align", value_align),
                ("mapping.values", ["stripe", "vector"][(i + j) % 2]),
                ("placement.units", if blocks && (i + j) % 3 > 0 { "load-aware" } else { "round-robin" }),
            ];
            let set = [&ATTENTION_ALONE[..], &SMALL_CLUSTERS, &set].concat();
            check(&file, &overrides(&set), &mut known);
        }
    });
}

/// Blocks fill up and are clustered; the device writes new tokens and moves old ones, and loses none.
#[test]
fn clustering_loses_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let source = "layers = 2\nkv_heads = 3\nquery_heads = 3\ndim = 128\nprefill = 100\ndecode_steps = 40";
    let file = synthetic(dir.path(), source, 2);
    for policy in select::REGISTRY.iter().filter(|e| (e.build)(&toml::Table::new()).unwrap().clusters()) {
        let mut known = None;
        for (layout, align) in LAYOUTS.into_iter().flat_map(|l| [(l, "none"), (l, "row")]) {
            for (values, units) in [("stripe", "round-robin"), ("vector", "load-aware")] {
                let units = if layout == "row-block" { units } else { "round-robin" };
                let set = [
                    ("policy", policy.name),
                    ("budget", "64"),
                    ("dense_layers", "0"),
                    ("selection_cost", "free"),
                    ("mapping.layout", layout),
                    ("mapping.align", align),
                    ("mapping.values", values),
                    ("placement.units", units),
                ];
                check(&file, &overrides(&[&SMALL_CLUSTERS[..], &set].concat()), &mut known);
            }
        }
    }
}

/// Vectors of several columns, more heads than channels, and a cache that grows past cluster blocks: what the sample
/// does not have.
#[test]
fn wide_vectors_and_crowded_channels_are_covered() {
    let dir = tempfile::tempdir().unwrap();
    for (dim, bytes) in [(128, 2), (80, 4)] {
        let shape = format!("dim = {dim}\nelement_bytes = {bytes}\n");
        let source = format!("layers = 2\nkv_heads = 3\nquery_heads = 6\nprefill = 300\ndecode_steps = 20\n{shape}");
        let file = synthetic(dir.path(), &source, 2);
        let system = dir.path().join(format!("system-{bytes}.toml")).display().to_string();
        for policy in ["starc", "starc-v1", "clusterkv", "quest"] {
            let mut known = None;
            for addressing in ["bank-group", "broadcast", "ideal"] {
                for (layout, align) in [("row-block", "none"), ("cluster-striped", "none"), ("interleaved", "row")] {
                    for values in ["stripe", "vector"] {
                        let set = [
                            ("system", system.as_str()),
                            ("policy", policy),
                            ("budget", "64"),
                            ("mapping.addressing", addressing),
                            ("mapping.layout", layout),
                            ("mapping.align", align),
                            ("mapping.values", values),
                        ];
                        let set = [&ATTENTION_ALONE[..], &SMALL_CLUSTERS, &set].concat();
                        check(&file, &overrides(&set), &mut known);
                    }
                }
            }
        }
    }
}

/// Every head dimension, element size and group of query heads; addressing and layout of values take turns.
#[test]
fn every_shape_of_a_head_is_covered() {
    let dir = tempfile::tempdir().unwrap();
    for (i, dim) in [64, 80, 96, 128, 160, 256].into_iter().enumerate() {
        for group in 1..=8 {
            let heads = format!("kv_heads = 2\nquery_heads = {}\ndim = {dim}\n", 2 * group);
            let file = synthetic(dir.path(), &format!("layers = 1\n{heads}prefill = 70\ndecode_steps = 2"), 16);
            let mut known = None;
            for (bytes, turn) in [("1", i + group), ("2", i + group + 1)] {
                let system = dir.path().join(format!("system-{bytes}.toml")).display().to_string();
                let set = [
                    ("system", system.as_str()),
                    ("policy", "starc"),
                    ("budget", "24"),
                    ("dense_layers", "0"),
                    ("policies.starc.block", "16"),
                    ("policies.starc.clusters", "2"),
                    ("mapping.element_bytes", bytes),
                    ("mapping.addressing", ["bank-group", "broadcast"][turn % 2]),
                    ("mapping.values", ["stripe", "vector"][turn / 2 % 2]),
                ];
                check(&file, &overrides(&[&ATTENTION_ALONE[..], &set].concat()), &mut known);
            }
        }
    }
}

/// Fewer accumulators than query heads: every head multiplies every value that it selected once, in the sweep of its lot.
#[test]
fn heads_beyond_the_accumulators_are_covered_once() {
    for (sets, group, dim) in [(2, 5, 128), (3, 3, 128), (2, 3, 64), (4, 8, 128), (6, 7, 128)] {
        let dir = tempfile::tempdir().unwrap();
        let heads = format!("kv_heads = 2\nquery_heads = {}\ndim = {dim}\n", 2 * group);
        let file = synthetic(dir.path(), &format!("layers = 1\n{heads}prefill = 200\ndecode_steps = 2"), 2);
        let device = std::fs::read_to_string(config("dram/hbm3-pim.toml")).unwrap();
        let few = device.replace("accumulators = { value = 32", &format!("accumulators = {{ value = {sets}"));
        assert_ne!(device, few);
        std::fs::write(dir.path().join("device.toml"), few).unwrap();
        let system = std::fs::read_to_string(dir.path().join("system.toml")).unwrap();
        let system = system.replace(&config("dram/hbm3-pim.toml").display().to_string(), "device.toml");
        std::fs::write(dir.path().join("system.toml"), system).unwrap();
        for policy in ["starc", "oracle"] {
            let mut known = None;
            for (turn, layout) in LAYOUTS.into_iter().enumerate() {
                for (addressing, values) in [
                    ("bank-group", "stripe"),
                    ("broadcast", "stripe"),
                    ("bank-group", "vector"),
                    ("broadcast", "vector"),
                ] {
                    let set = [
                        ("policy", policy),
                        ("budget", "48"),
                        ("dense_layers", "0"),
                        ("mapping.addressing", addressing),
                        ("mapping.layout", layout),
                        ("mapping.values", values),
                        ("mapping.skip_columns", ["true", "false"][turn % 2]),
                    ];
                    check(&file, &overrides(&[&ATTENTION_ALONE[..], &SMALL_CLUSTERS, &set].concat()), &mut known);
                }
            }
        }
    }
}

/// Units with lanes for several query heads read a column once for those of them that want it, and every head multiplies
/// what it selected once all the same; also where accumulators are for fewer heads, or for no multiple of so many.
#[test]
fn a_column_is_read_once_for_the_heads_that_share_it() {
    for (at_once, sets, group) in [(2, 32, 4), (3, 32, 4), (4, 32, 4), (8, 32, 7), (2, 3, 6), (64, 32, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let heads = format!("kv_heads = 2\nquery_heads = {}\ndim = 128\n", 2 * group);
        let file = synthetic(dir.path(), &format!("layers = 1\n{heads}prefill = 200\ndecode_steps = 2"), 2);
        let device = std::fs::read_to_string(config("dram/hbm3-pim.toml")).unwrap();
        let few = device.replace("accumulators = { value = 32", &format!("accumulators = {{ value = {sets}"));
        std::fs::write(dir.path().join("device.toml"), few).unwrap();
        let system = std::fs::read_to_string(dir.path().join("system.toml")).unwrap();
        let system = system.replace(&config("dram/hbm3-pim.toml").display().to_string(), "device.toml");
        std::fs::write(dir.path().join("system.toml"), format!("heads_per_read = {at_once}\n{system}")).unwrap();
        for policy in ["starc", "oracle"] {
            let mut known = None;
            for (turn, layout) in LAYOUTS.into_iter().enumerate() {
                for (addressing, values) in [("bank-group", "stripe"), ("broadcast", "vector"), ("ideal", "stripe")] {
                    let set = [
                        ("policy", policy),
                        ("budget", "48"),
                        ("dense_layers", "0"),
                        ("mapping.addressing", addressing),
                        ("mapping.layout", layout),
                        ("mapping.values", values),
                        ("mapping.skip_columns", ["true", "false"][turn % 2]),
                    ];
                    check(&file, &overrides(&[&ATTENTION_ALONE[..], &SMALL_CLUSTERS, &set].concat()), &mut known);
                }
            }
        }
    }
}
