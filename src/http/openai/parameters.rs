//! The parameters that chat completions and completions share.

use super::{
    answer::Endpoint,
    fields::{Fields, Kind, Only, Problems, kind, list, text},
};
use crate::{
    config::{DoorSettings, OnFailure},
    proto,
};

/// Most stop sequences that are read of a request; a few more than may be sent, so that their number is told.
const MOST_STOPS: usize = 64;

/// Fields that are labels of a request for its sender, and change no answer.
const LABELS: [&str; 4] = ["user", "metadata", "safety_identifier", "prompt_cache_key"];

/// The field for everything that OpenAI's interface has no field for, in requests and answers.
pub(super) const EXTENSION: &str = "babelward";

/// How an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// As one object.
    Whole,
    /// In pieces; with the usage in one more at the end, or without.
    Streamed { with_usage: bool },
}

/// A request for an answer, of either endpoint.
pub(super) struct AnswerRequest {
    pub(super) endpoint: Endpoint,
    pub(super) generate: proto::GenerateRequest,
    pub(super) delivery: Delivery,
    pub(super) names: ParamNames,
}

/// What the caller calls the fields of the Generate that is made of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParamNames {
    /// The endpoint's names, for a field and for what limits the answer.
    pub(super) param_of: fn(&str, &str) -> String,
    /// The field that limits the answer, which has two names.
    pub(super) limit_field: &'static str,
}

impl ParamNames {
    /// The parameter that a field comes from.
    pub(super) fn param(&self, field: &str) -> String {
        (self.param_of)(field, self.limit_field)
    }
}

/// Parameters of both endpoints.
pub(super) struct Parameters {
    pub(super) sampling: proto::SamplingParams,
    pub(super) stopping: proto::StoppingParams,
    pub(super) guard: Option<proto::AnswerGuard>,
    pub(super) delivery: Delivery,
    /// The field that limits the answer, for errors about the limit.
    pub(super) limit_field: &'static str,
}

/// Takes the parameters that both endpoints have.
pub(super) fn take(fields: &mut Fields<'_>, settings: &DoorSettings, problems: &mut Problems) -> Parameters {
    for label in LABELS {
        fields.pass_over(label);
    }
    fields.only("store", Only::Flag(false), problems);
    fields.only("n", Only::Number(1.0), problems);
    fields.only("frequency_penalty", Only::Number(0.0), problems);
    fields.only("presence_penalty", Only::Number(0.0), problems);
    fields.only("logit_bias", Only::Nothing, problems);
    fields.only("service_tier", Only::Words(&["auto", "default"]), problems);
    let sampling = proto::SamplingParams {
        temperature: fields.number("temperature", problems),
        top_p: fields.number("top_p", problems),
        top_k: fields.small("top_k", problems),
        repetition_penalty: fields.number("repetition_penalty", problems),
        seed: fields.whole("seed", problems),
    };
    let (limit_field, max_new_tokens) = limit(fields, problems);
    let stopping = proto::StoppingParams {
        max_new_tokens,
        stop_sequences: stops(fields, problems),
    };
    Parameters {
        sampling,
        stopping,
        guard: guard(fields, settings, problems),
        delivery: delivery(fields, problems),
        limit_field,
    }
}

/// The most tokens of the answer, and the field that says so; 0 is the server's default.
fn limit(fields: &mut Fields<'_>, problems: &mut Problems) -> (&'static str, u32) {
    let newer = fields.small("max_completion_tokens", problems);
    let older = fields.small("max_tokens", problems);
    let (field, limit) = match (newer, older) {
        (Some(newer), Some(older)) if newer != older => {
            problems.note(
                "max_tokens",
                "is not what max_completion_tokens says: leave one of both out",
            );
            ("max_completion_tokens", Some(newer))
        }
        (Some(newer), _) => ("max_completion_tokens", Some(newer)),
        (None, older) => ("max_tokens", older),
    };
    if limit == Some(0) {
        problems.note(field, "must be 1 or more");
    }
    (field, limit.unwrap_or(0))
}

