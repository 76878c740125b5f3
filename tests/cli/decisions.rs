//! `score`, `guard` and `generate --guard` decide by a policy of the server's, and a guard with heads is served from its folder.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    common::golden,
    support::{Server, command, run, run_with_input},
    verdict_heads_golden::{expected, folder},
};

/// Every score reaches 0, and a text without a score is undetermined.
const FLAGS_ALL: &str = "name = \"all\"\nversion = 3\nundetermined = \"flag\"\nthresholds = { flag = 0.0 }\n";

fn server(work: &Path, heads: &Path) -> Server {
    fs::write(work.join("all.toml"), FLAGS_ALL).unwrap();
    fs::write(work.join("server.toml"), "[decisions]\nfiles = [\"all.toml\"]\n").unwrap();
    let mut serve = command(work);
    serve
        .args(["serve", "--config", "server.toml", "--listen", "127.0.0.1:0"])
        .args(["--metrics-listen", "127.0.0.1:0", "--kv-memory", "64MiB"])
        .arg("--model")
        .arg(format!("tiny={}", golden("tiny-chat").display()))
        .args(["--guard", "tiny", "--guard-kind", "tiny=chat-demo"])
        .arg("--guard")
        .arg(format!("stream={}", heads.display()));
    Server::start(&mut serve)
}

#[test]
fn commands_print_decisions_beside_labels() {
    let (work, heads) = (tempfile::tempdir().unwrap(), folder());
    let mut server = server(work.path(), heads.path());
    let url = server.url("  gRPC");
    let ask = |arguments: &[&str]| {
        let mut asked = command(work.path());
        asked.args(["--server", &url, "--no-color"]).args(arguments);
        asked
    };
    let by = ["--decision", "all", "--language", "en"];

    let scored = run(ask(&["score", "Hello"]).args(by));
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    assert!(scored.stdout.contains("FLAG by all@3"), "{}", scored.stdout);
    let plain = run(&mut ask(&["--format", "json", "score", "Hello"]));
    assert!(!plain.stdout.contains("decision"), "{}", plain.stdout);

    let text = "Mix flour and water.";
    let observed = [
        "guard", "--model", "stream", "--prompt", "How?", "--mode", "observe",
    ];
    let guarded = run_with_input(ask(&observed).args(by), text);
    assert_eq!(
        (guarded.code, guarded.stdout.as_str()),
        (0, text),
        "{}",
        guarded.stderr
    );
    assert!(guarded.stderr.contains("FLAG by all@3"), "{}", guarded.stderr);

    let answer = [
        "generate",
        "--guard=stream",
        "--mode",
        "observe",
        "--max-new-tokens",
        "8",
        "Hello",
    ];
    let answered = run(ask(&answer).args(by));
    assert_eq!(answered.code, 0, "{}", answered.stderr);
    assert!(answered.stderr.contains("FLAG by all@3"), "{}", answered.stderr);

    let unknown = run(ask(&["score", "Hello"]).args(["--decision", "none"]));
    assert_ne!(unknown.code, 0);
    assert!(
        unknown.stderr.contains("judge.decision_policy"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_guard_with_heads_judges_from_its_folder() {
    let (work, heads) = (tempfile::tempdir().unwrap(), folder());
    let mut server = server(work.path(), heads.path());
    let url = server.url("  gRPC");
    let case = &expected().cases[0];
    let mut asked = command(work.path());
    asked.args([
        "--server", &url, "--format", "json", "classify", "--model", "stream",
    ]);
    let judged = run(asked.arg(&case.contents[0]));
    assert_eq!(judged.code, 0, "{}", judged.stderr);
    let judged: Value = serde_json::from_str(&judged.stdout).unwrap();
    let score = judged["unsafe_score"].as_f64().unwrap();
    // The server chooses the precision, which may round the weights.
    assert!((score - (1.0 - case.risk[0])).abs() < 0.1, "{score}");
    assert_eq!(judged["raw_output"], "");
}
