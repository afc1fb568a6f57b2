//! Caches drawn from fitted statistics.
//!
//! What the text decides is drawn once for all heads: where segments end, which words follow each other, and which tokens are
//! sinks. The rest is drawn by each head from a stream of its own, so that which thread fills it does not matter.

use super::{Component, FittedModel, Head, LAST_KNOT, Words};
use crate::drawn::{self, DrawnShape};
use crate::rope::{RopeScaling, Rotary, SaidScaling};
use crate::synthetic::{MAX_ELEMENTS, normal};
use crate::{Elements, KvCache, KvParts, Tensor, raw};
use pimattn_core::beyond::BeyondFit;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is drawn of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedShape {
    /// Layers, as numbered in the cache.
    pub layers: Vec<u32>,
    /// Layers of the model whose cache it is to be; depth counts in shares of it.
    pub model_layers: u32,
    /// KV heads per layer.
    pub kv_heads: usize,
    /// Query heads per layer, a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Elements of a vector, a multiple of the model's.
    pub dim: usize,
    /// Tokens before decoding begins.
    pub prefill: usize,
    /// Tokens after them, each with its query.
    pub decode_steps: usize,
    /// Tokens at the end of the prefill that have queries, too.
    pub prefill_queries: usize,
    /// Bytes of one element: 2 (rounded to f16) or 4.
    pub element_bytes: u32,
    /// How the rotation goes on where there are more tokens than the model was fitted on.
    pub rope_scaling: RopeScaling,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl FittedShape {
    /// The shape of the dump that a model was fitted on, with its fitted layers.
    pub fn of(model: &FittedModel) -> Self {
        FittedShape {
            layers: model.layers.iter().map(|l| l.layer).collect(),
            model_layers: model.model_layers,
            kv_heads: model.kv_heads(),
            query_heads: model.kv_heads() * model.group(),
            dim: model.dim,
            prefill: model.tokens.saturating_sub(model.queries / 2).max(1),
            decode_steps: model.queries.div_ceil(2).max(1),
            prefill_queries: model.queries / 2,
            element_bytes: model.element_bytes,
            rope_scaling: RopeScaling::default(),
            seed: 0,
        }
    }

    /// Bytes of the cache's elements as f32, which is in a file where they are more than [`IN_MEMORY`](crate::IN_MEMORY).
    pub fn bytes_in_memory(&self) -> u64 {
        u64::try_from(self.elements().saturating_mul(4)).unwrap_or(u64::MAX)
    }

    /// Elements of k, v and q together.
    fn elements(&self) -> u128 {
        let of = |n: usize| n as u128;
        let (tokens, queries) =
            (of(self.prefill) + of(self.decode_steps), of(self.prefill_queries) + of(self.decode_steps));
        let rows = (2 * of(self.kv_heads)).saturating_mul(tokens) + of(self.query_heads).saturating_mul(queries);
        rows.saturating_mul(of(self.dim)).saturating_mul(of(self.layers.len()))
    }

    /// Checks sizes and ranges.
    ///
    /// Errors: [`Error::Config`] at `synthetic.<field>`.
    pub fn check(&self, model: &FittedModel) -> Result<()> {
        let bad = |field: &str, what: String| Err(Error::Config { at: format!("synthetic.{field}"), what });
        for (field, n) in [
            ("layers", self.layers.len()),
            ("kv_heads", self.kv_heads),
            ("query_heads", self.query_heads),
            ("dim", self.dim),
            ("prefill", self.prefill),
            ("decode_steps", self.decode_steps),
        ] {
            if n == 0 || u32::try_from(n).is_err() {
                return bad(field, format!("{n} is out of range; expected 1 to {}", u32::MAX));
            }
        }
        if let Some(last) = self.layers.last().filter(|l| **l >= self.model_layers) {
            return bad("layers", format!("layer {last} is not one of {} layers", self.model_layers));
        }
        if !self.layers.is_sorted_by(|a, b| a < b) {
            return bad("layer_numbers", "expected ascending numbers".into());
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            let what = format!("{} is not a multiple of kv_heads, {}", self.query_heads, self.kv_heads);
            return bad("query_heads", what);
        }
        if !self.dim.is_multiple_of(model.dim) {
            return bad("dim", format!("{} is not a multiple of the fitted model's, {}", self.dim, model.dim));
        }
        if self.prefill_queries > self.prefill {
            let what = format!("{} queries do not fit a prefill of {} tokens", self.prefill_queries, self.prefill);
            return bad("prefill_queries", what);
        }
        if self.element_bytes != 2 && self.element_bytes != 4 {
            return bad("element_bytes", format!("{} is not supported; expected 2 or 4", self.element_bytes));
        }
        match self.elements() {
            n if n <= u128::from(MAX_ELEMENTS) => Ok(()),
            n => bad("prefill", format!("the cache has {n} elements; at most {MAX_ELEMENTS} are supported")),
        }
    }
}

/// Draws a cache. The same model and shape give the same values for any number of threads.
///
/// Errors: [`Error::Config`] when the shape does not fit the model.
pub fn generate(model: &FittedModel, shape: &FittedShape) -> Result<KvCache> {
    generate_until(&Cancel::new(), model, shape)
}

/// [`generate`], unless `cancel` is requested.
///
/// Errors: as there, and [`Error::Interrupted`].
pub fn generate_until(cancel: &Cancel, model: &FittedModel, shape: &FittedShape) -> Result<KvCache> {
    shape.check(model)?;
    let (tokens, queries) = (shape.prefill + shape.decode_steps, shape.prefill_queries + shape.decode_steps);
    let (heads, group) = (shape.layers.len() * shape.kv_heads, shape.query_heads / shape.kv_heads);
    let drawn = DrawnShape {
        heads,
        rows: tokens * shape.dim,
        queries: group * queries * shape.dim,
        element_bytes: shape.element_bytes,
    };
    let text = Text::draw(model, tokens, shape.seed);
    let embedding = model.embedding_of(tokens, shape.rope_scaling);
    let rope = Rotary::of(model.dim, embedding, tokens);
    let [k, v, q] = drawn::elements(&drawn, |i, k, v, q| {
        let (layer, head) = (shape.layers[i / shape.kv_heads], i % shape.kv_heads);
        let mut rng = ChaCha8Rng::seed_from_u64(shape.seed);
        rng.set_stream(u64::from(layer) << 32 | (head as u64 + 1));
        let source = source(model, shape, layer, head);
        let kinds = text.kinds(&model.layers[source.0]);
        let drawing = Drawing { cancel, shape, text: &text, rope: &rope, shares: &model.words, kinds, group };
        drawing.fill(&model.layers[source.0].heads[source.1], &mut rng, k, v, q)
    })?;
    let tensor = |name: &str, heads: usize, rows: usize, data: Elements| Tensor {
        name: name.to_string(),
        shape: vec![shape.layers.len(), heads, rows, shape.dim],
        data,
        element_bytes: shape.element_bytes,
    };
    let parts = KvParts {
        k: tensor("k", shape.kv_heads, tokens, k),
        v: tensor("v", shape.kv_heads, tokens, v),
        q: tensor("q", shape.query_heads, queries, q),
        layers: Some(shape.layers.iter().map(|l| i64::from(*l)).collect()),
        prefill: shape.prefill as i64,
        query_start: Some((shape.prefill - shape.prefill_queries) as i64),
        positions: None,
        rope_scaling: Some(embedding.yarn.map_or(SaidScaling::None, |y| SaidScaling::Yarn(y.factor, Some(y.original)))),
        provenance: format!(
            "synthetic, seed {}, {}fitted to: {}",
            shape.seed,
            beyond(model, shape, tokens),
            model.source
        ),
    };
    KvCache::checked_layers(cancel, "synthetic", parts, &[])
}

/// What a cache says of itself that is longer than the text its model was fitted on.
fn beyond(model: &FittedModel, shape: &FittedShape, tokens: usize) -> String {
    let (tokens, fitted) = (tokens as u64, model.context() as u64);
    let rescaled = shape.rope_scaling == RopeScaling::Yarn;
    if tokens > fitted { format!("{}, ", BeyondFit { tokens, fitted, rescaled }) } else { String::new() }
}

/// The fitted layer (an index) and head that stand for a layer and head of the shape.
///
/// A fitted layer stands for itself. Any other has its heads from all fitted ones in turn, layer by layer, and others with
/// each layer and seed: neighbours are no better at foretelling a layer than all together (docs/synthetic.md).
fn source(model: &FittedModel, shape: &FittedShape, layer: u32, head: usize) -> (usize, usize) {
    let depth = f64::from(layer) * f64::from(model.model_layers) / f64::from(shape.model_layers);
    if let Some(l) = model.layers.iter().position(|l| f64::from(l.layer) == depth) {
        return (l, head % model.kv_heads());
    }
    let (layers, heads) = (model.layers.len(), model.kv_heads());
    let turn = shape.seed.wrapping_add(u64::from(layer)) % (layers * heads) as u64;
    let i = turn as usize * shape.kv_heads + head;
    (i % layers, (i / layers) % heads)
}

/// What all heads have in common.
struct Text {
    /// By token, a bit for each lifetime whose segment begins.
    begins: Vec<u16>,
    /// By token, a number of 0 to 1: sinks are those below the layer's rate.
    chance: Vec<f32>,
    /// By token, which common word it is, if it is one.
    words: Vec<Option<u16>>,
}

impl Text {
    fn draw(model: &FittedModel, tokens: usize, seed: u64) -> Text {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Streams from 1 on belong to the heads.
        rng.set_stream(0);
        let uniform = |rng: &mut ChaCha8Rng| f64::from(rng.next_u32()) / 4_294_967_296.0;
        let (mut begins, mut chance) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let mut words = Vec::with_capacity(tokens);
        let below: Vec<f64> =
            model.words.iter().scan(0.0, |sum, p| Some(*sum + p).inspect(|next| *sum = *next)).collect();
        for _ in 0..tokens {
            let ends = |(i, t): (usize, &f64)| u16::from(uniform(&mut rng) * t < 1.0) << i;
            begins.push(model.lifetimes.iter().enumerate().map(ends).sum());
            chance.push(uniform(&mut rng) as f32);
            let place = uniform(&mut rng);
            let word = below.partition_point(|sum| *sum <= place);
            words.push((word < below.len()).then_some(word as u16));
        }
        Text { begins, chance, words }
    }

    /// What each token is in a layer.
    fn kinds(&self, layer: &super::Layer) -> Vec<TokenKind> {
        let kind = |(t, (chance, word)): (usize, (&f32, &Option<u16>))| {
            let is = |rate: f64| f64::from(*chance) < rate;
            let place = |w| layer.sink_words.binary_search_by_key(&usize::from(w), |s| s.word).ok();
            match word.and_then(place) {
                _ if t < layer.first_sinks => TokenKind::Sink(None),
                Some(i) if is(layer.sink_words[i].rate) => TokenKind::Sink(Some(i)),
                None if is(layer.sink_rate) => TokenKind::Sink(None),
                _ => TokenKind::Usual,
            }
        };
        self.chance.iter().zip(&self.words).enumerate().map(kind).collect()
    }
}

/// What a token is in a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TokenKind {
    /// No sink.
    Usual,
    /// A sink and, where it is one of the layer's sink words, which one.
    Sink(Option<usize>),
}

