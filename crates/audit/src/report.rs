//! What an audit found, and how it reads.

use super::log::LogEvent;
use pimattn_core::spec::device::ConstraintSet;
use pimattn_core::spec::tables::DeclaredConstraint;
use pimattn_core::spec::{CommandId, Device, Level};
use pimattn_core::units::Cycle;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a log can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A declared constraint, by its place in [`Device::declared`], between two commands.
    Edge(usize, CommandId, CommandId),
    /// One command a cycle on each half of the bus.
    Bus,
    /// A column command to a closed bank.
    Closed,
    /// A column command to a bank that has another row open.
    WrongRow,
    /// A MAC of the open bank groups, and none is.
    NoneOpen,
    /// An activation of an open bank.
    Open,
    /// A refresh of open banks.
    RefreshOpen,
    /// More refreshes than intervals have begun.
    RefreshTooMany,
    /// A bank is refreshed again before all others have had their turn.
    RefreshTurn,
    /// More refreshes left out than may be postponed.
    RefreshMissing,
    /// A softmax while the unit is at work on another.
    Softmax,
    /// A result is not there yet at a barrier.
    Barrier,
    /// A column command on the wrong side of a barrier.
    Epoch,
}

/// A defect that the reference is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// Each pseudo-channel sends a refresh, and each is for the whole channel.
    DoubleRefresh,
    /// Activations of many banks count neither against tRRD nor tFAW.
    WideActivationPower,
    /// Reads and writes mixed with MACs of all banks open a row on top of another.
    TwoRows,
    /// Constraints between different forms of a command are missing.
    CrossForm,
    /// A command of many banks is looked up, and counts, along the path of one address only.
    PathOnly,
    /// Buffer moves turn the data path round, and data of another rank follow, in no time.
    DataPath,
    /// Softmax, though it shares the path of the buffer moves, waits for none of them.
    FreeSoftmax,
    /// A same-bank precharge closes the bank of one group only.
    SameBankPrecharge,
}

impl Defect {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Defect::DoubleRefresh => "double refresh",
            Defect::WideActivationPower => "wide activations not bound by tRRD/tFAW",
            Defect::TwoRows => "two rows open in one bank",
            Defect::CrossForm => "constraint between forms of a command missing",
            Defect::PathOnly => "wide command held along one path only",
            Defect::DataPath => "data path turned, or rank changed, in no time",
            Defect::FreeSoftmax => "softmax not held by buffer moves",
            Defect::SameBankPrecharge => "same-bank precharge closes one group's bank",
        }
    }
}

/// One command that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Line of the log.
    pub line: u64,
    /// Clock as logged.
    pub clock: Cycle,
    /// Channel.
    pub channel: u32,
    /// The command, or mark.
    pub what: LogEvent,
    /// What it broke.
    pub rule: Rule,
    /// Cycles beyond what is allowed; negative: so many too early. Zero where cycles mean nothing.
    pub slack: i64,
    /// The defect of the reference that looks like this.
    pub defect: Option<Defect>,
}

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Commands read.
    pub commands: u64,
    /// Pairs of commands that a constraint was checked for.
    pub checks: u64,
    /// Violations.
    pub broken: u64,
    /// The first violations.
    pub first: Vec<Violation>,
    /// Violations by rule and defect.
    pub counts: BTreeMap<(Rule, Option<Defect>), u64>,
    /// Smallest slack seen of each declared constraint, and between which commands.
    pub tightest: Vec<Option<(i64, CommandId, CommandId)>>,
}

impl Report {
    /// Notes a violation, and keeps it if it is among the first `max`.
    pub fn add(&mut self, v: Violation, max: usize) {
        self.broken += 1;
        *self.counts.entry((v.rule, v.defect)).or_default() += 1;
        if self.first.len() < max {
            self.first.push(v);
        }
    }

    /// Violations of a defect.
    pub fn of(&self, defect: Defect) -> u64 {
        self.counts.iter().filter(|((_, d), _)| *d == Some(defect)).map(|(_, n)| n).sum()
    }

