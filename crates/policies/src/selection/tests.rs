//! What a selection is refused for, with its place; and what is taken.

use super::*;
use crate::select::HeadState;
use pimattn_core::error::Error;
use pimattn_kv::KvCache;
use pimattn_kv::safetensors::{self, TensorBytes};
use pimattn_kv::selection::{Clustering, Scan, SlotOrder};
use pimattn_kv::synthetic::{SyntheticSpec, generate};
use std::collections::BTreeMap;

/// Keys of so many tokens, which a replay only counts.
fn keys(tokens: usize) -> pimattn_kv::Rows<'static> {
    pimattn_kv::Rows { data: &[0.0; 256][..tokens], dim: 1 }
}

/// Two layers of 2 KV heads and 4 query heads; the steps decode tokens 20, 21 and 22.
fn cache() -> KvCache {
    let shape = SyntheticSpec {
        layers: 2,
        kv_heads: 2,
        query_heads: 4,
        dim: 8,
        prefill: 20,
        decode_steps: 3,
        ..SyntheticSpec::default()
    };
    generate(&shape).unwrap()
}

const SHAPE: [usize; 3] = [2, 4, 3];

/// Every query head selects tokens 0 and 5 at each step.
fn selection() -> Selection {
    let ptr = (0..=24).map(|row| 2 * row).collect();
    Selection::from_csr("mine", 20, Some(SHAPE), Granularity::Token, [0, 5].repeat(24), ptr)
}

fn fit(cache: &KvCache) -> SelectionFit<'_> {
    SelectionFit { cache, dense_layers: 0, budget: 4, element_bytes: 2 }
}

/// The error of a selection after a change.
fn wrong(change: impl FnOnce(&mut Selection)) -> String {
    let mut selection = selection();
    change(&mut selection);
    match selection.recordings(&fit(&cache())) {
        Err(e @ Error::Data { .. }) => e.to_string(),
        Err(e) => panic!("another error: {e}"),
        Ok(_) => panic!("it fits"),
    }
}

/// Place of the first index of a row.
fn at(layer: usize, head: usize, step: usize) -> usize {
    2 * ((layer * 4 + head) * 3 + step)
}

#[test]
fn tokens_have_to_be_there_once_and_within_the_budget() {
    // Step 1 decodes token 21, which may be selected; token 22 may not.
    let (i, place) = (at(1, 2, 1), "selection: layer 1, query head 2, step 1 (position 21): ");
    let cache = cache();
    let mut last = selection();
    last.indices[i] = 21;
    assert!(last.recordings(&fit(&cache)).is_ok());
    assert_eq!(wrong(|s| s.indices[i] = 22), format!("{place}token 22 is not there; 0 to 21 are"));
    assert_eq!(wrong(|s| s.indices[i] = u32::MAX), format!("{place}token 4294967295 is not there; 0 to 21 are"));
    assert_eq!(wrong(|s| s.indices[i] = 5), format!("{place}token 5 is selected twice"));
    let empty = wrong(|s| {
        s.indices.drain(i..i + 2);
        s.ptr[i / 2 + 1..].iter_mut().for_each(|p| *p -= 2);
    });
    assert_eq!(empty, format!("{place}it selects nothing; a query head attends to one token at least"));
    let many = |s: &mut Selection| {
        s.indices.splice(i..i, [9, 8, 7]);
        s.ptr[i / 2 + 1..].iter_mut().for_each(|p| *p += 3);
    };
    assert_eq!(wrong(many), format!("{place}5 tokens are selected; the budget is 4"));
    let mut beyond = selection();
    many(&mut beyond);
    assert_eq!(beyond.most_tokens(&cache, 0).unwrap(), 5);
    assert_eq!(beyond.most_tokens(&cache, 2).unwrap(), 1, "all layers stay full");
    beyond.facts.beyond_budget = true;
    assert!(beyond.recordings(&fit(&cache)).is_ok());
    // A layer that stays full is not read.
    let mut dense = selection();
    dense.indices[0] = 99;
    assert!(dense.recordings(&SelectionFit { dense_layers: 1, ..fit(&cache) }).is_ok());
}

