//! What can hold a command, and how it adds up and reads.

use crate::log::LogMark;
use crate::report;
use pimattn_core::error::Result;
use pimattn_core::spec::{CommandId, Device};
use pimattn_core::table::{Measure, TableLayout, TypedWriter, measure};
use pimattn_core::units::Cycle;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A row of the table: a reason, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonRow {
    name: String,
    kind: &'static str,
    sum: Sum,
}

/// Columns of the table.
pub const COLUMNS: &[Measure<ReasonRow>] = &[
    measure("reason", "-", "what held commands, or what cycles went to", |r| (&r.name).into()),
    measure(
        "kind",
        "-",
        "start, constraint, bus, data, barrier, host, sync, arrival, refresh, results (of the last command ahead of a mark or \
         of the end), or controller (a rule of the controller alone)",
        |r| r.kind.into(),
    ),
    measure("commands", "1", "commands that it held until they came", |r| r.sum.commands.into()),
    measure(
        "cycles",
        "cycles",
        "cycles of the critical chains to the last result of each channel, over all channels",
        |r| r.sum.cycles.into(),
    ),
];

/// What an order of data demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataDependency {
    /// MACs accumulate in order.
    Macs,
    /// A row stays open until older requests have used it.
    Row,
    /// Reads and writes of one column keep their order.
    Column,
    /// Softmax and mode settings neither pass moves nor are passed.
    Softmax,
}

/// What can hold a command, or take cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing held it since the beginning of the log.
    Start,
    /// A declared constraint, by its place in [`Device::declared`], between two commands.
    Edge(usize, CommandId, CommandId),
    /// The row half of the bus was taken ever since the command could have come.
    RowBus,
    /// The same of the column half.
    ColumnBus,
    /// Data that it needs.
    Data(DataDependency),
    /// The mark ahead of its request. Cycles are those that the host worked, or that other channels were waited for.
    Mark(LogMark),
    /// Its request was not there.
    Arrival,
    /// A refresh was due.
    Refresh,
    /// A result was waited for, so long after its command.
    Results(CommandId),
    /// The controller did not see its request yet.
    QueueDepth,
    /// Reads and writes take turns.
    WriteTurns,
    /// First-ready, first-come among reads and writes.
    FirstReady,
    /// Its request, which had no command before, may not have been in its bank's queue yet.
    BankFeed,
    /// A row that nothing waits for is closed when nothing else can be done.
    IdleRow,
    /// Nothing that is known here.
    Unexplained,
}

impl Reason {
    /// Its kind, as in [`COLUMNS`].
    pub fn kind(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::Edge(..) => "constraint",
            Reason::RowBus | Reason::ColumnBus => "bus",
            Reason::Data(_) => "data",
            Reason::Mark(LogMark::Barrier) => "barrier",
            Reason::Mark(LogMark::Host) => "host",
            Reason::Mark(LogMark::Sync) => "sync",
            Reason::Arrival | Reason::Mark(LogMark::Arrival) => "arrival",
            Reason::Refresh => "refresh",
            Reason::Results(_) => "results",
            Reason::QueueDepth | Reason::WriteTurns | Reason::FirstReady => "controller",
            Reason::BankFeed | Reason::IdleRow | Reason::Unexplained => "controller",
        }
    }

    /// Whether it is a rule of the controller and nothing else.
    pub fn is_rule(self) -> bool {
        self.kind() == "controller"
    }

    /// The reason as tables have it, a constraint as reports name it.
    pub fn name(self, device: &Device) -> String {
        match self {
            Reason::Start => "start",
            Reason::Edge(i, from, to) => return report::edge(&device.declared[i], from, to, device),
            Reason::RowBus => "row bus",
            Reason::ColumnBus => "column bus",
            Reason::Data(DataDependency::Macs) => "older MACs",
            Reason::Data(DataDependency::Row) => "older request that uses the row",
            Reason::Data(DataDependency::Column) => "older request to the same column",
            Reason::Data(DataDependency::Softmax) => "order of moves and softmax",
            Reason::Mark(LogMark::Barrier) => "barrier",
            Reason::Mark(LogMark::Host) => "host",
            Reason::Mark(LogMark::Sync) => "sync",
            Reason::Arrival | Reason::Mark(LogMark::Arrival) => "arrival",
            Reason::Refresh => "refresh due",
            Reason::Results(id) => return format!("results of {}", device.commands[usize::from(id)].name),
            Reason::QueueDepth => "queue depth",
            Reason::WriteTurns => "write turns",
            Reason::FirstReady => "first-ready first-come",
            Reason::BankFeed => "feed of the bank's queue",
            Reason::IdleRow => "idle row",
            Reason::Unexplained => "unexplained",
        }
        .into()
    }
}

