//! `config.json` of a MetricX folder, as `scripts/convert_metricx.py` writes it: mT5's keys, and those of MetricX, which
//! begin with `metricx_`.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::position::Buckets;
use crate::model::error::{ConfigError, KeyProblem};

/// Attention reads heads in vectors of so many values, so a head's size has to be a multiple of it.
const HEAD_STEP: usize = 16;

/// Id of `<extra_id_10>` in mT5's vocabulary. Its logit is the score, unless the file names another token.
const SCORE_TOKEN: usize = 250_089;

/// The largest size that is believed: beyond it a file is damaged or hostile, not large.
const MAX_SIZE: usize = 1 << 24;

/// Longest input that is believed, in tokens: far longer than any version was trained with, and short enough for a table
/// of all distances between two tokens.
const MAX_TOKENS: usize = 1 << 16;

/// Version of MetricX, which says what texts a checkpoint was trained to read. Its weights do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MetricX-23-QE: the translation, then the source.
    V23,
    /// MetricX-24: the source, then the translation.
    V24,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MetricXConfig {
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    pub buckets: Buckets,
    pub eps: f32,
    /// Whether the decoder's output is scaled before the last product, as in models whose output projection is the
    /// embedding.
    pub rescaled: bool,
    /// The token whose logit is the score.
    pub score_token: usize,
    /// Longest sequence, in tokens.
    pub window: usize,
}

#[derive(Deserialize)]
struct File {
    model_type: String,
    metricx_version: Option<u64>,
    metricx_score_token_id: Option<usize>,
    metricx_max_input_tokens: Option<usize>,
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_heads: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    #[serde(default = "num_buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    relative_attention_max_distance: usize,
    #[serde(default = "eps")]
    layer_norm_epsilon: f32,
    #[serde(default = "gated_gelu")]
    feed_forward_proj: String,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn num_buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn eps() -> f32 {
    1e-6
}

fn gated_gelu() -> String {
    "gated-gelu".to_owned()
}

impl Version {
    /// The version that `metricx_version` names; `None` when it names none that is known.
    pub(crate) fn of_config(json: &Value) -> Option<Self> {
        match json["metricx_version"].as_u64()? {
            23 => Some(Self::V23),
            24 => Some(Self::V24),
            _ => None,
        }
    }

    /// The text that an estimator of this version reads for a source and its translation.
    pub(crate) fn text(self, source: &str, translation: &str) -> String {
        match self {
            Self::V23 => format!("candidate: {translation} source: {source}"),
            Self::V24 => format!("source: {source} candidate: {translation}"),
        }
    }

    /// Longest input that the version was trained with, in tokens. It counts the end token, which is not read.
    fn trained_tokens(self) -> usize {
        match self {
            Self::V23 => 1024,
            Self::V24 => 1536,
        }
    }
}

impl MetricXConfig {
    /// # Errors
    /// When no model can be made of it; names the key.
    pub(crate) fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let error = |key: &str, problem: KeyProblem| Err(problem.of(key).into());
        let breaks =
            |key: &str, found: &dyn fmt::Display, rule: String| error(key, KeyProblem::breaks(found, rule));
        let file = File::deserialize(json).map_err(ConfigError::Form)?;
        let version = Version::of_config(json).ok_or_else(|| {
            let problem = match file.metricx_version {
                None => KeyProblem::MissingFor {
                    reason: "23 for MetricX-23-QE, 24 for MetricX-24".to_owned(),
                },
                Some(other) => KeyProblem::Unsupported {
                    found: other.to_string(),
                    supported: ["23", "24"].map(str::to_owned).to_vec(),
                },
            };
            problem.of("metricx_version")
        })?;
        for (key, found, supported) in [
            ("model_type", &file.model_type, "mt5"),
            ("feed_forward_proj", &file.feed_forward_proj, "gated-gelu"),
        ] {
            if found != supported {
                return error(key, KeyProblem::unsupported_text(found, [supported]));
            }
        }
        let decoder_layers = file.num_decoder_layers.unwrap_or(file.num_layers);
        let (count, max_distance) = (
            file.relative_attention_num_buckets,
            file.relative_attention_max_distance,
        );
        let sizes = [
            ("vocab_size", file.vocab_size),
            ("d_model", file.d_model),
            ("d_kv", file.d_kv),
            ("d_ff", file.d_ff),
            ("num_heads", file.num_heads),
            ("num_layers", file.num_layers),
            ("num_decoder_layers", decoder_layers),
            ("relative_attention_num_buckets", count),
            ("relative_attention_max_distance", max_distance),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
            return breaks(name, size, format!("be from 1 to {MAX_SIZE}"));
        }
        if !file.d_kv.is_multiple_of(HEAD_STEP) {
            return breaks("d_kv", &file.d_kv, format!("be a multiple of {HEAD_STEP}"));
        }
        if !count.is_multiple_of(4) || max_distance <= count / 4 {
            let found = format!("{count} with relative_attention_max_distance {max_distance}");
            let rule = "be a multiple of 4, and the distance more than a quarter of it";
            return breaks("relative_attention_num_buckets", &found, rule.to_owned());
        }
        if !(file.layer_norm_epsilon.is_finite() && file.layer_norm_epsilon >= 0.0) {
            let rule = "be finite and not negative".to_owned();
            return breaks("layer_norm_epsilon", &file.layer_norm_epsilon, rule);
        }
        let score_token = file.metricx_score_token_id.unwrap_or(SCORE_TOKEN);
        if score_token >= file.vocab_size {
            let rule = format!(
                "be more than {score_token}, the token whose logit is the score (metricx_score_token_id, or \
                 {SCORE_TOKEN} without it)"
            );
            return breaks("vocab_size", &file.vocab_size, rule);
        }
        let tokens = file.metricx_max_input_tokens.unwrap_or(version.trained_tokens());
        if !(2..=MAX_TOKENS).contains(&tokens) {
            let rule = format!("be from 2 to {MAX_TOKENS}");
            return breaks("metricx_max_input_tokens", &tokens, rule);
        }
        Ok(Self {
            vocab: file.vocab_size,
            hidden: file.d_model,
            ffn: file.d_ff,
            heads: file.num_heads,
            head_dim: file.d_kv,
            encoder_layers: file.num_layers,
            decoder_layers,
            buckets: Buckets { count, max_distance },
            eps: file.layer_norm_epsilon,
            rescaled: file.tie_word_embeddings,
            score_token,
            window: tokens - 1,
        })
    }

