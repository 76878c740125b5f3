//! Decision policies: what is done about a verdict, and about what classifiers say. A verdict's label is what the guard said; a
//! decision is what a service makes of it, by thresholds of its own, and the two never stand in for each other.
//!
//! What a policy may say is in [`decision_text`](super::decision_text). The categories that a guard judges by are another matter, and
//! another file ([`Policy`](super::Policy)).

use std::collections::BTreeMap;

use super::{
    Label, PolicyProblem,
    decision_text::{Action, DecisionPolicyText, Rules, Scale, Thresholds, problems},
};
use crate::{calibrator::CalibratedScore, digest};

/// A valid decision policy.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionPolicy {
    text: DecisionPolicyText,
    digest: String,
}

/// What is decided about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement<'a> {
    /// Absent where no guard was asked.
    pub verdict: Option<JudgedVerdict<'a>>,
    /// What classifiers say.
    pub classified: &'a [Classified],
}

/// A classifier's harm score.
#[derive(Debug, Clone, PartialEq)]
pub struct Classified {
    /// The classifier's model id.
    pub model: String,
    /// The label of texts without harm.
    pub harmless_label: String,
    /// The first of the classifier's labels.
    pub first_label: String,
    /// 1 minus the probability of that label, from 0 to 1.
    pub harm_score: f64,
}

impl Classified {
    /// Whether it is about the label that a rule means: the one with this name, or the first one.
    fn is_about(&self, harmless_label: Option<&str>) -> bool {
        self.harmless_label == harmless_label.unwrap_or(&self.first_label)
    }
}

/// A guard's verdict, as far as it is decided about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedVerdict<'a> {
    /// What the guard said.
    pub label: Label,
    /// Its unsafe score, from 0 to 1.
    pub unsafe_score: Option<f64>,
    /// Each category's code and probability, from 0 to 1; empty where they were not computed.
    pub categories: &'a [(String, f64)],
    /// What the policy's calibrator says of the unsafe score; absent where the policy names none, where there is no score, and
    /// where the calibrator was fitted for another guard.
    pub calibrated: Option<&'a CalibratedScore>,
}

/// What a threshold is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The verdict's unsafe score.
    UnsafeScore,
    /// The probability of a category, by its code.
    Category(String),
    /// There is no verdict.
    Undetermined,
    /// The probability that the calibrator makes of the unsafe score.
    CalibratedProbability,
    /// The labels that the text may have.
    PredictionSet,
    /// There is a score, and the policy's calibrator was fitted for another guard.
    NotCalibrated,
    /// The harm score of a classifier, by its model id.
    Classifier(String),
    /// There is no harm score of a classifier.
    NotClassified(String),
}

/// Why an action was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// What the threshold is of.
    pub subject: Subject,
    /// The action that this alone asks for.
    pub action: Action,
    /// The value that reached the threshold, from 0 to 1; of a prediction set, the unsafe score. Absent where there is no verdict
    /// and where it is not calibrated.
    pub value: Option<f64>,
    /// The threshold, from 0 to 1; absent where no threshold is what asks for it.
    pub threshold: Option<f64>,
}

/// What a policy makes of a verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The strictest action of the reasons; [`Action::Allow`] without any.
    pub action: Action,
    /// Every threshold that was reached and whatever else asks for an action, the strictest first.
    pub reasons: Vec<Reason>,
}

impl DecisionPolicy {
    /// Checks a policy.
    ///
    /// # Errors
    /// All problems of the policy.
    pub fn new(text: DecisionPolicyText) -> Result<Self, Vec<PolicyProblem>> {
        let problems = problems(&text);
        if !problems.is_empty() {
            return Err(problems);
        }
        // Maps are written in the order of their keys, so the digest does not depend on how the file is laid out.
        let written = serde_json::to_vec(&text).unwrap_or_default();
        Ok(Self {
            text,
            digest: digest::of_bytes(written),
        })
    }

    /// The name that requests give.
    pub fn name(&self) -> &str {
        &self.text.name
    }

    /// The version.
    pub fn version(&self) -> u32 {
        self.text.version
    }

