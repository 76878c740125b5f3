//! Classifiers beside a guard: their answers are transformers', long texts are read in windows, and wrong questions are refused
//! by name.

use std::{path::PathBuf, sync::Arc};

use babelward::{
    backend::{Backend, Footprint, LoadOptions, cpu::CpuBackend},
    classifier::labels_of,
    digest,
    engine::Clock,
    model::spec::Precision,
    proto::{self, Capability},
    registry::{
        KvSize, MemoryOptions, ModelGroup, ModelLoader, ModelRole, OpenedModel, Registry, RegistryError,
    },
    rpc::ServerOptions,
    text::Tokenizer,
};
use tonic::{Code, Status};

use crate::{
    classifiers_golden::{Golden, GoldenText, expected, folder},
    common::load_options,
    rig::{self, GUARD, Rig, Setup, classify, reason, violated},
    scripted::Gate,
};

const WATCH: &str = "watch";

/// The tiny classifier of a folder, on the processor.
struct FolderLoader(PathBuf);

fn options() -> LoadOptions {
    load_options(Precision::F32, 1 << 20)
}

impl ModelLoader for FolderLoader {
    fn footprint(&self, _precision: Precision) -> Result<Footprint, RegistryError> {
        Ok(CpuBackend::new(1).footprint(&self.0, &[], &options()).unwrap())
    }

    fn open(&self, _kv_bytes: u64, _precision: Precision) -> Result<OpenedModel, RegistryError> {
        Ok(OpenedModel {
            loaded: CpuBackend::new(1).load(&self.0, &[], &options()).unwrap(),
            tokenizer: Arc::new(Tokenizer::from_folder(&self.0).unwrap()),
            template: None,
            names: Vec::new(),
            digest: digest::of_bytes("watch"),
            adapter_digests: Vec::new(),
            estimator: None,
            labels: Some(labels_of(&self.0).unwrap()),
        })
    }
}

async fn rig() -> Rig {
    let (setup, gate) = (Setup::default(), Gate::default());
    let folder = folder();
    let mut groups = rig::scripted_groups(&setup, &gate);
    groups.push(ModelGroup {
        specs: vec![rig::spec(WATCH, ModelRole::Classifier)],
        device: 0,
        passed_over: Vec::new(),
        precision: Precision::F32,
        loader: Box::new(FolderLoader(folder.path().to_owned())),
    });
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Auto,
    };
    let start = rig::start_options(memory, 2048, Clock::default());
    let registry = Registry::prepare_groups(groups, start).unwrap();
    registry.load_eager().unwrap();
    Rig::serve(registry, ServerOptions::default(), gate).await
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
    assert_eq!(answer.classifications, []);
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
