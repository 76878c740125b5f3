//! Pre-tokenisers of GGUF files, which only name them (`tokenizer.ggml.pre`).
//!
//! The patterns are those of the models' own `tokenizer.json`, or those of llama.cpp if a name stands for no model.

use serde_json::{Value, json};

use super::spm::SPACE;

/// How text is split into words before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's pattern.
    Gpt2,
    /// GPT-2's pattern on text in Unicode normal form C.
    Mpt,
    /// Each digit is a word, then GPT-2's pattern.
    DigitsGpt2,
    /// Like [`PreTokenizer::DigitsGpt2`], on text in Unicode normal form C.
    CommandR,
    /// Llama 3: numbers are split into up to three digits.
    Llama3,
    /// Qwen 2 and 3: each digit is a word, on text in Unicode normal form C.
    Qwen2,
    /// Qwen 3.5: marks belong to words.
    Qwen35,
    /// Mistral's tekken: words are split by case, and each digit is a word.
    Tekken,
    /// GPT-4o: words are split by case and have contractions, numbers are split into up to three digits.
    Gpt4o,
    /// DeepSeek Coder: a sequence of splits.
    DeepSeekCoder,
    /// DeepSeek LLM: a sequence of splits by script.
    DeepSeekLlm,
    /// DeepSeek V3: splits numbers into up to three digits, then Chinese and Japanese, then words with marks.
    DeepSeekV3,
    /// Falcon: splits punctuation, then by GPT-2's pattern, then numbers into three digits.
    Falcon,
    /// What llama.cpp uses for files whose converter did not know the model's pre-tokeniser.
    Default,
    /// Gemma 4: SentencePiece's spaces and bytes, without words.
    Gemma4,
}

/// What the name of a pre-tokeniser says about a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreFacts {
    pub pre: PreTokenizer,
    /// Whether a whole word that is a token becomes that token, whatever the merges are.
    pub ignore_merges: bool,
    /// Whether raw text begins with the bos token, unless the file says otherwise.
    pub adds_bos: bool,
}

/// Each pre-tokeniser with its names in GGUF files, and its `ignore_merges` and `adds_bos`.
const NAMES: &[(PreTokenizer, &[&str], bool, bool)] = {
    use PreTokenizer::*;
    &[
        (Default, &["default"], false, false),
        (
            Gpt2,
            &["gpt-2", "gpt2", "phi-2", "olmo", "jais", "exaone4"],
            false,
            false,
        ),
        (Mpt, &["mpt"], false, false),
        (
            DigitsGpt2,
            &[
                "smollm",
                "starcoder",
                "refact",
                "codeshell",
                "exaone",
                "minerva-7b",
            ],
            false,
            false,
        ),
        (CommandR, &["command-r"], false, false),
        (
            Llama3,
            &[
                "llama3",
                "llama-v3",
                "llama-bpe",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "lfm2",
            ],
            true,
            true,
        ),
        (Llama3, &["glm4", "glm5"], true, false),
        (Llama3, &["dbrx", "smaug-bpe", "chatglm-bpe"], false, false),
        (Qwen2, &["qwen2", "deepseek-r1-qwen", "megrez"], false, false),
        (Qwen35, &["qwen35"], false, false),
        (Tekken, &["tekken"], true, true),
        (Gpt4o, &["gpt-4o", "llama4"], false, false),
        (DeepSeekCoder, &["deepseek-coder"], false, false),
        (DeepSeekLlm, &["deepseek-llm"], false, false),
        (DeepSeekV3, &["deepseek-v3"], false, false),
        (Falcon, &["falcon"], false, false),
        (Gemma4, &["gemma4"], false, true),
    ]
};

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek LLM's own list of letters with case.
const DEEPSEEK_LLM_WORDS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_HAN: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

impl PreTokenizer {
    /// Finds a pre-tokeniser by its name in GGUF files.
    pub(super) fn by_name(name: &str) -> Option<PreFacts> {
        let found = NAMES.iter().find(|(_, names, ..)| names.contains(&name));
        found.map(|&(pre, _, ignore_merges, adds_bos)| PreFacts {
            pre,
            ignore_merges,
            adds_bos,
        })
    }

    /// All names, for error messages.
    pub(super) fn supported() -> String {
        let names = NAMES.iter().flat_map(|(_, names, ..)| *names);
        names.copied().collect::<Vec<_>>().join(", ")
    }

    /// The normaliser, in the form of `tokenizer.json`.
    pub(super) fn normalizer(self) -> Value {
        match self {
            Self::CommandR | Self::Qwen2 | Self::Mpt => json!({"type": "NFC"}),
            Self::Gemma4 => {
                json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()})
            }
            _ => Value::Null,
        }
    }

    /// The pre-tokeniser, in the form of `tokenizer.json`.
    pub(super) fn pre_tokenizer(self) -> Value {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let mut steps = match self {
            Self::Gpt2 | Self::Mpt => vec![split(GPT2)],
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
                split(DEEPSEEK_HAN),
                digits,
            ],
            Self::DeepSeekLlm => vec![
                split(r"[\r\n]"),
                split(DEEPSEEK_LLM_WORDS),
                split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                split(r"\s+$"),
                split(DEEPSEEK_HAN),
                split(r"\p{N}+"),
            ],
            Self::DeepSeekV3 => vec![
                split(r"\p{N}{1,3}"),
                split("[一-龥぀-ゟ゠-ヿ]+"),
                split(DEEPSEEK_V3),
            ],
            Self::Falcon => vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                split(GPT2),
                split("[0-9][0-9][0-9]"),
            ],
            Self::Default => vec![
                split(r"[\p{P}\$\+<=>\^~\|]+"),
                split(GPT2),
                split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"),
            ],
            Self::Gemma4 => return Value::Null,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tokenizers.md");
        let document = std::fs::read_to_string(path).unwrap();
        let supported = PreTokenizer::supported();
        let names: Vec<&str> = supported.split(", ").collect();
        for name in &names {
            assert!(document.contains(&format!("`{name}`")), "{name} is not in {path}");
            assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
        }
    }
}
