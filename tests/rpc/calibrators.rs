//! Calibrators: probabilities and prediction sets in decisions, and refusing a calibrator of another guard.

use babelward::{
    calibrator::{
        CalibrationMethod, Calibrator, ErrorRates, FitOptions, FittedFor, FittedOn, JudgedSide,
        LabelledScore, LabelledText, fit,
    },
    guard::{DecisionPolicy, DecisionSet},
    proto::{self, Action, DecisionSubject, EvidenceOutcome, PredictionSet, classify_request::PolicySource},
    rpc::ServerOptions,
};
use tonic::{Code, Status};

use crate::rig::{Rig, Setup, classify, reason, score};

const SAFE: [&str; 1] = ["bread"];
const UNSAFE: [&str; 1] = ["[unsafe] words"];

async fn ask(rig: &Rig, request: proto::ClassifyRequest) -> Result<proto::ClassifyResponse, Status> {
    Ok(rig.safety().await.classify(request).await?.into_inner())
}

/// What the scripted guard says of a safe and of an unsafe text without any decision.
struct Verdicts {
    safe: proto::Verdict,
    unsafe_: proto::Verdict,
}

async fn verdicts() -> Verdicts {
    let rig = Rig::start().await;
    let safe = ask(&rig, classify(&SAFE)).await.unwrap().verdict.unwrap();
    let unsafe_ = ask(&rig, classify(&UNSAFE)).await.unwrap().verdict.unwrap();
    rig.stop().await;
    Verdicts { safe, unsafe_ }
}

impl Verdicts {
    /// Of texts that the guard calls safe, three in ten are unsafe by people's labels; of the others nineteen in twenty.
    fn calibrator(&self, change: impl FnOnce(&mut FittedFor)) -> Calibrator {
        let provenance = self.safe.provenance.clone().unwrap();
        let mut fitted_for = FittedFor {
            model_digest: provenance.model_digest,
            adapter_digest: provenance.adapter_digest,
            tokenizer_digest: provenance.tokenizer_digest,
            template_digest: provenance.template_digest,
            policy_digest: provenance.policy_digest,
            precision: provenance.precision,
            judged: JudgedSide::Prompt,
        };
        change(&mut fitted_for);
        let text = |verdict: &proto::Verdict, is_unsafe: bool| LabelledText {
            language: "de".to_owned(),
            score: LabelledScore {
                score: verdict.unsafe_score.unwrap(),
                is_unsafe,
                weight: 1.0,
            },
        };
        let texts: Vec<_> = (0..200)
            .flat_map(|at| [text(&self.safe, at < 60), text(&self.unsafe_, at < 190)])
            .collect();
        let options = FitOptions {
            method: CalibrationMethod::Isotonic,
            min_labels: 100,
            error_rates: ErrorRates {
                safe: 0.1,
                unsafe_: 0.1,
            },
        };
        fit(fitted_for, FittedOn::default(), &texts, options).unwrap()
    }
}

fn policy(name: &str, calibrator: &Calibrator, rules: &str) -> DecisionPolicy {
    let text = format!(
        "name = \"{name}\"\nversion = 1\nundetermined = \"flag\"\ncalibrator = \"{}\"\n{rules}",
        calibrator.digest()
    );
    DecisionPolicy::new(toml::from_str(&text).unwrap()).unwrap()
}

