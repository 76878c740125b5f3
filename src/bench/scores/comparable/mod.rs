//! Whether runs can be compared: what differs between them besides the target, and what nobody knows of them.

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
    facts::{AskedPrompts, RunFacts},
    pairing::Pairing,
};
use crate::bench::taxonomy::Category;

/// What the value of a fact is where nobody said.
const UNKNOWN: &str = "unknown";

/// Names of runs that a sentence lists; more are counted.
const NAMED: usize = 4;

/// Digits of a digest that a sentence shows.
const DIGITS: usize = 12;

/// What the runs are compared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To tell what another target changes.
    Targets,
    /// To tell how much the translator matters, too: prompts of different translators are what it is about.
    Translators,
}

/// A value with the runs that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The value; `unknown` where nobody said.
    pub value: String,
    /// Names of the runs.
    pub runs: Vec<String>,
}

/// One thing in which runs differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactDifference {
    /// In what.
    pub what: Aspect,
    /// Whether verdicts may differ because of it and not because of the target.
    pub blocking: bool,
    /// The values, the first run's first.
    pub values: Vec<Said>,
}

/// What differs between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparability {
    /// Whether no difference is blocking.
    pub comparable: bool,
    /// Names of the runs, in their order.
    pub runs: Vec<String>,
    /// Prompts, each language counted, that all runs have.
    pub prompts_in_common: u64,
    /// In the order of [`Aspect::ALL`].
    pub differences: Vec<FactDifference>,
}

impl Comparability {
    /// The differences that verdicts may come from.
    pub fn blocking(&self) -> impl Iterator<Item = &FactDifference> {
        self.differences.iter().filter(|difference| difference.blocking)
    }

    /// A difference in words: `guard's precision: int8 in the first run; bf16 in the second run`.
    pub fn sentence(&self, difference: &FactDifference) -> String {
        let said = difference.values.iter().map(|said| {
            let runs = match said.runs.len() {
                all if all == self.runs.len() && all == 2 => "both runs".to_owned(),
                all if all == self.runs.len() => "all runs".to_owned(),
                few if few <= NAMED => said.runs.join(", "),
                many => format!("{many} runs"),
            };
            format!("{} in {runs}", brief(&said.value))
        });
        let said: Vec<String> = said.collect();
        format!("{}: {}", difference.what.title(), said.join("; "))
    }

    /// The others, which are only to be told.
    pub fn told(&self) -> impl Iterator<Item = &FactDifference> {
        self.differences.iter().filter(|difference| !difference.blocking)
    }
}

/// With the first digits of digests only.
fn brief(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hex = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        let (digest, rest) = part.split_at(hex);
        short += "sha256:";
        short += digest.get(..DIGITS).unwrap_or(digest);
        if digest.len() > DIGITS {
            short.push('…');
        }
        short += rest;
    }
    short
}

