//! Loading a workload: its system, policy and caches, and whether they fit together.

use super::chosen::{Chosen, ImportedSelection};
use super::selections::{self, CacheSet, Selections};
use super::{Generator, ideal, label, spelled};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::config::Document;
use pimattn_core::spec::{Device, System};
use pimattn_kv::KvCache;
use pimattn_mapping::emit::DeviceLayout;
use pimattn_mapping::heads;
use pimattn_mapping::layout::{Shape, Side};
use pimattn_mapping::placement::{self, HeadCounts};
use pimattn_mapping::scan;
use pimattn_mapping::schedule::Costs;
use pimattn_mapping::workload::{Addressing, Mapping, Workload};
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::{self, Policy};
use pimattn_policies::selection::{Selection, SelectionFit};
use pimattn_trace::Header;
use pimattn_trace::header::spec_hash;
use pimattn_trace::label::SelectionLabel;
use std::path::Path;
use std::sync::Arc;

impl Generator {
    /// Loads the workload's system, KV cache (or `kv` instead) and policy, and checks that they fit together.
    pub fn load(workload: Workload, doc: &Document, kv: Option<&Path>) -> Result<Self> {
        let system = workload.load_system(doc, &[])?;
        Generator::load_for(&Cancel::new(), system, workload, doc, kv)
    }

    /// As [`Generator::load`], for a system that is loaded already, unless `cancel` is requested.
    ///
    /// # Errors
    /// Those of [`Generator::load`], and [`Error::Interrupted`].
    pub fn load_for(
        cancel: &Cancel,
        system: System,
        workload: Workload,
        doc: &Document,
        kv: Option<&Path>,
    ) -> Result<Self> {
        let policy = checked_policy(&workload, doc)?;
        let caches = || CacheSet::load(cancel, &workload, doc, kv);
        Generator::assemble(system, workload.clone(), doc, Chosen::Policy(policy), caches, kv)
    }

    /// As [`Generator::load_for`], of caches that are there, which the workload's source would have given.
    ///
    /// # Errors
    /// Those of [`Generator::load`].
    pub fn load_on(
        cached: &Arc<CacheSet>,
        system: System,
        workload: Workload,
        doc: &Document,
        kv: Option<&Path>,
    ) -> Result<Self> {
        let policy = checked_policy(&workload, doc)?;
        Generator::assemble(system, workload, doc, Chosen::Policy(policy), || Ok(cached.clone()), kv)
    }

    /// A generator that selects nothing again: `workload` takes `selections`, which one that differs from it in mapping, costs
    /// and system alone has made. Of their steps it has the first ones.
    ///
    /// # Errors
    /// Those of [`Generator::load`], and [`Error::Config`] where the workload would select something else, or in more steps.
    pub fn load_selected(
        selections: &Selections,
        system: System,
        workload: Workload,
        doc: &Document,
        kv: Option<&Path>,
    ) -> Result<Self> {
        selections.check(doc, kv)?;
        let policy = checked_policy(&workload, doc)?;
        let caches = || Ok(selections.cached().clone());
        let mut generator = Generator::assemble(system, workload, doc, Chosen::Policy(policy), caches, kv)?;
        if generator.steps() > selections.steps() {
            let what = format!("{} steps, of which {} were selected", generator.steps(), selections.steps());
            return Err(doc.error("steps", what));
        }
        generator.selections = Some(selections.clone());
        Ok(generator)
    }

    /// A generator that selects nothing itself: `selection` says what the layers that do not stay full select of the cache, in place
    /// of the workload's `policy`. It has as many steps as both have. Accuracy is measured as that of a policy is.
    ///
    /// # Errors
    /// [`Error::Data`] where the selection does not fit ([`Selection::recordings`]), [`Error::Config`] where the workload does not, or
    /// its requests have caches of their own.
    pub fn load_imported(
        cached: &Arc<CacheSet>,
        system: System,
        mut workload: Workload,
        doc: &Document,
        kv: Option<&Path>,
        selection: &Selection,
    ) -> Result<Self> {
        let [cache] = cached.caches() else {
            let what = "each request has a cache of its own; a selection is of one cache: a dump, or a batch of one";
            return Err(doc.error("batch.requests", what));
        };
        for name in workload.policies.keys() {
            self::policy(&workload, doc, name)?;
        }
        let element_bytes = workload.mapping.element_bytes(cache.element_bytes);
        let fit = SelectionFit { cache, dense_layers: workload.dense_layers, budget: workload.budget, element_bytes };
        let heads = selection.recordings(&fit)?;
        let (steps, there) = (selection.steps_on(cache)?, cache.decode_positions().len());
        let is_cut = steps < there && (workload.steps == 0 || workload.steps > steps);
        workload.steps = if is_cut { steps } else { workload.steps };
        let widest = heads.iter().map(HeadRecording::widest_scan).max().unwrap_or(0);
        workload.policy = selection.policy().into();
        let imported = ImportedSelection {
            facts: selection.facts().clone(),
            hash: selections::imported_hash(selection, &workload),
            heads,
            cut: is_cut.then_some(steps),
        };
        let caches = || Ok(cached.clone());
        let generator = Generator::assemble(system, workload, doc, Chosen::Imported(imported), caches, kv)?;
        match scan::fits_row(&generator.target, widest) {
            true => Ok(generator),
            false => Err(Error::Check(format!(
                "selection {}: what it reads to select has vectors of {widest} elements, longer than a row of a unit",
                generator.chosen.name()
            ))),
        }
    }

