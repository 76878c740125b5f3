//! Client commands against a server that answers as told.

use std::{fs, net::SocketAddr, thread};

use babelward::proto::{
    BatchClassifyRequest, BatchClassifyResponse, CategoryResult, ClassifyRenderingsRequest,
    ClassifyRenderingsResponse, ClassifyRequest, ClassifyResponse, ClassifyStreamRequest,
    ClassifyStreamResponse, ConfiguredPolicy, FindEvidenceRequest, FindEvidenceResponse, GuardStreamRequest,
    GuardStreamResponse, Label, ListPoliciesRequest, ListPoliciesResponse, Policy, PolicyCategory,
    Provenance, Verdict,
    classify_request::PolicySource,
    generation_service_server::GenerationServiceServer,
    safety_service_server::{SafetyService, SafetyServiceServer},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    conversations, evidence, generate_guard, guard,
    support::{Outcome, command, run},
};

/// Says of a text what its first word says, and fails when it says so.
pub struct Scripted;

#[tonic::async_trait]
impl SafetyService for Scripted {
    async fn classify(
        &self,
        request: Request<ClassifyRequest>,
    ) -> Result<Response<ClassifyResponse>, Status> {
        let request = request.into_inner();
        let policy = match request.policy_source {
            None => None,
            // One that it does not follow.
            Some(PolicySource::Policy(name)) if name == "ignored" => None,
            Some(PolicySource::Policy(name)) => Some((name, "named".to_owned())),
            Some(PolicySource::InlinePolicy(policy)) => {
                Some((policy.name, policy.categories[0].description.clone()))
            }
        };
        let conversation = request.conversation.unwrap_or_default();
        let text = conversation
            .messages
            .last()
            .map(|message| message.content.clone())
            .unwrap_or_default();
        let label = match text.split(' ').next().unwrap_or_default() {
            "unsafe" => Label::Unsafe,
            "undetermined" => Label::Undetermined,
            "late" => {
                std::future::pending::<()>().await;
                Label::Unspecified
            }
            "wrong" => {
                let details = ErrorDetails::with_error_info("INVALID_FIELDS", "babelward", []);
                return Err(Status::with_error_details(
                    tonic::Code::InvalidArgument,
                    "no",
                    details,
                ));
            }
            _ => Label::Safe,
        };
        let categories = match label {
            Label::Unsafe => vec![CategoryResult {
                category: "S9".to_owned(),
                display_name: "Indiscriminate Weapons".to_owned(),
            }],
            _ => Vec::new(),
        };
        let verdict = Verdict {
            label: label.into(),
            unsafe_score: Some(0.5),
            label_mass: 1.0,
            categories,
            raw_output: conversation.messages.len().to_string(),
            provenance: policy.map(|(policy, policy_digest)| Provenance {
                policy,
                policy_digest,
                ..Provenance::default()
            }),
            ..Verdict::default()
        };
        Ok(Response::new(ClassifyResponse {
            message_verdicts: conversations::message_verdicts(request.judge, &conversation, &verdict),
            verdict: Some(conversations::with_uses(&conversation, verdict)),
            ..ClassifyResponse::default()
        }))
    }

    async fn batch_classify(
        &self,
        _: Request<BatchClassifyRequest>,
    ) -> Result<Response<BatchClassifyResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn list_policies(
        &self,
        _: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let category = |code: &str, name: &str| PolicyCategory {
            code: code.to_owned(),
            name: name.to_owned(),
            description: "words".to_owned(),
        };
        let shop = Policy {
            name: "shop".to_owned(),
            categories: vec![category("S1", "Fraud"), category("S2", "Returns")],
        };
        Ok(Response::new(ListPoliciesResponse {
            policies: vec![ConfiguredPolicy {
                policy: Some(shop),
                digest: "sha256:1".to_owned(),
            }],
            ..ListPoliciesResponse::default()
        }))
    }

    type ClassifyStreamStream = tokio_stream::Pending<Result<ClassifyStreamResponse, Status>>;

    async fn classify_stream(
        &self,
        _: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        Err(Status::unimplemented("not used"))
    }

    type GuardStreamStream = ReceiverStream<Result<GuardStreamResponse, Status>>;

    async fn guard_stream(
        &self,
        request: Request<Streaming<GuardStreamRequest>>,
    ) -> Result<Response<Self::GuardStreamStream>, Status> {
        let (sender, answers) = mpsc::channel(8);
        tokio::spawn(guard::answer(request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn classify_renderings(
        &self,
        request: Request<ClassifyRenderingsRequest>,
    ) -> Result<Response<ClassifyRenderingsResponse>, Status> {
        Ok(Response::new(evidence::renderings(request.get_ref())))
    }

    async fn find_evidence(
        &self,
        request: Request<FindEvidenceRequest>,
    ) -> Result<Response<FindEvidenceResponse>, Status> {
        Ok(Response::new(evidence::found(request.get_ref())))
    }
}

/// Serves for as long as the test's process lives.
pub fn scripted() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    thread::spawn(move || runtime.block_on(serve(listener)));
    format!("http://{address}")
}

async fn serve(listener: TcpListener) {
    tonic::transport::Server::builder()
        .add_service(SafetyServiceServer::new(Scripted))
        .add_service(GenerationServiceServer::new(generate_guard::Scripted))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .unwrap();
}

fn classify(server: &str, arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path())
        .args(["classify", "--server", server])
        .args(arguments))
}