/// What differs between runs, each with the name that it is told by.
pub fn comparability(runs: &[(&str, &RunFacts)], purpose: Purpose) -> Comparability {
    let differences = Differences { runs };
    let prompts_in_common = in_common(runs);
    let texts_known = runs.iter().all(|(_, facts)| facts.has_texts());
    let found = Aspect::ALL.into_iter().filter_map(|what| {
        let values = match what {
            Aspect::CommonPrompts => (prompts_in_common == 0).then(|| differences.all("none"))?,
            Aspect::PromptTexts => differences.texts()?,
            Aspect::PromptSet => differences.known(|one| one.prompt_set.clone())?,
            Aspect::Translators => differences.every(translators)?,
            Aspect::Languages => {
                differences.every(|one| list(one.languages.iter().map(|language| language.code())))?
            }
            Aspect::Categories => differences.categories()?,
            Aspect::Guard => differences.guard()?,
            Aspect::GuardWeights => differences.known(|one| one.guard_weights.clone())?,
            Aspect::GuardPrompt => differences.known(|one| one.guard_prompt.clone())?,
            Aspect::GuardPrecision => differences.known(|one| one.guard_precision.clone())?,
            Aspect::Policy => differences.known(|one| one.policy.clone())?,
            Aspect::TargetWeights => differences.target_weights()?,
            Aspect::TargetPrecision => differences.known(|one| one.target_precision.clone())?,
            Aspect::Prompting => differences.known(|one| one.prompting.map(str::to_owned))?,
            Aspect::Sampling => differences.known(|one| one.sampling.clone())?,
            Aspect::Seeds => differences.every(|one| list(one.seeds.iter()))?,
            Aspect::Answers => {
                differences.every(|one| format!("{} of {} judged", one.judged, one.judged + one.unjudged))?
            }
            Aspect::Unknown => differences.unknown()?,
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
        runs: runs.iter().map(|(name, _)| (*name).to_owned()).collect(),
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

/// Prompts that every run has.
fn in_common(runs: &[(&str, &RunFacts)]) -> u64 {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for (_, facts) in runs {
        for asked in &facts.asked {
            *counts.entry(asked.prompt).or_default() += 1;
        }
    }
    counts.values().filter(|count| **count == runs.len()).count() as u64
}

struct Differences<'a> {
    runs: &'a [(&'a str, &'a RunFacts)],
}

impl Differences<'_> {
    /// Runs by value, in the order of the runs.
    fn grouped(&self, value: impl Fn(&RunFacts) -> String) -> Vec<Said> {
        let mut groups: Vec<Said> = Vec::new();
        for (name, facts) in self.runs {
            let value = value(facts);
            match groups.iter_mut().find(|group| group.value == value) {
                Some(group) => group.runs.push((*name).to_owned()),
                None => groups.push(Said {
                    value,
                    runs: vec![(*name).to_owned()],
                }),
            }
        }
        groups
    }

    fn all(&self, value: &str) -> Vec<Said> {
        self.grouped(|_| value.to_owned())
    }

    /// Of a fact that every run has.
    fn every(&self, value: impl Fn(&RunFacts) -> String) -> Option<Vec<Said>> {
        let groups = self.grouped(value);
        (groups.len() > 1).then_some(groups)
    }

    /// Of a fact that some runs may not have: those that have it must differ. Runs without it are told by
    /// [`Aspect::Unknown`].
    fn known(&self, value: impl Fn(&RunFacts) -> Option<String>) -> Option<Vec<Said>> {
        let known: BTreeSet<String> = self.runs.iter().filter_map(|(_, facts)| value(facts)).collect();
        (known.len() > 1).then(|| self.grouped(|facts| value(facts).unwrap_or_else(|| UNKNOWN.to_owned())))
    }

    /// Who judged must be known, or else nothing can be said of the verdicts.
    fn guard(&self) -> Option<Vec<Said>> {
        let groups = self.grouped(|facts| facts.guard.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        let is_unknown = self.runs.iter().any(|(_, facts)| facts.guard.is_none());
        (groups.len() > 1 || is_unknown).then_some(groups)
    }

    /// Other weights by the same name; other targets are what runs are compared for.
    fn target_weights(&self) -> Option<Vec<Said>> {
        let mut by_name: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (_, facts) in self.runs {
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
            .filter(|(_, facts)| differs(facts))
            .copied()
            .collect();
        let of_same = Differences { runs: &runs };
        of_same.known(|facts| facts.target_weights.clone())
    }

    /// Of all that some run has, what each lacks.
    fn categories(&self) -> Option<Vec<Said>> {
        let all: BTreeSet<Category> = self
            .runs
            .iter()
            .flat_map(|(_, facts)| facts.categories.clone())
            .collect();
        self.every(|facts| {
            let missing: Vec<&str> = all
                .difference(&facts.categories)
                .map(|category| category.key())
                .collect();
            match missing.len() {
                0 => format!("all {}", all.len()),
                few if few <= NAMED => {
                    format!("{} without {}", facts.categories.len(), missing.join(", "))
                }
                _ => format!("{} of {}", facts.categories.len(), all.len()),
            }
        })
    }

    fn unknown(&self) -> Option<Vec<Said>> {
        let mut groups = self.grouped(RunFacts::unknown);
        groups.retain(|group| !group.value.is_empty());
        (!groups.is_empty()).then_some(groups)
    }

    /// Prompts whose text is another than in the first run that has them. Translators are told apart: their texts must
    /// differ.
    fn texts(&self) -> Option<Vec<Said>> {
        let mut first: HashMap<(u64, Option<&BTreeSet<String>>), u64> = HashMap::new();
        let mut said = Vec::new();
        for (name, facts) in self.runs {
            let (mut common, mut other) = (0, 0);
            for asked in &facts.asked {
                let Some(text) = asked.text else { continue };
                let translators = facts.translators.get(&asked.language);
                match first.get(&(asked.prompt, translators)) {
                    Some(known) => {
                        common += 1;
                        other += u64::from(*known != text);
                    }
                    None => {
                        first.insert((asked.prompt, translators), text);
                    }
                }
            }
            if other > 0 {
                said.push(Said {
                    value: format!("{other} of {common} prompts have another text than in a run before"),
                    runs: vec![(*name).to_owned()],
                });
            }
        }
        (!said.is_empty()).then_some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_cut_and_many_runs_counted() {
        let said = |value: &str, runs: usize| Said {
            value: value.to_owned(),
            runs: (0..runs).map(|run| format!("r{run}")).collect(),
        };
        let difference = |values: Vec<Said>| FactDifference {
            what: Aspect::GuardWeights,
            blocking: true,
            values,
        };
        let of = |runs: usize| Comparability {
            comparable: false,
            runs: said("", runs).runs,
            prompts_in_common: 1,
            differences: Vec::new(),
        };
        let alike = difference(vec![said(UNKNOWN, 2)]);
        assert_eq!(of(2).sentence(&alike), "guard's weights: unknown in both runs");
        let several = difference(vec![
            said("sha256:0123456789abcdef with adapter sha256:ab", 2),
            said(UNKNOWN, 5),
        ]);
        assert_eq!(
            of(7).sentence(&several),
            "guard's weights: sha256:0123456789ab… with adapter sha256:ab in r0, r1; unknown in 5 runs"
        );
    }
}
