//! Every command in RAM2BIN 1.1, the format of the viewer of Ramulator 2.1 (CMU-SAFARI/ramulator2,
//! `src/ramulator/controller/plugin/impl/bin_trace_recorder.cpp` and `visualizer/`): levels, commands and timings by
//! name, then columns of 64-bit cycles, ids and addresses. One file a channel, as there: `NAME.chN.ram2bin`.
//!
//! The viewer draws ranks directly below the channel, so pseudo-channels and ranks are one level here, `Rank`.

use super::TimelineWindow;
use pimattn_core::addr::{Address, Geometry, NOT_ADDRESSED};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::op::Op;
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::{Command, Device, Scope};
use pimattn_core::spool::{Spool, Spooled};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandEvent, NO_REQUEST, Probe};
use pimattn_trace::Segment;
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Ending of a file's name.
pub const ENDING: &str = "ram2bin";
/// The levels of an address.
const LEVELS: [&str; 6] = ["Channel", "Rank", "BankGroup", "Bank", "Row", "Column"];
/// Columns of a command: clk, arrive, cmd_id, type_id, source_id, and its address.
const COLUMNS: usize = 5 + LEVELS.len();
/// Bytes of the header.
const HEADER: usize = 64;
/// In a column of numbers: there is none.
const NONE: i32 = -1;
/// Segments that are over and may still be asked for.
const KEPT: usize = 16;

/// What is known of a channel.
#[derive(Default)]
struct ChannelCommands {
    /// Commands written.
    entries: u64,
    /// KV heads of the last segments, and the number of the first of them.
    heads: VecDeque<i16>,
    first: u32,
    /// Requests that have begun and are not complete, each with the cycle of its first command.
    begun: VecDeque<(u64, Cycle)>,
}

impl ChannelCommands {
    /// The KV head of a segment; none for work of none.
    fn head(&self, segment: u32) -> i16 {
        let index = segment.checked_sub(self.first.max(1));
        index.and_then(|i| self.heads.get(i as usize)).copied().unwrap_or(NONE as i16)
    }

    /// The cycle of the first command of the request that a command serves.
    fn begin(&mut self, e: &CommandEvent) -> Cycle {
        let place = self.begun.iter().position(|(request, _)| *request == e.request);
        let begin = place.map_or(e.cycle, |i| self.begun[i].1);
        match (place, e.completes) {
            (Some(i), Some(_)) => drop(self.begun.remove(i)),
            (None, None) => self.begun.push_back((e.request, e.cycle)),
            (Some(_), None) | (None, Some(_)) => {}
        }
        begin
    }
}

/// Writes the commands of a window. An error is kept for [`Ram2bin::finish`].
pub struct Ram2bin<'s> {
    path: PathBuf,
    device: &'s Device,
    window: TimelineWindow,
    spool: Spool,
    channels: Vec<ChannelCommands>,
    error: Option<Error>,
}

impl<'s> Ram2bin<'s> {
    /// Files beside `path`, which ends in `.ram2bin`.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder of `path` takes no file.
    pub fn create(path: &Path, device: &'s Device, window: TimelineWindow) -> Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let n = device.geometry.channels as usize;
        Ok(Ram2bin {
            path: path.into(),
            device,
            window,
            spool: Spool::new(folder, n * COLUMNS)?,
            channels: (0..n).map(|_| ChannelCommands::default()).collect(),
            error: None,
        })
    }

    /// The file of a channel.
    pub fn file(path: &Path, channel: usize) -> PathBuf {
        path.with_extension(format!("ch{channel}.{ENDING}"))
    }

    /// Puts the files in their places.
    ///
    /// # Errors
    /// [`Error::Io`] of anything that was written.
    pub fn finish(mut self) -> Result<()> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        let mut spooled = self.spool.finish()?;
        let mut files = Vec::with_capacity(self.channels.len());
        for (channel, commands) in self.channels.iter().enumerate() {
            let path = Ram2bin::file(&self.path, channel);
            let mut out = Output::create(&path)?;
            let head = head(self.device, channel as u32, commands.entries);
            out.write_all(&head).map_err(|e| Error::io(&path, e))?;
            columns(&mut spooled, channel, &mut out, &path)?;
            files.push(out);
        }
        files.into_iter().try_for_each(Output::commit)
    }

    fn put(&mut self, e: &CommandEvent) -> Result<()> {
        let channel = e.address.channel as usize;
        let command = &self.device.commands[usize::from(e.command)];
        let commands = &mut self.channels[channel];
        // Only a refresh, and what closes rows for it, serves no request.
        let of_request = e.request != NO_REQUEST || e.segment != 0 || e.completes.is_some();
        let (arrive, kind) = match of_request {
            true if e.request == NO_REQUEST => (e.cycle as i64, e.phase as i8),
            true => (commands.begin(e) as i64, e.phase as i8),
            false => (i64::from(NONE), NONE as i8),
        };
        let source = commands.head(e.segment);
        if !self.window.contains(e.cycle) {
            return Ok(());
        }
        commands.entries += 1;
        let first = channel * COLUMNS;
        self.spool.write(first, &(e.cycle as i64).to_le_bytes())?;
        self.spool.write(first + 1, &arrive.to_le_bytes())?;
        self.spool.write(first + 2, &[e.command])?;
        self.spool.write(first + 3, &kind.to_le_bytes())?;
        self.spool.write(first + 4, &source.to_le_bytes())?;
        let address = address(command, &e.address, &self.device.geometry);
        (first + 5..).zip(address).try_for_each(|(stream, field)| self.spool.write(stream, &field.to_le_bytes()))
    }
}

