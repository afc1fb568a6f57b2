//! From what a source has read to a [`KvCache`]: the rules that every cache obeys, whatever its source.

use super::{Elements, Heads, KvCache, Rows};
use crate::linalg;
use crate::rope::SaidScaling;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result, suggest};

/// Bytes of a cache, as f32, up to which its elements are in memory. Those of a larger one are in a file and read head by head.
pub const IN_MEMORY: u64 = 128 << 20;

/// Names of the tensors that a dump may hold.
pub(super) const TENSOR_NAMES: [&str; 5] = ["k", "v", "q", "q_late", "layers"];
/// Names of the scalars that the NumPy forms hold beside the tensors (metadata in safetensors).
pub(super) const SCALAR_NAMES: [&str; 2] = ["prefill_len", "query_start"];

/// A tensor of floating-point values, in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the source.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The values, widened to f32.
    pub data: Elements,
    /// Bytes of one element as stored in the source.
    pub element_bytes: u32,
}

/// What a source has read, before it is checked. Negative or oversized numbers are kept as they are, so that
/// [`KvCache::checked`] can say what is wrong with them.
#[derive(Debug, Clone, PartialEq)]
pub struct KvParts {
    /// Keys after RoPE `[layer, kv_head, token, dim]`.
    pub k: Tensor,
    /// Values `[layer, kv_head, token, dim]`.
    pub v: Tensor,
    /// Unscaled queries after RoPE `[layer, query_head, query, dim]`.
    pub q: Tensor,
    /// Layer numbers in the model; `None` means `0..n`.
    pub layers: Option<Vec<i64>>,
    /// Tokens that were there before decoding began.
    pub prefill: i64,
    /// Token index of the first query.
    pub query_start: Option<i64>,
    /// Free text about positions; a range `A..B` (B inclusive) after `q` or `q_late` says where the queries stand.
    pub positions: Option<String>,
    /// What the source says of how the rotation was rescaled.
    pub rope_scaling: Option<SaidScaling>,
    /// Where the data comes from.
    pub provenance: String,
}

impl KvCache {
    /// Checks what `origin` has read and makes a cache of it.
    ///
    /// The first query stands at `query_start`; without it, at the start of the range in `positions`; without that,
    /// the queries belong to the last tokens. `element_bytes` is that of the keys.
    ///
    /// Errors: [`Error::Data`] naming `origin`, the tensor and the expectation when shapes do not fit each other, an
    /// axis is empty, a value is NaN or infinite, f32 cannot hold a product of query and key, the layers are not ascending, or prefill length and query
    /// positions contradict the shapes or each other.
    pub fn checked(origin: &str, parts: KvParts) -> Result<KvCache> {
        KvCache::checked_layers(&Cancel::new(), origin, parts, &[])
    }

    /// As [`KvCache::checked`], only these layers of the model, ascending; all where none is given.
    ///
    /// Errors: as there, [`Error::Config`] at `layers` where a layer is not there, those of reading elements, and
    /// [`Error::Interrupted`].
    pub fn checked_layers(cancel: &Cancel, origin: &str, parts: KvParts, layers: &[u32]) -> Result<KvCache> {
        let bad = |what| Error::Data { file: origin.to_string(), what };
        let mut kv = consistent(parts).map_err(bad)?;
        if !layers.is_empty() {
            kv = kv.only_layers(layers)?;
        }
        if kv.bytes_in_memory() <= IN_MEMORY {
            kv = kv.in_memory(cancel)?;
        }
        numbers_are_finite(cancel, &kv, origin)?;
        Ok(kv)
    }

