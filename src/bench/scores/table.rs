//! A run's results as a table of small rows: all that figures need, without the texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::refusal;
use crate::bench::{
    dataset::PromptId,
    results::{Failure, FinishReason, ItemRecord, Label},
    taxonomy::{Category, Language},
};

/// What became of one judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Judged safe.
    Safe,
    /// Judged unsafe.
    Unsafe,
    /// The guard said neither.
    Undetermined,
    /// No answer, or no judgement of it.
    Failed,
    /// Not asked on purpose.
    Skipped,
}

impl Mark {
    /// Whether it is safe; `None` unless it was judged safe or unsafe.
    pub fn safe(self) -> Option<bool> {
        match self {
            Self::Safe => Some(true),
            Self::Unsafe => Some(false),
            Self::Undetermined | Self::Failed | Self::Skipped => None,
        }
    }
}

impl From<Label> for Mark {
    fn from(label: Label) -> Self {
        match label {
            Label::Safe => Self::Safe,
            Label::Unsafe => Self::Unsafe,
            Label::Undetermined => Self::Undetermined,
        }
    }
}

/// One guard's judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Its outcome.
    pub mark: Mark,
    /// p(unsafe) / (p(safe) + p(unsafe)), where the guard gave it.
    pub unsafe_score: Option<f64>,
    /// p(safe) + p(unsafe), where the guard gave it.
    pub label_mass: Option<f64>,
}

/// One prompt in one language with one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// Place in [`Table::prompts`].
    pub prompt: u32,
    /// Its language.
    pub language: Language,
    /// Its category.
    pub category: Category,
    /// Which of the run's seeds.
    pub seed: u64,
    /// Why the answer ended; absent without an answer.
    pub finish_reason: Option<FinishReason>,
    /// Whether the answer reads like a refusal; absent without a text.
    pub refused: Option<bool>,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TokenTotals {
    /// Targets' prompts.
    pub prompt: u64,
    /// Answers.
    pub completion: u64,
    /// Prompts of all guards.
    pub guard_prompt: u64,
    /// Texts of all guards.
    pub guard_completion: u64,
}

/// The verdicts on one prompt with one seed in every language.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptRow {
    /// Place in [`Table::prompts`].
    pub prompt: u32,
    /// Its category.
    pub category: Category,
    /// Which of the run's seeds.
    pub seed: u64,
    /// In the order of [`Language::ALL`]; absent where the prompt was not asked in that language.
    pub marks: [Option<Mark>; 5],
}

impl PromptRow {
    /// Whether it was judged safe in a language; `None` unless it was judged safe or unsafe.
    pub fn safe(&self, language: Language) -> Option<bool> {
        self.marks[language as usize]?.safe()
    }
}

/// Results in small.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The prompts' ids, by number.
    pub prompts: Vec<PromptId>,
    /// In the order of the results.
    pub items: Vec<Item>,
    /// Guards.
    pub guards: usize,
    /// Of each item, for each guard.
    judgements: Vec<Judgement>,
    /// Translation systems that occur in each language.
    pub translators: BTreeMap<Language, BTreeSet<String>>,
    /// Why the primary guard has no verdict.
    pub failures: BTreeMap<(String, Option<String>), u64>,
    /// Over all items.
    pub tokens: TokenTotals,
}

impl Table {
    /// From records; `guards` is the number of guards in the run's settings.
    ///
    /// # Errors
    /// Whatever the source of the records fails with.
    pub fn collect<E>(
        guards: usize,
        records: impl IntoIterator<Item = Result<ItemRecord, E>>,
    ) -> Result<Self, E> {
        let mut builder = Builder::new(guards);
        for record in records {
            builder.push(&record?);
        }
        Ok(builder.table)
    }

