//! What a checkpoint says about its shape: from GGUF metadata or a Hugging Face `config.json`.

use std::f64::consts::PI;

use serde_json::Value as Json;

use crate::{
    gguf::Gguf,
    kernels::{AttentionShape, RopeStyle},
};

/// Shape of a decoder of the Llama family.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// For example `llama`.
    pub architecture: String,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub ffn_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_eps: f32,
    /// Longest sequence it was made for.
    pub context_length: usize,
    /// Rotary frequencies, `head_dim / 2`, scaling applied.
    pub rope_frequencies: Vec<f32>,
    /// How dimensions are paired.
    pub rope_style: RopeStyle,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
}

/// Limits on shapes: beyond them a file is damaged or hostile, not large.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

impl ModelConfig {
    /// Sizes of the attention.
    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }

    /// From a GGUF file's metadata.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, String> {
        let architecture = gguf
            .get_str("general.architecture")
            .ok_or("general.architecture is missing")?;
        if architecture != "llama" {
            return Err(format!(
                "general.architecture is `{architecture}`; `llama` is supported"
            ));
        }
        let key = |name: &str| format!("{architecture}.{name}");
        let required = |name: &str| {
            let value = gguf.get_u64(&key(name)).and_then(|v| usize::try_from(v).ok());
            value.ok_or_else(|| format!("{} is missing or not a number", key(name)))
        };
        let hidden_size = required("embedding_length")?;
        let heads = required("attention.head_count")?;
        let optional = |name: &str, default: usize| {
            gguf.get_u64(&key(name))
                .and_then(|v| usize::try_from(v).ok())
                .unwrap_or(default)
        };
        let head_dim = optional(
            "attention.key_length",
            hidden_size.checked_div(heads).unwrap_or(0),
        );
        let rope_dims = optional("rope.dimension_count", head_dim);
        if rope_dims != head_dim {
            return Err(format!(
                "{} is {rope_dims}, not the head size {head_dim}",
                key("rope.dimension_count")
            ));
        }
        let embedding = gguf
            .tensor("token_embd.weight")
            .ok_or("tensor `token_embd.weight` is missing")?;
        let theta = gguf.get_f64(&key("rope.freq_base")).unwrap_or(10_000.0);
        let mut frequencies = base_frequencies(theta, head_dim);
        match gguf.get_str(&key("rope.scaling.type")) {
            None | Some("none") => {}
            Some("linear") => {
                let factor = gguf.get_f64(&key("rope.scaling.factor")).unwrap_or(1.0);
                frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            // Long-context variants of Llama 3 carry their factors in a tensor instead; see the loader.
            Some(other) => {
                return Err(format!(
                    "{} is `{other}`; none and linear are supported",
                    key("rope.scaling.type")
                ));
            }
        }
        let config = Self {
            architecture: architecture.to_owned(),
            vocab_size: embedding.dimensions.get(1).copied().unwrap_or(0),
            hidden_size,
            ffn_size: required("feed_forward_length")?,
            layers: required("block_count")?,
            heads,
            kv_heads: optional("attention.head_count_kv", heads),
            head_dim,
            rms_eps: gguf
                .get_f64(&key("attention.layer_norm_rms_epsilon"))
                .ok_or_else(|| format!("{} is missing", key("attention.layer_norm_rms_epsilon")))?
                as f32,
            context_length: required("context_length")?,
            rope_frequencies: to_f32(&frequencies),
            rope_style: RopeStyle::Interleaved,
            tied_embeddings: gguf.tensor("output.weight").is_none(),
        };
        config.validated()
    }

    /// From a Hugging Face `config.json`.
    pub fn from_json(json: &Json) -> Result<Self, String> {
        let model_type = json["model_type"].as_str().ok_or("model_type is missing")?;
        if model_type != "llama" {
            return Err(format!("model_type is `{model_type}`; `llama` is supported"));
        }
        for (key, wanted) in [("hidden_act", "silu")] {
            if json[key].as_str().is_some_and(|v| v != wanted) {
                return Err(format!("{key} is {}; `{wanted}` is supported", json[key]));
            }
        }
        for key in ["attention_bias", "mlp_bias"] {
            if json[key].as_bool() == Some(true) {
                return Err(format!("{key} is true, which is not supported"));
            }
        }
        let required = |name: &str| {
            let value = json[name].as_u64().and_then(|v| usize::try_from(v).ok());
            value.ok_or_else(|| format!("{name} is missing or not a number"))
        };
        let optional = |name: &str, default: usize| {
            json[name]
                .as_u64()
                .and_then(|v| usize::try_from(v).ok())
                .unwrap_or(default)
        };
        let (hidden_size, heads) = (required("hidden_size")?, required("num_attention_heads")?);
        let head_dim = optional("head_dim", hidden_size.checked_div(heads).unwrap_or(0));
        let config = Self {
            architecture: model_type.to_owned(),
            vocab_size: required("vocab_size")?,
            hidden_size,
            ffn_size: required("intermediate_size")?,
            layers: required("num_hidden_layers")?,
            heads,
            kv_heads: optional("num_key_value_heads", heads),
            head_dim,
            rms_eps: json["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
            context_length: required("max_position_embeddings")?,
            rope_frequencies: to_f32(&json_frequencies(json, head_dim)?),
            rope_style: RopeStyle::Halves,
            tied_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
        };
        config.validated()
    }

    fn validated(self) -> Result<Self, String> {
        let sizes = [
            ("vocabulary", self.vocab_size),
            ("hidden size", self.hidden_size),
            ("feed-forward size", self.ffn_size),
            ("layer count", self.layers),
            ("head count", self.heads),
            ("kv head count", self.kv_heads),
            ("head size", self.head_dim),
            ("context length", self.context_length),
        ];
        for (name, size) in sizes {
            if size == 0 || size > MAX_DIMENSION {
                return Err(format!("the {name} is {size}"));
            }
        }
        if self.layers > MAX_LAYERS {
            return Err(format!("the layer count is {}", self.layers));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads cannot share {} kv heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(16) {
            return Err(format!(
                "a head size of {} is not supported (multiples of 16 are)",
                self.head_dim
            ));
        }
        if !self.rms_eps.is_finite() || self.rms_eps < 0.0 {
            return Err(format!("the norm's epsilon is {}", self.rms_eps));
        }
        if !self.rope_frequencies.iter().all(|f| f.is_finite()) {
            return Err("the rotary base or scaling gives frequencies that are not finite".into());
        }
        Ok(self)
    }
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// `theta^(-2i / d)` for each pair.
fn base_frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|i| theta.powf(-((2 * i) as f64) / head_dim as f64))
        .collect()
}