    /// The name and the version, as `NAME@VERSION`.
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.text.name, self.text.version)
    }

    /// `sha256:<hex>` of what the policy says.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The digest of the calibrator that it uses.
    pub fn calibrator(&self) -> Option<&str> {
        self.text.calibrator.as_deref()
    }

    /// The categories that any threshold is of.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        let languages = self.text.languages.values().map(|rules| &rules.categories);
        let all = std::iter::once(&self.text.categories).chain(languages);
        all.flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Whether decisions about texts in this language need the probabilities of categories.
    pub fn needs_categories(&self, language: Option<&str>) -> bool {
        !self.text.categories.is_empty()
            || language
                .and_then(|language| self.rules_of(language))
                .is_some_and(|rules| !rules.categories.is_empty())
    }

    /// The classifiers whose harm scores it has thresholds of, by their model ids, with the labels of texts without harm; `None` for
    /// a model's first label.
    pub fn classifiers(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let rules = self.text.classifiers.iter();
        rules.map(|(model, rule)| (model.as_str(), rule.harmless_label.as_deref()))
    }

    /// Whether it has thresholds of a guard's verdict, or uses a calibrator.
    pub fn needs_verdict(&self) -> bool {
        let languages = self.text.languages.values();
        self.text.calibrator.is_some()
            || self.text.thresholds != Thresholds::default()
            || !self.text.categories.is_empty()
            || languages.into_iter().any(|rules| *rules != Rules::default())
    }

    /// What is done about a verdict on a text in this language, and about what classifiers say of it.
    ///
    /// A category's thresholds are not reached where its probability was not computed: ask for it where
    /// [`DecisionPolicy::needs_categories`] says so.
    pub fn decide(&self, judgement: &Judgement<'_>, language: Option<&str>) -> Decision {
        let of_language = language.and_then(|language| self.rules_of(language));
        let mut reasons = Vec::new();
        if let Some(verdict) = &judgement.verdict {
            self.decide_verdict(verdict, of_language, &mut reasons);
        }
        for (model, rule) in &self.text.classifiers {
            let mut classified = judgement.classified.iter();
            let found =
                classified.find(|one| one.model == *model && one.is_about(rule.harmless_label.as_deref()));
            let Some(found) = found else {
                reasons.push(Reason {
                    subject: Subject::NotClassified(model.clone()),
                    action: self.text.undetermined,
                    value: None,
                    threshold: None,
                });
                continue;
            };
            if let Some((action, threshold)) = rule.thresholds().reached(found.harm_score) {
                reasons.push(Reason {
                    subject: Subject::Classifier(model.clone()),
                    action,
                    value: Some(found.harm_score),
                    threshold: Some(threshold),
                });
            }
        }
        // The sort keeps the order of reasons that ask for the same.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.action));
        Decision {
            action: reasons.first().map_or(Action::Allow, |reason| reason.action),
            reasons,
        }
    }

    /// Adds what a verdict asks for to `reasons`. `of_language` is what is different for the text's language.
    fn decide_verdict(
        &self,
        judgement: &JudgedVerdict<'_>,
        of_language: Option<&Rules>,
        reasons: &mut Vec<Reason>,
    ) {
        let mut ask = |subject: Subject, action: Action, value: Option<f64>| {
            reasons.push(Reason {
                subject,
                action,
                value,
                threshold: None,
            });
        };
        if judgement.label == Label::Undetermined || judgement.unsafe_score.is_none() {
            ask(Subject::Undetermined, self.text.undetermined, None);
        }
        match (
            judgement.unsafe_score,
            judgement.calibrated,
            &self.text.prediction,
        ) {
            (Some(_), None, _) if self.text.calibrator.is_some() => {
                ask(Subject::NotCalibrated, self.text.undetermined, None);
            }
            (Some(score), Some(calibrated), Some(rules)) if rules.action(calibrated.set) > Action::Allow => {
                ask(Subject::PredictionSet, rules.action(calibrated.set), Some(score));
            }
            _ => {}
        }
        let mut hold = |subject: Subject, thresholds: Thresholds, value: f64| {
            if let Some((action, threshold)) = thresholds.reached(value) {
                reasons.push(Reason {
                    subject,
                    action,
                    value: Some(value),
                    threshold: Some(threshold),
                });
            }
        };
        let own = of_language.map_or_else(Thresholds::default, |rules| rules.thresholds);
        let scaled = match self.text.scale {
            Scale::Raw => judgement.unsafe_score.map(|score| (Subject::UnsafeScore, score)),
            Scale::Calibrated => judgement
                .calibrated
                .map(|calibrated| (Subject::CalibratedProbability, calibrated.probability)),
        };
        if let Some((subject, value)) = scaled {
            hold(subject, own.or(self.text.thresholds), value);
        }
        for (code, probability) in judgement.categories {
            let in_language = of_language.and_then(|rules| rules.categories.get(code));
            let anywhere = self.text.categories.get(code);
            let thresholds = in_language
                .copied()
                .unwrap_or_default()
                .or(anywhere.copied().unwrap_or_default());
            hold(Subject::Category(code.clone()), thresholds, *probability);
        }
    }

    /// What is different for a language: by its whole tag, or by a beginning of it, so that `pt-BR` finds `pt`.
    fn rules_of(&self, language: &str) -> Option<&Rules> {
        let mut tag = language;
        loop {
            let found = self
                .text
                .languages
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(tag));
            match (found, tag.rfind('-')) {
                (Some((_, rules)), _) => return Some(rules),
                (None, Some(end)) => tag = &tag[..end],
                (None, None) => return None,
            }
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
