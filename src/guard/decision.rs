//! Decision policies: what is done about a verdict. A verdict's label is what the guard said; a decision is what a service
//! makes of it, by thresholds of its own, and the two never stand in for each other.
//!
//! The categories that a guard judges by are another matter, and another file ([`Policy`](super::Policy)).

use std::collections::BTreeMap;

use super::{Label, PolicyProblem};
use crate::{
    calibrator::{CalibratedScore, PredictionSet},
    digest,
};

/// Longest name of a decision policy, in bytes.
const NAME_BYTES: usize = 128;
/// Longest code of a category, in bytes.
const CODE_BYTES: usize = 128;
/// Longest tag of a language, in bytes.
const LANGUAGE_BYTES: usize = 35;
/// Most categories of a policy or of one of its languages.
const CATEGORIES: usize = 64;
/// Most languages with thresholds of their own.
const LANGUAGES: usize = 64;

/// What is done about a conversation. The later ones are stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// It passes, and somebody should look at it.
    Flag,
    /// It does not pass.
    Block,
}

/// From which values on something is flagged and blocked. A value that is absent is given elsewhere, or never reached.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Flagged from this value on, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<f64>,
    /// Blocked from this value on, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<f64>,
}

impl Thresholds {
    /// These, and what they leave out as in `other`.
    fn or(self, other: Self) -> Self {
        Self {
            flag: self.flag.or(other.flag),
            block: self.block.or(other.block),
        }
    }

    /// The strictest action whose threshold this value reaches, with the threshold.
    fn reached(self, value: f64) -> Option<(Action, f64)> {
        let reached = |threshold: Option<f64>| threshold.filter(|threshold| value >= *threshold);
        reached(self.block)
            .map(|threshold| (Action::Block, threshold))
            .or_else(|| reached(self.flag).map(|threshold| (Action::Flag, threshold)))
    }
}

/// What the thresholds of a verdict are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// The unsafe score, as the guard gives it.
    #[default]
    Raw,
    /// The probability that the policy's calibrator makes of it.
    Calibrated,
}

impl Scale {
    fn is_raw(&self) -> bool {
        *self == Self::Raw
    }
}

/// What is done about a verdict by the labels that its text may have, which the policy's calibrator says. Nothing is asked for where
/// that is safe alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct PredictionRules {
    /// Where it is unsafe alone.
    #[serde(rename = "unsafe")]
    pub unsafe_: Action,
    /// Where it is both or neither, so that the score does not decide.
    pub uncertain: Action,
}

impl PredictionRules {
    fn action(self, set: PredictionSet) -> Action {
        match set {
            PredictionSet::Safe => Action::Allow,
            PredictionSet::Unsafe => self.unsafe_,
            PredictionSet::Both | PredictionSet::Neither => self.uncertain,
        }
    }
}

/// The thresholds of a policy, or those that it has for a language.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Of the verdict's unsafe score, or of its calibrated probability.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// Of the probability of each category: that the text is unsafe and the guard names this category first.
    #[serde(default)]
    pub categories: BTreeMap<String, Thresholds>,
}

/// A decision policy as it is written.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionPolicyText {
    /// The name that requests give.
    pub name: String,
    /// The version. What a version says never changes; a changed policy has the next one.
    pub version: u32,
    /// What is done where there is no verdict: the guard wrote neither label, or both probabilities underflow.
    #[serde(default = "block")]
    pub undetermined: Action,
    /// The digest of the calibrator whose probabilities and prediction sets it uses, `sha256:<hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrator: Option<String>,
    /// What `thresholds` are of, also those of languages.
    #[serde(default, skip_serializing_if = "Scale::is_raw")]
    pub scale: Scale,
    /// What is done by the prediction set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<PredictionRules>,
    /// Of the verdict's unsafe score, or of its calibrated probability.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// Of the probability of each category.
    #[serde(default)]
    pub categories: BTreeMap<String, Thresholds>,
    /// What is different for texts in a language, by its BCP 47 tag.
    #[serde(default)]
    pub languages: BTreeMap<String, Rules>,
}

fn block() -> Action {
    Action::Block
}

/// A valid decision policy.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionPolicy {
    text: DecisionPolicyText,
    digest: String,
}