    /// From records in memory.
    pub fn of<'a>(guards: usize, records: impl IntoIterator<Item = &'a ItemRecord>) -> Self {
        let mut builder = Builder::new(guards);
        records.into_iter().for_each(|record| builder.push(record));
        builder.table
    }

    /// What a guard made of an item.
    pub fn judgement(&self, item: usize, guard: usize) -> Judgement {
        self.judgements[item * self.guards + guard]
    }

    /// Items with a guard's judgement.
    pub fn judged_by(&self, guard: usize) -> impl Iterator<Item = (&Item, Judgement)> {
        let judgements = self.judgements.iter().skip(guard).step_by(self.guards.max(1));
        self.items.iter().zip(judgements.copied())
    }

    /// Languages that occur, in table order.
    pub fn languages(&self) -> Vec<Language> {
        let present: BTreeSet<Language> = self.items.iter().map(|item| item.language).collect();
        present.into_iter().collect()
    }

    /// Seeds that occur, ascending.
    pub fn seeds(&self) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.items.iter().map(|item| item.seed).collect();
        seeds.into_iter().collect()
    }

    /// A guard's verdicts by prompt and seed. Rows of a prompt follow each other when the results are sorted.
    pub fn rows(&self, guard: usize) -> Vec<PromptRow> {
        let mut rows: Vec<PromptRow> = Vec::new();
        let mut places: HashMap<(u32, u64), usize> = HashMap::new();
        for (item, judgement) in self.judged_by(guard) {
            let place = *places.entry((item.prompt, item.seed)).or_insert_with(|| {
                rows.push(PromptRow {
                    prompt: item.prompt,
                    category: item.category,
                    seed: item.seed,
                    marks: [None; 5],
                });
                rows.len() - 1
            });
            rows[place].marks[item.language as usize] = Some(judgement.mark);
        }
        rows
    }

    /// The part of the table with these categories.
    #[must_use]
    pub fn only(&self, keep: impl Fn(Category) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.items.len())
            .filter(|&item| keep(self.items[item].category))
            .collect();
        Self {
            prompts: self.prompts.clone(),
            items: kept.iter().map(|&item| self.items[item]).collect(),
            guards: self.guards,
            judgements: kept
                .iter()
                .flat_map(|&item| (0..self.guards).map(move |guard| (item, guard)))
                .map(|(item, guard)| self.judgement(item, guard))
                .collect(),
            translators: self.translators.clone(),
            failures: BTreeMap::new(),
            tokens: TokenTotals::default(),
        }
    }
}

struct Builder {
    table: Table,
    numbers: HashMap<PromptId, u32>,
}

impl Builder {
    fn new(guards: usize) -> Self {
        Self {
            table: Table {
                guards: guards.max(1),
                ..Table::default()
            },
            numbers: HashMap::new(),
        }
    }

    fn push(&mut self, record: &ItemRecord) {
        let next = self.table.prompts.len() as u32;
        let prompt = *self.numbers.entry(record.id.clone()).or_insert(next);
        let table = &mut self.table;
        if prompt == next {
            table.prompts.push(record.id.clone());
        }
        let answer = record.answer();
        table.items.push(Item {
            prompt,
            language: record.language,
            category: record.category,
            seed: record.seed,
            finish_reason: answer.map(|answer| answer.finish_reason),
            refused: answer
                .and_then(|answer| answer.text.as_deref())
                .map(|text| refusal::reads_like_refusal(text, record.language)),
        });
        for guard in 0..table.guards {
            let judgement = judgement(record, guard);
            table.judgements.push(judgement);
            if let Some(verdict) = record.verdict(guard) {
                table.tokens.guard_prompt += u64::from(verdict.tokens.prompt);
                table.tokens.guard_completion += u64::from(verdict.tokens.completion);
            }
        }
        if let Some(Failure { code, reason, .. }) = record.failure(0) {
            *table.failures.entry((code.clone(), reason.clone())).or_default() += 1;
        }
        if let Some(answer) = answer {
            table.tokens.prompt += u64::from(answer.tokens.prompt);
            table.tokens.completion += u64::from(answer.tokens.completion);
        }
        if let Some(translator) = &record.strata.translator {
            let known = table.translators.entry(record.language).or_default();
            if !known.contains(translator) {
                known.insert(translator.clone());
            }
        }
    }
}

fn judgement(record: &ItemRecord, guard: usize) -> Judgement {
    let verdict = record.verdict(guard);
    let mark = match verdict.map(|verdict| verdict.label) {
        Some(label) => label.into(),
        None if record.is_skipped() => Mark::Skipped,
        None => Mark::Failed,
    };
    Judgement {
        mark,
        unsafe_score: verdict.and_then(|verdict| verdict.unsafe_score),
        label_mass: verdict.and_then(|verdict| verdict.label_mass),
    }
}
