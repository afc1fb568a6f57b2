//! Plans the requests of one KV head at one decode step, in each of its channels.
//!
//! A step updates the positions of the tokens, reserves rows for what has grown, collects the touched cells of K and V, and
//! writes a [`HeadPlan`] for each channel: upkeep, queries, scan, scores, probabilities, outputs. [`super::stage`] then puts the
//! plans of a channel's heads in order.

use super::attend::{self, MatrixPart};
use super::emit::{DeviceLayout, Emitter, Matrix};
use super::heads;
use super::layout::{Place, Side};
use super::placement::HeadRegion;
use super::positions::{MovedToken, Positions};
use super::rounds::{RoundTiming, RoundWork, Rounds};
use super::rows::HeadRows;
use super::scan::{self, Scanner};
use super::stage::{HeadPlan, Stage};
use super::sweep::{TouchedRow, TouchedRows};
use super::upkeep::{self, Cache, CentroidMeans};
use crate::workload::{Addressing, ClusteringCost, Host, Mapping, OverheadCost, Workload};
use pimattn_core::op::Op;
use pimattn_core::spec::Device;
use pimattn_kv::selection::{Clustering, Scan, SlotOrder};
use pimattn_trace::{Phase, Segment};

/// The parts of a step that are charged besides attention, and the device figures that planning needs.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Timing from which the cycles of rounds are estimated.
    pace: RoundTiming,
    /// Sets of accumulators of a unit.
    accumulators: u32,
    select: bool,
    append: bool,
    cluster: bool,
    /// Cycles of the host for a selection: latency, and for each score.
    choose: (f64, f64),
    /// Cycles of the host for a K-means assignment: latency, and for each score.
    compare: (f64, f64),
}

impl Costs {
    /// The costs of a workload on a device; none if the device has no all-bank MAC.
    pub fn new(workload: &Workload, device: &Device) -> Option<Self> {
        let (clock, host): (_, &Host) = (device.clock, &workload.host);
        Some(Costs {
            pace: RoundTiming::of(device)?,
            accumulators: device.accumulators,
            select: workload.selection_cost == OverheadCost::Pim,
            append: workload.append_cost == OverheadCost::Pim,
            cluster: workload.clustering_cost == ClusteringCost::Pim,
            choose: (host.selecting().in_cycles(clock), host.select_score.in_cycles(clock)),
            compare: (host.clustering().in_cycles(clock), host.cluster_score.in_cycles(clock)),
        })
    }
}

/// Cycles of the host for `scores` scores.
fn host((latency, score): (f64, f64), scores: u64) -> u32 {
    (latency + score * scores as f64).ceil() as u32
}

/// The selection of a group of query heads at one step, and what it needs from memory.
pub struct StepDemand<'a> {
    /// Tokens of each query head, ascending.
    pub tokens: &'a [Vec<u32>],
    /// Their order in memory.
    pub order: &'a SlotOrder,
    /// Tokens in the cache; the last one is new.
    pub len: u32,
    /// What the policy read to choose.
    pub scan: Scan<'a>,
    /// The K-means that run before this step attends.
    pub clusterings: &'a [Clustering],
}

/// Plans the steps of one KV head. It keeps the head's positions and rows between steps.
pub struct HeadPlanner {
    target: DeviceLayout,
    mapping: Mapping,
    costs: Costs,
    home: HeadRegion,
    units: u32,
    cache: Cache,
    /// Number of the matrix of a running K-means's centroids.
    centroids: usize,
    /// Number of the policy's first own matrix; the others follow it.
    own: usize,
    /// State of K and of V.
    sides: [Matrices; 2],
    rows: HeadRows,
    /// Number of vectors written to the policy's own matrices; unknown before the first scan.
    written: Option<u32>,
    clustering: Vec<Clustering>,
    /// Number of query heads for whose outputs a unit has accumulators.
    together: usize,
    extents: Extents,
}

/// Counts the stretches of wanted tokens that lie one behind the other in the policy's order.
#[derive(Default)]
struct Extents {
    /// A bit for each slot.
    wanted: Vec<u64>,
}

