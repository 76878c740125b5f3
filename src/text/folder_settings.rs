//! Reads the JSON files of a Hugging Face folder that stand beside the vocabulary.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    error::{TokenizerError, invalid},
    parts::MAX_VOCAB,
};
use crate::files;

/// Most bytes of one file beside the weights. The largest known `tokenizer.json` has 35 MB, and takes ten times that as
/// JSON in memory.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// The settings beside the vocabulary.
pub(super) struct Settings {
    /// `tokenizer_config.json`, or null.
    pub config: Value,
    generation: Value,
    model_config: Value,
}

impl Settings {
    /// Reads the settings of a folder. Files that do not exist count as empty.
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let json = |name: &str| Ok(read_json(folder, name)?.unwrap_or(Value::Null));
        Ok(Self {
            config: json("tokenizer_config.json")?,
            generation: json("generation_config.json")?,
            model_config: json("config.json")?,
        })
    }

    /// End tokens that the files declare, sorted. `id_of` finds a token by its spelling.
    pub(super) fn end_tokens(&self, id_of: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
        let mut end_tokens = ids(&self.generation["eos_token_id"]);
        end_tokens.extend(ids(&self.model_config["eos_token_id"]));
        end_tokens.extend(token_text(&self.config["eos_token"]).and_then(id_of));
        end_tokens.sort_unstable();
        end_tokens.dedup();
        end_tokens
    }

    /// The token in front of raw text, or none; `None` when the files do not say.
    pub(super) fn bos_for_raw(&self, id_of: impl Fn(&str) -> Option<u32>) -> Option<Option<u32>> {
        match self.config["add_bos_token"].as_bool()? {
            true => Some(token_text(&self.config["bos_token"]).and_then(id_of)),
            false => Some(None),
        }
    }
}

/// The spelling of a token, which is written as `"</s>"` or as `{"content": "</s>", ...}`.
pub(super) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn ids(value: &Value) -> Vec<u32> {
    match value {
        Value::Array(list) => list.iter().filter_map(token_id).collect(),
        other => token_id(other).into_iter().collect(),
    }
}

/// A token id below [`MAX_VOCAB`].
pub(super) fn token_id(value: &Value) -> Option<u32> {
    value
        .as_u64()
        .filter(|&id| id < MAX_VOCAB as u64)
        .and_then(|id| u32::try_from(id).ok())
}

/// Reads a JSON object from a file of the folder; `None` when there is no such file.
pub(super) fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, TokenizerError> {
    let path = folder.join(name);
    let bytes = match files::read(&path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(invalid(format!("{}: {e}", path.display()))),
    };
    serde_json::from_slice::<Map<String, Value>>(&bytes)
        .map(|map| Some(Value::Object(map)))
        .map_err(|e| invalid(format!("{}: {e}", path.display())))
}
