//! `config.json` of a MetricX folder, as `scripts/convert_metricx.py` writes it: mT5's, the version, and where wanted the
//! keys that begin with `metricx_`.

use serde::Deserialize;
use serde_json::Value;

use super::position::Buckets;

/// Heads are read in vectors of so many values.
const HEAD_STEP: usize = 16;

/// `<extra_id_10>` of mT5's vocabulary, whose logit is the score.
const SCORE_TOKEN: usize = 250_089;

/// Largest size that is believed.
const MOST: usize = 1 << 24;

/// Most tokens of an input: far more than any version was trained with, and few enough for a table of distances.
const MOST_TOKENS: usize = 1 << 16;

/// Which texts a checkpoint was trained to read. Its weights do not tell.
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
    /// Width of the stream.
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
    /// What `metricx_version` says; `None` when it says nothing that is known.
    pub(crate) fn of_config(json: &Value) -> Option<Self> {
        match json["metricx_version"].as_u64()? {
            23 => Some(Self::V23),
            24 => Some(Self::V24),
            _ => None,
        }
    }

    /// What an estimator reads for a source and its translation.
    pub(crate) fn text(self, source: &str, translation: &str) -> String {
        match self {
            Self::V23 => format!("candidate: {translation} source: {source}"),
            Self::V24 => format!("source: {source} candidate: {translation}"),
        }
    }

    /// Longest input that it was trained with, in tokens, with the end token that it does not read.
    fn trained_tokens(self) -> usize {
        match self {
            Self::V23 => 1024,
            Self::V24 => 1536,
        }
    }
}

impl MetricXConfig {
    /// Errors name the key.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let file = File::deserialize(json).map_err(|error| error.to_string())?;
        let version = Version::of_config(json).ok_or_else(|| match file.metricx_version {
            None => "metricx_version is missing: 23 for MetricX-23-QE, 24 for MetricX-24".to_owned(),
            Some(other) => format!("metricx_version is {other}; 23 and 24 are supported"),
        })?;
        if file.model_type != "mt5" {
            return Err(format!("model_type is `{}`; `mt5` is supported", file.model_type));
        }
        if file.feed_forward_proj != "gated-gelu" {
            return Err(format!(
                "feed_forward_proj is `{}`; `gated-gelu` is supported",
                file.feed_forward_proj
            ));
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
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
            return Err(format!("{name} is {size}; it has to be 1 to {MOST}"));
        }
        if !file.d_kv.is_multiple_of(HEAD_STEP) {
            return Err(format!(
                "d_kv is {}; it has to be a multiple of {HEAD_STEP}",
                file.d_kv
            ));
        }
        if !count.is_multiple_of(4) || max_distance <= count / 4 {
            return Err(format!(
                "relative_attention_num_buckets is {count} with relative_attention_max_distance {max_distance}: the \
                 first has to be a multiple of 4, and the second more than a quarter of it"
            ));
        }
        if !(file.layer_norm_epsilon.is_finite() && file.layer_norm_epsilon >= 0.0) {
            return Err("layer_norm_epsilon is not a positive number".to_owned());
        }
        let score_token = file.metricx_score_token_id.unwrap_or(SCORE_TOKEN);
        if score_token >= file.vocab_size {
            return Err(format!(
                "vocab_size is {}, but the score is the logit of token {score_token} (metricx_score_token_id, or \
                 {SCORE_TOKEN} without it)",
                file.vocab_size
            ));
        }
        let tokens = file.metricx_max_input_tokens.unwrap_or(version.trained_tokens());
        if !(2..=MOST_TOKENS).contains(&tokens) {
            return Err(format!(
                "metricx_max_input_tokens is {tokens}; it has to be 2 to {MOST_TOKENS}"
            ));
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
            ("vocab_size", json!(32_128), "vocab_size is 32128, but the score"),
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
            assert!(error.starts_with(expected), "{key}: {error}");
        }
    }
}