    /// This cache, if it obeys the rules of [`KvCache::checked`]: for one whose fields were filled in by hand.
    ///
    /// Errors: [`Error::Data`] as there.
    pub fn validated(self) -> Result<KvCache> {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (layers, element_bytes) = (self.layers.len(), self.element_bytes);
        let tensor = |name: &str, heads: usize, rows: usize, data: Elements| {
            let shape = vec![layers, heads, rows, self.dim];
            Tensor { name: name.into(), shape, data, element_bytes }
        };
        let parts = KvParts {
            k: tensor("k", self.kv_heads, self.tokens, self.k),
            v: tensor("v", self.kv_heads, self.tokens, self.v),
            q: tensor("q", self.query_heads, self.queries, self.q),
            layers: Some(self.layers.iter().map(|l| i64::from(*l)).collect()),
            prefill: number(self.prefill),
            query_start: Some(number(self.query_start)),
            positions: None,
            rope_scaling: self.rope_scaling,
            provenance: self.provenance,
        };
        KvCache::checked("cache", parts)
    }
}

/// Where layers of the model are among those of a cache.
///
/// # Errors
/// [`Error::Config`] at `layers` where one is not there, or they are not ascending.
pub(super) fn indices_of(layers: &[u32], wanted: &[u32]) -> Result<Vec<usize>> {
    let wrong = |what: String| Error::Config { at: "layers".into(), what };
    if wanted.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(wrong(format!("expected ascending numbers, not {wanted:?}")));
    }
    let index = |layer: &u32| {
        let found = layers.iter().position(|l| l == layer);
        found.ok_or_else(|| wrong(format!("no layer {layer}; there are {layers:?}")))
    };
    wanted.iter().map(index).collect()
}

/// The cache of parts whose shapes and numbers of tokens and layers fit each other; its elements are not looked at.
fn consistent(parts: KvParts) -> Result<KvCache, String> {
    let KvParts { k, v, q, layers, prefill, query_start, positions, rope_scaling, provenance } = parts;
    let [n_layers, kv_heads, tokens, dim] = axes(&k, ["layer", "kv_head", "token", "dim"])?;
    let _ = axes(&v, ["layer", "kv_head", "token", "dim"])?;
    let [q_layers, query_heads, queries, q_dim] = axes(&q, ["layer", "query_head", "query", "dim"])?;
    if v.shape != k.shape {
        return Err(format!("tensor \"v\" has shape {:?}; expected that of \"k\", {:?}", v.shape, k.shape));
    }
    if v.element_bytes != k.element_bytes {
        return Err(format!(
            "tensor \"v\" has {}-byte elements; expected those of \"k\", {} bytes",
            v.element_bytes, k.element_bytes
        ));
    }
    let q_name = short(&q.name);
    if q_layers != n_layers {
        return Err(format!("tensor \"{q_name}\" has {q_layers} layers; expected those of \"k\", {n_layers}"));
    }
    if q_dim != dim {
        return Err(format!("tensor \"{q_name}\" has vectors of {q_dim} elements; expected those of \"k\", {dim}"));
    }
    if query_heads % kv_heads != 0 {
        return Err(format!(
            "tensor \"{q_name}\" has {query_heads} query heads; expected a multiple of the {kv_heads} KV heads"
        ));
    }
    if u32::try_from(tokens).is_err() {
        return Err(format!("tensor \"k\" has {tokens} tokens; at most {} are supported", u32::MAX));
    }
    let prefill = match usize::try_from(prefill) {
        Ok(p) if (1..=tokens).contains(&p) => p,
        _ => return Err(format!("prefill_len is {prefill}; expected 1 to the number of tokens, {tokens}")),
    };
    let query_start = first_query(query_start, positions.as_deref(), q_name, tokens, queries)?;
    if query_start + queries <= prefill {
        return Err(format!(
            "tensor \"{q_name}\" covers tokens {query_start}..{}, all of them prefill (prefill_len {prefill}); \
             expected at least one decode query",
            query_start + queries - 1
        ));
    }
    let layers = layer_numbers(layers, n_layers)?;
    Ok(KvCache {
        layers,
        kv_heads,
        query_heads,
        dim,
        tokens,
        prefill,
        query_start,
        queries,
        element_bytes: k.element_bytes,
        rope_scaling,
        provenance,
        k: k.data,
        v: v.data,
        q: q.data,
    })
}

