//! The schedule that AttAcc published for dense attention, request by request as its generators write it.
//!
//! No KV data is involved: every head attends to the same number of tokens, which lie in consecutive columns. With a
//! budget the schedule takes the row-budget form of the STARC artifact: a dense attention over as many tokens as the
//! budget's rows hold, with its clustering if wanted. `layout` says where the matrices and buffers of a head are,
//! `clustering` what the artifact writes ahead of them.
//!
//! The order has two forms ([`Form`]). `exact` is the pipelining that AttAcc (ASPLOS '24) describes: each channel does
//! the work of its own heads. `schedule` is what AttAcc's generators write: where they do something that the pipelining
//! does not explain, it does the same, so that the request streams are equal, and a comment marked "Quirk" says so.

mod clustering;
mod exact;
mod layout;
mod schedule;
mod spelled;

use clustering::ClusteringWork;
use layout::{AttaccLayout, UnitShape};
use pimattn_core::addr::Geometry;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::op::Op;
use pimattn_trace::header::spec_hash;
use pimattn_trace::{Header, Record, Request, Segment, Sink};
use std::ops::Range;

/// The device of the paper, one stack of 16 channels, "HBM3_8Gb_2R" in AttAcc's simulator.
pub const DEVICE: Geometry = Geometry {
    channels: 16,
    pseudo_channels: 2,
    ranks: 2,
    bank_groups: 4,
    banks: 4,
    rows: 1 << 14,
    columns: 32,
    column_bytes: 32,
};

/// Most decode steps of a trace.
const MAX_STEPS: u32 = 1 << 20;

/// Tokens in a row of the artifact's row budget: a head of 128 elements of 2 bytes, split over the banks of a group.
pub const ROW_TOKENS: u32 = 16;

/// Where the GEMV units are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitLevel {
    /// One in each bank: PIM_MAC_AB.
    Bank,
    /// One in each bank group: PIM_MAC_SB.
    BankGroup,
    /// One in each pseudo-channel, on the buffer die: PIM_MAC_PB.
    Buffer,
}

impl UnitLevel {
    /// All modes.
    pub const ALL: [UnitLevel; 3] = [UnitLevel::Bank, UnitLevel::BankGroup, UnitLevel::Buffer];

    /// Name on the command line; AttAcc's own.
    pub fn name(self) -> &'static str {
        match self {
            UnitLevel::Bank => "bank",
            UnitLevel::BankGroup => "bg",
            UnitLevel::Buffer => "buffer",
        }
    }

    /// The mode of this name.
    pub fn parse(name: &str) -> Result<UnitLevel> {
        let names = UnitLevel::ALL.map(UnitLevel::name);
        UnitLevel::ALL
            .into_iter()
            .find(|m| m.name() == name)
            .ok_or_else(|| Error::Usage(format!("unknown mode \"{name}\"{}", suggest(name, names))))
    }
}

/// Which account of AttAcc's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Form {
    /// As described: each channel does exactly the work of its own heads.
    #[default]
    Exact,
    /// As its generators write it, request for request, with the work that nobody asked for and without some that is
    /// needed (docs/parity.md lists the quirks).
    Published,
}

/// What is attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attention {
    /// Where the GEMV units are.
    pub mode: UnitLevel,
    /// Heads, of all requests together, that the device holds; AttAcc's "heads per HBM".
    pub heads: u32,
    /// Tokens in the cache of each head.
    pub len: u32,
    /// Elements of one key or value.
    pub dim: u32,
    /// Bytes of one element.
    pub bytes: u32,
    /// Tokens that a head may attend to, rounded up to whole rows of [`ROW_TOKENS`]; everything when there is none.
    pub kv_budget: Option<u32>,
    /// Whether the keys are clustered first, as the artifact writes it in the last decode step. Takes a budget.
    pub clustering: bool,
}

