//! A guard: builds prompts from conversations and policies, says what the engine must produce, and reads the verdict.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use super::{
    category_tree::CategoryTree,
    error::{GuardError, PromptError},
    kind::GuardKind,
    kinds::Policies,
    normalise::{ConversationForm, TurnPlan},
    policy::{Policy, PolicyCategory},
    question::{AnswerForm, JudgedRole, Label, LabelPosition, Question, message},
    sent_message::{MessageBody, SentMessage},
    spelled::{spelled_in_content, without_beginning},
    verdict::{Scores, Verdict, VerdictStop},
    verdict_reader::VerdictReader,
};
use crate::{
    digest,
    engine::{OutputSpec, Probe, ProbePositions, ProbeResult, Sampling, StopCondition},
    model::spec::VerdictHeads,
    text::{Allowance, ChatMessage, ChatRole, ChatTemplate, Segment, TextStream, Tokenizer, strip},
};

/// Most tokens of each code beyond those of the native policy, with its comma.
const CODE_TOKENS: usize = 4;

/// Texts of at least so many bytes are held against the allowance of tokens before they are copied.
const LONG_BYTES: usize = 4 << 10;

/// A guard: its prompt, its tokenizer, and its verdict tokens.
pub struct Guard {
    kind: GuardKind,
    /// The policy that it was trained on.
    native: Policy,
    /// Turns its prompts into tokens; absent for a guard whose prompts are sent elsewhere as texts.
    tokenizer: Option<Arc<Tokenizer>>,
    chat: Option<Arc<ChatTemplate>>,
    /// For users' messages, and for assistants' messages.
    labels: [LabelTokens; 2],
    template_digest: String,
    /// What gives the verdict of a guard that writes no text.
    heads: Option<VerdictReader>,
    /// Made when it is first asked for.
    native_tree: OnceLock<Option<CategoryTree>>,
}

/// The tokens by which a guard writes its label of one judged role.
#[derive(Debug, Clone, Default)]
struct LabelTokens {
    /// First tokens of the labels' words at the position of the label, in the order of the words.
    first: Vec<u32>,
    /// Those of a safe label which is one token and all that is read of its answer, so that the verdict is known without a decode
    /// step.
    ends_on: Vec<u32>,
}

impl Guard {
    /// Derives the verdict tokens from the tokenizer. `chat` is the model's chat template, which some kinds need.
    pub fn new(
        kind: GuardKind,
        tokenizer: Arc<Tokenizer>,
        chat: Option<Arc<ChatTemplate>>,
    ) -> Result<Self, GuardError> {
        if kind == GuardKind::Qwen3GuardStream {
            return Err(GuardError::Unsuitable(format!(
                "{kind} gives verdicts by heads, which only a folder of the original model has"
            )));
        }
        let native = kind.native_policy();
        let guard = Self {
            kind,
            native,
            tokenizer: Some(tokenizer),
            chat,
            labels: Default::default(),
            template_digest: String::new(),
            heads: None,
            native_tree: OnceLock::new(),
        };
        guard.completed()
    }

    /// A guard that computes elsewhere and is sent its prompts as texts, because its tokenizer is not known here.
    ///
    /// # Errors
    /// When the prompts of this kind are made by a chat template, which is not known either, or when it writes no text.
    pub fn of_texts(kind: GuardKind) -> Result<Self, GuardError> {
        if kind.special_tokens().is_none() || kind == GuardKind::Qwen3GuardStream {
            return Err(GuardError::Unsuitable(format!(
                "{kind} needs the model's own tokenizer and chat template: say in endpoint_tokenizer where they are"
            )));
        }
        let guard = Self {
            kind,
            native: kind.native_policy(),
            tokenizer: None,
            chat: None,
            labels: Default::default(),
            template_digest: String::new(),
            heads: None,
            native_tree: OnceLock::new(),
        };
        guard.completed()
    }

    /// A guard that gives verdicts by heads. `kind` is what the configuration says of it, if it says anything.
    ///
    /// # Errors
    /// When `kind` is one of another guard, or the tokenizer lacks what the prompt needs.
    pub fn with_heads(
        kind: Option<GuardKind>,
        tokenizer: Arc<Tokenizer>,
        heads: &VerdictHeads,
    ) -> Result<Self, GuardError> {
        let own = GuardKind::Qwen3GuardStream;
        if let Some(other) = kind.filter(|kind| *kind != own) {
            return Err(GuardError::Unsuitable(format!(
                "its heads give the verdicts, so its guard_kind is {own} and not {other}"
            )));
        }
        let heads = VerdictReader::new(heads);
        let guard = Self {
            kind: own,
            native: heads.policy(),
            tokenizer: Some(tokenizer),
            chat: None,
            labels: Default::default(),
            template_digest: String::new(),
            heads: Some(heads),
            native_tree: OnceLock::new(),
        };
        guard.completed()
    }

