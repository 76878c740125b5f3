//! Metrics of OpenTelemetry's conventions for servers of generative models, so that tools which know these names need no
//! other: `gen_ai.server.request.duration`, `gen_ai.server.time_to_first_token` and `gen_ai.server.time_per_output_token`
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>), with names as Prometheus writes them.
//!
//! A request is a call, or an item of a batch or stream.

use std::time::Duration;

use metrics::{Label, Unit, describe_histogram, histogram};
use tonic::Code;

use super::{access::Tally, method::Method, status::Reason};
use crate::status_code::code_name;

/// What kind of a system this is, where the conventions want to know.
const PROVIDER: &str = "babelward";

/// A request that has ended.
pub(crate) struct EndedRequest<'a> {
    pub(crate) method: Method,
    pub(crate) code: Code,
    /// The reason of its error, if it has one of ours.
    pub(crate) reason: Option<Reason>,
    pub(crate) total: Duration,
    pub(crate) tally: &'a Tally,
}

/// Describes the metrics. Called once, when the server starts.
pub(crate) fn describe() {
    describe_histogram!(
        "gen_ai_server_request_duration_seconds",
        Unit::Seconds,
        "Requests (calls, and items of batches and streams) by operation and model, from the first byte to the end of the \
         answer; error_type has the reason of a failure."
    );
    describe_histogram!(
        "gen_ai_server_time_to_first_token_seconds",
        Unit::Seconds,
        "Requests that were answered: until the first token, verdict or score, with the time in the queue."
    );
    describe_histogram!(
        "gen_ai_server_time_per_output_token_seconds",
        Unit::Seconds,
        "Requests that were answered with more than one token: time for each token after the first."
    );
}

/// Records a request of a method that asks something of a model.
pub(crate) fn record(request: &EndedRequest<'_>) {
    let EndedRequest { total, tally, .. } = *request;
    let Some(operation) = operation(request.method, tally) else {
        return;
    };
    let mut labels = vec![
        Label::from_static_parts("gen_ai_operation_name", operation),
        Label::from_static_parts("gen_ai_provider_name", PROVIDER),
    ];
    if let Some(model) = tally.first_model() {
        labels.push(Label::new("gen_ai_request_model", model.to_owned()));
    }
    let is_answered = request.code == Code::Ok;
    // Several sequences have several first tokens.
    if let (true, true, Some(first)) = (is_answered, tally.has_one_sequence(), tally.first_token()) {
        histogram!("gen_ai_server_time_to_first_token_seconds", labels.clone()).record(first);
        let later = tally.answer_tokens().saturating_sub(1);
        if later > 0 {
            let each = total.saturating_sub(first).as_secs_f64() / later as f64;
            histogram!("gen_ai_server_time_per_output_token_seconds", labels.clone()).record(each);
        }
    }
    if !is_answered {
        let error = request.reason.map_or(code_name(request.code), Reason::name);
        labels.push(Label::from_static_parts("error_type", error));
    }
    histogram!("gen_ai_server_request_duration_seconds", labels).record(total);
}

/// What a method asks of a model; `None` if it asks nothing. The first two are names of the conventions.
fn operation(method: Method, tally: &Tally) -> Option<&'static str> {
    match method {
        Method::Generate | Method::GenerateStream if tally.is_completion() => Some("text_completion"),
        Method::Generate | Method::GenerateStream => Some("chat"),
        Method::Classify
        | Method::BatchClassify
        | Method::ClassifyStream
        | Method::GuardStream
        | Method::ClassifyRenderings
        | Method::FindEvidence => Some("classify"),
        Method::Score | Method::ScoreStream => Some("score"),
        Method::EstimateQuality => Some("estimate_quality"),
        Method::ListPolicies
        | Method::ListModels
        | Method::GetModel
        | Method::WatchModels
        | Method::CountTokens
        | Method::GetServerStats
        | Method::LoadModel
        | Method::UnloadModel
        | Method::PinModel
        | Method::EstimateModel => None,
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// The series that requests leave behind.
    fn series(requests: &[EndedRequest<'_>]) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || requests.iter().for_each(record));
        recorder.handle().render()
    }

    fn answered(tokens: u64) -> Tally {
        let mut tally = Tally::default();
        tally.add_model("smol");
        tally.add_sequence(10);
        tally.note_first_token(Duration::from_millis(500));
        for _ in 0..tokens {
            tally.add_answer_token();
        }
        tally
    }

    fn request(method: Method, code: Code, tally: &Tally) -> EndedRequest<'_> {
        EndedRequest {
            method,
            code,
            reason: None,
            total: Duration::from_millis(2500),
            tally,
        }
    }

    const LABELS: &str =
        "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"babelward\",gen_ai_request_model=\"smol\"";

    #[test]
    fn an_answer_has_a_duration_a_first_token_and_a_time_for_each_later_one() {
        let tally = answered(5);
        let text = series(&[request(Method::Generate, Code::Ok, &tally)]);
        for (name, seconds) in [
            ("request_duration", 2.5),
            ("time_to_first_token", 0.5),
            ("time_per_output_token", 0.5),
        ] {
            let sum = format!("gen_ai_server_{name}_seconds_sum{{{LABELS}}} {seconds}");
            assert!(text.lines().any(|line| line == sum), "{sum} is not in\n{text}");
        }
    }

    #[test]
    fn a_verdict_of_one_token_has_no_time_for_later_ones() {
        let tally = answered(1);
        let text = series(&[request(Method::Classify, Code::Ok, &tally)]);
        assert!(text.contains("gen_ai_operation_name=\"classify\""));
        assert!(text.contains("gen_ai_server_time_to_first_token_seconds"));
        assert!(!text.contains("gen_ai_server_time_per_output_token_seconds"));
    }

    #[test]
    fn a_failure_has_a_duration_and_a_type_alone() {
        let tally = answered(5);
        let failed = EndedRequest {
            reason: Some(Reason::QueueFull),
            ..request(Method::Generate, Code::ResourceExhausted, &tally)
        };
        let text = series(&[failed, request(Method::Generate, Code::Cancelled, &tally)]);
        for error in ["QUEUE_FULL", "CANCELLED"] {
            let count =
                format!("gen_ai_server_request_duration_seconds_count{{{LABELS},error_type=\"{error}\"}} 1");
            assert!(text.contains(&count), "{count} is not in\n{text}");
        }
        assert!(!text.contains("token_seconds"), "{text}");
    }

    #[test]
    fn calls_that_ask_nothing_of_a_model_are_no_requests() {
        let tally = Tally::default();
        assert_eq!(series(&[request(Method::ListModels, Code::Ok, &tally)]), "");
    }
}