/// A head's cache in the making.
struct Drawing<'a> {
    cancel: &'a Cancel,
    shape: &'a FittedShape,
    text: &'a Text,
    rope: &'a Rotary,
    /// Of the common words.
    shares: &'a [f64],
    kinds: Vec<TokenKind>,
    group: usize,
}

impl Drawing<'_> {
    fn fill(&self, head: &Head, rng: &mut ChaCha8Rng, k: &mut [f32], v: &mut [f32], q: &mut [f32]) -> Result<()> {
        let dim = self.shape.dim;
        let first_query = self.shape.prefill - self.shape.prefill_queries;
        let (mut key, mut value) = (TextSource::new(&head.key, rng), TextSource::new(&head.value, rng));
        let mut sinks = [&head.sink_key, &head.sink_value].map(|c| c.as_ref().map(|c| TextSource::new(c, rng)));
        let of_sinks: Vec<Vec<f32>> = head.sink_words.iter().map(|v| v.iter().map(|x| *x as f32).collect()).collect();
        let words = head.words.as_ref().map(|words| CommonWordKeys::new(words, self.shares, &head.key));
        let mut vector = vec![0.0; head.key.mean.len()];
        let mut latents = Vec::new();
        for (t, (k, v)) in k.chunks_exact_mut(dim).zip(v.chunks_exact_mut(dim)).enumerate() {
            if t % 1024 == 0 {
                self.cancel.check()?;
            }
            key.step(self.text.begins[t], rng);
            value.step(self.text.begins[t], rng);
            let word = self.text.words[t];
            if t >= first_query {
                match &words {
                    Some(words) => words.scores(word, &key.scores, &mut latents),
                    None => latents.extend_from_slice(&key.scores),
                }
            }
            let mut own = words.as_ref().zip(word).map(|(words, w)| WordOffset::of_word(words, w));
            let [sink_key, sink_value] = &mut sinks;
            let (key, value) = match (self.kinds[t], sink_key, sink_value) {
                (TokenKind::Sink(sink_word), Some(key), Some(value)) => {
                    key.step(self.text.begins[t], rng);
                    value.step(self.text.begins[t], rng);
                    own = sink_word.map(|i| WordOffset { vector: &of_sinks[i], spread: None });
                    (&*key, &*value)
                }
                _ => (&key, &value),
            };
            key.vector(own, &mut vector);
            self.rope.rotate(&mut vector, t);
            self.write(&vector, k);
            value.vector(None, &mut vector);
            self.write(&vector, v);
        }
        let rank = head.key.scales.len();
        for (g, q) in q.chunks_exact_mut(q.len() / self.group).enumerate() {
            let query = &head.queries[g % head.queries.len()];
            let mut source = TextSource::new(&query.vector, rng);
            let coupling = Coupling::new(&query.coupling);
            for (i, q) in q.chunks_exact_mut(dim).enumerate() {
                source.step(self.text.begins[first_query + i], rng);
                coupling.apply(&latents[i * rank..][..rank], &mut source.scores);
                source.vector(None, &mut vector);
                self.rope.rotate(&mut vector, first_query + i);
                self.write(&vector, q);
            }
        }
        Ok(())
    }

    /// Repeats a vector as often as the wanted dimension is that of the model, such that products stay the same once
    /// divided by the root of the dimension; rounds to the cache's type.
    fn write(&self, vector: &[f32], out: &mut [f32]) {
        let factor = ((out.len() / vector.len()) as f32).powf(-0.25);
        for copy in out.chunks_exact_mut(vector.len()) {
            copy.iter_mut().zip(vector).for_each(|(to, x)| *to = x * factor);
        }
        if self.shape.element_bytes == 2 {
            raw::round_to_f16(out);
        }
    }
}

