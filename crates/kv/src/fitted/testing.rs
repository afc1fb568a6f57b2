//! A small model to try things on.

use super::*;

/// Numbers that look random, of -1 to 1.
fn wave(seed: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| ((seed * 7919 + i * 104_729) as f64 * 0.37).sin()).collect()
}

/// Two orthogonal directions of unequal scale, and what lasts.
pub fn component(seed: usize, dim: usize) -> Component {
    let unit = |v: Vec<f64>| {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.into_iter().map(|x| x / norm).collect::<Vec<f64>>()
    };
    let first = unit(wave(seed + 1, dim));
    let second = wave(seed + 2, dim);
    let along: f64 = first.iter().zip(&second).map(|(a, b)| a * b).sum();
    let second = unit(second.iter().zip(&first).map(|(b, a)| b - along * a).collect());
    Component {
        // Long, as real ones are.
        mean: wave(seed, dim).iter().map(|x| 12.0 * x).collect(),
        diagonal: vec![0.5; dim],
        scales: vec![3.0, 1.5],
        persistence: vec![vec![0.5, 0.0], vec![0.0, 0.3], vec![0.1, 0.0]],
        directions: vec![first, second],
        marginals: Vec::new(),
    }
}

/// Two layers of two KV heads of two query heads each; the second layer has sinks.
pub fn model(dim: usize) -> FittedModel {
    let head = |seed: usize, sinks: bool| {
        let sink = |seed| {
            let mut c = component(seed, dim);
            c.mean.iter_mut().for_each(|x| *x *= 0.02);
            c.scales = vec![0.1, 0.1];
            c.diagonal = vec![0.1; dim];
            c.persistence = vec![vec![0.0; 2]; 3];
            c
        };
        Head {
            key: component(seed, dim),
            words: Some(Words {
                spread: vec![0.5, 0.8, 0.4],
                vectors: vec![wave(seed + 50, dim), wave(seed + 51, dim).iter().map(|x| 4.0 * x).collect()],
            }),
            value: component(seed + 10, dim),
            sink_key: sinks.then(|| sink(seed + 20)),
            sink_words: if sinks { vec![wave(seed + 60, dim)] } else { Vec::new() },
            sink_value: sinks.then(|| sink(seed + 30)),
            queries: (0..2)
                .map(|q| Query {
                    vector: component(seed + 40 + q, dim),
                    coupling: vec![vec![0.6, 0.0], vec![0.0, 0.0]],
                })
                .collect(),
        }
    };
    FittedModel {
        version: VERSION,
        source: "a test".into(),
        model_layers: 8,
        dim,
        element_bytes: 2,
        rope_theta: 50_000.0,
        rope_pairs: RotaryPairs::Halves,
        tokens: 300,
        // No test's text is as long: the rotation goes on as it is.
        context: Some(1 << 20),
        queries: 40,
        lifetimes: vec![3.0, 50.0],
        words: vec![0.1, 0.05],
        yarn: None,
        layers: vec![
            Layer {
                layer: 1,
                first_sinks: 0,
                sink_rate: 0.0,
                sink_words: Vec::new(),
                heads: vec![head(100, false), head(200, false)],
            },
            Layer {
                layer: 6,
                first_sinks: 1,
                sink_rate: 0.01,
                sink_words: vec![SinkWord { word: 1, rate: 0.5 }],
                heads: vec![head(300, true), head(400, true)],
            },
        ],
    }
}

/// The model of a text that has no common words.
pub fn without_words(mut model: FittedModel) -> FittedModel {
    model.words.clear();
    for layer in &mut model.layers {
        layer.sink_words.clear();
        for head in &mut layer.heads {
            head.words = None;
            head.sink_words.clear();
        }
    }
    model
}
