//! A GPU as a roofline: the larger of computing and reading, each at a share of its peak.
//!
//! Terms and figures are AttAcc's (ASPLOS 2024, its published simulator): tiles for the first-level cache are chosen by
//! traffic and by how evenly their thread blocks fill the cores, tiles for the second-level cache by traffic; activation
//! and normalisation follow straight lines through measurements. Sizes are of one GPU, energies of all.

use super::cost::{ComponentEnergy, EnergyComponent};
use super::layer::{LayerPart, LayerWork};
use super::platform::{Gather, Gpu, Tiles};
use super::switches::{Switch, Switches};
use std::collections::BTreeMap;

/// What bounds a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RooflineBound {
    /// Arithmetic.
    Compute,
    /// Reading and writing.
    Memory,
}

/// A layer's time and energy.
#[derive(Debug, Clone, Copy)]
pub struct LayerCost {
    /// Time in s.
    pub seconds: f64,
    /// What takes that long.
    pub bound: RooflineBound,
    /// Energy of all GPUs in pJ.
    pub energy: ComponentEnergy,
}

/// How a product is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Share of the cores that work, over all waves of thread blocks.
    pub core_share: f64,
    /// Bytes between DRAM and the second level.
    pub dram: f64,
    /// Bytes between the second level and the first.
    pub l2: f64,
}

/// What a policy takes of one GPU besides attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyWork {
    /// Bytes read to choose.
    pub scanned: f64,
    /// Bytes read and written to keep the cache as the policy has it.
    pub upkeep: f64,
    /// Query heads that share what is read.
    pub sharing: f64,
    /// Bytes of an element.
    pub bytes: f64,
}

/// The GPUs.
pub struct Roofline<'p> {
    gpu: &'p Gpu,
    switches: Switches,
    tilings: BTreeMap<[u64; 6], Tiling>,
}

/// Bytes that a product moves when tiles of `tm` x `tn` results each read what they need.
fn tiled_bytes(layer: &LayerWork, tm: f64, tn: f64, shared: f64) -> f64 {
    let LayerWork { m, n, k, ops, bytes, .. } = *layer;
    [(n / tn).ceil() * m * k, (m / tm).ceil() * n * k / shared, m * n]
        .map(|elements| elements * bytes * ops)
        .iter()
        .sum()
}

/// Share of the cores that `blocks` thread blocks keep busy.
fn core_share(blocks: f64, cores: f64) -> f64 {
    blocks / ((blocks / cores).ceil() * cores)
}

/// Share of the cores that a layer keeps busy, in tiles of `tm` x `tn` results.
fn busy_cores(gpu: &Gpu, layer: &LayerWork, tm: f64, tn: f64) -> f64 {
    match (layer.part.is_weights(), gpu.split_attention) {
        (true, _) => core_share((layer.m / tm).ceil() * (layer.n / tn).ceil() * layer.ops, gpu.cores),
        // Attention kernels run a thread block for each head, or split a head's cache over the cores that are left.
        (false, false) => core_share(layer.ops, gpu.cores),
        (false, true) => 1.0,
    }
}

/// The tile of the first-level cache: least traffic, weighed by the square of the idle share.
fn l1_tile(gpu: &Gpu, layer: &LayerWork) -> (f64, f64) {
    let Tiles { sizes, depth, .. } = &gpu.tiles;
    let mut best = (f64::INFINITY, (layer.m.min(1.0), layer.n.min(1.0)));
    for tm in sizes.iter().map(|t| t.min(layer.m)) {
        for tn in sizes.iter().map(|t| t.min(layer.n)) {
            if ((tm + tn) * depth + tm * tn) * layer.bytes > gpu.l1 {
                continue;
            }
            let share = busy_cores(gpu, layer, tm, tn);
            let cost = tiled_bytes(layer, tm, tn, 1.0) * (1.0 / share).powi(2);
            if cost < best.0 {
                best = (cost, (tm, tn));
            }
        }
    }
    best.1
}

/// Bytes from DRAM with the best tile of the second-level cache, a multiple of the first level's or the whole side.
///
/// For a height, the widest tile that fits reads least, so only that one is looked at.
fn dram_bytes(gpu: &Gpu, layer: &LayerWork, (tm, tn): (f64, f64)) -> f64 {
    let depth = layer.k / gpu.tiles.l2_depth_parts;
    let fits = |h: f64, w: f64| ((h + w) * depth + h * w) * layer.bytes <= gpu.l2;
    let bytes = |h: f64, w: f64| tiled_bytes(layer, h, w, layer.shared);
    let heights = (1..=(layer.m / tm) as u64).map(|i| tm * i as f64).chain([layer.m]);
    let widest = |h: f64| {
        if fits(h, layer.n) {
            return Some(layer.n);
        }
        let room = (gpu.l2 / layer.bytes - h * depth) / (h + depth);
        let most = (room / tn).floor().min((layer.n / tn).floor());
        // One more or less may be right, as the division is rounded.
        [most + 1.0, most, most - 1.0].into_iter().map(|i| i * tn).find(|w| (tn..=layer.n).contains(w) && fits(h, *w))
    };
    // The first level's tile is taken even when it does not fit.
    heights.filter_map(|h| Some(bytes(h, widest(h)?))).fold(bytes(tm, tn), f64::min)
}

