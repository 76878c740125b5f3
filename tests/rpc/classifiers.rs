//! Classifiers beside a guard and alone: their answers are transformers', long texts are read in windows, wrong questions are refused
//! by name, and decision policies decide by them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use babelward::{
    backend::{Backend, Footprint, LoadOptions, cpu::CpuBackend},
    classifier::labels_of,
    digest,
    engine::Clock,
    guard::{DecisionPolicy, DecisionSet},
    model::spec::Precision,
    proto::{
        self, Action, Capability, DecisionSubject, GuardUse, generate_response::Event,
        guard_stream_request::Event as Sent, guard_stream_response::Event as Told,
    },
    registry::{
        KvSize, LoadPolicy, MemoryOptions, ModelGroup, ModelLoader, ModelRole, ModelSpec, OpenedModel,
        Registry, RegistryError,
    },
    rpc::ServerOptions,
    text::Tokenizer,
};
use tonic::{Code, Status};

use crate::{
    classifiers_golden::{Golden, GoldenText, expected, folder},
    common::load_options,
    rig::{self, GUARD, Rig, Setup, classify, reason, requests, violated},
    scripted::Gate,
};

const WATCH: &str = "watch";

/// The tiny classifier of a folder, on the processor. It is not opened while the gate is closed.
struct FolderLoader {
    folder: PathBuf,
    gate: Gate,
}

fn options() -> LoadOptions {
    load_options(Precision::F32, 1 << 20)
}

impl ModelLoader for FolderLoader {
    fn footprint(&self, _precision: Precision) -> Result<Footprint, RegistryError> {
        Ok(CpuBackend::new(1)
            .footprint(&self.folder, &[], &options())
            .unwrap())
    }

    fn open(&self, _kv_bytes: u64, _precision: Precision) -> Result<OpenedModel, RegistryError> {
        self.gate.pass();
        Ok(OpenedModel {
            loaded: CpuBackend::new(1).load(&self.folder, &[], &options()).unwrap(),
            tokenizer: Arc::new(Tokenizer::from_folder(&self.folder).unwrap()),
            template: None,
            names: Vec::new(),
            digest: digest::of_bytes("watch"),
            adapter_digests: Vec::new(),
            estimator: None,
            labels: Some(labels_of(&self.folder).unwrap()),
            verdict_heads: None,
        })
    }
}

async fn rig() -> Rig {
    rig_with(Guards::One, DecisionSet::default()).await
}

/// Whether a server has a guard beside the classifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guards {
    None,
    One,
}

async fn rig_with(guards: Guards, decisions: DecisionSet) -> Rig {
    let folder = folder();
    let eager = Classifier {
        folder: folder.path(),
        load: LoadPolicy::Eager,
        gate: Gate::default(),
    };
    rig_of(guards, decisions, eager).await
}

/// How the classifier is loaded.
struct Classifier<'a> {
    folder: &'a Path,
    load: LoadPolicy,
    gate: Gate,
}

async fn rig_of(guards: Guards, decisions: DecisionSet, classifier: Classifier<'_>) -> Rig {
    let (setup, gate) = (Setup::default(), Gate::default());
    let mut groups = match guards {
        Guards::None => Vec::new(),
        Guards::One => rig::scripted_groups(&setup, &gate),
    };
    groups.push(ModelGroup {
        specs: vec![ModelSpec {
            load: classifier.load,
            ..rig::spec(WATCH, ModelRole::Classifier)
        }],
        device: 0,
        passed_over: Vec::new(),
        precision: Precision::F32,
        loader: Box::new(FolderLoader {
            folder: classifier.folder.to_owned(),
            gate: classifier.gate,
        }),
    });
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Auto,
    };
    let start = rig::start_options(memory, 2048, Clock::default());
    let registry = Registry::prepare_groups(groups, start).unwrap();
    registry.load_eager().unwrap();
    let options = ServerOptions {
        decisions,
        ..ServerOptions::default()
    };
    Rig::serve(registry, options, gate).await
}

