//! Gathers the rows of a file by model, prompt and answer, and finds those that contradict each other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use super::{
    MissingAnswer, MissingVerdicts, VerdictProblem, VerdictProblemKind as Kind,
    options::ImportOptions,
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

/// One answer and the verdicts on it.
#[derive(Debug)]
struct Judged {
    /// The row that names it first.
    first: TableLocation,
    answer: Option<String>,
    /// By the number of the guard.
    verdicts: BTreeMap<usize, RowVerdict>,
}

/// The verdict that one row gives.
#[derive(Debug)]
struct RowVerdict {
    place: TableLocation,
    label: Label,
    unsafe_score: Option<f64>,
}

/// A prompt in one language.
#[derive(Debug)]
struct Prompt {
    /// The row that names it first.
    first: TableLocation,
    item: PlanItem,
    /// Whether some row gives the prompt's text.
    has_text: bool,
}

/// All answers of one model and the verdicts on them.
#[derive(Debug, Default)]
pub(super) struct ModelVerdicts {
    /// The model's name; empty where the file names none.
    pub(super) model: String,
    /// Names of the guards, in the order in which the file names them.
    pub(super) guards: Vec<String>,
    prompts: BTreeMap<ItemKey, Prompt>,
    answers: BTreeMap<(ItemKey, u64), Judged>,
}

impl ModelVerdicts {
    /// Prompts whose text the file gives.
    pub(super) fn prompts(&self) -> impl Iterator<Item = &PlanItem> {
        let with_text = self.prompts.values().filter(|prompt| prompt.has_text);
        with_text.map(|prompt| &prompt.item)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ItemKey> {
        self.prompts.keys()
    }

    pub(super) fn seeds(&self) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.answers.keys().map(|(_, seed)| *seed).collect();
        seeds.into_iter().collect()
    }

    /// The answers as records, in the order of `results.jsonl`.
    pub(super) fn records(&self) -> impl Iterator<Item = ItemRecord> {
        let answers = self.answers.iter();
        answers.filter_map(|((key, seed), judged)| {
            let prompt = self.prompts.get(key)?;
            Some(ItemRecord {
                id: key.id.clone(),
                language: key.language,
                category: prompt.item.category,
                strata: prompt.item.strata.clone(),
                seed: *seed,
                item_seed: None,
                prompt_digest: prompt.has_text.then(|| digest::of_bytes(&prompt.item.prompt)),
                outcome: Outcome::Answered(self.answer(judged)),
            })
        })
    }

    fn answer(&self, judged: &Judged) -> Answer {
        let verdict = |guard: usize| match judged.verdicts.get(&guard) {
            Some(verdict) => GuardOutcome::Judged(Verdict {
                controversial_score: None,
                refused: None,
                label: verdict.label,
                unsafe_score: verdict.unsafe_score,
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

    /// For each language, the answers that it lacks and that some other language of the file has.
    pub(super) fn missing(&self) -> Vec<MissingVerdicts> {
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
        let missing = all.into_iter().map(of_language);
        missing.filter(|verdicts| !verdicts.answers.is_empty()).collect()
    }
}

/// All verdicts of a file, and all problems in it.
pub(super) struct Collected {
    /// Sorted by name.
    pub(super) models: Vec<ModelVerdicts>,
    /// In the order of the file; all of them are errors.
    pub(super) problems: Vec<VerdictProblem>,
}

/// Whether the first row fills an optional column. All other rows must then do the same.
#[derive(Debug, Clone, Copy)]
struct ColumnUse {
    given: bool,
    first: TableLocation,
}

/// Category and attack type of an id, and the row that says it first.
#[derive(Debug, Clone)]
struct IdFacts {
    category: Category,
    attack_type: Option<String>,
    first: TableLocation,
}

/// Which row a problem is about.
#[derive(Clone, Copy)]
struct RowRef<'a> {
    place: TableLocation,
    id: Option<&'a PromptId>,
}

impl<'a> RowRef<'a> {
    fn new(place: TableLocation, id: &'a PromptId) -> Self {
        Self { place, id: Some(id) }
    }
}

/// Takes the rows of a file one after the other, and checks each against those before it.
pub(super) struct Collector<'a> {
    options: &'a ImportOptions,
    models: BTreeMap<String, ModelVerdicts>,
    /// What all rows of an id must agree on, as its first row says it.
    ids: HashMap<PromptId, IdFacts>,
    used: BTreeMap<&'static str, ColumnUse>,
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

    fn problem(&mut self, kind: Kind, row: RowRef<'_>, field: &str, message: impl fmt::Display) {
        let id = row.id.map(PromptId::to_string);
        self.problems.push(VerdictProblem::new(
            kind,
            row.place,
            id,
            field,
            message.to_string(),
        ));
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
        self.check_id_facts(place, &row);
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
            has_text: false,
        });
        if let Some(text) = row.prompt {
            if prompt.has_text && prompt.item.prompt != text {
                wrong.push((Kind::Conflict, "prompt", prompt.first));
            }
            (prompt.item.prompt, prompt.has_text) = (text, true);
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
        let verdict = RowVerdict {
            place,
            label: row.label,
            unsafe_score: row.unsafe_score,
        };
        if let Some(first) = judged.verdicts.insert(number, verdict) {
            wrong.push((Kind::Duplicate, "", first.place));
        }
        for (kind, field, first) in wrong {
            let message = match kind {
                Kind::Duplicate => format!(
                    "id {} in {} has a verdict in {first} already",
                    key.id,
                    key.language.name()
                ),
                _ => format!("differs from {first}, which is about the same prompt or answer"),
            };
            self.problem(kind, RowRef::new(place, &key.id), field, message);
        }
    }

    /// Reports a row that leaves out a column which the first row fills, or the other way round: without it the row cannot be
    /// told from the others.
    fn all_or_none(&mut self, column: &'static str, given: bool, place: TableLocation, id: &PromptId) {
        let used = *self
            .used
            .entry(column)
            .or_insert(ColumnUse { given, first: place });
        if used.given != given {
            let says = if given {
                "is given here, not in"
            } else {
                "is missing here, not in"
            };
            let message = format!("{says} {}", used.first);
            self.problem(Kind::Schema, RowRef::new(place, id), column, message);
        }
    }

    /// Reports a row whose category or attack type differs from that of another row with the same id.
    fn check_id_facts(&mut self, place: TableLocation, row: &VerdictRow) {
        let own = IdFacts {
            category: row.category,
            attack_type: row.strata.attack_type.clone(),
            first: place,
        };
        let IdFacts {
            category,
            attack_type,
            first,
        } = self.ids.entry(row.key.id.clone()).or_insert(own).clone();
        if category != row.category {
            let message = format!(
                "is `{:?}`, but {first} has `{category:?}` for the same id",
                row.category
            );
            self.problem(
                Kind::Conflict,
                RowRef::new(place, &row.key.id),
                "category",
                message,
            );
        }
        if attack_type != row.strata.attack_type {
            let message = format!("differs from {first}, which has the same id");
            self.problem(
                Kind::Conflict,
                RowRef::new(place, &row.key.id),
                "attack_type",
                message,
            );
        }
    }

    pub(super) fn finish(mut self) -> Collected {
        if self.models.is_empty() && self.problems.is_empty() {
            let start = RowRef {
                place: TableLocation::Line(1),
                id: None,
            };
            self.problem(Kind::NoRows, start, "", "the file has no rows");
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
