//! The settings of a run, as `run.json` holds them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    dataset::{Dataset, WrapperUse},
    selection::Selection,
};
use crate::client::PolicyChoice;

/// How much the verdicts of a run mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// The verdicts of guards that were trained as such.
    Benchmark,
    /// The verdicts of a guard that was trained as such, on the demo's few prompts.
    Demo,
    /// The verdicts of a chat model that stands in for a guard: they show how the program works, and mean nothing.
    MechanismDemo,
    /// Verdicts that were imported, of guards that nobody named.
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
    /// The answers were imported, and the file does not say how they were asked for.
    Unknown,
}

/// One of several parts of a plan, each of which is run on a machine of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Number of this part, from 1.
    pub index: u32,
    /// How many parts there are.
    pub of: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        match parts.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?))) {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err("write the number of this shard and how many there are, such as 1/4".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// When no more of a cell (the items of one language and category) is asked: once the 95 % confidence sequence of its share of
/// safe answers is no wider than twice this.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Until {
    /// Half of the interval's width, as a share between 0 and 0.5.
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

/// What a guard's label "controversial" counts as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controversial {
    /// As unsafe, and its probability as part of the unsafe score: the strict reading.
    #[default]
    Unsafe,
    /// As safe: the loose reading.
    Safe,
}

impl Controversial {
    /// The name in the command line and in reports.
    pub fn key(self) -> &'static str {
        match self {
            Self::Unsafe => "unsafe",
            Self::Safe => "safe",
        }
    }
}

impl FromStr for Controversial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Unsafe, Self::Safe]
            .into_iter()
            .find(|one| one.key() == text);
        found.ok_or_else(|| "write unsafe or safe".to_owned())
    }
}

/// How the target's answers are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Probability that the most likely tokens have together from which one is drawn (nucleus sampling); 1 is off.
    pub top_p: f64,
}

/// A sampling that has a name.
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
    /// The sampling that the name stands for.
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

/// A setting that replaces the preset's.
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

/// The preset that a run was given, and which of its settings were replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresetUse {
    /// The preset.
    pub name: Preset,
    /// The settings that were replaced.
    #[serde(default)]
    pub overridden: Vec<Overridden>,
}

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// How much the verdicts mean.
    pub kind: RunKind,
    /// Model id of the target; empty stands for the server's default.
    pub target: String,
    /// How the target is asked.
    pub prompting: Prompting,
    /// Model ids of the guards; an empty id stands for the server's default. There is always a first one, the primary guard: all
    /// figures come from its verdicts unless they name another.
    pub guards: Vec<String>,
    /// The policy by which the guards judge.
    #[serde(default, skip_serializing_if = "PolicyChoice::is_native")]
    pub policy: PolicyChoice,
    /// What a guard's label "controversial" counts as; few guards have it.
    #[serde(default)]
    pub controversial: Controversial,
    /// Which part of the prompt set is asked.
    pub selection: Selection,
    /// How answers are sampled; absent in imported results.
    #[serde(flatten)]
    pub sampling: Option<Sampling>,
    /// The preset that the sampling comes from, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetUse>,
    /// Seeds in ascending order, at least one. Every prompt is asked once with each of them.
    pub seeds: Vec<u64>,
    /// The shard of the plan that this run is, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// When cells end before all of their items are asked, where they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// Most items that are open at a time; 0 in imported results. No result depends on it.
    pub concurrency: usize,
}

/// How a run's results are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counting {
    /// Number of guards.
    pub guards: usize,
    /// What the label "controversial" counts as.
    pub controversial: Controversial,
}

impl Counting {
    /// So many guards, and what they call controversial counts as unsafe.
    pub fn strict(guards: usize) -> Self {
        Self {
            guards,
            controversial: Controversial::Unsafe,
        }
    }
}

impl RunSettings {
    /// How its results are counted.
    pub fn counting(&self) -> Counting {
        Counting {
            guards: self.guards.len(),
            controversial: self.controversial,
        }
    }

    /// Ids of the models that the run asks: the target, then the guards.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.target).chain(&self.guards)
    }
}

/// The prompt set of a run; all fields are empty in imported results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Name of the file.
    pub name: String,
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// Rows of the whole set.
    pub rows: usize,
    /// How many prompts have ALERT's instruction wrapper, and what was done with it.
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
