//! Chooses one candidate for each prompt and language, and says why the others are not chosen.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{Candidate, Metric, flags::Flag};
use crate::bench::{dataset::PromptId, taxonomy::Language};

/// How candidates are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// What decides.
    pub by: By,
    /// Candidates with one of these flags are not chosen; empty candidates never are.
    pub reject: Vec<Flag>,
    /// The translators, in the order that decides between tied candidates.
    pub translators: Vec<String>,
}

/// What decides between candidates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The highest COMET, if it reaches the threshold. Those within `margin` of the highest are tied; then the lowest
    /// MetricX decides, then the highest human rating, then the translators' order.
    Quality {
        /// Least COMET of a candidate that may be chosen; the paper's is 0.5.
        threshold: f64,
        /// Candidates whose COMET is lower than the highest by no more than this are tied.
        margin: f64,
    },
    /// The translators' order decides alone.
    Order,
}

/// What was decided about a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it is in the translated set.
    pub chosen: bool,
    /// Whether it was the best candidate, but its prompt is left out because another language has no good one.
    pub left_out: bool,
    /// Whether it met the conditions for being chosen.
    pub eligible: bool,
    /// The reason for people.
    pub reason: String,
}

impl Decision {
    fn refused(reason: String) -> Self {
        Self {
            chosen: false,
            left_out: false,
            eligible: false,
            reason,
        }
    }
}

/// Decides about every candidate: one decision each, in the same order. A prompt that has no good candidate in one of the languages
/// is left out in all of them, so that the set stays parallel.
pub fn decide(candidates: &[Candidate], languages: &[Language], rule: &Rule) -> Vec<Decision> {
    let mut decisions = best_of_each(candidates, rule);
    let mut good: BTreeMap<&PromptId, Vec<Language>> = BTreeMap::new();
    for (candidate, decision) in candidates.iter().zip(&decisions) {
        let own = good.entry(&candidate.key.id).or_default();
        own.extend(decision.chosen.then_some(candidate.key.language));
    }
    for (candidate, decision) in candidates.iter().zip(&mut decisions) {
        let own = good.get(&candidate.key.id).map_or(&[][..], Vec::as_slice);
        let without = languages.iter().filter(|language| !own.contains(language));
        let without: Vec<&str> = without.map(|language| language.name()).collect();
        if decision.chosen && !without.is_empty() {
            decision.chosen = false;
            decision.left_out = true;
            decision.reason += &format!("; the prompt has no good candidate in {}", without.join(", "));
        }
    }
    decisions
}

/// Decides for each prompt and language alone, whatever the prompt's other languages have.
fn best_of_each(candidates: &[Candidate], rule: &Rule) -> Vec<Decision> {
    let mut groups: BTreeMap<(&PromptId, Language), Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        groups
            .entry((&candidate.key.id, candidate.key.language))
            .or_default()
            .push(at);
    }
    let nothing = || Decision::refused(String::new());
    let mut decisions: Vec<Decision> = std::iter::repeat_with(nothing).take(candidates.len()).collect();
    for members in groups.values() {
        let group: Vec<&Candidate> = members.iter().map(|at| &candidates[*at]).collect();
        for (at, decision) in members.iter().zip(decide_group(&group, rule)) {
            decisions[*at] = decision;
        }
    }
    decisions
}

fn decide_group(group: &[&Candidate], rule: &Rule) -> Vec<Decision> {
    let refusals: Vec<Option<String>> = group.iter().map(|candidate| refusal(candidate, rule)).collect();
    let eligible: Vec<&Candidate> = group
        .iter()
        .zip(&refusals)
        .filter_map(|(candidate, refusal)| refusal.is_none().then_some(*candidate))
        .collect();
    let best = best(&eligible, rule);
    let decision = |(candidate, refusal): (&&Candidate, Option<String>)| match (refusal, &best) {
        (Some(reason), _) => Decision::refused(reason),
        (None, Some((chosen, why))) if chosen.key == candidate.key => Decision {
            chosen: true,
            left_out: false,
            eligible: true,
            reason: why.clone(),
        },
        (None, chosen) => Decision {
            chosen: false,
            left_out: false,
            eligible: true,
            reason: match chosen {
                Some((chosen, _)) => format!("{} was chosen", chosen.key.translator),
                None => String::new(),
            },
        },
    };
    group.iter().zip(refusals).map(decision).collect()
}

