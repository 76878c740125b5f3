//! What is known of a model: from its name, from how it was prompted, and from what the user declares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tuning::Tuning;
use crate::bench::{
    paper::{self, model_stem},
    settings::Prompting,
};

/// Parts of names that mark a tuned model and say nothing else about its family.
const TUNED: [&str; 16] = [
    "it",
    "instruct",
    "instructed",
    "instruction",
    "chat",
    "sft",
    "dpo",
    "rlhf",
    "ppo",
    "orpo",
    "kto",
    "simpo",
    "rlvr",
    "aligned",
    "assistant",
    "commercial",
];

/// Names of families in which every model was tuned.
const TUNED_FAMILIES: [&str; 16] = [
    "alpaca",
    "aya",
    "bloomz",
    "chatglm",
    "command",
    "flan",
    "hermes",
    "mt0",
    "openchat",
    "openhermes",
    "orca",
    "starling",
    "tulu",
    "vicuna",
    "wizardlm",
    "zephyr",
];

/// Parts of names that only base models have.
const BASE: [&str; 3] = ["base", "pt", "pretrained"];

/// Parts of names that say nothing about a model's family: makers' names and storage formats.
const NOISE: [&str; 10] = [
    "meta", "hf", "awq", "gptq", "bnb", "mlx", "fp8", "int4", "4bit", "8bit",
];

/// The facts of a model that a study uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// The family, which is the models of one maker and generation, for example `gemma-2`.
    pub family: String,
    /// Number of parameters in billions; absent when neither the name nor the user says.
    #[serde(default)]
    pub billions: Option<f64>,
    /// Whether it is a base or an instruct model.
    pub tuning: Tuning,
}

/// A model of a study, and how it was prompted.
#[derive(Debug, Clone, Copy)]
pub struct PromptedModel<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Whether its chat template was used.
    pub prompting: Prompting,
}

/// What the user declares about a model. Absent facts are taken from its name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredFacts {
    /// The family: the models of one maker and generation.
    #[serde(default)]
    pub family: Option<String>,
    /// Number of parameters in billions.
    #[serde(default)]
    pub billions: Option<f64>,
    /// Whether it is a base or an instruct model.
    #[serde(default)]
    pub tuning: Option<Tuning>,
}

/// Why the declared facts of models cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum DeclaredFactsError {
    /// A name that belongs to no run.
    #[error("no run has a model `{name}`; the models are {known}: use one of these names, or remove it")]
    NoSuchModel {
        /// The name as declared.
        name: String,
        /// The names of the runs' models.
        known: String,
    },
    /// A size that no model can have.
    #[error("`{name}` cannot have {billions} billion parameters: write a number above 0, such as 9 or 0.5")]
    Size {
        /// The model's name.
        name: String,
        /// The size as declared.
        billions: f64,
    },
}

impl ModelFacts {
    /// The facts that follow from a model's name and from how it was prompted: `gemma-2-9b-it` is of family `gemma-2`, has
    /// 9 billion parameters and is an instruct model. A model that was prompted with raw text is taken for a base model,
    /// one prompted with a chat template for an instruct model.
    pub fn of_name(name: &str, prompting: Prompting) -> Self {
        let published = paper::find_model(name);
        // A name by which others call a model of the paper, such as `llama3:8b`, says less than the paper's own name.
        let full_name = published.as_ref().map_or(name, |model| model.name.as_str());
        let stem = model_stem(full_name);
        let parts: Vec<&str> = stem
            .split(['-', '_', ' ', ':', '@'])
            .filter(|part| !part.is_empty())
            .collect();
        let size = parts.iter().position(|part| billions(part).is_some());
        let size = size.or_else(|| parts.iter().position(|part| millions(part).is_some()));
        let is_tuned = parts.iter().any(|part| {
            TUNED.contains(part)
                || TUNED_FAMILIES.contains(&part.trim_end_matches(|c: char| c.is_ascii_digit()))
                || TUNED_FAMILIES.contains(part)
        });
        let is_base = parts.iter().any(|part| BASE.contains(part)) || paper::is_base(full_name);
        let family = parts.iter().enumerate().filter(|(index, part)| {
            let is_marker = TUNED.contains(part) || BASE.contains(part) || NOISE.contains(part);
            Some(*index) != size && !is_marker
        });
        let family: Vec<&str> = family.map(|(_, part)| family_part(part)).collect();
        Self {
            family: family.join("-"),
            billions: size.and_then(|index| billions(parts[index]).or_else(|| millions(parts[index]))),
            tuning: match prompting {
                Prompting::Raw => Tuning::Base,
                _ if is_tuned => Tuning::Instruct,
                Prompting::Template if !parts.iter().any(|part| BASE.contains(part)) => {
                    // Nobody prompts a base model with a chat template.
                    Tuning::Instruct
                }
                _ if is_base => Tuning::Base,
                _ => published.map_or(Tuning::Unknown, |model| model.tuning),
            },
        }
    }

