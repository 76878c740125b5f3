//! `evidence` and `renderings`, against a server that says what a text tells it to.

use std::fs;

use babelward::proto::{
    Action, ClassifyRenderingsRequest, ClassifyRenderingsResponse, ClassifyRequest, ClassifyResponse,
    EvidenceOutcome, EvidenceSpan, FindEvidenceRequest, FindEvidenceResponse, ItemStatus, Label,
    RenderingResult, RenderingRule, Translated, TranslatedText, Verdict, rendering_result,
};
use serde_json::Value;
use tonic::Code;

use crate::{
    client::scripted,
    support::{Outcome, command, run},
};

fn verdict(label: Label) -> Verdict {
    Verdict {
        label: label.into(),
        ..Verdict::default()
    }
}

fn text(request: &ClassifyRequest) -> &str {
    let messages = request
        .conversation
        .as_ref()
        .map(|conversation| &conversation.messages);
    messages
        .and_then(|messages| messages.last())
        .map_or("", |message| message.content.as_str())
}

/// The word `bad` is the evidence, and `far` is a part that no text has.
pub fn found(request: &FindEvidenceRequest) -> FindEvidenceResponse {
    let text = request.request.as_ref().map_or("", text);
    let span = |at: usize, length: usize| EvidenceSpan {
        start_bytes: at as u64,
        end_bytes: (at + length) as u64,
    };
    let spans = match (text.find("bad"), text.contains("far")) {
        (_, true) => vec![span(1, 10_000)],
        (Some(at), false) => vec![span(at, 4)],
        (None, false) => Vec::new(),
    };
    let is_found = !spans.is_empty();
    FindEvidenceResponse {
        outcome: match is_found {
            true => EvidenceOutcome::Found.into(),
            false => EvidenceOutcome::NotFound.into(),
        },
        verdict: Some(verdict(Label::Unsafe)),
        verdict_without: is_found.then(|| verdict(Label::Safe)),
        spans,
        each_is_needed: is_found,
        passes: 7,
        out_of_budget: request.max_passes == 7,
        ..FindEvidenceResponse::default()
    }
}

/// `bad` texts are unsafe, `odd` ones fail; the rule is asked for by name in the action.
pub fn renderings(request: &ClassifyRenderingsRequest) -> ClassifyRenderingsResponse {
    let result = |rendering: &ClassifyRequest| {
        let label = match text(rendering).contains("bad") {
            true => Label::Unsafe,
            false => Label::Safe,
        };
        let result = match text(rendering).contains("odd") {
            true => rendering_result::Result::Error(ItemStatus {
                code: Code::Internal as i32,
                message: "as told".to_owned(),
                details: Vec::new(),
            }),
            false => rendering_result::Result::Response(ClassifyResponse {
                verdict: Some(verdict(label)),
                ..ClassifyResponse::default()
            }),
        };
        RenderingResult {
            language: rendering.language.clone(),
            result: Some(result),
            translated: None,
        }
    };
    // What is translated is the language's tag, and safe.
    let translated = |language: &String| RenderingResult {
        language: language.clone(),
        result: Some(rendering_result::Result::Response(ClassifyResponse {
            verdict: Some(verdict(Label::Safe)),
            ..ClassifyResponse::default()
        })),
        translated: Some(Translated {
            texts: vec![TranslatedText {
                text: format!("\"in {language}\""),
                quality_score: Some(0.75),
                ..TranslatedText::default()
            }],
            ..Translated::default()
        }),
    };
    let languages = request.translation.iter().flat_map(|options| &options.languages);
    let (label, action) = match request.rule() {
        RenderingRule::Majority => (Label::Undetermined, Action::Flag),
        RenderingRule::All => (Label::Safe, Action::Allow),
        RenderingRule::Any | RenderingRule::Unspecified => (Label::Unsafe, Action::Block),
    };
    ClassifyRenderingsResponse {
        label: label.into(),
        action: action.into(),
        dissent: vec![0],
        results: request
            .renderings
            .iter()
            .map(result)
            .chain(languages.map(translated))
            .collect(),
    }
}

