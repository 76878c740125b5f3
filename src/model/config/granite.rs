//! Granite's four multipliers, in the terms of a [`ModelConfig`].

use crate::model::{error::ConfigError, spec::ModelConfig};

/// What Granite multiplies with, as its files say it. All are finite and above 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multipliers {
    /// Factor on the embeddings of tokens.
    pub embedding: f64,
    /// Factor on what attention and the feed-forward part add to the residual stream.
    pub residual: f64,
    /// Factor on the products of queries and keys, in place of `1 / sqrt(head_dim)`.
    pub attention: f64,
    /// What logits are divided by.
    pub logits_divisor: f64,
}

impl Multipliers {
    /// Puts them into a configuration, whose epsilon is still that of the file.
    ///
    /// No operation multiplies with the residual factor `r`. A residual stream that is `r` times smaller needs none:
    /// `h + r * f(norm(h))` is `r * (h / r + f(norm(h)))`, and every reader of the stream is an RMS norm, for which
    /// `norm(h)` with `eps` is `norm(h / r)` with `eps / r²`. So the embeddings and the epsilon of all norms are divided
    /// instead, and layers stay what they are in Llama.
    pub(super) fn set(self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        for (name, found) in [
            ("embedding multiplier", self.embedding),
            ("residual multiplier", self.residual),
            ("attention multiplier", self.attention),
            ("logits scaling", self.logits_divisor),
        ] {
            if !(found.is_finite() && found > 0.0) {
                return Err(ConfigError::Number {
                    name,
                    found: found as f32,
                    expected: "finite and above 0",
                });
            }
        }
        config.embedding_scale = (self.embedding / self.residual) as f32;
        config.norm_eps = (f64::from(config.norm_eps) / self.residual.powi(2)) as f32;
        config.attention_scale = self.attention as f32;
        config.logit_scale = (1.0 / self.logits_divisor) as f32;
        Ok(())
    }
}
