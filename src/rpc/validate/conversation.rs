//! Checks conversations: those that a model goes on with, and those that a guard judges.

use std::sync::Arc;

use super::checker::Checker;
use crate::{
    guard::{
        ContentKind, JudgeScope, MAX_PARTS, MAX_TOOL_CALLS, MessageBody, MessagePart, ScopeProblem,
        SentMessage, Speaker, ToolCall, judged_ends,
    },
    proto::{self, content_part},
    rpc::limits::Limits,
};

/// What is done about parts that are not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherParts {
    /// Each is a violation, for this reason.
    Refused(&'static str),
    /// They are taken.
    Taken,
}

const NOT_JUDGED: &str =
    "is no text, and no guard can judge it: leave it out, or set unjudgeable to UNJUDGEABLE_PARTS_OMIT";
const NOT_READ: &str = "is no text, and no model here can read it: leave it out";

/// Checks what is to be done about parts that no guard can judge.
pub(super) fn unjudgeable(checker: &mut Checker, value: i32) -> OtherParts {
    match proto::UnjudgeableParts::try_from(value) {
        Ok(proto::UnjudgeableParts::Omit) => OtherParts::Taken,
        Ok(proto::UnjudgeableParts::Unspecified | proto::UnjudgeableParts::Refuse) => {
            OtherParts::Refused(NOT_JUDGED)
        }
        Err(_) => {
            checker.wrong("unjudgeable", "is not a known value");
            OtherParts::Taken
        }
    }
}

/// Checks the number, roles and contents of the messages that a model answers, and returns them. After a violation the rest is
/// still checked; the result is only valid if the checker has found no violation.
pub(super) fn messages(
    checker: &mut Checker,
    conversation: proto::Conversation,
    limits: &Limits,
) -> Vec<Arc<SentMessage>> {
    each(checker, conversation, limits, |checker, message| {
        let sent = sent(checker, message, limits, OtherParts::Refused(NOT_READ))?;
        // A tool may give nothing back.
        if sent.bytes() == 0 && sent.speaker != Speaker::Tool {
            checker.bytes("content", 0, 1..=limits.content_bytes);
        }
        Some(Arc::new(sent))
    })
}

/// The same for the messages that a guard judges, in any order of roles.
pub(super) fn guard_messages(
    checker: &mut Checker,
    conversation: proto::Conversation,
    limits: &Limits,
    other_parts: OtherParts,
) -> Vec<Arc<SentMessage>> {
    each(checker, conversation, limits, |checker, message| {
        let sent = sent(checker, message, limits, other_parts)?;
        let may_be_empty = match sent.speaker {
            // A model that says nothing, or a tool that gives nothing back, is judged for that.
            Speaker::Assistant | Speaker::Tool => true,
            Speaker::System | Speaker::User => sent.other_parts().next().is_some(),
        };
        if sent.bytes() == 0 && !may_be_empty {
            checker.bytes("content", 0, 1..=limits.content_bytes);
        }
        Some(Arc::new(sent))
    })
}

/// Checks that there is something to judge, and returns for each judged message the number of messages up to it. `messages` are
/// all of a conversation's.
pub(super) fn ends(checker: &mut Checker, messages: &[Arc<SentMessage>], scope: JudgeScope) -> Vec<usize> {
    match judged_ends(messages, scope) {
        Ok(ends) => return ends,
        Err(ScopeProblem::Nothing(_)) => checker.misplaced(
            "conversation.messages[0].role",
            "must be ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL in one message at least: ROLE_SYSTEM messages are not judged",
        ),
        Err(problem @ ScopeProblem::NoExchange) => checker.misplaced("judge", problem.to_string()),
        Err(ScopeProblem::NoText(index)) => checker.wrong(
            &format!("conversation.messages[{index}].parts"),
            "have no text that a guard can judge",
        ),
    }
    Vec::new()
}

/// Checks which messages are judged.
pub(super) fn scope(checker: &mut Checker, value: i32) -> JudgeScope {
    match proto::JudgeScope::try_from(value) {
        Ok(proto::JudgeScope::Unspecified | proto::JudgeScope::LastMessage) => JudgeScope::LastMessage,
        Ok(proto::JudgeScope::Exchange) => JudgeScope::Exchange,
        Ok(proto::JudgeScope::EachMessage) => JudgeScope::EachMessage,
        Err(_) => {
            checker.wrong("judge", "is not a known value");
            JudgeScope::LastMessage
        }
    }
}

/// Checks that a conversation ends with the user, because an answer will follow.
pub(super) fn ends_with_user(checker: &mut Checker, conversation: &proto::Conversation) {
    let last = conversation.messages.last().map(proto::Message::role);
    if matches!(last, Some(proto::Role::Assistant | proto::Role::System)) {
        let field = format!("messages[{}].role", conversation.messages.len() - 1);
        checker.misplaced(&field, "must be ROLE_USER: the answer to it is what is judged");
    }
}