impl Attention {
    /// Tokens that a head attends to: [`Attention::len`], or what the row budget leaves of it. As published, the row
    /// that the last token is in counts as a whole one, even when the budget is no limit.
    pub fn attended(&self, form: Form) -> u64 {
        let rows = |tokens: u32| u64::from(tokens.div_ceil(ROW_TOKENS)) * u64::from(ROW_TOKENS);
        match self.kv_budget {
            None => self.len.into(),
            Some(budget) if form == Form::Exact => rows(budget).min(self.len.into()),
            Some(budget) => rows(budget).min(rows(self.len)),
        }
    }

    /// One attention for all whose requests are the same, request by request.
    ///
    /// It is dense over what is attended to, in whole positions of the units. As published, with more than one round,
    /// the pace of the transfers also counts, which the whole length sets.
    ///
    /// # Errors
    /// When the parameters make no sense on the device.
    pub fn normal_form(&self, form: Form, geometry: &Geometry) -> Result<Attention> {
        self.check(geometry).map_err(Error::Usage)?;
        let UnitShape { units, lanes, .. } = UnitShape::new(self, geometry);
        let attended = self.attended(form);
        let (len, kv_budget) = match self.kv_budget {
            Some(_) if form == Form::Published && self.rounds(geometry) > 1 => {
                (u64::from(self.len).next_multiple_of(units * lanes), Some(attended))
            }
            _ => (attended.next_multiple_of(units), None),
        };
        let narrow = |n: u64| u32::try_from(n).ok();
        match (narrow(len), kv_budget.map(narrow)) {
            // Its length is also that of the clustering.
            _ if self.clustering => Ok(*self),
            (Some(len), None) => Ok(Attention { len, kv_budget: None, ..*self }),
            (Some(len), Some(Some(budget))) => Ok(Attention { len, kv_budget: Some(budget), ..*self }),
            _ => Ok(*self),
        }
    }

    /// Rounds: times that all channels work, each on a head of its own.
    pub fn rounds(&self, geometry: &Geometry) -> u32 {
        self.heads.div_ceil(geometry.channels)
    }

    /// Whether channels with as many heads are asked for the same, request for request and in turn: as published, only
    /// in a single round. The clustering moves K and V two requests at a time, and not in turn.
    pub fn is_in_lockstep(&self, form: Form, geometry: &Geometry) -> bool {
        !self.clustering && (form == Form::Exact || self.rounds(geometry) == 1)
    }

    /// Channels by how many heads they have, those with more of them first.
    pub fn groups(&self, geometry: &Geometry) -> [LoadedChannels; 2] {
        let (each, more) = (self.heads / geometry.channels, self.heads % geometry.channels);
        [
            LoadedChannels { channels: 0..more, heads: each + 1 },
            LoadedChannels { channels: more..geometry.channels, heads: each },
        ]
    }

    fn check(&self, geometry: &Geometry) -> Result<(), String> {
        let counts = [("heads", self.heads), ("len", self.len), ("dim", self.dim), ("bytes", self.bytes)];
        if let Some((name, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(format!("--{name} is 0; at least 1 is needed"));
        }
        if !geometry.column_bytes.is_multiple_of(self.bytes) {
            return Err(format!(
                "--bytes {} does not divide a column of {} B, so elements would straddle columns",
                self.bytes, geometry.column_bytes
            ));
        }
        match self.kv_budget {
            Some(0) => Err("--kv-budget is 0; at least one token is needed".into()),
            Some(_) if self.mode != UnitLevel::Bank => Err(format!(
                "--kv-budget is for --mode bank only: the artifact has no row budget for \"{}\"",
                self.mode.name()
            )),
            None if self.clustering => Err("--clustering is for a --kv-budget only: so it is in the artifact".into()),
            _ => Ok(()),
        }
    }

    /// The parameters as TOML, for the trace header.
    fn canonical(&self) -> String {
        let Attention { mode, heads, len, dim, bytes, kv_budget, clustering } = self;
        let mode = mode.name();
        let budget = kv_budget.map_or_else(String::new, |b| format!("kv_budget = {b}\n"));
        let clustering = if *clustering { "clustering = true\n" } else { "" };
        format!("mode = \"{mode}\"\nheads = {heads}\nlen = {len}\ndim = {dim}\nbytes = {bytes}\n{budget}{clustering}")
    }
}

/// Channels that have as many heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedChannels {
    /// Which; there may be none.
    pub channels: Range<u32>,
    /// Heads of each; there may be none.
    pub heads: u32,
}

