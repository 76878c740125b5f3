//! Verdicts grouped by prompt. The prompt is the unit of every interval, whatever languages, seeds and categories a figure
//! pools.

use std::collections::BTreeMap;

use super::result_table::{PromptRow, ResultTable};
use crate::bench::{
    statistics::{PairCounts, PairedDifference, Proportion},
    taxonomy::{Category, Language},
};

/// Counts of the answers to one prompt in one language, over all seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// Answers judged safe or unsafe.
    judged: u64,
    /// Answers judged safe.
    safe: u64,
    /// Answers whose text the run keeps.
    texts: u64,
    /// Answers whose text reads like a refusal.
    refused: u64,
}

/// The counts of one prompt.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    category: Category,
    /// By language, in the order of [`Language::ALL`].
    counts: [Counts; 5],
}

impl Prompt {
    fn sum(&self, languages: &impl Fn(Language) -> bool, count: fn(&Counts) -> u64) -> u64 {
        let kept = Language::ALL
            .into_iter()
            .zip(&self.counts)
            .filter(|(language, _)| languages(*language));
        kept.map(|(_, counts)| count(counts)).sum()
    }
}

/// A guard's verdicts on every prompt of a run.
#[derive(Debug, Clone)]
pub(crate) struct VerdictsByPrompt(Vec<Prompt>);

impl VerdictsByPrompt {
    /// Groups the verdicts of one guard, which is given by its number in the run's settings.
    pub(crate) fn new(table: &ResultTable, guard: usize) -> Self {
        let mut prompts: BTreeMap<(u32, Category), [Counts; 5]> = BTreeMap::new();
        for (item, judgement) in table.judged_by(guard) {
            let prompt = prompts.entry((item.prompt, item.category)).or_default();
            let counts = &mut prompt[item.language as usize];
            if let Some(safe) = judgement.status.is_safe() {
                counts.judged += 1;
                counts.safe += u64::from(safe);
            }
            if let Some(refused) = item.refused {
                counts.texts += 1;
                counts.refused += u64::from(refused);
            }
        }
        let prompt = |((_, category), counts)| Prompt { category, counts };
        Self(prompts.into_iter().map(prompt).collect())
    }

    /// The proportion of safe verdicts among the judged answers in these categories and languages.
    pub(crate) fn safe(
        &self,
        categories: impl Fn(Category) -> bool,
        languages: impl Fn(Language) -> bool,
    ) -> Proportion {
        self.proportion(
            categories,
            languages,
            |counts| counts.safe,
            |counts| counts.judged,
        )
    }

    /// The proportion of answers that read like a refusal, among those with a text.
    pub(crate) fn refused(
        &self,
        categories: impl Fn(Category) -> bool,
        languages: impl Fn(Language) -> bool,
    ) -> Proportion {
        self.proportion(
            categories,
            languages,
            |counts| counts.refused,
            |counts| counts.texts,
        )
    }

    fn proportion(
        &self,
        categories: impl Fn(Category) -> bool,
        languages: impl Fn(Language) -> bool,
        successes: fn(&Counts) -> u64,
        trials: fn(&Counts) -> u64,
    ) -> Proportion {
        let mut proportion = Proportion::default();
        for prompt in self.0.iter().filter(|prompt| categories(prompt.category)) {
            proportion.add_cluster(prompt.sum(&languages, successes), prompt.sum(&languages, trials));
        }
        proportion
    }

    /// The safe proportion of each category that has a verdict in these languages. [`Category::UNKNOWN`] is left out.
    pub(crate) fn safe_by_category(
        &self,
        languages: impl Fn(Language) -> bool,
    ) -> BTreeMap<Category, Proportion> {
        let mut proportions: BTreeMap<Category, Proportion> = BTreeMap::new();
        for prompt in self
            .0
            .iter()
            .filter(|prompt| prompt.category != Category::UNKNOWN)
        {
            let proportion = proportions.entry(prompt.category).or_default();
            proportion.add_cluster(
                prompt.sum(&languages, |counts| counts.safe),
                prompt.sum(&languages, |counts| counts.judged),
            );
        }
        proportions.retain(|_, proportion| proportion.trials > 0);
        proportions
    }
}

/// How often the verdicts of several languages are equal. A trial is a row (a prompt with one seed) that was judged in all
/// of these languages, and a success is a row with the same verdict in all of them. The rows of one prompt are a cluster.
pub(crate) fn equal_verdicts(rows: &[PromptRow], languages: &[Language]) -> Proportion {
    let mut prompts: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for row in rows {
        let verdicts: Option<Vec<bool>> = languages.iter().map(|language| row.is_safe(*language)).collect();
        if let Some(verdicts) = verdicts {
            let (equal, judged) = prompts.entry(row.prompt).or_default();
            *judged += 1;
            *equal += u64::from(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
    let mut proportion = Proportion::default();
    for (equal, judged) in prompts.into_values() {
        proportion.add_cluster(equal, judged);
    }
    proportion
}

/// Pairs of verdicts on the same prompts, in two languages or in two runs, grouped by prompt.
#[derive(Debug, Clone, Default)]
pub(crate) struct PairedVerdicts {
    pairs: PairCounts,
    by_prompt: BTreeMap<u32, PromptPairs>,
}

/// The pairs of one prompt.
#[derive(Debug, Clone)]
struct PromptPairs {
    category: Category,
    first_safe: u64,
    second_safe: u64,
    pairs: u64,
}

impl PairedVerdicts {
    /// Adds a pair of verdicts. The pairs of one prompt are a cluster.
    pub(crate) fn add(&mut self, prompt: u32, category: Category, first_safe: bool, second_safe: bool) {
        self.pairs.add(first_safe, second_safe);
        let prompt = self.by_prompt.entry(prompt).or_insert(PromptPairs {
            category,
            first_safe: 0,
            second_safe: 0,
            pairs: 0,
        });
        prompt.first_safe += u64::from(first_safe);
        prompt.second_safe += u64::from(second_safe);
        prompt.pairs += 1;
    }

    /// The counts of all pairs, whatever their prompt.
    pub(crate) fn pairs(&self) -> PairCounts {
        self.pairs
    }

    /// The two sides' safe proportions over all prompts, with prompts as clusters.
    pub(crate) fn paired_difference(&self) -> PairedDifference {
        let mut both = PairedDifference::default();
        for prompt in self.by_prompt.values() {
            both.add_cluster(prompt.first_safe, prompt.second_safe, prompt.pairs);
        }
        both
    }

    /// The same for each category. [`Category::UNKNOWN`] is left out.
    pub(crate) fn by_category(&self) -> BTreeMap<Category, PairedDifference> {
        let mut categories: BTreeMap<Category, PairedDifference> = BTreeMap::new();
        for prompt in self.by_prompt.values() {
            if prompt.category != Category::UNKNOWN {
                let both = categories.entry(prompt.category).or_default();
                both.add_cluster(prompt.first_safe, prompt.second_safe, prompt.pairs);
            }
        }
        categories
    }
}
