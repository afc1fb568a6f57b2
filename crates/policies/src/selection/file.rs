//! Selection files, in the safetensors format.

use super::{Granularity, ScanRule, Selection, SelectionFacts, SelectionTables, Shaped};
use crate::select::Preparation;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio::Output;
use pimattn_kv as kv;
use pimattn_kv::safetensors::{self, SafetensorsFile, TensorBytes, TensorNumber};
use std::collections::BTreeMap;
use std::path::Path;

/// Names of the metadata.
const SAID: [&str; 12] = [
    "granularity",
    "policy",
    "prefill",
    "scan",
    "shape",
    "layers",
    "budget",
    "beyond_budget",
    "clusters",
    "period",
    "prepares_from",
    "note",
];

/// A name that the libraries of others write by themselves, without a meaning here.
const FOREIGN: &str = "format";

/// Names of the tensors.
const TENSORS: [&str; 16] = [
    "sel_indices",
    "sel_ptr",
    "order",
    "orders",
    "order_of",
    "cluster_starts",
    "cluster_ptr",
    "clustered",
    "order_version",
    "scans",
    "scan_dims",
    "scan_dims_ptr",
    "clusterings",
    "clustering_ptr",
    "share",
    "sel_scores",
];

const PREPARATIONS: [(&str, Preparation); 3] =
    [("nothing", Preparation::Nothing), ("keys", Preparation::Keys), ("queries", Preparation::Queries)];

