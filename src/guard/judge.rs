//! A guard: builds prompts from conversations and policies, says what the engine must produce, and reads the verdict.

use std::sync::Arc;

use super::{
    category_tree::CategoryTree,
    error::{GuardError, PromptError},
    policy::Policy,
    prompt::{self, BEGIN, Form, HEADER_END, HEADER_START, Judged, TURN_END},
    verdict::{self, Verdict, VerdictStop},
};
use crate::{
    digest,
    engine::{OutputSpec, Probe, ProbeResult, Sampling},
    text::{Allowance, ChatMessage, ChatRole, ChatTemplate, Segment, TemplateError, Tokenizer, strip},
};

/// The worked examples of the demo guard: question, answer, and the violated category if there is one.
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

/// The prompt that a guard was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuardKind {
    /// Llama Guard 3 8B, with categories S1 to S14; the prompt is the same byte for byte, with its leading space.
    LlamaGuard3_8B,
    /// Llama Guard 3 1B, with categories S1 to S13.
    LlamaGuard3_1B,
    /// Llama Guard 3's task text as the user turn of the model's own chat template. It demonstrates the mechanism with models
    /// that were not trained as guards; its verdicts are not safety judgements.
    ChatDemo,
}

/// Most tokens of a guard's text. The fourteen codes of the native policy fit.
const MAX_VERDICT_TOKENS: usize = 64;

/// Most tokens of each further code, with its comma.
const CODE_TOKENS: usize = 4;

/// A guard: its prompt, its tokenizer, and its verdict tokens.
pub struct Guard {
    kind: GuardKind,
    /// The policy that it was trained on.
    native: Policy,
    tokenizer: Arc<Tokenizer>,
    chat: Option<Arc<ChatTemplate>>,
    /// First tokens of `safe` and `unsafe` at the position of the verdict.
    label_tokens: [u32; 2],
    /// Whether `safe` is one token, so that the verdict is known without a decode step.
    safe_is_one_token: bool,
    template_digest: String,
}

impl Guard {
    /// Derives the verdict tokens from the tokenizer. `chat` is only needed for [`GuardKind::ChatDemo`].
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

    /// The kind that fits a model: Llama Guard 3 if the vocabulary has Llama 3's headers (the 8B model has 32 `layers`),
    /// otherwise the demo.
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

    /// The tokens of the prompt, up to where `safe` or `unsafe` is the next token. Without a policy, the native one is used.
    pub fn prompt(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        Ok(self.tokenizer.encode(&self.segments(conversation, policy)?)?)
    }

    /// Like [`Guard::prompt`], within an allowance of tokens, and only while the caller waits.
    pub fn prompt_within(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        // The text of each message is in the prompt unchanged, so it bounds the number of tokens before there is a prompt.
        let texts = conversation.iter().map(|message| strip(&message.content));
        allowance.least(texts.map(|text| self.tokenizer.least_tokens(text)))?;
        let segments = self.segments(conversation, policy)?;
        Ok(self.tokenizer.encode_within(&segments, allowance)?)
    }

    /// Turns its prompts into tokens.
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

    /// Token prefixes that all prompts with a policy share, one for each judged role. They are computed once and pinned.
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

    /// What the engine must produce: it probes the two verdict tokens, ends at once on `safe`, and otherwise decodes greedily
    /// until the verdict cannot change.
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

    /// The verdict from the probe and the tokens that followed a prompt with this policy.
    pub fn verdict(&self, probe: &ProbeResult, tokens: &[u32], policy: Option<&Policy>) -> Verdict {
        let policy = policy.unwrap_or(&self.native);
        verdict::assemble(probe, self.tokenizer.decode(tokens), policy)
    }

    /// The codes of the categories that it judges by, in the policy's order.
    pub fn category_codes<'a>(&'a self, policy: Option<&'a Policy>) -> Vec<&'a str> {
        let policy = policy.unwrap_or(&self.native);
        policy
            .categories()
            .iter()
            .map(|category| category.code.as_str())
            .collect()
    }

    /// Whether its answers go on from the label to a category, so that probabilities of categories can be read.
    pub fn tells_categories(&self) -> bool {
        true
    }

    /// Where the codes of a policy part, as tokens after a prompt. `None` where the tokenizer gives two codes the same tokens.
    pub fn category_tree(&self, policy: Option<&Policy>) -> Option<CategoryTree> {
        // What stands after the prompt does not depend on the conversation, whose last token is the template's own.
        let example = [message(ChatRole::User, "Hello")];
        let prompt = self.segments(&example, &self.native).ok()?;
        let tokens = |code: &str| self.label_encoding(&prompt, &format!("unsafe\n{code}")).ok();
        let codes = self.category_codes(policy);
        CategoryTree::new(codes.into_iter().map(tokens).collect::<Option<_>>()?)
    }

    /// First tokens of `safe` and `unsafe`, in this order.
    pub fn label_tokens(&self) -> [u32; 2] {
        self.label_tokens
    }

    /// `sha256:<hex>` of the prompt template with the native policy in it.
    pub fn template_digest(&self) -> &str {
        &self.template_digest
    }

    /// The prompt that it was trained on.
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

    /// The task as the user turn of a chat model, after two worked examples. Without them, a model that is not a guard does
    /// not answer with `safe` or `unsafe` at all.
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

    /// Tokens of a label at the position of the verdict.
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

/// A message of a conversation.
pub(super) fn message(role: ChatRole, content: &str) -> ChatMessage {
    ChatMessage {
        role,
        content: content.to_owned(),
    }
}
