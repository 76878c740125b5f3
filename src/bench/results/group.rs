//! `runs.json`: the runs of several targets, or of prompts by several translators, in one folder.

use serde::{Deserialize, Serialize};

use super::{FolderError, RunFolder, pretty};

/// Version of the file.
const FORMAT: &str = "babelward-runs/1";

const NAME: &str = "runs.json";

impl GroupRun {
    /// What to call it.
    pub fn title(&self) -> String {
        match &self.translator {
            Some(translator) => format!("{}, prompts by {translator}", self.target)
                .trim_start_matches(", ")
                .to_owned(),
            None => self.target.clone(),
        }
    }
}

/// Runs that belong together. Written when all of them have begun, so that either all can be gone on with or none has
/// asked anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunGroup {
    format: String,
    /// In the order in which they are made.
    pub runs: Vec<GroupRun>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRun {
    /// Model id of its target.
    pub target: String,
    /// Who translated its prompts, where the runs differ in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translator: Option<String>,
    /// Its folder, in that of the group.
    pub folder: String,
}

impl RunGroup {
    /// Of runs in their order.
    pub fn new(runs: Vec<GroupRun>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            runs,
        }
    }

    /// Reads a folder's; `None` where there is none.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn read(folder: &RunFolder) -> Result<Option<Self>, FolderError> {
        if !folder.file(NAME).exists() {
            return Ok(None);
        }
        let group: Self = folder.parse(NAME, 1, &folder.read(NAME)?)?;
        if group.format != FORMAT {
            let message = format!("the format is `{}`, this program reads `{FORMAT}`", group.format);
            return Err(folder.invalid(NAME, 1, message));
        }
        Ok(Some(group))
    }

    /// Writes a folder's.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn write(&self, folder: &RunFolder) -> Result<(), FolderError> {
        folder.write(NAME, &pretty(self))
    }
}
