//! Schema of a platform file (`configs/platform/*.toml`): GPUs, PIM devices, links, energies.

use super::schema::{GpuFile, LineFile, PimDevicesFile, PlatformFile};
use super::switches::{Switch, Switches};
use pimattn_attacc::UnitLevel;
use pimattn_core::error::Result;
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A straight line through measurements: time over bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearFit {
    /// Time in s of nothing.
    pub latency: f64,
    /// Time in s of one more byte.
    pub per_byte: f64,
}

/// Layers that follow measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct Elementwise {
    /// Bandwidth in B/s of the GPU that was measured; time per byte goes with its inverse.
    pub bandwidth: f64,
    /// Activation.
    pub activation: LinearFit,
    /// Normalisation.
    pub norm: LinearFit,
}

/// One exchange of an all-reduce, of which each device makes as many as there are others.
#[derive(Debug, Clone, PartialEq)]
pub struct AllReduce {
    /// Bandwidth in B/s of the link that was measured.
    pub link: f64,
    /// Time in s of nothing.
    pub latency: f64,
    /// Time in s of one more byte.
    pub per_byte: f64,
}

/// Tiles of matrix products, in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// Heights and widths that the first-level cache is tried with.
    pub sizes: Vec<f64>,
    /// Depth of those tiles.
    pub depth: f64,
    /// Parts that the inner dimension is cut into for the second-level cache.
    pub l2_depth_parts: f64,
    /// Height and width of a tile of registers.
    pub register: [f64; 2],
}

/// Reading pieces of a matrix that do not lie side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    /// Bytes that are fetched at least, and in multiples of which.
    pub sector: f64,
    /// Bytes of a piece from which on pieces are read at the bandwidth of products; shorter ones are read in proportion.
    pub full: f64,
    /// Bytes of a DRAM row.
    pub row: f64,
    /// Energy in pJ of opening a row.
    pub activation: f64,
    /// Time in s of ranking what a policy has read to choose, once in a layer.
    pub rank: f64,
}

/// Energies of a GPU: memories and link in pJ/b, a multiply-accumulate in pJ.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuEnergy {
    /// DRAM.
    pub dram: f64,
    /// Second-level cache.
    pub l2: f64,
    /// First-level cache.
    pub l1: f64,
    /// Registers.
    pub registers: f64,
    /// A multiply-accumulate.
    pub alu: f64,
    /// Link, also that to the PIM device.
    pub link: f64,
}

/// The GPUs, all alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// How many.
    pub devices: f64,
    /// Cores of one.
    pub cores: f64,
    /// 16-bit operations per second of one.
    pub peak: f64,
    /// DRAM bandwidth of one, B/s.
    pub bandwidth: f64,
    /// Share of the peak that products reach.
    pub compute_utilisation: f64,
    /// Share of the bandwidth that they reach.
    pub bandwidth_utilisation: f64,
    /// First-level cache of a core, B.
    pub l1: f64,
    /// Second-level cache, B.
    pub l2: f64,
    /// Link to other GPUs, both directions together, B/s.
    pub link: f64,
    /// Whether attention kernels split the cache of a head over idle cores; else a head has a thread block.
    pub split_attention: bool,
    /// Tiles.
    pub tiles: Tiles,
    /// Activation and normalisation.
    pub elementwise: Elementwise,
    /// All-reduce.
    pub all_reduce: AllReduce,
    /// Gathering.
    pub gather: Gather,
    /// Energies.
    pub energy: GpuEnergy,
}

/// For how long the PIM devices' refresh and standing power count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandingPower {
    /// For all of a step, and of the prefill: a device that holds the caches is on.
    #[default]
    Step,
    /// While it attends.
    Attention,
}

/// The PIM devices, one to a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Pim {
    /// Stacks of a device.
    pub stacks: u32,
    /// Bandwidth of a stack to the outside, B/s.
    pub bandwidth: f64,
    /// Bandwidth of the arrays over that, in co-processing: power-limited, not limited; by mode.
    gains: [[f64; 3]; 2],
    /// Link to its GPU, both directions together, B/s.
    pub link: f64,
    /// What its refresh and standing power count for.
    pub standing: StandingPower,
    /// System file of a stack.
    pub system: PathBuf,
    /// Timing preset, power-limited and not.
    timings: [String; 2],
}

