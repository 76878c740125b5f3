//! `guard` as a filter on a pipe, against a server that releases as told.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use babelward::proto::{
    GuardEnded, GuardReleased, GuardRetracted, GuardStreamRequest, GuardStreamResponse, ItemStatus, Label,
    Verdict, guard_ended::Reason, guard_stream_request, guard_stream_response::Event,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::{client::scripted, support::command};

/// Releases each chunk as it comes, until one says how the text ends.
pub async fn answer(
    mut messages: Streaming<GuardStreamRequest>,
    answers: mpsc::Sender<Result<GuardStreamResponse, Status>>,
) {
    let (mut received, mut released) = (0, 0);
    let say = async |event| {
        let _gone = answers.send(Ok(GuardStreamResponse { event: Some(event) })).await;
    };
    let ended = |reason: Reason, code: Code, label| {
        let error = ItemStatus {
            code: code as i32,
            message: "as told".to_owned(),
            details: Vec::new(),
        };
        move |received, released| GuardEnded {
            reason: reason.into(),
            received_bytes: received,
            released_bytes: released,
            looks: 7,
            unguarded: false,
            verdict: Some(Verdict {
                label: i32::from(label),
                ..Verdict::default()
            }),
            error: (code != Code::Ok).then_some(error),
            ..GuardEnded::default()
        }
    };
    while let Ok(Some(message)) = messages.message().await {
        let end = match message.event {
            Some(guard_stream_request::Event::Chunk(chunk)) => {
                received += chunk.len() as u64;
                let text = String::from_utf8_lossy(&chunk);
                match text.trim_end() {
                    "unsafe" => Some(ended(Reason::Policy, Code::Ok, Label::Unsafe)),
                    "broken" => Some(ended(Reason::GuardFailed, Code::Internal, Label::Undetermined)),
                    "late" => Some(ended(Reason::Deadline, Code::DeadlineExceeded, Label::Safe)),
                    "too much" => {
                        say(Event::Released(GuardReleased {
                            released_bytes: received + 1,
                            unguarded: false,
                        }))
                        .await;
                        continue;
                    }
                    _ => {
                        released = received;
                        say(Event::Released(GuardReleased {
                            released_bytes: released,
                            unguarded: false,
                        }))
                        .await;
                        continue;
                    }
                }
            }
            Some(guard_stream_request::Event::End(_)) => Some(ended(Reason::Complete, Code::Ok, Label::Safe)),
            Some(guard_stream_request::Event::Start(_)) | None => None,
        };
        if let Some(end) = end {
            let end = end(received, released);
            if end.reason() == Reason::Policy {
                say(Event::Retracted(GuardRetracted { kept_bytes: 0 })).await;
            }
            say(Event::Ended(end)).await;
            return;
        }
    }
}

/// A filter that runs.
struct Filter(Child);

impl Filter {
    fn start(folder: &Path, server: &str, arguments: &[&str]) -> Self {
        let mut filter: Command = command(folder);
        filter
            .args(["guard", "--server", server])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(filter.spawn().unwrap())
    }

    fn write(&mut self, text: &str) {
        self.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Reads exactly this text from its standard output.
    fn reads(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.0.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    /// Waits for its end while its standard input stays open; its code, and the rest that it wrote.
    fn ends(mut self) -> (i32, String, String) {
        let stdin = self.0.stdin.take();
        let output = self.0.wait_with_output().unwrap();
        drop(stdin);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

#[test]
fn text_goes_through_as_it_is_released_and_nothing_is_added() {
    let (server, folder) = (scripted(), tempfile::tempdir().unwrap());
    let mut filter = Filter::start(folder.path(), &server, &[]);
    for text in ["Mix flour ", "and water.\n", "größer 🥖"] {
        filter.write(text);
        filter.reads(text);
    }
    drop(filter.0.stdin.take());
    let (code, rest, told) = filter.ends();
    assert_eq!((code, rest.as_str()), (0, ""));
    assert!(
        told.starts_with("[complete, 34 of 34 bytes released, 7 looks, SAFE"),
        "{told}"
    );
}

#[test]
fn how_a_text_ends_becomes_the_exit_code_while_the_pipe_is_still_open() {
    let (server, folder) = (scripted(), tempfile::tempdir().unwrap());
    for (word, code, part) in [
        ("unsafe", 3, "[policy, 5 of 11 bytes released, 7 looks, UNSAFE"),
        ("broken", 8, "INTERNAL: as told"),
        ("late", 124, "DEADLINE_EXCEEDED: as told"),
        ("too much", 1, "that was not sent"),
    ] {
        let mut filter = Filter::start(folder.path(), &server, &["--prompt", "How?"]);
        filter.write("safe ");
        filter.reads("safe ");
        filter.write(word);
        let (found, rest, told) = filter.ends();
        assert_eq!((found, rest.as_str()), (code, ""), "{word}: {told}");
        assert!(told.contains(part), "{word}: {told}");
        assert_eq!(
            told.contains("[retracted: what was released behind byte 0"),
            code == 3
        );
    }
}

#[test]
fn an_empty_input_is_told_and_wrong_flags_are_refused() {
    let (server, folder) = (scripted(), tempfile::tempdir().unwrap());
    let mut filter = Filter::start(folder.path(), &server, &[]);
    drop(filter.0.stdin.take());
    let (code, out, told) = filter.ends();
    assert_eq!((code, out.as_str()), (9, ""));
    assert!(told.contains("empty"), "{told}");
    for flags in [
        ["--mode", "sometimes"],
        ["--confirmations", "0"],
        ["--every", "many"],
    ] {
        let filter = Filter::start(folder.path(), &server, &flags);
        assert_eq!(filter.ends().0, 2, "{flags:?}");
    }
}

#[test]
fn programs_get_events_or_one_document() {
    let (server, folder) = (scripted(), tempfile::tempdir().unwrap());
    let lines = |format: &str| {
        let mut filter = Filter::start(folder.path(), &server, &["--format", format, "--quiet"]);
        filter.write("safe words");
        drop(filter.0.stdin.take());
        let (code, out, told) = filter.ends();
        assert_eq!((code, told.as_str()), (0, ""));
        out
    };
    let events: Vec<Value> = lines("jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["released"]["released_bytes"], "10");
    assert_eq!(events[1]["ended"]["reason"], "REASON_COMPLETE");
    let whole: Value = serde_json::from_str(&lines("json")).unwrap();
    assert_eq!(whole["text"], "safe words");
    assert_eq!(whole["ended"]["looks"], 7);
}
