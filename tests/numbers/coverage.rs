//! The requests of a generated trace touch what was selected: every K and V column of every selected token exactly once
//! for every query head that selected it, in rows that are opened once, and no row in which no selected token lies.
//! Memory holds every token where it is looked for, whatever clustering moves. Selections and places are worked out again
//! here, from the policies and the layout; the requests are decoded from the trace.

mod cases;

use crate::common::Keep;
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_engine::probe::Probe;
use pimattn_kv::KvCache;
use pimattn_kv::selection::SlotOrder;
use pimattn_mapping::layout::{Place, Shape, Side};
use pimattn_mapping::placement::{HeadCounts, homes};
use pimattn_mapping::positions::Positions;
use pimattn_mapping::rows::HeadRows;
use pimattn_mapping::workload::{Addressing, ClusteringCost, OverheadCost, ValueLayout, Workload};
use pimattn_policies::select::{self, HeadView, StepView};
use pimattn_trace::{self as trace, Header, Op, Phase, Record, Request, Segment, Source};
use pimattn_tracegen::generate::Generator;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(path)
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

/// A column of a bank.
type Column = (Spot, u32);

/// A row of a unit.
type Row = (u32, u32);

/// What a segment should touch.
#[derive(Default)]
struct Expected {
    /// The query heads, a bit each, that want a spot.
    spots: BTreeMap<Spot, u64>,
    /// Rows in which there is any, and their matrix.
    rows: BTreeMap<Row, usize>,
    /// How the rows of each matrix are reached.
    addressing: Vec<Addressing>,
    selected: u32,
    distinct: u32,
    /// By token: the columns of its key and value, matrix after matrix, bank after bank.
    places: Vec<Vec<Column>>,
}

/// MACs from one opening of rows to the next: how often each column is multiplied.
#[derive(Default, Clone)]
struct Round {
    open: BTreeSet<Row>,
    all_banks: bool,
    columns: BTreeMap<u32, u64>,
    /// How often each column is read from the array.
    reads: BTreeMap<u32, u64>,
    last: u32,
    /// Which of the sweeps over V it belongs to, counted by the results that leave between them; 0 for K.
    sweep: usize,
    /// Units that closed before its end: what had been multiplied by then, and the last column of it.
    left: BTreeMap<u32, (BTreeMap<u32, u64>, u32)>,
}

/// What a segment's requests touch.
#[derive(Default)]
struct Touched {
    rounds: Vec<Round>,
    opened: Vec<Row>,
    open: BTreeMap<u32, u32>,
    /// Whether other rows are open than in the last round.
    changed: bool,
    /// Query heads for which a column is multiplied when it is read.
    at_once: u32,
    /// Sweeps over V that are over, and whether outputs have left since the last MAC.
    sweeps: usize,
    ended: bool,
    /// Columns that are read or written, with their banks, in the order of the trace.
    appended: Vec<Column>,
    read: Vec<Column>,
    rewritten: Vec<Column>,
}

impl Touched {
    fn take(&mut self, r: &Request, phase: Phase, g: &Geometry) {
        for i in 0..u64::from(r.count) {
            let a = g.decode(r.addr + i * u64::from(r.stride));
            let unit = (a.pseudo_channel * g.ranks + a.rank) * g.bank_groups + a.bank_group;
            let spot = ((unit, a.row, a.column), a.bank);
            if matches!(r.op, Op::MacAb | Op::MacBg) && std::mem::take(&mut self.ended) {
                self.sweeps += 1;
                self.changed = true;
            }
            let sweep = self.sweeps;
            match (r.op, phase) {
                (Op::MvSb, Phase::AttendContext) => self.ended = true,
                (Op::ActBg, _) => {
                    self.changed |= self.open.insert(unit, a.row) != Some(a.row);
                    self.opened.push((unit, a.row));
                }
                (Op::PreBg, _) => {
                    if self.open.remove(&unit).is_some()
                        && let Some(round) = self.rounds.last_mut()
                    {
                        round.left.insert(unit, (round.columns.clone(), round.last));
                    }
                }
                (Op::MacBg, _) => {
                    assert!(!self.open.is_empty(), "MAC_BG with nothing open");
                    if std::mem::take(&mut self.changed) {
                        let open = self.open.iter().map(|(u, r)| (*u, *r)).collect();
                        self.rounds.push(Round { open, sweep, ..Round::default() });
                    }
                    let round = self.rounds.last_mut().unwrap();
                    round.take(a.column, g.heads_of_mac(&a));
                }
                (Op::MacAb, Phase::AttendScore | Phase::AttendContext) => {
                    self.open.clear();
                    self.changed = true;
                    let open: BTreeSet<Row> = (0..g.units()).map(|unit| (unit, a.row)).collect();
                    let last = self.rounds.last();
                    if last.is_none_or(|last| !last.all_banks || last.open != open || last.sweep != sweep) {
                        self.rounds.push(Round { open, all_banks: true, sweep, ..Round::default() });
                    }
                    self.rounds.last_mut().unwrap().take(a.column, g.heads_of_mac(&a));
                }
                (Op::St, Phase::Append) => self.appended.push(spot),
                (Op::Ld, Phase::Remap) => {
                    assert!(self.rewritten.is_empty(), "read after it may have been written over");
                    self.read.push(spot);
                }
                (Op::St, Phase::Remap) => self.rewritten.push(spot),
                _ => {}
            }
        }
    }

