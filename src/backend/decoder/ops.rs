//! The operations of a device that the decoder is made of.

use crate::{
    backend::{ForwardBatch, GeneratedTokens, StepError, StepOutput},
    model::{
        Site, TensorProblem,
        spec::{Activation, AttentionLayer, MatrixSource, NormKind, Rotation},
    },
};

/// A device's operations on weights and rows of activations.
///
/// An operation is coarse enough that a device may join the computations inside of it, as the CPU does with the tiles of a
/// gated feed-forward part. Operations are called in order, but a device may compute them later: a fault is kept and reported
/// by [`DecoderOps::finish`]. Widths are those of the weights, and a device resizes a buffer to what it writes there.
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

    /// Loads a matrix whose rows are also read one by one: a table of embeddings.
    fn table(&mut self, matrix: MatrixSource<'_>) -> Result<Self::Linear, PartError> {
        self.linear(&[matrix])
    }

    /// Loads a norm.
    fn norm_weights(&mut self, weights: NormParameters) -> Self::Norm;

    /// Loads a bias.
    fn bias(&mut self, values: Vec<f32>) -> Self::Bias;

    /// Bytes that all weights take that were loaded so far.
    fn weight_bytes(&self) -> u64;

    /// Bytes of the KV pool, including blocks that were never used and so take no memory yet.
    fn kv_bytes(&self) -> u64;

    /// Number of adapters that sequences can name.
    fn adapters(&self) -> usize;

    /// Whether the products of the weights that were loaded so far compute generated tokens otherwise than the same tokens
    /// in a prompt.
    fn generated_tokens(&self) -> GeneratedTokens {
        GeneratedTokens::AsInPrompts
    }

    /// Begins a step, whose results are read into `output`.
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

    /// Whether any of these rows is a sequence's with an adapter.
    fn any_adapted(&self, step: &Self::Step<'_>, rows: RowSet) -> bool;

    /// Adds the updates of the rows' adapters to `out`, the product of `x` at this point of the model.
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

    /// A gated feed-forward part that no adapter changes, `down(activation(gate(x)) * up(x))`. It replaces `out` or is added
    /// to it.
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

    /// Removes all rows but those of [`RowSet::Read`].
    fn keep_read_rows(&mut self, step: &Self::Step<'_>, rows: &mut Self::Rows);

    /// The output layer and its readouts: computes the logits of the rows of [`RowSet::Read`], `x · Wᵀ * scale`, bounded by
    /// `cap * tanh(logit / cap)`, and reads what each sequence's readout asks for.
    fn read_logits(
        &mut self,
        step: &Self::Step<'_>,
        weights: &Self::Linear,
        x: &Self::Rows,
        scaling: LogitScaling,
    );

    /// All operations of the step were called: a device that collects them begins with them now.
    fn launch(&mut self, step: &Self::Step<'_>);

    /// Waits for the step, and returns what it read.
    ///
    /// # Errors
    /// When the device reports a fault.
    fn finish(&mut self) -> Result<StepOutput, StepError>;
}

/// Which part of a weight matrix could not be loaded, and why.
#[derive(Debug)]
pub(crate) struct PartError {
    /// Index of the part among those that were passed.
    pub part: usize,
    /// What is wrong with its tensor.
    pub problem: TensorProblem,
}

/// A norm's kind and weights: `(x - mean) / sqrt(mean((x - mean)²) + eps) * weight + bias`, the mean being 0 for
/// [`NormKind::Rms`].
#[derive(Debug)]
pub(crate) struct NormParameters {
    /// Kind of the norm.
    pub kind: NormKind,
    /// Added to the mean square, so that the divisor is never 0.
    pub eps: f32,
    /// One weight for each element.
    pub weight: Vec<f32>,
    /// One bias for each element, in models that have them.
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
    /// Index of the layer whose keys and values are read.
    pub layer: usize,
    /// What the layer's attention computes.
    pub attention: AttentionLayer,
    /// The rows whose queries attend.
    pub rows: RowSet,
}

/// A product of the model that adapters may change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdapterPoint {
    /// Index of the layer.
    pub layer: usize,
    /// Which of the layer's products.
    pub site: Site,
    /// The rows that the product is computed for.
    pub rows: RowSet,
}

/// The tables that rows of embeddings are taken from.
pub(crate) struct Embedding<'a, Linear> {
    /// One row for each token.
    pub tokens: &'a Linear,
    /// Factor on the rows of tokens.
    pub scale: f32,
    /// One row for each position, in models with learned positions.
    pub positions: Option<&'a Linear>,
}

/// The weights of a gated feed-forward part.
pub(crate) struct GatedFeedForward<'a, Linear> {
    /// Gate and up side by side, with equal outputs.
    pub gate_up: &'a Linear,
    /// Activation function of the gate.
    pub activation: Activation,
    /// The matrix that leads back to the residual stream; its inputs are the gate's outputs.
    pub down: &'a Linear,
}

/// Rows between the two products of a gated feed-forward part. A device that joins the products needs no memory for them.
#[derive(Default)]
pub(crate) struct GatedRows<Rows> {
    /// `[rows, gate | up]`
    pub gate_up: Rows,
    /// `[rows, gate]`
    pub gated: Rows,
}

/// What is done with logits after the product of the output layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitScaling {
    /// Factor on logits.
    pub scale: f32,
    /// Bound on logits, after the factor.
    pub soft_cap: Option<f32>,
}
