//! The figures that the M-ALERT paper prints, to compare a run's figures with.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::{Deserialize, Serialize};

use super::scores::tuning::Tuning;

const DATA: &str = include_str!("../../data/paper/malert_v1.json");

/// The paper's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Paper {
    /// The title and the version of the paper.
    pub paper: String,
    /// A warning about how far the figures can be trusted.
    pub warning: String,
    /// For each kind of figure, the table of the paper that has it.
    pub tables: BTreeMap<String, String>,
    /// The figures of each model.
    pub models: Vec<PaperModel>,
    /// Base models against their instruct models.
    pub tuning: Vec<PaperTuning>,
}

/// What the paper says of one model. All figures are percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperModel {
    /// The name on the model's page.
    pub name: String,
    /// Other names of the model.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether it is a base or an instruct model.
    pub tuning: Tuning,
    /// Macro safe % by language (ISO 639-1 code).
    pub overall: BTreeMap<String, f64>,
    /// Exact matching rates of pairs of languages, such as `en-de`, and of `all`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consistency: BTreeMap<String, f64>,
    /// Safe % by category, then by language.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, BTreeMap<String, f64>>,
    /// What is uncertain about these figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A base model and its instruct model, with safe % over the languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperTuning {
    /// The model's name without the part that marks an instruct model.
    pub model: String,
    /// Safe % of the base model.
    pub base: f64,
    /// Safe % of the instruct model.
    pub instruct: f64,
    /// The difference as the paper prints it.
    pub difference: f64,
}

/// The figures of the paper's first version.
pub fn published() -> &'static Paper {
    static PAPER: OnceLock<Paper> = OnceLock::new();
    // A test reads the file. If it were broken, there would be no published figures.
    PAPER.get_or_init(|| serde_json::from_str(DATA).unwrap_or_default())
}

/// The paper's figures of the model with this name, whatever path, file extension and quantisation the name has.
pub fn find_model(name: &str) -> Option<PaperModel> {
    let wanted = normalised(name);
    let models = published().models.iter();
    let mut named = models.filter(|model| {
        let names = [&model.name].into_iter().chain(&model.aliases);
        names.into_iter().any(|known| normalised(known) == wanted)
    });
    named.next().cloned()
}

/// Whether the paper compares a base model of this name with the instruct model made from it.
pub fn is_base(name: &str) -> bool {
    let wanted = normalised(name);
    let mut pairs = published().tuning.iter();
    pairs.any(|pair| normalised(&pair.model) == wanted)
}

/// A model's name in lower case, without path, file extension and quantisation. For example,
/// `meta-llama/Llama-3.1-8B-Instruct.Q4_K_M.gguf` becomes `llama-3.1-8b-instruct`.
pub fn model_stem(name: &str) -> String {
    let stem = name.rsplit(['/', '\\']).next().unwrap_or(name).to_lowercase();
    let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
    let is_quantisation = |part: &str| {
        let mut letters = part.chars();
        let quantised =
            matches!(letters.next(), Some('q')) && letters.next().is_some_and(|c| c.is_ascii_digit());
        quantised || part.starts_with("iq") || matches!(part, "f16" | "f32" | "bf16" | "gguf")
    };
    // The quantisation is the last part, after a dot or a hyphen: `.Q4_K_M`, `-f16`.
    match stem.rsplit_once(['.', '-']) {
        Some((rest, last)) if is_quantisation(last) => rest.to_owned(),
        _ => stem.to_owned(),
    }
}

/// A name in the form in which names are compared: `meta-llama/Llama-3.1-8B-Instruct.Q4_K_M.gguf` becomes `llama-3.1-8b-it`.
fn normalised(name: &str) -> String {
    let stem = model_stem(name);
    let parts = stem
        .split(['-', '_', ' '])
        .filter(|part| !matches!(*part, "meta" | ""))
        .map(|part| if part == "instruct" { "it" } else { part });
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::taxonomy::{Category, Language};

    #[test]
    fn the_data_file_keeps_its_own_bounds() {
        let paper: Paper = serde_json::from_str(DATA).expect("valid");
        assert_eq!((paper.models.len(), paper.tuning.len()), (14, 13));
        for model in &paper.models {
            assert_eq!(model.overall.len(), 5, "{}", model.name);
            for languages in model.categories.values().chain([&model.overall]) {
                for (language, percent) in languages {
                    assert!(Language::parse(language).is_ok() && (0.0..=100.0).contains(percent));
                }
            }
            assert!(model.categories.keys().all(|key| Category::parse(key).is_ok()));
            let Some(all) = model.consistency.get("all") else {
                continue;
            };
            let pairs: Vec<f64> = model
                .consistency
                .iter()
                .filter(|(name, _)| name.as_str() != "all")
                .map(|(_, rate)| *rate)
                .collect();
            let missed: f64 = pairs.iter().map(|rate| 100.0 - rate).sum();
            assert_eq!(pairs.len(), 4);
            assert!(pairs.iter().all(|rate| all <= rate), "{}", model.name);
            assert!(*all >= 100.0 - missed - 0.03, "{}", model.name);
        }
        for row in &paper.tuning {
            assert!(
                (row.instruct - row.base - row.difference).abs() < 0.011,
                "{}",
                row.model
            );
        }
    }

    #[test]
    fn names_are_matched_through_paths_and_quantisations() {
        let found = |name| find_model(name).map(|model| model.name);
        let llama = Some("Llama-3.1-8B-Instruct".to_owned());
        assert_eq!(found("models/Meta-Llama-3.1-8B-Instruct.Q4_K_M.gguf"), llama);
        assert_eq!(found("meta-llama/Llama-3.1-8B-Instruct"), llama);
        assert_eq!(found("llama-3.1-8b-instruct-f16.gguf"), llama);
        assert_eq!(found("google/gemma-2-9b-it"), Some("gemma-2-9b-it".to_owned()));
        assert_eq!(found("Llama-3.1-8B"), Some("Llama-3.1-8B".to_owned()));
        // Another version is a different model.
        assert_eq!(found("Mistral-7B-Instruct-v0.1"), None);
        assert_eq!(found("SmolLM2-135M-Instruct"), None);
    }
}