async fn rig(decisions: DecisionSet) -> Rig {
    Rig::with(Setup {
        options: ServerOptions {
            decisions,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await
}

fn by(contents: &[&str], decision_policy: &str, language: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        decision_policy: decision_policy.to_owned(),
        language: language.to_owned(),
        ..classify(contents)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_have_probabilities_and_sets_and_verdicts_keep_their_scores() {
    let verdicts = verdicts().await;
    let calibrator = verdicts.calibrator(|_| {});
    let mut decisions = DecisionSet::default();
    decisions.add_calibrator(calibrator.clone());
    let calibrated = "scale = \"calibrated\"\nthresholds = { flag = 0.25, block = 0.9 }\n";
    let raw = "thresholds = { flag = 0.25, block = 0.9 }\n";
    let sets = "prediction = { unsafe = \"block\", uncertain = \"flag\" }\n";
    for (name, rules) in [("calibrated", calibrated), ("raw", raw), ("sets", sets)] {
        decisions.add(policy(name, &calibrator, rules)).unwrap();
    }
    let rig = rig(decisions).await;
    // The score of the safe text is 0.12, its probability 0.3.
    for (contents, plain, probability, actions) in [
        (
            SAFE,
            &verdicts.safe,
            0.3,
            [Action::Flag, Action::Allow, Action::Flag],
        ),
        (
            UNSAFE,
            &verdicts.unsafe_,
            0.95,
            [Action::Block, Action::Flag, Action::Block],
        ),
    ] {
        for (name, action) in ["calibrated", "raw", "sets"].into_iter().zip(actions) {
            let answer = ask(&rig, by(&contents, name, "de")).await.unwrap();
            let (verdict, decision) = (answer.verdict.unwrap(), answer.decision.unwrap());
            assert_eq!(decision.action(), action, "{name} {decision:?}");
            assert_eq!(
                (verdict.label, verdict.unsafe_score.map(f64::to_bits)),
                (plain.label, plain.unsafe_score.map(f64::to_bits)),
                "the verdict is as it is without a calibrator"
            );
            let found = decision.calibrated_probability.unwrap();
            assert!((found - probability).abs() < 1e-12, "{found}");
            assert_eq!(decision.calibrator_digest, calibrator.digest());
            assert_eq!(decision.calibrated_for, "de");
            // 60 of 250 unsafe texts are called safe, and 10 of 150 safe ones unsafe.
            let set = if probability < 0.5 {
                PredictionSet::Both
            } else {
                PredictionSet::Unsafe
            };
            assert_eq!(decision.prediction_set(), set);
            for reason in &decision.reasons {
                let (subject, value) = match name {
                    "calibrated" => (DecisionSubject::CalibratedProbability, Some(found)),
                    "raw" => (DecisionSubject::UnsafeScore, verdict.unsafe_score),
                    _ => (DecisionSubject::PredictionSet, verdict.unsafe_score),
                };
                assert_eq!((reason.subject(), reason.value), (subject, value));
                assert_eq!(reason.threshold.is_some(), name != "sets");
            }
        }
    }
    let unlabelled = ask(&rig, by(&UNSAFE, "sets", "fr"))
        .await
        .unwrap()
        .decision
        .unwrap();
    assert_eq!(
        unlabelled.prediction_set(),
        PredictionSet::Both,
        "no French text was labelled"
    );
    assert_eq!(
        (unlabelled.action(), unlabelled.calibrated_for.as_str()),
        (Action::Flag, "")
    );
    let unnamed = ask(&rig, by(&UNSAFE, "sets", ""))
        .await
        .unwrap()
        .decision
        .unwrap();
    assert_eq!(unnamed.prediction_set(), PredictionSet::Unsafe);

    let odd = ask(&rig, by(&["[odd]"], "sets", "de"))
        .await
        .unwrap()
        .decision
        .unwrap();
    assert!(
        odd.reasons
            .iter()
            .any(|reason| reason.subject() == DecisionSubject::Undetermined)
    );

    let listed = rig
        .safety()
        .await
        .list_policies(proto::ListPoliciesRequest {})
        .await
        .unwrap();
    for listed in listed.into_inner().decision_policies {
        assert_eq!(listed.calibrator_digest, calibrator.digest());
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibrator_of_another_guard_is_refused_and_says_what_differs() {
    let verdicts = verdicts().await;
    let other_precision = verdicts.calibrator(|fitted| fitted.precision = "bf16".to_owned());
    let other_template = verdicts.calibrator(|fitted| {
        fitted.template_digest = "sha256:0".to_owned();
        fitted.model_digest = "sha256:0".to_owned();
    });
    let fitting = verdicts.calibrator(|_| {});
    let mut decisions = DecisionSet::default();
    let rules = "scale = \"calibrated\"\nthresholds.block = 0.9\n";
    for (name, calibrator) in [
        ("precision", &other_precision),
        ("template", &other_template),
        ("fitting", &fitting),
    ] {
        decisions.add_calibrator(calibrator.clone());
        decisions.add(policy(name, calibrator, rules)).unwrap();
    }
    decisions.add_shadow(decisions.find("precision").unwrap().clone());
    let rig = rig(decisions).await;
    let differing = |status: &Status, policy: &str| {
        let (reason, metadata) = reason(status, Code::FailedPrecondition);
        assert_eq!(
            (reason.as_str(), metadata["policy"].as_str()),
            ("CALIBRATOR_MISMATCH", policy)
        );
        metadata["differs"].clone()
    };
    let precision = ask(&rig, by(&SAFE, "precision", "")).await.unwrap_err();
    assert_eq!(differing(&precision, "precision@1"), "precision");
    let template = ask(&rig, by(&SAFE, "template", "")).await.unwrap_err();
    assert_eq!(differing(&template, "template@1"), "model_digest,template_digest");
    // The same guard by another policy gives other scores.
    let categories = vec![proto::PolicyCategory {
        code: "S1".to_owned(),
        name: "Fraud".to_owned(),
        description: String::new(),
    }];
    let judged_otherwise = proto::ClassifyRequest {
        policy_source: Some(PolicySource::InlinePolicy(proto::Policy {
            name: "shop".to_owned(),
            categories,
        })),
        ..by(&SAFE, "fitting", "")
    };
    let policy = ask(&rig, judged_otherwise).await.unwrap_err();
    assert_eq!(differing(&policy, "fitting@1"), "policy_digest");

    // A shadow policy fails no request, and says why it has no probability.
    let answer = ask(&rig, by(&SAFE, "fitting", "")).await.unwrap();
    assert_eq!(answer.decision.unwrap().action(), Action::Allow);
    let shadow = &answer.shadow_decisions[0];
    assert_eq!(
        (shadow.calibrated_probability, shadow.action()),
        (None, Action::Flag)
    );
    assert_eq!(shadow.prediction_set(), PredictionSet::Unspecified);
    assert_eq!(shadow.reasons[0].subject(), DecisionSubject::NotCalibrated);

    // A search for evidence decides nothing, and so it needs no calibrator.
    let search = proto::FindEvidenceRequest {
        request: Some(by(&SAFE, "precision", "")),
        max_passes: 0,
    };
    let found = rig.safety().await.find_evidence(search).await.unwrap();
    assert_eq!(found.into_inner().outcome(), EvidenceOutcome::NotUnsafe);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibrator_of_the_other_judged_side_is_refused() {
    let verdicts = verdicts().await;
    let prompts = verdicts.calibrator(|_| {});
    let answers = verdicts.calibrator(|fitted| fitted.judged = JudgedSide::Answer);
    let mut decisions = DecisionSet::default();
    let rules = "scale = \"calibrated\"\nthresholds.block = 0.9\n";
    for (name, calibrator) in [("prompts", &prompts), ("answers", &answers)] {
        decisions.add_calibrator(calibrator.clone());
        decisions.add(policy(name, calibrator, rules)).unwrap();
    }
    decisions.add_shadow(decisions.find("answers").unwrap().clone());
    let rig = rig(decisions).await;
    let differing = |status: &Status| {
        let (reason, metadata) = reason(status, Code::FailedPrecondition);
        (reason, metadata["differs"].clone())
    };
    let other_side = ("CALIBRATOR_MISMATCH".to_owned(), "judged".to_owned());
    let exchange = ["bread", "Take flour."];
    for (contents, fitting, other) in [
        (&SAFE[..], "prompts", "answers"),
        (&exchange[..], "answers", "prompts"),
    ] {
        let answer = ask(&rig, by(contents, fitting, "")).await.unwrap();
        assert!(answer.decision.unwrap().calibrated_probability.is_some());
        let shadow = &answer.shadow_decisions[0];
        assert_eq!(shadow.calibrated_probability.is_some(), fitting == "answers");
        let refused = ask(&rig, by(contents, other, "")).await.unwrap_err();
        assert_eq!(differing(&refused), other_side, "{contents:?}");
    }
    // Both sides are judged, and a calibrator is for one.
    for name in ["prompts", "answers"] {
        let both = proto::ClassifyRequest {
            judge: proto::JudgeScope::Exchange.into(),
            ..by(&exchange, name, "")
        };
        assert_eq!(
            differing(&ask(&rig, both).await.unwrap_err()),
            other_side,
            "{name}"
        );
    }
    // A Score judges answers.
    let scored = |name: &str| proto::ScoreRequest {
        judge: Some(proto::JudgeOptions {
            decision_policy: name.to_owned(),
            ..Default::default()
        }),
        ..score("[say bread]")
    };
    let refused = rig.scoring().await.score(scored("prompts")).await.unwrap_err();
    assert_eq!(differing(&refused), other_side);
    let answer = rig
        .scoring()
        .await
        .score(scored("answers"))
        .await
        .unwrap()
        .into_inner();
    let decision = answer.samples[0].decision.as_ref().unwrap();
    assert!(decision.calibrated_probability.is_some());
    rig.idle().await;
    rig.stop().await;
}