impl Pim {
    /// Bandwidth of a device's arrays, B/s.
    pub fn array_bandwidth(&self, mode: UnitLevel, power_limit: bool) -> f64 {
        self.bandwidth * f64::from(self.stacks) * self.gains[usize::from(!power_limit)][mode as usize]
    }

    /// The system that a stack is, with the timing preset for this.
    pub fn stack(&self, power_limit: bool) -> Result<System> {
        System::load(&self.system, &[format!("dram.timing={}", self.timings[usize::from(!power_limit)])])
    }
}

/// GPUs, with PIM devices or without.
#[derive(Debug, Clone, PartialEq)]
pub struct Platform {
    /// Name, for reports.
    pub name: String,
    /// The GPUs.
    pub gpu: Gpu,
    /// The PIM devices.
    pub pim: Option<Pim>,
    /// What is done as the published simulators do it.
    pub switches: Switches,
}

impl Platform {
    /// Loads a platform file with overrides. Switches of the file's `[reference]` are set or unset in `switches`.
    pub fn load(file: &Path, overrides: &[String], mut switches: Switches) -> Result<Platform> {
        let doc = Document::load(file, overrides)?;
        doc.expect(PresetKind::Platform)?;
        let f: PlatformFile = doc.decode()?;
        for (key, on) in &f.reference {
            let switch = Switch::parse(key).map_err(|what| doc.error(&format!("reference.{key}"), what))?;
            switches.set(switch, *on);
        }
        f.check(&doc)?;
        let pim = f.pim.as_ref().map(|p| resolve_pim(p, &doc, switches)).transpose()?;
        Ok(Platform { name: f.name, gpu: resolve_gpu(&f.gpu), pim, switches })
    }

    /// The platform without its PIM devices.
    pub fn gpus_only(self) -> Platform {
        Platform { pim: None, ..self }
    }
}

fn resolve_gpu(g: &GpuFile) -> Gpu {
    let line = |l: &LineFile| LinearFit { latency: l.latency.value, per_byte: l.per_byte.value };
    Gpu {
        devices: g.devices.into(),
        cores: g.cores.into(),
        peak: g.peak.value,
        bandwidth: g.bandwidth.value,
        compute_utilisation: g.utilisation.compute,
        bandwidth_utilisation: g.utilisation.bandwidth,
        l1: g.l1.value,
        l2: g.l2.value,
        link: g.link.value,
        split_attention: g.split_attention,
        tiles: Tiles {
            sizes: g.tiles.sizes.iter().map(|s| f64::from(*s)).collect(),
            depth: g.tiles.depth.into(),
            l2_depth_parts: g.tiles.l2_depth_parts.into(),
            register: g.tiles.register.map(f64::from),
        },
        elementwise: Elementwise {
            bandwidth: g.elementwise.bandwidth.value,
            activation: line(&g.elementwise.activation),
            norm: line(&g.elementwise.norm),
        },
        all_reduce: AllReduce {
            link: g.all_reduce.link.value,
            latency: g.all_reduce.latency.value,
            per_byte: g.all_reduce.per_byte.value,
        },
        gather: Gather {
            sector: g.gather.sector.value,
            full: g.gather.full.value,
            row: g.gather.row.value,
            activation: g.gather.activation.value,
            rank: g.gather.rank.value,
        },
        energy: GpuEnergy {
            dram: g.energy.dram.value,
            l2: g.energy.l2.value,
            l1: g.energy.l1.value,
            registers: g.energy.registers.value,
            alu: g.energy.alu.value,
            link: g.energy.link.value,
        },
    }
}

fn resolve_pim(p: &PimDevicesFile, doc: &Document, switches: Switches) -> Result<Pim> {
    let (key, system) = match switches.has(Switch::PublishedController) {
        true => ("pim.published_system", &p.published_system),
        false => ("pim.system", &p.system),
    };
    Ok(Pim {
        stacks: p.stacks,
        bandwidth: p.bandwidth.value,
        gains: [&p.gain, &p.gain_unlimited].map(|g| UnitLevel::ALL.map(|m| g.of(m))),
        link: if switches.has(Switch::Nvlink3ToPim) { p.nvlink3.value } else { p.link.value },
        standing: p.standing,
        system: doc.resolve_path(PresetKind::System, key, system)?,
        timings: [p.timing.clone(), p.timing_unlimited.clone()],
    })
}
