//! The XLM-R encoder: RoBERTa's layers, norms after each part, or before each part in the larger sizes.

use std::ops::Range;

use crate::{
    backend::cpu::{
        compute::Compute,
        encoders::tensor_reader::{Kept, TensorReader},
        kernels::{DenseAttention, Linear, Norm, Output, add_bias, matmul},
    },
    model::{
        EncoderConfig, EncoderNorms, TensorError,
        spec::{NormKind, Pointwise},
    },
};

/// A matrix and a bias.
pub(super) struct Dense {
    weights: Linear,
    bias: Vec<f32>,
}

impl Dense {
    /// Reads `NAME.weight`, `[outputs, inputs]`, and `NAME.bias`.
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, TensorError> {
        Ok(Self {
            weights: reader.matrix(&format!("{name}.weight"), outputs, inputs)?,
            bias: reader.values(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// Computes `x · Wᵀ + b`, `[rows, outputs]`, which replaces `out` or is added to it.
    pub(super) fn apply(&self, compute: &mut Compute, x: &[f32], out: &mut Vec<f32>, output: Output) {
        if output == Output::Replace {
            out.resize(x.len() / self.weights.cols() * self.weights.rows(), 0.0);
        }
        matmul(compute, x, &self.weights, out, output);
        add_bias(out, &self.bias);
    }
}

/// A norm that subtracts the mean, divides by the standard deviation and adds a bias.
struct LayerNorm(Norm);

impl LayerNorm {
    fn read(reader: &mut TensorReader<'_>, name: &str, config: &EncoderConfig) -> Result<Self, TensorError> {
        let shape = [config.hidden];
        Ok(Self(Norm {
            kind: NormKind::Layer,
            eps: config.eps,
            weight: reader.values(&format!("{name}.weight"), &shape)?,
            bias: Some(reader.values(&format!("{name}.bias"), &shape)?),
        }))
    }

    /// Norms the rows of `x` into `out`.
    fn apply(&self, compute: &mut Compute, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        self.0.apply(compute, x, out, Output::Replace);
    }
}

struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    qkv_bias: Vec<f32>,
    attention_output: Dense,
    ffn_norm: LayerNorm,
    up: Dense,
    down: Dense,
}

/// A batch's rows between the operations of the layers. The buffers grow to the largest batch and are kept for the next.
#[derive(Default)]
pub(super) struct Activations {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    expanded: Vec<f32>,
}

/// The encoder's weights.
pub(super) struct Encoder {
    config: EncoderConfig,
    embedding: Linear,
    /// Embeddings of positions, `[positions, hidden]`, with the embedding of the only token type added.
    positions: Vec<f32>,
    embedding_norm: Option<LayerNorm>,
    layers: Vec<Layer>,
    final_norm: Option<LayerNorm>,
}

impl Encoder {
    /// Reads the encoder whose tensors have names that begin with `prefix`.
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        config: &EncoderConfig,
        prefix: &str,
    ) -> Result<Self, TensorError> {
        let hidden = config.hidden;
        let embeddings = format!("{prefix}embeddings");
        let embedding = reader.matrix(
            &format!("{embeddings}.word_embeddings.weight"),
            config.vocab,
            hidden,
        )?;
        let name = format!("{embeddings}.position_embeddings.weight");
        let mut positions = reader.values(&name, &[config.positions, hidden])?;
        let name = format!("{embeddings}.token_type_embeddings.weight");
        let types = reader.values(&name, &[config.token_types, hidden])?;
        add_bias(&mut positions, &types[..hidden]);
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer::read(
                reader,
                config,
                &format!("{prefix}encoder.layer.{index}"),
            )?);
        }
        let norm_if = |reader: &mut TensorReader<'_>, norms, name: &str| {
            let wanted = config.norms == norms;
            wanted.then(|| LayerNorm::read(reader, name, config)).transpose()
        };
        Ok(Self {
            embedding_norm: norm_if(reader, EncoderNorms::Post, &format!("{embeddings}.LayerNorm"))?,
            final_norm: norm_if(reader, EncoderNorms::Pre, &format!("{prefix}encoder.LayerNorm"))?,
            config: config.clone(),
            embedding,
            positions,
            layers,
        })
    }

    /// Encodes sequences of tokens, each of which is a span of rows. `see` is called with the number of each layer, its rows,
    /// `[rows, hidden]`, and the spans; the embeddings are layer 0.
    pub(super) fn run(
        &self,
        compute: &mut Compute,
        sequences: &[&[u32]],
        a: &mut Activations,
        mut see: impl FnMut(usize, &[f32], &[Range<usize>]),
    ) {
        let spans = self.embed(sequences, a);
        if let Some(norm) = &self.embedding_norm {
            norm.apply(compute, &a.hidden, &mut a.normed);
            std::mem::swap(&mut a.hidden, &mut a.normed);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            see(index, &a.hidden, &spans);
            layer.run(compute, &self.config, &spans, a);
        }
        if let Some(norm) = &self.final_norm {
            norm.apply(compute, &a.hidden, &mut a.normed);
            std::mem::swap(&mut a.hidden, &mut a.normed);
        }
        see(self.layers.len(), &a.hidden, &spans);
    }

    fn embed(&self, sequences: &[&[u32]], a: &mut Activations) -> Vec<Range<usize>> {
        let width = self.config.hidden;
        let rows = sequences.iter().map(|tokens| tokens.len()).sum::<usize>();
        a.hidden.resize(rows * width, 0.0);
        let positions = &self.positions[self.config.first_position * width..];
        let mut spans = Vec::with_capacity(sequences.len());
        let mut start = 0;
        for tokens in sequences {
            let span = start..start + tokens.len();
            let rows = a.hidden[span.start * width..span.end * width].chunks_exact_mut(width);
            for ((row, &token), position) in rows.zip(*tokens).zip(positions.chunks_exact(width)) {
                self.embedding.read_row(token as usize, row);
                row.iter_mut()
                    .zip(position)
                    .for_each(|(value, position)| *value += position);
            }
            start = span.end;
            spans.push(span);
        }
        spans
    }
}

