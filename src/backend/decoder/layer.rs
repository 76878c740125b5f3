//! One layer of a decoder.

use super::{
    loader::Loader,
    ops::{AdapterPoint, AttentionPoint, DecoderOps, GatedFeedForward, GatedRows, Output, RowSet},
};
use crate::model::{
    LayerTensor, Site, Tensor, TensorError,
    spec::{Activation, AttentionLayer, Biases, FeedForward, NormPlacement, Rotation},
};

/// A layer's weights, and what it computes with them.
pub(super) struct Layer<O: DecoderOps> {
    index: usize,
    attention: AttentionLayer,
    rotation: Rotation,
    attention_norm: O::Norm,
    qkv: O::Linear,
    qkv_bias: Option<O::Bias>,
    head_norm: Option<O::Norm>,
    attention_output: Projection<O>,
    /// `None` when the feed-forward part reads the same norm as attention.
    ffn_norm: Option<O::Norm>,
    /// Gate and up side by side, or up alone.
    up: O::Linear,
    up_bias: Option<O::Bias>,
    feed_forward: FeedForward,
    /// Width of a row between the products of the feed-forward part.
    ffn_width: usize,
    activation: Activation,
    down: Projection<O>,
}

/// A product that is added to the residual stream.
struct Projection<O: DecoderOps> {
    weights: O::Linear,
    bias: Option<O::Bias>,
    /// Applied to the product before it is added.
    post_norm: Option<O::Norm>,
}

/// A step's rows between its operations. The buffers grow to the largest batch and are kept for the next step.
pub(super) struct Activations<O: DecoderOps> {
    /// The residual stream.
    pub hidden: O::Rows,
    /// The residual stream after the norm that was computed last.
    pub normed: O::Rows,
    qkv: O::Rows,
    attended: O::Rows,
    feed_forward: GatedRows<O::Rows>,
    projected: O::Rows,
}

impl<O: DecoderOps> Default for Activations<O> {
    fn default() -> Self {
        Self {
            hidden: O::Rows::default(),
            normed: O::Rows::default(),
            qkv: O::Rows::default(),
            attended: O::Rows::default(),
            feed_forward: GatedRows::default(),
            projected: O::Rows::default(),
        }
    }
}

impl<O: DecoderOps> Activations<O> {
    /// Removes all rows but those that are read from the buffers that [`Layer::run`] uses.
    pub(super) fn keep_read_rows(&mut self, ops: &mut O, step: &O::Step<'_>) {
        for rows in [&mut self.hidden, &mut self.normed, &mut self.qkv] {
            ops.keep_read_rows(step, rows);
        }
    }
}

