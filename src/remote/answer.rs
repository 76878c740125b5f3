//! What an endpoint says in the pieces of an answer. Nothing here knows the network.

use serde::Deserialize;

use super::{
    error::RemoteError,
    json::{self, name},
};

/// The data of the event that ends a stream.
const DONE: &str = "[DONE]";

/// Most bytes of text for each token that an answer may have. The longest tokens of common vocabularies are runs of spaces.
const BYTES_PER_TOKEN: usize = 256;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum RemoteEvent {
    /// More text; never empty.
    Delta {
        /// Whole code points.
        text: String,
    },
    /// The end; nothing follows.
    Finished(RemoteFinished),
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFinished {
    /// Why it ended.
    pub reason: RemoteFinish,
    /// What it cost, if the endpoint said so.
    pub usage: Option<RemoteUsage>,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteFinish {
    /// The model ended it, or a stop text did: most endpoints do not say which.
    Stop,
    /// This stop text did, as the endpoint says.
    StopText(String),
    /// It has as many tokens as it may, or the model's window is full.
    Length,
}

/// Tokens, as the endpoint counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteUsage {
    /// Of the prompt.
    pub prompt_tokens: u32,
    /// Of the answer.
    pub completion_tokens: u32,
    /// Of the prompt, those that it did not compute again.
    pub cached_prompt_tokens: u32,
}

/// What an endpoint says with an answer of who computed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedEngine {
    /// The name of the model.
    pub model: Option<String>,
    /// The fingerprint of the system.
    pub fingerprint: Option<String>,
}

/// An event of the stream of `/chat/completions` or `/completions`.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    system_fingerprint: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<UsageBody>,
    #[serde(default)]
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<ChoiceDelta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
    /// The stop text that matched, of engines such as vLLM; a number where a token did.
    #[serde(default)]
    stop_reason: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ChoiceDelta {
    #[serde(default)]
    content: Option<String>,
}

/// Tokens, as endpoints write them.
#[derive(Deserialize)]
pub(super) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

impl UsageBody {
    /// The usage of an answer of at most `max_tokens` tokens. What it cannot be is an error, because callers pay for it.
    pub(super) fn checked(&self, max_tokens: usize) -> Result<RemoteUsage, RemoteError> {
        let cached = self
            .prompt_tokens_details
            .as_ref()
            .and_then(|details| details.cached_tokens);
        let usage = RemoteUsage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            cached_prompt_tokens: cached.unwrap_or(0),
        };
        let is_more = usize::try_from(usage.completion_tokens).is_ok_and(|tokens| tokens > max_tokens);
        if is_more {
            return Err(RemoteError::malformed(
                "`usage` has more tokens than the answer may have",
            ));
        }
        if usage.cached_prompt_tokens > usage.prompt_tokens {
            return Err(RemoteError::malformed(
                "`usage` has more cached tokens than the prompt",
            ));
        }
        Ok(usage)
    }
}

/// An error, as endpoints write it.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    #[serde(default)]
    code: Option<serde_json::Value>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl ErrorBody {
    /// Its code or type, where it is a short name.
    pub(super) fn name(&self) -> Option<String> {
        let code = self.code.as_ref().and_then(serde_json::Value::as_str);
        code.and_then(name).or_else(|| name(self.kind.as_deref()?))
    }
}

/// Reads the events of one answer, and holds them against each other.
pub(super) struct AnswerReader {
    max_tokens: usize,
    text_bytes: usize,
    finish: Option<RemoteFinish>,
    usage: Option<RemoteUsage>,
    reported: ReportedEngine,
    is_done: bool,
}

impl AnswerReader {
    /// For an answer of at most `max_tokens` tokens.
    pub(super) fn new(max_tokens: usize) -> Self {
        Self {
            max_tokens,
            text_bytes: 0,
            finish: None,
            usage: None,
            reported: ReportedEngine::default(),
            is_done: false,
        }
    }

