//! One layer of a decoder.

use super::{Compute, angles::Angles, loader::Loader};
use crate::{
    backend::cpu::kernels::{
        AttentionSpan, GatedBuffers, GatedFeedForward, Linear, Norm, Output, RowGroups, add_bias,
        add_low_rank, attention, gate, matmul, rope_and_store,
    },
    model::spec::{Activation, AttentionLayer},
    model::{
        adapter::{Adapter, Site},
        config::{Biases, FeedForward, NormPlacement, Rotation},
        kv_cache::KvCache,
        weights::{LayerTensor, Tensor},
    },
};

/// A layer's weights, and what differs between layers and models.
pub(super) struct Layer {
    index: usize,
    attends: AttentionLayer,
    rotation: Rotation,
    attention_norm: Norm,
    qkv: Linear,
    qkv_bias: Option<Vec<f32>>,
    head_norm: Option<Norm>,
    attention_output: Projection,
    /// Absent when the feed-forward part reads what attention reads.
    ffn_norm: Option<Norm>,
    /// Gate and up side by side, or up alone.
    up: Linear,
    up_bias: Option<Vec<f32>>,
    feed_forward: FeedForward,
    activation: Activation,
    down: Projection,
}

/// A product that joins the residual stream.
struct Projection {
    weights: Linear,
    bias: Option<Vec<f32>>,
    /// Applied before it joins.
    post_norm: Option<Norm>,
}

/// A step's rows on their way through the layers; the buffers grow to the largest batch and stay.
#[derive(Default)]
pub(super) struct Activations {
    /// The residual stream.
    pub hidden: Vec<f32>,
    pub normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    feed_forward: GatedBuffers,
    projected: Vec<f32>,
}

impl Activations {
    /// Leaves only these of `count` rows, in ascending order, of what [`Layer::run`] reads.
    pub(super) fn keep(&mut self, rows: &[usize], count: usize) {
        if rows.len() == count {
            return;
        }
        for values in [&mut self.hidden, &mut self.normed, &mut self.qkv] {
            let width = values.len() / count;
            for (to, from) in rows.iter().enumerate() {
                values.copy_within(from * width..(from + 1) * width, to * width);
            }
            values.truncate(rows.len() * width);
        }
    }
}

/// How the rows of a batch enter the cache.
pub(super) struct Entries<'a> {
    /// Where each row's keys and values are stored.
    pub slots: &'a [usize],
    pub angles: &'a Angles,
}

/// The rows of a batch as attention sees them.
pub(super) struct Rows<'a> {
    pub spans: &'a [AttentionSpan<'a>],
    pub adapters: &'a [Adapter],
    /// Which rows run with which adapter.
    pub adapted: &'a RowGroups,
}

impl Rows<'_> {
    /// Adds to the product `out` of `x` what adapters change about it.
    fn adapt(&self, compute: &mut Compute, (layer, site): (usize, Site), x: &[f32], out: &mut [f32]) {
        let change = |adapter: usize| self.adapters.get(adapter)?.change(layer, site);
        add_low_rank(&mut compute.pool, compute.isa, self.adapted, &change, x, out);
    }
}

