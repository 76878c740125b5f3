//! `classify --receipt`, `verify` and `replay`, by the program against servers that differ.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use babelward::{
    guard::{DecisionPolicy, DecisionSet, GuardKind},
    rpc::ServerOptions,
};
use serde_json::Value;

use crate::rig::{Rig, Setup};

const CHAT: &str = "name = \"chat\"\nversion = 1\nthresholds = { flag = 0.1, block = 0.5 }\n";

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

async fn babelward(folder: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babelward"));
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("HOME", folder)
        .args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

async fn rig(guard: GuardKind, policy: Option<&str>) -> Rig {
    let mut decisions = DecisionSet::default();
    if let Some(policy) = policy {
        let policy = DecisionPolicy::new(toml::from_str(policy).unwrap()).unwrap();
        decisions.add(policy).unwrap();
        decisions.set_default(decisions.find("chat").unwrap().clone());
    }
    Rig::with(Setup {
        guard,
        options: ServerOptions {
            decisions,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await
}

fn url(rig: &Rig) -> String {
    format!("http://{}", rig.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_checked_without_a_server_and_computed_again_by_one() {
    let rig = rig(GuardKind::ChatDemo, Some(CHAT)).await;
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    fs::write(work.join("chat.toml"), CHAT).unwrap();
    fs::write(work.join("text"), "[unsafe] words\n").unwrap();
    fs::write(work.join("other"), "[unsafe] word\n").unwrap();
    let server = url(&rig);
    let judged = [
        "classify",
        "--file",
        "text",
        "--receipt",
        "r.json",
        "--server",
        &server,
    ];
    let judged = babelward(work, &judged).await;
    assert_eq!(judged.code, 0, "{}", judged.stderr);
    assert!(judged.stdout.contains("BLOCK by chat@1"), "{}", judged.stdout);
    let text = fs::read_to_string(work.join("r.json")).unwrap();
    assert!(!text.contains("words"), "the text is not kept: {text}");

    let all = [
        "verify",
        "r.json",
        "--input",
        "text",
        "--decision-policy",
        "chat.toml",
    ];
    let checked = babelward(work, &all).await;
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    for line in [
        "ok           input",
        "ok           decision",
        "not checked  weights: needs --weights PATH",
    ] {
        assert!(checked.stdout.contains(line), "{}", checked.stdout);
    }
    let alone = babelward(work, &["verify", "r.json", "--format", "json"]).await;
    let found: Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(found["checked"].as_array().unwrap().len(), 1, "{found}");
    for (arguments, code, says) in [
        (
            &["verify", "r.json", "--input", "other"][..],
            7,
            "not the text that was judged",
        ),
        (
            &["verify", "r.json", "--input", "text", "--prompt", "hi"],
            2,
            "leave --prompt out",
        ),
        (&["verify", "r.json", "--weights", "text"], 7, "not the weights"),
        (&["verify", "text"], 7, "does not hold what it should"),
        (
            &["replay", "r.json", "--server", &server],
            2,
            "give it with --input",
        ),
        (
            &["replay", "r.json", "--input", "other", "--server", &server],
            7,
            "not the text that was judged",
        ),
    ] {
        let refused = babelward(work, arguments).await;
        assert_eq!(refused.code, code, "{arguments:?} {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{arguments:?} {}", refused.stderr);
    }
    fs::write(work.join("milder.toml"), CHAT.replace("0.5", "0.99")).unwrap();
    let milder = babelward(work, &["verify", "r.json", "--decision-policy", "milder.toml"]).await;
    assert_eq!(milder.code, 7);
    assert!(
        milder.stderr.contains("not the decision policy of the receipt"),
        "{}",
        milder.stderr
    );

    let again = babelward(
        work,
        &["replay", "r.json", "--input", "text", "--server", &server],
    )
    .await;
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (0, "the same verdict, to the bit\n"),
        "{}",
        again.stderr
    );
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_named_when_another_server_computes_it() {
    let first = rig(GuardKind::ChatDemo, Some(CHAT)).await;
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let text = "[unsafe] words of an answer";
    let server = url(&first);
    let kept = [
        "classify",
        "--text",
        text,
        "--prompt",
        "a question",
        "--receipt",
        "r.json",
        "--keep-input",
        "--server",
        &server,
    ];
    assert_eq!(babelward(work, &kept).await.code, 0);
    let same = babelward(
        work,
        &["replay", "r.json", "--server", &server, "--format", "json"],
    )
    .await;
    let same: Value = serde_json::from_str(&same.stdout).unwrap();
    assert_eq!(
        (&same["same"], &same["changes"]),
        (&true.into(), &Value::Array(Vec::new()))
    );
    first.stop().await;

    // Another prompt template, and a policy whose version says something else.
    let second = rig(GuardKind::Qwen3GuardGen, Some(&CHAT.replace("0.5", "0.99"))).await;
    let server = url(&second);
    let replayed = babelward(
        work,
        &["replay", "r.json", "--server", &server, "--format", "json"],
    )
    .await;
    assert_eq!(replayed.code, 10, "{}", replayed.stderr);
    let replayed: Value = serde_json::from_str(&replayed.stdout).unwrap();
    assert_eq!(replayed["same"], false);
    let changes = replayed["changes"].as_array().unwrap();
    let named: Vec<_> = changes
        .iter()
        .map(|change| change["what"].as_str().unwrap())
        .collect();
    for what in [
        "computed_by.template_digest",
        "decision.action",
        "decision.policy_digest",
    ] {
        assert!(named.contains(&what), "{named:?}");
    }
    assert!(!named.contains(&"computed_by.model_digest"), "{named:?}");
    let told = babelward(work, &["replay", "r.json", "--server", &server]).await;
    assert!(
        told.stdout
            .contains("decision.action differs: was \"block\", is \"flag\""),
        "{}",
        told.stdout
    );
    second.stop().await;
}