/// What is decided about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement<'a> {
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
        let mut check = Check::default();
        check.policy(&text);
        if !check.0.is_empty() {
            return Err(check.0);
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

    /// What is done about a verdict on a text in this language.
    ///
    /// A category's thresholds are not reached where its probability was not computed: ask for it where
    /// [`DecisionPolicy::needs_categories`] says so.
    pub fn decide(&self, judgement: &Judgement<'_>, language: Option<&str>) -> Decision {
        let of_language = language.and_then(|language| self.rules_of(language));
        let mut reasons = Vec::new();
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
        // The sort keeps the order of reasons that ask for the same.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.action));
        Decision {
            action: reasons.first().map_or(Action::Allow, |reason| reason.action),
            reasons,
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

/// Whether a text is written as a BCP 47 tag is: letters and digits in parts of up to eight, with hyphens between them.
pub fn is_language_tag(text: &str) -> bool {
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= LANGUAGE_BYTES
        && text.split('-').all(is_part)
        && text
            .split('-')
            .next()
            .is_some_and(|first| first.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// Collects problems.
#[derive(Default)]
struct Check(Vec<PolicyProblem>);

impl Check {
    fn wrong(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(PolicyProblem {
            field: field.into(),
            description: description.into(),
        });
    }

    fn policy(&mut self, text: &DecisionPolicyText) {
        let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'@';
        if !(1..=NAME_BYTES).contains(&text.name.len()) || !text.name.bytes().all(visible) {
            self.wrong(
                "name",
                format!("must be 1..={NAME_BYTES} visible ASCII characters without @"),
            );
        }
        if text.version == 0 {
            self.wrong("version", "must be 1 or more");
        }
        self.rules(
            "",
            text.thresholds,
            &text.categories,
            Thresholds::default(),
            &BTreeMap::new(),
        );
        if text.languages.len() > LANGUAGES {
            self.wrong("languages", format!("must have at most {LANGUAGES}"));
        }
        let mut seen: Vec<&str> = Vec::new();
        for (tag, rules) in text.languages.iter().take(LANGUAGES) {
            let path = format!("languages.{}", shown(tag));
            if !is_language_tag(tag) {
                self.wrong(&path, "must be named by a BCP 47 tag, such as de or pt-BR");
            }
            if seen.iter().any(|other| other.eq_ignore_ascii_case(tag)) {
                self.wrong(&path, "is there twice, in other letters");
            }
            seen.push(tag);
            self.rules(
                &format!("{path}."),
                rules.thresholds,
                &rules.categories,
                text.thresholds,
                &text.categories,
            );
        }
        self.calibration(text);
        let rules = text.languages.values();
        let nothing = text.prediction.is_none()
            && text.thresholds == Thresholds::default()
            && text.categories.is_empty()
            && rules.into_iter().all(|rules| *rules == Rules::default());
        if nothing {
            self.wrong(
                "thresholds",
                "must have flag or block, or a category or language must have some",
            );
        }
    }

    /// Checks what the policy uses of a calibrator.
    fn calibration(&mut self, text: &DecisionPolicyText) {
        match &text.calibrator {
            Some(calibrator) if !digest::is_digest(calibrator) => self.wrong(
                "calibrator",
                "must be the digest of a calibrator, sha256: and 64 hexadecimal digits, which its file states",
            ),
            Some(_) => {}
            None if text.scale == Scale::Calibrated => {
                self.wrong("scale", "is calibrated, which needs the digest of a calibrator");
            }
            None if text.prediction.is_some() => {
                self.wrong("prediction", "needs the digest of a calibrator");
            }
            None => {}
        }
        if text
            .prediction
            .is_some_and(|rules| rules.uncertain > rules.unsafe_)
        {
            self.wrong(
                "prediction.uncertain",
                "must not be stricter than unsafe, so that a higher score never makes a decision milder",
            );
        }
    }

    /// Checks thresholds as they stand together with those that they go before.
    fn rules(
        &mut self,
        path: &str,
        own: Thresholds,
        categories: &BTreeMap<String, Thresholds>,
        base: Thresholds,
        base_categories: &BTreeMap<String, Thresholds>,
    ) {
        self.thresholds(&format!("{path}thresholds"), own, base);
        if categories.len() > CATEGORIES {
            self.wrong(
                format!("{path}categories"),
                format!("must have at most {CATEGORIES}"),
            );
        }
        for (code, own) in categories.iter().take(CATEGORIES) {
            let field = format!("{path}categories.{}", shown(code));
            if !(1..=CODE_BYTES).contains(&code.len()) || code.chars().any(char::is_control) {
                self.wrong(
                    &field,
                    format!("must be named by a category's code, of 1..={CODE_BYTES} bytes"),
                );
            }
            if *own == Thresholds::default() {
                self.wrong(&field, "must have flag or block");
            }
            self.thresholds(
                &field,
                *own,
                base_categories.get(code).copied().unwrap_or_default(),
            );
        }
    }

    fn thresholds(&mut self, path: &str, own: Thresholds, base: Thresholds) {
        for (name, value) in [("flag", own.flag), ("block", own.block)] {
            // Also what is no number.
            if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
                self.wrong(format!("{path}.{name}"), "must be from 0 to 1");
            }
        }
        let both = own.or(base);
        if own != Thresholds::default()
            && let (Some(flag), Some(block)) = (both.flag, both.block)
            && flag > block
        {
            self.wrong(
                format!("{path}.flag"),
                format!("must be at most block, and {flag} is more than {block}"),
            );
        }
    }
}

/// The beginning of a name that may be wrong in any way, for messages.
fn shown(name: &str) -> String {
    name.chars().filter(|char| !char.is_control()).take(40).collect()
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
