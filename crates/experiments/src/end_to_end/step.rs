//! Decode steps and the prefill before them, put together of layers.

use super::Model;
use super::attention::{Attend, StackCost};
use super::cost::{ComponentEnergy, Cost, EnergyComponent};
use super::fit::FittedRun;
use super::gpu::{PolicyWork, Roofline};
use super::layer::{ForwardPass, LayerPart, LayerWork, Split, block};
use super::measured::MeasuredLayer;
use super::pim::PimDevices;
use super::platform::Platform;
use super::switches::{Switch, Switches};
use pimattn_attacc::{Attention, Form, UnitLevel};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;

/// Tokens that a query head may attend to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenBudget {
    /// All.
    Full,
    /// So many; PIM rounds them up to whole rows.
    Tokens(u32),
    /// So many at each step in turn, and as many as at the last one afterwards.
    PerStep(Vec<u32>),
}

impl TokenBudget {
    /// Tokens at a step, from 0.
    pub fn at(&self, step: u32) -> Option<u32> {
        match self {
            TokenBudget::Full => None,
            TokenBudget::Tokens(n) => Some(*n),
            TokenBudget::PerStep(table) => table.get(step as usize).or(table.last()).copied(),
        }
    }
}

/// What is asked of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Requests that are decoded together.
    pub batch: u32,
    /// Tokens of each prompt.
    pub prefill: u32,
    /// Decode steps; step s, from 0, attends to `prefill + s + 1` tokens.
    pub steps: u32,
    /// Bytes of an element: 1 or 2.
    pub bytes: u32,
    /// Tokens attended to.
    pub budget: TokenBudget,
    /// Where the GEMV units are.
    pub mode: UnitLevel,
    /// Whether the supply limits the PIM devices' activations.
    pub power_limit: bool,
    /// Pipelining over heads: projections of one beside the attention of another.
    pub pipeline: bool,
    /// PIM devices take a part of the feed-forward matrices.
    pub coprocess: bool,
}

impl Service {
    fn check(&self, model: &Model, platform: &Platform) -> Result<()> {
        let usage = |what: String| Err(Error::Usage(what));
        let most = 1 << 22;
        for (name, n) in [("batch", self.batch), ("prefill", self.prefill), ("steps", self.steps)] {
            if !(1..=most).contains(&n) {
                return usage(format!("--{name} is {n}; 1..={most} is possible"));
            }
        }
        if !(1..=2).contains(&self.bytes) {
            return usage(format!("--bytes is {}; 1 and 2 are possible", self.bytes));
        }
        let empty = match &self.budget {
            TokenBudget::Full => false,
            TokenBudget::Tokens(n) => *n == 0,
            TokenBudget::PerStep(table) => table.is_empty() || table.contains(&0),
        };
        if empty {
            return usage("the KV budget is 0; at least one token is needed".into());
        }
        let gpus = platform.gpu.devices as u32;
        if !model.heads.is_multiple_of(gpus) {
            return usage(format!("{} heads of {} do not divide over {gpus} devices", model.heads, model.name));
        }
        Ok(())
    }
}

/// What a service costs.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceCost {
    /// The prefill.
    pub prefill: Cost,
    /// Each decode step.
    pub steps: Vec<Cost>,
}

impl ServiceCost {
    /// The mean step.
    pub fn mean(&self) -> Cost {
        let mut out = Cost::default();
        self.steps.iter().for_each(|s| out.add_scaled(s, 1.0 / self.steps.len() as f64));
        out
    }
}

/// A machine at its service: what all steps have in common.
struct ServiceContext<'w> {
    model: Model,
    service: &'w Service,
    switches: Switches,
    gpus: u32,
    roofline: Roofline<'w>,
    pim: Option<PimDevices<'w>>,
}

/// Prefill and decode steps of `service`. Attention is on the PIM devices, by what `stacks` knows of it, where the
/// platform has them; else on the GPUs.
///
/// # Errors
/// When the service makes no sense for the model or the platform, and what `stacks` says.
pub fn serve(
    platform: &Platform,
    model: &Model,
    service: &Service,
    stacks: Option<&mut dyn Attend>,
) -> Result<ServiceCost> {
    serve_until(&Cancel::new(), platform, model, service, stacks)
}

