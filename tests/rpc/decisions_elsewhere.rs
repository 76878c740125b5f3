//! Decisions of Score, of GuardStream and of Generate's guard: about each answer and about the complete text, beside the label and
//! without a word in what is released.

use babelward::{
    guard::{DecisionPolicy, DecisionSet},
    proto::{
        self, Action, AnswerGuard, GuardOptions, GuardStart, GuardStreamRequest, Label, generate_response,
        guard_ended::Reason, guard_stream_request::Event as Sent, guard_stream_response::Event,
    },
    rpc::ServerOptions,
};
use tonic::{Code, Status};

use crate::rig::{Rig, Setup, classify, conversation, generate_tokens, reason, score, violated};

/// Scores of the script are 0.12 for safe and 0.88 for unsafe texts.
const CHAT: &str = "name = \"chat\"\nversion = 1\nthresholds = { flag = 0.5, block = 0.9 }\nlanguages.de.thresholds.block = 0.8\n";

/// Stricter than what the guard says.
const STRICT: &str = "name = \"chat\"\nversion = 2\nthresholds = { block = 0.1 }\n";

const BY_CATEGORY: &str = "name = \"categories\"\nversion = 1\ncategories.S1 = { block = 0.01 }\n";

/// Of a classifier that is not there.
const BY_CLASSIFIER: &str =
    "name = \"watched\"\nversion = 1\nundetermined = \"flag\"\nclassifiers.watch = { block = 0.5 }\n";

const QUESTION: &str = "How do I bake bread?";

