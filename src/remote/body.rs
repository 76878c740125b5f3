//! The bodies of requests, in the words of OpenAI's interface.

use serde::Serialize;

use super::{
    error::RemoteError,
    request::{LogprobsRequest, RemoteMessage, RemotePrompt, RemoteRequest},
};

/// Where conversations are answered.
pub(super) const CHAT: &str = "/chat/completions";

/// Where raw text is continued.
pub(super) const COMPLETIONS: &str = "/completions";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(flatten)]
    prompt: Prompt<'a>,
    max_tokens: usize,
    temperature: f64,
    #[serde(skip_serializing_if = "is_one")]
    top_p: f64,
    /// No parameter of OpenAI's own, but of every engine that is meant to stand here.
    #[serde(skip_serializing_if = "is_zero")]
    top_k: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<usize>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Prompt<'a> {
    Messages(&'a [RemoteMessage]),
    #[serde(rename = "prompt")]
    Text(&'a str),
    #[serde(rename = "prompt")]
    Tokens(&'a [u32]),
}

impl<'a> Prompt<'a> {
    fn of(prompt: &'a RemotePrompt) -> Self {
        match prompt {
            RemotePrompt::Conversation(messages) => Self::Messages(messages),
            RemotePrompt::Text(text) => Self::Text(text),
            RemotePrompt::Tokens(tokens) => Self::Tokens(tokens),
        }
    }
}

/// Chat completions want a flag, and completions a number of tokens.
#[derive(Serialize)]
#[serde(untagged)]
enum Logprobs {
    Flag(bool),
    Top(usize),
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

fn is_one(number: &f64) -> bool {
    *number == 1.0
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The path that a prompt is sent to.
pub(super) fn path(prompt: &RemotePrompt) -> &'static str {
    match prompt {
        RemotePrompt::Conversation(_) => CHAT,
        RemotePrompt::Text(_) | RemotePrompt::Tokens(_) => COMPLETIONS,
    }
}

/// The body of a request for an answer, as a stream.
pub(super) fn of_answer(model: &str, request: &RemoteRequest) -> Result<String, RemoteError> {
    let sampling = &request.sampling;
    write(&Body {
        model,
        prompt: Prompt::of(&request.prompt),
        max_tokens: request.max_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        seed: Some(sampling.seed),
        stop: &request.stop,
        logprobs: None,
        top_logprobs: None,
        stream: true,
        stream_options: Some(StreamOptions { include_usage: true }),
    })
}

/// The body of a request for an answer with log-probabilities, which comes as a whole.
pub(super) fn of_logprobs(model: &str, request: &LogprobsRequest) -> Result<String, RemoteError> {
    let is_chat = matches!(request.prompt, RemotePrompt::Conversation(_));
    write(&Body {
        model,
        prompt: Prompt::of(&request.prompt),
        max_tokens: request.max_tokens,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: None,
        stop: &[],
        logprobs: Some(match is_chat {
            true => Logprobs::Flag(true),
            false => Logprobs::Top(request.top),
        }),
        top_logprobs: is_chat.then_some(request.top),
        stream: false,
        stream_options: None,
    })
}

fn write(body: &Body<'_>) -> Result<String, RemoteError> {
    // Texts, numbers and lists can always be written.
    serde_json::to_string(body).map_err(|_| RemoteError::malformed("the request cannot be written as JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::request::RemoteSampling;

    #[test]
    fn an_answer_is_asked_with_everything_that_was_set() {
        let mut request = RemoteRequest {
            prompt: RemotePrompt::Conversation(vec![RemoteMessage {
                role: "user",
                content: "Hi \"you\"".to_owned(),
            }]),
            sampling: RemoteSampling {
                temperature: 0.5,
                top_p: 0.9,
                top_k: 40,
                seed: 7,
            },
            max_tokens: 20,
            stop: vec!["END".to_owned()],
        };
        assert_eq!(path(&request.prompt), CHAT);
        let body = of_answer("big", &request).unwrap();
        assert_eq!(
            body,
            r#"{"model":"big","messages":[{"role":"user","content":"Hi \"you\""}],"max_tokens":20,"temperature":0.5,"#
                .to_owned()
                + r#""top_p":0.9,"top_k":40,"seed":7,"stop":["END"],"stream":true,"stream_options":{"include_usage":true}}"#
        );
        request.prompt = RemotePrompt::Text("Once".to_owned());
        request.sampling = RemoteSampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 7,
        };
        request.stop.clear();
        assert_eq!(path(&request.prompt), COMPLETIONS);
        assert_eq!(
            of_answer("big", &request).unwrap(),
            r#"{"model":"big","prompt":"Once","max_tokens":20,"temperature":0.0,"seed":7,"stream":true,"#
                .to_owned()
                + r#""stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn log_probabilities_are_asked_for_in_the_words_of_each_path() {
        let mut request = LogprobsRequest {
            prompt: RemotePrompt::Tokens(vec![1, 2]),
            top: 20,
            max_tokens: 1,
        };
        assert_eq!(
            of_logprobs("g", &request).unwrap(),
            r#"{"model":"g","prompt":[1,2],"max_tokens":1,"temperature":0.0,"logprobs":20,"stream":false}"#
        );
        request.prompt = RemotePrompt::Conversation(Vec::new());
        assert_eq!(
            of_logprobs("g", &request).unwrap(),
            r#"{"model":"g","messages":[],"max_tokens":1,"temperature":0.0,"logprobs":true,"top_logprobs":20,"stream":false}"#
        );
    }
}