impl Layer {
    pub(super) fn load(loader: &mut Loader<'_>, index: usize) -> Result<Self, String> {
        let config = loader.config;
        let (sizes, attention) = (config.sizes, config.layers[index]);
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let tensor = |part| Tensor::Layer(index, part);
        let qkv = [
            (tensor(LayerTensor::Query), queries),
            (tensor(LayerTensor::Key), keys),
            (tensor(LayerTensor::Value), keys),
        ];
        let gate_up = [
            (tensor(LayerTensor::Gate), sizes.ffn),
            (tensor(LayerTensor::Up), sizes.ffn),
        ];
        let mut post_norm = |part| {
            let wanted = config.norm_placement == NormPlacement::PreAndPost;
            wanted.then(|| loader.post_norm(tensor(part))).transpose()
        };
        let attention_post_norm = post_norm(LayerTensor::AttentionPostNorm)?;
        let ffn_post_norm = post_norm(LayerTensor::FfnPostNorm)?;
        let ffn_norm = match config.norm_placement {
            NormPlacement::Pre | NormPlacement::PreAndPost => {
                let bias = tensor(LayerTensor::FfnNormBias);
                Some(loader.norm(tensor(LayerTensor::FfnNorm), bias)?)
            }
            NormPlacement::Parallel => None,
        };
        let up = match config.feed_forward {
            FeedForward::Gated => loader.fused(tensor(LayerTensor::GateUp), &gate_up, sizes.hidden)?,
            FeedForward::Plain => loader.matrix(tensor(LayerTensor::Up), sizes.ffn, sizes.hidden)?,
        };
        Ok(Self {
            index,
            attends: config.attention_layer(attention),
            rotation: attention.rotation,
            attention_norm: loader.norm(
                tensor(LayerTensor::AttentionNorm),
                tensor(LayerTensor::AttentionNormBias),
            )?,
            qkv: loader.fused(tensor(LayerTensor::Qkv), &qkv, sizes.hidden)?,
            qkv_bias: match config.biases {
                Biases::None => None,
                Biases::Qkv | Biases::All => Some(loader.qkv_bias(index)?),
            },
            head_norm: loader.head_norm(index)?,
            attention_output: Projection {
                weights: loader.matrix(tensor(LayerTensor::AttentionOutput), sizes.hidden, queries)?,
                bias: loader.bias(tensor(LayerTensor::AttentionOutputBias), sizes.hidden)?,
                post_norm: attention_post_norm,
            },
            ffn_norm,
            up,
            up_bias: loader.bias(tensor(LayerTensor::UpBias), sizes.ffn)?,
            feed_forward: config.feed_forward,
            activation: config.activation,
            down: Projection {
                weights: loader.matrix(tensor(LayerTensor::Down), sizes.hidden, sizes.ffn)?,
                bias: loader.bias(tensor(LayerTensor::DownBias), sizes.hidden)?,
                post_norm: ffn_post_norm,
            },
        })
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let projections = [&self.attention_output, &self.down];
        let matrices = [&self.qkv, &self.up].into_iter();
        let matrices = matrices.chain(projections.map(|projection| &projection.weights));
        let norms = [
            Some(&self.attention_norm),
            self.head_norm.as_ref(),
            self.ffn_norm.as_ref(),
        ]
        .into_iter();
        let norms = norms.chain(projections.map(|projection| projection.post_norm.as_ref()));
        let vectors = norms.flatten().map(Norm::values);
        let biases = [&self.qkv_bias, &self.up_bias].into_iter();
        let biases = biases.chain(projections.map(|projection| &projection.bias));
        let biases = biases.flatten().map(Vec::len);
        let values = vectors.sum::<usize>() + biases.sum::<usize>();
        matrices.map(Linear::bytes).sum::<usize>() + values * size_of::<f32>()
    }

    /// Computes the rows' queries, keys and values, and writes keys and values to the cache.
    pub(super) fn store(
        &self,
        compute: &mut Compute,
        rows: &Rows<'_>,
        entries: &Entries<'_>,
        cache: &mut KvCache,
        a: &mut Activations,
    ) {
        let (shape, isa) = (self.attends.shape, compute.isa);
        a.normed.resize(a.hidden.len(), 0.0);
        a.qkv.resize(entries.slots.len() * shape.qkv_width(), 0.0);

        let (norm, pool) = (&self.attention_norm, &mut compute.pool);
        norm.apply(pool, isa, &a.hidden, &mut a.normed, Output::Replace);
        matmul(pool, isa, &a.normed, &self.qkv, &mut a.qkv, Output::Replace);
        rows.adapt(compute, (self.index, Site::Qkv), &a.normed, &mut a.qkv);
        let pool = &mut compute.pool;
        if let Some(bias) = &self.qkv_bias {
            add_bias(&mut a.qkv, bias);
        }
        if let Some(norm) = &self.head_norm {
            norm.apply_to_heads(pool, isa, &mut a.qkv, shape.qkv_width(), shape.head_dim);
        }
        let angles = entries.angles.of(self.rotation);
        let cache = cache.layer(self.index);
        rope_and_store(pool, isa, &mut a.qkv, entries.slots, angles, cache);
    }