impl Layer {
    fn read(reader: &mut TensorReader<'_>, config: &EncoderConfig, layer: &str) -> Result<Self, TensorError> {
        let hidden = config.hidden;
        let (attention_norm, ffn_norm) = match config.norms {
            EncoderNorms::Post => ("attention.output.LayerNorm", "output.LayerNorm"),
            EncoderNorms::Pre => ("attention.self_attn_layer_norm", "LayerNorm"),
        };
        let of_each =
            |part: &str| ["query", "key", "value"].map(|x| format!("{layer}.attention.self.{x}.{part}"));
        let weights = of_each("weight");
        let mut qkv_bias = Vec::new();
        for name in of_each("bias") {
            qkv_bias.extend(reader.values(&name, &[hidden])?);
        }
        Ok(Self {
            attention_norm: LayerNorm::read(reader, &format!("{layer}.{attention_norm}"), config)?,
            qkv: reader.matrices(&weights.each_ref().map(String::as_str), hidden, hidden)?,
            qkv_bias,
            attention_output: Dense::read(
                reader,
                &format!("{layer}.attention.output.dense"),
                hidden,
                hidden,
            )?,
            ffn_norm: LayerNorm::read(reader, &format!("{layer}.{ffn_norm}"), config)?,
            up: Dense::read(reader, &format!("{layer}.intermediate.dense"), config.ffn, hidden)?,
            down: Dense::read(reader, &format!("{layer}.output.dense"), hidden, config.ffn)?,
        })
    }

    fn run(
        &self,
        compute: &mut Compute,
        config: &EncoderConfig,
        spans: &[Range<usize>],
        a: &mut Activations,
    ) {
        let head_dim = config.hidden / config.heads;
        let attention = DenseAttention {
            heads: config.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let before = config.norms == EncoderNorms::Pre;
        a.norm_if(before, &self.attention_norm, compute);
        let input = if before { &a.normed } else { &a.hidden };
        a.qkv.resize(3 * a.hidden.len(), 0.0);
        a.attended.resize(a.hidden.len(), 0.0);
        matmul(compute, input, &self.qkv, &mut a.qkv, Output::Replace);
        add_bias(&mut a.qkv, &self.qkv_bias);
        attention.run(compute, &a.qkv, spans, &mut a.attended);
        self.attention_output
            .apply(compute, &a.attended, &mut a.hidden, Output::Add);
        a.norm_after(!before, &self.attention_norm, compute);

        a.norm_if(before, &self.ffn_norm, compute);
        let input = if before { &a.normed } else { &a.hidden };
        self.up.apply(compute, input, &mut a.expanded, Output::Replace);
        Pointwise::Gelu.apply(compute, &mut a.expanded);
        self.down.apply(compute, &a.expanded, &mut a.hidden, Output::Add);
        a.norm_after(!before, &self.ffn_norm, compute);
    }
}

impl Activations {
    /// Norms the residual stream into `normed`.
    fn norm_if(&mut self, wanted: bool, norm: &LayerNorm, compute: &mut Compute) {
        if wanted {
            norm.apply(compute, &self.hidden, &mut self.normed);
        }
    }

    /// Norms the residual stream in place.
    fn norm_after(&mut self, wanted: bool, norm: &LayerNorm, compute: &mut Compute) {
        if wanted {
            norm.apply(compute, &self.hidden, &mut self.normed);
            std::mem::swap(&mut self.hidden, &mut self.normed);
        }
    }
}

/// Bytes of all buffers that one row takes.
pub(super) fn row_bytes(config: &EncoderConfig) -> usize {
    size_of::<f32>() * (6 * config.hidden + config.ffn)
}

/// What the encoder keeps of one of its tensors in memory. Positions and types are added to rows, so they are not repacked. Some
/// files have the numbers of the positions as a tensor, which nothing reads.
pub(super) fn kept(tensor: &str) -> Kept {
    let added = [".position_embeddings.weight", ".token_type_embeddings.weight"];
    if tensor.ends_with(".position_ids") {
        Kept::Nothing
    } else if added.iter().any(|name| tensor.ends_with(name)) {
        Kept::Values
    } else {
        Kept::Whole
    }
}
