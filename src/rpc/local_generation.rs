//! The answer of a target that is in memory here, and its prompt as tokens.

use std::sync::Arc;

use super::{
    encode,
    error::{ServiceError, TextOrigin, Violation},
    pieces::{CutEnd, Delta, Finished, Piece},
    provenance,
    sequence::{Sequence, WorkContext},
    token_quota::PromptLimit,
    validate::{GenerateWork, Prompt},
};
use crate::{
    digest,
    engine::{Event, FinishReason, OutputSpec, SequenceSummary, StopCondition, TokenEvent},
    guard::{SentMessage, Speaker},
    proto,
    registry::{Lease, ModelEntry},
    text::{
        Allowance, CalledTool, ChatMessage, ChatRole, ChatTurn, StopMatcher, TemplateError, TextStream,
        TokenizerError, ToolUse, strip,
    },
};

/// A generation in progress.
pub(crate) struct LocalGeneration {
    sequence: Sequence,
    entry: Lease,
    work: GenerateWork,
    prompt_tokens: usize,
    /// Indices of the messages whose thoughts were left out of the prompt.
    thoughts_left_out: Vec<u32>,
    decoder: TextStream,
    /// The text that has been sent so far.
    text: String,
    /// Tokens whose text has not been sent yet.
    token_ids: Vec<u32>,
    logprobs: Vec<proto::TokenLogprob>,
    /// Of a sequence that has ended, until the last piece is made of it.
    summary: Option<SequenceSummary>,
    /// The last piece or an error has been returned.
    done: bool,
    /// Tokens that had been computed when the answer was cut.
    computed_at_cut: usize,
}