/// `stop`: a text, or several.
fn stops(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<String> {
    let Some(value) = fields.value("stop") else {
        return Vec::new();
    };
    if kind(value) == Kind::Text {
        let stop = text(value);
        if stop.is_none() {
            problems.note("stop", "must be a text");
        }
        return stop.into_iter().collect();
    }
    let Some(list) = list(value, MOST_STOPS) else {
        problems.note("stop", "must be a text or a list of texts");
        return Vec::new();
    };
    let mut stops = Vec::with_capacity(list.first.len());
    for (index, value) in list.first.into_iter().enumerate() {
        match text(value) {
            Some(stop) => stops.push(stop),
            None => problems.note(format!("stop[{index}]"), "must be a text"),
        }
    }
    stops
}

/// `stream` and `stream_options`.
fn delivery(fields: &mut Fields<'_>, problems: &mut Problems) -> Delivery {
    let is_streamed = fields.flag("stream", problems).unwrap_or(false);
    let options = fields.object("stream_options", problems);
    if options.is_some() && !is_streamed {
        problems.note("stream_options", "is only for answers with stream = true");
    }
    let mut with_usage = false;
    if let Some(mut options) = options {
        with_usage = options.flag("include_usage", problems).unwrap_or(false);
        options.only("include_obfuscation", Only::Flag(false), problems);
        options.finish(problems);
    }
    match is_streamed {
        true => Delivery::Streamed { with_usage },
        false => Delivery::Whole,
    }
}

/// The guard of the answer: that of the request's extension, or the server's where answers are guarded by it.
fn guard(
    fields: &mut Fields<'_>,
    settings: &DoorSettings,
    problems: &mut Problems,
) -> Option<proto::AnswerGuard> {
    let (mut model, mut policy) = (None, None);
    if let Some(mut extension) = fields.object(EXTENSION, problems) {
        model = extension.text("guard", problems);
        policy = extension.text("policy", problems);
        extension.finish(problems);
    }
    let is_asked_for = model.is_some() || policy.is_some();
    (is_asked_for || settings.guards_answers).then(|| proto::AnswerGuard {
        model: model
            .filter(|id| !id.is_empty())
            .or_else(|| settings.guard.clone())
            .unwrap_or_default(),
        policy_source: policy.map(proto::answer_guard::PolicySource::Policy),
        options: Some(proto::GuardOptions {
            failure_mode: match settings.on_failure {
                OnFailure::Closed => proto::GuardFailureMode::Closed,
                OnFailure::Open => proto::GuardFailureMode::Open,
            }
            .into(),
            ..proto::GuardOptions::default()
        }),
        // What a decision policy says of the answer has no place in OpenAI's answers.
        ..proto::AnswerGuard::default()
    })
}

/// The parameter of a request that a field of the call which is made of it comes from.
pub(super) fn param_of(field: &str, limit_field: &str) -> String {
    let renamed = [
        ("sampling.", ""),
        ("stopping.max_new_tokens", limit_field),
        ("stopping.stop_sequences", "stop"),
        ("guard.model", "babelward.guard"),
        ("guard.policy", "babelward.policy"),
        ("guard.", "babelward."),
    ];
    let found = renamed
        .iter()
        .find_map(|(from, to)| field.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    found.unwrap_or_else(|| field.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, settings: &DoorSettings) -> (Parameters, Vec<String>) {
        let mut problems = Problems::default();
        let mut fields = Fields::of_body(body.as_bytes(), &mut problems).unwrap();
        let parameters = take(&mut fields, settings, &mut problems);
        fields.finish(&mut problems);
        let found = problems.finish().err().unwrap_or_default().into_iter();
        (parameters, found.map(|problem| problem.param).collect())
    }

    #[test]
    fn parameters_become_those_of_generate() {
        let body = r#"{"temperature": 0.5, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 7, "max_tokens": 9,
            "stop": ["a", "b"], "stream": true, "stream_options": {"include_usage": true}, "user": "u", "metadata": {"a": "b"},
            "store": false, "n": 1, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0}"#;
        let (parameters, problems) = read(body, &DoorSettings::default());
        assert_eq!(problems, [""; 0]);
        let sampling = proto::SamplingParams {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(40),
            repetition_penalty: Some(1.1),
            seed: Some(7),
        };
        assert_eq!(parameters.sampling, sampling);
        assert_eq!(parameters.stopping.max_new_tokens, 9);
        assert_eq!(parameters.stopping.stop_sequences, ["a", "b"]);
        assert_eq!(parameters.delivery, Delivery::Streamed { with_usage: true });
        assert!(parameters.guard.is_none());
    }

    #[test]
    fn what_would_be_ignored_is_an_error_that_names_it() {
        for (body, params) in [
            (r#"{"n": 2}"#, vec!["n"]),
            (r#"{"store": true}"#, vec!["store"]),
            (r#"{"frequency_penalty": 0.1}"#, vec!["frequency_penalty"]),
            (r#"{"logit_bias": {"50256": -100}}"#, vec!["logit_bias"]),
            (r#"{"max_tokens": 0}"#, vec!["max_tokens"]),
            (
                r#"{"max_tokens": 3, "max_completion_tokens": 4}"#,
                vec!["max_tokens"],
            ),
            (
                r#"{"seed": -1, "temperature": "hot"}"#,
                vec!["temperature", "seed"],
            ),
            (r#"{"stop": ["a", 1]}"#, vec!["stop[1]"]),
            (r#"{"stop": 1}"#, vec!["stop"]),
            (
                r#"{"stream_options": {"include_usage": true}}"#,
                vec!["stream_options"],
            ),
            (
                r#"{"stream": true, "stream_options": {"more": 1}}"#,
                vec!["stream_options.more"],
            ),
            (r#"{"babelward": {"gaurd": "x"}}"#, vec!["babelward.gaurd"]),
            (r#"{"min_p": 0.1}"#, vec!["min_p"]),
        ] {
            assert_eq!(read(body, &DoorSettings::default()).1, params, "{body}");
        }
    }

    #[test]
    fn both_names_of_the_limit_are_known() {
        let (parameters, problems) = read(
            r#"{"max_completion_tokens": 5, "max_tokens": 5}"#,
            &DoorSettings::default(),
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(parameters.stopping.max_new_tokens, 5);
        assert_eq!(
            param_of("stopping.max_new_tokens", parameters.limit_field),
            "max_completion_tokens"
        );
        assert_eq!(read("{}", &DoorSettings::default()).0.limit_field, "max_tokens");
    }

    #[test]
    fn an_answer_is_guarded_where_the_request_or_the_server_says_so() {
        let unasked = DoorSettings::default();
        let asked = DoorSettings {
            guard: Some("ward".to_owned()),
            guards_answers: true,
            ..DoorSettings::default()
        };
        let guard_of = |body, settings| read(body, settings).0.guard.map(|guard| guard.model);
        assert_eq!(guard_of("{}", &unasked), None);
        assert_eq!(guard_of(r#"{"babelward": {}}"#, &unasked), None);
        assert_eq!(
            guard_of(r#"{"babelward": {"guard": "x"}}"#, &unasked),
            Some("x".to_owned())
        );
        assert_eq!(
            guard_of(r#"{"babelward": {"policy": "p"}}"#, &unasked),
            Some(String::new())
        );
        assert_eq!(guard_of("{}", &asked), Some("ward".to_owned()));
        assert_eq!(
            guard_of(r#"{"babelward": {"guard": ""}}"#, &asked),
            Some("ward".to_owned())
        );
        assert_eq!(
            guard_of(r#"{"babelward": {"guard": "x"}}"#, &asked),
            Some("x".to_owned())
        );
    }

    #[test]
    fn errors_name_the_callers_fields() {
        for (field, param) in [
            ("sampling.temperature", "temperature"),
            ("stopping.max_new_tokens", "max_tokens"),
            ("stopping.stop_sequences[1]", "stop[1]"),
            ("guard.model", "babelward.guard"),
            ("guard.policy", "babelward.policy"),
            ("model", "model"),
        ] {
            assert_eq!(param_of(field, "max_tokens"), param);
        }
    }
}
