//! A record, which is one line of `results.jsonl`.

use serde::{Deserialize, Serialize};

use crate::{
    bench::{
        dataset::{PromptId, Strata},
        plan::{ItemKey, PlanItem},
        taxonomy::{Category, Language},
    },
    digest, proto,
};

/// The label that a guard's text gives an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The guard calls the answer safe.
    Safe,
    /// The guard calls the answer unsafe.
    Unsafe,
    /// The guard has a word between safe and unsafe, and calls the answer that. The run's settings say what it counts as.
    Controversial,
    /// The guard's text is none of these; never counted as safe.
    Undetermined,
}

impl Label {
    /// Parses the label as results write it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "safe" => Some(Self::Safe),
            "unsafe" => Some(Self::Unsafe),
            "controversial" => Some(Self::Controversial),
            "undetermined" => Some(Self::Undetermined),
            _ => None,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it.
    Eos,
    /// It reached the token limit.
    MaxTokens,
    /// It reached a stop sequence.
    StopSequence,
    /// It filled the model's context window.
    ContextWindow,
    /// The server gave a reason that this client does not know, or the answer was imported.
    Unknown,
}

impl FinishReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::Eos,
        Self::MaxTokens,
        Self::StopSequence,
        Self::ContextWindow,
        Self::Unknown,
    ];

    /// The reason in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Eos => "ended by the model",
            Self::MaxTokens => "token limit",
            Self::StopSequence => "stop sequence",
            Self::ContextWindow => "window full",
            Self::Unknown => "unknown",
        }
    }

    /// Converts the number used in the protocol.
    pub fn from_proto(reason: i32) -> Self {
        match proto::FinishReason::try_from(reason) {
            Ok(proto::FinishReason::Eos) => Self::Eos,
            Ok(proto::FinishReason::MaxTokens) => Self::MaxTokens,
            Ok(proto::FinishReason::StopSequence) => Self::StopSequence,
            Ok(proto::FinishReason::ContextWindow) => Self::ContextWindow,
            // The answers of a run have no guard that could end them.
            Ok(proto::FinishReason::Unspecified | proto::FinishReason::Guard) | Err(_) => Self::Unknown,
        }
    }
}

/// Numbers of tokens of an answer; zero in imported results. Numbers that depend on the cache or on what else the server
/// was doing are left out, so that repeated runs have equal records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerTokens {
    /// Number of tokens in the target's prompt.
    pub prompt: u32,
    /// Number of tokens in the answer.
    pub completion: u32,
}

/// Numbers of tokens of a judgement; zero in imported results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardTokens {
    /// Number of tokens in the guard's prompt.
    pub prompt: u32,
    /// Number of tokens in the guard's text.
    pub completion: u32,
}

/// One guard's verdict on an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The label, taken from the guard's text alone.
    pub label: Label,
    /// (p(unsafe) + p(controversial)) / (p(safe) + p(unsafe) + p(controversial)) in [0, 1], where p(controversial) is 0 for guards
    /// without that label; absent when all of them underflow, or in imported results without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_score: Option<f64>,
    /// The part of `unsafe_score` that is controversial; absent for guards without that label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controversial_score: Option<f64>,
    /// p(safe) + p(unsafe) + p(controversial) in [0, 1]; absent in imported results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mass: Option<f64>,
    /// Whether the guard says that the answer refuses; absent where it does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<bool>,
    /// The guard's text; empty in imported results.
    pub raw_output: String,
    /// The codes or names of the categories that the guard named, in its order.
    pub categories: Vec<String>,
    /// Numbers of tokens of the judgement.
    pub tokens: GuardTokens,
}

/// The error of an item without a result, or of an answer without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// The gRPC status code by its name, for example `DEADLINE_EXCEEDED`.
    pub code: String,
    /// The stable name of the error, when it has one.
    pub reason: Option<String>,
    /// The error's message, for developers.
    pub message: String,
}

/// How a guard's judgement ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardOutcome {
    /// The guard gave a verdict.
    Judged(Verdict),
    /// The judgement failed.
    Failed(Failure),
}

/// An answer and the guards' verdicts on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// Numbers of tokens of the prompt and the answer.
    pub tokens: AnswerTokens,
    /// `sha256:<hex>` of the text; absent where the text itself is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_digest: Option<String>,
    /// The target's text; absent where it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The outcome of each guard's judgement, in the order of the settings' `guards`; never empty. The first is the primary
    /// guard's.
    pub verdicts: Vec<GuardOutcome>,
}

/// Why an item was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The interval of its cell (language and category) was already as narrow as `--until` asks for.
    CellDecided,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target answered.
    Answered(Answer),
    /// The target failed, or its answer never reached the primary guard.
    Failed(Failure),
    /// The item was not asked.
    Skipped(SkipReason),
}

/// One line of `results.jsonl`: the result of one prompt in one language with one seed of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// The prompt's id.
    pub id: PromptId,
    /// The prompt's language.
    pub language: Language,
    /// The prompt's category.
    pub category: Category,
    /// Further attributes of the prompt.
    #[serde(flatten)]
    pub strata: Strata,
    /// The run's seed that the answer belongs to.
    pub seed: u64,
    /// The sampling seed of the answer, see [`crate::bench::plan::item_seed`]; absent in imported results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_seed: Option<u64>,
    /// `sha256:<hex>` of the prompt; absent in imported results without prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_digest: Option<String>,
    /// How the item ended.
    pub outcome: Outcome,
}

impl ItemRecord {
    /// Makes the record of an item of a plan.
    pub fn new(item: &PlanItem, seed: u64, outcome: Outcome) -> Self {
        Self {
            id: item.key.id.clone(),
            language: item.key.language,
            category: item.category,
            strata: item.strata.clone(),
            seed,
            item_seed: Some(item.seed(seed)),
            prompt_digest: Some(digest::of_bytes(&item.prompt)),
            outcome,
        }
    }

    /// The prompt's id and its language.
    pub fn key(&self) -> ItemKey {
        ItemKey {
            id: self.id.clone(),
            language: self.language,
        }
    }

    /// The answer, when there is one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::Skipped(_) => None,
        }
    }

    /// The primary guard's verdict.
    pub fn primary_verdict(&self) -> Option<&Verdict> {
        self.verdict(0)
    }

    /// A guard's verdict; guards are numbered from 0, as in the settings.
    pub fn verdict(&self, guard: usize) -> Option<&Verdict> {
        match self.answer()?.verdicts.get(guard)? {
            GuardOutcome::Judged(verdict) => Some(verdict),
            GuardOutcome::Failed(_) => None,
        }
    }

    /// Why there is no verdict by a guard: the item failed, or the judgement did. `None` for skipped items.
    pub fn failure(&self, guard: usize) -> Option<&Failure> {
        match &self.outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Answered(answer) => match answer.verdicts.get(guard)? {
                GuardOutcome::Failed(failure) => Some(failure),
                GuardOutcome::Judged(_) => None,
            },
            Outcome::Skipped(_) => None,
        }
    }

    /// Whether the item was skipped on purpose, so that it counts as neither judged nor failed.
    pub fn is_skipped(&self) -> bool {
        matches!(self.outcome, Outcome::Skipped(_))
    }
}
