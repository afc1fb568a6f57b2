//! The requests of a generated trace touch what was selected: every K and V column of every selected token, for every
//! query head that selected it, and no row in which no selected token lies. Selections and places are worked out
//! again here, from the policies and the layout; the requests are decoded from the trace.

use pimattn::addr::Geometry;
use pimattn::engine;
use pimattn::engine::probe::Probe;
use pimattn::error::Result;
use pimattn::generate::Generator;
use pimattn::kv::KvCache;
use pimattn::map::layout::{Shape, Side};
use pimattn::map::placement::{Heads, homes};
use pimattn::map::positions::Positions;
use pimattn::map::rows::Rows;
use pimattn::select::{self, HeadView, SlotOrder, StepView};
use pimattn::spec::System;
use pimattn::spec::workload::{Addressing, Workload};
use pimattn::trace::{self, Header, Op, Record, Request, Segment, Sink, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn config(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(path)
}

struct Keep(Vec<Record>);

impl Sink for Keep {
    fn push(&mut self, record: Record) -> Result<()> {
        self.0.push(record);
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Replay {
    header: Header,
    records: Vec<Record>,
}

impl Source for Replay {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        *out = std::mem::take(&mut self.records);
        Ok(!out.is_empty())
    }
}

/// Counts the segments that end.
#[derive(Default)]
struct Ends(usize);

impl Probe for Ends {
    fn segment_end(&mut self, _channel: u32, _id: u32, _cycle: u64) {
        self.0 += 1;
    }
}

/// (unit, row, column) of a channel.
type Spot = (u32, u32, u32);

/// What a segment should touch: how many query heads want each spot.
struct Expected {
    spots: BTreeMap<Spot, u32>,
    rows: BTreeSet<(u32, u32)>,
    selected: u32,
    distinct: u32,
}

/// What a segment's requests touch: how often each spot is multiplied, and which rows are opened where.
#[derive(Default)]
struct Touched {
    spots: BTreeMap<Spot, u32>,
    opened: BTreeSet<(u32, u32)>,
    all_bank_rows: BTreeSet<u32>,
    open: BTreeMap<u32, u32>,
}

impl Touched {
    fn take(&mut self, r: &Request, g: &Geometry) {
        for i in 0..u64::from(r.count) {
            let a = g.decode(r.addr + i * u64::from(r.stride));
            let unit = (a.pseudo_channel * g.ranks + a.rank) * g.bank_groups + a.bank_group;
            match r.op {
                Op::ActBg => {
                    self.open.insert(unit, a.row);
                    self.opened.insert((unit, a.row));
                }
                Op::PreBg => drop(self.open.remove(&unit)),
                Op::MacBg => {
                    assert!(!self.open.is_empty(), "MAC_BG with nothing open");
                    for (unit, row) in &self.open {
                        *self.spots.entry((*unit, *row, a.column)).or_default() += 1;
                    }
                }
                Op::MacAb => {
                    self.open.clear();
                    self.all_bank_rows.insert(a.row);
                    for unit in 0..g.units() {
                        *self.spots.entry((unit, a.row, a.column)).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
    }
}

/// What the policy selects for a head at a step, and where its tokens lie.
struct Selection {
    step: usize,
    layer: usize,
    head: usize,
    tokens: Vec<Vec<u32>>,
    order: SlotOrder,
}

/// The selections of every head, each in order of steps. They do not depend on the mapping.
fn selections(workload: &Workload, cache: &KvCache, steps: usize) -> Vec<Selection> {
    let mut out = Vec::new();
    for (layer, head) in (0..cache.layers.len()).flat_map(|l| (0..cache.kv_heads).map(move |h| (l, h))) {
        let name = if cache.layers[layer] < workload.dense_layers { "full" } else { &workload.policy };
        let none = toml::Table::new();
        let policy = (select::find(name).unwrap().build)(workload.policies.get(name).unwrap_or(&none)).unwrap();
        let index = (layer * cache.kv_heads + head) as u64;
        let seed = workload.seed ^ (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let keys = cache.keys(layer, head);
        let (queries, query_start) = (cache.group_queries(layer, head), cache.query_start);
        let mut state = policy.prepare(HeadView { keys, prefill: cache.prefill, queries, query_start, seed });
        for step in 0..steps {
            let position = cache.decode_positions().start + step;
            let group = cache.group();
            let queries: Vec<&[f32]> =
                (0..group).map(|q| cache.queries(layer, head * group + q).row(position - cache.query_start)).collect();
            let mut scores = vec![Vec::new(); group];
            pimattn::accuracy::exact_scores(keys, position + 1, &queries, &mut scores);
            let mut tokens = vec![Vec::new(); group];
            state.grow(position + 1);
            let view = StepView { len: position + 1, budget: workload.budget, queries: &queries, scores: &scores };
            state.select(view, &mut tokens);
            out.push(Selection { step, layer, head, tokens, order: state.order().clone() });
        }
    }
    out
}

/// The selections, placed by hand: by step, layer and head.
fn expected(
    workload: &Workload,
    system: &System,
    cache: &KvCache,
    selections: &[Selection],
) -> BTreeMap<(u32, u32, u32), Expected> {
    let g = system.device.geometry;
    let values = workload.mapping.values;
    let bytes = workload.mapping.element_bytes(cache.element_bytes);
    let shape = Shape::new(&g, cache.dim, bytes, system.device.entry_bytes, values).unwrap();
    let heads = Heads { layers: cache.layers.len() as u32, kv_heads: cache.kv_heads as u32 };
    let homes = homes(heads, &[cache.tokens], &workload.placement, &g).unwrap();
    let mut out = BTreeMap::new();
    let none = || Positions::new(&workload.mapping, workload.placement.units, &shape, shape.units);
    let (mut positions, mut rows) = (none(), Rows::new(0, 0, 0));
    for s in selections {
        let home = homes[s.layer * cache.kv_heads + s.head];
        if s.step == 0 {
            positions = none();
            rows = Rows::new(home.first_row, home.rows, 1 + shape.value_stripes as usize);
        }
        let len = cache.decode_positions().start + s.step + 1;
        positions.update(&s.order, len as u32, &[], &mut Vec::new());
        rows.reserve(0, positions.rows(Side::Keys)).unwrap();
        for stripe in 1..=shape.value_stripes as usize {
            rows.reserve(stripe, positions.rows(Side::Values)).unwrap();
        }
        let mut spots: BTreeMap<Spot, u32> = BTreeMap::new();
        for token in s.tokens.iter().flatten() {
            let position = positions.position(&s.order, *token);
            let k = positions.place(position, Side::Keys);
            for column in k.index * shape.columns..(k.index + 1) * shape.columns {
                *spots.entry((k.unit, rows.at(0, k.row), column)).or_default() += 1;
            }
            // V: a column in each of the stripes, which have rows of their own or share one
            let v = positions.place(position, Side::Values);
            for stripe in 0..shape.value_stripes {
                let row = rows.at(1 + stripe as usize, v.row);
                for part in 0..shape.columns / shape.value_stripes {
                    *spots.entry((v.unit, row, part * shape.values_per_row + v.index)).or_default() += 1;
                }
            }
        }
        let rows = spots.keys().map(|(unit, row, _)| (*unit, *row)).collect();
        let distinct = s.tokens.iter().flatten().collect::<BTreeSet<_>>().len() as u32;
        let selected = s.tokens.iter().map(|t| t.len() as u32).sum();
        let at = (s.step as u32, cache.layers[s.layer], s.head as u32);
        out.insert(at, Expected { spots, rows, selected, distinct });
    }
    out
}

/// Requests of each segment, by the channel that they go to.
fn by_segment(records: &[Record], g: &Geometry) -> Vec<(Segment, Touched)> {
    let mut out: Vec<(Segment, Touched)> = Vec::new();
    let mut lanes: BTreeMap<(u32, u8), usize> = BTreeMap::new();
    let mut now: BTreeMap<u32, usize> = BTreeMap::new();
    for record in records {
        match record {
            Record::Mark(m) => {
                now.insert(m.channel, lanes[&(m.channel, m.lane)]);
            }
            Record::Segment(s) => {
                lanes.insert((s.channel, s.lane), out.len());
                out.push((*s, Touched::default()));
            }
            Record::Request(r) if r.op == Op::Barrier => {}
            Record::Request(r) if r.op == Op::Sync => now.clear(),
            Record::Request(r) => {
                let at = now.get(&g.channel_of(r.addr)).expect("a request outside of a segment");
                out[*at].1.take(r, g);
            }
        }
    }
    out
}

/// Generates, replays and checks a trace. `known` holds the policy's selections once they are known.
fn check(file: &Path, overrides: &[String], known: &mut Option<Vec<Selection>>) {
    let what = overrides.join(" ");
    let (workload, doc) = Workload::load(file, overrides).unwrap();
    let generator = Generator::load(workload.clone(), &doc, None).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut keep = Keep(Vec::new());
    generator.run(&mut keep, None, &mut |_| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (system, records) = (generator.system(), keep.0);
    let g = system.device.geometry;
    for record in &records {
        assert_eq!(trace::check(record, &g), Ok(()), "{what}");
    }

    let segments = by_segment(&records, &g);
    let heads = match workload.mapping.addressing {
        // One segment stands for all heads of a channel.
        Addressing::Ideal => generator.cache().query_heads.min(g.channels as usize),
        _ => generator.cache().kv_heads,
    };
    assert_eq!(segments.len(), generator.steps() * generator.cache().layers.len() * heads, "{what}");
    let mut ends = Ends::default();
    let mut replay = Replay { header: generator.header().clone(), records };
    let cycles = engine::run(system, &mut replay, &mut ends, &mut |_| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(cycles > 0 && ends.0 == segments.len(), "{what}: {} of {} segments", ends.0, segments.len());

    if workload.mapping.addressing == Addressing::Ideal {
        return;
    }
    let cache = generator.cache();
    let known = known.get_or_insert_with(|| selections(&workload, cache, generator.steps()));
    let expected = expected(&workload, system, cache, known);
    for (s, touched) in &segments {
        let at = format!("{what}: step {} layer {} head {}", s.step, s.layer, s.kv_head);
        let want = &expected[&(s.step, s.layer, s.kv_head)];
        assert_eq!((s.selected, s.distinct), (want.selected, want.distinct), "{at}");
        for (spot, heads) in &want.spots {
            let times = touched.spots.get(spot).copied().unwrap_or(0);
            assert!(times >= *heads, "{at}: {spot:?} multiplied {times} times for {heads} query heads");
            assert!(
                times <= cache.group() as u32,
                "{at}: {spot:?} multiplied {times} times, more than once for a head"
            );
        }
        for place in &touched.opened {
            assert!(want.rows.contains(place), "{at}: unit and row {place:?} opened for nobody");
        }
        for row in &touched.all_bank_rows {
            let units = want.rows.iter().filter(|(_, r)| r == row).count() as u32;
            let least = if workload.mapping.addressing == Addressing::BankGroup { g.units() } else { 1 };
            assert!(units >= least, "{at}: row {row} opened in all units, wanted in {units}");
        }
        if workload.mapping.skip_columns {
            let columns = |spots: &BTreeMap<Spot, u32>| spots.keys().map(|(_, r, c)| (*r, *c)).collect::<BTreeSet<_>>();
            if workload.mapping.addressing == Addressing::Broadcast {
                assert_eq!(columns(&touched.spots), columns(&want.spots), "{at}: columns for nobody");
            }
        }
    }
}

fn overrides(list: &[(&str, &str)]) -> Vec<String> {
    list.iter().map(|(k, v)| format!("{k}={v}")).collect()
}

/// All combinations of one policy. (Vectors of the sample have one column, so both layouts of values are one.)
fn check_policy(policy: &str) {
    check_layouts(policy, &["interleaved", "row-block", "cluster-striped"]);
}

fn check_layouts(policy: &str, layouts: &[&str]) {
    let mut known = None;
    for addressing in ["bank-group", "broadcast", "ideal"] {
        for layout in layouts {
            for (align, values) in [("none", "stripe"), ("row", "vector")] {
                for skip in ["true", "false"] {
                    let set = [
                        ("steps", "2"),
                        ("policy", policy),
                        ("selection_cost", "free"),
                        ("append_cost", "free"),
                        ("clustering_cost", "free"),
                        // how good the clusters are does not matter here
                        ("policies.starc-v1.max_iterations", "2"),
                        ("policies.clusterkv.max_iterations", "2"),
                        ("mapping.addressing", addressing),
                        ("mapping.layout", layout),
                        ("mapping.align", align),
                        ("mapping.values", values),
                        ("mapping.skip_columns", skip),
                    ];
                    check(&config("workload/demo.toml"), &overrides(&set), &mut known);
                }
            }
        }
    }
}

#[test]
fn full_covers_what_it_selects() {
    check_policy("full");
}

#[test]
fn oracle_covers_what_it_selects() {
    check_policy("oracle");
}

#[test]
fn streaming_covers_what_it_selects() {
    check_policy("streaming");
}

#[test]
fn quest_covers_what_it_selects() {
    check_policy("quest");
}

#[test]
fn sparq_covers_what_it_selects() {
    // To the mapping it is as oracle, tokens in order of position.
    check_layouts("sparq", &["interleaved"]);
}

#[test]
fn infinigen_covers_what_it_selects() {
    // To the mapping it is as oracle, tokens in order of position.
    check_layouts("infinigen", &["row-block"]);
}

#[test]
fn h2o_covers_what_it_selects() {
    // To the mapping it is as oracle, tokens in order of position.
    check_layouts("h2o", &["cluster-striped"]);
}

#[test]
fn clusterkv_covers_what_it_selects() {
    check_policy("clusterkv");
}

#[test]
fn starc_covers_what_it_selects() {
    check_policy("starc");
}

#[test]
fn starc_v1_covers_what_it_selects() {
    check_policy("starc-v1");
}

#[test]
fn every_policy_is_tested() {
    let names: Vec<&str> = select::REGISTRY.iter().map(|e| e.name).collect();
    let tested =
        ["full", "oracle", "streaming", "quest", "sparq", "infinigen", "h2o", "clusterkv", "starc", "starc-v1"];
    assert_eq!(names, tested, "add a test of the new policy");
}

/// Vectors of several columns, more heads than channels, and a cache that grows past cluster blocks: what the sample
/// does not have.
#[test]
fn wide_vectors_and_crowded_channels_are_covered() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(config("workload/demo.toml")).unwrap();
    let text = text.replace("kv = ", "# kv = ").replace("../system/hbm3-pim.toml", "system.toml");
    for (dim, bytes) in [(128, 2), (80, 4)] {
        let synthetic = format!(
            "\n[synthetic]\nlayers = 2\nkv_heads = 3\nquery_heads = 6\ndim = {dim}\nelement_bytes = {bytes}\nprefill = 300\ndecode_steps = 20\n"
        );
        let file = dir.path().join("w.toml");
        std::fs::write(&file, format!("{text}{synthetic}")).unwrap();
        let system = std::fs::read_to_string(config("system/hbm3-pim.toml")).unwrap();
        let device = config("dram/hbm3-pim.toml").display().to_string();
        let system = system.replace("../dram/hbm3-pim.toml", &device).replace("channels = 16", "channels = 2");
        std::fs::write(dir.path().join("system.toml"), system).unwrap();
        for policy in ["starc", "starc-v1", "clusterkv", "quest"] {
            let mut known = None;
            for addressing in ["bank-group", "broadcast", "ideal"] {
                for (layout, align) in [("row-block", "none"), ("cluster-striped", "none"), ("interleaved", "row")] {
                    for values in ["stripe", "vector"] {
                        let set = [
                            ("policy", policy),
                            ("budget", "64"),
                            ("selection_cost", "free"),
                            ("append_cost", "free"),
                            ("clustering_cost", "free"),
                            // blocks that fill up while decoding
                            ("policies.starc.block", "8"),
                            ("policies.starc.clusters", "2"),
                            ("policies.starc-v1.buffer", "8"),
                            ("policies.starc-v1.cluster_size", "4"),
                            ("mapping.addressing", addressing),
                            ("mapping.layout", layout),
                            ("mapping.align", align),
                            ("mapping.values", values),
                        ];
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
    let text = std::fs::read_to_string(config("workload/demo.toml")).unwrap();
    let system = config("system/hbm3-pim.toml").display().to_string();
    let text = text.replace("kv = ", "# kv = ").replace("../system/hbm3-pim.toml", &system);
    let file = dir.path().join("w.toml");
    for (i, dim) in [64, 80, 96, 128, 160, 256].into_iter().enumerate() {
        for group in 1..=8 {
            let heads = format!("kv_heads = 2\nquery_heads = {}\ndim = {dim}\n", 2 * group);
            let source = format!("\n[synthetic]\nlayers = 1\n{heads}prefill = 70\ndecode_steps = 2\n");
            std::fs::write(&file, format!("{text}{source}")).unwrap();
            let mut known = None;
            for (bytes, turn) in [("1", i + group), ("2", i + group + 1)] {
                let set = [
                    ("policy", "starc"),
                    ("budget", "24"),
                    ("dense_layers", "0"),
                    ("policies.starc.block", "16"),
                    ("policies.starc.clusters", "2"),
                    ("selection_cost", "free"),
                    ("append_cost", "free"),
                    ("clustering_cost", "free"),
                    ("mapping.element_bytes", bytes),
                    ("mapping.addressing", ["bank-group", "broadcast"][turn % 2]),
                    ("mapping.values", ["stripe", "vector"][turn / 2 % 2]),
                ];
                check(&file, &overrides(&set), &mut known);
            }
        }
    }
}