/// [`serve`], unless `cancel` is requested.
///
/// # Errors
/// Those of [`serve`], and [`Error::Interrupted`].
pub fn serve_until(
    cancel: &Cancel,
    platform: &Platform,
    model: &Model,
    service: &Service,
    stacks: Option<&mut dyn Attend>,
) -> Result<ServiceCost> {
    service.check(model, platform)?;
    let switches = platform.switches;
    let model = if switches.has(Switch::PublishedModels) { model.as_published() } else { model.clone() };
    let gpus = platform.gpu.devices as u32;
    let form = if switches.has(Switch::PublishedSchedule) { Form::Published } else { Form::Exact };
    let (attention, system) = match (&platform.pim, stacks) {
        (Some(pim), Some(stacks)) => {
            let heads = (model.heads / gpus * service.batch).div_ceil(pim.stacks);
            let wanted: Vec<Attention> =
                (0..service.steps).map(|s| stack_attention(&model, service, heads, s)).collect();
            (stacks.attend(form, &wanted)?, Some((pim, stacks.system().clone())))
        }
        _ => (Vec::new(), None),
    };
    let system = system.as_ref().map(|(_, system)| system);
    let mut work = ServiceContext::new(platform, model, service, system);
    let prefill = work.prefill();
    let steps = (0..service.steps).map(|s| {
        cancel.check()?;
        Ok(work.step(s, attention.get(s as usize)))
    });
    Ok(ServiceCost { prefill, steps: steps.collect::<Result<_>>()? })
}

/// Prefill and decode steps of `service` with the attention that a run has measured: on the PIM devices, of which `stack` is
/// one, where it is given, as they were measured; else on the GPUs, which gather the tokens that the run selected, read what
/// its policy reads to choose them, and keep the cache in its order.
///
/// # Errors
/// When the service makes no sense for the model or the platform, and [`Error::Interrupted`].
pub fn serve_measured(
    cancel: &Cancel,
    platform: &Platform,
    model: &Model,
    service: &Service,
    stack: Option<&System>,
    run: &FittedRun,
) -> Result<ServiceCost> {
    service.check(model, platform)?;
    let mut work = ServiceContext::new(platform, model.clone(), service, stack);
    let prefill = work.prefill();
    let steps = run.steps.iter().map(|layers| {
        cancel.check()?;
        Ok(work.measured_step(layers, run.stacks))
    });
    Ok(ServiceCost { prefill, steps: steps.collect::<Result<_>>()? })
}

fn stack_attention(model: &Model, service: &Service, heads: u32, step: u32) -> Attention {
    Attention {
        mode: service.mode,
        heads,
        len: service.prefill + step + 1,
        dim: model.head_dim,
        bytes: service.bytes,
        kv_budget: service.budget.at(step),
        clustering: false,
    }
}

impl<'w> ServiceContext<'w> {
    /// With attention on the PIM devices of the platform, of which `stack` is one; without it, on the GPUs.
    fn new(platform: &'w Platform, model: Model, service: &'w Service, stack: Option<&'w System>) -> Self {
        let (gpu, switches) = (&platform.gpu, platform.switches);
        let pim = platform.pim.as_ref().zip(stack).map(|(pim, system)| PimDevices {
            pim,
            gpu,
            system,
            mode: service.mode,
            power_limit: service.power_limit,
            switches,
        });
        let roofline = Roofline::new(gpu, switches);
        ServiceContext { model, service, switches, gpus: gpu.devices as u32, roofline, pim }
    }

    fn block(&self, stage: ForwardPass) -> Vec<LayerWork> {
        let split = Split { gpus: self.gpus, pim: self.pim.is_some() };
        block(&self.model, stage, self.service.batch, self.service.bytes, split)
    }

    /// All layers of the model.
    fn all_layers(&self, layer: &Cost) -> Cost {
        let mut out = Cost::default();
        out.add_scaled(layer, f64::from(self.model.layers));
        out.attention_cycles = layer.attention_cycles;
        out
    }

    fn prefill(&mut self) -> Cost {
        let tokens = self.service.prefill;
        let mut cost = Cost::default();
        for layer in self.block(ForwardPass { tokens, cache: tokens.into(), prefill: true }) {
            if layer.part == LayerPart::Link && self.switches.has(Switch::FreePrefillLink) {
                continue;
            }
            let timed = self.roofline.cost(&layer);
            cost.add(layer.part, timed.seconds, &timed.energy);
        }
        self.stand(&mut cost, &[]);
        self.all_layers(&cost)
    }

