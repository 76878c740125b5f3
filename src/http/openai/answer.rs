//! What Generate says, in the objects of chat completions and completions: one for a whole answer, or one for each piece.

use serde::Serialize;

use super::logprobs::{BegunCharacters, ChatLogprobs, TextLogprobs};
use crate::proto::{self, guard_ended};

/// The endpoint that answers, whose objects differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completion,
}

/// An answer as it comes from Generate.
pub(super) struct Answer {
    endpoint: Endpoint,
    id: String,
    /// When the request was taken, in seconds since 1970.
    created: u64,
    /// The model's id and the digest of its file, once it has begun.
    started: proto::GenerateStarted,
    has_logprobs: bool,
    begun: BegunCharacters,
}

/// What is said of an answer before it begins.
pub(super) struct AnswerHead {
    pub(super) endpoint: Endpoint,
    /// What tells the call apart from others.
    pub(super) request_id: String,
    /// In seconds since 1970.
    pub(super) created: u64,
    /// Whether log-probabilities were asked for.
    pub(super) has_logprobs: bool,
}

/// An object of an answer: the whole of it, or a piece.
#[derive(Debug, Serialize)]
pub(super) struct Object {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    /// What the answer was computed with: the digest of the model's file.
    system_fingerprint: String,
    choices: Vec<Choice>,
    /// Absent in pieces of streams without usage, and `null` in all but the last of those with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    babelward: Option<Extension>,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    #[serde(flatten)]
    said: Said,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// The text of a choice, where each endpoint has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Message(Message),
    Delta(Delta),
    Text(String),
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Logprobs {
    Chat(ChatLogprobs),
    Text(TextLogprobs),
}

/// The tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl Usage {
    fn of(usage: &proto::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: usage.cached_prompt_tokens,
            },
        }
    }
}

/// What OpenAI's interface has no field for.
#[derive(Debug, Serialize)]
struct Extension {
    /// The seed that was used: sent with the same request, it gives the same answer.
    seed: u64,
    /// The stop sequence that ended the answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_sequence: String,
    /// How the answer ended for its guard.
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<GuardReport>,
}

#[derive(Debug, Serialize)]
struct GuardReport {
    /// `complete`, or `policy` where the answer was blocked as unsafe.
    reason: &'static str,
    /// The guard's id; absent where no verdict counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsafe_score: Option<f64>,
    /// The categories of the verdict, as the guard names them.
    categories: Vec<String>,
    /// Bytes of the answer that were released, and that the model had written.
    released_bytes: u64,
    received_bytes: u64,
    /// Some of the text was released although the guard failed to judge it.
    unguarded: bool,
}

impl GuardReport {
    fn of(ended: proto::GuardEnded) -> Self {
        let reason = match ended.reason() {
            guard_ended::Reason::Policy => "policy",
            // After any other reason the call ends with an error, which is all that the caller is sent.
            _ => "complete",
        };
        let verdict = ended.verdict.unwrap_or_default();
        Self {
            reason,
            model: verdict.provenance.map(|provenance| provenance.model),
            unsafe_score: verdict.unsafe_score,
            categories: verdict.categories.into_iter().map(|one| one.category).collect(),
            released_bytes: ended.released_bytes,
            received_bytes: ended.received_bytes,
            unguarded: ended.unguarded,
        }
    }
}

/// The word for how an answer ended. Words of a guard are those of OpenAI's content filter.
fn finish_reason(reason: proto::FinishReason) -> &'static str {
    match reason {
        proto::FinishReason::Eos | proto::FinishReason::StopSequence | proto::FinishReason::Unspecified => {
            "stop"
        }
        proto::FinishReason::MaxTokens | proto::FinishReason::ContextWindow => "length",
        proto::FinishReason::Guard => "content_filter",
    }
}

