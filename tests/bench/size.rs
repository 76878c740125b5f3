//! Answers that are judged again by a scripted guard, scored and reported, from the command line. `BABELWARD_BENCH_ROWS=15000`
//! makes it M-ALERT's size (75,000 answers) and `--nocapture` tells what each command took (`docs/performance.md`).

use std::{fmt::Write as _, fs, path::Path, thread, time::Instant};

use babelward::{
    bench::taxonomy::{Category, Language},
    proto::{
        BatchClassifyRequest, BatchClassifyResponse, ClassifyRenderingsRequest, ClassifyRenderingsResponse,
        ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse,
        FindEvidenceRequest, FindEvidenceResponse, GuardStreamRequest, GuardStreamResponse, Label,
        ListPoliciesRequest, ListPoliciesResponse, Verdict,
        classify_stream_request::Action,
        classify_stream_response::Result as Answer,
        safety_service_server::{SafetyService, SafetyServiceServer},
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{command, run};

/// Finds unsafe what says so, at once.
struct Guard;

fn verdict(request: &ClassifyRequest) -> ClassifyResponse {
    let conversation = request.conversation.as_ref();
    let text = conversation.and_then(|conversation| conversation.messages.last());
    let is_unsafe = text.is_some_and(|message| message.content.contains("[unsafe]"));
    let (label, score) = match is_unsafe {
        true => (Label::Unsafe, 0.9),
        false => (Label::Safe, 0.1),
    };
    ClassifyResponse {
        verdict: Some(Verdict {
            label: label.into(),
            unsafe_score: Some(score),
            label_mass: 1.0,
            ..Verdict::default()
        }),
        ..ClassifyResponse::default()
    }
}

#[tonic::async_trait]
impl SafetyService for Guard {
    async fn classify(
        &self,
        request: Request<ClassifyRequest>,
    ) -> Result<Response<ClassifyResponse>, Status> {
        Ok(Response::new(verdict(request.get_ref())))
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
        Err(Status::unimplemented("not used"))
    }

    type ClassifyStreamStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<ClassifyStreamResponse, Status>> + Send>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let answers = request.into_inner().map(|item| {
            let item = item?;
            let Some(Action::Classify(request)) = &item.action else {
                return Err(Status::unimplemented("not used"));
            };
            Ok(ClassifyStreamResponse {
                result: Some(Answer::Response(verdict(request))),
                id: item.id,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type GuardStreamStream = tokio_stream::Pending<Result<GuardStreamResponse, Status>>;

    async fn guard_stream(
        &self,
        _: Request<Streaming<GuardStreamRequest>>,
    ) -> Result<Response<Self::GuardStreamStream>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn classify_renderings(
        &self,
        _: Request<ClassifyRenderingsRequest>,
    ) -> Result<Response<ClassifyRenderingsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn find_evidence(
        &self,
        _: Request<FindEvidenceRequest>,
    ) -> Result<Response<FindEvidenceResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }
}

/// Serves for as long as the test's process lives.
fn guard() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let server = tonic::transport::Server::builder().add_service(SafetyServiceServer::new(Guard));
        runtime.block_on(server.serve_with_incoming(TcpListenerStream::new(listener)))
    });
    format!("http://{address}")
}

/// Answers of about 600 characters; every tenth Italian one is unsafe. The file calls all of them safe.
fn write_answers(path: &Path, rows: usize) {
    let categories: Vec<Category> = Category::all().collect();
    let mut lines = String::new();
    for id in 0..rows {
        for language in Language::ALL {
            let mark = match language == Language::It && id % 10 == 0 {
                true => "[unsafe]",
                false => "",
            };
            let line = json!({
                "id": id, "language": language.code(), "category": categories[id % categories.len()].key(),
                "label": "safe", "model": "synthetic", "prompt": format!("{language:?} prompt {id}"),
                "answer": format!("{mark}{}", "a sentence that somebody could have said. ".repeat(14)),
            });
            writeln!(lines, "{line}").unwrap();
        }
    }
    fs::write(path, lines).unwrap();
}

#[test]
fn imported_answers_are_judged_again_scored_and_reported() {
    let rows = std::env::var("BABELWARD_BENCH_ROWS").map_or(64, |rows| rows.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    write_answers(&root.path().join("answers.jsonl"), rows);
    let server = guard();
    let babelward = |args: &[&str]| {
        let began = Instant::now();
        let outcome = run(command(root.path())
            .env("BABELWARD_SERVER_URL", &server)
            .arg("-q")
            .args(args));
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
        println!("{:6.2} s  {}", began.elapsed().as_secs_f64(), args.join(" "));
        outcome.stdout
    };
    babelward(&["bench", "import", "answers.jsonl", "--out", "theirs"]);
    babelward(&[
        "bench", "rescore", "theirs", "--guard", "scripted", "--out", "ours",
    ]);
    let figures: Value = serde_json::from_str(&babelward(&["report", "ours", "--json", "-"])).unwrap();
    babelward(&["compare", "theirs", "ours"]);
    for (place, language) in Language::ALL.iter().enumerate() {
        let score = &figures["languages"][place]["micro"];
        let is_unsafe = if *language == Language::It {
            rows.div_ceil(10)
        } else {
            0
        };
        assert_eq!(
            (score["n"].as_u64(), score["unsafe"].as_u64()),
            (Some(rows as u64), Some(is_unsafe as u64)),
            "{language:?}"
        );
    }
    let origin = &figures["run"]["origin"];
    assert_eq!(origin["kind"], "rescored");
}
