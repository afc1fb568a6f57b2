//! Puts a run in place of a model's attention: checks that it is of this model, this service and this platform, and says
//! which of its layers stand for which of the model's.
//!
//! - *Heads.* The run has either all heads of the batch on all stacks of the platform, or those of the fullest stack on one
//!   stack. Energy of one stack goes with the heads, standing power with the stacks. On GPUs, the mean head of the run stands
//!   for every head, wherever it was measured.
//! - *Layers.* A layer that the run has measured counts as it was measured. The model's first dense layers, where the run has
//!   none of them, count as the mean layer of a run of full attention over the same cache; all others as the mean of the
//!   layers that the run has measured behind the dense ones.

use super::measured::{MeasuredLayer, MeasuredRun, MeasuredStep};
use super::platform::Platform;
use super::{Model, Service};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use std::collections::BTreeMap;
use std::path::Path;

/// A run as the attention of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedRun {
    /// The trace, as it was named.
    pub trace: String,
    /// The selection policy, where the trace says it.
    pub policy: Option<String>,
    /// Tokens that a query head may select, where the trace says it.
    pub budget: Option<u32>,
    /// Layers of the model that stay full.
    pub dense_layers: u32,
    /// Layers of the model that the run has measured.
    pub measured_layers: u32,
    /// By step, the attention of each layer of the model.
    pub steps: Vec<Vec<MeasuredLayer>>,
    /// All stacks of the platform over those of the run.
    pub stacks: f64,
}

/// What of a service a run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunShape {
    /// Requests decoded together, where the run has all heads of the batch.
    pub batch: Option<u32>,
    /// Tokens of each prompt.
    pub prefill: u32,
    /// Decode steps of the service.
    pub steps: u32,
}

/// Stacks of the platform, of `stack`: all, and those of a device.
fn stacks(platform: &Platform) -> Option<(u32, u32)> {
    platform.pim.as_ref().map(|pim| (platform.gpu.devices as u32 * pim.stacks, pim.stacks))
}

impl MeasuredRun {
    /// What the run says of a service. `stack` is a stack of the platform, where it has any.
    ///
    /// # Errors
    /// [`Error::Config`] where its steps do not follow each other, its requests differ in length, or its layers in heads.
    pub fn shape(&self, model: &Model, platform: &Platform, stack: Option<&System>) -> Result<RunShape> {
        let first = self.steps[0].position;
        for pair in self.steps.windows(2) {
            let (before, behind) = (pair[0].position, pair[1].position);
            if before.checked_add(1) != Some(behind) {
                return self.wrong(format!("decodes token {behind} behind token {before}"));
            }
        }
        if self.origin.lengths_differ() {
            return self
                .wrong("its requests differ in length, and a service has one: batch.prefill of the workload".into());
        }
        let heads = self.heads()?;
        let all =
            stack.zip(stacks(platform)).is_some_and(|(s, (n, _))| self.channels == n * s.device.geometry.channels);
        let whole = heads.is_multiple_of(model.kv_heads);
        let batch = (all && whole).then_some(heads / model.kv_heads);
        Ok(RunShape { batch, prefill: first, steps: self.steps.len() as u32 })
    }

    /// KV heads of each of its layers.
    fn heads(&self) -> Result<u32> {
        let mut heads = None;
        for (i, step) in self.steps.iter().enumerate() {
            for (layer, l) in &step.layers {
                let selects = l.extents > 0.0 && l.distinct > 0.0 && l.selected >= l.distinct;
                if l.kv_heads <= 0.0 || !selects {
                    return self
                        .wrong(format!("step {i} does not say the heads of layer {layer} or what they selected"));
                }
                let n = *heads.get_or_insert(l.kv_heads);
                if l.kv_heads != n {
                    return self
                        .wrong(format!("layers have {n} KV heads, layer {layer} of step {i} has {}", l.kv_heads));
                }
            }
            if !step.layers.keys().eq(self.steps[0].layers.keys()) {
                return self.wrong(format!("step {i} has other layers than step 0"));
            }
        }
        Ok(heads.unwrap_or_default() as u32)
    }

    fn wrong<T>(&self, what: String) -> Result<T> {
        Err(Error::Config { at: self.place.clone(), what })
    }

