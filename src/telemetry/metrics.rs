//! Prometheus metrics: descriptions of the server's metrics, and the buckets of all histograms.
//!
//! The engine describes its own metrics where it records them.

use std::{net::SocketAddr, time::Duration};

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tokio::time::{MissedTickBehavior, interval};

use super::metrics_port::{self, MetricsOptions};

/// Time between two compactions of the histograms, so that their data does not grow between two readings.
const UPKEEP: Duration = Duration::from_secs(5);

/// Buckets of times in seconds, from one step of a small model to the deadline of a slow call.
const SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
];

/// Buckets of the times in seconds that planning takes for a step, far below the times of steps.
const SCHEDULING: [f64; 12] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.1, 1.0,
];

/// Buckets of the sequences in a step.
const SEQUENCES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Buckets of relative errors.
const ERRORS: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];
/// Buckets that OpenTelemetry's conventions for generative AI prescribe, in seconds, by metric.
const GEN_AI: [(&str, &[f64]); 3] = [
    (
        "gen_ai_server_request_duration_seconds",
        &[
            0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
        ],
    ),
    (
        "gen_ai_server_time_to_first_token_seconds",
        &[
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ],
    ),
    (
        "gen_ai_server_time_per_output_token_seconds",
        &[
            0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
        ],
    ),
];

/// Buckets of the tokens in a step.
const TOKENS: [f64; 12] = [
    1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
];

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be used.
    #[error("metrics cannot be served on {listen}: {reason}; choose another --metrics-listen, or off")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The exporter could not be set up.
    #[error("metrics cannot be served on {listen}: {reason}; choose another --metrics-listen, or off")]
    Exporter {
        /// The address.
        listen: SocketAddr,
        /// The error of the exporter.
        reason: BuildError,
    },
}

/// Serves `/metrics`, `/healthz` and `/livez` on this address until the process ends, and records metrics from now on. It needs a tokio runtime and is
/// called once. Returns the address with the actual port if the given one is 0.
pub fn serve_metrics(listen: SocketAddr, options: MetricsOptions) -> Result<SocketAddr, MetricsError> {
    let socket = |reason| MetricsError::Listen { listen, reason };
    let listener = metrics_port::bind(listen).map_err(socket)?;
    let address = listener.local_addr().map_err(socket)?;
    let handle = builder()
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|reason| MetricsError::Exporter { listen, reason })?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let refresh = options.refresh.clone();
    tokio::spawn(metrics_port::serve(listener, options, move || {
        refresh.call();
        handle.render()
    }));
    Ok(address)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, bounds) in GEN_AI {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
    }
    builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(
            Matcher::Full("babelward_scheduling_seconds".to_owned()),
            &SCHEDULING,
        )?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), &SEQUENCES)?
        .set_buckets_for_metric(Matcher::Suffix("_forecast_error".to_owned()), &ERRORS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_tokens".to_owned()), &TOKENS)
}

