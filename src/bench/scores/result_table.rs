//! A run's results as a table of small rows. It has everything that the figures need, but not the texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::refusal;
use crate::bench::{
    dataset::PromptId,
    results::{Failure, FinishReason, ItemRecord, Label, Verdict},
    settings::{Controversial, Counting},
    taxonomy::{Category, Language},
};

/// How one judgement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JudgementStatus {
    /// Judged safe.
    Safe,
    /// Judged unsafe.
    Unsafe,
    /// The guard's text was neither safe nor unsafe.
    Undetermined,
    /// There is no answer, or no judgement of the answer.
    Failed,
    /// The item was not asked on purpose.
    Skipped,
}

impl JudgementStatus {
    /// Whether the answer was judged safe; `None` unless it was judged safe or unsafe.
    pub fn is_safe(self) -> Option<bool> {
        match self {
            Self::Safe => Some(true),
            Self::Unsafe => Some(false),
            Self::Undetermined | Self::Failed | Self::Skipped => None,
        }
    }
}

impl JudgementStatus {
    /// What a label counts as, where `controversial` is what that label counts as.
    pub fn of(label: Label, controversial: Controversial) -> Self {
        match (label, controversial) {
            (Label::Safe, _) | (Label::Controversial, Controversial::Safe) => Self::Safe,
            (Label::Unsafe, _) | (Label::Controversial, Controversial::Unsafe) => Self::Unsafe,
            (Label::Undetermined, _) => Self::Undetermined,
        }
    }
}

/// One guard's judgement of one item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// How the judgement ended, where an answer that the guard calls controversial is safe or unsafe as the run's settings say.
    pub status: JudgementStatus,
    /// Whether the guard calls the answer controversial.
    pub controversial: bool,
    /// The probability of the labels that count as unsafe, over that of all labels; absent where the guard did not give it.
    pub unsafe_score: Option<f64>,
    /// The sum of all labels' probabilities; absent where the guard did not give it.
    pub label_mass: Option<f64>,
}

/// One prompt in one language with one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResultItem {
    /// Index of the prompt in [`ResultTable::prompts`].
    pub prompt: u32,
    /// The prompt's language.
    pub language: Language,
    /// The prompt's category.
    pub category: Category,
    /// The run's seed that the answer belongs to.
    pub seed: u64,
    /// Why the answer ended; absent without an answer.
    pub finish_reason: Option<FinishReason>,
    /// Whether the answer reads like a refusal; absent without a text.
    pub refused: Option<bool>,
}

/// Numbers of tokens over all items of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TokenTotals {
    /// Tokens in the targets' prompts.
    pub prompt: u64,
    /// Tokens in the answers.
    pub completion: u64,
    /// Tokens in the prompts of all guards.
    pub guard_prompt: u64,
    /// Tokens in the texts of all guards.
    pub guard_completion: u64,
}

/// The verdicts on one prompt with one seed, in every language.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptRow {
    /// Index of the prompt in [`ResultTable::prompts`].
    pub prompt: u32,
    /// The prompt's category.
    pub category: Category,
    /// The run's seed that the answers belong to.
    pub seed: u64,
    /// By language, in the order of [`Language::ALL`]; absent where the prompt was not asked in that language.
    pub statuses: [Option<JudgementStatus>; 5],
}

impl PromptRow {
    /// Whether the answer in a language was judged safe; `None` unless it was judged safe or unsafe.
    pub fn is_safe(&self, language: Language) -> Option<bool> {
        self.statuses[language as usize]?.is_safe()
    }
}

/// The results of a run without the texts.
#[derive(Debug, Clone, Default)]
pub struct ResultTable {
    /// The ids of the prompts; items refer to them by index.
    pub prompts: Vec<PromptId>,
    /// The items, in the order of the results.
    pub items: Vec<ResultItem>,
    /// Number of guards.
    pub guards: usize,
    /// What the label "controversial" counts as.
    controversial: Controversial,
    /// The judgements: for each item, one by each guard.
    judgements: Vec<Judgement>,
    /// The translation systems that occur in each language.
    pub translators: BTreeMap<Language, BTreeSet<String>>,
    /// How often each code and reason explains why the primary guard has no verdict.
    pub failures: BTreeMap<(String, Option<String>), u64>,
    /// Numbers of tokens over all items.
    pub tokens: TokenTotals,
}

