//! The discrete-event engine: when every command of a trace issues.
//!
//! Channels are independent between two syncs. Each is a component with its own clock; a priority queue holds the
//! cycle at which each can do something next, and the earliest goes on until it is a quantum ahead of the others,
//! needs records, or is done. Records are read only as channels need them, so memory does not grow with the trace.
//!
//! Order is total: a channel's commands in time, ties by the older request; channels by (cycle, id). Cycles count
//! from 0; a run's length is the cycle at which its last result is there.
//!
//! `compat` is another engine, with the reference's clock and order, for systems that ask for it. Both look up work that
//! recurs ([`replay_cache`]), unless the plain engine is asked for.

mod channel;
mod compat;
mod pim;
pub mod probe;
pub mod replay_cache;
mod segments;
pub mod state;

use pimattn_core::addr::Geometry;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::system::Controller;
use pimattn_core::spec::{Device, System};
use pimattn_core::units::Cycle;
use pimattn_trace::{PackedRecord, Packer, Record, Request, Source, Unpacker};
use probe::Probe;

/// Why no more records are read.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Stop {
    /// A channel has enough.
    Full,
    /// All channels must meet.
    Sync,
    /// No record is left.
    End,
}

/// The input of a controller: request by request, or packed into runs over channels where the replay cache has a use for them.
struct RecordReader<'s> {
    source: &'s mut dyn Source,
    device: &'s Device,
    cancel: &'s Cancel,
    geometry: Geometry,
    /// Whether records are read packed, and whether they are packed further than they come.
    packed: bool,
    packs: bool,
    records: Vec<Record>,
    raw: Vec<PackedRecord>,
    packer: Packer,
    items: Vec<PackedRecord>,
    at: usize,
    /// Records that come before the others, the last one first.
    back: Vec<PackedRecord>,
    apart: Unpacker,
    ended: bool,
    requests: u64,
}

impl<'s> RecordReader<'s> {
    fn new(source: &'s mut dyn Source, device: &'s Device, packed: bool, cancel: &'s Cancel) -> Self {
        let geometry = source.header().geometry;
        RecordReader {
            source,
            device,
            cancel,
            geometry,
            packed,
            packs: packed,
            records: Vec::new(),
            raw: Vec::new(),
            packer: Packer::default(),
            items: Vec::new(),
            at: 0,
            back: Vec::new(),
            apart: Unpacker::default(),
            ended: false,
            requests: 0,
        }
    }

    /// The next request, run or label.
    #[inline]
    fn next(&mut self) -> Result<Option<Record>> {
        if self.packed {
            return self.next_unpacked();
        }
        if self.at == self.records.len() {
            self.cancel.check()?;
            self.at = 0;
            self.records.clear();
            if self.ended || !self.source.next_block(&mut self.records)? {
                self.ended = true;
                return Ok(None);
            }
            let requests = self.records.iter().filter_map(|r| if let Record::Request(r) = r { Some(r) } else { None });
            multiplies_for_no_more(self.device, requests)?;
        }
        self.at += 1;
        Ok(Some(self.records[self.at - 1]))
    }

    /// The next record of those that are read packed.
    fn next_unpacked(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.apart.next(&self.geometry) {
                return Ok(Some(record));
            }
            let Some(item) = self.next_packed()? else { return Ok(None) };
            if let Some(record) = self.apart.begin(item) {
                return Ok(Some(record));
            }
        }
    }

    /// The next packed record, where [`RecordReader::takes_runs`].
    fn next_packed(&mut self) -> Result<Option<PackedRecord>> {
        if let Some(item) = self.back.pop() {
            return Ok(Some(item));
        }
        while self.at == self.items.len() {
            self.cancel.check()?;
            self.at = 0;
            self.items.clear();
            if self.ended {
                return Ok(None);
            }
            self.ended = !self.source.next_packed(&mut self.raw)?;
            let requests =
                self.raw.iter().filter_map(|i| if let PackedRecord::Run(v) = i { Some(&v.request) } else { None });
            multiplies_for_no_more(self.device, requests)?;
            if !self.packs {
                std::mem::swap(&mut self.items, &mut self.raw);
                continue;
            }
            let (items, geometry) = (&mut self.items, &self.geometry);
            self.raw.drain(..).for_each(|item| self.packer.push_item(item, geometry, |item| items.push(item)));
            if self.ended {
                self.packer.flush(geometry, |item| items.push(item));
            }
        }
        self.at += 1;
        Ok(Some(self.items[self.at - 1]))
    }

    /// From now on records are read as they come: nobody has a use for longer runs.
    fn stop_packing(&mut self) {
        let (items, geometry) = (&mut self.items, &self.geometry);
        self.packer.flush(geometry, |item| items.push(item));
        self.packs = false;
    }

    /// Gives a record back, to be the next one.
    fn put_back(&mut self, item: PackedRecord) {
        self.back.push(item);
    }

    /// Whether records are read packed. Packs what is left of a run, so that [`RecordReader::next_packed`] may come next.
    fn takes_runs(&mut self) -> bool {
        let rest = self.apart.rest(&self.geometry);
        self.back.extend(rest.into_iter().rev().flatten().map(PackedRecord::Run));
        self.packed
    }
}

