//! `classify` with whole conversations: what is asked for, and what is printed of the messages.

use std::fs;

use babelward::proto::{
    ContentKind, Conversation, JudgeScope, Label, MessageUse, MessageVerdict, Role, Verdict, WindowVerdict,
    message_use::Use,
};
use serde_json::Value;

use crate::{
    client::scripted,
    support::{Outcome, command, run},
};

/// The scripted server's verdicts on several messages: safe on all but the last, unless only the last is judged.
pub fn message_verdicts(judge: i32, conversation: &Conversation, last: &Verdict) -> Vec<MessageVerdict> {
    let count = conversation.messages.len() as u32;
    let first = match JudgeScope::try_from(judge) {
        Ok(JudgeScope::Exchange) => count.saturating_sub(2),
        Ok(JudgeScope::EachMessage) => 0,
        _ => return Vec::new(),
    };
    let verdict = |message| match message + 1 == count {
        true => last.clone(),
        false => Verdict {
            label: Label::Safe.into(),
            ..Verdict::default()
        },
    };
    (first..count)
        .map(|message| MessageVerdict {
            message,
            verdict: Some(verdict(message)),
        })
        .collect()
}

/// The scripted server's account: system messages are left out, parts that are no text are named, and a text with `long` in it is
/// judged in two windows. One message that is judged and nothing else has no account here.
pub fn with_uses(conversation: &Conversation, verdict: Verdict) -> Verdict {
    let is_plain =
        |message: &babelward::proto::Message| message.role() != Role::System && message.parts.is_empty();
    let is_long = conversation
        .messages
        .iter()
        .any(|message| message.content.contains("long"));
    if conversation.messages.iter().all(is_plain) && !is_long {
        return verdict;
    }
    let uses = (0..)
        .zip(&conversation.messages)
        .map(|(index, message)| MessageUse {
            message: index,
            r#use: match message.role() {
                Role::System => Use::LeftOut.into(),
                _ => Use::Judged.into(),
            },
            omitted_parts: match message.parts.is_empty() {
                true => Vec::new(),
                false => vec![ContentKind::Image.into()],
            },
            ..MessageUse::default()
        });
    Verdict {
        message_uses: uses.collect(),
        windows: vec![WindowVerdict::default(); if is_long { 2 } else { 0 }],
        ..verdict
    }
}

fn classify(lines: &str, arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    fs::write(&path, lines).unwrap();
    run(command(folder.path())
        .args([
            "classify",
            "--server",
            &scripted(),
            "--items",
            path.to_str().unwrap(),
        ])
        .args(arguments))
}

const CHAT: &str = concat!(
    r#"{"id": "chat", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "safe"}, "#,
    r#"{"role": "assistant", "content": "unsafe words"}]}"#
);

#[test]
fn each_verdict_has_a_line_and_the_worst_comes_first() {
    let outcome = classify(CHAT, &["--judge", "each", "--quiet"]);
    assert_eq!(
        outcome.stdout,
        "chat  UNSAFE  unsafe_score 0.5000  label_mass 1.0000  categories S9  left out messages 0\n\
         chat  message 0  SAFE  unsafe_score -  label_mass 0.0000  categories -\n\
         chat  message 1  SAFE  unsafe_score -  label_mass 0.0000  categories -\n\
         chat  message 2  UNSAFE  unsafe_score 0.5000  label_mass 1.0000  categories S9\n",
        "{}",
        outcome.stderr
    );
    let exchange = classify(CHAT, &["--judge", "exchange", "--format", "jsonl", "--quiet"]);
    let json: Value = serde_json::from_str(&exchange.stdout).unwrap();
    let verdicts = json["message_verdicts"].as_array().unwrap();
    let told: Vec<_> = verdicts
        .iter()
        .map(|one| one["message"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [1, 2]);
    assert_eq!(json["verdict"]["label"], "LABEL_UNSAFE");
    assert_eq!(json["verdict"]["message_uses"][0]["use"], "USE_LEFT_OUT");
    let last = classify(CHAT, &["--format", "jsonl", "--quiet"]);
    let json: Value = serde_json::from_str(&last.stdout).unwrap();
    assert!(json.get("message_verdicts").is_none(), "{json}");
}

#[test]
fn what_was_not_judged_and_windows_are_told() {
    let shown =
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#;
    let outcome = classify(shown, &["--omit-unjudgeable", "--quiet"]);
    assert!(
        outcome.stdout.ends_with("  not judged in message 0: image\n"),
        "{} {}",
        outcome.stdout,
        outcome.stderr
    );
    let outcome = classify(r#"{"text": "safe and long"}"#, &["--windows", "--quiet"]);
    assert!(
        outcome.stdout.ends_with("  worst of 2 windows\n"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn messages_that_are_not_known_are_told_with_their_lines() {
    let lines = "{\"messages\": [{\"role\": \"nobody\", \"content\": \"a\"}]}\n\
                 {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"smell\"}]}]}\n";
    let outcome = classify(lines, &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (7, ""));
    assert!(outcome.stderr.contains("items.jsonl:1: ") && outcome.stderr.contains("nobody"));
    assert!(outcome.stderr.contains("items.jsonl:2: ") && outcome.stderr.contains("smell"));
}
