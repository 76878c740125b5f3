//! Clients that are not ours, against the real server with the real model: Python's grpcio through reflection
//! calls every RPC, and grpcurl lists, describes and calls some.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    common, estimators,
    python::{self, PACKAGES},
};

/// Far more than loading takes; only a server that hangs gets there.
const START_LIMIT: Duration = Duration::from_secs(180);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn babelward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babelward"));
    command.stdin(Stdio::null());
    command
}

/// A server process on a free loopback port; killed when dropped.
struct Server {
    process: Child,
    address: String,
    /// Where its quality estimator lies.
    _estimator: estimators::Case,
}

impl Server {
    fn start() -> Self {
        let estimator = estimators::case("comet", "softmax");
        let mut process = babelward()
            .args(["serve", "--listen", "127.0.0.1:0", "--model"])
            .arg(format!("smol={}", common::smollm2().display()))
            .args([
                "--guard",
                "smol",
                "--guard-kind",
                "chat-demo",
                "--allow-admin",
                "--model",
            ])
            .arg(format!("kiwi={}", estimator.folder.path().display()))
            .env("BABELWARD_SERVER__METRICS_LISTEN", "off")
            // Nobody's own configuration.
            .env("XDG_CONFIG_HOME", env!("CARGO_TARGET_TMPDIR"))
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("babelward starts");
        let lines = BufReader::new(process.stderr.take().expect("a piped stderr")).lines();
        let (found, address) = mpsc::channel();
        // Reads on after the banner, so that the server's log never fills the pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
                // The banner's line: `gRPC      http://127.0.0.1:40123 (health and reflection on)`.
                if line.trim_start().starts_with("gRPC ") {
                    let url = line
                        .split_whitespace()
                        .find_map(|word| word.strip_prefix("http://"));
                    let _ = found.send(url.expect("the banner's address").to_owned());
                }
            }
        });
        let address = address.recv_timeout(START_LIMIT);
        let mut server = Server {
            process,
            address: String::new(),
            _estimator: estimator,
        };
        server.address = address.expect("the server ended or hung before its banner: its log is above");
        server
    }

    /// SIGTERM, as an orchestrator ends a server.
    fn terminate(mut self) -> ExitStatus {
        let id = self.process.id().to_string();
        let kill = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill runs");
        assert!(kill.success());
        self.process.wait().expect("the server's exit status")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn grpcurl(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("python3")
        .arg(PACKAGES.join("bin/grpcurl"))
        .env("PYTHONPATH", PACKAGES.as_path())
        .args(["-plaintext", "-max-time", "120"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("grpcurl starts");
    child
        .stdin
        .take()
        .expect("a piped stdin")
        .write_all(input.as_bytes())
        .expect("grpcurl reads its input");
    child.wait_with_output().expect("grpcurl's output")
}

fn grpcurl_ok(arguments: &[&str], input: &str) -> String {
    let done = grpcurl(arguments, input);
    assert!(
        done.status.success(),
        "grpcurl {arguments:?}: {}",
        text(&done.stderr)
    );
    text(&done.stdout)
}

/// The JSON documents that grpcurl prints one after the other.
fn documents(output: &str) -> Vec<Value> {
    let stream = serde_json::Deserializer::from_str(output).into_iter::<Value>();
    stream.collect::<Result<_, _>>().expect("JSON documents")
}

#[test]
fn grpcio_calls_every_rpc_through_reflection() {
    let server = Server::start();
    let script = python::script("tests/clients/call_every_rpc.py")
        .arg(&server.address)
        .env("PYTHONPATH", PACKAGES.as_path())
        .status()
        .expect("python3 runs");
    assert!(
        script.success(),
        "tests/clients/call_every_rpc.py failed: its message is above"
    );
    let ended = server.terminate();
    assert!(ended.success(), "the server ended with {ended} after SIGTERM");
}

#[test]
fn grpcurl_lists_describes_and_calls() {
    let server = Server::start();
    let address = server.address.as_str();

    let services = grpcurl_ok(&[address, "list"], "");
    for name in [
        "GenerationService",
        "ModelService",
        "SafetyService",
        "ScoringService",
    ] {
        assert!(
            services.contains(&format!("babelward.v1.{name}\n")),
            "{name} is not listed in\n{services}"
        );
        let described = grpcurl_ok(&[address, "describe", &format!("babelward.v1.{name}")], "");
        assert!(described.contains(&format!("service {name} {{")), "{described}");
    }

    let messages = json!([
        { "role": "ROLE_USER", "content": "How do I bake bread?" },
        { "role": "ROLE_ASSISTANT", "content": "Mix flour, water, salt and yeast, wait, and bake it." },
    ]);
    let request = json!({ "conversation": { "messages": messages } });
    let classify = ["-d", "@", address, "babelward.v1.SafetyService/Classify"];
    let single = documents(&grpcurl_ok(&classify, &request.to_string()));
    let mass = &single[0]["verdict"]["labelMass"];
    assert!(
        mass.as_f64().is_some_and(|mass| (0.0..=1.0).contains(&mass)),
        "{single:?}"
    );

    let items = ["a", "b", "c"].map(|id| json!({ "id": id, "classify": request }).to_string());
    let stream = ["-d", "@", address, "babelward.v1.SafetyService/ClassifyStream"];
    let answers = documents(&grpcurl_ok(&stream, &items.concat()));
    let mut ids: Vec<_> = answers.iter().map(|answer| answer["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [Some("a"), Some("b"), Some("c")]);
    for answer in &answers {
        assert_eq!(
            &answer["response"]["verdict"]["labelMass"], mass,
            "a stream changed the probabilities"
        );
    }

    let refused = grpcurl(&classify, "{}");
    let message = text(&refused.stderr);
    assert!(
        !refused.status.success() && message.contains("InvalidArgument"),
        "{message}"
    );
    assert!(
        message.contains("Message: invalid fields: conversation: is required"),
        "{message}"
    );
    // Decoded, where a type that reflection does not know would be shown as base64.
    for part in [
        "google.rpc.BadRequest",
        "fieldViolations",
        "google.rpc.ErrorInfo",
        "\"INVALID_FIELDS\"",
        "google.rpc.RequestInfo",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(!message.contains("not recognized"), "{message}");
}