    /// Violations that no known defect explains.
    pub fn unexplained(&self) -> u64 {
        self.counts.iter().filter(|((_, d), _)| d.is_none()).map(|(_, n)| n).sum()
    }

    /// The report as text; `name` is the log's.
    pub fn render(&self, device: &Device, name: &str, slack: bool) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut out, device, name, slack);
        out
    }

    fn write(&self, out: &mut String, device: &Device, name: &str, slack: bool) -> std::fmt::Result {
        let name_of = |what: LogEvent| match what {
            LogEvent::Command(id) => device.commands[usize::from(id)].name.as_str(),
            LogEvent::Mark(mark) => mark.name(),
        };
        if self.broken == 0 {
            let (commands, edges) = (self.commands, device.declared.len());
            writeln!(out, "{name}: clean: {commands} commands, {edges} constraints, {} checks", self.checks)?;
        }
        for v in &self.first {
            let (at, rule) = (format!("{name}:{}", v.line), describe(v.rule, device));
            let cycles = if v.slack == 0 { String::new() } else { format!(", slack {}", v.slack) };
            let defect = v.defect.map_or(String::new(), |d| format!(" [{}]", d.name()));
            writeln!(
                out,
                "{at}: cycle {}, channel {}: {}: {rule}{cycles}{defect}",
                v.clock,
                v.channel,
                name_of(v.what)
            )?;
        }
        if self.broken > 0 {
            writeln!(out, "{name}: {} violations in {} commands", self.broken, self.commands)?;
            for ((rule, defect), n) in &self.counts {
                let defect = defect.map_or(String::new(), |d| format!(" [{}]", d.name()));
                writeln!(out, "  {n:>8}  {}{defect}", describe(*rule, device))?;
            }
        }
        if slack {
            writeln!(out, "{name}: tightest slack of each constraint:")?;
            for (d, tightest) in device.declared.iter().zip(&self.tightest) {
                match tightest {
                    Some((slack, from, to)) => writeln!(out, "  {slack:>8}  {}", edge(d, *from, *to, device))?,
                    None => writeln!(out, "         -  line {}: no two commands met", d.line)?,
                }
            }
        }
        Ok(())
    }
}

/// A constraint between two commands.
pub(crate) fn edge(d: &DeclaredConstraint, from: CommandId, to: CommandId, device: &Device) -> String {
    let name = |id: CommandId| &device.commands[usize::from(id)].name;
    let level = match d.level {
        Level::Channel => "channel",
        Level::PseudoChannel => "pseudo-channel",
        Level::Rank => "rank",
        Level::BankGroup => "bank-group",
        Level::Bank => "bank",
    };
    let set = match d.set {
        ConstraintSet::Reference => "reference",
        ConstraintSet::Completed => "completed",
    };
    let window = if d.window > 1 { format!(", window {}", d.window) } else { String::new() };
    let (from, to) = (name(from), name(to));
    format!("{from} -> {to} at {level} {} = {}{window} ({set}, line {})", d.expression, d.latency, d.line)
}

fn describe(rule: Rule, device: &Device) -> String {
    match rule {
        Rule::Edge(i, from, to) => return edge(&device.declared[i], from, to, device),
        Rule::Bus => "second command in one cycle on its half of the bus",
        Rule::Closed => "column command to a closed bank",
        Rule::WrongRow => "column command to a bank with another row open",
        Rule::NoneOpen => "column command with no bank group open",
        Rule::Open => "activation of an open bank",
        Rule::RefreshOpen => "refresh with a bank open",
        Rule::RefreshTooMany => "more refreshes than due",
        Rule::RefreshTurn => "refresh of a bank before all others have had their turn",
        Rule::RefreshMissing => "more refreshes postponed than allowed",
        Rule::Softmax => "softmax while the unit is at work on another",
        Rule::Barrier => "barrier before the results ahead of it",
        Rule::Epoch => "column command on the wrong side of a barrier",
    }
    .into()
}