impl Extents {
    /// Stretches without a gap of the slots of all these tokens, out of `len`.
    fn count(&mut self, tokens: &[Vec<u32>], order: &SlotOrder, len: u32) -> u32 {
        self.wanted.clear();
        self.wanted.resize((len as usize).div_ceil(64), 0);
        for slot in tokens.iter().flatten().map(|token| order.slot(*token)) {
            let word = slot as usize / 64;
            if word >= self.wanted.len() {
                self.wanted.resize(word + 1, 0);
            }
            self.wanted[word] |= 1 << (slot % 64);
        }
        // A stretch begins at a bit without one below it; the last bit of a word is below the first of the next.
        let mut below = 0;
        let begins = self.wanted.iter().map(|word| {
            let begins = word & !(word << 1 | below);
            below = word >> 63;
            begins.count_ones()
        });
        begins.sum()
    }
}

/// K or V: where its tokens lie, which of them moved in this step, and what is touched.
struct Matrices {
    side: Side,
    positions: Positions,
    moved: Vec<MovedToken>,
    sweep: TouchedRows,
    /// Rows opened so far, by unit.
    load: Vec<u64>,
}

impl Matrices {
    fn place(&self, order: &SlotOrder, token: u32) -> Place {
        self.positions.place(self.positions.position(order, token))
    }
}

impl HeadPlanner {
    /// A scheduler for a KV head that `heads` query heads share.
    pub fn new(target: DeviceLayout, workload: &Workload, costs: Costs, home: HeadRegion, heads: usize) -> Self {
        let (shape, mapping) = (target.shape, &workload.mapping);
        let units = shape.units * home.channels;
        let stripes = shape.value_stripes;
        let matrix = |id, per_row, columns, stripes_in_row| Matrix { id, per_row, columns, stripes_in_row };
        let value = |s| matrix(1 + s as usize, shape.values_per_row, 1, shape.columns / stripes);
        let centroids = 1 + stripes as usize;
        HeadPlanner {
            target,
            mapping: mapping.clone(),
            costs,
            home,
            units,
            cache: Cache {
                keys: vec![matrix(0, shape.keys_per_row, shape.columns, 1)],
                values: (0..stripes).map(value).collect(),
            },
            centroids,
            own: centroids + 1,
            sides: Side::BOTH.map(|side| Matrices {
                side,
                positions: Positions::new(side, mapping, workload.placement.units, &shape, units),
                moved: Vec::new(),
                sweep: TouchedRows::new(units, heads, shape.per_row(side)),
                load: vec![0; units as usize],
            }),
            rows: HeadRows::new(home.first_row, home.rows),
            written: None,
            clustering: Vec::new(),
            // Loading a workload refuses a device whose accumulators do not suffice for one query head.
            together: heads::together(shape.columns / stripes, costs.accumulators).unwrap_or(1),
            extents: Extents::default(),
        }
    }

    /// Charges a clustering to the next step.
    pub fn owe(&mut self, clusterings: &[Clustering]) {
        self.clustering.extend_from_slice(clusterings);
    }

