//! Equality with the reference implementations, Hugging Face tokenizers and transformers. The golden values and the scripts
//! that wrote them are `tests/golden/text_*`.

use std::{fs, path::Path};

use serde_json::Value;

use super::{test_files::*, *};
use crate::gguf::Gguf;

fn golden(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Writes the tokenizer of a GGUF file as a `tokenizer.json`, as the publisher of the model would have.
fn folder_of_smollm2() -> tempfile::TempDir {
    let gguf = Gguf::open(&smollm2_path()).unwrap();
    let list = |key: &str| gguf.get(key).unwrap().as_array().unwrap();
    let tokens: Vec<&str> = list("tokenizer.ggml.tokens")
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    let merges: Vec<&str> = list("tokenizer.ggml.merges")
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, t)| ((*t).to_owned(), id.into()))
        .collect();
    let special = |id: &usize| list("tokenizer.ggml.token_type")[*id].as_u64() == Some(3);
    let added: Vec<Value> = (0..tokens.len())
        .filter(special)
        .map(|id| serde_json::json!({"id": id, "content": tokens[id], "special": true}))
        .collect();
    let json = serde_json::json!({
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}
    });
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &Value| fs::write(folder.path().join(name), json.to_string()).unwrap();
    write("tokenizer.json", &json);
    write(
        "tokenizer_config.json",
        &serde_json::json!({
        "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": true,
        "chat_template": gguf.get_str("tokenizer.chat_template")}),
    );
    write(
        "generation_config.json",
        &serde_json::json!({"eos_token_id": [2, 0]}),
    );
    folder
}

#[test]
fn smollm2_encodes_as_hugging_face_tokenizers() {
    let from_gguf = smollm2();
    let folder = folder_of_smollm2();
    let from_folder = Tokenizer::open(folder.path()).unwrap();
    let golden = golden("text_tokenizer.json");
    for tokenizer in [&*from_gguf, &from_folder] {
        for case in golden["smollm2"]["plain"].as_array().unwrap() {
            let (input, expected) = (text(&case["text"]), ids(&case["ids"]));
            assert_eq!(tokenizer.encode_plain(input).unwrap(), expected, "{input:?}");
            assert_eq!(tokenizer.decode(&expected), input);
        }
        for case in golden["smollm2"]["trusted"].as_array().unwrap() {
            let input = text(&case["text"]);
            let segments = [Segment::Template(input.to_owned())];
            assert_eq!(
                tokenizer.encode(&segments).unwrap(),
                ids(&case["ids"]),
                "{input:?}"
            );
        }
        assert_eq!(tokenizer.vocab_size(), 49152);
        assert_eq!(tokenizer.special_id("<|im_end|>"), Some(2));
        assert_eq!(tokenizer.special_text(2), Some("<|im_end|>"));
        assert_eq!(tokenizer.end_tokens(), [0, 2]);
    }
    // The file says so; the folder asks for it.
    assert_eq!(from_gguf.bos_for_raw(), None);
    assert_eq!(from_folder.bos_for_raw(), Some(1));
    assert_ne!(from_gguf.digest(), from_folder.digest());
    let chat = ChatTemplate::open(folder.path()).unwrap().unwrap();
    assert_eq!(chat.digest(), smollm2_chat().digest());
}

#[test]
fn sentence_piece_folders_encode_as_hugging_face_tokenizers() {
    let golden = golden("text_tokenizer.json");
    for kind in ["prepend", "first"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("tokenizer.json"),
            golden[kind]["tokenizer"].to_string(),
        )
        .unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert!(tokenizer.strips_leading_space());
        for case in golden[kind]["cases"].as_array().unwrap() {
            let input = text(&case["text"]);
            let tokens = tokenizer.encode(&[Segment::Template(input.to_owned())]).unwrap();
            assert_eq!(tokens, ids(&case["ids"]), "{kind} {input:?}");
            assert_eq!(
                tokenizer.decode(&tokens),
                text(&case["decoded"]),
                "{kind} {input:?}"
            );
        }
    }
}

/// The small model of `text_sentencepiece.py`, alone in a folder.
fn trained_sentence_piece(golden: &Value) -> tempfile::TempDir {
    let hex = text(&golden["trained"]["model"]);
    let bytes = (0..hex.len()).step_by(2);
    let model: Vec<u8> = bytes
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.model"), model).unwrap();
    folder
}

fn check_texts(tokenizer: &Tokenizer, texts: &Value, expected: &Value) {
    for (input, expected) in texts.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        let (input, expected) = (text(input), ids(expected));
        assert_eq!(tokenizer.encode_plain(input).unwrap(), expected, "{input:?}");
        assert_eq!(tokenizer.decode(&expected), input);
    }
}

#[test]
#[ignore = "needs gemma-3-270m-q4_k_m.gguf (240 MB) in BABELWARD_TEST_GEMMA3, see tests/golden/greedy.py"]
fn gemma3_encodes_as_sentence_piece() {
    let path = std::env::var_os("BABELWARD_TEST_GEMMA3").expect("BABELWARD_TEST_GEMMA3");
    let golden = golden("text_sentencepiece.json");
    let tokenizer = Tokenizer::open(Path::new(&path)).unwrap();
    check_texts(&tokenizer, &golden["texts"], &golden["gemma3"]);
    let turn = tokenizer.special_id("<start_of_turn>").unwrap();
    assert!(!tokenizer.encode_plain("<start_of_turn>").unwrap().contains(&turn));
    assert_eq!(tokenizer.special_id("<table>"), None);
}