    /// A generator of what is in memory: a system, a workload made in code and a cache, which takes the place of the
    /// workload's `kv`, `synthetic` and `model`. The workload's `system` is a name in the trace's header, no more.
    ///
    /// # Errors
    /// [`Error::Config`] where they do not fit together or the policy is unknown, [`Error::Data`] where the cache
    /// contradicts itself.
    pub fn new(system: System, workload: Workload, cache: KvCache) -> Result<Self> {
        let doc = document(&workload)?;
        let policy = checked_policy(&workload, &doc)?;
        Generator::of_cache(system, workload, doc, policy, cache)
    }

    /// As [`Generator::new`], with a policy that is in no registry. The workload's `policy` is its name alone.
    pub fn with_policy(
        system: System,
        mut workload: Workload,
        cache: KvCache,
        policy: Box<dyn Policy>,
    ) -> Result<Self> {
        workload.policy = policy.name().into();
        let doc = document(&workload)?;
        for name in workload.policies.keys() {
            self::policy(&workload, &doc, name)?;
        }
        Generator::of_cache(system, workload, doc, policy, cache)
    }

    /// As [`Generator::new`], with a selection in place of the workload's policy ([`Generator::load_imported`]).
    ///
    /// # Errors
    /// Those of both.
    pub fn with_selection(system: System, workload: Workload, cache: KvCache, selection: &Selection) -> Result<Self> {
        let workload = Workload { policy: selection.policy().into(), ..workload };
        let doc = document(&workload)?;
        workload.check(&doc)?;
        let requests = workload.batch.requests;
        let cached = Arc::new(CacheSet::new(vec![cache.validated()?], vec![0; requests])?);
        Generator::load_imported(&cached, system, workload, &doc, None, selection)
    }

    fn of_cache(
        system: System,
        workload: Workload,
        doc: Document,
        policy: Box<dyn Policy>,
        cache: KvCache,
    ) -> Result<Self> {
        workload.check(&doc)?;
        let requests = workload.batch.requests;
        let caches = || Ok(Arc::new(CacheSet::new(vec![cache.validated()?], vec![0; requests])?));
        Generator::assemble(system, workload, &doc, Chosen::Policy(policy), caches, None)
    }

    /// Puts together what was loaded or handed over, and checks that it fits together.
    fn assemble(
        system: System,
        workload: Workload,
        doc: &Document,
        chosen: Chosen,
        caches: impl FnOnce() -> Result<Arc<CacheSet>>,
        kv: Option<&Path>,
    ) -> Result<Self> {
        let full = self::policy(&workload, doc, select::full::ENTRY.name)?;
        if let Chosen::Policy(policy) = &chosen {
            check_budget(&workload, doc, policy.as_ref())?;
        }
        has_operations(&system.device, &workload.mapping, doc)?;
        let cached = caches()?;
        let caches = cached.caches();
        let cache = &caches[0];
        let geometry = system.device.geometry;
        let entry_bytes = system.device.entry_bytes;
        let element_bytes = workload.mapping.element_bytes(cache.element_bytes);
        let shape = Shape::new(&geometry, cache.dim, element_bytes, entry_bytes, workload.mapping.values)
            .map_err(|e| doc.error("mapping", e))?;
        if workload.mapping.addressing == Addressing::Ideal && caches.iter().any(|c| c.prefill != cache.prefill) {
            let what = "addressing = \"ideal\" has one length for all heads; the requests have several";
            return Err(doc.error("batch.prefill", what));
        }
        let heads = HeadCounts { layers: cache.layers.len() as u32, kv_heads: cache.kv_heads as u32 };
        let lengths: Vec<usize> = (0..cached.requests()).map(|r| cached.of(r).tokens).collect();
        let homes =
            placement::homes(heads, &lengths, &workload.placement, &geometry).map_err(|e| doc.error("placement", e))?;
        if workload.mapping.addressing != Addressing::Ideal {
            for (i, home) in homes.iter().enumerate() {
                let cache = cached.of(i / cache.kv_heads % cached.requests());
                let steps = cache.decode_positions();
                let steps = if workload.steps == 0 { steps.len() } else { steps.len().min(workload.steps) };
                home.holds(cache.decode_positions().start + steps, &shape).map_err(|e| doc.error("placement", e))?;
            }
        }
        let header = Header {
            generator: concat!("tracegen ", env!("CARGO_PKG_VERSION")).into(),
            geometry,
            spec_hash: spec_hash(&geometry, &spelled::text(&workload.mapping, &workload.placement, &shape)),
            seed: workload.seed,
            config: kv.map_or_else(|| doc.canonical(), |kv| doc.canonical_with("kv", &kv.display().to_string())),
            // Of requests of several lengths, the longest has most to say.
            provenance: cached.longest().unwrap_or(cache).provenance.clone(),
            element_bytes,
            heads_per_read: system.device.heads_per_read,
            selection: None,
        };
        let costs = Costs::new(&workload, &system.device).ok_or_else(|| {
            doc.error("system", format!("{} has no PIM_MAC_AB, which every mapping needs", system.device.name))
        })?;
        let target = DeviceLayout { geometry, shape, heads_per_read: system.device.heads_per_read };
        let sets = shape.columns / shape.value_stripes;
        if heads::together(sets, system.device.accumulators).is_none() {
            let has = system.device.accumulators;
            let what = format!("the outputs of a query head need {sets} sets of accumulators; a unit has {has}");
            return Err(doc.error("mapping.values", what));
        }
        let mut basis = selections::basis(doc, kv)?;
        if let Chosen::Imported(imported) = &chosen {
            basis.push_str(&format!("\nselection {:08x}", imported.hash));
        }
        let label = Arc::new(label::of(&workload, doc, &chosen, &cached)?);
        let header = Header { selection: Some(SelectionLabel::clone(&label)), ..header };
        let generator = Generator {
            workload,
            system,
            cached,
            selections: None,
            basis,
            label,
            chosen,
            full,
            target,
            costs,
            homes,
            header,
        };
        ideal::check_clustering(&generator).map_err(|e| doc.error("clustering_cost", e.to_string()))?;
        Ok(generator)
    }
}

