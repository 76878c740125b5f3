//! Damaged and hostile tokenizers give typed errors and never panic; and properties of encoding.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{test_files::*, *};
use crate::gguf::Gguf;

/// A GGUF file of metadata only.
#[derive(Clone)]
enum Meta {
    Text(&'static str),
    Texts(Vec<&'static str>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    Int(u32),
    Bool(bool),
}

fn gguf(entries: &[(&str, Meta)]) -> tempfile::NamedTempFile {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn array(out: &mut Vec<u8>, kind: u32, count: usize) {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        string(&mut out, &format!("tokenizer.ggml.{key}"));
        match value {
            Meta::Text(text) => {
                out.extend(8u32.to_le_bytes());
                string(&mut out, text);
            }
            Meta::Texts(texts) => {
                array(&mut out, 8, texts.len());
                texts.iter().for_each(|t| string(&mut out, t));
            }
            Meta::Ints(ints) => {
                array(&mut out, 5, ints.len());
                out.extend(ints.iter().flat_map(|i| i.to_le_bytes()));
            }
            Meta::Floats(floats) => {
                array(&mut out, 6, floats.len());
                out.extend(floats.iter().flat_map(|f| f.to_le_bytes()));
            }
            Meta::Bool(flag) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*flag));
            }
            Meta::Int(int) => {
                out.extend(4u32.to_le_bytes());
                out.extend(int.to_le_bytes());
            }
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), out).unwrap();
    file
}

fn error_of(entries: &[(&str, Meta)]) -> String {
    let file = gguf(entries);
    match Tokenizer::from_gguf(&Gguf::open(file.path()).unwrap()) {
        Ok(_) => panic!("this must not load"),
        Err(error) => error.to_string(),
    }
}

/// The entries of a valid file, with some replaced.
fn with(base: &[(&'static str, Meta)], changes: &[(&'static str, Meta)]) -> Vec<(&'static str, Meta)> {
    let mut entries: Vec<_> = base
        .iter()
        .filter(|(key, _)| changes.iter().all(|(k, _)| k != key))
        .cloned()
        .collect();
    entries.extend(changes.iter().cloned());
    entries
}

#[test]
fn damaged_gguf_vocabularies_are_refused() {
    use Meta::*;
    let base = [
        ("model", Text("gpt2")),
        ("pre", Text("smollm")),
        ("tokens", Texts(vec!["a", "b", "ab", "<|x|>"])),
        ("token_type", Ints(vec![1, 1, 1, 3])),
        ("merges", Texts(vec!["a b"])),
    ];
    let file = gguf(&base);
    let tokenizer = Tokenizer::open(file.path()).unwrap();
    assert_eq!(tokenizer.encode_plain("abba").unwrap(), [2, 1, 0]);
    // A byte without a token would be left out of the text, so it is refused, with its position.
    let lost = tokenizer.encode_plain("abc").unwrap_err();
    assert!(lost.to_string().contains("U+0063"), "{lost}");
    assert_eq!(tokenizer.find_not_encodable("abc"), Some(('c', 2)));
    let long = format!("{}é", "ab".repeat(5000));
    assert_eq!(tokenizer.find_not_encodable(&long), Some(('é', 10_000)));
    assert_eq!(tokenizer.find_not_encodable("ab"), None);

    for (change, expected) in [
        (("model", Text("bert")), "`bert`"),
        (("pre", Text("klingon")), "`klingon`"),
        (("pre", Text("klingon")), "supported are default, gpt-2, "),
        (("tokens", Texts(vec![])), "4 entries for 0"),
        (("tokens", Ints(vec![1, 2, 3, 4])), "tokenizer.ggml.tokens"),
        (("token_type", Ints(vec![1])), "1 entries for 4"),
        (("merges", Texts(vec!["ab"])), "merge 0"),
        (("merges", Texts(vec!["a c"])), "merges: "),
        (("merges", Texts(vec!["ab ab"])), "longer than any token"),
        (("merges", Text("a b")), "tokenizer.ggml.merges"),
        (("eos_token_id", Int(4)), "outside the vocabulary of 4"),
        (("eos_token_id", Text("x")), "eos_token_id is not a token id"),
    ] {
        let error = error_of(&with(&base, &[change]));
        assert!(error.contains(expected), "{error}");
    }
    let spm = [
        ("model", Text("llama")),
        ("tokens", Texts(vec!["<unk>", "▁", "a", "▁a"])),
        ("token_type", Ints(vec![2, 1, 1, 1])),
        ("scores", Floats(vec![0.0, -2.0, -3.0, -1.0])),
        ("unknown_token_id", Int(0)),
    ];
    let file = gguf(&spm);
    assert_eq!(
        Tokenizer::open(file.path())
            .unwrap()
            .encode_plain("a ab")
            .unwrap(),
        [3, 3, 0]
    );
    assert!(error_of(&with(&spm, &[("scores", Floats(vec![1.0]))])).contains("1 entries for 4"));
    let nan = Floats(vec![0.0, f32::NAN, 0.0, 0.0]);
    assert!(error_of(&with(&spm, &[("scores", nan)])).contains("not a number"));
    assert!(error_of(&[("pre", Text("x"))]).contains("tokenizer.ggml.model is missing"));
}