    /// The run as the attention of `model` in `service`, on the PIM devices where `stack` is given, one of their stacks; else
    /// on GPUs. Runs of full attention among `others` stand for dense layers that it has not measured.
    ///
    /// # Errors
    /// [`Error::Config`] where the run is of another model, service, device or system, or dense layers are measured nowhere.
    pub fn fit(
        &self,
        model: &Model,
        service: &Service,
        platform: &Platform,
        stack: Option<&System>,
        dense_layers: Option<u32>,
        others: &[MeasuredRun],
    ) -> Result<FittedRun> {
        self.is_of(model, service)?;
        let stacks = match stack {
            Some(stack) => self.is_on(model, service, platform, stack)?,
            None => 1.0,
        };
        let dense = dense_layers.or(self.origin.dense_layers());
        let Some(dense_layers) = dense.map(|d| d.min(model.layers)) else {
            return self.wrong("the trace does not say its dense layers: --dense-layers does".into());
        };
        let measured: Vec<u32> = self.steps[0].layers.keys().copied().collect();
        let sparse =
            |step: &MeasuredStep| step.layers.range(..dense_layers).find(|(_, l)| !step.is_full(l)).map(|(l, _)| *l);
        if let Some(layer) = self.steps.iter().find_map(sparse) {
            return self.wrong(format!(
                "layer {layer} is one of the first {dense_layers}, which stay full, and leaves tokens out"
            ));
        }
        let donor = self.donor(&measured, dense_layers, others)?;
        let layers =
            |(i, step): (usize, &MeasuredStep)| self.layers(model, step, dense_layers, donor.map(|d| &d.steps[i]));
        Ok(FittedRun {
            trace: self.trace.clone(),
            policy: self.origin.policy().map(str::to_string),
            budget: self.origin.budget().filter(|_| !self.is_full()),
            dense_layers,
            measured_layers: measured.len() as u32,
            steps: self.steps.iter().enumerate().map(layers).collect::<Result<_>>()?,
            stacks,
        })
    }

    /// Checks what does not depend on where attention is.
    fn is_of(&self, model: &Model, service: &Service) -> Result<()> {
        let shape = (self.steps[0].position, self.steps.len());
        if shape != (service.prefill, service.steps as usize) {
            let (prefill, steps) = (service.prefill, service.steps);
            return self.wrong(format!(
                "{} steps behind {} tokens; the service has {steps} steps behind {prefill}",
                shape.1, shape.0
            ));
        }
        if let Some(bytes) = self.origin.element_bytes.filter(|b| *b != service.bytes) {
            return self.wrong(format!("elements of {bytes} bytes; --bytes is {}", service.bytes));
        }
        let vector = model.head_dim * service.bytes;
        let (queries, keys) = (model.heads / model.kv_heads, model.kv_heads);
        for (layer, l) in self.steps.iter().flat_map(|s| &s.layers) {
            if *layer >= model.layers {
                return self.wrong(format!("layer {layer} of {}, which has {}", model.name, model.layers));
            }
            let of_run = l.useful / (2.0 * l.distinct);
            if of_run != f64::from(vector) {
                return self.wrong(format!(
                    "keys of {of_run} bytes in layer {layer}; {} has {vector} ({} elements of {})",
                    model.name, model.head_dim, service.bytes
                ));
            }
            let group = l.query_heads / l.kv_heads;
            if group != f64::from(queries) {
                return self.wrong(format!(
                    "{group} query heads share a KV head of layer {layer}; in {} {queries} do ({keys} KV heads)",
                    model.name
                ));
            }
        }
        Ok(())
    }

    /// Checks that the run is of the platform's stacks and has the heads of one or of all; all stacks over those of the run.
    fn is_on(&self, model: &Model, service: &Service, platform: &Platform, stack: &System) -> Result<f64> {
        let device = format!("{} {}", stack.device.name, stack.device.preset);
        if self.device != device {
            return self.wrong(format!("on {}; a stack of {} is {device}", self.device, platform.name));
        }
        if let Some(settings) = &self.origin.settings {
            self.has_settings(settings, stack, platform)?;
        }
        let (gpus, channels) = (platform.gpu.devices as u32, stack.device.geometry.channels);
        let Some((all, of_device)) = stacks(platform) else {
            return self.wrong(format!("{} has no PIM devices", platform.name));
        };
        if !model.kv_heads.is_multiple_of(gpus) {
            let what = format!("{} KV heads of {} do not divide over {gpus} devices", model.kv_heads, model.name);
            return self.wrong(what);
        }
        let (whole, batch) = (model.kv_heads * service.batch, service.batch);
        let fullest = (model.kv_heads / gpus * batch).div_ceil(of_device);
        let heads = self.heads()?;
        match (self.channels, heads) {
            (c, h) if c == all * channels && h == whole => Ok(1.0),
            (c, h) if c == channels && h == fullest => Ok(f64::from(all)),
            (c, h) => self.wrong(format!(
                "{h} KV heads a layer on {c} channels; {} on {} has {whole} on {} at batch {batch}, and {fullest} on the {channels} \
                 of the fullest stack",
                model.name,
                platform.name,
                all * channels
            )),
        }
    }

