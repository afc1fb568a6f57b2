//! Logs of selected pages, as LServe (OmniServe) writes them with the patches of the simulator REFLEX.
//!
//! - `ENABLE_PAGE_SELECTION_LOG=true`: a CSV file for each layer, `layer_N_expM_TIME.csv`, with a header. A row is a head at a selection:
//!   `layer_idx`, `timestep` (cached tokens before the one that is decoded), `batch_idx`, `head_idx`, and `selected_pages` with commas between.
//! - `ENABLE_UNIFIED_LOG=true`: one file without a header, `page_selection_log_TIME_selected_pages.csv`. A row is a layer at a selection, the layers
//!   of a step one after the other; its cells are lists of pages such as `[0, 7]`, one for each head. Layers and times have to be told.
//!
//! LServe selects anew at timesteps that are multiples of its interval, and at the first one; between, heads keep their pages. Where
//! too few pages fulfil a rule, it repeats one to fill the row: repetitions are dropped. A cache that fits the budget is not logged.

use super::Imported;
use crate::selection::{Granularity, Selection};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::{CsvReader, CsvRow};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a log, unpacked, at most.
const MOST_BYTES: u64 = 512 << 20;

/// How a log is to be understood.
#[derive(Debug, Clone)]
pub struct PageLogOptions {
    /// Name of the policy that made it.
    pub policy: String,
    /// Tokens of a page.
    pub page: u32,
    /// Decode steps from one selection to the next, at most; LServe's interval.
    pub every: usize,
    /// Query heads for which a head of the log stands.
    pub group: usize,
    /// Request of the batch.
    pub batch: Option<u32>,
    /// Of a log without a header: layers, and tokens before the first step.
    pub unsaid: Option<(usize, usize)>,
}

/// Pages of a head of a layer, by timestep.
#[derive(Default)]
struct PageLog {
    heads: BTreeMap<(u32, u32), BTreeMap<usize, Vec<u32>>>,
    repeated: usize,
}

impl PageLog {
    fn add(&mut self, layer: u32, head: u32, timestep: usize, mut pages: Vec<u32>) -> Result<(), String> {
        let count = pages.len();
        pages.sort_unstable();
        pages.dedup();
        self.repeated += count - pages.len();
        match self.heads.entry((layer, head)).or_default().insert(timestep, pages) {
            None => Ok(()),
            Some(_) => Err(format!("layer {layer}, head {head}, timestep {timestep} is there twice")),
        }
    }
}

/// Reads a log: a file, or a folder with a `layer_N...csv` for each layer.
///
/// # Errors
/// [`Error::Data`], with file and line, where a row cannot be understood; where heads or selections are missing; [`Error::Usage`]
/// where a log without a header comes without layers and prefill, or an option is 0; [`Error::NoInput`] and [`Error::Io`].
pub fn import(path: &Path, options: &PageLogOptions) -> Result<Imported> {
    if options.page == 0 || options.every == 0 || options.group == 0 {
        return Err(Error::Usage("pages, intervals and groups are of 1 at least".into()));
    }
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let files = if meta.is_dir() { layer_logs(path)? } else { vec![path.to_path_buf()] };
    let mut table = PageLog::default();
    for file in &files {
        let name = file.display().to_string();
        let bytes = fsio::read_all(file, fsio::decompress(&name, fsio::open(file)?)?, MOST_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::data(file, "not UTF-8 text"))?;
        match text.starts_with('[') || text.starts_with("\"[") {
            true => without_header(&text, &name, options, &mut table)?,
            false => with_header(&text, &name, options, &mut table)?,
        }
    }
    let selection = selection(&table, path, options)?;
    let mut notes = Vec::new();
    if table.repeated > 0 {
        notes.push(format!("{} pages that a row of the log repeats were dropped", table.repeated));
    }
    Ok(Imported { selection, notes })
}

fn with_header(text: &str, name: &str, options: &PageLogOptions, table: &mut PageLog) -> Result<()> {
    let mut csv = CsvReader::open(text.as_bytes(), name)?;
    let [layer, timestep, head, pages] =
        [csv.column("layer_idx")?, csv.column("timestep")?, csv.column("head_idx")?, csv.column("selected_pages")?];
    let batch = csv.header().iter().position(|h| h == "batch_idx");
    while let Some(row) = csv.read()? {
        if let Some(column) = batch {
            let request = number(&row, column)?;
            match options.batch {
                Some(wanted) if wanted != request => continue,
                None if request != 0 => {
                    return Err(row.error("the log has several requests; --batch says which one"));
                }
                _ => {}
            }
        }
        let of_row = list(row.cell(pages)).map_err(|e| row.wrong(pages, e))?;
        let at = (number(&row, layer)?, number(&row, head)?, number(&row, timestep)? as usize);
        table.add(at.0, at.1, at.2, of_row).map_err(|e| row.error(e))?;
    }
    Ok(())
}

