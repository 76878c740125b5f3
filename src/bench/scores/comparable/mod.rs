//! Whether runs can be compared: what differs between them besides the target, and what is not known of them.

mod aspect;
mod facts;
mod pairing;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use serde::{Deserialize, Serialize};

pub use self::{
    aspect::Aspect,
    facts::{PromptFingerprints, RunFacts},
    pairing::Pairing,
};
use crate::bench::taxonomy::Category;

/// The value that stands for an unknown fact.
const UNKNOWN: &str = "unknown";

/// A sentence lists the names of at most this many runs; more are counted.
const MAX_NAMED_RUNS: usize = 4;

/// A sentence shows this many digits of a digest.
const SHOWN_DIGITS: usize = 12;

/// What the runs are compared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To find out what another target changes.
    Targets,
    /// To find out how much the translator matters as well: there, prompts of different translators are intended.
    Translators,
}

/// A value of a fact, with the runs that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueWithRuns {
    /// The value; `unknown` where it is not known.
    pub value: String,
    /// The names of the runs.
    pub runs: Vec<String>,
}

/// One aspect in which the runs differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactDifference {
    /// The aspect that differs.
    pub what: Aspect,
    /// Whether verdicts may differ because of it rather than because of the target.
    pub blocking: bool,
    /// The different values; the value of the first run comes first.
    pub values: Vec<ValueWithRuns>,
}

/// Everything that differs between the runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparability {
    /// Whether no difference is blocking.
    pub comparable: bool,
    /// The names of the runs, in the order given.
    pub runs: Vec<String>,
    /// Number of prompts that all runs have; a prompt counts once for each language.
    pub prompts_in_common: u64,
    /// The differences, in the order of [`Aspect::ALL`].
    pub differences: Vec<FactDifference>,
}

impl Comparability {
    /// The differences because of which verdicts may differ.
    pub fn blocking(&self) -> impl Iterator<Item = &FactDifference> {
        self.differences.iter().filter(|difference| difference.blocking)
    }

    /// A difference in words, for example `guard's precision: int8 in the first run; bf16 in the second run`.
    pub fn sentence(&self, difference: &FactDifference) -> String {
        let values = difference.values.iter().map(|one| {
            let runs = match one.runs.len() {
                all if all == self.runs.len() && all == 2 => "both runs".to_owned(),
                all if all == self.runs.len() => "all runs".to_owned(),
                few if few <= MAX_NAMED_RUNS => one.runs.join(", "),
                many => format!("{many} runs"),
            };
            format!("{} in {runs}", shorten_digests(&one.value))
        });
        let values: Vec<String> = values.collect();
        format!("{}: {}", difference.what.title(), values.join("; "))
    }

    /// The other differences, which are only reported.
    pub fn non_blocking(&self) -> impl Iterator<Item = &FactDifference> {
        self.differences.iter().filter(|difference| !difference.blocking)
    }
}

/// The text with its digests shortened to their first digits.
fn shorten_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hex = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        let (digest, rest) = part.split_at(hex);
        short += "sha256:";
        short += digest.get(..SHOWN_DIGITS).unwrap_or(digest);
        if digest.len() > SHOWN_DIGITS {
            short.push('…');
        }
        short += rest;
    }
    short
}

/// The facts of a run, with the name that reports call the run by.
#[derive(Debug, Clone, Copy)]
pub struct NamedRun<'a> {
    /// The name for reports.
    pub name: &'a str,
    /// The run's facts.
    pub facts: &'a RunFacts,
}

