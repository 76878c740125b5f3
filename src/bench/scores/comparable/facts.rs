//! The facts of a run that decide whether it can be compared with other runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
};

use super::super::result_table::{JudgementStatus, ResultTable};
use crate::{
    bench::{
        results::{ItemRecord, ModelProvenance, Origin, RunInfo},
        settings::{Prompting, RunSettings},
        taxonomy::{Category, Language},
    },
    client::PolicyChoice,
};

/// A prompt in one language, identified by hashes, because the prompts of a whole run must be in memory together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PromptFingerprint {
    pub(super) prompt: u64,
    pub(super) language: Language,
    /// Hash of the digest of its text, where that is known.
    pub(super) text: Option<u64>,
}

/// The fingerprints of a run's prompts, collected while its records are read.
#[derive(Debug, Clone, Default)]
pub struct PromptFingerprints(Vec<PromptFingerprint>);

impl PromptFingerprints {
    /// Adds a record's prompt. Records of the same prompt and language must follow each other.
    pub fn add(&mut self, record: &ItemRecord) {
        let fingerprint = PromptFingerprint {
            prompt: hash(&(&record.id, record.language)),
            language: record.language,
            text: record.prompt_digest.as_ref().map(hash),
        };
        if self.0.last().is_none_or(|last| last.prompt != fingerprint.prompt) {
            self.0.push(fingerprint);
        }
    }
}

pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The facts of a run that decide whether it can be compared with others. `None` where a fact is not known.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// The name of the model that answered.
    pub target: String,
    /// The precision that the target computed in.
    pub target_precision: Option<String>,
    /// The name of the primary guard, whose verdicts are compared.
    pub guard: Option<String>,
    /// The precision that the guard computed in.
    pub guard_precision: Option<String>,
    /// The run's seeds, ascending.
    pub seeds: Vec<u64>,
    /// For each language, the systems that translated its prompts.
    pub translators: BTreeMap<Language, BTreeSet<String>>,
    pub(super) target_weights: Option<String>,
    pub(super) guard_weights: Option<String>,
    pub(super) guard_prompt: Option<String>,
    pub(super) policy: Option<String>,
    /// What the label "controversial" counts as, where the guard gave it.
    pub(super) controversial: Option<&'static str>,
    pub(super) prompt_set: Option<String>,
    pub(super) prompting: Option<&'static str>,
    pub(super) sampling: Option<String>,
    pub(super) languages: BTreeSet<Language>,
    pub(super) categories: BTreeSet<Category>,
    pub(super) judged: u64,
    pub(super) unjudged: u64,
    pub(super) prompts: Vec<PromptFingerprint>,
}

impl RunFacts {
    /// Collects the facts from a run's settings and provenance, its results, and the prompts of its records.
    pub fn of(info: &RunInfo, table: &ResultTable, prompts: PromptFingerprints) -> Self {
        let settings = &info.settings;
        let targets: Vec<&ModelProvenance> = info.provenance.targets.iter().collect();
        let judges: Vec<&ModelProvenance> = info.primary_guards().collect();
        let named_guard = settings.guards.first().filter(|name| !name.is_empty()).cloned();
        let statuses = || table.judged_by(0).map(|(_, judgement)| judgement.status);
        Self {
            target: info.target().unwrap_or_default().to_owned(),
            target_precision: joined(&targets, |one| one.precision.clone()),
            target_weights: joined(&targets, weights),
            guard: named_guard.or_else(|| joined(&judges, |one| one.model.clone())),
            guard_weights: joined(&judges, weights),
            guard_prompt: joined(&judges, |one| one.template_digest.clone()),
            guard_precision: joined(&judges, |one| one.precision.clone()),
            policy: match info.origin {
                Origin::Imported { .. } => None,
                Origin::Run | Origin::Rescored { .. } | Origin::Merged { .. } => {
                    Some(policy(settings, &judges))
                }
            },
            controversial: (table.controversial() > 0).then(|| settings.controversial.key()),
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
            judged: statuses().filter(|status| status.is_safe().is_some()).count() as u64,
            unjudged: statuses()
                .filter(|status| matches!(status, JudgementStatus::Undetermined | JudgementStatus::Failed))
                .count() as u64,
            prompts: prompts.0,
        }
    }

    /// The names of all translators, each once, joined by `+`.
    pub fn translator_names(&self) -> String {
        let names: BTreeSet<&str> = self.translators.values().flatten().map(String::as_str).collect();
        names.into_iter().collect::<Vec<_>>().join("+")
    }

    /// Whether the texts of all its prompts are known.
    pub(super) fn has_texts(&self) -> bool {
        self.prompts.iter().all(|prompt| prompt.text.is_some())
    }

    /// The facts that are not known of the run, as a list for a sentence; empty when all are known.
    pub(super) fn unknown_facts(&self) -> String {
        let facts = [
            ("prompt texts", self.has_texts()),
            ("guard's weights", self.guard_weights.is_some()),
            ("guard's prompt", self.guard_prompt.is_some()),
            ("guard's precision", self.guard_precision.is_some()),
            ("guard's policy", self.policy.is_some()),
            ("target's precision", self.target_precision.is_some()),
            ("how the target is prompted", self.prompting.is_some()),
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

/// What the models have for a fact, each value once; `None` where none of them has one.
fn joined(models: &[&ModelProvenance], fact: impl Fn(&ModelProvenance) -> String) -> Option<String> {
    let values: BTreeSet<String> = models.iter().map(|model| fact(model)).collect();
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
