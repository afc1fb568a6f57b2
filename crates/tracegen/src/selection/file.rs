//! Selections as safetensors files. `docs/selections.md` documents the format.

use super::{CsrSelection, Granularity, Selection, SelectionDetails, SelectionScan};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::AtomicFile;
use pimattn_kv::safetensors::{self, SafetensorsFile, TensorPlan};
use pimattn_kv::selection::{Clustering, Scan, SlotOrder};
use pimattn_policies::select::recorded::RecordedScan;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Tensors that a selection may have.
const TENSORS: [&str; 16] = [
    "sel_indices",
    "sel_ptr",
    "order",
    "order_slots",
    "order_ptr",
    "order_of",
    "order_marks",
    "cluster_starts",
    "cluster_ptr",
    "scans",
    "scan_dims",
    "scan_dims_ptr",
    "clusterings",
    "clustering_ptr",
    "shares",
    "sel_scores",
];

impl Selection {
    /// Reads a selection.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is damaged or is no selection, [`Error::NoInput`] and [`Error::Io`] where it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Selection::from_bytes(path, &safetensors::map(path)?)
    }

    /// Reads a selection from the bytes of a file; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Data`] where they are damaged or no selection.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        read(path, bytes).map_err(|e| match e {
            ReadError::Said(e) => e,
            ReadError::What(what) => Error::data(path, what),
        })
    }

    /// Writes the selection, which is there whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut out = AtomicFile::create(path)?;
        self.write(&mut out, path)?;
        out.commit()
    }

    /// The bytes of the file that [`Selection::save`] writes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, Path::new("memory")).expect("memory takes all that is written");
        bytes
    }

    fn write(&self, out: &mut dyn Write, path: &Path) -> Result<()> {
        let mut said = BTreeMap::from([
            ("granularity".to_string(), self.granularity.to_string()),
            ("policy".to_string(), self.policy.clone()),
            ("prefill".to_string(), self.prefill.to_string()),
        ]);
        said.extend(self.budget.map(|budget| ("budget".to_string(), budget.to_string())));
        let mut tensors = Tensors::default();
        tensors.add("sel_ptr", "U64", vec![self.pointer.len()], self.pointer.iter().map(|x| x.to_le_bytes()));
        tensors.add("sel_indices", "U32", vec![self.indices.len()], self.indices.iter().map(|x| x.to_le_bytes()));
        if let Some((shape, slots)) = &self.order {
            tensors.add("order", "U32", shape.to_vec(), slots.iter().map(|x| x.to_le_bytes()));
        }
        match &self.details {
            None => drop(said.insert("scan".into(), self.scan.to_string())),
            Some(details) => {
                said.insert("kv_heads".into(), details.kv_heads.to_string());
                tensors.add_details(details);
            }
        }
        let plans: Vec<TensorPlan<'_>> = tensors.0.iter().map(|(plan, _)| plan.clone()).collect();
        let data = |put: &mut dyn FnMut(&[u8]) -> Result<()>| tensors.0.iter().try_for_each(|(_, bytes)| put(bytes));
        safetensors::write(out, path, &said, &plans, data)
    }
}

