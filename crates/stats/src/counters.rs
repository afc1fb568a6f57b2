//! Counters of commands and requests, and of the work that segments wanted.

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::tables::{MAX_COMMANDS, Reach};
use pimattn_core::spec::{CommandId, Device, Effect};
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandBurst, CommandEvent, Completion, RowOutcome};
use pimattn_trace::{Phase, Segment};

/// Counted commands and requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// Commands issued, by id.
    pub issued: [u64; MAX_COMMANDS],
    /// Banks that the commands acted on, summed; for buffer moves, the entries that they moved.
    pub banks: [u64; MAX_COMMANDS],
    /// Banks of MACs, summed over the query heads beyond the first for which they multiplied the same column.
    pub shared: u64,
    /// Requests completed, by operation.
    pub requests: [u64; Op::COUNT],
    /// Requests that needed a row and found it open.
    pub hits: u64,
    /// Requests that found their bank closed.
    pub misses: u64,
    /// Requests that found another row open.
    pub conflicts: u64,
    /// Reads whose latency is known.
    pub timed_reads: u64,
    /// Sum of the latencies of these reads.
    pub read_latency: Cycle,
    /// The longest latency of these reads.
    pub longest_read: Cycle,
}

/// How a command of a device is counted.
#[derive(Debug, Clone, Copy)]
pub struct CountRule {
    /// Whether the request that it completes is a row hit, miss or conflict.
    has_row_outcome: bool,
    /// Of a buffer move, the places that it reaches, and the row from which on its address is that of values.
    reach: Option<(Reach, u32)>,
    /// Of a MAC whose address names its query heads, the geometry that decodes their number.
    heads: Option<Geometry>,
}

/// The rules of all commands, by command id.
pub type Rules = [CountRule; MAX_COMMANDS];

/// The rules of a device.
pub fn rules(device: &Device) -> Rules {
    let mut rules = [CountRule { has_row_outcome: false, reach: None, heads: None }; MAX_COMMANDS];
    for (rule, c) in rules.iter_mut().zip(&device.commands) {
        rule.has_row_outcome = c.effect.properties().has_row_outcome;
        rule.reach = (c.effect == Effect::Move).then_some((c.reach, device.geometry.upper_half()));
        rule.heads = (device.heads_per_read > 1 && c.says_heads()).then_some(device.geometry);
    }
    rules
}

impl Default for Counters {
    fn default() -> Self {
        let none = [0; MAX_COMMANDS];
        Counters {
            issued: none,
            banks: none,
            shared: 0,
            requests: [0; Op::COUNT],
            hits: 0,
            misses: 0,
            conflicts: 0,
            timed_reads: 0,
            read_latency: 0,
            longest_read: 0,
        }
    }
}

impl Counters {
    /// Counts a command.
    #[inline]
    pub fn command(&mut self, e: &CommandEvent, rules: &Rules) {
        self.issue(e.command, &e.address, (e.banks, e.phase), e.completes, rules);
    }

    /// Counts a command by its properties: address, number of banks, phase, and the request that it completes.
    #[inline]
    pub fn issue(
        &mut self,
        command: CommandId,
        at: &Address,
        (banks, phase): (u32, Phase),
        completes: Option<Completion>,
        rules: &Rules,
    ) {
        self.issue_times(command, at, (banks, phase), completes, rules, 1);
    }

    /// Counts commands that differ in their column alone.
    pub fn burst(&mut self, burst: &CommandBurst<'_>, rules: &Rules) {
        let e = &burst.first;
        self.issue_times(e.command, &e.address, (e.banks, e.phase), e.completes, rules, burst.count);
    }

    #[inline]
    fn issue_times(
        &mut self,
        command: CommandId,
        at: &Address,
        (banks, phase): (u32, Phase),
        completes: Option<Completion>,
        rules: &Rules,
        times: u64,
    ) {
        let id = usize::from(command);
        let CountRule { has_row_outcome, reach, heads } = &rules[id];
        self.issued[id] += times;
        self.banks[id] += times
            * u64::from(match reach {
                None => banks,
                // AttAcc's text has no phases. But the addresses of its moves carry the place of the matrix that they are for,
                // which means nothing to a buffer: results of V are outputs.
                Some((r, values)) if phase == Phase::AttendContext || phase == Phase::Other && at.row >= *values => {
                    r.outputs
                }
                Some((r, _)) => r.entries,
            });
        if let Some(geometry) = heads {
            self.shared += times * u64::from(banks) * u64::from(geometry.heads_of_mac(at) - 1);
        }
        if let Some(c) = completes {
            self.requests[c.op as usize] += times;
            if *has_row_outcome {
                match c.row {
                    RowOutcome::Hit => self.hits += times,
                    RowOutcome::Miss => self.misses += times,
                    RowOutcome::Conflict => self.conflicts += times,
                }
            }
        }
    }

