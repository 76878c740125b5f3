//! A judged message that is longer than the guard's context window, in windows.
//!
//! Each window is judged as the last message of the conversation, so a verdict on it is that of an ordinary Classify. The messages
//! before it may take half of the room; the earliest of them are left out, and of a request that is longer than that the beginning
//! is cut off, because an answer is judged better with the end of its request than with none.

use std::ops::Range;

use super::{
    error::PromptError,
    growing::words,
    judge::Guard,
    normalise::{LeftOut, MessagePlace, MessageUse, TurnPlan, ranges_in_turn, turn_role},
    policy::Policy,
    question::message,
    sent_message::SentMessage,
};
use crate::text::{Allowance, ChatMessage, ChatRole, TokenizerError};

/// Fewest tokens of a window's text.
pub const LEAST_WINDOW_TOKENS: usize = 32;

/// Most windows of a message.
pub const MAX_WINDOWS: usize = 64;

/// Words are counted each by itself, and a text may have a few more tokens than its words. So a cut whose prompts turn out too long
/// is made again with windows smaller by an eighth of the room, at most this many times.
const ATTEMPTS: usize = 6;

/// How a message is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRules {
    /// Most tokens of a window's text; `None` is as many as there is room for.
    pub tokens: Option<usize>,
    /// Tokens that two windows have in common; more than half of a window count as half of it.
    pub overlap: usize,
    /// Most windows.
    pub most: usize,
}

impl Default for WindowRules {
    fn default() -> Self {
        Self {
            tokens: None,
            overlap: 64,
            most: 16,
        }
    }
}

/// A message in windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windowed {
    /// The windows in their order, each with its prompt.
    pub windows: Vec<TextWindow>,
    /// What became of each message of the conversation, in all of them.
    pub uses: Vec<MessageUse>,
}

/// A window of the judged turn's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWindow {
    /// Its bytes.
    pub bytes: Range<usize>,
    /// The tokens of the prompt with it.
    pub prompt: Vec<u32>,
}

/// Why a message cannot be judged in windows.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The prompt has no room for a window.
    #[error("the guard's context window has no room for a window of the text")]
    NoRoom,
    /// It takes more windows than are allowed.
    #[error("the text takes {needed} windows")]
    TooMany {
        /// How many it takes.
        needed: usize,
    },
    /// The prompt could not be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// A word, or a part of one that is long.
#[derive(Debug, Clone, Copy)]
struct WindowPiece {
    end: usize,
    tokens: usize,
}

/// Cuts a text into pieces with their tokens. Words of more than `most` tokens are cut at each code point.
fn pieces(text: &str, most: usize, count: &dyn Fn(&str) -> usize) -> Vec<WindowPiece> {
    let mut found = Vec::new();
    let mut end = 0;
    for word in words(text) {
        let tokens = count(word).max(1);
        if tokens <= most {
            end += word.len();
            found.push(WindowPiece { end, tokens });
            continue;
        }
        for character in word.chars() {
            end += character.len_utf8();
            let tokens = count(character.encode_utf8(&mut [0; 4])).max(1);
            found.push(WindowPiece { end, tokens });
        }
    }
    found
}

/// Windows of at most `room` tokens that cover a text, each of which begins with about `overlap` tokens of the one before. There is
/// always one.
fn cut(text: &str, room: usize, overlap: usize, count: &dyn Fn(&str) -> usize) -> Vec<Range<usize>> {
    let pieces = pieces(text, room / 2, count);
    if pieces.is_empty() {
        // An answer that says nothing is judged too, after a request that is too long.
        let whole = 0..text.len();
        return vec![whole];
    }
    let mut windows = Vec::new();
    let mut first = 0;
    while first < pieces.len() {
        let (mut next, mut tokens) = (first, 0);
        while let Some(piece) = pieces.get(next)
            && (next == first || tokens + piece.tokens <= room)
        {
            tokens += piece.tokens;
            next += 1;
        }
        let start = first.checked_sub(1).map_or(0, |before| pieces[before].end);
        windows.push(start..pieces[next - 1].end);
        if next == pieces.len() {
            break;
        }
        // The next window has more than what it has in common with this one.
        let most = overlap.min(room.saturating_sub(pieces[next].tokens));
        let mut common = 0;
        let mut again = next;
        while again > first + 1 && common + pieces[again - 1].tokens <= most {
            again -= 1;
            common += pieces[again].tokens;
        }
        first = again;
    }
    windows
}

