//! Conversations as chat traffic has them, as the turns that guards were trained on.
//!
//! Prompts of guards know turns of a user and of an assistant, which alternate and begin with the user. A [`TurnPlan`] says of each
//! message in which turn it stands, and whether it is judged, context or left out, by the [`ConversationForm`] of the guard. It
//! looks at who speaks alone, so that nothing that a message says can change what becomes of it. A conversation that alternates
//! keeps its texts byte for byte. `docs/guards.md` has the rules and where they come from.

use super::sent_message::{ContentKind, SentMessage, Speaker};
use crate::text::{ChatMessage, ChatRole};

/// Stands between the texts of two messages that are one turn.
const BETWEEN_MESSAGES: &str = "\n\n";

/// What of a conversation the prompt of a guard has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationExtent {
    /// All of it.
    Conversation,
    /// One request, and its answer if that is judged.
    LastExchange,
}

/// What becomes of messages of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemMessages {
    /// They are left out.
    LeftOut,
    /// Those that begin the conversation stand at the beginning of the user's first turn. Others are left out.
    FirstTurn,
}

/// The conversations that a guard was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationForm {
    /// How much of a conversation it sees.
    pub extent: ConversationExtent,
    /// What it sees of the system's messages.
    pub system: SystemMessages,
}

/// Why a message is not in a guard's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// The guard has no place for a message of the system there.
    System,
    /// The guard sees the last exchange only.
    EarlierExchange,
    /// The judged message is too long, and this one would leave too little room for a window of it.
    NoRoom,
}

/// What becomes of a message in a guard's prompt. `turn` is the index of its turn, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessagePlace {
    /// It is judged, perhaps with others of its turn.
    Judged {
        /// Index of the turn.
        turn: usize,
    },
    /// The guard sees it before the judged turn.
    Context {
        /// Index of the turn.
        turn: usize,
    },
    /// The guard does not see it.
    LeftOut(LeftOut),
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageUse {
    /// Where it is.
    pub place: MessagePlace,
    /// Its parts that are not text, in their order. The guard is told where they were.
    pub omitted: Vec<ContentKind>,
    /// Bytes that are cut off at the beginning of its text.
    pub cut_bytes: usize,
}

/// There is no message that a guard could judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no message is the user's, an assistant's or a tool's")]
pub struct NothingToJudge;

/// The places of a conversation's messages in a guard's prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnPlan {
    /// Of each message.
    places: Vec<MessagePlace>,
    /// The messages of each turn, in their order. The first turn is the user's, and then the roles alternate; the last one is
    /// judged. A turn without messages has no text.
    turns: Vec<Vec<usize>>,
}

/// Messages of one side in a row.
struct SideRun {
    role: ChatRole,
    messages: Vec<usize>,
}

impl TurnPlan {
    /// The plan of a conversation whose last message is judged.
    ///
    /// # Errors
    /// When all messages are the system's, or there are none.
    pub fn new(
        speakers: impl IntoIterator<Item = Speaker>,
        form: ConversationForm,
    ) -> Result<Self, NothingToJudge> {
        let mut places = Vec::new();
        let mut runs: Vec<SideRun> = Vec::new();
        let mut has_begun = false;
        for (index, speaker) in speakers.into_iter().enumerate() {
            places.push(MessagePlace::LeftOut(LeftOut::System));
            let in_first_turn = form.system == SystemMessages::FirstTurn && !has_begun;
            let role = match speaker {
                Speaker::System if !in_first_turn => continue,
                Speaker::System => ChatRole::User,
                other => {
                    has_begun = true;
                    other.side()
                }
            };
            match runs.last_mut() {
                Some(run) if run.role == role => run.messages.push(index),
                _ => runs.push(SideRun {
                    role,
                    messages: vec![index],
                }),
            }
        }
        if !has_begun {
            return Err(NothingToJudge);
        }
        let judges_answer = runs.last().is_some_and(|run| run.role == ChatRole::Assistant);
        if runs.first().is_some_and(|run| run.role == ChatRole::Assistant) {
            let empty = SideRun {
                role: ChatRole::User,
                messages: Vec::new(),
            };
            runs.insert(0, empty);
        }
        let mut turns: Vec<Vec<usize>> = runs.into_iter().map(|run| run.messages).collect();
        if form.extent == ConversationExtent::LastExchange {
            let earlier = turns.len().saturating_sub(1 + usize::from(judges_answer));
            for index in turns.drain(..earlier).flatten() {
                places[index] = MessagePlace::LeftOut(LeftOut::EarlierExchange);
            }
        }
        let last = turns.len() - 1;
        for (turn, messages) in turns.iter().enumerate() {
            for index in messages {
                places[*index] = match turn == last {
                    true => MessagePlace::Judged { turn },
                    false => MessagePlace::Context { turn },
                };
            }
        }
        Ok(Self { places, turns })
    }