#[test]
fn unsorted_tokens_are_the_same_tokens_and_keep_their_scores() {
    let cache = cache();
    let mut selection = selection();
    selection.indices[..2].swap(0, 1);
    let scores = (0..48).map(|i| i as f32).collect();
    selection.tables.sel_scores = Some(Shaped::flat(scores));
    let heads = selection.recordings(&fit(&cache)).unwrap();
    let mut state = heads[0].replay();
    state.grow(keys(21));
    let mut tokens = vec![Vec::new(); 2];
    let step = crate::select::StepView { keys: keys(21), budget: 4, queries: &[], layer_queries: &[], scores: &[] };
    state.select(step, &mut tokens);
    assert_eq!(tokens, [[0, 5], [0, 5]]);
    assert_eq!(state.rescored(), [[1.0, 0.0], [6.0, 7.0]]);
}

#[test]
fn pages_are_the_tokens_that_are_there() {
    let cache = cache();
    let mut selection = selection();
    selection.granularity = Granularity::Page(4);
    let fit = SelectionFit { budget: 7, ..fit(&cache) };
    // Page 5 begins with token 20: one token at the first step, three at the last.
    let heads = selection.recordings(&SelectionFit { budget: 8, ..fit }).unwrap();
    let mut tokens = vec![Vec::new(); 2];
    let mut state = heads[3].replay();
    for (len, last) in [(21, vec![20]), (22, vec![20, 21]), (23, vec![20, 21, 22])] {
        state.grow(keys(len));
        let step =
            crate::select::StepView { keys: keys(len), budget: 8, queries: &[], layer_queries: &[], scores: &[] };
        state.select(step, &mut tokens);
        assert_eq!(tokens[1], [&[0, 1, 2, 3][..], &last].concat());
    }
    assert_eq!(selection.most_tokens(&cache, 0).unwrap(), 7);
    assert!(selection.recordings(&fit).is_ok());
    let error = |s: &Selection| s.recordings(&fit).unwrap_err().to_string();
    selection.indices[0] = 6;
    assert!(error(&selection).ends_with("step 0 (position 20): page 6 is not there; 0 to 5 are, of 4 tokens each"));
    selection.indices[0] = 5;
    assert!(error(&selection).ends_with("page 5 is selected twice"));
}

#[test]
fn the_shape_has_to_be_that_of_the_cache() {
    let file = |what: &str| format!("selection: {what}");
    assert_eq!(
        wrong(|s| s.ptr.truncate(24)),
        file(
            "sel_ptr has 24 entries; 2 layers of 4 query heads, as the cache has, need a multiple of 8 for the steps, and one more"
        )
    );
    assert!(wrong(|s| s.ptr.clear()).contains("sel_ptr has 0 entries"));
    assert!(wrong(|s| s.shape = Some([4, 2, 3])).contains("it says that it has 4 layers, 2 query heads and 3 steps"));
    assert_eq!(wrong(|s| s.layers = Some(vec![0, 7])), file("it is of layers [0, 7]; the cache has [0, 1]"));
    let prefill = "its first step decodes the token behind a prefill of 19; that of the cache is token 20";
    assert_eq!(wrong(|s| s.prefill = 19), file(prefill));
    let more = wrong(|s| {
        s.shape = None;
        s.ptr.extend([48; 8]);
    });
    assert_eq!(more, file("it has 4 steps; the cache has queries of 3"));
    let place = "layer 0, query head 0, step 2 (position 22): ";
    assert_eq!(wrong(|s| s.ptr[2] = 9), file(&format!("{place}sel_ptr descends from 9 to 6")));
    assert!(wrong(|s| s.ptr[0] = 1).ends_with("step 0 (position 20): sel_ptr begins with 1; expected 0"));
    assert_eq!(wrong(|s| s.ptr[24] = 50), file("sel_ptr ends at 50; sel_indices has 48 entries"));
}

