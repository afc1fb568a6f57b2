//! Schema of a platform file, and what is checked of it. Every number has a unit; every table names its source.

use super::platform::StandingPower;
use pimattn_attacc::UnitLevel;
use pimattn_core::error::{Result, suggest};
use pimattn_core::spec::config::Document;
use pimattn_core::spec::quantity::{
    Bandwidth, ComputeRate, Energy, EnergyPerBit, Latency, LatencyPerByte, Quantity, Size,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// `{ latency, per_byte }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineFile {
    pub latency: Quantity<Latency>,
    pub per_byte: Quantity<LatencyPerByte>,
}

/// `[gpu.elementwise]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElementwiseFile {
    pub source: String,
    pub bandwidth: Quantity<Bandwidth>,
    pub activation: LineFile,
    pub norm: LineFile,
}

/// `[gpu.all_reduce]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllReduceFile {
    pub source: String,
    pub link: Quantity<Bandwidth>,
    pub latency: Quantity<Latency>,
    pub per_byte: Quantity<LatencyPerByte>,
}

/// `[gpu.tiles]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TilesFile {
    pub source: String,
    pub sizes: Vec<u32>,
    pub depth: u32,
    pub l2_depth_parts: u32,
    pub register: [u32; 2],
}

/// `[gpu.gather]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatherFile {
    pub source: String,
    pub sector: Quantity<Size>,
    pub full: Quantity<Size>,
    pub row: Quantity<Size>,
    pub activation: Quantity<Energy>,
    pub rank: Quantity<Latency>,
}

/// `[gpu.energy]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuEnergyFile {
    pub source: String,
    pub dram: Quantity<EnergyPerBit>,
    pub l2: Quantity<EnergyPerBit>,
    pub l1: Quantity<EnergyPerBit>,
    pub registers: Quantity<EnergyPerBit>,
    pub alu: Quantity<Energy>,
    pub link: Quantity<EnergyPerBit>,
}

/// `[gpu]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFile {
    pub source: String,
    pub devices: u32,
    pub cores: u32,
    pub peak: Quantity<ComputeRate>,
    pub bandwidth: Quantity<Bandwidth>,
    pub l1: Quantity<Size>,
    pub l2: Quantity<Size>,
    pub link: Quantity<Bandwidth>,
    /// Whether attention kernels split the cache of a head over idle cores.
    #[serde(default)]
    pub split_attention: bool,
    pub tiles: TilesFile,
    pub elementwise: ElementwiseFile,
    pub all_reduce: AllReduceFile,
    pub gather: GatherFile,
    pub energy: GpuEnergyFile,
    pub utilisation: UtilisationFile,
}

/// `[gpu.utilisation]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UtilisationFile {
    pub source: String,
    pub compute: f64,
    pub bandwidth: f64,
}

/// `[pim.gain]` and `[pim.gain_unlimited]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainFile {
    pub source: String,
    pub bank: f64,
    pub bg: f64,
    pub buffer: f64,
}

impl GainFile {
    pub fn of(&self, mode: UnitLevel) -> f64 {
        match mode {
            UnitLevel::Bank => self.bank,
            UnitLevel::BankGroup => self.bg,
            UnitLevel::Buffer => self.buffer,
        }
    }
}

