//! mT5's layers (arXiv 2010.11934; T5 v1.1): norms before each part and without biases, a gated feed-forward part, and
//! products of queries and keys that are not scaled.

use crate::{
    backend::cpu::{
        compute::Compute,
        encoders::tensor_reader::TensorReader,
        kernels::{
            DenseAttention, DenseInput, DenseSpan, DistanceBias, GatedBuffers, GatedFeedForward, HeadRows,
            Linear, Norm, Output, ScoreBias, TokenRows, matmul,
        },
    },
    model::{
        TensorError,
        estimator::MetricXConfig,
        spec::{Activation, NormKind},
    },
};

/// A batch's rows between the operations of the layers. The buffers grow to the largest batch and are kept for the next.
#[derive(Default)]
pub(super) struct Activations {
    /// The residual stream.
    pub hidden: Vec<f32>,
    normed: Vec<f32>,
    /// Queries, keys and values side by side in the encoder, keys and values in the decoder.
    qkv: Vec<f32>,
    queries: Vec<f32>,
    attended: Vec<f32>,
    feed_forward: GatedBuffers,
}

/// Bytes of all buffers that one row of the encoder takes, those of the decoder's keys and values included.
pub(super) fn row_bytes(config: &MetricXConfig) -> usize {
    size_of::<f32>() * (3 * config.hidden + 6 * config.inner() + 3 * config.ffn)
}

/// The root mean square norm of the residual stream whose weights are `NAME.weight`.
pub(super) fn norm(
    reader: &mut TensorReader<'_>,
    config: &MetricXConfig,
    name: &str,
) -> Result<Norm, TensorError> {
    Ok(Norm {
        bias: None,
        kind: NormKind::Rms,
        eps: config.eps,
        weight: reader.values(&format!("{name}.weight"), &[config.hidden])?,
    })
}

impl Activations {
    /// Norms the residual stream into `normed`, and returns that.
    pub(super) fn normed(&mut self, compute: &mut Compute, norm: &Norm) -> &[f32] {
        self.normed.resize(self.hidden.len(), 0.0);
        norm.apply(compute, &self.hidden, &mut self.normed, Output::Replace);
        &self.normed
    }
}

/// `out = x · Wᵀ`.
fn product(compute: &mut Compute, x: &[f32], weights: &Linear, out: &mut Vec<f32>) {
    out.resize(x.len() / weights.cols() * weights.rows(), 0.0);
    matmul(compute, x, weights, out, Output::Replace);
}

/// `stream += x · Wᵀ`.
fn join(compute: &mut Compute, x: &[f32], weights: &Linear, stream: &mut [f32]) {
    matmul(compute, x, weights, stream, Output::Add);
}

fn attention(config: &MetricXConfig) -> DenseAttention {
    DenseAttention {
        heads: config.heads,
        head_dim: config.head_dim,
        scale: 1.0,
    }
}

/// The names of some of an attention's projections.
fn projections<const N: usize>(name: &str, parts: [&str; N]) -> [String; N] {
    parts.map(|part| format!("{name}.{part}.weight"))
}

struct FeedForward {
    norm: Norm,
    gate_up: Linear,
    down: Linear,
}

impl FeedForward {
    fn read(reader: &mut TensorReader<'_>, config: &MetricXConfig, name: &str) -> Result<Self, TensorError> {
        let dense = format!("{name}.DenseReluDense");
        let (gate, up) = (format!("{dense}.wi_0.weight"), format!("{dense}.wi_1.weight"));
        Ok(Self {
            norm: norm(reader, config, &format!("{name}.layer_norm"))?,
            gate_up: reader.matrices(&[&gate, &up], config.ffn, config.hidden)?,
            down: reader.matrix(&format!("{dense}.wo.weight"), config.hidden, config.ffn)?,
        })
    }

    fn run(&self, compute: &mut Compute, a: &mut Activations) {
        a.normed(compute, &self.norm);
        let products = GatedFeedForward {
            gate_up: &self.gate_up,
            activation: Activation::GeluTanh,
            down: &self.down,
        };
        products.run(
            compute,
            TokenRows::of_prompts(&a.normed),
            &mut a.feed_forward,
            &mut a.hidden,
            Output::Add,
        );
    }
}

pub(super) struct EncoderLayer {
    attention: DenseAttention,
    norm: Norm,
    qkv: Linear,
    output: Linear,
    feed_forward: FeedForward,
}