#[test]
fn an_order_has_to_be_a_permutation_of_what_is_there() {
    let order = |s: &mut Selection, change: &dyn Fn(&mut [u32])| {
        let mut slots = (0..20).collect::<Vec<u32>>().repeat(4);
        change(&mut slots[20..40]);
        *s = s.clone().with_order([2, 2, 20], slots);
    };
    let cache = cache();
    let mut good = selection();
    order(&mut good, &|slots| slots.reverse());
    let heads = good.recordings(&fit(&cache)).unwrap();
    let mut state = heads[1].replay();
    state.grow(keys(21));
    assert_eq!([0, 5, 19, 20].map(|t| state.order().slot(t)), [19, 14, 0, 20]);
    assert_eq!(*heads[0].steps[0].order, SlotOrder::default());
    let error = wrong(|s| order(s, &|slots| slots[3] = 4));
    assert!(
        error.starts_with("selection: tensor \"order\", layer index 0, KV head 1: the order is no permutation"),
        "{error}"
    );
    assert!(wrong(|s| order(s, &|slots| slots[19] = 25)).contains("slot 25 of token 19 is beyond them"));
    // Tokens that come later lie where they are appended.
    let later = wrong(|s| {
        let mut slots = (0..23).collect::<Vec<u32>>().repeat(4);
        slots.swap(21, 22);
        *s = s.clone().with_order([2, 2, 23], slots);
    });
    assert!(later.starts_with(
        "selection: layer 0, query head 0, step 0 (position 20): the order moves or clusters tokens up to 22;"
    ));
    assert!(
        wrong(|s| *s = s.clone().with_order([2, 4, 5], vec![0; 40]))
            .contains("tensor \"order\" has shape [2, 4, 5]; expected [2, 2, 5]")
    );
}

#[test]
fn a_scan_is_priced_by_the_word_of_the_file_where_not_all_is_selected() {
    let cache = cache();
    let scans = |rule, all: bool| {
        let mut selection = selection().with_scan(rule);
        if all {
            // The first KV head selects all that is there at the first step.
            selection.granularity = Granularity::Page(21);
            selection.indices = vec![0; 24];
            selection.ptr = (0..=24).collect();
            selection.facts.beyond_budget = true;
        }
        let heads = selection.recordings(&fit(&cache)).unwrap();
        let scan = |step: usize| {
            let mut state = heads[0].replay();
            (0..=step).for_each(|step| state.grow(keys(21 + step)));
            format!("{:?}", state.scan())
        };
        [scan(0), scan(1)]
    };
    let nothing = format!("{:?}", Scan::Nothing);
    let vectors = |matrices, vectors, elements| format!("{:?}", Scan::Vectors { matrices, vectors, elements });
    assert_eq!(scans(ScanRule::Nothing, false), [nothing.clone(), nothing.clone()]);
    // 3 bytes are two elements of two bytes; a vector for each token that is there.
    assert_eq!(scans(ScanRule::BytesPerToken(3.0), false), [vectors(1, 21, 2), vectors(1, 22, 2)]);
    assert_eq!(scans(ScanRule::BytesPerToken(3.0), true), [nothing, vectors(1, 22, 2)]);
    let rule = ScanRule::Vectors { matrices: 2, vectors: 6, elements: 8 };
    assert_eq!(scans(rule, false), [vectors(2, 6, 8), vectors(2, 6, 8)]);
    let huge = wrong(|s| s.scan = ScanRule::BytesPerToken(1e12));
    assert!(huge.contains(
        "layer 0, query head 0, step 0 (position 20): a scan of 1 matrices of 21 vectors of 4294967295 elements"
    ));
}