/// Why a candidate cannot be chosen; `None` where it can.
fn refusal(candidate: &Candidate, rule: &Rule) -> Option<String> {
    let rejected = |flag: &&Flag| **flag == Flag::Empty || rule.reject.contains(flag);
    if let Some(flag) = candidate.flags.iter().find(rejected) {
        return Some(format!("is flagged {}", flag.key()));
    }
    let By::Quality { threshold, .. } = rule.by else {
        return None;
    };
    match candidate.scores.get(&Metric::Comet) {
        None => Some("has no COMET score".to_owned()),
        Some(comet) if *comet < threshold => Some(format!("COMET {comet} is below {threshold}")),
        Some(_) => None,
    }
}

/// The best of the candidates that can be chosen, and the reason.
fn best<'a>(eligible: &[&'a Candidate], rule: &Rule) -> Option<(&'a Candidate, String)> {
    let order = |candidate: &Candidate| {
        let index = rule
            .translators
            .iter()
            .position(|name| *name == candidate.key.translator);
        index.unwrap_or(usize::MAX)
    };
    let first = |tied: &[&'a Candidate]| tied.iter().min_by_key(|candidate| order(candidate)).copied();
    let By::Quality { margin, .. } = rule.by else {
        return first(eligible).map(|chosen| (chosen, "first in the translators' order".to_owned()));
    };
    let mut tied = eligible.to_vec();
    let mut tied_metrics = Vec::new();
    for metric in Metric::ALL {
        let margin = if metric == Metric::Comet { margin } else { 0.0 };
        let goodness =
            |candidate: &&Candidate| candidate.scores.get(&metric).map(|value| metric.goodness(*value));
        let Some(highest) = tied.iter().filter_map(goodness).max_by(|a, b| a.total_cmp(b)) else {
            continue;
        };
        let before = tied.len();
        tied.retain(|candidate| goodness(candidate).is_some_and(|found| found >= highest - margin));
        if let ([only], Ordering::Greater) = (tied.as_slice(), before.cmp(&1)) {
            let value = only.scores.get(&metric).copied().unwrap_or_default();
            return Some((
                *only,
                format!("best {} {value}{}", metric.title(), after_ties(&tied_metrics)),
            ));
        }
        tied_metrics.push(metric.title());
    }
    let chosen = first(&tied)?;
    Some(match tied.len() {
        1 => (chosen, "the only candidate that may be chosen".to_owned()),
        _ => (
            chosen,
            format!("first in the translators' order{}", after_ties(&tied_metrics)),
        ),
    })
}

/// Names the metrics in which the candidates are tied, as the end of a reason.
fn after_ties(metrics: &[&str]) -> String {
    match metrics {
        [] => String::new(),
        _ => format!(", {} tied", metrics.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::translation::{CandidateKey, flags};

    fn candidate(translator: &str, comet: Option<f64>, metricx: Option<f64>) -> Candidate {
        let scores = [(Metric::Comet, comet), (Metric::MetricX, metricx)];
        Candidate {
            key: CandidateKey {
                id: PromptId::Number(1),
                language: Language::De,
                translator: translator.to_owned(),
            },
            source: "Hello".to_owned(),
            text: "Hallo".to_owned(),
            scores: scores
                .into_iter()
                .filter_map(|(metric, value)| Some((metric, value?)))
                .collect(),
            flags: Vec::new(),
            back_translation: None,
        }
    }

    fn rule(margin: f64) -> Rule {
        Rule {
            by: By::Quality {
                threshold: 0.5,
                margin,
            },
            reject: Vec::new(),
            translators: ["a", "b", "c"].map(ToOwned::to_owned).to_vec(),
        }
    }

    /// A line for each candidate: its translator, a star if it was chosen, and the reason.
    fn lines(candidates: &[Candidate], rule: &Rule) -> Vec<String> {
        let decisions = decide(candidates, &[Language::De], rule);
        let line = |(c, d): (&Candidate, Decision)| {
            format!(
                "{}{} {}",
                c.key.translator,
                if d.chosen { "*" } else { "" },
                d.reason
            )
        };
        candidates.iter().zip(decisions).map(line).collect()
    }

    #[test]
    fn the_highest_comet_wins_if_it_reaches_the_threshold() {
        let some = [
            candidate("a", Some(0.7), None),
            candidate("b", Some(0.8), None),
            candidate("c", None, None),
        ];
        assert_eq!(
            lines(&some, &rule(0.0)),
            ["a b was chosen", "b* best COMET 0.8", "c has no COMET score"]
        );
        let low = [candidate("a", Some(0.49), None), candidate("b", Some(0.5), None)];
        assert_eq!(
            lines(&low, &rule(0.0)),
            [
                "a COMET 0.49 is below 0.5",
                "b* the only candidate that may be chosen"
            ]
        );
        let none = [candidate("a", Some(0.1), Some(0.0))];
        assert_eq!(lines(&none, &rule(0.0)), ["a COMET 0.1 is below 0.5"]);
    }

    #[test]
    fn ties_go_to_metricx_then_to_people_then_to_the_order() {
        let even = [
            candidate("b", Some(0.8), Some(2.0)),
            candidate("a", Some(0.8), Some(1.0)),
        ];
        assert_eq!(
            lines(&even, &rule(0.0)),
            ["b a was chosen", "a* best MetricX 1, COMET tied"]
        );
        let close = [
            candidate("a", Some(0.79), Some(2.0)),
            candidate("b", Some(0.8), Some(3.0)),
        ];
        assert_eq!(lines(&close, &rule(0.0))[1], "b* best COMET 0.8");
        assert_eq!(lines(&close, &rule(0.02))[0], "a* best MetricX 2, COMET tied");
        let mut same = [
            candidate("b", Some(0.8), Some(1.0)),
            candidate("a", Some(0.8), Some(1.0)),
        ];
        assert_eq!(
            lines(&same, &rule(0.0)),
            [
                "b a was chosen",
                "a* first in the translators' order, COMET and MetricX tied"
            ]
        );
        same[0].scores.insert(Metric::Human, 0.9);
        assert_eq!(
            lines(&same, &rule(0.0))[0],
            "b* best human 0.9, COMET and MetricX tied"
        );
        // Who has no MetricX score does not beat who has one.
        let partly = [
            candidate("a", Some(0.8), None),
            candidate("b", Some(0.8), Some(24.0)),
        ];
        assert_eq!(lines(&partly, &rule(0.0))[1], "b* best MetricX 24, COMET tied");
    }

    #[test]
    fn empty_and_rejected_candidates_are_never_chosen() {
        let mut some = [candidate("a", Some(0.9), None), candidate("b", Some(0.8), None)];
        some[0].flags = vec![flags::Flag::Empty];
        some[1].flags = vec![flags::Flag::WrongLanguage];
        assert_eq!(
            lines(&some, &rule(0.0)),
            ["a is flagged empty", "b* the only candidate that may be chosen"]
        );
        let strict = Rule {
            by: By::Order,
            reject: vec![flags::Flag::WrongLanguage],
            ..rule(0.0)
        };
        assert_eq!(lines(&some, &strict)[1], "b is flagged wrong_language");
        some[1].flags.clear();
        assert_eq!(lines(&some, &strict)[1], "b* first in the translators' order");
    }

    #[test]
    fn a_good_candidate_of_an_excluded_prompt_is_not_chosen() {
        let languages = [Language::De, Language::Fr];
        let mut some = [candidate("a", Some(0.9), None), candidate("a", Some(0.1), None)];
        some[1].key.language = Language::Fr;
        let decisions = decide(&some, &languages, &rule(0.0));
        let outcomes: Vec<_> = decisions.iter().map(|one| (one.chosen, one.left_out)).collect();
        assert_eq!(outcomes, [(false, true), (false, false)]);
        assert!(
            decisions[0]
                .reason
                .ends_with("; the prompt has no good candidate in French")
        );
        some[1].scores.insert(Metric::Comet, 0.6);
        assert!(decide(&some, &languages, &rule(0.0)).iter().all(|one| one.chosen));
    }

    #[test]
    fn the_choice_does_not_depend_on_the_order_of_candidates() {
        let mut some = vec![
            candidate("c", Some(0.8), Some(1.0)),
            candidate("a", Some(0.8), Some(1.0)),
            candidate("b", Some(0.8), Some(1.5)),
        ];
        for _ in 0..3 {
            let decisions = decide(&some, &[Language::De], &rule(0.0));
            let chosen: Vec<_> = some.iter().zip(decisions).filter(|(_, d)| d.chosen).collect();
            assert_eq!(chosen.len(), 1);
            assert_eq!(chosen[0].0.key.translator, "a");
            some.rotate_left(1);
        }
    }
}
