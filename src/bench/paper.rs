//! The figures that the M-ALERT paper prints, to set beside one's own.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::{Deserialize, Serialize};

use super::scores::models::Tuning;

const DATA: &str = include_str!("../../data/paper/malert_v1.json");

/// The published figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Paper {
    /// Which paper and version.
    pub paper: String,
    /// How far the figures can be trusted.
    pub warning: String,
    /// Where in the paper each kind of figure stands.
    pub tables: BTreeMap<String, String>,
    /// By model.
    pub models: Vec<PaperModel>,
    /// Base against instruct.
    pub tuning: Vec<PaperTuning>,
}

/// What the paper says of one model; percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperModel {
    /// As on the model's page.
    pub name: String,
    /// What others call it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Base or instruct.
    pub tuning: Tuning,
    /// Macro safe % by language (ISO 639-1).
    pub overall: BTreeMap<String, f64>,
    /// Exact matching rates: `en-de`, …, `all`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consistency: BTreeMap<String, f64>,
    /// Safe % by category, then language.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, BTreeMap<String, f64>>,
    /// What is uncertain about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A base model and its instruct model; safe % over the languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaperTuning {
    /// Name without what marks an instruct model.
    pub model: String,
    /// Of the base model.
    pub base: f64,
    /// Of the instruct model.
    pub instruct: f64,
    /// Their difference as printed.
    pub difference: f64,
}

/// The figures of the paper's first version.
pub fn published() -> &'static Paper {
    static PAPER: OnceLock<Paper> = OnceLock::new();
    // A test reads the file; were it broken, there would be no published figures.
    PAPER.get_or_init(|| serde_json::from_str(DATA).unwrap_or_default())
}

/// The model of a name, whatever path, file ending and quantisation it carries.
pub fn find(name: &str) -> Option<PaperModel> {
    let wanted = normal(name);
    let models = published().models.iter();
    let mut named = models.filter(|model| {
        let names = [&model.name].into_iter().chain(&model.aliases);
        names.into_iter().any(|known| normal(known) == wanted)
    });
    named.next().cloned()
}

/// Whether the paper compares a model of this name with the instruct model that was made of it.
pub fn is_base(name: &str) -> bool {
    let wanted = normal(name);
    let mut pairs = published().tuning.iter();
    pairs.any(|pair| normal(&pair.model) == wanted)
}

/// A name in small letters without path, file ending and quantisation: `meta-llama/Llama-3.1-8B-Instruct.Q4_K_M.gguf` is
/// `llama-3.1-8b-instruct`.
pub fn stem(name: &str) -> String {
    let stem = name.rsplit(['/', '\\']).next().unwrap_or(name).to_lowercase();
    let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
    let is_quantisation = |part: &str| {
        let mut letters = part.chars();
        let quantised =
            matches!(letters.next(), Some('q')) && letters.next().is_some_and(|c| c.is_ascii_digit());
        quantised || part.starts_with("iq") || matches!(part, "f16" | "f32" | "bf16" | "gguf")
    };
    // The quantisation is the last part, after a dot or a dash: `.Q4_K_M`, `-f16`.
    match stem.rsplit_once(['.', '-']) {
        Some((rest, last)) if is_quantisation(last) => rest.to_owned(),
        _ => stem.to_owned(),
    }
}

/// `meta-llama/Llama-3.1-8B-Instruct.Q4_K_M.gguf` is `llama-3.1-8b-it`.
fn normal(name: &str) -> String {
    let stem = stem(name);
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
        let found = |name| find(name).map(|model| model.name);
        let llama = Some("Llama-3.1-8B-Instruct".to_owned());
        assert_eq!(found("models/Meta-Llama-3.1-8B-Instruct.Q4_K_M.gguf"), llama);
        assert_eq!(found("meta-llama/Llama-3.1-8B-Instruct"), llama);
        assert_eq!(found("llama-3.1-8b-instruct-f16.gguf"), llama);
        assert_eq!(found("google/gemma-2-9b-it"), Some("gemma-2-9b-it".to_owned()));
        assert_eq!(found("Llama-3.1-8B"), Some("Llama-3.1-8B".to_owned()));
        // Another version is another model.
        assert_eq!(found("Mistral-7B-Instruct-v0.1"), None);
        assert_eq!(found("SmolLM2-135M-Instruct"), None);
    }
}