    /// Adds what the layer makes of the residual stream to it, after [`Self::store`].
    pub(super) fn run(
        &self,
        compute: &mut Compute,
        rows: &Rows<'_>,
        cache: &mut KvCache,
        a: &mut Activations,
    ) {
        let isa = compute.isa;
        let (shape, ffn) = (self.attends.shape, self.down.weights.cols());
        let count = a.qkv.len() / shape.qkv_width();
        a.attended.resize(count * shape.heads * shape.head_dim, 0.0);

        attention(
            &mut compute.pool,
            isa,
            self.attends,
            &a.qkv,
            rows.spans,
            cache.layer(self.index),
            &mut a.attended,
        );
        let site = (self.index, Site::AttentionOutput);
        let streams = (&mut a.projected, &mut a.hidden);
        self.attention_output
            .join(compute, rows, site, Input::Rows(&a.attended), streams);

        let pool = &mut compute.pool;
        if let Some(norm) = &self.ffn_norm {
            norm.apply(pool, isa, &a.hidden, &mut a.normed, Output::Replace);
        }
        let site = (self.index, Site::Down);
        let streams = (&mut a.projected, &mut a.hidden);
        if self.feed_forward == FeedForward::Gated && rows.adapted.is_empty() {
            let products = GatedFeedForward {
                gate_up: &self.up,
                activation: self.activation,
                down: &self.down.weights,
            };
            let input = Input::BeforeGate(products, &a.normed, &mut a.feed_forward);
            return self.down.join(compute, rows, site, input, streams);
        }
        let GatedBuffers { gate_up, gated } = &mut a.feed_forward;
        gated.resize(count * ffn, 0.0);
        match self.feed_forward {
            FeedForward::Gated => {
                gate_up.resize(count * 2 * ffn, 0.0);
                matmul(pool, isa, &a.normed, &self.up, gate_up, Output::Replace);
                rows.adapt(compute, (self.index, Site::GateUp), &a.normed, gate_up);
                let pool = &mut compute.pool;
                gate(pool, isa, self.activation, gate_up, ffn, gated);
            }
            FeedForward::Plain => {
                matmul(pool, isa, &a.normed, &self.up, gated, Output::Replace);
                if let Some(bias) = &self.up_bias {
                    add_bias(gated, bias);
                }
                self.activation.apply(pool, isa, gated, ffn);
            }
        }
        self.down.join(compute, rows, site, Input::Rows(gated), streams);
    }
}

/// What a projection is the product of.
enum Input<'a> {
    Rows(&'a [f32]),
    /// What products make of these rows; no adapter changes anything about them.
    BeforeGate(GatedFeedForward<'a>, &'a [f32], &'a mut GatedBuffers),
}

impl Projection {
    /// Adds the product of `input`, and what adapters change about it, to `hidden`; `projected` is scratch.
    fn join(
        &self,
        compute: &mut Compute,
        rows: &Rows<'_>,
        site: (usize, Site),
        input: Input<'_>,
        (projected, hidden): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let (pool, isa) = (&mut compute.pool, compute.isa);
        let (out, output) = if self.post_norm.is_some() {
            projected.resize(hidden.len(), 0.0);
            (&mut **projected, Output::Replace)
        } else {
            (&mut **hidden, Output::Add)
        };
        let adaptable = match input {
            Input::Rows(x) => {
                matmul(pool, isa, x, &self.weights, out, output);
                Some(x)
            }
            Input::BeforeGate(products, x, buffers) => {
                products.run(pool, isa, x, buffers, (out, output));
                None
            }
        };
        if let Some(bias) = &self.bias {
            add_bias(out, bias);
        }
        if let Some(x) = adaptable {
            rows.adapt(compute, site, x, out);
        }
        if let Some(norm) = &self.post_norm {
            norm.apply(&mut compute.pool, isa, projected, hidden, Output::Add);
        }
    }
}