impl LocalGeneration {
    /// Queues the prompt and returns the generation.
    pub(crate) fn start(
        context: &WorkContext,
        work: GenerateWork,
        entry: Lease,
        tokens: PromptTokens,
    ) -> Result<Self, ServiceError> {
        let is_conversation = matches!(*work.prompt, Prompt::Conversation(_));
        context.record.note(|tally| {
            tally.add_model(&entry.id);
            if !is_conversation {
                tally.note_completion();
            }
        });
        let tokenizer = &entry.resident.tokenizer;
        let stop = StopMatcher::new(Arc::clone(tokenizer), &work.stop);
        let output = OutputSpec {
            max_new_tokens: work.max_new_tokens,
            eos: Arc::from(tokenizer.end_tokens()),
            sampling: work.sampling.clone(),
            logprobs: work.logprobs,
            probe: None,
            score: false,
            stop: stop.map(|stop| Box::new(stop) as Box<dyn StopCondition>),
            pin_prompt: false,
        };
        let PromptTokens {
            ids,
            thoughts_left_out,
        } = tokens;
        let prompt_tokens = ids.len();
        let decoder = TextStream::new(Arc::clone(tokenizer), &work.stop);
        let sequence = Sequence::submit(context, &entry, ids, output, &work.prompt_field)?;
        Ok(Self {
            sequence,
            prompt_tokens,
            thoughts_left_out,
            decoder,
            text: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            summary: None,
            done: false,
            computed_at_cut: 0,
            entry,
            work,
        })
    }

    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        while !self.done {
            if let Some(summary) = self.summary.take() {
                self.done = true;
                return Ok(Some(self.finished(&summary)));
            }
            let event = match self.sequence.next().await {
                Ok(event) => event,
                Err(error) => {
                    self.done = true;
                    return Err(error);
                }
            };
            match event {
                Event::Started { .. } => {
                    return Ok(Some(Piece::Started(Box::new(proto::GenerateStarted {
                        prompt_tokens: provenance::count(self.prompt_tokens),
                        seed: self.work.sampling.seed,
                        provenance: Some(self.provenance()),
                    }))));
                }
                Event::Token(token) => {
                    let text = self.token(token);
                    if !text.is_empty() {
                        return Ok(Some(self.delta(text)));
                    }
                }
                Event::Finished(summary) => {
                    let rest = self.decoder.finish();
                    self.summary = Some(summary);
                    // Every token is reported once, including those without text.
                    if !rest.is_empty() || !self.token_ids.is_empty() {
                        return Ok(Some(self.delta(rest)));
                    }
                }
                Event::Probe(_) | Event::Score(_) | Event::Failed(_) => {}
            }
        }
        Ok(None)
    }

    fn token(&mut self, token: TokenEvent) -> String {
        self.token_ids.push(token.id);
        let tokenizer = &self.entry.resident.tokenizer;
        if let Some(logprobs) = token.logprobs {
            let alternatives = logprobs
                .top
                .iter()
                .map(|&(id, logprob)| proto::token_logprob::Alternative {
                    token_id: id,
                    token: tokenizer.token_bytes(id).to_vec(),
                    logprob,
                });
            self.logprobs.push(proto::TokenLogprob {
                token_id: token.id,
                token: tokenizer.token_bytes(token.id).to_vec(),
                logprob: logprobs.chosen,
                alternatives: alternatives.collect(),
            });
        }
        self.decoder.push(token.id)
    }

    fn delta(&mut self, text: String) -> Piece {
        let offset_bytes = u64::try_from(self.text.len()).unwrap_or(u64::MAX);
        self.text.push_str(&text);
        Piece::Delta(Delta {
            reach: self.text.len() + self.decoder.held_bytes(),
            event: proto::GenerateDelta {
                text,
                token_ids: std::mem::take(&mut self.token_ids),
                logprobs: std::mem::take(&mut self.logprobs),
                offset_bytes,
            },
        })
    }

    /// Ends the answer where it is: the engine computes no step of it that begins later. [`LocalGeneration::cut_end`] says what came of
    /// it, and [`LocalGeneration::next`] is not to be called any more.
    pub(crate) fn cut(&mut self) {
        self.sequence.cut();
        self.computed_at_cut = self.sequence.computed_tokens();
    }

    /// Waits until the blocks of an answer that was cut are free.
    pub(crate) async fn cut_end(&mut self) -> CutEnd {
        let summary = self.last_summary().await;
        let computed = self.sequence.computed_tokens();
        CutEnd {
            event: proto::GenerateFinished {
                finish_reason: proto::FinishReason::Guard.into(),
                usage: summary.as_ref().map(provenance::usage),
                timing: summary
                    .as_ref()
                    .map(|summary| provenance::timing(summary, self.sequence.elapsed())),
                ..proto::GenerateFinished::default()
            },
            computed_after: Some(computed.saturating_sub(self.computed_at_cut)),
        }
    }

    /// The summary of an answer that was cut; `None` where it has failed or nobody waits for it any longer. A sequence that has
    /// ended already is not asked again, because its silence would count as a fault of the model.
    async fn last_summary(&mut self) -> Option<SequenceSummary> {
        if self.summary.is_some() || self.done {
            return self.summary.take();
        }
        loop {
            match self.sequence.next().await {
                Ok(Event::Finished(summary)) => return Some(summary),
                // Tokens of the step that was under way, and those that had not been taken yet.
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    fn finished(&mut self, summary: &SequenceSummary) -> Piece {
        let stop_sequence = self.decoder.stopped().unwrap_or_default().to_owned();
        Piece::Finished(Box::new(Finished {
            event: proto::GenerateFinished {
                finish_reason: finish_reason(summary.reason).into(),
                stop_sequence,
                usage: Some(provenance::usage(summary)),
                timing: Some(provenance::timing(summary, self.sequence.elapsed())),
                text_digest: digest::of_bytes(&self.text),
                ..proto::GenerateFinished::default()
            },
            text: std::mem::take(&mut self.text),
            seed: self.work.sampling.seed,
            provenance: self.provenance(),
        }))
    }

    fn provenance(&self) -> proto::Provenance {
        let template = match (&*self.work.prompt, &self.entry.resident.template) {
            (Prompt::Conversation(_), Some(template)) => template.digest(),
            _ => "",
        };
        let sampled = self.work.sampling.temperature > 0.0;
        proto::Provenance {
            thoughts_left_out: self.thoughts_left_out.clone(),
            ..provenance::provenance(&self.entry, template, sampled.then_some(self.work.sampling.seed))
        }
    }
}

/// A prompt as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptTokens {
    ids: Vec<u32>,
    /// Indices of the messages whose thoughts were left out of it.
    thoughts_left_out: Vec<u32>,
}

impl PromptTokens {
    /// The tokens of a prompt from which nothing was left out.
    fn whole(ids: Vec<u32>) -> Self {
        Self {
            ids,
            thoughts_left_out: Vec::new(),
        }
    }
}

/// Waits for a turn to work on text, and turns a prompt into tokens.
pub(crate) async fn prompt_tokens(
    context: &WorkContext,
    work: &GenerateWork,
    entry: &Lease,
) -> Result<PromptTokens, ServiceError> {
    let tokenizer = &entry.resident.tokenizer;
    let size = match &*work.prompt {
        Prompt::Conversation(messages) => encode::conversation_size(tokenizer, messages, 0),
        Prompt::Text(text) => encode::text_size(tokenizer, text),
        Prompt::Tokens(ids) => {
            return Ok(PromptTokens::whole(ids.clone()));
        }
    };
    let model = encode::longest_prompt(&entry.resident.limits, work.max_new_tokens);
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, work.max_new_tokens)?;
    let most = limit.tokens();
    let (entry, prompt, field) = (entry.clone(), Arc::clone(&work.prompt), work.prompt_field.clone());
    let tokens = context.with_text(size, move |watch| {
        tokens(&entry, &prompt, &field, encode::allowance(most, watch))
    });
    tokens.await.map_err(|error| limit.explain(error))
}