/// A component at work.
struct TextSource {
    mean: Vec<f32>,
    diagonal: Vec<f32>,
    scales: Vec<f32>,
    /// `[rank, dim]`.
    directions: Vec<f32>,
    /// `[rank, knots]`.
    marginals: Vec<f32>,
    /// By lifetime, of scores and then of the rest: the standard deviation of what lasts, and its value now.
    lasting: Vec<Vec<(f32, f32)>>,
    /// Of scores and then of the rest: the standard deviation of what is new at each token.
    fresh: Vec<f32>,
    /// `[rank]`.
    scores: Vec<f32>,
    /// `[dim]`.
    rest: Vec<f32>,
}

impl TextSource {
    fn new(c: &Component, rng: &mut ChaCha8Rng) -> TextSource {
        let narrow = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let rank = c.scales.len();
        let n = rank + c.mean.len();
        let shares = |i: usize| &c.persistence[i.min(rank)];
        let fresh = (0..n).map(|i| (1.0 - shares(i).iter().sum::<f64>()).max(0.0).sqrt() as f32).collect();
        let lifetimes = c.persistence[rank].len();
        let mut lasts = |t: usize| (0..n).map(|i| (shares(i)[t].sqrt() as f32, normal(rng) as f32)).collect();
        TextSource {
            lasting: (0..lifetimes).map(&mut lasts).collect(),
            mean: narrow(&c.mean),
            diagonal: narrow(&c.diagonal),
            scales: narrow(&c.scales),
            directions: narrow(&c.directions.concat()),
            marginals: narrow(&c.marginals.concat()),
            fresh,
            scores: vec![0.0; c.scales.len()],
            rest: vec![0.0; c.mean.len()],
        }
    }

