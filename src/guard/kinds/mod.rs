//! What each kind of guard is asked, and how its answer is read. Each family of prompts has a file; the enum's methods here
//! are all that the rest of the guard knows of them.

mod chat_demo;
mod fields;
mod granite_guardian;
mod llama_guard;
mod polyguard;
mod qwen3guard;
mod qwen3guard_stream;
mod shieldgemma;
mod wildguard;

use super::{
    error::PromptError,
    kind::GuardKind,
    normalise::{ConversationExtent, ConversationForm, SystemMessages},
    policy::Policy,
    question::{AnswerForm, JudgedRole, Question, Reading},
};
use crate::text::{ChatTemplate, Segment, Tokenizer};

/// How callers' policies are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policies {
    /// The categories of the prompt can be replaced.
    Any,
    /// The prompt has room for one category, which can be replaced.
    OneCategory,
    /// The guard judges by those that it was trained on.
    NativeOnly,
}

impl GuardKind {
    /// The policy that it was trained on.
    pub(crate) fn native_policy(self) -> Policy {
        match self {
            Self::LlamaGuard3_8B | Self::ChatDemo => Policy::llama_guard_3(14),
            Self::LlamaGuard3_1B => Policy::llama_guard_3(13),
            Self::LlamaGuard2 => Policy::numbered(&llama_guard::CATEGORIES_2),
            Self::Qwen3GuardGen => Policy::of_names(&qwen3guard::CATEGORIES),
            // Its categories are those of the model's file.
            Self::Qwen3GuardStream => Policy::of_names(&[]),
            Self::WildGuard => Policy::of_names(&[]),
            Self::PolyGuard => Policy::llama_guard_3(14),
            Self::GraniteGuardian3 => Policy::of_names(&[granite_guardian::HARM]),
            Self::ShieldGemma => Policy::of_names(&shieldgemma::CATEGORIES),
        }
    }

    pub(super) fn policies(self) -> Policies {
        match self {
            Self::LlamaGuard3_8B
            | Self::LlamaGuard3_1B
            | Self::LlamaGuard2
            | Self::ShieldGemma
            | Self::ChatDemo => Policies::Any,
            Self::GraniteGuardian3 => Policies::OneCategory,
            Self::Qwen3GuardGen | Self::Qwen3GuardStream | Self::WildGuard | Self::PolyGuard => {
                Policies::NativeOnly
            }
        }
    }

    /// The conversations that it was trained on.
    pub(super) fn conversation_form(self) -> ConversationForm {
        match self {
            // Their templates have turns of User and Agent only.
            // The makers' example of Qwen3Guard-Stream has no other turns either.
            Self::LlamaGuard3_8B
            | Self::LlamaGuard3_1B
            | Self::LlamaGuard2
            | Self::ChatDemo
            | Self::Qwen3GuardStream => ConversationForm {
                extent: ConversationExtent::Conversation,
                system: SystemMessages::LeftOut,
            },
            // Its template begins the user's first turn with the system message.
            Self::Qwen3GuardGen => ConversationForm {
                extent: ConversationExtent::Conversation,
                system: SystemMessages::FirstTurn,
            },
            // Their prompts have room for one request and one answer.
            Self::WildGuard | Self::PolyGuard | Self::GraniteGuardian3 | Self::ShieldGemma => {
                ConversationForm {
                    extent: ConversationExtent::LastExchange,
                    system: SystemMessages::LeftOut,
                }
            }
        }
    }

    /// What a vocabulary and a chat template lack for this kind's prompt, if they lack anything.
    pub(super) fn missing(self, tokenizer: &Tokenizer, chat: Option<&ChatTemplate>) -> Option<String> {
        let Some(tokens) = self.special_tokens() else {
            return chat
                .is_none()
                .then(|| "the model has no chat template".to_owned());
        };
        let lacking = tokens.iter().find(|token| tokenizer.special_id(token).is_none());
        lacking.map(|token| format!("the vocabulary has no {token}, which the prompt of {self} needs"))
    }