/// `[pim]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct PimFile")]
pub struct PimDevicesFile {
    pub source: String,
    pub stacks: u32,
    pub bandwidth: Quantity<Bandwidth>,
    pub link: Quantity<Bandwidth>,
    pub nvlink3: Quantity<Bandwidth>,
    #[serde(default)]
    pub standing: StandingPower,
    pub system: String,
    pub published_system: String,
    pub timing: String,
    pub timing_unlimited: String,
    pub gain: GainFile,
    pub gain_unlimited: GainFile,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformFile {
    pub name: String,
    pub sources: BTreeMap<String, String>,
    pub gpu: GpuFile,
    pub pim: Option<PimDevicesFile>,
    #[serde(default)]
    pub reference: BTreeMap<String, bool>,
}

impl PlatformFile {
    /// An error at the first value that cannot be.
    pub fn check(&self, doc: &Document) -> Result<()> {
        check_sources(self, doc)?;
        check_numbers(self, doc)
    }
}

/// Every source that is named, with its key.
fn sources(f: &PlatformFile) -> Vec<(&'static str, &str)> {
    fn own<'q, D>(key: &'static str, value: &'q Quantity<D>) -> Option<(&'static str, &'q str)> {
        Some((key, value.source.as_deref()?))
    }
    let g = &f.gpu;
    let mut out: Vec<(&str, &str)> = vec![
        ("gpu", &g.source),
        ("gpu.tiles", &g.tiles.source),
        ("gpu.elementwise", &g.elementwise.source),
        ("gpu.all_reduce", &g.all_reduce.source),
        ("gpu.gather", &g.gather.source),
        ("gpu.energy", &g.energy.source),
        ("gpu.utilisation", &g.utilisation.source),
    ];
    let (lines, reduce, e) = (&g.elementwise, &g.all_reduce, &g.energy);
    let values = [
        own("gpu.peak", &g.peak),
        own("gpu.bandwidth", &g.bandwidth),
        own("gpu.l1", &g.l1),
        own("gpu.l2", &g.l2),
        own("gpu.link", &g.link),
        own("gpu.elementwise.bandwidth", &lines.bandwidth),
        own("gpu.elementwise.activation.latency", &lines.activation.latency),
        own("gpu.elementwise.activation.per_byte", &lines.activation.per_byte),
        own("gpu.elementwise.norm.latency", &lines.norm.latency),
        own("gpu.elementwise.norm.per_byte", &lines.norm.per_byte),
        own("gpu.all_reduce.link", &reduce.link),
        own("gpu.all_reduce.latency", &reduce.latency),
        own("gpu.all_reduce.per_byte", &reduce.per_byte),
        own("gpu.gather.sector", &g.gather.sector),
        own("gpu.gather.full", &g.gather.full),
        own("gpu.gather.row", &g.gather.row),
        own("gpu.gather.activation", &g.gather.activation),
        own("gpu.gather.rank", &g.gather.rank),
        own("gpu.energy.dram", &e.dram),
        own("gpu.energy.l2", &e.l2),
        own("gpu.energy.l1", &e.l1),
        own("gpu.energy.registers", &e.registers),
        own("gpu.energy.alu", &e.alu),
        own("gpu.energy.link", &e.link),
    ];
    out.extend(values.into_iter().flatten());
    if let Some(p) = &f.pim {
        out.extend([
            ("pim", p.source.as_str()),
            ("pim.gain", &p.gain.source),
            ("pim.gain_unlimited", &p.gain_unlimited.source),
        ]);
        let values = [own("pim.bandwidth", &p.bandwidth), own("pim.link", &p.link), own("pim.nvlink3", &p.nvlink3)];
        out.extend(values.into_iter().flatten());
    }
    out
}

fn check_sources(f: &PlatformFile, doc: &Document) -> Result<()> {
    for (key, source) in sources(f) {
        if source != "assumed" && !f.sources.contains_key(source) {
            let hint = suggest(source, f.sources.keys().map(String::as_str).chain(["assumed"]));
            return Err(doc.error(&format!("{key}.source"), format!("unknown source \"{source}\"{hint}")));
        }
    }
    Ok(())
}

/// What must be positive is, and shares are shares.
fn check_numbers(f: &PlatformFile, doc: &Document) -> Result<()> {
    let g = &f.gpu;
    let mut positive = vec![
        ("gpu.devices", f64::from(g.devices)),
        ("gpu.cores", f64::from(g.cores)),
        ("gpu.peak", g.peak.value),
        ("gpu.bandwidth", g.bandwidth.value),
        ("gpu.link", g.link.value),
        ("gpu.all_reduce.link", g.all_reduce.link.value),
        ("gpu.elementwise.bandwidth", g.elementwise.bandwidth.value),
        ("gpu.gather.sector", g.gather.sector.value),
        ("gpu.gather.full", g.gather.full.value),
        ("gpu.gather.row", g.gather.row.value),
        ("gpu.tiles.l2_depth_parts", f64::from(g.tiles.l2_depth_parts)),
        ("gpu.tiles.register[0]", f64::from(g.tiles.register[0])),
        ("gpu.tiles.register[1]", f64::from(g.tiles.register[1])),
        ("gpu.tiles.sizes", g.tiles.sizes.iter().min().map_or(0.0, |s| f64::from(*s))),
    ];
    if let Some(p) = &f.pim {
        positive.extend([
            ("pim.stacks", f64::from(p.stacks)),
            ("pim.bandwidth", p.bandwidth.value),
            ("pim.link", p.link.value),
            ("pim.nvlink3", p.nvlink3.value),
        ]);
        for (key, gains) in [("pim.gain", &p.gain), ("pim.gain_unlimited", &p.gain_unlimited)] {
            positive.extend(UnitLevel::ALL.map(|m| (key, gains.of(m))));
        }
    }
    if let Some((key, n)) = positive.into_iter().find(|(_, n)| !n.is_finite() || *n <= 0.0) {
        return Err(doc.error(key, format!("{key} is {n}; it must be more than 0")));
    }
    for (key, share) in [("compute", g.utilisation.compute), ("bandwidth", g.utilisation.bandwidth)] {
        if !(share > 0.0 && share <= 1.0) {
            return Err(doc.error(&format!("gpu.utilisation.{key}"), format!("{share} is not a share of (0, 1]")));
        }
    }
    Ok(())
}
