//! One channel's device tree with the reference's meaning of levels, rows and scopes.
//!
//! It differs from [`ChannelState`](crate::state::ChannelState) in what the reference does and a device would
//! not:
//! - a command counts at the nodes on the path of its address only, however many banks it reaches; same-bank and
//!   per-bank MACs alone also count at other banks, which for per-bank MACs are not even those that they reach;
//! - whether a command is legal is looked up along the same path, and for channel-wide precharge, refresh and softmax
//!   at the channel only, so that constraints declared for them further down never bind;
//! - a bank may have several rows open, for opening a row adds to those that are open;
//! - a same-bank precharge closes no more than a per-bank one.

use crate::replay_cache::{mix, rebase::Rebase};
use pimattn_core::addr::{Address, Geometry, NOT_ADDRESSED};
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::tables::Window;
use pimattn_core::spec::{Command, CommandId, Device, Effect, Level, Plan, Scope};
use pimattn_core::units::Cycle;

/// No row is open.
const CLOSED: u32 = u32::MAX;
/// Levels of the tree.
const LEVELS: usize = Level::ALL.len();

/// An address with its node at each level that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePath {
    /// The address.
    pub address: Address,
    nodes: [u32; LEVELS],
    given: usize,
}

impl NodePath {
    /// Whether both name the same bank.
    #[inline]
    pub fn same_bank(&self, other: &NodePath) -> bool {
        self.given == LEVELS && other.given == LEVELS && self.nodes[LEVELS - 1] == other.nodes[LEVELS - 1]
    }
}

/// The levels at which a command is looked up, from the top.
#[derive(Clone, Copy, Default)]
struct Lookup {
    levels: [u8; LEVELS],
    count: usize,
}

/// The last issues of the commands that one window counts.
#[derive(Clone, PartialEq)]
struct History {
    window: Window,
    /// Commands that it holds back.
    holds: Vec<CommandId>,
    /// Per node a ring of cycles; 0 is none, for the clock counts from 1.
    issued: Vec<Cycle>,
    oldest: Vec<u32>,
}

/// How the rows of some banks stand to a wanted one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundRow {
    Open,
    Closed,
    Other,
}

/// Banks `first, first + step, ...`, `count` of them.
#[derive(Clone, Copy)]
struct BankSpan {
    first: usize,
    step: usize,
    count: usize,
}

impl BankSpan {
    #[inline]
    fn iter(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| self.first + i * self.step)
    }
}

/// One channel's banks and timing.
#[derive(Clone)]
pub struct Nodes<'d> {
    device: &'d Device,
    commands: usize,
    /// First node of each level.
    base: [u32; LEVELS],
    /// Earliest legal cycle of each command at each node.
    ready: Vec<Cycle>,
    lookups: Vec<Lookup>,
    histories: Vec<History>,
    /// The row that opened each bank, and the rows that were opened on top of it.
    row: Vec<u32>,
    more: Vec<Vec<u32>>,
    open: u32,
    /// Whether all banks have the same row open, and no other, or none.
    uniform: bool,
    version: u32,
}

impl<'d> Nodes<'d> {
    /// All banks closed, everything legal.
    pub fn new(device: &'d Device) -> Self {
        let g = &device.geometry;
        let mut nodes = [1, g.pseudo_channels, g.ranks, g.bank_groups, g.banks];
        let mut base = [0; LEVELS];
        for i in 1..LEVELS {
            nodes[i] *= nodes[i - 1];
            base[i] = base[i - 1] + nodes[i - 1];
        }
        let commands = device.commands.len();
        let total = (base[LEVELS - 1] + nodes[LEVELS - 1]) as usize;
        let banks = nodes[LEVELS - 1] as usize;
        let history = |(id, window): (u8, &Window)| {
            let nodes = nodes[window.level as usize] as usize;
            let held = |c: &&Command| c.held_by.contains(&id);
            let holds = device.commands.iter().filter(held).filter_map(|c| device.command(&c.name)).collect();
            let issued = vec![0; nodes * window.count as usize];
            History { window: *window, holds, issued, oldest: vec![0; nodes] }
        };
        Nodes {
            device,
            commands,
            base,
            ready: vec![0; total * commands],
            lookups: device.commands.iter().map(|c| lookup(device, c)).collect(),
            histories: (0..).zip(&device.windows).map(history).collect(),
            row: vec![CLOSED; banks],
            more: vec![Vec::new(); banks],
            open: 0,
            uniform: true,
            version: 1,
        }
    }

