//! Guard models: exact prompts, verdict tokens, scores and parsing. Knows tokens and probe results, not the
//! network.

mod policy;
mod policy_file;
mod prompt;
mod verdict;

use std::sync::Arc;

use crate::{
    digest,
    engine::{OutputSpec, Probe, ProbeResult, Sampling},
    text::{
        Allowance, ChatMessage, ChatRole, ChatTemplate, Segment, TemplateError, Tokenizer, TokenizerError,
        strip,
    },
};
pub use policy::{MAX_CATEGORIES, Policy, PolicyCategory, PolicyProblem};
pub use policy_file::{PolicyFileError, read_policy};
use prompt::{BEGIN, Form, HEADER_END, HEADER_START, Judged, TURN_END};
use verdict::VerdictStop;

/// Question, answer and violated category, if any, of the demo guard's worked examples.
const DEMO_EXAMPLES: [(&str, &str, Option<&str>); 2] = [
    (
        "How can I steal a car?",
        "Break the window, then start the engine without the key.",
        Some("S2"),
    ),
    (
        "How do I bake bread?",
        "Mix flour, water, salt and yeast, let it rise, then bake it.",
        None,
    ),
];

/// Which prompt a guard was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuardKind {
    /// Llama Guard 3 8B: S1..S14, byte for byte, leading space included.
    LlamaGuard3_8B,
    /// Llama Guard 3 1B: S1..S13.
    LlamaGuard3_1B,
    /// Llama Guard 3's task text as the user turn of the model's own chat template. A mechanism demo for
    /// models that were not trained as guards; its verdicts are no safety judgement.
    ChatDemo,
}

/// What the guard's text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// First line is `safe`.
    Safe,
    /// First line is `unsafe`.
    Unsafe,
    /// Neither. Never counted as safe.
    Undetermined,
}

/// A guard's judgement of the last message.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// From the guard's own greedy text.
    pub label: Label,
    /// p(unsafe) / (p(safe) + p(unsafe)); absent when both underflow.
    pub unsafe_score: Option<f64>,
    /// p(safe) + p(unsafe).
    pub label_mass: f64,
    /// Category codes as written (`S9`) with their names (empty when not in the policy).
    pub categories: Vec<(String, String)>,
    /// The guard's text.
    pub raw_output: String,
}

/// Why a model cannot serve as a guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// `safe` and `unsafe` begin with the same token, or the vocabulary lacks what the prompt needs.
    #[error("cannot serve as a guard: {0}")]
    Unsuitable(String),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Why a conversation cannot be judged: the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Roles must alternate user, assistant, user, ... and system is not allowed.
    #[error("message {index}: {reason}")]
    Roles {
        /// Which message.
        index: usize,
        /// What was expected.
        reason: String,
    },
    /// The chat template refused or dropped something.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Most tokens of a guard's text: the fourteen codes of the native policy fit.
const MAX_VERDICT_TOKENS: usize = 64;

/// Most tokens that a further code takes, its comma included.
const CODE_TOKENS: usize = 4;

/// A guard: a tokenizer, a prompt, and its verdict tokens.
pub struct Guard {
    kind: GuardKind,
    /// What it was trained on.
    native: Policy,
    tokenizer: Arc<Tokenizer>,
    chat: Option<Arc<ChatTemplate>>,
    /// First tokens of `safe` and `unsafe` where the verdict is written.
    label_tokens: [u32; 2],
    /// Whether `safe` is one token, so that the verdict is known without a decode step.
    safe_is_one_token: bool,
    template_digest: String,
}

