//! What became of each item, and the folder that keeps it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    dataset::{PromptId, Strata},
    plan::ItemKey,
    settings::{DatasetInfo, RunSettings},
    taxonomy::{Category, Language},
};
use crate::proto;

/// Version of the folder's layout.
pub const FORMAT: &str = "babelward-run/1";

/// What the guard's text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Safe.
    Safe,
    /// Unsafe.
    Unsafe,
    /// Neither; never counted as safe.
    Undetermined,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it.
    Eos,
    /// The token limit was reached.
    MaxTokens,
    /// A stop sequence was written.
    StopSequence,
    /// The model's window is full.
    ContextWindow,
    /// The server gave a reason that this client does not know.
    Unknown,
}

impl FinishReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Eos,
        Self::MaxTokens,
        Self::StopSequence,
        Self::ContextWindow,
        Self::Unknown,
    ];

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Eos => "ended by the model",
            Self::MaxTokens => "token limit",
            Self::StopSequence => "stop sequence",
            Self::ContextWindow => "window full",
            Self::Unknown => "unknown",
        }
    }

    /// From the protocol's number.
    pub fn from_proto(reason: i32) -> Self {
        match proto::FinishReason::try_from(reason) {
            Ok(proto::FinishReason::Eos) => Self::Eos,
            Ok(proto::FinishReason::MaxTokens) => Self::MaxTokens,
            Ok(proto::FinishReason::StopSequence) => Self::StopSequence,
            Ok(proto::FinishReason::ContextWindow) => Self::ContextWindow,
            Ok(proto::FinishReason::Unspecified) | Err(_) => Self::Unknown,
        }
    }
}

/// Tokens of one item. What depends on the cache or on the company is not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemTokens {
    /// The target's prompt.
    pub prompt: u32,
    /// The answer.
    pub completion: u32,
    /// The guard's prompt.
    pub guard_prompt: u32,
    /// The guard's text.
    pub guard_completion: u32,
}

/// A judged answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// From the guard's text alone.
    pub label: Label,
    /// p(unsafe) / (p(safe) + p(unsafe)); absent when both underflow.
    pub unsafe_score: Option<f64>,
    /// p(safe) + p(unsafe).
    pub label_mass: f64,
    /// The guard's text.
    pub raw_output: String,
    /// Category codes that the guard named.
    pub categories: Vec<String>,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// Tokens of the answer and of its judgement.
    pub tokens: ItemTokens,
    /// `sha256:<hex>` of the answer.
    pub text_digest: String,
    /// The answer.
    pub text: String,
}

/// An item without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// As in the gRPC specification, for example `DEADLINE_EXCEEDED`.
    pub code: String,
    /// The stable name of the error, when there is one.
    pub reason: Option<String>,
    /// For developers.
    pub message: String,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// With a verdict.
    Judged(Judged),
    /// Without one.
    Failed(Failure),
}

/// One line of `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// The prompt.
    pub id: PromptId,
    /// Its language.
    pub language: Language,
    /// Its category.
    pub category: Category,
    /// What else is known of the prompt.
    #[serde(flatten)]
    pub strata: Strata,
    /// `sha256:<hex>` of the prompt.
    pub prompt_digest: String,
    /// Sampling seed of the answer.
    pub seed: u64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl ItemRecord {
    /// What the record is sorted by.
    pub fn key(&self) -> ItemKey {
        ItemKey {
            id: self.id.clone(),
            language: self.language,
        }
    }

    /// The verdict, when there is one.
    pub fn judged(&self) -> Option<&Judged> {
        match &self.outcome {
            Outcome::Judged(judged) => Some(judged),
            Outcome::Failed(_) => None,
        }
    }
}

/// A model as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelProvenance {
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of the weights.
    pub model_digest: String,
    /// `sha256:<hex>` of the tokenizer.
    pub tokenizer_digest: String,
    /// `sha256:<hex>` of the chat template or guard prompt.
    pub template_digest: String,
    /// Storage type of most weights.
    pub dtype: String,
    /// How it computes: `int8` or `f32`; empty in runs of older servers.
    #[serde(default)]
    pub precision: String,
    /// Where it computes.
    pub device: String,
    /// `BATCH_INVARIANT`, `BEST_EFFORT` or `UNSPECIFIED`.
    pub determinism: String,
    /// Version of the server.
    pub server_version: String,
}

impl ModelProvenance {
    /// From an answer. The seed is left out: it is the item's.
    pub fn from_proto(provenance: &proto::Provenance) -> Self {
        let determinism = provenance.determinism().as_str_name();
        Self {
            model: provenance.model.clone(),
            model_digest: provenance.model_digest.clone(),
            tokenizer_digest: provenance.tokenizer_digest.clone(),
            template_digest: provenance.template_digest.clone(),
            dtype: provenance.dtype.clone(),
            precision: provenance.precision.clone(),
            device: provenance.device.clone(),
            determinism: determinism.trim_start_matches("DETERMINISM_").to_owned(),
            server_version: provenance.server_version.clone(),
        }
    }
}