    /// A full address with its nodes.
    pub fn place(&self, address: Address) -> NodePath {
        let g = &self.device.geometry;
        let rank = address.pseudo_channel * g.ranks + address.rank;
        let group = rank * g.bank_groups + address.bank_group;
        let mut nodes = [0, address.pseudo_channel, rank, group, group * g.banks + address.bank];
        nodes.iter_mut().zip(self.base).for_each(|(node, base)| *node += base);
        NodePath { address, nodes, given: LEVELS }
    }

    /// The address of a pseudo-channel, and of nothing within it.
    pub fn pseudo_channel(&self, channel: u32, pseudo_channel: u32) -> NodePath {
        let no = NOT_ADDRESSED;
        let address =
            Address { channel, pseudo_channel, rank: no, bank_group: no, bank: no, row: no, column: no, offset: 0 };
        let own = self.base[Level::PseudoChannel as usize] + pseudo_channel;
        NodePath { address, nodes: [0, own, own, own, own], given: Level::PseudoChannel as usize + 1 }
    }

    /// The geometry of the device.
    pub fn geometry(&self) -> &Geometry {
        &self.device.geometry
    }

    /// Changes whenever a row opens or closes.
    #[inline]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Banks of the channel.
    pub fn banks(&self) -> usize {
        self.row.len()
    }

    /// The bank of a full address within the channel.
    #[inline]
    pub fn bank(&self, place: &NodePath) -> usize {
        (place.nodes[LEVELS - 1] - self.base[LEVELS - 1]) as usize
    }

    /// The command that a request needs next.
    pub fn next(&self, plan: &Plan, place: &NodePath) -> CommandId {
        let last = &self.device.commands[usize::from(plan.last)];
        let needed = match last.effect {
            Effect::Read | Effect::Write | Effect::Mac => match self.find(last.scope, place) {
                FoundRow::Open => None,
                FoundRow::Closed => plan.opener,
                FoundRow::Other => plan.closer,
            },
            Effect::Refresh if self.open > 0 => plan.closer,
            _ => None,
        };
        needed.unwrap_or(plan.last)
    }

    /// Whether what is legal at one place when is so at the other.
    #[inline]
    pub fn alike(&self, a: &NodePath, b: &NodePath) -> bool {
        a.nodes == b.nodes
    }

    /// The first cycle at which a command is legal at a place.
    #[inline]
    pub fn ready_at(&self, command: CommandId, place: &NodePath) -> Cycle {
        let id = usize::from(command);
        let lookup = &self.lookups[id];
        let at = |level: &u8| self.ready[place.nodes[usize::from(*level)] as usize * self.commands + id];
        lookup.levels[..lookup.count].iter().map(at).max().unwrap_or(0)
    }

    /// Whether a command opens rows.
    #[inline]
    pub fn opens(&self, command: CommandId) -> bool {
        self.device.commands[usize::from(command)].effect.opens()
    }

    /// Whether a command closes rows.
    #[inline]
    pub fn closes(&self, command: CommandId) -> bool {
        self.device.commands[usize::from(command)].effect.closes()
    }

    /// Whether a command reads or writes columns of an open row.
    #[inline]
    pub fn accesses(&self, command: CommandId) -> bool {
        let effect = self.device.commands[usize::from(command)].effect;
        effect.needs_row() && effect != Effect::MacOpen
    }

    /// The half of the bus that a command takes. Same-bank and per-bank precharges have none: the reference forgets
    /// them, so nothing issues beside them.
    #[inline]
    pub fn bus(&self, command: CommandId) -> Option<Bus> {
        let c = &self.device.commands[usize::from(command)];
        let forgotten = c.effect.closes() && matches!(c.scope, Scope::SameBank | Scope::PerBank);
        (!forgotten).then_some(c.bus)
    }