/// Frequencies from `rope_theta` and `rope_scaling`, or from `rope_parameters` as newer files have it.
fn json_frequencies(json: &Json, head_dim: usize) -> Result<Vec<f64>, String> {
    let parameters = if json["rope_parameters"].is_object() {
        &json["rope_parameters"]
    } else {
        &json["rope_scaling"]
    };
    let theta = parameters["rope_theta"]
        .as_f64()
        .or(json["rope_theta"].as_f64())
        .unwrap_or(10_000.0);
    let mut frequencies = base_frequencies(theta, head_dim);
    let kind = parameters["rope_type"]
        .as_str()
        .or(parameters["type"].as_str())
        .unwrap_or("default");
    let number = |name: &str| {
        parameters[name]
            .as_f64()
            .ok_or_else(|| format!("rope scaling `{kind}` lacks {name}"))
    };
    match kind {
        "default" => {}
        "linear" => {
            let factor = number("factor")?;
            frequencies.iter_mut().for_each(|f| *f /= factor);
        }
        "llama3" => {
            let scaling = Llama3Scaling {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")?,
            };
            frequencies.iter_mut().for_each(|f| *f = scaling.apply(*f));
        }
        other => {
            return Err(format!(
                "rope scaling `{other}` is not supported (default, linear and llama3 are)"
            ));
        }
    }
    Ok(frequencies)
}

/// Llama 3.1's frequency scaling: long wavelengths are stretched, short ones kept, those between blended.
struct Llama3Scaling {
    factor: f64,
    low: f64,
    high: f64,
    original_context: f64,
}

impl Llama3Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength < self.original_context / self.high {
            frequency
        } else if wavelength > self.original_context / self.low {
            frequency / self.factor
        } else {
            let smooth = (self.original_context / wavelength - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn base() -> Json {
        json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        })
    }

    #[test]
    fn reads_old_and_new_rope_keys_alike() {
        let mut old = base();
        old["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let mut new = base();
        new["rope_parameters"] = old["rope_scaling"].clone();
        new["rope_parameters"]["rope_theta"] = json!(10000.0);
        let (old, new) = (
            ModelConfig::from_json(&old).unwrap(),
            ModelConfig::from_json(&new).unwrap(),
        );
        assert_eq!(old, new);
        assert_ne!(
            old.rope_frequencies,
            ModelConfig::from_json(&base()).unwrap().rope_frequencies
        );
    }

    #[test]
    fn refuses_what_it_would_compute_wrongly() {
        for (key, value, expected) in [
            ("model_type", json!("gpt_neox"), "model_type"),
            ("hidden_act", json!("gelu"), "hidden_act"),
            ("attention_bias", json!(true), "attention_bias"),
            (
                "rope_scaling",
                json!({"rope_type": "yarn", "factor": 2.0}),
                "yarn",
            ),
            ("rope_scaling", json!({"rope_type": "llama3"}), "factor"),
            ("num_key_value_heads", json!(3), "kv heads"),
            ("hidden_size", json!(36), "head size"),
            ("num_attention_heads", json!(0), "head"),
            ("vocab_size", json!(0), "vocabulary"),
            ("vocab_size", json!("many"), "vocab_size"),
        ] {
            let mut config = base();
            config[key] = value;
            let error = ModelConfig::from_json(&config).unwrap_err();
            assert!(error.contains(expected), "{key}: {error}");
        }
    }
}
