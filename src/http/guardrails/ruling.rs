//! What a door makes of a guard's answer: the text passes, it is blocked, or there is no verdict.

use crate::{
    http::verdict::{has_undetermined_window, highest_score, is_undetermined},
    proto::{self, Action, ClassifyResponse, Decision, DecisionReason, DecisionSubject, Label, Verdict},
    rpc::label_name,
};

/// What is said about a text.
#[derive(Debug, PartialEq)]
pub(super) enum Ruling {
    /// There is a verdict, and it asks for nothing.
    Passed,
    /// There is a verdict, and it asks to block the text.
    Blocked(Box<Blocked>),
    /// The guard answered, and its answer is no verdict. Says why.
    Undetermined(String),
}

/// A verdict that blocks a text.
#[derive(Debug, PartialEq)]
pub(super) struct Blocked {
    /// The verdict that decided.
    pub(super) verdict: Verdict,
    /// What made it one that blocks.
    pub(super) because: Because,
}

/// Why a verdict blocks.
#[derive(Debug, PartialEq)]
pub(super) enum Because {
    /// The guard's own label.
    Label,
    /// The score reached this threshold.
    Score(f64),
    /// A decision policy.
    Policy(PolicyBlock),
}

/// A decision policy that blocks.
#[derive(Debug, PartialEq)]
pub(super) struct PolicyBlock {
    /// `NAME@VERSION`.
    policy: String,
    /// The strictest of its reasons.
    reason: Option<DecisionReason>,
}

impl PolicyBlock {
    fn of(decision: &Decision) -> Self {
        let blocks = |reason: &&DecisionReason| reason.action() == Action::Block;
        Self {
            policy: format!("{}@{}", decision.policy, decision.policy_version),
            reason: decision.reasons.iter().find(blocks).cloned(),
        }
    }

    /// The reason, if it is what a classifier says or does not say. The guard's verdict has no part in it then.
    fn of_classifier(&self) -> Option<&DecisionReason> {
        self.reason
            .as_ref()
            .filter(|reason| !reason.classifier.is_empty())
    }
}

impl Blocked {
    /// The guard's model id.
    pub(super) fn guard(&self) -> &str {
        guard(&self.verdict)
    }

    /// The score that blocks: that of the verdict, or where a threshold decided, of the window that reached it by most; the harm_score
    /// of a classifier that decided.
    pub(super) fn score(&self) -> Option<f64> {
        match self.because {
            Because::Score(_) => highest_score(&self.verdict),
            Because::Policy(ref block) => match block.of_classifier() {
                Some(reason) => reason.value,
                None => self.verdict.unsafe_score,
            },
            Because::Label => self.verdict.unsafe_score,
        }
    }

    /// Why the text is blocked, with the guard, its label and categories, or the classifier that decided, and without anything of the
    /// text.
    pub(super) fn reason(&self) -> String {
        if let Because::Policy(block) = &self.because
            && let Some(reason) = block.of_classifier()
        {
            return format!("decision policy {} blocks: {}", block.policy, classifier(reason));
        }
        let verdict = &self.verdict;
        let mut reason = format!("guard {} says {}", self.guard(), label_name(verdict.label()));
        let categories: Vec<String> = verdict.categories.iter().map(category).collect();
        if !categories.is_empty() {
            reason = format!("{reason} ({})", categories.join(", "));
        }
        if let Some(score) = self.score() {
            reason = format!("{reason}, unsafe_score {score:.3}");
        }
        match &self.because {
            Because::Label => reason,
            Because::Score(threshold) => format!("{reason}, which reaches the threshold {threshold}"),
            Because::Policy(block) => format!("decision policy {} blocks: {reason}", block.policy),
        }
    }
}

/// What is made of an answer. Where the request or the server names a decision policy, its decision counts; else `unsafe_score`
/// is the score from which on a verdict blocks; else the label does: unsafe, and controversial like it.
pub(super) fn ruling(response: &ClassifyResponse, unsafe_score: Option<f64>) -> Ruling {
    let worst = response.verdict.iter();
    let each = response
        .message_verdicts
        .iter()
        .filter_map(|one| one.verdict.as_ref());
    let verdicts: Vec<&Verdict> = worst.chain(each).collect();
    let blocked = match &response.decision {
        Some(decision) if decision.action() == Action::Block => verdicts
            .first()
            .map(|verdict| (*verdict, Because::Policy(PolicyBlock::of(decision)))),
        Some(_) => None,
        None => verdicts
            .iter()
            .find_map(|verdict| because(verdict, unsafe_score).map(|because| (*verdict, because))),
    };
    if let Some((verdict, because)) = blocked {
        return Ruling::Blocked(Box::new(Blocked {
            verdict: verdict.clone(),
            because,
        }));
    }
    let says_nothing =
        |verdict: &&&Verdict| is_undetermined(verdict.label()) || has_undetermined_window(verdict);
    match verdicts.iter().find(says_nothing) {
        Some(verdict) => Ruling::Undetermined(format!(
            "the answer of guard {} is none of its labels",
            guard(verdict)
        )),
        None if verdicts.is_empty() => Ruling::Undetermined("the server's answer has no verdict".to_owned()),
        None => Ruling::Passed,
    }
}

