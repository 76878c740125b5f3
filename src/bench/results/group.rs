//! `runs.json`: the runs of several targets, or with prompts by several translators, in one folder.

use serde::{Deserialize, Serialize};

use super::{
    folder::{FolderError, RunFolder},
    json::pretty_json,
};

/// The version of the file's format.
const FORMAT: &str = "babelward-runs/1";

const NAME: &str = "runs.json";

/// Runs that belong together. The file is written when all of them have begun, so that either all can be resumed or none
/// has sent a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunGroup {
    format: String,
    /// The runs, in the order in which they are made.
    pub runs: Vec<GroupRun>,
}

/// One run of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRun {
    /// The model id of the target.
    pub target: String,
    /// The translator of the run's prompts; absent unless the runs differ in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translator: Option<String>,
    /// The name of the run's folder inside the group's folder.
    pub folder: String,
}

impl GroupRun {
    /// The name of the run for people.
    pub fn title(&self) -> String {
        match &self.translator {
            Some(translator) => format!("{}, prompts by {translator}", self.target)
                .trim_start_matches(", ")
                .to_owned(),
            None => self.target.clone(),
        }
    }
}

impl RunGroup {
    /// Makes a group of runs, in their order.
    pub fn new(runs: Vec<GroupRun>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            runs,
        }
    }

    /// Reads the group of a folder; `None` where there is none.
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

    /// Writes the group into a folder.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn write(&self, folder: &RunFolder) -> Result<(), FolderError> {
        folder.write(NAME, &pretty_json(self))
    }
}
