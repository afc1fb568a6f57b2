use super::import::{self, ImportOptions};
use super::*;
use crate::generate::{CacheSet, Generator, MetricsRow};
use pimattn_core::cancel::Cancel;
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use pimattn_kv::KvCache;
use pimattn_kv::synthetic::{SyntheticSpec, generate as synthetic};
use pimattn_mapping::workload::Workload;
use pimattn_policies::select;
use pimattn_trace::{MemoryTrace, Record};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn cache() -> KvCache {
    let spec = SyntheticSpec {
        layers: 2,
        kv_heads: 2,
        query_heads: 4,
        dim: 16,
        prefill: 200,
        decode_steps: 70,
        ..SyntheticSpec::default()
    };
    let mut cache = synthetic(&spec).unwrap();
    // Some queries of the prefill, which h2o and infinigen prepare from.
    cache.prefill += 20;
    cache
}

fn system() -> System {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs/system/hbm3-pim.toml");
    System::load(&file, &[]).unwrap()
}

fn document(workload: &Workload) -> Document {
    Document::of_table("workload", toml::Table::try_from(workload).unwrap())
}

fn cached(cache: &KvCache) -> Arc<CacheSet> {
    Arc::new(CacheSet::new(vec![cache.clone()], vec![0]))
}

fn imported(cache: &KvCache, workload: Workload, selection: &Selection, budget: Option<usize>) -> Result<Generator> {
    let doc = document(&workload);
    Generator::load_imported(&cached(cache), system(), workload, &doc, None, selection, budget)
}

/// The records of a generator's trace, and its metrics without whose they are.
fn run(generator: &Generator) -> (Vec<Record>, Vec<MetricsRow>) {
    let mut rows = Vec::new();
    let mut keep = |row: &MetricsRow| {
        rows.push(row.clone());
        Ok(())
    };
    let mut trace = MemoryTrace::new(generator.header().clone());
    generator.run(&mut trace, Some(&mut keep), &mut |_| ()).unwrap();
    let label = rows[0].label.clone();
    rows.iter_mut().for_each(|row| row.label = label.clone());
    (trace.records().to_vec(), rows)
}

/// Written, read and taken in place of the policy, a selection makes the same accesses, and keeps the same.
#[test]
fn a_kept_selection_is_what_its_policy_selected() {
    let cache = cache();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("selection.safetensors");
    for (entry, dense_layers) in select::REGISTRY.iter().flat_map(|entry| [(entry, 0), (entry, 1)]) {
        let mut policies = std::collections::BTreeMap::new();
        if entry.name == "streaming" {
            // The variant that weighs tokens by scores of its own.
            policies.insert("streaming".into(), "positions = \"cache\"".parse().unwrap());
        }
        let workload = Workload { dense_layers, policies, ..Workload::new(entry.name, 128) };
        let doc = document(&workload);
        let mut generator = Generator::load_on(&cached(&cache), system(), workload.clone(), &doc, None).unwrap();
        let (expected, mut kept) = run(&generator);
        generator.keep_selection(&Cancel::new(), &|_| ()).unwrap().save(&path).unwrap();
        let selection = Selection::load(&path).unwrap();
        assert_eq!((selection.policy(), selection.budget(), selection.prefill()), (entry.name, 128, 220));
        let again = imported(&cache, workload, &selection, None).unwrap();
        let (records, rows) = run(&again);
        kept.iter_mut().zip(&rows).for_each(|(a, b)| a.label = b.label.clone());
        assert!(records == expected, "{}, {dense_layers} dense: other accesses", entry.name);
        assert!(rows == kept, "{}, {dense_layers} dense: other metrics", entry.name);
        assert_eq!(again.label().policy, entry.name);
    }
}

/// The sinks and the latest tokens, by code of its own.
fn streaming(cache: &KvCache, budget: u32, unsorted: bool) -> CsrSelection {
    let mut csr = CsrSelection {
        policy: "mine".into(),
        prefill: cache.prefill,
        granularity: Granularity::Token,
        indices: Vec::new(),
        pointer: vec![0],
        order: None,
        scan: SelectionScan::Nothing,
    };
    for _ in 0..cache.layers.len() * cache.query_heads {
        for position in cache.decode_positions() {
            let len = position as u32 + 1;
            let mut tokens: Vec<u32> = (0..4).chain(len - (budget - 4)..len).collect();
            if unsorted {
                tokens.reverse();
            }
            csr.indices.extend(tokens);
            csr.pointer.push(csr.indices.len() as u64);
        }
    }
    csr
}