fn tokens(
    entry: &ModelEntry,
    prompt: &Prompt,
    field: &str,
    allowance: Allowance<'_>,
) -> Result<PromptTokens, ServiceError> {
    let resident = &entry.resident;
    let tokenizer = &resident.tokenizer;
    match prompt {
        Prompt::Conversation(messages) => {
            let template = resident
                .template
                .as_ref()
                .ok_or(ServiceError::ChatTemplateMissing)?;
            let failed = |error: TokenizerError| {
                let fields = encode::message_fields(field, messages);
                encode::token_error(&error, allowance.tokens, tokenizer, fields)
            };
            let turns: Vec<ChatTurn> = messages.iter().map(|message| chat_turn(message)).collect();
            // The chat template may leave out parts of the assistant's messages only, so all other messages bound the prompt
            // from below before it is rendered.
            let kept = turns
                .iter()
                .filter(|turn| turn.message.role != ChatRole::Assistant);
            let least = kept.map(|turn| tokenizer.least_tokens(strip(&turn.message.content)));
            allowance.least(least).map_err(failed)?;
            let rendered = template.render_tool_turns(&turns, true);
            let rendered = rendered.map_err(|error| conversation_error(&error, messages, field))?;
            let ids = tokenizer.encode_within(&rendered.segments, allowance);
            let thoughts = rendered.thoughts_left_out.into_iter();
            Ok(PromptTokens {
                ids: ids.map_err(failed)?,
                thoughts_left_out: thoughts.map(provenance::count).collect(),
            })
        }
        Prompt::Text(text) => {
            let mut ids: Vec<u32> = tokenizer.bos_for_raw().into_iter().collect();
            let encoded = tokenizer.encode_plain_within(text, allowance);
            ids.extend(encoded.map_err(|error| {
                let origin = TextOrigin::Field(field.to_owned());
                encode::token_error(&error, allowance.tokens, tokenizer, [(origin, text.as_str())])
            })?);
            Ok(PromptTokens::whole(ids))
        }
        Prompt::Tokens(ids) => Ok(PromptTokens::whole(ids.clone())),
    }
}

/// A message as the chat template reads it.
fn chat_turn(message: &SentMessage) -> ChatTurn {
    let calls = message.tool_calls.iter().map(|call| CalledTool {
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    });
    ChatTurn {
        message: ChatMessage {
            role: match message.speaker {
                Speaker::System => ChatRole::System,
                Speaker::User | Speaker::Tool => ChatRole::User,
                Speaker::Assistant => ChatRole::Assistant,
            },
            content: message.said(),
        },
        tools: match message.speaker {
            Speaker::Tool => ToolUse::Result {
                tool: message.tool_name.clone(),
            },
            _ if message.tool_calls.is_empty() => ToolUse::None,
            _ => ToolUse::Calls(calls.collect()),
        },
    }
}

/// The error of a conversation that a chat template refuses, or fails on because it knows no tools.
fn conversation_error(error: &TemplateError, messages: &[Arc<SentMessage>], field: &str) -> ServiceError {
    let first = messages.iter().position(|message| message.uses_tools());
    match (error, first) {
        (TemplateError::Refused(_) | TemplateError::Invalid(_), Some(index)) => {
            let part = match messages[index].speaker {
                Speaker::Tool => "role",
                Speaker::System | Speaker::User | Speaker::Assistant => "tool_calls",
            };
            ServiceError::ConversationShape(vec![Violation::new(
                format!("{field}.messages[{index}].{part}"),
                "the model's chat template does not take calls and results of tools as they stand here: this is the first",
            )])
        }
        _ => template_error(error, field),
    }
}

/// The error of a conversation that a chat template refuses. The template's own text is not repeated, because it may quote
/// a message.
pub(crate) fn template_error(error: &TemplateError, field: &str) -> ServiceError {
    let violation = |field: String, description: &str| {
        ServiceError::ConversationShape(vec![Violation::new(field, description)])
    };
    match error {
        TemplateError::Invalid(_) => ServiceError::TextFault,
        TemplateError::TooLong => violation(
            format!("{field}.messages"),
            "the model's chat template takes too many steps, or makes too much text, for this conversation",
        ),
        TemplateError::Refused(_) => violation(
            format!("{field}.messages"),
            "the model's chat template refuses this order of roles",
        ),
        TemplateError::MessageDropped(index) => violation(
            format!("{field}.messages[{index}]"),
            "the model's chat template leaves this message out",
        ),
        TemplateError::CallsDropped(index) => violation(
            format!("{field}.messages[{index}].tool_calls"),
            "the model's chat template leaves out calls of tools, or some of their arguments",
        ),
    }
}

fn finish_reason(reason: FinishReason) -> proto::FinishReason {
    match reason {
        FinishReason::Eos => proto::FinishReason::Eos,
        FinishReason::MaxTokens => proto::FinishReason::MaxTokens,
        FinishReason::Stop => proto::FinishReason::StopSequence,
        FinishReason::ContextWindow => proto::FinishReason::ContextWindow,
        FinishReason::Cut => proto::FinishReason::Guard,
        // Only sequences with a probe end like this, and a generation has none.
        FinishReason::Probe => proto::FinishReason::Unspecified,
    }
}
