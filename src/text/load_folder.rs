//! Loads the tokenizer of a Hugging Face folder: `tokenizer.json`, or else `tokenizer.model`, with the settings of
//! `tokenizer_config.json`, `generation_config.json` and `config.json`.

use std::{collections::HashSet, path::Path};

use serde_json::Value;
use tokenizers::models::bpe::Vocab;

use super::{
    added::{AddedKind, AddedToken},
    byte_level::ByteAlphabet,
    error::{TokenizerError, invalid},
    folder_settings::{Settings, read_json, token_id},
    load_gguf::split_merge,
    load_model,
    parts::{MAX_VOCAB, Parts, TokenBytes},
    pipeline::{BpeSpec, Pipeline, PlainEncoder, PreTokenizers, Spelling, WordModel},
    spm::piece_bytes,
    unigram,
};
use crate::digest;

/// Normalisers that models use and that cannot fail with hostile parameters.
const NORMALIZERS: [&str; 9] = [
    "Sequence",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Prepend",
    "Replace",
    "Strip",
    "Lowercase",
];
/// SentencePiece's own table. Only unigram models may have it, because they are protected against a damaged one.
const PRECOMPILED: &str = "Precompiled";
/// Pre-tokenisers that models use and that cannot fail with hostile parameters.
const PRE_TOKENIZERS: [&str; 8] = [
    "Sequence",
    "ByteLevel",
    "Split",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
];

/// The kind of model that turns words into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelKind {
    Bpe,
    Unigram,
}

impl ModelKind {
    fn of(model: &Value) -> Result<Self, TokenizerError> {
        match model["type"].as_str() {
            // Older files do not name the type; their model is BPE.
            None | Some("BPE") => Ok(Self::Bpe),
            Some("Unigram") => Ok(Self::Unigram),
            Some(kind) => Err(invalid(format!(
                "model.type is `{kind}`; `BPE` and `Unigram` are supported"
            ))),
        }
    }
}

/// Reads everything that a tokenizer needs.
pub(super) fn parts(folder: &Path) -> Result<Parts, TokenizerError> {
    let settings = Settings::read(folder)?;
    let Some(json) = read_json(folder, "tokenizer.json")? else {
        return load_model::parts(folder, &settings)?.ok_or_else(|| {
            invalid(format!(
                "{}/tokenizer.json is missing, and there is no tokenizer.model either",
                folder.display()
            ))
        });
    };
    let model = &json["model"];
    let kind = ModelKind::of(model)?;
    let vocab = match kind {
        ModelKind::Bpe => vocabulary(model)?,
        ModelKind::Unigram => unigram::vocabulary(model)?,
    };
    let added = added_tokens(&json)?;
    let (spelling, strips_leading_space) = spelling(&json["decoder"])?;
    let id_of = |text: &str| {
        let added = added.iter().find(|t| t.text == text).map(|t| t.id);
        added.or_else(|| vocab.get(text).copied())
    };
    let bos_for_raw = settings
        .bos_for_raw(id_of)
        .unwrap_or_else(|| leading_token(&json["post_processor"]).and_then(id_of));
    let end_tokens = settings.end_tokens(id_of);
    let bytes = token_bytes(&vocab, &added, spelling)?;
    Ok(Parts {
        digest: digest::of_bytes(format!("{json}\n{bos_for_raw:?}\n{end_tokens:?}")),
        plain: PlainEncoder::Pipeline(Box::new(pipeline(&json, vocab, &added, kind, spelling)?)),
        added,
        bytes,
        bos_for_raw,
        end_tokens,
        strips_leading_space,
    })
}

fn pipeline(
    json: &Value,
    vocab: Vocab,
    added: &[AddedToken],
    kind: ModelKind,
    spelling: Spelling,
) -> Result<Pipeline, TokenizerError> {
    let (normalizer, pre_tokenizer) = (&json["normalizer"], &json["pre_tokenizer"]);
    match kind {
        ModelKind::Bpe => check_types(normalizer, &NORMALIZERS)?,
        ModelKind::Unigram => check_types(normalizer, &[&NORMALIZERS[..], &[PRECOMPILED]].concat())?,
    }
    if kind == ModelKind::Unigram && !unigram::marks_spaces(pre_tokenizer) {
        return Err(invalid("a Unigram model needs a pre_tokenizer with Metaspace"));
    }
    check_types(pre_tokenizer, &PRE_TOKENIZERS)?;
    let words = match kind {
        ModelKind::Bpe => bpe(&json["model"], vocab, added)?,
        ModelKind::Unigram => unigram::model(&json["model"], added)?,
    };
    let later = after_special(pre_tokenizer.clone());
    let pre_tokenizers = PreTokenizers {
        first: pre_tokenizer,
        later: &later,
    };
    Pipeline::new(normalizer, pre_tokenizers, words, spelling)
}

fn bpe(model: &Value, vocab: Vocab, added: &[AddedToken]) -> Result<WordModel, TokenizerError> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[key].as_str().is_some_and(|s| !s.is_empty()) {
            return Err(invalid(format!("model.{key} is not supported")));
        }
    }
    let merges = model["merges"]
        .as_array()
        .ok_or_else(|| invalid("model.merges is not an array"))?
        .iter()
        .enumerate()
        .map(|(rank, merge)| merge_pair(merge).ok_or_else(|| invalid(format!("merge {rank} is not a pair"))))
        .collect::<Result<Vec<_>, _>>()?;
    let never: HashSet<&str> = added
        .iter()
        .filter(|t| t.kind != AddedKind::Text)
        .map(|t| t.text.as_str())
        .collect();
    let flag = |key: &str| model[key].as_bool().unwrap_or(false);
    BpeSpec {
        vocab,
        merges,
        unknown: model["unk_token"].as_str().map(str::to_owned),
        fuse_unknown: flag("fuse_unk"),
        byte_fallback: flag("byte_fallback"),
        ignore_merges: flag("ignore_merges"),
    }
    .build(&never)
}