#[test]
fn a_selection_of_ones_own_is_priced_as_the_policy_that_it_is() {
    let cache = cache();
    let workload = Workload::new("streaming", 64);
    let doc = document(&workload);
    let policy = Generator::load_on(&cached(&cache), system(), workload.clone(), &doc, None).unwrap();
    let (expected, kept) = run(&policy);
    for unsorted in [false, true] {
        let selection = Selection::from_csr("mine", streaming(&cache, 64, unsorted)).unwrap();
        let ours = imported(&cache, workload.clone(), &selection, Some(64)).unwrap();
        assert_eq!((ours.label().policy.as_str(), ours.label().budget), ("mine", 64));
        let (records, rows) = run(&ours);
        assert!(records == expected);
        assert!(rows.iter().zip(&kept).all(|(a, b)| a.accuracy == b.accuracy));
    }
}

#[test]
fn what_selecting_reads_is_priced() {
    let cache = cache();
    let requests = |scan: &str| {
        let csr = CsrSelection { scan: scan.parse().unwrap(), ..streaming(&cache, 64, false) };
        let selection = Selection::from_csr("mine", csr).unwrap();
        run(&imported(&cache, Workload::new("streaming", 64), &selection, None).unwrap()).0
    };
    let none = requests("none");
    // Bounds of pages as Quest reads them, of a fixed number, and a short key of 8 bytes for each token.
    let (pages, short) = (requests("2x13x16"), requests("bytes_per_token:8"));
    assert!(none.len() < pages.len() && none.len() < short.len());
    assert_ne!(pages, short);
    assert_eq!(requests("bytes_per_token:7.1"), short, "an element is read whole");
}

#[test]
fn pages_are_their_tokens_and_end_with_the_cache() {
    let cache = cache();
    let mut csr = streaming(&cache, 64, false);
    (csr.indices, csr.pointer, csr.granularity) = (Vec::new(), vec![0], Granularity::Page(16));
    for _ in 0..cache.layers.len() * cache.query_heads {
        for position in cache.decode_positions() {
            csr.indices.extend([3, position as u32 / 16]);
            csr.pointer.push(csr.indices.len() as u64);
        }
    }
    let selection = Selection::from_csr("mine", csr).unwrap();
    assert_eq!(selection.budget(), 32);
    let (_, rows) = run(&imported(&cache, Workload::new("full", 64), &selection, None).unwrap());
    for row in rows {
        assert_eq!(row.accuracy.selected, 16 + row.position % 16 + 1);
    }
}

#[test]
fn fewer_steps_cut_the_run_and_are_said() {
    let mut cache = cache();
    let all = cache.clone();
    cache.queries -= 30;
    let q = |head: usize| all.queries(head / 4, head % 4).data[..cache.queries * cache.dim].to_vec();
    cache.q = (0..8).flat_map(q).collect::<Vec<_>>().into();
    let selection = Selection::from_csr("mine", streaming(&cache, 64, false)).unwrap();
    let generator = imported(&all, Workload::new("full", 64), &selection, None).unwrap();
    assert_eq!(generator.steps(), 20);
    assert!(generator.label().cautions.iter().any(|c| c == "the selection has 20 steps of the 50 of the cache"));
    assert_eq!(run(&generator).1.len(), 20 * 8);
}