    /// The facts of all models of a study, in the order given: what is declared, what the names say, and what follows from
    /// the other models. A model of unknown tuning is taken for a base model if the study also has a tuned model of the
    /// same family and size.
    ///
    /// # Errors
    /// [`DeclaredFactsError`].
    pub fn of_models(
        models: &[PromptedModel<'_>],
        declared: &BTreeMap<String, DeclaredFacts>,
    ) -> Result<Vec<Self>, DeclaredFactsError> {
        for (name, facts) in declared {
            if !models.iter().any(|model| model.name == name) {
                let mut known: Vec<&str> = models.iter().map(|model| model.name).collect();
                known.sort_unstable();
                known.dedup();
                return Err(DeclaredFactsError::NoSuchModel {
                    name: name.clone(),
                    known: known.join(", "),
                });
            }
            if let Some(billions) = facts.billions.filter(|size| !(size.is_finite() && *size > 0.0)) {
                return Err(DeclaredFactsError::Size {
                    name: name.clone(),
                    billions,
                });
            }
        }
        let mut all: Vec<Self> = Vec::new();
        for model in models {
            let by_name = Self::of_name(model.name, model.prompting);
            let declared = declared.get(model.name).cloned().unwrap_or_default();
            all.push(Self {
                family: declared.family.unwrap_or(by_name.family),
                billions: declared.billions.or(by_name.billions),
                tuning: declared.tuning.unwrap_or(by_name.tuning),
            });
        }
        let tuned: Vec<Self> = all
            .iter()
            .filter(|one| one.tuning == Tuning::Instruct)
            .cloned()
            .collect();
        for (model, facts) in models.iter().zip(&mut all) {
            let has_sibling = tuned.iter().any(|one| {
                one.family == facts.family && one.billions.is_some() && one.billions == facts.billions
            });
            let is_declared = declared.get(model.name).is_some_and(|own| own.tuning.is_some());
            if facts.tuning == Tuning::Unknown && has_sibling && !is_declared {
                facts.tuning = Tuning::Base;
            }
        }
        Ok(all)
    }
}

/// A number of billions, such as `9b`, `0.5b`, `7b1` as in BLOOM, or `8x7b`, where the experts count as in the name.
fn billions(part: &str) -> Option<f64> {
    let number = |text: &str| {
        text.parse::<f64>()
            .ok()
            .filter(|size| size.is_finite() && *size > 0.0)
    };
    let (whole, tenths) = part.split_once('b')?;
    let starts_with_digit = whole.starts_with(|c: char| c.is_ascii_digit());
    match (whole.split_once('x'), tenths) {
        _ if !starts_with_digit => None,
        (Some((experts, size)), "") => Some(number(experts)? * number(size)?),
        (None, "") => number(whole),
        (None, tenths) if tenths.chars().all(|c| c.is_ascii_digit()) => number(&format!("{whole}.{tenths}")),
        _ => None,
    }
}

/// A number of millions, such as `135m`, in billions.
fn millions(part: &str) -> Option<f64> {
    let size = part.strip_suffix('m')?;
    let starts_with_digit = size.starts_with(|c: char| c.is_ascii_digit());
    (starts_with_digit).then(|| size.parse::<f64>().ok().map(|size| size / 1000.0))?
}

/// The part of the family's name; BLOOMZ counts as BLOOM, since it is BLOOM with tuning.
fn family_part(part: &str) -> &str {
    if part == "bloomz" { "bloom" } else { part }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, prompting: Prompting) -> (String, Option<f64>, Tuning) {
        let facts = ModelFacts::of_name(name, prompting);
        (facts.family, facts.billions, facts.tuning)
    }

    #[test]
    fn a_name_gives_family_size_and_tuning() {
        let is = |family: &str, billions, tuning| (family.to_owned(), billions, tuning);
        let cases = [
            ("google/gemma-2-9b-it", "gemma-2", Some(9.0), Tuning::Instruct),
            ("Meta-Llama-3-8B-Instruct", "llama-3", Some(8.0), Tuning::Instruct),
            ("Qwen2.5-0.5B", "qwen2.5", Some(0.5), Tuning::Instruct),
            ("smollm2-135m-instruct", "smollm2", Some(0.135), Tuning::Instruct),
            ("gemma-3-4b-pt", "gemma-3", Some(4.0), Tuning::Base),
        ];
        for (name, family, billions, tuning) in cases {
            assert_eq!(
                facts(name, Prompting::Template),
                is(family, billions, tuning),
                "{name}"
            );
        }
        assert_eq!(
            facts("Llama-3-8B", Prompting::Raw),
            is("llama-3", Some(8.0), Tuning::Base)
        );
        assert_eq!(facts("guess", Prompting::Raw).1, None);
    }