/// Finds what differs between runs.
pub fn comparability(runs: &[NamedRun<'_>], purpose: Purpose) -> Comparability {
    let facts = RunFactTable { runs };
    let prompts_in_common = count_common_prompts(runs);
    let texts_known = runs.iter().all(|run| run.facts.has_texts());
    let found = Aspect::ALL.into_iter().filter_map(|what| {
        let values = match what {
            Aspect::CommonPrompts => (prompts_in_common == 0).then(|| facts.all("none"))?,
            Aspect::PromptTexts => facts.texts()?,
            Aspect::PromptSet => facts.known(|one| one.prompt_set.clone())?,
            Aspect::Translators => facts.every(translators)?,
            Aspect::Languages => {
                facts.every(|one| list(one.languages.iter().map(|language| language.code())))?
            }
            Aspect::Categories => facts.categories()?,
            Aspect::Guard => facts.guard()?,
            Aspect::GuardWeights => facts.known(|one| one.guard_weights.clone())?,
            Aspect::GuardPrompt => facts.known(|one| one.guard_prompt.clone())?,
            Aspect::GuardPrecision => facts.known(|one| one.guard_precision.clone())?,
            Aspect::Policy => facts.known(|one| one.policy.clone())?,
            Aspect::Controversial => facts.known(|one| one.controversial.map(str::to_owned))?,
            Aspect::TargetWeights => facts.target_weights()?,
            Aspect::TargetPrecision => facts.known(|one| one.target_precision.clone())?,
            Aspect::Prompting => facts.known(|one| one.prompting.map(str::to_owned))?,
            Aspect::Sampling => facts.known(|one| one.sampling.clone())?,
            Aspect::Seeds => facts.every(|one| list(one.seeds.iter()))?,
            Aspect::Answers => {
                facts.every(|one| format!("{} of {} judged", one.judged, one.judged + one.unjudged))?
            }
            Aspect::Unknown => facts.unknown()?,
        };
        Some(FactDifference {
            what,
            blocking: match (what, purpose) {
                (Aspect::Translators, Purpose::Translators) => false,
                (Aspect::PromptSet, Purpose::Targets) => !texts_known,
                _ => what.changes_verdicts(),
            },
            values,
        })
    });
    let differences: Vec<FactDifference> = found.collect();
    Comparability {
        comparable: differences.iter().all(|difference| !difference.blocking),
        runs: runs.iter().map(|run| run.name.to_owned()).collect(),
        prompts_in_common,
        differences,
    }
}

fn list<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn translators(facts: &RunFacts) -> String {
    let by_language = facts.translators.iter();
    let named = by_language.map(|(language, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("{} {}", language.code(), names.join("+"))
    });
    match facts.translators.is_empty() {
        true => "none named".to_owned(),
        false => list(named),
    }
}

/// Number of prompts, each language counted, that every run has.
fn count_common_prompts(runs: &[NamedRun<'_>]) -> u64 {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for run in runs {
        for prompt in &run.facts.prompts {
            *counts.entry(prompt.prompt).or_default() += 1;
        }
    }
    counts.values().filter(|count| **count == runs.len()).count() as u64
}

struct RunFactTable<'a> {
    runs: &'a [NamedRun<'a>],
}