#[test]
fn faults_are_refused_with_their_place() {
    let cache = cache();
    let steps = cache.decode_positions().len();
    let said = |change: &dyn Fn(&mut CsrSelection), budget| {
        let mut csr = streaming(&cache, 64, false);
        change(&mut csr);
        let bound =
            Selection::from_csr("mine", csr).and_then(|s| imported(&cache, Workload::new("full", 64), &s, budget));
        match bound {
            Ok(_) => panic!("taken"),
            Err(e) => e.to_string(),
        }
    };
    // Of query head 1 of the second layer, step 2.
    let at = (5 * steps + 2) * 64;
    let place = "mine: layer 1, query head 1, step 2: ";
    assert_eq!(
        said(&|c| c.indices[at + 63] = 223, None),
        format!("{place}token 223 lies in the future: there are 223 tokens")
    );
    assert_eq!(said(&|c| c.indices[at] = 3, None), format!("{place}token 3 stands twice"));
    assert!(said(&|_| (), Some(63)).ends_with("step 0: 64 tokens are selected; the budget is 63"));
    assert!(said(&|c| c.prefill = 219, None).contains("a prefill of 219 tokens; the cache has one of 220"));
    assert!(said(&|c| c.pointer[5] = 0, None).contains("sel_ptr goes back behind list 4"));
    assert!(said(&|c| c.pointer[0] = 1, None).contains("begin with 0"));
    assert!(said(&|c| c.indices.push(1), None).contains("sel_ptr ends at"));
    let shorter = |c: &mut CsrSelection| {
        c.pointer.pop();
        c.indices.truncate(c.indices.len() - 64);
    };
    assert!(said(&shorter, None).contains("399 lists; the cache has 2 layers of 4 query heads and 50 steps"));
    let order = |shape: [usize; 3], slots: Vec<u32>| move |c: &mut CsrSelection| c.order = Some((shape, slots.clone()));
    let tokens = cache.tokens as u32;
    let whole: Vec<u32> = (0..4).flat_map(|_| 0..tokens).collect();
    assert!(said(&order([2, 2, 5], vec![0; 20]), None).contains("order has shape [2, 2, 5]; expected [2, 2, 270]"));
    let mut twice = whole.clone();
    twice[300] = 7;
    assert!(
        said(&order([2, 2, 270], twice), None).contains("order: layer 0, KV head 1: slot 7, of token 30, stands twice")
    );
    let mut beyond = whole.clone();
    beyond[3] = 270;
    assert!(said(&order([2, 2, 270], beyond), None).contains("slot 270, of token 3, is beyond the tokens"));
    assert!("page:0".parse::<Granularity>().is_err() && "pages:4".parse::<Granularity>().is_err());
    for wrong in ["2x3", "0x1x1", "bytes_per_token:0", "bytes_per_token:x", "keys"] {
        assert!(wrong.parse::<SelectionScan>().is_err(), "{wrong}");
    }
}

fn options() -> ImportOptions {
    ImportOptions { policy: "theirs".into(), prefill: None, page: 64, scan: SelectionScan::Nothing }
}

#[test]
fn pages_that_an_engine_logs_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let header = "timestamp,layer_idx,experiment_mode,timestep,total_pages,batch_idx,head_idx,selected_pages,num_odd_pages,num_even_pages\n";
    let log = |layer: usize, rows: &[(u64, usize, &str)]| {
        let line = |(step, head, pages): &(u64, usize, &str)| {
            format!("2026-01-01 00:00:00,{layer},4,{step},5,0,{head},\"{pages}\",1,1\n")
        };
        let text: String = rows.iter().map(line).collect();
        std::fs::write(folder.path().join(format!("layer_{layer}_exp4.csv")), format!("{header}{text}")).unwrap();
    };
    // The engine selects at tokens 254 and 258 alone.
    let rows: [(u64, usize, &str); 4] = [(254, 0, "2,0"), (254, 1, "1,3"), (258, 0, "1,4"), (258, 1, "0,2")];
    log(0, &rows);
    log(1, &rows);
    let selection = import::lserve(folder.path(), &options()).unwrap();
    assert_eq!(
        (selection.prefill(), selection.lists(), selection.granularity()),
        (254, 2 * 2 * 5, Granularity::Page(64))
    );
    let lists: Vec<&[u32]> = (0..10).map(|list| selection.list(list)).collect();
    // Token 256 begins page 4; page 3, which token 254 was in, stays what was selected.
    assert_eq!(lists[..5], [&[2, 0, 3][..], &[2, 0, 3], &[2, 0, 3, 4], &[2, 0, 3, 4], &[1, 4]]);
    assert_eq!(lists[5..], [&[1, 3][..], &[1, 3], &[1, 3, 4], &[1, 3, 4], &[0, 2, 4]]);
    let later = import::lserve(folder.path(), &ImportOptions { prefill: Some(257), ..options() }).unwrap();
    assert_eq!((later.lists(), later.list(0)), (2 * 2 * 2, &[2, 0, 3, 4][..]));

    let refused = || import::lserve(folder.path(), &options()).unwrap_err().to_string();
    log(1, &rows[..2]);
    assert!(refused().contains("layer 1, head 0 has other steps"), "{}", refused());
    log(1, &[rows[0], rows[2]]);
    assert!(refused().contains("layer 1 has other heads"), "{}", refused());
    log(1, &[(254, 0, "1,x")]);
    assert!(refused().contains("page \"x\"") && refused().contains("layer_1_exp4.csv:2"), "{}", refused());
}