    /// Goes to the next token, at which the segments of these lifetimes begin.
    fn step(&mut self, begins: u16, rng: &mut ChaCha8Rng) {
        let TextSource { lasting, fresh, scores, rest, .. } = self;
        scores.iter_mut().chain(&mut *rest).zip(&*fresh).for_each(|(x, sd)| *x = sd * normal(rng) as f32);
        for (i, lasting) in lasting.iter_mut().enumerate() {
            if begins >> i & 1 == 1 {
                lasting.iter_mut().for_each(|(_, value)| *value = normal(rng) as f32);
            }
            scores.iter_mut().chain(&mut *rest).zip(&*lasting).for_each(|(x, (sd, value))| *x += sd * value);
        }
    }

    /// The vector of the token.
    fn vector(&self, own: Option<WordOffset<'_>>, out: &mut [f32]) {
        let dim = out.len();
        let rank = self.scales.len();
        let spread = own.and_then(|own| own.spread);
        let narrowed = spread.map_or(1.0, |spread| spread[rank]);
        for ((x, mean), (sd, rest)) in out.iter_mut().zip(&self.mean).zip(self.diagonal.iter().zip(&self.rest)) {
            *x = mean + narrowed * sd * rest;
        }
        if let Some(own) = own {
            out.iter_mut().zip(own.vector).for_each(|(x, own)| *x += own);
        }
        let knots = self.marginals.len() / rank.max(1);
        for (r, score) in self.scores.iter().enumerate() {
            let score = match spread {
                Some(spread) => spread[r] * score,
                None if knots == 0 => *score,
                None => marginal(&self.marginals[r * knots..][..knots], *score),
            };
            let weight = self.scales[r] * score;
            out.iter_mut().zip(&self.directions[r * dim..]).for_each(|(x, d)| *x += weight * d);
        }
    }
}

