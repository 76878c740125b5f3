//! From rows to what each model answered and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use super::{
    ImportOptions, MissingAnswer, MissingVerdicts, VerdictProblem, VerdictProblemKind as Kind,
    row::{self, VerdictRow},
};
use crate::{
    bench::{
        dataset::{PromptId, Strata},
        plan::{ItemKey, PlanItem},
        results::{
            Answer, AnswerTokens, Failure, FinishReason, GuardOutcome, GuardTokens, ItemRecord, Label,
            Outcome, Verdict,
        },
        table::{BadRow, Fields, TableLocation},
        taxonomy::{Category, Language},
    },
    digest,
};

/// One answer with its verdicts by guard.
#[derive(Debug)]
struct Judged {
    first: TableLocation,
    answer: Option<String>,
    verdicts: BTreeMap<usize, (TableLocation, Label, Option<f64>)>,
}

/// A prompt in one language.
#[derive(Debug)]
struct Prompt {
    first: TableLocation,
    item: PlanItem,
    /// Whether some row has its text.
    known: bool,
}

/// What one model's answers were judged.
#[derive(Debug, Default)]
pub(super) struct ModelVerdicts {
    /// Empty where the file names none.
    pub(super) model: String,
    /// In the order in which the file names them.
    pub(super) guards: Vec<String>,
    prompts: BTreeMap<ItemKey, Prompt>,
    answers: BTreeMap<(ItemKey, u64), Judged>,
}

impl ModelVerdicts {
    /// Prompts whose text is known.
    pub(super) fn prompts(&self) -> impl Iterator<Item = &PlanItem> {
        let known = self.prompts.values().filter(|prompt| prompt.known);
        known.map(|prompt| &prompt.item)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ItemKey> {
        self.prompts.keys()
    }

    pub(super) fn seeds(&self) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.answers.keys().map(|(_, seed)| *seed).collect();
        seeds.into_iter().collect()
    }

    /// In the order of `results.jsonl`.
    pub(super) fn records(&self) -> impl Iterator<Item = ItemRecord> {
        let of = self.answers.iter();
        of.filter_map(|((key, seed), judged)| {
            let prompt = self.prompts.get(key)?;
            Some(ItemRecord {
                id: key.id.clone(),
                language: key.language,
                category: prompt.item.category,
                strata: prompt.item.strata.clone(),
                seed: *seed,
                item_seed: None,
                prompt_digest: prompt.known.then(|| digest::of_bytes(&prompt.item.prompt)),
                outcome: Outcome::Answered(self.answer(judged)),
            })
        })
    }

    fn answer(&self, judged: &Judged) -> Answer {
        let verdict = |guard: usize| match judged.verdicts.get(&guard) {
            Some((_, label, unsafe_score)) => GuardOutcome::Judged(Verdict {
                label: *label,
                unsafe_score: *unsafe_score,
                label_mass: None,
                raw_output: String::new(),
                categories: Vec::new(),
                tokens: GuardTokens::default(),
            }),
            None => GuardOutcome::Failed(Failure {
                code: "UNKNOWN".to_owned(),
                reason: Some("NOT_IN_FILE".to_owned()),
                message: "the imported file has no verdict of this guard on this answer".to_owned(),
            }),
        };
        Answer {
            finish_reason: FinishReason::Unknown,
            tokens: AnswerTokens::default(),
            text_digest: judged.answer.as_ref().map(digest::of_bytes),
            text: judged.answer.clone(),
            verdicts: (0..self.guards.len()).map(verdict).collect(),
        }
    }

    /// By language, answers that others of the languages that occur have and this one has not.
    pub(super) fn gaps(&self) -> Vec<MissingVerdicts> {
        let mut rows: BTreeMap<(&PromptId, u64), BTreeSet<Language>> = BTreeMap::new();
        for (key, seed) in self.answers.keys() {
            rows.entry((&key.id, *seed)).or_default().insert(key.language);
        }
        let all: BTreeSet<Language> = self.answers.keys().map(|(key, _)| key.language).collect();
        let of_language = |language: Language| {
            let lacking = rows
                .iter()
                .filter(|(_, languages)| !languages.contains(&language));
            let answers = lacking.map(|((id, seed), _)| MissingAnswer {
                id: (*id).clone(),
                seed: *seed,
            });
            MissingVerdicts {
                model: self.model.clone(),
                translator: None,
                language,
                of: rows.len(),
                answers: answers.collect(),
            }
        };
        let gaps = all.into_iter().map(of_language);
        gaps.filter(|gap| !gap.answers.is_empty()).collect()
    }
}

/// Everything that a file had to say.
pub(super) struct Collected {
    /// By name.
    pub(super) models: Vec<ModelVerdicts>,
    /// Errors, in the order of the file.
    pub(super) problems: Vec<VerdictProblem>,
}

/// What a column says in the first row, which all others have to do as well.
#[derive(Debug, Clone, Copy)]
struct Used {
    given: bool,
    first: TableLocation,
}