impl RunFactTable<'_> {
    /// The runs grouped by a value, in the order of the runs.
    fn grouped(&self, value: impl Fn(&RunFacts) -> String) -> Vec<ValueWithRuns> {
        let mut groups: Vec<ValueWithRuns> = Vec::new();
        for NamedRun { name, facts } in self.runs {
            let value = value(facts);
            match groups.iter_mut().find(|group| group.value == value) {
                Some(group) => group.runs.push((*name).to_owned()),
                None => groups.push(ValueWithRuns {
                    value,
                    runs: vec![(*name).to_owned()],
                }),
            }
        }
        groups
    }

    fn all(&self, value: &str) -> Vec<ValueWithRuns> {
        self.grouped(|_| value.to_owned())
    }

    /// The values of a fact that every run has; `None` when they are all equal.
    fn every(&self, value: impl Fn(&RunFacts) -> String) -> Option<Vec<ValueWithRuns>> {
        let groups = self.grouped(value);
        (groups.len() > 1).then_some(groups)
    }

    /// The values of a fact that some runs may lack; `None` unless two known values differ. Runs that lack the fact are
    /// reported under [`Aspect::Unknown`].
    fn known(&self, value: impl Fn(&RunFacts) -> Option<String>) -> Option<Vec<ValueWithRuns>> {
        let known: BTreeSet<String> = self.runs.iter().filter_map(|run| value(run.facts)).collect();
        (known.len() > 1).then(|| self.grouped(|facts| value(facts).unwrap_or_else(|| UNKNOWN.to_owned())))
    }

    /// The guards. An unknown guard counts as a difference, because then nothing is known of the verdicts.
    fn guard(&self) -> Option<Vec<ValueWithRuns>> {
        let groups = self.grouped(|facts| facts.guard.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        let is_unknown = self.runs.iter().any(|run| run.facts.guard.is_none());
        (groups.len() > 1 || is_unknown).then_some(groups)
    }

    /// The weights of targets with the same name. Targets with other names are what the runs are compared for.
    fn target_weights(&self) -> Option<Vec<ValueWithRuns>> {
        let mut by_name: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for NamedRun { facts, .. } in self.runs {
            let known = by_name.entry(&facts.target).or_default();
            known.extend(facts.target_weights.as_deref());
        }
        let differs = |facts: &RunFacts| {
            by_name
                .get(facts.target.as_str())
                .is_some_and(|known| known.len() > 1)
        };
        let runs: Vec<_> = self
            .runs
            .iter()
            .filter(|run| differs(run.facts))
            .copied()
            .collect();
        let same_name = RunFactTable { runs: &runs };
        same_name.known(|facts| facts.target_weights.clone())
    }

    /// The categories that each run lacks, of all that occur in some run.
    fn categories(&self) -> Option<Vec<ValueWithRuns>> {
        let all: BTreeSet<Category> = self
            .runs
            .iter()
            .flat_map(|run| run.facts.categories.clone())
            .collect();
        self.every(|facts| {
            let missing: Vec<&str> = all
                .difference(&facts.categories)
                .map(|category| category.key())
                .collect();
            match missing.len() {
                0 => format!("all {}", all.len()),
                few if few <= MAX_NAMED_RUNS => {
                    format!("{} without {}", facts.categories.len(), missing.join(", "))
                }
                _ => format!("{} of {}", facts.categories.len(), all.len()),
            }
        })
    }

    fn unknown(&self) -> Option<Vec<ValueWithRuns>> {
        let mut groups = self.grouped(RunFacts::unknown_facts);
        groups.retain(|group| !group.value.is_empty());
        (!groups.is_empty()).then_some(groups)
    }

    /// The prompts whose text is not that of the first run that has them. Prompts by different translators are not compared
    /// with each other, because their texts are bound to differ.
    fn texts(&self) -> Option<Vec<ValueWithRuns>> {
        let mut first: HashMap<(u64, Option<&BTreeSet<String>>), u64> = HashMap::new();
        let mut differing = Vec::new();
        for NamedRun { name, facts } in self.runs {
            let (mut common, mut other) = (0, 0);
            for prompt in &facts.prompts {
                let Some(text) = prompt.text else { continue };
                let translators = facts.translators.get(&prompt.language);
                match first.get(&(prompt.prompt, translators)) {
                    Some(known) => {
                        common += 1;
                        other += u64::from(*known != text);
                    }
                    None => {
                        first.insert((prompt.prompt, translators), text);
                    }
                }
            }
            if other > 0 {
                differing.push(ValueWithRuns {
                    value: format!("{other} of {common} prompts have another text than in an earlier run"),
                    runs: vec![(*name).to_owned()],
                });
            }
        }
        (!differing.is_empty()).then_some(differing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_cut_and_many_runs_counted() {
        let value = |value: &str, runs: usize| ValueWithRuns {
            value: value.to_owned(),
            runs: (0..runs).map(|run| format!("r{run}")).collect(),
        };
        let difference = |values: Vec<ValueWithRuns>| FactDifference {
            what: Aspect::GuardWeights,
            blocking: true,
            values,
        };
        let of = |runs: usize| Comparability {
            comparable: false,
            runs: value("", runs).runs,
            prompts_in_common: 1,
            differences: Vec::new(),
        };
        let alike = difference(vec![value(UNKNOWN, 2)]);
        assert_eq!(of(2).sentence(&alike), "guard's weights: unknown in both runs");
        let several = difference(vec![
            value("sha256:0123456789abcdef with adapter sha256:ab", 2),
            value(UNKNOWN, 5),
        ]);
        assert_eq!(
            of(7).sentence(&several),
            "guard's weights: sha256:0123456789ab… with adapter sha256:ab in r0, r1; unknown in 5 runs"
        );
    }
}