    /// The special tokens of the prompt; `None` where the model's own chat template makes it.
    pub(super) fn special_tokens(self) -> Option<&'static [&'static str]> {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B => Some(&llama_guard::SPECIAL_TOKENS),
            Self::LlamaGuard2 => Some(&llama_guard::SPECIAL_TOKENS_2),
            Self::Qwen3GuardGen | Self::Qwen3GuardStream => Some(&qwen3guard::SPECIAL_TOKENS),
            Self::WildGuard => Some(&wildguard::SPECIAL_TOKENS),
            Self::GraniteGuardian3 => Some(&granite_guardian::SPECIAL_TOKENS),
            Self::ShieldGemma => Some(&shieldgemma::SPECIAL_TOKENS),
            Self::PolyGuard | Self::ChatDemo => None,
        }
    }

    /// Further special tokens of the models' vocabularies that are not spelled `<|...|>`.
    pub(super) fn other_special_tokens(self) -> &'static [&'static str] {
        match self {
            Self::WildGuard => &wildguard::OTHER_SPECIAL_TOKENS,
            Self::GraniteGuardian3 => &granite_guardian::OTHER_SPECIAL_TOKENS,
            Self::Qwen3GuardGen | Self::Qwen3GuardStream => &qwen3guard::OTHER_SPECIAL_TOKENS,
            Self::LlamaGuard3_8B
            | Self::LlamaGuard3_1B
            | Self::LlamaGuard2
            | Self::PolyGuard
            | Self::ChatDemo => &[],
            Self::ShieldGemma => &shieldgemma::OTHER_SPECIAL_TOKENS,
        }
    }

    /// The prompt, up to where the guard begins to write.
    pub(super) fn prompt(self, question: &Question<'_>) -> Result<Vec<Segment>, PromptError> {
        match self {
            Self::LlamaGuard3_8B => Ok(llama_guard::prompt(llama_guard::Form::EightB, question)),
            Self::LlamaGuard3_1B => Ok(llama_guard::prompt(llama_guard::Form::OneB, question)),
            Self::LlamaGuard2 => Ok(llama_guard::prompt_2(question)),
            Self::Qwen3GuardGen => Ok(qwen3guard::prompt(question)),
            Self::Qwen3GuardStream => Ok(qwen3guard_stream::prompt(question)),
            Self::WildGuard => wildguard::prompt(question),
            Self::PolyGuard => polyguard::prompt(question),
            Self::GraniteGuardian3 => granite_guardian::prompt(question),
            Self::ShieldGemma => shieldgemma::prompt(question),
            Self::ChatDemo => chat_demo::prompt(question),
        }
    }

    pub(super) fn answer_form(self, judged: JudgedRole) -> AnswerForm {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::ChatDemo => llama_guard::ANSWER,
            Self::LlamaGuard2 => llama_guard::ANSWER_2,
            Self::Qwen3GuardGen => qwen3guard::answer_form(judged),
            Self::Qwen3GuardStream => qwen3guard_stream::ANSWER,
            Self::WildGuard => wildguard::answer_form(judged),
            Self::PolyGuard => polyguard::answer_form(judged),
            Self::GraniteGuardian3 => granite_guardian::ANSWER,
            Self::ShieldGemma => shieldgemma::ANSWER,
        }
    }

    /// What stands in the answer between the prompt and the first category of an unsafe message. `None` where that is not certain
    /// or where other lines come first, so that one pass cannot reach the categories.
    pub(super) fn before_categories(self) -> Option<&'static str> {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::ChatDemo => Some("unsafe\n"),
            Self::Qwen3GuardGen => Some(" Unsafe\nCategories: "),
            Self::LlamaGuard2
            | Self::Qwen3GuardStream
            | Self::WildGuard
            | Self::PolyGuard
            | Self::GraniteGuardian3
            | Self::ShieldGemma => None,
        }
    }

    /// What an answer says. `text` is all of it, with the beginning that was put into the prompt.
    pub(super) fn read(self, judged: JudgedRole, text: &str, policy: &Policy) -> Reading {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => {
                llama_guard::read(text, policy)
            }
            Self::Qwen3GuardGen => qwen3guard::read(judged, text),
            Self::Qwen3GuardStream => Reading::undetermined(),
            Self::WildGuard => wildguard::read(judged, text),
            Self::PolyGuard => polyguard::read(judged, text, policy),
            Self::GraniteGuardian3 => granite_guardian::read(text, policy),
            Self::ShieldGemma => shieldgemma::read(text, policy),
        }
    }

    /// Whether more text cannot change what an answer says, or the text is too long for an answer.
    pub(super) fn is_settled(self, judged: JudgedRole, text: &str) -> bool {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => {
                llama_guard::is_settled(text)
            }
            Self::Qwen3GuardGen => qwen3guard::is_settled(judged, text),
            Self::Qwen3GuardStream => true,
            Self::WildGuard => wildguard::is_settled(judged, text),
            Self::PolyGuard => polyguard::is_settled(judged, text),
            Self::GraniteGuardian3 => granite_guardian::is_settled(text),
            Self::ShieldGemma => shieldgemma::is_settled(text),
        }
    }

    /// Most tokens of an answer, without those of further categories of a policy.
    pub(super) fn answer_tokens(self) -> usize {
        match self {
            // The fourteen codes of the native policy fit.
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => 64,
            // The makers generate at most so many tokens (README of QwenLM/Qwen3Guard, 128; of kpriyanshu256/polyguard, 100).
            Self::Qwen3GuardGen | Self::WildGuard | Self::PolyGuard => 128,
            // One word. The makers generate 20 (cookbooks of ibm-granite/granite-guardian), of which no more is read.
            // The makers of ShieldGemma generate none.
            Self::GraniteGuardian3 | Self::ShieldGemma => 20,
            Self::Qwen3GuardStream => 0,
        }
    }
}
