//! `config.json` of a classifier of texts: transformers' `XLMRobertaForSequenceClassification`, and those of RoBERTa and of
//! DeBERTa.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    deberta::DebertaFile,
    encoder_config::EncoderConfig,
    error::{ConfigError, KeyError, KeyProblem},
    xlm_roberta::EncoderFile,
};

/// Most labels that are believed.
const MOST_LABELS: usize = 256;

/// Longest name of a label, in bytes.
const LABEL_BYTES: usize = 128;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClassifierConfig {
    pub family: ClassifierFamily,
    pub encoder: EncoderConfig,
    /// Names of the labels by their index among the logits; at least two, and none twice.
    pub labels: Vec<String>,
}

/// Whose networks a classifier's are. Their tensors have other names, their heads and special tokens differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassifierFamily {
    /// XLM-R (arXiv 1911.02116).
    XlmRoberta,
    /// RoBERTa (arXiv 1907.11692): XLM-R's network with another tokenizer.
    Roberta,
    /// DeBERTa of version 2 or 3 (arXiv 2006.03654, 2111.09543).
    Deberta,
}

impl ClassifierFamily {
    /// The `architectures` that begin with one of these are classifiers'.
    pub const ARCHITECTURES: [&str; 3] = [
        "XLMRobertaForSequenceClassification",
        "RobertaForSequenceClassification",
        "DebertaV2ForSequenceClassification",
    ];

    /// The family of the first of the `architectures` in a `config.json`; `None` for what is no classifier.
    pub(crate) fn of_config(json: &Value) -> Option<Self> {
        let [xlm_roberta, roberta, deberta] = Self::ARCHITECTURES;
        match json["architectures"][0].as_str()? {
            name if name == xlm_roberta => Some(Self::XlmRoberta),
            name if name == roberta => Some(Self::Roberta),
            name if name == deberta => Some(Self::Deberta),
            _ => None,
        }
    }

    /// What it is called in provenance.
    pub fn name(self) -> &'static str {
        match self {
            Self::XlmRoberta => "xlm-roberta",
            Self::Roberta => "roberta",
            Self::Deberta => "deberta-v2",
        }
    }
}

/// What is read beside the encoder's keys.
#[derive(Deserialize)]
struct Head {
    /// The names by their index in decimal digits. Where they are missing, transformers has two labels.
    id2label: Option<BTreeMap<String, String>>,
    problem_type: Option<String>,
}

impl ClassifierConfig {
    /// # Errors
    /// When no classifier can be made of it; names the key.
    pub(crate) fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let Some(family) = ClassifierFamily::of_config(json) else {
            let found = json["architectures"][0].as_str().unwrap_or_default();
            let problem = KeyProblem::unsupported_text(found, ClassifierFamily::ARCHITECTURES);
            return Err(problem.of("architectures").into());
        };
        let encoder = match family {
            ClassifierFamily::XlmRoberta | ClassifierFamily::Roberta => {
                let file = EncoderFile::deserialize(json).map_err(ConfigError::Form)?;
                file.checked("", &[family.name()])?
            }
            ClassifierFamily::Deberta => {
                let file = DebertaFile::deserialize(json).map_err(ConfigError::Form)?;
                file.checked()?
            }
        };
        let head = Head::deserialize(json).map_err(ConfigError::Form)?;
        const SINGLE: &str = "single_label_classification";
        if let Some(found) = head.problem_type.filter(|found| found != SINGLE) {
            let problem = KeyProblem::unsupported_text(&found, [SINGLE]);
            return Err(problem.of("problem_type").into());
        }
        let labels = match head.id2label {
            None => (0..2).map(|index| format!("LABEL_{index}")).collect(),
            Some(named) => numbered_labels("id2label", named)?,
        };
        Ok(Self {
            family,
            encoder,
            labels,
        })
    }
}

/// The labels that the object `key` names by their numbers, in that order.
///
/// # Errors
/// When they are not two or more names by the numbers from 0 on, or one of them is too long or there twice.
pub(super) fn numbered_labels(key: &str, named: BTreeMap<String, String>) -> Result<Vec<String>, KeyError> {
    labels(&named).ok_or_else(|| {
        let rule = format!(
            "name 2 to {MOST_LABELS} labels by the numbers from 0 on, each in 1 to {LABEL_BYTES} bytes and none twice"
        );
        KeyProblem::breaks(format!("a list of {} labels", named.len()), rule).of(key)
    })
}

/// The names in the order of their numbers, if they are as they should be.
fn labels(named: &BTreeMap<String, String>) -> Option<Vec<String>> {
    if !(2..=MOST_LABELS).contains(&named.len()) {
        return None;
    }
    let labels = (0..named.len()).map(|index| named.get(&index.to_string()).cloned());
    let labels: Vec<String> = labels.collect::<Option<_>>()?;
    let is_sound = |label: &String| (1..=LABEL_BYTES).contains(&label.len());
    let distinct = (1..labels.len()).all(|index| !labels[..index].contains(&labels[index]));
    (distinct && labels.iter().all(is_sound)).then_some(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> Value {
        json!({
            "architectures": [ClassifierFamily::ARCHITECTURES[0]], "model_type": "xlm-roberta", "vocab_size": 100,
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
            "hidden_act": "gelu", "pad_token_id": 1, "max_position_embeddings": 514, "layer_norm_eps": 1e-5,
            "id2label": {"0": "benign", "1": "injection"}
        })
    }

    #[test]
    fn labels_are_those_of_the_file_in_the_order_of_their_numbers() {
        let config = ClassifierConfig::from_json(&sound()).unwrap();
        assert_eq!(config.labels, ["benign", "injection"]);
        assert_eq!(config.encoder.window(), 512);
        let mut many = sound();
        many["id2label"] = (0..12)
            .map(|index| (index.to_string(), json!(format!("l{index}"))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let many = ClassifierConfig::from_json(&many).unwrap();
        assert_eq!(many.labels[10], "l10");
        let mut none = sound();
        none["id2label"] = Value::Null;
        assert_eq!(
            ClassifierConfig::from_json(&none).unwrap().labels,
            ["LABEL_0", "LABEL_1"]
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (key, value, expected) in [
            (
                "architectures",
                json!(["BertModel"]),
                "architectures is `BertModel`",
            ),
            ("model_type", json!("bert"), "model_type is `bert`"),
            (
                "model_type",
                json!("xlm-roberta-xl"),
                "model_type is `xlm-roberta-xl`",
            ),
            ("hidden_act", json!("relu"), "hidden_act is `relu`"),
            (
                "problem_type",
                json!("multi_label_classification"),
                "problem_type is `multi",
            ),
            (
                "problem_type",
                json!("regression"),
                "problem_type is `regression`",
            ),
            ("id2label", json!({"0": "one"}), "id2label is a list of 1 labels"),
            ("id2label", json!({"0": "a", "2": "b"}), "id2label is"),
            ("id2label", json!({"0": "a", "1": "a"}), "id2label is"),
            ("id2label", json!({"0": "a", "1": ""}), "id2label is"),
            ("id2label", json!(["a", "b"]), "invalid type"),
        ] {
            let mut json = sound();
            json[key] = value;
            let error = ClassifierConfig::from_json(&json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{key}: {error}");
        }
    }
}
