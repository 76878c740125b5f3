use super::*;
use crate::{calibrator::PredictionSet, random::Random};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const TEXT: &str = r#"
name = "chat"
version = 3
[thresholds]
flag = 0.3
block = 0.7
[categories.S10]
block = 0.2
[languages.de.thresholds]
flag = 0.25
[languages.de.categories.S10]
block = 0.1
[languages.pt-BR.categories.S1]
flag = 0.05
"#;

fn policy(text: &str) -> Result<DecisionPolicy, Vec<String>> {
    let text: DecisionPolicyText = toml::from_str(text).unwrap();
    DecisionPolicy::new(text).map_err(|problems| {
        let shown = |problem: &PolicyProblem| format!("{} {}", problem.field, problem.description);
        problems.iter().map(shown).collect()
    })
}

fn judged(score: f64) -> JudgedVerdict<'static> {
    JudgedVerdict {
        label: if score > 0.5 { Label::Unsafe } else { Label::Safe },
        unsafe_score: Some(score),
        categories: &[],
        calibrated: None,
    }
}

/// A guard's verdict without a word of classifiers.
fn about(verdict: JudgedVerdict<'_>) -> Judgement<'_> {
    Judgement {
        verdict: Some(verdict),
        classified: &[],
    }
}

#[test]
fn the_score_is_held_against_the_thresholds_of_the_language() {
    let policy = policy(TEXT).unwrap();
    let action = |score: f64, language: Option<&str>| policy.decide(&about(judged(score)), language).action;
    assert_eq!(action(0.29, None), Action::Allow);
    assert_eq!(
        action(0.3, None),
        Action::Flag,
        "a threshold is reached by its own value"
    );
    assert_eq!(action(0.69, None), Action::Flag);
    assert_eq!(action(0.7, None), Action::Block);
    for german in ["de", "DE", "de-AT", "de-Latn-AT"] {
        assert_eq!(action(0.27, Some(german)), Action::Flag, "{german}");
        assert_eq!(
            action(0.7, Some(german)),
            Action::Block,
            "block is the policy's own"
        );
    }
    assert_eq!(action(0.27, Some("pt")), Action::Allow, "pt is not pt-BR");
    assert_eq!(action(0.27, Some("den")), Action::Allow);
}

#[test]
fn categories_have_thresholds_of_their_own_and_the_strictest_counts() {
    let policy = policy(TEXT).unwrap();
    let categories = [("S1".to_owned(), 0.1), ("S10".to_owned(), 0.15)];
    let judgement = JudgedVerdict {
        categories: &categories,
        ..judged(0.3)
    };
    assert_eq!(policy.decide(&about(judgement), None).action, Action::Flag);
    let german = policy.decide(&about(judgement), Some("de"));
    assert_eq!(german.action, Action::Block);
    assert_eq!(
        german.reasons,
        [
            Reason {
                subject: Subject::Category("S10".to_owned()),
                action: Action::Block,
                value: Some(0.15),
                threshold: Some(0.1),
            },
            Reason {
                subject: Subject::UnsafeScore,
                action: Action::Flag,
                value: Some(0.3),
                threshold: Some(0.25),
            },
        ]
    );
    let brazil = policy.decide(&about(judgement), Some("pt-BR"));
    let subjects: Vec<_> = brazil.reasons.iter().map(|reason| &reason.subject).collect();
    assert_eq!(
        subjects,
        [&Subject::UnsafeScore, &Subject::Category("S1".to_owned())]
    );
    assert!(policy.needs_categories(None));
    assert_eq!(policy.categories().collect::<Vec<_>>(), ["S10", "S10", "S1"]);
}

#[test]
fn without_a_verdict_the_policy_says_what_is_done() {
    let open = TEXT.replace("version = 3", "version = 3\nundetermined = \"flag\"");
    for (text, wanted) in [(TEXT, Action::Block), (open.as_str(), Action::Flag)] {
        let policy = policy(text).unwrap();
        for judgement in [
            JudgedVerdict {
                label: Label::Undetermined,
                ..judged(0.0)
            },
            JudgedVerdict {
                unsafe_score: None,
                ..judged(0.0)
            },
        ] {
            let decision = policy.decide(&about(judgement), None);
            assert_eq!(decision.action, wanted);
            assert_eq!(decision.reasons[0].subject, Subject::Undetermined);
        }
    }
    let policy = policy(&open).unwrap();
    let unclear = JudgedVerdict {
        label: Label::Undetermined,
        ..judged(0.9)
    };
    assert_eq!(
        policy.decide(&about(unclear), None).action,
        Action::Block,
        "the score is still there"
    );
}

#[test]
fn wrong_policies_say_where() {
    let cases = [
        (
            "name = \"a b\"\nversion = 0\nthresholds.flag = 0.5\n",
            vec!["name must", "version must"],
        ),
        (
            "name = \"a@1\"\nversion = 1\nthresholds.flag = 0.5\n",
            vec!["name must"],
        ),
        ("name = \"a\"\nversion = 1\n", vec!["thresholds must have"]),
        (
            "name = \"a\"\nversion = 1\nthresholds.flag = 1.5\n",
            vec!["thresholds.flag must be from"],
        ),
        (
            "name = \"a\"\nversion = 1\nthresholds.flag = nan\n",
            vec!["thresholds.flag must be from"],
        ),
        (
            "name = \"a\"\nversion = 1\nthresholds = { flag = 0.6, block = 0.5 }\n",
            vec!["thresholds.flag must be at most block"],
        ),
        (
            "name = \"a\"\nversion = 1\nthresholds.block = 0.5\nlanguages.de.thresholds.flag = 0.6\n",
            vec!["languages.de.thresholds.flag must be at most block"],
        ),
        (
            "name = \"a\"\nversion = 1\ncategories.S1 = {}\nlanguages.\"d e\".thresholds.flag = 0.6\n",
            vec!["categories.S1 must have", "languages.d e must be named"],
        ),
        (
            "name = \"a\"\nversion = 1\nthresholds.flag = 0.5\nlanguages.de = {}\nlanguages.DE = {}\n",
            vec!["languages.de is there twice"],
        ),
        (
            "name = \"a\"\nversion = 1\nthresholds.flag = 0.5\nscale = \"calibrated\"\n",
            vec!["scale is calibrated, which needs"],
        ),
        (
            "name = \"a\"\nversion = 1\nprediction = { unsafe = \"block\", uncertain = \"flag\" }\n",
            vec!["prediction needs"],
        ),
        (
            "name = \"a\"\nversion = 1\ncalibrator = \"sha256:1\"\nprediction = { unsafe = \"flag\", uncertain = \"block\" }\n",
            vec![
                "calibrator must be the digest",
                "prediction.uncertain must not be stricter",
            ],
        ),
    ];
    for (text, wanted) in cases {
        let found = policy(text).unwrap_err();
        assert_eq!(found.len(), wanted.len(), "{text}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{text}: {found}");
        }
    }
}