/// The columns of a channel, in their order.
fn columns(spooled: &mut Spooled, channel: usize, out: &mut Output, path: &Path) -> Result<()> {
    (channel * COLUMNS..).take(COLUMNS).try_for_each(|stream| spooled.copy(stream, out, path))
}

/// The address by level; [`NONE`] where a command reaches all of a level, or has no use for it.
fn address(command: &Command, a: &Address, g: &Geometry) -> [i32; LEVELS.len()] {
    let field = |n: u32| if n == NOT_ADDRESSED { NONE } else { n as i32 };
    let rank = match (a.pseudo_channel, a.rank) {
        (NOT_ADDRESSED, _) | (_, NOT_ADDRESSED) => NONE,
        (pc, rank) => (pc * g.ranks + rank) as i32,
    };
    let (bank_group, bank) = (field(a.bank_group), field(a.bank));
    let [rank, bank_group, bank] = match command.scope {
        Scope::Channel => [NONE; 3],
        Scope::Rank => [rank, NONE, NONE],
        Scope::BankGroup => [rank, bank_group, NONE],
        Scope::SameBank => [NONE, NONE, bank],
        Scope::PerBank => [NONE, bank_group, bank],
        Scope::Bank => [rank, bank_group, bank],
    };
    let effect = command.effect;
    let row = if effect.closes() || effect.refreshes() { NONE } else { field(a.row) };
    let column = if effect.is_row_command() || effect.refreshes() { NONE } else { field(a.column) };
    // The only channel of its file.
    [0, rank, bank_group, bank, row, column]
}

/// Properties of a command that the viewer takes colours and lanes from, a bit each.
fn flags(command: &Command) -> u8 {
    let e = command.effect;
    let bits =
        [e.opens(), e.closes(), e.needs_row(), e.refreshes(), command.bus == Bus::Row, command.bus == Bus::Column];
    bits.iter().enumerate().map(|(i, bit)| u8::from(*bit) << i).sum()
}

/// Header and description of the device.
fn head(device: &Device, channel: u32, entries: u64) -> Vec<u8> {
    let g = &device.geometry;
    let timing = |name: &str| device.timings.get(name).copied();
    // A column is a burst of so many transfers, two a cycle.
    let column_bits = g.column_bytes * 8;
    let burst = timing("nBL").map(|n| 2 * n as u32).filter(|n| *n > 0 && column_bits.is_multiple_of(*n)).unwrap_or(1);
    let width = (column_bits / burst) as u16;
    let read = device.plans[Op::Ld as usize].map_or(0, |plan| device.commands[usize::from(plan.last)].done);
    let mut out = Vec::new();
    out.extend_from_slice(b"RAM2BIN\0\x01\x01\0\0");
    let counts = [LEVELS.len(), device.commands.len(), device.timings.len()];
    counts.iter().for_each(|n| out.extend_from_slice(&(*n as u16).to_le_bytes()));
    [width, burst as u16, width].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    out.extend_from_slice(&channel.to_le_bytes());
    out.extend_from_slice(&(read as i32).to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    let data_offset_at = out.len();
    out.extend_from_slice(&[0; 8]);
    let mut name = [0; 16];
    let ascii = device.name.bytes().filter(u8::is_ascii_graphic);
    name.iter_mut().take(15).zip(ascii).for_each(|(to, from)| *to = from);
    out.extend_from_slice(&name);
    debug_assert_eq!(out.len(), HEADER);

    let text = |out: &mut Vec<u8>, name: &str| {
        out.extend(name.bytes().filter(|b| *b != 0));
        out.push(0);
    };
    LEVELS.iter().for_each(|name| text(&mut out, name));
    // A file is of one channel, whose number is in the header.
    let sizes = [1, g.pseudo_channels * g.ranks, g.bank_groups, g.banks, g.rows, g.columns];
    sizes.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    device.commands.iter().for_each(|c| text(&mut out, &c.name));
    out.extend(device.commands.iter().map(flags));
    out.extend(device.commands.iter().map(|_| 1u8));
    device.timings.keys().for_each(|name| text(&mut out, name));
    device.timings.values().for_each(|n| out.extend_from_slice(&(*n as i32).to_le_bytes()));
    out.resize(out.len().next_multiple_of(8), 0);
    let data_offset = out.len() as u64;
    out[data_offset_at..data_offset_at + 8].copy_from_slice(&data_offset.to_le_bytes());
    out
}

impl Probe for Ram2bin<'_> {
    fn command(&mut self, e: &CommandEvent) {
        if e.cycle >= self.window.end() {
            return;
        }
        if let Err(e) = self.put(e) {
            self.error.get_or_insert(e);
        }
    }

    fn segment_begin(&mut self, id: u32, segment: &Segment) {
        let commands = &mut self.channels[segment.channel as usize];
        if commands.heads.is_empty() {
            commands.first = id;
        }
        match i16::try_from(segment.kv_head) {
            Ok(head) => commands.heads.push_back(head),
            Err(_) => {
                let what = format!("KV head {} is beyond the 32767 that RAM2BIN can name", segment.kv_head);
                self.error.get_or_insert(Error::data("trace", what));
                commands.heads.push_back(NONE as i16);
            }
        }
    }

    fn segment_end(&mut self, channel: u32, id: u32, _: Cycle) {
        let commands = &mut self.channels[channel as usize];
        while commands.heads.len() > KEPT && commands.first + (KEPT as u32) < id {
            commands.heads.pop_front();
            commands.first += 1;
        }
    }
}