/// Describes the server's metrics.
fn describe() {
    describe_gauge!(
        "babelward_connections",
        Unit::Count,
        "Open connections of the gRPC port."
    );
    describe_counter!(
        "babelward_connections_refused_total",
        Unit::Count,
        "Connections that were refused because all open connections had calls."
    );
    describe_counter!(
        "babelward_tls_failures_total",
        Unit::Count,
        "Connections of the gRPC listeners with which no TLS came about."
    );
    describe_gauge!(
        "babelward_tls_certificate_seconds_left",
        Unit::Seconds,
        "Time until the server's certificate ends; negative once it has ended."
    );
    describe_counter!(
        "babelward_auth_refused_total",
        Unit::Count,
        "Calls, and readings of the metrics, that were refused for their credential, by reason: missing, malformed, \
         unknown, expired, not_yet_valid, issuer, audience, claims, or scope."
    );
    describe_counter!(
        "babelward_quota_refused_total",
        Unit::Count,
        "Requests that were beyond their tenant's quota, by kind: requests or tokens."
    );
    describe_counter!(
        "babelward_door_passed_without_verdict_total",
        Unit::Count,
        "Texts that guardrail callers of the HTTP port were told to pass although there was no verdict, by door."
    );
    describe_counter!(
        "babelward_reloads_total",
        Unit::Count,
        "Changed files of certificates and credentials, by outcome: replaced, or kept where the new content was wrong."
    );
    describe_counter!(
        "babelward_requests_total",
        Unit::Count,
        "Calls by method and status code."
    );
    describe_counter!(
        "babelward_items_total",
        Unit::Count,
        "Items of streams and batches by method and status code."
    );
    describe_histogram!(
        "babelward_request_seconds",
        Unit::Seconds,
        "From a call's headers to its last byte, by method."
    );
    describe_counter!(
        "babelward_cancelled_total",
        Unit::Count,
        "Calls and items whose client was gone before the answer, by method."
    );
    describe_counter!(
        "babelward_deadline_exceeded_total",
        Unit::Count,
        "Calls and items whose deadline passed, by stage: queue, prefill, decode."
    );
    describe_gauge!(
        "babelward_texts_in_work",
        Unit::Count,
        "Texts that are being turned into tokens."
    );
    describe_gauge!(
        "babelward_texts_waiting",
        Unit::Count,
        "Texts that wait for memory or a thread to be turned into tokens."
    );
    describe_counter!(
        "babelward_spans_total",
        Unit::Count,
        "Spans of traces, by outcome: exported; failed, because the collector did not take them; queue_full, because it \
         takes them too slowly; too_late, because the server had drained. All but the first are dropped."
    );
    describe_counter!(
        "babelward_decisions_total",
        Unit::Count,
        "Decisions about verdicts, by policy with its version, by action (allow, flag, block), and by role: deciding, or shadow, \
         which is only told."
    );
    describe_counter!(
        "babelward_guard_stream_looks_total",
        Unit::Count,
        "Looks at growing texts, by outcome: passed, unsafe, undetermined, failed."
    );
    describe_counter!(
        "babelward_guard_stream_ended_total",
        Unit::Count,
        "Growing texts that have ended, by reason: complete, policy, guard_failed, deadline, limit, cancelled, draining; \
         refused for a wrong message. unguarded is true where text was released that the guard had failed to judge."
    );
    describe_counter!(
        "babelward_verdicts_total",
        Unit::Count,
        "Verdicts by guard and label: safe, unsafe, undetermined."
    );
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Names that follow one of these macros in any of our sources.
    fn names_after(macros: &[&str]) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let source = fs::read_to_string(path).unwrap();
                    for name in macros {
                        collect(&source, &format!("{name}!("), &mut names);
                    }
                }
            }
        }
        names
    }

    fn collect(source: &str, call: &str, names: &mut BTreeSet<String>) {
        for (position, _) in source.match_indices(call) {
            let before = source[..position].chars().next_back();
            let argument = source[position + call.len()..].trim_start();
            if before != Some('_')
                && let Some(name) = argument.strip_prefix('"').and_then(|rest| rest.split('"').next())
                && (name.starts_with("babelward_") || name.starts_with("gen_ai_"))
            {
                names.insert(name.to_owned());
            }
        }
    }

    #[test]
    fn every_recorded_metric_is_described_and_every_described_one_is_recorded() {
        let recorded = names_after(&["counter", "gauge", "histogram"]);
        let described = names_after(&["describe_counter", "describe_gauge", "describe_histogram"]);
        assert!(recorded.contains("babelward_requests_total"));
        assert_eq!(recorded, described);
    }

    #[test]
    fn times_and_batches_are_histograms_with_our_bounds() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            ::metrics::histogram!("test_seconds").record(0.3);
            ::metrics::histogram!("test_batch_size").record(5.0);
            ::metrics::histogram!("test_batch_tokens").record(600.0);
            ::metrics::histogram!("gen_ai_server_request_duration_seconds").record(0.3);
            ::metrics::histogram!("gen_ai_server_time_to_first_token_seconds").record(0.3);
            ::metrics::histogram!("gen_ai_server_time_per_output_token_seconds").record(0.35);
        });
        let text = handle.render();
        for line in [
            "test_seconds_bucket{le=\"0.25\"} 0",
            "test_seconds_bucket{le=\"0.5\"} 1",
            "test_batch_size_bucket{le=\"4\"} 0",
            "test_batch_size_bucket{le=\"8\"} 1",
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.16\"} 0",
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.32\"} 1",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.25\"} 0",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.5\"} 1",
            "gen_ai_server_time_per_output_token_seconds_bucket{le=\"0.3\"} 0",
            "gen_ai_server_time_per_output_token_seconds_bucket{le=\"0.4\"} 1",
            "test_batch_tokens_bucket{le=\"512\"} 0",
            "test_batch_tokens_bucket{le=\"1024\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