/// What a token of a word has beside the component.
#[derive(Clone, Copy)]
struct WordOffset<'a> {
    /// Added to the mean.
    vector: &'a [f32],
    /// By how much what is drawn is narrowed, in place of the marginals `[rank + 1]`.
    spread: Option<&'a [f32]>,
}

impl<'a> WordOffset<'a> {
    fn of_word(words: &'a CommonWordKeys, word: u16) -> WordOffset<'a> {
        let vector = &words.vectors[usize::from(word) * words.dim..][..words.dim];
        WordOffset { vector, spread: Some(&words.spread) }
    }
}

/// Keys of common words at work.
struct CommonWordKeys {
    dim: usize,
    /// `[word, dim]`.
    vectors: Vec<f32>,
    /// `[rank + 1]`.
    spread: Vec<f32>,
    /// Where each word is along the key's directions, in scales of them `[word, rank]`.
    places: Vec<f32>,
    /// Mean, and one over the standard deviation, of the scores of all tokens `[rank]`.
    norms: Vec<(f32, f32)>,
}

impl CommonWordKeys {
    fn new(words: &Words, shares: &[f64], key: &Component) -> CommonWordKeys {
        let rank = key.scales.len();
        let along = |v: &[f64], r: usize| -> f64 {
            let product: f64 = v.iter().zip(&key.directions[r]).map(|(x, d)| x * d).sum();
            // A file may have any scale; beyond a million of them, scores would not fit their type.
            if key.scales[r] > 0.0 { (product / key.scales[r]).clamp(-1e6, 1e6) } else { 0.0 }
        };
        let places: Vec<f64> = words.vectors.iter().flat_map(|v| (0..rank).map(|r| along(v, r))).collect();
        let others = (1.0 - shares.iter().sum::<f64>()).max(0.0);
        let norm = |r: usize| {
            let (mut mean, mut square) = (0.0, others);
            for (share, place) in shares.iter().zip(places.iter().skip(r).step_by(rank)) {
                mean += share * place;
                square += share * (place * place + words.spread[r] * words.spread[r]);
            }
            (mean as f32, (square - mean * mean).max(f64::from(f32::MIN_POSITIVE)).sqrt().recip() as f32)
        };
        let narrow = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        CommonWordKeys {
            dim: key.mean.len(),
            vectors: narrow(&words.vectors.concat()),
            spread: narrow(&words.spread),
            norms: (0..rank).map(norm).collect(),
            places: narrow(&places),
        }
    }