    /// Whether the stream has been ended.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn reported(&self) -> &ReportedEngine {
        &self.reported
    }

    /// Takes the data of an event, and returns the text that came with it.
    pub(super) fn take(&mut self, data: &str) -> Result<Option<String>, RemoteError> {
        if self.is_done {
            return Err(RemoteError::malformed("an event after the end of the answer"));
        }
        if data.trim() == DONE {
            self.is_done = true;
            return Ok(None);
        }
        let chunk: Chunk = json::read(data.as_bytes())?;
        if let Some(error) = chunk.error {
            return Err(RemoteError::Failed { kind: error.name() });
        }
        if self.reported.model.is_none() {
            self.reported.model = chunk.model.as_deref().and_then(name);
        }
        if self.reported.fingerprint.is_none() {
            self.reported.fingerprint = chunk.system_fingerprint.as_deref().and_then(name);
        }
        if let Some(usage) = chunk.usage {
            self.take_usage(&usage)?;
        }
        let mut choices = chunk.choices.into_iter();
        let text = match choices.next() {
            Some(choice) => self.take_choice(choice)?,
            None => None,
        };
        if choices.next().is_some() {
            return Err(RemoteError::malformed("more than one choice"));
        }
        Ok(text)
    }

    fn take_choice(&mut self, choice: Choice) -> Result<Option<String>, RemoteError> {
        if choice.index != 0 {
            return Err(RemoteError::malformed("more than one choice"));
        }
        let content = choice.delta.and_then(|delta| delta.content);
        let text = content.or(choice.text).filter(|text| !text.is_empty());
        if let Some(text) = &text {
            if self.finish.is_some() {
                return Err(RemoteError::malformed(
                    "text after the reason why the answer ended",
                ));
            }
            self.text_bytes = self.text_bytes.saturating_add(text.len());
            let limit = self.max_tokens.saturating_mul(BYTES_PER_TOKEN);
            if self.text_bytes > limit {
                return Err(RemoteError::TooLarge {
                    what: "its answer",
                    limit,
                });
            }
        }
        if let Some(reason) = choice.finish_reason {
            let stop_text = choice
                .stop_reason
                .as_ref()
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned);
            let finish = match reason.as_str() {
                "stop" | "eos_token" | "stop_sequence" => {
                    stop_text.map_or(RemoteFinish::Stop, RemoteFinish::StopText)
                }
                "length" => RemoteFinish::Length,
                "content_filter" => return Err(RemoteError::Filtered),
                _ => return Err(RemoteError::malformed("`finish_reason` is not a known one")),
            };
            if self.finish.as_ref().is_some_and(|before| *before != finish) {
                return Err(RemoteError::malformed("two reasons why the answer ended"));
            }
            self.finish = Some(finish);
        }
        Ok(text)
    }

    /// Engines may send usage with every piece, of which the last counts.
    fn take_usage(&mut self, usage: &UsageBody) -> Result<(), RemoteError> {
        let usage = usage.checked(self.max_tokens)?;
        let before = self.usage.replace(usage);
        if before.is_some_and(|before| {
            before.prompt_tokens != usage.prompt_tokens || before.completion_tokens > usage.completion_tokens
        }) {
            return Err(RemoteError::malformed("`usage` contradicts an earlier one"));
        }
        Ok(())
    }

    /// The end of the answer, when the stream has ended. A stream without its last event is complete if it said why the answer
    /// ended.
    pub(super) fn end(&self) -> Result<RemoteFinished, RemoteError> {
        let reason = match (&self.finish, self.is_done) {
            (Some(reason), _) => reason.clone(),
            (None, true) => return Err(RemoteError::malformed("no reason why the answer ended")),
            (None, false) => return Err(RemoteError::Broken),
        };
        if self.text_bytes > 0 && self.usage.is_some_and(|usage| usage.completion_tokens == 0) {
            return Err(RemoteError::malformed(
                "`usage` has no tokens for an answer with text",
            ));
        }
        Ok(RemoteFinished {
            reason,
            usage: self.usage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and the end of an answer of at most four tokens whose events these are.
    fn answer(events: &[&str]) -> Result<(String, RemoteFinished), RemoteError> {
        let mut reader = AnswerReader::new(4);
        let mut text = String::new();
        for event in events {
            text.extend(reader.take(event)?);
        }
        Ok((text, reader.end()?))
    }

    fn malformed(events: &[&str]) -> String {
        match answer(events) {
            Err(RemoteError::Malformed { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    const ROLE: &str = r#"{"model":"m","system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#;
    const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hello"}}]}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":8}}}"#;

    #[test]
    fn a_chat_answer_has_its_text_its_end_and_its_usage() {
        let (text, end) = answer(&[ROLE, HELLO, HELLO, STOP, USAGE, DONE]).unwrap();
        assert_eq!(text, "HelloHello");
        let usage = RemoteUsage {
            prompt_tokens: 9,
            completion_tokens: 2,
            cached_prompt_tokens: 8,
        };
        assert_eq!(
            end,
            RemoteFinished {
                reason: RemoteFinish::Stop,
                usage: Some(usage)
            }
        );
        let mut reader = AnswerReader::new(4);
        reader.take(ROLE).unwrap();
        let reported = ReportedEngine {
            model: Some("m".to_owned()),
            fingerprint: Some("fp".to_owned()),
        };
        assert_eq!(reader.reported(), &reported);
    }

    #[test]
    fn a_completion_says_which_stop_text_matched() {
        let text = r#"{"choices":[{"text":"a"}]}"#;
        let stopped = r#"{"choices":[{"text":"","finish_reason":"stop","stop_reason":"END"}]}"#;
        let (text, end) = answer(&[text, stopped]).unwrap();
        assert_eq!(text, "a");
        assert_eq!(end.reason, RemoteFinish::StopText("END".to_owned()));
        let by_token = r#"{"choices":[{"text":"","finish_reason":"stop","stop_reason":2}]}"#;
        assert_eq!(answer(&[by_token]).unwrap().1.reason, RemoteFinish::Stop);
    }

    #[test]
    fn answers_that_contradict_themselves_are_refused() {
        let length = r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
        let fewer = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
        let none = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
        let more = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}"#;
        let cached = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}}"#;
        let second = r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#;
        let strange = r#"{"choices":[{"delta":{},"finish_reason":"bored"}]}"#;
        for (events, what) in [
            (
                &[HELLO, STOP, HELLO][..],
                "text after the reason why the answer ended",
            ),
            (&[HELLO, STOP, length], "two reasons why the answer ended"),
            (&[HELLO, DONE], "no reason why the answer ended"),
            (
                &[HELLO, STOP, DONE, HELLO],
                "an event after the end of the answer",
            ),
            (&[USAGE, fewer], "`usage` contradicts an earlier one"),
            (
                &[HELLO, STOP, none],
                "`usage` has no tokens for an answer with text",
            ),
            (&[more], "`usage` has more tokens than the answer may have"),
            (&[cached], "`usage` has more cached tokens than the prompt"),
            (&[second], "more than one choice"),
            (&[strange], "`finish_reason` is not a known one"),
            (&["not json"], "a message is not JSON"),
            (
                &[r#"{"choices":[{"delta":{"content":7}}]}"#],
                "`choices[0].delta.content` is missing or not of its type",
            ),
        ] {
            assert_eq!(malformed(events), what);
        }
    }

    #[test]
    fn answers_that_are_cut_failed_withheld_or_endless_are_errors() {
        assert_eq!(answer(&[HELLO]), Err(RemoteError::Broken));
        let failed = r#"{"error":{"message":"quotes a user","type":"server_error","code":500}}"#;
        let kind = Some("server_error".to_owned());
        assert_eq!(answer(&[HELLO, failed]), Err(RemoteError::Failed { kind }));
        let filtered = r#"{"choices":[{"delta":{},"finish_reason":"content_filter"}]}"#;
        assert_eq!(answer(&[filtered]), Err(RemoteError::Filtered));
        let long = format!(r#"{{"choices":[{{"text":"{}"}}]}}"#, "x".repeat(1025));
        let limit = RemoteError::TooLarge {
            what: "its answer",
            limit: 1024,
        };
        assert_eq!(answer(&[&long]), Err(limit));
    }
}
