//! Classifiers from their folders, beside a guard and alone, asked by `classify`.

use serde_json::Value;

use crate::{
    classifiers_golden::{DEBERTA, expected, folder},
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

const POLICY: &str = r#"
name = "injection"
version = 1
[classifiers.watch]
harmless_label = "LABEL_0"
block = 0.0001
"#;

#[test]
fn a_server_of_a_deberta_classifier_starts_and_decides_without_a_guard() {
    let (work, model) = (tempfile::tempdir().unwrap(), DEBERTA.served());
    std::fs::write(work.path().join("policy.toml"), POLICY).unwrap();
    let config = format!(
        "[models.watch]\npath = \"{}\"\n[decisions]\nfiles = [\"policy.toml\"]\n",
        model.path().display()
    );
    std::fs::write(work.path().join("babelward.toml"), config).unwrap();
    let mut server = Server::start(command(work.path()).args([
        "serve",
        "--config",
        "babelward.toml",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--kv-memory",
        "16MiB",
    ]));
    let url = server.url("  gRPC");
    let golden = DEBERTA.expected();
    let text = golden.texts.iter().find(|text| text.windows.len() == 1).unwrap();
    let classify = |format: &str, arguments: &[&str]| {
        run(command(work.path())
            .args(["--server", &url, "--format", format, "classify", &text.text])
            .args(arguments))
    };
    let beside = ["--classifier", "watch=LABEL_0"];
    for arguments in [&beside[..], &["--no-guard", "--classifier", "watch=LABEL_0"]] {
        let asked = classify("json", arguments);
        assert_eq!(asked.code, 0, "{}", asked.stderr);
        let found: Value = serde_json::from_str(&asked.stdout).unwrap();
        assert!(
            found.get("label").is_none() && found.get("verdict").is_none(),
            "{found}"
        );
        let harm = found["classifications"][0]["harm_score"].as_f64().unwrap();
        // The server chooses the precision, which may round the weights.
        let expected = 1.0 - text.windows[0].probabilities[0];
        assert!((harm - expected).abs() < 0.1, "{harm}, not {expected}");
    }
    let line = classify("human", &beside);
    assert!(
        line.stdout.starts_with("NO VERDICT  watch LABEL_"),
        "{}",
        line.stdout
    );
    // The policy asks the classifier, and its decision is the exit code.
    let decided = classify(
        "human",
        &["--no-guard", "--decision", "injection", "--fail-on", "block"],
    );
    assert_eq!(decided.code, 3, "{}", decided.stderr);
    assert!(
        decided.stdout.contains("BLOCK by injection@1"),
        "{}",
        decided.stdout
    );
    // A verdict that is needed is never left out.
    for needs_verdict in [&[][..], &["--classifier", "watch", "--fail-on", "unsafe"]] {
        let refused = classify("human", needs_verdict);
        assert_ne!(refused.code, 0);
        assert!(
            refused.stderr.contains("no model that can classify"),
            "{}",
            refused.stderr
        );
    }
}