#[test]
fn the_digest_is_that_of_what_is_said_and_not_of_how() {
    let policy_of = |text: &str| policy(text).unwrap().digest().to_owned();
    let other_layout = "version = 3\nname = 'chat'\ncategories = { S10 = { block = 0.20 } }\nundetermined = 'block'\n\
                        thresholds = { block = 0.7, flag = 0.3 }\n[languages]\n\
                        pt-BR = { categories = { S1 = { flag = 0.05 } } }\n\
                        de = { thresholds = { flag = 0.25 }, categories = { S10 = { block = 0.1 } } }\n";
    assert_eq!(policy_of(TEXT), policy_of(other_layout));
    for change in [("0.25", "0.26"), ("version = 3", "version = 4"), ("S10", "S11")] {
        assert_ne!(policy_of(TEXT), policy_of(&TEXT.replace(change.0, change.1)));
    }
}

const WITH_CLASSIFIERS: &str = r#"
name = "chat"
version = 1
[thresholds]
block = 0.7
[classifiers.watch]
flag = 0.4
block = 0.9
[classifiers.topics]
harmless_label = "cooking"
flag = 0.5
"#;

fn classified(model: &str, harmless_label: &str, harm_score: f64) -> Classified {
    Classified {
        model: model.to_owned(),
        harmless_label: harmless_label.to_owned(),
        first_label: "benign".to_owned(),
        harm_score,
    }
}

#[test]
fn injection_and_harm_are_one_decision() {
    let policy = policy(WITH_CLASSIFIERS).unwrap();
    assert_eq!(
        policy.classifiers().collect::<Vec<_>>(),
        [("topics", Some("cooking")), ("watch", None)]
    );
    assert!(policy.needs_verdict());
    let decide = |score: f64, watch: f64, topics: f64| {
        let all = [
            // The same models, asked about other labels.
            classified("watch", "injection", 1.0),
            classified("topics", "benign", 1.0),
            classified("watch", "benign", watch),
            classified("topics", "cooking", topics),
        ];
        let judgement = Judgement {
            verdict: Some(judged(score)),
            classified: &all,
        };
        policy.decide(&judgement, None)
    };
    assert_eq!(decide(0.6, 0.3, 0.4).action, Action::Allow);
    assert_eq!(decide(0.6, 0.4, 0.4).action, Action::Flag);
    assert_eq!(decide(0.6, 0.3, 0.5).action, Action::Flag);
    assert_eq!(decide(0.8, 0.3, 0.4).action, Action::Block);
    let both = decide(0.8, 0.95, 0.6);
    let told: Vec<_> = both
        .reasons
        .iter()
        .map(|reason| (&reason.subject, reason.action))
        .collect();
    let (watch, topics) = (
        Subject::Classifier("watch".to_owned()),
        Subject::Classifier("topics".to_owned()),
    );
    assert_eq!(
        told,
        [
            (&Subject::UnsafeScore, Action::Block),
            (&watch, Action::Block),
            (&topics, Action::Flag)
        ]
    );
    assert_eq!(both.reasons[1].value, Some(0.95));
    assert_eq!(both.reasons[1].threshold, Some(0.9));
}

