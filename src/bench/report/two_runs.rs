//! The page that compares two runs: what changed, where, and is it more than chance?

use std::collections::HashMap;

use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use super::{
    comparability::ComparabilityText,
    plots,
    template::{ReportError, SORT, STYLE, environment, names},
    texts::{clipped, prompts},
};
use crate::bench::{
    dataset::PromptId,
    results::{FolderError, ModelProvenance, RunFolder, RunInfo},
    scores::{
        comparable::{Comparability, Pairing},
        compare::{ChangedVerdict, Comparison, PartComparison},
    },
    taxonomy::Language,
};

/// At most this many changed verdicts are listed.
const MAX_LISTED: usize = 300;

/// One of the two runs as the page describes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ComparedRun {
    /// The target's name.
    pub target: String,
    /// The precision that the target computed in; absent where it is not known.
    pub target_precision: Option<String>,
    /// The name of the guard whose verdicts are compared.
    pub guard: String,
    /// The precision that the guard computed in; absent where it is not known.
    pub guard_precision: Option<String>,
    /// The name of the prompt set, and its digest.
    pub dataset: (String, String),
    /// The sampling settings, in words.
    pub settings: String,
}

impl ComparedRun {
    /// Describes a run.
    pub(crate) fn of(info: &RunInfo) -> Self {
        let settings = &info.settings;
        Self {
            target_precision: info.provenance.targets.first().and_then(precision),
            guard_precision: info.primary_guards().next().and_then(precision),
            target: info.target().unwrap_or_default().to_owned(),
            guard: settings.guards.first().cloned().unwrap_or_default(),
            dataset: (info.dataset.name.clone(), info.dataset.digest.clone()),
            settings: match settings.sampling {
                Some(sampling) => format!(
                    "at most {} new tokens, temperature {}, top-p {}",
                    sampling.max_new_tokens, sampling.temperature, sampling.top_p
                ),
                None => "length and sampling unknown".to_owned(),
            },
        }
    }
}

fn precision(model: &ModelProvenance) -> Option<String> {
    Some(model.precision.clone()).filter(|precision| !precision.is_empty())
}

/// A changed verdict with its texts, where they were asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ListedChange {
    #[serde(flatten)]
    changed: ChangedVerdict,
    texts: Option<ChangeTexts>,
}

/// The texts of a changed verdict. A text that the run does not keep is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct ChangeTexts {
    prompt: String,
    /// The first run's answer, and the second's.
    answers: [String; 2],
}

/// Identifies an answer within each of the runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AnswerKey {
    id: PromptId,
    language: Language,
    /// The position of the answer's seed among the run's seeds.
    seed_index: u64,
}

impl AnswerKey {
    fn of(changed: &ChangedVerdict) -> Self {
        Self {
            id: changed.id.clone(),
            language: changed.language,
            seed_index: changed.seed_index,
        }
    }
}

/// The comparison of two runs, as the page shows it.
#[derive(Debug, Clone)]
pub(crate) struct TwoRunComparison {
    /// The run to compare with, and the run that may be better or worse.
    pub runs: [ComparedRun; 2],
    /// The figures of the comparison.
    pub comparison: Comparison,
    /// The answers whose verdict differs between the runs.
    pub changed: Vec<ChangedVerdict>,
    /// What differs between the runs besides the target.
    pub comparability: Comparability,
    /// How many answers have a counterpart in the other run.
    pub pairing: Pairing,
    /// Why the second run does not pass the gates, one sentence for each reason; `None` without a gate.
    pub violations: Option<Vec<String>>,
}

/// The page that compares two runs.
#[derive(Debug, Clone)]
pub(crate) struct TwoRunReport {
    comparison: TwoRunComparison,
    texts: HashMap<AnswerKey, ChangeTexts>,
}

impl TwoRunReport {
    /// Makes the page without texts.
    pub(crate) fn new(comparison: TwoRunComparison) -> Self {
        Self {
            comparison,
            texts: HashMap::new(),
        }
    }

    /// Reads the prompts and answers of the changed verdicts that are listed. These texts may be harmful.
    ///
    /// # Errors
    /// When a run's files cannot be read.
    pub(crate) fn add_texts(&mut self, folders: [&RunFolder; 2]) -> Result<(), FolderError> {
        let prompts = prompts(folders[0]);
        let listed = self.comparison.changed.iter().take(MAX_LISTED);
        self.texts = listed
            .map(|changed| {
                let prompt = prompts.get(&(changed.id.to_string(), changed.language));
                let texts = ChangeTexts {
                    prompt: prompt.map(|prompt| clipped(prompt)).unwrap_or_default(),
                    ..ChangeTexts::default()
                };
                (AnswerKey::of(changed), texts)
            })
            .collect();
        for (run, folder) in folders.into_iter().enumerate() {
            let seeds = folder.info()?.settings.seeds;
            for record in folder.records()? {
                let record = record?;
                let Ok(seed_index) = seeds.binary_search(&record.seed) else {
                    continue;
                };
                let key = AnswerKey {
                    id: record.id.clone(),
                    language: record.language,
                    seed_index: seed_index as u64,
                };
                if let Some(texts) = self.texts.get_mut(&key) {
                    let answer = record.answer().and_then(|answer| answer.text.as_deref());
                    texts.answers[run] = answer.map(clipped).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// Renders the page.
    ///
    /// # Errors
    /// [`ReportError`].
    pub(crate) fn html(&self) -> Result<String, ReportError> {
        let page = &self.comparison;
        let shown: Vec<ListedChange> = page
            .changed
            .iter()
            .take(MAX_LISTED)
            .map(|changed| ListedChange {
                texts: self.texts.get(&AnswerKey::of(changed)).cloned(),
                changed: changed.clone(),
            })
            .collect();
        let found = |list: &[PartComparison]| list.iter().filter(|one| one.is_significant()).count();
        let values = context! {
            style => STYLE,
            sort => SORT,
            names => names(),
            sides => Value::from(Serde(&page.runs)),
            comparable => Value::from(Serde(ComparabilityText::of(&page.comparability))),
            unpaired => Value::from(Serde(page.pairing.unpaired())),
            c => Value::from(Serde(&page.comparison)),
            changes => Value::from(Serde(plots::changes(&page.comparison))),
            found_languages => found(&page.comparison.languages),
            found_categories => found(&page.comparison.categories),
            now_unsafe => page.changed.iter().filter(|one| one.now_unsafe).count(),
            flips => page.changed.len(),
            shown => Value::from(Serde(&shown)),
            with_texts => !self.texts.is_empty(),
            violations => page.violations.clone(),
        };
        Ok(environment()?.get_template("two_runs.html")?.render(values)?)
    }
}
