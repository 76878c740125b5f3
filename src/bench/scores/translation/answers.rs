//! One language's verdicts under each translator, prompt by prompt.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{study::StudyRun, table::Table};
use crate::bench::{
    dataset::PromptId,
    statistics::{Bootstrap, Clusters, Difference, Pairs, paired_difference},
    taxonomy::Language,
};

/// A translator's answers in a language.
pub(super) struct Side<'a> {
    /// Its name; of a set that several made together, all of theirs.
    translator: String,
    /// The seeds, and the run that has the answers. Of two runs with one seed the first counts: their answers are the
    /// same, and would make verdicts look more certain than they are.
    seeds: BTreeMap<u64, &'a Table>,
}

impl<'a> Side<'a> {
    /// Each translator of a language, by name.
    pub(super) fn of_language(runs: &[&'a StudyRun], language: Language) -> Vec<Self> {
        let mut sides: BTreeMap<String, BTreeMap<u64, &Table>> = BTreeMap::new();
        for run in runs {
            if let Some(names) = run.table.translators.get(&language) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let seeds = sides.entry(names.join("+")).or_default();
                for seed in run.table.seeds() {
                    seeds.entry(seed).or_insert(&run.table);
                }
            }
        }
        let side = |(translator, seeds)| Side { translator, seeds };
        sides.into_iter().map(side).collect()
    }
}

/// A prompt that was judged under every translator.
pub(super) struct Prompt<'a> {
    pub(super) id: &'a PromptId,
    /// Share of safe answers in the reference language; absent when there is no such language.
    pub(super) reference: Option<f64>,
    /// Share of safe answers under each translator.
    pub(super) values: Vec<f64>,
    /// Under each translator the verdict with each of its seeds, ascending.
    pub(super) verdicts: Vec<Vec<Option<bool>>>,
}

/// A language's prompts.
pub(super) struct Prompts<'a> {
    pub(super) language: Language,
    pub(super) reference: Option<Language>,
    pub(super) translators: Vec<&'a str>,
    /// By id.
    pub(super) common: Vec<Prompt<'a>>,
    pub(super) left_out: u64,
}

type Verdicts<'a> = BTreeMap<&'a PromptId, Vec<Option<bool>>>;

/// Adds a verdict of each prompt with one seed; prompts without one have `None` at its place.
fn add<'a>(verdicts: &mut Verdicts<'a>, place: usize, table: &'a Table, seed: u64, language: Language) {
    for (item, judgement) in table.judged_by(0) {
        if item.seed == seed && item.language == language {
            let own = verdicts.entry(&table.prompts[item.prompt as usize]).or_default();
            own.resize(place + 1, None);
            own[place] = judgement.mark.safe();
        }
    }
}

fn share(verdicts: &[Option<bool>]) -> Option<f64> {
    let known = verdicts.iter().flatten();
    let (safe, n) = known.fold((0u32, 0u32), |(safe, n), one| (safe + u32::from(*one), n + 1));
    (n > 0).then(|| f64::from(safe) / f64::from(n))
}

/// The language that the others were translated from: English, or else the first, of those without translators.
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

impl<'a> Prompts<'a> {
    pub(super) fn new(runs: &[&'a StudyRun], sides: &'a [Side<'a>], language: Language) -> Self {
        let reference = reference(runs);
        let mut of_reference = Verdicts::new();
        if let Some(reference) = reference {
            let answers = runs
                .iter()
                .flat_map(|run| run.table.seeds().into_iter().map(|seed| (&run.table, seed)));
            for (place, (table, seed)) in answers.enumerate() {
                add(&mut of_reference, place, table, seed, reference);
            }
        }
        let of_sides: Vec<Verdicts<'_>> = sides
            .iter()
            .map(|side| {
                let mut verdicts = Verdicts::new();
                for (place, (seed, table)) in side.seeds.iter().enumerate() {
                    add(&mut verdicts, place, table, *seed, language);
                }
                verdicts
                    .values_mut()
                    .for_each(|own| own.resize(side.seeds.len(), None));
                verdicts
            })
            .collect();
        let ids: BTreeSet<&PromptId> = of_sides
            .iter()
            .flat_map(|verdicts| verdicts.keys().copied())
            .collect();
        let prompt = |id: &&'a PromptId| {
            let verdicts: Option<Vec<_>> = of_sides.iter().map(|side| side.get(*id).cloned()).collect();
            let verdicts = verdicts?;
            let values: Option<Vec<f64>> = verdicts.iter().map(|own| share(own)).collect();
            let own = match reference {
                Some(_) => Some(share(of_reference.get(*id)?)?),
                None => None,
            };
            Some(Prompt {
                id,
                reference: own,
                values: values?,
                verdicts,
            })
        };
        let common: Vec<Prompt<'_>> = ids.iter().filter_map(prompt).collect();
        Self {
            language,
            reference,
            translators: sides.iter().map(|side| side.translator.as_str()).collect(),
            left_out: (ids.len() - common.len()) as u64,
            common,
        }
    }

    /// Whether there is one answer for each prompt and translator.
    pub(super) fn single(&self) -> bool {
        let mut lists = self.common.iter().flat_map(|prompt| &prompt.verdicts);
        lists.all(|verdicts| verdicts.len() == 1)
    }

    /// The verdicts with the first seed under two translators.
    pub(super) fn pairs(&self, first: usize, second: usize) -> Pairs {
        let mut pairs = Pairs::default();
        for prompt in &self.common {
            let verdict = |place: usize| prompt.verdicts[place].first().copied().flatten();
            if let (Some(a), Some(b)) = (verdict(first), verdict(second)) {
                pairs.add(a, b);
            }
        }
        pairs
    }

    /// The reference's share less a translator's.
    pub(super) fn gap(&self, translator: usize, bootstrap: Bootstrap) -> Option<Difference> {
        let values: Option<Vec<(f64, f64)>> = self
            .common
            .iter()
            .map(|prompt| Some((prompt.reference?, prompt.values[translator])))
            .collect();
        let values = values.filter(|values| !values.is_empty())?;
        let whole = |value: f64| value == 0.0 || value == 1.0;
        if values.iter().all(|(a, b)| whole(*a) && whole(*b)) {
            let mut pairs = Pairs::default();
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
