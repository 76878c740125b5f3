//! Pre-tokenisers of GGUF files, which name them (`tokenizer.ggml.pre`) but do not carry them.
//!
//! The patterns are those of the models' own `tokenizer.json`.

use serde_json::{Value, json};

/// How byte-level text is cut into words before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's pattern.
    Gpt2,
    /// Each digit alone, then GPT-2's pattern.
    DigitsGpt2,
    /// As [`PreTokenizer::DigitsGpt2`], on text in Unicode normal form C.
    CommandR,
    /// Llama 3: numbers in threes.
    Llama3,
    /// Qwen 2 and 3, normal form C: each digit alone.
    Qwen2,
    /// Qwen 3.5: marks belong to words.
    Qwen35,
    /// Mistral's tekken: words by case, each digit alone.
    Tekken,
    /// GPT-4o: words by case with contractions, numbers in threes.
    Gpt4o,
    /// DeepSeek Coder: a sequence of splits.
    DeepSeekCoder,
    /// Falcon: punctuation alone, then GPT-2's pattern, then numbers in threes.
    Falcon,
}

/// Facts that a GGUF file implies by the name of its pre-tokeniser.
pub(super) struct PreFacts {
    pub pre: PreTokenizer,
    /// A whole word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Raw text starts with the bos token, unless the file says otherwise.
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// Looks a name up.
    pub(super) fn by_name(name: &str) -> Option<PreFacts> {
        let (pre, ignore_merges, adds_bos) = match name {
            "gpt-2" | "gpt2" | "default" | "phi-2" | "mpt" | "olmo" | "jais" | "exaone4" => {
                (Self::Gpt2, false, false)
            }
            "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => {
                (Self::DigitsGpt2, false, false)
            }
            "command-r" => (Self::CommandR, false, false),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "lfm2" => {
                (Self::Llama3, true, true)
            }
            "dbrx" | "smaug-bpe" => (Self::Llama3, false, false),
            "qwen2" | "deepseek-r1-qwen" | "megrez" => (Self::Qwen2, false, false),
            "qwen35" => (Self::Qwen35, false, false),
            "tekken" => (Self::Tekken, true, true),
            "gpt-4o" | "llama4" => (Self::Gpt4o, false, false),
            "deepseek-coder" => (Self::DeepSeekCoder, false, false),
            "falcon" => (Self::Falcon, false, false),
            _ => return None,
        };
        Some(PreFacts {
            pre,
            ignore_merges,
            adds_bos,
        })
    }

    /// The normaliser, in the form of `tokenizer.json`.
    pub(super) fn normalizer(self) -> Value {
        match self {
            Self::CommandR | Self::Qwen2 => json!({"type": "NFC"}),
            _ => Value::Null,
        }
    }

    /// The pre-tokeniser, in the form of `tokenizer.json`.
    pub(super) fn pre_tokenizer(self) -> Value {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let mut steps = match self {
            Self::Gpt2 => vec![split(GPT2)],
            Self::DigitsGpt2 | Self::CommandR => vec![digits, split(GPT2)],
            Self::Llama3 => vec![split(LLAMA3)],
            Self::Qwen2 => vec![split(QWEN2)],
            Self::Qwen35 => vec![split(QWEN35)],
            Self::Tekken => vec![split(TEKKEN)],
            Self::Gpt4o => vec![split(GPT4O)],
            Self::DeepSeekCoder => vec![
                split(r"[\r\n]"),
                split(r"\s?\p{L}+"),
                split(r"\s?\p{P}+"),
                split("[一-龥ࠀ-一가-\u{d7ff}]+"),
                digits,
            ],
            Self::Falcon => vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                split(GPT2),
                split("[0-9][0-9][0-9]"),
            ],
        };
        steps.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        }));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}
