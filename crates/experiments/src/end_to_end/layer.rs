//! The layers of a decoder block, as the work of one device: sizes, operations, tensor-parallel shares.
//!
//! Left out, as in the published simulators: embedding, language head, positions, residual additions.

use pimattn_core::spec::model::{Activation, Model};

/// What a layer is for; time and energy are kept by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerPart {
    /// Queries, keys and values of the new tokens.
    Qkv,
    /// Queries by keys. On PIM this stands for all of attention.
    Score,
    /// Softmax.
    Softmax,
    /// Probabilities by values.
    Context,
    /// Output projection.
    Projection,
    /// The matrices of the feed-forward network.
    FeedForward,
    /// Its activation function.
    Activation,
    /// Normalisation.
    Norm,
    /// Partial sums between GPUs.
    AllReduce,
    /// Between GPU and PIM device.
    Link,
    /// What a policy reads to choose tokens, ranks, and keeps in order. On PIM a run has it in its attention.
    Policy,
}

impl LayerPart {
    /// Number of parts.
    pub const COUNT: usize = LayerPart::Policy as usize + 1;
    /// All parts.
    pub const ALL: [LayerPart; LayerPart::COUNT] = [
        LayerPart::Qkv,
        LayerPart::Score,
        LayerPart::Softmax,
        LayerPart::Context,
        LayerPart::Projection,
        LayerPart::FeedForward,
        LayerPart::Activation,
        LayerPart::Norm,
        LayerPart::AllReduce,
        LayerPart::Link,
        LayerPart::Policy,
    ];

    /// Whether all rows of the batch meet one matrix of weights.
    pub fn is_weights(self) -> bool {
        matches!(self, LayerPart::Qkv | LayerPart::Projection | LayerPart::FeedForward)
    }

    /// Whether it is a product of matrices.
    pub fn is_product(self) -> bool {
        self.is_weights() || matches!(self, LayerPart::Score | LayerPart::Context)
    }
}

/// The work of one device in a layer: `ops` times an `m` x `k` by `k` x `n` product, or `m` x `n` elements.
///
/// Sizes are not whole in the published simulators, whose feed-forward width is 8/3 of the hidden size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerWork {
    /// What for.
    pub part: LayerPart,
    /// Rows.
    pub m: f64,
    /// Columns.
    pub n: f64,
    /// Inner dimension.
    pub k: f64,
    /// Products of that size.
    pub ops: f64,
    /// Products in a row that share their right-hand matrix (grouped-query attention).
    pub shared: f64,
    /// Bytes of an element.
    pub bytes: f64,
    /// Passes over the elements and operations on each, of a layer that is no product.
    pub elementwise: (f64, f64),
}

impl LayerWork {
    fn product(part: LayerPart, m: f64, n: f64, k: f64, bytes: f64) -> LayerWork {
        LayerWork { part, m, n, k, ops: 1.0, shared: 1.0, bytes, elementwise: (0.0, 0.0) }
    }

    fn elements(part: LayerPart, m: f64, n: f64, bytes: f64, passes: f64, flops: f64) -> LayerWork {
        LayerWork { part, m, n, k: 1.0, ops: 1.0, shared: 1.0, bytes, elementwise: (passes, flops) }
    }

    /// Elements of the result.
    pub fn results(&self) -> f64 {
        self.m * self.n * self.ops
    }

    /// Floating-point operations; a multiply-accumulate is two.
    pub fn flops(&self) -> f64 {
        match self.part.is_product() {
            true => 2.0 * self.results() * self.k,
            false => self.results() * self.elementwise.1,
        }
    }

    /// Bytes of the right-hand matrices of a product, each once.
    pub fn shared_bytes(&self) -> f64 {
        self.n * self.k * self.ops * self.bytes / self.shared
    }

    /// Bytes read and written by a layer that is no product; of a transfer, the bytes sent.
    pub fn traffic(&self) -> f64 {
        self.results() * self.bytes * self.elementwise.0
    }
}

/// Who does how much of a block.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// GPUs, which share every matrix of weights and the heads.
    pub gpus: u32,
    /// Whether attention is on PIM devices, one to a GPU.
    pub pim: bool,
}

/// New tokens of each request, and what they attend to.
#[derive(Debug, Clone, Copy)]
pub struct ForwardPass {
    /// New tokens of a request: the prompt, or one.
    pub tokens: u32,
    /// Tokens that a query head attends to: not whole where it is a mean.
    pub cache: f64,
    /// Whether this is the prefill.
    pub prefill: bool,
}

/// The layers of one decoder block in order, as the work of one device.
pub fn block(model: &Model, stage: ForwardPass, batch: u32, bytes: u32, split: Split) -> Vec<LayerWork> {
    let (bytes, batch, gpus) = (f64::from(bytes), f64::from(batch), f64::from(split.gpus));
    let (tokens, cache) = (f64::from(stage.tokens), stage.cache);
    let (hidden, dim) = (f64::from(model.hidden), f64::from(model.head_dim));
    let heads = f64::from(model.heads / split.gpus);
    let kv_heads = f64::from(model.kv_heads_of_device(split.gpus));
    let rows = batch * tokens;
    let ffn = model.ffn / gpus;
    let per_head = |layer: LayerWork| LayerWork {
        ops: heads * batch,
        shared: if layer.part == LayerPart::Softmax { 1.0 } else { heads / kv_heads },
        ..layer
    };
    let send = |n: f64, m: f64| LayerWork::elements(LayerPart::Link, m, n, bytes, 1.0, 0.0);
    let reduce = LayerWork::elements(LayerPart::AllReduce, rows, hidden, bytes, 1.0, 0.0);
    let norm = LayerWork::elements(LayerPart::Norm, rows, hidden, bytes, 3.0, 5.0);
    let weights = |part, n, k| LayerWork::product(part, rows, n, k, bytes);

    let mut out = vec![weights(LayerPart::Qkv, (heads + 2.0 * kv_heads) * dim, hidden)];
    if split.pim {
        // The prompt's attention is on the GPUs, so that only keys and values leave them.
        let queries = if stage.prefill { 0.0 } else { heads };
        out.push(send((queries + 2.0 * kv_heads) * dim, rows));
    }
    out.push(per_head(LayerWork::product(LayerPart::Score, tokens, cache, dim, bytes)));
    out.push(per_head(LayerWork::elements(LayerPart::Softmax, tokens, cache, bytes, 2.0, 5.0)));
    out.push(per_head(LayerWork::product(LayerPart::Context, tokens, dim, cache, bytes)));
    if split.pim && !stage.prefill {
        out.push(LayerWork { ops: heads * batch, ..send(dim, 1.0) });
    }
    out.extend([weights(LayerPart::Projection, hidden, heads * dim), reduce, norm]);
    out.push(weights(LayerPart::FeedForward, ffn, hidden));
    let (passes, flops) = match model.activation {
        Activation::Swiglu => {
            out.push(weights(LayerPart::FeedForward, ffn, hidden));
            (3.0, 9.0)
        }
        Activation::Gelu => (2.0, 8.0),
        Activation::Relu => (2.0, 1.0),
    };
    out.push(LayerWork::elements(LayerPart::Activation, rows, ffn, bytes, passes, flops));
    out.extend([weights(LayerPart::FeedForward, hidden, ffn), reduce, norm]);
    out
}
