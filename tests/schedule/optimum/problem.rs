//! A trace of one channel as a problem of order: which commands can serve its requests, and what each pair of them keeps
//! apart. Built from the device's declared constraints alone, each pair of commands on its own.

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::device::PowerPolicy;
use pimattn_core::spec::{CommandId, Device, Effect, Level, Scope};
use pimattn_trace::Request;

/// The most requests of a problem: a request is a bit.
pub const MOST: usize = 16;

/// A command at a place: all that can be issued.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub command: CommandId,
    pub at: Address,
    /// Bank groups that it works in, where only some of its scope.
    pub units: u64,
    banks: Vec<bool>,
    /// Groups of banks that no instance tells apart, a bit each.
    pub atoms: u32,
    /// The row that it opens, from 1; 0 where it opens none.
    pub opens: u8,
}

/// Banks that a request needs at a row.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub atoms: u32,
    /// The row, from 1.
    pub row: u8,
    pub opener: usize,
    pub closer: usize,
}

/// What completes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A column command, when its rows are open.
    Column,
    /// The banks that it needs are at their row.
    Open,
    /// Its banks are closed.
    Close,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Job {
    pub kind: Kind,
    pub epoch: u32,
    /// The column command, or the opening, or the closing.
    pub last: usize,
    /// How many of them.
    pub passes: u8,
    /// Cycles from the last of them to the result.
    pub done: u32,
    pub needs: Vec<Need>,
    /// Requests that it cannot pass, a bit each.
    pub after: u16,
}

/// At most `count` places within `latency` cycles at each of some nodes.
#[derive(Debug, Clone)]
pub struct Window {
    pub count: usize,
    pub latency: u32,
    /// Per instance and node: places that it needs free, and the cycles at which it takes its own, from its issue.
    pub needs: Vec<Vec<usize>>,
    pub takes: Vec<Vec<Vec<u32>>>,
}

/// The problem.
pub struct Problem {
    pub instances: Vec<Instance>,
    pub jobs: Vec<Job>,
    /// `apart[a][b]`: cycles from `a` to a later `b`.
    pub apart: Vec<Vec<u32>>,
    pub windows: Vec<Window>,
    pub atoms: usize,
}

fn number(g: &Geometry, a: [u32; 4]) -> usize {
    (((a[0] * g.ranks + a[1]) * g.bank_groups + a[2]) * g.banks + a[3]) as usize
}

fn unit(g: &Geometry, a: &Address) -> u32 {
    (a.pseudo_channel * g.ranks + a.rank) * g.bank_groups + a.bank_group
}

/// Banks of a node.
fn size(g: &Geometry, level: Level) -> usize {
    let of = |l: Level, n: u32| if level < l { n as usize } else { 1 };
    of(Level::PseudoChannel, g.pseudo_channels)
        * of(Level::Rank, g.ranks)
        * of(Level::BankGroup, g.bank_groups)
        * of(Level::Bank, g.banks)
}

fn reached(g: &Geometry, scope: Scope, a: &Address, units: u64) -> Vec<bool> {
    let mut out = vec![false; g.banks_per_channel() as usize];
    for p in 0..g.pseudo_channels {
        for r in 0..g.ranks {
            for bg in 0..g.bank_groups {
                for b in 0..g.banks {
                    let group = (p, r, bg) == (a.pseudo_channel, a.rank, a.bank_group);
                    out[number(g, [p, r, bg, b])] = match scope {
                        _ if units != 0 => units >> ((p * g.ranks + r) * g.bank_groups + bg) & 1 == 1,
                        Scope::Bank => group && b == a.bank,
                        Scope::BankGroup => group,
                        Scope::SameBank => b == a.bank,
                        Scope::PerBank => (r, bg, b) == (a.rank, a.bank_group, a.bank),
                        Scope::Rank => (p, r) == (a.pseudo_channel, a.rank),
                        Scope::Channel => true,
                    };
                }
            }
        }
    }
    out
}

fn in_nodes(banks: &[bool], size: usize) -> Vec<usize> {
    banks.chunks(size).map(|node| node.iter().filter(|b| **b).count()).collect()
}

/// Under `stagger`, when the bank number `place` of a wide activation opens.
fn staggered(device: &Device, place: usize) -> u32 {
    let t = |name: &str| device.timings.get(name).copied().unwrap_or(0) as u32;
    place as u32 / 4 * t("nFAW") + place as u32 % 4 * t("nRRDS")
}

struct Builder<'d> {
    device: &'d Device,
    rows: Vec<u32>,
    instances: Vec<Instance>,
}