    /// Adds what the PIM devices take while parts last that have not counted it.
    fn stand(&self, cost: &mut Cost, counted: &[LayerPart]) {
        let Some(pim) = &self.pim else { return };
        for part in LayerPart::ALL.into_iter().filter(|part| !counted.contains(part)) {
            cost.add(part, 0.0, &pim.idle(cost.seconds[part as usize]));
        }
    }

    /// The step with this index; with PIM, its attention.
    fn step(&mut self, step: u32, stack: Option<&StackCost>) -> Cost {
        let len = self.service.prefill + step + 1;
        let attended = self.service.budget.at(step).map_or(len, |b| b.min(len));
        let cache = if self.pim.is_some() { len } else { attended };
        let attend = |context: &mut Self, layer: LayerWork, cost: &mut Cost| {
            let (Some(pim), Some(stack)) = (&context.pim, stack) else {
                let timed = context.roofline.cost(&layer);
                cost.add(layer.part, timed.seconds, &timed.energy);
                return 0.0;
            };
            match layer.part {
                LayerPart::Score => {
                    cost.add(layer.part, stack.seconds, &pim.attention(stack, &layer, step == 0));
                    cost.attention_cycles = stack.cycles as f64;
                    0.0
                }
                LayerPart::Softmax => {
                    let dense = context.switches.has(Switch::DenseSoftmax);
                    let layer = if dense { layer } else { LayerWork { n: attended.into(), ..layer } };
                    let (seconds, energy) = pim.softmax(&layer);
                    // Its time is within that of attention, which has the commands for it.
                    cost.add(layer.part, 0.0, &energy);
                    if dense { seconds } else { 0.0 }
                }
                _ => 0.0,
            }
        };
        let layer = self.layer(cache.into(), attend);
        self.all_layers(&layer)
    }

    /// The step of these attentions, one for each layer of the model, measured on one of `stacks` alike.
    fn measured_step(&mut self, layers: &[MeasuredLayer], stacks: f64) -> Cost {
        let mut step = Cost::default();
        for measured in layers {
            let cost = match self.pim.is_some() {
                true => self.layer_on_pim(measured, stacks),
                false => self.layer_on_gpus(measured),
            };
            step.add_scaled(&cost, 1.0);
        }
        step.attention_cycles /= layers.len() as f64;
        step
    }

    /// KV heads of the platform over those of a run.
    fn heads_over(&self, measured: &MeasuredLayer) -> f64 {
        let heads = self.model.kv_heads_of_device(self.gpus) * self.service.batch * self.gpus;
        f64::from(heads) / measured.kv_heads
    }

    /// A layer whose attention was measured on PIM.
    fn layer_on_pim(&mut self, measured: &MeasuredLayer, stacks: f64) -> Cost {
        let heads = self.heads_over(measured);
        let mut energy = ComponentEnergy::default();
        energy[EnergyComponent::PimMemory as usize] = measured.memory * heads;
        energy[EnergyComponent::PimCompute as usize] = measured.compute * heads;
        energy[EnergyComponent::PimStanding as usize] = measured.standing * stacks;
        let mean = measured.selected / measured.query_heads;
        self.layer(mean, |context, layer, cost| {
            match (layer.part, &context.pim) {
                (LayerPart::Score, _) => {
                    cost.add(layer.part, measured.seconds, &energy);
                    cost.attention_cycles = measured.cycles;
                }
                // Its time is within that of attention.
                (LayerPart::Softmax, Some(pim)) => cost.add(layer.part, 0.0, &pim.softmax(&layer).1),
                _ => {}
            }
            0.0
        })
    }

