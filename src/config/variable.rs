//! Names of environment variables that set keys.

use super::{Origin, Problem, ProblemKind, problem::closest, schema};

pub(super) const ENV_PREFIX: &str = "BABELWARD_";

/// Variables with our prefix that are not keys.
pub(super) const OTHER_VARIABLES: [&str; 9] = [
    "BABELWARD_CONFIG",
    "BABELWARD_CACHE",
    "BABELWARD_SERVER_URL",
    "BABELWARD_CA_FILE",
    "BABELWARD_CLIENT_CERT",
    "BABELWARD_CLIENT_KEY",
    "BABELWARD_TOKEN",
    "BABELWARD_TOKEN_FILE",
    "BABELWARD_INSECURE_PLAINTEXT_TOKEN",
];

/// Variables that all programs with OpenTelemetry read, with the keys that they set. A later one comes before an earlier one,
/// and our own variable before all of them.
pub(super) const OPENTELEMETRY_VARIABLES: [(&str, &str); 4] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "telemetry.otlp_ca_file"),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "telemetry.otlp_ca_file"),
];

pub(super) fn variable_of(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The problem with a variable that is no key.
pub(super) fn unknown_variable(name: &str) -> Problem {
    let known: Vec<String> = schema::KEYS.iter().map(|key| variable_of(key.name)).collect();
    let candidates = known.iter().map(String::as_str).chain(OTHER_VARIABLES);
    // The key alone, without its section.
    let own = name.strip_prefix(ENV_PREFIX);
    let mut keys = known.iter().map(String::as_str);
    let same_key = keys.find(|variable| variable.rsplit("__").next() == own);
    Problem {
        kind: ProblemKind::Value,
        key: name.to_owned(),
        origin: Some(Origin::Env(name.to_owned())),
        reason: "no such key".to_owned(),
        fix: match same_key.or_else(|| closest(name, candidates)) {
            Some(candidate) => format!("did you mean {candidate}?"),
            None => format!("unset it, or name a key such as {ENV_PREFIX}SERVER__LISTEN"),
        },
    }
}