    /// The plans of one step, one for each channel of the head. Fails when the head has outgrown its rows.
    pub fn step(&mut self, wanted: &StepDemand<'_>, segment: Segment) -> Result<Vec<HeadPlan>, String> {
        for Matrices { positions, moved, load, .. } in &mut self.sides {
            positions.update(wanted.order, wanted.len, load, moved);
        }
        if self.costs.cluster {
            self.clustering.extend_from_slice(wanted.clusterings);
        }
        self.reserve(wanted)?;
        for Matrices { positions, sweep, load, .. } in &mut self.sides {
            sweep.clear();
            for (head, tokens) in wanted.tokens.iter().enumerate() {
                sweep.add(head, tokens, wanted.order, positions);
            }
            sweep.sort();
            sweep.cells().iter().for_each(|c| load[c.unit as usize] += 1);
        }
        let whole = Segment {
            kv_heads: 1,
            query_heads: wanted.tokens.len() as u32,
            extents: self.extents.count(wanted.tokens, wanted.order, wanted.len),
            bytes_scanned: self.scanned(wanted),
            bytes_upkeep: self.upkept(wanted),
            ..segment
        };
        // The numbers of the whole head are in one of its segments, so that sums over segments are right.
        let template = |part: u32| if part == 0 { whole } else { segment };
        let plans = (0..self.home.channels).map(|c| self.plan(c, wanted, template(c))).collect();
        // The vectors that a policy has at its first scan were written before, with the prefill.
        self.written = match wanted.scan {
            Scan::Nothing => self.written,
            Scan::Vectors { vectors, .. } | Scan::HeadVectors { vectors, .. } => Some(vectors),
            Scan::Keys | Scan::Dimensions(_) => Some(0),
        };
        self.clustering.clear();
        Ok(plans)
    }

    fn reserve(&mut self, wanted: &StepDemand<'_>) -> Result<(), String> {
        for Matrices { side, positions, .. } in &self.sides {
            let rows = positions.rows();
            self.cache.side(*side).iter().try_for_each(|m| self.rows.reserve(m.id, rows))?;
        }
        if self.costs.select {
            for (i, rows) in scan::rows(&self.target, self.units, wanted.scan, wanted.len).into_iter().enumerate() {
                self.rows.reserve(self.own + i, rows)?;
            }
        }
        let most = self.clustering.iter().map(|c| c.clusters.div_ceil(self.target.shape.units)).max().unwrap_or(0);
        self.rows.reserve(self.centroids, most.div_ceil(self.target.shape.keys_per_row))
    }

    fn plan(&self, part: u32, wanted: &StepDemand<'_>, segment: Segment) -> HeadPlan {
        let channel = self.home.channel + part;
        let (target, rows) = (&self.target, &self.rows);
        let cells = self.sides.each_ref().map(|side| self.cells(&side.sweep, part));
        let rounds: [Rounds; 2] =
            std::array::from_fn(|i| self.rounds(self.sides[i].side, &self.sides[i].sweep, &cells[i]));
        let keys = self.part(Side::Keys, &self.sides[0].sweep, &cells[0], &rounds[0]);
        // A sweep over V for each lot of query heads that a unit has accumulators for; mostly, one lot has all of them.
        let sweeps: Vec<TouchedRows> = match heads::lots(wanted.tokens.len(), self.together).collect::<Vec<_>>() {
            lots if lots.len() > 1 => lots.into_iter().map(|lot| self.sides[1].sweep.of(lot)).collect(),
            _ => Vec::new(),
        };
        let of_lots: Vec<(Vec<TouchedRow>, Rounds)> = sweeps
            .iter()
            .map(|sweep| {
                let cells = self.cells(sweep, part);
                let rounds = self.rounds(self.sides[1].side, sweep, &cells);
                (cells, rounds)
            })
            .collect();
        let mut lots: Vec<MatrixPart<'_>> = Vec::new();
        for (sweep, (cells, rounds)) in sweeps.iter().zip(&of_lots) {
            lots.push(self.part(Side::Values, sweep, cells, rounds));
        }
        if lots.is_empty() {
            lots.push(self.part(Side::Values, &self.sides[1].sweep, &cells[1], &rounds[1]));
        }
        let scanner = Scanner {
            target,
            channel,
            units: self.units,
            heads: wanted.tokens.len() as u32,
            rows,
            keys: self.cache.keys[0],
            own: self.own,
            layout: self.mapping.selection_layout,
            accumulators: self.costs.accumulators,
        };
        let scan = if self.costs.select { wanted.scan } else { Scan::Nothing };
        let mut queries = vec![scanner.multipliers(scan)];
        if !scanner.loads_queries(scan) {
            let mut emit = Emitter::new(target, channel, Phase::AttendScore);
            (0..wanted.tokens.len()).for_each(|_| emit.vector(target.shape.columns));
            queries.push(emit.finish());
        }
        let choose = |scores| host(self.costs.choose, scores);
        HeadPlan {
            segment: self.segment(segment, channel, &keys),
            upkeep: self.upkeep(part, wanted, &scanner),
            queries,
            scan: scanner.scan(scan, wanted.len, self.sides[0].positions.end(wanted.len), choose),
            scores: attend::scores(&keys, rows, &self.cache.keys[0], target, channel),
            probabilities: attend::probabilities(&lots, target, channel),
            context: attend::context(&lots, rows, &self.cache.values, target, channel),
        }
    }