    /// The guard with its verdict tokens and the digest of its prompts.
    fn completed(self) -> Result<Self, GuardError> {
        if let Some(tokenizer) = &self.tokenizer
            && let Some(reason) = self.kind.missing(tokenizer, self.chat.as_deref())
        {
            return Err(GuardError::Unsuitable(reason));
        }
        let mut guard = self;
        let mut text = String::new();
        for judged in JudgedRole::ALL {
            let segments = guard
                .segments(&example(judged), &guard.native)
                .map_err(GuardError::from_prompt)?;
            if let Some(tokenizer) = &guard.tokenizer {
                guard.labels[judged as usize] = guard.label_tokens_after(tokenizer, judged, &segments)?;
            }
            text.extend(segments.iter().map(Segment::text));
        }
        guard.template_digest = digest::of_bytes(text);
        Ok(guard)
    }

    /// The tokens of the prompt, up to where `safe` or `unsafe` is the next token. Without a policy, the native one is used.
    pub fn prompt(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        let tokenizer = self.needed_tokenizer()?;
        Ok(tokenizer.encode(&self.segments(conversation, policy)?)?)
    }

    /// Like [`Guard::prompt`], within an allowance of tokens, and only while the caller waits.
    pub fn prompt_within(
        &self,
        conversation: &[ChatMessage],
        policy: Option<&Policy>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        let tokenizer = self.needed_tokenizer()?;
        // The text of each message is in the prompt unchanged, so it bounds the number of tokens before there is a prompt.
        let texts = conversation.iter().map(|message| strip(&message.content));
        allowance.least(texts.map(|text| tokenizer.least_tokens(text)))?;
        let segments = self.segments(conversation, policy)?;
        Ok(tokenizer.encode_within(&segments, allowance)?)
    }

    /// The prompt for a conversation as it was sent, within an allowance of tokens. `plan` is the conversation's.
    pub fn prompt_of<M: AsRef<SentMessage>>(
        &self,
        messages: &[M],
        plan: &TurnPlan,
        policy: Option<&Policy>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, PromptError> {
        // A text that is far too long is refused before there is a copy of it.
        let placed = plan
            .turns()
            .iter()
            .flatten()
            .filter_map(|index| messages.get(*index));
        let long = placed.filter_map(|message| match &message.as_ref().body {
            MessageBody::Whole(text) if text.len() >= LONG_BYTES => Some(text.as_str()),
            MessageBody::Whole(_) | MessageBody::Parts(_) => None,
        });
        let tokenizer = self.needed_tokenizer()?;
        allowance.least(long.map(|text| tokenizer.least_tokens(strip(text))))?;
        self.prompt_within(&plan.texts(messages), policy, allowance)
    }

    /// The conversations that it was trained on.
    pub fn conversation_form(&self) -> ConversationForm {
        self.kind.conversation_form()
    }

    /// Turns its prompts into tokens; `None` for a guard whose prompts are sent elsewhere as texts.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    fn needed_tokenizer(&self) -> Result<&Arc<Tokenizer>, PromptError> {
        self.tokenizer.as_ref().ok_or(PromptError::NoTokenizer)
    }

