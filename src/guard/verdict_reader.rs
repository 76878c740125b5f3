//! Reads the verdicts of a guard that has heads in place of text.

use std::sync::Arc;

use super::{
    policy::Policy,
    question::{JudgedRole, Label},
    verdict::{Scores, Verdict},
};
use crate::{
    engine::{OutputSpec, Probe, ProbePositions, ProbeResult, Sampling},
    model::spec::{HeadSide, RiskLevel, VerdictHeads},
};

/// What a category head says of a text that has none.
const NO_CATEGORY: &str = "None";

/// Knows the heads of both judged roles.
pub(super) struct VerdictReader {
    request: Side,
    answer: Side,
    /// The names of both sides' categories, each once.
    names: Vec<String>,
}

/// The heads for one judged role.
struct Side {
    /// The logits of both heads, as the engine's tokens.
    tokens: Vec<u32>,
    /// The labels of the head for risk, which come first.
    labels: Vec<Label>,
    categories: Vec<String>,
}

impl VerdictReader {
    pub(super) fn new(heads: &VerdictHeads) -> Self {
        let side = |side: HeadSide| {
            let named = heads.side(side);
            let label = |level: &RiskLevel| match level {
                RiskLevel::Safe => Label::Safe,
                RiskLevel::Unsafe => Label::Unsafe,
                RiskLevel::Controversial => Label::Controversial,
            };
            Side {
                tokens: heads.logits(side).map(|logit| logit as u32).collect(),
                labels: named.risks.iter().map(label).collect(),
                categories: named.categories.clone(),
            }
        };
        let (request, answer) = (side(HeadSide::Request), side(HeadSide::Answer));
        let mut names: Vec<String> = Vec::new();
        for name in request.categories.iter().chain(&answer.categories) {
            if name != NO_CATEGORY && !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self {
            request,
            answer,
            names,
        }
    }

    fn side(&self, judged: JudgedRole) -> &Side {
        match judged {
            JudgedRole::User => &self.request,
            JudgedRole::Agent => &self.answer,
        }
    }

    /// The categories of both sides by their names.
    pub(super) fn policy(&self) -> Policy {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        Policy::of_names(&names)
    }

    /// What the heads read of the last token of the prompt.
    pub(super) fn output_spec(&self, judged: JudgedRole) -> OutputSpec {
        OutputSpec {
            max_new_tokens: 0,
            eos: Arc::from([]),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: Some(Probe {
                positions: ProbePositions::AfterPrompt,
                tokens: self.side(judged).tokens.clone(),
                finish_on: Vec::new(),
            }),
            score: false,
            stop: None,
            pin_prompt: false,
        }
    }

    /// The verdict of the heads' log-probabilities: the most probable label, and of a text that is not safe the most probable category.
    pub(super) fn verdict(&self, judged: JudgedRole, probe: Option<&ProbeResult>) -> Verdict {
        let side = self.side(judged);
        let Scores {
            unsafe_score,
            controversial_score,
            label_mass,
        } = Scores::of(probe, &side.labels);
        let logprobs = probe.map_or(&[][..], |probe| &probe.logprobs);
        let risks = &logprobs[..side.labels.len().min(logprobs.len())];
        let label = greatest(risks).and_then(|index| side.labels.get(index).copied());
        let label = label.unwrap_or(Label::Undetermined);
        let category = match label {
            Label::Unsafe | Label::Controversial => {
                greatest(&logprobs[risks.len()..]).and_then(|index| side.categories.get(index))
            }
            Label::Safe | Label::Undetermined => None,
        };
        let category = category.filter(|name| *name != NO_CATEGORY);
        Verdict {
            label,
            unsafe_score,
            controversial_score,
            label_mass,
            categories: category
                .map(|name| (name.clone(), name.clone()))
                .into_iter()
                .collect(),
            category_shares: self.shares(side, &logprobs[risks.len()..]),
            refusal: None,
            raw_output: String::new(),
        }
    }

    /// Of each category in the policy's order, the probability that it is this one given that it is one; 0 of those that the side's
    /// head does not know. Empty where the head says that it is certainly none.
    fn shares(&self, side: &Side, logprobs: &[f64]) -> Vec<f64> {
        let named = side.categories.iter().zip(logprobs);
        let named = named.filter(|(name, _)| *name != NO_CATEGORY);
        let named: Vec<_> = named.map(|(name, logprob)| (name, logprob.exp())).collect();
        let sum: f64 = named.iter().map(|(_, probability)| probability).sum();
        if sum <= 0.0 {
            return Vec::new();
        }
        let share = |name: &String| {
            let found = named.iter().find(|(known, _)| *known == name);
            found.map_or(0.0, |(_, probability)| probability / sum)
        };
        self.names.iter().map(share).collect()
    }
}

/// Index of the greatest value; the first of several.
fn greatest(values: &[f64]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, value) in values.iter().enumerate() {
        if best.is_none_or(|best| *value > values[best]) {
            best = Some(index);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::HeadLabels;

    fn reader() -> VerdictReader {
        let labels = |categories: &[&str]| HeadLabels {
            risks: vec![RiskLevel::Safe, RiskLevel::Unsafe, RiskLevel::Controversial],
            categories: categories.iter().map(|name| (*name).to_owned()).collect(),
        };
        VerdictReader::new(&VerdictHeads {
            inner: 4,
            answer: labels(&["None", "Violent"]),
            request: labels(&["None", "Violent", "Jailbreak"]),
        })
    }

    fn verdict(judged: JudgedRole, probabilities: &[f64]) -> Verdict {
        let probe = ProbeResult {
            logprobs: probabilities.iter().map(|p| p.ln()).collect(),
            greedy: 0,
        };
        reader().verdict(judged, Some(&probe))
    }

    #[test]
    fn each_role_has_its_own_logits() {
        let tokens = |judged| reader().output_spec(judged).probe.unwrap().tokens;
        assert_eq!(tokens(JudgedRole::Agent), [0, 1, 2, 3, 4]);
        assert_eq!(tokens(JudgedRole::User), [5, 6, 7, 8, 9, 10]);
        let codes = reader().policy();
        let codes: Vec<_> = codes.categories().iter().map(|one| one.code.as_str()).collect();
        assert_eq!(codes, ["Violent", "Jailbreak"]);
    }

    #[test]
    fn the_label_is_the_most_probable_one_and_a_safe_text_has_no_category() {
        let found = verdict(JudgedRole::User, &[0.2, 0.5, 0.3, 0.1, 0.2, 0.7]);
        assert_eq!(found.label, Label::Unsafe);
        assert_eq!(
            found.categories,
            [("Jailbreak".to_owned(), "Jailbreak".to_owned())]
        );
        assert!((found.unsafe_score.unwrap() - 0.8).abs() < 1e-12);
        assert!((found.controversial_score.unwrap() - 0.3).abs() < 1e-12);
        assert!((found.label_mass - 1.0).abs() < 1e-12);
        let shares = &found.category_shares;
        assert!((shares[0] - 2.0 / 9.0).abs() < 1e-12 && (shares[1] - 7.0 / 9.0).abs() < 1e-12);
        let safe = verdict(JudgedRole::Agent, &[0.6, 0.3, 0.1, 0.1, 0.9]);
        assert!((safe.category_shares[0] - 1.0).abs() < 1e-12);
        assert_eq!(
            safe.category_shares[1], 0.0,
            "answers have no head for it: {safe:?}"
        );
        assert_eq!((safe.label, safe.categories.len()), (Label::Safe, 0));
        let unnamed = verdict(JudgedRole::Agent, &[0.2, 0.3, 0.5, 0.9, 0.1]);
        assert_eq!(
            (unnamed.label, unnamed.categories.len()),
            (Label::Controversial, 0)
        );
    }

    #[test]
    fn nothing_read_is_undetermined_and_never_safe() {
        let nothing = reader().verdict(JudgedRole::User, None);
        assert_eq!((nothing.label, nothing.unsafe_score), (Label::Undetermined, None));
        assert!(nothing.category_shares.is_empty());
        let none = verdict(JudgedRole::Agent, &[0.2, 0.3, 0.5, 1.0, 0.0]);
        assert!(none.category_shares.is_empty());
    }
}
