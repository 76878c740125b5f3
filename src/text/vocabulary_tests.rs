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

/// The text that decoding gives for the tokens of a text. Some vocabularies use normal form C, and SentencePiece's spelling
/// of the space becomes a space.
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
            // Some vocabularies do not have all bytes. Text with the others is refused, and never left out.
            match tokenizer.encode_plain(&text) {
                Ok(ids) => {
                    prop_assert!(ids.iter().all(|&id| tokenizer.special_text(id).is_none()), "{}", name);
                    prop_assert_eq!(tokenizer.decode(&ids), as_decoded(name, &text), "{}", name);
                }
                Err(error) => {
                    let TokenizerError::NotEncodable(lost) = error else { panic!("{name}: {error}") };
                    prop_assert!(text.contains(lost), "{} U+{:04X}", name, u32::from(lost));
                    let (found, position) = tokenizer.find_not_encodable(&text).unwrap();
                    prop_assert_eq!(text.chars().nth(position), Some(found));
                }
            }
        }
    }

    #[test]
    fn words_one_by_one_are_the_words_of_the_whole_text(text in hard_text(), tail in "[ \\n!a]{0,8}") {
        static WHOLE: LazyLock<Vec<Tokenizer>> =
            LazyLock::new(|| WITH_VECTORS.iter().map(|name| open(name).without_streaming()).collect());
        let text = text + &tail;
        for ((name, tokenizer), whole) in vocabularies().iter().zip(WHOLE.iter()) {
            match (tokenizer.encode_plain(&text), whole.encode_plain(&text)) {
                (Ok(ids), Ok(expected)) => prop_assert_eq!(ids, expected, "{}", name),
                (Err(found), Err(expected)) => {
                    prop_assert_eq!(found.to_string(), expected.to_string(), "{}", name);
                }
                (found, expected) => prop_assert!(false, "{}: {:?} {:?}", name, found, expected),
            }
        }
    }

    #[test]
    fn a_text_has_no_fewer_tokens_than_its_bytes_say(text in hard_text(), unit in "(?s).{1,3}", times in 1usize..400) {
        for text in [text, unit.repeat(times)] {
            for (name, tokenizer) in vocabularies() {
                let Ok(ids) = tokenizer.encode_plain(&text) else { continue };
                prop_assert!(tokenizer.least_tokens(&text) <= ids.len(), "{} {:?}", name, text);
                // The same holds if a text follows another.
                let before = tokenizer.encode_plain("a b  ").unwrap().len();
                let both = tokenizer.encode_plain(&format!("a b  {text}")).unwrap().len();
                prop_assert!(tokenizer.least_tokens(&text) <= both, "{} {:?} {}", name, text, before);
                let watch = Watch::default();
                let within = |tokens| tokenizer.encode_plain_within(&text, Allowance { tokens, watch: &watch });
                prop_assert_eq!(&within(ids.len()).unwrap(), &ids);
                if ids.is_empty() {
                    continue;
                }
                match within(ids.len() - 1) {
                    Err(TokenizerError::TooLong(TokenCount::Exactly(count))) => prop_assert_eq!(count, ids.len()),
                    Err(TokenizerError::TooLong(TokenCount::AtLeast(count))) => prop_assert!(count <= ids.len()),
                    other => prop_assert!(false, "{} {:?}", name, other),
                }
            }
        }
    }
}

#[test]
fn bytes_say_how_long_a_text_is_for_all_but_those_that_lose_some() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(2000);
    for (name, tokenizer) in vocabularies() {
        let (least, tokens) = (
            tokenizer.least_tokens(&text),
            tokenizer.encode_plain(&text).unwrap().len(),
        );
        match *name {
            // Whitespace after its special tokens belongs to them.
            "phi-3" => assert_eq!(least, 0),
            // Its first step is not supported by the splitter, so text is encoded as a whole.
            "falcon" => assert_eq!(least, 0),
            _ => assert!(least * 8 > tokens, "{name}: {least} of {tokens}"),
        }
    }
}

#[test]
fn a_text_that_is_too_long_is_not_read_to_its_end() {
    let watch = Watch::default();
    let allowance = Allowance {
        tokens: 100,
        watch: &watch,
    };
    for (name, tokenizer) in vocabularies() {
        for unit in ["The quick brown fox. ", "漢字", "e\u{301}", " \n", "0"] {
            let text = unit.repeat((1 << 20) / unit.len());
            match tokenizer.encode_plain_within(&text, allowance) {
                Err(TokenizerError::TooLong(TokenCount::AtLeast(count))) => assert!(count > 100),
                // Text that is encoded as a whole is counted as a whole.
                Err(TokenizerError::TooLong(TokenCount::Exactly(_))) => {}
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn encoding_ends_when_nobody_waits() {
    let watch = Watch::default();
    watch.cancel();
    let allowance = Allowance {
        tokens: usize::MAX,
        watch: &watch,
    };
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(1000);
    for (name, tokenizer) in vocabularies() {
        let ended = tokenizer.encode_plain_within(&text, allowance);
        assert!(matches!(ended, Err(TokenizerError::Stopped)), "{name}: {ended:?}");
    }
}