    fn cells(&self, sweep: &TouchedRows, part: u32) -> Vec<TouchedRow> {
        sweep.cells().iter().filter(|c| c.unit / self.target.shape.units == part).copied().collect()
    }

    fn work(&self, side: Side) -> RoundWork {
        let m = &self.cache.side(side)[0];
        let (columns, stripes) = (m.columns * m.stripes_in_row, m.stripes_in_row);
        let heads_per_read = self.target.heads_per_read as usize;
        RoundWork { skip_columns: self.mapping.skip_columns, columns, stripes, heads_per_read }
    }

    fn rounds(&self, side: Side, sweep: &TouchedRows, cells: &[TouchedRow]) -> Rounds {
        match side.arrangement(&self.mapping).addressing {
            Addressing::BankGroup => {
                Rounds::quickest(cells, sweep, self.target.shape.units, &self.work(side), &self.costs.pace)
            }
            Addressing::Broadcast | Addressing::Ideal => Rounds::broadcast(cells),
        }
    }

    fn part<'a>(
        &self,
        side: Side,
        sweep: &'a TouchedRows,
        cells: &'a [TouchedRow],
        rounds: &'a Rounds,
    ) -> MatrixPart<'a> {
        MatrixPart { sweep, cells, rounds, work: self.work(side), units: self.target.shape.units }
    }

    fn segment(&self, template: Segment, channel: u32, keys: &MatrixPart<'_>) -> Segment {
        let shape = &self.target.shape;
        let selected: u32 = keys.cells.iter().map(|c| keys.sweep.wanted(*c)).sum();
        let distinct: u32 = keys.cells.iter().map(|c| keys.sweep.distinct(*c)).sum();
        Segment {
            channel,
            selected,
            distinct,
            row_blocks: keys.cells.len() as u32,
            fullest_unit: keys.fullest_unit(),
            row_tokens: keys.cells.iter().map(|c| self.sides[0].positions.tokens_in(c.unit, c.row)).sum(),
            slots_used: 2 * u64::from(selected) * u64::from(shape.columns),
            bytes_useful: 2 * u64::from(distinct) * u64::from(shape.vector_bytes),
            ..template
        }
    }

    fn element_bytes(&self) -> u64 {
        u64::from(self.target.shape.element_bytes)
    }

    /// Bytes that the policy reads to choose, as far as that is charged.
    fn scanned(&self, wanted: &StepDemand<'_>) -> u64 {
        match self.costs.select {
            true => wanted.scan.elements(wanted.len, self.target.dim()) * self.element_bytes(),
            false => 0,
        }
    }

    /// Bytes that upkeep reads and writes, as far as it is charged.
    fn upkept(&self, wanted: &StepDemand<'_>) -> u64 {
        let vector = u64::from(self.target.shape.vector_bytes);
        let mut bytes = 0;
        if self.costs.append {
            bytes += 2 * vector;
            if let (true, Some(written)) = (self.costs.select, self.written) {
                bytes += scan::appended(&self.target, wanted.scan, wanted.len, written) * self.element_bytes();
            }
        }
        if self.costs.cluster {
            bytes += self.clustering.iter().map(|c| u64::from(c.tokens) * vector).sum::<u64>();
            bytes += self.sides.iter().map(|s| 2 * s.moved.len() as u64 * vector).sum::<u64>();
        }
        bytes
    }

    /// The stages that write the new token, cluster keys and move tokens, in this order.
    fn upkeep(&self, part: u32, wanted: &StepDemand<'_>, scanner: &Scanner<'_>) -> Vec<Stage> {
        let mut stages = Vec::new();
        if self.costs.append {
            stages.push(self.append(part, scanner.channel));
            let scan = if self.costs.select { wanted.scan } else { Scan::Nothing };
            if let Some(mut written) = self.written {
                stages.push(scanner.append(scan, wanted.len - 1, wanted.len, &mut written));
            }
        }
        if self.costs.cluster {
            // If a head has several channels, each K-means runs in one of them; the channels take turns.
            for c in self.clustering.iter().skip(part as usize).step_by(self.home.channels as usize) {
                stages.push(self.cluster(c, wanted.order, scanner.channel));
            }
            stages.extend(self.remap(part, wanted, scanner.channel));
        }
        stages
    }

    fn is_here(&self, place: Place, part: u32) -> bool {
        place.unit / self.target.shape.units == part
    }

    fn append(&self, part: u32, channel: u32) -> Stage {
        let mut emit = Emitter::new(&self.target, channel, Phase::Append);
        for Matrices { side, positions, .. } in &self.sides {
            let place = positions.place(positions.appended());
            if self.is_here(place, part) {
                upkeep::vector(Op::St, self.cache.side(*side), place, &self.rows, &mut emit);
            }
        }
        emit.finish()
    }

    fn cluster(&self, c: &Clustering, order: &SlotOrder, channel: u32) -> Stage {
        let places: Vec<Place> = (c.first..c.first + c.tokens).map(|t| self.sides[0].place(order, t)).collect();
        let means = CentroidMeans {
            clusters: c.clusters,
            iterations: c.iterations,
            host: host(self.costs.compare, u64::from(c.tokens) * u64::from(c.clusters)),
            centroids: self.centroids,
        };
        upkeep::cluster(&means, &places, &self.rows, &self.cache.keys[0], &self.target, channel)
    }

    /// Moves the keys and values of tokens whose position has changed. All are read before the first is written, since one
    /// token may move to the old place of another.
    fn remap(&self, part: u32, wanted: &StepDemand<'_>, channel: u32) -> Option<Stage> {
        if self.sides.iter().all(|s| s.moved.is_empty()) {
            return None;
        }
        let mut emit = Emitter::new(&self.target, channel, Phase::Remap);
        for op in [Op::Ld, Op::St] {
            for s in &self.sides {
                for MovedToken { token, from } in &s.moved {
                    let read = op == Op::Ld;
                    let place = if read { s.positions.place(*from) } else { s.place(wanted.order, *token) };
                    if self.is_here(place, part) {
                        upkeep::vector(op, self.cache.side(s.side), place, &self.rows, &mut emit);
                    }
                }
            }
            emit.barrier();
        }
        Some(emit.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_ends_where_no_query_head_wants_the_next_slot() {
        let count = |tokens: &[&[u32]], order: &SlotOrder, len| {
            let tokens: Vec<Vec<u32>> = tokens.iter().map(|t| t.to_vec()).collect();
            Extents::default().count(&tokens, order, len)
        };
        let plain = SlotOrder::default();
        assert_eq!(count(&[], &plain, 9), 0);
        assert_eq!(count(&[&[0, 1, 2], &[2, 3, 7]], &plain, 9), 2);
        // Over the border of two words, and up to the last slot.
        assert_eq!(count(&[&[62, 63, 64, 65, 127]], &plain, 128), 2);
        assert_eq!(count(&[&(0..1000).collect::<Vec<_>>()], &plain, 1000), 1);
        // Tokens 0, 2 and 4 lie side by side in their cluster.
        let clustered = SlotOrder { slot_of: vec![0, 3, 1, 4, 2, 5], ..SlotOrder::default() };
        assert_eq!(count(&[&[0, 2, 4]], &clustered, 6), 1);
        assert_eq!(count(&[&[0, 2, 4]], &plain, 6), 3);
    }
}