fn evidence(server: &str, arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path())
        .args(["evidence", "--server", server])
        .args(arguments))
}

#[test]
fn the_words_are_shown_with_both_verdicts() {
    let server = scripted();
    let shown = evidence(&server, &["--text", "Some bad \"words\" here.", "--no-color"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert!(lines[0].starts_with("the whole text  UNSAFE"), "{}", shown.stdout);
    assert_eq!(lines[1], "bytes 5..9  \"bad\"");
    assert!(lines[2].starts_with("without them  SAFE"), "{}", shown.stdout);
    assert!(shown.stderr.contains("each part is needed"), "{}", shown.stderr);
    let limited = evidence(&server, &["--text", "a bad thing", "--passes", "7"]);
    assert!(
        limited.stderr.contains("--passes with a larger number"),
        "{}",
        limited.stderr
    );
    let none = evidence(&server, &["--text", "bread"]);
    assert_eq!(none.code, 0, "{}", none.stderr);
    assert!(none.stderr.contains("no part decides"), "{}", none.stderr);
    let json = evidence(&server, &["--text", "a bad thing", "--format", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["outcome"], "EVIDENCE_OUTCOME_FOUND");
    assert_eq!(json["spans"][0]["start_bytes"], "2");
}

#[test]
fn a_part_that_the_text_does_not_have_is_an_error_of_the_server() {
    let shown = evidence(&scripted(), &["--text", "far away"]);
    assert_ne!(shown.code, 0);
    assert!(
        shown.stderr.contains("a part that the text does not have"),
        "{}",
        shown.stderr
    );
}

#[test]
fn renderings_are_shown_with_their_dissent_and_the_joint_label_is_the_exit_code() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("renderings.jsonl");
    let lines = "{\"id\": \"en\", \"text\": \"bread\"}\n{\"id\": \"de\", \"text\": \"bad Brot\"}\n{\"id\": \"fr\", \"text\": \"odd\"}\n";
    fs::write(&file, lines).unwrap();
    let judge = |arguments: &[&str]| {
        run(command(folder.path())
            .args([
                "renderings",
                "renderings.jsonl",
                "--no-color",
                "--server",
                &server,
            ])
            .args(arguments))
    };
    let any = judge(&[]);
    assert_eq!(any.code, 0, "{}", any.stderr);
    let shown: Vec<_> = any.stdout.lines().collect();
    assert!(
        shown[0].starts_with("en  SAFE") && shown[0].ends_with("differs"),
        "{}",
        any.stdout
    );
    assert!(shown[1].starts_with("de  UNSAFE"), "{}", any.stdout);
    assert!(shown[2].starts_with("fr  FAILED  as told"), "{}", any.stdout);
    assert_eq!(shown[3], "together  UNSAFE  BLOCK");
    assert!(any.stderr.contains("1 of 3 renderings differ"), "{}", any.stderr);
    assert_eq!(judge(&["--fail-on-unsafe"]).code, 3);
    assert_eq!(judge(&["--fail-on-unsafe", "--rule", "majority"]).code, 8);
    assert_eq!(judge(&["--fail-on-unsafe", "--rule", "all"]).code, 0);
    fs::write(&file, "{\"text\": \"bread\"}\n").unwrap();
    let alone = judge(&[]);
    assert!(alone.stderr.contains("use classify"), "{}", alone.stderr);
    let translated = judge(&["--translate-into", "de,fr", "--translator", "tiny"]);
    assert_eq!(translated.code, 0, "{}", translated.stderr);
    let shown: Vec<_> = translated.stdout.lines().collect();
    assert!(shown[1].starts_with("de  SAFE"), "{}", translated.stdout);
    assert_eq!(shown[2], "    translated: \"\\\"in de\\\"\"  quality 0.7500");
    assert!(shown[3].starts_with("fr  SAFE"), "{}", translated.stdout);
    let alone = judge(&["--translator", "tiny"]);
    assert!(alone.stderr.contains("--translate-into"), "{}", alone.stderr);
}