/// Refuses elements that are no finite numbers, and numbers so large that f32 cannot hold what attention makes of them: products of
/// queries with the keys before them, and sums of 64 values.
fn numbers_are_finite(cancel: &Cancel, kv: &KvCache, origin: &str) -> Result<()> {
    let bad = |what: String| Error::Data { file: origin.to_string(), what };
    let tensors = [
        ("k", &kv.k, [kv.layers.len(), kv.kv_heads, kv.tokens, kv.dim]),
        ("v", &kv.v, [kv.layers.len(), kv.kv_heads, kv.tokens, kv.dim]),
        ("q", &kv.q, [kv.layers.len(), kv.query_heads, kv.queries, kv.dim]),
    ];
    for (name, elements, shape) in tensors {
        if let Some(i) = elements.summary(cancel)?.not_finite {
            let x = elements.read(i..i + 1)?[0];
            let place = place(i, shape);
            return Err(bad(format!("tensor \"{name}\" holds {x} at {place:?}; expected finite numbers")));
        }
    }
    let [largest_key, largest_value, largest_query] = {
        let largest = |x: &Elements| Ok::<_, Error>(x.summary(cancel)?.largest);
        [largest(&kv.k)?, largest(&kv.v)?, largest(&kv.q)?]
    };
    // Half a power of two of room for the order in which 64 are added.
    let most_value = f32::MAX / 128.0;
    if largest_value > most_value {
        let first = |at: usize, part: &[f32]| part.iter().position(|x| x.abs() > most_value).map(|i| (at + i, part[i]));
        if let Some((i, x)) = kv.v.map_parts(cancel, first)?.into_iter().flatten().next() {
            let [layer, head, token, _] = place(i, tensors[1].2);
            let layer = kv.layers[layer];
            return Err(bad(format!(
                "tensor \"v\" holds {x:e} at layer {layer}, KV head {head}, token {token}: sums of values overflow f32"
            )));
        }
    }
    // Where not even the largest elements together could overflow, nothing need be multiplied.
    let most = f64::from(largest_key) * f64::from(largest_query) * kv.dim as f64;
    if most < f64::from(f32::MAX) / 2.0 {
        return Ok(());
    }
    for layer in 0..kv.layers.len() {
        for kv_head in 0..kv.kv_heads {
            cancel.check()?;
            let keys = kv.read_keys(layer, kv_head)?;
            let queries = kv.read_group_queries(layer, kv_head, true)?;
            products_are_finite(kv, layer, kv_head, keys.rows(), queries.heads()).map_err(bad)?;
        }
    }
    Ok(())
}

/// Refuses a head of whose queries one overflows with a key before it.
fn products_are_finite(
    kv: &KvCache,
    layer: usize,
    kv_head: usize,
    keys: Rows<'_>,
    queries: Heads<'_>,
) -> Result<(), String> {
    for g in 0..queries.heads {
        for i in 0..kv.queries {
            let last = kv.query_start + i;
            let overflows = |t: &usize| !linalg::dot(queries.head(g).row(i), keys.row(*t)).is_finite();
            if let Some(token) = (0..=last).find(overflows) {
                return Err(format!(
                    "layer {}, query head {}: the query of token {last} times the key of token {token} overflows f32",
                    kv.layers[layer],
                    kv_head * kv.group() + g
                ));
            }
        }
    }
    Ok(())
}

/// Where an element of a tensor of this shape is.
fn place(mut element: usize, shape: [usize; 4]) -> [usize; 4] {
    let mut index = [0; 4];
    for (slot, n) in index.iter_mut().zip(shape).rev() {
        *slot = element % n;
        element /= n;
    }
    index
}

fn axes(t: &Tensor, names: [&str; 4]) -> Result<[usize; 4], String> {
    let name = short(&t.name);
    let Ok(shape) = <[usize; 4]>::try_from(t.shape.as_slice()) else {
        return Err(format!("tensor \"{name}\" has {} axes; expected 4: [{}]", t.shape.len(), names.join(", ")));
    };
    if let Some(axis) = shape.iter().position(|n| *n == 0) {
        return Err(format!("tensor \"{name}\" is empty: its {} axis has length 0", names[axis]));
    }
    let elements = shape.iter().try_fold(1usize, |a, n| a.checked_mul(*n));
    if elements != Some(t.data.len()) {
        return Err(format!("tensor \"{name}\" has {} values, which do not fill its shape {shape:?}", t.data.len()));
    }
    Ok(shape)
}