async fn rig(default: Option<&str>) -> Rig {
    let mut decisions = DecisionSet::default();
    for text in [CHAT, STRICT, BY_CATEGORY, BY_CLASSIFIER] {
        let policy = DecisionPolicy::new(toml::from_str(text).unwrap()).unwrap();
        decisions.add(policy).unwrap();
    }
    if let Some(name) = default {
        decisions.set_default(decisions.find(name).unwrap().clone());
    }
    decisions.add_shadow(decisions.find("chat@2").unwrap().clone());
    Rig::with(Setup {
        options: ServerOptions {
            decisions,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await
}

/// What is decided by.
#[derive(Debug, Clone, Default)]
struct By {
    policy: String,
    language: String,
    options: GuardOptions,
}

fn by(policy: &str, language: &str) -> By {
    By {
        policy: policy.to_owned(),
        language: language.to_owned(),
        ..By::default()
    }
}

impl By {
    /// Of a Generate.
    fn answer_guard(self) -> Option<AnswerGuard> {
        Some(AnswerGuard {
            options: Some(self.options),
            decision_policy: self.policy,
            language: self.language,
            ..AnswerGuard::default()
        })
    }
}

/// All events of a stream about an answer.
async fn guard(rig: &Rig, by: By, text: &str) -> Result<Vec<Event>, Status> {
    let start = GuardStart {
        conversation: Some(conversation(&[QUESTION])),
        options: Some(by.options),
        decision_policy: by.policy,
        language: by.language,
        ..GuardStart::default()
    };
    let messages = [
        Sent::Start(start),
        Sent::Chunk(text.as_bytes().to_vec()),
        Sent::End(proto::GuardEnd {}),
    ];
    let requests = tokio_stream::iter(messages.map(|event| GuardStreamRequest { event: Some(event) }));
    let mut stream = rig.safety().await.guard_stream(requests).await?.into_inner();
    let mut events = Vec::new();
    while let Some(response) = stream.message().await? {
        events.extend(response.event);
    }
    Ok(events)
}

fn ended(events: &[Event]) -> proto::GuardEnded {
    match events.last() {
        Some(Event::Ended(ended)) => ended.clone(),
        other => panic!("{other:?}"),
    }
}

/// The decision of a Classify of the question and an answer.
async fn of_classify(rig: &Rig, by: &By, text: &str) -> (Option<proto::Decision>, Vec<proto::Decision>) {
    let request = proto::ClassifyRequest {
        decision_policy: by.policy.clone(),
        language: by.language.clone(),
        ..classify(&[QUESTION, text])
    };
    let answer = rig.safety().await.classify(request).await.unwrap().into_inner();
    (answer.decision, answer.shadow_decisions)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_complete_text_is_decided_about_as_classify_does_and_is_released_as_without() {
    let rig = rig(Some("chat@1")).await;
    let text = "Mix flour and water.";
    for (by, action) in [
        (by("", ""), Action::Allow),
        (by("chat@2", ""), Action::Block),
        (by("chat@1", "de-AT"), Action::Allow),
        (by("categories", ""), Action::Allow),
    ] {
        let events = guard(&rig, by.clone(), text).await.unwrap();
        let ended = ended(&events);
        assert_eq!(ended.reason(), Reason::Complete);
        assert_eq!(
            ended.released_bytes,
            text.len() as u64,
            "a decision releases nothing and holds nothing"
        );
        assert_eq!(ended.verdict.as_ref().unwrap().label(), Label::Safe);
        let decision = ended.decision.clone().unwrap();
        assert_eq!(decision.action(), action, "{by:?}");
        let (expected, shadows) = of_classify(&rig, &by, text).await;
        assert_eq!((Some(decision), ended.shadow_decisions), (expected, shadows));
    }
    // The other way round: the guard blocks what the policy lets pass.
    let events = guard(&rig, by("chat@1", ""), "[unsafe] words").await.unwrap();
    let ended = ended(&events);
    assert_eq!(
        (ended.reason(), ended.decision.unwrap().action()),
        (Reason::Policy, Action::Flag)
    );
    let german = guard(&rig, by("chat@1", "de"), "[unsafe] words").await.unwrap();
    assert_eq!(self::ended(&german).decision.unwrap().action(), Action::Block);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_a_look_blocks_is_not_decided_about() {
    let rig = rig(Some("chat@1")).await;
    let often = By {
        options: GuardOptions {
            cadence: Some(proto::GuardCadence {
                tokens: 8,
                sentence_end: Some(false),
            }),
            confirmations: 1,
            ..GuardOptions::default()
        },
        ..By::default()
    };
    let text = format!("[unsafe] {}", "and so on and on ".repeat(20));
    let ended = ended(&guard(&rig, often, &text).await.unwrap());
    assert_eq!(
        (ended.reason(), ended.decision, ended.shadow_decisions),
        (Reason::Policy, None, Vec::new())
    );
    assert!(ended.verdict.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answers_guard_decides_about_the_whole_answer() {
    let rig = rig(None).await;
    let generate = |by: By| proto::GenerateRequest {
        guard: by.answer_guard(),
        ..generate_tokens("[say Flour and water.]", 1000)
    };
    for (by, action) in [(by("chat@2", ""), Some(Action::Block)), (by("", ""), None)] {
        let mut stream = rig
            .generation()
            .await
            .generate(generate(by))
            .await
            .unwrap()
            .into_inner();
        let (mut text, mut finished) = (String::new(), None);
        while let Some(response) = stream.message().await.unwrap() {
            match response.event.unwrap() {
                generate_response::Event::Delta(delta) => text.push_str(&delta.text),
                generate_response::Event::Finished(last) => finished = last.guard,
                _ => {}
            }
        }
        let ended = finished.unwrap();
        assert_eq!(
            (ended.reason(), text.as_str()),
            (Reason::Complete, "Flour and water.")
        );
        assert_eq!(ended.decision.map(|decision| decision.action()), action);
        assert_eq!(ended.shadow_decisions.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn score_decides_about_each_answer() {
    let rig = rig(Some("chat@1")).await;
    let ask = async |text: &str, decision_policy: &str| {
        let request = proto::ScoreRequest {
            judge: Some(proto::JudgeOptions {
                decision_policy: decision_policy.to_owned(),
                ..Default::default()
            }),
            samples: 2,
            ..score(text)
        };
        rig.scoring()
            .await
            .score(request)
            .await
            .unwrap()
            .into_inner()
            .samples
    };
    for (text, policy, label, action) in [
        ("[say bread]", "", Label::Safe, Action::Allow),
        ("[say bread]", "chat@2", Label::Safe, Action::Block),
        ("[say [unsafe] yes]", "chat@1", Label::Unsafe, Action::Flag),
        ("[say [unsafe] yes]", "categories", Label::Unsafe, Action::Block),
    ] {
        let samples = ask(text, policy).await;
        assert_eq!(samples.len(), 2);
        for sample in samples {
            let decision = sample.decision.unwrap();
            assert_eq!(
                (sample.verdict.unwrap().label(), decision.action()),
                (label, action),
                "{text} {policy}"
            );
            assert_eq!(sample.shadow_decisions.len(), 1);
        }
    }
}

/// As in a Classify. A server ends its start where a policy names such a model.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_classifier_that_is_not_there_fails_its_requests() {
    for (default, named) in [(Some("watched"), ""), (None, "watched")] {
        let rig = rig(default).await;
        let scored = proto::ScoreRequest {
            judge: Some(proto::JudgeOptions {
                decision_policy: named.to_owned(),
                ..Default::default()
            }),
            ..score("[say bread]")
        };
        let answer = proto::GenerateRequest {
            guard: by(named, "").answer_guard(),
            ..generate_tokens("hi", 4)
        };
        for refused in [
            guard(&rig, by(named, ""), "bread").await.unwrap_err(),
            rig.scoring().await.score(scored).await.unwrap_err(),
            rig.generation()
                .await
                .generate(answer)
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert_eq!(reason(&refused, Code::NotFound).0, "MODEL_NOT_FOUND");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_by_is_named_by_its_field() {
    let rig = rig(None).await;
    let refused = guard(&rig, by("none", ""), "x").await.unwrap_err();
    assert_eq!(violated(&refused), ["start.decision_policy"]);
    let refused = guard(&rig, by(&"x".repeat(200), "not a language"), "x")
        .await
        .unwrap_err();
    assert_eq!(violated(&refused), ["start.decision_policy", "start.language"]);
    let answer = proto::GenerateRequest {
        guard: by("none", "").answer_guard(),
        ..generate_tokens("hi", 4)
    };
    let refused = rig.generation().await.generate(answer).await.unwrap_err();
    assert_eq!(violated(&refused), ["guard.decision_policy"]);
    let scored = proto::ScoreRequest {
        judge: Some(proto::JudgeOptions {
            decision_policy: "none".to_owned(),
            ..Default::default()
        }),
        ..score("hi")
    };
    let refused = rig.scoring().await.score(scored).await.unwrap_err();
    assert_eq!(violated(&refused), ["judge.decision_policy"]);
}