    /// Adds the scores of a token's key, of mean 0 and variance 1 over all tokens.
    fn scores(&self, word: Option<u16>, drawn: &[f32], out: &mut Vec<f32>) {
        let rank = drawn.len();
        let place = word.map(|w| &self.places[usize::from(w) * rank..][..rank]);
        out.extend(drawn.iter().zip(&self.norms).enumerate().map(|(r, (score, (mean, unit)))| {
            let score = place.map_or(*score, |place| place[r] + self.spread[r] * score);
            (score - mean) * unit
        }));
    }
}

/// Linear between knots, and beyond them.
fn marginal(knots: &[f32], score: f32) -> f32 {
    let last = LAST_KNOT as f32;
    let place = (score + last) / (2.0 * last) * (knots.len() - 1) as f32;
    let i = (place.max(0.0) as usize).min(knots.len() - 2);
    knots[i] + (place - i as f32) * (knots[i + 1] - knots[i])
}

/// How a query's scores follow from those of its token's key.
struct Coupling {
    /// By query score: the key scores that matter with their weights, and the weight of its own.
    rows: Vec<(Vec<(usize, f32)>, f32)>,
}

impl Coupling {
    fn new(matrix: &[Vec<f64>]) -> Coupling {
        let row = |row: &Vec<f64>| {
            let weights = row.iter().enumerate().filter(|(_, c)| **c != 0.0).map(|(j, c)| (j, *c as f32)).collect();
            (weights, (1.0 - row.iter().map(|c| c * c).sum::<f64>()).max(0.0).sqrt() as f32)
        };
        Coupling { rows: matrix.iter().map(row).collect() }
    }

    fn apply(&self, key: &[f32], query: &mut [f32]) {
        for ((weights, own), x) in self.rows.iter().zip(query) {
            *x = own * *x + weights.iter().map(|(j, c)| c * key[*j]).sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::model;
    use super::*;

    #[test]
    fn same_bytes_for_any_thread_count() {
        let model = model(8);
        let shape = FittedShape { seed: 3, ..FittedShape::of(&model) };
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| generate(&model, &shape).unwrap())
        };
        let one = with(1);
        assert_eq!(one, with(3));
        assert_ne!(one.k, generate(&model, &FittedShape { seed: 4, ..shape.clone() }).unwrap().k);
        // A layer alone is the layer among others: a model's cache can be made layer by layer.
        let alone = generate(&model, &FittedShape { layers: vec![6], ..shape.clone() }).unwrap();
        let second = |x: &Elements| x.pick(std::iter::once(x.len() / 2..x.len()));
        assert_eq!((alone.k, alone.q), (second(&one.k), second(&one.q)));
        // And a longer text begins as the shorter one does.
        let longer =
            generate(&model, &FittedShape { prefill: 400, rope_scaling: RopeScaling::None, ..shape.clone() }).unwrap();
        let first = |kv: &KvCache| kv.view().unwrap().keys(0, 0).range(0..200).data.to_vec();
        assert_eq!(first(&longer), first(&one));
    }

