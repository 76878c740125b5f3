//! What runs can differ in.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What can differ between runs besides their targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Whether there are prompts that all runs have.
    CommonPrompts,
    /// The words of prompts that several runs have, in languages with the same translators.
    PromptTexts,
    /// The file of the prompts.
    PromptSet,
    /// Systems that translated the prompts.
    Translators,
    /// Languages that were asked.
    Languages,
    /// Categories that were asked.
    Categories,
    /// Name of the primary guard.
    Guard,
    /// Digest of its weights, and of its adapter.
    GuardWeights,
    /// Digest of the prompt that it judges with.
    GuardPrompt,
    /// How it computed.
    GuardPrecision,
    /// What it judged by.
    Policy,
    /// Weights of targets that have the same name.
    TargetWeights,
    /// How the target computed.
    TargetPrecision,
    /// Chat template or raw text.
    Prompting,
    /// Length, temperature and nucleus of the answers.
    Sampling,
    /// The seeds.
    Seeds,
    /// How many answers there are, and how many have no verdict.
    Answers,
    /// What nobody said, as of runs that were made elsewhere.
    Unknown,
}

impl Aspect {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 18] = [
        Self::CommonPrompts,
        Self::PromptTexts,
        Self::PromptSet,
        Self::Translators,
        Self::Languages,
        Self::Categories,
        Self::Guard,
        Self::GuardWeights,
        Self::GuardPrompt,
        Self::GuardPrecision,
        Self::Policy,
        Self::TargetWeights,
        Self::TargetPrecision,
        Self::Prompting,
        Self::Sampling,
        Self::Seeds,
        Self::Answers,
        Self::Unknown,
    ];

    /// As it is written in JSON and on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::CommonPrompts => "common_prompts",
            Self::PromptTexts => "prompt_texts",
            Self::PromptSet => "prompt_set",
            Self::Translators => "translators",
            Self::Languages => "languages",
            Self::Categories => "categories",
            Self::Guard => "guard",
            Self::GuardWeights => "guard_weights",
            Self::GuardPrompt => "guard_prompt",
            Self::GuardPrecision => "guard_precision",
            Self::Policy => "policy",
            Self::TargetWeights => "target_weights",
            Self::TargetPrecision => "target_precision",
            Self::Prompting => "prompting",
            Self::Sampling => "sampling",
            Self::Seeds => "seeds",
            Self::Answers => "answers",
            Self::Unknown => "unknown",
        }
    }

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Self::CommonPrompts => "prompts in common",
            Self::PromptTexts => "prompt texts",
            Self::PromptSet => "prompt set",
            Self::Translators => "translators of the prompts",
            Self::Languages => "languages",
            Self::Categories => "categories",
            Self::Guard => "guard",
            Self::GuardWeights => "guard's weights",
            Self::GuardPrompt => "guard's prompt",
            Self::GuardPrecision => "guard's precision",
            Self::Policy => "guard's policy",
            Self::TargetWeights => "weights by the same target name",
            Self::TargetPrecision => "target's precision",
            Self::Prompting => "how the target is asked",
            Self::Sampling => "sampling",
            Self::Seeds => "seeds",
            Self::Answers => "answers",
            Self::Unknown => "not known",
        }
    }

    /// Whether a change of verdicts may come from it although the target is the same. A prompt set that differs does so
    /// only while it is not known whether the prompts do.
    pub(super) fn changes_verdicts(self) -> bool {
        match self {
            Self::CommonPrompts
            | Self::PromptTexts
            | Self::Translators
            | Self::Languages
            | Self::Categories
            | Self::Guard
            | Self::GuardWeights
            | Self::GuardPrompt
            | Self::GuardPrecision
            | Self::Policy => true,
            Self::PromptSet
            | Self::TargetWeights
            | Self::TargetPrecision
            | Self::Prompting
            | Self::Sampling
            | Self::Seeds
            | Self::Answers
            | Self::Unknown => false,
        }
    }
}

impl FromStr for Aspect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|aspect| aspect.key() == text);
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.map(Self::key).into();
            format!(
                "`{text}` is nothing that runs differ in; known are {}",
                known.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_json() {
        for aspect in Aspect::ALL {
            assert_eq!(serde_json::to_value(aspect).unwrap(), aspect.key());
            assert_eq!(aspect.key().parse::<Aspect>(), Ok(aspect));
        }
        assert!(
            "guards"
                .parse::<Aspect>()
                .unwrap_err()
                .contains("guard_precision")
        );
    }
}