impl EncoderLayer {
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        config: &MetricXConfig,
        index: usize,
    ) -> Result<Self, TensorError> {
        let name = format!("encoder.block.{index}.layer");
        let own = format!("{name}.0.SelfAttention");
        let qkv = projections(&own, ["q", "k", "v"]);
        Ok(Self {
            attention: attention(config),
            norm: norm(reader, config, &format!("{name}.0.layer_norm"))?,
            qkv: reader.matrices(&qkv.each_ref().map(String::as_str), config.inner(), config.hidden)?,
            output: reader.matrix(&format!("{own}.o.weight"), config.hidden, config.inner())?,
            feed_forward: FeedForward::read(reader, config, &format!("{name}.1"))?,
        })
    }

    /// Each span attends to itself.
    pub(super) fn run(
        &self,
        compute: &mut Compute,
        spans: &[DenseSpan],
        bias: DistanceBias<'_>,
        a: &mut Activations,
    ) {
        a.normed(compute, &self.norm);
        product(compute, &a.normed, &self.qkv, &mut a.qkv);
        let input = DenseInput::of_qkv(self.attention, &a.qkv, spans, Some(ScoreBias::Distance(bias)));
        a.attended.resize(a.qkv.len() / 3, 0.0);
        self.attention.run_on(compute, &input, &mut a.attended);
        join(compute, &a.attended, &self.output, &mut a.hidden);
        self.feed_forward.run(compute, a);
    }
}

/// A decoder's layer for the first token of a sequence. That token attends to itself only, which gives its own value, so the
/// queries, keys and biases of that attention are not needed.
pub(super) struct DecoderLayer {
    attention: DenseAttention,
    own_norm: Norm,
    own_value: Linear,
    own_output: Linear,
    cross_norm: Norm,
    cross_query: Linear,
    /// Projects the encoder's output to keys and values side by side.
    cross_kv: Linear,
    cross_output: Linear,
    feed_forward: FeedForward,
}

impl DecoderLayer {
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        config: &MetricXConfig,
        index: usize,
    ) -> Result<Self, TensorError> {
        let name = format!("decoder.block.{index}.layer");
        let (own, cross) = (
            format!("{name}.0.SelfAttention"),
            format!("{name}.1.EncDecAttention"),
        );
        let kv = projections(&cross, ["k", "v"]);
        let (hidden, inner) = (config.hidden, config.inner());
        Ok(Self {
            attention: attention(config),
            own_norm: norm(reader, config, &format!("{name}.0.layer_norm"))?,
            own_value: reader.matrix(&format!("{own}.v.weight"), inner, hidden)?,
            own_output: reader.matrix(&format!("{own}.o.weight"), hidden, inner)?,
            cross_norm: norm(reader, config, &format!("{name}.1.layer_norm"))?,
            cross_query: reader.matrix(&format!("{cross}.q.weight"), inner, hidden)?,
            cross_kv: reader.matrices(&kv.each_ref().map(String::as_str), inner, hidden)?,
            cross_output: reader.matrix(&format!("{cross}.o.weight"), hidden, inner)?,
            feed_forward: FeedForward::read(reader, config, &format!("{name}.2"))?,
        })
    }

    /// One row for each span attends to the span's rows of `encoded`, `[rows, hidden]`.
    pub(super) fn run(
        &self,
        compute: &mut Compute,
        encoded: &[f32],
        spans: &[DenseSpan],
        a: &mut Activations,
    ) {
        a.normed(compute, &self.own_norm);
        product(compute, &a.normed, &self.own_value, &mut a.attended);
        join(compute, &a.attended, &self.own_output, &mut a.hidden);

        a.normed(compute, &self.cross_norm);
        product(compute, &a.normed, &self.cross_query, &mut a.queries);
        product(compute, encoded, &self.cross_kv, &mut a.qkv);
        let inner = self.cross_query.rows();
        let of_kv = |first| HeadRows {
            values: &a.qkv,
            stride: 2 * inner,
            first,
        };
        let input = DenseInput {
            queries: HeadRows {
                values: &a.queries,
                stride: inner,
                first: 0,
            },
            keys: of_kv(0),
            values: of_kv(inner),
            spans,
            bias: None,
        };
        a.attended.resize(a.queries.len(), 0.0);
        self.attention.run_on(compute, &input, &mut a.attended);
        join(compute, &a.attended, &self.cross_output, &mut a.hidden);
        self.feed_forward.run(compute, a);
    }
}
