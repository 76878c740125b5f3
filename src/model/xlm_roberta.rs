//! The configuration of an XLM-R encoder (arXiv 1911.02116), by transformers' keys.

use serde::Deserialize;

use super::error::{KeyError, KeyProblem};

/// Attention reads heads in vectors of so many values, so a head's size has to be a multiple of it.
const HEAD_STEP: usize = 16;

/// An XLM-R encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncoderConfig {
    pub norms: EncoderNorms,
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
    pub positions: usize,
    /// Position of a sequence's first token. The positions before it are those of padding.
    pub first_position: usize,
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

/// The keys of an encoder in a `config.json`, under transformers' names.
#[derive(Deserialize)]
pub(super) struct EncoderFile {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    pad_token_id: usize,
    layer_norm_eps: f32,
    #[serde(default = "one")]
    type_vocab_size: usize,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

fn one() -> usize {
    1
}

impl EncoderFile {
    /// # Errors
    /// When no encoder can be made of it; names the key, with `before` in front of it.
    pub(super) fn checked(self, before: &str) -> Result<EncoderConfig, KeyError> {
        let error = |key: &str, problem: KeyProblem| problem.of(format!("{before}{key}"));
        let norms = match self.model_type.as_str() {
            "xlm-roberta" => EncoderNorms::Post,
            "xlm-roberta-xl" => EncoderNorms::Pre,
            other => {
                let problem = KeyProblem::unsupported_text(other, ["xlm-roberta", "xlm-roberta-xl"]);
                return Err(error("model_type", problem));
            }
        };
        if self.hidden_act != "gelu" {
            let problem = KeyProblem::unsupported_text(&self.hidden_act, ["gelu"]);
            return Err(error("hidden_act", problem));
        }
        if let Some(kind) = self.position_embedding_type.filter(|kind| kind != "absolute") {
            let problem = KeyProblem::unsupported_text(&kind, ["absolute"]);
            return Err(error("position_embedding_type", problem));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(error(name, KeyProblem::breaks(0, "be at least 1")));
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(HEAD_STEP) {
            let found = format!("{hidden} with {heads} heads");
            let rule = format!("give each head a multiple of {HEAD_STEP} dimensions");
            return Err(error("hidden_size", KeyProblem::breaks(found, rule)));
        }
        let first_position = self.pad_token_id.saturating_add(1);
        if self.max_position_embeddings <= first_position {
            let rule = format!(
                "be more than {first_position}, for positions up to pad_token_id, {}, are those of padding",
                self.pad_token_id
            );
            let problem = KeyProblem::breaks(self.max_position_embeddings, rule);
            return Err(error("max_position_embeddings", problem));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            let problem = KeyProblem::breaks(self.layer_norm_eps, "be finite and not negative");
            return Err(error("layer_norm_eps", problem));
        }
        Ok(EncoderConfig {
            norms,
            vocab: self.vocab_size,
            hidden,
            layers: self.num_hidden_layers,
            heads,
            ffn: self.intermediate_size,
            positions: self.max_position_embeddings,
            first_position,
            token_types: self.type_vocab_size,
            eps: self.layer_norm_eps,
        })
    }
}

impl EncoderConfig {
    /// Longest sequence, in tokens.
    pub(crate) fn window(&self) -> usize {
        self.positions - self.first_position
    }
}