#[test]
fn verdicts_become_exit_codes_only_when_asked() {
    let server = scripted();
    let asked = ["--fail-on", "unsafe"];
    for (text, plain, failing) in [("safe a", 0, 0), ("unsafe a", 0, 3), ("undetermined a", 0, 8)] {
        assert_eq!(classify(&server, &[text]).code, plain, "{text}");
        assert_eq!(
            classify(&server, &[asked[0], asked[1], text]).code,
            failing,
            "{text}"
        );
    }
}

#[test]
fn people_and_machines_get_the_same_verdict() {
    let server = scripted();
    let human = classify(&server, &["unsafe a"]);
    assert_eq!(
        human.stdout,
        "UNSAFE  unsafe_score 0.5000  label_mass 1.0000  categories S9\n"
    );
    assert_eq!(human.stderr, "");
    let json: Value =
        serde_json::from_str(&classify(&server, &["unsafe a", "--format", "json"]).stdout).unwrap();
    assert_eq!(json["label"], "LABEL_UNSAFE");
    assert_eq!(json["categories"][0]["category"], "S9");
    let answer = classify(&server, &["--prompt", "question", "safe", "--format", "jsonl"]).stdout;
    assert_eq!(answer.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["raw_output"], "2");
}

#[test]
fn errors_have_their_codes() {
    let server = scripted();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["wrong"], 2, "INVALID_FIELDS"),
        (&["late", "--timeout", "50ms"], 124, "DEADLINE_EXCEEDED"),
        (&["a", "--server", "http://127.0.0.1:1"], 6, "babelward serve"),
        (&["a", "--server", "ftp://x"], 2, "http"),
        (&["a", "--role", "assistant"], 2, "--prompt"),
        (&["--items", "missing.jsonl"], 7, "missing.jsonl"),
    ];
    for (arguments, code, text) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut binary = command(folder.path());
        let outcome = run(binary
            .env("BABELWARD_SERVER_URL", &server)
            .arg("classify")
            .args(arguments));
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_file_is_answered_in_its_order_and_failed_items_show() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    let texts = ["safe", "wrong", "undetermined", "unsafe"];
    let lines: Vec<_> = (0..100)
        .map(|i| format!("{{\"text\": \"{} {i}\"}}", texts[i % 4]))
        .collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let outcome = classify(&server, &["--items", path, "--format", "jsonl"]);
    assert_eq!(outcome.code, 5);
    assert_eq!(outcome.stderr, "25 safe, 25 unsafe, 25 undetermined, 25 failed\n");
    let results: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(results.len(), 100);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["id"], (i + 1).to_string());
        assert_eq!(result["error"]["reason"] == "INVALID_FIELDS", i % 4 == 1);
        assert_eq!(result["verdict"]["label"] == "LABEL_UNSAFE", i % 4 == 3);
    }
    assert_eq!(
        classify(&server, &["--items", path, "--fail-on", "unsafe"]).code,
        3
    );
    let document = classify(&server, &["--items", path, "--format", "json", "--quiet"]);
    assert_eq!(document.stderr, "");
    assert_eq!(
        serde_json::from_str::<Vec<Value>>(&document.stdout).unwrap(),
        results
    );
}

#[test]
fn a_file_with_a_wrong_line_is_not_begun() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    fs::write(&path, "{\"text\": \"safe\"}\n{\"txt\": 1}\nnonsense\n").unwrap();
    let outcome = classify(&server, &["--items", path.to_str().unwrap()]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (7, ""));
    assert!(outcome.stderr.contains("items.jsonl:2:") && outcome.stderr.contains("items.jsonl:3:"));
}

#[test]
fn a_policy_is_named_or_read_from_a_file_and_told() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let human = classify(&server, &["safe a", "--policy", "shop"]);
    assert!(human.stdout.ends_with("  policy shop\n"), "{}", human.stdout);
    let good = "name = \"shop\"\n[[categories]]\ncode = \"S1\"\nname = \"Fraud\"\ndescription = \"words\"\n";
    let path = file("shop.toml", good);
    let items = file("items.jsonl", "{\"text\": \"safe a\"}");
    for what in [["--text", "safe a"], ["--items", &items]] {
        let outcome = classify(
            &server,
            &[what[0], what[1], "--policy-file", &path, "--format", "jsonl"],
        );
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let verdict = json.get("verdict").unwrap_or(&json);
        assert_eq!(verdict["provenance"]["policy"], "shop");
        assert_eq!(verdict["provenance"]["policy_digest"], "words");
    }
    let bad = file("bad.toml", &good.replace("S1", "1").replace("\"shop\"", "\"\""));
    let outcome = classify(&server, &["safe a", "--policy-file", &bad]);
    assert_eq!(outcome.code, 7);
    for part in ["bad.toml", "name must be", "categories[0].code must be"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    let both = classify(&server, &["safe a", "--policy", "shop", "--policy-file", &path]);
    assert_eq!(both.code, 2, "{}", both.stderr);
    let ignored = classify(&server, &["safe a", "--policy", "ignored"]);
    assert_ne!(ignored.code, 0);
    assert!(
        ignored.stderr.contains("does not follow the policy"),
        "{}",
        ignored.stderr
    );
}
