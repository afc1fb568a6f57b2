//! Selections that other programs log: pages of LServe-based engines as CSV, and boolean masks as NumPy arrays.

use super::{CsrSelection, Granularity, Selection, SelectionScan};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::CsvReader;
use pimattn_kv::npy::BoolArray;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an import takes beside the log.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Name of the policy, for tables.
    pub policy: String,
    /// Tokens before the first step; without it as the log has it.
    pub prefill: Option<usize>,
    /// Tokens of a page.
    pub page: usize,
    /// What selecting reads.
    pub scan: SelectionScan,
}

/// Files of a log: the file itself, or those of a folder with an ending, by name.
fn files(path: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    let mut files = entries.map(|e| Ok(e.map_err(|e| Error::io(path, e))?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == ending));
    files.sort();
    match files.is_empty() {
        true => Err(Error::data(path, format!("no .{ending} file in the folder"))),
        false => Ok(files),
    }
}

/// Pages that an LServe-based engine logs with `ENABLE_PAGE_SELECTION_LOG`: a CSV file for each layer, with columns `layer_idx`, `timestep`
/// (tokens before the one that is decoded), `batch_idx`, `head_idx` and `selected_pages` (`"0,5,17"`); others are left alone.
///
/// The engine selects again only after some steps: at steps without a row the last selection holds. The page of the token that is decoded
/// is attended to in any case, as the engine does.
///
/// # Errors
/// [`Error::Data`] with the line of what is wrong, where a batch is of several requests, or heads have different steps.
pub fn lserve(path: &Path, options: &ImportOptions) -> Result<Selection> {
    let mut lists: BTreeMap<(u64, u64), BTreeMap<u64, Vec<u32>>> = BTreeMap::new();
    for file in files(path, "csv")? {
        let name = file.display().to_string();
        let mut table = CsvReader::open(fsio::open(&file)?, &name)?;
        let [layer, step, batch, head, pages] =
            ["layer_idx", "timestep", "batch_idx", "head_idx", "selected_pages"].map(|name| table.column(name));
        let (layer, step, batch, head, pages) = (layer?, step?, batch?, head?, pages?);
        while let Some(row) = table.read()? {
            let whole = |at: usize| {
                row.cell(at)
                    .trim()
                    .parse::<u64>()
                    .map_err(|_| row.error(format!("\"{}\" is no whole number", row.cell(at))))
            };
            if whole(batch)? != 0 {
                return Err(row.error("a second request of the batch: a selection is of one".to_string()));
            }
            let number = |page: &str| {
                page.trim().parse::<u32>().map_err(|_| row.error(format!("page \"{page}\" is no whole number")))
            };
            let mut selected = row.cell(pages).split(',').map(number).collect::<Result<Vec<u32>>>()?;
            let timestep = whole(step)?;
            // Some selectors name the page of the token that is decoded, some leave it to the kernel.
            let current = u32::try_from(timestep / options.page as u64).unwrap_or(u32::MAX);
            selected.retain(|page| *page < current);
            selected.push(current);
            lists.entry((whole(layer)?, whole(head)?)).or_default().insert(timestep, selected);
        }
    }
    let steps = |of: &BTreeMap<u64, Vec<u32>>| Some((*of.first_key_value()?.0, *of.last_key_value()?.0));
    let span = lists.values().next().and_then(steps).ok_or_else(|| Error::data(path, "a log without a row"))?;
    if let Some(((layer, head), _)) = lists.iter().find(|(_, of)| steps(of) != Some(span)) {
        return Err(Error::data(path, format!("layer {layer}, head {head} has other steps than the first head")));
    }
    let heads_of = |layer: u64| lists.keys().filter(|(l, _)| *l == layer).count();
    let first = lists.keys().next().map_or(0, |(layer, _)| *layer);
    if let Some((layer, _)) = lists.keys().find(|(layer, _)| heads_of(*layer) != heads_of(first)) {
        return Err(Error::data(path, format!("layer {layer} has other heads than layer {first}")));
    }
    let begin = options.prefill.map_or(span.0, |prefill| prefill as u64);
    if begin < span.0 || begin > span.1 {
        return Err(Error::data(
            path,
            format!("steps {} to {} are logged; the prefill ends at {begin}", span.0, span.1),
        ));
    }
    let mut csr = Csr::default();
    for of_head in lists.values() {
        for step in begin..=span.1 {
            let (_, selected) = of_head.range(..=step).next_back().expect("the first step is there");
            let current = (step / options.page as u64) as u32;
            let kept = selected.iter().copied().filter(|page| *page != current).chain([current]);
            csr.push(kept);
        }
    }
    csr.selection(path, options, begin as usize, Granularity::Page(options.page))
}