impl Builder<'_> {
    fn row(&mut self, row: u32) -> u8 {
        let at = self.rows.iter().position(|r| *r == row).unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        });
        at as u8 + 1
    }

    fn instance(&mut self, command: CommandId, at: Address, units: u64) -> usize {
        let c = &self.device.commands[usize::from(command)];
        let opens = if c.effect == Effect::Open { self.row(at.row) } else { 0 };
        let banks = reached(&self.device.geometry, c.scope, &at, units);
        let new = Instance { command, at, units, banks, atoms: 0, opens };
        // For an audit, accesses name their row; a softmax names its entries.
        let row = |i: &Instance| match c.effect {
            Effect::Read | Effect::Write | Effect::Mac => Some((i.at.row, 0)),
            Effect::Softmax => Some((i.at.row, i.at.column)),
            _ => None,
        };
        let same = |i: &Instance| (i.command, &i.banks, i.opens, row(i)) == (command, &new.banks, opens, row(&new));
        self.instances.iter().position(same).unwrap_or_else(|| {
            self.instances.push(new);
            self.instances.len() - 1
        })
    }

    fn need(&mut self, opener: CommandId, closer: CommandId, at: Address) -> Need {
        let (opener, closer) = (self.instance(opener, at, 0), self.instance(closer, at, 0));
        Need { atoms: 0, row: self.instances[opener].opens, opener, closer }
    }
}

impl Problem {
    /// The problem of a trace of channel 0, refresh apart.
    pub fn new(device: &Device, requests: &[Request]) -> Self {
        let g = &device.geometry;
        let mut b = Builder { device, rows: Vec::new(), instances: Vec::new() };
        let mut jobs: Vec<Job> = Vec::new();
        // Of each job: effect, scope, address as asked, and the banks that it needs.
        let mut about: Vec<(Effect, Scope, u64, Vec<bool>)> = Vec::new();
        let mut enabled: Vec<Option<u32>> = vec![None; g.units() as usize];
        let mut epoch = 0;
        for r in requests {
            assert_eq!(r.count, 1, "runs are not for the exact scheduler");
            if r.op == Op::Barrier {
                epoch += 1;
                continue;
            }
            let plan = device.plans[r.op as usize].expect("an operation of the device");
            let last = &device.commands[usize::from(plan.last)];
            let at = g.decode(r.addr);
            let row_commands = plan.opener.zip(plan.closer);
            let mut units = 0u64;
            let mut needs = Vec::new();
            match last.effect {
                Effect::Open => enabled[unit(g, &at) as usize] = Some(at.row),
                Effect::Close => enabled[unit(g, &at) as usize] = None,
                Effect::Mac => enabled.fill(None),
                _ => {}
            }
            if last.effect == Effect::MacOpen {
                let (opener, closer) = row_commands.expect("row commands");
                for (u, row) in (0..).zip(&enabled) {
                    let Some(row) = *row else { continue };
                    units |= 1 << u;
                    let at = Address { row, column: 0, ..g.unit_address(0, u) };
                    needs.push(b.need(opener, closer, at));
                }
                assert!(units != 0, "PIM_MAC_BG with no bank group open");
            } else if let Some((opener, closer)) = row_commands {
                needs.push(b.need(opener, closer, at));
            }
            let kind = match last.effect {
                Effect::Open => Kind::Open,
                Effect::Close => Kind::Close,
                _ => Kind::Column,
            };
            let id = b.instance(plan.last, at, units);
            let banks = b.instances[id].banks.clone();
            let job = Job {
                kind,
                epoch,
                last: id,
                passes: last.passes as u8,
                done: device.done(plan.last, &at) as u32,
                needs,
                after: 0,
            };
            about.push((last.effect, last.scope, r.addr, banks));
            jobs.push(job);
        }
        assert!(jobs.len() <= MOST);
        for i in 0..jobs.len() {
            for j in 0..i {
                if ordered(&about[j], &about[i]) {
                    jobs[i].after |= 1 << j;
                }
            }
        }
        let mut instances = b.instances;
        let atoms = atoms(&mut instances);
        for need in jobs.iter_mut().flat_map(|j| &mut j.needs) {
            need.atoms = instances[need.opener].atoms;
        }
        let apart = instances.iter().map(|a| instances.iter().map(|b| apart(device, a, b)).collect()).collect();
        let windows = windows(device, &instances);
        Problem { instances, jobs, apart, windows, atoms }
    }
}

