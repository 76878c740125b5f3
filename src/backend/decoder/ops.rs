//! The operations of a device that the decoder is made of.

use super::super::{batch::ForwardBatch, output::StepOutput};
use crate::{
    backend::StepError,
    model::{
        Site,
        spec::{Activation, AttentionLayer, MatrixSource, NormKind, Rotation},
    },
};

/// A device's operations on weights and rows of activations.
///
/// Operations are coarse enough that a device may join what lies inside of one, as the CPU does with the tiles of a gated
/// feed-forward part. They are called in order and may compute later: a fault is kept and reported by
/// [`DecoderOps::finish`]. Widths are those of the weights; a device gives buffers the size that it writes.
pub(crate) trait DecoderOps: Send {
    /// A weight matrix `[outputs, inputs]`, or several with the same inputs side by side.
    type Linear: Send;
    /// A norm with its weights.
    type Norm: Send;
    /// A bias, one value for each output.
    type Bias: Send;
    /// Rows of activations, `[rows, width]`.
    type Rows: Default + Send;
    /// The rows of one step, as attention and adapters need to know them.
    type Step<'a>;

    /// Loads a weight matrix; its parts lie side by side and have the same inputs.
    fn linear(&mut self, parts: &[MatrixSource<'_>]) -> Result<Self::Linear, PartError>;

    /// Loads a norm.
    fn norm_weights(&mut self, weights: NormParameters) -> Self::Norm;

    /// Loads a bias.
    fn bias(&mut self, values: Vec<f32>) -> Self::Bias;

    /// Bytes of everything that was loaded.
    fn weight_bytes(&self) -> u64;

    /// Bytes of the KV pool, whether the system has given them yet or not.
    fn kv_bytes(&self) -> u64;

    /// Number of adapters that sequences can name.
    fn adapters(&self) -> usize;

    /// Begins a step. What it reads goes into `output`.
    fn begin<'a>(&mut self, batch: &'a ForwardBatch, output: StepOutput) -> Self::Step<'a>;

    /// `hidden = embedding[tokens] * scale + positions[position]`.
    fn embed(&mut self, step: &Self::Step<'_>, tables: Embedding<'_, Self::Linear>, hidden: &mut Self::Rows);

    /// Norms each row of `x` into `out`, or adds it there.
    fn norm(&mut self, norm: &Self::Norm, x: &Self::Rows, out: &mut Self::Rows, output: Output);

    /// Norms the heads of queries and keys in place; rows are `[queries | keys | values]`.
    fn norm_heads(&mut self, norm: &Self::Norm, layer: &AttentionLayer, qkv: &mut Self::Rows);

    /// `out = x · Wᵀ`, or `out += x · Wᵀ`.
    fn product(&mut self, weights: &Self::Linear, x: &Self::Rows, out: &mut Self::Rows, output: Output);

    /// Adds a bias to each row.
    fn add_bias(&mut self, bias: &Self::Bias, rows: &mut Self::Rows);

    /// Whether any of these rows runs with an adapter.
    fn any_adapted(&self, step: &Self::Step<'_>, rows: RowSet) -> bool;

    /// Adds to the product `out` of `x` what the adapters of its rows change about it.
    fn add_low_rank(&mut self, step: &Self::Step<'_>, at: AdapterPoint, x: &Self::Rows, out: &mut Self::Rows);

    /// Rotates queries and keys in place, and writes keys and values to the cache of layer `layer`.
    fn rotate_and_store(
        &mut self,
        step: &Self::Step<'_>,
        layer: usize,
        rotation: Rotation,
        qkv: &mut Self::Rows,
    );

    /// Attention of the rows `qkv` over the cache, into `out` (`[rows, queries]`).
    fn attention(
        &mut self,
        step: &Self::Step<'_>,
        at: AttentionPoint,
        qkv: &Self::Rows,
        out: &mut Self::Rows,
    );

    /// A gated feed-forward part that no adapter changes, `down(activation(gate(x)) * up(x))`; replaces or adds to `out`.
    fn gated_feed_forward(
        &mut self,
        weights: GatedFeedForward<'_, Self::Linear>,
        x: &Self::Rows,
        scratch: &mut GatedRows<Self::Rows>,
        out: &mut Self::Rows,
        output: Output,
    );

    /// `gated = activation(gate) * up`, with rows of `gate_up` as `[gate | up]`, each `width` wide.
    fn gate(&mut self, activation: Activation, width: usize, scratch: &mut GatedRows<Self::Rows>);

    /// Applies an activation to rows of `width` in place.
    fn activate(&mut self, activation: Activation, width: usize, rows: &mut Self::Rows);

    /// Leaves only the rows that are read.
    fn keep_read_rows(&mut self, step: &Self::Step<'_>, rows: &mut Self::Rows);

    /// The output layer and its readouts: logits of the rows that are left, `x · Wᵀ * scale`, bounded by
    /// `cap * tanh(logit / cap)`, and what the step's sequences asked for of them.
    fn read_logits(
        &mut self,
        step: &Self::Step<'_>,
        weights: &Self::Linear,
        x: &Self::Rows,
        scaling: LogitScaling,
    );

    /// Waits for the step, and returns what it read.
    fn finish(&mut self) -> Result<StepOutput, StepError>;
}

/// Which of a matrix's parts could not be loaded, and why.
#[derive(Debug)]
pub(crate) struct PartError {
    /// Index of the part.
    pub part: usize,
    /// What is wrong.
    pub reason: String,
}

/// A norm's kind and weights: `(x - mean) / sqrt(mean((x - mean)²) + eps) * weight + bias`, the mean being 0 for
/// [`NormKind::Rms`].
#[derive(Debug)]
pub(crate) struct NormParameters {
    /// Which norm.
    pub kind: NormKind,
    /// What keeps the divisor away from 0.
    pub eps: f32,
    /// One weight for each element.
    pub weight: Vec<f32>,
    /// One for each element, where the model has them.
    pub bias: Option<Vec<f32>>,
}

/// Whether an operation replaces what is in its output or adds to it (a residual connection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// `out = result`
    Replace,
    /// `out += result`
    Add,
}

/// Which rows of a step an operation runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowSet {
    /// All new tokens.
    All,
    /// The rows that are read: the last new token of each sequence with a readout.
    Read,
}

/// Where attention stands in the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionPoint {
    /// Index of the layer, whose cache is read.
    pub layer: usize,
    /// What its attention computes.
    pub attention: AttentionLayer,
    /// Rows of queries.
    pub rows: RowSet,
}

/// A product that adapters may change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdapterPoint {
    /// Index of the layer.
    pub layer: usize,
    /// Which of its products.
    pub site: Site,
    /// Rows of the product.
    pub rows: RowSet,
}

/// The tables of embeddings.
pub(crate) struct Embedding<'a, Linear> {
    /// One row for each token.
    pub tokens: &'a Linear,
    /// Factor on them.
    pub scale: f32,
    /// One row for each position, in models that rotate nothing.
    pub positions: Option<&'a Linear>,
}

/// The weights of a gated feed-forward part.
pub(crate) struct GatedFeedForward<'a, Linear> {
    /// Gate and up side by side, with equal outputs.
    pub gate_up: &'a Linear,
    /// Of the gate.
    pub activation: Activation,
    /// Its inputs are the gate's outputs.
    pub down: &'a Linear,
}

/// Rows between the products of a gated feed-forward part, where they have to be in memory.
#[derive(Default)]
pub(crate) struct GatedRows<Rows> {
    /// `[rows, gate | up]`
    pub gate_up: Rows,
    /// `[rows, gate]`
    pub gated: Rows,
}

/// What logits go through after their product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitScaling {
    /// Factor on them.
    pub scale: f32,
    /// Bounds them, after the factor.
    pub soft_cap: Option<f32>,
}
