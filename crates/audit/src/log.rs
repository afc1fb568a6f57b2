//! Reads command logs, ours and Ramulator's, line by line: `clock, command, channel, pseudo-channel, rank, bank group,
//! bank, row, column`, with -1 for what is not addressed; ours with the request that the command serves behind it, then,
//! where a command works in some bank groups only, these as a hexadecimal set (they count over the channel), and with
//! marks where requests may go on.

use pimattn_core::addr::{Geometry, NOT_ADDRESSED};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio;
use pimattn_core::spec::{CommandId, Device};
use pimattn_core::units::Cycle;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that a log may have.
const LINE: u64 = 256;
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a compressed log, as a power of two: bounds the memory that a hostile one can ask for.
const ZSTD_WINDOW: u32 = 27;
/// Lines between two looks at the cancel token.
const BREATH: u64 = 1 << 16;

/// What lets the requests behind it go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogMark {
    /// The results ahead of it are there.
    Barrier,
    /// The host has done its work.
    Host,
    /// All channels have met.
    Sync,
    /// The trace says that requests arrive from then on.
    Arrival,
}

impl LogMark {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            LogMark::Barrier => "BARRIER",
            LogMark::Host => "HOST",
            LogMark::Sync => "SYNC",
            LogMark::Arrival => "ARRIVAL",
        }
    }
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEvent {
    /// A command was issued.
    Command(CommandId),
    /// Requests may go on.
    Mark(LogMark),
}

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry {
    /// Line, from 1.
    pub line: u64,
    /// Clock as logged: the first cycle is 1.
    pub clock: Cycle,
    /// The command or mark that the line is of.
    pub what: LogEvent,
    /// Channel.
    pub channel: u32,
    /// Pseudo-channel, rank, bank group, bank, row, column; [`NOT_ADDRESSED`] where not given.
    pub fields: [u32; 6],
    /// Bank groups that the command works in, a bit each; 0 where the log does not say.
    pub units: u64,
    /// The request of its channel, from 0, that a command serves, or the first one behind a mark; none where the log does
    /// not number requests, and for refresh.
    pub request: Option<u64>,
}

/// Calls `each` with every line of a log; `-` is standard input, and zstd frames are unpacked on the way.
pub fn read(
    cancel: &Cancel,
    path: &Path,
    device: &Device,
    mut each: impl FnMut(LogEntry) -> Result<(), String>,
) -> Result<()> {
    let mut input = fsio::open(path)?;
    let mut head = Vec::new();
    input.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    let packed = head == ZSTD;
    let input = std::io::Cursor::new(head).chain(input);
    let mut reader: Box<dyn BufRead> = match packed {
        true => {
            let mut decoder = zstd::Decoder::new(input).map_err(|e| Error::io(path, e))?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(|e| Error::io(path, e))?;
            Box::new(BufReader::new(decoder))
        }
        false => Box::new(BufReader::new(input)),
    };
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let got = reader.by_ref().take(LINE).read_until(b'\n', &mut bytes);
        let wrong = |what: String| Error::data(format!("{}:{line}", path.display()), what);
        match got {
            // What a damaged frame unpacks to is not the system's fault.
            Err(e) if packed => return Err(wrong(format!("cannot be unpacked: {e}"))),
            Err(e) => return Err(Error::io(path, e)),
            Ok(0) => return Ok(()),
            Ok(n) if n as u64 == LINE && bytes.last() != Some(&b'\n') => {
                return Err(wrong(format!("longer than {LINE} bytes: not a command log")));
            }
            Ok(_) => {}
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("not a command log (not text)".into()))?;
        let entry = parse(text.trim_end(), line, device).map_err(wrong)?;
        each(entry).map_err(wrong)?;
        if line % BREATH == 1 {
            cancel.check()?;
        }
    }
    Ok(())
}

fn parse(text: &str, line: u64, device: &Device) -> Result<LogEntry, String> {
    let g: &Geometry = &device.geometry;
    let mut words = text.split(',').map(str::trim);
    let mut next = |name: &str| words.next().filter(|w| !w.is_empty()).ok_or_else(|| format!("no {name}"));
    let clock = next("clock")?;
    let clock: Cycle =
        clock.parse().ok().filter(|c| (1..=1 << 60).contains(c)).ok_or_else(|| match clock.starts_with("PTRACE") {
            true => "this is a trace; expected a command log (pimsim run --log)".to_string(),
            false => format!("{clock:?} is not a clock"),
        })?;
    let name = next("command")?;
    let mark =
        [LogMark::Barrier, LogMark::Host, LogMark::Sync, LogMark::Arrival].into_iter().find(|m| m.name() == name);
    let what = match (mark, device.command(name)) {
        (Some(mark), _) => LogEvent::Mark(mark),
        (None, Some(command)) => LogEvent::Command(command),
        (None, None) => {
            let hint = suggest(name, device.commands.iter().map(|c| c.name.as_str()));
            return Err(format!("unknown command {name:?}{hint}"));
        }
    };
    let mut field = |name: &str, count: u32| match next(name)? {
        "-1" => Ok(NOT_ADDRESSED),
        word => word
            .parse()
            .ok()
            .filter(|n| *n < count)
            .ok_or_else(|| format!("{name} {word:?} is neither -1 nor in 0..{count}")),
    };
    let channel = field("channel", g.channels)?;
    let fields = [
        field("pseudo-channel", g.pseudo_channels)?,
        field("rank", g.ranks)?,
        field("bank group", g.bank_groups)?,
        field("bank", g.banks)?,
        field("row", g.rows)?,
        field("column", g.columns)?,
    ];
    let (mut request, mut units) = (None, 0);
    for (i, word) in words.enumerate() {
        if let Some(set) = word.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            let known = set != 0 && (g.units() >= 64 || set >> g.units() == 0);
            if units != 0 || !known {
                return Err(format!("{word:?} is no set of bank groups"));
            }
            units = set;
        } else if i == 0 {
            let number = word.parse().ok().filter(|n| *n < 1 << 60);
            request = match word {
                "-1" => None,
                _ => Some(number.ok_or_else(|| format!("request {word:?} is neither -1 nor a number"))?),
            };
        } else {
            return Err(format!("{word:?} after the request"));
        }
    }
    // The reference's barriers take a cycle and say no more.
    let lacks = request.is_none() && mark.is_some_and(|m| m != LogMark::Barrier);
    match channel {
        NOT_ADDRESSED => Err("no channel".into()),
        _ if lacks => Err(format!("{name} without a request")),
        _ => Ok(LogEntry { line, clock, what, channel, fields, units, request }),
    }
}