/// Boolean masks, `.npy`: `[query_head, query, token]` (one file for a layer; a folder has several, by name), or with the layer as a first
/// axis. Query `i` of `n` is that of token `tokens - n + i`; those from the prefill on are decode steps.
///
/// # Errors
/// [`Error::Data`] where an array is no boolean of three or four axes, or layers differ in shape.
pub fn masks(path: &Path, options: &ImportOptions) -> Result<Selection> {
    let mut layers: Vec<(PathBuf, BoolArray)> = Vec::new();
    for file in files(path, "npy")? {
        let array = BoolArray::load(&file)?;
        layers.push((file, array));
    }
    let mut csr = Csr::default();
    let mut shape: Option<[usize; 3]> = None;
    let mut begin = 0;
    for (file, array) in &layers {
        let (count, own) = match array.shape[..] {
            [heads, queries, tokens] => (1, [heads, queries, tokens]),
            [layers, heads, queries, tokens] => (layers, [heads, queries, tokens]),
            _ => {
                let what = format!("an array of shape {:?}; expected [query_head, query, token]", array.shape);
                return Err(Error::data(file, what));
            }
        };
        let first = *shape.get_or_insert(own);
        if first != own {
            return Err(Error::data(file, format!("shape {own:?}; the first layer has {first:?}")));
        }
        let [heads, queries, tokens] = own;
        if queries > tokens || queries * heads == 0 {
            return Err(Error::data(file, format!("{queries} queries of {heads} heads for {tokens} tokens")));
        }
        begin = options.prefill.unwrap_or(tokens - queries).max(tokens - queries);
        let rows = array.values.chunks_exact(tokens);
        debug_assert_eq!(rows.len(), count * heads * queries);
        for (row, mask) in rows.enumerate() {
            let position = tokens - queries + row % queries;
            if let Some(future) = mask[position + 1..].iter().position(|on| *on) {
                let head = row / queries % heads;
                let token = position + 1 + future;
                let what = format!(
                    "query head {head}: the query of token {position} selects token {token}, which is in the future"
                );
                return Err(Error::data(file, what));
            }
            if position >= begin {
                csr.push((0..).zip(mask).filter(|(_, on)| **on).map(|(token, _)| token));
            }
        }
    }
    csr.selection(path, options, begin, Granularity::Token)
}

/// Lists, as they come.
struct Csr {
    indices: Vec<u32>,
    pointer: Vec<u64>,
}

impl Default for Csr {
    fn default() -> Self {
        Csr { indices: Vec::new(), pointer: vec![0] }
    }
}

impl Csr {
    fn push(&mut self, list: impl Iterator<Item = u32>) {
        self.indices.extend(list);
        self.pointer.push(self.indices.len() as u64);
    }

    fn selection(
        self,
        path: &Path,
        options: &ImportOptions,
        prefill: usize,
        granularity: Granularity,
    ) -> Result<Selection> {
        Selection::from_csr(
            &path.display().to_string(),
            CsrSelection {
                policy: options.policy.clone(),
                prefill,
                granularity,
                indices: self.indices,
                pointer: self.pointer,
                order: None,
                scan: options.scan,
            },
        )
    }
}