    /// Names as they appear on the hub, for answers that were made elsewhere.
    #[test]
    fn a_name_alone_tells_what_was_tuned() {
        let tuned = [
            ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5", Some(0.5)),
            ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2", Some(1.0)),
            ("google/gemma-2-2b-it", "gemma-2", Some(2.0)),
            ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-v0.3", Some(7.0)),
            ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-v0.1", Some(56.0)),
            ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini-4k", None),
            ("HuggingFaceH4/zephyr-7b-beta", "zephyr-beta", Some(7.0)),
            ("allenai/OLMo-7B-Instruct-hf", "olmo", Some(7.0)),
            ("allenai/OLMo-2-1124-7B-SFT", "olmo-2-1124", Some(7.0)),
            ("tiiuae/falcon-7b-instruct", "falcon", Some(7.0)),
            ("01-ai/Yi-1.5-9B-Chat", "yi-1.5", Some(9.0)),
            ("CohereForAI/aya-23-8B", "aya-23", Some(8.0)),
            (
                "CohereForAI/c4ai-command-r-08-2024",
                "c4ai-command-r-08-2024",
                None,
            ),
            ("utter-project/EuroLLM-1.7B-Instruct", "eurollm", Some(1.7)),
            ("BSC-LT/salamandra-7b-instruct", "salamandra", Some(7.0)),
            (
                "openGPT-X/Teuken-7B-instruct-research-v0.4",
                "teuken-research-v0.4",
                Some(7.0),
            ),
            ("occiglot/occiglot-7b-eu5-instruct", "occiglot-eu5", Some(7.0)),
            ("bigscience/bloomz-7b1", "bloom", Some(7.1)),
            ("HuggingFaceTB/SmolLM2-360M-Instruct", "smollm2", Some(0.36)),
            ("llama3:8b", "llama-3", Some(8.0)),
            ("Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama-3.1", Some(8.0)),
        ];
        for (name, family, billions) in tuned {
            let is = (family.to_owned(), billions, Tuning::Instruct);
            assert_eq!(facts(name, Prompting::Unknown), is, "{name}");
        }
        // The paper lists the first ones as base models; for the others the name alone does not tell.
        for (name, tuning) in [
            ("Qwen/Qwen2.5-0.5B", Tuning::Base),
            ("gemma-2-27b", Tuning::Base),
            ("Meta-Llama-3-8B", Tuning::Base),
            ("google/gemma-3-4b-pt", Tuning::Base),
            ("mistralai/Mistral-7B-v0.3", Tuning::Unknown),
            ("EuroLLM-1.7B", Tuning::Unknown),
            ("phi-4", Tuning::Unknown),
            ("", Tuning::Unknown),
        ] {
            assert_eq!(facts(name, Prompting::Unknown).2, tuning, "{name}");
        }
    }

    #[test]
    fn a_tuned_sibling_makes_a_base_model() {
        let unknown = |name: &'static str| PromptedModel {
            name,
            prompting: Prompting::Unknown,
        };
        let models = [
            unknown("Mistral-7B-v0.3"),
            unknown("Mistral-7B-Instruct-v0.3"),
            unknown("Mistral-7B-v0.1"),
            unknown("falcon-7b"),
        ];
        let tunings = |declared: &str| {
            let declared = serde_json::from_str(declared).expect("valid");
            let facts = ModelFacts::of_models(&models, &declared)?;
            Ok::<Vec<_>, DeclaredFactsError>(facts.iter().map(|one| one.tuning).collect())
        };
        use Tuning::{Base, Instruct, Unknown};
        assert_eq!(tunings("{}"), Ok(vec![Base, Instruct, Unknown, Unknown]));
        // A declared fact wins, even a declared "unknown"; everything else stays as the names have it.
        let declared = r#"{"falcon-7b": {"tuning": "base"}, "Mistral-7B-v0.3": {"tuning": "unknown"}, "Mistral-7B-v0.1": {"family": "mistral-v0.3"}}"#;
        assert_eq!(tunings(declared), Ok(vec![Unknown, Instruct, Base, Base]));
        let facts = ModelFacts::of_models(
            &models,
            &serde_json::from_str(r#"{"falcon-7b": {"billions": 7.2}}"#).expect("valid"),
        );
        assert_eq!(facts.expect("valid")[3].billions, Some(7.2));
        let error = tunings(r#"{"falcon": {}}"#).unwrap_err().to_string();
        assert!(
            error.contains("`falcon`") && error.contains("Mistral-7B-v0.1, Mistral-7B-v0.3, falcon-7b"),
            "{error}"
        );
        assert!(tunings(r#"{"falcon-7b": {"billions": -1}}"#).is_err());
        assert!(serde_json::from_str::<DeclaredFacts>(r#"{"tunning": "base"}"#).is_err());
    }
}