pub(super) struct Collector<'a> {
    options: &'a ImportOptions,
    models: BTreeMap<String, ModelVerdicts>,
    /// What is said of an id in all languages and for all models.
    ids: HashMap<PromptId, (Category, Option<String>, TableLocation)>,
    used: BTreeMap<&'static str, Used>,
    problems: Vec<VerdictProblem>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(options: &'a ImportOptions) -> Self {
        Self {
            options,
            models: BTreeMap::new(),
            ids: HashMap::new(),
            used: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, place: TableLocation, row: Result<Fields, BadRow>) {
        match row {
            Ok(fields) => {
                if let Some(row) = row::read(place, &fields, &mut self.problems) {
                    self.take(place, row);
                }
            }
            Err(bad) => self.problems.push(VerdictProblem::from_bad_row(place, &bad)),
        }
    }

    fn problem(
        &mut self,
        (kind, place): (Kind, TableLocation),
        id: Option<&PromptId>,
        field: &str,
        message: impl fmt::Display,
    ) {
        let id = id.map(PromptId::to_string);
        self.problems
            .push(VerdictProblem::new(kind, place, id, field, message.to_string()));
    }

    fn take(&mut self, place: TableLocation, row: VerdictRow) {
        let others = |wanted: &String| translator(&row.strata).is_some_and(|name| name != wanted);
        if self.options.translator.as_ref().is_some_and(others) {
            return;
        }
        let VerdictRow { key, seed, .. } = &row;
        let (key, seed) = (key.clone(), seed.unwrap_or_default());
        let model = row.model.clone().or_else(|| self.options.model.clone());
        let guard = row.guard.clone().or_else(|| self.options.guard.clone());
        for (column, given) in [
            ("model", model.is_some()),
            ("guard", guard.is_some()),
            ("seed", row.seed.is_some()),
        ] {
            self.all_or_none(column, given, place, &key.id);
        }
        self.same_id(place, &row);
        let model = model.unwrap_or_default();
        let verdicts = self.models.entry(model.clone()).or_insert_with(|| ModelVerdicts {
            model,
            ..ModelVerdicts::default()
        });
        let guard = guard.unwrap_or_default();
        let known = verdicts.guards.iter().position(|known| *known == guard);
        let number = known.unwrap_or(verdicts.guards.len());
        if known.is_none() {
            verdicts.guards.push(guard);
        }
        let mut wrong = Vec::new();
        let prompt = verdicts.prompts.entry(key.clone()).or_insert_with(|| Prompt {
            first: place,
            item: PlanItem {
                key: key.clone(),
                category: row.category,
                prompt: String::new(),
                strata: row.strata.clone(),
            },
            known: false,
        });
        if let Some(text) = row.prompt {
            if prompt.known && prompt.item.prompt != text {
                wrong.push((Kind::Conflict, "prompt", prompt.first));
            }
            (prompt.item.prompt, prompt.known) = (text, true);
        }
        if translator(&prompt.item.strata) != translator(&row.strata) {
            wrong.push((Kind::Conflict, "translator", prompt.first));
        }
        let judged = verdicts
            .answers
            .entry((key.clone(), seed))
            .or_insert_with(|| Judged {
                first: place,
                answer: None,
                verdicts: BTreeMap::new(),
            });
        match (&judged.answer, row.answer) {
            (Some(known), Some(text)) if *known != text => {
                wrong.push((Kind::Conflict, "answer", judged.first));
            }
            (None, Some(text)) => judged.answer = Some(text),
            _ => {}
        }
        let verdict = (place, row.label, row.unsafe_score);
        if let Some((first, ..)) = judged.verdicts.insert(number, verdict) {
            wrong.push((Kind::Duplicate, "", first));
        }
        for (kind, field, first) in wrong {
            let message = match kind {
                Kind::Duplicate => format!(
                    "id {} in {} has a verdict in {first} already",
                    key.id,
                    key.language.name()
                ),
                _ => format!("differs from {first}, which speaks of the same"),
            };
            self.problem((kind, place), Some(&key.id), field, message);
        }
    }

    /// Rows that a name or number is missing in cannot be told from the others.
    fn all_or_none(&mut self, column: &'static str, given: bool, place: TableLocation, id: &PromptId) {
        let used = *self.used.entry(column).or_insert(Used { given, first: place });
        if used.given != given {
            let says = if given {
                "is given here, not in"
            } else {
                "is missing here, not in"
            };
            let message = format!("{says} {}", used.first);
            self.problem((Kind::Schema, place), Some(id), column, message);
        }
    }

    /// All rows of an id are of one category and one attack type.
    fn same_id(&mut self, place: TableLocation, row: &VerdictRow) {
        let said = (row.category, row.strata.attack_type.clone(), place);
        let (category, attack_type, first) = self.ids.entry(row.key.id.clone()).or_insert(said).clone();
        if category != row.category {
            let message = format!(
                "is `{:?}`, but {first} has `{category:?}` for the same id",
                row.category
            );
            self.problem((Kind::Conflict, place), Some(&row.key.id), "category", message);
        }
        if attack_type != row.strata.attack_type {
            let message = format!("differs from {first}, which has the same id");
            self.problem((Kind::Conflict, place), Some(&row.key.id), "attack_type", message);
        }
    }

    pub(super) fn finish(mut self) -> Collected {
        if self.models.is_empty() && self.problems.is_empty() {
            self.problem(
                (Kind::NoRows, TableLocation::Line(1)),
                None,
                "",
                "the file has no rows",
            );
        }
        self.problems.sort_by_key(|problem| problem.location);
        Collected {
            models: self.models.into_values().collect(),
            problems: self.problems,
        }
    }
}

fn translator(strata: &Strata) -> Option<&str> {
    strata.translator.as_deref()
}