    /// Whether each lot of so many query heads has a sweep over each matrix of V of its own, behind one over K for all,
    /// and each sweep does what is expected of it.
    fn check_lots(&self, want: &Expected, together: usize, skip_columns: bool, at: &str) {
        let heads = want.spots.values().fold(0, |all, heads| all | heads);
        let matrices = want.addressing.len() - 1;
        let lots = (u64::BITS - heads.leading_zeros()).div_ceil(together as u32) as usize;
        let matrix = |round: &Round| round.open.iter().find_map(|row| want.rows.get(row).copied()).unwrap();
        assert_eq!(self.rounds.last().map(|r| r.sweep + 1), Some(lots * matrices), "{at}: sweeps");
        let part = |heads: u64, wanted: &dyn Fn(usize) -> bool, rounds: &dyn Fn(&Round) -> bool| {
            let of = |spot: &Spot| wanted(want.rows[&(spot.0, spot.1)]);
            let spots = want.spots.iter().filter(|(s, h)| of(s) && **h & heads != 0);
            let spots: BTreeMap<Spot, u64> = spots.map(|(s, h)| (*s, h & heads)).collect();
            let rows = spots.keys().map(|s| ((s.0, s.1), want.rows[&(s.0, s.1)])).collect();
            let want = Expected { spots, rows, addressing: want.addressing.clone(), ..Expected::default() };
            let rounds: Vec<Round> = self.rounds.iter().filter(|r| rounds(r)).cloned().collect();
            let opened = rounds.iter().filter(|r| !r.all_banks).flat_map(|r| r.open.iter().copied()).collect();
            Touched { rounds, opened, at_once: self.at_once, ..Touched::default() }.check(&want, skip_columns, at);
        };
        part(u64::MAX, &|m| m == 0, &|round| matrix(round) == 0);
        for sweep in 0..lots * matrices {
            let lot = sweep / matrices * together;
            let heads = (u64::MAX >> (64 - together)) << lot;
            let of_sweep = 1 + sweep % matrices;
            part(heads, &|m| m == of_sweep, &|round| round.sweep == sweep && matrix(round) != 0);
        }
    }

