//! Answers with the log-probabilities of their tokens, as endpoints write them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    answer::{RemoteUsage, ReportedEngine, UsageBody},
    answer_stream::RemoteTimes,
    error::RemoteError,
    json::{self, name},
};

/// Rounding that a log-probability may be above zero by, and the sum of probabilities above one.
const ROUNDING: f64 = 1e-3;

/// A token that the model could have written at a position of its answer.
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

/// A position of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerPosition {
    /// Bytes of the token that was written, or its text, if the endpoint gives no bytes.
    pub written: Vec<u8>,
    /// The most likely tokens, most likely first. The token that was written is among them.
    pub candidates: Vec<TokenCandidate>,
}

/// An answer with the log-probabilities of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LogprobsAnswer {
    /// The positions of the answer in their order; none of an answer that has no text.
    pub positions: Vec<AnswerPosition>,
    /// The text of the answer.
    pub text: String,
    /// What it cost, if the endpoint said so.
    pub usage: Option<RemoteUsage>,
    /// What the endpoint says of who computed it.
    pub reported: ReportedEngine,
    /// How long it waited here, and from there to its end.
    pub times: RemoteTimes,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    system_fingerprint: Option<String>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<UsageBody>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
    #[serde(default)]
    finish_reason: Option<String>,
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

/// Reads an answer of at most `max_tokens` tokens that was asked for with log-probabilities. `times` are those of its request.
pub(super) fn read(
    body: &[u8],
    max_tokens: usize,
    times: RemoteTimes,
) -> Result<LogprobsAnswer, RemoteError> {
    let answer: Answer = json::read(body)?;
    let mut choices = answer.choices.into_iter();
    let (Some(choice), None) = (choices.next(), choices.next()) else {
        return Err(RemoteError::malformed("not exactly one choice"));
    };
    match choice.finish_reason.as_deref() {
        None | Some("stop" | "eos_token" | "stop_sequence" | "length") => {}
        Some("content_filter") => return Err(RemoteError::Filtered),
        Some(_) => return Err(RemoteError::malformed("`finish_reason` is not a known one")),
    }
    let message = choice.message.and_then(|message| message.content);
    let text = choice.text.or(message).unwrap_or_default();
    let mut positions = positions(choice.logprobs.ok_or(RemoteError::NoLogprobs)?)?;
    if positions.is_empty() && !text.is_empty() {
        return Err(RemoteError::NoLogprobs);
    }
    for position in &mut positions {
        let candidates = &mut position.candidates;
        candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        check(candidates)?;
    }
    let usage = answer.usage.map(|usage| usage.checked(max_tokens)).transpose()?;
    Ok(LogprobsAnswer {
        positions,
        text,
        usage,
        reported: ReportedEngine {
            model: answer.model.as_deref().and_then(name),
            fingerprint: answer.system_fingerprint.as_deref().and_then(name),
        },
        times,
    })
}

fn positions(logprobs: Logprobs) -> Result<Vec<AnswerPosition>, RemoteError> {
    if let Some(positions) = logprobs.content {
        return Ok(positions.into_iter().map(Position::read).collect());
    }
    let tokens = logprobs.tokens.unwrap_or_default();
    let own = logprobs.token_logprobs.unwrap_or_default();
    let top = logprobs.top_logprobs.unwrap_or_default();
    if tokens.is_empty() && top.is_empty() {
        return Ok(Vec::new());
    }
    if tokens.len() != own.len() || tokens.len() != top.len() {
        return Err(RemoteError::malformed(
            "`tokens`, `token_logprobs` and `top_logprobs` are not of one length",
        ));
    }
    let mut positions = Vec::with_capacity(tokens.len());
    for ((token, own), top) in tokens.into_iter().zip(own).zip(top) {
        let mut top = top.unwrap_or_default();
        // Several tokens may be spelled alike, of which such a list has one figure: mostly that of the least likely.
        if let Some(logprob) = own {
            top.entry(token.clone())
                .and_modify(|listed| *listed = listed.max(logprob))
                .or_insert(logprob);
        }
        let candidates = top.into_iter().map(|(text, logprob)| TokenCandidate {
            text,
            bytes: None,
            id: None,
            logprob,
        });
        positions.push(AnswerPosition {
            written: token.into_bytes(),
            candidates: candidates.collect(),
        });
    }
    Ok(positions)
}

impl Position {
    fn read(self) -> AnswerPosition {
        let chosen = TokenCandidate::from(self.chosen);
        let mut candidates: Vec<TokenCandidate> = self.top_logprobs.into_iter().map(Into::into).collect();
        let written = chosen
            .bytes
            .clone()
            .unwrap_or_else(|| chosen.text.clone().into_bytes());
        let is_same = |other: &TokenCandidate| other.text == chosen.text && other.id == chosen.id;
        if !candidates.iter().any(is_same) {
            candidates.push(chosen);
        }
        AnswerPosition { written, candidates }
    }
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