impl<'p> Roofline<'p> {
    /// These GPUs, with these switches.
    pub fn new(gpu: &'p Gpu, switches: Switches) -> Self {
        Roofline { gpu, switches, tilings: BTreeMap::new() }
    }

    /// Time and energy of a layer, or of a transfer that the GPUs make.
    pub fn cost(&mut self, layer: &LayerWork) -> LayerCost {
        match layer.part {
            LayerPart::AllReduce | LayerPart::Link => self.transfer(layer),
            part if part.is_product() => self.product(layer),
            _ => self.elements(layer),
        }
    }

    /// How a product is cut.
    pub fn tiling(&mut self, layer: &LayerWork) -> Tiling {
        let LayerWork { m, n, k, ops, shared, bytes, .. } = *layer;
        let sizes = [m, n, k, ops, shared, bytes].map(f64::to_bits);
        let gpu = self.gpu;
        *self.tilings.entry(sizes).or_insert_with(|| {
            let (tm, tn) = l1_tile(gpu, layer);
            Tiling {
                core_share: busy_cores(gpu, layer, tm, tn),
                dram: dram_bytes(gpu, layer, (tm, tn)),
                l2: tiled_bytes(layer, tm, tn, 1.0),
            }
        })
    }

    fn product(&mut self, layer: &LayerWork) -> LayerCost {
        let dram = self.tiling(layer).dram;
        self.product_of(layer, dram, dram)
    }

    /// Scores, or outputs, of one token of each request with keys, or values, that lie in pieces of `piece` bytes.
    ///
    /// As a product that reads these once; but pieces are fetched in whole sectors, short ones at a share of the bandwidth,
    /// and each that is shorter than a DRAM row pays for the rest of the row's activation.
    pub fn gathered(&mut self, layer: &LayerWork, piece: f64) -> LayerCost {
        let Gather { sector, full, row, activation, .. } = self.gpu.gather;
        let others = self.tiling(layer).dram - layer.shared_bytes();
        let pieces = layer.shared_bytes() / piece;
        let fetched = pieces * (piece / sector).ceil() * sector;
        let as_long = fetched / (piece / full).min(1.0);
        let mut cost = self.product_of(layer, others + fetched, others + as_long);
        let unused = (1.0 - piece / row).max(0.0);
        cost.energy[EnergyComponent::Dram as usize] += self.gpu.devices * pieces * unused * activation;
        cost
    }

    /// What a policy takes besides attention: bytes of memory in the order in which they lie, each element multiplied with
    /// every query head that shares it at the most, and ranking where there is anything to rank.
    pub fn policy(&self, work: &PolicyWork) -> LayerCost {
        let (gpu, bytes) = (self.gpu, work.scanned + work.upkeep);
        let layer = LayerWork {
            part: LayerPart::Policy,
            m: work.scanned / work.bytes,
            n: 1.0,
            k: 1.0,
            ops: 1.0,
            shared: 1.0,
            bytes: work.bytes,
            elementwise: (1.0, 2.0 * work.sharing),
        };
        let compute = layer.flops() / self.peak(&layer);
        let memory = bytes / (gpu.bandwidth * gpu.bandwidth_utilisation);
        let registers = 3.0 * layer.flops() / 2.0 * layer.bytes;
        let mut cost = self.timed(compute, memory, [bytes, bytes, bytes, registers], &layer);
        cost.seconds += if work.scanned > 0.0 { gpu.gather.rank } else { 0.0 };
        cost
    }

    /// A product for which DRAM moves `dram` bytes, in the time of `as_long` bytes.
    fn product_of(&mut self, layer: &LayerWork, dram: f64, as_long: f64) -> LayerCost {
        let tiling = self.tiling(layer);
        let gpu = self.gpu;
        let compute = layer.flops() / (self.peak(layer) * tiling.core_share);
        let memory = as_long / (gpu.bandwidth * gpu.bandwidth_utilisation * tiling.core_share);
        let [rm, rn] = gpu.tiles.register;
        // Each multiply-accumulate reads two registers and writes one.
        let registers = match self.switches.has(Switch::RegisterElements) {
            true => 3.0 * layer.m * layer.n * layer.k,
            false => 3.0 * layer.flops() / 2.0 * layer.bytes,
        };
        let l1 = tiled_bytes(layer, rm, rn, 1.0);
        self.timed(compute, memory, [dram, tiling.l2, l1, registers], layer)
    }

