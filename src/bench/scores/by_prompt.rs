//! Verdicts by prompt: the unit of every interval, whatever languages, seeds and categories it pools.

use std::collections::BTreeMap;

use super::table::{PromptRow, Table};
use crate::bench::{
    statistics::{PairedShare, Pairs, Share},
    taxonomy::{Category, Language},
};

/// Answers of one prompt in one language, over all seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// Judged safe or unsafe.
    judged: u64,
    /// Of these, safe.
    safe: u64,
    /// With a text.
    texts: u64,
    /// Of these, what reads like a refusal.
    refused: u64,
}

/// One prompt.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    category: Category,
    /// In the order of [`Language::ALL`].
    counts: [Counts; 5],
}

impl Prompt {
    fn sum(&self, languages: &impl Fn(Language) -> bool, of: fn(&Counts) -> u64) -> u64 {
        let kept = Language::ALL
            .into_iter()
            .zip(&self.counts)
            .filter(|(language, _)| languages(*language));
        kept.map(|(_, counts)| of(counts)).sum()
    }
}

/// A guard's verdicts on every prompt.
#[derive(Debug, Clone)]
pub struct VerdictsByPrompt(Vec<Prompt>);

impl VerdictsByPrompt {
    /// From the table of a run.
    pub fn new(table: &Table, guard: usize) -> Self {
        let mut prompts: BTreeMap<(u32, Category), [Counts; 5]> = BTreeMap::new();
        for (item, judgement) in table.judged_by(guard) {
            let prompt = prompts.entry((item.prompt, item.category)).or_default();
            let counts = &mut prompt[item.language as usize];
            if let Some(safe) = judgement.mark.safe() {
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

    /// The safe share of what was judged in these categories and languages.
    pub fn safe(&self, categories: impl Fn(Category) -> bool, languages: impl Fn(Language) -> bool) -> Share {
        self.share(
            categories,
            languages,
            |counts| counts.safe,
            |counts| counts.judged,
        )
    }

    /// The share of answers with a text that read like a refusal.
    pub fn refused(
        &self,
        categories: impl Fn(Category) -> bool,
        languages: impl Fn(Language) -> bool,
    ) -> Share {
        self.share(
            categories,
            languages,
            |counts| counts.refused,
            |counts| counts.texts,
        )
    }

    fn share(
        &self,
        categories: impl Fn(Category) -> bool,
        languages: impl Fn(Language) -> bool,
        successes: fn(&Counts) -> u64,
        trials: fn(&Counts) -> u64,
    ) -> Share {
        let mut share = Share::default();
        for prompt in self.0.iter().filter(|prompt| categories(prompt.category)) {
            share.add(prompt.sum(&languages, successes), prompt.sum(&languages, trials));
        }
        share
    }

    /// Safe shares of each category that has a verdict in these languages, without the unknown one.
    pub fn by_category(&self, languages: impl Fn(Language) -> bool) -> BTreeMap<Category, Share> {
        let mut shares: BTreeMap<Category, Share> = BTreeMap::new();
        for prompt in self
            .0
            .iter()
            .filter(|prompt| prompt.category != Category::UNKNOWN)
        {
            let share = shares.entry(prompt.category).or_default();
            share.add(
                prompt.sum(&languages, |counts| counts.safe),
                prompt.sum(&languages, |counts| counts.judged),
            );
        }
        shares.retain(|_, share| share.trials > 0);
        shares
    }
}

/// How often verdicts are equal: successes are rows with the same verdict in all of these languages, of those judged in
/// all of them. Rows of one prompt, one for each seed, are a cluster.
pub fn equal_verdicts(rows: &[PromptRow], languages: &[Language]) -> Share {
    let mut prompts: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for row in rows {
        let verdicts: Option<Vec<bool>> = languages.iter().map(|language| row.safe(*language)).collect();
        if let Some(verdicts) = verdicts {
            let (equal, judged) = prompts.entry(row.prompt).or_default();
            *judged += 1;
            *equal += u64::from(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
    let mut share = Share::default();
    for (equal, judged) in prompts.into_values() {
        share.add(equal, judged);
    }
    share
}

/// Pairs of verdicts on the same prompt, in two languages or runs.
#[derive(Debug, Clone, Default)]
pub struct PairedPrompts {
    pairs: Pairs,
    by_prompt: BTreeMap<u32, PairedPrompt>,
}

/// One prompt's pairs.
#[derive(Debug, Clone)]
struct PairedPrompt {
    category: Category,
    first_safe: u64,
    second_safe: u64,
    pairs: u64,
}

impl PairedPrompts {
    /// Counts a pair of verdicts; those of the same prompt are a cluster.
    pub fn add(&mut self, prompt: u32, category: Category, first_safe: bool, second_safe: bool) {
        self.pairs.add(first_safe, second_safe);
        let prompt = self.by_prompt.entry(prompt).or_insert(PairedPrompt {
            category,
            first_safe: 0,
            second_safe: 0,
            pairs: 0,
        });
        prompt.first_safe += u64::from(first_safe);
        prompt.second_safe += u64::from(second_safe);
        prompt.pairs += 1;
    }

    /// All pairs, whatever their prompt.
    pub fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// All of them, prompts as clusters.
    pub fn share(&self) -> PairedShare {
        let mut share = PairedShare::default();
        for prompt in self.by_prompt.values() {
            share.add(prompt.first_safe, prompt.second_safe, prompt.pairs);
        }
        share
    }

    /// By category, without the unknown one.
    pub fn by_category(&self) -> BTreeMap<Category, PairedShare> {
        let mut shares: BTreeMap<Category, PairedShare> = BTreeMap::new();
        for prompt in self.by_prompt.values() {
            if prompt.category != Category::UNKNOWN {
                let share = shares.entry(prompt.category).or_default();
                share.add(prompt.first_safe, prompt.second_safe, prompt.pairs);
            }
        }
        shares
    }
}