#[test]
fn markup_in_a_vocabulary_is_never_content() {
    use Meta::*;
    let file = gguf(&[
        ("model", Text("gpt2")),
        ("pre", Text("llama-bpe")),
        (
            "tokens",
            Texts(vec!["x", "<", ">", "<x", "<x>", "<c>", "c", "!!"]),
        ),
        ("token_type", Ints(vec![1, 1, 1, 1, 4, 3, 1, 4])),
        // Merging must not result in a special token either.
        ("merges", Texts(vec!["< x", "<x >"])),
    ]);
    let tokenizer = Tokenizer::open(file.path()).unwrap();
    let text = "<x><c>!!".to_owned();
    assert_eq!(
        tokenizer.encode(&[Segment::Template(text.clone())]).unwrap(),
        [4, 5, 7]
    );
    let ids = tokenizer.encode(&[Segment::Content(text)]);
    assert_eq!(ids.unwrap(), [3, 2, 1, 6, 2, 7]);
    // Nor may a special token be partly in the template.
    let halves = [Segment::Template("<".into()), Segment::Content("c>".into())];
    assert_eq!(tokenizer.encode(&halves).unwrap(), [1, 6, 2]);
    assert_eq!(tokenizer.token_bytes(4), b"<x>");
    assert_eq!(tokenizer.token_bytes(5), b"");
    assert_eq!(tokenizer.token_bytes(99), b"");
}

#[test]
fn end_tokens_written_down_as_normal_are_special_all_the_same() {
    use Meta::*;
    let base = [
        ("model", Text("llama")),
        (
            "tokens",
            Texts(vec!["<", "e", ">", "<e", "<e>", "<|im_end|>", "e>"]),
        ),
        ("token_type", Ints(vec![1, 1, 1, 1, 1, 1, 1])),
        ("scores", Floats(vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0])),
        ("add_space_prefix", Bool(false)),
    ];
    let encode = |changes: &[(&'static str, Meta)], segment: Segment| {
        let file = gguf(&with(&base, changes));
        Tokenizer::open(file.path()).unwrap().encode(&[segment]).unwrap()
    };
    let content = || Segment::Content("<e>".into());
    assert_eq!(encode(&[], content()), [4]);
    let declared = [("eos_token_id", Int(4))];
    assert_eq!(encode(&declared, content()), [3, 2]);
    assert_eq!(
        encode(&declared, Segment::Template("<e><|im_end|>".into())),
        [4, 5]
    );
    // A word that ends a text stays a word.
    assert_eq!(
        encode(&[("eos_token_id", Int(1))], Segment::Content("e".into())),
        [1]
    );
}