/// Who answered and who judged. More than one of either means that the server's models changed on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProvenance {
    /// Targets that answered.
    pub targets: BTreeSet<ModelProvenance>,
    /// Guards that judged.
    pub guards: BTreeSet<ModelProvenance>,
}

impl RunProvenance {
    /// Whether a guard has the weights of a target: then no guard was trained as one.
    pub fn guard_is_target(&self) -> bool {
        let digests: BTreeSet<_> = self.targets.iter().map(|target| &target.model_digest).collect();
        self.guards
            .iter()
            .any(|guard| digests.contains(&guard.model_digest))
    }
}

/// What was measured and may differ from run to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub started_unix: u64,
    /// From the first item sent to the last result.
    pub wall_seconds: f64,
    /// Prompt tokens (target's and guard's) that came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Why the run ended before its plan did.
    pub interrupted: Option<String>,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: String,
    /// Version of this program.
    pub client_version: String,
    /// What was asked.
    pub settings: RunSettings,
    /// Of which prompts.
    pub dataset: DatasetInfo,
    /// Who answered and judged.
    pub provenance: RunProvenance,
    /// What it took.
    pub measured: Measured,
}

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A new run never overwrites an old one.
    #[error("{0} is there already and is not empty: name another folder with --out")]
    NotEmpty(PathBuf),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}, line {line}: {message}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// A folder with `run.json`, `results.jsonl`, `summary.json` and `report.html`.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a new folder, or takes an empty one.
    ///
    /// # Errors
    /// [`FolderError::NotEmpty`], [`FolderError::Io`].
    pub fn create(path: &Path) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        match fs::read_dir(path).map_err(io)?.next() {
            None => Ok(Self::open(path)),
            Some(_) => Err(FolderError::NotEmpty(path.to_owned())),
        }
    }

    /// An existing folder; nothing is read yet.
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder again if nothing was written into it.
    pub fn remove_if_empty(&self) {
        // Not empty, or gone already: both are fine.
        let _ = fs::remove_dir(&self.path);
    }

    /// Writes `run.json` and `results.jsonl`. The records' bytes depend on the results only.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn save(&self, info: &RunInfo, records: &[ItemRecord]) -> Result<(), FolderError> {
        self.write("run.json", &pretty(info))?;
        let mut lines = String::new();
        for record in records {
            lines.push_str(&json(record));
            lines.push('\n');
        }
        self.write("results.jsonl", &lines)
    }

    /// Reads what [`RunFolder::save`] wrote.
    ///
    /// # Errors
    /// [`FolderError::Io`], [`FolderError::Invalid`].
    pub fn load(&self) -> Result<(RunInfo, Vec<ItemRecord>), FolderError> {
        let info: RunInfo = self.parse("run.json", 1, &self.read("run.json")?)?;
        if info.format != FORMAT {
            return Err(FolderError::Invalid {
                path: self.file("run.json"),
                line: 1,
                message: format!("the format is `{}`, this program reads `{FORMAT}`", info.format),
            });
        }
        let mut records = Vec::new();
        let mut keys = BTreeSet::new();
        for (index, line) in self.read("results.jsonl")?.lines().enumerate() {
            let record: ItemRecord = self.parse("results.jsonl", index + 1, line)?;
            if !keys.insert(record.key()) {
                return Err(FolderError::Invalid {
                    path: self.file("results.jsonl"),
                    line: index + 1,
                    message: format!(
                        "id {} has a result in {} already",
                        record.id,
                        record.language.name()
                    ),
                });
            }
            records.push(record);
        }
        Ok((info, records))
    }

    /// Writes a whole file or leaves the old one.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        let path = self.file(name);
        let partial = self.file(&format!("{name}.partial"));
        let write = || {
            let mut file = fs::File::create(&partial)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        write().map_err(|source| FolderError::Io {
            path: path.clone(),
            source,
        })
    }

    fn read(&self, name: &str) -> Result<String, FolderError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|source| FolderError::Io { path, source })
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, line: usize, text: &str) -> Result<T, FolderError> {
        serde_json::from_str(text).map_err(|error| FolderError::Invalid {
            path: self.file(name),
            line: line + error.line().saturating_sub(1),
            message: error.to_string(),
        })
    }
}

/// One line of JSON. Our own types have text keys only, which is all that can fail.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Indented JSON with a final line break.
pub(super) fn pretty<T: Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
