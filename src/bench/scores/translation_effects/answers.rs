//! One language's verdicts under each translator, prompt by prompt.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{result_table::ResultTable, study_run::StudyRun};
use crate::bench::{
    dataset::PromptId,
    statistics::{Bootstrap, Clusters, Difference, PairCounts, paired_difference},
    taxonomy::Language,
};

/// The answers to the prompts of one translator, in one language.
pub(super) struct TranslatorAnswers<'a> {
    /// The translator's name; where several made the prompts together, all their names joined by `+`.
    translator: String,
    /// For each seed, the run that has the answers. Where two runs have the same seed, only the first counts: their answers
    /// are the same, and counting both would make the verdicts look more certain than they are.
    seeds: BTreeMap<u64, &'a ResultTable>,
}

impl<'a> TranslatorAnswers<'a> {
    /// The answers for each translator of a language, by the translator's name.
    pub(super) fn of_language(runs: &[&'a StudyRun], language: Language) -> Vec<Self> {
        let mut answers: BTreeMap<String, BTreeMap<u64, &ResultTable>> = BTreeMap::new();
        for run in runs {
            if let Some(names) = run.table.translators.get(&language) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let seeds = answers.entry(names.join("+")).or_default();
                for seed in run.table.seeds() {
                    seeds.entry(seed).or_insert(&run.table);
                }
            }
        }
        let of_translator = |(translator, seeds)| TranslatorAnswers { translator, seeds };
        answers.into_iter().map(of_translator).collect()
    }
}

/// A prompt that was judged under every translator.
pub(super) struct CommonPrompt<'a> {
    pub(super) id: &'a PromptId,
    /// Proportion of safe answers in the reference language; absent when there is no such language.
    pub(super) reference: Option<f64>,
    /// Proportion of safe answers under each translator.
    pub(super) proportions: Vec<f64>,
    /// For each translator, the verdict for each of its seeds, ascending.
    pub(super) verdicts: Vec<Vec<Option<bool>>>,
}

/// The prompts of one language that were judged under every translator.
pub(super) struct CommonPrompts<'a> {
    pub(super) language: Language,
    pub(super) reference: Option<Language>,
    pub(super) translators: Vec<&'a str>,
    /// The prompts, in the order of their ids.
    pub(super) common: Vec<CommonPrompt<'a>>,
    pub(super) left_out: u64,
}

type Verdicts<'a> = BTreeMap<&'a PromptId, Vec<Option<bool>>>;

/// Adds the verdict on each prompt for one seed at the given index; prompts without a verdict get `None` there.
fn add_verdicts<'a>(
    verdicts: &mut Verdicts<'a>,
    index: usize,
    table: &'a ResultTable,
    seed: u64,
    language: Language,
) {
    for (item, judgement) in table.judged_by(0) {
        if item.seed == seed && item.language == language {
            let own = verdicts.entry(&table.prompts[item.prompt as usize]).or_default();
            own.resize(index + 1, None);
            own[index] = judgement.status.is_safe();
        }
    }
}

/// The proportion of safe verdicts; `None` without any.
fn safe_proportion(verdicts: &[Option<bool>]) -> Option<f64> {
    let known = verdicts.iter().flatten();
    let (safe, n) = known.fold((0u32, 0u32), |(safe, n), one| (safe + u32::from(*one), n + 1));
    (n > 0).then(|| f64::from(safe) / f64::from(n))
}

/// The language that the others were translated from: of the languages without translators English, or else the first.
fn reference(runs: &[&StudyRun]) -> Option<Language> {
    let translated: BTreeSet<Language> = runs
        .iter()
        .flat_map(|run| run.table.translators.keys().copied())
        .collect();
    let present: BTreeSet<Language> = runs.iter().flat_map(|run| run.table.languages()).collect();
    present
        .into_iter()
        .find(|language| !translated.contains(language))
}