fn without_header(text: &str, name: &str, options: &PageLogOptions, table: &mut PageLog) -> Result<()> {
    let Some((layers, prefill)) = options.unsaid.filter(|(layers, prefill)| *layers > 0 && *prefill > 0) else {
        return Err(Error::Usage(format!("{name} has no header: --layers and --prefill have to say what it is of")));
    };
    let mut csv = CsvReader::ragged(text.as_bytes(), name);
    let (mut read, mut timestep) = (0, prefill);
    while let Some(row) = csv.read()? {
        for (head, cell) in row.cells().enumerate() {
            let inside = cell.trim().strip_prefix('[').and_then(|c| c.strip_suffix(']'));
            let pages = inside.ok_or_else(|| format!("\"{cell}\" is no list of pages")).and_then(list);
            let added = pages.and_then(|pages| table.add((read % layers) as u32, head as u32, timestep, pages));
            added.map_err(|e| row.error(e))?;
        }
        read += 1;
        if read % layers == 0 {
            timestep = (timestep / options.every + 1) * options.every;
        }
    }
    match read % layers {
        0 => Ok(()),
        rest => Err(Error::data(name, format!("{read} rows are no whole steps of {layers} layers: {rest} are left"))),
    }
}

fn number(row: &CsvRow<'_>, column: usize) -> Result<u32> {
    let cell = row.cell(column);
    cell.trim().parse().map_err(|_| row.wrong(column, format!("\"{cell}\" is no count")))
}

/// Pages with commas, semicolons or blanks between.
fn list(cell: &str) -> Result<Vec<u32>, String> {
    let parts = cell.split([',', ';', ' ']).filter(|part| !part.is_empty());
    parts.map(|page| page.parse().map_err(|_| format!("\"{page}\" is no page"))).collect()
}

/// The selection that a log says: from its first timestep to its last.
fn selection(table: &PageLog, path: &Path, options: &PageLogOptions) -> Result<Selection> {
    let bad = |what: String| Error::data(path, what);
    let times = || table.heads.values().flat_map(|head| head.keys().copied());
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Err(bad("the log has no selection".into()));
    };
    if first == 0 {
        return Err(bad("timestep 0 has no cache to select from".into()));
    }
    if last - first >= 1 << 24 {
        return Err(bad(format!("timesteps from {first} to {last} are of several texts")));
    }
    let layers: Vec<u32> = table.heads.keys().map(|(layer, _)| *layer).collect();
    let mut layers = layers;
    layers.dedup();
    let heads = table.heads.len() / layers.len();
    let (mut indices, mut ptr) = (Vec::new(), vec![0]);
    let none = BTreeMap::new();
    for layer in &layers {
        for head in 0..heads as u32 {
            let pages = table.heads.get(&(*layer, head)).unwrap_or(&none);
            let place = format!("layer {layer}, head {head}");
            if !pages.contains_key(&first) {
                return Err(bad(format!("{place}: no pages at timestep {first}, the first of the log")));
            }
            let ends = pages.keys().skip(1).copied().chain([last + 1]);
            let gap = pages.keys().copied().zip(ends).find(|(from, to)| to - from > options.every);
            if let Some((from, to)) = gap {
                return Err(bad(format!(
                    "{place}: no pages from timestep {} to {}; those of a timestep are kept for {} at most (--every)",
                    from + 1,
                    to - 1,
                    options.every
                )));
            }
            for _ in 0..options.group {
                for timestep in first..=last {
                    let now = pages.range(..=timestep).next_back().map_or(&[][..], |(_, pages)| pages);
                    indices.extend_from_slice(now);
                    ptr.push(indices.len() as u64);
                }
            }
        }
    }
    let shape = [layers.len(), heads * options.group, last - first + 1];
    let granularity = Granularity::Page(options.page);
    let mut selection = Selection::from_csr(&options.policy, first, Some(shape), granularity, indices, ptr);
    // A log without a header does not know which layers of the model it is of.
    selection.layers = options.unsaid.is_none().then_some(layers);
    selection.source = path.display().to_string();
    Ok(selection)
}

