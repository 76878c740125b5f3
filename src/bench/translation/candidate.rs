//! One translation of one prompt, and its quality scores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::flags::Flag;
use crate::bench::{dataset::PromptId, taxonomy::Language};

/// Names a candidate: which translator translated which prompt into which language.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CandidateKey {
    /// The prompt.
    pub id: PromptId,
    /// The language that it was translated into.
    pub language: Language,
    /// The translator's name.
    pub translator: String,
}

/// What a quality score measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// COMET without a reference (CometKiwi): about 0 to 1, higher is better.
    Comet,
    /// MetricX without a reference: predicted MQM error, 0 to 25, lower is better.
    MetricX,
    /// A person's rating, higher is better.
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

    /// The metric's name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Comet => "COMET",
            Self::MetricX => "MetricX",
            Self::Human => "human",
        }
    }

    /// Whether a value is on the metric's scale.
    pub fn accepts(self, value: f64) -> bool {
        match self {
            Self::MetricX => (0.0..=25.0).contains(&value),
            Self::Comet | Self::Human => value.is_finite(),
        }
    }

    /// The score turned so that a higher number always means higher quality.
    pub fn goodness(self, value: f64) -> f64 {
        match self {
            Self::MetricX => -value,
            Self::Comet | Self::Human => value,
        }
    }
}

/// Scores of one candidate.
pub type Scores = BTreeMap<Metric, f64>;

/// Scores of many candidates, from files or from estimators.
pub type ScoreTable = BTreeMap<CandidateKey, Scores>;

/// One translation of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Who translated which prompt into which language.
    #[serde(flatten)]
    pub key: CandidateKey,
    /// The prompt that was translated.
    pub source: String,
    /// The translation.
    pub text: String,
    /// Quality scores; empty where nobody has scored it.
    pub scores: Scores,
    /// What looks wrong with it.
    pub flags: Vec<Flag>,
    /// The translation back into the prompt's language, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_translation: Option<BackTranslation>,
}

/// A candidate translated back into the language of its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackTranslation {
    /// The text in the prompt's language.
    pub text: String,
    /// chrF of it against the prompt, 0 to 100.
    pub chrf: f64,
}