impl Selection {
    /// Reads a selection file. Whether it fits a cache shows with [`Selection::recordings`].
    ///
    /// # Errors
    /// [`Error::Data`] where the file is damaged, or a name, type or word is not one of the format; [`Error::NoInput`] and
    /// [`Error::Io`] where it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Selection::from_bytes(&path.display().to_string(), &kv::read_file(path)?)
    }

    /// Reads the bytes of a selection file; `source` names it in errors.
    ///
    /// # Errors
    /// [`Error::Data`] as [`Selection::load`].
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::data(source, what);
        let file = SafetensorsFile::parse(bytes).map_err(bad)?;
        let mut selection = read(&file).map_err(bad)?;
        selection.source = source.into();
        Ok(selection)
    }

    /// The bytes of the file that [`Selection::save`] writes.
    ///
    /// # Errors
    /// [`Error::Usage`] where its policy has a name that no table can hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        check_name(self.policy()).map_err(Error::Usage)?;
        let mut bytes = Vec::new();
        safetensors::write(&mut bytes, &self.said(), self.tensors()).map_err(|e| Error::io("memory", e))?;
        Ok(bytes)
    }

    /// Writes a selection file, which appears whole or not at all; `-` is standard output.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written, [`Error::Usage`] where its policy has a name that no table can hold.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        check_name(self.policy()).map_err(Error::Usage)?;
        let mut out = Output::create(path)?;
        safetensors::write(&mut out, &self.said(), self.tensors()).map_err(|e| Error::io(path, e))?;
        out.commit()
    }

    /// Hash of the content: a CRC-32 of all that [`Selection::save`] would write.
    pub fn hash(&self) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        for (key, value) in self.said() {
            [key, value].iter().for_each(|text| {
                hash.update(&(text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            });
        }
        for tensor in self.tensors() {
            tensor.hash_into(&mut |bytes| hash.update(bytes));
        }
        hash.finalize()
    }

    fn said(&self) -> BTreeMap<String, String> {
        let SelectionFacts { policy, budget, beyond_budget, clusters, period, prepares_from } = &self.facts;
        let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let from = PREPARATIONS.iter().find(|(_, p)| p == prepares_from).map(|(name, _)| name.to_string());
        let said = [
            ("granularity", Some(self.granularity.text())),
            ("policy", Some(policy.clone())),
            ("prefill", Some(self.prefill.to_string())),
            ("scan", (self.scan != ScanRule::Nothing).then(|| self.scan.text())),
            ("shape", self.shape.map(|[layers, heads, steps]| format!("{layers}x{heads}x{steps}"))),
            ("layers", self.layers.as_deref().map(list)),
            ("budget", budget.map(|b| b.to_string())),
            ("beyond_budget", beyond_budget.then(|| "yes".into())),
            ("clusters", clusters.then(|| "yes".into())),
            ("period", (*period != 1).then(|| period.to_string())),
            ("prepares_from", from.filter(|_| *prepares_from != Preparation::Nothing)),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
    }

    fn tensors(&self) -> Vec<TensorBytes> {
        fn of<T: TensorNumber>(name: &'static str, shaped: &Option<Shaped<T>>) -> Option<TensorBytes> {
            shaped.as_ref().map(|s| TensorBytes::new(name, &s.shape, &s.data))
        }
        let t = &self.tables;
        let tensors = [
            Some(TensorBytes::new("sel_indices", &[self.indices.len()], &self.indices)),
            Some(TensorBytes::new("sel_ptr", &[self.ptr.len()], &self.ptr)),
            of("order", &t.order),
            of("orders", &t.orders),
            of("order_of", &t.order_of),
            of("cluster_starts", &t.cluster_starts),
            of("cluster_ptr", &t.cluster_ptr),
            of("clustered", &t.clustered),
            of("order_version", &t.order_version),
            of("scans", &t.scans),
            of("scan_dims", &t.scan_dims),
            of("scan_dims_ptr", &t.scan_dims_ptr),
            of("clusterings", &t.clusterings),
            of("clustering_ptr", &t.clustering_ptr),
            of("share", &t.share),
            of("sel_scores", &t.sel_scores),
        ];
        tensors.into_iter().flatten().collect()
    }
}

fn read(file: &SafetensorsFile<'_>) -> Result<Selection, String> {
    for name in file.said_names() {
        if name != FOREIGN && !SAID.contains(&name) {
            return Err(format!("the metadata \"{name}\" are not known{}", suggest(name, SAID)));
        }
    }
    for name in file.names() {
        if !TENSORS.contains(&name.as_str()) {
            return Err(format!("tensor \"{name}\" is not known{}", suggest(&name, TENSORS)));
        }
    }
    let needed = |name: &str| file.said(name).ok_or_else(|| format!("the metadata lack \"{name}\""));
    let yes = |name: &str| match file.said(name) {
        None | Some("no") => Ok(false),
        Some("yes") => Ok(true),
        Some(other) => Err(format!("metadata \"{name}\" is \"{other}\"; expected yes or no")),
    };
    let granularity =
        Granularity::parse(needed("granularity")?).map_err(|e| format!("metadata \"granularity\" is {e}"))?;
    let prepares_from = match file.said("prepares_from") {
        None => Preparation::Nothing,
        Some(text) => match PREPARATIONS.iter().find(|(name, _)| *name == text) {
            Some((_, preparation)) => *preparation,
            None => {
                let hint = suggest(text, PREPARATIONS.iter().map(|(name, _)| *name));
                return Err(format!("metadata \"prepares_from\" is \"{text}\"{hint}"));
            }
        },
    };
    let policy = needed("policy")?.to_string();
    check_name(&policy).map_err(|e| format!("metadata \"policy\": {e}"))?;
    needed("prefill")?;
    let facts = SelectionFacts {
        policy,
        budget: count(file, "budget")?,
        beyond_budget: yes("beyond_budget")?,
        clusters: yes("clusters")?,
        period: count(file, "period")?.unwrap_or(1),
        prepares_from,
    };
    let list = |name: &str, separator: char| -> Result<Option<Vec<u32>>, String> {
        let Some(text) = file.said(name) else { return Ok(None) };
        let numbers: Option<Vec<u32>> = text.split(separator).map(|n| n.trim().parse().ok()).collect();
        let numbers = numbers
            .ok_or_else(|| format!("metadata \"{name}\" is \"{text}\"; expected numbers with a {separator} between"))?;
        Ok(Some(numbers))
    };
    let shape = match list("shape", 'x')?.as_deref() {
        None => None,
        Some([layers, heads, steps]) => Some([layers, heads, steps].map(|n| *n as usize)),
        Some(_) => return Err("metadata \"shape\" has not three numbers: layers, query heads, steps".into()),
    };
    Ok(Selection {
        source: String::new(),
        facts,
        prefill: count(file, "prefill")?.unwrap_or_default(),
        granularity,
        shape,
        layers: list("layers", ',')?,
        scan: file
            .said("scan")
            .map_or(Ok(ScanRule::Nothing), ScanRule::parse)
            .map_err(|e| format!("metadata \"scan\": {e}"))?,
        indices: required(file, "sel_indices")?,
        ptr: required(file, "sel_ptr")?,
        tables: SelectionTables {
            order: optional(file, "order")?,
            orders: optional(file, "orders")?,
            order_of: optional(file, "order_of")?,
            cluster_starts: optional(file, "cluster_starts")?,
            cluster_ptr: optional(file, "cluster_ptr")?,
            clustered: optional(file, "clustered")?,
            order_version: optional(file, "order_version")?,
            scans: optional(file, "scans")?,
            scan_dims: optional(file, "scan_dims")?,
            scan_dims_ptr: optional(file, "scan_dims_ptr")?,
            clusterings: optional(file, "clusterings")?,
            clustering_ptr: optional(file, "clustering_ptr")?,
            share: optional(file, "share")?,
            sel_scores: optional(file, "sel_scores")?,
        },
    })
}

/// Refuses a name of a policy that would not be one cell of a table.
fn check_name(policy: &str) -> Result<(), String> {
    match policy.is_empty() || policy.contains([',', '"', '\n', '\r']) {
        true => Err(format!("\"{policy}\" is no name: it is empty, or has a comma, a quote or a line break")),
        false => Ok(()),
    }
}

/// A number of tokens or steps that the metadata say.
fn count(file: &SafetensorsFile<'_>, name: &str) -> Result<Option<usize>, String> {
    match file.number(name)? {
        None => Ok(None),
        Some(n) if (1..=1 << 30).contains(&n) => Ok(Some(n as usize)),
        Some(n) => Err(format!("metadata \"{name}\" is {n}; expected 1 to {}", 1 << 30)),
    }
}

fn required<T: TensorNumber>(file: &SafetensorsFile<'_>, name: &str) -> Result<Vec<T>, String> {
    let (shape, data) = file.numbers(name)?.ok_or_else(|| format!("there is no tensor \"{name}\""))?;
    match shape.len() {
        1 => Ok(data),
        n => Err(format!("tensor \"{name}\" has {n} axes; expected 1")),
    }
}

fn optional<T: TensorNumber>(file: &SafetensorsFile<'_>, name: &str) -> Result<Option<Shaped<T>>, String> {
    Ok(file.numbers(name)?.map(|(shape, data)| Shaped { shape, data }))
}