    fn read(body: &str) -> Result<LogprobsAnswer, RemoteError> {
        super::read(body.as_bytes(), 16, RemoteTimes::default())
    }

    fn pairs(position: &AnswerPosition) -> Vec<(&str, f64)> {
        let candidates = position.candidates.iter();
        candidates
            .map(|candidate| (candidate.text.as_str(), candidate.logprob))
            .collect()
    }

    #[test]
    fn both_ways_to_write_log_probabilities_are_read() {
        let completion = r#"{"model":"g","choices":[{"text":" safe.","logprobs":{"tokens":[" safe","."],
            "token_logprobs":[-0.5,-1.0],"top_logprobs":[{" unsafe":-1.5," safe":-0.5},null],"text_offset":[0,5]}}],
            "usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let answer = read(completion).unwrap();
        assert_eq!(
            (answer.text.as_str(), answer.usage.unwrap().prompt_tokens),
            (" safe.", 5)
        );
        let [first, second] = answer.positions.as_slice() else {
            panic!("{answer:?}");
        };
        assert_eq!(pairs(first), [(" safe", -0.5), (" unsafe", -1.5)]);
        assert_eq!(
            (first.written.as_slice(), pairs(second)),
            (&b" safe"[..], vec![(".", -1.0)])
        );
        let chat = r#"{"choices":[{"message":{"role":"assistant","content":"no"},"logprobs":{"content":[
            {"token":"no","bytes":[110,111],"logprob":-2.0,"top_logprobs":[{"id":7,"token":"yes","logprob":-0.25}]}]}}]}"#;
        let answer = read(chat).unwrap();
        let first = &answer.positions[0];
        assert_eq!(pairs(first), [("yes", -0.25), ("no", -2.0)]);
        assert_eq!(first.candidates[0].id, Some(7));
        assert_eq!(first.candidates[1].bytes, Some(b"no".to_vec()));
        assert_eq!(
            (first.written.as_slice(), answer.text.as_str()),
            (&b"no"[..], "no")
        );
    }

    #[test]
    fn a_token_that_is_spelled_like_the_written_one_does_not_hide_it() {
        let body = r#"{"choices":[{"text":"unsafe","logprobs":{"tokens":["unsafe"],"token_logprobs":[-0.125],
            "top_logprobs":[{"safe":-3.0,"unsafe":-9.0}]}}]}"#;
        let answer = read(body).unwrap();
        assert_eq!(pairs(&answer.positions[0]), [("unsafe", -0.125), ("safe", -3.0)]);
    }

    #[test]
    fn answers_that_are_withheld_broken_off_or_too_dear_are_refused() {
        let ended = |reason: &str, completion_tokens: u32| {
            read(&format!(
                r#"{{"choices":[{{"text":"","logprobs":{{"content":[]}},"finish_reason":"{reason}"}}],
                "usage":{{"prompt_tokens":5,"completion_tokens":{completion_tokens}}}}}"#
            ))
        };
        assert_eq!(ended("stop", 16).unwrap().usage.unwrap().completion_tokens, 16);
        assert_eq!(ended("content_filter", 1), Err(RemoteError::Filtered));
        let what = "`finish_reason` is not a known one";
        assert_eq!(ended("abort", 1), Err(RemoteError::malformed(what)));
        let what = "`usage` has more tokens than the answer may have";
        assert_eq!(ended("length", 17), Err(RemoteError::malformed(what)));
    }

    #[test]
    fn an_answer_without_text_has_no_positions() {
        for logprobs in [
            r#"{"content":[]}"#,
            r#"{"tokens":[],"token_logprobs":[],"top_logprobs":[]}"#,
        ] {
            let body = format!(r#"{{"choices":[{{"text":"","logprobs":{logprobs}}}]}}"#);
            assert_eq!(read(&body).unwrap().positions, [], "{logprobs}");
        }
    }

    #[test]
    fn answers_without_log_probabilities_and_impossible_ones_are_refused() {
        let of = |logprobs: &str| {
            let body = format!(r#"{{"choices":[{{"text":"safe"{logprobs}}}]}}"#);
            read(&body).unwrap_err()
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
        let lists = |own: &str, top: &str| {
            of(&format!(
                r#","logprobs":{{"tokens":["safe"],"token_logprobs":[{own}],"top_logprobs":[{top}]}}"#
            ))
        };
        let what = "a log-probability is above zero or no number";
        assert_eq!(lists("0.5", r#"{"safe":0.5}"#), RemoteError::malformed(what));
        let what = "the probabilities of tokens sum to more than one";
        let sum = lists("-0.1", r#"{"safe":-0.1,"unsafe":-0.1}"#);
        assert_eq!(sum, RemoteError::malformed(what));
        let what = "`tokens`, `token_logprobs` and `top_logprobs` are not of one length";
        assert_eq!(lists("-0.1,-0.1", "null"), RemoteError::malformed(what));
        let two = read(r#"{"choices":[]}"#);
        assert_eq!(two, Err(RemoteError::malformed("not exactly one choice")));
    }
}