    /// Whether the MACs do what is expected, and nothing more than they must.
    fn check(&self, want: &Expected, skip_columns: bool, at: &str) {
        for place in &self.opened {
            assert!(want.rows.contains_key(place), "{at}: unit and row {place:?} opened for nobody");
        }
        let mut met: BTreeMap<Row, usize> = BTreeMap::new();
        let mut rounds = vec![0; want.addressing.len()];
        for round in &self.rounds {
            let mut matrices: Vec<usize> = round.open.iter().filter_map(|row| want.rows.get(row).copied()).collect();
            round.open.iter().filter(|r| want.rows.contains_key(r)).for_each(|r| *met.entry(*r).or_default() += 1);
            let wanted = matrices.len();
            matrices.dedup();
            let [matrix] = matrices[..] else { panic!("{at}: rows of matrices {matrices:?} at once") };
            rounds[matrix] += 1;
            assert!(round.all_banks || want.addressing[matrix] != Addressing::Broadcast, "{at}: units on their own");
            assert!(
                wanted == round.open.len() || round.all_banks && wanted > 0,
                "{at}: {:?}, wanted in {wanted} units",
                round.open
            );
            // A query head multiplies the columns that it wants in any unit, once each.
            let mut columns: BTreeMap<u32, u64> = BTreeMap::new();
            for (unit, row) in &round.open {
                let of_row = want.spots.range((*unit, *row, 0)..=(*unit, *row, u32::MAX));
                of_row.for_each(|((_, _, column), heads)| *columns.entry(*column).or_default() |= heads);
            }
            round.check_leavers(want, &columns, skip_columns, at);
            // Of the heads that share a read, those that want a column, or anything of the round where none is skipped.
            let any = columns.values().fold(0, |all, heads| all | heads);
            for (column, reads) in &round.reads {
                let heads = if skip_columns { columns.get(column).copied().unwrap_or(0) } else { any };
                let lots: BTreeSet<u32> =
                    (0..u64::BITS).filter(|h| heads >> h & 1 == 1).map(|h| h / self.at_once).collect();
                assert_eq!(*reads, lots.len() as u64, "{at}: reads of column {column} for heads {heads:b}");
            }
            if skip_columns {
                let times = columns.into_iter().map(|(column, heads)| (column, u64::from(heads.count_ones())));
                assert_eq!(round.columns, times.collect(), "{at}: {:?}", round.open);
            } else {
                let heads = columns.values().fold(0, |all, heads| all | heads).count_ones();
                assert!(round.columns.values().all(|n| *n == u64::from(heads)), "{at}: {:?}", round.columns);
                assert!(columns.keys().all(|c| round.columns.contains_key(c)), "{at}: columns left out");
            }
        }
        for row in want.rows.keys() {
            assert_eq!(met.get(row), Some(&1), "{at}: {row:?} not met once");
        }
        for (matrix, rounds) in rounds.into_iter().enumerate() {
            // As many rounds as there are rows that are opened in all banks, and as the fullest unit has others.
            let of_matrix = |r: &&Round| r.open.iter().any(|row| want.rows.get(row) == Some(&matrix));
            let wide = self.rounds.iter().filter(of_matrix).filter(|r| r.all_banks);
            let wide: BTreeSet<u32> = wide.flat_map(|r| r.open.iter().map(|(_, row)| *row)).collect();
            let rows = want.rows.iter().filter(|(_, m)| **m == matrix).map(|((unit, row), _)| (*unit, *row));
            let (mut by_unit, mut distinct) = (BTreeMap::<u32, usize>::new(), BTreeSet::new());
            rows.for_each(|(unit, row)| {
                *by_unit.entry(unit).or_default() += usize::from(!wide.contains(&row));
                distinct.insert(row);
            });
            let own = by_unit.values().copied().max().unwrap_or(0);
            assert_eq!(rounds, wide.len() + own, "{at}: rounds of matrix {matrix}");
            if want.addressing[matrix] == Addressing::Broadcast {
                assert_eq!(rounds, distinct.len(), "{at}: rounds of matrix {matrix}");
            }
        }
    }
}

impl Round {
    /// A MAC of a column for so many query heads.
    fn take(&mut self, column: u32, heads: u32) {
        *self.columns.entry(column).or_default() += u64::from(heads);
        *self.reads.entry(column).or_default() += 1;
        self.last = column;
    }