/// Refuses to make requests that no command of the device serves.
fn has_operations(device: &Device, mapping: &Mapping, doc: &Document) -> Result<()> {
    let of = |addressing: Addressing| match addressing {
        Addressing::BankGroup => &[Op::ActBg, Op::PreBg, Op::MacBg, Op::MacAb][..],
        Addressing::Broadcast | Addressing::Ideal => &[Op::MacAb],
    };
    let serves = |op: &Op| device.plans[*op as usize].is_some();
    let moves = [Op::WrGb, Op::MvSb, Op::MvGb, Op::Sfm];
    if let Some(op) = moves.iter().chain(of(Addressing::Broadcast)).find(|op| !serves(op)) {
        return Err(doc.error("system", format!("{} has no {}: nothing can attend on it", device.name, op.mnemonic())));
    }
    let value_key = if mapping.value_addressing.is_some() { "mapping.value_addressing" } else { "mapping.addressing" };
    for (side, key) in Side::BOTH.into_iter().zip(["mapping.addressing", value_key]) {
        if let Some(op) = of(side.arrangement(mapping).addressing).iter().find(|op| !serves(op)) {
            let name = key.trim_start_matches("mapping.");
            let what = format!(
                "{} has no {}, which {name} = \"bank-group\" asks for; it has {}, for \"broadcast\" and \"ideal\"",
                device.name,
                op.mnemonic(),
                Op::MacAb.mnemonic()
            );
            return Err(doc.error(key, what));
        }
    }
    Ok(())
}

/// Refuses a budget with which a policy cannot honour its definition.
pub(crate) fn check_budget(workload: &Workload, doc: &Document, policy: &dyn Policy) -> Result<()> {
    let (budget, least, name) = (workload.budget, policy.min_budget(), policy.name());
    match budget < least {
        true => Err(doc.error("budget", format!("budget {budget} is below the {least} tokens that {name} needs"))),
        false => Ok(()),
    }
}

/// The configuration of a workload that was made in code, as its file would be.
fn document(workload: &Workload) -> Result<Document> {
    let place = "workload";
    let table = toml::Table::try_from(workload)
        .map_err(|e| Error::Config { at: place.into(), what: format!("cannot be written as a file: {e}") })?;
    Ok(Document::of_table(place, table))
}

/// The policy of a workload, once the tables of all policies that it names are right.
pub(crate) fn checked_policy(workload: &Workload, doc: &Document) -> Result<Box<dyn Policy>> {
    let chosen = policy(workload, doc, &workload.policy)?;
    policy(workload, doc, "full")?;
    for name in workload.policies.keys() {
        policy(workload, doc, name)?;
    }
    Ok(chosen)
}

fn policy(workload: &Workload, doc: &Document, name: &str) -> Result<Box<dyn Policy>> {
    let at = if workload.policies.contains_key(name) && workload.policy != name {
        format!("policies.{name}")
    } else {
        "policy".into()
    };
    let entry = select::find(name).map_err(|e| doc.error(&at, e))?;
    let none = toml::Table::new();
    let table = workload.policies.get(name).unwrap_or(&none);
    (entry.build)(table).map_err(|e| doc.serde_error(&format!("policies.{name}.{}", e.key), &e.message))
}
