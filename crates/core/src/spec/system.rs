//! Schema of a system file (`configs/system/*.toml`) and the loaded system.

use super::config::Document;
use super::device::{ConstraintSet, DeviceFile, PowerPolicy};
use super::quantity::Duration;
use super::refresh::Refreshes;
pub use super::refresh::{Refresh, RefreshOrder, RefreshRate};
use super::resolve::{Budget, DeviceSelection};
use super::tables::Device;
use crate::error::{Error, Result};
use crate::order::{AddressMap, AddressOrder};
use crate::presets::PresetKind;
use serde::Deserialize;
use std::path::Path;

/// Which controller schedules a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Every channel an independent stream; all constraints hold.
    #[serde(alias = "faithful")]
    Pim,
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

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadsFile {
    depth: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct WritesFile {
    depth: Option<u32>,
    high: f64,
    low: f64,
}

/// When reads make way for writes, which wait in a queue of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WriteDrain {
    /// Writes of one channel that its controller looks at.
    pub depth: u32,
    /// Writes waiting at which they go first, as a share of `depth`.
    pub high: f64,
    /// Writes waiting at which reads go first again, as a share of `depth`.
    pub low: f64,
}

/// Which of the reads and writes that can issue at the same cycle does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssueOrder {
    /// The oldest.
    #[default]
    Oldest,
    /// That of the bank which comes next after the bank of the last command; of one bank, the oldest.
    BanksInTurn,
    /// While no more than 16 requests of a channel wait and no queue is full, whichever makes the last result of all
    /// sooner: a read before a write for which the bus would turn round, a bank with more rows to come before one with
    /// fewer. Else the oldest. Not where reads and writes take turns.
    Weighed,
}

/// Who may close the row of a bank for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closes {
    /// The oldest read, or write, to the bank.
    #[default]
    Oldest,
    /// Whichever can first, whatever older ones hit the row; but not while one waits for which it was opened.
    FirstReady,
}

/// Rules for reads and writes beyond first-ready, first-come: where published controllers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheduler {
    /// Which goes first of those that can issue at the same cycle.
    pub order: IssueOrder,
    /// Who may close a row.
    pub closes: Closes,
    /// Whether a request leaves its queue when a row is opened for it, and makes room for another one.
    pub opened_leave: bool,
    /// Accesses to an open row after which the oldest request may close it though younger ones would still hit it;
    /// without it, it may at once.
    pub row_hits: Option<u32>,
    /// Requests of each bank that wait in a queue of the bank, which the common ones feed: from these the next command is
    /// chosen, of reads and writes alike.
    pub bank_depth: Option<u32>,
    /// Requests of a channel that move to the banks' queues in a clock, to have a command from the next one on; without
    /// it, as many as there are places.
    pub bank_feed: Option<u32>,
    /// Writes above which they go to the banks' queues when those are empty, though reads wait; without it, only where no
    /// read waits, or as `writes.high` says.
    pub idle_writes: Option<u32>,
    /// Whether a read gets what an older write that still waits brings; else that write goes as if it were a read.
    pub forward: bool,
    /// Whether a read that is asked for again while it waits is read once for all who ask.
    pub merge: bool,
    /// Whether only the bank that comes next in turn may have a second command in a clock: for the other bus, else none
    /// has, and it loses its turn. With `order = "banks-in-turn"`.
    pub loses_turn: bool,
    /// Whether row and column commands share one command bus.
    pub one_bus: bool,
    /// Whether a row that was opened for a read or write is closed when no request waits for its bank and none can have
    /// a command in that clock.
    pub closes_idle: bool,
    /// Whether reads and writes go on while a refresh waits, rows opening for them, until all banks that it needs are
    /// closed at a time, each as soon as it can be; at most until eight refreshes of every bank are due (JEDEC).
    pub works_until_refresh: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DramFile {
    device: String,
    organisation: String,
    timing: String,
    /// Keys of the device file with another value. `organisation` and `timing` are those chosen; a command goes by its name.
    #[serde(default)]
    set: toml::Table,
}