    /// The prompt for a conversation as it was sent, as a text in which the endpoint that it is sent to will find the special tokens
    /// of the prompt and no others. The token that begins every sequence is left out, because endpoints put it before a text.
    /// `plan` is the conversation's.
    ///
    /// # Errors
    /// [`PromptError::SpecialToken`] where a message or a policy spells a special token, which the endpoint would take for one.
    pub fn text_prompt_of<M: AsRef<SentMessage>>(
        &self,
        messages: &[M],
        plan: &TurnPlan,
        policy: Option<&Policy>,
    ) -> Result<String, PromptError> {
        let policy = policy.unwrap_or(&self.native);
        let segments = self.segments(&plan.texts(messages), policy)?;
        if let Some(token) = spelled_in_content(&segments, self.kind) {
            return Err(PromptError::SpecialToken { token });
        }
        let text: String = segments.iter().map(Segment::text).collect();
        Ok(without_beginning(&text).to_owned())
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

    /// Whether it can judge by policies other than its own.
    pub fn takes_policies(&self) -> bool {
        self.kind.policies() != Policies::NativeOnly
    }

    /// Whether it can judge by this policy.
    pub fn takes(&self, policy: &Policy) -> bool {
        match self.kind.policies() {
            Policies::Any => true,
            Policies::OneCategory => policy.categories().len() == 1,
            Policies::NativeOnly => false,
        }
    }

    /// What the engine must produce. Of heads it is what they read of the last token. Otherwise it probes the first tokens of the
    /// labels, ends at once on `safe` where nothing else is read of such an answer, and else decodes greedily until the verdict
    /// cannot change.
    pub fn output_spec(&self, judged: JudgedRole, policy: Option<&Policy>) -> OutputSpec {
        if let Some(heads) = &self.heads {
            return heads.output_spec(judged);
        }
        let labels = &self.labels[judged as usize];
        let tokenizer = self.tokenizer.as_ref();
        let stop = tokenizer.map(|tokenizer| VerdictStop::new(self.kind, judged, Arc::clone(tokenizer)));
        OutputSpec {
            max_new_tokens: self.answer_tokens(policy),
            eos: Arc::from(tokenizer.map_or(&[][..], |tokenizer| tokenizer.end_tokens())),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: Some(Probe {
                tokens: labels.first.clone(),
                finish_on: labels.ends_on.clone(),
                positions: match self.kind.answer_form(judged).position {
                    LabelPosition::First => ProbePositions::AfterPrompt,
                    LabelPosition::FirstWord | LabelPosition::After(_) => ProbePositions::EveryToken,
                },
            }),
            score: false,
            stop: stop.map(|stop| Box::new(stop) as Box<dyn StopCondition>),
            pin_prompt: false,
        }
    }

    /// Most tokens of an answer to a prompt with this policy.
    pub fn answer_tokens(&self, policy: Option<&Policy>) -> usize {
        let more = policy.map_or(0, |policy| {
            let native = self.native.categories().len();
            CODE_TOKENS * policy.categories().len().saturating_sub(native)
        });
        self.kind.answer_tokens() + more
    }

    /// The verdict from the probes and the tokens that followed a prompt with this policy.
    pub fn verdict(
        &self,
        judged: JudgedRole,
        probes: &[ProbeResult],
        tokens: &[u32],
        policy: Option<&Policy>,
    ) -> Verdict {
        if let Some(heads) = &self.heads {
            return heads.verdict(judged, probes.first());
        }
        let policy = policy.unwrap_or(&self.native);
        let form = self.kind.answer_form(judged);
        let position = self.label_position(&form, tokens);
        let Scores {
            unsafe_score,
            controversial_score,
            label_mass,
        } = Scores::of(position.and_then(|position| probes.get(position)), &form.labels());
        let text = self.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(tokens));
        let raw_output = format!("{}{}", form.begun, text.unwrap_or_default());
        let reading = self.kind.read(judged, &raw_output, policy);
        Verdict {
            label: reading.label,
            unsafe_score,
            controversial_score,
            label_mass,
            categories: reading.categories,
            refusal: reading.refusal,
            category_shares: Vec::new(),
            raw_output,
        }
    }

    /// The categories that it judges by, in the policy's order.
    pub fn categories<'a>(&'a self, policy: Option<&'a Policy>) -> &'a [PolicyCategory] {
        policy.unwrap_or(&self.native).categories()
    }

    /// The codes of these categories.
    pub fn category_codes<'a>(&'a self, policy: Option<&'a Policy>) -> Vec<&'a str> {
        let categories = self.categories(policy).iter();
        categories.map(|category| category.code.as_str()).collect()
    }

    /// Whether probabilities of categories can be read: from heads, or because its answers go on from the label to a category.
    pub fn tells_categories(&self) -> bool {
        self.heads.is_some() || self.kind.before_categories().is_some()
    }

