//! Loads the tokenizer of a folder that has SentencePiece's own `tokenizer.model` and no `tokenizer.json`.
//!
//! Format: <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>. Only BPE without
//! normalisation rules is supported; chat models use nothing else.

use std::{collections::BTreeMap, path::Path};

use prost::Message;
use serde_json::Value;

use super::{
    added::{AddedKind, AddedToken},
    error::{TokenizerError, invalid},
    folder_settings::{MAX_FILE_BYTES, Settings, token_id},
    parts::{MAX_VOCAB, Parts, TokenBytes},
    pipeline::PlainEncoder,
    spm::{SPACE, ScoredMerges, piece_bytes},
};
use crate::{digest, files};

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceType", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum PieceType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// `TrainerSpec.ModelType`.
const BPE: i32 = 2;

/// Reads everything that a tokenizer needs; `None` when there is no such file.
pub(super) fn parts(folder: &Path, settings: &Settings) -> Result<Option<Parts>, TokenizerError> {
    let path = folder.join("tokenizer.model");
    let bytes = match files::read(&path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(invalid(format!("{}: {e}", path.display()))),
    };
    let wrong = |reason: String| invalid(format!("{}: {reason}", path.display()));
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| wrong(e.to_string()))?;
    if model.pieces.len() > MAX_VOCAB {
        return Err(wrong(format!("{} pieces", model.pieces.len())));
    }
    let adds_space = adds_space(&model).map_err(wrong)?;
    let added = added(&model, settings)?;
    let id_of = |text: &str| {
        let found = added.iter().find(|(_, token)| token.text == text);
        found.map(|(id, _)| *id)
    };
    let mut end_tokens = settings.end_tokens(id_of);
    let eos = model.trainer.as_ref().and_then(|t| t.eos_id).unwrap_or(2);
    end_tokens.extend(u32::try_from(eos).ok().filter(|id| is_control(&added, *id)));
    end_tokens.sort_unstable();
    end_tokens.dedup();
    let bos_for_raw = settings.bos_for_raw(id_of).unwrap_or(None);
    Ok(Some(Parts {
        digest: digest::of_bytes(
            [
                &bytes[..],
                format!("{bos_for_raw:?}\n{end_tokens:?}\n{added:?}").as_bytes(),
            ]
            .concat(),
        ),
        plain: PlainEncoder::Scored(Box::new(merges(&model, &added, adds_space)?)),
        bytes: token_bytes(&model, &added),
        added: added.into_values().collect(),
        bos_for_raw,
        end_tokens,
        strips_leading_space: adds_space,
    }))
}

/// Whether a space is added in front of text. Refuses settings that are not supported and would change the tokens.
fn adds_space(model: &ModelProto) -> Result<bool, String> {
    let trainer = model.trainer.clone().unwrap_or_default();
    if trainer.model_type != Some(BPE) {
        return Err("only BPE is supported, and this is another kind of SentencePiece model".into());
    }
    let normalizer = model.normalizer.clone().unwrap_or_default();
    let unsupported = [
        (
            normalizer.precompiled_charsmap.is_some_and(|map| !map.is_empty()),
            "precompiled_charsmap",
        ),
        (
            normalizer.remove_extra_whitespaces != Some(false),
            "remove_extra_whitespaces",
        ),
        (
            normalizer.escape_whitespaces == Some(false),
            "escape_whitespaces: false",
        ),
        (
            trainer.treat_whitespace_as_suffix == Some(true),
            "treat_whitespace_as_suffix",
        ),
    ];
    match unsupported.iter().find(|(found, _)| *found) {
        Some((_, name)) => Err(format!("{name} is not supported")),
        None => Ok(normalizer.add_dummy_prefix.unwrap_or(true)),
    }
}

/// Added tokens by id. Those of `tokenizer_config.json` replace those of the model.
fn added(model: &ModelProto, settings: &Settings) -> Result<BTreeMap<u32, AddedToken>, TokenizerError> {
    let mut added = BTreeMap::new();
    let token = |id, text: String, kind| AddedToken {
        id,
        text,
        kind,
        lstrip: false,
        rstrip: false,
    };
    for (id, piece) in (0u32..).zip(&model.pieces) {
        let text = piece.piece().to_owned();
        match piece.kind() {
            PieceType::Control if !text.is_empty() => {
                added.insert(id, token(id, text, AddedKind::Control));
            }
            PieceType::UserDefined if !text.is_empty() => {
                let text = text.replace(SPACE, " ");
                let kind = AddedKind::of_user_defined(&text);
                added.insert(id, token(id, text, kind));
            }
            _ => {}
        }
    }
    let decoder = settings.config["added_tokens_decoder"].as_object();
    for (key, entry) in decoder.into_iter().flatten() {
        let id = key.parse::<u64>().ok().and_then(|id| token_id(&Value::from(id)));
        let text = entry["content"].as_str().filter(|t| !t.is_empty());
        let (Some(id), Some(text)) = (id, text) else {
            return Err(invalid(format!(
                "added_tokens_decoder: entry `{key}` has no content or no valid id"
            )));
        };
        let is_unknown = model
            .pieces
            .get(id as usize)
            .is_some_and(|p| p.kind() == PieceType::Unknown);
        if !is_unknown {
            let special = entry["special"].as_bool().unwrap_or(false);
            let kind = if special {
                AddedKind::Control
            } else {
                AddedKind::of_user_defined(text)
            };
            added.insert(id, token(id, text.to_owned(), kind));
        }
    }
    Ok(added)
}

fn is_control(added: &BTreeMap<u32, AddedToken>, id: u32) -> bool {
    added
        .get(&id)
        .is_some_and(|token| token.kind == AddedKind::Control)
}

fn merges(
    model: &ModelProto,
    added: &BTreeMap<u32, AddedToken>,
    adds_space: bool,
) -> Result<ScoredMerges, TokenizerError> {
    let unknown = model.pieces.iter().position(|p| p.kind() == PieceType::Unknown);
    let mut merges = ScoredMerges::new(unknown.map(|id| id as u32), adds_space);
    for (id, piece) in (0u32..).zip(&model.pieces) {
        let ordinary = matches!(piece.kind(), PieceType::Normal | PieceType::Byte);
        if ordinary && !added.contains_key(&id) {
            merges.add(id, piece.piece(), piece.score())?;
        }
    }
    Ok(merges)
}

fn token_bytes(model: &ModelProto, added: &BTreeMap<u32, AddedToken>) -> TokenBytes {
    let past_added = added.keys().next_back().map_or(0, |id| *id as usize + 1);
    let mut bytes = TokenBytes::default();
    for (id, index) in (0u32..).zip(0..model.pieces.len().max(past_added)) {
        bytes.push(|out| match (added.get(&id), model.pieces.get(index)) {
            (Some(token), _) if token.kind == AddedKind::Control => {}
            (Some(token), _) => out.extend_from_slice(token.text.as_bytes()),
            (None, Some(piece)) if matches!(piece.kind(), PieceType::Normal | PieceType::Byte) => {
                piece_bytes(piece.piece(), out);
            }
            (None, _) => {}
        });
    }
    bytes
}