fn question(model: &str, harmless_label: &str) -> proto::ClassifierQuestion {
    proto::ClassifierQuestion {
        model: model.to_owned(),
        harmless_label: harmless_label.to_owned(),
    }
}

fn asking(contents: &[&str], classifiers: Vec<proto::ClassifierQuestion>) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        classifiers,
        ..classify(contents)
    }
}

async fn ask(rig: &Rig, request: proto::ClassifyRequest) -> Result<proto::ClassifyResponse, Status> {
    Ok(rig.safety().await.classify(request).await?.into_inner())
}

fn with_windows(golden: &Golden, more_than: usize) -> &GoldenText {
    let found = golden.texts.iter().find(|text| text.windows.len() > more_than);
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_asks_the_guard_about_harm_and_a_classifier_about_injection() {
    let rig = rig().await;
    let golden = expected();
    let text = &golden.texts[0];
    let answer = ask(&rig, asking(&[&text.text], vec![question(WATCH, "")]))
        .await
        .unwrap();
    assert_eq!(answer.verdict.unwrap().provenance.unwrap().model, GUARD);
    let [found] = &answer.classifications[..] else {
        panic!("{:?}", answer.classifications);
    };
    let labels: Vec<&str> = found.probabilities.iter().map(|one| one.label.as_str()).collect();
    assert_eq!(labels, golden.labels);
    for (found, expected) in found.probabilities.iter().zip(&text.windows[0].probabilities) {
        assert!((found.probability - expected).abs() < 2e-5, "{found:?}");
    }
    assert!((found.harm_score - (1.0 - text.windows[0].probabilities[0])).abs() < 2e-5);
    let most =
        (0..3).max_by(|a, b| text.windows[0].probabilities[*a].total_cmp(&text.windows[0].probabilities[*b]));
    assert_eq!(found.label, golden.labels[most.unwrap()]);
    assert_eq!(found.windows.len(), 1);
    assert_eq!(found.provenance.as_ref().unwrap().model, WATCH);
    // Without a classifier there is no classification.
    let answer = ask(&rig, classify(&[&text.text])).await.unwrap();
    assert!(answer.classifications.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_long_text_the_window_with_the_least_of_the_harmless_label_counts() {
    let rig = rig().await;
    let golden = expected();
    let text = with_windows(&golden, 3);
    // The judged message is the last one.
    let long = asking(&["a", &text.text], vec![question(WATCH, "jailbreak")]);
    let answer = ask(&rig, long).await.unwrap();
    let found = &answer.classifications[0];
    assert_eq!(found.windows.len(), text.windows.len());
    for (found, expected) in found.windows.iter().zip(&text.windows) {
        assert!((found.harm_score - (1.0 - expected.probabilities[2])).abs() < 2e-5);
        assert_eq!(found.tokens as usize + 2, expected.tokens.len());
    }
    let least = (0..text.windows.len()).min_by(|a, b| {
        let of = |window: usize| text.windows[window].probabilities[2];
        of(*a).total_cmp(&of(*b))
    });
    assert_eq!(found.counted_window as usize, least.unwrap());
    let most = found.windows.iter().map(|window| window.harm_score);
    assert_eq!(found.harm_score, most.fold(0.0, f64::max));
    let read: usize = text.windows.iter().map(|window| window.tokens.len()).sum();
    assert_eq!(found.usage.as_ref().unwrap().prompt_tokens as usize, read);
    // The same bits when it is asked again, from the prefix cache.
    let again = asking(&["a", &text.text], vec![question(WATCH, "jailbreak")]);
    let again = ask(&rig, again).await.unwrap();
    assert_eq!(again.classifications[0].windows, found.windows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_too_many_windows_is_refused_with_the_limit() {
    let rig = rig().await;
    // 22 tokens and 63 steps of 17.
    let long = "flour ".repeat(1100);
    let status = ask(&rig, asking(&[&long], vec![question(WATCH, "")]))
        .await
        .unwrap_err();
    let (reason, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(reason, "INPUT_TOO_LONG");
    assert_eq!(metadata["limitTokens"], "1093");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_named() {
    let rig = rig().await;
    let refused = async |classifiers| ask(&rig, asking(&["a"], classifiers)).await.unwrap_err();
    let status = refused(vec![
        question("", ""),
        question(WATCH, &"x".repeat(200)),
        question(WATCH, ""),
    ])
    .await;
    assert_eq!(
        violated(&status),
        [
            "classifiers[0].model",
            "classifiers[1].harmless_label",
            "classifiers[2].model"
        ]
    );
    let status = refused(vec![question(WATCH, "safe")]).await;
    assert_eq!(violated(&status), ["classifiers[0].harmless_label"]);
    assert!(
        format!("{status:?}").contains("benign, injection, jailbreak"),
        "{status:?}"
    );
    let many = (0..9).map(|index| question(&format!("m{index}"), "")).collect();
    assert_eq!(violated(&refused(many).await), ["classifiers"]);
    let status = refused(vec![question("wach", "")]).await;
    assert_eq!(reason(&status, Code::NotFound).0, "MODEL_NOT_FOUND");
    let status = refused(vec![question(GUARD, "")]).await;
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CAPABILITY_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_is_listed_with_its_capability_and_is_nobodys_guard() {
    let rig = rig().await;
    let request = proto::ListModelsRequest {
        capability: Capability::ClassifyText.into(),
        ..Default::default()
    };
    let listed = rig
        .models()
        .await
        .list_models(request)
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<&str> = listed.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(ids, [WATCH]);
    let request = proto::ClassifyRequest {
        model: WATCH.to_owned(),
        ..classify(&["a"])
    };
    let status = ask(&rig, request).await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CAPABILITY_MISSING");
}

fn using(guard_use: GuardUse, request: proto::ClassifyRequest) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        guard_use: guard_use.into(),
        ..request
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classifiers_alone_say_the_same_without_a_verdict() {
    let rig = rig().await;
    let golden = expected();
    let beside = asking(&[&golden.texts[0].text], vec![question(WATCH, "")]);
    let with_guard = ask(&rig, beside.clone()).await.unwrap();
    let request = using(GuardUse::None, beside.clone());
    let alone = ask(&rig, request.clone()).await.unwrap();
    assert_eq!((&alone.verdict, &alone.total_usage), (&None, &None));
    let said = |answer: &proto::ClassifyResponse| {
        let found = &answer.classifications[0];
        (
            found.probabilities.clone(),
            found.windows.clone(),
            found.label.clone(),
        )
    };
    assert_eq!(said(&alone), said(&with_guard));
    let batch = proto::BatchClassifyRequest {
        items: vec![proto::BatchClassifyItem {
            id: "a".to_owned(),
            request: Some(request.clone()),
        }],
    };
    let results = rig
        .safety()
        .await
        .batch_classify(batch)
        .await
        .unwrap()
        .into_inner()
        .results;
    let Some(proto::batch_classify_result::Result::Response(in_batch)) = &results[0].result else {
        panic!("{results:?}");
    };
    assert_eq!(in_batch.verdict, None);
    assert_eq!(said(in_batch), said(&with_guard));
    let item = proto::ClassifyStreamRequest {
        id: "a".to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(request)),
        timeout: None,
    };
    let (sender, items) = requests();
    sender.send(item).unwrap();
    let mut answers = rig
        .safety()
        .await
        .classify_stream(items)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(proto::classify_stream_response::Result::Response(streamed)) = answer.result else {
        panic!("{answer:?}");
    };
    assert_eq!(streamed.verdict, None);
    assert_eq!(said(&streamed), said(&with_guard));
}

async fn alone_of(rig: &Rig, request: proto::ClassifyRequest) -> proto::ClassifyResponse {
    let answer = ask(rig, request).await.unwrap();
    assert_eq!(answer.verdict, None);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_classifiers_answers_those_who_do_without_a_verdict() {
    let rig = rig_with(Guards::None, DecisionSet::default()).await;
    let beside = asking(&["a"], vec![question(WATCH, "benign")]);
    for guard_use in [GuardUse::None, GuardUse::IfServed] {
        let answer = alone_of(&rig, using(guard_use, beside.clone())).await;
        assert_eq!(answer.classifications[0].harmless_label, "benign");
    }
    // A verdict that was asked for is never left out silently.
    let mut refused = vec![
        beside.clone(),
        using(GuardUse::Required, beside.clone()),
        using(GuardUse::IfServed, classify(&["a"])),
    ];
    refused.push(proto::ClassifyRequest {
        category_probabilities: true,
        ..using(GuardUse::IfServed, beside.clone())
    });
    for request in refused {
        let status = ask(&rig, request).await.unwrap_err();
        assert_eq!(reason(&status, Code::FailedPrecondition).0, "NO_DEFAULT_MODEL");
    }
    let served = rig_with(Guards::One, DecisionSet::default()).await;
    let answer = ask(&served, using(GuardUse::IfServed, beside)).await.unwrap();
    assert_eq!(answer.verdict.unwrap().provenance.unwrap().model, GUARD);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_a_guard_is_refused_where_none_judges() {
    let rig = rig().await;
    let alone = using(GuardUse::None, asking(&["a"], vec![question(WATCH, "")]));
    let status = ask(
        &rig,
        proto::ClassifyRequest {
            model: GUARD.to_owned(),
            category_probabilities: true,
            judge: proto::JudgeScope::EachMessage.into(),
            windows: Some(proto::Windows::default()),
            ..alone.clone()
        },
    )
    .await
    .unwrap_err();
    assert_eq!(
        violated(&status),
        ["model", "category_probabilities", "judge", "windows"]
    );
    let status = ask(&rig, using(GuardUse::None, classify(&["a"])))
        .await
        .unwrap_err();
    assert_eq!(violated(&status), ["classifiers"]);
    let unknown = proto::ClassifyRequest {
        guard_use: 77,
        ..alone.clone()
    };
    assert_eq!(violated(&ask(&rig, unknown).await.unwrap_err()), ["guard_use"]);
    let renderings = proto::ClassifyRenderingsRequest {
        renderings: vec![classify(&["a"]), alone.clone()],
        ..Default::default()
    };
    let status = rig
        .safety()
        .await
        .classify_renderings(renderings)
        .await
        .unwrap_err();
    assert_eq!(violated(&status), ["renderings[1].guard_use"]);
    let evidence = proto::FindEvidenceRequest {
        request: Some(using(GuardUse::None, classify(&["a"]))),
        ..Default::default()
    };
    let status = rig.safety().await.find_evidence(evidence).await.unwrap_err();
    assert_eq!(violated(&status), ["request.guard_use"]);
}

/// Scores of the script are 0.12 for safe and 0.88 for unsafe texts.
const BOTH: &str = r#"
name = "both"
version = 1
thresholds = { block = 0.5 }
classifiers.watch = { flag = 0.0001 }
"#;

const ALONE: &str = r#"
name = "alone"
version = 1
classifiers.watch = { harmless_label = "jailbreak", block = 0.0001 }
"#;

const NO_LABEL: &str =
    "name = 'label'\nversion = 1\nclassifiers.watch = { harmless_label = 'safe', block = 0.5 }\n";

const NO_MODEL: &str = "name = 'model'\nversion = 1\nclassifiers.wach = { block = 0.5 }\n";

fn decisions(default: Option<&str>, shadows: &[&str]) -> DecisionSet {
    let mut decisions = DecisionSet::default();
    for text in [BOTH, ALONE, NO_LABEL, NO_MODEL] {
        let policy = DecisionPolicy::new(toml::from_str(text).unwrap()).unwrap();
        decisions.add(policy).unwrap();
    }
    if let Some(name) = default {
        decisions.set_default(decisions.find(name).unwrap().clone());
    }
    for name in shadows {
        decisions.add_shadow(decisions.find(name).unwrap().clone());
    }
    decisions
}

fn by(request: proto::ClassifyRequest, decision_policy: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        decision_policy: decision_policy.to_owned(),
        ..request
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn injection_and_harm_are_one_decision_in_one_call() {
    let rig = rig_with(Guards::One, decisions(Some("both"), &[])).await;
    let text = &expected().texts[0];
    // The policy asks the classifier that it has a threshold of.
    let answer = ask(&rig, classify(&[&text.text])).await.unwrap();
    let [found] = &answer.classifications[..] else {
        panic!("{:?}", answer.classifications);
    };
    assert_eq!(
        (found.model.as_str(), found.harmless_label.as_str()),
        (WATCH, "benign")
    );
    let decision = answer.decision.unwrap();
    assert_eq!(decision.action(), Action::Flag);
    let [reason] = &decision.reasons[..] else {
        panic!("{:?}", decision.reasons);
    };
    assert_eq!(reason.subject(), DecisionSubject::Classifier);
    assert_eq!(reason.classifier, WATCH);
    assert_eq!(
        (reason.value, reason.threshold),
        (Some(found.harm_score), Some(0.0001))
    );
    // The guard's score is the stricter reason.
    let answer = ask(&rig, classify(&["[unsafe] words"])).await.unwrap();
    let decision = answer.decision.unwrap();
    assert_eq!(decision.action(), Action::Block);
    let subjects: Vec<_> = decision
        .reasons
        .iter()
        .map(proto::DecisionReason::subject)
        .collect();
    assert_eq!(
        subjects,
        [DecisionSubject::UnsafeScore, DecisionSubject::Classifier]
    );
    // What the request asks for as well is not asked twice, and comes first.
    let same = asking(&["a"], vec![question(WATCH, "benign")]);
    assert_eq!(ask(&rig, same).await.unwrap().classifications.len(), 1);
    let other = asking(&["a"], vec![question(WATCH, "injection")]);
    let other = ask(&rig, other).await.unwrap().classifications;
    let labels: Vec<_> = other.iter().map(|one| one.harmless_label.as_str()).collect();
    assert_eq!(labels, ["injection", "benign"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_guard_policies_of_classifiers_alone_decide() {
    let rig = rig_with(Guards::None, decisions(Some("both"), &["both", "alone"])).await;
    let alone = using(GuardUse::None, asking(&["a"], vec![question(WATCH, "")]));
    // The default policy needs a verdict, which nobody asked for.
    let answer = ask(&rig, alone).await.unwrap();
    assert_eq!(answer.decision, None);
    let shadows = answer.shadow_decisions.iter();
    assert_eq!(
        shadows.map(|one| one.policy.as_str()).collect::<Vec<_>>(),
        ["alone"]
    );
    let decided = by(using(GuardUse::None, classify(&["a"])), "alone");
    let answer = ask(&rig, decided).await.unwrap();
    assert_eq!(answer.verdict, None);
    let decision = answer.decision.unwrap();
    assert_eq!(decision.action(), Action::Block);
    assert_eq!(
        decision.reasons[0].value,
        Some(answer.classifications[0].harm_score)
    );
    assert_eq!(answer.classifications[0].harmless_label, "jailbreak");
    let refused = by(
        using(GuardUse::None, asking(&["a"], vec![question(WATCH, "")])),
        "both",
    );
    assert_eq!(
        violated(&ask(&rig, refused).await.unwrap_err()),
        ["decision_policy"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_that_cannot_answer_fails_its_policys_requests_and_no_shadows() {
    let rig = rig_with(Guards::One, decisions(None, &["label", "model", "alone"])).await;
    let status = ask(&rig, by(classify(&["a"]), "label")).await.unwrap_err();
    assert_eq!(violated(&status), ["decision_policy"]);
    assert!(
        format!("{status:?}").contains("benign, injection, jailbreak"),
        "{status:?}"
    );
    let status = ask(&rig, by(classify(&["a"]), "model")).await.unwrap_err();
    assert_eq!(reason(&status, Code::NotFound).0, "MODEL_NOT_FOUND");
    let answer = ask(&rig, classify(&["a"])).await.unwrap();
    // What shadows alone ask for is not told.
    assert_eq!((answer.decision, answer.classifications), (None, vec![]));
    let told: Vec<_> = answer
        .shadow_decisions
        .iter()
        .map(|one| {
            (
                one.action(),
                one.reasons[0].subject(),
                one.reasons[0].classifier.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Action::Block, DecisionSubject::NotClassified, WATCH),
            (Action::Block, DecisionSubject::NotClassified, "wach"),
            (Action::Block, DecisionSubject::Classifier, WATCH),
        ]
    );
}

/// The gate of its loader is closed: whoever waited for it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_classifier_that_a_shadow_policy_loads() {
    let (folder, gate) = (folder(), Gate::default());
    gate.close();
    let lazy = Classifier {
        folder: folder.path(),
        load: LoadPolicy::Lazy,
        gate: gate.clone(),
    };
    let rig = rig_of(Guards::One, decisions(None, &["alone"]), lazy).await;
    let subject = async || {
        let answer = ask(&rig, classify(&["a"])).await.unwrap();
        assert!(answer.classifications.is_empty());
        answer.shadow_decisions[0].reasons[0].subject()
    };
    assert_eq!(subject().await, DecisionSubject::NotClassified);
    assert_eq!(subject().await, DecisionSubject::NotClassified);
    gate.open();
    // The first request has begun the load, which goes on although nobody waits.
    let began = Instant::now();
    while subject().await != DecisionSubject::Classifier {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never loaded");
        tokio::task::yield_now().await;
    }
    rig.stop().await;
}

fn decided_by_classifier(decision: Option<proto::Decision>, harm_score: f64) {
    let decision = decision.unwrap();
    let [reason] = &decision.reasons[..] else {
        panic!("{decision:?}");
    };
    assert_eq!(
        (reason.subject(), reason.classifier.as_str(), reason.value),
        (DecisionSubject::Classifier, WATCH, Some(harm_score))
    );
}

/// The text that a Classify is asked about is the answer of a Score and of a guarded Generate, and the text of a GuardStream.
#[tokio::test(flavor = "multi_thread")]
async fn answers_and_growing_texts_are_decided_about_by_classifiers_too() {
    let rig = rig_with(Guards::One, decisions(Some("both"), &[])).await;
    let alone = ask(&rig, classify(&["What?", "bread"])).await.unwrap();
    let harm_score = alone.classifications[0].harm_score;
    decided_by_classifier(alone.decision, harm_score);

    let mut scored = rig::score("[say bread]");
    scored.samples = 2;
    let scored = rig.scoring().await.score(scored).await.unwrap().into_inner();
    assert_eq!(scored.samples.len(), 2);
    for sample in scored.samples {
        decided_by_classifier(sample.decision, harm_score);
    }

    let start = proto::GuardStart {
        conversation: Some(rig::conversation(&["What?"])),
        ..proto::GuardStart::default()
    };
    let messages = [
        Sent::Start(start),
        Sent::Chunk(b"bread".to_vec()),
        Sent::End(proto::GuardEnd {}),
    ];
    let sent = messages.map(|event| proto::GuardStreamRequest { event: Some(event) });
    let stream = rig.safety().await.guard_stream(tokio_stream::iter(sent)).await;
    let mut stream = stream.unwrap().into_inner();
    let mut decision = None;
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Told::Ended(ended)) = response.event {
            decision = ended.decision;
        }
    }
    decided_by_classifier(decision, harm_score);

    let request = proto::GenerateRequest {
        guard: Some(proto::AnswerGuard::default()),
        ..rig::generate("[say bread]")
    };
    let mut stream = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let mut decision = None;
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Event::Finished(finished)) = response.event {
            decision = finished.guard.unwrap().decision;
        }
    }
    decided_by_classifier(decision, harm_score);
    rig.stop().await;
}