fn first_query(
    stated: Option<i64>,
    positions: Option<&str>,
    q_name: &str,
    tokens: usize,
    queries: usize,
) -> Result<usize, String> {
    let range = match positions {
        Some(text) => query_range(text)?,
        None => None,
    };
    if let Some((a, b)) = range {
        // b >= a was checked by `query_range`
        if b - a != queries as u64 - 1 {
            return Err(format!(
                "positions say that the queries cover tokens {a}..{b}, but tensor \"{q_name}\" has {queries} queries"
            ));
        }
        if stated.is_some_and(|s| u64::try_from(s) != Ok(a)) {
            return Err(format!(
                "query_start is {}, but positions say that the queries start at {a}",
                stated.unwrap_or(0)
            ));
        }
    }
    let start = match (stated, range) {
        (Some(s), _) => usize::try_from(s).map_err(|_| format!("query_start is {s}; expected a token index"))?,
        (None, Some((a, _))) => usize::try_from(a).map_err(|_| format!("positions start the queries at {a}"))?,
        (None, None) => tokens
            .checked_sub(queries)
            .ok_or_else(|| format!("tensor \"{q_name}\" has {queries} queries for {tokens} tokens"))?,
    };
    match start.checked_add(queries) {
        Some(end) if end <= tokens => Ok(start),
        _ => Err(format!(
            "tensor \"{q_name}\" has {queries} queries from token {start} on, which passes the last of {tokens} tokens"
        )),
    }
}

/// The range `A..B` that follows `q` or `q_late` in one clause (up to `;`) of `text`.
fn query_range(text: &str) -> Result<Option<(u64, u64)>, String> {
    for clause in text.split(';') {
        let mut of_queries = false;
        for word in clause.split(|c: char| c.is_whitespace() || ",:=()[]".contains(c)) {
            if word == "q" || word == "q_late" {
                of_queries = true;
                continue;
            }
            let Some((a, b)) = word.split_once("..") else { continue };
            if !of_queries || !a.starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            return match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) if a <= b => Ok(Some((a, b))),
                _ => Err(format!(
                    "positions give \"{}\" for the queries; expected first..last token index, both inclusive",
                    short(word)
                )),
            };
        }
    }
    Ok(None)
}

fn layer_numbers(layers: Option<Vec<i64>>, n_layers: usize) -> Result<Vec<u32>, String> {
    let Some(layers) = layers else {
        let n =
            u32::try_from(n_layers).map_err(|_| format!("tensor \"k\" has {n_layers} layers, more than supported"))?;
        return Ok((0..n).collect());
    };
    if layers.len() != n_layers {
        return Err(format!("tensor \"layers\" names {} layers, but \"k\" has {n_layers}", layers.len()));
    }
    let numbers: Vec<u32> = layers
        .iter()
        .map(|l| {
            u32::try_from(*l).map_err(|_| format!("tensor \"layers\" holds {l}; expected layer numbers from 0 on"))
        })
        .collect::<Result<_, _>>()?;
    if let Some(w) = numbers.windows(2).find(|w| w[0] >= w[1]) {
        return Err(format!("tensor \"layers\" has {} before {}; expected ascending numbers", w[0], w[1]));
    }
    Ok(numbers)
}

