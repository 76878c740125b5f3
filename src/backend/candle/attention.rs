//! Attention of a step's rows over the paged cache, sequence by sequence, in f32.

use candle_core::{D, Device, Tensor};

use super::{
    indices::indices,
    kv_cache::{BLOCK_TOKENS, CachedTokens, Gathered},
};
use crate::{
    backend::BatchSequence,
    model::spec::{AttentionLayer, AttentionShape},
};

/// Most scores that are in memory at a time, over all heads. Rows that have more attend in pieces.
pub(super) const MOST_SCORES: usize = 1 << 24;

/// Neighbouring rows of one sequence.
#[derive(Clone, Copy)]
pub(super) struct RowSpan<'a> {
    pub sequence: &'a BatchSequence,
    /// Index of the first row among the step's rows.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
}

/// Rows of one sequence that attend together.
pub(super) struct AttentionPiece {
    /// Index of the first row among the step's rows.
    first_row: usize,
    /// Number of rows.
    rows: usize,
    /// The tokens that any of the rows attends to.
    pub tokens: CachedTokens,
    /// Which of them each row attends to; `None` where all rows attend to all.
    visible: Option<Visible>,
}

/// Which tokens rows attend to: those up to their own position, and no more than a window.
struct Visible {
    /// Position of each row, `[rows, 1]`.
    rows: Tensor,
    /// Position of each token, `[1, tokens]`.
    tokens: Tensor,
    /// The first position that does not see the token any more, `[1, tokens]`; `None` without a window.
    ends: Option<Tensor>,
}

/// The pieces in which these rows attend in layers with this window, in the order of the rows.
pub(super) fn pieces_of(
    spans: &[RowSpan<'_>],
    window: Option<usize>,
    heads: usize,
    device: &Device,
) -> candle_core::Result<Vec<AttentionPiece>> {
    let mut pieces = Vec::with_capacity(spans.len());
    for span in spans {
        let most_rows = (MOST_SCORES / (heads * (span.position + span.rows))).max(1);
        for begin in (0..span.rows).step_by(most_rows) {
            let piece = RowSpan {
                first_row: span.first_row + begin,
                rows: most_rows.min(span.rows - begin),
                position: span.position + begin,
                ..*span
            };
            pieces.push(AttentionPiece::new(piece, window, device)?);
        }
    }
    Ok(pieces)
}

impl AttentionPiece {
    fn new(span: RowSpan<'_>, window: Option<usize>, device: &Device) -> candle_core::Result<Self> {
        let first = window.map_or(0, |window| (span.position + 1).saturating_sub(window));
        let end = span.position + span.rows;
        let blocks = first / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
        let Some(blocks) = span.sequence.block_table.get(blocks) else {
            candle_core::bail!("a sequence of {end} tokens has too few KV blocks");
        };
        let visible = match span.rows {
            1 => None,
            _ => Some(Visible::new(span.position..end, first..end, window, device)?),
        };
        Ok(Self {
            first_row: span.first_row,
            rows: span.rows,
            tokens: CachedTokens {
                blocks: Tensor::from_slice(blocks, blocks.len(), device)?,
                skipped: first % BLOCK_TOKENS,
                count: end - first,
            },
            visible,
        })
    }

    /// Attention of the piece's rows of `qkv` over the tokens that were read for it, `[rows, heads * head_dim]`.
    pub(super) fn attend(
        &self,
        layer: &AttentionLayer,
        qkv: &Tensor,
        cached: &Gathered,
    ) -> candle_core::Result<Tensor> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
        } = layer.shape;
        let (group, rows) = (heads / kv_heads, self.rows);
        // Query heads that share keys are rows of one product.
        let queries = qkv
            .narrow(0, self.first_row, rows)?
            .narrow(1, 0, heads * head_dim)?
            .reshape((rows, kv_heads, group, head_dim))?
            .permute((1, 2, 0, 3))?
            .contiguous()?
            .reshape((kv_heads, group * rows, head_dim))?;
        let scores = (queries.matmul(&cached.keys.t()?)? * f64::from(layer.scale))?;
        let scores = match layer.soft_cap {
            Some(cap) => soft_cap(&scores, cap)?,
            None => scores,
        };
        let scores = match &self.visible {
            Some(visible) => visible.hide_others(&scores.reshape((heads, rows, self.tokens.count))?)?,
            None => scores,
        };
        let numerators = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let shares = numerators.broadcast_div(&numerators.sum_keepdim(D::Minus1)?)?;
        let shares = shares.reshape((kv_heads, group * rows, self.tokens.count))?;
        shares
            .matmul(&cached.values)?
            .reshape((kv_heads, group, rows, head_dim))?
            .permute((2, 0, 1, 3))?
            .contiguous()?
            .reshape((rows, heads * head_dim))
    }
}

impl Visible {
    fn new(
        rows: std::ops::Range<usize>,
        tokens: std::ops::Range<usize>,
        window: Option<usize>,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let positions = |positions: Vec<usize>| indices(&positions, device);
        let end =
            |window: usize| positions(tokens.clone().map(|token| token.saturating_add(window)).collect());
        Ok(Self {
            rows: positions(rows.collect())?.unsqueeze(1)?,
            ends: window
                .map(end)
                .transpose()?
                .map(|ends| ends.unsqueeze(0))
                .transpose()?,
            tokens: positions(tokens.collect())?.unsqueeze(0)?,
        })
    }

    /// Negative infinity in place of the scores of tokens that a row does not attend to; scores are `[heads, rows, tokens]`.
    fn hide_others(&self, scores: &Tensor) -> candle_core::Result<Tensor> {
        let hide = |hidden: Tensor, scores: &Tensor| {
            let never = Tensor::new(f32::NEG_INFINITY, scores.device())?.broadcast_as(scores.shape())?;
            hidden.broadcast_as(scores.shape())?.where_cond(&never, scores)
        };
        let scores = hide(self.tokens.broadcast_gt(&self.rows)?, scores)?;
        match &self.ends {
            Some(ends) => hide(ends.broadcast_le(&self.rows)?, &scores),
            None => Ok(scores),
        }
    }
}

/// `cap * tanh(x / cap)`
pub(super) fn soft_cap(x: &Tensor, cap: f32) -> candle_core::Result<Tensor> {
    let cap = f64::from(cap);
    (x / cap)?.tanh()? * cap
}
