//! `config.json` of a CometKiwi folder, as `scripts/convert_comet.py` writes it: the encoder's own configuration and
//! the hyper-parameters of `UnifiedMetric`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::{
    encoder_config::{EncoderConfig, EncoderNorms},
    error::{ConfigError, KeyError, KeyProblem},
    spec::Pointwise,
    xlm_roberta::EncoderFile,
};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CometConfig {
    pub encoder: EncoderConfig,
    pub sentence: SentenceLayer,
    /// Number of outputs of each hidden layer of the regression head.
    pub hidden_sizes: Vec<usize>,
    /// Applied after each hidden layer of the regression head.
    pub activation: Option<Pointwise>,
    /// Applied to the score.
    pub final_activation: Option<Pointwise>,
}

/// Which layers the vector of a sentence is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentenceLayer {
    /// The output of one layer, 0 being the embeddings.
    One(usize),
    /// A weighted sum of all layers, the embeddings included.
    Mix { transform: MixTransform, norm: bool },
}

/// How the parameters of a mix become the weights of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MixTransform {
    Softmax,
    /// The projection onto the simplex (arXiv 1602.02068): some layers get no weight at all.
    Sparsemax,
}

#[derive(Deserialize)]
struct File {
    encoder: EncoderFile,
    sent_layer: Value,
    layer_transformation: String,
    layer_norm: bool,
    hidden_sizes: Vec<usize>,
    activations: String,
    #[serde(default)]
    final_activation: Option<String>,
    input_segments: Vec<String>,
}

impl CometConfig {
    /// The architecture's name in provenance.
    pub(crate) fn architecture(&self) -> &'static str {
        match self.encoder.norms {
            EncoderNorms::Post => "comet-kiwi xlm-roberta",
            EncoderNorms::Pre => "comet-kiwi xlm-roberta-xl",
        }
    }

    /// # Errors
    /// When no model can be made of it; names the key.
    pub(crate) fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let file = File::deserialize(json).map_err(ConfigError::Form)?;
        let encoder = file
            .encoder
            .checked("encoder.", &["xlm-roberta", "xlm-roberta-xl"])?;
        let segments: Vec<&str> = file.input_segments.iter().map(String::as_str).collect();
        if segments.first() != Some(&"mt") || !segments.contains(&"src") {
            let rule = "begin with the translation (`mt`) and to contain the source (`src`)";
            let problem = KeyProblem::breaks(format!("{segments:?}"), rule);
            return Err(problem.of("input_segments").into());
        }
        if file.hidden_sizes.is_empty() || file.hidden_sizes.contains(&0) {
            let found = format!("{:?}", file.hidden_sizes);
            let rule = "have at least one size, and none of 0";
            return Err(KeyProblem::breaks(found, rule).of("hidden_sizes").into());
        }
        let sentence = match &file.sent_layer {
            Value::String(mix) if mix == "mix" => SentenceLayer::Mix {
                transform: match file.layer_transformation.as_str() {
                    "softmax" => MixTransform::Softmax,
                    "sparsemax" => MixTransform::Sparsemax,
                    other => {
                        let problem = KeyProblem::unsupported_text(other, ["softmax", "sparsemax"]);
                        return Err(problem.of("layer_transformation").into());
                    }
                },
                norm: file.layer_norm,
            },
            layer => {
                let index = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
                let index = index.filter(|index| *index <= encoder.layers);
                SentenceLayer::One(index.ok_or_else(|| {
                    let rule = format!("be \"mix\" or a layer from 0 to {}", encoder.layers);
                    KeyProblem::breaks(layer, rule).of("sent_layer")
                })?)
            }
        };
        Ok(Self {
            encoder,
            sentence,
            hidden_sizes: file.hidden_sizes,
            activation: activation("activations", &file.activations)?,
            final_activation: match file.final_activation {
                Some(name) => activation("final_activation", &name)?,
                None => None,
            },
        })
    }
}

/// The function of the module of `torch.nn` with this name, whatever its case, which is how COMET looks it up.
fn activation(key: &str, name: &str) -> Result<Option<Pointwise>, KeyError> {
    match name.to_lowercase().as_str() {
        "tanh" => Ok(Some(Pointwise::Tanh)),
        "sigmoid" => Ok(Some(Pointwise::Sigmoid)),
        "identity" => Ok(None),
        _ => Err(KeyProblem::unsupported_text(name, ["Tanh", "Sigmoid", "Identity"]).of(key)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> Value {
        json!({
            "encoder": {
                "model_type": "xlm-roberta", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "intermediate_size": 48, "hidden_act": "gelu", "pad_token_id": 1,
                "max_position_embeddings": 514, "layer_norm_eps": 1e-5
            },
            "sent_layer": "mix", "layer_transformation": "softmax", "layer_norm": true, "hidden_sizes": [24],
            "activations": "Tanh", "final_activation": null, "input_segments": ["mt", "src"]
        })
    }

    #[test]
    fn positions_of_padding_are_not_part_of_the_window() {
        let config = CometConfig::from_json(&sound()).unwrap();
        assert_eq!(config.encoder.window(), 512);
        assert_eq!(config.final_activation, None);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let encoder_values = [
            ("model_type", json!("bert"), "encoder.model_type is `bert`"),
            ("hidden_act", json!("relu"), "encoder.hidden_act is `relu`"),
            (
                "num_attention_heads",
                json!(3),
                "encoder.hidden_size is 32 with 3 heads",
            ),
            ("num_hidden_layers", json!(0), "encoder.num_hidden_layers is 0"),
            (
                "max_position_embeddings",
                json!(2),
                "encoder.max_position_embeddings is 2",
            ),
            ("layer_norm_eps", json!(-1.0), "encoder.layer_norm_eps"),
            (
                "position_embedding_type",
                json!("relative_key"),
                "encoder.position_embedding_type",
            ),
        ];
        for (key, value, expected) in encoder_values {
            let mut json = sound();
            json["encoder"][key] = value;
            let error = CometConfig::from_json(&json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{key}: {error}");
        }
        let values = [
            ("sent_layer", json!(3), "sent_layer is 3"),
            (
                "layer_transformation",
                json!("sum"),
                "layer_transformation is `sum`",
            ),
            ("hidden_sizes", json!([]), "hidden_sizes"),
            ("activations", json!("Softmax"), "activations is `Softmax`"),
            ("input_segments", json!(["src", "mt"]), "input_segments"),
            ("input_segments", json!(["mt", "ref"]), "input_segments"),
            ("layer_norm", json!("yes"), "invalid type"),
        ];
        for (key, value, expected) in values {
            let mut json = sound();
            json[key] = value;
            let error = CometConfig::from_json(&json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{key}: {error}");
        }
    }
}