impl<O: DecoderOps> Layer<O> {
    pub(super) fn load(loader: &mut Loader<'_, O>, index: usize) -> Result<Self, TensorError> {
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
            FeedForward::Gated => loader.joined(tensor(LayerTensor::GateUp), &gate_up, sizes.hidden)?,
            FeedForward::Plain => loader.linear(tensor(LayerTensor::Up), sizes.ffn, sizes.hidden)?,
        };
        Ok(Self {
            index,
            attention: config.attention_layer(attention),
            rotation: attention.rotation,
            attention_norm: loader.norm(
                tensor(LayerTensor::AttentionNorm),
                tensor(LayerTensor::AttentionNormBias),
            )?,
            qkv: loader.joined(tensor(LayerTensor::Qkv), &qkv, sizes.hidden)?,
            qkv_bias: match config.biases {
                Biases::None => None,
                Biases::Qkv | Biases::All => Some(loader.qkv_bias(index)?),
            },
            head_norm: loader.head_norm(index)?,
            attention_output: Projection {
                weights: loader.linear(tensor(LayerTensor::AttentionOutput), sizes.hidden, queries)?,
                bias: loader.bias(tensor(LayerTensor::AttentionOutputBias), sizes.hidden)?,
                post_norm: attention_post_norm,
            },
            ffn_norm,
            up,
            up_bias: loader.bias(tensor(LayerTensor::UpBias), sizes.ffn)?,
            feed_forward: config.feed_forward,
            ffn_width: sizes.ffn,
            activation: config.activation,
            down: Projection {
                weights: loader.linear(tensor(LayerTensor::Down), sizes.hidden, sizes.ffn)?,
                bias: loader.bias(tensor(LayerTensor::DownBias), sizes.hidden)?,
                post_norm: ffn_post_norm,
            },
        })
    }

    /// Computes the queries, keys and values of all rows, and writes keys and values to the cache.
    pub(super) fn store(&self, ops: &mut O, step: &O::Step<'_>, a: &mut Activations<O>) {
        ops.norm(&self.attention_norm, &a.hidden, &mut a.normed, Output::Replace);
        ops.product(&self.qkv, &a.normed, &mut a.qkv, Output::Replace);
        ops.add_low_rank(step, self.at(Site::Qkv, RowSet::All), &a.normed, &mut a.qkv);
        if let Some(bias) = &self.qkv_bias {
            ops.add_bias(bias, &mut a.qkv);
        }
        if let Some(norm) = &self.head_norm {
            ops.norm_heads(norm, &self.attention, &mut a.qkv);
        }
        ops.rotate_and_store(step, self.index, self.rotation, &mut a.qkv);
    }

    /// Adds attention and the feed-forward part to the residual stream, after [`Self::store`]. The activations hold `rows`.
    pub(super) fn run(&self, ops: &mut O, step: &O::Step<'_>, rows: RowSet, a: &mut Activations<O>) {
        let attention = AttentionPoint {
            layer: self.index,
            attention: self.attention,
            rows,
        };
        ops.attention(step, attention, &a.qkv, &mut a.attended);
        let at = self.at(Site::AttentionOutput, rows);
        let (out, output) = self.attention_output.target(&mut a.projected, &mut a.hidden);
        ops.product(&self.attention_output.weights, &a.attended, out, output);
        self.attention_output
            .adjust(ops, out, |ops, out| ops.add_low_rank(step, at, &a.attended, out));
        self.attention_output.join(ops, &a.projected, &mut a.hidden);

        if let Some(norm) = &self.ffn_norm {
            ops.norm(norm, &a.hidden, &mut a.normed, Output::Replace);
        }
        self.run_feed_forward(ops, step, rows, a);
    }

    fn run_feed_forward(&self, ops: &mut O, step: &O::Step<'_>, rows: RowSet, a: &mut Activations<O>) {
        let (out, output) = self.down.target(&mut a.projected, &mut a.hidden);
        if self.feed_forward == FeedForward::Gated && !ops.any_adapted(step, rows) {
            let weights = GatedFeedForward {
                gate_up: &self.up,
                activation: self.activation,
                down: &self.down.weights,
            };
            ops.gated_feed_forward(weights, &a.normed, &mut a.feed_forward, out, output);
            self.down.adjust(ops, out, |_, _| {});
            return self.down.join(ops, &a.projected, &mut a.hidden);
        }
        let scratch = &mut a.feed_forward;
        match self.feed_forward {
            FeedForward::Gated => {
                ops.product(&self.up, &a.normed, &mut scratch.gate_up, Output::Replace);
                let at = self.at(Site::GateUp, rows);
                ops.add_low_rank(step, at, &a.normed, &mut scratch.gate_up);
                ops.gate(self.activation, self.ffn_width, scratch);
            }
            FeedForward::Plain => {
                ops.product(&self.up, &a.normed, &mut scratch.gated, Output::Replace);
                if let Some(bias) = &self.up_bias {
                    ops.add_bias(bias, &mut scratch.gated);
                }
                ops.activate(self.activation, self.ffn_width, &mut scratch.gated);
            }
        }
        ops.product(&self.down.weights, &scratch.gated, out, output);
        let at = self.at(Site::Down, rows);
        self.down.adjust(ops, out, |ops, out| {
            ops.add_low_rank(step, at, &scratch.gated, out)
        });
        self.down.join(ops, &a.projected, &mut a.hidden);
    }

    fn at(&self, site: Site, rows: RowSet) -> AdapterPoint {
        AdapterPoint {
            layer: self.index,
            site,
            rows,
        }
    }
}

impl<O: DecoderOps> Projection<O> {
    /// Where the product is written: straight to the residual stream, unless it has to be normed before.
    fn target<'a>(&self, projected: &'a mut O::Rows, hidden: &'a mut O::Rows) -> (&'a mut O::Rows, Output) {
        match self.post_norm {
            Some(_) => (projected, Output::Replace),
            None => (hidden, Output::Add),
        }
    }

    /// Adds the bias to the product in `out`, and then what `adapt` adds for adapters.
    fn adjust(&self, ops: &mut O, out: &mut O::Rows, adapt: impl FnOnce(&mut O, &mut O::Rows)) {
        if let Some(bias) = &self.bias {
            ops.add_bias(bias, out);
        }
        adapt(ops, out);
    }

    /// Norms the product and adds it to the residual stream, where it was not written straight there.
    fn join(&self, ops: &mut O, projected: &O::Rows, hidden: &mut O::Rows) {
        if let Some(norm) = &self.post_norm {
            ops.norm(norm, projected, hidden, Output::Add);
        }
    }
}
