//! JSON files of a model's folder.

use std::path::Path;

use serde_json::Value as Json;

use super::error::{FileError, FileProblem};
use crate::files;

/// Name of a model's configuration in a Hugging Face folder.
pub(crate) const CONFIG: &str = "config.json";

/// Largest file that is read. Configurations have some kilobytes, indices of the largest models a few megabytes.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// The file `name` of a folder.
pub(crate) fn read_json(folder: &Path, name: &str) -> Result<Json, FileError> {
    let text = files::read_text(&folder.join(name), MAX_JSON_BYTES);
    let text = text.map_err(|error| FileProblem::Read(error).of(name))?;
    serde_json::from_str(&text).map_err(|error| FileProblem::Json(error).of(name))
}