    /// Counts a request that needed no command.
    pub fn silent(&mut self, op: Op) {
        self.requests[op as usize] += 1;
        self.hits += u64::from(op == Op::ActBg);
    }

    /// Counts the latency of a read.
    pub fn latency(&mut self, cycles: Cycle) {
        self.timed_reads += 1;
        self.read_latency += cycles;
        self.longest_read = self.longest_read.max(cycles);
    }

    /// The counts of commands whose effect is `wanted`, without their requests.
    pub fn only(&self, device: &Device, wanted: impl Fn(Effect) -> bool) -> Counters {
        let mut out = Counters::default();
        for (id, _) in device.commands.iter().enumerate().filter(|(_, c)| wanted(c.effect)) {
            (out.issued[id], out.banks[id]) = (self.issued[id], self.banks[id]);
        }
        out.shared = if wanted(Effect::Mac) || wanted(Effect::MacOpen) { self.shared } else { 0 };
        out
    }

    /// Adds `o` to these counters.
    pub fn add(&mut self, o: &Counters) {
        self.add_times(o, 1);
    }

    /// Adds `o`, multiplied by `times`.
    pub fn add_times(&mut self, o: &Counters, times: u64) {
        let sum = |a: &mut [u64], b: &[u64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b * times);
        sum(&mut self.issued, &o.issued);
        sum(&mut self.banks, &o.banks);
        sum(&mut self.requests, &o.requests);
        self.shared += o.shared * times;
        self.hits += o.hits * times;
        self.misses += o.misses * times;
        self.conflicts += o.conflicts * times;
        self.timed_reads += o.timed_reads * times;
        self.read_latency += o.read_latency * times;
        self.longest_read = self.longest_read.max(o.longest_read);
    }
}

/// The wanted work that segments declare, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestedWork {
    /// Segments.
    pub segments: u64,
    /// Decode steps that they belong to.
    pub steps: u64,
    /// Step of the last segment, plus one.
    next_step: u32,
    /// Tokens selected, over query heads.
    pub selected: u64,
    /// Distinct tokens of each group.
    pub distinct: u64,
    /// Row-blocks of K touched.
    pub row_blocks: u64,
    /// Tokens in these row-blocks.
    pub row_tokens: u64,
    /// Row-blocks in the fullest unit.
    pub fullest_unit: u64,
    /// Unit-columns multiplied for selected tokens.
    pub slots_used: u64,
    /// Bytes of distinct tokens.
    pub bytes_useful: u64,
    /// KV heads.
    pub kv_heads: u64,
    /// Query heads.
    pub query_heads: u64,
    /// Stretches of distinct tokens without a gap.
    pub extents: u64,
    /// Bytes read to choose.
    pub bytes_scanned: u64,
    /// Bytes read and written to keep the cache as the policy has it.
    pub bytes_upkeep: u64,
}

impl RequestedWork {
    /// Adds a segment.
    pub fn segment(&mut self, s: &Segment) {
        self.segments += 1;
        if s.step >= self.next_step {
            self.steps += 1;
            self.next_step = s.step + 1;
        }
        self.selected += u64::from(s.selected);
        self.distinct += u64::from(s.distinct);
        self.row_blocks += u64::from(s.row_blocks);
        self.row_tokens += u64::from(s.row_tokens);
        self.fullest_unit += u64::from(s.fullest_unit);
        self.slots_used += s.slots_used;
        self.bytes_useful += s.bytes_useful;
        self.kv_heads += u64::from(s.kv_heads);
        self.query_heads += u64::from(s.query_heads);
        self.extents += u64::from(s.extents);
        self.bytes_scanned += s.bytes_scanned;
        self.bytes_upkeep += s.bytes_upkeep;
    }
}