    /// Of each message, where it is.
    pub fn places(&self) -> &[MessagePlace] {
        &self.places
    }

    /// The messages of each turn.
    pub fn turns(&self) -> &[Vec<usize>] {
        &self.turns
    }

    /// The turns of the prompt. `messages` are those of the conversation.
    pub fn texts<M: AsRef<SentMessage>>(&self, messages: &[M]) -> Vec<ChatMessage> {
        let turns = self.turns.iter().enumerate();
        turns
            .map(|(turn, of_turn)| {
                let texts = of_turn.iter().filter_map(|index| messages.get(*index));
                let texts: Vec<String> = texts.map(|message| message.as_ref().text()).collect();
                ChatMessage {
                    role: turn_role(turn),
                    content: joined(&texts),
                }
            })
            .collect()
    }

    /// What became of each message.
    pub fn uses<M: AsRef<SentMessage>>(&self, messages: &[M]) -> Vec<MessageUse> {
        let placed = self.places.iter().zip(messages);
        placed
            .map(|(place, message)| MessageUse {
                place: *place,
                omitted: message.as_ref().other_parts().collect(),
                cut_bytes: 0,
            })
            .collect()
    }
}

/// The side of a turn.
pub(super) fn turn_role(turn: usize) -> ChatRole {
    match turn.is_multiple_of(2) {
        true => ChatRole::User,
        false => ChatRole::Assistant,
    }
}

/// The text of a turn. Messages without text leave no trace in it.
fn joined(texts: &[String]) -> String {
    let texts = texts.iter().map(String::as_str).filter(|text| !text.is_empty());
    texts.collect::<Vec<_>>().join(BETWEEN_MESSAGES)
}

/// Of each message of a turn, the bytes of its text in the turn's text.
pub(super) fn ranges_in_turn<'a>(
    messages: impl Iterator<Item = &'a SentMessage>,
) -> Vec<std::ops::Range<usize>> {
    let mut end = 0;
    messages
        .map(|message| {
            let length = message.text().len();
            let start = match (end, length) {
                (0, _) | (_, 0) => end,
                _ => end + BETWEEN_MESSAGES.len(),
            };
            end = start + length;
            start..end
        })
        .collect()
}

/// Which messages of a conversation are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgeScope {
    /// The last one.
    LastMessage,
    /// The answer that ends the conversation, and what it answers.
    Exchange,
    /// Every message but the system's, with those before it.
    EachMessage,
}

/// Why the messages that are to be judged cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeProblem {
    /// All messages are the system's.
    #[error(transparent)]
    Nothing(#[from] NothingToJudge),
    /// The conversation does not end with an answer, or nothing comes before it.
    #[error(
        "there is no exchange: the last message must be an assistant's, with a user's or a tool's before it"
    )]
    NoExchange,
    /// Nothing of the message with this index, and of its turn, is text.
    #[error("message {0} has nothing that a guard can judge")]
    NoText(usize),
}

/// For each message that is judged, the number of messages up to it, in rising order. A message that says nothing but parts which
/// no guard can judge is passed over where each message is judged.
pub fn judged_ends<M: AsRef<SentMessage>>(
    messages: &[M],
    scope: JudgeScope,
) -> Result<Vec<usize>, ScopeProblem> {
    let form = ConversationForm {
        extent: ConversationExtent::Conversation,
        system: SystemMessages::LeftOut,
    };
    let plan = TurnPlan::new(messages.iter().map(|message| message.as_ref().speaker), form)?;
    let says = |index: &usize| {
        messages
            .get(*index)
            .is_some_and(|message| message.as_ref().says_text())
    };
    let turn_says = |turn: &Vec<usize>| match (turn.iter().any(says), turn.last()) {
        (false, Some(last)) => Err(ScopeProblem::NoText(*last)),
        _ => Ok(()),
    };
    match scope {
        JudgeScope::LastMessage => {
            plan.turns.last().map_or(Ok(()), turn_says)?;
            Ok(vec![messages.len()])
        }
        JudgeScope::Exchange => match plan.turns.as_slice() {
            [.., asked, answer] if plan.turns.len().is_multiple_of(2) => {
                turn_says(asked)?;
                turn_says(answer)?;
                let asked = asked.last().ok_or(ScopeProblem::NoExchange)?;
                Ok(vec![asked + 1, messages.len()])
            }
            _ => Err(ScopeProblem::NoExchange),
        },
        JudgeScope::EachMessage => {
            let judged = plan.turns.iter().flatten();
            let ends: Vec<usize> = judged
                .filter(|index| says(index))
                .map(|index| index + 1)
                .collect();
            match (ends.is_empty(), plan.turns.last().and_then(|turn| turn.last())) {
                (true, Some(last)) => Err(ScopeProblem::NoText(*last)),
                _ => Ok(ends),
            }
        }
    }
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
