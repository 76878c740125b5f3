//! What is to be known of a run to compare it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
};

use super::super::table::{Mark, Table};
use crate::{
    bench::{
        results::{ItemRecord, ModelProvenance, Origin, RunInfo},
        settings::{Prompting, RunSettings},
        taxonomy::{Category, Language},
    },
    client::PolicyChoice,
};

/// A prompt in one language, by hashes: of a whole run they must be in memory together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) prompt: u64,
    pub(super) language: Language,
    /// Of the digest of its text, where that is known.
    pub(super) text: Option<u64>,
}

/// Prompts of a run, taken from its records as they are read.
#[derive(Debug, Clone, Default)]
pub struct AskedPrompts(Vec<Asked>);

impl AskedPrompts {
    /// Takes a record's prompt. Records of one prompt and language follow each other.
    pub fn add(&mut self, record: &ItemRecord) {
        let asked = Asked {
            prompt: hash(&(&record.id, record.language)),
            language: record.language,
            text: record.prompt_digest.as_ref().map(hash),
        };
        if self.0.last().is_none_or(|last| last.prompt != asked.prompt) {
            self.0.push(asked);
        }
    }
}

pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is to be known of a run to compare it. `None` where nobody said.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// What answered.
    pub target: String,
    /// How that computed.
    pub target_precision: Option<String>,
    /// Whose verdicts are compared.
    pub guard: Option<String>,
    /// How the guard computed.
    pub guard_precision: Option<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Systems that translated the prompts of each language.
    pub translators: BTreeMap<Language, BTreeSet<String>>,
    pub(super) target_weights: Option<String>,
    pub(super) guard_weights: Option<String>,
    pub(super) guard_prompt: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) prompt_set: Option<String>,
    pub(super) prompting: Option<&'static str>,
    pub(super) sampling: Option<String>,
    pub(super) languages: BTreeSet<Language>,
    pub(super) categories: BTreeSet<Category>,
    pub(super) judged: u64,
    pub(super) unjudged: u64,
    pub(super) asked: Vec<Asked>,
}

impl RunFacts {
    /// Of a run, its results, and the prompts of its records.
    pub fn of(info: &RunInfo, table: &Table, asked: AskedPrompts) -> Self {
        let settings = &info.settings;
        let targets: Vec<&ModelProvenance> = info.provenance.targets.iter().collect();
        let judges: Vec<&ModelProvenance> = info.primary_guards().collect();
        let asked_for = settings.guards.first().filter(|name| !name.is_empty()).cloned();
        let marks = || table.judged_by(0).map(|(_, judgement)| judgement.mark);
        Self {
            target: info.target().unwrap_or_default().to_owned(),
            target_precision: joined(&targets, |one| one.precision.clone()),
            target_weights: joined(&targets, weights),
            guard: asked_for.or_else(|| joined(&judges, |one| one.model.clone())),
            guard_weights: joined(&judges, weights),
            guard_prompt: joined(&judges, |one| one.template_digest.clone()),
            guard_precision: joined(&judges, |one| one.precision.clone()),
            policy: match info.origin {
                Origin::Imported { .. } => None,
                Origin::Run | Origin::Rescored { .. } | Origin::Merged { .. } => {
                    Some(policy(settings, &judges))
                }
            },
            prompt_set: Some(info.dataset.digest.clone()).filter(|digest| !digest.is_empty()),
            prompting: match settings.prompting {
                Prompting::Template => Some("with its chat template"),
                Prompting::Raw => Some("as raw text"),
                Prompting::Unknown => None,
            },
            sampling: settings.sampling.map(|sampling| {
                format!(
                    "at most {} tokens, temperature {}, top-p {}",
                    sampling.max_new_tokens, sampling.temperature, sampling.top_p
                )
            }),
            seeds: table.seeds(),
            translators: table.translators.clone(),
            languages: table.languages().into_iter().collect(),
            categories: table.items.iter().map(|item| item.category).collect(),
            judged: marks().filter(|mark| mark.safe().is_some()).count() as u64,
            unjudged: marks()
                .filter(|mark| matches!(mark, Mark::Undetermined | Mark::Failed))
                .count() as u64,
            asked: asked.0,
        }
    }

    /// The translators, each once.
    pub fn translator_names(&self) -> String {
        let names: BTreeSet<&str> = self.translators.values().flatten().map(String::as_str).collect();
        names.into_iter().collect::<Vec<_>>().join("+")
    }

    /// Whether the words of its prompts are known.
    pub(super) fn has_texts(&self) -> bool {
        self.asked.iter().all(|asked| asked.text.is_some())
    }

    /// What nobody said of the run.
    pub(super) fn unknown(&self) -> String {
        let facts = [
            ("prompt texts", self.has_texts()),
            ("guard's weights", self.guard_weights.is_some()),
            ("guard's prompt", self.guard_prompt.is_some()),
            ("guard's precision", self.guard_precision.is_some()),
            ("guard's policy", self.policy.is_some()),
            ("target's precision", self.target_precision.is_some()),
            ("how the target is asked", self.prompting.is_some()),
            ("sampling", self.sampling.is_some()),
        ];
        let missing: Vec<_> = facts
            .iter()
            .filter(|(_, known)| !known)
            .map(|(name, _)| *name)
            .collect();
        missing.join(", ")
    }
}

fn weights(model: &ModelProvenance) -> String {
    match (model.model_digest.as_str(), model.adapter_digest.as_str()) {
        ("", _) => String::new(),
        (weights, "") => weights.to_owned(),
        (weights, adapter) => format!("{weights} with adapter {adapter}"),
    }
}

/// What the models say, each value once; `None` where none of them says anything.
fn joined(models: &[&ModelProvenance], says: impl Fn(&ModelProvenance) -> String) -> Option<String> {
    let values: BTreeSet<String> = models.iter().map(|model| says(model)).collect();
    let values: Vec<String> = values.into_iter().filter(|value| !value.is_empty()).collect();
    (!values.is_empty()).then(|| values.join(" and "))
}

fn policy(settings: &RunSettings, judges: &[&ModelProvenance]) -> String {
    let digest = joined(judges, |one| one.policy_digest.clone());
    let name = match &settings.policy {
        PolicyChoice::Native => return "its own categories".to_owned(),
        PolicyChoice::Named(name) => name,
        PolicyChoice::Inline(policy) => &policy.name,
    };
    match digest {
        Some(digest) => format!("{name} ({digest})"),
        None => name.clone(),
    }
}