    /// Whether each unit that left had all that it wants behind it, and left at once. `columns` has the query heads that
    /// want each column in any unit; they multiply one after the other.
    fn check_leavers(&self, want: &Expected, columns: &BTreeMap<u32, u64>, skip_columns: bool, at: &str) {
        for (unit, (before, last)) in &self.left {
            let Some((_, row)) = self.open.range((*unit, 0)..=(*unit, u32::MAX)).next() else { continue };
            let of_row = || want.spots.range((*unit, *row, 0)..=(*unit, *row, u32::MAX));
            for ((_, _, column), heads) in of_row() {
                let upto = u64::MAX >> heads.leading_zeros();
                let needed = u64::from((columns[column] & upto).count_ones());
                let had = before.get(column).copied().unwrap_or(0);
                assert!(had >= needed || !skip_columns, "{at}: unit {unit} left before column {column}");
            }
            let ended = *before == self.columns;
            assert!(ended || of_row().any(|((_, _, c), _)| c == last), "{at}: unit {unit} stayed for nothing");
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
    /// Clusters of the largest K-means that the device does before this step.
    clusters: u32,
}

/// The selections of every head, each in order of steps. They do not depend on the mapping.
fn selections(workload: &Workload, cache: &KvCache, steps: usize) -> Vec<Selection> {
    let cache = cache.view().unwrap();
    let mut out = Vec::new();
    for layer in 0..cache.layers.len() {
        let name = if cache.layers[layer] < workload.dense_layers { "full" } else { &workload.policy };
        let none = toml::Table::new();
        let policy = (select::find(name).unwrap().build)(workload.policies.get(name).unwrap_or(&none)).unwrap();
        let view = |head| {
            let index = (layer * cache.kv_heads + head) as u64;
            let seed = workload.seed ^ (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let (queries, query_start) = (cache.group_queries(layer, head), cache.query_start);
            HeadView { keys: cache.keys(layer, head), prefill: cache.prefill, queries, query_start, seed, memo: None }
        };
        let views: Vec<HeadView<'_>> = (0..cache.kv_heads).map(view).collect();
        for (head, mut state) in policy.prepare_layer(&views).into_iter().enumerate() {
            let keys = views[head].keys;
            for step in 0..steps {
                let position = cache.decode_positions().start + step;
                let group = cache.group();
                let keys = keys.range(0..position + 1);
                let layer_queries = cache.queries_at(layer, position);
                let queries = &layer_queries[head * group..][..group];
                let mut scores = vec![Vec::new(); group];
                pimattn_policies::accuracy::exact_scores(keys, position + 1, queries, &mut scores);
                let mut tokens = vec![Vec::new(); group];
                state.grow(keys);
                let (budget, layer_queries, scores) = (workload.budget, &layer_queries[..], &scores[..]);
                let view = StepView { keys, budget, queries, layer_queries, scores };
                state.select(view, &mut tokens);
                let clusters = state.clusterings().iter().map(|c| c.clusters).max().unwrap_or(0);
                out.push(Selection { step, layer, head, tokens, order: state.order().clone(), clusters });
            }
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
    let mapping = &workload.mapping;
    let bytes = mapping.element_bytes(cache.element_bytes);
    let shape = Shape::new(&g, cache.dim, bytes, system.device.entry_bytes, mapping.values).unwrap();
    let heads = HeadCounts { layers: cache.layers.len() as u32, kv_heads: cache.kv_heads as u32 };
    let homes = homes(heads, &[cache.tokens], &workload.placement, &g).unwrap();
    let mut out = BTreeMap::new();
    let none = |side| Positions::new(side, mapping, workload.placement.units, &shape, shape.units);
    let (mut positions, mut rows) = (Side::BOTH.map(none), HeadRows::new(0, 0));
    let mut load = [vec![0; shape.units as usize], vec![0; shape.units as usize]];
    let stripes = shape.value_stripes as usize;
    for s in selections {
        let home = homes[s.layer * cache.kv_heads + s.head];
        if s.step == 0 {
            positions = Side::BOTH.map(none);
            rows = HeadRows::new(home.first_row, home.rows);
            load.iter_mut().for_each(|load| load.fill(0));
        }
        let len = cache.decode_positions().start + s.step + 1;
        for (p, load) in positions.iter_mut().zip(&load) {
            p.update(&s.order, len as u32, load, &mut Vec::new());
        }
        let [keys, values] = &positions;
        rows.reserve(0, keys.rows()).unwrap();
        (1..=stripes).for_each(|stripe| rows.reserve(stripe, values.rows()).unwrap());
        if workload.clustering_cost == ClusteringCost::Pim {
            // The centroids of a K-means that goes on.
            let clusters = s.clusters.div_ceil(shape.units).div_ceil(shape.keys_per_row);
            rows.reserve(1 + stripes, clusters).unwrap();
        }
        let [of_keys, of_values] = Side::BOTH.map(|side| side.arrangement(mapping).addressing);
        let addressing = std::iter::once(of_keys).chain(std::iter::repeat_n(of_values, stripes)).collect();
        let mut want = Expected { addressing, ..Expected::default() };
        // The columns of a token by matrix. V: a column in each of the stripes, which have rows of their own or share one.
        let spots = |token: u32| -> Vec<(usize, Row, Vec<Spot>)> {
            let (k, v) = (keys.place(keys.position(&s.order, token)), values.place(values.position(&s.order, token)));
            let of = |matrix: usize, place: Place, columns: Vec<u32>| {
                let row = rows.at(matrix, place.row);
                let spots = columns.into_iter().map(|column| (place.unit, row, column)).collect();
                (matrix, (place.unit, place.row), spots)
            };
            let key = (0..shape.columns).map(|c| k.index * shape.columns + c).collect();
            let parts = shape.columns / shape.value_stripes;
            let value = |stripe| of(stripe, v, (0..parts).map(|c| c * shape.values_per_row + v.index).collect());
            std::iter::once(of(0, k, key)).chain((1..=stripes).map(value)).collect()
        };
        let mut cells = [BTreeSet::new(), BTreeSet::new()];
        for (head, token) in s.tokens.iter().enumerate().flat_map(|(h, tokens)| tokens.iter().map(move |t| (h, *t))) {
            for (matrix, cell, spots) in spots(token) {
                want.rows.insert((spots[0].0, spots[0].1), matrix);
                cells[usize::from(matrix > 0)].insert(cell);
                spots.into_iter().for_each(|spot| *want.spots.entry(spot).or_default() |= 1 << head);
            }
        }
        for (load, cells) in load.iter_mut().zip(cells) {
            cells.into_iter().for_each(|(unit, _)| load[unit as usize] += 1);
        }
        let of_banks =
            |spots: Vec<Spot>| (0..g.banks).flat_map(move |b| spots.clone().into_iter().map(move |s| (s, b)));
        let columns = |token| spots(token).into_iter().flat_map(|(_, _, spots)| of_banks(spots)).collect();
        want.places = (0..len as u32).map(columns).collect();
        want.distinct = s.tokens.iter().flatten().collect::<BTreeSet<_>>().len() as u32;
        want.selected = s.tokens.iter().map(|t| t.len() as u32).sum();
        out.insert((s.step as u32, cache.layers[s.layer], s.head as u32), want);
    }
    out
}

/// What memory holds: of which token, and which part of its key and value.
type Memory = BTreeMap<Column, (usize, usize)>;

/// Writes and moves of a step, and whether each token is where it is looked for.
fn check_memory(memory: &mut Memory, touched: &Touched, want: &Expected, at: &str) {
    let write = |memory: &mut Memory, token: usize, columns: &[Column]| {
        memory.extend(columns.iter().enumerate().map(|(part, column)| (*column, (token, part))));
    };
    let last = want.places.len() - 1;
    if memory.is_empty() {
        (0..last).for_each(|token| write(memory, token, &want.places[token]));
    }
    assert_eq!(touched.appended.len(), want.places[last].len(), "{at}: the new token is written");
    write(memory, last, &touched.appended);
    assert_eq!(touched.read.len(), touched.rewritten.len(), "{at}: what is read is written again");
    let moved: Vec<(usize, usize)> = touched.read.iter().map(|column| memory[column]).collect();
    memory.extend(touched.rewritten.iter().copied().zip(moved));
    for (token, columns) in want.places.iter().enumerate() {
        for (part, column) in columns.iter().enumerate() {
            assert_eq!(memory.get(column), Some(&(token, part)), "{at}: token {token} at {column:?}");
        }
    }
}

/// Requests of each segment, by the channel that they go to.
fn by_segment(records: &[Record], g: &Geometry, at_once: u32) -> Vec<(Segment, Touched)> {
    let mut out: Vec<(Segment, Touched)> = Vec::new();
    let mut lanes: BTreeMap<(u32, u8), usize> = BTreeMap::new();
    let mut now: BTreeMap<u32, (usize, Phase)> = BTreeMap::new();
    for record in records {
        match record {
            Record::Mark(m) => {
                now.insert(m.channel, (lanes[&(m.channel, m.lane)], m.phase));
            }
            Record::Arrival(a) => panic!("{a:?}: nothing arrives later"),
            Record::Segment(s) => {
                lanes.insert((s.channel, s.lane), out.len());
                out.push((*s, Touched { at_once, ..Touched::default() }));
            }
            Record::Request(r) if r.op == Op::Barrier => {}
            Record::Request(r) if r.op == Op::Sync => now.clear(),
            Record::Request(r) => {
                let (at, phase) = now[&g.channel_of(r.addr)];
                out[at].1.take(r, phase, g);
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

    let segments = by_segment(&records, &g, system.device.heads_per_read);
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
    let mut memory: BTreeMap<(u32, u32), Memory> = BTreeMap::new();
    for (s, touched) in &segments {
        let at = format!("{what}: step {} layer {} head {}", s.step, s.layer, s.kv_head);
        let want = &expected[&(s.step, s.layer, s.kv_head)];
        assert_eq!((s.selected, s.distinct), (want.selected, want.distinct), "{at}");
        // Sets of accumulators that the outputs of a query head grow in.
        let sets = match workload.mapping.values {
            ValueLayout::Stripe => 1,
            ValueLayout::Vector => want.places[0].len() as u32 / 2 / g.banks,
        };
        let together = (system.device.accumulators / sets).min(64) as usize;
        if want.addressing.len() > 1 && together < cache.query_heads / cache.kv_heads {
            touched.check_lots(want, together, workload.mapping.skip_columns, &at);
        } else {
            touched.check(want, workload.mapping.skip_columns, &at);
        }
        if workload.append_cost == OverheadCost::Pim {
            check_memory(memory.entry((s.layer, s.kv_head)).or_default(), touched, want, &at);
        }
    }
}