fn npy(path: &Path, shape: &str, values: &[bool]) {
    let text = format!("{{'descr': '|b1', 'fortran_order': False, 'shape': {shape}, }}\n");
    let head = [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let values: Vec<u8> = values.iter().map(|on| u8::from(*on)).collect();
    std::fs::write(path, [head, values].concat()).unwrap();
}

#[test]
fn masks_are_taken_from_the_prefill_on() {
    let folder = tempfile::tempdir().unwrap();
    let (heads, queries, tokens) = (2, 3, 8);
    // Query i is that of token 5 + i; head h attends to token h, and to its own.
    let on = |head: usize, query: usize, token: usize| token == head || token == 5 + query;
    let cell = |i: usize| on(i / tokens / queries, i / tokens % queries, i % tokens);
    let mask: Vec<bool> = (0..heads * queries * tokens).map(cell).collect();
    npy(&folder.path().join("layer_0.npy"), "(2, 3, 8)", &mask);
    npy(&folder.path().join("layer_1.npy"), "(2, 3, 8)", &mask);
    let selection = import::masks(folder.path(), &options()).unwrap();
    assert_eq!((selection.prefill(), selection.lists()), (5, 2 * 2 * 3));
    assert_eq!((selection.list(1), selection.list(5), selection.list(6)), (&[0, 6][..], &[1, 7][..], &[0, 5][..]));
    let later = import::masks(folder.path(), &ImportOptions { prefill: Some(7), ..options() }).unwrap();
    assert_eq!((later.lists(), later.list(1)), (4, &[1, 7][..]));
    // The layers in one array.
    let one = folder.path().join("all.npy");
    npy(&one, "(2, 2, 3, 8)", &[mask.clone(), mask.clone()].concat());
    assert_eq!(import::masks(&one, &options()).unwrap().indices(), selection.indices());

    let mut future = mask.clone();
    future[6] = true;
    npy(&one, "(2, 3, 8)", &future);
    let said = import::masks(&one, &options()).unwrap_err().to_string();
    assert!(said.contains("query head 0: the query of token 5 selects token 6"), "{said}");
    npy(&one, "(2, 3, 4)", &mask);
    assert!(import::masks(&one, &options()).unwrap_err().to_string().contains("does not fit"));
}

#[test]
fn damaged_files_are_refused() {
    let cache = cache();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.safetensors");
    Selection::from_csr("mine", streaming(&cache, 64, false)).unwrap().save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(Selection::load(&path).unwrap().hash(), Selection::load(&path).unwrap().hash());
    let said = |from: &str, to: &str| {
        // Of the same length, so that the header stays what it is.
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, changed).unwrap();
        Selection::load(&path).unwrap_err().to_string()
    };
    assert!(said("\"token\"", "\"tokem\"").contains("granularity \"tokem\": expected token"));
    assert!(said("\"220\"", "\"22o\"").contains("metadata \"prefill\" is \"22o\""));
    assert!(said("\"none\"", "\"nine\"").contains("scan \"nine\""));
    assert!(said("sel_ptr", "sel_prt").contains("tensor \"sel_prt\" is not known; did you mean \"sel_ptr\"?"));
    assert!(said("\"U64\"", "\"I64\"").contains("type I64; expected U64"));
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert!(Selection::load(&path).is_err());
}