    fn elements(&mut self, layer: &LayerWork) -> LayerCost {
        let gpu = self.gpu;
        let bytes = layer.traffic();
        let line = match layer.part {
            LayerPart::Activation => Some((&gpu.elementwise.activation, Switch::EighthActivation)),
            LayerPart::Norm => Some((&gpu.elementwise.norm, Switch::EighthNorm)),
            _ => None,
        };
        let share = busy_cores(gpu, layer, 1.0, 1.0);
        let (compute, memory) = match line {
            None => (
                layer.flops() / (self.peak(layer) * share),
                bytes / (gpu.bandwidth * gpu.bandwidth_utilisation * share),
            ),
            Some((line, eighth)) => {
                let per_byte = line.per_byte * gpu.elementwise.bandwidth / gpu.bandwidth;
                let measured = (line.latency + per_byte * bytes) / self.eighth(eighth);
                let one_core = self.switches.has(Switch::ElementwiseOneCore);
                (if one_core { layer.flops() / (self.peak(layer) * share) } else { 0.0 }, measured)
            }
        };
        self.timed(compute, memory, [bytes; 4], layer)
    }

    /// An all-reduce, or keys and values of a prompt to the PIM device.
    fn transfer(&self, layer: &LayerWork) -> LayerCost {
        let (gpu, bytes) = (self.gpu, layer.traffic());
        let one_way = gpu.link / 2.0;
        let seconds = match layer.part {
            LayerPart::AllReduce => {
                let (r, share) = (&gpu.all_reduce, bytes / gpu.devices);
                let measured = r.latency + r.per_byte * r.link / gpu.link * share;
                measured.max(share / one_way) * (gpu.devices - 1.0) / self.eighth(Switch::EighthAllReduce)
            }
            _ => bytes / one_way / self.eighth(Switch::EighthLink),
        };
        let mut energy = ComponentEnergy::default();
        energy[EnergyComponent::Communication as usize] = gpu.devices * bytes * 8.0 * gpu.energy.link;
        LayerCost { seconds, bound: RooflineBound::Memory, energy }
    }

    fn eighth(&self, switch: Switch) -> f64 {
        if self.switches.has(switch) { 8.0 } else { 1.0 }
    }

    /// Operations per second that all cores together reach; elements of half the size go twice as fast.
    fn peak(&self, layer: &LayerWork) -> f64 {
        self.gpu.peak * self.gpu.compute_utilisation * (2.0 / layer.bytes).floor()
    }

    /// `bytes`: moved by DRAM, second level, first level, registers.
    fn timed(&self, compute: f64, memory: f64, bytes: [f64; 4], layer: &LayerWork) -> LayerCost {
        let e = &self.gpu.energy;
        let mut energy = ComponentEnergy::default();
        let levels = [EnergyComponent::Dram, EnergyComponent::L2, EnergyComponent::L1, EnergyComponent::Registers];
        for (component, (bytes, per_bit)) in
            levels.into_iter().zip(bytes.into_iter().zip([e.dram, e.l2, e.l1, e.registers]))
        {
            energy[component as usize] = self.gpu.devices * bytes * 8.0 * per_bit;
        }
        energy[EnergyComponent::Alu as usize] = self.gpu.devices * layer.flops() / 2.0 * e.alu;
        let bound = if compute > memory { RooflineBound::Compute } else { RooflineBound::Memory };
        LayerCost { seconds: compute.max(memory), bound, energy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Gpu {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/platform/h100-attacc.toml");
        super::super::Platform::load(&file, &[], Switches::default()).unwrap().gpu
    }

    /// All heights with all widths.
    fn plain_dram_bytes(gpu: &Gpu, layer: &LayerWork, (tm, tn): (f64, f64)) -> f64 {
        let sides = |tile: f64, side: f64| (1..=(side / tile) as u64).map(move |i| tile * i as f64).chain([side]);
        let depth = layer.k / gpu.tiles.l2_depth_parts;
        let mut least = f64::INFINITY;
        for h in sides(tm, layer.m) {
            for w in sides(tn, layer.n) {
                let fits = ((h + w) * depth + h * w) * layer.bytes <= gpu.l2;
                if fits || (h, w) == (tm, tn) {
                    least = least.min(tiled_bytes(layer, h, w, layer.shared));
                }
            }
        }
        least
    }

    #[test]
    fn the_widest_tile_that_fits_reads_least() {
        let mut gpu = gpu();
        for l2 in [gpu.l2, 1e6, 2e5, 1e3] {
            gpu.l2 = l2;
            for (m, n, k) in [(2048.0, 4096.0, 4096.0), (1.0, 1536.0, 12288.0), (700.0, 1365.0 + 1.0 / 3.0, 4096.0)] {
                let layer = LayerWork {
                    part: LayerPart::Qkv,
                    m,
                    n,
                    k,
                    ops: 1.0,
                    shared: 1.0,
                    bytes: 2.0,
                    elementwise: (0.0, 0.0),
                };
                for tile in [(8.0, 128.0), (64.0, 64.0)].map(|(h, w): (f64, f64)| (h.min(m), w.min(n))) {
                    assert_eq!(
                        dram_bytes(&gpu, &layer, tile),
                        plain_dram_bytes(&gpu, &layer, tile),
                        "{l2} {m} {tile:?}"
                    );
                }
            }
        }
    }
}