/// Which of `q` and `q_late` is there, once it is sure that `names` are all known and that nothing is missing.
///
/// `scalars` says whether `prefill_len` and `query_start` are arrays of the source.
pub(super) fn check_names(names: &[&str], scalars: bool) -> Result<&'static str, String> {
    let known: Vec<&str> =
        if scalars { [&TENSOR_NAMES[..], &SCALAR_NAMES[..]].concat() } else { TENSOR_NAMES.to_vec() };
    for name in names {
        if !known.contains(name) {
            // "keys" is too far from "k" for an edit distance, but its first letter tells what is meant
            let spelled_out = ["k", "v", "q"].into_iter().find(|s| name.to_ascii_lowercase().starts_with(s));
            let hint = match spelled_out {
                Some(s) if !names.contains(&s) => format!("; did you mean \"{s}\"?"),
                _ => suggest(short(name), known.iter().copied().filter(|k| !names.contains(k))),
            };
            return Err(format!("tensor \"{}\" is not known{hint}", short(name)));
        }
    }
    let required = if scalars { &["k", "v", "prefill_len"][..] } else { &["k", "v"][..] };
    for name in required {
        if !names.contains(name) {
            return Err(format!("there is no \"{name}\"; expected {}, and q or q_late", required.join(", ")));
        }
    }
    match (names.contains(&"q"), names.contains(&"q_late")) {
        (true, false) => Ok("q"),
        (false, true) => Ok("q_late"),
        (true, true) => Err("there are both \"q\" and \"q_late\"; expected one of them".to_string()),
        (false, false) => Err("there is neither \"q\" nor \"q_late\"".to_string()),
    }
}

