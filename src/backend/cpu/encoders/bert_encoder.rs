//! Encoders with BERT's layers: XLM-R and RoBERTa, with norms after each part, or before each part in the larger sizes, and
//! DeBERTa, whose attention has terms for the distances of tokens.

use std::ops::Range;

use crate::{
    backend::cpu::{
        compute::Compute,
        encoders::{
            dense::{Dense, LayerNorm},
            relative_positions::{self, Distances, LayerDistances, PositionEmbeddings, TokenProjections},
            tensor_reader::{Kept, TensorReader},
        },
        kernels::{DenseAttention, Linear, Output, ScoreBias, add_bias, matmul},
    },
    model::{EncoderConfig, EncoderNorms, Positions, TensorError, spec::Pointwise},
};

struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    qkv_bias: Vec<f32>,
    attention_output: Dense,
    ffn_norm: LayerNorm,
    up: Dense,
    down: Dense,
    /// Where positions are relative.
    distances: Option<LayerDistances>,
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
    /// What is added to the embeddings of a sequence's tokens: a row for each position, `[positions, hidden]`, or the same row
    /// for all, `[hidden]`, or nothing. The embedding of the only token type is part of it.
    added: Vec<f32>,
    /// Where positions are relative.
    distances: Option<Distances>,
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
        let mut added = match config.positions {
            Positions::Absolute {
                embeddings: count, ..
            } => {
                let name = format!("{embeddings}.position_embeddings.weight");
                reader.values(&name, &[count, hidden])?
            }
            Positions::Relative(_) if config.token_types > 0 => vec![0.0; hidden],
            Positions::Relative(_) => Vec::new(),
        };
        if config.token_types > 0 {
            let name = format!("{embeddings}.token_type_embeddings.weight");
            let types = reader.values(&name, &[config.token_types, hidden])?;
            add_bias(&mut added, &types[..hidden]);
        }
        let relative = match &config.positions {
            Positions::Absolute { .. } => None,
            Positions::Relative(relative) => Some(relative),
        };
        let positions = relative.map(|relative| PositionEmbeddings::read(reader, config, relative, prefix));
        let positions = positions.transpose()?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let name = format!("{prefix}encoder.layer.{index}");
            layers.push(Layer::read(reader, config, &name, positions.as_ref())?);
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
            added,
            distances: relative.map(Distances::new),
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
            layer.run(compute, self, &spans, a);
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
        let first = match self.config.positions {
            Positions::Absolute { first, .. } => first,
            Positions::Relative(_) => 0,
        };
        let added = &self.added[first * width..];
        let mut spans = Vec::with_capacity(sequences.len());
        let mut start = 0;
        for tokens in sequences {
            let span = start..start + tokens.len();
            let rows = a.hidden[span.start * width..span.end * width].chunks_exact_mut(width);
            for (row, &token) in rows.zip(*tokens) {
                self.embedding.read_row(token as usize, row);
            }
            let rows = &mut a.hidden[span.start * width..span.end * width];
            match self.config.positions {
                // A row for each position.
                Positions::Absolute { .. } => rows
                    .iter_mut()
                    .zip(added)
                    .for_each(|(value, added)| *value += added),
                Positions::Relative(_) if added.is_empty() => {}
                Positions::Relative(_) => add_bias(rows, added),
            }
            start = span.end;
            spans.push(span);
        }
        spans
    }
}

impl Layer {
    /// Reads the layer whose tensors have names that begin with `layer`. `positions` are the embeddings of relative positions.
    fn read(
        reader: &mut TensorReader<'_>,
        config: &EncoderConfig,
        layer: &str,
        positions: Option<&PositionEmbeddings<'_>>,
    ) -> Result<Self, TensorError> {
        let hidden = config.hidden;
        let (attention_norm, ffn_norm) = match config.norms {
            EncoderNorms::Post => ("attention.output.LayerNorm", "output.LayerNorm"),
            EncoderNorms::Pre => ("attention.self_attn_layer_norm", "LayerNorm"),
        };
        let projections = match config.positions {
            Positions::Absolute { .. } => ["query", "key", "value"],
            Positions::Relative(_) => ["query_proj", "key_proj", "value_proj"],
        };
        let of_each = |part: &str| projections.map(|x| format!("{layer}.attention.self.{x}.{part}"));
        let weights = of_each("weight");
        let mut qkv_bias = Vec::new();
        for name in of_each("bias") {
            qkv_bias.extend(reader.values(&name, &[hidden])?);
        }
        let qkv = reader.matrices(&weights.each_ref().map(String::as_str), hidden, hidden)?;
        let tokens = TokenProjections {
            weights: &qkv,
            bias: &qkv_bias,
        };
        let attention = format!("{layer}.attention.self");
        let distances = positions.map(|positions| positions.project(reader, &attention, tokens));
        let distances = distances.transpose()?;
        Ok(Self {
            attention_norm: LayerNorm::read(reader, &format!("{layer}.{attention_norm}"), config)?,
            qkv,
            qkv_bias,
            distances,
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

    fn run(&self, compute: &mut Compute, encoder: &Encoder, spans: &[Range<usize>], a: &mut Activations) {
        let config = &encoder.config;
        let head_dim = config.hidden / config.heads;
        // Each term of the scores counts as one product.
        let terms = match config.positions {
            Positions::Absolute { .. } => 1,
            Positions::Relative(_) => 3,
        };
        let attention = DenseAttention {
            heads: config.heads,
            head_dim,
            scale: 1.0 / ((head_dim * terms) as f32).sqrt(),
        };
        let before = config.norms == EncoderNorms::Pre;
        a.norm_if(before, &self.attention_norm, compute);
        let input = if before { &a.normed } else { &a.hidden };
        a.qkv.resize(3 * a.hidden.len(), 0.0);
        a.attended.resize(a.hidden.len(), 0.0);
        matmul(compute, input, &self.qkv, &mut a.qkv, Output::Replace);
        add_bias(&mut a.qkv, &self.qkv_bias);
        let distances = self.distances.as_ref().zip(encoder.distances.as_ref());
        let bias = distances.map(|(of_layer, distances)| ScoreBias::Positions(of_layer.terms(distances)));
        attention.run(compute, &a.qkv, spans, bias, &mut a.attended);
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
    // Attention keeps the products of a head's keys with all distances, on each thread that has a head.
    let distances = match &config.positions {
        Positions::Absolute { .. } => 0,
        Positions::Relative(relative) => config.heads * relative_positions::columns(relative),
    };
    size_of::<f32>() * (6 * config.hidden + config.ffn + distances)
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