#[test]
fn sentence_piece_models_encode_as_sentence_piece() {
    let golden = golden("text_sentencepiece.json");
    let folder = trained_sentence_piece(&golden);
    let trained = Tokenizer::open(folder.path()).unwrap();
    let check = |name: &str, tokenizer: &Tokenizer, expected: &Value| {
        let texts = golden["texts"].as_array().unwrap();
        for (input, expected) in texts.iter().zip(expected.as_array().unwrap()) {
            let (input, expected) = (text(input), ids(expected));
            assert_eq!(
                tokenizer.encode_plain(input).unwrap(),
                expected,
                "{name} {input:?}"
            );
            assert_eq!(tokenizer.decode(&expected), input, "{name}");
        }
    };
    check("trained", &trained, &golden["trained"]["ids"]);
    for (name, expected) in golden["real"].as_object().unwrap() {
        let tokenizer = Tokenizer::open(&llama_cpp_vocabulary(name)).unwrap();
        check(name, &tokenizer, expected);
    }
    assert_eq!(trained.end_tokens(), [trained.special_id("</s>").unwrap()]);
    assert_eq!(trained.bos_for_raw(), None);
    let control = trained.special_id("<start_of_turn>").unwrap();
    assert_eq!(trained.token_bytes(control), b"");
    assert!(
        !trained
            .encode_plain("<start_of_turn>")
            .unwrap()
            .contains(&control)
    );
    assert_eq!(trained.special_id("<table>"), None);
}

#[test]
fn settings_beside_a_sentence_piece_model() {
    let folder = trained_sentence_piece(&golden("text_sentencepiece.json"));
    let size = Tokenizer::open(folder.path()).unwrap().vocab_size();
    let config = serde_json::json!({
        "add_bos_token": true, "bos_token": "<s>", "eos_token": {"content": "<|end|>"},
        "added_tokens_decoder": {
            (size + 1).to_string(): {"content": "<|end|>", "special": true},
            "0": {"content": "<unk>", "special": true},
        },
    });
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), size + 2);
    let id = |text: &str| tokenizer.special_id(text).unwrap();
    assert_eq!(tokenizer.bos_for_raw(), Some(id("<s>")));
    assert_eq!(tokenizer.end_tokens(), [id("</s>"), size as u32 + 1]);
    let trusted = tokenizer.encode(&[Segment::Template("<s><|end|>".into())]);
    assert_eq!(trusted.unwrap(), [id("<s>"), id("<|end|>")]);
    assert!(
        !tokenizer
            .encode_plain("<|end|>")
            .unwrap()
            .contains(&id("<|end|>"))
    );
}

fn conversation(value: &Value) -> Vec<ChatMessage> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|m| ChatMessage {
            role: match text(&m["role"]) {
                "system" => ChatRole::System,
                "user" => ChatRole::User,
                _ => ChatRole::Assistant,
            },
            content: text(&m["content"]).to_owned(),
        })
        .collect()
}

fn joined(segments: &[Segment]) -> String {
    segments.iter().map(Segment::text).collect()
}

#[test]
fn smollm2_chat_renders_as_transformers() {
    let golden = golden("text_chat.json");
    let chat = smollm2_chat();
    for case in golden["smollm2"].as_array().unwrap() {
        let messages = conversation(&golden["conversations"][case[0].as_u64().unwrap() as usize]);
        let segments = chat.render(&messages, case[1].as_bool().unwrap()).unwrap();
        assert_eq!(joined(&segments), text(&case[2]));
        let contents: Vec<&str> = segments
            .iter()
            .filter_map(|s| match s {
                Segment::Content(words) => Some(words.as_str()),
                Segment::Template(_) => None,
            })
            .collect();
        let expected: Vec<&str> = messages.iter().map(|m| strip(&m.content)).collect();
        assert_eq!(contents, expected);
    }
}

/// Noon of 29 February 2024, as in `text_chat.py`.
fn leap_day() -> u64 {
    1_709_208_000
}

#[test]
fn templates_of_llama_cpp_render_as_transformers() {
    let folder = llama_cpp().join("models/templates");
    let golden = golden("text_chat.json");
    let (mut equal, mut wrong) = (0, Vec::new());
    for (name, cases) in golden["templates"].as_object().unwrap() {
        let source = fs::read_to_string(folder.join(name)).unwrap();
        let chat = ChatTemplate::with_clock(&source, "<s>", "</s>", leap_day);
        for case in cases.as_array().unwrap() {
            let (index, answer) = (case[0].as_u64().unwrap() as usize, case[1].as_bool().unwrap());
            let messages = conversation(&golden["conversations"][index]);
            let ours = chat
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|c| c.render(&messages, answer));
            let outcome = match &ours {
                Ok(segments) => {
                    Some(crate::digest::of_bytes(joined(segments))["sha256:".len()..][..16].to_owned())
                }
                Err(TemplateError::MessageDropped(_)) => Some("drops".to_owned()),
                Err(TemplateError::Refused(_)) => None,
                Err(
                    error @ (TemplateError::Invalid(_)
                    | TemplateError::TooLong
                    | TemplateError::CallsDropped(_)),
                ) => Some(error.to_string()),
            };
            if outcome.as_deref() == case[2].as_str() {
                equal += 1;
            } else {
                wrong.push(format!("{name} {index} {answer}: {:?}", ours.map(|s| joined(&s))));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{equal} equal, {} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