    #[test]
    fn shape_follows_what_is_asked() {
        let model = model(8);
        let shape = FittedShape {
            layers: vec![0, 3],
            model_layers: 4,
            kv_heads: 3,
            query_heads: 12,
            dim: 16,
            prefill: 100,
            decode_steps: 5,
            prefill_queries: 7,
            element_bytes: 2,
            rope_scaling: RopeScaling::None,
            seed: 0,
        };
        let kv = generate(&model, &shape).unwrap();
        assert_eq!((kv.layers.as_slice(), kv.kv_heads, kv.query_heads, kv.dim), (&[0, 3][..], 3, 12, 16));
        assert_eq!((kv.tokens, kv.prefill, kv.query_start, kv.queries), (105, 100, 93, 12));
        assert!(kv.k.in_memory().unwrap().iter().all(|x| half::f16::from_f32(*x).to_f32() == *x));
        let at = |edit: &dyn Fn(&mut FittedShape)| {
            let mut shape = shape.clone();
            edit(&mut shape);
            match generate(&model, &shape) {
                Err(Error::Config { at, .. }) => at,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at(&|s| s.dim = 12), "synthetic.dim");
        assert_eq!(at(&|s| s.dim = 0), "synthetic.dim");
        assert_eq!(at(&|s| s.query_heads = 4), "synthetic.query_heads");
        assert_eq!(at(&|s| s.layers = vec![4]), "synthetic.layers");
        assert_eq!(at(&|s| s.layers = vec![2, 1]), "synthetic.layer_numbers");
        assert_eq!(at(&|s| s.layers.clear()), "synthetic.layers");
        assert_eq!(at(&|s| s.prefill_queries = 101), "synthetic.prefill_queries");
        assert_eq!(at(&|s| s.prefill = 1 << 31), "synthetic.prefill");
        assert_eq!(at(&|s| s.element_bytes = 1), "synthetic.element_bytes");
    }

    /// Twice the dimension, the same scores once divided by its root.
    #[test]
    fn wider_vectors_keep_the_scores() {
        let model = model(8);
        let shape = FittedShape { element_bytes: 4, ..FittedShape::of(&model) };
        let (narrow, wide) =
            (generate(&model, &shape).unwrap(), generate(&model, &FittedShape { dim: 16, ..shape }).unwrap());
        let score = |kv: &KvCache| {
            let kv = kv.view().unwrap();
            let (q, k) = (kv.queries(1, 0).row(9), kv.keys(1, 0).row(50));
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() / (kv.dim as f32).sqrt()
        };
        assert!((score(&narrow) - score(&wide)).abs() < 1e-4 * score(&narrow).abs().max(1.0));
    }

    #[test]
    fn every_fitted_head_stands_in_for_a_layer_of_its_own_sooner_or_later() {
        let model = model(8);
        let shape = FittedShape::of(&model);
        assert_eq!((source(&model, &shape, 1, 1), source(&model, &shape, 6, 0)), ((0, 1), (1, 0)));
        let mut seen: Vec<_> = (0..4)
            .flat_map(|seed| {
                let shape = FittedShape { seed, ..shape.clone() };
                [source(&model, &shape, 3, 0), source(&model, &shape, 3, 1)]
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)]);
    }

