//! The aspects in which runs can differ.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An aspect, besides the target itself, in which runs can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Whether there are prompts that all runs have in common.
    CommonPrompts,
    /// The wording of prompts that several runs have, in languages with the same translators.
    PromptTexts,
    /// The file with the prompts.
    PromptSet,
    /// The systems that translated the prompts.
    Translators,
    /// The languages of the prompts.
    Languages,
    /// The categories of the prompts.
    Categories,
    /// The name of the primary guard.
    Guard,
    /// The digests of the guard's weights and of its adapter.
    GuardWeights,
    /// The digest of the guard's prompt template.
    GuardPrompt,
    /// The precision that the guard computed in.
    GuardPrecision,
    /// The policy that the guard judged by.
    Policy,
    /// What the guard's label "controversial" counts as.
    Controversial,
    /// The weights of targets that have the same name.
    TargetWeights,
    /// The precision that the target computed in.
    TargetPrecision,
    /// Whether the target was prompted with its chat template or with raw text.
    Prompting,
    /// The maximum length, the temperature and the top-p of the answers.
    Sampling,
    /// The run's seeds.
    Seeds,
    /// The number of answers with a verdict, and the number without.
    Answers,
    /// Facts that are not known, as with verdicts that were imported.
    Unknown,
}

impl Aspect {
    /// All aspects, in the order in which they are reported.
    pub const ALL: [Self; 19] = [
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
        Self::Controversial,
        Self::TargetWeights,
        Self::TargetPrecision,
        Self::Prompting,
        Self::Sampling,
        Self::Seeds,
        Self::Answers,
        Self::Unknown,
    ];

    /// The name used in JSON and on the command line.
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
            Self::Controversial => "controversial",
            Self::TargetWeights => "target_weights",
            Self::TargetPrecision => "target_precision",
            Self::Prompting => "prompting",
            Self::Sampling => "sampling",
            Self::Seeds => "seeds",
            Self::Answers => "answers",
            Self::Unknown => "unknown",
        }
    }

    /// The name in plain words, for reports.
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
            Self::Controversial => "what controversial counts as",
            Self::TargetWeights => "weights by the same target name",
            Self::TargetPrecision => "target's precision",
            Self::Prompting => "how the target is prompted",
            Self::Sampling => "sampling",
            Self::Seeds => "seeds",
            Self::Answers => "answers",
            Self::Unknown => "not known",
        }
    }

    /// Whether verdicts may change because of this aspect although the target is the same. Another prompt set can do so
    /// only through the texts of its prompts, which are an aspect of their own.
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
            | Self::Policy
            | Self::Controversial => true,
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
                "`{text}` is not an aspect in which runs can differ; the aspects are {}",
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
