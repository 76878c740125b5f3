//! The page of two runs: what changed, where, and is it more than chance?

use std::collections::HashMap;

use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use super::{
    ReportError, SORT, STYLE,
    comparability::Told,
    environment, names, plots,
    texts::{clipped, prompts},
};
use crate::bench::{
    dataset::PromptId,
    results::{FolderError, ModelProvenance, RunFolder, RunInfo},
    scores::{
        comparable::{Comparability, Pairing},
        compare::{Compared, Comparison, Flip},
    },
    taxonomy::Language,
};

/// Most flips that are listed.
const SHOWN: usize = 300;

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The target.
    pub target: String,
    /// How it computed, where that is known.
    pub target_precision: Option<String>,
    /// The guard whose verdicts are compared.
    pub guard: String,
    /// How that computed, where that is known.
    pub guard_precision: Option<String>,
    /// The prompt set, its digest after it.
    pub dataset: (String, String),
    /// How the target was asked and sampled.
    pub settings: String,
}

impl Side {
    /// What there is to say of a run.
    pub fn of(info: &RunInfo) -> Self {
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

/// A flip with its texts where they were asked for: the prompt, the first run's answer, the second's.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Shown {
    #[serde(flatten)]
    flip: Flip,
    texts: Option<(String, String, String)>,
}

/// A prompt, its language, and which of the run's seeds answered it.
type Answered = (PromptId, Language, u64);

fn answered(flip: &Flip) -> Answered {
    (flip.id.clone(), flip.language, flip.seed_place)
}

/// Everything about two runs.
#[derive(Debug, Clone)]
pub struct TwoRuns {
    /// The run to compare with, and the run that may be better or worse.
    pub sides: [Side; 2],
    /// The figures.
    pub comparison: Comparison,
    /// Answers with another verdict.
    pub flips: Vec<Flip>,
    /// What differs besides the target.
    pub comparability: Comparability,
    /// How many answers have a partner.
    pub pairing: Pairing,
    /// Gates that do not hold, a sentence each; `None` without a gate.
    pub broken: Option<Vec<String>>,
    texts: HashMap<Answered, (String, String, String)>,
}

impl TwoRuns {
    /// Without texts.
    pub fn new(
        sides: [Side; 2],
        (comparison, flips): (Comparison, Vec<Flip>),
        (comparability, pairing): (Comparability, Pairing),
        broken: Option<Vec<String>>,
    ) -> Self {
        Self {
            sides,
            comparison,
            flips,
            comparability,
            pairing,
            broken,
            texts: HashMap::new(),
        }
    }

    /// Reads the prompts and answers of the flips that are listed. They may be harmful.
    ///
    /// # Errors
    /// When a run's files cannot be read.
    pub fn add_texts(&mut self, folders: [&RunFolder; 2]) -> Result<(), FolderError> {
        let prompts = prompts(folders[0]);
        let listed = self.flips.iter().take(SHOWN);
        self.texts = listed
            .map(|flip| {
                let prompt = prompts.get(&(flip.id.to_string(), flip.language));
                let prompt = prompt.map(|prompt| clipped(prompt)).unwrap_or_default();
                (answered(flip), (prompt, String::new(), String::new()))
            })
            .collect();
        for (place, folder) in folders.into_iter().enumerate() {
            let seeds = folder.info()?.settings.seeds;
            for record in folder.records()? {
                let record = record?;
                let Ok(seed) = seeds.binary_search(&record.seed) else {
                    continue;
                };
                let key = (record.id.clone(), record.language, seed as u64);
                let Some(texts) = self.texts.get_mut(&key) else {
                    continue;
                };
                let answer = record.answer().and_then(|answer| answer.text.as_deref());
                let answer = answer.map(clipped).unwrap_or_default();
                match place {
                    0 => texts.1 = answer,
                    _ => texts.2 = answer,
                }
            }
        }
        Ok(())
    }

    /// The page.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn html(&self) -> Result<String, ReportError> {
        let shown: Vec<Shown> = self
            .flips
            .iter()
            .take(SHOWN)
            .map(|flip| Shown {
                texts: self.texts.get(&answered(flip)).cloned(),
                flip: flip.clone(),
            })
            .collect();
        let found = |list: &[Compared]| list.iter().filter(|one| one.is_found()).count();
        let values = context! {
            style => STYLE,
            sort => SORT,
            names => names(),
            sides => Value::from(Serde(&self.sides)),
            comparable => Value::from(Serde(Told::of(&self.comparability))),
            without => Value::from(Serde(self.pairing.without())),
            c => Value::from(Serde(&self.comparison)),
            changes => Value::from(Serde(plots::changes(&self.comparison))),
            found_languages => found(&self.comparison.languages),
            found_categories => found(&self.comparison.categories),
            now_unsafe => self.flips.iter().filter(|flip| flip.now_unsafe).count(),
            flips => self.flips.len(),
            shown => Value::from(Serde(&shown)),
            with_texts => !self.texts.is_empty(),
            broken => self.broken.clone(),
        };
        Ok(environment()?.get_template("compare.html")?.render(values)?)
    }
}