/// Tensors with their bytes, eight-byte elements first, so that all are aligned.
#[derive(Default)]
struct Tensors(Vec<(TensorPlan<'static>, Vec<u8>)>);

impl Tensors {
    fn add<const N: usize>(
        &mut self,
        name: &'static str,
        dtype: &'static str,
        shape: Vec<usize>,
        elements: impl Iterator<Item = [u8; N]>,
    ) {
        let plan = TensorPlan { name, dtype, element_bytes: N, shape };
        let place = self.0.iter().take_while(|(other, _)| other.element_bytes >= N).count();
        self.0.insert(place, (plan, elements.flatten().collect()));
    }

    fn add_u32(&mut self, name: &'static str, shape: Vec<usize>, elements: impl Iterator<Item = u32>) {
        self.add(name, "U32", shape, elements.map(u32::to_le_bytes));
    }

    /// Lists one behind the other, and where each begins.
    fn add_lists(&mut self, name: &'static str, pointer: &'static str, lists: &[Vec<u32>], row: usize) {
        let count = lists.iter().map(Vec::len).sum::<usize>() / row;
        let shape = if row == 1 { vec![count] } else { vec![count, row] };
        self.add_u32(name, shape, lists.iter().flatten().copied());
        let mut end = 0u64;
        let mut ends = vec![0u64];
        ends.extend(lists.iter().map(|list| {
            end += (list.len() / row) as u64;
            end
        }));
        self.add(pointer, "U64", vec![ends.len()], ends.iter().map(|x| x.to_le_bytes()));
    }

    fn add_details(&mut self, details: &SelectionDetails) {
        let slots: Vec<Vec<u32>> = details.orders.iter().map(|order| order.slot_of.clone()).collect();
        self.add_lists("order_slots", "order_ptr", &slots, 1);
        let starts: Vec<Vec<u32>> = details.orders.iter().map(|order| order.cluster_starts.clone()).collect();
        self.add_lists("cluster_starts", "cluster_ptr", &starts, 1);
        let marks = details.orders.iter().flat_map(|order| [order.clustered, order.version]);
        self.add_u32("order_marks", vec![details.orders.len(), 2], marks);
        self.add_u32("order_of", vec![details.order_of.len()], details.order_of.iter().copied());
        let scans: Vec<([u32; 4], Vec<u32>)> = details.scans.iter().map(scan_numbers).collect();
        self.add_u32("scans", vec![scans.len(), 4], scans.iter().flat_map(|(numbers, _)| *numbers));
        let dims: Vec<Vec<u32>> = scans.into_iter().map(|(_, dims)| dims).collect();
        self.add_lists("scan_dims", "scan_dims_ptr", &dims, 1);
        let numbers = |c: &Clustering| [c.first, c.tokens, c.clusters, c.iterations];
        let clusterings: Vec<Vec<u32>> =
            details.clusterings.iter().map(|all| all.iter().flat_map(numbers).collect()).collect();
        self.add_lists("clusterings", "clustering_ptr", &clusterings, 4);
        if !details.shares.is_empty() {
            self.add("shares", "F32", vec![details.shares.len()], details.shares.iter().map(|x| x.to_le_bytes()));
        }
        if !details.scores.is_empty() {
            self.add("sel_scores", "F32", vec![details.scores.len()], details.scores.iter().map(|x| x.to_le_bytes()));
        }
    }
}

/// Kind, matrices, vectors, elements; and dimensions.
fn scan_numbers(scan: &RecordedScan) -> ([u32; 4], Vec<u32>) {
    match scan.scan() {
        Scan::Nothing => ([0; 4], Vec::new()),
        Scan::Keys => ([1, 0, 0, 0], Vec::new()),
        Scan::Vectors { matrices, vectors, elements } => ([2, matrices, vectors, elements], Vec::new()),
        Scan::HeadVectors { matrices, vectors, elements } => ([3, matrices, vectors, elements], Vec::new()),
        Scan::Dimensions(dims) => ([4, 0, 0, 0], dims.to_vec()),
    }
}

/// Why a file is no selection.
enum ReadError {
    /// An error that names the file.
    Said(Error),
    /// What is wrong.
    What(String),
}

impl From<String> for ReadError {
    fn from(what: String) -> Self {
        ReadError::What(what)
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        ReadError::Said(error)
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Selection, ReadError> {
    let file = SafetensorsFile::parse(bytes)?;
    let names = file.names();
    if let Some(strange) = names.iter().find(|name| !TENSORS.contains(&name.as_str())) {
        let hint = pimattn_core::error::suggest(strange, TENSORS);
        return Err(format!("not a selection: tensor \"{strange}\" is not known{hint}").into());
    }
    let said = |name: &str| file.said(name).ok_or_else(|| format!("the metadata lack \"{name}\""));
    let number = |name: &str| {
        let text = said(name)?;
        text.trim().parse::<usize>().map_err(|_| format!("metadata \"{name}\" is \"{text}\"; expected a whole number"))
    };
    let reader = TensorReader { file: &file };
    let granularity: Granularity = said("granularity")?.parse()?;
    let order = match reader.shaped_u32("order")? {
        Some((shape, slots)) => {
            let shape = <[usize; 3]>::try_from(shape.as_slice());
            let wrong = |_| "tensor \"order\" is not of [layer, kv_head, token]".to_string();
            Some((shape.map_err(wrong)?, slots))
        }
        None => None,
    };
    let scan = match file.said("scan") {
        Some(text) => text.parse()?,
        None => SelectionScan::Nothing,
    };
    let mut selection = Selection::from_csr(
        &path.display().to_string(),
        CsrSelection {
            policy: said("policy")?.into(),
            prefill: number("prefill")?,
            granularity,
            indices: reader.u32("sel_indices")?.ok_or("there is no \"sel_indices\"".to_string())?,
            pointer: reader.u64("sel_ptr")?.ok_or("there is no \"sel_ptr\"".to_string())?,
            order,
            scan,
        },
    )?;
    if file.said("budget").is_some() {
        selection.budget = Some(number("budget")?);
    }
    if names.iter().any(|name| name == "scans") {
        let details = reader.details(number("kv_heads")?, &selection)?;
        selection.details = Some(details);
    }
    Ok(selection)
}

/// Shape and elements of a tensor.
type ShapedU32 = (Vec<usize>, Vec<u32>);

/// Reads tensors by name.
struct TensorReader<'f> {
    file: &'f SafetensorsFile<'f>,
}

impl TensorReader<'_> {
    fn shaped_u32(&self, name: &str) -> Result<Option<ShapedU32>, String> {
        let Some((shape, bytes)) = self.file.elements(name, "U32")? else { return Ok(None) };
        Ok(Some((shape.to_vec(), bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())))
    }

    fn u32(&self, name: &str) -> Result<Option<Vec<u32>>, String> {
        Ok(self.shaped_u32(name)?.map(|(_, elements)| elements))
    }

    fn u64(&self, name: &str) -> Result<Option<Vec<u64>>, String> {
        let Some((_, bytes)) = self.file.elements(name, "U64")? else { return Ok(None) };
        Ok(Some(bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect()))
    }

    fn f32(&self, name: &str) -> Result<Vec<f32>, String> {
        let Some((_, bytes)) = self.file.elements(name, "F32")? else { return Ok(Vec::new()) };
        Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn needed(&self, name: &str) -> Result<Vec<u32>, String> {
        self.u32(name)?.ok_or_else(|| format!("there is no \"{name}\" beside \"scans\""))
    }

    /// Lists of rows of so many numbers.
    fn lists(&self, name: &str, pointer: &str, row: usize) -> Result<Vec<Vec<u32>>, String> {
        let elements = self.needed(name)?;
        let ends = self.u64(pointer)?.ok_or_else(|| format!("there is no \"{pointer}\" beside \"{name}\""))?;
        let list = |pair: &[u64]| {
            let at = |n: u64| usize::try_from(n).ok().and_then(|n| n.checked_mul(row));
            let range = at(pair[0]).zip(at(pair[1])).and_then(|(begin, end)| elements.get(begin..end));
            range.map(<[u32]>::to_vec).ok_or_else(|| format!("\"{pointer}\" goes beyond \"{name}\", or back"))
        };
        ends.windows(2).map(list).collect()
    }

    fn details(&self, kv_heads: usize, selection: &Selection) -> Result<SelectionDetails, String> {
        let slots = self.lists("order_slots", "order_ptr", 1)?;
        let starts = self.lists("cluster_starts", "cluster_ptr", 1)?;
        let marks = self.needed("order_marks")?;
        let orders: Vec<SlotOrder> = slots
            .into_iter()
            .zip(starts)
            .zip(marks.as_chunks().0)
            .map(|((slot_of, cluster_starts), [clustered, version])| SlotOrder {
                slot_of,
                cluster_starts,
                clustered: *clustered,
                version: *version,
            })
            .collect();
        orders.iter().try_for_each(check_order)?;
        let order_of = self.needed("order_of")?;
        if let Some(strange) = order_of.iter().find(|order| **order as usize >= orders.len()) {
            return Err(format!("\"order_of\" names order {strange}; there are {}", orders.len()));
        }
        let dims = self.lists("scan_dims", "scan_dims_ptr", 1)?;
        let scans = self.needed("scans")?;
        let scans: Vec<RecordedScan> = scans
            .as_chunks()
            .0
            .iter()
            .zip(dims)
            .map(|(numbers, dims)| scan_of(*numbers, dims))
            .collect::<Result<_, _>>()?;
        let clustering = |c: &[u32; 4]| Clustering { first: c[0], tokens: c[1], clusters: c[2], iterations: c[3] };
        let clusterings = self.lists("clusterings", "clustering_ptr", 4)?;
        let clusterings = clusterings.iter().map(|all| all.as_chunks().0.iter().map(clustering).collect()).collect();
        let (shares, scores) = (self.f32("shares")?, self.f32("sel_scores")?);
        if !shares.is_empty() && shares.len() != selection.lists() {
            return Err(format!(
                "\"shares\" has {} elements; expected {}, one for each list",
                shares.len(),
                selection.lists()
            ));
        }
        if !scores.is_empty() && scores.len() != selection.indices.len() {
            let there = selection.indices.len();
            return Err(format!("\"sel_scores\" has {} elements; expected {there}, one for each index", scores.len()));
        }
        Ok(SelectionDetails { kv_heads, orders, order_of, scans, clusterings, shares, scores })
    }
}

/// Slots are a permutation, clusters begin in order within what is clustered.
fn check_order(order: &SlotOrder) -> Result<(), String> {
    let mut seen = vec![false; order.slot_of.len()];
    for slot in &order.slot_of {
        match seen.get_mut(*slot as usize) {
            Some(taken) if !*taken => *taken = true,
            _ => return Err(format!("\"order_slots\": slot {slot} stands twice, or is beyond the tokens")),
        }
    }
    let starts = &order.cluster_starts;
    let inside =
        starts.last().is_none_or(|last| *last < order.clustered) && starts.first().is_none_or(|first| *first == 0);
    match starts.is_sorted_by(|a, b| a < b) && inside && order.clustered as usize <= order.slot_of.len() {
        true => Ok(()),
        false => Err("\"cluster_starts\" do not begin at 0, go back, or leave what is clustered".into()),
    }
}

fn scan_of([kind, matrices, vectors, elements]: [u32; 4], dims: Vec<u32>) -> Result<RecordedScan, String> {
    Ok(RecordedScan::of(match kind {
        0 => Scan::Nothing,
        1 => Scan::Keys,
        2 => Scan::Vectors { matrices, vectors, elements },
        3 => Scan::HeadVectors { matrices, vectors, elements },
        4 => Scan::Dimensions(&dims),
        other => return Err(format!("\"scans\" has kind {other}; expected 0 to 4")),
    }))
}
