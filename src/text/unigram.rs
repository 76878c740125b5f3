//! Reads SentencePiece's unigram model (arXiv 1808.06226) from `tokenizer.json`. Encoders such as XLM-R and mT5 use it.

use serde_json::Value;
use tokenizers::models::{bpe::Vocab, unigram::Unigram};

use super::{
    added::{AddedKind, AddedToken},
    error::{TokenizerError, invalid},
    parts::MAX_VOCAB,
    pipeline::WordModel,
};

/// Reads the pieces with their log-probabilities. The id of a piece is its index.
fn pieces(model: &Value) -> Result<Vec<(String, f64)>, TokenizerError> {
    let list = model["vocab"].as_array();
    let list = list.ok_or_else(|| invalid("model.vocab is not an array of pieces"))?;
    if list.len() > MAX_VOCAB {
        return Err(invalid(format!(
            "{} pieces; at most {MAX_VOCAB} are supported",
            list.len()
        )));
    }
    let pieces = list
        .iter()
        .enumerate()
        .map(|(id, entry)| match (entry[0].as_str(), entry[1].as_f64()) {
            (Some(text), Some(score)) if !text.is_empty() && score.is_finite() => {
                Ok((text.to_owned(), score))
            }
            _ => Err(invalid(format!(
                "entry {id} of model.vocab is not a piece with a score"
            ))),
        });
    pieces.collect()
}

/// The ids of the pieces by spelling.
pub(super) fn vocabulary(model: &Value) -> Result<Vocab, TokenizerError> {
    let pieces = pieces(model)?;
    let ids = 0u32..;
    Ok(pieces
        .into_iter()
        .zip(ids)
        .map(|((text, _), id)| (text, id))
        .collect())
}

/// Reads the model. Special tokens keep their ids but get a spelling with a space, and the pre-tokeniser leaves no space in
/// a text, so that no user's text can become one of them.
pub(super) fn model(model: &Value, added: &[AddedToken]) -> Result<WordModel, TokenizerError> {
    let mut pieces = pieces(model)?;
    for token in added.iter().filter(|token| token.kind != AddedKind::Text) {
        if let Some((text, _)) = pieces.get_mut(token.id as usize) {
            *text = format!(" {}", token.id);
        }
    }
    let unknown = match &model["unk_id"] {
        Value::Null => None,
        id => {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
            Some(id.ok_or_else(|| invalid("model.unk_id is not an id"))?)
        }
    };
    let fallback = model["byte_fallback"].as_bool().unwrap_or(false);
    let unigram = Unigram::from(pieces, unknown, fallback);
    let unigram = unigram.map_err(|e| invalid(format!("pieces: {e}")))?;
    Ok(WordModel::Unigram(unigram, unknown.is_some()))
}

/// Whether any part of a pre-tokeniser turns spaces into `▁`.
pub(super) fn marks_spaces(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer {
        Value::Object(map) => {
            map.get("type").is_some_and(|kind| kind == "Metaspace") || map.values().any(marks_spaces)
        }
        Value::Array(list) => list.iter().any(marks_spaces),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::text::{Segment, Tokenizer};

    fn folder_with(json: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        folder
    }

    fn golden() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/comet/tokenizer.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        let mut json = golden();
        change(&mut json);
        let folder = folder_with(&json);
        Tokenizer::from_folder(folder.path()).err().unwrap().to_string()
    }

    #[test]
    fn text_that_spells_special_tokens_stays_text() {
        let folder = folder_with(&golden());
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let special = |id: u32| tokenizer.special_text(id).is_some_and(|text| text != "<unk>");
        for words in ["</s>", "a <s> b", "<mask>", "<pad>", " 0", " 2 "] {
            let ids = tokenizer.encode(&[Segment::Content(words.to_owned())]).unwrap();
            assert!(
                !ids.is_empty() && !ids.iter().any(|id| special(*id)),
                "{words}: {ids:?}"
            );
        }
        let trusted = tokenizer
            .encode(&[Segment::Template("<s></s>".to_owned())])
            .unwrap();
        assert_eq!(trusted, [0, 2]);
        assert_eq!(tokenizer.special_id("</s>"), Some(2));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        let cases = [
            (
                refusal(|t| t["model"]["vocab"] = json!({})),
                "model.vocab is not an array",
            ),
            (
                refusal(|t| t["model"]["vocab"][5] = json!(["x"])),
                "entry 5 of model.vocab",
            ),
            (
                refusal(|t| t["model"]["vocab"][5] = json!(["", 0.5])),
                "entry 5 of model.vocab",
            ),
            (refusal(|t| t["model"]["unk_id"] = json!(4096)), "pieces: "),
            (
                refusal(|t| t["model"]["unk_id"] = json!("x")),
                "model.unk_id is not an id",
            ),
            (refusal(|t| t["pre_tokenizer"] = Value::Null), "Metaspace"),
            (
                refusal(|t| t["model"]["type"] = json!("WordPiece")),
                "model.type is `WordPiece`",
            ),
        ];
        for (found, expected) in cases {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_damaged_table_of_the_normaliser_is_an_error() {
        let mut json = golden();
        // One entry of the table, which leads far behind its end; nothing to replace.
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAD///8="});
        let folder = folder_with(&json);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let found = tokenizer.encode_plain("é and words").unwrap_err().to_string();
        assert!(found.contains("damaged"), "{found}");
    }
}
