//! Scores of candidates by an estimator that the server has.

use std::{fs, sync::Arc};

use babelward::{
    backend::cpu::CpuBackend,
    engine::Clock,
    model::{spec::Precision, spec::PrecisionChoice},
    registry::{KvSize, MemoryOptions, ModelRole, ModelSpec, Registry, RegistryOptions},
    rpc::ServerOptions,
};
use serde_json::{Value, json};

use super::{babelward, lines, write};
use crate::{
    estimators,
    rig::{self, Rig},
    scripted::Gate,
};

/// A server of tiny random estimators.
async fn estimators(cases: &[(&str, &estimators::Case)]) -> Rig {
    let memory = MemoryOptions {
        budget: 1 << 30,
        kv: KvSize::Auto,
    };
    let options = RegistryOptions {
        models: cases
            .iter()
            .map(|(id, case)| ModelSpec {
                path: case.folder.path().to_owned(),
                ..rig::spec(id, ModelRole::Quality)
            })
            .collect(),
        max_context: None,
        precision: PrecisionChoice::Only(Precision::F32),
        backends: vec![Arc::new(CpuBackend::new(1))],
        unusable: Vec::new(),
        start: rig::start_options(memory, 2048, Clock::default()),
    };
    let registry = tokio::task::spawn_blocking(move || Registry::load(options).unwrap());
    Rig::serve(registry.await.unwrap(), ServerOptions::default(), Gate::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_estimator_fills_the_comet_column_once() {
    let case = estimators::case("comet", "softmax");
    let rig = estimators(&[("kiwi", &case)]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (good, other) = (&case.pairs[1], &case.pairs[3]);
    let rows = [good, other].into_iter().enumerate();
    let rows = rows.map(|(id, pair)| json!({"id": id, "category": "crime_tax", "en": pair.source}));
    write(&path("en.jsonl"), &rows.collect::<Vec<_>>());
    let candidates = |texts: [&str; 2]| {
        let rows = texts.into_iter().enumerate();
        rows.map(|(id, text)| json!({"id": id, "language": "de", "text": text}))
            .collect::<Vec<_>>()
    };
    write(
        &path("a.jsonl"),
        &candidates([&good.translation, &other.translation]),
    );
    write(&path("b.jsonl"), &candidates(["Etwas ganz anderes", ""]));
    let base = [
        "translate",
        "--data",
        "en.jsonl",
        "--to",
        "de",
        "--candidates",
        "a=a.jsonl",
        "--candidates",
        "b=b.jsonl",
        "--quality",
        "kiwi",
        "--out",
        "out",
    ];
    let between = (good.score + 1.0).to_string();
    let first = babelward(
        &rig,
        folder.path(),
        &[&base[..], &["--threshold", "-10"]].concat(),
    )
    .await;
    assert_eq!(first.code, 0, "{}", first.stderr);
    let told = lines(&path("out/candidates.jsonl"));
    let comet = |index: usize| told[index]["scores"]["comet"].as_f64();
    assert!((comet(0).unwrap() - good.score).abs() < 2e-5, "{told:?}");
    assert!((comet(2).unwrap() - other.score).abs() < 2e-5, "{told:?}");
    assert_eq!(comet(3), None, "an empty candidate is not scored");
    assert_eq!(told[2]["reason"], "the only candidate that may be chosen");
    let best = comet(0) > comet(1);
    assert_eq!(told[usize::from(!best)]["chosen"], true);
    let summary: Value = serde_json::from_slice(&fs::read(path("out/summary.json")).unwrap()).unwrap();
    let quality = &summary["quality"][0];
    assert_eq!(
        (&quality["model"], &quality["metric"]),
        (&json!("kiwi"), &json!("comet"))
    );
    assert!(quality["digest"].as_str().unwrap().starts_with("sha256:"));

    // Resumed: what has a score is not asked again, and a cut line is.
    let journal = fs::read(path("out/quality.jsonl")).unwrap();
    fs::write(path("out/quality.jsonl"), &journal[..journal.len() - 5]).unwrap();
    let again = babelward(
        &rig,
        folder.path(),
        &[&base[..], &["--threshold", "-10"]].concat(),
    )
    .await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(lines(&path("out/candidates.jsonl")), told);
    assert_eq!(fs::read(path("out/quality.jsonl")).unwrap().len(), journal.len());

    // The threshold counts for scores of ours as for imported ones.
    let strict = babelward(
        &rig,
        folder.path(),
        &[&base[..], &["--threshold", &between]].concat(),
    )
    .await;
    assert_eq!(strict.code, 0, "{}", strict.stderr);
    assert!(
        strict.stdout.contains("0 of 2 prompts are in"),
        "{}",
        strict.stdout
    );

    // Two origins of one score cannot be compared; a model that is none is told.
    let imported = json!({"id": 0, "language": "de", "translator": "a", "comet": 0.9});
    write(&path("scores.jsonl"), &[imported]);
    let both = babelward(
        &rig,
        folder.path(),
        &[&base[..], &["--scores", "scores.jsonl"]].concat(),
    )
    .await;
    assert_eq!(both.code, 2, "{}", both.stderr);
    assert!(
        both.stderr.contains("have COMET scores already"),
        "{}",
        both.stderr
    );
    let mut unknown = base;
    unknown[10] = "kiwis";
    let unknown = babelward(&rig, folder.path(), &unknown).await;
    assert_ne!(unknown.code, 0);
    assert!(
        unknown.stderr.contains("did you mean `kiwi`"),
        "{}",
        unknown.stderr
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_candidates_that_comet_ties_the_lowest_metricx_decides() {
    let (kiwi, errors) = (
        estimators::case("comet", "softmax"),
        estimators::case("metricx", "v24"),
    );
    let rig = estimators(&[("kiwi", &kiwi), ("errors", &errors)]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pair = &errors.pairs[0];
    write(
        &path("en.jsonl"),
        &[json!({"id": 0, "category": "crime_tax", "en": pair.source})],
    );
    // The golden's own translation, and others before and after it.
    let texts = [
        ("a", "Ganz etwas anderes"),
        ("b", pair.translation.as_str()),
        ("c", "x"),
    ];
    for (name, text) in texts {
        write(
            &path(&format!("{name}.jsonl")),
            &[json!({"id": 0, "language": "de", "text": text})],
        );
    }
    let args = [
        "translate",
        "--data",
        "en.jsonl",
        "--to",
        "de",
        "--candidates",
        "a=a.jsonl",
        "--candidates",
        "b=b.jsonl",
        "--candidates",
        "c=c.jsonl",
        "--quality",
        "kiwi",
        "--quality",
        "errors",
        "--threshold",
        "-1000",
        "--tie-margin",
        "1000",
        "--out",
        "out",
    ];
    let done = babelward(&rig, folder.path(), &args).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let told = lines(&path("out/candidates.jsonl"));
    let error = |index: usize| told[index]["scores"]["metricx"].as_f64().unwrap();
    assert!((error(1) - pair.score).abs() < 2e-5, "{told:?}");
    let best = (0..3).min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap();
    for (index, candidate) in told.iter().enumerate() {
        assert!(candidate["scores"]["comet"].is_number());
        assert_eq!(candidate["chosen"] == true, index == best, "{told:?}");
    }
    let reason = told[best]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("best MetricX") && reason.ends_with("COMET tied"),
        "{reason}"
    );
    let summary: Value = serde_json::from_slice(&fs::read(path("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["quality"][1]["metric"], "metricx");
    rig.stop().await;
}
