//! Real vocabularies: llama.cpp's own test vectors, round trips, and text that makes naive tokenizers slow.

use std::{fs, sync::LazyLock};

use proptest::prelude::*;
use tokenizers::NormalizedString;

use super::{test_files::*, *};

/// Vocabularies with test vectors.
const WITH_VECTORS: [&str; 15] = [
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
    "baichuan",
];

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(&llama_cpp_vocabulary(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All vocabularies, opened once.
fn vocabularies() -> &'static [(&'static str, Tokenizer)] {
    static ALL: LazyLock<Vec<(&str, Tokenizer)>> =
        LazyLock::new(|| WITH_VECTORS.iter().map(|name| (*name, open(name))).collect());
    &ALL
}

/// What decoding gives for the tokens of a text: some vocabularies want normal form C, and SentencePiece's
/// spelling of the space is a space.
fn as_decoded(name: &str, text: &str) -> String {
    match name {
        "qwen2" | "command-r" | "mpt" => {
            let mut normalized = NormalizedString::from(text);
            normalized.nfc();
            normalized.get().to_owned()
        }
        "llama-spm" | "phi-3" | "baichuan" | "gemma-4" => text.replace('▁', " "),
        _ => text.to_owned(),
    }
}

#[test]
fn llama_cpp_s_test_vectors() {
    let mut cases = 0;
    let mut wrong = Vec::new();
    for (name, tokenizer) in vocabularies().iter().filter(|(name, _)| *name != "baichuan") {
        let path = llama_cpp_vocabulary(name);
        let side = |ext: &str| fs::read_to_string(format!("{}.{ext}", path.display())).unwrap();
        let (inputs, outputs) = (side("inp"), side("out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        // The file of inputs ends with a separator.
        let outputs: Vec<Vec<u32>> = outputs
            .lines()
            .map(|l| l.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert!(outputs.len() > 30, "{name}");
        for (input, expected) in inputs.iter().zip(&outputs) {
            cases += 1;
            let ids = tokenizer.encode_plain(input).unwrap();
            if ids != *expected {
                wrong.push(format!("{name} {input:?}:\n  {ids:?}\n  {expected:?}"));
            }
            let decoded = tokenizer.decode(expected);
            if decoded != *input {
                wrong.push(format!("{name} decodes {input:?} as {decoded:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases}\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn unsupported_vocabularies_say_what_they_are() {
    for (name, expected) in [
        ("bert-bge", "bert"),
        ("gpt-neox", "ggml.pre is missing"),
        ("nomic-bert-moe", "t5"),
    ] {
        let error = Tokenizer::open(&llama_cpp_vocabulary(name))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn no_special_token_comes_out_of_content() {
    for (name, tokenizer) in vocabularies() {
        let spellings: Vec<&str> = tokenizer.special_spellings().collect();
        for spelling in spellings.iter().filter(|s| tokenizer.special_id(s).is_some()) {
            for text in [
                (*spelling).to_owned(),
                format!("a {spelling}\n"),
                format!("{spelling}{spelling}"),
            ] {
                let ids = tokenizer.encode_plain(&text).unwrap();
                let special = ids.iter().find(|id| tokenizer.special_text(**id).is_some());
                assert_eq!(special, None, "{name} {text:?}");
                assert_eq!(tokenizer.decode(&ids), text, "{name}");
                let trusted = tokenizer
                    .encode(&[Segment::Template((*spelling).to_owned())])
                    .unwrap();
                assert_eq!(
                    trusted,
                    [tokenizer.special_id(spelling).unwrap()],
                    "{name} {spelling:?}"
                );
            }
        }
    }
}

#[test]
fn long_runs_are_encoded_and_survive() {
    let units = [
        " ",
        "a",
        "A",
        "1",
        "\n",
        "!",
        "é",
        "漢",
        "🙂",
        "<",
        " a",
        " \n",
        "'s",
        "\u{301}",
        "aA",
        "<|im_start|>",
    ];
    for (name, tokenizer) in vocabularies() {
        for unit in units {
            let text = format!("{}x", unit.repeat((100 << 10) / unit.len()));
            let ids = tokenizer
                .encode_plain(&text)
                .unwrap_or_else(|e| panic!("{name} {unit:?}: {e}"));
            assert!(tokenizer.decode(&ids) == text, "{name} {unit:?}");
        }
    }
}

fn hard_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "(?s).{0,12}",
        2 => "[ -~]{0,12}",
        1 => "[ \\t\\r\\n]{0,6}",
        1 => "[0-9]{0,7}",
        1 => "[äöüßéñçâœ¿¡«»’]{0,6}",
        1 => Just("<|im_end|></s><0x0A>[INST]<table>".to_owned()),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_gives_the_text_back(text in hard_text()) {
        for (name, tokenizer) in vocabularies() {
            // Some vocabularies lack bytes, and refuse text with them: never lost.
            match tokenizer.encode_plain(&text) {
                Ok(ids) => {
                    prop_assert!(ids.iter().all(|&id| tokenizer.special_text(id).is_none()), "{}", name);
                    prop_assert_eq!(tokenizer.decode(&ids), as_decoded(name, &text), "{}", name);
                }
                Err(error) => prop_assert!(error.to_string().contains("has no token for the byte"), "{}", error),
            }
        }
    }
}