    /// A common word has a key of its own wherever it occurs, in all heads at the same tokens; where it is a sink, another.
    #[test]
    fn common_words_recur_with_the_same_key() {
        let mut model = model(8);
        for head in model.layers.iter_mut().flat_map(|l| &mut l.heads) {
            head.words.as_mut().unwrap().spread.fill(0.0);
            for component in [Some(&mut head.key), head.sink_key.as_mut()].into_iter().flatten() {
                component.persistence.iter_mut().for_each(|p| p.fill(0.0));
            }
            let sink = head.sink_key.iter_mut();
            sink.for_each(|c| [&mut c.scales, &mut c.diagonal].into_iter().for_each(|x| x.fill(0.0)));
        }
        let shape = FittedShape { prefill: 5000, element_bytes: 4, ..FittedShape::of(&model) };
        let text = Text::draw(&model, 5000, shape.seed);
        let tokens = |word| (0..5000).filter(|t| text.words[*t] == Some(word)).collect::<Vec<usize>>();
        for (word, share) in model.words.iter().enumerate() {
            let n = tokens(word as u16).len() as f64;
            assert!((n / 5000.0 - share).abs() < 4.0 * (share / 5000.0).sqrt(), "{word}: {n}");
        }
        let kv = generate(&model, &shape).unwrap();
        let kv = kv.view().unwrap();
        let frequencies = crate::rope::inverse_frequencies(8, model.rope_theta);
        let inverse_rotate = |token: usize, key: &mut [f32]| {
            for (i, speed) in frequencies.iter().enumerate() {
                let (a, b) = model.rope_pairs.elements(i, 8);
                let (sin, cos) = (token as f64 * speed).sin_cos();
                let (x, y) = (f64::from(key[a]), f64::from(key[b]));
                (key[a], key[b]) = ((x * cos + y * sin) as f32, (y * cos - x * sin) as f32);
            }
        };
        for (l, layer) in model.layers.iter().enumerate() {
            let kinds = text.kinds(layer);
            for (h, head) in layer.heads.iter().enumerate() {
                let mut keys = kv.keys(l, h).data.to_vec();
                keys.chunks_exact_mut(8).enumerate().for_each(|(t, key)| inverse_rotate(t, key));
                for (word, own) in head.words.as_ref().unwrap().vectors.iter().enumerate() {
                    let (mut seen, mut as_sink) = (0u32, 0u32);
                    for t in tokens(word as u16) {
                        let sum =
                            |mean: &[f64], own: &[f64]| mean.iter().zip(own).map(|(a, b)| a + b).collect::<Vec<f64>>();
                        let expected = match kinds[t] {
                            TokenKind::Usual => sum(&head.key.mean, own),
                            TokenKind::Sink(None) => continue,
                            TokenKind::Sink(Some(i)) => sum(&head.sink_key.as_ref().unwrap().mean, &head.sink_words[i]),
                        };
                        seen += 1;
                        as_sink += u32::from(kinds[t] != TokenKind::Usual);
                        for (x, e) in keys[t * 8..][..8].iter().zip(&expected) {
                            assert!((f64::from(*x) - e).abs() < 1e-3, "layer {l}, head {h}, token {t}: {x}, not {e}");
                        }
                    }
                    // Half of the tokens of the second layer's second word.
                    let rate = if (l, word) == (1, 1) { 0.5 } else { 0.0 };
                    let sinks = f64::from(as_sink) / f64::from(seen.max(1));
                    assert!(seen > 100 && (sinks - rate).abs() < 0.15, "{l} {word}: {as_sink} of {seen}");
                }
            }
        }
    }

    /// What a query knows of its token's key has mean 0 and variance 1, whatever the words are.
    #[test]
    fn scores_of_words_are_standardised() {
        let model = model(8);
        let head = &model.layers[0].heads[0];
        let words = CommonWordKeys::new(head.words.as_ref().unwrap(), &model.words, &head.key);
        let text = Text::draw(&model, 40_000, 5);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut scores = Vec::new();
        for word in &text.words {
            words.scores(*word, &[normal(&mut rng) as f32, normal(&mut rng) as f32], &mut scores);
        }
        for r in 0..2 {
            let column: Vec<f64> = scores.iter().skip(r).step_by(2).map(|x| f64::from(*x)).collect();
            let mean = column.iter().sum::<f64>() / column.len() as f64;
            let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / column.len() as f64;
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.05, "{r}: {mean} {variance}");
        }
    }

    #[test]
    fn marginals_are_linear_between_and_beyond_their_knots() {
        let knots = [-2.0, 0.0, 4.0];
        for (score, expected) in
            [(-3.0, -2.0), (-1.5, -1.0), (0.0, 0.0), (1.5, 2.0), (3.0, 4.0), (6.0, 8.0), (-6.0, -4.0)]
        {
            assert_eq!(marginal(&knots, score), expected, "{score}");
        }
    }
}
