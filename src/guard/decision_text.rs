//! A decision policy as it is written, and what is wrong with it.

use std::collections::BTreeMap;

use super::PolicyProblem;
use crate::{calibrator::PredictionSet, digest};

/// Longest name of a decision policy, in bytes.
const NAME_BYTES: usize = 128;
/// Longest code of a category, in bytes.
const CODE_BYTES: usize = 128;
/// Longest id of a classifier and name of a label, in bytes.
const CLASSIFIER_BYTES: usize = 128;
/// Most classifiers that a policy has thresholds of.
const CLASSIFIERS: usize = 8;
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
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            flag: self.flag.or(other.flag),
            block: self.block.or(other.block),
        }
    }

    /// The strictest action whose threshold this value reaches, with the threshold.
    pub(super) fn reached(self, value: f64) -> Option<(Action, f64)> {
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
    pub(super) fn action(self, set: PredictionSet) -> Action {
        match set {
            PredictionSet::Safe => Action::Allow,
            PredictionSet::Unsafe => self.unsafe_,
            PredictionSet::Both | PredictionSet::Neither => self.uncertain,
        }
    }
}

/// From which harm scores of a classifier on something is flagged and blocked.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierRule {
    /// The label of texts without harm; absent for the model's first label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harmless_label: Option<String>,
    /// Flagged from this harm score on, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<f64>,
    /// Blocked from this harm score on, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<f64>,
}

impl ClassifierRule {
    /// Its thresholds.
    pub(super) fn thresholds(&self) -> Thresholds {
        Thresholds {
            flag: self.flag,
            block: self.block,
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
    /// Of the harm scores of classifiers, by their model ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classifiers: BTreeMap<String, ClassifierRule>,
    /// What is different for texts in a language, by its BCP 47 tag.
    #[serde(default)]
    pub languages: BTreeMap<String, Rules>,
}

fn block() -> Action {
    Action::Block
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

/// All problems of a policy.
pub(super) fn problems(text: &DecisionPolicyText) -> Vec<PolicyProblem> {
    let mut check = Check::default();
    check.policy(text);
    check.0
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
        self.classifiers(text);
        let rules = text.languages.values();
        let nothing = text.prediction.is_none()
            && text.thresholds == Thresholds::default()
            && text.categories.is_empty()
            && text.classifiers.is_empty()
            && rules.into_iter().all(|rules| *rules == Rules::default());
        if nothing {
            self.wrong(
                "thresholds",
                "must have flag or block, or a category, classifier or language must have some",
            );
        }
    }

    /// Checks the thresholds of harm scores.
    fn classifiers(&mut self, text: &DecisionPolicyText) {
        if text.classifiers.len() > CLASSIFIERS {
            self.wrong("classifiers", format!("must have at most {CLASSIFIERS}"));
        }
        let is_name = |name: &str| (1..=CLASSIFIER_BYTES).contains(&name.len());
        for (model, rule) in text.classifiers.iter().take(CLASSIFIERS) {
            let path = format!("classifiers.{}", shown(model));
            if !is_name(model) {
                self.wrong(
                    &path,
                    format!("must be named by the id of a model, of 1..={CLASSIFIER_BYTES} bytes"),
                );
            }
            if rule
                .harmless_label
                .as_deref()
                .is_some_and(|label| !is_name(label))
            {
                self.wrong(
                    format!("{path}.harmless_label"),
                    format!("must have 1..={CLASSIFIER_BYTES} bytes"),
                );
            }
            if rule.thresholds() == Thresholds::default() {
                self.wrong(&path, "must have flag or block");
            }
            self.thresholds(&path, rule.thresholds(), Thresholds::default());
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