#[test]
fn tables_of_steps_are_checked_too() {
    let scans = |row: [u32; 4]| {
        move |s: &mut Selection| {
            s.tables.scans = Some(Shaped { shape: vec![2, 2, 3, 4], data: row.repeat(12) });
        }
    };
    assert!(wrong(scans([5, 0, 0, 0])).ends_with("the kind of its scan is 5; expected 0 to 4"));
    assert!(wrong(scans([3, 3, 1, 1])).ends_with("a scan of 3 matrices, one for each query head, of a group of 2"));
    assert!(wrong(scans([2, 0, 1, 1])).contains("a scan of 0 matrices"));
    assert!(wrong(scans([2, 4096, 1 << 20, 1])).contains("a scan of 4096 matrices"));
    let dims = wrong(|s| {
        scans([4, 0, 0, 0])(s);
        s.tables.scan_dims = Some(Shaped::flat([3, 8].repeat(12)));
        s.tables.scan_dims_ptr = Some(Shaped::flat((0..=12).map(|i| 2 * i).collect()));
    });
    assert!(dims.ends_with("dimension 8 is scanned; keys have 8"), "{dims}");
    let clustered = |row: [u32; 4]| {
        move |s: &mut Selection| {
            s.tables.clusterings = Some(Shaped { shape: vec![1, 4], data: row.to_vec() });
            // Of the first head, before its second step.
            s.tables.clustering_ptr = Some(Shaped::flat([[0; 3].to_vec(), [1; 14].to_vec()].concat()));
        }
    };
    let mut good = selection();
    clustered([2, 20, 5, 1])(&mut good);
    let heads = good.recordings(&fit(&cache())).unwrap();
    assert_eq!(heads[0].steps[1].clusterings, [Clustering { first: 2, tokens: 20, clusters: 5, iterations: 1 }]);
    for row in [[2, 21, 5, 1], [2, 4, 5, 1], [2, 4, 0, 1], [2, 4, 2, 0], [u32::MAX, 4, 2, 1]] {
        let error = wrong(clustered(row));
        assert!(
            error.starts_with("selection: layer 0, query head 0, step 1 (position 21): a clustering of"),
            "{error}"
        );
    }
    assert!(
        wrong(|s| s.tables.share = Some(Shaped { shape: SHAPE.to_vec(), data: vec![1.5; 24] }))
            .ends_with("the share 1.5 is not from 0 to 1")
    );
    let scores = wrong(|s| s.tables.sel_scores = Some(Shaped::flat([1.0, f32::INFINITY].repeat(24))));
    assert!(scores.ends_with("a score is inf; expected numbers, or NaN for all tokens of the step"));
    let some = wrong(|s| {
        let mut scores = vec![1.0; 48];
        scores[..2].fill(f32::NAN);
        s.tables.sel_scores = Some(Shaped::flat(scores));
    });
    assert!(some.ends_with("some query heads of the KV head have scores of their own, and some have none"));
    assert!(
        wrong(|s| s.tables.order_of = Some(Shaped { shape: vec![2, 2, 3], data: vec![0; 12] }))
            .ends_with("need both \"orders\" and \"order_of\"")
    );
}