fn merge_pair(merge: &Value) -> Option<(String, String)> {
    match merge {
        Value::String(text) => split_merge(text),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] if !left.is_empty() && !right.is_empty() => {
                Some((left.clone(), right.clone()))
            }
            _ => None,
        },
        _ => None,
    }
}

fn vocabulary(model: &Value) -> Result<Vocab, TokenizerError> {
    model["vocab"]
        .as_object()
        .ok_or_else(|| invalid("model.vocab is not an object"))?
        .iter()
        .map(|(text, id)| match token_id(id) {
            Some(id) => Ok((text.clone(), id)),
            None => Err(invalid(format!(
                "the id of token `{text}` is not a number below {MAX_VOCAB}"
            ))),
        })
        .collect()
}

fn added_tokens(json: &Value) -> Result<Vec<AddedToken>, TokenizerError> {
    let list = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|entry| {
            let text = entry["content"].as_str().filter(|t| !t.is_empty());
            let (Some(text), Some(id)) = (text, token_id(&entry["id"])) else {
                return Err(invalid("an entry of added_tokens has no content or no valid id"));
            };
            let flag = |key: &str| entry[key].as_bool().unwrap_or(false);
            if flag("single_word") {
                return Err(invalid(format!(
                    "added token `{text}` is single_word, which is not supported"
                )));
            }
            Ok(AddedToken {
                id,
                text: text.to_owned(),
                kind: if flag("special") {
                    AddedKind::Control
                } else {
                    AddedKind::of_user_defined(text)
                },
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
            })
        })
        .collect()
}

fn token_bytes(
    vocab: &Vocab,
    added: &[AddedToken],
    spelling: Spelling,
) -> Result<TokenBytes, TokenizerError> {
    let ids = vocab.values().copied().chain(added.iter().map(|t| t.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    let mut spellings: Vec<Option<&str>> = vec![None; size];
    for (text, &id) in vocab {
        spellings[id as usize] = Some(text);
    }
    let mut overrides: Vec<Option<&AddedToken>> = vec![None; size];
    for token in added {
        overrides[token.id as usize] = Some(token);
    }
    let alphabet = ByteAlphabet::new();
    let mut bytes = TokenBytes::default();
    for (text, added) in spellings.iter().zip(overrides) {
        bytes.push(|out| match (added, text, spelling) {
            (Some(token), ..) if token.kind == AddedKind::Control => {}
            (Some(token), ..) => out.extend_from_slice(token.text.as_bytes()),
            (None, Some(text), Spelling::ByteLevel) => alphabet.decode(text, out),
            (None, Some(text), Spelling::SentencePiece) => piece_bytes(text, out),
            (None, None, _) => {}
        });
    }
    Ok(bytes)
}

/// How tokens spell bytes, and whether the decoder removes the first space of a text.
fn spelling(decoder: &Value) -> Result<(Spelling, bool), TokenizerError> {
    let steps = steps(decoder, "decoders");
    let has = |name: &str| steps.iter().any(|s| s["type"] == name);
    if has("ByteLevel") {
        return Ok((Spelling::ByteLevel, false));
    }
    if !has("ByteFallback") && !has("Metaspace") {
        return Err(invalid(
            "the decoder is neither ByteLevel nor ByteFallback nor Metaspace",
        ));
    }
    let strips = steps.iter().any(|step| match step["type"].as_str() {
        Some("Strip") => step["content"] == " " && step["start"].as_u64().is_some_and(|n| n > 0),
        Some("Metaspace") => step["prepend_scheme"] != "never" && step["add_prefix_space"] != false,
        _ => false,
    });
    Ok((Spelling::SentencePiece, strips))
}

/// The members of a sequence, or the component itself if it is none.
fn steps<'a>(component: &'a Value, members: &str) -> Vec<&'a Value> {
    match component[members].as_array() {
        Some(list) => list.iter().flat_map(|step| steps(step, members)).collect(),
        None if component.is_null() => Vec::new(),
        None => vec![component],
    }
}

fn check_types(component: &Value, known: &[&str]) -> Result<(), TokenizerError> {
    match component {
        Value::Object(map) => {
            if let Some(kind) = map.get("type").and_then(Value::as_str)
                && !known.contains(&kind)
            {
                return Err(invalid(format!("the component `{kind}` is not supported")));
            }
            map.values().try_for_each(|value| check_types(value, known))
        }
        Value::Array(list) => list.iter().try_for_each(|value| check_types(value, known)),
        _ => Ok(()),
    }
}

/// The pre-tokeniser for text that does not begin the prompt. One that adds a space in front of the first piece only adds
/// none here.
fn after_special(mut pre_tokenizer: Value) -> Value {
    fn visit(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if let Some(scheme) = map.get_mut("prepend_scheme").filter(|s| **s == "first") {
                    *scheme = "never".into();
                }
                map.values_mut().for_each(visit);
            }
            Value::Array(list) => list.iter_mut().for_each(visit),
            _ => {}
        }
    }
    visit(&mut pre_tokenizer);
    pre_tokenizer
}

/// The token that the post-processor puts in front of a single text.
fn leading_token(post_processor: &Value) -> Option<&str> {
    steps(post_processor, "processors")
        .into_iter()
        .filter(|step| step["type"] == "TemplateProcessing")
        .find_map(|step| step["single"][0]["SpecialToken"]["id"].as_str())
}