    /// Checks that the system of the run differs from a stack of the platform in nothing but its name, its channels, and the
    /// place of its device file.
    fn has_settings(&self, ours: &toml::Table, stack: &System, platform: &Platform) -> Result<()> {
        let theirs: toml::Table = toml::from_str(&stack.settings)
            .map_err(|e| Error::Config { at: stack.name.clone(), what: e.message().to_string() })?;
        let (ours, theirs) = (settings(ours), settings(&theirs));
        let Some(key) = ours.keys().chain(theirs.keys()).find(|key| ours.get(*key) != theirs.get(*key)) else {
            return Ok(());
        };
        let of = |table: &BTreeMap<String, String>| match table.get(key) {
            Some(value) => format!("{key} = {value}"),
            None => format!("no {key}"),
        };
        self.wrong(format!("its system has {}; a stack of {} has {}", of(&ours), platform.name, of(&theirs)))
    }

    /// The run whose layers stand for dense ones that this one has not measured; none where none is needed.
    fn donor<'r>(
        &'r self,
        measured: &[u32],
        dense_layers: u32,
        others: &'r [MeasuredRun],
    ) -> Result<Option<&'r MeasuredRun>> {
        if dense_layers == 0 || measured.iter().any(|layer| *layer < dense_layers) {
            return Ok(None);
        }
        if self.is_full() {
            return Ok(Some(self));
        }
        let (mine, heads) = (self.steps.iter().map(|s| s.position), self.heads()?);
        let fits = |run: &&MeasuredRun| {
            run.is_full()
                && run.channels == self.channels
                && run.heads().is_ok_and(|h| h == heads)
                && run.steps.iter().map(|s| s.position).eq(mine.clone())
        };
        match others.iter().find(fits) {
            Some(run) => Ok(Some(run)),
            None => self.wrong(format!(
                "the first {dense_layers} layers of the model stay full, and no run has measured any: add a run of full attention \
                 with the same heads and steps, or --dense-layers 0"
            )),
        }
    }

    /// The attention of each layer of the model at a step; `donor` is that step of the run that stands for dense layers.
    fn layers(
        &self,
        model: &Model,
        step: &MeasuredStep,
        dense_layers: u32,
        donor: Option<&MeasuredStep>,
    ) -> Result<Vec<MeasuredLayer>> {
        let mean = |step: &MeasuredStep, which: &dyn Fn(u32) -> bool| {
            let layers: Vec<MeasuredLayer> =
                step.layers.iter().filter(|(layer, _)| which(**layer)).map(|(_, l)| *l).collect();
            MeasuredLayer::mean(&layers)
        };
        let dense = donor.map_or_else(|| mean(step, &|l| l < dense_layers), |donor| mean(donor, &|_| true));
        let sparse = mean(step, &|l| l >= dense_layers);
        let layer = |l: u32| step.layers.get(&l).copied().or(if l < dense_layers { dense } else { sparse });
        match (0..model.layers).map(layer).collect() {
            Some(layers) => Ok(layers),
            None => self.wrong(format!("no layer behind the first {dense_layers}, which stay full, is measured")),
        }
    }
}

/// The values of a system file by dotted key, but for its name, its channels, and the folder of its device file.
fn settings(table: &toml::Table) -> BTreeMap<String, String> {
    fn add(prefix: &str, table: &toml::Table, out: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match (key.as_str(), value) {
                ("name" | "channels", _) => {}
                (_, toml::Value::Table(inner)) => add(&key, inner, out),
                ("dram.device", toml::Value::String(path)) => {
                    let name = Path::new(path).file_name().map_or(path.clone(), |n| n.to_string_lossy().into_owned());
                    out.insert(key, name);
                }
                _ => {
                    out.insert(key, value.to_string());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    add("", table, &mut out);
    out
}

/// Checks that runs are of the same cache, as far as their traces say where it comes from: what stands beside each other must
/// be comparable.
///
/// # Errors
/// [`Error::Config`] where two are not.
pub fn same_cache(runs: &[MeasuredRun]) -> Result<()> {
    let known = || runs.iter().filter_map(|r| Some((r, r.origin.provenance.as_deref()?)));
    let Some((first, cache)) = known().next() else { return Ok(()) };
    match known().find(|(_, other)| *other != cache) {
        Some((run, other)) => run.wrong(format!("of the cache \"{other}\"; {} is of \"{cache}\"", first.place)),
        None => Ok(()),
    }
}