#[test]
fn a_file_is_read_as_it_was_written_and_nothing_is_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.safetensors");
    let order = (0..4).flat_map(|_| (0..20u32).rev()).collect();
    let rich = selection()
        .with_order([2, 2, 20], order)
        .with_scan(ScanRule::BytesPerToken(1.5))
        .with_layers(vec![0, 1])
        .with_budget(4);
    rich.save(&path).unwrap();
    let read = Selection::load(&path).unwrap();
    assert_eq!(Selection { source: "selection".into(), ..read.clone() }, rich);
    assert_eq!(read.hash(), rich.hash());
    assert_ne!(read.hash(), selection().hash());
    let bytes = std::fs::read(&path).unwrap();
    read.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same content, the same bytes");
    let named = Selection::from_csr("a,b", 20, Some(SHAPE), Granularity::Token, Vec::new(), Vec::new()).save(&path);
    assert!(matches!(named, Err(Error::Usage(_))));

    // As numpy and safetensors write one that says no more than it has to.
    let minimal = [("granularity", "token"), ("policy", "mine"), ("prefill", "20"), ("format", "np")];
    let write = |change: &[(&str, &str)], more: Option<TensorBytes>| {
        let mut metadata: BTreeMap<String, String> =
            minimal.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        for (key, value) in change {
            match *value {
                "" => drop(metadata.remove(*key)),
                value => drop(metadata.insert(key.to_string(), value.to_string())),
            }
        }
        let mut tensors = vec![
            TensorBytes::new("sel_indices", &[48], &[0u32, 5].repeat(24)),
            TensorBytes::new("sel_ptr", &[25], &(0..=24u64).map(|row| 2 * row).collect::<Vec<_>>()),
        ];
        tensors.retain(|t| more.as_ref().is_none_or(|m| m.name() != t.name()));
        tensors.extend(more);
        let mut bytes = Vec::new();
        safetensors::write(&mut bytes, &metadata, tensors).unwrap();
        std::fs::write(&path, bytes).unwrap();
        Selection::load(&path)
    };
    let plain = write(&[], None).unwrap();
    assert_eq!((plain.steps(), plain.tokens(0, 0, 0)), (None, None), "without a shape, only the cache tells");
    assert_eq!(plain.recordings(&fit(&cache())).unwrap().len(), 4);
    let shaped = write(&[("shape", "2x4x3")], None).unwrap();
    assert_eq!((shaped.steps(), shaped.tokens(1, 3, 2)), (Some(3), Some(vec![0, 5])));
    assert_eq!(write(&[("granularity", "page:16")], None).unwrap().granularity(), Granularity::Page(16));

    let refused = |change: &[(&str, &str)], more| match write(change, more) {
        Err(Error::Data { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[("policy", "")], None), "the metadata lack \"policy\"");
    assert_eq!(refused(&[("prefill", "")], None), "the metadata lack \"prefill\"");
    assert_eq!(refused(&[("prefill", "0")], None), "metadata \"prefill\" is 0; expected 1 to 1073741824");
    assert!(refused(&[("granularity", "pages")], None).contains("expected token, or page:N"));
    assert!(refused(&[("granularity", "page:0")], None).contains("expected token, or page:N"));
    assert!(refused(&[("scan", "2x3")], None).starts_with("metadata \"scan\": \"2x3\" is neither none"));
    assert_eq!(refused(&[("scans", "none")], None), "the metadata \"scans\" are not known; did you mean \"scan\"?");
    assert!(refused(&[("shape", "2x4")], None).contains("not three numbers"));
    assert_eq!(refused(&[("beyond_budget", "1")], None), "metadata \"beyond_budget\" is \"1\"; expected yes or no");
    let tensor = |name, shape: &[usize]| Some(TensorBytes::new(name, shape, &vec![0u32; shape.iter().product()]));
    assert_eq!(refused(&[], tensor("sel_ptr", &[25])), "tensor \"sel_ptr\" has type U32; expected U64");
    assert_eq!(refused(&[], tensor("sel_indices", &[24, 2])), "tensor \"sel_indices\" has 2 axes; expected 1");
    assert_eq!(
        refused(&[], tensor("sel_index", &[1])),
        "tensor \"sel_index\" is not known; did you mean \"sel_indices\"?"
    );
}

#[test]
fn a_scan_rule_is_read_as_it_is_written() {
    for text in ["none", "bytes_per_token:2.5", "bytes_per_token:16", "2x128x64"] {
        assert_eq!(ScanRule::parse(text).unwrap().text(), text);
    }
    for wrong in
        ["", "all", "bytes_per_token:", "bytes_per_token:-1", "bytes_per_token:inf", "2x128", "2x0x64", "2x-1x64"]
    {
        assert!(ScanRule::parse(wrong).unwrap_err().starts_with(&format!("\"{wrong}\" is neither")), "{wrong}");
    }
}

#[test]
fn pages_end_where_the_cache_does() {
    let of = |granularity| {
        Selection::from_csr("p", 9, Some([1, 2, 1]), granularity, vec![2, 0, 1], vec![0, 2, 3]).tokens(0, 0, 0)
    };
    assert_eq!(of(Granularity::Token), Some(vec![2, 0]));
    assert_eq!(of(Granularity::Page(4)), Some(vec![8, 9, 0, 1, 2, 3]), "the step decodes token 9");
    let selection = Selection::from_csr("p", 9, Some([1, 2, 1]), Granularity::Token, vec![2], vec![0, 1, 5]);
    assert_eq!(selection.tokens(0, 1, 0), None, "the pointers go beyond the indices");
    assert_eq!([selection.tokens(1, 0, 0), selection.tokens(0, 0, 1)], [None, None]);
}