/// Checks the number of messages, and each message.
fn each<M>(
    checker: &mut Checker,
    conversation: proto::Conversation,
    limits: &Limits,
    check: impl Fn(&mut Checker, proto::Message) -> Option<M>,
) -> Vec<M> {
    let count = conversation.messages.len();
    if count == 0 || count > limits.messages {
        checker.wrong(
            "messages",
            format!("must have 1..={} messages, has {count}", limits.messages),
        );
    }
    let checked = conversation
        .messages
        .into_iter()
        .take(limits.messages)
        .enumerate();
    checked
        .filter_map(|(index, message)| {
            checker.within(&format!("messages[{index}]"), |checker| check(checker, message))
        })
        .collect()
}

/// Checks what every message must keep, but for whether it may be empty.
fn sent(
    checker: &mut Checker,
    message: proto::Message,
    limits: &Limits,
    other_parts: OtherParts,
) -> Option<SentMessage> {
    let speaker = speaker(checker, message.role);
    if !message.parts.is_empty() && !message.content.is_empty() {
        checker.wrong("content", "must be empty where there are parts");
    }
    let body = match message.parts.is_empty() {
        true => MessageBody::Whole(message.content),
        false => MessageBody::Parts(parts(checker, message.parts, other_parts)),
    };
    if !message.tool_calls.is_empty() && speaker.is_some_and(|speaker| speaker != Speaker::Assistant) {
        checker.wrong("tool_calls", "are for messages of ROLE_ASSISTANT");
    }
    count(checker, "tool_calls", message.tool_calls.len(), MAX_TOOL_CALLS);
    let tool_calls = message.tool_calls.into_iter().take(MAX_TOOL_CALLS).enumerate();
    let tool_calls = tool_calls.map(|(index, call)| {
        let field = format!("tool_calls[{index}].name");
        checker.bytes(&field, call.name.len(), 1..=limits.id_bytes);
        ToolCall {
            name: call.name,
            arguments: call.arguments,
        }
    });
    let tool_calls = tool_calls.collect();
    if !message.tool_name.is_empty() && speaker.is_some_and(|speaker| speaker != Speaker::Tool) {
        checker.wrong("tool_name", "is for messages of ROLE_TOOL");
    }
    checker.bytes("tool_name", message.tool_name.len(), 0..=limits.id_bytes);
    let sent = SentMessage {
        speaker: speaker.unwrap_or(Speaker::User),
        body,
        tool_calls,
        tool_name: message.tool_name,
    };
    // Whether it may be empty depends on who says it.
    let least = usize::from(speaker.is_none());
    checker.bytes("content", sent.bytes(), least..=limits.content_bytes);
    speaker.map(|_| sent)
}

fn speaker(checker: &mut Checker, role: i32) -> Option<Speaker> {
    match proto::Role::try_from(role) {
        Ok(proto::Role::System) => Some(Speaker::System),
        Ok(proto::Role::User) => Some(Speaker::User),
        Ok(proto::Role::Assistant) => Some(Speaker::Assistant),
        Ok(proto::Role::Tool) => Some(Speaker::Tool),
        Ok(proto::Role::Unspecified) | Err(_) => {
            checker.wrong(
                "role",
                "must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL",
            );
            None
        }
    }
}

fn parts(checker: &mut Checker, parts: Vec<proto::ContentPart>, other_parts: OtherParts) -> Vec<MessagePart> {
    count(checker, "parts", parts.len(), MAX_PARTS);
    let parts = parts.into_iter().take(MAX_PARTS).enumerate();
    parts
        .filter_map(|(index, part)| {
            checker.within(&format!("parts[{index}]"), |checker| {
                part_of(checker, part.part, other_parts)
            })
        })
        .collect()
}

fn part_of(
    checker: &mut Checker,
    part: Option<content_part::Part>,
    other_parts: OtherParts,
) -> Option<MessagePart> {
    let other = match part {
        Some(content_part::Part::Text(text)) => return Some(MessagePart::Text(text)),
        Some(content_part::Part::Other(other)) => other,
        None => {
            checker.wrong("part", "is required: set text or other");
            return None;
        }
    };
    let kind = match proto::ContentKind::try_from(other) {
        Ok(proto::ContentKind::Image) => ContentKind::Image,
        Ok(proto::ContentKind::Audio) => ContentKind::Audio,
        Ok(proto::ContentKind::Video) => ContentKind::Video,
        Ok(proto::ContentKind::File) => ContentKind::File,
        Ok(proto::ContentKind::Unspecified) | Err(_) => {
            checker.wrong("other", "is not a known kind of content");
            return None;
        }
    };
    if let OtherParts::Refused(reason) = other_parts {
        checker.wrong("other", reason);
    }
    Some(MessagePart::Other(kind))
}

fn count(checker: &mut Checker, field: &str, count: usize, most: usize) {
    if count > most {
        checker.wrong(field, format!("must be at most {most}, are {count}"));
    }
}