/// What one command was held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldCommand {
    /// Clock of the command as logged, from 1.
    pub clock: Cycle,
    /// Channel.
    pub channel: u32,
    /// The command.
    pub command: CommandId,
    /// What held it.
    pub reason: Reason,
    /// From which clock on: when what held it came; of a rule, when the command could have come.
    pub since: Cycle,
}

impl HeldCommand {
    /// It as a line.
    pub fn line(&self, device: &Device) -> String {
        let (command, reason) = (&device.commands[usize::from(self.command)].name, self.reason.name(device));
        format!("cycle {}, channel {}: {command}: {reason}, since {}\n", self.clock, self.channel, self.since)
    }
}

/// What went to a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Commands that it held.
    pub commands: u64,
    /// Cycles of the critical chains.
    pub cycles: Cycle,
}

/// Commands and cycles by reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reasons(pub BTreeMap<Reason, Sum>);

impl Reasons {
    /// All of them together.
    pub fn total(&self) -> Sum {
        Reasons::sum(self.0.values())
    }

    /// Those that rules of the controller alone held.
    pub fn rules(&self) -> Sum {
        Reasons::sum(self.0.iter().filter(|(reason, _)| reason.is_rule()).map(|(_, sum)| sum))
    }

    fn sum<'a>(sums: impl Iterator<Item = &'a Sum>) -> Sum {
        sums.fold(Sum::default(), |a, b| Sum { commands: a.commands + b.commands, cycles: a.cycles + b.cycles })
    }

    /// Cycles in which channels waited for others at syncs.
    pub fn waiting(&self) -> Cycle {
        self.0.get(&Reason::Mark(LogMark::Sync)).map_or(0, |sum| sum.cycles)
    }

    /// Adds those of another log.
    pub fn add(&mut self, other: &Reasons) {
        for (reason, more) in &other.0 {
            let sum = self.0.entry(*reason).or_default();
            *sum = Reasons::sum([*sum, *more].iter());
        }
    }

    /// The most cycles first, then the most commands.
    fn sorted(&self) -> Vec<(Reason, Sum)> {
        let mut rows: Vec<(Reason, Sum)> = self.0.iter().map(|(reason, sum)| (*reason, *sum)).collect();
        rows.sort_by_key(|(reason, sum)| (std::cmp::Reverse((sum.cycles, sum.commands)), *reason));
        rows
    }

    /// As a text; `name` is the log's.
    pub fn render(&self, device: &Device, name: &str) -> String {
        let (total, rules) = (self.total(), self.rules());
        let share = |cycles: Cycle| 100.0 * cycles as f64 / total.cycles.max(1) as f64;
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name}: what held {} commands and took {} cycles:", total.commands, total.cycles);
        let _ = writeln!(out, "  {:>12}  {:>6}  {:>12}  {:<10}  reason", "cycles", "%", "commands", "kind");
        for (reason, sum) in self.sorted() {
            let (part, kind, words) = (share(sum.cycles), reason.kind(), reason.name(device));
            let _ = writeln!(out, "  {:>12}  {part:>6.2}  {:>12}  {kind:<10}  {words}", sum.cycles, sum.commands);
        }
        let working = total.cycles - self.waiting();
        let _ = writeln!(
            out,
            "{name}: rules of the controller alone: {} cycles ({:.2} %, {:.2} % without waiting at syncs), {} commands",
            rules.cycles,
            share(rules.cycles),
            100.0 * rules.cycles as f64 / working.max(1) as f64,
            rules.commands
        );
        out
    }

    /// As CSV.
    pub fn csv(&self, device: &Device) -> Result<String> {
        let mut table = TypedWriter::new(Vec::new(), "why", TableLayout::of(COLUMNS));
        for (reason, sum) in self.sorted() {
            table.row(&ReasonRow { name: reason.name(device), kind: reason.kind(), sum })?;
        }
        Ok(String::from_utf8_lossy(&table.finish()?).into_owned())
    }
}
