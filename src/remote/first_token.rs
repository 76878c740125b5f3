//! The log-probabilities of the first token of an answer, as endpoints write them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    answer::{RemoteUsage, ReportedEngine},
    error::RemoteError,
    json::{self, name},
};

/// Rounding that a log-probability may be above zero by, and the sum of probabilities above one.
const ROUNDING: f64 = 1e-3;

/// A token that the model could have begun its answer with.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenCandidate {
    /// Its text, as the endpoint writes it. Bytes that are no text of their own may be written in a way of the endpoint's.
    pub text: String,
    /// Its bytes, if the endpoint gives them.
    pub bytes: Option<Vec<u8>>,
    /// Its number in the vocabulary, if the endpoint gives it.
    pub id: Option<u32>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// The first token of an answer, and the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstToken {
    /// The most likely tokens, most likely first; at least one. The token that was chosen is among them.
    pub candidates: Vec<TokenCandidate>,
    /// The text of the answer.
    pub text: String,
    /// What it cost, if the endpoint said so.
    pub usage: Option<RemoteUsage>,
    /// What the endpoint says of who computed it.
    pub reported: ReportedEngine,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    system_fingerprint: Option<String>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

/// Of chat completions, and of llama-server's completions, a list of positions; of completions, lists for each figure.
#[derive(Deserialize)]
struct Logprobs {
    #[serde(default)]
    content: Option<Vec<Position>>,
    #[serde(default)]
    tokens: Option<Vec<String>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<BTreeMap<String, f64>>>>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(flatten)]
    chosen: Candidate,
    #[serde(default)]
    top_logprobs: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    token: String,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    id: Option<u32>,
    logprob: f64,
}

impl From<Candidate> for TokenCandidate {
    fn from(candidate: Candidate) -> Self {
        Self {
            text: candidate.token,
            bytes: candidate.bytes,
            id: candidate.id,
            logprob: candidate.logprob,
        }
    }
}

/// Reads an answer that was asked for with log-probabilities.
pub(super) fn read(body: &[u8]) -> Result<FirstToken, RemoteError> {
    let answer: Answer = json::read(body)?;
    let mut choices = answer.choices.into_iter();
    let (Some(choice), None) = (choices.next(), choices.next()) else {
        return Err(RemoteError::malformed("not exactly one choice"));
    };
    let message = choice.message.and_then(|message| message.content);
    let text = choice.text.or(message).unwrap_or_default();
    let mut candidates = candidates(choice.logprobs.ok_or(RemoteError::NoLogprobs)?)?;
    candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    check(&candidates)?;
    Ok(FirstToken {
        candidates,
        text,
        usage: answer.usage.map(|usage| RemoteUsage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_prompt_tokens: 0,
        }),
        reported: ReportedEngine {
            model: answer.model.as_deref().and_then(name),
            fingerprint: answer.system_fingerprint.as_deref().and_then(name),
        },
    })
}

fn candidates(logprobs: Logprobs) -> Result<Vec<TokenCandidate>, RemoteError> {
    if let Some(positions) = logprobs.content {
        let first = positions.into_iter().next().ok_or(RemoteError::NoLogprobs)?;
        let chosen = TokenCandidate::from(first.chosen);
        let mut found: Vec<TokenCandidate> = first.top_logprobs.into_iter().map(Into::into).collect();
        let is_same = |other: &TokenCandidate| other.text == chosen.text && other.id == chosen.id;
        if !found.iter().any(is_same) {
            found.push(chosen);
        }
        return Ok(found);
    }
    let top = logprobs
        .top_logprobs
        .and_then(|top| top.into_iter().next().flatten());
    let mut found = top.unwrap_or_default();
    let chosen = logprobs.tokens.and_then(|tokens| tokens.into_iter().next());
    let logprob = logprobs
        .token_logprobs
        .and_then(|all| all.into_iter().next().flatten());
    if let (Some(chosen), Some(logprob)) = (chosen, logprob) {
        found.entry(chosen).or_insert(logprob);
    }
    if found.is_empty() {
        return Err(RemoteError::NoLogprobs);
    }
    let found = found.into_iter().map(|(text, logprob)| TokenCandidate {
        text,
        bytes: None,
        id: None,
        logprob,
    });
    Ok(found.collect())
}