#[test]
fn a_classifier_that_said_nothing_is_undetermined_and_a_guard_that_was_not_asked_is_not() {
    let policy = policy(&WITH_CLASSIFIERS.replace("[thresholds]\nblock = 0.7\n", "")).unwrap();
    assert!(!policy.needs_verdict());
    let watch = classified("watch", "benign", 0.1);
    let decide = |classified: &[Classified]| {
        let judgement = Judgement {
            verdict: None,
            classified,
        };
        policy.decide(&judgement, None)
    };
    let missing = decide(std::slice::from_ref(&watch));
    assert_eq!(missing.action, Action::Block);
    assert_eq!(
        missing.reasons[0].subject,
        Subject::NotClassified("topics".to_owned())
    );
    let all = decide(&[watch, classified("topics", "cooking", 0.1)]);
    assert_eq!((all.action, all.reasons), (Action::Allow, vec![]));
}

/// A higher score or probability never makes a decision milder.
#[test]
fn decisions_are_monotonic() {
    let mut random = Random::new(7);
    let mut draw = move || (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let policy = policy(TEXT).unwrap();
    for _ in 0..2000 {
        let (score, probability) = (draw(), draw());
        let (higher_score, higher_probability) = (
            score + draw() * (1.0 - score),
            probability + draw() * (1.0 - probability),
        );
        let decide = |score: f64, probability: f64, language: &str| {
            let categories = [("S10".to_owned(), probability)];
            let judgement = JudgedVerdict {
                categories: &categories,
                label: Label::Safe,
                unsafe_score: Some(score),
                calibrated: None,
            };
            policy.decide(&about(judgement), Some(language)).action
        };
        for language in ["de", "fr", "pt-BR"] {
            assert!(
                decide(score, probability, language) <= decide(higher_score, higher_probability, language)
            );
        }
    }
}

const CALIBRATED: &str = r#"
name = "chat"
version = 1
undetermined = "flag"
scale = "calibrated"
prediction = { unsafe = "block", uncertain = "flag" }
[thresholds]
flag = 0.3
[languages.de.thresholds]
flag = 0.2
"#;

#[test]
fn thresholds_can_be_of_calibrated_probabilities_and_sets_ask_for_actions() {
    let policy =
        policy(&CALIBRATED.replace("undetermined", &format!("calibrator = '{DIGEST}'\nundetermined")))
            .unwrap();
    let decide = |probability: f64, set: PredictionSet, language: &str| {
        let calibrated = CalibratedScore {
            probability,
            set,
            curve_language: None,
        };
        let judgement = JudgedVerdict {
            calibrated: Some(&calibrated),
            ..judged(0.9)
        };
        let decision = policy.decide(&about(judgement), Some(language));
        let subjects: Vec<_> = decision
            .reasons
            .into_iter()
            .map(|reason| reason.subject)
            .collect();
        (decision.action, subjects)
    };
    assert_eq!(decide(0.1, PredictionSet::Safe, "en"), (Action::Allow, vec![]));
    assert_eq!(
        decide(0.3, PredictionSet::Safe, "en"),
        (Action::Flag, vec![Subject::CalibratedProbability])
    );
    assert_eq!(
        decide(0.2, PredictionSet::Safe, "de"),
        (Action::Flag, vec![Subject::CalibratedProbability])
    );
    for uncertain in [PredictionSet::Both, PredictionSet::Neither] {
        assert_eq!(
            decide(0.1, uncertain, "en"),
            (Action::Flag, vec![Subject::PredictionSet])
        );
    }
    assert_eq!(
        decide(0.9, PredictionSet::Unsafe, "en"),
        (
            Action::Block,
            vec![Subject::PredictionSet, Subject::CalibratedProbability]
        )
    );
    // Where the calibrator is another guard's, the policy decides as without a verdict.
    let decision = policy.decide(&about(judged(0.9)), None);
    assert_eq!(
        (decision.action, &decision.reasons[0].subject),
        (Action::Flag, &Subject::NotCalibrated)
    );
    assert_eq!(policy.calibrator(), Some(DIGEST));
}

#[test]
fn what_a_policy_does_not_say_does_not_change_its_digest() {
    // As it was before policies could name a calibrator.
    let written = r#"{"name":"a","version":1,"undetermined":"block","thresholds":{"block":0.5},"categories":{},"languages":{}}"#;
    let policy = policy("name = 'a'\nversion = 1\nthresholds.block = 0.5\n").unwrap();
    assert_eq!(policy.digest(), digest::of_bytes(written));
}
