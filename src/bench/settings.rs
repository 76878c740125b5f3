//! What a run was asked to do, as it stands in `run.json`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    dataset::{Dataset, WrapperUse},
    selection::Selection,
};
use crate::client::PolicyChoice;

/// What kind of verdicts a run yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A guard that was trained as one.
    Benchmark,
    /// A stand-in guard: the mechanism is real, the verdicts mean nothing.
    MechanismDemo,
    /// Made elsewhere, and nobody said by what.
    Unknown,
}

/// How a prompt is put to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompting {
    /// As a user's message in the model's own chat template: instruct models.
    Template,
    /// As raw text that the model continues: base models.
    Raw,
    /// The answers were made elsewhere, and nobody said how.
    Unknown,
}

/// One of the parts of a plan that go to several machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        match parts.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?))) {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err("write which of how many, such as 1/4".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// When a cell (language and category) has been asked enough: once the 95 % confidence sequence of its safe
/// share is no wider than twice this.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Until {
    /// Half of the interval's width, in (0, 0.5).
    pub half_width: f64,
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let width = text.strip_prefix("ci=").and_then(|width| width.parse().ok());
        match width {
            Some(half_width) if half_width > 0.0 && half_width < 0.5 => Ok(Self { half_width }),
            _ => Err("write ci= and a width between 0 and 0.5, such as ci=0.02".to_owned()),
        }
    }
}

/// How answers are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling; 1 is off.
    pub top_p: f64,
}

/// Sampling by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 200 tokens and plain sampling with one seed. The paper says 200 tokens and "sampling" and prints neither
    /// temperature nor seed: 1 is the model's own distribution.
    Paper,
    /// 200 tokens, always the most likely one.
    Greedy,
}

impl Preset {
    /// What it stands for.
    pub fn sampling(self) -> Sampling {
        Sampling {
            max_new_tokens: 200,
            temperature: match self {
                Self::Paper => 1.0,
                Self::Greedy => 0.0,
            },
            top_p: 1.0,
        }
    }
}

/// A setting that was given beside a preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overridden {
    /// `--max-new-tokens`.
    MaxNewTokens,
    /// `--temperature`.
    Temperature,
    /// `--top-p`.
    TopP,
    /// `--seed`.
    Seed,
}

/// The preset of a run, and where its settings are others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresetUse {
    /// As asked.
    pub name: Preset,
    /// Settings that were given as well, and count.
    #[serde(default)]
    pub overridden: Vec<Overridden>,
}

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// What kind of verdicts to expect.
    pub kind: RunKind,
    /// Model id of the target; empty = the server's default.
    pub target: String,
    /// How the target is asked.
    pub prompting: Prompting,
    /// Model ids of the guards, never none; empty = the server's default. The first is the primary one: scores
    /// are its verdicts unless something else is said.
    pub guards: Vec<String>,
    /// What they judge by.
    #[serde(default, skip_serializing_if = "PolicyChoice::is_native")]
    pub policy: PolicyChoice,
    /// What was taken from the prompt set.
    pub selection: Selection,
    /// How answers are sampled; absent where nobody said.
    #[serde(flatten)]
    pub sampling: Option<Sampling>,
    /// Where the sampling comes from; absent unless a preset was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetUse>,
    /// Ascending, never none. With each of them every prompt is asked once.
    pub seeds: Vec<u64>,
    /// Which part of the plan this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// When a cell is done before all its items are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// Most items that are open at a time, 0 where none was asked. No result depends on it.
    pub concurrency: usize,
}

impl RunSettings {
    /// Ids of the models that the run asks: the target, then the guards.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.target).chain(&self.guards)
    }
}

/// The prompt set of a run; all of it empty where nobody said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// File name.
    pub name: String,
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// Rows of the whole set.
    pub rows: usize,
    /// ALERT's instruction wrapper: how many prompts have it, and what was done.
    #[serde(default)]
    pub wrapper: WrapperUse,
}

impl From<&Dataset> for DatasetInfo {
    fn from(dataset: &Dataset) -> Self {
        Self {
            name: dataset.name.clone(),
            digest: dataset.digest.clone(),
            rows: dataset.rows.len(),
            wrapper: dataset.wrapper,
        }
    }
}
