//! Schema of a system file (`configs/system/*.toml`) and the loaded system.

use super::config::Document;
use super::device::{ConstraintSet, DeviceFile, PowerPolicy};
use super::quantity::Duration;
use super::refresh::Refreshes;
pub use super::refresh::{Refresh, RefreshOrder, RefreshRate};
use super::resolve::{Budget, Device, Selection};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// Which controller schedules a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Every channel an independent stream; all constraints hold.
    Faithful,
    /// AttAcc's Ramulator, cycle by cycle: one in-order stream feeds all channels; only its own constraints hold.
    Compat,
}

/// How energy is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnergyModel {
    /// Each command costs what it does; activations count in full.
    PerCommand,
    /// AttAcc: every byte of a MAC column pays a share of a fully used activation; no refresh, no background.
    PerByte,
}

/// When reads make way for writes: shares of `queue_depth`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteDrain {
    /// Writes waiting at which they go first.
    pub high: f64,
    /// Writes waiting at which reads go first again.
    pub low: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DramFile {
    device: String,
    organisation: String,
    timing: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SystemFile {
    name: String,
    channels: u32,
    controller: Controller,
    queue_depth: u32,
    refresh: Refresh,
    refresh_order: Option<RefreshOrder>,
    refresh_rate: Option<RefreshRate>,
    power: PowerPolicy,
    energy: EnergyModel,
    writes: Option<WriteDrain>,
    issue_interval: Option<Duration>,
    /// Bytes of an element of what the units multiply.
    element_bytes: Option<u32>,
    #[serde(default)]
    power_budget: Budget,
    dram: DramFile,
}

/// A loaded system: what a trace is replayed on.
#[derive(Debug, Clone)]
pub struct System {
    /// Name, for reports.
    pub name: String,
    /// The controller.
    pub controller: Controller,
    /// Requests of one channel that its controller looks at.
    pub queue_depth: u32,
    /// Refresh.
    pub refresh: Refresh,
    /// The refreshes of a channel; none where it has none.
    pub refreshes: Option<Refreshes>,
    /// Energy model.
    pub energy: EnergyModel,
    /// Whether reads and writes take turns; else the first ready of both goes first.
    pub writes: Option<WriteDrain>,
    /// Cycles between the arrivals of a channel's requests; without it they are all there from the beginning.
    pub issue_interval: Option<f64>,
    /// The device, resolved.
    pub device: Device,
}

impl System {
    /// Loads a system file with overrides, and the device file that it names.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self> {
        Self::from_document(&Document::load(file, overrides)?)
    }

    fn from_document(doc: &Document) -> Result<Self> {
        let s: SystemFile = doc.decode()?;
        if !(1..=1024).contains(&s.queue_depth) {
            return Err(doc.error("queue_depth", format!("queue_depth = {} is not in 1..=1024", s.queue_depth)));
        }
        let constraints = match s.controller {
            Controller::Faithful => ConstraintSet::Completed,
            Controller::Compat => ConstraintSet::Reference,
        };
        if s.controller == Controller::Compat && s.power != PowerPolicy::Ignore {
            return Err(
                doc.error("power", "the compat controller knows power = \"ignore\" only, as its reference does")
            );
        }
        if let Some(w) = s.writes
            && !(0.0 <= w.low && w.low < w.high && w.high <= 1.0)
        {
            return Err(doc.error("writes", format!("not 0 <= low = {} < high = {} <= 1", w.low, w.high)));
        }
        let only_faithful = [
            ("writes", s.writes.is_some()),
            ("issue_interval", s.issue_interval.is_some()),
            ("refresh_order", s.refresh_order.is_some()),
            ("refresh_rate", s.refresh_rate.is_some()),
        ];
        if let Some((key, _)) = only_faithful.iter().find(|(_, given)| *given && s.controller == Controller::Compat) {
            return Err(doc.error(key, format!("the compat controller has no {key}: its reference has its own way")));
        }
        if s.controller == Controller::Compat && !matches!(s.refresh, Refresh::AllBank | Refresh::None) {
            let what = "the compat controller refreshes \"all-bank\" or \"none\" only, as its reference does";
            return Err(doc.error("refresh", what));
        }
        let device_path = doc.resolve_path("dram.device", &s.dram.device);
        let device_doc = Document::load(&device_path, &[]).map_err(|e| match e {
            Error::NoInput(p) => doc.error("dram.device", format!("device file {} does not exist", p.display())),
            Error::Io { path, source } => doc.error("dram.device", format!("{}: {source}", path.display())),
            other => other,
        })?;
        let device_file: DeviceFile = device_doc.decode()?;
        let selection = Selection {
            organisation: &s.dram.organisation,
            timing: &s.dram.timing,
            channels: s.channels,
            power: s.power,
            element_bytes: s.element_bytes,
            budget: &s.power_budget,
            constraints,
            refresh_rate: s.refresh_rate.unwrap_or_default(),
        };
        let device = Device::resolve(&device_file, &device_doc, &selection, doc)?;
        let refreshes = Refreshes::of(&device, s.refresh, s.refresh_order, doc)?;
        Ok(System {
            name: s.name,
            controller: s.controller,
            queue_depth: s.queue_depth,
            refresh: s.refresh,
            refreshes,
            energy: s.energy,
            writes: s.writes,
            issue_interval: s.issue_interval.map(|d| d.in_cycles(device.clock)),
            device,
        })
    }
}