impl Answer {
    /// An answer that has begun.
    pub(super) fn new(head: AnswerHead, started: proto::GenerateStarted) -> Self {
        let prefix = match head.endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completion => "cmpl",
        };
        Self {
            endpoint: head.endpoint,
            id: format!("{prefix}-{}", head.request_id),
            created: head.created,
            started,
            has_logprobs: head.has_logprobs,
            begun: BegunCharacters::default(),
        }
    }

    fn object(&self, object: &'static str, choices: Vec<Choice>) -> Object {
        let provenance = self.started.provenance.as_ref();
        let of = |field: fn(&proto::Provenance) -> &String| {
            provenance.map_or_else(String::new, |one| field(one).clone())
        };
        Object {
            id: self.id.clone(),
            object,
            created: self.created,
            model: of(|one| &one.model),
            system_fingerprint: of(|one| &one.model_digest),
            choices,
            usage: None,
            babelward: None,
        }
    }

    fn extension(&self, finished: &proto::GenerateFinished) -> Extension {
        Extension {
            seed: self.started.seed,
            stop_sequence: finished.stop_sequence.clone(),
            guard: finished.guard.clone().map(GuardReport::of),
        }
    }

    fn logprobs(&mut self, tokens: &[proto::TokenLogprob]) -> Option<Logprobs> {
        self.has_logprobs.then(|| match self.endpoint {
            Endpoint::Chat => Logprobs::Chat(ChatLogprobs::of(tokens)),
            Endpoint::Completion => Logprobs::Text(TextLogprobs::of(tokens, &mut self.begun)),
        })
    }

    /// The object of a whole answer: all of its deltas, and its end.
    pub(super) fn whole(
        mut self,
        deltas: Vec<proto::GenerateDelta>,
        finished: &proto::GenerateFinished,
    ) -> Object {
        let mut text = String::new();
        let mut tokens = Vec::new();
        for delta in deltas {
            text.push_str(&delta.text);
            tokens.extend(delta.logprobs);
        }
        let logprobs = self.logprobs(&tokens);
        let (object, said) = match self.endpoint {
            Endpoint::Chat => (
                "chat.completion",
                Said::Message(Message {
                    role: "assistant",
                    content: text,
                    refusal: None,
                }),
            ),
            Endpoint::Completion => ("text_completion", Said::Text(text)),
        };
        let choice = Choice {
            index: 0,
            said,
            logprobs,
            finish_reason: Some(finish_reason(finished.finish_reason())),
        };
        Object {
            usage: finished.usage.as_ref().map(|usage| Some(Usage::of(usage))),
            babelward: Some(self.extension(finished)),
            ..self.object(object, vec![choice])
        }
    }

    fn piece(&self, said: Said, logprobs: Option<Logprobs>, with_usage: bool) -> Object {
        let choice = Choice {
            index: 0,
            said,
            logprobs,
            finish_reason: None,
        };
        Object {
            usage: with_usage.then_some(None),
            ..self.object(self.piece_object(), vec![choice])
        }
    }

    fn piece_object(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        }
    }

    /// The piece that begins a stream, which chats have: it says who speaks.
    pub(super) fn first(&self, with_usage: bool) -> Option<Object> {
        let delta = Delta {
            role: Some("assistant"),
            content: Some(String::new()),
        };
        match self.endpoint {
            Endpoint::Chat => Some(self.piece(Said::Delta(delta), None, with_usage)),
            Endpoint::Completion => None,
        }
    }

    /// The piece of a delta.
    pub(super) fn delta(&mut self, delta: proto::GenerateDelta, with_usage: bool) -> Object {
        let logprobs = self.logprobs(&delta.logprobs);
        let said = match self.endpoint {
            Endpoint::Chat => Said::Delta(Delta {
                role: None,
                content: Some(delta.text),
            }),
            Endpoint::Completion => Said::Text(delta.text),
        };
        self.piece(said, logprobs, with_usage)
    }

    /// The piece that ends the text.
    pub(super) fn last(&self, finished: &proto::GenerateFinished, with_usage: bool) -> Object {
        let said = match self.endpoint {
            Endpoint::Chat => Said::Delta(Delta::default()),
            Endpoint::Completion => Said::Text(String::new()),
        };
        let mut object = self.piece(said, None, with_usage);
        for choice in &mut object.choices {
            choice.finish_reason = Some(finish_reason(finished.finish_reason()));
        }
        object.babelward = Some(self.extension(finished));
        object
    }

    /// The piece with the usage, behind the one that ends the text.
    pub(super) fn usage(&self, finished: &proto::GenerateFinished) -> Object {
        let usage = finished.usage.unwrap_or_default();
        Object {
            usage: Some(Some(Usage::of(&usage))),
            ..self.object(self.piece_object(), Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(endpoint: Endpoint, has_logprobs: bool) -> Answer {
        let head = AnswerHead {
            endpoint,
            request_id: "r1".to_owned(),
            created: 7,
            has_logprobs,
        };
        let started = proto::GenerateStarted {
            prompt_tokens: 5,
            seed: 11,
            provenance: Some(proto::Provenance {
                model: "smol".to_owned(),
                model_digest: "sha256:ab".to_owned(),
                ..proto::Provenance::default()
            }),
        };
        Answer::new(head, started)
    }

    fn delta(text: &str) -> proto::GenerateDelta {
        proto::GenerateDelta {
            text: text.to_owned(),
            logprobs: vec![proto::TokenLogprob {
                token: text.as_bytes().to_vec(),
                logprob: -0.5,
                ..proto::TokenLogprob::default()
            }],
            ..proto::GenerateDelta::default()
        }
    }

    fn finished(reason: proto::FinishReason) -> proto::GenerateFinished {
        proto::GenerateFinished {
            finish_reason: reason.into(),
            usage: Some(proto::Usage {
                prompt_tokens: 5,
                completion_tokens: 2,
                cached_prompt_tokens: 4,
                forward_passes: 3,
            }),
            ..proto::GenerateFinished::default()
        }
    }

    fn written(object: &Object) -> Value {
        serde_json::to_value(object).unwrap()
    }

    #[test]
    fn a_whole_chat_has_one_message() {
        let object = answer(Endpoint::Chat, false).whole(
            vec![delta("Hel"), delta("lo")],
            &finished(proto::FinishReason::Eos),
        );
        let wanted = json!({
            "id": "chatcmpl-r1", "object": "chat.completion", "created": 7, "model": "smol", "system_fingerprint": "sha256:ab",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            "babelward": {"seed": 11},
        });
        assert_eq!(written(&object), wanted);
    }

    #[test]
    fn a_whole_completion_has_a_text() {
        let object = answer(Endpoint::Completion, true).whole(
            vec![delta("a"), delta("b")],
            &finished(proto::FinishReason::MaxTokens),
        );
        let written = written(&object);
        assert_eq!(written["id"], "cmpl-r1");
        assert_eq!(written["object"], "text_completion");
        let choice = &written["choices"][0];
        assert_eq!(choice["text"], "ab");
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1]));
    }

    #[test]
    fn pieces_say_who_speaks_then_the_text_then_how_it_ended() {
        let mut answer = answer(Endpoint::Chat, false);
        let first = written(&answer.first(true).unwrap());
        assert_eq!(first["object"], "chat.completion.chunk");
        assert_eq!(
            first["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert_eq!(first["usage"], Value::Null);
        assert!(first.as_object().unwrap().contains_key("usage"));
        let second = written(&answer.delta(delta("Hi"), false));
        assert_eq!(second["choices"][0]["delta"], json!({"content": "Hi"}));
        assert_eq!(second["choices"][0]["finish_reason"], Value::Null);
        assert!(!second.as_object().unwrap().contains_key("usage"));
        let last = written(&answer.last(&finished(proto::FinishReason::StopSequence), false));
        assert_eq!(last["choices"][0]["delta"], json!({}));
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
        assert_eq!(last["babelward"]["seed"], 11);
        let usage = written(&answer.usage(&finished(proto::FinishReason::StopSequence)));
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["total_tokens"], 7);
    }

    #[test]
    fn pieces_of_a_completion_are_texts() {
        let mut answer = answer(Endpoint::Completion, true);
        assert!(answer.first(false).is_none());
        let piece = written(&answer.delta(delta("Hi"), false));
        assert_eq!(piece["object"], "text_completion");
        assert_eq!(piece["choices"][0]["text"], "Hi");
        assert_eq!(piece["choices"][0]["logprobs"]["tokens"], json!(["Hi"]));
        let last = written(&answer.last(&finished(proto::FinishReason::ContextWindow), false));
        assert_eq!(last["choices"][0]["text"], "");
        assert_eq!(last["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn a_blocked_answer_ends_with_the_content_filter_and_says_why() {
        let ended = proto::GuardEnded {
            reason: guard_ended::Reason::Policy.into(),
            received_bytes: 9,
            released_bytes: 4,
            verdict: Some(proto::Verdict {
                label: proto::Label::Unsafe.into(),
                unsafe_score: Some(0.75),
                categories: vec![proto::CategoryResult {
                    category: "S1".to_owned(),
                    display_name: "Violent Crimes".to_owned(),
                }],
                provenance: Some(proto::Provenance {
                    model: "ward".to_owned(),
                    ..proto::Provenance::default()
                }),
                ..proto::Verdict::default()
            }),
            ..proto::GuardEnded::default()
        };
        let finished = proto::GenerateFinished {
            guard: Some(ended),
            ..finished(proto::FinishReason::Guard)
        };
        let last = written(&answer(Endpoint::Chat, false).last(&finished, false));
        assert_eq!(last["choices"][0]["finish_reason"], "content_filter");
        let wanted = json!({
            "reason": "policy", "model": "ward", "unsafe_score": 0.75, "categories": ["S1"],
            "released_bytes": 4, "received_bytes": 9, "unguarded": false,
        });
        assert_eq!(last["babelward"]["guard"], wanted);
    }
}