/// At most 64 bytes of a text from a file, so that a hostile name cannot flood a message.
pub(super) fn short(text: &str) -> &str {
    let end = (0..=text.len().min(64)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn changed(tensor: &mut Tensor, change: impl FnOnce(&mut Vec<f32>)) {
        let mut data = tensor.data.in_memory().unwrap().to_vec();
        change(&mut data);
        tensor.data = data.into();
    }

    fn tensor(name: &str, shape: [usize; 4]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            data: (0..n).map(|i| i as f32).collect::<Vec<_>>().into(),
            element_bytes: 2,
        }
    }

    fn parts() -> KvParts {
        KvParts {
            k: tensor("k", [2, 1, 6, 4]),
            v: tensor("v", [2, 1, 6, 4]),
            q: tensor("q", [2, 2, 2, 4]),
            layers: None,
            prefill: 4,
            query_start: None,
            positions: None,
            rope_scaling: None,
            provenance: "test".into(),
        }
    }

    #[test]
    fn a_cache_filled_in_by_hand_is_held_to_the_same_rules() {
        let good = KvCache::checked("dump", parts()).unwrap();
        assert_eq!(good.clone().validated().unwrap(), good);
        type Edit = fn(&mut KvCache);
        let edits: [(Edit, &str); 4] = [
            (|kv| kv.tokens += 1, "which do not fill its shape"),
            (|kv| kv.prefill = 0, "prefill_len is 0"),
            (|kv| kv.kv_heads = 0, "is empty"),
            (|kv| kv.query_start = usize::MAX, "passes the last of"),
        ];
        for (edit, what) in edits {
            let mut bad = good.clone();
            edit(&mut bad);
            let e = bad.validated().unwrap_err();
            assert!(matches!(e, Error::Data { .. }) && e.to_string().contains(what), "{e}");
        }
    }

    fn complaint(edit: impl FnOnce(&mut KvParts)) -> String {
        let mut p = parts();
        edit(&mut p);
        let e = KvCache::checked("dump", p).expect_err("must be refused");
        assert!(matches!(e, Error::Data { .. }));
        e.to_string()
    }

    #[test]
    fn queries_belong_to_the_last_tokens_unless_told_otherwise() {
        let start = |edit: &dyn Fn(&mut KvParts)| {
            let mut p = parts();
            edit(&mut p);
            KvCache::checked("dump", p).map(|kv| kv.query_start)
        };
        assert_eq!(start(&|_| {}).ok(), Some(4));
        assert_eq!(start(&|p| p.query_start = Some(3)).ok(), Some(3));
        assert_eq!(start(&|p| p.positions = Some("k,v 0..5 post-RoPE; q_late 3..4, unscaled".into())).ok(), Some(3));
        assert_eq!(start(&|p| p.positions = Some("q unscaled; k 0..5".into())).ok(), Some(4));
    }

    #[test]
    fn contradictions_are_named() {
        let has = |text: String, part: &str| assert!(text.contains(part), "{text} lacks {part}");
        has(complaint(|p| p.positions = Some("q 2..5".into())), "has 2 queries");
        has(complaint(|p| p.positions = Some("q 5..4".into())), "5..4");
        has(complaint(|p| p.positions = Some("q 0..18446744073709551615".into())), "has 2 queries");
        has(complaint(|p| p.positions = Some("q 99999999999999999999..4".into())), "inclusive");
        has(
            complaint(|p| (p.positions, p.query_start) = (Some("q 4..5".into()), Some(3))),
            "positions say that the queries start at 4",
        );
        has(complaint(|p| p.query_start = Some(5)), "passes the last of 6 tokens");
        has(complaint(|p| p.query_start = Some(i64::MAX)), "passes the last");
        has(complaint(|p| p.query_start = Some(-1)), "expected a token index");
        has(complaint(|p| p.query_start = Some(2)), "expected at least one decode query");
        has(complaint(|p| p.prefill = 7), "prefill_len is 7");
        has(complaint(|p| p.prefill = 0), "prefill_len is 0");
        has(complaint(|p| p.q = tensor("q", [2, 2, 7, 4])), "7 queries for 6 tokens");
        has(complaint(|p| p.v = tensor("v", [2, 1, 5, 4])), "expected that of \"k\"");
        has(complaint(|p| p.v.element_bytes = 4), "4-byte");
        has(complaint(|p| p.q = tensor("q", [1, 2, 2, 4])), "1 layers");
        has(complaint(|p| p.q = tensor("q", [2, 2, 2, 8])), "8 elements");
        has(
            complaint(|p| (p.k, p.v) = (tensor("k", [2, 3, 6, 4]), tensor("v", [2, 3, 6, 4]))),
            "multiple of the 3 KV heads",
        );
        has(complaint(|p| p.k = tensor("k", [2, 0, 6, 4])), "kv_head axis has length 0");
        has(complaint(|p| p.k.shape = vec![12, 4]), "2 axes");
        has(complaint(|p| p.k.data = vec![0.0; 3].into()), "do not fill");
        has(complaint(|p| changed(&mut p.v, |x| x[4 * 6 + 4 + 2] = f32::NAN)), "NaN at [1, 0, 1, 2]");
        has(complaint(|p| changed(&mut p.q, |x| x[0] = f32::INFINITY)), "inf at [0, 0, 0, 0]");
        // 1e20 x 1e20 is over f32's 3.4e38; 1e18 x 1e20 x 4 is not.
        let large = |p: &mut KvParts, k: f32| {
            changed(&mut p.k, |x| x[24..].fill(k));
            changed(&mut p.q, |x| x[16 + 12..].fill(1e20));
        };
        has(
            complaint(|p| large(p, 1e20)),
            "layer 1, query head 1: the query of token 5 times the key of token 0 overflows f32",
        );
        let mut p = parts();
        large(&mut p, 4e17);
        assert!(KvCache::checked("dump", p).is_ok());
        has(
            complaint(|p| changed(&mut p.v, |x| x[24 + 9] = 1e38)),
            "holds 1e38 at layer 1, KV head 0, token 2: sums of values overflow",
        );
        has(complaint(|p| p.layers = Some(vec![3, 3])), "ascending");
        has(complaint(|p| p.layers = Some(vec![3])), "names 1 layers");
        has(complaint(|p| p.layers = Some(vec![-1, 3])), "holds -1");
    }

    #[test]
    fn wrong_names_are_met_with_the_right_ones() {
        let e = |names: &[&str]| check_names(names, false).expect_err("must be refused");
        assert!(e(&["keys", "values", "q"]).contains("\"keys\" is not known; did you mean \"k\"?"));
        assert!(e(&["k", "v", "q_lat"]).contains("did you mean \"q\"?"));
        assert!(e(&["k", "v", "q", "layer"]).contains("did you mean \"layers\"?"));
        assert!(e(&["k", "v"]).contains("neither"));
        assert!(e(&["k", "v", "q", "q_late"]).contains("both"));
        assert_eq!(check_names(&["v", "k", "q_late"], false), Ok("q_late"));
        assert!(check_names(&["v", "k", "q"], true).is_err_and(|e| e.contains("prefill_len")));
    }
}