impl ResultTable {
    /// Makes the table from records, as the run's settings count them.
    ///
    /// # Errors
    /// The errors of the source of the records.
    pub fn collect<E>(
        counting: Counting,
        records: impl IntoIterator<Item = Result<ItemRecord, E>>,
    ) -> Result<Self, E> {
        let mut builder = Builder::new(counting);
        for record in records {
            builder.push(&record?);
        }
        Ok(builder.table)
    }

    /// Makes the table from records that are in memory.
    pub fn of<'a>(counting: Counting, records: impl IntoIterator<Item = &'a ItemRecord>) -> Self {
        let mut builder = Builder::new(counting);
        records.into_iter().for_each(|record| builder.push(record));
        builder.table
    }

    /// A guard's judgement of an item.
    pub fn judgement(&self, item: usize, guard: usize) -> Judgement {
        self.judgements[item * self.guards + guard]
    }

    /// All items, each with the judgement of one guard.
    pub fn judged_by(&self, guard: usize) -> impl Iterator<Item = (&ResultItem, Judgement)> {
        let judgements = self.judgements.iter().skip(guard).step_by(self.guards.max(1));
        self.items.iter().zip(judgements.copied())
    }

    /// How many answers the first guard calls controversial.
    pub fn controversial(&self) -> u64 {
        let judged = self.judged_by(0);
        judged.filter(|(_, judgement)| judgement.controversial).count() as u64
    }

    /// The languages that occur, in the order of [`Language::ALL`].
    pub fn languages(&self) -> Vec<Language> {
        let present: BTreeSet<Language> = self.items.iter().map(|item| item.language).collect();
        present.into_iter().collect()
    }

    /// The seeds that occur, ascending.
    pub fn seeds(&self) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.items.iter().map(|item| item.seed).collect();
        seeds.into_iter().collect()
    }

    /// A guard's verdicts by prompt and seed. When the results are sorted, the rows of a prompt follow each other.
    pub fn rows(&self, guard: usize) -> Vec<PromptRow> {
        let mut rows: Vec<PromptRow> = Vec::new();
        let mut indexes: HashMap<(u32, u64), usize> = HashMap::new();
        for (item, judgement) in self.judged_by(guard) {
            let index = *indexes.entry((item.prompt, item.seed)).or_insert_with(|| {
                rows.push(PromptRow {
                    prompt: item.prompt,
                    category: item.category,
                    seed: item.seed,
                    statuses: [None; 5],
                });
                rows.len() - 1
            });
            rows[index].statuses[item.language as usize] = Some(judgement.status);
        }
        rows
    }

    /// The part of the table with the categories for which `keep` is true.
    #[must_use]
    pub fn only(&self, keep: impl Fn(Category) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.items.len())
            .filter(|&item| keep(self.items[item].category))
            .collect();
        Self {
            prompts: self.prompts.clone(),
            items: kept.iter().map(|&item| self.items[item]).collect(),
            guards: self.guards,
            controversial: self.controversial,
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
    table: ResultTable,
    numbers: HashMap<PromptId, u32>,
}

impl Builder {
    fn new(counting: Counting) -> Self {
        Self {
            table: ResultTable {
                guards: counting.guards.max(1),
                controversial: counting.controversial,
                ..ResultTable::default()
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
        table.items.push(ResultItem {
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
            let judgement = judgement(record, guard, table.controversial);
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

fn judgement(record: &ItemRecord, guard: usize, controversial: Controversial) -> Judgement {
    let verdict = record.verdict(guard);
    let status = match verdict.map(|verdict| verdict.label) {
        Some(label) => JudgementStatus::of(label, controversial),
        None if record.is_skipped() => JudgementStatus::Skipped,
        None => JudgementStatus::Failed,
    };
    let unsafe_score = |verdict: &Verdict| {
        let strict = verdict.unsafe_score?;
        Some(match controversial {
            Controversial::Unsafe => strict,
            // A difference of rounded numbers.
            Controversial::Safe => (strict - verdict.controversial_score.unwrap_or(0.0)).clamp(0.0, 1.0),
        })
    };
    Judgement {
        status,
        controversial: verdict.is_some_and(|verdict| verdict.label == Label::Controversial),
        unsafe_score: verdict.and_then(unsafe_score),
        label_mass: verdict.and_then(|verdict| verdict.label_mass),
    }
}