/// Where the last `room` tokens of a text begin.
fn tail_start(text: &str, room: usize, count: &dyn Fn(&str) -> usize) -> usize {
    let mut left = room;
    let mut start = text.len();
    let pieces = pieces(text, room / 2, count);
    for index in (0..pieces.len()).rev() {
        match left.checked_sub(pieces[index].tokens) {
            Some(rest) => left = rest,
            None => break,
        }
        start = index.checked_sub(1).map_or(0, |before| pieces[before].end);
    }
    start
}

/// The turns before the judged one that windows are judged with.
struct WindowContext {
    turns: Vec<ChatMessage>,
    /// Index of the first of them in the plan, an even number: it is the user's.
    first: usize,
    /// Bytes that are cut off at the beginning of its text. Only a request that is alone before the judged answer is cut.
    cut: usize,
    /// Tokens of a prompt with them and an empty judged turn.
    tokens: usize,
}

/// Makes the prompts of one message's windows.
struct Cutter<'a> {
    guard: &'a Guard,
    policy: Option<&'a Policy>,
    role: ChatRole,
    allowance: Allowance<'a>,
}

impl Cutter<'_> {
    fn prompt(&self, context: &[ChatMessage], text: &str) -> Result<Vec<u32>, PromptError> {
        let mut turns = context.to_vec();
        turns.push(message(self.role, text));
        self.guard.prompt_within(&turns, self.policy, self.allowance)
    }

    /// Tokens of a prompt, if the guard has room for it.
    fn tokens(&self, context: &[ChatMessage]) -> Result<Option<usize>, PromptError> {
        match self.prompt(context, "") {
            Ok(prompt) => Ok(Some(prompt.len())),
            Err(PromptError::Tokenizer(TokenizerError::TooLong(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tokens of a word by itself. One that cannot be encoded counts as one token; its window's prompt will say what is wrong.
    fn count(&self, word: &str) -> usize {
        let allowance = Allowance {
            tokens: usize::MAX,
            ..self.allowance
        };
        let tokenizer = self.guard.tokenizer();
        let tokens = tokenizer.and_then(|tokenizer| tokenizer.encode_plain_within(word, allowance).ok());
        tokens.map_or(1, |tokens| tokens.len())
    }

    /// The latest turns that take at most half of the room. `before` are all turns before the judged one.
    fn context(&self, before: &[ChatMessage]) -> Result<WindowContext, WindowError> {
        // An answer needs a request before it, be it empty.
        let request = before.last().filter(|_| self.role == ChatRole::Assistant);
        let empty: Vec<_> = request.iter().map(|_| message(ChatRole::User, "")).collect();
        let first = before.len() - empty.len();
        let base = self.tokens(&empty)?.ok_or(WindowError::NoRoom)?;
        let room = self.allowance.tokens.saturating_sub(base) / 2;
        let fits = |turns: &[ChatMessage]| {
            let tokens = self.tokens(turns)?;
            Ok::<_, WindowError>(tokens.filter(|tokens| *tokens <= base + room))
        };
        let mut kept = WindowContext {
            turns: empty,
            first,
            cut: request.map_or(0, |request| request.content.len()),
            tokens: base,
        };
        if let Some(request) = request {
            let mut tail = room;
            let mut cut = 0;
            for _ in 0..ATTEMPTS {
                let turns = vec![message(ChatRole::User, &request.content[cut..])];
                if let Some(tokens) = fits(&turns)? {
                    kept = WindowContext {
                        turns,
                        cut,
                        tokens,
                        ..kept
                    };
                    break;
                }
                cut = tail_start(&request.content, tail, &|word| self.count(word));
                tail -= tail / 8;
            }
        }
        while kept.cut == 0
            && let Some(first) = kept.first.checked_sub(2)
            && let Some(tokens) = fits(&before[first..])?
        {
            kept = WindowContext {
                turns: before[first..].to_vec(),
                first,
                cut: 0,
                tokens,
            };
        }
        Ok(kept)
    }

    fn windows(
        &self,
        context: &WindowContext,
        text: &str,
        rules: WindowRules,
    ) -> Result<Vec<TextWindow>, WindowError> {
        let room = self.allowance.tokens.saturating_sub(context.tokens);
        for attempt in 0..ATTEMPTS {
            let target = room - attempt * room / 8;
            let target = rules.tokens.map_or(target, |most| most.min(target));
            if target < LEAST_WINDOW_TOKENS {
                break;
            }
            let windows = cut(text, target, rules.overlap.min(target / 2), &|word| {
                self.count(word)
            });
            if windows.len() > rules.most {
                return Err(WindowError::TooMany {
                    needed: windows.len(),
                });
            }
            let windows = windows.into_iter().map(|bytes| {
                let prompt = self.prompt(&context.turns, &text[bytes.clone()])?;
                Ok::<_, PromptError>(TextWindow { bytes, prompt })
            });
            match windows.collect() {
                Err(PromptError::Tokenizer(TokenizerError::TooLong(_))) => {}
                windows => return Ok(windows?),
            }
        }
        Err(WindowError::NoRoom)
    }
}

impl Guard {
    /// The judged turn of a conversation in windows, within an allowance of tokens for each prompt. `plan` is the conversation's.
    pub fn windows<M: AsRef<SentMessage>>(
        &self,
        messages: &[M],
        plan: &TurnPlan,
        policy: Option<&Policy>,
        rules: WindowRules,
        allowance: Allowance<'_>,
    ) -> Result<Windowed, WindowError> {
        let turns = plan.texts(messages);
        let Some((judged, before)) = turns.split_last() else {
            return Err(WindowError::NoRoom);
        };
        let cutter = Cutter {
            guard: self,
            policy,
            role: turn_role(before.len()),
            allowance,
        };
        let context = cutter.context(before)?;
        let windows = cutter.windows(&context, &judged.content, rules)?;
        Ok(Windowed {
            windows,
            uses: uses(messages, plan, &context),
        })
    }
}

/// What became of the messages in prompts with this context.
fn uses<M: AsRef<SentMessage>>(messages: &[M], plan: &TurnPlan, context: &WindowContext) -> Vec<MessageUse> {
    let mut uses = plan.uses(messages);
    for one in &mut uses {
        one.place = match one.place {
            MessagePlace::Context { turn } if turn < context.first => MessagePlace::LeftOut(LeftOut::NoRoom),
            MessagePlace::Context { turn } => MessagePlace::Context {
                turn: turn - context.first,
            },
            MessagePlace::Judged { turn } => MessagePlace::Judged {
                turn: turn - context.first,
            },
            left_out @ MessagePlace::LeftOut(_) => left_out,
        };
    }
    let cut_turn = plan.turns().get(context.first).filter(|_| context.cut > 0);
    let indices = cut_turn.map_or(&[][..], Vec::as_slice);
    let of_turn = indices.iter().filter_map(|index| messages.get(*index));
    let ranges = ranges_in_turn(of_turn.map(AsRef::as_ref));
    for (index, range) in indices.iter().zip(ranges) {
        if let Some(one) = uses.get_mut(*index) {
            match range.end <= context.cut {
                true => one.place = MessagePlace::LeftOut(LeftOut::NoRoom),
                false => one.cut_bytes = context.cut.saturating_sub(range.start),
            }
        }
    }
    uses
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