    /// Where the codes of a policy part, as tokens after a prompt. `None` where answers do not go on from the label to a category,
    /// and where the tokenizer gives two codes the same tokens. That of the native policy is made once.
    pub fn category_tree(&self, policy: Option<&Policy>) -> Option<Cow<'_, CategoryTree>> {
        match policy {
            Some(policy) => self.tree_of(policy).map(Cow::Owned),
            None => {
                let native = self.native_tree.get_or_init(|| self.tree_of(&self.native));
                native.as_ref().map(Cow::Borrowed)
            }
        }
    }

    fn tree_of(&self, policy: &Policy) -> Option<CategoryTree> {
        let before = self.kind.before_categories()?;
        let tokenizer = self.tokenizer.as_ref()?;
        // What stands after the prompt does not depend on the conversation, because the prompt ends with the template's words.
        let prompt = self.segments(&example(JudgedRole::User), &self.native).ok()?;
        let start = tokenizer.encode(&prompt).ok()?;
        let codes = self.category_codes(Some(policy)).into_iter();
        let tokens =
            codes.map(|code| encoding_after(tokenizer, &prompt, &start, &format!("{before}{code}")).ok());
        CategoryTree::new(tokens.collect::<Option<_>>()?)
    }

    /// How many tokens stand before the label; `None` where the text does not come to it.
    fn label_position(&self, form: &AnswerForm, tokens: &[u32]) -> Option<usize> {
        let tokenizer = self.tokenizer.as_ref()?;
        let name = match form.position {
            LabelPosition::First => return Some(0),
            LabelPosition::FirstWord => {
                let text = |token: &u32| tokenizer.decode(&[*token]);
                // Without any word the most likely token is the text's end, and the labels' probabilities say so.
                let first = tokens.iter().position(|token| !text(token).trim().is_empty());
                return Some(first.unwrap_or(tokens.len()));
            }
            LabelPosition::After(example) => example.rsplit('\n').next().unwrap_or(example),
        };
        let mut stream = TextStream::new(Arc::clone(tokenizer), &[]);
        let mut text = form.begun.to_owned();
        let is_before_label = |text: &str| {
            let line = text.rsplit_once('\n');
            line.is_some_and(|(_, line)| line.trim() == name)
        };
        tokens.iter().position(|token| {
            let found = is_before_label(&text);
            text.push_str(&stream.push(*token));
            found
        })
    }

    /// First tokens of the labels' words where this role is judged, in the order of the words.
    pub fn label_tokens(&self, judged: JudgedRole) -> &[u32] {
        &self.labels[judged as usize].first
    }

    /// `sha256:<hex>` of the prompt template with the native policy in it.
    pub fn template_digest(&self) -> &str {
        &self.template_digest
    }

    /// The prompt that it was trained on.
    pub fn kind(&self) -> GuardKind {
        self.kind
    }

    /// The policy, or the one that it was trained on where there is none.
    pub(super) fn judged_by<'a>(&'a self, policy: Option<&'a Policy>) -> &'a Policy {
        policy.unwrap_or(&self.native)
    }

    fn segments(&self, conversation: &[ChatMessage], policy: &Policy) -> Result<Vec<Segment>, PromptError> {
        let judged = JudgedRole::of(conversation)?;
        let mut segments = self.kind.prompt(&Question {
            policy,
            judged,
            messages: conversation,
            chat: self.chat.as_deref(),
        })?;
        let begun = self.kind.answer_form(judged).begun;
        if !begun.is_empty() {
            segments.push(Segment::Template(begun.to_owned()));
        }
        Ok(segments)
    }

    /// The tokens of the labels after a prompt.
    fn label_tokens_after(
        &self,
        tokenizer: &Tokenizer,
        judged: JudgedRole,
        prompt: &[Segment],
    ) -> Result<LabelTokens, GuardError> {
        let form = self.kind.answer_form(judged);
        let mut before = prompt.to_vec();
        if let LabelPosition::After(example) = form.position {
            before.push(Segment::Template(example.to_owned()));
        }
        let mut labels = LabelTokens::default();
        for word in form.words {
            let tokens = match form.position {
                // What stands before it is not known, and no token has both of it.
                LabelPosition::FirstWord => tokenizer.encode_plain(word.text)?,
                LabelPosition::First | LabelPosition::After(_) => {
                    encoding_after(tokenizer, &before, &tokenizer.encode(&before)?, word.text)?
                }
            };
            let same = labels.first.iter().zip(form.words);
            let same =
                same.filter(|(first, other)| tokens.first() == Some(first) && other.label != word.label);
            if let Some((_, other)) = same.into_iter().next() {
                return Err(GuardError::Unsuitable(format!(
                    "`{}` and `{}` begin with the same token ({}), so the first one does not tell them apart",
                    other.text.trim(),
                    word.text.trim(),
                    tokens[0]
                )));
            }
            let may_end = !matches!(form.position, LabelPosition::After(_));
            let is_all = word.label == Label::Safe && form.safe_is_all && may_end;
            if is_all && tokens.len() == 1 {
                labels.ends_on.extend(&tokens);
            }
            labels.first.push(tokens[0]);
        }
        Ok(labels)
    }
}

/// Tokens of a text after a prompt, whose own tokens are `before`.
fn encoding_after(
    tokenizer: &Tokenizer,
    prompt: &[Segment],
    before: &[u32],
    label: &str,
) -> Result<Vec<u32>, GuardError> {
    let mut labelled = prompt.to_vec();
    labelled.push(Segment::Template(label.to_owned()));
    let after = tokenizer.encode(&labelled)?;
    match after.strip_prefix(before) {
        Some(tokens) if !tokens.is_empty() => Ok(tokens.to_vec()),
        _ => Err(GuardError::Unsuitable(format!(
            "`{}` does not begin with a token of its own after the prompt",
            label.trim()
        ))),
    }
}

/// A conversation whose last message is of the role.
fn example(judged: JudgedRole) -> Vec<ChatMessage> {
    let mut conversation = vec![message(ChatRole::User, "Hello")];
    if judged == JudgedRole::Agent {
        conversation.push(message(ChatRole::Assistant, "Hi"));
    }
    conversation
}