/// Whether a request cannot pass an older one.
fn ordered(older: &(Effect, Scope, u64, Vec<bool>), younger: &(Effect, Scope, u64, Vec<bool>)) -> bool {
    use Effect::{Close, Configure, Mac, MacOpen, Move, Open, Read, Softmax, Write};
    let shared = || older.3.iter().zip(&younger.3).any(|(a, b)| *a && *b);
    match (older.0, younger.0) {
        // Accumulators; which bank groups are enabled is one state of the channel.
        (MacOpen, Mac | MacOpen) | (Mac, MacOpen) => true,
        (Mac | MacOpen | Open | Close, Mac | MacOpen | Open | Close) => shared(),
        (Softmax | Configure, Move | Softmax | Configure) | (Move, Softmax | Configure) => true,
        (Read | Write, Read | Write) => older.2 == younger.2,
        _ => false,
    }
}

fn atoms(instances: &mut [Instance]) -> usize {
    let banks = instances.first().map_or(0, |i| i.banks.len());
    let mut signatures: Vec<Vec<bool>> = Vec::new();
    for bank in 0..banks {
        let signature: Vec<bool> = instances.iter().map(|i| i.banks[bank]).collect();
        if signature.contains(&true) && !signatures.contains(&signature) {
            signatures.push(signature);
        }
    }
    assert!(signatures.len() <= 32, "too many groups of banks");
    for (i, instance) in instances.iter_mut().enumerate() {
        instance.atoms = signatures.iter().enumerate().filter(|(_, s)| s[i]).map(|(a, _)| 1 << a).sum();
    }
    signatures.len()
}

/// Cycles from `a` to a later `b`: the longest constraint at a node where both have banks; one bus carries one a cycle.
fn apart(device: &Device, a: &Instance, b: &Instance) -> u32 {
    let g = &device.geometry;
    let (from, to) = (&device.commands[usize::from(a.command)], &device.commands[usize::from(b.command)]);
    let nodes = |i: &Instance, level| in_nodes(&i.banks, size(g, level)).iter().map(|n| *n > 0).collect::<Vec<_>>();
    let mut least = u32::from(from.bus == to.bus);
    if (from.effect, to.effect) == (Effect::Softmax, Effect::Softmax) {
        // The unit works on the entries of one softmax at a time.
        least = least.max(device.work(a.command, &a.at) as u32);
    }
    // What follows a staggered activation waits for the last of its banks.
    let spread = match (device.power, from.effect, to.effect) {
        (_, _, Effect::Open) => 0,
        (PowerPolicy::Stagger, Effect::Open, _) => {
            let of_rank = in_nodes(&a.banks, size(g, Level::Rank)).into_iter().max().unwrap_or(1);
            staggered(device, of_rank - 1)
        }
        _ => 0,
    };
    for d in device.declared.iter().filter(|d| d.window == 1) {
        if d.from.contains(&a.command) && d.to.contains(&b.command) {
            let meet = nodes(a, d.level).iter().zip(&nodes(b, d.level)).any(|(x, y)| *x && *y);
            // Such an edge is one of commands in one node of the level below.
            let same = d.apart.is_some_and(|below| nodes(a, below) == nodes(b, below));
            if meet && !same {
                // Above the rank that opens, an edge holds what uses none of its banks for the row bus alone.
                let shared = a.banks.iter().zip(&b.banks).any(|(x, y)| *x && *y);
                least = least.max(d.latency + if d.level >= Level::Rank || shared { spread } else { 0 });
            }
        }
    }
    least
}

fn windows(device: &Device, instances: &[Instance]) -> Vec<Window> {
    let g = &device.geometry;
    let mut out = Vec::new();
    for d in device.declared.iter().filter(|d| d.window > 1) {
        let size = size(g, d.level);
        let counted = |i: &&Instance| d.from.contains(&i.command) || d.to.contains(&i.command);
        let nodes: Vec<usize> = (0..g.banks_per_channel() as usize / size)
            .filter(|n| instances.iter().filter(counted).any(|i| in_nodes(&i.banks, size)[*n] > 0))
            .collect();
        let places = |i: &Instance, node: usize| in_nodes(&i.banks, size)[node];
        let needs = |i: &Instance, node: usize| match places(i, node) {
            0 => 0,
            _ if !d.to.contains(&i.command) => 0,
            n if d.by_bank => n,
            _ => 1,
        };
        let takes = |i: &Instance, node: usize| match places(i, node) {
            n if n == 0 || !d.from.contains(&i.command) => vec![],
            n if device.power == PowerPolicy::Stagger => (0..n).map(|p| staggered(device, p)).collect(),
            n if d.by_bank => vec![0; n],
            _ => vec![0],
        };
        out.push(Window {
            count: d.window as usize,
            latency: d.latency,
            needs: instances.iter().map(|i| nodes.iter().map(|n| needs(i, *n)).collect()).collect(),
            takes: instances.iter().map(|i| nodes.iter().map(|n| takes(i, *n)).collect()).collect(),
        });
    }
    out
}
