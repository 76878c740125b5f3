//! `serve` with the real model, called by the other commands, from start to drain.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    common::smollm2,
    support::{Server, command, run},
};

/// Occurs in requests only.
const CANARY: &str = "xylophone-canary";

pub fn serve(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(folder);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--kv-memory",
            "256MiB",
        ])
        .arg("--model")
        .arg(format!("smol={}", smollm2().display()))
        .args(["--guard", "smol", "--guard-kind", "chat-demo"])
        .args(arguments);
    command
}

/// A server's own certificate, and the keys that callers need, in files of its folder.
pub const TLS_AND_KEYS: [&str; 6] = [
    "--tls-certificate",
    "server.pem",
    "--tls-key",
    "server.key",
    "--keys-file",
    "keys.toml",
];

/// Makes a key and returns it.
pub fn new_key(folder: &Path, tenant: &str, scopes: &str) -> String {
    let made = run(command(folder).args(["keys", "new", "--tenant", tenant, "--scopes", scopes]));
    assert_eq!(made.code, 0, "{}", made.stderr);
    made.stdout.trim().to_owned()
}

#[test]
fn a_server_answers_counts_and_drains_without_logging_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&mut serve(folder.path(), &["--log-level", "trace"]));
    let models = server.wait_for("target+guard");
    assert!(
        models.contains("int8 on cpu (") || models.contains("mixed on cpu ("),
        "{models}"
    );
    // A machine with a card that this program cannot use says that instead.
    if !Path::new("/dev/nvidia0").exists() {
        let devices = server.wait_for("  devices");
        assert!(devices.contains("no NVIDIA card was found"), "{devices}");
    }
    assert!(server.wait_for("  memory").contains("cpu: "));
    assert!(server.wait_for("WARNING").contains("no safety judgement"));
    let url = server.url("  gRPC");
    let call = |arguments: &[&str]| {
        let outcome = run(command(folder.path())
            .args(["--server", &url, "--format", "json"])
            .args(arguments));
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    let verdict = call(&["classify", CANARY]);
    assert!(
        verdict["unsafe_score"]
            .as_f64()
            .is_some_and(|score| score > 0.0 && score < 1.0)
    );
    assert_eq!(verdict["provenance"]["model"], "smol");

    let generate = ["generate", CANARY, "--seed", "7", "--max-new-tokens", "12"];
    let answer = call(&generate);
    assert_eq!(answer["started"]["seed"], "7");
    assert_eq!(call(&generate)["text"], answer["text"]);
    let streamed = run(command(folder.path()).args(["--server", &url]).args(generate));
    assert_eq!(streamed.stdout.strip_suffix('\n'), answer["text"].as_str());

    let score = call(&[
        "score",
        CANARY,
        "--seed",
        "7",
        "--max-new-tokens",
        "12",
        "--keep-text",
    ]);
    assert_eq!(score["samples"][0]["text"], answer["text"]);
    let models = call(&["models", "ls"]);
    assert_eq!(
        models[0]["capabilities"],
        serde_json::json!(["CAPABILITY_GENERATE", "CAPABILITY_CLASSIFY"])
    );
    assert_eq!(
        call(&["models", "info", "smol"])["digest"],
        verdict["provenance"]["model_digest"]
    );
    let unknown = run(command(folder.path()).args(["--server", &url, "models", "info", "smoll"]));
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("MODEL_NOT_FOUND"), "{}", unknown.stderr);

    let metrics = get(&server.url("  metrics"));
    assert!(metrics.contains(
        "babelward_requests_total{method=\"babelward.v1.SafetyService/Classify\",code=\"OK\"} 1\n"
    ));
    assert!(metrics.contains("babelward_verdicts_total{model=\"smol\",label="));
    assert!(metrics.contains("# HELP babelward_queue_depth"));
    for kind in ["budget", "taken"] {
        let gauge = format!("babelward_memory_bytes{{device=\"cpu\",kind=\"{kind}\"}}");
        assert!(metrics.contains(&gauge), "{gauge} is not in {metrics}");
    }
    assert!(metrics.contains("babelward_ttft_seconds_bucket{model=\"smol\",le=\"0.001\"}"));

    server.signal("TERM");
    let (status, stderr, stdout) = server.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, "");
    assert!(stderr.contains("draining"));
    assert!(!stderr.contains(CANARY), "the log has text of a request");
    let text = answer["text"].as_str().unwrap();
    assert!(
        text.len() < 8 || !stderr.contains(text),
        "the log has text of an answer"
    );
}

/// A bare HTTP GET.
pub fn get(url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&mut serve(
        folder.path(),
        &["--drain-grace", "24h", "--log-format", "json"],
    ));
    let started: Value = serde_json::from_str(&server.wait_for("\"serving\"")).unwrap();
    let url = format!("http://{}", started["address"].as_str().unwrap());
    let resident: Value = serde_json::from_str(&server.wait_for("\"resident\"")).unwrap();
    assert_eq!(resident["mechanism_demo"], true);

    // An answer that is open for as long as the model's window lasts.
    let mut long = command(folder.path());
    long.args([
        "generate",
        "Count to a million.",
        "--server",
        &url,
        "--format",
        "jsonl",
        "--seed",
        "1",
    ])
    .args(["--max-new-tokens", "4096"])
    .stdout(Stdio::piped())
    .stderr(Stdio::null());
    let mut client = long.spawn().unwrap();
    let mut events = BufReader::new(client.stdout.take().unwrap()).lines();
    assert!(events.next().unwrap().unwrap().contains("started"));

    server.signal("TERM");
    server.wait_for("draining");
    server.signal("INT");
    let (status, _, _) = server.end();
    assert_eq!(status.code(), Some(130));
    let ended = client.wait().unwrap();
    assert!(!ended.success(), "the answer was cut off");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("broken.gguf"), "not a model").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let broken = ["--model", "m=broken.gguf", "--metrics-listen"];
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 2, "--model ID=PATH"),
        (&["--model", "m=missing.gguf"], 7, "missing.gguf does not exist"),
        (&["--model", "m"], 2, "ID=PATH"),
        (
            &[broken[0], broken[1], broken[2], "off", "--listen", "127.0.0.1:0"],
            7,
            "broken.gguf",
        ),
        (
            &[broken[0], broken[1], broken[2], "off", "--listen", &taken],
            1,
            "--listen",
        ),
    ];
    for (arguments, code, text) in cases {
        let outcome = run(command(folder.path()).arg("serve").args(arguments));
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    let outcome = run(command(folder.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", &taken])
        .args(&broken[..2]));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--metrics-listen"), "{}", outcome.stderr);
}