/// Refuses what cannot be probabilities of different tokens.
fn check(candidates: &[TokenCandidate]) -> Result<(), RemoteError> {
    let is_logprob = |candidate: &TokenCandidate| candidate.logprob <= ROUNDING;
    if !candidates.iter().all(is_logprob) {
        return Err(RemoteError::malformed(
            "a log-probability is above zero or no number",
        ));
    }
    let sum: f64 = candidates.iter().map(|candidate| candidate.logprob.exp()).sum();
    if sum > 1.0 + ROUNDING {
        return Err(RemoteError::malformed(
            "the probabilities of tokens sum to more than one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<(String, f64)> {
        let read = read(body.as_bytes()).unwrap();
        let candidates = read.candidates.into_iter();
        candidates
            .map(|candidate| (candidate.text, candidate.logprob))
            .collect()
    }

    fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        let expected = expected.iter();
        expected
            .map(|(text, logprob)| ((*text).to_owned(), *logprob))
            .collect()
    }

    #[test]
    fn both_ways_to_write_log_probabilities_are_read() {
        let completion = r#"{"model":"g","choices":[{"text":" safe","logprobs":{"tokens":[" safe"],"token_logprobs":[-0.5],
            "top_logprobs":[{" unsafe":-1.5," safe":-0.5}],"text_offset":[0]}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#;
        assert_eq!(found(completion), pairs(&[(" safe", -0.5), (" unsafe", -1.5)]));
        let read_it = read(completion.as_bytes()).unwrap();
        assert_eq!(
            (read_it.text.as_str(), read_it.usage.unwrap().prompt_tokens),
            (" safe", 5)
        );
        let chat = r#"{"choices":[{"message":{"role":"assistant","content":"no"},"logprobs":{"content":[
            {"token":"no","bytes":[110,111],"logprob":-2.0,"top_logprobs":[{"id":7,"token":"yes","logprob":-0.25}]}]}}]}"#;
        assert_eq!(found(chat), pairs(&[("yes", -0.25), ("no", -2.0)]));
        let read_it = read(chat.as_bytes()).unwrap();
        assert_eq!(read_it.candidates[0].id, Some(7));
        assert_eq!(read_it.candidates[1].bytes, Some(b"no".to_vec()));
        assert_eq!(read_it.text, "no");
    }

    #[test]
    fn answers_without_log_probabilities_and_impossible_ones_are_refused() {
        let of = |logprobs: &str| {
            let body = format!(r#"{{"choices":[{{"text":"safe"{logprobs}}}]}}"#);
            read(body.as_bytes()).unwrap_err()
        };
        for none in [
            "",
            r#","logprobs":null"#,
            r#","logprobs":{}"#,
            r#","logprobs":{"content":[]}"#,
            r#","logprobs":{"tokens":[],"token_logprobs":[],"top_logprobs":[]}"#,
        ] {
            assert_eq!(of(none), RemoteError::NoLogprobs, "{none}");
        }
        let above = of(r#","logprobs":{"top_logprobs":[{"safe":0.5}]}"#);
        let what = "a log-probability is above zero or no number";
        assert_eq!(above, RemoteError::malformed(what));
        let sum = of(r#","logprobs":{"top_logprobs":[{"safe":-0.1,"unsafe":-0.1}]}"#);
        let what = "the probabilities of tokens sum to more than one";
        assert_eq!(sum, RemoteError::malformed(what));
        let two = read(br#"{"choices":[]}"#);
        assert_eq!(two, Err(RemoteError::malformed("not exactly one choice")));
    }
}