/// Why a verdict blocks by itself, if it does.
fn because(verdict: &Verdict, unsafe_score: Option<f64>) -> Option<Because> {
    let reaches = |threshold: f64| highest_score(verdict).is_some_and(|score| score >= threshold);
    match (unsafe_score, verdict.unsafe_score) {
        (Some(threshold), _) if reaches(threshold) => Some(Because::Score(threshold)),
        (Some(_), Some(_)) => None,
        // Without a threshold, or without a score that could reach it.
        _ => matches!(verdict.label(), Label::Unsafe | Label::Controversial).then_some(Because::Label),
    }
}

/// What a classifier said, for the reason that is about it.
fn classifier(reason: &DecisionReason) -> String {
    let model = &reason.classifier;
    match (reason.subject(), reason.value, reason.threshold) {
        (DecisionSubject::NotClassified, ..) => format!("classifier {model} has not classified the text"),
        (_, Some(score), Some(threshold)) => {
            format!("classifier {model}, harm_score {score:.3}, which reaches the threshold {threshold}")
        }
        _ => format!("classifier {model}"),
    }
}

fn guard(verdict: &Verdict) -> &str {
    verdict
        .provenance
        .as_ref()
        .map_or("", |provenance| &provenance.model)
}

fn category(category: &proto::CategoryResult) -> String {
    match category.display_name.as_str() {
        "" => category.category.clone(),
        name if name == category.category => name.to_owned(),
        name => format!("{} {name}", category.category),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(label: Label, unsafe_score: Option<f64>) -> Verdict {
        let category = |code: &str, name: &str| proto::CategoryResult {
            category: code.to_owned(),
            display_name: name.to_owned(),
        };
        Verdict {
            label: label.into(),
            unsafe_score,
            categories: match label {
                Label::Unsafe => vec![category("S1", "Violent Crimes"), category("S9", "")],
                _ => Vec::new(),
            },
            provenance: Some(proto::Provenance {
                model: "ward".to_owned(),
                ..proto::Provenance::default()
            }),
            ..Verdict::default()
        }
    }

    fn answer(label: Label, unsafe_score: Option<f64>) -> ClassifyResponse {
        ClassifyResponse {
            verdict: Some(verdict(label, unsafe_score)),
            ..ClassifyResponse::default()
        }
    }

    fn reason(ruling: Ruling) -> String {
        match ruling {
            Ruling::Blocked(blocked) => blocked.reason(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_label_counts_where_nothing_else_is_said() {
        assert_eq!(ruling(&answer(Label::Safe, Some(0.9)), None), Ruling::Passed);
        assert_eq!(
            reason(ruling(&answer(Label::Unsafe, Some(0.25)), None)),
            "guard ward says unsafe (S1 Violent Crimes, S9), unsafe_score 0.250"
        );
        assert_eq!(
            reason(ruling(&answer(Label::Controversial, None), None)),
            "guard ward says controversial"
        );
    }

    #[test]
    fn a_threshold_takes_the_labels_place() {
        assert_eq!(
            ruling(&answer(Label::Unsafe, Some(0.4)), Some(0.5)),
            Ruling::Passed
        );
        assert_eq!(
            reason(ruling(&answer(Label::Safe, Some(0.5)), Some(0.5))),
            "guard ward says safe, unsafe_score 0.500, which reaches the threshold 0.5"
        );
        // Without a score there is the label.
        assert!(matches!(
            ruling(&answer(Label::Unsafe, None), Some(0.5)),
            Ruling::Blocked(_)
        ));
    }

    #[test]
    fn a_threshold_is_for_every_window_of_a_long_text() {
        let window = |label: Label, score: f64| proto::WindowVerdict {
            label: label.into(),
            unsafe_score: Some(score),
            ..proto::WindowVerdict::default()
        };
        let mut response = answer(Label::Controversial, Some(0.4));
        if let Some(verdict) = &mut response.verdict {
            verdict.windows = vec![window(Label::Controversial, 0.4), window(Label::Safe, 0.7)];
        }
        assert_eq!(
            reason(ruling(&response, Some(0.5))),
            "guard ward says controversial, unsafe_score 0.700, which reaches the threshold 0.5"
        );
        assert_eq!(ruling(&response, Some(0.8)), Ruling::Passed);
        assert_eq!(
            reason(ruling(&response, None)),
            "guard ward says controversial, unsafe_score 0.400"
        );
        if let Some(verdict) = &mut response.verdict {
            verdict.windows.push(window(Label::Undetermined, 0.1));
        }
        assert!(
            matches!(ruling(&response, Some(0.8)), Ruling::Undetermined(_)),
            "a window has no verdict"
        );
    }

    #[test]
    fn a_decision_policy_takes_the_place_of_both() {
        let decided = |action: Action, label| ClassifyResponse {
            decision: Some(proto::Decision {
                action: action.into(),
                policy: "chat".to_owned(),
                policy_version: 3,
                ..proto::Decision::default()
            }),
            ..answer(label, Some(0.6))
        };
        assert_eq!(
            reason(ruling(&decided(Action::Block, Label::Safe), None)),
            "decision policy chat@3 blocks: guard ward says safe, unsafe_score 0.600"
        );
        assert_eq!(
            ruling(&decided(Action::Flag, Label::Unsafe), Some(0.1)),
            Ruling::Passed
        );
        assert!(matches!(
            ruling(&decided(Action::Allow, Label::Undetermined), None),
            Ruling::Undetermined(_)
        ));
    }

    #[test]
    fn a_classifier_that_decides_is_named_in_place_of_the_guard() {
        let decided = |reasons: Vec<DecisionReason>| ClassifyResponse {
            decision: Some(Decision {
                action: Action::Block.into(),
                reasons,
                policy: "chat".to_owned(),
                policy_version: 3,
                ..Decision::default()
            }),
            ..answer(Label::Safe, Some(0.1))
        };
        let of = |subject: DecisionSubject, action: Action| DecisionReason {
            action: action.into(),
            subject: subject.into(),
            classifier: "watch".to_owned(),
            value: (subject == DecisionSubject::Classifier).then_some(0.93),
            threshold: (subject == DecisionSubject::Classifier).then_some(0.5),
            ..DecisionReason::default()
        };
        let by_classifier = ruling(
            &decided(vec![of(DecisionSubject::Classifier, Action::Block)]),
            None,
        );
        let Ruling::Blocked(blocked) = by_classifier else {
            panic!("{by_classifier:?}");
        };
        assert_eq!(
            blocked.reason(),
            "decision policy chat@3 blocks: classifier watch, harm_score 0.930, which reaches the threshold 0.5"
        );
        assert_eq!(blocked.score(), Some(0.93));
        let silent = decided(vec![of(DecisionSubject::NotClassified, Action::Block)]);
        assert_eq!(
            reason(ruling(&silent, None)),
            "decision policy chat@3 blocks: classifier watch has not classified the text"
        );
        // A reason that blocks counts, and not one that only flags.
        let of_guard = DecisionReason {
            action: Action::Block.into(),
            subject: DecisionSubject::UnsafeScore.into(),
            value: Some(0.1),
            threshold: Some(0.05),
            ..DecisionReason::default()
        };
        let both = decided(vec![of_guard, of(DecisionSubject::Classifier, Action::Flag)]);
        assert_eq!(
            reason(ruling(&both, None)),
            "decision policy chat@3 blocks: guard ward says safe, unsafe_score 0.100"
        );
    }

    #[test]
    fn what_is_no_verdict_is_neither_passed_nor_blocked() {
        assert_eq!(
            ruling(&answer(Label::Undetermined, Some(0.3)), None),
            Ruling::Undetermined("the answer of guard ward is none of its labels".to_owned())
        );
        assert!(matches!(
            ruling(&ClassifyResponse::default(), None),
            Ruling::Undetermined(_)
        ));
        assert!(matches!(
            ruling(&answer(Label::Unspecified, None), None),
            Ruling::Undetermined(_)
        ));
    }

    #[test]
    fn with_several_verdicts_one_is_enough_to_block() {
        let messages = [(Label::Safe, 0.7), (Label::Undetermined, 0.1)];
        let response = ClassifyResponse {
            message_verdicts: messages
                .iter()
                .map(|(label, score)| proto::MessageVerdict {
                    message: 0,
                    verdict: Some(verdict(*label, Some(*score))),
                })
                .collect(),
            ..answer(Label::Undetermined, Some(0.1))
        };
        assert!(matches!(ruling(&response, Some(0.5)), Ruling::Blocked(_)));
        assert!(matches!(ruling(&response, None), Ruling::Undetermined(_)));
    }
}
