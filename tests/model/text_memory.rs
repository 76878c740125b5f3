//! What turning a text into tokens takes in memory is no more than is set aside for it. In a process of its own, because
//! all that a process allocates is counted.

use std::fs;

use babelward::text::{Allowance, ChatMessage, ChatRole, ChatTemplate, Tokenizer, Watch};
use peak_alloc::PeakAlloc;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    alone::alone,
    common::{self, golden},
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of all texts of a conversation, and of the longest.
const BYTES: usize = 1 << 20;
const LONGEST: usize = 128 << 10;

/// Memory does not depend on the text alone: tables that are made when they are first used.
const ONCE: usize = 1 << 20;

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(path)).unwrap()).unwrap()
}

fn folder(name: &str, bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    folder
}

/// A tokenizer of each kind: words one by one, SentencePiece's scores, and whole texts through the library.
fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    let trained = json("text_sentencepiece.json");
    let hex = trained["trained"]["model"].as_str().unwrap();
    let bytes = (0..hex.len()).step_by(2);
    let model: Vec<u8> = bytes
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let small = json("text_tokenizer.json");
    let whole = |kind: &str| folder("tokenizer.json", small[kind]["tokenizer"].to_string().as_bytes());
    let open = |folder: &TempDir| Tokenizer::open(folder.path()).unwrap();
    vec![
        ("words", Tokenizer::open(&common::smollm2()).unwrap()),
        ("scores", open(&folder("tokenizer.model", &model))),
        ("prepend", open(&whole("prepend"))),
        ("first", open(&whole("first"))),
        (
            "unigram",
            open(&folder(
                "tokenizer.json",
                &fs::read(golden("comet/tokenizer.json")).unwrap(),
            )),
        ),
    ]
}

fn messages(unit: &str) -> Vec<ChatMessage> {
    let roles = [ChatRole::User, ChatRole::Assistant].into_iter().cycle();
    let content = format!("x{}x", unit.repeat((LONGEST - 2) / unit.len()));
    roles
        .take(BYTES / LONGEST)
        .map(|role| ChatMessage {
            role,
            content: content.clone(),
        })
        .collect()
}

#[test]
fn no_text_takes_more_than_is_set_aside_for_it() {
    alone(
        "text_memory::no_text_takes_more_than_is_set_aside_for_it",
        measure_all,
    );
}

fn measure_all() {
    let template = ChatTemplate::open(&common::smollm2()).unwrap().unwrap();
    let watch = Watch::default();
    let allowance = Allowance {
        tokens: BYTES,
        watch: &watch,
    };
    let mut worst = Vec::new();
    for (name, tokenizer) in tokenizers() {
        for unit in [
            "The quick brown fox jumps over the lazy dog. ",
            " ",
            "a",
            "ab",
            "q",
            "1",
            "\n",
            "!",
            "é",
            "漢",
            "🙂",
            "e\u{301}",
            " a",
            "\u{345}",
            "</think>",
        ] {
            let messages = messages(unit);
            let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let segments = template
                .render_turns(&messages, true)
                .map(|rendered| rendered.segments);
            // A text that cannot be encoded took memory all the same.
            let tokens = segments.map(|segments| tokenizer.encode_within(&segments, allowance));
            let taken = MEMORY.peak_usage() - before;
            drop(tokens);
            let aside = tokenizer.working_bytes(bytes, LONGEST);
            assert!(
                taken <= aside + ONCE,
                "{name} {unit:?}: {taken} bytes of {aside}, {} for each byte",
                taken / bytes
            );
            worst.push((name, unit, taken as f64 / aside as f64));
        }
    }
    // What is set aside is not far more either.
    for kind in ["words", "scores", "prepend"] {
        let kind = |(name, ..): &&(&str, &str, f64)| *name == kind;
        let most = worst
            .iter()
            .filter(kind)
            .map(|(.., share)| *share)
            .fold(0.0, f64::max);
        assert!(most > 0.3, "{worst:?}");
    }
}