impl DramFile {
    /// Gives a device file the values that the system has for it. Where it lacks what the system chooses of it, that is an
    /// error of the choice, which says so later.
    fn change(&self, device: &mut Document, doc: &Document) -> Result<()> {
        let mut rest = self.set.clone();
        for (kind, chosen) in [("organisation", &self.organisation), ("timing", &self.timing)] {
            match rest.remove(kind) {
                Some(toml::Value::Table(values)) => {
                    device.replace_in(&[kind, chosen], &values, doc, &format!("dram.set.{kind}"))?;
                }
                Some(_) => return Err(doc.error(&format!("dram.set.{kind}"), format!("{kind} is a table of keys"))),
                None => {}
            }
        }
        device.replace_in(&[], &rest, doc, "dram.set")
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SystemFile {
    name: String,
    channels: u32,
    controller: Controller,
    queue_depth: u32,
    address_order: Option<String>,
    refresh: Refresh,
    refresh_order: Option<RefreshOrder>,
    refresh_rate: Option<RefreshRate>,
    power: PowerPolicy,
    energy: EnergyModel,
    reads: Option<ReadsFile>,
    writes: Option<WritesFile>,
    scheduler: Option<Scheduler>,
    issue_interval: Option<Duration>,
    /// Bytes of an element of what the units multiply.
    element_bytes: Option<u32>,
    /// Query heads for which a unit multiplies a column that it reads once.
    heads_per_read: Option<u32>,
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
    /// Reads, writes and buffer moves of one channel that its controller looks at, each; see also [`System::row_depth`].
    pub queue_depth: u32,
    /// The order of the fields of addresses in traces of plain DRAM that do not say their device.
    pub address_order: AddressOrder,
    /// Reads of one channel that its controller looks at, where reads and writes have a queue each.
    pub read_depth: u32,
    /// Refresh.
    pub refresh: Refresh,
    /// The refreshes of a channel; none where it has none.
    pub refreshes: Option<Refreshes>,
    /// Energy model.
    pub energy: EnergyModel,
    /// Whether reads and writes have a queue each and take turns; else the first ready of both goes first.
    pub writes: Option<WriteDrain>,
    /// How reads and writes are scheduled.
    pub scheduler: Scheduler,
    /// Cycles between the arrivals of a channel's requests; without it they are all there from the beginning.
    pub issue_interval: Option<f64>,
    /// The device, resolved.
    pub device: Device,
    /// The system file with overrides, as TOML.
    pub settings: String,
}

impl System {
    /// Openings of rows that the PIM controller looks at in one channel, and as many closings: those of four rounds of
    /// 16 bank groups (assumed), so that no bank waits because the controller has not come to its request.
    pub fn row_depth(&self) -> u32 {
        self.queue_depth.max(64)
    }

    /// MACs of one channel for whose rows the PIM controller looks (assumed). They issue in order.
    pub fn mac_depth(&self) -> u32 {
        self.queue_depth.max(512)
    }

    /// Buffer moves of one channel that the PIM controller holds, so that the rows behind them are in sight (assumed).
    pub fn move_depth(&self) -> u32 {
        self.queue_depth.max(1024)
    }

    /// How the addresses of a trace are to be read that does not say its device.
    pub fn addressing(&self) -> AddressMap {
        AddressMap { geometry: self.device.geometry, order: self.address_order }
    }

    /// Loads a system file with overrides, and the device file that it names.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self> {
        let doc = Document::load(file, overrides)?;
        doc.expect(PresetKind::System)?;
        Self::from_document(&doc, |device| device_document(&doc, device))
    }

    /// A system from the text of a system file and that of a device file, whatever `dram.device` of the one says.
    ///
    /// # Errors
    /// [`Error::Config`] as from [`System::load`]; the place is `system:LINE` or `device:LINE`.
    pub fn from_toml(system: &str, device: &str) -> Result<Self> {
        let doc = Document::parse(Path::new("system"), system, &[])?;
        Self::from_document(&doc, |_| Document::parse(Path::new("device"), device, &[]))
    }

    fn from_document(doc: &Document, device_of: impl FnOnce(&str) -> Result<Document>) -> Result<Self> {
        let s: SystemFile = doc.decode()?;
        let depth = |key: &str, depth: u32| match depth {
            1..=1024 => Ok(depth),
            _ => Err(doc.error(key, format!("{key} = {depth} is not in 1..=1024"))),
        };
        depth("queue_depth", s.queue_depth)?;
        let order = s.address_order.as_deref().map(str::parse).transpose();
        let address_order = order.map_err(|e| doc.error("address_order", e))?.unwrap_or_default();
        let constraints = match s.controller {
            Controller::Pim => ConstraintSet::Completed,
            Controller::Compat => ConstraintSet::Reference,
        };
        if s.controller == Controller::Compat && s.power != PowerPolicy::Ignore {
            return Err(
                doc.error("power", "the compat controller supports only power = \"ignore\", as its reference does")
            );
        }
        let only_pim = [
            ("reads", s.reads.is_some()),
            ("writes", s.writes.is_some()),
            ("scheduler", s.scheduler.is_some()),
            ("issue_interval", s.issue_interval.is_some()),
            ("refresh_order", s.refresh_order.is_some()),
            ("refresh_rate", s.refresh_rate.is_some()),
        ];
        if let Some((key, _)) = only_pim.iter().find(|(_, given)| *given && s.controller == Controller::Compat) {
            return Err(doc.error(key, format!("the compat controller has no {key}: it does as its reference does")));
        }
        if s.controller == Controller::Compat && !matches!(s.refresh, Refresh::AllBank | Refresh::None) {
            let what = "the compat controller supports \"all-bank\" or \"none\" only, as its reference does";
            return Err(doc.error("refresh", what));
        }
        if s.reads.is_some() && s.writes.is_none() {
            let why = "without [writes], reads and writes share a queue of queue_depth requests";
            return Err(doc.error("reads", why));
        }
        let read_depth = depth("reads.depth", s.reads.and_then(|r| r.depth).unwrap_or(s.queue_depth))?;
        let scheduler = s.scheduler.unwrap_or_default();
        if scheduler.order == IssueOrder::Weighed && s.writes.is_some() {
            let why = "\"weighed\" needs a system without [writes]: reads and writes that take turns are not weighed";
            return Err(doc.error("scheduler.order", why));
        }
        depth("scheduler.bank_depth", scheduler.bank_depth.unwrap_or(1))?;
        depth("scheduler.row_hits", scheduler.row_hits.unwrap_or(1))?;
        if scheduler.loses_turn && scheduler.order != IssueOrder::BanksInTurn {
            let why = "needs order = \"banks-in-turn\": otherwise no bank has a turn to lose";
            return Err(doc.error("scheduler.loses_turn", why));
        }
        depth("scheduler.bank_feed", scheduler.bank_feed.unwrap_or(1))?;
        depth("scheduler.idle_writes", scheduler.idle_writes.unwrap_or(1))?;
        let of_banks = [("bank_feed", scheduler.bank_feed), ("idle_writes", scheduler.idle_writes)];
        let alone = |(_, given): &&(&str, Option<u32>)| given.is_some() && scheduler.bank_depth.is_none();
        if let Some((key, _)) = of_banks.iter().find(alone) {
            let why = "without bank_depth, no request moves to a queue of its bank";
            return Err(doc.error(&format!("scheduler.{key}"), why));
        }
        if scheduler.bank_depth.is_some() && s.writes.is_some() && !scheduler.forward {
            let why = "needs forward: requests reach their banks out of order, and a read must not pass the write of its data";
            return Err(doc.error("scheduler.bank_depth", why));
        }
        let writes = match s.writes {
            None => None,
            Some(w) if !(0.0 <= w.low && w.low < w.high && w.high <= 1.0) => {
                return Err(doc.error("writes", format!("not 0 <= low = {} < high = {} <= 1", w.low, w.high)));
            }
            Some(WritesFile { depth: own, high, low }) => {
                Some(WriteDrain { depth: depth("writes.depth", own.unwrap_or(s.queue_depth))?, high, low })
            }
        };
        let mut device_doc = device_of(&s.dram.device)?;
        s.dram.change(&mut device_doc, doc)?;
        let device_file: DeviceFile = device_doc.decode()?;
        let selection = DeviceSelection {
            organisation: &s.dram.organisation,
            timing: &s.dram.timing,
            channels: s.channels,
            power: s.power,
            element_bytes: s.element_bytes,
            heads_per_read: s.heads_per_read,
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
            address_order,
            read_depth,
            refresh: s.refresh,
            refreshes,
            energy: s.energy,
            writes,
            scheduler,
            issue_interval: s.issue_interval.map(|d| d.in_cycles(device.clock)),
            device,
            settings: doc.canonical(),
        })
    }
}

/// The device file that a system file names.
fn device_document(doc: &Document, device: &str) -> Result<Document> {
    Document::load(&doc.resolve_path(PresetKind::Device, "dram.device", device)?, &[]).map_err(|e| match e {
        Error::Io { path, source } => doc.error("dram.device", format!("{}: {source}", path.display())),
        other => other,
    })
}
