//! What encoders with BERT's layers have in common, whichever keys their files describe them by.

use super::error::{KeyError, KeyProblem};

/// Attention reads heads in vectors of so many values, so a head's size has to be a multiple of it.
const HEAD_STEP: usize = 16;

/// An encoder with BERT's layers: XLM-R and RoBERTa, and DeBERTa, whose attention is another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncoderConfig {
    pub norms: EncoderNorms,
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
    pub positions: Positions,
    /// Kinds of tokens that have an embedding of their own, of which only the first is used. 0 where there are none.
    pub token_types: usize,
    pub eps: f32,
}

/// Where an encoder's layers have their norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncoderNorms {
    /// After each part has joined the stream: XLM-R base and large (arXiv 1911.02116).
    Post,
    /// Before each part, and one at the end: XLM-R XL and XXL (arXiv 2105.00572).
    Pre,
}

/// How an encoder knows where a token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Positions {
    /// Each position has an embedding, which is added to the token's.
    Absolute {
        /// Number of embeddings.
        embeddings: usize,
        /// Position of a sequence's first token. The positions before it are those of padding.
        first: usize,
    },
    /// The distance between two tokens is part of how they attend to each other.
    Relative(RelativePositions),
}

/// DeBERTa's relative positions (arXiv 2006.03654, section 3.1), which are put into buckets in its later versions
/// (arXiv 2111.09543).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelativePositions {
    /// Longest sequence, in tokens.
    pub window: usize,
    /// The distance from which on all are treated alike.
    pub range: usize,
    /// Distances up to half of so many have an embedding each; larger ones share embeddings, by their logarithms.
    pub buckets: Option<usize>,
    pub projections: PositionProjections,
    /// Whether the embeddings of positions are normed before they are projected.
    pub normed: bool,
}

/// What projects the embeddings of positions to queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PositionProjections {
    /// What projects the tokens' rows.
    Shared,
    /// Matrices of their own in each layer.
    Own,
}

impl RelativePositions {
    /// Number of embeddings on either side: there are twice as many.
    pub(crate) fn span(&self) -> usize {
        self.buckets.unwrap_or(self.range)
    }

    /// Index of the embedding for a distance, which is the place of the attending token minus that of the other.
    pub(crate) fn embedding(&self, distance: isize) -> usize {
        let span = isize::try_from(self.span()).unwrap_or(isize::MAX);
        let place = match self.buckets {
            Some(buckets) => bucket(distance, buckets, self.range),
            None => distance,
        };
        place.saturating_add(span).clamp(0, 2 * span - 1).unsigned_abs()
    }
}

/// The bucket of a distance, with its sign. Computed in f32, as transformers does, because the result is rounded up.
fn bucket(distance: isize, buckets: usize, range: usize) -> isize {
    let middle = buckets / 2;
    if distance.unsigned_abs() <= middle {
        return distance;
    }
    let ratio = |value: usize| (value as f32 / middle as f32).ln();
    let part = ratio(distance.unsigned_abs()) / ratio(range - 1);
    let steps = (part * (middle as f32 - 1.0)).ceil() as isize;
    (steps + middle as isize) * distance.signum()
}

impl EncoderConfig {
    /// Longest sequence, in tokens.
    pub(crate) fn window(&self) -> usize {
        match &self.positions {
            Positions::Absolute { embeddings, first } => embeddings - first,
            Positions::Relative(relative) => relative.window,
        }
    }

    /// Checks what is true of every encoder.
    ///
    /// # Errors
    /// Names the key of transformers whose value makes no encoder.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let sizes = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("intermediate_size", self.ffn),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(KeyProblem::breaks(0, "be at least 1").of(*name));
        }
        let (hidden, heads) = (self.hidden, self.heads);
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(HEAD_STEP) {
            let found = format!("{hidden} with {heads} heads");
            let rule = format!("give each head a multiple of {HEAD_STEP} dimensions");
            return Err(KeyProblem::breaks(found, rule).of("hidden_size"));
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            let problem = KeyProblem::breaks(self.eps, "be finite and not negative");
            return Err(problem.of("layer_norm_eps"));
        }
        Ok(())
    }
}