    /// A layer whose attention the GPUs do, of the tokens that a run selected.
    fn layer_on_gpus(&mut self, measured: &MeasuredLayer) -> Cost {
        let heads = self.heads_over(measured) / f64::from(self.gpus);
        let bytes = f64::from(self.service.bytes);
        let piece = measured.useful / 2.0 / measured.extents;
        let mean = measured.selected / measured.query_heads;
        let mut cost = self.layer(mean, |context, layer, cost| {
            let timed = match layer.part {
                LayerPart::Score | LayerPart::Context => {
                    // Query heads of a group share the tokens that several of them selected.
                    let layer = LayerWork { shared: measured.selected / measured.distinct, ..layer };
                    context.roofline.gathered(&layer, piece)
                }
                _ => context.roofline.cost(&layer),
            };
            cost.add(layer.part, timed.seconds, &timed.energy);
            0.0
        });
        let work = PolicyWork {
            scanned: measured.scanned * heads,
            upkeep: measured.upkeep * heads,
            sharing: measured.query_heads / measured.kv_heads,
            bytes,
        };
        let timed = self.roofline.policy(&work);
        cost.add(LayerPart::Policy, timed.seconds, &timed.energy);
        cost
    }

    /// One layer of a step, over `cache` tokens. `attend` adds what scores, softmax and outputs cost; it says how long softmax
    /// takes beside attention, in s.
    fn layer(&mut self, cache: f64, mut attend: impl FnMut(&mut Self, LayerWork, &mut Cost) -> f64) -> Cost {
        let mut cost = Cost::default();
        let mut softmax_seconds = 0.0;
        let mut late_link = 0.0;
        for layer in self.block(ForwardPass { tokens: 1, cache, prefill: false }) {
            match (layer.part, &self.pim) {
                (LayerPart::Score | LayerPart::Context | LayerPart::Softmax, _) => {
                    softmax_seconds += attend(self, layer, &mut cost);
                }
                (LayerPart::Link, Some(pim)) => {
                    let (seconds, energy) = pim.transfer(layer.traffic());
                    cost.add(layer.part, seconds, &energy);
                }
                (LayerPart::FeedForward, Some(pim)) if self.service.coprocess => {
                    let alone = self.roofline.cost(&layer);
                    match pim.share(&layer, &alone) {
                        None => cost.add(layer.part, alone.seconds, &alone.energy),
                        Some(shared) => {
                            cost.add(layer.part, shared.gpu.seconds, &shared.gpu.energy);
                            cost.add(layer.part, 0.0, &shared.pim);
                            cost.add(LayerPart::Link, 0.0, &shared.link);
                            late_link += shared.link_seconds;
                        }
                    }
                }
                (part, _) => {
                    let timed = self.roofline.cost(&layer);
                    cost.add(part, timed.seconds, &timed.energy);
                }
            }
        }
        if self.pim.is_some() {
            self.overlap(&mut cost, softmax_seconds);
        }
        cost.seconds[LayerPart::Link as usize] += late_link;
        self.stand(&mut cost, &[LayerPart::Score]);
        cost
    }

    /// Heads follow each other through the projections, the link and attention. Of stages that overlap, the longest
    /// shows whole, and of the others one head. The time that is hidden is taken off them, never off attention.
    /// The link and attention always overlap; the projections do with `pipeline`.
    fn overlap(&self, cost: &mut Cost, softmax_seconds: f64) {
        let shown = 1.0 / f64::from(self.model.kv_heads_of_device(self.gpus));
        let of = |part: LayerPart| cost.seconds[part as usize];
        let attention = of(LayerPart::Score) + softmax_seconds;
        let (qkv, projection, link) = (of(LayerPart::Qkv), of(LayerPart::Projection), of(LayerPart::Link));
        let hidden = attention * (1.0 - shown);
        let projections = if self.service.pipeline { qkv + projection } else { 0.0 };
        let is_longest = |this: f64, other: f64| this >= attention && this > other;
        let (mut qkv_left, mut projection_left) = (qkv, projection);
        if self.service.pipeline && is_longest(projections, link) {
            let qkv_share = if self.switches.has(Switch::FixedShares) { 0.75 } else { qkv / projections };
            qkv_left -= hidden * qkv_share;
            projection_left -= hidden * (1.0 - qkv_share);
        } else if self.service.pipeline {
            qkv_left *= shown;
            projection_left *= shown;
        }
        let link_left = match link >= attention && link >= projections {
            true => link - hidden,
            false => link * shown,
        };
        for (part, left) in
            [(LayerPart::Qkv, qkv_left), (LayerPart::Projection, projection_left), (LayerPart::Link, link_left)]
        {
            cost.seconds[part as usize] = left;
        }
    }
}
