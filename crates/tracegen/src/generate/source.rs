//! Where the caches of a workload come from: a dump, or a synthetic source.

use super::selections::CacheSet;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::memory;
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::config::Document;
use pimattn_kv::fitted::{self, FittedModel, FittedShape, FittedSpec};
use pimattn_kv::synthetic::SyntheticSpec;
use pimattn_kv::{self as kv, KvCache};
use pimattn_mapping::workload::{Batch, Workload};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;

impl CacheSet {
    /// The caches that a workload decodes, of its own source or of `kv` instead, unless `cancel` is requested.
    ///
    /// # Errors
    /// Those of the source, [`Error::Config`] where the workload contradicts it, and [`Error::Interrupted`].
    pub fn load(cancel: &Cancel, workload: &Workload, doc: &Document, kv: Option<&Path>) -> Result<Arc<Self>> {
        Ok(Arc::new(caches(cancel, workload, doc, kv)?))
    }
}

/// The caches, and which of them each request has. A dump is everybody's; a synthetic source makes each request its own.
fn caches(cancel: &Cancel, workload: &Workload, doc: &Document, kv: Option<&Path>) -> Result<CacheSet> {
    let requests = workload.batch.requests;
    let dump = match kv {
        Some(kv) => Some(kv.to_path_buf()),
        None => workload.kv_path(doc)?,
    };
    if let Some(path) = dump {
        let cache = kv::load_layers(cancel, path, &workload.layers).map_err(|e| match e {
            Error::Config { at, what } => doc.error(&at, what),
            other => other,
        })?;
        return CacheSet::new(vec![cache], vec![0; requests]);
    }
    if !workload.layers.is_empty() {
        return Err(doc.error("layers", "chooses among the layers of a dump; [synthetic] says which layers it has"));
    }
    let source = synthetic(workload, doc)?;
    // What is in memory of all requests; a large cache is in a file.
    let in_memory = (0..requests).map(|r| source.bytes_in_memory(&workload.batch, r)).filter(|n| *n <= kv::IN_MEMORY);
    let bytes = in_memory.fold(0u64, u64::saturating_add);
    if bytes > kv::IN_MEMORY {
        let fits = memory::check(&format!("the caches of {requests} requests"), bytes);
        fits.map_err(|e| doc.error("batch.requests", e.to_string()))?;
    }
    let make = |r: usize| {
        source.make(cancel, &workload.batch, r).map_err(|e| match e {
            Error::Config { at, what } => doc.error(&at, what),
            other => other,
        })
    };
    CacheSet::new((0..requests).map(make).collect::<Result<_>>()?, (0..requests).collect())
}

/// A synthetic source.
enum Synthetic {
    /// Of assumed statistics.
    Assumed(SyntheticSpec),
    /// Of statistics fitted to a dump.
    Fitted(Box<FittedModel>, FittedShape),
}

impl Synthetic {
    /// The prefill of a request's cache, where the batch says it, and what sets its seed apart from those of other requests.
    fn of_request(batch: &Batch, request: usize) -> (Option<usize>, u64) {
        let lengths = &batch.prefill;
        let prefill = (!lengths.is_empty()).then(|| lengths[request % lengths.len()]);
        // A large odd factor keeps the seeds of neighbouring requests apart.
        (prefill, (request as u64).wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    /// A request's cache, of assumed statistics.
    fn assumed(spec: &SyntheticSpec, batch: &Batch, request: usize) -> SyntheticSpec {
        let (prefill, apart) = Synthetic::of_request(batch, request);
        SyntheticSpec { prefill: prefill.unwrap_or(spec.prefill), seed: spec.seed ^ apart, ..spec.clone() }
    }

    /// A request's cache, of fitted statistics.
    fn fitted(shape: &FittedShape, batch: &Batch, request: usize) -> FittedShape {
        let (prefill, apart) = Synthetic::of_request(batch, request);
        // A request has queries of its whole prefill where the source has, else as many as fit.
        let whole = shape.prefill_queries == shape.prefill;
        let of_length = |p| if whole { p } else { shape.prefill_queries.min(p) };
        let prefill_queries = prefill.map_or(shape.prefill_queries, of_length);
        let (prefill, seed) = (prefill.unwrap_or(shape.prefill), shape.seed ^ apart);
        FittedShape { prefill, prefill_queries, seed, ..shape.clone() }
    }

    /// Bytes of a request's cache as f32.
    fn bytes_in_memory(&self, batch: &Batch, request: usize) -> u64 {
        match self {
            Synthetic::Assumed(spec) => Synthetic::assumed(spec, batch, request).bytes_in_memory(),
            Synthetic::Fitted(_, shape) => Synthetic::fitted(shape, batch, request).bytes_in_memory(),
        }
    }

    /// A request's cache.
    fn make(&self, cancel: &Cancel, batch: &Batch, request: usize) -> Result<KvCache> {
        match self {
            Synthetic::Assumed(spec) => {
                kv::synthetic::generate_until(cancel, &Synthetic::assumed(spec, batch, request))
            }
            Synthetic::Fitted(model, shape) => {
                fitted::generate_until(cancel, model, &Synthetic::fitted(shape, batch, request))
            }
        }
    }
}

fn synthetic(workload: &Workload, doc: &Document) -> Result<Synthetic> {
    let table = workload.synthetic.clone().unwrap_or_default();
    let shape_of = workload.load_model(doc)?.map(|m| [m.kv_heads, m.heads, m.head_dim].map(|n| n as usize));
    if table.contains_key("fit") {
        let mut spec: FittedSpec = parameters(table, doc)?;
        let file = doc.resolve_path(PresetKind::Fitted, "synthetic.fit", &spec.fit)?;
        let model = FittedModel::load(&file).map_err(|e| match e {
            Error::Io { path, source } => doc.error("synthetic.fit", format!("{}: {source}", path.display())),
            other => other,
        })?;
        if let Some([kv_heads, heads, dim]) = shape_of {
            (spec.kv_heads, spec.query_heads, spec.dim) = (Some(kv_heads), Some(heads), Some(dim));
        }
        let shape = spec.shape(&model, workload.seed).map_err(|e| match e {
            Error::Config { at, what } => doc.error(&at, what),
            other => other,
        })?;
        return Ok(Synthetic::Fitted(Box::new(model), shape));
    }
    let own_seed = table.contains_key("seed");
    let mut spec: SyntheticSpec = parameters(table, doc)?;
    if let Some([kv_heads, heads, dim]) = shape_of {
        (spec.kv_heads, spec.query_heads, spec.dim) = (kv_heads, heads, dim);
    }
    // The run's seed is the source's too, unless the source has one of its own.
    if !own_seed {
        spec.seed = workload.seed;
    }
    Ok(Synthetic::Assumed(spec))
}

fn parameters<T: DeserializeOwned>(table: toml::Table, doc: &Document) -> Result<T> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        let at = format!("synthetic.{}", e.path()).replace("synthetic..", "synthetic");
        doc.serde_error(&at, e.inner().message())
    })
}