    /// Banks whose rows a command touches.
    pub fn reach(&self, command: CommandId) -> u32 {
        scope(&self.device.commands[usize::from(command)]).banks(&self.device.geometry)
    }

    /// Issues a command.
    pub fn issue(&mut self, command: CommandId, place: &NodePath, now: Cycle) {
        let device = self.device;
        let c = &device.commands[usize::from(command)];
        for edge in c.edges.iter().filter(|e| (e.level as usize) < place.given) {
            self.hold(place.nodes[edge.level as usize], edge.to, now + Cycle::from(edge.latency));
        }
        for &window in &c.counted_in {
            self.count(usize::from(window), place, now);
        }
        if c.effect == Effect::Mac
            && let Some(banks) = self.also_counted(c.scope, place)
        {
            let first = self.base[LEVELS - 1];
            for bank in banks.iter() {
                for edge in c.edges.iter().filter(|e| e.level == Level::Bank) {
                    self.hold(first + bank as u32, edge.to, now + Cycle::from(edge.latency));
                }
            }
        }
        match c.effect {
            Effect::Open => self.open_rows(self.span(c.scope, place), place.address.row),
            Effect::Close => self.close_rows(self.span(scope(c), place)),
            _ => {}
        }
    }

    /// Moves all times and renames all rows, for the replay cache.
    pub(crate) fn rebase(&mut self, rebase: &mut Rebase<'_>) {
        self.ready.iter_mut().for_each(|at| rebase.past(at));
        for h in &mut self.histories {
            let (count, latency) = (h.window.count as usize, Cycle::from(h.window.latency));
            for (ring, oldest) in h.issued.chunks_mut(count).zip(&mut h.oldest) {
                ring.rotate_left(*oldest as usize);
                *oldest = 0;
                for at in ring {
                    // A command that has left the window holds nothing back any more.
                    let mut until = if *at == 0 { 0 } else { *at + latency };
                    rebase.past(&mut until);
                    *at = until.saturating_sub(latency);
                }
            }
        }
        self.row.iter_mut().chain(self.more.iter_mut().flatten()).for_each(|row| rebase.row(row));
        self.version = 1;
    }

    /// Mixes the state into a digest: equal states give equal digests.
    pub fn digest(&self, digest: &mut u64) {
        self.ready.iter().filter(|at| **at > 0).for_each(|at| mix(digest, *at));
        self.row.iter().for_each(|row| mix(digest, u64::from(*row)));
    }