/// The schedule of one decode step of one layer.
#[derive(Debug)]
pub struct AttentionSchedule {
    form: Form,
    attention: Attention,
    geometry: Geometry,
    layout: AttaccLayout,
    clustering: Option<ClusteringWork>,
    /// Whether heads go in pairs.
    pipeline: bool,
}

impl AttentionSchedule {
    /// Plans the schedule in which each channel does exactly the work of its own heads.
    ///
    /// # Errors
    /// When the parameters make no sense or the addresses leave the device.
    pub fn new(attention: Attention, geometry: Geometry) -> Result<AttentionSchedule> {
        AttentionSchedule::of(Form::Exact, attention, geometry)
    }

    /// Plans the schedule that AttAcc's generators write, or the artifact's.
    ///
    /// # Errors
    /// As [`AttentionSchedule::new`].
    pub fn published(attention: Attention, geometry: Geometry) -> Result<AttentionSchedule> {
        AttentionSchedule::of(Form::Published, attention, geometry)
    }

    /// Plans the schedule in this form.
    ///
    /// # Errors
    /// As [`AttentionSchedule::new`].
    pub fn of(form: Form, attention: Attention, geometry: Geometry) -> Result<AttentionSchedule> {
        geometry.check().map_err(Error::Usage)?;
        attention.check(&geometry).map_err(Error::Usage)?;
        let layout = AttaccLayout::new(&attention, form, &geometry).map_err(Error::Usage)?;
        let clustering = attention.clustering.then(|| ClusteringWork::new(&attention, &layout, &geometry));
        let clustering = clustering.transpose().map_err(Error::Usage)?;
        Ok(AttentionSchedule { form, attention, geometry, layout, clustering, pipeline: true })
    }

    /// With heads in pairs, as AttAcc has them, or one after the other.
    pub fn pipelined(self, pipeline: bool) -> Self {
        AttentionSchedule { pipeline, ..self }
    }

    /// The header of the trace.
    pub fn header(&self) -> Header {
        let form = if self.form == Form::Published { "" } else { "schedule = \"exact\"\n" };
        Header {
            generator: concat!("tracegen ", env!("CARGO_PKG_VERSION"), " attacc").into(),
            geometry: self.geometry,
            spec_hash: spec_hash(&self.geometry, &self.layout.spelled()),
            seed: 0,
            config: self.attention.canonical() + form + if self.pipeline { "" } else { "pipeline = false\n" },
            provenance: "no KV data: AttAcc's schedule, all heads alike".into(),
            element_bytes: self.attention.bytes,
            heads_per_read: 1,
            selection: None,
        }
    }

    /// MACs of the clustering, all heads together: those in the trace, and those that the artifact makes and mostly loses.
    pub fn clustering_macs(&self) -> Option<(u64, u64)> {
        self.clustering.as_ref().map(ClusteringWork::macs)
    }

    /// What the schedule depends on besides the device: two that have it in common write the same requests, though
    /// their lengths may differ by less than a column holds.
    pub fn signature(&self) -> String {
        let AttentionSchedule { form, attention, layout, clustering, pipeline, .. } = self;
        format!("{form:?} {} {layout:?} {} {pipeline}", attention.heads, clustering.is_some())
    }

    /// Rounds: times that all channels work, each on a head of its own.
    pub fn rounds(&self) -> u64 {
        self.attention.rounds(&self.geometry).into()
    }

    /// Writes the trace to `sink`, without holding more of it than one run, and finishes it. `progress` hears how many
    /// rounds are done. The trace has requests only.
    pub fn run(&self, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.run_until(&Cancel::new(), sink, progress)
    }