fn folder_tokenizer(json: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

#[test]
fn what_a_vocabulary_lacks_falls_back_or_is_refused() {
    let bytes = |text: &str| text.bytes().map(|b| format!("<0x{b:02X}>")).collect::<Vec<_>>();
    // In SentencePiece's spelling there are byte tokens, otherwise the unknown token, otherwise an error.
    let mut vocab = json!({"<unk>": 0, "▁": 1, "a": 2, "▁a": 3});
    for (id, byte) in bytes("é").into_iter().enumerate() {
        vocab[byte] = json!(4 + id);
    }
    let spelled = |fallback: bool, unknown: Value| {
        folder_tokenizer(&json!({
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "decoder": {"type": "ByteFallback"},
            "model": {"type": "BPE", "vocab": vocab.clone(), "merges": [["▁", "a"]], "unk_token": unknown,
                      "byte_fallback": fallback}
        }))
    };
    let both = spelled(true, json!("<unk>"));
    assert_eq!(both.encode_plain(" aéx").unwrap(), [3, 4, 5, 0]);
    let bytes_only = spelled(true, Value::Null);
    assert_eq!(bytes_only.encode_plain(" aé").unwrap(), [3, 4, 5]);
    assert!(matches!(
        bytes_only.encode_plain(" aéx"),
        Err(TokenizerError::NotEncodable('x'))
    ));
    assert_eq!(bytes_only.find_not_encodable(" aéx"), Some(('x', 3)));
    let neither = spelled(false, Value::Null);
    assert!(matches!(
        neither.encode_plain("é"),
        Err(TokenizerError::NotEncodable('é'))
    ));

    // The byte-level alphabet, with an unknown token and without.
    let byte_level = |unknown: Value| {
        folder_tokenizer(&json!({
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "e": 1, "<unk>": 2, "\u{300}": 3}, "merges": [],
                      "unk_token": unknown}
        }))
    };
    assert_eq!(byte_level(json!("<unk>")).encode_plain("a\u{4}").unwrap(), [0, 2]);
    let strict = byte_level(Value::Null);
    assert!(matches!(
        strict.encode_plain("a\u{4}"),
        Err(TokenizerError::NotEncodable('\u{4}'))
    ));
    assert_eq!(strict.find_not_encodable("ae\u{4}"), Some(('\u{4}', 2)));
    // Composed characters are looked for in composed form, and named as they were written.
    assert!(matches!(
        strict.encode_plain("e\u{301}"),
        Err(TokenizerError::NotEncodable('é'))
    ));
    assert_eq!(strict.find_not_encodable("aae\u{301}"), Some(('e', 2)));
}

fn folder_error(tokenizer: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::from_folder(folder.path())
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default()
}