/// How a trace is replayed. Both come to the same, command for command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Work that recurs is simulated once ([`replay_cache`]).
    #[default]
    Fast,
    /// Every command is simulated.
    Plain,
}

/// Replays a trace on a system and returns its length in cycles. `progress` hears how many requests were read.
pub fn run<P: Probe>(
    system: &System,
    source: &mut dyn Source,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    run_with(Engine::default(), system, source, probe, progress)
}

/// [`run`] in one of the two ways.
pub fn run_with<P: Probe>(
    engine: Engine,
    system: &System,
    source: &mut dyn Source,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    run_until(&Cancel::new(), engine, system, source, probe, progress)
}

/// [`run_with`], unless `cancel` is requested: then the replay ends soon, with an error.
///
/// # Errors
/// [`Error::Data`] where the trace is damaged or for another device, what the source says, and [`Error::Interrupted`].
pub fn run_until<P: Probe>(
    cancel: &Cancel,
    engine: Engine,
    system: &System,
    source: &mut dyn Source,
    probe: &mut P,
    progress: &mut dyn FnMut(u64),
) -> Result<Cycle> {
    needs_same_geometry(system, source)?;
    needs_same_elements(system, source)?;
    needs_lanes(system, source)?;
    let reader = RecordReader::new(source, &system.device, engine == Engine::Fast, cancel);
    match system.controller {
        Controller::Pim => pim::run(system, reader, probe, progress),
        Controller::Compat => compat::run(system, reader, probe, progress),
    }
}

/// An error unless a trace is for the device of `system`.
fn needs_same_geometry(system: &System, source: &dyn Source) -> Result<()> {
    let (ours, theirs) = (system.device.geometry, source.header().geometry);
    if ours == theirs {
        return Ok(());
    }
    let what = format!("the trace is for another device: {theirs}; {} has {ours}", system.name);
    Err(Error::data("trace", what))
}

/// An error where a trace has MACs for more query heads than the units of `system` multiply a column for. Plain DRAM
/// multiplies none.
fn needs_lanes(system: &System, source: &dyn Source) -> Result<()> {
    let (ours, theirs) = (system.device.heads_per_read, source.header().heads_per_read);
    if theirs == 0 || ours == theirs || system.device.lanes == 0 {
        return Ok(());
    }
    let what = format!(
        "a column is multiplied for {theirs} query heads when it is read; for {ours} by {}: replay it with heads_per_read = {theirs} in the system, or generate it for heads_per_read = {ours}",
        system.name
    );
    Err(Error::data("trace", what))
}

/// An error where a MAC is for more query heads than the units of `device` multiply a column for.
fn multiplies_for_no_more<'r>(device: &Device, requests: impl Iterator<Item = &'r Request>) -> Result<()> {
    let most = device.heads_per_read;
    // Where units multiply for one head, the bank of a MAC means nothing.
    if most <= 1 {
        return Ok(());
    }
    for request in requests {
        let Some(plan) = device.plans[request.op as usize] else { continue };
        let heads = device.geometry.heads_of_mac(&device.geometry.decode(request.addr));
        if heads > most && device.commands[usize::from(plan.last)].says_heads() {
            let what = format!("{} for {heads} query heads; a column is multiplied for {most}", request.op.mnemonic());
            return Err(Error::data("trace", what));
        }
    }
    Ok(())
}

/// An error where a trace says that its elements are not as wide as those that the units of `system` multiply. Plain DRAM
/// multiplies none.
fn needs_same_elements(system: &System, source: &dyn Source) -> Result<()> {
    let (ours, theirs) = (system.device.element_bytes, source.header().element_bytes);
    if ours == theirs || ours == 0 || theirs == 0 {
        return Ok(());
    }
    let what = format!(
        "the trace has elements of {theirs} B; {} multiplies elements of {ours} B: replay it with element_bytes = {theirs} in the system, or generate it with elements of {ours} B (mapping.element_bytes in the workload, --bytes of tracegen attacc)",
        system.name
    );
    Err(Error::data("trace", what))
}
