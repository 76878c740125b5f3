//! `generate --guard`, against a server that releases as told.

use babelward::proto::{
    FinishReason, GenerateDelta, GenerateFinished, GenerateRequest, GenerateResponse, GenerateStarted,
    GenerateStreamRequest, GenerateStreamResponse, GuardEnded, GuardLook, GuardMode, GuardRetracted,
    ItemStatus, generate_request::Prompt, generate_response::Event,
    generation_service_server::GenerationService, guard_ended::Reason, guard_look::Outcome,
};
use serde_json::Value;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    client::scripted,
    support::{Outcome as Ran, command, run},
};

/// What is answered. The guard has looked at its first word.
const ANSWER: &str = "Mix flour.";

/// Ends as the prompt says.
pub struct Scripted;

type Answers = tokio_stream::Iter<std::vec::IntoIter<Result<GenerateResponse, Status>>>;

#[tonic::async_trait]
impl GenerationService for Scripted {
    type GenerateStream = Answers;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let said = match &request.prompt {
            Some(Prompt::Conversation(conversation)) => conversation.messages[0].content.clone(),
            other => panic!("{other:?}"),
        };
        let guard = request.guard.clone();
        // An older server does not know the field.
        let guard = guard.filter(|_| said != "old");
        let (reason, code, released) = match said.as_str() {
            "unsafe" => (Reason::Policy, Code::Ok, 3),
            "broken" => (Reason::GuardFailed, Code::Internal, 3),
            "late" => (Reason::Deadline, Code::DeadlineExceeded, 3),
            _ => (Reason::Complete, Code::Ok, ANSWER.len()),
        };
        let mut events = vec![Event::Started(GenerateStarted::default())];
        if let Some(guard) = &guard {
            let model = guard.model.as_str();
            assert!(["", "named"].contains(&model), "{model}");
            events.push(Event::Look(GuardLook {
                outcome: Outcome::Passed.into(),
                text_bytes: released as u64,
                ..GuardLook::default()
            }));
        }
        events.push(Event::Delta(GenerateDelta {
            text: ANSWER[..released].to_owned(),
            ..GenerateDelta::default()
        }));
        let is_optimistic = |options: babelward::proto::GuardOptions| options.mode() == GuardMode::Optimistic;
        if guard
            .as_ref()
            .and_then(|guard| guard.options)
            .is_some_and(is_optimistic)
        {
            events.push(Event::Retracted(GuardRetracted { kept_bytes: 0 }));
        }
        let error = (code != Code::Ok).then(|| ItemStatus {
            code: code as i32,
            message: "as told".to_owned(),
            details: Vec::new(),
        });
        events.push(Event::Finished(GenerateFinished {
            finish_reason: FinishReason::Eos.into(),
            guard: guard.map(|_| GuardEnded {
                reason: reason.into(),
                received_bytes: ANSWER.len() as u64,
                released_bytes: released as u64,
                looks: 7,
                error,
                ..GuardEnded::default()
            }),
            ..GenerateFinished::default()
        }));
        let mut answers: Vec<_> = events
            .into_iter()
            .map(|event| Ok(GenerateResponse { event: Some(event) }))
            .collect();
        if code != Code::Ok {
            answers.push(Err(Status::new(code, "as told")));
        }
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    type GenerateStreamStream = tokio_stream::Pending<Result<GenerateStreamResponse, Status>>;

    async fn generate_stream(
        &self,
        _: Request<Streaming<GenerateStreamRequest>>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        Err(Status::unimplemented("not used"))
    }
}

fn generate(server: &str, arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path())
        .args(["generate", "--server", server])
        .args(arguments))
}

#[test]
fn how_a_guarded_answer_ends_becomes_the_exit_code() {
    let server = scripted();
    for (prompt, code, text, part) in [
        (
            "safe",
            0,
            "Mix flour.\n",
            "[complete, 10 of 10 bytes released, 7 looks]",
        ),
        ("unsafe", 3, "Mix\n", "[policy, 3 of 10 bytes released, 7 looks]"),
        ("broken", 8, "Mix\n", "INTERNAL: as told"),
        ("late", 124, "Mix\n", "DEADLINE_EXCEEDED: as told"),
    ] {
        for guard in ["--guard", "--guard=named"] {
            let ran = generate(&server, &[guard, prompt]);
            assert_eq!(
                (ran.code, ran.stdout.as_str()),
                (code, text),
                "{prompt}: {}",
                ran.stderr
            );
            assert!(ran.stderr.contains(part), "{prompt}: {}", ran.stderr);
        }
    }
    let ran = generate(&server, &["--guard", "--mode", "optimistic", "unsafe"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("[retracted: what was released behind byte 0"),
        "{}",
        ran.stderr
    );
}

#[test]
fn programs_get_the_end_of_a_guarded_answer_too() {
    let ran = generate(&scripted(), &["--guard", "--format", "json", "--quiet", "unsafe"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (3, ""));
    let whole: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(whole["text"], "Mix");
    assert_eq!(whole["finished"]["guard"]["reason"], "REASON_POLICY");
}

/// A server that does not know guards of answers must not look as if it had one.
#[test]
fn an_answer_that_is_not_guarded_is_an_error() {
    let server = scripted();
    let ran = generate(&server, &["--guard", "old"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("does not guard"), "{}", ran.stderr);
    let ran = generate(&server, &["old"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "Mix flour.\n"));
}

#[test]
fn flags_of_a_guard_need_the_guard() {
    let server = scripted();
    for flags in [
        ["--mode", "observe"],
        ["--policy", "shop"],
        ["--confirmations", "1"],
    ] {
        let ran = generate(&server, &[flags[0], flags[1], "safe"]);
        assert_eq!(ran.code, 2, "{flags:?}");
        assert!(ran.stderr.contains("--guard"), "{}", ran.stderr);
    }
}