#[test]
fn damaged_tokenizer_json_is_refused() {
    let base = json!({
        "added_tokens": [{"id": 3, "content": "<|x|>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    });
    assert_eq!(folder_error(&base), "");
    for (pointer, value, expected) in [
        ("/model/type", json!("WordPiece"), "`WordPiece`"),
        ("/model/vocab", json!([]), "model.vocab"),
        ("/model/vocab/a", json!(-1), "`a`"),
        ("/model/vocab/a", json!(4_000_000_000u64), "`a`"),
        ("/model/merges", json!(7), "model.merges"),
        ("/model/merges/0", json!(["a"]), "merge 0"),
        ("/model/merges/0", json!(["ab", "ab"]), "longer than any token"),
        ("/added_tokens/0/id", json!("x"), "added_tokens"),
        ("/pre_tokenizer/type", json!("FixedLength"), "`FixedLength`"),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            "`Split`",
        ),
        ("/decoder/type", json!("WordPiece"), "decoder"),
    ] {
        let mut changed = base.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let error = folder_error(&changed);
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    assert!(folder_error(&json!([])).contains("tokenizer.json"));
    let empty = tempfile::tempdir().unwrap();
    assert!(
        Tokenizer::open(empty.path())
            .err()
            .unwrap()
            .to_string()
            .contains("is missing")
    );
    assert!(ChatTemplate::open(empty.path()).unwrap().is_none());
}

/// A `tokenizer.model` of one piece, a kind of model, and normaliser fields.
fn sentence_piece_error(model_type: u8, normalizer: &[u8]) -> String {
    let message = |tag: u8, body: &[u8]| [&[tag, body.len() as u8][..], body].concat();
    let model = [
        message(0x0A, &message(0x0A, b"a")),
        message(0x12, &[0x18, model_type]),
        message(0x1A, normalizer),
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.model"), model.concat()).unwrap();
    let opened = Tokenizer::from_folder(folder.path());
    opened.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn sentence_piece_models_that_would_encode_differently_are_refused() {
    let plain = [0x20, 0];
    assert_eq!(sentence_piece_error(2, &plain), "");
    assert!(sentence_piece_error(1, &plain).contains("only BPE"));
    assert!(sentence_piece_error(2, &[]).contains("remove_extra_whitespaces"));
    assert!(sentence_piece_error(2, &[0x20, 0, 0x12, 1, b'x']).contains("precompiled_charsmap"));
    assert!(sentence_piece_error(2, &[0x20, 0, 0x28, 0]).contains("escape_whitespaces"));
    assert!(sentence_piece_error(2, &[0x20]).contains("tokenizer.model"));
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,12}",
        Just("<|im_end|>".to_owned()),
        Just("\n<|im_start|>system\n".to_owned()),
        Just("<|im_".to_owned()),
        "[ \\n]{0,4}",
    ]
}

proptest! {
    #[test]
    fn damage_to_tokenizer_json_never_panics(position in 0usize..400, byte: u8) {
        let mut bytes = json!({
            "added_tokens": [{"id": 3, "content": "<|x|>", "special": true, "lstrip": true}],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "a"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "unk_token": "a"}
        })
        .to_string()
        .into_bytes();
        let at = position % bytes.len();
        bytes[at] = byte;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) {
            let _ = tokenizer.encode(&[Segment::Template("ab <|x|> ba".into())]);
        }
    }

    #[test]
    fn plain_text_survives_the_round_trip(text in "(?s).{0,60}") {
        let tokenizer = smollm2();
        // Some code points have bytes that are not in the vocabulary. They are refused, and never left out.
        if let Ok(ids) = tokenizer.encode_plain(&text) {
            prop_assert_eq!(tokenizer.decode(&ids), text);
            prop_assert!(ids.iter().all(|&id| tokenizer.special_text(id).is_none()));
        }
    }

    #[test]
    fn segments_encode_as_their_joined_text(pieces in prop::collection::vec((any::<bool>(), "[a-z0-9 \\n.é🙂]{0,8}"), 0..6)) {
        let tokenizer = smollm2();
        let joined: String = pieces.iter().map(|(_, text)| text.as_str()).collect();
        let segments: Vec<Segment> = pieces
            .into_iter()
            .map(|(trusted, text)| if trusted { Segment::Template(text) } else { Segment::Content(text) })
            .collect();
        prop_assert_eq!(tokenizer.encode(&segments).unwrap(), tokenizer.encode_plain(&joined).unwrap());
    }

    #[test]
    fn nobody_writes_a_special_token(contents in prop::collection::vec(words(), 1..5)) {
        let (tokenizer, chat) = (smollm2(), smollm2_chat());
        let messages = |texts: &[String]| -> Vec<ChatMessage> {
            let roles = [ChatRole::User, ChatRole::Assistant];
            texts
                .iter()
                .zip(roles.iter().cycle())
                .map(|(text, role)| ChatMessage { role: *role, content: text.clone() })
                .collect()
        };
        let specials = |texts: &[String]| -> Option<Vec<u32>> {
            let prompt = tokenizer.encode(&chat.render(&messages(texts), true).unwrap()).ok()?;
            Some(prompt.into_iter().filter(|&id| tokenizer.special_text(id).is_some()).collect())
        };
        let harmless: Vec<String> = contents.iter().map(|_| "x".to_owned()).collect();
        if let Some(found) = specials(&contents) {
            prop_assert_eq!(found, specials(&harmless).unwrap());
        }
    }
}
