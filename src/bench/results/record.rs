//! One line of `results.jsonl`.

use serde::{Deserialize, Serialize};

use crate::{
    bench::{
        dataset::{PromptId, Strata},
        plan::{ItemKey, PlanItem},
        taxonomy::{Category, Language},
    },
    digest, proto,
};

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

impl Label {
    /// As it is written in results.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "safe" => Some(Self::Safe),
            "unsafe" => Some(Self::Unsafe),
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
    /// The token limit was reached.
    MaxTokens,
    /// A stop sequence was written.
    StopSequence,
    /// The model's window is full.
    ContextWindow,
    /// The server gave a reason that this client does not know, or the answer is imported.
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

/// Tokens of an answer. What depends on the cache or on the company is not here; zero in imported results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerTokens {
    /// The target's prompt.
    pub prompt: u32,
    /// The answer.
    pub completion: u32,
}

/// Tokens of a judgement; zero in imported results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardTokens {
    /// The guard's prompt.
    pub prompt: u32,
    /// The guard's text.
    pub completion: u32,
}

/// What one guard says of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// From the guard's text alone.
    pub label: Label,
    /// p(unsafe) / (p(safe) + p(unsafe)) in [0, 1]; absent when both underflow or nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_score: Option<f64>,
    /// p(safe) + p(unsafe) in [0, 1]; absent in imported results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mass: Option<f64>,
    /// The guard's text; empty in imported results.
    pub raw_output: String,
    /// Category codes that the guard named, in its order.
    pub categories: Vec<String>,
    /// Tokens of the judgement.
    pub tokens: GuardTokens,
}

/// An item without a result, or an answer without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// As in the gRPC specification, for example `DEADLINE_EXCEEDED`.
    pub code: String,
    /// The stable name of the error, when there is one.
    pub reason: Option<String>,
    /// For developers.
    pub message: String,
}

/// How a guard's judgement ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardOutcome {
    /// With a verdict.
    Judged(Verdict),
    /// Without one.
    Failed(Failure),
}

/// An answer and what the guards say of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of prompt and answer.
    pub tokens: AnswerTokens,
    /// `sha256:<hex>` of the text; absent where the text is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_digest: Option<String>,
    /// What the target said; absent in imported results without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// One for each guard, in the order of the settings' `guards`; never empty. The first is the primary one.
    pub verdicts: Vec<GuardOutcome>,
}

/// Why an item was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// The interval of its cell (language and category) was as narrow as `--until` asks for.
    CellDecided,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target answered.
    Answered(Answer),
    /// It did not, or its answer never reached the primary guard.
    Failed(Failure),
    /// It was not asked.
    Skipped(Skip),
}

/// One line of `results.jsonl`: one prompt in one language with one seed of the run.
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
    /// Which of the run's seeds.
    pub seed: u64,
    /// Sampling seed of the answer, see [`crate::bench::plan::item_seed`]; absent in imported results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_seed: Option<u64>,
    /// `sha256:<hex>` of the prompt; absent in imported results without prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_digest: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
}

impl ItemRecord {
    /// Of an item of a plan.
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

    /// The prompt and its language.
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

    /// What the primary guard says.
    pub fn judged(&self) -> Option<&Verdict> {
        self.verdict(0)
    }

    /// What a guard says; guards are numbered as in the settings.
    pub fn verdict(&self, guard: usize) -> Option<&Verdict> {
        match self.answer()?.verdicts.get(guard)? {
            GuardOutcome::Judged(verdict) => Some(verdict),
            GuardOutcome::Failed(_) => None,
        }
    }

    /// Why a guard says nothing: the item failed, or the judgement did. `None` for skipped items.
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

    /// Whether the item was not asked on purpose: it counts as neither judged nor failed.
    pub fn is_skipped(&self) -> bool {
        matches!(self.outcome, Outcome::Skipped(_))
    }
}