/// The logs of the layers in a folder; not those of scores, which lie beside them.
fn layer_logs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with("layer_") && name.ends_with(".csv") && !name.contains("_scores_") {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(Error::data(folder, "the folder holds no layer_N...csv; a log of all layers is named itself")),
        false => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> PageLogOptions {
        PageLogOptions { policy: "lserve".into(), page: 64, every: 4, group: 1, batch: None, unsaid: None }
    }

    const HEADER: &str = "timestamp,layer_idx,experiment_mode,timestep,total_pages,batch_idx,head_idx,selected_pages,num_odd_pages,num_even_pages\n";

    fn row(layer: u32, timestep: usize, batch: u32, head: u32, pages: &str) -> String {
        format!("2025-10-13 19:39:34,{layer},4,{timestep},34,{batch},{head},\"{pages}\",1,2\n")
    }

    fn read(files: &[(&str, String)], options: &PageLogOptions) -> Result<Imported> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        match files {
            [(name, _)] => import(&dir.path().join(name), options),
            _ => import(dir.path(), options),
        }
    }

    #[test]
    fn the_logs_of_layers_keep_pages_between_selections() {
        let of_layer = |layer: u32| {
            let rows = [(2050, 0, "3,31,3,32"), (2050, 1, "0,32"), (2052, 0, "7,32"), (2052, 1, "8,32")];
            let rows = rows.map(|(timestep, head, pages)| row(layer, timestep, 0, head, pages));
            (format!("layer_{layer}_exp4_20251013.csv"), HEADER.to_string() + &rows.concat())
        };
        let (a, b) = (of_layer(2), of_layer(10));
        let files = [(a.0.as_str(), a.1), (b.0.as_str(), b.1), ("layer_2_scores_exp4_20251013.csv", "x\n".into())];
        let Imported { selection, notes } = read(&files, &PageLogOptions { group: 3, ..options() }).unwrap();
        assert_eq!(
            (selection.prefill(), selection.shape, selection.layers.as_deref()),
            (2050, Some([2, 6, 3]), Some(&[2, 10][..]))
        );
        assert_eq!(selection.granularity(), Granularity::Page(64));
        let pages = |layer, head, step| {
            let tokens = selection.tokens(layer, head, step).unwrap();
            let mut pages: Vec<u32> = tokens.iter().map(|t| t / 64).collect();
            pages.dedup();
            (pages, tokens.len())
        };
        // Page 32 begins at token 2048; the first step decodes token 2050.
        assert_eq!(pages(0, 0, 0), (vec![3, 31, 32], 64 + 64 + 3));
        assert_eq!(pages(1, 2, 1), (vec![3, 31, 32], 64 + 64 + 4));
        assert_eq!(pages(1, 3, 2), (vec![8, 32], 64 + 5));
        assert_eq!(notes, ["2 pages that a row of the log repeats were dropped"]);
    }

    #[test]
    fn a_log_without_a_header_has_the_layers_of_each_selection_in_turn() {
        let text =
            "\"[0, 32]\",\"[1, 32]\"\n\"[2, 32]\",\"[3, 32]\"\n\"[4, 32]\",\"[5, 32]\"\n\"[6, 32]\",\"[7, 32]\"\n";
        let of = |unsaid| read(&[("log.csv", text.into())], &PageLogOptions { unsaid, ..options() });
        let selection = of(Some((2, 2050))).unwrap().selection;
        assert_eq!((selection.prefill(), selection.shape, &selection.layers), (2050, Some([2, 2, 3]), &None));
        // Selected at 2050, then at the next multiple of 4.
        let first = |layer, head, step| selection.tokens(layer, head, step).unwrap()[0] / 64;
        assert_eq!([first(0, 1, 0), first(0, 1, 1), first(0, 1, 2), first(1, 0, 1), first(1, 0, 2)], [1, 1, 5, 2, 6]);
        assert!(
            of(None)
                .unwrap_err()
                .to_string()
                .ends_with("has no header: --layers and --prefill have to say what it is of")
        );
        assert!(
            of(Some((3, 2050))).unwrap_err().to_string().ends_with("4 rows are no whole steps of 3 layers: 1 are left")
        );
    }

    #[test]
    fn a_log_with_holes_is_refused() {
        let wrong = |rows: &[String]| {
            read(&[("log.csv", HEADER.to_string() + &rows.concat())], &options()).unwrap_err().to_string()
        };
        let good = row(0, 10, 0, 0, "0");
        assert!(wrong(&[]).ends_with("the log has no selection"));
        assert!(
            wrong(&[good.clone(), row(0, 16, 0, 0, "0")])
                .ends_with("no pages from timestep 11 to 15; those of a timestep are kept for 4 at most (--every)")
        );
        assert!(
            wrong(&[good.clone(), good.clone()]).ends_with("log.csv:3: layer 0, head 0, timestep 10 is there twice")
        );
        assert!(
            wrong(&[good.clone(), row(0, 11, 0, 1, "0")])
                .ends_with("layer 0, head 1: no pages at timestep 10, the first of the log")
        );
        assert!(
            wrong(&[good.clone(), row(0, 10, 0, 2, "0")])
                .ends_with("layer 0, head 1: no pages at timestep 10, the first of the log")
        );
        assert!(
            wrong(&[good.clone(), row(0, 10, 1, 0, "0")])
                .ends_with("the log has several requests; --batch says which one")
        );
        assert!(wrong(&[row(0, 10, 0, 0, "0,x")]).ends_with("log.csv:2: selected_pages: \"x\" is no page"));
        let other = PageLogOptions { batch: Some(1), ..options() };
        let text = HEADER.to_string() + &good + &row(0, 10, 1, 0, "5");
        assert_eq!(read(&[("log.csv", text)], &other).unwrap().selection.indices, [5]);
        let header = HEADER.replace("selected_pages", "pages");
        let missing = read(&[("log.csv", header)], &options()).unwrap_err().to_string();
        assert!(missing.contains("no column \"selected_pages\""), "{missing}");
    }
}