    /// Whether two states in canonical form are the same to all that can follow.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.ready == other.ready
            && self.row == other.row
            && self.more == other.more
            && self.histories == other.histories
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.ready.len() * size_of::<Cycle>() + self.row.len() * (size_of::<u32>() + size_of::<Vec<u32>>())
    }

    fn hold(&mut self, node: u32, command: CommandId, until: Cycle) {
        hold(&mut self.ready[node as usize * self.commands..], command, until);
    }

    fn count(&mut self, window: usize, place: &NodePath, now: Cycle) {
        let h = &mut self.histories[window];
        let level = h.window.level as usize;
        if level >= place.given {
            return;
        }
        let (node, length) = (place.nodes[level], h.window.count);
        let index = (node - self.base[level]) as usize;
        let oldest = &mut h.oldest[index];
        let ring = &mut h.issued[index * length as usize..][..length as usize];
        ring[*oldest as usize] = now;
        *oldest = (*oldest + 1) % length;
        let first = ring[*oldest as usize];
        if first > 0 {
            let until = first + Cycle::from(h.window.latency);
            for command in &h.holds {
                hold(&mut self.ready[node as usize * self.commands..], *command, until);
            }
        }
    }

    fn span(&self, scope: Scope, place: &NodePath) -> BankSpan {
        let g = &self.device.geometry;
        let (banks, per_group) = (self.row.len(), g.banks as usize);
        match scope {
            Scope::Channel => BankSpan { first: 0, step: 1, count: banks },
            Scope::Rank => {
                let of_rank = (g.bank_groups * g.banks) as usize;
                BankSpan { first: self.bank(place) / of_rank * of_rank, step: 1, count: of_rank }
            }
            Scope::Bank => BankSpan { first: self.bank(place), step: 1, count: 1 },
            Scope::BankGroup => BankSpan { first: self.bank(place) / per_group * per_group, step: 1, count: per_group },
            Scope::SameBank => {
                BankSpan { first: place.address.bank as usize, step: per_group, count: banks / per_group }
            }
            Scope::PerBank => {
                let step = banks / g.pseudo_channels as usize;
                BankSpan { first: self.bank(place) % step, step, count: g.pseudo_channels as usize }
            }
        }
    }

    /// Banks beside the path at which a MAC counts. A per-bank MAC means the addressed bank of the other
    /// pseudo-channels; the reference looks one level too high for it and takes the number of the pseudo-channel for
    /// that of a rank, and the number of the rank for that of a bank group.
    fn also_counted(&self, scope: Scope, place: &NodePath) -> Option<BankSpan> {
        let (g, a) = (&self.device.geometry, &place.address);
        match scope {
            Scope::SameBank => Some(self.span(scope, place)),
            Scope::PerBank if a.pseudo_channel < g.ranks && a.rank < g.bank_groups => {
                let taken = Address { rank: a.pseudo_channel, bank_group: a.rank, ..*a };
                Some(self.span(scope, &self.place(taken)))
            }
            _ => None,
        }
    }

    /// The first bank that lacks the wanted row decides.
    fn find(&self, scope: Scope, place: &NodePath) -> FoundRow {
        if self.open == 0 {
            return FoundRow::Closed;
        }
        let wanted = place.address.row;
        if self.uniform {
            return if self.row[0] == wanted { FoundRow::Open } else { FoundRow::Other };
        }
        for bank in self.span(scope, place).iter() {
            match self.row[bank] {
                CLOSED => return FoundRow::Closed,
                row if row == wanted || self.more[bank].contains(&wanted) => {}
                _ => return FoundRow::Other,
            }
        }
        FoundRow::Open
    }

    fn open_rows(&mut self, span: BankSpan, row: u32) {
        self.version += 1;
        self.uniform = self.open == 0 && span.count == self.row.len();
        for bank in span.iter() {
            match self.row[bank] {
                CLOSED => {
                    self.row[bank] = row;
                    self.open += 1;
                }
                first if first == row || self.more[bank].contains(&row) => {}
                _ => self.more[bank].push(row),
            }
        }
    }

    fn close_rows(&mut self, span: BankSpan) {
        self.version += 1;
        for bank in span.iter() {
            self.open -= u32::from(self.row[bank] != CLOSED);
            self.row[bank] = CLOSED;
            self.more[bank].clear();
        }
        self.uniform = self.open == 0;
    }
}

/// Makes a command wait at the node whose ready cycles begin `at_node`.
#[inline]
fn hold(at_node: &mut [Cycle], command: CommandId, until: Cycle) {
    let ready = &mut at_node[usize::from(command)];
    *ready = (*ready).max(until);
}

/// The banks that a command acts on in the reference.
fn scope(command: &Command) -> Scope {
    match (command.effect, command.scope) {
        (Effect::Close, Scope::SameBank) => Scope::PerBank,
        (_, scope) => scope,
    }
}

fn lookup(device: &Device, command: &Command) -> Lookup {
    let channel_only = match command.effect {
        Effect::Refresh | Effect::Softmax => true,
        Effect::Close => command.scope == Scope::Channel,
        _ => false,
    };
    let windows = command.held_by.iter().map(|w| device.windows[usize::from(*w)].level);
    let mut declared: Vec<Level> = command.incoming.iter().copied().chain(windows).collect();
    declared.retain(|level| !channel_only || *level == Level::Channel);
    declared.sort();
    declared.dedup();
    let mut out = Lookup { count: declared.len(), ..Lookup::default() };
    out.levels.iter_mut().zip(declared).for_each(|(slot, level)| *slot = level as u8);
    out
}
