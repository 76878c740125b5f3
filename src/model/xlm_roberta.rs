//! The configuration of an XLM-R or RoBERTa encoder (arXiv 1911.02116, 1907.11692), by transformers' keys.

use serde::Deserialize;

use super::{
    encoder_config::{EncoderConfig, EncoderNorms, Positions},
    error::{KeyError, KeyProblem},
};

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
    /// When no encoder can be made of it, or its `model_type` is none of `known`; names the key, with `before` in front of it.
    pub(super) fn checked(self, before: &str, known: &[&str]) -> Result<EncoderConfig, KeyError> {
        let error = |key: &str, problem: KeyProblem| problem.of(format!("{before}{key}"));
        if !known.contains(&self.model_type.as_str()) {
            let problem = KeyProblem::unsupported_text(&self.model_type, known.iter().copied());
            return Err(error("model_type", problem));
        }
        let norms = match self.model_type.as_str() {
            "xlm-roberta-xl" => EncoderNorms::Pre,
            _ => EncoderNorms::Post,
        };
        if self.hidden_act != "gelu" {
            let problem = KeyProblem::unsupported_text(&self.hidden_act, ["gelu"]);
            return Err(error("hidden_act", problem));
        }
        if let Some(kind) = self.position_embedding_type.filter(|kind| kind != "absolute") {
            let problem = KeyProblem::unsupported_text(&kind, ["absolute"]);
            return Err(error("position_embedding_type", problem));
        }
        if self.type_vocab_size == 0 {
            return Err(error("type_vocab_size", KeyProblem::breaks(0, "be at least 1")));
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
        let config = EncoderConfig {
            norms,
            vocab: self.vocab_size,
            hidden: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            ffn: self.intermediate_size,
            positions: Positions::Absolute {
                embeddings: self.max_position_embeddings,
                first: first_position,
            },
            token_types: self.type_vocab_size,
            eps: self.layer_norm_eps,
        };
        config
            .check()
            .map_err(|problem| error(&problem.key, problem.problem))?;
        Ok(config)
    }
}
