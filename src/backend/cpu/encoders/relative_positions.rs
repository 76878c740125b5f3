//! DeBERTa's relative positions (arXiv 2006.03654, section 3.1): the embedding of each distance, projected to a key and a query
//! in each layer. They are the same for every text, so they are projected once, when the weights are read.

use crate::{
    backend::cpu::{
        encoders::{
            dense::{Dense, LayerNorm},
            tensor_reader::TensorReader,
        },
        kernels::{Linear, Output, PositionTerms, add_bias, matmul},
    },
    model::{EncoderConfig, PositionProjections, RelativePositions, TensorError},
};

/// Attention reads the keys and queries of distances in vectors of so many.
const COLUMN_STEP: usize = 16;

/// Keys, or queries, of distances in memory: twice the span, up to whole vectors.
pub(super) fn columns(relative: &RelativePositions) -> usize {
    (2 * relative.span()).next_multiple_of(COLUMN_STEP)
}

/// Bytes of the keys and queries of the distances in all layers.
pub(super) fn derived_bytes(config: &EncoderConfig, relative: &RelativePositions) -> u64 {
    let each = (2 * size_of::<f32>() * columns(relative)) as u64;
    each.saturating_mul(config.hidden as u64)
        .saturating_mul(config.layers as u64)
}

/// Whether the keys and queries of distances are computed of this tensor, which is not kept then. The tensor's name is without what
/// the names of the encoder's tensors begin with.
pub(super) fn is_source(tensor: &str) -> bool {
    let of_all = ["encoder.rel_embeddings.", "encoder.LayerNorm."];
    let of_layers = [".pos_key_proj.", ".pos_query_proj."];
    of_all.iter().any(|name| tensor.starts_with(name)) || of_layers.iter().any(|name| tensor.contains(name))
}

/// Which key and query each distance has.
pub(super) struct Distances {
    /// The column of each distance from a token that attends to another, from `1 - reach` to `reach - 1`.
    column_of: Vec<usize>,
    /// Longest sequence, in tokens.
    reach: usize,
    columns: usize,
}

impl Distances {
    pub(super) fn new(relative: &RelativePositions) -> Self {
        let reach = relative.window;
        let most = isize::try_from(reach).unwrap_or(isize::MAX);
        // The embeddings are by the distance from the other token to the one that attends.
        let column_of = (1 - most..most).map(|distance| relative.embedding(-distance));
        Self {
            column_of: column_of.collect(),
            reach,
            columns: columns(relative),
        }
    }
}

/// The keys and queries of distances in a layer.
pub(super) struct LayerDistances {
    /// `[hidden, columns]`.
    keys: Vec<f32>,
    /// `[hidden, columns]`.
    queries: Vec<f32>,
}

impl LayerDistances {
    /// What attention adds to scores.
    pub(super) fn terms<'a>(&'a self, distances: &'a Distances) -> PositionTerms<'a> {
        PositionTerms {
            keys: &self.keys,
            queries: &self.queries,
            columns: distances.columns,
            column_of: &distances.column_of,
            reach: distances.reach,
        }
    }
}

/// What projects the rows of tokens to queries, keys and values side by side.
#[derive(Clone, Copy)]
pub(super) struct TokenProjections<'a> {
    pub weights: &'a Linear,
    pub bias: &'a [f32],
}

/// The embeddings of relative positions while an encoder is read.
pub(super) struct PositionEmbeddings<'a> {
    config: &'a EncoderConfig,
    relative: &'a RelativePositions,
    /// `[2 * span, hidden]`.
    rows: Vec<f32>,
}

impl<'a> PositionEmbeddings<'a> {
    /// Reads the embeddings of the encoder whose tensors have names that begin with `prefix`.
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        config: &'a EncoderConfig,
        relative: &'a RelativePositions,
        prefix: &str,
    ) -> Result<Self, TensorError> {
        let name = format!("{prefix}encoder.rel_embeddings.weight");
        let mut rows = reader.values(&name, &[2 * relative.span(), config.hidden])?;
        let mut dropped = size_of_val(&rows[..]);
        if relative.normed {
            let norm = LayerNorm::read(reader, &format!("{prefix}encoder.LayerNorm"), config)?;
            dropped += 2 * size_of::<f32>() * config.hidden;
            let mut normed = Vec::new();
            norm.apply(reader.compute(), &rows, &mut normed);
            rows = normed;
        }
        reader.replace(dropped as u64, 0);
        Ok(Self {
            config,
            relative,
            rows,
        })
    }

    /// Projects them in the layer whose attention has tensors with names that begin with `attention`.
    pub(super) fn project(
        &self,
        reader: &mut TensorReader<'_>,
        attention: &str,
        tokens: TokenProjections<'_>,
    ) -> Result<LayerDistances, TensorError> {
        let hidden = self.config.hidden;
        let (projected, dropped) = match self.relative.projections {
            PositionProjections::Shared => {
                let mut qkv = vec![0.0; 3 * self.rows.len()];
                matmul(
                    reader.compute(),
                    &self.rows,
                    tokens.weights,
                    &mut qkv,
                    Output::Replace,
                );
                add_bias(&mut qkv, tokens.bias);
                let part = |which| self.by_dimension(&qkv, 3 * hidden, which * hidden);
                ((part(0), part(1)), 0)
            }
            PositionProjections::Own => {
                let mut dropped = 0;
                let mut projected = |name: &str| {
                    let dense = Dense::read(reader, &format!("{attention}.{name}"), hidden, hidden)?;
                    let mut out = Vec::new();
                    dense.apply(reader.compute(), &self.rows, &mut out, Output::Replace);
                    dropped += dense.bytes();
                    Ok::<_, TensorError>(self.by_dimension(&out, hidden, 0))
                };
                (
                    (projected("pos_query_proj")?, projected("pos_key_proj")?),
                    dropped,
                )
            }
        };
        let (queries, keys) = projected;
        reader.replace(
            dropped,
            (size_of_val(&queries[..]) + size_of_val(&keys[..])) as u64,
        );
        Ok(LayerDistances { keys, queries })
    }

    /// Of rows that are `stride` apart, the elements from `first` on as `[hidden, columns]`.
    fn by_dimension(&self, rows: &[f32], stride: usize, first: usize) -> Vec<f32> {
        let columns = columns(self.relative);
        let mut out = vec![0.0; self.config.hidden * columns];
        for (column, row) in rows.chunks_exact(stride).enumerate() {
            let row = &row[first..first + self.config.hidden];
            for (values, value) in out.chunks_exact_mut(columns).zip(row) {
                values[column] = *value;
            }
        }
        out
    }
}