    /// Width of all heads together.
    pub(crate) fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> Value {
        json!({
            "model_type": "mt5", "metricx_version": 24, "vocab_size": 250112, "d_model": 1024, "d_kv": 64, "d_ff": 2816,
            "num_heads": 16, "num_layers": 24, "tie_word_embeddings": false
        })
    }

    #[test]
    fn a_published_configuration_needs_its_version_only() {
        let config = MetricXConfig::from_json(&sound()).unwrap();
        assert_eq!((config.score_token, config.window), (250_089, 1535));
        assert_eq!(
            (config.decoder_layers, config.rescaled, config.eps),
            (24, false, 1e-6)
        );
        let mut older = sound();
        older["metricx_version"] = 23.into();
        assert_eq!(MetricXConfig::from_json(&older).unwrap().window, 1023);
        older["metricx_max_input_tokens"] = 300.into();
        assert_eq!(MetricXConfig::from_json(&older).unwrap().window, 299);
    }

    #[test]
    fn texts_are_those_of_the_version() {
        assert_eq!(
            Version::V23.text("Hello", "Hallo"),
            "candidate: Hallo source: Hello"
        );
        assert_eq!(
            Version::V24.text("Hello", "Hallo"),
            "source: Hello candidate: Hallo"
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let values = [
            ("model_type", json!("t5"), "model_type is `t5`"),
            ("metricx_version", Value::Null, "metricx_version is missing"),
            ("metricx_version", json!(22), "metricx_version is 22"),
            ("metricx_score_token_id", json!(250_112), "vocab_size is 250112"),
            (
                "metricx_max_input_tokens",
                json!(1),
                "metricx_max_input_tokens is 1",
            ),
            (
                "metricx_max_input_tokens",
                json!(1u64 << 40),
                "metricx_max_input_tokens",
            ),
            (
                "vocab_size",
                json!(32_128),
                "vocab_size is 32128; it has to be more than 250089",
            ),
            ("feed_forward_proj", json!("relu"), "feed_forward_proj is `relu`"),
            ("num_decoder_layers", json!(0), "num_decoder_layers is 0"),
            ("d_kv", json!(20), "d_kv is 20"),
            ("d_kv", json!(0), "d_kv is 0"),
            (
                "relative_attention_num_buckets",
                json!(10),
                "relative_attention_num_buckets is 10",
            ),
            (
                "relative_attention_max_distance",
                json!(8),
                "relative_attention_num_buckets is 32",
            ),
            ("layer_norm_epsilon", json!(-1.0), "layer_norm_epsilon"),
            ("d_model", json!("wide"), "invalid type"),
        ];
        for (key, value, expected) in values {
            let mut json = sound();
            json[key] = value;
            let error = MetricXConfig::from_json(&json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{key}: {error}");
        }
    }
}