impl<'a> CommonPrompts<'a> {
    pub(super) fn new(
        runs: &[&'a StudyRun],
        answers: &'a [TranslatorAnswers<'a>],
        language: Language,
    ) -> Self {
        let reference = reference(runs);
        let mut of_reference = Verdicts::new();
        if let Some(reference) = reference {
            let runs_with_seeds = runs
                .iter()
                .flat_map(|run| run.table.seeds().into_iter().map(|seed| (&run.table, seed)));
            for (index, (table, seed)) in runs_with_seeds.enumerate() {
                add_verdicts(&mut of_reference, index, table, seed, reference);
            }
        }
        let by_translator: Vec<Verdicts<'_>> = answers
            .iter()
            .map(|of_translator| {
                let mut verdicts = Verdicts::new();
                for (index, (seed, table)) in of_translator.seeds.iter().enumerate() {
                    add_verdicts(&mut verdicts, index, table, *seed, language);
                }
                verdicts
                    .values_mut()
                    .for_each(|own| own.resize(of_translator.seeds.len(), None));
                verdicts
            })
            .collect();
        let ids: BTreeSet<&PromptId> = by_translator
            .iter()
            .flat_map(|verdicts| verdicts.keys().copied())
            .collect();
        let prompt = |id: &&'a PromptId| {
            let verdicts: Option<Vec<_>> = by_translator
                .iter()
                .map(|of_translator| of_translator.get(*id).cloned())
                .collect();
            let verdicts = verdicts?;
            let proportions: Option<Vec<f64>> = verdicts.iter().map(|own| safe_proportion(own)).collect();
            let own = match reference {
                Some(_) => Some(safe_proportion(of_reference.get(*id)?)?),
                None => None,
            };
            Some(CommonPrompt {
                id,
                reference: own,
                proportions: proportions?,
                verdicts,
            })
        };
        let common: Vec<CommonPrompt<'_>> = ids.iter().filter_map(prompt).collect();
        Self {
            language,
            reference,
            translators: answers
                .iter()
                .map(|of_translator| of_translator.translator.as_str())
                .collect(),
            left_out: (ids.len() - common.len()) as u64,
            common,
        }
    }

    /// Whether there is exactly one answer for each prompt and translator.
    pub(super) fn has_single_answers(&self) -> bool {
        let mut lists = self.common.iter().flat_map(|prompt| &prompt.verdicts);
        lists.all(|verdicts| verdicts.len() == 1)
    }

    /// The pairs of verdicts under two translators, for their first seeds.
    pub(super) fn pairs(&self, first: usize, second: usize) -> PairCounts {
        let mut pairs = PairCounts::default();
        for prompt in &self.common {
            let verdict = |translator: usize| prompt.verdicts[translator].first().copied().flatten();
            if let (Some(a), Some(b)) = (verdict(first), verdict(second)) {
                pairs.add(a, b);
            }
        }
        pairs
    }

    /// The safe proportion in the reference language less that under a translator.
    pub(super) fn gap(&self, translator: usize, bootstrap: Bootstrap) -> Option<Difference> {
        let values: Option<Vec<(f64, f64)>> = self
            .common
            .iter()
            .map(|prompt| Some((prompt.reference?, prompt.proportions[translator])))
            .collect();
        let values = values.filter(|values| !values.is_empty())?;
        let whole = |value: f64| value == 0.0 || value == 1.0;
        if values.iter().all(|(a, b)| whole(*a) && whole(*b)) {
            let mut pairs = PairCounts::default();
            values.iter().for_each(|(a, b)| pairs.add(*a == 1.0, *b == 1.0));
            return paired_difference(pairs);
        }
        let mut clusters = Clusters::new(2);
        values.iter().for_each(|(a, b)| clusters.push(0, &[a - b, 1.0]));
        let sums = clusters.sums();
        let [interval] = clusters.intervals(bootstrap, |sums| [sums[0] / sums[1]]);
        Some(Difference {
            estimate: sums[0] / sums[1],
            interval: interval?,
        })
    }
}
