//! From prompts in one language to a prompt set in several, as M-ALERT was made: candidates of several translators,
//! their quality scores, the best candidate of each prompt if it is good enough, and a record of every choice.
//!
//! `served` and `import` give candidates; `import` and `estimated` give scores; `journal` keeps what cost a call. `flags` looks at each candidate, `select` chooses,
//! `folder` writes, `summary` counts. Imported scores come in as a
//! [`ScoreTable`].

pub mod chrf;
pub mod estimated;
pub mod flags;
pub mod folder;
pub mod import;
pub mod journal;
pub mod select;
pub mod served;
pub mod summary;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{dataset::PromptId, taxonomy::Language};

/// Names a candidate: who translated which prompt into what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CandidateKey {
    /// The prompt.
    pub id: PromptId,
    /// What it was translated into.
    pub language: Language,
    /// The translation system.
    pub translator: String,
}

/// What a quality score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// COMET without a reference (CometKiwi): about 0 to 1, higher is better.
    Comet,
    /// MetricX without a reference: predicted MQM error, 0 to 25, lower is better.
    MetricX,
    /// Somebody's rating, higher is better.
    Human,
}

impl Metric {
    /// All of them, in the order in which they decide.
    pub const ALL: [Self; 3] = [Self::Comet, Self::MetricX, Self::Human];

    /// The column's name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Comet => "comet",
            Self::MetricX => "metricx",
            Self::Human => "human",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Comet => "COMET",
            Self::MetricX => "MetricX",
            Self::Human => "human",
        }
    }

    /// Whether a value can be one of these.
    pub fn accepts(self, value: f64) -> bool {
        match self {
            Self::MetricX => (0.0..=25.0).contains(&value),
            Self::Comet | Self::Human => value.is_finite(),
        }
    }

    /// A number that grows with quality.
    pub fn goodness(self, value: f64) -> f64 {
        match self {
            Self::MetricX => -value,
            Self::Comet | Self::Human => value,
        }
    }
}

/// Scores of one candidate.
pub type Scores = BTreeMap<Metric, f64>;

/// Scores of many candidates, whoever gave them.
pub type ScoreTable = BTreeMap<CandidateKey, Scores>;

/// One translation of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Whose, of what.
    #[serde(flatten)]
    pub key: CandidateKey,
    /// The prompt that was translated.
    pub source: String,
    /// The translation.
    pub text: String,
    /// Quality scores, as far as there are any.
    pub scores: Scores,
    /// What looks wrong.
    pub flags: Vec<flags::Flag>,
    /// The way back, if it was gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_translation: Option<BackTranslation>,
}

/// A candidate translated back, beside the prompt that it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackTranslation {
    /// In the prompt's language.
    pub text: String,
    /// chrF of it against the prompt, 0 to 100.
    pub chrf: f64,
}