impl Guard {
    /// Derives the verdict tokens. `chat` is needed for [`GuardKind::ChatDemo`] only.
    pub fn new(
        kind: GuardKind,
        tokenizer: Arc<Tokenizer>,
        chat: Option<Arc<ChatTemplate>>,
    ) -> Result<Self, GuardError> {
        match kind {
            GuardKind::LlamaGuard3_8B | GuardKind::LlamaGuard3_1B => {
                for token in [BEGIN, HEADER_START, HEADER_END, TURN_END] {
                    if tokenizer.special_id(token).is_none() {
                        let reason =
                            format!("the vocabulary has no {token}, which Llama Guard 3's prompt needs");
                        return Err(GuardError::Unsuitable(reason));
                    }
                }
            }
            GuardKind::ChatDemo if chat.is_none() => {
                return Err(GuardError::Unsuitable("the model has no chat template".into()));
            }
            GuardKind::ChatDemo => {}
        }
        let mut guard = Self {
            kind,
            native: Policy::native(match kind {
                GuardKind::LlamaGuard3_8B | GuardKind::ChatDemo => 14,
                GuardKind::LlamaGuard3_1B => 13,
            }),
            tokenizer,
            chat,
            label_tokens: [0; 2],
            safe_is_one_token: false,
            template_digest: String::new(),
        };
        let probe = |role| [message(ChatRole::User, "Hello"), message(role, "Hi")];
        let user = guard
            .segments(&probe(ChatRole::User)[..1], &guard.native)
            .map_err(GuardError::from_prompt)?;
        let agent = guard
            .segments(&probe(ChatRole::Assistant), &guard.native)
            .map_err(GuardError::from_prompt)?;
        let text: String = user.iter().chain(&agent).map(Segment::text).collect();
        guard.template_digest = digest::of_bytes(text);
        let (safe, unsafe_) = (
            guard.label_encoding(&user, "safe")?,
            guard.label_encoding(&user, "unsafe")?,
        );
        if safe[0] == unsafe_[0] {
            let reason = format!(
                "`safe` and `unsafe` begin with the same token ({}), so the first one does not tell them apart",
                safe[0]
            );
            return Err(GuardError::Unsuitable(reason));
        }
        guard.label_tokens = [safe[0], unsafe_[0]];
        guard.safe_is_one_token = safe.len() == 1;
        Ok(guard)
    }

    /// Which kind fits a model: Llama Guard 3 when the vocabulary has Llama 3's headers (8B or 1B by
    /// `layers`: 32 or not), else the demo.
    pub fn detect(tokenizer: &Tokenizer, layers: usize) -> GuardKind {
        let has_headers = [BEGIN, HEADER_START, HEADER_END, TURN_END]
            .iter()
            .all(|t| tokenizer.special_id(t).is_some());
        match (has_headers, layers) {
            (true, 32) => GuardKind::LlamaGuard3_8B,
            (true, _) => GuardKind::LlamaGuard3_1B,
            (false, _) => GuardKind::ChatDemo,
        }
    }

    /// The prompt's tokens, up to where `safe` or `unsafe` is the next token; by the native policy where none is given.
    pub fn prompt(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        Ok(self.tokenizer.encode(&self.segments(conversation, policy)?)?)
    }

    /// The same for a conversation that may be too long, or whose verdict is no longer wanted.
    pub fn prompt_within(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        // Each message's words stand in the prompt as they are, so this is known before there is one.
        let words = conversation.iter().map(|message| strip(&message.content));
        allowance.least(words.map(|words| self.tokenizer.least_tokens(words)))?;
        let segments = self.segments(conversation, policy)?;
        Ok(self.tokenizer.encode_within(&segments, allowance)?)
    }

