//! A classifier from its folder beside a guard, asked by `classify`.

use serde_json::Value;

use crate::{
    classifiers_golden::{expected, folder},
    serve::serve,
    support::{Server, command, run},
};

#[test]
fn classify_asks_a_classifier_that_is_served_from_its_folder() {
    let (work, model) = (tempfile::tempdir().unwrap(), folder());
    let watch = format!("watch={}", model.path().display());
    let mut server = Server::start(&mut serve(work.path(), &["--model", &watch]));
    let url = server.url("  gRPC");
    let golden = expected();
    let text = &golden.texts[0];
    let found =
        run(command(work.path()).args(["--server", &url, "--format", "json", "classify", &text.text]));
    assert_eq!(found.code, 0, "{}", found.stderr);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert!(found.get("classifications").is_none(), "{found}");

    let ask = |question: &str| {
        let asked = run(command(work.path())
            .args(["--server", &url, "--format", "json", "classify", &text.text])
            .args(["--classifier", question]));
        assert_eq!(asked.code, 0, "{}", asked.stderr);
        serde_json::from_str::<Value>(&asked.stdout).unwrap()
    };
    for (question, harmless) in [("watch", 0), ("watch=injection", 1)] {
        let found = &ask(question)["classifications"][0];
        assert_eq!(found["model"], "watch");
        let harm = found["harm_score"].as_f64().unwrap();
        let expected = 1.0 - text.windows[0].probabilities[harmless];
        // The server chooses the precision, which may round the weights.
        assert!((harm - expected).abs() < 0.1, "{harm}, not {expected}");
        assert_eq!(found["probabilities"][2]["label"], "jailbreak");
    }
    let line = run(command(work.path())
        .args(["--server", &url, "classify", &text.text])
        .args(["--classifier", "watch"]));
    assert!(line.stdout.contains("  watch "), "{}", line.stdout);

    let refused = run(command(work.path())
        .args(["--server", &url, "classify", &text.text])
        .args(["--classifier", "watch=safe"]));
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("benign, injection, jailbreak"),
        "{}",
        refused.stderr
    );
}