    /// [`AttentionSchedule::run`], unless `cancel` is requested.
    ///
    /// # Errors
    /// Those of `sink`, and [`Error::Interrupted`].
    pub fn run_until(&self, cancel: &Cancel, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.write(cancel, false, sink, progress)?;
        sink.finish()
    }

    /// Writes the same requests as [`AttentionSchedule::run`], labelled: `segments` first, which say whose work the channels do
    /// (see [`AttentionSchedule::segments`]; all in lane 0), then a mark ahead of each request whose phase differs from the one
    /// before it in its channel. Does not finish `sink`, so that other schedules can follow; who wants them apart puts
    /// [`Op::Sync`] between.
    pub fn run_labelled(&self, segments: &[Segment], sink: &mut dyn Sink) -> Result<()> {
        self.labelled(&Cancel::new(), segments, sink)
    }

    fn labelled(&self, cancel: &Cancel, segments: &[Segment], sink: &mut dyn Sink) -> Result<()> {
        segments.iter().try_for_each(|s| sink.push(Record::Segment(*s)))?;
        self.write(cancel, true, sink, &mut |_| {})
    }

    fn write(&self, cancel: &Cancel, marked: bool, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<()> {
        match self.form {
            Form::Exact => exact::run(cancel, self, marked, sink, progress),
            Form::Published => schedule::run(cancel, self, marked, sink, progress),
        }
    }

    /// A segment for each channel with work, `template` with everything set that the schedule knows. One segment stands
    /// for all heads of its channel, and has the channel's number as KV head. Wanted are as many tokens as the budget
    /// has, or all; a unit's rows are filled in order, so that no row-block is shared between heads.
    pub fn segments(&self, template: &Segment) -> Vec<Segment> {
        let Attention { heads, len, dim, bytes, kv_budget, .. } = self.attention;
        let channels = self.geometry.channels;
        let columns = u64::from(self.geometry.columns);
        let wanted = u64::from(kv_budget.map_or(len, |b| b.min(len)));
        let attended = self.attention.attended(self.form);
        let dim_columns = self.layout.dim_columns;
        let segment = |channel| {
            let here = u64::from(heads / channels + u32::from(channel < heads % channels));
            // Beyond what a segment holds lie only devices that hold nothing else.
            let sum = |n: u64| u32::try_from(n * here).unwrap_or(u32::MAX);
            Segment {
                channel,
                lane: 0,
                kv_head: channel,
                selected: sum(wanted),
                distinct: sum(wanted),
                row_blocks: sum((attended * dim_columns).div_ceil(columns)),
                fullest_unit: sum((attended.div_ceil(self.layout.units) * dim_columns).div_ceil(columns)),
                row_tokens: sum(attended),
                slots_used: 2 * here * wanted * dim_columns,
                bytes_useful: 2 * here * wanted * u64::from(dim) * u64::from(bytes),
                // A budget's tokens lie one behind the other.
                kv_heads: here as u32,
                query_heads: here as u32,
                extents: here as u32,
                ..*template
            }
        };
        (0..heads.min(channels)).map(segment).collect()
    }
}

/// A decode: the published schedule of one step behind the other, each with a token more in every cache.
///
/// A single step is the published schedule, requests alone. Of several, each is labelled (see [`AttentionSchedule::segments`])
/// and all channels meet behind it, so that the tables have a row a step. Only the last has the clustering.
#[derive(Debug)]
pub struct Decode {
    first: Attention,
    geometry: Geometry,
    steps: u32,
    pipeline: bool,
    header: Header,
}

impl Decode {
    /// Plans `steps` decode steps, the first over [`Attention::len`] tokens.
    ///
    /// # Errors
    /// As [`AttentionSchedule::new`], for the longest step; when there is no step.
    pub fn new(first: Attention, geometry: Geometry, steps: u32) -> Result<Decode> {
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::Usage(format!("--steps {steps} is not in 1..={MAX_STEPS}")));
        }
        let len = first.len.checked_add(steps - 1);
        let len = len.ok_or_else(|| Error::Usage(format!("--len {} and --steps {steps} are too many", first.len)))?;
        // Addresses only grow with the length.
        let mut header = AttentionSchedule::published(Attention { len, ..first }, geometry)?.header();
        header.config = first.canonical();
        if steps > 1 {
            header.config.push_str(&format!("steps = {steps}\n"));
        }
        Ok(Decode { first, geometry, steps, pipeline: true, header })
    }

    /// Heads in pairs, as published, or one after the other.
    pub fn pipelined(mut self, pipeline: bool) -> Self {
        if !pipeline {
            self.header.config.push_str("pipeline = false\n");
        }
        Decode { pipeline, ..self }
    }

    /// The header of the trace.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Rounds of all steps together.
    pub fn rounds(&self) -> u64 {
        u64::from(self.first.rounds(&self.geometry)) * u64::from(self.steps)
    }

    /// The schedule of a step, from 0.
    pub fn schedule(&self, step: u32) -> Result<AttentionSchedule> {
        let clustering = self.first.clustering && step + 1 == self.steps;
        let attention = Attention { len: self.first.len + step, clustering, ..self.first };
        Ok(AttentionSchedule::published(attention, self.geometry)?.pipelined(self.pipeline))
    }

    /// Writes the trace to `sink` and finishes it; no more of it is held than a run. `progress` hears how many rounds
    /// are done.
    pub fn run(&self, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.run_until(&Cancel::new(), sink, progress)
    }

    /// [`Decode::run`], unless `cancel` is requested.
    ///
    /// # Errors
    /// Those of `sink`, and [`Error::Interrupted`].
    pub fn run_until(&self, cancel: &Cancel, sink: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<()> {
        if self.steps == 1 {
            return self.schedule(0)?.run_until(cancel, sink, progress);
        }
        for step in 0..self.steps {
            let schedule = self.schedule(step)?;
            let template = Segment { step, position: schedule.attention.len - 1, ..Segment::default() };
            schedule.labelled(cancel, &schedule.segments(&template), sink)?;
            sink.push(Record::Request(Request::one(Op::Sync, 0)))?;
            progress(u64::from(step + 1) * schedule.rounds());
        }
        sink.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Attention =
        Attention { mode: UnitLevel::Bank, heads: 1, len: 128, dim: 128, bytes: 2, kv_budget: None, clustering: false };

    fn refusal(attention: Attention) -> String {
        AttentionSchedule::new(attention, DEVICE).unwrap_err().to_string()
    }

    #[test]
    fn a_budget_is_rounded_up_to_rows_and_cut_at_the_cache() {
        let both = |a: Attention| [Form::Exact, Form::Published].map(|form| a.attended(form));
        let attended = |len, budget| both(Attention { len, kv_budget: Some(budget), ..HEAD });
        assert_eq!(both(HEAD), [128; 2]);
        assert_eq!(attended(16000, 1), [16; 2]);
        assert_eq!(attended(16000, 1448), [1456; 2]);
        assert_eq!(attended(1000, 4096), [1000, 1008]);
    }

    #[test]
    fn impossible_parameters_are_named() {
        assert!(refusal(Attention { heads: 0, ..HEAD }).contains("--heads is 0"));
        assert!(refusal(Attention { len: 0, ..HEAD }).contains("--len is 0"));
        assert!(refusal(Attention { dim: 0, ..HEAD }).contains("--dim is 0"));
        assert!(refusal(Attention { bytes: 0, ..HEAD }).contains("--bytes is 0"));
        assert!(refusal(Attention { bytes: 3, ..HEAD }).contains("--bytes 3 does not divide"));
        assert!(refusal(Attention { kv_budget: Some(0), ..HEAD }).contains("--kv-budget is 0"));
        assert!(
            refusal(Attention { kv_budget: Some(9), mode: UnitLevel::Buffer, ..HEAD }).contains("--mode bank only")
        );
        assert!(UnitLevel::parse("bgg").unwrap_err().to_string().contains("did you mean \"bg\""));
    }
}