    /// The tokenizer of its prompts.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The prompt as text.
    pub fn prompt_text(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
    ) -> Result<String, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        let segments = self.segments(conversation, policy)?;
        Ok(segments.iter().map(Segment::text).collect())
    }

    /// Token prefixes shared by all prompts of a policy (one per judged role): computed once and pinned.
    pub fn policy_prefixes(&self, policy: Option<&Policy>) -> Result<Vec<Vec<u32>>, GuardError> {
        let answer = message(ChatRole::Assistant, "Hi");
        let mut prefixes = Vec::new();
        for rest in [&[][..], std::slice::from_ref(&answer)] {
            let encode = |content: &str| {
                let mut conversation = vec![message(ChatRole::User, content)];
                conversation.extend_from_slice(rest);
                self.prompt(&conversation, policy)
                    .map_err(GuardError::from_prompt)
            };
            let (left, mut right) = (encode("Hello")?, encode("12 + 3")?);
            let common = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            right.truncate(common);
            prefixes.push(right);
        }
        Ok(prefixes)
    }

    /// What the engine has to produce: probe the two verdict tokens, end at once on `safe`, else decode on
    /// greedily until the verdict is settled.
    pub fn output_spec(&self, policy: Option<&Policy>) -> OutputSpec {
        let finish_on = if self.safe_is_one_token {
            vec![self.label_tokens[0]]
        } else {
            Vec::new()
        };
        let more = policy.map_or(0, |policy| {
            let native = self.native.categories().len();
            CODE_TOKENS * policy.categories().len().saturating_sub(native)
        });
        OutputSpec {
            max_new_tokens: MAX_VERDICT_TOKENS + more,
            eos: Arc::from(self.tokenizer.end_tokens()),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: Some(Probe {
                tokens: self.label_tokens.to_vec(),
                finish_on,
            }),
            score: false,
            stop: Some(Box::new(VerdictStop::new(Arc::clone(&self.tokenizer)))),
            pin_prompt: false,
        }
    }

    /// Puts a verdict together from the probe and the tokens that followed a prompt of this policy.
    pub fn verdict(&self, probe: &ProbeResult, tokens: &[u32], policy: Option<&Policy>) -> Verdict {
        let policy = policy.unwrap_or(&self.native);
        verdict::assemble(probe, self.tokenizer.decode(tokens), policy)
    }

    /// First tokens of `safe` and `unsafe`, in this order.
    pub fn label_tokens(&self) -> [u32; 2] {
        self.label_tokens
    }

    /// `sha256:<hex>` of the prompt template with the native policy in it.
    pub fn template_digest(&self) -> &str {
        &self.template_digest
    }

    /// The kind.
    pub fn kind(&self) -> GuardKind {
        self.kind
    }

    fn segments(&self, conversation: &[ChatMessage], policy: &Policy) -> Result<Vec<Segment>, PromptError> {
        let judged = Judged::of(conversation)?;
        match self.kind {
            GuardKind::LlamaGuard3_8B => Ok(prompt::llama_guard(Form::EightB, policy, judged, conversation)),
            GuardKind::LlamaGuard3_1B => Ok(prompt::llama_guard(Form::OneB, policy, judged, conversation)),
            GuardKind::ChatDemo => self.demo_segments(policy, judged, conversation),
        }
    }

    /// The task as a chat model's user turn, after two worked examples: without them a model that is no guard
    /// does not answer in the guard's two words at all.
    fn demo_segments(
        &self,
        policy: &Policy,
        judged: Judged,
        conversation: &[ChatMessage],
    ) -> Result<Vec<Segment>, PromptError> {
        let Some(chat) = &self.chat else {
            return Err(TemplateError::Invalid("the model has none".into()).into());
        };
        let mut turns = Vec::with_capacity(2 * DEMO_EXAMPLES.len() + 1);
        for (question, answer, native_code) in DEMO_EXAMPLES {
            let mut example = vec![message(ChatRole::User, question)];
            if judged == Judged::Agent {
                example.push(message(ChatRole::Assistant, answer));
            }
            let verdict = match native_code {
                Some(native) => format!("unsafe\n{}", policy.code_like(native)),
                None => "safe".to_owned(),
            };
            turns.push(message(ChatRole::User, &prompt::task(policy, judged, &example)));
            turns.push(message(ChatRole::Assistant, &verdict));
        }
        turns.push(message(
            ChatRole::User,
            &prompt::task(policy, judged, conversation),
        ));
        Ok(chat.render(&turns, true)?)
    }

    /// Tokens of a label where the verdict is written.
    fn label_encoding(&self, prompt: &[Segment], label: &str) -> Result<Vec<u32>, GuardError> {
        let before = self.tokenizer.encode(prompt)?;
        let mut labelled = prompt.to_vec();
        labelled.push(Segment::Template(label.to_owned()));
        let after = self.tokenizer.encode(&labelled)?;
        match after.strip_prefix(before.as_slice()) {
            Some(tokens) if !tokens.is_empty() => Ok(tokens.to_vec()),
            _ => Err(GuardError::Unsuitable(format!(
                "`{label}` does not begin with a token of its own after the prompt"
            ))),
        }
    }
}

impl GuardError {
    /// For prompts of our own making, which the caller did not write.
    fn from_prompt(error: PromptError) -> Self {
        match error {
            PromptError::Roles { reason, .. } => Self::Unsuitable(reason),
            PromptError::Template(error) => Self::Template(error),
            PromptError::Tokenizer(error) => Self::Tokenizer(error),
        }
    }
}

fn message(role: ChatRole, content: &str) -> ChatMessage {
    ChatMessage {
        role,
        content: content.to_owned(),
    }
}

#[cfg(test)]
mod tests;
